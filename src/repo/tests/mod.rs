//! The repository on a store in memory, with a fixed clock and seeded randomness.

mod catalogue;
mod expiry;
mod file_table;
mod hidden;
mod keys;
mod locks;
mod manifest;
mod notes;
mod packs;
mod ranges;
mod sealed;
mod wal;
mod window;

use std::sync::Arc;

use super::{CipherChoice, InitOptions, Place, Repository};
use crate::base::{Ctx, Secret, SeededEntropy, Timestamp};
use crate::crypt::Unlock;
use crate::storage::{MemoryStore, ObjectKey, ObjectStore};

/// The moment at which these tests happen.
const NOW: i64 = 1_795_140_000;

pub(super) fn now() -> Timestamp {
    Timestamp::from_timestamp(NOW, 0).unwrap()
}

pub(super) fn ctx() -> Ctx {
    Ctx::fixed(now(), 1)
}

pub(super) fn key_file(seed: u64) -> Unlock {
    Unlock::generate_key_file(&SeededEntropy::new(seed)).0
}

pub(super) fn passphrase(text: &str) -> Unlock {
    Unlock::Passphrase(Secret::new(text.to_owned()))
}

/// A fresh repository, opened with key file 1, and its store.
pub(super) fn fresh(ctx: &Ctx, cipher: CipherChoice) -> (Repository, MemoryStore) {
    let store = MemoryStore::new();
    let unlock = key_file(1);
    let options = InitOptions { cipher, unlock: &unlock, label: "first", cost: 14 };
    (Repository::init(ctx, Arc::new(store.clone()), &options).unwrap(), store)
}

pub(super) fn place() -> Place {
    Place::new("main", 7_312_000_000_000_000_001, 1).unwrap()
}

/// Puts changed bytes in an object's place.
pub(super) fn replace(store: &MemoryStore, key: &ObjectKey, bytes: &[u8]) {
    store.put(key, bytes).unwrap();
}
