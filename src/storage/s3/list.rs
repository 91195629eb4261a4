//! Lists, page by page, and what they say about a single name.

use aws_sdk_s3::operation::list_objects_v2::ListObjectsV2Output;

use super::connection::Connection;
use super::failure::{Failure, Meaning};
use super::operation::Operation;
use crate::base::Timestamp;
use crate::storage::{ObjectKey, ObjectMeta, StorageClass};

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
        let mut token: Option<String> = None;
        let mut found = Vec::new();
        while found.len() < count_max {
            let page_max = PAGE_MAX.min(count_max - found.len());
            let page = self.page(prefix, &after, token.as_deref(), page_max).await?;
            let before = after.clone();
            for object in page.contents() {
                // A console makes an object of the folder's own name.
                let name = self.own_name(object.key().unwrap_or_default());
                let Some(name) = name.filter(|name| !name.is_empty()) else { continue };
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
                    let stored = object.last_modified().and_then(moment);
                    let class =
                        Some(class_named(object.storage_class().map(|class| class.as_str())));
                    found.push(ObjectMeta { key, size, stored, class });
                }
            }
            if page.is_truncated != Some(true) {
                break;
            }
            // A page may name nothing and not be the last one (deleted versions): only the service's token
            // leads on then.
            let next = (before == after).then_some(page.next_continuation_token).flatten();
            if before == after && (next.is_none() || next == token) {
                let text = "a page that names nothing and leads nowhere, and is not the last one";
                return Err(Failure::new(Meaning::Permanent, text));
            }
            token = next;
        }
        found.truncate(count_max);
        Ok(found)
    }

    /// One page, whole: a list decides what is absent, so that one cut short must not pass for it.
    async fn page(
        &self,
        prefix: &str,
        after: &str,
        token: Option<&str>,
        count_max: usize,
    ) -> Result<ListObjectsV2Output, Failure> {
        let prefix = self.name(prefix);
        // Behind a name where there is one, not by the service's token: pages then need not be of one call.
        let after = (!after.is_empty()).then(|| self.name(after));
        let attempt = async |_| {
            let request = self.client().list_objects_v2().bucket(&self.options.bucket);
            let request = request.prefix(&prefix).set_start_after(after.clone());
            let request = request.set_continuation_token(token.map(str::to_owned));
            let request = request.max_keys(i32::try_from(count_max).unwrap_or(1000));
            let page = request.set_request_payer(self.payer()).send().await.map_err(Failure::of)?;
            check_page(&page)?;
            Ok(page)
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

/// The class of this name; what is not told is `STANDARD`.
pub(super) fn class_named(name: Option<&str>) -> StorageClass {
    name.map_or(StorageClass::Standard, StorageClass::parse)
}

/// A moment as the SDK has it.
pub(super) fn moment(time: &aws_sdk_s3::primitives::DateTime) -> Option<Timestamp> {
    Timestamp::from_timestamp(time.secs(), time.subsec_nanos())
}

/// That nothing is missing from a page: a parser of XML takes a document that was cut for a shorter one.
fn check_page(page: &ListObjectsV2Output) -> Result<(), Failure> {
    if page.is_truncated.is_none() {
        return Err(Failure::wrong_answer("a list that does not say whether it is the whole"));
    }
    let named = page.contents().len() + page.common_prefixes().len();
    if page.key_count.is_some_and(|count| usize::try_from(count) != Ok(named)) {
        return Err(Failure::wrong_answer(format!(
            "a list of {named} that announces another number"
        )));
    }
    let is_whole = |object: &aws_sdk_s3::types::Object| {
        object.key().is_some() && object.size().is_some_and(|size| size >= 0)
    };
    match page.contents().iter().all(is_whole) {
        true => Ok(()),
        false => Err(Failure::wrong_answer("a list with an object without name or size")),
    }
}
