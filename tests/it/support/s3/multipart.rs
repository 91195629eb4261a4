//! Multipart uploads: created, sent in parts, completed under a condition, or left lying.

use bytes::{Bytes, BytesMut};
use s3s::dto::*;
use s3s::{S3Request, S3Response, S3Result, s3_error};

use super::checksum::{self, set_sums, sums_of};
use super::object::{Object, etag_of};
use super::puts::{storage_class, tags_of_header, whole_body};
use super::service::Service;
use super::uploads::{Upload, UploadedPart};
use super::{locks, object};

pub const PART_NUMBER_MAX: i32 = 10_000;
const PAGE_MAX: i32 = 1000;

pub async fn create_multipart_upload(
    service: &Service,
    request: S3Request<CreateMultipartUploadInput>,
) -> S3Result<S3Response<CreateMultipartUploadOutput>> {
    let input = request.input;
    let mut bucket = service.bucket();
    let mode = input.object_lock_mode.as_ref().map(ObjectLockMode::as_str);
    let retention = locks::of_put(&bucket, mode, input.object_lock_retain_until_date)?;
    let algorithm = input.checksum_algorithm.as_ref().map(|name| name.as_str().to_owned());
    let declared_type = input.checksum_type.as_ref().map(ChecksumType::as_str);
    let upload = Upload {
        key: input.key.clone(),
        initiated: bucket.now(),
        storage_class: storage_class(input.storage_class.as_ref())?,
        metadata: input.metadata.unwrap_or_default(),
        content_type: input.content_type,
        tags: tags_of_header(input.tagging.as_deref()),
        retention,
        is_full_object: declared_type == Some(ChecksumType::FULL_OBJECT)
            || algorithm.as_deref() == Some(ChecksumAlgorithm::CRC64NVME),
        algorithm,
        parts: Default::default(),
    };
    let upload_id = bucket.uploads.add(upload);
    Ok(S3Response::new(CreateMultipartUploadOutput {
        bucket: Some(input.bucket),
        key: Some(input.key),
        upload_id: Some(upload_id),
        checksum_algorithm: input.checksum_algorithm,
        checksum_type: input.checksum_type,
        ..Default::default()
    }))
}

pub async fn upload_part(
    service: &Service,
    mut request: S3Request<UploadPartInput>,
) -> S3Result<S3Response<UploadPartOutput>> {
    let input = &mut request.input;
    if !(1..=PART_NUMBER_MAX).contains(&input.part_number) {
        return Err(s3_error!(InvalidArgument, "part numbers go from 1 to {PART_NUMBER_MAX}"));
    }
    let body = whole_body(input.body.take(), input.content_length).await?;
    let mut sums = sums_of!(input);
    checksum::add_trailers(&mut sums, request.trailing_headers.as_ref());
    let has_digest = input.content_md5.is_some() || !checksum::declared(&sums).is_empty();
    let sums = checksum::verified(&body, sums, input.content_md5.as_deref())?;

    let mut bucket = service.bucket();
    let modified = bucket.now();
    let upload = bucket.uploads.find_mut(&input.upload_id, &input.key)?;
    if upload.retention.is_some() && !has_digest {
        return Err(s3_error!(
            InvalidRequest,
            "Content-MD5 or x-amz-checksum- is required for parts with object lock parameters"
        ));
    }
    if let Some(algorithm) = &upload.algorithm
        && !upload.is_full_object
        && checksum::get(&sums, algorithm).is_none()
    {
        return Err(s3_error!(InvalidRequest, "the upload was created with {algorithm}"));
    }
    let part = UploadedPart { etag: etag_of(&body), body, sums, modified };
    let e_tag = Some(ETag::Strong(part.etag.clone()));
    let mut output = UploadPartOutput { e_tag, ..Default::default() };
    set_sums!(output, &part.sums);
    upload.parts.insert(input.part_number, part);
    Ok(S3Response::new(output))
}

