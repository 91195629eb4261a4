//! What runs by the clock: a thread for each job waits for its next moment and runs a command.
//!
//! A command is a process of its own. What it does, and how it ends, by a panic or for want of memory, is not the archiver's
//! matter; and what it promises, a lease say, is promised by the process that keeps it. It is told to end by the end of its
//! stdin, which comes also when the daemon is killed.
//!
//! No job runs beside itself: who is at it when the next moment comes goes on, and that moment is passed over. So are
//! those that come while there is no daemon.

use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use chrono_tz::Tz;

use super::protocol::{JobEnd, JobStatus};
use super::schedule::Schedule;
use crate::base::{Ctx, Timestamp, detached};

/// Between two looks at the clock, which may be put.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// What is to run by the clock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Job {
    /// What it does.
    pub name: String,
    /// For which cluster.
    pub cluster: String,
    /// When.
    pub schedule: Schedule,
    /// By the clock of which zone.
    pub zone: Tz,
    /// A program and its arguments. It ends in good order when its stdin does.
    pub command: Vec<OsString>,
}

/// Runs jobs.
#[derive(Debug)]
pub(super) struct Jobs {
    ctx: Ctx,
    /// What an exit code means.
    meaning: fn(i32) -> &'static str,
    each: Mutex<Vec<Arc<Turn>>>,
}

/// One job, whatever its schedule is at the moment.
#[derive(Debug)]
struct Turn {
    ctx: Ctx,
    meaning: fn(i32) -> &'static str,
    name: String,
    cluster: String,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// Nothing where it is not to run any more.
    job: Option<Job>,
    /// Whether a thread waits, or runs it.
    has_thread: bool,
    is_stopping: bool,
    /// What the clock showed last.
    seen: Option<Timestamp>,
    /// For which moment it is waited, if that is known: also that none comes.
    next: Option<Option<Timestamp>>,
    /// For which moment it ran last.
    ran_for: Option<Timestamp>,
    /// Since when it runs.
    running: Option<Timestamp>,
    /// Its end tells the process to end.
    stdin: Option<ChildStdin>,
    last: Option<JobEnd>,
}

impl Jobs {
    pub(super) fn begin(ctx: &Ctx, meaning: fn(i32) -> &'static str, jobs: Vec<Job>) -> Self {
        let begun = Self { ctx: ctx.clone(), meaning, each: Mutex::default() };
        begun.replace(jobs);
        begun
    }

    fn each(&self) -> MutexGuard<'_, Vec<Arc<Turn>>> {
        self.each.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// These from now on. One that runs goes on; it is waited for anew by what is said now.
    pub(super) fn replace(&self, jobs: Vec<Job>) {
        let mut each = self.each();
        each.retain(|turn| {
            let is_meant = |job: &Job| turn.is_of(job);
            let is_gone = !jobs.iter().any(is_meant);
            if is_gone {
                turn.set(None);
            }
            // Until its thread has ended nobody else may begin the same.
            !is_gone || turn.state().has_thread
        });
        for job in jobs {
            let known = each.iter().find(|turn| turn.is_of(&job)).cloned();
            let turn = known.unwrap_or_else(|| {
                let turn = Arc::new(Turn {
                    ctx: self.ctx.clone(),
                    meaning: self.meaning,
                    name: job.name.clone(),
                    cluster: job.cluster.clone(),
                    state: Mutex::default(),
                    changed: Condvar::new(),
                });
                each.push(Arc::clone(&turn));
                turn
            });
            turn.set(Some(job));
            turn.begin();
        }
    }

    /// Begins nothing more, and tells what runs to end.
    pub(super) fn stop(&self) {
        for turn in self.each().iter() {
            let mut state = turn.state();
            state.is_stopping = true;
            state.stdin = None;
            drop(state);
            turn.changed.notify_all();
        }
    }

    /// Waits until nothing runs, for no longer than this. What is left, in words.
    pub(super) fn finish(&self, limit: Duration) -> Vec<String> {
        let deadline = self.ctx.clock.monotonic() + limit;
        let turns = self.each().clone();
        let left = turns.iter().filter(|turn| {
            let mut state = turn.state();
            while state.running.is_some() {
                let left = deadline.saturating_sub(self.ctx.clock.monotonic());
                if left.is_zero() {
                    return true;
                }
                let waited = turn.changed.wait_timeout(state, left);
                state = waited.unwrap_or_else(PoisonError::into_inner).0;
            }
            false
        });
        left.map(|turn| turn.to_string()).collect()
    }

