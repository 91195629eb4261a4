//! What a backup may not stand on: another history, other pages, parents that are damaged or gone. It is refused
//! with a sentence, nothing of it is visible, and a full is offered, or taken where `auto_full` says so.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use serde_json::Value;

use crate::standby_live::Follower;
use crate::support::planned::objects;
use crate::support::run::{Ran, run};
use crate::support::site::{Site, json, started};
use crate::support::{ScratchDir, Server, Stop, TestCluster, TestConfig};

/// What a refusal offers.
const HINT: &str = "Take a full: `pgkeep backup --type full`";

fn backup(config: &TestConfig, backup_type: &str) -> Ran {
    config.run(["backup", "--json", "--type", backup_type])
}

/// The ids of all backups that can be seen.
fn visible(config: &TestConfig) -> Vec<String> {
    let shown = json(&config.run(["info", "--json"]).stdout);
    let backups = shown["repositories"][0]["backups"].as_array().unwrap().clone();
    backups.iter().map(|backup| backup["id"].as_str().unwrap().to_owned()).collect()
}

/// A diff and an incr are refused with these words, and leave nothing to see.
#[track_caller]
fn assert_refused(config: &TestConfig, words: &[&str]) {
    let before = visible(config);
    for backup_type in ["diff", "incr"] {
        let mut refused = backup(config, backup_type).assert_code(1).assert_says(HINT);
        for word in words {
            refused = refused.assert_says(word);
        }
    }
    assert_eq!(visible(config), before);
}

/// As [`backup`], where a full may be taken instead.
fn backup_or_full(cluster: &TestCluster, config: &TestConfig, backup_type: &str) -> Value {
    let text = fs::read_to_string(config.path()).unwrap();
    let text = text.replacen("[cluster.main]", "[cluster.main]\nauto_full = true", 1);
    let path = cluster.scratch().write("auto_full.toml", text);
    let mut command = cluster.pgkeep();
    command.arg("--config").arg(path).args(["backup", "--json", "--type", backup_type]);
    let ran = run(&mut command).assert_ok().assert_says("this one is a full (auto_full)");
    let taken = json(&ran.stdout);
    assert_eq!((&taken["type"], &taken["parent"]), (&"full".into(), &Value::Null));
    taken
}

fn text<'v>(taken: &'v Value, member: &str) -> &'v str {
    taken[member].as_str().unwrap()
}

/// A full of the old primary ends behind the point where the new one's timeline began: after an asynchronous
/// failover it holds what the new primary never had.
#[test]
fn f033_a_parent_of_a_diverged_primary_is_refused() {
    let Some(server) = Server::main() else { return };
    let site = Site::small(&server);
    site.cluster.psql("create table t (n int); insert into t values (1)");
    site.backup();
    let standby = Follower::new(&server, &site, true);
    standby.cluster.start();
    standby.wait_for_rows(1);
    standby.cluster.promote();
    standby.cluster.wait_for_promotion();
    site.cluster.psql("insert into t values (2)");
    let full = site.backup_of("full");
    site.cluster.stop(Stop::Fast);
    standby.cluster.psql("insert into t values (3)");

    let history = fs::read_to_string(standby.cluster.data_dir().join("pg_wal/00000002.history"));
    let history = history.unwrap();
    let switch = history.split_whitespace().nth(1).unwrap();
    let end = text(&full, "stop_lsn");
    assert_refused(&standby.config, &[text(&full, "id"), end, "timeline 1", "timeline 2", switch]);

    let taken = backup_or_full(&standby.cluster, &standby.config, "diff");
    assert_eq!(taken["timeline"], 2);
    // And a chain goes on from there.
    standby.cluster.psql("insert into t values (4)");
    let next = json(&backup(&standby.config, "diff").assert_ok().stdout);
    assert_eq!(next["parent"], taken["id"]);
    let scratch = ScratchDir::new("copy");
    let to = scratch.join("data");
    site.restore(&to, &["--backup", text(&next, "id"), "--target-immediate"]);
    let copy = started(&server, &to);
    assert_eq!(copy.psql("select string_agg(n::text, ',' order by n) from t"), "1,3,4");
}

