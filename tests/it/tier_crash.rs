//! Tiering dies at every operation: all but packs is readable at each moment, packs are readable or can be thawed, and
//! the next run brings the same end. And what others do meanwhile.

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::TimeDelta;
use pgkeep::base::Ctx;
use pgkeep::repo::{BackupId, BackupType, LEASE_FOR, Place, RENEW_AFTER, Repository, Scope};
use pgkeep::retention::{self, Policy};
use pgkeep::storage::faulty::Effect;
use pgkeep::storage::{
    Availability, ObjectKey, ObjectStore as _, StorageClass, Thaw, ThawSpeed, list_all,
};
use pgkeep::tiering::{self, Error, Moved, TierPlan, TierPolicy, Way};
use pgkeep::{storage, wiring};

use crate::expire_crash::policy;
use crate::support::World;

const BULK: Thaw = Thaw { days: 3, speed: ThawSpeed::Bulk };

/// Two days old, and cold.
pub fn rules() -> TierPolicy {
    let after = Duration::from_hours(48);
    TierPolicy { after, class: StorageClass::Glacier, monthly: None, yearly: None, way: Way::Copy }
}

/// Some days: a full each day, with an incremental and a differential behind it.
pub fn days(count: u32) -> World {
    let mut world = World::with_classes(5);
    for _ in 0..count {
        world.backup(BackupType::Full);
        world.pass(TimeDelta::hours(8));
        world.backup(BackupType::Incremental);
        world.pass(TimeDelta::hours(8));
        world.backup(BackupType::Differential);
        world.pass(TimeDelta::hours(8));
    }
    world
}

pub fn plan(
    ctx: &Ctx,
    repository: &Repository,
    keep: &Policy,
    rules: &TierPolicy,
) -> tiering::Result<TierPlan> {
    let gathered = retention::gather(ctx, repository, "main", retention::Looks::Listing)?;
    let facts: Vec<_> = gathered.iter().map(|place| place.facts.clone()).collect();
    let decisions = retention::decide(keep, ctx.clock.now(), &facts);
    let found = gathered.iter().zip(&decisions);
    let found = found.map(|(place, decision)| wiring::tier_found(place, decision, true));
    tiering::plan_tiering(ctx, repository, rules, found.collect())
}

pub fn execute(ctx: &Ctx, repository: &Repository, plan: &TierPlan) -> tiering::Result<Moved> {
    let lease = repository.take_lease(ctx, &World::request_for(Scope::Tier))?.beside(ctx);
    let moved = tiering::execute(ctx, repository, plan, &lease)?;
    drop(lease);
    Ok(moved)
}

fn tier(world: &World, repository: &Repository) -> tiering::Result<Moved> {
    let plan = plan(&world.ctx, repository, &policy(30, 0, 30), &rules())?;
    execute(&world.ctx, repository, &plan)
}

/// The class of every object but leases.
fn classes(world: &World) -> BTreeMap<String, StorageClass> {
    let listed = list_all(&world.store, "").unwrap().into_iter();
    let own = listed.filter(|meta| !meta.key.as_str().starts_with("lease/"));
    own.map(|meta| (meta.key.to_string(), meta.class.unwrap())).collect()
}

/// The only file of a backup, as it is stored.
pub fn read(
    repository: &Repository,
    place: &Place,
    id: &BackupId,
) -> pgkeep::repo::Result<Vec<u8>> {
    let opened = repository.open_backup(place, id)?;
    let row = opened.rows()?.next_row()?.expect("every backup has one file");
    opened.read_whole(&row, 1 << 20)
}

pub fn content(id: &BackupId) -> Vec<u8> {
    id.as_str().repeat(10).into_bytes()
}

