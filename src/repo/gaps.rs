//! What is missing of the archived WAL, and what that costs.
//!
//! A hole counts when recovery comes to it: from a backup, or, where there is none, from the oldest archived
//! segment of a timeline; along the way to the newest timeline that can be reached from there.

use std::collections::BTreeMap;

use super::backup_id::BackupId;
use super::catalog::Backups;
use crate::pg::{ArchivedWal, SegmentNo, Start, Stretch, TimelineId};

/// Segments that recovery would ask for and not get.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gap {
    /// The segments.
    pub hole: Stretch,
    /// Of how many backups recovery to the newest moment ends before it.
    pub stops: usize,
    /// The newest of these.
    pub newest_stopped: Option<BackupId>,
    /// The oldest backup on that way that lies behind it, if there is one.
    pub first_behind: Option<BackupId>,
}

/// What is missing.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Missing {
    /// By timeline and position.
    pub gaps: Vec<Gap>,
    /// Timelines that have segments and no history: nobody knows what they began from.
    pub histories: Vec<TimelineId>,
}

impl Missing {
    /// Whether nothing is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.gaps.is_empty() && self.histories.is_empty()
    }
}

impl Backups {
    /// What is missing of the WAL that these backups need, or of all of it where there is no backup.
    #[must_use]
    pub fn missing(&self, wal: &ArchivedWal) -> Missing {
        let starts: Vec<(&BackupId, Start)> =
            self.complete.iter().filter_map(|each| Some((&each.id, each.start()?))).collect();
        // On one timeline the oldest backup needs all that the others do.
        let mut begins: BTreeMap<TimelineId, SegmentNo> = BTreeMap::new();
        match starts.is_empty() {
            true => wal.stretches().for_each(|stretch| {
                begins.entry(stretch.timeline).or_insert(stretch.first);
            }),
            false => starts.iter().for_each(|(_, (timeline, number))| {
                let begin = begins.entry(*timeline).or_insert(*number);
                *begin = (*begin).min(*number);
            }),
        }
        let mut holes: Vec<Stretch> =
            begins.into_iter().flat_map(|start| wal.holes(start)).collect();
        holes.sort_by_key(|hole| (hole.timeline, hole.first, hole.last));
        holes.dedup();
        let gaps = merged(holes).into_iter().map(|hole| gap(hole, &starts, wal)).collect();
        let histories = wal.timelines().into_iter();
        let histories = histories.filter(|timeline| wal.history(*timeline).is_none()).collect();
        Missing { gaps, histories }
    }
}

/// Joins holes of one timeline that overlap: ways that begin at different places meet the same one.
fn merged(sorted: Vec<Stretch>) -> Vec<Stretch> {
    let mut merged: Vec<Stretch> = Vec::new();
    for hole in sorted {
        match merged.last_mut() {
            Some(last) if last.timeline == hole.timeline && hole.first <= last.last => {
                last.last = last.last.max(hole.last);
            }
            _ => merged.push(hole),
        }
    }
    merged
}

fn gap(hole: Stretch, starts: &[(&BackupId, Start)], wal: &ArchivedWal) -> Gap {
    let meets = |start: &Start| {
        wal.needed(*start).iter().any(|needed| {
            let is_apart = needed.last < hole.first || hole.last < needed.first;
            needed.timeline == hole.timeline && !is_apart
        })
    };
    let (mut stops, mut newest_stopped, mut first_behind) = (0, None, None);
    let way = wal.newest_timeline(hole.timeline);
    let is_on_the_way = |timeline| {
        timeline == way || wal.history(way).is_some_and(|history| history.includes(timeline))
    };
    for (id, start) in starts {
        if meets(start) {
            stops += 1;
            newest_stopped = Some((*id).clone());
        } else if first_behind.is_none() && start.1 > hole.last && is_on_the_way(start.0) {
            first_behind = Some((*id).clone());
        }
    }
    Gap { hole, stops, newest_stopped, first_behind }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pg::{History, SegmentSize};

    fn timeline(number: u32) -> TimelineId {
        TimelineId::new(number).unwrap()
    }

    fn survey(names: &[&str], histories: &[(u32, &str)]) -> ArchivedWal {
        let histories = histories
            .iter()
            .map(|(n, text)| History::parse(timeline(*n), text.as_bytes()).unwrap());
        ArchivedWal::survey(names.iter().copied(), histories, SegmentSize::DEFAULT)
    }

    fn shown(wal: &ArchivedWal, missing: &Missing) -> Vec<String> {
        missing.gaps.iter().map(|gap| wal.describe(&gap.hole)).collect()
    }

    const LEFT: &str = "1\t0/5400000\tno recovery target specified\n";

    #[test]
    fn f020_without_a_backup_holes_beside_a_switch_count_too() {
        let none = Backups::default();
        for (names, hole) in [
            (
                &["000000010000000000000003", "000000020000000000000005"][..],
                "000000010000000000000004",
            ),
            (
                &[
                    "000000010000000000000003",
                    "000000010000000000000004",
                    "000000010000000000000005",
                    "000000020000000000000006",
                ][..],
                "000000020000000000000005",
            ),
        ] {
            let wal = survey(names, &[(2, LEFT)]);
            let missing = none.missing(&wal);
            assert_eq!(shown(&wal, &missing), [hole]);
            assert_eq!((missing.gaps[0].stops, missing.histories.len()), (0, 0));
        }
        let whole =
            ["000000010000000000000003", "000000010000000000000004", "000000020000000000000005"];
        assert!(none.missing(&survey(&whole, &[(2, LEFT)])).is_empty());
        assert!(none.missing(&survey(&[], &[])).is_empty());
    }

    #[test]
    fn f024_a_timeline_without_its_history_is_told() {
        let wal = survey(&["000000010000000000000003", "000000030000000000000005"], &[(2, LEFT)]);
        let missing = Backups::default().missing(&wal);
        assert_eq!(missing.histories, [timeline(3)]);
        assert!(!missing.is_empty());
    }

    #[test]
    fn a_hole_tells_whom_it_stops() {
        let (one, two) = (timeline(1), timeline(2));
        let wal = survey(
            &[
                "000000010000000000000003",
                "000000010000000000000004",
                "000000020000000000000005",
                "000000020000000000000007",
                "000000020000000000000008",
            ],
            &[(2, LEFT)],
        );
        let ids: Vec<BackupId> =
            (1..=4).map(|day| format!("202611{day:02}-020000F").parse().unwrap()).collect();
        let places = [(one, 3), (one, 4), (two, 5), (two, 7)];
        let starts: Vec<_> = ids
            .iter()
            .zip(places)
            .map(|(id, (on, number))| (id, (on, SegmentNo(number))))
            .collect();
        let hole = Stretch { timeline: two, first: SegmentNo(6), last: SegmentNo(6) };
        let found = gap(hole, &starts, &wal);
        assert_eq!((found.stops, found.newest_stopped.as_ref()), (3, Some(&ids[2])));
        assert_eq!(found.first_behind.as_ref(), Some(&ids[3]));
        let last = gap(hole, &starts[..2], &wal);
        assert_eq!((last.stops, last.first_behind), (2, None));
    }

    #[test]
    fn holes_of_several_ways_are_one() {
        let stretch = |on, first, last| Stretch {
            timeline: timeline(on),
            first: SegmentNo(first),
            last: SegmentNo(last),
        };
        let holes = vec![stretch(1, 3, 5), stretch(1, 4, 5), stretch(1, 6, 6), stretch(2, 5, 5)];
        assert_eq!(merged(holes), [stretch(1, 3, 5), stretch(1, 6, 6), stretch(2, 5, 5)]);
    }
}
