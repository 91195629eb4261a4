//! What shows that a file is still the one that was read: its identity by the file system, and whether
//! that can be relied on.

use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::time::Duration;

use crate::base::clock::file_system_now;
use crate::repo::Repository;

/// How much of a file is read at a time to compare it.
const PIECE: usize = 1 << 20;

/// How much older than the reading a file's last change must be. A write sets the time first and brings
/// its bytes afterwards; and times are as coarse as the kernel's tick, 10 ms at most.
const SETTLED: Duration = Duration::from_millis(100);

/// Types of file systems that set the time of change with every change, by the kernel's clock
/// (`statfs(2)`): ext4, xfs, btrfs, zfs, f2fs, tmpfs. Not those over a network, of which another host
/// may change the file.
const HONEST: [u64; 6] = [0xEF53, 0x5846_5342, 0x9123_683E, 0x2FC1_2FC1, 0xF2F5_2010, 0x0102_1994];

/// Which file, in which state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileIdentity {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl FileIdentity {
    /// From what `fstat` says.
    #[must_use]
    pub fn of(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }

    /// Whether any later change would show: asked before the file is read.
    #[must_use]
    pub fn is_settled(&self, file: &File) -> bool {
        let honest = rustix::fs::fstatfs(file).is_ok_and(|system| {
            u64::try_from(system.f_type).is_ok_and(|number| HONEST.contains(&number))
        });
        let nanos =
            |(seconds, nanos): (i64, i64)| i128::from(seconds) * 1_000_000_000 + i128::from(nanos);
        let age = nanos(file_system_now()) - nanos(self.changed);
        honest && u128::try_from(age).is_ok_and(|age| age >= SETTLED.as_nanos())
    }
}

/// A file that was read, and what shows that it is the same later.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileRead {
    /// When it was opened.
    pub identity: FileIdentity,
    /// Whether a later change would show in it.
    pub is_settled: bool,
}

impl FileRead {
    /// Looks at an open file before it is read.
    ///
    /// # Errors
    /// As `fstat`.
    pub fn begin(file: &File) -> io::Result<Self> {
        let identity = FileIdentity::of(&file.metadata()?);
        Ok(Self { identity, is_settled: identity.is_settled(file) })
    }

    /// Whether the file is provably the same now.
    #[must_use]
    pub fn is_unchanged(&self, file: &File) -> bool {
        self.is_settled
            && file.metadata().is_ok_and(|metadata| FileIdentity::of(&metadata) == self.identity)
    }
}

/// Reads a file for what tells its content from others in a repository.
///
/// # Errors
/// As the system's.
pub(super) fn digest_of(file: &File, repository: &Repository) -> io::Result<String> {
    let mut digest = repository.digest();
    let mut space = vec![0; PIECE];
    let mut offset = 0;
    loop {
        let length = file.read_at(&mut space, offset)?;
        if length == 0 {
            return Ok(digest.finish());
        }
        digest.add(space.get(..length).unwrap_or_default());
        offset += length as u64;
    }
}

#[cfg(test)]
mod tests {
    use std::fs::FileTimes;
    use std::io::Write as _;
    use std::time::SystemTime;

    use super::*;

    /// A file that was written just now may be written again within the same tick: only its content says
    /// whether it was.
    #[test]
    fn what_was_written_just_now_is_not_settled_and_a_change_of_one_byte_shows() {
        // In memory: that file system is trusted wherever the tests run.
        let dir = tempfile::tempdir_in("/dev/shm").unwrap();
        let path = dir.path().join("segment");
        let mut file = File::create_new(&path).unwrap();
        file.write_all(&[1; 8192]).unwrap();
        assert!(!FileRead::begin(&file).unwrap().is_settled);
        assert!(!FileRead::begin(&file).unwrap().is_unchanged(&file), "nothing shows a change");
        std::thread::sleep(SETTLED + Duration::from_millis(20));
        let before = FileRead::begin(&file).unwrap();
        assert!(before.is_settled && before.is_unchanged(&file));
        let modified = file.metadata().unwrap().modified().unwrap();
        file.write_all_at(&[2], 100).unwrap();
        file.set_times(FileTimes::new().set_modified(modified)).unwrap();
        assert_eq!(file.metadata().unwrap().modified().unwrap(), modified);
        assert!(!before.is_unchanged(&file), "the time of modification was set back");
        let other = File::create_new(dir.path().join("other")).unwrap();
        other.set_times(FileTimes::new().set_modified(SystemTime::UNIX_EPOCH)).unwrap();
        assert!(!before.is_unchanged(&other));
    }
}
