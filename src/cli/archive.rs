//! `archive-push` and `archive-get`: what PostgreSQL runs. Exit codes are [`super::fate`]'s.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::args::{GetArgs, PushArgs};
use super::error::Failure;
use super::fate::Outcome;
use super::invocation::Invocation;
use super::via_daemon::Way;
use crate::archive::{self, Delivered, PushOptions, Pushed, Recovered, Stored, Target, Wanted};
use crate::base::Timestamp;
use crate::config::{Resolved, Settings};
use crate::daemon::Away;
use crate::pgconn::ConnectOptions;
use crate::wiring;

/// For how long the daemon is asked again where nothing is done without it and no configuration says how
/// long to wait.
const DAEMON_WAIT: Duration = Duration::from_secs(10);
const DAEMON_PAUSE: Duration = Duration::from_millis(500);

/// Archives one file into every repository: by the daemon, else here.
pub fn push(run: &Invocation, args: &PushArgs) -> Result<Outcome, Failure> {
    let mut way = Way::new(run, args.socket.as_deref())?;
    match way.push(run, args)? {
        Ok(outcome) => Ok(outcome),
        Err(away) => push_here(run, way.without(run, &away)?, args),
    }
}

fn push_here(run: &Invocation, settings: &Settings, args: &PushArgs) -> Result<Outcome, Failure> {
    let resolved = run.resolve(settings)?;
    let configured = resolved.cluster.data_directory.as_deref();
    let data_directory =
        wiring::data_directory_of(&args.path, configured).ok_or_else(|| no_directory(&resolved))?;
    let accept_unknown_wal = args.accept_unknown_wal;
    let origin = wiring::origin(&data_directory);
    let options = PushOptions { data_directory, accept_unknown_wal, origin, is_alone: true };
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

/// Why a file is neither delivered nor proven absent.
pub struct Doubt {
    /// What to tell.
    pub failure: Failure,
    /// Nothing else may be answered, whoever asks.
    pub is_final: bool,
}

impl From<archive::Error> for Doubt {
    fn from(error: archive::Error) -> Self {
        Self { is_final: error.is_final(), failure: error.into() }
    }
}

impl From<Failure> for Doubt {
    fn from(failure: Failure) -> Self {
        Self { failure, is_final: false }
    }
}

/// Fetches one file, or proves that no repository has it: by the daemon, else here.
///
/// A standby in doubt is told "not there" in the end, so that it goes on by streaming; but not while it is
/// being promoted, when "not there" would end its recovery.
pub fn get(run: &Invocation, args: &GetArgs) -> Result<Outcome, Failure> {
    // What happened just before the question is old when the waiting is over.
    let asked = run.ctx.clock.now();
    let mut way = Way::new(run, args.socket.as_deref())?;
    let directory = way.data_directory(run, &args.path);
    let doubt = match fetch(run, &mut way, args, directory.clone()) {
        Ok(outcome) => return Ok(outcome),
        Err(doubt) => doubt,
    };
    match directory.filter(|directory| !doubt.is_final && archive::is_standby(directory)) {
        None => Err(doubt.failure),
        Some(directory) => for_standby(run, &way, &directory, asked, doubt.failure),
    }
}

fn fetch(
    run: &Invocation,
    way: &mut Way,
    args: &GetArgs,
    directory: Option<PathBuf>,
) -> Result<Outcome, Doubt> {
    let clock = &run.ctx.clock;
    let begun = clock.monotonic();
    loop {
        let away: Away = match way.get(run, args)? {
            Ok(outcome) => return Ok(outcome),
            Err(away) => away,
        };
        let wait = way.wait(run).unwrap_or(DAEMON_WAIT);
        match way.without(run, &away) {
            Ok(settings) => return get_here(run, &run.resolve(settings)?, args, directory),
            // Above 125 the server stops: a daemon that is being started again is waited for.
            Err(failure) if clock.monotonic().saturating_sub(begun) + DAEMON_PAUSE > wait => {
                return Err(failure.into());
            }
            Err(_) => clock.sleep(DAEMON_PAUSE),
        }
    }
}

fn get_here(
    run: &Invocation,
    resolved: &Resolved,
    args: &GetArgs,
    data_directory: Option<PathBuf>,
) -> Result<Outcome, Doubt> {
    let wanted = Wanted {
        name: args.name.clone(),
        through: args.through,
        epoch: args.epoch,
        only: run.global.repository.clone(),
        data_directory,
        wait: resolved.cluster.archive_get_wait,
    };
    let openings = wiring::Direct::openings(resolved);
    match archive::recover(&run.ctx, &openings, &wanted, Target::Path(&args.path), None)? {
        Recovered::Delivered(delivered) => {
            let Delivered { repository, object, .. } = *delivered;
            run.ctx.note(format!("{object} from {repository}"));
            Ok(Outcome::Done)
        }
        Recovered::Absent => Ok(Outcome::ProvenAbsent),
    }
}

/// A standby's answer in doubt.
fn for_standby(
    run: &Invocation,
    way: &Way,
    directory: &Path,
    asked: Timestamp,
    failure: Failure,
) -> Result<Outcome, Failure> {
    // Without a configuration nobody says how to reach the server; the files tell all the same.
    let nobody = || ConnectOptions::new("", "pgkeep archive-get");
    let server = way.server(run).unwrap_or_else(nobody);
    if let Some(why) = archive::promotion(&run.ctx, directory, &server, asked) {
        let next = "Until the archive answers, the standby may lack WAL, so it is not promoted. Once \
                    it does, start and promote it again. To promote without the archive, start the \
                    standby with an empty restore_command.";
        let message = format!("{why}, and the archive cannot be read: {}", failure.message);
        return Err(Failure { message, ..failure }.with_hint(next));
    }
    let next = "This is a standby, so the answer is \"not there\" and it goes on by streaming, if it \
                can. Mend the archive before you promote it.";
    failure.with_hint(next).report(run.voice.format, run.voice.color);
    Ok(Outcome::StandbyGoesOn)
}
