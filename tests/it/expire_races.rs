//! Expiry beside others who begin to use what it removes, however long either of them is paused.

use std::collections::BTreeSet;
use std::sync::Arc;

use chrono::TimeDelta;
use pgkeep::repo::{BackupId, BackupType, Error, LeaseRequest, Pin, Scope};
use pgkeep::retention::{self, Freed, Policy};

use crate::expire_crash::{policy, weeks, weeks_of};
use crate::support::{Gate, World};

/// A backup that two weeks' policy removes.
fn doomed(world: &World) -> BackupId {
    let plan = world.plan(&world.repository, &policy(2, 0, 2)).unwrap();
    let removed: Vec<_> = plan.places[0].decision.removed().cloned().collect();
    removed.into_iter().rfind(|id| id.backup_type() == BackupType::Full).unwrap()
}

fn is_there(world: &World, id: &BackupId) -> bool {
    world.complete().iter().any(|backup| backup.id == *id)
}

#[test]
fn f081_whoever_looks_later_sees_the_other() {
    let policy = policy(2, 0, 2);
    // The record of the backup comes after the plan, and before the removal.
    let mut world = weeks(9);
    let parent = doomed(&world);
    let mut plan = world.plan(&world.repository, &policy).unwrap();
    let begun = world.begin_child(&parent);
    world.execute(&world.repository, &mut plan).unwrap();
    assert!(is_there(&world, &parent) && world.may_go_on(&begun), "spared at the second look");
    let objects = world.store_packs(&begun);
    let child = world.commit(begun, objects).unwrap();
    world.assert_sound("the child of a spared parent");
    // Its parent stays as long as it does.
    world.expire(&world.repository, &policy).unwrap();
    assert!(is_there(&world, &child) && is_there(&world, &parent));
    // The record of the backup comes after the removal was decided, and after it was done.
    let mut world = weeks(9);
    let parent = doomed(&world);
    world.expire(&world.repository, &policy).unwrap();
    let begun = world.begin_child(&parent);
    assert!(!world.may_go_on(&begun));
    let objects = world.store_packs(&begun);
    assert!(world.commit(begun, objects).is_err());
    world.assert_sound("a child of what is gone");
}

/// Expiry is stopped for a week between its record and the removal.
#[test]
fn f081_an_expiry_that_was_paused_removes_nothing_that_was_begun_meanwhile() {
    let policy = policy(2, 0, 2);
    let mut world = weeks(9);
    let parent = doomed(&world);
    // It dies at its first removal: what it decided is recorded.
    let twin = weeks(9);
    let repository = twin.through_faults();
    let begun = twin.faulty.log().len();
    twin.expire(&repository, &policy).unwrap();
    let log = twin.faulty.log();
    let first = log[begun..].iter().position(|operation| operation.name == "delete_many").unwrap();
    let repository = world.through_faults();
    let number = world.faulty.operations() + first as u64 + 1;
    world.faulty.die_at(number, pgkeep::storage::faulty::Effect::None);
    world.expire(&repository, &policy).unwrap_err();
    world.faulty.heal();
    assert!(is_there(&world, &parent), "its manifest is there");
    let begun = world.begin_child(&parent);
    assert!(!world.may_go_on(&begun), "the record says that it goes");
    // A pin and a restore are told so too.
    let pin = Pin {
        id: parent.clone(),
        pinned: true,
        reason: "late".into(),
        until: None,
        time: world.now(),
        host: "db1".into(),
    };
    let late = world.repository.put_pin(&world.ctx, &world.place, &pin).unwrap_err();
    assert!(matches!(late, Error::Expiring { .. }), "{late}");
}

