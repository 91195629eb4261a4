//! What the store in memory has beyond the behaviours of all stores: time that passes, and versions.

use std::sync::Arc;
use std::time::Duration;

use super::MemoryStore;
use crate::base::{ManualClock, Timestamp};
use crate::storage::conformance;
use crate::storage::{
    Availability, Error, LockMode, LockRule, ObjectKey, ObjectStore, StorageClass, Thaw, ThawSpeed,
    list_versions,
};

const HOUR: Duration = Duration::from_hours(1);
const DAY: Duration = Duration::from_hours(24);

fn key(name: &str) -> ObjectKey {
    ObjectKey::new(name).unwrap()
}

fn clock() -> Arc<ManualClock> {
    Arc::new(ManualClock::new(Timestamp::from_timestamp(1_000_000, 0).unwrap()))
}

fn set_class(store: &MemoryStore, name: &str, class: StorageClass) -> Result<(), Error> {
    let expected = store.head(&key(name)).unwrap();
    store.set_class(&key(name), &class, &expected)
}

#[test]
fn conforms() {
    conformance::run_all(&|| Box::new(MemoryStore::new()));
    conformance::run_all(&|| Box::new(MemoryStore::with_clock(clock()).with_classes()));
    conformance::run_all(&|| Box::new(conformance::memory()));
    let locked = || MemoryStore::with_clock(clock()).with_locks(conformance::LOCKS);
    conformance::run_all(&|| Box::new(locked()));
    conformance::run_all(&|| Box::new(MemoryStore::new().with_versions()));
}

#[test]
fn clones_share_their_objects() {
    let store = MemoryStore::new();
    let key = key("a");
    store.clone().put(&key, b"x").unwrap();
    assert_eq!(store.get(&key).unwrap(), b"x");
}

#[test]
fn a_name_is_not_an_object_and_a_folder() {
    let store = MemoryStore::new();
    store.put(&key("a/b"), b"").unwrap();
    for conflict in ["a", "a/b/c", "a/b/c/d"] {
        let key = key(conflict);
        for outcome in [store.put(&key, b""), store.put_if_absent(&key, b"")] {
            assert!(matches!(outcome, Err(Error::Io { .. })), "{conflict}");
        }
    }
    store.put(&key("a-b"), b"").unwrap();
}

#[test]
fn a_thaw_takes_its_time_and_ends_after_its_days() {
    let clock = clock();
    let store = MemoryStore::with_clock(clock.clone()).with_classes();
    let (pack, begun) = (key("pack"), crate::base::Clock::now(&*clock));
    store.put(&pack, b"content").unwrap();
    set_class(&store, "pack", StorageClass::Glacier).unwrap();
    let is_cold = || matches!(store.get(&pack), Err(Error::Cold { .. }));
    assert!(is_cold());
    let thaw = |days, speed| store.thaw(&pack, Thaw { days, speed }).unwrap();
    assert_eq!(thaw(2, ThawSpeed::Bulk), Availability::Thawing);
    clock.advance(HOUR);
    // Faster, and for a shorter time than before: both are the better of the two.
    assert_eq!(thaw(1, ThawSpeed::Standard), Availability::Thawing);
    clock.advance(5 * HOUR - Duration::from_secs(1));
    assert!(is_cold());
    clock.advance(Duration::from_secs(1));
    let until = begun + 6 * HOUR + 2 * DAY;
    assert_eq!(thaw(1, ThawSpeed::Standard), Availability::ThawedUntil(Some(until)));
    assert_eq!(store.get(&pack).unwrap(), b"content");
    clock.advance(DAY);
    let until = begun + 6 * HOUR + 4 * DAY;
    assert_eq!(thaw(3, ThawSpeed::Bulk), Availability::ThawedUntil(Some(until)));
    clock.advance(3 * DAY);
    assert!(is_cold());
    assert_eq!(store.class(&pack).unwrap().availability, Availability::Cold);
    assert!(matches!(set_class(&store, "pack", StorageClass::Standard), Err(Error::Cold { .. })));

    thaw(1, ThawSpeed::Expedited);
    clock.advance(HOUR);
    set_class(&store, "pack", StorageClass::DeepArchive).unwrap();
    assert!(is_cold(), "the thawed copy was of the object in the other class");
    let expedited = store.thaw(&pack, Thaw { days: 1, speed: ThawSpeed::Expedited });
    assert!(matches!(expedited, Err(Error::Unsupported { .. })));
}

#[test]
fn a_lock_ends_by_the_clock() {
    let clock = clock();
    let rule = LockRule::new(LockMode::Compliance, 2 * DAY);
    let store = MemoryStore::with_clock(clock.clone()).with_locks(rule);
    let end = Some(crate::base::Clock::now(&*clock) + 2 * DAY);
    store.put(&key("a"), b"x").unwrap();
    assert_eq!(store.locked_until(&key("a")).unwrap(), end);
    clock.advance(2 * DAY - Duration::from_secs(1));
    for refused in [store.delete(&key("a")), store.put(&key("a"), b"y")] {
        assert!(matches!(refused, Err(Error::Locked { until, .. }) if until == end));
    }
    clock.advance(Duration::from_secs(1));
    store.delete(&key("a")).unwrap();
}

#[test]
fn versions_come_to_light_again_when_what_hides_them_is_removed() {
    let store = MemoryStore::new().with_versions();
    for body in ["first", "second"] {
        store.put(&key("a"), body.as_bytes()).unwrap();
    }
    store.delete(&key("a")).unwrap();
    let kinds = |found: Vec<crate::storage::Version>| -> Vec<(bool, u64)> {
        found.iter().map(|version| (version.is_marker, version.size)).collect()
    };
    let hidden = list_versions(&store, "").unwrap();
    assert_eq!(kinds(hidden.clone()), [(true, 0), (false, 6), (false, 5)]);
    store.delete_version(&key("a"), &hidden[0].id).unwrap();
    assert_eq!(store.get(&key("a")).unwrap(), b"second");
    assert_eq!(kinds(list_versions(&store, "").unwrap()), [(false, 5)]);
    store.delete_version(&key("a"), &hidden[1].id).unwrap();
    assert_eq!(store.get(&key("a")).unwrap(), b"first");
    store.delete_version(&key("a"), &hidden[2].id).unwrap();
    assert!(store.get(&key("a")).unwrap_err().is_not_found());
    assert!(list_versions(&store, "").unwrap().is_empty());
}

#[test]
fn pages_of_versions_make_the_whole_list() {
    let store = MemoryStore::new().with_versions();
    for number in 0..1500 {
        store.put(&key(["a", "b"][number % 2]), b"").unwrap();
    }
    store.put(&key("c"), b"").unwrap();
    let first = store.versions("", None).unwrap();
    assert_eq!(first.versions.len(), 1000);
    let all = list_versions(&store, "").unwrap();
    let mut ids: Vec<_> = all.iter().map(|version| &version.id).collect();
    ids.sort();
    ids.dedup();
    assert_eq!((all.len(), ids.len()), (1498, 1498));
    assert_eq!(list_versions(&store, "b").unwrap().len(), 749);
}
