//! The three roles of docs/s3.md: their policies are read from that page, and pgkeep runs under them.
//!
//! So what the page promises of a writer is what a test saw a writer do, and be refused.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use pgkeep::base::{Ctx, Secret, Silent};
use pgkeep::storage::s3::{AccessKeys, Credentials, S3Options};
use pgkeep::storage::{Error, ObjectKey, ObjectStore, S3Store, StorageClass};
use serde_json::Value;

use crate::support::run::{Ran, run};
use crate::support::s3::{Asked, Fault, S3Builder, TestS3};
use crate::support::site::json;
use crate::support::{Launch, ScratchDir, Server, TestCluster, TestConfig, account};

const BUCKET: &str = "my-backups";
const PREFIX: &str = "pgkeep";
const ROLES: [&str; 3] = ["writer", "expirer", "reader"];

const PACK: &str = "c/main/7123456789012345678-1/data/20261120-020000F/000000";

// ---------------------------------------------------------------- the page

fn page() -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/s3.md")).unwrap()
}

/// A policy as the page has it.
#[derive(Debug, Clone)]
struct Policy(Value);

impl Policy {
    fn of(role: &str) -> Self {
        let (page, mark) = (page(), format!("<!-- policy: {role} -->\n```json\n"));
        let text = page.split_once(&mark).unwrap_or_else(|| panic!("no policy of a {role}")).1;
        Self(json(text.split_once("```").unwrap().0))
    }

    /// As IAM decides: nothing but what is allowed, and nothing that is denied.
    fn allows(&self, asked: &Asked<'_>) -> bool {
        let statements = self.0["Statement"].as_array().unwrap();
        let any = |effect: &str| {
            let mut of_effect = statements.iter().filter(|each| each["Effect"] == effect);
            of_effect.any(|statement| applies(statement, asked))
        };
        any("Allow") && !any("Deny")
    }
}

fn applies(statement: &Value, asked: &Asked<'_>) -> bool {
    let known = ["Sid", "Effect", "Action", "Resource", "Condition"];
    assert!(statement.as_object().unwrap().keys().all(|key| known.contains(&key.as_str())));
    let is_on_bucket =
        asked.action.starts_with("s3:ListBucket") || asked.action.starts_with("s3:GetBucket");
    let resource = match is_on_bucket {
        true => format!("arn:aws:s3:::{BUCKET}"),
        false => format!("arn:aws:s3:::{BUCKET}/{}", asked.key),
    };
    let covers = |pattern: &Value| match pattern.as_str().unwrap().strip_suffix('*') {
        Some(beginning) => resource.starts_with(beginning),
        None => pattern == &Value::from(resource.as_str()),
    };
    let several = |value: &Value| value.as_array().cloned().unwrap_or_else(|| vec![value.clone()]);
    several(&statement["Action"]).contains(&Value::from(asked.action))
        && several(&statement["Resource"]).iter().any(covers)
        && statement.get("Condition").is_none_or(|condition| holds(condition, asked))
}

fn holds(condition: &Value, asked: &Asked<'_>) -> bool {
    condition.as_object().unwrap().iter().all(|(operator, keys)| {
        keys.as_object().unwrap().iter().all(|(key, value)| {
            let is = match (operator.as_str(), key.as_str()) {
                ("Null", "s3:if-none-match") => !asked.has_if_none_match,
                ("Bool", "s3:ObjectCreationOperation") => asked.is_creation,
                other => panic!("{other:?} is not what this test knows"),
            };
            value == &Value::from(is.to_string())
        })
    })
}

