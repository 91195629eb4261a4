//! What was found, with the backups to be found by their ids: ten thousand of them are asked for their chains.

use std::collections::{HashMap, HashSet};

use super::facts::{Candidate, End, NO_END, PlaceFacts};
use crate::base::Timestamp;
use crate::pg::{History, SegmentNo, Stretch, TimelineId};
use crate::repo::BackupId;

/// A place's facts, indexed.
pub(super) struct Indexed<'a> {
    pub(super) facts: &'a PlaceFacts,
    /// Later times are not believed.
    believed: Timestamp,
    /// When a history was registered that has taken this one's place.
    pub(super) replaced: Option<Timestamp>,
    by_id: HashMap<&'a BackupId, &'a Candidate>,
    /// Everything that they stand on is here.
    whole: HashSet<&'a BackupId>,
}

impl<'a> Indexed<'a> {
    pub(super) fn of(
        facts: &'a PlaceFacts,
        believed: Timestamp,
        replaced: Option<Timestamp>,
    ) -> Self {
        let by_id = facts.backups.iter().map(|backup| (&backup.id, backup)).collect();
        let whole = whole_chains(&by_id);
        Self { facts, believed, replaced, by_id, whole }
    }

    pub(super) fn find(&self, id: &BackupId) -> Option<&'a Candidate> {
        self.by_id.get(id).copied()
    }

    /// Whether an end of the archive has moments in the window. One of whose own WAL no moment is known may.
    pub(super) fn is_live(&self, end: &End, from: Timestamp) -> bool {
        match self.newest_of(end) {
            Some(newest) => newest >= from,
            None => self.has_wal(end) || !(self.is_passed(end) || self.is_followed(end, from)),
        }
    }

    fn newest_of(&self, end: &End) -> Option<Timestamp> {
        let own = end.history.timeline();
        let its = |backup: &&Candidate| {
            backup.timeline_stop == own
                && backup.is_on(&end.history)
                && backup.finished <= self.believed
        };
        let finished = self.facts.backups.iter().filter(its).map(|backup| backup.finished);
        finished.chain(end.newest).max()
    }

    fn has_wal(&self, end: &End) -> bool {
        self.facts.wal.last(end.history.timeline()).is_some()
    }

    /// Whether all that can be restored on the way to an end without WAL of its own is also on the way to one
    /// that has some. Right after a promotion it is not: the history file comes before the first segment.
    fn is_passed(&self, end: &End) -> bool {
        let Some(parent) = end.history.ancestors().last() else { return false };
        self.facts.ends.iter().any(|other| {
            let way = &other.history;
            let goes_through = way.timeline() == parent.timeline
                || way.switch_point(parent.timeline).is_some_and(|left| left >= parent.end);
            way.timeline() != end.history.timeline()
                && goes_through
                && (self.has_wal(other) || self.newest_of(other).is_some())
        })
    }

    /// Whether a later timeline has a backup from before the window, or a later history was registered before it:
    /// what an earlier timeline without WAL of its own leads to was written before that one began, for timelines
    /// are numbered in the order in which they begin.
    fn is_followed(&self, end: &End, from: Timestamp) -> bool {
        let own = end.history.timeline();
        let is_later = |b: &Candidate| b.timeline_stop > own && b.finished <= from;
        self.replaced.is_some_and(|at| at <= from) || self.facts.backups.iter().any(is_later)
    }

    /// The backups on a way that were finished within the window.
    pub(super) fn in_window(&self, history: &History, from: Timestamp) -> Vec<&'a Candidate> {
        let all = self.facts.backups.iter();
        let within = |b: &&Candidate| b.finished >= from && b.finished <= self.believed;
        all.filter(within).filter(|backup| backup.is_on(history)).collect()
    }

    /// The backups from which the oldest moments of the window are restored, the newest first: the newest that
    /// was finished before it and can be restored, and if that one has invalid pages, the newest without.
    /// Where clocks jumped, also those that only claim to be older: by their positions they lie behind it.
    pub(super) fn window_starts(&self, history: &History, from: Timestamp) -> Vec<&'a Candidate> {
        let older = self.facts.backups.iter().filter(|backup| {
            backup.finished <= from
                && backup.is_on(history)
                && self.whole.contains(&backup.id)
                && self.facts.has_wal_of(backup)
        });
        let mut older: Vec<&Candidate> = older.collect();
        older.sort_by(|a, b| (b.finished, &b.id).cmp(&(a.finished, &a.id)));
        let sound = older.iter().position(|backup| backup.is_sound);
        let in_window = self.in_window(history, from);
        // The newest begins it: what lies behind that is the newest itself where clocks were right.
        let begun = in_window.iter().chain(older.first()).map(|backup| backup.stop).min();
        let is_start = |index: usize, backup: &Candidate| {
            sound == Some(index) || begun.is_some_and(|begun| backup.stop >= begun)
        };
        let chosen = older.iter().enumerate().filter(|(index, backup)| is_start(*index, backup));
        chosen.map(|(_, backup)| *backup).collect()
    }

    /// All numbers from a segment on, on every timeline that is known.
    pub(super) fn everything_from(&self, first: SegmentNo) -> Vec<Stretch> {
        let timelines = self.facts.wal.timelines().into_iter();
        let all = |timeline: TimelineId| Stretch { timeline, first, last: NO_END };
        timelines.map(all).collect()
    }
}

/// The backups of which nothing is missing that they stand on. Each is looked at once: chains may be long, and one
/// that is a circle is nobody's.
fn whole_chains<'a>(by_id: &HashMap<&'a BackupId, &'a Candidate>) -> HashSet<&'a BackupId> {
    let mut children: HashMap<&BackupId, Vec<&'a BackupId>> = HashMap::new();
    let (mut whole, mut next) = (HashSet::new(), Vec::new());
    for backup in by_id.values() {
        match &backup.parent {
            None => next.push(&backup.id),
            Some(parent) => children.entry(parent).or_default().push(&backup.id),
        }
    }
    while let Some(id) = next.pop() {
        if whole.insert(id) {
            next.extend(children.get(id).into_iter().flatten());
        }
    }
    whole
}
