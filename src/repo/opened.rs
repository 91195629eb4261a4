//! An opened backup: its rows in order, any file by path, any block in two ranged reads, packs for restores,
//! hashes of blocks.
//!
//! Its own table holds what differs from its parent's, so the tables of the whole chain are read side by
//! side, the newest row of a path first. Blocks are where a row says: no chain is walked for them. Salts
//! come from the manifests: an object of another attempt, or an older one, fails its MAC.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use super::backup_id::BackupId;
use super::bases::{Base, base_error};
use super::error::{Error, Result};
use super::file_table::{self, FileTableReader, Layer, Row, RowKind, RowParser, Source};
use super::hashes::HashReader;
use super::layout::{Kind, Place};
use super::manifest::{Manifest, ObjectRecord};
use super::merged::Rows;
use super::pack_reader::PackReader;
use super::recent::Recent;
use super::repository::Repository;
use super::sealed::SealedRandom;
use crate::base::side_by_side;

/// The least path after those that begin with a slash.
const AFTER_EXTERNAL: &[u8] = b"0";

/// No configuration has as many files.
const EXTERNAL_ROWS_MAX: usize = 10_000;

/// Packs whose readers are kept, each with a page of 16 KiB: far more than workers use at a time, and not
/// as many as a large backup has.
const PACKS_KEPT: usize = 64;

/// Packs whose readers of hashes are kept, each with up to half a megabyte of them. The blocks of a file, and those
/// beside it, lie in one pack of every backup of a long chain, and of that in one for each worker.
const HASHES_KEPT: usize = 64;

/// A backup of the chain.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) manifest: Manifest,
    /// The salt of its manifest.
    salt: [u8; 32],
    /// Its number among the bases; none for the opened backup itself.
    pub(super) base: Option<u32>,
}

/// A backup whose manifest was read and authenticated, and those of all on which it stands.
#[derive(Debug)]
pub struct OpenedBackup {
    repository: Repository,
    place: Place,
    /// Itself, its parent, and so on to the full.
    members: Vec<Member>,
    packs: Mutex<Recent<PackReader, PACKS_KEPT>>,
    hashes: Mutex<Recent<HashReader, HASHES_KEPT>>,
    /// The row that [`OpenedBackup::block`] used last: neighbours ask for the same file.
    last_row: Mutex<Option<Arc<Row>>>,
    /// Small files that were read whole: a plan asks for the same configuration several times.
    small: Mutex<BTreeMap<Vec<u8>, Arc<Small>>>,
}

/// A small file.
#[derive(Debug)]
struct Small {
    row: Row,
    content: Vec<u8>,
}

/// How long a small file is at most, and how many are kept.
const SMALL_BYTES_MAX: u64 = 256 << 10;
const SMALL_KEPT: usize = 64;

impl Repository {
    /// Opens a backup: reads its manifest, and those of the backups on which it stands.
    ///
    /// # Errors
    /// [`Error::NoBackup`], [`Error::Abandoned`], [`Error::Corrupt`]; [`Error::Base`] of one on which it stands.
    pub fn open_backup(&self, place: &Place, id: &BackupId) -> Result<OpenedBackup> {
        let (manifest, salt) = self.salted_manifest(place, id)?;
        let below: Vec<Base> =
            manifest.bases.iter().rev().filter(|base| !base.attempt).cloned().collect();
        let ancestors = side_by_side(&below, |base| {
            self.ancestor(place, base, &manifest).map_err(|error| base_error(&base.id, error))
        })?;
        let own = Member { manifest, salt, base: None };
        let members = std::iter::once(own).chain(ancestors).collect();
        let (packs, hashes) = (Mutex::default(), Mutex::default());
        let (last_row, small) = (Mutex::default(), Mutex::default());
        let (repository, place) = (self.clone(), place.clone());
        Ok(OpenedBackup { repository, place, members, packs, hashes, last_row, small })
    }

    /// A backup on which another stands, whose bases must be the first of the other's.
    fn ancestor(&self, place: &Place, base: &Base, above: &Manifest) -> Result<Member> {
        let (manifest, salt) = self.salted_manifest(place, &base.id)?;
        let key = place.manifest(&base.id);
        if salt != base.salt {
            return Err(Error::corrupt(&key, "header", "it is not the manifest that was built on"));
        }
        let first = above.bases.get(..base.index as usize).unwrap_or_default();
        let is_chain = manifest.bases.len() == first.len()
            && manifest.bases.iter().zip(first).all(|(own, other)| own.is_same(other));
        if !is_chain {
            return Err(Error::corrupt(&key, "bases", "it stands on others than its child says"));
        }
        Ok(Member { manifest, salt, base: Some(base.index) })
    }
}