#[test]
fn the_blocks_of_the_page_are_json_and_its_policies_say_what_its_table_says() {
    let page = page();
    let blocks: Vec<_> = page.split("```json\n").skip(1).collect();
    assert_eq!(blocks.len(), 4, "three policies and the lifecycle rules");
    for block in blocks {
        json(block.split_once("```").unwrap().0);
    }
    let name = format!("{PREFIX}/a");
    let asked = |action, has_if_none_match, is_creation| Asked {
        action,
        key: &name,
        has_if_none_match,
        is_creation,
    };
    for (what, asked, [writer, expirer, reader]) in [
        ("list", asked("s3:ListBucket", false, false), [true, true, true]),
        ("read", asked("s3:GetObject", false, false), [true, true, true]),
        ("put under a free name", asked("s3:PutObject", true, true), [true, true, false]),
        ("send a part", asked("s3:PutObject", false, false), [true, true, false]),
        ("replace", asked("s3:PutObject", false, true), [false, true, false]),
        ("delete", asked("s3:DeleteObject", false, false), [false, true, false]),
        (
            "list uploads",
            asked("s3:ListBucketMultipartUploads", false, false),
            [false, true, false],
        ),
        ("abort", asked("s3:AbortMultipartUpload", false, false), [true, true, false]),
        ("thaw", asked("s3:RestoreObject", false, false), [false, false, true]),
        ("end locks", asked("s3:BypassGovernanceRetention", false, false), [false; 3]),
        ("end versions", asked("s3:DeleteObjectVersion", false, false), [false; 3]),
    ] {
        for (role, expected) in ROLES.into_iter().zip([writer, expirer, reader]) {
            assert_eq!(Policy::of(role).allows(&asked), expected, "{role}: {what}");
        }
    }
    let elsewhere = Asked { key: "other/a", ..asked("s3:GetObject", false, false) };
    assert!(ROLES.iter().all(|role| !Policy::of(role).allows(&elsewhere)));
}

// ---------------------------------------------------------------- servers and configurations

fn with_roles(builder: S3Builder) -> S3Builder {
    ROLES.into_iter().fold(builder.bucket(BUCKET), |builder, role| {
        let policy = Policy::of(role);
        builder.account(role, move |asked| policy.allows(asked))
    })
}

fn server() -> TestS3 {
    with_roles(TestS3::builder()).start()
}

/// The section of a repository in the bucket, as an account.
fn repository(s3: &TestS3, scratch: &ScratchDir, who: &str, region: &str) -> String {
    let keys = s3.account(who);
    let access = scratch.write(&format!("{who}-access"), &keys.access_key);
    let secret = scratch.write(&format!("{who}-secret"), &keys.secret_key);
    format!(
        "[repository.offsite]\nurl = \"s3://{BUCKET}/{PREFIX}\"\nendpoint = \"{}\"\nregion = \"{region}\"\n\
         path_style = true\naccess_key_file = \"{}\"\nsecret_key_file = \"{}\"\nretry_for = \"2s\"\n\
         [repository.offsite.encryption]\ncipher = \"aes-256-cbc\"\nkey_file = \"{}\"\n",
        s3.endpoint(),
        access.display(),
        secret.display(),
        scratch.join("offsite.key").display()
    )
}

/// A place from which pgkeep is called as any account; its PostgreSQL server cannot be reached.
struct Desk {
    scratch: ScratchDir,
}

impl Desk {
    fn new() -> Self {
        Self { scratch: ScratchDir::new("roles") }
    }

    fn configure(&self, s3: &TestS3, who: &str, region: &str, more: &str) {
        let scratch = &self.scratch;
        let text = format!(
            "[cluster.main]\nconnection = \"host={} port=1 connect_timeout=2\"\n\n{}\n{more}",
            scratch.path().display(),
            repository(s3, scratch, who, region)
        );
        scratch.write("pgkeep.toml", text);
    }

    fn run(&self, line: &str) -> Ran {
        let binary = self.scratch.pgkeep_binary();
        let mut command: Command = account::unprivileged().command(binary, self.scratch.path());
        run(command.args(["--config", "pgkeep.toml"]).args(line.split_whitespace()))
    }

    /// Runs it as an account.
    fn run_as(&self, s3: &TestS3, who: &str, line: &str) -> Ran {
        self.configure(s3, who, s3.region(), "");
        self.run(line)
    }

    /// A repository, made by the expirer; only the cluster cannot be registered.
    fn init(&self, s3: &TestS3) -> Ran {
        self.run_as(s3, "expirer", "init").assert_code(1).assert_says("made in s3://")
    }

    /// What `check` says of one thing, as an account: level, what was found, what to do.
    fn finding(&self, s3: &TestS3, who: &str, check: &str) -> (String, String, String) {
        let ran = self.run_as(s3, who, "check --json").assert_code(14);
        found(&json(&ran.stdout), check)
    }
}

fn found(checked: &Value, check: &str) -> (String, String, String) {
    let mut findings = checked["findings"].as_array().unwrap().iter();
    let finding = findings.find(|each| each["check"] == check && each["repository"] == "offsite");
    let finding = finding.unwrap_or_else(|| panic!("nothing of {check} in {checked:#}"));
    let text = |name: &str| finding[name].as_str().unwrap_or_default().to_owned();
    (text("level"), text("found"), text("todo"))
}

