//! The faults of the S3 server of the tests: each does what it says, as often as ordered, and is
//! counted.

use std::time::{Duration, Instant};

use aws_sdk_s3::Client;
use aws_sdk_s3::primitives::ByteStream;

use crate::s3_server::{get, put, refused, text_of};
use crate::support::{Fault, TestS3};

#[tokio::test]
async fn errors_come_before_or_after_the_act() {
    let s3 = TestS3::start();
    let client = s3.client();
    for (fault, status, code) in [
        (Fault::INTERNAL_ERROR, 500, "InternalError"),
        (Fault::SLOW_DOWN, 503, "SlowDown"),
        (Fault::TOO_MANY_REQUESTS, 429, "TooManyRequests"),
        (Fault::OPERATION_ABORTED, 409, "OperationAborted"),
        (Fault::CONFLICT, 409, "ConditionalRequestConflict"),
    ] {
        let ordered = s3.fault(fault).on("PutObject").next(1);
        let result = put(&client, "k", &"x".repeat(1 << 20)).send().await;
        assert_eq!(refused(result), (status, code.to_owned()));
        assert_eq!(ordered.hits(), 1);
        assert!(s3.keys().is_empty());
    }
    put(&client, "from", "x").send().await.unwrap();
    let _late = s3.fault(Fault::ErrorInSuccess { code: "InternalError" }).on("CopyObject").next(1);
    let copy = client.copy_object().bucket(s3.bucket()).key("k").copy_source("backups/from");
    assert_eq!(refused(copy.send().await), (200, "InternalError".to_owned()));
    assert!(s3.lose("from"));
    let after = s3.fault(Fault::ERROR_AFTER_ACTING).on("PutObject").next(1);
    assert_eq!(refused(put(&client, "k", "x").send().await).0, 500);
    assert_eq!((s3.keys(), after.hits()), (vec!["k".to_owned()], 1));
    put(&client, "k", "y").send().await.unwrap();
    assert_eq!((s3.requests("PutObject"), s3.requests("CopyObject")), (8, 1));
}

#[tokio::test]
async fn connections_end_before_or_after_the_act() {
    let s3 = TestS3::start();
    let client = s3.client();
    for (fault, stored) in [
        (Fault::DropBeforeActing, false),
        (Fault::CutRequest { after: 1000 }, false),
        (Fault::DropAfterActing, true),
    ] {
        let ordered = s3.fault(fault.clone()).next(1);
        let error = put(&client, "k", &"x".repeat(1 << 20)).send().await.unwrap_err();
        assert!(error.raw_response().is_none(), "{fault:?}: {error:?}");
        assert_eq!((ordered.hits(), s3.lose("k")), (1, stored), "{fault:?}");
    }
}

#[tokio::test]
async fn bodies_of_replies_are_cut_shortened_and_slowed() {
    let s3 = TestS3::start();
    let client = s3.client();
    put(&client, "k", "0123456789").send().await.unwrap();
    let cut = s3.fault(Fault::CutResponse { after: 4 }).on("GetObject").next(1);
    let mut body = get(&client, "k").send().await.unwrap().body;
    assert_eq!(body.next().await.unwrap().unwrap(), "0123");
    assert!(body.next().await.unwrap().is_err());
    assert_eq!(cut.hits(), 1);

    let _short = s3.fault(Fault::ShortResponse { missing: 3 }).on("GetObject").next(1);
    let unchecked = aws_sdk_s3::config::ResponseChecksumValidation::WhenRequired;
    let config = s3.client_config(s3.account("owner")).response_checksum_validation(unchecked);
    let reply = get(&Client::from_conf(config.build()), "k").send().await.unwrap();
    assert_eq!(reply.content_length(), Some(7));
    assert_eq!(reply.body.collect().await.unwrap().to_vec(), b"0123456");

    let pause = Duration::from_millis(20);
    let _slow = s3.fault(Fault::SlowBody { piece: 2, pause }).next(1);
    let begin = Instant::now();
    assert_eq!(text_of(get(&client, "k")).await, "0123456789");
    assert!(begin.elapsed() >= 5 * pause);
}

#[tokio::test]
async fn a_wrong_range_looks_right() {
    let s3 = TestS3::start();
    let client = s3.client();
    put(&client, "k", "0123456789").send().await.unwrap();
    let _wrong = s3.fault(Fault::WrongRange { shift: 3 }).when(|seen| seen.has_range).next(2);
    assert_eq!(text_of(get(&client, "k")).await, "0123456789");
    let reply = get(&client, "k").range("bytes=1-2").send().await.unwrap();
    assert_eq!(reply.content_range(), Some("bytes 1-2/10"));
    assert_eq!(reply.body.collect().await.unwrap().to_vec(), b"45");
    assert_eq!(text_of(get(&client, "k").range("bytes=8-9")).await, "56");
    assert_eq!(text_of(get(&client, "k").range("bytes=8-9")).await, "89");
}

#[tokio::test]
async fn a_stale_list_shows_the_past() {
    let s3 = TestS3::start();
    let client = s3.client();
    let list = || async {
        let list = client.list_objects_v2().bucket(s3.bucket()).send().await.unwrap();
        list.contents().iter().map(|object| object.key().unwrap().to_owned()).collect::<Vec<_>>()
    };
    put(&client, "a", "x").send().await.unwrap();
    assert_eq!(list().await, ["a"]);
    put(&client, "b", "x").send().await.unwrap();
    s3.lose("a");
    let stale = s3.fault(Fault::StaleList { lists: 1 }).on("ListObjectsV2").next(1);
    assert_eq!(list().await, ["a"]);
    assert_eq!(list().await, ["b"]);
    assert_eq!(stale.hits(), 1);
}

