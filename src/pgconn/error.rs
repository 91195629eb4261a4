//! What can go wrong between here and the server; each variant is one that a caller acts on.

use std::fmt;
use std::time::Duration;

use crate::base::{Cancelled, Timestamp};

/// A failure at or on the way to the server.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The connection string or another option cannot be used; nothing was sent.
    #[error("{what}")]
    Options {
        /// What is wrong with it, without its secrets.
        what: String,
    },
    /// No session came about.
    #[error("cannot connect to {target}: {reason}")]
    Connect {
        /// Where to, as whom; never a password.
        target: String,
        /// The innermost reason in words.
        reason: String,
        /// The SQLSTATE when the server itself refused.
        sqlstate: Option<String>,
        /// The library's error, when there is one.
        source: Option<Box<dyn std::error::Error + Send + Sync>>,
    },
    /// The session is over: restart, crash, `pg_terminate_backend`, network. What it held is gone.
    #[error("lost the connection to the server ({during}): {reason}")]
    Lost {
        /// Which statement was running, or that none was.
        during: String,
        /// The last that was heard from the server or the network.
        reason: String,
    },
    /// The server did not answer in time; the statement was cancelled.
    #[error("{query}: no answer from the server within {} s", after.as_secs_f64())]
    Timeout {
        /// Which statement.
        query: &'static str,
        /// How long it was given.
        after: Duration,
    },
    /// Somebody asked the program to stop; the statement was cancelled.
    #[error("interrupted")]
    Cancelled,
    /// The role may not do this (SQLSTATE 42501).
    #[error("{query}: {message}")]
    Denied {
        /// Which statement.
        query: &'static str,
        /// What the server said.
        message: Box<ServerMessage>,
    },
    /// The server refused a statement for another reason.
    #[error("{query}: {message}")]
    Query {
        /// Which statement.
        query: &'static str,
        /// What the server said.
        message: Box<ServerMessage>,
        /// The library's error.
        source: tokio_postgres::Error,
    },
    /// The server answered something that this program does not understand.
    #[error("{query}: expected {expected}, found {found}")]
    Unexpected {
        /// Which statement.
        query: &'static str,
        /// What an answer looks like.
        expected: &'static str,
        /// What came instead.
        found: String,
    },
    /// The server is older than this program supports.
    #[error("PostgreSQL {found} is too old: 14 is the oldest that is supported")]
    TooOld {
        /// `server_version_num`.
        found: i32,
    },
    /// A connection pooler sits in between, and moves statements between server sessions.
    #[error(
        "the connection goes through a pooler that does not keep one server session ({found}): \
         connect to PostgreSQL itself"
    )]
    Pooled {
        /// What gave it away.
        found: String,
    },
    /// Another backup of the same cluster is running.
    #[error("another backup of this cluster is running: {who}")]
    BackupRunning {
        /// Who runs it.
        who: Box<BackupHolder>,
    },
    /// The server that answers is not the one that is meant.
    #[error("this is not the server that is meant: {}", differences.join("; "))]
    OtherServer {
        /// Each thing that differs, in words.
        differences: Vec<String>,
    },
    /// The server was restarted since the session was established.
    #[error("the server was restarted at {now}; it had been running since {before}")]
    Restarted {
        /// Start of the server that was meant.
        before: Timestamp,
        /// Start of the server that answers now.
        now: Timestamp,
    },
    /// The standby became a primary in the middle of a backup, which makes the backup unusable.
    #[error("the standby was promoted during the backup")]
    Promoted,
}

impl From<Cancelled> for Error {
    fn from(_: Cancelled) -> Self {
        Self::Cancelled
    }
}

impl Error {
    /// Sorts a failed statement into the variant that callers act on.
    pub(super) fn from_query(query: &'static str, source: tokio_postgres::Error) -> Self {
        let Some(db) = source.as_db_error() else {
            return match source.is_closed() || is_io(&source) {
                true => Self::Lost { during: query.to_owned(), reason: innermost(&source) },
                false => Self::Unexpected {
                    query,
                    expected: "an answer that the protocol allows",
                    found: innermost(&source),
                },
            };
        };
        let message = Box::new(ServerMessage::from(db));
        if message.ends_session {
            return Self::Lost { during: query.to_owned(), reason: message.to_string() };
        }
        match message.sqlstate.as_str() {
            "42501" => Self::Denied { query, message },
            _ => Self::Query { query, message, source },
        }
    }

    /// The SQLSTATE that the server gave, if it gave one.
    #[must_use]
    pub fn sqlstate(&self) -> Option<&str> {
        match self {
            Self::Connect { sqlstate, .. } => sqlstate.as_deref(),
            Self::Denied { message, .. } | Self::Query { message, .. } => Some(&message.sqlstate),
            _ => None,
        }
    }
}

/// What the server said about a failed statement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerMessage {
    /// Five characters that mean the same in every language.
    pub sqlstate: String,
    /// The sentence, in the server's language.
    pub message: String,
    /// More of it.
    pub detail: Option<String>,
    /// The server's advice.
    pub hint: Option<String>,
    /// The server closes the session after this message.
    pub(super) ends_session: bool,
}

impl From<&tokio_postgres::error::DbError> for ServerMessage {
    fn from(db: &tokio_postgres::error::DbError) -> Self {
        use tokio_postgres::error::Severity;
        Self {
            sqlstate: db.code().code().to_owned(),
            message: db.message().to_owned(),
            detail: db.detail().map(str::to_owned),
            hint: db.hint().map(str::to_owned),
            ends_session: matches!(db.parsed_severity(), Some(Severity::Fatal | Severity::Panic)),
        }
    }
}

impl fmt::Display for ServerMessage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (SQLSTATE {}", self.message, self.sqlstate)?;
        if let Some(detail) = &self.detail {
            write!(f, "; {detail}")?;
        }
        if let Some(hint) = &self.hint {
            write!(f, "; {hint}")?;
        }
        f.write_str(")")
    }
}

/// The session that runs another backup. What the role may not see is `None`: who is not a member of
/// `pg_read_all_stats` sees neither times nor addresses of other roles' sessions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackupHolder {
    /// Its process on the server, for `pg_terminate_backend`.
    pub pid: i32,
    /// Begins with `pgkeep backup`.
    pub application_name: String,
    /// The database it is connected to.
    pub database: Option<String>,
    /// The role.
    pub user: Option<String>,
    /// When its session began.
    pub since: Option<Timestamp>,
    /// From where; `None` also for a Unix socket.
    pub client_address: Option<String>,
}

impl fmt::Display for BackupHolder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}, server process {}", self.application_name, self.pid)?;
        if let Some(user) = &self.user {
            write!(f, ", role {user}")?;
        }
        if let Some(address) = &self.client_address {
            write!(f, ", from {address}")?;
        }
        if let Some(since) = &self.since {
            write!(f, ", since {}", since.format("%Y-%m-%d %H:%M:%S UTC"))?;
        }
        Ok(())
    }
}

/// The last message of a chain of causes: "connection refused" says more than "error connecting".
pub(super) fn innermost(error: &(dyn std::error::Error + 'static)) -> String {
    let mut last = error;
    while let Some(source) = last.source() {
        last = source;
    }
    last.to_string()
}

fn is_io(error: &tokio_postgres::Error) -> bool {
    let mut cause = std::error::Error::source(error);
    while let Some(source) = cause {
        if source.is::<std::io::Error>() {
            return true;
        }
        cause = source.source();
    }
    false
}
