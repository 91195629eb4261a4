//! Deleting: one object or version, or up to a thousand.

use s3s::dto::*;
use s3s::{S3Request, S3Response, S3Result, s3_error};

use super::bucket::Deleted;
use super::service::Service;

const KEYS_MAX: usize = 1000;

pub async fn delete_object(
    service: &Service,
    request: S3Request<DeleteObjectInput>,
) -> S3Result<S3Response<DeleteObjectOutput>> {
    let input = request.input;
    let bypasses = input.bypass_governance_retention.unwrap_or(false);
    let mut bucket = service.bucket();
    bucket.check_write(&input.key, None, input.if_match.as_ref())?;
    let deleted = bucket.delete(&input.key, input.version_id.as_deref(), bypasses)?;
    Ok(S3Response::new(DeleteObjectOutput {
        delete_marker: deleted.is_marker.then_some(true),
        version_id: deleted.version_id,
        ..Default::default()
    }))
}

pub async fn delete_objects(
    service: &Service,
    request: S3Request<DeleteObjectsInput>,
) -> S3Result<S3Response<DeleteObjectsOutput>> {
    let has_digest = |name: &http::HeaderName| {
        name == "content-md5" || name.as_str().starts_with("x-amz-checksum-")
    };
    if !request.headers.keys().any(has_digest) && request.trailing_headers.is_none() {
        return Err(s3_error!(InvalidRequest, "Content-MD5 or a checksum is required"));
    }
    let input = request.input;
    if input.delete.objects.len() > KEYS_MAX || input.delete.objects.is_empty() {
        return Err(s3_error!(MalformedXML, "between one and a thousand keys"));
    }
    let bypasses = input.bypass_governance_retention.unwrap_or(false);
    let is_quiet = input.delete.quiet.unwrap_or(false);
    let (mut deleted, mut errors) = (Vec::new(), Vec::new());
    for object in input.delete.objects {
        let action = match object.version_id {
            Some(_) => "s3:DeleteObjectVersion",
            None => "s3:DeleteObject",
        };
        let allowed = service.check_allowed(request.credentials.as_ref(), action, &object.key);
        let id = object.version_id.as_deref();
        let outcome = allowed.and_then(|()| service.bucket().delete(&object.key, id, bypasses));
        match outcome {
            Ok(_) if is_quiet => {}
            Ok(outcome) => deleted.push(deleted_of(object, outcome)),
            Err(error) => errors.push(Error {
                code: Some(error.code().as_str().to_owned()),
                message: error.message().map(str::to_owned),
                key: Some(object.key),
                version_id: object.version_id,
            }),
        }
    }
    Ok(S3Response::new(DeleteObjectsOutput {
        deleted: Some(deleted),
        errors: Some(errors),
        ..Default::default()
    }))
}

fn deleted_of(object: ObjectIdentifier, outcome: Deleted) -> DeletedObject {
    let marker_id = outcome.version_id.filter(|_| outcome.is_marker);
    DeletedObject {
        delete_marker: outcome.is_marker.then_some(true),
        delete_marker_version_id: marker_id,
        key: Some(object.key),
        version_id: object.version_id,
    }
}
