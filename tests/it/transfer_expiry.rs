//! Copies beside expiry: what either side removes, has removed or would remove, and what is handed on before it goes.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use chrono::TimeDelta;
use pgkeep::base::{Ctx, Event, Observer};
use pgkeep::repo::{BackupId, BackupType, CipherChoice, LeaseRequest, Pin, Scope};
use pgkeep::storage::ObjectStore as _;
use pgkeep::storage::faulty::Effect;
use pgkeep::transfer::Copied;
use pgkeep::{retention, transfer, wiring};

use crate::expire_crash::{policy, weeks};
use crate::support::World;
use crate::transfer_store::{Target, WHO, assert_same, copy, expire, ids, names, newest, request};

#[test]
fn f080_what_the_target_has_removed_or_would_remove_does_not_come_back() {
    let world = weeks(9);
    let (ctx, place) = (&world.ctx, &world.place);
    let target = Target::new(ctx, CipherChoice::Aes256Cbc);
    let policy = policy(2, 0, 2);
    let rules = || {
        wiring::target_rules(ctx, (&world.repository, &target.repository), "main", &policy).unwrap()
    };
    // By its rules from the beginning: no more than its expiry would leave.
    let mut wanted = request(&world.repository, &target.repository);
    wanted.rules = rules();
    let plan = transfer::plan(ctx, &wanted).unwrap();
    let left: Vec<_> = plan.places[0].left_out.iter().collect();
    assert!(left.len() > 6 && left.iter().all(|left| left.is_by_rules), "{left:?}");
    assert!(plan.places[0].segments_left_out > 6, "{plan}");
    transfer::execute(ctx, &wanted, &plan, &WHO).unwrap();
    let before = names(&target.store);
    let freed = expire(ctx, &target.repository, &policy);
    assert_eq!((freed.backups, freed.segments), (0, 0), "{freed:?}");
    assert_eq!(names(&target.store), before);
    let kept = ids(ctx, &target.repository, place);
    assert_same(ctx, place, (&world.repository, &target.repository), &kept);
    // Without its rules everything comes; what expiry then removed is not brought back by the rules.
    let all = Target::new(ctx, CipherChoice::None);
    copy(ctx, &request(&world.repository, &all.repository)).unwrap();
    expire(ctx, &all.repository, &policy);
    let mut wanted = request(&world.repository, &all.repository);
    wanted.rules =
        wiring::target_rules(ctx, (&world.repository, &all.repository), "main", &policy).unwrap();
    assert_eq!(copy(ctx, &wanted).unwrap(), Copied::default());
    // Nor without them what is in the record of that expiry.
    let plan = transfer::plan(ctx, &request(&world.repository, &all.repository)).unwrap();
    let told = plan.to_string();
    assert!(told.contains("expire has removed it from b, and names are not used twice"), "{told}");
}

/// WAL that the target gave up comes back where a backup is asked for that needs it, and is not called expired then.
#[test]
fn what_was_given_up_comes_back_for_a_backup_that_needs_it() {
    let world = weeks(9);
    let (ctx, place) = (&world.ctx, &world.place);
    let target = Target::new(ctx, CipherChoice::None);
    let policy = policy(2, 0, 2);
    let old = world.complete().remove(0);
    let mut one = request(&world.repository, &target.repository);
    // It had archived there from the beginning, and its backups elsewhere: of the old ones only WAL expires.
    let mut archived = request(&world.repository, &target.repository);
    let registration = world.repository.registration(place).unwrap();
    let wal = world.repository.survey_by_list(ctx, place, &registration).unwrap().wal;
    let kept = transfer::Kept { backups: newest(&world, 10), wal };
    archived.rules = [(place.clone(), kept)].into();
    copy(ctx, &archived).unwrap();
    assert!(expire(ctx, &target.repository, &policy).segments > 6);
    let survey = || {
        let registration = target.repository.registration(place).unwrap();
        target.repository.survey_by_list(ctx, place, &registration).unwrap().wal
    };
    let key = place.wal(&old.wal_first).unwrap();
    assert!(target.store.head(&key).is_err());
    one.backups = [old.id.clone()].into();
    let plan = transfer::plan(ctx, &one).unwrap();
    assert!(plan.to_string().contains("that expire had given up there come back"), "{plan}");
    transfer::execute(ctx, &one, &plan, &WHO).unwrap();
    assert!(target.store.head(&key).is_ok());
    let (first, wal) = (old.start().unwrap(), survey());
    assert!(wal.has(first.0, first.1), "it is archived, and not given up");
    assert_same(ctx, place, (&world.repository, &target.repository), std::slice::from_ref(&old.id));
    // Pinned there it stays by itself; without, the next expiry takes it again.
    let pin = Pin {
        id: old.id.clone(),
        pinned: true,
        reason: "kept here".into(),
        until: None,
        time: world.now(),
        host: "db2".into(),
    };
    target.repository.put_pin(ctx, place, &pin).unwrap();
    expire(ctx, &target.repository, &policy);
    assert_same(ctx, place, (&world.repository, &target.repository), std::slice::from_ref(&old.id));
}

