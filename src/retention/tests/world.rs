//! Random histories of a cluster: what happened, hour by hour, and what is found of it.
//!
//! Each segment is written in an hour of its own, whose moment is true whatever clocks said. What can be restored
//! is told from that, segment by segment, and by nothing that `decide` uses.

use std::collections::{BTreeMap, BTreeSet};

use chrono::TimeDelta;
use proptest::prelude::*;

use super::at;
use super::case::ends;
use crate::base::Timestamp;
use crate::pg::{ArchivedWal, History, Lsn, SegmentNo, SegmentSize, Stretch, TimelineId};
use crate::repo::{BackupId, BackupType};
use crate::retention::{Candidate, InUse, Locked, Moving, Pinned, PlaceFacts, Running};

const SIZE: SegmentSize = SegmentSize::DEFAULT;

/// What happens. Numbers choose among what is there.
#[derive(Debug, Clone)]
pub(super) enum Event {
    /// Hours pass, and are archived or not.
    Hours {
        count: u8,
        is_archived: bool,
    },
    /// A backup of so many hours; the server may be promoted within it.
    Backup {
        kind: u8,
        parent: u8,
        hours: u8,
        is_sound: bool,
        is_across: bool,
    },
    /// A copy is promoted where its WAL of some hours ago ends; it becomes the server, or writes for some hours.
    Promoted {
        hours_ago: u8,
        own_hours: u8,
        is_server: bool,
        is_told: bool,
    },
    /// What is taken from now on is stamped by a clock that is so many hours ahead.
    Clock(i16),
    Pin {
        which: u8,
        days: Option<u8>,
    },
    Running {
        which: u8,
    },
    Use {
        which: u8,
    },
    Unreadable {
        which: u8,
    },
    /// A parent is gone that should not be.
    Gone {
        which: u8,
    },
    /// A major upgrade: another history.
    Upgrade,
}

/// Often none.
fn few(most: u8) -> impl Strategy<Value = u8> {
    prop_oneof![Just(0), 0..most]
}

pub(super) fn events() -> impl Strategy<Value = Vec<Event>> {
    use Event::*;
    let event = prop_oneof![
        8 => (1..60_u8, prop::bool::weighted(0.93))
            .prop_map(|(count, is_archived)| Hours { count, is_archived }),
        8 => (0..6_u8, any::<u8>(), 0..12_u8, prop::bool::weighted(0.8), prop::bool::weighted(0.1))
            .prop_map(|(kind, parent, hours, is_sound, is_across)| Backup {
                kind, parent, hours, is_sound, is_across
            }),
        2 => (few(40), few(30), any::<bool>(), prop::bool::weighted(0.8)).prop_map(
            |(hours_ago, own_hours, is_server, is_told)| Promoted {
                hours_ago, own_hours, is_server, is_told
            }
        ),
        1 => prop_oneof![Just(0), Just(0), -500..500_i16, Just(8760)].prop_map(Clock),
        1 => (any::<u8>(), any::<Option<u8>>()).prop_map(|(which, days)| Pin { which, days }),
        1 => any::<u8>().prop_map(|which| Running { which }),
        1 => any::<u8>().prop_map(|which| Use { which }),
        1 => any::<u8>().prop_map(|which| Unreadable { which }),
        1 => any::<u8>().prop_map(|which| Gone { which }),
        1 => prop::bool::weighted(0.3).prop_map(|is| if is { Upgrade } else { Clock(0) }),
    ];
    let last = prop_oneof![2 => Just(None), 1 => (few(40), few(3)).prop_map(Some)];
    (prop::collection::vec(event, 0..70), last).prop_map(|(mut events, last)| {
        events.extend(last.map(|(hours_ago, own_hours)| Promoted {
            hours_ago,
            own_hours,
            is_server: true,
            is_told: true,
        }));
        events
    })
}

/// A timeline, of which the next segment is known.
#[derive(Debug, Clone)]
struct Way {
    history: History,
    next: u64,
    is_told: bool,
}

/// One history of the cluster as it truly was.
#[derive(Debug, Clone)]
pub(super) struct Truth {
    pub(super) facts: PlaceFacts,
    /// When a segment was written.
    pub(super) written: BTreeMap<(TimelineId, u64), Timestamp>,
    ways: Vec<Way>,
    current: usize,
}

fn lsn(number: u64, offset: u64) -> Lsn {
    Lsn(number * u64::from(SIZE.bytes()) + offset)
}

