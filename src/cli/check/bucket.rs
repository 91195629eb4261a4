//! What `check` says of a bucket: region, versions, locks, clock, and what the credentials may do.
//!
//! Nothing is stored or removed: see [`crate::storage::s3::Rights`].

use super::findings::Findings;
use crate::base::{entropy, hex};
use crate::cli::invocation::Invocation;
use crate::cli::output::duration;
use crate::config::RepositorySettings;
use crate::pgconn::ServerFacts;
use crate::repo::layout;
use crate::storage::s3::{BucketFacts, Rights};
use crate::storage::{self, LockRule};
use crate::wiring;

/// Clocks that differ by more make the age of leftovers doubtful.
const SKEW_SECONDS: u64 = 60;

const CREDENTIALS: &str = "credentials";

/// Looks at the bucket; nothing when nothing more can come of it.
pub fn look(
    run: &Invocation,
    settings: &RepositorySettings,
    server: Option<&ServerFacts>,
    findings: &mut Findings,
) -> Option<Rights> {
    let bucket = match wiring::bucket(&run.ctx, settings) {
        Ok(bucket) => bucket,
        Err(error) => {
            findings.failure("bucket", error.into());
            return None;
        }
    };
    // A mismatch is said in the words of the refusal that init gives.
    let facts = bucket.require_region().and_then(|_| bucket.bucket_facts());
    let is_versioned = match facts {
        Ok(facts) => {
            place(bucket.options().region.as_deref(), &facts, findings);
            locks(bucket.options().lock.as_ref(), &facts, findings);
            facts.is_versioned
        }
        Err(error) => {
            findings.failure("bucket", error.into());
            return None;
        }
    };
    let rules = bucket.lifecycle_rules();
    super::lifecycle::look(settings, rules, is_versioned, findings);
    let random = hex::encode(&entropy::random::<16>(run.ctx.entropy.as_ref()));
    match bucket.rights(&layout::descriptor(), &layout::probe(&random)) {
        Ok(rights) => {
            role(&rights, archives(server), findings);
            clock(rights.clock_ahead, findings);
            Some(rights)
        }
        Err(error) => {
            findings.failure(CREDENTIALS, error.into());
            None
        }
    }
}

/// Whether this host's server is to put WAL there.
fn archives(server: Option<&ServerFacts>) -> bool {
    server.is_some_and(|facts| match facts.archive_mode.as_str() {
        "always" => true,
        "off" => false,
        _ => !facts.in_recovery,
    })
}

fn place(configured: Option<&str>, facts: &BucketFacts, findings: &mut Findings) {
    match (configured, facts.region.as_deref()) {
        (Some(region), Some(_)) => {
            findings.ok("region", format!("the bucket is in {region}, as configured"));
        }
        (None, Some(region)) => findings.ok(
            "region",
            format!("the bucket is in {region}; no region is configured, so any is accepted"),
        ),
        (Some(region), None) => findings.warn(
            "region",
            format!("the service does not tell where the bucket is: {region} is not proven"),
            "Allow s3:GetBucketLocation on the bucket, if the data must stay in that region.",
        ),
        (None, None) => findings.ok("region", "not told by the service, and none is configured"),
    }
    findings.ok(
        "versions",
        match facts.is_versioned {
            Some(true) => {
                "kept: what is deleted stays as an older version until a lifecycle rule ends it"
            }
            Some(false) => "not kept: what is deleted is gone",
            None => "not told by the service to these credentials",
        },
    );
}

/// Whether what is configured can be done, and whether what the bucket does is what is meant.
fn locks(rule: Option<&LockRule>, facts: &BucketFacts, findings: &mut Findings) {
    const CHECK: &str = "object lock";
    let days = rule.map(|rule| rule.duration.as_secs() / 86_400);
    match (days, facts.has_locks) {
        (Some(days), Some(true)) => findings.ok(
            CHECK,
            format!("on: what pgkeep puts is locked for {days} days, and expire extends that of what is kept"),
        ),
        (Some(days), Some(false)) => findings.fail(
            CHECK,
            format!("lock_days = {days} is configured, and the bucket has no Object Lock: nothing can be put"),
            "Turn Object Lock on for the bucket (it needs versioning), or take lock_days out.",
        ),
        (Some(days), None) => findings.warn(
            CHECK,
            format!("lock_days = {days}, and the service does not tell whether the bucket has Object Lock"),
            "Allow s3:GetBucketObjectLockConfiguration on the bucket.",
        ),
        (None, Some(true)) if facts.locks_by_default => findings.warn(
            CHECK,
            "the bucket locks what is put by its default, and no lock_days is configured: what expire removes stays \
             as hidden versions, leases too, and no lock is extended",
            "Write lock_days for this repository, or take the bucket's default retention out.",
        ),
        (None, Some(true)) => {
            findings.ok(CHECK, "on, and not used: no lock_days is configured, so nothing is locked");
        }
        (None, Some(false)) => findings.ok(CHECK, "off"),
        (None, None) => findings.ok(CHECK, "not told by the service to these credentials"),
    }
}