#[tokio::test]
async fn no_reply_comes_and_the_server_still_stops() {
    let s3 = TestS3::start();
    let client = s3.client();
    let second = Duration::from_millis(200);
    for (fault, stored) in [(Fault::Hang, false), (Fault::HangAfterActing, true)] {
        let _hang = s3.fault(fault).on("PutObject").next(1);
        let put = put(&client, "k", "x").send();
        assert!(tokio::time::timeout(second, put).await.is_err());
        assert_eq!(s3.lose("k"), stored);
    }
    let begin = Instant::now();
    drop(s3);
    assert!(begin.elapsed() < Duration::from_secs(5));
}

#[tokio::test]
async fn replies_may_come_from_something_else() {
    let s3 = TestS3::start();
    let client = s3.client();
    put(&client, "k", "x").send().await.unwrap();
    let _bare = s3.fault(Fault::Bare404).on("GetObject").next(1);
    let error = get(&client, "k").send().await.unwrap_err();
    assert_eq!(error.raw_response().unwrap().status().as_u16(), 404);
    assert_eq!(error.raw_response().unwrap().body().bytes(), Some(&b""[..]));
    let _page = s3.fault(Fault::HtmlPage).next(1);
    let error = get(&client, "k").send().await.unwrap_err();
    assert_eq!(error.raw_response().unwrap().headers().get("content-type"), Some("text/html"));
    let location = Some("http://127.0.0.1:1/backups/k".to_owned());
    for (status, location) in [(301, None), (307, location)] {
        let fault = Fault::Redirect { status, region: "eu-west-1", location: location.clone() };
        let _redirect = s3.fault(fault).next(1);
        let error = get(&client, "k").send().await.unwrap_err();
        let reply = error.raw_response().unwrap();
        assert_eq!(reply.status().as_u16(), status);
        assert_eq!(reply.headers().get("x-amz-bucket-region"), Some("eu-west-1"));
        assert_eq!(reply.headers().get("location"), location.as_deref());
    }
    let server_time = time::OffsetDateTime::UNIX_EPOCH;
    let _skew = s3.fault(Fault::ClockSkewed { server_time }).next(1);
    let error = get(&client, "k").send().await.unwrap_err();
    let reply = error.raw_response().unwrap();
    assert_eq!(reply.headers().get("date"), Some("Thu, 01 Jan 1970 00:00:00 GMT"));
    assert_eq!(refused::<(), _>(Err(error)), (403, "RequestTimeTooSkewed".to_owned()));
}

/// What a schedule of one in three does to twenty puts.
async fn struck(seed: u64) -> Vec<bool> {
    let s3 = TestS3::start();
    let client = s3.client();
    let some = s3.faults(Fault::transient()).on("PutObject").one_in(3, seed);
    let mut struck = Vec::new();
    for no in 0..20 {
        struck.push(put(&client, &format!("k{no}"), "x").send().await.is_err());
    }
    assert!(some.hits() > 0 && some.hits() < 20, "seed {seed}: {}", some.hits());
    struck
}

#[tokio::test]
async fn schedules_follow_counts_and_seeds() {
    assert_eq!(struck(7).await, struck(7).await);
    assert_ne!(struck(7).await, struck(8).await);
    let s3 = TestS3::start();
    let client = s3.client();
    let third = s3.fault(Fault::SLOW_DOWN).on("PutObject").key_contains("k").after(2).next(1);
    for (key, is_stored) in [("k", true), ("other", true), ("k", true), ("k", false), ("k", true)] {
        assert_eq!(put(&client, key, "x").send().await.is_ok(), is_stored);
    }
    assert_eq!(third.hits(), 1);
    let always = s3.fault(Fault::SLOW_DOWN).always();
    for _ in 0..3 {
        assert_eq!(refused(get(&client, "k").send().await).0, 503);
    }
    always.stop();
    assert_eq!(text_of(get(&client, "k")).await, "x");
}

/// A lost reply makes the client's own second try meet its first: what the code under test must see
/// through.
#[tokio::test]
async fn a_lost_reply_makes_a_retry_refuse_itself() {
    let s3 = TestS3::start();
    let retries = aws_sdk_s3::config::retry::RetryConfig::standard();
    let config = s3.client_config(s3.account("owner")).retry_config(retries);
    let client = Client::from_conf(config.build());
    let _lost = s3.fault(Fault::DropAfterActing).on("PutObject").next(1);
    let result = put(&client, "k", "x").if_none_match("*").send().await;
    assert_eq!(refused(result), (412, "PreconditionFailed".to_owned()));
    assert_eq!(s3.requests("PutObject"), 2);
}

/// Not measured here: only that latency is there, and that big bodies pass whole.
#[tokio::test]
async fn big_bodies_pass_and_latency_is_kept() {
    let latency = Duration::from_millis(30);
    let s3 = TestS3::builder().latency(latency).start();
    let client = s3.client();
    let body = vec![7u8; 16 << 20];
    let begin = Instant::now();
    let put = client.put_object().bucket(s3.bucket()).key("big");
    put.body(ByteStream::from(body.clone())).send().await.unwrap();
    let got = get(&client, "big").send().await.unwrap().body.collect().await.unwrap();
    assert!(begin.elapsed() >= 2 * latency);
    assert_eq!(got.into_bytes(), body);
    let (received, sent) = s3.bytes();
    assert!(received >= body.len() as u64 && sent >= body.len() as u64);
}
