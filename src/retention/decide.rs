//! What stays, and why: a pure function of what was found, the rules and the time.
//!
//! The order is that of completion, never of names or timelines (FAILURES.md, 76). Everything is decided for
//! keeping: what no reason keeps is removed, and where something cannot be told, it stays.

use std::collections::{BTreeMap, BTreeSet};

use chrono::TimeDelta;

use super::calendar::{Cycle, representatives};
use super::facts::{Candidate, PlaceFacts};
use super::indexed::Indexed;
use super::locks::common;
use super::policy::Policy;
use super::reason::{Reason, WalReason};
use super::wal_spans::wal_spans;
use crate::base::Timestamp;
use crate::pg::{ArchivedWal, SegmentSize, Stretch};
use crate::repo::{BackupId, BackupType};

/// Servers' clocks may be that far ahead of this one's.
const AHEAD_MAX: TimeDelta = TimeDelta::hours(1);

/// What becomes of one history of a cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// Every moment from then on stays restorable, as far as it is.
    pub window_from: Timestamp,
    /// Every complete backup with the reasons that keep it, oldest first; one without is removed.
    pub backups: Vec<(BackupId, BTreeSet<Reason>)>,
    /// WAL that stays, whether it is archived yet or not, and why.
    pub wal_kept: Vec<(Stretch, WalReason)>,
    /// Archived WAL that nothing keeps.
    pub wal_removed: Vec<Stretch>,
}

impl Decision {
    /// The backups that are removed, oldest first.
    pub fn removed(&self) -> impl Iterator<Item = &BackupId> {
        self.backups.iter().filter(|(_, reasons)| reasons.is_empty()).map(|(id, _)| id)
    }

    /// The WAL that stays, whether it is archived yet or not.
    #[must_use]
    pub fn kept_wal(&self, size: SegmentSize) -> ArchivedWal {
        let mut kept = ArchivedWal::new(size);
        self.wal_kept.iter().for_each(|(stretch, _)| kept.add_stretch(*stretch));
        kept
    }

    /// The backups that rules, people or processes keep, and what those stand on: not those that only wait for a
    /// lock to end.
    #[must_use]
    pub fn ruled(&self) -> BTreeSet<BackupId> {
        let is_own = |reason: &Reason| !matches!(reason, Reason::Locked(_) | Reason::ParentOf(_));
        let own = self.backups.iter().filter(|(_, reasons)| reasons.iter().any(is_own));
        let mut next: Vec<&BackupId> = own.map(|(id, _)| id).collect();
        let mut parents: BTreeMap<&BackupId, Vec<&BackupId>> = BTreeMap::new();
        for (id, reasons) in &self.backups {
            for reason in reasons {
                if let Reason::ParentOf(child) = reason {
                    parents.entry(child).or_default().push(id);
                }
            }
        }
        let mut ruled = BTreeSet::new();
        while let Some(id) = next.pop() {
            if ruled.insert(id.clone()) {
                next.extend(parents.get(id).into_iter().flatten());
            }
        }
        ruled
    }

    /// The WAL that is needed, by `ruled` backups or otherwise: not what only waits for a lock to end.
    #[must_use]
    pub fn needed_wal(&self, ruled: &BTreeSet<BackupId>, size: SegmentSize) -> ArchivedWal {
        let is_needed = |reason: &WalReason| match reason {
            WalReason::Locked(_) => false,
            WalReason::Backup(id) => ruled.contains(id),
            _ => true,
        };
        let mut needed = ArchivedWal::new(size);
        let spans = self.wal_kept.iter().filter(|(_, reason)| is_needed(reason));
        spans.for_each(|(stretch, _)| needed.add_stretch(*stretch));
        needed
    }

    /// Why a backup stays.
    #[must_use]
    pub fn reasons(&self, id: &BackupId) -> Option<&BTreeSet<Reason>> {
        self.backups.iter().find(|(other, _)| other == id).map(|(_, reasons)| reasons)
    }
}

