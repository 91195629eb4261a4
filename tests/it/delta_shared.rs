//! Restores over what is there that would take something from somebody else: from the cluster in the directory that
//! it lives in by now, from other clusters, or from the only place that has it.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::delta_live::try_delta;
use crate::restore_crash::{CONTROL, MARK};
use crate::support::run::{Ran, run};
use crate::support::site::Site;
use crate::support::{Cipher, ScratchDir, Server, Stop, TestCluster, TestConfig};

fn copy(from: &Path, to: &Path) {
    run(Command::new("cp").arg("-a").arg(from).arg(to)).assert_ok();
}

/// Everything below a folder, links not followed.
fn contents(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(&next).unwrap() {
            let path = entry.unwrap().path();
            if path.symlink_metadata().unwrap().is_dir() {
                folders.push(path.clone());
                found.insert(path, Vec::new());
            } else {
                found.insert(path.clone(), fs::read(&path).unwrap_or_default());
            }
        }
    }
    found
}

#[track_caller]
fn assert_refused(ran: Ran, words: &str, data: &Path) {
    ran.assert_code(15).assert_says(words);
    assert!(!data.join(MARK).exists());
}

/// A data directory was copied to another disk with its links, and lives there since. A restore into the old one, with
/// a backup from before, emptied the new one's tablespace and its WAL: nobody had asked the configuration, or the newer
/// backups, where the cluster is.
#[test]
fn d2026_11_30_what_the_cluster_s_new_directory_leads_to_is_not_the_old_one_s() {
    let Some(server) = Server::main() else { return };
    let (places, new) = (ScratchDir::new("places"), ScratchDir::new("new"));
    let wal = places.join("wal");
    let launch = TestCluster::create(&server).wal_segment_mib(1).initdb_arg("-X");
    let site = Site::start(launch.initdb_arg(wal.to_str().unwrap()));
    let space = places.create_dir("space");
    site.cluster.psql(&format!("create tablespace one location '{}'", space.display()));
    site.cluster.psql("create table t tablespace one as select generate_series(1, 1000) n");
    let old_backup = site.backup();
    site.cluster.stop(Stop::Fast);
    let (old, moved) = (site.cluster.data_dir(), new.join("data"));
    copy(old, &moved);

    let living = TestCluster::adopt(&server, &moved).archiving().start();
    let config = TestConfig::new(&living).repository("local", &site.repo, Cipher::Aes);
    living.set_archive_command(&config.archive_command());
    living.psql("insert into t select generate_series(1001, 9000)");
    living.archive_now();
    let places_then = || [contents(&space), contents(&wal), contents(&moved)];
    let refused = |config: &TestConfig, backup: &str, how: &str| {
        let before = places_then();
        let mut command =
            config.pgkeep(["restore", "--yes", "--target-immediate", "--backup", backup]);
        let ran = run(command.args([how, "--to"]).arg(old));
        let words = format!("is where links of {} lead, too", moved.display());
        assert_refused(ran, &words, old);
        assert!(places_then() == before, "{backup} {how}");
    };
    living.stop(Stop::Fast);
    // By the configuration alone.
    refused(&config, &old_backup, "--delta");
    refused(&config, &old_backup, "--rename-old");
    // By the newer backups alone: the configuration is the old one.
    living.start();
    let newer = run(&mut config.pgkeep(["backup", "--json"])).assert_ok();
    let newer = crate::support::site::json(&newer.stdout)["id"].as_str().unwrap().to_owned();
    living.stop(Stop::Fast);
    for backup in [&old_backup, &newer] {
        refused(&site.config, backup, "--delta");
        refused(&site.config, backup, "--rename-old");
    }
    living.start();
    assert_eq!(living.psql("select count(*) from t"), "9000");
    living.stop(Stop::Fast);
    // The one that was left is in nobody's way.
    let mut over = config.pgkeep(["restore", "--yes", "--delta", "--target-immediate", "--to"]);
    over.arg(&moved).args(["--discard-wal", "--backup", &newer]);
    run(&mut over).assert_ok();
}

