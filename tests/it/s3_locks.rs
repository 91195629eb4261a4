//! Object Lock by the command line: everything that pgkeep puts carries a lock, and expiry says what waits for one.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use chrono::TimeDelta;
use pgkeep::base::{Ctx, Silent, Timestamp};
use pgkeep::repo::{layout, lock_for};
use pgkeep::storage::s3::S3Options;
use pgkeep::storage::{
    Error, LockMode, LockRule, ObjectStore as _, S3Store, list_all, list_versions,
};

use crate::s3_store;
use crate::support::s3::TestS3;
use crate::support::site::json;
use crate::support::{BucketSite, Cipher, Server, TestCluster, TestConfig};

const DAYS: u32 = 30;
const MONTH: Duration = Duration::from_hours(24 * 30);

/// The repository's store, by the owner of the bucket, who has every right but to shorten a lock.
fn store(s3: &TestS3) -> S3Store {
    let options = S3Options { prefix: "pgkeep".into(), ..s3_store::options(s3) };
    S3Store::open(&Ctx::system(Arc::new(Silent)), options).unwrap()
}

/// What an object is, by its name.
fn kind(name: &str) -> String {
    let inner = match name.strip_prefix("c/main/") {
        Some(below) => below.split_once('/').unwrap().1,
        None => name,
    };
    inner.split('/').next().unwrap().to_owned()
}

/// That every object is locked as long as its name says, or longer; the kinds that were met.
fn assert_all_locked(s3: &TestS3) -> BTreeSet<String> {
    let store = store(s3);
    let mut kinds = BTreeSet::new();
    for meta in list_all(&store, "").unwrap() {
        let until = store.locked_until(&meta.key).unwrap();
        let until = until.unwrap_or_else(|| panic!("{} has no lock", meta.key));
        let expected = TimeDelta::from_std(lock_for(meta.key.as_str(), MONTH)).unwrap();
        let lasts = until - meta.stored.unwrap();
        let slack = TimeDelta::minutes(10);
        assert!(lasts > expected - slack, "{}: {lasts}", meta.key);
        let is_short = expected < TimeDelta::days(2);
        assert!(!is_short || lasts < expected + slack, "{}: {lasts}", meta.key);
        kinds.insert(kind(meta.key.as_str()));
    }
    kinds
}

/// Nobody removes anything: neither what is there, nor what was deleted.
fn assert_nobody_removes_anything(s3: &TestS3) {
    let store = store(s3);
    let hide = |name: &str| !name.starts_with("lease/");
    let names: Vec<_> = list_all(&store, "").unwrap().into_iter().map(|meta| meta.key).collect();
    for key in names.iter().filter(|key| hide(key.as_str())) {
        store.delete(key).unwrap();
    }
    let versions = list_versions(&store, "").unwrap();
    assert!(versions.iter().any(|version| version.key.as_str().starts_with("lease/")));
    for version in versions.iter().filter(|version| !version.is_marker) {
        let refused = store.delete_version(&version.key, &version.id).unwrap_err();
        assert!(matches!(refused, Error::Locked { .. }), "{}: {refused}", version.key);
    }
    // They are there again when the markers are gone.
    for marker in versions.iter().filter(|version| version.is_marker && hide(version.key.as_str()))
    {
        if names.contains(&marker.key) {
            store.delete_version(&marker.key, &marker.id).unwrap();
        }
    }
    let again: Vec<_> = list_all(&store, "").unwrap().into_iter().map(|meta| meta.key).collect();
    assert!(names.iter().all(|key| again.contains(key)));
}

