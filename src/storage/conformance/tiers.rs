//! Behaviours of stores with classes, locks or versions, and how a store says that it has none.

use super::{key, names, put_all};
use crate::base::Timestamp;
use crate::storage::{
    Availability, Error, ObjectClass, ObjectStore, Result, StorageClass, Thaw, ThawSpeed, list_all,
    list_versions,
};

const BULK: Thaw = Thaw { days: 1, speed: ThawSpeed::Bulk };

fn move_to(store: &dyn ObjectStore, name: &str, class: &StorageClass) -> Result<()> {
    let expected = store.head(&key(name)).unwrap();
    store.set_class(&key(name), class, &expected)
}

/// What head, list and the question for it say, which is the same.
fn told(store: &dyn ObjectStore, name: &str) -> ObjectClass {
    let told = store.class(&key(name)).unwrap();
    let listed = list_all(store, name).unwrap();
    let listed = listed.into_iter().find(|meta| meta.key == key(name)).unwrap();
    assert_eq!(store.head(&key(name)).unwrap().class, Some(told.class.clone()), "{name}");
    assert_eq!(listed.class, Some(told.class.clone()), "{name}");
    told
}

/// An object is moved from class to class, is told to be there, and is the same.
pub fn classes_are_told(store: &dyn ObjectStore) {
    put_all(store, &["class/a"]);
    store.put(&key("class/empty"), b"").unwrap();
    if !store.has_classes() {
        assert_eq!(store.head(&key("class/a")).unwrap().class, None);
        assert_eq!(list_all(store, "class/").unwrap().remove(0).class, None);
        assert_eq!(store.class(&key("class/a")).unwrap(), ObjectClass::ONLINE);
        assert_eq!(store.thaw(&key("class/a"), BULK).unwrap(), Availability::Online);
        let refused = move_to(store, "class/a", &StorageClass::GlacierIr).unwrap_err();
        assert!(matches!(refused, Error::Unsupported { .. }), "{refused}");
        let refused = store.tag(&key("class/a"), "tag", "a").unwrap_err();
        assert!(matches!(refused, Error::Unsupported { .. }), "{refused}");
        return;
    }
    let mut streamed = store.put_stream(&key("class/streamed")).unwrap();
    streamed.write(&[7; 300_000]).unwrap();
    streamed.finish().unwrap();
    for name in ["class/a", "class/empty", "class/streamed"] {
        let before = (store.head(&key(name)).unwrap(), store.get(&key(name)).unwrap());
        assert_eq!(told(store, name), ObjectClass::ONLINE);
        for class in [StorageClass::GlacierIr, StorageClass::StandardIa, StorageClass::Standard] {
            let known = store.head(&key(name)).unwrap();
            store.set_class(&key(name), &class, &known).unwrap();
            // What the caller knows of it may be older than that move.
            store.set_class(&key(name), &class, &known).unwrap();
            let availability = Availability::Online;
            assert_eq!(told(store, name), ObjectClass { class, availability });
            assert_eq!(store.head(&key(name)).unwrap().size, before.0.size);
            assert!(store.get(&key(name)).unwrap() == before.1, "{name} is another one now");
        }
        assert_eq!(store.thaw(&key(name), BULK).unwrap(), Availability::Online);
        // A tag changes nothing, and may be given twice. A server may have none.
        for tag in ["a", "a", "b"] {
            match store.tag(&key(name), "tag", tag) {
                Err(Error::Unsupported { .. }) => {}
                other => other.unwrap(),
            }
        }
        assert_eq!(told(store, name), ObjectClass::ONLINE);
        assert!(store.get(&key(name)).unwrap() == before.1, "{name} is another one now");
    }
}

/// Nothing is moved, thawed or locked that is not there, or is another object than was meant.
pub fn only_what_is_meant_is_moved(store: &dyn ObjectStore) {
    let absent = key("meant/none");
    assert!(store.class(&absent).unwrap_err().is_not_found());
    assert!(store.thaw(&absent, BULK).unwrap_err().is_not_found());
    assert!(store.locked_until(&absent).unwrap_err().is_not_found());
    if store.lock_rule().is_some() {
        assert!(store.lock(&absent, Timestamp::UNIX_EPOCH).unwrap_err().is_not_found());
    }
    if !store.has_classes() {
        return;
    }
    let untagged = store.tag(&absent, "tag", "a").unwrap_err();
    assert!(untagged.is_not_found() || matches!(untagged, Error::Unsupported { .. }), "{untagged}");
    put_all(store, &["meant/a", "meant/longer"]);
    let other = store.head(&key("meant/longer")).unwrap();
    let gone = store.set_class(&absent, &StorageClass::GlacierIr, &other).unwrap_err();
    assert!(gone.is_not_found(), "{gone}");
    let changed = store.set_class(&key("meant/a"), &StorageClass::GlacierIr, &other).unwrap_err();
    assert!(matches!(changed, Error::Changed { .. }), "{changed}");
    assert_eq!(told(store, "meant/a").class, StorageClass::Standard);
    // A move that was held back while somebody else moved the object to a colder class made it warmer again
    // (2026-12-01).
    let known = store.head(&key("meant/a")).unwrap();
    move_to(store, "meant/a", &StorageClass::GlacierIr).unwrap();
    let late = store.set_class(&key("meant/a"), &StorageClass::StandardIa, &known).unwrap_err();
    assert!(matches!(late, Error::Changed { .. }), "{late}");
    assert_eq!(told(store, "meant/a").class, StorageClass::GlacierIr);
    assert_eq!(names(store, "meant/"), ["meant/a", "meant/longer"]);
}

