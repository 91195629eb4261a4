//! Why a store refused or failed.
//!
//! A variant is what a caller branches on; everything else is [`Error::Io`] with its cause.

use super::ObjectKey;

/// Why a store refused or failed. A variant is what a caller branches on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The store itself said that there is no such object: proof of absence, never a guess.
    #[error("{key}: no such object")]
    NotFound {
        /// The name that was asked for.
        key: ObjectKey,
    },
    /// Put-if-absent found the name taken.
    #[error("{key}: the object exists already")]
    AlreadyExists {
        /// The name that is taken.
        key: ObjectKey,
    },
    /// The object ends before the range that was asked for.
    #[error("{key}: {wanted_end} bytes were expected, the object has {size}")]
    Short {
        /// The object.
        key: ObjectKey,
        /// Where the range was to end.
        wanted_end: u64,
        /// How long the object is.
        size: u64,
    },
    /// The store was opened for reading only.
    #[error("{operation} {key}: this store is opened for reading only")]
    ReadOnly {
        /// What was tried.
        operation: &'static str,
        /// On which object.
        key: ObjectKey,
    },
    /// Not allowed, now and in every later attempt with the same rights.
    #[error("{operation} {key}: permission denied")]
    Denied {
        /// What was tried.
        operation: &'static str,
        /// On which object (or prefix).
        key: String,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The store as a whole is not there (missing root folder, unknown bucket).
    #[error("{location}: there is no repository folder here")]
    NoStore {
        /// Where it was looked for.
        location: String,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// Everything else: whether the operation took effect is unknown.
    #[error("{operation} {key}: {source}")]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On which object (or prefix).
        key: String,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
}

impl Error {
    /// Whether the store proved that the object is not there.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::NotFound { .. })
    }

    /// Whether a put-if-absent found the name taken.
    #[must_use]
    pub fn is_already_exists(&self) -> bool {
        matches!(self, Self::AlreadyExists { .. })
    }
}

/// The result of a store's call.
pub type Result<T> = std::result::Result<T, Error>;