/// Decides for all histories of one cluster in one repository; the answers come in the order of the facts.
#[must_use]
pub fn decide(policy: &Policy, now: Timestamp, places: &[PlaceFacts]) -> Vec<Decision> {
    let believed = now.checked_add_signed(AHEAD_MAX).unwrap_or(Timestamp::MAX_UTC);
    let kept = vec![BTreeMap::new(); places.len()];
    let mut deciding = Deciding { policy, now, believed, places, kept };
    let mut from = vec![now; places.len()];
    let mut replaced = vec![None; places.len()];
    for group in groups(places) {
        let window_from = deciding.window_from(&group);
        deciding.by_calendar(&group);
        for place in group.iter().copied() {
            replaced[place] = deciding.replaced(&group, place);
            deciding.by_window(place, window_from, replaced[place]);
            deciding.moved(place);
            deciding.by_wish(place);
            deciding.parents(place);
            deciding.by_locks(place);
            deciding.parents(place);
            from[place] = window_from;
        }
    }
    let Deciding { kept, .. } = deciding;
    let each = places.iter().zip(kept).zip(from.into_iter().zip(replaced));
    each.map(|((facts, kept), (window_from, replaced))| {
        let indexed = Indexed::of(facts, believed, replaced);
        let wal_kept = wal_spans(&indexed, &kept, window_from);
        conclude(facts, kept, (window_from, now), wal_kept)
    })
    .collect()
}

fn conclude(
    facts: &PlaceFacts,
    mut kept: BTreeMap<BackupId, BTreeSet<Reason>>,
    (window_from, now): (Timestamp, Timestamp),
    wal_kept: Vec<(Stretch, WalReason)>,
) -> Decision {
    let size = facts.wal.segment_size();
    let (mut ranges, mut all) = (ArchivedWal::new(size), ArchivedWal::new(size));
    for (stretch, reason) in &wal_kept {
        all.add_stretch(*stretch);
        if !matches!(reason, WalReason::Backup(_)) {
            ranges.add_stretch(*stretch);
        }
    }
    let unneeded = facts.wal.stretches().flat_map(|stretch| all.missing(stretch));
    let locked = locked_of(facts, unneeded.collect(), now);
    locked.iter().for_each(|(stretch, _)| all.add_stretch(*stretch));
    let wal_removed = facts.wal.stretches().flat_map(|stretch| all.missing(stretch)).collect();
    // What lies in a range is not told once more for each backup in it.
    let is_told = |(stretch, reason): &(Stretch, WalReason)| {
        !matches!(reason, WalReason::Backup(_)) || !ranges.missing(*stretch).is_empty()
    };
    let wal_kept: Vec<_> = wal_kept.into_iter().filter(is_told).chain(locked).collect();
    facts.given_up.iter().for_each(|backup| drop(kept.remove(&backup.id)));
    let mut backups: Vec<&Candidate> = facts.backups.iter().chain(&facts.given_up).collect();
    backups.sort_by(|a, b| (a.finished, &a.id).cmp(&(b.finished, &b.id)));
    let backups = backups.into_iter();
    let backups =
        backups.map(|backup| (backup.id.clone(), kept.remove(&backup.id).unwrap_or_default()));
    Decision { window_from, backups: backups.collect(), wal_kept, wal_removed }
}

/// The parts of WAL that cannot be removed yet.
fn locked_of(
    facts: &PlaceFacts,
    unneeded: Vec<Stretch>,
    now: Timestamp,
) -> Vec<(Stretch, WalReason)> {
    let holds: Vec<_> = facts.locked.wal.iter().filter(|(_, until)| *until > now).collect();
    let mut locked = Vec::new();
    for stretch in unneeded {
        let parts = holds.iter().map(|(hold, until)| (common(hold, &stretch), until));
        locked.extend(parts.filter_map(|(part, until)| Some((part?, WalReason::Locked(*until)))));
    }
    locked
}

/// Which histories are one cluster's, one after the other: a major upgrade makes a new one. One that has a
/// backup after a later one was registered is another server under the same name, and is counted alone.
fn groups(places: &[PlaceFacts]) -> Vec<Vec<usize>> {
    let (mut together, mut groups) = (Vec::new(), Vec::new());
    for (index, place) in places.iter().enumerate() {
        let goes_on = |other: &PlaceFacts| {
            other.registered > place.registered
                && place.backups.iter().any(|backup| backup.finished > other.registered)
        };
        match places.iter().any(goes_on) {
            true => groups.push(vec![index]),
            false => together.push(index),
        }
    }
    groups.push(together);
    groups
}

struct Deciding<'a> {
    policy: &'a Policy,
    now: Timestamp,
    /// Later times are not believed.
    believed: Timestamp,
    places: &'a [PlaceFacts],
    kept: Vec<BTreeMap<BackupId, BTreeSet<Reason>>>,
}

