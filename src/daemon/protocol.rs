//! What client and daemon say to each other over the socket: one request with open files, then answers
//! until one is final.
//!
//! Each message is its length, four bytes little-endian, and JSON. Open files come with its first byte
//! (`SCM_RIGHTS`). A request that the daemon does not understand is answered with
//! [`Answer::Unable`], so that a newer client can do without it.

use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::archive::{Delivered, Lagging};
use crate::base::Timestamp;
use crate::pg::Lsn;
use crate::repo::Origin;

/// The version of what is said. Another one is answered with [`Answer::Unable`].
pub const PROTOCOL: u32 = 1;

/// No message is longer.
const MESSAGE_MAX: usize = 1 << 20;

/// No message brings more open files.
const FILES_MAX: usize = 3;

/// How often the daemon says that it is still at it.
pub const WORKING_EVERY: Duration = Duration::from_secs(1);

/// After that long without a word the daemon counts as gone.
pub const SILENCE_MAX: Duration = Duration::from_secs(30);

/// What is asked.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Request {
    /// [`PROTOCOL`].
    pub protocol: u32,
    /// The cluster's configured name; the one whose directory it is, or the only one.
    pub cluster: Option<String>,
    /// The repositories that whoever asks means, where he has a configuration: the daemon's must be the same.
    pub repositories: Option<Vec<String>>,
    /// What for.
    pub ask: Ask,
}

/// What for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ask {
    /// To archive a file. Open files: the data directory, the folder that the file is in.
    Push(PushAsk),
    /// To fetch a file. Open files: the data directory, the folder that the file is to be in, and the
    /// file itself, empty.
    Get(GetAsk),
    /// What is going on, and what is pending.
    Status,
}

/// A file to be archived.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PushAsk {
    /// Its name in its folder.
    pub name: String,
    /// Its path, as whoever asks calls it: for sentences.
    pub path: PathBuf,
    /// The data directory, likewise.
    pub data_directory: PathBuf,
    /// Which server this is.
    pub origin: Origin,
    /// Whether segments of an unknown version are stored unread.
    pub accept_unknown_wal: bool,
}

/// A file to be fetched.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GetAsk {
    /// The file, by PostgreSQL's name.
    pub name: String,
    /// Where it is to be, as whoever asks calls it: for sentences.
    pub path: PathBuf,
    /// The data directory, likewise.
    pub data_directory: PathBuf,
    /// The restore's plan saw WAL up to here.
    pub through: Option<Lsn>,
    /// From this epoch's archive.
    pub epoch: Option<u32>,
    /// From this repository alone.
    pub only: Option<String>,
}

/// What is answered.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Answer {
    /// Not yet.
    Working,
    /// The file is durable in every required repository.
    Pushed {
        /// What the operator should know.
        warnings: Vec<String>,
    },
    /// The file is in the open file, whole and authentic; or in the one that comes with the answer, which
    /// has no name yet and is to get it instead.
    Delivered {
        /// What is known of it.
        delivered: Box<Delivered>,
        /// Whether it is in the one that comes with the answer.
        is_given: bool,
        /// What the operator should know.
        warnings: Vec<String>,
    },
    /// Proven: no repository has the file, and nothing needs it.
    Absent,
    /// It failed.
    Failed(Told),
    /// What is going on.
    Status(Box<Status>),
    /// The daemon cannot do this: as if it were away.
    Unable {
        /// Why.
        why: String,
    },
}

/// An error as it is told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Told {
    /// What went wrong.
    pub message: String,
    /// Why, cause by cause.
    pub causes: Vec<String>,
    /// What to do.
    pub hint: Option<String>,
    /// Of a fetch: nothing else may be answered, also to a standby.
    pub is_final: bool,
}

/// What is going on in the daemon.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// The daemon's process.
    pub pid: u32,
    /// Requests that have no answer yet.
    pub requests: usize,
    /// Each cluster.
    pub clusters: Vec<ClusterStatus>,
    /// What runs by the clock.
    #[serde(default)]
    pub jobs: Vec<JobStatus>,
}

/// Something that runs by the clock.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobStatus {
    /// What it does.
    pub job: String,
    /// For which cluster.
    pub cluster: String,
    /// When it runs next.
    pub next: Option<Timestamp>,
    /// Since when it runs.
    pub running_since: Option<Timestamp>,
    /// How it ended the last time, of this daemon's runs.
    pub last: Option<JobEnd>,
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobEnd {
    /// When it began.
    pub begun: Timestamp,
    /// When it ended.
    pub ended: Timestamp,
    /// The exit code, if it came to one.
    pub exit: Option<i32>,
    /// What that means, in words.
    pub outcome: String,
}

/// What is going on for one cluster.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterStatus {
    /// Its configured name.
    pub cluster: String,
    /// Files that its servers have ready to be archived.
    pub ready: u64,
    /// The server is shutting down, or starting up: more may become ready.
    pub is_stopping: bool,
    /// Files that are being stored.
    pub storing: usize,
    /// Files that are stored ahead of their request.
    pub ahead: usize,
    /// Segments that are held for recovery, and how many bytes.
    pub held: usize,
    /// Of them.
    pub held_bytes: u64,
    /// How far repositories that are not required lag behind.
    pub lags: Vec<Lag>,
    /// What is missing in the repositories, by the last look.
    pub holes: Vec<String>,
}

/// How far a repository that is not required lags behind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lag {
    /// Its configured name.
    pub repository: String,
    /// Files that it has not and another one has, as far as is known.
    pub files: u64,
    /// Why it did not take the last one.
    pub why: Option<String>,
}

impl From<Lagging> for Lag {
    fn from(lagging: Lagging) -> Self {
        let Lagging { repository, files, why } = lagging;
        Self { repository, files, why }
    }
}

