//! The only writer to stdout, and the writer to stderr that cannot fail.
//!
//! stdout is the result, stderr the log and the progress. A closed or full stderr is no reason to
//! fail, and must never be one to panic: `eprintln!` is not used anywhere.

use std::io::{self, Write};

use chrono::Timelike as _;

use super::error::Failure;
use crate::base::Timestamp;

/// Writes a result, with a line end.
///
/// # Errors
/// When stdout is full. A reader that went away (a pager, `head`) has all that it wanted.
#[allow(clippy::print_stdout, reason = "this is the one place")]
pub fn print(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    let ending = if text.ends_with('\n') { "" } else { "\n" };
    match out
        .write_all(text.as_bytes())
        .and_then(|()| out.write_all(ending.as_bytes()))
        .and_then(|()| out.flush())
    {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::failed(format!("cannot write to stdout: {error}")))
        }
        _ => Ok(()),
    }
}

/// Writes a result as indented JSON.
///
/// # Errors
/// As [`print`].
pub fn print_json(value: &impl serde::Serialize) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(value)
        .map_err(|error| Failure::failed(format!("cannot write JSON: {error}")))?;
    print(&text)
}

/// Writes to stderr as far as that is possible.
pub fn to_stderr(text: &str) {
    io::stderr().lock().write_all(text.as_bytes()).ok();
}

/// stderr for libraries that would panic or complain when it fails.
#[derive(Debug, Clone, Copy, Default)]
pub struct QuietStderr;

impl Write for QuietStderr {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        io::stderr().lock().write_all(bytes).ok();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A moment for people: to the second, with its zone.
#[must_use]
pub fn moment(time: Timestamp) -> String {
    time.format("%Y-%m-%d %H:%M:%S UTC").to_string()
}

/// A moment to the microsecond, so that typing it back means the same moment.
#[must_use]
pub fn exact_moment(time: Timestamp) -> String {
    time.format("%Y-%m-%d %H:%M:%S%.6f UTC").to_string()
}

/// Two moments that may be typed back: both lie between the given ones.
#[must_use]
pub fn span(from: Timestamp, to: Timestamp) -> (String, String) {
    let begins_within = from.timestamp_subsec_nanos() > 0;
    let up = from + chrono::TimeDelta::seconds(i64::from(begins_within));
    let up = up.with_nanosecond(0).unwrap_or(up);
    let down = to.with_nanosecond(0).unwrap_or(to);
    if up <= down { (moment(up), moment(down)) } else { (exact_moment(from), exact_moment(to)) }
}

/// A number with its noun.
#[must_use]
pub fn counted(count: usize, noun: &str) -> String {
    if count == 1 { format!("1 {noun}") } else { format!("{count} {noun}s") }
}

/// A length of time for people: its two greatest units.
#[must_use]
pub fn duration(seconds: u64) -> String {
    let units = [(86_400, "d"), (3_600, "h"), (60, "min"), (1, "s")];
    let mut rest = seconds;
    let mut parts = Vec::new();
    for (size, unit) in units {
        if rest >= size && parts.len() < 2 {
            parts.push(format!("{} {unit}", rest / size));
            rest %= size;
        } else if !parts.is_empty() {
            break;
        }
    }
    if parts.is_empty() { "0 s".into() } else { parts.join(" ") }
}

/// The seconds from one moment to another; none when the clock went back.
#[must_use]
pub fn seconds_between(from: Timestamp, to: Timestamp) -> u64 {
    u64::try_from((to - from).num_seconds()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown_can_be_typed_back() {
        let time = |text: &str| text.parse::<Timestamp>().unwrap();
        let (from, to) = span(time("2026-11-20T02:00:00.25Z"), time("2026-11-20T03:00:00.75Z"));
        assert_eq!(
            (from.as_str(), to.as_str()),
            ("2026-11-20 02:00:01 UTC", "2026-11-20 03:00:00 UTC")
        );
        let (from, to) = span(time("2026-11-20T02:00:00.25Z"), time("2026-11-20T02:00:00.75Z"));
        assert_eq!(from, "2026-11-20 02:00:00.250000 UTC");
        assert_eq!(to, "2026-11-20 02:00:00.750000 UTC");
        assert_eq!((counted(1, "hole"), counted(2, "hole")), ("1 hole".into(), "2 holes".into()));
    }

    #[test]
    fn durations_have_two_units_at_most() {
        for (seconds, shown) in
            [(0, "0 s"), (59, "59 s"), (60, "1 min"), (3_661, "1 h 1 min"), (86_405, "1 d")]
        {
            assert_eq!(duration(seconds), shown);
        }
    }
}
