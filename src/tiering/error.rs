//! Why packs could not be moved or thawed.

use crate::base::Cancelled;
use crate::repo;
use crate::storage::{self, StorageClass, ThawSpeed};

/// Why packs could not be moved or thawed, by what a caller does about it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The repository, or its store, failed.
    #[error(transparent)]
    Repo(#[from] repo::Error),
    /// The store is one in which all objects are alike.
    #[error(
        "{location}: a repository of this kind has no storage classes, so nothing can move: tiering \
         needs a bucket (an s3:// url)"
    )]
    NoClasses {
        /// The repository.
        location: String,
    },
    /// What is waited for is not there any more.
    #[error("{packs} packs are not there any more: they were removed while they were waited for")]
    Gone {
        /// How many.
        packs: u64,
    },
    /// It takes much longer than such a thaw should.
    #[error("{packs} packs are not thawed yet, much later than they should be")]
    NotThawed {
        /// How many.
        packs: u64,
    },
    /// A class has no thaw of that speed.
    #[error(
        "{class} knows no {speed} thaw; it knows {}",
        .known.iter().map(ToString::to_string).collect::<Vec<_>>().join(" and ")
    )]
    NoSpeed {
        /// The class.
        class: StorageClass,
        /// What was asked for.
        speed: ThawSpeed,
        /// What there is.
        known: Vec<ThawSpeed>,
    },
}

impl From<storage::Error> for Error {
    fn from(error: storage::Error) -> Self {
        Self::Repo(error.into())
    }
}

impl From<Cancelled> for Error {
    fn from(cancelled: Cancelled) -> Self {
        Self::Repo(cancelled.into())
    }
}

/// The result of this room's calls.
pub type Result<T> = std::result::Result<T, Error>;
