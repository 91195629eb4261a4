//! The thread of a session: it polls the connection also while no statement runs, so that the end of
//! the server or of the network is known the moment the kernel knows it.
//!
//! Statements come through a queue and run one after the other, as they would on the server. A
//! statement that is given up (deadline, Ctrl-C) is cancelled on the server through a second, short
//! connection; if it does not end then, the session is closed, for nobody could say what state it is
//! in.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::mpsc as blocking;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_postgres::tls::MakeTlsConnect;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Connection, NoTls, Row, Socket};

use super::connect::Target;
use super::error::{Error, ServerMessage, innermost};
use super::sql::Sql;
use crate::base::Cancel;

/// How often a waiting statement looks at its deadline and at Ctrl-C.
pub(super) const TICK: Duration = Duration::from_millis(50);
/// How long a cancelled statement has to end before its session is given up.
const CANCEL_GRACE: Duration = Duration::from_secs(5);
/// How long a session may take to say goodbye.
const GOODBYE: Duration = Duration::from_millis(500);

/// A value for a statement's parameter.
#[derive(Debug, Clone)]
pub(super) enum Param {
    Text(String),
    Texts(Vec<String>),
    Int(i32),
    Bool(bool),
}

impl Param {
    fn typed(&self) -> (&(dyn ToSql + Sync), Type) {
        match self {
            Self::Text(value) => (value, Type::TEXT),
            Self::Texts(value) => (value, Type::TEXT_ARRAY),
            Self::Int(value) => (value, Type::INT4),
            Self::Bool(value) => (value, Type::BOOL),
        }
    }
}

/// What the thread tells without being asked, and the other way round.
#[derive(Debug, Default)]
pub(super) struct State {
    pub lost: OnceLock<String>,
    pub closing: AtomicBool,
}

impl State {
    fn set_lost(&self, reason: String) {
        // The first reason is the cause; what comes after it are consequences.
        self.lost.set(reason).ok();
    }

    pub(super) fn lost_error(&self, during: &str) -> Error {
        Error::Lost {
            during: during.to_owned(),
            reason: self.lost.get().cloned().unwrap_or_else(|| "the session has ended".to_owned()),
        }
    }
}

/// A statement on its way to the thread.
pub(super) struct Command {
    pub sql: Sql,
    pub params: Vec<Param>,
    pub timeout: Duration,
    pub deadline: Instant,
    pub cancel: Cancel,
    pub turn: Arc<Turn>,
    pub reply: blocking::SyncSender<Result<Vec<Row>, Error>>,
}

/// Settles between caller and thread whether a statement is sent or taken back.
#[derive(Default)]
pub(super) struct Turn(AtomicU8);

impl Turn {
    const QUEUED: u8 = 0;
    const STARTED: u8 = 1;
    const TAKEN_BACK: u8 = 2;

    fn start(&self) -> bool {
        self.leave_queue(Self::STARTED)
    }

    pub(super) fn take_back(&self) -> bool {
        self.leave_queue(Self::TAKEN_BACK)
    }

    fn leave_queue(&self, to: u8) -> bool {
        self.0.compare_exchange(Self::QUEUED, to, Ordering::SeqCst, Ordering::SeqCst).is_ok()
    }
}

pub(super) type Ready = blocking::SyncSender<Result<(), Error>>;

/// The thread: a runtime of its own, one connection, statements from a queue.
pub(super) fn drive(
    target: Target,
    cancel: &Cancel,
    queue: mpsc::UnboundedReceiver<Command>,
    state: &State,
    ready: &Ready,
) {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            let failed = Error::Connect {
                target: target.description,
                reason: error.to_string(),
                sqlstate: None,
                source: Some(Box::new(error)),
            };
            ready.send(Err(failed)).ok();
            return;
        }
    };
    runtime.block_on(async {
        match target.tls.connector.clone() {
            Some(tls) => Driver::run(tls, target, cancel, queue, state, ready).await,
            None => Driver::run(NoTls, target, cancel, queue, state, ready).await,
        }
    });
    // A look-up of a name may still hang in the system's resolver: nobody waits for it.
    runtime.shutdown_background();
}

type Held<S> = Pin<Box<Connection<Socket, S>>>;

/// The connection with what belongs to it. `connection` is `None` once it has ended: dropping it is
/// what ends the statements that wait for it.
struct Driver<'a, T: MakeTlsConnect<Socket>> {
    connection: Option<Held<T::Stream>>,
    client: Client,
    tls: T,
    state: &'a State,
}

/// Why a statement is given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum GiveUp {
    Deadline,
    Cancelled,
}

