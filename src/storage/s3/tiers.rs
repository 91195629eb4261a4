//! Storage classes, thawing and tags: what a bucket has and a folder has not.

use std::collections::BTreeMap;

use aws_sdk_s3::operation::head_object::HeadObjectOutput;
use aws_sdk_s3::types::{ChecksumMode, GlacierJobParameters, RestoreRequest, Tag, Tagging, Tier};

use super::connection::{Connection, Outcome};
use super::failure::{Failure, Meaning};
use super::list::class_named;
use super::operation::Operation;
use super::store::S3Store;
use crate::storage::{Availability, ObjectClass, ObjectKey, Result, StorageClass, Thaw, ThawSpeed};

impl S3Store {
    /// Copies an object by the service, without its bytes passing here; at most 5 GB. What had the name is
    /// replaced.
    ///
    /// # Errors
    /// As [`crate::storage::ObjectStore::put`]; [`crate::storage::Error::Cold`].
    pub fn copy(&self, from: &ObjectKey, to: &ObjectKey) -> Result<()> {
        self.wait(Operation::Copy, from, self.connection.copy(from, to))
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
}

impl Connection {
    /// Everything that a HEAD says of an object, with its checksum where `asks_checksum`.
    pub(super) async fn look(
        &self,
        key: &ObjectKey,
        asks_checksum: bool,
    ) -> Outcome<HeadObjectOutput> {
        let name = self.name(key.as_str());
        let mode = asks_checksum.then_some(ChecksumMode::Enabled);
        let attempt = async |_| {
            let request = self.client().head_object().bucket(&self.options.bucket).key(&name);
            let request = request.set_checksum_mode(mode.clone());
            request.set_request_payer(self.payer()).send().await.map_err(Failure::of)
        };
        match self.call(Operation::Head, 0, attempt).await {
            Err(failure) => Err(self.settle(key.as_str(), failure).await),
            head => head,
        }
    }

    pub(super) async fn class(&self, key: &ObjectKey) -> Outcome<ObjectClass> {
        let head = self.look(key, false).await?;
        let class = class_of(&head);
        let is_cold = class.needs_thaw() || head.archive_status().is_some();
        let availability = match (is_cold, head.restore()) {
            (false, _) => Availability::Online,
            (true, None) => Availability::Cold,
            (true, Some(state)) => thaw_state(state),
        };
        Ok(ObjectClass { class, availability })
    }

    pub(super) async fn thaw(&self, key: &ObjectKey, thaw: Thaw) -> Outcome<Availability> {
        let found = self.class(key).await?;
        // S3 counts the days of a repeated request from now on: one for fewer days would end what others wait for.
        let wanted = self.now() + chrono::TimeDelta::days(i64::from(thaw.days));
        match found.availability {
            Availability::Online => return Ok(Availability::Online),
            Availability::ThawedUntil(Some(until)) if until >= wanted => {
                return Ok(found.availability);
            }
            _ => {}
        }
        if found.class.needs_thaw() && found.class.thaw_time(thaw.speed).is_none() {
            let text = format!("{} knows no thaw of that speed", found.class);
            return Err(Failure::new(Meaning::Unsupported, text));
        }
        self.ask_for_thaw(key, &found.class, thaw).await?;
        Ok(self.class(key).await?.availability)
    }

    async fn ask_for_thaw(&self, key: &ObjectKey, class: &StorageClass, thaw: Thaw) -> Outcome<()> {
        let name = self.name(key.as_str());
        let speed = match thaw.speed {
            ThawSpeed::Bulk => Tier::Bulk,
            ThawSpeed::Standard => Tier::Standard,
            ThawSpeed::Expedited => Tier::Expedited,
        };
        let job = GlacierJobParameters::builder().tier(speed).build().expect("a tier is all");
        // What `INTELLIGENT_TIERING` has archived comes back for good, and a number of days is refused.
        let days = class.needs_thaw().then_some(i32::from(thaw.days.max(1)));
        let wanted = RestoreRequest::builder().set_days(days).glacier_job_parameters(job).build();
        let attempt = async |_| {
            let request = self.client().restore_object().bucket(&self.options.bucket).key(&name);
            let request = request.restore_request(wanted.clone());
            request.set_request_payer(self.payer()).send().await.map(drop).map_err(Failure::of)
        };
        match self.call(Operation::Thaw, 0, attempt).await {
            // It is under way, or the object is not cold any more: the class says which.
            Err(failure) if failure.says("RestoreAlreadyInProgress") => Ok(()),
            Err(failure) if failure.meaning == Meaning::Cold => Ok(()),
            other => other,
        }
    }

    pub(super) async fn tags(&self, key: &ObjectKey) -> Outcome<BTreeMap<String, String>> {
        let name = self.name(key.as_str());
        let attempt = async |_| {
            let request =
                self.client().get_object_tagging().bucket(&self.options.bucket).key(&name);
            request.set_request_payer(self.payer()).send().await.map_err(Failure::of)
        };
        let tags = self.call(Operation::GetTags, 0, attempt).await?.tag_set;
        Ok(tags.into_iter().map(|tag| (tag.key, tag.value)).collect())
    }

    /// Adds a tag to those that an object has.
    pub(super) async fn add_tag(&self, key: &ObjectKey, name: &str, value: &str) -> Outcome<()> {
        let mut tags = self.tags(key).await?;
        if tags.get(name).is_some_and(|known| known == value) {
            return Ok(());
        }
        tags.insert(name.to_owned(), value.to_owned());
        self.set_tags(key, &tags).await
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
        self.call(Operation::SetTags, 0, attempt).await
    }
}

pub(super) fn class_of(head: &HeadObjectOutput) -> StorageClass {
    class_named(head.storage_class().map(|class| class.as_str()))
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
}
