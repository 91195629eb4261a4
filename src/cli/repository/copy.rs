//! `repository copy`: plan, print, execute.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::json;

use super::args::CopyArgs;
use crate::base::ByteSize;
use crate::cli::cold;
use crate::cli::error::{Failure, Kind, hint, of_repo};
use crate::cli::exit::Exit;
use crate::cli::invocation::Invocation;
use crate::cli::output::{counted, print, print_json};
use crate::config::{RepositorySettings, Resolved};
use crate::repo::BackupId;
use crate::transfer::{self, Copied, CopyPlan, Request, Side, Who};
use crate::wiring::{self, Access};

/// Copies, or says what would be copied.
pub fn copy(run: &Invocation, args: &CopyArgs) -> Result<Exit, Failure> {
    if run.global.repository.is_some() {
        return Err(Failure::usage(
            "--from and --to name the repositories: leave out --repository",
        ));
    }
    let resolved = run.resolved()?;
    let (from, to) = (named(&resolved, &args.from)?, named(&resolved, &args.to)?);
    let access = if args.dry_run { Access::ReadOnly } else { Access::ReadWrite };
    let source = wiring::open(&run.ctx, from, access)?;
    let target = wiring::open(&run.ctx, to, access)?;
    run.warn_each(&[source.warnings, target.warnings].concat());
    let (source, target) = (&source.repository, &target.repository);
    let cluster = resolved.cluster_name.as_str();
    let side = |settings: &'_ RepositorySettings| settings.jurisdiction.clone();
    let (own, other) = (side(from), side(to));
    let mut request = Request {
        from: Side { name: &from.name, jurisdiction: own.as_deref(), repository: source },
        to: Side { name: &to.name, jurisdiction: other.as_deref(), repository: target },
        cluster,
        system: None,
        epoch: args.epoch,
        backups: args.backup.iter().cloned().collect(),
        is_strict: true,
        rules: Default::default(),
    };
    request.require_allowed()?;
    if to.retention.is_given {
        let policy = wiring::policy(&resolved, to);
        let rules = wiring::target_rules(&run.ctx, (source, target), cluster, &policy);
        request.rules = rules.map_err(|error| wiring::Error::of_repository(&to.name, error))?;
    }
    let plan = transfer::plan(&run.ctx, &request)?;
    let cold = found_cold(run, from, &request, &plan)?;
    warn_of(run, &plan);
    if args.dry_run {
        told(args, &plan, &cold)?;
        return Ok(exit_of(&plan, None));
    }
    if !args.json {
        print(&plan.to_string())?;
    }
    if let Some((first, (objects, bytes))) = cold.iter().next() {
        return Err(cold_failure(from, first, (*objects, *bytes), cold.len()));
    }
    let host = wiring::host().to_string();
    let jobs = args.jobs.map_or(resolved.cluster.jobs, |jobs| usize::from(jobs.get()));
    let who = Who { host: &host, pid: std::process::id(), is_gone: wiring::is_gone, jobs };
    let copied = transfer::execute(&run.ctx, &request, &plan, &who)?;
    wiring::forget_openings(&resolved.repositories);
    match args.json {
        true => print_json(&json!({
            "format_version": 1, "dry_run": false, "plan": plan, "copied": copied,
        }))?,
        false => print(&last_line(&plan, &copied))?,
    }
    Ok(exit_of(&plan, Some(&copied)))
}

fn named<'r>(resolved: &'r Resolved, name: &str) -> Result<&'r RepositorySettings, Failure> {
    resolved.repositories.iter().find(|each| each.name == name).ok_or_else(|| {
        let names: Vec<_> = resolved.repositories.iter().map(|each| each.name.as_str()).collect();
        Failure::usage(format!("there is no repository {name}; there are {}", names.join(", ")))
    })
}

fn told(args: &CopyArgs, plan: &CopyPlan, cold: &Cold) -> Result<(), Failure> {
    if args.json {
        let cold: Vec<_> = cold
            .iter()
            .map(|(id, (objects, bytes))| json!({ "backup": id, "objects": objects, "bytes": bytes }))
            .collect();
        return print_json(&json!({
            "format_version": 1, "dry_run": true, "plan": plan, "cold": cold,
        }));
    }
    let mut text = plan.to_string();
    for (id, (objects, bytes)) in cold {
        let (objects, bytes) = (*objects, ByteSize(*bytes));
        text += &format!("\n{id}: {objects} packs ({bytes}) must be thawed first");
    }
    print(&format!("{text}\nNothing was changed."))
}