fn store(s3: &TestS3, who: &str) -> S3Store {
    let keys = s3.account(who);
    let options = S3Options {
        bucket: BUCKET.to_owned(),
        prefix: PREFIX.to_owned(),
        credentials: Credentials::Fixed(AccessKeys {
            access_key: Secret::new(keys.access_key.clone()),
            secret_key: Secret::new(keys.secret_key.clone()),
            session_token: None,
        }),
        ..crate::s3_store::options(s3)
    };
    S3Store::open(&Ctx::system(std::sync::Arc::new(Silent)), options).unwrap()
}

fn key(name: &str) -> ObjectKey {
    ObjectKey::new(name).unwrap()
}

/// Begins an upload and forgets it, as a killed process does.
fn abandon(s3: &TestS3, name: &str) {
    let mut writer = store(s3, "owner").put_stream(&key(name)).unwrap();
    writer.write(&vec![7; 200_000]).unwrap();
    std::mem::forget(writer);
}

// ---------------------------------------------------------------- what each role can do

#[test]
fn a_writer_puts_new_objects_and_can_neither_replace_nor_delete_any() {
    let s3 = with_roles(TestS3::builder().small_parts()).start();
    let writer = store(&s3, "writer");
    writer.put_if_absent(&key("wal"), b"first").unwrap();
    let mut stream = writer.put_stream(&key("pack")).unwrap();
    stream.write(&vec![1; 300_000]).unwrap();
    stream.finish().unwrap();
    assert!(s3.requests("CompleteMultipartUpload") > 0, "it came in parts");
    let mut dropped = writer.put_stream(&key("dropped")).unwrap();
    dropped.write(&vec![1; 300_000]).unwrap();
    drop(dropped);
    assert!(s3.unfinished_uploads().is_empty(), "a writer aborts what it gives up");
    assert_eq!(writer.get(&key("wal")).unwrap(), b"first");
    assert_eq!(writer.list("", None, 10).unwrap().len(), 2);
    assert!(writer.get(&key("none")).unwrap_err().is_not_found());

    let taken = writer.put_if_absent(&key("wal"), b"second").unwrap_err();
    assert!(taken.is_already_exists(), "{taken}");
    let mut stream = writer.put_stream(&key("pack")).unwrap();
    stream.write(&vec![2; 300_000]).unwrap();
    let taken = stream.finish().unwrap_err();
    assert!(taken.is_already_exists(), "{taken}");
    let pack = writer.head(&key("pack")).unwrap();
    for refused in [
        writer.put(&key("wal"), b"second"),
        writer.put(&key("free"), b"without a condition"),
        writer.delete(&key("wal")),
        writer.delete_many(&[key("wal"), key("pack")]),
        writer.set_class(&key("pack"), &StorageClass::Glacier, &pack),
        writer.copy(&key("wal"), &key("pack")),
        writer.unfinished().map(drop),
    ] {
        let error = refused.unwrap_err();
        assert!(matches!(error, Error::Forbidden { .. }), "{error}");
    }
    assert_eq!(s3.body("pgkeep/wal").unwrap(), "first");
    assert_eq!(s3.body("pgkeep/pack").unwrap(), vec![1; 300_000]);
    assert_eq!(s3.keys(), ["pgkeep/pack", "pgkeep/wal"]);

    let expirer = store(&s3, "expirer");
    expirer.set_class(&key("pack"), &StorageClass::Glacier, &pack).unwrap();
    expirer.delete(&key("wal")).unwrap();
    let reader = store(&s3, "reader");
    let error = reader.put_if_absent(&key("new"), b"x").unwrap_err();
    assert!(matches!(error, Error::Forbidden { .. }), "{error}");
}

#[test]
fn init_by_a_writer_works_and_leaves_its_probes() {
    let (s3, desk) = (server(), Desk::new());
    desk.run_as(&s3, "writer", "init").assert_code(1).assert_says("made in s3://");
    let probes = || s3.keys().iter().filter(|name| name.starts_with("pgkeep/probe/")).count();
    assert_eq!(probes(), 4, "{:?}", s3.keys());
    desk.run_as(&s3, "expirer", "expire").assert_ok();
    assert_eq!(probes(), 4, "their age is not known, so they stay");
    let (level, found, _) = desk.finding(&s3, "writer", "conditional puts");
    assert_eq!((level.as_str(), found.as_str()), ("ok", "honoured, as init found"));
}

