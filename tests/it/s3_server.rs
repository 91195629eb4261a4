//! The S3 server of the tests keeps to what S3 promises; held to it with a client that is not ours.

use std::fmt::Debug;
use std::time::{Duration, SystemTime};

use aws_sdk_s3::Client;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::operation::get_object::builders::GetObjectFluentBuilder;
use aws_sdk_s3::operation::put_object::builders::PutObjectFluentBuilder;
use aws_sdk_s3::primitives::{ByteStream, DateTime};
use aws_sdk_s3::types::{
    ChecksumAlgorithm, ChecksumMode, CompletedMultipartUpload, CompletedPart, Delete,
    GlacierJobParameters, MetadataDirective, ObjectIdentifier, ObjectLockMode, ObjectLockRetention,
    ObjectLockRetentionMode, OptionalObjectAttributes, RestoreRequest, StorageClass, Tag, Tagging,
    Tier,
};

use bytes::Bytes;
use http_body::Frame;
use http_body_util::StreamBody;

use crate::support::TestS3;

const BUCKET: &str = "backups";

pub fn put(client: &Client, key: &str, body: &str) -> PutObjectFluentBuilder {
    let body = ByteStream::from(body.as_bytes().to_vec());
    client.put_object().bucket(BUCKET).key(key).body(body)
}

pub fn get(client: &Client, key: &str) -> GetObjectFluentBuilder {
    client.get_object().bucket(BUCKET).key(key)
}

pub async fn text_of(request: GetObjectFluentBuilder) -> String {
    let body = request.send().await.unwrap().body.collect().await.unwrap();
    String::from_utf8(body.to_vec()).unwrap()
}

/// The status and code of an error reply; an empty code when it has none.
pub fn refused<T: Debug, E: ProvideErrorMetadata + Debug>(
    result: Result<T, SdkError<E>>,
) -> (u16, String) {
    let error = result.unwrap_err();
    let status = error.raw_response().map_or(0, |response| response.status().as_u16());
    let code = error.as_service_error().and_then(|error| error.meta().code()).unwrap_or_default();
    (status, code.to_owned())
}

fn says(status: u16, code: &str) -> (u16, String) {
    (status, code.to_owned())
}

