//! Locks that are made longer: of what is kept, when less than a third of the time remains.
//!
//! Nothing is worth more than what it stands on. So a parent's lock never ends before a child's, nor that of an attempt
//! before that of a backup which uses it, nor that of descriptor, key slots, registration and histories before any; and
//! what something stands on is locked first.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use chrono::TimeDelta;

use super::ask::{Asked, each_object};
use super::spans::Spans;
use crate::base::{Ctx, Timestamp, side_by_side};
use crate::pg::{ArchivedWal, SegmentSize, Stretch};
use crate::repo::{
    BackupId, Error, KeptUp, KnownRest, LockSpan, Repository, Result, Summary, layout,
};
use crate::retention::expire::PlacePlan;
use crate::retention::removal::depth;
use crate::storage::{LockRule, ObjectKey};

/// Backups whose objects are locked together.
const TOGETHER: usize = 32;

/// What is to be locked for longer in one place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Extension {
    /// Until when, but for what others need longer.
    pub until: Timestamp,
    /// Backups and attempts, and until when: those on which others stand in an earlier group.
    pub backups: Vec<Vec<(BackupId, Timestamp)>>,
    /// Segments.
    pub wal: Vec<Stretch>,
    /// Other objects, and until when.
    pub rest: Vec<ObjectKey>,
    /// Until when those are locked: what everything stands on as long as anything.
    pub rest_until: Timestamp,
    /// How many objects that is, as they were listed.
    pub objects: u64,
}

/// What is to be locked for longer; nothing in a store without locks. With `keeps_all`, all that is there: no rules
/// were given.
#[must_use]
pub fn extension(
    plan: &PlacePlan,
    rule: &LockRule,
    now: Timestamp,
    keeps_all: bool,
) -> Option<Extension> {
    let asked = plan.locks.as_ref()?;
    let facts = &plan.gathered.facts;
    let complete = &plan.gathered.backups.complete;
    let (ruled, needed) = match keeps_all {
        true => (complete.iter().map(|backup| backup.id.clone()).collect(), facts.wal.clone()),
        false => {
            let ruled = plan.decision.ruled();
            let needed = plan.decision.needed_wal(&ruled, facts.wal.segment_size());
            (ruled, needed)
        }
    };
    let due = Due::of(rule, now);
    let backups = due.backups(complete, &ruled, asked);
    let wal = due.wal(&needed, asked, plan, &backups);
    let ends = asked.known.backups.values().map(|known| known.span.most);
    let ends = ends.chain(asked.known.wal.iter().map(|(_, span)| span.most));
    let of_wal = (!wal.is_empty()).then_some(due.until);
    let last = ends.chain(backups.values().copied()).chain(of_wal).max().unwrap_or(due.before);
    let rest = due.rest(asked, last);
    let objects = backups.keys().filter_map(|id| asked.known.backups.get(id));
    let objects = objects.map(|known| known.objects).sum::<u64>()
        + wal.iter().map(Stretch::count).sum::<u64>()
        + rest.len() as u64;
    let (until, rest_until) = (due.until, due.until.max(last));
    let backups = grouped(complete, backups);
    Some(Extension { until, backups, wal, rest, rest_until, objects })
}

/// When a lock is made longer, and by how much.
struct Due {
    now: Timestamp,
    /// What is not locked until then has less than a third left.
    before: Timestamp,
    until: Timestamp,
}

impl Due {
    fn of(rule: &LockRule, now: Timestamp) -> Self {
        let after = |duration: Duration| {
            let by = TimeDelta::from_std(duration).unwrap_or(TimeDelta::MAX);
            now.checked_add_signed(by).unwrap_or(Timestamp::MAX_UTC)
        };
        Self { now, before: after(rule.duration / 3), until: after(rule.duration) }
    }

