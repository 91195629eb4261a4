//! The catalogue of backups: what it saves, and that the manifests win.

use super::manifest::summary;
use super::*;
use crate::repo::{BackupId, Backups, Kind, Manifest};
use crate::storage::faulty::Effect;
use crate::storage::{FaultyStore, MeteredStore};

fn id(number: i64) -> BackupId {
    BackupId::full(now() + chrono::TimeDelta::hours(number))
}

/// Puts a manifest without objects.
fn put(repository: &Repository, ctx: &Ctx, number: i64, tool: &str) {
    let (id, finished) = (id(number), now() + chrono::TimeDelta::hours(number));
    let key = place().manifest(&id);
    let mut manifest = Manifest {
        summary: crate::repo::Summary { id, finished, tool: tool.into(), ..summary() },
        objects: vec![],
        bases: vec![],
        reused: vec![],
        tablespaces: vec![],
        damage: vec![],
        index: vec![],
    };
    // The file table must be there while the manifest is put.
    let files = place().files(&manifest.summary.id);
    let mut writer = repository.buffer(ctx, Kind::Files, &files).unwrap();
    writer.content(b"", true, true).unwrap();
    let (bytes, sealed) = writer.into_parts();
    repository.store().put(&files, &bytes).unwrap();
    manifest.objects.push(crate::repo::ObjectRecord::new("files", &sealed));
    repository.store().delete(&key).unwrap();
    repository.commit(ctx, &place(), &mut manifest).unwrap();
}

fn ids(backups: &Backups) -> Vec<BackupId> {
    backups.complete.iter().map(|summary| summary.id.clone()).collect()
}

struct Made {
    ctx: Ctx,
    repository: Repository,
    metered: MeteredStore<MemoryStore>,
    store: MemoryStore,
}

fn made(count: i64) -> Made {
    let ctx = ctx();
    let (made, store) = fresh(&ctx, CipherChoice::Aes256Cbc);
    (0..count).for_each(|number| put(&made, &ctx, number, "pgkeep 0.1.0"));
    made.abandon(&ctx, &place(), &id(count), "died").unwrap();
    let metered = MeteredStore::new(store.clone());
    let repository = Repository::open(Arc::new(metered.clone()), &key_file(1)).unwrap();
    metered.reset();
    Made { ctx, repository, metered, store }
}

impl Made {
    fn catalogues(&self) -> Vec<ObjectKey> {
        let prefix = place().catalogues_prefix();
        let listed = crate::storage::list_all(&self.store, &prefix).unwrap();
        listed.into_iter().map(|meta| meta.key).collect()
    }

    /// What listing says, and how many objects it read.
    fn read(&self) -> (Backups, u64) {
        self.metered.reset();
        let found = self.repository.backups(&self.ctx, &place()).unwrap();
        let requests = self.metered.reset();
        (found, requests.reads() - requests.list)
    }

    fn update(&self) -> bool {
        self.repository.update_catalogue(&self.ctx, &place()).unwrap()
    }
}

#[test]
fn what_the_catalogue_covers_is_not_read_again() {
    let made = made(40);
    let (before, cost) = made.read();
    assert_eq!((before.complete.len(), before.abandoned.len(), cost), (40, 1, 41));
    assert!(made.update());
    assert!(!made.update(), "nothing is left out");
    let (after, cost) = made.read();
    assert_eq!((ids(&after), &after.abandoned), (ids(&before), &before.abandoned));
    assert_eq!(after.complete, before.complete);
    assert_eq!(cost, 1, "the catalogue");
    // What came since is read beside it, until there is much of it.
    for number in 50..67 {
        put(&made.repository, &made.ctx, number, "pgkeep 0.1.0");
        assert!(!made.update(), "{number}");
    }
    assert_eq!(made.read().1, 1 + 17);
    put(&made.repository, &made.ctx, 67, "pgkeep 0.1.0");
    assert!(made.update());
    let (all, cost) = made.read();
    assert_eq!((all.complete.len(), cost), (58, 1));
    assert_eq!(made.catalogues().len(), 2, "the older one stays as it is");
    assert_eq!(made.repository.catalogue_complaints(&made.ctx, &place(), &all).unwrap(), [""; 0]);
}

#[test]
fn a_lost_or_damaged_catalogue_costs_time_and_is_written_again() {
    let made = made(40);
    let (truth, _) = made.read();
    assert!(made.update());
    let first = made.catalogues().remove(0);
    made.store.delete(&first).unwrap();
    let (found, cost) = made.read();
    assert_eq!((found.complete == truth.complete, cost), (true, 41));
    assert!(made.update());
    let second = made.catalogues().remove(0);
    // Every byte of it, and cut off anywhere.
    let bytes = made.store.get(&second).unwrap();
    for at in (0..bytes.len()).step_by(97) {
        let mut changed = bytes.clone();
        changed[at] ^= 0x10;
        for damaged in [&changed[..], &bytes[..at]] {
            replace(&made.store, &second, damaged);
            let (found, _) = made.read();
            assert_eq!(found.complete, truth.complete, "byte {at}");
        }
    }
    let complaints = made.repository.catalogue_complaints(&made.ctx, &place(), &truth).unwrap();
    assert_eq!(complaints.len(), 1, "{complaints:?}");
    assert!(made.update(), "a new one, of another name");
    assert_eq!(made.read().1, 1);
    // An older one still counts when the newest cannot be read.
    replace(&made.store, &second, &bytes);
    let third = made.catalogues().remove(1);
    replace(&made.store, &third, b"damaged");
    // Whether it was sealed here, then all of it.
    assert_eq!(made.read().1, 3);
}

