//! `repository thaw`: what is cold of a backup, and asking for it ahead of a restore.

use serde_json::json;

use super::args::ThawArgs;
use crate::cli::cold;
use crate::cli::confirm::confirm;
use crate::cli::error::Failure;
use crate::cli::exit::Exit;
use crate::cli::invocation::Invocation;
use crate::cli::output::{print, print_json};
use crate::storage::Thaw;
use crate::wiring::{self, Access};

/// Thaws a backup, or says what that would take. With --json a failure is told on stdout too.
pub fn thaw(run: &Invocation, args: &ThawArgs) -> Result<Exit, Failure> {
    let done = thawed(run, args);
    if let (true, Err(failure)) = (args.json, &done) {
        print_json(&json!({ "format_version": 1, "error": failure.json_error() }))?;
    }
    done
}

fn thawed(run: &Invocation, args: &ThawArgs) -> Result<Exit, Failure> {
    let resolved = run.resolved()?;
    let settings = resolved.repository()?;
    let opened = wiring::open(&run.ctx, settings, Access::ReadOnly)?;
    run.warn_each(&opened.warnings);
    let repository = &opened.repository;
    let (place, _) = run.place_for_reading(&resolved, &settings.name, repository, args.epoch)?;
    let id = &args.backup;
    let found = cold::find(&run.ctx, settings, repository, &place, id)?;
    let nothing = || format!("{id}: everything can be read at once: nothing is to be thawed");
    let shown = cold::text(id, &found).unwrap_or_else(nothing);
    if args.dry_run || found.packs.is_empty() {
        match args.json {
            true => print_json(&json!({
                "format_version": 1, "dry_run": args.dry_run, "backup": id, "cold": found,
            }))?,
            false => print(&shown)?,
        }
        return Ok(Exit::Ok);
    }
    if !args.json {
        print(&shown)?;
    }
    let days = args.days.unwrap_or(settings.thaw_days);
    let wanted = Thaw { days, speed: args.speed.into() };
    cold::require_speed(settings, &found, wanted)?;
    if !args.yes {
        confirm(args.json, &shown, &format!("Thaw {} now?", args.backup))?;
    }
    let mut asked = cold::ask(run, (settings, &place), (id, &found), wanted)?;
    if args.wait {
        asked = cold::wait(run, settings, &found, (wanted, asked))?;
    }
    match args.json {
        true => print_json(&json!({
            "format_version": 1, "dry_run": false, "backup": id, "cold": found, "thaw": asked,
        }))?,
        false => print(&format!("{id}: {}", cold::readiness_text(&asked)))?,
    }
    Ok(Exit::Ok)
}
