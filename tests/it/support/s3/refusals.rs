//! The errors that have no name in the crate, or need more than a name.

use http::{HeaderMap, HeaderValue, StatusCode};
use s3s::{S3Error, S3ErrorCode, s3_error};

/// An error by its code on the wire, for those that the crate does not list.
pub fn refusal(status: StatusCode, code: &str, message: &'static str) -> S3Error {
    let mut error = S3Error::with_message(S3ErrorCode::Custom(code.into()), message);
    error.set_status_code(status);
    error
}

pub fn not_active_tier() -> S3Error {
    let message = "the source object is archived and not restored";
    refusal(StatusCode::FORBIDDEN, "ObjectNotInActiveTierError", message)
}

pub fn unsigned_body() -> S3Error {
    let message = "the body is not the one that was signed";
    refusal(StatusCode::BAD_REQUEST, "XAmzContentSHA256Mismatch", message)
}

pub fn not_modified() -> S3Error {
    refusal(StatusCode::NOT_MODIFIED, "NotModified", "as the client has it")
}

pub fn frozen() -> S3Error {
    s3_error!(InvalidObjectState, "the operation is not valid for the object's storage class")
}

pub fn precondition_failed() -> S3Error {
    s3_error!(PreconditionFailed, "at least one of the preconditions did not hold")
}

/// A delete marker asked for by name, or met without one.
pub fn delete_marker(by_version: bool) -> S3Error {
    let mut error = match by_version {
        true => s3_error!(MethodNotAllowed, "a delete marker cannot be read"),
        false => s3_error!(NoSuchKey),
    };
    let mut headers = HeaderMap::new();
    headers.insert("x-amz-delete-marker", HeaderValue::from_static("true"));
    error.set_headers(headers);
    error
}
