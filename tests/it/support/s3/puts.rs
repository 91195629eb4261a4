//! Storing: puts, tags.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use percent_encoding::percent_decode_str;
use s3s::dto::*;
use s3s::{S3Request, S3Response, S3Result, s3_error};

use super::checksum::{self, set_sums, sums_of};
use super::object::{Object, STANDARD, STORAGE_CLASSES};
use super::service::Service;
use super::{locks, refusals};

/// A declared length is a client's word: no more than this is set aside for it.
const RESERVED_BYTES_MAX: i64 = 64 << 20;
/// Between a look at a condition and the put, where races are lost.
const RACE_TIME: Duration = Duration::from_millis(50);

pub async fn put_object(
    service: &Service,
    mut request: S3Request<PutObjectInput>,
) -> S3Result<S3Response<PutObjectOutput>> {
    let input = &mut request.input;
    let body = whole_body(input.body.take(), input.content_length).await?;
    let mut sums = sums_of!(input);
    checksum::add_trailers(&mut sums, request.trailing_headers.as_ref());
    let has_digest = input.content_md5.is_some() || !checksum::declared(&sums).is_empty();
    let sums = checksum::verified(&body, sums, input.content_md5.as_deref())?;

    let mut object = Object::new(body);
    object.sums = sums;
    object.metadata = input.metadata.take().unwrap_or_default();
    object.content_type = input.content_type.take();
    object.storage_class = storage_class(input.storage_class.as_ref())?;
    object.tags = tags_of_header(input.tagging.as_deref());

    let loses_races = service.bucket().rules.loses_races;
    if loses_races {
        let (none_match, is_match) = (input.if_none_match.as_ref(), input.if_match.as_ref());
        service.bucket().check_write(&input.key, none_match, is_match)?;
        tokio::time::sleep(RACE_TIME).await;
    }
    let mut bucket = service.bucket();
    let mode = input.object_lock_mode.as_ref().map(ObjectLockMode::as_str);
    object.retention = locks::of_put(&bucket, mode, input.object_lock_retain_until_date.take())?;
    if mode.is_some() && !has_digest {
        return Err(s3_error!(
            InvalidRequest,
            "Content-MD5 or x-amz-checksum- is required for puts with object lock parameters"
        ));
    }
    if !loses_races {
        bucket.check_write(&input.key, input.if_none_match.as_ref(), input.if_match.as_ref())?;
    }
    let mut output = PutObjectOutput { e_tag: Some(object.dto_etag()), ..Default::default() };
    set_sums!(output, &object.sums);
    output.version_id = bucket.put(&input.key, object);
    Ok(S3Response::new(output))
}

pub async fn put_object_tagging(
    service: &Service,
    request: S3Request<PutObjectTaggingInput>,
) -> S3Result<S3Response<PutObjectTaggingOutput>> {
    let input = request.input;
    let mut bucket = service.bucket();
    let object = bucket.find_mut(&input.key, input.version_id.as_deref())?;
    let pair = |tag: Tag| (tag.key.unwrap_or_default(), tag.value.unwrap_or_default());
    let tags: Vec<_> = input.tagging.tag_set.into_iter().map(pair).collect();
    if tags.len() > 10 {
        return Err(refusals::refusal(
            http::StatusCode::BAD_REQUEST,
            "BadRequest",
            "an object has at most ten tags",
        ));
    }
    object.tags = tags;
    Ok(S3Response::new(PutObjectTaggingOutput { version_id: input.version_id }))
}

/// The body to its end; an end before its length is an error, and nothing is stored.
pub async fn whole_body(body: Option<StreamingBlob>, length: Option<i64>) -> S3Result<Bytes> {
    let reserved = usize::try_from(length.unwrap_or(0).min(RESERVED_BYTES_MAX)).unwrap_or(0);
    let mut whole = BytesMut::with_capacity(reserved);
    let Some(mut body) = body else { return Ok(Bytes::new()) };
    while let Some(chunk) = body.next().await {
        let chunk = chunk.map_err(|error| match error.to_string() {
            text if text.contains("Sha256Mismatch") => refusals::unsigned_body(),
            text => s3_error!(IncompleteBody, "{text}"),
        })?;
        whole.extend_from_slice(&chunk);
    }
    match length {
        Some(length) if usize::try_from(length) != Ok(whole.len()) => {
            Err(s3_error!(IncompleteBody, "{} bytes of {length}", whole.len()))
        }
        _ => Ok(whole.freeze()),
    }
}

pub fn storage_class(asked: Option<&StorageClass>) -> S3Result<String> {
    let asked = asked.map_or(STANDARD, StorageClass::as_str);
    match STORAGE_CLASSES.contains(&asked) {
        true => Ok(asked.to_owned()),
        false => Err(s3_error!(InvalidStorageClass)),
    }
}

pub fn tags_of_header(header: Option<&str>) -> Vec<(String, String)> {
    let decoded = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
    let pairs = header.unwrap_or("").split('&').filter(|pair| !pair.is_empty());
    let pairs = pairs.map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    pairs.map(|(key, value)| (decoded(key), decoded(value))).collect()
}
