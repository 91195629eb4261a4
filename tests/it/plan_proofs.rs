//! What a restore's plan takes for proven, on real clusters: a moment is reached when the archive, or the
//! server, proves it, and not because somebody's clock was there.

use std::fs;

use pgkeep::pg::wal::{Reader, SegmentHeader, Xact};
use serde_json::Value;

use crate::support::planned::{Planned, later};
use crate::support::site::{json, started};
use crate::support::{Server, Stop, TestCluster};

/// A backup's end by the server's clock was taken for a moment that the archive proves. On a busy
/// server whose archive stopped then, 159 commits older than it were missing, and "nothing" was lost.
#[test]
fn d20261124_a_backup_s_end_by_the_clock_proves_nothing() {
    let Some(server) = Server::main() else { return };
    let planned = Planned::new(&server);
    planned.insert(1);
    let id = planned.site.backup();
    let shown = json(&planned.site.config.run(["info", "--json"]).assert_ok().stdout);
    let window = shown["repositories"][0]["windows"][0].clone();
    assert_eq!((&window["only_end"], &window["to"]), (&true.into(), &window["from"]), "{window}");
    let finished = later(&window["to"], 0);
    // The server itself can prove it as long as it is idle.
    planned.plan_soon(&["--target-time", &finished]);

    planned.site.cluster.set_archive_command("false");
    planned.insert(2);
    planned.site.cluster.stop(Stop::Fast);
    let told = planned.site.config.run(["info"]).assert_ok();
    assert!(told.stdout.contains(&format!("restore the end of backup {id}")), "{told}");
    let error = planned.refused(&["--target-time", &finished]);
    assert!(error["message"].as_str().unwrap().contains("is not proven"), "{error}");
    assert_eq!(
        (&error["nearest"][0]["side"], &error["nearest"][0]["end_of"]),
        (&"before".into(), &id.as_str().into())
    );
    let next = format!("--backup {id} --target-immediate");
    assert!(error["hint"].as_str().unwrap().contains(&next), "{error}");
    assert_eq!(planned.rows("end", &["--backup", &id, "--target-immediate"]), "1");
}

/// What `info` shows of the only repository.
#[track_caller]
fn shown(planned: &Planned) -> Value {
    json(&planned.site.config.run(["info", "--json"]).assert_ok().stdout)["repositories"][0].take()
}

/// A copy that went back to `time` and opened for writing, with its archiving on.
fn branch(planned: &Planned, time: &str) -> TestCluster {
    let to = planned.copies.join("branch");
    planned.site.restore(&to, &["--archive", "on", "--target-time", time]);
    let branch = started(&planned.server, &to);
    branch.psql("insert into t values (100)");
    branch.archive_now();
    branch
}

/// A copy that was promoted with its archiving on is the newest timeline, and every restore followed it
/// without a word: "lost: nothing", while production went on elsewhere, and what only production had was
/// refused. Once the backup before the fork was gone, "nothing" could be restored.
#[test]
fn d20261124_a_dead_side_branch_does_not_win_silently() {
    let Some(server) = Server::main() else { return };
    let planned = Planned::new(&server);
    let cluster = &planned.site.cluster;
    let first = planned.site.backup();
    planned.insert(1);
    let fork = planned.now();
    cluster.psql("select pg_sleep(0.01)");
    planned.insert(2);
    cluster.archive_now();
    branch(&planned, &fork).stop(Stop::Fast);
    planned.insert(3);
    let time = planned.now();
    cluster.psql("select pg_sleep(0.01); select pg_create_restore_point('release')");
    let xid = cluster.psql("begin; insert into t values (4); select pg_current_xact_id(); commit");
    cluster.archive_now();
    cluster.stop(Stop::Fast);

    let plan = planned.plan(&[]);
    assert_eq!(plan["timeline"], 2, "{plan}");
    let told = plan["warnings"].to_string();
    assert!(told.contains("timeline 1 goes on later than timeline 2: 3 commits"), "{told}");
    assert!(told.contains("--target-timeline 1"), "{told}");
    let lost = &plan["lost"];
    assert_eq!((&lost["commits_at_least"], &lost["commits_at_most"]), (&3.into(), &3.into()));
    let named = planned.plan(&["--target-timeline", "1"]);
    assert!(named["lost"].is_null(), "{named}");
    assert!(!named["warnings"].to_string().contains("goes on later"), "{named}");

    for target in
        [["--target-time", &time], ["--target-name", "release"], ["--target-xid", xid.trim()]]
    {
        let error = planned.refused(&target);
        let near = &error["nearest"][0];
        assert_eq!((&near["side"], &near["timeline"]), (&"exact".into(), &1.into()), "{error}");
        let hint = error["hint"].as_str().unwrap();
        assert!(hint.contains("Ask for the same with --target-timeline 1"), "{error}");
    }
    let args = ["--target-time", &time, "--target-timeline", "1"];
    assert_eq!(planned.rows("production", &args), "1,2,3");
    let windows = shown(&planned)["windows"].clone();
    let ends: Vec<_> = windows.as_array().unwrap().iter().map(|w| w["timeline"].as_u64()).collect();
    assert!(ends.contains(&Some(1)) && ends.contains(&Some(2)), "{windows}");

    // Only production's own backup is left: nothing leads to the branch.
    cluster.start();
    let second = planned.site.backup();
    planned.insert(5);
    cluster.archive_now();
    let told = planned.plan(&[])["warnings"].to_string();
    assert!(told.contains(&format!("the newest backup, {second}, is of timeline 1")), "{told}");
    planned.remove_object(&format!("backup/{first}"));
    let error = planned.refused(&[]);
    assert_eq!(error["nearest"][0]["timeline"], 1, "{error}");
    assert!(error["hint"].as_str().unwrap().contains("--target-timeline 1"), "{error}");
    let verdict = shown(&planned)["verdict"].as_str().unwrap().to_owned();
    assert!(verdict.starts_with("You can restore any moment"), "{verdict}");
}

