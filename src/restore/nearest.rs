//! What can be reached when the target cannot: the moments nearest to it, and what is missing in between.

use std::fmt;

use super::target::Target;
use crate::base::Timestamp;
use crate::pg::{Lsn, TimelineId};
use crate::repo::{BackupId, Window};

/// On which side of the target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Side {
    /// The last that can be reached before it.
    Before,
    /// The first that can be reached after it.
    After,
    /// The target itself, along another timeline.
    Exact,
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Before => "before",
            Self::After => "after",
            Self::Exact => "exact",
        })
    }
}

/// A moment that can be reached.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Nearest {
    /// On which side of the target.
    pub side: Side,
    /// When, where that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub time: Option<Timestamp>,
    /// Along which timeline.
    pub timeline: TimelineId,
    /// Whether recovery must be told to follow that one.
    #[serde(skip)]
    pub is_elsewhere: bool,
    /// Where that is in the WAL, for a target that is a position.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lsn: Option<Lsn>,
    /// Only the end of this backup can be had, not the moment: no time after it is proven.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub end_of: Option<BackupId>,
}

/// Segments that are missing although others are behind them.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Hole {
    /// On which timeline.
    pub timeline: u32,
    /// The first segment that is missing.
    pub first: String,
    /// The last one.
    pub last: String,
    /// How many.
    pub segments: u64,
}

impl fmt::Display for Hole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last {
            return f.write_str(&self.first);
        }
        write!(f, "{} to {} ({} segments)", self.first, self.last, self.segments)
    }
}

/// The moments nearest to a target that lies in none of the windows.
pub(super) fn nearest(windows: &[Window], target: &Target, chosen: TimelineId) -> Vec<Nearest> {
    let each = windows.iter();
    let (before, after) = match target {
        // An end that is no proven moment lies before its own time.
        Target::Time(time) => (
            each.clone()
                .filter(|w| w.to < *time || (w.only_end && w.to == *time))
                .max_by_key(|window| window.to),
            each.filter(|window| window.from > *time).min_by_key(|window| window.from),
        ),
        Target::Lsn(lsn) => (
            each.clone().filter(|window| window.to_lsn < *lsn).max_by_key(|window| window.to_lsn),
            each.filter(|window| window.from_lsn > *lsn).min_by_key(|window| window.from_lsn),
        ),
        // Nobody knows where these would be.
        Target::Latest | Target::Immediate | Target::Name(_) | Target::Xid(_) => {
            (each.max_by_key(|window| window.to), None)
        }
    };
    let near = |side, window: &Window, (time, lsn)| {
        let is_position = matches!(target, Target::Lsn(_));
        let end_of = (window.only_end && !is_position).then(|| window.backup.clone());
        let timeline = window.timeline;
        let is_elsewhere = timeline != chosen;
        let lsn = is_position.then_some(lsn);
        Nearest { side, time: Some(time), timeline, is_elsewhere, lsn, end_of }
    };
    let before = before.map(|w| near(Side::Before, w, (w.to, w.to_lsn)));
    let after = after.map(|w| near(Side::After, w, (w.from, w.from_lsn)));
    before.into_iter().chain(after).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn time(text: &str) -> Timestamp {
        format!("2026-11-20T0{text}:00Z").parse().unwrap()
    }

    fn windows() -> Vec<Window> {
        let window = |from: &str, to: &str, from_lsn, to_lsn| Window {
            from: time(from),
            to: time(to),
            only_end: false,
            timeline: TimelineId::FIRST,
            backup: "20261120-020000F".parse().unwrap(),
            from_lsn: Lsn(from_lsn),
            to_lsn: Lsn(to_lsn),
            last_segment: String::new(),
        };
        vec![window("2:00", "3:00", 200, 300), window("5:00", "6:00", 500, 600)]
    }

    fn sides(target: &Target) -> Vec<(Side, Timestamp, Option<u64>)> {
        let found = nearest(&windows(), target, TimelineId::FIRST);
        let each = found.into_iter();
        each.map(|near| (near.side, near.time.unwrap(), near.lsn.map(|lsn| lsn.0))).collect()
    }

    #[test]
    fn a_moment_in_a_hole_has_an_edge_on_each_side() {
        let in_hole = Target::Time(time("4:00"));
        assert_eq!(
            sides(&in_hole),
            [(Side::Before, time("3:00"), None), (Side::After, time("5:00"), None)]
        );
        assert_eq!(sides(&Target::Time(time("1:00"))), [(Side::After, time("2:00"), None)]);
        assert_eq!(sides(&Target::Time(time("7:00"))), [(Side::Before, time("6:00"), None)]);
    }

    #[test]
    fn an_end_that_proves_no_moment_is_offered_as_such() {
        let mut windows = windows();
        (windows[1].to, windows[1].only_end) = (windows[1].from, true);
        for (at, side) in [("4:59", Side::After), ("5:00", Side::Before), ("7:00", Side::Before)] {
            let found = nearest(&windows, &Target::Time(time(at)), TimelineId::FIRST);
            let end = found.iter().find(|near| near.end_of.is_some());
            let end = end.map(|end| (end.side, end.time));
            assert_eq!(end, Some((side, Some(time("5:00")))), "{at}");
        }
        let position = nearest(&windows, &Target::Lsn(Lsn(700)), TimelineId::FIRST);
        assert_eq!((position[0].lsn, position[0].end_of.as_ref()), (Some(Lsn(600)), None));
    }

    #[test]
    fn a_position_has_positions() {
        assert_eq!(
            sides(&Target::Lsn(Lsn(400))),
            [(Side::Before, time("3:00"), Some(300)), (Side::After, time("5:00"), Some(500))]
        );
        assert_eq!(sides(&Target::Lsn(Lsn(100))), [(Side::After, time("2:00"), Some(200))]);
    }

    #[test]
    fn what_is_nowhere_is_answered_with_the_newest_moment() {
        for target in [Target::Name("x".into()), Target::Xid(7), Target::Latest] {
            assert_eq!(sides(&target), [(Side::Before, time("6:00"), None)]);
        }
        assert_eq!(nearest(&[], &Target::Latest, TimelineId::FIRST), []);
    }
}
