//! `archive-push` and `archive-get`: what PostgreSQL runs. Exit codes are [`super::fate`]'s.

use super::args::{GetArgs, PushArgs};
use super::error::Failure;
use super::fate::Outcome;
use super::invocation::Invocation;
use crate::archive::{self, Destination, GetOptions, Got, PushOptions, Stored};
use crate::config::Resolved;
use crate::wiring::{self, Access};

/// Archives one file into every repository.
pub fn push(run: &Invocation, args: &PushArgs) -> Result<Outcome, Failure> {
    let resolved = run.resolved()?;
    let configured = resolved.cluster.data_directory.as_deref();
    let data_directory =
        wiring::data_directory_of(&args.path, configured).ok_or_else(|| no_directory(&resolved))?;
    let system = wiring::system_of(&data_directory)?;
    let mut destinations = Vec::new();
    for settings in &resolved.repositories {
        let cluster = &resolved.cluster_name;
        let (destination, warnings) =
            wiring::destination(settings, cluster, Some(system), Access::ReadWrite)?;
        run.warn_each(&warnings);
        destinations.push(destination);
    }
    let options = PushOptions { data_directory, accept_unknown_wal: args.accept_unknown_wal };
    let pushed = archive::push(&run.ctx, &destinations, &options, &args.path)?;
    pushed.warnings.iter().for_each(|warning| run.ctx.warn(warning.clone()));
    for Stored { repository, object, put } in &pushed.stored {
        run.ctx.note(format!("{object} in {repository}: {put:?}"));
    }
    Ok(Outcome::Done)
}

fn no_directory(resolved: &Resolved) -> Failure {
    wiring::Error::NoDataDirectory { cluster: resolved.cluster_name.clone() }.into()
}

/// Fetches one file, or proves that no repository has it.
pub fn get(run: &Invocation, args: &GetArgs) -> Result<Outcome, Failure> {
    let resolved = run.resolved()?;
    let configured = resolved.cluster.data_directory.as_deref();
    let system = match wiring::data_directory_of(&args.path, configured) {
        Some(directory) => known_system(run, &directory),
        None => None,
    };
    let Sources { destinations, doubt } = sources(run, &resolved, system)?;
    let options = GetOptions { through: args.through };
    if destinations.is_empty() {
        return Err(doubt.unwrap_or_else(|| archive::Error::NoRepository.into()));
    }
    match archive::get(&run.ctx, &destinations, &options, &args.name, &args.path)? {
        Got::Delivered { repository, object } => {
            run.ctx.note(format!("{object} from {repository}"));
            Ok(Outcome::Done)
        }
        // Absent wherever we could look; but we could not look everywhere.
        Got::Absent => doubt.map_or(Ok(Outcome::ProvenAbsent), Err),
    }
}

/// A directory without a control file is no reason to fail: the repository may know one system only.
fn known_system(run: &Invocation, directory: &std::path::Path) -> Option<u64> {
    match wiring::system_of(directory) {
        Ok(system) => Some(system),
        Err(error) => {
            run.ctx.note(format!("the system identifier is taken from the repository: {error}"));
            None
        }
    }
}

struct Sources {
    destinations: Vec<Destination>,
    /// Why absence cannot be proven.
    doubt: Option<Failure>,
}

/// Every repository that can be asked. One that does not know the cluster holds no WAL of it, and
/// is no doubt as long as another one does.
fn sources(run: &Invocation, resolved: &Resolved, system: Option<u64>) -> Result<Sources, Failure> {
    let mut destinations = Vec::new();
    let (mut doubt, mut unregistered) = (None, None);
    let named = run.global.repository.as_deref();
    for settings in &resolved.repositories {
        if named.is_some_and(|named| named != settings.name) {
            continue;
        }
        let cluster = &resolved.cluster_name;
        match wiring::destination(settings, cluster, system, Access::ReadOnly) {
            Ok((destination, warnings)) => {
                run.warn_each(&warnings);
                destinations.push(destination);
            }
            Err(error) => {
                run.ctx.warn(error.to_string());
                let is_unregistered = error.is_unregistered();
                let kept = if is_unregistered { &mut unregistered } else { &mut doubt };
                kept.get_or_insert(error.into());
            }
        }
    }
    if destinations.is_empty() && doubt.is_none() {
        doubt = unregistered;
    }
    Ok(Sources { destinations, doubt })
}
