//! Lists, and what is told of the bucket itself.

use s3s::dto::*;
use s3s::{S3Request, S3Response, S3Result, s3_error};

use super::bucket::Listed;
use super::service::Service;

const KEYS_MAX: i32 = 1000;

/// Given with a request, a list shows what was there so many lists ago.
#[derive(Clone, Copy)]
pub struct StaleBy(pub u64);

/// Given with a request, a page names nothing and says that more follow.
#[derive(Clone, Copy)]
pub struct NamesNothing;

pub async fn list_objects_v2(
    service: &Service,
    request: S3Request<ListObjectsV2Input>,
) -> S3Result<S3Response<ListObjectsV2Output>> {
    let stale_by = request.extensions.get::<StaleBy>().map_or(0, |stale| stale.0);
    let names_nothing = request.extensions.get::<NamesNothing>().is_some();
    let input = request.input;
    if input.delimiter.is_some() {
        return folded(service, input);
    }
    let asked = input.max_keys.unwrap_or(KEYS_MAX).clamp(0, KEYS_MAX);
    let prefix = input.prefix.clone().unwrap_or_default();
    let token = input.continuation_token.as_deref().map(key_of_token).transpose()?;
    let after = token.or(input.start_after.clone()).unwrap_or_default();
    if names_nothing {
        // Another token each time, which leads to where this page was to begin.
        return Ok(S3Response::new(ListObjectsV2Output {
            key_count: Some(0),
            is_truncated: Some(true),
            next_continuation_token: Some(token_of_key(&format!("{after}\0"))),
            contents: Some(Vec::new()),
            ..Default::default()
        }));
    }
    let mut bucket = service.bucket();
    let stale_by = stale_by.max(bucket.rules.stale_lists);
    let keys_max = usize::try_from(asked).unwrap_or(0);
    let page = bucket.list(&prefix, &after, keys_max, stale_by);
    let shows_restores = input
        .optional_object_attributes
        .unwrap_or_default()
        .iter()
        .any(|name| name.as_str() == OptionalObjectAttributes::RESTORE_STATUS);
    let restore_status = |key: &str| {
        let object = bucket.current(key).filter(|_| shows_restores)?;
        object.restore_status(bucket.now())
    };
    let contents = page.objects.iter().map(|(key, listed)| Object {
        restore_status: restore_status(key),
        ..object_of(key, listed)
    });
    let contents: Vec<_> = contents.collect();
    let last = page.objects.last().map(|(key, _)| token_of_key(key));
    Ok(S3Response::new(ListObjectsV2Output {
        name: Some(input.bucket),
        prefix: Some(prefix),
        max_keys: Some(asked),
        key_count: i32::try_from(contents.len()).ok(),
        continuation_token: input.continuation_token,
        start_after: input.start_after,
        is_truncated: Some(page.is_truncated),
        next_continuation_token: last.filter(|_| page.is_truncated),
        contents: Some(contents),
        ..Default::default()
    }))
}

/// A list by delimiter: names that go on after it are told by what they have in common.
fn folded(
    service: &Service,
    input: ListObjectsV2Input,
) -> S3Result<S3Response<ListObjectsV2Output>> {
    let prefix = input.prefix.clone().unwrap_or_default();
    let delimiter = input.delimiter.clone().unwrap_or_default();
    let token = input.continuation_token.as_deref().map(key_of_token).transpose()?;
    let mut after = token.or(input.start_after.clone()).unwrap_or_default();
    let asked = input.max_keys.unwrap_or(KEYS_MAX).clamp(0, KEYS_MAX);
    let keys_max = usize::try_from(asked).unwrap_or(0);
    let (mut contents, mut prefixes) = (Vec::new(), Vec::new());
    let mut bucket = service.bucket();
    let is_truncated = loop {
        let page = bucket.list(&prefix, &after, 1, 0);
        let Some((key, listed)) = page.objects.first() else { break false };
        if contents.len() + prefixes.len() >= keys_max {
            break true;
        }
        let inner = key.get(prefix.len()..).unwrap_or_default();
        match inner.find(&delimiter) {
            None => {
                contents.push(object_of(key, listed));
                after = key.clone();
            }
            Some(at) => {
                let common = &key[..prefix.len() + at + delimiter.len()];
                prefixes.push(CommonPrefix { prefix: Some(common.to_owned()) });
                // Behind everything that begins so.
                after = format!("{common}{}", char::MAX);
            }
        }
    };
    Ok(S3Response::new(ListObjectsV2Output {
        name: Some(input.bucket),
        prefix: Some(prefix),
        delimiter: Some(delimiter),
        max_keys: Some(asked),
        key_count: i32::try_from(contents.len() + prefixes.len()).ok(),
        is_truncated: Some(is_truncated),
        next_continuation_token: is_truncated.then(|| token_of_key(&after)),
        contents: Some(contents),
        common_prefixes: Some(prefixes),
        ..Default::default()
    }))
}

