//! The interface of stores over a bucket.

use std::sync::Arc;

use aws_sdk_s3::types::{ChecksumAlgorithm, Delete, ObjectIdentifier, ServerSideEncryption};
use base64::Engine as _;
use bytes::Bytes;

use super::connection::Connection;
use super::download::{Download, Downloaded, OFFSET_MAX};
use super::failure::{Failure, Meaning};
use super::list::{class_named, moment};
use super::multipart::S3Writer;
use super::operation::Operation;
use super::options::{Checksums, S3Options, ServerEncryption};
use super::versions::Removal;
use crate::base::{Ctx, Timestamp};
use crate::storage::{
    Availability, EachPage, Error, LockRule, ObjectClass, ObjectKey, ObjectMeta, ObjectStore,
    ObjectWriter, Result, StorageClass, Thaw, Unfinished, VersionMark, VersionPage, pages_by_list,
};

/// What S3 removes by one request.
const DELETE_MAX: usize = 1000;

/// A bucket, or the part of it below a prefix. Clones share connections and limits.
#[derive(Debug, Clone)]
pub struct S3Store {
    pub(super) connection: Arc<Connection>,
}

impl S3Store {
    /// Prepares connections; no request is made yet (unless the AWS chain asks the instance's metadata
    /// service for the region).
    ///
    /// # Errors
    /// [`Error::Io`] for certificates that cannot be read.
    pub fn open(ctx: &Ctx, options: S3Options) -> Result<Self> {
        Ok(Self { connection: Arc::new(Connection::open(ctx, options)?) })
    }

    /// What it was opened with.
    #[must_use]
    pub fn options(&self) -> &S3Options {
        &self.connection.options
    }

    fn failed(&self, operation: Operation, key: &ObjectKey) -> impl FnOnce(Failure) -> Error {
        let (connection, key) = (Arc::clone(&self.connection), key.clone());
        move |failure| connection.error(operation, key.as_str(), failure)
    }

    fn download(&self, key: &ObjectKey, download: Download<'_>) -> Result<Downloaded> {
        self.wait(Operation::Get, key, download.run())
    }

    /// Waits for what may find the object absent; "not found" of nobody in particular is settled by a list.
    pub(super) fn wait<T>(
        &self,
        operation: Operation,
        key: &ObjectKey,
        work: impl Future<Output = std::result::Result<T, Failure>>,
    ) -> Result<T> {
        let settled = self.connection.wait(async {
            match work.await {
                Err(failure) => Err(self.connection.settle(key.as_str(), failure).await),
                done => done,
            }
        });
        settled.map_err(self.failed(operation, key))
    }

    fn short(&self, key: &ObjectKey, wanted_end: u64) -> Error {
        match self.head(key) {
            Ok(meta) => Error::Short { key: key.clone(), wanted_end, size: meta.size },
            Err(error) => error,
        }
    }
}

impl Connection {
    /// Puts a whole object, if its name is free where `if_absent`.
    pub(super) async fn put(
        &self,
        key: &ObjectKey,
        body: &Bytes,
        if_absent: bool,
    ) -> std::result::Result<(), Failure> {
        let checksum = self.checksum(body);
        let name = self.name(key.as_str());
        let (encryption, kms_key) = self.encryption();
        let lock = self.lock_of_new(key);
        let attempt = async |progress: super::body::Progress| {
            let request = self.client().put_object().bucket(&self.options.bucket).key(&name);
            let request = request
                .set_if_none_match(if_absent.then(|| "*".to_owned()))
                .set_checksum_crc32_c(checksum.clone())
                .set_checksum_algorithm(self.named_algorithm())
                .set_server_side_encryption(encryption.clone())
                .set_ssekms_key_id(kms_key.clone())
                .set_object_lock_mode(lock.as_ref().map(|lock| lock.mode.clone()))
                .set_object_lock_retain_until_date(lock.as_ref().map(|lock| lock.until))
                .set_request_payer(self.payer())
                .content_length(i64::try_from(body.len()).unwrap_or(i64::MAX))
                .body(progress.request(body));
            let sent = match self.signs_bodies() {
                true => request.send().await,
                false => request.customize().disable_payload_signing().send().await,
            };
            sent.map(drop).map_err(Failure::of)
        };
        let failure = match self.call(Operation::Put, body.len() as u64, attempt).await {
            Ok(()) => return Ok(()),
            Err(failure) => self.settle_taken(key, failure).await,
        };
        // An answer was lost, and perhaps not the work: then the name is taken by this very object.
        if failure.meaning != Meaning::Precondition || !failure.after_doubt {
            return Err(failure);
        }
        match self.holds(key, body).await {
            Ok(true) => Ok(()),
            Ok(false) => Err(failure),
            Err(other) => {
                let text =
                    "an answer was lost, the name is taken, and what it holds cannot be told";
                Err(Failure::new(Meaning::Transient, format!("{text}: {}", other.source)))
            }
        }
    }