impl OpenedBackup {
    /// Its manifest.
    #[must_use]
    pub fn manifest(&self) -> &Manifest {
        &self.own().manifest
    }

    fn own(&self) -> &Member {
        self.members.first().expect("a backup is a member of its own chain")
    }

    /// The manifests of its chain, its own first and the full's last.
    pub fn chain(&self) -> impl Iterator<Item = &Manifest> {
        self.members.iter().map(|member| &member.manifest)
    }

    /// The bases of a backup that stands on this one; nothing of them is used yet.
    #[must_use]
    pub fn as_bases(&self) -> Vec<Base> {
        let own = self.own();
        let index = u32::try_from(own.manifest.bases.len()).unwrap_or(u32::MAX);
        let id = own.manifest.summary.id.clone();
        let itself = Base { index, id, salt: own.salt, attempt: false, used: 0 };
        let below = own.manifest.bases.iter().map(|base| Base { used: 0, ..base.clone() });
        below.chain([itself]).collect()
    }

    /// The backup or attempt with this number, or the opened one, and the record of an object of it.
    fn record(&self, base: Option<u32>, name: &str) -> Result<(&BackupId, &ObjectRecord)> {
        let own = &self.manifest().summary.id;
        let wrong = |what: &str| {
            Error::corrupt(&self.place.manifest(own), "objects", format!("{name} is not {what}"))
        };
        if let Some(member) = self.members.iter().find(|member| member.base == base) {
            let found = member.manifest.find_object(name).ok_or_else(|| wrong("among them"))?;
            return Ok((&member.manifest.summary.id, found));
        }
        let index = base.ok_or_else(|| wrong("in it"))?;
        let base = self.manifest().bases.get(index as usize);
        let id = base.map(|base| &base.id).ok_or_else(|| wrong("in a base of this backup"))?;
        let mut manifests = self.chain();
        let found = manifests.find_map(|manifest| manifest.find_reused(index, name));
        Ok((id, found.ok_or_else(|| wrong("among what is reused"))?))
    }

    fn random(&self, base: Option<u32>, kind: Kind, name: &str) -> Result<SealedRandom> {
        let (id, record) = self.record(base, name)?;
        let wrong = || Error::corrupt(&self.place.manifest(id), "objects", "a record is wrong");
        let key = self.place.of_backup(id, name).ok_or_else(wrong)?;
        self.repository.random(kind, &key, record.key().ok_or_else(wrong)?, record.salt)
    }

    /// Reads every row in order, whichever backup of the chain holds it.
    ///
    /// # Errors
    /// [`Error::Corrupt`], also when a table is not the one that its manifest names.
    pub fn rows(&self) -> Result<Rows> {
        let tables = self.members.iter().map(|member| {
            let id = &member.manifest.summary.id;
            let read = || {
                let key = self.place.files(id);
                let reader = self.repository.read(Kind::Files, &key)?;
                if reader.header().salt != self.record(member.base, "files")?.1.salt {
                    let why = "it is not the table of its manifest";
                    return Err(Error::corrupt(&key, "header", why));
                }
                Ok((FileTableReader::new(key, reader.one_of(self.members.len())), member.base))
            };
            read()
                .map_err(|error| if member.base.is_some() { base_error(id, error) } else { error })
        });
        Rows::new(tables.collect::<Result<_>>()?)
    }

    /// A small file that was read before.
    fn small(&self, path: &[u8]) -> Option<Arc<Small>> {
        self.small.lock().expect("no holder of this lock panics").get(path).cloned()
    }

    /// The row of a path. One ranged read for each backup of the chain up to the one that holds it, where the
    /// row lies in one frame of the table, and none for a small file that was read whole.
    ///
    /// # Errors
    /// [`Error::Corrupt`], [`Error::Storage`].
    pub fn find_row(&self, path: &[u8]) -> Result<Option<Row>> {
        if let Some(known) = self.small(path) {
            return Ok(Some(known.row.clone()));
        }
        for member in &self.members {
            if let Some(row) = self.find_in(member, path)? {
                return Ok(Some(row.seen_from_above(member.base)).filter(|row| !row.gone));
            }
        }
        Ok(None)
    }

