//! The walk of the data directory, in the byte order of full paths, one directory in memory at a
//! time. What vanishes meanwhile is normal.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs::{self, FileType, Metadata};
use std::io;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::error::{Error, Result};
use crate::base::{Ctx, path_order};
use crate::pg::layout::is_unlogged_data;
use crate::pg::{EntryKind, Fork, Layout, RelationFile, Rule, relation};

/// How long a link without its tablespace may be one that DROP TABLESPACE is about to remove.
const DROP_TRIES: u32 = 20;
const DROP_PAUSE: Duration = Duration::from_millis(50);

/// One thing that the walk found.
#[derive(Debug)]
pub(super) struct Entry {
    /// Relative to the data directory; empty for the directory itself.
    pub(super) path: Vec<u8>,
    /// Where it is read.
    pub(super) source: PathBuf,
    pub(super) what: Found,
    pub(super) metadata: Metadata,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found {
    Directory,
    File,
    /// `global/pg_control`: copied after everything else.
    ControlFile,
    /// A tablespace's link and where it leads.
    Tablespace {
        oid: u32,
        location: Vec<u8>,
    },
}

/// Walks a data directory and hands each entry to `visit`.
pub(super) fn walk(
    ctx: &Ctx,
    data_directory: &Path,
    layout: &Layout,
    visit: &mut dyn FnMut(Entry) -> Result<()>,
) -> Result<()> {
    let real = data_directory.canonicalize().map_err(Error::file("open", data_directory))?;
    let mut walk = Walk { ctx, layout, real: &real, visit };
    let metadata = fs::metadata(&real).map_err(Error::file("stat", &real))?;
    (walk.visit)(Entry {
        path: Vec::new(),
        source: real.clone(),
        what: Found::Directory,
        metadata,
    })?;
    walk.directory(b"", &real)
}

struct Walk<'a> {
    ctx: &'a Ctx,
    layout: &'a Layout,
    /// The data directory without links in its path.
    real: &'a Path,
    visit: &'a mut dyn FnMut(Entry) -> Result<()>,
}

struct Child {
    name: Vec<u8>,
    kind: EntryKind,
}

/// What is to be walked below an entry, later in the order.
enum Inside {
    Directory(PathBuf),
    WalDirectories(PathBuf),
}

