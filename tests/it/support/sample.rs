//! A small repository with every kind of object, made from a literal data directory, a fixed clock
//! and seeded randomness: the same bytes each time.
//!
//! `tests/golden/` holds what this made when the format was fixed.

use std::collections::BTreeMap;
use std::sync::Arc;

use pgkeep::base::{Ctx, Secret, SeededEntropy, Timestamp};
use pgkeep::crypt::{BlockHasher, Unlock};
use pgkeep::pg::Lsn;
use pgkeep::repo::manifest::{Counts, Damage, ServerRecord, TablespaceRecord, Totals};
use pgkeep::repo::{
    BackupId, BackupType, Begin, CipherChoice, ContentSource, Cut, FileTableWriter, Found,
    FoundRestorePoint, HashScheme, InitOptions, Kind, Manifest, ObjectRecord, PackPlan, PackWriter,
    Place, Registration, Repository, Row, RowKind, StatIdentity, Summary, WalFacts, WalPut,
};
use pgkeep::storage::{MemoryStore, ObjectKey};

/// The passphrase of the slot "sample passphrase".
pub const PASSPHRASE: &str = "correct horse battery staple";

pub(super) const BLOCK: usize = 8192;
const SYSTEM: u64 = 7_312_000_000_000_000_001;

/// A segment's name, and the name of one that is partial.
pub const SEGMENT: &str = "000000010000000000000002";
pub const PARTIAL_SEGMENT: &str = "000000010000000000000003";
pub const LABEL: &str = "000000010000000000000002.00000028.backup";
pub const HISTORY: &[u8] = b"1\t0/3000150\tno recovery target specified\n";
pub const BACKUP_LABEL: &str = "START WAL LOCATION: 0/2000028 (file 000000010000000000000002)\n\
                                CHECKPOINT LOCATION: 0/2000060\nLABEL: pgkeep\n";

/// The repository, its store, and what went in.
pub struct Sample {
    pub store: MemoryStore,
    pub repository: Repository,
    pub place: Place,
    pub id: BackupId,
    pub abandoned: BackupId,
    pub rows: Vec<Row>,
    /// Content of every file, by path.
    pub files: BTreeMap<Vec<u8>, Vec<u8>>,
    pub segment: Vec<u8>,
    pub partial: Vec<u8>,
}

/// The key file that opens the repository, and its text.
pub fn key_file() -> (Unlock, String) {
    let (unlock, text) = Unlock::generate_key_file(&SeededEntropy::new(11));
    (unlock, text.expose().clone())
}

pub fn passphrase() -> Unlock {
    Unlock::Passphrase(Secret::new(PASSPHRASE.to_owned()))
}

/// What opens a sample with this cipher.
pub fn unlock(cipher: CipherChoice) -> Unlock {
    if cipher == CipherChoice::None { Unlock::Clear } else { key_file().0 }
}

pub fn now() -> Timestamp {
    Timestamp::from_timestamp(1_795_140_000, 123_456_000).unwrap()
}

pub fn place() -> Place {
    Place::new("main", SYSTEM, 1).unwrap()
}

pub fn partial_end() -> u64 {
    0x0300_0150
}

/// Lines of text: their LZ4 is much shorter, and no two blocks are equal.
pub(super) fn pattern(size: usize, seed: u32) -> Vec<u8> {
    let line =
        |i: u32| format!("{seed} {i:06} the same again and again and again, row after row\n");
    (0..).map(line).flat_map(String::into_bytes).take(size).collect()
}

/// The data directory.
fn files() -> BTreeMap<Vec<u8>, Vec<u8>> {
    let sparse = [pattern(BLOCK, 2), vec![0; 20 * BLOCK], pattern(2 * BLOCK, 3)].concat();
    let hole_at_end = [pattern(100, 4), vec![0; 17 * BLOCK]].concat();
    let files: [(&[u8], Vec<u8>); 10] = [
        (b"PG_VERSION", b"15\n".to_vec()),
        (b"base/1/1259", pattern(3 * BLOCK, 1)),
        (b"base/1/1259_fsm", vec![0; 24_576]),
        (b"base/1/2619", sparse),
        (b"base/1/2620", hole_at_end),
        (b"base/1/2840", pattern(9 * BLOCK + 123, 5)),
        (b"empty", Vec::new()),
        (b"global/pg_control", pattern(BLOCK, 6)),
        (b"new\nline\\", b"odd".to_vec()),
        (b"not utf-8 \xff\xfe", b"odder".to_vec()),
    ];
    files.into_iter().map(|(path, content)| (path.to_vec(), content)).collect()
}

pub(super) fn row(path: &[u8], kind: RowKind) -> Row {
    Row {
        path: path.to_vec(),
        kind,
        size: 0,
        mode: if kind == RowKind::Directory { 0o700 } else { 0o600 },
        uid: 999,
        gid: 998,
        mtime: now(),
        identity: None,
        crc: None,
        target: None,
        layers: Vec::new(),
        gone: false,
    }
}

