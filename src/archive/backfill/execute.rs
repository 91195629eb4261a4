//! Stores what was planned, file by file: one that is refused keeps no other one back.

use std::collections::BTreeMap;

use serde::Serialize;

use super::directory::WalDirectory;
use super::plan::{BackfillOptions, BackfillPlan, ToStore, provenance};
use crate::archive::Destination;
use crate::archive::error::{Error, Result};
use crate::archive::push::push_from;
use crate::base::Ctx;
use crate::pg::WalFileName;
use crate::repo::{self, WalPut};

/// What came of a plan.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Backfilled {
    /// What is durable now.
    pub stored: Vec<Put>,
    /// What is not.
    pub failed: Vec<NotStored>,
    /// What the operator should know.
    pub warnings: Vec<String>,
}

/// A file that a repository has now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Put {
    /// Its name.
    pub name: String,
    /// The repository.
    pub repository: String,
    /// Under which name it lies there.
    pub object: String,
    /// Somebody else has stored the same since the plan was made.
    pub was_there: bool,
}

/// A file that a repository has not taken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NotStored {
    /// Its name.
    pub name: String,
    /// The repository.
    pub repository: String,
    /// Whether its name has other content there, which stays.
    pub is_conflict: bool,
    /// In words.
    pub why: String,
}

/// Stores what was planned. A repository that cannot take anything is given up, a file that is refused is
/// passed over; both are in the result.
///
/// # Errors
/// [`Error::Cancelled`], and as [`super::plan()`]'s for other repositories than were planned for. What was
/// stored stays.
pub fn backfill(
    ctx: &Ctx,
    destinations: &[Destination],
    directory: &WalDirectory,
    options: &BackfillOptions,
    plan: &BackfillPlan,
) -> Result<Backfilled> {
    let from = provenance(destinations, directory, options)?;
    let mut done = Backfilled::default();
    let mut given_up: BTreeMap<&str, String> = BTreeMap::new();
    for ToStore { name, repositories, .. } in &plan.store {
        let file = WalFileName::parse(name.as_bytes())
            .map_err(|source| Error::Name { name: name.clone(), source })?;
        let lacking = destinations.iter().filter(|each| repositories.contains(&each.name));
        for destination in lacking {
            ctx.cancel.check()?;
            let repository = destination.name.clone();
            if let Some(why) = given_up.get(destination.name.as_str()) {
                let (name, why) = (name.clone(), format!("not tried: {why}"));
                done.failed.push(NotStored { name, repository, is_conflict: false, why });
                continue;
            }
            let to = std::slice::from_ref(destination);
            let pushed = push_from(ctx, to, &from, &directory.path_of(&file), file, true);
            match pushed {
                Ok(pushed) => {
                    done.warnings.extend(pushed.warnings);
                    done.stored.extend(pushed.stored.into_iter().map(|stored| Put {
                        name: name.clone(),
                        repository: stored.repository,
                        object: stored.object.to_string(),
                        was_there: stored.put == WalPut::Same,
                    }));
                }
                Err(Error::Cancelled(cancelled)) => return Err(cancelled.into()),
                Err(error) => {
                    let why = error.to_string();
                    if is_the_repository_s(&error) {
                        given_up.insert(&destination.name, why.clone());
                    }
                    let (name, is_conflict) = (name.clone(), is_conflict(&error));
                    done.failed.push(NotStored { name, repository, is_conflict, why });
                }
            }
        }
    }
    done.warnings.dedup();
    Ok(done)
}

fn is_conflict(error: &Error) -> bool {
    use repo::Error::{Claimed, Conflict};
    matches!(error, Error::Repository { source: Conflict { .. } | Claimed { .. }, .. })
}

/// Whether the next file would fare no better.
fn is_the_repository_s(error: &Error) -> bool {
    let is_one_object_s =
        matches!(error, Error::Repository { source: repo::Error::Corrupt { .. }, .. });
    matches!(error, Error::Repository { .. }) && !is_conflict(error) && !is_one_object_s
}