#[test]
fn a_missing_right_is_told_with_bucket_key_action_and_statement() {
    let (s3, desk) = (server(), Desk::new());
    desk.init(&s3);
    let refused = desk.run_as(&s3, "reader", "key add --key-file spare.key").assert_code(1);
    for words in [
        "put key/",
        "s3:PutObject on arn:aws:s3:::my-backups/pgkeep/*",
        "{\"Effect\": \"Allow\", \"Action\": \"s3:PutObject\", \"Resource\": \
         \"arn:aws:s3:::my-backups/pgkeep/*\"}",
        "docs/s3.md",
    ] {
        assert!(refused.stderr.contains(words), "{words}\n{refused}");
    }
}

// ---------------------------------------------------------------- check

#[test]
fn check_names_each_role_and_changes_nothing() {
    let blind = |asked: &Asked<'_>| asked.action != "s3:ListBucket";
    let odd = |asked: &Asked<'_>| asked.action != "s3:PutObject" || !asked.has_if_none_match;
    let builder = TestS3::builder().account("blind", blind).account("odd", odd);
    let (s3, desk) = (with_roles(builder).start(), Desk::new());
    desk.init(&s3);
    let keys = s3.keys();
    s3.reset_counts();
    for (who, level, words) in [
        ("writer", "ok", "writer: they may read, put new objects, not replace any, and not delete"),
        ("expirer", "ok", "expirer: they may read, put and replace objects, and delete"),
        ("reader", "ok", "reader: they may read, not put, and not delete"),
        ("blind", "fail", "they lack s3:ListBucket"),
        (
            "odd",
            "warn",
            "none of the three roles: they may read, not put new objects, replace objects, and",
        ),
    ] {
        let (told, found, todo) = desk.finding(&s3, who, "credentials");
        assert_eq!(told, level, "{who}: {found}");
        assert!(found.starts_with(words), "{who}: {found}");
        assert_eq!(todo.contains("docs/s3.md"), level != "ok", "{who}: {todo}");
    }
    assert_eq!(s3.keys(), keys);
    assert!(s3.unfinished_uploads().is_empty());
    let asked = s3.all_requests();
    assert!(!asked.contains_key("PutObject") && !asked.contains_key("UploadPart"), "{asked:?}");
    let deleted = s3.log().into_iter().filter(|line| line.starts_with("DeleteObject "));
    assert!(deleted.into_iter().all(|line| line.starts_with("DeleteObject pgkeep/probe/")));

    let checked = json(&desk.run_as(&s3, "writer", "check --json").assert_code(14).stdout);
    for (check, words) in [
        ("region", "the bucket is in us-east-1, as configured"),
        ("versions", "not kept"),
        ("object lock", "off"),
        ("service clock", "agrees"),
        ("leftovers", "may not list uploads (s3:ListBucketMultipartUploads)"),
    ] {
        let (level, found, _) = found(&checked, check);
        assert!(level == "ok" && found.contains(words), "{check}: {level} {found}");
    }
}

/// A deletion in a bucket with versions leaves a marker, so none is tried there.
#[test]
fn check_leaves_no_marker_in_a_bucket_with_versions() {
    let (s3, desk) = (with_roles(TestS3::builder().object_lock()).start(), Desk::new());
    desk.init(&s3);
    s3.reset_counts();
    for (who, words) in [("writer", "writer: "), ("expirer", "expirer: "), ("reader", "reader: ")] {
        let (level, found, _) = desk.finding(&s3, who, "credentials");
        assert!(level == "ok" && found.starts_with(words), "{found}");
        assert!(found.contains("cannot be tried"), "{found}");
    }
    assert_eq!(s3.requests("DeleteObject"), 0);
    assert!(desk.finding(&s3, "writer", "versions").1.starts_with("kept"));
    assert!(desk.finding(&s3, "writer", "object lock").1.starts_with("on"));
}

#[test]
fn check_tells_a_clock_that_is_off() {
    let (s3, desk) = (server(), Desk::new());
    desk.init(&s3);
    let server_time = time::OffsetDateTime::now_utc() - time::Duration::minutes(10);
    s3.fault(Fault::ClockSkewed { server_time }).on("CompleteMultipartUpload").always();
    let (level, found, _) = desk.finding(&s3, "writer", "service clock");
    assert!(level == "warn" && found.contains("10 min"), "{found}");
    assert!(found.contains("ahead of the service"), "{found}");
    s3.clear_faults();
    let server_time = time::OffsetDateTime::now_utc() + time::Duration::hours(1);
    s3.fault(Fault::ClockSkewed { server_time }).always();
    let (level, found, todo) = desk.finding(&s3, "writer", "bucket");
    assert!(level == "fail" && found.contains("behind the service"), "{found}");
    assert!(todo.contains("Set the clock"), "{todo}");
}