impl<'a, T> Driver<'a, T>
where
    T: MakeTlsConnect<Socket> + Clone,
    T::Stream: Send,
{
    async fn run(
        tls: T,
        target: Target,
        cancel: &Cancel,
        mut queue: mpsc::UnboundedReceiver<Command>,
        state: &'a State,
        ready: &Ready,
    ) {
        let mut driver = match Self::connect(tls, &target, cancel, state).await {
            Ok(driver) => driver,
            Err(error) => {
                state.set_lost(error.to_string());
                ready.send(Err(error)).ok();
                return;
            }
        };
        if ready.send(Ok(())).is_err() {
            return;
        }
        loop {
            let command = tokio::select! {
                reason = ended(&mut driver.connection) => {
                    state.set_lost(reason);
                    return;
                }
                command = queue.recv() => command,
            };
            let Some(command) = command else { break };
            if !command.turn.start() {
                continue;
            }
            let result = driver.execute(&command).await;
            // Known to all before the caller goes on.
            let over = driver.state.lost.get().is_some();
            command.reply.send(result).ok();
            if over {
                return;
            }
        }
        driver.say_goodbye().await;
    }

    async fn connect(
        tls: T,
        target: &Target,
        cancel: &Cancel,
        state: &'a State,
    ) -> Result<Self, Error> {
        let kept = tls.clone();
        let failed = |source: tokio_postgres::Error| Error::Connect {
            target: target.description.clone(),
            reason: match source.as_db_error() {
                Some(db) => ServerMessage::from(db).to_string(),
                None => innermost(&source),
            },
            sqlstate: source.code().map(|code| code.code().to_owned()),
            source: Some(Box::new(source)),
        };
        let deadline = Instant::now() + target.timeout;
        let mut connecting = Box::pin(target.config.connect(tls));
        loop {
            tokio::select! {
                biased;
                result = &mut connecting => {
                    let (client, connection) = result.map_err(failed)?;
                    return Ok(Self {
                        connection: Some(Box::pin(connection)),
                        client,
                        tls: kept,
                        state,
                    });
                }
                () = tokio::time::sleep(TICK) => {}
            }
            cancel.check()?;
            if Instant::now() >= deadline {
                return Err(Error::Connect {
                    target: target.description.clone(),
                    reason: format!("no session within {} s", target.timeout.as_secs_f64()),
                    sqlstate: None,
                    source: None,
                });
            }
        }
    }

    /// Runs one statement to its end, drives the connection meanwhile, gives up when asked.
    async fn execute(&mut self, command: &Command) -> Result<Vec<Row>, Error> {
        let params: Vec<_> = command.params.iter().map(Param::typed).collect();
        let name = command.sql.name;
        let Self { connection, client, tls, state } = self;
        let mut query = Box::pin(client.query_typed(command.sql.text, &params));
        let mut given_up: Option<(GiveUp, Instant)> = None;
        let mut ending: Option<String> = None;
        let mut cancelling: Option<Pin<Box<dyn Future<Output = ()> + '_>>> = None;
        let result = loop {
            tokio::select! {
                biased;
                result = &mut query => break result,
                reason = ended(connection) => {
                    ending = Some(reason);
                    *connection = None;
                    // What had arrived before the end is still delivered.
                    break query.await;
                }
                () = done(&mut cancelling) => cancelling = None,
                () = tokio::time::sleep(TICK) => {}
            }
            if let Some((_, since)) = given_up {
                if since.elapsed() >= CANCEL_GRACE {
                    ending = Some(format!("{name} did not end when it was cancelled"));
                    *connection = None;
                    break query.await;
                }
                continue;
            }
            let why = if command.cancel.is_cancelled() || state.closing.load(Ordering::Relaxed) {
                GiveUp::Cancelled
            } else if Instant::now() >= command.deadline {
                GiveUp::Deadline
            } else {
                continue;
            };
            given_up = Some((why, Instant::now()));
            let token = client.cancel_token();
            let tls = tls.clone();
            cancelling = Some(Box::pin(async move {
                // If this fails, the grace period runs out and the session is closed.
                token.cancel_query(tls).await.ok();
            }));
        };
        let result = match (result, given_up) {
            // It ended by itself just in time: that is the truth about the server's state.
            (Ok(rows), _) => Ok(rows),
            (Err(_), Some((GiveUp::Cancelled, _))) => Err(Error::Cancelled),
            (Err(_), Some((GiveUp::Deadline, _))) => {
                Err(Error::Timeout { query: name, after: command.timeout })
            }
            (Err(error), None) => Err(explain(name, error, ending.as_deref())),
        };
        match (&result, ending) {
            (Err(Error::Lost { reason, .. }), _) => state.set_lost(reason.clone()),
            (_, Some(reason)) => state.set_lost(reason),
            _ => {}
        }
        result
    }

    /// Ends the session with a Terminate message, so that the server logs no lost client.
    async fn say_goodbye(self) {
        let Self { connection, client, .. } = self;
        drop(client);
        if let Some(connection) = connection {
            tokio::time::timeout(GOODBYE, connection).await.ok();
        }
    }
}

/// A failed statement. When the session is over, the server's own last words ("terminating connection
/// due to administrator command") reach the statement, while the connection only sees its end; and
/// without such words the connection knows more than the statement.
fn explain(name: &'static str, error: tokio_postgres::Error, ending: Option<&str>) -> Error {
    let last_words = error.as_db_error().is_some();
    match (Error::from_query(name, error), ending) {
        (Error::Lost { during, .. }, Some(ending)) if !last_words => {
            Error::Lost { during, reason: ending.to_owned() }
        }
        (error, _) => error,
    }
}

/// Drives the connection until its end, and says why it ended.
async fn ended<S>(connection: &mut Option<Held<S>>) -> String
where
    Connection<Socket, S>: Future<Output = Result<(), tokio_postgres::Error>>,
{
    let Some(connection) = connection else {
        return std::future::pending().await;
    };
    match connection.as_mut().await {
        Ok(()) => "the connection was closed".to_owned(),
        Err(error) => match error.as_db_error() {
            Some(db) => ServerMessage::from(db).to_string(),
            None => innermost(&error),
        },
    }
}

/// Waits for the future if there is one.
async fn done(future: &mut Option<Pin<Box<dyn Future<Output = ()> + '_>>>) {
    match future {
        Some(future) => future.await,
        None => std::future::pending().await,
    }
}
