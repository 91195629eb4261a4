//! What lies in a place, in the byte order of full paths as a table has its rows, one directory a level in
//! memory. Through handles: no link is followed.
//!
//! A directory comes at its name, what is in it at its name and a slash: between the two come its siblings like
//! `log.1` beside `log`. What vanishes meanwhile is passed over.

use std::collections::HashSet;

use rustix::fs::FileType;
use rustix::io::Errno;

use super::error::{Error, Result};
use super::in_progress::{IN_PROGRESS, IN_PROGRESS_TEMPORARY, LOST_AND_FOUND};
use super::mounts::look;
use super::tree::{Root, Tree, names_in};
use crate::base::{Ctx, path_order};
use crate::pg::{EntryKind, WalFileName};

/// One thing that the walk found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    /// Relative to the place.
    pub(super) path: Vec<u8>,
    pub(super) kind: EntryKind,
    pub(super) size: u64,
    /// A file that has no other name.
    pub(super) is_single: bool,
    pub(super) device: u64,
    /// Something else is mounted here, or another file system begins.
    pub(super) is_mount: bool,
}

/// What of a place is the restore's to look at.
#[derive(Debug, Clone, Copy)]
pub(super) enum Scope<'a> {
    /// All of it: a data directory.
    All,
    /// This one directory of it: a tablespace's location may hold another version's beside it.
    Only(&'a [u8]),
    /// WAL and what belongs to it: the directory behind the link may hold something else.
    Wal,
}

impl Scope<'_> {
    /// Whether a name in the place itself is looked at.
    fn has(self, child: &[u8]) -> bool {
        let nobodys = [IN_PROGRESS, IN_PROGRESS_TEMPORARY, LOST_AND_FOUND];
        if nobodys.iter().any(|name| name.as_bytes() == child) {
            return false;
        }
        match self {
            Self::All => true,
            Self::Only(only) => child == only,
            Self::Wal => is_of_wal(child),
        }
    }
}

/// Whether a server makes files of this name in `pg_wal` (`src/backend/access/transam/xlog.c`,
/// `xlogarchive.c`).
fn is_of_wal(child: &[u8]) -> bool {
    const DIRECTORIES: [&[u8]; 2] = [b"archive_status", b"summaries"];
    const BEGINNINGS: [&[u8]; 3] = [b"xlogtemp.", b"RECOVERYXLOG", b"RECOVERYHISTORY"];
    let segment = child.strip_suffix(b".deleted").unwrap_or(child);
    DIRECTORIES.contains(&child)
        || BEGINNINGS.iter().any(|beginning| child.starts_with(beginning))
        || WalFileName::parse(segment).is_ok()
}

/// A walk through one place.
#[derive(Debug)]
pub(super) struct Walk<'a> {
    root: &'a Root,
    scope: Scope<'a>,
    levels: Vec<Level>,
}

#[derive(Debug)]
struct Level {
    children: Vec<Entry>,
    /// Each child's place in the order, and that of what is in it.
    order: Vec<(usize, bool)>,
    next: usize,
    /// Children that are not entered.
    passed: HashSet<usize>,
}

impl<'a> Walk<'a> {
    /// A walk that is at the beginning of a place.
    pub(super) fn new(root: &'a Root, scope: Scope<'a>) -> Result<Self> {
        let mut walk = Self { root, scope, levels: Vec::new() };
        walk.enter(Vec::new(), false)?;
        Ok(walk)
    }