    fn find_in(&self, member: &Member, path: &[u8]) -> Result<Option<Row>> {
        let table = self.random(member.base, Kind::Files, "files")?;
        let index = &member.manifest.index;
        let mut parser = RowParser::new(table.opener().object().clone());
        let Some(first) = file_table::search(index, path) else {
            return Ok(None);
        };
        for entry in index.get(first..).unwrap_or_default() {
            if entry.path.as_slice() > path {
                break;
            }
            let frame = table.frame(entry.frame, entry.offset, entry.length as usize)?;
            parser.frame(&frame)?;
            while let Some(row) = parser.ready.pop_front() {
                if row.path == path {
                    return Ok(Some(row));
                }
            }
        }
        Ok(parser.take_pending().filter(|row| row.path == path))
    }

    /// The files outside the data directory, whose paths begin with a slash: they lie together in the
    /// tables.
    ///
    /// # Errors
    /// As [`OpenedBackup::find_row`]; [`Error::Limit`] for more than a configuration ever has.
    pub fn external_rows(&self) -> Result<Vec<Row>> {
        let mut newest = BTreeMap::new();
        for member in &self.members {
            for row in self.external_in(member)? {
                newest.entry(row.path.clone()).or_insert_with(|| row.seen_from_above(member.base));
            }
        }
        Ok(newest.into_values().filter(|row| !row.gone).collect())
    }

    fn external_in(&self, member: &Member) -> Result<Vec<Row>> {
        let table = self.random(member.base, Kind::Files, "files")?;
        let index = &member.manifest.index;
        let mut parser = RowParser::new(table.opener().object().clone());
        let first = file_table::search(index, b"/").unwrap_or_default();
        let mut rows = Vec::new();
        for entry in index.get(first..).unwrap_or_default() {
            if entry.path.as_slice() >= AFTER_EXTERNAL {
                break;
            }
            let frame = table.frame(entry.frame, entry.offset, entry.length as usize)?;
            parser.frame(&frame)?;
            rows.extend(parser.ready.drain(..).filter(|row| row.is_external()));
            if rows.len() > EXTERNAL_ROWS_MAX {
                let what =
                    format!("more than {EXTERNAL_ROWS_MAX} files outside the data directory");
                return Err(Error::Limit(what));
            }
        }
        rows.extend(parser.take_pending().filter(Row::is_external));
        Ok(rows)
    }

    /// The whole content of a small file.
    ///
    /// # Errors
    /// As [`OpenedBackup::read_block`]; [`Error::Limit`] for a file longer than `bytes_max`;
    /// [`Error::Corrupt`] where it does not have its row's checksum.
    pub fn read_whole(&self, row: &Row, bytes_max: u64) -> Result<Vec<u8>> {
        let path = String::from_utf8_lossy(&row.path);
        if row.size > bytes_max {
            return Err(Error::Limit(format!("{path} is longer than {bytes_max} bytes")));
        }
        if let Some(known) = self.small(&row.path).filter(|known| known.row == *row) {
            return Ok(known.content.clone());
        }
        let mut content = Vec::new();
        let block_size = u64::from(self.manifest().summary.server.block_size);
        for block in 0..u32::try_from(row.size.div_ceil(block_size)).unwrap_or(u32::MAX) {
            content.extend(self.read_block(row, block)?);
        }
        if row.crc != Some(crc32c::crc32c(&content)) {
            let key = self.place.files(&self.manifest().summary.id);
            let why = "the content does not have the row's checksum";
            return Err(Error::corrupt(&key, format!("row {path}"), why));
        }
        let mut small = self.small.lock().expect("no holder of this lock panics");
        if row.size <= SMALL_BYTES_MAX && small.len() < SMALL_KEPT {
            let known = Small { row: row.clone(), content: content.clone() };
            small.insert(row.path.clone(), Arc::new(known));
        }
        Ok(content)
    }

