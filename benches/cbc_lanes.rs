//! Lanes against one serial CBC stream, and what sealing and opening frames costs beside its parts.
//!
//! `cargo bench --bench cbc_lanes`. Each comparison alternates both sides, so that a machine that
//! slows down slows both; medians are printed. Nothing is asserted: a busy machine is no failure.
#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::disallowed_methods)]
#![allow(missing_docs, reason = "a program")]

use std::hint::black_box;
use std::time::Instant;

use aes::Aes256;
use aes::cipher::{Array, BlockModeEncrypt as _, KeyInit as _, KeyIvInit as _};
use pgkeep::base::{Ctx, Entropy as _, SeededEntropy, Timestamp};
use pgkeep::codec::{Compressor, compressed_size_max};
use pgkeep::crypt::Unlock;
use pgkeep::crypt::cbc::{Chain, encrypt_lanes};
use pgkeep::crypt::key::hmac;
use pgkeep::repo::frame::{BATCH, Raw};
use pgkeep::repo::header::FRAME_SIZE;
use pgkeep::repo::{CipherChoice, InitOptions, Kind, Repository};
use pgkeep::storage::{MemoryStore, ObjectKey};

const ROUNDS: usize = 41;

/// A frame's ciphertext and the distance to the next one: no power of two.
const CHAIN: usize = FRAME_SIZE + 16;
const STRIDE: usize = CHAIN + 56;

