//! Lists of names in byte order, from folders.
//!
//! Entries are sorted as they occur in whole names, a folder with its slash: `a-b` comes before
//! `a/b` though `a` comes before `a-b`. Folders that hold no name between `after` and the end of
//! the page, or none with the prefix, are not read. One page holds the names of the folders on its
//! way in memory, nothing more.
//!
//! Whoever asks for one page after the other has each read the folders on its way anew: that of the log files of a
//! timeline, or of all manifests, as often as there are pages. So there is a walk that goes on.

use std::io;
use std::ops::ControlFlow;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use rustix::fs::{Dir, FileType, Stat};
use rustix::io::Errno;

use super::root::{Root, open_child, stat_child};
use crate::base::Timestamp;
use crate::storage::{EachPage, Error, ObjectKey, ObjectMeta, Result};

#[cfg(test)]
thread_local! {
    /// How many folders lists of this thread have read.
    pub(super) static FOLDERS_READ: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
}

/// When a file was written, by the clock of its file system: of a network's, the server's.
pub(super) fn stored(stat: &Stat) -> Option<Timestamp> {
    Timestamp::from_timestamp(stat.st_mtime, u32::try_from(stat.st_mtime_nsec).unwrap_or_default())
}

/// The first page only.
pub(super) fn list(
    root: &Root,
    prefix: &str,
    after: Option<&str>,
    count_max: usize,
) -> Result<Vec<ObjectMeta>> {
    let mut first = Vec::new();
    pages(root, prefix, after, count_max, &mut |page| {
        first = page;
        ControlFlow::Break(())
    })?;
    Ok(first)
}

/// All pages in one walk: no folder is read twice, however many pages its names fill.
pub(super) fn pages(
    root: &Root,
    prefix: &str,
    after: Option<&str>,
    count_max: usize,
    each: &mut EachPage<'_>,
) -> Result<()> {
    let (count_max, page) = (count_max.max(1), Vec::new());
    let mut walk = Walk { root, prefix, after, count_max, page, each };
    match walk.run()? {
        ControlFlow::Break(()) => Ok(()),
        ControlFlow::Continue(()) => walk.hand_over().map(drop),
    }
}

struct Walk<'a, 'e> {
    root: &'a Root,
    prefix: &'a str,
    after: Option<&'a str>,
    count_max: usize,
    page: Vec<ObjectMeta>,
    each: &'a mut EachPage<'e>,
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

impl Walk<'_, '_> {
    /// Begins in the deepest folder that the prefix names.
    fn run(&mut self) -> Result<ControlFlow<()>> {
        let folder = self.prefix.rsplit_once('/').map_or("", |(folder, _)| folder);
        let base = &self.prefix[..self.prefix.rfind('/').map_or(0, |slash| slash + 1)];
        // The prefix is any text; one that is not the beginning of a name matches none and must not
        // be walked, since it may lead outside.
        if !base.is_empty() && ObjectKey::new(folder).is_err() {
            return Ok(ControlFlow::Continue(()));
        }
        match self.root.open_folder(folder) {
            Ok(opened) => self.folder(opened, base),
            Err(Errno::NOENT) => Ok(ControlFlow::Continue(())),
            Err(errno) => Err(self.failure(base, errno.into())),
        }
    }

    fn failure(&self, path: &str, source: io::Error) -> Error {
        self.root.failure("list", path, source)
    }

    /// A list is read as proof that nothing else is there, so the root must still be the root.
    fn hand_over(&mut self) -> Result<ControlFlow<()>> {
        self.root.confirm()?;
        Ok((self.each)(std::mem::take(&mut self.page)))
    }

    fn folder(&mut self, folder: OwnedFd, base: &str) -> Result<ControlFlow<()>> {
        let mut dir = Dir::new(folder).map_err(|errno| self.failure(base, errno.into()))?;
        let entries = self.entries(&mut dir, base)?;
        let folder = dir.fd().map_err(|errno| self.failure(base, errno.into()))?;
        for entry in entries {
            let flow = match entry.kind {
                FileType::Directory => match open_child(folder, entry.last_component()) {
                    Ok(child) => self.folder(child, &entry.path)?,
                    Err(Errno::NOENT) => ControlFlow::Continue(()),
                    Err(errno) => return Err(self.failure(&entry.path, errno.into())),
                },
                _ => self.object(folder, entry)?,
            };
            if flow.is_break() {
                return Ok(flow);
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    /// The entries that may be or hold names of the list, in order.
    fn entries(&self, dir: &mut Dir, base: &str) -> Result<Vec<Entry>> {
        #[cfg(test)]
        FOLDERS_READ.set(FOLDERS_READ.get() + 1);
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

    fn object(&mut self, folder: BorrowedFd<'_>, entry: Entry) -> Result<ControlFlow<()>> {
        let stat = match stat_child(folder.as_fd(), entry.last_component()) {
            Ok(stat) => stat,
            // Removed since the folder was read.
            Err(Errno::NOENT) => return Ok(ControlFlow::Continue(())),
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
        self.page.push(ObjectMeta { key, size, stored: stored(&stat), class: None });
        if self.page.len() < self.count_max {
            return Ok(ControlFlow::Continue(()));
        }
        self.hand_over()
    }
}
