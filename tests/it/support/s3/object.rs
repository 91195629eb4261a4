//! What lies under one key: versions, and what a version carries beside its bytes.

use std::collections::HashMap;

use bytes::Bytes;
use s3s::dto::{Checksum, ETag, ETagCondition, RestoreStatus, Timestamp, TimestampFormat};
use time::OffsetDateTime;
use xxhash_rust::xxh3::xxh3_128;

pub const STANDARD: &str = "STANDARD";
pub const STORAGE_CLASSES: [&str; 8] = [
    STANDARD,
    "STANDARD_IA",
    "ONEZONE_IA",
    "INTELLIGENT_TIERING",
    "GLACIER_IR",
    "GLACIER",
    "DEEP_ARCHIVE",
    "REDUCED_REDUNDANCY",
];

#[derive(Clone)]
pub struct Object {
    pub body: Bytes,
    pub etag: String,
    pub sums: Checksum,
    pub metadata: HashMap<String, String>,
    pub content_type: Option<String>,
    pub storage_class: String,
    pub tags: Vec<(String, String)>,
    pub retention: Option<Retention>,
    pub thaw: Thaw,
}

#[derive(Clone)]
pub struct Retention {
    /// `GOVERNANCE` or `COMPLIANCE`.
    pub mode: String,
    pub until: OffsetDateTime,
}

/// How far the temporary copy of an archived object is.
#[derive(Clone, Default)]
pub enum Thaw {
    #[default]
    Frozen,
    Ongoing {
        days: i32,
    },
    Until(OffsetDateTime),
}

/// An object, or the marker that hides the ones before it.
#[derive(Clone)]
pub struct Version {
    pub id: String,
    pub modified: OffsetDateTime,
    pub object: Option<Object>,
}

impl Object {
    pub fn new(body: Bytes) -> Object {
        Object {
            etag: etag_of(&body),
            body,
            sums: Checksum::default(),
            metadata: HashMap::new(),
            content_type: None,
            storage_class: STANDARD.to_owned(),
            tags: Vec::new(),
            retention: None,
            thaw: Thaw::Frozen,
        }
    }

    pub fn is_archived(&self) -> bool {
        matches!(self.storage_class.as_str(), "GLACIER" | "DEEP_ARCHIVE")
    }

    pub fn is_readable(&self, now: OffsetDateTime) -> bool {
        !self.is_archived() || matches!(&self.thaw, Thaw::Until(end) if *end > now)
    }

    pub fn is_retained(&self, now: OffsetDateTime) -> bool {
        self.retention.as_ref().is_some_and(|retention| retention.until > now)
    }

    pub fn is_match(&self, condition: &ETagCondition) -> bool {
        condition.as_etag().is_none_or(|etag| etag.value() == self.etag)
    }

    pub fn dto_etag(&self) -> ETag {
        ETag::Strong(self.etag.clone())
    }

    /// The same for lists that are asked to show it.
    pub fn restore_status(&self, now: OffsetDateTime) -> Option<RestoreStatus> {
        let (is_ongoing, end) = match &self.thaw {
            Thaw::Ongoing { .. } => (true, None),
            Thaw::Until(end) if *end > now => (false, Some(Timestamp::from(*end))),
            Thaw::Frozen | Thaw::Until(_) => return None,
        };
        let is_restore_in_progress = Some(is_ongoing);
        Some(RestoreStatus { is_restore_in_progress, restore_expiry_date: end })
    }

    /// The `x-amz-restore` header; absent while nobody asked for a thaw, and after it ended.
    pub fn restore_header(&self, now: OffsetDateTime) -> Option<String> {
        match &self.thaw {
            Thaw::Ongoing { .. } => Some("ongoing-request=\"true\"".to_owned()),
            Thaw::Until(end) if *end > now => {
                let end = http_date(*end);
                Some(format!("ongoing-request=\"false\", expiry-date=\"{end}\""))
            }
            Thaw::Frozen | Thaw::Until(_) => None,
        }
    }
}

/// Looks like the MD5 that it is not: no client may take an ETag for the MD5 of the bytes, and
/// computing one would cost more than all the rest.
pub fn etag_of(body: &[u8]) -> String {
    format!("{:032x}", xxh3_128(body))
}

pub fn http_date(at: OffsetDateTime) -> String {
    let mut text = Vec::new();
    match Timestamp::from(at).format(TimestampFormat::HttpDate, &mut text) {
        Ok(()) => String::from_utf8_lossy(&text).into_owned(),
        Err(_) => String::new(),
    }
}
