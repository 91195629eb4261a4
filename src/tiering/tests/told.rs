//! Places that tests tell: chains by the days on which their backups were complete.

use std::collections::{BTreeMap, BTreeSet};

use super::super::facts::{Member, PlaceFacts};
use super::super::policy::{TierPolicy, Way};
use crate::base::Timestamp;
use crate::repo::{BackupId, BackupType, Place};
use crate::storage::{ObjectMeta, StorageClass};

const DAY: i64 = 86_400;

/// Noon of a day, counted from the first.
pub fn noon(day: i64) -> Timestamp {
    Timestamp::from_timestamp(1_767_268_800 + day * DAY, 0).unwrap()
}

pub fn policy(days: u64, class: StorageClass) -> TierPolicy {
    let after = std::time::Duration::from_secs(days * 86_400);
    TierPolicy { after, class, monthly: None, yearly: None, way: Way::Copy }
}

pub fn full(day: i64) -> BackupId {
    BackupId::full(noon(day))
}

pub fn child(root: i64, day: i64) -> BackupId {
    BackupId::of(BackupType::Incremental, Some(&full(root)), noon(day))
}

pub fn empty() -> PlaceFacts {
    PlaceFacts {
        place: Place::new("main", 7, 1).unwrap(),
        backups: Vec::new(),
        unreadable: BTreeSet::new(),
        running: Vec::new(),
        known: BTreeSet::new(),
        in_use: Vec::new(),
        monthly: BTreeSet::new(),
        yearly: BTreeSet::new(),
        going: BTreeMap::new(),
        newer_elsewhere: None,
        packs: BTreeMap::new(),
    }
}

/// Chains, each by the days of its full and of its other backups; two packs of 1000 bytes for each backup.
pub fn chains(chains: &[&[i64]]) -> PlaceFacts {
    let mut facts = empty();
    for chain in chains {
        let [root, children @ ..] = chain else { continue };
        add(&mut facts, full(*root), None, noon(*root));
        let mut parent = full(*root);
        for day in children {
            let id = child(*root, *day);
            add(&mut facts, id.clone(), Some(parent), noon(*day));
            parent = id;
        }
    }
    facts
}

fn add(facts: &mut PlaceFacts, id: BackupId, parent: Option<BackupId>, finished: Timestamp) {
    store(facts, &id, finished);
    facts.known.insert(id.clone());
    facts.backups.push(Member { id, parent, finished, attempts: Vec::new() });
}

/// Two packs of it.
pub fn store(facts: &mut PlaceFacts, id: &BackupId, stored: Timestamp) {
    let pack = |number| ObjectMeta {
        key: facts.place.pack(id, number),
        size: 1000,
        stored: Some(stored),
        class: Some(StorageClass::Standard),
    };
    let packs = vec![pack(0), pack(1)];
    facts.packs.insert(id.clone(), packs);
}

/// All packs of it are in a class.
pub fn in_class(facts: &mut PlaceFacts, id: &BackupId, class: &StorageClass) {
    for meta in facts.packs.get_mut(id).into_iter().flatten() {
        meta.class = Some(class.clone());
    }
}

/// A member uses the packs of a dead attempt.
pub fn use_attempt(facts: &mut PlaceFacts, user: &BackupId, attempt: &BackupId) {
    let user = facts.backups.iter_mut().find(|member| member.id == *user).unwrap();
    user.attempts.push(attempt.clone());
}
