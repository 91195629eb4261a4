//! Packs against a model: whatever contents go in, every block comes out, by row, by hash and by
//! the lines of the meta object.

use std::collections::BTreeMap;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::base::Entropy as _;
use crate::crypt::BlockHasher;
use crate::pg::Lsn;
use crate::repo::header::FRAME_SIZE;
use crate::repo::manifest::{Counts, Manifest, ServerRecord, Summary, Totals};
use crate::repo::{
    BackupId, BackupType, ContentSource, Error, FileTableWriter, FrameBuffers, HashScheme, Kind,
    ObjectRecord, OpenedBackup, PackPlan, PackWriter, Row, RowKind, Source, StatIdentity, Stretch,
};

const HASH_KEY: [u8; 32] = [0x5a; 32];

fn id() -> BackupId {
    "20261120-020000F".parse().unwrap()
}

fn identity(i: u64) -> StatIdentity {
    StatIdentity("8:1".into(), i, "1795140000000000000".into())
}

/// One file of the model.
#[derive(Debug, Clone)]
struct File {
    path: Vec<u8>,
    content: Vec<u8>,
}

/// A backup of the model: files, block size, writers that work side by side, when packs rotate.
#[derive(Debug, Clone)]
struct Model {
    files: Vec<File>,
    block_size: u32,
    writers: usize,
    stored_target: u64,
    step: usize,
    /// What passes before each file.
    pause: Duration,
}

impl Model {
    /// Of one writer, in blocks of 8 KiB, and without a pause.
    fn alone(files: Vec<File>, stored_target: u64, step: usize) -> Self {
        let (block_size, writers, pause) = (8192, 1, Duration::ZERO);
        Self { files, block_size, writers, stored_target, step, pause }
    }

    /// Copies the files of one writer, in steps as a reader delivers them.
    fn fill(&self, writer: &mut PackWriter<'_>, number: u64, file: &File) -> Row {
        let block = self.block_size as usize;
        let identity = number.is_multiple_of(2).then(|| identity(number));
        writer.begin_content(ContentSource {
            path: file.path.clone(),
            size: file.content.len() as u64,
            mtime: now(),
            mode: 0o600,
            uid: 0,
            gid: 0,
            identity: identity.clone(),
            is_damaged: false,
        });
        let mut at = 0;
        while at < file.content.len() {
            let space = writer.space().unwrap();
            assert!(space.len() >= block && space.len().is_multiple_of(block));
            let take = space.len().min(self.step * block).min(file.content.len() - at);
            space[..take].copy_from_slice(&file.content[at..at + take]);
            // What the last call left behind must not be taken for content.
            if take < space.len() {
                space[take] = 0xee;
            }
            writer.accept(u32::try_from(at / block).unwrap(), take).unwrap();
            at += take;
        }
        Row {
            path: file.path.clone(),
            kind: RowKind::File,
            size: file.content.len() as u64,
            mode: 0o600,
            uid: 0,
            gid: 0,
            mtime: now(),
            identity,
            crc: Some(crc32c::crc32c(&file.content)),
            target: None,
            layers: writer.end_content().unwrap(),
            gone: false,
        }
    }

    /// The whole backup; its rows.
    fn store(&self, repository: &Repository, ctx: &Ctx) -> Vec<Row> {
        let size = self.block_size as usize;
        let mut plan = PackPlan::new(place(), id(), size, BlockHasher::new(&HASH_KEY));
        plan.stored_target = self.stored_target;
        let mut writers: Vec<PackWriter<'_>> =
            (0..self.writers).map(|_| PackWriter::new(repository, ctx, &plan)).collect();
        let mut rows = Vec::new();
        for (i, file) in self.files.iter().enumerate() {
            ctx.clock.sleep(self.pause);
            rows.push(self.fill(&mut writers[i % self.writers], i as u64, file));
        }
        let zeros: u64 = writers.iter().map(PackWriter::zeros).sum();
        let elided =
            rows.iter().map(|row| zero_bytes(row, u64::from(self.block_size))).sum::<u64>();
        assert_eq!(zeros, elided);
        let mut objects: Vec<ObjectRecord> =
            writers.into_iter().flat_map(|writer| writer.finish().unwrap()).collect();
        rows.sort_by(|a, b| a.path.cmp(&b.path));
        let key = place().files(&id());
        let mut table = FileTableWriter::new(repository.buffer(ctx, Kind::Files, &key).unwrap());
        rows.iter().for_each(|row| table.push(row).unwrap());
        let (bytes, summary, index, _) = table.finish().unwrap();
        repository.put_if_absent(&key, &bytes).unwrap();
        objects.push(ObjectRecord::new("files", &summary));
        let summary = summary_of(self.block_size);
        let (bases, reused, tablespaces, damage) = (vec![], vec![], vec![], vec![]);
        let mut manifest = Manifest { summary, objects, bases, reused, tablespaces, damage, index };
        repository.commit(ctx, &place(), &mut manifest).unwrap();
        rows
    }
}