async fn listed(client: &Client, prefix: &str) -> Vec<String> {
    let list = client.list_objects_v2().bucket(BUCKET).prefix(prefix).send().await.unwrap();
    list.contents().iter().map(|object| object.key().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn what_is_put_is_got_and_keys_are_taken_as_they_are() {
    let s3 = TestS3::start();
    let client = s3.client();
    let keys = ["p", "p/x", "a b+c%20d/ü~*'()!&=;:@,$?#", "wal/0000000100000000000000A1"];
    for key in keys {
        put(&client, key, key).metadata("kind", "test").send().await.unwrap();
    }
    for key in keys {
        assert_eq!(text_of(get(&client, key)).await, key);
    }
    let mut sorted = keys.map(str::to_owned);
    sorted.sort();
    assert_eq!(s3.keys(), sorted);
    assert_eq!(listed(&client, "").await, sorted);
    let head = client.head_object().bucket(BUCKET).key("p").send().await.unwrap();
    assert_eq!(head.metadata().unwrap()["kind"], "test");
    assert_eq!(head.content_length(), Some(1));
    assert_eq!(head.storage_class(), None, "Amazon does not say STANDARD");
    assert_eq!(refused(get(&client, "q").send().await), says(404, "NoSuchKey"));
    assert_eq!(refused(client.head_object().bucket(BUCKET).key("q").send().await).0, 404);
    let elsewhere = client.get_object().bucket("other").key("p").send().await;
    assert_eq!(refused(elsewhere), says(404, "NoSuchBucket"));
    assert_eq!(s3.requests("PutObject"), keys.len());
    assert_eq!(s3.log()[0], "PutObject p");
}

#[tokio::test]
async fn eight_conditional_puts_have_one_winner() {
    let s3 = TestS3::start();
    let client = s3.client();
    let puts = (0..8).map(|no| put(&client, "k", &no.to_string()).if_none_match("*").send());
    let results = futures::future::join_all(puts).await;
    let (won, lost): (Vec<_>, Vec<_>) = results.into_iter().partition(Result::is_ok);
    assert_eq!(won.len(), 1);
    for result in lost {
        assert_eq!(refused(result), says(412, "PreconditionFailed"));
    }
    client.delete_object().bucket(BUCKET).key("k").send().await.unwrap();
    put(&client, "k", "again").if_none_match("*").send().await.unwrap();

    let by_etag = put(&client, "k", "new").if_none_match("\"etag\"").send().await;
    assert_eq!(refused(by_etag), says(501, "NotImplemented"));

    let lax = TestS3::builder().ignores_conditions().start();
    let client = lax.client();
    for no in 0..8 {
        put(&client, "k", &no.to_string()).if_none_match("*").send().await.unwrap();
    }
    assert_eq!(lax.body("k").unwrap(), "7");
}

#[tokio::test]
async fn etags_tell_one_content_from_another() {
    let s3 = TestS3::start();
    let client = s3.client();
    let first = put(&client, "k", "1").send().await.unwrap().e_tag.unwrap();
    let second = put(&client, "k", "2").if_match(&first).send().await.unwrap().e_tag.unwrap();
    let failed = says(412, "PreconditionFailed");
    assert_eq!(refused(put(&client, "k", "3").if_match(&first).send().await), failed);
    assert_eq!(refused(get(&client, "k").if_match(&first).send().await), failed);
    assert_eq!(refused(get(&client, "k").if_none_match(&second).send().await).0, 304);
    assert_eq!(text_of(get(&client, "k").if_match(&second)).await, "2");
    let delete = |etag: &str| client.delete_object().bucket(BUCKET).key("k").if_match(etag).send();
    assert_eq!(refused(delete(&first).await), failed);
    delete(&second).await.unwrap();
    let gone = put(&client, "k", "3").if_match(&second).send().await;
    assert_eq!(refused(gone), says(404, "NoSuchKey"));
}

#[tokio::test]
async fn ranges_are_cut_exactly() {
    let s3 = TestS3::start();
    let client = s3.client();
    put(&client, "k", "0123456789").send().await.unwrap();
    put(&client, "empty", "").send().await.unwrap();
    for (range, expected) in
        [("bytes=2-4", "234"), ("bytes=7-", "789"), ("bytes=-3", "789"), ("bytes=8-99", "89")]
    {
        assert_eq!(text_of(get(&client, "k").range(range)).await, expected, "{range}");
    }
    let part = get(&client, "k").range("bytes=2-4").send().await.unwrap();
    assert_eq!(part.content_range(), Some("bytes 2-4/10"));
    for (key, range) in [("k", "bytes=10-"), ("k", "bytes=-0"), ("empty", "bytes=0-0")] {
        let result = get(&client, key).range(range).send().await;
        assert_eq!(refused(result), says(416, "InvalidRange"), "{key} {range}");
    }
}

#[tokio::test]
async fn lists_come_in_pages_in_the_order_of_bytes() {
    let s3 = TestS3::start();
    let client = s3.client();
    for key in ["b/2", "b/10", "b", "a", "b/1", "c", "b/Z", "b/é"] {
        put(&client, key, "x").send().await.unwrap();
    }
    let all = ["b/1", "b/10", "b/2", "b/Z", "b/é"];
    assert_eq!(listed(&client, "b/").await, all);
    let (mut found, mut token) = (Vec::new(), None);
    loop {
        let list = client.list_objects_v2().bucket(BUCKET).prefix("b/").max_keys(2);
        let page = list.set_continuation_token(token).send().await.unwrap();
        assert_eq!(page.key_count().unwrap() as usize, page.contents().len());
        found.extend(page.contents().iter().map(|object| object.key().unwrap().to_owned()));
        token = page.next_continuation_token().map(str::to_owned);
        assert_eq!(page.is_truncated(), Some(token.is_some()));
        if token.is_none() {
            break;
        }
    }
    assert_eq!(found, all);
    let list = client.list_objects_v2().bucket(BUCKET).start_after("b/2").send().await.unwrap();
    assert_eq!(list.contents()[0].key(), Some("b/Z"));
    assert_eq!(list.contents()[0].size(), Some(1));
    let list = client.list_objects_v2().bucket(BUCKET).continuation_token("b/2").send().await;
    assert_eq!(refused(list), says(400, "InvalidArgument"), "a token is no key");
}

#[tokio::test]
async fn lists_may_be_behind_in_both_directions() {
    let s3 = TestS3::builder().stale_lists(1).start();
    let client = s3.client();
    put(&client, "k", "x").send().await.unwrap();
    assert!(listed(&client, "").await.is_empty());
    assert_eq!(listed(&client, "").await, ["k"]);
    client.delete_object().bucket(BUCKET).key("k").send().await.unwrap();
    assert_eq!(listed(&client, "").await, ["k"]);
    assert!(listed(&client, "").await.is_empty());
}

#[tokio::test]
async fn checksums_are_verified_kept_and_told() {
    let s3 = TestS3::start();
    let client = s3.client();
    let bad = put(&client, "k", "body").checksum_crc32_c("AAAAAA==").send().await;
    assert_eq!(refused(bad), says(400, "BadDigest"));
    let bad = put(&client, "k", "body").checksum_crc64_nvme("AAAAAAAAAAA=").send().await;
    assert_eq!(refused(bad), says(400, "BadDigest"));
    let bad = put(&client, "k", "body").content_md5("1B2M2Y8AsgTpgAmY7PhCfg==").send().await;
    assert_eq!(refused(bad), says(400, "BadDigest"));
    assert!(s3.keys().is_empty());
    for algorithm in
        [ChecksumAlgorithm::Crc32, ChecksumAlgorithm::Crc32C, ChecksumAlgorithm::Crc64Nvme]
    {
        put(&client, "k", "body").checksum_algorithm(algorithm).send().await.unwrap();
    }
    let told = get(&client, "k").checksum_mode(ChecksumMode::Enabled).send().await.unwrap();
    assert!(told.checksum_crc64_nvme().is_some());
    let part = get(&client, "k").checksum_mode(ChecksumMode::Enabled).range("bytes=0-1");
    assert!(part.send().await.unwrap().checksum_crc64_nvme().is_none());
    s3.damage("k", |body| body[0] ^= 1);
    let damaged = get(&client, "k").checksum_mode(ChecksumMode::Enabled).send().await.unwrap();
    assert!(damaged.body.collect().await.is_err(), "the client holds the body to its checksum");
}

/// A body whose length is known and whose bytes are not, so that its checksum comes behind it.
fn streamed(pieces: Vec<Result<&'static str, std::io::Error>>, length: usize) -> ByteStream {
    let pieces = pieces.into_iter().map(|piece| piece.map(|text| Frame::data(Bytes::from(text))));
    let body = StreamBody::new(futures::stream::iter(pieces));
    ByteStream::from_body_1_x(Measured { body: Box::pin(body), length })
}

#[tokio::test]
async fn streamed_bodies_carry_their_checksum_behind_them() {
    let s3 = TestS3::start();
    let client = s3.client();
    let put = || {
        let put = client.put_object().bucket(BUCKET).key("k");
        put.checksum_algorithm(ChecksumAlgorithm::Crc32C)
    };
    put().body(streamed(vec![Ok("0123"), Ok("456789")], 10)).send().await.unwrap();
    let told = get(&client, "k").checksum_mode(ChecksumMode::Enabled).send().await.unwrap();
    assert!(told.checksum_crc32_c().is_some());
    assert!(s3.bytes().0 > 10, "in chunks, with a trailer");
    assert_eq!(s3.body("k").unwrap(), "0123456789");
    s3.lose("k");
    let lost = Err(std::io::Error::other("the client dies"));
    assert!(put().body(streamed(vec![Ok("0123"), lost], 10)).send().await.is_err());
    assert!(s3.keys().is_empty());
    put().body(streamed(vec![Ok("x")], 1)).send().await.unwrap();
    assert_eq!(s3.keys(), ["k"]);
}

/// What a stream of frames lacks: how long it will be.
struct Measured<B> {
    body: std::pin::Pin<Box<B>>,
    length: usize,
}

impl<B: http_body::Body> http_body::Body for Measured<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        self.body.as_mut().poll_frame(cx)
    }

    fn size_hint(&self) -> http_body::SizeHint {
        http_body::SizeHint::with_exact(self.length as u64)
    }
}

