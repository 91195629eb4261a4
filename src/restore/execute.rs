//! Carrying the plan out.
//!
//! Order of durability: the marks of a restore in progress; where it goes over what is there (`--delta`), the
//! end of the old control file, and only then what is not in the backup goes; then directories, links and all
//! files but `global/pg_control`, the settings, `backup_label`, signal file and manifest; then every file system
//! involved is synced; then `pg_control` is written, synced and named; then its directory is synced; then
//! the marks go, the data directory's last. Whatever stops it: without `pg_control` the directory cannot
//! be started and its mark lets the same command go on; with it, everything is there and durable.

use std::path::PathBuf;

use super::aside;
use super::control::control_file;
use super::delta::{self, Delta};
use super::error::{Error, Result};
use super::in_progress::{Claim, make_place};
use super::mounts::FileSystems;
use super::options::Options;
use super::plan::Plan;
use super::strangers;
use super::survey::{Ground, check, survey};
use super::tally::Amount;
use super::tree::Tree;
use super::unarchived::Archived;
use super::walk;
use super::writing::{Found, Writing};
use crate::base::{Ctx, Event, Stage, durable};

/// What a restore made.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Restored {
    /// The data directory.
    pub data_directory: PathBuf,
    /// Files of the backup.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Of those, files that were there with the backup's content; and blocks, also of files of which others
    /// were written.
    pub kept: Amount,
    /// Files of which something was written, and what was.
    pub written: Amount,
    /// Files and directories that were removed because they are not in the backup.
    pub removed: u64,
    /// Seconds it took.
    pub seconds: f64,
}

/// Carries a plan out.
///
/// # Errors
/// Any; without `global/pg_control` the directory cannot be started then, and the same call with the
/// same options goes on from there.
pub fn execute(ctx: &Ctx, plan: &Plan, options: &Options) -> Result<Restored> {
    let ctx = &ctx.with_child_cancel();
    let begun = ctx.clock.monotonic();
    aside::move_all(&plan.to, &plan.ground.moved)?;
    let (claim, found, below) = match plan.ground.delta.as_ref().zip(plan.archived.as_ref()) {
        Some(planned) => claim_over(ctx, (plan, options), planned)?,
        None => claim(ctx, plan)?,
    };
    let tree = Tree::open_over(plan.places(), below)?;
    let (files, bytes) = (plan.files, plan.bytes);
    let (kept, written) = (Amount { files, bytes }, Amount::default());
    let data_directory = plan.to.clone();
    let mut restored =
        Restored { data_directory, files, bytes, kept, written, removed: 0, seconds: 0.0 };
    if let Some(found) = found {
        let claim = match found {
            Found::Over { .. } => delta::invalidate(ctx, plan, &tree, claim)?,
            _ => claim,
        };
        write(ctx, (plan, options), (&tree, found), &mut restored)?;
        release(ctx, plan, claim)?;
    } else {
        release(ctx, plan, claim)?;
    }
    restored.seconds = ctx.clock.monotonic().saturating_sub(begun).as_secs_f64();
    Ok(restored)
}

/// Everything, up to the control file's name.
fn write(
    ctx: &Ctx,
    (plan, options): (&Plan, &Options),
    (tree, found): (&Tree, Found),
    restored: &mut Restored,
) -> Result<()> {
    let (bytes_total, files_total) = (plan.bytes, plan.files);
    ctx.observer.event(Event::Begin { stage: Stage::Restore, bytes_total, files_total });
    if found == Found::Interrupted {
        // Going over what is there, the look at it under the lock has met them.
        walk::meet_file_systems(ctx, tree)?;
    }
    if found.is_interrupted() {
        // What the earlier run wrote reaches the disk before it is read back and believed.
        tree.sync()?;
    }
    if let Found::Over { .. } = found {
        restored.removed = strangers::remove(ctx, plan, options, tree)?;
    }
    let mut writing = Writing::new(ctx, plan, options, tree, found)?;
    writing.all()?;
    writing.recovery()?;
    if found.is_something() {
        writing.refuse_strangers()?;
    }
    ctx.observer.event(Event::End { stage: Stage::Restore });
    writing.make_durable()?;
    (restored.files, restored.bytes) = (writing.files, writing.bytes);
    (restored.kept, restored.written) = writing.tally();
    Ok(())
}

/// The control file has its name: it becomes durable, and the marks go.
fn release(ctx: &Ctx, plan: &Plan, claim: Claim) -> Result<()> {
    let global = plan.to.join("global");
    // An earlier run may have been stopped between the name and this.
    durable::sync_dir(&global).map_err(Error::file("sync", &global))?;
    claim.release(ctx)
}

/// Takes the data directory's lock, looks at all places again under it, and marks them; what is there to go
/// on from, and nothing where all is there already.
fn claim(ctx: &Ctx, plan: &Plan) -> Result<(Claim, Option<Found>, FileSystems)> {
    let places = plan.places();
    // Looked at before anything is made.
    check(places, plan.wanted())?;
    make_place(&plan.to)?;
    let mut claim = Claim::take(&plan.to)?;
    let ground = match survey(places, plan.wanted(), || control_file(&plan.opened)) {
        Ok(ground) => ground,
        Err(error) => {
            claim.withdraw();
            return Err(error);
        }
    };
    let mark = match check(places, plan.wanted())? {
        Some(mark) => mark,
        None => claim.begin(ctx, plan.wanted())?,
    };
    ctx.step("the data directory is marked");
    for place in places.others() {
        if ground.is_complete {
            claim.adopt_place(&mark, place)?;
            continue;
        }
        claim.mark_place(&mark, place)?;
        ctx.step("another place is marked");
    }
    let Ground { continues, is_complete, .. } = ground;
    let found = if continues.is_some() { Found::Interrupted } else { Found::Nothing };
    Ok((claim, (!is_complete).then_some(found), FileSystems::default()))
}

/// As [`claim`], of places that hold what is gone over. Nothing but marks is written, each whole or not at all:
/// until the old control file goes, what is there stays what it is. With the other file systems that begin there.
fn claim_over(
    ctx: &Ctx,
    (plan, options): (&Plan, &Options),
    planned: (&Delta, &Archived),
) -> Result<(Claim, Option<Found>, FileSystems)> {
    let places = plan.places();
    let mut claim = Claim::take(&plan.to)?;
    let (is_interrupted, below) = match delta::look_again(ctx, options, plan, planned) {
        Ok(found) => found,
        Err(error) => {
            claim.withdraw();
            return Err(error);
        }
    };
    let mark = claim.begin_over(ctx, plan.wanted())?;
    ctx.step("the data directory is marked");
    for place in places.others() {
        claim.mark_place(&mark, place)?;
        ctx.step("another place is marked");
    }
    Ok((claim, Some(Found::Over { is_interrupted }), below))
}
