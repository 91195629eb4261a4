//! Versions that are not current: listed, and removed for good.

use aws_sdk_s3::operation::list_object_versions::ListObjectVersionsOutput;

use super::connection::{Connection, Outcome};
use super::failure::{Failure, Meaning};
use super::list::{class_named, moment};
use super::operation::Operation;
use crate::base::Timestamp;
use crate::storage::{ObjectKey, Version, VersionMark, VersionPage};

/// For the time limit: the answer of a full page.
const PAGE_BYTES: u64 = 1 << 20;

/// What became of a version that was to be removed.
pub(super) enum Removal {
    Gone,
    /// Nobody removes it before then.
    Locked(Timestamp),
}

impl Connection {
    /// One page: of a bucket with few versions many names, and hardly one of them a version.
    pub(super) async fn versions(
        &self,
        prefix: &str,
        after: Option<&VersionMark>,
    ) -> Outcome<VersionPage> {
        // No object has such a name, and XML has no such characters.
        if !prefix.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Ok(VersionPage::default());
        }
        // Without versions the list would be that of all objects.
        if after.is_none() && self.surely_has_no_versions().await {
            return Ok(VersionPage::default());
        }
        match self.versions_page(&self.name(prefix), after).await {
            Ok(page) => self.read_page(prefix, &page),
            // A server that knows no versions keeps none.
            Err(failure) if failure.meaning == Meaning::Unsupported => Ok(VersionPage::default()),
            Err(failure) => Err(failure),
        }
    }

    async fn versions_page(
        &self,
        prefix: &str,
        after: Option<&VersionMark>,
    ) -> Outcome<ListObjectVersionsOutput> {
        let attempt = async |_| {
            let request = self.client().list_object_versions().bucket(&self.options.bucket);
            let request = request
                .prefix(prefix)
                .set_key_marker(after.map(|mark| mark.key.clone()))
                .set_version_id_marker(after.and_then(|mark| mark.id.clone()))
                .set_request_payer(self.payer());
            let page = request.send().await.map_err(Failure::of)?;
            match page.is_truncated() {
                Some(true) if page.next_key_marker().is_none() => {
                    Err(Failure::wrong_answer("a page of versions that leads nowhere"))
                }
                Some(_) => Ok(page),
                None => Err(Failure::wrong_answer("versions that may not be all of them")),
            }
        };
        self.call(Operation::ListVersions, PAGE_BYTES, attempt).await
    }

    fn read_page(&self, prefix: &str, page: &ListObjectVersionsOutput) -> Outcome<VersionPage> {
        // What pgkeep did not put may have any name.
        let key = |name: Option<&str>| {
            let own = self.own_name(name?).filter(|own| own.starts_with(prefix))?;
            ObjectKey::new(own).ok()
        };
        let mut versions = Vec::new();
        for version in page.versions().iter().filter(|version| version.is_latest() != Some(true)) {
            let Some(key) = key(version.key()) else { continue };
            let size = version.size().and_then(|size| u64::try_from(size).ok());
            let (Some(id), Some(size)) = (version.version_id(), size) else {
                return Err(Failure::wrong_answer("a version without an id or size"));
            };
            versions.push(Version {
                key,
                id: id.to_owned(),
                size,
                class: Some(class_named(version.storage_class().map(|class| class.as_str()))),
                stored: version.last_modified().and_then(moment),
                is_marker: false,
            });
        }
        for marker in page.delete_markers() {
            let Some(key) = key(marker.key()) else { continue };
            let id = marker.version_id().map(str::to_owned);
            let id = id.ok_or_else(|| Failure::wrong_answer("a marker without an id"))?;
            let stored = marker.last_modified().and_then(moment);
            versions.push(Version { key, id, size: 0, class: None, stored, is_marker: true });
        }
        // Versions and markers come in two lists. Of one second the marker is the later one, as a rule.
        versions.sort_by(|a, b| {
            let newest_first = b.stored.cmp(&a.stored).then(b.is_marker.cmp(&a.is_marker));
            a.key.cmp(&b.key).then(newest_first)
        });
        let next = page.next_key_marker().filter(|_| page.is_truncated() == Some(true));
        let next = next.map(|key| VersionMark {
            key: key.to_owned(),
            id: page.next_version_id_marker().map(str::to_owned),
        });
        Ok(VersionPage { versions, next })
    }

    pub(super) async fn delete_version(&self, key: &ObjectKey, id: &str) -> Outcome<Removal> {
        let name = self.name(key.as_str());
        let attempt = async |_| {
            let request = self.client().delete_object().bucket(&self.options.bucket).key(&name);
            let request = request.version_id(id).set_request_payer(self.payer());
            request.send().await.map(drop).map_err(Failure::of)
        };
        let failure = match self.call(Operation::DeleteVersion, 0, attempt).await {
            Ok(()) => return Ok(Removal::Gone),
            Err(failure) if failure.meaning == Meaning::NoSuchKey => return Ok(Removal::Gone),
            Err(failure) if failure.says("NoSuchVersion") => return Ok(Removal::Gone),
            Err(failure) => failure,
        };
        // A missing right and a lock are refused by the same code.
        if failure.meaning == Meaning::Forbidden
            && let Some(until) = self.lock_of_version(key, id).await
            && until > self.now()
        {
            return Ok(Removal::Locked(until));
        }
        Err(failure)
    }

    /// Until when a version is locked, where that is told.
    async fn lock_of_version(&self, key: &ObjectKey, id: &str) -> Option<Timestamp> {
        let name = self.name(key.as_str());
        let attempt = async |_| {
            let request = self.client().head_object().bucket(&self.options.bucket).key(&name);
            let request = request.version_id(id).set_request_payer(self.payer());
            request.send().await.map_err(Failure::of)
        };
        let head = self.call(Operation::Head, 0, attempt).await.ok()?;
        head.object_lock_retain_until_date().and_then(moment)
    }
}
