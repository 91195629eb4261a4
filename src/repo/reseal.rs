//! Objects of a backup, sealed again by another repository's keys: names and content stay, salts and stored sizes
//! are new.
//!
//! Payloads go over as they were compressed, a batch of frames at a time, each after its MAC was checked. Where a pack's
//! frames lie is said by its meta object, so that one is written anew in front. What lies under the name already, from a
//! copy that died, is compared and not put again: no name is written twice.

use super::backup_id::BackupId;
use super::error::{Error, Result};
use super::file_table::IndexEntry;
use super::frame::BATCH;
use super::header::{HEADER_SIZE, Header};
use super::layout::{Kind, Place};
use super::manifest::ObjectRecord;
use super::pack_writer::{PACK_SUMMARY_SIZE, PAGE_FRAMES, write_places};
use super::repository::Repository;
use super::sealed::{SealedReader, SealedSummary};
use crate::base::Ctx;
use crate::storage::ObjectKey;

/// From one repository to another, in which the cluster has the same place.
#[derive(Debug, Clone, Copy)]
pub struct Reseal<'a> {
    /// What is read.
    pub from: &'a Repository,
    /// What is written.
    pub to: &'a Repository,
    /// Where the cluster's objects lie in both.
    pub place: &'a Place,
}

/// The records of a pack and of what belongs to it.
#[derive(Debug, Clone)]
pub struct PackRecords {
    /// The pack.
    pub data: ObjectRecord,
    /// The hashes of its blocks.
    pub hash: ObjectRecord,
    /// What it holds.
    pub meta: ObjectRecord,
}

/// An object as it was sealed again.
struct Resealed {
    summary: SealedSummary,
    /// The stored length of each frame.
    lengths: Vec<u32>,
}

