//! Why a store refused or failed.
//!
//! A variant is what a caller branches on; everything else is [`Error::Io`] with its cause.

use super::ObjectKey;
use crate::base::Timestamp;

/// What a service, or the way to it, said.
pub type Cause = Box<dyn std::error::Error + Send + Sync>;

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
    /// A service refused, now and in every later attempt with the same rights.
    #[error("{operation} {key}: {action} on {resource} was refused ({source})")]
    Forbidden {
        /// What was tried.
        operation: &'static str,
        /// On which object (or prefix).
        key: String,
        /// What a policy would have to allow.
        action: &'static str,
        /// On what.
        resource: String,
        /// What the service said.
        #[source]
        source: Cause,
    },
    /// There are no credentials, or the service does not accept them.
    #[error("{location}: the credentials do not do: {source}")]
    Credentials {
        /// The store.
        location: String,
        /// What was said.
        #[source]
        source: Cause,
    },
    /// This host's clock and the service's are too far apart for a signature.
    #[error("{location}: this host's clock is {seconds} s {side} the service's")]
    Clock {
        /// The store.
        location: String,
        /// How far.
        seconds: u64,
        /// `ahead of` or `behind`.
        side: &'static str,
    },
    /// The bucket is in another region.
    #[error("{location}: the bucket is in {found}, not in {wanted}")]
    Region {
        /// The store.
        location: String,
        /// The region that was meant.
        wanted: String,
        /// The region that the service named, or `another region`.
        found: String,
    },
    /// The object is in a storage class that cannot be read at once.
    #[error("{key}: the object is in cold storage")]
    Cold {
        /// The object.
        key: ObjectKey,
    },
    /// Nobody may remove the object yet.
    #[error("{operation} {key}: the object is locked{}", until_text(*until))]
    Locked {
        /// What was tried.
        operation: &'static str,
        /// The object.
        key: ObjectKey,
        /// When the lock ends, where that was told.
        until: Option<Timestamp>,
    },
    /// The object is not the one that was meant: it was replaced.
    #[error("{operation} {key}: it is another object now ({source})")]
    Changed {
        /// What was tried.
        operation: &'static str,
        /// The object.
        key: ObjectKey,
        /// How that was seen.
        #[source]
        source: Cause,
    },
    /// The service does not know what was asked of it.
    #[error("{operation} {key}: the service cannot do this ({source})")]
    Unsupported {
        /// What was tried.
        operation: &'static str,
        /// On which object (or prefix).
        key: String,
        /// What it said.
        #[source]
        source: Cause,
    },
    /// The work was stopped because somebody asked it to.
    #[error("{operation} {key}: interrupted")]
    Cancelled {
        /// What was under way.
        operation: &'static str,
        /// On which object (or prefix).
        key: String,
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

fn until_text(until: Option<Timestamp>) -> String {
    until.map(|until| until.format(" until %Y-%m-%d %H:%M:%S UTC").to_string()).unwrap_or_default()
}

impl Error {
    /// A store that has none of these.
    pub(super) fn lacking(operation: &'static str, key: &ObjectKey, what: &str) -> Self {
        let source = format!("this store has no {what}").into();
        Self::Unsupported { operation, key: key.to_string(), source }
    }

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
