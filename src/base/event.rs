//! How work reports itself without printing: events to an observer that the command line provides.

use std::fmt::Debug;

/// What a long operation is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Waiting for the server's checkpoint at the start of a backup.
    StartCheckpoint,
    /// Reading the data directory's listing.
    Scan,
    /// Copying files into the repository.
    Copy,
    /// Waiting for WAL to arrive in the repository.
    WaitForWal,
    /// Writing files of a restore.
    Restore,
    /// Making what was written durable.
    Sync,
    /// Moving packs to another storage class.
    Tier,
    /// Asking for cold packs to be thawed.
    Thaw,
    /// Waiting until they are.
    WaitForThaw,
    /// Copying from one repository to another.
    Transfer,
}

/// Something worth telling a person or a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A stage begins; totals are zero when they are not known.
    Begin {
        /// What begins.
        stage: Stage,
        /// How many bytes it will go through.
        bytes_total: u64,
        /// How many files it will go through.
        files_total: u64,
    },
    /// Some more is done.
    Advance {
        /// Bytes since the last such event.
        bytes: u64,
        /// Files since the last such event.
        files: u64,
    },
    /// The stage is over.
    End {
        /// What is over.
        stage: Stage,
    },
    /// A step that others rest on is done.
    Step(&'static str),
    /// A fact for the log.
    Note(String),
    /// Something that the operator should look at; the operation goes on.
    Warning(String),
}

/// Receives events; called from many threads, must not block for long.
pub trait Observer: Send + Sync + Debug {
    /// Takes one event.
    fn event(&self, event: Event);
}

/// Drops every event.
#[derive(Debug, Default)]
pub struct Silent;

impl Observer for Silent {
    fn event(&self, _event: Event) {}
}
