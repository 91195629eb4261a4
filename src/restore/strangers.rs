//! What lies in the places of a restore over what is there, beside the rows of the backup's table: what of it
//! is in the backup, and what is not, and goes.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io::Read as _;
use std::path::{Path, PathBuf};

use super::adopt::MARKER;
use super::control::CONTROL_PATH;
use super::error::{Error, Result};
use super::options::Options;
use super::plan::Plan;
use super::space::tablespace_of;
use super::survey::{is_mark, is_own_file, shown};
use super::tree::{MOUNTED, READ_ONLY, Root, Tree};
use super::walk::{Entry, Scope, Walk};
use crate::base::Ctx;
use crate::pg::{EntryKind, Layout, MajorVersion, Rule};
use crate::repo::{OpenedBackup, Row, RowKind};

/// How many paths are shown.
const SHOWN_MAX: usize = 20;

/// What is in the places of a restore over what is there.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct Inventory {
    /// Files that the backup has too; their blocks are compared.
    pub there: u64,
    /// Files that only the backup has, or whose place something else takes.
    pub missing: u64,
    /// Files, links and directories that are not in the backup, and are removed.
    pub strangers: u64,
    /// Their bytes.
    pub stranger_bytes: u64,
    /// The first of them; what a server leaves behind, such as WAL, comes last.
    pub first_strangers: Vec<String>,
    /// Links to tablespaces that the backup does not have, or not there, and where they lead: that stays.
    pub links: Vec<(String, String)>,
    /// What is mounted, and is written to as part of the places.
    pub mounts: Vec<String>,
    /// Bytes by which files grow, by tablespace.
    #[serde(skip)]
    pub(super) growth: BTreeMap<Option<u32>, u64>,
    /// Bytes that the removal of strangers frees, by device.
    #[serde(skip)]
    pub(super) freed: BTreeMap<u64, u64>,
    /// Which paths are removed, and what is there, whatever their order.
    #[serde(skip)]
    pub(super) digest: u64,
}

/// What tells one thing that is removed from another.
fn digest_of(path: &[u8], kind: EntryKind) -> u64 {
    let mut hasher = DefaultHasher::new();
    (path, std::mem::discriminant(&kind)).hash(&mut hasher);
    hasher.finish()
}

/// A path at which there is something, a row, or both.
struct Meeting<'m> {
    root: &'m Root,
    /// In the data directory, and in its place.
    path: &'m [u8],
    rest: &'m [u8],
    entry: Option<&'m Entry>,
    row: Option<&'m Row>,
}

impl Meeting<'_> {
    /// Whether what is there may stay, to be gone over.
    fn fits(&self, tree: &Tree, tablespaces: &[(u32, String, PathBuf)]) -> Result<bool> {
        let (Some(entry), Some(row)) = (self.entry, self.row) else { return Ok(false) };
        Ok(match (row.kind, entry.kind) {
            (RowKind::File, EntryKind::File) | (RowKind::Directory, EntryKind::Directory) => true,
            (RowKind::Directory, EntryKind::Symlink) => tree.linked(self.path).is_some(),
            (RowKind::Link, EntryKind::Symlink) => {
                let planned =
                    tablespaces.iter().find(|(oid, ..)| Some(*oid) == link_oid(self.path));
                let target = self.root.link_target(self.rest)?;
                planned.is_some_and(|(_, _, planned)| target.as_ref() == Some(planned))
            }
            _ => false,
        })
    }
}

fn link_oid(path: &[u8]) -> Option<u32> {
    std::str::from_utf8(path.strip_prefix(b"pg_tblspc/")?).ok()?.parse().ok()
}

/// One place's walk, and the entry that it has come to.
struct Place<'t> {
    link: &'t [u8],
    walk: Walk<'t>,
    next: Option<Entry>,
}

