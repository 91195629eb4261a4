//! Storage classes, thawing, tags and retention: what a bucket has and a folder has not.

use std::collections::BTreeMap;

use aws_sdk_s3::primitives::DateTime;
use aws_sdk_s3::types::{
    GlacierJobParameters, MetadataDirective, ObjectLockRetention, ObjectLockRetentionMode,
    RestoreRequest, StorageClass, Tag, Tagging, Tier,
};

use super::bucket::LockMode;
use super::connection::Connection;
use super::failure::{Failure, Meaning};
use super::operation::Operation;
use super::store::S3Store;
use crate::base::Timestamp;
use crate::storage::{ObjectKey, Result};

/// Whether an object can be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Availability {
    /// At once.
    Online,
    /// Not before it is thawed.
    Cold,
    /// It is being thawed.
    Thawing,
    /// A thawed copy can be read until then.
    ThawedUntil(Option<Timestamp>),
}

/// The storage class of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectClass {
    /// Its name: `STANDARD`, `GLACIER`, ...
    pub name: String,
    /// Whether it can be read.
    pub availability: Availability,
}

/// How fast an object is to be thawed; what that costs and takes, the class says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ThawSpeed {
    /// Hours to days, the cheapest.
    Bulk,
    /// Hours.
    Standard,
    /// Minutes, where there is capacity.
    Expedited,
}

/// A thaw that is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Thaw {
    /// How many days the thawed copy stays.
    pub days: u16,
    /// How fast.
    pub speed: ThawSpeed,
}

impl S3Store {
    /// The storage class of an object, and whether it can be read.
    ///
    /// # Errors
    /// As [`crate::storage::ObjectStore::head`].
    pub fn class(&self, key: &ObjectKey) -> Result<ObjectClass> {
        self.wait(Operation::Head, key, self.connection.class(key))
    }

    /// Moves an object to a storage class: a copy onto itself, made by the service. The bytes stay.
    ///
    /// # Errors
    /// As [`crate::storage::ObjectStore::put`]; [`crate::storage::Error::Cold`].
    pub fn set_class(&self, key: &ObjectKey, class: &str) -> Result<()> {
        self.wait(Operation::Copy, key, self.connection.copy(key, key, Some(class)))
    }

    /// Copies an object by the service, without its bytes passing here; at most 5 GB. What had the name is
    /// replaced.
    ///
    /// # Errors
    /// As [`crate::storage::ObjectStore::put`]; [`crate::storage::Error::Cold`].
    pub fn copy(&self, from: &ObjectKey, to: &ObjectKey) -> Result<()> {
        self.wait(Operation::Copy, from, self.connection.copy(from, to, None))
    }

    /// Asks for a cold object to be made readable, and tells how far that is. Asking again is harmless.
    ///
    /// # Errors
    /// As [`crate::storage::ObjectStore::head`].
    pub fn thaw(&self, key: &ObjectKey, thaw: Thaw) -> Result<Availability> {
        self.wait(Operation::Thaw, key, self.connection.thaw(key, thaw))
    }

    /// An object's tags.
    ///
    /// # Errors
    /// As [`crate::storage::ObjectStore::head`].
    pub fn tags(&self, key: &ObjectKey) -> Result<BTreeMap<String, String>> {
        self.wait(Operation::GetTags, key, self.connection.tags(key))
    }

    /// Replaces an object's tags.
    ///
    /// # Errors
    /// As [`crate::storage::ObjectStore::head`].
    pub fn set_tags(&self, key: &ObjectKey, tags: &BTreeMap<String, String>) -> Result<()> {
        self.wait(Operation::SetTags, key, self.connection.set_tags(key, tags))
    }

    /// Until when an object is locked, in a bucket with Object Lock.
    ///
    /// # Errors
    /// As [`crate::storage::ObjectStore::head`].
    pub fn retained_until(&self, key: &ObjectKey) -> Result<Option<Timestamp>> {
        self.wait(Operation::GetRetention, key, self.connection.retained_until(key))
    }

