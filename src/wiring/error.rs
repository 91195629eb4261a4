//! Why nothing could be assembled.

use crate::config;
use crate::repo::{self, SlotSummary};

/// Why nothing could be assembled.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The configuration or a secret.
    #[error(transparent)]
    Config(#[from] config::Error),
    /// The configured key file is missing, and the repository is there.
    #[error("repository {repository}: {source}")]
    NoKey {
        /// Its name in the configuration.
        repository: String,
        /// What the configuration room said.
        #[source]
        source: Box<config::Error>,
        /// The slots that the repository has.
        slots: Vec<SlotSummary>,
    },
    /// A repository refused or failed.
    #[error("repository {repository}: {source}")]
    Repository {
        /// Its name in the configuration.
        repository: String,
        /// What it said.
        #[source]
        source: repo::Error,
    },
    /// Nothing says which system identifier the cluster has.
    #[error("cannot tell the system identifier of cluster {cluster}: {why}")]
    UnknownSystem {
        /// The configured name.
        cluster: String,
        /// What was tried.
        why: String,
    },
    /// The configuration names no data directory.
    #[error("cluster.{cluster}.data_directory is not set")]
    NoDataDirectory {
        /// The configured name.
        cluster: String,
    },
}

impl Error {
    /// What one repository said.
    #[must_use]
    pub fn of_repository(name: &str, source: repo::Error) -> Self {
        at(name)(source)
    }

    /// Whether the same may succeed a moment later.
    #[must_use]
    pub fn may_pass(&self) -> bool {
        matches!(self, Self::Repository { source, .. } if source.may_pass())
    }

    /// Whether the repository is in order and does not know the cluster, or this epoch of it.
    #[must_use]
    pub fn is_unregistered(&self) -> bool {
        use repo::Error::{EpochAnnounced, NoCluster, NoEpoch};
        let Self::Repository { source, .. } = self else { return false };
        matches!(source, NoCluster { .. } | NoEpoch { .. } | EpochAnnounced { .. })
    }

    /// The epoch that has begun, and that the repository has not come to.
    #[must_use]
    pub fn announced_epoch(&self) -> Option<u32> {
        match self {
            Self::Repository { source: repo::Error::EpochAnnounced { epoch, .. }, .. } => {
                Some(*epoch)
            }
            _ => None,
        }
    }
}

/// The room's result.
pub type Result<T> = std::result::Result<T, Error>;

pub(super) fn at<E: Into<repo::Error>>(name: &str) -> impl FnOnce(E) -> Error {
    let repository = name.to_owned();
    move |source| Error::Repository { repository, source: source.into() }
}