impl Reseal<'_> {
    /// Copies a pack of a backup or attempt, its hashes, and last its meta object: with that it is durable. `from`
    /// is what the source's manifest says of them.
    ///
    /// # Errors
    /// [`Error::Corrupt`] for what is not what the manifest names; [`Error::Conflict`] where a name holds something
    /// else; as the stores'.
    pub fn pack(&self, ctx: &Ctx, id: &BackupId, from: &PackRecords) -> Result<PackRecords> {
        let key = |name: &str| {
            let wrong = || Error::Limit(format!("{name} names no object"));
            self.place.of_backup(id, name).ok_or_else(wrong)
        };
        let keys = (key(&from.data.name)?, key(&from.hash.name)?, key(&from.meta.name)?);
        let (data_key, hash_key, meta_key) = &keys;
        let has_meta = self.is_there(meta_key)?;
        let data = match has_meta {
            true => self.known_pack(data_key, meta_key, &from.data)?,
            false => self.object(ctx, Kind::Pack, data_key, &from.data)?,
        };
        let hash = self.object(ctx, Kind::Hash, hash_key, &from.hash)?;
        let meta = match has_meta {
            true => self.compare_meta(meta_key, &from.meta)?,
            false => self.meta(ctx, meta_key, &from.meta, &data)?,
        };
        Ok(PackRecords {
            data: ObjectRecord::new(&*from.data.name, &data.summary),
            hash: ObjectRecord::new(&*from.hash.name, &hash.summary),
            meta: ObjectRecord::new(&*from.meta.name, &meta),
        })
    }

    /// Copies a file table, and says where its frames lie now.
    ///
    /// # Errors
    /// As [`Reseal::pack`].
    pub fn files(
        &self,
        ctx: &Ctx,
        id: &BackupId,
        from: &ObjectRecord,
        index: &[IndexEntry],
    ) -> Result<(ObjectRecord, Vec<IndexEntry>)> {
        let key = self.place.files(id);
        let table = self.object(ctx, Kind::Files, &key, from)?;
        let mut offset = HEADER_SIZE as u64;
        let mut frames = Vec::with_capacity(table.lengths.len());
        for length in &table.lengths {
            frames.push((offset, *length));
            offset += u64::from(*length);
        }
        let index = index.iter().map(|entry| {
            let at = usize::try_from(entry.frame).ok().and_then(|frame| frames.get(frame));
            let (offset, length) = *at.ok_or_else(|| {
                let why = format!("the manifest's index names frame {}", entry.frame);
                Error::corrupt(&key, "frames", why)
            })?;
            Ok(IndexEntry { offset, length, ..entry.clone() })
        });
        let index = index.collect::<Result<_>>()?;
        Ok((ObjectRecord::new("files", &table.summary), index))
    }

    fn is_there(&self, key: &ObjectKey) -> Result<bool> {
        match self.to.store().head(key) {
            Err(error) if error.is_not_found() => Ok(false),
            other => Ok(other.map(|_| true)?),
        }
    }

    /// An object as it is, frame by frame; compared, where it is there.
    fn object(
        &self,
        ctx: &Ctx,
        kind: Kind,
        key: &ObjectKey,
        from: &ObjectRecord,
    ) -> Result<Resealed> {
        if self.is_there(key)? {
            return self.compare(ctx, kind, key, from);
        }
        match self.put(ctx, kind, key, from) {
            // Another copy was faster.
            Err(Error::Storage(error)) if error.is_already_exists() => {
                self.compare(ctx, kind, key, from)
            }
            other => other,
        }
    }

    fn put(&self, ctx: &Ctx, kind: Kind, key: &ObjectKey, from: &ObjectRecord) -> Result<Resealed> {
        let mut source = Source::open(self.from, kind, key, from)?;
        let mut writer = self.to.stream(ctx, kind, key)?;
        let mut lengths = Vec::new();
        while let Some((payloads, is_last)) = source.reader.next_payloads(BATCH)? {
            ctx.cancel.check()?;
            source.raw += payloads.iter().map(|each| each.raw_size() as u64).sum::<u64>();
            lengths.extend_from_slice(writer.payloads(&payloads, is_last)?);
        }
        // Before anything is visible.
        source.require_whole(from)?;
        let (sink, summary) = writer.into_parts();
        sink.finish()?;
        Ok(Resealed { summary, lengths })
    }

    /// What a copy that died has put: the same frames, or an error.
    fn compare(
        &self,
        ctx: &Ctx,
        kind: Kind,
        key: &ObjectKey,
        from: &ObjectRecord,
    ) -> Result<Resealed> {
        let mut source = Source::open(self.from, kind, key, from)?;
        let mut there = self.to.read(kind, key)?;
        let header = there.header().clone();
        let mut lengths = Vec::new();
        loop {
            ctx.cancel.check()?;
            let given = source.reader.next_payloads(BATCH)?;
            let stored = there.next_payloads(BATCH)?;
            if given != stored {
                return Err(conflict(key));
            }
            let Some((payloads, _)) = stored else { break };
            source.raw += payloads.iter().map(|each| each.raw_size() as u64).sum::<u64>();
            let sizes = payloads.iter().map(|each| each.stored_size(header.suite));
            lengths.extend(sizes.map(|size| u32::try_from(size).unwrap_or(u32::MAX)));
        }
        source.require_whole(from)?;
        let stored = HEADER_SIZE as u64 + lengths.iter().map(|each| u64::from(*each)).sum::<u64>();
        let (raw, frames) = (source.raw, there.position());
        Ok(Resealed { summary: SealedSummary { header, stored, raw, frames }, lengths })
    }

    /// A pack whose meta object is there: that names its salt and size, so it need not be read again.
    fn known_pack(
        &self,
        key: &ObjectKey,
        meta_key: &ObjectKey,
        from: &ObjectRecord,
    ) -> Result<Resealed> {
        let mut reader = self.to.read(Kind::Meta, meta_key)?;
        let told = Told::read(&mut reader, meta_key)?;
        let header = self.to.header_of(Kind::Pack, key)?;
        let stored = self.to.store().head(key)?.size;
        if (header.salt, stored) != (told.salt, told.stored) {
            return Err(Error::corrupt(meta_key, "frame 0", "it is not that of the pack"));
        }
        if (told.frames, told.raw) != (from.frames, from.raw) {
            return Err(conflict(key));
        }
        let summary = SealedSummary { header, stored, raw: told.raw, frames: told.frames };
        Ok(Resealed { summary, lengths: Vec::new() })
    }

    /// The meta object of a pack whose frames lie elsewhere now.
    fn meta(
        &self,
        ctx: &Ctx,
        key: &ObjectKey,
        from: &ObjectRecord,
        pack: &Resealed,
    ) -> Result<SealedSummary> {
        let mut source = Source::open(self.from, Kind::Meta, key, from)?;
        let told = Told::read(&mut source.reader, key)?;
        source.raw += told.own_raw;
        if (told.frames, told.raw) != (pack.summary.frames, pack.summary.raw) {
            return Err(Error::corrupt(key, "frame 0", "it is not that of the pack"));
        }
        let mut writer = self.to.stream(ctx, Kind::Meta, key)?;
        write_places(&mut writer, &pack.summary, &pack.lengths)?;
        while let Some((payloads, is_last)) = source.reader.next_payloads(BATCH)? {
            source.raw += payloads.iter().map(|each| each.raw_size() as u64).sum::<u64>();
            writer.payloads(&payloads, is_last)?;
        }
        source.require_whole(from)?;
        let (sink, summary) = writer.into_parts();
        match sink.finish() {
            // Another copy was faster, and its word on the same pack is as good.
            Err(error) if error.is_already_exists() => self.compare_meta(key, from),
            other => Ok(other.map(|_| summary)?),
        }
    }

    /// A meta object that is there must say the same of the pack's content.
    fn compare_meta(&self, key: &ObjectKey, from: &ObjectRecord) -> Result<SealedSummary> {
        let mut source = Source::open(self.from, Kind::Meta, key, from)?;
        let told = Told::read(&mut source.reader, key)?;
        source.raw += told.own_raw;
        let mut there = self.to.read(Kind::Meta, key)?;
        let header = there.header().clone();
        let other = Told::read(&mut there, key)?;
        let mut raw = other.own_raw;
        loop {
            let (given, stored) =
                (source.reader.next_payloads(BATCH)?, there.next_payloads(BATCH)?);
            if given != stored || (told.frames, told.raw) != (other.frames, other.raw) {
                return Err(conflict(key));
            }
            let Some((payloads, _)) = stored else { break };
            let more = payloads.iter().map(|each| each.raw_size() as u64).sum::<u64>();
            (source.raw, raw) = (source.raw + more, raw + more);
        }
        source.require_whole(from)?;
        let (stored, frames) = (self.to.store().head(key)?.size, there.position());
        Ok(SealedSummary { header, stored, raw, frames })
    }
}

