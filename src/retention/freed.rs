//! What expiry removed, counted where it is removed.

use crate::repo::Result;
use crate::storage::{ObjectMeta, ObjectStore};

/// What was done.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct Freed {
    /// Backups that were removed.
    pub backups: u64,
    /// Segments that were removed.
    pub segments: u64,
    /// Objects of all kinds.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Versions that deletions had hidden, removed for good.
    pub versions: u64,
    /// Versions that are hidden and locked still.
    pub hidden: u64,
    /// Objects that were locked for longer.
    pub locked: u64,
}

impl Freed {
    /// Removes objects as they were listed, and counts them; how many.
    pub(super) fn remove<'a>(
        &mut self,
        store: &dyn ObjectStore,
        listed: impl Iterator<Item = &'a ObjectMeta>,
    ) -> Result<u64> {
        let (mut keys, mut bytes) = (Vec::new(), 0);
        for meta in listed {
            keys.push(meta.key.clone());
            bytes += meta.size;
        }
        store.delete_many(&keys)?;
        let count = keys.len() as u64;
        (self.objects, self.bytes) = (self.objects + count, self.bytes + bytes);
        Ok(count)
    }
}
