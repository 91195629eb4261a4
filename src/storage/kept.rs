//! What a short process reads first, kept for the next one: small objects that never change.
//!
//! `archive-push` lives for one segment, and over a network each request takes longer than its work. What
//! it reads to open the repository is therefore kept in a local file for a short while, counted from the
//! first read. Nothing is trusted for lying there: everything that is kept is authenticated by whoever
//! reads it, as if it came from the store. Only what was found is kept, never that something is absent;
//! lists are kept as they were, so that whoever changes what they say must let that while pass
//! (`init --new-epoch` does). Best effort: whatever is wrong with the file, the store is asked.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{
    Availability, EachPage, LockRule, ObjectClass, ObjectKey, ObjectMeta, ObjectStore,
    ObjectWriter, Result, StorageClass, Thaw, Unfinished, VersionMark, VersionPage, pages_by_list,
};
use crate::base::{Timestamp, durable, hex};

/// For how long it is kept. Short: a server that archives less often than this does not need it.
pub const KEPT_FOR: Duration = Duration::from_secs(5);

/// More than any opening reads; the rest is not kept.
const KEPT_BYTES_MAX: usize = 1 << 20;

/// Which answers last: of one object by its name, of a list by its prefix.
#[derive(Debug, Clone, Copy)]
pub struct Lasting {
    /// Whether an object of this name never changes.
    pub object: fn(&str) -> bool,
    /// Whether lists of this prefix may be that old.
    pub list: fn(&str) -> bool,
}

/// A store whose lasting answers are kept in a file. The file is written when the store is dropped.
#[derive(Debug)]
pub struct KeptStore<S> {
    inner: S,
    path: PathBuf,
    lasting: Lasting,
    kept: Mutex<Kept>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct Kept {
    /// Which store it is of.
    location: String,
    /// When the first answer was read, in milliseconds since 1970.
    born: i64,
    /// By what was asked.
    objects: BTreeMap<String, String>,
    lists: BTreeMap<String, Vec<(String, u64)>>,
    #[serde(skip)]
    is_new: bool,
}

impl<S: ObjectStore> KeptStore<S> {
    /// Takes what is kept at `path`, where it is young enough and the account's own.
    pub fn new(inner: S, path: PathBuf, lasting: Lasting, now: Timestamp) -> Self {
        let mut store = Self::anew(inner, path, lasting, now);
        let own = store.kept.get_mut().unwrap_or_else(PoisonError::into_inner);
        if let Some(kept) = read(&store.path)
            && kept.location == own.location
            && is_young(&kept, now)
        {
            *own = kept;
        }
        store
    }

    /// Takes nothing of what is kept at `path`, and keeps there what it reads.
    pub fn anew(inner: S, path: PathBuf, lasting: Lasting, now: Timestamp) -> Self {
        let location = inner.location();
        let kept = Kept { location, born: now.timestamp_millis(), ..Kept::default() };
        Self { inner, path, lasting, kept: Mutex::new(kept) }
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn object(
        &self,
        key: &ObjectKey,
        asked: String,
        ask: impl FnOnce() -> Result<Vec<u8>>,
    ) -> Result<Vec<u8>> {
        if !(self.lasting.object)(key.as_str()) {
            return ask();
        }
        let found = self.kept().objects.get(&asked).and_then(|text| hex::decode(text));
        if let Some(bytes) = found {
            return Ok(bytes);
        }
        let bytes = ask()?;
        let mut kept = self.kept();
        kept.objects.insert(asked, hex::encode(&bytes));
        kept.is_new = true;
        Ok(bytes)
    }
}

/// Forgets what is kept at `path`: something that it led to went wrong.
pub fn forget(path: &Path) {
    std::fs::remove_file(path).ok();
}

/// Whether it is this account's, and closed to all others: its place is one where anybody may make things.
fn is_own(path: &Path) -> bool {
    let own = rustix::process::geteuid().as_raw();
    std::fs::symlink_metadata(path).is_ok_and(|metadata| {
        !metadata.is_symlink() && metadata.uid() == own && metadata.mode() & 0o077 == 0
    })
}

fn read(path: &Path) -> Option<Kept> {
    if !is_own(path.parent()?) || !is_own(path) {
        return None;
    }
    serde_json::from_slice(&std::fs::read(path).ok()?).ok()
}

/// A clock that was set back makes it old, too.
fn is_young(kept: &Kept, now: Timestamp) -> bool {
    let age = now.timestamp_millis() - kept.born;
    u128::try_from(age).is_ok_and(|age| age < KEPT_FOR.as_millis())
}

impl<S> Drop for KeptStore<S> {
    fn drop(&mut self) {
        let kept = self.kept.get_mut().unwrap_or_else(PoisonError::into_inner);
        if !kept.is_new {
            return;
        }
        let Ok(text) = serde_json::to_vec(kept) else { return };
        let Some(folder) = self.path.parent().filter(|_| text.len() <= KEPT_BYTES_MAX) else {
            return;
        };
        // Not durable on purpose: it is worth a few requests.
        if durable::create_dir_all(folder, 0o700).is_ok() && is_own(folder) {
            durable::replace_unsynced(&self.path, &text, 0o600).ok();
        }
    }
}

#[deny(clippy::missing_trait_methods)]
impl<S: ObjectStore> ObjectStore for KeptStore<S> {
    fn location(&self) -> String {
        self.inner.location()
    }

