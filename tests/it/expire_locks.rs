//! Expiry in a store that locks what is put and keeps what is deleted as versions: it waits, extends, and leaves nothing
//! hidden behind.

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::TimeDelta;
use pgkeep::base::Timestamp;
use pgkeep::repo::{BackupType, LEASE_FOR, layout, lock_for};
use pgkeep::retention::{self, Freed, Policy};
use pgkeep::storage::faulty::Effect;
use pgkeep::storage::{self, Error, ObjectStore as _, Version, list_all, list_versions};

use crate::expire_crash::policy;
use crate::support::World;

const DAYS: u64 = 9;

fn third() -> TimeDelta {
    TimeDelta::from_std(Duration::from_secs(DAYS * 86_400 / 3)).unwrap()
}

fn a_day(world: &mut World) {
    world.backup(BackupType::Full);
    world.pass(TimeDelta::hours(8));
    world.push();
    world.backup(BackupType::Differential);
    world.pass(TimeDelta::hours(16));
}

fn expire(world: &World, policy: &Policy) -> Freed {
    world.expire(&world.repository, policy).unwrap()
}

/// Until when each object is locked.
fn locks(world: &World) -> BTreeMap<String, Timestamp> {
    let listed = list_all(&world.store, "").unwrap();
    let each = listed.into_iter().map(|meta| {
        let until = world.store.locked_until(&meta.key).unwrap();
        (meta.key.to_string(), until.unwrap_or_else(|| panic!("{} has no lock", meta.key)))
    });
    each.collect()
}

/// What is hidden, but for leases, which end by themselves.
fn hidden(world: &World) -> Vec<Version> {
    let all = list_versions(&world.store, "").unwrap();
    all.into_iter().filter(|version| !version.key.as_str().starts_with("lease/")).collect()
}

/// The backup that an object is of, by its name.
fn id_of(world: &World, name: &str) -> Option<String> {
    let (family, rest) = name.strip_prefix(&world.place.prefix())?.split_once('/')?;
    let is_its = ["begin", "backup", "files", "data", "meta", "hash"].contains(&family);
    is_its.then(|| rest.split('/').next().unwrap().to_owned())
}

/// The first moment at which something of each backup can be removed.
fn backup_locks(world: &World) -> BTreeMap<String, Timestamp> {
    let mut found: BTreeMap<String, Timestamp> = BTreeMap::new();
    for (name, until) in locks(world) {
        if let Some(id) = id_of(world, &name) {
            let known = found.entry(id).or_insert(until);
            *known = until.min(*known);
        }
    }
    found
}

/// What must hold after each expiry: what is kept is locked for a third of the time at least, no child longer than its
/// parent, nothing longer than what everything stands on.
fn assert_locked(world: &World, policy: &Policy) {
    let (now, all, of_backups) = (world.now(), locks(world), backup_locks(world));
    let plan = world.plan(&world.repository, policy).unwrap();
    let decision = &plan.places[0].decision;
    let ruled = decision.ruled();
    for id in &ruled {
        assert!(of_backups[id.as_str()] >= now + third(), "{id} at {now}");
    }
    for backup in world.complete() {
        if let Some(parent) = &backup.parent {
            let (own, below) = (of_backups[backup.id.as_str()], of_backups[parent.as_str()]);
            assert!(own <= below, "{parent} ends at {below}, {} at {own}", backup.id);
        }
    }
    let size = plan.places[0].gathered.segment_size();
    for stretch in decision.needed_wal(&ruled, size).stretches() {
        world
            .repository
            .each_page(&world.ctx, &world.place, size, stretch, |page| {
                for (_, meta) in page {
                    assert!(all[meta.key.as_str()] >= now + third(), "{} at {now}", meta.key);
                }
                Ok(())
            })
            .unwrap();
    }
    let longest = of_backups.values().max().unwrap();
    for (name, until) in &all {
        if layout::is_read_first(name) {
            assert!(until >= longest, "{name} ends at {until}, a backup at {longest}");
        }
    }
}

