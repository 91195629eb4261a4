//! Object Lock: what is locked when it is put, and locks that are set later.
//!
//! A lock is the retention of one version, by its mode until a moment. Nothing here ever shortens one.

use aws_sdk_s3::operation::head_object::HeadObjectOutput;
use aws_sdk_s3::primitives::DateTime;
use aws_sdk_s3::types::{
    ChecksumAlgorithm, ObjectLockMode, ObjectLockRetention, ObjectLockRetentionMode,
};

use super::connection::{Connection, Outcome};
use super::failure::{Failure, Meaning, NO_LOCKS};
use super::list::moment;
use super::operation::Operation;
use crate::base::Timestamp;
use crate::storage::{LockMode, ObjectKey};

/// The lock that a request gives to what it stores.
#[derive(Debug, Clone)]
pub(super) struct PutLock {
    pub(super) mode: ObjectLockMode,
    pub(super) until: DateTime,
}

impl Connection {
    /// The lock of an object that is put now, by the store's rule.
    pub(super) fn lock_of_new(&self, key: &ObjectKey) -> Option<PutLock> {
        self.lock_since(key, self.now())
    }

    fn lock_since(&self, key: &ObjectKey, since: Timestamp) -> Option<PutLock> {
        let rule = self.options.lock?;
        let until = rule.until(key.as_str(), since)?;
        Some(PutLock { mode: mode_of(rule.mode), until: whole_seconds(until) })
    }

    /// The lock of an object that is copied onto itself: as it was, neither longer nor shorter. Who may not see it
    /// goes by the rule.
    pub(super) fn lock_of_copy(&self, key: &ObjectKey, head: &HeadObjectOutput) -> Option<PutLock> {
        let now = DateTime::from_secs(self.now().timestamp());
        let told = match (head.object_lock_mode(), head.object_lock_retain_until_date()) {
            (Some(mode), Some(until)) => Some(PutLock { mode: mode.clone(), until: *until }),
            _ => {
                let stored = head.last_modified().and_then(moment);
                stored.and_then(|stored| self.lock_since(key, stored))
            }
        };
        told.filter(|lock| lock.until > now)
    }

    /// Until when an object is locked. A HEAD would tell it too, but not that it may not tell.
    pub(super) async fn retained_until(&self, key: &ObjectKey) -> Outcome<Option<Timestamp>> {
        let retention = self.retention(key).await?;
        Ok(retention.and_then(|retention| moment(retention.retain_until_date.as_ref()?)))
    }

    async fn retention(&self, key: &ObjectKey) -> Outcome<Option<ObjectLockRetention>> {
        let name = self.name(key.as_str());
        let attempt = async |_| {
            let request =
                self.client().get_object_retention().bucket(&self.options.bucket).key(&name);
            request.set_request_payer(self.payer()).send().await.map_err(Failure::of)
        };
        match self.call(Operation::GetRetention, 0, attempt).await {
            Err(failure) if failure.says("NoSuchObjectLockConfiguration") => Ok(None),
            Err(failure) if failure.says("ObjectLockConfigurationNotFoundError") => Ok(None),
            Err(failure) if failure.says(NO_LOCKS) => self.head(key).await.map(|_| None),
            Err(failure) => Err(failure),
            Ok(answer) => Ok(answer.retention),
        }
    }

    /// Locks an object until then at least.
    pub(super) async fn retain(
        &self,
        key: &ObjectKey,
        mode: LockMode,
        until: Timestamp,
    ) -> Outcome<()> {
        let until = whole_seconds(until);
        // A server may take a shorter one; and whoever may not see a lock is refused that by the others.
        let found = match self.retention(key).await {
            Ok(found) => found,
            Err(failure) if failure.meaning == Meaning::Forbidden => None,
            Err(failure) => return Err(failure),
        };
        let found_until =
            found.as_ref().and_then(|found| moment(found.retain_until_date.as_ref()?));
        if found_until.is_some_and(|found| found.timestamp() >= until.secs()) {
            return Ok(());
        }
        let name = self.name(key.as_str());
        // Nobody makes the stricter one the other again.
        let is_strict =
            found.is_some_and(|found| found.mode == Some(ObjectLockRetentionMode::Compliance));
        let mode = match is_strict && found_until.is_some_and(|found| found > self.now()) {
            true => ObjectLockRetentionMode::Compliance,
            false => ObjectLockRetentionMode::from(mode_of(mode).as_str()),
        };
        let retention = ObjectLockRetention::builder().mode(mode).retain_until_date(until).build();
        let attempt = async |_| {
            let request =
                self.client().put_object_retention().bucket(&self.options.bucket).key(&name);
            let request = request
                .retention(retention.clone())
                // S3 demands a checksum of this request.
                .checksum_algorithm(ChecksumAlgorithm::Crc32C);
            request.set_request_payer(self.payer()).send().await.map(drop).map_err(Failure::of)
        };
        self.call(Operation::SetRetention, 0, attempt).await
    }
}

fn mode_of(mode: LockMode) -> ObjectLockMode {
    match mode {
        LockMode::Governance => ObjectLockMode::Governance,
        LockMode::Compliance => ObjectLockMode::Compliance,
    }
}

/// S3 knows seconds: the next one, so that no lock ends early.
fn whole_seconds(until: Timestamp) -> DateTime {
    DateTime::from_secs(until.timestamp() + i64::from(until.timestamp_subsec_nanos() > 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_lock_ends_early() {
        let at = |nanos| Timestamp::from_timestamp(100, nanos).unwrap();
        assert_eq!(whole_seconds(at(0)).secs(), 100);
        assert_eq!(whole_seconds(at(1)).secs(), 101);
    }
}
