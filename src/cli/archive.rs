//! `archive-push` and `archive-get`: what PostgreSQL runs. Exit codes are [`super::fate`]'s.

use std::path::Path;
use std::time::Duration;

use super::args::{GetArgs, PushArgs};
use super::error::Failure;
use super::fate::Outcome;
use super::invocation::Invocation;
use crate::archive::{self, Destination, GetOptions, Got, PushOptions, Stored};
use crate::base::Timestamp;
use crate::config::Resolved;
use crate::pg::WalFileName;
use crate::wiring::{self, Access};

/// Archives one file into every repository.
pub fn push(run: &Invocation, args: &PushArgs) -> Result<Outcome, Failure> {
    let resolved = run.resolved()?;
    let configured = resolved.cluster.data_directory.as_deref();
    let data_directory =
        wiring::data_directory_of(&args.path, configured).ok_or_else(|| no_directory(&resolved))?;
    let system = wiring::system_of(&data_directory)?;
    let (destinations, failure) = takers(run, &resolved, Some(system), Access::Push);
    if failure.is_some() {
        wiring::forget_openings(&resolved.repositories);
    }
    if destinations.is_empty() {
        return Err(failure.unwrap_or_else(|| archive::Error::NoRepository.into()));
    }
    let accept_unknown_wal = args.accept_unknown_wal;
    let origin = wiring::origin(&data_directory);
    let options = PushOptions { data_directory, accept_unknown_wal, origin };
    let pushed = match archive::push(&run.ctx, &destinations, &options, &args.path) {
        Ok(pushed) => pushed,
        Err(error) => {
            // The next attempt is not to fail by what this one knew.
            drop(destinations);
            wiring::forget_openings(&resolved.repositories);
            if let Some(failure) = failure {
                run.ctx.warn(failure.message);
            }
            return Err(error.into());
        }
    };
    pushed.warnings.iter().for_each(|warning| run.ctx.warn(warning.clone()));
    for Stored { repository, object, put } in &pushed.stored {
        run.ctx.note(format!("{object} in {repository}: {put:?}"));
    }
    failure.map_or(Ok(Outcome::Done), Err)
}

/// The repositories that can take WAL now, and why the first of the others cannot: one that is away
/// must not starve the others, and the file is not archived before it is in all of them.
pub(super) fn takers(
    run: &Invocation,
    resolved: &Resolved,
    system: Option<u64>,
    access: Access,
) -> (Vec<Destination>, Option<Failure>) {
    let (mut destinations, mut failures) = (Vec::new(), Vec::new());
    let mut announced = None;
    for settings in &resolved.repositories {
        let cluster = &resolved.cluster_name;
        match wiring::destination(&run.ctx, settings, cluster, system, None, access) {
            Ok((destination, warnings)) => {
                run.warn_each(&warnings);
                destinations.push(destination);
            }
            Err(error) => {
                announced = announced.max(error.announced_epoch());
                failures.push(Failure::from(error));
            }
        }
    }
    let behind = without_older_epochs(&mut destinations, announced);
    for Destination { name, place, repository, .. } in behind {
        // So that it is known when the newer one is away.
        if access != Access::ReadOnly
            && let Some(newest) = destinations.first()
            && let Err(error) = repository.announce(&run.ctx, &newest.registration)
        {
            run.ctx.warn(format!("repository {name}: {error}"));
        }
        let message = format!(
            "repository {name}: cluster {} is in epoch {} there, and in a newer one elsewhere",
            place.cluster(),
            place.epoch()
        );
        let next = "Run `pgkeep init`: the repository joins the newer epoch.";
        failures.push(Failure::failed(message).with_hint(next));
    }
    let mut failures = failures.into_iter();
    let first = failures.next();
    failures.for_each(|other| run.ctx.warn(other.message));
    (destinations, first)
}

/// Takes out the repositories that have not come to the newest epoch: one name means other WAL there.
/// `announced` is the newest that begins in a repository which has not come to it.
fn without_older_epochs(
    destinations: &mut Vec<Destination>,
    announced: Option<u32>,
) -> Vec<Destination> {
    let newest = destinations.iter().map(|each| each.place.epoch()).max().max(announced);
    destinations.extract_if(.., |each| Some(each.place.epoch()) < newest).collect()
}

fn no_directory(resolved: &Resolved) -> Failure {
    wiring::Error::NoDataDirectory { cluster: resolved.cluster_name.clone() }.into()
}

/// Between two tries of archive-get: at first, and at most.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// Why a fetch is neither delivered nor proven absent.
struct Doubt {
    failure: Failure,
    may_pass: bool,
    /// Nothing else may be answered, whoever asks.
    is_final: bool,
}

impl From<archive::Error> for Doubt {
    fn from(error: archive::Error) -> Self {
        Self { may_pass: error.may_pass(), is_final: error.is_final(), failure: error.into() }
    }
}

impl From<wiring::Error> for Doubt {
    fn from(error: wiring::Error) -> Self {
        Self { may_pass: error.may_pass(), is_final: false, failure: error.into() }
    }
}

