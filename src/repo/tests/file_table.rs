//! File tables: rows of every shape in, the same rows out, in order and by path.

use proptest::prelude::*;

use super::*;
use crate::repo::file_table::{IndexEntry, PATH_MAX, RowParser, search};
use crate::repo::{
    Error, FileTableReader, FileTableWriter, Kind, Layer, Result, Row, RowKind, Source,
    StatIdentity,
};

fn file(path: impl AsRef<[u8]>) -> Row {
    Row {
        path: path.as_ref().to_vec(),
        kind: RowKind::File,
        size: 12_345,
        mode: 0o600,
        uid: 999,
        gid: 998,
        mtime: now() + chrono::TimeDelta::nanoseconds(123_456_789),
        identity: Some(StatIdentity("8:1".into(), u64::MAX, "1795140000123456789".into())),
        crc: Some(0x00ab_cdef),
        target: None,
        layers: layers(2),
        gone: false,
    }
}

/// Layers of every sort, with the longest numbers among them.
fn layers(count: u32) -> Vec<Layer> {
    let source = |i: u32| match i % 3 {
        0 => Source::Pack { base: None, pack: i, raw: u32::MAX - i },
        1 => Source::Zeros,
        _ => Source::Pack { base: Some(u32::MAX), pack: u32::MAX, raw: u32::MAX },
    };
    (0..count).map(|i| Layer { block: i, count: 1, source: source(i) }).collect()
}

fn key() -> ObjectKey {
    place().files(&"20261120-020000F".parse().unwrap())
}

/// Writes a table; what it holds is its index.
fn write(repository: &Repository, ctx: &Ctx, rows: &[Row]) -> Result<Vec<IndexEntry>> {
    let mut writer = FileTableWriter::new(repository.buffer(ctx, Kind::Files, &key())?);
    for row in rows {
        writer.push(row)?;
    }
    let (bytes, summary, index, count) = writer.finish()?;
    assert_eq!((count, summary.stored), (rows.len() as u64, bytes.len() as u64));
    assert_eq!(summary.frames.max(1), index.len().max(1) as u64);
    repository.store().put(&key(), &bytes)?;
    Ok(index)
}

fn read(repository: &Repository) -> Result<Vec<Row>> {
    let mut reader = FileTableReader::new(key(), repository.read(Kind::Files, &key())?);
    let mut rows = Vec::new();
    while let Some(row) = reader.next_row()? {
        rows.push(row);
    }
    Ok(rows)
}

/// A row by path as `OpenedBackup::find_row` looks for it, with the number of frames that it read.
fn find(repository: &Repository, index: &[IndexEntry], path: &[u8]) -> Option<(Row, usize)> {
    let header = repository.read(Kind::Files, &key()).unwrap().header().clone();
    let random = repository.random(Kind::Files, &key(), header.key, header.salt).unwrap();
    let mut parser = RowParser::new(key());
    let mut frames = 0;
    for entry in &index[search(index, path)?..] {
        if entry.path.as_slice() > path {
            break;
        }
        let frame = random.frame(entry.frame, entry.offset, entry.length as usize).unwrap();
        frames += 1;
        parser.frame(&frame).unwrap();
        while let Some(row) = parser.ready.pop_front() {
            if row.path == path {
                return Some((row, frames));
            }
        }
    }
    parser.take_pending().filter(|row| row.path == path).map(|row| (row, frames))
}