/// Which of the three roles of docs/s3.md the credentials have.
fn role(rights: &Rights, archives: bool, findings: &mut Findings) {
    let missing = [
        (rights.may_list, "s3:ListBucket on the bucket: without it absence is not proven"),
        (rights.may_read, "s3:GetObject on its objects"),
    ];
    for (right, action) in missing {
        if right == Some(false) {
            let todo = format!("Allow {action}; docs/s3.md has whole policies.");
            findings.fail(
                CREDENTIALS,
                format!("they lack {}", action.split(' ').next().unwrap_or(action)),
                todo,
            );
        }
    }
    if [rights.may_list, rights.may_read].contains(&Some(false)) {
        return;
    }
    let deletes = match rights.may_delete {
        Some(true) => "delete",
        Some(false) => "not delete",
        None => "delete or not, which cannot be tried without leaving a mark",
    };
    let is_expirer = rights.may_delete.or(rights.may_list_uploads);
    match (rights.may_put_new, rights.may_replace, is_expirer) {
        (Some(false), Some(false), _) if rights.may_delete != Some(true) => reader(deletes, archives, findings),
        (Some(true), Some(false), _) if rights.may_delete != Some(true) => {
            findings.ok(
                CREDENTIALS,
                format!("writer: they may read, put new objects, not replace any, and {deletes}"),
            );
            if rights.may_abort == Some(false) {
                let todo = "Allow s3:AbortMultipartUpload on its objects: otherwise `pgkeep expire` \
                            has to clean up.";
                findings.warn(CREDENTIALS, "a failed upload cannot be aborted, and is paid for", todo);
            }
        }
        (Some(true), Some(true), Some(true)) => findings.ok(
            CREDENTIALS,
            format!(
                "expirer: they may read, put and replace objects, and {deletes}: whoever takes this \
                 host can remove the backups"
            ),
        ),
        _ => others(rights, deletes, findings),
    }
}

fn reader(deletes: &str, archives: bool, findings: &mut Findings) {
    let found = format!("reader: they may read, not put, and {deletes}");
    if archives {
        let todo = "This host's server archives: give it the writer's policy of docs/s3.md.";
        findings.fail(CREDENTIALS, found, todo);
    } else {
        findings.ok(CREDENTIALS, found);
    }
}

/// None of the three, or not known which: each right by itself.
fn others(rights: &Rights, deletes: &str, findings: &mut Findings) {
    let told = |right, what: &str| match right {
        Some(true) => what.to_owned(),
        Some(false) => format!("not {what}"),
        None => format!("{what} or not (not told)"),
    };
    let read = told(rights.may_read, "read");
    let put = told(rights.may_put_new, "put new objects");
    let replace = told(rights.may_replace, "replace objects");
    let rest = format!("they may {read}, {put}, {replace}, and {deletes}");
    let is_known =
        [rights.may_read, rights.may_put_new, rights.may_replace, rights.may_list_uploads];
    if is_known.contains(&None) {
        return findings.ok(CREDENTIALS, format!("their role is not known: {rest}"));
    }
    let todo = "Compare with the policies in docs/s3.md.";
    findings.warn(CREDENTIALS, format!("none of the three roles: {rest}"), todo);
}

fn clock(ahead: Option<i64>, findings: &mut Findings) {
    const CHECK: &str = "service clock";
    let Some(ahead) = ahead else { return };
    let (seconds, side) = (ahead.unsigned_abs(), if ahead > 0 { "ahead of" } else { "behind" });
    if seconds > SKEW_SECONDS {
        let found = format!("this host is {} {side} the service", duration(seconds));
        let todo = "Set the clock: from some minutes on the service refuses every request.";
        findings.warn(CHECK, found, todo);
    } else {
        findings.ok(CHECK, "the service's agrees with this host's");
    }
}

/// What the store was found to do with conditions when the repository was made.
pub fn conditions(conditional_put: bool, rights: &Rights, findings: &mut Findings) {
    const CHECK: &str = "conditional puts";
    if conditional_put {
        return findings.ok(CHECK, "honoured, as init found");
    }
    if rights.may_put_new == Some(true) && rights.may_replace == Some(false) {
        let found = "ignored by the server, as init found, and these credentials may put nothing without one";
        let todo =
            "Claims need puts without a condition: take the Deny out of the writer's policy.";
        return findings.fail(CHECK, found, todo);
    }
    findings.warn(
        CHECK,
        "ignored by the server, as init found: first write wins by claims, three requests a segment, \
         and no policy keeps a writer from replacing objects",
        "Nothing is unsafe. A repository on a server that honours If-None-Match costs one request a \
         segment.",
    );
}

