//! One sequence: who is at work at the moment, what was promised to whom, and what is checked after each step.

use std::collections::{BTreeMap, BTreeSet};

use chrono::TimeDelta;
use pgkeep::base::Timestamp;
use pgkeep::repo::{BackupId, Kept, Lease};
use pgkeep::retention::Policy;
use pgkeep::storage::ObjectKey;
use pgkeep::tiering::Cold;

use super::processes::Stopped;
use super::steps;
use crate::support::world::{Begun, Packs};
use crate::support::{Dice, World};

/// A backup that began less long ago is one that expiry leaves alone.
pub const YOUNG: TimeDelta = TimeDelta::hours(24);

/// A backup that has begun, and what it has stored.
pub struct Open {
    pub begun: Begun,
    pub packs: Packs,
}

/// A backup that is read.
pub struct Used {
    pub id: BackupId,
    pub lease: Lease,
    /// The moments behind it that could be restored then.
    pub behind: Vec<Timestamp>,
}

/// What was seen of the classes.
#[derive(Default)]
pub struct Classes {
    /// How cold each pack was.
    pub coldness: BTreeMap<ObjectKey, u8>,
    /// Fulls behind which a newer one was complete, at some time.
    pub closed: BTreeSet<BackupId>,
    /// Thaws that were asked for and have not been waited for.
    pub thaws: Vec<(BackupId, Cold)>,
    /// How often a cold backup was read after its thaw.
    pub thawed: usize,
}

/// What was there, and what had been decided then.
#[derive(Default)]
pub struct Seen {
    backups: BTreeSet<BackupId>,
    segments: BTreeSet<String>,
    kept: Kept,
}

pub struct Run {
    pub world: World,
    pub dice: Dice,
    pub policy: Policy,
    pub open: Vec<Open>,
    pub pinned: BTreeSet<BackupId>,
    pub used: Vec<Used>,
    pub stopped: Vec<Stopped>,
    pub classes: Classes,
    /// The last full that was completed.
    pub last_full: Option<BackupId>,
    /// Every backup that was ever completed.
    pub completed: BTreeSet<BackupId>,
    pub story: Vec<String>,
    /// What was there at the last check.
    pub seen: Seen,
    /// Somebody has removed or moved something since the last check.
    pub may_have_changed: bool,
    /// How often each kind of thing happened.
    pub counts: BTreeMap<&'static str, usize>,
}

impl Run {
    pub fn begin(mut dice: Dice) -> Self {
        let policy = steps::rules(&mut dice);
        let seed = dice.below(1000);
        let world = match dice.below(3) {
            0 => World::with_classes_by_claims(seed),
            _ => World::with_classes(seed),
        };
        Self {
            world,
            dice,
            policy,
            open: Vec::new(),
            pinned: BTreeSet::new(),
            used: Vec::new(),
            stopped: Vec::new(),
            classes: Classes::default(),
            last_full: None,
            completed: BTreeSet::new(),
            story: Vec::new(),
            seen: Seen::default(),
            may_have_changed: false,
            counts: BTreeMap::new(),
        }
    }

    pub fn tell(&mut self, text: String) {
        self.story.push(format!("{}: {text}", self.world.now()));
    }

    pub fn told(&self) -> String {
        self.story.join("\n")
    }

    pub fn count(&mut self, what: &'static str) {
        *self.counts.entry(what).or_default() += 1;
    }

    pub fn step(&mut self) {
        let hours = 1 + self.dice.below(9);
        self.world.pass(TimeDelta::hours(i64::try_from(hours).unwrap()));
        if self.use_beside() {
            return self.check();
        }
        let what = self.dice.below(30);
        self.may_have_changed = what >= 16;
        match what {
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
            18 => self.change_rules(),
            19 => self.write_beside(),
            20 => self.tier(),
            21 => self.thaw(),
            22 => self.catalogue(),
            23..=25 => self.start(),
            26 | 27 => self.go_on(),
            _ => self.expire(),
        }
        self.check();
    }

    /// Whoever is stopped goes on at last; then what was lost is told, and what expired is not.
    pub fn end(&mut self) {
        while !self.stopped.is_empty() {
            self.go_on();
            self.may_have_changed = true;
            self.check();
        }
        self.thaw_all();
        self.may_have_changed = true;
        self.check();
        self.lose_one();
    }

