//! Sets of WAL: what is wanted, what is there, what was given up. Pure.

use crate::pg::{
    ArchivedWal, History, SegmentName, SegmentSize, Stretch, TimelineId, needed_segments,
};
use crate::repo::Summary;

/// What of a stretch a set has.
pub(super) fn within(set: &ArchivedWal, stretch: Stretch) -> Vec<Stretch> {
    let size = set.segment_size();
    let (mut all, mut gone) = (ArchivedWal::new(size), ArchivedWal::new(size));
    all.add_stretch(stretch);
    set.missing(stretch).into_iter().for_each(|missing| gone.add_stretch(missing));
    all.give_up(&gone);
    all.stretches().collect()
}

/// The segments that a backup needs to become consistent, under all the names that are archived; or what is missing.
pub(super) fn own_wal(
    wal: &ArchivedWal,
    backup: &Summary,
) -> std::result::Result<Vec<String>, String> {
    let size = wal.segment_size();
    let stop = TimelineId::new(backup.timeline_stop).ok_or("it names timeline 0")?;
    let history = match backup.timeline == backup.timeline_stop {
        true => History::without_ancestors(stop),
        false => {
            wal.history(stop).ok_or_else(|| format!("the history of timeline {stop} is missing"))?
        }
    };
    let needed = needed_segments(&history, backup.start_lsn, backup.stop_lsn, size);
    let mut names = Vec::new();
    for candidates in needed.map_err(|error| error.to_string())? {
        let before = names.len();
        names.extend(candidates.iter().filter(|name| has(wal, name, size)).cloned());
        if names.len() == before {
            let missing = candidates.first().map_or("a segment", String::as_str);
            return Err(format!("WAL that it needs is missing: {missing}"));
        }
    }
    Ok(names)
}

fn has(wal: &ArchivedWal, name: &str, size: SegmentSize) -> bool {
    let name = SegmentName::parse(name.as_bytes());
    name.is_ok_and(|name| name.number(size).is_ok_and(|number| wal.has(name.timeline(), number)))
}

/// What is wanted of another archive's WAL.
#[derive(Debug)]
pub(super) struct Wanted {
    /// What is to be brought.
    pub(super) missing: Vec<Stretch>,
    /// What of it was given up there, and is needed all the same.
    pub(super) given_back: Vec<Stretch>,
    /// How many segments are there.
    pub(super) there: u64,
    /// How many were given up there, and are not needed.
    pub(super) given_up: u64,
}

/// Compares what is wanted with what a target has. `needed` comes back though it was given up.
pub(super) fn wanted(wanted: &ArchivedWal, needed: &ArchivedWal, target: &ArchivedWal) -> Wanted {
    let size = wanted.segment_size();
    let given_up = target.given_up();
    let mut all = ArchivedWal::new(size);
    wanted.stretches().chain(needed.stretches()).for_each(|stretch| all.add_stretch(stretch));
    let mut missing = ArchivedWal::new(size);
    all.stretches()
        .flat_map(|each| target.missing(each))
        .for_each(|each| missing.add_stretch(each));
    let total: u64 = all.stretches().map(|each| each.count()).sum();
    let there = total - missing.stretches().map(|each| each.count()).sum::<u64>();
    let given_back: Vec<Stretch> =
        needed.stretches().flat_map(|stretch| within(&given_up, stretch)).collect();
    // What was given up, but for what is needed.
    let mut left = ArchivedWal::new(size);
    for stretch in missing.stretches().flat_map(|stretch| within(&given_up, stretch)) {
        needed.missing(stretch).into_iter().for_each(|each| left.add_stretch(each));
    }
    missing.give_up(&left);
    let given_up = left.stretches().map(|each| each.count()).sum();
    Wanted { missing: missing.stretches().collect(), given_back, there, given_up }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pg::SegmentNo;

    fn set(runs: &[(u64, u64)]) -> ArchivedWal {
        let mut set = ArchivedWal::new(SegmentSize::new(1 << 20).unwrap());
        for (first, last) in runs {
            let (first, last) = (SegmentNo(*first), SegmentNo(*last));
            set.add_stretch(Stretch { timeline: TimelineId::FIRST, first, last });
        }
        set
    }

    fn shown(stretches: &[Stretch]) -> Vec<(u64, u64)> {
        stretches.iter().map(|each| (each.first.0, each.last.0)).collect()
    }

    #[test]
    fn what_was_given_up_comes_back_only_where_it_is_needed() {
        let mut target = set(&[(1, 20)]);
        target.give_up(&set(&[(1, 9)]));
        let found = wanted(&set(&[(1, 30)]), &set(&[(3, 5)]), &target);
        assert_eq!(shown(&found.missing), [(3, 5), (21, 30)]);
        assert_eq!(shown(&found.given_back), [(3, 5)]);
        assert_eq!((found.there, found.given_up), (11, 6));
        let nothing = wanted(&set(&[(10, 20)]), &set(&[]), &target);
        assert_eq!((nothing.missing.len(), nothing.there, nothing.given_up), (0, 11, 0));
        assert_eq!(
            shown(&within(&set(&[(2, 4), (6, 9)]), set(&[(3, 7)]).stretches().next().unwrap())),
            [(3, 4), (6, 7)]
        );
    }
}