    /// Until when each backup and each attempt is to be locked whose lock is too short.
    fn backups(
        &self,
        complete: &[Summary],
        ruled: &BTreeSet<BackupId>,
        asked: &Asked,
    ) -> BTreeMap<BackupId, Timestamp> {
        let parents: HashMap<&BackupId, Option<&BackupId>> =
            complete.iter().map(|backup| (&backup.id, backup.parent.as_ref())).collect();
        let mut depths = HashMap::new();
        let mut all: Vec<(usize, &Summary)> = complete
            .iter()
            .map(|backup| (depth(&parents, &mut depths, &backup.id), backup))
            .collect();
        // Children say what those need on which they stand.
        all.sort_by_key(|(depth, _)| std::cmp::Reverse(*depth));
        let mut needs: BTreeMap<&BackupId, Timestamp> = BTreeMap::new();
        let mut targets = BTreeMap::new();
        for (_, backup) in all {
            let id = &backup.id;
            // One that was completed since is locked for longer than most.
            let Some(known) = asked.known.backups.get(id) else { continue };
            let need = needs.get(id).copied();
            let target = self.target(known.span, ruled.contains(id), need);
            let end = target.map_or(known.span.most, |target| target.max(known.span.most));
            targets.extend(target.map(|target| (id.clone(), target)));
            for below in backup.parent.iter().chain(&backup.attempts) {
                let need = needs.entry(below).or_insert(end);
                *need = end.max(*need);
            }
        }
        for (id, need) in needs.into_iter().filter(|(id, _)| !parents.contains_key(id)) {
            let Some(known) = asked.known.backups.get(id) else { continue };
            targets.extend(self.target(known.span, false, Some(need)).map(|at| (id.clone(), at)));
        }
        targets
    }

    fn target(&self, span: LockSpan, is_ruled: bool, need: Option<Timestamp>) -> Option<Timestamp> {
        let need = need.filter(|need| *need > span.least && *need > self.now);
        match (is_ruled, need) {
            (true, Some(need)) => Some(self.until.max(need)),
            (true, None) => (span.least < self.before).then_some(self.until),
            (false, need) => need,
        }
    }

    /// WAL that is needed and is due, and that of backups which are locked for longer.
    fn wal(
        &self,
        needed: &ArchivedWal,
        asked: &Asked,
        plan: &PlacePlan,
        targets: &BTreeMap<BackupId, Timestamp>,
    ) -> Vec<Stretch> {
        let spans = Spans(asked.known.wal.clone());
        let mut due = ArchivedWal::new(needed.segment_size());
        for stretch in needed.stretches() {
            let short = spans.shorter(&stretch, self.before);
            short.into_iter().for_each(|part| due.add_stretch(part));
        }
        let facts = &plan.gathered.facts;
        for backup in facts.backups.iter().filter(|backup| targets.contains_key(&backup.id)) {
            for stretch in facts.wal_of(backup) {
                let short = spans.shorter(&stretch, self.until);
                short.into_iter().for_each(|part| due.add_stretch(part));
            }
        }
        due.stretches().collect()
    }

    fn rest(&self, asked: &Asked, last: Timestamp) -> Vec<ObjectKey> {
        let is_due = |key: &ObjectKey, until: Timestamp| match is_stood_on(key) {
            true => until < self.before || until < last,
            false => until < self.before,
        };
        let due = asked.rest.iter().filter(|(key, until)| is_due(key, *until));
        due.map(|(key, _)| key.clone()).collect()
    }
}

/// Whether nothing can be read without it: descriptor, key slots, registration, histories.
fn is_stood_on(key: &ObjectKey) -> bool {
    layout::is_read_first(key.as_str())
}

/// Attempts first, then fulls, and so on.
fn grouped(
    complete: &[Summary],
    targets: BTreeMap<BackupId, Timestamp>,
) -> Vec<Vec<(BackupId, Timestamp)>> {
    let parents: HashMap<&BackupId, Option<&BackupId>> =
        complete.iter().map(|backup| (&backup.id, backup.parent.as_ref())).collect();
    let mut depths = HashMap::new();
    let mut groups: BTreeMap<usize, Vec<(BackupId, Timestamp)>> = BTreeMap::new();
    for (id, until) in &targets {
        let group = match parents.contains_key(id) {
            true => 1 + depth(&parents, &mut depths, id),
            false => 0,
        };
        groups.entry(group).or_default().push((id.clone(), *until));
    }
    groups.into_values().collect()
}