fn main() {
    lanes();
    sealing();
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// GB/s of `work` on `bytes`.
fn rate(bytes: usize, work: &mut dyn FnMut()) -> f64 {
    let begin = Instant::now();
    work();
    bytes as f64 / begin.elapsed().as_secs_f64() / 1e9
}

/// Alternates the works and returns the median rate of each.
fn rates(bytes: usize, works: &mut [&mut dyn FnMut()]) -> Vec<f64> {
    let mut all = vec![Vec::new(); works.len()];
    for round in 0..ROUNDS + 3 {
        for (rates, work) in all.iter_mut().zip(works.iter_mut()) {
            let rate = rate(bytes, *work);
            // The first rounds warm caches and tables.
            if round >= 3 {
                rates.push(rate);
            }
        }
    }
    all.into_iter().map(median).collect()
}

fn random(size: usize) -> Vec<u8> {
    let mut bytes = vec![0; size];
    SeededEntropy::new(1).fill(&mut bytes);
    bytes
}

fn lanes() {
    let key = [7u8; 32];
    let cipher = Aes256::new(&key.into());
    for count in [8, 16, 64] {
        let mut buffer = random(count * STRIDE);
        let mut serial = random(count * CHAIN);
        let mut by_lanes = || {
            let chains = buffer.chunks_exact_mut(STRIDE);
            let chains = chains.map(|chunk| Chain { iv: [3; 16], buffer: &mut chunk[..CHAIN] });
            encrypt_lanes(&cipher, chains.collect());
        };
        let mut by_one = || {
            let mut chain = cbc::Encryptor::<Aes256>::new(&key.into(), &[3; 16].into());
            let (blocks, _) = Array::slice_as_chunks_mut(&mut serial);
            chain.encrypt_blocks(blocks);
        };
        let found = rates(count * CHAIN, &mut [&mut by_lanes, &mut by_one]);
        println!(
            "cbc, {count:2} frames of 64 KiB: lanes {:5.2} GB/s, one stream {:4.2} GB/s, ratio {:4.2}",
            found[0],
            found[1],
            found[0] / found[1]
        );
        black_box((&buffer, &serial));
    }
}

/// Rows as a table holds them: compresses about 2.5 times.
fn rows(size: usize) -> Vec<u8> {
    let noise = random(size);
    let mut bytes = Vec::with_capacity(size + 64);
    for (i, word) in noise.chunks_exact(8).enumerate() {
        let value = u64::from_le_bytes(word.try_into().unwrap());
        let name = ["north", "south", "east", "west"][usize::try_from(value % 4).unwrap()];
        bytes.extend(
            format!("{:08}|{name}|{:05}|2026-11-20|active|0.00\n", i, value % 100_000).bytes(),
        );
        if bytes.len() >= size {
            break;
        }
    }
    bytes.truncate(size);
    bytes
}

fn repository(cipher: CipherChoice) -> (Ctx, Repository) {
    let ctx = Ctx::fixed(Timestamp::UNIX_EPOCH, 1);
    let ctx = Ctx { entropy: std::sync::Arc::new(pgkeep::base::OsEntropy), ..ctx };
    let (unlock, _) = Unlock::generate_key_file(&*ctx.entropy);
    let options = InitOptions { cipher, unlock: &unlock, label: "", cost: 14 };
    let store = std::sync::Arc::new(MemoryStore::new());
    let repository = Repository::init(&ctx, store, &options).unwrap();
    (ctx, repository)
}

fn sealing() {
    let size = BATCH * FRAME_SIZE;
    for (what, content) in [("rows", rows(size)), ("noise", random(size))] {
        parts(what, &content);
        for (suite, cipher) in [(1, CipherChoice::Aes256Cbc), (2, CipherChoice::None)] {
            let (ctx, repository) = repository(cipher);
            let key = ObjectKey::new("bench").unwrap();
            let raws: Vec<Raw<'_>> =
                content.chunks(FRAME_SIZE).map(|bytes| Raw { bytes, compress: true }).collect();
            let mut seal = || {
                let mut writer = repository.buffer(&ctx, Kind::Pack, &key).unwrap();
                writer.frames_of(&raws, true).unwrap();
                black_box(writer.into_parts());
            };
            let sealed = rates(size, &mut [&mut seal])[0];
            let mut writer = repository.buffer(&ctx, Kind::Pack, &key).unwrap();
            writer.content(&content, true, true).unwrap();
            repository.store().put(&key, &writer.into_parts().0).unwrap();
            let mut out = Vec::with_capacity(size);
            let mut open = || {
                out.clear();
                repository.read_whole(Kind::Pack, &key).unwrap().rest(size, &mut out).unwrap();
            };
            let opened = rates(size, &mut [&mut open])[0];
            println!(
                "{what}, suite {suite}: seal {sealed:5.2} GB/s, open {opened:5.2} GB/s of raw data"
            );
        }
    }
}

/// Each stage alone, in GB/s of raw data, so that shares can be read off.
fn parts(what: &str, content: &[u8]) {
    let mut compressor = Compressor::default();
    let mut out = vec![0; compressed_size_max(FRAME_SIZE)];
    let mut payload = 0;
    let mut compress = || {
        payload = 0;
        for frame in content.chunks(FRAME_SIZE) {
            payload += compressor.compress(frame, &mut out).unwrap_or(frame.len());
        }
    };
    let lz4 = rates(content.len(), &mut [&mut compress])[0];
    let per_frame = (payload / BATCH).next_multiple_of(16);
    let cipher = Aes256::new(&[7; 32].into());
    let mut buffer = random(BATCH * (per_frame + 72));
    let mut encrypt = || {
        let chains = buffer.chunks_exact_mut(per_frame + 72);
        let chains = chains.map(|chunk| Chain { iv: [3; 16], buffer: &mut chunk[..per_frame] });
        encrypt_lanes(&cipher, chains.collect());
    };
    let cbc = rates(content.len(), &mut [&mut encrypt])[0];
    let sealed = random(per_frame);
    let mut mac = || {
        for _ in 0..BATCH {
            black_box(hmac(&[1; 32], &sealed));
        }
    };
    let mac = rates(content.len(), &mut [&mut mac])[0];
    let total = 1.0 / lz4 + 1.0 / cbc + 1.0 / mac;
    let share = |rate: f64| 100.0 / rate / total;
    println!(
        "{what}: ratio {:4.2}; alone: lz4 {lz4:5.2} GB/s ({:2.0} %), cbc {cbc:5.2} ({:2.0} %), \
         hmac {mac:5.2} ({:2.0} %); joined {:4.2}",
        content.len() as f64 / payload as f64,
        share(lz4),
        share(cbc),
        share(mac),
        1.0 / total
    );
}