    /// An answer that says "precondition failed" and does not say who says so: a list decides.
    pub(super) async fn settle_taken(&self, key: &ObjectKey, failure: Failure) -> Failure {
        if failure.meaning != Meaning::BarePrecondition {
            return failure;
        }
        match self.find(key.as_str()).await {
            Ok(Some(_)) => Failure { meaning: Meaning::Precondition, ..failure },
            Ok(None) => {
                let text = format!("{}, and the list has no such object", failure.source);
                Failure { meaning: Meaning::Transient, ..failure.told(text) }
            }
            Err(other) => other,
        }
    }

    async fn holds(&self, key: &ObjectKey, body: &Bytes) -> std::result::Result<bool, Failure> {
        match Download::whole(self, key.as_str()).run().await {
            Ok(Downloaded::Bytes(stored, _)) => Ok(stored == *body),
            Ok(Downloaded::PastEnd) => Ok(body.is_empty()),
            Err(failure) => Err(failure),
        }
    }

    /// CRC-32C as S3 spells it. Computed once: each attempt sends the same bytes.
    pub(super) fn checksum(&self, body: &[u8]) -> Option<String> {
        let sum = || crc32c::crc32c(body).to_be_bytes();
        self.sends_checksums().then(|| base64::engine::general_purpose::STANDARD.encode(sum()))
    }

    /// What is put with a lock must have one.
    pub(super) fn sends_checksums(&self) -> bool {
        self.options.checksums == Checksums::WhenSupported || self.options.lock.is_some()
    }

    /// Some servers look for the algorithm's name, not for the checksum, before they lock what is put.
    pub(super) fn named_algorithm(&self) -> Option<ChecksumAlgorithm> {
        self.options.lock.map(|_| ChecksumAlgorithm::Crc32C)
    }

    /// Whether what is uploaded is part of the signature: TLS guards it already, where there is TLS.
    pub(super) fn signs_bodies(&self) -> bool {
        self.options.endpoint.as_ref().is_some_and(|url| !url.starts_with("https://"))
    }

    pub(super) fn encryption(&self) -> (Option<ServerSideEncryption>, Option<String>) {
        match &self.options.encryption {
            ServerEncryption::Default => (None, None),
            ServerEncryption::S3 => (Some(ServerSideEncryption::Aes256), None),
            ServerEncryption::Kms { key_id } => {
                (Some(ServerSideEncryption::AwsKms), key_id.clone())
            }
        }
    }

    pub(super) async fn head(&self, key: &ObjectKey) -> std::result::Result<ObjectMeta, Failure> {
        // An answer to HEAD has no body, so nothing says who did not find it.
        match self.head_once(key).await {
            Err(failure) if failure.meaning == Meaning::BareNotFound => {
                match self.find(key.as_str()).await {
                    Ok(None) => Err(Failure { meaning: Meaning::NoSuchKey, ..failure }),
                    Err(other) => Err(other),
                    // It may have been put in between.
                    Ok(Some(_)) => match self.head_once(key).await {
                        Err(failure) => Err(self.settle(key.as_str(), failure).await),
                        found => found,
                    },
                }
            }
            other => other,
        }
    }

    async fn head_once(&self, key: &ObjectKey) -> std::result::Result<ObjectMeta, Failure> {
        let name = self.name(key.as_str());
        let attempt = async |_| {
            let request = self.client().head_object().bucket(&self.options.bucket).key(&name);
            request.set_request_payer(self.payer()).send().await.map_err(Failure::of)
        };
        let value = self.call(Operation::Head, 0, attempt).await?;
        let size = value.content_length().and_then(|length| u64::try_from(length).ok());
        let size = size.ok_or_else(|| Failure::wrong_answer("an answer without a length"))?;
        let stored = value.last_modified().and_then(moment);
        let class = Some(class_named(value.storage_class().map(|class| class.as_str())));
        Ok(ObjectMeta { key: key.clone(), size, stored, class })
    }