#[test]
fn rows_of_every_shape_come_back() {
    let directory = Row {
        kind: RowKind::Directory,
        size: 0,
        mode: 0o2750,
        identity: None,
        crc: None,
        layers: vec![],
        mtime: Timestamp::from_timestamp(0, 0).unwrap(),
        ..file("base")
    };
    let link = |path: &str, target: &[u8]| Row {
        kind: RowKind::Link,
        target: Some(target.to_vec()),
        crc: None,
        layers: vec![],
        ..file(path)
    };
    let mut rows = vec![
        directory,
        link("pg_tblspc/1", b"/srv/\xff\xfe"),
        link("pg_tblspc/2", "/srv/\u{fc}\n\\\"".as_bytes()),
        file("base/1"),
        file("base/1/\u{0}\u{1}\u{1f}\u{7f}"),
        file("new\nline"),
        file("back\\slash\\n"),
        file("\"quoted\""),
        file("\u{1f418}"),
        file(b"not utf-8 \xff\x80"),
        file([0xff; 255]),
        file([b'x'; PATH_MAX]),
        file([0x01; PATH_MAX]),
        file([0xff; PATH_MAX]),
        Row::gone(b"removed".to_vec()),
        Row { size: u64::MAX, layers: vec![], ..file("huge") },
        Row { mtime: Timestamp::from_timestamp(-1, 1).unwrap(), ..file("older than time") },
    ];
    // The longest spelling of a path with the most layers of a line, or with the longest target.
    rows.push(Row { layers: layers(700), ..file([0x02; PATH_MAX]) });
    rows.push(link(&"\u{3}".repeat(PATH_MAX), &[0x03; PATH_MAX - 1]));
    rows.sort_by(|a, b| a.path.cmp(&b.path));
    for cipher in [CipherChoice::Aes256Cbc, CipherChoice::None] {
        let ctx = ctx();
        let (repository, _) = fresh(&ctx, cipher);
        let index = write(&repository, &ctx, &rows).unwrap();
        let back = read(&repository).unwrap();
        for (row, back) in rows.iter().zip(&back) {
            assert_eq!(row, back);
        }
        assert_eq!(back.len(), rows.len());
        for row in &rows {
            let (found, _) = find(&repository, &index, &row.path).unwrap();
            assert_eq!(&found, row);
        }
    }
}

#[test]
fn an_empty_table_is_a_table() {
    let ctx = ctx();
    let (repository, _) = fresh(&ctx, CipherChoice::Aes256Cbc);
    assert_eq!(write(&repository, &ctx, &[]).unwrap(), []);
    assert_eq!(read(&repository).unwrap(), []);
    assert_eq!(find(&repository, &[], b"x"), None);
}

#[test]
fn rows_with_many_layers_go_on_over_lines_and_frames() {
    for count in [699, 700, 701, 1400, 131_072, 150_001] {
        let ctx = ctx();
        let (repository, _) = fresh(&ctx, CipherChoice::Aes256Cbc);
        let many = Row { layers: layers(count), ..file("m") };
        let rows = [file("a"), many, file("n"), file("z")];
        let index = write(&repository, &ctx, &rows).unwrap();
        assert!(read(&repository).unwrap() == rows, "{count} layers");
        for row in &rows {
            let (found, frames) = find(&repository, &index, &row.path).unwrap();
            assert!(found == *row, "{count} layers, {:?}", row.path);
            let wanted = index.iter().filter(|entry| entry.path == b"m" && entry.continues);
            assert!(frames == 1 || (row.path == b"m" && frames == 1 + wanted.count()));
        }
        for absent in ["", "0", "b", "ma", "zz"] {
            assert_eq!(find(&repository, &index, absent.as_bytes()), None, "{absent}");
        }
    }
}

#[test]
fn rows_out_of_order_or_too_long_are_refused() {
    let ctx = ctx();
    let (repository, _) = fresh(&ctx, CipherChoice::Aes256Cbc);
    for pair in [["b", "a"], ["a", "a"], ["a/b", "a"]] {
        let rows = pair.map(file);
        let refused = write(&repository, &ctx, &rows);
        assert!(matches!(refused, Err(Error::Limit(_))), "{pair:?}");
    }
    write(&repository, &ctx, &["a", "a-", "a/b", "b"].map(file)).unwrap();
    let refused = write(&repository, &ctx, &[file([b'x'; PATH_MAX + 1])]);
    assert!(matches!(refused, Err(Error::Limit(_))));
}

/// A table of these lines, sealed as if somebody with the key had written them.
fn forge(lines: &[&str]) -> Result<Vec<Row>> {
    let ctx = ctx();
    let (repository, store) = fresh(&ctx, CipherChoice::Aes256Cbc);
    let mut writer = repository.buffer(&ctx, Kind::Files, &key())?;
    let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
    writer.content(text.as_bytes(), true, true)?;
    replace(&store, &key(), &writer.into_parts().0);
    read(&repository)
}

