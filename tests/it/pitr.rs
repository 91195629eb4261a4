//! Exact recovery on a live cluster: restores to every kind of target hold the markers that must be
//! there and not the next one, and PostgreSQL's own tools find nothing.

use std::time::Duration;

use crate::support::servers::Server;
use crate::support::{Cipher, ScratchDir, Stop, TestCluster, TestConfig, TestRepo, tools};

/// Markers written after the backup.
const MARKERS: u32 = 6;

/// What was noted right after each marker was committed, before the next.
struct Moment {
    time: String,
    lsn: String,
    xid: String,
}

struct Source {
    cluster: TestCluster,
    config: TestConfig,
    _repo: TestRepo,
    tablespace: ScratchDir,
    moments: Vec<Moment>,
}

/// A cluster with all that a backup meets: a tablespace, a table over a segment's boundary, an
/// unlogged table, thousands of small tables, load during the backup.
fn source(server: &Server) -> Source {
    let tablespace = ScratchDir::new("tablespace");
    let location = tablespace.create_dir("ts");
    let cluster = TestCluster::create(server)
        .checksums()
        .archiving()
        .setting("max_locks_per_transaction", "1024")
        .setting("max_wal_size", "4GB")
        .start();
    let repo = TestRepo::new();
    let config = TestConfig::new(&cluster).repository("local", &repo, Cipher::Aes);
    config.run(["init"]).assert_ok();
    cluster.set_archive_command(&config.archive_command());
    cluster.psql(&format!("create tablespace elsewhere location '{}'", location.display()));
    cluster.psql("create table moved (n int, t text) tablespace elsewhere");
    cluster.psql("insert into moved select n, md5(n::text) from generate_series(1, 10000) n");
    cluster.psql("create unlogged table unlogged as select generate_series(1, 1000) n");
    // Rows that fill a page each make a file of more than 1 GiB without as many rows.
    cluster.psql("create table large (n int, t text) with (fillfactor = 10)");
    cluster.psql("alter table large alter t set storage plain");
    cluster.psql(
        "insert into large select n, repeat(md5(n::text), 125) from generate_series(1, 132000) n",
    );
    cluster.psql(
        "do $$ begin for i in 1..2000 loop \
         execute format('create table small_%s as select %s as n', i, i); end loop; end $$",
    );
    cluster.psql("create table doomed as select generate_series(1, 1000) n");
    cluster.psql("create table marker (n int, at timestamptz default clock_timestamp())");
    tools::pgbench_init(&cluster, 2);
    let load = tools::pgbench_load(&cluster, 2);
    cluster.wait_until("select count(*) > 10 from pgbench_history");
    config.run(["backup", "--type", "full"]).assert_ok();
    drop(load);
    cluster.psql("checkpoint");
    let moments = (1..=MARKERS).map(|n| mark(&cluster, n)).collect();
    cluster.psql("drop table doomed");
    cluster.archive_now();
    Source { cluster, config, _repo: repo, tablespace, moments }
}

/// Commits a marker, notes where the cluster is, and lets a second pass. After the third, a restore
/// point.
fn mark(cluster: &TestCluster, n: u32) -> Moment {
    let xid = cluster.psql(&format!(
        "begin; insert into marker values ({n}); select pg_current_xact_id(); commit"
    ));
    let moment = Moment {
        time: cluster.psql("select clock_timestamp()"),
        lsn: cluster.psql("select pg_current_wal_insert_lsn()"),
        xid: xid.trim().to_owned(),
    };
    if n == 3 {
        cluster.psql("select pg_create_restore_point('after three')");
    }
    cluster.psql("select pg_sleep(1)");
    moment
}

/// Restores to a target and returns the running, promoted cluster.
fn restore(source: &Source, server: &Server, scratch: &ScratchDir, target: &[&str]) -> TestCluster {
    let to = scratch.join("data");
    let mapped = scratch.join("ts");
    let old = source.tablespace.join("ts");
    let mut command = source.config.pgkeep(["restore", "--yes", "--target-action", "promote"]);
    command.arg("--to").arg(&to);
    command.arg("--tablespace").arg(format!("{}={}", old.display(), mapped.display()));
    command.args(target);
    crate::support::run::run(&mut command).assert_ok();
    tools::assert_verifybackup(&source.cluster, &to);
    let copy = TestCluster::adopt(server, &to).start();
    copy.wait_until_within(Duration::from_secs(120), "select not pg_is_in_recovery()");
    copy
}

fn markers(cluster: &TestCluster) -> String {
    cluster.psql("select coalesce(string_agg(n::text, ',' order by n), '') from marker")
}

fn assert_sound(copy: &TestCluster, doomed: bool) {
    assert_eq!(copy.psql("select count(*) from large"), "132000");
    assert_eq!(copy.psql("select count(*), sum(n) from moved"), "10000|50005000");
    assert_eq!(copy.psql("select count(*) from unlogged"), "0");
    assert_eq!(copy.psql("select count(*) from pg_class where relname like 'small_%'"), "2000");
    assert_eq!(copy.psql("select n from small_1777"), "1777");
    let there = copy.psql("select to_regclass('doomed') is not null");
    assert_eq!(there, if doomed { "t" } else { "f" });
    // Every transaction of pgbench is there whole or not at all.
    let sums =
        "select (select sum(abalance) from pgbench_accounts) = sum(delta) from pgbench_history";
    assert_eq!(copy.psql(sums), "t");
    assert_eq!(copy.psql("show archive_mode"), "off");
}

#[test]
pub(crate) fn every_kind_of_target_is_met_exactly() {
    let Some(server) = Server::main() else { return };
    let source = source(&server);
    let at = |n: usize| &source.moments[n - 1];
    let cases: [(&[&str], &str, bool); 6] = [
        (&["--target-time", &at(2).time], "1,2", true),
        (&["--target-lsn", &at(4).lsn], "1,2,3,4", true),
        (&["--target-xid", &at(5).xid], "1,2,3,4,5", true),
        (&["--target-name", "after three"], "1,2,3", true),
        (&["--target-immediate"], "", true),
        (&[], "1,2,3,4,5,6", false),
    ];
    for (target, expected, doomed) in cases {
        let scratch = ScratchDir::new("copy");
        let copy = restore(&source, &server, &scratch, target);
        assert_eq!(markers(&copy), expected, "{target:?}");
        assert_sound(&copy, doomed);
        if target.is_empty() {
            tools::assert_amcheck(&copy);
        }
        copy.stop(Stop::Fast);
        tools::assert_checksums(&copy);
    }
}
