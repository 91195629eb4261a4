//! What a pass over a segment's records found, as it is stored (FORMAT.md, section 7).

use serde::{Deserialize, Serialize};

use super::layout;
use crate::base::Timestamp;
use crate::pg::Lsn;
use crate::pg::wal::{
    Ending, Findings, LIST_MAX, ParameterChange, RESTORE_POINT_BYTES, RM_TBLSPC, RM_XLOG, WalLevel,
};

/// A named restore point.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FoundRestorePoint {
    /// Its name.
    pub name: String,
    /// Where its record ends.
    pub lsn: Lsn,
    /// When it was made.
    #[serde(default, with = "optional_time", skip_serializing_if = "Option::is_none")]
    pub time: Option<Timestamp>,
}

/// A tablespace that replay would make.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FoundTablespace {
    /// Its oid.
    pub oid: u32,
    /// Its location, bytes that are not UTF-8 replaced.
    pub location: String,
    /// Where the record begins.
    pub lsn: Lsn,
}

/// Settings that recovery must be able to follow, as they are from a position on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FoundParameters {
    /// Where the record begins.
    pub lsn: Lsn,
    /// `minimal`, `replica` or `logical`; absent where it is none of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wal_level: Option<String>,
    /// `max_connections`.
    pub max_connections: u32,
    /// `max_worker_processes`.
    pub max_worker_processes: u32,
    /// `max_wal_senders`.
    pub max_wal_senders: u32,
    /// `max_prepared_transactions`.
    pub max_prepared_transactions: u32,
    /// `max_locks_per_transaction`.
    pub max_locks_per_transaction: u32,
}

impl FoundParameters {
    /// Whether WAL from here on is of no use to archive recovery, which stops at this record
    /// (`CheckRequiredParameterValues`, src/backend/access/transam/xlogrecovery.c).
    #[must_use]
    pub fn is_minimal(&self) -> bool {
        self.wal_level.as_deref() == Some(MINIMAL)
    }
}

const MINIMAL: &str = "minimal";

impl From<&ParameterChange> for FoundParameters {
    fn from(change: &ParameterChange) -> Self {
        let level = change.wal_level.map(|level| match level {
            WalLevel::Minimal => MINIMAL,
            WalLevel::Replica => "replica",
            WalLevel::Logical => "logical",
        });
        Self {
            lsn: Lsn(change.lsn),
            wal_level: level.map(str::to_owned),
            max_connections: change.max_connections,
            max_worker_processes: change.max_worker_processes,
            max_wal_senders: change.max_wal_senders,
            max_prepared_transactions: change.max_prepared_transactions,
            max_locks_per_transaction: change.max_locks_per_transaction,
        }
    }
}

/// A record that begins in this segment and ends in the next.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cut {
    /// Where it begins.
    pub lsn: Lsn,
    /// Its transaction, where its header lies in this segment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub xid: Option<u32>,
    /// Its resource manager, likewise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rmgr: Option<u8>,
    /// Its length, which is at hand even where its header is cut: records begin on multiples of 8. Absent in
    /// what older versions wrote.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u32>,
}

impl Cut {
    /// Whether it may be a restore point. `held` is how many bytes of it lie in this segment.
    #[must_use]
    pub fn may_be_a_point(&self, held: u64) -> bool {
        let mut lengths = RESTORE_POINT_BYTES.into_iter();
        let fits = match self.bytes {
            Some(bytes) => lengths.any(|length| length == bytes),
            None => lengths.any(|length| u64::from(length) > held),
        };
        fits && self.rmgr.is_none_or(|id| id == RM_XLOG)
    }
}

/// What one pass over a segment found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Found {
    /// Whether the WAL's version was known and records were read.
    pub read: bool,
    /// Transactions that committed.
    #[serde(default)]
    pub commits: u64,
    /// Transactions that were rolled back.
    #[serde(default)]
    pub aborts: u64,
    /// The earliest time in a commit or abort record.
    #[serde(default, with = "optional_time", skip_serializing_if = "Option::is_none")]
    pub earliest: Option<Timestamp>,
    /// The latest one.
    #[serde(default, with = "optional_time", skip_serializing_if = "Option::is_none")]
    pub latest: Option<Timestamp>,
    /// The oldest transaction that ended, in circular order.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub xid_min: Option<u32>,
    /// The newest one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub xid_max: Option<u32>,
    /// Restore points, the first of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub restore_points: Vec<FoundRestorePoint>,
    /// How many more there were.
    #[serde(default)]
    pub restore_points_more: u64,
    /// Tablespaces that replay would make, the first of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tablespaces: Vec<FoundTablespace>,
    /// How many more there were.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub tablespaces_more: u64,
    /// Changes of settings that recovery must be able to follow, the first of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub parameters: Vec<FoundParameters>,
    /// How many more there were.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub parameters_more: u64,
    /// The time of the last checkpoint record.
    #[serde(default, with = "optional_time", skip_serializing_if = "Option::is_none")]
    pub last_checkpoint: Option<Timestamp>,
    /// Where that record begins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_checkpoint_lsn: Option<Lsn>,
    /// Where valid records end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end: Option<Lsn>,
    /// `full`, `switched`, `partial`, or `unread`.
    pub ending: String,
    /// The record that goes on in the next segment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cut: Option<Cut>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands over a reference")]
