//! Segments around the point where a timeline was left.

use std::fs;

use crate::archive_live::{Site, promoted, promoted_copy, push};
use crate::support::site;
use crate::support::{ScratchDir, Server, Stop};

/// A timeline may be left exactly where a segment ends: the next one of the old primary is abandoned
/// from its first byte on, and was given to recovery along the new timeline until that one's own came.
#[test]
pub(crate) fn d20261120_a_segment_that_was_abandoned_as_a_whole_is_not_given_to_a_descendant() {
    let Some(server) = Server::main() else { return };
    let site = Site::new(&server, 1);
    let last = site.segment();
    site.push(&last).assert_ok();
    let abandoned = site.segment();
    site.push(&abandoned).assert_ok();
    let megabyte = u64::from_str_radix(&abandoned[16..], 16).unwrap();
    let history = format!("1\t0/{:X}\tno recovery target specified\n", megabyte << 20);
    site.push_bytes("00000002.history", history.as_bytes()).assert_ok();

    let folder = ScratchDir::new("pg_wal");
    folder.write("00000002.history", history);
    let out = folder.join("RECOVERYXLOG");
    let out = out.to_str().unwrap();
    let own = format!("00000002{}", &abandoned[8..]);
    // What the new timeline has in common with the old one is given.
    site.config.run(["archive-get", &last, out]).assert_ok();
    let refused = site.config.run(["archive-get", &abandoned, out]).assert_code(200);
    assert!(refused.stderr.contains(&own), "{refused}");
    // One that ends where the new timeline begins knows that there is no more.
    let through = format!("0/{:X}", megabyte << 20);
    site.config.run(["archive-get", "--through", &through, &abandoned, out]).assert_code(1);
    // A plan that counts on the new timeline's segment is not served by the old one's.
    let through = format!("0/{:X}", (megabyte << 20) + 8192);
    let planned = site.config.run(["archive-get", "--through", &through, &own, out]);
    planned.assert_code(200).assert_says("counts on it");
    // Nothing shows that there is more on the new timeline.
    site.config.run(["archive-get", &own, out]).assert_code(1);
}

/// A timeline's first page may be an ancestor's only in the segment in which it was left. An early
/// segment under the child's name was stored, and kept the child's own away.
#[test]
pub(crate) fn d20261124_a_segment_from_before_the_switch_is_not_stored_under_the_child_s_name() {
    let Some(server) = Server::main() else { return };
    let site = Site::new(&server, 1);
    let early = site.segment();
    let left = site.segment();
    let megabyte = u64::from_str_radix(&left[16..], 16).unwrap();
    let history = format!("1\t0/{:X}\tno recovery target specified\n", (megabyte << 20) + 8192);
    site.push_bytes("00000002.history", history.as_bytes()).assert_ok();
    let content = |name: &str| fs::read(site.cluster.data_dir().join("pg_wal").join(name)).unwrap();
    let child = |name: &str| format!("00000002{}", &name[8..]);
    let refused = site.push_bytes(&child(&early), &content(&early)).assert_code(1);
    assert!(refused.stderr.contains("timeline"), "{refused}");
    site.push_bytes(&child(&left), &content(&left)).assert_ok();
}

/// A standby that has half of a record when it is promoted leaves the old timeline where that record
/// begins. Recovery along the new timeline was given the old one's segment, which "ends" there, and then
/// the next, and replayed the record.
#[test]
fn d20261120_a_record_that_was_cut_by_a_promotion_is_not_completed() {
    let Some(server) = Server::main() else { return };
    let site = Site::new(&server, 1);
    let begin = site.cluster.psql(
        "select pg_switch_wal(); insert into t values (1); select pg_current_wal_insert_lsn(); \
         select pg_logical_emit_message(false, 'x', repeat('x', 1500000))",
    );
    let begin = begin.lines().nth(1).unwrap();
    let next = site.segment();
    let number = u32::from_str_radix(&next[16..], 16).unwrap();
    let cut = format!("{}{:08X}", &next[..16], number - 1);
    site.push(&cut).assert_ok();
    site.push(&next).assert_ok();
    let folder = ScratchDir::new("pg_wal");
    folder.write("00000002.history", format!("1\t{begin}\tno recovery target specified\n"));
    let out = folder.join("RECOVERYXLOG");
    let out = out.to_str().unwrap();
    let refused = site.config.run(["archive-get", &cut, out]).assert_code(200);
    assert!(refused.stderr.contains(&format!("00000002{}", &cut[8..])), "{refused}");
    // A plan that ends there needs what comes before, and has no use for the rest of the record.
    site.config.run(["archive-get", "--through", begin, &cut, out]).assert_ok();
    site.config.run(["archive-get", "--through", begin, &next, out]).assert_code(1);
}