    /// The place.
    pub(super) fn root(&self) -> &'a Root {
        self.root
    }

    /// The next entry.
    pub(super) fn next(&mut self) -> Result<Option<Entry>> {
        loop {
            let Some(level) = self.levels.last_mut() else { return Ok(None) };
            let Some(&(i, is_inside)) = level.order.get(level.next) else {
                self.levels.pop();
                continue;
            };
            level.next += 1;
            let Some(child) = level.children.get(i) else { continue };
            if !is_inside {
                return Ok(Some(child.clone()));
            }
            if level.passed.contains(&i) {
                continue;
            }
            let (path, is_mount) = (child.path.clone(), child.is_mount);
            self.enter(path, is_mount)?;
        }
    }

    /// Leaves out what is in the directory that [`Walk::next`] gave last.
    pub(super) fn pass(&mut self) {
        let Some(level) = self.levels.last_mut() else { return };
        let last = level.next.checked_sub(1).and_then(|last| level.order.get(last));
        if let Some(&(i, _)) = last {
            level.passed.insert(i);
        }
    }

    fn enter(&mut self, path: Vec<u8>, is_mount: bool) -> Result<()> {
        let directory = match self.root.open_directory(&path) {
            // Gone, or another thing since it was listed: whoever put that there is met at the end.
            Err(Error::File { source, .. })
                if source.raw_os_error().is_some_and(|code| {
                    [Errno::NOENT, Errno::NOTDIR, Errno::LOOP]
                        .iter()
                        .any(|errno| errno.raw_os_error() == code)
                }) && !path.is_empty() =>
            {
                return Ok(());
            }
            other => other?,
        };
        let device = self.root.device_of(&directory, &path)?;
        let failed = |error: Errno| Error::file("list", self.root.path_of(&path))(error.into());
        let mut names = names_in(&directory).map_err(failed)?;
        names.retain(|child| match path.is_empty() {
            true => self.scope.has(child),
            false => !(is_mount && child == LOST_AND_FOUND.as_bytes()),
        });
        // A file system may list a name twice where the directory changes meanwhile.
        names.sort();
        names.dedup();
        let mut children = Vec::with_capacity(names.len());
        for child in names {
            let found = match look(&directory, device, &child) {
                Err(Errno::NOENT) => continue,
                other => other.map_err(failed)?,
            };
            let kind = match found.kind {
                FileType::RegularFile => EntryKind::File,
                FileType::Directory => EntryKind::Directory,
                FileType::Symlink => EntryKind::Symlink,
                _ => EntryKind::Other,
            };
            let path = match path.is_empty() {
                true => child,
                false => [&path, &b"/"[..], &child].concat(),
            };
            let size = if kind == EntryKind::Directory { 0 } else { found.size };
            let is_single = kind == EntryKind::File && found.links == 1;
            let (device, is_mount) = (found.device, found.is_mount);
            children.push(Entry { path, kind, size, is_single, device, is_mount });
        }
        let order = path_order(
            children.iter().map(|child| (&*child.path, child.kind == EntryKind::Directory)),
        );
        self.levels.push(Level { children, order, next: 0, passed: HashSet::new() });
        Ok(())
    }
}

