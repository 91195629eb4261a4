//! Lists, page by page, and what they say about a single name.

use aws_sdk_s3::operation::list_objects_v2::ListObjectsV2Output;

use super::connection::Connection;
use super::failure::{Failure, Meaning};
use super::operation::Operation;
use crate::storage::{ObjectKey, ObjectMeta};

/// What S3 gives at a time.
const PAGE_MAX: usize = 1000;

/// For the time limit: the answer of a full page.
const PAGE_BYTES: u64 = 1 << 20;

impl Connection {
    /// Objects whose names begin with `prefix` and lie behind `after`, at most `count_max`.
    pub(super) async fn list(
        &self,
        prefix: &str,
        after: Option<&str>,
        count_max: usize,
    ) -> Result<Vec<ObjectMeta>, Failure> {
        // No object has such a name, and XML has no such characters.
        if !prefix.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Ok(Vec::new());
        }
        let mut after = after.unwrap_or_default().to_owned();
        let mut found = Vec::new();
        while found.len() < count_max {
            let page_max = PAGE_MAX.min(count_max - found.len());
            let page = self.page(prefix, &after, page_max).await?;
            let has_more = page.is_truncated.unwrap_or_default();
            for object in page.contents() {
                let Some(name) = self.own_name(object.key().unwrap_or_default()) else { continue };
                if !name.starts_with(prefix) || name <= after.as_str() {
                    return Err(Failure::new(
                        Meaning::Permanent,
                        format!("the list of {prefix:?} behind {after:?} names {name:?}"),
                    ));
                }
                name.clone_into(&mut after);
                let size = object.size().and_then(|size| u64::try_from(size).ok());
                // What pgkeep did not put may have any name.
                if let (Ok(key), Some(size)) = (ObjectKey::new(name), size) {
                    found.push(ObjectMeta { key, size });
                }
            }
            if !has_more || page.contents().is_empty() {
                break;
            }
        }
        found.truncate(count_max);
        Ok(found)
    }

    async fn page(
        &self,
        prefix: &str,
        after: &str,
        count_max: usize,
    ) -> Result<ListObjectsV2Output, Failure> {
        let prefix = self.name(prefix);
        // Behind a name, not by the service's token: pages then need not be of one call.
        let after = (!after.is_empty()).then(|| self.name(after));
        let attempt = async |_| {
            let request = self.client.list_objects_v2().bucket(&self.options.bucket);
            let request = request.prefix(&prefix).set_start_after(after.clone());
            let request = request.max_keys(i32::try_from(count_max).unwrap_or(1000));
            request.set_request_payer(self.payer()).send().await.map_err(Failure::of)
        };
        self.call(Operation::List, PAGE_BYTES, attempt).await
    }

    /// A name in the bucket, without this store's prefix.
    pub(super) fn own_name<'n>(&self, name: &'n str) -> Option<&'n str> {
        match self.options.prefix.as_str() {
            "" => Some(name),
            prefix => name.strip_prefix(prefix)?.strip_prefix('/'),
        }
    }

    /// What a list says of one name: proof of presence and of absence.
    pub(super) async fn find(&self, key: &str) -> Result<Option<ObjectMeta>, Failure> {
        let listed = self.list(key, None, 1).await?;
        Ok(listed.into_iter().find(|meta| meta.key.as_str() == key))
    }

    /// An answer that says "not found" and does not say who says so: a list decides.
    pub(super) async fn settle(&self, key: &str, failure: Failure) -> Failure {
        if failure.meaning != Meaning::BareNotFound {
            return failure;
        }
        match self.find(key).await {
            Ok(None) => Failure { meaning: Meaning::NoSuchKey, ..failure },
            Ok(Some(_)) => Failure::new(
                Meaning::Permanent,
                format!("{}, and the list has the object", failure.source),
            ),
            Err(other) => other,
        }
    }
}