/// Uploads that nobody finished, or temporary files.
pub fn leftovers(run: &Invocation, store: &dyn storage::ObjectStore, findings: &mut Findings) {
    const CHECK: &str = "leftovers";
    match store.unfinished() {
        Ok(found) => {
            let plan = crate::retention::plan(found, run.ctx.clock.now());
            match plan.leftovers.first() {
                None => findings.ok(CHECK, "none that is older than a day"),
                Some(oldest) => findings.warn(
                    CHECK,
                    format!(
                        "{} begun more than a day ago and not finished, the oldest is {}",
                        plan.leftovers.len(),
                        oldest.name
                    ),
                    "Run pgkeep expire: they take room, and are paid for.",
                ),
            }
        }
        Err(storage::Error::Forbidden { action, .. }) => findings.ok(
            CHECK,
            format!(
                "not known: these credentials may not list uploads ({action}); an expirer's may"
            ),
        ),
        Err(storage::Error::Unsupported { .. }) => {
            findings.ok(CHECK, "not known: the service does not list uploads");
        }
        Err(error) => findings.failure(CHECK, error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::findings::Level;
    use super::*;

    const WRITER: Rights = Rights {
        may_list: Some(true),
        may_read: Some(true),
        may_put_new: Some(true),
        may_replace: Some(false),
        may_delete: Some(false),
        may_abort: Some(true),
        may_list_uploads: Some(false),
        clock_ahead: None,
    };

    /// The worst level, and the first finding.
    fn told(rights: &Rights, archives: bool) -> (Level, String) {
        let mut findings = Findings::default();
        role(rights, archives, &mut findings);
        let worst = findings.list.iter().map(|finding| finding.level).max().unwrap();
        (worst, findings.list.swap_remove(0).found)
    }

    #[test]
    fn roles_are_told_by_what_was_tried() {
        let reader = Rights { may_put_new: Some(false), may_abort: Some(false), ..WRITER };
        let all = Rights {
            may_replace: Some(true),
            may_delete: Some(true),
            may_list_uploads: Some(true),
            ..WRITER
        };
        for (rights, archives, level, role) in [
            (WRITER, true, Level::Ok, "writer: "),
            (Rights { may_delete: None, ..WRITER }, true, Level::Ok, "writer: "),
            (Rights { may_abort: Some(false), ..WRITER }, true, Level::Warn, "writer: "),
            (reader.clone(), false, Level::Ok, "reader: "),
            (reader, true, Level::Fail, "reader: "),
            (all.clone(), true, Level::Ok, "expirer: "),
            (Rights { may_delete: None, ..all.clone() }, true, Level::Ok, "expirer: "),
            (Rights { may_delete: Some(true), ..WRITER }, true, Level::Warn, "none of the three "),
            (Rights { may_delete: Some(false), ..all }, true, Level::Warn, "none of the three "),
            (Rights { may_list: Some(false), ..WRITER }, true, Level::Fail, "they lack s3:List"),
        ] {
            let (told, found) = told(&rights, archives);
            assert_eq!(told, level, "{found}");
            assert!(found.starts_with(role), "{role}: {found}");
        }
    }

    #[test]
    fn f088_locks_that_are_meant_and_cannot_be_set_are_a_failure() {
        use crate::storage::LockMode;
        let rule = LockRule::new(LockMode::Governance, std::time::Duration::from_hours(24 * 30));
        for (rule, has_locks, locks_by_default, level, what) in [
            (Some(&rule), Some(true), false, Level::Ok, "locked for 30 days"),
            (Some(&rule), Some(false), false, Level::Fail, "has no Object Lock"),
            (Some(&rule), None, false, Level::Warn, "does not tell"),
            (None, Some(true), true, Level::Warn, "by its default"),
            (None, Some(true), false, Level::Ok, "nothing is locked"),
            (None, Some(false), false, Level::Ok, "off"),
        ] {
            let facts = BucketFacts { has_locks, locks_by_default, ..BucketFacts::default() };
            let mut findings = Findings::default();
            locks(rule, &facts, &mut findings);
            let told = findings.list.remove(0);
            assert!(told.level == level && told.found.contains(what), "{}", told.found);
        }
    }

    #[test]
    fn what_is_not_known_is_no_role() {
        let silent = Rights { may_put_new: None, may_replace: None, ..WRITER };
        let (level, found) = told(&silent, true);
        assert!(level == Level::Ok && found.starts_with("their role is not known"), "{found}");
        assert!(found.contains("put new objects or not (not told)"), "{found}");
    }
}
