//! A restore over what is there (`--delta`): where it is right, and how what is there ends.
//!
//! It is right over the same cluster, an interrupted restore of it, or what is left of a cluster that cannot be
//! told any more; never where a server runs, and never where another cluster may still need what would be
//! written over. Everything is looked at twice: for the plan, and again under the lock, where nothing may differ from
//! what was shown and confirmed.

use std::fs;
use std::path::{Path, PathBuf};

use super::aside::{self, links_to, server_on, siblings};
use super::control::{CONTROL_PATH, control_in};
use super::directory::place_of;
use super::error::{Error, Result};
use super::in_progress::{self, Claim, Content, Mark};
use super::mounts::FileSystems;
use super::options::Options;
use super::plan::Plan;
use super::strangers::{Inventory, take_stock};
use super::survey::{CONTROL_FILE, Ground, Places};
use super::tree::Tree;
use super::unarchived::{self, Archived, OnlyHere};
use crate::base::{ByteSize, Ctx};
use crate::repo::OpenedBackup;

/// The old control file on its way out.
const CONTROL_OLD: &[u8] = b"global/pg_control.pgkeep-old";

const LOCK_FILE: &str = "postmaster.pid";

/// What a restore goes over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Over {
    /// The same cluster, by its control file.
    Cluster,
    /// An interrupted restore of the same cluster.
    Restore,
    /// A cluster without a control file that can be read: which one it was is not known.
    Wreck,
}

/// What a restore with `--delta` finds.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Delta {
    /// What is there.
    pub over: Over,
    /// Where its WAL is, where that is not the data directory.
    pub wal: Option<PathBuf>,
    /// What of it is in the backup, and what is not.
    #[serde(flatten)]
    pub inventory: Inventory,
    /// Where the cluster lives, as far as is known.
    #[serde(skip)]
    homes: Vec<PathBuf>,
    /// What of its WAL the archive does not have.
    #[serde(skip)]
    only_here: OnlyHere,
}

impl Delta {
    /// Lines of the plan.
    pub(super) fn lines(&self) -> Vec<String> {
        let what = match self.over {
            Over::Cluster => "this cluster",
            Over::Restore => "an interrupted restore",
            Over::Wreck => "a cluster without its control file",
        };
        let Inventory { there, missing, strangers, stranger_bytes, .. } = self.inventory;
        let mut lines = vec![format!(
            "  goes over     {what}: {there} files are there and compared, {missing} are missing"
        )];
        if let Some(wal) = &self.wal {
            lines.push(format!("  WAL goes to   {}", wal.display()));
        }
        for path in &self.inventory.mounts {
            lines.push(format!("  writes to     {path}, which is mounted there"));
        }
        let bytes = ByteSize(stranger_bytes);
        lines.push(format!("  removes       {strangers} that are not in the backup, {bytes}"));
        let first = &self.inventory.first_strangers;
        lines.extend(first.iter().map(|path| format!("  removes       {path}")));
        let more = strangers.saturating_sub(first.len() as u64);
        if more > 0 {
            lines
                .push(format!("  removes       {more} more, what is in such directories included"));
        }
        lines
    }

    /// What a person must know first.
    pub(super) fn warnings(&self, to: &Path) -> Vec<String> {
        let wreck = (self.over == Over::Wreck).then(|| {
            format!(
                "{} has no control file that can be read: whether it was this cluster's is not known",
                to.display()
            )
        });
        let links = self.inventory.links.iter().map(|(link, target)| {
            format!("the link {link} goes, and what it leads to stays: {target}")
        });
        wreck.into_iter().chain(links).collect()
    }
}

/// What lies in the data directory.
#[derive(Debug)]
pub(super) struct There {
    over: Over,
    pub(super) wal: Option<PathBuf>,
    /// A restore that was killed may have written some of it.
    pub(super) is_interrupted: bool,
}

/// What is there to go over, for a plan; nothing in an empty place.
///
/// # Errors
/// [`Error::Occupied`], [`Error::Refused`].
pub(super) fn survey(
    ctx: &Ctx,
    options: &Options,
    places: Places<'_>,
    (opened, homes): (&OpenedBackup, &[PathBuf]),
) -> Result<Option<Delta>> {
    if Content::of(places.data)? == Content::Nothing {
        return Ok(None);
    }
    let There { over, wal, .. } = look(options, places, opened, homes)?;
    if in_progress::is_held(places.data) {
        return Err(in_progress::held(places.data));
    }
    let tree = Tree::open_what_is_there(Places { wal: wal.as_deref(), ..places })?;
    let inventory = take_stock(ctx, options, opened, &tree, places.tablespaces)?;
    let homes = homes.to_vec();
    Ok(Some(Delta { over, wal, inventory, homes, only_here: OnlyHere::default() }))
}

