//! The places that a restore fills, through handles of their directories.
//!
//! Root restores for another account, into directories that are given to it one by one. That account may
//! put a link where root writes, changes a mode or gives a file away next: so every directory on the way is
//! opened from the one above, and no link is followed.

use std::fs::File;
use std::io::ErrorKind;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{MetadataExt as _, fchown};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use rustix::fs::{AtFlags, Dir, Mode, OFlags};
use rustix::io::Errno;

use super::error::{Error, Result};
use super::mounts::{FileSystems, device_of, look};
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
    device: u64,
    /// Other file systems, below all places.
    below: FileSystems,
    /// The directory that was entered last: a table's rows come directory by directory.
    entered: Mutex<(Vec<u8>, Arc<OwnedFd>)>,
    /// Only root gives files away.
    gives: bool,
}

impl Root {
    fn open(path: &Path, below: &FileSystems) -> Result<Self> {
        let handle = Arc::new(OwnedFd::from(File::open(path).map_err(Error::file("open", path))?));
        let looked = |error: Errno| Error::file("look at", path)(error.into());
        let device = device_of(&*handle).map_err(looked)?;
        let entered = Mutex::new((Vec::new(), Arc::clone(&handle)));
        let gives = rustix::process::geteuid().is_root();
        Ok(Self { path: path.into(), handle, device, below: below.clone(), entered, gives })
    }

    fn failed(&self, action: &'static str, path: &[u8]) -> impl FnOnce(Errno) -> Error {
        let path = self.path_of(path);
        move |error| Error::file(action, path)(error.into())
    }

    pub(super) fn path_of(&self, path: &[u8]) -> PathBuf {
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

    /// The device that a directory here is on, which is noted where it is another one than the place's.
    pub(super) fn device_of(&self, directory: &OwnedFd, path: &[u8]) -> Result<u64> {
        let device = device_of(directory).map_err(self.failed("look at", path))?;
        if device != self.device {
            self.below.note(device, directory, &self.path_of(path))?;
        }
        Ok(device)
    }

    /// Whether what is mounted here cannot be written to.
    pub(super) fn is_read_only(&self, path: &[u8]) -> Result<bool> {
        let found = rustix::fs::fstatvfs(self.open_there(path)?);
        let flags = found.map_err(self.failed("look at", path))?.f_flag;
        Ok(flags.contains(rustix::fs::StatVfsMountFlags::RDONLY))
    }

    /// Notes the file system that a mounted file is on.
    pub(super) fn note_file(&self, path: &[u8]) -> Result<()> {
        let file = OwnedFd::from(self.open_there(path)?);
        let device = device_of(&file).map_err(self.failed("look at", path))?;
        self.below.note(device, &file, &self.path_of(path))
    }

    /// Forgets the directory that was entered last: it may be about to go.
    fn leave(&self) {
        let mut entered = self.entered.lock().expect("no holder of this lock panics");
        *entered = (Vec::new(), Arc::clone(&self.handle));
    }

    /// Opens a directory to look what is in it, reached without following a link.
    pub(super) fn open_directory(&self, path: &[u8]) -> Result<OwnedFd> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let opened = if path.is_empty() {
            rustix::fs::openat(&self.handle, ".", flags, Mode::empty())
        } else {
            let (directory, last) = self.above(path)?;
            rustix::fs::openat(&directory, name(last), flags, Mode::empty())
        };
        opened.map_err(self.failed("list", path))
    }

