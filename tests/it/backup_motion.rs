//! Full backups of directories in motion: files vanish, appear, shrink and grow while they are read.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use pgkeep::base::{Clock, SystemClock, Timestamp};
use pgkeep::pg::Lsn;
use pgkeep::repo::{OpenedBackup, Row};

use crate::support::library::LibraryCluster;
use crate::support::run::{DEADLINE, Running, run, start, wait_until};
use crate::support::site::{Site, json, started};
use crate::support::{ScratchDir, Server, Stop, TestCluster, tools};

/// What churns beside the backup: files that appear, vanish, grow and shrink, by several clients.
const CHURN: &str = "\
    drop table if exists churn_:client_id;\n\
    create table churn_:client_id as select g n, repeat('x', 100) t from generate_series(1, 2000) g;\n\
    create index on churn_:client_id (n);\n\
    insert into churn_:client_id select g, 'y' from generate_series(1, 2000) g;\n\
    delete from churn_:client_id where n > 10;\n\
    vacuum churn_:client_id;\n\
    insert into churn_:client_id select g, 'z' from generate_series(1, 500) g;\n\
    truncate churn_:client_id;\n\
    insert into log_of_churn values (:client_id);\n";

/// Halves a file of 150 MiB, which is copied in runs of 64 MiB, and lets it grow again.
const BREATHE: &str = "\
    delete from large where n > 9600;\n\
    vacuum large;\n\
    insert into large select n, repeat('x', 4000) from generate_series(9601, 19200) n;\n\
    insert into log_of_breath values (1);\n\
    select pg_sleep(1);\n";

/// A database's directory that appears and vanishes.
const DATABASES: &str = "\
    create database brief template template0;\n\
    insert into log_of_databases values (1);\n\
    drop database brief;\n\
    select pg_sleep(1);\n";

fn load(cluster: &TestCluster, name: &str, script: &str, arguments: &[&str]) -> Running {
    let script = cluster.scratch().write(name, script);
    let mut command = cluster.command("pgbench");
    command.args(["-n", "-T", "3600", "-f"]).arg(script).args(arguments);
    start(command.arg(cluster.conninfo()))
}

#[test]
fn f056_files_that_vanish_appear_shrink_and_grow_during_the_walk() {
    let Some(server) = Server::main() else { return };
    let launch = TestCluster::create(&server).checksums();
    let site = Site::start(launch.setting("max_wal_size", "2GB"));
    let cluster = &site.cluster;
    for log in ["churn", "breath", "databases"] {
        cluster.psql(&format!("create table log_of_{log} (n int)"));
    }
    cluster.psql("create table large (n int, t text) with (fillfactor = 10)");
    cluster.psql("alter table large alter t set storage plain");
    cluster.psql("insert into large select n, repeat('x', 4000) from generate_series(1, 19200) n");
    let size = cluster.psql("select pg_relation_size('large') >= 140 << 20");
    assert_eq!(size, "t", "long enough to be cut into runs");
    let _churn = load(cluster, "churn.sql", CHURN, &["-c", "2", "-R", "10"]);
    let _breath = load(cluster, "breath.sql", BREATHE, &[]);
    let _databases = load(cluster, "databases.sql", DATABASES, &[]);
    let counts = || {
        let counts = "select (select count(*) from log_of_churn), \
                      (select count(*) from log_of_breath), (select count(*) from log_of_databases)";
        cluster.psql(counts).split('|').map(|count| count.parse().unwrap()).collect::<Vec<u32>>()
    };
    wait_until(DEADLINE, || counts().iter().all(|count| *count > 0), || format!("{:?}", counts()));
    let mut backups = Vec::new();
    for rate in ["30MiB", "45MiB"] {
        let before = counts();
        // Exit 0: none of the pages in motion was taken for damage.
        let mut command = site.config.pgkeep(["backup", "--json", "--max-rate", rate]);
        let taken = json(&run(&mut command).assert_ok().stdout);
        assert_eq!(taken["invalid_pages"], 0);
        let after = counts();
        let moved = before.iter().zip(&after).all(|(before, after)| before < after);
        assert!(moved, "{before:?} {after:?}");
        backups.push(taken["id"].as_str().unwrap().to_owned());
    }
    for id in &backups {
        let scratch = ScratchDir::new("copy");
        let to = scratch.join("data");
        site.restore(&to, &["--backup", id, "--target-immediate"]);
        let copy = started(&server, &to);
        // Each breath is there whole or not at all.
        let kept = copy.psql(
            "select count(*) filter (where n <= 9600), \
             count(*) filter (where n > 9600) in (0, 9600), bool_and(length(t) = 4000) from large",
        );
        assert_eq!(kept, "9600|t|t");
        tools::assert_amcheck(&copy);
        copy.stop(Stop::Fast);
        tools::assert_checksums(&copy);
    }
}