#[test]
fn f080_a_writer_that_was_paused_for_days_finds_its_name_taken() {
    let policy = policy(2, 0, 2);
    let mut world = weeks(3);
    let begun = world.begin_backup(BackupType::Full);
    let objects = world.store_packs(&begun);
    let id = begun.id.clone();
    for _ in 0..3 {
        world.pass(TimeDelta::hours(11));
        world.backup(BackupType::Full);
        world.expire(&world.repository, &policy).unwrap();
    }
    let late = world.commit(begun, objects);
    assert!(late.is_err(), "{late:?}");
    assert!(!is_there(&world, &id));
    world.pass(TimeDelta::days(2));
    world.expire(&world.repository, &policy).unwrap();
    let left: Vec<_> =
        world.content().into_keys().filter(|name| name.contains(id.as_str())).collect();
    assert_eq!(left, [format!("c/main/7-1/backup/{id}")], "the seal");
    world.assert_sound("after a late commit");
}

/// Its host was paused for more than a day after it had seen its WAL, and an expiry took it for dead. It is an incremental, so
/// that fulls which were completed since did not overtake it: its name was free, and the WAL that it needs was gone.
#[test]
fn d2026_11_30_a_backup_that_is_completed_late_has_what_it_needs() {
    let policy = policy(9, 0, 0);
    let mut world = World::begin(5);
    let begin = |world: &mut World| {
        world.backup(BackupType::Full);
        world.pass(TimeDelta::hours(2));
        let begun = world.begin_backup(BackupType::Incremental);
        let packs = world.store_packs(&begun);
        for _ in 0..2 {
            world.pass(TimeDelta::hours(2));
            world.push();
        }
        let end = world.end_of(begun, packs);
        for _ in 0..2 {
            world.pass(TimeDelta::hours(13));
            world.backup(BackupType::Full);
        }
        end
    };
    let late = begin(&mut world);
    world.expire(&world.repository, &policy).unwrap();
    late.put(&world.ctx, &world.repository, &world.place).unwrap();
    world.assert_sound("completed late");
    world.pass(TimeDelta::hours(2));
    // One that was overtaken by its like has its name taken, before anything that it needs goes.
    let late = begin(&mut world);
    world.pass(TimeDelta::hours(2));
    world.backup(BackupType::Incremental);
    let freed = world.expire(&world.repository, &policy).unwrap();
    assert!(freed.segments > 0, "{freed:?}");
    assert_eq!(world.expire(&world.repository, &policy).unwrap().objects, 0, "twice");
    late.put(&world.ctx, &world.repository, &world.place).unwrap_err();
    world.assert_sound("too late");
}

#[test]
fn pins_and_uses_keep_what_they_name_with_its_wal() {
    let policy = policy(1, 0, 1);
    let world = weeks(9);
    let parent = doomed(&world);
    let (pinned, read) = {
        let complete = world.complete();
        let of_chain = complete.iter().find(|b| b.parent.as_ref() == Some(&parent)).unwrap();
        (of_chain.id.clone(), complete[0].id.clone())
    };
    let pin = |pinned_: bool, until| Pin {
        id: pinned.clone(),
        pinned: pinned_,
        reason: "audit".into(),
        until,
        time: world.now(),
        host: "db1".into(),
    };
    let put = |pin| world.repository.put_pin(&world.ctx, &world.place, &pin).unwrap();
    put(pin(true, Some(world.now() + TimeDelta::days(2))));
    let backup = Some((7, 1, read.clone()));
    let request =
        LeaseRequest { scope: Scope::Use, purpose: "restore", backup, ..World::request() };
    let mut used = world.repository.take_lease(&world.ctx, &request).unwrap();
    world.expire(&world.repository, &policy).unwrap();
    assert!(is_there(&world, &pinned) && is_there(&world, &parent) && is_there(&world, &read));
    world.assert_sound("pinned and in use");
    assert_eq!(world.restorable().len(), world.archived.len(), "a restore may replay all");
    used.release(&world.ctx);
    world.expire(&world.repository, &policy).unwrap();
    assert!(is_there(&world, &pinned) && is_there(&world, &parent) && !is_there(&world, &read));
    world.assert_sound("pinned");
    // The pin ends by its time, or by a word.
    put(pin(false, None));
    world.expire(&world.repository, &policy).unwrap();
    assert!(!is_there(&world, &pinned) && !is_there(&world, &parent));
    assert!(world.content().keys().all(|name| !name.contains("/pin/")));
}

