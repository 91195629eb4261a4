//! Why a backup was not taken.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use crate::base::Cancelled;
use crate::{pg, pgconn, repo};

/// Why a backup could not be planned, or failed; nothing of it is visible then.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The server refused, went away, or is not the right one.
    #[error(transparent)]
    Server(#[from] pgconn::Error),
    /// The repository refused or failed.
    #[error(transparent)]
    Repository(#[from] repo::Error),
    /// A file of the data directory could not be read.
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
    /// A file of the data directory does not hold what it should.
    #[error("{}: {source}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: pg::Error,
    },
    /// A symbolic link to a directory where PostgreSQL has none: what is behind it would be lost.
    #[error("{} is a symbolic link to a directory, which PostgreSQL does not use", path.display())]
    StrayLink {
        /// The link.
        path: PathBuf,
    },
    /// A tablespace's location lies inside the data directory.
    #[error(
        "tablespace {oid} lies inside the data directory, at {}: its files would be copied twice \
         and restored in the wrong place",
        location.display()
    )]
    TablespaceInside {
        /// Its oid.
        oid: u32,
        /// Where its link leads.
        location: PathBuf,
    },
    /// Something about server and repository does not fit.
    #[error("{what}")]
    Refused {
        /// What does not fit, and why that matters.
        what: String,
    },
    /// The server's blocks or segments have other sizes than what is archived: neither goes beside the other.
    #[error("{what}")]
    Sizes {
        /// Which, and which they were.
        what: String,
    },
    /// The backup on which this one was to stand does not fit, is missing or is damaged: a full needs none.
    #[error("{what}")]
    Parent {
        /// Which one, and why.
        what: String,
    },
    /// WAL that the backup needs did not come to the repository in time.
    #[error("segment {segment} did not arrive in the repository within {} s", waited.as_secs())]
    WalMissing {
        /// The first that is missing.
        segment: String,
        /// How long was waited.
        waited: Duration,
        /// What the server says about its archiver.
        archiver: String,
    },
    /// The work was interrupted.
    #[error(transparent)]
    Cancelled(#[from] Cancelled),
}

/// The result of a call in this room.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    pub(super) fn file(
        action: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { action, path, source }
    }

    /// Whether this is only the echo of a cancellation.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        matches!(
            self,
            Self::Cancelled(_)
                | Self::Server(pgconn::Error::Cancelled)
                | Self::Repository(repo::Error::Cancelled(_))
        )
    }
}
