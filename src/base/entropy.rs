//! Where random bytes come from: the operating system, or a seed in tests.

use std::fmt::Debug;
use std::sync::Mutex;

use sha2::{Digest, Sha256};

/// A source of unpredictable bytes for keys, salts and initialisation vectors.
pub trait Entropy: Send + Sync + Debug {
    /// Fills `out`.
    fn fill(&self, out: &mut [u8]);
}

/// Fixed-size random values from any source.
pub fn random<const N: usize>(entropy: &dyn Entropy) -> [u8; N] {
    let mut out = [0; N];
    entropy.fill(&mut out);
    out
}

/// The operating system's generator.
#[derive(Debug, Default)]
pub struct OsEntropy;

impl Entropy for OsEntropy {
    fn fill(&self, out: &mut [u8]) {
        // Without randomness no key or IV may be made: there is nothing sensible to return.
        getrandom::fill(out).expect("the operating system gives random bytes");
    }
}

/// Reproducible bytes, SHA-256 of seed and counter: for tests and golden repositories only.
#[derive(Debug)]
pub struct SeededEntropy {
    seed: u64,
    counter: Mutex<u64>,
}

impl SeededEntropy {
    /// A source whose bytes follow from `seed` alone.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self { seed, counter: Mutex::new(0) }
    }
}

impl Entropy for SeededEntropy {
    fn fill(&self, out: &mut [u8]) {
        let mut counter = self.counter.lock().expect("no holder of this lock panics");
        for chunk in out.chunks_mut(32) {
            let mut hash = Sha256::new();
            hash.update(self.seed.to_le_bytes());
            hash.update(counter.to_le_bytes());
            *counter += 1;
            chunk.copy_from_slice(&hash.finalize()[..chunk.len()]);
        }
    }
}
