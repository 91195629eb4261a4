//! Which backup a plan restores, and proof that it is what listing said.
//!
//! Backups are listed from a catalogue where there is one. The manifest of the chosen one is read; where it
//! says something else, or nothing, all manifests are read and all is asked again.

use super::error::{Error, Result};
use super::in_progress::Choices;
use super::options::Options;
use super::reach::Archive;
use super::reached::{Reached, reached};
use super::survey::continued;
use crate::base::Ctx;
use crate::repo::{self, Backups, OpenedBackup, Place, Registration, Repository, Summary};

/// The backup that was chosen, and what it was chosen from: found without reading a pack.
pub struct Chosen<'a> {
    /// What the caller may choose, with what an interrupted run of the same restore began with.
    pub(super) options: Options,
    pub(super) archive: Archive<'a>,
    pub(super) backups: Backups,
    pub(super) reached: Reached,
    pub(super) opened: OpenedBackup,
}

/// Chooses a backup and opens it.
///
/// # Errors
/// [`Error::Unreachable`], and the repository's.
pub fn choose_backup<'a>(
    ctx: &Ctx,
    options: &Options,
    (repository, place): (&'a Repository, &'a Place),
    registration: &Registration,
) -> Result<Chosen<'a>> {
    let choices = &Choices::new(options, repository, place);
    let mut archive = Archive::read(ctx, repository, place, registration)?;
    let mut choose = |backups: &Backups| {
        let options = continued(options, choices, &backups.complete)?;
        let all: Vec<&Summary> = backups.complete.iter().collect();
        let reached = reached(ctx, &options, (repository, place), &mut archive, &all)?;
        Ok::<_, Error>((options, reached))
    };
    let mut backups = repository.backups(ctx, place)?;
    let (mut options, mut reached) = choose(&backups)?;
    let opened = match repository.open_backup(place, &reached.way.backup.id) {
        Ok(opened) if opened.manifest().summary == reached.way.backup => opened,
        Err(repo::Error::Storage(error)) => return Err(repo::Error::from(error).into()),
        Ok(_) | Err(_) => {
            backups = repository.backups_by_manifest(ctx, place)?;
            (options, reached) = choose(&backups)?;
            repository.open_backup(place, &reached.way.backup.id)?
        }
    };
    Ok(Chosen { options, archive, backups, reached, opened })
}
