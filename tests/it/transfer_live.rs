//! Copies of a real cluster's repository, by the command line: what arrived restores, wherever it came from.

use std::path::Path;

use pgkeep::repo::{BackupType, CipherChoice};
use serde_json::Value;

use crate::resume_live::{at_rest, die, taken};
use crate::support::run::{Ran, run};
use crate::support::site::{Site, json, started};
use crate::support::{
    Cipher, ScratchDir, Server, TestCluster, TestConfig, TestRepo, TestS3, tools,
};
use crate::transfer_store::{Target, assert_same, copy, request};

fn backups_in(config: &TestConfig, repository: &str) -> Vec<Value> {
    let info = config.run(["info", "--json", "--repository", repository]).assert_ok();
    let info = json(&info.stdout);
    let all = info["repositories"].as_array().unwrap();
    let meant = all.iter().find(|each| each["repository"] == repository).unwrap();
    meant["backups"].as_array().unwrap().clone()
}

fn ids(backups: &[Value]) -> Vec<String> {
    backups.iter().map(|backup| backup["id"].as_str().unwrap().to_owned()).collect()
}

#[track_caller]
fn restored_rows(
    cluster: &TestCluster,
    server: &Server,
    (config, from): (&TestConfig, &str),
    to: &Path,
    arguments: &[&str],
) -> String {
    let mut command = config.pgkeep(["restore", "--yes", "--target-action", "promote"]);
    run(command.args(["--repository", from, "--to"]).arg(to).args(arguments)).assert_ok();
    tools::assert_verifybackup(cluster, to);
    let copy = started(server, to);
    copy.psql(
        "select count(*) || ' ' || sum(n) || ' ' || md5(string_agg(t, ',' order by n)) from t",
    )
}

#[test]
fn a_copy_in_a_bucket_restores_and_so_does_the_copy_of_the_copy() {
    let Some(server) = Server::main() else { return };
    let site = Site::small(&server);
    let (cluster, copies) = (&site.cluster, ScratchDir::new("copies"));
    let rows =
        "select count(*) || ' ' || sum(n) || ' ' || md5(string_agg(t, ',' order by n)) from t";
    cluster.psql("create table t as select n, md5(n::text) t from generate_series(1, 20000) n");
    let full = site.backup();
    let first = cluster.psql(rows);
    cluster.psql("update t set t = 'x' where n % 7 = 0; insert into t values (0, 'y')");
    let child = site.backup_of("diff")["id"].as_str().unwrap().to_owned();
    cluster.psql("insert into t values (-1, 'z')");
    cluster.archive_now();
    let last = cluster.psql(rows);

    // A repository that comes later, in a bucket, with a key of its own.
    let s3 = TestS3::start();
    let Site { config, repo, cluster } = site;
    let cluster = &cluster;
    let both = config.bucket("offsite", &s3, Cipher::Aes);
    both.run(["init"]).assert_ok();
    let words = ["repository", "copy", "--from", "local", "--to", "offsite"];
    let plan = both.run(["repository", "copy", "--from", "local", "--to", "offsite", "--dry-run"]);
    let plan = plan.assert_ok();
    for text in [&*full, &child, "Nothing was changed.", "WAL: "] {
        assert!(plan.stdout.contains(text), "{text}\n{plan}");
    }
    assert!(backups_in(&both, "offsite").is_empty());
    let done = both.run(words).assert_ok();
    assert!(done.stdout.contains("copied from local to offsite: 2 backups, "), "{done}");
    assert_eq!(ids(&backups_in(&both, "offsite")), [&*full, &child]);
    assert!(backups_in(&both, "offsite").iter().all(|backup| backup["state"] == "ok"));
    both.run(["wal", "gaps"]).assert_ok();
    // Nothing of the content lies there in the clear, nor under the other key.
    let nothing = json(
        &both
            .run(["repository", "copy", "--from", "local", "--to", "offsite", "--json"])
            .assert_ok()
            .stdout,
    );
    assert_eq!(nothing["copied"]["objects"], 0, "{nothing}");

    // The source is lost, and nobody asks it any more.
    std::fs::remove_dir_all(repo.path()).unwrap();
    let alone = TestConfig::new(cluster).bucket("offsite", &s3, Cipher::Aes);
    let key = std::fs::read_to_string(both.path().with_file_name("offsite.key")).unwrap();
    alone.write("offsite.key", &key);
    let to = copies.join("latest");
    assert_eq!(restored_rows(cluster, &server, (&alone, "offsite"), &to, &[]), last);
    let to = copies.join("first");
    let old = ["--backup", &*full, "--target-immediate"];
    assert_eq!(restored_rows(cluster, &server, (&alone, "offsite"), &to, &old), first);

    // And home again, one backup, in the clear, into a folder.
    let home = TestRepo::new();
    let config = alone.repository("home", &home, Cipher::None);
    config.run(["init", "--repository", "home"]).assert_ok();
    let args = ["repository", "copy", "--from", "offsite", "--to", "home", "--backup", &child];
    let done = config.run(args).assert_ok();
    assert!(done.stdout.contains("2 backups"), "{done}");
    let to = copies.join("home");
    let own = ["--backup", &*child, "--target-immediate"];
    let rows = restored_rows(cluster, &server, (&config, "home"), &to, &own);
    assert!(rows.starts_with("20001 "), "{rows}");
}

