//! What a backup stands on: its parents, and attempts that died and whose packs it uses (FORMAT.md, section 6).
//!
//! The bases of a backup are those of its parent, in the same order, then the parent, then attempts. So an
//! index means the same in every backup of a chain that has it, and a row of an ancestor is a row of the
//! descendant as it stands, but for the layers in the ancestor itself.

use serde::{Deserialize, Serialize};

use super::backup_id::BackupId;
use super::error::{Error, Result};
use super::layout::{Kind, Place};
use super::manifest::{Manifest, ObjectRecord, Required};
use super::repository::Repository;
use super::text::{hex_array, u64_text};
use crate::storage::{self, ObjectKey};

/// One thing that layers refer to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Base {
    /// The number that layers use: its place in the list.
    pub index: u32,
    /// The backup.
    pub id: BackupId,
    /// The salt of its manifest, or, of an attempt, of the record that it began.
    #[serde(with = "hex_array")]
    pub salt: [u8; 32],
    /// It died, and has no manifest: the backup that first used it names its objects.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub attempt: bool,
    /// Bytes of this backup's content that lie in it.
    #[serde(default, with = "u64_text")]
    pub used: u64,
}

impl Base {
    /// Whether both name the same thing under the same number.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        (self.index, &self.id, self.salt, self.attempt)
            == (other.index, &other.id, other.salt, other.attempt)
    }
}

/// An object of an attempt that died, which the backup uses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reused {
    /// The attempt's number among the bases.
    pub base: u32,
    /// The object, its name as in the attempt.
    #[serde(flatten)]
    pub object: ObjectRecord,
}

impl Reused {
    pub(super) fn order(&self) -> (u32, &str) {
        (self.base, &self.object.name)
    }
}

impl Manifest {
    pub(super) fn check_bases(&self, key: &ObjectKey) -> Result<()> {
        let wrong = |why| Err(Error::corrupt(key, "bases", why));
        if !(0..).zip(&self.bases).all(|(index, base)| base.index == index) {
            return wrong("they are out of order");
        }
        if !self.reused.is_sorted_by(|a, b| a.order() < b.order()) {
            return wrong("what is reused is out of order");
        }
        let parent = self.bases.iter().rfind(|base| !base.attempt).map(|base| &base.id);
        if parent != self.summary.parent.as_ref() {
            return wrong("the last backup among them is not the parent");
        }
        Ok(())
    }

    /// The object with this name that an attempt stored.
    pub(super) fn find_reused(&self, base: u32, name: &str) -> Option<&ObjectRecord> {
        let found = self.reused.binary_search_by(|reused| reused.order().cmp(&(base, name)));
        found.ok().and_then(|i| self.reused.get(i)).map(|reused| &reused.object)
    }
}

impl Repository {
    /// Whether everything that a backup stands on is still there, just before it is made to exist: somebody may
    /// have removed it meanwhile.
    pub(super) fn require_bases(&self, place: &Place, manifest: &Manifest) -> Result<()> {
        for base in manifest.bases.iter().filter(|base| !base.attempt) {
            let key = place.manifest(&base.id);
            let salt = self.header_of(Kind::Manifest, &key).map(|header| header.salt);
            if salt.map_err(|error| base_error(&base.id, error))? != base.salt {
                let why = "it is not the manifest that was built on";
                return Err(base_error(&base.id, Error::corrupt(&key, "header", why)));
            }
        }
        self.require_reused(place, manifest, Required::Named)
    }

    /// Whether the store lists the required objects of attempts that a backup uses, with the sizes that they had.
    ///
    /// # Errors
    /// [`Error::Corrupt`] about the first that is missing or of another size.
    pub(super) fn require_reused(
        &self,
        place: &Place,
        manifest: &Manifest,
        required: Required,
    ) -> Result<()> {
        let mut listed = std::collections::BTreeMap::new();
        for base in manifest.bases.iter().filter(|base| base.attempt) {
            if !manifest.reused.iter().any(|reused| reused.base == base.index) {
                continue;
            }
            for prefix in place.backup_prefixes(&base.id) {
                let metas = storage::list_all(self.store().as_ref(), &prefix)?;
                listed.extend(metas.into_iter().map(|meta| (meta.key, meta.size)));
            }
        }
        for reused in manifest.reused.iter().filter(|reused| required.has(&reused.object.name)) {
            let id = manifest.bases.get(reused.base as usize).map(|base| &base.id);
            let key = id.and_then(|id| place.of_backup(id, &reused.object.name));
            let Some(key) = key else {
                return Err(Error::Limit(format!("{} names no object", reused.object.name)));
            };
            if listed.get(&key) != Some(&reused.object.size) {
                let why = format!(
                    "{} uses this object of an interrupted backup, and it is gone, or another one",
                    manifest.summary.id
                );
                return Err(Error::corrupt(&key, "size", why));
            }
        }
        Ok(())
    }
}

/// That a backup on which another stands cannot be used.
pub(super) fn base_error(id: &BackupId, source: Error) -> Error {
    Error::Base { id: id.to_string(), source: Box::new(source) }
}