/// What renames, replaces and remaps files: catalogs, settings, logged and unlogged tables, databases
/// copied file by file.
const STORMS: [(&str, &str); 5] = [
    (
        "catalogs",
        "vacuum full pg_class;\nvacuum full pg_database;\ninsert into log_of_catalogs values (1);\n",
    ),
    (
        "settings",
        "alter system set work_mem = '5MB';\nalter system set work_mem = '6MB';\n\
         insert into log_of_settings values (1);\n",
    ),
    (
        "unlogged",
        "create unlogged table flip as select generate_series(1, 500) n;\n\
         create index on flip (n);\nalter table flip set logged;\n\
         alter table flip set unlogged;\ninsert into log_of_unlogged values (1);\n\
         drop table flip;\n",
    ),
    (
        "files",
        "create database filed template template0 strategy file_copy;\n\
         insert into log_of_files values (1);\ndrop database filed;\n",
    ),
    (
        "tablespaces",
        "create table wanders as select generate_series(1, 500) n;\n\
         alter table wanders set tablespace far;\ntruncate wanders;\n\
         insert into wanders select generate_series(1, 300);\nvacuum full wanders;\n\
         insert into log_of_tablespaces values (1);\ndrop table wanders;\n",
    ),
];

#[test]
fn f056_storms_of_renames_and_rewrites_lose_nothing() {
    let Some(server) = Server::main() else { return };
    let launch = TestCluster::create(&server).checksums();
    let site = Site::start(launch.setting("max_wal_size", "2GB"));
    let cluster = &site.cluster;
    let elsewhere = ScratchDir::new("tablespace");
    let far = elsewhere.create_dir("ts");
    cluster.psql(&format!("create tablespace far location '{}'", far.display()));
    cluster.psql("create table steady tablespace far as select generate_series(1, 10000) n");
    cluster.psql("create unlogged table scribble as select generate_series(1, 1000) n");
    for (name, _) in STORMS {
        cluster.psql(&format!("create table log_of_{name} (n int)"));
    }
    let storms: Vec<_> = STORMS
        .iter()
        .map(|(name, script)| load(cluster, &format!("{name}.sql"), script, &[]))
        .collect();
    let counts = || {
        let count =
            |(name, _): &(&str, &str)| cluster.psql(&format!("select count(*) from log_of_{name}"));
        STORMS.iter().map(count).map(|count| count.parse::<u32>().unwrap()).collect::<Vec<_>>()
    };
    wait_until(DEADLINE, || counts().iter().all(|count| *count > 0), || format!("{:?}", counts()));
    let mut backups = Vec::new();
    for rate in ["16MiB", "24MiB", "1GiB"] {
        let mut command = site.config.pgkeep(["backup", "--json", "--max-rate", rate]);
        let taken = json(&run(&mut command).assert_ok().stdout);
        backups.push((taken["id"].as_str().unwrap().to_owned(), counts()));
    }
    drop(storms);
    let last = counts();
    for (i, (id, before)) in backups.iter().enumerate() {
        // To the backup's own end; the first one also through everything that came after it.
        let targets: &[&[&str]] =
            if i == 0 { &[&["--target-immediate"], &[]] } else { &[&["--target-immediate"]] };
        for target in targets {
            let scratch = ScratchDir::new("copy");
            let to = scratch.join("data");
            let mapping = format!("{}={}", far.display(), scratch.join("ts").display());
            let arguments = [&["--backup", id.as_str(), "--tablespace", mapping.as_str()], *target];
            cluster.archive_now();
            site.restore(&to, &arguments.concat());
            tools::assert_verifybackup(cluster, &to);
            let settings = fs::read_to_string(to.join("postgresql.auto.conf")).unwrap();
            assert!(settings.contains("work_mem = "), "{settings}");
            let copy = started(&server, &to);
            assert_eq!(copy.psql("select count(*) from steady"), "10000");
            assert_eq!(
                copy.psql("select count(*) from scribble"),
                "0",
                "unlogged tables are emptied"
            );
            for ((name, _), (before, last)) in STORMS.iter().zip(before.iter().zip(&last)) {
                let count = copy.psql(&format!("select count(*) from log_of_{name}"));
                let count: u32 = count.parse().unwrap();
                let is_there =
                    if target.is_empty() { count == *last } else { count <= *before && count > 0 };
                assert!(is_there, "{name}: {count}, {before}, {last}");
            }
            tools::assert_amcheck(&copy);
            copy.stop(Stop::Fast);
            tools::assert_checksums(&copy);
        }
    }
}

