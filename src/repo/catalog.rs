//! What a cluster's place holds: backups and ranges of WAL.

use std::collections::{BTreeMap, BTreeSet};

use super::backup_id::BackupId;
use super::catalogue::Catalogue;
use super::error::{Error, Result};
use super::layout::{Kind, Place};
use super::manifest::Summary;
use super::repository::Repository;
use crate::base::{Ctx, side_by_side};
use crate::pg::Lsn;
use crate::storage;

/// The backups of a place.
#[derive(Debug, Default)]
pub struct Backups {
    /// Complete ones, oldest first by the time they finished.
    pub complete: Vec<Summary>,
    /// Manifests that cannot be read, and why.
    pub unreadable: Vec<(String, Error)>,
    /// Ids that began, and were neither completed nor given up.
    pub unfinished: Vec<BackupId>,
    /// Ids that were given up.
    pub abandoned: Vec<BackupId>,
}

/// What a backup's entry came to.
enum Entry {
    Complete(Box<Summary>),
    Abandoned,
    Unreadable(Error),
    /// Removed since the list was made.
    Gone,
}

impl Entry {
    fn of(summary: Result<Summary>) -> Result<Self> {
        Ok(match summary {
            Ok(summary) => Self::Complete(Box::new(summary)),
            Err(Error::Abandoned { .. }) => Self::Abandoned,
            Err(Error::NoBackup { .. }) => Self::Gone,
            Err(
                error @ (Error::Corrupt { .. } | Error::Newer { .. } | Error::UnknownKey { .. }),
            ) => Self::Unreadable(error),
            Err(error) => return Err(error),
        })
    }
}

impl Repository {
    /// The summary of every backup that is listed: from the catalogue what it covers, the rest from the
    /// manifests. A few requests, and two lists.
    ///
    /// # Errors
    /// As the store's; a manifest that is damaged is reported in the result, not hidden.
    pub fn backups(&self, ctx: &Ctx, place: &Place) -> Result<Backups> {
        let catalogue = self.catalogue(ctx, place)?;
        self.backups_with(ctx, place, &catalogue)
    }

    /// As [`Repository::backups`], from the manifests only: what they say is the truth.
    ///
    /// # Errors
    /// As [`Repository::backups`].
    pub fn backups_by_manifest(&self, ctx: &Ctx, place: &Place) -> Result<Backups> {
        self.backups_with(ctx, place, &Catalogue::default())
    }

    fn backups_with(&self, ctx: &Ctx, place: &Place, catalogue: &Catalogue) -> Result<Backups> {
        let mut found = Backups::default();
        let prefixes = [place.manifests_prefix(), place.begins_prefix()];
        let list = |prefix: &String| storage::list_all(self.store().as_ref(), prefix);
        let mut lists = side_by_side(&prefixes, list)?.into_iter();
        let (manifests, begins) =
            (lists.next().unwrap_or_default(), lists.next().unwrap_or_default());
        let mut listed = Vec::with_capacity(manifests.len());
        for meta in manifests {
            let name = meta.key.last_component().to_owned();
            match name.parse::<BackupId>() {
                Ok(id) => listed.push((id, meta)),
                Err(_) => {
                    let why = "it is not the name of a backup";
                    found.unreadable.push((name, Error::corrupt(&meta.key, "name", why)));
                }
            }
        }
        let entries = side_by_side(&listed, |(id, meta)| {
            ctx.cancel.check()?;
            match catalogue.find(id, meta) {
                Some(known) => Entry::of(known),
                None => Entry::of(self.summary(place, id)),
            }
        })?;
        for ((id, meta), entry) in listed.iter().zip(entries) {
            match entry {
                Entry::Complete(summary) => found.complete.push(*summary),
                Entry::Abandoned => found.abandoned.push(id.clone()),
                Entry::Gone => {}
                Entry::Unreadable(error) => {
                    found.unreadable.push((meta.key.last_component().to_owned(), error));
                }
            }
        }
        found.complete.sort_by(|a, b| (a.finished, &a.id).cmp(&(b.finished, &b.id)));
        let known: BTreeSet<&BackupId> = listed.iter().map(|(id, _)| id).collect();
        let begun = begins.iter().filter_map(|meta| meta.key.last_component().parse().ok());
        found.unfinished = begun.filter(|id| !known.contains(id)).collect();
        Ok(found)
    }

    /// Calls `each` with the name of every archived segment, sorted within a timeline. One request for
    /// a thousand; nothing is kept.
    ///
    /// # Errors
    /// As the store's.
    pub fn each_segment(
        &self,
        ctx: &Ctx,
        place: &Place,
        mut each: impl FnMut(u32, &str),
    ) -> Result<()> {
        storage::each_page(self.store().as_ref(), &place.all_wal_prefix(), |page| {
            ctx.cancel.check()?;
            for meta in &page {
                let name = meta.key.last_component();
                let timeline = name.get(..8).and_then(|hex| u32::from_str_radix(hex, 16).ok());
                // Anything else under this prefix was not put by pgkeep.
                if let Some(timeline) = timeline
                    && place.wal(name).as_ref() == Some(&meta.key)
                {
                    each(timeline, name);
                }
            }
            Ok(())
        })
    }

    /// Names of the archived segments of every timeline, sorted.
    ///
    /// # Errors
    /// As the store's.
    pub fn segments(&self, ctx: &Ctx, place: &Place) -> Result<BTreeMap<u32, Vec<String>>> {
        let mut timelines: BTreeMap<u32, Vec<String>> = BTreeMap::new();
        self.each_segment(ctx, place, |timeline, name| {
            timelines.entry(timeline).or_default().push(name.to_owned());
        })?;
        Ok(timelines)
    }

    /// The partial segments in the archive: of which segment, and where their valid records end.
    ///
    /// # Errors
    /// As the store's.
    pub fn partials(&self, place: &Place) -> Result<Vec<(String, Lsn)>> {
        let listed = storage::list_all(self.store().as_ref(), &place.all_partials_prefix())?;
        let partials = listed.iter().filter_map(|meta| place.partial_of(&meta.key));
        Ok(partials.map(|(segment, end)| (segment.to_owned(), Lsn(end))).collect())
    }

    /// The timeline history files in the archive, by timeline.
    ///
    /// # Errors
    /// As the store's; [`Error::Corrupt`].
    pub fn histories(&self, place: &Place) -> Result<BTreeMap<u32, Vec<u8>>> {
        let mut listed = Vec::new();
        for meta in storage::list_all(self.store().as_ref(), &place.histories_prefix())? {
            let hex = meta.key.last_component();
            if let Ok(timeline) = u32::from_str_radix(hex, 16)
                && place.history(timeline) == meta.key
            {
                listed.push((timeline, meta.key));
            }
        }
        let histories = side_by_side(&listed, |(timeline, key)| {
            Ok::<_, Error>((*timeline, self.get_wal(Kind::History, key)?.1))
        })?;
        Ok(histories.into_iter().collect())
    }
}