    async fn delete(&self, key: &ObjectKey) -> std::result::Result<(), Failure> {
        let name = self.name(key.as_str());
        let attempt = async |_| {
            let request = self.client().delete_object().bucket(&self.options.bucket).key(&name);
            request.set_request_payer(self.payer()).send().await.map(drop).map_err(Failure::of)
        };
        match self.call(Operation::Delete, 0, attempt).await {
            Err(failure) if failure.meaning == Meaning::NoSuchKey => Ok(()),
            other => other.map(drop),
        }
    }

    async fn delete_batch(&self, keys: &[ObjectKey]) -> std::result::Result<(), Failure> {
        let objects = keys.iter().map(|key| {
            let name = self.name(key.as_str());
            ObjectIdentifier::builder().key(name).build().expect("a key is all that it needs")
        });
        let batch = Delete::builder().set_objects(Some(objects.collect())).quiet(true);
        let batch = batch.build().expect("objects are all that it needs");
        let attempt = async |_| {
            let request = self.client().delete_objects().bucket(&self.options.bucket);
            let request =
                request.delete(batch.clone()).checksum_algorithm(ChecksumAlgorithm::Crc32C);
            let answer = request.set_request_payer(self.payer()).send().await;
            let answer = answer.map_err(Failure::of)?;
            let refused = answer.errors().iter().find(|error| error.code() != Some("NoSuchKey"));
            refused.map_or(Ok(()), |error| Err(Failure::of_item(error)))
        };
        self.call(Operation::Delete, 1 << 20, attempt).await
    }
}

#[deny(clippy::missing_trait_methods)]
impl ObjectStore for S3Store {
    fn location(&self) -> String {
        self.connection.location.clone()
    }

    fn must_be_tried(&self) -> bool {
        true
    }

    fn put(&self, key: &ObjectKey, body: &[u8]) -> Result<()> {
        let body = Bytes::copy_from_slice(body);
        let outcome = self.connection.wait(self.connection.put(key, &body, false));
        outcome.map_err(self.failed(Operation::Put, key))
    }

    fn put_if_absent(&self, key: &ObjectKey, body: &[u8]) -> Result<()> {
        let body = Bytes::copy_from_slice(body);
        let outcome = self.connection.wait(self.connection.put(key, &body, true));
        outcome.map_err(self.failed(Operation::Put, key))
    }

    fn put_stream(&self, key: &ObjectKey) -> Result<Box<dyn ObjectWriter>> {
        Ok(Box::new(S3Writer::new(Arc::clone(&self.connection), key.clone())))
    }

    fn get(&self, key: &ObjectKey) -> Result<Vec<u8>> {
        match self.download(key, Download::whole(&self.connection, key.as_str()))? {
            Downloaded::Bytes(bytes, _) => Ok(bytes),
            Downloaded::PastEnd => Ok(Vec::new()),
        }
    }

    fn read_range(&self, key: &ObjectKey, offset: u64, buffer: &mut [u8]) -> Result<()> {
        let length = buffer.len() as u64;
        let wanted_end = offset.saturating_add(length);
        if length == 0 || wanted_end > OFFSET_MAX {
            let size = self.head(key)?.size;
            let fits = wanted_end <= size;
            let key = key.clone();
            return if fits { Ok(()) } else { Err(Error::Short { key, wanted_end, size }) };
        }
        let download = Download::range(&self.connection, key.as_str(), offset, length);
        match self.download(key, download)? {
            Downloaded::Bytes(bytes, size) => {
                if bytes.len() != buffer.len() {
                    return Err(Error::Short { key: key.clone(), wanted_end, size });
                }
                buffer.copy_from_slice(&bytes);
                Ok(())
            }
            Downloaded::PastEnd => Err(self.short(key, wanted_end)),
        }
    }

    fn read_up_to(&self, key: &ObjectKey, offset: u64, length_max: usize) -> Result<Vec<u8>> {
        if length_max == 0 || offset >= OFFSET_MAX {
            return self.head(key).map(|_| Vec::new());
        }
        let download = Download::range(&self.connection, key.as_str(), offset, length_max as u64);
        match self.download(key, download)? {
            Downloaded::Bytes(bytes, _) => Ok(bytes),
            Downloaded::PastEnd => Ok(Vec::new()),
        }
    }

