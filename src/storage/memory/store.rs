//! A store in memory, for tests and dry runs: every obligation of [`ObjectStore`] but a power cut.
//!
//! Clones share their objects. Stricter than S3 in one thing: a name that is also the beginning of
//! another up to a slash is refused, as a folder would refuse it.

use std::collections::BTreeMap;
use std::io;
use std::ops::Bound;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use super::{Error, ObjectKey, ObjectMeta, ObjectStore, ObjectWriter, Result, Unfinished};
use crate::base::{Clock, Timestamp};

type Objects = BTreeMap<String, Held>;

#[derive(Debug, Clone)]
struct Held {
    body: Arc<Vec<u8>>,
    stored: Option<Timestamp>,
}

/// A map from names to bytes under a lock.
#[derive(Debug, Clone, Default)]
pub struct MemoryStore {
    objects: Arc<RwLock<Objects>>,
    clock: Option<Arc<dyn Clock>>,
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

    fn held(&self, body: Vec<u8>) -> Held {
        Held { body: Arc::new(body), stored: self.clock.as_ref().map(|clock| clock.now()) }
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
        self.find(key).map(|held| held.body)
    }

    fn find(&self, key: &ObjectKey) -> Result<Held> {
        self.read().get(key.as_str()).cloned().ok_or_else(|| Error::NotFound { key: key.clone() })
    }
}

/// Refuses a name that is a folder of other names, or lies below an object.
fn check_place(objects: &Objects, operation: &'static str, key: &ObjectKey) -> Result<()> {
    let name = key.as_str();
    let below = format!("{name}/");
    let is_folder = objects
        .range::<str, _>((Bound::Included(below.as_str()), Bound::Unbounded))
        .next()
        .is_some_and(|(next, _)| next.starts_with(&below));
    let lies_below_object =
        name.match_indices('/').any(|(at, _)| objects.contains_key(&name[..at]));
    if !is_folder && !lies_below_object {
        return Ok(());
    }
    let kind = if is_folder { io::ErrorKind::IsADirectory } else { io::ErrorKind::NotADirectory };
    Err(Error::Io { operation, key: name.to_owned(), source: kind.into() })
}

fn insert_new(objects: &mut Objects, key: &ObjectKey, held: Held) -> Result<()> {
    check_place(objects, "put", key)?;
    if objects.contains_key(key.as_str()) {
        return Err(Error::AlreadyExists { key: key.clone() });
    }
    objects.insert(key.as_str().to_owned(), held);
    Ok(())
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
        let held = self.held(body.to_vec());
        let mut objects = self.write();
        check_place(&objects, "put", key)?;
        objects.insert(key.as_str().to_owned(), held);
        Ok(())
    }

    fn put_if_absent(&self, key: &ObjectKey, body: &[u8]) -> Result<()> {
        let held = self.held(body.to_vec());
        insert_new(&mut self.write(), key, held)
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
        let held = self.find(key)?;
        let size = held.body.len() as u64;
        Ok(ObjectMeta { key: key.clone(), size, stored: held.stored })
    }

    fn list(&self, prefix: &str, after: Option<&str>, count_max: usize) -> Result<Vec<ObjectMeta>> {
        let begin = match after {
            Some(after) if after >= prefix => Bound::Excluded(after),
            _ => Bound::Included(prefix),
        };
        // Names with a common beginning are neighbours, and all come at or after that beginning.
        let objects = self.read();
        let page = objects
            .range::<str, _>((begin, Bound::Unbounded))
            .take_while(|(name, _)| name.starts_with(prefix))
            .take(count_max.max(1));
        page.map(|(name, held)| {
            let key = ObjectKey::new(name.as_str()).map_err(|invalid| Error::Io {
                operation: "list",
                key: name.clone(),
                source: io::Error::other(invalid),
            })?;
            let size = held.body.len() as u64;
            Ok(ObjectMeta { key, size, stored: held.stored })
        })
        .collect()
    }

    fn delete(&self, key: &ObjectKey) -> Result<()> {
        self.write().remove(key.as_str());
        Ok(())
    }

    fn delete_many(&self, keys: &[ObjectKey]) -> Result<()> {
        keys.iter().try_for_each(|key| self.delete(key))
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
        let held = self.store.held(self.body);
        insert_new(&mut self.store.write(), &self.key, held)?;
        Ok(size)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::conformance;

    #[test]
    fn conforms() {
        conformance::run_all(&|| Box::new(MemoryStore::new()));
    }

    #[test]
    fn clones_share_their_objects() {
        let store = MemoryStore::new();
        let key = ObjectKey::new("a").unwrap();
        store.clone().put(&key, b"x").unwrap();
        assert_eq!(store.get(&key).unwrap(), b"x");
    }

    #[test]
    fn a_name_is_not_an_object_and_a_folder() {
        let store = MemoryStore::new();
        store.put(&ObjectKey::new("a/b").unwrap(), b"").unwrap();
        for conflict in ["a", "a/b/c", "a/b/c/d"] {
            let key = ObjectKey::new(conflict).unwrap();
            for outcome in [store.put(&key, b""), store.put_if_absent(&key, b"")] {
                assert!(matches!(outcome, Err(Error::Io { .. })), "{conflict}");
            }
        }
        store.put(&ObjectKey::new("a-b").unwrap(), b"").unwrap();
    }
}