pub async fn complete_multipart_upload(
    service: &Service,
    request: S3Request<CompleteMultipartUploadInput>,
) -> S3Result<S3Response<CompleteMultipartUploadOutput>> {
    let input = request.input;
    let mut bucket = service.bucket();
    let part_bytes_min = bucket.rules.part_bytes_min;
    let upload = bucket.uploads.find(&input.upload_id, &input.key)?;
    let named = input.multipart_upload.as_ref().and_then(|upload| upload.parts.as_deref());
    let parts = parts_of(upload, named.unwrap_or_default(), part_bytes_min)?;
    let body = joined(&parts);
    if input.mpu_object_size.is_some_and(|size| usize::try_from(size) != Ok(body.len())) {
        return Err(s3_error!(InvalidRequest, "the parts have another length together"));
    }
    let sums = sums_of_whole(upload, &parts, &body)?;
    let declared = sums_of!(input);
    for algorithm in checksum::declared(&declared) {
        if checksum::get(&declared, algorithm) != checksum::get(&sums, algorithm) {
            return Err(s3_error!(BadDigest, "the {algorithm} does not fit the parts"));
        }
    }
    let etags: String = parts.iter().map(|part| part.etag.as_str()).collect();
    let etag = format!("{}-{}", etag_of(etags.as_bytes()), parts.len());
    bucket.check_write(&input.key, input.if_none_match.as_ref(), input.if_match.as_ref())?;
    let upload = bucket.uploads.remove(&input.upload_id, &input.key)?;
    let object = object_of(upload, body, etag, sums);
    let mut output = CompleteMultipartUploadOutput {
        bucket: Some(input.bucket),
        key: Some(input.key.clone()),
        e_tag: Some(object.dto_etag()),
        checksum_type: object.sums.checksum_type.clone(),
        ..Default::default()
    };
    set_sums!(output, &object.sums);
    output.version_id = bucket.put(&input.key, object);
    Ok(S3Response::new(output))
}

fn object_of(upload: Upload, body: Bytes, etag: String, sums: Checksum) -> Object {
    Object {
        body,
        etag,
        sums,
        metadata: upload.metadata,
        content_type: upload.content_type,
        storage_class: upload.storage_class,
        tags: upload.tags,
        retention: upload.retention,
        thaw: object::Thaw::Frozen,
    }
}

fn parts_of<'a>(
    upload: &'a Upload,
    named: &[CompletedPart],
    bytes_min: usize,
) -> S3Result<Vec<&'a UploadedPart>> {
    let numbers: Vec<i32> = named.iter().map(|part| part.part_number.unwrap_or(0)).collect();
    if numbers.is_empty() {
        return Err(s3_error!(MalformedXML, "an upload has parts"));
    }
    if !numbers.is_sorted_by(|a, b| a < b) {
        return Err(s3_error!(InvalidPartOrder));
    }
    let mut parts = Vec::new();
    for (named, number) in named.iter().zip(numbers) {
        let part = upload.parts.get(&number).ok_or_else(|| s3_error!(InvalidPart))?;
        if named.e_tag.as_ref().is_none_or(|etag| etag.value() != part.etag) {
            return Err(s3_error!(InvalidPart, "part {number} has another ETag"));
        }
        check_named_sums(upload, named, part)?;
        parts.push(part);
    }
    let is_small = |part: &&&UploadedPart| part.body.len() < bytes_min;
    match parts.iter().rev().skip(1).find(is_small) {
        Some(_) => Err(s3_error!(EntityTooSmall, "only the last part may be that small")),
        None => Ok(parts),
    }
}

fn check_named_sums(upload: &Upload, named: &CompletedPart, part: &UploadedPart) -> S3Result<()> {
    let sums = sums_of!(named);
    let wrong = |name: &&&str| checksum::get(&sums, name) != checksum::get(&part.sums, name);
    if checksum::declared(&sums).iter().find(wrong).is_some() {
        return Err(s3_error!(InvalidPart, "a part has another checksum"));
    }
    match &upload.algorithm {
        Some(name) if !upload.is_full_object && checksum::get(&sums, name).is_none() => {
            Err(s3_error!(InvalidRequest, "the parts must be named with their {name}"))
        }
        _ => Ok(()),
    }
}

fn joined(parts: &[&UploadedPart]) -> Bytes {
    if let [part] = parts {
        return part.body.clone();
    }
    let mut whole = BytesMut::with_capacity(parts.iter().map(|part| part.body.len()).sum());
    for part in parts {
        whole.extend_from_slice(&part.body);
    }
    whole.freeze()
}

fn sums_of_whole(upload: &Upload, parts: &[&UploadedPart], body: &Bytes) -> S3Result<Checksum> {
    let Some(algorithm) = upload.algorithm.as_deref() else { return Ok(Checksum::default()) };
    if !upload.is_full_object {
        let sums: Vec<&Checksum> = parts.iter().map(|part| &part.sums).collect();
        return checksum::composite(algorithm, &sums);
    }
    let mut sums = checksum::computed(&[algorithm], &[body]);
    sums.checksum_type = Some(ChecksumType::from_static(ChecksumType::FULL_OBJECT));
    Ok(sums)
}

