//! What becomes of one file, by what was seen of it. Pure.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use crate::pg::wal::{self, Ending};
use crate::pg::{History, Lsn, SegmentName, TimelineId, WalFileName};

/// Why a file is left where it is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(tag = "reason", rename_all = "kebab-case")]
pub enum Why {
    /// Every repository has it, or more of it.
    Archived,
    /// The running server may still be writing it.
    Writing,
    /// It has its next name already, and holds what it held under the one before.
    Recycled {
        /// Where the log goes on in it.
        holds: Lsn,
    },
    /// It was made for later, and nothing was written into it.
    Empty,
    /// It is of another cluster.
    Foreign {
        /// That one's system identifier.
        system: String,
    },
    /// Its WAL version is not known.
    UnknownFormat {
        /// In words.
        why: String,
    },
    /// Neither the directory nor the repository has the history of its timeline.
    NoHistory,
    /// The history beside it is another than the archive's: another server took the timeline.
    OtherHistory,
    /// A history without a segment of its timeline beside it: nothing says whose it is.
    Unproven,
    /// It is no file of WAL that could be stored.
    Unusable {
        /// In words.
        why: String,
    },
}

/// What one repository has under a file's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Archived {
    /// Whether the content is the same, where there is one.
    pub(super) same: Option<bool>,
    /// Of a segment whose records stop early: whether it has as much of it.
    pub(super) partial: bool,
}

/// What a file holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Content {
    /// A history that can be read.
    History,
    /// The segment of that name, this cluster's.
    Segment(Ending),
    /// Something else than the segment of that name.
    Other(wal::Error),
    /// Nothing that could be looked at.
    Unusable(String),
}

/// What was seen of one file.
#[derive(Debug, Clone)]
pub(super) struct Seen {
    pub(super) name: WalFileName,
    pub(super) bytes: u64,
    pub(super) content: Content,
    /// In the order of the repositories.
    pub(super) archived: Vec<Archived>,
}

/// The histories of the directory and of the repositories.
#[derive(Debug, Default)]
pub(super) struct Histories {
    /// As they lie in the directory.
    pub(super) local: BTreeMap<TimelineId, Vec<u8>>,
    /// Those of them that are this cluster's as far as anybody can tell.
    pub(super) proven: BTreeSet<TimelineId>,
    /// In the order of the repositories.
    pub(super) stored: Vec<BTreeMap<TimelineId, Vec<u8>>>,
}

/// What decides about all files alike.
#[derive(Debug)]
pub(super) struct Known {
    pub(super) histories: Histories,
    /// A server works there.
    pub(super) is_running: bool,
    /// Segments that a running server has done with.
    pub(super) settled: BTreeSet<SegmentName>,
}

/// What becomes of one file; repositories by their places in the list.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Verdict {
    /// Where it is to be stored.
    pub(super) store: Vec<usize>,
    /// As a partial segment.
    pub(super) partial: bool,
    /// Where its name has other content.
    pub(super) conflicts: Vec<usize>,
    /// Why it is stored nowhere, or not in all of them that lack it.
    pub(super) left: Option<Why>,
}

impl Histories {
    /// One of the directory, else of the first repository that has it.
    pub(super) fn find(&self, timeline: TimelineId) -> Option<History> {
        let stored = self.stored.iter().find_map(|stored| stored.get(&timeline));
        let content = self.local.get(&timeline).or(stored)?;
        History::parse(timeline, content).ok()
    }

    fn local_history(&self, timeline: TimelineId) -> Option<History> {
        History::parse(timeline, self.local.get(&timeline)?).ok()
    }

