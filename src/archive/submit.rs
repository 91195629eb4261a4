//! One file into every repository: each is opened and given the file as soon as it answers.
//!
//! `Ok` means durable in every required one. A repository that is away does not keep the others from having
//! the file, and one that is not required is waited for a moment only.

use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::Duration;

use super::Destination;
use super::error::{Error, Result};
use super::openings::{
    Asked, GRACE, Opening, Openings, Purpose, RepositoryUse, Unopened, without_older_epochs,
};
use super::pgdata::read_control_file;
use super::push::{PushOptions, Pushed, Stored, push};
use crate::base::{Ctx, detached};

/// For how long one that is not required may take, after all required ones have the file.
const OPTIONAL_WAIT: Duration = Duration::from_secs(2);

/// Archives the file at `path` into every repository, or, with `only_required`, into those that must have
/// it. `Ok` means durable in every required one; why another one has it not is a warning.
///
/// # Errors
/// Any; nothing was promised then. What opened the repositories is forgotten, so that the next attempt
/// does not fail by what this one knew.
pub fn archive(
    ctx: &Ctx,
    openings: &Arc<dyn Openings>,
    options: &PushOptions,
    path: &Path,
    only_required: bool,
) -> Result<Pushed> {
    let required = openings.repositories().iter().any(|each| each.is_required);
    // Where none is required, WAL is archived when all have it: nothing else would mean "archived".
    let is_required = |each: &RepositoryUse| each.is_required || !required;
    let submitted = submit(ctx, openings, options, path, None, is_required);
    let mut pushed = match submitted {
        Ok(pushed) => pushed,
        Err(error) => {
            openings.forget();
            return Err(error);
        }
    };
    let has_optional = openings.repositories().iter().any(|each| !is_required(each));
    if has_optional && !only_required {
        offer(ctx, openings, options, path, &mut pushed);
    }
    Ok(pushed)
}

/// Every repository that can take WAL now, all of which are waited for, and why the others cannot. One that
/// is behind the newest epoch is told of it, unless they are asked for reading.
pub fn takers(
    ctx: &Ctx,
    openings: &Arc<dyn Openings>,
    asked: Asked,
) -> (Vec<Destination>, Vec<Error>) {
    let mut opening = Opening::begin(ctx, openings, asked, |_| true);
    let mut submitted =
        Submitted { is_reading: asked.purpose != Purpose::Push, ..Submitted::default() };
    let mut batch = Vec::new();
    while let Some((at, answer)) = opening.next(None) {
        match answer {
            Ok(destination) => batch.push((at, destination)),
            Err(unopened) => submitted.refused(unopened),
        }
    }
    batch.sort_by_key(|(at, _)| *at);
    let batch: Vec<Destination> = batch.into_iter().map(|(_, destination)| destination).collect();
    submitted.add(ctx, &batch);
    (submitted.answered, submitted.errors)
}

/// Into every repository that `is_meant` says.
fn submit(
    ctx: &Ctx,
    openings: &Arc<dyn Openings>,
    options: &PushOptions,
    path: &Path,
    epoch: Option<u32>,
    is_meant: impl Fn(&RepositoryUse) -> bool,
) -> Result<Pushed> {
    let system = Some(read_control_file(&options.data_directory)?.system_identifier);
    let asked = Asked { system, epoch, purpose: Purpose::Push };
    let mut opening = Opening::begin(ctx, openings, asked, is_meant);
    let mut submitted = Submitted::default();
    let mut limit = None;
    loop {
        let mut batch = Vec::new();
        while let Some((_, answer)) = opening.next(limit.filter(|_| !batch.is_empty())) {
            match answer {
                Ok(destination) => batch.push(destination),
                Err(unopened) => submitted.refused(unopened),
            }
            limit = Some(GRACE);
        }
        if batch.is_empty() && opening.waiting().next().is_none() {
            break;
        }
        submitted.push(ctx, options, path, &batch);
    }
    submitted.result(ctx)
}

/// What came of a file so far.
#[derive(Default)]
struct Submitted {
    pushed: Option<Pushed>,
    errors: Vec<Error>,
    announced: Option<u32>,
    /// Those that have answered, of the newest epoch.
    answered: Vec<Destination>,
    /// Nothing is written.
    is_reading: bool,
}

