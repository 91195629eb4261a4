//! The places that a restore fills, through handles of their directories.
//!
//! Root restores for another account, into directories that are given to it one by one. That account may
//! put a link where root writes, changes a mode or gives a file away next: so every directory on the way is
//! opened from the one above, and no link is followed.

use std::fs::File;
use std::io::ErrorKind;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{MetadataExt as _, fchown};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;

use super::error::{Error, Result};
use super::survey::Places;

/// Mode and owner of a file or directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Attributes {
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
}

impl Attributes {
    /// Those of a file that this process keeps to itself.
    pub(super) fn of_this_process() -> Self {
        let (uid, gid) = (rustix::process::geteuid(), rustix::process::getegid());
        Self { mode: 0o600, uid: uid.as_raw(), gid: gid.as_raw() }
    }
}

/// One place. Paths are relative to it; the empty one is the place itself.
#[derive(Debug)]
pub(super) struct Root {
    path: PathBuf,
    handle: Arc<OwnedFd>,
    /// The directory that was entered last: a table's rows come directory by directory.
    entered: Mutex<(Vec<u8>, Arc<OwnedFd>)>,
    /// Only root gives files away.
    gives: bool,
}

impl Root {
    fn open(path: &Path) -> Result<Self> {
        let handle = Arc::new(OwnedFd::from(File::open(path).map_err(Error::file("open", path))?));
        let entered = Mutex::new((Vec::new(), Arc::clone(&handle)));
        let gives = rustix::process::geteuid().is_root();
        Ok(Self { path: path.into(), handle, entered, gives })
    }

    fn failed(&self, action: &'static str, path: &[u8]) -> impl FnOnce(Errno) -> Error {
        let path = self.path_of(path);
        move |error| Error::file(action, path)(error.into())
    }

    fn path_of(&self, path: &[u8]) -> PathBuf {
        if path.is_empty() { self.path.clone() } else { self.path.join(name(path)) }
    }