#[tokio::test]
async fn old_compatibles_reject_checksums() {
    let s3 = TestS3::builder().rejects_checksums().start();
    assert_eq!(refused(put(&s3.client(), "k", "x").send().await), says(501, "NotImplemented"));
    let required = aws_sdk_s3::config::RequestChecksumCalculation::WhenRequired;
    let config = s3.client_config(s3.account("owner")).request_checksum_calculation(required);
    put(&Client::from_conf(config.build()), "k", "x").send().await.unwrap();
}

async fn begun(client: &Client, key: &str) -> String {
    let create = client.create_multipart_upload().bucket(BUCKET).key(key);
    let create = create.checksum_algorithm(ChecksumAlgorithm::Crc32C);
    create.send().await.unwrap().upload_id().unwrap().to_owned()
}

async fn sent(client: &Client, key: &str, id: &str, no: i32, body: Vec<u8>) -> CompletedPart {
    let part = client.upload_part().bucket(BUCKET).key(key).upload_id(id).part_number(no);
    let part = part.checksum_algorithm(ChecksumAlgorithm::Crc32C);
    let part = part.body(ByteStream::from(body)).send().await.unwrap();
    CompletedPart::builder()
        .part_number(no)
        .set_e_tag(part.e_tag)
        .set_checksum_crc32_c(part.checksum_crc32_c)
        .build()
}

