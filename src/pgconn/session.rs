//! One connection, held: calls from any thread that block on the thread that drives it (`driver`).
//!
//! Waiting is measured in real time, whatever clock a test has fixed: the server's time is real.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc as blocking;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_postgres::Row;

use super::connect::ConnectOptions;
use super::driver::{self, Command, Param, State, TICK, Turn};
use super::error::{Error, innermost};
use super::row::Columns;
use super::sql::{self, Sql};
use crate::base::{Cancel, Ctx, Timestamp, entropy, hex};

/// The oldest PostgreSQL that is supported.
const OLDEST_VERSION: i32 = 140_000;

/// What a server says about a session in one cheap statement ([`sql::PULSE`]).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pulse {
    pub backend_pid: i32,
    pub mark: Option<String>,
    pub postmaster_start: Timestamp,
    pub in_recovery: bool,
    pub server_clock: Timestamp,
    pub server_version: i32,
}

/// A held connection to a server. Dropping it ends the session, and with it a backup that it began.
#[derive(Debug)]
pub struct Session {
    options: ConnectOptions,
    description: String,
    commands: Option<mpsc::UnboundedSender<Command>>,
    state: Arc<State>,
    thread: Option<JoinHandle<()>>,
    mark: String,
    first_pulse: Pulse,
}

impl Session {
    /// Connects and makes the session fit to be held: `search_path` of `pg_catalog` alone, every
    /// timeout of role and database off, a mark by which it is known again.
    ///
    /// # Errors
    /// [`Error::Options`], [`Error::Connect`], [`Error::TooOld`], [`Error::Cancelled`], and those of
    /// statements.
    pub fn connect(ctx: &Ctx, options: &ConnectOptions) -> Result<Self, Error> {
        let target = options.resolve()?;
        let description = target.description.clone();
        let mark = hex::encode(&entropy::random::<16>(ctx.entropy.as_ref()));
        let state = Arc::new(State::default());
        let (commands, queue) = mpsc::unbounded_channel();
        let (ready, is_ready) = blocking::sync_channel(1);
        let mut session = Self {
            options: options.clone(),
            description,
            commands: Some(commands),
            state: Arc::clone(&state),
            thread: None,
            first_pulse: Pulse {
                backend_pid: 0,
                mark: None,
                postmaster_start: Timestamp::UNIX_EPOCH,
                in_recovery: false,
                server_clock: Timestamp::UNIX_EPOCH,
                server_version: 0,
            },
            mark,
        };
        let cancel = ctx.cancel.clone();
        // Supervised: the handle is joined when the session is dropped, also when this fails.
        let thread = std::thread::Builder::new()
            .name("pgconn".to_owned())
            .spawn(move || driver::drive(target, &cancel, queue, &state, &ready))
            .map_err(|error| session.connect_error(Box::new(error)))?;
        session.thread = Some(thread);
        match is_ready.recv() {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return Err(error),
            Err(_) => return Err(session.state.lost_error("connecting")),
        }
        session.settle(ctx)?;
        Ok(session)
    }

    fn connect_error(&self, source: Box<dyn std::error::Error + Send + Sync>) -> Error {
        Error::Connect {
            target: self.description.clone(),
            reason: innermost(source.as_ref()),
            sqlstate: None,
            source: Some(source),
        }
    }

    fn settle(&mut self, ctx: &Ctx) -> Result<(), Error> {
        self.query(ctx, sql::SEARCH_PATH, vec![])?;
        self.query(ctx, sql::SETTLE, vec![])?;
        self.query(ctx, sql::SET_MARK, vec![Param::Text(self.mark.clone())])?;
        self.first_pulse = self.pulse(ctx)?;
        let found = self.first_pulse.server_version;
        if found < OLDEST_VERSION {
            return Err(Error::TooOld { found });
        }
        self.check_same_session(&self.first_pulse)
    }

    /// `None` while the connection stands; otherwise the last that was heard. Costs nothing: asks
    /// nobody, because the connection's thread notices by itself.
    #[must_use]
    pub fn lost(&self) -> Option<&str> {
        self.state.lost.get().map(String::as_str)
    }

    /// Where the session is connected to and as whom, for messages; without the password.
    #[must_use]
    pub fn description(&self) -> &str {
        &self.description
    }

    /// The process of this session on the server.
    #[must_use]
    pub fn backend_pid(&self) -> i32 {
        self.first_pulse.backend_pid
    }

    /// `server_version_num`, such as 150020.
    #[must_use]
    pub fn server_version(&self) -> i32 {
        self.first_pulse.server_version
    }

