//! A file that is being fetched: beside its destination, under a name that nobody takes for a segment's.

use std::fs::File;
use std::io::{self, Seek as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, linkat, open};

use super::error::{Error, Result};
use crate::base::durable;

/// A file on its way. It has no name where the file system allows that; else one beside the destination,
/// which is removed unless the file gets its own.
#[derive(Debug)]
pub struct Temporary {
    destination: PathBuf,
    file: File,
    /// Its name, where it has one.
    path: Option<PathBuf>,
}

impl Temporary {
    /// One for a destination.
    ///
    /// # Errors
    /// [`Error::File`].
    pub fn create(destination: &Path) -> Result<Self> {
        let folder = match destination.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        };
        match Self::unnamed(folder) {
            Some(file) => Ok(Self { destination: destination.to_owned(), file, path: None }),
            None => Self::named(destination),
        }
    }

    /// A file without a name in this folder, where its file system allows that.
    pub(super) fn unnamed(folder: &Path) -> Option<File> {
        let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
        open(folder, flags, Mode::RUSR | Mode::WUSR).ok().map(File::from)
    }

    /// One name for a destination: what a killed call left there is removed, not overwritten, for a daemon
    /// that was asked before and taken for gone may still write into it.
    fn named(destination: &Path) -> Result<Self> {
        let mut path = destination.to_path_buf();
        let mut name = destination.file_name().unwrap_or_default().to_owned();
        name.push(".pgkeep-tmp");
        path.set_file_name(name);
        remove(&path)?;
        let file = File::options().read(true).write(true).create_new(true).mode(0o600).open(&path);
        let file = file.map_err(failed("create", &path))?;
        Ok(Self { destination: destination.to_owned(), file, path: Some(path) })
    }

    /// The open file.
    #[must_use]
    pub fn file(&self) -> &File {
        &self.file
    }

    /// What to call it.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.path.as_deref().unwrap_or(&self.destination)
    }

    /// Gives another file without a name, which somebody else has written, the name instead; where that cannot
    /// be (it is on another mount, say), it is copied.
    ///
    /// # Errors
    /// [`Error::File`].
    pub fn name_instead(self, written: &File) -> Result<()> {
        remove(&self.destination)?;
        if link(written, &self.destination).is_ok() {
            return Ok(());
        }
        copy_to(written, &self.file).map_err(failed("write", self.path()))?;
        self.name()
    }

    /// Gives the file its name. Not synced: the server does that.
    ///
    /// # Errors
    /// [`Error::File`].
    pub fn name(mut self) -> Result<()> {
        let destination = &self.destination;
        // Not replaced: ext4 writes a file out at once that takes another one's name.
        remove(destination)?;
        match &self.path {
            None => {
                link(&self.file, destination).map_err(failed("name", destination))?;
            }
            Some(path) => {
                // Another call for the same destination may have taken the name beside it.
                if !self.has(path) {
                    let why = "another archive-get writes to the same destination".into();
                    return Err(Error::Content { path: path.clone(), why });
                }
                durable::rename_unsynced(path, destination)
                    .map_err(failed("rename", destination))?;
            }
        }
        self.path = None;
        Ok(())
    }

    /// Whether the name is still this file's.
    fn has(&self, path: &Path) -> bool {
        let id = |metadata: std::fs::Metadata| (metadata.dev(), metadata.ino());
        let own = self.file.metadata().map(id);
        own.is_ok_and(|own| std::fs::symlink_metadata(path).map(id).is_ok_and(|named| named == own))
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        // Another call's file may have the name by now.
        if let Some(path) = self.path.as_ref().filter(|path| self.has(path)) {
            std::fs::remove_file(path).ok();
        }
    }
}

/// Replaces what a file holds by what another one does.
pub(super) fn copy_to(written: &File, file: &File) -> io::Result<()> {
    let (mut from, mut to) = (written, file);
    file.set_len(0)?;
    to.rewind()?;
    from.rewind()?;
    io::copy(&mut from, &mut to).map(drop)
}

fn link(file: &File, destination: &Path) -> io::Result<()> {
    let own = format!("/proc/self/fd/{}", file.as_raw_fd());
    Ok(linkat(CWD, own, CWD, destination, AtFlags::SYMLINK_FOLLOW)?)
}

fn remove(path: &Path) -> Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(failed("replace", path)(error))
        }
        _ => Ok(()),
    }
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_path_buf();
    move |source| Error::File { action, path, source }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::os::unix::fs::FileExt as _;

    use super::*;

    /// f017: a file that somebody else has written gets the name, whether it can be linked there or not, and
    /// is then nobody else's.
    #[test]
    fn f017_a_file_of_another_file_system_is_copied_to_its_name() {
        let dir = tempfile::tempdir().unwrap();
        let to = dir.path().join("RECOVERYXLOG");
        let shared = Path::new("/dev/shm");
        let elsewhere = if shared.is_dir() { shared } else { dir.path() };
        for (create, folder) in [
            (Temporary::create as fn(&Path) -> Result<Temporary>, dir.path()),
            (Temporary::create, elsewhere),
            (Temporary::named, elsewhere),
        ] {
            let written = tempfile::tempfile_in(folder).unwrap();
            written.write_all_at(b"segment", 0).unwrap();
            let temporary = create(&to).unwrap();
            temporary.file().write_all(b"what was begun before").unwrap();
            temporary.name_instead(&written).unwrap();
            assert_eq!(std::fs::read(&to).unwrap(), b"segment");
            assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "nothing is left");
        }
    }

    /// Two calls for one destination, as after a server was killed and started again at once: neither gives
    /// its name to what the other one writes.
    #[test]
    fn f017_two_fetches_to_one_destination_are_not_mixed() {
        let dir = tempfile::tempdir().unwrap();
        let to = dir.path().join("RECOVERYXLOG");
        for create in [Temporary::create, Temporary::named] {
            let first = create(&to).unwrap();
            first.file().write_all(b"first").unwrap();
            let second = create(&to).unwrap();
            second.file().write_all(b"sec").unwrap();
            let is_named = first.path.is_some();
            match first.name() {
                Ok(()) => assert!(!is_named && std::fs::read(&to).unwrap() == b"first"),
                Err(error) => assert!(is_named && error.to_string().contains("same destination")),
            }
            second.file().write_all(b"ond").unwrap();
            second.name().unwrap();
            assert_eq!(std::fs::read(&to).unwrap(), b"second");
            drop(create(&to).unwrap());
            assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "nothing is left");
        }
    }
}
