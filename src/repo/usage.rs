//! What a repository holds, by what it is and in which storage class: told by lists alone, without a key.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

use super::error::{Error, Result};
use super::layout::Place;
use crate::base::Ctx;
use crate::storage::{self, ObjectStore, StorageClass};

/// What an object is for, as far as its name tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// Packs.
    Packs,
    /// Metas, hashes, file tables and manifests.
    Tables,
    /// WAL segments.
    Wal,
    /// Timeline histories, backup history files and partial segments.
    BesideWal,
    /// Registrations, begin records, pins, records of expiry.
    Records,
    /// Leases and claims.
    Claims,
    /// Summaries and notes.
    Summaries,
    /// Descriptor and key slots.
    Keys,
    /// Nothing that pgkeep knows.
    Other,
}

impl Family {
    /// Of an object of this name.
    #[must_use]
    pub fn of_name(name: &str) -> Self {
        let Some(place) = Place::of_name(name) else {
            return match name.split('/').next() {
                Some("pgkeep.json" | "key") => Self::Keys,
                Some("lease" | "probe") => Self::Claims,
                _ => Self::Other,
            };
        };
        let inner = name.strip_prefix(place.prefix().as_str()).unwrap_or_default();
        match inner.split('/').next() {
            Some("data") => Self::Packs,
            Some("meta" | "hash" | "files" | "backup") => Self::Tables,
            Some("wal") => Self::Wal,
            Some("history" | "label" | "partial") => Self::BesideWal,
            Some("cluster" | "announced" | "begin" | "pin" | "keep" | "report") => Self::Records,
            Some("claim") => Self::Claims,
            Some("sum") => Self::Summaries,
            _ => Self::Other,
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Packs => "packs",
            Self::Tables => "manifests, tables, hashes",
            Self::Wal => "WAL",
            Self::BesideWal => "histories, labels, partial WAL",
            Self::Records => "records, pins",
            Self::Claims => "leases, claims",
            Self::Summaries => "summaries",
            Self::Keys => "descriptor, keys",
            Self::Other => "not pgkeep's",
        })
    }
}

impl Serialize for Family {
    fn serialize<S: serde::Serializer>(
        &self,
        serializer: S,
    ) -> std::result::Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// What is counted together.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Held {
    /// Of which cluster; nothing of what is the repository's.
    pub cluster: Option<String>,
    /// What for.
    pub family: Family,
    /// Where.
    pub class: StorageClass,
}

/// So many.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Holding {
    /// Objects, or versions.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
}

impl Holding {
    fn add(&mut self, bytes: u64) {
        self.objects += 1;
        self.bytes += bytes;
    }
}

/// What a repository holds.
#[derive(Debug, Clone, Default)]
pub struct Usage {
    /// The objects.
    pub objects: BTreeMap<Held, Holding>,
    /// Older versions, and those of removed objects: they are paid for, and no list of objects shows them.
    pub versions: BTreeMap<Held, Holding>,
    /// Whether versions are told to this account.
    pub are_versions_known: bool,
    /// Marks of removed objects.
    pub markers: u64,
    /// What writers left that were killed, or are at work; nothing where that is not told to this account.
    pub unfinished: Option<u64>,
}

impl Usage {
    /// Counts everything in a store, a request for a thousand objects, and again for a thousand versions.
    ///
    /// # Errors
    /// As the store's.
    pub fn of(ctx: &Ctx, store: &dyn ObjectStore) -> Result<Self> {
        let mut usage = Self::default();
        storage::each_page(store, "", |page| {
            ctx.cancel.check()?;
            for meta in page {
                let held = held(meta.key.as_str(), meta.class);
                usage.objects.entry(held).or_default().add(meta.size);
            }
            Ok::<_, Error>(())
        })?;
        usage.unfinished = told(store.unfinished())?.map(|found| found.len() as u64);
        usage.are_versions_known = true;
        if store.has_versions()? {
            match usage.add_versions(ctx, store) {
                Err(Error::Storage(error)) if is_untold(&error) => usage.are_versions_known = false,
                done => done?,
            }
        }
        Ok(usage)
    }

    fn add_versions(&mut self, ctx: &Ctx, store: &dyn ObjectStore) -> Result<()> {
        let mut after = None;
        loop {
            ctx.cancel.check()?;
            let page = store.versions("", after.as_ref())?;
            for version in page.versions {
                if version.is_marker {
                    self.markers += 1;
                    continue;
                }
                let held = held(version.key.as_str(), version.class);
                self.versions.entry(held).or_default().add(version.size);
            }
            match page.next {
                Some(next) => after = Some(next),
                None => return Ok(()),
            }
        }
    }
}

/// Rights on the bucket that a reader or writer may lack.
fn is_untold(error: &storage::Error) -> bool {
    matches!(error, storage::Error::Forbidden { .. } | storage::Error::Unsupported { .. })
}

fn told<T>(answer: storage::Result<T>) -> Result<Option<T>> {
    match answer {
        Err(error) if is_untold(&error) => Ok(None),
        answer => Ok(Some(answer?)),
    }
}

fn held(name: &str, class: Option<StorageClass>) -> Held {
    let cluster = Place::of_name(name).map(|place| place.cluster().to_owned());
    // Where a list does not tell, it is the first one.
    Held { cluster, family: Family::of_name(name), class: class.unwrap_or_default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_what_objects_are_for() {
        let families = [
            ("pgkeep.json", Family::Keys),
            ("key/0011223344556677", Family::Keys),
            ("c/main/7-1/cluster", Family::Records),
            ("c/main/7-1/announced", Family::Records),
            ("c/main/7-1/begin/20261120-020000F", Family::Records),
            ("c/main/7-1/pin/20261120-020000F.000000", Family::Records),
            ("c/main/7-1/keep/000000000", Family::Records),
            ("c/main/7-1/backup/20261120-020000F", Family::Tables),
            ("c/main/7-1/files/20261120-020000F", Family::Tables),
            ("c/main/7-1/meta/20261120-020000F/000000", Family::Tables),
            ("c/main/7-1/hash/20261120-020000F/000000", Family::Tables),
            ("c/main/7-1/data/20261120-020000F/000000", Family::Packs),
            ("c/main/7-1/wal/00000001/00000000/000000010000000000000001", Family::Wal),
            ("c/main/7-1/history/00000002", Family::BesideWal),
            ("c/main/7-1/label/000000010000000000000001.00000028.backup", Family::BesideWal),
            ("c/main/7-1/partial/000000010000000000000001.0000000001000000", Family::BesideWal),
            ("c/main/7-1/claim/wal/a/b-0", Family::Claims),
            ("c/main/7-1/sum/found-first", Family::Summaries),
            ("lease/expire/main/0011223344556677.0", Family::Claims),
            ("probe/00", Family::Claims),
            ("photos/1.jpg", Family::Other),
            ("c/nonsense", Family::Other),
        ];
        for (name, family) in families {
            assert_eq!(Family::of_name(name), family, "{name}");
        }
    }
}
