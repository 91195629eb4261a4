//! Moving what is in the way aside (`--rename-old`): a rename within the same parent, never a removal.
//!
//! Refused where a server runs, or where that cannot be told; where a rename is impossible (a mount
//! point); and for a tablespace that belongs to another cluster than the one that is moved: that one
//! would find the restored files behind its link.

use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;
use rustix::process::{Pid, test_kill_process};

use super::error::{Error, Result};
use super::in_progress::{self, Content};
use crate::base::{Timestamp, durable};

/// What the processes of a server are called.
const SERVER_NAMES: [&str; 2] = ["postgres", "postmaster"];

/// Where a directory would go: the name is free, a rename is possible and no server runs on it.
pub(super) fn name_for(path: &Path, now: Timestamp) -> Result<PathBuf> {
    let occupied = |why: String| Err(Error::Occupied { path: path.into(), why });
    let metadata = path.symlink_metadata().map_err(Error::file("stat", path))?;
    if metadata.is_symlink() {
        return occupied("is a link and is not renamed: name the directory it leads to".into());
    }
    if !metadata.is_dir() {
        return occupied("is not a directory".into());
    }
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return occupied("has no name that could be changed".into());
    };
    let above = fs::metadata(parent).map_err(Error::file("stat", parent))?;
    if above.dev() != metadata.dev() {
        return occupied(mount_point());
    }
    if let Some(why) = server_on(path)? {
        return occupied(why);
    }
    if in_progress::is_held(path) {
        return Err(in_progress::held(path));
    }
    let mut aside = name.to_owned();
    aside.push(now.format(".old-%Y%m%d-%H%M%S").to_string());
    let aside = parent.join(aside);
    if aside.symlink_metadata().is_ok() {
        let aside = aside.display();
        return occupied(format!("cannot be moved aside: {aside} is there already"));
    }
    Ok(aside)
}

fn mount_point() -> String {
    "is a mount point, which cannot be renamed: move what is in it, or restore elsewhere".into()
}

/// Refuses a tablespace that none of this restore's old directories leads to.
///
/// `data` is the old data directory, which is moved as well; `is_own` says that the restore goes to
/// where the backup came from, so that the old directory may also have been renamed by hand. That a path
/// is the same says nothing of whose files lie there now.
pub(super) fn check_owner(data: &Path, location: &Path, is_own: bool) -> Result<()> {
    let occupied = |why: String| Err(Error::Occupied { path: location.into(), why });
    if let Content::Restore(mark) = Content::of(location)? {
        if mark.is_into(data) {
            return Ok(());
        }
        return occupied(format!(
            "holds files of another interrupted restore, {}",
            mark.describe()
        ));
    }
    let leads_there = |home: PathBuf| links_to(&home, location).next().is_some();
    let is_ours = if is_own {
        std::iter::once(data.to_owned()).chain(siblings(data)).any(leads_there)
    } else {
        std::iter::once(data.to_owned()).chain(moved_before(data)).any(leads_there)
    };
    if is_ours {
        return Ok(());
    }
    occupied(format!(
        "is not empty, and no link of {} leads there: it may be a tablespace of another cluster, which \
         would find the restored files in it. Put this one elsewhere with --tablespace, or move the old \
         one yourself",
        data.display()
    ))
}

/// Refuses what links of another of these data directories lead to as well: its cluster would lose it.
///
/// # Errors
/// [`Error::Occupied`].
pub(super) fn refuse_shared(
    data: &Path,
    others: impl Iterator<Item = PathBuf>,
    location: &Path,
) -> Result<()> {
    // One that is not there any more has its own path still.
    let own = data.canonicalize().unwrap_or_else(|_| data.to_owned());
    for other in others.filter(|other| other.canonicalize().is_ok_and(|other| other != own)) {
        if location.exists() && leads_to(&other, location) {
            let why = format!("is where links of {} lead, too", other.display());
            return Err(Error::Occupied { path: location.into(), why });
        }
    }
    Ok(())
}

