//! Tiering, thaws, and what may be cold.

use std::time::Duration;

use chrono::TimeDelta;
use pgkeep::repo::{self, BackupId, BackupType, Summary};
use pgkeep::storage::{
    self, Availability, ObjectKey, ObjectStore as _, StorageClass, Thaw, ThawSpeed, list_all,
};
use pgkeep::tiering::{self, Error, TierPolicy, Way};

use super::run::{Run, YOUNG};
use crate::support::Dice;
use crate::tier_crash::{content, execute, plan, read};

const CLASSES: [StorageClass; 4] = [
    StorageClass::StandardIa,
    StorageClass::GlacierIr,
    StorageClass::Glacier,
    StorageClass::DeepArchive,
];

/// Some rules; the warmer classes for what is kept shorter, and the other way round.
pub fn rules(dice: &mut Dice) -> TierPolicy {
    let after = Duration::from_hours(24 * dice.below(4));
    let class = dice.one_of(&CLASSES).clone();
    let monthly = (dice.below(2) == 0).then(|| dice.one_of(&CLASSES).clone());
    TierPolicy { after, class, monthly, yearly: None, way: Way::Copy }
}

/// The packs of a store that are not where they were stored first, by backup.
fn moved(run: &Run) -> Vec<(ObjectKey, StorageClass)> {
    let listed = list_all(&run.world.store, "").unwrap().into_iter();
    let classes = listed.map(|meta| (meta.key, meta.class.unwrap()));
    classes.filter(|(_, class)| *class != StorageClass::Standard).collect()
}

fn owner(key: &ObjectKey) -> BackupId {
    let name = key.as_str();
    let (_, rest) = name.split_once("/data/").unwrap_or_else(|| panic!("{name} is no pack"));
    rest.split('/').next().unwrap().parse().unwrap()
}

impl Run {
    /// Chains that somebody who has begun stands on or reads: they must not move by a plan that is made now.
    pub fn in_hands(&self) -> Vec<BackupId> {
        let now = self.world.now();
        let open = self.open.iter().filter(|open| now < open.begun.started + YOUNG);
        let stood_on = open.filter_map(|open| open.begun.parent.as_ref()).map(BackupId::root);
        stood_on.chain(self.used.iter().map(|used| used.id.root())).collect()
    }

    pub fn tier(&mut self) {
        let rules = rules(&mut self.dice);
        let in_hands = self.in_hands();
        let before = moved(self);
        let (ctx, repository) = (&self.world.ctx, &self.world.repository);
        let planned = plan(ctx, repository, &self.policy, &rules).unwrap();
        let done = execute(ctx, repository, &planned).unwrap();
        let again = plan(ctx, repository, &self.policy, &rules).unwrap();
        self.tell(format!("tier to {} after {:?}: {done:?}", rules.class, rules.after));
        assert_eq!(again.moving().packs, 0, "twice: {again}\n{}", self.told());
        self.require_left(&before, &in_hands);
    }

    /// That nothing has moved of these chains.
    pub fn require_left(&mut self, before: &[(ObjectKey, StorageClass)], in_hands: &[BackupId]) {
        let now = moved(self);
        for moved in now.iter().filter(|moved| !before.contains(moved)) {
            self.count("moved packs");
            let root = owner(&moved.0).root();
            assert!(!in_hands.contains(&root), "{moved:?} of a chain in use\n{}", self.told());
        }
    }

    pub fn moved(&self) -> Vec<(ObjectKey, StorageClass)> {
        moved(self)
    }

    /// A cold backup is refused, thawed, and read; or the thaw is left to itself for a while.
    pub fn thaw(&mut self) {
        if let Some((id, cold)) = self.classes.thaws.pop() {
            self.tell(format!("the thaw of {id} is looked at"));
            return self.wait_for(&id, &cold);
        }
        let (ctx, repository, place) = (&self.world.ctx, &self.world.repository, &self.world.place);
        let find = |backup: &Summary| tiering::find_cold(ctx, repository, place, &backup.id);
        let all = self.world.complete();
        let all = all.iter().map(|backup| (backup.id.clone(), find(backup).unwrap()));
        let cold: Vec<_> = all.filter(|(_, cold)| cold.objects > 0).collect();
        if cold.is_empty() {
            return;
        }
        let (id, cold) = self.dice.one_of(&cold).clone();
        // Its own file is in its own pack; what it stands on may be cold alone.
        let own = &self.world.place.backup_prefixes(&id)[0];
        let is_own = cold.packs.iter().any(|pack| {
            let is_cold = !pack.state.availability.is_readable(self.world.now());
            is_cold && pack.key.as_str().starts_with(own)
        });
        let found = read(repository, place, &id);
        let is_cold = matches!(found, Err(repo::Error::Storage(storage::Error::Cold { .. })));
        assert_eq!(is_cold, is_own, "{id}: {found:?}\n{}", self.told());
        let speed = *self.dice.one_of(&ThawSpeed::ALL);
        let wanted = Thaw { days: 3, speed };
        match tiering::thaw(ctx, &self.world.store, &cold, wanted) {
            Ok(asked) => {
                assert_eq!((asked.cold, asked.gone), (0, 0), "{id}\n{}", self.told());
                self.tell(format!("{id} is being thawed, {speed}: {asked:?}"));
            }
            Err(Error::NoSpeed { class, .. }) => {
                assert_eq!((speed, class), (ThawSpeed::Expedited, StorageClass::DeepArchive));
                return;
            }
            Err(error) => panic!("{id}: {error}\n{}", self.told()),
        }
        match self.dice.below(2) {
            0 => self.classes.thaws.push((id, cold)),
            _ => {
                self.world.pass(TimeDelta::hours(49));
                self.wait_for(&id, &cold);
            }
        }
    }

