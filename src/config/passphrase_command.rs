//! Runs the command that prints a passphrase: bounded in time and output, and never shown.
//!
//! The command is not part of any message, because it may hold a secret itself; what it wrote to
//! stderr is, because nothing else would explain a failure.

use std::io::{self, Read};
use std::mem;
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::fs::OFlags;
use rustix::process::{Pid, Signal};
use zeroize::Zeroizing;

use super::secret_source::SECRET_BYTES_MAX;
use crate::base::{Clock as _, Secret, SystemClock};

/// How long a command may take.
pub(super) const TIMEOUT: Duration = Duration::from_secs(30);
const STDERR_BYTES_SHOWN_MAX: usize = 1_000;
const READS_PER_TURN: usize = 64;
const POLL_EVERY: Duration = Duration::from_millis(5);

/// Why a passphrase command gave nothing.
#[derive(Debug, thiserror::Error)]
pub enum CommandFailure {
    /// The shell could not be started, or its output not be read.
    #[error("could not be run: {0}")]
    Io(#[from] io::Error),
    /// It ended with an error.
    #[error("failed ({status}); on stderr it said: {stderr}")]
    Failed {
        /// How it ended.
        status: ExitStatus,
        /// The end of what it wrote there, without control characters.
        stderr: String,
    },
    /// It was still running, and was killed.
    #[error("did not end within {} s and was killed; it must not wait for input", .0.as_secs())]
    Timeout(Duration),
    /// It printed more than a passphrase.
    #[error("printed more than {SECRET_BYTES_MAX} bytes, which is no passphrase")]
    TooLong,
}

/// What the command printed.
///
/// Whatever it left running in the background does not keep this from returning.
pub(super) fn run(command: &str, timeout: Duration) -> Result<Secret<Vec<u8>>, CommandFailure> {
    let mut child = Command::new("sh")
        .args(["-c", command])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn()?;
    let printed = collect(&mut child, timeout);
    if printed.is_err() {
        kill_group(&mut child)?;
    }
    printed
}

fn collect(child: &mut Child, timeout: Duration) -> Result<Secret<Vec<u8>>, CommandFailure> {
    let clock = SystemClock::new();
    let (Some(mut stdout), Some(mut stderr)) = (child.stdout.take(), child.stderr.take()) else {
        return Err(io::Error::other("it has no pipes").into());
    };
    set_nonblocking(&stdout)?;
    set_nonblocking(&stderr)?;
    // With its full size from the start the buffer never moves and leaves no copy behind.
    let mut printed = Zeroizing::new(Vec::with_capacity(SECRET_BYTES_MAX + 1));
    let mut said = Vec::new();
    loop {
        // Asked before reading: what was printed before the end is then all there to be read.
        let ended = child.try_wait()?;
        drain(&mut stdout, |bytes| {
            let room = SECRET_BYTES_MAX + 1 - printed.len();
            printed.extend_from_slice(&bytes[..bytes.len().min(room)]);
        })?;
        drain(&mut stderr, |bytes| {
            said.extend_from_slice(bytes);
            said.drain(..said.len().saturating_sub(STDERR_BYTES_SHOWN_MAX));
        })?;
        if printed.len() > SECRET_BYTES_MAX {
            return Err(CommandFailure::TooLong);
        }
        match ended {
            Some(status) if status.success() => return Ok(Secret::new(mem::take(&mut *printed))),
            Some(status) => return Err(CommandFailure::Failed { status, stderr: shown(&said) }),
            None if clock.monotonic() > timeout => return Err(CommandFailure::Timeout(timeout)),
            None => clock.sleep(POLL_EVERY),
        }
    }
}

fn set_nonblocking(pipe: &impl AsFd) -> io::Result<()> {
    let flags = rustix::fs::fcntl_getfl(pipe)?;
    Ok(rustix::fs::fcntl_setfl(pipe, flags | OFlags::NONBLOCK)?)
}

/// Reads what is there now, a bounded amount of it: a command that never stops writing must not
/// keep the caller from looking at the time.
fn drain(pipe: &mut impl Read, mut keep: impl FnMut(&[u8])) -> io::Result<()> {
    let mut buffer = Zeroizing::new([0; 4096]);
    for _ in 0..READS_PER_TURN {
        match pipe.read(&mut *buffer) {
            Ok(0) => break,
            Ok(size) => keep(&buffer[..size]),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Ends the command and what it started, unless it has ended: then its number may be another's.
fn kill_group(child: &mut Child) -> io::Result<()> {
    if child.try_wait()?.is_none() {
        rustix::process::kill_process_group(Pid::from_child(child), Signal::KILL)?;
        child.wait()?;
    }
    Ok(())
}

fn shown(said: &[u8]) -> String {
    let text = String::from_utf8_lossy(said);
    let plain: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    if plain.trim().is_empty() { "nothing".into() } else { plain.trim().into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(command: &str) -> Result<String, String> {
        let printed = run(command, Duration::from_secs(20)).map_err(|error| error.to_string())?;
        Ok(String::from_utf8(printed.expose().clone()).unwrap())
    }

    #[test]
    fn what_is_printed_is_returned() {
        assert_eq!(outcome("printf 'a b\\n'"), Ok("a b\n".into()));
        assert_eq!(outcome("cat"), Ok(String::new()), "there is no input");
        let noisy = outcome("head -c 300000 /dev/zero >&2; echo x");
        assert_eq!(noisy, Ok("x\n".into()), "much on stderr blocks nothing");
    }

    #[test]
    fn failures_say_what_stderr_said_and_not_the_secret() {
        let wrong = outcome("echo hunter2; printf 'no\\033such key\\n' >&2; exit 3").unwrap_err();
        assert!(wrong.contains("exit status: 3") && wrong.ends_with("no such key"), "{wrong}");
        assert!(!wrong.contains("hunter2"));
        assert!(outcome("exit 1").unwrap_err().ends_with("said: nothing"));
        assert!(outcome("kill -9 $$").unwrap_err().contains("signal: 9"));
    }

    #[test]
    fn endless_commands_are_ended() {
        let short = Duration::from_millis(50);
        for command in ["sleep 600", "sleep 600 | sleep 600", "while :; do echo x >&2; done"] {
            let wrong = run(command, short).unwrap_err();
            assert!(matches!(wrong, CommandFailure::Timeout(_)), "{command}: {wrong}");
        }
        assert!(matches!(run("yes", short), Err(CommandFailure::TooLong)));
    }

    #[test]
    fn what_stays_in_the_background_is_not_waited_for() {
        assert_eq!(outcome("echo x; sleep 15 &"), Ok("x\n".into()));
    }
}
