//! What a bucket with versions keeps behind the objects that are seen: earlier ones, and markers of deletions.

use super::{ObjectKey, StorageClass};
use crate::base::Timestamp;

/// One that is not the current object of its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version {
    /// Its name.
    pub key: ObjectKey,
    /// What tells it from others of that name.
    pub id: String,
    /// Its length in bytes; none of a marker.
    pub size: u64,
    /// Its storage class; nothing of a marker.
    pub class: Option<StorageClass>,
    /// When it was stored, not when it was replaced.
    pub stored: Option<Timestamp>,
    /// Whether it only says that the name was deleted. One that is the newest of its name hides the others.
    pub is_marker: bool,
}

/// Where a list of versions goes on; of the store that gave it only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VersionMark {
    pub(super) key: String,
    pub(super) id: Option<String>,
}

/// A part of a list of versions. It may have none and not be the last one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct VersionPage {
    /// By name, and of one name the newest first.
    pub versions: Vec<Version>,
    /// Where the next page begins; nothing at the end.
    pub next: Option<VersionMark>,
}
