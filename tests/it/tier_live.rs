//! Cold storage on a real server, by the command line: what is old moves, is refused, thawed, restored, and is
//! what it was.

use std::time::Duration;

use serde_json::Value;

use crate::support::run::{Ran, run, start};
use crate::support::site::{json, started};
use crate::support::{BucketSite, Cipher, Server, TestConfig, TestS3, tools};

const RULES: &str = "[repository.bucket.retention]\nlast = 9\nwindow = '30d'\n\
                     [repository.bucket.tiering]\nafter = '0s'\nstorage_class = 'GLACIER'\nthaw_days = 3\n\
                     [repository.bucket.prices]\nstandard = '1000000'\nglacier = '100000'";

/// Storage classes, and how many objects each has.
type Classes = Vec<(String, u64)>;

/// Packs by class, and everything else by class, as `repository stats` tells.
fn classes(config: &TestConfig) -> (Classes, Classes) {
    let stats = json(&config.run(["repository", "stats", "--json"]).assert_ok().stdout);
    let rows = stats["repositories"][0]["objects"].as_array().unwrap().clone();
    let (packs, others): (Vec<Value>, Vec<Value>) =
        rows.into_iter().partition(|row| row["what"] == "packs");
    let of = |rows: Vec<Value>| {
        let row = |row: Value| {
            let class = row["class"].as_str().unwrap().to_owned();
            (class, row["objects"].as_u64().unwrap())
        };
        rows.into_iter().map(row).collect()
    };
    (of(packs), of(others))
}

fn backup_of(config: &TestConfig, backup_type: &str) -> String {
    let taken = config.run(["backup", "--json", "--type", backup_type]).assert_ok();
    json(&taken.stdout)["id"].as_str().unwrap().to_owned()
}

/// Three rows, each in a backup of its own: a full, a differential on it, a newer full.
fn site(server: &Server, s3: TestS3) -> (BucketSite, [String; 3]) {
    let site = BucketSite::new(server, s3, Cipher::Aes).archiving();
    let mut ids = Vec::new();
    for (n, backup_type) in [(1, "full"), (2, "diff"), (3, "full")] {
        site.cluster.psql(&format!("insert into t values ({n})"));
        ids.push(backup_of(&site.config, backup_type));
    }
    (site, ids.try_into().unwrap())
}

fn rows(server: &Server, to: &std::path::Path) -> String {
    started(server, to).psql("select string_agg(n::text, ',' order by n) from t")
}

#[track_caller]
fn assert_says(ran: &Ran, words: &[&str]) {
    let said = format!("{}{}", ran.stdout, ran.stderr);
    words.iter().for_each(|words| assert!(said.contains(words), "{words}\n{ran}"));
}

