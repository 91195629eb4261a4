//! Why a copy could not be made.

use crate::base::Cancelled;
use crate::repo::{self, BackupId};
use crate::storage;

/// Why a copy could not be made, by what a caller does about it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// One of the two repositories, or its store, failed.
    #[error("repository {repository}: {source}")]
    Repository {
        /// Its name.
        repository: String,
        /// Why.
        source: repo::Error,
    },
    /// The data must stay in a legal area in which the target is not.
    #[error(
        "what repository {from} holds must stay in jurisdiction {jurisdiction}, and repository {to} is in {}: \
         nothing is copied there",
        .other.as_deref().map_or_else(|| "none that is configured".to_owned(), |other| format!("jurisdiction {other}"))
    )]
    Jurisdiction {
        /// The source's name.
        from: String,
        /// The target's name.
        to: String,
        /// Where the data must stay.
        jurisdiction: String,
        /// Where the target is.
        other: Option<String>,
    },
    /// Source and target are one repository.
    #[error("{from} and {to} are one and the same repository")]
    Same {
        /// The source's name.
        from: String,
        /// The target's name.
        to: String,
    },
    /// The target knows another cluster under this name, system identifier and epoch.
    #[error(
        "repository {to} has cluster {cluster} with other sizes of blocks or segments, or of another major version: \
         it is another history"
    )]
    OtherCluster {
        /// The target's name.
        to: String,
        /// The cluster.
        cluster: String,
    },
    /// The backup that was named, or one on which it stands, cannot be copied.
    #[error("backup {id} cannot be copied: {why}")]
    LeftOut {
        /// Which.
        id: BackupId,
        /// Why.
        why: String,
    },
}

impl Error {
    /// That a repository failed.
    pub(super) fn of(repository: &str) -> impl Fn(repo::Error) -> Self + Copy + '_ {
        move |source| Self::Repository { repository: repository.to_owned(), source }
    }

    /// Whether a backup is gone, or goes, by no fault of anybody.
    pub(super) fn is_of_removal(&self) -> bool {
        let Self::Repository { source, .. } = self else { return false };
        matches!(source, repo::Error::NoBackup { .. } | repo::Error::Expiring { .. })
    }

    /// Whether the work was interrupted.
    #[must_use]
    pub fn is_interruption(&self) -> bool {
        matches!(self, Self::Repository { source: repo::Error::Cancelled(_), .. })
    }
}

impl From<Cancelled> for Error {
    fn from(cancelled: Cancelled) -> Self {
        Self::Repository { repository: String::new(), source: cancelled.into() }
    }
}

/// What a store says, as a repository's error.
pub(super) fn stored<T>(result: storage::Result<T>) -> repo::Result<T> {
    result.map_err(repo::Error::from)
}

/// The result of this room's calls.
pub type Result<T> = std::result::Result<T, Error>;