    /// The directory that holds a name, reached without following a link, and the name.
    fn above<'p>(&self, path: &'p [u8]) -> Result<(Arc<OwnedFd>, &'p [u8])> {
        let Some(slash) = path.iter().rposition(|&byte| byte == b'/') else {
            return Ok((Arc::clone(&self.handle), path));
        };
        let (folder, last) = (path.get(..slash), path.get(slash + 1..));
        let (folder, last) = (folder.unwrap_or_default(), last.unwrap_or_default());
        let mut entered = self.entered.lock().expect("no holder of this lock panics");
        if entered.0 == folder {
            return Ok((Arc::clone(&entered.1), last));
        }
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let failed = || self.failed("open a directory of", path);
        let mut directory = Arc::clone(&self.handle);
        for part in folder.split(|&byte| byte == b'/') {
            let next = rustix::fs::openat(&directory, name(part), flags, Mode::empty());
            directory = Arc::new(next.map_err(failed())?);
        }
        *entered = (folder.to_vec(), Arc::clone(&directory));
        Ok((directory, last))
    }

    /// A handle of the place itself.
    fn own_handle(&self) -> Result<File> {
        let clone = self.handle.try_clone().map_err(Error::file("open", &self.path))?;
        Ok(File::from(clone))
    }

    /// Opens what is there for reading, whatever it is, but no link.
    pub(super) fn open_there(&self, path: &[u8]) -> Result<File> {
        if path.is_empty() {
            return self.own_handle();
        }
        let (directory, last) = self.above(path)?;
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let opened = rustix::fs::openat(&directory, name(last), flags, Mode::empty());
        Ok(File::from(opened.map_err(self.failed("open", path))?))
    }

    /// A new file with exactly this mode, whatever the umask.
    pub(super) fn create(&self, path: &[u8], attributes: Attributes) -> Result<File> {
        let (directory, last) = self.above(path)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let made = rustix::fs::openat(&directory, name(last), flags, Mode::from_raw_mode(0o600));
        let file = File::from(made.map_err(self.failed("create", path))?);
        self.own_open(&file, path, attributes)?;
        Ok(file)
    }

    /// Makes a directory; whether it was not there.
    pub(super) fn make_directory(&self, path: &[u8]) -> Result<bool> {
        let (directory, last) = self.above(path)?;
        match rustix::fs::mkdirat(&directory, name(last), Mode::from_raw_mode(0o700)) {
            Err(Errno::EXIST) => Ok(false),
            other => other.map(|()| true).map_err(self.failed("create", path)),
        }
    }

    /// Makes a link; whether nothing was there.
    pub(super) fn make_link(&self, path: &[u8], target: &Path) -> Result<bool> {
        let (directory, last) = self.above(path)?;
        match rustix::fs::symlinkat(target, &directory, name(last)) {
            Err(Errno::EXIST) => Ok(false),
            other => other.map(|()| true).map_err(self.failed("link", path)),
        }
    }

    /// Removes a file; absence is fine, also that of its directory.
    pub(super) fn remove(&self, path: &[u8]) -> Result<()> {
        let (directory, last) = match self.above(path) {
            Err(Error::File { source, .. }) if source.kind() == ErrorKind::NotFound => {
                return Ok(());
            }
            other => other?,
        };
        match rustix::fs::unlinkat(&directory, name(last), AtFlags::empty()) {
            Err(Errno::NOENT) => Ok(()),
            other => other.map_err(self.failed("remove", path)),
        }
    }

    /// Sets mode and owner of what is there and is no link.
    pub(super) fn own(&self, path: &[u8], attributes: Attributes) -> Result<()> {
        self.own_open(&self.open_there(path)?, path, attributes)
    }

    /// As [`Root::own`], of an open file; the path is for messages.
    fn own_open(
        &self,
        file: &File,
        path: &[u8],
        Attributes { mode, uid, gid }: Attributes,
    ) -> Result<()> {
        if self.gives {
            fchown(file, Some(uid), Some(gid))
                .map_err(Error::file("set the owner of", self.path_of(path)))?;
        }
        rustix::fs::fchmod(file, Mode::from_raw_mode(mode))
            .map_err(self.failed("set the mode of", path))
    }

    /// Gives a directory away as it is.
    pub(super) fn give(&self, path: &[u8], uid: u32, gid: u32) -> Result<()> {
        let there = self.open_there(path)?;
        let found = there.metadata().map_err(Error::file("stat", self.path_of(path)))?;
        self.own_open(&there, path, Attributes { mode: found.mode() & 0o7777, uid, gid })
    }
}

fn name(bytes: &[u8]) -> &Path {
    Path::new(std::ffi::OsStr::from_bytes(bytes))
}

/// All places of a restore: the paths of the backup's table, which go through the tablespaces' links, find
/// theirs. Opened before the first write: a write-back error is told to every handle that was open when it
/// happened, and to none that came later (Linux 5.8 and newer; older kernels tell nobody).
#[derive(Debug)]
pub(super) struct Tree {
    data: Root,
    /// By their links' paths.
    tablespaces: Vec<(Vec<u8>, Root)>,
    pub(super) configuration: Option<Root>,
}

impl Tree {
    pub(super) fn open(places: Places<'_>) -> Result<Self> {
        let tablespaces = places.tablespaces.iter().map(|(oid, _, location)| {
            Ok((format!("pg_tblspc/{oid}").into_bytes(), Root::open(location)?))
        });
        Ok(Self {
            data: Root::open(places.data)?,
            tablespaces: tablespaces.collect::<Result<_>>()?,
            configuration: places.configuration.map(Root::open).transpose()?,
        })
    }

