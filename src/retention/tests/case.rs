//! Calendars as people write them: when backups ran, what went wrong, and what was there at a moment.
//!
//! Days are those of the case's zone, moments are UTC. A backup takes half an hour, a segment is written each
//! hour; `tests/golden/retention/README.md` has the words.

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::{Datelike as _, NaiveDate, NaiveTime, TimeDelta, TimeZone as _};
use chrono_tz::Tz;

use super::{Told, at, days, nothing};
use crate::base::Timestamp;
use crate::pg::{ArchivedWal, History, SegmentNo, SegmentSize, Stretch, TimelineId};
use crate::repo::{BackupId, BackupType};
use crate::retention::{Candidate, End, PlaceFacts, Policy};

/// What a text tells.
pub(super) struct Case {
    pub(super) policy: Policy,
    pub(super) now: Timestamp,
    /// So many backups are kept at most on any day.
    pub(super) most: usize,
    pub(super) places: Vec<Place>,
}

/// One history of the cluster.
pub(super) struct Place {
    name: String,
    pub(super) begun: Timestamp,
    archived: Vec<(TimelineId, Timestamp)>,
    left: Vec<(TimelineId, TimelineId, Timestamp)>,
    pub(super) taken: Vec<Taken>,
}

/// A backup, and when it was complete: clocks may tell it otherwise.
pub(super) struct Taken {
    pub(super) complete: Timestamp,
    pub(super) candidate: Candidate,
}

/// A backup that began.
type Begun = (Timestamp, BackupType, TimelineId);

/// Days with something about them.
#[derive(Default)]
struct Oddities {
    missed: Vec<(NaiveDate, NaiveDate)>,
    unsound: Vec<(NaiveDate, NaiveDate)>,
    clock: Vec<(NaiveDate, NaiveDate, TimeDelta)>,
}

fn date(text: &str) -> NaiveDate {
    text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn timeline(text: &str) -> TimelineId {
    TimelineId::from_decimal(text).unwrap()
}

fn span_of_days(text: &str) -> Duration {
    days(text.strip_suffix('d').and_then(|count| count.parse().ok()).expect("days"))
}

fn policy(words: &[&str]) -> Policy {
    let mut policy = nothing();
    for (name, value) in words.iter().filter_map(|word| word.split_once('=')) {
        let number = || value.parse().unwrap_or_else(|error| panic!("{value}: {error}"));
        match name {
            "daily" => policy.daily = number(),
            "weekly" => policy.weekly = number(),
            "monthly" => policy.monthly = number(),
            "yearly" => policy.yearly = number(),
            "last" => policy.last = number(),
            "min_full" => policy.min_full = number(),
            "window" => policy.window = span_of_days(value),
            _ => panic!("no such rule: {name}"),
        }
    }
    policy
}

/// Reads a case.
pub(super) fn case(text: &str) -> Case {
    let mut case =
        Case { policy: nothing(), now: at("2000-01-01T00:00:00Z"), most: 0, places: vec![] };
    let mut zone = Tz::UTC;
    let (mut begun, mut oddities): (Vec<Vec<Begun>>, Vec<Oddities>) = (vec![], vec![]);
    for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            ["policy", rules @ ..] => case.policy = policy(rules),
            ["zone", name] => zone = name.parse().unwrap(),
            ["now", moment] => case.now = at(moment),
            ["most", count] => case.most = count.parse().unwrap(),
            ["place", name, "from", moment] => {
                let (archived, left, taken) = (vec![], vec![], vec![]);
                let name = (*name).to_owned();
                case.places.push(Place { name, begun: at(moment), archived, left, taken });
                begun.push(vec![]);
                oddities.push(Oddities::default());
            }
            ["timeline", own, "leaves", parent, "at", moment] => {
                let left = (timeline(own), timeline(parent), at(moment));
                case.places.last_mut().unwrap().left.push(left);
            }
            ["wal", own, "until", moment] => {
                let archived = (timeline(own), at(moment));
                case.places.last_mut().unwrap().archived.push(archived);
            }
            ["missed", first, last] => {
                oddities.last_mut().unwrap().missed.push((date(first), date(last)));
            }
            ["unsound", first, last] => {
                oddities.last_mut().unwrap().unsound.push((date(first), date(last)));
            }
            ["clock", shift, first, last] => {
                let hours = shift.strip_suffix('h').and_then(|hours| hours.parse().ok());
                let shift = TimeDelta::hours(hours.expect("hours"));
                oddities.last_mut().unwrap().clock.push((date(first), date(last), shift));
            }
            _ => begun.last_mut().unwrap().extend(series(&words, zone)),
        }
    }
    case.policy.zone = zone;
    for ((place, begun), oddities) in case.places.iter_mut().zip(begun).zip(oddities) {
        place.take(begun, &oddities, zone);
    }
    case
}

