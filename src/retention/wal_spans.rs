//! Which WAL stays: a set of ranges of numbers on timelines, each with a reason.
//!
//! The range of a way to an end goes on each of its timelines up to the segment in which that was left; what was
//! written there behind it is on the way to another end, or on none.

use std::collections::{BTreeMap, BTreeSet};

use super::facts::{Candidate, NO_END, PlaceFacts};
use super::indexed::Indexed;
use super::reason::{Reason, WalReason};
use crate::base::Timestamp;
use crate::pg::{History, SegmentNo, SegmentSize, Stretch, TimelineId};
use crate::repo::BackupId;

/// What stays of a place's WAL, archived or not. What was written before the first backup stays until there is
/// one, but not that of a history that a later one replaced, when the window has passed it.
pub(super) fn wal_spans(
    indexed: &Indexed<'_>,
    kept: &BTreeMap<BackupId, BTreeSet<Reason>>,
    window_from: Timestamp,
) -> Vec<(Stretch, WalReason)> {
    let facts = indexed.facts;
    let mut spans = Vec::new();
    let is_over = || {
        indexed.replaced.is_some()
            && !facts.ends.iter().any(|end| indexed.is_live(end, window_from))
    };
    if facts.backups.is_empty() && facts.unreadable.is_empty() && !is_over() {
        let all = indexed.everything_from(SegmentNo(0)).into_iter();
        spans.extend(all.map(|stretch| (stretch, WalReason::NoBackup)));
    }
    window(indexed, kept, window_from, &mut spans);
    backups(facts, kept, &mut spans);
    wishes(indexed, &mut spans);
    for timeline in facts.wal.timelines() {
        if facts.wal.history(timeline).is_none() {
            let all = Stretch { timeline, first: SegmentNo(0), last: NO_END };
            spans.push((all, WalReason::UnknownHistory));
        }
    }
    let key = |(stretch, reason): &(Stretch, WalReason)| {
        (stretch.timeline, stretch.first, stretch.last, reason.clone())
    };
    spans.sort_by_cached_key(key);
    spans.dedup();
    spans
}

type Spans = Vec<(Stretch, WalReason)>;

/// A range on every timeline of a history, up to the segment in which it was left.
fn along(history: &History, first: SegmentNo, size: SegmentSize) -> Vec<Stretch> {
    let ancestors = history.ancestors().iter();
    let left = ancestors.map(|ancestor| (ancestor.timeline, SegmentNo::of(ancestor.end, size)));
    let all = left.chain([(history.timeline(), NO_END)]);
    let all = all.map(|(timeline, last)| Stretch { timeline, first, last });
    all.filter(|stretch| stretch.first <= stretch.last).collect()
}

fn window(
    indexed: &Indexed<'_>,
    kept: &BTreeMap<BackupId, BTreeSet<Reason>>,
    from: Timestamp,
    spans: &mut Spans,
) {
    let facts = indexed.facts;
    let size = facts.wal.segment_size();
    for end in facts.ends.iter().filter(|end| indexed.is_live(end, from)) {
        let history = &end.history;
        let starts = indexed.window_starts(history, from);
        if starts.is_empty() {
            // Of a way that no backup is left on nothing can be restored but what its own server brings.
            let timeline = history.timeline();
            let is_left = |b: &Candidate| b.is_on(history) && kept.contains_key(&b.id);
            let young = match facts.backups.iter().any(is_left) {
                true => along(history, SegmentNo(0), size),
                false => vec![Stretch { timeline, first: SegmentNo(0), last: NO_END }],
            };
            spans.extend(young.into_iter().map(|stretch| (stretch, WalReason::YoungWindow)));
            continue;
        }
        // Where clocks jumped, one that was finished within the window may begin before its start.
        let all = starts.into_iter().chain(indexed.in_window(history, from));
        let Some(first) = all.min_by_key(|backup| (backup.start, &backup.id)) else { continue };
        let reason = WalReason::Window(first.id.clone());
        let stretches = along(history, SegmentNo::of(first.start, size), size).into_iter();
        spans.extend(stretches.map(|stretch| (stretch, reason.clone())));
    }
}