/// After a recovery to the moment after row 1, a moment between rows 2 and 3 of the timeline that was left was
/// planned on the new one without a word that row 2 is not there.
#[test]
fn d20261124_a_moment_in_an_abandoned_stretch_is_told() {
    let Some(server) = Server::main() else { return };
    let planned = Planned::new(&server);
    let cluster = &planned.site.cluster;
    planned.site.backup();
    planned.insert(1);
    let fork = planned.now();
    cluster.psql("select pg_sleep(0.01)");
    planned.insert(2);
    let time = planned.now();
    cluster.psql("select pg_sleep(0.01)");
    planned.insert(3);
    cluster.archive_now();
    cluster.stop(Stop::Fast);
    branch(&planned, &fork).stop(Stop::Fast);

    let target = ["--target-time", time.as_str()];
    let plan = planned.plan(&target);
    assert_eq!(plan["timeline"], 2, "{plan}");
    let told = plan["warnings"].to_string();
    assert!(told.contains("1 commit up to the target is on timeline 1 only"), "{told}");
    assert!(told.contains("--target-timeline 1 has them"), "{told}");
    let told = planned.plan(&["--target-time", &fork])["warnings"].to_string();
    assert!(!told.contains("up to the target"), "{told}");
    let first = ["--target-time", &time, "--target-timeline", "1"];
    let told = planned.plan(&first)["warnings"].to_string();
    assert!(!told.contains("up to the target"), "{told}");
    assert_eq!(planned.rows("followed", &target), "1");
    assert_eq!(planned.rows("first", &first), "1,2");
}

/// A segment whose object cannot be authenticated counted as present: moments up to its end, "now" and the
/// end of the WAL were planned, and the server died at it after the restore.
#[test]
fn d20261124_a_damaged_last_segment_is_a_hole() {
    let Some(server) = Server::main() else { return };
    let planned = Planned::new(&server);
    let cluster = &planned.site.cluster;
    planned.site.backup();
    planned.insert(1);
    cluster.archive_now();
    planned.insert(2);
    cluster.archive_now();
    let before = shown(&planned)["windows"][0]["to"].clone();
    planned.insert(3);
    let segment = cluster.archive_now();
    let now = planned.now();
    planned.plan_soon(&["--target-time", &now]);
    let last = shown(&planned)["windows"][0]["to"].clone();
    let object = planned.object(&segment);
    let mut bytes = fs::read(&object).unwrap();
    bytes[250] ^= 1;
    fs::write(&object, bytes).unwrap();

    let damaged = format!("{segment} is damaged");
    for args in [&[][..], &["--target-time", &now], &["--target-time", &later(&last, 0)]] {
        let error = planned.refused(args);
        assert!(error["message"].as_str().unwrap().contains(&damaged), "{error}");
        assert_eq!(later(&error["nearest"][0]["time"], 0), later(&before, 0), "{error}");
    }
    let window = shown(&planned)["windows"][0].clone();
    assert_eq!(later(&window["to"], 0), later(&before, 0), "{window}");
    let args = ["--target-time", &later(&before, 0)];
    let told = planned.plan(&args)["warnings"].to_string();
    assert!(told.contains(&damaged) && told.contains(&format!("/{segment}")), "{told}");
    assert_eq!(planned.rows("before", &args), "1,2");
}

