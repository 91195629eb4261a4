//! The store itself: a map under a lock, and what it was told to be like.
//!
//! Clones share their objects. Stricter than S3 in one thing: a name that is also the beginning of
//! another up to a slash is refused, as a folder would refuse it.

use std::io;
use std::ops::Bound;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use super::objects::{Held, Objects};
use crate::base::{Clock, Timestamp};
use crate::storage::{
    Availability, EachPage, Error, LockRule, ObjectClass, ObjectKey, ObjectMeta, ObjectStore,
    ObjectWriter, Result, StorageClass, Thaw, Unfinished, VersionMark, VersionPage, pages_by_list,
};

/// A map from names to bytes under a lock.
#[derive(Debug, Clone, Default)]
pub struct MemoryStore {
    objects: Arc<RwLock<Objects>>,
    clock: Option<Arc<dyn Clock>>,
    has_classes: bool,
    keeps_versions: bool,
    lock: Option<LockRule>,
}

impl MemoryStore {
    /// An empty store.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// An empty store that knows when its objects were stored.
    #[must_use]
    pub fn with_clock(clock: Arc<dyn Clock>) -> Self {
        Self { clock: Some(clock), ..Self::default() }
    }

    /// With storage classes. A thaw takes the longest time that its class and speed say, by the clock; without
    /// one, time stands still.
    #[must_use]
    pub fn with_classes(self) -> Self {
        Self { has_classes: true, ..self }
    }

    /// Does what a bucket's rules do some time: what has this tag moves to the class that is its value.
    pub fn follow_tags(&self, name: &str) {
        self.write().follow_tags(name);
    }

    /// With locks, by this rule for what is put. Without versions, nothing locked can be removed or replaced.
    #[must_use]
    pub fn with_locks(self, rule: LockRule) -> Self {
        Self { lock: Some(rule), ..self }
    }

    /// With versions: what is removed or replaced is only hidden.
    #[must_use]
    pub fn with_versions(self) -> Self {
        Self { keeps_versions: true, ..self }
    }

    fn stored(&self) -> Option<Timestamp> {
        self.clock.as_ref().map(|clock| clock.now())
    }

    fn now(&self) -> Timestamp {
        self.stored().unwrap_or(Timestamp::UNIX_EPOCH)
    }

    fn held(&self, key: &ObjectKey, body: Vec<u8>) -> Held {
        let lock = self.lock.and_then(|rule| rule.until(key.as_str(), self.now()));
        Held::new(body, self.stored(), lock)
    }

    fn meta(&self, key: ObjectKey, held: &Held) -> ObjectMeta {
        let class = self.has_classes.then(|| held.class.clone());
        ObjectMeta { key, size: held.body.len() as u64, stored: held.stored, class }
    }

    // A panic elsewhere leaves the map whole (no call leaves it half-changed), so a poisoned lock
    // is as good as any.
    fn read(&self) -> RwLockReadGuard<'_, Objects> {
        self.objects.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Objects> {
        self.objects.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// The bytes themselves, so that readers hold no lock while they copy.
    fn bytes(&self, key: &ObjectKey) -> Result<Arc<Vec<u8>>> {
        let (objects, now) = (self.read(), self.now());
        let held = objects.get(key)?;
        match held.availability(now).is_readable(now) {
            true => Ok(Arc::clone(&held.body)),
            false => Err(Error::Cold { key: key.clone() }),
        }
    }
}

/// An offset as an index; one beyond the address space lies beyond every object in it.
fn index(offset: u64) -> usize {
    usize::try_from(offset).unwrap_or(usize::MAX)
}

#[deny(clippy::missing_trait_methods)]
impl ObjectStore for MemoryStore {
    fn location(&self) -> String {
        "memory".to_owned()
    }

    fn must_be_tried(&self) -> bool {
        false
    }

    fn unfinished(&self) -> Result<Vec<Unfinished>> {
        Ok(Vec::new())
    }

    fn discard(&self, _unfinished: &Unfinished) -> Result<()> {
        Ok(())
    }

    fn put(&self, key: &ObjectKey, body: &[u8]) -> Result<()> {
        let held = self.held(key, body.to_vec());
        self.write().replace(key, held, self.keeps_versions, self.now())
    }

    fn put_if_absent(&self, key: &ObjectKey, body: &[u8]) -> Result<()> {
        let held = self.held(key, body.to_vec());
        self.write().insert_new(key, held)
    }

    fn put_stream(&self, key: &ObjectKey) -> Result<Box<dyn ObjectWriter>> {
        Ok(Box::new(MemoryWriter { store: self.clone(), key: key.clone(), body: Vec::new() }))
    }

    fn get(&self, key: &ObjectKey) -> Result<Vec<u8>> {
        Ok(self.bytes(key)?.to_vec())
    }

