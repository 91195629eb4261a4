//! Headers, frames, whole objects: what was sealed comes back, and nothing else does.

use proptest::prelude::*;

use super::*;
use crate::base::Entropy as _;
use crate::crypt::KeyId;
use crate::repo::frame::{BATCH, FRAME_OVERHEAD, Raw, stored_size};
use crate::repo::header::{FRAME_SIZE, HEADER_SIZE, Header, Suite};
use crate::repo::{Error, Kind, Result};

const CIPHERS: [CipherChoice; 2] = [CipherChoice::Aes256Cbc, CipherChoice::None];

fn name(text: &str) -> ObjectKey {
    ObjectKey::new(text).unwrap()
}

/// Seals an object of these frames.
fn seal(
    repository: &Repository,
    ctx: &Ctx,
    kind: Kind,
    key: &ObjectKey,
    frames: &[&[u8]],
) -> Vec<u8> {
    let mut writer = repository.buffer(ctx, kind, key).unwrap();
    for (i, bytes) in frames.iter().enumerate() {
        writer.frames_of(&[Raw { bytes, compress: true }], i + 1 == frames.len()).unwrap();
    }
    let (bytes, summary) = writer.into_parts();
    assert_eq!((bytes.len() as u64, frames.len() as u64), (summary.stored, summary.frames));
    bytes
}

fn read(repository: &Repository, kind: Kind, key: &ObjectKey) -> Result<Vec<u8>> {
    let mut content = Vec::new();
    repository.read(kind, key)?.rest(64 << 20, &mut content)?;
    let mut again = Vec::new();
    repository.read_whole(kind, key)?.rest(64 << 20, &mut again)?;
    assert_eq!(content, again);
    Ok(content)
}

/// Reading must fail, and say which object.
#[track_caller]
fn expect_refused(result: Result<Vec<u8>>, key: &ObjectKey, what: &str) {
    match result {
        Err(error) => assert!(error.to_string().contains(key.as_str()), "{what}: {error}"),
        Ok(content) => panic!("{what}: {} bytes of content came out", content.len()),
    }
}

fn content(size: usize, seed: u64) -> Vec<u8> {
    let mut bytes = vec![0; size];
    // A third random, a third repetitive, the rest zeros: each frame of another sort.
    SeededEntropy::new(seed).fill(&mut bytes[..size / 3]);
    for (i, byte) in bytes[size / 3..size / 3 * 2].iter_mut().enumerate() {
        *byte = u8::try_from(i % 7).unwrap();
    }
    bytes
}

