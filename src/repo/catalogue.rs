//! The catalogue of backups: the first line of every manifest in one object, so that listing ten thousand
//! backups takes a few requests (FORMAT.md, section 7).
//!
//! It is derived. What it says of a backup counts while the store lists a manifest of the same size under
//! that name; everything else is read from the manifests. Lost or damaged, it costs time, and the next
//! backup writes another.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{SubsecRound as _, TimeDelta};
use serde::{Deserialize, Serialize};

use super::backup_id::BackupId;
use super::error::{Error, Result};
use super::layout::{Kind, Place};
use super::manifest::{Summary, complete};
use super::newest::Unreadable;
use super::repository::{Repository, parse_line};
use super::text::u64_text;
use crate::base::{Ctx, Timestamp, side_by_side};
use crate::pg::SegmentSize;
use crate::storage::{self, ObjectKey, ObjectMeta};

/// A new one is written when more than this many backups, and one in so many, are in none.
const UNCOVERED_MAX: usize = 16;
const UNCOVERED_ONE_IN: usize = 32;

/// A name that lies further in the future is nobody's: clocks are not that far apart.
const AHEAD_MAX: TimeDelta = TimeDelta::days(1);

/// No catalogue is longer: a million backups.
const TEXT_MAX: usize = 1 << 30;

/// One backup. The line is kept as it is, with members that this version may not know.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Line {
    /// The size of the manifest.
    #[serde(with = "u64_text")]
    size: u64,
    /// Its first line.
    manifest: serde_json::Value,
}

/// What the newest readable catalogue says.
#[derive(Debug, Default)]
pub(super) struct Catalogue {
    lines: BTreeMap<BackupId, Line>,
    /// Catalogues that cannot be read.
    unreadable: Unreadable,
    /// When it was written, by its name.
    written: Option<Timestamp>,
    /// The names that are taken, readable or not.
    taken: BTreeSet<Timestamp>,
}

impl Catalogue {
    fn covers(&self, id: &BackupId, listed: &ObjectMeta) -> Option<&Line> {
        self.lines.get(id).filter(|line| line.size == listed.size)
    }

    /// What it says of a backup whose manifest the store lists; nothing where it does not fit that.
    pub(super) fn find(&self, id: &BackupId, listed: &ObjectMeta) -> Option<Result<Summary>> {
        let text = serde_json::to_vec(&self.covers(id, listed)?.manifest).ok()?;
        match complete(&listed.key, id, &text) {
            told @ (Ok(_) | Err(Error::Abandoned { .. })) => Some(told),
            Err(_) => None,
        }
    }

    /// The first moment that is free for a new one, and makes it the newest that can be read.
    fn next(&self, now: Timestamp) -> Option<Timestamp> {
        let second = TimeDelta::seconds(1);
        // Names have whole seconds.
        let now = now.trunc_subsecs(0);
        let mut next = self.written.map_or(now, |written| now.max(written + second));
        while self.taken.contains(&next) {
            next += second;
        }
        (next <= now + AHEAD_MAX).then_some(next)
    }
}

fn parse_lines(key: &ObjectKey, text: &[u8]) -> Result<BTreeMap<BackupId, Line>> {
    let mut lines = BTreeMap::new();
    for (number, line) in text.split_inclusive(|&byte| byte == b'\n').enumerate() {
        let line: Line = parse_line(key, number, line)?;
        let id = line.manifest.get("id").and_then(serde_json::Value::as_str);
        let Some(id) = id.and_then(|id| id.parse().ok()) else {
            return Err(Error::corrupt(key, format!("line {number}"), "it names no backup"));
        };
        lines.insert(id, line);
    }
    Ok(lines)
}

impl Repository {
    /// Reads the newest catalogue that can be read. Two requests, as a rule.
    ///
    /// # Errors
    /// As the store's.
    pub(super) fn catalogue(&self, ctx: &Ctx, place: &Place) -> Result<Catalogue> {
        let (listed, mut unreadable) = self.list_summaries(&place.catalogues_prefix())?;
        let last = ctx.clock.now() + AHEAD_MAX;
        let named = listed.into_iter().filter_map(|meta| {
            let written = place.catalogue_time(&meta.key).filter(|written| *written <= last)?;
            Some((written, meta.key))
        });
        let mut named: Vec<(Timestamp, ObjectKey)> = named.collect();
        named.reverse();
        let newest = self.newest_summary(ctx, &named, |(written, key)| {
            let mut text = Vec::new();
            self.read_whole(Kind::Summary, key)?.rest(TEXT_MAX, &mut text)?;
            Ok((*written, parse_lines(key, &text)?))
        })?;
        let taken = named.into_iter().map(|(written, _)| written).collect();
        let (written, lines) = newest.found.unzip();
        let lines = lines.unwrap_or_default();
        unreadable.extend(newest.unreadable);
        Ok(Catalogue { lines, unreadable, written, taken })
    }

