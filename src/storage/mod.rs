//! Objects: put whole or streamed, get ranges, list, delete. The interface and its obligations.
//!
//! A store is not a file system: names are flat strings, an object appears whole or not at all, and
//! nothing is changed in place. Calls block; a store that talks to a network keeps its runtime to
//! itself. Every implementation and every decorator passes [`conformance`].
//!
//! This room knows nothing of backups, manifests or encryption.

pub mod class;
#[doc(hidden)]
pub mod conformance;
pub mod error;
pub mod faulty;
pub mod kept;
pub mod key;
pub mod local;
pub mod lock;
pub mod memory;
pub mod meter;
pub mod pace;
pub mod readonly;
pub mod retry;
pub mod s3;
mod shared;
pub mod version;

use std::fmt::Debug;
use std::ops::ControlFlow;

use crate::base::Timestamp;

pub use class::{Availability, ObjectClass, StorageClass, Thaw, ThawSpeed, ThawTime};
pub use error::{Cause, Error, Result};
pub use faulty::FaultyStore;
pub use kept::{KEPT_FOR, KeptStore, Lasting};
pub use key::{InvalidKey, ObjectKey};
pub use local::LocalStore;
pub use lock::{LockMode, LockRule};
pub use memory::MemoryStore;
pub use meter::MeteredStore;
pub use readonly::ReadOnlyStore;
pub use retry::RetryPolicy;
pub use s3::{S3Options, S3Store};
pub use version::{Version, VersionMark, VersionPage};

/// What a store says about one object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectMeta {
    /// Its name.
    pub key: ObjectKey,
    /// Its length in bytes.
    pub size: u64,
    /// When it was stored or last replaced, by the store's clock; nothing where that is not known.
    pub stored: Option<Timestamp>,
    /// Its storage class; nothing where the store has none, or the answer was kept.
    pub class: Option<StorageClass>,
}

/// An object that was begun and neither finished nor given up: what a killed process leaves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unfinished {
    /// The name that it would have had.
    pub name: String,
    /// What tells it from others of that name.
    pub id: String,
    /// When it was begun, by the store's clock.
    pub begun: Timestamp,
}

/// Takes the pages of a list.
pub type EachPage<'e> = dyn FnMut(Vec<ObjectMeta>) -> ControlFlow<()> + 'e;

/// A place that holds objects.
///
/// Obligations of every implementation:
/// - **Whole or nothing.** An object is visible under its name only when all of its bytes are
///   there and durable; a writer that dies or is dropped leaves no object.
/// - **Durable on return.** When a put returns `Ok`, the object survives a power cut.
/// - **A taken name is durable.** [`Error::AlreadyExists`] is returned only when the object that
///   holds the name would survive a power cut too: its writer may have died between naming it and
///   making the name durable, and an `archive-push` that meets its own earlier work answers
///   "archived" on the strength of this error. A get, list or head makes no such promise.
/// - **Absence is proof.** [`Error::NotFound`] is returned only when the store itself said so,
///   never for a lost mount, a denied permission or an unreachable server.
/// - **Read your writes.** A get, head or list that begins after a put returned shows the object.
/// - **Names cannot escape** the root of the store: [`ObjectKey`] admits no such name.
/// - **A class changes no byte.** An object that is moved to another storage class, or thawed, is the same
///   object for every reader that may read it; whoever dies while moving it leaves it in one class or the other.
/// - **A lock is kept.** What is locked is not removed by anybody before its lock ends: neither by a delete nor
///   by a put. Where there are versions, both only hide it.
///
/// Obligation of the callers: no name is both an object and, up to a slash, the beginning of
/// another. Folders cannot hold such a pair; [`MemoryStore`] refuses it so that tests notice.
pub trait ObjectStore: Send + Sync + Debug {
    /// Where this store is, for messages; holds no secrets.
    fn location(&self) -> String;

    /// Whether put-if-absent has to be tried before anything rests on it: behind a protocol, a server may
    /// accept the condition and ignore it.
    fn must_be_tried(&self) -> bool {
        false
    }