/// Without archiving a server uses its segments again. What it had committed there was nowhere but in its files, and a
/// restore over them said nothing: of its last segment, with nothing but a checkpoint, it thought that all was there.
#[test]
fn d2026_11_30_what_is_past_the_archive_s_end_in_files_alone_is_refused() {
    let Some(server) = Server::main() else { return };
    let launch = TestCluster::create(&server).checksums().wal_segment_mib(1);
    let launch = launch.setting("min_wal_size", "2MB").setting("max_wal_size", "4MB");
    let site = Site::start(launch);
    site.cluster.psql("create table t as select generate_series(1, 1000) n");
    let backup = site.backup();
    let data = site.cluster.data_dir().to_path_buf();
    site.cluster.stop(Stop::Fast);
    let copies = ScratchDir::new("copies");
    let forked = copies.join("data");
    copy(&data, &forked);
    let without_archive = |data: &Path| {
        let cluster = TestCluster::adopt(&server, data).setting("archive_mode", "off").start();
        for _ in 0..4 {
            cluster.psql("create table if not exists precious (n int, t text)");
            cluster.psql(
                "insert into precious select n, md5(n::text) from generate_series(1, 20000) n",
            );
            cluster.psql("select pg_switch_wal()");
            cluster.psql("checkpoint");
        }
        // Nothing but the checkpoint of the shutdown comes into the last one.
        cluster.psql("vacuum (freeze) precious");
        cluster.psql("checkpoint");
        cluster.psql("select pg_switch_wal()");
        cluster.psql("checkpoint");
        cluster.stop(Stop::Fast);
    };
    let args = ["--backup", &backup, "--target-immediate"];
    let try_over = |to: &Path, more: &[&str]| {
        let mut command = site.config.pgkeep(["restore", "--yes", "--delta", "--to"]);
        run(command.arg(to).args(args).args(more))
    };
    without_archive(&data);
    let control = fs::read(data.join(CONTROL)).unwrap();
    assert_refused(try_over(&data, &[]), "is in its files alone", &data);
    assert_eq!(fs::read(data.join(CONTROL)).unwrap(), control);

    // A copy that went its own way, while the archive has other segments of the same names.
    without_archive(&forked);
    assert_refused(try_over(&forked, &[]), "is in its files alone", &forked);
    let given_up = try_over(&data, &["--discard-wal"]).assert_ok();
    given_up.assert_says("it goes (--discard-wal)");
}

/// The same, where the archive has gone on: it has other segments of the same names.
#[test]
fn d2026_11_30_a_copy_that_went_its_own_way_without_archive_is_refused() {
    let Some(server) = Server::main() else { return };
    let site = Site::small(&server);
    site.cluster.psql("create table t as select generate_series(1, 1000) n");
    site.backup();
    site.cluster.stop(Stop::Fast);
    let copies = ScratchDir::new("copies");
    let forked = copies.join("data");
    copy(site.cluster.data_dir(), &forked);
    let copied = TestCluster::adopt(&server, &forked).setting("archive_mode", "off").start();
    copied.psql("create table precious as select generate_series(1, 1000) n");
    copied.psql("select pg_switch_wal()");
    copied.psql("checkpoint");
    copied.stop(Stop::Fast);
    site.cluster.start();
    for n in 0..8 {
        site.cluster.psql(&format!("insert into t values ({n})"));
        site.cluster.archive_now();
    }
    let segments: Vec<PathBuf> = fs::read_dir(forked.join("pg_wal"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_file())
        .collect();
    // First they are all there; then all but the last one were used again.
    for are_there in [true, false] {
        let ran = try_delta(&site, &forked, &["--target-immediate"]);
        assert_refused(ran, "--discard-wal", &forked);
        if are_there {
            let control = run(site.cluster.command("pg_controldata").arg(&forked)).assert_ok();
            let line = control.stdout.lines().find(|line| line.contains("REDO WAL file")).unwrap();
            let last = line.split_whitespace().last().unwrap().to_owned();
            for path in segments.iter().filter(|path| !path.ends_with(&last)) {
                fs::remove_file(path).unwrap();
            }
        }
    }
}

/// A directory that is not in the backup went with all that was in it: another cluster's tablespace, or one of this
/// cluster that lies in another one's, of which the plan said that it stays.
#[test]
fn d2026_11_30_a_tablespace_inside_is_no_stranger_to_be_removed() {
    let Some(server) = Server::main() else { return };
    let site = Site::small(&server);
    let spaces = ScratchDir::new("spaces");
    let outer = spaces.create_dir("outer");
    site.cluster.psql(&format!("create tablespace outer_one location '{}'", outer.display()));
    site.cluster.psql("create table t tablespace outer_one as select 1 n");
    let backup = site.backup();
    site.cluster.archive_now();
    let data = site.cluster.data_dir().to_path_buf();
    let other = TestCluster::create(&server).start();
    let own = |path: &Path| {
        run(Command::new("chown").arg("--reference").arg(&data).arg(path)).assert_ok();
        run(Command::new("chmod").arg("700").arg(path)).assert_ok();
    };
    let theirs = data.join("theirs");
    fs::create_dir(&theirs).unwrap();
    own(&theirs);
    other.psql(&format!("create tablespace two location '{}'", theirs.display()));
    other.psql("create table held tablespace two as select generate_series(1, 100) n");
    site.cluster.stop(Stop::Fast);
    let over = || try_delta(&site, &data, &["--backup", &backup, "--target-immediate"]);
    let words = "holds files of a tablespace, whichever cluster's it is";
    assert_refused(over(), words, &data);
    other.stop(Stop::Fast);
    assert_refused(over(), words, &data);
    other.start();
    assert_eq!(other.psql("select count(*) from held"), "100");
    other.psql("drop table held");
    other.psql("drop tablespace two");
    fs::remove_dir(&theirs).unwrap();

    site.cluster.start();
    let version = fs::read_dir(&outer).unwrap().next().unwrap().unwrap().path();
    let inner = version.join("inner");
    fs::create_dir(&inner).unwrap();
    own(&inner);
    site.cluster.psql(&format!("create tablespace inner_one location '{}'", inner.display()));
    site.cluster.archive_now();
    site.cluster.stop(Stop::Fast);
    fs::write(inner.join("notes"), "kept").unwrap();
    assert_refused(over(), words, &data);
    assert!(inner.join("notes").exists());
}
