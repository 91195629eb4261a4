//! Which of several summaries counts: the newest that can be read.
//!
//! Whoever may put objects may put any bytes under a name here. What no key of this repository sealed is
//! passed over; what cannot be read never fails who asks: the objects say the same.

use super::error::{Error, Result};
use super::layout::Kind;
use super::repository::Repository;
use crate::base::{Ctx, ahead};
use crate::storage::{self, ObjectKey, ObjectMeta};

/// How many that this repository sealed are read after the newest, until one makes sense.
const TRIES: usize = 3;

/// How many are looked at in all: much work for whoever wants to be in the way.
const LOOKED_AT_MAX: usize = 1_000;

/// How many that cannot be read are told one by one.
const TOLD_MAX: usize = 3;

/// What a search for a summary came to.
#[derive(Debug)]
pub(super) struct Newest<T> {
    pub found: Option<T>,
    /// Newer ones that cannot be read.
    pub unreadable: Unreadable,
}

/// Summaries that cannot be read.
#[derive(Debug, Default)]
pub(super) struct Unreadable {
    /// Why, in words.
    pub told: Vec<String>,
    more: usize,
    /// Some are for others to read: whoever writes one here would write it again and again.
    pub is_hidden: bool,
}

impl Repository {
    /// Reads the newest summary that can be read. `newest_first` are the names, with what `read` needs to
    /// know.
    ///
    /// # Errors
    /// As the store's.
    pub(super) fn newest_summary<K: Sync, T>(
        &self,
        ctx: &Ctx,
        newest_first: &[(K, ObjectKey)],
        read: impl Fn(&(K, ObjectKey)) -> Result<T>,
    ) -> Result<Newest<T>> {
        let mut unreadable = Unreadable::default();
        let Some((newest, older)) = newest_first.split_first() else {
            return Ok(unreadable.newest(None));
        };
        match read(newest) {
            Ok(found) => return Ok(unreadable.newest(Some(found))),
            Err(error) => unreadable.add(error)?,
        }
        let mut tries = 0;
        let looked_at = ahead(older.iter().take(LOOKED_AT_MAX), |(_, key)| self.is_sealed(key));
        for (summary, is_sealed) in looked_at {
            ctx.cancel.check()?;
            match is_sealed.and_then(|()| {
                tries += 1;
                read(summary)
            }) {
                Ok(found) => return Ok(unreadable.newest(Some(found))),
                Err(error) => unreadable.add(error)?,
            }
            if tries == TRIES {
                break;
            }
        }
        Ok(unreadable.newest(None))
    }

    /// Lists summaries. To whom they are not shown there are none.
    ///
    /// # Errors
    /// As the store's.
    pub(super) fn list_summaries(&self, prefix: &str) -> Result<(Vec<ObjectMeta>, Unreadable)> {
        let mut unreadable = Unreadable::default();
        let listed = storage::list_all(self.store().as_ref(), prefix).or_else(|error| {
            unreadable.add(error.into())?;
            Ok::<_, Error>(Vec::new())
        })?;
        Ok((listed, unreadable))
    }

    /// Whether a summary begins as one that was sealed here. One request.
    fn is_sealed(&self, key: &ObjectKey) -> Result<()> {
        self.read(Kind::Summary, key)?.next_frame(&mut Vec::new()).map(drop)
    }
}

impl Unreadable {
    /// Takes what stands in the way of one summary; fails for what stands in everybody's.
    fn add(&mut self, error: Error) -> Result<()> {
        use storage::Error::{Denied, Forbidden};
        if !error.is_about_one_object() {
            return Err(error);
        }
        self.is_hidden |= matches!(error, Error::Storage(Forbidden { .. } | Denied { .. }));
        if self.told.len() < TOLD_MAX {
            self.told.push(error.to_string());
        } else {
            self.more += 1;
        }
        Ok(())
    }

    fn newest<T>(mut self, found: Option<T>) -> Newest<T> {
        if self.more > 0 {
            self.told.push(format!("{} more summaries cannot be read", self.more));
        }
        Newest { found, unreadable: self }
    }

    /// Takes what is known of others, too.
    pub(super) fn extend(&mut self, other: Self) {
        self.told.extend(other.told);
        self.is_hidden |= other.is_hidden;
    }
}
