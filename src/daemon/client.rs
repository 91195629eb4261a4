//! The other side of the socket: asks the daemon, or says that it is away.
//!
//! Needs no runtime, no store and no secret. Believes only a daemon of its own account, or root's.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use rustix::net::sockopt::{Timeout, set_socket_timeout, socket_peercred};
use rustix::net::{self, AddressFamily, SocketAddrUnix, SocketFlags, SocketType, socket_with};

use super::protocol::{Answer, Request, SILENCE_MAX, receive, send};

/// How long to wait for being accepted into the queue.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Why the daemon did not answer. The work may have been done all the same.
#[derive(Debug, thiserror::Error)]
pub enum Away {
    /// Nobody listens there.
    #[error("no daemon listens on {path}: {source}")]
    NotThere {
        /// The socket.
        path: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// It was there and did not answer.
    #[error("the daemon on {path} did not answer: {source}")]
    Lost {
        /// The socket.
        path: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// It says that it cannot.
    #[error("the daemon on {path}: {why}")]
    Unable {
        /// The socket.
        path: String,
        /// Why.
        why: String,
    },
}

impl Away {
    /// Whether no daemon was started here, as far as can be told.
    #[must_use]
    pub fn is_not_there(&self) -> bool {
        matches!(self, Self::NotThere { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }
}

/// A final answer.
#[derive(Debug)]
pub struct Answered {
    /// What it says.
    pub answer: Answer,
    /// The file that came with it.
    pub file: Option<OwnedFd>,
    /// The daemon waits for its end before it fetches what follows.
    pub connection: UnixStream,
}

/// Asks, and waits for the final answer, as long as the daemon says that it is at it.
///
/// # Errors
/// [`Away`].
pub fn ask(socket: &Path, request: &Request, files: &[BorrowedFd<'_>]) -> Result<Answered, Away> {
    let path = || socket.display().to_string();
    let not_there = |source| Away::NotThere { path: path(), source };
    let stream = connect(socket).map_err(not_there)?;
    require_own(&stream).map_err(not_there)?;
    let lost = |source| Away::Lost { path: path(), source };
    stream.set_read_timeout(Some(SILENCE_MAX)).map_err(lost)?;
    stream.set_write_timeout(Some(SILENCE_MAX)).map_err(lost)?;
    send(&stream, request, files).map_err(lost)?;
    loop {
        match receive(&stream).map_err(lost)? {
            (Answer::Working, _) => {}
            (Answer::Unable { why }, _) => return Err(Away::Unable { path: path(), why }),
            (answer, files) => {
                let file = files.into_iter().next();
                return Ok(Answered { answer, file, connection: stream });
            }
        }
    }
}

/// Connects, and does not wait for ever where nobody accepts any more (`unix(7)`: the time limit for sending
/// counts for connecting, too).
fn connect(socket: &Path) -> io::Result<UnixStream> {
    let address = SocketAddrUnix::new(socket)?;
    let flags = SocketFlags::CLOEXEC;
    let own = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    set_socket_timeout(&own, Timeout::Send, Some(CONNECT_TIMEOUT))?;
    net::connect(&own, &address)?;
    Ok(UnixStream::from(own))
}

/// Whether the other side runs as the same account, or as root: nobody else may say that a file is
/// archived, or ask for one.
///
/// # Errors
/// When it does not, or the system does not tell.
pub(super) fn require_own(stream: &UnixStream) -> io::Result<()> {
    let peer = socket_peercred(stream)?.uid;
    let own = rustix::process::geteuid();
    if peer == own || peer.is_root() {
        return Ok(());
    }
    let why = format!("the other side is account {}, not {}", peer.as_raw(), own.as_raw());
    Err(io::Error::new(io::ErrorKind::PermissionDenied, why))
}
