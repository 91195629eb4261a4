//! What `expire` moves to colder storage after it has removed, and what it costs to remove what is cold.

use serde_json::{Value, json};

use crate::base::{ByteSize, Ctx};
use crate::cli::cold::failed;
use crate::cli::error::Failure;
use crate::cli::output::counted;
use crate::config::RepositorySettings;
use crate::repo::{self, BackupId, LeaseRequest, Repository, Scope};
use crate::retention::ExpirePlan;
use crate::tiering::{self, Early, Moved, Stays, TierPlan, Way};
use crate::wiring;

/// What moves, or why nothing does.
#[derive(Debug, Default)]
pub(super) enum Tiered {
    /// No rule says that anything moves.
    #[default]
    NoRules,
    /// Somebody else is at it, in words.
    Held(String),
    /// It did not get to its end; what was removed before is removed.
    Failed(Box<Failure>),
    /// Carried out, where there is a result.
    Planned(TierPlan, Option<Moved>),
}

/// What would move after an expiry. Changes nothing.
///
/// # Errors
/// As the store's.
pub(super) fn plan(
    ctx: &Ctx,
    repository: &Repository,
    settings: &RepositorySettings,
    plan: &ExpirePlan,
) -> Result<Tiered, Failure> {
    Ok(match planned(ctx, repository, settings, plan)? {
        None => Tiered::NoRules,
        Some(plan) => Tiered::Planned(plan, None),
    })
}

fn planned(
    ctx: &Ctx,
    repository: &Repository,
    settings: &RepositorySettings,
    plan: &ExpirePlan,
) -> Result<Option<TierPlan>, Failure> {
    let Some(tiering) = &settings.tiering else { return Ok(None) };
    let expires = settings.retention.is_given;
    let places = plan.places.iter();
    let found = places.map(|place| wiring::tier_found(&place.gathered, &place.decision, expires));
    let policy = wiring::tier_policy(tiering);
    let planned = tiering::plan_tiering(ctx, repository, &policy, found.collect());
    planned.map(Some).map_err(|error| failed(&settings.name, error))
}

/// Moves what is old, with what an expiry has just found. Who finds another at it leaves it to him. What was moved before
/// a failure stays moved.
pub(super) fn carry_out(
    ctx: &Ctx,
    repository: &Repository,
    settings: &RepositorySettings,
    expired: &ExpirePlan,
    host: &str,
) -> Tiered {
    carried_out(ctx, repository, settings, expired, host)
        .unwrap_or_else(|failure| Tiered::Failed(Box::new(failure)))
}

fn carried_out(
    ctx: &Ctx,
    repository: &Repository,
    settings: &RepositorySettings,
    expired: &ExpirePlan,
    host: &str,
) -> Result<Tiered, Failure> {
    let Some(place) = expired.places.first().filter(|_| settings.tiering.is_some()) else {
        return Ok(Tiered::NoRules);
    };
    let request = LeaseRequest {
        scope: Scope::Tier,
        cluster: place.gathered.place.cluster(),
        host,
        pid: std::process::id(),
        purpose: "tiering",
        backup: None,
        server: None,
        is_gone: wiring::is_gone,
    };
    let lease = match repository.take_lease(ctx, &request) {
        Ok(lease) => lease.beside(ctx),
        Err(held @ repo::Error::Held(_)) => return Ok(Tiered::Held(held.to_string())),
        Err(error) => return Err(failed(&settings.name, error.into())),
    };
    let Some(mut plan) = planned(ctx, repository, settings, expired)? else {
        return Ok(Tiered::NoRules);
    };
    // What was to be removed is.
    for place in &mut plan.places {
        place.chains.retain(|chain| chain.stays != Some(Stays::Going));
    }
    let moved = tiering::execute(ctx, repository, &plan, &lease);
    let moved = moved.map_err(|error| failed(&settings.name, error))?;
    Ok(Tiered::Planned(plan, Some(moved)))
}

/// What it costs to remove what goes, in days of storage that is paid for all the same. A list for each backup, where
/// there are classes.
///
/// # Errors
/// As the store's.
pub(super) fn early(
    ctx: &Ctx,
    repository: &Repository,
    settings: &RepositorySettings,
    plan: &ExpirePlan,
) -> Result<Vec<Early>, Failure> {
    if !repository.store().has_classes() {
        return Ok(Vec::new());
    }
    let mut packs = Vec::new();
    for place in &plan.places {
        let remains = place.remains.iter().map(|remains| &remains.id);
        let gone: Vec<BackupId> = place.decision.removed().chain(remains).cloned().collect();
        let listed = tiering::packs_of(ctx, repository, &place.gathered.place, &gone);
        packs.extend(listed.map_err(|error| failed(&settings.name, error))?);
    }
    let way = settings.tiering.as_ref().map_or(Way::Copy, |tiering| tiering.way);
    Ok(tiering::early_removal(&packs, ctx.clock.now(), way))
}

impl Tiered {
    /// For people; nothing where no rule is written.
    pub(super) fn text(&self, name: &str) -> Option<String> {
        match self {
            Self::NoRules | Self::Failed(_) => None,
            Self::Planned(plan, None) => Some(format!("{name}: {plan}")),
            Self::Planned(plan, Some(_)) => {
                Some(format!("{name}: {plan}\n{name}: {}", self.told().unwrap_or_default()))
            }
            Self::Held(_) => self.told().map(|told| format!("{name}: {told}")),
        }
    }

    /// What was done, in one line.
    pub(super) fn told(&self) -> Option<String> {
        match self {
            Self::NoRules | Self::Planned(_, None) | Self::Failed(_) => None,
            Self::Held(by) => Some(format!("tiering: left to somebody else: {by}")),
            Self::Planned(_, Some(moved)) => Some(format!("tiering: {}", moved_text(moved))),
        }
    }

    /// For programs.
    pub(super) fn json(&self) -> Value {
        match self {
            Self::NoRules => Value::Null,
            Self::Held(by) => json!({ "held_by": by }),
            Self::Failed(failure) => json!({ "error": failure.json_error() }),
            Self::Planned(plan, moved) => json!({ "plan": plan, "moved": moved }),
        }
    }
}

fn moved_text(moved: &Moved) -> String {
    let packs = |count: u64| counted(usize::try_from(count).unwrap_or(usize::MAX), "pack");
    let (packs_moved, bytes) = (packs(moved.packs), ByteSize(moved.bytes));
    let mut text = match moved.by_tag {
        false => format!("moved {packs_moved} ({bytes})"),
        true => format!(
            "tagged {packs_moved} ({bytes}): they move when the bucket has the rules that `pgkeep repository lifecycle` prints"
        ),
    };
    if moved.vanished > 0 {
        text.push_str(&format!(", {} were removed meanwhile", packs(moved.vanished)));
    }
    if moved.cold > 0 {
        text.push_str(&format!(", {} would have to be thawed first", packs(moved.cold)));
    }
    text
}
