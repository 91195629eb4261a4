//! Settings that make a restored cluster recover to a target.
//!
//! Every target setting is written, the unused ones empty: one left over in the source's
//! `postgresql.conf` beside ours stops the server ("multiple recovery targets"). **The order counts**:
//! setting one target to nothing while another is set is the same error to the server
//! (`src/backend/access/transam/xlogrecovery.c`, `assign_recovery_target` and its siblings; up to 14
//! `src/backend/utils/misc/guc.c`), so the target that is meant comes after all the empty ones.
//!
//! Written to the end of `postgresql.auto.conf`, they win over every file; the server's command line
//! still wins over them. Signal files are the restore's to write.

use crate::base::Timestamp;

use super::{Error, Lsn, MajorVersion, Result, TimelineId};

/// Where recovery ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RecoveryTarget {
    /// At the end of the WAL that can be had.
    Latest,
    /// As soon as the backup is consistent.
    Immediate,
    /// At the first commit or abort after a moment.
    Time(Timestamp),
    /// At a position.
    Lsn(Lsn),
    /// At the commit or abort of a transaction. The server looks at the lower 32 bits only.
    Xid(u64),
    /// At a restore point (`pg_create_restore_point`).
    Name(String),
}

impl RecoveryTarget {
    /// The moment, where it is one.
    #[must_use]
    pub fn time(&self) -> Option<Timestamp> {
        match self {
            Self::Time(time) => Some(*time),
            _ => None,
        }
    }
}

impl std::fmt::Display for RecoveryTarget {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Latest => f.write_str("the end of the WAL"),
            Self::Immediate => f.write_str("the first consistent point of the backup"),
            Self::Time(time) => write!(f, "{}", time.format("%Y-%m-%d %H:%M:%S%.f UTC")),
            Self::Lsn(lsn) => write!(f, "LSN {lsn}"),
            Self::Xid(xid) => write!(f, "transaction {xid}"),
            Self::Name(name) => write!(f, "restore point {name:?}"),
        }
    }
}

/// What the server does when it has reached the target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum TargetAction {
    /// Wait, readable, for `pg_wal_replay_resume()`.
    Pause,
    /// Begin a new timeline and accept writes.
    Promote,
    /// Shut down.
    Shutdown,
}

/// Which timeline to recover along.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TargetTimeline {
    /// The newest that the archive has when the server starts. For standbys: elsewhere a plan names
    /// the number that it looked at.
    Latest,
    /// That of the backup.
    Current,
    /// This one.
    Number(TimelineId),
}

impl std::str::FromStr for TargetTimeline {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        match text {
            "latest" => Ok(Self::Latest),
            "current" => Ok(Self::Current),
            _ => TimelineId::from_decimal(text)
                .map(Self::Number)
                .map_err(|_| format!("{text:?} is neither latest, current nor a number")),
        }
    }
}

/// What a restored cluster shall do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecoverySettings {
    /// Where to end.
    pub target: RecoveryTarget,
    /// Whether a transaction, position or moment that equals the target is still replayed.
    pub inclusive: bool,
    /// What to do then.
    pub action: TargetAction,
    /// Along which timeline.
    pub timeline: TargetTimeline,
    /// The command that fetches a file of WAL.
    pub restore_command: String,
}

/// The names of the target settings that exclude each other.
const TARGETS: [&str; 5] = [
    "recovery_target",
    "recovery_target_name",
    "recovery_target_time",
    "recovery_target_xid",
    "recovery_target_lsn",
];

impl RecoverySettings {
    /// The settings for a server of `major`, in the order in which they must be written.
    ///
    /// # Errors
    /// [`Error::Unusable`] for a target that the server does not take, or an empty restore command.
    pub fn render(&self, major: MajorVersion) -> Result<Vec<(&'static str, String)>> {
        if self.restore_command.trim().is_empty() {
            return Err(unusable("restore_command", "is empty"));
        }
        let chosen = target(&self.target)?;
        let mut settings = vec![
            ("restore_command", self.restore_command.clone()),
            ("recovery_min_apply_delay", "0".to_owned()),
        ];
        if major <= MajorVersion::V15 {
            settings.push(("promote_trigger_file", String::new()));
        }
        let unused = TARGETS.iter().filter(|name| {
            let is_chosen = |chosen: &(&str, String)| chosen.0 == **name;
            !chosen.as_ref().is_some_and(is_chosen)
        });
        settings.extend(unused.map(|name| (*name, String::new())));
        settings.extend(chosen);
        let inclusive = if self.inclusive { "on" } else { "off" };
        settings.push(("recovery_target_inclusive", inclusive.to_owned()));
        settings.push(("recovery_target_timeline", timeline(self.timeline)));
        settings.push(("recovery_target_action", action(self.action).to_owned()));
        Ok(settings)
    }
}

fn target(target: &RecoveryTarget) -> Result<Option<(&'static str, String)>> {
    Ok(Some(match target {
        RecoveryTarget::Latest => return Ok(None),
        RecoveryTarget::Immediate => ("recovery_target", "immediate".to_owned()),
        RecoveryTarget::Time(time) => ("recovery_target_time", timestamp(*time)),
        RecoveryTarget::Lsn(lsn) if lsn.is_valid() => ("recovery_target_lsn", lsn.to_string()),
        RecoveryTarget::Lsn(_) => return Err(unusable("recovery_target_lsn", "is 0/0")),
        RecoveryTarget::Xid(xid) => ("recovery_target_xid", checked_xid(*xid)?.to_string()),
        RecoveryTarget::Name(name) => ("recovery_target_name", checked_name(name)?.to_owned()),
    }))
}

/// A moment with microseconds, which is the server's resolution, and a numeric offset: without a zone
/// it would be read in the server's own.
fn timestamp(time: Timestamp) -> String {
    time.format("%Y-%m-%d %H:%M:%S%.6f+00:00").to_string()
}

/// Numbers 0 to 2 never commit (`FirstNormalTransactionId`, `src/include/access/transam.h`).
fn checked_xid(xid: u64) -> Result<u64> {
    match xid & 0xFFFF_FFFF {
        0..=2 => Err(unusable("recovery_target_xid", "is not a normal transaction's")),
        _ => Ok(xid),
    }
}

/// `check_recovery_target_name`: below `MAXFNAMELEN`, 64 bytes. An empty one would mean no target.
fn checked_name(name: &str) -> Result<&str> {
    match name.len() {
        0 => Err(unusable("recovery_target_name", "is empty")),
        1..64 => Ok(name),
        _ => Err(unusable("recovery_target_name", "has more than 63 bytes")),
    }
}

fn unusable(what: &'static str, problem: &'static str) -> Error {
    Error::Unusable { what, problem }
}

fn timeline(timeline: TargetTimeline) -> String {
    match timeline {
        TargetTimeline::Latest => "latest".to_owned(),
        TargetTimeline::Current => "current".to_owned(),
        TargetTimeline::Number(number) => number.to_string(),
    }
}

/// As the setting has it.
#[must_use]
pub fn action(action: TargetAction) -> &'static str {
    match action {
        TargetAction::Pause => "pause",
        TargetAction::Promote => "promote",
        TargetAction::Shutdown => "shutdown",
    }
}

#[cfg(test)]
mod tests;