    /// What is wrong with the catalogue, in words: it cannot be read, or says something else of a backup
    /// than its manifest does.
    ///
    /// # Errors
    /// As the store's.
    pub fn catalogue_complaints(
        &self,
        ctx: &Ctx,
        place: &Place,
        truth: &super::Backups,
    ) -> Result<Vec<String>> {
        let catalogue = self.catalogue(ctx, place)?;
        let mut complaints = catalogue.unreadable.told.clone();
        let complete: BTreeMap<&BackupId, &Summary> =
            truth.complete.iter().map(|summary| (&summary.id, summary)).collect();
        let listed = storage::list_all(self.store().as_ref(), &place.manifests_prefix())?;
        for meta in &listed {
            let Ok(id) = meta.key.last_component().parse::<BackupId>() else { continue };
            let Some(told) = catalogue.find(&id, meta) else { continue };
            let agrees = match told {
                Ok(told) => complete.get(&id).is_some_and(|summary| **summary == told),
                Err(_) => truth.abandoned.contains(&id),
            };
            if !agrees {
                complaints
                    .push(format!("what the catalogue says of {id} is not what its manifest says"));
            }
        }
        Ok(complaints)
    }

    /// Backups that the catalogue knows as complete, and that have no manifest any more.
    ///
    /// # Errors
    /// As the store's.
    pub fn vanished(
        &self,
        ctx: &Ctx,
        place: &Place,
        backups: &super::Backups,
    ) -> Result<Vec<BackupId>> {
        let catalogue = self.catalogue(ctx, place)?;
        let complete = backups.complete.iter().map(|backup| backup.id.as_str());
        let named = backups.abandoned.iter().map(BackupId::as_str);
        let unreadable = backups.unreadable.iter().map(|(name, _)| name.as_str());
        let known: BTreeSet<&str> = complete.chain(named).chain(unreadable).collect();
        let is_complete = |line: &Line| {
            line.manifest.get("state").and_then(serde_json::Value::as_str) == Some("complete")
        };
        let gone = catalogue
            .lines
            .iter()
            .filter(|(id, line)| is_complete(line) && !known.contains(id.as_str()));
        Ok(gone.map(|(id, _)| id.clone()).collect())
    }

    /// Brings the summaries of a place up to date, where they leave out much.
    ///
    /// # Errors
    /// As the store's; nothing depends on them.
    pub fn summarise(&self, ctx: &Ctx, place: &Place, size: SegmentSize) -> Result<()> {
        let catalogue = self.update_catalogue(ctx, place);
        let ranges = self.update_ranges(ctx, place, size);
        let notes = self.update_notes(ctx, place, size);
        catalogue?;
        ranges?;
        notes.map(drop)
    }

    /// Writes a new catalogue where the newest one leaves out many backups; whether it did. For whoever
    /// has just added or removed some.
    ///
    /// # Errors
    /// As the store's; nothing depends on it.
    pub fn update_catalogue(&self, ctx: &Ctx, place: &Place) -> Result<bool> {
        let catalogue = self.catalogue(ctx, place)?;
        if catalogue.unreadable.is_hidden {
            return Ok(false);
        }
        let mut listed = Vec::new();
        for meta in storage::list_all(self.store().as_ref(), &place.manifests_prefix())? {
            if let Ok(id) = meta.key.last_component().parse::<BackupId>() {
                listed.push((id, meta));
            }
        }
        let covered = listed.iter().filter(|(id, meta)| catalogue.covers(id, meta).is_some());
        let covered = covered.count();
        if listed.len() - covered <= UNCOVERED_MAX + covered / UNCOVERED_ONE_IN {
            return Ok(false);
        }
        let lines = side_by_side(&listed, |(id, meta)| {
            ctx.cancel.check()?;
            match catalogue.covers(id, meta) {
                Some(line) => Ok(Some(line.clone())),
                None => self.catalogue_line(place, id, meta),
            }
        })?;
        // Names are not used twice, whatever the clock does.
        let key = catalogue.next(ctx.clock.now()).and_then(|written| place.catalogue(written));
        let Some(key) = key else { return Ok(false) };
        let mut writer = self.buffer(ctx, Kind::Summary, &key)?;
        for line in lines.iter().flatten() {
            match writer.line(line) {
                // One that a frame does not hold is read from its manifest.
                Err(Error::Limit(_)) => {}
                other => drop(other?),
            }
        }
        let (bytes, _) = writer.finish_lines()?;
        match self.put_if_absent(&key, &bytes) {
            // Somebody else wrote one.
            Err(Error::Storage(error)) if error.is_already_exists() => Ok(false),
            other => other.map(|()| true),
        }
    }

    /// A manifest's line, where it can be read and is one that readers may take from here.
    fn catalogue_line(
        &self,
        place: &Place,
        id: &BackupId,
        listed: &ObjectMeta,
    ) -> Result<Option<Line>> {
        let text = match self.state_line(place, id) {
            Err(Error::Storage(error)) if !error.is_not_found() => return Err(error.into()),
            Err(_) => return Ok(None),
            Ok(text) => text,
        };
        let is_known =
            matches!(complete(&listed.key, id, &text), Ok(_) | Err(Error::Abandoned { .. }));
        let manifest = serde_json::from_slice(&text).ok().filter(|_| is_known);
        Ok(manifest.map(|manifest| Line { size: listed.size, manifest }))
    }
}
