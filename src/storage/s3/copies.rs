//! Copies that the service makes: an object onto itself, into another storage class.
//!
//! The copy replaces the object at once, when it is whole, so that whoever dies here leaves the old one or the
//! new one. Both its source and what it replaces are held to the ETag of the HEAD before it, where the server
//! knows such conditions: so what was replaced meanwhile is not undone, nor what was deleted brought back. A large
//! object is copied in parts side by side; what a killed process leaves of them, [`Connection::uploads`] finds.

use std::ops::Range;
use std::sync::Arc;

use aws_sdk_s3::operation::head_object::HeadObjectOutput;
use aws_sdk_s3::types::{
    ChecksumAlgorithm, ChecksumType, CompletedMultipartUpload, CompletedPart, CopyPartResult,
    MetadataDirective, ServerSideEncryption, StorageClass as SdkClass,
};
use tokio::task::JoinSet;

use super::connection::{Attempts, Connection, Outcome};
use super::failure::{Failure, Meaning};
use super::locks::PutLock;
use super::operation::Operation;
use super::options::Checksums;
use super::tiers::class_of;
use crate::storage::{ObjectKey, ObjectMeta, StorageClass};

/// S3 takes no more parts of one object.
const PARTS_MAX: u64 = 10_000;

/// For the time limit of a request that moves bytes inside the service only.
const COPY_BYTES: u64 = 64 << 20;

/// An object that is to be copied onto itself.
struct SelfCopy<'a> {
    key: &'a ObjectKey,
    class: SdkClass,
    before: &'a HeadObjectOutput,
    size: u64,
    lock: Option<PutLock>,
    /// What the object must be, before and when the copy takes its place; nothing where the server knows no conditions.
    etag: Option<String>,
}

impl Connection {
    /// See [`crate::storage::ObjectStore::set_class`].
    pub(super) async fn set_class(
        self: &Arc<Self>,
        key: &ObjectKey,
        class: &StorageClass,
        expected: &ObjectMeta,
    ) -> Outcome<()> {
        let asks_checksum = self.options.checksums == Checksums::WhenSupported;
        let before = self.look(key, asks_checksum).await?;
        let size = size_of(&before)?;
        if size != expected.size {
            let text = format!("{size} bytes instead of {}", expected.size);
            return Err(Failure::new(Meaning::Precondition, text));
        }
        let found = class_of(&before);
        if found == *class {
            return Ok(());
        }
        if let Some(known) = expected.class.as_ref().filter(|known| **known != found) {
            let text = format!("it lies in {found} instead of {known}");
            return Err(Failure::new(Meaning::Precondition, text));
        }
        let mut copy = SelfCopy {
            key,
            class: SdkClass::from(class.name()),
            before: &before,
            size,
            lock: self.lock_of_copy(key, &before),
            etag: before.e_tag().map(str::to_owned),
        };
        let mut outcome = self.copy_onto_itself(&copy).await;
        if outcome.as_ref().is_err_and(|failure| failure.meaning == Meaning::Unsupported) {
            copy.etag = None;
            outcome = self.copy_onto_itself(&copy).await;
        }
        // The work of an attempt whose answer was lost, or of somebody else who moves it too.
        let may_be_done =
            |failure: &Failure| failure.after_doubt || failure.meaning == Meaning::Precondition;
        if outcome.as_ref().is_err_and(|failure| !may_be_done(failure)) {
            return outcome;
        }
        let after = self.look(key, asks_checksum).await?;
        match outcome {
            Err(failure) if class_of(&after) != *class => Err(failure),
            _ => check_copy(&before, &after, class),
        }
    }

    async fn copy_onto_itself(self: &Arc<Self>, copy: &SelfCopy<'_>) -> Outcome<()> {
        if copy.size <= self.options.copy_whole_max {
            return self.copy_whole(copy).await;
        }
        let upload = self.create_copy(copy).await?;
        let mut in_flight = JoinSet::new();
        let outcome = match self.copy_parts(copy, &upload, &mut in_flight).await {
            Ok(parts) => self.complete_copy(copy, &upload, parts).await,
            Err(failure) => Err(failure),
        };
        if outcome.is_err() {
            // A part that is copied after the upload was aborted would stay.
            in_flight.shutdown().await;
            self.give_up(copy.key, upload).await;
        }
        outcome
    }

