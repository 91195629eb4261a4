//! What lies where replay would make a tablespace.
//!
//! A server keeps all of a tablespace in one directory of the location, named after its version
//! (`TABLESPACE_VERSION_DIRECTORY`, src/include/common/relpath.h): `PG_15_202209061`. Replay takes one that
//! is there for its own (`create_tablespace_directories`, src/backend/commands/tablespace.c), and fails
//! where the location itself is missing.

use std::io::{self, ErrorKind};
use std::path::Path;

use crate::pg::relation::is_version_directory;

/// What lies at a tablespace's location.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Location {
    /// Nothing is there.
    Missing,
    /// A directory without a server's files.
    Free,
    /// A server's directory in it: its name.
    Taken(String),
}

impl Location {
    /// Looks.
    ///
    /// # Errors
    /// What the system says where the location is no directory or cannot be listed.
    pub fn of(path: &Path) -> io::Result<Self> {
        let entries = match std::fs::read_dir(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Self::Missing),
            other => other?,
        };
        for entry in entries {
            let name = entry?.file_name();
            if is_version_directory(name.as_encoded_bytes()) {
                return Ok(Self::Taken(name.to_string_lossy().into_owned()));
            }
        }
        Ok(Self::Free)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_server_s_directory_takes_a_location() {
        let scratch = tempfile::tempdir().unwrap();
        let place = scratch.path().join("ts");
        assert_eq!(Location::of(&place).unwrap(), Location::Missing);
        for other in ["lost+found", "PG_VERSION", "PG_15_", "PG_x_1", "my PG_15_1"] {
            std::fs::create_dir_all(place.join(other)).unwrap();
        }
        assert_eq!(Location::of(&place).unwrap(), Location::Free);
        std::fs::create_dir(place.join("PG_15_202209061")).unwrap();
        assert_eq!(Location::of(&place).unwrap(), Location::Taken("PG_15_202209061".into()));
        let file = scratch.path().join("file");
        std::fs::OpenOptions::new().create(true).append(true).open(&file).unwrap();
        Location::of(&file).unwrap_err();
    }
}