fn is_zero(count: &u64) -> bool {
    *count == 0
}

/// How many segments behind a checkpoint may have a commit of the same second.
const BEHIND_CHECKPOINT_MAX: usize = 16;

/// The newest moment that segments prove, by a commit or a checkpoint; they are asked from the last one
/// back.
#[derive(Debug, Default)]
pub struct NewestMoment {
    newest: Option<Timestamp>,
    behind: usize,
}

impl NewestMoment {
    /// Takes what was found in the next segment; whether the one before it is to be asked too. A
    /// checkpoint's time has whole seconds: behind one, a commit before it may be newer.
    pub fn goes_on_before(&mut self, found: &Found) -> bool {
        self.newest = self.newest.max(found.latest.max(found.last_checkpoint));
        self.behind += usize::from(self.newest.is_some());
        found.latest.is_none() && self.behind < BEHIND_CHECKPOINT_MAX
    }

    /// What was found.
    #[must_use]
    pub fn moment(&self) -> Option<Timestamp> {
        self.newest
    }
}

impl Found {
    /// Where a tablespace's record lies, at the latest, whose path is not told: it goes on in the next
    /// segment, or the list leaves it out.
    #[must_use]
    pub fn untold_tablespace(&self) -> Option<Lsn> {
        // A full list of an older pgkeep does not say whether there were more.
        let more = self.tablespaces_more > 0 || self.tablespaces.len() >= LIST_MAX;
        let end = self.tablespaces.last().map(|last| last.lsn).or(self.end);
        let left_out = more.then(|| end.unwrap_or(Lsn(0)));
        left_out.or_else(|| {
            let cut = self.cut.as_ref().filter(|cut| cut.rmgr == Some(RM_TBLSPC));
            cut.map(|cut| cut.lsn)
        })
    }

    /// Takes one entry out of the longer list and counts it instead; false when the lists are empty.
    pub fn shorten(&mut self) -> bool {
        let (points, tablespaces) = (&mut self.restore_points, &mut self.tablespaces);
        // A path can be longer than a name.
        let more = if tablespaces.is_empty() {
            points.pop().map(|_| &mut self.restore_points_more)
        } else {
            tablespaces.pop().map(|_| &mut self.tablespaces_more)
        };
        more.map(|more| *more += 1).is_some()
    }
}

mod optional_time {
    use super::{Timestamp, layout};
    use serde::{Deserialize, Deserializer, Serializer, de::Error as _};

    pub fn serialize<S: Serializer>(
        value: &Option<Timestamp>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        match value {
            Some(time) => serializer.serialize_str(&layout::time_text(*time)),
            None => serializer.serialize_none(),
        }
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Timestamp>, D::Error> {
        let Some(text) = Option::<String>::deserialize(deserializer)? else {
            return Ok(None);
        };
        let time = layout::parse_time(&text);
        time.map(Some).ok_or_else(|| D::Error::custom(format!("{text:?} is not a time")))
    }
}

impl From<&Findings> for Found {
    fn from(findings: &Findings) -> Self {
        let read = !matches!(findings.ending, Ending::NotRead);
        let ending = match findings.ending {
            Ending::Full | Ending::Cut(_) | Ending::Within => "full",
            Ending::Switched => "switched",
            Ending::Partial(_) => "partial",
            Ending::NotRead => "unread",
        };
        let cut = match findings.ending {
            Ending::Cut(cut) => Some(Cut {
                lsn: Lsn(cut.lsn),
                xid: cut.header.map(|header| header.xid),
                rmgr: cut.header.map(|header| header.resource_manager),
                bytes: Some(cut.total_bytes),
            }),
            _ => None,
        };
        let points = findings.restore_points.items.iter().map(|point| FoundRestorePoint {
            name: point.name().into_owned(),
            lsn: Lsn(point.end_lsn),
            time: point.time,
        });
        let tablespaces = findings.tablespaces.items.iter().map(|made| FoundTablespace {
            oid: made.oid,
            location: String::from_utf8_lossy(&made.location).into_owned(),
            lsn: Lsn(made.lsn),
        });
        Self {
            read,
            commits: findings.commits,
            aborts: findings.aborts,
            earliest: findings.earliest,
            latest: findings.latest,
            xid_min: findings.xids.map(|xids| xids.smallest),
            xid_max: findings.xids.map(|xids| xids.largest),
            restore_points: points.collect(),
            tablespaces: tablespaces.collect(),
            tablespaces_more: findings.tablespaces.omitted,
            parameters: findings.parameters.items.iter().map(FoundParameters::from).collect(),
            parameters_more: findings.parameters.omitted,
            restore_points_more: findings.restore_points.omitted,
            last_checkpoint: findings.last_checkpoint.as_ref().and_then(|point| point.time),
            last_checkpoint_lsn: findings.last_checkpoint.as_ref().map(|point| Lsn(point.lsn)),
            end: read.then_some(Lsn(findings.end)),
            ending: ending.into(),
            cut,
        }
    }
}
