//! What PostgreSQL may see of `archive-get` and `archive-push`, whatever happens to them.
//!
//! PostgreSQL takes the codes 1 to 125 of a restore_command for the end of the WAL and promotes, and
//! above 125 it stops; an archive_command above 125 restarts the archiver uncounted. A panic is 101,
//! a usage error 2. So the fate of the process is decided from the raw arguments, before they are
//! parsed: 200 for `archive-get`, 1 for `archive-push`. Only the command itself lowers it.

use std::ffi::{OsStr, OsString};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};
use signal_hook::flag;

use super::output;
use crate::pg::WalFileName;

/// Which rules a process's exit follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// A restore_command: 0, 1, 143 or 200.
    ArchiveGet,
    /// An archive_command: 0 or 1.
    ArchivePush,
    /// A person or a script: [`super::exit::Exit`].
    Ordinary,
}

/// How an archive command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The file is where it should be, durably.
    Done,
    /// `archive-get` only: no repository has the file, and nothing needs it.
    ProvenAbsent,
    /// `archive-get` only: nothing is known, but a standby that is not being promoted goes on.
    StandbyGoesOn,
    /// Anything else.
    Unknown,
}

const GET: &str = "archive-get";
const PUSH: &str = "archive-push";
/// The subcommands; a test holds this to what the parser knows.
pub const COMMANDS: [&str; 17] = [
    "init",
    "check",
    "backup",
    PUSH,
    GET,
    "restore",
    "adopt",
    "info",
    "expire",
    "pin",
    "unpin",
    "wal",
    "repository",
    "key",
    "daemon",
    "drain",
    "help",
];
/// Global flags that take a value as the next argument; held to the parser likewise.
pub const FLAGS_WITH_VALUE: [&str; 6] =
    ["--config", "--cluster", "--repository", "--log-level", "--log-format", "--color"];

impl Fate {
    /// The fate of a command line, program name included.
    ///
    /// Where the line makes no sense, one that looks like a restore_command counts as one: it names
    /// `archive-get` somewhere, or has a whole argument that is the name of a WAL file.
    #[must_use]
    pub fn of(arguments: &[OsString]) -> Self {
        let arguments = arguments.get(1..).unwrap_or_default();
        let is = |argument: &OsString, word: &str| argument.as_os_str() == OsStr::new(word);
        match subcommand(arguments) {
            Some(word) if word == OsStr::new(GET) => Self::ArchiveGet,
            Some(word) if word == OsStr::new(PUSH) => Self::ArchivePush,
            Some(word) if COMMANDS.iter().any(|known| word == OsStr::new(known)) => Self::Ordinary,
            _ if arguments.iter().any(|argument| is(argument, GET)) => Self::ArchiveGet,
            _ if arguments.iter().any(|argument| is(argument, PUSH)) => Self::ArchivePush,
            _ if arguments.iter().any(names_wal) => Self::ArchiveGet,
            _ => Self::Ordinary,
        }
    }

    /// The exit code for an outcome.
    #[must_use]
    pub fn code(self, outcome: Outcome) -> u8 {
        match (self, outcome) {
            (_, Outcome::Done) => 0,
            (Self::ArchiveGet, Outcome::ProvenAbsent | Outcome::StandbyGoesOn) => 1,
            (Self::ArchiveGet, Outcome::Unknown) => 200,
            (Self::ArchivePush | Self::Ordinary, _) => 1,
        }
    }
}

fn names_wal(argument: &OsString) -> bool {
    WalFileName::parse(argument.as_encoded_bytes()).is_ok()
}

/// The first word that is neither a known global flag nor its value; nothing when something unknown
/// stands before it, since then nobody can tell a value from a word.
fn subcommand(arguments: &[OsString]) -> Option<&OsStr> {
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        let bytes = argument.as_encoded_bytes();
        if !bytes.starts_with(b"-") {
            return Some(argument);
        }
        let name = bytes.split(|byte| *byte == b'=').next().unwrap_or_default();
        if !FLAGS_WITH_VALUE.iter().any(|flag| flag.as_bytes() == name) {
            return None;
        }
        if name.len() == bytes.len() {
            rest.next();
        }
    }
    None
}