/// What is cold, by a backup whose thaw brings it.
type Cold = BTreeMap<BackupId, (u64, u64)>;

/// Asks for the backups that no other one of the plan stands on: a thaw brings the whole chain.
fn found_cold(
    run: &Invocation,
    from: &RepositorySettings,
    request: &Request<'_>,
    plan: &CopyPlan,
) -> Result<Cold, Failure> {
    let repository = request.from.repository;
    let mut cold = Cold::new();
    for place in &plan.places {
        let parents: BTreeSet<_> =
            place.backups.iter().filter_map(|each| each.parent.as_ref()).collect();
        for backup in place.backups.iter().filter(|backup| !parents.contains(&backup.id)) {
            let (place, id) = (&place.place, &backup.id);
            let found = cold::find(&run.ctx, from, repository, place, id)?;
            if found.objects > 0 {
                cold.insert(backup.id.clone(), (found.objects, found.bytes));
            }
        }
    }
    Ok(cold)
}

fn cold_failure(
    from: &RepositorySettings,
    first: &BackupId,
    (objects, bytes): (u64, u64),
    backups: usize,
) -> Failure {
    let name = &from.name;
    let (backups, bytes) = (counted(backups, "chain"), ByteSize(bytes));
    let what = format!(
        "{backups} of {name} must be thawed before they can be copied; of {first} {objects} packs ({bytes}): \
         nothing was copied"
    );
    let next = format!(
        "`pgkeep repository thaw {first} --repository {name}`, and the others, then the same again."
    );
    Failure { exit: Exit::Cold, kind: Kind::Environment, ..Failure::failed(what).with_hint(next) }
}

/// What had to be left out, but for what the other one's rules do not keep.
fn warn_of(run: &Invocation, plan: &CopyPlan) {
    for place in &plan.places {
        place
            .warnings
            .iter()
            .for_each(|warning| run.ctx.warn(format!("{}: {warning}", place.name)));
        for left in place.left_out.iter().filter(|left| !left.is_by_rules) {
            run.ctx.warn(format!("{} is left out: {}", left.id, left.why));
        }
    }
}

fn exit_of(plan: &CopyPlan, copied: Option<&Copied>) -> Exit {
    let is_told = plan.places.iter().any(|place| {
        !place.warnings.is_empty() || place.left_out.iter().any(|left| !left.is_by_rules)
    });
    let has_passed = copied.is_some_and(|copied| !copied.passed.is_empty());
    if is_told || has_passed { Exit::Warnings } else { Exit::Ok }
}

fn last_line(plan: &CopyPlan, copied: &Copied) -> String {
    let (from, to) = (&plan.from, &plan.to);
    format!(
        "copied from {from} to {to}: {}, {} objects, {}; {} WAL segments, {} other files, {} pins",
        counted(copied.backups.len(), "backup"),
        copied.objects,
        ByteSize(copied.bytes),
        copied.segments,
        copied.files,
        copied.pins
    )
}

impl From<transfer::Error> for Failure {
    fn from(error: transfer::Error) -> Self {
        let advice = match &error {
            transfer::Error::Repository { source, .. } => of_repo(source),
            transfer::Error::Jurisdiction { .. } => {
                let next = "repository.<name>.jurisdiction says where data must stay. No flag overrides it: name \
                            a repository in the same one, or change what the configuration says of it.";
                (Exit::Failed, Kind::Config, hint(next))
            }
            transfer::Error::Same { .. } => (Exit::Usage, Kind::Usage, None),
            transfer::Error::OtherCluster { .. } => {
                let next = "Copy it into a repository in which the cluster is not registered yet.";
                (Exit::Failed, Kind::Config, hint(next))
            }
            _ => (Exit::Failed, Kind::Failed, None),
        };
        Self::of(&error, advice)
    }
}