    /// Opens a file to write into it; its length. Nothing for what is no regular file of its own: a link, a file
    /// with another name elsewhere, one that this account may not write.
    pub(super) fn open_to_write(
        &self,
        path: &[u8],
        attributes: Attributes,
    ) -> Result<Option<(File, u64)>> {
        let (directory, last) = match self.above(path) {
            Err(Error::File { source, .. }) if source.kind() == ErrorKind::NotFound => {
                return Ok(None);
            }
            other => other?,
        };
        let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = match rustix::fs::openat(&directory, name(last), flags, Mode::empty()) {
            Ok(opened) => File::from(opened),
            Err(
                Errno::NOENT
                | Errno::LOOP
                | Errno::ISDIR
                | Errno::ACCESS
                | Errno::PERM
                | Errno::NXIO
                | Errno::NODEV,
            ) => return Ok(None),
            Err(error) => return Err(self.failed("open", path)(error)),
        };
        let found = file.metadata().map_err(Error::file("stat", self.path_of(path)))?;
        if !found.is_file() || found.nlink() != 1 {
            return Ok(None);
        }
        self.own_open(&file, path, attributes)?;
        Ok(Some((file, found.len())))
    }

    /// Gives a file another name; whether it was there.
    #[allow(clippy::disallowed_methods, reason = "whoever calls it syncs")]
    pub(super) fn rename(&self, from: &[u8], to: &[u8]) -> Result<bool> {
        let (from_directory, from_name) = match self.above(from) {
            Err(Error::File { source, .. }) if source.kind() == ErrorKind::NotFound => {
                return Ok(false);
            }
            other => other?,
        };
        let (to_directory, to_name) = self.above(to)?;
        let (from_name, to_name) = (name(from_name), name(to_name));
        match rustix::fs::renameat(&from_directory, from_name, &to_directory, to_name) {
            Err(Errno::NOENT) => Ok(false),
            other => other.map(|()| true).map_err(self.failed("rename", from)),
        }
    }

    /// Makes the names in a directory durable; a directory that is not there has none.
    pub(super) fn sync_directory(&self, path: &[u8]) -> Result<()> {
        match self.open_directory(path) {
            Err(Error::File { source, .. }) if source.kind() == ErrorKind::NotFound => Ok(()),
            other => rustix::fs::fsync(other?).map_err(self.failed("sync", path)),
        }
    }

    /// Removes what is there with all that is in it, through handles, following no link and entering no other
    /// file system; how much that was.
    pub(super) fn remove_all(&self, path: &[u8]) -> Result<u64> {
        self.leave();
        let (directory, last) = self.above(path)?;
        let failed = |(inside, error): (Vec<u8>, Errno)| {
            let inside = [path, &inside].concat();
            match error {
                Errno::XDEV | Errno::BUSY => {
                    Error::Occupied { path: self.path_of(&inside), why: MOUNTED.into() }
                }
                error => self.failed("remove", &inside)(error),
            }
        };
        let device = device_of(&*directory).map_err(self.failed("look at", path))?;
        remove_below(&directory, device, last).map_err(failed)
    }

