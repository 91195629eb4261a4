//! What can be wrong with a repository, by what a caller does about it.

use std::fmt;

use super::layout;
use crate::base::{Cancelled, Timestamp};
use crate::crypt::{self, SlotKind};
use crate::storage::{self, ObjectKey};

/// One key slot, for messages and `key list`.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct SlotSummary {
    /// Its name: 16 hexadecimal digits.
    pub slot: String,
    /// What opens it.
    pub kind: SlotKind,
    /// What the operator called it.
    pub label: String,
    /// Of a key file, what identifies it.
    pub fingerprint: String,
    /// When it was made.
    pub created: String,
    /// Whether the secret at hand opens it; `None` when it was not tried.
    pub opened: Option<bool>,
}

/// A key slot that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct DamagedSlot {
    /// Its name.
    pub slot: String,
    /// What is wrong with it.
    pub why: String,
}

/// The key slots of a repository.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Slots {
    /// Those that can be read.
    pub readable: Vec<SlotSummary>,
    /// The others: nobody knows what they hold.
    pub damaged: Vec<DamagedSlot>,
}

/// Who holds a lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// What is held.
    pub scope: &'static str,
    /// Of which cluster.
    pub cluster: String,
    /// By whom.
    pub host: String,
    /// By which process there.
    pub pid: u32,
    /// For what.
    pub purpose: String,
    /// Since when.
    pub since: Timestamp,
    /// Until when, if nothing more is heard.
    pub expires: Timestamp,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { scope, cluster, host, pid, purpose, .. } = self;
        let (since, expires) = (layout::time_text(self.since), layout::time_text(self.expires));
        write!(f, "{scope} of cluster {cluster} is held by {host}, process {pid}: {purpose}, ")?;
        write!(f, "since {since}; it ends at {expires} unless it is renewed")
    }
}

