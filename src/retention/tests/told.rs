//! One server's history, told step by step.

use std::collections::BTreeMap;

use chrono::TimeDelta;

use super::at;
use crate::base::Timestamp;
use crate::pg::{ArchivedWal, History, Lsn, SegmentNo, SegmentSize, Stretch, TimelineId};
use crate::repo::{BackupId, BackupType};
use crate::retention::{Candidate, End, Locked, Moving, PlaceFacts};

/// One server's history, in which a segment is written each hour.
#[derive(Clone)]
pub(super) struct Told {
    pub(super) facts: PlaceFacts,
    pub(super) begun: Timestamp,
}

impl Told {
    /// Registered, and archived from then on.
    pub(super) fn from(begun: &str) -> Self {
        let facts = PlaceFacts {
            name: "7-1".into(),
            registered: at(begun),
            backups: Vec::new(),
            given_up: Vec::new(),
            unreadable: Vec::new(),
            pins: BTreeMap::new(),
            running: Vec::new(),
            interrupted: Vec::new(),
            in_use: Vec::new(),
            wal: ArchivedWal::new(SegmentSize::DEFAULT),
            ends: Vec::new(),
            moving: Moving::default(),
            locked: Locked::default(),
        };
        Self { facts, begun: at(begun) }
    }

    /// The segment that was written at a moment.
    pub(super) fn segment_at(&self, moment: Timestamp) -> SegmentNo {
        let hours = (moment - self.begun).num_hours();
        SegmentNo(u64::try_from(hours).unwrap_or_default() + 1)
    }

    fn lsn_at(&self, moment: Timestamp) -> Lsn {
        let begin = self.segment_at(moment).begin(SegmentSize::DEFAULT).unwrap();
        Lsn(begin.0 + 0x28)
    }

    /// Everything is archived on a timeline until then.
    pub(super) fn archived_until(mut self, timeline: u32, until: &str) -> Self {
        let timeline = TimelineId::new(timeline).unwrap();
        let first = match self.facts.wal.history(timeline).as_ref().map(History::ancestors) {
            Some([.., parent]) => SegmentNo::of(parent.end, SegmentSize::DEFAULT),
            _ => SegmentNo(1),
        };
        let last = self.segment_at(at(until));
        self.facts.wal.add_stretch(Stretch { timeline, first, last });
        let history = self.facts.wal.history(timeline).unwrap();
        self.facts.ends.retain(|end| !history.includes(end.history.timeline()));
        self.facts.ends.push(End { history, newest: Some(at(until)) });
        self
    }

    /// A timeline leaves its parent at a moment.
    pub(super) fn promoted(mut self, timeline: u32, parent: u32, when: &str) -> Self {
        let switch = self.lsn_at(at(when));
        let before = self.facts.wal.history(TimelineId::new(parent).unwrap()).unwrap();
        let text = format!("{}{parent}\t{switch}\tx\n", before.render());
        let history = History::parse(TimelineId::new(timeline).unwrap(), text.as_bytes()).unwrap();
        self.facts.wal.add_history(history);
        self
    }

    /// A backup on timeline 1 that took half an hour.
    pub(super) fn backup(self, id: &str, parent: Option<&str>) -> Self {
        self.backup_on(1, id, parent)
    }

    pub(super) fn backup_on(mut self, timeline: u32, id: &str, parent: Option<&str>) -> Self {
        let id: BackupId = id.parse().unwrap();
        let begun = chrono::NaiveDateTime::parse_from_str(id.own_time(), "%Y%m%d-%H%M%S");
        let begun = begun.unwrap().and_utc();
        let finished = begun + TimeDelta::minutes(30);
        let timeline = TimelineId::new(timeline).unwrap();
        self.facts.backups.push(Candidate {
            backup_type: id.backup_type(),
            id,
            parent: parent.map(|parent| parent.parse().unwrap()),
            finished,
            timeline,
            timeline_stop: timeline,
            start: self.lsn_at(begun),
            stop: Lsn(self.lsn_at(finished).0 + 0x100),
            is_sound: true,
            stored: 1 << 30,
        });
        self
    }

    pub(super) fn full(self, day: &str) -> Self {
        self.backup(&format!("{day}-020000F"), None)
    }

    pub(super) fn change(mut self, id: &str, change: impl FnOnce(&mut Candidate)) -> Self {
        let found = self.facts.backups.iter_mut().find(|backup| backup.id.as_str() == id);
        change(found.unwrap_or_else(|| panic!("no {id}")));
        self
    }
}

#[test]
fn the_type_is_that_of_the_name() {
    let told = Told::from("2026-11-01T00:00:00Z").full("20261101");
    assert_eq!(told.facts.backups[0].backup_type, BackupType::Full);
    assert_eq!(told.facts.backups[0].start, Lsn(0x3000028));
}
