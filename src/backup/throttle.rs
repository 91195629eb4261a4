//! A bytes-per-second limit that all workers share.

use std::sync::Mutex;
use std::time::Duration;

use crate::base::{Cancelled, Ctx};

/// How far ahead of the limit a burst may run.
const BURST: Duration = Duration::from_millis(250);

/// The longest single wait, so that an interrupt is noticed.
const NAP: Duration = Duration::from_millis(100);

/// Lets a limited number of bytes pass in a second.
#[derive(Debug)]
pub(super) struct Throttle {
    bytes_per_second: Option<u64>,
    /// The monotonic time by which everything let through so far is paid for.
    paid_until: Mutex<Duration>,
}

impl Throttle {
    pub(super) fn new(bytes_per_second: Option<u64>) -> Self {
        let bytes_per_second = bytes_per_second.filter(|rate| *rate > 0);
        Self { bytes_per_second, paid_until: Mutex::default() }
    }

    /// Waits until `bytes` more may pass.
    pub(super) fn pass(&self, ctx: &Ctx, bytes: usize) -> Result<(), Cancelled> {
        let Some(rate) = self.bytes_per_second else { return Ok(()) };
        let cost = Duration::from_secs_f64(bytes as f64 / rate as f64);
        let due = {
            let mut paid = self.paid_until.lock().expect("no holder of this lock panics");
            *paid = (*paid).max(ctx.clock.monotonic()) + cost;
            *paid
        };
        loop {
            ctx.cancel.check()?;
            let ahead = due.saturating_sub(ctx.clock.monotonic());
            if ahead <= BURST {
                return Ok(());
            }
            ctx.clock.sleep((ahead - BURST).min(NAP));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Timestamp;

    #[test]
    fn the_rate_holds_over_time() {
        let ctx = Ctx::fixed(Timestamp::UNIX_EPOCH, 1);
        let throttle = Throttle::new(Some(1_000_000));
        for _ in 0..100 {
            throttle.pass(&ctx, 100_000).unwrap();
        }
        let took = ctx.clock.monotonic();
        assert!((9.5..=10.1).contains(&took.as_secs_f64()), "10 MB at 1 MB/s took {took:?}");
    }
}
