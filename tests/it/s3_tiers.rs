//! Storage classes, thaws, locks and versions of a bucket, over HTTP, and what becomes of a move that is disturbed.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use pgkeep::base::{Ctx, Silent, Timestamp};
use pgkeep::storage::s3::{Checksums, S3Options};
use pgkeep::storage::{
    Availability, Error, LockMode, LockRule, ObjectKey, ObjectStore as _, RetryPolicy, S3Store,
    StorageClass, Thaw, ThawSpeed, conformance, list_versions,
};

use crate::s3_store;
use crate::support::s3::{Fault, TestS3};

const DAY: Duration = Duration::from_hours(24);
const PART: u64 = 100_000;
/// Of an object that is copied in four parts.
const LARGE: usize = 350_000;

/// Copies what is larger than a part in parts.
fn options(s3: &TestS3) -> S3Options {
    S3Options { copy_whole_max: PART, copy_part_bytes: PART, ..s3_store::options(s3) }
}

fn open(options: S3Options) -> S3Store {
    S3Store::open(&Ctx::system(Arc::new(Silent)), options).unwrap()
}

fn server() -> TestS3 {
    TestS3::builder().small_parts().start()
}

fn key(name: &str) -> ObjectKey {
    ObjectKey::new(name).unwrap()
}

fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|i| u8::try_from((i * 31 + i / 251) % 256).unwrap()).collect()
}

fn put(store: &S3Store, name: &str, length: usize) -> Vec<u8> {
    let body = pattern(length);
    store.put(&key(name), &body).unwrap();
    body
}

fn set_class(store: &S3Store, name: &str, class: &StorageClass) -> Result<(), Error> {
    let expected = store.head(&key(name)).unwrap();
    store.set_class(&key(name), class, &expected)
}

#[test]
fn conforms_with_everything_that_a_bucket_can_have() {
    let s3 = TestS3::builder().object_lock().small_parts().start();
    let locked = |s3: &TestS3| S3Options { lock: Some(conformance::LOCKS), ..options(s3) };
    conformance::run_all(&|| Box::new(open(locked(&s3))));
    assert!(s3.requests("UploadPartCopy") > 0 && s3.requests("CopyObject") > 0);
    assert!(s3.unfinished_uploads().is_empty(), "{:?}", s3.unfinished_uploads());
    // What is locked has a checksum, whatever is said of the rest.
    let s3 = TestS3::builder().object_lock().small_parts().start();
    let plain = || S3Options { checksums: Checksums::WhenRequired, ..locked(&s3) };
    conformance::run_all(&|| Box::new(open(plain())));
}

#[test]
fn a_large_object_is_copied_in_parts_with_what_belongs_to_it() {
    let s3 = server();
    let store = open(options(&s3));
    let body = put(&store, "pack%2F/a.b", LARGE);
    let tags = [("a/b".to_owned(), "c & d".to_owned())].into_iter().collect();
    store.set_tags(&key("pack%2F/a.b"), &tags).unwrap();
    s3.reset_counts();
    set_class(&store, "pack%2F/a.b", &StorageClass::StandardIa).unwrap();
    assert_eq!((s3.requests("UploadPartCopy"), s3.requests("CopyObject")), (4, 0));
    assert_eq!(s3.bytes().1 / 10_000, 0, "no bytes of it pass here");
    assert_eq!(store.get(&key("pack%2F/a.b")).unwrap(), body);
    assert_eq!(store.tags(&key("pack%2F/a.b")).unwrap(), tags);
    assert_eq!(s3.storage_class("some/where/pack%2F/a.b").unwrap(), "STANDARD_IA");
    // Exactly as large as one that is copied at once.
    put(&store, "small", 100_000);
    s3.reset_counts();
    set_class(&store, "small", &StorageClass::StandardIa).unwrap();
    assert_eq!((s3.requests("UploadPartCopy"), s3.requests("CopyObject")), (0, 1));
}