/// Runs something at every step of a copy, in the thread that copies.
struct Beside(Box<dyn Fn() + Send + Sync>);

impl std::fmt::Debug for Beside {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Beside")
    }
}

impl Observer for Beside {
    fn event(&self, event: Event) {
        if matches!(event, Event::Advance { .. } | Event::Begin { .. }) {
            (self.0)();
        }
    }
}

/// Whoever copies is seen by expiry, on both sides, at every step; also who goes on with what another began long ago.
#[test]
fn f081_expiry_beside_a_copy_removes_nothing_of_it() {
    let strict = policy(1, 0, 1);
    for is_resumed in [false, true] {
        let world = weeks(9);
        let (ctx, place) = (&world.ctx, &world.place);
        // The target has newer ones, so that nothing there keeps the old one but that it is copied.
        let with_newer = || {
            let target = Target::new(ctx, CipherChoice::Aes256Cbc);
            let mut one = request(&world.repository, &target.repository);
            one.backups = newest(&world, 8);
            copy(ctx, &one).unwrap();
            target
        };
        let old = world.complete().iter().find(|b| b.parent.is_some()).unwrap().clone();
        let target = match is_resumed {
            false => with_newer(),
            // One that died with packs of the full, and before that was complete.
            true => {
                let dies = |number: u64| {
                    let target = with_newer();
                    let faulty = target.through_faults();
                    let mut one = request(&world.repository, &faulty);
                    one.backups = [old.id.clone()].into();
                    let plan = transfer::plan(ctx, &one).unwrap();
                    target.faulty.die_at(target.faulty.operations() + number, Effect::Full);
                    transfer::execute(ctx, &one, &plan, &WHO).unwrap_err();
                    target.faulty.heal();
                    let root = old.id.root();
                    let has_pack = target.store.head(&place.meta(&root, 0)).is_ok();
                    let is_open = target.store.head(&place.manifest(&root)).is_err();
                    (has_pack && is_open).then_some(target)
                };
                let target = (8..80).find_map(dies).expect("it dies in between");
                world.pass(TimeDelta::days(3));
                target
            }
        };
        let mut one = request(&world.repository, &target.repository);
        one.backups = [old.id.clone()].into();
        let runs = Arc::new(AtomicU64::new(0));
        let (count, quiet, rules) = (Arc::clone(&runs), ctx.clone(), strict.clone());
        let (from, to) = (world.repository.clone(), target.repository.clone());
        let one_at_a_time = Mutex::new(());
        let beside = Beside(Box::new(move || {
            let _turn = one_at_a_time.lock().unwrap();
            expire(&quiet, &to, &rules);
            expire(&quiet, &from, &rules);
            count.fetch_add(1, Ordering::Relaxed);
        }));
        let watched = Ctx { observer: Arc::new(beside), ..ctx.clone() };
        let plan = transfer::plan(ctx, &one).unwrap();
        // What expiry had removed in the source before anybody said that he reads it is gone.
        let held = LeaseRequest {
            backup: Some((place.system(), place.epoch(), old.id.clone())),
            ..World::request_for(Scope::Use)
        };
        let lease = world.repository.take_lease(ctx, &held).unwrap();
        let copied = transfer::execute(&watched, &one, &plan, &WHO).unwrap();
        assert_eq!(copied.backups.last(), Some(&old.id), "resumed: {is_resumed}");
        assert!(runs.load(Ordering::Relaxed) > 3);
        assert_same(
            ctx,
            place,
            (&world.repository, &target.repository),
            std::slice::from_ref(&old.id),
        );
        // Afterwards the rules of each decide.
        drop(lease);
        world.pass(TimeDelta::hours(3));
        expire(ctx, &target.repository, &strict);
        assert!(!ids(ctx, &target.repository, place).contains(&old.id));
    }
}

