//! What can be reached when the target cannot: windows, holes, and the moments nearest to it.

use std::cmp::Ordering;
use std::fmt;

use super::error::Result;
use super::reach::Archive;
use super::target::Target;
use crate::base::{Ctx, Timestamp};
use crate::pg::{History, Lsn, SegmentNo, Stretch, TimelineId};
use crate::repo::{Place, Repository, Summary, Window};

/// How many holes are listed.
const HOLES_MAX: usize = 64;

/// On which side of the target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Side {
    /// The last that can be reached before it.
    Before,
    /// The first that can be reached after it.
    After,
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Before => "before",
            Self::After => "after",
        })
    }
}

/// A moment that can be reached.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Nearest {
    /// On which side of the target.
    pub side: Side,
    /// When.
    pub time: Timestamp,
    /// Where that is in the WAL, for a target that is a position.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lsn: Option<Lsn>,
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
pub(super) fn nearest(windows: &[Window], target: &Target) -> Vec<Nearest> {
    let (before, after) = match target {
        Target::Time(time) => (
            windows.iter().filter(|window| window.to < *time).max_by_key(|window| window.to),
            windows.iter().filter(|window| window.from > *time).min_by_key(|window| window.from),
        ),
        Target::Lsn(lsn) => (
            windows.iter().filter(|window| window.to_lsn < *lsn).max_by_key(|window| window.to_lsn),
            windows
                .iter()
                .filter(|window| window.from_lsn > *lsn)
                .min_by_key(|window| window.from_lsn),
        ),
        // Nobody knows where these would be.
        Target::Latest | Target::Immediate | Target::Name(_) | Target::Xid(_) => {
            (windows.iter().max_by_key(|window| window.to), None)
        }
    };
    let is_position = matches!(target, Target::Lsn(_));
    let before = before.map(|window| {
        let lsn = is_position.then_some(window.to_lsn);
        Nearest { side: Side::Before, time: window.to, lsn }
    });
    let after = after.map(|window| {
        let lsn = is_position.then_some(window.from_lsn);
        Nearest { side: Side::After, time: window.from, lsn }
    });
    before.into_iter().chain(after).collect()
}

/// Windows and holes of the history that was chosen, and of the other ends that the archive has.
pub(super) fn all_windows(
    ctx: &Ctx,
    repository: &Repository,
    place: &Place,
    archive: &Archive<'_>,
    chosen: &History,
    backups: &[&Summary],
) -> Result<(Vec<Window>, Vec<Hole>)> {
    let wal = archive.wal();
    let others = wal.timelines().into_iter().rev();
    let mut histories = vec![chosen.clone()];
    for id in others.filter(|id| *id != chosen.timeline()) {
        if goes_on(archive, id)? {
            histories.extend(wal.history(id));
        }
    }
    let (mut windows, mut stretches) = (Vec::new(), Vec::<Stretch>::new());
    for history in histories {
        windows.extend(repository.windows(ctx, place, backups, wal, &history)?);
        let oldest = backups.iter().find(|backup| backup.is_on(&history));
        let Some(oldest) = oldest else { continue };
        let begin = SegmentNo::of(oldest.start_lsn, wal.segment_size());
        for hole in wal.holes_along(&history, begin) {
            if !stretches.contains(&hole) && stretches.len() < HOLES_MAX {
                stretches.push(hole);
            }
        }
    }
    let hole = |stretch: &Stretch| Hole {
        timeline: stretch.timeline.get(),
        first: wal.name(stretch.timeline, stretch.first),
        last: wal.name(stretch.timeline, stretch.last),
        segments: stretch.count(),
    };
    Ok((windows, stretches.iter().map(hole).collect()))
}

/// Whether a timeline has WAL that is on the way to no other one.
fn goes_on(archive: &Archive<'_>, timeline: TimelineId) -> Result<bool> {
    let wal = archive.wal();
    let Some(last) = wal.last(timeline) else { return Ok(false) };
    let Some(left) = wal.left_at(timeline) else { return Ok(true) };
    match last.cmp(&SegmentNo::of(left, wal.segment_size())) {
        Ordering::Less => Ok(false),
        Ordering::Greater => Ok(true),
        Ordering::Equal => {
            let found = archive.found(&wal.name(timeline, last))?;
            Ok(found.and_then(|found| found.end).is_some_and(|end| end > left))
        }
    }
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
            timeline: TimelineId::FIRST,
            backup: "20261120-020000F".parse().unwrap(),
            from_lsn: Lsn(from_lsn),
            to_lsn: Lsn(to_lsn),
            last_segment: String::new(),
        };
        vec![window("2:00", "3:00", 200, 300), window("5:00", "6:00", 500, 600)]
    }

    fn sides(target: &Target) -> Vec<(Side, Timestamp, Option<u64>)> {
        let found = nearest(&windows(), target);
        found.into_iter().map(|near| (near.side, near.time, near.lsn.map(|lsn| lsn.0))).collect()
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
        assert_eq!(nearest(&[], &Target::Latest), []);
    }
}
