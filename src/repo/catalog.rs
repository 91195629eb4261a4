//! What a cluster's place holds: backups and ranges of WAL.

use std::collections::BTreeMap;

use super::error::{Error, Result};
use super::layout::{BackupId, Kind, Place};
use super::manifest::Summary;
use super::repository::Repository;
use crate::base::Ctx;
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

impl Repository {
    /// Reads the summary of every backup. One request for each, and two lists.
    ///
    /// # Errors
    /// As the store's; a manifest that is damaged is reported in the result, not hidden.
    pub fn backups(&self, ctx: &Ctx, place: &Place) -> Result<Backups> {
        let mut found = Backups::default();
        let mut known = std::collections::BTreeSet::new();
        for meta in storage::list_all(self.store().as_ref(), &place.manifests_prefix())? {
            ctx.cancel.check()?;
            let name = meta.key.last_component().to_owned();
            let Ok(id) = name.parse::<BackupId>() else {
                let why = "it is not the name of a backup";
                found.unreadable.push((name, Error::corrupt(&meta.key, "name", why)));
                continue;
            };
            known.insert(id.clone());
            match self.summary(place, &id) {
                Ok(summary) => found.complete.push(summary),
                Err(Error::Abandoned { .. }) => found.abandoned.push(id),
                // Removed since the list was made.
                Err(Error::NoBackup { .. }) => {}
                Err(
                    error
                    @ (Error::Corrupt { .. } | Error::Newer { .. } | Error::UnknownKey { .. }),
                ) => {
                    found.unreadable.push((name, error));
                }
                Err(error) => return Err(error),
            }
        }
        found.complete.sort_by(|a, b| (a.finished, &a.id).cmp(&(b.finished, &b.id)));
        for meta in storage::list_all(self.store().as_ref(), &place.begins_prefix())? {
            if let Ok(id) = meta.key.last_component().parse::<BackupId>()
                && !known.contains(&id)
            {
                found.unfinished.push(id);
            }
        }
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
        let mut after: Option<String> = None;
        loop {
            ctx.cancel.check()?;
            let page = self.store().list(&place.all_wal_prefix(), after.as_deref(), 1000)?;
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
            match page.last() {
                Some(last) if page.len() == 1000 => after = Some(last.key.to_string()),
                _ => return Ok(()),
            }
        }
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

    /// The timeline history files in the archive, by timeline.
    ///
    /// # Errors
    /// As the store's; [`Error::Corrupt`].
    pub fn histories(&self, place: &Place) -> Result<BTreeMap<u32, Vec<u8>>> {
        let mut histories = BTreeMap::new();
        for meta in storage::list_all(self.store().as_ref(), &place.histories_prefix())? {
            let hex = meta.key.last_component();
            if let Ok(timeline) = u32::from_str_radix(hex, 16)
                && place.history(timeline) == meta.key
            {
                histories.insert(timeline, self.get_wal(Kind::History, &meta.key)?.1);
            }
        }
        Ok(histories)
    }
}