/// Links in a data directory's `pg_tblspc` that lead to a location.
pub(super) fn links_to(data: &Path, location: &Path) -> impl Iterator<Item = PathBuf> {
    let location = location.canonicalize().ok();
    let entries = fs::read_dir(data.join("pg_tblspc")).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).filter(move |link| {
        link.is_symlink() && location.is_some() && link.canonicalize().ok() == location
    })
}

/// Whether a data directory has a tablespace at a location, or its WAL.
pub(super) fn leads_to(data: &Path, location: &Path) -> bool {
    let wal = data.join("pg_wal");
    let has_wal_there =
        || wal.is_symlink() && wal.canonicalize().ok() == location.canonicalize().ok();
    links_to(data, location).next().is_some() || has_wal_there()
}

/// Where data directories of this name were moved to before. The last of those moves may have been
/// interrupted before its tablespaces followed.
fn moved_before(data: &Path) -> impl Iterator<Item = PathBuf> {
    let prefix = data.file_name().map(|name| [name.as_bytes(), b".old-"].concat());
    siblings(data).filter(move |path| {
        let name = path.file_name().map(OsStrExt::as_bytes);
        name.zip(prefix.as_deref()).is_some_and(|(name, prefix)| name.starts_with(prefix))
    })
}

/// What lies beside a data directory: it may have been moved there, also by hand.
pub(super) fn siblings(data: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    let entries = data.parent().and_then(|parent| fs::read_dir(parent).ok());
    entries.into_iter().flatten().flatten().map(|entry| entry.path())
}

/// Renames each first path to the second, the data directory first: nobody starts it by its usual name
/// any more. Its links are led to the tablespaces' new names before those move: interrupted between the
/// two, a link leads nowhere, and never to restored files.
pub(super) fn move_all(data: &Path, moves: &[(PathBuf, PathBuf)]) -> Result<()> {
    for (from, to) in moves {
        if let Some(why) = server_on(from)? {
            return Err(Error::Occupied { path: from.clone(), why });
        }
        if in_progress::is_held(from) {
            return Err(in_progress::held(from));
        }
        if from != data {
            // Whoever leads there follows, or would lead to the restored files.
            for home in siblings(data) {
                for link in links_to(&home, from).collect::<Vec<_>>() {
                    relink(&link, to)?;
                }
            }
        }
        rename(from, to)?;
    }
    Ok(())
}

fn rename(from: &Path, to: &Path) -> Result<()> {
    match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        // A file system without that flag: the plan and this call saw that the name is free.
        Err(Errno::INVAL | Errno::NOSYS) if to.symlink_metadata().is_err() => {
            return durable::rename(from, to).map_err(Error::file("move aside", from));
        }
        // A bind mount of the same file system.
        Err(Errno::BUSY) => {
            return Err(Error::Occupied { path: from.into(), why: mount_point() });
        }
        other => other.map_err(|error| Error::file("move aside", from)(error.into()))?,
    }
    durable::sync_parent(to).map_err(Error::file("sync the directory of", to))
}

/// Leads a link elsewhere, by a rename: there is always one or the other.
fn relink(link: &Path, target: &Path) -> Result<()> {
    let temporary = link.with_extension("pgkeep-tmp");
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(Error::file("remove", &temporary)(error));
        }
        _ => {}
    }
    std::os::unix::fs::symlink(target, &temporary).map_err(Error::file("link", &temporary))?;
    durable::rename(&temporary, link).map_err(Error::file("rename", link))
}

/// How often, and after what pauses, is looked whether a server's processes have ended once its lock file is gone.
const ENDING_LOOKS: u32 = 100;
const ENDING_PAUSE: Duration = Duration::from_millis(50);