#[test]
fn f089_a_cold_backup_is_refused_thawed_and_restored() {
    let Some(server) = Server::main() else { return };
    let (site, [full, diff, last]) = site(&server, TestS3::builder().versioned().start());
    let config = site.config.toml(RULES);
    let packs_before = classes(&config).0;
    assert_eq!(packs_before.len(), 1, "{packs_before:?}");

    let planned = config.run(["expire", "--dry-run"]).assert_ok();
    let lines = [
        format!("{full} and 1 more: "),
        format!("{last}: stays: last chain"),
        "from STANDARD to GLACIER: closed".to_owned(),
        "are charged for 90 days at least".to_owned(),
        "the bucket keeps versions: ".to_owned(),
    ];
    assert_says(&planned, &lines.each_ref().map(String::as_str));
    assert_eq!(classes(&config).0, packs_before, "a plan moves nothing");
    assert_says(&config.run(["expire"]).assert_ok(), &["tiering: moved "]);
    let (packs, others) = classes(&config);
    let names: Vec<_> = packs.iter().map(|(class, _)| class.as_str()).collect();
    assert_eq!(names, ["STANDARD", "GLACIER"]);
    assert!(others.iter().all(|(class, _)| class == "STANDARD"), "{others:?}");
    let again = config.run(["expire", "--json"]).assert_ok();
    let moved = &json(&again.stdout)["repositories"][0]["tiering"]["moved"];
    assert_eq!(moved["packs"], 0, "{again}");
    // What would be removed has just come there, and is paid for all the same.
    let mut narrow = config.pgkeep(["expire", "--dry-run"]);
    narrow.env("PGKEEP_REPOSITORY__BUCKET__RETENTION__LAST", "0");
    narrow.env("PGKEEP_REPOSITORY__BUCKET__RETENTION__DAILY", "0");
    narrow.env("PGKEEP_REPOSITORY__BUCKET__RETENTION__WEEKLY", "0");
    narrow.env("PGKEEP_REPOSITORY__BUCKET__RETENTION__MONTHLY", "0");
    narrow.env("PGKEEP_REPOSITORY__BUCKET__RETENTION__WINDOW", "0s");
    let early = run(&mut narrow).assert_ok();
    assert_says(&early, &["leave GLACIER early: up to 90 days, ", "no rule keeps it"]);
    // What stays hot answers every question.
    assert_says(&config.run(["info"]).assert_ok(), &[&full, &diff, &last]);
    assert_says(&config.run(["check"]).assert_ok(), &["none ends older versions"]);

    // A restore that needs it changes nothing, and says what it takes.
    let to = site.scratch.join("cold");
    let restore = |more: &[&str]| {
        let mut command =
            config.pgkeep(["restore", "--yes", "--backup", &diff, "--target-immediate"]);
        command.args(["--target-action", "promote", "--to"]).arg(&to).args(more);
        command
    };
    let refused = run(&mut restore(&[])).assert_code(16);
    let words = [
        "must be thawed",
        "GLACIER: ",
        "standard   3 h to 5 h",
        "repository thaw 2",
        "restore --yes",
        "lost ",
    ];
    assert_says(&refused, &words);
    assert!(!to.exists(), "{refused}");
    let planned = json(&run(&mut restore(&["--dry-run", "--json"])).assert_ok().stdout);
    assert!(planned["cold"]["objects"].as_u64() >= Some(2), "{planned}");
    // What is wrong with the target shows before anything is asked for and paid.
    std::fs::create_dir(&to).unwrap();
    std::fs::write(to.join("photo"), "of somebody").unwrap();
    site.s3.reset_counts();
    run(&mut restore(&["--thaw", "bulk", "--no-wait"])).assert_code(15);
    run(&mut restore(&["--dry-run"])).assert_code(15);
    assert_eq!(site.s3.requests("RestoreObject"), 0);
    std::fs::remove_dir_all(&to).unwrap();
    let asked = run(&mut restore(&["--thaw", "bulk", "--no-wait"])).assert_code(16);
    assert_says(&asked, &["is being thawed", "The same command goes on then"]);
    assert!(!to.exists());
    // While it is thawed it stays where it is and is not removed.
    let kept = config.run(["expire", "--dry-run"]).assert_ok();
    assert_says(&kept, &["in use by thaw", "stays: in use by thaw"]);

    // One that waits goes on when the service is ready.
    let waiting = start(&mut restore(&["--thaw", "standard"]));
    std::thread::sleep(Duration::from_secs(3));
    assert!(!to.exists(), "it waits");
    assert!(site.s3.finish_thaws() >= 2);
    waiting.wait().assert_ok();
    tools::assert_verifybackup(&site.cluster, &to);
    assert_eq!(rows(&server, &to), "1,2");

    // When the thawed copies have ended it is as before.
    let ready = config.run(["repository", "thaw", &diff, "--dry-run"]).assert_ok();
    assert_says(&ready, &["are thawed and can be read"]);
    site.s3.advance_clock(Duration::from_hours(24 * 4));
    let over = config.run(["repository", "thaw", &diff, "--dry-run"]).assert_ok();
    // Which objects, for people and for programs.
    let folder = format!("/data/{diff}/");
    assert_says(&over, &["must be thawed before they can be read", &folder]);
    let name = format!("{folder}000000");
    let told = config.run(["repository", "thaw", &diff, "--dry-run", "--json"]).assert_ok();
    let told = json(&told.stdout)["cold"]["packs"].clone();
    let told = told.as_array().unwrap_or_else(|| panic!("{told}"));
    assert!(told.iter().any(|pack| pack["name"].as_str().unwrap().ends_with(&name)), "{told:?}");
    assert!(told.iter().all(|pack| pack["state"] == "cold" && pack["class"] == "GLACIER"));
    let newest = config.run(["repository", "thaw", &last]).assert_ok();
    assert_says(&newest, &["nothing is to be thawed"]);
}