#[test]
fn f082_wal_that_comes_back_is_decided_upon_anew() {
    let policy = policy(2, 0, 2);
    let mut world = weeks(9);
    world.expire(&world.repository, &policy).unwrap();
    let first = world.archived[0].segment.clone();
    assert!(!world.content().keys().any(|name| name.ends_with(&first)));
    // A repository that lagged, or another server: it is there, and the next expiry removes it.
    world.pass(TimeDelta::seconds(2));
    let (next, timeline) = (world.next, world.timeline);
    (world.next, world.timeline) = (1, 1);
    world.push();
    (world.next, world.timeline) = (next, timeline);
    let plan = world.plan(&world.repository, &policy).unwrap();
    assert_eq!(plan.places[0].gathered.returned.stretches().count(), 1);
    world.pass(TimeDelta::seconds(2));
    world.expire(&world.repository, &policy).unwrap();
    assert!(!world.content().keys().any(|name| name.ends_with(&first)));
}

#[test]
fn holes_are_what_is_missing_and_was_not_expired() {
    let narrow = policy(2, 2, 2);
    let mut world = weeks(16);
    world.expire(&world.repository, &narrow).unwrap();
    let survey = |world: &World| {
        let registration = world.repository.registration(&world.place).unwrap();
        let survey = world.repository.survey(&world.ctx, &world.place, &registration).unwrap();
        let backups = world.complete();
        survey.wal.holes(backups[0].start().unwrap())
    };
    assert_eq!(survey(&world), [], "WAL behind a weekly full has expired");
    // A widened window brings nothing back, and is no alarm.
    world.expire(&world.repository, &policy(2, 2, 14)).unwrap();
    assert_eq!(survey(&world), []);
    // What is lost is told.
    let lost = world.archived[world.archived.len() - 2].segment.clone();
    world.push();
    use pgkeep::storage::ObjectStore as _;
    world.store.delete(&world.place.wal(&lost).unwrap()).unwrap();
    assert_eq!(survey(&world).len(), 1);
}

#[test]
fn a_manifest_that_vanished_is_told_from_one_that_expired() {
    use pgkeep::storage::ObjectStore as _;
    let policy = policy(2, 0, 2);
    let mut world = weeks(12);
    world.repository.update_catalogue(&world.ctx, &world.place).unwrap();
    let victim = world.complete()[3].id.clone();
    world.store.delete(&world.place.manifest(&victim)).unwrap();
    for _ in 0..3 {
        let plan = world.plan(&world.repository, &policy).unwrap();
        let vanished: Vec<_> = plan.places[0].vanished.iter().collect();
        assert_eq!(vanished, [&victim], "of all that expired none");
        world.expire(&world.repository, &policy).unwrap();
        world.pass(TimeDelta::days(30));
        // The catalogue is written anew, and knows nothing of it.
        for _ in 0..20 {
            world.pass(TimeDelta::minutes(1));
            world.backup(BackupType::Incremental);
        }
        assert!(world.repository.update_catalogue(&world.ctx, &world.place).unwrap());
    }
    let data = format!("data/{victim}/");
    assert!(world.content().keys().any(|name| name.contains(&data)), "nothing of it is touched");
}

