//! A backup that died: which packs of it are durable, and what lies in them (FORMAT.md, section 6).
//!
//! A pack counts when its meta object is there, which is put after the pack and its hashes. What is damaged counts
//! as not there: it costs reading, and nothing else.

use std::sync::{Arc, Mutex};

use super::backup_id::BackupId;
use super::bases::{Base, Reused};
use super::contents::{Content, ContentReader};
use super::error::{Error, Result};
use super::frame::stored_size;
use super::hashes::{HASH_SIZE, HashReader};
use super::header::{FRAME_SIZE, HEADER_SIZE, Header};
use super::layout::{Kind, Place};
use super::manifest::ObjectRecord;
use super::recent::Recent;
use super::records::Begin;
use super::repository::Repository;
use super::sealed::SealedSummary;
use crate::base::{Ctx, side_by_side};
use crate::storage::{self, ObjectKey};

/// Packs whose hashes are kept.
const HASHES_KEPT: usize = 16;

/// Meta objects that are read side by side, of all attempts: as many as they had workers.
const OPEN_AT_ONCE: usize = 32;

/// A dead attempt whose packs may be used.
#[derive(Debug)]
pub struct Attempt {
    repository: Repository,
    place: Place,
    begin: Begin,
    /// The salt of that record.
    salt: [u8; 32],
    /// Durable packs, by the path of the first file in each.
    packs: Vec<Pack>,
    hashes: Mutex<Recent<HashReader, HASHES_KEPT>>,
}

/// A durable pack.
#[derive(Debug)]
struct Pack {
    number: u32,
    first: Vec<u8>,
    data: ObjectRecord,
    meta: ObjectRecord,
    hash: ObjectRecord,
}

impl Repository {
    /// What a dead attempt of a cluster with blocks of that size has left; nothing where no pack of it is
    /// durable. Reads the meta objects. One with a file table is no attempt: its manifest was about to be put, or
    /// has been removed, and who removes a backup goes on with its packs.
    ///
    /// # Errors
    /// As the store's.
    pub fn open_attempt(
        &self,
        ctx: &Ctx,
        place: &Place,
        id: &BackupId,
        block_size: u32,
    ) -> Result<Option<Attempt>> {
        let (begin, salt) = match self.salted_begin(place, id) {
            Err(error) if Error::is_of_content(&error) => return Ok(None),
            other => other?,
        };
        match self.store().head(&place.files(id)) {
            Err(error) if error.is_not_found() => {}
            other => {
                other?;
                return Ok(None);
            }
        }
        let [_, metas, _] = place.backup_prefixes(id);
        let listed = storage::list_all(self.store().as_ref(), &metas)?;
        let numbers = listed.iter().filter_map(|meta| {
            let number = meta.key.last_component().parse().ok()?;
            (place.meta(id, number) == meta.key).then_some((number, meta.size))
        });
        let numbers: Vec<(u32, u64)> = numbers.collect();
        let packs = side_by_side(&numbers, |(number, size)| {
            ctx.cancel.check()?;
            match self.durable_pack((place, id), *number, *size, block_size) {
                Err(error) if error.is_about_one_object() => Ok(None),
                other => other,
            }
        })?;
        let mut packs: Vec<Pack> = packs.into_iter().flatten().collect();
        packs.sort_by(|a, b| (&a.first, a.number).cmp(&(&b.first, b.number)));
        let (repository, place) = (self.clone(), place.clone());
        let hashes = Mutex::default();
        let attempt = Attempt { repository, place, begin, salt, packs, hashes };
        Ok((!attempt.packs.is_empty()).then_some(attempt))
    }

    fn durable_pack(
        &self,
        (place, id): (&Place, &BackupId),
        number: u32,
        meta_size: u64,
        block_size: u32,
    ) -> Result<Option<Pack>> {
        let key = place.meta(id, number);
        let mut contents = ContentReader::new(&key, self.read(Kind::Meta, &key)?)?;
        let told = contents.pack().clone();
        let (pack_key, hash_key) = (place.pack(id, number), place.hash(id, number));
        let header = self.header_of(Kind::Pack, &pack_key)?;
        if (header.salt, self.store().head(&pack_key)?.size) != (told.salt, told.stored) {
            return Err(Error::corrupt(&key, "frame 0", "it is not that of the pack"));
        }
        let sealed =
            SealedSummary { header, stored: told.stored, raw: told.raw, frames: told.frames };
        let data = ObjectRecord::new(format!("data/{number:06}"), &sealed);
        let blocks = told.raw / u64::from(block_size.max(1));
        let hash = self.hash_record(&hash_key, number, blocks * HASH_SIZE as u64)?;
        let Some(first) = contents.next_content()? else { return Ok(None) };
        let sealed = contents.finish(meta_size)?;
        let meta = ObjectRecord::new(format!("meta/{number:06}"), &sealed);
        Ok(Some(Pack { number, first: first.source.path, data, meta, hash }))
    }

