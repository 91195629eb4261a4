//! Reading files without disturbing the database: its page cache stays as it was.
//!
//! Linux 6.14 and later read with RWF_DONTCACHE: pages that the read itself brought in are dropped,
//! those that were cached before stay. Elsewhere each read is first tried from the cache alone; what
//! had to come from the disk is dropped again by advice.

use std::fs::File;
use std::io::{self, IoSliceMut};
use std::num::NonZeroU64;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::Path;
use std::sync::atomic::{AtomicU8, Ordering};

use chrono::DateTime;
use rustix::fs::Advice;
use rustix::io::{Errno, ReadWriteFlags};

use crate::base::Timestamp;
use crate::repo::StatIdentity;

/// `RWF_DONTCACHE` (include/uapi/linux/fs.h), which rustix does not name yet.
const DONTCACHE: ReadWriteFlags = ReadWriteFlags::from_bits_retain(0x80);

const WITH_DONTCACHE: u8 = 0;
const WITH_ADVICE: u8 = 1;
const PLAIN: u8 = 2;

/// Reads at offsets, by the best way that kernel and file system have; what was refused once is not
/// tried again.
#[derive(Debug, Default)]
pub(super) struct Uncached {
    way: AtomicU8,
}

impl Uncached {
    /// Fills `buffer` from `offset` on; shorter only at the end of the file.
    pub(super) fn read(&self, file: &File, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let mut filled = 0;
        while filled < buffer.len() {
            let rest = buffer.get_mut(filled..).unwrap_or_default();
            match self.read_some(file, offset + filled as u64, rest) {
                // Linux 5.9 and 5.10 answer 0 in the middle of a file to a read that must not wait
                // (preadv2(2), BUGS): only a plain read proves the end.
                Ok(0) => match file.read_at(rest, offset + filled as u64)? {
                    0 => break,
                    count => filled += count,
                },
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(filled)
    }

    fn read_some(&self, file: &File, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let way = self.way.load(Ordering::Relaxed);
            let result = match way {
                WITH_DONTCACHE => {
                    rustix::io::preadv2(file, &mut [IoSliceMut::new(buffer)], offset, DONTCACHE)
                }
                WITH_ADVICE => cached_or_dropped(file, offset, buffer),
                _ => return file.read_at(buffer, offset),
            };
            match result {
                Err(Errno::OPNOTSUPP | Errno::INVAL | Errno::NOSYS) if way < PLAIN => {
                    self.way.store(way + 1, Ordering::Relaxed);
                }
                other => return Ok(other?),
            }
        }
    }
}

fn cached_or_dropped(file: &File, offset: u64, buffer: &mut [u8]) -> rustix::io::Result<usize> {
    let nowait = ReadWriteFlags::NOWAIT;
    match rustix::io::preadv2(file, &mut [IoSliceMut::new(buffer)], offset, nowait) {
        Ok(0) | Err(Errno::AGAIN) => {}
        other => return other,
    }
    let count = rustix::io::pread(file, &mut *buffer, offset)?;
    // Advice only: a refusal costs nothing but cache.
    if let Some(length) = NonZeroU64::new(count as u64) {
        rustix::fs::fadvise(file, offset, Some(length), Advice::DontNeed).ok();
    }
    Ok(count)
}

/// What fstat said of a file before its first byte was read.
#[derive(Debug, Clone)]
pub(super) struct Stat {
    pub(super) size: u64,
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) mtime: Timestamp,
    pub(super) identity: Option<StatIdentity>,
}

/// fstat, and the file system's own id where its change times are known to be honest.
pub(super) fn stat(file: &File) -> io::Result<Stat> {
    let metadata = file.metadata()?;
    Ok(Stat {
        size: metadata.len(),
        mode: metadata.mode() & 0o7777,
        uid: metadata.uid(),
        gid: metadata.gid(),
        mtime: time(metadata.mtime(), metadata.mtime_nsec()),
        identity: identity(file, &metadata)?,
    })
}

/// A file's time as a moment; absurd ones (a damaged inode) as the epoch.
pub(super) fn time(seconds: i64, nanoseconds: i64) -> Timestamp {
    u32::try_from(nanoseconds)
        .ok()
        .and_then(|nanoseconds| DateTime::from_timestamp(seconds, nanoseconds))
        .unwrap_or(Timestamp::UNIX_EPOCH)
}

