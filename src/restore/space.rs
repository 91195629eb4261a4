//! Room for what a restore writes, file system by file system.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;

use super::conf_file::{AUTO_CONF, CONF, configuration};
use super::error::{Error, Result};
use super::options::Options;
use super::strangers::Inventory;
use crate::base::{ByteSize, Ctx};
use crate::pg::config_file::ConfigFile;
use crate::repo::{OpenedBackup, RowKind};

/// File systems that may store less than they are given, by their magic numbers in `statfs(2)`.
const COMPRESSING: [(u64, &str); 2] = [(0x2FC1_2FC1, "zfs"), (0x9123_683E, "btrfs")];

/// PostgreSQL's default of `max_wal_size`.
const MAX_WAL_SIZE_DEFAULT: u64 = 1 << 30;

/// One file system that a restore writes to.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Space {
    /// Data directory and tablespaces on it.
    pub places: Vec<PathBuf>,
    /// Bytes of files.
    pub data: u64,
    /// Bytes of WAL that recovery keeps at a time; nothing where that is not known.
    pub wal: Option<u64>,
    /// Free bytes.
    pub free: u64,
    /// Bytes of what is not in the backup and goes first.
    pub freed: u64,
    /// The file system's name, where it compresses.
    pub compresses: Option<&'static str>,
}

impl Space {
    /// What is written at most.
    #[must_use]
    pub fn needed(&self) -> u64 {
        self.data.saturating_add(self.wal.unwrap_or(0))
    }

    fn sentence(&self) -> String {
        let places: Vec<_> = self.places.iter().map(|path| path.display().to_string()).collect();
        let wal = self.wal.map(|wal| format!(" ({} of it WAL during recovery)", ByteSize(wal)));
        let freed = match self.freed {
            0 => String::new(),
            freed => format!(", {} more when what is not in the backup is gone", ByteSize(freed)),
        };
        format!(
            "{}: {} are needed{} and {} are free{freed}",
            places.join(", "),
            ByteSize(self.needed()),
            wal.unwrap_or_default(),
            ByteSize(self.free)
        )
    }

    fn room(&self) -> u64 {
        self.free.saturating_add(self.freed)
    }
}

/// What each file system needs and has; where the restore goes over what is there, `over` says by how much files
/// grow, and what goes first.
pub(super) fn spaces(
    ctx: &Ctx,
    options: &Options,
    opened: &OpenedBackup,
    tablespaces: &[(u32, String, PathBuf)],
    (over, wal_bytes): (Option<&Inventory>, u64),
) -> Result<Vec<Space>> {
    let growth = over.map(|over| &over.growth);
    let in_tablespaces = match growth {
        None if tablespaces.is_empty() => BTreeMap::new(),
        None => bytes_by_tablespace(ctx, opened)?,
        Some(growth) => growth.iter().filter_map(|(oid, bytes)| Some(((*oid)?, *bytes))).collect(),
    };
    let total = match growth {
        None => opened.manifest().summary.totals.bytes,
        Some(growth) => growth.values().sum(),
    };
    let elsewhere: u64 = in_tablespaces.values().sum();
    let mut parts = vec![(options.to.clone(), total.saturating_sub(elsewhere), true)];
    for (oid, _, path) in tablespaces {
        parts.push((path.clone(), in_tablespaces.get(oid).copied().unwrap_or(0), false));
    }
    let wal = max_wal_size(opened)?.map(|most| most.min(wal_bytes));
    let mut systems: BTreeMap<u64, Space> = BTreeMap::new();
    for (path, data, has_wal) in parts {
        let existing = path.ancestors().find(|ancestor| ancestor.exists()).unwrap_or(&path);
        let looked = Error::file("look at", existing);
        let device = std::fs::metadata(existing).map_err(looked)?.dev();
        let looked = |error: rustix::io::Errno| Error::file("look at", existing)(error.into());
        let free = rustix::fs::statvfs(existing).map_err(looked)?;
        let kind = rustix::fs::statfs(existing).map_err(looked)?.f_type;
        let magic = kind.cast_unsigned() & 0xFFFF_FFFF;
        let space = systems.entry(device).or_insert_with(|| Space {
            places: Vec::new(),
            data: 0,
            wal: None,
            free: free.f_bavail.saturating_mul(free.f_frsize),
            freed: over.and_then(|over| over.freed.get(&device).copied()).unwrap_or(0),
            compresses: COMPRESSING
                .iter()
                .find(|(known, _)| *known == magic)
                .map(|(_, name)| *name),
        });
        space.places.push(path);
        space.data = space.data.saturating_add(data);
        if has_wal {
            space.wal = wal;
        }
    }
    Ok(systems.into_values().collect())
}

/// Refuses what cannot fit; warnings about what may not.
pub(super) fn check(spaces: &[Space]) -> Result<Vec<String>> {
    let mut warnings = Vec::new();
    for space in spaces.iter().filter(|space| space.needed() > space.room()) {
        match space.compresses {
            Some(name) => warnings.push(format!(
                "{}; {name} may compress it enough, which nobody knows before",
                space.sentence()
            )),
            // The WAL is an upper bound.
            None if space.data <= space.room() => {
                warnings.push(format!("{}: recovery may run out of room", space.sentence()));
            }
            None => return Err(Error::Refused { what: space.sentence() }),
        }
    }
    Ok(warnings)
}