    /// The record of hashes of so many bytes, whose frames are stored raw: their sizes are known.
    fn hash_record(&self, key: &ObjectKey, number: u32, raw: u64) -> Result<ObjectRecord> {
        let header = self.header_of(Kind::Hash, key)?;
        let frames = raw.div_ceil(FRAME_SIZE as u64).max(1);
        let last = raw - (frames - 1) * FRAME_SIZE as u64;
        let full = (frames - 1) * stored_size(header.suite, FRAME_SIZE) as u64;
        let last = stored_size(header.suite, usize::try_from(last).unwrap_or(FRAME_SIZE)) as u64;
        let stored = HEADER_SIZE as u64 + full + last;
        let found = self.store().head(key)?.size;
        if found != stored {
            let why = format!("the store holds {found} bytes, {stored} belong to the pack");
            return Err(Error::corrupt(key, "size", why));
        }
        let sealed = SealedSummary { header, stored, raw, frames };
        Ok(ObjectRecord::new(format!("hash/{number:06}"), &sealed))
    }

    /// An object's header. Nothing of it is authenticated: the keys of what it heads are derived from it.
    pub(super) fn header_of(&self, kind: Kind, key: &ObjectKey) -> Result<Header> {
        let mut bytes = [0; HEADER_SIZE];
        match self.store().read_range(key, 0, &mut bytes) {
            Err(storage::Error::Short { .. }) => {
                return Err(Error::corrupt(key, "header", "the object is cut off"));
            }
            other => other?,
        }
        Header::decode(key, &bytes, kind, self.descriptor.cipher.suite())
    }
}

impl Attempt {
    /// How it began.
    #[must_use]
    pub fn begin(&self) -> &Begin {
        &self.begin
    }

    /// Which backup it was to be.
    #[must_use]
    pub fn id(&self) -> &BackupId {
        &self.begin.id
    }

    /// Bytes of its durable packs, as stored.
    #[must_use]
    pub fn stored(&self) -> u64 {
        self.packs.iter().map(|pack| pack.data.size).sum()
    }

    /// As a base with this number.
    #[must_use]
    pub fn as_base(&self, index: u32) -> Base {
        Base { index, id: self.begin.id.clone(), salt: self.salt, attempt: true, used: 0 }
    }

    /// The records of a pack of it and of what belongs to that, for who uses it as this base.
    #[must_use]
    pub fn reused(&self, index: u32, number: u32) -> Vec<Reused> {
        let pack = self.packs.iter().find(|pack| pack.number == number);
        let objects = pack.into_iter().flat_map(|pack| [&pack.data, &pack.meta, &pack.hash]);
        objects.map(|object| Reused { base: index, object: object.clone() }).collect()
    }

    /// The hashes of a pack's blocks.
    ///
    /// # Errors
    /// [`Error::Corrupt`] for a pack that is none of its durable ones. Makes no request.
    pub fn hashes(&self, number: u32) -> Result<Arc<HashReader>> {
        let mut hashes = self.hashes.lock().expect("no holder of this lock panics");
        hashes.get_or_make(number.into(), || {
            let key = self.place.hash(&self.begin.id, number);
            let wrong = || Error::corrupt(&key, "name", "it is not that of a durable pack");
            let pack = self.packs.iter().find(|pack| pack.number == number).ok_or_else(wrong)?;
            let id = pack.hash.key().ok_or_else(wrong)?;
            let object = self.repository.random(Kind::Hash, &key, id, pack.hash.salt)?;
            Ok(HashReader::new(object, pack.hash.raw))
        })
    }

    /// What its packs hold, file by file.
    #[must_use]
    pub fn contents(&self) -> AttemptContents<'_> {
        AttemptContents { attempt: self, begun: 0, open: Vec::new() }
    }
}

/// Goes through the contents of an attempt's packs in the order of paths. Of the packs those are open that a worker
/// was filling when it came to that path.
pub struct AttemptContents<'a> {
    attempt: &'a Attempt,
    /// Packs that were opened, of those in the order of their first paths.
    begun: usize,
    open: Vec<(ContentReader, Content)>,
}

impl AttemptContents<'_> {
    /// What lies in them of a file, with the numbers of the packs. Paths must be asked for in ascending order.
    ///
    /// # Errors
    /// As the store's; what is damaged is passed over.
    pub fn of(&mut self, path: &[u8]) -> Result<Vec<(u32, Content)>> {
        while let Some(pack) = self.attempt.packs.get(self.begun)
            && pack.first.as_slice() <= path
        {
            self.begun += 1;
            let key = self.attempt.place.meta(&self.attempt.begin.id, pack.number);
            let opened = self.attempt.repository.read(Kind::Meta, &key);
            let opened =
                opened.and_then(|reader| ContentReader::new(&key, reader.one_of(OPEN_AT_ONCE)));
            if let Some((reader, next)) = advanced(opened)? {
                self.open.push((reader, next));
            }
        }
        let mut found = Vec::new();
        for (mut reader, mut next) in std::mem::take(&mut self.open) {
            loop {
                if next.source.path.as_slice() > path {
                    self.open.push((reader, next));
                    break;
                }
                let number = reader.number();
                if next.source.path == path {
                    found.push((number, next));
                }
                match advanced(Ok(reader))? {
                    Some(more) => (reader, next) = more,
                    None => break,
                }
            }
        }
        Ok(found)
    }
}

/// A reader and its next content; nothing at its end, or where it is damaged.
fn advanced(reader: Result<ContentReader>) -> Result<Option<(ContentReader, Content)>> {
    let advanced = reader.and_then(|mut reader| {
        let next = reader.next_content()?;
        Ok(next.map(|next| (reader, next)))
    });
    match advanced {
        Err(error) if error.is_about_one_object() => Ok(None),
        other => other,
    }
}