    fn must_be_tried(&self) -> bool {
        self.inner.must_be_tried()
    }

    fn put(&self, key: &ObjectKey, body: &[u8]) -> Result<()> {
        self.inner.put(key, body)
    }

    fn put_if_absent(&self, key: &ObjectKey, body: &[u8]) -> Result<()> {
        self.inner.put_if_absent(key, body)
    }

    fn put_stream(&self, key: &ObjectKey) -> Result<Box<dyn ObjectWriter>> {
        self.inner.put_stream(key)
    }

    fn get(&self, key: &ObjectKey) -> Result<Vec<u8>> {
        self.object(key, key.as_str().to_owned(), || self.inner.get(key))
    }

    fn read_range(&self, key: &ObjectKey, offset: u64, buffer: &mut [u8]) -> Result<()> {
        self.inner.read_range(key, offset, buffer)
    }

    fn read_up_to(&self, key: &ObjectKey, offset: u64, length_max: usize) -> Result<Vec<u8>> {
        let asked = format!("{key} {offset} {length_max}");
        self.object(key, asked, || self.inner.read_up_to(key, offset, length_max))
    }

    fn head(&self, key: &ObjectKey) -> Result<ObjectMeta> {
        self.inner.head(key)
    }

    fn list(&self, prefix: &str, after: Option<&str>, count_max: usize) -> Result<Vec<ObjectMeta>> {
        if !(self.lasting.list)(prefix) {
            return self.inner.list(prefix, after, count_max);
        }
        let asked = format!("{prefix} {} {count_max}", after.unwrap_or_default());
        let found = self.kept().lists.get(&asked).and_then(|names| {
            let meta = |(name, size): &(String, u64)| {
                let key = ObjectKey::new(name.as_str()).ok()?;
                Some(ObjectMeta { key, size: *size, stored: None, class: None })
            };
            names.iter().map(meta).collect::<Option<Vec<_>>>()
        });
        if let Some(names) = found {
            return Ok(names);
        }
        let listed = self.inner.list(prefix, after, count_max)?;
        let names = listed.iter().map(|meta| (meta.key.to_string(), meta.size)).collect();
        let mut kept = self.kept();
        kept.lists.insert(asked, names);
        kept.is_new = true;
        Ok(listed)
    }

    fn list_pages(
        &self,
        prefix: &str,
        after: Option<&str>,
        count_max: usize,
        each: &mut EachPage<'_>,
    ) -> Result<()> {
        // A list that is kept is one of few names.
        if (self.lasting.list)(prefix) {
            return pages_by_list(self, prefix, after, count_max, each);
        }
        self.inner.list_pages(prefix, after, count_max, each)
    }

    fn delete(&self, key: &ObjectKey) -> Result<()> {
        self.inner.delete(key)
    }

    fn delete_many(&self, keys: &[ObjectKey]) -> Result<()> {
        self.inner.delete_many(keys)
    }

    fn unfinished(&self) -> Result<Vec<Unfinished>> {
        self.inner.unfinished()
    }

    fn discard(&self, unfinished: &Unfinished) -> Result<()> {
        self.inner.discard(unfinished)
    }