/// An object that a manifest of the source names.
struct Source {
    key: ObjectKey,
    reader: SealedReader,
    /// Bytes of the raw stream so far.
    raw: u64,
}

impl Source {
    fn open(
        repository: &Repository,
        kind: Kind,
        key: &ObjectKey,
        record: &ObjectRecord,
    ) -> Result<Self> {
        let size = repository.store().head(key)?.size;
        if size != record.size {
            let why = format!("the store holds {size} bytes, {} were written", record.size);
            return Err(Error::corrupt(key, "size", why));
        }
        let reader = repository.read(kind, key)?;
        let Header { salt, key: id, .. } = *reader.header();
        if salt != record.salt || record.key() != Some(id) {
            let why = "it is not the object that its manifest names";
            return Err(Error::corrupt(key, "header", why));
        }
        Ok(Self { key: key.clone(), reader, raw: 0 })
    }

    fn require_whole(&self, record: &ObjectRecord) -> Result<()> {
        if (self.reader.position(), self.raw) == (record.frames, record.raw) {
            return Ok(());
        }
        let why = "it has not the frames and bytes that its manifest names";
        Err(Error::corrupt(&self.key, "frames", why))
    }
}

/// What a meta object says of where its pack's frames lie.
struct Told {
    frames: u64,
    raw: u64,
    stored: u64,
    salt: [u8; 32],
    /// Bytes of the meta object's own raw stream that say so.
    own_raw: u64,
}

impl Told {
    /// Reads a meta object up to its lines.
    fn read(reader: &mut SealedReader, key: &ObjectKey) -> Result<Self> {
        let wrong = || Error::corrupt(key, "frame 0", "it is no summary of a pack");
        let mut head = Vec::with_capacity(PACK_SUMMARY_SIZE);
        reader.next_frame(&mut head)?;
        let bytes = head.first_chunk::<PACK_SUMMARY_SIZE>().ok_or_else(wrong)?;
        let word = |at: usize| {
            let bytes = bytes.get(at..).and_then(<[u8]>::first_chunk::<8>).ok_or_else(wrong)?;
            Ok::<_, Error>(u64::from_le_bytes(*bytes))
        };
        let first = word(0)?;
        let (version, pages) = (first & u64::from(u32::MAX), first >> 32);
        let salt = bytes.last_chunk::<32>().ok_or_else(wrong)?;
        let mut told = Self {
            frames: word(8)?,
            raw: word(16)?,
            stored: word(24)?,
            salt: *salt,
            own_raw: head.len() as u64,
        };
        if version != 1 || pages != told.frames.div_ceil(PAGE_FRAMES as u64) {
            return Err(wrong());
        }
        let mut page = Vec::new();
        for _ in 0..pages {
            page.clear();
            if !reader.next_frame(&mut page)? {
                return Err(wrong());
            }
            told.own_raw += page.len() as u64;
        }
        Ok(told)
    }
}

fn conflict(key: &ObjectKey) -> Error {
    let (stored, given) = ("what is stored".into(), "what was copied".into());
    Error::Conflict { object: key.clone(), stored, given }
}
