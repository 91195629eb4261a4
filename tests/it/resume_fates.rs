//! Which interrupted backups are dead, and what becomes of them: none that lives is taken for dead, none that is
//! complete loses what it stands on, and no dead one stands in the way.

use std::collections::BTreeSet;
use std::fs;
use std::sync::Arc;

use chrono::TimeDelta;
use pgkeep::backup::Error;
use pgkeep::repo::BackupType;
use pgkeep::storage::faulty::Effect;
use pgkeep::storage::{
    FaultyStore, MemoryStore, ObjectKey, ObjectMeta, ObjectStore, ObjectWriter, Result, list_all,
};

use crate::resume_live::{FILL, PACK, at_rest, die, operations_of, taken};
use crate::support::Server;
use crate::support::ahead::Shifted;
use crate::support::library::LibraryCluster;
use crate::support::run::{DEADLINE, start, wait_until};
use crate::support::site::Site;

/// The copy is done, the server has ended the backup, and its WAL does not come: another backup took its name, and
/// it failed in the end.
#[test]
fn d2026_11_29_a_backup_that_waits_for_its_wal_is_not_dead() {
    let Some(server) = Server::main() else { return };
    let site = Site::small(&server);
    let archive = site.cluster.psql("show archive_command");
    let set = |command: &str| {
        let quoted = command.replace('\'', "''");
        site.cluster.psql(&format!("alter system set archive_command = '{quoted}'"));
        site.cluster.psql("select pg_reload_conf()");
        site.cluster.wait_until(&format!(
            "select setting = '{quoted}' from pg_settings where name = 'archive_command'"
        ));
    };
    set("/bin/false");
    let waiting = start(&mut site.config.pgkeep(["backup"]));
    let wal = site.cluster.data_dir().join("pg_wal");
    // PostgreSQL leaves a file of each backup that has ended, until that is archived.
    let has_ended = || {
        let names = fs::read_dir(&wal).unwrap().flatten().map(|entry| entry.file_name());
        names.into_iter().any(|name| name.to_string_lossy().ends_with(".backup"))
    };
    wait_until(DEADLINE, has_ended, || "the backup's end".into());
    let second = site.config.run(["backup"]);
    assert_eq!(second.code(), Some(11), "another backup runs: {second:?}");
    set(&archive);
    let ran = waiting.wait();
    assert_eq!(ran.code(), Some(0), "{ran:?}");
    site.config.run(["backup"]).assert_ok();
}

/// Puts whether the name is taken or not, as some stores do.
#[derive(Debug, Clone)]
struct Lax(MemoryStore);

impl ObjectStore for Lax {
    fn must_be_tried(&self) -> bool {
        true
    }
    fn location(&self) -> String {
        self.0.location()
    }
    fn put(&self, key: &ObjectKey, body: &[u8]) -> Result<()> {
        self.0.put(key, body)
    }
    fn put_if_absent(&self, key: &ObjectKey, body: &[u8]) -> Result<()> {
        self.0.put(key, body)
    }
    fn put_stream(&self, key: &ObjectKey) -> Result<Box<dyn ObjectWriter>> {
        self.0.put_stream(key)
    }
    fn get(&self, key: &ObjectKey) -> Result<Vec<u8>> {
        self.0.get(key)
    }
    fn read_range(&self, key: &ObjectKey, offset: u64, buffer: &mut [u8]) -> Result<()> {
        self.0.read_range(key, offset, buffer)
    }
    fn read_up_to(&self, key: &ObjectKey, offset: u64, length_max: usize) -> Result<Vec<u8>> {
        self.0.read_up_to(key, offset, length_max)
    }
    fn head(&self, key: &ObjectKey) -> Result<ObjectMeta> {
        self.0.head(key)
    }
    fn list(&self, prefix: &str, after: Option<&str>, count_max: usize) -> Result<Vec<ObjectMeta>> {
        self.0.list(prefix, after, count_max)
    }
    fn delete(&self, key: &ObjectKey) -> Result<()> {
        self.0.delete(key)
    }
}

