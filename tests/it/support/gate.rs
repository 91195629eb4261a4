//! A process that is stopped in the middle: its store holds one operation back, and all that come after it, until the
//! process is told to go on, or is killed. Meanwhile others work, and time passes.

use std::sync::{Arc, Condvar, Mutex, MutexGuard};

use pgkeep::base::Timestamp;
use pgkeep::storage::{
    self, Availability, EachPage, Error, LockRule, MemoryStore, ObjectClass, ObjectKey, ObjectMeta,
    ObjectStore, ObjectWriter, Result, StorageClass, Thaw, Unfinished, VersionMark, VersionPage,
};

/// Operations that change something.
const CHANGES: [&str; 7] =
    ["put", "put_if_absent", "put_stream", "delete", "delete_many", "set_class", "thaw"];

/// The store of one process. Its operations come one after another.
#[derive(Debug, Clone)]
pub struct Gate {
    store: MemoryStore,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    operations: u64,
    stops_at: u64,
    changes: u64,
    stops_at_change: u64,
    stops_before: Option<String>,
    /// The operation that is held back, by its name and object.
    held: Option<String>,
    is_dead: bool,
    has_ended: bool,
}

/// Tells whoever waits that the process has ended, also when it panicked. What it leaves to others is not stopped.
pub struct Ending(Gate);

impl Drop for Ending {
    fn drop(&mut self) {
        self.0.state().has_ended = true;
        self.0.shared.changed.notify_all();
    }
}

impl Gate {
    /// A process that goes on.
    pub fn new(store: &MemoryStore) -> Self {
        let state = Mutex::new(State::default());
        Self { store: store.clone(), shared: Arc::new(Shared { state, changed: Condvar::new() }) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().unwrap()
    }

    /// It is stopped before the `number`th operation from now on.
    pub fn stop_at(&self, number: u64) {
        let mut state = self.state();
        state.stops_at = state.operations + number;
    }

    /// The same, counting only what changes something.
    pub fn stop_at_change(&self, number: u64) {
        let mut state = self.state();
        state.stops_at_change = state.changes + number;
    }

    /// The same, before the first whose name and object begin like that.
    pub fn stop_before(&self, what: &str) {
        self.state().stops_before = Some(what.to_owned());
    }

    /// To be dropped at the process's end.
    pub fn ending(&self) -> Ending {
        Ending(self.clone())
    }

    /// Waits until the process is stopped, and says at what; nothing when it has ended without.
    pub fn wait(&self) -> Option<String> {
        let state = self.state();
        let is_at_work = |state: &mut State| state.held.is_none() && !state.has_ended;
        self.shared.changed.wait_while(state, is_at_work).unwrap().held.clone()
    }

    /// Lets it go on; a dead process's operations fail.
    pub fn release(&self, is_dead: bool) {
        let mut state = self.state();
        (state.held, state.is_dead) = (None, is_dead);
        drop(state);
        self.shared.changed.notify_all();
    }

    fn pass<T>(&self, name: &'static str, key: &str, act: impl FnOnce() -> Result<T>) -> Result<T> {
        let is_stopped = |state: &mut State| state.held.is_some();
        let mut state = self.shared.changed.wait_while(self.state(), is_stopped).unwrap();
        let is_change = CHANGES.contains(&name);
        state.operations += 1;
        state.changes += u64::from(is_change);
        let what = format!("{name} {key}");
        let is_meant = state.stops_before.as_ref().is_some_and(|begins| what.starts_with(begins));
        let is_its_turn = state.operations == state.stops_at
            || (is_change && state.changes == state.stops_at_change)
            || is_meant;
        if is_its_turn && !state.has_ended {
            state.stops_before = None;
            state.held = Some(what);
            self.shared.changed.notify_all();
            state = self.shared.changed.wait_while(state, is_stopped).unwrap();
        }
        if state.is_dead {
            let source = std::io::Error::other("this process was killed");
            return Err(Error::Io { operation: name, key: key.to_owned(), source });
        }
        // Under the lock: where one is held back, none is under way.
        act()
    }
}

#[deny(clippy::missing_trait_methods)]
impl ObjectStore for Gate {
    fn location(&self) -> String {
        self.store.location()
    }

    fn must_be_tried(&self) -> bool {
        self.store.must_be_tried()
    }