/// From a backup's start on, along everything that descends from where it ended.
fn behind(facts: &PlaceFacts, backup: &Candidate) -> Vec<Stretch> {
    let (first, _) = backup.segments(facts.wal.segment_size());
    let ways = facts.wal.timelines().into_iter().filter_map(|timeline| facts.wal.history(timeline));
    let mut timelines: BTreeSet<TimelineId> = [backup.timeline, backup.timeline_stop].into();
    for way in ways.filter(|way| backup.is_on(way)) {
        timelines.extend(way.ancestors().iter().map(|ancestor| ancestor.timeline));
        timelines.insert(way.timeline());
    }
    timelines.into_iter().map(|timeline| Stretch { timeline, first, last: NO_END }).collect()
}

fn backups(facts: &PlaceFacts, kept: &BTreeMap<BackupId, BTreeSet<Reason>>, spans: &mut Spans) {
    let newest = facts
        .backups
        .iter()
        .filter(|b| kept.get(&b.id).is_some_and(|reasons| reasons.contains(&Reason::LastFull)));
    if let Some(last) = newest.max_by_key(|backup| (backup.finished, &backup.id)) {
        let reason = WalReason::LastFull(last.id.clone());
        spans.extend(behind(facts, last).into_iter().map(|stretch| (stretch, reason.clone())));
    }
    for backup in facts.backups.iter().filter(|backup| kept.contains_key(&backup.id)) {
        let reason = WalReason::Backup(backup.id.clone());
        let own = own_wal(facts, backup).into_iter();
        spans.extend(own.map(|stretch| (stretch, reason.clone())));
    }
}

/// What a backup needs to become consistent, on each timeline from its start's to its stop's: where one was left,
/// the segment is there under one name or the other.
fn own_wal(facts: &PlaceFacts, backup: &Candidate) -> Vec<Stretch> {
    let (first, last) = backup.segments(facts.wal.segment_size());
    if backup.timeline == backup.timeline_stop {
        return vec![Stretch { timeline: backup.timeline, first, last }];
    }
    let Some(history) = facts.wal.history(backup.timeline_stop) else {
        return facts.wal_of(backup);
    };
    let mut all = along(&history, first, facts.wal.segment_size());
    all.retain(|stretch| stretch.timeline >= backup.timeline);
    all.iter_mut().for_each(|stretch| stretch.last = stretch.last.min(last));
    all
}

fn wishes(indexed: &Indexed<'_>, spans: &mut Spans) {
    let facts = indexed.facts;
    let size = facts.wal.segment_size();
    let running = facts.running.iter().map(|each| (each, WalReason::Running(each.id.clone())));
    let dead = facts.interrupted.iter().map(|each| (each, WalReason::Interrupted(each.id.clone())));
    for (running, reason) in running.chain(dead) {
        let first = SegmentNo::of(running.wal_from, size);
        let is_its = |stretch: &Stretch| {
            let way = facts.wal.history(stretch.timeline);
            running.timeline.is_none_or(|own| {
                own == stretch.timeline || way.is_none_or(|way| way.includes(own))
            })
        };
        let all = indexed.everything_from(first).into_iter().filter(is_its);
        let own = running.timeline.map(|timeline| Stretch { timeline, first, last: NO_END });
        spans.extend(all.chain(own).map(|stretch| (stretch, reason.clone())));
    }
    for used in &facts.in_use {
        let Some(backup) = indexed.find(&used.id) else { continue };
        let reason = WalReason::InUse(used.id.clone());
        spans.extend(behind(facts, backup).into_iter().map(|stretch| (stretch, reason.clone())));
    }
    for (name, from) in &facts.unreadable {
        let reason = WalReason::Unreadable(name.clone());
        let all = indexed.everything_from(SegmentNo::of(*from, size)).into_iter();
        spans.extend(all.map(|stretch| (stretch, reason.clone())));
    }
}