#[test]
fn f089_a_backup_is_thawed_ahead_of_a_restore() {
    let Some(server) = Server::main() else { return };
    let (site, [full, ..]) = site(&server, TestS3::builder().start());
    let deep = RULES.replace("'GLACIER'", "'DEEP_ARCHIVE'");
    let config = site.config.toml(&deep);
    config.run(["expire"]).assert_ok();
    let wrong =
        config.run(["repository", "thaw", &full, "--speed", "expedited", "--yes"]).assert_code(2);
    assert_says(&wrong, &["DEEP_ARCHIVE knows no expedited thaw; it knows standard and bulk"]);
    config.run(["repository", "thaw", &full]).assert_code(2);
    let asked =
        config.run(["repository", "thaw", &full, "--speed", "bulk", "--yes", "--json"]).assert_ok();
    let told = json(&asked.stdout);
    assert!(told["thaw"]["thawing"].as_u64() >= Some(1), "{asked}");
    assert_eq!(told["thaw"]["readable"], 0, "{asked}");
    site.s3.finish_thaws();
    let to = site.scratch.join("ahead");
    let mut command = config.pgkeep(["restore", "--yes", "--backup", &full, "--target-immediate"]);
    run(command.args(["--target-action", "promote", "--to"]).arg(&to)).assert_ok();
    assert_eq!(rows(&server, &to), "1");
    // The whole repository has a price.
    let stats = config.run(["repository", "stats"]).assert_ok();
    assert_says(
        &stats,
        &["DEEP_ARCHIVE", "without DEEP_ARCHIVE, for which no price is written", "USD a month"],
    );
}

/// Rules of the bucket move what is tagged; pgkeep copies nothing.
#[test]
fn packs_are_tagged_for_the_buckets_own_rules() {
    let Some(server) = Server::main() else { return };
    let (site, [full, ..]) = site(&server, TestS3::builder().start());
    let config = site.config.toml(&RULES.replace("thaw_days = 3", "by = 'tag'"));
    let printed = json(&config.run(["repository", "lifecycle"]).assert_ok().stdout);
    let rule = &printed["Rules"][0];
    assert_eq!(rule["Transitions"][0]["StorageClass"], "GLACIER", "{printed}");
    assert_eq!(rule["Filter"]["And"]["Tags"][0]["Key"], "pgkeep-class", "{printed}");
    assert_eq!(rule["Filter"]["And"]["Prefix"], "pgkeep/", "{printed}");
    site.s3.reset_counts();
    assert_says(&config.run(["expire"]).assert_ok(), &["tiering: tagged "]);
    assert_eq!(site.s3.requests("CopyObject"), 0);
    let tagged = site.s3.requests("PutObjectTagging");
    assert!(tagged >= 2, "{tagged}");
    // Until the rules have done it, nobody tags twice.
    config.run(["expire"]).assert_ok();
    assert_eq!(site.s3.requests("PutObjectTagging"), tagged);
    // Who reads takes the tags back: the bucket knows nothing of leases.
    let to = site.scratch.join("tagged");
    let mut command =
        config.pgkeep(["restore", "--yes", "--backup", &full, "--target-immediate", "--to"]);
    run(command.arg(&to)).assert_ok();
    let own = site.s3.keys().into_iter().filter(|key| key.contains(&format!("/data/{full}/")));
    for key in own {
        assert_eq!(
            site.s3.tags(&key),
            [("pgkeep-class".to_owned(), "STANDARD".to_owned())],
            "{key}"
        );
    }
}

/// Age does not tell which backup needs which WAL.
#[test]
fn f089_rules_of_the_bucket_that_would_take_wal_away_are_told() {
    let Some(server) = Server::main() else { return };
    let s3 = TestS3::builder().lifecycle_rule("photos/", None).start();
    let site = BucketSite::new(&server, s3, Cipher::None).archiving();
    site.backup();
    assert_says(&site.config.run(["check"]).assert_ok(), &["lifecycle rules: none that removes"]);
    let s3 = TestS3::builder()
        .lifecycle_rule("pgkeep/", None)
        .lifecycle_rule("", Some("GLACIER"))
        .start();
    let site = BucketSite::new(&server, s3, Cipher::None).archiving();
    site.backup();
    let found = site.config.run(["check"]).assert_code(14);
    assert_says(
        &found,
        &[
            "rule rule-0: it removes objects by their age",
            "rule rule-1: it moves objects to GLACIER",
        ],
    );
}
