//! One backup: record, packs, WAL, file table, manifest.

use std::collections::BTreeMap;

use super::bringing::{Bringing, Brought};
use super::error::{Error, Result};
use super::hold::lease;
use super::plan::BackupCopy;
use super::sides::{Side, Who};
use crate::base::{Ctx, Event, few_side_by_side};
use crate::repo::{
    self, BackupId, Base, Begin, KeptUp, Manifest, ObjectRecord, PackRecords, Place, Reseal, Reused,
};

/// A backup on its way.
pub(super) struct Copying<'a> {
    pub(super) ctx: &'a Ctx,
    pub(super) bringing: Bringing<'a>,
    pub(super) who: &'a Who<'a>,
    pub(super) planned: &'a BackupCopy,
}

/// What was copied.
#[derive(Debug)]
pub(super) struct CopiedBackup {
    pub(super) objects: u64,
    pub(super) bytes: u64,
    pub(super) segments: u64,
    /// Keeps it from being removed before it is pinned.
    pub(super) held: KeptUp,
}

impl Copying<'_> {
    fn sides(&self) -> (Side<'_>, Side<'_>, &Place) {
        (self.bringing.from, self.bringing.to, self.bringing.place)
    }

    /// Copies it. It is held in the source.
    pub(super) fn copy(&self) -> Result<CopiedBackup> {
        let (from, to, place) = self.sides();
        let id = &self.planned.id;
        let (source, _) = from.at(from.repository.salted_manifest(place, id))?;
        from.at(from.repository.require_objects(place, &source))?;
        let purpose = "repository copy to here";
        let held = to.at(lease(self.ctx, &to, place, id, (self.who, purpose)))?;
        self.begin(&source, &held)?;
        let bases = self.bases(&source, &held)?;
        let records = self.packs(id, &source.objects)?;
        let mut objects: Vec<ObjectRecord> = records.into_iter().flatten().collect();
        let reused = self.reused(&source)?;
        let segments = self.wal()?;
        // Behind everything that it names: with it the backup is as good as there.
        let reseal = self.reseal();
        let table =
            source.find_object("files").ok_or_else(|| self.wrong("it names no file table"))?;
        let (files, index) = to.at(reseal.files(self.ctx, id, table, &source.index))?;
        objects.push(files);
        let mut manifest = Manifest {
            summary: source.summary.clone(),
            objects,
            bases,
            reused,
            tablespaces: source.tablespaces.clone(),
            damage: source.damage.clone(),
            index,
        };
        self.require_own(&manifest)?;
        match to.repository.commit(self.ctx, place, &mut manifest) {
            // Another copy of it was faster.
            Err(repo::Error::Storage(error)) if error.is_already_exists() => {}
            other => to.at(other)?,
        }
        let all = manifest.objects.iter().chain(manifest.reused.iter().map(|each| &each.object));
        let bytes = all.clone().map(|object| object.size).sum();
        Ok(CopiedBackup { objects: all.count() as u64 + 1, bytes, segments, held })
    }

    fn reseal(&self) -> Reseal<'_> {
        let (from, to, place) = self.sides();
        Reseal { from: from.repository, to: to.repository, place }
    }

    fn wrong(&self, why: &str) -> Error {
        Error::LeftOut { id: self.planned.id.clone(), why: why.into() }
    }

    /// Puts the record that it begins, or takes that of a copy that died; then looks at what expiry has decided, which
    /// looks for such records after it has decided.
    fn begin(&self, source: &Manifest, held: &KeptUp) -> Result<()> {
        let (_, to, place) = self.sides();
        let summary = &source.summary;
        let begin = Begin {
            id: summary.id.clone(),
            backup_type: summary.backup_type,
            parent: summary.parent.clone(),
            started: summary.started,
            host: self.who.host.into(),
            pid: self.who.pid,
            tool: env!("CARGO_PKG_VERSION").into(),
            timeline: summary.timeline,
            wal_from: summary.start_lsn,
            hash: summary.hash.clone(),
            // Nobody reads one: the next backup must not take it for its own.
            directory: String::new(),
            directory_identity: None,
            standby: summary.server.standby,
            attempts: summary.attempts.clone(),
            lease: Some(held.holder()),
            copied: true,
        };
        self.put_begin(&begin)?;
        let kept = to.at(to.repository.kept(self.ctx, place))?;
        if let Some(why) = kept.unreadable.first() {
            return Err(self.wrong(&format!("what expiry has decided there cannot be read: {why}")));
        }
        let mut all = source.bases.iter().map(|base| &base.id).chain([&summary.id]);
        match all.find(|id| kept.is_removing(id)) {
            Some(id) => to.at(Err(repo::Error::Expiring { id: id.to_string() })),
            None => Ok(()),
        }
    }

    /// Puts a begin record and gives its salt; one of the same backup that is there is as good.
    fn put_begin(&self, begin: &Begin) -> Result<[u8; 32]> {
        let (_, to, place) = self.sides();
        match to.repository.put_begin(self.ctx, place, begin) {
            Err(repo::Error::Storage(error)) if error.is_already_exists() => {}
            other => to.at(other)?,
        }
        let (there, salt) = to.at(to.repository.salted_begin(place, &begin.id))?;
        let is_same = there.hash == begin.hash && there.started == begin.started && there.copied;
        match is_same {
            true => Ok(salt),
            false => {
                let why = format!("{} has another backup that began under this name", to.name);
                Err(Error::LeftOut { id: begin.id.clone(), why })
            }
        }
    }

    /// What it stands on, by the target's salts.
    fn bases(&self, source: &Manifest, held: &KeptUp) -> Result<Vec<Base>> {
        let (_, to, place) = self.sides();
        let below = match &source.summary.parent {
            None => Vec::new(),
            Some(parent) => to.at(to.repository.open_backup(place, parent))?.as_bases(),
        };
        let mut bases = Vec::with_capacity(source.bases.len());
        for (at, base) in source.bases.iter().enumerate() {
            let salt = match below.get(at) {
                Some(own) if (&own.id, own.attempt) == (&base.id, base.attempt) => own.salt,
                Some(_) => return Err(self.wrong("its parent stands on others there")),
                None if base.attempt => self.attempt(&base.id, held)?,
                None => {
                    return Err(
                        self.wrong("it stands on more than its parent and that one's bases")
                    );
                }
            };
            bases.push(Base { salt, ..base.clone() });
        }
        Ok(bases)
    }

    /// An interrupted backup whose packs are used: its record, and the seal on its name. The salt of the record.
    fn attempt(&self, id: &BackupId, held: &KeptUp) -> Result<[u8; 32]> {
        let (from, to, place) = self.sides();
        let (begin, _) = from.at(from.repository.salted_begin(place, id))?;
        let begin = Begin {
            directory: String::new(),
            directory_identity: None,
            lease: Some(held.holder()),
            copied: true,
            ..begin
        };
        let salt = self.put_begin(&begin)?;
        let why = format!("it was interrupted, and {} uses what it has stored", self.planned.id);
        match to.repository.abandon(self.ctx, place, id, &why) {
            Err(repo::Error::Storage(error)) if error.is_already_exists() => {}
            other => to.at(other)?,
        }
        match to.repository.summary(place, id) {
            Err(repo::Error::Abandoned { .. }) => Ok(salt),
            other => {
                to.at(other)?;
                Err(self.wrong(&format!("{id}, which was interrupted, is complete in {}", to.name)))
            }
        }
    }

    /// The packs among these objects of a backup or attempt, and what belongs to them.
    fn packs(&self, id: &BackupId, objects: &[ObjectRecord]) -> Result<Vec<[ObjectRecord; 3]>> {
        let to = self.bringing.to;
        let reseal = self.reseal();
        let grouped = grouped(objects)
            .ok_or_else(|| self.wrong("a pack lacks its hashes or its meta object"))?;
        few_side_by_side(self.who.jobs, &grouped, |records| {
            self.ctx.cancel.check()?;
            let PackRecords { data, hash, meta } = to.at(reseal.pack(self.ctx, id, records))?;
            let bytes = records.data.size + records.hash.size + records.meta.size;
            self.ctx.observer.event(Event::Advance { bytes, files: 3 });
            Ok([data, hash, meta])
        })
    }

    fn reused(&self, source: &Manifest) -> Result<Vec<Reused>> {
        let mut by_base: BTreeMap<u32, Vec<ObjectRecord>> = BTreeMap::new();
        for Reused { base, object } in &source.reused {
            by_base.entry(*base).or_default().push(object.clone());
        }
        let mut reused = Vec::new();
        for (base, objects) in by_base {
            let owner = source.bases.get(base as usize).filter(|base| base.attempt);
            let owner =
                owner.ok_or_else(|| self.wrong("what it reuses is of no interrupted backup"))?;
            let packs = self.packs(&owner.id, &objects)?.into_iter().flatten();
            reused.extend(packs.map(|object| Reused { base, object }));
        }
        Ok(reused)
    }

    /// The WAL that it needs, and how many segments were stored.
    fn wal(&self) -> Result<u64> {
        let brought = self.bringing.needed(&self.planned.wal)?;
        if brought.contains(&Brought::Gone) {
            let why = format!("WAL that it needs is gone from {}", self.bringing.from.name);
            return Err(self.wrong(&why));
        }
        Ok(brought.iter().filter(|each| **each == Brought::Stored).count() as u64)
    }

    /// Where a store lets two write one name at once, what lies there must be what was put.
    fn require_own(&self, manifest: &Manifest) -> Result<()> {
        let (_, to, place) = self.sides();
        if to.repository.descriptor().conditional_put {
            return Ok(());
        }
        to.at(to.repository.require_salts(place, manifest))
    }
}

/// Each pack with its hashes and its meta object; nothing where one of them is missing.
fn grouped(objects: &[ObjectRecord]) -> Option<Vec<PackRecords>> {
    let find = |name: String| objects.iter().find(|object| object.name == name).cloned();
    let numbers = objects.iter().filter_map(|object| object.name.strip_prefix("data/"));
    let packs = numbers.map(|number| {
        let [data, hash, meta] =
            ["data", "hash", "meta"].map(|family| find(format!("{family}/{number}")));
        Some(PackRecords { data: data?, hash: hash?, meta: meta? })
    });
    packs.collect()
}
