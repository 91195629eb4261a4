//! Archived files: sealed in one go or in two, repeated, conflicting; what each costs.

use std::sync::Arc;

use super::*;
use crate::pg::Lsn;
use crate::repo::layout::Kind;
use crate::repo::{Error, Found, FoundTablespace, Origin, WAL_PIECE, WalFacts, WalPut};
use crate::storage::MeteredStore;

const SEGMENT: &str = "000000010000000000000002";

fn content(seed: u8) -> Vec<u8> {
    (0..1_048_576u32).map(|i| (i / 7 % 251) as u8 ^ seed).collect()
}

fn facts(repository: &Repository, content: &[u8]) -> WalFacts {
    WalFacts {
        name: SEGMENT.into(),
        system: place().system(),
        size: content.len() as u64,
        digest: repository.content_digest(content),
        timeline: Some(1),
        address: Some(Lsn(0x0200_0000)),
        found: None,
        by: Some(Origin { host: "here".into(), directory: "/data".into() }),
    }
}

/// A repetition, after a kill or of a restored partial segment again and again, costs one small read.
#[test]
fn f011_the_same_again_costs_one_small_read() {
    let ctx = ctx();
    let (_, store) = fresh(&ctx, CipherChoice::Aes256Cbc);
    let metered = Arc::new(MeteredStore::new(store));
    let repository = Repository::open(metered.clone(), &key_file(1)).unwrap();
    let key = place().partial(SEGMENT, 0x0200_9000).unwrap();
    let content = content(0);
    let facts = facts(&repository, &content);
    let put = || repository.put_wal(&ctx, Kind::Partial, &key, &facts, &content).unwrap();
    metered.reset();
    assert_eq!(put(), WalPut::Stored);
    let first = metered.reset();
    assert_eq!((first.reads(), first.writes()), (0, 1), "one request");
    for _ in 0..3 {
        assert_eq!(put(), WalPut::Same);
        let again = metered.reset();
        assert_eq!((again.reads(), again.writes()), (1, 1));
        assert!(again.bytes_read <= 72 * 1024, "{again:?}");
    }
}

#[test]
fn what_is_sealed_before_its_facts_reads_back_and_conflicts_all_the_same() {
    let ctx = ctx();
    for cipher in [CipherChoice::Aes256Cbc, CipherChoice::None] {
        let (repository, _) = fresh(&ctx, cipher);
        let key = place().wal(SEGMENT).unwrap();
        for (content, expected) in [
            (content(0), Ok(WalPut::Stored)),
            (content(0), Ok(WalPut::Same)),
            (content(1), Err(())),
        ] {
            let sealed = repository.seal_wal(&ctx, Kind::Wal, &key, &content).unwrap();
            let put = repository.put_sealed_wal(sealed, &facts(&repository, &content));
            let is_conflict = matches!(put, Err(Error::Conflict { .. }));
            assert_eq!(put.map_err(|_| ()), expected);
            assert_eq!(is_conflict, expected.is_err());
        }
        let (read, bytes) = repository.get_wal(Kind::Wal, &key).unwrap();
        assert!(bytes == content(0));
        assert_eq!(read, facts(&repository, &bytes));
        // Piece by piece, in any order.
        let mut reader = repository.open_wal(Kind::Wal, &key).unwrap();
        let mut whole = vec![0; bytes.len()];
        for piece in reader.pieces().unwrap().into_iter().rev() {
            let begin = usize::try_from(piece.offset).unwrap();
            let length = piece.length;
            piece.open(&mut whole[begin..begin + length]).unwrap();
        }
        assert!(whole == content(0));
        let empty = repository.seal_wal(&ctx, Kind::Wal, &place().wal("x").unwrap_or(key), &[]);
        assert!(empty.is_ok(), "a content of nothing is one empty frame");
    }
}

/// A piece at a time gives the same content as all at once, whatever the last piece's length.
#[test]
fn pieces_are_sealed_as_the_whole_is() {
    let ctx = ctx();
    let (repository, _) = fresh(&ctx, CipherChoice::Aes256Cbc);
    let one = content(0);
    for size in [0, 1, 65_536, WAL_PIECE - 1, WAL_PIECE, WAL_PIECE + 1, 3 * WAL_PIECE] {
        let content: Vec<u8> = one.iter().copied().cycle().take(size).collect();
        let key = place().partial(SEGMENT, size as u64).unwrap();
        let mut sealed = repository.begin_wal(&ctx, Kind::Partial, &key, size as u64).unwrap();
        let mut pieces = content.chunks(WAL_PIECE).peekable();
        if pieces.peek().is_none() {
            sealed.add(&[], true);
        }
        while let Some(piece) = pieces.next() {
            sealed.add(piece, pieces.peek().is_none());
        }
        let facts = facts(&repository, &content);
        assert_eq!(repository.put_sealed_wal(sealed, &facts).unwrap(), WalPut::Stored);
        let (read, bytes) = repository.get_wal(Kind::Partial, &key).unwrap();
        assert!(bytes == content && read == facts, "{size} bytes");
    }
}

/// With two repositories, what was sealed with the first one's key could get the name in the second,
/// where nobody can read it and nothing else may take its place.
#[test]
#[should_panic(expected = "sealed for this repository")]
fn d20261124_what_was_sealed_for_another_repository_is_never_stored() {
    let ctx = ctx();
    let (first, _) = fresh(&ctx, CipherChoice::Aes256Cbc);
    let (second, _) = fresh(&ctx, CipherChoice::Aes256Cbc);
    let (key, content) = (place().wal(SEGMENT).unwrap(), content(0));
    let sealed = first.seal_wal(&ctx, Kind::Wal, &key, &content).unwrap();
    second.put_sealed_wal(sealed, &facts(&second, &content)).ok();
}

/// Many tablespaces with long names made facts that no frame holds, and the segment could never be
/// archived.
#[test]
fn d20261124_facts_that_are_too_long_are_shortened_and_counted() {
    let ctx = ctx();
    let (repository, _) = fresh(&ctx, CipherChoice::Aes256Cbc);
    let (key, content) = (place().wal(SEGMENT).unwrap(), content(0));
    let mut found: Found = serde_json::from_str(r#"{"read":true,"ending":"full"}"#).unwrap();
    let made = FoundTablespace { oid: 1, location: "\u{1}".repeat(1000), lsn: Lsn(7) };
    found.tablespaces = vec![made; 64];
    let facts = WalFacts { found: Some(found), ..facts(&repository, &content) };
    repository.put_wal(&ctx, Kind::Wal, &key, &facts, &content).unwrap();
    let found = repository.wal_facts(Kind::Wal, &key).unwrap().found.unwrap();
    assert!(found.tablespaces.len() < 12 && !found.tablespaces.is_empty());
    assert_eq!(found.tablespaces.len() as u64 + found.tablespaces_more, 64);
}
