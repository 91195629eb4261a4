//! The service: S3's operations on the bucket. Each is a function in the file of its kind.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use s3s::auth::Credentials;
use s3s::dto::*;
use s3s::{S3, S3Request, S3Response, S3Result, s3_error};

use super::accounts::{Accounts, Asked};
use super::bucket::Bucket;
use super::{copies, deletes, gets, lists, locks, multipart, puts, thaw};

/// Given with a reply of the service, it becomes the reply's status, which the crate fixes.
#[derive(Clone, Copy)]
pub struct StatusInstead(pub http::StatusCode);

#[derive(Clone)]
pub struct Service {
    pub bucket_name: String,
    pub region: String,
    pub accounts: Arc<Accounts>,
    pub bucket: Arc<Mutex<Bucket>>,
}

impl Service {
    pub fn bucket(&self) -> MutexGuard<'_, Bucket> {
        self.bucket.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn check_bucket(&self, name: &str) -> S3Result<()> {
        match name == self.bucket_name {
            true => Ok(()),
            false => Err(s3_error!(NoSuchBucket)),
        }
    }

    pub fn check_allowed(
        &self,
        who: Option<&Credentials>,
        action: &str,
        key: &str,
    ) -> S3Result<()> {
        let asked = Asked { action, key, has_if_none_match: false, is_creation: false };
        let access_key = who.map_or("", |credentials| credentials.access_key.as_str());
        self.accounts.check(access_key, &asked)
    }

    /// Who may not list is not told that a key is missing either.
    pub fn hide_absence(
        &self,
        who: Option<&Credentials>,
        key: &str,
        error: s3s::S3Error,
    ) -> s3s::S3Error {
        match *error.code() {
            s3s::S3ErrorCode::NoSuchKey => {
                self.check_allowed(who, "s3:ListBucket", key).err().unwrap_or(error)
            }
            _ => error,
        }
    }
}

/// Each operation checks the bucket's name and calls the function that does it.
macro_rules! operations {
    ($($name:ident($input:ident) -> $output:ident: $room:ident;)*) => {
        #[async_trait::async_trait]
        impl S3 for Service {
            $(async fn $name(
                &self,
                request: S3Request<$input>,
            ) -> S3Result<S3Response<$output>> {
                self.check_bucket(&request.input.bucket)?;
                $room::$name(self, request).await
            })*
        }
    };
}

operations! {
    put_object(PutObjectInput) -> PutObjectOutput: puts;
    copy_object(CopyObjectInput) -> CopyObjectOutput: copies;
    upload_part_copy(UploadPartCopyInput) -> UploadPartCopyOutput: copies;
    put_object_tagging(PutObjectTaggingInput) -> PutObjectTaggingOutput: puts;
    get_object(GetObjectInput) -> GetObjectOutput: gets;
    head_object(HeadObjectInput) -> HeadObjectOutput: gets;
    get_object_tagging(GetObjectTaggingInput) -> GetObjectTaggingOutput: gets;
    list_objects_v2(ListObjectsV2Input) -> ListObjectsV2Output: lists;
    list_object_versions(ListObjectVersionsInput) -> ListObjectVersionsOutput: lists;
    head_bucket(HeadBucketInput) -> HeadBucketOutput: lists;
    get_bucket_location(GetBucketLocationInput) -> GetBucketLocationOutput: lists;
    get_bucket_lifecycle_configuration(GetBucketLifecycleConfigurationInput)
        -> GetBucketLifecycleConfigurationOutput: lists;
    get_bucket_versioning(GetBucketVersioningInput) -> GetBucketVersioningOutput: lists;
    delete_object(DeleteObjectInput) -> DeleteObjectOutput: deletes;
    delete_objects(DeleteObjectsInput) -> DeleteObjectsOutput: deletes;
    create_multipart_upload(CreateMultipartUploadInput) -> CreateMultipartUploadOutput: multipart;
    upload_part(UploadPartInput) -> UploadPartOutput: multipart;
    complete_multipart_upload(CompleteMultipartUploadInput)
        -> CompleteMultipartUploadOutput: multipart;
    abort_multipart_upload(AbortMultipartUploadInput) -> AbortMultipartUploadOutput: multipart;
    list_multipart_uploads(ListMultipartUploadsInput) -> ListMultipartUploadsOutput: multipart;
    list_parts(ListPartsInput) -> ListPartsOutput: multipart;
    restore_object(RestoreObjectInput) -> RestoreObjectOutput: thaw;
    get_object_retention(GetObjectRetentionInput) -> GetObjectRetentionOutput: locks;
    put_object_retention(PutObjectRetentionInput) -> PutObjectRetentionOutput: locks;
    get_object_lock_configuration(GetObjectLockConfigurationInput)
        -> GetObjectLockConfigurationOutput: locks;
}