/// Everything that a service asks to repeat, and everything that breaks on the way: also where the work was done and
/// its answer was lost, so that the next attempt meets another object than it knows.
#[test]
fn f092_what_may_pass_is_tried_again_and_done_once() {
    let s3 = server();
    let store = open(options(&s3));
    let mut faults = Fault::transient();
    faults.retain(|fault| !matches!(fault, Fault::CutRequest { .. } | Fault::CutResponse { .. }));
    faults.extend([
        Fault::CONFLICT,
        Fault::ErrorInSuccess { code: "InternalError" },
        Fault::CutResponse { after: 30 },
        Fault::Hang,
        Fault::HangAfterActing,
    ]);
    let operations = [
        ("CopyObject", 9),
        ("CreateMultipartUpload", LARGE),
        ("UploadPartCopy", LARGE),
        ("CompleteMultipartUpload", LARGE),
    ];
    for (number, fault) in faults.into_iter().enumerate() {
        for (operation, length) in operations {
            let no_document = matches!(&fault, Fault::ErrorInSuccess { .. });
            if no_document && operation == "CreateMultipartUpload" {
                continue;
            }
            let name = format!("{operation}/{number}");
            let body = put(&store, &name, length);
            s3.clear_faults();
            let ordered = s3.fault(fault.clone()).on(operation).next(2);
            let moved = set_class(&store, &name, &StorageClass::Glacier);
            moved.unwrap_or_else(|error| panic!("{fault:?} on {operation}: {error}"));
            assert!(ordered.hits() > 0, "{fault:?} on {operation} was not met");
            let stored = format!("some/where/{name}");
            assert_eq!(s3.storage_class(&stored).unwrap(), "GLACIER", "{fault:?} on {operation}");
            assert!(s3.body(&stored).unwrap() == body, "{fault:?} on {operation}");
        }
    }
}

/// A move that is given up leaves the object as it was, and nothing beside it.
#[test]
fn a_move_that_fails_leaves_the_object_and_no_parts() {
    let s3 = server();
    let retry = RetryPolicy { attempts_max: 2, ..options(&s3).retry };
    let store = open(S3Options { retry, ..options(&s3) });
    let body = put(&store, "pack", LARGE);
    for operation in ["UploadPartCopy", "CompleteMultipartUpload"] {
        for fault in [Fault::INTERNAL_ERROR, Fault::Error { status: 403, code: "AccessDenied" }] {
            s3.clear_faults();
            s3.fault(fault).on(operation).after(1).always();
            s3.fault(Fault::INTERNAL_ERROR).on(operation).always();
            set_class(&store, "pack", &StorageClass::Glacier).unwrap_err();
            assert!(s3.unfinished_uploads().is_empty(), "{operation}");
            assert_eq!(s3.storage_class("some/where/pack").unwrap(), "STANDARD");
            assert!(s3.body("some/where/pack").unwrap() == body);
        }
    }
    // Interrupted: the parts go all the same.
    s3.clear_faults();
    s3.fault(Fault::Hang).on("UploadPartCopy").always();
    let ctx = Ctx::system(Arc::new(Silent));
    let store = S3Store::open(&ctx, options(&s3)).unwrap();
    std::thread::scope(|scope| {
        let moving = scope.spawn(|| set_class(&store, "pack", &StorageClass::Glacier));
        while s3.unfinished_uploads().is_empty() {
            std::thread::yield_now();
        }
        ctx.cancel.cancel();
        let error = moving.join().unwrap().unwrap_err();
        assert!(matches!(error, Error::Cancelled { .. }), "{error}");
    });
    assert!(s3.unfinished_uploads().is_empty());
}

/// Moves `pack`, and does something to it when the request for `operation` was lost for the first time.
fn disturbed(
    s3: &TestS3,
    length: usize,
    operation: &'static str,
    disturb: impl Fn(&S3Store),
) -> Result<(), Error> {
    let retry = RetryPolicy { delay_first: Duration::from_millis(400), ..options(s3).retry };
    let retry = RetryPolicy { delay_max: Duration::from_millis(400), ..retry };
    let (store, other) = (open(S3Options { retry, ..options(s3) }), open(options(s3)));
    put(&store, "pack", length);
    s3.clear_faults();
    let was_asked = Arc::new(AtomicBool::new(false));
    let asked = Arc::clone(&was_asked);
    let lost = s3.fault(Fault::DropBeforeActing).on(operation);
    lost.when(move |_| !asked.swap(true, Ordering::SeqCst)).always();
    std::thread::scope(|scope| {
        let moving = scope.spawn(|| set_class(&store, "pack", &StorageClass::Glacier));
        while !was_asked.load(Ordering::SeqCst) {
            std::thread::yield_now();
        }
        disturb(&other);
        moving.join().unwrap()
    })
}

#[test]
fn what_was_replaced_or_deleted_meanwhile_stays_so() {
    for (length, operation) in [(9, "CopyObject"), (LARGE, "CompleteMultipartUpload")] {
        let s3 = server();
        let mut other_body = pattern(length);
        other_body.reverse();
        let replaced = disturbed(&s3, length, operation, |other| {
            other.put(&key("pack"), &other_body).unwrap();
        });
        let error = replaced.unwrap_err();
        assert!(matches!(error, Error::Changed { .. }), "{operation}: {error}");
        assert!(s3.body("some/where/pack").unwrap() == other_body, "{operation}");
        let deleted =
            disturbed(&s3, length, operation, |other| other.delete(&key("pack")).unwrap());
        let error = deleted.unwrap_err();
        assert!(error.is_not_found(), "{operation}: {error}");
        assert!(s3.keys().is_empty(), "{operation}: brought back");
        // Somebody else did the same.
        disturbed(&s3, length, operation, |other| {
            set_class(other, "pack", &StorageClass::Glacier).unwrap();
        })
        .unwrap();
        assert!(s3.unfinished_uploads().is_empty(), "{operation}");
    }
}

