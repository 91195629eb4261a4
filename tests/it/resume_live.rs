//! Backups that were interrupted: what the next one uses of them, and that it is whole.

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use pgkeep::base::{Clock, Ctx, Silent, SystemClock, Timestamp};
use pgkeep::repo::{BackupType, OpenedBackup, Repository, RowKind};
use pgkeep::storage::faulty::Effect;
use pgkeep::storage::{FaultyStore, ObjectStore};

use rustix::process::Signal;

use crate::support::library::LibraryCluster;
use crate::support::run::{DEADLINE, start, wait_until};
use crate::support::site::{Site, json, started};
use crate::support::{ScratchDir, Server, Stop};

/// Small packs, so that many are durable when a backup dies.
pub(crate) const PACK: u64 = 256 << 10;

/// About 12 MB that do not compress well.
pub(crate) const FILL: &str = "create table big as select n, md5(n::text) || md5((n * 7)::text) || md5((n * 13)::text) t \
                    from generate_series(1, 90000) n";

/// A clock that is ahead: what was written just now is old by it.
#[derive(Debug)]
struct Ahead(SystemClock);

impl Ahead {
    fn ctx() -> Ctx {
        Ctx { clock: Arc::new(Self(SystemClock::new())), ..Ctx::system(Arc::new(Silent)) }
    }
}

impl Clock for Ahead {
    fn now(&self) -> Timestamp {
        self.0.now() + Duration::from_secs(120)
    }
    fn monotonic(&self) -> Duration {
        self.0.monotonic()
    }
    fn sleep(&self, duration: Duration) {
        self.0.sleep(duration);
    }
}

/// A cluster of some megabytes at rest, whose backups are taken by a clock that is ahead, its repository, and how
/// many operations a full takes.
pub(crate) fn at_rest(server: &Server) -> (LibraryCluster, Repository, u64) {
    let mut live = LibraryCluster::start(server);
    live.cluster.psql(FILL);
    live.cluster.psql("vacuum analyze");
    live.cluster.psql("checkpoint");
    live.ctx = Ahead::ctx();
    let repository = live.open(Arc::new(live.store.clone())).unwrap();
    let all = operations_of(&live, BackupType::Full);
    (live, repository, all)
}

/// Every row can be read and has its checksum.
pub(crate) fn assert_whole(backup: &OpenedBackup) {
    let mut rows = backup.rows().unwrap();
    while let Some(row) = rows.next_row().unwrap() {
        if row.kind == RowKind::File {
            backup.read_whole(&row, u64::MAX).unwrap();
        }
    }
}

/// Lets a backup die at that operation.
pub(crate) fn die<S: ObjectStore + Clone + 'static>(
    live: &LibraryCluster<S>,
    operation: u64,
    backup_type: BackupType,
) {
    let faulty = FaultyStore::new(live.store.clone());
    let dying = live.open(Arc::new(faulty.clone())).unwrap();
    faulty.die_at(faulty.operations() + operation, Effect::None);
    let died = live.backup(&dying, |options| {
        options.pack_size = PACK;
        options.backup_type = backup_type;
    });
    died.unwrap_err();
    live.cluster.wait_until(
        "select count(*) = 0 from pg_stat_activity where application_name like 'pgkeep backup%'",
    );
}

/// How many operations a backup takes until its last pack is durable. Those that follow are as many as the wait for
/// WAL takes, which is another number each time.
pub(crate) fn operations_of<S: ObjectStore + Clone + 'static>(
    live: &LibraryCluster<S>,
    backup_type: BackupType,
) -> u64 {
    let faulty = FaultyStore::new(live.store.clone());
    let counting = live.open(Arc::new(faulty.clone())).unwrap();
    let before = faulty.log().len();
    let taken = live.backup(&counting, |options| {
        options.pack_size = PACK;
        options.backup_type = backup_type;
    });
    let [data, _, _] = live.place.backup_prefixes(&taken.unwrap().summary.id);
    let log = faulty.log();
    let last = log.iter().rposition(|operation| {
        operation.key.starts_with(&data) && ["put", "finish"].contains(&operation.name)
    });
    u64::try_from(last.unwrap() + 1 - before).unwrap()
}

pub(crate) fn taken<S: ObjectStore + Clone + 'static>(
    live: &LibraryCluster<S>,
    repository: &Repository,
    backup_type: BackupType,
) -> (u64, u64) {
    let finished = live
        .backup(repository, |options| {
            options.pack_size = PACK;
            options.backup_type = backup_type;
        })
        .unwrap();
    assert_eq!(finished.summary.backup_type, backup_type);
    assert_whole(&repository.open_backup(&live.place, &finished.summary.id).unwrap());
    assert_eq!(finished.summary.attempts.is_empty(), finished.reused() == 0);
    (finished.reused(), finished.summary.totals.unread_bytes)
}