    fn put(&self, key: &ObjectKey, body: &[u8]) -> Result<()> {
        self.pass("put", key.as_str(), || self.store.put(key, body))
    }

    fn put_if_absent(&self, key: &ObjectKey, body: &[u8]) -> Result<()> {
        self.pass("put_if_absent", key.as_str(), || self.store.put_if_absent(key, body))
    }

    fn put_stream(&self, key: &ObjectKey) -> Result<Box<dyn ObjectWriter>> {
        self.pass("put_stream", key.as_str(), || self.store.put_stream(key))
    }

    fn get(&self, key: &ObjectKey) -> Result<Vec<u8>> {
        self.pass("get", key.as_str(), || self.store.get(key))
    }

    fn read_range(&self, key: &ObjectKey, offset: u64, buffer: &mut [u8]) -> Result<()> {
        self.pass("read_range", key.as_str(), || self.store.read_range(key, offset, buffer))
    }

    fn read_up_to(&self, key: &ObjectKey, offset: u64, length_max: usize) -> Result<Vec<u8>> {
        self.pass("read_up_to", key.as_str(), || self.store.read_up_to(key, offset, length_max))
    }

    fn head(&self, key: &ObjectKey) -> Result<ObjectMeta> {
        self.pass("head", key.as_str(), || self.store.head(key))
    }

    fn list(&self, prefix: &str, after: Option<&str>, count_max: usize) -> Result<Vec<ObjectMeta>> {
        self.pass("list", prefix, || self.store.list(prefix, after, count_max))
    }

    fn list_pages(
        &self,
        prefix: &str,
        after: Option<&str>,
        count_max: usize,
        each: &mut EachPage<'_>,
    ) -> Result<()> {
        // Each page is an operation.
        storage::pages_by_list(self, prefix, after, count_max, each)
    }

    fn delete(&self, key: &ObjectKey) -> Result<()> {
        self.pass("delete", key.as_str(), || self.store.delete(key))
    }

    fn delete_many(&self, keys: &[ObjectKey]) -> Result<()> {
        let first = keys.first().map_or("", ObjectKey::as_str);
        self.pass("delete_many", first, || self.store.delete_many(keys))
    }

    fn unfinished(&self) -> Result<Vec<Unfinished>> {
        self.pass("unfinished", "", || self.store.unfinished())
    }

    fn discard(&self, unfinished: &Unfinished) -> Result<()> {
        self.pass("discard", &unfinished.name, || self.store.discard(unfinished))
    }

    fn has_classes(&self) -> bool {
        self.store.has_classes()
    }

    fn has_versions(&self) -> Result<bool> {
        self.store.has_versions()
    }

    fn lock_rule(&self) -> Option<LockRule> {
        self.store.lock_rule()
    }

    fn class(&self, key: &ObjectKey) -> Result<ObjectClass> {
        self.pass("class", key.as_str(), || self.store.class(key))
    }

    fn set_class(
        &self,
        key: &ObjectKey,
        class: &StorageClass,
        expected: &ObjectMeta,
    ) -> Result<()> {
        self.pass("set_class", key.as_str(), || self.store.set_class(key, class, expected))
    }

    fn thaw(&self, key: &ObjectKey, thaw: Thaw) -> Result<Availability> {
        self.pass("thaw", key.as_str(), || self.store.thaw(key, thaw))
    }

    fn tag(&self, key: &ObjectKey, name: &str, value: &str) -> Result<()> {
        self.pass("tag", key.as_str(), || self.store.tag(key, name, value))
    }

    fn lock(&self, key: &ObjectKey, until: Timestamp) -> Result<()> {
        self.pass("lock", key.as_str(), || self.store.lock(key, until))
    }

    fn locked_until(&self, key: &ObjectKey) -> Result<Option<Timestamp>> {
        self.pass("locked_until", key.as_str(), || self.store.locked_until(key))
    }

    fn versions(&self, prefix: &str, after: Option<&VersionMark>) -> Result<VersionPage> {
        self.pass("versions", prefix, || self.store.versions(prefix, after))
    }

    fn delete_version(&self, key: &ObjectKey, id: &str) -> Result<()> {
        self.pass("delete_version", key.as_str(), || self.store.delete_version(key, id))
    }
}