    /// Stores a whole object and replaces what was there. For names that are unique by their
    /// making.
    ///
    /// # Errors
    /// Any but `NotFound` and `AlreadyExists`.
    fn put(&self, key: &ObjectKey, body: &[u8]) -> Result<()>;

    /// Stores a whole object unless the name is taken. Of any number of concurrent calls for one
    /// name exactly one succeeds.
    ///
    /// # Errors
    /// [`Error::AlreadyExists`]; with any other error the object may or may not be there: read it
    /// back before deciding.
    fn put_if_absent(&self, key: &ObjectKey, body: &[u8]) -> Result<()>;

    /// Begins an object whose bytes come in pieces. Nothing is visible before
    /// [`ObjectWriter::finish`]; dropping the writer abandons it.
    ///
    /// # Errors
    /// Any but `NotFound` and `AlreadyExists`.
    fn put_stream(&self, key: &ObjectKey) -> Result<Box<dyn ObjectWriter>>;

    /// Reads a whole object.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::Short`] is not possible.
    fn get(&self, key: &ObjectKey) -> Result<Vec<u8>>;

    /// Reads `buffer.len()` bytes from `offset` on.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::Short`] when the object ends before the range does.
    fn read_range(&self, key: &ObjectKey, offset: u64, buffer: &mut [u8]) -> Result<()>;

    /// Reads from `offset` on, at most `length_max` bytes, fewer at the end of the object (none
    /// when `offset` is at or past it). One request.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    fn read_up_to(&self, key: &ObjectKey, offset: u64, length_max: usize) -> Result<Vec<u8>>;

    /// Whether the object is there, and its size.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    fn head(&self, key: &ObjectKey) -> Result<ObjectMeta>;

    /// Names beginning with `prefix`, in byte order, strictly after `after` when it is given, at
    /// most `count_max` (at least 1). The prefix is text, not a folder: `wal/0` matches `wal/00`.
    /// A shorter answer than `count_max` is the end of the list.
    ///
    /// # Errors
    /// Any but `NotFound`: a prefix that nothing matches is an empty list.
    fn list(&self, prefix: &str, after: Option<&str>, count_max: usize) -> Result<Vec<ObjectMeta>>;

    /// Calls `each` with what [`ObjectStore::list`] says, page by page, until it breaks or has had the last page,
    /// which alone is shorter than `count_max` and may be empty. It is one list: what is put after the call began
    /// may be missing in it, and what is removed of a page moves no other. So a store of which the pages cost the
    /// more the more there is beside them need not begin anew with each.
    ///
    /// # Errors
    /// As [`ObjectStore::list`].
    fn list_pages(
        &self,
        prefix: &str,
        after: Option<&str>,
        count_max: usize,
        each: &mut EachPage<'_>,
    ) -> Result<()> {
        pages_by_list(self, prefix, after, count_max, each)
    }

    /// Removes an object; one that is not there is success. Where the store keeps versions, it is hidden, locked
    /// or not.
    ///
    /// # Errors
    /// [`Error::Locked`]; any but `NotFound`.
    fn delete(&self, key: &ObjectKey) -> Result<()>;

    /// Removes many objects, in the given order as far as the store has an order. After an error
    /// some may be gone.
    ///
    /// # Errors
    /// As [`ObjectStore::delete`].
    fn delete_many(&self, keys: &[ObjectKey]) -> Result<()> {
        keys.iter().try_for_each(|key| self.delete(key))
    }

    /// What writers left that were killed, or are at work: only its age tells.
    ///
    /// # Errors
    /// As [`ObjectStore::list`].
    fn unfinished(&self) -> Result<Vec<Unfinished>> {
        Ok(Vec::new())
    }

    /// Removes what a killed writer left; what is gone is success. A writer that is still at work fails.
    ///
    /// # Errors
    /// As [`ObjectStore::delete`].
    fn discard(&self, unfinished: &Unfinished) -> Result<()> {
        let _ = unfinished;
        Ok(())
    }

