//! What it costs to move and to remove, in days, bytes and requests: prices are the provider's.

use serde::Serialize;

use super::plan::Move;
use super::policy::Way;
use crate::base::Timestamp;
use crate::storage::{ObjectMeta, StorageClass};

const DAY: i64 = 86_400;

/// What a plan costs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Costs {
    /// Copies or tags, one for each pack; a large copy is a few requests more.
    pub requests: u64,
    /// Whether rules of the bucket move what was tagged.
    pub by_rule: bool,
    /// How long what moves is paid for at least, by class.
    pub minimum: Vec<MinimumStay>,
    /// What leaves a class before its own minimum is over.
    pub early: Vec<Early>,
    /// What stays behind; nothing where the store keeps no versions.
    pub old_versions: Option<OldVersions>,
}

/// Packs that come to a class in which storage is charged for a while at least.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MinimumStay {
    /// The class.
    pub class: StorageClass,
    /// For so many days, also when they are removed before.
    pub days: u16,
    /// How many.
    pub packs: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// Objects that leave a class before the storage is over that is charged at least.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Early {
    /// The class.
    pub class: StorageClass,
    /// How many.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
    /// How many days are charged that nothing is stored in, at most.
    pub days_max: u16,
    /// The sum over the objects of bytes by days: what is charged for nothing.
    pub byte_days: u128,
}

/// What a store that keeps versions goes on to charge for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct OldVersions {
    /// Versions.
    pub objects: u64,
    /// Their bytes, in the class from which they moved.
    pub bytes: u64,
    /// Whether they may be locked, so that they cannot be removed for a while.
    pub locked: bool,
}

/// What it costs to remove or move objects now, in days of storage that is paid for all the same. Where the store does
/// not tell since when an object is in its class, all days count: so it is with what rules of the bucket move, for the
/// time that a list tells stays that of the put.
#[must_use]
pub fn early_removal<'a>(
    objects: impl IntoIterator<Item = &'a ObjectMeta>,
    now: Timestamp,
    way: Way,
) -> Vec<Early> {
    let mut found: Vec<Early> = Vec::new();
    for meta in objects {
        let Some(class) = &meta.class else { continue };
        let stored = meta.stored.filter(|_| way == Way::Copy);
        let days = days_left(class, stored, now);
        if days == 0 {
            continue;
        }
        let early = match found.iter_mut().position(|early| early.class == *class) {
            Some(index) => &mut found[index],
            None => {
                let class = class.clone();
                found.push(Early { class, objects: 0, bytes: 0, days_max: 0, byte_days: 0 });
                let last = found.len() - 1;
                &mut found[last]
            }
        };
        early.objects += 1;
        early.bytes += meta.size;
        early.days_max = early.days_max.max(days);
        early.byte_days += u128::from(meta.size) * u128::from(days);
    }
    found.sort_by_key(|early| early.class.coldness());
    found
}

/// Begun days count whole.
fn days_left(class: &StorageClass, stored: Option<Timestamp>, now: Timestamp) -> u16 {
    let minimum = i64::from(class.minimum_days());
    let over = stored.map_or(0, |stored| (now - stored).num_seconds().max(0));
    let left = (minimum * DAY - over).max(0);
    u16::try_from((left + DAY - 1) / DAY).unwrap_or(u16::MAX)
}

impl Costs {
    /// Of moves.
    pub(super) fn of<'a>(
        moves: impl Iterator<Item = &'a Move> + Clone,
        now: Timestamp,
        (way, versions): (Way, Option<bool>),
    ) -> Self {
        let (mut requests, mut bytes) = (0, 0);
        let mut minimum: Vec<MinimumStay> = Vec::new();
        for each in moves.clone() {
            requests += 1;
            bytes += each.meta.size;
            let days = each.to.minimum_days();
            let known = minimum.iter_mut().find(|stay| stay.class == each.to);
            match known {
                _ if days == 0 => {}
                Some(stay) => {
                    stay.packs += 1;
                    stay.bytes += each.meta.size;
                }
                None => {
                    let class = each.to.clone();
                    minimum.push(MinimumStay { class, days, packs: 1, bytes: each.meta.size });
                }
            }
        }
        minimum.sort_by_key(|stay| stay.class.coldness());
        let early = early_removal(moves.map(|each| &each.meta), now, way);
        let by_rule = way == Way::Tag;
        // What a rule moves stays the same version.
        let old_versions = versions.filter(|_| requests > 0 && !by_rule);
        let old_versions =
            old_versions.map(|locked| OldVersions { objects: requests, bytes, locked });
        Self { requests, by_rule, minimum, early, old_versions }
    }
}
