//! What differs between major versions: one table, and the ways to find a cluster's major.
//!
//! Unknown versions are refused by name, not guessed: a format that changed silently is the most
//! expensive kind of damage.

use std::fmt;

use super::{Error, Result, read};

/// A supported major version, ordered by age.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs, reason = "the names say it")]
pub enum MajorVersion {
    V14,
    V15,
    V16,
    V17,
    V18,
}

/// Which names a major's backup functions have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BackupFunctions {
    /// `pg_start_backup(label, fast, exclusive)` and `pg_stop_backup(exclusive, wait)`.
    StartStopBackup,
    /// `pg_backup_start(label, fast)` and `pg_backup_stop(wait)`.
    BackupStartStop,
}

/// A major's constants.
#[derive(Debug, PartialEq, Eq)]
pub struct Constants {
    /// The number that everybody calls it by.
    pub number: u8,
    /// `PG_CONTROL_VERSION`, `src/include/catalog/pg_control.h`.
    pub control_version: u32,
    /// `CATALOG_VERSION_NO` of the releases, `src/include/catalog/catversion.h`.
    pub catalog_version: u32,
    /// `XLOG_PAGE_MAGIC`, `src/include/access/xlog_internal.h`.
    pub wal_page_magic: u16,
    /// How a backup is begun and ended.
    pub backup_functions: BackupFunctions,
}

const TABLE: [Constants; 5] = [
    Constants {
        number: 14,
        control_version: 1300,
        catalog_version: 202_107_181,
        wal_page_magic: 0xD10D,
        backup_functions: BackupFunctions::StartStopBackup,
    },
    Constants {
        number: 15,
        control_version: 1300,
        catalog_version: 202_209_061,
        wal_page_magic: 0xD110,
        backup_functions: BackupFunctions::BackupStartStop,
    },
    Constants {
        number: 16,
        control_version: 1300,
        catalog_version: 202_307_071,
        wal_page_magic: 0xD113,
        backup_functions: BackupFunctions::BackupStartStop,
    },
    Constants {
        number: 17,
        control_version: 1700,
        catalog_version: 202_406_281,
        wal_page_magic: 0xD116,
        backup_functions: BackupFunctions::BackupStartStop,
    },
    Constants {
        number: 18,
        control_version: 1800,
        catalog_version: 202_506_291,
        wal_page_magic: 0xD118,
        backup_functions: BackupFunctions::BackupStartStop,
    },
];

impl MajorVersion {
    /// All supported majors, oldest first.
    pub const ALL: [Self; 5] = [Self::V14, Self::V15, Self::V16, Self::V17, Self::V18];

    /// The row of the table.
    #[must_use]
    pub const fn constants(self) -> &'static Constants {
        let [v14, v15, v16, v17, v18] = &TABLE;
        match self {
            Self::V14 => v14,
            Self::V15 => v15,
            Self::V16 => v16,
            Self::V17 => v17,
            Self::V18 => v18,
        }
    }

    /// The number that everybody calls it by.
    #[must_use]
    pub const fn number(self) -> u8 {
        self.constants().number
    }

    /// From the setting `server_version_num`, such as 150020.
    ///
    /// # Errors
    /// [`Error::UnknownVersion`].
    pub fn from_server_version_num(number: u32) -> Result<Self> {
        Self::find(|row| u32::from(row.number) == number / 10_000)
            .ok_or_else(|| unknown("server version", number))
    }

    /// From the content of `PG_VERSION`, such as `15` and a line end
    /// (`src/backend/utils/init/miscinit.c`, `ValidatePgVersion`).
    ///
    /// # Errors
    /// [`Error::Malformed`] when it is not a number, [`Error::UnknownVersion`] for the others.
    pub fn from_pg_version(content: &[u8]) -> Result<Self> {
        let text = content.trim_ascii();
        let digits = text.split(|byte| *byte == b'.').next().unwrap_or_default();
        let number = read::decimal(digits)
            .ok_or_else(|| Error::malformed("the content of PG_VERSION", content))?;
        Self::find(|row| u32::from(row.number) == number)
            .ok_or_else(|| unknown("PG_VERSION", text.escape_ascii()))
    }

    /// From the magic number of a WAL page.
    ///
    /// # Errors
    /// [`Error::UnknownVersion`].
    pub fn from_wal_page_magic(magic: u16) -> Result<Self> {
        Self::find(|row| row.wal_page_magic == magic)
            .ok_or_else(|| unknown("WAL page magic", format!("{magic:04X}")))
    }

    /// From the versions in `pg_control`. The control version alone does not tell 14, 15 and 16
    /// apart; builds with a catalog of their own are not recognised.
    ///
    /// # Errors
    /// [`Error::UnknownVersion`].
    pub fn from_control_file(control_version: u32, catalog_version: u32) -> Result<Self> {
        Self::find(|row| {
            row.control_version == control_version && row.catalog_version == catalog_version
        })
        .ok_or_else(|| unknown("catalog version", catalog_version))
    }

    fn find(matches: impl Fn(&Constants) -> bool) -> Option<Self> {
        Self::ALL.into_iter().find(|major| matches(major.constants()))
    }
}

impl fmt::Display for MajorVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.number().fmt(f)
    }
}

fn unknown(what: &'static str, found: impl fmt::Display) -> Error {
    Error::UnknownVersion { what, found: found.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pg::{ControlFile, fixture};

    #[test]
    fn the_table_is_what_servers_say() {
        for major in MajorVersion::ALL {
            let constants = major.constants();
            let control = ControlFile::parse(&fixture::bytes(major, "pg_control")).unwrap();
            assert_eq!(control.control_version, constants.control_version, "{major}");
            assert_eq!(control.catalog_version, constants.catalog_version, "{major}");
            assert_eq!(control.major(), Ok(major));
            assert_eq!(MajorVersion::from_wal_page_magic(constants.wal_page_magic), Ok(major));
            let number = u32::from(major.number());
            assert_eq!(MajorVersion::from_server_version_num(number * 10_000 + 3), Ok(major));
            assert_eq!(MajorVersion::from_pg_version(format!("{number}\n").as_bytes()), Ok(major));
        }
    }

    #[test]
    fn unknown_versions_are_named() {
        let error = MajorVersion::from_server_version_num(190_001).unwrap_err();
        assert!(error.to_string().contains("190001"), "{error}");
        assert!(matches!(
            MajorVersion::from_pg_version(b"9.6\n"),
            Err(Error::UnknownVersion { .. })
        ));
        assert!(matches!(MajorVersion::from_pg_version(b"15devel"), Err(Error::Malformed { .. })));
        assert!(matches!(MajorVersion::from_pg_version(b""), Err(Error::Malformed { .. })));
        assert!(MajorVersion::from_wal_page_magic(0xD121).is_err());
        assert!(MajorVersion::from_control_file(1700, 202_209_061).is_err());
    }
}