    fn has_classes(&self) -> bool {
        self.inner.has_classes()
    }

    fn has_versions(&self) -> Result<bool> {
        self.inner.has_versions()
    }

    fn lock_rule(&self) -> Option<LockRule> {
        self.inner.lock_rule()
    }

    fn class(&self, key: &ObjectKey) -> Result<ObjectClass> {
        self.inner.class(key)
    }

    fn set_class(
        &self,
        key: &ObjectKey,
        class: &StorageClass,
        expected: &ObjectMeta,
    ) -> Result<()> {
        self.inner.set_class(key, class, expected)
    }

    fn thaw(&self, key: &ObjectKey, thaw: Thaw) -> Result<Availability> {
        self.inner.thaw(key, thaw)
    }

    fn tag(&self, key: &ObjectKey, name: &str, value: &str) -> Result<()> {
        self.inner.tag(key, name, value)
    }

    fn lock(&self, key: &ObjectKey, until: Timestamp) -> Result<()> {
        self.inner.lock(key, until)
    }

    fn locked_until(&self, key: &ObjectKey) -> Result<Option<Timestamp>> {
        self.inner.locked_until(key)
    }

    fn versions(&self, prefix: &str, after: Option<&VersionMark>) -> Result<VersionPage> {
        self.inner.versions(prefix, after)
    }

    fn delete_version(&self, key: &ObjectKey, id: &str) -> Result<()> {
        self.inner.delete_version(key, id)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::storage::{MemoryStore, MeteredStore, conformance};

    const NOTHING: Lasting = Lasting { object: |_| false, list: |_| false };
    const SOME: Lasting =
        Lasting { object: |name| name.starts_with("key/"), list: |prefix| prefix == "key/" };

    fn scratch() -> (tempfile::TempDir, PathBuf) {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("own/kept");
        (scratch, path)
    }

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_timestamp(seconds, 0).unwrap()
    }

    #[test]
    fn is_transparent_where_nothing_lasts() {
        let (_scratch, path) = scratch();
        conformance::run_all(&|| {
            Box::new(KeptStore::new(conformance::memory(), path.clone(), NOTHING, at(0)))
        });
        assert!(!path.exists());
    }

    /// What one process reads, and what reached the store for it.
    fn requests(store: &MeteredStore<MemoryStore>, path: &Path, now: Timestamp) -> u64 {
        store.reset();
        let kept = KeptStore::new(store.clone(), path.to_owned(), SOME, now);
        assert_eq!(kept.get(&ObjectKey::new("key/a").unwrap()).unwrap(), b"slot");
        assert_eq!(kept.list("key/", None, 10).unwrap().len(), 1);
        assert!(kept.get(&ObjectKey::new("key/b").unwrap()).unwrap_err().is_not_found());
        store.requests().reads()
    }

    #[test]
    fn the_next_process_does_not_ask_again_for_a_while() {
        let (_scratch, path) = scratch();
        let store = MeteredStore::new(MemoryStore::new());
        store.put(&ObjectKey::new("key/a").unwrap(), b"slot").unwrap();
        assert_eq!(requests(&store, &path, at(100)), 3);
        // Absence is asked for each time.
        assert_eq!(requests(&store, &path, at(101)), 1);
        assert_eq!(requests(&store, &path, at(104)), 1, "counted from the first read");
        assert_eq!(requests(&store, &path, at(105)), 3);
        assert_eq!(requests(&store, &path, at(101)), 3, "the clock was set back");
        forget(&path);
        assert_eq!(requests(&store, &path, at(102)), 3);
    }

    #[test]
    fn a_file_of_others_or_of_another_store_does_not_count() {
        let (_scratch, path) = scratch();
        let store = MeteredStore::new(MemoryStore::new());
        store.put(&ObjectKey::new("key/a").unwrap(), b"slot").unwrap();
        assert_eq!(requests(&store, &path, at(100)), 3);
        let folder = path.parent().unwrap();
        std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!(requests(&store, &path, at(101)), 3);
        std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o700)).unwrap();
        for text in ["", "{", "{\"location\":\"else\",\"born\":101000,\"objects\":{},\"lists\":{}}"]
        {
            durable::replace(&path, text.as_bytes(), 0o600).unwrap();
            assert_eq!(requests(&store, &path, at(101)), 3, "{text}");
        }
    }
}