impl Status {
    /// What has to be done before the daemon may go, in words; nothing when nothing is pending.
    #[must_use]
    pub fn pending(&self) -> Option<String> {
        let each = self.clusters.iter().filter_map(|cluster| {
            let mut parts = Vec::new();
            if cluster.ready > 0 {
                parts.push(format!("{} files are ready to be archived", cluster.ready));
            }
            if cluster.is_stopping {
                parts.push("its server is shutting down".to_owned());
            }
            let lags = cluster.lags.iter().filter(|lag| lag.files > 0);
            parts.extend(
                lags.map(|lag| format!("{} lags {} files behind", lag.repository, lag.files)),
            );
            (!parts.is_empty())
                .then(|| format!("cluster {}: {}", cluster.cluster, parts.join(", ")))
        });
        let mut each: Vec<String> = each.collect();
        if self.requests > 0 {
            each.push(format!("{} requests have no answer yet", self.requests));
        }
        (!each.is_empty()).then(|| each.join("; "))
    }
}

/// Sends a request, or an answer, with its open files.
///
/// # Errors
/// As the system's.
pub fn send(
    stream: &UnixStream,
    message: &impl Serialize,
    files: &[BorrowedFd<'_>],
) -> io::Result<()> {
    let message = encoded(message)?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FILES_MAX))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !files.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(files)) {
        return Err(io::Error::other("too many open files for one message"));
    }
    let sent = loop {
        match sendmsg(stream, &[IoSlice::new(&message)], &mut ancillary, SendFlags::NOSIGNAL) {
            Err(Errno::INTR) => {}
            sent => break sent?,
        }
    };
    let mut stream = stream;
    stream.write_all(message.get(sent..).unwrap_or_default())
}

/// Receives a request, or an answer, with its open files.
///
/// # Errors
/// As the system's; for what is no such message.
pub fn receive<T: DeserializeOwned>(stream: &UnixStream) -> io::Result<(T, Vec<OwnedFd>)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FILES_MAX))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut length = [0; 4];
    let flags = RecvFlags::CMSG_CLOEXEC;
    let received = loop {
        let mut space = [IoSliceMut::new(&mut length)];
        match recvmsg(stream.as_fd(), &mut space, &mut ancillary, flags) {
            // A client that was stopped and goes on.
            Err(Errno::INTR) => {}
            received => break received?,
        }
    };
    if received.flags.contains(ReturnFlags::CTRUNC) {
        return Err(io::Error::other("an open file was lost on its way"));
    }
    let mut files = Vec::new();
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            files.extend(rights);
        }
    }
    if received.bytes == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let mut stream = stream;
    stream.read_exact(length.get_mut(received.bytes..).unwrap_or_default())?;
    Ok((receive_rest(stream, length)?, files))
}

fn encoded(message: &impl Serialize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; 4];
    serde_json::to_writer(&mut bytes, message)?;
    let length = u32::try_from(bytes.len() - 4).map_err(io::Error::other)?;
    bytes.splice(..4, length.to_le_bytes());
    Ok(bytes)
}

fn receive_rest<T: DeserializeOwned>(mut stream: &UnixStream, length: [u8; 4]) -> io::Result<T> {
    let length = usize::try_from(u32::from_le_bytes(length)).unwrap_or(usize::MAX);
    if length > MESSAGE_MAX {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a message is too long"));
    }
    let mut bytes = vec![0; length];
    stream.read_exact(&mut bytes)?;
    Ok(serde_json::from_slice(&bytes)?)
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::AsFd as _;

    use super::*;
    use crate::base::durable;

    fn push() -> Request {
        let origin = Origin { host: "db1".into(), directory: "/data".into() };
        let ask = PushAsk {
            name: "000000010000000000000001".into(),
            path: "pg_wal/000000010000000000000001".into(),
            data_directory: "/data".into(),
            origin,
            accept_unknown_wal: false,
        };
        Request { protocol: PROTOCOL, cluster: None, repositories: None, ask: Ask::Push(ask) }
    }

    #[test]
    fn a_request_comes_with_its_open_files_and_answers_come_back() {
        let (client, daemon) = UnixStream::pair().unwrap();
        let dir = tempfile::tempdir().unwrap();
        durable::replace_unsynced(&dir.path().join("file"), b"content", 0o600).unwrap();
        let folder = File::open(dir.path()).unwrap();
        send(&client, &push(), &[folder.as_fd(), folder.as_fd()]).unwrap();
        let (request, files) = receive::<Request>(&daemon).unwrap();
        assert_eq!(request, push());
        assert_eq!(files.len(), 2);
        let through = format!("/proc/self/fd/{}/file", std::os::fd::AsRawFd::as_raw_fd(&files[1]));
        assert_eq!(std::fs::read(through).unwrap(), b"content");
        for answer in [Answer::Working, Answer::Pushed { warnings: vec!["look".into()] }] {
            send(&daemon, &answer, &[folder.as_fd()]).unwrap();
            let (received, files) = receive::<Answer>(&client).unwrap();
            assert_eq!((received, files.len()), (answer, 1));
        }
        drop(daemon);
        assert!(receive::<Answer>(&client).is_err());
    }

    #[test]
    fn what_is_no_message_is_an_error_and_takes_no_memory() {
        for bytes in [&[][..], &[1], &[0xff; 8], &[2, 0, 0, 0, b'{', b'}'], &[3, 0, 0, 0, b'x']] {
            let (mut client, daemon) = UnixStream::pair().unwrap();
            client.write_all(bytes).unwrap();
            drop(client);
            assert!(receive::<Request>(&daemon).is_err(), "{bytes:?}");
        }
    }
}
