//! The gate: each operation is asked of the account's policy before the service sees it.
//!
//! Deleting many objects and the source of a copy are asked by the service, key by key.

use std::sync::Arc;

use s3s::access::{S3Access, S3AccessContext};
use s3s::{S3Result, s3_error};

use super::accounts::{Accounts, Asked};
use super::seen::query_value;

pub struct Gate(pub Arc<Accounts>);

#[async_trait::async_trait]
impl S3Access for Gate {
    async fn check(&self, cx: &mut S3AccessContext<'_>) -> S3Result<()> {
        let Some(credentials) = cx.credentials() else {
            return Err(s3_error!(AccessDenied, "a signature is required"));
        };
        let query = cx.uri().query().unwrap_or("");
        let has_version = query_value(query, "versionId").is_some();
        let prefix = query_value(query, "prefix").unwrap_or_default();
        let key = cx.s3_path().get_object_key().unwrap_or(&prefix);
        let has_header = |name: &str| cx.headers().contains_key(name);
        for action in actions(cx.s3_op().name(), has_version, has_header) {
            let asked = Asked {
                action,
                key,
                has_if_none_match: has_header("if-none-match"),
                is_creation: is_creation(cx.s3_op().name()),
            };
            self.0.check(&credentials.access_key, &asked)?;
        }
        Ok(())
    }
}

fn is_creation(operation: &str) -> bool {
    matches!(operation, "PutObject" | "CopyObject" | "CompleteMultipartUpload")
}

fn actions(
    operation: &str,
    has_version: bool,
    has_header: impl Fn(&str) -> bool,
) -> Vec<&'static str> {
    let mut actions = vec![match operation {
        "GetObject" | "HeadObject" if has_version => "s3:GetObjectVersion",
        "GetObject" | "HeadObject" => "s3:GetObject",
        "DeleteObject" if has_version => "s3:DeleteObjectVersion",
        "DeleteObject" => "s3:DeleteObject",
        "PutObject"
        | "CopyObject"
        | "CreateMultipartUpload"
        | "UploadPart"
        | "UploadPartCopy"
        | "CompleteMultipartUpload" => "s3:PutObject",
        "AbortMultipartUpload" => "s3:AbortMultipartUpload",
        "ListObjects" | "ListObjectsV2" | "HeadBucket" => "s3:ListBucket",
        "ListObjectVersions" => "s3:ListBucketVersions",
        "ListMultipartUploads" => "s3:ListBucketMultipartUploads",
        "ListParts" => "s3:ListMultipartUploadParts",
        "RestoreObject" => "s3:RestoreObject",
        "GetObjectTagging" => "s3:GetObjectTagging",
        "PutObjectTagging" => "s3:PutObjectTagging",
        "GetObjectRetention" => "s3:GetObjectRetention",
        "PutObjectRetention" => "s3:PutObjectRetention",
        "GetObjectLockConfiguration" => "s3:GetBucketObjectLockConfiguration",
        "GetBucketLocation" => "s3:GetBucketLocation",
        "GetBucketVersioning" => "s3:GetBucketVersioning",
        "DeleteObjects" => return Vec::new(),
        _ => "s3:Other",
    }];
    if actions.first() == Some(&"s3:PutObject") && has_header("x-amz-tagging") {
        actions.push("s3:PutObjectTagging");
    }
    if actions.first() == Some(&"s3:PutObject") && has_header("x-amz-object-lock-mode") {
        actions.push("s3:PutObjectRetention");
    }
    if has_header("x-amz-bypass-governance-retention") {
        actions.push("s3:BypassGovernanceRetention");
    }
    actions
}
