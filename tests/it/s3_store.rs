//! The store in a bucket, over HTTP: every behaviour of stores, and what it makes of each failure.

use std::sync::Arc;
use std::time::{Duration, Instant};

use pgkeep::base::{Ctx, Secret, Silent, Timestamp};
use pgkeep::storage::s3::{AccessKeys, Checksums, Credentials, S3Options, ServerEncryption};
use pgkeep::storage::{
    Error, ObjectKey, ObjectStore, RetryPolicy, S3Store, conformance, list_all, sweep_unfinished,
};

use crate::support::s3::{Fault, TestS3};

const PART: usize = 64 << 10;

/// As a repository's, but hasty, and with small parts.
pub(crate) fn options(s3: &TestS3) -> S3Options {
    S3Options {
        bucket: s3.bucket().to_owned(),
        prefix: "some/where".to_owned(),
        endpoint: Some(s3.endpoint()),
        region: Some(s3.region().to_owned()),
        path_style: true,
        credentials: Credentials::Fixed(AccessKeys {
            access_key: Secret::new(s3.access_key().to_owned()),
            secret_key: Secret::new(s3.secret_key().to_owned()),
            session_token: None,
        }),
        part_bytes: PART,
        idle_timeout: Duration::from_millis(400),
        retry: RetryPolicy {
            delay_first: Duration::from_millis(1),
            delay_max: Duration::from_millis(20),
            deadline: Duration::from_secs(5),
            first_contact: Duration::from_millis(300),
            attempts_max: 12,
        },
        ..S3Options::default()
    }
}

fn ctx() -> Ctx {
    Ctx::system(Arc::new(Silent))
}

fn open(options: S3Options) -> S3Store {
    S3Store::open(&ctx(), options).unwrap()
}

