//! `pgkeep drain` as a pre-stop hook: beside a server that is being stopped while its archive lags.

use std::collections::BTreeSet;
use std::fs;
use std::time::Duration;

use crate::daemon_live::Served;
use crate::standby_live::{find, ready};
use crate::support::run::{DEADLINE, Running, run, start, wait_until};
use crate::support::site::started;
use crate::support::{
    BucketSite, Cipher, Fault, ScratchDir, Server, TestCluster, TestDaemon, TestS3,
};

/// `pg_ctl stop`, under way.
fn stopping(cluster: &TestCluster, how: &str) -> Running {
    let mut command = cluster.command(cluster.server().program("pg_ctl"));
    command.args(["stop", "-m", how, "-t", "110", "-D"]).arg(cluster.data_dir());
    start(&mut command)
}

/// The segment that the shutdown ended by itself: the one before that of its checkpoint.
fn last_segment(cluster: &TestCluster) -> String {
    let mut command = cluster.command(cluster.server().program("pg_controldata"));
    let shown = run(command.arg(cluster.data_dir())).assert_ok().assert_says("shut down");
    let line = shown.stdout.lines().find(|line| line.contains("REDO WAL file")).unwrap();
    let checkpoint = line.split_whitespace().last().unwrap();
    let number = u64::from_str_radix(&checkpoint[8..], 16).unwrap();
    format!("{}{:016X}", &checkpoint[..8], number - 1)
}

/// Nothing is ready for a while, and the server has not ended: what its last session writes is still to come.
#[test]
fn drain_waits_as_long_as_a_session_keeps_the_server_from_its_end() {
    let Some(server) = Server::main() else { return };
    let Served { cluster, config, repo, daemon } = Served::new(&server, "fallback = \"fail\"");
    cluster.psql("create table t (n int)");
    config.run(["backup"]).assert_ok();
    cluster.archive_now();
    wait_until(DEADLINE, || ready(&cluster).is_empty(), || daemon.log());
    // Longer than drain looks before it believes that nothing comes.
    let mut session = cluster.command("psql");
    session.args(["-XAtq", "-d", &cluster.conninfo(), "-c", "select pg_sleep(6)"]);
    let session = start(session.args(["-c", "insert into t values (1)"]));
    cluster.wait_until("exists (select from pg_stat_activity where wait_event = 'PgSleep')");
    let stop = stopping(&cluster, "smart");
    let lock = cluster.data_dir().join("postmaster.pid");
    let is_stopping = || fs::read_to_string(&lock).is_ok_and(|text| text.contains("stopping"));
    wait_until(DEADLINE, is_stopping, || cluster.log());
    assert_eq!(ready(&cluster), Vec::<String>::new());
    config.run(["drain", "--timeout", "100s"]).assert_ok().assert_says("nothing is pending");
    assert!(!cluster.is_running(), "{}", cluster.log());
    session.wait().assert_ok();
    stop.wait().assert_ok();
    assert_eq!(ready(&cluster), Vec::<String>::new());
    let last = last_segment(&cluster);
    assert!(find(&repo, &last).is_some(), "{last}");
    cluster.start();
    assert_eq!(cluster.psql("select n from t"), "1");
}

#[test]
fn drain_waits_for_a_server_that_shuts_down_and_for_its_last_segment() {
    let Some(server) = Server::main() else { return };
    let s3 = TestS3::builder().latency(Duration::from_millis(150)).start();
    let launch = TestCluster::create(&server).checksums().wal_segment_mib(1);
    let site = BucketSite::from_launch(&server, launch, s3, Cipher::Aes).impatient();
    let BucketSite { cluster, config, s3, .. } = site;
    let (mut daemon, config) = TestDaemon::configure(config, "push_jobs = 1\nfallback = \"fail\"");
    cluster.set_archive_command(&config.archive_command());
    daemon.start(&config);
    config.run(["backup"]).assert_ok();
    let drain = |timeout: &str| config.run(["drain", "--timeout", timeout]);

    // Many wait when the server is told to stop, and the last row is in none of them.
    cluster.set_archive_command("false");
    for _ in 0..16 {
        cluster.psql("insert into t values (1)");
        cluster.switch_wal();
    }
    let before: BTreeSet<String> = ready(&cluster).into_iter().collect();
    cluster.psql("insert into t values (2)");
    cluster.set_archive_command(&config.archive_command());
    let stop = stopping(&cluster, "fast");
    assert!(ready(&cluster).len() > 8, "{:?}", ready(&cluster));
    drain("100s").assert_ok().assert_says("nothing is pending");
    assert_eq!(ready(&cluster), Vec::<String>::new());
    assert!(!cluster.is_running(), "{}", cluster.log());
    stop.wait().assert_ok();
    let last = last_segment(&cluster);
    assert!(!before.contains(&last), "{last} was ended by the shutdown");
    let names: BTreeSet<String> =
        s3.keys().into_iter().map(|key| key.rsplit('/').next().unwrap().to_owned()).collect();
    assert!(names.is_superset(&before) && names.contains(&last), "{last}\n{names:?}");
    let out = ScratchDir::new("restored");
    let to = out.join("data");
    let mut restore = config.pgkeep(["restore", "--yes", "--target-action", "promote"]);
    run(restore.arg("--to").arg(&to)).assert_ok();
    assert_eq!(started(&server, &to).psql("select count(*), max(n) from t"), "17|2");

    // The archive takes nothing: the server gives up, and so does the hook, which says so.
    cluster.start();
    cluster.archive_now();
    s3.fault(Fault::SLOW_DOWN).always();
    cluster.psql("insert into t values (3)");
    let name = cluster.switch_wal();
    let stop = stopping(&cluster, "fast");
    drain("3s").assert_code(1).assert_says("still pending when the time was over");
    stop.wait().assert_ok();
    let last = last_segment(&cluster);
    let left = ready(&cluster);
    assert!(left.contains(&name) && left.contains(&last), "{last}: {left:?}");
    // Also when nobody stops any more.
    drain("1s").assert_code(1).assert_says("files are ready to be archived");
    s3.clear_faults();
    cluster.start();
    wait_until(DEADLINE, || ready(&cluster).is_empty(), || cluster.log());
    drain("60s").assert_ok().assert_says("nothing is pending");
    config.run(["wal", "gaps"]).assert_ok();
}