fn zero_bytes(row: &Row, block_size: u64) -> u64 {
    let zeros = row.layers.iter().filter(|layer| layer.source == Source::Zeros);
    zeros
        .map(|layer| {
            let begin = u64::from(layer.block) * block_size;
            (u64::from(layer.count) * block_size).min(row.size - begin)
        })
        .sum()
}

fn summary_of(block_size: u32) -> Summary {
    Summary {
        id: id(),
        backup_type: BackupType::Full,
        parent: None,
        cluster: "main".into(),
        system: place().system(),
        epoch: 1,
        started: now(),
        finished: now(),
        timeline: 1,
        timeline_stop: 1,
        start_lsn: Lsn(0x2000028),
        stop_lsn: Lsn(0x2000100),
        wal_first: "000000010000000000000002".into(),
        wal_last: "000000010000000000000002".into(),
        backup_label: String::new(),
        server: ServerRecord {
            version_num: 150_018,
            catalog_version: 202_209_061,
            block_size,
            wal_block_size: 8192,
            wal_segment_size: 16 << 20,
            relation_segment_blocks: 131_072,
            checksums: false,
            standby: false,
            data_directory: "/data".into(),
            host: "host".into(),
            preload_libraries: String::new(),
            logical_slots: vec![],
            configuration: Default::default(),
        },
        hash: HashScheme { algorithm: BlockHasher::ALGORITHM.into(), key: HASH_KEY },
        totals: Totals::default(),
        attempts: vec![],
        counts: Counts::default(),
        tool: "test".into(),
    }
}

/// What a pack's companions say about it.
struct Companions {
    hashes: Vec<u8>,
    /// For each raw block, path and block of the file, by the meta object's lines.
    blocks: BTreeMap<u32, (Vec<u8>, u32)>,
    /// Those lines' stretches with their paths.
    stretches: Vec<(Vec<u8>, Stretch)>,
}

fn companions(repository: &Repository, opened: &OpenedBackup, number: u32) -> Companions {
    let mut hashes = Vec::new();
    let key = place().hash(&id(), number);
    repository.read(Kind::Hash, &key).unwrap().rest(1 << 30, &mut hashes).unwrap();
    let mut reader = repository.read(Kind::Meta, &place().meta(&id(), number)).unwrap();
    let mut head = Vec::new();
    reader.next_frame(&mut head).unwrap();
    let word = |at: usize| u64::from_le_bytes(head[at..at + 8].try_into().unwrap());
    let record = opened.manifest().find_object(&format!("data/{number:06}")).unwrap();
    assert_eq!((head.len(), head[0], word(8)), (64, 1, record.frames));
    assert_eq!((word(16), word(24)), (record.raw, record.size));
    assert_eq!(head[32..], record.salt);
    let pages = u32::from_le_bytes(head[4..8].try_into().unwrap());
    assert_eq!(u64::from(pages), record.frames.div_ceil(2048));
    let mut lengths = 0;
    for _ in 0..pages {
        let mut page = Vec::new();
        reader.next_frame(&mut page).unwrap();
        assert_eq!(page.len(), 6152);
        assert_eq!(u64::from_le_bytes(page[..8].try_into().unwrap()), 64 + lengths);
        let of = |entry: &[u8]| u64::from(u32::from_le_bytes([entry[0], entry[1], entry[2], 0]));
        lengths += page[8..].chunks(3).map(of).sum::<u64>();
    }
    assert_eq!(64 + lengths, record.size);
    let mut lines = Vec::new();
    reader.rest(1 << 30, &mut lines).unwrap();
    let (mut blocks, mut stretches) = (BTreeMap::new(), Vec::new());
    for line in lines.split_inclusive(|&byte| byte == b'\n') {
        let line: serde_json::Value = serde_json::from_slice(line).unwrap();
        let path = match line["P"].as_str() {
            Some(digits) => crate::base::hex::decode(digits).unwrap(),
            None => line["p"].as_str().unwrap().as_bytes().to_vec(),
        };
        assert_eq!((&line["m"], &line["mt"]), (&"600".into(), &"2026-11-20T02:00:00Z".into()));
        for stretch in line["at"].as_array().unwrap() {
            let stretch: Stretch = serde_json::from_value(stretch.clone()).unwrap();
            for i in 0..stretch.count {
                let Some(raw) = stretch.raw else { continue };
                let before = blocks.insert(raw + i, (path.clone(), stretch.block + i));
                assert_eq!(before, None, "a raw block is told once");
            }
            stretches.push((path.clone(), stretch));
        }
    }
    Companions { hashes, blocks, stretches }
}