/// Why a directory must be taken for one that a server works on: it is the working directory of a
/// server's process, or a tablespace of it. Processes of other PID namespaces are not seen.
///
/// A server that stops removes its lock file first, and `pg_ctl stop` waits for no more: what is left of it is
/// waited for.
pub(super) fn server_on(directory: &Path) -> Result<Option<String>> {
    for _ in 0..ENDING_LOOKS {
        let found = found_server_on(directory)?;
        let is_ending = directory.join("postmaster.pid").symlink_metadata().is_err();
        if found.is_none() || !is_ending {
            return Ok(found);
        }
        std::thread::sleep(ENDING_PAUSE);
    }
    found_server_on(directory)
}

fn found_server_on(directory: &Path) -> Result<Option<String>> {
    let real = directory.canonicalize().map_err(Error::file("follow", directory))?;
    let owner = fs::metadata(&real).map_err(Error::file("stat", &real))?.uid();
    if let Some(pid) = postmaster(&real) {
        match fs::read_link(format!("/proc/{pid}/cwd")) {
            Ok(works_in) if works_in == real => {
                return Ok(Some(format!("has a server running on it, process {pid}")));
            }
            // Another process has got its number since.
            Ok(_) => {}
            Err(_) if is_alive(pid) => {
                return Ok(Some(format!(
                    "may have a server running on it: process {pid}, which its postmaster.pid \
                     names, is alive, and what it works on cannot be told"
                )));
            }
            Err(_) => {}
        }
    }
    let Ok(processes) = fs::read_dir("/proc") else { return Ok(None) };
    for process in processes.flatten() {
        let path = process.path();
        let Ok(name) = fs::read_to_string(path.join("comm")) else { continue };
        // A server refuses a directory that is not its own user's.
        let is_owner = process.metadata().is_ok_and(|process| process.uid() == owner);
        if !SERVER_NAMES.contains(&name.trim_end()) || !is_owner {
            continue;
        }
        let pid = process.file_name().to_string_lossy().into_owned();
        match fs::read_link(path.join("cwd")) {
            Ok(works_in) if works_in == real || leads_to(&works_in, &real) => {
                return Ok(Some(format!("has a server running on it, process {pid}")));
            }
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                return Ok(Some(format!(
                    "may have a server running on it: what process {pid} of the same user works on \
                     cannot be told"
                )));
            }
            // Elsewhere, or ended since.
            _ => {}
        }
    }
    Ok(None)
}

/// The process that `postmaster.pid` names, where it can be read.
fn postmaster(directory: &Path) -> Option<i32> {
    let text = fs::read_to_string(directory.join("postmaster.pid")).ok()?;
    text.lines().next()?.trim().parse().ok().filter(|pid| *pid > 0)
}

