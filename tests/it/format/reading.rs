//! What reading costs: requests, bytes, memory.

use std::process::Command;
use std::sync::Arc;
use std::time::Instant;

use pgkeep::base::Ctx;
use pgkeep::repo::manifest::Manifest;
use pgkeep::repo::{
    CipherChoice, FileTableWriter, InitOptions, Kind, Layer, ObjectRecord, Repository, Row,
    RowKind, Source, StatIdentity,
};
use pgkeep::storage::meter::Requests;
use pgkeep::storage::{LocalStore, MeteredStore};

use crate::support::ScratchDir;
use crate::support::sample;

#[test]
fn a_block_costs_two_small_requests() {
    for cipher in [CipherChoice::Aes256Cbc, CipherChoice::None] {
        let sample = sample::make(cipher, 1000);
        let store = MeteredStore::new(sample.store.clone());
        let repository =
            Repository::open(Arc::new(store.clone()), &sample::unlock(cipher)).unwrap();
        store.reset();
        let opened = repository.open_backup(&sample.place, &sample.id).unwrap();
        let opening = store.reset();
        assert_eq!((opening.reads(), opening.writes()), (1, 0), "{opening:?}");

        for row in &sample.rows {
            assert_eq!(opened.find_row(&row.path).unwrap().as_ref(), Some(row));
            let found = store.reset();
            let expected =
                Requests { read_range: 1, bytes_read: found.bytes_read, ..Requests::default() };
            assert_eq!(found, expected);
            assert!(found.bytes_read <= 65_608);
        }
        assert_eq!(opened.find_row(b"!").unwrap(), None);
        assert_eq!(store.reset().reads(), 0, "the index alone says that it is not there");

        let row = opened.find_row(b"base/1/2840").unwrap().unwrap();
        store.reset();
        for (block, expected) in (0u32..).zip(sample.files[&row.path].chunks(8192)) {
            let bytes = opened.read_block(&row, block).unwrap();
            assert_eq!(bytes, expected);
            let found = store.reset();
            // The page of lengths is kept, so that only the first block asks for it.
            let wanted = if block == 0 { 2 } else { 1 };
            let expected = Requests {
                read_range: wanted,
                bytes_read: found.bytes_read,
                ..Requests::default()
            };
            assert_eq!(found, expected, "block {block}");
            assert!(found.bytes_read <= 6216 + 65_608, "{found:?}");
        }
        let zeros = opened.find_row(b"base/1/2619").unwrap().unwrap();
        store.reset();
        assert_eq!(opened.read_block(&zeros, 10).unwrap(), [0; 8192]);
        assert_eq!(store.reset().reads(), 0, "zeros are nowhere");

        // By path, in one call: the row once, then as above, whichever block.
        let opened = repository.open_backup(&sample.place, &sample.id).unwrap();
        store.reset();
        for (block, wanted) in [(3u32, 3), (1, 1), (2, 1)] {
            let bytes = opened.block(b"base/1/2840", block).unwrap().unwrap();
            assert_eq!(bytes, sample.files[&row.path].chunks(8192).nth(block as usize).unwrap());
            assert_eq!(store.reset().reads(), wanted, "block {block}");
        }
        assert_eq!(opened.block(b"base/1/2841", 0).unwrap(), None);
    }
}

const ROWS: u32 = 1_000_000;
const GROWTH_KB_MAX: u64 = 150 * 1024;
const CHILD: &str = "PGKEEP_TEST_MILLION_ROWS";

fn path(i: u32) -> Vec<u8> {
    format!("base/{:05}/{:010}", i / 1000, i).into_bytes()
}

fn row(i: u32) -> Row {
    Row {
        path: path(i),
        kind: RowKind::File,
        size: 16_384,
        mode: 0o600,
        uid: 999,
        gid: 999,
        mtime: sample::now(),
        identity: Some(StatIdentity("8:1".into(), u64::from(i), "1795140000123456789".into())),
        crc: Some(i.wrapping_mul(2_654_435_761)),
        target: None,
        layers: vec![Layer {
            block: 0,
            count: 2,
            source: Source::Pack { base: None, pack: i / 60_000, raw: i % 60_000 * 2 },
        }],
        gone: false,
    }
}

