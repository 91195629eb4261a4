//! Why the daemon cannot run.

use std::io;
use std::path::PathBuf;

/// Why the daemon cannot run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Another one listens there.
    #[error("a daemon listens on {} already", path.display())]
    Running {
        /// The socket.
        path: PathBuf,
    },
    /// The socket cannot be made.
    #[error("{}: {source}", path.display())]
    Socket {
        /// Its path.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Signals cannot be watched for.
    #[error("cannot watch for signals: {0}")]
    Signals(#[source] io::Error),
}

/// The room's result.
pub type Result<T> = std::result::Result<T, Error>;
