//! A decorator that counts requests and bytes, for tests of cost and for the metrics.
//!
//! It counts what was asked, failures too; bytes only when the call succeeded.

use std::sync::{Arc, Mutex, PoisonError};

use super::{ObjectKey, ObjectMeta, ObjectStore, ObjectWriter, Result, Unfinished};

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
    /// Bytes delivered by reads.
    pub bytes_read: u64,
    /// Bytes taken by puts and streams.
    pub bytes_written: u64,
}

impl Requests {
    /// Calls that read, of every kind.
    #[must_use]
    pub fn reads(&self) -> u64 {
        self.get + self.read_range + self.read_up_to + self.head + self.list
    }

    /// Calls that change, of every kind; a stream counts when it is finished.
    #[must_use]
    pub fn writes(&self) -> u64 {
        self.put + self.put_if_absent + self.finish + self.delete + self.delete_many
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
    use super::*;
    use crate::storage::{MemoryStore, conformance};

    #[test]
    fn is_transparent() {
        conformance::run_all(&|| Box::new(MeteredStore::new(MemoryStore::new())));
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
}
