//! Tests of the store that fails on purpose.

use super::*;
use crate::storage::{LocalStore, MemoryStore, conformance, list_all};

fn key(name: &str) -> ObjectKey {
    ObjectKey::new(name).unwrap()
}

/// Seven operations on two objects.
fn story(store: &dyn ObjectStore) -> Result<()> {
    store.put(&key("a"), b"1")?;
    let mut writer = store.put_stream(&key("b"))?;
    writer.write(b"12")?;
    writer.write(b"34")?;
    writer.finish()?;
    store.get(&key("b"))?;
    store.delete(&key("a"))
}

fn names(store: &dyn ObjectStore) -> Vec<String> {
    let all = list_all(store, "").unwrap();
    all.iter().map(|meta| meta.key.to_string()).collect()
}

#[test]
fn is_transparent_without_faults() {
    conformance::run_all(&|| Box::new(FaultyStore::new(conformance::memory())));
}

#[test]
fn logs_every_operation() {
    let store = FaultyStore::new(MemoryStore::new());
    story(&store).unwrap();
    let log = store.log();
    let log: Vec<_> = log.iter().map(|o| (o.name, o.key.as_str())).collect();
    let expected = [
        ("put", "a"),
        ("put_stream", "b"),
        ("write", "b"),
        ("write", "b"),
        ("finish", "b"),
        ("get", "b"),
        ("delete", "a"),
    ];
    assert_eq!(log, expected);
    assert_eq!(store.operations(), 7);
}

#[test]
fn dies_at_every_operation_before_or_after_its_effect() {
    for (effect, states) in [
        (Effect::None, ["", "a", "a", "a", "a", "a b", "a b"]),
        (Effect::Full, ["a", "a", "a", "a", "a b", "a b", "b"]),
    ] {
        for (number, state) in (1..).zip(states) {
            let store = FaultyStore::new(MemoryStore::new());
            store.die_at(number, effect);
            story(&store).unwrap_err();
            assert_eq!(store.operations(), number);
            assert_eq!(names(store.inner()).join(" "), state, "{effect:?} {number}");
            store.list("", None, 1).unwrap_err();
            store.heal();
            store.list("", None, 1).unwrap();
        }
    }
}

#[test]
fn a_dead_writer_leaves_its_temporary_file() {
    let dir = tempfile::tempdir().unwrap();
    let store = FaultyStore::new(LocalStore::open(dir.path()).unwrap());
    store.die_at(4, Effect::None);
    story(&store).unwrap_err();
    let left = || std::fs::read_dir(dir.path().join(".tmp")).unwrap().count();
    assert_eq!(left(), 1);
    assert_eq!(names(store.inner()), ["a"]);
    drop(story(store.inner()));
    assert_eq!(left(), 1, "a living writer removes its own");
}

#[test]
fn fails_once_and_says_where() {
    let store = FaultyStore::new(MemoryStore::new());
    store.fail_at(5, Effect::None);
    let error = story(&store).unwrap_err();
    assert_eq!(error.to_string(), "finish b: injected: operation 5 fails once");
    assert_eq!(names(store.inner()), ["a"]);
    story(&store).unwrap();
}

#[test]
fn random_faults_follow_from_the_seed() {
    let run = |seed| {
        let store = FaultyStore::new(MemoryStore::new());
        store.fail_randomly(seed, 5);
        let outcome = |_| store.put(&key("a"), b"").map_err(|error| error.to_string());
        (0..200).map(outcome).collect::<Vec<_>>()
    };
    let first = run(7);
    assert_eq!(first, run(7));
    assert_ne!(first, run(8));
    let failures: Vec<_> = first.into_iter().filter_map(std::result::Result::err).collect();
    assert!((20..=60).contains(&failures.len()), "{}", failures.len());
    assert!(failures.iter().all(|text| text.contains("seed 7")));
}

#[test]
fn delivers_wrong_bytes() {
    let store = FaultyStore::new(MemoryStore::new());
    let damaged = key("a");
    store.put(&damaged, &[0; 100]).unwrap();
    store.corrupt(&damaged, 50, 1);
    store.corrupt(&damaged, 70, 0x80);
    assert_eq!(store.get(&damaged).unwrap()[50], 1);
    let mut buffer = [0; 30];
    store.read_range(&damaged, 45, &mut buffer).unwrap();
    assert_eq!((buffer[5], buffer[25]), (1, 0x80));
    assert_eq!(store.read_up_to(&damaged, 70, 1).unwrap(), [0x80]);
    assert_eq!(store.inner().get(&damaged).unwrap(), [0; 100]);

    store.truncate(&damaged, 60);
    assert_eq!(store.get(&damaged).unwrap().len(), 60);
    assert_eq!(store.read_up_to(&damaged, 45, 30).unwrap().len(), 15);
    assert_eq!(store.head(&damaged).unwrap().size, 60);
    assert_eq!(store.list("", None, 9).unwrap()[0].size, 60);
    let short = store.read_range(&damaged, 45, &mut buffer).unwrap_err();
    assert!(matches!(short, Error::Short { size: 60, .. }), "{short}");
    store.heal();
    assert_eq!(store.get(&damaged).unwrap(), [0; 100]);
}

/// Moves, thaws, locks and versions die like everything else, before or after their effect.
#[test]
fn what_only_buckets_have_fails_too() {
    let story = |store: &dyn ObjectStore| {
        store.put(&key("a"), b"1")?;
        let meta = store.head(&key("a"))?;
        store.set_class(&key("a"), &StorageClass::Glacier, &meta)?;
        let thaw = Thaw { days: 1, speed: crate::storage::ThawSpeed::Bulk };
        store.thaw(&key("a"), thaw)?;
        store.class(&key("a"))?;
        store.lock(&key("a"), Timestamp::UNIX_EPOCH)?;
        store.locked_until(&key("a"))?;
        let hidden = store.versions("a", None)?.versions;
        hidden.iter().try_for_each(|version| store.delete_version(&version.key, &version.id))
    };
    let store = FaultyStore::new(conformance::memory());
    story(&store).unwrap();
    let log = store.log();
    let names: Vec<_> = log.iter().map(|operation| operation.name).collect();
    let only_buckets =
        ["set_class", "thaw", "class", "lock", "locked_until", "versions", "delete_version"];
    assert_eq!(names[2..], only_buckets);
    assert!(log.iter().all(|operation| operation.key == "a"));
    for number in 1..=store.operations() {
        for effect in [Effect::None, Effect::Full] {
            let store = FaultyStore::new(conformance::memory());
            store.die_at(number, effect);
            story(&store).unwrap_err();
            let inner = store.inner();
            let is_done = |at| number > at || number == at && effect == Effect::Full;
            let class = inner.head(&key("a")).ok().and_then(|meta| meta.class);
            let is_moved = class == Some(StorageClass::Glacier);
            assert_eq!(is_moved, is_done(3), "{number} {effect:?}");
            let hidden = inner.versions("a", None).unwrap().versions.len();
            assert_eq!(hidden, usize::from(is_done(3) && !is_done(9)), "{number} {effect:?}");
        }
    }
}