fn near_limits() -> impl Strategy<Value = usize> {
    let frame = FRAME_SIZE;
    let edges = [0, 1, 15, 16, 17, frame - 1, frame, frame + 1, 2 * frame, BATCH * frame - 1];
    prop_oneof![
        prop::sample::select(edges.to_vec()),
        prop::sample::select(vec![BATCH * frame, BATCH * frame + 1, BATCH * frame * 2 + 5]),
        0usize..200_000
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn any_content_comes_back(size in near_limits(), seed: u64, compress: bool, cipher in 0usize..2) {
        let ctx = ctx();
        let (repository, store) = fresh(&ctx, CIPHERS[cipher]);
        let (key, content) = (name("object"), content(size, seed));
        let mut writer = repository.buffer(&ctx, Kind::Wal, &key).unwrap();
        writer.content(&content, compress, true).unwrap();
        let (bytes, summary) = writer.into_parts();
        prop_assert_eq!(summary.raw, size as u64);
        prop_assert_eq!(summary.stored, bytes.len() as u64);
        prop_assert_eq!(summary.frames, size.div_ceil(FRAME_SIZE).max(1) as u64);
        repository.put_if_absent(&key, &bytes).unwrap();
        prop_assert!(read(&repository, Kind::Wal, &key).unwrap() == content);
        if !compress {
            // Stored raw, the place of every frame is known beforehand.
            let suite = CIPHERS[cipher].suite();
            let full = (size / FRAME_SIZE) * stored_size(suite, FRAME_SIZE);
            let tail = if size == 0 || size % FRAME_SIZE > 0 {
                stored_size(suite, size % FRAME_SIZE)
            } else {
                0
            };
            prop_assert_eq!(bytes.len(), HEADER_SIZE + full + tail);
        }
        prop_assert_eq!(store.get(&key).unwrap(), bytes);
    }
}

#[test]
fn an_object_larger_than_every_read_ahead_comes_back() {
    let ctx = ctx();
    let (repository, _) = fresh(&ctx, CipherChoice::Aes256Cbc);
    let (key, content) = (name("large"), content(9_000_001, 5));
    let mut writer = repository.stream(&ctx, Kind::Pack, &key).unwrap();
    writer.content(&content, true, true).unwrap();
    writer.into_parts().0.finish().unwrap();
    assert!(read(&repository, Kind::Pack, &key).unwrap() == content);
    let mut limited = Vec::new();
    let over = repository.read(Kind::Pack, &key).unwrap().rest(9_000_000, &mut limited);
    assert!(matches!(over, Err(Error::Limit(_))));
}

#[test]
fn headers_hold_what_they_say_and_refuse_the_rest() {
    let key = name("object");
    let header = Header {
        kind: Kind::Pack,
        suite: Suite::AesCbc,
        frame_log2: 16,
        key: KeyId([3; 16]),
        salt: [4; 32],
    };
    let bytes = header.encode();
    let decode = |bytes: &[u8; HEADER_SIZE]| Header::decode(&key, bytes, Kind::Pack, Suite::AesCbc);
    assert_eq!(decode(&bytes).unwrap(), header);
    assert_eq!(&bytes[..16], b"PGKEEP\x01\x00\x05\x01\x01\x10\x00\x00\x00\x00");
    let with = |at: usize, value: u8| {
        let mut changed = bytes;
        changed[at] = value;
        decode(&changed).unwrap_err()
    };
    for (at, value) in [(6, 2), (7, 1), (10, 2), (10, 0)] {
        assert!(matches!(with(at, value), Error::Newer { .. }), "byte {at}");
    }
    for (at, value) in [
        (0, b'p'),
        (8, 6),
        (8, 99),
        (9, 2),
        (9, 3),
        (11, 12),
        (11, 21),
        (12, 1),
        (13, 1),
        (14, 1),
        (15, 1),
    ] {
        assert!(matches!(with(at, value), Error::Corrupt { .. }), "byte {at}");
    }
    for log2 in 13..=20 {
        let mut changed = bytes;
        changed[11] = log2;
        assert_eq!(decode(&changed).unwrap().frame_size(), 1 << log2);
    }
}

#[test]
fn lengths_and_flags_are_bounded_before_anything_is_read() {
    let ctx = ctx();
    for cipher in CIPHERS {
        let (repository, _) = fresh(&ctx, cipher);
        let aes = cipher == CipherChoice::Aes256Cbc;
        let id = repository.keyring().current().id;
        let random = repository.random(Kind::Pack, &name("x"), id, [0; 32]).unwrap();
        let head = |cipher_size: usize, raw: usize, flags: u8| {
            let mut bytes = [0; 8];
            bytes[..4].copy_from_slice(&u32::try_from(cipher_size).unwrap().to_le_bytes());
            bytes[4..].copy_from_slice(
                &(u32::try_from(raw).unwrap() | u32::from(flags) << 24).to_le_bytes(),
            );
            random.opener().head(0, &bytes).map(|head| head.stored_size())
        };
        let largest = stored_size(cipher.suite(), FRAME_SIZE) - FRAME_OVERHEAD;
        assert_eq!(head(largest, FRAME_SIZE, 3).unwrap(), largest + FRAME_OVERHEAD);
        assert_eq!(head(16, 0, 0).unwrap(), 16 + FRAME_OVERHEAD);
        assert!(head(largest + 16, FRAME_SIZE, 0).is_err());
        assert!(head(0xffff_fff0, FRAME_SIZE, 0).is_err());
        assert!(head(16, FRAME_SIZE + 1, 0).is_err());
        for flags in [4, 8, 16, 32, 64, 128, 255] {
            assert!(head(16, 1, flags).is_err(), "flags {flags}");
        }
        assert_eq!(head(0, 0, 0).is_err(), aes);
        assert_eq!(head(17, 1, 0).is_err(), aes);
        assert!(random.frame(0, 64, largest + FRAME_OVERHEAD + 1).is_err());
    }
}

#[test]
fn an_empty_object_has_one_frame() {
    let ctx = ctx();
    for cipher in CIPHERS {
        let (repository, store) = fresh(&ctx, cipher);
        let key = name("empty");
        let bytes = seal(&repository, &ctx, Kind::Wal, &key, &[b""]);
        assert_eq!(bytes.len(), HEADER_SIZE + stored_size(cipher.suite(), 0));
        replace(&store, &key, &bytes);
        assert_eq!(read(&repository, Kind::Wal, &key).unwrap(), b"");
        replace(&store, &key, &bytes[..HEADER_SIZE]);
        expect_refused(read(&repository, Kind::Wal, &key), &key, "no frame");
    }
}

#[test]
fn every_flip_cut_and_addition_is_found() {
    let ctx = ctx();
    for cipher in CIPHERS {
        let (repository, store) = fresh(&ctx, cipher);
        let key = name("object");
        let bytes = seal(&repository, &ctx, Kind::Wal, &key, &[b"first", &[0; 500], b"", b"last"]);
        replace(&store, &key, &bytes);
        assert_eq!(read(&repository, Kind::Wal, &key).unwrap().len(), 509);
        for at in 0..bytes.len() {
            for mask in [0x01, 0x02, 0x10, 0x80, 0xff] {
                let mut changed = bytes.clone();
                changed[at] ^= mask;
                replace(&store, &key, &changed);
                let what = format!("byte {at} xor {mask:#x}");
                expect_refused(read(&repository, Kind::Wal, &key), &key, &what);
            }
            replace(&store, &key, &bytes[..at]);
            expect_refused(read(&repository, Kind::Wal, &key), &key, &format!("cut at {at}"));
        }
        for tail in [&b"\0"[..], b"PGKEEP", &bytes[HEADER_SIZE..], &bytes] {
            replace(&store, &key, &[&bytes, tail].concat());
            expect_refused(read(&repository, Kind::Wal, &key), &key, "bytes after the last frame");
        }
    }
}

/// Where each frame of an object begins, and where the last ends.
fn boundaries(bytes: &[u8]) -> Vec<usize> {
    let mut at = HEADER_SIZE;
    let mut all = vec![at];
    while let Some(length) = bytes[at..].first_chunk::<4>() {
        at += FRAME_OVERHEAD + u32::from_le_bytes(*length) as usize;
        all.push(at);
    }
    all
}

#[test]
fn frames_cannot_be_dropped_doubled_or_moved() {
    let ctx = ctx();
    for cipher in CIPHERS {
        let (repository, store) = fresh(&ctx, cipher);
        let key = name("object");
        let bytes = seal(&repository, &ctx, Kind::Wal, &key, &[b"same", b"same", b"same", b"same"]);
        let at = boundaries(&bytes);
        assert_eq!((at.len(), *at.last().unwrap()), (5, bytes.len()));
        let frame = |i: usize| &bytes[at[i]..at[i + 1]];
        let head = &bytes[..HEADER_SIZE];
        for (what, frames) in [
            ("dropped first", vec![1, 2, 3]),
            ("dropped middle", vec![0, 2, 3]),
            ("dropped last", vec![0, 1, 2]),
            ("doubled", vec![0, 1, 1, 2, 3]),
            ("doubled last", vec![0, 1, 2, 3, 3]),
            ("moved", vec![1, 0, 2, 3]),
            ("last first", vec![3]),
        ] {
            let parts: Vec<&[u8]> =
                std::iter::once(head).chain(frames.into_iter().map(frame)).collect();
            replace(&store, &key, &parts.concat());
            expect_refused(read(&repository, Kind::Wal, &key), &key, what);
        }
        replace(&store, &key, &[head, frame(0), frame(1), frame(2), frame(3)].concat());
        assert_eq!(read(&repository, Kind::Wal, &key).unwrap(), b"samesamesamesame");
    }
}

#[test]
fn no_object_passes_for_another() {
    let ctx = ctx();
    for cipher in CIPHERS {
        let (repository, store) = fresh(&ctx, cipher);
        let [a, b] = [name("a"), name("b")];
        let bytes = seal(&repository, &ctx, Kind::Wal, &a, &[b"content of a"]);
        let other = seal(&repository, &ctx, Kind::Wal, &b, &[b"content of b"]);
        replace(&store, &b, &bytes);
        expect_refused(read(&repository, Kind::Wal, &b), &b, "a under b's name");
        replace(&store, &a, &bytes);
        for kind in [Kind::History, Kind::Label, Kind::Partial, Kind::Pack, Kind::Manifest] {
            expect_refused(read(&repository, kind, &a), &a, "another kind");
            let mut relabelled = bytes.clone();
            relabelled[8] = kind as u8;
            replace(&store, &a, &relabelled);
            expect_refused(read(&repository, kind, &a), &a, "another kind in the header");
            replace(&store, &a, &bytes);
        }
        // Frames of one object do not continue another, nor under the other's header.
        let at = boundaries(&bytes)[0];
        replace(&store, &a, &[&bytes[..at], &other[at..]].concat());
        expect_refused(read(&repository, Kind::Wal, &a), &a, "another's frames");
        let (foreign, _) = fresh(&Ctx::fixed(now(), 2), cipher);
        let foreign = seal(&foreign, &ctx, Kind::Wal, &a, &[b"content of a"]);
        replace(&store, &a, &foreign);
        expect_refused(read(&repository, Kind::Wal, &a), &a, "another repository's");
    }
}

#[test]
fn an_older_object_under_the_same_name_is_refused_where_the_salt_is_known() {
    let ctx = ctx();
    for cipher in CIPHERS {
        let (repository, store) = fresh(&ctx, cipher);
        let key = name("pack");
        let older = seal(&repository, &ctx, Kind::Pack, &key, &[b"older"]);
        let newer = seal(&repository, &ctx, Kind::Pack, &key, &[b"newer"]);
        let salt: [u8; 32] = newer[32..HEADER_SIZE].try_into().unwrap();
        let id = repository.keyring().current().id;
        let random = repository.random(Kind::Pack, &key, id, salt).unwrap();
        let frame = || random.frame(0, HEADER_SIZE as u64, newer.len() - HEADER_SIZE);
        replace(&store, &key, &newer);
        assert_eq!(frame().unwrap(), b"newer");
        replace(&store, &key, &older);
        expect_refused(frame(), &key, "the older one");
        assert_eq!(
            read(&repository, Kind::Pack, &key).unwrap(),
            b"older",
            "authentic all the same"
        );
        replace(&store, &key, &newer[..newer.len() - 1]);
        expect_refused(frame(), &key, "cut off");
    }
}

#[test]
fn the_same_content_is_sealed_differently_each_time() {
    let ctx = ctx();
    let (repository, _) = fresh(&ctx, CipherChoice::Aes256Cbc);
    let key = name("object");
    let twice = [(); 2].map(|()| seal(&repository, &ctx, Kind::Wal, &key, &[&[7; 64], &[7; 64]]));
    assert_ne!(twice[0][32..64], twice[1][32..64], "salts");
    let at = boundaries(&twice[0]);
    let ivs = [&twice[0][at[0] + 8..at[0] + 24], &twice[0][at[1] + 8..at[1] + 24]];
    assert_ne!(ivs[0], ivs[1], "initialisation vectors");
}

#[test]
fn our_own_object_under_the_name_is_success_and_another_is_not() {
    let ctx = ctx();
    let (repository, _) = fresh(&ctx, CipherChoice::Aes256Cbc);
    let key = name("object");
    let bytes = seal(&repository, &ctx, Kind::Wal, &key, &[b"x"]);
    repository.put_if_absent(&key, &bytes).unwrap();
    repository.put_if_absent(&key, &bytes).unwrap();
    let other = seal(&repository, &ctx, Kind::Wal, &key, &[b"x"]);
    let refused = repository.put_if_absent(&key, &other);
    assert!(matches!(refused, Err(Error::Storage(error)) if error.is_already_exists()));
}

/// An object goes from one repository to another as it was compressed, whatever the ciphers are.
#[test]
fn payloads_go_over_as_they_are() {
    for (from, to) in CIPHERS.into_iter().flat_map(|from| CIPHERS.map(|to| (from, to))) {
        let ctx = ctx();
        let ((source, store), (target, _)) = (fresh(&ctx, from), fresh(&ctx, to));
        let key = name("c/main/7-1/data/20261120-020000F/000000");
        let frames = content(40 * FRAME_SIZE, 3);
        let frames: Vec<&[u8]> = frames.chunks(FRAME_SIZE).collect();
        let bytes = seal(&source, &ctx, Kind::Pack, &key, &frames);
        replace(&store, &key, &bytes);
        let mut reader = source.read(Kind::Pack, &key).unwrap();
        let mut writer = target.buffer(&ctx, Kind::Pack, &key).unwrap();
        while let Some((payloads, is_last)) = reader.next_payloads(BATCH).unwrap() {
            assert!(payloads.len() <= BATCH);
            writer.payloads(&payloads, is_last).unwrap();
        }
        let (copied, summary) = writer.into_parts();
        assert_eq!((summary.frames, summary.raw), (40, 40 * FRAME_SIZE as u64));
        if from == to {
            assert_eq!(copied.len(), bytes.len());
        }
        target.store().put(&key, &copied).unwrap();
        assert_eq!(read(&target, Kind::Pack, &key).unwrap(), frames.concat());
        // Every byte that is changed is found, and so is every end that is not the end.
        for at in (HEADER_SIZE..bytes.len()).step_by(bytes.len() / 61) {
            let mut changed = bytes.clone();
            changed[at] ^= 1;
            for bad in [changed.as_slice(), &bytes[..at]] {
                replace(&store, &key, bad);
                let mut reader = source.read(Kind::Pack, &key).unwrap();
                let error = loop {
                    match reader.next_payloads(BATCH) {
                        Ok(Some(_)) => {}
                        Ok(None) => panic!("{at}: it was taken for whole"),
                        Err(error) => break error,
                    }
                };
                assert!(error.to_string().contains(key.as_str()), "{at}: {error}");
            }
        }
    }
}
