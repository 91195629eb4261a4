//! What can be asked of the bucket itself: its region, its versions, its locks.

use super::connection::{Attempts, Connection};
use super::failure::{Failure, Meaning};
use super::operation::Operation;
use super::store::S3Store;
use crate::storage::{Error, Result};

/// What a bucket says of itself; nothing where the service does not know, or does not tell this account.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BucketFacts {
    /// Where it is.
    pub region: Option<String>,
    /// Whether it keeps versions.
    pub is_versioned: Option<bool>,
    /// Whether objects can be locked in it.
    pub has_locks: Option<bool>,
    /// Whether it locks what is put without a lock.
    pub locks_by_default: bool,
}

impl S3Store {
    /// Where the bucket is, by its own word; nothing where the service does not tell.
    ///
    /// # Errors
    /// [`Error::NoStore`], [`Error::Credentials`], and what lasts.
    pub fn region(&self) -> Result<Option<String>> {
        let connection = &self.connection;
        let found = connection.wait(connection.bucket_region());
        found.map_err(|failure| connection.error(Operation::Location, "", failure))
    }

    /// Refuses a bucket that is not in the configured region: data may have to stay in a country.
    ///
    /// # Errors
    /// [`Error::Region`], and as [`S3Store::region`].
    pub fn require_region(&self) -> Result<Option<String>> {
        let found = self.region()?;
        match (&self.connection.options.region, &found) {
            (Some(wanted), Some(found)) if wanted != found => Err(Error::Region {
                location: self.connection.location.clone(),
                wanted: wanted.clone(),
                found: found.clone(),
            }),
            _ => Ok(found),
        }
    }

    /// What the bucket says of itself.
    ///
    /// # Errors
    /// As [`S3Store::region`].
    pub fn bucket_facts(&self) -> Result<BucketFacts> {
        let connection = &self.connection;
        let region = self.region()?;
        let is_versioned = connection.wait(connection.is_versioned());
        let is_versioned =
            is_versioned.map_err(|failure| connection.error(Operation::Versioning, "", failure))?;
        let locks = connection.wait(connection.has_locks());
        let locks =
            locks.map_err(|failure| connection.error(Operation::LockConfiguration, "", failure))?;
        let (has_locks, locks_by_default) =
            (locks.map(|(has, _)| has), locks.is_some_and(|(_, by)| by));
        Ok(BucketFacts { region, is_versioned, has_locks, locks_by_default })
    }
}

/// "Does not know" and "does not tell" are answers here.
pub(super) fn told<T>(
    outcome: std::result::Result<T, Failure>,
) -> std::result::Result<Option<T>, Failure> {
    match outcome {
        Ok(value) => Ok(Some(value)),
        Err(failure) if matches!(failure.meaning, Meaning::Forbidden | Meaning::Unsupported) => {
            Ok(None)
        }
        Err(failure) => Err(failure),
    }
}

impl Connection {
    async fn bucket_region(&self) -> std::result::Result<Option<String>, Failure> {
        let bucket = &self.options.bucket;
        let location = async |_| {
            let request = self.client().get_bucket_location().bucket(bucket);
            request.send().await.map_err(Failure::of)
        };
        match self.call(Operation::Location, 0, location).await {
            Ok(answer) => {
                let told = answer.location_constraint;
                // The oldest two regions have names of their own here.
                return Ok(Some(match told.as_ref().map(|region| region.as_str()) {
                    None | Some("") => "us-east-1".to_owned(),
                    Some("EU") => "eu-west-1".to_owned(),
                    Some(region) => region.to_owned(),
                }));
            }
            Err(Failure { meaning: Meaning::OtherRegion, region: Some(region), .. }) => {
                return Ok(Some(region));
            }
            Err(failure)
                if matches!(failure.meaning, Meaning::Forbidden | Meaning::Unsupported) => {}
            Err(failure) => return Err(failure),
        }
        // The right to list is enough for this.
        let head =
            async |_| self.client().head_bucket().bucket(bucket).send().await.map_err(Failure::of);
        match self.call(Operation::HeadBucket, 0, head).await {
            Ok(answer) => Ok(answer.bucket_region),
            Err(Failure { region: Some(region), .. }) => Ok(Some(region)),
            Err(failure) => told(Err(failure)).map(Option::flatten),
        }
    }

    async fn is_versioned(&self) -> std::result::Result<Option<bool>, Failure> {
        Ok(self.versioning().await?.map(|status| status.as_deref() == Some("Enabled")))
    }

    /// Whether no deletion leaves a marker; versioning that was suspended goes on to leave some.
    pub(super) async fn never_had_versions(&self) -> std::result::Result<Option<bool>, Failure> {
        Ok(self.versioning().await?.map(|status| status.is_none()))
    }

    /// Whether the bucket says, asked once, that it never had versions. Whoever does not answer says nothing.
    pub(super) async fn surely_has_no_versions(&self) -> bool {
        let mut attempts = Attempts::new(self, Operation::Versioning, 0);
        let Ok(turn) = attempts.turn().await else { return false };
        let request = self.client().get_bucket_versioning().bucket(&self.options.bucket);
        let answer = turn.run(async { request.send().await.map_err(Failure::of) }).await;
        answer.is_ok_and(|answer| answer.status().is_none())
    }

    /// `Enabled`, `Suspended`, or nothing in a bucket that never had versions.
    async fn versioning(&self) -> std::result::Result<Option<Option<String>>, Failure> {
        let attempt = async |_| {
            let request = self.client().get_bucket_versioning().bucket(&self.options.bucket);
            request.send().await.map_err(Failure::of)
        };
        let answer = told(self.call(Operation::Versioning, 0, attempt).await)?;
        Ok(answer.map(|answer| answer.status().map(|status| status.as_str().to_owned())))
    }

    /// Whether objects can be locked, and whether they are by default.
    async fn has_locks(&self) -> std::result::Result<Option<(bool, bool)>, Failure> {
        let attempt = async |_| {
            let request = self.client().get_object_lock_configuration();
            request.bucket(&self.options.bucket).send().await.map_err(Failure::of)
        };
        match self.call(Operation::LockConfiguration, 0, attempt).await {
            Err(failure) if failure.says("ObjectLockConfigurationNotFoundError") => {
                Ok(Some((false, false)))
            }
            outcome => Ok(told(outcome)?.map(|answer| {
                let Some(lock) = answer.object_lock_configuration else { return (false, false) };
                let default = lock.rule.and_then(|rule| rule.default_retention);
                (lock.object_lock_enabled.is_some(), default.is_some())
            })),
        }
    }
}
