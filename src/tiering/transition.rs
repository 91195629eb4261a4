//! Moves packs to the classes that a plan names.
//!
//! Chain by chain, the oldest first, and of a chain several packs at a time. Each move leaves its pack in one of the
//! two classes, and a pack that is where it is to be is passed over, so that whatever dies in between is finished by
//! the next run: until then the chain lies in two classes, and readers look at each object's.

use std::sync::atomic::{AtomicU64, Ordering};

use super::error::{Error, Result};
use super::plan::{ChainPlan, Move, TierPlan};
use super::policy::{CLASS_TAG, Way};
use crate::base::{AT_ONCE, Ctx, Event, Stage, side_by_side};
use crate::repo::{self, BackupId, KeptUp, Place, Repository, Scope};
use crate::storage::{self, ObjectStore as _};

/// What was done.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct Moved {
    /// Packs that lie where they are to lie now.
    pub packs: u64,
    /// Whether they were tagged, and the bucket's rules move them some time.
    pub by_tag: bool,
    /// Their bytes.
    pub bytes: u64,
    /// Packs that were removed since the plan was made.
    pub vanished: u64,
    /// Packs that would have to be thawed first, as the store says.
    pub cold: u64,
    /// Chains that somebody has begun to use since, and who.
    pub passed: Vec<(BackupId, String)>,
}

/// Moves what was planned, under the lease on tiering.
///
/// # Errors
/// [`storage::Error::Changed`] names a pack that is another one than was listed; as the store's and the lease's. What
/// was moved before stays moved, and the same can be planned and done again.
pub fn execute(
    ctx: &Ctx,
    repository: &Repository,
    plan: &TierPlan,
    lease: &KeptUp,
) -> Result<Moved> {
    let moving = plan.moving();
    let event = |event| ctx.observer.event(event);
    event(Event::Begin {
        stage: Stage::Tier,
        bytes_total: moving.bytes,
        files_total: moving.packs,
    });
    let way = plan.policy.way;
    let mut moved = Moved { by_tag: way == Way::Tag, ..Moved::default() };
    for place in &plan.places {
        for chain in place.chains.iter().filter(|chain| !chain.moves.is_empty()) {
            let at = (&place.place, chain, way);
            move_chain(ctx, repository, at, lease, &mut moved)?;
        }
    }
    event(Event::End { stage: Stage::Tier });
    Ok(moved)
}

/// Who uses a chain since the plan was made: whoever reads it would have to thaw it in the middle of his work.
fn begun_since(
    ctx: &Ctx,
    repository: &Repository,
    place: &Place,
    chain: &ChainPlan,
) -> Result<Option<String>> {
    let here = (place.system().to_string(), place.epoch());
    let is_of_chain = |id: &BackupId| id.root() == chain.root;
    let now = ctx.clock.now();
    for lease in repository.leases(ctx, Scope::Use, place.cluster())? {
        let is_here = lease.place.as_ref() == Some(&here);
        if lease.holds(now) && is_here && lease.backup.as_ref().is_some_and(is_of_chain) {
            let by = format!("{}, process {} on {}", lease.purpose, lease.pid, lease.host);
            return Ok(Some(format!("in use by {by}")));
        }
    }
    let prefix = format!("{}{}", place.begins_prefix(), chain.root);
    let begun = storage::list_all(repository.store().as_ref(), &prefix)?;
    let begun = begun.iter().filter_map(|meta| meta.key.last_component().parse::<BackupId>().ok());
    let new = begun.into_iter().find(|id| is_of_chain(id) && !chain.known.contains(id));
    Ok(new.map(|id| format!("{id} has begun to stand on it")))
}

/// What became of one pack.
enum Outcome {
    Moved(u64),
    Vanished,
    Cold,
}

/// A few packs at a time, and before each few who uses the chain: a chain may take hours, and whoever begins to read it
/// meanwhile waits for those that have moved, not for all.
fn move_chain(
    ctx: &Ctx,
    repository: &Repository,
    (place, chain, way): (&Place, &ChainPlan, Way),
    lease: &KeptUp,
    moved: &mut Moved,
) -> Result<()> {
    for few in chain.moves.chunks(AT_ONCE) {
        if let Some(by) = begun_since(ctx, repository, place, chain)? {
            ctx.note(format!("{} stays where it is: {by}", chain.root));
            moved.passed.push((chain.root.clone(), by));
            return Ok(());
        }
        let done = move_few(ctx, repository, (place, way, few), lease, moved);
        if done.is_err() {
            told_partly(ctx, chain, moved);
        }
        done?;
    }
    Ok(())
}

fn move_few(
    ctx: &Ctx,
    repository: &Repository,
    (place, way, few): (&Place, Way, &[Move]),
    lease: &KeptUp,
    moved: &mut Moved,
) -> Result<()> {
    // Those that were moved count although another one failed.
    let (packs, bytes) = (AtomicU64::new(0), AtomicU64::new(0));
    let outcomes = side_by_side(few, |each| {
        ctx.cancel.check()?;
        lease.require(ctx)?;
        let outcome = move_pack(ctx, repository, (place, way), each)?;
        if let Outcome::Moved(size) = outcome {
            packs.fetch_add(1, Ordering::Relaxed);
            bytes.fetch_add(size, Ordering::Relaxed);
            ctx.observer.event(Event::Advance { bytes: size, files: 1 });
        }
        Ok::<_, Error>(outcome)
    });
    moved.packs += packs.into_inner();
    moved.bytes += bytes.into_inner();
    for outcome in outcomes? {
        match outcome {
            Outcome::Moved(_) => {}
            Outcome::Vanished => moved.vanished += 1,
            Outcome::Cold => moved.cold += 1,
        }
    }
    Ok(())
}

fn told_partly(ctx: &Ctx, chain: &ChainPlan, moved: &Moved) {
    ctx.note(format!(
        "{} may lie in two storage classes: {} packs were moved in all; the next run goes on",
        chain.root, moved.packs
    ));
}

fn move_pack(
    ctx: &Ctx,
    repository: &Repository,
    (place, way): (&Place, Way),
    each: &Move,
) -> repo::Result<Outcome> {
    let Move { meta, owner, to, .. } = each;
    let store = repository.store();
    let done = match way {
        Way::Copy => store.set_class(&meta.key, to, meta),
        Way::Tag => store.tag(&meta.key, CLASS_TAG, to.name()),
    };
    match done {
        Ok(()) => Ok(Outcome::Moved(meta.size)),
        Err(error) if error.is_not_found() => {
            // Expiry removes manifests first. One that is there still names this pack.
            match repository.summary(place, owner) {
                Ok(_) => ctx.warn(format!("{error}, and backup {owner} needs it: run verify")),
                Err(_) => ctx.note(format!("{}: removed meanwhile, passed over", meta.key)),
            }
            Ok(Outcome::Vanished)
        }
        Err(error @ storage::Error::Cold { .. }) => {
            ctx.note(format!("{error}: it stays in its class"));
            Ok(Outcome::Cold)
        }
        Err(error) => Err(error.into()),
    }
}
