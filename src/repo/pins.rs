//! Pins: somebody keeps a backup, for a reason, perhaps until some time. The word with the greatest number counts.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::backup_id::BackupId;
use super::error::{Error, Result};
use super::layout::{Kind, Place};
use super::repository::Repository;
use super::text::{some_time_text, time_text};
use crate::base::{Ctx, Timestamp, side_by_side};
use crate::storage;

/// How often a name is tried for that another takes first.
const TRIES: u64 = 16;

/// A word on whether a backup is pinned.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pin {
    /// The backup.
    pub id: BackupId,
    /// Whether it is pinned from now on.
    pub pinned: bool,
    /// Why.
    pub reason: String,
    /// Until when; for good without.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "some_time_text")]
    pub until: Option<Timestamp>,
    /// When that was said.
    #[serde(with = "time_text")]
    pub time: Timestamp,
    /// On which host.
    pub host: String,
}

impl Repository {
    /// The newest word on each backup that anything was said of. One that cannot be read pins: nobody knows what it
    /// says.
    ///
    /// # Errors
    /// As the store's.
    pub fn pins(&self, ctx: &Ctx, place: &Place) -> Result<BTreeMap<BackupId, Pin>> {
        let newest: Vec<(BackupId, u64)> = self.pin_numbers(place)?.into_iter().collect();
        let read = side_by_side(&newest, |(id, number)| {
            ctx.cancel.check()?;
            match self.read_line::<Pin>(Kind::Pin, &place.pin(id, *number)) {
                Ok(pin) if pin.id == *id => Ok(Some(pin)),
                // Removed with its backup.
                Err(error) if error.is_not_found() => Ok(None),
                Err(error) if !error.is_about_one_object() => Err(error),
                _ => Ok(Some(Pin {
                    id: id.clone(),
                    pinned: true,
                    reason: "its pin cannot be read".into(),
                    until: None,
                    time: ctx.clock.now(),
                    host: String::new(),
                })),
            }
        })?;
        Ok(read.into_iter().flatten().map(|pin| (pin.id.clone(), pin)).collect())
    }

    fn pin_numbers(&self, place: &Place) -> Result<BTreeMap<BackupId, u64>> {
        let mut newest = BTreeMap::new();
        for meta in storage::list_all(self.store().as_ref(), &place.pins_prefix())? {
            if let Some((id, number)) = place.pin_of(&meta.key) {
                let known = newest.entry(id).or_insert(number);
                *known = number.max(*known);
            }
        }
        Ok(newest)
    }

    /// Says whether a backup is pinned. A pin is worth something once this has returned: then the backup is there,
    /// and no expiry that began before removes it.
    ///
    /// # Errors
    /// [`Error::NoBackup`], [`Error::Abandoned`]; [`Error::Expiring`] for a backup whose removal was decided.
    pub fn put_pin(&self, ctx: &Ctx, place: &Place, pin: &Pin) -> Result<()> {
        self.summary(place, &pin.id)?;
        let next = self.pin_numbers(place)?.get(&pin.id).map_or(0, |number| number + 1);
        let put = (next..next + TRIES).find_map(|number| {
            match self.put_line(ctx, Kind::Pin, &place.pin(&pin.id, number), pin) {
                Err(Error::Storage(error)) if error.is_already_exists() => None,
                Err(Error::Claimed { .. }) => None,
                other => Some(other),
            }
        });
        match put {
            Some(put) => put.map(drop)?,
            None => return Err(Error::Limit(format!("others pin {} all the time", pin.id))),
        }
        // Expiry records what it removes, then looks for pins; here it is the other way round.
        if pin.pinned {
            self.require_kept(ctx, place, &pin.id)?;
            self.summary(place, &pin.id)?;
        }
        Ok(())
    }
}