    async fn copy_whole(&self, copy: &SelfCopy<'_>) -> Outcome<()> {
        let name = self.name(copy.key.as_str());
        let (encryption, kms_key) = self.encryption();
        let attempt = async |_| {
            let request = self.client().copy_object().bucket(&self.options.bucket).key(&name);
            let request = request
                .copy_source(self.source(copy.key))
                .set_copy_source_if_match(copy.etag.clone())
                .set_if_match(copy.etag.clone())
                .storage_class(copy.class.clone())
                .metadata_directive(MetadataDirective::Copy)
                .set_object_lock_mode(copy.lock.as_ref().map(|lock| lock.mode.clone()))
                .set_object_lock_retain_until_date(copy.lock.as_ref().map(|lock| lock.until))
                .set_server_side_encryption(encryption.clone())
                .set_ssekms_key_id(kms_key.clone())
                .set_request_payer(self.payer());
            request.send().await.map(drop).map_err(Failure::of)
        };
        self.call(Operation::Copy, COPY_BYTES, attempt).await
    }

    /// Begins a copy in parts, to which the service takes nothing over but the bytes.
    async fn create_copy(&self, copy: &SelfCopy<'_>) -> Outcome<String> {
        let name = self.name(copy.key.as_str());
        let (encryption, kms_key) = self.encryption();
        let before = copy.before;
        let tags = match before.tag_count() {
            Some(1..) => Some(as_query(self.tags(copy.key).await?)),
            _ => None,
        };
        // Of the whole, not of its parts: so that it can be compared, and stays as it was.
        let algorithm = checksum_of(before).map(|(algorithm, _)| algorithm);
        let attempt = async |_| {
            let request = self.client().create_multipart_upload().bucket(&self.options.bucket);
            let request = request
                .key(&name)
                .storage_class(copy.class.clone())
                .set_metadata(before.metadata().cloned())
                .set_content_type(before.content_type().map(str::to_owned))
                .set_tagging(tags.clone())
                .set_checksum_algorithm(algorithm.clone())
                .set_checksum_type(algorithm.as_ref().map(|_| ChecksumType::FullObject))
                .set_object_lock_mode(copy.lock.as_ref().map(|lock| lock.mode.clone()))
                .set_object_lock_retain_until_date(copy.lock.as_ref().map(|lock| lock.until))
                .set_server_side_encryption(encryption.clone())
                .set_ssekms_key_id(kms_key.clone())
                .set_request_payer(self.payer());
            let begun = request.send().await.map_err(Failure::of)?;
            let id = begun.upload_id().filter(|id| !id.is_empty()).map(str::to_owned);
            id.ok_or_else(|| Failure::wrong_answer("an upload without an id"))
        };
        self.call(Operation::CreateUpload, 0, attempt).await
    }

    async fn copy_parts(
        self: &Arc<Self>,
        copy: &SelfCopy<'_>,
        upload: &str,
        in_flight: &mut JoinSet<Outcome<CompletedPart>>,
    ) -> Outcome<Vec<CompletedPart>> {
        let mut done = Vec::new();
        for (number, range) in (1..).zip(parts(copy.size, self.options.copy_part_bytes)) {
            while in_flight.len() >= self.options.parts_in_flight.max(1) {
                done.extend(take_one(in_flight).await?);
            }
            let part = PartCopy {
                connection: Arc::clone(self),
                key: copy.key.clone(),
                upload: upload.to_owned(),
                number,
                range: format!("bytes={}-{}", range.start, range.end - 1),
                etag: copy.etag.clone(),
            };
            in_flight.spawn(part.run());
        }
        while let Some(part) = take_one(in_flight).await? {
            done.push(part);
        }
        done.sort_by_key(CompletedPart::part_number);
        Ok(done)
    }

    async fn complete_copy(
        &self,
        copy: &SelfCopy<'_>,
        upload: &str,
        parts: Vec<CompletedPart>,
    ) -> Outcome<()> {
        let name = self.name(copy.key.as_str());
        let parts = CompletedMultipartUpload::builder().set_parts(Some(parts)).build();
        let attempt = async |_| {
            let request = self.client().complete_multipart_upload().bucket(&self.options.bucket);
            let request = request
                .key(&name)
                .upload_id(upload)
                .multipart_upload(parts.clone())
                .set_if_match(copy.etag.clone())
                .set_request_payer(self.payer());
            request.send().await.map(drop).map_err(Failure::of)
        };
        self.call(Operation::CompleteUpload, 0, attempt).await
    }

    /// A copy to another name, whatever has it; whole.
    pub(super) async fn copy(&self, from: &ObjectKey, to: &ObjectKey) -> Outcome<()> {
        let name = self.name(to.as_str());
        let (encryption, kms_key) = self.encryption();
        let lock = self.lock_of_new(to);
        let attempt = async |_| {
            let request = self.client().copy_object().bucket(&self.options.bucket).key(&name);
            let request = request
                .copy_source(self.source(from))
                .metadata_directive(MetadataDirective::Copy)
                .set_object_lock_mode(lock.as_ref().map(|lock| lock.mode.clone()))
                .set_object_lock_retain_until_date(lock.as_ref().map(|lock| lock.until))
                .set_server_side_encryption(encryption.clone())
                .set_ssekms_key_id(kms_key.clone())
                .set_request_payer(self.payer());
            request.send().await.map(drop).map_err(Failure::of)
        };
        self.call(Operation::Copy, COPY_BYTES, attempt).await
    }

