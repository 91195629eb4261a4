//! What may be typed after `restore`. The comments here are the help texts.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use crate::base::Timestamp;
use crate::pg::Lsn;
use crate::pg::recovery::TargetAction;
use crate::repo::BackupId;
use crate::restore::{TablespaceMapping, TimelineChoice, parse_time};
use crate::storage::ThawSpeed;

/// Of `restore`.
#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("target").multiple(false))]
pub struct RestoreArgs {
    /// The directory to restore into [default: the configuration's data directory, if it is empty]
    #[arg(long, value_name = "DIR")]
    pub to: Option<PathBuf>,
    /// From this epoch's backups and WAL [default: the newest]
    #[arg(long, value_name = "N")]
    pub epoch: Option<u32>,
    /// Start from this backup [default: the newest that leads to the target]
    #[arg(long, value_name = "ID")]
    pub backup: Option<BackupId>,
    /// Stop at this time; a zone is needed: '2026-11-20 08:30:00+00'
    #[arg(long, value_name = "T", group = "target", value_parser = parse_time)]
    pub target_time: Option<Timestamp>,
    /// Stop at this position in the WAL
    #[arg(long, value_name = "LSN", group = "target")]
    pub target_lsn: Option<Lsn>,
    /// Stop when this transaction has ended
    #[arg(long, value_name = "X", group = "target")]
    pub target_xid: Option<u64>,
    /// Stop at this restore point
    #[arg(long, value_name = "NAME", group = "target")]
    pub target_name: Option<String>,
    /// Stop as soon as the backup is consistent
    #[arg(long, group = "target")]
    pub target_immediate: bool,
    /// Which timeline to follow: latest, current, or a number
    #[arg(long, value_name = "TIMELINE", default_value = "latest")]
    pub target_timeline: TimelineChoice,
    /// What the server does at the target
    #[arg(long, value_name = "ACTION", default_value = "pause")]
    pub target_action: ActionArg,
    /// Stop just before the target instead of just after it
    #[arg(long)]
    pub target_exclusive: bool,
    /// Make a standby
    #[arg(long)]
    pub standby: bool,
    /// Go over what is in the directory: blocks that are the backup's stay, others are written, what is not in
    /// the backup is removed
    #[arg(long, conflicts_with = "rename_old")]
    pub delta: bool,
    /// With --delta: give up WAL that only this directory has
    #[arg(long, requires = "delta")]
    pub discard_wal: bool,
    /// Whether the restored cluster archives [default: only in its own place on its own host]
    #[arg(long, value_name = "WHETHER")]
    pub archive: Option<Switch>,
    /// Put a tablespace elsewhere; may be repeated
    #[arg(long, value_name = "OLD=NEW", value_parser = mapping)]
    pub tablespace: Vec<TablespaceMapping>,
    /// Write the configuration files that lay outside the data directory into this directory
    #[arg(long, value_name = "DIR")]
    pub config_to: Option<PathBuf>,
    /// Move a directory that is in the way aside, to DIR.old-<time>, instead of refusing
    #[arg(long)]
    pub rename_old: bool,
    /// Thaw what lies in cold storage that fast, and wait for it; without, a cold backup is not restored
    #[arg(long, value_name = "SPEED")]
    pub thaw: Option<SpeedArg>,
    /// How many days what was thawed stays readable [default: tiering.thaw_days]
    #[arg(long, value_name = "N", requires = "thaw", value_parser = clap::value_parser!(u16).range(1..=365))]
    pub thaw_days: Option<u16>,
    /// Do not wait for the thaw: exit with 16; the same command goes on later
    #[arg(long, requires = "thaw")]
    pub no_wait: bool,
    /// How many workers write [default: the configuration's]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    pub jobs: Option<u16>,
    /// Print the plan and change nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Do not ask
    #[arg(long)]
    pub yes: bool,
    /// Print the plan (or the result) as JSON
    #[arg(long)]
    pub json: bool,
}

/// How fast cold objects are thawed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum SpeedArg {
    /// Minutes, where there is capacity; not from DEEP_ARCHIVE
    Expedited,
    /// Hours
    Standard,
    /// Hours to days, the cheapest
    Bulk,
}

impl From<SpeedArg> for ThawSpeed {
    fn from(typed: SpeedArg) -> Self {
        match typed {
            SpeedArg::Expedited => Self::Expedited,
            SpeedArg::Standard => Self::Standard,
            SpeedArg::Bulk => Self::Bulk,
        }
    }
}

/// What recovery does at its target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ActionArg {
    /// Stay readable and wait for a decision
    Pause,
    /// Open for writing, on a new timeline
    Promote,
    /// Stop the server
    Shutdown,
}

impl From<ActionArg> for TargetAction {
    fn from(typed: ActionArg) -> Self {
        match typed {
            ActionArg::Pause => Self::Pause,
            ActionArg::Promote => Self::Promote,
            ActionArg::Shutdown => Self::Shutdown,
        }
    }
}

/// On or off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Switch {
    /// Yes
    On,
    /// No
    Off,
}

fn mapping(text: &str) -> Result<TablespaceMapping, String> {
    match text.split_once('=') {
        Some((old, new)) if !old.is_empty() && !new.is_empty() => {
            Ok(TablespaceMapping { old: old.into(), new: new.into() })
        }
        _ => {
            Err("write OLD=NEW: the tablespace's old location or its oid, then its new place"
                .into())
        }
    }
}