impl Walk<'_> {
    fn directory(&mut self, path: &[u8], source: &Path) -> Result<()> {
        self.ctx.cancel.check()?;
        let Some(mut children) = list(source)? else { return Ok(()) };
        add_replaced(path, source, &mut children);
        let init_forks = init_forks(path, &children);
        let mut inside: Vec<Option<Inside>> = children.iter().map(|_| None).collect();
        let order = path_order(children.iter().map(|child| {
            let may_hold = matches!(child.kind, EntryKind::Directory | EntryKind::Symlink);
            (child.name.as_slice(), may_hold)
        }));
        for (i, is_inside) in order {
            let (Some(child), Some(below)) = (children.get(i), inside.get_mut(i)) else { continue };
            let mut child_path = path.to_vec();
            if !path.is_empty() {
                child_path.push(b'/');
            }
            child_path.extend_from_slice(&child.name);
            if is_inside {
                if let Some(below) = below.take() {
                    self.inside(&child_path, below)?;
                }
                continue;
            }
            let is_unlogged = !init_forks.is_empty()
                && RelationFile::parse(&child_path)
                    .is_some_and(|file| is_unlogged_data(&file, &init_forks));
            if !is_unlogged {
                let child_source = source.join(OsStr::from_bytes(&child.name));
                *below = self.child(child_path, child_source, child.kind)?;
            }
        }
        Ok(())
    }

    fn inside(&mut self, path: &[u8], below: Inside) -> Result<()> {
        match below {
            Inside::Directory(source) => self.directory(path, &source),
            Inside::WalDirectories(source) => self.wal_directories(&source),
        }
    }

    fn child(&mut self, path: Vec<u8>, source: PathBuf, kind: EntryKind) -> Result<Option<Inside>> {
        match self.layout.classify(&path, kind) {
            Rule::Skip(_) => Ok(None),
            Rule::Copy if kind == EntryKind::Directory => {
                let there = self.emit(path, &source, Found::Directory)?;
                Ok(there.then_some(Inside::Directory(source)))
            }
            Rule::Copy => self.emit(path, &source, Found::File).map(|_| None),
            Rule::CopyLast => self.emit(path, &source, Found::ControlFile).map(|_| None),
            Rule::DirectoryEmpty(_) => {
                let is_wal = path == b"pg_wal";
                let there = self.emit(path, &source, Found::Directory)?;
                Ok((there && is_wal).then_some(Inside::WalDirectories(source)))
            }
            Rule::Tablespace { oid } => self.tablespace(path, &source, oid),
            Rule::StrayLink => self.stray_link(path, source).map(|()| None),
        }
    }

    /// Emits an entry with what stat says of it, links followed; `false` when it has vanished.
    fn emit(&mut self, path: Vec<u8>, source: &Path, what: Found) -> Result<bool> {
        match fs::metadata(source) {
            Ok(metadata) => {
                (self.visit)(Entry { path, source: source.into(), what, metadata })?;
                Ok(true)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(Error::file("stat", source)(error)),
        }
    }

    /// Of `pg_wal` some directories inside are made, empty.
    fn wal_directories(&mut self, source: &Path) -> Result<()> {
        for directory in self.layout.wal_directories() {
            let metadata = fs::metadata(source).map_err(Error::file("stat", source))?;
            (self.visit)(Entry {
                path: directory.as_bytes().to_vec(),
                source: source.into(),
                what: Found::Directory,
                metadata,
            })?;
        }
        Ok(())
    }

    fn tablespace(&mut self, path: Vec<u8>, source: &Path, oid: u32) -> Result<Option<Inside>> {
        let location = match fs::read_link(source) {
            Ok(location) => location,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Error::file("read the link", source)(error)),
        };
        let real = match source.canonicalize() {
            Ok(real) => real,
            // Dropped since the link was read, or dangling: nothing is behind it.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Error::file("follow the link", source)(error)),
        };
        if real.starts_with(self.real) {
            return Err(Error::TablespaceInside { oid, location });
        }
        // CREATE TABLESPACE makes this directory before the link: without it, the file system that
        // belongs here is not mounted, and its tables would silently be missing from the backup.
        let version = real.join(self.layout.version_directory());
        if !self.is_mounted(&version, source)? {
            return Err(Error::Refused {
                what: format!("tablespace {oid}: {} is missing: not mounted?", version.display()),
            });
        }
        let what = Found::Tablespace { oid, location: location.into_os_string().into_vec() };
        let there = self.emit(path, source, what)?;
        Ok(there.then_some(Inside::Directory(real)))
    }

    /// Whether a tablespace's directory is there, or its link is gone. DROP TABLESPACE removes the
    /// directory just before the link, so between the two it gets a moment.
    fn is_mounted(&self, version: &Path, link: &Path) -> Result<bool> {
        for _ in 0..DROP_TRIES {
            self.ctx.cancel.check()?;
            if version.is_dir() || link.symlink_metadata().is_err() {
                return Ok(true);
            }
            self.ctx.clock.sleep(DROP_PAUSE);
        }
        Ok(false)
    }

    /// The content of a file behind a link is stored in its place; a directory is refused.
    fn stray_link(&mut self, path: Vec<u8>, source: PathBuf) -> Result<()> {
        match fs::metadata(&source) {
            Ok(metadata) if metadata.is_file() => self.emit(path, &source, Found::File).map(drop),
            Ok(metadata) if metadata.is_dir() => Err(Error::StrayLink { path: source }),
            Ok(_) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => self.dangling(&path, &source),
            Err(error) => Err(Error::file("stat", source)(error)),
        }
    }

    /// A link that leads nowhere, unless it has just been removed. Where PostgreSQL keeps its data, what
    /// should be behind it is somebody's table.
    fn dangling(&self, path: &[u8], source: &Path) -> Result<()> {
        if source.symlink_metadata().is_err() {
            return Ok(());
        }
        let shown = source.display();
        let top = path.split(|byte| *byte == b'/').next().unwrap_or_default();
        if DATA.contains(&top) && top != path {
            let what = format!("{shown} is a link to a file that is not there: not mounted?");
            return Err(Error::Refused { what });
        }
        self.ctx.warn(format!("{shown} is a link that leads nowhere: it is not copied"));
        Ok(())
    }
}

/// Directories in which every file is the server's, and needed.
const DATA: [&[u8]; 8] = [
    b"base",
    b"global",
    b"pg_commit_ts",
    b"pg_logical",
    b"pg_multixact",
    b"pg_tblspc",
    b"pg_twophase",
    b"pg_xact",
];

