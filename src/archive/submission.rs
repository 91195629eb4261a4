//! What a server asks for, how much may be done ahead of that, and what is going on.

use std::sync::Arc;

use super::folders::ServerFolders;
use super::push::PushOptions;
use crate::repo::Origin;

/// How much is done ahead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PushLimits {
    /// How many files are stored at a time, the one that is asked for included.
    pub jobs: usize,
    /// How many bytes of files may be under way ahead; one file may in any case.
    pub bytes: u64,
    /// How many files may be stored that have not been asked for.
    pub window: usize,
}

/// A file that a server asks to be archived.
#[derive(Debug, Clone)]
pub struct Submission {
    /// The server's folders.
    pub folders: Arc<ServerFolders>,
    /// The file's name in the folder of the WAL.
    pub name: String,
    /// Which server this is, for the record.
    pub origin: Origin,
    /// As [`PushOptions::accept_unknown_wal`].
    pub accept_unknown_wal: bool,
}

/// What is going on.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct PushStatus {
    /// Files that are being stored, asked for or not.
    pub under_way: usize,
    /// Files that are stored and have not been asked for.
    pub ahead: usize,
    /// Bytes of files that are being stored ahead.
    pub bytes: u64,
}

impl Submission {
    pub(super) fn options(&self, is_alone: bool) -> PushOptions {
        PushOptions {
            data_directory: self.folders.data().to_owned(),
            accept_unknown_wal: self.accept_unknown_wal,
            origin: self.origin.clone(),
            is_alone,
        }
    }
}
