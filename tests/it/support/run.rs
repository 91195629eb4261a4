//! Running programs with a deadline and keeping all they said.
//!
//! Output goes to unnamed files rather than pipes: a program that leaves a daemon behind (pg_ctl)
//! would keep a pipe open for ever.

use std::fmt;
use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// Long enough for anything a test starts on a busy machine of two processors.
pub const DEADLINE: Duration = Duration::from_secs(120);
const POLL: Duration = Duration::from_millis(10);

/// A program that has ended, and what it said.
#[derive(Debug, Clone)]
pub struct Ran {
    /// The command line, for messages.
    pub command: String,
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
}

/// A program that runs; killed when dropped.
#[derive(Debug)]
pub struct Running {
    command: String,
    child: Child,
    stdout: File,
    stderr: File,
}

/// Runs a command to its end.
#[must_use]
pub fn run(command: &mut Command) -> Ran {
    start(command).wait()
}

/// Runs a command to its end with `input` on its stdin.
#[must_use]
pub fn run_with_input(command: &mut Command, input: &str) -> Ran {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(input.as_bytes()).unwrap();
    file.seek(SeekFrom::Start(0)).unwrap();
    run(command.stdin(file))
}

/// Starts a command; its stdin stays as it was set.
#[must_use]
pub fn start(command: &mut Command) -> Running {
    let stdout = tempfile::tempfile().unwrap();
    let stderr = tempfile::tempfile().unwrap();
    command.stdout(Stdio::from(stdout.try_clone().unwrap()));
    command.stderr(Stdio::from(stderr.try_clone().unwrap()));
    let text = format!("{command:?}");
    let child = command.spawn().unwrap_or_else(|error| panic!("cannot start {text}: {error}"));
    Running { command: text, child, stdout, stderr }
}

/// Polls `is_true` until it is, and panics with `explain`'s words when `deadline` passes first.
pub fn wait_until(
    deadline: Duration,
    mut is_true: impl FnMut() -> bool,
    explain: impl FnOnce() -> String,
) {
    let begin = Instant::now();
    while !is_true() {
        assert!(begin.elapsed() < deadline, "not within {deadline:?}: {}", explain());
        thread::sleep(POLL);
    }
}

impl Running {
    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// What it has written to stderr so far.
    pub fn stderr_so_far(&self) -> String {
        read_all(&self.stderr)
    }

    /// Waits for its end; past [`DEADLINE`] it is killed and the test fails.
    #[must_use]
    pub fn wait(self) -> Ran {
        self.wait_within(DEADLINE)
    }

    /// Waits for its end; past `deadline` it is killed and the test fails.
    #[must_use]
    pub fn wait_within(mut self, deadline: Duration) -> Ran {
        let begin = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            if begin.elapsed() >= deadline {
                self.child.kill().unwrap();
                let status = self.child.wait().unwrap();
                panic!("killed after {deadline:?}\n{}", self.ended(status));
            }
            thread::sleep(POLL.min(deadline));
        };
        self.ended(status)
    }

    fn ended(&self, status: ExitStatus) -> Ran {
        Ran {
            command: self.command.clone(),
            status,
            stdout: read_all(&self.stdout),
            stderr: read_all(&self.stderr),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            self.child.kill().ok();
            self.child.wait().ok();
        }
    }
}

impl Ran {
    /// Whether it exited with 0.
    #[must_use]
    pub fn is_ok(&self) -> bool {
        self.status.success()
    }

    /// Its exit code, or nothing when a signal ended it.
    #[must_use]
    pub fn code(&self) -> Option<i32> {
        self.status.code()
    }

    /// Fails the test, with everything it said, unless it exited with 0.
    #[track_caller]
    pub fn assert_ok(self) -> Self {
        assert!(self.is_ok(), "this should have succeeded\n{self}");
        self
    }

    /// Fails the test, with everything it said, unless it exited with `code`.
    #[track_caller]
    pub fn assert_code(self, code: i32) -> Self {
        assert_eq!(self.code(), Some(code), "this should have exited with {code}\n{self}");
        self
    }

    /// Fails the test unless stdout or stderr contains `text`.
    #[track_caller]
    pub fn assert_says(self, text: &str) -> Self {
        let is_said = self.stdout.contains(text) || self.stderr.contains(text);
        assert!(is_said, "this should have said {text:?}\n{self}");
        self
    }
}

impl fmt::Display for Ran {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { command, status, stdout, stderr } = self;
        write!(f, "command: {command}\n{status}\n--- stdout\n{stdout}\n--- stderr\n{stderr}")
    }
}

/// The whole file, read by position: the offset is shared with the program that may still write.
fn read_all(file: &File) -> String {
    let length = file.metadata().unwrap().len();
    let mut bytes = vec![0; usize::try_from(length).unwrap()];
    file.read_exact_at(&mut bytes, 0).unwrap();
    String::from_utf8_lossy(&bytes).into_owned()
}
