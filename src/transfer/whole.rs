//! Which backups are whole in a repository, as far as can be told without reading their packs.

use std::collections::BTreeSet;

use super::error::Result;
use super::sides::Side;
use super::wal::own_wal;
use crate::base::Ctx;
use crate::repo::{self, BackupId, Place};

/// Which of these backups are there with all that they stand on: manifests that can be read, every object listed with
/// its size, the WAL that each needs, and no expiry that removes them.
///
/// # Errors
/// As the store's.
pub fn whole(
    ctx: &Ctx,
    side: &Side<'_>,
    place: &Place,
    ids: &BTreeSet<BackupId>,
) -> Result<BTreeSet<BackupId>> {
    let repository = side.repository;
    let registration = match repository.registration(place) {
        Err(error) if error.is_about_one_object() => return Ok(BTreeSet::new()),
        other => side.at(other)?,
    };
    let survey = side.at(repository.survey_by_list(ctx, place, &registration))?;
    let mut whole = BTreeSet::new();
    for id in ids {
        ctx.cancel.check()?;
        if survey.kept.is_removing(id) || !survey.kept.unreadable.is_empty() {
            continue;
        }
        let looked = repository.open_backup(place, id).and_then(|opened| {
            for manifest in opened.chain() {
                repository.require_objects(place, manifest)?;
            }
            Ok(opened.chain().all(|manifest| own_wal(&survey.wal, &manifest.summary).is_ok()))
        });
        match looked {
            Ok(true) => drop(whole.insert(id.clone())),
            Ok(false) => ctx.note(format!("{id} lacks WAL in {}", side.name)),
            Err(repo::Error::NoBackup { .. }) => {}
            Err(error) if error.is_of_content() => {
                ctx.note(format!("{id} is not whole in {}: {error}", side.name));
            }
            Err(error) => return side.at(Err(error)),
        }
    }
    Ok(whole)
}
