//! Random sequences of all that happens to a repository, with what DESIGN.md promises checked after every step on the
//! store itself.

use std::collections::BTreeSet;

use chrono::TimeDelta;
use pgkeep::base::Timestamp;
use pgkeep::repo::{BackupId, BackupType, Lease, LeaseRequest, Pin, Scope};
use pgkeep::retention::Policy;
use pgkeep::storage::faulty::Effect;

use crate::expire_crash::policy;
use crate::support::world::{Begun, Packs};
use crate::support::{Dice, World};

/// Steps of a run; each checks everything.
const STEPS: u64 = 140;

const RUNS: u64 = 6;

/// A backup that has begun, and what it has stored.
struct Open {
    begun: Begun,
    objects: Packs,
}

struct Run {
    world: World,
    dice: Dice,
    policy: Policy,
    open: Vec<Open>,
    pinned: BTreeSet<BackupId>,
    /// With the moments behind it that could be restored then.
    used: Vec<(BackupId, Lease, Vec<Timestamp>)>,
    /// The last full that was completed.
    last_full: Option<BackupId>,
    /// Every backup that was ever completed.
    completed: BTreeSet<BackupId>,
    story: Vec<String>,
}

impl Run {
    fn begin(mut dice: Dice) -> Self {
        let policy = policy(3, 2, 1 + dice.below(4));
        let world = World::begin(dice.below(1000));
        Self {
            world,
            dice,
            policy,
            open: Vec::new(),
            pinned: BTreeSet::new(),
            used: Vec::new(),
            last_full: None,
            completed: BTreeSet::new(),
            story: Vec::new(),
        }
    }

    fn tell(&mut self, text: String) {
        self.story.push(format!("{}: {text}", self.world.now()));
    }

    fn step(&mut self) {
        let hours = 1 + self.dice.below(9);
        self.world.pass(TimeDelta::hours(i64::try_from(hours).unwrap()));
        match self.dice.below(20) {
            0..=3 => {
                let segment = self.world.push();
                self.tell(format!("push {segment}"));
            }
            4..=7 => self.backup(),
            8 | 9 => self.begin_backup(),
            10 | 11 => self.end_backup(),
            12 => {
                self.world.fail_over();
                self.tell(format!("timeline {}", self.world.timeline));
            }
            13 => self.pin(),
            14 => self.use_one(),
            15 => {
                let idle = 1 + self.dice.below(5);
                self.world.pass(TimeDelta::days(i64::try_from(idle).unwrap()));
                self.tell(format!("{idle} days pass"));
            }
            16 => self.expire_and_die(),
            17 => self.expire_beside_a_backup(),
            _ => self.expire(),
        }
        self.check();
    }

    fn kind(&mut self) -> BackupType {
        *self.dice.one_of(&[
            BackupType::Full,
            BackupType::Full,
            BackupType::Differential,
            BackupType::Incremental,
        ])
    }

    fn completed(&mut self, id: BackupId) {
        self.tell(format!("complete {id}"));
        if id.backup_type() == BackupType::Full {
            self.last_full = Some(id.clone());
        }
        self.completed.insert(id);
    }

    fn backup(&mut self) {
        let kind = self.kind();
        let id = self.world.backup(kind);
        self.completed(id);
    }

    fn begin_backup(&mut self) {
        let kind = self.kind();
        let begun = self.world.begin_backup(kind);
        self.tell(format!("begin {}", begun.id));
        // By now expiry may have come between its choice and its record.
        if self.world.may_go_on(&begun) {
            let objects = self.world.store_packs(&begun);
            self.open.push(Open { begun, objects });
        }
    }

    /// Ends one: completed late, or never.
    fn end_backup(&mut self) {
        if self.open.is_empty() {
            return;
        }
        let at = usize::try_from(self.dice.below(self.open.len() as u64)).unwrap();
        let Open { begun, objects } = self.open.remove(at);
        let (id, started) = (begun.id.clone(), begun.started);
        if self.dice.below(3) == 0 {
            self.tell(format!("{id} dies"));
            return;
        }
        // A backup has the WAL of one timeline in this world.
        if begun.timeline != self.world.timeline {
            self.tell(format!("{id} is given up"));
            return;
        }
        let is_young = self.world.now() < started + TimeDelta::hours(24);
        match self.world.commit(begun, objects) {
            Ok(id) => self.completed(id),
            Err(error) => {
                self.tell(format!("{id} fails late: {error}"));
                assert!(!is_young, "{id} could not be completed: {error}\n{}", self.told());
            }
        }
    }

    fn some_complete(&mut self) -> Option<BackupId> {
        let complete = self.world.complete();
        if complete.is_empty() {
            return None;
        }
        let at = usize::try_from(self.dice.below(complete.len() as u64)).unwrap();
        Some(complete[at].id.clone())
    }

