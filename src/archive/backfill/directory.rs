//! A directory that WAL is taken from: a server's, or a folder of loose files.

use std::path::{Path, PathBuf};

use rustix::io::Errno;
use rustix::process::{Pid, test_kill_process};
use serde::Serialize;

use crate::archive::error::{Error, Result};
use crate::archive::pgdata::{read_control_file, refuse_copy};
use crate::archive::push::failed;
use crate::pg::{SegmentSize, WalFileName};

/// A directory that WAL is taken from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct WalDirectory {
    /// Where the files are.
    pub files: PathBuf,
    /// The data directory that they are the `pg_wal` of; nothing for a folder of loose files.
    pub data_directory: Option<PathBuf>,
    /// Whether a server works on that data directory, on this host.
    pub is_running: bool,
    /// The system identifier of its control file.
    #[serde(skip)]
    pub system: Option<u64>,
    #[serde(skip)]
    pub(super) segment_size: Option<SegmentSize>,
}

impl WalDirectory {
    /// Finds out what a directory is: a data directory, the `pg_wal` of one, or neither.
    ///
    /// # Errors
    /// [`Error::File`]; [`Error::Content`] for what is no directory, or has a control file that cannot be
    /// read; [`Error::Copy`] for a restored copy, which never acts as its source.
    pub fn find(path: &Path) -> Result<Self> {
        let path = std::path::absolute(path).map_err(failed("follow", path))?;
        if !std::fs::metadata(&path).map_err(failed("look at", &path))?.is_dir() {
            return Err(Error::Content { path, why: "it is no directory".into() });
        }
        let around = path.parent().filter(|_| path.ends_with("pg_wal"));
        for data_directory in [Some(path.as_path()), around].into_iter().flatten() {
            let control = data_directory.join("global/pg_control");
            if control.try_exists().map_err(failed("look for", &control))? {
                return Self::of_server(data_directory);
            }
        }
        let (system, segment_size) = (None, None);
        Ok(Self { files: path, data_directory: None, is_running: false, system, segment_size })
    }

    fn of_server(data_directory: &Path) -> Result<Self> {
        refuse_copy(data_directory)?;
        let control = read_control_file(data_directory)?;
        Ok(Self {
            files: data_directory.join("pg_wal"),
            data_directory: Some(data_directory.into()),
            is_running: is_running(data_directory),
            system: Some(control.system_identifier),
            segment_size: Some(control.wal_segment_size),
        })
    }

    /// Its files of WAL, histories first, then segments in the order of their names.
    pub(super) fn names(&self) -> Result<Vec<WalFileName>> {
        let entries = std::fs::read_dir(&self.files).map_err(failed("list", &self.files))?;
        let mut names = Vec::new();
        for entry in entries {
            let name = entry.map_err(failed("list", &self.files))?.file_name();
            // What a base backup leaves behind is not needed by any recovery.
            match WalFileName::parse(name.as_encoded_bytes()) {
                Err(_) | Ok(WalFileName::BackupHistory { .. }) => {}
                Ok(name) => names.push(name),
            }
        }
        let is_segment = |name: &WalFileName| !matches!(name, WalFileName::History(_));
        names.sort_by_key(|name| (is_segment(name), name.to_string()));
        Ok(names)
    }

    pub(super) fn path_of(&self, name: &WalFileName) -> PathBuf {
        self.files.join(name.to_string())
    }

    /// Whether the server has called the segment complete, or has archived it.
    pub(super) fn has_status(&self, name: &WalFileName) -> bool {
        let status = self.files.join("archive_status");
        ["ready", "done"].iter().any(|end| status.join(format!("{name}.{end}")).exists())
    }
}

/// Whether the process that `postmaster.pid` names may work on the directory. Processes of other PID
/// namespaces are not seen: what their server still writes is then offered as a partial segment, which
/// stands in nobody's way.
fn is_running(data_directory: &Path) -> bool {
    let lock = std::fs::read_to_string(data_directory.join("postmaster.pid")).unwrap_or_default();
    let Some(pid) = lock.lines().next().and_then(|line| line.trim().parse().ok()) else {
        return false;
    };
    let Some(process) = Pid::from_raw(pid).filter(|_| pid > 0) else { return false };
    match std::fs::read_link(format!("/proc/{pid}/cwd")) {
        Ok(works_in) => data_directory.canonicalize().is_ok_and(|real| works_in == real),
        Err(_) => {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            let state = stat.rsplit_once(')').map(|(_, rest)| rest.trim_start());
            let is_dead = state.is_some_and(|state| state.starts_with(['Z', 'X']));
            !is_dead && matches!(test_kill_process(process), Ok(()) | Err(Errno::PERM))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(files: &[&str]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for file in files {
            let path = dir.path().join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::File::create(path).unwrap();
        }
        dir
    }

    #[test]
    fn loose_files_are_sorted_and_others_passed_over() {
        let dir = folder(&[
            "000000020000000000000003",
            "000000010000000000000004.partial",
            "000000010000000000000003",
            "00000002.history",
            "000000010000000000000002.00000028.backup",
            "xlogtemp.123",
            "RECOVERYXLOG",
            "archive_status/000000010000000000000003.done",
        ]);
        let found = WalDirectory::find(dir.path()).unwrap();
        assert_eq!((found.data_directory.as_ref(), found.system), (None, None));
        let names = found.names().unwrap();
        let shown: Vec<_> = names.iter().map(ToString::to_string).collect();
        assert_eq!(
            shown,
            [
                "00000002.history",
                "000000010000000000000003",
                "000000010000000000000004.partial",
                "000000020000000000000003"
            ]
        );
        assert!(found.has_status(&names[1]) && !found.has_status(&names[3]));
    }

    #[test]
    fn a_control_file_makes_it_a_server_s_and_is_read() {
        let dir = folder(&["global/pg_control", "pg_wal/000000010000000000000003"]);
        for path in [dir.path().to_owned(), dir.path().join("pg_wal")] {
            // It is empty here, and no reason to take the folder for one without.
            let refused = WalDirectory::find(&path).unwrap_err().to_string();
            assert!(refused.contains("pg_control"), "{refused}");
        }
        let file = dir.path().join("pg_wal/000000010000000000000003");
        assert!(WalDirectory::find(&file).unwrap_err().to_string().contains("no directory"));
        assert!(WalDirectory::find(&dir.path().join("none")).unwrap_err().is_not_found());
    }

    #[test]
    fn f009_a_restored_copy_is_no_source() {
        let dir = folder(&["global/pg_control", "pg_wal/x", crate::archive::MARKER]);
        for path in [dir.path().to_owned(), dir.path().join("pg_wal")] {
            assert!(matches!(WalDirectory::find(&path), Err(Error::Copy { .. })), "{path:?}");
        }
    }

    #[test]
    fn a_lock_file_counts_while_its_process_works_there() {
        let dir = tempfile::tempdir().unwrap();
        let mut child = std::process::Command::new("sleep");
        let mut child = child.arg("100").current_dir(dir.path()).spawn().unwrap();
        let lock = |pid: u32| {
            let mut file = std::fs::File::create(dir.path().join("postmaster.pid")).unwrap();
            std::io::Write::write_all(&mut file, format!("{pid}\n/data\n").as_bytes()).unwrap();
        };
        assert!(!is_running(dir.path()), "no lock file");
        lock(child.id());
        let alive = is_running(dir.path());
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(alive && !is_running(dir.path()));
        lock(std::process::id());
        assert!(!is_running(dir.path()), "that one works elsewhere");
    }
}
