//! What a restore's plan says, on real clusters: windows and holes, what cannot be reached and what can
//! instead, what is lost, what is missing to start; and that all of it holds when it is carried out.

use std::fs;
use std::process::Command;
use std::time::Instant;

use crate::support::planned::{Planned, later, objects};
use crate::support::run::{DEADLINE, run, start, wait_until};
use crate::support::site::{Site, json, started};
use crate::support::{Server, Stop, TestCluster};

#[test]
fn f068_a_hole_divides_the_windows_and_its_edges_are_reached() {
    let Some(server) = Server::main() else { return };
    let planned = Planned::new(&server);
    let first = planned.site.backup();
    planned.insert(1);
    planned.site.cluster.archive_now();
    planned.insert(2);
    let missing = planned.site.cluster.archive_now();
    let in_hole = planned.now();
    let in_hole_lsn = planned.lsn();
    planned.insert(3);
    planned.site.cluster.archive_now();
    let second = planned.site.backup();
    planned.insert(4);
    planned.site.cluster.archive_now();
    planned.remove_object(&missing);

    let plan = planned.plan(&[]);
    let windows = plan["windows"].as_array().unwrap();
    let backups: Vec<_> = windows.iter().map(|window| window["backup"].as_str().unwrap()).collect();
    assert_eq!(backups, [first.as_str(), second.as_str()], "{plan}");
    assert!(windows.iter().all(|window| window["timeline"] == 1), "{plan}");
    assert_eq!(plan["holes"].as_array().unwrap().len(), 1, "{plan}");
    assert_eq!(
        (&plan["holes"][0]["first"], &plan["holes"][0]["segments"]),
        (&missing.as_str().into(), &1.into())
    );
    assert_eq!((&plan["backup"], &plan["timeline"]), (&second.as_str().into(), &1.into()));

    // In the hole: both edges, by time and by position, and each is reached.
    let error = planned.refused(&["--target-time", &in_hole]);
    assert!(error["message"].as_str().unwrap().contains(&missing), "{error}");
    let near = error["nearest"].as_array().unwrap();
    assert_eq!(
        (&near[0]["side"], &near[1]["side"]),
        (&"before".into(), &"after".into()),
        "{error}"
    );
    assert_eq!((&near[0]["time"], &near[1]["time"]), (&windows[0]["to"], &windows[1]["from"]));
    assert_eq!(error["windows"].as_array().unwrap().len(), 2, "{error}");
    for edge in near {
        let time = later(&edge["time"], 0);
        assert!(error["hint"].as_str().unwrap().contains("--target-time '20"), "{error}");
        let expected = if edge["side"] == "before" { "1" } else { "1,2,3" };
        let name = edge["side"].as_str().unwrap();
        assert_eq!(planned.rows(name, &["--target-time", &time]), expected);
    }
    let error = planned.refused(&["--target-lsn", &in_hole_lsn]);
    assert!(error["message"].as_str().unwrap().contains(&missing), "{error}");
    for edge in error["nearest"].as_array().unwrap() {
        let expected = if edge["side"] == "before" { "1" } else { "1,2,3" };
        let name = format!("lsn-{}", edge["side"].as_str().unwrap());
        let lsn = edge["lsn"].as_str().unwrap();
        assert_eq!(planned.rows(&name, &["--target-lsn", lsn]), expected, "{edge}");
    }
    // The end of the WAL, from the backup before the hole.
    let error = planned.refused(&["--backup", &first]);
    assert!(error["message"].as_str().unwrap().contains(&missing), "{error}");
    assert_eq!(error["nearest"][0]["time"], windows[0]["to"]);
    // What is behind the hole is lost, and nobody knows how much was in it.
    let lost = &planned.plan(&["--target-time", &later(&windows[0]["to"], 0)])["lost"];
    assert!(lost["commits_at_least"].as_u64().unwrap() >= 2, "{lost}");
    assert!(lost["commits_at_most"].is_null(), "{lost}");
}