/// File systems whose inode numbers and change times can be believed (statfs(2)); never network,
/// FUSE or overlay file systems.
const HONEST: [(u64, &str); 6] = [
    (0xEF53, "ext4"),
    (0x5846_5342, "xfs"),
    (0x9123_683E, "btrfs"),
    (0x2FC1_2FC1, "zfs"),
    (0xF2F5_2010, "f2fs"),
    (0x0102_1994, "tmpfs"),
];

fn identity(file: &File, metadata: &std::fs::Metadata) -> io::Result<Option<StatIdentity>> {
    let kind = rustix::fs::fstatfs(file)?.f_type;
    let Some(name) = honest(i128::from(kind)) else { return Ok(None) };
    let id = rustix::fs::fstatvfs(file)?.f_fsid;
    Ok(Some(stat_identity(&format!("{name}:{id:016x}"), metadata)))
}

fn honest(kind: i128) -> Option<&'static str> {
    HONEST.iter().find(|(honest, _)| i128::from(*honest) == kind).map(|(_, name)| *name)
}

/// The id of the file system that holds a path, where it is known to be honest.
pub(super) fn file_system(path: &Path) -> io::Result<Option<String>> {
    let kind = rustix::fs::statfs(path)?.f_type;
    let Some(name) = honest(i128::from(kind)) else { return Ok(None) };
    let id = rustix::fs::statvfs(path)?.f_fsid;
    Ok(Some(format!("{name}:{id:016x}")))
}

/// What tells a directory from every other, here and on other hosts: its file system, its number there, and to the
/// nanosecond when it was made. Servers that were set up alike, in containers of one name, share all the rest.
/// Nothing where the file system does not tell.
pub(super) fn directory_identity(path: &Path) -> Option<String> {
    let file_system = file_system(path).ok()??;
    let metadata = path.metadata().ok()?;
    let made = metadata.created().ok()?.duration_since(std::time::UNIX_EPOCH).ok()?;
    Some(format!("{file_system}:{}:{}.{:09}", metadata.ino(), made.as_secs(), made.subsec_nanos()))
}

/// What tells a file on that file system, and its state, from every other.
pub(super) fn stat_identity(file_system: &str, metadata: &std::fs::Metadata) -> StatIdentity {
    let changed = format!("{}.{:09}", metadata.ctime(), metadata.ctime_nsec());
    StatIdentity(file_system.into(), metadata.ino(), changed)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of statfs(2): on a network others write too, FUSE and overlays make inode numbers and times of their own.
    #[test]
    fn f044_only_file_systems_that_are_known_to_be_honest_are_believed() {
        let known = [0xEF53, 0x5846_5342, 0x9123_683E, 0x2FC1_2FC1, 0xF2F5_2010, 0x0102_1994];
        let names = known.map(honest);
        let expected = ["ext4", "xfs", "btrfs", "zfs", "f2fs", "tmpfs"].map(Some);
        assert_eq!(names, expected);
        let others = [
            ("nfs", 0x6969),
            ("fuse", 0x6573_5546),
            ("overlayfs", 0x794C_7630),
            ("cifs", 0xFF53_4D42),
            ("smb2", 0xFE53_4D42),
            ("9p", 0x0102_1997),
            ("ceph", 0x00C3_6400),
            ("gfs2", 0x0116_1970),
            ("ocfs2", 0x7461_636F),
            ("lustre", 0x0BD0_0BD0),
            ("gpfs", 0x4750_4653),
            ("vfat", 0x4D44),
            ("exfat", 0x2011_BAB0),
            ("nothing", 0),
        ];
        for (name, kind) in others {
            assert_eq!(honest(kind), None, "{name}");
        }
        // The kernel's number has its sign on some machines.
        assert_eq!(honest(-1), None);
    }

    #[test]
    fn every_way_reads_the_same_bytes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        let content: Vec<u8> = (0..100_003u32).map(|i| (i % 251) as u8).collect();
        std::io::Write::write_all(&mut File::create(&path).unwrap(), &content).unwrap();
        let file = File::open(&path).unwrap();
        for way in [WITH_DONTCACHE, WITH_ADVICE, PLAIN] {
            let uncached = Uncached { way: AtomicU8::new(way) };
            for (offset, length) in [(0, 100_003), (4_000, 8_192), (99_000, 8_192), (200_000, 10)] {
                let mut buffer = vec![0; length];
                let count = uncached.read(&file, offset as u64, &mut buffer).unwrap();
                let expected = &content[offset.min(content.len())..];
                let expected = &expected[..length.min(expected.len())];
                assert_eq!(&buffer[..count], expected, "way {way} at {offset}");
            }
        }
    }
}
