//! What is known of locks: until when each backup, and each range of WAL, is locked (FORMAT.md, section 7).
//!
//! Without it, whoever has to know asks for the lock of every object, which costs a request each. It is derived: what
//! it does not name is asked. It is believed because it is authenticated, and because locks only get longer.

use std::collections::BTreeMap;

use chrono::{SubsecRound as _, TimeDelta};
use serde::{Deserialize, Serialize};

use super::backup_id::BackupId;
use super::error::{Error, Result};
use super::layout::{Kind, Place};
use super::ranges::parse;
use super::repository::{Repository, parse_line};
use super::text::{time_text, u64_text};
use crate::base::{Ctx, Timestamp};
use crate::pg::{ArchivedWal, SegmentSize, Stretch};
use crate::storage::ObjectKey;

/// No record is longer.
const TEXT_MAX: usize = 1 << 28;

/// A name that lies further in the future is nobody's.
const AHEAD_MAX: TimeDelta = TimeDelta::days(1);

/// From when on some of several objects are not locked any more, and from when on none is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LockSpan {
    /// All of them are locked until then at least.
    #[serde(with = "time_text")]
    pub least: Timestamp,
    /// None is locked longer.
    #[serde(with = "time_text")]
    pub most: Timestamp,
}

impl LockSpan {
    /// Of one object; of one without a lock, a moment that has passed.
    #[must_use]
    pub fn of(until: Option<Timestamp>) -> Self {
        let until = until.unwrap_or(Timestamp::UNIX_EPOCH);
        Self { least: until, most: until }
    }

    /// Of the objects of both.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self { least: self.least.min(other.least), most: self.most.max(other.most) }
    }

    /// After all of them were locked until then at least.
    #[must_use]
    pub fn extended(self, until: Timestamp) -> Self {
        Self { least: self.least.max(until), most: self.most.max(until) }
    }
}

/// What is known of a backup's objects, or of an attempt's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KnownBackup {
    /// How many there were.
    pub objects: u64,
    /// Their locks.
    pub span: LockSpan,
}

/// What is known of objects that belong to no backup.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct KnownRest {
    /// Of those that were stored before, by the store's clock.
    #[serde(with = "time_text")]
    pub before: Timestamp,
    /// All of them are locked until then at least.
    #[serde(with = "time_text")]
    pub least: Timestamp,
    /// Those without which nothing can be read: descriptor, key slots, registration, histories.
    #[serde(with = "time_text")]
    pub first: Timestamp,
}

/// What is known of the locks of a place.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KnownLocks {
    /// Of backups and attempts.
    pub backups: BTreeMap<BackupId, KnownBackup>,
    /// Of segments, by timeline and position.
    pub wal: Vec<(Stretch, LockSpan)>,
    /// Of what else is locked for the full time.
    pub rest: Option<KnownRest>,
}

#[derive(Debug, Serialize, Deserialize)]
struct BackupLine {
    id: BackupId,
    #[serde(with = "u64_text")]
    objects: u64,
    #[serde(flatten)]
    span: LockSpan,
}

#[derive(Debug, Serialize, Deserialize)]
struct WalLine {
    first: String,
    last: String,
    #[serde(flatten)]
    span: LockSpan,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Line {
    Backup(BackupLine),
    Wal(WalLine),
    Rest(KnownRest),
}

impl KnownLocks {
    fn add(&mut self, line: Line, size: SegmentSize) {
        match line {
            Line::Backup(BackupLine { id, objects, span }) => {
                self.backups.insert(id, KnownBackup { objects, span });
            }
            Line::Wal(WalLine { first, last, span }) => {
                if let Some(((timeline, first), (also, last))) =
                    parse(&first, size).zip(parse(&last, size))
                    && timeline == also
                    && first <= last
                {
                    self.wal.push((Stretch { timeline, first, last }, span));
                }
            }
            Line::Rest(rest) => self.rest = Some(rest),
        }
    }
}

impl Repository {
    /// What is known of the locks of a place; nothing where nobody has written it, or it cannot be read.
    ///
    /// # Errors
    /// As the store's.
    pub fn known_locks(&self, ctx: &Ctx, place: &Place, size: SegmentSize) -> Result<KnownLocks> {
        let names = self.locks_names(ctx, place)?;
        let newest = self.newest_summary(ctx, &names, |(_, key)| {
            let mut text = Vec::new();
            self.read_whole(Kind::Summary, key)?.rest(TEXT_MAX, &mut text)?;
            let mut known = KnownLocks::default();
            for (number, line) in text.split_inclusive(|&byte| byte == b'\n').enumerate() {
                known.add(parse_line(key, number, line)?, size);
            }
            known.wal.sort_by_key(|(stretch, _)| (stretch.timeline, stretch.first));
            Ok(known)
        })?;
        Ok(newest.found.unwrap_or_default())
    }

    /// The names of all records, the newest first.
    fn locks_names(&self, ctx: &Ctx, place: &Place) -> Result<Vec<(Timestamp, ObjectKey)>> {
        let (listed, _) = self.list_summaries(&place.locks_prefix())?;
        let last = ctx.clock.now() + AHEAD_MAX;
        let named = listed.into_iter().filter_map(|meta| {
            let written = place.locks_time(&meta.key).filter(|written| *written <= last)?;
            Some((written, meta.key))
        });
        let mut named: Vec<_> = named.collect();
        named.reverse();
        Ok(named)
    }

    /// Writes down what is known.
    ///
    /// # Errors
    /// As the store's; nothing depends on it.
    pub fn put_locks(
        &self,
        ctx: &Ctx,
        place: &Place,
        size: SegmentSize,
        known: &KnownLocks,
    ) -> Result<()> {
        // Names have whole seconds, and the greatest counts, whatever the clock did.
        let now = ctx.clock.now().trunc_subsecs(0);
        let newest = self.locks_names(ctx, place)?.first().map(|(written, _)| *written);
        let next = newest.map_or(now, |newest| now.max(newest + TimeDelta::seconds(1)));
        let Some(key) = place.locks(next) else { return Ok(()) };
        let mut writer = self.buffer(ctx, Kind::Summary, &key)?;
        for (id, KnownBackup { objects, span }) in &known.backups {
            let (id, objects, span) = (id.clone(), *objects, *span);
            writer.line(&Line::Backup(BackupLine { id, objects, span }))?;
        }
        let names = ArchivedWal::new(size);
        for (stretch, span) in &known.wal {
            let name = |number| names.name(stretch.timeline, number);
            let (first, last) = (name(stretch.first), name(stretch.last));
            writer.line(&Line::Wal(WalLine { first, last, span: *span }))?;
        }
        if let Some(rest) = known.rest {
            writer.line(&Line::Rest(rest))?;
        }
        let (bytes, _) = writer.finish_lines()?;
        match self.put_if_absent(&key, &bytes) {
            // Somebody else wrote one.
            Err(Error::Storage(error)) if error.is_already_exists() => Ok(()),
            Err(Error::Claimed { .. }) => Ok(()),
            other => other,
        }
    }
}