fn store(s3: &TestS3) -> S3Store {
    open(options(s3))
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

fn streamed(store: &S3Store, name: &str, body: &[u8]) -> Result<u64, Error> {
    let mut writer = store.put_stream(&key(name))?;
    for piece in body.chunks(10_000) {
        writer.write(piece)?;
    }
    writer.finish()
}

#[test]
fn conforms() {
    let s3 = server();
    conformance::run_all(&|| Box::new(store(&s3)));
    // Without a prefix, and without the newer checksums.
    let (other, plain) = (server(), TestS3::builder().small_parts().rejects_checksums().start());
    conformance::run_all(&|| {
        Box::new(open(S3Options { prefix: String::new(), ..options(&other) }))
    });
    conformance::run_all(&|| {
        Box::new(open(S3Options { checksums: Checksums::WhenRequired, ..options(&plain) }))
    });
    assert!(s3.requests("CompleteMultipartUpload") > 0, "nothing was sent in parts");
    assert!(s3.unfinished_uploads().is_empty(), "{:?}", s3.unfinished_uploads());
}

#[test]
fn a_server_without_the_newer_checksums_says_so() {
    let plain = TestS3::builder().rejects_checksums().start();
    let error = store(&plain).put(&key("a"), b"x").unwrap_err();
    assert!(matches!(error, Error::Unsupported { .. }), "{error}");
}

#[test]
fn small_objects_are_one_request_and_large_ones_come_in_parts() {
    let s3 = server();
    let store = store(&s3);
    store.put_if_absent(&key("small"), &pattern(PART * 3)).unwrap();
    streamed(&store, "one", &pattern(PART)).unwrap();
    assert_eq!(s3.all_requests().into_iter().collect::<Vec<_>>(), [("PutObject", 2)]);
    s3.reset_counts();
    let body = pattern(PART * 10 + 1);
    streamed(&store, "many", &body).unwrap();
    assert_eq!(s3.requests("UploadPart"), 11);
    assert_eq!(store.get(&key("many")).unwrap(), body);
    assert_eq!(s3.keys(), ["some/where/many", "some/where/one", "some/where/small"]);
    s3.reset_counts();
    let names: Vec<_> = (0..2500).map(|i| key(&format!("gone/{i}"))).collect();
    store.delete_many(&names).unwrap();
    assert_eq!(s3.all_requests().into_iter().collect::<Vec<_>>(), [("DeleteObjects", 3)]);
}

/// Everything that a service asks to repeat, and everything that breaks on the way.
#[test]
fn f092_f095_what_may_pass_is_tried_again() {
    let s3 = server();
    let store = store(&s3);
    let body = pattern(PART * 4 + 17);
    let faults = [
        Fault::INTERNAL_ERROR,
        Fault::SLOW_DOWN,
        Fault::TOO_MANY_REQUESTS,
        Fault::OPERATION_ABORTED,
        Fault::CONFLICT,
        Fault::ERROR_AFTER_ACTING,
        Fault::Error { status: 502, code: "" },
        Fault::Error { status: 499, code: "ClientClosedRequest" },
        Fault::Error { status: 400, code: "RequestTimeout" },
        Fault::DropBeforeActing,
        Fault::DropAfterActing,
        Fault::CutRequest { after: 1000 },
        Fault::CutResponse { after: 1000 },
        Fault::Hang,
        Fault::HangAfterActing,
    ];
    for (i, fault) in faults.into_iter().enumerate() {
        let name = |kind: &str| format!("{kind}/{i}");
        let said = format!("{fault:?}");
        let each = |operation, check: &dyn Fn()| {
            s3.clear_faults();
            let ordered = s3.fault(fault.clone()).on(operation).next(2);
            check();
            assert!(ordered.hits() > 0, "{said} on {operation} was not met");
        };
        each("PutObject", &|| {
            store
                .put_if_absent(&key(&name("absent")), &body)
                .unwrap_or_else(|e| panic!("{said}: {e}"));
        });
        each("UploadPart", &|| assert!(streamed(&store, &name("parts"), &body).is_ok()));
        each("CreateMultipartUpload", &|| assert!(streamed(&store, &name("begun"), &body).is_ok()));
        each("CompleteMultipartUpload", &|| {
            streamed(&store, &name("done"), &body).unwrap_or_else(|e| panic!("{said}: {e}"));
        });
        each("GetObject", &|| assert_eq!(store.get(&key(&name("absent"))).unwrap(), body));
        each("GetObject", &|| {
            let mut range = vec![0; 70_000];
            store.read_range(&key(&name("done")), 5, &mut range).unwrap();
            assert_eq!(range, body[5..70_005]);
        });
        // An answer to HEAD has no body: nothing says which of the errors with status 400 it is.
        let is_told = !said.contains("400");
        is_told.then(|| {
            each("HeadObject", &|| {
                assert_eq!(store.head(&key(&name("parts"))).unwrap().size, body.len() as u64);
            })
        });
        each("ListObjectsV2", &|| assert_eq!(list_all(&store, &name("parts")).unwrap().len(), 1));
        each("DeleteObject", &|| store.delete(&key(&name("begun"))).unwrap());
        each("DeleteObjects", &|| store.delete_many(&[key(&name("parts"))]).unwrap());
        s3.clear_faults();
        assert!(store.get(&key(&name("begun"))).unwrap_err().is_not_found());
        assert!(store.get(&key(&name("parts"))).unwrap_err().is_not_found());
    }
}

/// The work was done and its answer was lost: the next attempt meets its own object.
#[test]
fn f092_an_answer_that_was_lost_is_no_conflict() {
    let s3 = server();
    let store = store(&s3);
    for fault in [Fault::ERROR_AFTER_ACTING, Fault::DropAfterActing, Fault::HangAfterActing] {
        let name = format!("lost/{fault:?}").replace([' ', '{', '}', ':', '"', ','], "");
        let ordered = s3.fault(fault).on("PutObject").next(1);
        store.put_if_absent(&key(&name), b"mine").unwrap();
        assert_eq!(ordered.hits(), 1);
        let refused = store.put_if_absent(&key(&name), b"mine").unwrap_err();
        assert!(refused.is_already_exists(), "{refused}");
    }
    // Somebody else's object is a conflict all the same.
    store.put(&key("theirs"), b"theirs").unwrap();
    s3.fault(Fault::INTERNAL_ERROR).on("PutObject").next(1);
    let refused = store.put_if_absent(&key("theirs"), b"mine").unwrap_err();
    assert!(refused.is_already_exists(), "{refused}");
    let body = pattern(PART * 2);
    s3.fault(Fault::ERROR_AFTER_ACTING).on("CompleteMultipartUpload").next(1);
    streamed(&store, "parts", &body).unwrap();
    let refused = streamed(&store, "parts", &body).unwrap_err();
    assert!(refused.is_already_exists(), "{refused}");
    s3.fault(Fault::INTERNAL_ERROR).on("CompleteMultipartUpload").next(1);
    let refused = streamed(&store, "theirs", &body).unwrap_err();
    assert!(refused.is_already_exists(), "{refused}");
    assert_eq!(store.get(&key("theirs")).unwrap(), b"theirs");
}

/// A body that is cut, delayed, or of another place than asked for.
#[test]
fn f006_f007_f073_only_the_whole_and_right_body_is_delivered() {
    let s3 = server();
    let store = store(&s3);
    let body = pattern(300_000);
    store.put(&key("a"), &body).unwrap();
    for fault in [
        Fault::CutResponse { after: 100_000 },
        Fault::ShortResponse { missing: 1 },
        Fault::ShortResponse { missing: 250_000 },
        Fault::SlowBody { piece: 50_000, pause: Duration::from_millis(50) },
        Fault::SlowBody { piece: 50_000, pause: Duration::from_secs(2) },
    ] {
        for count in [1, 3] {
            s3.clear_faults();
            let ordered = s3.fault(fault.clone()).on("GetObject").next(count);
            assert!(store.get(&key("a")).unwrap() == body, "{fault:?}");
            let mut range = vec![0; 200_000];
            store.read_range(&key("a"), 77, &mut range).unwrap();
            assert!(range == body[77..200_077], "{fault:?}");
            assert!(store.read_up_to(&key("a"), 50_000, 999_999).unwrap() == body[50_000..]);
            assert!(ordered.hits() > 0);
        }
    }
    // Cut for ever: reported, not delivered.
    s3.clear_faults();
    s3.fault(Fault::ShortResponse { missing: 10 }).on("GetObject").always();
    let error = store.get(&key("a")).unwrap_err();
    assert!(matches!(error, Error::Io { .. }), "{error}");
    // And a request that arrives cut leaves no object.
    s3.clear_faults();
    s3.fault(Fault::CutRequest { after: 100_000 }).always();
    for name in ["cut/put", "cut/stream"] {
        let failed = match name {
            "cut/put" => store.put_if_absent(&key(name), &body),
            _ => streamed(&store, name, &body).map(drop),
        };
        assert!(matches!(failed, Err(Error::Io { .. })), "{failed:?}");
    }
    s3.clear_faults();
    assert!(list_all(&store, "cut/").unwrap().is_empty());
}

/// Absence is the service's own word, never a proxy's.
#[test]
fn f018_a_404_of_something_else_is_no_absence() {
    let s3 = server();
    let store = store(&s3);
    store.put(&key("here"), b"x").unwrap();
    for operation in ["GetObject", "HeadObject"] {
        for fault in [Fault::Bare404, Fault::HtmlPage] {
            for name in ["here", "there"] {
                s3.clear_faults();
                let ordered = s3.fault(fault.clone()).on(operation).always();
                let (got, looked) = (store.get(&key(name)), store.head(&key(name)));
                let said = if operation == "GetObject" {
                    got.map(drop).unwrap_err()
                } else {
                    looked.map(drop).unwrap_err()
                };
                assert!(ordered.hits() > 0);
                // The list, which is the service's, may prove it.
                let is_proof = name == "there" && matches!(fault, Fault::Bare404);
                assert_eq!(said.is_not_found(), is_proof, "{operation} {fault:?} {name}: {said}");
            }
        }
    }
    s3.clear_faults();
    s3.fault(Fault::Bare404).always();
    for outcome in [store.get(&key("there")).map(drop), store.head(&key("there")).map(drop)] {
        let error = outcome.unwrap_err();
        assert!(!error.is_not_found(), "{error}");
    }
    assert!(store.list("there", None, 1).is_err());
}

#[test]
fn f095_a_dead_peer_is_given_up() {
    let s3 = server();
    let store = open(S3Options {
        retry: RetryPolicy { attempts_max: 3, ..options(&s3).retry },
        ..options(&s3)
    });
    s3.fault(Fault::Hang).always();
    let begun = Instant::now();
    let error = store.put_if_absent(&key("a"), &pattern(PART)).unwrap_err();
    assert!(error.to_string().contains("nothing moved for 0.4 s"), "{error}");
    assert!(error.to_string().contains("given up after"), "{error}");
    let error = store.get(&key("a")).unwrap_err();
    assert!(matches!(error, Error::Io { .. }), "{error}");
    assert!(streamed(&store, "b", &pattern(PART * 9)).is_err());
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
}

#[test]
fn f095_an_address_that_nobody_answers_is_given_up_soon() {
    let s3 = server();
    let unused = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let store = open(S3Options { endpoint: Some(format!("http://{unused}")), ..options(&s3) });
    let begun = Instant::now();
    let error = store.get(&key("a")).unwrap_err();
    assert!(matches!(error, Error::Io { .. }), "{error}");
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
}

#[test]
fn what_stays_wrong_is_not_tried_again() {
    let s3 = TestS3::builder().account("reader", |asked| asked.action != "s3:PutObject").start();
    let reader = s3.account("reader");
    let credentials = |access: &str, secret: &str| {
        Credentials::Fixed(AccessKeys {
            access_key: Secret::new(access.to_owned()),
            secret_key: Secret::new(secret.to_owned()),
            session_token: None,
        })
    };
    let reading = open(S3Options {
        credentials: credentials(&reader.access_key, &reader.secret_key),
        ..options(&s3)
    });
    let error = reading.put_if_absent(&key("a"), b"x").unwrap_err();
    let text = error.to_string();
    assert!(matches!(error, Error::Forbidden { .. }), "{error}");
    let named = "put a: s3:PutObject on arn:aws:s3:::backups/some/where/* was refused";
    assert!(text.contains(named), "{text}");
    assert_eq!(s3.requests("PutObject"), 1);
    for (access, secret) in [(s3.access_key(), "wrong"), ("NOBODY", "wrong")] {
        s3.reset_counts();
        let store = open(S3Options { credentials: credentials(access, secret), ..options(&s3) });
        let error = store.get(&key("a")).unwrap_err();
        assert!(matches!(error, Error::Credentials { .. }), "{error}");
        assert!(!error.to_string().contains("wrong"), "{error}");
        assert_eq!(s3.all_requests().values().sum::<usize>(), 1);
    }
    let lost = open(S3Options { bucket: "another".into(), ..options(&s3) });
    assert!(matches!(lost.get(&key("a")).unwrap_err(), Error::NoStore { .. }));
    let error = store(&s3).get(&key("a")).unwrap_err();
    assert!(error.is_not_found(), "{error}");
}

#[test]
fn f092_a_clock_that_is_wrong_is_told_and_a_late_request_repeated() {
    let s3 = server();
    let store = store(&s3);
    let now = time::OffsetDateTime::now_utc();
    let hour = time::Duration::hours(1);
    for (server_time, told) in [(now - hour, "ahead of"), (now + hour, "behind")] {
        s3.clear_faults();
        let ordered = s3.fault(Fault::ClockSkewed { server_time }).always();
        let error = store.get(&key("a")).unwrap_err();
        assert!(matches!(error, Error::Clock { .. }), "{error}");
        assert!(error.to_string().contains(told), "{error}");
        assert_eq!(ordered.hits(), 1, "no request helps");
    }
    s3.clear_faults();
    // The clocks agree, so this request was on its way for too long.
    s3.fault(Fault::ClockSkewed { server_time: now }).next(1);
    store.put(&key("a"), b"x").unwrap();
}

#[test]
fn a_bucket_is_where_the_configuration_says_or_refused() {
    let s3 = TestS3::builder().region("eu-central-1").start();
    let found = store(&s3).require_region().unwrap();
    assert_eq!(found.as_deref(), Some("eu-central-1"));
    let elsewhere = open(S3Options { region: Some("us-west-2".into()), ..options(&s3) });
    for error in [elsewhere.require_region().unwrap_err(), elsewhere.get(&key("a")).unwrap_err()] {
        assert!(matches!(error, Error::Region { .. }), "{error}");
        assert!(error.to_string().contains("eu-central-1"), "{error}");
    }
}

/// A killed process leaves an upload; only its age tells it from one at work.
#[test]
fn f092_what_a_killed_upload_left_is_found_and_removed_by_its_age() {
    let s3 = server();
    let store = store(&s3);
    for name in ["killed/1", "killed/2"] {
        let mut writer = store.put_stream(&key(name)).unwrap();
        writer.write(&pattern(PART * 3)).unwrap();
        std::mem::forget(writer);
    }
    s3.age_uploads(Duration::from_secs(7200));
    let mut at_work = store.put_stream(&key("at/work")).unwrap();
    at_work.write(&pattern(PART * 3)).unwrap();
    assert_eq!(store.unfinished().unwrap().len(), 3);
    let hour_ago = |now: Timestamp| now - chrono::TimeDelta::hours(1);
    assert_eq!(sweep_unfinished(&store, hour_ago(ctx().clock.now())).unwrap(), 2);
    at_work.finish().unwrap();
    assert!(s3.unfinished_uploads().is_empty());
    assert_eq!(s3.keys(), ["some/where/at/work"]);
    // Another store's uploads in the same bucket are not its own.
    let other = open(S3Options { prefix: "some/wherever".into(), ..options(&s3) });
    let mut writer = other.put_stream(&key("a")).unwrap();
    writer.write(&pattern(PART * 3)).unwrap();
    assert!(store.unfinished().unwrap().is_empty());
    drop(writer);
    assert!(s3.unfinished_uploads().is_empty(), "dropping aborts");
}

#[test]
fn tags_copies_and_facts_of_the_bucket() {
    let s3 = TestS3::builder().object_lock().start();
    let store = store(&s3);
    let pack = key("pack%2F/a.b");
    store.put(&pack, b"content").unwrap();
    let tags = [("pgkeep".to_owned(), "pack".to_owned())].into_iter().collect();
    store.set_tags(&pack, &tags).unwrap();
    assert_eq!(store.tags(&pack).unwrap(), tags);
    store.copy(&pack, &key("copy")).unwrap();
    assert_eq!(store.get(&key("copy")).unwrap(), b"content");
    assert_eq!(store.tags(&key("copy")).unwrap(), tags);
    let facts = store.bucket_facts().unwrap();
    assert_eq!((facts.is_versioned, facts.has_locks), (Some(true), Some(true)));
    assert!(store.tags(&key("none")).unwrap_err().is_not_found());
    let plain = TestS3::start();
    let facts = self::store(&plain).bucket_facts().unwrap();
    assert_eq!((facts.is_versioned, facts.has_locks), (Some(false), Some(false)));
}

#[test]
fn a_rate_holds_for_both_directions() {
    let s3 = server();
    let store = open(S3Options { max_rate: Some(1_000_000), ..options(&s3) });
    let body = pattern(400_000);
    let begun = Instant::now();
    store.put(&key("a"), &body).unwrap();
    assert_eq!(store.get(&key("a")).unwrap(), body);
    // 800 kB; the last pieces need not be waited for.
    assert!(begun.elapsed() > Duration::from_millis(500), "{:?}", begun.elapsed());
}

#[test]
fn server_side_encryption_and_payer_are_asked_for() {
    let s3 = server();
    let store = open(S3Options {
        encryption: ServerEncryption::Kms { key_id: Some("key-1".into()) },
        requester_pays: true,
        ..options(&s3)
    });
    store.put(&key("a"), b"x").unwrap();
    streamed(&store, "b", &pattern(PART * 2)).unwrap();
    assert_eq!(store.get(&key("a")).unwrap(), b"x");
}

#[test]
fn work_that_is_cancelled_does_not_wait_for_retries() {
    let s3 = server();
    let ctx = ctx();
    let store = S3Store::open(&ctx, options(&s3)).unwrap();
    s3.fault(Fault::Hang).always();
    let begun = Instant::now();
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| store.get(&key("a")).unwrap_err());
        std::thread::sleep(Duration::from_millis(50));
        ctx.cancel.cancel();
        assert!(matches!(waiting.join().unwrap(), Error::Cancelled { .. }));
    });
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
}
