//! Crash sweeps: backup and archive-push against a store that dies at operation k, for every k, with
//! and without that operation having taken effect. Afterwards the repository opens, the earlier
//! backup is whole, nothing half-made is visible, and the retry succeeds.

use std::sync::Arc;

use pgkeep::archive::{self, GetOptions, Got};
use pgkeep::repo::{OpenedBackup, RowKind};
use pgkeep::storage::FaultyStore;
use pgkeep::storage::faulty::Effect;

use crate::support::ScratchDir;
use crate::support::library::{self, LibraryCluster};
use crate::support::servers::Server;

/// Reads every block of every file: all of it authentic, every checksum right.
pub(crate) fn assert_whole(backup: &OpenedBackup) {
    let mut rows = backup.rows().unwrap();
    let mut files = 0;
    while let Some(row) = rows.next_row().unwrap() {
        if row.kind != RowKind::File {
            continue;
        }
        let blocks = u32::try_from(row.size.div_ceil(8192)).unwrap();
        let mut crc = 0;
        for block in 0..blocks {
            crc = crc32c::crc32c_append(crc, &backup.read_block(&row, block).unwrap());
        }
        assert_eq!(row.crc, Some(crc), "{}", String::from_utf8_lossy(&row.path));
        files += 1;
    }
    assert_eq!(files, backup.manifest().summary.totals.files);
}

#[test]
fn f080_a_backup_that_dies_at_any_operation_leaves_nothing_visible() {
    let Some(server) = Server::main() else { return };
    let live = LibraryCluster::start(&server);
    live.cluster.psql("create table t as select generate_series(1, 1000) as n");
    let healthy = live.open(Arc::new(live.store.clone())).unwrap();
    let first = live.backup(&healthy, |_| {}).unwrap().summary.id;

    let counting = FaultyStore::new(live.store.clone());
    let through = live.open(Arc::new(counting.clone())).unwrap();
    let before = counting.operations();
    live.backup(&through, |_| {}).unwrap();
    let operations = counting.operations() - before;
    assert!(operations > 10, "a backup has more than {operations} operations");

    let mut complete = 2;
    for k in 1..=operations {
        for effect in [Effect::None, Effect::Full] {
            let faulty = FaultyStore::new(live.store.clone());
            let dying = live.open(Arc::new(faulty.clone())).unwrap();
            let opened = faulty.operations();
            faulty.die_at(opened + k, effect);
            let outcome = live.backup(&dying, |options| options.jobs = 1);
            let context = format!("operation {k} of {operations}, {effect:?}");
            // Waiting for WAL takes a varying number of operations, so a few may succeed.
            let backups = healthy.backups(&live.ctx, &live.place).unwrap();
            assert!(backups.unreadable.is_empty(), "{context}: {:?}", backups.unreadable);
            match outcome {
                Ok(_) => complete += 1,
                // The manifest's put took effect, and its answer was lost: the backup is whole.
                Err(_) if backups.complete.len() == complete + 1 => {
                    assert_eq!(effect, Effect::Full, "{context}");
                    complete += 1;
                    let id = &backups.complete.last().unwrap().id;
                    assert_whole(&healthy.open_backup(&live.place, id).unwrap());
                }
                Err(_) => {}
            }
            assert_eq!(backups.complete.len(), complete, "{context}");
            live.cluster.wait_until(
                "select count(*) = 0 from pg_stat_activity \
                 where application_name like 'pgkeep backup%'",
            );
        }
    }
    assert_whole(&healthy.open_backup(&live.place, &first).unwrap());
    let retried = live.backup(&healthy, |_| {}).unwrap().summary.id;
    assert_whole(&healthy.open_backup(&live.place, &retried).unwrap());
}

#[test]
fn f004_f006_a_push_that_dies_at_any_operation_can_be_repeated() {
    let Some(server) = Server::main() else { return };
    let live = LibraryCluster::start(&server);
    let healthy = live.open(Arc::new(live.store.clone())).unwrap();
    let scratch = ScratchDir::new("fetched");
    let options = library::push_options(live.cluster.data_dir());
    let mut swept = 0;
    for k in 1.. {
        let mut died = false;
        for effect in [Effect::None, Effect::Full] {
            live.cluster.psql("create table if not exists w (n int); insert into w values (1)");
            // A segment of this cluster, pushed here before the archiver's own thread has it.
            let segment = live.cluster.switch_wal();
            let path = live.cluster.data_dir().join("pg_wal").join(&segment);
            let faulty = FaultyStore::new(live.store.clone());
            let dying = [live.destination(live.open(Arc::new(faulty.clone())).unwrap())];
            let opened = faulty.operations();
            faulty.die_at(opened + k, effect);
            let outcome = archive::push(&live.ctx, &dying, &options, &path);
            died |= outcome.is_err();
            // Said to be archived: it is. Not said: the retry says so.
            let to = [live.destination(healthy.clone())];
            if outcome.is_err() {
                archive::push(&live.ctx, &to, &options, &path).unwrap();
            }
            let fetched = scratch.join(&segment);
            let got = archive::get(&live.ctx, &to, &GetOptions::default(), &segment, &fetched);
            assert!(matches!(got, Ok(Got::Delivered { .. })), "operation {k}, {effect:?}: {got:?}");
            assert_eq!(std::fs::read(&fetched).unwrap(), std::fs::read(&path).unwrap());
            swept += 1;
        }
        if !died {
            break;
        }
    }
    assert!(swept >= 4, "at least one operation was swept");
}