    /// Any block of any file, in one call: at most two small ranged reads, and one more where the file
    /// is another than in the call before; `None` when the backup has no such file.
    ///
    /// # Errors
    /// As [`OpenedBackup::read_block`].
    pub fn block(&self, path: &[u8], block: u32) -> Result<Option<Vec<u8>>> {
        let known = self.last_row.lock().expect("no holder of this lock panics").clone();
        let row = match known.filter(|row| row.path == path) {
            Some(row) => row,
            None => match self.find_row(path)? {
                None => return Ok(None),
                Some(row) => {
                    let row = Arc::new(row);
                    let mut last = self.last_row.lock().expect("no holder of this lock panics");
                    *last = Some(Arc::clone(&row));
                    row
                }
            },
        };
        self.read_block(&row, block).map(Some)
    }

    /// One block of a file whose row is known: at most two ranged reads, one of about 6 KB in the
    /// pack's meta object and one frame of the pack. The last block of a file is as long as the file
    /// goes.
    ///
    /// # Errors
    /// [`Error::Limit`] for a block that the file does not have; [`Error::Corrupt`].
    pub fn read_block(&self, row: &Row, block: u32) -> Result<Vec<u8>> {
        let size = u64::from(self.manifest().summary.server.block_size);
        let begin = u64::from(block) * size;
        if row.kind != RowKind::File || begin >= row.size {
            let path = String::from_utf8_lossy(&row.path);
            return Err(Error::Limit(format!("{path} has no block {block}")));
        }
        let length = usize::try_from(size.min(row.size - begin)).unwrap_or_default();
        let layer = self.layer_of(row, block)?;
        match layer.source {
            Source::Zeros => Ok(vec![0; length]),
            Source::Pack { base, pack, raw } => {
                let raw = u64::from(raw) + u64::from(block - layer.block);
                self.pack(base, pack)?.read_raw(raw * size, length)
            }
        }
    }

    fn layer_of(&self, row: &Row, block: u32) -> Result<Layer> {
        let after = row.layers.partition_point(|layer| layer.block <= block);
        let layer = after.checked_sub(1).and_then(|i| row.layers.get(i)).copied();
        layer.filter(|layer| block - layer.block < layer.count).ok_or_else(|| {
            let key = self.place.files(&self.manifest().summary.id);
            let path = String::from_utf8_lossy(&row.path);
            Error::corrupt(&key, format!("row {path}"), format!("nothing covers block {block}"))
        })
    }

    /// The pack with the most frames in all of the chain: of which base, its number, how many.
    #[must_use]
    pub fn largest_pack(&self) -> Option<(Option<u32>, u32, u64)> {
        let packs = self.members.iter().flat_map(|member| {
            member.manifest.objects.iter().filter_map(|object| {
                let number = object.name.strip_prefix("data/")?.parse().ok()?;
                Some((member.base, number, object.frames))
            })
        });
        packs.max_by_key(|(_, _, frames)| *frames)
    }

    /// A pack of this backup, or of one of its bases.
    ///
    /// # Errors
    /// [`Error::Corrupt`] when the manifest does not name it. Makes no request.
    pub fn pack(&self, base: Option<u32>, number: u32) -> Result<Arc<PackReader>> {
        let mut packs = self.packs.lock().expect("no holder of this lock panics");
        packs.get_or_make(number_of(base, number), || {
            let (data, meta) = (format!("data/{number:06}"), format!("meta/{number:06}"));
            let frames = self.record(base, &data)?.1.frames;
            let data = self.random(base, Kind::Pack, &data)?;
            Ok(PackReader::new(data, self.random(base, Kind::Meta, &meta)?, frames))
        })
    }

    /// The hashes of a pack's blocks.
    ///
    /// # Errors
    /// [`Error::Corrupt`] when the manifest does not name them. Makes no request.
    pub fn hashes(&self, base: Option<u32>, number: u32) -> Result<Arc<HashReader>> {
        let mut hashes = self.hashes.lock().expect("no holder of this lock panics");
        hashes.get_or_make(number_of(base, number), || {
            let name = format!("hash/{number:06}");
            let raw = self.record(base, &name)?.1.raw;
            Ok(HashReader::new(self.random(base, Kind::Hash, &name)?, raw))
        })
    }
}

/// One number for a pack of a base.
fn number_of(base: Option<u32>, pack: u32) -> u64 {
    base.map_or(0, |base| u64::from(base) + 1) << 32 | u64::from(pack)
}