/// Peak resident memory of this process in KiB.
fn peak_kb() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Writes and reads the table in a folder; what this process needed for it, in KiB.
fn million_rows(folder: &std::path::Path) -> u64 {
    let before = peak_kb();
    let began = Instant::now();
    let ctx = Ctx::fixed(sample::now(), 7);
    let store = Arc::new(LocalStore::create(folder).unwrap());
    let unlock = sample::key_file().0;
    let options =
        InitOptions { cipher: CipherChoice::Aes256Cbc, unlock: &unlock, label: "", cost: 14 };
    let repository = Repository::init(&ctx, store, &options).unwrap();
    // The rest of the summary is that of the sample.
    let small = sample::make(CipherChoice::None, 1000);
    let summary = small.repository.summary(&small.place, &small.id).unwrap();
    let (place, id) = (small.place, small.id);
    let key = place.files(&id);
    let mut table = FileTableWriter::new(repository.stream(&ctx, Kind::Files, &key).unwrap());
    (0..ROWS).for_each(|i| table.push(&row(i)).unwrap());
    let (sink, stored, index, count) = table.finish().unwrap();
    sink.finish().unwrap();
    assert_eq!(count, u64::from(ROWS));
    let objects = vec![ObjectRecord::new("files", &stored)];
    let (bases, tablespaces, damage) = (vec![], vec![], vec![]);
    let mut manifest =
        Manifest { summary, objects, bases, reused: vec![], tablespaces, damage, index };
    repository.commit(&ctx, &place, &mut manifest).unwrap();
    let (written, began) = (began.elapsed(), Instant::now());

    let opened = repository.open_backup(&place, &id).unwrap();
    let mut rows = opened.rows().unwrap();
    for i in 0..ROWS {
        assert_eq!(rows.next_row().unwrap(), Some(row(i)));
    }
    assert_eq!(rows.next_row().unwrap(), None);
    let (walked, began) = (began.elapsed(), Instant::now());
    let some: Vec<u32> = (0..ROWS).step_by(9973).chain([ROWS - 1]).collect();
    for &i in &some {
        assert_eq!(opened.find_row(&path(i)).unwrap(), Some(row(i)));
    }
    assert_eq!(opened.find_row(&path(ROWS)).unwrap(), None);
    let found = began.elapsed() / u32::try_from(some.len()).unwrap();
    let size = stored.stored / 1_000_000;
    eprintln!(
        "{ROWS} rows, {size} MB: written in {written:.1?}, walked in {walked:.1?}, one found in {found:.1?}"
    );
    peak_kb() - before
}

/// In a process of its own, so that other tests' memory is not counted.
#[test]
fn a_million_rows_fit_in_bounded_memory() {
    if let Some(folder) = std::env::var_os(CHILD) {
        println!("growth_kb={}", million_rows(std::path::Path::new(&folder)));
        return;
    }
    let scratch = ScratchDir::new("million-rows");
    let ran = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "format::reading::a_million_rows_fit_in_bounded_memory", "--nocapture"])
        .env(CHILD, scratch.join("repository"))
        .output()
        .unwrap();
    let stdout = String::from_utf8_lossy(&ran.stdout);
    let stderr = String::from_utf8_lossy(&ran.stderr);
    assert!(ran.status.success(), "{stdout}{stderr}");
    let growth = stdout.lines().find_map(|line| line.split_once("growth_kb="));
    let (_, growth) = growth.unwrap_or_else(|| panic!("no measure: {stdout}{stderr}"));
    let growth: u64 = growth.trim().parse().unwrap();
    println!("{stderr}memory grew by {} MB", growth / 1024);
    assert!(growth < GROWTH_KB_MAX, "memory grew by {growth} KiB");
}
