//! The bucket: keys with their versions, and what lists showed when. Everything here happens under
//! the one lock of [`super::service::Service`].

use std::collections::BTreeMap;
use std::ops::Bound;
use std::time::Duration;

use s3s::dto::ETagCondition;
use s3s::{S3Result, s3_error};
use time::OffsetDateTime;

use super::object::{Object, Version};
use super::refusals;
use super::uploads::Uploads;

/// The version id of what is stored without versioning.
const NULL_VERSION: &str = "null";

/// How this bucket differs from a plain one of Amazon's.
#[derive(Clone, Debug, Default)]
pub struct Rules {
    pub is_versioned: bool,
    pub has_object_lock: bool,
    /// Mode and days that every new version gets.
    pub default_retention: Option<(String, i32)>,
    pub ignores_conditions: bool,
    /// Looks at the condition, and stores a while later whatever came meanwhile.
    pub loses_races: bool,
    pub stale_lists: u64,
    /// What is told of the bucket's lifecycle; nothing is done by it.
    pub lifecycle: Vec<s3s::dto::LifecycleRule>,
    pub part_bytes_min: usize,
}

/// What a list tells of an object.
#[derive(Clone)]
pub struct Listed {
    pub etag: String,
    pub size: usize,
    pub modified: OffsetDateTime,
    pub storage_class: String,
}

#[derive(Default)]
pub struct Bucket {
    pub rules: Rules,
    pub uploads: Uploads,
    keys: BTreeMap<String, Vec<Version>>,
    /// Per key what was current since which list, so that a list can show the past.
    shown: BTreeMap<String, Vec<(u64, Option<Listed>)>>,
    lists: u64,
    versions: u64,
    /// How far the bucket's clock is ahead, for retention and thawed copies.
    pub ahead: Duration,
}

#[derive(Default)]
pub struct Deleted {
    pub is_marker: bool,
    pub version_id: Option<String>,
}

pub struct Page {
    pub objects: Vec<(String, Listed)>,
    pub is_truncated: bool,
}

impl Bucket {
    pub fn new(rules: Rules) -> Bucket {
        Bucket { rules, ..Bucket::default() }
    }

    pub fn now(&self) -> OffsetDateTime {
        OffsetDateTime::now_utc() + self.ahead
    }

    /// The object that a plain GET of the key would find.
    pub fn current(&self, key: &str) -> Option<&Object> {
        self.keys.get(key)?.last()?.object.as_ref()
    }

    pub fn find(&self, key: &str, version_id: Option<&str>) -> S3Result<(&Version, &Object)> {
        let versions = self.keys.get(key).map(Vec::as_slice).unwrap_or_default();
        let version = match version_id {
            None => versions.last().ok_or_else(|| s3_error!(NoSuchKey))?,
            Some(id) => versions
                .iter()
                .find(|version| version.id == id)
                .ok_or_else(|| s3_error!(NoSuchVersion))?,
        };
        match &version.object {
            Some(object) => Ok((version, object)),
            None => Err(refusals::delete_marker(version_id.is_some())),
        }
    }

    pub fn find_mut(&mut self, key: &str, version_id: Option<&str>) -> S3Result<&mut Object> {
        let id = self.find(key, version_id)?.0.id.clone();
        let versions = self.keys.get_mut(key).ok_or_else(|| s3_error!(NoSuchKey))?;
        let version = versions.iter_mut().find(|version| version.id == id);
        let object = version.and_then(|version| version.object.as_mut());
        object.ok_or_else(|| s3_error!(NoSuchVersion))
    }

    /// Whether this key may be written under these conditions; Amazon knows `If-None-Match: *` and
    /// `If-Match` with an ETag, and refuses others.
    pub fn check_write(
        &self,
        key: &str,
        if_none_match: Option<&ETagCondition>,
        if_match: Option<&ETagCondition>,
    ) -> S3Result<()> {
        if if_none_match.is_some_and(|condition| !condition.is_any()) {
            return Err(s3_error!(NotImplemented, "If-None-Match with an ETag"));
        }
        if self.rules.ignores_conditions {
            return Ok(());
        }
        match (self.current(key), if_none_match, if_match) {
            (Some(_), Some(_), _) => Err(refusals::precondition_failed()),
            (None, _, Some(_)) => Err(s3_error!(NoSuchKey)),
            (Some(object), _, Some(condition)) if !object.is_match(condition) => {
                Err(refusals::precondition_failed())
            }
            _ => Ok(()),
        }
    }

