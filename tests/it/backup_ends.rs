//! Where backups end: stop positions on boundaries, idle servers, standbys that follow a switch of
//! timelines, are promoted, or wait for a primary that archives nothing.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use pgkeep::pg::Lsn;

use crate::support::library::LibraryCluster;
use crate::support::run::{DEADLINE, Ran, Running, run, start, wait_until};
use crate::support::site::{Site, json, started};
use crate::support::{Cipher, ScratchDir, Server, Stop, TestCluster, TestConfig, tools};

const PAGE: u64 = 8192;

/// Segments of all clusters here: 1 MiB.
const SEGMENT: u64 = 1 << 20;

/// Bytes of the last record, of a commit that did nothing else or of `XLOG_BACKUP_END`: header, data
/// header, a time or a position, aligned.
const LAST: u64 = 40;

/// Bytes of a message's record besides the message: header, long data header, the message's own,
/// prefix.
const MESSAGE: u64 = 24 + 5 + 24 + 2;

fn position(cluster: &TestCluster) -> u64 {
    cluster.psql("select pg_current_wal_insert_lsn()").parse::<Lsn>().unwrap().0
}

/// Bytes for records between two positions: all but the pages' headers.
fn usable(from: u64, to: u64) -> u64 {
    let header = |page: u64| if page.is_multiple_of(SEGMENT) { 40 } else { 24 };
    let before = |at: u64| {
        let (page, offset) = (at / PAGE * PAGE, at % PAGE);
        let first = page / SEGMENT * SEGMENT;
        let pages = (page - first) / PAGE;
        let whole = pages * PAGE - pages * 24 - if pages > 0 { 16 } else { 0 };
        whole + offset.saturating_sub(header(page))
    };
    assert_eq!(from / SEGMENT, (to - 1) / SEGMENT, "within one segment");
    let to_offset = if to.is_multiple_of(SEGMENT) {
        let pages = SEGMENT / PAGE;
        pages * PAGE - pages * 24 - 16
    } else {
        before(to)
    };
    to_offset - before(from)
}

/// Writes WAL so that one more record, a commit at once or whatever comes, ends at the next multiple
/// of `unit`, unless the server writes something of its own meanwhile.
fn fill(cluster: &TestCluster, unit: u64, is_committed: bool) {
    loop {
        let from = position(cluster);
        let space = usable(from, (from / unit + 1) * unit);
        // Above 255 bytes the header of a record's data is the long one.
        let length = space.checked_sub(MESSAGE + LAST).filter(|length| *length > 300);
        let message = |length: u64| {
            cluster.psql(&format!(
                "select pg_logical_emit_message({is_committed}, 'p', repeat('x', {length})) is null"
            ));
        };
        match length {
            Some(length) => return message(length),
            None => message(2000),
        }
    }
}

#[test]
fn f027_f030_a_stop_on_a_segment_boundary_needs_the_segment_before_it() {
    for server in Server::all() {
        let mut live = LibraryCluster::start(&server);
        live.cluster.set("autovacuum", "off");
        let boundary = (0..10).find_map(|_| {
            let filled = |cluster: &TestCluster| fill(cluster, SEGMENT, false);
            let summary = live.backup_interrupted(filled).unwrap().summary;
            summary.stop_lsn.0.is_multiple_of(SEGMENT).then_some(summary)
        });
        let summary = boundary.expect("one of ten backups ends where a segment does");
        let last = summary.stop_lsn.0 / SEGMENT - 1;
        assert_eq!(summary.wal_last, format!("00000001{:08X}{:08X}", last >> 12, last & 0xFFF));
        let repository = live.open(Arc::new(live.store.clone())).unwrap();
        let stored = repository.segments(&live.ctx, &live.place).unwrap();
        assert!(stored[&1].contains(&summary.wal_last), "{}", server.version());
    }
}

/// A standby that streams, with a configuration of its own for the same repository.
struct Standby {
    cluster: TestCluster,
    config: TestConfig,
    scratch: ScratchDir,
}

impl Standby {
    /// Made from the newest backup.
    fn restored(site: &Site) -> Self {
        let scratch = ScratchDir::new("standby");
        let data = scratch.join("data");
        let mut command = site.config.pgkeep(["restore", "--yes", "--standby", "--to"]);
        run(command.arg(&data)).assert_ok();
        Self::start(site, &site.cluster, scratch, &data)
    }

    /// Made by pg_basebackup, of a primary or of another standby.
    fn copied(site: &Site, upstream: &TestCluster) -> Self {
        let scratch = ScratchDir::new("standby");
        let data = scratch.create_dir("data");
        let mut copying = upstream.command("pg_basebackup");
        copying.args(["-c", "fast", "-X", "stream", "-d", &upstream.conninfo(), "-R", "-D"]);
        run(copying.arg(&data)).assert_ok();
        Self::start(site, upstream, scratch, &data)
    }