#[test]
fn a_server_that_knows_no_such_conditions_copies_without() {
    let s3 = server();
    let store = open(options(&s3));
    let unknown = || s3.fault(Fault::Error { status: 501, code: "NotImplemented" });
    for (name, operation, length) in [
        ("a", "CopyObject", 9),
        ("b", "UploadPartCopy", LARGE),
        ("c", "CompleteMultipartUpload", LARGE),
    ] {
        let body = put(&store, name, length);
        s3.clear_faults();
        unknown().on(operation).next(1);
        set_class(&store, name, &StorageClass::GlacierIr).unwrap();
        assert_eq!(store.get(&key(name)).unwrap(), body);
    }
    s3.clear_faults();
    unknown().on("CopyObject").always();
    let error = set_class(&store, "a", &StorageClass::Glacier).unwrap_err();
    assert!(matches!(error, Error::Unsupported { .. }), "{error}");
    assert!(s3.unfinished_uploads().is_empty());
    let error = set_class(&store, "b", &StorageClass::Other("SNOW".into())).unwrap_err();
    assert!(matches!(error, Error::Unsupported { .. }), "{error}");
}

#[test]
fn a_thaw_is_made_longer_and_never_shorter() {
    let s3 = server();
    let store = open(options(&s3));
    let pack = key("pack");
    put(&store, "pack", 9);
    set_class(&store, "pack", &StorageClass::Glacier).unwrap();
    let thaw = |days, speed| store.thaw(&pack, Thaw { days, speed }).unwrap();
    let until = || match store.class(&pack).unwrap().availability {
        Availability::ThawedUntil(Some(until)) => until,
        other => panic!("{other:?}"),
    };
    for _ in 0..2 {
        assert_eq!(thaw(3, ThawSpeed::Bulk), Availability::Thawing);
    }
    assert_eq!(s3.finish_thaws(), 1);
    let first = until();
    assert_eq!(store.get(&pack).unwrap().len(), 9);
    s3.reset_counts();
    assert_eq!(thaw(1, ThawSpeed::Standard), Availability::ThawedUntil(Some(first)));
    assert_eq!(s3.requests("RestoreObject"), 0);
    thaw(9, ThawSpeed::Bulk);
    assert_eq!((until() - first).num_hours(), 6 * 24);
    put(&store, "warm", 9);
    let warm = store.thaw(&key("warm"), Thaw { days: 1, speed: ThawSpeed::Bulk });
    assert_eq!(warm.unwrap(), Availability::Online);
    put(&store, "deep", 9);
    set_class(&store, "deep", &StorageClass::DeepArchive).unwrap();
    let refused = store.thaw(&key("deep"), Thaw { days: 1, speed: ThawSpeed::Expedited });
    assert!(matches!(refused, Err(Error::Unsupported { .. })), "{refused:?}");
    assert_eq!(s3.requests("RestoreObject"), 1);
}

fn now() -> Timestamp {
    Timestamp::from(SystemTime::UNIX_EPOCH) + SystemTime::UNIX_EPOCH.elapsed().unwrap()
}

#[test]
fn what_is_put_is_locked_by_its_name_and_a_move_changes_no_lock() {
    let s3 = TestS3::builder().object_lock().small_parts().start();
    let rule = LockRule {
        of_name: |name, duration| match name.rsplit_once('.') {
            Some((_, "short")) => Duration::from_mins(10),
            Some((_, "free")) => Duration::ZERO,
            _ => duration,
        },
        ..LockRule::new(LockMode::Compliance, 30 * DAY)
    };
    let store = open(S3Options { lock: Some(rule), ..options(&s3) });
    let begun = now();
    put(&store, "put", 9);
    store.put_if_absent(&key("absent"), b"x").unwrap();
    for (name, length) in [("stream", 9), ("parts", LARGE)] {
        let mut writer = store.put_stream(&key(name)).unwrap();
        writer.write(&pattern(length)).unwrap();
        writer.finish().unwrap();
    }
    put(&store, "a.short", 9);
    put(&store, "a.free", 9);
    let minutes = |name: &str| {
        store.locked_until(&key(name)).unwrap().map(|until| (until - begun).num_minutes())
    };
    let days = 30 * 24 * 60;
    for name in ["put", "absent", "stream", "parts"] {
        assert_eq!(minutes(name), Some(days), "{name}");
    }
    assert_eq!((minutes("a.short"), minutes("a.free")), (Some(10), None));
    let locks = || ["put", "parts", "a.short"].map(|name| store.locked_until(&key(name)).unwrap());
    let before = locks();
    for name in ["put", "parts", "a.short", "a.free"] {
        set_class(&store, name, &StorageClass::Glacier).unwrap();
    }
    assert_eq!(locks(), before);
    // The lock of a version that was moved stays with what is behind.
    let behind = list_versions(&store, "parts").unwrap();
    assert_eq!(behind.len(), 1);
    let error = store.delete_version(&key("parts"), &behind[0].id).unwrap_err();
    assert!(matches!(error, Error::Locked { until: Some(_), .. }), "{error}");
    s3.advance_clock(31 * DAY);
    store.delete_version(&key("parts"), &behind[0].id).unwrap();
    assert!(list_versions(&store, "parts").unwrap().is_empty());
    let plain = TestS3::start();
    let error = open(S3Options { lock: Some(rule), ..options(&plain) });
    let error = error.put_if_absent(&key("a"), b"x").unwrap_err();
    assert!(matches!(error, Error::Unsupported { .. }), "{error}");
    assert!(error.to_string().contains("Object Lock"), "{error}");
}