/// Whoever writes summaries may die at any request: what is read is the same, and the next one writes them.
#[test]
fn who_dies_while_writing_summaries_changes_nothing() {
    let size = crate::pg::SegmentSize::DEFAULT;
    for k in 1.. {
        for effect in [Effect::None, Effect::Full] {
            let made = made(20);
            made.repository.register(&made.ctx, &super::window::registration()).unwrap();
            for number in 1..2_500 {
                let key = place().wal(&super::window::name(number)).unwrap();
                made.store.put(&key, b"never read").unwrap();
            }
            let faulty = FaultyStore::new(made.store.clone());
            let dying = Repository::open(Arc::new(faulty.clone()), &key_file(1)).unwrap();
            faulty.die_at(faulty.operations() + k, effect);
            let died = dying.summarise(&made.ctx, &place(), size).is_err();
            let survey = || {
                let registration = super::window::registration();
                made.repository.survey(&made.ctx, &place(), &registration).unwrap()
            };
            let check = || {
                assert_eq!(made.read().0.complete.len(), 20, "operation {k}, {effect:?}");
                let survey = survey();
                let runs: Vec<_> = survey.wal.stretches().map(|run| run.count()).collect();
                assert_eq!((runs, survey.complaints.len()), (vec![2_499], 0), "operation {k}");
            };
            check();
            made.repository.summarise(&made.ctx, &place(), size).unwrap();
            check();
            assert_eq!((made.read().1, survey().claimed.len()), (1, 1), "operation {k}");
            if !died {
                return;
            }
        }
    }
}

#[test]
fn backups_win_over_a_stale_catalogue() {
    let made = made(40);
    assert!(made.update());
    // Removed since.
    made.store.delete(&place().manifest(&id(3))).unwrap();
    // Replaced by another of another size, which nobody may do, and expiry of a cluster's name might.
    put(&made.repository, &made.ctx, 4, "another pgkeep, of a longer name");
    let (found, cost) = made.read();
    assert_eq!((found.complete.len(), cost), (39, 2));
    assert!(!ids(&found).contains(&id(3)));
    let fourth = found.complete.iter().find(|summary| summary.id == id(4)).unwrap();
    assert_eq!(fourth.tool, "another pgkeep, of a longer name");
    // Damaged since, at the same size: only who reads the manifests knows.
    let key = place().manifest(&id(5));
    let mut bytes = made.store.get(&key).unwrap();
    bytes[200] ^= 1;
    replace(&made.store, &key, &bytes);
    assert_eq!(made.read().0.complete.len(), 39);
    let truth = made.repository.backups_by_manifest(&made.ctx, &place()).unwrap();
    assert_eq!((truth.complete.len(), truth.unreadable.len()), (38, 1));
    let complaints = made.repository.catalogue_complaints(&made.ctx, &place(), &truth).unwrap();
    assert!(complaints.len() == 1 && complaints[0].contains(id(5).as_str()), "{complaints:?}");
}

/// Whoever may put objects put one of the last second that a name can tell: the name after it was none, and
/// `backup` panicked behind its commit. Many more newer than all, and no catalogue was read again.
#[test]
fn d2026_11_28_what_a_stranger_puts_beside_the_catalogues_is_passed_over() {
    let made = made(40);
    let (truth, _) = made.read();
    let junk = |name: &str, bytes: &[u8]| {
        let key = format!("{}{name}", place().catalogues_prefix());
        made.store.put(&ObjectKey::new(key).unwrap(), bytes).unwrap();
    };
    let last =
        chrono::NaiveDate::from_ymd_opt(9999, 12, 31).unwrap().and_hms_opt(23, 59, 59).unwrap();
    assert_eq!(place().catalogue(last.and_utc() + chrono::TimeDelta::seconds(1)), None);
    // The last moment of all, one of tomorrow, the very one that would be written now, and many in between.
    junk("99991231-235959", b"junk");
    let second = |number: i64| {
        let moment = now() + chrono::TimeDelta::seconds(number);
        moment.format("%Y%m%d-%H%M%S").to_string()
    };
    junk(&second(86_400), b"junk");
    (0..60).for_each(|number| junk(&second(number), &[b'x'; 100]));
    assert!(made.update(), "it is written all the same");
    let (found, cost) = made.read();
    assert_eq!(found.complete, truth.complete);
    assert!(cost < 40, "it is read: {cost}");
    (600..900).for_each(|number| junk(&second(number), b""));
    let (found, _) = made.read();
    assert_eq!(found.complete, truth.complete);
    assert!(!made.update(), "nothing is left out");
    let complaints = made.repository.catalogue_complaints(&made.ctx, &place(), &truth).unwrap();
    assert!(complaints.len() == 4 && complaints[3].contains("298 more"), "{complaints:?}");
}

/// One that was written by a clock that was years ahead is nobody's.
#[test]
fn a_catalogue_from_the_future_is_left_alone() {
    let made = made(40);
    let later = Ctx::fixed(now() + chrono::TimeDelta::days(9_000), 2);
    assert!(made.repository.update_catalogue(&later, &place()).unwrap());
    assert_eq!(made.read().1, 41);
    assert!(made.update());
    assert_eq!(made.read().1, 1);
}
