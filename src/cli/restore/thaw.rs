//! A restore whose backup lies in cold storage.

use chrono::TimeDelta;
use serde_json::json;

use super::args::RestoreArgs;
use crate::cli::cold;
use crate::cli::confirm::confirm;
use crate::cli::error::Failure;
use crate::cli::exit::Exit;
use crate::cli::invocation::Invocation;
use crate::cli::output::{print, print_json};
use crate::config::RepositorySettings;
use crate::repo::{BackupId, Place};
use crate::restore::Outlook;
use crate::storage::Thaw;
use crate::tiering::Cold;

/// Thawed copies that end within this time may end before they are read.
const ENDS_SOON: TimeDelta = TimeDelta::hours(12);

/// What is known while the backup cannot be read.
pub(super) fn told(args: &RestoreArgs, outlook: &Outlook, cold: &Cold) -> Result<Exit, Failure> {
    match args.json {
        true => print_json(
            &json!({ "format_version": 1, "dry_run": true, "outlook": outlook, "cold": cold }),
        )?,
        false => print(&format!("{}\nNothing was changed.", shown(outlook, cold)))?,
    }
    Ok(Exit::Ok)
}

fn shown(outlook: &Outlook, cold: &Cold) -> String {
    let cold = cold::text(&outlook.backup, cold).unwrap_or_default();
    format!("{outlook}\n{cold}")
}

fn wanted(args: &RestoreArgs, settings: &RepositorySettings) -> Option<Thaw> {
    let days = args.thaw_days.unwrap_or(settings.thaw_days);
    args.thaw.map(|speed| Thaw { days, speed: speed.into() })
}

/// Thawed copies end: that is told, and put off where a thaw is wanted.
pub(super) fn thawed_already(
    run: &Invocation,
    args: &RestoreArgs,
    (settings, place): (&RepositorySettings, &Place),
    (id, found): (&BackupId, &Cold),
) -> Result<(), Failure> {
    let Some(text) = cold::text(id, found) else { return Ok(()) };
    let soon = run.ctx.clock.now() + ENDS_SOON;
    match found.thawed_until.is_some_and(|until| until < soon) {
        true => run.ctx.warn(format!("{text}: if that is too short, add --thaw")),
        false => run.ctx.note(text),
    }
    if let Some(wanted) = wanted(args, settings).filter(|_| !args.dry_run) {
        cold::ask(run, (settings, place), (id, found), wanted)?;
    }
    Ok(())
}

/// Asks for what is cold and waits for it, where that is wanted; else that has to be done first.
pub(super) fn thawed(
    run: &Invocation,
    args: &RestoreArgs,
    (settings, place): (&RepositorySettings, &Place),
    outlook: &Outlook,
    found: &Cold,
) -> Result<(), Failure> {
    let (shown, id) = (shown(outlook, found), &outlook.backup);
    if !args.json {
        print(&shown)?;
    }
    let Some(wanted) = wanted(args, settings) else {
        return Err(cold::refusal(run, id, found));
    };
    cold::require_speed(settings, found, wanted)?;
    if !args.yes && !cold::is_asked_for(found) {
        confirm(args.json, &shown, "Thaw what is cold now, and restore when it can be read?")?;
    }
    let asked = cold::ask(run, (settings, place), (id, found), wanted)?;
    if args.no_wait && !asked.is_complete() {
        return Err(cold::on_its_way(run, id, found, &asked, wanted));
    }
    cold::wait(run, settings, found, (wanted, asked)).map(drop)
}
