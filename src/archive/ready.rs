//! Which files a server has ready to be archived: `pg_wal/archive_status/*.ready`.

use std::collections::{BTreeSet, BinaryHeap};
use std::io;
use std::path::Path;

use crate::base::Timestamp;
use crate::pg::WalFileName;

const READY: &[u8] = b".ready";

/// In the order in which the server asks for them: histories first, then by name (`ready_file_comparator`,
/// src/backend/postmaster/pgarch.c).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Turn {
    is_no_history: bool,
    name: String,
}

/// What is ready.
#[derive(Debug, Default)]
pub struct Ready {
    /// The first ones, in the server's order.
    pub first: Vec<String>,
    /// How many there are.
    pub count: u64,
    /// Of the names that were asked for, those that are ready.
    pub known: BTreeSet<String>,
}

/// Looks which files are ready in a folder of WAL; the first `count_max` that are not `known`.
///
/// # Errors
/// As the system's.
pub fn ready(wal: &Path, count_max: usize, is_known: impl Fn(&str) -> bool) -> io::Result<Ready> {
    let mut found = Ready::default();
    let mut first = BinaryHeap::new();
    for entry in std::fs::read_dir(wal.join("archive_status"))? {
        let file_name = entry?.file_name();
        let Some(name) = file_name.as_encoded_bytes().strip_suffix(READY) else { continue };
        let Ok(parsed) = WalFileName::parse(name) else { continue };
        found.count += 1;
        let name = parsed.to_string();
        if is_known(&name) {
            found.known.insert(name);
            continue;
        }
        let is_no_history = !matches!(parsed, WalFileName::History(_));
        first.push(Turn { is_no_history, name });
        if first.len() > count_max {
            first.pop();
        }
    }
    found.first = first.into_sorted_vec().into_iter().map(|turn| turn.name).collect();
    Ok(found)
}

/// Since when the file that is ready for the longest time has been: by the time of its mark, which the
/// server makes when the file is complete. Nothing when none is.
///
/// # Errors
/// As the system's.
pub fn oldest(wal: &Path) -> io::Result<Option<(String, Timestamp)>> {
    let first = ready(wal, 1, |_| false)?.first;
    let Some(name) = first.into_iter().next() else { return Ok(None) };
    let mark = wal.join("archive_status").join(format!("{name}.ready"));
    match std::fs::metadata(mark).and_then(|metadata| metadata.modified()) {
        Ok(since) => Ok(Some((name, since.into()))),
        // Archived since.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// What the server of a data directory says of itself: `starting`, `stopping`, `ready`, `standby`
/// (`PM_STATUS_...`, src/include/utils/pidfile.h, in the eighth line of `postmaster.pid`). Nothing when
/// none runs.
#[must_use]
pub fn status_line(data_directory: &Path) -> Option<String> {
    let lock = std::fs::read_to_string(data_directory.join("postmaster.pid")).ok()?;
    Some(lock.lines().nth(7)?.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_server_s_order_and_no_more_than_asked_for() {
        let dir = tempfile::tempdir().unwrap();
        let status = dir.path().join("archive_status");
        std::fs::create_dir(&status).unwrap();
        assert!(oldest(dir.path()).unwrap().is_none());
        for name in [
            "000000020000000000000003.ready",
            "000000010000000000000004.partial.ready",
            "000000010000000000000003.ready",
            "000000010000000000000002.done",
            "0000000A.history.ready",
            "00000002.history.ready",
            "000000010000000000000003.00000028.backup.ready",
            "junk.ready",
            ".ready",
        ] {
            std::fs::File::create(status.join(name)).unwrap();
        }
        let all = ready(dir.path(), 100, |_| false).unwrap();
        assert_eq!(
            all.first,
            [
                "00000002.history",
                "0000000A.history",
                "000000010000000000000003",
                "000000010000000000000003.00000028.backup",
                "000000010000000000000004.partial",
                "000000020000000000000003",
            ]
        );
        let known = "000000010000000000000003";
        let two = ready(dir.path(), 2, |name| name == known || name == "00000002.history").unwrap();
        assert_eq!(two.first, ["0000000A.history", "000000010000000000000003.00000028.backup"]);
        assert_eq!((two.count, two.known.len()), (6, 2));
        assert_eq!(oldest(dir.path()).unwrap().unwrap().0, "00000002.history");
        std::fs::remove_dir_all(&status).unwrap();
        assert!(ready(dir.path(), 1, |_| false).is_err());
    }
}
