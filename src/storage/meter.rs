//! A decorator that counts requests and bytes, for tests of cost and for the metrics.
//!
//! It counts what was asked, failures too; bytes only when the call succeeded.

use std::sync::{Arc, Mutex, PoisonError};

use super::{
    Availability, EachPage, LockRule, ObjectClass, ObjectKey, ObjectMeta, ObjectStore,
    ObjectWriter, Result, StorageClass, Thaw, Unfinished, VersionMark, VersionPage,
};
use crate::base::Timestamp;

/// How many calls of each kind, and how many bytes they carried.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Requests {
    /// Whole puts that replace.
    pub put: u64,
    /// Whole puts that do not replace.
    pub put_if_absent: u64,
    /// Streams begun.
    pub put_stream: u64,
    /// Streams finished.
    pub finish: u64,
    /// Whole reads.
    pub get: u64,
    /// Reads of exact ranges.
    pub read_range: u64,
    /// Reads up to a length.
    pub read_up_to: u64,
    /// Questions for existence and size.
    pub head: u64,
    /// Pages of lists.
    pub list: u64,
    /// Single removals.
    pub delete: u64,
    /// Batches of removals.
    pub delete_many: u64,
    /// Names in those batches.
    pub delete_many_keys: u64,
    /// Questions for a storage class.
    pub class: u64,
    /// Moves to a storage class.
    pub set_class: u64,
    /// Tags.
    pub tag: u64,
    /// Thaws that were asked for.
    pub thaw: u64,
    /// Locks.
    pub lock: u64,
    /// Questions for a lock.
    pub locked_until: u64,
    /// Pages of versions.
    pub versions: u64,
    /// Removals of versions.
    pub delete_version: u64,
    /// Bytes delivered by reads.
    pub bytes_read: u64,
    /// Bytes taken by puts and streams.
    pub bytes_written: u64,
}

impl Requests {
    /// Calls that read, of every kind.
    #[must_use]
    pub fn reads(&self) -> u64 {
        let of_bytes = self.get + self.read_range + self.read_up_to;
        of_bytes + self.head + self.list + self.class + self.locked_until + self.versions
    }

    /// Calls that change, of every kind; a stream counts when it is finished.
    #[must_use]
    pub fn writes(&self) -> u64 {
        let of_objects = self.put + self.put_if_absent + self.finish;
        let of_removals = self.delete + self.delete_many + self.delete_version;
        of_objects + of_removals + self.set_class + self.tag + self.thaw + self.lock
    }
}

#[derive(Debug, Clone, Default)]
struct Meter(Arc<Mutex<Requests>>);

impl Meter {
    fn count(&self, change: impl FnOnce(&mut Requests)) {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }

    fn read<T>(&self, outcome: Result<T>, length: impl FnOnce(&T) -> usize) -> Result<T> {
        if let Ok(value) = &outcome {
            let bytes = length(value) as u64;
            self.count(|requests| requests.bytes_read += bytes);
        }
        outcome
    }

    fn written(&self, outcome: Result<()>, body: &[u8]) -> Result<()> {
        if outcome.is_ok() {
            self.count(|requests| requests.bytes_written += body.len() as u64);
        }
        outcome
    }
}

/// A store that counts. Clones share the counters.
#[derive(Debug, Clone)]
pub struct MeteredStore<S> {
    inner: S,
    meter: Meter,
}

impl<S: ObjectStore> MeteredStore<S> {
    /// Counts from zero.
    pub fn new(inner: S) -> Self {
        Self { inner, meter: Meter::default() }
    }

    /// What was counted since the beginning or the last [`MeteredStore::reset`].
    #[must_use]
    pub fn requests(&self) -> Requests {
        *self.meter.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts again at zero and returns what was counted.
    pub fn reset(&self) -> Requests {
        let mut requests = self.meter.0.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut *requests)
    }
}

#[deny(clippy::missing_trait_methods)]
impl<S: ObjectStore> ObjectStore for MeteredStore<S> {
    fn location(&self) -> String {
        self.inner.location()
    }

    fn must_be_tried(&self) -> bool {
        self.inner.must_be_tried()
    }

    fn put(&self, key: &ObjectKey, body: &[u8]) -> Result<()> {
        self.meter.count(|requests| requests.put += 1);
        self.meter.written(self.inner.put(key, body), body)
    }

