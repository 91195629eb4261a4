//! Restores over what is there (`--delta`) that must not begin, or must not stop, on real servers: WAL that is
//! nowhere else, a backup that is not all there, a directory that changes under the plan.

use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::sync::Arc;

use pgkeep::base::Event;

use crate::delta_live::{DIGEST, delta, digest_of, fill, own_all, site, try_delta};
use crate::plan_proofs::fill_all_but;
use crate::restore_crash::{CONTROL, Kind, MARK, Record, assert_starts, killed_after, scene};
use crate::standby_live::Follower;
use crate::support::planned::objects;
use crate::support::run::run;
use crate::support::site::Site;
use crate::support::{Server, Stop, TestCluster};

/// The segment that a primary wrote last before it died was told by a warning, whose advice did not bring back what
/// was in it: it became a partial one in the archive, which recovery never asks for.
#[test]
fn d2026_11_29_what_a_dead_primary_wrote_last_is_refused_and_can_be_kept() {
    let Some(server) = Server::main() else { return };
    let (site, copies) = site(&server);
    site.backup();
    // Whoever reads pages first after a checkpoint writes them to the WAL as well.
    site.cluster.psql(DIGEST);
    site.cluster.archive_now();
    fill(&site, 20_001, 20_001);
    let last = site.cluster.psql("select pg_walfile_name(pg_current_wal_lsn())");
    let digest = site.cluster.psql(DIGEST);
    site.cluster.kill9();
    let own = site.cluster.data_dir().to_path_buf();
    fs::remove_file(own.join("postmaster.pid")).ok();
    let control = fs::read(own.join(CONTROL)).unwrap();
    let refused = || {
        let ran = try_delta(&site, &own, &[]).assert_code(15);
        ran.assert_says(&format!("{last}, into which its server wrote last"))
            .assert_says("which recovery never asks for")
            .assert_says("--discard-wal")
    };
    refused();
    run(site.config.pgkeep(["wal", "backfill", "--yes", "--from"]).arg(&own)).assert_ok();
    refused();
    assert_eq!(fs::read(own.join(CONTROL)).unwrap(), control);
    assert!(!own.join(MARK).exists());
    // As the hint says.
    let kept = copies.join("kept");
    fs::copy(own.join("pg_wal").join(&last), &kept).unwrap();
    let (plan, _) = delta(&site, &own, &["--archive", "off", "--discard-wal"]);
    let warnings = plan["warnings"].to_string();
    assert!(warnings.contains(&format!("{last}, into which")), "{warnings}");
    fs::copy(&kept, own.join("pg_wal").join(&last)).unwrap();
    own_all(&own.join("pg_wal").join(&last));
    assert_eq!(digest_of(&server, &own), digest);
}

/// Whether a segment is archived under its name.
fn is_archived(site: &Site, name: &str) -> bool {
    objects(site.repo.path()).iter().any(|path| path.ends_with(name))
}

/// A commit that begins in an archived segment and ends in the one behind it went with that: no transaction begins to
/// end there.
#[test]
fn d2026_11_29_a_commit_across_the_end_of_what_is_archived_is_seen() {
    let Some(server) = Server::main() else { return };
    let (site, _copies) = site(&server);
    site.backup();
    site.cluster.archive_now();
    let fill = fill_all_but(16);
    site.cluster.psql(&format!("begin; insert into t values (-1, 'last'); {fill}; commit"));
    let last = site.cluster.psql("select pg_walfile_name(pg_current_wal_lsn())");
    site.cluster.wait_until(
        "select last_archived_wal = pg_walfile_name(pg_current_wal_lsn() - 1048576) from pg_stat_archiver",
    );
    site.cluster.kill9();
    let own = site.cluster.data_dir().to_path_buf();
    fs::remove_file(own.join("postmaster.pid")).ok();
    let ran = try_delta(&site, &own, &["--archive", "off"]).assert_code(15);
    ran.assert_says(&format!("{last}, into which its server wrote last"));
}