/// `full daily at 02:00 from 2027-01-01 to 2027-12-31 on 1`, or on days like `Sat,Sun`.
fn series(words: &[&str], zone: Tz) -> Vec<Begun> {
    let [kind, which, "at", time, "from", first, "to", last, "on", own] = words else {
        panic!("what is this: {words:?}")
    };
    let kind = match *kind {
        "full" => BackupType::Full,
        "diff" => BackupType::Differential,
        "incr" => BackupType::Incremental,
        _ => panic!("no such type: {kind}"),
    };
    let all = date(first).iter_days().take_while(|day| *day <= date(last));
    let days = all.filter(|day| *which == "daily" || which.contains(&day.weekday().to_string()));
    let time: NaiveTime = format!("{time}:00").parse().unwrap();
    let moments = days.map(|day| {
        let local = day.and_time(time);
        // In the hour that there is not, an hour later.
        let later = || zone.from_local_datetime(&(local + TimeDelta::hours(1))).earliest();
        zone.from_local_datetime(&local).earliest().or_else(later).unwrap().to_utc()
    });
    moments.map(|moment| (moment, kind, timeline(own))).collect()
}

impl Place {
    fn take(&mut self, mut begun: Vec<Begun>, oddities: &Oddities, zone: Tz) {
        let told = Told { begun: self.begun, ..Told::from("2000-01-01T00:00:00Z") };
        let size = SegmentSize::DEFAULT;
        begun.sort_by_key(|(moment, ..)| *moment);
        for (moment, kind, timeline) in begun {
            let day = moment.with_timezone(&zone).date_naive();
            let is_in = |range: &&(NaiveDate, NaiveDate)| (range.0..=range.1).contains(&day);
            if oddities.missed.iter().any(|range| is_in(&range)) {
                continue;
            }
            let shifts = oddities.clock.iter().filter(|range| (range.0..=range.1).contains(&day));
            let shift = shifts.map(|(.., shift)| *shift).next().unwrap_or_default();
            let latest = self.taken.iter().rev().map(|taken| &taken.candidate.id);
            let parent = match kind {
                BackupType::Full => None,
                BackupType::Differential => latest.clone().find(|id| id.root() == **id),
                BackupType::Incremental => latest.clone().next(),
            };
            let complete = moment + TimeDelta::minutes(30);
            let begin = |moment| told.segment_at(moment).begin(size).unwrap();
            let candidate = Candidate {
                id: BackupId::of(kind, parent, moment + shift),
                backup_type: kind,
                parent: parent.cloned(),
                finished: complete + shift,
                timeline,
                timeline_stop: timeline,
                start: begin(moment).checked_add(0x28).unwrap(),
                stop: begin(complete).checked_add(0x100).unwrap(),
                is_sound: !oddities.unsound.iter().any(|range| is_in(&range)),
                stored: 1 << 30,
            };
            self.taken.push(Taken { complete, candidate });
        }
    }

    /// What there was at a moment, if nothing had ever been removed.
    pub(super) fn facts_at(&self, moment: Timestamp) -> PlaceFacts {
        let mut told = Told::from("2000-01-01T00:00:00Z");
        (told.begun, told.facts.registered) = (self.begun, self.begun);
        told.facts.name.clone_from(&self.name);
        let taken = self.taken.iter().filter(|taken| taken.complete <= moment);
        told.facts.backups = taken.map(|taken| taken.candidate.clone()).collect();
        for (own, parent, when) in self.left.iter().filter(|(.., when)| *when <= moment) {
            told = told.promoted(own.get(), parent.get(), &when.to_rfc3339());
        }
        let mut newest = BTreeMap::new();
        for (own, until) in &self.archived {
            let Some(history) = told.facts.wal.history(*own) else { continue };
            let switch = history.ancestors().last().map(|parent| parent.end);
            let first = switch.map_or(SegmentNo(1), |end| SegmentNo::of(end, SegmentSize::DEFAULT));
            let until = moment.min(*until);
            let last = told.segment_at(until);
            told.facts.wal.add_stretch(Stretch { timeline: *own, first, last });
            newest.insert(*own, until);
        }
        told.facts.ends = ends(&told.facts.wal, &newest);
        told.facts
    }
}

/// The timelines that no other one left, or that go on behind the last one that did.
pub(super) fn ends(wal: &ArchivedWal, newest: &BTreeMap<TimelineId, Timestamp>) -> Vec<End> {
    let ways = wal.timelines().into_iter().filter_map(|timeline| wal.history(timeline));
    let is_end = |way: &History| {
        let behind =
            |left| wal.last(way.timeline()) > Some(SegmentNo::of(left, wal.segment_size()));
        wal.left_at(way.timeline()).is_none_or(behind)
    };
    let end = |way: History| End { newest: newest.get(&way.timeline()).copied(), history: way };
    ways.filter(is_end).map(end).collect()
}

/// What is left of an archive.
pub(super) fn without(wal: &ArchivedWal, removed: &ArchivedWal) -> ArchivedWal {
    let mut left = ArchivedWal::new(wal.segment_size());
    let ways = wal.timelines().into_iter().filter_map(|timeline| wal.history(timeline));
    ways.filter(|way| !way.ancestors().is_empty()).for_each(|way| left.add_history(way));
    let stretches = wal.stretches().flat_map(|stretch| removed.missing(stretch));
    stretches.for_each(|stretch| left.add_stretch(stretch));
    left
}