fn completed(parts: &[CompletedPart]) -> CompletedMultipartUpload {
    CompletedMultipartUpload::builder().set_parts(Some(parts.to_vec())).build()
}

#[tokio::test]
async fn uploads_in_parts_become_objects_under_a_condition() {
    let s3 = TestS3::start();
    let client = s3.client();
    let id = begun(&client, "big").await;
    let first = sent(&client, "big", &id, 1, vec![1; 5 << 20]).await;
    let second = sent(&client, "big", &id, 2, vec![2; 10]).await;
    assert!(s3.keys().is_empty());
    assert_eq!(s3.unfinished_uploads(), [("big".to_owned(), id.clone())]);
    let complete = |parts: &[CompletedPart]| {
        let complete = client.complete_multipart_upload().bucket(BUCKET).key("big");
        complete.upload_id(&id).if_none_match("*").multipart_upload(completed(parts)).send()
    };
    let turned = complete(&[second.clone(), first.clone()]).await;
    assert_eq!(refused(turned), says(400, "InvalidPartOrder"));
    let bare = CompletedPart::builder().part_number(1).set_e_tag(first.e_tag.clone()).build();
    assert_eq!(refused(complete(&[bare]).await), says(400, "InvalidRequest"));
    put(&client, "big", "in the way").send().await.unwrap();
    let parts = [first, second];
    assert_eq!(refused(complete(&parts).await), says(412, "PreconditionFailed"));
    s3.lose("big");
    let done = complete(&parts).await.unwrap();
    assert!(done.e_tag().unwrap().ends_with("-2\""));
    assert!(done.checksum_crc32_c().unwrap().ends_with("-2"));
    assert_eq!(s3.body("big").unwrap().len(), (5 << 20) + 10);
    assert_eq!(refused(complete(&parts).await), says(404, "NoSuchUpload"));
}