impl Truth {
    fn new(registered: Timestamp, number: usize) -> Self {
        let facts = PlaceFacts {
            name: format!("7-{number}"),
            registered,
            backups: vec![],
            given_up: vec![],
            unreadable: vec![],
            pins: BTreeMap::new(),
            running: vec![],
            interrupted: vec![],
            in_use: vec![],
            wal: ArchivedWal::new(SIZE),
            ends: vec![],
            moving: Moving::default(),
            locked: Locked::default(),
        };
        let history = History::without_ancestors(TimelineId::FIRST);
        let ways = vec![Way { history, next: 1, is_told: true }];
        Self { facts, written: BTreeMap::new(), ways, current: 0 }
    }

    fn write(&mut self, way: usize, moment: Timestamp, is_archived: bool) {
        let way = &mut self.ways[way];
        let (timeline, number) = (way.history.timeline(), way.next);
        way.next += 1;
        self.written.insert((timeline, number), moment);
        if is_archived {
            let number = SegmentNo(number);
            self.facts.wal.add_stretch(Stretch { timeline, first: number, last: number });
        }
    }

    /// Leaves the current timeline so many hours ago.
    fn promote(&mut self, hours_ago: u64, is_told: bool) -> usize {
        let parent = &self.ways[self.current];
        let begun = parent.history.ancestors().last().map_or(lsn(1, 0x28), |parent| parent.end);
        let number = parent.next.saturating_sub(hours_ago).max(1);
        let end = lsn(number, 0x8000).max(begun);
        let own = u32::try_from(self.ways.len()).unwrap() + 1;
        let left = parent.history.timeline();
        let text = format!("{}{left}\t{end}\tx\n", parent.history.render());
        let timeline = TimelineId::new(own).unwrap();
        let history = History::parse(timeline, text.as_bytes()).unwrap();
        self.facts.wal.add_history(history.clone());
        let next = SegmentNo::of(end, SIZE).0;
        self.ways.push(Way { history, next, is_told });
        self.ways.len() - 1
    }

    /// Ends as whoever looks at the archive finds them.
    pub(super) fn found(&self, wal: ArchivedWal) -> PlaceFacts {
        let told = self.ways.iter().filter(|way| way.is_told).map(|way| way.history.timeline());
        let newest = told.filter_map(|timeline| {
            Some((timeline, *self.written.get(&(timeline, wal.last(timeline)?.0))?))
        });
        let ends = ends(&wal, &newest.collect());
        PlaceFacts { wal, ends, ..self.facts.clone() }
    }

    /// What can be restored with these backups and this WAL, as segments on timelines.
    pub(super) fn restorable(
        &self,
        backups: &[Candidate],
        wal: &ArchivedWal,
    ) -> BTreeSet<(TimelineId, u64)> {
        let ids: BTreeMap<&BackupId, &Candidate> = backups.iter().map(|b| (&b.id, b)).collect();
        let is_whole = |backup: &&Candidate| {
            let mut next = backup.parent.as_ref();
            while let Some(id) = next {
                let Some(parent) = ids.get(id) else { return false };
                next = parent.parent.as_ref();
            }
            true
        };
        let mut all = BTreeSet::new();
        for history in self.ways.iter().map(|way| &way.history) {
            for backup in backups.iter().filter(|b| b.is_on(history)).filter(is_whole) {
                let start = SegmentNo::of(backup.start, SIZE).0;
                for number in start.. {
                    let end = lsn(number + 1, 0);
                    let left = history.ancestors().iter().find(|ancestor| end <= ancestor.end);
                    // The segment of a switch is the child's.
                    let own = left.map_or(history.timeline(), |ancestor| ancestor.timeline);
                    if !wal.has(own, SegmentNo(number)) {
                        break;
                    }
                    if end > backup.stop {
                        all.insert((own, number));
                    }
                }
            }
        }
        all
    }
}

/// All histories, and when it is.
#[derive(Debug, Clone)]
pub(super) struct World {
    pub(super) places: Vec<Truth>,
    pub(super) now: Timestamp,
}

impl World {
    pub(super) fn of(events: &[Event]) -> Self {
        let now = at("2026-01-01T00:00:00Z");
        let mut world = Self { places: vec![Truth::new(now, 1)], now };
        world.play(events);
        world
    }

    /// What happens then, by clocks that are right at first.
    pub(super) fn play(&mut self, events: &[Event]) {
        let mut clock = TimeDelta::zero();
        for event in events {
            match event {
                Event::Clock(hours) => clock = TimeDelta::hours((*hours).into()),
                Event::Upgrade => {
                    self.pass(1, true);
                    let number = self.places.len() + 1;
                    self.places.push(Truth::new(self.now, number));
                }
                Event::Hours { count, is_archived } => self.pass(*count, *is_archived),
                Event::Backup { .. } => self.back_up(event, clock),
                other => self.happen(other),
            }
        }
        // Right after a promotion nothing of the new timeline is archived.
        if !matches!(events.last(), Some(Event::Promoted { .. })) {
            self.pass(1, true);
        }
        for place in &mut self.places {
            place.facts = place.found(place.facts.wal.clone());
        }
    }

