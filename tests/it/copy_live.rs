//! Copies beside a source that has more than WAL to lose: subscriptions, a primary that it follows,
//! targets left over from its own recovery, timelines that begin after the plan.

use std::fs;

use crate::restore_live;
use crate::standby_live::append;
use crate::support::site::{Site, started};
use crate::support::{ScratchDir, Server, Stop, TestCluster};

/// A copied subscription consumes its source's slot at the publisher, and the source loses the rows.
#[test]
fn f070_a_copied_subscriber_leaves_the_slot_alone() {
    let Some(server) = Server::main() else { return };
    let publisher = TestCluster::create(&server).setting("wal_level", "logical").start();
    publisher
        .psql("create table t (n int); insert into t values (1); create publication p for table t");
    let launch = TestCluster::create(&server).wal_segment_mib(1).setting("wal_level", "logical");
    let site = Site::start(launch);
    site.cluster.psql(&format!(
        "create table t (n int);
         create subscription s connection '{}' publication p",
        publisher.conninfo()
    ));
    site.cluster.wait_until("(select count(*) from t) = 1");
    let is_active = "(select active from pg_replication_slots where slot_name = 's')";
    publisher.wait_until(is_active);
    // What the source may have from its own life as a standby or a copy; the server has not read it.
    let conf = site.cluster.data_dir().join("postgresql.conf");
    let own = fs::read_to_string(&conf).unwrap();
    let leftovers = [
        ("primary_conninfo", publisher.conninfo()),
        ("primary_slot_name", "leftover".to_owned()),
        ("synchronous_standby_names", "nobody".to_owned()),
        ("archive_cleanup_command", "touch cleaned-up".to_owned()),
        ("recovery_end_command", "touch recovery-ended".to_owned()),
    ];
    let lines: Vec<String> =
        leftovers.iter().map(|(name, value)| format!("{name} = '{value}'")).collect();
    append(&conf, &lines);
    site.backup();
    fs::write(&conf, own).unwrap();
    site.cluster.stop(Stop::Fast);
    publisher.wait_until(&format!("not {is_active}"));

    let scratch = ScratchDir::new("copy");
    let to = scratch.join("data");
    site.restore(&to, &[]);
    let text = fs::read_to_string(to.join("postgresql.conf")).unwrap();
    assert!(text.ends_with(&format!("{}\n", lines.join("\n"))), "the leftovers came along: {text}");
    let copy = started(&server, &to);
    for (name, _) in leftovers {
        assert_eq!(copy.psql(&format!("show {name}")), "", "{name}");
    }
    assert_eq!(copy.psql("select subenabled from pg_subscription"), "t");
    publisher.psql("insert into t values (2)");
    let position = "select confirmed_flush_lsn from pg_replication_slots where slot_name = 's'";
    let before = publisher.psql(position);
    // A commit, which waits for no standby, and more than a launcher needs.
    copy.psql("create table written as select 1 n; select pg_sleep(5)");
    let workers = "select count(*) from pg_stat_activity where backend_type like 'logical rep%'";
    assert_eq!(copy.psql(workers), "0");
    assert_eq!(copy.psql("select count(*) from t"), "1");
    assert_eq!(publisher.psql(&format!("select {is_active}")), "f");
    assert_eq!(publisher.psql(position), before);
    for touched in ["cleaned-up", "recovery-ended"] {
        assert!(!to.join(touched).exists(), "{touched}");
    }
    // The source's rows are still there for it, with the copy beside it.
    site.cluster.start();
    site.cluster.wait_until("(select count(*) from t) = 2");
    assert_eq!(copy.psql("select count(*) from t"), "1");
}

/// What is left of the source's own recovery in its `postgresql.conf` is no target of its copies.
#[test]
fn f026_leftover_targets_of_the_source_do_not_count() {
    for server in Server::all() {
        let major = server.version();
        let launch = TestCluster::create(&server)
            .wal_segment_mib(1)
            .setting("recovery_target_xid", "4000000")
            .setting("recovery_target_inclusive", "off")
            .setting("recovery_target_action", "shutdown")
            .setting("recovery_target_timeline", "current")
            .setting("recovery_min_apply_delay", "1h");
        let site = Site::start(launch);
        site.cluster.psql("create table t (n int)");
        site.backup();
        site.cluster.psql("insert into t values (1)");
        let lsn = site.cluster.psql("select pg_current_wal_insert_lsn()");
        let time = site.cluster.psql("select clock_timestamp()");
        site.cluster.psql("select pg_create_restore_point('here'); insert into t values (2)");
        site.cluster.archive_now();
        for (target, rows) in [
            (&["--target-lsn", lsn.as_str()][..], "1"),
            (&["--target-time", &time], "1"),
            (&["--target-name", "here"], "1"),
            (&[], "2"),
        ] {
            let scratch = ScratchDir::new("copy");
            let to = scratch.join("data");
            site.restore(&to, target);
            let copy = started(&server, &to);
            assert_eq!(copy.psql("select count(*) from t"), rows, "{major} {target:?}");
            let shown = "select current_setting('recovery_target_xid') || \
                         current_setting('recovery_min_apply_delay')";
            assert_eq!(copy.psql(shown), "0", "{major} {target:?}");
            copy.stop(Stop::Immediate);
        }
    }
}

/// "latest" means what the plan saw: a timeline that begins between the restore and the start belongs to
/// another copy.
#[test]
fn f026_latest_is_resolved_when_it_is_planned() {
    let Some(server) = Server::main() else { return };
    let site = restore_live::Site::new(&server);
    site.config.run(["backup"]).assert_ok();
    site.cluster.psql("insert into t values (1)");
    site.cluster.archive_now();
    site.cluster.stop(Stop::Fast);
    let archiving = ["--archive", "on", "--target-action", "promote"];
    let goes_on = |name: &str, n: u32| {
        let (copy, _) = site.restored(name, &archiving);
        copy.psql(&format!("insert into t values ({n})"));
        let segment = copy.archive_now();
        copy.stop(Stop::Fast);
        segment
    };
    assert!(goes_on("second", 20).starts_with("00000002"));
    site.restore("copy", &["--target-action", "promote"]).assert_ok();
    assert!(goes_on("third", 30).starts_with("00000003"));
    let copy = started(&server, &site.to("copy"));
    assert_eq!(copy.psql("select string_agg(n::text, ',' order by n) from t"), "1,20");
    assert_eq!(copy.psql("show recovery_target_timeline"), "2");
    let own = copy.switch_wal();
    assert!(own.starts_with("00000004"), "it does not take the other's timeline: {own}");
}
