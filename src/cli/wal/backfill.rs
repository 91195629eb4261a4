//! `wal backfill`: plan, print, ask, store.

use serde_json::json;

use super::args::BackfillArgs;
use crate::archive::backfill::{BackfillOptions, BackfillPlan, Backfilled, WalDirectory};
use crate::archive::{self, Asked, Destination, Purpose};
use crate::cli::confirm::confirm;
use crate::cli::error::Failure;
use crate::cli::exit::Exit;
use crate::cli::invocation::Invocation;
use crate::cli::output::{counted, print, print_json};
use crate::config::Resolved;
use crate::wiring;

/// Stores what only a directory still has, or says what that would be.
pub fn backfill(run: &Invocation, args: &BackfillArgs) -> Result<Exit, Failure> {
    let resolved = run.resolved()?;
    let directory = WalDirectory::find(&args.from)?;
    let (destinations, away) = destinations(run, &resolved, args, &directory)?;
    let options = BackfillOptions {
        accept_unknown_wal: args.accept_unknown_wal,
        origin: directory.data_directory.as_deref().map(wiring::origin),
    };
    let plan = archive::backfill::plan(&run.ctx, &destinations, &directory, &options)?;
    let is_idle = args.dry_run || plan.store.is_empty();
    if !args.json {
        let nothing = if is_idle { "\nNothing was changed." } else { "" };
        print(&format!("{plan}{nothing}"))?;
    } else if is_idle {
        print_json(&json!({ "format_version": 1, "dry_run": args.dry_run, "plan": plan }))?;
    }
    if is_idle {
        return verdict(&plan, &Backfilled::default(), away);
    }
    if !args.yes {
        confirm(args.json, &plan.to_string(), "Store it now?")?;
    }
    let done = archive::backfill::backfill(&run.ctx, &destinations, &directory, &options, &plan)?;
    done.warnings.iter().for_each(|warning| run.ctx.warn(warning.clone()));
    match args.json {
        true => print_json(&json!({ "format_version": 1, "plan": plan, "backfilled": done }))?,
        false => print(&text(&done))?,
    }
    verdict(&plan, &done, away)
}

/// The repositories that take the files, and why another one cannot.
fn destinations(
    run: &Invocation,
    resolved: &Resolved,
    args: &BackfillArgs,
    directory: &WalDirectory,
) -> Result<(Vec<Destination>, Option<Failure>), Failure> {
    let configured = resolved.cluster.data_directory.as_deref();
    let configured = configured.and_then(|configured| wiring::system_of(configured).ok());
    let system = directory.system.or(configured);
    let purpose = if args.dry_run { Purpose::FetchAnew } else { Purpose::Push };
    let asked = Asked { system, epoch: None, purpose };
    let openings = wiring::Direct::openings(resolved);
    let (mut destinations, errors) = archive::takers(&run.ctx, &openings, asked);
    let mut failures = errors.into_iter().map(Failure::from);
    let mut away = failures.next();
    failures.for_each(|other| run.ctx.warn(other.message));
    if let Some(named) = &run.global.repository {
        destinations.retain(|each| each.name == *named);
        away = away.filter(|_| destinations.is_empty());
    }
    match (destinations.is_empty(), away) {
        (true, away) => Err(away.unwrap_or_else(|| archive::Error::NoRepository.into())),
        (false, away) => Ok((destinations, away)),
    }
}

/// A conflict, a file that was not taken, a repository that is away: not done, and the rest is.
fn verdict(plan: &BackfillPlan, done: &Backfilled, away: Option<Failure>) -> Result<Exit, Failure> {
    let late = done.failed.iter().filter(|file| file.is_conflict).count();
    let conflicts = plan.conflicts.len() + late;
    if conflicts > 0 {
        let of_them = counted(conflicts, "file");
        let message = format!("{of_them} of other content than the archive's under the same name");
        let next = "First write wins, and the archived ones stay. Two servers wrote one timeline, or \
                    history forked: find out which is right before you go by either.";
        return Err(Failure::failed(message).with_hint(next));
    }
    if let Some(first) = done.failed.first() {
        let count = counted(done.failed.len(), "file");
        let message = format!("{count} not stored, first {}: {}", first.name, first.why);
        let next = "The same command goes on with what is left.";
        return Err(Failure::failed(message).with_hint(next));
    }
    away.map_or(Ok(Exit::Ok), Err)
}

fn text(done: &Backfilled) -> String {
    let mut lines = vec![format!("stored {}", counted(done.stored.len(), "object"))];
    let there = done.stored.iter().filter(|put| put.was_there).count();
    if there > 0 {
        lines.push(format!("{there} of them had been stored meanwhile, with the same content"));
    }
    for file in &done.failed {
        let mark = if file.is_conflict { "CONFLICT" } else { "NOT STORED" };
        lines.push(format!("{mark}: {} in {}: {}", file.name, file.repository, file.why));
    }
    lines.push("Next: pgkeep wal gaps".into());
    lines.join("\n")
}