impl Place<'_> {
    fn path_of(&self, rest: &[u8]) -> Vec<u8> {
        if self.link.is_empty() { rest.to_vec() } else { [self.link, b"/", rest].concat() }
    }

    /// Hands over what lies before a row, and the row with what is at its path; without a row, all that is left.
    fn meet(
        &mut self,
        row: Option<(&Row, &[u8])>,
        visit: &mut dyn FnMut(&Meeting<'_>) -> Result<bool>,
    ) -> Result<()> {
        while let Some(entry) = self.next.take() {
            let order = row.map(|(_, rest)| entry.path.as_slice().cmp(rest));
            if order == Some(std::cmp::Ordering::Greater) {
                self.next = Some(entry);
                break;
            }
            let row = row.filter(|_| order == Some(std::cmp::Ordering::Equal));
            let path = self.path_of(&entry.path);
            let root = self.walk.root();
            let (rest, there) = (&*entry.path, Some(&entry));
            let met =
                Meeting { root, path: &path, rest, entry: there, row: row.map(|(row, _)| row) };
            if !visit(&met)? {
                self.walk.pass();
            }
            self.next = self.walk.next()?;
            if row.is_some() {
                return Ok(());
            }
        }
        let Some((row, rest)) = row else { return Ok(()) };
        let root = self.walk.root();
        visit(&Meeting { root, path: &row.path, rest, entry: None, row: Some(row) }).map(drop)
    }
}

fn layout(opened: &OpenedBackup) -> Result<Layout> {
    let server = &opened.manifest().summary.server;
    let major = MajorVersion::from_server_version_num(server.version_num)
        .map_err(|source| Error::Postgres { what: "the backup's server", source })?;
    Ok(Layout::new(major, server.catalog_version))
}

/// Walks all places beside the rows; `visit` says whether a directory is entered.
fn meet(
    ctx: &Ctx,
    opened: &OpenedBackup,
    tree: &Tree,
    visit: &mut dyn FnMut(&Meeting<'_>) -> Result<bool>,
) -> Result<()> {
    let layout = layout(opened)?;
    let mut places = Vec::new();
    for (link, root) in tree.roots() {
        let scope = match link {
            b"" => Scope::All,
            b"pg_wal" => Scope::Wal,
            _ => Scope::Only(layout.version_directory().as_bytes()),
        };
        let mut walk = Walk::new(root, scope)?;
        let next = walk.next()?;
        places.push(Place { link, walk, next });
    }
    let mut rows = opened.rows()?;
    while let Some(row) = rows.next_row()? {
        ctx.cancel.check()?;
        if row.path.is_empty() || row.is_external() || row.path == MARKER.as_bytes() {
            continue;
        }
        if is_mark(&row.path) {
            continue;
        }
        let inside = |place: &Place<'_>| {
            !place.link.is_empty()
                && row.path.strip_prefix(place.link).is_some_and(|rest| rest.starts_with(b"/"))
        };
        let at = places.iter().position(inside).unwrap_or_default();
        let Some(place) = places.get_mut(at) else { continue };
        let skipped = if place.link.is_empty() { 0 } else { place.link.len() + 1 };
        let rest = row.path.get(skipped..).unwrap_or_default();
        place.meet(Some((&row, rest)), visit)?;
    }
    for mut place in places {
        ctx.cancel.check()?;
        place.meet(None, visit)?;
    }
    Ok(())
}