    fn put_if_absent(&self, key: &ObjectKey, body: &[u8]) -> Result<()> {
        self.meter.count(|requests| requests.put_if_absent += 1);
        let outcome = self.inner.put_if_absent(key, body);
        self.meter.written(outcome, body)
    }

    fn put_stream(&self, key: &ObjectKey) -> Result<Box<dyn ObjectWriter>> {
        self.meter.count(|requests| requests.put_stream += 1);
        Ok(Box::new(MeteredWriter {
            inner: self.inner.put_stream(key)?,
            meter: self.meter.clone(),
        }))
    }

    fn get(&self, key: &ObjectKey) -> Result<Vec<u8>> {
        self.meter.count(|requests| requests.get += 1);
        self.meter.read(self.inner.get(key), Vec::len)
    }

    fn read_range(&self, key: &ObjectKey, offset: u64, buffer: &mut [u8]) -> Result<()> {
        self.meter.count(|requests| requests.read_range += 1);
        let length = buffer.len();
        let outcome = self.inner.read_range(key, offset, buffer);
        self.meter.read(outcome, |()| length)
    }

    fn read_up_to(&self, key: &ObjectKey, offset: u64, length_max: usize) -> Result<Vec<u8>> {
        self.meter.count(|requests| requests.read_up_to += 1);
        let outcome = self.inner.read_up_to(key, offset, length_max);
        self.meter.read(outcome, Vec::len)
    }

    fn head(&self, key: &ObjectKey) -> Result<ObjectMeta> {
        self.meter.count(|requests| requests.head += 1);
        self.inner.head(key)
    }

    fn list(&self, prefix: &str, after: Option<&str>, count_max: usize) -> Result<Vec<ObjectMeta>> {
        self.meter.count(|requests| requests.list += 1);
        self.inner.list(prefix, after, count_max)
    }

    fn list_pages(
        &self,
        prefix: &str,
        after: Option<&str>,
        count_max: usize,
        each: &mut EachPage<'_>,
    ) -> Result<()> {
        self.meter.count(|requests| requests.list += 1);
        self.inner.list_pages(prefix, after, count_max, &mut |page| {
            let is_last = page.len() < count_max.max(1);
            let flow = each(page);
            if flow.is_continue() && !is_last {
                self.meter.count(|requests| requests.list += 1);
            }
            flow
        })
    }

    fn delete(&self, key: &ObjectKey) -> Result<()> {
        self.meter.count(|requests| requests.delete += 1);
        self.inner.delete(key)
    }

    fn delete_many(&self, keys: &[ObjectKey]) -> Result<()> {
        self.meter.count(|requests| {
            requests.delete_many += 1;
            requests.delete_many_keys += keys.len() as u64;
        });
        self.inner.delete_many(keys)
    }

    fn unfinished(&self) -> Result<Vec<Unfinished>> {
        self.meter.count(|requests| requests.list += 1);
        self.inner.unfinished()
    }

    fn discard(&self, unfinished: &Unfinished) -> Result<()> {
        self.meter.count(|requests| requests.delete += 1);
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
        self.meter.count(|requests| requests.class += 1);
        self.inner.class(key)
    }

    fn set_class(
        &self,
        key: &ObjectKey,
        class: &StorageClass,
        expected: &ObjectMeta,
    ) -> Result<()> {
        self.meter.count(|requests| requests.set_class += 1);
        self.inner.set_class(key, class, expected)
    }

    fn thaw(&self, key: &ObjectKey, thaw: Thaw) -> Result<Availability> {
        self.meter.count(|requests| requests.thaw += 1);
        self.inner.thaw(key, thaw)
    }

    fn tag(&self, key: &ObjectKey, name: &str, value: &str) -> Result<()> {
        self.meter.count(|requests| requests.tag += 1);
        self.inner.tag(key, name, value)
    }

    fn lock(&self, key: &ObjectKey, until: Timestamp) -> Result<()> {
        self.meter.count(|requests| requests.lock += 1);
        self.inner.lock(key, until)
    }

    fn locked_until(&self, key: &ObjectKey) -> Result<Option<Timestamp>> {
        self.meter.count(|requests| requests.locked_until += 1);
        self.inner.locked_until(key)
    }

    fn versions(&self, prefix: &str, after: Option<&VersionMark>) -> Result<VersionPage> {
        self.meter.count(|requests| requests.versions += 1);
        self.inner.versions(prefix, after)
    }

    fn delete_version(&self, key: &ObjectKey, id: &str) -> Result<()> {
        self.meter.count(|requests| requests.delete_version += 1);
        self.inner.delete_version(key, id)
    }
}

