//! The rules once more, as plainly as they can be said and without a thought for speed: for calendars, where
//! nothing is pinned, running or read, and no backup crosses a switch.

use std::collections::BTreeSet;

use chrono::{Datelike as _, Days, TimeDelta};

use crate::base::Timestamp;
use crate::pg::SegmentNo;
use crate::repo::BackupId;
use crate::retention::{Candidate, PlaceFacts, Policy};

type Found<'a> = (usize, &'a Candidate);

/// What is kept of each place, all of them one cluster's.
pub(super) fn kept(
    policy: &Policy,
    now: Timestamp,
    places: &[PlaceFacts],
) -> Vec<BTreeSet<BackupId>> {
    let all: Vec<Found<'_>> = places
        .iter()
        .enumerate()
        .flat_map(|(index, place)| place.backups.iter().map(move |backup| (index, backup)))
        .collect();
    let believed: Vec<Found<'_>> =
        all.iter().copied().filter(|(_, b)| b.finished <= now + TimeDelta::hours(1)).collect();
    let mut kept: Vec<Found<'_>> = Vec::new();
    kept.extend(all.iter().filter(|(_, b)| b.finished > now + TimeDelta::hours(1)));
    kept.extend(by_calendar(policy, places, &believed));
    kept.extend(by_window(policy, now, places, &believed));
    let mut ids = vec![BTreeSet::new(); places.len()];
    for (place, backup) in kept {
        let mut next = Some(backup.id.clone());
        while let Some(id) = next {
            next = places[place].backups.iter().find(|b| b.id == id).and_then(|b| b.parent.clone());
            ids[place].insert(id);
        }
    }
    ids
}

fn by_calendar<'a>(
    policy: &Policy,
    places: &[PlaceFacts],
    believed: &[Found<'a>],
) -> Vec<Found<'a>> {
    let mut kept = Vec::new();
    let fulls: Vec<Found<'_>> =
        believed.iter().copied().filter(|(_, b)| b.parent.is_none()).collect();
    let is_good = |(place, full): &Found<'_>| full.is_sound && has_wal(&places[*place], full);
    let good: Vec<Found<'_>> = fulls.iter().copied().filter(is_good).collect();
    for (kind, count) in
        [policy.daily, policy.weekly, policy.monthly, policy.yearly].into_iter().enumerate()
    {
        let key = |(_, full): &Found<'_>| period(kind, full.finished, policy);
        let with_good: BTreeSet<String> = good.iter().map(key).collect();
        let with_others: BTreeSet<String> =
            fulls.iter().map(key).filter(|period| !with_good.contains(period)).collect();
        let later = |periods: &BTreeSet<String>, than: &String| {
            periods.iter().filter(|period| *period > than).count() < count as usize
        };
        let chosen_good = with_good.iter().filter(|period| later(&with_good, period));
        let of = |found: &[Found<'a>], period: &String| {
            found.iter().copied().filter(|f| key(f) == *period).max_by_key(|(_, f)| f.finished)
        };
        kept.extend(chosen_good.filter_map(|period| of(&good, period)));
        let chosen = with_others
            .iter()
            .filter(|period| later(&with_good, period) && later(&with_others, period));
        kept.extend(chosen.filter_map(|period| of(&fulls, period)));
    }
    let newer = |among: &[Found<'_>], than: &Candidate| {
        among.iter().filter(|(_, b)| b.finished > than.finished).count()
    };
    kept.extend(good.iter().filter(|(_, b)| newer(&good, b) < policy.min_full.max(1) as usize));
    kept.extend(believed.iter().filter(|(_, b)| newer(believed, b) < policy.last as usize));
    kept.extend(fulls.iter().filter(|(_, full)| newer(&fulls, full) == 0));
    if let Some((place, last)) = good.iter().find(|(_, full)| newer(&good, full) == 0) {
        kept.extend(believed.iter().filter(|(p, b)| p == place && b.id.root() == last.id));
    }
    kept
}

fn by_window<'a>(
    policy: &Policy,
    now: Timestamp,
    places: &[PlaceFacts],
    believed: &[Found<'a>],
) -> Vec<Found<'a>> {
    let moments = places.iter().flat_map(|place| &place.ends).filter_map(|end| end.newest);
    let newest = moments.chain(believed.iter().map(|(_, backup)| backup.finished)).max();
    let from = newest.unwrap_or(now).min(now) - TimeDelta::from_std(policy.window).unwrap();
    let mut kept: Vec<Found<'_>> =
        believed.iter().copied().filter(|(_, b)| b.finished >= from).collect();
    for (index, place) in places.iter().enumerate() {
        for end in &place.ends {
            let its =
                || believed.iter().copied().filter(|(p, b)| *p == index && b.is_on(&end.history));
            let own = its().filter(|(_, b)| b.timeline_stop == end.history.timeline());
            let latest = own.map(|(_, b)| b.finished).chain(end.newest).max().unwrap();
            if latest < from {
                continue;
            }
            let able = || {
                its().filter(|(_, b)| b.finished <= from && is_whole(place, b) && has_wal(place, b))
            };
            let start = able().max_by_key(|(_, backup)| backup.finished);
            let sound = able().filter(|(_, b)| b.is_sound).max_by_key(|(_, b)| b.finished);
            let in_window = its().filter(|(_, b)| b.finished >= from);
            let lowest = in_window.chain(start).map(|(_, b)| b.stop).min();
            kept.extend(start.into_iter().chain(sound));
            kept.extend(able().filter(|(_, b)| lowest.is_some_and(|lowest| b.stop >= lowest)));
        }
    }
    let roots: BTreeSet<_> = kept.iter().map(|(place, b)| (*place, b.id.root())).collect();
    let of_chains = places
        .iter()
        .enumerate()
        .flat_map(|(index, place)| place.backups.iter().map(move |backup| (index, backup)));
    let of_chains: Vec<(usize, BackupId)> = of_chains
        .filter(|(place, backup)| roots.contains(&(*place, backup.id.root())))
        .map(|(place, backup)| (place, backup.id.clone()))
        .collect();
    kept.extend(believed.iter().filter(|(p, b)| of_chains.contains(&(*p, b.id.clone()))));
    kept
}

/// The day, the Monday, the month or the year, in an order that is also that of texts.
fn period(kind: usize, moment: Timestamp, policy: &Policy) -> String {
    let day = moment.with_timezone(&policy.zone).date_naive();
    match kind {
        0 => day.to_string(),
        1 => (day - Days::new(day.weekday().num_days_from_monday().into())).to_string(),
        2 => day.format("%Y-%m").to_string(),
        _ => day.format("%Y").to_string(),
    }
}

fn has_wal(place: &PlaceFacts, backup: &Candidate) -> bool {
    let size = place.wal.segment_size();
    let numbers = SegmentNo::of(backup.start, size).0..=SegmentNo::of(backup.stop, size).0;
    numbers.into_iter().all(|number| place.wal.has(backup.timeline, SegmentNo(number)))
}

fn is_whole(place: &PlaceFacts, backup: &Candidate) -> bool {
    let mut next = backup.parent.clone();
    while let Some(id) = next {
        let Some(parent) = place.backups.iter().find(|b| b.id == id) else { return false };
        next = parent.parent.clone();
    }
    true
}