/// A copy that nobody goes on with is kept for a month, then swept, and its name is not used again.
#[test]
fn f080_what_a_dead_copy_leaves_is_swept_after_a_month() {
    let world = weeks(2);
    let (ctx, place) = (&world.ctx, &world.place);
    let target = Target::new(ctx, CipherChoice::None);
    let faulty = target.through_faults();
    let wanted = request(&world.repository, &faulty);
    let plan = transfer::plan(ctx, &wanted).unwrap();
    let twin = Target::new(ctx, CipherChoice::None);
    let counted = twin.through_faults();
    let before = twin.faulty.log().len();
    transfer::execute(ctx, &request(&world.repository, &counted), &plan, &WHO).unwrap();
    let log = twin.faulty.log();
    let table =
        log[before..].iter().position(|each| each.key.contains("/files/") && each.name == "finish");
    target.faulty.die_at(target.faulty.operations() + table.unwrap() as u64 + 1, Effect::Full);
    transfer::execute(ctx, &wanted, &plan, &WHO).unwrap_err();
    target.faulty.heal();
    let id = plan.places[0].backups[0].id.clone();
    let own =
        || target.names().into_iter().filter(|name| name.contains(id.as_str())).collect::<Vec<_>>();
    let keep = policy(30, 0, 300);
    let stored = own();
    assert!(stored.len() > 4 && target.store.head(&place.manifest(&id)).is_err(), "{stored:?}");
    world.pass(TimeDelta::days(29));
    let planned = retention::plan_expiry(ctx, &target.repository, "main", &keep).unwrap();
    assert!(
        planned.places[0].vanished.is_empty(),
        "nothing has vanished: the source has all of it"
    );
    expire(ctx, &target.repository, &keep);
    assert_eq!(own(), stored, "the next copy goes on with it");
    world.pass(TimeDelta::days(2));
    expire(ctx, &target.repository, &keep);
    let left = own();
    assert!(left.iter().all(|name| name.contains("/backup/")), "the seal stays: {left:?}");
    let plan = transfer::plan(ctx, &request(&world.repository, &target.repository)).unwrap();
    let told = plan.to_string();
    assert!(told.contains("names are not used twice"), "{told}");
}

/// Staging to a bucket: what the calendar alone keeps, and what nothing keeps, is there before it is removed here.
#[test]
fn f080_old_chains_go_to_another_repository_and_leave_this_one() {
    let (world, twin) = (weeks(9), weeks(9));
    let (ctx, place) = (&world.ctx, &world.place);
    let target = Target::new(ctx, CipherChoice::Aes256Cbc);
    let policy = policy(30, 0, 2);
    let after = std::time::Duration::from_hours(72);
    let mut plan = world.plan(&world.repository, &policy).unwrap();
    let found = &plan.places[0];
    let leaving =
        retention::leaving(&found.gathered.facts, &found.decision, (after, ctx.clock.now()));
    assert!(leaving.old.len() > 3 && leaving.going.len() > 3, "{leaving:?}");
    let all = leaving.all();
    let mut wanted = request(&world.repository, &target.repository);
    (wanted.backups, wanted.is_strict) = (all.clone(), false);
    // Nothing is there yet: what no rule keeps waits.
    let none = transfer::whole(ctx, &wanted.to, place, &all).unwrap();
    assert!(none.is_empty());
    let moving = |there: &BTreeSet<BackupId>| retention::Moving {
        to: "b".into(),
        there: there.clone(),
        waiting: leaving.going.difference(there).cloned().collect(),
    };
    plan.set_moving(ctx.clock.now(), |_| moving(&none));
    assert_eq!(plan.removed_of().0, 0);
    copy(ctx, &wanted).unwrap();
    let there = transfer::whole(ctx, &wanted.to, place, &all).unwrap();
    assert_eq!(there, all);
    // One object less, and that chain is not whole.
    let id = there.iter().find(|id| id.backup_type() != BackupType::Full).unwrap();
    let key = place.pack(&id.root(), 0);
    let bytes = target.store.get(&key).unwrap();
    target.store.delete(&key).unwrap();
    let broken = transfer::whole(ctx, &wanted.to, place, &all).unwrap();
    assert!(!broken.contains(id) && !broken.contains(&id.root()));
    target.store.put(&key, &bytes).unwrap();
    plan.set_moving(ctx.clock.now(), |_| moving(&there));
    let removed: BTreeSet<_> = plan.places[0].decision.removed().cloned().collect();
    assert_eq!(removed, there);
    world.execute(&world.repository, &mut plan).unwrap();
    world.assert_sound("what stayed");
    let left = ids(ctx, &world.repository, place);
    assert!(left.iter().all(|id| !all.contains(id)) && left.len() > 2, "{left:?}");
    let moved: Vec<_> = all.into_iter().collect();
    assert_same(ctx, place, (&twin.repository, &target.repository), &moved);
    assert_same(ctx, place, (&twin.repository, &world.repository), &left);
    // What is restorable in the window is so from here as before.
    let window = |world: &World| {
        let from = world.plan(&world.repository, &policy).unwrap().places[0].decision.window_from;
        world.restorable().into_iter().filter(|moment| *moment >= from).collect::<Vec<_>>()
    };
    assert_eq!(window(&world), window(&twin));
}