/// A parent that ends before the switch is on the new primary's way, though another host took it. A table becomes
/// shorter just before the switch, and grows again behind it.
#[test]
fn f029_f033_f034_a_parent_before_the_switch_is_stood_on_by_the_new_primary() {
    let Some(server) = Server::main() else { return };
    let site = Site::small(&server);
    site.cluster.psql("create table t (n int); insert into t values (1)");
    site.cluster.psql("create table tail as select n, 'old' t from generate_series(1, 20000) n");
    let full = site.backup_of("full");
    let standby = Follower::new(&server, &site, true);
    standby.cluster.start();
    site.cluster.psql("insert into t values (2)");
    standby.wait_for_rows(2);
    // An idle standby may be behind the parent's end.
    site.cluster.archive_now();
    let of_standby = json(&backup(&standby.config, "incr").assert_ok().stdout);
    assert_eq!(of_standby["parent"], full["id"]);
    site.cluster.archive_now();
    standby
        .cluster
        .wait_until(&format!("pg_last_wal_replay_lsn() >= '{}'", text(&of_standby, "stop_lsn")));
    let blocks = "select pg_relation_size('tail') / 8192";
    let before = site.cluster.psql(blocks);
    site.cluster.psql("delete from tail where n > 5000; vacuum tail");
    assert_ne!(site.cluster.psql(blocks), before);
    site.cluster.stop(Stop::Fast);
    standby.cluster.promote();
    standby.cluster.wait_for_promotion();
    standby.cluster.psql("insert into t values (3)");
    standby.cluster.psql("insert into tail select n, 'new' from generate_series(5001, 12000) n");
    let tail = "select count(*), sum(n), sum(hashtext(t)) from tail";
    for (backup_type, parent) in [("incr", &of_standby), ("diff", &full)] {
        let taken = json(&backup(&standby.config, backup_type).assert_ok().stdout);
        assert_eq!((&taken["parent"], &taken["timeline"]), (&parent["id"], &2.into()));
        let scratch = ScratchDir::new("copy");
        let to = scratch.join("data");
        site.restore(&to, &["--backup", text(&taken, "id"), "--target-immediate"]);
        let copy = started(&server, &to);
        assert_eq!(copy.psql("select string_agg(n::text, ',' order by n) from t"), "1,2,3");
        assert_eq!(copy.psql(tail), standby.cluster.psql(tail));
    }
}

/// A disk that was set back, as pg_resetwal can set back the WAL too: the server has not come to where the parent
/// ends, and what comes next is another history on the same timeline.
#[test]
fn f042_a_server_whose_wal_was_set_back_is_refused() {
    let Some(server) = Server::main() else { return };
    let site = Site::small(&server);
    site.cluster.psql("create table t (n int)");
    site.cluster.archive_now();
    site.cluster.stop(Stop::Fast);
    let data = site.cluster.data_dir().to_path_buf();
    let snapshot = data.with_extension("snapshot");
    let copied = run(Command::new("cp").arg("-a").arg(&data).arg(&snapshot));
    copied.assert_ok();
    site.cluster.start();
    site.cluster.psql("insert into t select generate_series(1, 1000)");
    let full = site.backup_of("full");
    site.cluster.stop(Stop::Fast);
    fs::remove_dir_all(&data).unwrap();
    fs::rename(&snapshot, &data).unwrap();
    site.cluster.start();
    let words = [text(&full, "id"), text(&full, "stop_lsn"), "set back, or pg_resetwal was run"];
    assert_refused(&site.config, &words);
}

/// Pages with checksums and pages without would lie side by side.
#[test]
fn f051_checksums_that_were_switched_on_are_refused() {
    let Some(server) = Server::main() else { return };
    let site = Site::start(TestCluster::create(&server).wal_segment_mib(1));
    let full = site.backup_of("full");
    site.cluster.stop(Stop::Fast);
    let mut enabling = site.cluster.command("pg_checksums");
    run(enabling.args(["--enable", "-D"]).arg(site.cluster.data_dir())).assert_ok();
    site.cluster.start();
    let words = [text(&full, "id"), "data checksums were off", "are on now"];
    assert_refused(&site.config, &words);
    let taken = backup_or_full(&site.cluster, &site.config, "incr");
    let next = site.backup_of("diff");
    assert_eq!(next["parent"], taken["id"]);
}

#[test]
fn without_anything_to_stand_on_a_full_is_taken_and_said() {
    let Some(server) = Server::main() else { return };
    for (backup_type, words) in [
        ("diff", "there is no full backup yet: this one is a full"),
        ("incr", "there is no backup yet: this one is a full"),
    ] {
        let site = Site::small(&server);
        let ran = backup(&site.config, backup_type).assert_ok().assert_says(words);
        let taken = json(&ran.stdout);
        assert_eq!((&taken["type"], &taken["parent"]), (&"full".into(), &Value::Null));
        let next = site.backup_of(backup_type);
        assert_eq!((&next["type"], &next["parent"]), (&backup_type.into(), &taken["id"]));
    }
}