impl Submitted {
    fn refused(&mut self, unopened: Unopened) {
        self.announced = self.announced.max(unopened.announced_epoch);
        self.errors.push(Error::Unopened(unopened));
    }

    /// Takes in what has answered, and puts out what is behind.
    fn add(&mut self, ctx: &Ctx, batch: &[Destination]) {
        self.answered.extend(batch.iter().cloned());
        let behind = without_older_epochs(&mut self.answered, self.announced);
        for Destination { name, place, repository, .. } in behind {
            // So that it is known when the newer one is away.
            if !self.is_reading
                && let Some(newest) = self.answered.first()
                && let Err(error) = repository.announce(ctx, &newest.registration)
            {
                ctx.warn(format!("repository {name}: {error}"));
            }
            let (cluster, epoch) = (place.cluster().to_owned(), place.epoch());
            self.errors.push(Error::OlderEpoch { repository: name, cluster, epoch });
        }
    }

    fn push(&mut self, ctx: &Ctx, options: &PushOptions, path: &Path, batch: &[Destination]) {
        self.add(ctx, batch);
        let is_new = |each: &&Destination| batch.iter().any(|new| new.name == each.name);
        let destinations: Vec<Destination> = self.answered.iter().filter(is_new).cloned().collect();
        if destinations.is_empty() {
            return;
        }
        match push(ctx, &destinations, options, path) {
            Err(error) => self.errors.insert(0, error),
            Ok(pushed) => match &mut self.pushed {
                None => self.pushed = Some(pushed),
                Some(all) => {
                    all.stored.extend(pushed.stored);
                    let is_new = |warning: &String| !all.warnings.contains(warning);
                    let new: Vec<_> = pushed.warnings.into_iter().filter(is_new).collect();
                    all.warnings.extend(new);
                    // One file for all of them.
                    if all.read.identity != pushed.read.identity {
                        let why = "it changed while it was stored".into();
                        self.errors.push(Error::Content { path: path.into(), why });
                    }
                    all.read.is_settled &= pushed.read.is_settled;
                }
            },
        }
    }

    /// The first error, the others told; else what was pushed.
    fn result(self, ctx: &Ctx) -> Result<Pushed> {
        let mut errors = self.errors.into_iter();
        match (errors.next(), self.pushed) {
            (Some(first), _) => {
                errors.for_each(|other| ctx.warn(other.to_string()));
                Err(first)
            }
            (None, Some(pushed)) => Ok(pushed),
            (None, None) => Err(Error::NoRepository),
        }
    }
}

/// Offers the file to the repositories that are not required. A thread that takes longer ends with the
/// process, or in its own time: it leaves nothing half-made.
fn offer(
    ctx: &Ctx,
    openings: &Arc<dyn Openings>,
    options: &PushOptions,
    path: &Path,
    pushed: &mut Pushed,
) {
    let (sender, stored) = channel::<(String, Result<Vec<Stored>>)>();
    // Of the epoch that the required ones are in, whatever another one knows of it.
    let epoch = pushed.stored.first().map(|stored| stored.place.epoch());
    let mut names = Vec::new();
    for each in openings.repositories().iter().filter(|each| !each.is_required) {
        let name = each.name.clone();
        names.push(name.clone());
        let (ctx, openings, options) = (ctx.clone(), Arc::clone(openings), options.clone());
        let (path, sender) = (path.to_owned(), sender.clone());
        // One that cannot even begin lags as one does that is not done in time.
        let begun = detached(move || {
            let is_meant = |other: &RepositoryUse| other.name == name;
            let done = submit(&ctx, &openings, &options, &path, epoch, is_meant);
            sender.send((name.clone(), done.map(|pushed| pushed.stored))).ok();
        });
        drop(begun);
    }
    drop(sender);
    let deadline = ctx.clock.monotonic() + OPTIONAL_WAIT;
    while !names.is_empty() {
        let left = deadline.saturating_sub(ctx.clock.monotonic());
        let Ok((name, done)) = stored.recv_timeout(left) else { break };
        names.retain(|other| *other != name);
        match done {
            Ok(stored) => pushed.stored.extend(stored),
            Err(error) => pushed.warnings.push(format!("not in {name}, which may lag: {error}")),
        }
    }
    let late = names.into_iter();
    pushed.warnings.extend(late.map(|name| format!("not in {name} yet, which may lag")));
}
