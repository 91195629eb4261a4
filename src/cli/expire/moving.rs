//! What `expire` copies to another repository before it removes it here.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::base::ByteSize;
use crate::cli::error::Failure;
use crate::cli::invocation::Invocation;
use crate::cli::output::counted;
use crate::config::{RepositorySettings, Resolved};
use crate::repo::{BackupId, Place, Repository};
use crate::retention::{ExpirePlan, Moving, leaving};
use crate::transfer::{self, Copied, CopyPlan, Request, Side, Who};
use crate::wiring::{self, Access};

/// What was copied, or would be.
#[derive(Debug, Default)]
pub(super) struct Moves {
    /// To which repository; nothing where no rule says so.
    to: Option<String>,
    copies: Vec<(CopyPlan, Option<Copied>)>,
    /// What is there, and what its rules do not keep.
    places: Vec<(Place, BTreeSet<BackupId>, BTreeSet<BackupId>)>,
}

/// Copies what leaves a repository to the one that `tiering.to` names, and looks there what is whole; or, in a dry run,
/// says what would be copied.
///
/// # Errors
/// As both repositories'; then nothing may be removed.
pub(super) fn carry_out(
    run: &Invocation,
    resolved: &Resolved,
    settings: &RepositorySettings,
    (repository, plan): (&Repository, &ExpirePlan),
    is_dry: bool,
) -> Result<Moves, Failure> {
    let Some(moves) = &settings.moves else { return Ok(Moves::default()) };
    let target = resolved.repositories.iter().find(|each| each.name == moves.to);
    let target =
        target.ok_or_else(|| Failure::failed(format!("there is no repository {}", moves.to)))?;
    let access = if is_dry { Access::ReadOnly } else { Access::ReadWrite };
    let opened = wiring::open(&run.ctx, target, access)?;
    run.warn_each(&opened.warnings);
    let ctx = &run.ctx;
    let cluster = resolved.cluster_name.as_str();
    let (from, to) = (side(settings, repository), side(target, &opened.repository));
    let rules = match target.retention.is_given {
        false => Default::default(),
        true => {
            let policy = wiring::policy(resolved, target);
            let both = (repository, &opened.repository);
            let rules = wiring::target_rules(ctx, both, cluster, &policy);
            rules.map_err(|error| wiring::Error::of_repository(&target.name, error))?
        }
    };
    let mut done = Moves { to: Some(moves.to.clone()), ..Moves::default() };
    for found in &plan.places {
        let (facts, place) = (&found.gathered.facts, &found.gathered.place);
        let leaving = leaving(facts, &found.decision, (moves.after, ctx.clock.now()));
        let all = leaving.all();
        if all.is_empty() {
            continue;
        }
        let request = Request {
            from,
            to,
            cluster,
            system: Some(place.system()),
            epoch: Some(place.epoch()),
            backups: all.clone(),
            is_strict: false,
            rules: rules.clone(),
        };
        let planned = transfer::plan(ctx, &request)?;
        let mut copied = None;
        if !is_dry {
            let host = wiring::host().to_string();
            let (pid, jobs) = (std::process::id(), resolved.cluster.jobs);
            let who = Who { host: &host, pid, is_gone: wiring::is_gone, jobs };
            copied = Some(transfer::execute(ctx, &request, &planned, &who)?);
        }
        let there = transfer::whole(ctx, &to, place, &all)?;
        // What its rules do not keep goes by the rules here.
        let left_out = planned.places.iter().flat_map(|place| &place.left_out);
        let unwanted: BTreeSet<_> =
            left_out.filter(|left| left.is_by_rules).map(|left| left.id.clone()).collect();
        done.places.push((place.clone(), there, unwanted));
        done.copies.push((planned, copied));
    }
    Ok(done)
}

fn side<'a>(settings: &'a RepositorySettings, repository: &'a Repository) -> Side<'a> {
    Side { name: &settings.name, jurisdiction: settings.jurisdiction.as_deref(), repository }
}

impl Moves {
    /// Tells a plan what is there. What no rule keeps since, while others were copied, is to go there first as well.
    pub(super) fn apply(&self, run: &Invocation, plan: &mut ExpirePlan) {
        let Some(to) = &self.to else { return };
        plan.set_moving(run.ctx.clock.now(), |found| {
            let mut moving = Moving { to: to.clone(), ..Moving::default() };
            let known = self.places.iter().find(|(place, ..)| *place == found.gathered.place);
            let none = BTreeSet::new();
            let unwanted = known.map_or(&none, |(_, _, unwanted)| unwanted);
            moving.there = known.map_or_else(BTreeSet::new, |(_, there, _)| there.clone());
            let going = found.decision.removed();
            let waiting = going.filter(|id| !moving.there.contains(*id) && !unwanted.contains(*id));
            moving.waiting = waiting.cloned().collect();
            moving
        });
    }

    /// For people; nothing where no rule is written.
    pub(super) fn text(&self, name: &str) -> Option<String> {
        let to = self.to.as_ref()?;
        if self.copies.is_empty() {
            return Some(format!("{name}: nothing moves to {to}"));
        }
        let lines = self.copies.iter().map(|(plan, copied)| match copied {
            None => format!("{name}: moves to {to}: {plan}"),
            Some(copied) => format!(
                "{name}: moved to {to}: {}, {} objects, {}",
                counted(copied.backups.len(), "backup"),
                copied.objects,
                ByteSize(copied.bytes)
            ),
        });
        Some(lines.collect::<Vec<_>>().join("\n"))
    }

    /// For programs.
    pub(super) fn json(&self) -> Value {
        let copies =
            self.copies.iter().map(|(plan, copied)| json!({ "plan": plan, "copied": copied }));
        match &self.to {
            None => Value::Null,
            Some(to) => json!({ "to": to, "copies": copies.collect::<Vec<_>>() }),
        }
    }
}