    /// Where a link leads; nothing where there is none.
    pub(super) fn link_target(&self, path: &[u8]) -> Result<Option<PathBuf>> {
        let (directory, last) = self.above(path)?;
        match rustix::fs::readlinkat(&directory, name(last), Vec::new()) {
            Ok(target) => Ok(Some(name(target.as_bytes()).to_owned())),
            Err(Errno::INVAL | Errno::NOENT) => Ok(None),
            Err(error) => Err(self.failed("read the link", path)(error)),
        }
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
        let found = file.metadata().map_err(Error::file("stat", self.path_of(path)))?;
        let is_given = self.gives && (found.uid(), found.gid()) != (uid, gid);
        if is_given {
            fchown(file, Some(uid), Some(gid))
                .map_err(Error::file("set the owner of", self.path_of(path)))?;
        }
        // What stays as it is keeps its change time, by which the next backup knows that it need not be read.
        // Giving a file away may take bits of its mode.
        if !is_given && found.mode() & 0o7777 == mode {
            return Ok(());
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

/// Why something is not written to.
pub(super) const READ_ONLY: &str =
    "is mounted read-only, and is in the backup: mount it to be written to, or unmount it, first";

/// Why something is not removed.
pub(super) const MOUNTED: &str = "is a mount point, or a subvolume, and would have to be removed: unmount it, or move \
                                  it away, first";

/// Removes a name in a directory on a device, and what is below it, and counts; what could not be removed, below
/// that name.
fn remove_below(
    directory: &impl AsFd,
    device: u64,
    last: &[u8],
) -> std::result::Result<u64, (Vec<u8>, Errno)> {
    let here = |error| (Vec::new(), error);
    match rustix::fs::unlinkat(directory, name(last), AtFlags::empty()) {
        Ok(()) => return Ok(1),
        Err(Errno::NOENT) => return Ok(0),
        // Where POSIX says EPERM, Linux says EISDIR.
        Err(Errno::ISDIR) => {}
        Err(error) => return Err(here(error)),
    }
    if look(directory, device, last).map_err(here)?.is_mount {
        return Err(here(Errno::XDEV));
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let opened = rustix::fs::openat(directory, name(last), flags, Mode::empty()).map_err(here)?;
    if device_of(&opened).map_err(here)? != device {
        return Err(here(Errno::XDEV));
    }
    let mut count = 1;
    for child in names_in(&opened).map_err(here)? {
        count += remove_below(&opened, device, &child)
            .map_err(|(inside, error)| ([&b"/"[..], &child, &inside].concat(), error))?;
    }
    match rustix::fs::unlinkat(directory, name(last), AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => Ok(count),
        Err(error) => Err(here(error)),
    }
}

/// The names in an open directory.
pub(super) fn names_in(directory: &impl AsFd) -> std::result::Result<Vec<Vec<u8>>, Errno> {
    let mut names = Vec::new();
    for entry in Dir::read_from(directory)? {
        let found = entry?.file_name().to_bytes().to_vec();
        if found != b"." && found != b".." {
            names.push(found);
        }
    }
    Ok(names)
}

pub(super) fn name(bytes: &[u8]) -> &Path {
    Path::new(std::ffi::OsStr::from_bytes(bytes))
}

/// All places of a restore: the paths of the backup's table, which go through the tablespaces' links, find
/// theirs. Opened before the first write: a write-back error is told to every handle that was open when it
/// happened, and to none that came later (Linux 5.8 and newer; older kernels tell nobody).
#[derive(Debug)]
pub(super) struct Tree {
    data: Root,
    /// Those behind a link in the data directory, by its path: tablespaces, and WAL that lies elsewhere.
    behind: Vec<(Vec<u8>, Root)>,
    pub(super) configuration: Option<Root>,
    /// Other file systems that begin in them.
    pub(super) below: FileSystems,
}

impl Tree {
    #[cfg(test)]
    pub(super) fn open(places: Places<'_>) -> Result<Self> {
        Self::open_over(places, FileSystems::default())
    }

    /// All of it, where a walk has met these other file systems.
    pub(super) fn open_over(places: Places<'_>, below: FileSystems) -> Result<Self> {
        Self::open_those(places, below, |_| true)
    }

    /// As [`Tree::open_over`], of the places that are there already.
    pub(super) fn open_what_is_there(places: Places<'_>) -> Result<Self> {
        let places = Places { configuration: None, ..places };
        Self::open_those(places, FileSystems::default(), |place| place.symlink_metadata().is_ok())
    }

    fn open_those(
        places: Places<'_>,
        below: FileSystems,
        is_wanted: impl Fn(&Path) -> bool,
    ) -> Result<Self> {
        let tablespaces = places.tablespaces.iter();
        let tablespaces = tablespaces
            .map(|(oid, _, location)| (format!("pg_tblspc/{oid}").into_bytes(), &**location));
        let wal = places.wal.map(|wal| (b"pg_wal".to_vec(), wal));
        let behind = tablespaces.chain(wal).filter(|(_, place)| is_wanted(place));
        Ok(Self {
            data: Root::open(places.data, &below)?,
            behind: behind
                .map(|(link, place)| Ok((link, Root::open(place, &below)?)))
                .collect::<Result<_>>()?,
            configuration: places
                .configuration
                .map(|place| Root::open(place, &below))
                .transpose()?,
            below,
        })
    }

    /// The data directory, and what lies behind links in it, by their paths.
    pub(super) fn roots(&self) -> impl Iterator<Item = (&[u8], &Root)> {
        let behind = self.behind.iter().map(|(link, root)| (link.as_slice(), root));
        std::iter::once((&b""[..], &self.data)).chain(behind)
    }

    /// The place of a path, and the path there.
    pub(super) fn find<'p>(&self, path: &'p [u8]) -> (&Root, &'p [u8]) {
        let inside = self.behind.iter().find_map(|(link, root)| {
            Some((root, path.strip_prefix(link.as_slice())?.strip_prefix(b"/")?))
        });
        inside.unwrap_or((&self.data, path))
    }

    /// The directory behind a link, by the link's path.
    pub(super) fn linked(&self, link: &[u8]) -> Option<&Root> {
        self.behind.iter().find(|(path, _)| path == link).map(|(_, root)| root)
    }

    /// One call makes a whole file system durable: files, names, directories. The directory that holds the
    /// new one's name is on it too, or was synced when it was made. Those that begin below the places are synced
    /// where a walk has met them.
    pub(super) fn sync(&self) -> Result<()> {
        let all = self.roots().map(|(_, root)| root).chain(&self.configuration);
        for root in all {
            rustix::fs::syncfs(&root.handle).map_err(root.failed("sync", b""))?;
        }
        self.below.sync()
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write as _;
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::restore::mounts::tests::Mounted;

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
        let places = Places::of(&data, &[]);
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
        let places = Places::of(dir.path(), &[]);
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

    /// What was on another file system than its directory went with that directory where the kernel had no bit
    /// for mounts, or none for this one.
    #[test]
    fn d2026_11_29_nothing_on_another_file_system_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let at = |path: &str| dir.path().join(path);
        fs::create_dir_all(at("stray/deep/er")).unwrap();
        let Some(_mounted) = Mounted::new(&["-t", "tmpfs", "tmpfs"], &at("stray/deep")) else {
            return;
        };
        File::create(at("stray/deep/precious")).unwrap();
        let tree = Tree::open(Places::of(dir.path(), &[])).unwrap();
        let refused = tree.data.remove_all(b"stray").unwrap_err().to_string();
        assert!(refused.contains("stray/deep is a mount point"), "{refused}");
        assert!(at("stray/deep/precious").exists());
        // Told by the device alone.
        let here = File::open(at("stray")).unwrap();
        let device = device_of(&here).unwrap();
        let refused = remove_below(&here, device + 1, b"deep").unwrap_err();
        assert_eq!(refused, (Vec::new(), Errno::XDEV));
        assert!(at("stray/deep/precious").exists());
    }

    /// A file that is mounted read-only ended each restore over the directory, once the control file was gone; one
    /// that is written to was not made durable.
    #[test]
    fn d2026_11_29_a_mounted_file_is_looked_at_and_made_durable() {
        let dir = tempfile::tempdir().unwrap();
        let at = |path: &str| dir.path().join(path);
        fs::create_dir_all(at("data/base")).unwrap();
        fs::create_dir_all(at("other")).unwrap();
        let Some(_other) = Mounted::new(&["-t", "tmpfs", "tmpfs"], &at("other")) else { return };
        for file in ["other/settings", "data/settings", "data/base/1"] {
            File::create(at(file)).unwrap();
        }
        let settings = at("other/settings").display().to_string();
        let Some(_file) = Mounted::new(&["--bind", &settings], &at("data/settings")) else {
            return;
        };
        let tree = Tree::open(Places::of(&at("data"), &[])).unwrap();
        assert!(!tree.data.is_read_only(b"settings").unwrap());
        tree.data.note_file(b"settings").unwrap();
        assert_eq!(tree.below.paths(), [at("data/settings")]);
        tree.sync().unwrap();
        let options = ["-o", "remount,bind,ro"];
        let Some(_read_only) = Mounted::new(&options, &at("data/settings")) else { return };
        assert!(tree.data.is_read_only(b"settings").unwrap());
        assert!(!tree.data.is_read_only(b"base/1").unwrap());
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
        let places = Places::of(&data, &tablespaces);
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