    fn source(&self, key: &ObjectKey) -> String {
        format!("{}/{}", self.options.bucket, quoted(&self.name(key.as_str())))
    }
}

/// One part's copy, on its own in a task.
struct PartCopy {
    connection: Arc<Connection>,
    key: ObjectKey,
    upload: String,
    number: i32,
    range: String,
    etag: Option<String>,
}

impl PartCopy {
    async fn run(self) -> Outcome<CompletedPart> {
        let connection = &*self.connection;
        let name = connection.name(self.key.as_str());
        let mut attempts = Attempts::new(connection, Operation::CopyPart, COPY_BYTES);
        loop {
            let turn = attempts.turn().await?;
            let request = connection.client().upload_part_copy().bucket(&connection.options.bucket);
            let request = request
                .key(&name)
                .upload_id(&self.upload)
                .part_number(self.number)
                .copy_source(connection.source(&self.key))
                .copy_source_range(&self.range)
                .set_copy_source_if_match(self.etag.clone())
                .set_request_payer(connection.payer());
            let work = async {
                let copied = request.send().await.map_err(Failure::of)?;
                let result = copied.copy_part_result.filter(|result| result.e_tag.is_some());
                result.ok_or_else(|| Failure::wrong_answer("a part without an ETag"))
            };
            match turn.run(work).await {
                Ok(result) => return Ok(completed(self.number, result)),
                Err(failure) => attempts.after(failure).await?,
            }
        }
    }
}

fn completed(number: i32, result: CopyPartResult) -> CompletedPart {
    CompletedPart::builder()
        .part_number(number)
        .set_e_tag(result.e_tag)
        .set_checksum_crc32(result.checksum_crc32)
        .set_checksum_crc32_c(result.checksum_crc32_c)
        .set_checksum_crc64_nvme(result.checksum_crc64_nvme)
        .build()
}

async fn take_one(
    in_flight: &mut JoinSet<Outcome<CompletedPart>>,
) -> Outcome<Option<CompletedPart>> {
    match in_flight.join_next().await {
        None => Ok(None),
        Some(Ok(part)) => part.map(Some),
        Some(Err(ended)) => Err(Failure::new(Meaning::Permanent, ended.to_string())),
    }
}

/// Ranges of `part_bytes` each, or of more where there would be too many.
fn parts(size: u64, part_bytes: u64) -> impl Iterator<Item = Range<u64>> {
    let length = part_bytes.max(size.div_ceil(PARTS_MAX)).max(1);
    (0..size.div_ceil(length)).map(move |part| part * length..((part + 1) * length).min(size))
}

fn size_of(head: &HeadObjectOutput) -> Outcome<u64> {
    let size = head.content_length().and_then(|length| u64::try_from(length).ok());
    size.ok_or_else(|| Failure::wrong_answer("an answer without a length"))
}

/// An object's checksum, of those that can be of a whole object whatever its parts; of one that is of its parts
/// only the algorithm counts.
fn checksum_of(head: &HeadObjectOutput) -> Option<(ChecksumAlgorithm, &str)> {
    let crc32c = head.checksum_crc32_c().map(|sum| (ChecksumAlgorithm::Crc32C, sum));
    let crc64 = head.checksum_crc64_nvme().map(|sum| (ChecksumAlgorithm::Crc64Nvme, sum));
    let crc32 = head.checksum_crc32().map(|sum| (ChecksumAlgorithm::Crc32, sum));
    crc32c.or(crc64).or(crc32)
}