/// Panics are told without panicking: the hook that the library brings prints with eprintln!, which
/// panics itself when stderr is full.
pub fn quiet_panics() {
    std::panic::set_hook(Box::new(|panic| {
        output::to_stderr(&format!("error: internal error: {panic}\n"));
    }));
}

/// Runs an archive command so that every way out of it has an allowed code.
pub fn guarded(fate: Fate, run: impl FnOnce() -> Outcome) -> ExitCode {
    let caught = catch_unwind(AssertUnwindSafe(|| {
        if let Err(error) = die_by_signal(fate) {
            output::to_stderr(&format!("error: cannot watch for signals: {error}\n"));
            return Outcome::Unknown;
        }
        run()
    }));
    ExitCode::from(fate.code(caught.unwrap_or(Outcome::Unknown)))
}

/// A signal ends the process at once, with a code that PostgreSQL understands. Nothing is left to
/// tidy: temporary files are never mistaken for segments.
fn die_by_signal(fate: Fate) -> std::io::Result<()> {
    let unknown = i32::from(fate.code(Outcome::Unknown));
    let terminated = if fate == Fate::ArchiveGet { 143 } else { unknown };
    let always = Arc::new(AtomicBool::new(true));
    for (signal, code) in
        [(SIGTERM, terminated), (SIGINT, unknown), (SIGQUIT, unknown), (SIGHUP, unknown)]
    {
        flag::register_conditional_shutdown(signal, code, Arc::clone(&always))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fate(line: &str) -> Fate {
        let words = std::iter::once("pgkeep").chain(line.split_whitespace());
        Fate::of(&words.map(OsString::from).collect::<Vec<_>>())
    }

    #[test]
    fn f018_whatever_looks_like_a_restore_command_is_one() {
        for line in [
            "archive-get",
            "archive-get 000000010000000000000001 pg_wal/RECOVERYXLOG",
            "--config /x archive-get a b",
            "--config=/x --cluster main archive-get a b",
            "--cluster backup archive-get a b",
            "--config archive-get 000000010000000000000001 b",
            "--nonsense archive-get a b",
            "--nonsense backup archive-get a b",
            "-x archive-get",
            "nonsense archive-get",
            "archive_get 000000010000000000000001 pg_wal/RECOVERYXLOG",
            "00000002.history pg_wal/RECOVERYHISTORY",
            "--config",
        ] {
            let expected = if line == "--config" { Fate::Ordinary } else { Fate::ArchiveGet };
            assert_eq!(fate(line), expected, "{line}");
        }
    }

    #[test]
    fn other_commands_keep_their_own_codes() {
        for line in [
            "",
            "restore --target-name archive-get",
            "backup",
            "--cluster x info",
            "typo",
            "wal backfill --from 000000010000000000000001",
        ] {
            assert_eq!(fate(line), Fate::Ordinary, "{line}");
        }
        for line in ["archive-push pg_wal/000000010000000000000001", "--junk archive-push x"] {
            assert_eq!(fate(line), Fate::ArchivePush, "{line}");
        }
    }

    #[test]
    fn there_are_four_codes_and_two() {
        let all = [Outcome::Done, Outcome::ProvenAbsent, Outcome::StandbyGoesOn, Outcome::Unknown];
        assert_eq!(all.map(|outcome| Fate::ArchiveGet.code(outcome)), [0, 1, 1, 200]);
        assert_eq!(all.map(|outcome| Fate::ArchivePush.code(outcome)), [0, 1, 1, 1]);
        let panicked = guarded(Fate::ArchiveGet, || panic!("this panic is part of a test"));
        assert_eq!(format!("{panicked:?}"), format!("{:?}", ExitCode::from(200)));
    }
}