#[test]
fn f068_what_is_before_and_behind_everything_is_refused_with_the_other_side() {
    let Some(server) = Server::main() else { return };
    let planned = Planned::new(&server);
    planned.site.cluster.archive_now();
    let (early, early_lsn) = (planned.now(), planned.lsn());
    planned.site.cluster.psql("select pg_create_restore_point('early')");
    planned.site.backup();
    planned.insert(1);
    planned.site.cluster.archive_now();
    let window = planned.plan(&[])["windows"][0].clone();
    for target in [["--target-time", &early], ["--target-lsn", &early_lsn]] {
        let error = planned.refused(&target);
        assert!(error["message"].as_str().unwrap().contains("first consistent point"), "{error}");
        assert_eq!(error["nearest"][0]["side"], "after", "{error}");
        assert_eq!(error["nearest"][0]["time"], window["from"], "{error}");
    }
    let far = ["--target-time", "2999-01-01 00:00:00+00"];
    let error = planned.refused(&far);
    assert!(error["message"].as_str().unwrap().contains("in the future"), "{error}");
    assert_eq!(error["nearest"][0]["time"], window["to"], "{error}");
    let end = planned.site.cluster.psql("select pg_current_wal_insert_lsn() + 100000000");
    let error = planned.refused(&["--target-lsn", &end]);
    assert!(error["message"].as_str().unwrap().contains("after the end of the archive"), "{error}");
    assert_eq!(error["nearest"][0]["lsn"], window["to_lsn"], "{error}");
    for target in [["--target-name", "early"], ["--target-name", "x"], ["--target-xid", "400000"]] {
        let error = planned.refused(&target);
        assert_eq!(error["nearest"][0]["time"], window["to"], "{error}");
    }
    assert!(!planned.copies.join("asked").exists());
}

#[test]
fn f068_an_idle_cluster_s_now_is_reached_once_its_wal_is_archived() {
    let Some(server) = Server::main() else { return };
    let planned = Planned::new(&server);
    planned.site.backup();
    planned.insert(1);
    planned.site.cluster.archive_now();
    let now = planned.now();
    let plan = planned.plan_soon(&["--target-time", &now]);
    let told = plan["warnings"].to_string();
    assert!(told.contains("nothing was committed up to"), "{plan}");
    assert!(plan["lost"].is_null(), "{plan}");
    // What an idle server writes by itself is no commit; the archive does not have it.
    planned.site.cluster.psql("checkpoint");
    let after_checkpoint = planned.now();
    planned.plan_soon(&["--target-time", &after_checkpoint]);
    let future = planned.site.cluster.psql("select clock_timestamp() + '1 hour'");
    planned.refused(&["--target-time", &future]);

    // WAL that is not archived could hold anything.
    planned.insert(2);
    let error = planned.refused(&["--target-time", &planned.now()]);
    assert!(error["message"].as_str().unwrap().contains("not all of it is archived"), "{error}");
    assert!(error["hint"].as_str().unwrap().contains("SELECT pg_switch_wal()"), "{error}");
    // Before the commit, the archive still proves nothing: the server has more to say.
    planned.refused(&["--target-time", &now]);
    planned.site.cluster.archive_now();
    let idle = planned.now();
    let args = ["--target-time", idle.as_str()];
    assert_eq!(planned.plan_soon(&args)["timeline"], 1);

    // What is committed and archived later is not replayed.
    let to = planned.copies.join("idle");
    planned.site.restore(&to, &args);
    planned.insert(3);
    planned.site.cluster.archive_now();
    let copy = started(&server, &to);
    assert_eq!(copy.psql("select string_agg(n::text, ',' order by n) from t"), "1,2");
    // Later WAL proves it without asking the server.
    planned.site.cluster.stop(Stop::Fast);
    assert_eq!(planned.rows("then", &["--target-time", &now]), "1");
}