#[tokio::test]
async fn unfinished_uploads_are_listed_aged_and_aborted() {
    let s3 = TestS3::start();
    let client = s3.client();
    let id = begun(&client, "a").await;
    begun(&client, "b").await;
    sent(&client, "a", &id, 1, vec![1; 10]).await;
    let last = sent(&client, "a", &id, 2, vec![1; 10]).await;
    let list = || client.list_parts().bucket(BUCKET).key("a").upload_id(&id).send();
    assert_eq!(list().await.unwrap().parts().len(), 2);
    let parts = completed(&[sent(&client, "a", &id, 1, vec![1; 10]).await, last]);
    let complete = client.complete_multipart_upload().bucket(BUCKET).key("a").upload_id(&id);
    let small = complete.multipart_upload(parts).send().await;
    assert_eq!(refused(small), says(400, "EntityTooSmall"));

    s3.age_uploads(Duration::from_secs(7 * 86_400));
    let page = client.list_multipart_uploads().bucket(BUCKET).max_uploads(1).send().await.unwrap();
    assert_eq!(page.is_truncated(), Some(true));
    let initiated = page.uploads()[0].initiated().unwrap().secs();
    assert!(DateTime::from(SystemTime::now()).secs() - initiated >= 7 * 86_400);
    let rest = client.list_multipart_uploads().bucket(BUCKET);
    let rest = rest.key_marker("a").upload_id_marker(page.next_upload_id_marker().unwrap());
    assert_eq!(rest.send().await.unwrap().uploads()[0].key(), Some("b"));
    let abort = || client.abort_multipart_upload().bucket(BUCKET).key("a").upload_id(&id).send();
    abort().await.unwrap();
    assert_eq!(refused(abort().await), says(404, "NoSuchUpload"));
    assert_eq!(s3.unfinished_uploads().len(), 1);
}

#[tokio::test]
async fn copies_change_the_class_and_keep_the_rest() {
    let s3 = TestS3::start();
    let client = s3.client();
    put(&client, "k", "x").metadata("kind", "a").tagging("keep=yes&x=%20").send().await.unwrap();
    let copy =
        |to: &str| client.copy_object().bucket(BUCKET).key(to).copy_source(format!("{BUCKET}/k"));
    assert_eq!(refused(copy("k").send().await), says(400, "InvalidRequest"));
    copy("k").storage_class(StorageClass::DeepArchive).send().await.unwrap();
    assert_eq!(s3.storage_class("k").unwrap(), "DEEP_ARCHIVE");
    assert_eq!(s3.tags("k")[1], ("x".to_owned(), " ".to_owned()));
    assert_eq!(refused(copy("other").send().await), says(403, "ObjectNotInActiveTierError"));
    put(&client, "k", "x").metadata("kind", "a").send().await.unwrap();
    let replaced = copy("new").metadata_directive(MetadataDirective::Replace);
    replaced.metadata("kind", "b").send().await.unwrap();
    let head = client.head_object().bucket(BUCKET).key("new").send().await.unwrap();
    assert_eq!(head.metadata().unwrap()["kind"], "b");
    let conditional = copy("new").customize().mutate_request(|request| {
        request.headers_mut().insert("if-none-match", "*");
    });
    assert_eq!(refused(conditional.send().await), says(412, "PreconditionFailed"));
}

#[tokio::test]
async fn archived_objects_thaw_when_the_test_says_so() {
    let s3 = TestS3::start();
    let client = s3.client();
    put(&client, "k", "cold").storage_class(StorageClass::DeepArchive).send().await.unwrap();
    let restore = |tier: Tier| {
        let tier = GlacierJobParameters::builder().tier(tier).build().unwrap();
        let asked = RestoreRequest::builder().days(2).glacier_job_parameters(tier).build();
        client.restore_object().bucket(BUCKET).key("k").restore_request(asked).send()
    };
    let header = || async {
        let head = client.head_object().bucket(BUCKET).key("k").send().await.unwrap();
        assert_eq!(head.storage_class(), Some(&StorageClass::DeepArchive));
        head.restore().map(str::to_owned)
    };
    assert_eq!(refused(get(&client, "k").send().await), says(403, "InvalidObjectState"));
    assert_eq!(refused(restore(Tier::Expedited).await), says(400, "InvalidArgument"));
    assert_eq!(header().await, None);
    restore(Tier::Bulk).await.unwrap();
    assert_eq!(header().await.unwrap(), "ongoing-request=\"true\"");
    let list = client.list_objects_v2().bucket(BUCKET);
    let list = list.optional_object_attributes(OptionalObjectAttributes::RestoreStatus);
    let list = list.send().await.unwrap();
    let status = list.contents()[0].restore_status().unwrap();
    assert_eq!(status.is_restore_in_progress(), Some(true));
    assert_eq!(refused(restore(Tier::Bulk).await), says(409, "RestoreAlreadyInProgress"));
    assert_eq!(refused(get(&client, "k").send().await), says(403, "InvalidObjectState"));
    assert_eq!(s3.finish_thaws(), 1);
    assert!(header().await.unwrap().starts_with("ongoing-request=\"false\", expiry-date=\""));
    assert_eq!(text_of(get(&client, "k")).await, "cold");
    restore(Tier::Bulk).await.unwrap();
    s3.advance_clock(Duration::from_secs(3 * 86_400));
    assert_eq!(refused(get(&client, "k").send().await), says(403, "InvalidObjectState"));
    put(&client, "k", "warm").send().await.unwrap();
    assert_eq!(refused(restore(Tier::Bulk).await), says(403, "InvalidObjectState"));
}