fn object_of(key: &str, listed: &Listed) -> Object {
    Object {
        key: Some(key.to_owned()),
        e_tag: Some(ETag::Strong(listed.etag.clone())),
        size: i64::try_from(listed.size).ok(),
        last_modified: Some(listed.modified.into()),
        storage_class: Some(listed.storage_class.clone().into()),
        ..Default::default()
    }
}

/// A token is opaque: who takes it for a key is told so by the first test.
fn token_of_key(key: &str) -> String {
    key.bytes().map(|byte| format!("{byte:02x}")).collect()
}

fn key_of_token(token: &str) -> S3Result<String> {
    let invalid = || s3_error!(InvalidArgument, "the continuation token is not one of ours");
    let digits = token.as_bytes().chunks(2);
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    let bytes: Option<Vec<u8>> = digits.map(byte).collect();
    bytes.and_then(|bytes| String::from_utf8(bytes).ok()).ok_or_else(invalid)
}

pub async fn list_object_versions(
    service: &Service,
    request: S3Request<ListObjectVersionsInput>,
) -> S3Result<S3Response<ListObjectVersionsOutput>> {
    let input = request.input;
    let prefix = input.prefix.clone().unwrap_or_default();
    let asked = input.max_keys.unwrap_or(KEYS_MAX).clamp(1, KEYS_MAX);
    let key_marker = input.key_marker.clone().unwrap_or_default();
    let bucket = service.bucket();
    // Of the marker's own name those come that are behind the marker's version.
    let mut is_passed = input.version_id_marker.is_none();
    let mut behind = bucket.versions().filter(|(key, version, _)| {
        if !key.starts_with(&prefix) || **key < key_marker {
            return false;
        }
        if **key > key_marker || key_marker.is_empty() {
            return true;
        }
        let is_behind = is_passed && input.version_id_marker.is_some();
        is_passed |= input.version_id_marker.as_ref() == Some(&version.id);
        is_behind
    });
    let page: Vec<_> = behind.by_ref().take(usize::try_from(asked).unwrap_or(1)).collect();
    let is_truncated = behind.next().is_some();
    let last = page.last().filter(|_| is_truncated);
    let (next_key_marker, next_version_id_marker) =
        last.map(|(key, version, _)| ((*key).clone(), version.id.clone())).unzip();
    let (mut versions, mut delete_markers) = (Vec::new(), Vec::new());
    for (key, version, is_latest) in page {
        let (key, version_id) = (Some(key.clone()), Some(version.id.clone()));
        let (is_latest, last_modified) = (Some(is_latest), Some(version.modified.into()));
        match &version.object {
            Some(object) => versions.push(ObjectVersion {
                e_tag: Some(object.dto_etag()),
                size: i64::try_from(object.body.len()).ok(),
                storage_class: Some(object.storage_class.clone().into()),
                key,
                version_id,
                is_latest,
                last_modified,
                ..Default::default()
            }),
            None => delete_markers.push(DeleteMarkerEntry {
                key,
                version_id,
                is_latest,
                last_modified,
                ..Default::default()
            }),
        }
    }
    Ok(S3Response::new(ListObjectVersionsOutput {
        name: Some(input.bucket),
        prefix: Some(prefix),
        max_keys: Some(asked),
        is_truncated: Some(is_truncated),
        next_key_marker,
        next_version_id_marker,
        versions: Some(versions),
        delete_markers: Some(delete_markers),
        ..Default::default()
    }))
}

pub async fn head_bucket(
    service: &Service,
    _request: S3Request<HeadBucketInput>,
) -> S3Result<S3Response<HeadBucketOutput>> {
    let bucket_region = Some(service.region.clone());
    Ok(S3Response::new(HeadBucketOutput { bucket_region, ..Default::default() }))
}

pub async fn get_bucket_location(
    service: &Service,
    _request: S3Request<GetBucketLocationInput>,
) -> S3Result<S3Response<GetBucketLocationOutput>> {
    let region = service.region.clone();
    let named = (region != "us-east-1").then_some(region);
    let location_constraint = named.map(BucketLocationConstraint::from);
    Ok(S3Response::new(GetBucketLocationOutput { location_constraint }))
}

pub async fn get_bucket_lifecycle_configuration(
    service: &Service,
    _request: S3Request<GetBucketLifecycleConfigurationInput>,
) -> S3Result<S3Response<GetBucketLifecycleConfigurationOutput>> {
    let rules = service.bucket().rules.lifecycle.clone();
    if rules.is_empty() {
        return Err(s3_error!(NoSuchLifecycleConfiguration));
    }
    let rules = Some(rules);
    Ok(S3Response::new(GetBucketLifecycleConfigurationOutput { rules, ..Default::default() }))
}

pub async fn get_bucket_versioning(
    service: &Service,
    _request: S3Request<GetBucketVersioningInput>,
) -> S3Result<S3Response<GetBucketVersioningOutput>> {
    let enabled = BucketVersioningStatus::from_static(BucketVersioningStatus::ENABLED);
    let status = service.bucket().rules.is_versioned.then_some(enabled);
    Ok(S3Response::new(GetBucketVersioningOutput { status, ..Default::default() }))
}