#[test]
fn f088_everything_that_is_put_is_locked_and_what_is_locked_waits() {
    let Some(server) = Server::main() else { return };
    for by_claims in [false, true] {
        let builder = TestS3::builder().object_lock();
        let builder = if by_claims { builder.ignores_conditions() } else { builder };
        let site = BucketSite::locking(&server, builder.start(), DAYS).archiving();
        let first = site.backup();
        site.segment();
        site.config.run(["backup", "--type", "diff"]).assert_ok();
        site.segment();
        let last = site.backup();
        site.config.run(["pin", &last, "--reason", "audit"]).assert_ok();
        let kinds = assert_all_locked(&site.s3);
        let mut expected: BTreeSet<String> =
            ["pgkeep.json", "key", "cluster", "begin", "backup", "files"]
                .into_iter()
                .chain(["data", "meta", "hash", "wal", "label", "pin", "sum"])
                .map(str::to_owned)
                .collect();
        expected.extend(by_claims.then(|| "claim".to_owned()));
        assert!(expected.is_subset(&kinds), "{kinds:?}");

        let narrow =
            "[repository.bucket.retention]\ndaily = 0\nweekly = 0\nmonthly = 0\nwindow = '0s'";
        let site = BucketSite { config: site.config.toml(narrow), ..site };
        let planned = site.config.run(["expire", "--dry-run"]).assert_ok();
        for words in
            ["waits", "no rule keeps it, and it waits: locked until ", "WAL of timeline 1: "]
        {
            assert!(planned.stdout.contains(words), "{words}\n{planned}");
        }
        let asked = site.config.run(["expire"]).assert_code(1);
        assert!(asked.stderr.contains("would remove 2 of 3 backups"), "{asked}");
        let done = site.config.run(["expire", "--yes"]).assert_ok();
        assert!(done.stdout.contains("removed 0 backups, 0 WAL segments"), "{done}");
        assert_eq!(site.backups().len(), 3, "what waits is there, and restores");
        let told = json(&site.config.run(["expire", "--dry-run", "--json"]).assert_ok().stdout);
        let backups = told["repositories"][0]["plan"][0]["backups"].as_array().unwrap().clone();
        let waits: Vec<_> =
            backups.iter().filter(|backup| backup["waits_until"].is_string()).collect();
        assert!(waits.iter().all(|backup| backup["id"] != last), "{waits:?}");
        assert!(!waits.is_empty() && backups[0]["id"] == first);
        let kinds = assert_all_locked(&site.s3);
        assert!(kinds.contains("keep"), "{kinds:?}");
        assert_nobody_removes_anything(&site.s3);
        let copy = site.restored("copy", &["--backup", &first, "--target-immediate"]);
        assert_eq!(copy.psql("select count(*) from t"), "0");
        site.config.run(["check"]).assert_says("what pgkeep puts is locked for 30 days");
    }
}

/// Who configures the weaker mode later makes no strict lock weak, and is refused nothing.
#[test]
fn f088_a_strict_lock_is_extended_as_a_strict_one() {
    let s3 = TestS3::builder().object_lock().start();
    let open = |mode| {
        let rule = LockRule::new(mode, MONTH);
        let options = S3Options { lock: Some(rule), ..s3_store::options(&s3) };
        S3Store::open(&Ctx::system(Arc::new(Silent)), options).unwrap()
    };
    let (strict, weak) = (open(LockMode::Compliance), open(LockMode::Governance));
    let key = layout::descriptor();
    strict.put(&key, b"x").unwrap();
    let until = strict.locked_until(&key).unwrap().unwrap() + TimeDelta::days(5);
    weak.lock(&key, until).unwrap();
    assert_eq!(weak.locked_until(&key).unwrap(), Some(until));
    // The stricter mode of a weak lock is nobody's to refuse.
    let key = layout::probe("00");
    weak.put(&key, b"x").unwrap();
    strict.lock(&key, until).unwrap();
    assert_eq!(weak.locked_until(&key).unwrap(), Some(until));
}

#[test]
fn f088_a_bucket_without_locks_is_refused_in_words() {
    let Some(server) = Server::main() else { return };
    let cluster = TestCluster::create(&server).wal_segment_mib(1).archiving().start();
    let plain = TestS3::builder().versioned().start();
    let config = TestConfig::new(&cluster).bucket("bucket", &plain, Cipher::Aes).locking(DAYS);
    let refused = config.run(["init"]).assert_code(1);
    assert!(refused.stderr.contains("lock_days needs Object Lock"), "{refused}");
    assert!(store(&plain).list("", None, 10).unwrap().is_empty(), "nothing was put");
    let checked = config.run(["check"]).assert_code(14);
    assert!(checked.stdout.contains("the bucket has no Object Lock"), "{checked}");
    // The bucket's own default is no rule of pgkeep's.
    let default = TestS3::builder().default_retention("GOVERNANCE", 3).start();
    let config = TestConfig::new(&cluster).bucket("bucket", &default, Cipher::Aes);
    config.run(["init"]).assert_ok();
    config.run(["check"]).assert_says("the bucket locks what is put by its default");
    let now = Timestamp::from(std::time::SystemTime::now());
    let until = store(&default).locked_until(&layout::descriptor()).unwrap().unwrap();
    assert!((until - now).num_days() <= 3);
}