/// Fetches one file, or proves that no repository has it.
///
/// What may pass is tried again for a while: WAL that is still on its way looks like a hole. A standby
/// tries again in any doubt, and is told "not there" in the end, so that it goes on by streaming; but
/// not while it is being promoted, when "not there" would end its recovery.
pub fn get(run: &Invocation, args: &GetArgs) -> Result<Outcome, Failure> {
    let resolved = run.resolved()?;
    let name = WalFileName::parse(args.name.as_bytes());
    name.map_err(|source| archive::Error::Name { name: args.name.clone(), source })?;
    let configured = resolved.cluster.data_directory.as_deref();
    let directory = wiring::data_directory_of(&args.path, configured);
    let standby = directory.as_deref().filter(|directory| archive::is_standby(directory));
    let clock = &run.ctx.clock;
    // What happened just before the question is old when the waiting is over.
    let (asked, begun, mut pause) = (clock.now(), clock.monotonic(), FIRST_PAUSE);
    // By what an earlier call read a file can be delivered. Anything else is for this one to find out.
    if wiring::has_openings(&resolved.repositories)
        && let Ok(Outcome::Done) =
            attempt(run, &resolved, args, directory.as_deref(), Access::Fetch)
    {
        return Ok(Outcome::Done);
    }
    loop {
        let doubt = match attempt(run, &resolved, args, directory.as_deref(), Access::FetchAnew) {
            Ok(outcome) => return Ok(outcome),
            Err(doubt) => doubt,
        };
        if doubt.is_final {
            return Err(doubt.failure);
        }
        let waited = clock.monotonic().saturating_sub(begun);
        let goes_on = doubt.may_pass || standby.is_some();
        if !goes_on || waited + pause > resolved.cluster.archive_get_wait {
            return match standby {
                None => Err(doubt.failure),
                Some(directory) => for_standby(run, &resolved, directory, asked, doubt.failure),
            };
        }
        run.ctx.note(format!("trying again: {}", doubt.failure.message));
        clock.sleep(pause);
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

fn attempt(
    run: &Invocation,
    resolved: &Resolved,
    args: &GetArgs,
    directory: Option<&Path>,
    access: Access,
) -> Result<Outcome, Doubt> {
    let system = directory.map(|directory| known_system(run, directory)).transpose()?.flatten();
    let Sources { destinations, doubt } = sources(run, resolved, args, system, access)?;
    let data_directory = directory.map(Path::to_owned);
    let unasked = doubt.is_some();
    let only = run.global.repository.clone();
    let options = GetOptions { through: args.through, only, unasked, data_directory };
    if destinations.is_empty() {
        return Err(doubt.unwrap_or_else(|| archive::Error::NoRepository.into()));
    }
    match archive::get(&run.ctx, &destinations, &options, &args.name, &args.path)? {
        Got::Delivered { repository, object } => {
            run.ctx.note(format!("{object} from {repository}"));
            if let Some(Doubt { failure, .. }) = doubt {
                run.ctx.warn(failure.message);
            }
            Ok(Outcome::Done)
        }
        // Absent wherever we could look; but we could not look everywhere.
        Got::Absent => doubt.map_or(Ok(Outcome::ProvenAbsent), Err),
    }
}

/// A standby's answer in doubt.
fn for_standby(
    run: &Invocation,
    resolved: &Resolved,
    directory: &Path,
    asked: Timestamp,
    failure: Failure,
) -> Result<Outcome, Failure> {
    let server = wiring::connect_options(resolved, "archive-get");
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

/// A directory without a control file is no reason to fail: the repository may know one system only. One
/// whose control file cannot be read has a system, which may be another than the repository's.
fn known_system(run: &Invocation, directory: &Path) -> Result<Option<u64>, Doubt> {
    match wiring::system_of(directory) {
        Ok(system) => Ok(Some(system)),
        Err(error) if error.is_not_found() => {
            run.ctx.note(format!("the system identifier is taken from the repository: {error}"));
            Ok(None)
        }
        Err(error) => Err(Doubt { may_pass: true, is_final: false, failure: error.into() }),
    }
}

struct Sources {
    destinations: Vec<Destination>,
    /// Why absence cannot be proven.
    doubt: Option<Doubt>,
}

/// Every repository that can be asked, whichever is to deliver: the others may hold what that one has
/// not. One that does not know the cluster holds no WAL of it, and is no doubt as long as another one
/// does.
fn sources(
    run: &Invocation,
    resolved: &Resolved,
    args: &GetArgs,
    system: Option<u64>,
    access: Access,
) -> Result<Sources, Doubt> {
    let mut destinations = Vec::new();
    let (mut doubt, mut unregistered, mut announced) = (None, None, None);
    for settings in &resolved.repositories {
        let cluster = &resolved.cluster_name;
        match wiring::destination(&run.ctx, settings, cluster, system, args.epoch, access) {
            Ok((destination, warnings)) => {
                run.warn_each(&warnings);
                destinations.push(destination);
            }
            Err(error) => {
                announced = announced.max(error.announced_epoch());
                let is_unregistered = error.is_unregistered();
                let kept = if is_unregistered { &mut unregistered } else { &mut doubt };
                kept.get_or_insert(error.into());
            }
        }
    }
    // Like those that do not know the cluster: they hold no WAL of this epoch.
    for Destination { name, .. } in without_older_epochs(&mut destinations, announced) {
        run.ctx.note(format!("repository {name} is not asked: it is in an older epoch"));
    }
    if destinations.is_empty() && doubt.is_none() {
        doubt = unregistered;
    }
    Ok(Sources { destinations, doubt })
}
