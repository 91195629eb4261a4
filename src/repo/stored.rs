//! What a manifest says that a backup consists of, beside what the store lists.

use std::collections::BTreeMap;

use super::error::{Error, Result};
use super::layout::{Kind, Place};
use super::manifest::{Manifest, Required};
use super::repository::Repository;
use crate::base::side_by_side;
use crate::storage;

impl Repository {
    /// Whether the store lists all objects of a backup with the sizes that they had, and those of interrupted
    /// backups that it uses. Reads nothing: objects in cold storage are there.
    ///
    /// # Errors
    /// [`Error::Corrupt`] about the first that is missing or of another size.
    pub fn require_objects(&self, place: &Place, manifest: &Manifest) -> Result<()> {
        self.compare_with_store(place, manifest, Required::Named)?;
        self.require_reused(place, manifest, Required::Named)
    }

    /// As [`Repository::require_objects`], of what a restore cannot do without: all but the hashes.
    ///
    /// # Errors
    /// As [`Repository::require_objects`].
    pub fn require_content(&self, place: &Place, manifest: &Manifest) -> Result<()> {
        self.compare_with_store(place, manifest, Required::Content)?;
        self.require_reused(place, manifest, Required::Content)
    }

    /// Whether what lies under the names of a backup's objects is what was sealed, by the salts: for stores on which two
    /// may write one name. One small request for each object.
    ///
    /// # Errors
    /// [`Error::Corrupt`] about the first that is another one.
    pub fn require_salts(&self, place: &Place, manifest: &Manifest) -> Result<()> {
        let id = &manifest.summary.id;
        let own = manifest.objects.iter().map(|object| (id, object));
        let reused = manifest.reused.iter().filter_map(|reused| {
            Some((&manifest.bases.get(reused.base as usize)?.id, &reused.object))
        });
        let all: Vec<_> = own.chain(reused).collect();
        side_by_side(&all, |(id, object)| {
            let wrong = || Error::Limit(format!("{} names no object", object.name));
            let key = place.of_backup(id, &object.name).ok_or_else(wrong)?;
            let kind = match object.name.split('/').next() {
                Some("data") => Kind::Pack,
                Some("meta") => Kind::Meta,
                Some("hash") => Kind::Hash,
                _ => Kind::Files,
            };
            match self.header_of(kind, &key)?.salt == object.salt {
                true => Ok(()),
                false => Err(Error::corrupt(&key, "header", "it is not the object that was put")),
            }
        })?;
        Ok(())
    }

    pub(super) fn compare_with_store(
        &self,
        place: &Place,
        manifest: &Manifest,
        required: Required,
    ) -> Result<()> {
        let id = &manifest.summary.id;
        let mut expected = BTreeMap::new();
        for object in manifest.objects.iter().filter(|object| required.has(&object.name)) {
            let key = place
                .of_backup(id, &object.name)
                .ok_or_else(|| Error::Limit(format!("{} names no object", object.name)))?;
            expected.insert(key, object.size);
        }
        let mut listed = match self.store().head(&place.files(id)) {
            Ok(meta) => vec![meta],
            Err(error) if error.is_not_found() => Vec::new(),
            Err(error) => return Err(error.into()),
        };
        for prefix in place.backup_prefixes(id) {
            listed.extend(storage::list_all(self.store().as_ref(), &prefix)?);
        }
        for meta in listed {
            match expected.remove(&meta.key) {
                Some(size) if size == meta.size => {}
                Some(size) => {
                    let why = format!("the store holds {} bytes, {size} were written", meta.size);
                    return Err(Error::corrupt(&meta.key, "size", why));
                }
                None if required == Required::NothingElse => {
                    let why = "the store holds an object that this backup did not write";
                    return Err(Error::corrupt(&meta.key, "name", why));
                }
                None => {}
            }
        }
        match expected.into_keys().next() {
            None => Ok(()),
            Some(key) => Err(Error::corrupt(&key, "name", "the store does not list it")),
        }
    }
}
