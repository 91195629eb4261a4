//! A guard for dry runs and for commands that only read: every change is refused.
//!
//! It protects against our own mistakes, not against other writers of the same store.

use super::{
    Availability, EachPage, Error, LockRule, ObjectClass, ObjectKey, ObjectMeta, ObjectStore,
    ObjectWriter, Result, StorageClass, Thaw, Unfinished, VersionMark, VersionPage,
};
use crate::base::Timestamp;

/// A store whose mutating calls all fail with [`Error::ReadOnly`] and never reach the inner store.
#[derive(Debug, Clone)]
pub struct ReadOnlyStore<S>(S);

impl<S: ObjectStore> ReadOnlyStore<S> {
    /// Guards a store.
    pub fn new(inner: S) -> Self {
        Self(inner)
    }
}

fn refused<T>(operation: &'static str, key: &ObjectKey) -> Result<T> {
    Err(Error::ReadOnly { operation, key: key.clone() })
}

#[deny(clippy::missing_trait_methods)]
impl<S: ObjectStore> ObjectStore for ReadOnlyStore<S> {
    fn location(&self) -> String {
        self.0.location()
    }

    fn must_be_tried(&self) -> bool {
        self.0.must_be_tried()
    }

    fn put(&self, key: &ObjectKey, _body: &[u8]) -> Result<()> {
        refused("put", key)
    }

    fn put_if_absent(&self, key: &ObjectKey, _body: &[u8]) -> Result<()> {
        refused("put", key)
    }

    fn put_stream(&self, key: &ObjectKey) -> Result<Box<dyn ObjectWriter>> {
        refused("put", key)
    }

    fn get(&self, key: &ObjectKey) -> Result<Vec<u8>> {
        self.0.get(key)
    }

    fn read_range(&self, key: &ObjectKey, offset: u64, buffer: &mut [u8]) -> Result<()> {
        self.0.read_range(key, offset, buffer)
    }

    fn read_up_to(&self, key: &ObjectKey, offset: u64, length_max: usize) -> Result<Vec<u8>> {
        self.0.read_up_to(key, offset, length_max)
    }

    fn head(&self, key: &ObjectKey) -> Result<ObjectMeta> {
        self.0.head(key)
    }

    fn list(&self, prefix: &str, after: Option<&str>, count_max: usize) -> Result<Vec<ObjectMeta>> {
        self.0.list(prefix, after, count_max)
    }

    fn list_pages(
        &self,
        prefix: &str,
        after: Option<&str>,
        count_max: usize,
        each: &mut EachPage<'_>,
    ) -> Result<()> {
        self.0.list_pages(prefix, after, count_max, each)
    }

    fn delete(&self, key: &ObjectKey) -> Result<()> {
        refused("delete", key)
    }

    // To remove nothing changes nothing: there is no name to refuse.
    fn delete_many(&self, keys: &[ObjectKey]) -> Result<()> {
        keys.first().map_or(Ok(()), |key| refused("delete", key))
    }

    fn unfinished(&self) -> Result<Vec<Unfinished>> {
        self.0.unfinished()
    }

    fn discard(&self, unfinished: &Unfinished) -> Result<()> {
        match ObjectKey::new(&unfinished.name) {
            Ok(key) => refused("discard", &key),
            // Not ours to begin with.
            Err(_) => Ok(()),
        }
    }

    fn has_classes(&self) -> bool {
        self.0.has_classes()
    }

    fn has_versions(&self) -> Result<bool> {
        self.0.has_versions()
    }

    fn lock_rule(&self) -> Option<LockRule> {
        self.0.lock_rule()
    }

    fn class(&self, key: &ObjectKey) -> Result<ObjectClass> {
        self.0.class(key)
    }

    fn set_class(
        &self,
        key: &ObjectKey,
        _class: &StorageClass,
        _expected: &ObjectMeta,
    ) -> Result<()> {
        refused("move", key)
    }

    // It changes no object, and who reads may have to ask for it.
    fn thaw(&self, key: &ObjectKey, thaw: Thaw) -> Result<Availability> {
        self.0.thaw(key, thaw)
    }

    fn tag(&self, key: &ObjectKey, _name: &str, _value: &str) -> Result<()> {
        refused("tag", key)
    }

    fn lock(&self, key: &ObjectKey, _until: Timestamp) -> Result<()> {
        refused("lock", key)
    }

    fn locked_until(&self, key: &ObjectKey) -> Result<Option<Timestamp>> {
        self.0.locked_until(key)
    }

    fn versions(&self, prefix: &str, after: Option<&VersionMark>) -> Result<VersionPage> {
        self.0.versions(prefix, after)
    }

    fn delete_version(&self, key: &ObjectKey, _id: &str) -> Result<()> {
        refused("delete a version of", key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::{conformance, list_all};

    #[test]
    fn refuses_every_change_and_passes_every_read() {
        let inner = conformance::memory();
        let key = ObjectKey::new("a/b").unwrap();
        inner.put(&key, b"abc").unwrap();
        let meta = inner.head(&key).unwrap();
        let store = ReadOnlyStore::new(inner.clone());
        let new = ObjectKey::new("a/c").unwrap();
        let refusals = [
            store.put(&new, b"x"),
            store.put_if_absent(&new, b"x"),
            store.put_stream(&new).map(drop),
            store.delete(&key),
            store.delete_many(&[key.clone(), new.clone()]),
            store.set_class(&key, &StorageClass::Glacier, &meta),
            store.tag(&key, "a", "b"),
            store.lock(&key, Timestamp::MAX_UTC),
            store.delete_version(&key, "1"),
        ];
        for refusal in refusals {
            assert!(matches!(refusal, Err(Error::ReadOnly { .. })));
        }
        store.delete_many(&[]).unwrap();
        assert_eq!(list_all(&store, "").unwrap(), list_all(&inner, "").unwrap());
        assert_eq!(store.get(&key).unwrap(), b"abc");
        assert_eq!(store.read_up_to(&key, 1, 9).unwrap(), b"bc");
        let mut byte = [0];
        store.read_range(&key, 2, &mut byte).unwrap();
        assert_eq!(&byte, b"c");
        assert_eq!(store.head(&key).unwrap().size, 3);
        assert_eq!(store.location(), "memory");
        assert!(store.has_classes() && store.lock_rule().is_some());
        assert_eq!(store.locked_until(&key).unwrap(), None);
        assert_eq!(store.versions("", None).unwrap(), VersionPage::default());
        inner.set_class(&key, &StorageClass::Glacier, &meta).unwrap();
        assert_eq!(store.class(&key).unwrap().availability, Availability::Cold);
        let thaw = Thaw { days: 1, speed: crate::storage::ThawSpeed::Bulk };
        assert_eq!(store.thaw(&key, thaw).unwrap(), Availability::Thawing);
    }
}
