//! What deletions have only hidden: in a bucket with locks each leaves the object as an older version, which is paid for
//! until somebody removes it for good. Expiry removes what it has decided to remove, and what processes took away
//! that is of no worth: by the record of expiry, and by names, so that what a crash left hidden is found again.
//!
//! Nothing else is touched: what somebody else hid, or what is hidden behind an object that is there, can be brought back.
//! Of a name the markers go last: without them, what they hide would be there again.

use std::collections::{BTreeMap, BTreeSet};

use crate::base::{Ctx, Timestamp, side_by_side};
use crate::pg::ArchivedWal;
use crate::repo::{BackupId, Error, KeptUp, Repository, Result, Scope, layout};
use crate::retention::expire::PlacePlan;
use crate::retention::freed::Freed;
use crate::retention::removal::is_of_given_up;
use crate::storage::{self, LockRule, ObjectKey, ObjectStore, Version};

/// Of a backup, and named by it.
const OF_BACKUPS: [&str; 7] = ["begin", "backup", "files", "data", "meta", "hash", "pin"];

/// Named by a segment.
const OF_WAL: [&str; 4] = ["wal", "label", "partial", "sum/found"];

/// Derived: what is hidden of it was replaced.
const DERIVED: [&str; 3] = ["sum/backups", "sum/wal", "sum/locks"];

/// Hidden versions that expiry may remove for good.
#[derive(Debug, Clone, Default)]
pub struct Hidden {
    /// By name, of each the newest first, whose locks have ended.
    removable: BTreeMap<ObjectKey, Vec<Version>>,
    /// How many are locked still, and the last moment at which one may be.
    pub locked: (u64, Option<Timestamp>),
    /// Backups and attempts of which something is hidden.
    pub(in crate::retention) ids: BTreeSet<BackupId>,
}

impl Hidden {
    /// How many can be removed, and their bytes.
    #[must_use]
    pub fn removable(&self) -> (u64, u64) {
        let versions = self.removable.values().flatten().filter(|version| !version.is_marker);
        versions.fold((0, 0), |(count, bytes), version| (count + 1, bytes + version.size))
    }

    /// Whether nothing is hidden, markers included.
    pub(in crate::retention) fn is_empty(&self) -> bool {
        self.removable.is_empty()
    }

    fn add(&mut self, rule: &LockRule, now: Timestamp, of_name: Vec<Version>) {
        let versions = of_name.iter().filter(|version| !version.is_marker);
        let locks =
            versions.filter_map(|version| rule.until(version.key.as_str(), version.stored?));
        match locks.max().filter(|until| *until > now) {
            Some(until) => {
                let count = of_name.iter().filter(|version| !version.is_marker).count() as u64;
                self.locked = (self.locked.0 + count, self.locked.1.max(Some(until)));
            }
            None => {
                if let Some(first) = of_name.first() {
                    self.removable.insert(first.key.clone(), of_name);
                }
            }
        }
    }
}

/// Finds what is hidden and was given up. Lists the versions of a place; changes nothing.
///
/// # Errors
/// As the store's.
pub(in crate::retention) fn find_hidden(
    ctx: &Ctx,
    repository: &Repository,
    plan: &PlacePlan,
) -> Result<Hidden> {
    let store = repository.store();
    let Some(rule) = store.lock_rule() else { return Ok(Hidden::default()) };
    let (place, size) = (&plan.gathered.place, plan.gathered.segment_size());
    let below = |family: &str| place.family_prefix(family);
    let given_up = GivenUp::of(plan, size);
    // Of a place where nothing was given up yet there is nothing to look for.
    let is_of_backups = !(given_up.removed.is_empty() && given_up.swept.is_empty());
    let is_of_wal = given_up.expired.stretches().next().is_some();
    let families = OF_BACKUPS.into_iter().filter(|_| is_of_backups);
    let families = families.chain(OF_WAL.into_iter().filter(|_| is_of_wal));
    let families = families.chain(DERIVED).chain(["keep"]).map(below);
    let scopes = [Scope::Backup, Scope::Expire, Scope::Tier, Scope::Use];
    let leases = scopes.map(|scope| layout::leases_prefix(scope.name(), place.cluster()));
    let of_init = [layout::INIT_LEASES_PREFIX, "probe/"].map(str::to_owned);
    let prefixes: Vec<String> = families.chain(leases).chain(of_init).collect();
    let listed = side_by_side(&prefixes, |prefix| {
        ctx.cancel.check()?;
        Ok::<_, Error>(storage::list_versions(store.as_ref(), prefix)?)
    })?;
    let (mut hidden, now) = (Hidden::default(), ctx.clock.now());
    for versions in listed {
        for of_name in versions.chunk_by(|a, b| a.key == b.key) {
            let Some(key) = of_name.first().map(|version| &version.key) else { continue };
            if given_up.has(key) {
                hidden.ids.extend(given_up.id_of(key));
                hidden.add(&rule, now, of_name.to_vec());
            }
        }
    }
    // Whatever is hidden of a manifest was complete once: somebody may want it back.
    let given_back = given_up.manifests_of_attempts(repository, &hidden)?;
    hidden.ids.retain(|id| !given_back.contains(id));
    hidden
        .removable
        .retain(|key, _| given_up.id_of(key).is_none_or(|id| !given_back.contains(&id)));
    Ok(hidden)
}

