//! Copies by the service: whole ones, and parts of an upload.

use bytes::Bytes;
use s3s::dto::*;
use s3s::{S3Error, S3Request, S3Response, S3Result, s3_error};

use super::bucket::Bucket;
use super::checksum::{self, set_sums};
use super::multipart::PART_NUMBER_MAX;
use super::object::{Object, Thaw, etag_of};
use super::puts::{storage_class, tags_of_header};
use super::service::Service;
use super::uploads::UploadedPart;
use super::{locks, refusals};

/// Amazon's, for a copy at once.
const COPY_BYTES_MAX: usize = 5 << 30;

/// What a copy is made of: a readable object that is still the one which is meant.
fn source<'a>(
    bucket: &'a Bucket,
    from: &CopySource,
    if_match: Option<&ETagCondition>,
    hide: impl FnOnce(&str, S3Error) -> S3Error,
) -> S3Result<&'a Object> {
    let CopySource::Bucket { key, version_id, .. } = from else {
        return Err(s3_error!(NotImplemented, "copies come from buckets"));
    };
    let found = bucket.find(key, version_id.as_deref());
    let (_, source) = found.map_err(|error| hide(key, error))?;
    if !bucket.rules.ignores_conditions
        && if_match.is_some_and(|condition| !source.is_match(condition))
    {
        return Err(refusals::precondition_failed());
    }
    match source.is_readable(bucket.now()) {
        true => Ok(source),
        false => Err(refusals::not_active_tier()),
    }
}

fn check_source(
    service: &Service,
    who: Option<&s3s::auth::Credentials>,
    from: &CopySource,
) -> S3Result<()> {
    let CopySource::Bucket { bucket, key, .. } = from else {
        return Err(s3_error!(NotImplemented, "copies come from buckets"));
    };
    service.check_bucket(bucket)?;
    service.check_allowed(who, "s3:GetObject", key)
}

pub async fn copy_object(
    service: &Service,
    mut request: S3Request<CopyObjectInput>,
) -> S3Result<S3Response<CopyObjectOutput>> {
    let conditions = ["if-none-match", "if-match"].map(|name| {
        let value = request.headers.get(name)?;
        ETagCondition::parse_http_header(value.as_bytes()).ok()
    });
    let who = request.credentials.as_ref();
    let input = &mut request.input;
    check_source(service, who, &input.copy_source)?;

    let mut bucket = service.bucket();
    let if_match = input.copy_source_if_match.as_ref();
    let hide = |key: &str, error| service.hide_absence(who, key, error);
    let source = source(&bucket, &input.copy_source, if_match, hide)?;
    if source.body.len() > COPY_BYTES_MAX {
        return Err(s3_error!(InvalidRequest, "the source is larger than 5 GiB"));
    }
    let replaces = directive(input.metadata_directive.as_ref()) == MetadataDirective::REPLACE;
    if is_same_key(input) && !replaces && input.storage_class.is_none() {
        return Err(s3_error!(InvalidRequest, "a copy to itself that changes nothing"));
    }
    let mut object = whole(source);
    object.storage_class = storage_class(input.storage_class.as_ref())?;
    if replaces {
        object.metadata = input.metadata.take().unwrap_or_default();
        object.content_type = input.content_type.take();
    }
    let tagging = input.tagging_directive.as_ref().map(TaggingDirective::as_str);
    if tagging == Some(TaggingDirective::REPLACE) {
        object.tags = tags_of_header(input.tagging.as_deref());
    }
    let mode = input.object_lock_mode.as_ref().map(ObjectLockMode::as_str);
    object.retention = locks::of_put(&bucket, mode, input.object_lock_retain_until_date.take())?;
    bucket.check_write(&input.key, conditions[0].as_ref(), conditions[1].as_ref())?;
    let mut result = CopyObjectResult {
        e_tag: Some(object.dto_etag()),
        last_modified: Some(bucket.now().into()),
        ..Default::default()
    };
    set_sums!(result, &object.sums);
    let version_id = bucket.put(&input.key, object);
    let copy_object_result = Some(result);
    Ok(S3Response::new(CopyObjectOutput { copy_object_result, version_id, ..Default::default() }))
}

/// The copy knows nothing of the parts that its source came in: ETag and checksum are of the whole.
fn whole(source: &Object) -> Object {
    let algorithms = checksum::declared(&source.sums);
    let mut sums = checksum::computed(&algorithms, &[&source.body]);
    if !algorithms.is_empty() {
        sums.checksum_type = Some(ChecksumType::from_static(ChecksumType::FULL_OBJECT));
    }
    Object { etag: etag_of(&source.body), sums, thaw: Thaw::Frozen, ..source.clone() }
}

pub async fn upload_part_copy(
    service: &Service,
    request: S3Request<UploadPartCopyInput>,
) -> S3Result<S3Response<UploadPartCopyOutput>> {
    let who = request.credentials.as_ref();
    let input = &request.input;
    if !(1..=PART_NUMBER_MAX).contains(&input.part_number) {
        return Err(s3_error!(InvalidArgument, "part numbers go from 1 to {PART_NUMBER_MAX}"));
    }
    check_source(service, who, &input.copy_source)?;
    let mut bucket = service.bucket();
    let modified = bucket.now();
    let if_match = input.copy_source_if_match.as_ref();
    let hide = |key: &str, error| service.hide_absence(who, key, error);
    let source = source(&bucket, &input.copy_source, if_match, hide)?;
    let body = part_of(&source.body, input.copy_source_range.as_deref())?;
    let upload = bucket.uploads.find_mut(&input.upload_id, &input.key)?;
    let algorithms: Vec<&str> = upload.algorithm.as_deref().into_iter().collect();
    let sums = checksum::computed(&algorithms, &[&body]);
    let part = UploadedPart { etag: etag_of(&body), body, sums, modified };
    let e_tag = Some(ETag::Strong(part.etag.clone()));
    let mut result =
        CopyPartResult { e_tag, last_modified: Some(modified.into()), ..Default::default() };
    set_sums!(result, &part.sums);
    upload.parts.insert(input.part_number, part);
    let copy_part_result = Some(result);
    Ok(S3Response::new(UploadPartCopyOutput { copy_part_result, ..Default::default() }))
}

/// `bytes=FIRST-LAST`, and nothing else; Amazon refuses one that goes past the end.
fn part_of(body: &Bytes, range: Option<&str>) -> S3Result<Bytes> {
    let Some(range) = range else { return Ok(body.clone()) };
    let ends = range.strip_prefix("bytes=").and_then(|ends| ends.split_once('-'));
    let ends = ends.and_then(|(first, last)| {
        Some((first.parse::<usize>().ok()?, last.parse::<usize>().ok()?))
    });
    match ends {
        Some((first, last)) if first <= last && last < body.len() => Ok(body.slice(first..=last)),
        _ => Err(s3_error!(InvalidArgument, "the range is not one of the source")),
    }
}

fn is_same_key(input: &CopyObjectInput) -> bool {
    let CopySource::Bucket { key, version_id, .. } = &input.copy_source else { return false };
    **key == *input.key && version_id.is_none()
}

fn directive(directive: Option<&MetadataDirective>) -> &str {
    directive.map_or(MetadataDirective::COPY, MetadataDirective::as_str)
}
