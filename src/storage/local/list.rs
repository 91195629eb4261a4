//! Lists of names in byte order, from folders.
//!
//! Entries are sorted as they occur in whole names, a folder with its slash: `a-b` comes before
//! `a/b` though `a` comes before `a-b`. Folders that hold no name between `after` and the end of
//! the page, or none with the prefix, are not read. One page holds the names of the folders on its
//! way in memory, nothing more.

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use rustix::fs::{Dir, FileType, Stat};
use rustix::io::Errno;

use super::root::{Root, open_child, stat_child};
use crate::base::Timestamp;
use crate::storage::{Error, ObjectKey, ObjectMeta, Result};

/// When a file was written, by the clock of its file system: of a network's, the server's.
pub(super) fn stored(stat: &Stat) -> Option<Timestamp> {
    Timestamp::from_timestamp(stat.st_mtime, u32::try_from(stat.st_mtime_nsec).unwrap_or_default())
}

pub(super) fn list(
    root: &Root,
    prefix: &str,
    after: Option<&str>,
    count_max: usize,
) -> Result<Vec<ObjectMeta>> {
    let mut walk = Walk { root, prefix, after, count_max: count_max.max(1), found: Vec::new() };
    walk.run()?;
    // A list is read as proof that nothing else is there, so the root must still be the root.
    root.confirm()?;
    Ok(walk.found)
}

struct Walk<'a> {
    root: &'a Root,
    prefix: &'a str,
    after: Option<&'a str>,
    count_max: usize,
    found: Vec<ObjectMeta>,
}

struct Entry {
    /// The name from the root on; a folder's ends with a slash.
    path: String,
    kind: FileType,
}

impl Entry {
    fn last_component(&self) -> &str {
        let path = self.path.trim_end_matches('/');
        path.rsplit('/').next().unwrap_or(path)
    }
}

impl Walk<'_> {
    /// Begins in the deepest folder that the prefix names.
    fn run(&mut self) -> Result<()> {
        let folder = self.prefix.rsplit_once('/').map_or("", |(folder, _)| folder);
        let base = &self.prefix[..self.prefix.rfind('/').map_or(0, |slash| slash + 1)];
        // The prefix is any text; one that is not the beginning of a name matches none and must not
        // be walked, since it may lead outside.
        if !base.is_empty() && ObjectKey::new(folder).is_err() {
            return Ok(());
        }
        match self.root.open_folder(folder) {
            Ok(opened) => self.folder(opened, base),
            Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(self.failure(base, errno.into())),
        }
    }

    fn failure(&self, path: &str, source: io::Error) -> Error {
        self.root.failure("list", path, source)
    }

    fn folder(&mut self, folder: OwnedFd, base: &str) -> Result<()> {
        let mut dir = Dir::new(folder).map_err(|errno| self.failure(base, errno.into()))?;
        let entries = self.entries(&mut dir, base)?;
        let folder = dir.fd().map_err(|errno| self.failure(base, errno.into()))?;
        for entry in entries {
            if self.found.len() >= self.count_max {
                break;
            }
            match entry.kind {
                FileType::Directory => match open_child(folder, entry.last_component()) {
                    Ok(child) => self.folder(child, &entry.path)?,
                    Err(Errno::NOENT) => {}
                    Err(errno) => return Err(self.failure(&entry.path, errno.into())),
                },
                _ => self.object(folder, entry)?,
            }
        }
        Ok(())
    }

    /// The entries that may be or hold names of the page, in order.
    fn entries(&self, dir: &mut Dir, base: &str) -> Result<Vec<Entry>> {
        let mut entries = Vec::new();
        while let Some(read) = dir.read() {
            let read = read.map_err(|errno| self.failure(base, errno.into()))?;
            // Whatever is not a name of ours (hidden, `lost+found`, an editor's backup) is not in
            // the store.
            let name = read.file_name().to_str().ok();
            let key = name.and_then(|name| ObjectKey::new(format!("{base}{name}")).ok());
            let (Some(name), Some(key)) = (name, key) else {
                continue;
            };
            let fd = dir.fd().map_err(|errno| self.failure(base, errno.into()))?;
            let kind = match read.file_type() {
                FileType::Unknown => match stat_child(fd, name) {
                    Ok(stat) => FileType::from_raw_mode(stat.st_mode),
                    Err(Errno::NOENT) => continue,
                    Err(errno) => return Err(self.failure(key.as_str(), errno.into())),
                },
                known => known,
            };
            let slash = if kind == FileType::Directory { "/" } else { "" };
            let path = format!("{key}{slash}");
            if self.is_wanted(&path, kind) {
                entries.push(Entry { path, kind });
            }
        }
        entries.sort_unstable_by(|a, b| a.path.cmp(&b.path));
        Ok(entries)
    }

    fn is_wanted(&self, path: &str, kind: FileType) -> bool {
        let is_folder = kind == FileType::Directory;
        let has_prefix =
            path.starts_with(self.prefix) || (is_folder && self.prefix.starts_with(path));
        // All names below a folder begin with its path: they come after `after` when the path does,
        // and some may when `after` lies below it.
        let comes_after =
            self.after.is_none_or(|after| path > after || (is_folder && after.starts_with(path)));
        has_prefix && comes_after
    }

    fn object(&mut self, folder: BorrowedFd<'_>, entry: Entry) -> Result<()> {
        let stat = match stat_child(folder.as_fd(), entry.last_component()) {
            Ok(stat) => stat,
            // Removed since the folder was read.
            Err(Errno::NOENT) => return Ok(()),
            Err(errno) => return Err(self.failure(&entry.path, errno.into())),
        };
        // To pass over a link to a folder that somebody moved away would look like absence.
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            let source = io::Error::other("neither a regular file nor a folder");
            return Err(self.failure(&entry.path, source));
        }
        let size = u64::try_from(stat.st_size)
            .map_err(|error| self.failure(&entry.path, io::Error::other(error)))?;
        let key = ObjectKey::new(entry.path)
            .map_err(|invalid| self.failure("", io::Error::other(invalid)))?;
        self.found.push(ObjectMeta { key, size, stored: stored(&stat), class: None });
        Ok(())
    }
}
