//! Processes that are killed while parts of an object are on their way to a bucket.

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use pgkeep::base::{Ctx, Silent};
use pgkeep::storage::{
    ObjectKey, ObjectStore as _, S3Options, S3Store, StorageClass, sweep_unfinished,
};
use rustix::process::Signal;

use crate::s3_live::{LARGE_TABLE, digest_of_large};
use crate::s3_store;
use crate::support::bucket_site::BucketSite;
use crate::support::run::{DEADLINE, start, wait_until};
use crate::support::site::{json, started};
use crate::support::{Cipher, Fault, Server, Stop, TestCluster, TestS3};

/// What the command line's store lists and removes.
fn store(s3: &TestS3) -> S3Store {
    let options = S3Options { prefix: "pgkeep".into(), ..s3_store::options(s3) };
    S3Store::open(&Ctx::system(Arc::new(Silent)), options).unwrap()
}

#[test]
fn f080_f092_a_backup_killed_with_parts_in_flight_leaves_an_upload_and_nothing_else() {
    let Some(server) = Server::main() else { return };
    let launch = TestCluster::create(&server).checksums();
    let site = BucketSite::from_launch(&server, launch, TestS3::start(), Cipher::Aes).archiving();
    let s3 = &site.s3;
    site.cluster.psql(LARGE_TABLE);
    site.cluster.archive_now();
    // With the first parts in place, with all but the last, and with the completion on its way.
    for (operation, after) in [("UploadPart", 0), ("UploadPart", 2), ("CompleteMultipartUpload", 0)]
    {
        let uploads = s3.unfinished_uploads().len();
        let held = s3.fault(Fault::Hang).on(operation).after(after).always();
        let dying = start(&mut site.config.pgkeep(["backup"]));
        let is_in_flight = || held.hits() > 0 && s3.unfinished_uploads().len() > uploads;
        wait_until(DEADLINE, is_in_flight, || format!("{operation} {after}"));
        dying.signal(Signal::KILL);
        assert!(!dying.wait().is_ok());
        s3.clear_faults();
        assert!(site.backups().is_empty(), "{operation} {after}");
    }
    let left = s3.unfinished_uploads();
    assert!(left.len() >= 3, "{left:?}");

    let id = site.backup();
    assert_eq!(site.backups(), [id]);
    assert_eq!(s3.unfinished_uploads(), left, "nobody touches what may be another's");
    let store = store(s3);
    let now = Ctx::system(Arc::new(Silent)).clock.now();
    let day = chrono::TimeDelta::days(1);
    assert_eq!(sweep_unfinished(&store, now - day).unwrap(), 0, "they are young");
    s3.age_uploads(Duration::from_hours(25));
    let running = start(&mut site.config.pgkeep(["backup", "--max-rate", "8MiB"]));
    wait_until(DEADLINE, || s3.unfinished_uploads().len() > left.len(), || running.stderr_so_far());
    assert_eq!(sweep_unfinished(&store, now - day).unwrap(), left.len());
    running.wait().assert_ok();
    assert!(s3.unfinished_uploads().is_empty());
    assert_eq!(site.backups().len(), 2, "the one at work was left alone");
    let copy = site.restored("copy", &[]);
    assert_eq!(digest_of_large(&copy), digest_of_large(&site.cluster));
}

/// A backup that is interrupted has the time to abort what it began.
#[test]
fn a_backup_that_is_interrupted_leaves_no_upload() {
    let Some(server) = Server::main() else { return };
    let launch = TestCluster::create(&server).checksums();
    let site = BucketSite::from_launch(&server, launch, TestS3::start(), Cipher::Aes).archiving();
    site.cluster.psql(LARGE_TABLE);
    site.cluster.archive_now();
    let held = site.s3.fault(Fault::Hang).on("UploadPart").always();
    let running = start(&mut site.config.pgkeep(["backup"]));
    let is_in_flight = || held.hits() > 0 && !site.s3.unfinished_uploads().is_empty();
    wait_until(DEADLINE, is_in_flight, || running.stderr_so_far());
    running.signal(Signal::TERM);
    running.wait().assert_code(130);
    assert!(site.s3.unfinished_uploads().is_empty());
    assert!(site.backups().is_empty());
}

