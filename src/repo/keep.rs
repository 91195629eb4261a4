//! What expiry decided, recorded before anything is removed.
//!
//! **Why nothing that somebody begins to use is removed.** Expiry announces in a record what is to go, then looks for
//! what is in use (begin records, pins, uses, new manifests), spares that, puts a final record, and only then removes.
//! Whoever begins to use a backup puts his own record first and then looks here. Whichever of the two looks later sees
//! the other: either the user is told that the backup is being removed, or expiry spares it, or both.
//!
//! **Why nothing that another expiry keeps is removed.** What a final record names goes, whatever the rules are later: no
//! expiry takes it back, so the one that put it may be stopped for as long as it likes before it removes. And a final record
//! follows its announcement immediately, under the next number, so that nobody has decided between the two.
//!
//! Both hold however long anybody is paused, on every store in which a finished put is seen by later reads and lists.
//! Where names can only be claimed, a number that a dead process has claimed is passed over by an announcement, never by
//! a final record; and whoever has put either looks whether another one is there since (`retention::record`).
//!
//! The newest record that can be read counts. It holds what older ones said of WAL, so that what is missing and was
//! removed on purpose is told from what was lost; of removed backups it names those of which something may be left.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::backup_id::BackupId;
use super::error::{Error, Result};
use super::layout::{Kind, Place};
use super::ranges::parse;
use super::repository::{Repository, parse_line};
use super::text::{time_text, u64_text};
use crate::base::{Ctx, Timestamp};
use crate::pg::{ArchivedWal, SegmentSize, Stretch};
use crate::storage;

/// No record is longer.
const TEXT_MAX: usize = 1 << 28;

/// How many records stay.
pub const KEEPS_MAX: usize = 32;

/// One decision.
#[derive(Debug, Clone)]
pub struct Keep {
    /// Which one.
    pub number: u64,
    /// When, by whom, by which rules.
    pub head: KeepHead,
    /// When it was stored, by the store's clock; nothing for one that was not read from a store, or that tells none.
    pub stored: Option<Timestamp>,
    /// Backups that are removed, of which something may be left.
    pub removed: BTreeSet<BackupId>,
    /// Attempts that died whose packs are removed.
    pub swept: BTreeSet<BackupId>,
    /// Backups that a catalogue knew, and whose manifests vanished without expiry.
    pub vanished: BTreeSet<BackupId>,
    /// WAL that was given up, removed already or not: runs of segments by their names.
    pub expired: Vec<(String, String)>,
}

impl Keep {
    /// The WAL that was given up.
    #[must_use]
    pub fn expired_wal(&self, size: SegmentSize) -> ArchivedWal {
        let mut wal = ArchivedWal::new(size);
        for (first, last) in &self.expired {
            if let Some(((timeline, first), (also, last))) =
                parse(first, size).zip(parse(last, size))
                && timeline == also
                && first <= last
            {
                wal.add_stretch(Stretch { timeline, first, last });
            }
        }
        wal
    }

    /// Gives up all WAL of this set.
    pub fn set_expired(&mut self, wal: &ArchivedWal) {
        let name = |stretch: &Stretch, number| wal.name(stretch.timeline, number);
        let runs = wal.stretches();
        let runs = runs.map(|run| (name(&run, run.first), name(&run, run.last)));
        self.expired = runs.collect();
    }
}

/// The first line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeepHead {
    /// The number, as in the name.
    #[serde(with = "u64_text")]
    pub number: u64,
    /// When.
    #[serde(with = "time_text")]
    pub time: Timestamp,
    /// On which host.
    pub host: String,
    /// By which rules.
    pub policy: String,
    /// Whether what is named goes for good. An announcement may still be taken back.
    #[serde(rename = "final", default, skip_serializing_if = "std::ops::Not::not")]
    pub is_final: bool,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Line {
    Removed(BackupId),
    Swept(BackupId),
    Vanished(BackupId),
    Expired(ExpiredLine),
}

#[derive(Debug, Serialize, Deserialize)]
struct ExpiredLine {
    first: String,
    last: String,
}

/// The newest decision, and whether newer ones cannot be read.
#[derive(Debug, Default)]
pub struct Kept {
    /// The newest that can be read.
    pub newest: Option<Keep>,
    /// The newest final one, where the newest is none.
    pub earlier_final: Option<Keep>,
    /// Newer ones that cannot be read, in words.
    pub unreadable: Vec<String>,
    /// The greatest number that is taken.
    pub last_number: Option<u64>,
    /// All numbers, ascending.
    pub numbers: Vec<u64>,
}

impl Kept {
    /// The newest final decision.
    #[must_use]
    pub fn last_final(&self) -> Option<&Keep> {
        self.newest.as_ref().filter(|keep| keep.head.is_final).or(self.earlier_final.as_ref())
    }

    /// Whether a backup is being removed, or that is announced.
    #[must_use]
    pub fn is_removing(&self, id: &BackupId) -> bool {
        let mut records = self.newest.iter().chain(&self.earlier_final);
        records.any(|keep| keep.removed.contains(id) || keep.swept.contains(id))
    }