#[test]
fn a_bucket_in_another_region_is_refused_by_init_and_by_check() {
    let (s3, desk) = (with_roles(TestS3::builder().region("eu-central-1")).start(), Desk::new());
    desk.configure(&s3, "expirer", "us-west-2", "");
    let refused =
        desk.run("init").assert_code(1).assert_says("is in eu-central-1, not in us-west-2");
    assert!(refused.stderr.contains("hint: "), "{refused}");
    assert!(s3.keys().is_empty() && !desk.scratch.join("offsite.key").exists());
    desk.init(&s3);
    desk.configure(&s3, "writer", "us-west-2", "");
    let checked = json(&desk.run("check --json").assert_code(14).stdout);
    let (level, found, _) = found(&checked, "bucket");
    assert!(level == "fail" && found.contains("is in eu-central-1, not in us-west-2"), "{found}");
    desk.run("init").assert_code(1).assert_says("is in eu-central-1, not in us-west-2");
}

#[test]
fn a_server_that_ignores_conditions_is_told_with_its_price() {
    let (s3, desk) = (with_roles(TestS3::builder().ignores_conditions()).start(), Desk::new());
    desk.init(&s3).assert_says("does not honour conditional puts").assert_says("three requests");
    let (level, found, _) = desk.finding(&s3, "expirer", "conditional puts");
    assert!(level == "warn" && found.contains("three requests a segment"), "{found}");
    // Claims are puts without a condition, which the writer's policy forbids.
    let (level, _, todo) = desk.finding(&s3, "writer", "conditional puts");
    assert!(level == "fail" && todo.contains("take the Deny out"), "{todo}");
}

// ---------------------------------------------------------------- expire

#[test]
fn f092_expire_removes_old_leftovers_of_its_own_and_nothing_else() {
    let (s3, desk) = (with_roles(TestS3::builder().small_parts()).start(), Desk::new());
    desk.init(&s3);
    abandon(&s3, PACK);
    abandon(&s3, "photos/holiday");
    s3.age_uploads(Duration::from_secs(25 * 3600));
    abandon(&s3, &PACK.replace("000000", "000001"));
    let keys = s3.keys();
    let (level, found, todo) = desk.finding(&s3, "expirer", "leftovers");
    assert!(level == "warn" && found.starts_with("1 begun more than a day ago"), "{found}");
    assert!(todo.contains("Run pgkeep expire"), "{todo}");

    let planned = desk.run_as(&s3, "expirer", "expire --dry-run").assert_ok();
    for words in [PACK, "1 leftover,", "Nothing was changed.", "no backup and no WAL is removed"] {
        assert!(planned.stdout.contains(words), "{words}\n{planned}");
    }
    assert_eq!(s3.unfinished_uploads().len(), 3);
    let refused = desk.run_as(&s3, "writer", "expire").assert_code(1);
    let named = "s3:ListBucketMultipartUploads on arn:aws:s3:::my-backups was refused";
    assert!(refused.stderr.contains(named), "{refused}");

    let done = json(&desk.run_as(&s3, "expirer", "expire --json").assert_ok().stdout);
    assert_eq!((&done["format_version"], &done["dry_run"]), (&2.into(), &false.into()));
    let offsite = &done["repositories"][0];
    let leftovers = &offsite["leftovers"];
    assert_eq!((&offsite["removed_leftovers"], &leftovers["younger"]), (&1.into(), &1.into()));
    assert_eq!(
        (&leftovers["foreign"], &leftovers["leftovers"][0]["name"]),
        (&1.into(), &PACK.into())
    );
    assert_eq!(offsite["rules_given"], false);
    let left: Vec<_> = s3.unfinished_uploads().into_iter().map(|(key, _)| key).collect();
    assert_eq!(
        left,
        [
            format!("{PREFIX}/{}", PACK.replace("000000", "000001")),
            format!("{PREFIX}/photos/holiday")
        ]
    );
    assert_eq!(s3.keys(), keys, "whole objects are not touched");
    let again = desk.run_as(&s3, "expirer", "expire").assert_ok();
    assert!(again.stdout.contains("offsite: nothing was begun before"), "{again}");
}

