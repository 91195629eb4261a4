//! Bytes per second, shared by everything that sends and receives through one store.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Hands out time: whoever sent bytes waits until the rate allows more.
#[derive(Debug)]
pub struct Pace {
    bytes_per_second: u64,
    /// Until when what was taken keeps the line busy.
    busy_until: Mutex<Duration>,
}

impl Pace {
    /// At most `bytes_per_second`, at least 1.
    #[must_use]
    pub fn new(bytes_per_second: u64) -> Self {
        Self { bytes_per_second: bytes_per_second.max(1), busy_until: Mutex::default() }
    }

    /// The rate.
    #[must_use]
    pub fn bytes_per_second(&self) -> u64 {
        self.bytes_per_second
    }

    /// Takes `bytes` at the time `now`, and tells how long to wait before more are taken.
    #[must_use]
    pub fn take(&self, bytes: usize, now: Duration) -> Duration {
        #[expect(clippy::cast_precision_loss, reason = "a share of a second needs no more")]
        let cost = Duration::from_secs_f64(bytes as f64 / self.bytes_per_second as f64);
        let mut busy_until = self.busy_until.lock().unwrap_or_else(PoisonError::into_inner);
        // A line that was idle has saved nothing up.
        *busy_until = (*busy_until).max(now) + cost;
        *busy_until - now
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_takers_share_the_rate_and_idle_time_is_lost() {
        let pace = Pace::new(1000);
        let at = Duration::from_secs;
        assert_eq!(pace.take(500, at(0)), Duration::from_millis(500));
        assert_eq!(pace.take(1000, at(0)), Duration::from_millis(1500));
        assert_eq!(pace.take(1000, at(1)), Duration::from_millis(1500));
        assert_eq!(pace.take(1000, at(100)), at(1));
    }
}