fn bytes_by_tablespace(ctx: &Ctx, opened: &OpenedBackup) -> Result<BTreeMap<u32, u64>> {
    let mut bytes = BTreeMap::new();
    let mut rows = opened.rows()?;
    while let Some(row) = rows.next_row()? {
        ctx.cancel.check()?;
        if row.kind == RowKind::File
            && let Some(oid) = tablespace_of(&row.path)
        {
            *bytes.entry(oid).or_default() += row.size;
        }
    }
    Ok(bytes)
}

/// The tablespace in whose place a file lies.
pub(super) fn tablespace_of(path: &[u8]) -> Option<u32> {
    let rest = path.strip_prefix(b"pg_tblspc/")?;
    let oid = rest.split(|byte| *byte == b'/').next()?;
    std::str::from_utf8(oid).ok()?.parse().ok()
}

/// `max_wal_size` as far as the files in the backup tell: a file that includes others, or one that
/// lies outside, leaves it unknown.
fn max_wal_size(opened: &OpenedBackup) -> Result<Option<u64>> {
    let automatic = configuration(opened, AUTO_CONF)?.unwrap_or_default();
    let file = configuration(opened, CONF)?;
    Ok(size_in(&automatic, file.as_ref()))
}

fn size_in(automatic: &ConfigFile, file: Option<&ConfigFile>) -> Option<u64> {
    const NAME: &str = "max_wal_size";
    if let Some(value) = automatic.find(NAME) {
        return megabytes(value);
    }
    let file = file?;
    match file.find(NAME) {
        Some(value) if file.includes.is_empty() => megabytes(value),
        None if file.includes.is_empty() => Some(MAX_WAL_SIZE_DEFAULT),
        _ => None,
    }
}

/// A size as the server reads it: a number of megabytes, or one with its unit.
fn megabytes(value: &str) -> Option<u64> {
    let value = value.trim();
    let digits = value.find(|c: char| !c.is_ascii_digit()).unwrap_or(value.len());
    let (number, unit) = value.split_at(digits);
    let factor: u64 = match unit.trim() {
        "" | "MB" => 1 << 20,
        "kB" => 1 << 10,
        "GB" => 1 << 30,
        "TB" => 1 << 40,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn space(data: u64, wal: Option<u64>, free: u64, compresses: Option<&'static str>) -> Space {
        Space { places: vec!["/data".into()], data, wal, free, freed: 0, compresses }
    }

    /// A directory that fits once its strangers are gone, which go first, was refused.
    #[test]
    fn d2026_11_29_what_goes_first_makes_room() {
        let tight = Space { freed: 1 << 30, ..space(2 << 30, None, 1 << 30, None) };
        assert_eq!(check(std::slice::from_ref(&tight)).unwrap(), Vec::<String>::new());
        let refused = check(&[Space { data: 3 << 30, ..tight }]).unwrap_err().to_string();
        let expected = "/data: 3.0 GiB are needed and 1.0 GiB are free, 1.0 GiB more when what is not in the \
                        backup is gone";
        assert_eq!(refused, expected);
    }

    #[test]
    fn what_cannot_fit_is_refused_and_what_may_not_is_said() {
        assert_eq!(check(&[space(10, Some(5), 15, None)]).unwrap(), Vec::<String>::new());
        let refused = check(&[space(10, None, 100, None), space(2 << 30, None, 1 << 30, None)]);
        let refused = refused.unwrap_err().to_string();
        assert_eq!(refused, "/data: 2.0 GiB are needed and 1.0 GiB are free");
        let tight = check(&[space(1 << 30, Some(1 << 30), 1 << 30, None)]).unwrap();
        assert!(tight[0].contains("1.0 GiB of it WAL during recovery"), "{tight:?}");
        let squeezed = check(&[space(2 << 30, None, 1 << 30, Some("zfs"))]).unwrap();
        assert!(squeezed[0].ends_with("zfs may compress it enough, which nobody knows before"));
    }

    #[test]
    fn the_size_of_wal_is_known_only_when_all_files_are() {
        let file = |text: &str| ConfigFile::parse(text.as_bytes());
        let none = ConfigFile::default();
        assert_eq!(size_in(&none, None), None, "the file lies outside");
        assert_eq!(size_in(&none, Some(&file("port = 1"))), Some(1 << 30));
        assert_eq!(size_in(&none, Some(&file("max_wal_size = 2GB"))), Some(2 << 30));
        assert_eq!(size_in(&none, Some(&file("max_wal_size = 64"))), Some(64 << 20));
        assert_eq!(size_in(&none, Some(&file("include 'a'\nmax_wal_size = 64"))), None);
        assert_eq!(size_in(&file("max_wal_size = '3 GB'"), None), Some(3 << 30));
        assert_eq!(size_in(&file("max_wal_size = many"), None), None);
    }

    #[test]
    fn files_belong_to_the_tablespace_in_their_path() {
        assert_eq!(tablespace_of(b"pg_tblspc/16400/PG_15_202209061/5/1"), Some(16400));
        assert_eq!(tablespace_of(b"base/16400/1"), None);
        assert_eq!(tablespace_of(b"pg_tblspc/x/1"), None);
    }
}
