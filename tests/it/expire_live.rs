//! Expiry on a real server, by the command line: what stays restores, and what goes is told.

use std::path::Path;
use std::sync::Arc;

use pgkeep::base::{Ctx, Silent};
use pgkeep::crypt::Unlock;
use pgkeep::repo::{LeaseRequest, Repository, Scope};
use pgkeep::storage::LocalStore;
use serde_json::Value;

use crate::support::run::run;
use crate::support::site::{Site, json, started};
use crate::support::{Cipher, ScratchDir, Server, TestCluster, TestConfig, TestRepo, account};

/// Rules that keep next to nothing.
pub const NARROW: &str =
    "[repository.local.retention]\ndaily = 0\nweekly = 0\nmonthly = 0\nwindow = '0s'";

fn insert(cluster: &TestCluster, n: u32) {
    cluster.psql(&format!("insert into t values ({n})"));
    cluster.archive_now();
}

pub fn ids(config: &TestConfig) -> Vec<String> {
    let info = json(&config.run(["info", "--json"]).assert_ok().stdout);
    let backups = info["repositories"][0]["backups"].as_array().unwrap();
    backups.iter().map(|backup| backup["id"].as_str().unwrap().to_owned()).collect()
}

fn reasons(config: &TestConfig, id: &str) -> Value {
    let info = json(&config.run(["info", "--json"]).assert_ok().stdout);
    let backups = info["repositories"][0]["backups"].as_array().unwrap();
    backups.iter().find(|backup| backup["id"] == id).unwrap()["reasons"].clone()
}

#[test]
fn f078_what_stays_restores_by_itself_and_what_goes_is_told() {
    let Some(server) = Server::main() else { return };
    let site = Site::small(&server);
    let (cluster, copies) = (&site.cluster, ScratchDir::new("copies"));
    cluster.psql("create table t (n int)");
    insert(cluster, 1);
    let first = site.backup();
    insert(cluster, 2);
    let middle = site.backup();
    let child = site.backup_of("diff")["id"].as_str().unwrap().to_owned();
    insert(cluster, 3);
    let last = site.backup();
    insert(cluster, 4);
    let segments = |config: &TestConfig| {
        let info = json(&config.run(["info", "--json"]).assert_ok().stdout);
        let wal = info["repositories"][0]["wal"].as_array().unwrap();
        wal.iter().map(|run| run["segments"].as_u64().unwrap()).sum::<u64>()
    };

    // Nobody gave a rule: nothing goes.
    let unruled = site.config.run(["expire"]).assert_ok();
    assert!(unruled.stderr.contains("no backup and no WAL is removed"), "{unruled}");
    assert_eq!(ids(&site.config), [&*first, &middle, &child, &last]);

    let narrow = site.config.toml(NARROW);
    let planned = narrow.run(["expire", "--dry-run"]).assert_ok();
    let words = [
        "removed  no rule keeps it",
        "last good full",
        "remove 3 of 4 backups and ",
        "expire asks, or needs --yes",
        "would have removed 3 backups, ",
        "Nothing was changed.",
    ];
    for words in words {
        assert!(planned.stdout.contains(words), "{words}\n{planned}");
    }
    // The hint is about this repository and no other.
    let asked = narrow.run(["expire"]).assert_code(1);
    assert!(asked.stderr.contains("would remove 3 of 4 backups and "), "{asked}");
    assert!(asked.stderr.contains("--repository local expire --yes`"), "{asked}");
    narrow
        .run(["pin", &first, "--reason", "audit", "--until", "2001-01-01 00:00:00+00"])
        .assert_code(2);
    narrow.run(["pin", &first, "--reason", "audit of the year"]).assert_ok();
    assert_eq!(reasons(&narrow, &first)[0], "pinned: audit of the year");
    let before = segments(&narrow);
    let planned = narrow.run(["expire", "--dry-run"]).assert_ok();
    let done = narrow.run(["expire", "--yes"]).assert_ok();
    let table = |told: &str| -> Vec<String> {
        told.lines().filter(|line| line.starts_with("  ")).map(str::to_owned).collect()
    };
    assert_eq!(table(&done.stdout), table(&planned.stdout), "what is done is what was planned");
    assert!(done.stdout.contains("removed 2 backups, "), "{done}");
    assert_eq!(ids(&narrow), [&*first, &last]);
    assert!(segments(&narrow) < before);
    // What was removed on purpose is no hole, and the same again does nothing.
    narrow.run(["wal", "gaps"]).assert_ok();
    let info = narrow.run(["info"]).assert_ok();
    let has_words = info.stdout.contains("WAL in between has expired");
    assert!(has_words && !info.stdout.contains("missing"), "{info}");
    let again = narrow.run(["expire"]).assert_ok();
    assert!(again.stdout.contains("removed 0 backups, 0 WAL segments, 0 objects"), "{again}");

    // The pinned one restores by itself, to its own end.
    let to = copies.join("pinned");
    let mut command = narrow.pgkeep(["restore", "--yes", "--backup", &first, "--target-immediate"]);
    run(command.args(["--target-action", "promote", "--to"]).arg(&to)).assert_ok();
    let copy = started(&server, &to);
    assert_eq!(copy.psql("select string_agg(n::text, ',' order by n) from t"), "1");
    // Further it does not get, and the reason is told.
    let mut command = narrow.pgkeep(["restore", "--yes", "--backup", &first, "--to"]);
    let refused = run(command.arg(copies.join("further"))).assert_code(13);
    assert!(refused.stderr.contains("removed by expire"), "{refused}");
    let to = copies.join("last");
    let mut command = narrow.pgkeep(["restore", "--yes", "--target-action", "promote", "--to"]);
    run(command.arg(&to)).assert_ok();
    let copy = started(&server, &to);
    assert_eq!(copy.psql("select string_agg(n::text, ',' order by n) from t"), "1,2,3,4");
    // Recovery of a restore may go on for a while: what it began with stays.
    let planned = json(&narrow.run(["expire", "--dry-run", "--json"]).assert_ok().stdout);
    let kept = &planned["repositories"][0]["plan"][0]["backups"][0]["reasons"];
    assert!(kept.to_string().contains("in use by restore"), "{kept}");

    narrow.run(["unpin", &first]).assert_ok();
    let absent = narrow.run(["pin", &middle, "--reason", "too late"]).assert_code(1);
    assert!(absent.stderr.contains("there is no backup"), "{absent}");
    let absent = narrow.run(["repository", "thaw", &middle]).assert_code(1);
    assert!(absent.stderr.contains("there is no backup"), "{absent}");
}

