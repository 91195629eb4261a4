//! How much of a restore stayed as it was, and how much was written.

use std::sync::atomic::{AtomicU64, Ordering};

/// Files and bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct Amount {
    /// Files.
    pub files: u64,
    /// Bytes.
    pub bytes: u64,
}

/// Counted by all workers.
#[derive(Debug, Default)]
pub(super) struct Tally {
    kept: Counts,
    written: Counts,
}

#[derive(Debug, Default)]
struct Counts {
    files: AtomicU64,
    bytes: AtomicU64,
}

impl Counts {
    fn amount(&self) -> Amount {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        Amount { files: read(&self.files), bytes: read(&self.bytes) }
    }
}

impl Tally {
    /// Bytes that were right, or that were written.
    pub(super) fn add_bytes(&self, was_there: bool, bytes: u64) {
        self.of(was_there).bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// A file that is complete: whether all of it was there.
    pub(super) fn add_file(&self, was_there: bool) {
        self.of(was_there).files.fetch_add(1, Ordering::Relaxed);
    }

    fn of(&self, was_there: bool) -> &Counts {
        if was_there { &self.kept } else { &self.written }
    }

    /// What stayed, and what was written.
    pub(super) fn amounts(&self) -> (Amount, Amount) {
        (self.kept.amount(), self.written.amount())
    }
}