/// A file that the server replaces by a rename, in the directory of this path.
fn replaced_by_rename(directory: &[u8]) -> Option<&'static [u8]> {
    match directory {
        b"" => Some(b"postgresql.auto.conf"),
        b"pg_logical" => Some(b"replorigin_checkpoint"),
        _ => relation::database_directory(directory).map(|_| &b"pg_filenode.map"[..]),
    }
}

/// Adds the file that a rename took out of the listing, if it is there: some file systems give it a
/// new place among the entries, behind the reader or beyond what the reader will see.
fn add_replaced(path: &[u8], source: &Path, children: &mut Vec<Child>) {
    let Some(name) = replaced_by_rename(path) else { return };
    let Err(at) = children.binary_search_by(|child| child.name.as_slice().cmp(name)) else {
        return;
    };
    let found = source.join(OsStr::from_bytes(name)).symlink_metadata();
    if found.is_ok_and(|found| found.is_file()) {
        children.insert(at, Child { name: name.to_vec(), kind: EntryKind::File });
    }
}

/// The entries of a directory; `None` when it has vanished.
fn list(directory: &Path) -> Result<Option<Vec<Child>>> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Error::file("list", directory)(error)),
    };
    let mut children = Vec::new();
    for entry in entries {
        let entry = entry.map_err(Error::file("list", directory))?;
        let kind = match entry.file_type() {
            Ok(file_type) => kind_of(file_type),
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(Error::file("stat", entry.path())(error)),
        };
        children.push(Child { name: entry.file_name().into_vec(), kind });
    }
    // A file that is renamed over during the reading of its directory can be listed twice.
    children.sort_by(|a, b| a.name.cmp(&b.name));
    children.dedup_by(|a, b| a.name == b.name);
    Ok(Some(children))
}

fn kind_of(file_type: FileType) -> EntryKind {
    if file_type.is_file() {
        EntryKind::File
    } else if file_type.is_dir() {
        EntryKind::Directory
    } else if file_type.is_symlink() {
        EntryKind::Symlink
    } else {
        EntryKind::Other
    }
}

/// Numbers of the relations in this directory that have an init fork: those are unlogged.
fn init_forks(directory: &[u8], children: &[Child]) -> HashSet<u32> {
    let mut numbers = HashSet::new();
    for child in children.iter().filter(|child| child.name.ends_with(b"_init")) {
        let path = [directory, b"/", &child.name].concat();
        if let Some(file) = RelationFile::parse(&path)
            && file.fork == Fork::Init
        {
            numbers.insert(file.number);
        }
    }
    numbers
}