/// Its section was renamed: expire removed nothing for ever, and said that all was well.
#[test]
fn d2026_12_01_a_cluster_that_is_not_registered_is_told() {
    let Some(server) = Server::main() else { return };
    let site = Site::small(&server);
    let text = std::fs::read_to_string(site.config.path()).unwrap();
    let config = site.config.toml(NARROW);
    let renamed = text.replace("[cluster.main", "[cluster.other");
    std::fs::write(config.path(), format!("{renamed}\n{NARROW}\n")).unwrap();
    for arguments in [["expire", "--yes"], ["expire", "--dry-run"]] {
        let told = config.run(arguments).assert_code(10);
        assert!(told.stderr.contains("other"), "{told}");
    }
}

/// A backup that is followed by expiry, and a differential whose parent is about to go.
#[test]
fn each_backup_may_be_followed_by_expiry() {
    let Some(server) = Server::main() else { return };
    let site = Site::small(&server);
    let first = site.backup();
    let rules = format!("{NARROW}\nafter_backup = true\nguard = '100%'");
    let config = site.config.toml(&rules);
    let second = json(&config.run(["backup", "--json"]).assert_ok().stdout);
    let second = second["id"].as_str().unwrap().to_owned();
    assert_eq!(ids(&config), [&*second], "{first} has gone");
    let child = json(&config.run(["backup", "--json", "--type", "diff"]).assert_ok().stdout);
    assert_eq!(ids(&config), [&*second, child["id"].as_str().unwrap()]);
}

/// What this process has made belongs to the account that pgkeep runs as.
fn own(folder: &Path) {
    account::unprivileged().own(folder);
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        match entry.path().is_dir() {
            true => own(&entry.path()),
            false => account::unprivileged().own(&entry.path()),
        }
    }
}

#[test]
fn f084_f097_who_is_at_it_is_named() {
    let Some(server) = Server::main() else { return };
    let cluster = TestCluster::create(&server).wal_segment_mib(1).archiving().start();
    let repo = TestRepo::new();
    let config = TestConfig::new(&cluster).repository("local", &repo, Cipher::None).toml(NARROW);
    config.run(["init"]).assert_ok();
    cluster.set_archive_command(&config.archive_command());
    let ctx = Ctx::system(Arc::new(Silent));
    let store = LocalStore::open(repo.path()).unwrap();
    let repository = Repository::open(Arc::new(store), &Unlock::Clear).unwrap();
    let request = LeaseRequest {
        scope: Scope::Expire,
        cluster: "main",
        host: "db7",
        pid: 42,
        purpose: "expire",
        backup: None,
        server: None,
        is_gone: |_, _| false,
    };
    let mut lease = repository.take_lease(&ctx, &request).unwrap();
    own(repo.path());
    let held = config.run(["expire"]).assert_code(11);
    assert!(held.stderr.contains("held by db7, process 42: expire"), "{held}");
    config.run(["expire", "--dry-run"]).assert_ok();
    lease.release(&ctx);
    config.run(["expire"]).assert_ok();
    // A backup of another server of the cluster.
    let request = LeaseRequest { scope: Scope::Backup, purpose: "backup --type full", ..request };
    let mut lease = repository.take_lease(&ctx, &request).unwrap();
    own(repo.path());
    let held = config.run(["backup"]).assert_code(11);
    assert!(held.stderr.contains("held by db7, process 42: backup --type full"), "{held}");
    lease.release(&ctx);
    config.run(["backup"]).assert_ok();
}
