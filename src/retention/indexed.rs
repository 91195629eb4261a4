//! What was found, with the backups to be found by their ids: ten thousand of them are asked for their chains.

use std::collections::HashMap;

use super::decide::AHEAD_MAX;
use super::facts::{Candidate, End, NO_END, PlaceFacts};
use crate::base::Timestamp;
use crate::pg::{History, SegmentNo, Stretch};
use crate::repo::BackupId;

/// A place's facts, indexed.
pub(super) struct Indexed<'a> {
    pub(super) facts: &'a PlaceFacts,
    by_id: HashMap<&'a BackupId, &'a Candidate>,
}

impl<'a> Indexed<'a> {
    pub(super) fn of(facts: &'a PlaceFacts) -> Self {
        let by_id = facts.backups.iter().map(|backup| (&backup.id, backup)).collect();
        Self { facts, by_id }
    }

    pub(super) fn find(&self, id: &BackupId) -> Option<&'a Candidate> {
        self.by_id.get(id).copied()
    }

    /// Whether an end of the archive has moments in the window. One of whose own WAL no moment is known may.
    pub(super) fn is_live(&self, end: &End, from: Timestamp, now: Timestamp) -> bool {
        let own = end.history.timeline();
        let finished = self.facts.backups.iter().filter(|backup| {
            backup.timeline_stop == own
                && backup.is_on(&end.history)
                && backup.finished <= now + AHEAD_MAX
        });
        match finished.map(|backup| backup.finished).chain(end.newest).max() {
            Some(newest) => newest >= from,
            None => self.facts.wal.last(own).is_some(),
        }
    }

    /// The backup from which the oldest moments of the window are restored: the newest that was finished before
    /// it, and can be restored; one without invalid pages where there is one.
    pub(super) fn window_start(&self, history: &History, from: Timestamp) -> Option<&'a Candidate> {
        let older = self.facts.backups.iter();
        let older = older.filter(|backup| backup.finished <= from && backup.is_on(history));
        let mut older: Vec<&Candidate> = older.collect();
        older.sort_by_key(|backup| (backup.is_sound, backup.finished, &backup.id));
        let is_able =
            |backup: &&&Candidate| self.has_chain_of(backup) && self.facts.has_wal_of(backup);
        older.iter().rev().find(is_able).copied()
    }

    /// Whether everything that a backup stands on is here.
    fn has_chain_of(&self, backup: &Candidate) -> bool {
        let mut next = backup.parent.as_ref();
        // A chain that is a circle is nobody's, and must not be gone round for ever.
        for _ in 0..=self.facts.backups.len() {
            let Some(id) = next else { return true };
            let Some(parent) = self.find(id) else { return false };
            next = parent.parent.as_ref();
        }
        false
    }

    /// All numbers from a segment on, on every timeline that is known.
    pub(super) fn everything_from(&self, first: SegmentNo) -> Vec<Stretch> {
        let timelines = self.facts.wal.timelines().into_iter();
        timelines.map(|timeline| Stretch { timeline, first, last: NO_END }).collect()
    }
}