fn assert_readable_or_cold(world: &World, what: &str) {
    world.assert_sound(what);
    for (name, class) in classes(world) {
        let key = ObjectKey::new(name.as_str()).unwrap();
        let read = world.store.get(&key);
        if name.contains("/data/") && class == StorageClass::Glacier {
            assert!(matches!(read, Err(storage::Error::Cold { .. })), "{what}: {name}");
            let state = world.store.class(&key).unwrap().availability;
            assert_eq!(state, Availability::Cold, "{what}: {name}");
        } else {
            assert_eq!(class, StorageClass::Standard, "{what}: {name}");
            assert!(read.is_ok(), "{what}: {name}");
        }
    }
}

#[test]
fn f089_tiering_that_dies_at_any_operation_is_finished_by_the_next() {
    let clean = days(5);
    let repository = clean.through_faults();
    let begun = clean.faulty.operations();
    let moved = tier(&clean, &repository).unwrap();
    // Of five chains the last one stays, and those that ended less than two days ago.
    assert_eq!((moved.packs, moved.vanished, moved.cold), (9, 0, 0), "{moved:?}");
    let operations = clean.faulty.operations() - begun;
    let end = classes(&clean);
    assert_readable_or_cold(&clean, "the clean run");
    assert_eq!(tier(&clean, &repository).unwrap(), Moved::default(), "again: nothing moves");
    eprintln!("{operations} operations");
    let mut partly = 0;
    for number in 1..=operations {
        for effect in [Effect::None, Effect::Full] {
            let what = format!("operation {number}, {effect:?}");
            let world = days(5);
            let repository = world.through_faults();
            world.faulty.die_at(world.faulty.operations() + number, effect);
            let died = tier(&world, &repository);
            assert!(died.is_err() || number > operations - 4, "{what}");
            world.faulty.heal();
            assert_readable_or_cold(&world, &what);
            let left = classes(&world);
            let cold = left.values().filter(|class| **class == StorageClass::Glacier).count();
            partly += usize::from((1..9).contains(&cold));
            world.pass(TimeDelta::from_std(LEASE_FOR).unwrap());
            let next = tier(&world, &world.repository);
            next.unwrap_or_else(|error| panic!("{what}: {error}"));
            assert_readable_or_cold(&world, &what);
            assert_eq!(classes(&world), end, "{what}");
        }
    }
    assert!(partly > 9, "chains are left in two classes: {partly}");
}

/// A chain in two classes, and one that is cold: what is asked for comes, and is what was stored.
#[test]
fn f089_a_chain_in_two_classes_is_thawed_and_read() {
    let world = days(5);
    let (ctx, repository, store) = (&world.ctx, &world.repository, &world.store);
    let mut plan = plan(ctx, repository, &policy(30, 0, 30), &rules()).unwrap();
    plan.places[0].chains[0].moves.truncate(1);
    assert_eq!(execute(ctx, repository, &plan).unwrap().packs, 7);
    for backup in world.complete() {
        let id = &backup.id;
        let cold = tiering::find_cold(ctx, repository, &world.place, id).unwrap();
        let refused = read(repository, &world.place, id);
        let own = storage::list_all(store, &world.place.backup_prefixes(id)[0]).unwrap();
        let is_cold = own.iter().any(|meta| meta.class == Some(StorageClass::Glacier));
        assert_eq!(refused.is_err(), is_cold, "{id}");
        if !is_cold {
            continue;
        }
        let cold_error = |error: &pgkeep::repo::Error| {
            matches!(error, pgkeep::repo::Error::Storage(storage::Error::Cold { .. }))
        };
        assert!(refused.is_err_and(|error| cold_error(&error)), "{id}");
        assert!(cold.objects > 0 && cold.classes[0].class == StorageClass::Glacier, "{cold:?}");
        let asked = tiering::thaw(ctx, store, &cold, BULK).unwrap();
        assert_eq!((asked.thawing, asked.cold, asked.gone), (cold.objects, 0, 0));
        assert_eq!(tiering::poll(ctx, store, &cold).unwrap().readable, cold.thawed);
        world.pass(TimeDelta::hours(13));
        let ready = tiering::poll(ctx, store, &cold).unwrap();
        assert!(ready.is_complete() && ready.until > Some(world.now()), "{ready:?}");
        assert_eq!(read(repository, &world.place, id).unwrap(), content(id));
        let now = tiering::find_cold(ctx, repository, &world.place, id).unwrap();
        assert_eq!((now.objects, now.thawed), (0, cold.packs.len() as u64));
        world.pass(TimeDelta::days(4));
        let cold = tiering::find_cold(ctx, repository, &world.place, id).unwrap();
        assert!(cold.objects > 0 && cold.thawed == 0, "{cold:?}");
    }
    let last = world.complete().pop().unwrap();
    let cold = tiering::find_cold(ctx, repository, &world.place, &last.id).unwrap();
    assert_eq!(cold, tiering::Cold::default());
}