    fn start(site: &Site, upstream: &TestCluster, scratch: ScratchDir, data: &Path) -> Self {
        let launch = TestCluster::adopt(upstream.server(), data);
        let cluster = launch.setting("primary_conninfo", &upstream.conninfo()).start();
        let config = TestConfig::new(&cluster).repository("local", &site.repo, Cipher::Aes);
        Self { cluster, config, scratch }
    }

    /// Waits until everything that the primary wrote is replayed here.
    fn catch_up(&self, primary: &TestCluster) {
        let position = primary.psql("select pg_current_wal_flush_lsn()");
        self.cluster.wait_until(&format!("pg_last_wal_replay_lsn() >= '{position}'"));
    }

    /// A backup that waits for WAL for two seconds only.
    fn impatient_backup(&self) -> Ran {
        let text = fs::read_to_string(self.config.path()).unwrap();
        let text = text.replace("[cluster.main]\n", "[cluster.main]\nwal_wait = \"2s\"\n");
        let impatient = self.scratch.write("impatient.toml", text);
        let mut command = self.cluster.pgkeep();
        run(command.arg("--config").arg(impatient).arg("backup"))
    }

    /// Starts a slow backup and waits until it copies.
    fn slow_backup(&self) -> Running {
        let running = start(&mut self.config.pgkeep(["backup", "--json", "--max-rate", "4MiB"]));
        self.cluster.wait_until(
            "exists (select from pg_stat_activity where state = 'idle' \
             and application_name like 'pgkeep backup 2%' \
             and now() - state_change > interval '300 milliseconds')",
        );
        running
    }
}

/// How many backups were begun in a repository.
fn begun(folder: &Path) -> usize {
    let count = |path: &Path| match path.file_name().unwrap() == "begin" {
        true => fs::read_dir(path).unwrap().count(),
        false => begun(path),
    };
    let folders = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    folders.filter(|path| path.is_dir()).map(|path| count(&path)).sum()
}

/// A standby's backup whose last segment the primary ends only when the backup waits for it.
fn backup_waiting_for(site: &Site, standby: &TestCluster, config: &TestConfig) -> Ran {
    let before = begun(site.repo.path());
    let running = start(&mut config.pgkeep(["backup", "--json"]));
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| running.wait());
        let has_begun = || begun(site.repo.path()) > before || waiting.is_finished();
        wait_until(DEADLINE, has_begun, || "no backup has begun".into());
        while !waiting.is_finished() {
            standby.wait_until(
                "not exists (select from pg_stat_activity \
                 where application_name like 'pgkeep backup 2%' \
                 and application_name not like '%waits for WAL')",
            );
            site.cluster.archive_now();
        }
        waiting.join().unwrap().assert_ok()
    })
}

fn stop_lsn(taken: &serde_json::Value) -> u64 {
    taken["stop_lsn"].as_str().unwrap().parse::<Lsn>().unwrap().0
}

#[test]
fn f027_f030_an_idle_standby_s_backup_ends_on_any_boundary_or_by_its_deadline() {
    for server in Server::all() {
        let site = Site::small(&server);
        let primary = &site.cluster;
        primary.psql("create table t as select generate_series(1, 1000) n");
        site.backup();
        let standby = Standby::restored(&site);
        // Its last record is the switch: the stop lies where the next segment would begin, and what
        // is needed is archived already.
        let on_segment = (0..5).find_map(|_| {
            primary.archive_now();
            standby.catch_up(primary);
            let taken = json(&backup_waiting_for(&site, &standby.cluster, &standby.config).stdout);
            stop_lsn(&taken).is_multiple_of(SEGMENT).then_some(taken)
        });
        let taken = on_segment.expect("one of five backups ends where a segment does");
        let last = stop_lsn(&taken) / SEGMENT - 1;
        assert_eq!(taken["wal_last"], format!("00000001{:08X}{:08X}", last >> 12, last & 0xFFF));

        // The primary has not ended the segment that is needed.
        primary.psql("insert into t values (1001)");
        standby.catch_up(primary);
        let ended = standby.impatient_backup().assert_code(1);
        ended.assert_says("did not arrive in the repository within 2 s");

        // The same with a last record that ends a page, until the primary ends the segment.
        let on_page = (0..5).find_map(|_| {
            primary.psql("insert into t values (1001)");
            fill(primary, PAGE, true);
            standby.catch_up(primary);
            let taken = json(&backup_waiting_for(&site, &standby.cluster, &standby.config).stdout);
            stop_lsn(&taken).is_multiple_of(PAGE).then_some(taken)
        });
        let taken = on_page.expect("one of five backups ends where a page does");

        let rows = primary.psql("select count(*) from t");
        let scratch = ScratchDir::new("copy");
        let to = scratch.join("data");
        site.restore(&to, &["--backup", taken["id"].as_str().unwrap()]);
        let copy = started(&server, &to);
        assert_eq!(copy.psql("select count(*) from t"), rows, "{}", server.version());
        copy.stop(Stop::Fast);
    }
}

