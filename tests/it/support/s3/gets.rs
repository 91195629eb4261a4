//! Reading objects: bodies by range, heads, tags.

use bytes::Bytes;
use s3s::dto::*;
use s3s::{Body, S3Request, S3Response, S3Result};

use super::bucket::Bucket;
use super::checksum::set_sums;
use super::object::{Object, STANDARD, Version};
use super::refusals;
use super::service::Service;

/// Given with a request, GET delivers as many bytes as asked from so much further on, and says in
/// its header that they are the ones asked for.
#[derive(Clone, Copy)]
pub struct ShiftedRange(pub u64);

pub async fn get_object(
    service: &Service,
    request: S3Request<GetObjectInput>,
) -> S3Result<S3Response<GetObjectOutput>> {
    let input = &request.input;
    let bucket = service.bucket();
    let (version, object) = bucket
        .find(&input.key, input.version_id.as_deref())
        .map_err(|error| service.hide_absence(request.credentials.as_ref(), &input.key, error))?;
    check_conditions(object, input.if_match.as_ref(), input.if_none_match.as_ref())?;
    if !object.is_readable(bucket.now()) {
        return Err(refusals::frozen());
    }
    let shift = request.extensions.get::<ShiftedRange>().map_or(0, |shift| shift.0);
    let (body, content_range) = part_of(object, input.range, shift)?;
    let content_length = i64::try_from(body.len()).ok();
    let head =
        head_of(&bucket, version, object, is_whole(input.range.as_ref(), &input.checksum_mode));
    let mut output = GetObjectOutput {
        body: Some(StreamingBlob::from(Body::from(body))),
        accept_ranges: head.accept_ranges,
        content_length,
        content_range,
        content_type: head.content_type,
        checksum_type: head.checksum_type.clone(),
        e_tag: head.e_tag.clone(),
        last_modified: head.last_modified.clone(),
        metadata: head.metadata,
        object_lock_mode: head.object_lock_mode,
        object_lock_retain_until_date: head.object_lock_retain_until_date,
        restore: head.restore,
        storage_class: head.storage_class,
        tag_count: i32::try_from(object.tags.len()).ok().filter(|count| *count > 0),
        version_id: head.version_id,
        ..Default::default()
    };
    if head.checksum_type.is_some() {
        set_sums!(output, &object.sums);
    }
    Ok(S3Response::new(output))
}

pub async fn head_object(
    service: &Service,
    request: S3Request<HeadObjectInput>,
) -> S3Result<S3Response<HeadObjectOutput>> {
    let input = &request.input;
    let bucket = service.bucket();
    let (version, object) = bucket
        .find(&input.key, input.version_id.as_deref())
        .map_err(|error| service.hide_absence(request.credentials.as_ref(), &input.key, error))?;
    check_conditions(object, input.if_match.as_ref(), input.if_none_match.as_ref())?;
    let (body, content_range) = part_of(object, input.range, 0)?;
    let shows_sums = is_whole(input.range.as_ref(), &input.checksum_mode);
    let mut output = head_of(&bucket, version, object, shows_sums);
    let who = request.credentials.as_ref();
    if service.check_allowed(who, "s3:GetObjectRetention", &input.key).is_err() {
        (output.object_lock_mode, output.object_lock_retain_until_date) = (None, None);
    }
    output.content_length = i64::try_from(body.len()).ok();
    output.content_range = content_range;
    let mut response = S3Response::new(output);
    // The crate's answer has no field for it.
    if !object.tags.is_empty() {
        response.headers.insert("x-amz-tagging-count", object.tags.len().into());
    }
    Ok(response)
}

pub async fn get_object_tagging(
    service: &Service,
    request: S3Request<GetObjectTaggingInput>,
) -> S3Result<S3Response<GetObjectTaggingOutput>> {
    let input = request.input;
    let bucket = service.bucket();
    let (_, object) = bucket.find(&input.key, input.version_id.as_deref())?;
    let tag = |(key, value): &(String, String)| Tag {
        key: Some(key.clone()),
        value: Some(value.clone()),
    };
    let tag_set = object.tags.iter().map(tag).collect();
    Ok(S3Response::new(GetObjectTaggingOutput { tag_set, version_id: input.version_id }))
}

fn check_conditions(
    object: &Object,
    if_match: Option<&ETagCondition>,
    if_none_match: Option<&ETagCondition>,
) -> S3Result<()> {
    if if_match.is_some_and(|condition| !object.is_match(condition)) {
        return Err(refusals::precondition_failed());
    }
    if if_none_match.is_some_and(|condition| object.is_match(condition)) {
        return Err(refusals::not_modified());
    }
    Ok(())
}

/// Amazon tells checksums of whole objects only, and only who asks.
fn is_whole(range: Option<&Range>, mode: &Option<ChecksumMode>) -> bool {
    range.is_none() && mode.as_ref().is_some_and(|mode| mode.as_str() == ChecksumMode::ENABLED)
}

fn head_of(
    bucket: &Bucket,
    version: &Version,
    object: &Object,
    shows_sums: bool,
) -> HeadObjectOutput {
    let retention = object.retention.as_ref();
    let mut output = HeadObjectOutput {
        accept_ranges: Some("bytes".to_owned()),
        content_type: object.content_type.clone(),
        e_tag: Some(object.dto_etag()),
        last_modified: Some(version.modified.into()),
        metadata: (!object.metadata.is_empty()).then(|| object.metadata.clone()),
        object_lock_mode: retention.map(|retention| retention.mode.clone().into()),
        object_lock_retain_until_date: retention.map(|retention| retention.until.into()),
        restore: object.restore_header(bucket.now()),
        storage_class: (object.storage_class != STANDARD)
            .then(|| object.storage_class.clone().into()),
        version_id: bucket.rules.is_versioned.then(|| version.id.clone()),
        ..Default::default()
    };
    if shows_sums {
        set_sums!(output, &object.sums);
        output.checksum_type = object.sums.checksum_type.clone();
    }
    output
}

fn part_of(object: &Object, range: Option<Range>, shift: u64) -> S3Result<(Bytes, Option<String>)> {
    let Some(range) = range else { return Ok((object.body.clone(), None)) };
    let whole = object.body.len() as u64;
    let asked = range.check(whole)?;
    let header = format!("bytes {}-{}/{whole}", asked.start, asked.end - 1);
    let length = asked.end - asked.start;
    // Near the end there is nothing further on: then it is from further ahead.
    let start = match asked.start + shift + length <= whole {
        true => asked.start + shift,
        false => asked.start.saturating_sub(shift),
    };
    let start = usize::try_from(start).unwrap_or(usize::MAX).min(object.body.len());
    let length = usize::try_from(length).unwrap_or(usize::MAX);
    let end = start.saturating_add(length).min(object.body.len());
    Ok((object.body.slice(start..end), Some(header)))
}