/// In a segment's first page, four bytes that nothing checks.
const PADDING: usize = 20;

/// Behind its last record a segment holds what the recycled file held before, another thing on each
/// server. The new primary's partial segment was refused for it when a standby with archive_mode =
/// always had pushed its own, and nothing was archived any more.
#[test]
pub(crate) fn d20261120_partial_segments_that_differ_in_old_bytes_only_are_the_same() {
    let Some(server) = Server::main() else { return };
    let site = Site::new(&server, 1);
    site.cluster.psql("insert into t values (1)");
    let (standby, theirs) = promoted_copy(&server, &site);
    let copy = standby.data_dir();
    let files = fs::read_dir(copy.join("pg_wal")).unwrap().flatten().map(|entry| entry.path());
    let partial = files.into_iter().find(|path| path.extension().is_some_and(|e| e == "partial"));
    let partial = partial.expect("promotion leaves one");
    let name = partial.file_name().unwrap().to_str().unwrap();
    push(&theirs, &partial).assert_ok();

    let content = fs::read(&partial).unwrap();
    let push_changed = |at: usize| {
        let mut content = content.clone();
        content[at] ^= 0xFF;
        let folder = ScratchDir::new("changed");
        push(&theirs, &folder.write(name, content))
    };
    push_changed(content.len() - 1).assert_ok();
    site.assert_kept(name.trim_end_matches(".partial"), 0, 1);
    // Another history up to the same point is not the same.
    push_changed(PADDING).assert_code(1).assert_says("exists with other content");
}

/// A recovery along a timeline that ends before that timeline begins: the server writes a history whose
/// ends decrease. It was refused as one that no server writes, and the server archived nothing any more.
#[test]
fn d20261120_a_history_that_goes_back_before_its_parent_s_beginning_is_archived() {
    let Some(server) = Server::main() else { return };
    let site = site::Site::small(&server);
    site.cluster.psql("create table t (n int); insert into t values (1)");
    site.backup();
    site.cluster.psql("insert into t values (2)");
    let before = site.cluster.psql("select pg_current_wal_insert_lsn()");
    site.cluster.psql("insert into t values (3)");
    site.cluster.archive_now();
    site.cluster.stop(Stop::Fast);
    promoted(&site.cluster);
    site.cluster.psql("insert into t values (4)");
    site.cluster.archive_now();
    site.cluster.stop(Stop::Fast);

    let scratch = ScratchDir::new("restored");
    let to = scratch.join("back");
    let back = ["--target-lsn", &before, "--target-timeline", "2", "--archive", "on"];
    site.restore(&to, &back);
    let copy = site::started(&server, &to);
    copy.psql("insert into t values (5)");
    copy.archive_now();
    let history = fs::read_to_string(to.join("pg_wal/00000003.history")).unwrap();
    let ends: Vec<&str> =
        history.lines().filter_map(|line| line.split_whitespace().nth(1)).collect();
    assert!(ends.len() == 2 && ends[1] < ends[0], "{history}");

    let to = scratch.join("again");
    site.restore(&to, &[]);
    let again = site::started(&server, &to);
    assert_eq!(again.psql("select string_agg(n::text, ' ' order by n) from t"), "1 2 5");
}

/// A new primary archives its history at once and its first segment when that is full. If both servers are
/// lost in between, the history shows that there was more WAL than the archive has: the plan said that
/// nothing was lost.
#[test]
fn d20261120_a_timeline_that_begins_behind_the_archive_s_end_is_told() {
    let Some(server) = Server::main() else { return };
    let site = site::Site::small(&server);
    site.cluster.psql("create table t (n int); insert into t values (1)");
    site.backup();
    site.cluster.psql("insert into t values (2)");
    site.cluster.archive_now();
    site.cluster.psql("insert into t values (3)");
    site.cluster.set_archive_command("false");
    site.cluster.stop(Stop::Immediate);
    promoted(&site.cluster);
    let history = site.cluster.data_dir().join("pg_wal/00000002.history");
    push(&site.config, &history).assert_ok();
    site.cluster.stop(Stop::Immediate);

    let scratch = ScratchDir::new("restored");
    let to = scratch.join("data");
    let plan = site.restore(&to, &[]);
    let told = plan.stdout.contains("before it: what was written in between is lost");
    assert!(told, "{plan}");
    let copy = site::started(&server, &to);
    assert_eq!(copy.psql("select string_agg(n::text, ' ' order by n) from t"), "1 2");
}
