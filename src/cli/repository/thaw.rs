//! `repository thaw`: what is cold of a backup, and asking for it ahead of a restore.

use std::time::Duration;

use serde_json::json;

use super::args::ThawArgs;
use crate::cli::cold;
use crate::cli::error::Failure;
use crate::cli::exit::Exit;
use crate::cli::hold::hold;
use crate::cli::invocation::Invocation;
use crate::cli::output::{print, print_json};
use crate::cli::restore::confirm;
use crate::storage::Thaw;
use crate::wiring::{self, Access};

const DAY: Duration = Duration::from_hours(24);

/// Thaws a backup, or says what that would take.
pub fn thaw(run: &Invocation, args: &ThawArgs) -> Result<Exit, Failure> {
    let resolved = run.resolved()?;
    let settings = resolved.repository()?;
    let opened = wiring::open(&run.ctx, settings, Access::ReadOnly)?;
    run.warn_each(&opened.warnings);
    let repository = &opened.repository;
    let (place, _) = run.place_for_reading(&resolved, &settings.name, repository, args.epoch)?;
    let id = &args.backup;
    let cold = cold::find(&run.ctx, settings, repository, &place, id)?;
    let nothing = || format!("{id}: everything can be read at once: nothing is to be thawed");
    let shown = cold::text(id, &cold).unwrap_or_else(nothing);
    if args.dry_run || cold.packs.is_empty() {
        match args.json {
            true => print_json(&json!({
                "format_version": 1, "dry_run": args.dry_run, "backup": id, "cold": cold,
            }))?,
            false => print(&shown)?,
        }
        return Ok(Exit::Ok);
    }
    if !args.json {
        print(&shown)?;
    }
    if !args.yes {
        confirm(args.json, &shown, &format!("Thaw {} now?", args.backup))?;
    }
    let days = args.days.unwrap_or(settings.thaw_days);
    let wanted = Thaw { days, speed: args.speed.into() };
    let (held, _) = hold(run, settings, &place, id, "thaw")?;
    let found = cold::thaw(run, settings, &cold, (wanted, args.wait))?;
    // As long as somebody pays for the thawed copies, the backup stays, and where it is.
    if let Some(held) = held {
        held.stay_for(cold::longest(&cold, wanted) + DAY * u32::from(days));
    }
    match args.json {
        true => print_json(&json!({
            "format_version": 1, "dry_run": false, "backup": id, "cold": cold, "thaw": found,
        }))?,
        false => print(&format!("{id}: {}", cold::readiness_text(&found)))?,
    }
    Ok(Exit::Ok)
}