    /// Stores an object and returns its version id, where the bucket has versions.
    pub fn put(&mut self, key: &str, object: Object) -> Option<String> {
        let id = self.next_version_id();
        let version = Version { id: id.clone(), modified: self.now(), object: Some(object) };
        let versions = self.keys.entry(key.to_owned()).or_default();
        if !self.rules.is_versioned {
            versions.clear();
        }
        versions.push(version);
        self.note_shown(key);
        self.rules.is_versioned.then_some(id)
    }

    pub fn delete(
        &mut self,
        key: &str,
        version_id: Option<&str>,
        bypasses_governance: bool,
    ) -> S3Result<Deleted> {
        let deleted = match version_id {
            Some(id) => self.delete_version(key, id, bypasses_governance)?,
            None if self.rules.is_versioned => self.put_marker(key),
            None => {
                self.keys.remove(key);
                Deleted::default()
            }
        };
        self.note_shown(key);
        Ok(deleted)
    }

    fn put_marker(&mut self, key: &str) -> Deleted {
        let id = self.next_version_id();
        let marker = Version { id: id.clone(), modified: self.now(), object: None };
        self.keys.entry(key.to_owned()).or_default().push(marker);
        Deleted { is_marker: true, version_id: Some(id) }
    }

    fn delete_version(&mut self, key: &str, id: &str, bypasses: bool) -> S3Result<Deleted> {
        let now = self.now();
        let mut deleted = Deleted { is_marker: false, version_id: Some(id.to_owned()) };
        let Some(versions) = self.keys.get_mut(key) else { return Ok(deleted) };
        let Some(at) = versions.iter().position(|version| version.id == id) else {
            return Ok(deleted);
        };
        let object = versions[at].object.as_ref();
        let retention = object.filter(|object| object.is_retained(now));
        if let Some(retention) = retention.and_then(|object| object.retention.as_ref())
            && !(bypasses && retention.mode == "GOVERNANCE")
        {
            return Err(s3_error!(AccessDenied, "the version is under object lock"));
        }
        deleted.is_marker = versions.remove(at).object.is_none();
        if versions.is_empty() {
            self.keys.remove(key);
        }
        Ok(deleted)
    }

    /// Without regard to locks and versions, as a fault of the storage would: key and all.
    pub fn lose(&mut self, key: &str) -> bool {
        let was_there = self.keys.remove(key).is_some();
        self.note_shown(key);
        was_there
    }

    fn next_version_id(&mut self) -> String {
        if !self.rules.is_versioned {
            return NULL_VERSION.to_owned();
        }
        self.versions += 1;
        format!("version{:08}", self.versions)
    }

    /// To be called when the current object of a key may have changed.
    pub fn note_shown(&mut self, key: &str) {
        let versions = self.keys.get(key);
        let listed = versions.and_then(|versions| versions.last()).and_then(|version| {
            let object = version.object.as_ref()?;
            Some(Listed {
                etag: object.etag.clone(),
                size: object.body.len(),
                modified: version.modified,
                storage_class: object.storage_class.clone(),
            })
        });
        self.shown.entry(key.to_owned()).or_default().push((self.lists, listed));
    }

    /// The objects behind `after` as they were `stale_by` lists ago.
    pub fn list(&mut self, prefix: &str, after: &str, keys_max: usize, stale_by: u64) -> Page {
        let now = self.lists;
        self.lists += 1;
        let start = match after < prefix {
            true => Bound::Included(prefix),
            false => Bound::Excluded(after),
        };
        let past = |history: &[(u64, Option<Listed>)]| {
            let then = history.iter().rev().find(|(since, _)| since + stale_by <= now);
            then.and_then(|(_, listed)| listed.clone())
        };
        let mut found = self
            .shown
            .range::<str, _>((start, Bound::Unbounded))
            .take_while(|(key, _)| key.starts_with(prefix))
            .filter_map(|(key, history)| Some((key.clone(), past(history)?)));
        let objects: Vec<_> = found.by_ref().take(keys_max).collect();
        let is_truncated = found.next().is_some() && keys_max > 0;
        Page { objects, is_truncated }
    }

    /// Every key with every version, markers too, newest first within a key.
    pub fn versions(&self) -> impl Iterator<Item = (&String, &Version, bool)> {
        self.keys.iter().flat_map(|(key, versions)| {
            let newest = versions.len().saturating_sub(1);
            let numbered = versions.iter().enumerate().rev();
            numbered.map(move |(at, version)| (key, version, at == newest))
        })
    }

    pub fn objects_mut(&mut self) -> impl Iterator<Item = (&String, &mut Version)> {
        self.keys
            .iter_mut()
            .flat_map(|(key, versions)| versions.iter_mut().map(move |version| (key, version)))
    }

    pub fn current_keys(&self) -> Vec<String> {
        let is_there = |key: &&String| self.current(key).is_some();
        self.keys.keys().filter(is_there).cloned().collect()
    }
}