/// Of a name that was claimed, and not taken, every later backup wanted to take it, and failed.
#[test]
fn d2026_11_29_a_name_that_was_claimed_and_not_taken_keeps_no_backup_away() {
    let Some(server) = Server::main() else { return };
    let mut live = LibraryCluster::start_in(&server, Lax(MemoryStore::new()));
    live.cluster.psql(FILL);
    let healthy = live.open(Arc::new(live.store.clone())).unwrap();
    assert!(!healthy.descriptor().conditional_put);
    let all = operations_of(&live, BackupType::Full);
    die(&live, all * 2 / 10, BackupType::Full);
    let attempt = healthy.backups(&live.ctx, &live.place).unwrap().unfinished.pop().unwrap();
    // The next one is killed by the first thing that it does to the attempt's name. Each has a name of its own at
    // once, and leaves nothing to the next, so that all take the same steps.
    let claims = live.place.manifest(&attempt).to_string().replace("backup/", "claim/backup%2F");
    let was_claimed = (1..500).any(|operation| {
        live.ctx.clock = Shifted::by(TimeDelta::seconds(2 * operation));
        let dying = FaultyStore::new(live.store.clone());
        let repository = live.open(Arc::new(dying.clone())).unwrap();
        dying.die_at(dying.operations() + operation.unsigned_abs(), Effect::Full);
        live.backup(&repository, |_| {}).unwrap_err();
        for lease in list_all(&live.store.0, "lease/").unwrap() {
            live.store.0.delete(&lease.key).unwrap();
        }
        for id in healthy.backups(&live.ctx, &live.place).unwrap().unfinished {
            if id != attempt {
                live.store.0.delete(&live.place.begin(&id)).unwrap();
            }
        }
        !live.store.0.list(&format!("{claims}/"), None, 1).unwrap().is_empty()
    });
    assert!(was_claimed, "a store that ignores conditions needs claims");
    assert!(live.store.0.head(&live.place.manifest(&attempt)).is_err(), "it is not taken");
    taken(&live, &healthy, BackupType::Full);
    taken(&live, &healthy, BackupType::Full);
}

/// The packs of an interrupted backup were removed, because it was interrupted: children of the full that uses them
/// were complete, and could not be restored.
#[test]
fn d2026_11_29_a_parent_without_what_it_uses_of_an_attempt_is_refused() {
    let Some(server) = Server::main() else { return };
    let (live, healthy, all) = at_rest(&server);
    die(&live, all * 8 / 10, BackupType::Full);
    let (reused, _) = taken(&live, &healthy, BackupType::Full);
    assert!(reused > 4 << 20, "{reused}");
    // What a full has of an interrupted one is its own: no full is due for that.
    for _ in 0..2 {
        let diff = live.backup(&healthy, |options| {
            options.backup_type = BackupType::Differential;
            options.auto_full = true;
        });
        assert_eq!(diff.unwrap().summary.backup_type, BackupType::Differential);
    }
    let full = healthy.backups(&live.ctx, &live.place).unwrap().complete;
    let attempt = full.iter().find_map(|backup| backup.attempts.first()).unwrap().clone();
    let [packs, _, _] = live.place.backup_prefixes(&attempt);
    let gone = live.store.list(&packs, None, 1).unwrap().pop().unwrap();
    live.store.delete(&gone.key).unwrap();
    for backup_type in [BackupType::Differential, BackupType::Incremental] {
        match live.backup(&healthy, |options| options.backup_type = backup_type) {
            Err(Error::Parent { what }) => assert!(what.contains("interrupted"), "{what}"),
            other => panic!("{other:?}"),
        }
    }
    taken(&live, &healthy, BackupType::Full);
}

/// The attempt had told of it, and died; the next one took the file over by its stat record, and told of nothing.
#[test]
fn d2026_11_29_damage_that_an_interrupted_backup_met_is_told_by_the_next() {
    let Some(server) = Server::main() else { return };
    let (live, healthy, all) = at_rest(&server);
    let oid = live.cluster.psql("select oid from pg_database where datname = 'template0'");
    let map = live.cluster.data_dir().join(format!("base/{oid}/pg_filenode.map"));
    let mut content = fs::read(&map).unwrap();
    content[20] ^= 1;
    fs::write(&map, &content).unwrap();
    die(&live, all * 8 / 10, BackupType::Full);
    let finished = live.backup(&healthy, |options| options.pack_size = PACK).unwrap();
    assert!(finished.reused() > 4 << 20);
    assert_eq!((finished.damage.len(), finished.summary.totals.invalid_pages), (1, 1));
    let path = format!("base/{oid}/pg_filenode.map");
    assert_eq!(finished.damage[0].path, path);
}