struct MeteredWriter {
    inner: Box<dyn ObjectWriter>,
    meter: Meter,
}

impl ObjectWriter for MeteredWriter {
    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        let outcome = self.inner.write(bytes);
        self.meter.written(outcome, bytes)
    }

    fn finish(self: Box<Self>) -> Result<u64> {
        self.meter.count(|requests| requests.finish += 1);
        self.inner.finish()
    }
}

#[cfg(test)]
mod tests {
    use std::ops::ControlFlow;

    use super::*;
    use crate::storage::{MemoryStore, conformance, pages_by_list};

    #[test]
    fn is_transparent() {
        conformance::run_all(&|| Box::new(MeteredStore::new(conformance::memory())));
    }

    #[test]
    fn counts_requests_and_bytes() {
        let store = MeteredStore::new(MemoryStore::new());
        let key = ObjectKey::new("a").unwrap();
        store.put(&key, b"12345").unwrap();
        store.put_if_absent(&key, b"12").unwrap_err();
        let mut writer = store.put_stream(&ObjectKey::new("b").unwrap()).unwrap();
        writer.write(b"123").unwrap();
        writer.finish().unwrap();
        store.get(&key).unwrap();
        store.read_range(&key, 1, &mut [0; 2]).unwrap();
        store.read_up_to(&key, 4, 10).unwrap();
        store.list("", None, 10).unwrap();
        store.delete_many(&[key.clone(), key]).unwrap();
        let expected = Requests {
            put: 1,
            put_if_absent: 1,
            put_stream: 1,
            finish: 1,
            get: 1,
            read_range: 1,
            read_up_to: 1,
            list: 1,
            delete_many: 1,
            delete_many_keys: 2,
            bytes_read: 5 + 2 + 1,
            bytes_written: 5 + 3,
            ..Requests::default()
        };
        assert_eq!(store.requests(), expected);
        assert_eq!((expected.reads(), expected.writes()), (4, 4));
        assert_eq!(store.reset(), expected);
        assert_eq!(store.clone().requests(), Requests::default());
    }

    /// Whether a store needs a request for each page of a list that goes on is its own matter: each counts.
    #[test]
    fn d2026_12_01_each_page_of_a_list_counts() {
        let store = MeteredStore::new(MemoryStore::new());
        for name in ["a", "b", "c", "d"] {
            store.put(&ObjectKey::new(name).unwrap(), b"").unwrap();
        }
        for count_max in 1..6 {
            let listed = |by: &dyn Fn(&mut EachPage<'_>)| {
                store.reset();
                let mut pages = 0;
                by(&mut |_| {
                    pages += 1;
                    ControlFlow::Continue(())
                });
                assert_eq!(store.requests().list, pages);
                pages
            };
            let at_once = listed(&|each| store.list_pages("", None, count_max, each).unwrap());
            let one_by_one =
                listed(&|each| pages_by_list(&store, "", None, count_max, each).unwrap());
            assert_eq!(at_once, one_by_one);
        }
        store.reset();
        store.list_pages("", None, 1, &mut |_| ControlFlow::Break(())).unwrap();
        assert_eq!(store.requests().list, 1);
    }

    #[test]
    fn counts_what_only_buckets_have() {
        let store = MeteredStore::new(conformance::memory());
        let key = ObjectKey::new("a").unwrap();
        store.put(&key, b"12345").unwrap();
        let meta = store.head(&key).unwrap();
        store.reset();
        store.set_class(&key, &StorageClass::Glacier, &meta).unwrap();
        store.class(&key).unwrap();
        store.tag(&key, "a", "b").unwrap();
        store.thaw(&key, Thaw { days: 1, speed: crate::storage::ThawSpeed::Bulk }).unwrap();
        store.lock(&key, Timestamp::UNIX_EPOCH).unwrap();
        store.locked_until(&key).unwrap();
        let hidden = store.versions("", None).unwrap().versions.remove(0);
        store.delete_version(&key, &hidden.id).unwrap();
        let expected = Requests {
            class: 1,
            set_class: 1,
            tag: 1,
            thaw: 1,
            lock: 1,
            locked_until: 1,
            versions: 1,
            delete_version: 1,
            ..Requests::default()
        };
        assert_eq!(store.requests(), expected);
        assert_eq!((expected.reads(), expected.writes()), (3, 5));
    }
}
