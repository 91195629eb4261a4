//! A copy dies at every operation in its target: nothing half-made is visible there, and the same copy brings the same
//! end.

use pgkeep::repo::CipherChoice;
use pgkeep::storage::faulty::Effect;
use pgkeep::transfer;

use crate::expire_crash::weeks;
use crate::support::World;
use crate::transfer_store::{Target, WHO, assert_same, copy, request};

fn source() -> World {
    weeks(3)
}

/// Whatever is complete there is whole, with its WAL.
fn assert_sound(world: &World, target: &Target, what: &str) -> usize {
    let (ctx, place) = (&world.ctx, &world.place);
    let registration = match target.repository.registration(place) {
        Ok(registration) => registration,
        Err(_) => return 0,
    };
    let backups = target.repository.backups_by_manifest(ctx, place).unwrap();
    assert!(backups.unreadable.is_empty(), "{what}: {:?}", backups.unreadable);
    let ids: Vec<_> = backups.complete.iter().map(|backup| backup.id.clone()).collect();
    assert_same(ctx, place, (&world.repository, &target.repository), &ids);
    // Everything that a catalogue or a survey says of it holds.
    target.repository.survey_by_list(ctx, place, &registration).unwrap();
    ids.len()
}

fn dies_everywhere(cipher: CipherChoice, step: u64) {
    let world = source();
    let ctx = &world.ctx;
    let clean = Target::new(ctx, cipher);
    let faulty = clean.through_faults();
    let wanted = request(&world.repository, &faulty);
    let before = clean.faulty.operations();
    let all = copy(ctx, &wanted).unwrap().backups.len();
    let operations = clean.faulty.operations() - before;
    let end = clean.names();
    assert_eq!(assert_sound(&world, &clean, "the clean run"), all);
    eprintln!("{operations} operations");
    let mut partly = 0;
    for number in (1..=operations).step_by(usize::try_from(step).unwrap()) {
        for effect in [Effect::None, Effect::Full] {
            let what = format!("operation {number}, {effect:?}");
            let target = Target::new(ctx, cipher);
            let faulty = target.through_faults();
            let dies = request(&world.repository, &faulty);
            target.faulty.die_at(target.faulty.operations() + number, effect);
            let died = copy(ctx, &dies);
            target.faulty.heal();
            if died.is_err() {
                partly += usize::from(assert_sound(&world, &target, &what) > 0);
            }
            let again = request(&world.repository, &target.repository);
            let plan = transfer::plan(ctx, &again).unwrap_or_else(|why| panic!("{what}: {why}"));
            let done = transfer::execute(ctx, &again, &plan, &WHO);
            done.unwrap_or_else(|why| panic!("{what}: {why}"));
            assert_eq!(assert_sound(&world, &target, &what), all, "{what}");
            assert_eq!(target.names(), end, "{what}");
        }
    }
    assert!(partly > 10, "{partly}");
}

#[test]
fn f080_a_copy_that_dies_at_any_operation_is_finished_by_the_next() {
    dies_everywhere(CipherChoice::None, 1);
}

#[test]
fn f080_also_where_the_target_has_another_cipher() {
    dies_everywhere(CipherChoice::Aes256Cbc, 7);
}

/// Two copies of the same at once: each name has one object, and both end well.
#[test]
fn two_copies_at_once_do_not_spoil_each_other() {
    let world = source();
    let ctx = &world.ctx;
    for _ in 0..4 {
        let target = Target::new(ctx, CipherChoice::Aes256Cbc);
        let run = || copy(ctx, &request(&world.repository, &target.repository));
        let ended = std::thread::scope(|scope| {
            let both = [scope.spawn(run), scope.spawn(run)];
            both.map(|each| each.join().unwrap())
        });
        assert!(ended.iter().any(Result::is_ok), "{ended:?}");
        // Where one came too late for something, it says so, and the same again does the rest.
        copy(ctx, &request(&world.repository, &target.repository)).unwrap();
        let all = world.complete().len();
        assert_eq!(assert_sound(&world, &target, "two at once"), all);
    }
}
