//! What is cold and how far a thaw is, added up.

use std::time::Duration;

use super::super::cold::{Readiness, Speed, cold_of, poll, thaw};
use super::super::error::Error;
use super::told::{full, noon};
use crate::base::Ctx;
use crate::repo::Place;
use crate::storage::StorageClass::{DeepArchive, Glacier, IntelligentTiering, Standard};
use crate::storage::{
    Availability, MemoryStore, ObjectClass, ObjectKey, StorageClass, Thaw, ThawSpeed,
};

fn key(number: u32) -> ObjectKey {
    Place::new("main", 7, 1).unwrap().pack(&full(0), number)
}

fn state(class: StorageClass, availability: Availability) -> ObjectClass {
    ObjectClass { class, availability }
}

#[test]
fn cold_packs_are_told_by_class() {
    let thawed = |day| Availability::ThawedUntil(Some(noon(day)));
    let states = [
        (Standard, Availability::Online),
        (IntelligentTiering, Availability::Online),
        (DeepArchive, Availability::Cold),
        (Glacier, Availability::Cold),
        (Glacier, Availability::Thawing),
        (Glacier, thawed(9)),
        (Glacier, thawed(7)),
        (Glacier, thawed(4)),
        (IntelligentTiering, Availability::Cold),
    ];
    let states = (0..).zip(states).map(|(n, (class, at))| (key(n), 10, state(class, at)));
    let cold = cold_of(states.collect(), noon(5));
    assert_eq!((cold.objects, cold.bytes, cold.thawed, cold.packs.len()), (5, 50, 2, 7));
    assert_eq!(cold.thawed_until, Some(noon(7)));
    let classes: Vec<_> = cold.classes.iter().map(|c| (&c.class, c.objects, c.thawing)).collect();
    assert_eq!(classes, [(&IntelligentTiering, 1, 0), (&Glacier, 3, 1), (&DeepArchive, 1, 0)]);
    let hours = |speed: &Speed| speed.most.as_secs() / 3600;
    assert_eq!(cold.classes[1].speeds.iter().map(hours).collect::<Vec<_>>(), [0, 5, 12]);
    assert_eq!(cold.classes[2].speeds.iter().map(hours).collect::<Vec<_>>(), [12, 48]);
}

#[test]
fn readiness_ends_with_what_ends_first() {
    let thawed = |day| Some(Availability::ThawedUntil(Some(noon(day))));
    let states = [
        (1, Some(Availability::Online)),
        (2, thawed(9)),
        (4, thawed(7)),
        (8, thawed(5)),
        (16, None),
    ];
    let ready = Readiness::of(&states, noon(5));
    assert_eq!((ready.readable, ready.readable_bytes, ready.until), (3, 7, Some(noon(7))));
    assert_eq!((ready.thawing, ready.cold, ready.gone), (0, 1, 1));
    assert!(!ready.is_complete() && Readiness::of(&states[..3], noon(5)).is_complete());
    assert_eq!(Readiness::of(&states[..1], noon(5)).until, None);
}

/// In one class of two that speed is not known: nothing is asked for.
#[test]
fn a_speed_that_is_not_known_is_refused_before_anything_is_asked_for() {
    let ctx = Ctx::fixed(noon(0), 1);
    let store = MemoryStore::with_clock(std::sync::Arc::clone(&ctx.clock)).with_classes();
    let mut states = Vec::new();
    for (number, class) in [(0, Glacier), (1, DeepArchive)] {
        use crate::storage::ObjectStore as _;
        store.put(&key(number), b"pack").unwrap();
        let meta = store.head(&key(number)).unwrap();
        store.set_class(&key(number), &class, &meta).unwrap();
        states.push((key(number), 4, store.class(&key(number)).unwrap()));
    }
    let cold = cold_of(states, noon(0));
    let speed = ThawSpeed::Expedited;
    let refused = thaw(&ctx, &store, &cold, Thaw { days: 1, speed }).unwrap_err();
    assert!(matches!(refused, Error::NoSpeed { .. }), "{refused}");
    assert_eq!(
        refused.to_string(),
        "DEEP_ARCHIVE knows no expedited thaw; it knows standard and bulk"
    );
    assert_eq!(poll(&ctx, &store, &cold).unwrap().cold, 2);
    let speed = ThawSpeed::Standard;
    let asked = thaw(&ctx, &store, &cold, Thaw { days: 1, speed }).unwrap();
    assert_eq!((asked.thawing, asked.cold), (2, 0));
    ctx.clock.sleep(Duration::from_hours(6));
    assert_eq!(poll(&ctx, &store, &cold).unwrap().readable, 1);
    ctx.clock.sleep(Duration::from_hours(7));
    let ready = poll(&ctx, &store, &cold).unwrap();
    assert!(ready.is_complete() && ready.until.is_some(), "{ready:?}");
}