    /// The place of a path, and the path there.
    pub(super) fn find<'p>(&self, path: &'p [u8]) -> (&Root, &'p [u8]) {
        let inside = self.tablespaces.iter().find_map(|(link, root)| {
            Some((root, path.strip_prefix(link.as_slice())?.strip_prefix(b"/")?))
        });
        inside.unwrap_or((&self.data, path))
    }

    /// A tablespace's own directory, by its link's path.
    pub(super) fn tablespace(&self, link: &[u8]) -> Option<&Root> {
        self.tablespaces.iter().find(|(path, _)| path == link).map(|(_, root)| root)
    }

    /// One call makes a whole file system durable: files, names, directories. The directory that holds the
    /// new one's name is on it too, or was synced when it was made.
    pub(super) fn sync(&self) -> Result<()> {
        let tablespaces = self.tablespaces.iter().map(|(_, root)| root);
        let all = std::iter::once(&self.data).chain(tablespaces).chain(&self.configuration);
        for root in all {
            rustix::fs::syncfs(&root.handle).map_err(root.failed("sync", b""))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write as _;
    use std::os::unix::fs::symlink;

    use super::*;

    /// Root gave a directory away, and then made files, set modes and gave files away below it by their
    /// paths: through a link that the new owner had put there, anywhere.
    #[test]
    fn d20261124_no_link_is_followed_below_a_place() {
        let dir = tempfile::tempdir().unwrap();
        let (data, elsewhere) = (dir.path().join("data"), dir.path().join("elsewhere"));
        for path in [&data, &elsewhere] {
            fs::create_dir(path).unwrap();
        }
        File::create(elsewhere.join("mine")).unwrap().write_all(b"mine").unwrap();
        symlink(&elsewhere, data.join("base")).unwrap();
        symlink(elsewhere.join("mine"), data.join("file")).unwrap();
        let places = Places { data: &data, tablespaces: &[], configuration: None };
        let tree = Tree::open(places).unwrap();
        let (root, _) = tree.find(b"base/1");
        let attributes = Attributes { mode: 0o777, uid: 65534, gid: 65534 };
        root.create(b"base/1", attributes).unwrap_err();
        root.create(b"file", attributes).unwrap_err();
        root.make_directory(b"base/2").unwrap_err();
        root.make_link(b"base/3", Path::new("/")).unwrap_err();
        root.remove(b"base/mine").unwrap_err();
        root.remove(b"gone/too").unwrap();
        for path in [&b"base"[..], b"base/mine", b"file"] {
            root.own(path, attributes).unwrap_err();
        }
        let found = fs::metadata(elsewhere.join("mine")).unwrap();
        assert_eq!((found.mode() & 0o111, fs::read_dir(&elsewhere).unwrap().count()), (0, 1));
        assert_ne!(found.uid(), 65534);
        // The place itself stays the one that was opened.
        let aside = dir.path().join("aside");
        #[allow(clippy::disallowed_methods, reason = "nothing here is to last")]
        fs::rename(&data, &aside).unwrap();
        symlink(&elsewhere, &data).unwrap();
        drop(root.create(b"new", attributes).unwrap());
        assert!(aside.join("new").exists() && !elsewhere.join("new").exists());
    }

    #[test]
    fn files_go_to_their_own_directories_in_any_order() {
        let dir = tempfile::tempdir().unwrap();
        let places = Places { data: dir.path(), tablespaces: &[], configuration: None };
        let tree = Tree::open(places).unwrap();
        let (root, own) = (&tree.data, Attributes::of_this_process());
        for folder in ["a", "a/b", "c"] {
            assert!(root.make_directory(folder.as_bytes()).unwrap());
            assert!(!root.make_directory(folder.as_bytes()).unwrap());
        }
        for path in ["a/1", "a/2", "a/b/1", "c/1", "a/3", "1", "a/b/2"] {
            drop(root.create(path.as_bytes(), own).unwrap());
            assert!(dir.path().join(path).is_file(), "{path}");
        }
        root.remove(b"a/b/1").unwrap();
        assert!(!dir.path().join("a/b/1").exists() && dir.path().join("a/1").exists());
    }

    #[test]
    fn paths_of_a_tablespace_go_to_its_place() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        for name in ["data", "one"] {
            fs::create_dir(at(name)).unwrap();
        }
        let tablespaces = [(164, "/old".to_owned(), at("one"))];
        let data = at("data");
        let places = Places { data: &data, tablespaces: &tablespaces, configuration: None };
        let tree = Tree::open(places).unwrap();
        for (path, place, rest) in [
            ("pg_tblspc/164/PG_15/1", "one", "PG_15/1"),
            ("pg_tblspc/164", "data", "pg_tblspc/164"),
            ("pg_tblspc/1640/x", "data", "pg_tblspc/1640/x"),
            ("", "data", ""),
        ] {
            let (root, found) = tree.find(path.as_bytes());
            assert_eq!((&root.path, found), (&at(place), rest.as_bytes()), "{path}");
        }
    }
}