#[test]
fn f088_expiry_waits_for_locks_extends_what_is_kept_and_leaves_nothing_hidden() {
    let mut world = World::with_locks(5, DAYS);
    let policy = policy(2, 1, 2);
    let (mut waited, mut removed, mut extended, mut purged) = (0, 0, 0, 0);
    for day in 0..30 {
        a_day(&mut world);
        if day == 7 {
            world.fail_over();
        }
        let before = locks(&world);
        let freed = expire(&world, &policy);
        let (now, after) = (world.now(), locks(&world));
        for (name, until) in &before {
            let is_gone = !after.contains_key(name);
            let is_full = lock_for(name, Duration::MAX) == Duration::MAX;
            assert!(
                !is_gone || !is_full || *until <= now,
                "{name} was locked until {until} at {now}"
            );
            assert!(is_gone || after[name] >= *until, "{name}: no lock gets shorter");
        }
        let full: Vec<_> = hidden(&world)
            .into_iter()
            .filter(|version| {
                let name = version.key.as_str();
                lock_for(name, Duration::MAX) == Duration::MAX && !name.contains("/keep/")
            })
            .collect();
        assert!(full.is_empty(), "day {day}: hidden: {full:?}");
        world.assert_sound(&format!("day {day}"));
        assert_locked(&world, &policy);
        let plan = world.plan(&world.repository, &policy).unwrap();
        let decision = &plan.places[0].decision;
        waited += decision.backups.len() - decision.ruled().len();
        removed += freed.backups;
        extended += freed.locked;
        purged += freed.versions;
        // The same again has nothing to do.
        let again = expire(&world, &policy);
        assert_eq!((again.objects, again.locked), (0, 0), "day {day}: {again:?}");
    }
    assert!(waited > 60 && removed > 20 && extended > 100, "{waited} {removed} {extended}");
    assert!(purged > removed * 5, "{purged} versions of {removed} backups");
}

/// Who has all rights on the store, and no special one on locks.
#[test]
fn f088_what_is_kept_is_removed_by_nobody() {
    let mut world = World::with_locks(6, DAYS);
    let policy = policy(2, 1, 2);
    for _ in 0..20 {
        a_day(&mut world);
        expire(&world, &policy);
    }
    let ruled = world.plan(&world.repository, &policy).unwrap().places[0].decision.ruled();
    // The last word of expiry was ten hours less than a third ago.
    world.pass(third() - TimeDelta::hours(10));
    let mut tried = 0;
    for meta in list_all(&world.store, "").unwrap() {
        let name = meta.key.as_str();
        let is_ruled =
            id_of(&world, name).is_some_and(|own| ruled.iter().any(|id| id.as_str() == own));
        if !is_ruled && !layout::is_read_first(name) {
            continue;
        }
        tried += 1;
        world.store.delete(&meta.key).unwrap();
        let versions = list_versions(&world.store, name).unwrap();
        let version = versions.iter().find(|version| !version.is_marker).unwrap();
        let refused = world.store.delete_version(&version.key, &version.id).unwrap_err();
        assert!(matches!(refused, Error::Locked { .. }), "{name}: {refused}");
        let marker = versions.iter().find(|version| version.is_marker).unwrap();
        world.store.delete_version(&marker.key, &marker.id).unwrap();
    }
    assert!(tried > 20);
    world.assert_sound("after the attack");
}

/// What somebody hid is not what expiry gave up: it can be brought back, also when its lock has ended.
#[test]
fn f088_what_others_hid_is_not_removed_for_good() {
    let mut world = World::with_locks(7, DAYS);
    let policy = policy(4, 0, 1);
    for _ in 0..4 {
        a_day(&mut world);
    }
    expire(&world, &policy);
    let kept = world.plan(&world.repository, &policy).unwrap().places[0].decision.ruled();
    let last = world.complete().pop().unwrap().id;
    assert!(kept.contains(&last));
    let (pack, manifest) = (world.place.pack(&last, 0), world.place.manifest(&last));
    // WAL of a full that stays.
    let full = world.complete().into_iter().rfind(|backup| backup.parent.is_none()).unwrap();
    let segment = world.place.wal(&full.wal_first).unwrap();
    for key in [&pack, &manifest, &segment] {
        world.store.delete(key).unwrap();
    }
    for _ in 0..3 {
        world.pass(TimeDelta::days(5));
        world.backup(BackupType::Full);
        expire(&world, &policy);
    }
    let left: Vec<_> = hidden(&world).into_iter().filter(|version| !version.is_marker).collect();
    for key in [&pack, &manifest, &segment] {
        assert!(left.iter().any(|version| version.key == *key), "{key}: {left:?}");
    }
}

#[test]
fn f088_without_rules_everything_is_locked_for_longer_and_nothing_goes() {
    let mut world = World::with_locks(8, DAYS);
    a_day(&mut world);
    world.pass(TimeDelta::days(6));
    let plan = world.plan(&world.repository, &policy(1, 0, 0)).unwrap();
    let lease = world.repository.take_lease(&world.ctx, &World::request()).unwrap();
    let lease = lease.beside(&world.ctx);
    let before = world.content().len();
    let freed = retention::extend_locks(&world.ctx, &world.repository, &plan, &lease).unwrap();
    drop(lease);
    let freed_nothing = Freed { locked: freed.locked, ..Freed::default() };
    assert_eq!(freed, freed_nothing);
    let until = world.now() + third() * 3;
    for (name, found) in locks(&world) {
        let is_full = lock_for(&name, Duration::MAX) == Duration::MAX;
        assert!(!is_full || found == until, "{name}: {found} instead of {until}");
    }
    // The record of locks is new.
    assert_eq!(world.content().len(), before + 1);
}