/// What it had stored is used by the next one, and by what stands on that; a delta brings a copy to it.
#[test]
fn a_killed_backup_is_used_in_a_bucket_and_a_delta_goes_over_a_copy() {
    let Some(server) = Server::main() else { return };
    let launch = TestCluster::create(&server).checksums();
    let site = BucketSite::from_launch(&server, launch, TestS3::start(), Cipher::Aes).archiving();
    let (cluster, config, s3) = (&site.cluster, &site.config, &site.s3);
    cluster.psql(LARGE_TABLE);
    cluster.archive_now();
    let mut slowly = config.pgkeep(["backup", "--max-rate", "12MiB"]);
    let dying = start(slowly.env("PGKEEP_REPOSITORY__BUCKET__PACK_SIZE", "4MiB"));
    let metas = || s3.keys().iter().filter(|key| key.contains("/meta/")).count();
    wait_until(DEADLINE, || metas() >= 3, || format!("{} packs are durable", metas()));
    dying.signal(Signal::KILL);
    assert!(!dying.wait().is_ok());
    cluster.wait_until(
        "select count(*) = 0 from pg_stat_activity where application_name like 'pgkeep backup%'",
    );
    let ran = config.run(["backup"]).assert_ok();
    assert!(ran.stdout.contains("were used of an interrupted backup"), "{}", ran.stdout);
    let copy = site.restored("copy", &["--archive", "off"]);
    assert_eq!(digest_of_large(&copy), digest_of_large(cluster));
    copy.psql("update large set a = b where n % 1000 = 0");
    copy.stop(Stop::Fast);

    cluster.psql("delete from large where n % 100 = 0");
    config.run(["backup", "--type", "diff"]).assert_ok();
    cluster.psql("update large set c = d where n % 101 = 0");
    cluster.archive_now();
    config.run(["backup", "--type", "incr"]).assert_ok();
    site.restore("copy", &["--delta", "--discard-wal", "--archive", "off"]).assert_ok();
    let copy = started(&server, copy.data_dir());
    assert_eq!(digest_of_large(&copy), digest_of_large(cluster));
}

/// Packs are the only cold objects: neither a differential nor its parent's look at the chain reads one. What is not
/// meant to be cold, and was moved by a rule of somebody's, is told, and no reason to have no backup.
#[test]
fn a_parent_in_cold_storage_is_no_obstacle() {
    let Some(server) = Server::main() else { return };
    let launch = TestCluster::create(&server).checksums();
    let site = BucketSite::from_launch(&server, launch, TestS3::start(), Cipher::Aes).archiving();
    let (cluster, config, s3) = (&site.cluster, &site.config, &site.s3);
    let store = store(s3);
    let freeze = |family: &str| {
        let mut keys = s3.keys();
        keys.retain(|key| key.contains(family));
        assert!(!keys.is_empty(), "nothing of {family}");
        for key in keys {
            let key = ObjectKey::new(key.strip_prefix("pgkeep/").unwrap()).unwrap();
            let found = store.head(&key).unwrap();
            store.set_class(&key, &StorageClass::Glacier, &found).unwrap();
        }
    };
    let backup = |backup_type: &str| config.run(["backup", "--json", "--type", backup_type]);
    cluster.psql("insert into t select generate_series(1, 10000)");
    let full = json(&backup("full").assert_ok().stdout);
    freeze("/data/");
    cluster.psql("update t set n = -n where n % 500 = 0");
    let diff = json(&backup("diff").assert_ok().stdout);
    assert_eq!(diff["parent"], full["id"]);
    freeze("/files/");
    let refused = backup("diff").assert_code(1);
    refused.assert_says("Take a full: `pgkeep backup --type full`").assert_says("cold");
    let text = fs::read_to_string(config.path()).unwrap();
    let text = text.replacen("[cluster.main]", "[cluster.main]\nauto_full = true", 1);
    fs::write(config.path(), text).unwrap();
    let taken = backup("diff").assert_ok().assert_says("a full is taken instead (auto_full)");
    assert_eq!(json(&taken.stdout)["type"], "full");
}
