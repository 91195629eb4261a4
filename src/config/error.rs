//! What can be wrong with the configuration, and what is merely worth a word.
//!
//! Messages name the file and line (or the variable, or the flag), the key, what is wrong and what
//! to do. They never show a value that may hold a secret.

use std::io;
use std::path::PathBuf;

use super::layers::Origin;
use super::passphrase_command::CommandFailure;
use crate::crypt;

/// The room's result.
pub type Result<T> = std::result::Result<T, Error>;

/// Why the configuration cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// There is no configuration file.
    #[error(
        "{path}: there is no such configuration file; write one, or name another with --config or \
         PGKEEP_CONFIG"
    )]
    MissingFile {
        /// Where it was looked for.
        path: PathBuf,
    },
    /// The configuration file is there but cannot be read.
    #[error("{path}: the configuration file cannot be read: {source}")]
    UnreadableFile {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The file is not TOML.
    #[error("{path} line {line} column {column}: not TOML: {why}")]
    Syntax {
        /// The file.
        path: PathBuf,
        /// The line, counted from 1.
        line: usize,
        /// The column, counted from 1.
        column: usize,
        /// What the parser said, without the text of the line.
        why: String,
    },
    /// A key that does not exist.
    #[error("{origin}: unknown key {key}; {hint}")]
    UnknownKey {
        /// Where it stands.
        origin: Origin,
        /// The key, with its section.
        key: String,
        /// The nearest known key, or all that are known there.
        hint: String,
    },
    /// A value that a key cannot have.
    #[error("{origin}: {key}: {why}")]
    InvalidValue {
        /// Where it stands.
        origin: Origin,
        /// The key, with its section.
        key: String,
        /// What is wrong and what is expected.
        why: String,
    },
    /// A variable that could mean several sections or keys.
    #[error("{origin} is ambiguous: it could mean {}; rename one of them", candidates.join(" or "))]
    AmbiguousVariable {
        /// The variable.
        origin: Origin,
        /// What it could mean.
        candidates: Vec<String>,
    },
    /// A key that must be there and is not.
    #[error("{file}: {key} is missing; {hint}")]
    MissingKey {
        /// The file that should have it.
        file: String,
        /// The key, with its section.
        key: String,
        /// What to write.
        hint: String,
    },
    /// Keys that exclude each other.
    #[error("{file}: {section}: {why}")]
    Conflict {
        /// The file.
        file: String,
        /// The section, or the sections' kind.
        section: String,
        /// Which keys, from where, and what to do.
        why: String,
    },
    /// No section of that name.
    #[error("{file} has no {kind} named {name:?}; it has {}", listed(candidates))]
    UnknownName {
        /// The file.
        file: String,
        /// `cluster` or `repository`.
        kind: &'static str,
        /// The name that was asked for.
        name: String,
        /// The names that there are.
        candidates: Vec<String>,
    },
    /// Several sections, and nothing says which is meant.
    #[error("{file} has more than one {kind}: name one with --{kind}: {}", listed(candidates))]
    Unselected {
        /// The file.
        file: String,
        /// `cluster` or `repository`.
        kind: &'static str,
        /// The names that there are.
        candidates: Vec<String>,
    },
    /// The key file does not exist; `init` may make it.
    #[error(
        "{origin}: {key} names {path}, which does not exist; put the key file there, or let pgkeep \
         init make one for a new repository"
    )]
    MissingKeyFile {
        /// Where the key stands.
        origin: Origin,
        /// The key, with its section.
        key: String,
        /// Where the file should be.
        path: PathBuf,
    },
    /// The key file's content is not a key.
    #[error("{path}: {source}; {key} ({origin}) must name the file that pgkeep init made")]
    InvalidKeyFile {
        /// Where the key stands.
        origin: Origin,
        /// The key, with its section.
        key: String,
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: crypt::Error,
    },
    /// A key file or passphrase file cannot be read.
    #[error(
        "{path}: {source}; {key} ({origin}) names this file, and pgkeep must be able to read it"
    )]
    UnreadableSecret {
        /// Where the key stands.
        origin: Origin,
        /// The key, with its section.
        key: String,
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// What a file, command or variable gave cannot be a passphrase, or the line that is meant.
    #[error("{origin}: {key}: {what} {why}")]
    InvalidPassphrase {
        /// Where the key stands.
        origin: Origin,
        /// The key, with its section.
        key: String,
        /// `the passphrase`, or `the line`.
        what: &'static str,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The passphrase command gave nothing.
    #[error("{origin}: {key}: the command {source}")]
    PassphraseCommand {
        /// Where the key stands.
        origin: Origin,
        /// The key, with its section.
        key: String,
        /// What happened.
        #[source]
        source: CommandFailure,
    },
}

/// Something to look at that stops nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Warning {
    /// A secret that others can read or change.
    OpenToOthers {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// A variable that looks as if it were meant for pgkeep, and is not.
    UnusedVariable {
        /// The variable.
        variable: String,
    },
    /// A variable that adds a section beside those of the file, with a name much like one of them.
    NewSection {
        /// The variable.
        variable: String,
        /// The section that it makes.
        section: String,
        /// The section that may be meant.
        nearest: String,
    },
}

impl std::fmt::Display for Warning {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::OpenToOthers { path, mode } => write!(
                f,
                "{}: others than its owner can read or change this secret (mode {mode:04o}); \
                 chmod 600 it",
                path.display()
            ),
            Self::UnusedVariable { variable } => write!(
                f,
                "environment variable {variable} is not used: sections, names and keys are \
                 separated by two underscores, as in PGKEEP_CLUSTER__MAIN__CONNECTION"
            ),
            Self::NewSection { variable, section, nearest } => write!(
                f,
                "environment variable {variable} adds {section}, which the file does not have; \
                 did you mean {nearest}?"
            ),
        }
    }
}

fn listed(candidates: &[String]) -> String {
    if candidates.is_empty() { "none".into() } else { candidates.join(", ") }
}
