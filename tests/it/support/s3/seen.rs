//! A request as the layer in front sees it: which operation it is, on which key.

use http::HeaderMap;
use http::request::Parts;
use percent_encoding::percent_decode_str;

/// Buckets may be named in the host instead of the path: below this domain, which resolves nowhere.
pub const DOMAIN: &str = "s3.test";

/// What faults are chosen by, and what the log keeps.
#[derive(Clone, Debug)]
pub struct Seen {
    /// As Amazon names it, such as `PutObject`.
    pub operation: &'static str,
    pub method: String,
    /// Decoded; of a list its prefix, of other requests to the bucket empty.
    pub key: String,
    /// As it was sent.
    pub query: String,
    pub has_if_none_match: bool,
    pub has_range: bool,
    pub body_len: u64,
}

impl Seen {
    pub fn of(parts: &Parts) -> Seen {
        let path = percent_decode_str(parts.uri.path()).decode_utf8_lossy().into_owned();
        let host = parts.headers.get("host").and_then(|host| host.to_str().ok()).unwrap_or("");
        let in_host = host.strip_suffix(DOMAIN).and_then(|rest| rest.strip_suffix('.'));
        let path = in_host.map_or_else(|| path.clone(), |bucket| format!("/{bucket}{path}"));
        let (bucket, key) = match path.trim_start_matches('/').split_once('/') {
            Some((bucket, key)) => (bucket.to_owned(), key.to_owned()),
            None => (path.trim_start_matches('/').to_owned(), String::new()),
        };
        let query = parts.uri.query().unwrap_or("").to_owned();
        let method = parts.method.as_str();
        let operation = match (bucket.is_empty(), key.is_empty()) {
            (true, _) => "ListBuckets",
            (false, true) => of_bucket(method, &query),
            (false, false) => of_object(method, &query, &parts.headers),
        };
        let prefix = || query_value(&query, "prefix").unwrap_or_default();
        Seen {
            operation,
            method: method.to_owned(),
            key: if key.is_empty() { prefix() } else { key },
            has_if_none_match: parts.headers.contains_key("if-none-match"),
            has_range: parts.headers.contains_key("range"),
            body_len: content_length(&parts.headers),
            query,
        }
    }
}

/// The decoded value of a parameter; empty when it has none.
pub fn query_value(query: &str, name: &str) -> Option<String> {
    query.split('&').find_map(|pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        (key == name).then(|| percent_decode_str(value).decode_utf8_lossy().into_owned())
    })
}

fn content_length(headers: &HeaderMap) -> u64 {
    let text = headers.get("content-length").and_then(|value| value.to_str().ok());
    text.and_then(|text| text.parse().ok()).unwrap_or(0)
}

fn of_bucket(method: &str, query: &str) -> &'static str {
    let has = |name| query_value(query, name).is_some();
    match method {
        "HEAD" => "HeadBucket",
        "POST" if has("delete") => "DeleteObjects",
        "GET" if has("location") => "GetBucketLocation",
        "GET" if has("versioning") => "GetBucketVersioning",
        "GET" if has("object-lock") => "GetObjectLockConfiguration",
        "GET" if has("uploads") => "ListMultipartUploads",
        "GET" if has("versions") => "ListObjectVersions",
        "GET" if has("list-type") => "ListObjectsV2",
        "GET" => "ListObjects",
        _ => "Other",
    }
}

fn of_object(method: &str, query: &str, headers: &HeaderMap) -> &'static str {
    let has = |name| query_value(query, name).is_some();
    let is_copy = headers.contains_key("x-amz-copy-source");
    match method {
        "HEAD" => "HeadObject",
        "GET" if has("tagging") => "GetObjectTagging",
        "GET" if has("retention") => "GetObjectRetention",
        "GET" if has("uploadId") => "ListParts",
        "GET" => "GetObject",
        "PUT" if has("tagging") => "PutObjectTagging",
        "PUT" if has("retention") => "PutObjectRetention",
        "PUT" if has("partNumber") && is_copy => "UploadPartCopy",
        "PUT" if has("partNumber") => "UploadPart",
        "PUT" if is_copy => "CopyObject",
        "PUT" => "PutObject",
        "POST" if has("uploads") => "CreateMultipartUpload",
        "POST" if has("uploadId") => "CompleteMultipartUpload",
        "POST" if has("restore") => "RestoreObject",
        "DELETE" if has("uploadId") => "AbortMultipartUpload",
        "DELETE" => "DeleteObject",
        _ => "Other",
    }
}