/// What must hold before what is there is ended, and changes nothing: that no WAL is lost with it, and that the
/// store has all of the backup. What is told first, and where WAL was looked for.
///
/// # Errors
/// [`Error::Unarchived`], and the repository's.
pub(super) fn prepare(
    ctx: &Ctx,
    options: &Options,
    opened: &OpenedBackup,
    archived: impl FnOnce() -> Archived,
    ground: &mut Ground,
) -> Result<(Option<Archived>, Vec<String>)> {
    let Some(delta) = &mut ground.delta else { return Ok((None, Vec::new())) };
    let archived = archived();
    delta.only_here = unarchived::look(ctx, &archived, &options.to)?;
    let mut warnings = delta.warnings(&options.to);
    warnings.extend(delta.only_here.check(&options.to, options.discard_wal)?);
    for manifest in opened.chain() {
        ctx.cancel.check()?;
        archived.repository.require_content(&archived.place, manifest)?;
    }
    Ok((Some(archived), warnings))
}

/// Looks again, under the lock and before anything is written: what was shown and confirmed is what will be done.
/// Whether a restore that was killed has written some of it, and the other file systems that begin there.
///
/// # Errors
/// [`Error::Occupied`], [`Error::Refused`].
pub(super) fn look_again(
    ctx: &Ctx,
    options: &Options,
    plan: &Plan,
    (planned, archived): (&Delta, &Archived),
) -> Result<(bool, FileSystems)> {
    let places = plan.places();
    let there = look(options, places, &plan.opened, &planned.homes)?;
    let changed = |what: &str| {
        occupied(
            &plan.to,
            format!("{what} since the plan was made: nothing was changed, run it again"),
        )
    };
    if there.wal.as_deref() != places.wal {
        return changed("has its WAL elsewhere");
    }
    if there.over != planned.over {
        return changed("has become something else");
    }
    if unarchived::look(ctx, archived, &plan.to)? != planned.only_here {
        return changed("has other WAL that is not archived");
    }
    let tree = Tree::open_what_is_there(places)?;
    let inventory = take_stock(ctx, options, &plan.opened, &tree, places.tablespaces)?;
    if inventory.digest != planned.inventory.digest {
        return changed("holds other files that would go");
    }
    Ok((there.is_interrupted, tree.below))
}

fn occupied<T>(path: &Path, why: impl Into<String>) -> Result<T> {
    Err(Error::Occupied { path: path.into(), why: why.into() })
}

/// Looks whether a restore may go over what is there. Changes nothing.
///
/// # Errors
/// [`Error::Occupied`], [`Error::Refused`].
pub(super) fn look(
    options: &Options,
    places: Places<'_>,
    opened: &OpenedBackup,
    homes: &[PathBuf],
) -> Result<There> {
    let data = places.data;
    let mark = match Content::of(data)? {
        Content::Nothing => return occupied(data, "is empty now"),
        Content::Restore(mark) => Some(mark),
        Content::Else(why) if !data.is_dir() || data.join(LOCK_FILE).symlink_metadata().is_ok() => {
            return occupied(data, why);
        }
        Content::Else(_) => None,
    };
    refuse_server(data)?;
    let over = recognised(data, mark.as_deref(), opened)?;
    // A copy that was made with its links has its source's tablespaces and WAL for its own.
    let others = || siblings(data).chain(homes.iter().cloned());
    for (oid, _, location) in places.tablespaces {
        look_at_tablespace(places, *oid, location)?;
        aside::refuse_shared(data, others(), location)?;
    }
    if let Some(configuration) = places.configuration {
        match Content::of(configuration)? {
            Content::Nothing => {}
            Content::Restore(mark) if mark.is_into(data) => {}
            _ => return occupied(configuration, "is not empty"),
        }
    }
    let wal = wal_behind_link(places)?;
    if let Some(wal) = &wal {
        refuse_server(wal)?;
        aside::refuse_shared(data, others(), wal)?;
    }
    refuse_repositories(options, Places { wal: wal.as_deref(), ..places })?;
    Ok(There { over, wal, is_interrupted: mark.is_some() })
}

fn refuse_server(place: &Path) -> Result<()> {
    match server_on(place)? {
        Some(why) => occupied(place, why),
        None => Ok(()),
    }
}

