//! What was asked, how often, and how many bytes went each way.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::seen::Seen;

/// A benchmark may ask a million times; no test reads that far.
const LOG_LINES_MAX: usize = 100_000;

#[derive(Default)]
pub struct Counters(Mutex<Counts>);

#[derive(Default)]
pub struct Counts {
    pub requests: BTreeMap<&'static str, usize>,
    pub connections: usize,
    pub bytes_in: u64,
    pub bytes_out: u64,
    pub log: Vec<String>,
}

impl Counters {
    pub fn note_request(&self, seen: &Seen) {
        let mut counts = self.counts();
        *counts.requests.entry(seen.operation).or_default() += 1;
        counts.bytes_in += seen.body_len;
        if counts.log.len() < LOG_LINES_MAX {
            counts.log.push(format!("{} {}", seen.operation, seen.key));
        }
    }

    pub fn note_reply(&self, bytes: u64) {
        self.counts().bytes_out += bytes;
    }

    pub fn note_connection(&self) {
        self.counts().connections += 1;
    }

    pub fn reset(&self) {
        *self.counts() = Counts::default();
    }

    pub fn counts(&self) -> MutexGuard<'_, Counts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
