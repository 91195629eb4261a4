//! Whether an invalid page may be one that the server is writing at this very moment.
//!
//! A reading can meet a write half-way, again and again on a busy page. Recovery mends such a page: it
//! was first changed after the backup's start, so WAL holds its full image. That is proven by its LSN:
//! behind the backup's start, and not ahead of what the server has written, as garbage would be.

use std::sync::atomic::{AtomicU64, Ordering};

use super::error::Result;
use crate::pg::page::PageHeader;

/// The span of WAL that pages in motion come from.
#[derive(Debug)]
pub(super) struct Motion {
    start_lsn: u64,
    /// The newest end of WAL that the server has told; it only grows.
    newest: AtomicU64,
}

impl Motion {
    pub(super) fn new(start_lsn: u64) -> Self {
        Self { start_lsn, newest: AtomicU64::new(start_lsn) }
    }

    /// Whether the LSN of a page, whose bytes change from reading to reading, is one of this backup's.
    /// `ask` gets the server's newest position; it is called only when what is known does not reach.
    pub(super) fn excuses(&self, page: &[u8], ask: impl FnOnce() -> Result<u64>) -> Result<bool> {
        let Ok(header) = PageHeader::parse(page) else { return Ok(false) };
        let lsn = header.lsn.0;
        if lsn <= self.start_lsn {
            return Ok(false);
        }
        if lsn <= self.newest.load(Ordering::Relaxed) {
            return Ok(true);
        }
        let newest = ask()?;
        self.newest.fetch_max(newest, Ordering::Relaxed);
        Ok(lsn <= newest)
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    fn page(lsn: u64) -> Vec<u8> {
        let mut page = vec![0; 8192];
        page[..4].copy_from_slice(&u32::try_from(lsn >> 32).unwrap().to_le_bytes());
        page[4..8].copy_from_slice(&u32::try_from(lsn & 0xFFFF_FFFF).unwrap().to_le_bytes());
        page
    }

    #[test]
    fn f055_only_an_lsn_of_this_backup_excuses_and_the_server_is_asked_when_needed() {
        const START: u64 = 0x1_0000_1000;
        let motion = Motion::new(START);
        let (asked, server) = (Cell::new(0), Cell::new(START + 500));
        let excused = |lsn| {
            let ask = || {
                asked.set(asked.get() + 1);
                Ok(server.get())
            };
            motion.excuses(&page(lsn), ask).unwrap()
        };
        for (lsn, expected, questions) in [
            (0, false, 0),
            (START, false, 0),
            (START + 1, true, 1),
            (START + 500, true, 1),
            (START + 501, false, 2),
            (u64::MAX, false, 3),
        ] {
            assert_eq!((excused(lsn), asked.get()), (expected, questions), "{lsn:X}");
        }
        server.set(START + 9_000);
        assert!(excused(START + 501), "the server has moved on");
        server.set(0);
        assert!(excused(START + 9_000), "what was known stays known");
        assert_eq!(asked.get(), 4);
        assert!(!motion.excuses(&[1; 7], || panic!("no header, no question")).unwrap());
    }
}