/// Looks what is there. Changes nothing.
pub(super) fn take_stock(
    ctx: &Ctx,
    options: &Options,
    opened: &OpenedBackup,
    tree: &Tree,
    tablespaces: &[(u32, String, PathBuf)],
) -> Result<Inventory> {
    let layout = layout(opened)?;
    let secrets = Secrets::of(options);
    let mut inventory = Inventory::default();
    let (mut usual, mut relations) = (Vec::new(), Vec::new());
    // Directories that go, by place: one line each, whatever is in them.
    let mut folders = BTreeMap::<PathBuf, Vec<Vec<u8>>>::new();
    meet(ctx, opened, tree, &mut |met| {
        let fits = met.fits(tree, tablespaces)?;
        if let Some(row) = met.row.filter(|row| row.kind == RowKind::File) {
            let there = met.entry.filter(|_| fits);
            *(if there.is_some() { &mut inventory.there } else { &mut inventory.missing }) += 1;
            // One that has another name elsewhere is made anew.
            let size = there.filter(|entry| entry.is_single).map_or(0, |entry| entry.size);
            let grows = inventory.growth.entry(tablespace_of(met.path)).or_default();
            *grows += row.size.saturating_sub(size);
        }
        let Some(entry) = met.entry else { return Ok(true) };
        let is_own = is_own_file(options, met.path) && entry.kind == EntryKind::File;
        if entry.is_mount {
            // What goes, or is made anew: nothing takes the place of what is mounted.
            let is_anew = is_own
                || met.path == CONTROL_PATH
                || entry.kind == EntryKind::File && !entry.is_single;
            if !fits || is_anew {
                let path = met.root.path_of(met.rest);
                return Err(Error::Occupied { path, why: MOUNTED.into() });
            }
            if met.root.is_read_only(met.rest)? {
                let path = met.root.path_of(met.rest);
                return Err(Error::Occupied { path, why: READ_ONLY.into() });
            }
            if entry.kind == EntryKind::File {
                met.root.note_file(met.rest)?;
            }
            inventory.mounts.push(shown(met.path));
        }
        if fits {
            secrets.refuse_older(met)?;
            return Ok(true);
        }
        if is_own {
            return Ok(true);
        }
        if entry.kind == EntryKind::Symlink
            && link_oid(met.path).is_some()
            && let Some(target) = met.root.link_target(met.rest)?
        {
            inventory.links.push((shown(met.path), target.display().to_string()));
        }
        inventory.digest = inventory.digest.wrapping_add(digest_of(met.path, entry.kind));
        if entry.is_single {
            *inventory.freed.entry(entry.device).or_default() += entry.size;
        }
        inventory.strangers += 1;
        inventory.stranger_bytes += entry.size;
        let of_place = folders.entry(met.root.path_of(b"")).or_default();
        let is_inside = is_below(of_place, met.rest);
        if is_inside {
            refuse_homes(met, entry.kind)?;
        }
        secrets.refuse_removal(&met.root.path_of(met.rest))?;
        if is_inside {
            return Ok(true);
        }
        let slash = if entry.kind == EntryKind::Directory { "/" } else { "" };
        if entry.kind == EntryKind::Directory {
            of_place.push(met.rest.to_vec());
        }
        let is_usual = met.row.is_none()
            && (matches!(layout.classify(met.path, entry.kind), Rule::Skip(_))
                || met.path == CONTROL_PATH);
        let first = match is_usual {
            true => &mut usual,
            false if is_of_relations(met.path) => &mut relations,
            false => &mut inventory.first_strangers,
        };
        if first.len() < SHOWN_MAX {
            first.push(format!("{}{slash}", shown(met.path)));
        }
        Ok(true)
    })?;
    inventory.first_strangers.extend(relations);
    inventory.first_strangers.extend(usual);
    inventory.first_strangers.truncate(SHOWN_MAX);
    Ok(inventory)
}

/// Whether a path lies in one of these folders, of which those are forgotten that the walk has left: folders are
/// met in the order of paths, and what is in them after siblings like `log.1` beside `log`.
fn is_below(folders: &mut Vec<Vec<u8>>, path: &[u8]) -> bool {
    while let Some(folder) = folders.last() {
        let inside = [folder, &b"/"[..]].concat();
        if path.starts_with(&inside) {
            return true;
        }
        if path < inside.as_slice() {
            // What is in it comes later.
            return folders.iter().any(|folder| path.starts_with(&[folder, &b"/"[..]].concat()));
        }
        folders.pop();
    }
    false
}

/// Refuses to remove a directory by what is met in it: somebody lives there.
fn refuse_homes(met: &Meeting<'_>, kind: EntryKind) -> Result<()> {
    let of_tablespace = || home_of_a_tablespace(met.rest).filter(|_| kind == EntryKind::Directory);
    let (home, what) = match home_of_a_cluster(met.rest) {
        Some(home) => (home, "a data directory of its own"),
        None => match of_tablespace() {
            Some(home) => (home, "files of a tablespace, whichever cluster's it is"),
            None => return Ok(()),
        },
    };
    let path = met.root.path_of(home);
    let why = format!("holds {what}, and is not in the backup: move it away first");
    Err(Error::Occupied { path, why })
}

/// The folder whose file says that it is a data directory.
fn home_of_a_cluster(path: &[u8]) -> Option<&[u8]> {
    path.strip_suffix(b"/global/pg_control").or_else(|| path.strip_suffix(b"/postmaster.pid"))
}

