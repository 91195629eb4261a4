//! What is kept, on clusters that are made up here: a history of backups in, reasons out.

mod case;
mod golden;
mod locks;
mod oracle;
mod properties;
mod rules;
mod scale;
mod told;
mod world;

use std::time::Duration;

use told::Told;

use super::{Candidate, Decision, End, Moving, PlaceFacts, Policy, Reason, decide, leaving};
use crate::base::Timestamp;
use crate::pg::{Lsn, SegmentNo, SegmentSize, Stretch, TimelineId};
use crate::repo::BackupId;

pub(super) fn at(text: &str) -> Timestamp {
    text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
}

pub(super) fn days(count: u64) -> Duration {
    Duration::from_secs(count * 86_400)
}

/// Nothing is kept by it but the last good full.
pub(super) fn nothing() -> Policy {
    Policy {
        daily: 0,
        weekly: 0,
        monthly: 0,
        yearly: 0,
        last: 0,
        min_full: 1,
        window: Duration::ZERO,
        zone: chrono_tz::Tz::UTC,
    }
}

/// What a decision says of each backup, a line each.
pub(super) fn shown(decision: &Decision) -> Vec<String> {
    let each = decision.backups.iter().map(|(id, reasons)| {
        let reasons: Vec<String> = reasons.iter().map(ToString::to_string).collect();
        match reasons.as_slice() {
            [] => format!("{id}: removed"),
            _ => format!("{id}: {}", reasons.join(", ")),
        }
    });
    each.collect()
}

fn decided(policy: &Policy, now: &str, told: &Told) -> Decision {
    decide(policy, at(now), std::slice::from_ref(&told.facts)).remove(0)
}

/// The segments that are removed, as first and last numbers with their timelines.
pub(super) fn removed_wal(decision: &Decision) -> Vec<(u32, u64, u64)> {
    let each = decision.wal_removed.iter();
    each.map(|s| (s.timeline.get(), s.first.0, s.last.0)).collect()
}