#[test]
fn expire_cleans_folders_too_and_goes_on_when_a_repository_is_away() {
    let (s3, desk) = (server(), Desk::new());
    let scratch = &desk.scratch;
    let more = |name: &str| {
        format!(
            "[repository.{name}]\nurl = \"file://{}\"\n[repository.{name}.encryption]\ncipher = \"none\"\n",
            scratch.join(name).display()
        )
    };
    desk.configure(&s3, "expirer", s3.region(), &more("near"));
    desk.run("init").assert_code(1);
    let temporary = scratch.join("near/.tmp");
    fs::create_dir_all(&temporary).unwrap();
    let (old, young) = (temporary.join("old"), temporary.join("young"));
    fs::write(&old, "half").unwrap();
    fs::write(&young, "half").unwrap();
    let day_ago = std::time::SystemTime::now() - Duration::from_secs(25 * 3600);
    fs::File::options().write(true).open(&old).unwrap().set_modified(day_ago).unwrap();
    for path in [&temporary, &old, &young] {
        account::unprivileged().own(path);
    }
    // One more is configured that is not there; it sorts before the others.
    desk.configure(&s3, "expirer", s3.region(), &(more("near") + &more("away")));
    let ran = desk.run("expire").assert_code(10);
    assert!(ran.stderr.contains("repository away"), "{ran}");
    assert!(ran.stdout.contains("1 leftover of interrupted uploads"), "{ran}");
    assert!(!old.exists() && young.exists());
    desk.run("--repository near expire").assert_ok();
    desk.run("--repository nowhere expire").assert_code(2);
}

// ---------------------------------------------------------------- a live cluster

fn small(server: &Server) -> Launch {
    TestCluster::create(server).checksums().wal_segment_mib(1).setting("archive_timeout", "60")
}

/// The whole way: an expirer makes the repository, a writer archives and backs up, a reader restores.
#[test]
fn a_writer_archives_and_backs_up_and_a_reader_restores() {
    let Some(server) = Server::main() else { return };
    let s3 = self::server();
    let cluster = small(&server).archiving().setting("autovacuum", "off").start();
    let scratch = ScratchDir::new("roles");
    let config =
        |who: &str| TestConfig::new(&cluster).toml(&repository(&s3, &scratch, who, s3.region()));
    let [writer, expirer, reader] = ROLES.map(config);
    expirer.run(["init"]).assert_ok();
    assert!(s3.keys().iter().all(|name| !name.contains("probe/")), "{:?}", s3.keys());
    s3.reset_counts();
    cluster.set_archive_command(&writer.archive_command());
    // More than a part holds: hexadecimal digits at random do not compress to nothing.
    cluster.psql(
        "create table t as select n, md5(n::text) || md5((-n)::text) as text \
         from generate_series(1, 200000) as n",
    );
    let segment = cluster.archive_now();
    // The same again is success, and what is there stays.
    let name = s3.keys().into_iter().find(|name| name.ends_with(&segment)).unwrap();
    let before = s3.body(&name).unwrap();
    let mut again = writer.pgkeep(["archive-push"]);
    let again = again.arg(cluster.data_dir().join("pg_wal").join(&segment));
    run(again.current_dir(cluster.data_dir())).assert_ok();
    assert_eq!(s3.body(&name).unwrap(), before);

    let names = s3.keys();
    let taken = json(&writer.run(["backup", "--json"]).assert_ok().stdout);
    cluster.archive_now();
    assert!(s3.requests("CompleteMultipartUpload") > 0, "{:?}", s3.all_requests());
    // Its lease stays until the next expire: the service refuses once, and it is not asked again.
    let removals = s3.requests("DeleteObject") + s3.requests("DeleteObjects");
    assert!(removals <= 1 && names.iter().all(|name| s3.keys().contains(name)), "{removals}");
    let checked = writer.run(["check"]).assert_ok();
    assert!(checked.stdout.contains("ok    offsite: credentials: writer: "), "{checked}");

    // On a host that archives, a reader's credentials are a failure, and said to be one.
    let checked = json(&reader.run(["check", "--json"]).assert_code(14).stdout);
    assert_eq!(found(&checked, "credentials").0, "fail");
    let shown = reader.run(["info"]).assert_ok();
    assert!(shown.stdout.contains(taken["id"].as_str().unwrap()), "{shown}");
    let to = cluster.scratch().join("restored");
    let mut restore = reader.pgkeep(["restore", "--yes", "--target-action", "promote", "--to"]);
    run(restore.arg(&to)).assert_ok();
    let copy = crate::support::site::started(&server, &to);
    assert_eq!(copy.psql("select count(*) from t"), "200000");
}