/// The folder that a directory such as `PG_15_202209061` says is a tablespace's location. One of the cluster itself
/// that lies in `pg_tblspc` is none (`allow_in_place_tablespaces`).
fn home_of_a_tablespace(path: &[u8]) -> Option<&[u8]> {
    let at = path.iter().rposition(|byte| *byte == b'/')?;
    let (home, name) = (path.get(..at)?, path.get(at + 1..)?);
    let parts: Vec<&[u8]> = name.strip_prefix(b"PG_")?.split(|byte| *byte == b'_').collect();
    let is_number = |text: &[u8]| !text.is_empty() && text.iter().all(u8::is_ascii_digit);
    let is_version = matches!(*parts, [major, catalog] if is_number(major) && is_number(catalog));
    (is_version && link_oid(home).is_none()).then_some(home)
}

/// Whether a path is that of a relation's file, or of one that a server keeps beside them: of such a cluster may
/// have thousands that are not in the backup.
fn is_of_relations(path: &[u8]) -> bool {
    let parts: Vec<&[u8]> = path.split(|byte| *byte == b'/').collect();
    let is_numbered = |part: &&[u8]| part.first().is_some_and(u8::is_ascii_digit);
    match parts.as_slice() {
        [b"base", _, file] | [b"pg_tblspc", _, _, _, file] => is_numbered(file),
        [b"base", database] => is_numbered(database),
        [b"global", file] => is_numbered(file),
        _ => false,
    }
}

/// A secret or a configuration is no longer than this.
const SECRET_BYTES_MAX: u64 = 1 << 20;

/// The configuration and what opens the repositories: their paths, and those that links lead to.
struct Secrets(Vec<PathBuf>);

impl Secrets {
    fn of(options: &Options) -> Self {
        let behind = options.own_files.iter().filter_map(|own| own.canonicalize().ok());
        Self(options.own_files.iter().cloned().chain(behind).collect())
    }

    fn at(&self, path: &Path) -> Option<&Path> {
        let folder = |path: &Path| path.parent().and_then(|folder| folder.canonicalize().ok());
        let is_it = |own: &&PathBuf| {
            own.file_name() == path.file_name()
                && (*own == path || folder(own).is_some_and(|own| Some(own) == folder(path)))
        };
        self.0.iter().find(is_it).map(PathBuf::as_path)
    }

    /// Refuses to remove one.
    fn refuse_removal(&self, path: &Path) -> Result<()> {
        let Some(own) = self.at(path) else { return Ok(()) };
        let what = format!(
            "pgkeep itself needs {}, which is not in the backup: --delta would remove it. Move it elsewhere",
            own.display()
        );
        Err(Error::Refused { what })
    }

    /// Refuses to write an older one over it: what opens the repository now may be lost, and recovery needs it.
    fn refuse_older(&self, met: &Meeting<'_>) -> Result<()> {
        let path = met.root.path_of(met.rest);
        let (Some(row), Some(own)) = (met.row, self.at(&path)) else { return Ok(()) };
        if row.kind != RowKind::File {
            return Ok(());
        }
        let mut content = Vec::new();
        let file = met.root.open_there(met.rest)?;
        file.take(SECRET_BYTES_MAX)
            .read_to_end(&mut content)
            .map_err(Error::file("read", &path))?;
        if content.len() as u64 == row.size && row.crc == Some(crc32c::crc32c(&content)) {
            return Ok(());
        }
        let what = format!(
            "pgkeep itself needs {}, which has another content in the backup: --delta would write that over it. Move \
             it out of the data directory, and say in the configuration where it is",
            own.display()
        );
        Err(Error::Refused { what })
    }
}

/// Removes what is not in the backup, or is another thing there; how much that was. What stays are directories,
/// links that lead where they should, and files at the paths of files.
pub(super) fn remove(ctx: &Ctx, plan: &Plan, options: &Options, tree: &Tree) -> Result<u64> {
    let mut removed = 0;
    meet(ctx, &plan.opened, tree, &mut |met| {
        let Some(entry) = met.entry else { return Ok(true) };
        if met.fits(tree, &plan.tablespaces)? {
            return Ok(true);
        }
        let count = met.root.remove_all(met.rest)?;
        let is_own = is_own_file(options, met.path) && entry.kind == EntryKind::File;
        removed += if is_own { 0 } else { count };
        ctx.step("something that is not in the backup is removed");
        Ok(false)
    })?;
    Ok(removed)
}