/// Objects from before `lock_days` was written have no lock: they get one by the next expiry.
#[test]
fn f088_what_was_put_without_a_lock_is_found() {
    let mut world = World::begin_versioned(9);
    for _ in 0..2 {
        a_day(&mut world);
    }
    let world = world.locking(DAYS);
    let policy = policy(2, 1, 2);
    let freed = expire(&world, &policy);
    assert!(freed.locked > 20, "{freed:?}");
    assert_locked(&world, &policy);
    let unlocked: Vec<_> = list_all(&world.store, "").unwrap();
    for meta in unlocked {
        let is_full = lock_for(meta.key.as_str(), Duration::MAX) == Duration::MAX;
        let until = world.store.locked_until(&meta.key).unwrap();
        assert!(!is_full || until >= Some(world.now() + third()), "{}: {until:?}", meta.key);
    }
}

fn weeks() -> World {
    let mut world = World::with_locks(5, DAYS);
    let policy = policy(1, 0, 1);
    for day in 0..DAYS + 2 {
        world.backup(BackupType::Full);
        world.pass(TimeDelta::hours(12));
        if day % 3 == 0 {
            world.backup(BackupType::Differential);
        }
        world.pass(TimeDelta::hours(12));
        if day % 4 == 0 {
            expire(&world, &policy);
        }
    }
    world
}

#[test]
fn f080_f088_expiry_among_locks_that_dies_at_any_operation_is_finished_by_the_next() {
    let policy = policy(1, 0, 1);
    let clean = weeks();
    let repository = clean.through_faults();
    let begun = clean.faulty.operations();
    let freed = clean.expire(&repository, &policy).unwrap();
    assert!(freed.backups > 1 && freed.versions > 10 && freed.locked > 5, "{freed:?}");
    let operations = clean.faulty.operations() - begun;
    let names = |world: &World| -> Vec<String> {
        let all = world.content().into_keys();
        all.filter(|name| !name.contains("/sum/locks/")).collect()
    };
    let end = names(&clean);
    let left = |world: &World| -> Vec<String> {
        let derived = |name: &str| name.contains("/keep/") || name.contains("/sum/");
        let all = hidden(world).into_iter().map(|version| version.key.to_string());
        all.filter(|name| !derived(name)).collect()
    };
    assert!(left(&clean).is_empty(), "{:?}", left(&clean));
    eprintln!("{operations} operations");
    for number in 1..=operations {
        for effect in [Effect::None, Effect::Full] {
            let what = format!("operation {number}, {effect:?}");
            let world = weeks();
            let repository = world.through_faults();
            world.faulty.die_at(world.faulty.operations() + number, effect);
            world.expire(&repository, &policy).ok();
            world.faulty.heal();
            world.assert_sound(&what);
            world.pass(TimeDelta::from_std(LEASE_FOR).unwrap());
            let next = world.expire(&world.repository, &policy);
            next.unwrap_or_else(|error| panic!("{what}: {error}"));
            world.assert_sound(&what);
            assert_locked(&world, &policy);
            assert_eq!(names(&world), end, "{what}");
            assert!(left(&world).is_empty(), "{what}: hidden: {:?}", left(&world));
        }
    }
}

/// Heartbeats are put and taken away once a minute: what they leave hidden goes when its short lock has ended.
#[test]
fn f088_leases_that_were_given_back_do_not_add_up() {
    let mut world = World::with_locks(4, DAYS);
    a_day(&mut world);
    for _ in 0..10 {
        let lease = world.repository.take_lease(&world.ctx, &World::request());
        lease.unwrap().release(&world.ctx);
        world.pass(TimeDelta::minutes(1));
    }
    let of_leases = |world: &World| list_versions(&world.store, "lease/").unwrap().len();
    let hidden = of_leases(&world);
    assert!(hidden >= 40, "{hidden}");
    expire(&world, &policy(2, 0, 1));
    assert!(of_leases(&world) >= hidden, "locked for a day");
    world.pass(TimeDelta::hours(25));
    expire(&world, &policy(2, 0, 1));
    // Its own, and no others.
    assert!(of_leases(&world) <= 8, "{}", of_leases(&world));
    let store = storage::list_versions(&world.store, "probe/").unwrap();
    assert!(store.is_empty(), "{store:?}");
}
