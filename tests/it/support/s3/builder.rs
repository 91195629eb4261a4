//! What a server is like, said before it starts.

use std::sync::Arc;
use std::time::Duration;

use s3s::dto::{
    ExpirationStatus, LifecycleExpiration, LifecycleRule, LifecycleRuleFilter, Transition,
    TransitionStorageClass,
};

use super::accounts::{Accounts, Asked};
use super::bucket::Rules;
use super::server::TestS3;

/// Amazon's, for all parts but the last.
const PART_BYTES_MIN: usize = 5 << 20;
pub const OWNER: &str = "owner";

pub struct S3Builder {
    pub(super) bucket: String,
    pub(super) region: String,
    pub(super) rules: Rules,
    pub(super) accounts: Accounts,
    pub(super) latency: Duration,
    pub(super) rejects_checksums: bool,
    pub(super) has_tls: bool,
}

impl S3Builder {
    pub(super) fn new() -> S3Builder {
        let mut accounts = Accounts::default();
        accounts.add(OWNER, Arc::new(|_: &Asked<'_>| true));
        S3Builder {
            bucket: "backups".to_owned(),
            region: "us-east-1".to_owned(),
            rules: Rules { part_bytes_min: PART_BYTES_MIN, ..Rules::default() },
            accounts,
            latency: Duration::ZERO,
            rejects_checksums: false,
            has_tls: false,
        }
    }

    pub fn bucket(mut self, name: &str) -> Self {
        self.bucket = name.to_owned();
        self
    }

    /// Requests that are signed for another one are refused with the name of this one.
    pub fn region(mut self, name: &str) -> Self {
        self.region = name.to_owned();
        self
    }

    /// Accepts `If-None-Match` and ignores it, like garage.
    pub fn ignores_conditions(mut self) -> Self {
        self.rules.ignores_conditions = true;
        self
    }

    /// Honours `If-None-Match` but for writers that come at the same time.
    pub fn loses_races(mut self) -> Self {
        self.rules.loses_races = true;
        self
    }

    pub fn versioned(mut self) -> Self {
        self.rules.is_versioned = true;
        self
    }

    /// Object lock without a default; such a bucket is versioned.
    pub fn object_lock(mut self) -> Self {
        self.rules.has_object_lock = true;
        self.versioned()
    }

    /// Object lock by which every new version is retained: `GOVERNANCE` or `COMPLIANCE`.
    pub fn default_retention(mut self, mode: &str, days: i32) -> Self {
        self.rules.default_retention = Some((mode.to_owned(), days));
        self.object_lock()
    }

    /// Answers 501 to writes with checksum headers, like compatibles of before 2025.
    pub fn rejects_checksums(mut self) -> Self {
        self.rejects_checksums = true;
        self
    }

    /// Lists show what was there so many lists ago, new objects and deleted ones alike.
    pub fn stale_lists(mut self, lists: u64) -> Self {
        self.rules.stale_lists = lists;
        self
    }

    /// Tells of a rule for names that begin so: it ends current objects, or moves them to a class. No rule is
    /// followed.
    pub fn lifecycle_rule(mut self, prefix: &str, class: Option<&'static str>) -> Self {
        let transition = |class: &'static str| Transition {
            storage_class: Some(TransitionStorageClass::from_static(class)),
            days: Some(30),
            ..Transition::default()
        };
        let ends = LifecycleExpiration { days: Some(30), ..LifecycleExpiration::default() };
        self.rules.lifecycle.push(LifecycleRule {
            id: Some(format!("rule-{}", self.rules.lifecycle.len())),
            filter: Some(LifecycleRuleFilter {
                prefix: Some(prefix.to_owned()),
                ..LifecycleRuleFilter::default()
            }),
            status: ExpirationStatus::from_static(ExpirationStatus::ENABLED),
            transitions: class.map(|class| vec![transition(class)]),
            expiration: class.is_none().then_some(ends),
            abort_incomplete_multipart_upload: None,
            noncurrent_version_expiration: None,
            noncurrent_version_transitions: None,
            prefix: None,
        });
        self
    }

    /// Takes parts of any size, so that a test of many parts stays small.
    pub fn small_parts(mut self) -> Self {
        self.rules.part_bytes_min = 0;
        self
    }

    /// Over TLS with HTTP/2, by a certificate that nobody trusts yet: [`TestS3::certificate`].
    pub fn tls(mut self) -> Self {
        self.has_tls = true;
        self
    }

    /// Before anything else is done with a request.
    pub fn latency(mut self, latency: Duration) -> Self {
        self.latency = latency;
        self
    }

    /// A further account and what it may do; [`TestS3::account`] gives its keys.
    pub fn account(
        mut self,
        name: &str,
        policy: impl Fn(&Asked<'_>) -> bool + Send + Sync + 'static,
    ) -> Self {
        self.accounts.add(name, Arc::new(policy));
        self
    }

    pub fn start(self) -> TestS3 {
        TestS3::serving(self)
    }
}
