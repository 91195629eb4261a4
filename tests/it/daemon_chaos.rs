//! A minute's load through the daemon, while server and daemon are killed at random: what PostgreSQL
//! believes archived is there, whole, and a restore is exact.
//!
//! `PGKEEP_SEED=n` runs one seed; a failure says which it was. `PGKEEP_CHAOS_SECONDS` is how long the load
//! goes on in each test, by default 12.

use std::fs;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::support::run::{DEADLINE, run, wait_until};
use crate::support::site::{Site, started};
use crate::support::tools::{pgbench_init, pgbench_load};
use crate::support::{
    BucketSite, Cipher, Dice, ScratchDir, Server, TestCluster, TestConfig, TestDaemon, TestS3,
};

/// What the load writes, and what must be there afterwards.
const CONTENT: &str = "select (select count(*) from pgbench_history),
    (select coalesce(sum(delta), 0) from pgbench_history),
    (select sum(abalance) from pgbench_accounts), (select sum(tbalance) from pgbench_tellers),
    (select md5(string_agg(bbalance::text, ',' order by bid)) from pgbench_branches),
    (select max(n) from marks)";

fn seconds() -> Duration {
    let chosen = std::env::var("PGKEEP_CHAOS_SECONDS").ok();
    let chosen = chosen.map(|text| text.parse().expect("PGKEEP_CHAOS_SECONDS is a number"));
    Duration::from_secs(chosen.unwrap_or(12))
}

/// Whom the dice kill next.
#[derive(Clone, Copy, PartialEq)]
enum Kills {
    Server,
    Daemon,
    /// Both together, each time.
    Both,
    /// Any of these.
    Any,
}

fn live_through(
    server: &Server,
    cluster: &TestCluster,
    config: &TestConfig,
    daemon: &mut TestDaemon,
    kills: Kills,
) {
    let mut dice = Dice::new();
    pgbench_init(cluster, 2);
    cluster.psql("create table marks (n int)");
    run(&mut config.pgkeep(["backup"])).assert_ok();
    let begin = Instant::now();
    let mut killed = 0;
    while begin.elapsed() < seconds() {
        let load = pgbench_load(cluster, 4);
        let pause = Duration::from_millis(500 + dice.below(2500));
        let until = Instant::now() + pause;
        wait_until(DEADLINE, || Instant::now() >= until, String::new);
        let each = [Kills::Server, Kills::Daemon, Kills::Both];
        let which = match kills {
            Kills::Any => each[usize::try_from(dice.below(3)).unwrap()],
            chosen => chosen,
        };
        if which != Kills::Server {
            daemon.stop(Signal::KILL);
        }
        if which != Kills::Daemon {
            cluster.kill9();
        }
        drop(load);
        killed += 1;
        // The server may have to do without for a while.
        let until = Instant::now() + Duration::from_millis(dice.below(1500));
        if which != Kills::Daemon {
            cluster.start();
        }
        wait_until(DEADLINE, || Instant::now() >= until, String::new);
        if which != Kills::Server {
            daemon.start(config);
        }
        cluster.psql(&format!("insert into marks values ({killed})"));
    }
    check(server, cluster, config, daemon, killed);
}

fn check(
    server: &Server,
    cluster: &TestCluster,
    config: &TestConfig,
    daemon: &TestDaemon,
    killed: u64,
) {
    // pgbench's sessions end by themselves: nothing writes any more when the content is taken.
    cluster
        .wait_until("select count(*) = 0 from pg_stat_activity where application_name = 'pgbench'");
    let content = cluster.psql(CONTENT);
    assert!(content.ends_with(&format!("|{killed}")), "{content} {killed}");
    let last = cluster.archive_now();
    config.run(["drain", "--timeout", "100s"]).assert_ok();

    let wal = cluster.data_dir().join("pg_wal");
    let out = ScratchDir::new("fetched");
    let mut compared = 0;
    for entry in fs::read_dir(wal.join("archive_status")).unwrap() {
        let mark = entry.unwrap().file_name().into_string().unwrap();
        let Some(name) = mark.strip_suffix(".done") else { continue };
        let Ok(content) = fs::read(wal.join(name)) else { continue };
        let to = out.join("file");
        run(config.pgkeep(["archive-get", name]).arg(&to)).assert_ok();
        assert!(fs::read(&to).unwrap() == content, "{name} is another one in the archive");
        compared += 1;
    }
    assert!(compared > 0);
    config.run(["wal", "gaps"]).assert_ok();
    let listed = config.run(["wal", "list"]).assert_ok();
    assert!(listed.stdout.contains(&last), "{last}\n{listed}");

    let to = out.join("data");
    let mut restore = config.pgkeep(["restore", "--yes", "--target-action", "promote"]);
    run(restore.arg("--to").arg(&to)).assert_ok();
    let restored = started(server, &to);
    assert_eq!(restored.psql(CONTENT), content, "{}", daemon.log());
}

