//! Unfinished multipart uploads.

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;
use s3s::dto::Checksum;
use s3s::{S3Result, s3_error};
use time::OffsetDateTime;

use super::object::Retention;

pub struct Upload {
    pub key: String,
    pub initiated: OffsetDateTime,
    pub storage_class: String,
    pub metadata: HashMap<String, String>,
    pub content_type: Option<String>,
    pub tags: Vec<(String, String)>,
    pub retention: Option<Retention>,
    pub algorithm: Option<String>,
    /// One checksum over the whole object, not one over the checksums of the parts.
    pub is_full_object: bool,
    pub parts: BTreeMap<i32, UploadedPart>,
}

pub struct UploadedPart {
    pub body: Bytes,
    pub etag: String,
    pub sums: Checksum,
    pub modified: OffsetDateTime,
}

#[derive(Default)]
pub struct Uploads {
    by_id: BTreeMap<String, Upload>,
    begun: u64,
}

impl Uploads {
    pub fn add(&mut self, upload: Upload) -> String {
        self.begun += 1;
        let id = format!("upload{:08}", self.begun);
        self.by_id.insert(id.clone(), upload);
        id
    }

    pub fn find(&self, id: &str, key: &str) -> S3Result<&Upload> {
        let upload = self.by_id.get(id).filter(|upload| upload.key == key);
        upload.ok_or_else(|| s3_error!(NoSuchUpload))
    }

    pub fn find_mut(&mut self, id: &str, key: &str) -> S3Result<&mut Upload> {
        let upload = self.by_id.get_mut(id).filter(|upload| upload.key == key);
        upload.ok_or_else(|| s3_error!(NoSuchUpload))
    }

    pub fn remove(&mut self, id: &str, key: &str) -> S3Result<Upload> {
        self.find(id, key)?;
        self.by_id.remove(id).ok_or_else(|| s3_error!(NoSuchUpload))
    }

    /// In the order in which Amazon lists them: by key, and by age within a key.
    pub fn listed(&self) -> Vec<(&String, &Upload)> {
        let mut uploads: Vec<_> = self.by_id.iter().collect();
        uploads.sort_by(|a, b| (&a.1.key, a.0).cmp(&(&b.1.key, b.0)));
        uploads
    }

    pub fn all_mut(&mut self) -> impl Iterator<Item = &mut Upload> {
        self.by_id.values_mut()
    }
}