impl<'a> Deciding<'a> {
    fn keep(&mut self, place: usize, id: &BackupId, reason: Reason) {
        if let Some(kept) = self.kept.get_mut(place) {
            kept.entry(id.clone()).or_default().insert(reason);
        }
    }

    fn is_future(&self, backup: &Candidate) -> bool {
        backup.finished > self.believed
    }

    /// The backups of a group whose times can be believed, newest first.
    fn newest_first(&self, group: &[usize]) -> Vec<(usize, &'a Candidate)> {
        let places = group.iter().filter_map(|index| Some((*index, self.places.get(*index)?)));
        let all = places.flat_map(|(index, place)| place.backups.iter().map(move |b| (index, b)));
        let mut all: Vec<_> = all.filter(|(_, backup)| !self.is_future(backup)).collect();
        let key = |(place, backup): &(usize, &'a Candidate)| {
            let place = &self.places[*place];
            (backup.finished, &backup.id, place.registered, &place.name)
        };
        all.sort_by(|a, b| key(b).cmp(&key(a)));
        all
    }

    /// When the first history was registered that came after this one and has a backup.
    fn replaced(&self, group: &[usize], place: usize) -> Option<Timestamp> {
        let places = group.iter().filter_map(|index| self.places.get(*index));
        let own = self.places[place].registered;
        let later = places.filter(|other| other.registered > own && !other.backups.is_empty());
        later.map(|other| other.registered).min()
    }

    /// The window reaches back from the newest moment that there is: an archive that stands still, and a clock
    /// that is wrong, expire nothing of it.
    fn window_from(&self, group: &[usize]) -> Timestamp {
        let newest = self.newest_first(group).first().map(|(_, backup)| backup.finished);
        let ends = group.iter().filter_map(|index| self.places.get(*index));
        let ends = ends.flat_map(|place| &place.ends).filter_map(|end| end.newest);
        let newest = ends.filter(|end| *end <= self.believed).chain(newest).max();
        let newest = newest.unwrap_or(self.now).min(self.now);
        let window = TimeDelta::from_std(self.policy.window).unwrap_or(TimeDelta::MAX);
        newest.checked_sub_signed(window).unwrap_or(Timestamp::MIN_UTC)
    }

    fn by_calendar(&mut self, group: &[usize]) {
        let all = self.newest_first(group);
        let fulls =
            all.iter().filter(|(_, backup)| backup.parent.is_none()).map(|(place, full)| {
                let is_good = full.is_sound && self.places[*place].has_wal_of(full);
                (*place, *full, is_good)
            });
        let fulls: Vec<(usize, &Candidate, bool)> = fulls.collect();
        let times: Vec<_> = fulls.iter().map(|(_, full, good)| (full.finished, *good)).collect();
        let Policy { daily, weekly, monthly, yearly, zone, .. } = *self.policy;
        for (cycle, count) in Cycle::ALL.into_iter().zip([daily, weekly, monthly, yearly]) {
            for (index, period) in representatives(&times, (cycle, count), zone) {
                let (place, full, _) = fulls[index];
                self.keep(place, &full.id, Reason::Period(period));
            }
        }
        let good = fulls.iter().filter(|(_, _, is_good)| *is_good);
        let good: Vec<_> = good.take(self.policy.min_full.max(1) as usize).collect();
        for (place, full, _) in &good {
            self.keep(*place, &full.id, Reason::LastFull);
        }
        if let Some((place, full, _)) = good.first() {
            let root = full.id.root();
            for (other, backup) in all.iter().filter(|(other, _)| other == place) {
                if backup.id.root() == root && backup.parent.is_some() {
                    self.keep(*other, &backup.id, Reason::LastChain);
                }
            }
        }
        let newest = all.iter().take(self.policy.last as usize);
        newest.for_each(|(place, backup)| self.keep(*place, &backup.id, Reason::Newest));
        // A full that is not good is better than nothing.
        if let Some((place, full, false)) = fulls.first() {
            self.keep(*place, &full.id, Reason::NewestFull);
        }
        for place in group {
            let future = self.places[*place].backups.iter().filter(|b| self.is_future(b));
            for backup in future.collect::<Vec<_>>() {
                self.keep(*place, &backup.id, Reason::Future);
            }
        }
    }