/// SQL that leaves `left` bytes of the current segment of 1 MiB, and nothing between itself and what follows.
pub(crate) fn fill_all_but(left: u32) -> String {
    let room = "1048576 - (pg_current_wal_insert_lsn() - '0/0'::pg_lsn)::bigint % 1048576";
    let message = 24 + 5 + 24 + 2;
    format!(
        "do $$ declare room int; begin
         room := {room};
         perform pg_logical_emit_message(false, 'x', repeat('m', room - 5000));
         room := {room};
         perform pg_logical_emit_message(false, 'x', repeat('m', room - {}));
         end $$",
        message + left
    )
}

/// A record that goes on in the next segment is in the findings of neither: a restore point there was
/// nowhere, and whether a transaction ended there was not known.
#[test]
fn d20261124_records_on_a_boundary_are_found() {
    let Some(main) = Server::main() else { return };
    for server in Server::all() {
        let planned = Planned::new(&server);
        let cluster = &planned.site.cluster;
        planned.site.backup();
        planned.insert(1);
        cluster.archive_now();
        // Of the restore point's 98 bytes, and of the commit's 34 and more.
        let end =
            cluster.psql(&format!("{}; select pg_create_restore_point('edge')", fill_all_but(48)));
        assert_eq!(offset(&end), 40 + 56, "{end}: it does not lie on the boundary");
        let point = ["--target-name", "edge"];
        cluster.archive_now();
        let commit = "begin; insert into t values (2); select pg_current_xact_id()";
        let xid = cluster.psql(&format!("{commit}; {}; commit", fill_all_but(16)));
        let xid = xid.trim();
        planned.insert(3);
        cluster.archive_now();
        cluster.stop(Stop::Fast);
        for (name, args, expected) in [
            ("point", &point[..], "1"),
            ("xid", &["--target-xid", xid], "1,2"),
            ("before", &["--target-xid", xid, "--target-exclusive"], "1"),
        ] {
            let plan = planned.plan(args);
            let (least, most) =
                (&plan["lost"]["commits_at_least"], &plan["lost"]["commits_at_most"]);
            assert!(least.is_u64() && most.is_u64(), "{name} on {}: {plan}", server.version());
            if server.version() == main.version() {
                assert_eq!(planned.rows(name, args), expected, "{name}");
            }
        }
    }
}

/// How far into its segment of 1 MiB a position is.
fn offset(lsn: &str) -> u64 {
    let low = lsn.trim().split_once('/').unwrap().1;
    u64::from_str_radix(low, 16).unwrap() % (1 << 20)
}

/// The clock was set back after row 1. A moment between the two times was planned as "nothing was committed
/// after it", with a position that the server replays up to; told the moment, it stops before row 1.
#[test]
fn d20261124_a_clock_that_was_set_back_is_met_as_the_server_meets_it() {
    let Some(server) = Server::main() else { return };
    let planned = Planned::new(&server);
    let cluster = &planned.site.cluster;
    planned.site.backup();
    cluster.set_archive_command("false");
    planned.insert(1);
    let segment = cluster.switch_wal();
    let file = cluster.data_dir().join("pg_wal").join(&segment);
    let bytes = fs::read(&file).unwrap();
    fs::write(&file, hour_later(bytes)).unwrap();
    planned.insert(2);
    cluster.set_archive_command(&planned.site.config.archive_command());
    cluster.archive_now();
    let now = planned.now();
    let args = ["--target-time", now.as_str()];
    let plan = planned.plan_soon(&args);
    assert!(plan["warnings"].to_string().contains("the clock was set back"), "{plan}");
    assert_eq!(plan["lost"]["commits_at_least"], 2, "{plan}");
    assert_eq!(planned.rows("now", &args), "");
}

/// A segment whose commits say that they were made an hour later.
fn hour_later(mut bytes: Vec<u8>) -> Vec<u8> {
    let header = SegmentHeader::parse(&bytes).unwrap();
    let mut commits = Vec::new();
    let mut reader = Reader::new(bytes.as_slice(), &header, 1).unwrap();
    let format = reader.format();
    while let Some(record) = reader.read_next() {
        if Xact::parse(&record, format).unwrap().is_some() {
            commits.push((record.lsn - header.address, record.bytes.len()));
        }
    }
    assert!(!commits.is_empty());
    for (offset, length) in commits {
        let at = usize::try_from(offset).unwrap();
        let record = &mut bytes[at..at + length];
        // The record's header, that of its data, and the time in microseconds.
        let time = i64::from_le_bytes(record[26..34].try_into().unwrap()) + 3_600_000_000;
        record[26..34].copy_from_slice(&time.to_le_bytes());
        let crc = crc32c::crc32c_append(crc32c::crc32c(&record[24..]), &record[..20]);
        record[20..24].copy_from_slice(&crc.to_le_bytes());
    }
    bytes
}
