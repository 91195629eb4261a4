//! A decorator that fails on purpose: by operation number, for good or once, or by chance.
//!
//! For crash sweeps: run once to learn how many operations there are, then once for every `k` with
//! [`FaultyStore::die_at`], and look at what the inner store holds. Each call of the trait and each
//! call of a writer is one operation, counted from 1 over all clones. It also delivers wrong bytes.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{
    Availability, EachPage, Error, LockRule, ObjectClass, ObjectKey, ObjectMeta, ObjectStore,
    ObjectWriter, Result, StorageClass, Thaw, Unfinished, VersionMark, VersionPage, pages_by_list,
};
use crate::base::Timestamp;

/// Whether the operation that fails took effect: the request was lost, or only its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// The store never saw the operation.
    None,
    /// The store carried it out, the caller is told that it failed.
    Full,
}

/// One line of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Operation {
    /// The method: `put`, `get`, `write`, `finish`, ...
    pub name: &'static str,
    /// The object, the prefix of a list, or the first name of a batch.
    pub key: String,
}

/// Wrong bytes in what reads deliver of one object.
#[derive(Debug, Clone, Default)]
struct Damage {
    flips: Vec<(u64, u8)>,
    length: Option<u64>,
}

impl Damage {
    fn size(&self, size: u64) -> u64 {
        self.length.map_or(size, |length| length.min(size))
    }

    /// Flips what lies within `bytes`, which begin at `offset` of the object.
    fn flip(&self, offset: u64, bytes: &mut [u8]) {
        for (at, xor) in &self.flips {
            let index = at.checked_sub(offset).and_then(|i| usize::try_from(i).ok());
            if let Some(byte) = index.and_then(|index| bytes.get_mut(index)) {
                *byte ^= xor;
            }
        }
    }
}

#[derive(Debug, Default)]
struct Script {
    log: Vec<Operation>,
    deadly: Option<(u64, Effect)>,
    failing: BTreeMap<u64, Effect>,
    random: Option<(u64, u64)>,
    damage: BTreeMap<String, Damage>,
}

impl Script {
    fn number(&self) -> u64 {
        self.log.len() as u64
    }

    fn is_dead(&self) -> bool {
        self.deadly.is_some_and(|(from, _)| self.number() >= from)
    }

    /// What becomes of the operation that was logged last, with the reason.
    fn verdict(&self) -> Option<(Effect, String)> {
        let number = self.number();
        if let Some((from, effect)) = self.deadly
            && number >= from
        {
            let effect = if number == from { effect } else { Effect::None };
            return Some((effect, format!("dead since operation {from}")));
        }
        if let Some(effect) = self.failing.get(&number) {
            return Some((*effect, "fails once".to_owned()));
        }
        let (seed, one_in) = self.random?;
        let draw = scramble(seed ^ scramble(number));
        let effect = [Effect::None, Effect::Full][usize::from(draw >> 63 == 1)];
        draw.is_multiple_of(one_in).then(|| (effect, format!("fails by chance, seed {seed}")))
    }
}

/// The finalizer of splitmix64: the same faults for the same seed, without a state to share.
fn scramble(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

#[derive(Debug, Clone, Default)]
struct Shared(Arc<Mutex<Script>>);

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Script> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts, then does what the script says: act, fail, or act and fail.
    fn run<T>(&self, name: &'static str, key: &str, act: impl FnOnce() -> Result<T>) -> Result<T> {
        let (number, verdict) = {
            let mut script = self.lock();
            let key = key.to_owned();
            script.log.push(Operation { name, key });
            (script.number(), script.verdict())
        };
        let Some((effect, reason)) = verdict else {
            return act();
        };
        if effect == Effect::Full {
            drop(act());
        }
        Err(Error::Io {
            operation: name,
            key: key.to_owned(),
            source: io::Error::other(format!("injected: operation {number} {reason}")),
        })
    }

    fn damage(&self, key: &ObjectKey) -> Damage {
        let script = self.lock();
        script.damage.get(key.as_str()).cloned().unwrap_or_default()
    }

    fn damaged(&self, mut meta: ObjectMeta) -> ObjectMeta {
        meta.size = self.damage(&meta.key).size(meta.size);
        meta
    }
}

/// A store that fails by script. Clones share the script; without one it is transparent.
#[derive(Debug, Clone)]
pub struct FaultyStore<S> {
    inner: S,
    shared: Shared,
}

impl<S: ObjectStore> FaultyStore<S> {
    /// Without faults, but counting.
    pub fn new(inner: S) -> Self {
        Self { inner, shared: Shared::default() }
    }