/// Why the repository could not do what was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The store failed.
    #[error(transparent)]
    Storage(#[from] storage::Error),
    /// Stored bytes are not what was sealed: damaged, cut, swapped, replaced or forged.
    #[error("{object}: {place}: {why}")]
    Corrupt {
        /// The object's name.
        object: String,
        /// Where in it: `header`, `frame 7`, `line 3`.
        place: String,
        /// What was found.
        why: String,
    },
    /// A backup on which another stands is gone, damaged or unreadable.
    #[error("backup {id}, on which it stands, cannot be used: {source}")]
    Base {
        /// The one that cannot be used.
        id: String,
        /// Why.
        source: Box<Self>,
    },
    /// Written by a newer version of pgkeep.
    #[error("{object}: {what} {found} is not known to this version of pgkeep")]
    Newer {
        /// The object's name.
        object: String,
        /// Which member.
        what: &'static str,
        /// Its value.
        found: String,
    },
    /// There is no descriptor.
    #[error("there is no pgkeep repository in {location}")]
    NoRepository {
        /// Where it was looked for.
        location: String,
    },
    /// There is no descriptor, and there are objects that only a repository has: it was lost, or they were
    /// copied without it.
    #[error(
        "a repository's objects lie here ({object}), and its descriptor pgkeep.json is missing"
    )]
    NoDescriptor {
        /// The first of them.
        object: ObjectKey,
    },
    /// No slot opens with the secret at hand.
    #[error("the {given} at hand opens no key slot of this repository")]
    WrongKey {
        /// The kind of secret that was tried.
        given: SlotKind,
        /// The slots that exist.
        slots: Vec<SlotSummary>,
    },
    /// Configuration and descriptor name different ciphers.
    #[error("the repository's cipher is {stored}, the configuration says {configured}")]
    Cipher {
        /// By the descriptor.
        stored: String,
        /// By the configuration.
        configured: String,
    },
    /// An object sealed with a master key that the secret at hand does not give.
    #[error("{object}: it is sealed with key {key}, which the slots that opened do not hold")]
    UnknownKey {
        /// The object's name.
        object: String,
        /// The master key's id.
        key: String,
    },
    /// Others claimed the name for other content, and nobody has it: on a store without conditional puts.
    #[error("{object}: it was claimed for other content as well ({}), so neither is stored", .claims.join(", "))]
    Claimed {
        /// The name.
        object: ObjectKey,
        /// The others' claims: how their names begin.
        claims: Vec<String>,
    },
    /// Another `init` is at work in a store without conditional puts.
    #[error("another init is making this repository ({lease})")]
    InitRunning {
        /// Its lease.
        lease: String,
    },
    /// Somebody else is at the same work.
    #[error("{0}")]
    Held(Box<Holder>),
    /// A lease could not be renewed in time: others may be at the same work.
    #[error("the lease on {scope} of cluster {cluster} ended while it was needed")]
    LeaseLost {
        /// What was held.
        scope: &'static str,
        /// Of which cluster.
        cluster: String,
    },
    /// This clock and the store's are too far apart for leases to mean anything.
    #[error("this host's clock is {seconds} s {direction} the repository's")]
    ClockSkew {
        /// How far.
        seconds: i64,
        /// `ahead of` or `behind`.
        direction: &'static str,
    },
    /// Somebody else decided what expires while this was planned.
    #[error("another expire decided meanwhile")]
    Decided,
    /// Expiry has decided to remove it.
    #[error("backup {id} is being removed by expire")]
    Expiring {
        /// Its id.
        id: String,
    },
    /// This `init` took longer than others wait for it, in a store without conditional puts.
    #[error("making the repository took so long that another init may be at it: nothing was made")]
    InitOverdue,
    /// The cluster is not registered here.
    #[error(
        "cluster {cluster} with system identifier {system} is not registered in this repository"
    )]
    NoCluster {
        /// The configured name.
        cluster: String,
        /// The system identifier that was looked for.
        system: u64,
    },
    /// The cluster is registered, but not with this epoch.
    #[error("cluster {cluster} with system identifier {system} has no epoch {epoch} here")]
    NoEpoch {
        /// The configured name.
        cluster: String,
        /// The system identifier.
        system: u64,
        /// The epoch that was named.
        epoch: u32,
    },
    /// The cluster's newest epoch is not registered here, and holds nothing here.
    #[error("epoch {epoch} of cluster {cluster} has begun, and not in this repository")]
    EpochAnnounced {
        /// The configured name.
        cluster: String,
        /// The epoch.
        epoch: u32,
    },
    /// Objects of a cluster, and nothing that says which cluster it is: they were copied in part, or
    /// somebody removed it.
    #[error("the registration {object} is missing, and other objects lie beside it")]
    NoRegistration {
        /// Its name.
        object: ObjectKey,
    },
    /// There is no such backup, or it was never completed.
    #[error("there is no backup {id}")]
    NoBackup {
        /// Its id.
        id: String,
    },
    /// The backup's name was taken by a record that it was given up.
    #[error("backup {id} was given up: {why}")]
    Abandoned {
        /// Its id.
        id: String,
        /// What the record says.
        why: String,
    },
    /// First write wins: the name holds other content.
    #[error("{object} exists with other content")]
    Conflict {
        /// The object's name.
        object: ObjectKey,
        /// The digest that is stored.
        stored: String,
        /// The digest of what was to be stored.
        given: String,
    },
    /// The last slot cannot be removed, a slot is unknown, and the like.
    #[error("{0}")]
    Keys(String),
    /// What is to be stored breaks a limit of the format.
    #[error("{0}")]
    Limit(String),
    /// A key slot could not be made.
    #[error(transparent)]
    Crypt(#[from] crypt::Error),
    /// The work was interrupted.
    #[error(transparent)]
    Cancelled(#[from] Cancelled),
}

/// The result of a call on the repository.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    pub(super) fn corrupt(
        object: &ObjectKey,
        place: impl Into<String>,
        why: impl ToString,
    ) -> Self {
        Self::Corrupt { object: object.to_string(), place: place.into(), why: why.to_string() }
    }

    /// Whether it says something of what is stored: it is gone, damaged, or nobody's here. Everything else may
    /// be otherwise the next time.
    #[must_use]
    pub fn is_of_content(&self) -> bool {
        match self {
            Self::Corrupt { .. } | Self::NoBackup { .. } | Self::Abandoned { .. } => true,
            Self::Newer { .. } | Self::UnknownKey { .. } => true,
            Self::Base { source, .. } => source.is_of_content(),
            other => other.is_not_found(),
        }
    }

    /// Whether an object lies in cold storage, and has to be thawed first.
    #[must_use]
    pub fn is_cold(&self) -> bool {
        match self {
            Self::Storage(storage::Error::Cold { .. }) => true,
            Self::Base { source, .. } => source.is_cold(),
            _ => false,
        }
    }

    /// Whether the same may succeed a moment later: the store is away, or was slow to answer.
    #[must_use]
    pub fn may_pass(&self) -> bool {
        use storage::Error::{Io, NoStore};
        matches!(self, Self::NoRepository { .. } | Self::Storage(Io { .. } | NoStore { .. }))
    }

    /// Whether this one object is what cannot be read: gone, damaged, in cold storage, not theirs who ask.
    #[must_use]
    pub fn is_about_one_object(&self) -> bool {
        use storage::Error::{Cold, Denied, Forbidden, NotFound};
        match self {
            Self::Storage(error) => {
                matches!(error, NotFound { .. } | Cold { .. } | Forbidden { .. } | Denied { .. })
            }
            Self::Cancelled(_) => false,
            _ => true,
        }
    }

    /// Whether the store proved that an object is not there.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Storage(error) if error.is_not_found())
    }
}