/// The backup has pages of that moment, and pages that are older and newer.
#[test]
fn f068_a_moment_within_the_backup_is_refused() {
    let Some(server) = Server::main() else { return };
    let planned = Planned::new(&server);
    planned.insert(1);
    let cluster = &planned.site.cluster;
    let running = start(&mut planned.site.config.pgkeep(["backup", "--max-rate", "4MiB"]));
    let copies = "exists (select from pg_stat_activity where state = 'idle' \
                  and application_name like 'pgkeep backup 2%' \
                  and now() - state_change > interval '300 milliseconds')";
    cluster.wait_until(copies);
    planned.insert(2);
    let (time, lsn) = (planned.now(), planned.lsn());
    planned.insert(3);
    assert_eq!(cluster.psql(&format!("select {copies}")), "t", "it still copies");
    running.wait().assert_ok();
    planned.insert(4);
    let after = planned.now();
    planned.insert(5);
    cluster.archive_now();
    for target in [["--target-time", time.as_str()], ["--target-lsn", &lsn]] {
        let told = planned.refused(&target);
        let message = told["message"].as_str().unwrap();
        assert!(message.contains("before"), "{message}");
    }
    assert_eq!(planned.rows("after", &["--target-time", &after]), "1,2,3,4");
    assert_eq!(planned.rows("immediate", &["--target-immediate"]), "1,2,3");
}

/// Segments this large are not read for a plan: what was found when they were stored must do.
#[test]
fn f016_segments_of_128_mib_are_archived_planned_and_restored() {
    let Some(server) = Server::main() else { return };
    let launch = TestCluster::create(&server).wal_segment_mib(128);
    let planned = Planned::from_site(&server, Site::start(launch));
    let cluster = &planned.site.cluster;
    planned.site.backup();
    planned.insert(1);
    let fill = "select count(pg_logical_emit_message(false, 'x', repeat('x', 1000000))) \
                from generate_series(1, 70)";
    cluster.psql(fill);
    let time = planned.now();
    planned.insert(2);
    cluster.psql("select pg_create_restore_point('here')");
    planned.insert(3);
    let lsn = planned.lsn();
    planned.insert(4);
    let segment = cluster.archive_now();
    planned.insert(5);
    cluster.archive_now();
    let found =
        objects(planned.site.repo.path()).into_iter().filter(|path| path.ends_with(&segment));
    assert_eq!(found.count(), 1, "{segment}");
    for (target, rows) in [
        (&["--target-time", time.as_str()][..], "1"),
        (&["--target-name", "here"], "1,2"),
        (&["--target-lsn", &lsn], "1,2,3"),
        (&[], "1,2,3,4,5"),
    ] {
        let name = target.first().map_or("latest", |name| name.trim_start_matches('-'));
        assert_eq!(planned.rows(name, target), rows, "{target:?}");
    }
    planned.refused(&["--target-time", "2999-01-01 00:00:00+00"]);
}

#[test]
fn a_position_after_the_last_record_is_the_end() {
    let Some(server) = Server::main() else { return };
    let planned = Planned::new(&server);
    planned.site.backup();
    planned.insert(1);
    planned.site.cluster.archive_now();
    // The next record would begin here: the server would wait for it in vain.
    let end = planned.lsn();
    let args = ["--target-lsn", end.as_str()];
    assert!(planned.plan(&args)["lost"].is_null());
    assert_eq!(planned.rows("end", &args), "1");
    assert_eq!(planned.rows("exclusive", &["--target-lsn", &end, "--target-exclusive"]), "1");
}