    /// Adds the histories that a proven one repeats: what is true of the descendant is true of these.
    pub(super) fn prove_ancestors(&mut self) {
        let tips: Vec<History> =
            self.proven.iter().filter_map(|timeline| self.local_history(*timeline)).collect();
        let ends = |history: &History| -> Vec<(TimelineId, Lsn)> {
            history.ancestors().iter().map(|each| (each.timeline, each.end)).collect()
        };
        for timeline in self.local.keys().copied().collect::<Vec<_>>() {
            let Some(own) = self.local_history(timeline) else { continue };
            let repeats =
                |tip: &History| tip.is_ancestor(timeline) && ends(tip).starts_with(&ends(&own));
            if tips.iter().any(repeats) {
                self.proven.insert(timeline);
            }
        }
    }

    /// Why no segment of a timeline can go into a repository.
    fn missing(&self, repository: usize, timeline: TimelineId) -> Option<Why> {
        if timeline == TimelineId::FIRST {
            return None;
        }
        let stored = self.stored.get(repository).and_then(|stored| stored.get(&timeline));
        match (stored, self.local.get(&timeline)) {
            (Some(stored), Some(local)) => (stored != local).then_some(Why::OtherHistory),
            (Some(_), None) => None,
            (None, Some(_)) if self.proven.contains(&timeline) => None,
            (None, _) => Some(Why::NoHistory),
        }
    }

    /// Whether a later timeline of the directory left this one.
    fn is_left(&self, timeline: TimelineId) -> bool {
        let later = self.local.keys().filter(|later| **later > timeline);
        let mut histories = later.filter_map(|later| self.local_history(*later));
        histories.any(|history| history.includes(timeline))
    }
}

impl From<&wal::Error> for Why {
    fn from(error: &wal::Error) -> Self {
        match error {
            wal::Error::BadMagic { found: 0 } => Self::Empty,
            wal::Error::WrongSystem { found, .. } => Self::Foreign { system: found.to_string() },
            wal::Error::WrongAddress { found, .. } => Self::Recycled { holds: Lsn(*found) },
            wal::Error::UnknownMagic { .. } => Self::UnknownFormat { why: error.to_string() },
            other => Self::Unusable { why: other.to_string() },
        }
    }
}

/// Decides about one file.
pub(super) fn judge(seen: &Seen, known: &Known) -> Verdict {
    let left = |why| Verdict { left: Some(why), ..Verdict::default() };
    let verdict = match (&seen.content, seen.name) {
        (Content::Unusable(why), _) => return left(Why::Unusable { why: why.clone() }),
        (Content::Other(error), _) => return left(Why::from(error)),
        (Content::History, WalFileName::History(timeline)) => {
            let verdict = whole(&seen.archived);
            let is_proven = known.histories.proven.contains(&timeline);
            match verdict.store.is_empty() && verdict.conflicts.is_empty() || is_proven {
                true => verdict,
                false => return left(Why::Unproven),
            }
        }
        (Content::Segment(ending), WalFileName::Segment(segment)) => {
            let partial = matches!(ending, Ending::Partial(_));
            let verdict = segment_verdict(seen, known, segment, partial);
            let is_done = known.histories.is_left(segment.timeline())
                || (!partial && known.settled.contains(&segment));
            match known.is_running && !is_done && !verdict.store.is_empty() {
                true => return left(Why::Writing),
                false => verdict,
            }
        }
        (Content::Segment(_), WalFileName::Partial(segment)) => {
            segment_verdict(seen, known, segment, true)
        }
        (content, _) => return left(Why::Unusable { why: format!("{content:?}") }),
    };
    match verdict {
        Verdict { store, conflicts, left: None, .. }
            if store.is_empty() && conflicts.is_empty() =>
        {
            left(Why::Archived)
        }
        verdict => verdict,
    }
}

/// A file that is stored under its own name.
fn whole(archived: &[Archived]) -> Verdict {
    let places = |same| {
        let places = archived.iter().enumerate().filter(move |(_, there)| there.same == same);
        places.map(|(place, _)| place).collect()
    };
    Verdict { store: places(None), conflicts: places(Some(false)), ..Verdict::default() }
}