fn check(model: &Model) {
    let ctx = ctx();
    let cipher =
        if model.writers.is_multiple_of(2) { CipherChoice::None } else { CipherChoice::Aes256Cbc };
    let (repository, _) = fresh(&ctx, cipher);
    let rows = model.store(&repository, &ctx);
    let opened = repository.open_backup(&place(), &id()).unwrap();
    let mut reader = opened.rows().unwrap();
    let hasher = BlockHasher::new(&HASH_KEY);
    let size = model.block_size as usize;
    let mut packs: BTreeMap<u32, Companions> = BTreeMap::new();
    let mut told = 0;
    for row in &rows {
        assert_eq!(reader.next_row().unwrap().as_ref(), Some(row));
        assert!(row.is_covered(model.block_size), "{row:?}");
        let file = model.files.iter().find(|file| file.path == row.path).unwrap();
        let mut content = Vec::new();
        for (block, expected) in (0u32..).zip(file.content.chunks(size)) {
            let bytes = opened.read_block(row, block).unwrap();
            assert!(bytes == expected, "block {block} of {:?}", row.path);
            content.extend(bytes);
            let layer = row.layers.iter().rfind(|layer| layer.block <= block).unwrap();
            let Source::Pack { base: None, pack: layer_pack, raw } = layer.source else { continue };
            let raw = raw + (block - layer.block);
            let pack = packs
                .entry(layer_pack)
                .or_insert_with(|| companions(&repository, &opened, layer_pack));
            let at = raw as usize * 8;
            assert_eq!(pack.hashes[at..at + 8], hasher.hash(expected).to_le_bytes());
            assert_eq!(pack.blocks[&raw], (row.path.clone(), block));
            let whole =
                opened.pack(None, layer_pack).unwrap().read_raw(u64::from(raw) * size as u64, size);
            assert!(whole.unwrap()[expected.len()..].iter().all(|&byte| byte == 0), "padding");
            told += 1;
        }
        assert_eq!(Some(crc32c::crc32c(&content)), row.crc);
        let beyond = u32::try_from(file.content.len().div_ceil(size)).unwrap();
        assert!(matches!(opened.read_block(row, beyond), Err(Error::Limit(_))));
    }
    assert_eq!(reader.next_row().unwrap(), None);
    let all: usize = packs.values().map(|pack| pack.blocks.len()).sum();
    assert_eq!(all, told, "no raw block is told that no row has");
    for (number, pack) in &packs {
        let record = opened.manifest().find_object(&format!("data/{number:06}")).unwrap();
        assert_eq!(pack.hashes.len() as u64, record.raw.div_ceil(size as u64) * 8);
        for (path, stretch) in &pack.stretches {
            let file = model.files.iter().find(|file| file.path == *path).unwrap();
            let begin = stretch.block as usize * size;
            let end = (begin + stretch.count as usize * size).min(file.content.len());
            assert_eq!(stretch.crc, crc32c::crc32c(&file.content[begin..end]));
        }
        let blocks = u32::try_from(pack.hashes.len() / 8).unwrap();
        let (reader, mut read) = (opened.hashes(None, *number).unwrap(), Vec::new());
        for first in [0, blocks / 2] {
            reader.read(first, blocks, blocks, &mut read).unwrap();
        }
        let stored = pack.hashes.as_chunks::<8>().0.iter().map(|hash| u64::from_le_bytes(*hash));
        let stored: Vec<u64> = stored.collect();
        assert_eq!(read, [&stored[..], &stored[blocks as usize / 2..]].concat());
        assert!(reader.read(blocks, blocks + 1, 0, &mut read).is_err());
    }
}