/// Which cluster lies in a data directory.
fn recognised(data: &Path, mark: Option<&Mark>, opened: &OpenedBackup) -> Result<Over> {
    let summary = &opened.manifest().summary;
    if let Some(mark) = mark
        && !mark.is_of_system(summary.system)
    {
        let why = format!("holds an interrupted restore of another cluster, {}", mark.describe());
        return occupied(data, why);
    }
    let is_directory =
        |name: &str| data.join(name).symlink_metadata().is_ok_and(|found| found.is_dir());
    let control = data.join(CONTROL_FILE);
    let is_file = control.symlink_metadata().is_ok_and(|found| found.is_file());
    if is_directory("global")
        && is_file
        && let Some(control) = control_in(data)?
    {
        if control.system_identifier != summary.system {
            let why = format!(
                "holds another cluster: its system identifier is {}, the backup's is {}",
                control.system_identifier, summary.system
            );
            return occupied(data, why);
        }
        return Ok(Over::Cluster);
    }
    if mark.is_some() {
        return Ok(Over::Restore);
    }
    let major = (summary.server.version_num / 10_000).to_string();
    let version = fs::read_to_string(data.join("PG_VERSION")).unwrap_or_default();
    if version.trim() == major && is_directory("base") && is_directory("global") {
        return Ok(Over::Wreck);
    }
    occupied(data, format!("is not empty, and holds no cluster of PostgreSQL {major}"))
}

/// A tablespace's location may hold files where they are this data directory's.
fn look_at_tablespace(places: Places<'_>, oid: u32, location: &Path) -> Result<()> {
    match Content::of(location)? {
        Content::Nothing => return Ok(()),
        Content::Restore(mark) if mark.is_into(places.data) => {}
        Content::Restore(mark) => {
            let theirs = mark.describe();
            return occupied(location, format!("holds files of another restore, {theirs}"));
        }
        Content::Else(why)
            if !location.is_dir() || location.join(LOCK_FILE).symlink_metadata().is_ok() =>
        {
            return occupied(location, why);
        }
        Content::Else(_) => {
            let link = places.data.join(format!("pg_tblspc/{oid}"));
            if !links_to(places.data, location).any(|leads_there| leads_there == link) {
                let why = format!("is not empty, and {} does not lead there", link.display());
                return occupied(location, why);
            }
        }
    }
    refuse_server(location)
}

/// Where a link leads that stands for `pg_wal`. One that leads nowhere, or to where the restore writes anyway, is
/// not kept.
fn wal_behind_link(places: Places<'_>) -> Result<Option<PathBuf>> {
    let link = places.data.join("pg_wal");
    if !link.is_symlink() {
        return Ok(None);
    }
    let Ok(wal) = link.canonicalize() else { return Ok(None) };
    let mut own = std::iter::once(places.data).chain(places.others()).map(place_of);
    let is_apart = own.try_fold(true, |is_apart, own| {
        let own = own?;
        Ok::<bool, Error>(is_apart && !wal.starts_with(&own) && !own.starts_with(&wal))
    })?;
    Ok((is_apart && wal.is_dir()).then_some(wal))
}

/// A repository that lies where strangers are removed would go with them.
fn refuse_repositories(options: &Options, places: Places<'_>) -> Result<()> {
    for repository in &options.repository_folders {
        let repository = place_of(repository)?;
        for place in std::iter::once(places.data).chain(places.others()).chain(places.wal) {
            if repository.starts_with(place_of(place)?) {
                let what = format!(
                    "the repository {} lies in {}, where --delta removes what is not in the backup",
                    repository.display(),
                    place.display()
                );
                return Err(Error::Refused { what });
            }
        }
    }
    Ok(())
}

/// Ends what is there: without its control file no server starts on it. Durable when this returns, and nothing
/// but marks was written before.
pub(super) fn invalidate(ctx: &Ctx, plan: &Plan, tree: &Tree, claim: Claim) -> Result<Claim> {
    let (root, old) = tree.find(CONTROL_OLD);
    let (_, control) = tree.find(CONTROL_PATH);
    let was_there = root.rename(control, old)?;
    // A server that was started since the places were looked at has made this file before it read the other
    // one; whoever comes later does not find that.
    if was_there && plan.to.join(LOCK_FILE).symlink_metadata().is_ok() {
        root.rename(old, control)?;
        claim.release(ctx)?;
        return occupied(&plan.to, "has been started by a server just now");
    }
    root.remove(old)?;
    root.sync_directory(b"global")?;
    ctx.step("the old control file is gone");
    Ok(claim)
}