/// Whether there is such a process, a zombie not counted.
fn is_alive(pid: i32) -> bool {
    let state = fs::read_to_string(format!("/proc/{pid}/stat"));
    let is_zombie = state.is_ok_and(|text| {
        text.rsplit_once(')').is_some_and(|(_, rest)| rest.trim_start().starts_with(['Z', 'X']))
    });
    let there = Pid::from_raw(pid)
        .is_some_and(|pid| matches!(test_kill_process(pid), Ok(()) | Err(Errno::PERM)));
    there && !is_zombie
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> Timestamp {
        Timestamp::from_timestamp(1_795_183_200, 0).unwrap()
    }

    #[test]
    fn a_directory_is_moved_aside_whole_and_never_over_another() {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("data");
        fs::create_dir(&data).unwrap();
        fs::File::create(data.join("precious")).unwrap();
        let aside = name_for(&data, now()).unwrap();
        assert_eq!(aside, dir.path().join("data.old-20261120-140000"));
        move_all(&data, &[(data.clone(), aside.clone())]).unwrap();
        assert!(aside.join("precious").exists() && !data.exists());
        fs::create_dir(&data).unwrap();
        let taken = name_for(&data, now()).unwrap_err().to_string();
        assert!(taken.contains("is there already"), "{taken}");
        rename(&data, &aside).unwrap_err();
        assert!(aside.join("precious").exists());
    }

    #[test]
    fn links_and_mount_points_are_not_renamed() {
        let dir = tempfile::tempdir().unwrap();
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(dir.path(), &link).unwrap();
        assert!(name_for(&link, now()).unwrap_err().to_string().contains("is a link"));
        let mount = name_for(Path::new("/proc"), now()).unwrap_err().to_string();
        assert!(mount.contains("mount point"), "{mount}");
    }

    #[test]
    fn a_postmaster_pid_counts_as_long_as_its_process_may_work_here() {
        let dir = tempfile::tempdir().unwrap();
        let write = |pid: u32| {
            let mut file = fs::File::create(dir.path().join("postmaster.pid")).unwrap();
            io::Write::write_all(&mut file, format!("{pid}\n/data\n").as_bytes()).unwrap();
        };
        let mut child = std::process::Command::new("sleep");
        let mut child = child.arg("100").current_dir(dir.path()).spawn().unwrap();
        write(child.id());
        let why = server_on(dir.path()).unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(why.unwrap().contains(&format!("process {}", child.id())));
        assert_eq!(server_on(dir.path()).unwrap(), None, "it is dead");
        write(std::process::id());
        assert_eq!(server_on(dir.path()).unwrap(), None, "it works elsewhere");
    }

    #[test]
    fn f058_an_old_cluster_s_links_follow_its_tablespaces() {
        let dir = tempfile::tempdir().unwrap();
        let (data, one) = (dir.path().join("data"), dir.path().join("one"));
        fs::create_dir_all(data.join("pg_tblspc")).unwrap();
        fs::create_dir_all(one.join("PG_15_202209061")).unwrap();
        std::os::unix::fs::symlink(&one, data.join("pg_tblspc/16384")).unwrap();
        check_owner(&data, &one, false).unwrap();
        let other = dir.path().join("other");
        fs::create_dir(&other).unwrap();
        fs::File::create(other.join("x")).unwrap();
        check_owner(&data, &other, false).unwrap_err();
        check_owner(&data, &other, true).unwrap_err();
        let (old, old_one) = (dir.path().join("data.old-1"), dir.path().join("one.old-1"));
        move_all(&data, &[(data.clone(), old.clone()), (one.clone(), old_one.clone())]).unwrap();
        assert_eq!(fs::read_link(old.join("pg_tblspc/16384")).unwrap(), old_one);
        assert!(old_one.join("PG_15_202209061").is_dir() && !one.exists());
    }

    /// The move was stopped when the data directory had its new name and its tablespace had not: the same
    /// command moved the tablespace too, and the old cluster's link went on leading to its location, where
    /// the new cluster's files are now. Into another directory than the source's, it was refused for ever.
    #[test]
    fn d20261120_an_interrupted_move_takes_the_tablespaces_along_the_next_time() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::create_dir_all(at("data.old-1/pg_tblspc")).unwrap();
        fs::create_dir_all(at("one/PG_15_202209061")).unwrap();
        std::os::unix::fs::symlink(at("one"), at("data.old-1/pg_tblspc/16384")).unwrap();
        // The one that somebody moved out of the way by hand.
        fs::create_dir_all(at("bad/pg_tblspc")).unwrap();
        std::os::unix::fs::symlink(at("one"), at("bad/pg_tblspc/16384")).unwrap();
        check_owner(&at("data"), &at("one"), false).unwrap();
        check_owner(&at("dat"), &at("one"), false).unwrap_err();
        // By hand, from the cluster's own place: what lies beside that may lead there.
        check_owner(&at("dat"), &at("one"), true).unwrap();
        move_all(&at("data"), &[(at("one"), at("one.old-2"))]).unwrap();
        fs::create_dir_all(at("one/PG_15_202209061")).unwrap();
        for old in ["data.old-1", "bad"] {
            let leads_to = fs::read_link(at(old).join("pg_tblspc/16384")).unwrap();
            assert_eq!(leads_to, at("one.old-2"), "{old}");
        }
    }
}