#[test]
pub(crate) fn what_is_lost_is_counted_exactly_for_every_kind_of_target() {
    let Some(server) = Server::main() else { return };
    let planned = Planned::new(&server);
    planned.site.backup();
    planned.insert(1);
    let (time, lsn) = (planned.now(), planned.lsn());
    let begun = Instant::now();
    let xid = "begin; insert into t values (2); select pg_current_xact_id(); commit";
    let xid = planned.site.cluster.psql(xid);
    planned.insert(3);
    planned.site.cluster.psql("select pg_create_restore_point('between'); select pg_sleep(2.1)");
    (4..=6).for_each(|n| planned.insert(n));
    planned.site.cluster.archive_now();
    (7..=9).for_each(|n| planned.insert(n));
    let lasts = begun.elapsed().as_secs();
    planned.site.cluster.archive_now();
    let xid = xid.trim();
    for (args, expected) in [
        (&["--target-time", time.as_str()][..], 8),
        (&["--target-lsn", &lsn, "--target-exclusive"], 8),
        (&["--target-xid", xid], 7),
        (&["--target-xid", xid, "--target-exclusive"], 8),
        (&["--target-name", "between"], 6),
        (&["--target-immediate"], 9),
    ] {
        let plan = planned.plan(args);
        let lost = &plan["lost"];
        assert_eq!(lost["commits_at_least"], expected, "{args:?} {plan}");
        assert_eq!(lost["commits_at_most"], expected, "{args:?} {plan}");
        // From the target's last commit, before two seconds of nothing, to the last of all.
        let slack = if args[0] == "--target-immediate" { 60 } else { 2 };
        let seconds = lost["seconds"].as_u64().unwrap();
        assert!((2..=lasts + slack).contains(&seconds), "{lasts} {args:?} {plan}");
        assert!(lost["from"].as_str() <= lost["until"].as_str(), "{args:?} {plan}");
    }
    assert!(planned.plan(&[])["lost"].is_null());
    // A name that was used again means its newest use.
    planned.site.cluster.psql("select pg_create_restore_point('between')");
    planned.insert(10);
    planned.site.cluster.archive_now();
    let first_use = planned.plan(&["--target-name", "between"]);
    assert_eq!(first_use["lost"]["commits_at_least"], 7, "from one backup the first is met");
    // One just before the backup, in its first segment, is not what recovery from it meets.
    planned.site.cluster.psql("select pg_create_restore_point('between')");
    let second = planned.site.backup();
    planned.site.cluster.psql("select pg_create_restore_point('between')");
    planned.insert(11);
    planned.site.cluster.archive_now();
    let newest = planned.plan(&["--target-name", "between"]);
    assert_eq!(
        (&newest["backup"], &newest["lost"]["commits_at_most"]),
        (&second.as_str().into(), &1.into())
    );
}

#[test]
fn a_transaction_that_ended_elsewhere_is_not_taken_for_one_that_is_there() {
    let Some(server) = Server::main() else { return };
    let launch = TestCluster::create(&server).wal_segment_mib(1);
    let site = Site::start(launch.setting("max_prepared_transactions", "2"));
    let planned = Planned::from_site(&server, site);
    let cluster = &planned.site.cluster;
    // The oldest transaction ends last, so that the range of its segment covers all the others.
    cluster.psql("begin; insert into t values (1); prepare transaction 'old'");
    let gone = cluster.psql("begin; insert into t values (2); select pg_current_xact_id(); commit");
    planned.site.backup();
    cluster.psql("commit prepared 'old'");
    planned.insert(3);
    cluster.archive_now();
    let error = planned.refused(&["--target-xid", gone.trim()]);
    assert!(error["message"].as_str().unwrap().contains("holds no transaction"), "{error}");
}

