//! The small repository of `sample`, with a differential that uses what an attempt that died had stored, and an
//! incremental on top of it.

use std::collections::BTreeMap;

use pgkeep::base::Ctx;
use pgkeep::crypt::BlockHasher;
use pgkeep::repo::{
    BackupId, BackupType, Base, Begin, CipherChoice, ContentSource, FileTableWriter, Kind,
    Manifest, ObjectRecord, PackPlan, PackWriter, Reused, Row, RowKind, Source, Summary, Unit,
};

use super::sample::{self, BLOCK, Sample, hash, now, pattern, row, summary_of};

/// Files by path.
type Files = BTreeMap<Vec<u8>, Vec<u8>>;

/// The repository, and the state that each backup holds, oldest first.
pub struct Chain {
    pub sample: Sample,
    pub states: Vec<(BackupId, Files)>,
    pub attempt: BackupId,
}

fn id(text: &str) -> BackupId {
    text.parse().unwrap()
}

/// A backup in the making.
struct Made<'a> {
    sample: &'a Sample,
    ctx: &'a Ctx,
    id: BackupId,
    below: Vec<Base>,
    /// What its parent holds, as it sees it.
    rows: BTreeMap<Vec<u8>, Row>,
    files: Files,
}

impl Made<'_> {
    fn begin(&self, parent: &BackupId, attempts: &[BackupId]) {
        let begin = Begin {
            id: self.id.clone(),
            backup_type: self.id.backup_type(),
            parent: Some(parent.clone()),
            directory: "/var/lib/postgresql/15/main".into(),
            attempts: attempts.to_vec(),
            ..sample::begin(&self.id)
        };
        self.sample.repository.put_begin(self.ctx, &self.sample.place, &begin).unwrap();
    }

    fn plan(&self) -> PackPlan {
        let hasher = BlockHasher::new(&hash().key);
        PackPlan::new(self.sample.place.clone(), self.id.clone(), BLOCK, hasher)
    }

    /// Stores of a file what its parent does not have.
    fn store(&self, writer: &mut PackWriter<'_>, path: &[u8], content: &[u8]) -> Row {
        let mut row = Row { size: content.len() as u64, ..row(path, RowKind::File) };
        writer.begin_content(sample::source_of(&row));
        let (before, known) = (self.rows.get(path), self.files.get(path));
        let mut find = |wanted: &pgkeep::repo::Wanted<'_>| {
            let was = known?.chunks(BLOCK).nth(wanted.block as usize)?;
            let layers = &before?.layers;
            let layer = layers.iter().rfind(|layer| layer.block <= wanted.block)?;
            let place: Option<Source> = layer.source.plus(wanted.block - layer.block);
            place.filter(|_| was == wanted.content)
        };
        let space = writer.space_for(Unit::All, content.len()).unwrap();
        space[..content.len()].copy_from_slice(content);
        let crc = writer.accept_new(0, content.len(), Unit::Block, &mut find).unwrap();
        row.layers = writer.end_content().unwrap();
        row.crc = Some(crc);
        row
    }

    /// Makes the backup exist, with these rows of its own.
    fn commit(
        self,
        mut rows: Vec<Row>,
        mut objects: Vec<ObjectRecord>,
        (reused, attempts): (Vec<Reused>, Vec<BackupId>),
        state: &Files,
    ) {
        rows.sort_by(|a, b| a.path.cmp(&b.path));
        let Sample { repository, place, .. } = self.sample;
        let key = place.files(&self.id);
        let mut table =
            FileTableWriter::new(repository.buffer(self.ctx, Kind::Files, &key).unwrap());
        rows.iter().for_each(|row| table.push(row).unwrap());
        let (bytes, table, index, _) = table.finish().unwrap();
        repository.put_if_absent(&key, &bytes).unwrap();
        objects.push(ObjectRecord::new("files", &table));
        let parent = self.below.iter().rfind(|base| !base.attempt).map(|base| base.id.clone());
        let mut summary = Summary {
            backup_type: self.id.backup_type(),
            parent,
            attempts,
            ..summary_of(&self.id)
        };
        summary.totals.files = state.len() as u64;
        summary.totals.bytes = state.values().map(|content| content.len() as u64).sum();
        let (tablespaces, damage, bases) = (vec![], vec![], self.below);
        let mut manifest = Manifest { summary, objects, bases, reused, tablespaces, damage, index };
        repository.commit(self.ctx, place, &mut manifest).unwrap();
    }
}