    /// The store as it is after the crash.
    pub fn inner(&self) -> &S {
        &self.inner
    }

    /// Operation `number` and all later ones fail: the process is dead, and its open writers leave
    /// what a killed process leaves.
    pub fn die_at(&self, number: u64, effect: Effect) {
        self.shared.lock().deadly = Some((number, effect));
    }

    /// Operation `number` fails, later ones do not.
    pub fn fail_at(&self, number: u64, effect: Effect) {
        self.shared.lock().failing.insert(number, effect);
    }

    /// About one operation in `one_in` (at least 1) fails, half of them after taking effect. Which
    /// ones follows from the seed and the operation's number; the error names the seed.
    pub fn fail_randomly(&self, seed: u64, one_in: u64) {
        self.shared.lock().random = Some((seed, one_in.max(1)));
    }

    /// Forgets all faults and damage; the count and the log go on.
    pub fn heal(&self) {
        let mut script = self.shared.lock();
        let log = std::mem::take(&mut script.log);
        *script = Script { log, ..Script::default() };
    }

    /// Reads of `key` deliver the byte at `offset` changed by `xor`.
    pub fn corrupt(&self, key: &ObjectKey, offset: u64, xor: u8) {
        let mut script = self.shared.lock();
        let damage = script.damage.entry(key.as_str().to_owned()).or_default();
        damage.flips.push((offset, xor));
    }

    /// Reads, heads and lists show only the first `length` bytes of `key`.
    pub fn truncate(&self, key: &ObjectKey, length: u64) {
        let mut script = self.shared.lock();
        let damage = script.damage.entry(key.as_str().to_owned()).or_default();
        damage.length = Some(length);
    }

    /// How many operations there were.
    #[must_use]
    pub fn operations(&self) -> u64 {
        self.shared.lock().number()
    }

    /// What they were; operation `k` is at index `k - 1`.
    #[must_use]
    pub fn log(&self) -> Vec<Operation> {
        self.shared.lock().log.clone()
    }
}

#[deny(clippy::missing_trait_methods)]
impl<S: ObjectStore> ObjectStore for FaultyStore<S> {
    fn location(&self) -> String {
        self.inner.location()
    }

    fn must_be_tried(&self) -> bool {
        self.inner.must_be_tried()
    }

    fn put(&self, key: &ObjectKey, body: &[u8]) -> Result<()> {
        self.shared.run("put", key.as_str(), || self.inner.put(key, body))
    }

    fn put_if_absent(&self, key: &ObjectKey, body: &[u8]) -> Result<()> {
        self.shared.run("put_if_absent", key.as_str(), || self.inner.put_if_absent(key, body))
    }

    fn put_stream(&self, key: &ObjectKey) -> Result<Box<dyn ObjectWriter>> {
        self.shared.run("put_stream", key.as_str(), || {
            Ok(Box::new(FaultyWriter {
                inner: Some(self.inner.put_stream(key)?),
                key: key.clone(),
                shared: self.shared.clone(),
            }) as Box<dyn ObjectWriter>)
        })
    }

    fn get(&self, key: &ObjectKey) -> Result<Vec<u8>> {
        self.shared.run("get", key.as_str(), || {
            let damage = self.shared.damage(key);
            let mut bytes = self.inner.get(key)?;
            bytes.truncate(usize::try_from(damage.size(u64::MAX)).unwrap_or(usize::MAX));
            damage.flip(0, &mut bytes);
            Ok(bytes)
        })
    }

    fn read_range(&self, key: &ObjectKey, offset: u64, buffer: &mut [u8]) -> Result<()> {
        self.shared.run("read_range", key.as_str(), || {
            let damage = self.shared.damage(key);
            self.inner.read_range(key, offset, buffer)?;
            let wanted_end = offset.saturating_add(buffer.len() as u64);
            let size = damage.size(wanted_end);
            if size < wanted_end {
                buffer.fill(0);
                let key = key.clone();
                return Err(Error::Short { key, wanted_end, size });
            }
            damage.flip(offset, buffer);
            Ok(())
        })
    }

    fn read_up_to(&self, key: &ObjectKey, offset: u64, length_max: usize) -> Result<Vec<u8>> {
        self.shared.run("read_up_to", key.as_str(), || {
            let damage = self.shared.damage(key);
            let mut bytes = self.inner.read_up_to(key, offset, length_max)?;
            let left = damage.size(u64::MAX).saturating_sub(offset);
            bytes.truncate(usize::try_from(left).unwrap_or(usize::MAX));
            damage.flip(offset, &mut bytes);
            Ok(bytes)
        })
    }

