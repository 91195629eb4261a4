//! Where other file systems begin below a place. Nothing there is removed, and all that is written there is made
//! durable.
//!
//! A directory on another device is one, whatever else is told: also a subvolume, which no kernel calls a mount.
//! What is mounted from the same device the kernel tells by a bit (Linux 5.8 and newer); where it does not, the
//! number of the mount is asked of `/proc`.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, StatxAttributes, StatxFlags, fstat, makedev, openat, statat,
    statx, syncfs,
};
use rustix::io::Errno;

use super::error::{Error, Result};
use super::tree::name;

/// What lies at a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct There {
    pub(super) kind: FileType,
    pub(super) size: u64,
    pub(super) links: u64,
    pub(super) device: u64,
    /// Another file system, or another part of this one, begins here.
    pub(super) is_mount: bool,
}

/// The device that an open directory is on.
pub(super) fn device_of(directory: impl AsFd) -> std::result::Result<u64, Errno> {
    Ok(fstat(directory)?.st_dev)
}

/// Looks at a name in an open directory that is on `device`, following no link.
pub(super) fn look(
    directory: &impl AsFd,
    device: u64,
    last: &[u8],
) -> std::result::Result<There, Errno> {
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
    let (mut there, told) = match statx(directory, name(last), flags, StatxFlags::BASIC_STATS) {
        Ok(found) => {
            let is_told = found.stx_attributes_mask.contains(StatxAttributes::MOUNT_ROOT);
            let there = There {
                kind: FileType::from_raw_mode(found.stx_mode.into()),
                size: found.stx_size,
                links: found.stx_nlink.into(),
                device: makedev(found.stx_dev_major, found.stx_dev_minor),
                is_mount: false,
            };
            (there, is_told.then(|| found.stx_attributes.contains(StatxAttributes::MOUNT_ROOT)))
        }
        Err(Errno::NOENT) => return Err(Errno::NOENT),
        // Old kernels do not know the call, and a filter of system calls may deny it.
        Err(_) => {
            let found = statat(directory, name(last), AtFlags::SYMLINK_NOFOLLOW)?;
            let there = There {
                kind: FileType::from_raw_mode(found.st_mode),
                size: found.st_size.cast_unsigned(),
                links: found.st_nlink,
                device: found.st_dev,
                is_mount: false,
            };
            (there, None)
        }
    };
    // Of files an overlay may tell the device of the layer that they come from.
    there.is_mount = there.kind == FileType::Directory && there.device != device
        || told.map_or_else(|| has_other_mount(directory, last), Ok)?;
    Ok(there)
}

/// Whether a name lies in another mount than the directory that it is in.
fn has_other_mount(directory: &impl AsFd, last: &[u8]) -> std::result::Result<bool, Errno> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let there = openat(directory, name(last), flags, Mode::empty())?;
    Ok(mount_number(&there) != mount_number(directory))
}

/// The number of the mount that an open file is in; nothing where nobody tells.
fn mount_number(file: &impl AsFd) -> Option<u64> {
    let path = format!("/proc/self/fdinfo/{}", file.as_fd().as_raw_fd());
    let text = std::fs::read_to_string(path).ok()?;
    text.lines().find_map(|line| line.strip_prefix("mnt_id:"))?.trim().parse().ok()
}

/// File systems that begin below the places, each by a handle that was opened before anything was written: a
/// sync of a place's own file system does nothing for them.
#[derive(Debug, Clone, Default)]
pub(super) struct FileSystems(Arc<Mutex<BTreeMap<u64, (PathBuf, OwnedFd)>>>);

impl FileSystems {
    /// Notes that of an open directory on a device.
    pub(super) fn note(&self, device: u64, directory: &OwnedFd, path: &Path) -> Result<()> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Entry::Vacant(vacant) = known.entry(device) {
            let handle = directory.try_clone().map_err(Error::file("open", path))?;
            vacant.insert((path.into(), handle));
        }
        Ok(())
    }

    /// Makes them durable.
    pub(super) fn sync(&self) -> Result<()> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for (path, handle) in known.values() {
            syncfs(handle).map_err(|error| Error::file("sync", path)(error.into()))?;
        }
        Ok(())
    }

    /// Where they were met.
    #[cfg(test)]
    pub(super) fn paths(&self) -> Vec<PathBuf> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.values().map(|(path, _)| path.clone()).collect()
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::fs::{self, File};
    use std::process::Command;

    use super::*;

    /// A mount that goes with the test.
    pub(in crate::restore) struct Mounted(PathBuf);

    impl Mounted {
        /// Mounts something; nothing where that is not allowed, which is told.
        pub(in crate::restore) fn new(arguments: &[&str], at: &Path) -> Option<Self> {
            let made = Command::new("mount").args(arguments).arg(at).status();
            if made.is_ok_and(|status| status.success()) {
                return Some(Self(at.into()));
            }
            eprintln!("SKIPPED: nothing can be mounted here");
            None
        }
    }

    impl Drop for Mounted {
        fn drop(&mut self) {
            Command::new("umount").arg(&self.0).status().ok();
        }
    }

    #[test]
    fn d2026_11_29_mounts_are_told_on_kernels_that_have_no_bit_for_them() {
        let root = OwnedFd::from(File::open("/").unwrap());
        let device = device_of(&root).unwrap();
        assert!(look(&root, device, b"proc").unwrap().is_mount);
        assert!(has_other_mount(&root, b"proc").unwrap());
        // A device is enough.
        assert!(look(&root, device + 1, b"usr").unwrap().is_mount);
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("plain")).unwrap();
        let here = OwnedFd::from(File::open(dir.path()).unwrap());
        let device = device_of(&here).unwrap();
        let there = look(&here, device, b"plain").unwrap();
        assert_eq!((there.kind, there.is_mount), (FileType::Directory, false));
        assert!(!has_other_mount(&here, b"plain").unwrap());
        assert_eq!(look(&here, device, b"gone").unwrap_err(), Errno::NOENT);
    }

    #[test]
    fn d2026_11_29_directories_and_files_of_the_same_file_system_are_told_where_mounted() {
        let dir = tempfile::tempdir().unwrap();
        let at = |path: &str| dir.path().join(path);
        for folder in ["from", "onto"] {
            fs::create_dir(at(folder)).unwrap();
        }
        for file in ["file", "other"] {
            File::create(at(file)).unwrap();
        }
        let (from, file) = (at("from").display().to_string(), at("file").display().to_string());
        let Some(_folder) = Mounted::new(&["--bind", &from], &at("onto")) else { return };
        let Some(_file) = Mounted::new(&["--bind", &file], &at("other")) else { return };
        let here = OwnedFd::from(File::open(dir.path()).unwrap());
        let device = device_of(&here).unwrap();
        for (path, is_mount) in [("onto", true), ("other", true), ("from", false), ("file", false)]
        {
            assert_eq!(look(&here, device, path.as_bytes()).unwrap().is_mount, is_mount, "{path}");
            assert_eq!(has_other_mount(&here, path.as_bytes()).unwrap(), is_mount, "{path}");
        }
    }
}
