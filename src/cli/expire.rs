//! `expire`: removes leftovers of uploads. Backups and WAL are not removed yet, and the output says so.

use serde_json::{Value, json};

use super::args::ExpireArgs;
use super::error::Failure;
use super::exit::Exit;
use super::invocation::Invocation;
use super::output::{counted, print, print_json};
use crate::config::RepositorySettings;
use crate::retention::{self, Plan};
use crate::wiring::{self, Access};

/// Whoever waits for room must not wait for this.
const NOT_YET: &str = "Backups and WAL are not removed by this version, whatever retention says.";

/// What was done, or would be, in one repository.
struct Expired {
    plan: Plan,
    /// Nothing in a dry run.
    removed: Option<usize>,
}

/// Removes leftovers from every repository, or from the one that is named.
pub fn expire(run: &Invocation, args: &ExpireArgs) -> Result<Exit, Failure> {
    let resolved = run.resolved()?;
    let named = run.global.repository.as_ref();
    let meant = |each: &&RepositorySettings| named.is_none_or(|named| *named == each.name);
    let mut shown = Vec::new();
    let mut first_failure = None;
    for settings in resolved.repositories.iter().filter(meant) {
        let name = &settings.name;
        match expire_in(run, args, settings) {
            Ok(expired) if args.json => shown.push(as_json(name, &expired)),
            Ok(expired) => print(&as_text(name, &expired))?,
            // What the others hold is worth removing all the same.
            Err(failure) => {
                if args.json {
                    shown.push(json!({ "repository": name, "error": failure.json_error() }));
                }
                match &first_failure {
                    None => first_failure = Some(failure),
                    Some(_) => failure.report(run.voice.format, run.voice.color),
                }
            }
        }
    }
    if args.json {
        print_json(&json!({
            "format_version": 1,
            "dry_run": args.dry_run,
            "repositories": shown,
            "removes": ["leftovers"],
            "note": NOT_YET,
        }))?;
    } else {
        let unchanged = if args.dry_run { "Nothing was changed. " } else { "" };
        print(&format!("{unchanged}{NOT_YET}"))?;
    }
    first_failure.map_or(Ok(Exit::Ok), Err)
}

/// The repository is opened first: only what is one, by its authentic descriptor, is cleaned.
fn expire_in(
    run: &Invocation,
    args: &ExpireArgs,
    settings: &RepositorySettings,
) -> Result<Expired, Failure> {
    run.ctx.cancel.check().map_err(crate::repo::Error::from)?;
    let access = if args.dry_run { Access::ReadOnly } else { Access::ReadWrite };
    let opened = wiring::open(&run.ctx, settings, access)?;
    run.warn_each(&opened.warnings);
    let failed = |source| Failure::from(wiring::Error::of_repository(&settings.name, source));
    let store = opened.repository.store();
    let found = store.unfinished().map_err(|error| failed(error.into()))?;
    let plan = retention::plan(found, run.ctx.clock.now());
    let removed = match args.dry_run {
        true => None,
        false => Some(retention::execute(&run.ctx, store.as_ref(), &plan).map_err(failed)?),
    };
    Ok(Expired { plan, removed })
}

fn as_text(name: &str, Expired { plan, removed }: &Expired) -> String {
    match removed {
        Some(count) if *count > 0 => {
            format!("{name}: {plan}\n{name}: removed {}", counted(*count, "leftover"))
        }
        _ => format!("{name}: {plan}"),
    }
}

fn as_json(name: &str, Expired { plan, removed }: &Expired) -> Value {
    json!({ "repository": name, "plan": plan, "removed": removed })
}
