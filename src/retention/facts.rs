//! What retention decides from: values that were found in a repository, nothing that is asked for later.

use std::collections::{BTreeMap, BTreeSet};

use crate::base::Timestamp;
use crate::pg::{ArchivedWal, History, Lsn, SegmentNo, SegmentSize, Stretch, TimelineId};
use crate::repo::{BackupId, BackupType, Summary};

/// A complete backup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// Its id.
    pub id: BackupId,
    /// Its type.
    pub backup_type: BackupType,
    /// What it stands on.
    pub parent: Option<BackupId>,
    /// When it was complete.
    pub finished: Timestamp,
    /// The timeline at its start.
    pub timeline: TimelineId,
    /// The timeline at its end.
    pub timeline_stop: TimelineId,
    /// Where its WAL begins.
    pub start: Lsn,
    /// Where it is consistent.
    pub stop: Lsn,
    /// Whether no page of it was invalid.
    pub is_sound: bool,
    /// Bytes in the store.
    pub stored: u64,
}

impl Candidate {
    /// Nothing for timeline 0, which no server has.
    #[must_use]
    pub fn of(summary: &Summary) -> Option<Self> {
        Some(Self {
            id: summary.id.clone(),
            backup_type: summary.backup_type,
            parent: summary.parent.clone(),
            finished: summary.finished,
            timeline: TimelineId::new(summary.timeline)?,
            timeline_stop: TimelineId::new(summary.timeline_stop)?,
            start: summary.start_lsn,
            stop: summary.stop_lsn,
            is_sound: summary.totals.invalid_pages == 0,
            stored: summary.totals.stored,
        })
    }

    /// The first and the last segment that it needs to become consistent.
    pub(super) fn segments(&self, size: SegmentSize) -> (SegmentNo, SegmentNo) {
        let first = SegmentNo::of(self.start, size);
        (first, SegmentNo::of_end(self.stop, size).map_or(first, |last| last.max(first)))
    }

    /// Whether recovery along a history can begin with it.
    #[must_use]
    pub fn is_on(&self, history: &History) -> bool {
        history.contains_until(self.timeline_stop, self.stop)
    }
}

/// An end of the archive: a timeline that no other one left, or that goes on behind the last one that did.
#[derive(Debug, Clone)]
pub struct End {
    /// The way to it.
    pub history: History,
    /// The newest moment that its own WAL proves; nothing where none is known.
    pub newest: Option<Timestamp>,
}

/// Somebody keeps a backup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pinned {
    /// Why.
    pub reason: String,
    /// Until when; for good without.
    pub until: Option<Timestamp>,
}

/// A backup that may still be completed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Running {
    /// Its id.
    pub id: BackupId,
    /// What it stands on.
    pub parent: Option<BackupId>,
    /// Dead attempts whose packs it may use.
    pub attempts: Vec<BackupId>,
    /// On which timeline it began; nothing where that is not known.
    pub timeline: Option<TimelineId>,
    /// WAL from here on stays.
    pub wal_from: Lsn,
}

/// Somebody reads a backup, and replays WAL behind it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InUse {
    /// The backup.
    pub id: BackupId,
    /// Who, in words.
    pub by: String,
}

/// What becomes of backups that go to another repository before they leave this one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Moving {
    /// Where to.
    pub to: String,
    /// They are there, whole: no rule of the calendar keeps them here.
    pub there: BTreeSet<BackupId>,
    /// No rule keeps them here, and they are to go there first.
    pub waiting: BTreeSet<BackupId>,
}

/// Until when things cannot be removed, as far as that was found out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Locked {
    /// Backups, with everything that belongs to them.
    pub backups: BTreeMap<BackupId, Timestamp>,
    /// Segments, by timeline and position.
    pub wal: Vec<(Stretch, Timestamp)>,
}

/// One history of a cluster: a place in the repository.
#[derive(Debug, Clone)]
pub struct PlaceFacts {
    /// Its system identifier and epoch, for people.
    pub name: String,
    /// When it was registered.
    pub registered: Timestamp,
    /// The complete backups, in any order.
    pub backups: Vec<Candidate>,
    /// Complete ones whose removal was recorded for good: nothing keeps them.
    pub given_up: Vec<Candidate>,
    /// Manifests that cannot be read; where the backup's WAL begins, as far as its begin record tells.
    pub unreadable: Vec<(String, Lsn)>,
    /// Pins, by backup.
    pub pins: BTreeMap<BackupId, Pinned>,
    /// Backups that may still be completed.
    pub running: Vec<Running>,
    /// Backups that died, and whose names are not taken: whoever wakes up may complete one.
    pub interrupted: Vec<Running>,
    /// Backups that are read.
    pub in_use: Vec<InUse>,
    /// What is archived, and not given up yet.
    pub wal: ArchivedWal,
    /// The ends of the archive.
    pub ends: Vec<End>,
    /// What goes to another repository.
    pub moving: Moving,
    /// What cannot be removed yet, whatever the rules say.
    pub locked: Locked,
}

impl PlaceFacts {
    /// Whether all WAL is there that a backup needs to become consistent.
    pub(super) fn has_wal_of(&self, backup: &Candidate) -> bool {
        self.wal_of(backup).into_iter().all(|stretch| self.wal.missing(stretch).is_empty())
    }

    /// The WAL that a backup needs to become consistent. Where the history of a switch in it is not known, all from
    /// its start on, on both timelines.
    pub(super) fn wal_of(&self, backup: &Candidate) -> Vec<Stretch> {
        let size = self.wal.segment_size();
        let (first, last) = backup.segments(self.wal.segment_size());
        let stretch = |timeline, first, last| Stretch { timeline, first, last };
        if backup.timeline == backup.timeline_stop {
            return vec![stretch(backup.timeline, first, last)];
        }
        let Some(history) = self.wal.history(backup.timeline_stop) else {
            return vec![
                stretch(backup.timeline, first, NO_END),
                stretch(backup.timeline_stop, first, NO_END),
            ];
        };
        let mut needed = Vec::new();
        let mut next = first;
        for ancestor in history.ancestors() {
            let switch = SegmentNo::of(ancestor.end, size);
            if ancestor.timeline >= backup.timeline
                && let Some(end) =
                    switch.previous().map(|end| end.min(last)).filter(|end| *end >= next)
            {
                needed.push(stretch(ancestor.timeline, next, end));
            }
            next = next.max(switch);
        }
        if next <= last {
            needed.push(stretch(backup.timeline_stop, next, last));
        }
        needed
    }
}

/// Behind every segment that there can be; one less than the greatest number, so that it has a next.
pub(super) const NO_END: SegmentNo = SegmentNo(u64::MAX - 1);