/// Goes through all places, so that the file systems that begin in them are known.
pub(super) fn meet_file_systems(ctx: &Ctx, tree: &Tree) -> Result<()> {
    for (_, root) in tree.roots() {
        let mut walk = Walk::new(root, Scope::All)?;
        while walk.next()?.is_some() {
            ctx.cancel.check()?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;
    use crate::base::Timestamp;
    use crate::restore::mounts::tests::Mounted;
    use crate::restore::survey::Places;
    use crate::restore::tree::Tree;

    fn make(place: &Path, files: &[&str]) {
        for file in files {
            let path = place.join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::File::create(path).unwrap();
        }
    }

    fn walked(place: &Path, scope: Scope<'_>, passed: &[&str]) -> Vec<String> {
        let tree = Tree::open(Places::of(place, &[])).unwrap();
        let (_, root) = tree.roots().next().unwrap();
        let mut walk = Walk::new(root, scope).unwrap();
        let mut paths = Vec::new();
        while let Some(entry) = walk.next().unwrap() {
            let path = String::from_utf8(entry.path).unwrap();
            if passed.contains(&path.as_str()) {
                walk.pass();
            }
            paths.push(path);
        }
        paths
    }

    #[test]
    fn paths_come_in_byte_order_whatever_the_names() {
        let dir = tempfile::tempdir().unwrap();
        let files = [
            "log/a",
            "log.1",
            "log-2/x",
            "log0",
            "log/a.b/c",
            "base/5/1",
            "base/5-old/x",
            "base/5.1",
        ];
        make(dir.path(), &files);
        std::os::unix::fs::symlink("log", dir.path().join("log.link")).unwrap();
        let paths = walked(dir.path(), Scope::All, &[]);
        assert!(paths.is_sorted_by(|a, b| a.as_bytes() < b.as_bytes()), "{paths:#?}");
        for path in files.iter().chain(&["log", "log.link", "base/5", "log/a.b"]) {
            assert!(paths.iter().any(|found| found == path), "{path} in {paths:?}");
        }
        assert_eq!(paths.len(), files.len() + 7, "{paths:?}");
        let paths = walked(dir.path(), Scope::All, &["log", "base/5"]);
        assert!(!paths.iter().any(|path| path.starts_with("log/") || path == "base/5/1"));
        assert!(paths.iter().any(|path| path == "base/5-old/x"), "{paths:?}");
    }

    #[test]
    fn f065_what_is_not_the_restore_s_is_not_looked_at() {
        let dir = tempfile::tempdir().unwrap();
        make(
            dir.path(),
            &["lost+found/x", "a/lost+found/x", "PG_15_1/1", "PG_16_2/1", IN_PROGRESS],
        );
        make(dir.path(), &[IN_PROGRESS_TEMPORARY, "000000010000000000000001", "archive_status/x"]);
        let all = walked(dir.path(), Scope::All, &["PG_16_2", "PG_15_1", "archive_status"]);
        let expected = ["000000010000000000000001", "PG_15_1", "PG_16_2", "a", "a/lost+found"];
        assert_eq!(all[..5], expected);
        assert_eq!(all.len(), 7, "{all:?}");
        assert_eq!(walked(dir.path(), Scope::Only(b"PG_15_1"), &[]), ["PG_15_1", "PG_15_1/1"]);
        let wal = ["000000010000000000000001", "archive_status", "archive_status/x"];
        assert_eq!(walked(dir.path(), Scope::Wal, &[]), wal);
    }

    /// What is mounted at `base` was written to, and never synced: a power cut left a control file beside
    /// blocks of two clusters.
    #[test]
    fn d2026_11_29_file_systems_below_a_place_are_synced_too() {
        let dir = tempfile::tempdir().unwrap();
        make(dir.path(), &["base/5/1", "global/1"]);
        let at = dir.path().join("base/5");
        let Some(_mounted) = Mounted::new(&["-t", "tmpfs", "tmpfs"], &at) else { return };
        let tree = Tree::open(Places::of(dir.path(), &[])).unwrap();
        meet_file_systems(&Ctx::fixed(Timestamp::UNIX_EPOCH, 1), &tree).unwrap();
        assert_eq!(tree.below.paths(), [at]);
        tree.sync().unwrap();
        let again = Tree::open_over(Places::of(dir.path(), &[]), tree.below.clone()).unwrap();
        drop(tree);
        again.sync().unwrap();
    }

    #[test]
    fn names_that_a_server_gives_to_wal() {
        for name in [
            "000000010000000000000001",
            "000000010000000000000001.partial",
            "000000010000000000000001.00000028.backup",
            "000000010000000000000001.deleted",
            "00000002.history",
            "xlogtemp.123",
            "RECOVERYXLOG",
            "summaries",
        ] {
            assert!(is_of_wal(name.as_bytes()), "{name}");
        }
        for name in
            ["backups", "00000001", "notes.history", "pgkeep", "000000010000000000000001.gz"]
        {
            assert!(!is_of_wal(name.as_bytes()), "{name}");
        }
    }
}
