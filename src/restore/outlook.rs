//! What can be said of a restore before its backup can be read: it lies in cold storage.

use std::fmt;

use super::chosen::Chosen;
use super::lost::Lost;
use super::plan_text::{lost_text, whole_seconds};
use crate::base::{ByteSize, Timestamp};
use crate::pg::Lsn;
use crate::repo::BackupId;

/// A plan without what the backup's own files say.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Outlook {
    /// The backup that leads to the target.
    pub backup: BackupId,
    /// When it was complete.
    pub backup_finished: Timestamp,
    /// What was asked for.
    pub target: String,
    /// The timeline that is followed.
    pub timeline: u32,
    /// Bytes of the files that are written.
    pub bytes: u64,
    /// How far WAL is replayed.
    pub through: Lsn,
    /// What the archive has and the restored cluster will not.
    pub lost: Option<Lost>,
    /// What should be looked at.
    pub warnings: Vec<String>,
}

impl Chosen<'_> {
    /// Which backup.
    #[must_use]
    pub fn backup_id(&self) -> &BackupId {
        &self.reached.way.backup.id
    }

    /// What can be said of it without reading a pack.
    #[must_use]
    pub fn outlook(&self) -> Outlook {
        let (way, reached) = (&self.reached.way, &self.reached);
        Outlook {
            backup: way.backup.id.clone(),
            backup_finished: way.backup.finished,
            target: self.options.target.to_string(),
            timeline: reached.history.timeline().get(),
            bytes: way.backup.totals.bytes,
            through: way.end,
            lost: reached.lost.clone(),
            warnings: reached.warnings.iter().chain(&way.notes).cloned().collect(),
        }
    }
}

impl fmt::Display for Outlook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "Restore to {}", self.target)?;
        let finished = whole_seconds(&self.backup_finished);
        writeln!(f, "  backup        {}, consistent at {finished}", self.backup)?;
        writeln!(f, "  timeline      {}", self.timeline)?;
        writeln!(f, "  writes        {}", ByteSize(self.bytes))?;
        writeln!(f, "  WAL           to {}", self.through)?;
        writeln!(f, "  lost          {}", lost_text(self.lost.as_ref()))?;
        for warning in &self.warnings {
            writeln!(f, "  warning       {warning}")?;
        }
        f.write_str("  The whole plan is made when the backup can be read: its files say what its server needs.")
    }
}