const MIB: u64 = 1 << 20;

/// Long enough for runs, and no multiple of a page.
const LARGE: u64 = 150 * MIB + 3;

/// The eight bytes at an offset of the file that changes: one more than the offset.
fn word(offset: u64) -> [u8; 8] {
    (offset + 1).to_le_bytes()
}

/// Changes a large file in every way, again and again, until told to stop.
fn change(path: &Path, rounds: &AtomicU64, stop: &AtomicU64) {
    let whole: Vec<u8> = (0..LARGE.div_ceil(8)).flat_map(|i| word(i * 8)).collect();
    let whole = &whole[..usize::try_from(LARGE).unwrap()];
    while stop.load(Ordering::SeqCst) == 0 {
        let mut file = File::create(path).unwrap();
        whole.chunks(1 << 20).for_each(|chunk| file.write_all(chunk).unwrap());
        for length in [100 * MIB, 140 * MIB + 5, 64 * MIB, LARGE, 3, LARGE, 0] {
            file.set_len(length).unwrap();
            rounds.fetch_add(1, Ordering::SeqCst);
            std::thread::yield_now();
        }
        fs::remove_file(path).unwrap();
    }
}

/// Every byte that the row promises is there, is what was written there or a zero, and adds up to the
/// checksum of the row.
fn assert_readable(backup: &OpenedBackup, row: &Row) {
    let mut crc = 0;
    for block in 0..u32::try_from(row.size.div_ceil(8192)).unwrap() {
        let content = backup.read_block(row, block).unwrap();
        crc = crc32c::crc32c_append(crc, &content);
        for (at, found) in (0..).zip(content.chunks(8)) {
            let offset = u64::from(block) * 8192 + at * 8;
            let expected = word(offset);
            let fits = found
                .iter()
                .zip(expected)
                .all(|(found, expected)| *found == expected || *found == 0);
            assert!(fits, "{found:?} at {offset} of {}", row.size);
        }
    }
    assert_eq!(row.crc, Some(crc));
}