/// A partial segment is of no use where the whole one, or as much of it, is.
fn segment_verdict(seen: &Seen, known: &Known, segment: SegmentName, partial: bool) -> Verdict {
    let mut verdict = match partial {
        false => whole(&seen.archived),
        true => {
            let lacks = |there: &Archived| there.same.is_none() && !there.partial;
            let places = seen.archived.iter().enumerate().filter(|(_, there)| lacks(there));
            let store = places.map(|(place, _)| place).collect();
            Verdict { store, partial, ..Verdict::default() }
        }
    };
    verdict.store.retain(|place| match known.histories.missing(*place, segment.timeline()) {
        None => true,
        Some(why) => {
            verdict.left = Some(why);
            false
        }
    });
    verdict
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pg::wal::Invalid;

    fn timeline(number: u32) -> TimelineId {
        TimelineId::new(number).unwrap()
    }

    fn seen(name: &str, content: Content, archived: &[Archived]) -> Seen {
        let name = WalFileName::parse(name.as_bytes()).unwrap();
        Seen { name, bytes: 1 << 20, content, archived: archived.to_vec() }
    }

    const ABSENT: Archived = Archived { same: None, partial: false };
    const SAME: Archived = Archived { same: Some(true), partial: false };
    const OTHER: Archived = Archived { same: Some(false), partial: false };
    const SO_FAR: Archived = Archived { same: None, partial: true };

    fn known(local: &[(u32, &str)], stored: &[&[(u32, &str)]]) -> Known {
        let map = |list: &[(u32, &str)]| -> BTreeMap<TimelineId, Vec<u8>> {
            list.iter().map(|(n, text)| (timeline(*n), text.as_bytes().to_vec())).collect()
        };
        let local = map(local);
        let proven = local.keys().copied().collect();
        let stored = stored.iter().map(|list| map(list)).collect();
        let histories = Histories { local, proven, stored };
        Known { histories, is_running: false, settled: BTreeSet::new() }
    }

    fn partial() -> Content {
        Content::Segment(Ending::Partial(Invalid::Zeros))
    }

    const FULL: Content = Content::Segment(Ending::Full);
    const ONE: &str = "000000010000000000000003";
    const TWO: &str = "000000020000000000000003";

    fn left(verdict: &Verdict) -> &Why {
        assert!(verdict.store.is_empty() && verdict.conflicts.is_empty(), "{verdict:?}");
        verdict.left.as_ref().unwrap()
    }

    #[test]
    fn f009_what_is_whole_and_missing_is_stored_where_it_is_missing() {
        let known = known(&[], &[&[], &[]]);
        let judged = |archived: &[Archived]| judge(&seen(ONE, FULL, archived), &known);
        assert_eq!(judged(&[ABSENT, SAME]).store, [0]);
        assert_eq!(judged(&[ABSENT, ABSENT]).store, [0, 1]);
        assert_eq!(left(&judged(&[SAME, SAME])), &Why::Archived);
        // The first one stays; where there is none, this one is stored.
        let verdict = judged(&[OTHER, ABSENT]);
        assert_eq!((verdict.conflicts, verdict.store), (vec![0], vec![1]));
        // What lies there as a partial one is not all of it.
        assert_eq!(judged(&[SO_FAR, SAME]).store, [0]);
    }

    #[test]
    fn f010_what_stops_early_is_a_partial_segment_at_most() {
        let known = known(&[], &[&[], &[]]);
        for name in [ONE.to_owned(), format!("{ONE}.partial")] {
            let judged = |archived: &[Archived]| judge(&seen(&name, partial(), archived), &known);
            let verdict = judged(&[ABSENT, SAME]);
            assert_eq!((verdict.store.as_slice(), verdict.partial), (&[0][..], true), "{name}");
            // An earlier state of the segment that is archived contradicts nothing.
            assert_eq!(left(&judged(&[OTHER, SO_FAR])), &Why::Archived);
        }
        let renamed = judge(&seen(&format!("{ONE}.partial"), FULL, &[ABSENT, ABSENT]), &known);
        assert!(renamed.partial, "whatever its records say");
    }

    #[test]
    fn a_running_server_s_last_segment_is_left_to_it() {
        let mut known = known(&[], &[&[]]);
        known.is_running = true;
        let judged = |known: &Known, content| judge(&seen(ONE, content, &[ABSENT]), known);
        assert_eq!(left(&judged(&known, partial())), &Why::Writing);
        assert_eq!(left(&judged(&known, FULL)), &Why::Writing);
        assert_eq!(left(&judge(&seen(ONE, FULL, &[SAME]), &known)), &Why::Archived);
        known.settled.insert(SegmentName::parse(ONE.as_bytes()).unwrap());
        assert_eq!(judged(&known, FULL).store, [0]);
        assert_eq!(left(&judged(&known, partial())), &Why::Writing);
        // Nobody writes a timeline any more that the directory's own history has left.
        let history = b"1\t0/3000100\tx\n".to_vec();
        known.histories.local.insert(timeline(2), history);
        let verdict = judged(&known, partial());
        assert_eq!((verdict.store.as_slice(), verdict.partial), (&[0][..], true));
    }

    #[test]
    fn f024_no_segment_goes_where_its_history_is_not() {
        let (text, other) = ("1\t0/3000100\tx\n", "1\t0/3000200\tx\n");
        let judged = |known: &Known| judge(&seen(TWO, FULL, &[ABSENT, ABSENT]), known);
        let verdict = judged(&known(&[], &[&[(2, text)], &[]]));
        assert_eq!((verdict.store.as_slice(), &verdict.left), (&[0][..], &Some(Why::NoHistory)));
        assert_eq!(judged(&known(&[(2, text)], &[&[(2, text)], &[]])).store, [0, 1]);
        let verdict = judged(&known(&[(2, text)], &[&[(2, other)], &[(2, text)]]));
        assert_eq!((verdict.store.as_slice(), &verdict.left), (&[1][..], &Some(Why::OtherHistory)));
        let mut unproven = known(&[(2, text)], &[&[], &[]]);
        unproven.histories.proven.clear();
        assert_eq!(left(&judged(&unproven)), &Why::NoHistory);
        let history = judge(&seen("00000002.history", Content::History, &[ABSENT]), &unproven);
        assert_eq!(left(&history), &Why::Unproven);
        let history = judge(&seen("00000002.history", Content::History, &[SAME]), &unproven);
        assert_eq!(left(&history), &Why::Archived);
    }

    #[test]
    fn a_history_that_a_proven_one_repeats_is_proven() {
        let two = "1\t0/3000100\tx\n";
        let three = "1\t0/3000100\tx\n2\t0/4000100\ty\n";
        let known = |two| {
            let mut known = known(&[(2, two), (3, three)], &[&[]]);
            known.histories.proven.remove(&timeline(2));
            known.histories.prove_ancestors();
            known.histories.proven.contains(&timeline(2))
        };
        assert!(known(two));
        assert!(!known("1\t0/3000200\tanother cluster's\n"));
    }

    #[test]
    fn f001_f003_what_is_no_such_segment_is_told_apart() {
        let known = known(&[], &[&[]]);
        for (error, why) in [
            (
                wal::Error::WrongAddress { expected: 1, found: 0x200_0000 },
                Why::Recycled { holds: Lsn(0x200_0000) },
            ),
            (
                wal::Error::WrongSystem { expected: 1, found: 7 },
                Why::Foreign { system: "7".into() },
            ),
            (wal::Error::BadMagic { found: 0 }, Why::Empty),
        ] {
            let verdict = judge(&seen(ONE, Content::Other(error), &[ABSENT]), &known);
            assert_eq!(left(&verdict), &why);
        }
        let verdict =
            judge(&seen(ONE, Content::Other(wal::Error::BadMagic { found: 7 }), &[ABSENT]), &known);
        assert!(matches!(left(&verdict), Why::Unusable { .. }));
    }
}
