//! The live server over its own protocol: one held session per connection, the facts that the rest
//! of the program decides by, and the SQL side of a base backup.
//!
//! Guarantees: every call blocks with a deadline and gives way to Ctrl-C within about a tenth of a
//! second; a lost connection is noticed at once, also while no query runs; a statement that is given
//! up is cancelled on the server too; values travel as parameters, never inside SQL text.
//!
//! This room does not know what a backup is stored as, reads no files of the data directory, no
//! environment and no password file: all of that is handed in. It never retries: whether a second
//! attempt is safe only the caller knows.

mod backup_session;
mod connect;
mod driver;
mod error;
mod promotion;
mod row;
mod same_server;
mod server_facts;
mod session;
mod sql;
mod tls;

pub use backup_session::{BackupSession, StartOptions, StoppedBackup};
pub use connect::ConnectOptions;
pub use error::{BackupHolder, Error, ServerMessage};
pub use promotion::Promotion;
pub use same_server::ServerIdentity;
pub use server_facts::{
    Archiver, Known, LastMoment, ReadySegments, SegmentStatus, ServerFacts, Tablespace, WalPosition,
};
pub use session::Session;
