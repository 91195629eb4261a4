//! What the world's store holds, and what can be restored from it.

use std::collections::{BTreeMap, BTreeSet};

use pgkeep::base::Timestamp;
use pgkeep::pg::{SegmentName, SegmentSize};
use pgkeep::repo::{Keep, Summary};
use pgkeep::retention::Gathered;
use pgkeep::storage::ObjectStore as _;

use super::world::{Archived, SIZE, World};

impl World {
    /// Every name in the store with its size, but for those of leases and probes.
    pub fn content(&self) -> BTreeMap<String, u64> {
        let listed = pgkeep::storage::list_all(&self.store, "").unwrap();
        let own = listed.into_iter().filter(|meta| {
            let name = meta.key.as_str();
            // Claims stay, and each attempt has its own.
            !name.starts_with("lease/") && !name.contains("/keep/") && !name.contains("/claim/")
        });
        own.map(|meta| (meta.key.to_string(), meta.size)).collect()
    }

    fn has(&self, segment: &str) -> bool {
        self.store.head(&self.place.wal(segment).unwrap()).is_ok()
    }

    /// Promise 6, asked of the store itself: each complete backup can be read to its last object, stands on backups
    /// that are there, and has its WAL.
    pub fn assert_sound(&self, what: &str) {
        let backups = self.repository.backups_by_manifest(&self.ctx, &self.place).unwrap();
        assert!(backups.unreadable.is_empty(), "{what}: {:?}", backups.unreadable);
        for backup in &backups.complete {
            let id = &backup.id;
            let opened = self.repository.open_backup(&self.place, id);
            let opened = opened.unwrap_or_else(|error| panic!("{what}: {id}: {error}"));
            for manifest in opened.chain() {
                let required = self.repository.require_objects(&self.place, manifest);
                required.unwrap_or_else(|error| panic!("{what}: {id}: {error}"));
            }
            let at = |name: &str| self.archived.iter().position(|a| a.segment == name).unwrap();
            let needed = &self.archived[at(&backup.wal_first)..=at(&backup.wal_last)];
            let lost = needed.iter().find(|archived| !self.has(&archived.segment));
            assert!(lost.is_none(), "{what}: {id} lacks {lost:?}");
        }
        for timeline in 2..=self.timeline {
            let history = self.store.head(&self.place.history(timeline));
            assert!(history.is_ok(), "{what}: the history of timeline {timeline}");
        }
    }

    /// The moments that can be restored from one backup.
    pub fn restorable_from(&self, backup: &Summary) -> Vec<Timestamp> {
        self.moments_behind(backup, |archived| self.has(&archived.segment))
    }

    fn moments_behind(
        &self,
        backup: &Summary,
        is_there: impl Fn(&Archived) -> bool,
    ) -> Vec<Timestamp> {
        let first = self.archived.iter().position(|a| a.segment == backup.wal_first);
        let run = self.archived[first.unwrap()..].iter().take_while(|a| is_there(a));
        run.filter(|a| a.moment >= backup.finished).map(|a| a.moment).collect()
    }

    /// The moments that can be restored without what was given up for good.
    pub fn restorable_without(&self, gathered: &Gathered) -> Vec<Timestamp> {
        let given_up = &gathered.facts.given_up;
        let mut backups = self.complete();
        backups.retain(|backup| !given_up.iter().any(|gone| gone.id == backup.id));
        let is_left = |archived: &Archived| {
            let name = SegmentName::parse(archived.segment.as_bytes()).unwrap();
            gathered.left.has(name.timeline(), name.number(gathered.segment_size()).unwrap())
        };
        let is_there = |archived: &Archived| self.has(&archived.segment) && !is_left(archived);
        let behind = backups.iter().flat_map(|backup| self.moments_behind(backup, is_there));
        let moments: BTreeSet<_> = behind.collect();
        moments.into_iter().collect()
    }

    /// The moments from the first one on whose WAL was given up, as the newest record says.
    pub fn given_up(&self) -> BTreeSet<Timestamp> {
        let kept = self.repository.kept(&self.ctx, &self.place).unwrap();
        let Some(keep) = kept.newest else { return BTreeSet::new() };
        let is_given_up = |archived: &&Archived| self.has_expired(&keep, &archived.segment);
        self.archived.iter().filter(is_given_up).map(|archived| archived.moment).collect()
    }

    /// Whether a record gives up a segment.
    pub fn has_expired(&self, keep: &Keep, segment: &str) -> bool {
        let size = SegmentSize::new(SIZE).unwrap();
        let name = SegmentName::parse(segment.as_bytes()).unwrap();
        keep.expired_wal(size).has(name.timeline(), name.number(size).unwrap())
    }

    /// Every segment that is there.
    pub fn segments(&self) -> BTreeSet<String> {
        let there = self.archived.iter().filter(|archived| self.has(&archived.segment));
        there.map(|archived| archived.segment.clone()).collect()
    }

    /// The moments that can be restored: each archived one behind a backup, all segments from that on being there.
    /// Along the newest timeline, which in this world descends from all others.
    pub fn restorable(&self) -> Vec<Timestamp> {
        let backups = self.complete();
        let mut moments: Vec<_> = backups.iter().flat_map(|b| self.restorable_from(b)).collect();
        moments.sort();
        moments.dedup();
        moments
    }
}