/// A volume was copied, and a server went on from the copy without archiving, under names that the archive has of the
/// original: only names were compared, and what it wrote went.
#[test]
fn d2026_11_29_another_history_under_archived_names_is_refused() {
    let Some(server) = Server::main() else { return };
    let (site, copies) = site(&server);
    site.backup();
    site.cluster.stop(Stop::Fast);
    let copied = copies.join("copied");
    let mut copy = site.cluster.command("cp");
    run(copy.arg("-a").arg(site.cluster.data_dir()).arg(&copied)).assert_ok();
    site.cluster.start();
    fill(&site, 20_001, 30_000);
    site.cluster.archive_now();
    // It has nothing of its own yet: what it wrote last is how the archived segment begins.
    let args = ["--archive", "off", "--dry-run"];
    try_delta(&site, &copied, &args).assert_ok();

    let replica = TestCluster::adopt(&server, &copied).setting("archive_mode", "off").start();
    replica
        .psql("create table only_there as select n, md5(n::text) from generate_series(1, 20000) n");
    let last = replica.psql("select pg_walfile_name(pg_current_wal_lsn())");
    replica.stop(Stop::Fast);
    assert!(is_archived(&site, &last), "{last}");
    let control = fs::read(copied.join(CONTROL)).unwrap();
    let ran = try_delta(&site, &copied, &args[..2]).assert_code(15);
    ran.assert_says("the archive does not have").assert_says(&last);
    assert_eq!(fs::read(copied.join(CONTROL)).unwrap(), control);
    delta(&site, &copied, &["--archive", "off", "--discard-wal"]);
    let digest = site.cluster.psql(DIGEST);
    assert_eq!(digest_of(&server, &copied), digest);
}

/// After a failover that lost nothing, the old primary's last segment was refused for ever: nobody archives it under
/// its own name, but the new timeline begins with all of it.
#[test]
fn d2026_11_29_an_old_primary_is_gone_over_when_the_new_one_has_all_of_it() {
    let Some(server) = Server::main() else { return };
    let (site, _copies) = site(&server);
    site.backup();
    let standby = Follower::new(&server, &site, true);
    standby.cluster.start();
    site.cluster.archive_now();
    fill(&site, 20_001, 20_010);
    let received = |lsn: &str| {
        standby.cluster.wait_until(&format!("select pg_last_wal_replay_lsn() >= '{lsn}'"));
    };
    received(&site.cluster.psql("select pg_current_wal_flush_lsn()"));
    let last = site.cluster.psql("select pg_walfile_name(pg_current_wal_lsn())");
    site.cluster.kill9();
    let own = site.cluster.data_dir().to_path_buf();
    fs::remove_file(own.join("postmaster.pid")).ok();
    let args = ["--archive", "off"];
    try_delta(&site, &own, &args).assert_code(15).assert_says(&last);
    standby.cluster.promote();
    standby.cluster.wait_for_promotion();
    let digest = standby.cluster.psql(DIGEST);
    standby.cluster.archive_now();
    delta(&site, &own, &args);
    assert_eq!(digest_of(&server, &own), digest);
}

/// What pgkeep itself needs was written over with what it was at the time of the backup.
#[test]
fn d2026_11_29_a_key_file_in_the_data_directory_is_not_set_back() {
    let Some(server) = Server::main() else { return };
    let (site, copies) = site(&server);
    let inside = site.cluster.data_dir().join("own.key");
    fs::write(&inside, "of then\n").unwrap();
    own_all(&inside);
    site.backup();
    let to = copies.join("data");
    delta(&site, &to, &["--target-immediate"]);
    let mut text = fs::read_to_string(site.config.path()).unwrap();
    let begin = text.find("key_file").unwrap();
    let end = begin + text[begin..].find('\n').unwrap();
    let key_file = text[begin..end].to_owned();
    let key = key_file.split('"').nth(1).unwrap();
    let kept = fs::read(key).unwrap();
    let inside = to.join("own.key");
    text.replace_range(begin..end, &format!("key_file = {:?}", inside.display().to_string()));
    fs::write(site.config.path(), text).unwrap();
    fs::write(&inside, &kept).unwrap();
    let ran = try_delta(&site, &to, &["--target-immediate"]);
    assert!(!ran.is_ok(), "{ran}");
    ran.assert_says("which has another content in the backup");
    assert_eq!(fs::read(&inside).unwrap(), kept);
}

/// A server that archives, stopped in order, leaves a segment with its last checkpoint: nothing is lost with it.
#[test]
fn f065_a_server_that_archives_and_was_stopped_in_order_is_gone_over() {
    let Some(server) = Server::main() else { return };
    let (site, _copies) = site(&server);
    site.backup();
    fill(&site, 20_001, 20_100);
    let digest = site.cluster.psql(DIGEST);
    site.cluster.stop(Stop::Fast);
    let own = site.cluster.data_dir().to_path_buf();
    // A standby may have other bytes behind the switch for good: what follows is received into the next segment.
    let entries = fs::read_dir(own.join("pg_wal")).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let last = names.filter(|name| is_archived(&site, name)).max().unwrap();
    let segment = fs::OpenOptions::new().write(true).open(own.join("pg_wal").join(last)).unwrap();
    let length = segment.metadata().unwrap().len();
    segment.write_all_at(&[0x5a; 4096], length - 4096).unwrap();
    let (plan, _) = delta(&site, &own, &["--archive", "off"]);
    assert!(!plan["warnings"].to_string().contains("pg_wal"), "{plan}");
    assert_eq!(digest_of(&server, &own), digest);
}