    /// All that may be cold is, and comes back.
    pub fn thaw_all(&mut self) {
        let (after, class) = (Duration::ZERO, StorageClass::Glacier);
        let rules = TierPolicy { after, class, monthly: None, yearly: None, way: Way::Copy };
        let (ctx, repository) = (&self.world.ctx, &self.world.repository);
        let planned = plan(ctx, repository, &self.policy, &rules).unwrap();
        execute(ctx, repository, &planned).unwrap();
        let wanted = Thaw { days: 3, speed: ThawSpeed::Bulk };
        let mut asked = Vec::new();
        for backup in self.world.complete() {
            let place = &self.world.place;
            let cold = tiering::find_cold(ctx, repository, place, &backup.id).unwrap();
            tiering::thaw(ctx, &self.world.store, &cold, wanted).unwrap();
            asked.push((backup.id, cold));
        }
        self.tell("everything is thawed".into());
        self.world.pass(TimeDelta::hours(49));
        for (id, cold) in asked.iter().filter(|(_, cold)| cold.objects > 0) {
            let before = self.classes.thawed;
            self.wait_for(id, cold);
            assert_eq!(self.classes.thawed, before + 1, "{id} is not thawed\n{}", self.told());
        }
    }

    /// What was thawed is read, unless it has gone, or is cold again.
    fn wait_for(&mut self, id: &BackupId, cold: &tiering::Cold) {
        let (ctx, place) = (&self.world.ctx, &self.world.place);
        if !self.world.complete().iter().any(|backup| backup.id == *id) {
            return;
        }
        let ready = tiering::poll(ctx, &self.world.store, cold).unwrap();
        assert_eq!(ready.gone, 0, "{id}\n{}", self.told());
        let now = tiering::find_cold(ctx, &self.world.repository, place, id).unwrap();
        // A pack may have become cold since, or cold again.
        if ready.is_complete() && now.objects == 0 {
            let found = read(&self.world.repository, place, id).unwrap();
            assert_eq!(found, content(id), "{id}\n{}", self.told());
            self.classes.thawed += 1;
            self.count("read after a thaw");
            self.tell(format!("{id} is thawed until {:?}", ready.until));
        }
    }

    /// Every backup is read, or cold and can be thawed; only packs are cold, and only of chains that were closed; nothing gets
    /// warmer.
    pub fn check_classes(&mut self, backups: &[Summary]) {
        let fulls = backups.iter().filter(|backup| backup.id.backup_type() == BackupType::Full);
        let newest =
            fulls.clone().max_by_key(|full| (full.finished, &full.id)).map(|full| &full.id);
        let closed = fulls.filter(|full| Some(&full.id) != newest).map(|full| full.id.clone());
        self.classes.closed.extend(closed);
        for (key, class) in moved(self) {
            let root = owner(&key).root();
            let coldness = class.coldness().unwrap();
            let before = self.classes.coldness.insert(key.clone(), coldness).unwrap_or_default();
            assert!(before <= coldness, "{key} got warmer\n{}", self.told());
            let times: Vec<_> = backups.iter().map(|it| (&it.id, it.finished)).collect();
            let is_closed = self.classes.closed.contains(&root);
            assert!(is_closed, "{key} of an open chain {times:?}\n{}", self.told());
            let read = self.world.store.get(&key);
            let state = self.world.store.class(&key).unwrap().availability;
            let is_cold = matches!(state, Availability::Cold | Availability::Thawing);
            assert!(!is_cold || class.needs_thaw(), "{key} is {state:?}\n{}", self.told());
            let is_refused = matches!(read, Err(storage::Error::Cold { .. }));
            assert_eq!(is_cold, is_refused, "{key} is {state:?}\n{}", self.told());
        }
        for backup in backups {
            let id = &backup.id;
            match read(&self.world.repository, &self.world.place, id) {
                Ok(found) => assert_eq!(found, content(id), "{id}\n{}", self.told()),
                Err(repo::Error::Storage(storage::Error::Cold { .. })) => {}
                Err(error) => panic!("{id}: {error}\n{}", self.told()),
            }
        }
    }
}
