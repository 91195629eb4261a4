//! What one process does from beginning to end.

use std::collections::BTreeSet;
use std::time::Duration;

use chrono::TimeDelta;
use pgkeep::base::Timestamp;
use pgkeep::repo::{BackupId, BackupType, LeaseRequest, Pin, Scope};
use pgkeep::retention::Policy;
use pgkeep::storage::faulty::Effect;

use super::run::{Open, Run, Used, YOUNG};
use crate::expire_crash::policy;
use crate::support::{Dice, World};

/// Some rules, wide ones and narrow ones.
pub fn rules(dice: &mut Dice) -> Policy {
    let small = |dice: &mut Dice, end| u32::try_from(dice.below(end)).unwrap();
    let (daily, weekly, last) = (small(dice, 5), small(dice, 3), small(dice, 4));
    let monthly = small(dice, 2);
    Policy { last, monthly, ..policy(daily, weekly, dice.below(6)) }
}

impl Run {
    pub fn kind(&mut self) -> BackupType {
        *self.dice.one_of(&[
            BackupType::Full,
            BackupType::Full,
            BackupType::Differential,
            BackupType::Incremental,
        ])
    }

    pub fn completed(&mut self, id: BackupId) {
        if !self.completed.insert(id.clone()) {
            return;
        }
        self.tell(format!("complete {id}"));
        // By its own time: one whose last request was held back may be older than others.
        let finished = |id: &BackupId| {
            let complete = self.world.complete().into_iter();
            complete.filter(|backup| backup.id == *id).map(|backup| backup.finished).next()
        };
        let is_newer = self.last_full.as_ref().is_none_or(|last| finished(&id) > finished(last));
        if id.backup_type() == BackupType::Full && is_newer {
            self.last_full = Some(id);
        }
    }

    pub fn backup(&mut self) {
        let kind = self.kind();
        let id = self.world.backup(kind);
        self.completed(id);
    }

    pub fn begin_backup(&mut self) {
        let kind = self.kind();
        let begun = self.world.begin_backup(kind);
        self.tell(format!("begin {}", begun.id));
        if self.world.may_go_on(&begun) {
            let packs = self.world.store_packs(&begun);
            self.open.push(Open { begun, packs });
        }
    }

    /// One that has begun, and is of the timeline on which it can end: a backup has the WAL of one in this world.
    pub fn some_open(&mut self) -> Option<Open> {
        if self.open.is_empty() {
            return None;
        }
        let at = usize::try_from(self.dice.below(self.open.len() as u64)).unwrap();
        let open = self.open.remove(at);
        if self.dice.below(4) == 0 || open.begun.timeline != self.world.timeline {
            self.tell(format!("{} dies", open.begun.id));
            return None;
        }
        Some(open)
    }

    /// Ends one: completed late, or never.
    pub fn end_backup(&mut self) {
        let Some(Open { begun, packs }) = self.some_open() else { return };
        let (id, started) = (begun.id.clone(), begun.started);
        let is_young = self.world.now() < started + YOUNG;
        match self.world.commit(begun, packs) {
            Ok(id) => self.completed(id),
            Err(error) => {
                self.tell(format!("{id} fails late: {error}"));
                self.count("too late");
                assert!(!is_young, "{id} could not be completed: {error}\n{}", self.told());
            }
        }
    }

    /// Any; rather one that is to go, where the newest record names some that are there, and rather an old one.
    pub fn some_complete(&mut self) -> Option<BackupId> {
        let complete = self.world.complete().into_iter().map(|backup| backup.id);
        let mut complete: Vec<BackupId> = complete.collect();
        if complete.is_empty() {
            return None;
        }
        let kept = self.world.repository.kept(&self.world.ctx, &self.world.place).unwrap();
        let doomed = complete.iter().filter(|id| kept.is_removing(id)).cloned();
        let doomed: Vec<BackupId> = doomed.collect();
        match self.dice.below(4) {
            0 | 1 if !doomed.is_empty() => complete = doomed,
            2 => complete.truncate(complete.len().div_ceil(3)),
            _ => {}
        }
        Some(self.dice.one_of(&complete).clone())
    }

    /// What a backup is, and what it stands on: anything that there is, not only the newest.
    pub fn kind_and_parent(&mut self) -> (BackupType, Option<BackupId>) {
        let kind = self.kind();
        let parent = self.some_complete();
        let is_there = |id: &BackupId| self.completed.contains(id);
        match kind {
            BackupType::Full => (kind, None),
            BackupType::Differential => (kind, parent.map(|id| id.root()).filter(is_there)),
            BackupType::Incremental => (kind, parent),
        }
    }

    /// A pin, or the end of one.
    pub fn pin_of(&self, id: BackupId) -> Pin {
        let pinned = !self.pinned.contains(&id);
        let (time, reason, host) = (self.world.now(), "a test".into(), "db1".into());
        Pin { id, pinned, reason, until: None, time, host }
    }

    pub fn pin(&mut self) {
        let Some(id) = self.some_complete() else { return };
        let pin = self.pin_of(id);
        // From its beginning on it may not count any more.
        self.pinned.remove(&pin.id);
        let put = self.world.repository.put_pin(&self.world.ctx, &self.world.place, &pin);
        self.tell(format!("pin {}: {}: {put:?}", pin.id, pin.pinned));
        if put.is_ok() && pin.pinned {
            self.pinned.insert(pin.id);
        }
    }

