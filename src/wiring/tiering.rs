//! What retention found and decided, as tiering takes it: the two rooms are strangers.

use crate::retention::{Decision, Gathered, Period, Reason};
use crate::tiering::{Found, Going, InUse, Running, TierPolicy};

/// The rules by which packs move.
#[must_use]
pub fn tier_policy(settings: &crate::config::Tiering) -> TierPolicy {
    TierPolicy {
        after: settings.after,
        class: settings.storage_class.clone(),
        monthly: settings.monthly_class.clone(),
        yearly: settings.yearly_class.clone(),
        way: settings.way,
    }
}

/// One history of a cluster. Without `expires`, nothing that the rules do not keep is on its way out.
#[must_use]
pub fn tier_found<'a>(gathered: &'a Gathered, decision: &Decision, expires: bool) -> Found<'a> {
    let facts = &gathered.facts;
    let kept_for = |is_meant: fn(&Period) -> bool| {
        let backups = decision.backups.iter().filter(move |(_, reasons)| {
            let mut periods = reasons.iter().filter_map(|reason| match reason {
                Reason::Period(period) => Some(period),
                _ => None,
            });
            periods.any(is_meant)
        });
        backups.map(|(id, _)| id.clone()).collect()
    };
    let running = facts.running.iter().map(|running| Running {
        id: running.id.clone(),
        parent: running.parent.clone(),
        attempts: running.attempts.clone(),
    });
    let in_use = facts.in_use.iter().map(|used| InUse { id: used.id.clone(), by: used.by.clone() });
    // What only waits for its lock is on its way out too.
    let (ruled, all) = (decision.ruled(), decision.backups.iter().map(|(id, _)| id));
    let unkept = all.filter(|id| expires && !ruled.contains(*id));
    let unkept = unkept.map(|id| (id.clone(), Going::Unkept));
    let removed = gathered.backups.complete.iter().map(|backup| &backup.id);
    let removed = removed.filter(|id| gathered.kept.is_removing(id));
    let removed = removed.map(|id| (id.clone(), Going::Removed));
    Found {
        place: &gathered.place,
        backups: &gathered.backups,
        running: running.collect(),
        in_use: in_use.collect(),
        monthly: kept_for(|period| matches!(period, Period::Month(..))),
        yearly: kept_for(|period| matches!(period, Period::Year(_))),
        going: unkept.chain(removed).collect(),
    }
}