/// A file as its row has it.
pub(super) fn source_of(row: &Row) -> ContentSource {
    ContentSource {
        path: row.path.clone(),
        size: row.size,
        mtime: row.mtime,
        mode: row.mode,
        uid: row.uid,
        gid: row.gid,
        identity: row.identity.clone(),
        is_damaged: false,
    }
}

/// Copies one file; its row.
fn copy(writer: &mut PackWriter<'_>, inode: u64, path: &[u8], content: &[u8]) -> Row {
    let identity = Some(StatIdentity("8:1".into(), inode, "1795130000000000000".into()));
    let mut row = Row { size: content.len() as u64, identity, ..row(path, RowKind::File) };
    writer.begin_content(source_of(&row));
    let mut at = 0;
    while at < content.len() {
        let space = writer.space().unwrap();
        let take = space.len().min(content.len() - at);
        space[..take].copy_from_slice(&content[at..at + take]);
        writer.accept(u32::try_from(at / BLOCK).unwrap(), take).unwrap();
        at += take;
    }
    row.layers = writer.end_content().unwrap();
    row.crc = Some(crc32c::crc32c(content));
    row
}

/// Makes it; `segment_size` is the size of the WAL segment.
pub fn make(cipher: CipherChoice, segment_size: usize) -> Sample {
    let ctx = Ctx::fixed(now(), 20_261_120);
    let store = MemoryStore::new();
    let unlock = key_file().0;
    let options = InitOptions { cipher, unlock: &unlock, label: "sample key file", cost: 14 };
    let mut repository = Repository::init(&ctx, Arc::new(store.clone()), &options).unwrap();
    // Not `register`: the mark that it puts beside is younger than these repositories.
    let place = place();
    repository.put_line(&ctx, Kind::Cluster, &place.registration(), &registration()).unwrap();
    let id: BackupId = "20261120-020000F".parse().unwrap();
    let abandoned: BackupId = "20261119-020000F".parse().unwrap();
    for id in [&abandoned, &id] {
        repository.put_begin(&ctx, &place, &begin(id)).unwrap();
    }
    if cipher == CipherChoice::Aes256Cbc {
        // Objects above and below are sealed with different keys.
        repository.rotate(&ctx, &unlock, None, 14).unwrap();
        repository.add_slot(&ctx, &passphrase(), "sample passphrase", 14).unwrap();
    }
    repository.abandon(&ctx, &place, &abandoned, "the host was restarted").unwrap();
    let files = files();
    let rows = store_backup(&repository, &ctx, &place, &id, &files);
    let mut segment = pattern(40_000, 7);
    segment.resize(segment_size, 0);
    let partial = pattern(70_000, 8);
    let sample = Sample { store, repository, place, id, abandoned, rows, files, segment, partial };
    store_wal(&sample, &ctx);
    sample
}

fn registration() -> Registration {
    Registration {
        cluster: "main".into(),
        system: SYSTEM,
        epoch: 1,
        created: now(),
        major: 15,
        block_size: 8192,
        wal_block_size: 8192,
        wal_segment_size: 1 << 20,
        relation_segment_blocks: 131_072,
    }
}

pub(super) fn hash() -> HashScheme {
    HashScheme { algorithm: BlockHasher::ALGORITHM.into(), key: [0x42; 32] }
}

pub fn begin(id: &BackupId) -> Begin {
    Begin {
        id: id.clone(),
        backup_type: BackupType::Full,
        parent: None,
        started: now(),
        host: "db1".into(),
        pid: 4711,
        tool: "pgkeep 0.1.0".into(),
        timeline: 1,
        wal_from: Lsn(0x0200_0000),
        hash: hash(),
        directory: String::new(),
        directory_identity: None,
        standby: false,
        attempts: Vec::new(),
        lease: None,
        copied: false,
    }
}