/// Locks for longer what is due, and writes down what is known then; how many objects were locked.
///
/// # Errors
/// As the store's; [`Error::LeaseLost`]. What was locked stays so, and the next expiry goes on.
pub(in crate::retention) fn extend(
    ctx: &Ctx,
    repository: &Repository,
    plan: &PlacePlan,
    extension: &Extension,
    lease: &KeptUp,
) -> Result<u64> {
    let Some(asked) = &plan.locks else { return Ok(0) };
    let (place, size) = (&plan.gathered.place, plan.gathered.segment_size());
    let lock = |key: &ObjectKey, until: Timestamp| match repository.store().lock(key, until) {
        Ok(()) => Ok(Some(LockSpan::of(Some(until)))),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(Error::from(error)),
    };
    let (mut known, mut objects) = (asked.known.clone(), 0);
    // What everything stands on.
    for keys in extension.rest.chunks(1000) {
        lease.require(ctx)?;
        objects += side_by_side(keys, |key| lock(key, extension.rest_until))?.len() as u64;
    }
    let extended: BTreeSet<&ObjectKey> = extension.rest.iter().collect();
    let least = |is_first: bool| {
        let those = asked.rest.iter().filter(|(key, _)| is_stood_on(key) == is_first);
        let until = those.map(|(key, until)| match extended.contains(key) {
            true => extension.rest_until,
            false => *until,
        });
        until.min().unwrap_or(extension.rest_until)
    };
    let (least, first) = (least(false), least(true));
    known.rest = Some(KnownRest { before: asked.rest_before, least, first });
    for group in &extension.backups {
        for some in group.chunks(TOGETHER) {
            lease.require(ctx)?;
            let ids: Vec<BackupId> = some.iter().map(|(id, _)| id.clone()).collect();
            let until = |index: usize| some.get(index).map_or(extension.until, |(_, until)| *until);
            each_object(ctx, repository, place, &ids, |index, key| lock(key, until(index)))?;
            for (id, until) in some {
                if let Some(known) = known.backups.get_mut(id) {
                    known.span = known.span.extended(*until);
                    objects += known.objects;
                }
            }
        }
    }
    objects += extend_wal(ctx, repository, plan, extension, lease, &mut known.wal)?;
    forget_removed(plan, size, &mut known);
    if plan.gathered.locks.as_ref() != Some(&known) {
        repository.put_locks(ctx, place, size, &known)?;
    }
    Ok(objects)
}

fn extend_wal(
    ctx: &Ctx,
    repository: &Repository,
    plan: &PlacePlan,
    extension: &Extension,
    lease: &KeptUp,
    known: &mut Vec<(Stretch, LockSpan)>,
) -> Result<u64> {
    let (place, size) = (&plan.gathered.place, plan.gathered.segment_size());
    let (mut spans, mut objects) = (Spans(std::mem::take(known)), 0);
    for stretch in &extension.wal {
        repository.each_page(ctx, place, size, *stretch, |page| {
            lease.require(ctx)?;
            side_by_side(&page, |(_, meta)| {
                ctx.cancel.check()?;
                match repository.store().lock(&meta.key, extension.until) {
                    Err(error) if !error.is_not_found() => Err(Error::from(error)),
                    _ => Ok(()),
                }
            })?;
            objects += page.len() as u64;
            Ok(())
        })?;
        spans = spans.extended(stretch, extension.until);
    }
    *known = spans.0;
    Ok(objects)
}

/// What is gone needs no line.
fn forget_removed(plan: &PlacePlan, size: SegmentSize, known: &mut crate::repo::KnownLocks) {
    for id in plan.decision.removed() {
        known.backups.remove(id);
    }
    let mut left = plan.gathered.facts.wal.clone();
    let mut removed = ArchivedWal::new(size);
    plan.decision.wal_removed.iter().for_each(|stretch| removed.add_stretch(*stretch));
    left.give_up(&removed);
    known.wal = Spans(std::mem::take(&mut known.wal)).within(&left).0;
}
