//! Answers that are cut, that name nothing, or that are not the service's, and connections that fall silent:
//! none of them is an end, an absence or a success.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use pgkeep::base::{Ctx, Secret, Silent};
use pgkeep::storage::s3::{AccessKeys, Credentials, KeySource, S3Options};
use pgkeep::storage::{
    Cause, Error, ObjectKey, ObjectStore, RetryPolicy, S3Store, conformance, list_all,
};

use crate::s3_store::options;
use crate::support::bucket_site::BucketSite;
use crate::support::s3::{Fault, TestS3};
use crate::support::{Cipher, Server};

fn open(options: S3Options) -> S3Store {
    S3Store::open(&Ctx::system(Arc::new(Silent)), options).unwrap()
}

fn key(name: &str) -> ObjectKey {
    ObjectKey::new(name).unwrap()
}

fn names(store: &S3Store, prefix: &str) -> Vec<String> {
    let listed = list_all(store, prefix).unwrap();
    listed.into_iter().map(|meta| meta.key.to_string()).collect()
}

#[test]
fn d2026_11_28_a_list_that_was_cut_is_no_shorter_list() {
    let s3 = TestS3::start();
    let store = open(options(&s3));
    for name in ["a/1", "a/2", "a/3"] {
        store.put(&key(name), b"x").unwrap();
    }
    let mut hits = 0;
    // To the last byte of the root's end tag, and past the whole document.
    for missing in 1..2000 {
        let order = s3.fault(Fault::ShortResponse { missing }).on("ListObjectsV2").next(1);
        assert_eq!(names(&store, "a/"), ["a/1", "a/2", "a/3"], "{missing} bytes are missing");
        hits += order.hits();
    }
    assert_eq!(hits, 1999);
}

#[test]
fn d2026_11_28_a_page_that_names_nothing_is_no_end() {
    let s3 = TestS3::start();
    let store = open(options(&s3));
    for number in 0..5 {
        store.put(&key(&format!("a/{number}")), b"x").unwrap();
    }
    for pages in [1, 3] {
        let order = s3.fault(Fault::EmptyPage).on("ListObjectsV2").next(pages);
        let after = store.list("a/", Some("a/3"), 1).unwrap();
        assert_eq!(after.first().map(|meta| meta.key.to_string()).as_deref(), Some("a/4"));
        assert_eq!(u64::try_from(order.hits()).unwrap(), pages);
    }
    // A 404 of something else is settled by a list, which must not end there either.
    s3.fault(Fault::Bare404).on("GetObject").next(1);
    s3.fault(Fault::EmptyPage).on("ListObjectsV2").next(1);
    let error = store.get(&key("a/1")).unwrap_err();
    assert!(!error.is_not_found(), "{error}");
}

/// A console makes an object of the folder's name when a person makes a folder.
#[test]
fn d2026_11_28_a_folder_made_by_a_console_is_no_object_of_ours() {
    let s3 = TestS3::start();
    let above = open(S3Options { prefix: String::new(), ..options(&s3) });
    above.put(&key("some/where/x"), b"x").unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let put = s3.client().put_object().bucket(s3.bucket()).key("some/where/");
        put.send().await.unwrap();
    });
    let store = open(options(&s3));
    assert_eq!(names(&store, ""), ["x"]);
    assert_eq!(store.list("", None, 1).unwrap().len(), 1);
}

#[test]
fn d2026_11_28_a_412_of_something_else_is_no_proof_of_an_object() {
    let s3 = TestS3::start();
    let store = open(options(&s3));
    let order = s3.fault(Fault::Bare412).on("PutObject").next(1);
    let error = store.put_if_absent(&key("a"), b"mine").unwrap_err();
    assert!(!error.is_already_exists(), "{error}");
    assert_eq!((order.hits(), s3.keys().len()), (1, 0));
    // Where the object is there, a server may say so without a body.
    store.put(&key("a"), b"theirs").unwrap();
    s3.fault(Fault::Bare412).on("PutObject").next(1);
    assert!(store.put_if_absent(&key("a"), b"mine").unwrap_err().is_already_exists());
}

#[test]
fn d2026_11_28_an_upload_that_was_completed_is_not_told_as_failed() {
    let s3 = TestS3::builder().small_parts().start();
    let store = open(options(&s3));
    let body = vec![7; 200_000];
    let unknown = Fault::Error { status: 501, code: "NotImplemented" };
    let lost = [
        // Conditions are not known to it, and then the answer is lost.
        vec![unknown, Fault::ERROR_AFTER_ACTING],
        // It says success, and nothing else.
        vec![Fault::ShortResponse { missing: 100_000 }],
        vec![Fault::ShortResponse { missing: 1 }],
        // It works for longer than others may be silent.
        vec![Fault::HangAfterActing],
    ];
    for (number, faults) in lost.into_iter().enumerate() {
        let name = key(&format!("pack/{number}"));
        let mut writer = store.put_stream(&name).unwrap();
        writer.write(&body).unwrap();
        for fault in faults {
            s3.fault(fault).on("CompleteMultipartUpload").next(1);
        }
        assert_eq!(writer.finish().unwrap(), 200_000, "{number}");
        assert!(store.get(&name).unwrap() == body, "{number}");
    }
    assert!(s3.unfinished_uploads().is_empty());
}