#[test]
fn what_may_not_be_copied_is_refused_by_name() {
    let Some(server) = Server::main() else { return };
    let site = Site::small(&server);
    let full = site.backup();
    let other = TestRepo::new();
    let config = site.config.repository("abroad", &other, Cipher::Aes);
    config.run(["init"]).assert_ok();
    let in_eu = |to: Option<&str>| -> Ran {
        let mut command =
            config.pgkeep(["repository", "copy", "--from", "local", "--to", "abroad"]);
        command.env("PGKEEP_REPOSITORY__LOCAL__JURISDICTION", "EU");
        to.map(|to| command.env("PGKEEP_REPOSITORY__ABROAD__JURISDICTION", to));
        run(&mut command)
    };
    for to in [None, Some("US")] {
        let refused = in_eu(to).assert_code(1);
        for words in
            ["repository local", "jurisdiction EU", "repository abroad", "No flag overrides it"]
        {
            assert!(refused.stderr.contains(words), "{words}\n{refused}");
        }
    }
    assert!(backups_in(&config, "abroad").is_empty());
    in_eu(Some("EU")).assert_ok();
    assert_eq!(ids(&backups_in(&config, "abroad")), [full]);
    config.run(["repository", "copy", "--from", "local", "--to", "nowhere"]).assert_code(2);
    config.run(["repository", "copy", "--from", "local", "--to", "local"]).assert_code(2);
    let args = ["repository", "copy", "--from", "local", "--to", "abroad", "--repository", "local"];
    config.run(args).assert_code(2);
}

/// Packs of interrupted backups go with those that use them; a chain reads back block by block.
#[test]
fn a_chain_that_stands_on_interrupted_backups_arrives_whole() {
    let Some(server) = Server::main() else { return };
    let (live, repository, all) = at_rest(&server);
    die(&live, all * 5 / 10, BackupType::Full);
    live.cluster.psql("update big set t = 'x' where n % 1000 = 0");
    live.cluster.psql("checkpoint");
    assert!(taken(&live, &repository, BackupType::Full).0 > 1 << 20);
    live.cluster.psql("update big set t = t || 'z'; checkpoint");
    die(&live, all * 5 / 10, BackupType::Incremental);
    taken(&live, &repository, BackupType::Incremental);
    taken(&live, &repository, BackupType::Differential);
    let (ctx, place) = (&live.ctx, &live.place);
    let backups = repository.backups(ctx, place).unwrap().complete;
    assert!(backups.iter().any(|backup| !backup.attempts.is_empty()));
    let ids: Vec<_> = backups.into_iter().map(|backup| backup.id).collect();
    let clear = Target::new(ctx, CipherChoice::None);
    copy(ctx, &request(&repository, &clear.repository)).unwrap();
    assert_same(ctx, place, (&repository, &clear.repository), &ids);
    let sealed = Target::new(ctx, CipherChoice::Aes256Cbc);
    let mut one = request(&clear.repository, &sealed.repository);
    one.backups = ids.last().cloned().into_iter().collect();
    copy(ctx, &one).unwrap();
    assert_same(ctx, place, (&repository, &sealed.repository), &[ids.last().cloned().unwrap()]);
}

