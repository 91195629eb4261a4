//! What leaves a repository for another: chains that nothing but the calendar keeps, and all that nothing keeps.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::decide::Decision;
use super::facts::{Candidate, PlaceFacts};
use super::reason::Reason;
use crate::base::Timestamp;
use crate::repo::BackupId;

/// What is to be copied to another repository before expiry goes on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Leaving {
    /// Whole chains that are old, closed, and kept by the calendar only: where they are there, they go.
    pub old: BTreeSet<BackupId>,
    /// Backups that no rule keeps here.
    pub going: BTreeSet<BackupId>,
}

impl Leaving {
    /// All of them.
    #[must_use]
    pub fn all(&self) -> BTreeSet<BackupId> {
        self.old.union(&self.going).cloned().collect()
    }
}

/// Finds what leaves, by what was decided. A chain that somebody uses, has pinned or stands on stays whole, and one that
/// reaches into the window.
#[must_use]
pub fn leaving(
    facts: &PlaceFacts,
    decision: &Decision,
    (after, now): (Duration, Timestamp),
) -> Leaving {
    let mut chains: BTreeMap<BackupId, Vec<&Candidate>> = BTreeMap::new();
    for backup in &facts.backups {
        chains.entry(backup.id.root()).or_default().push(backup);
    }
    let good = facts
        .backups
        .iter()
        .filter(|backup| backup.parent.is_none() && backup.is_sound && facts.has_wal_of(backup));
    let newest_full = good.map(|full| full.finished).max();
    let reasons: BTreeMap<&BackupId, &BTreeSet<Reason>> =
        decision.backups.iter().map(|(id, reasons)| (id, reasons)).collect();
    let is_free = |backup: &&Candidate| {
        reasons.get(&backup.id).is_some_and(|reasons| {
            reasons.iter().all(|each| matches!(each, Reason::Period(_) | Reason::ParentOf(_)))
        })
    };
    let mut leaving = Leaving::default();
    for chain in chains.values() {
        let last = chain.iter().map(|backup| backup.finished).max().unwrap_or(now);
        let is_old =
            last.checked_add_signed(chrono::TimeDelta::from_std(after).unwrap_or_default());
        let is_closed = newest_full.is_some_and(|newest| newest > last);
        if is_closed && is_old.is_some_and(|old| old <= now) && chain.iter().all(is_free) {
            leaving.old.extend(chain.iter().map(|backup| backup.id.clone()));
        }
    }
    leaving.going = decision.removed().cloned().collect();
    leaving.old.retain(|id| !leaving.going.contains(id));
    leaving
}