/// Contents with runs of zeros, repetition and noise, each of some blocks.
fn any_content() -> impl Strategy<Value = Vec<u8>> {
    let run = (0u8..3, 1usize..160_000, any::<u64>()).prop_map(|(sort, length, seed)| {
        let mut bytes = vec![0; length];
        match sort {
            0 => {}
            1 => bytes.fill(7),
            _ => SeededEntropy::new(seed).fill(&mut bytes),
        }
        bytes
    });
    prop_oneof![
        1 => Just(Vec::new()),
        2 => prop::collection::vec(any::<u8>(), 1..200),
        4 => prop::collection::vec(run, 1..4).prop_map(|runs| {
            let mut content = runs.concat();
            content.truncate(300 * 1024);
            content
        }),
    ]
}

fn any_model() -> impl Strategy<Value = Model> {
    let path = prop_oneof![
        "[a-z/\n\\\\]{1,8}".prop_map(String::into_bytes),
        any::<[u8; 4]>().prop_map(Vec::from)
    ];
    let files = prop::collection::btree_map(path, any_content(), 0..14);
    let block_size = prop::sample::select(vec![1024u32, 8192, 8192, 32768]);
    let target = prop::sample::select(vec![1u64, 100_000, 1_500_000, 1 << 30]);
    let pause = prop::sample::select(vec![0, 0, 0, 25, 70]).prop_map(Duration::from_mins);
    (files, block_size, 1usize..4, target, 1usize..200, pause).prop_map(
        |(files, block_size, writers, stored_target, step, pause)| Model {
            files: files.into_iter().map(|(path, content)| File { path, content }).collect(),
            block_size,
            writers,
            stored_target,
            step,
            pause,
        },
    )
}