#[test]
fn lines_that_are_no_rows_are_refused() {
    const A: &str = r#"{"p":"a","t":"f","s":"9000","m":"600","u":1,"g":2,"mt":"2026-11-20T02:00:00Z","at":[[0,2,0,0]]}"#;
    let b = A.replace("\"a\"", "\"b\"");
    assert_eq!(forge(&[A, &b]).unwrap().len(), 2);
    let unknown = A.replace("\"t\"", "\"later\":[1],\"t\"");
    assert_eq!(forge(&[&unknown]).unwrap().len(), 1, "unknown members are ignored");
    let more = r#"{"p":"a","k":1,"at":[[2,1]]}"#;
    assert_eq!(forge(&[A, more]).unwrap()[0].layers.len(), 2);
    for (what, lines) in [
        ("out of order", vec![b.as_str(), A]),
        ("twice", vec![A, A]),
        ("continuation of another", vec![&b, more]),
        ("continuation twice", vec![A, more, more]),
        ("continuation left out", vec![A, r#"{"p":"a","k":2,"at":[[2,1]]}"#]),
        ("no path", vec![&A.replace("\"p\"", "\"q\"")]),
        ("two paths", vec![&A.replace("\"p\"", "\"P\":\"ff\",\"p\"")]),
        ("hexadecimal of text", vec![&A.replace("\"p\":\"a\"", "\"P\":\"61\"")]),
        ("size", vec![&A.replace("\"9000\"", "\"-1\"")]),
        ("size as a number", vec![&A.replace("\"9000\"", "9000")]),
        ("mode", vec![&A.replace("\"600\"", "\"900\"")]),
        ("kind", vec![&A.replace("\"t\":\"f\"", "\"t\":\"x\"")]),
        ("layer of three", vec![&A.replace("[0,2,0,0]", "[0,2,0]")]),
        ("layer of six", vec![&A.replace("[0,2,0,0]", "[0,2,0,0,0,0]")]),
        ("layer beyond 32 bits", vec![&A.replace("[0,2,0,0]", "[0,4294967296]")]),
        ("not JSON", vec!["{"]),
    ] {
        match forge(&lines) {
            Err(Error::Corrupt { object, .. }) => assert_eq!(object, key().as_str(), "{what}"),
            result => panic!("{what}: {result:?}"),
        }
    }
}

#[test]
fn coverage_is_every_block_once_and_in_order() {
    let zeros = |block, count| Layer { block, count, source: Source::Zeros };
    let covered = |size: u64, layers: &[Layer]| {
        Row { size, layers: layers.to_vec(), ..file("x") }.is_covered(8192)
    };
    assert!(covered(0, &[]));
    assert!(covered(1, &[zeros(0, 1)]));
    assert!(covered(8192 * 3, &[zeros(0, 2), zeros(2, 1)]));
    assert!(!covered(8193, &[zeros(0, 1)]), "too few");
    assert!(!covered(8192, &[zeros(0, 2)]), "too many");
    assert!(!covered(8192 * 3, &[zeros(0, 1), zeros(2, 1)]), "a hole");
    assert!(!covered(8192 * 3, &[zeros(0, 2), zeros(1, 2)]), "twice");
    assert!(!covered(8192 * 2, &[zeros(1, 1), zeros(0, 1)]), "order");
    assert!(!covered(8192, &[zeros(0, 0), zeros(0, 1)]), "nothing");
    assert!(!covered(8192, &[]), "none");
}

fn any_rows() -> impl Strategy<Value = Vec<Row>> {
    let path = prop_oneof![
        prop::collection::vec(any::<u8>(), 1..40),
        "[a-c/]{1,6}".prop_map(String::into_bytes),
        (0u8..30).prop_map(|i| vec![b'm', i]),
    ];
    // Some rows of several lines, so that they begin, go on and end anywhere in a frame.
    let count = prop_oneof![Just(0u32), 1u32..30, 600u32..6000];
    prop::collection::btree_map(path, count, 1..60).prop_map(|rows| {
        let row = |(path, count)| Row { layers: layers(count), ..file(path) };
        rows.into_iter().map(row).collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn a_search_finds_what_a_walk_finds(rows in any_rows(), absent in "[a-c/m]{1,6}") {
        let ctx = ctx();
        let (repository, _) = fresh(&ctx, CipherChoice::None);
        let index = write(&repository, &ctx, &rows).unwrap();
        prop_assert!(read(&repository).unwrap() == rows);
        for row in &rows {
            let found = find(&repository, &index, &row.path);
            prop_assert!(found.as_ref().is_some_and(|(found, _)| found == row), "{:?}", row.path);
            let frames = found.map(|(_, frames)| frames).unwrap_or_default();
            prop_assert!(frames == 1 || row.layers.len() > 700);
        }
        let linear = rows.iter().find(|row| row.path == absent.as_bytes()).cloned();
        let found = find(&repository, &index, absent.as_bytes()).map(|(row, _)| row);
        prop_assert!(found == linear);
    }
}