#[test]
fn what_others_do_after_the_plan_is_respected() {
    let world = days(5);
    let (ctx, repository) = (&world.ctx, &world.repository);
    let rules = rules();
    let planned = || plan(ctx, repository, &policy(30, 0, 30), &rules).unwrap();
    let first = planned();
    let roots: Vec<_> = first.places[0].chains.iter().map(|chain| chain.root.clone()).collect();
    // Somebody restores from the first, and a backup begins on the second.
    let backup = Some((world.place.system(), world.place.epoch(), roots[0].clone()));
    let request = pgkeep::repo::LeaseRequest { backup, ..World::request_for(Scope::Use) };
    let mut used = repository.take_lease(ctx, &request).unwrap();
    let mut world = world;
    world.begin_child(&roots[1]);
    let (ctx, repository) = (&world.ctx, &world.repository);
    let moved = execute(ctx, repository, &first).unwrap();
    assert_eq!(moved.packs, 3, "{moved:?}");
    let passed: Vec<_> = moved.passed.iter().map(|(root, _)| root.clone()).collect();
    assert_eq!(passed, roots[..2]);
    assert!(moved.passed[0].1.contains("in use by use, process 1 on db1"), "{moved:?}");
    assert!(moved.passed[1].1.ends_with("has begun to stand on it"), "{moved:?}");
    // A plan that is made now says the same.
    let again = plan(ctx, repository, &policy(30, 0, 30), &rules).unwrap();
    assert_eq!(again.moving().packs, 0, "{again}");
    assert!(again.to_string().contains("is running and may stand on it"), "{again}");
    used.release(ctx);
    let again = plan(ctx, repository, &policy(30, 0, 30), &rules).unwrap();
    assert_eq!(again.moving().packs, 3, "{again}");
}

#[test]
fn what_vanished_is_passed_over_and_what_changed_is_named() {
    let world = days(5);
    let (ctx, repository) = (&world.ctx, &world.repository);
    let planned = plan(ctx, repository, &policy(30, 0, 30), &rules()).unwrap();
    let moves: Vec<_> = planned.places[0].moves().cloned().collect();
    world.store.delete(&moves[0].meta.key).unwrap();
    let moved = execute(ctx, repository, &planned).unwrap();
    assert_eq!((moved.packs, moved.vanished), (8, 1), "{moved:?}");
    let world = days(5);
    world.store.put(&moves[4].meta.key, b"another").unwrap();
    let error = execute(&world.ctx, &world.repository, &planned).unwrap_err();
    let changed =
        matches!(&error, Error::Repo(pgkeep::repo::Error::Storage(storage::Error::Changed { .. })));
    assert!(changed && error.to_string().contains(moves[4].meta.key.as_str()), "{error}");
    // A lease that was lost ends the work.
    let world = days(5);
    let lease = world.repository.take_lease(&world.ctx, &World::request_for(Scope::Tier));
    let lease = lease.unwrap().beside(&world.ctx);
    world.pass(TimeDelta::from_std(LEASE_FOR + RENEW_AFTER).unwrap());
    tiering::execute(&world.ctx, &world.repository, &planned, &lease).unwrap_err();
    world.ctx.cancel.cancel();
    assert!(classes(&world).values().all(|class| *class == StorageClass::Standard));
}