    fn head(&self, key: &ObjectKey) -> Result<ObjectMeta> {
        let outcome = self.connection.wait(self.connection.head(key));
        outcome.map_err(self.failed(Operation::Head, key))
    }

    fn list(&self, prefix: &str, after: Option<&str>, count_max: usize) -> Result<Vec<ObjectMeta>> {
        let outcome = self.connection.wait(self.connection.list(prefix, after, count_max));
        outcome.map_err(|failure| self.connection.error(Operation::List, prefix, failure))
    }

    fn list_pages(
        &self,
        prefix: &str,
        after: Option<&str>,
        count_max: usize,
        each: &mut EachPage<'_>,
    ) -> Result<()> {
        pages_by_list(self, prefix, after, count_max, each)
    }

    fn delete(&self, key: &ObjectKey) -> Result<()> {
        let outcome = self.connection.wait(self.connection.delete(key));
        outcome.map_err(self.failed(Operation::Delete, key))
    }

    fn delete_many(&self, keys: &[ObjectKey]) -> Result<()> {
        // A batch must have a checksum; a server that refuses the newer ones knows single deletions.
        if self.connection.options.checksums == Checksums::WhenRequired {
            return keys.iter().try_for_each(|key| self.delete(key));
        }
        for batch in keys.chunks(DELETE_MAX) {
            let Some(first) = batch.first() else { break };
            let outcome = self.connection.wait(self.connection.delete_batch(batch));
            outcome.map_err(self.failed(Operation::Delete, first))?;
        }
        Ok(())
    }

    fn unfinished(&self) -> Result<Vec<Unfinished>> {
        let outcome = self.connection.wait(self.connection.uploads());
        outcome.map_err(|failure| self.connection.error(Operation::ListUploads, "", failure))
    }

    fn discard(&self, unfinished: &Unfinished) -> Result<()> {
        let outcome = self.connection.wait(self.connection.abort(unfinished));
        let name = &unfinished.name;
        outcome.map_err(|failure| self.connection.error(Operation::AbortUpload, name, failure))
    }

    fn has_classes(&self) -> bool {
        true
    }

    fn lock_rule(&self) -> Option<LockRule> {
        self.connection.options.lock
    }

    fn has_versions(&self) -> Result<bool> {
        Ok(!self.connection.wait(self.connection.surely_has_no_versions()))
    }

    fn class(&self, key: &ObjectKey) -> Result<ObjectClass> {
        self.wait(Operation::Head, key, self.connection.class(key))
    }

    fn set_class(
        &self,
        key: &ObjectKey,
        class: &StorageClass,
        expected: &ObjectMeta,
    ) -> Result<()> {
        self.wait(Operation::Copy, key, self.connection.set_class(key, class, expected))
    }

    fn tag(&self, key: &ObjectKey, name: &str, value: &str) -> Result<()> {
        self.wait(Operation::SetTags, key, self.connection.add_tag(key, name, value))
    }

    fn thaw(&self, key: &ObjectKey, thaw: Thaw) -> Result<Availability> {
        self.wait(Operation::Thaw, key, self.connection.thaw(key, thaw))
    }

    fn lock(&self, key: &ObjectKey, until: Timestamp) -> Result<()> {
        match self.connection.options.lock {
            Some(rule) => {
                let work = self.connection.retain(key, rule.mode, until);
                self.wait(Operation::SetRetention, key, work)
            }
            None => Err(Error::lacking("lock", key, "locks")),
        }
    }

    fn locked_until(&self, key: &ObjectKey) -> Result<Option<Timestamp>> {
        self.wait(Operation::GetRetention, key, self.connection.retained_until(key))
    }

    fn versions(&self, prefix: &str, after: Option<&VersionMark>) -> Result<VersionPage> {
        let outcome = self.connection.wait(self.connection.versions(prefix, after));
        outcome.map_err(|failure| self.connection.error(Operation::ListVersions, prefix, failure))
    }

    fn delete_version(&self, key: &ObjectKey, id: &str) -> Result<()> {
        let connection = &self.connection;
        match connection.wait(connection.delete_version(key, id)) {
            Ok(Removal::Gone) => Ok(()),
            Ok(Removal::Locked(until)) => {
                let operation = Operation::DeleteVersion.name();
                Err(Error::Locked { operation, key: key.clone(), until: Some(until) })
            }
            Err(failure) => Err(self.failed(Operation::DeleteVersion, key)(failure)),
        }
    }
}