#[tokio::test]
async fn deletes_leave_markers_where_there_are_versions() {
    let s3 = TestS3::builder().versioned().start();
    let client = s3.client();
    let first = put(&client, "k", "1").send().await.unwrap().version_id.unwrap();
    put(&client, "k", "2").send().await.unwrap();
    let deleted = client.delete_object().bucket(BUCKET).key("k").send().await.unwrap();
    assert_eq!(deleted.delete_marker(), Some(true));
    assert!(listed(&client, "").await.is_empty());
    assert_eq!(refused(get(&client, "k").send().await), says(404, "NoSuchKey"));
    assert_eq!(text_of(get(&client, "k").version_id(&first)).await, "1");
    let versions = client.list_object_versions().bucket(BUCKET).send().await.unwrap();
    assert_eq!((versions.versions().len(), versions.delete_markers().len()), (2, 1));
    let marker = deleted.version_id.unwrap();
    client.delete_object().bucket(BUCKET).key("k").version_id(marker).send().await.unwrap();
    assert_eq!(text_of(get(&client, "k")).await, "2");
    let versioning = client.get_bucket_versioning().bucket(BUCKET).send().await.unwrap();
    assert_eq!(versioning.status().unwrap().as_str(), "Enabled");
}

#[tokio::test]
async fn locked_versions_outlive_deletes() {
    let s3 = TestS3::builder().object_lock().start();
    let client = s3.client();
    let ahead =
        |days: i64| DateTime::from_secs(DateTime::from(SystemTime::now()).secs() + days * 86_400);
    let locked = put(&client, "k", "x")
        .object_lock_mode(ObjectLockMode::Compliance)
        .object_lock_retain_until_date(ahead(1));
    let id = locked.send().await.unwrap().version_id.unwrap();
    let delete = || client.delete_object().bucket(BUCKET).key("k").version_id(&id).send();
    assert_eq!(refused(delete().await), says(403, "AccessDenied"));
    let retain = |days| {
        let retention = ObjectLockRetention::builder()
            .mode(ObjectLockRetentionMode::Compliance)
            .retain_until_date(ahead(days));
        client.put_object_retention().bucket(BUCKET).key("k").retention(retention.build()).send()
    };
    retain(3).await.unwrap();
    assert_eq!(refused(retain(2).await), says(403, "AccessDenied"));
    let told = client.get_object_retention().bucket(BUCKET).key("k").send().await.unwrap();
    assert_eq!(told.retention().unwrap().retain_until_date().unwrap().secs(), ahead(3).secs());
    s3.advance_clock(Duration::from_secs(4 * 86_400));
    delete().await.unwrap();
    let settings = client.get_object_lock_configuration().bucket(BUCKET).send().await.unwrap();
    assert!(settings.object_lock_configuration().unwrap().object_lock_enabled().is_some());
    let plain = TestS3::start();
    let location = plain.client().get_bucket_location().bucket(BUCKET).send().await.unwrap();
    assert!(location.location_constraint().is_none_or(|place| place.as_str().is_empty()));
    let none = plain.client().get_object_lock_configuration().bucket(BUCKET).send().await;
    assert_eq!(refused(none), says(404, "ObjectLockConfigurationNotFoundError"));
}