#[test]
fn targets_are_found_on_the_history_that_is_followed() {
    let Some(server) = Server::main() else { return };
    let planned = Planned::new(&server);
    planned.site.backup();
    planned.insert(1);
    let fork = planned.now();
    planned.site.cluster.psql("select pg_sleep(0.01)");
    planned.insert(2);
    planned.site.cluster.psql("select pg_create_restore_point('abandoned')");
    planned.site.cluster.archive_now();
    planned.site.cluster.stop(Stop::Fast);
    let to = planned.copies.join("second");
    planned.site.restore(&to, &["--archive", "on", "--target-time", &fork]);
    let second = started(&server, &to);
    second.psql("insert into t values (20)");
    second.psql("select pg_create_restore_point('followed')");
    second.archive_now();

    let plan = planned.plan(&["--target-name", "followed"]);
    assert_eq!(plan["timeline"], 2, "{plan}");
    let timelines: Vec<_> = plan["windows"].as_array().unwrap().iter().collect();
    let timelines: Vec<_> = timelines.iter().map(|window| window["timeline"].as_u64()).collect();
    assert_eq!(timelines, [Some(2), Some(1)], "{plan}");
    planned.refused(&["--target-name", "abandoned"]);
    let old = planned.plan(&["--target-name", "abandoned", "--target-timeline", "1"]);
    assert!(old["warnings"].to_string().contains("timeline 2 (at 0/"), "{old}");
    planned.refused(&["--target-name", "followed", "--target-timeline", "1"]);
    assert_eq!(planned.rows("followed", &["--target-name", "followed"]), "1,20");
}

/// The newest timeline may have its history in the archive and no WAL yet. The server then takes the
/// ancestor's segment, and would replay what its new history has left behind.
#[test]
fn a_timeline_without_wal_of_its_own_ends_where_it_begins() {
    let Some(server) = Server::main() else { return };
    let planned = Planned::new(&server);
    planned.site.backup();
    planned.insert(1);
    let fork = planned.now();
    planned.site.cluster.psql("select pg_sleep(0.01)");
    planned.insert(2);
    let abandoned = planned.now();
    planned.site.cluster.archive_now();
    planned.site.cluster.stop(Stop::Fast);
    let to = planned.copies.join("second");
    planned.site.restore(&to, &["--archive", "on", "--target-time", &fork]);
    let second = started(&server, &to);
    let has_history = || {
        let objects = objects(planned.site.repo.path());
        objects.iter().any(|path| path.ends_with("history/00000002"))
    };
    wait_until(DEADLINE, has_history, || second.log());
    second.stop(Stop::Immediate);

    let plan = planned.plan(&[]);
    assert_eq!(plan["timeline"], 2, "{plan}");
    assert!(
        plan["warnings"].to_string().contains("no WAL of timeline 2 is archived yet"),
        "{plan}"
    );
    planned.refused(&["--target-time", &abandoned]);
    planned.ask(&["--standby"]).assert_code(1).assert_says("is not archived yet");
    assert_eq!(planned.rows("latest", &[]), "1");
    assert_eq!(planned.rows("first", &["--target-timeline", "1"]), "1,2");
}

#[test]
fn the_ends_are_exact_on_every_major() {
    for server in Server::all() {
        let planned = Planned::new(&server);
        planned.site.backup();
        planned.insert(1);
        planned.insert(2);
        planned.site.cluster.archive_now();
        planned.site.cluster.psql("select pg_sleep(0.05)");
        let (now, end) = (planned.now(), planned.lsn());
        let window = &planned.plan_soon(&["--target-time", &now])["windows"][0];
        let before = later(&window["to"], -1);
        for (name, args, expected) in [
            ("now", ["--target-time", now.as_str()], "1,2"),
            ("last", ["--target-time", &later(&window["to"], 0)], "1,2"),
            ("before", ["--target-time", &before], "1"),
            ("end", ["--target-lsn", &end], "1,2"),
        ] {
            assert_eq!(planned.rows(name, &args), expected, "{name} on {}", server.version());
        }
        let lost = &planned.plan(&["--target-time", &before])["lost"];
        assert_eq!((&lost["commits_at_least"], &lost["commits_at_most"]), (&1.into(), &1.into()));
        planned.insert(3);
        planned.refused(&["--target-time", &planned.now()]);
    }
}