    /// Whether objects have storage classes here, of which some must be thawed before they are read. Behind a
    /// protocol a server may still have none: it refuses, or [`ObjectStore::set_class`] finds out.
    fn has_classes(&self) -> bool {
        false
    }

    /// Whether what is replaced, moved to another class or removed stays behind as a version, and is paid for. Where
    /// that cannot be told, it does.
    ///
    /// # Errors
    /// As [`ObjectStore::list`].
    fn has_versions(&self) -> Result<bool> {
        Ok(false)
    }

    /// By which rule what is put is locked; nothing where objects are not locked.
    fn lock_rule(&self) -> Option<LockRule> {
        None
    }

    /// The storage class of an object, and whether it can be read.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    fn class(&self, key: &ObjectKey) -> Result<ObjectClass> {
        self.head(key).map(|_| ObjectClass::ONLINE)
    }

    /// Moves an object to a storage class; nothing is done where it is in it already. `expected` is what the
    /// caller knows of it: one of another size is another object, and one in another class was moved by somebody
    /// else since, perhaps to a colder one. How long that takes, its size says. What a
    /// killed call leaves is the object in one of the two classes, and perhaps something [`Unfinished`].
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::Cold`] for one that is to be thawed before; [`Error::Changed`];
    /// [`Error::Unsupported`] where there are no classes, or not this one. With any other error the object may
    /// or may not have been moved.
    fn set_class(
        &self,
        key: &ObjectKey,
        class: &StorageClass,
        expected: &ObjectMeta,
    ) -> Result<()> {
        let _ = (class, expected);
        Err(Error::lacking("move", key, "storage classes"))
    }

    /// Gives an object a tag beside those that it has, for rules of the bucket that go by it.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::Unsupported`] where there are no tags.
    fn tag(&self, key: &ObjectKey, name: &str, value: &str) -> Result<()> {
        let _ = (name, value);
        Err(Error::lacking("tag", key, "tags"))
    }

    /// Asks for a cold object to be made readable, and tells how far that is. To ask again does no harm: a thaw
    /// under way goes on (faster, where that was asked for), a thawed copy stays as long as the one who asked
    /// for longest wants it. An object that is not cold is online.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::Unsupported`] for a speed that the class does not have.
    fn thaw(&self, key: &ObjectKey, thaw: Thaw) -> Result<Availability> {
        let _ = thaw;
        self.class(key).map(|class| class.availability)
    }

    /// Locks an object until then at least: a lock that lasts longer stays.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::Unsupported`] where there are no locks.
    fn lock(&self, key: &ObjectKey, until: Timestamp) -> Result<()> {
        let _ = until;
        Err(Error::lacking("lock", key, "locks"))
    }

    /// Until when an object is locked; nothing where it never was. A moment that has passed locks nothing.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    fn locked_until(&self, key: &ObjectKey) -> Result<Option<Timestamp>> {
        self.head(key).map(|_| None)
    }

    /// Versions that are not the current object of their names, markers of deletions included, whose names begin
    /// with `prefix`; `after` is where the page before it said to go on. None where the store keeps none.
    ///
    /// # Errors
    /// As [`ObjectStore::list`].
    fn versions(&self, prefix: &str, after: Option<&VersionMark>) -> Result<VersionPage> {
        let _ = (prefix, after);
        Ok(VersionPage::default())
    }

    /// Removes a version for good; one that is not there is success. Without the marker that was the newest of
    /// its name, the object is there again.
    ///
    /// # Errors
    /// [`Error::Locked`]; [`Error::Unsupported`] where the store keeps no versions.
    fn delete_version(&self, key: &ObjectKey, id: &str) -> Result<()> {
        let _ = id;
        Err(Error::lacking("delete a version of", key, "versions"))
    }
}

