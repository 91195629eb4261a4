//! Where the time comes from: the system's clock, or one that tests move by hand.
//!
//! Nothing else in the program asks the operating system for the time.

use std::fmt::Debug;
use std::sync::Mutex;
use std::time::Duration;

use chrono::{DateTime, Utc};

/// A moment in UTC, with nanoseconds.
pub type Timestamp = DateTime<Utc>;

/// A source of time.
pub trait Clock: Send + Sync + Debug {
    /// The wall clock.
    fn now(&self) -> Timestamp;

    /// Time since a fixed point that never goes back; only differences mean anything.
    fn monotonic(&self) -> Duration;

    /// Waits. A manual clock moves itself forward instead of waiting.
    fn sleep(&self, duration: Duration);
}

/// The operating system's clock.
#[derive(Debug)]
pub struct SystemClock {
    origin: std::time::Instant,
}

impl SystemClock {
    /// A clock whose monotonic zero is now.
    #[allow(clippy::disallowed_methods, reason = "this is the clock")]
    #[must_use]
    pub fn new() -> Self {
        Self { origin: std::time::Instant::now() }
    }
}

impl Default for SystemClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for SystemClock {
    #[allow(clippy::disallowed_methods, reason = "this is the clock")]
    fn now(&self) -> Timestamp {
        std::time::SystemTime::now().into()
    }

    fn monotonic(&self) -> Duration {
        self.origin.elapsed()
    }

    fn sleep(&self, duration: Duration) {
        std::thread::sleep(duration);
    }
}

/// The clock that the kernel stamps changes of files with (`ktime_get_coarse_real_ts64`): seconds and
/// nanoseconds since 1970, as coarse as its tick. Only good to be compared with such stamps.
#[must_use]
pub fn file_system_now() -> (i64, i64) {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::RealtimeCoarse);
    (now.tv_sec, now.tv_nsec)
}

/// A clock that stands still until it is moved.
#[derive(Debug)]
pub struct ManualClock {
    state: Mutex<(Timestamp, Duration)>,
}

impl ManualClock {
    /// A clock that shows `now`.
    #[must_use]
    pub fn new(now: Timestamp) -> Self {
        Self { state: Mutex::new((now, Duration::ZERO)) }
    }

    /// Moves wall clock and monotonic time forward together.
    pub fn advance(&self, by: Duration) {
        let mut state = self.state.lock().expect("no holder of this lock panics");
        state.0 += by;
        state.1 += by;
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        self.state.lock().expect("no holder of this lock panics").0
    }

    fn monotonic(&self) -> Duration {
        self.state.lock().expect("no holder of this lock panics").1
    }

    fn sleep(&self, duration: Duration) {
        self.advance(duration);
    }
}