/// Begins a backup on another.
fn made<'a>(
    sample: &'a Sample,
    ctx: &'a Ctx,
    name: &str,
    parent: &BackupId,
    files: &Files,
) -> Made<'a> {
    let opened = sample.repository.open_backup(&sample.place, parent).unwrap();
    let below = opened.as_bases();
    let own = u32::try_from(below.len() - 1).unwrap();
    let mut reader = opened.rows().unwrap();
    let mut rows = BTreeMap::new();
    while let Some(row) = reader.next_row().unwrap() {
        rows.insert(row.path.clone(), row.seen_from_above(Some(own)));
    }
    Made { sample, ctx, id: id(name), below, rows, files: files.clone() }
}

/// Makes it.
pub fn make(cipher: CipherChoice) -> Chain {
    let sample = sample::make(cipher, 1 << 20);
    let ctx = Ctx::fixed(now(), 20_261_121);
    let full = (sample.id.clone(), sample.files.clone());
    let attempt = attempt(&sample, &ctx, &full);
    let differential = differential(&sample, &ctx, &full, &attempt);
    let incremental = incremental(&sample, &ctx, &differential);
    Chain { states: vec![full, differential, incremental], attempt, sample }
}

const NEW: &[u8] = b"base/1/3000";
const GROWN: &[u8] = b"base/1/2840";
const GONE: &[u8] = b"base/1/2620";

fn new_file() -> Vec<u8> {
    [pattern(2 * BLOCK, 31), vec![0; 20 * BLOCK], pattern(5000, 32)].concat()
}

/// An attempt that stored a new file whole, and died.
fn attempt(sample: &Sample, ctx: &Ctx, (parent, files): &(BackupId, Files)) -> BackupId {
    let made = made(sample, ctx, "20261120-020000F_20261120-050000D", parent, files);
    made.begin(parent, &[]);
    let plan = made.plan();
    let mut writer = PackWriter::new(&sample.repository, ctx, &plan);
    made.store(&mut writer, NEW, &new_file());
    writer.finish().unwrap();
    let why = "it was interrupted";
    sample.repository.abandon(ctx, &sample.place, &made.id, why).unwrap();
    made.id
}

/// A block of one file changed, a file is gone, and the new one is where the attempt stored it.
fn differential(
    sample: &Sample,
    ctx: &Ctx,
    (parent, files): &(BackupId, Files),
    attempt: &BackupId,
) -> (BackupId, Files) {
    let Sample { repository, place, .. } = sample;
    let mut made = made(sample, ctx, "20261120-020000F_20261120-080000D", parent, files);
    made.begin(parent, std::slice::from_ref(attempt));
    let dead = repository.open_attempt(ctx, place, attempt, 8192).unwrap().unwrap();
    let index = u32::try_from(made.below.len()).unwrap();
    made.below.push(dead.as_base(index));
    let mut state = files.clone();
    state.remove(GONE);
    state.insert(NEW.to_vec(), new_file());
    state.get_mut(GROWN).unwrap()[3 * BLOCK + 5] ^= 0xff;
    let plan = made.plan();
    let mut writer = PackWriter::new(repository, ctx, &plan);
    let changed = made.store(&mut writer, GROWN, &state[GROWN]);
    assert_eq!(changed.layers.len(), 3);
    let stored = dead.contents().of(NEW).unwrap();
    let mut new = Row { crc: Some(crc32c::crc32c(&new_file())), ..row(NEW, RowKind::File) };
    new.size = new_file().len() as u64;
    for (pack, content) in stored {
        new.layers.extend(content.stretches.iter().map(|stretch| pgkeep::repo::Layer {
            block: stretch.block,
            count: stretch.count,
            source: stretch.raw.map_or(Source::Zeros, |raw| Source::Pack {
                base: Some(index),
                pack,
                raw,
            }),
        }));
    }
    let reused = (dead.reused(index, 0), vec![attempt.clone()]);
    let id = made.id.clone();
    let objects = writer.finish().unwrap();
    made.commit(vec![changed, new, Row::gone(GONE.to_vec())], objects, reused, &state);
    (id, state)
}

/// On the differential: the new file changes at its beginning and grows, the one that was gone is there again.
fn incremental(
    sample: &Sample,
    ctx: &Ctx,
    (parent, files): &(BackupId, Files),
) -> (BackupId, Files) {
    let made = made(sample, ctx, "20261120-020000F_20261120-090000I", parent, files);
    made.begin(parent, &[]);
    let mut state = files.clone();
    let new = state.get_mut(NEW).unwrap();
    new[0] ^= 0xff;
    new.extend(pattern(BLOCK, 33));
    state.insert(GONE.to_vec(), pattern(100, 34));
    let plan = made.plan();
    let mut writer = PackWriter::new(&sample.repository, ctx, &plan);
    let rows =
        [NEW, GONE].map(|path| made.store(&mut writer, path, &state[path])).into_iter().collect();
    let id = made.id.clone();
    assert_eq!(id.backup_type(), BackupType::Incremental);
    let objects = writer.finish().unwrap();
    made.commit(rows, objects, (vec![], vec![]), &state);
    (id, state)
}
