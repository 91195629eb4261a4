//! Words that every room shares: time, randomness, cancellation, events, durable file writes.
//!
//! This room knows neither PostgreSQL nor storage nor configuration. Its types exist so that tests
//! can fix the clock and the randomness, and so that nothing below the command line prints.

pub mod byte_size;
pub mod cancel;
pub mod clock;
pub mod crew;
pub mod ctx;
pub mod detached;
pub mod durable;
pub mod entropy;
pub mod event;
pub mod hex;
pub mod host;
pub mod large_blocks;
pub mod path_order;
pub mod secret;
pub mod side_by_side;

pub use byte_size::ByteSize;
pub use cancel::{Cancel, Cancelled};
pub use clock::{Clock, ManualClock, SystemClock, Timestamp};
pub use crew::Crew;
pub use ctx::Ctx;
pub use detached::detached;
pub use entropy::{Entropy, OsEntropy, SeededEntropy};
pub use event::{Event, Observer, Silent, Stage};
pub use host::Host;
pub use path_order::path_order;
pub use secret::Secret;
pub use side_by_side::{AT_ONCE, ahead, few_side_by_side, side_by_side};