/// Runs an expiry that is stopped before `what` for a day, while `meanwhile` happens; what came of it.
fn stopped(
    world: &mut World,
    policy: &Policy,
    what: &str,
    meanwhile: impl FnOnce(&mut World),
) -> pgkeep::repo::Result<Freed> {
    let gate = Gate::new(&world.store);
    let repository = world.repository.reopened(Arc::new(gate.clone())).unwrap().unwrap();
    let (ctx, rules, store) = (world.ctx.clone(), policy.clone(), gate.clone());
    gate.stop_before(what);
    let thread = std::thread::spawn(move || {
        let _ending = store.ending();
        let lease = repository.take_lease(&ctx, &World::request()).unwrap().beside(&ctx);
        let mut plan = retention::plan_expiry(&ctx, &repository, "main", &rules)?;
        retention::execute_expiry(&ctx, &repository, &mut plan, "db1", &lease)
    });
    assert!(gate.wait().is_some(), "nothing begins with {what}");
    world.pass(TimeDelta::days(1));
    meanwhile(world);
    gate.release(false);
    thread.join().unwrap()
}

/// What the newest record keeps, of what there is.
fn kept_things(world: &World) -> (BTreeSet<BackupId>, BTreeSet<String>) {
    let keep = world.repository.kept(&world.ctx, &world.place).unwrap().newest.unwrap();
    let backups = world.complete().into_iter().map(|backup| backup.id);
    let segments = world.segments().into_iter();
    (
        backups.filter(|id| !keep.removed.contains(id)).collect(),
        segments.filter(|segment| !world.has_expired(&keep, segment)).collect(),
    )
}

fn made(by_claims: bool) -> World {
    match by_claims {
        true => weeks_of(World::by_claims(5), 9),
        false => weeks(9),
    }
}

/// It was held back between its last look and its removal, for longer than its lease. Meanwhile another one decided by wider rules
/// that the same backups stay; then the first removed what the newest record keeps.
#[test]
fn d2026_12_01_a_removal_that_is_held_back_takes_nothing_that_was_kept_meanwhile() {
    let (narrow, wide) = (policy(2, 0, 2), policy(9, 9, 30));
    let places = ["delete_many c/main/7-1/backup/", "delete_many c/main/7-1/wal/"];
    for (by_claims, what) in [false, true].into_iter().flat_map(|by| places.map(|at| (by, at))) {
        let mut world = made(by_claims);
        let mut kept = Default::default();
        let late = stopped(&mut world, &narrow, what, |world| {
            let removed = world.expire(&world.repository, &wide).unwrap();
            assert!(removed.objects > 0, "what is given up for good goes: {removed:?}");
            kept = kept_things(world);
        });
        assert!(matches!(late, Err(Error::LeaseLost { .. }) | Ok(_)), "{what}: {late:?}");
        assert_eq!(kept_things(&world), kept, "{what}");
        world.assert_sound(what);
        let again = world.expire(&world.repository, &wide).unwrap();
        assert_eq!((again.objects, kept_things(&world)), (0, kept), "{what}");
    }
}

/// It was held back before its final record: then others decide, and it may not.
#[test]
fn d2026_12_01_who_decided_first_is_followed() {
    let (narrow, wide) = (policy(2, 0, 2), policy(9, 9, 30));
    for (by_claims, what) in [(false, "put_if_absent"), (true, "put")] {
        let mut world = made(by_claims);
        let all = kept_of(&world);
        let what = format!("{what} c/main/7-1/keep/000000001");
        let late = stopped(&mut world, &narrow, &what, |world| {
            let removed = world.expire(&world.repository, &wide).unwrap();
            assert_eq!((removed.backups, removed.segments), (0, 0), "{removed:?}");
        });
        assert!(matches!(late, Err(Error::Decided)), "{what}: {late:?}");
        assert_eq!(kept_of(&world), all, "{what}");
        let kept = world.repository.kept(&world.ctx, &world.place).unwrap();
        assert_eq!(kept.newest.unwrap().head.policy, wide.to_string());
    }
}

fn kept_of(world: &World) -> (BTreeSet<BackupId>, BTreeSet<String>) {
    let backups = world.complete().into_iter().map(|backup| backup.id);
    (backups.collect(), world.segments())
}
