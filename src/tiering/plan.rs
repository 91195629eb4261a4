//! Which packs move, where to, and why the others stay: a pure function of what was found, the rules and the time.
//!
//! A chain is closed when a newer full is complete and nobody can add to it any more; it moves whole or not at all.
//! Nothing moves from a colder class to a warmer one, whatever the rules say now: that would be a thaw, a transfer and
//! a charge for days that are not over.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use chrono::TimeDelta;
use serde::ser::{Serialize, SerializeStruct, Serializer};

use super::costs::Costs;
use super::facts::{Member, PlaceFacts, StoreFacts};
use super::policy::{KeptAs, TierPolicy};
use crate::base::Timestamp;
use crate::repo::{BackupId, Place};
use crate::storage::{ObjectMeta, StorageClass};

/// What would be done with a cluster in a repository.
#[derive(Debug, Clone, serde::Serialize)]
pub struct TierPlan {
    /// The rules.
    pub policy: TierPolicy,
    /// Each of its histories.
    pub places: Vec<PlacePlan>,
}

/// What would be done with one history.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct PlacePlan {
    /// Its system identifier and epoch, for people.
    pub name: String,
    /// Where it lies.
    #[serde(skip)]
    pub place: Place,
    /// Its chains, by the completion of their last members, oldest first.
    pub chains: Vec<ChainPlan>,
    /// What the moves cost.
    pub costs: Costs,
}

/// What would be done with a chain.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct ChainPlan {
    /// Its full.
    pub root: BackupId,
    /// Its backups, by completion.
    pub members: Vec<BackupId>,
    /// When the last of them was complete: its age counts from then.
    pub finished: Timestamp,
    /// For how long its full is kept.
    pub kept_as: KeptAs,
    /// Where it is to lie by the rules.
    pub class: StorageClass,
    /// Why it stays where it is; it moves without.
    pub stays: Option<Stays>,
    /// The packs that move.
    pub moves: Vec<Move>,
    /// Packs that are there already.
    pub there: Tally,
    /// Packs that do not move with the rest.
    pub stuck: BTreeMap<Stuck, Tally>,
    /// All of this chain that ever began: what is not among them began later.
    #[serde(skip)]
    pub known: BTreeSet<BackupId>,
}

/// Packs, counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct Tally {
    /// How many.
    pub packs: u64,
    /// Their bytes.
    pub bytes: u64,
}

impl Tally {
    pub(super) fn add(&mut self, bytes: u64) {
        self.packs += 1;
        self.bytes += bytes;
    }
}

/// A pack that moves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Move {
    /// The pack as it was listed.
    pub meta: ObjectMeta,
    /// The backup or attempt that stored it.
    pub owner: BackupId,
    /// Where it is.
    pub from: StorageClass,
    /// Where it goes.
    pub to: StorageClass,
}

impl Serialize for Move {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut fields = serializer.serialize_struct("Move", 4)?;
        fields.serialize_field("pack", self.meta.key.as_str())?;
        fields.serialize_field("bytes", &self.meta.size)?;
        fields.serialize_field("from", &self.from)?;
        fields.serialize_field("to", &self.to)?;
        fields.end()
    }
}

/// Why a chain stays where it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stays {
    /// No newer full is complete: the next backup may stand on it.
    Last,
    /// It is not old enough.
    Young {
        /// When it will be.
        until: Timestamp,
    },
    /// A running backup belongs to it, or may use packs of it.
    Running(BackupId),
    /// Somebody reads it.
    InUse(String),
    /// It belongs to it, and its manifest cannot be read: what it needs is not known.
    Unreadable(BackupId),
    /// Its full is not there.
    Rootless,
    /// No rule keeps it: moved, it would be paid for longer than it is there.
    Going,
}

impl fmt::Display for Stays {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Last => f.write_str("last chain: the next backup may stand on it"),
            Self::Young { until } => {
                write!(f, "too young: it moves from {} on", until.format("%Y-%m-%d %H:%M:%S UTC"))
            }
            Self::Running(id) => write!(f, "{id} is running and may stand on it"),
            Self::InUse(by) => write!(f, "in use by {by}"),
            Self::Unreadable(id) => write!(f, "the manifest of {id} cannot be read"),
            Self::Rootless => f.write_str("its full is not there"),
            Self::Going => f.write_str("no rule keeps it: the next expiry removes it"),
        }
    }
}