/// A backup whose manifest was removed is being removed: what is left of it is nobody's gift.
#[test]
fn d2026_11_29_what_is_left_of_a_complete_backup_is_not_used() {
    let Some(server) = Server::main() else { return };
    let live = LibraryCluster::start(&server);
    live.cluster.psql(FILL);
    let healthy = live.open(Arc::new(live.store.clone())).unwrap();
    taken(&live, &healthy, BackupType::Full);
    let first = healthy.backups(&live.ctx, &live.place).unwrap().complete.pop().unwrap();
    let manifest = live.place.manifest(&first.id);
    let content = live.store.get(&manifest).unwrap();
    live.store.delete(&manifest).unwrap();
    assert_eq!(taken(&live, &healthy, BackupType::Full).0, 0);
    // Its name is free, for who puts it back.
    live.store.put_if_absent(&manifest, &content).unwrap();
    let complete = healthy.backups(&live.ctx, &live.place).unwrap().complete;
    assert_eq!(complete.len(), 2);
}

/// Each had stored what those before it lacked, and only the newest four were used: the end was never reached.
#[test]
fn d2026_11_29_a_backup_that_is_interrupted_again_and_again_comes_to_an_end() {
    let Some(server) = Server::main() else { return };
    let (live, healthy, all) = at_rest(&server);
    let (mut budget, mut with_packs) = (all / 10, BTreeSet::new());
    while with_packs.len() < 6 {
        // Each reads the lists of those before it, and then stores a little more.
        budget += all / 20;
        die(&live, budget, BackupType::Full);
        let backups = healthy.backups(&live.ctx, &live.place).unwrap();
        with_packs.extend(backups.unfinished.into_iter().chain(backups.abandoned).filter(|id| {
            let [_, metas, _] = live.place.backup_prefixes(id);
            !live.store.list(&metas, None, 1).unwrap().is_empty()
        }));
    }
    taken(&live, &healthy, BackupType::Full);
    let backups = healthy.backups(&live.ctx, &live.place).unwrap();
    let last = backups.complete.last().unwrap();
    assert!(last.attempts.len() > 4, "{:?}", last.attempts);
    // A newer one is complete: nobody looks at the dead ones again.
    assert_eq!(taken(&live, &healthy, BackupType::Full).0, 0);
    let none = live.backup(&healthy, |options| options.resumes = false).unwrap();
    assert_eq!(none.reused(), 0);
}

/// On a bucket each is a request, and all of them a thousandth of the cluster.
#[test]
fn hashes_are_read_for_files_that_changed_only() {
    let Some(server) = Server::main() else { return };
    let (live, healthy, _) = at_rest(&server);
    live.cluster
        .psql("create table small as select n, md5(n::text) t from generate_series(1, 2000) n");
    live.cluster.psql("checkpoint");
    taken(&live, &healthy, BackupType::Full);
    let full = healthy.backups(&live.ctx, &live.place).unwrap().complete.pop().unwrap();
    let [_, _, hashes] = live.place.backup_prefixes(&full.id);
    let all = live.store.list(&hashes, None, 1000).unwrap().len();
    assert!(all > 20, "{all}");
    let hashes_read = |backup_type| {
        let watched = FaultyStore::new(live.store.clone());
        let repository = live.open(Arc::new(watched.clone())).unwrap();
        let before = watched.log().len();
        let taken = live.backup(&repository, |options| {
            options.backup_type = backup_type;
            options.pack_size = PACK;
        });
        let totals = taken.unwrap().summary.totals;
        let log = watched.log().split_off(before);
        let read = log.into_iter().filter(|operation| {
            operation.name.starts_with("read") && operation.key.starts_with(&hashes)
        });
        let keys: BTreeSet<String> = read.map(|operation| operation.key).collect();
        (keys.len(), totals)
    };
    let (quiet, totals) = hashes_read(BackupType::Differential);
    assert!(quiet <= 4, "{quiet} of {all}, {totals:?}");
    let changed_in = |table: &str| {
        live.cluster.psql(&format!("update {table} set t = 'x' where n = 1"));
        live.cluster.psql("checkpoint");
        let (read, totals) = hashes_read(BackupType::Differential);
        assert!(totals.own < 4 << 20, "{table}: {totals:?}");
        read
    };
    // Catalogs and maps change too; one table is nearly all of this cluster.
    let (few, many) = (changed_in("small"), changed_in("big"));
    assert!(few * 3 < all && many > few && many * 3 > all, "{quiet}, {few}, {many} of {all}");
}
