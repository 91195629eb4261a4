//! What every store and every decorator must show, one function per behaviour.
//!
//! Public so that the unit tests of each store, the integration tests and tests against real
//! servers call the same list. A behaviour panics with a sentence when the store breaks it; each
//! works under names of its own and may share a store with the others. What a store does not have (classes,
//! locks, versions) its answers say, and the behaviour then looks at how it says so.

#![allow(
    clippy::unwrap_used,
    clippy::missing_panics_doc,
    reason = "assertions of tests, which live in the library only so that every test can call them"
)]

mod objects;
mod tiers;

use std::sync::Arc;
use std::time::Duration;

use super::{LockMode, LockRule, MemoryStore, ObjectKey, ObjectStore, list_all};
use crate::base::SystemClock;

/// A named behaviour.
pub type Behaviour = (&'static str, fn(&dyn ObjectStore));

/// All of them.
pub const BEHAVIOURS: &[Behaviour] = &[
    ("what was put is read back", objects::round_trip),
    ("put replaces", objects::put_replaces),
    ("when it was stored is told", objects::tells_when_stored),
    ("put if absent keeps the first", objects::if_absent_keeps_first),
    (ONE_WINNER, objects::if_absent_has_one_winner),
    ("absent is not found", objects::absent_is_not_found),
    ("ranges are exact", objects::ranges_are_exact),
    ("read up to stops at the end", objects::read_up_to_stops_at_end),
    ("a stream appears when finished", objects::stream_appears_when_finished),
    ("a dropped stream leaves nothing", objects::dropped_stream_leaves_nothing),
    ("a stream does not replace", objects::stream_does_not_replace),
    ("lists are in byte order", objects::lists_are_in_byte_order),
    ("a prefix is text", objects::prefix_is_text),
    ("lists go on after a name", objects::lists_go_on_after_a_name),
    ("pages make the whole list", objects::pages_make_the_whole_list),
    ("a list goes on by itself", objects::a_list_goes_on_by_itself),
    ("no name reaches outside", objects::no_prefix_reaches_outside),
    ("delete twice is success", objects::delete_is_idempotent),
    ("delete many", objects::delete_many_removes_all),
    ("unusual names", objects::unusual_names),
    ("readers see old or new", objects::readers_see_old_or_new),
    ("classes are told", tiers::classes_are_told),
    ("only what is meant is moved", tiers::only_what_is_meant_is_moved),
    (COLD, tiers::cold_objects_are_not_read),
    (LOCKS_KEPT, tiers::locks_are_kept),
    ("versions are hidden objects", tiers::versions_are_hidden_objects),
];

/// The name of the one that only a server of which requests are atomic has.
pub const ONE_WINNER: &str = "put if absent has one winner";

/// The name of the one that asks for thaws.
pub const COLD: &str = "cold objects are not read";

/// The name of the one that needs a store in which objects can be locked.
pub const LOCKS_KEPT: &str = "locks are kept";

/// What a store with locks must lock for these behaviours: what lies below `locked/`.
pub const LOCKS: LockRule = LockRule {
    mode: LockMode::Governance,
    duration: Duration::from_hours(24),
    of_name: |name, duration| if name.starts_with("locked/") { duration } else { Duration::ZERO },
};

/// A store in memory with everything that a store can have, for what is to be transparent.
#[must_use]
pub fn memory() -> MemoryStore {
    let store = MemoryStore::with_clock(Arc::new(SystemClock::new()));
    store.with_classes().with_locks(LOCKS).with_versions()
}

/// Runs every behaviour against a fresh store.
pub fn run_all(make_store: &dyn Fn() -> Box<dyn ObjectStore>) {
    run_but(&[], make_store);
}

/// Runs every behaviour but those of these names, each against a fresh store.
pub fn run_but(left_out: &[&str], make_store: &dyn Fn() -> Box<dyn ObjectStore>) {
    for (name, behaviour) in BEHAVIOURS.iter().filter(|(name, _)| !left_out.contains(name)) {
        let store = make_store();
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| behaviour(&*store)));
        if let Err(cause) = outcome {
            // The cause was printed where it happened; what is missing there is the behaviour.
            let text = cause.downcast_ref::<String>().cloned().unwrap_or_default();
            panic!("{} does not conform: {name}: {text}", store.location());
        }
    }
}

fn key(name: &str) -> ObjectKey {
    ObjectKey::new(name).unwrap()
}

fn names(store: &dyn ObjectStore, prefix: &str) -> Vec<String> {
    let found = list_all(store, prefix).unwrap();
    found.iter().map(|meta| meta.key.as_str().to_owned()).collect()
}

fn put_all(store: &dyn ObjectStore, all: &[&str]) {
    for name in all {
        store.put(&key(name), name.as_bytes()).unwrap();
    }
}
