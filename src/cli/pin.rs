//! `pin` and `unpin`.

use super::args::{PinArgs, UnpinArgs};
use super::error::Failure;
use super::exit::Exit;
use super::invocation::Invocation;
use super::output::{moment, print};
use crate::base::Timestamp;
use crate::repo::{BackupId, Pin};
use crate::wiring::{self, Access};

/// Keeps a backup.
pub fn pin(run: &Invocation, args: &PinArgs) -> Result<Exit, Failure> {
    if args.reason.trim().is_empty() {
        return Err(Failure::usage("--reason is empty: say why the backup is to stay"));
    }
    if args.until.is_some_and(|until| until <= run.ctx.clock.now()) {
        return Err(Failure::usage("--until is in the past"));
    }
    let pinned = Some((args.reason.as_str(), args.until));
    let name = put(run, &args.backup, args.epoch, pinned)?;
    let until = args
        .until
        .map_or_else(|| "for good".to_owned(), |until| format!("until {}", moment(until)));
    print(&format!("{name}: {} stays {until}: {}", args.backup, args.reason))?;
    Ok(Exit::Ok)
}

/// Lets it go.
pub fn unpin(run: &Invocation, args: &UnpinArgs) -> Result<Exit, Failure> {
    let name = put(run, &args.backup, args.epoch, None)?;
    print(&format!("{name}: {} is not pinned: retention decides", args.backup))?;
    Ok(Exit::Ok)
}

fn put(
    run: &Invocation,
    id: &BackupId,
    epoch: Option<u32>,
    pinned: Option<(&str, Option<Timestamp>)>,
) -> Result<String, Failure> {
    let resolved = run.resolved()?;
    let settings = resolved.repository()?;
    let opened = wiring::open(&run.ctx, settings, Access::ReadWrite)?;
    run.warn_each(&opened.warnings);
    let repository = &opened.repository;
    let (place, _) = run.place_for_reading(&resolved, &settings.name, repository, epoch)?;
    let pin = Pin {
        id: id.clone(),
        pinned: pinned.is_some(),
        reason: pinned.map_or_else(String::new, |(reason, _)| reason.to_owned()),
        until: pinned.and_then(|(_, until)| until),
        time: run.ctx.clock.now(),
        host: wiring::host().to_string(),
    };
    let failed = |source| Failure::from(wiring::Error::of_repository(&settings.name, source));
    repository.put_pin(&run.ctx, &place, &pin).map_err(failed)?;
    Ok(settings.name.clone())
}
