//! What tiering decides from: values that were found in a repository, nothing that is asked for later.

use std::collections::{BTreeMap, BTreeSet};

use crate::base::Timestamp;
use crate::repo::{BackupId, Place, Summary};
use crate::storage::ObjectMeta;

/// A complete backup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Its id; the chain's full is in it.
    pub id: BackupId,
    /// What it stands on.
    pub parent: Option<BackupId>,
    /// When it was complete.
    pub finished: Timestamp,
    /// Dead attempts whose packs it uses.
    pub attempts: Vec<BackupId>,
}

impl Member {
    /// As a summary tells.
    #[must_use]
    pub fn of(summary: &Summary) -> Self {
        Self {
            id: summary.id.clone(),
            parent: summary.parent.clone(),
            finished: summary.finished,
            attempts: summary.attempts.clone(),
        }
    }
}

/// A backup that may still be completed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Running {
    /// Its id.
    pub id: BackupId,
    /// What it stands on.
    pub parent: Option<BackupId>,
    /// Dead attempts whose packs it may use.
    pub attempts: Vec<BackupId>,
}

/// Somebody reads a backup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InUse {
    /// The backup.
    pub id: BackupId,
    /// Who, in words.
    pub by: String,
}

/// Why a backup is not worth moving.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Going {
    /// No rule keeps it, so the next expiry removes it.
    Unkept,
    /// Expiry has decided to remove it.
    Removed,
}

/// One history of a cluster, as the rules look at it.
#[derive(Debug, Clone)]
pub struct PlaceFacts {
    /// Where it lies.
    pub place: Place,
    /// The complete backups, in any order.
    pub backups: Vec<Member>,
    /// Backups whose manifests cannot be read.
    pub unreadable: BTreeSet<BackupId>,
    /// Backups that may still be completed.
    pub running: Vec<Running>,
    /// All that ever began, complete or not: what is not among them began later.
    pub known: BTreeSet<BackupId>,
    /// Backups that are read.
    pub in_use: Vec<InUse>,
    /// Fulls that are kept for a month.
    pub monthly: BTreeSet<BackupId>,
    /// Fulls that are kept for a year.
    pub yearly: BTreeSet<BackupId>,
    /// Backups that are on their way out.
    pub going: BTreeMap<BackupId, Going>,
    /// When the newest full of the cluster's other histories was complete: after an upgrade nobody adds to this one.
    pub newer_elsewhere: Option<Timestamp>,
    /// Every pack that the store lists, by the backup or attempt that stored it.
    pub packs: BTreeMap<BackupId, Vec<ObjectMeta>>,
}

/// What of the store decides on costs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StoreFacts {
    /// What is moved stays behind as a version.
    pub has_versions: bool,
    /// And cannot be removed before its lock ends.
    pub has_locks: bool,
}