#[tokio::test]
async fn many_are_deleted_at_once_and_tags_come_back() {
    let s3 = TestS3::builder().account("keeper", |asked| !asked.key.starts_with("kept")).start();
    let client = s3.client_of("keeper");
    for key in ["kept/1", "a", "b"] {
        put(&s3.client(), key, "x").send().await.unwrap();
    }
    let objects = |keys: &[&str]| {
        let ids = keys.iter().map(|key| ObjectIdentifier::builder().key(*key).build().unwrap());
        Delete::builder().set_objects(Some(ids.collect())).build().unwrap()
    };
    let delete = client.delete_objects().bucket(BUCKET).delete(objects(&["a", "kept/1", "gone"]));
    let deleted = delete.send().await.unwrap();
    assert_eq!(deleted.deleted().len(), 2, "what is not there counts as deleted");
    assert_eq!(deleted.errors()[0].code(), Some("AccessDenied"));
    assert_eq!(s3.keys(), ["b", "kept/1"]);
    let many = vec!["k"; 1001];
    let many = client.delete_objects().bucket(BUCKET).delete(objects(&many)).send().await;
    assert_eq!(refused(many), says(400, "MalformedXML"));

    let tag = Tag::builder().key("tier").value("cold").build().unwrap();
    let tagging = Tagging::builder().tag_set(tag.clone()).build().unwrap();
    client.put_object_tagging().bucket(BUCKET).key("b").tagging(tagging).send().await.unwrap();
    let told = client.get_object_tagging().bucket(BUCKET).key("b").send().await.unwrap();
    assert_eq!(told.tag_set(), [tag]);
}

#[tokio::test]
async fn accounts_may_do_what_their_policy_says() {
    let s3 = TestS3::builder()
        .account("writer", |asked| {
            asked.action == "s3:PutObject" && (asked.has_if_none_match || !asked.is_creation)
        })
        .account("reader", |asked| matches!(asked.action, "s3:GetObject" | "s3:ListBucket"))
        .start();
    let (writer, reader) = (s3.client_of("writer"), s3.client_of("reader"));
    put(&writer, "k", "x").if_none_match("*").send().await.unwrap();
    begun(&writer, "big").await;
    let denied = says(403, "AccessDenied");
    assert_eq!(refused(put(&writer, "k", "y").send().await), denied);
    assert_eq!(refused(get(&writer, "k").send().await), denied);
    let delete = writer.delete_object().bucket(BUCKET).key("k").send().await;
    assert_eq!(refused(delete), denied);
    assert_eq!(text_of(get(&reader, "k")).await, "x");
    assert_eq!(refused(get(&reader, "none").send().await), says(404, "NoSuchKey"));
    let big = "x".repeat(3 << 20);
    assert_eq!(refused(put(&reader, "k", &big).send().await), denied, "and told before it is read");

    let blind = TestS3::builder().account("blind", |asked| asked.action == "s3:GetObject").start();
    assert_eq!(refused(get(&blind.client_of("blind"), "none").send().await), denied);
    let stranger = s3.client_config(blind.account("blind"));
    let stranger = Client::from_conf(stranger.build());
    assert_eq!(refused(get(&stranger, "k").send().await).0, 403);
    let mut forged = s3.account("reader").clone();
    forged.secret_key = "another".to_owned();
    let forged = Client::from_conf(s3.client_config(&forged).build());
    assert_eq!(refused(get(&forged, "k").send().await), says(403, "SignatureDoesNotMatch"));
}

#[tokio::test]
async fn another_region_is_told_the_right_one() {
    let s3 = TestS3::builder().bucket("elsewhere").region("eu-central-1").start();
    let location = s3.client().get_bucket_location().bucket("elsewhere").send().await.unwrap();
    assert_eq!(location.location_constraint().unwrap().as_str(), "eu-central-1");
    let head = s3.client().head_bucket().bucket("elsewhere").send().await.unwrap();
    assert_eq!(head.bucket_region(), Some("eu-central-1"));
    let region = aws_sdk_s3::config::Region::new("us-east-1");
    let config = s3.client_config(s3.account("owner")).region(region);
    let client = Client::from_conf(config.build());
    let error = client.get_object().bucket("elsewhere").key("k").send().await.unwrap_err();
    let body = error.raw_response().unwrap().body().bytes().unwrap().to_vec();
    assert!(String::from_utf8(body).unwrap().contains("<Region>eu-central-1</Region>"));
    assert_eq!(refused::<(), _>(Err(error)), says(400, "AuthorizationHeaderMalformed"));
    client.get_bucket_location().bucket("elsewhere").send().await.unwrap();
}