/// An object being written. Dropping it without [`ObjectWriter::finish`] leaves nothing behind.
pub trait ObjectWriter: Send {
    /// Appends bytes.
    ///
    /// # Errors
    /// After an error the writer is useless: drop it.
    fn write(&mut self, bytes: &[u8]) -> Result<()>;

    /// Makes the object durable and visible; returns its size. The name must not exist.
    ///
    /// # Errors
    /// [`Error::AlreadyExists`]; any other error leaves it open whether the object is there.
    fn finish(self: Box<Self>) -> Result<u64>;
}

/// Every object whose name begins with `prefix`, page by page.
///
/// # Errors
/// As [`ObjectStore::list`].
pub fn list_all(store: &dyn ObjectStore, prefix: &str) -> Result<Vec<ObjectMeta>> {
    let mut found = Vec::new();
    each_page(store, prefix, |page| {
        found.extend(page);
        Ok::<_, Error>(())
    })?;
    Ok(found)
}

/// As [`list_all`], a thousand objects at a time, for what need not be in memory at once. What `work` removes of a page
/// does not move the next one.
///
/// # Errors
/// As [`ObjectStore::list`], and as `work`'s.
pub fn each_page<E: From<Error>>(
    store: &dyn ObjectStore,
    prefix: &str,
    mut work: impl FnMut(Vec<ObjectMeta>) -> std::result::Result<(), E>,
) -> std::result::Result<(), E> {
    const PAGE: usize = 1000;
    each_page_after(store, prefix, None, PAGE, |page| work(page).map(ControlFlow::Continue))
}

/// As [`each_page`], behind a name, so many objects at a time, until `work` breaks.
///
/// # Errors
/// As [`ObjectStore::list`], and as `work`'s.
pub fn each_page_after<E: From<Error>>(
    store: &dyn ObjectStore,
    prefix: &str,
    after: Option<&str>,
    count_max: usize,
    mut work: impl FnMut(Vec<ObjectMeta>) -> std::result::Result<ControlFlow<()>, E>,
) -> std::result::Result<(), E> {
    let mut failure = None;
    store.list_pages(prefix, after, count_max, &mut |page| {
        work(page).unwrap_or_else(|error| {
            failure = Some(error);
            ControlFlow::Break(())
        })
    })?;
    failure.map_or(Ok(()), Err)
}

/// [`ObjectStore::list_pages`] by a request for each page: for stores that have nothing better, and for decorators that
/// look at each.
///
/// # Errors
/// As [`ObjectStore::list`].
pub fn pages_by_list<S: ObjectStore + ?Sized>(
    store: &S,
    prefix: &str,
    after: Option<&str>,
    count_max: usize,
    each: &mut EachPage<'_>,
) -> Result<()> {
    let count_max = count_max.max(1);
    let mut after = after.map(str::to_owned);
    loop {
        let page = store.list(prefix, after.as_deref(), count_max)?;
        let last = page.last().filter(|_| page.len() >= count_max);
        let next = last.map(|meta| meta.key.to_string());
        if each(page).is_break() || next.is_none() {
            return Ok(());
        }
        after = next;
    }
}

/// Every version that is not a current object and whose name begins with `prefix`.
///
/// # Errors
/// As [`ObjectStore::versions`].
pub fn list_versions(store: &dyn ObjectStore, prefix: &str) -> Result<Vec<Version>> {
    let (mut found, mut after) = (Vec::new(), None);
    loop {
        let page = store.versions(prefix, after.as_ref())?;
        found.extend(page.versions);
        match page.next {
            Some(next) => after = Some(next),
            None => return Ok(found),
        }
    }
}

/// Removes what killed writers left before `older_than`, and tells how much that was.
///
/// # Errors
/// As [`ObjectStore::unfinished`] and [`ObjectStore::discard`].
pub fn sweep_unfinished(store: &dyn ObjectStore, older_than: Timestamp) -> Result<usize> {
    let mut old = store.unfinished()?;
    old.retain(|each| each.begun < older_than);
    old.iter().try_for_each(|each| store.discard(each))?;
    Ok(old.len())
}