/// Refuses what has appeared since: it would be part of the cluster that starts.
pub(super) fn refuse(ctx: &Ctx, plan: &Plan, options: &Options, tree: &Tree) -> Result<()> {
    meet(ctx, &plan.opened, tree, &mut |met| {
        if met.entry.is_none()
            || is_own_file(options, met.path)
            || met.fits(tree, &plan.tablespaces)?
        {
            return Ok(true);
        }
        let why = format!("was changed by somebody else meanwhile: {}", shown(met.path));
        Err(Error::Occupied { path: plan.to.clone(), why })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn d2026_11_30_a_location_is_told_by_its_version_s_directory() {
        let home = |path: &str| home_of_a_tablespace(path.as_bytes()).map(<[u8]>::to_vec);
        assert_eq!(home("theirs/PG_15_202209061"), Some(b"theirs".to_vec()));
        assert_eq!(home("a/b/PG_9_1/PG_16_202307071"), Some(b"a/b/PG_9_1".to_vec()));
        let others =
            ["PG_15_202209061", "a/PG_VERSION", "a/PG_15", "a/PG_15_", "a/PG_15_2_3", "a/PG_15_x"];
        for other in others.into_iter().chain(["pg_tblspc/16384/PG_15_202209061"]) {
            assert_eq!(home(other), None, "{other}");
        }
    }

    /// Twenty files of relations were shown, and a folder of somebody's notes among them was not.
    #[test]
    fn d2026_11_29_a_directory_that_goes_is_one_line_and_relations_come_later() {
        let mut folders = vec![b"log".to_vec()];
        let mut met = Vec::new();
        for path in ["log.1", "log.1/a", "log/a", "log/a/b", "log0", "logs"] {
            let is_inside = is_below(&mut folders, path.as_bytes());
            if path == "log.1" {
                folders.push(path.into());
            }
            met.push(is_inside);
        }
        assert_eq!(met, [false, true, true, true, false, false]);
        for (path, is_of) in [
            ("base/5/16384", true),
            ("base/5/16384_fsm.1", true),
            ("global/1262_vm", true),
            ("pg_tblspc/16400/PG_15_202209061/5/1", true),
            ("base/16999", true),
            ("base/notes", false),
            ("notes/1", false),
            ("base/5/keep.txt", false),
        ] {
            assert_eq!(is_of_relations(path.as_bytes()), is_of, "{path}");
        }
        assert_eq!(home_of_a_cluster(b"old/data/global/pg_control"), Some(&b"old/data"[..]));
        assert_eq!(home_of_a_cluster(b"old/postmaster.pid"), Some(&b"old"[..]));
        assert_eq!(home_of_a_cluster(b"old/postmaster.pid.txt"), None);
    }

    #[test]
    fn d2026_11_29_what_pgkeep_itself_needs_does_not_go() {
        let dir = tempfile::tempdir().unwrap();
        let key = dir.path().join("key");
        std::fs::File::create(&key).unwrap();
        std::os::unix::fs::symlink(dir.path(), dir.path().join("link")).unwrap();
        std::os::unix::fs::symlink("key", dir.path().join("another-name")).unwrap();
        for name in ["key", "link/key", "another-name", "link/another-name"] {
            let own = dir.path().join(name);
            let options = Options { own_files: vec![own], ..Options::of_a_test(dir.path()) };
            let secrets = Secrets::of(&options);
            let refused = secrets.refuse_removal(&key).unwrap_err().to_string();
            assert!(refused.contains("Move it elsewhere"), "{refused}");
            secrets.refuse_removal(&dir.path().join("other")).unwrap();
        }
    }

    #[test]
    fn links_of_tablespaces_are_told_by_their_paths() {
        assert_eq!(link_oid(b"pg_tblspc/16400"), Some(16400));
        assert_eq!(link_oid(b"pg_tblspc/16400/1"), None);
    }
}