/// A differential of a hundred terabytes had one pack open for more than a day: the upload was removed as left over,
/// and what was interrupted began from nothing.
#[test]
fn d2026_11_29_no_pack_is_open_for_much_longer_than_an_hour() {
    let packs = |minutes| {
        let files = (0..9).map(|i| File { path: vec![b'a' + i], content: vec![i + 1; 8192] });
        let pause = Duration::from_mins(minutes);
        let model = Model { pause, ..Model::alone(files.collect(), 1 << 30, 1) };
        let ctx = ctx();
        let (repository, _) = fresh(&ctx, CipherChoice::None);
        model.store(&repository, &ctx);
        check(&model);
        let [data, _, _] = place().backup_prefixes(&id());
        repository.store().list(&data, None, 100).unwrap().len()
    };
    // 59 minutes between one file and the next: the second one is younger than an hour, the third is not.
    assert_eq!([packs(0), packs(1), packs(59), packs(60)], [1, 1, 3, 5]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn every_block_comes_back(model in any_model()) {
        check(&model);
    }
}

fn noise(size: usize) -> Vec<u8> {
    let mut bytes = vec![0; size];
    SeededEntropy::new(9).fill(&mut bytes);
    bytes
}

#[test]
fn packs_rotate_in_the_middle_of_a_file() {
    let files = vec![
        File { path: b"large".to_vec(), content: noise(5 << 20) },
        File { path: b"next".to_vec(), content: noise(100) },
    ];
    let model = Model::alone(files, 1, 64);
    check(&model);
    let ctx = ctx();
    let (repository, _) = fresh(&ctx, CipherChoice::Aes256Cbc);
    let rows = model.store(&repository, &ctx);
    let packs: Vec<_> = rows[0].layers.iter().map(|layer| layer.source).collect();
    assert_eq!(packs.len(), 5, "a window fills a pack of so low a target: {packs:?}");
}

#[test]
fn long_runs_of_zeros_are_stored_nowhere() {
    let content = [noise(8192), vec![0; 3 << 20], noise(100)].concat();
    let files = vec![File { path: b"sparse".to_vec(), content }];
    let model = Model::alone(files, 1 << 30, 128);
    check(&model);
    let ctx = ctx();
    let (repository, _) = fresh(&ctx, CipherChoice::Aes256Cbc);
    let rows = model.store(&repository, &ctx);
    assert_eq!(rows[0].layers.len(), 3);
    let opened = repository.open_backup(&place(), &id()).unwrap();
    // Both ends and the three blocks of zeros that the last call brought: too few for a layer.
    assert_eq!(opened.manifest().find_object("data/000000").unwrap().raw, 5 * 8192);
}

#[test]
fn a_frame_of_a_pack_is_found_beyond_the_first_page_of_lengths() {
    // 2048 frames of 64 KiB fill a page; what is easily compressed keeps this small.
    let frames = 2048 + 40;
    let mut content = vec![3; frames * FRAME_SIZE];
    for (i, frame) in content.chunks_mut(FRAME_SIZE).enumerate() {
        frame[..8].copy_from_slice(&(i as u64).to_le_bytes());
    }
    let files = vec![File { path: b"large".to_vec(), content }];
    let model = Model::alone(files, 1 << 30, 128);
    let ctx = ctx();
    let (repository, _) = fresh(&ctx, CipherChoice::Aes256Cbc);
    let row = model.store(&repository, &ctx).remove(0);
    let opened = repository.open_backup(&place(), &id()).unwrap();
    let per_frame = u32::try_from(FRAME_SIZE / 8192).unwrap();
    for frame in [0u32, 2046, 2047, 2048, 2049, 2087] {
        let block = opened.read_block(&row, frame * per_frame).unwrap();
        assert_eq!(block[..8], u64::from(frame).to_le_bytes());
    }
    let (mut stored, mut raw) = (Vec::new(), Vec::new());
    let pack = opened.pack(None, 0).unwrap();
    pack.read_frames(2040..2060, &mut stored, &mut raw).unwrap();
    assert!(raw == model.files[0].content[2040 * FRAME_SIZE..2060 * FRAME_SIZE]);
    assert!(pack.read_frames(2088..2090, &mut stored, &mut Vec::new()).is_err());
    let (mut buffers, mut visited) = (FrameBuffers::default(), Vec::new());
    let mut take = |first: u64, bytes: &[u8]| {
        assert_eq!(first, 2041 + (visited.len() / FRAME_SIZE) as u64, "in order, without gaps");
        visited.extend_from_slice(bytes);
        Ok::<(), crate::repo::Error>(())
    };
    let mut next = 2041;
    while next < 2059 {
        next = pack.fetch_frames(next..2059, &mut buffers).unwrap();
        pack.visit_fetched(&mut buffers, &[0..9, 2041..2059], &mut take).unwrap();
    }
    assert!(visited == model.files[0].content[2041 * FRAME_SIZE..2059 * FRAME_SIZE]);
    let mut refuse = |_: u64, _: &[u8]| Err(crate::repo::Error::Limit("enough".into()));
    assert_eq!(pack.fetch_frames(0..9, &mut buffers).unwrap(), 9);
    let refused = pack.visit_fetched(&mut buffers, &[3..4, 7..9], &mut refuse).unwrap_err();
    assert!(refused.to_string().contains("enough"), "{refused}");
}

#[test]
fn objects_of_another_attempt_are_refused_by_salt() {
    let files = vec![File { path: b"a".to_vec(), content: noise(50_000) }];
    let model = Model::alone(files, 1, 9);
    for cipher in [CipherChoice::Aes256Cbc, CipherChoice::None] {
        let ctx = ctx();
        let (repository, store) = fresh(&ctx, cipher);
        let inner = ["data/000000", "meta/000000", "files"];
        let keys = inner.map(|inner| place().of_backup(&id(), inner).unwrap());
        let all = |store: &MemoryStore| crate::storage::list_all(store, &place().prefix()).unwrap();
        model.store(&repository, &ctx);
        let older = keys.each_ref().map(|key| store.get(key).unwrap());
        all(&store).iter().for_each(|meta| store.delete(&meta.key).unwrap());
        let row = model.store(&repository, &ctx).remove(0);
        for (key, older) in keys.iter().zip(&older) {
            let newer = store.get(key).unwrap();
            assert_eq!(newer.len(), older.len(), "nothing but the salt tells them apart");
            replace(&store, key, older);
            let opened = repository.open_backup(&place(), &id()).unwrap();
            let results = if key.as_str().contains("/files/") {
                vec![opened.find_row(b"a").map(drop), opened.rows().map(drop)]
            } else {
                vec![opened.read_block(&row, 0).map(drop)]
            };
            for result in results {
                let error = result.expect_err("the older object is refused").to_string();
                assert!(error.contains(key.as_str()), "{error}");
            }
            replace(&store, key, &newer);
        }
        let opened = repository.open_backup(&place(), &id()).unwrap();
        assert_eq!(opened.read_block(&row, 0).unwrap(), model.files[0].content[..8192]);
    }
}