    /// When the server was started.
    #[must_use]
    pub fn postmaster_start(&self) -> Timestamp {
        self.first_pulse.postmaster_start
    }

    /// The server's clock now.
    ///
    /// # Errors
    /// Those of statements.
    pub fn server_clock(&self, ctx: &Ctx) -> Result<Timestamp, Error> {
        Ok(self.pulse(ctx)?.server_clock)
    }

    /// Proves that no pooler moves this session's statements between server sessions.
    ///
    /// One connection alone proves little: an idle pooler in transaction mode hands the same server
    /// session out again and again. So a second connection is opened and both ask in turns: through
    /// such a pooler they meet in one server session, or find themselves in changing ones. (A pooler
    /// in session mode passes: it keeps a server session for as long as a client is connected.)
    ///
    /// # Errors
    /// [`Error::Pooled`], and those of connecting and of statements.
    pub fn prove_not_pooled(&self, ctx: &Ctx) -> Result<(), Error> {
        let witness = Self::connect(ctx, &self.options)?;
        for _ in 0..3 {
            for session in [self, &witness] {
                session.check_same_session(&session.pulse(ctx)?)?;
            }
        }
        if self.backend_pid() == witness.backend_pid() {
            return Err(Error::Pooled {
                found: format!("two connections share the server process {}", self.backend_pid()),
            });
        }
        Ok(())
    }

    /// Whether `pulse` comes from the server session that this one began as.
    pub(super) fn check_same_session(&self, pulse: &Pulse) -> Result<(), Error> {
        let first = &self.first_pulse;
        if pulse.postmaster_start != first.postmaster_start {
            return Err(Error::Restarted {
                before: first.postmaster_start,
                now: pulse.postmaster_start,
            });
        }
        if pulse.backend_pid != first.backend_pid {
            return Err(Error::Pooled {
                found: format!(
                    "the session was in server process {} and is in {} now",
                    first.backend_pid, pulse.backend_pid
                ),
            });
        }
        if pulse.mark.as_deref() != Some(self.mark.as_str()) {
            return Err(Error::Pooled {
                found: "a setting of the session did not stay".to_owned(),
            });
        }
        Ok(())
    }

    pub(super) fn pulse(&self, ctx: &Ctx) -> Result<Pulse, Error> {
        let rows = self.query(ctx, sql::PULSE, vec![])?;
        let row = Columns::only(sql::PULSE, &rows)?;
        Ok(Pulse {
            backend_pid: row.value(0)?,
            mark: row.optional(1)?,
            postmaster_start: row.time(2)?,
            in_recovery: row.value(3)?,
            server_clock: row.time(4)?,
            server_version: row.value(5)?,
        })
    }

    /// Runs a statement that the server answers from memory.
    pub(super) fn query(&self, ctx: &Ctx, sql: Sql, params: Vec<Param>) -> Result<Vec<Row>, Error> {
        self.query_within(&ctx.cancel, sql, params, self.options.statement_timeout)
    }

    /// Runs a statement and waits for the answer, at most `timeout` plus what its cancellation takes.
    pub(super) fn query_within(
        &self,
        cancel: &Cancel,
        sql: Sql,
        params: Vec<Param>,
        timeout: Duration,
    ) -> Result<Vec<Row>, Error> {
        cancel.check()?;
        let (reply, answer) = blocking::sync_channel(1);
        let turn = Arc::new(Turn::default());
        let command = Command {
            sql,
            params,
            timeout,
            deadline: Instant::now() + timeout,
            cancel: cancel.clone(),
            turn: Arc::clone(&turn),
            reply,
        };
        let sent = match &self.commands {
            Some(commands) => commands.send(command).is_ok(),
            None => false,
        };
        if !sent {
            return Err(self.state.lost_error(sql.name));
        }
        loop {
            match answer.recv_timeout(TICK) {
                Ok(result) => return result,
                Err(blocking::RecvTimeoutError::Disconnected) => {
                    return Err(self.state.lost_error(sql.name));
                }
                // Once it runs, the thread watches over it; until then it can be taken back.
                Err(blocking::RecvTimeoutError::Timeout) => {
                    if cancel.is_cancelled() && turn.take_back() {
                        return Err(Error::Cancelled);
                    }
                }
            }
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.state.closing.store(true, Ordering::SeqCst);
        self.commands = None;
        if let Some(thread) = self.thread.take() {
            // A panic there has been reported as a lost connection.
            thread.join().ok();
        }
    }
}