/// Backups go to a folder first, and what its rules do not keep goes on to a bucket when it expires.
#[test]
fn a_folder_hands_old_backups_on_to_a_bucket() {
    let Some(server) = Server::main() else { return };
    let site = Site::small(&server);
    let s3 = TestS3::start();
    let Site { config, repo: _repo, cluster } = site;
    let rules = "[repository.local.retention]\ndaily = 0\nweekly = 0\nmonthly = 0\nwindow = '0s'\n\
                 [repository.local.tiering]\nafter = '1s'\nto = 'offsite'\n";
    let config = config.bucket("offsite", &s3, Cipher::Aes).toml(rules);
    config.run(["init"]).assert_ok();
    cluster.set_archive_command(&config.archive_command());
    let backup = |kind: &str| {
        let args = ["backup", "--repository", "local", "--json", "--type", kind];
        let taken = json(&config.run(args).assert_ok().stdout);
        taken["id"].as_str().unwrap().to_owned()
    };
    cluster.psql("create table t as select n, md5(n::text) t from generate_series(1, 5000) n");
    let full = backup("full");
    cluster.psql("insert into t values (0, 'y')");
    let child = backup("diff");
    cluster.psql("insert into t values (-1, 'z')");
    let last = backup("full");
    cluster.archive_now();
    let planned = config.run(["expire", "--dry-run", "--repository", "local"]).assert_ok();
    assert!(planned.stdout.contains("moves to offsite: copy from local to offsite"), "{planned}");
    assert!(backups_in(&config, "offsite").is_empty());
    // Where nothing may be copied, nothing is removed.
    let mut refused = config.pgkeep(["expire", "--yes", "--repository", "local"]);
    let refused = run(refused.env("PGKEEP_REPOSITORY__LOCAL__JURISDICTION", "EU")).assert_code(1);
    assert!(refused.stderr.contains("must stay in jurisdiction EU"), "{refused}");
    assert_eq!(ids(&backups_in(&config, "local")), [&*full, &child, &last]);
    let done = config.run(["expire", "--yes", "--repository", "local"]).assert_ok();
    for words in ["moved to offsite: 2 backups", "moved to offsite", "removed 2 backups"] {
        assert!(done.stdout.contains(words), "{words}\n{done}");
    }
    assert_eq!(ids(&backups_in(&config, "local")), [&*last]);
    assert_eq!(ids(&backups_in(&config, "offsite")), [&*full, &child]);
    let again = config.run(["expire", "--yes", "--repository", "local"]).assert_ok();
    assert!(again.stdout.contains("removed 0 backups"), "{again}");
    let copies = ScratchDir::new("copies");
    let (moved, here) = (copies.join("moved"), copies.join("here"));
    let own = ["--backup", &*child, "--target-immediate"];
    let rows = restored_rows(&cluster, &server, (&config, "offsite"), &moved, &own);
    assert!(rows.starts_with("5001 "), "{rows}");
    let rows = restored_rows(&cluster, &server, (&config, "local"), &here, &[]);
    assert!(rows.starts_with("5002 "), "{rows}");
}