/// Whether the copy is what was copied, by what can be compared. Checksums and ETags of parts cannot (`...-3`), and with a
/// key of the service's an ETag is no digest of the content.
fn check_copy(
    before: &HeadObjectOutput,
    after: &HeadObjectOutput,
    class: &StorageClass,
) -> Outcome<()> {
    let (size, copied) = (size_of(before)?, size_of(after)?);
    let damaged = |what: &str, before: &str, after: &str| {
        let text = format!("the copy is another object: its {what} is {after}, it was {before}");
        Err(Failure::new(Meaning::Permanent, text))
    };
    if size != copied {
        return damaged("size", &size.to_string(), &copied.to_string());
    }
    let found = class_of(after);
    if found != *class {
        let text = format!("the object was copied to {class} and is in {found} all the same");
        return Err(Failure::new(Meaning::Unsupported, text));
    }
    let is_of_whole = |sum: &str| !sum.contains('-');
    if let (Some(old), Some(new)) = (checksum_of(before), checksum_of(after))
        && old.0 == new.0
        && is_of_whole(old.1)
        && is_of_whole(new.1)
    {
        return if old.1 == new.1 { Ok(()) } else { damaged("checksum", old.1, new.1) };
    }
    let is_plain = |head: &HeadObjectOutput| {
        matches!(head.server_side_encryption(), None | Some(ServerSideEncryption::Aes256))
            && head.sse_customer_algorithm().is_none()
    };
    let is_md5 = |etag: &str| {
        let digest = etag.trim_matches('"');
        digest.len() == 32 && digest.bytes().all(|byte| byte.is_ascii_hexdigit())
    };
    match (before.e_tag(), after.e_tag()) {
        (Some(old), Some(new))
            if is_plain(before) && is_plain(after) && is_md5(old) && is_md5(new) && old != new =>
        {
            damaged("ETag", old, new)
        }
        _ => Ok(()),
    }
}

/// Tags as a header has them.
fn as_query(tags: impl IntoIterator<Item = (String, String)>) -> String {
    let quoted = |text: &str| quoted(text).replace('/', "%2F");
    let pairs = tags.into_iter().map(|(key, value)| format!("{}={}", quoted(&key), quoted(&value)));
    pairs.collect::<Vec<_>>().join("&")
}

/// A name as a part of a header's URL.
fn quoted(name: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/-_.~".contains(&byte);
    let quoted = |byte: u8| match plain(byte) {
        true => char::from(byte).to_string(),
        false => format!("%{byte:02X}"),
    };
    name.bytes().map(quoted).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn f094_names_are_quoted_where_they_are_part_of_a_url() {
        assert_eq!(quoted("a/b-c_d.e~%20+ ä"), "a/b-c_d.e~%2520%2B%20%C3%A4");
        let tags = [("a/b", "c&d"), ("e", "")].map(|(key, value)| (key.into(), value.into()));
        assert_eq!(as_query(tags), "a%2Fb=c%26d&e=");
    }

    #[test]
    fn parts_make_the_whole_and_are_not_too_many() {
        let check = |size: u64, part_bytes| {
            let parts: Vec<_> = parts(size, part_bytes).collect();
            assert!(parts.len() as u64 <= PARTS_MAX);
            assert!(parts.iter().all(|part| !part.is_empty()));
            assert!(parts.windows(2).all(|two| two[0].end == two[1].start));
            assert_eq!(parts.iter().map(|part| part.end - part.start).sum::<u64>(), size);
            parts.len()
        };
        assert_eq!([check(10, 4), check(8, 4), check(1, 4), check(3, 0)], [3, 2, 1, 3]);
        assert_eq!(check(5 << 40, 512 << 20), 10_000);
        assert_eq!(check(5 << 30, 512 << 20), 10);
    }

    fn head(sum: Option<&str>, etag: &str) -> HeadObjectOutput {
        let head = HeadObjectOutput::builder().content_length(3).e_tag(etag);
        head.set_checksum_crc32_c(sum.map(str::to_owned)).build()
    }

    #[test]
    fn a_copy_is_compared_by_what_can_be_compared() {
        let (one, other) =
            ("\"0123456789abcdef0123456789abcdef\"", "\"ffffffffffffffffffffffffffffffff\"");
        let check = |before: &HeadObjectOutput, after: &HeadObjectOutput| {
            check_copy(before, after, &StorageClass::Standard).is_ok()
        };
        assert!(check(&head(Some("AAAA"), one), &head(Some("AAAA"), other)));
        assert!(!check(&head(Some("AAAA"), one), &head(Some("BBBB"), one)));
        // Of parts, or by other means: then by the ETag, where that is a digest.
        assert!(check(&head(Some("AAAA-2"), "\"x-2\""), &head(Some("BBBB"), one)));
        assert!(!check(&head(Some("AAAA-2"), one), &head(None, other)));
        assert!(check(&head(None, one), &head(None, one)));
        let keyed = HeadObjectOutput::builder().content_length(3).e_tag(other);
        let keyed = keyed.server_side_encryption(ServerSideEncryption::AwsKms).build();
        assert!(check(&head(None, one), &keyed));
        let shorter = HeadObjectOutput::builder().content_length(2).e_tag(one).build();
        assert!(!check(&head(None, one), &shorter));
        let refused = check_copy(&head(None, one), &head(None, one), &StorageClass::Glacier);
        assert_eq!(refused.unwrap_err().meaning, Meaning::Unsupported);
    }
}
