//! Why something is kept, in words that `expire` and `info` share.

use std::fmt;

use serde::Serialize;

use super::calendar::Period;
use crate::base::Timestamp;
use crate::repo::BackupId;

/// Why a backup stays. One reason is enough.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// It represents a day, week, month or year.
    Period(Period),
    /// It is one of the newest.
    Newest,
    /// It is one of the newest good fulls.
    LastFull,
    /// It is the newest full, and not a good one.
    NewestFull,
    /// It was finished within the window.
    Window,
    /// The oldest moments of the window are restored from it.
    WindowStart,
    /// Others of its chain lie in the window.
    WindowChain,
    /// It belongs to the last chain.
    LastChain,
    /// Somebody keeps it.
    Pinned {
        /// Why.
        reason: String,
        /// Until when.
        until: Option<Timestamp>,
    },
    /// A kept backup stands on it.
    ParentOf(BackupId),
    /// A running backup stands on it.
    Running(BackupId),
    /// A backup that was interrupted stands on it, and may be completed late.
    Interrupted(BackupId),
    /// Somebody reads it.
    InUse(String),
    /// A backup whose manifest cannot be read may stand on it.
    Unreadable(String),
    /// It is to go to another repository first.
    NotMoved(String),
    /// It says that it was finished in the future, so a clock is wrong, and no rule of time counts.
    Future,
    /// No rule keeps it, and nobody can remove it before then: a deletion would only hide it.
    Locked(Timestamp),
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Period(period) => period.fmt(f),
            Self::Newest => f.write_str("one of the newest"),
            Self::NewestFull => f.write_str("newest full, with invalid pages or without its WAL"),
            Self::LastFull => f.write_str("last good full"),
            Self::Window => f.write_str("window"),
            Self::WindowStart => f.write_str("start of the window"),
            Self::WindowChain => f.write_str("its chain is in the window"),
            Self::LastChain => f.write_str("last chain"),
            Self::Pinned { reason, until: None } => write!(f, "pinned: {reason}"),
            Self::Pinned { reason, until: Some(until) } => {
                write!(f, "pinned until {}: {reason}", until.format("%Y-%m-%d %H:%M:%S UTC"))
            }
            Self::ParentOf(id) => write!(f, "parent of {id}"),
            Self::Running(id) => write!(f, "parent of {id}, which is running"),
            Self::Interrupted(id) => write!(f, "parent of {id}, which was interrupted"),
            Self::InUse(by) => write!(f, "in use by {by}"),
            Self::Unreadable(name) => write!(f, "{name} cannot be read, and may stand on it"),
            Self::NotMoved(to) => write!(f, "not in {to} yet"),
            Self::Future => f.write_str("finished in the future: a clock is wrong"),
            Self::Locked(until) => locked(f, *until),
        }
    }
}

fn locked(f: &mut fmt::Formatter<'_>, until: Timestamp) -> fmt::Result {
    let until = until.format("%Y-%m-%d %H:%M:%S UTC");
    write!(f, "no rule keeps it, and it waits: locked until {until}")
}

impl Serialize for Reason {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Why a range of WAL stays.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum WalReason {
    /// Moments of the window are restored with it, from this backup on.
    Window(BackupId),
    /// No backup is as old as the window yet.
    YoungWindow,
    /// What follows the last good full stays.
    LastFull(BackupId),
    /// A kept backup needs it to become consistent.
    Backup(BackupId),
    /// A running backup needs it.
    Running(BackupId),
    /// A backup that was interrupted needs it, if it is completed late.
    Interrupted(BackupId),
    /// Somebody restores with it.
    InUse(BackupId),
    /// A backup whose manifest cannot be read may need it.
    Unreadable(String),
    /// The history of its timeline is not archived: whether it is needed cannot be told.
    UnknownHistory,
    /// There is no backup that says what is needed.
    NoBackup,
    /// Nothing needs it, and nobody can remove it before then.
    Locked(Timestamp),
}

impl fmt::Display for WalReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Window(id) => write!(f, "window, from {id} on"),
            Self::YoungWindow => f.write_str("no backup is as old as the window yet"),
            Self::LastFull(id) => write!(f, "behind the last good full, {id}"),
            Self::Backup(id) => write!(f, "{id} needs it"),
            Self::Running(id) => write!(f, "{id} is running"),
            Self::Interrupted(id) => write!(f, "{id} was interrupted"),
            Self::InUse(id) => write!(f, "{id} is in use"),
            Self::Unreadable(id) => write!(f, "{id} cannot be read, and may need it"),
            Self::UnknownHistory => f.write_str("the history of its timeline is not archived"),
            Self::NoBackup => f.write_str("there is no backup yet"),
            Self::Locked(until) => locked(f, *until),
        }
    }
}

impl Serialize for WalReason {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}
