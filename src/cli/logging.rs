//! The log on stderr, and the observer that turns events into progress or log lines.
//!
//! On a terminal: a bar with rate and time left. Elsewhere: a line every 30 seconds.

use std::io::IsTerminal as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tracing::level_filters::LevelFilter;

use super::args::{ColorWhen, Global, LogFormat, LogLevel};
use super::output::{QuietStderr, duration};
use crate::base::{ByteSize, Clock, Event, Observer, Stage, SystemClock};
use crate::wiring;

const LINE_EVERY: Duration = Duration::from_secs(30);

/// How to talk on stderr.
#[derive(Debug, Clone, Copy)]
pub struct Voice {
    /// What to log.
    pub level: LogLevel,
    /// In which form.
    pub format: LogFormat,
    /// Whether in colours.
    pub color: bool,
    /// Whether a person watches.
    pub is_terminal: bool,
}

impl Voice {
    /// What the flags and the environment ask for.
    #[must_use]
    pub fn new(global: &Global, default_level: LogLevel) -> Self {
        let is_terminal = std::io::stderr().is_terminal();
        let color = match global.color {
            ColorWhen::Always => true,
            ColorWhen::Never => false,
            ColorWhen::Auto => is_terminal && wiring::environment_allows_color(),
        };
        let level = global.log_level.unwrap_or(default_level);
        Self { level, format: global.log_format, color, is_terminal }
    }

    /// Begins to log. What was begun before stays.
    pub fn begin(self) {
        let builder = tracing_subscriber::fmt()
            .with_writer(|| QuietStderr)
            .with_max_level(filter(self.level))
            .with_ansi(self.color)
            .with_target(false)
            .log_internal_errors(false);
        match (self.format, self.is_terminal) {
            (LogFormat::Json, _) => builder.json().flatten_event(true).try_init().ok(),
            (LogFormat::Text, true) => builder.without_time().try_init().ok(),
            (LogFormat::Text, false) => builder.try_init().ok(),
        };
    }
}

fn filter(level: LogLevel) -> LevelFilter {
    match level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    }
}

/// Tells a person or a log what happens.
#[derive(Debug)]
pub struct Reporter {
    clock: SystemClock,
    has_bar: bool,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    bar: Option<ProgressBar>,
    bytes_total: u64,
    bytes: u64,
    files: u64,
    begun: Duration,
    last_line: Duration,
}

impl Reporter {
    /// With a bar only where a person reads text.
    #[must_use]
    pub fn new(voice: Voice) -> Arc<Self> {
        let has_bar = voice.is_terminal
            && voice.format == LogFormat::Text
            && !matches!(voice.level, LogLevel::Error | LogLevel::Warn);
        Arc::new(Self { clock: SystemClock::new(), has_bar, state: Mutex::default() })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn begin(&self, stage: Stage, bytes_total: u64) {
        let now = self.clock.monotonic();
        let mut state = self.state();
        if let Some(bar) = state.bar.take() {
            bar.finish_and_clear();
        }
        *state = State { bytes_total, begun: now, last_line: now, ..State::default() };
        if self.has_bar {
            state.bar = Some(bar(stage, bytes_total));
        } else {
            tracing::info!("{}", words(stage));
        }
    }

    fn advance(&self, bytes: u64, files: u64) {
        let now = self.clock.monotonic();
        let mut state = self.state();
        state.bytes += bytes;
        state.files += files;
        match &state.bar {
            Some(bar) => bar.inc(bytes),
            None if now.saturating_sub(state.last_line) >= LINE_EVERY => {
                state.last_line = now;
                tracing::info!("{}", state.line(now));
            }
            None => {}
        }
    }

    /// The bar gives way to the line and comes back below it.
    fn aside(&self, write: impl FnOnce()) {
        let bar = self.state().bar.clone();
        match bar {
            Some(bar) => bar.suspend(write),
            None => write(),
        }
    }
}

impl State {
    fn line(&self, now: Duration) -> String {
        let seconds = now.saturating_sub(self.begun).as_secs().max(1);
        let rate = self.bytes / seconds;
        let mut line = format!("{} files, {}", self.files, ByteSize(self.bytes));
        if self.bytes_total > 0 {
            line.push_str(&format!(" of {}", ByteSize(self.bytes_total)));
        }
        line.push_str(&format!(", {}/s", ByteSize(rate)));
        let left = self.bytes_total.saturating_sub(self.bytes).checked_div(rate);
        if let Some(left) = left.filter(|left| *left > 0) {
            line.push_str(&format!(", {} left", duration(left)));
        }
        line
    }
}

impl Observer for Reporter {
    fn event(&self, event: Event) {
        match event {
            Event::Begin { stage, bytes_total, .. } => self.begin(stage, bytes_total),
            Event::Advance { bytes, files } => self.advance(bytes, files),
            Event::End { .. } => {
                if let Some(bar) = self.state().bar.take() {
                    bar.finish_and_clear();
                }
            }
            Event::Step(what) => self.aside(|| tracing::debug!("{what}")),
            Event::Note(text) => self.aside(|| tracing::info!("{text}")),
            Event::Warning(text) => self.aside(|| tracing::warn!("{text}")),
        }
    }
}

fn words(stage: Stage) -> &'static str {
    match stage {
        Stage::StartCheckpoint => "waiting for the server's checkpoint",
        Stage::Scan => "looking at the data directory",
        Stage::Copy => "copying",
        Stage::WaitForWal => "waiting for WAL in the repository",
        Stage::Restore => "restoring",
        Stage::Sync => "making it durable",
        Stage::Tier => "moving packs to colder storage",
        Stage::Thaw => "asking for packs to be thawed",
        Stage::WaitForThaw => "waiting for packs to be thawed",
        Stage::Transfer => "copying between repositories",
    }
}

fn bar(stage: Stage, bytes_total: u64) -> ProgressBar {
    let (bar, template) = if bytes_total > 0 {
        let template =
            "{msg} [{bar:30}] {percent}% {bytes}/{total_bytes} {bytes_per_sec}, {eta} left";
        (ProgressBar::new(bytes_total), template)
    } else {
        (ProgressBar::no_length(), "{spinner} {msg} {elapsed}")
    };
    bar.set_draw_target(ProgressDrawTarget::stderr());
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style.progress_chars("=> "));
    }
    bar.set_message(words(stage));
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_rate_and_time_left() {
        let state = State { bytes: 30 << 20, bytes_total: 90 << 20, files: 7, ..State::default() };
        let line = state.line(Duration::from_secs(30));
        assert_eq!(line, "7 files, 30.0 MiB of 90.0 MiB, 1.0 MiB/s, 1 min left");
        let idle = State::default().line(Duration::ZERO);
        assert_eq!(idle, "0 files, 0 B, 0 B/s");
    }
}