/// What was given up, by the newest record of expiry.
struct GivenUp<'a> {
    plan: &'a PlacePlan,
    /// What the names in the place begin with.
    prefix: String,
    removed: BTreeSet<&'a BackupId>,
    swept: BTreeSet<&'a BackupId>,
    expired: ArchivedWal,
    kept: ArchivedWal,
}

impl<'a> GivenUp<'a> {
    fn of(plan: &'a PlacePlan, size: crate::pg::SegmentSize) -> Self {
        let keep = plan.gathered.kept.newest.as_ref();
        let complete: BTreeSet<&BackupId> =
            plan.gathered.backups.complete.iter().map(|backup| &backup.id).collect();
        let is_kept = |id: &BackupId| {
            complete.contains(id) && plan.decision.reasons(id).is_some_and(|why| !why.is_empty())
        };
        let gone = |ids: Option<&'a BTreeSet<BackupId>>| {
            ids.into_iter().flatten().filter(|id| !is_kept(id)).collect::<BTreeSet<_>>()
        };
        Self {
            plan,
            prefix: plan.gathered.place.prefix(),
            removed: gone(keep.map(|keep| &keep.removed)),
            swept: gone(keep.map(|keep| &keep.swept)),
            expired: keep.map_or_else(|| ArchivedWal::new(size), |keep| keep.expired_wal(size)),
            kept: plan.decision.kept_wal(size),
        }
    }

    /// Whether what is hidden under a name was given up.
    fn has(&self, key: &ObjectKey) -> bool {
        let name = key.as_str();
        let Some(inner) = name.strip_prefix(&self.prefix) else {
            // Leases and probes: whoever took them away needed them no more.
            return true;
        };
        if let Some(id) = self.id_of(key) {
            return self.removed.contains(&id) || self.swept.contains(&id);
        }
        let is = |families: &[&str]| {
            families
                .iter()
                .any(|family| inner.strip_prefix(family).is_some_and(|rest| rest.starts_with('/')))
        };
        let gathered = &self.plan.gathered;
        if is(&OF_WAL) {
            is_of_given_up(key, &self.expired, &self.kept, &gathered.facts.wal)
        } else if is(&["keep"]) {
            let number = gathered.place.keep_of(key);
            number.zip(gathered.kept.numbers.first()).is_some_and(|(own, first)| own < *first)
        } else {
            is(&DERIVED)
        }
    }

    /// The backup that an object is of, by its name.
    fn id_of(&self, key: &ObjectKey) -> Option<BackupId> {
        let (family, rest) = key.as_str().strip_prefix(&self.prefix)?.split_once('/')?;
        OF_BACKUPS.contains(&family).then_some(())?;
        rest.split(['/', '.']).next()?.parse().ok()
    }

    /// Attempts, as it seems, of which a manifest is hidden: somebody removed it, and not expiry.
    fn manifests_of_attempts(
        &self,
        repository: &Repository,
        hidden: &Hidden,
    ) -> Result<BTreeSet<BackupId>> {
        let mut found = BTreeSet::new();
        for id in hidden.ids.iter().filter(|id| !self.removed.contains(id)) {
            let manifest = self.plan.gathered.place.manifest(id);
            let versions = storage::list_versions(repository.store().as_ref(), manifest.as_str())?;
            let is_manifest = |version: &Version| version.key == manifest && !version.is_marker;
            if versions.iter().any(is_manifest) {
                found.insert(id.clone());
            }
        }
        Ok(found)
    }
}

/// Removes for good what is hidden and was given up, where no lock holds it.
///
/// # Errors
/// As the store's; [`Error::LeaseLost`].
pub(in crate::retention) fn remove_hidden(
    ctx: &Ctx,
    repository: &Repository,
    plan: &PlacePlan,
    lease: &KeptUp,
    freed: &mut Freed,
) -> Result<()> {
    // Where nothing was taken away, what the plan saw is all there is.
    if freed.objects == 0 && plan.hidden.is_empty() {
        freed.hidden += plan.hidden.locked.0;
        return Ok(());
    }
    let hidden = find_hidden(ctx, repository, plan)?;
    let store = repository.store();
    let names: Vec<&Vec<Version>> = hidden.removable.values().collect();
    let mut locked = hidden.locked.0;
    for some in names.chunks(1000) {
        lease.require(ctx)?;
        let done = side_by_side(some, |of_name| {
            ctx.cancel.check()?;
            Ok::<_, Error>(remove_versions(store.as_ref(), of_name)?)
        })?;
        for (removed, held) in done {
            freed.versions += removed;
            locked += held;
        }
    }
    freed.hidden += locked;
    Ok(())
}

/// How many versions of a name were removed, and how many are locked still; then what hides them stays.
fn remove_versions(store: &dyn ObjectStore, of_name: &[Version]) -> storage::Result<(u64, u64)> {
    let (mut removed, mut held) = (0, 0);
    let (markers, versions): (Vec<_>, Vec<_>) =
        of_name.iter().rev().partition(|version| version.is_marker);
    for version in versions {
        match store.delete_version(&version.key, &version.id) {
            Ok(()) => removed += 1,
            Err(storage::Error::Locked { .. }) => held += 1,
            Err(error) => return Err(error),
        }
    }
    if held == 0 {
        for marker in markers {
            store.delete_version(&marker.key, &marker.id)?;
        }
    }
    Ok((removed, held))
}