#[test]
fn what_an_interrupted_full_had_stored_is_not_stored_again() {
    let Some(server) = Server::main() else { return };
    let (live, healthy, all) = at_rest(&server);
    assert_eq!(healthy.backups(&live.ctx, &live.place).unwrap().abandoned, []);
    let mut reused = Vec::new();
    for tenths in [1, 5, 8] {
        die(&live, all * tenths / 10, BackupType::Full);
        reused.push(taken(&live, &healthy, BackupType::Full));
        let backups = healthy.backups(&live.ctx, &live.place).unwrap();
        assert!(backups.unfinished.is_empty(), "{:?}", backups.unfinished);
    }
    let bytes: Vec<u64> = reused.iter().map(|(reused, _)| *reused).collect();
    assert!(bytes.is_sorted() && bytes[1] > 2 << 20 && bytes[2] > 8 << 20, "{reused:?}");
    // What nobody has touched since is not read again.
    let (reused, unread) = reused[2];
    assert!(unread > reused / 2, "{unread} of {reused}");
    // Dead twice: both are used.
    die(&live, all / 2, BackupType::Full);
    live.cluster.psql("update big set t = 'x' where n % 1000 = 0");
    live.cluster.psql("checkpoint");
    die(&live, all * 6 / 10, BackupType::Full);
    let (reused, _) = taken(&live, &healthy, BackupType::Full);
    assert!(reused > 6 << 20, "{reused}");
    let last = healthy.backups(&live.ctx, &live.place).unwrap().complete.pop().unwrap();
    assert_eq!(last.attempts.len(), 2, "{last:?}");
    // Who stands on it reads the dead ones' packs too.
    taken(&live, &healthy, BackupType::Differential);
    taken(&live, &healthy, BackupType::Incremental);
}

/// What changed within the minute before an attempt began is read again, and used only where its content is the
/// same.
#[test]
fn f044_what_changed_just_before_an_attempt_is_read_again() {
    let Some(server) = Server::main() else { return };
    let (_, _, all) = at_rest(&server);
    let mut live = LibraryCluster::start(&server);
    live.cluster.psql(FILL);
    live.cluster.psql("checkpoint");
    let healthy = live.open(Arc::new(live.store.clone())).unwrap();
    die(&live, all * 8 / 10, BackupType::Full);
    live.ctx = Ahead::ctx();
    let (reused, unread) = taken(&live, &healthy, BackupType::Full);
    assert!(reused > 2 << 20, "{reused}");
    assert_eq!(unread, 0);
}

#[test]
fn what_an_interrupted_differential_had_stored_is_used_by_the_next_one() {
    let Some(server) = Server::main() else { return };
    let live = LibraryCluster::start(&server);
    live.cluster.psql(FILL);
    let healthy = live.open(Arc::new(live.store.clone())).unwrap();
    taken(&live, &healthy, BackupType::Full);
    live.cluster.psql("create table more as select n + 1 n, t || 'y' t from big");
    live.cluster.psql("update big set t = 'x' where n % 100 = 0");
    let all = operations_of(&live, BackupType::Differential);
    // A dead one is of use to whatever comes next, but for what that finds in its parent.
    for (dies, next) in [
        (BackupType::Differential, BackupType::Differential),
        (BackupType::Incremental, BackupType::Incremental),
        (BackupType::Incremental, BackupType::Differential),
        (BackupType::Differential, BackupType::Incremental),
    ] {
        live.cluster.psql("update big set t = t || 'z'; checkpoint");
        die(&live, all * 5 / 10, dies);
        let (reused, _) = taken(&live, &healthy, next);
        assert!(reused >= 1 << 20, "{dies}, {next}: {reused}");
    }
    // A full hashes anew, and uses none of them.
    die(&live, all * 3 / 10, BackupType::Differential);
    assert_eq!(taken(&live, &healthy, BackupType::Full).0, 0);
}

#[test]
fn a_backup_that_is_killed_is_used_by_the_next_one() {
    let Some(server) = Server::main() else { return };
    let site = Site::small(&server);
    site.cluster.psql(FILL);
    site.cluster.psql("checkpoint");
    let mut slowly = site.config.pgkeep(["backup", "--max-rate", "4MiB"]);
    let backup = start(slowly.env("PGKEEP_REPOSITORY__LOCAL__PACK_SIZE", "1MiB"));
    let metas = || {
        let found = walk(site.repo.path());
        found.iter().filter(|path| path.contains("/meta/")).count()
    };
    wait_until(DEADLINE, || metas() >= 3, || format!("{} packs are durable", metas()));
    backup.signal(Signal::KILL);
    assert_eq!(backup.wait().code(), None);
    site.cluster.wait_until(
        "select count(*) = 0 from pg_stat_activity where application_name like 'pgkeep backup%'",
    );
    let ran = site.config.run(["backup"]).assert_ok();
    assert!(ran.stdout.contains("were used of an interrupted backup"), "{}", ran.stdout);
    site.cluster.psql("insert into big values (0, 'after')");
    let diff = site.backup_of("diff");
    let info = json(&site.config.run(["info", "--json"]).assert_ok().stdout);
    let chain = info["repositories"][0]["chain"].as_array().unwrap();
    assert_eq!(chain.len(), 2, "{info}");
    assert!(chain.iter().any(|base| base["interrupted"] == true), "{info}");
    let digest = "select count(*) || md5(string_agg(n || t, ',' order by n)) from big";
    let scratch = ScratchDir::new("resumed");
    let to = scratch.join("data");
    site.restore(&to, &["--backup", diff["id"].as_str().unwrap()]);
    let copy = started(&server, &to);
    assert_eq!(copy.psql(digest), site.cluster.psql(digest));
    copy.stop(Stop::Fast);
}

/// The paths of all files below a folder.
fn walk(folder: &std::path::Path) -> Vec<String> {
    let mut paths = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        match path.is_dir() {
            true => paths.extend(walk(&path)),
            false => paths.push(path.display().to_string()),
        }
    }
    paths
}