#[test]
fn a_store_without_classes_is_refused_and_named() {
    let world = World::begin(5);
    let error = plan(&world.ctx, &world.repository, &policy(30, 0, 30), &rules()).unwrap_err();
    assert!(matches!(error, Error::NoClasses { .. }), "{error}");
    assert!(error.to_string().contains("memory: a repository of this kind"), "{error}");
}

/// Expiry and tiering look at the same chains: what goes does not move, and what is cold goes without a thaw.
#[test]
fn what_expires_does_not_move_and_what_is_cold_expires() {
    let world = days(8);
    let (ctx, repository) = (&world.ctx, &world.repository);
    let strict = policy(1, 0, 2);
    let planned = plan(ctx, repository, &strict, &rules()).unwrap();
    assert!(planned.to_string().contains("no rule keeps it"), "{planned}");
    tier(&world, repository).unwrap();
    let cold = |world: &World| {
        classes(world).into_values().filter(|class| *class == StorageClass::Glacier).count()
    };
    let before = cold(&world);
    world.expire(repository, &strict).unwrap();
    assert_readable_or_cold(&world, "after expiry");
    assert!(cold(&world) < before, "{before}");
}

/// Rules of the bucket move what has the tag, and nothing else; nobody copies.
#[test]
fn what_is_tagged_is_moved_by_the_buckets_rules() {
    let world = days(5);
    let (ctx, repository) = (&world.ctx, &world.repository);
    let by_tag = TierPolicy { way: Way::Tag, ..rules() };
    let planned = plan(ctx, repository, &policy(30, 0, 30), &by_tag).unwrap();
    assert!(planned.to_string().contains("by tag"), "{planned}");
    let before = classes(&world);
    let moved = execute(ctx, repository, &planned).unwrap();
    assert!(moved.by_tag && moved.packs > 3, "{moved:?}");
    assert_eq!(classes(&world), before, "a tag moves nothing");
    world.store.follow_tags(tiering::CLASS_TAG);
    let cold = classes(&world).into_values().filter(|class| *class == StorageClass::Glacier);
    assert_eq!(cold.count() as u64, moved.packs);
    assert_readable_or_cold(&world, "after the rules");
    let again = plan(ctx, repository, &policy(30, 0, 30), &by_tag).unwrap();
    assert_eq!(again.moving().packs, 0, "{again}");
}

/// Whoever waits is told when everything can be read, asks again for what got cold meanwhile, and can be stopped.
#[test]
fn a_thaw_is_waited_for() {
    let world = days(5);
    tier(&world, &world.repository).unwrap();
    let (ctx, repository, store) = (&world.ctx, &world.repository, &world.store);
    let id = world.complete()[0].id.clone();
    let cold = tiering::find_cold(ctx, repository, &world.place, &id).unwrap();
    assert!(cold.objects > 0, "{cold:?}");
    let wanted = storage::Thaw { days: 1, speed: storage::ThawSpeed::Bulk };
    let before = ctx.clock.now();
    let wait = |cold| {
        let asked = tiering::thaw(ctx, store, cold, wanted)?;
        tiering::wait_for_thaw(ctx, store, cold, (wanted, asked))
    };
    let ready = wait(&cold).unwrap();
    assert!(ready.is_complete() && ready.readable == cold.objects, "{ready:?}");
    let took = ctx.clock.now() - before;
    assert!((TimeDelta::hours(12)..TimeDelta::hours(13)).contains(&took), "{took}");
    assert_eq!(read(repository, &world.place, &id).unwrap(), content(&id));
    // A pack that is gone is not waited for.
    world.pass(TimeDelta::days(3));
    store.delete(&cold.packs[0].key).unwrap();
    let gone = wait(&cold).unwrap_err();
    assert!(matches!(gone, Error::Gone { packs: 1 }), "{gone}");
    let other = world.complete()[1].id.clone();
    let cold = tiering::find_cold(ctx, repository, &world.place, &other).unwrap();
    world.ctx.cancel.cancel();
    wait(&cold).unwrap_err();
}