    /// Locks an object: nobody removes it before then.
    ///
    /// # Errors
    /// As [`crate::storage::ObjectStore::put`].
    pub fn retain(&self, key: &ObjectKey, mode: LockMode, until: Timestamp) -> Result<()> {
        self.wait(Operation::SetRetention, key, self.connection.retain(key, mode, until))
    }

    fn wait<T>(
        &self,
        operation: Operation,
        key: &ObjectKey,
        work: impl Future<Output = std::result::Result<T, Failure>>,
    ) -> Result<T> {
        let connection = &self.connection;
        let settled = connection.wait(async {
            match work.await {
                Err(failure) => Err(connection.settle(key.as_str(), failure).await),
                done => done,
            }
        });
        settled.map_err(|failure| connection.error(operation, key.as_str(), failure))
    }
}

type Outcome<T> = std::result::Result<T, Failure>;

impl Connection {
    async fn class(&self, key: &ObjectKey) -> Outcome<ObjectClass> {
        let name = self.name(key.as_str());
        let attempt = async |_| {
            let request = self.client().head_object().bucket(&self.options.bucket).key(&name);
            request.set_request_payer(self.payer()).send().await.map_err(Failure::of)
        };
        let head = self.call(Operation::Head, 0, attempt).await?;
        let class = head.storage_class().map_or("STANDARD", StorageClass::as_str).to_owned();
        let is_cold =
            matches!(class.as_str(), "GLACIER" | "DEEP_ARCHIVE") || head.archive_status().is_some();
        let availability = match (is_cold, head.restore()) {
            (false, _) => Availability::Online,
            (true, None) => Availability::Cold,
            (true, Some(state)) => thaw_state(state),
        };
        Ok(ObjectClass { name: class, availability })
    }

    async fn copy(&self, from: &ObjectKey, to: &ObjectKey, class: Option<&str>) -> Outcome<()> {
        let bucket = &self.options.bucket;
        let source = format!("{bucket}/{}", quoted(&self.name(from.as_str())));
        let name = self.name(to.as_str());
        let (encryption, kms_key) = self.encryption();
        let attempt = async |_| {
            let request =
                self.client().copy_object().bucket(bucket).key(&name).copy_source(&source);
            let request = request
                .set_storage_class(class.map(StorageClass::from))
                .metadata_directive(MetadataDirective::Copy)
                .set_server_side_encryption(encryption.clone())
                .set_ssekms_key_id(kms_key.clone())
                .set_request_payer(self.payer());
            request.send().await.map(drop).map_err(Failure::of)
        };
        // The service copies before it answers.
        self.call(Operation::Copy, 64 << 20, attempt).await.map(drop)
    }

    async fn thaw(&self, key: &ObjectKey, thaw: Thaw) -> Outcome<Availability> {
        let name = self.name(key.as_str());
        let speed = match thaw.speed {
            ThawSpeed::Bulk => Tier::Bulk,
            ThawSpeed::Standard => Tier::Standard,
            ThawSpeed::Expedited => Tier::Expedited,
        };
        let job = GlacierJobParameters::builder().tier(speed).build().expect("a tier is all");
        let wanted = RestoreRequest::builder().days(thaw.days.into()).glacier_job_parameters(job);
        let wanted = wanted.build();
        let attempt = async |_| {
            let request = self.client().restore_object().bucket(&self.options.bucket).key(&name);
            let request = request.restore_request(wanted.clone());
            request.set_request_payer(self.payer()).send().await.map(drop).map_err(Failure::of)
        };
        match self.call(Operation::Thaw, 0, attempt).await {
            // It is under way, or the object is not cold: the class says which.
            Err(failure) if failure.says("RestoreAlreadyInProgress") => {}
            Err(failure) if failure.meaning == Meaning::Cold => {}
            other => drop(other?),
        }
        Ok(self.class(key).await?.availability)
    }

    async fn tags(&self, key: &ObjectKey) -> Outcome<BTreeMap<String, String>> {
        let name = self.name(key.as_str());
        let attempt = async |_| {
            let request =
                self.client().get_object_tagging().bucket(&self.options.bucket).key(&name);
            request.set_request_payer(self.payer()).send().await.map_err(Failure::of)
        };
        let tags = self.call(Operation::GetTags, 0, attempt).await?.tag_set;
        Ok(tags.into_iter().map(|tag| (tag.key, tag.value)).collect())
    }