    pub(super) fn status(&self) -> Vec<JobStatus> {
        let turns = self.each().clone();
        let meant = turns.iter().filter(|turn| turn.state().job.is_some());
        meant.map(|turn| turn.status()).collect()
    }
}

impl std::fmt::Display for Turn {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} of cluster {}", self.name, self.cluster)
    }
}

impl Turn {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_of(&self, job: &Job) -> bool {
        self.name == job.name && self.cluster == job.cluster
    }

    fn set(&self, job: Option<Job>) {
        let mut state = self.state();
        state.job = job;
        state.next = None;
        drop(state);
        self.changed.notify_all();
    }

    fn begin(self: &Arc<Self>) {
        let mut state = self.state();
        if std::mem::replace(&mut state.has_thread, true) {
            return;
        }
        drop(state);
        let turn = Arc::clone(self);
        let begun = detached(move || {
            let ending = Ending(&turn);
            while let Some(job) = turn.wait() {
                turn.run(&job);
            }
            drop(ending);
        });
        if let Err(error) = begun {
            self.state().has_thread = false;
            self.ctx.warn(format!("{self} does not run by itself: no thread is left: {error}"));
        }
    }

    /// Waits for the next moment; nothing when it is not to run any more.
    fn wait(&self) -> Option<Job> {
        let mut state = self.state();
        loop {
            let Some(job) = state.job.clone().filter(|_| !state.is_stopping) else {
                // Said under the lock: who wants it again begins another thread.
                state.has_thread = false;
                return None;
            };
            let now = self.ctx.clock.now();
            if state.seen.is_some_and(|seen| now < seen) {
                state.next = None;
            }
            state.seen = Some(now);
            let find = || job.schedule.next_run(now, state.ran_for, job.zone);
            let next = state.next.unwrap_or_else(find);
            state.next = Some(next);
            let is_due = next.is_some_and(|next| next <= now);
            if is_due {
                (state.ran_for, state.next, state.running) = (next, None, Some(now));
                return Some(job);
            }
            let left = next.and_then(|next| (next - now).to_std().ok());
            let pause = left.map_or(LOOK_EVERY, |left| left.min(LOOK_EVERY));
            let waited = self.changed.wait_timeout(state, pause);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Runs it to its end.
    fn run(&self, job: &Job) {
        self.ctx.note(format!("{self} begins, as scheduled"));
        let outcome = start(&job.command).and_then(|mut child| {
            let stdin = child.stdin.take();
            let mut state = self.state();
            state.stdin = stdin.filter(|_| !state.is_stopping);
            drop(state);
            child.wait()
        });
        let (exit, outcome) = match outcome {
            Ok(status) => match status.code() {
                Some(code) => (Some(code), (self.meaning)(code).to_owned()),
                None => (None, status.to_string()),
            },
            Err(error) => (None, format!("cannot be run: {error}")),
        };
        match exit {
            Some(0) => self.ctx.note(format!("{self}: {outcome}")),
            Some(code) => self.ctx.warn(format!("{self}: {outcome} (exit code {code})")),
            None => self.ctx.warn(format!("{self}: {outcome}")),
        }
        let mut state = self.state();
        state.stdin = None;
        let ended = self.ctx.clock.now();
        let begun = state.running.take().unwrap_or(ended);
        state.last = Some(JobEnd { begun, ended, exit, outcome });
        drop(state);
        self.changed.notify_all();
    }

    fn status(&self) -> JobStatus {
        let state = self.state();
        JobStatus {
            job: self.name.clone(),
            cluster: self.cluster.clone(),
            next: state.next.flatten(),
            running_since: state.running,
            last: state.last.clone(),
        }
    }
}

/// A thread that panicked has said so; nobody waits for it, and a new configuration begins another one.
struct Ending<'a>(&'a Turn);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let mut state = self.0.state();
            (state.has_thread, state.running) = (false, None);
            drop(state);
            self.0.changed.notify_all();
        }
    }
}

