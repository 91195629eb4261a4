//! `archive-push` and `archive-get`: what PostgreSQL runs. Exit codes are [`super::fate`]'s.

use super::args::{GetArgs, PushArgs};
use super::error::Failure;
use super::fate::Outcome;
use super::invocation::Invocation;
use super::via_daemon::Way;
use crate::archive::{self, Delivered, PushOptions, Pushed, Recovered, Stored, Target, Wanted};
use crate::config::{Resolved, Settings};
use crate::wiring;

/// Archives one file into every repository: by the daemon, else here.
pub fn push(run: &Invocation, args: &PushArgs) -> Result<Outcome, Failure> {
    let way = Way::new(run, args.socket.as_deref())?;
    match way.push(run, args)? {
        Ok(outcome) => Ok(outcome),
        Err(away) => push_here(run, &way.without(run, &away)?, args),
    }
}

fn push_here(run: &Invocation, settings: &Settings, args: &PushArgs) -> Result<Outcome, Failure> {
    let resolved = run.resolve(settings)?;
    let configured = resolved.cluster.data_directory.as_deref();
    let data_directory =
        wiring::data_directory_of(&args.path, configured).ok_or_else(|| no_directory(&resolved))?;
    let accept_unknown_wal = args.accept_unknown_wal;
    let origin = wiring::origin(&data_directory);
    let options = PushOptions { data_directory, accept_unknown_wal, origin };
    let openings = wiring::Direct::openings(&resolved);
    let Pushed { stored, warnings, .. } =
        archive::archive(&run.ctx, &openings, &options, &args.path, false)?;
    warnings.into_iter().for_each(|warning| run.ctx.warn(warning));
    for Stored { repository, object, put, .. } in &stored {
        run.ctx.note(format!("{object} in {repository}: {put:?}"));
    }
    Ok(Outcome::Done)
}

fn no_directory(resolved: &Resolved) -> Failure {
    wiring::Error::NoDataDirectory { cluster: resolved.cluster_name.clone() }.into()
}

/// Fetches one file, or proves that no repository has it: by the daemon, else here.
pub fn get(run: &Invocation, args: &GetArgs) -> Result<Outcome, Failure> {
    let way = Way::new(run, args.socket.as_deref())?;
    match way.get(run, args)? {
        Ok(outcome) => Ok(outcome),
        Err(away) => get_here(run, &way.without(run, &away)?, args),
    }
}

fn get_here(run: &Invocation, settings: &Settings, args: &GetArgs) -> Result<Outcome, Failure> {
    let resolved = run.resolve(settings)?;
    let configured = resolved.cluster.data_directory.as_deref();
    let wanted = Wanted {
        name: args.name.clone(),
        through: args.through,
        epoch: args.epoch,
        only: run.global.repository.clone(),
        data_directory: wiring::data_directory_of(&args.path, configured),
        wait: resolved.cluster.archive_get_wait,
        server: wiring::connect_options(&resolved, "archive-get"),
    };
    let openings = wiring::Direct::openings(&resolved);
    match archive::recover(&run.ctx, &openings, &wanted, Target::Path(&args.path), None)? {
        Recovered::Delivered(delivered) => {
            let Delivered { repository, object, .. } = *delivered;
            run.ctx.note(format!("{object} from {repository}"));
            Ok(Outcome::Done)
        }
        Recovered::Absent => Ok(Outcome::ProvenAbsent),
        Recovered::StandbyGoesOn(doubt) => {
            standby_goes_on(doubt.into()).report(run.voice.format, run.voice.color);
            Ok(Outcome::StandbyGoesOn)
        }
    }
}

/// What a standby's answer in doubt is told with.
pub fn standby_goes_on(doubt: Failure) -> Failure {
    doubt.with_hint(
        "This is a standby, so the answer is \"not there\" and it goes on by streaming, if it can. \
         Mend the archive before you promote it.",
    )
}