    pub fn use_request(&self, id: &BackupId) -> LeaseRequest<'static> {
        let backup = Some((self.world.place.system(), 1, id.clone()));
        LeaseRequest { backup, ..World::request_for(Scope::Use) }
    }

    /// A restore begins, or one ends.
    pub fn use_one(&mut self) {
        if let Some(Used { id, mut lease, .. }) = self.used.pop() {
            lease.release(&self.world.ctx);
            self.tell(format!("{id} is not read any more"));
            return;
        }
        let Some(id) = self.some_complete() else { return };
        let request = self.use_request(&id);
        let mut lease = self.world.repository.take_lease(&self.world.ctx, &request).unwrap();
        let (repository, ctx, place) = (&self.world.repository, &self.world.ctx, &self.world.place);
        let is_kept = repository.require_kept(ctx, place, &id).is_ok();
        lease.renew(ctx, FOR_LONG).unwrap();
        self.reads(id, lease, is_kept);
    }

    /// A restore whose lease is put, and what it saw then.
    pub fn reads(&mut self, id: BackupId, mut lease: pgkeep::repo::Lease, is_kept: bool) {
        if !is_kept {
            self.tell(format!("{id} is not read: it is being removed"));
            return lease.release(&self.world.ctx);
        }
        self.tell(format!("{id} is read"));
        let backups = self.world.complete();
        let used = backups.iter().find(|backup| backup.id == id);
        let used = used.unwrap_or_else(|| panic!("{id} is read, and gone\n{}", self.told()));
        // What was given up before is not there for a plan, though it may still lie there.
        let given_up = self.world.given_up();
        let behind = self.world.restorable_from(used).into_iter();
        let behind = behind.take_while(|moment| !given_up.contains(moment)).collect();
        self.used.push(Used { id, lease, behind });
    }

    pub fn change_rules(&mut self) {
        self.policy = rules(&mut self.dice);
        self.tell(format!("from now on {}", self.policy));
    }

    /// A word about what there is, by which what vanishes is noticed.
    pub fn catalogue(&mut self) {
        let (ctx, place) = (&self.world.ctx, &self.world.place);
        let written = self.world.repository.update_catalogue(ctx, place).unwrap();
        self.tell(format!("catalogue: {written}"));
    }

    /// The moments that these rules keep; what was given up for good, and may lie there still, is nobody's.
    pub fn in_window(&self, policy: &Policy) -> (Timestamp, Vec<Timestamp>) {
        let plan = self.world.plan(&self.world.repository, policy).unwrap();
        let from = plan.places[0].decision.window_from;
        let mut moments = self.world.restorable_without(&plan.places[0].gathered);
        moments.retain(|moment| *moment >= from);
        (from, moments)
    }

    pub fn require_window(&self, (from, before): (Timestamp, Vec<Timestamp>)) {
        let after: BTreeSet<Timestamp> = self.world.restorable().into_iter().collect();
        let lost: Vec<_> = before.iter().filter(|moment| !after.contains(moment)).collect();
        assert!(lost.is_empty(), "from {from} on: lost {lost:?}\n{}", self.told());
    }

    pub fn expire(&mut self) {
        let window = self.in_window(&self.policy);
        let freed = self.world.expire(&self.world.repository, &self.policy).unwrap();
        self.tell(format!("expire: {freed:?}"));
        self.require_window(window);
        // The next record names only what something is left of.
        self.check_removed();
        let content = self.world.content();
        let again = self.world.expire(&self.world.repository, &self.policy).unwrap();
        assert_eq!(again.objects, 0, "twice: {again:?}\n{}", self.told());
        assert_eq!(self.world.content(), content, "{}", self.told());
        self.superseded(&self.policy.clone());
    }

    pub fn expire_and_die(&mut self) {
        let window = self.in_window(&self.policy);
        let repository = self.world.through_faults();
        let number = 1 + self.dice.below(120);
        let effect = *self.dice.one_of(&[Effect::None, Effect::Full]);
        self.world.faulty.die_at(self.world.faulty.operations() + number, effect);
        let died = self.world.expire(&repository, &self.policy).is_err();
        self.world.faulty.heal();
        self.tell(format!("expire that dies at {number}: {died}"));
        self.require_window(window);
        // Its lease is gone by then.
        self.world.pass(TimeDelta::minutes(6));
    }

    /// Between plan and removal somebody begins, or completes, a backup.
    pub fn expire_beside_a_backup(&mut self) {
        let window = self.in_window(&self.policy);
        let mut plan = self.world.plan(&self.world.repository, &self.policy).unwrap();
        match self.dice.below(3) {
            0 => self.begin_backup(),
            1 => self.backup(),
            _ => {
                // An incremental on what is about to go.
                let doomed: Vec<BackupId> = plan.places[0].decision.removed().cloned().collect();
                if !doomed.is_empty() {
                    let parent = self.dice.one_of(&doomed).clone();
                    let begun = self.world.begin_child(&parent);
                    self.tell(format!("begin {} on {parent}, which is to go", begun.id));
                    if self.world.may_go_on(&begun) {
                        let packs = self.world.store_packs(&begun);
                        self.open.push(Open { begun, packs });
                    }
                }
            }
        }
        let freed = self.world.execute(&self.world.repository, &mut plan);
        self.tell(format!("expire that was planned before: {freed:?}"));
        freed.unwrap();
        self.require_window(window);
        self.superseded(&self.policy.clone());
    }
}

/// Nobody's restore ends before its run.
pub const FOR_LONG: Duration = Duration::from_secs(3650 * 86_400);