/// The one object of a kind that is largest.
fn object(site: &Site, kind: &str) -> PathBuf {
    let mut found = objects(site.repo.path());
    found.retain(|path| path.components().any(|part| part.as_os_str() == kind));
    let size = |path: &PathBuf| fs::metadata(path).unwrap().len();
    found.into_iter().max_by_key(size).unwrap()
}

/// A hash object that was damaged, which no restore needs, ended the run for ever, without a control file; and so did
/// content that was missing.
#[test]
fn d2026_11_29_what_the_store_lacks_is_found_before_and_hashes_are_not_needed() {
    let Some(server) = Server::main() else { return };
    let (site, copies) = site(&server);
    let digest = site.cluster.psql(DIGEST);
    let id = site.backup();
    let to = copies.join("data");
    let args = ["--backup", &id, "--target-immediate"];
    delta(&site, &to, &args);
    let hashes = object(&site, "hash");
    let mut content = fs::read(&hashes).unwrap();
    let middle = content.len() / 2;
    content[middle] ^= 1;
    fs::set_permissions(&hashes, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    fs::write(&hashes, content).unwrap();
    let mut command = site.config.pgkeep(["restore", "--yes", "--delta", "--to"]);
    let ran = run(command.arg(&to).args(args)).assert_ok();
    assert_eq!(ran.stderr.matches("cannot be compared with one pack").count(), 1, "{ran}");
    fs::remove_file(&hashes).unwrap();
    delta(&site, &to, &args);
    assert_eq!(digest_of(&server, &to), digest);

    let control = fs::read(to.join(CONTROL)).unwrap();
    let data = object(&site, "data");
    fs::remove_file(&data).unwrap();
    let refused = try_delta(&site, &to, &args);
    assert!(!refused.is_ok(), "{refused}");
    refused.assert_says("the store does not list it");
    assert_eq!(fs::read(to.join(CONTROL)).unwrap(), control);
    assert!(!to.join(MARK).exists());
}

/// What was confirmed was the plan's list of what goes; what had come since went too.
#[test]
fn d2026_11_29_what_changes_under_the_plan_is_refused() {
    let Some(server) = Server::main() else { return };
    let (site, _copies, mut scene) = scene(&server);
    scene.restore(Arc::new(Record::default())).unwrap();
    scene.kind = Kind::Over;
    let control = fs::read(scene.data.join(CONTROL)).unwrap();
    let refused_after = |happens: &dyn Fn()| {
        let record = Arc::new(Record::default());
        let refused = scene.restore_after(Arc::<Record>::clone(&record), |_| {}, |_| happens());
        let refused = refused.unwrap_err().to_string();
        assert!(refused.contains("since the plan was made"), "{refused}");
        assert_eq!(fs::read(scene.data.join(CONTROL)).unwrap(), control);
        assert!(!scene.is_marked());
        let events = record.0.lock().unwrap().clone();
        assert!(!events.contains(&Event::Step("the data directory is marked")));
        refused
    };
    let stray = scene.data.join("stray");
    let refused = refused_after(&|| fs::write(&stray, "x").unwrap());
    assert!(refused.contains("other files that would go"), "{refused}");
    // Another kind of thing at the same path.
    refused_after(&|| {
        fs::remove_file(&stray).unwrap();
        fs::create_dir(&stray).unwrap();
    });
    let segment = scene.data.join("pg_wal/000000010000000000000077");
    let own = site.cluster.data_dir().join("pg_wal");
    let some = site.cluster.psql("select pg_walfile_name(pg_current_wal_lsn())");
    let refused = refused_after(&|| {
        fs::copy(own.join(&some), &segment).unwrap();
    });
    assert!(refused.contains("other files that would go"), "{refused}");
    scene.restore(Arc::new(Record::default())).unwrap();
    assert!(!stray.exists() && !segment.exists());
    assert_starts(&server, &scene.data);
}

/// A plain restore was killed before its mark went; what it left was started and used, and another `--delta` went back to
/// the mark's backup without a word.
#[test]
fn d2026_11_29_a_server_that_was_used_beside_a_mark_does_not_go_back_to_its_backup() {
    let Some(server) = Server::main() else { return };
    let (site, _copies, mut scene) = scene(&server);
    let kind = scene.kind;
    killed_after(&scene, "the control file has its name");
    assert!(scene.data.join(MARK).exists());
    let used = TestCluster::adopt(&server, &scene.data).start();
    used.wait_for_promotion();
    used.stop(Stop::Fast);
    let newer = site.backup();
    assert_eq!(kind, Kind::Copy);
    scene.kind = Kind::Over;
    let mut planned = String::new();
    scene
        .restore_after(
            Arc::new(Record::default()),
            |_| {},
            |plan| planned = plan.backup.to_string(),
        )
        .unwrap();
    assert_eq!(planned, newer);
    assert_starts(&server, &scene.data);
}
