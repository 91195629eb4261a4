//! What killed processes left half stored: uploads in a bucket, temporary files in a folder.
//!
//! Only its age tells a leftover from the work of somebody who is at it, by the store's clock. Whoever is at
//! work for longer than [`AGE_MIN`] at one object fails and begins again; nothing that is whole is touched.
//! In a bucket, uploads of names that are not a cluster's stay: others may keep things there.

use std::fmt;
use std::time::Duration;

use serde::Serialize;

use crate::base::{Ctx, Timestamp};
use crate::repo::{self, Place};
use crate::storage::{ObjectStore, Unfinished};

/// What was begun longer ago counts as left.
pub const AGE_MIN: Duration = Duration::from_hours(24);

/// One leftover.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Leftover {
    /// The name that it would have had, or the temporary file's.
    pub name: String,
    /// What tells it from others of that name.
    pub id: String,
    /// When it was begun, by the store's clock.
    pub begun: Timestamp,
}

/// What would be removed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Plan {
    /// What was begun before this moment counts as left.
    pub before: Timestamp,
    /// The leftovers, oldest first.
    pub leftovers: Vec<Leftover>,
    /// How many younger ones stay: somebody may be at work.
    pub younger: usize,
    /// How many stay that are not of a cluster in this repository.
    pub foreign: usize,
}

/// Decides what is left over, of what a store says is unfinished at a moment.
#[must_use]
pub fn plan(found: Vec<Unfinished>, now: Timestamp) -> Plan {
    let before = now - AGE_MIN;
    let (own, foreign): (Vec<_>, Vec<_>) = found.into_iter().partition(is_own);
    let (old, younger): (Vec<_>, Vec<_>) = own.into_iter().partition(|each| each.begun < before);
    let leftover = |Unfinished { name, id, begun }: Unfinished| Leftover { name, id, begun };
    let mut leftovers: Vec<_> = old.into_iter().map(leftover).collect();
    leftovers.sort_by(|a, b| (a.begun, &a.name, &a.id).cmp(&(b.begun, &b.name, &b.id)));
    Plan { before, leftovers, younger: younger.len(), foreign: foreign.len() }
}

/// A folder's temporary files are told by where they lie, uploads by the object that they would become.
fn is_own(unfinished: &Unfinished) -> bool {
    let is_temporary_file = unfinished.name.strip_prefix(".tmp/") == Some(unfinished.id.as_str());
    is_temporary_file || Place::of_name(&unfinished.name).is_some()
}

/// Removes what was planned, and tells how much. What is gone meanwhile counts as removed.
///
/// # Errors
/// As [`ObjectStore::discard`]; what was removed before stays removed, and the same can be done again.
pub fn execute(ctx: &Ctx, store: &dyn ObjectStore, plan: &Plan) -> repo::Result<usize> {
    for Leftover { name, id, begun } in &plan.leftovers {
        ctx.cancel.check()?;
        store.discard(&Unfinished { name: name.clone(), id: id.clone(), begun: *begun })?;
    }
    Ok(plan.leftovers.len())
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let moment = |time: Timestamp| time.format("%Y-%m-%d %H:%M:%S UTC").to_string();
        let before = moment(self.before);
        match self.leftovers.len() {
            0 => write!(f, "nothing was begun before {before} and left")?,
            1 => write!(f, "1 leftover, begun before {before}:")?,
            many => write!(f, "{many} leftovers, begun before {before}:")?,
        }
        for each in &self.leftovers {
            write!(f, "\n  {}, begun {}", each.name, moment(each.begun))?;
        }
        if self.younger > 0 {
            write!(f, "\n  {} begun later: stays, for somebody may be at work", self.younger)?;
        }
        if self.foreign > 0 {
            write!(f, "\n  {} of names that are not pgkeep's: stays", self.foreign)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn unfinished(name: &str, id: &str, begun: &str) -> Unfinished {
        Unfinished { name: name.into(), id: id.into(), begun: at(begun) }
    }

    #[test]
    fn age_and_name_decide() {
        let pack = "c/main/7-1/data/20261120-020000F/000000";
        let found = vec![
            unfinished(pack, "young", "2026-11-23T12:00:00Z"),
            unfinished(pack, "old", "2026-11-23T11:59:59Z"),
            unfinished(".tmp/a", "a", "2026-11-01T00:00:00Z"),
            unfinished("photos/1", "b", "2026-11-01T00:00:00Z"),
            unfinished("c/nonsense", "c", "2026-11-01T00:00:00Z"),
        ];
        let plan = plan(found, at("2026-11-24T12:00:00Z"));
        let names: Vec<_> = plan.leftovers.iter().map(|each| each.id.as_str()).collect();
        assert_eq!((names, plan.younger, plan.foreign), (vec!["a", "old"], 1, 2));
        let text = plan.to_string();
        assert!(text.starts_with("2 leftovers, begun before 2026-11-23 12:00:00 UTC:\n  .tmp/a"));
        assert!(text.contains("1 begun later") && text.contains("2 of names that"), "{text}");
    }

    #[test]
    fn nothing_is_a_plan_too() {
        let plan = plan(Vec::new(), at("2026-11-24T12:00:00Z"));
        assert_eq!(plan.to_string(), "nothing was begun before 2026-11-23 12:00:00 UTC and left");
    }
}