#[test]
fn f056_a_large_file_that_changes_in_every_way_is_copied_to_where_it_ended() {
    let Some(server) = Server::main() else { return };
    let live = LibraryCluster::start(&server);
    let repository = live.open(Arc::new(live.store.clone())).unwrap();
    let path = live.cluster.data_dir().join("large");
    let (rounds, stop) = (AtomicU64::new(0), AtomicU64::new(0));
    let sizes: Vec<Option<u64>> = std::thread::scope(|scope| {
        scope.spawn(|| change(&path, &rounds, &stop));
        // The thread ends also when this one panics.
        let _stop = StopAtEnd(&stop);
        let changes = || rounds.load(Ordering::SeqCst) > 0;
        wait_until(DEADLINE, changes, || "the file does not change".into());
        let once = || {
            let before = rounds.load(Ordering::SeqCst);
            let id = live.backup(&repository, |_| {}).unwrap().summary.id;
            assert!(rounds.load(Ordering::SeqCst) > before, "nothing changed meanwhile");
            let backup = repository.open_backup(&live.place, &id).unwrap();
            let row = backup.find_row(b"large").unwrap();
            row.map(|row| {
                assert_readable(&backup, &row);
                row.size
            })
        };
        (0..6).map(|_| once()).collect()
    });
    assert!(sizes.iter().any(|size| *size != Some(LARGE)), "it never moved: {sizes:?}");
}

struct StopAtEnd<'a>(&'a AtomicU64);

impl Drop for StopAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(1, Ordering::SeqCst);
    }
}

/// A clock during whose naps somebody writes the first three pages of a file anew: what a reader of
/// an invalid page sees who waits a moment and reads it again.
#[derive(Debug)]
struct Scribbling {
    clock: SystemClock,
    path: PathBuf,
    lsns: Mutex<[u64; 3]>,
    rounds: AtomicU64,
}

impl Clock for Scribbling {
    fn now(&self) -> Timestamp {
        self.clock.now()
    }

    fn monotonic(&self) -> Duration {
        self.clock.monotonic()
    }

    fn sleep(&self, duration: Duration) {
        let round = self.rounds.fetch_add(1, Ordering::SeqCst);
        let file = File::options().write(true).open(&self.path).unwrap();
        for (block, lsn) in (0..).zip(*self.lsns.lock().unwrap()) {
            file.write_all_at(&garbage(lsn, round), block * 8192).unwrap();
        }
        self.clock.sleep(duration);
    }
}

/// A page that nobody could have written, with this LSN; different in each round.
fn garbage(lsn: u64, round: u64) -> Vec<u8> {
    let mut page = vec![0xA5; 8192];
    let high = u32::try_from(lsn >> 32).unwrap();
    let low = u32::try_from(lsn & 0xFFFF_FFFF).unwrap();
    page[..4].copy_from_slice(&high.to_le_bytes());
    page[4..8].copy_from_slice(&low.to_le_bytes());
    page[100..108].copy_from_slice(&round.to_le_bytes());
    page
}

#[test]
fn f055_a_page_in_motion_is_excused_only_by_an_lsn_of_this_backup() {
    let Some(server) = Server::main() else { return };
    let mut live = LibraryCluster::start(&server);
    let path = live.cluster.data_dir().join("base/1/999999");
    let future = 0xFFFF_FFFF_FFFF_0000;
    let position = |cluster: &TestCluster| {
        cluster.psql("select pg_current_wal_insert_lsn()").parse::<Lsn>().unwrap().0
    };
    let before = position(&live.cluster);
    let clock = Arc::new(Scribbling {
        clock: SystemClock::new(),
        path: path.clone(),
        lsns: Mutex::new([future, before, before]),
        rounds: AtomicU64::new(0),
    });
    live.ctx.clock = Arc::clone(&clock) as Arc<dyn Clock>;
    let writing = Arc::clone(&clock);
    let taken = live
        .backup_interrupted(move |cluster| {
            // Only now is there WAL of this backup.
            let now = position(cluster);
            assert!(now > before);
            *writing.lsns.lock().unwrap() = [future, before, now];
            // The fourth page does not change, and its LSN is as good as one can be.
            let pages = [future, before, now, now].map(|lsn| garbage(lsn, 0));
            fs::write(&path, pages.concat()).unwrap();
        })
        .unwrap();
    assert!(clock.rounds.load(Ordering::SeqCst) > 0);
    let damage: Vec<_> = taken.damage.iter().map(|one| (one.path.as_str(), one.block)).collect();
    assert_eq!(damage, [("base/1/999999", 0), ("base/1/999999", 1), ("base/1/999999", 3)]);
    assert_eq!(taken.summary.totals.invalid_pages, 3);
}
