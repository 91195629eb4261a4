//! Why a restore was refused, or failed.

use std::io;
use std::path::PathBuf;

use super::nearest::Nearest;
use crate::base::Cancelled;
use crate::pg::Lsn;
use crate::repo::Window;
use crate::{pg, repo};

/// Why a restore was refused, or failed; the directory cannot be started then.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The repository refused or failed.
    #[error(transparent)]
    Repository(#[from] repo::Error),
    /// No backup and WAL lead to the target.
    #[error("{what}")]
    Unreachable {
        /// What cannot be reached, and why.
        what: String,
        /// What to do, where that is more than to choose another target.
        hint: Option<String>,
        /// The nearest moments that can, before and after.
        nearest: Vec<Nearest>,
        /// All that can.
        windows: Vec<Window>,
    },
    /// The place to restore to is not empty, or a server runs on it.
    #[error("{} {why}", path.display())]
    Occupied {
        /// The directory.
        path: PathBuf,
        /// What is in the way.
        why: String,
    },
    /// The directory that a restore would go over holds WAL that the archive does not have.
    #[error(
        "{} has {} in its pg_wal, and the archive does not have {}",
        path.display(),
        files_of_wal(*count, first, last, written_last.as_deref()),
        if *count + u64::from(written_last.is_some()) == 1 { "it" } else { "them" }
    )]
    Unarchived {
        /// The data directory.
        path: PathBuf,
        /// How many whole files there are.
        count: u64,
        /// The first of them.
        first: String,
        /// The last of them.
        last: String,
        /// The segment that is not whole, into which the server wrote last.
        written_last: Option<String>,
    },
    /// Replay would make a tablespace in a directory that something else lives in.
    #[error(
        "recovery would meet the creation of tablespace {oid} at {lsn} in {}: {why}",
        location.display()
    )]
    Tablespace {
        /// Its oid.
        oid: u32,
        /// Where its record begins.
        lsn: Lsn,
        /// Its location.
        location: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// Options that contradict each other or the backup.
    #[error("{what}")]
    Refused {
        /// What does not fit.
        what: String,
    },
    /// A local file could not be written.
    #[error("{action} {}: {source}", path.display())]
    File {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The backup's own records do not fit together: a faulty writer.
    #[error("{}: {why}", String::from_utf8_lossy(path))]
    Content {
        /// The file in the backup.
        path: Vec<u8>,
        /// What does not fit.
        why: String,
    },
    /// Something of PostgreSQL's cannot be read or written.
    #[error("{what}: {source}")]
    Postgres {
        /// What.
        what: &'static str,
        /// What is wrong with it.
        #[source]
        source: pg::Error,
    },
    /// The work was interrupted.
    #[error(transparent)]
    Cancelled(#[from] Cancelled),
}

fn files_of_wal(count: u64, first: &str, last: &str, written_last: Option<&str>) -> String {
    let whole = match count {
        0 => None,
        1 => Some(first.to_owned()),
        _ => Some(format!("{count} files of WAL ({first} to {last})")),
    };
    let begun = written_last.map(|name| format!("{name}, into which its server wrote last,"));
    whole.into_iter().chain(begun).collect::<Vec<_>>().join(" and ")
}

/// The result of a call in this room.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// A target that cannot be reached; what can be is added by who knows it.
    pub(super) fn unreachable(what: String) -> Self {
        Self::Unreachable { what, hint: None, nearest: Vec::new(), windows: Vec::new() }
    }

    pub(super) fn file(
        action: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { action, path, source }
    }

    /// Whether something lies in cold storage that had to be read.
    #[must_use]
    pub fn is_cold(&self) -> bool {
        matches!(self, Self::Repository(repo::Error::Storage(crate::storage::Error::Cold { .. })))
    }

    /// Whether this is only the echo of a cancellation.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        matches!(self, Self::Cancelled(_) | Self::Repository(repo::Error::Cancelled(_)))
    }
}