    fn pass(&mut self, hours: u8, is_archived: bool) {
        for _ in 0..hours {
            let place = self.places.last_mut().unwrap();
            place.write(place.current, self.now, is_archived);
            self.now += TimeDelta::hours(1);
        }
    }

    fn back_up(&mut self, event: &Event, clock: TimeDelta) {
        let Event::Backup { kind, parent, hours, is_sound, is_across } = *event else { return };
        self.pass(1, true);
        let place = self.places.last().unwrap();
        let way = &place.ways[place.current];
        let (timeline, start) = (way.history.timeline(), lsn(way.next, 0x28));
        let kind = match kind {
            0..3 => BackupType::Full,
            3 => BackupType::Differential,
            _ => BackupType::Incremental,
        };
        let able = place.facts.backups.iter().filter(|backup| {
            backup.is_on(&way.history)
                && (kind != BackupType::Differential || backup.backup_type == BackupType::Full)
        });
        let able: Vec<&Candidate> = able.collect();
        let chosen = able.get(usize::from(parent) % able.len().max(1));
        let parent = chosen.filter(|_| kind != BackupType::Full).map(|parent| parent.id.clone());
        let kind = if parent.is_none() { BackupType::Full } else { kind };
        let id = BackupId::of(kind, parent.as_ref(), self.now + clock);
        self.pass(hours / 2, true);
        if is_across {
            let place = self.places.last_mut().unwrap();
            place.current = place.promote(0, true);
        }
        self.pass(hours - hours / 2, true);
        let place = self.places.last_mut().unwrap();
        if place.facts.backups.iter().any(|backup| backup.id == id) {
            return;
        }
        let way = &place.ways[place.current];
        let (timeline_stop, stop) = (way.history.timeline(), lsn(way.next, 0x9000));
        let (finished, stored) = (self.now + clock, 1 << 30);
        let backup_type = kind;
        place.facts.backups.push(Candidate {
            id,
            backup_type,
            parent,
            finished,
            timeline,
            timeline_stop,
            start,
            stop,
            is_sound,
            stored,
        });
        self.pass(1, true);
    }

    fn happen(&mut self, event: &Event) {
        let now = self.now;
        let place = self.places.last_mut().unwrap();
        let count = place.facts.backups.len();
        let chosen =
            |which: &u8| Some(usize::from(*which)).filter(|_| count > 0).map(|n| n % count);
        match event {
            Event::Promoted { hours_ago, own_hours, is_server, is_told } => {
                let way = place.promote((*hours_ago).into(), *is_told);
                for hour in 0..*own_hours {
                    place.write(way, now + TimeDelta::hours(hour.into()), true);
                }
                if *is_server {
                    place.current = way;
                    self.now += TimeDelta::hours((*own_hours).into());
                }
            }
            Event::Pin { which, days } => {
                let Some(index) = chosen(which) else { return };
                let until = days.map(|days| now + TimeDelta::days(days.into()));
                let pin = Pinned { reason: "audit".into(), until };
                place.facts.pins.insert(place.facts.backups[index].id.clone(), pin);
            }
            Event::Running { which } => {
                let parent = chosen(which).map(|index| place.facts.backups[index].id.clone());
                let way = &place.ways[place.current];
                let id = BackupId::of(BackupType::Incremental, parent.as_ref(), now);
                let (timeline, wal_from) = (Some(way.history.timeline()), lsn(way.next, 0));
                let running = Running { id, parent, attempts: vec![], timeline, wal_from };
                place.facts.running.push(running);
            }
            Event::Use { which } => {
                let Some(index) = chosen(which) else { return };
                let (id, by) = (place.facts.backups[index].id.clone(), "somebody".into());
                place.facts.in_use.push(InUse { id, by });
            }
            Event::Unreadable { which } => {
                let Some(index) = chosen(which) else { return };
                let backup = place.facts.backups.remove(index);
                place.facts.unreadable.push((backup.id.to_string(), backup.start));
            }
            Event::Gone { which } => {
                let Some(index) = chosen(which) else { return };
                place.facts.backups.remove(index);
            }
            _ => {}
        }
    }

    pub(super) fn facts(&self) -> Vec<PlaceFacts> {
        self.places.iter().map(|place| place.facts.clone()).collect()
    }
}