/// What is cold is listed and removed, and not read before it is thawed.
pub fn cold_objects_are_not_read(store: &dyn ObjectStore) {
    if !store.has_classes() {
        return;
    }
    for class in [StorageClass::Glacier, StorageClass::DeepArchive] {
        let name = format!("cold/{class}");
        let cold = key(&name);
        store.put(&cold, b"frozen").unwrap();
        move_to(store, &name, &class).unwrap();
        assert_eq!(told(store, &name), ObjectClass { class, availability: Availability::Cold });
        assert_eq!(store.head(&cold).unwrap().size, 6);
        let refusals = || {
            [
                store.get(&cold).map(drop),
                store.read_range(&cold, 1, &mut [0; 2]),
                store.read_up_to(&cold, 0, 9).map(drop),
                move_to(store, &name, &StorageClass::Standard),
            ]
        };
        for refused in refusals() {
            let refused = refused.unwrap_err();
            assert!(matches!(refused, Error::Cold { .. }), "{refused}");
        }
        for _ in 0..2 {
            match store.thaw(&cold, BULK).unwrap() {
                Availability::Thawing => {
                    assert!(refusals().iter().all(|refused| refused.is_err()));
                }
                Availability::ThawedUntil(_) => assert_eq!(store.get(&cold).unwrap(), b"frozen"),
                other => panic!("{other:?}"),
            }
        }
        assert!(told(store, &name).class.needs_thaw(), "a thaw changes no class");
        store.delete(&cold).unwrap();
        assert!(store.head(&cold).unwrap_err().is_not_found());
    }
}

/// What is locked outlives every delete; a lock is made longer and never shorter.
pub fn locks_are_kept(store: &dyn ObjectStore) {
    put_all(store, &["free/a", "locked/a"]);
    assert_eq!(store.locked_until(&key("free/a")).unwrap(), None);
    let seconds = |name: &str| store.locked_until(&key(name)).unwrap().map(|at| at.timestamp());
    let hour = chrono::TimeDelta::hours(1);
    if store.lock_rule().is_none() {
        let refused = store.lock(&key("free/a"), Timestamp::UNIX_EPOCH + hour).unwrap_err();
        assert!(matches!(refused, Error::Unsupported { .. }), "{refused}");
        return;
    }
    let mut streamed = store.put_stream(&key("locked/streamed")).unwrap();
    streamed.write(&[7; 300_000]).unwrap();
    streamed.finish().unwrap();
    assert!(seconds("locked/streamed").is_some());
    let until = store.locked_until(&key("locked/a")).unwrap().unwrap();
    for (asked, found) in [(until - hour, until), (until + hour, until + hour)] {
        store.lock(&key("locked/a"), asked).unwrap();
        assert_eq!(seconds("locked/a"), Some(found.timestamp()));
    }
    store.lock(&key("free/a"), until).unwrap();
    assert_eq!(seconds("free/a"), Some(until.timestamp()));
    if store.has_classes() {
        move_to(store, "locked/a", &StorageClass::GlacierIr).unwrap();
        assert_eq!(
            seconds("locked/a"),
            Some((until + hour).timestamp()),
            "moved, and locked as before"
        );
    }
    let body = store.get(&key("locked/a")).unwrap();
    let refused = match store.delete(&key("locked/a")) {
        Err(refused) => refused,
        Ok(()) => {
            let found = list_versions(store, "locked/a").unwrap();
            let hidden = found.iter().find(|version| !version.is_marker).unwrap();
            let refused = store.delete_version(&hidden.key, &hidden.id).unwrap_err();
            let marker = found.iter().find(|version| version.is_marker).unwrap();
            store.delete_version(&marker.key, &marker.id).unwrap();
            refused
        }
    };
    let is_told = matches!(&refused, Error::Locked { until: Some(told), .. } if *told >= until);
    assert!(is_told, "{refused}");
    assert_eq!(store.get(&key("locked/a")).unwrap(), body);
}

/// Where there are versions, what was replaced or removed is listed, and removed for good one by one.
pub fn versions_are_hidden_objects(store: &dyn ObjectStore) {
    for (name, body) in [("version/a", "long ago"), ("version/a", "now"), ("version/b", "b")] {
        store.put(&key(name), body.as_bytes()).unwrap();
    }
    put_all(store, &["versions"]);
    store.delete(&key("version/b")).unwrap();
    store.delete(&key("versions")).unwrap();
    let found = list_versions(store, "version/").unwrap();
    assert_eq!(names(store, "version/"), ["version/a"]);
    if found.is_empty() {
        return;
    }
    let shown: Vec<_> =
        found.iter().map(|found| (found.key.as_str(), found.is_marker, found.size)).collect();
    let expected = [("version/a", false, 8), ("version/b", true, 0), ("version/b", false, 1)];
    assert_eq!(shown, expected);
    let classes = found.iter().map(|found| (found.is_marker, found.class.is_some()));
    assert!(classes.clone().all(|(is_marker, has)| has != is_marker), "{found:?}");
    for _ in 0..2 {
        store.delete_version(&found[0].key, &found[0].id).unwrap();
        assert_eq!(store.get(&key("version/a")).unwrap(), b"now");
    }
    store.delete_version(&found[1].key, &found[1].id).unwrap();
    assert_eq!(store.get(&key("version/b")).unwrap(), b"b");
    assert!(list_versions(store, "version/").unwrap().is_empty());
    assert_eq!(list_versions(store, "versions").unwrap().len(), 2);
}
