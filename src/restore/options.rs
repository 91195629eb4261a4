//! What the caller may choose about a restore.

use std::path::PathBuf;

use super::installed::ProgramPlaces;
use super::server_now::ServerNow;
use super::{Target, TimelineChoice};
use crate::pg::recovery::TargetAction;
use crate::repo::BackupId;

/// A tablespace that goes elsewhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TablespaceMapping {
    /// Its location in the backup, or its oid.
    pub old: String,
    /// Where it goes.
    pub new: PathBuf,
}

/// Whether the restored cluster archives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Archiving {
    /// As a copy beside its source: it does not archive, subscribe, stream or run jobs.
    Off,
    /// As the cluster itself.
    On,
}

impl Options {
    /// Whether the restored server goes on to whatever the archive has when it asks, beyond what a plan
    /// has seen: a standby without a target.
    #[must_use]
    pub fn follows(&self) -> bool {
        self.standby && self.target == Target::Latest
    }
}

#[cfg(test)]
impl Options {
    /// To the end of the WAL, as a copy, with nothing else chosen.
    pub(super) fn of_a_test(to: &std::path::Path) -> Self {
        Self {
            to: to.into(),
            backup: None,
            target: Target::Latest,
            inclusive: true,
            timeline: TimelineChoice::Latest,
            action: TargetAction::Promote,
            standby: false,
            archiving: Archiving::Off,
            archiving_is_default: true,
            tablespaces: Vec::new(),
            config_to: None,
            rename_old: false,
            delta: false,
            discard_wal: false,
            repository_folders: Vec::new(),
            data_directory: None,
            own_files: Vec::new(),
            jobs: 1,
            restore_command: RestoreCommand { program: Vec::new(), epoch: None },
            server: None,
            user: None,
            programs: ProgramPlaces { configured: None, root: "/".into(), path: Vec::new() },
        }
    }
}

/// How the restored server will call pgkeep.
#[derive(Debug, Clone)]
pub struct RestoreCommand {
    /// The program and its arguments up to `archive-get`, unquoted.
    pub program: Vec<String>,
    /// The epoch that it stays in; the newest at the time of the call when absent.
    pub epoch: Option<u32>,
}

/// What the caller may choose.
#[derive(Debug, Clone)]
pub struct Options {
    /// The data directory to make.
    pub to: PathBuf,
    /// A backup by name; otherwise the best for the target.
    pub backup: Option<BackupId>,
    /// Where recovery ends.
    pub target: Target,
    /// Whether what equals the target is still replayed.
    pub inclusive: bool,
    /// Along which timeline.
    pub timeline: TimelineChoice,
    /// What the server does at the target.
    pub action: TargetAction,
    /// Make a standby.
    pub standby: bool,
    /// Whether it archives.
    pub archiving: Archiving,
    /// Nobody asked for that: it is what the caller found right just now.
    pub archiving_is_default: bool,
    /// Tablespaces that go elsewhere.
    pub tablespaces: Vec<TablespaceMapping>,
    /// Where configuration files outside the data directory go.
    pub config_to: Option<PathBuf>,
    /// Moves what is in the way aside.
    pub rename_old: bool,
    /// Goes over what is there: what has the backup's content stays, and what is not in the backup goes.
    pub delta: bool,
    /// What of WAL only the directory has that is gone over may go.
    pub discard_wal: bool,
    /// Folders that hold repositories here: a restore that removes what is not in the backup must not find
    /// one where it writes.
    pub repository_folders: Vec<PathBuf>,
    /// The cluster's own data directory on this host, as configured: what its links lead to is not written over for
    /// another one.
    pub data_directory: Option<PathBuf>,
    /// Configuration, keys and passphrases that pgkeep itself needs on this host: nor one of these.
    pub own_files: Vec<PathBuf>,
    /// How many workers write.
    pub jobs: usize,
    /// How recovery fetches WAL.
    pub restore_command: RestoreCommand,
    /// What the cluster's own server said just now, where it was asked and answered.
    pub server: Option<ServerNow>,
    /// The role that the printed commands connect as, where the configuration names one.
    pub user: Option<String>,
    /// Where the server's programs are looked for.
    pub programs: ProgramPlaces,
}