/// A request that hangs holds its place among those that may be under way, and no other one's.
#[test]
fn f098_what_hangs_keeps_nobody_else_waiting_for_ever() {
    let s3 = TestS3::start();
    let store = open(S3Options { requests_max: 2, ..options(&s3) });
    for name in ["a", "b"] {
        store.put(&key(name), name.as_bytes()).unwrap();
    }
    let hangs = s3.fault(Fault::Hang).on("GetObject").when(|seen| seen.key.ends_with('a')).always();
    std::thread::scope(|scope| {
        let hanging = scope.spawn(|| store.get(&key("a")));
        while hangs.hits() == 0 {
            std::thread::sleep(Duration::from_millis(1));
        }
        for _ in 0..100 {
            assert_eq!(store.get(&key("b")).unwrap(), b"b");
        }
        assert!(!hanging.is_finished(), "a hundred requests took longer than its time limits");
        assert!(hanging.join().unwrap().is_err());
    });
    // Where it is the only place, the next one waits until it is ended.
    let store = open(S3Options { requests_max: 1, ..options(&s3) });
    let before = hangs.hits();
    std::thread::scope(|scope| {
        let hanging = scope.spawn(|| store.get(&key("a")));
        while hangs.hits() == before {
            std::thread::sleep(Duration::from_millis(1));
        }
        assert_eq!(store.get(&key("b")).unwrap(), b"b");
        assert!(hanging.join().unwrap().is_err());
    });
}

/// All requests of HTTP/2 share a connection, whose end nobody tells when a load balancer goes away.
#[test]
fn d2026_11_28_a_connection_that_fell_silent_is_left() {
    for s3 in [TestS3::start(), TestS3::builder().tls().start()] {
        let ca = s3.certificate().map(|text| text.as_bytes().to_vec());
        let store = open(S3Options { ca, ..options(&s3) });
        store.put(&key("a"), b"x").unwrap();
        assert_eq!(s3.connections(), 1);
        for silences in 1..=2 {
            s3.silence_connections();
            assert_eq!(store.get(&key("a")).unwrap(), b"x", "{}", s3.endpoint());
            assert_eq!(s3.connections(), 1 + silences);
        }
    }
}

#[test]
fn over_tls_a_store_conforms_and_trusts_whom_it_is_told_to() {
    let s3 = TestS3::builder().small_parts().tls().start();
    let ca = s3.certificate().map(|text| text.as_bytes().to_vec());
    conformance::run_all(&|| Box::new(open(S3Options { ca: ca.clone(), ..options(&s3) })));
    s3.reset_counts();
    let error = open(options(&s3)).get(&key("a")).unwrap_err();
    assert!(error.to_string().to_lowercase().contains("certificate"), "{error}");
    assert_eq!(s3.all_requests().len(), 0);
}

#[test]
fn over_tls_a_backup_is_made_and_restored() {
    let Some(server) = Server::main() else { return };
    let s3 = TestS3::builder().tls().start();
    let site = BucketSite::new(&server, s3, Cipher::Aes).archiving();
    site.cluster.psql("insert into t select generate_series(1, 1000)");
    site.config.run(["backup"]).assert_ok();
    site.cluster.psql("insert into t values (0)");
    site.cluster.psql("select pg_switch_wal()");
    let copy = site.restored("copy", &[]);
    assert_eq!(copy.psql("select count(*) >= 1000 from t").trim(), "t");
}

/// Keys of a file, which somebody replaces.
#[derive(Debug)]
struct Replaced(Mutex<Option<AccessKeys>>);

impl KeySource for Replaced {
    fn read(&self) -> Result<AccessKeys, Cause> {
        self.0.lock().unwrap().clone().ok_or_else(|| "the file is gone".into())
    }
}

#[test]
fn d2026_11_28_keys_that_were_replaced_are_used_at_once() {
    let s3 = TestS3::builder().account("other", |_| true).start();
    let keys = |name: &str| {
        let account = s3.account(name);
        AccessKeys {
            access_key: Secret::new(account.access_key.clone()),
            secret_key: Secret::new(account.secret_key.clone()),
            session_token: None,
        }
    };
    let source = Arc::new(Replaced(Mutex::new(None)));
    let retry = RetryPolicy { deadline: Duration::from_secs(20), ..RetryPolicy::default() };
    let credentials = Credentials::Source(Arc::<Replaced>::clone(&source));
    let store = open(S3Options { credentials, retry, ..options(&s3) });
    // Never good: told at once.
    let error = store.put(&key("a"), b"x").unwrap_err();
    assert!(matches!(error, Error::Credentials { .. }), "{error}");
    assert!(error.to_string().contains("the file is gone"), "{error}");
    *source.0.lock().unwrap() = Some(keys("owner"));
    store.put(&key("a"), b"x").unwrap();
    let wrong = AccessKeys { secret_key: Secret::new("wrong".to_owned()), ..keys("other") };
    *source.0.lock().unwrap() = Some(wrong);
    assert!(matches!(store.get(&key("a")).unwrap_err(), Error::Credentials { .. }));
    *source.0.lock().unwrap() = Some(keys("other"));
    assert_eq!(store.get(&key("a")).unwrap(), b"x");
    // Once they were good: a file that is being replaced, and a token that has ended, may be back soon.
    let expired = Fault::Error { status: 400, code: "ExpiredToken" };
    let order = s3.fault(expired).on("GetObject").next(2);
    assert_eq!(store.get(&key("a")).unwrap(), b"x");
    assert_eq!(order.hits(), 2);
    *source.0.lock().unwrap() = None;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(Duration::from_millis(300));
            *source.0.lock().unwrap() = Some(keys("other"));
        });
        assert_eq!(store.get(&key("a")).unwrap(), b"x");
    });
}