/// Its log goes where the daemon's goes.
fn start(command: &[OsString]) -> std::io::Result<Child> {
    let (program, arguments) = command.split_first().ok_or(std::io::ErrorKind::InvalidInput)?;
    let mut command = Command::new(program);
    command.arg0("pgkeep").args(arguments).stdin(Stdio::piped()).stdout(Stdio::null()).spawn()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::{Clock as _, ManualClock};

    /// A shell that says what it was given, ends when its stdin does, and then exits with 7.
    fn job(name: &str, schedule: &str, script: &str) -> Job {
        let command = ["sh", "-c", script].map(OsString::from).to_vec();
        let schedule = Schedule::parse(schedule).unwrap();
        Job { name: name.into(), cluster: "main".into(), schedule, zone: Tz::UTC, command }
    }

    fn meaning(code: i32) -> &'static str {
        if code == 0 { "done" } else { "failed" }
    }

    struct Clocked {
        clock: Arc<ManualClock>,
        jobs: Jobs,
    }

    impl Clocked {
        fn begin(jobs: Vec<Job>) -> Self {
            let clock = Arc::new(ManualClock::new("2026-11-30T02:59:00Z".parse().unwrap()));
            let ctx = Ctx { clock: clock.clone(), ..Ctx::fixed(clock.now(), 1) };
            Self { clock, jobs: Jobs::begin(&ctx, meaning, jobs) }
        }

        fn only(&self) -> JobStatus {
            let mut status = self.jobs.status();
            assert_eq!(status.len(), 1, "{status:?}");
            status.remove(0)
        }

        #[track_caller]
        fn wait_until(&self, what: &str, is_true: impl Fn(&JobStatus) -> bool) -> JobStatus {
            for _ in 0..60_000 {
                let status = self.only();
                if is_true(&status) {
                    return status;
                }
                std::thread::sleep(Duration::from_millis(1));
            }
            panic!("never {what}: {:?}", self.only());
        }
    }

    #[test]
    fn a_job_runs_when_its_moment_comes_and_tells_how_it_ended() {
        let daily = job("expire", "0 0 3 * * *", "exit 7");
        let clocked = Clocked::begin(vec![daily]);
        let waits = clocked.wait_until("waiting", |status| status.next.is_some());
        assert_eq!(waits.next.unwrap(), "2026-11-30T03:00:00Z".parse::<Timestamp>().unwrap());
        assert_eq!((waits.running_since, waits.last), (None, None));
        clocked.clock.advance(Duration::from_secs(61));
        let ran =
            clocked.wait_until("run", |status| status.last.is_some() && status.next.is_some());
        let last = ran.last.unwrap();
        assert_eq!((last.exit, last.outcome.as_str()), (Some(7), "failed"));
        assert_eq!(ran.next.unwrap(), "2026-12-01T03:00:00Z".parse::<Timestamp>().unwrap());
        // Days that nobody looked at are one run.
        clocked.clock.advance(Duration::from_secs(5 * 86_400));
        let again = clocked.wait_until("run again", |status| {
            status.last.as_ref().is_some_and(|end| end.begun > last.begun) && status.next.is_some()
        });
        assert_eq!(again.next.unwrap(), "2026-12-06T03:00:00Z".parse::<Timestamp>().unwrap());
        let cannot =
            Job { command: vec!["/nowhere/at/all".into()], ..job("expire", "0 0 4 * * *", "") };
        clocked.jobs.replace(vec![cannot]);
        let four: Timestamp = "2026-12-05T04:00:00Z".parse().unwrap();
        clocked.wait_until("waiting", |status| status.next == Some(four));
        clocked.clock.advance(Duration::from_secs(86_400));
        let failed =
            |status: &JobStatus| status.last.as_ref().is_some_and(|end| end.exit.is_none());
        let last = clocked.wait_until("failed", failed).last.unwrap();
        assert!(last.outcome.starts_with("cannot be run: "), "{last:?}");
    }

    /// `cat` ends when its stdin does.
    #[test]
    fn what_runs_is_not_run_beside_itself_and_is_told_to_end() {
        let clocked = Clocked::begin(vec![job("expire", "0 * * * * *", "cat; exit 9")]);
        clocked.wait_until("waiting", |status| status.next.is_some());
        clocked.clock.advance(Duration::from_secs(60));
        let begun = clocked.wait_until("running", |status| status.running_since.is_some());
        clocked.clock.advance(Duration::from_secs(600));
        // Another schedule, none, and the first one again: it goes on.
        let other = job("expire", "0 0 * * * *", "cat; exit 9");
        clocked.jobs.replace(vec![other.clone()]);
        clocked.jobs.replace(vec![]);
        assert_eq!(clocked.jobs.status(), []);
        clocked.jobs.replace(vec![other]);
        assert_eq!(clocked.only().running_since, begun.running_since);
        assert_eq!(clocked.jobs.finish(Duration::ZERO), ["expire of cluster main"]);
        clocked.jobs.stop();
        assert_eq!(clocked.jobs.finish(Duration::from_secs(60)), Vec::<String>::new());
        let ended = clocked.only();
        assert_eq!(ended.last.unwrap().exit, Some(9));
        clocked.clock.advance(Duration::from_secs(7200));
        std::thread::sleep(2 * LOOK_EVERY);
        assert_eq!(clocked.only().running_since, None, "nothing begins any more");
    }
}