#[test]
fn f028_a_standby_that_is_promoted_during_its_backup_gives_none() {
    let Some(server) = Server::main() else { return };
    let site = Site::small(&server);
    site.cluster.psql("create table t as select generate_series(1, 1000) n");
    site.backup();
    let standby = Standby::copied(&site, &site.cluster);
    let running = standby.slow_backup();
    standby.cluster.promote();
    running.wait().assert_code(1).assert_says("the standby was promoted during the backup");
    let shown = json(&site.config.run(["info", "--json"]).assert_ok().stdout);
    assert_eq!(shown["repositories"][0]["backups"].as_array().unwrap().len(), 1);
}

/// The upstream of a cascading standby is promoted, and the standby follows it to the new timeline:
/// that is no promotion of its own.
#[test]
fn a_standby_may_follow_a_switch_of_timelines_during_its_backup() {
    let Some(server) = Server::main() else { return };
    let site = Site::small(&server);
    site.cluster.psql("create table t as select generate_series(1, 1000) n");
    let middle = Standby::copied(&site, &site.cluster);
    let last = Standby::copied(&site, &middle.cluster);
    last.catch_up(&site.cluster);
    let running = last.slow_backup();
    site.cluster.stop(Stop::Fast);
    // Its history reaches the repository late: the backup has to wait for it.
    let archiving = middle.cluster.psql("show archive_command");
    middle.cluster.set_archive_command("false");
    middle.cluster.promote();
    middle.cluster.psql("insert into t values (1001); checkpoint");
    last.catch_up(&middle.cluster);
    last.cluster.psql("checkpoint");
    last.cluster.wait_until("(select timeline_id = 2 from pg_control_checkpoint())");
    last.cluster.wait_until(
        "exists (select from pg_stat_activity where application_name like 'pgkeep backup 2% waits for WAL')",
    );
    middle.cluster.set_archive_command(&archiving);
    middle.cluster.psql("insert into t values (1002)");
    middle.cluster.archive_now();
    let taken = json(&running.wait().assert_ok().stdout);
    assert_eq!((&taken["timeline"], &taken["timeline_stop"]), (&1.into(), &2.into()), "{taken}");
    assert!(taken["wal_first"].as_str().unwrap().starts_with("00000001"), "{taken}");
    assert!(taken["wal_last"].as_str().unwrap().starts_with("00000002"), "{taken}");

    let scratch = ScratchDir::new("copy");
    let to = scratch.join("data");
    let mut restore = last.config.pgkeep(["restore", "--yes", "--target-action", "promote"]);
    run(restore.arg("--to").arg(&to)).assert_ok();
    tools::assert_verifybackup(&site.cluster, &to);
    let copy = started(&server, &to);
    assert_eq!(copy.psql("select count(*), max(n) from t"), "1002|1002");
    tools::assert_amcheck(&copy);
    copy.stop(Stop::Fast);
    tools::assert_checksums(&copy);
}

/// Whether a standby archives is not what its backup depends on.
#[test]
fn a_standby_that_does_not_archive_is_backed_up_all_the_same() {
    let Some(server) = Server::main() else { return };
    let site = Site::small(&server);
    site.cluster.psql("create table t as select generate_series(1, 1000) n");
    for mode in ["off", "always"] {
        let scratch = ScratchDir::new("standby");
        let data = scratch.create_dir("data");
        let mut copying = site.cluster.command("pg_basebackup");
        copying.args(["-c", "fast", "-X", "stream", "-R", "-d", &site.cluster.conninfo(), "-D"]);
        run(copying.arg(&data)).assert_ok();
        let standby = TestCluster::adopt(&server, &data).setting("archive_mode", mode).start();
        let config = TestConfig::new(&standby).repository("local", &site.repo, Cipher::Aes);
        let position = site.cluster.psql("select pg_current_wal_flush_lsn()");
        standby.wait_until(&format!("pg_last_wal_replay_lsn() >= '{position}'"));
        let ran = backup_waiting_for(&site, &standby, &config);
        let is_warned = ran.stderr.contains("this standby does not run archive_command");
        assert_eq!(is_warned, mode == "off", "{ran}");
        let checked = config.run(["check", "--json"]);
        let findings = json(&checked.stdout);
        let of = |name: &str| {
            let all = findings["findings"].as_array().unwrap();
            all.iter().find(|one| one["check"] == name).map(|one| one["level"].clone())
        };
        let expected = if mode == "off" { "warn" } else { "ok" };
        assert_eq!(of("archive_mode"), Some(expected.into()), "{findings}");
    }
}