    async fn set_tags(&self, key: &ObjectKey, tags: &BTreeMap<String, String>) -> Outcome<()> {
        let name = self.name(key.as_str());
        let tag = |(key, value): (&String, &String)| {
            Tag::builder().key(key).value(value).build().expect("key and value are all")
        };
        let tags = Tagging::builder().set_tag_set(Some(tags.iter().map(tag).collect())).build();
        let tags = tags.expect("a set is all that it needs");
        let attempt = async |_| {
            let request =
                self.client().put_object_tagging().bucket(&self.options.bucket).key(&name);
            let request = request.tagging(tags.clone());
            request.set_request_payer(self.payer()).send().await.map(drop).map_err(Failure::of)
        };
        self.call(Operation::SetTags, 0, attempt).await.map(drop)
    }

    async fn retained_until(&self, key: &ObjectKey) -> Outcome<Option<Timestamp>> {
        let name = self.name(key.as_str());
        let attempt = async |_| {
            let request =
                self.client().get_object_retention().bucket(&self.options.bucket).key(&name);
            request.set_request_payer(self.payer()).send().await.map_err(Failure::of)
        };
        match self.call(Operation::GetRetention, 0, attempt).await {
            Err(failure) if failure.says("NoSuchObjectLockConfiguration") => Ok(None),
            // A bucket without locks.
            Err(failure) if failure.says("Bucket is missing Object Lock") => Ok(None),
            Err(failure) if failure.says("ObjectLockConfigurationNotFoundError") => Ok(None),
            Err(failure) => Err(failure),
            Ok(answer) => {
                let retention = answer.retention;
                let until = retention.and_then(|retention| retention.retain_until_date);
                Ok(until.and_then(|at| Timestamp::from_timestamp(at.secs(), at.subsec_nanos())))
            }
        }
    }

    async fn retain(&self, key: &ObjectKey, mode: LockMode, until: Timestamp) -> Outcome<()> {
        let name = self.name(key.as_str());
        let mode = match mode {
            LockMode::Governance => ObjectLockRetentionMode::Governance,
            LockMode::Compliance => ObjectLockRetentionMode::Compliance,
        };
        let until = DateTime::from_secs(until.timestamp());
        let retention = ObjectLockRetention::builder().mode(mode).retain_until_date(until).build();
        let attempt = async |_| {
            let request =
                self.client().put_object_retention().bucket(&self.options.bucket).key(&name);
            let request = request
                .retention(retention.clone())
                // S3 demands a checksum of this request.
                .checksum_algorithm(aws_sdk_s3::types::ChecksumAlgorithm::Crc32C);
            request.set_request_payer(self.payer()).send().await.map(drop).map_err(Failure::of)
        };
        self.call(Operation::SetRetention, 0, attempt).await.map(drop)
    }
}

/// Reads `ongoing-request="false", expiry-date="Fri, 21 Dec 2012 00:00:00 GMT"`.
fn thaw_state(text: &str) -> Availability {
    if text.contains("ongoing-request=\"true\"") {
        return Availability::Thawing;
    }
    let date = text.split_once("expiry-date=\"").and_then(|(_, rest)| rest.split_once('"'));
    let until = date.and_then(|(date, _)| chrono::DateTime::parse_from_rfc2822(date).ok());
    Availability::ThawedUntil(until.map(|until| until.to_utc()))
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
    fn the_state_of_a_thaw_is_read() {
        assert_eq!(thaw_state("ongoing-request=\"true\""), Availability::Thawing);
        let text = "ongoing-request=\"false\", expiry-date=\"Fri, 21 Dec 2012 00:00:00 GMT\"";
        let until = "2012-12-21T00:00:00Z".parse().unwrap();
        assert_eq!(thaw_state(text), Availability::ThawedUntil(Some(until)));
        assert_eq!(thaw_state("?"), Availability::ThawedUntil(None));
    }

    #[test]
    fn f094_names_are_quoted_where_they_are_part_of_a_url() {
        assert_eq!(quoted("a/b-c_d.e~%20+ ä"), "a/b-c_d.e~%2520%2B%20%C3%A4");
    }
}