    fn by_window(&mut self, place: usize, from: Timestamp, replaced: Option<Timestamp>) {
        let indexed = Indexed::of(&self.places[place], self.believed, replaced);
        let facts = indexed.facts;
        let mut roots = BTreeSet::new();
        for backup in &facts.backups {
            if backup.finished >= from && !self.is_future(backup) {
                roots.insert(backup.id.root());
                self.keep(place, &backup.id, Reason::Window);
            }
        }
        for end in facts.ends.iter().filter(|end| indexed.is_live(end, from)) {
            for start in indexed.window_starts(&end.history, from) {
                roots.insert(start.id.root());
                self.keep(place, &start.id, Reason::WindowStart);
            }
        }
        for backup in &facts.backups {
            let is_told = self.kept.get(place).and_then(|kept| kept.get(&backup.id));
            let is_told = is_told.is_some_and(|reasons| {
                reasons.contains(&Reason::Window) || reasons.contains(&Reason::WindowStart)
            });
            if roots.contains(&backup.id.root()) && !is_told {
                self.keep(place, &backup.id, Reason::WindowChain);
            }
        }
    }

    /// What is in another repository leaves this one, where nothing but the calendar keeps it; what is to go there stays.
    fn moved(&mut self, place: usize) {
        let moving = &self.places[place].moving;
        if let Some(kept) = self.kept.get_mut(place) {
            let is_by_calendar = |reasons: &BTreeSet<Reason>| {
                reasons.iter().all(|reason| matches!(reason, Reason::Period(_)))
            };
            kept.retain(|id, reasons| !moving.there.contains(id) || !is_by_calendar(reasons));
        }
        for id in &moving.waiting {
            self.keep(place, id, Reason::NotMoved(moving.to.clone()));
        }
    }

    /// What people and processes have asked for.
    fn by_wish(&mut self, place: usize) {
        let facts = &self.places[place];
        for (id, pin) in &facts.pins {
            if pin.until.is_none_or(|until| until > self.now) {
                let (reason, until) = (pin.reason.clone(), pin.until);
                self.keep(place, id, Reason::Pinned { reason, until });
            }
        }
        for running in &facts.running {
            if let Some(parent) = &running.parent {
                self.keep(place, parent, Reason::Running(running.id.clone()));
            }
        }
        for dead in &facts.interrupted {
            if let Some(parent) = &dead.parent {
                self.keep(place, parent, Reason::Interrupted(dead.id.clone()));
            }
        }
        for used in &facts.in_use {
            self.keep(place, &used.id, Reason::InUse(used.by.clone()));
        }
        for (name, _) in &facts.unreadable {
            self.may_be_parents(place, name);
        }
    }

    /// A deletion would only hide it, and what is hidden is paid for and helps nobody: it stays until its lock ends.
    fn by_locks(&mut self, place: usize) {
        for backup in &self.places[place].backups {
            let until = self.places[place].locked.backups.get(&backup.id);
            let is_kept = self.kept.get(place).is_some_and(|kept| kept.contains_key(&backup.id));
            if let Some(until) = until.filter(|until| **until > self.now && !is_kept) {
                self.keep(place, &backup.id, Reason::Locked(*until));
            }
        }
    }

    /// What a backup may stand on whose manifest cannot be read: a differential on its full, an incremental on
    /// anything earlier in its chain.
    fn may_be_parents(&mut self, place: usize, name: &str) {
        let Ok(id) = name.parse::<BackupId>() else { return };
        let root = id.root();
        let is_differential = id.backup_type() == BackupType::Differential;
        for backup in &self.places[place].backups {
            let is_earlier = backup.id.own_time() <= id.own_time() && !is_differential;
            if backup.id == root || (is_earlier && backup.id.root() == root) {
                self.keep(place, &backup.id, Reason::Unreadable(name.to_owned()));
            }
        }
    }

    /// Down the chains, from each backup that stays.
    fn parents(&mut self, place: usize) {
        let facts = &self.places[place];
        let parents: BTreeMap<&BackupId, &BackupId> =
            facts.backups.iter().filter_map(|b| Some((&b.id, b.parent.as_ref()?))).collect();
        let mut next: Vec<BackupId> =
            self.kept.get(place).map(|kept| kept.keys().cloned().collect()).unwrap_or_default();
        let mut seen = BTreeSet::new();
        // Each is passed once: ten thousand may stand on one another, or in a circle, which is nobody's.
        while let Some(child) = next.pop() {
            if let Some(parent) = parents.get(&child).copied()
                && !seen.contains(&child)
            {
                next.push(parent.clone());
                self.keep(place, parent, Reason::ParentOf(child.clone()));
            }
            seen.insert(child);
        }
    }
}