/// An object of a backup in the repository, by its family.
fn object(site: &Site, id: &str, family: &str) -> PathBuf {
    let all = objects(site.repo.path());
    let name = format!("/{family}/{id}");
    let is_it = |path: &&PathBuf| {
        let path = path.display().to_string();
        // A child's name begins with its full's.
        path.ends_with(&name) || path.contains(&format!("{name}/"))
    };
    let found: Vec<&PathBuf> = all.iter().filter(is_it).collect();
    assert_eq!(found.len(), 1, "{name} in {all:#?}");
    found[0].clone()
}

/// An object that is gone, or has another byte, while this lives.
struct Spoilt {
    path: PathBuf,
    content: Vec<u8>,
    aside: PathBuf,
    is_gone: bool,
}

impl Spoilt {
    fn new(path: PathBuf, is_gone: bool) -> Self {
        let content = fs::read(&path).unwrap();
        let aside = path.with_extension("aside");
        if is_gone {
            fs::rename(&path, &aside).unwrap();
        } else {
            let mut other = content.clone();
            // In the first frame, whatever the object: of a manifest, in what a list of backups reads.
            let at = other.len().min(400) / 2;
            other[at] ^= 1;
            fs::write(&path, other).unwrap();
        }
        Self { path, content, aside, is_gone }
    }
}

impl Drop for Spoilt {
    fn drop(&mut self) {
        if self.is_gone {
            fs::rename(&self.aside, &self.path).unwrap();
        } else {
            fs::write(&self.path, &self.content).unwrap();
        }
    }
}

/// Whatever of a parent is gone or changed, of what a child is made from: told, and nothing comes of it. What is
/// changed in a pack is not read by a child, and found by whoever restores.
#[test]
fn f050_a_parent_that_is_gone_or_damaged_is_refused() {
    let Some(server) = Server::main() else { return };
    let site = Site::small(&server);
    site.cluster.psql("create table t as select generate_series(1, 10000) n");
    let mut command = site.config.pgkeep(["backup", "--json"]);
    let full = json(&run(command.args(["--jobs", "1"])).assert_ok().stdout);
    let id = text(&full, "id");
    for (family, is_gone) in [
        ("files", true),
        ("files", false),
        ("hash", true),
        ("hash", false),
        ("data", true),
        ("meta", true),
    ] {
        eprintln!("{family}, {is_gone}");
        let _spoilt = Spoilt::new(object(&site, id, family), is_gone);
        assert_refused(&site.config, &[id, &format!("{family}/{id}")]);
    }
    let next = site.backup_of("diff");
    assert_eq!(next["parent"], full["id"]);
    let _spoilt = Spoilt::new(object(&site, id, "data"), false);
    let blind = site.backup_of("incr");
    assert_eq!(blind["parent"], next["id"]);
    let scratch = ScratchDir::new("copy");
    let mut restoring = site.config.pgkeep(["restore", "--yes", "--target-immediate"]);
    restoring.args(["--backup", text(&blind, "id"), "--to"]).arg(scratch.join("data"));
    let refused = run(&mut restoring);
    assert!(!refused.is_ok(), "{refused}");
    refused.assert_says(&format!("data/{id}"));
}

/// Without its manifest a full does not exist, and with a changed one nobody can tell: the next older one is
/// stood on, or where there is none a full is taken.
#[test]
fn f050_without_a_readable_manifest_the_next_older_full_is_stood_on() {
    let Some(server) = Server::main() else { return };
    let site = Site::small(&server);
    let older = site.backup_of("full");
    {
        let _spoilt = Spoilt::new(object(&site, text(&older, "id"), "backup"), false);
        let words = "no backup that can be read is there: this one is a full";
        let taken = json(&backup(&site.config, "diff").assert_ok().assert_says(words).stdout);
        assert_eq!(taken["type"], "full");
        let gone = object(&site, text(&taken, "id"), "backup");
        fs::remove_file(gone).unwrap();
    }
    let newer = site.backup_of("full");
    for is_gone in [false, true] {
        let _spoilt = Spoilt::new(object(&site, text(&newer, "id"), "backup"), is_gone);
        let ran = backup(&site.config, "diff").assert_ok();
        let taken = json(&ran.stdout);
        assert_eq!((&taken["type"], &taken["parent"]), (&"diff".into(), &older["id"]));
        // What is gone nobody can tell from what never was.
        let words = "cannot be read, so that this one may stand on an older backup";
        let told = format!("{} {words}", text(&newer, "id"));
        assert_eq!(ran.stderr.contains(&told), !is_gone, "{ran}");
    }
    assert_eq!(site.backup_of("diff")["parent"], newer["id"]);
}