pub async fn abort_multipart_upload(
    service: &Service,
    request: S3Request<AbortMultipartUploadInput>,
) -> S3Result<S3Response<AbortMultipartUploadOutput>> {
    let input = request.input;
    drop(service.bucket().uploads.remove(&input.upload_id, &input.key)?);
    Ok(S3Response::new(AbortMultipartUploadOutput::default()))
}

pub async fn list_multipart_uploads(
    service: &Service,
    request: S3Request<ListMultipartUploadsInput>,
) -> S3Result<S3Response<ListMultipartUploadsOutput>> {
    let input = request.input;
    let prefix = input.prefix.clone().unwrap_or_default();
    let uploads_max = input.max_uploads.unwrap_or(PAGE_MAX).clamp(1, PAGE_MAX);
    let key_marker = input.key_marker.clone().unwrap_or_default();
    let id_marker = input.upload_id_marker.clone().unwrap_or_default();
    let bucket = service.bucket();
    // Without an upload id the marker's own uploads are left out, with one those behind it are in.
    let is_behind = |key: &str, id: &str| match id_marker.is_empty() {
        true => key > key_marker.as_str(),
        false => (key, id) > (key_marker.as_str(), id_marker.as_str()),
    };
    let listed = bucket.uploads.listed().into_iter();
    let mut listed = listed
        .filter(|(id, upload)| upload.key.starts_with(&prefix) && is_behind(&upload.key, id))
        .map(|(id, upload)| MultipartUpload {
            key: Some(upload.key.clone()),
            upload_id: Some(id.clone()),
            initiated: Some(upload.initiated.into()),
            storage_class: Some(upload.storage_class.clone().into()),
            ..Default::default()
        });
    let uploads: Vec<_> = listed.by_ref().take(usize::try_from(uploads_max).unwrap_or(1)).collect();
    let is_truncated = listed.next().is_some();
    let last = uploads.last().filter(|_| is_truncated).cloned();
    Ok(S3Response::new(ListMultipartUploadsOutput {
        bucket: Some(input.bucket),
        prefix: Some(prefix),
        key_marker: input.key_marker,
        upload_id_marker: input.upload_id_marker,
        max_uploads: Some(uploads_max),
        is_truncated: Some(is_truncated),
        next_key_marker: last.as_ref().and_then(|upload| upload.key.clone()),
        next_upload_id_marker: last.and_then(|upload| upload.upload_id),
        uploads: Some(uploads),
        ..Default::default()
    }))
}

pub async fn list_parts(
    service: &Service,
    request: S3Request<ListPartsInput>,
) -> S3Result<S3Response<ListPartsOutput>> {
    let input = request.input;
    let parts_max = input.max_parts.unwrap_or(PAGE_MAX).clamp(1, PAGE_MAX);
    let marker = input.part_number_marker.unwrap_or(0);
    let bucket = service.bucket();
    let upload = bucket.uploads.find(&input.upload_id, &input.key)?;
    let mut behind = upload.parts.iter().filter(|(number, _)| **number > marker);
    let page = behind.by_ref().take(usize::try_from(parts_max).unwrap_or(1));
    let parts: Vec<_> = page.map(|(number, part)| listed_part(*number, part)).collect();
    let is_truncated = behind.next().is_some();
    let last = parts.last().and_then(|part| part.part_number);
    Ok(S3Response::new(ListPartsOutput {
        bucket: Some(input.bucket),
        key: Some(input.key),
        upload_id: Some(input.upload_id),
        max_parts: Some(parts_max),
        part_number_marker: Some(marker),
        next_part_number_marker: last.filter(|_| is_truncated),
        is_truncated: Some(is_truncated),
        parts: Some(parts),
        ..Default::default()
    }))
}

fn listed_part(number: i32, part: &UploadedPart) -> Part {
    let mut listed = Part {
        part_number: Some(number),
        e_tag: Some(ETag::Strong(part.etag.clone())),
        size: i64::try_from(part.body.len()).ok(),
        last_modified: Some(part.modified.into()),
        ..Default::default()
    };
    set_sums!(listed, &part.sums);
    listed
}
