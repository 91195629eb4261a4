//! What a data directory says of its server: which cluster it is, and whether it may archive.

use std::path::Path;
use std::time::Duration;

use super::error::{Error, Result};
use crate::pg::ControlFile;

/// A file in a restored data directory that must not archive: a copy never acts as its source.
pub const MARKER: &str = "pgkeep_restored.json";

/// A copy never acts as its source.
///
/// # Errors
/// [`Error::Copy`]; [`Error::File`] where nobody can tell.
pub(super) fn refuse_copy(data_directory: &Path) -> Result<()> {
    let marker = data_directory.join(MARKER);
    match marker.try_exists() {
        Ok(false) => Ok(()),
        Ok(true) => Err(Error::Copy { data_directory: data_directory.to_owned() }),
        Err(source) => Err(Error::File { action: "look for", path: marker, source }),
    }
}

/// How often the control file is read before its content counts as it is: a second, where a write takes a
/// millisecond.
const CONTROL_FILE_TRIES: u32 = 100;
const CONTROL_FILE_PAUSE: Duration = Duration::from_millis(10);

/// Reads a data directory's control file, until its checksum fits: the server overwrites it in place, and
/// a reading can be torn.
///
/// # Errors
/// [`Error::File`], [`Error::Content`].
pub fn read_control_file(data_directory: &Path) -> Result<ControlFile> {
    let path = data_directory.join("global/pg_control");
    let mut tries = 1;
    loop {
        let bytes = std::fs::read(&path).map_err(|source| Error::File {
            action: "read",
            path: path.clone(),
            source,
        })?;
        match ControlFile::parse(&bytes) {
            Err(error) if tries >= CONTROL_FILE_TRIES => {
                return Err(Error::Content { path, why: error.to_string() });
            }
            Err(_) => std::thread::sleep(CONTROL_FILE_PAUSE),
            Ok(control) => return Ok(control),
        }
        tries += 1;
    }
}
