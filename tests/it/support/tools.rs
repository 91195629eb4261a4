//! PostgreSQL's own checking and load tools, with everything they say when they disagree.
//!
//! They are those of PostgreSQL 15: pg_checksums, pg_verifybackup and pg_waldump work on clusters of
//! 15 only, pg_amcheck and pgbench on servers of every major (pg_amcheck where amcheck is there).

use std::path::Path;

use super::cluster::TestCluster;
use super::run::{Ran, Running, run, start};

/// Checks every table and index of every database with pg_amcheck.
#[track_caller]
pub fn assert_amcheck(cluster: &TestCluster) {
    let mut command = cluster.command("pg_amcheck");
    command.args(["--all", "--install-missing", "--heapallindexed", "--parent-check"]);
    command.arg("--maintenance-db").arg(cluster.conninfo());
    let ran = run(&mut command).assert_ok();
    assert!(ran.stdout.is_empty() && ran.stderr.is_empty(), "pg_amcheck found something\n{ran}");
}

/// Checks every page of a stopped cluster that has checksums.
#[track_caller]
pub fn assert_checksums(cluster: &TestCluster) {
    pg_checksums(cluster).assert_ok().assert_says("Bad checksums:  0");
}

/// pg_checksums --check on a stopped cluster.
#[must_use]
pub fn pg_checksums(cluster: &TestCluster) -> Ran {
    run(cluster.command("pg_checksums").args(["--check", "-D"]).arg(cluster.data_dir()))
}

/// pg_verifybackup without its look at WAL, on a directory that no server has started in since.
#[track_caller]
pub fn assert_verifybackup(cluster: &TestCluster, data: &Path) {
    run(cluster.command("pg_verifybackup").arg("-n").arg(data)).assert_ok();
}

/// pg_waldump with these arguments.
#[must_use]
pub fn pg_waldump(cluster: &TestCluster, args: &[&str]) -> Ran {
    run(cluster.command("pg_waldump").args(args))
}

/// Makes pgbench's tables.
#[track_caller]
pub fn pgbench_init(cluster: &TestCluster, scale: u32) {
    let mut command = cluster.command("pgbench");
    command.args(["-i", "-q", "-s", &scale.to_string(), &cluster.conninfo()]);
    run(&mut command).assert_ok();
}

/// Runs this many pgbench transactions on two connections, to their end.
#[track_caller]
pub fn pgbench(cluster: &TestCluster, transactions: u32) -> Ran {
    let each = transactions.div_ceil(2).to_string();
    let mut command = cluster.command("pgbench");
    command.args(["-n", "-c", "2", "-t", &each, &cluster.conninfo()]);
    run(&mut command).assert_ok()
}

/// Write load that goes on until the returned process is dropped (an hour, else).
#[must_use]
pub fn pgbench_load(cluster: &TestCluster, connections: u32) -> Running {
    let mut command = cluster.command("pgbench");
    command.args(["-n", "-c", &connections.to_string(), "-T", "3600", &cluster.conninfo()]);
    start(&mut command)
}