fn store_backup(
    repository: &Repository,
    ctx: &Ctx,
    place: &Place,
    id: &BackupId,
    files: &BTreeMap<Vec<u8>, Vec<u8>>,
) -> Vec<Row> {
    let hasher = BlockHasher::new(&hash().key);
    let plan = PackPlan::new(place.clone(), id.clone(), BLOCK, hasher);
    let mut writers = [(); 2].map(|()| PackWriter::new(repository, ctx, &plan));
    let mut rows: Vec<Row> = (0u64..)
        .zip(files)
        .map(|(i, (path, content))| {
            copy(&mut writers[usize::from(i % 3 == 2)], 1000 + i, path, content)
        })
        .collect();
    let zeros = writers.iter().map(PackWriter::zeros).sum();
    for path in ["base", "base/1", "global", "pg_tblspc", "pg_wal"] {
        rows.push(row(path.as_bytes(), RowKind::Directory));
    }
    let target = Some(b"/srv/space".to_vec());
    rows.push(Row { target, mode: 0o777, ..row(b"pg_tblspc/16400", RowKind::Link) });
    rows.sort_by(|a, b| a.path.cmp(&b.path));
    let mut objects: Vec<ObjectRecord> =
        writers.into_iter().flat_map(|writer| writer.finish().unwrap()).collect();
    let key = place.files(id);
    let mut table = FileTableWriter::new(repository.buffer(ctx, Kind::Files, &key).unwrap());
    rows.iter().for_each(|row| table.push(row).unwrap());
    let (bytes, summary, index, _) = table.finish().unwrap();
    repository.put_if_absent(&key, &bytes).unwrap();
    objects.push(ObjectRecord::new("files", &summary));
    let mut summary = summary_of(id);
    summary.totals.files = files.len() as u64;
    summary.totals.others = (rows.len() - files.len()) as u64;
    summary.totals.bytes = files.values().map(|content| content.len() as u64).sum();
    summary.totals.zeros = zeros;
    let tablespaces = vec![TablespaceRecord { oid: 16_400, location: "/srv/space".into() }];
    let damage = vec![Damage { path: "base/1/1259".into(), block: 1, why: "checksum".into() }];
    let (bases, reused) = (vec![], vec![]);
    let mut manifest = Manifest { summary, objects, bases, reused, tablespaces, damage, index };
    repository.commit(ctx, place, &mut manifest).unwrap();
    rows
}

pub(super) fn summary_of(id: &BackupId) -> Summary {
    Summary {
        id: id.clone(),
        backup_type: BackupType::Full,
        parent: None,
        cluster: "main".into(),
        system: SYSTEM,
        epoch: 1,
        started: now(),
        finished: now() + chrono::TimeDelta::seconds(61),
        timeline: 1,
        timeline_stop: 1,
        start_lsn: Lsn(0x0200_0028),
        stop_lsn: Lsn(0x0200_0138),
        wal_first: SEGMENT.into(),
        wal_last: SEGMENT.into(),
        backup_label: BACKUP_LABEL.into(),
        server: ServerRecord {
            version_num: 150_018,
            catalog_version: 202_209_061,
            block_size: 8192,
            wal_block_size: 8192,
            wal_segment_size: 1 << 20,
            relation_segment_blocks: 131_072,
            checksums: true,
            standby: false,
            data_directory: "/var/lib/postgresql/15/main".into(),
            host: "db1".into(),
            preload_libraries: "timescaledb".into(),
            logical_slots: vec![],
            configuration: Default::default(),
        },
        hash: hash(),
        totals: Totals { invalid_pages: 1, ..Totals::default() },
        attempts: vec![],
        counts: Counts::default(),
        tool: "pgkeep 0.1.0".into(),
    }
}

pub(super) fn found() -> Found {
    Found {
        read: true,
        commits: 3,
        aborts: 1,
        earliest: Some(now()),
        latest: Some(now() + chrono::TimeDelta::microseconds(7)),
        xid_min: Some(730),
        xid_max: Some(733),
        restore_points: vec![FoundRestorePoint {
            name: "before \u{fc}".into(),
            lsn: Lsn(0x0200_0200),
            time: Some(now()),
        }],
        restore_points_more: 0,
        tablespaces: Vec::new(),
        tablespaces_more: 0,
        parameters: Vec::new(),
        parameters_more: 0,
        last_checkpoint: Some(now()),
        last_checkpoint_lsn: None,
        end: Some(Lsn(0x0200_9c40)),
        ending: "full".into(),
        cut: Some(Cut { lsn: Lsn(0x0200_9c00), xid: Some(734), rmgr: Some(10), bytes: None }),
    }
}

fn store_wal(sample: &Sample, ctx: &Ctx) {
    let Sample { repository, place, .. } = sample;
    let put = |kind, key: &ObjectKey, name: &str, content: &[u8], found: Option<Found>| {
        let facts = WalFacts {
            name: name.into(),
            system: SYSTEM,
            size: content.len() as u64,
            digest: repository.content_digest(content),
            timeline: found.as_ref().map(|_| 1),
            address: found.as_ref().map(|_| Lsn(0x0200_0000)),
            found,
            by: None,
        };
        for expected in [WalPut::Stored, WalPut::Same] {
            assert_eq!(repository.put_wal(ctx, kind, key, &facts, content).unwrap(), expected);
        }
    };
    let key = place.wal(SEGMENT).unwrap();
    put(Kind::Wal, &key, SEGMENT, &sample.segment, Some(found()));
    let key = place.partial(PARTIAL_SEGMENT, partial_end()).unwrap();
    let ending = Found { ending: "partial".into(), cut: None, ..found() };
    put(Kind::Partial, &key, &format!("{PARTIAL_SEGMENT}.partial"), &sample.partial, Some(ending));
    put(Kind::History, &place.history(2), "00000002.history", HISTORY, None);
    put(Kind::Label, &place.label(LABEL).unwrap(), LABEL, BACKUP_LABEL.as_bytes(), None);
}