fn in_folder(kills: Kills) {
    let Some(server) = Server::main() else { return };
    let Site { cluster, config, repo } = Site::small(&server);
    let (mut daemon, config) = TestDaemon::configure(config, "");
    cluster.set_archive_command(&config.archive_command());
    daemon.start(&config);
    live_through(&server, &cluster, &config, &mut daemon, kills);
    drop(repo);
}

fn in_bucket(kills: Kills) {
    let Some(server) = Server::main() else { return };
    let s3 = TestS3::builder().latency(Duration::from_millis(20)).start();
    let launch = TestCluster::create(&server).checksums().wal_segment_mib(1);
    let BucketSite { cluster, config, s3, .. } =
        BucketSite::from_launch(&server, launch, s3, Cipher::Aes);
    let (mut daemon, config) = TestDaemon::configure(config, "push_jobs = 8");
    cluster.set_archive_command(&config.archive_command());
    daemon.start(&config);
    live_through(&server, &cluster, &config, &mut daemon, kills);
    drop(s3);
}

#[test]
fn f004_f013_the_server_is_killed_under_load() {
    in_folder(Kills::Server);
}

#[test]
fn f004_f013_the_daemon_is_killed_under_load() {
    in_folder(Kills::Daemon);
}

#[test]
fn f004_f013_server_and_daemon_are_killed_together_under_load() {
    in_folder(Kills::Both);
}

#[test]
fn f004_f013_server_and_daemon_are_killed_under_load_into_a_bucket_that_is_20_ms_away() {
    in_bucket(Kills::Any);
}

/// f017: a daemon that is killed at any moment of a recovery leaves nothing that recovery takes for a
/// segment.
#[test]
fn f017_the_daemon_is_killed_again_and_again_during_a_recovery() {
    let Some(server) = Server::main() else { return };
    let mut dice = Dice::new();
    let Site { cluster, config, repo } = Site::small(&server);
    let (mut daemon, config) = TestDaemon::configure(config, "");
    cluster.set_archive_command(&config.archive_command());
    daemon.start(&config);
    cluster.psql("create table t (n int, filler text)");
    run(&mut config.pgkeep(["backup"])).assert_ok();
    for n in 0..60 {
        let fill = "select g, repeat(md5(g::text), 20) from generate_series(1, 700) g";
        cluster.psql(&format!("insert into t {fill}; insert into t values ({n}, 'mark')"));
    }
    cluster.archive_now();
    let content = cluster.psql("select count(*), sum(n) from t");
    let out = ScratchDir::new("restored");
    let to = out.join("data");
    let mut restore = config.pgkeep(["restore", "--yes", "--target-action", "promote"]);
    run(restore.arg("--to").arg(&to)).assert_ok();
    let restored = std::thread::scope(|scope| {
        let recovery = scope.spawn(|| started(&server, &to));
        while !recovery.is_finished() {
            let until = Instant::now() + Duration::from_millis(20 + dice.below(200));
            wait_until(DEADLINE, || Instant::now() >= until, String::new);
            daemon.stop(Signal::KILL);
            daemon.start(&config);
        }
        recovery.join().unwrap()
    });
    assert_eq!(restored.psql("select count(*), sum(n) from t"), content);
    drop(repo);
}
