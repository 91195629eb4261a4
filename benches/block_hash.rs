//! Which hash tells changed blocks apart: HighwayHash-64 (in use), keyed BLAKE3 and seeded XXH3, over
//! blocks of 8 KiB that lie in the cache or come from memory, and the share each would have of a backup.
//!
//! `cargo bench --bench block_hash`. Sides take turns; medians are printed.
#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::disallowed_methods)]
#![allow(missing_docs, reason = "a program")]

use std::hint::black_box;
use std::time::Instant;

use pgkeep::base::{Entropy as _, SeededEntropy};
use pgkeep::codec::{Compressor, compressed_size_max};
use pgkeep::crypt::BlockHasher;

const BLOCK: usize = 8192;
const FRAME: usize = 65_536;
const ROUNDS: usize = 21;

/// Far more than the caches hold, and what stays in the second one.
const FROM_MEMORY: usize = 256 << 20;
const IN_CACHE: usize = 512 << 10;

fn main() {
    let hasher = BlockHasher::new(&[7; 32]);
    let mut hashes: [Hash<'_>; 3] = [
        ("HighwayHash-64", Box::new(move |block| hasher.hash(block))),
        (
            "BLAKE3 keyed",
            Box::new(|block| {
                let hash = blake3::keyed_hash(&[7; 32], block);
                u64::from_le_bytes(*hash.as_bytes().first_chunk().unwrap())
            }),
        ),
        ("XXH3 seeded", Box::new(|block| xxhash_rust::xxh3::xxh3_64_with_seed(block, 7))),
    ];
    let mut bytes = vec![0; FROM_MEMORY];
    SeededEntropy::new(1).fill(&mut bytes);
    let hot = rates(&bytes[..IN_CACHE], 64, &mut hashes);
    let from_memory = rates(&bytes, 1, &mut hashes);
    let lz4 = compression();
    println!("LZ4 of rows that compress 2.5 times: {lz4:4.2} GB/s");
    for (i, (name, _)) in hashes.iter().enumerate() {
        println!(
            "{name:15} {:5.1} GB/s in the cache ({:4.2} of HighwayHash), {:5.1} from memory; {:2.0} % \
             of the time of it and LZ4",
            hot[i],
            hot[i] / hot[0],
            from_memory[i],
            100.0 * lz4 / (lz4 + hot[i])
        );
    }
}

type Hash<'a> = (&'a str, Box<dyn FnMut(&[u8]) -> u64>);

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

fn rates(bytes: &[u8], passes: usize, hashes: &mut [Hash<'_>]) -> Vec<f64> {
    let mut all = vec![Vec::new(); hashes.len()];
    for _ in 0..ROUNDS {
        for (rates, (_, hash)) in all.iter_mut().zip(hashes.iter_mut()) {
            rates.push(rate(bytes.len() * passes, &mut || {
                for _ in 0..passes {
                    bytes.chunks_exact(BLOCK).for_each(|block| _ = black_box(hash(block)));
                }
            }));
        }
    }
    all.into_iter().map(median).collect()
}

/// LZ4 in GB/s, on rows with a few random digits.
fn compression() -> f64 {
    let mut noise = vec![0; 8 << 20];
    SeededEntropy::new(2).fill(&mut noise);
    let mut rows = Vec::new();
    for (i, word) in noise.chunks_exact(8).enumerate() {
        let value = u64::from_le_bytes(word.try_into().unwrap());
        let row = format!("{i:08}|{:05}|2026-11-20|active|0.00\n", value % 100_000);
        rows.extend(row.bytes());
    }
    let mut compressor = Compressor::default();
    let mut out = vec![0; compressed_size_max(FRAME)];
    let mut all = Vec::new();
    for _ in 0..ROUNDS {
        all.push(rate(rows.len(), &mut || {
            for frame in rows.chunks(FRAME) {
                black_box(compressor.compress(frame, &mut out));
            }
        }));
    }
    median(all)
}