impl Serialize for Stays {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Why a pack does not move with its chain.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stuck {
    /// It is in a colder class than the rules say.
    Colder(StorageClass),
    /// It would have to be thawed before it moves on.
    Cold(StorageClass),
    /// Its class is not one that is known.
    Unknown(StorageClass),
    /// An interrupted backup stored it, and this chain uses it too, and stays.
    Shared(BackupId),
}

impl fmt::Display for Stuck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Colder(class) => write!(f, "in {class}, which is colder already"),
            Self::Cold(class) => write!(f, "in {class}: to move on, it would have to be thawed"),
            Self::Unknown(class) => write!(f, "in {class}, of which nothing is known"),
            Self::Shared(root) => write!(f, "used by {root} too, whose chain stays"),
        }
    }
}

impl Serialize for Stuck {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl PlacePlan {
    /// The packs that move, chain by chain.
    pub fn moves(&self) -> impl Iterator<Item = &Move> + Clone {
        self.chains.iter().flat_map(|chain| &chain.moves)
    }
}

impl TierPlan {
    /// How much moves.
    #[must_use]
    pub fn moving(&self) -> Tally {
        let mut tally = Tally::default();
        let moves = self.places.iter().flat_map(PlacePlan::moves);
        moves.for_each(|each| tally.add(each.meta.size));
        tally
    }
}

/// Plans for one history of a cluster.
#[must_use]
pub fn plan_place(
    policy: &TierPolicy,
    now: Timestamp,
    store: StoreFacts,
    facts: &PlaceFacts,
) -> PlacePlan {
    let mut members: BTreeMap<BackupId, Vec<&Member>> = BTreeMap::new();
    for member in &facts.backups {
        members.entry(member.id.root()).or_default().push(member);
    }
    for chain in members.values_mut() {
        chain.sort_by(|a, b| (a.finished, &a.id).cmp(&(b.finished, &b.id)));
    }
    let fulls = facts.backups.iter().filter(|member| member.parent.is_none());
    let newest = fulls.max_by_key(|full| (full.finished, &full.id)).map(|full| &full.id);
    let mut chains: Vec<ChainPlan> = members
        .iter()
        .map(|(root, members)| {
            let stays = stays(policy, now, facts, (root, members), newest);
            begin_chain(policy, facts, (root, members), stays)
        })
        .collect();
    chains.sort_by(|a, b| (a.finished, &a.root).cmp(&(b.finished, &b.root)));
    add_own_packs(facts, &mut chains);
    add_packs_of_attempts(facts, &members, &mut chains);
    let (place, name) =
        (facts.place.clone(), format!("{}-{}", facts.place.system(), facts.place.epoch()));
    let mut plan = PlacePlan { name, place, chains, costs: Costs::default() };
    let versions = store.has_versions.then_some(store.has_locks);
    plan.costs = Costs::of(plan.moves(), now, (policy.way, versions));
    plan
}

fn begin_chain(
    policy: &TierPolicy,
    facts: &PlaceFacts,
    (root, members): (&BackupId, &[&Member]),
    stays: Option<Stays>,
) -> ChainPlan {
    let kept_as = match (facts.yearly.contains(root), facts.monthly.contains(root)) {
        (true, _) => KeptAs::Yearly,
        (false, true) => KeptAs::Monthly,
        (false, false) => KeptAs::Plain,
    };
    ChainPlan {
        root: root.clone(),
        members: members.iter().map(|member| member.id.clone()).collect(),
        finished: finished(members),
        kept_as,
        class: policy.class_for(kept_as).clone(),
        stays,
        moves: Vec::new(),
        there: Tally::default(),
        stuck: BTreeMap::new(),
        known: facts.known.iter().filter(|id| id.root() == *root).cloned().collect(),
    }
}

fn finished(members: &[&Member]) -> Timestamp {
    let finished = members.iter().map(|member| member.finished).max();
    finished.unwrap_or(Timestamp::MAX_UTC)
}

/// The first reason that there is: what somebody does now before what the rules say.
fn stays(
    policy: &TierPolicy,
    now: Timestamp,
    facts: &PlaceFacts,
    (root, members): (&BackupId, &[&Member]),
    newest: Option<&BackupId>,
) -> Option<Stays> {
    let is_of_chain = |id: &BackupId| id.root() == *root;
    let attempts: BTreeSet<&BackupId> =
        members.iter().flat_map(|member| &member.attempts).collect();
    let running = facts.running.iter().find(|running| {
        is_of_chain(&running.id)
            || running.parent.as_ref().is_some_and(is_of_chain)
            || running.attempts.iter().any(|id| attempts.contains(id))
    });
    if let Some(running) = running {
        return Some(Stays::Running(running.id.clone()));
    }
    if let Some(used) = facts.in_use.iter().find(|used| is_of_chain(&used.id)) {
        return Some(Stays::InUse(used.by.clone()));
    }
    if let Some(id) = facts.unreadable.iter().find(|id| is_of_chain(id)) {
        return Some(Stays::Unreadable(id.clone()));
    }
    if !members.iter().any(|member| member.id == *root) {
        return Some(Stays::Rootless);
    }
    let is_left = facts.newer_elsewhere.is_some_and(|full| full > finished(members));
    if newest.is_none_or(|newest| newest == root) && !is_left {
        return Some(Stays::Last);
    }
    if members.iter().all(|member| facts.going.contains_key(&member.id)) {
        return Some(Stays::Going);
    }
    let after = TimeDelta::from_std(policy.after).unwrap_or(TimeDelta::MAX);
    let until = finished(members).checked_add_signed(after).unwrap_or(Timestamp::MAX_UTC);
    (until > now).then_some(Stays::Young { until })
}

/// Packs of the backups themselves; those of one that is on its way out stay.
fn add_own_packs(facts: &PlaceFacts, chains: &mut [ChainPlan]) {
    for chain in chains.iter_mut().filter(|chain| chain.stays.is_none()) {
        let stay = |id: &&BackupId| !facts.going.contains_key(*id);
        let members: Vec<BackupId> = chain.members.iter().filter(stay).cloned().collect();
        let class = chain.class.clone();
        for owner in &members {
            for meta in facts.packs.get(owner).into_iter().flatten() {
                chain.add(owner, meta, &class);
            }
        }
    }
}

/// Packs of a dead attempt move with the chains that use it: when all of them move, and to the warmest of their
/// classes.
fn add_packs_of_attempts(
    facts: &PlaceFacts,
    members: &BTreeMap<BackupId, Vec<&Member>>,
    chains: &mut [ChainPlan],
) {
    let mut users: BTreeMap<&BackupId, BTreeSet<&BackupId>> = BTreeMap::new();
    for (root, members) in members {
        for attempt in members.iter().flat_map(|member| &member.attempts) {
            users.entry(attempt).or_default().insert(root);
        }
    }
    for (attempt, roots) in users {
        let packs: Vec<&ObjectMeta> = facts.packs.get(attempt).into_iter().flatten().collect();
        let of_users = |chain: &&ChainPlan| roots.contains(&chain.root);
        let stays = chains.iter().filter(of_users).find(|chain| chain.stays.is_some());
        let stays = stays.map(|chain| chain.root.clone());
        let classes = chains.iter().filter(of_users).map(|chain| &chain.class);
        let Some(class) = classes.min_by_key(|class| class.coldness()).cloned() else { continue };
        let moving =
            chains.iter_mut().find(|chain| roots.contains(&chain.root) && chain.stays.is_none());
        let Some(chain) = moving else { continue };
        for meta in packs {
            match &stays {
                Some(root) => {
                    let stuck = chain.stuck.entry(Stuck::Shared(root.clone())).or_default();
                    stuck.add(meta.size);
                }
                None => chain.add(attempt, meta, &class),
            }
        }
    }
}

impl ChainPlan {
    fn add(&mut self, owner: &BackupId, meta: &ObjectMeta, to: &StorageClass) {
        // Where a list does not tell, it is the first one.
        let from = meta.class.clone().unwrap_or_default();
        let stuck = match (from.coldness(), to.coldness()) {
            _ if from == *to => return self.there.add(meta.size),
            (None, _) | (_, None) => Stuck::Unknown(from),
            (Some(is), Some(wanted)) if is >= wanted => Stuck::Colder(from),
            _ if from.needs_thaw() => Stuck::Cold(from),
            _ => {
                let (meta, owner, to) = (meta.clone(), owner.clone(), to.clone());
                return self.moves.push(Move { meta, owner, from, to });
            }
        };
        self.stuck.entry(stuck).or_default().add(meta.size);
    }
}