    fn pin(&mut self) {
        let Some(id) = self.some_complete() else { return };
        let pinned = !self.pinned.contains(&id);
        let pin = Pin {
            id: id.clone(),
            pinned,
            reason: "a test".into(),
            until: None,
            time: self.world.now(),
            host: "db1".into(),
        };
        let put = self.world.repository.put_pin(&self.world.ctx, &self.world.place, &pin);
        self.tell(format!("pin {id}: {pinned}: {put:?}"));
        match (put, pinned) {
            (Ok(()), true) => drop(self.pinned.insert(id)),
            _ => drop(self.pinned.remove(&id)),
        }
    }

    /// A restore begins, or one ends. Its lease is kept up by the check.
    fn use_one(&mut self) {
        if let Some((id, mut lease, _)) = self.used.pop() {
            lease.release(&self.world.ctx);
            self.tell(format!("{id} is not read any more"));
            return;
        }
        let Some(id) = self.some_complete() else { return };
        let backup = Some((self.world.place.system(), 1, id.clone()));
        let request = LeaseRequest { scope: Scope::Use, backup, ..World::request() };
        let mut lease = self.world.repository.take_lease(&self.world.ctx, &request).unwrap();
        let for_long = std::time::Duration::from_secs(3650 * 86_400);
        lease.renew(&self.world.ctx, for_long).unwrap();
        let (repository, ctx, place) = (&self.world.repository, &self.world.ctx, &self.world.place);
        match repository.require_kept(ctx, place, &id) {
            Ok(()) => {
                self.tell(format!("{id} is read"));
                let backups = self.world.complete();
                let used = backups.iter().find(|backup| backup.id == id).unwrap();
                let behind = self.world.restorable_from(used);
                self.used.push((id, lease, behind));
            }
            Err(_) => lease.release(&self.world.ctx),
        }
    }

    fn in_window(&self) -> (Timestamp, Vec<Timestamp>) {
        let plan = self.world.plan(&self.world.repository, &self.policy).unwrap();
        let from = plan.places[0].decision.window_from;
        let mut moments = self.world.restorable();
        moments.retain(|moment| *moment >= from);
        (from, moments)
    }

    fn require_window(&self, (from, before): (Timestamp, Vec<Timestamp>)) {
        let after: BTreeSet<Timestamp> = self.world.restorable().into_iter().collect();
        let lost: Vec<_> = before.iter().filter(|moment| !after.contains(moment)).collect();
        assert!(lost.is_empty(), "from {from} on: lost {lost:?}\n{}", self.told());
    }

    fn expire(&mut self) {
        let window = self.in_window();
        let freed = self.world.expire(&self.world.repository, &self.policy).unwrap();
        self.tell(format!("expire: {freed:?}"));
        self.require_window(window);
        let content = self.world.content();
        let again = self.world.expire(&self.world.repository, &self.policy).unwrap();
        assert_eq!(again.objects, 0, "twice: {again:?}\n{}", self.told());
        assert_eq!(self.world.content(), content, "{}", self.told());
    }

    fn expire_and_die(&mut self) {
        let window = self.in_window();
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
    fn expire_beside_a_backup(&mut self) {
        let window = self.in_window();
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
                        let objects = self.world.store_packs(&begun);
                        self.open.push(Open { begun, objects });
                    }
                }
            }
        }
        let freed = self.world.execute(&self.world.repository, &mut plan);
        self.tell(format!("expire that was planned before: {freed:?}"));
        freed.unwrap();
        self.require_window(window);
    }

    fn told(&self) -> String {
        self.story.join("\n")
    }

    fn check(&self) {
        self.world.assert_sound(&self.told());
        let complete: BTreeSet<BackupId> =
            self.world.complete().into_iter().map(|backup| backup.id).collect();
        let mut must_be = self.pinned.iter().chain(self.used.iter().map(|(id, ..)| id));
        assert!(must_be.all(|id| complete.contains(id)), "pinned or in use\n{}", self.told());
        let last = self.last_full.as_ref();
        assert!(last.is_none_or(|last| complete.contains(last)), "the last full\n{}", self.told());
        assert!(complete.is_subset(&self.completed), "nothing half-made\n{}", self.told());
        // What follows a backup that is read stays, whatever the window.
        let moments: BTreeSet<Timestamp> = self.world.restorable().into_iter().collect();
        for (id, _, behind) in &self.used {
            let lost: Vec<_> = behind.iter().filter(|moment| !moments.contains(moment)).collect();
            assert!(lost.is_empty(), "{lost:?} behind {id}\n{}", self.told());
        }
    }
}

#[test]
fn whatever_happens_what_is_promised_stays() {
    let mut dice = Dice::new();
    for _ in 0..RUNS {
        let mut run = Run::begin(Dice::of(dice.below(1 << 30)));
        for _ in 0..STEPS {
            run.step();
        }
    }
}