/// A lock and a missing right are refused by one code.
#[test]
fn a_lock_is_told_from_a_missing_right() {
    let s3 = TestS3::builder()
        .default_retention("COMPLIANCE", 3)
        .account("blind", |asked| asked.action != "s3:GetObjectRetention")
        .account("reader", |asked| asked.action != "s3:DeleteObjectVersion")
        .start();
    let as_account = |name: &str| {
        let rule = LockRule::new(LockMode::Compliance, 3 * DAY);
        let mut options = S3Options { lock: Some(rule), ..options(&s3) };
        let account = s3.account(name);
        options.credentials =
            pgkeep::storage::s3::Credentials::Fixed(pgkeep::storage::s3::AccessKeys {
                access_key: pgkeep::base::Secret::new(account.access_key.clone()),
                secret_key: pgkeep::base::Secret::new(account.secret_key.clone()),
                session_token: None,
            });
        open(options)
    };
    let store = open(options(&s3));
    put(&store, "a", 9);
    put(&store, "a", 9);
    let id = list_versions(&store, "a").unwrap().remove(0).id;
    let until = store.locked_until(&key("a")).unwrap();
    let refused = |store: &S3Store| store.delete_version(&key("a"), &id).unwrap_err();
    let error = refused(&store);
    assert!(matches!(error, Error::Locked { until: told, .. } if told <= until), "{error}");
    assert!(error.to_string().contains("locked until 2"), "{error}");
    let blind = as_account("blind");
    let error = refused(&blind);
    assert!(matches!(error, Error::Locked { until: None, .. }), "{error}");
    // Who may not see the lock goes by the rule.
    set_class(&blind, "a", &StorageClass::GlacierIr).unwrap();
    let moved = store.locked_until(&key("a")).unwrap().unwrap();
    assert!((moved - until.unwrap()).num_seconds().abs() <= 5, "{moved}");
    assert!(blind.locked_until(&key("a")).is_err());
    s3.advance_clock(4 * DAY);
    let error = refused(&as_account("reader"));
    assert!(matches!(error, Error::Forbidden { .. } | Error::Locked { .. }), "{error}");
    store.delete_version(&key("a"), &id).unwrap();
}

#[test]
fn versions_come_in_pages_and_cost_nothing_where_there_are_none() {
    let s3 = TestS3::builder().versioned().start();
    let store = open(options(&s3));
    for number in 0..1100 {
        store.put(&key(["b/a", "b/b"][number % 2]), b"x").unwrap();
    }
    store.put(&key("a"), b"x").unwrap();
    store.delete(&key("b/b")).unwrap();
    assert!(store.has_versions().unwrap());
    let found = list_versions(&store, "b/").unwrap();
    let mut ids: Vec<_> = found.iter().map(|version| version.id.as_str()).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!((found.len(), ids.len()), (549 + 551, 1100));
    assert_eq!(s3.requests("ListObjectVersions"), 2);
    let plain = server();
    let store = open(options(&plain));
    put(&store, "a", 9);
    assert!(list_versions(&store, "").unwrap().is_empty() && !store.has_versions().unwrap());
    assert_eq!(plain.requests("ListObjectVersions"), 0);
    // Garage knows no such list.
    plain
        .fault(Fault::Error { status: 501, code: "NotImplemented" })
        .on("GetBucketVersioning")
        .always();
    plain
        .fault(Fault::Error { status: 501, code: "NotImplemented" })
        .on("ListObjectVersions")
        .always();
    assert!(list_versions(&store, "").unwrap().is_empty());
}