#[test]
fn the_plan_says_which_programs_and_libraries_are_needed_and_what_to_run() {
    let Some(server) = Server::main() else { return };
    let launch = TestCluster::create(&server).wal_segment_mib(1);
    let launch = launch.setting("shared_preload_libraries", "auto_explain, pg_stat_statements");
    let mut planned = Planned::from_site(&server, Site::start(launch));
    planned.site.backup();
    planned.site.cluster.archive_now();
    let plan = planned.plan(&[]);
    let programs = &plan["programs"];
    assert_eq!(programs["preload_libraries"].as_array().unwrap().len(), 2, "{plan}");
    assert_eq!(programs["missing_libraries"].as_array().unwrap().len(), 0, "{plan}");
    assert_eq!(programs["bin_directory"], server.bin().display().to_string(), "{plan}");
    let running = planned.site.cluster.psql("show server_version");
    assert!(running.starts_with(programs["version"].as_str().unwrap()), "{plan}");
    assert!(plan["space"][0]["data"] == plan["bytes"], "{plan}");
    assert!(plan["space"][0]["free"].as_u64().unwrap() > 0, "{plan}");

    // The dry run, the JSON and the restore say the same, and the first command starts the server.
    let to = planned.copies.join("asked");
    let text = planned.site.config.run(["restore", "--dry-run", "--to", to.to_str().unwrap()]);
    let text = text.assert_ok();
    let next: Vec<_> =
        plan["next"].as_array().unwrap().iter().map(|next| next.as_str().unwrap()).collect();
    assert!(next.iter().all(|command| text.stdout.contains(command)), "{text}");
    let done = planned.site.restore(&to, &[]);
    assert!(next.iter().all(|command| done.stdout.contains(command)), "{done}");
    let settings = format!(
        "port = 5432\nunix_socket_directories = '{0}'\nlisten_addresses = ''\n",
        planned.copies.path().display()
    );
    let configuration = to.join("postgresql.auto.conf");
    let before = fs::read_to_string(&configuration).unwrap();
    let mut shell = planned.site.cluster.command("sh");
    let append = ["-c", "printf '%s' \"$1\" >> \"$2\"", "sh", &settings];
    run(shell.args(append).arg(&configuration)).assert_ok();
    assert!(fs::read_to_string(&configuration).unwrap().len() > before.len());
    let mut shell = planned.site.cluster.command("sh");
    run(shell.args(["-c", next[0]])).assert_ok();
    let copy = TestCluster::adopt(&server, &to).prepare();
    assert!(copy.is_running());
    copy.stop(Stop::Fast);

    // Root is told to start it as the owner of its files.
    if rustix::process::geteuid().is_root() {
        let mut command = Command::new(planned.copies.pgkeep_binary());
        command.arg("--config").arg(planned.site.config.path());
        command.args(["restore", "--dry-run", "--json", "--to"]).arg(planned.copies.join("root"));
        let plan = json(&run(&mut command).assert_ok().stdout);
        let start = plan["plan"]["next"][0].as_str().unwrap();
        assert!(start.starts_with("setpriv --reuid="), "{start}");
    }

    // Elsewhere the same backup meets nothing.
    let empty = planned.copies.create_dir("empty");
    let text = fs::read_to_string(planned.site.config.path()).unwrap();
    let named = format!("[cluster.main]\nbin_directory = \"{}\"\n", empty.display());
    let text = text.replace("[cluster.main]\n", &named);
    planned.site.config = planned.site.config.replaced(&text);
    fs::remove_dir_all(&to).unwrap();
    let plan = planned.plan(&[]);
    assert!(plan["programs"]["bin_directory"].is_null(), "{plan}");
    assert!(plan["warnings"].to_string().contains("PostgreSQL 15 was not found here"), "{plan}");
    assert!(plan["next"][0].as_str().unwrap().starts_with("pg_ctl start "), "{plan}");
}