    fn read_range(&self, key: &ObjectKey, offset: u64, buffer: &mut [u8]) -> Result<()> {
        let bytes = self.bytes(key)?;
        let begin = index(offset);
        let range = begin.checked_add(buffer.len()).and_then(|end| bytes.get(begin..end));
        let Some(range) = range else {
            return Err(Error::Short {
                key: key.clone(),
                wanted_end: offset.saturating_add(buffer.len() as u64),
                size: bytes.len() as u64,
            });
        };
        buffer.copy_from_slice(range);
        Ok(())
    }

    fn read_up_to(&self, key: &ObjectKey, offset: u64, length_max: usize) -> Result<Vec<u8>> {
        let bytes = self.bytes(key)?;
        let begin = index(offset).min(bytes.len());
        let end = begin.saturating_add(length_max).min(bytes.len());
        Ok(bytes[begin..end].to_vec())
    }

    fn head(&self, key: &ObjectKey) -> Result<ObjectMeta> {
        Ok(self.meta(key.clone(), self.read().get(key)?))
    }

    fn list(&self, prefix: &str, after: Option<&str>, count_max: usize) -> Result<Vec<ObjectMeta>> {
        let begin = match after {
            Some(after) if after >= prefix => Bound::Excluded(after),
            _ => Bound::Included(prefix),
        };
        // Names with a common beginning are neighbours, and all come at or after that beginning.
        let objects = self.read();
        let page = objects.range(begin).take_while(|(name, _)| name.starts_with(prefix));
        page.take(count_max.max(1))
            .map(|(name, held)| {
                let key = ObjectKey::new(name.as_str()).map_err(|invalid| Error::Io {
                    operation: "list",
                    key: name.clone(),
                    source: io::Error::other(invalid),
                })?;
                Ok(self.meta(key, held))
            })
            .collect()
    }

    fn list_pages(
        &self,
        prefix: &str,
        after: Option<&str>,
        count_max: usize,
        each: &mut EachPage<'_>,
    ) -> Result<()> {
        pages_by_list(self, prefix, after, count_max, each)
    }

    fn delete(&self, key: &ObjectKey) -> Result<()> {
        self.write().delete(key, self.keeps_versions, self.stored(), self.now())
    }

    fn delete_many(&self, keys: &[ObjectKey]) -> Result<()> {
        keys.iter().try_for_each(|key| self.delete(key))
    }

    fn has_classes(&self) -> bool {
        self.has_classes
    }

    fn lock_rule(&self) -> Option<LockRule> {
        self.lock
    }

    fn has_versions(&self) -> Result<bool> {
        Ok(self.keeps_versions)
    }

    fn class(&self, key: &ObjectKey) -> Result<ObjectClass> {
        let objects = self.read();
        let held = objects.get(key)?;
        Ok(ObjectClass { class: held.class.clone(), availability: held.availability(self.now()) })
    }

    fn set_class(
        &self,
        key: &ObjectKey,
        class: &StorageClass,
        expected: &ObjectMeta,
    ) -> Result<()> {
        if !self.has_classes {
            return Err(Error::lacking("move", key, "storage classes"));
        }
        let moment = (self.stored(), self.now());
        self.write().set_class(key, class, expected, self.keeps_versions, moment)
    }

    fn tag(&self, key: &ObjectKey, name: &str, value: &str) -> Result<()> {
        match self.has_classes {
            true => self.write().tag(key, name, value),
            false => Err(Error::lacking("tag", key, "tags")),
        }
    }

    fn thaw(&self, key: &ObjectKey, thaw: Thaw) -> Result<Availability> {
        self.write().thaw(key, thaw, self.now())
    }

    fn lock(&self, key: &ObjectKey, until: Timestamp) -> Result<()> {
        match self.lock {
            Some(_) => self.write().lock(key, until),
            None => Err(Error::lacking("lock", key, "locks")),
        }
    }

    fn locked_until(&self, key: &ObjectKey) -> Result<Option<Timestamp>> {
        Ok(self.read().get(key)?.locked_until)
    }

    fn versions(&self, prefix: &str, after: Option<&VersionMark>) -> Result<VersionPage> {
        Ok(self.read().versions(prefix, after))
    }

    fn delete_version(&self, key: &ObjectKey, id: &str) -> Result<()> {
        match self.keeps_versions {
            true => self.write().delete_version(key, id, self.now()),
            false => Err(Error::lacking("delete a version of", key, "versions")),
        }
    }
}

struct MemoryWriter {
    store: MemoryStore,
    key: ObjectKey,
    body: Vec<u8>,
}

impl ObjectWriter for MemoryWriter {
    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.body.extend_from_slice(bytes);
        Ok(())
    }

    fn finish(self: Box<Self>) -> Result<u64> {
        let size = self.body.len() as u64;
        let held = self.store.held(&self.key, self.body);
        self.store.write().insert_new(&self.key, held)?;
        Ok(size)
    }
}