    /// Whether the removal of a backup cannot be taken back.
    #[must_use]
    pub fn is_given_up(&self, id: &BackupId) -> bool {
        self.last_final().is_some_and(|keep| keep.removed.contains(id))
    }

    /// Takes in a record that was just put.
    pub fn add(&mut self, keep: Keep) {
        self.last_number = Some(keep.number);
        self.numbers.push(keep.number);
        self.unreadable.clear();
        let before = self.newest.replace(keep);
        self.earlier_final = match self.newest.as_ref().is_some_and(|newest| newest.head.is_final) {
            true => None,
            false => before.filter(|before| before.head.is_final).or(self.earlier_final.take()),
        };
    }
}

impl Repository {
    /// The newest decision of a place. Two requests, or three where the last expiry was interrupted.
    ///
    /// # Errors
    /// As the store's.
    pub fn kept(&self, ctx: &Ctx, place: &Place) -> Result<Kept> {
        let mut kept = Kept::default();
        let listed = storage::list_all(self.store().as_ref(), &place.keeps_prefix())?;
        kept.numbers = listed.iter().filter_map(|meta| place.keep_of(&meta.key)).collect();
        kept.last_number = kept.numbers.last().copied();
        let stored: BTreeMap<_, _> = listed.iter().map(|meta| (&meta.key, meta.stored)).collect();
        for number in kept.numbers.iter().rev() {
            ctx.cancel.check()?;
            match self.read_keep(place, *number) {
                Ok(mut keep) => {
                    keep.stored = stored.get(&place.keep(*number)).copied().flatten();
                    let is_final = keep.head.is_final;
                    match kept.newest {
                        None => kept.newest = Some(keep),
                        Some(_) if is_final => kept.earlier_final = Some(keep),
                        Some(_) => {}
                    }
                    if is_final {
                        break;
                    }
                }
                // A newer one has taken its place since the list was made.
                Err(error) if error.is_not_found() => {}
                // What is older than what can be read, and cannot, is of no use.
                Err(error) if error.is_about_one_object() && kept.newest.is_some() => {}
                Err(error) if error.is_about_one_object() => {
                    kept.unreadable.push(error.to_string())
                }
                Err(error) => return Err(error),
            }
        }
        Ok(kept)
    }

    fn read_keep(&self, place: &Place, number: u64) -> Result<Keep> {
        let key = place.keep(number);
        let mut text = Vec::new();
        self.read_whole(Kind::Keep, &key)?.rest(TEXT_MAX, &mut text)?;
        let mut lines = text.split_inclusive(|&byte| byte == b'\n');
        let head: KeepHead = parse_line(&key, 0, lines.next().unwrap_or_default())?;
        if head.number != number {
            return Err(Error::corrupt(&key, "line 0", "it has another number than its name"));
        }
        let mut keep = Keep {
            number,
            head,
            stored: None,
            removed: BTreeSet::new(),
            swept: BTreeSet::new(),
            vanished: BTreeSet::new(),
            expired: Vec::new(),
        };
        for (line, number) in lines.zip(1..) {
            match parse_line(&key, number, line)? {
                Line::Removed(id) => drop(keep.removed.insert(id)),
                Line::Swept(id) => drop(keep.swept.insert(id)),
                Line::Vanished(id) => drop(keep.vanished.insert(id)),
                Line::Expired(ExpiredLine { first, last }) => keep.expired.push((first, last)),
            }
        }
        Ok(keep)
    }

    /// Records a decision, before anything of it is done.
    ///
    /// # Errors
    /// [`storage::Error::AlreadyExists`] or [`Error::Claimed`] when somebody else decided meanwhile.
    pub fn put_keep(&self, ctx: &Ctx, place: &Place, keep: &Keep) -> Result<()> {
        let key = place.keep(keep.number);
        let mut writer = self.buffer(ctx, Kind::Keep, &key)?;
        writer.line(&keep.head)?;
        for id in &keep.removed {
            writer.line(&Line::Removed(id.clone()))?;
        }
        for id in &keep.swept {
            writer.line(&Line::Swept(id.clone()))?;
        }
        for id in &keep.vanished {
            writer.line(&Line::Vanished(id.clone()))?;
        }
        for (first, last) in &keep.expired {
            let (first, last) = (first.clone(), last.clone());
            writer.line(&Line::Expired(ExpiredLine { first, last }))?;
        }
        let (bytes, _) = writer.finish_lines()?;
        self.put_if_absent(&key, &bytes)
    }

    /// That no expiry has decided to remove a backup, as far as can be told. For whoever has put his own record that
    /// he uses it.
    ///
    /// # Errors
    /// [`Error::Expiring`]; [`Error::Corrupt`] where the newest decision cannot be read.
    pub fn require_kept(&self, ctx: &Ctx, place: &Place, id: &BackupId) -> Result<()> {
        let kept = self.kept(ctx, place)?;
        if let Some(why) = kept.unreadable.first() {
            let key = place.keep(kept.last_number.unwrap_or_default());
            return Err(Error::corrupt(&key, "record of expiry", why));
        }
        match kept.is_removing(id) {
            true => Err(Error::Expiring { id: id.to_string() }),
            false => Ok(()),
        }
    }
}