/// Whether a file that has been copied turned out to be an unlogged relation's: its init fork was not
/// there yet when the directory was listed, because the relation was just being made. WAL makes the
/// init fork in a copy, and at the end of recovery the server insists on making the data from it: with
/// the data there already it would not start (`copy_file` creates with `O_EXCL`).
pub(super) fn became_unlogged(path: &[u8], source: &Path) -> Result<bool> {
    let Some(file) = RelationFile::parse(path) else { return Ok(false) };
    let init = source.with_file_name(format!("{}_init", file.number));
    match init.symlink_metadata() {
        Ok(_) => Ok(is_unlogged_data(&file, &HashSet::from([file.number]))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(Error::file("stat", init)(error)),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::base::{Clock, Timestamp};
    use crate::pg::MajorVersion;

    fn walked(files: &[&str]) -> Vec<String> {
        let dir = tempfile::tempdir().unwrap();
        for file in files {
            let path = dir.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::File::create(path).unwrap();
        }
        let ctx = Ctx::fixed(Timestamp::UNIX_EPOCH, 1);
        let layout = Layout::new(MajorVersion::V15, 202_209_061);
        let mut paths = Vec::new();
        walk(&ctx, dir.path(), &layout, &mut |entry| {
            paths.push(String::from_utf8(entry.path).unwrap());
            Ok(())
        })
        .unwrap();
        paths
    }

    #[test]
    fn paths_come_in_byte_order_whatever_the_names() {
        let paths = walked(&[
            "log/a",
            "log.1",
            "log-2/x",
            "log0",
            "log/a.b/c",
            "base/5/1259",
            "base/5-old/x",
            "base/5.1",
            "pg_wal/000000010000000000000001",
            "pg_wal-x",
            "pg_wal.y",
            "PG_VERSION",
            "global/pg_control",
        ]);
        assert!(paths.is_sorted_by(|a, b| a.as_bytes() < b.as_bytes()), "{paths:#?}");
        for path in ["", "log", "log.1", "log/a", "pg_wal", "pg_wal/archive_status", "base/5/1259"]
        {
            assert!(paths.iter().any(|found| found == path), "{path} in {paths:?}");
        }
        assert!(!paths.iter().any(|path| path.ends_with("0001")), "WAL is not copied");
    }

    #[test]
    fn f056_a_file_that_is_replaced_during_the_listing_is_not_lost() {
        let dir = tempfile::tempdir().unwrap();
        for path in ["", "base/5", "global", "pg_logical", "pg_tblspc/9/PG_15_202209061/5", "other"]
        {
            let source = dir.path().join(path);
            fs::create_dir_all(&source).unwrap();
            let mut children = vec![Child { name: b"PG_VERSION".to_vec(), kind: EntryKind::File }];
            add_replaced(path.as_bytes(), &source, &mut children);
            assert_eq!(children.len(), 1, "{path}: it is not there");
            let Some(name) = replaced_by_rename(path.as_bytes()) else {
                assert_eq!(path, "other");
                continue;
            };
            fs::File::create(source.join(OsStr::from_bytes(name))).unwrap();
            for _ in 0..2 {
                add_replaced(path.as_bytes(), &source, &mut children);
                assert_eq!(children.len(), 2, "{path}");
                assert!(children.is_sorted_by(|a, b| a.name < b.name), "{path}");
            }
        }
    }

    /// A table's file that had been moved to another disk, which was not mounted: its link led nowhere,
    /// and the backup was complete without the table.
    #[test]
    fn d20261120_a_table_behind_a_dangling_link_is_not_left_out() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("base/5")).unwrap();
        std::os::unix::fs::symlink("/nowhere/x", dir.path().join("postgresql.old")).unwrap();
        let ctx = Ctx::fixed(Timestamp::UNIX_EPOCH, 1);
        let layout = Layout::new(MajorVersion::V15, 202_209_061);
        walk(&ctx, dir.path(), &layout, &mut |_| Ok(())).unwrap();
        std::os::unix::fs::symlink("/nowhere/16384", dir.path().join("base/5/16384")).unwrap();
        let refused = walk(&ctx, dir.path(), &layout, &mut |_| Ok(())).unwrap_err();
        assert!(refused.to_string().contains("not mounted"), "{refused}");
    }

    #[test]
    fn f058_a_tablespace_inside_the_data_directory_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("pg_tblspc")).unwrap();
        fs::create_dir_all(dir.path().join("inside")).unwrap();
        let link = dir.path().join("pg_tblspc/16384");
        std::os::unix::fs::symlink(dir.path().join("inside"), link).unwrap();
        let ctx = Ctx::fixed(Timestamp::UNIX_EPOCH, 1);
        let layout = Layout::new(MajorVersion::V15, 202_209_061);
        let walked = walk(&ctx, dir.path(), &layout, &mut |_| Ok(()));
        assert!(matches!(walked, Err(Error::TablespaceInside { oid: 16384, .. })), "{walked:?}");
    }

    /// A clock during whose first nap DROP TABLESPACE does its last step.
    #[derive(Debug)]
    struct Dropping(PathBuf);

    impl Clock for Dropping {
        fn now(&self) -> Timestamp {
            Timestamp::UNIX_EPOCH
        }
        fn monotonic(&self) -> Duration {
            Duration::ZERO
        }
        fn sleep(&self, _: Duration) {
            fs::remove_file(&self.0).ok();
        }
    }

    /// DROP TABLESPACE removes the directory, then the link; a walk between the two took the link for
    /// a file system that is not mounted, and refused the backup.
    #[test]
    fn d20261120_a_tablespace_that_is_being_dropped_is_not_a_missing_mount() {
        let dir = tempfile::tempdir().unwrap();
        let elsewhere = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("pg_tblspc")).unwrap();
        let link = dir.path().join("pg_tblspc/16384");
        std::os::unix::fs::symlink(elsewhere.path(), &link).unwrap();
        let layout = Layout::new(MajorVersion::V15, 202_209_061);
        let mut ctx = Ctx::fixed(Timestamp::UNIX_EPOCH, 1);
        let stays = walk(&ctx, dir.path(), &layout, &mut |_| Ok(()));
        assert!(matches!(stays, Err(Error::Refused { .. })), "{stays:?}");
        ctx.clock = Arc::new(Dropping(link));
        walk(&ctx, dir.path(), &layout, &mut |entry| {
            assert_ne!(entry.path, b"pg_tblspc/16384");
            Ok(())
        })
        .unwrap();
    }
}
