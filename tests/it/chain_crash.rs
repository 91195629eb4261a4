//! Crash sweeps over chains: a differential and an incremental against a store that dies at operation k, for
//! every k, with and without that operation having taken effect. Afterwards the repository opens, older backups
//! are whole, nothing half-made is visible, and the next backup of the chain succeeds and holds what is there.

use std::fs;
use std::sync::Arc;

use pgkeep::repo::{BackupType, OpenedBackup, Repository};
use pgkeep::storage::FaultyStore;
use pgkeep::storage::faulty::Effect;

use crate::crash::assert_whole;
use crate::support::ahead::{AHEAD, Shifted};
use crate::support::library::LibraryCluster;
use crate::support::servers::Server;

/// A cluster with a full, or with a full and a differential, and what the next one is to be.
struct Sweep {
    live: LibraryCluster,
    healthy: Repository,
    backup_type: BackupType,
    /// Relative to the data directory.
    table: String,
    changes: u32,
}

impl Sweep {
    fn new(server: &Server, backup_type: BackupType) -> Self {
        let mut live = LibraryCluster::start(server);
        live.ctx.clock = Shifted::by(AHEAD);
        live.cluster
            .psql("create table t as select n, repeat('x', 100) t from generate_series(1, 5000) n");
        let table = live.cluster.psql("select pg_relation_filepath('t')");
        let healthy = live.open(Arc::new(live.store.clone())).unwrap();
        live.backup(&healthy, |_| {}).unwrap();
        let sweep = Self { live, healthy, backup_type, table, changes: 0 };
        if backup_type == BackupType::Incremental {
            sweep
                .live
                .backup(&sweep.healthy, |o| o.backup_type = BackupType::Differential)
                .unwrap();
        }
        sweep
    }

    /// Something for a backup to store.
    fn change(&mut self) {
        self.changes += 1;
        let n = self.changes;
        self.live.cluster.psql(&format!("update t set t = 'change {n}' where n % 500 = {n} % 500"));
    }

    fn backup_through(
        &self,
        repository: &Repository,
    ) -> pgkeep::backup::Result<pgkeep::backup::Finished> {
        self.live.backup(repository, |options| {
            options.jobs = 1;
            options.backup_type = self.backup_type;
        })
    }

    fn opened(&self, id: &pgkeep::repo::BackupId) -> OpenedBackup {
        self.healthy.open_backup(&self.live.place, id).unwrap()
    }

    /// All of it authentic, and the table as it is on the disk, where a backup's checkpoint has put it.
    fn assert_right(&self, id: &pgkeep::repo::BackupId) {
        let backup = self.opened(id);
        assert_whole(&backup);
        let row = backup.find_row(self.table.as_bytes()).unwrap().unwrap();
        let held = backup.read_whole(&row, 1 << 30).unwrap();
        let on_disk = fs::read(self.live.cluster.data_dir().join(&self.table)).unwrap();
        assert!(held == on_disk, "{id} holds another table");
    }

    fn run(mut self) {
        let before = self.healthy.backups(&self.live.ctx, &self.live.place).unwrap().complete;
        self.change();
        let counting = FaultyStore::new(self.live.store.clone());
        let through = self.live.open(Arc::new(counting.clone())).unwrap();
        let opened = counting.operations();
        let first = self.backup_through(&through).unwrap().summary;
        let operations = counting.operations() - opened;
        assert!(operations > 10, "a backup has more than {operations} operations");
        assert_eq!(first.backup_type, self.backup_type);
        assert!(first.parent.is_some() && first.totals.unread_files > 100, "{first:?}");
        self.assert_right(&first.id);

        let mut complete = before.len() + 1;
        for k in 1..=operations {
            for effect in [Effect::None, Effect::Full] {
                self.change();
                let faulty = FaultyStore::new(self.live.store.clone());
                let dying = self.live.open(Arc::new(faulty.clone())).unwrap();
                faulty.die_at(faulty.operations() + k, effect);
                let outcome = self.backup_through(&dying);
                let context = format!("operation {k} of {operations}, {effect:?}");
                let backups = self.healthy.backups(&self.live.ctx, &self.live.place).unwrap();
                assert!(backups.unreadable.is_empty(), "{context}: {:?}", backups.unreadable);
                // Waiting for WAL takes a varying number of operations; and the manifest's put may have
                // taken effect and its answer been lost.
                if backups.complete.len() == complete + 1 {
                    assert!(outcome.is_ok() || effect == Effect::Full, "{context}");
                    complete += 1;
                    self.assert_right(&backups.complete.last().unwrap().id);
                } else {
                    assert!(outcome.is_err(), "{context}");
                }
                assert_eq!(backups.complete.len(), complete, "{context}");
                self.live.cluster.wait_until(
                    "select count(*) = 0 from pg_stat_activity \
                     where application_name like 'pgkeep backup%'",
                );
            }
        }
        for backup in &before {
            assert_whole(&self.opened(&backup.id));
        }
        self.change();
        let next = self.backup_through(&self.healthy).unwrap().summary;
        assert_eq!(next.backup_type, self.backup_type);
        self.assert_right(&next.id);
    }
}

#[test]
fn f080_a_differential_that_dies_at_any_operation_leaves_nothing_visible() {
    let Some(server) = Server::main() else { return };
    Sweep::new(&server, BackupType::Differential).run();
}

#[test]
fn f080_an_incremental_that_dies_at_any_operation_leaves_nothing_visible() {
    let Some(server) = Server::main() else { return };
    Sweep::new(&server, BackupType::Incremental).run();
}