    pub fn check(&mut self) {
        self.notice_completed();
        self.world.assert_sound(&self.told());
        let backups = self.world.complete();
        let complete: BTreeSet<&BackupId> = backups.iter().map(|backup| &backup.id).collect();
        let mut must_be = self.pinned.iter().chain(self.used.iter().map(|used| &used.id));
        let lost = must_be.find(|id| !complete.contains(id));
        assert!(lost.is_none(), "{lost:?} is pinned or in use\n{}", self.told());
        let last = self.last_full.as_ref();
        assert!(last.is_none_or(|last| complete.contains(last)), "the last full\n{}", self.told());
        let made = complete.iter().find(|id| !self.completed.contains(**id));
        assert!(made.is_none(), "{made:?} is half-made\n{}", self.told());
        // Whoever was told that he may stand on a backup can.
        let young = self.open.iter().filter(|open| self.world.now() < open.begun.started + YOUNG);
        let mut stood_on = young.filter_map(|open| open.begun.parent.as_ref());
        let lost = stood_on.find(|id| !complete.contains(id));
        assert!(lost.is_none(), "{lost:?} is stood on\n{}", self.told());
        // What follows a backup that is read stays, whatever the window.
        let moments: BTreeSet<Timestamp> = self.world.restorable().into_iter().collect();
        for Used { id, behind, .. } in &self.used {
            let lost: Vec<_> = behind.iter().filter(|moment| !moments.contains(moment)).collect();
            assert!(lost.is_empty(), "{lost:?} behind {id}\n{}", self.told());
        }
        self.check_removed();
        // What nobody has removed and nobody has moved is as it was.
        if std::mem::take(&mut self.may_have_changed) {
            self.check_records();
            self.check_classes(&backups);
        }
    }

    /// What is gone since the last check was given up for good: by the newest record of then, or by one of now.
    pub fn check_removed(&mut self) {
        let kept = self.world.repository.kept(&self.world.ctx, &self.world.place).unwrap();
        let backups: BTreeSet<BackupId> =
            self.world.complete().into_iter().map(|backup| backup.id).collect();
        let segments = self.world.segments();
        let records = [&self.seen.kept, &kept];
        let is_named = |id: &BackupId| records.iter().any(|kept| kept.is_given_up(id));
        let gone = self.seen.backups.iter().find(|id| !backups.contains(*id) && !is_named(id));
        assert!(gone.is_none(), "{gone:?} was removed, and no record names it\n{}", self.told());
        let expired: Vec<_> = records.iter().filter_map(|kept| kept.last_final()).collect();
        let is_expired =
            |segment: &String| expired.iter().any(|keep| self.world.has_expired(keep, segment));
        let mut gone = self.seen.segments.difference(&segments);
        let gone = gone.find(|segment| !is_expired(segment));
        assert!(gone.is_none(), "{gone:?} was removed, and no record names it\n{}", self.told());
        self.seen = Seen { backups, segments, kept };
    }

    /// What is missing was given up, and no backup that was complete has vanished: the records say so.
    fn check_records(&self) {
        let registration = self.world.repository.registration(&self.world.place).unwrap();
        let (ctx, place) = (&self.world.ctx, &self.world.place);
        let survey = self.world.repository.survey_by_list(ctx, place, &registration).unwrap();
        assert!(survey.unreadable.is_empty(), "{:?}\n{}", survey.unreadable, self.told());
        for backup in self.world.complete() {
            let holes = survey.wal.holes(backup.start().unwrap());
            assert!(holes.is_empty(), "{holes:?} behind {}\n{}", backup.id, self.told());
        }
        let plan = self.world.plan(&self.world.repository, &self.policy).unwrap();
        let vanished = plan.places[0].vanished.iter().find(|id| self.completed.contains(*id));
        assert!(vanished.is_none(), "{vanished:?} has vanished\n{}", self.told());
    }

    /// A segment that is lost is a hole, whatever expired around it.
    fn lose_one(&mut self) {
        use pgkeep::storage::ObjectStore as _;
        self.world.pass(TimeDelta::hours(1));
        self.world.backup(pgkeep::repo::BackupType::Full);
        let lost = self.world.push();
        self.world.push();
        self.world.store.delete(&self.world.place.wal(&lost).unwrap()).unwrap();
        let registration = self.world.repository.registration(&self.world.place).unwrap();
        let (ctx, place) = (&self.world.ctx, &self.world.place);
        let survey = self.world.repository.survey_by_list(ctx, place, &registration).unwrap();
        let last = self.world.complete().pop().unwrap();
        let holes = survey.wal.holes(last.start().unwrap());
        assert_eq!(holes.len(), 1, "{lost}\n{}", self.told());
    }
}
