//! What is asked of the service, and which right it needs.

/// One kind of request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Operation {
    Put,
    Get,
    Head,
    List,
    Delete,
    CreateUpload,
    PutPart,
    CompleteUpload,
    AbortUpload,
    ListUploads,
    Copy,
    CopyPart,
    Thaw,
    GetTags,
    SetTags,
    GetRetention,
    SetRetention,
    ListVersions,
    DeleteVersion,
    Location,
    HeadBucket,
    LockConfiguration,
    Versioning,
    Lifecycle,
}

impl Operation {
    /// For messages.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Put => "put",
            Self::Get => "get",
            Self::Head => "head",
            Self::List => "list",
            Self::Delete => "delete",
            Self::CreateUpload => "begin the upload of",
            Self::PutPart => "send a part of",
            Self::CompleteUpload => "complete",
            Self::AbortUpload => "abort the upload of",
            Self::ListUploads => "list the uploads of",
            Self::Copy => "copy",
            Self::CopyPart => "copy a part of",
            Self::Thaw => "thaw",
            Self::GetTags => "read the tags of",
            Self::SetTags => "tag",
            Self::GetRetention => "read the retention of",
            Self::SetRetention => "lock",
            Self::ListVersions => "list the versions of",
            Self::DeleteVersion => "delete a version of",
            Self::Location => "ask for the region of",
            Self::HeadBucket => "look at",
            Self::LockConfiguration => "read the lock configuration of",
            Self::Versioning => "read the versioning of",
            Self::Lifecycle => "read the lifecycle rules of",
        }
    }

    /// The action of a policy that allows it.
    pub(super) fn action(self) -> &'static str {
        match self {
            Self::Put
            | Self::CreateUpload
            | Self::PutPart
            | Self::CompleteUpload
            | Self::Copy
            | Self::CopyPart => "s3:PutObject",
            Self::Get | Self::Head => "s3:GetObject",
            Self::List | Self::HeadBucket => "s3:ListBucket",
            Self::Delete => "s3:DeleteObject",
            Self::AbortUpload => "s3:AbortMultipartUpload",
            Self::ListUploads => "s3:ListBucketMultipartUploads",
            Self::Thaw => "s3:RestoreObject",
            Self::GetTags => "s3:GetObjectTagging",
            Self::SetTags => "s3:PutObjectTagging",
            Self::GetRetention => "s3:GetObjectRetention",
            Self::SetRetention => "s3:PutObjectRetention",
            Self::ListVersions => "s3:ListBucketVersions",
            Self::DeleteVersion => "s3:DeleteObjectVersion",
            Self::Location => "s3:GetBucketLocation",
            Self::LockConfiguration => "s3:GetBucketObjectLockConfiguration",
            Self::Versioning => "s3:GetBucketVersioning",
            Self::Lifecycle => "s3:GetLifecycleConfiguration",
        }
    }

    /// Whether the service has much to do before it answers.
    pub(super) fn is_work(self) -> bool {
        matches!(self, Self::CompleteUpload | Self::Copy | Self::CopyPart)
    }

    /// Whether something is gone afterwards.
    pub(super) fn is_removal(self) -> bool {
        matches!(self, Self::Delete | Self::DeleteVersion)
    }

    /// Whether the right is one on the bucket, not on objects in it.
    pub(super) fn is_on_bucket(self) -> bool {
        matches!(
            self,
            Self::List
                | Self::HeadBucket
                | Self::ListUploads
                | Self::ListVersions
                | Self::Location
                | Self::LockConfiguration
                | Self::Versioning
                | Self::Lifecycle
        )
    }
}