    fn head(&self, key: &ObjectKey) -> Result<ObjectMeta> {
        self.shared.run("head", key.as_str(), || Ok(self.shared.damaged(self.inner.head(key)?)))
    }

    fn list(&self, prefix: &str, after: Option<&str>, count_max: usize) -> Result<Vec<ObjectMeta>> {
        self.shared.run("list", prefix, || {
            let page = self.inner.list(prefix, after, count_max)?;
            Ok(page.into_iter().map(|meta| self.shared.damaged(meta)).collect())
        })
    }

    fn list_pages(
        &self,
        prefix: &str,
        after: Option<&str>,
        count_max: usize,
        each: &mut EachPage<'_>,
    ) -> Result<()> {
        // Each page is an operation that may fail.
        pages_by_list(self, prefix, after, count_max, each)
    }

    fn delete(&self, key: &ObjectKey) -> Result<()> {
        self.shared.run("delete", key.as_str(), || self.inner.delete(key))
    }

    fn delete_many(&self, keys: &[ObjectKey]) -> Result<()> {
        let first = keys.first().map_or("", ObjectKey::as_str);
        self.shared.run("delete_many", first, || self.inner.delete_many(keys))
    }

    fn unfinished(&self) -> Result<Vec<Unfinished>> {
        self.shared.run("unfinished", "", || self.inner.unfinished())
    }

    fn discard(&self, unfinished: &Unfinished) -> Result<()> {
        self.shared.run("discard", &unfinished.name, || self.inner.discard(unfinished))
    }

    fn has_classes(&self) -> bool {
        self.inner.has_classes()
    }

    fn has_versions(&self) -> Result<bool> {
        self.shared.run("has_versions", "", || self.inner.has_versions())
    }

    fn lock_rule(&self) -> Option<LockRule> {
        self.inner.lock_rule()
    }

    fn class(&self, key: &ObjectKey) -> Result<ObjectClass> {
        self.shared.run("class", key.as_str(), || self.inner.class(key))
    }

    fn set_class(
        &self,
        key: &ObjectKey,
        class: &StorageClass,
        expected: &ObjectMeta,
    ) -> Result<()> {
        self.shared.run("set_class", key.as_str(), || self.inner.set_class(key, class, expected))
    }

    fn thaw(&self, key: &ObjectKey, thaw: Thaw) -> Result<Availability> {
        self.shared.run("thaw", key.as_str(), || self.inner.thaw(key, thaw))
    }

    fn tag(&self, key: &ObjectKey, name: &str, value: &str) -> Result<()> {
        self.shared.run("tag", key.as_str(), || self.inner.tag(key, name, value))
    }

    fn lock(&self, key: &ObjectKey, until: Timestamp) -> Result<()> {
        self.shared.run("lock", key.as_str(), || self.inner.lock(key, until))
    }

    fn locked_until(&self, key: &ObjectKey) -> Result<Option<Timestamp>> {
        self.shared.run("locked_until", key.as_str(), || self.inner.locked_until(key))
    }

    fn versions(&self, prefix: &str, after: Option<&VersionMark>) -> Result<VersionPage> {
        self.shared.run("versions", prefix, || self.inner.versions(prefix, after))
    }

    fn delete_version(&self, key: &ObjectKey, id: &str) -> Result<()> {
        self.shared.run("delete_version", key.as_str(), || self.inner.delete_version(key, id))
    }
}

struct FaultyWriter {
    inner: Option<Box<dyn ObjectWriter>>,
    key: ObjectKey,
    shared: Shared,
}

impl FaultyWriter {
    fn used_up(&self) -> Error {
        Error::Io {
            operation: "write",
            key: self.key.as_str().to_owned(),
            source: io::Error::other("the writer is used up"),
        }
    }
}

impl ObjectWriter for FaultyWriter {
    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        let used_up = self.used_up();
        let inner = self.inner.as_mut();
        self.shared.run("write", self.key.as_str(), || inner.ok_or(used_up)?.write(bytes))
    }

    fn finish(mut self: Box<Self>) -> Result<u64> {
        let used_up = self.used_up();
        let inner = &mut self.inner;
        self.shared.run("finish", self.key.as_str(), || inner.take().ok_or(used_up)?.finish())
    }
}

impl Drop for FaultyWriter {
    fn drop(&mut self) {
        // A dead process does not tidy up: what the writer has on disk stays there.
        if self.shared.lock().is_dead() {
            std::mem::forget(self.inner.take());
        }
    }
}

#[cfg(test)]
mod tests;
