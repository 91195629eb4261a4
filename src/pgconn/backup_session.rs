//! The SQL side of a base backup: one session from `pg_backup_start` to `pg_backup_stop`.
//!
//! The server ties a backup to the session that started it (`do_pg_abort_backup` runs when that
//! ends), so this session is held, never replaced, and looked after with
//! [`BackupSession::check_alive`]: a restart, a promotion or a lost connection makes what was copied
//! so far worthless, and the sooner that is known the better.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::driver::Param;
use super::error::{BackupHolder, Error, ServerMessage};
use super::row::{Columns, RawText};
use super::server_facts::WalPosition;
use super::session::{Pulse, Session};
use super::sql::{self, BACKUP_APPLICATION, BACKUP_LOCK, Sql};
use crate::base::{Cancel, Ctx, Timestamp};

/// How long an abort may take before the connection is just closed, which aborts as well.
const ABORT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the lock's early release may take; the end of the session releases it anyway.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(2);
/// `pg_backup_start` refuses longer labels (`MAXPGPATH`).
const LABEL_BYTES_MAX: usize = 1024;

/// What a backup is started with.
#[derive(Debug, Clone)]
pub struct StartOptions {
    /// Goes into `backup_label` and, after `pgkeep backup`, into `application_name`.
    pub label: String,
    /// Checkpoint at once rather than spread over `checkpoint_completion_target`.
    pub fast: bool,
    /// For the checkpoint: with `fast` off it takes minutes by design.
    pub start_timeout: Duration,
    /// For `pg_backup_stop`, which does not wait for the archive.
    pub stop_timeout: Duration,
    /// How often [`BackupSession::check_alive`] asks the server.
    pub pulse_every: Duration,
}

impl StartOptions {
    /// A fast start, an hour for it, five minutes for the stop, a pulse every five seconds.
    #[must_use]
    pub fn new(label: impl Into<String>) -> Self {
        Self {
            label: label.into(),
            fast: true,
            start_timeout: Duration::from_secs(60 * 60),
            stop_timeout: Duration::from_secs(5 * 60),
            pulse_every: Duration::from_secs(5),
        }
    }
}

/// A backup that the server has begun. Dropping it ends the session, and the server ends the backup.
#[derive(Debug)]
pub struct BackupSession {
    session: Session,
    options: StartOptions,
    begun: Begun,
    /// Monotonic time of the last pulse.
    last_pulse: Mutex<Duration>,
}

/// What is known of a backup since its start.
#[derive(Debug)]
struct Begun {
    start_lsn: u64,
    start_timeline: u32,
    called_at: Timestamp,
    started_at: Timestamp,
    in_recovery: bool,
}

impl Begun {
    fn new(ctx: &Ctx, session: &Session, options: &StartOptions) -> Result<Self, Error> {
        check_may_stop(ctx, session)?;
        // First be seen, then look: of two that begin at once, at least one sees the other.
        let name = format!("{BACKUP_APPLICATION} {}", options.label);
        session.query(ctx, sql::SET_APPLICATION, vec![Param::Text(name)])?;
        refuse_second(ctx, session)?;

        let before = session.pulse(ctx)?;
        session.check_same_session(&before)?;
        let statement = sql::backup_start(session.server_version());
        let params = vec![Param::Text(options.label.clone()), Param::Bool(options.fast)];
        let rows = session.query_within(&ctx.cancel, statement, params, options.start_timeout)?;
        let start_lsn = Columns::only(statement, &rows)?.lsn(0)?;
        let start_timeline = checkpoint_timeline(ctx, session)?;
        let after = session.pulse(ctx)?;
        let begun = Self {
            start_lsn,
            start_timeline,
            called_at: before.server_clock,
            started_at: after.server_clock,
            in_recovery: before.in_recovery,
        };
        begun.check(session, &after)?;
        Ok(begun)
    }

    /// Whether the session still is what it was, on a server that still is what it was.
    fn check(&self, session: &Session, pulse: &Pulse) -> Result<(), Error> {
        session.check_same_session(pulse)?;
        match pulse.in_recovery == self.in_recovery {
            true => Ok(()),
            false => Err(Error::Promoted),
        }
    }
}

/// A backup that the server has ended in good order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoppedBackup {
    /// Where the backup begins: the redo point of its checkpoint.
    pub start_lsn: u64,
    /// Where it is consistent: WAL up to here has to be replayed.
    pub stop_lsn: u64,
    /// The timeline of the start.
    pub start_timeline: u32,
    /// The timeline that was current right after the stop, so that its history leads to `stop_lsn`.
    /// Differs from the start's when a standby followed a timeline switch without being promoted.
    pub stop_timeline: u32,
    /// The content of `backup_label`, to be stored byte for byte; not necessarily UTF-8.
    pub backup_label: Vec<u8>,
    /// The content of `tablespace_map`; empty when there are no tablespaces.
    pub tablespace_map: Vec<u8>,
    /// Whether the backup was taken from a standby.
    pub in_recovery: bool,
    /// The server's clock before the start was asked for: whatever carries an older change time was
    /// written before the backup.
    pub called_at: Timestamp,
    /// The server's clock when the start had returned.
    pub started_at: Timestamp,
    /// The server's clock after the stop: a lower bound of the times that this backup can reach.
    pub stopped_at: Timestamp,
}

impl BackupSession {
    /// Begins a backup on `session`, unless another pgkeep backs this cluster up.
    ///
    /// The caller has proved before that the server runs on the directory that is to be read
    /// ([`Session::prove_directory`]) and that no pooler is in between
    /// ([`Session::prove_not_pooled`]). Backups of one cluster from different servers (primary and
    /// standby) do not see each other here: that is the repository's lease.
    ///
    /// # Errors
    /// [`Error::BackupRunning`], [`Error::Options`] for a label that no label can be, and those of
    /// statements. The session ends with the error.
    pub fn start(ctx: &Ctx, session: Session, options: StartOptions) -> Result<Self, Error> {
        check_label(&options.label)?;
        match Begun::new(ctx, &session, &options) {
            Ok(begun) => {
                Ok(Self { session, options, begun, last_pulse: Mutex::new(ctx.clock.monotonic()) })
            }
            Err(error) => {
                // Whether the server has begun or not: the end of the session ends it.
                release(&session);
                Err(error)
            }
        }
    }

    /// The session, for facts and for proving the directory again before the stop.
    #[must_use]
    pub fn session(&self) -> &Session {
        &self.session
    }

    /// Where replay of this backup begins.
    #[must_use]
    pub fn start_lsn(&self) -> u64 {
        self.begun.start_lsn
    }

    /// The timeline of the start.
    #[must_use]
    pub fn start_timeline(&self) -> u32 {
        self.begun.start_timeline
    }

    /// The server's clock before the start was asked for.
    #[must_use]
    pub fn called_at(&self) -> Timestamp {
        self.begun.called_at
    }

    /// The server's clock when the start had returned.
    #[must_use]
    pub fn started_at(&self) -> Timestamp {
        self.begun.started_at
    }

    /// Whether the backup is taken from a standby.
    #[must_use]
    pub fn in_recovery(&self) -> bool {
        self.begun.in_recovery
    }

    /// Whether the backup can still succeed. Cheap enough for every file that is copied: looks at a
    /// flag, and asks the server every [`StartOptions::pulse_every`] only. Any thread may call it.
    ///
    /// # Errors
    /// [`Error::Lost`], [`Error::Promoted`], [`Error::Restarted`], [`Error::Pooled`]: the backup has
    /// failed. [`Error::Timeout`]: the server has not answered for the session's statement timeout.
    pub fn check_alive(&self, ctx: &Ctx) -> Result<(), Error> {
        if let Some(reason) = self.session.lost() {
            return Err(Error::Lost { during: "backup".to_owned(), reason: reason.to_owned() });
        }
        let now = ctx.clock.monotonic();
        {
            let mut last = self.last_pulse.lock().unwrap_or_else(PoisonError::into_inner);
            if now.saturating_sub(*last) < self.options.pulse_every {
                return Ok(());
            }
            // Claimed before the question is asked, so that not every worker asks.
            *last = now;
        }
        self.begun.check(&self.session, &self.session.pulse(ctx)?)
    }

    /// Nothing that the server has written to its data files is newer than this.
    ///
    /// # Errors
    /// Those of statements.
    pub fn newest_lsn(&self, ctx: &Ctx) -> Result<u64, Error> {
        let rows = self.session.query(ctx, sql::NEWEST_LSN, vec![])?;
        Columns::only(sql::NEWEST_LSN, &rows)?.lsn(0)
    }

    /// Ends the backup. Does not wait for the archive. Nobody else begins one before this is dropped or released:
    /// until its manifest is there, it looks like one that died.
    ///
    /// # Errors
    /// Those of [`BackupSession::check_alive`] and of statements; the backup has failed then, also
    /// when it is the connection that failed after the server had done its part.
    pub fn stop(&self, ctx: &Ctx) -> Result<StoppedBackup, Error> {
        self.begun.check(&self.session, &self.session.pulse(ctx)?)?;
        let statement = sql::backup_stop(self.session.server_version());
        let timeout = self.options.stop_timeout;
        let rows = self.session.query_within(&ctx.cancel, statement, vec![], timeout)?;
        let row = Columns::only(statement, &rows)?;
        let stop_lsn = row.lsn(0)?;
        let RawText(backup_label) = row.value(1)?;
        let RawText(tablespace_map) = row.optional(2)?.unwrap_or(RawText(Vec::new()));
        let position = self.session.wal_position(ctx)?;
        let after = self.session.pulse(ctx)?;
        // A promotion after the stop does no harm; the server itself refuses one before it.
        self.session.check_same_session(&after)?;
        // For who looks at the server's sessions; the backup is as good without it.
        let name = format!("{BACKUP_APPLICATION} {} waits for WAL", self.options.label);
        self.session.query(ctx, sql::SET_APPLICATION, vec![Param::Text(name)]).ok();
        Ok(StoppedBackup {
            start_lsn: self.begun.start_lsn,
            stop_lsn,
            start_timeline: self.begun.start_timeline,
            stop_timeline: stop_timeline(statement, position)?,
            backup_label,
            tablespace_map,
            in_recovery: self.begun.in_recovery,
            called_at: self.begun.called_at,
            started_at: self.begun.started_at,
            stopped_at: after.server_clock,
        })
    }

    /// Lets the next backup begin.
    pub fn release(self) {
        release(&self.session);
    }

    /// Gives the backup up, also after Ctrl-C: asks the server to end it, for a short while, then
    /// closes the session, upon which the server ends it too.
    ///
    /// # Errors
    /// Why the orderly end failed: for the log, there is nothing to do about it.
    pub fn abort(self) -> Result<(), Error> {
        let statement = sql::backup_stop(self.session.server_version());
        // Not the context's token: that is set when Ctrl-C is the reason for the abort.
        let cancel = Cancel::new();
        let ended = self.session.query_within(&cancel, statement, vec![], ABORT_TIMEOUT).map(drop);
        release(&self.session);
        ended
    }
}

/// Lets the next backup begin without waiting for the server to clear this session away.
fn release(session: &Session) {
    if session.lost().is_none() {
        let key = vec![Param::Int(BACKUP_LOCK.0), Param::Int(BACKUP_LOCK.1)];
        // A courtesy: if it fails, the end of the session does the same a moment later.
        session.query_within(&Cancel::new(), sql::RELEASE, key, RELEASE_TIMEOUT).ok();
    }
}

/// One line, not empty, short enough for the server; a line break would forge lines of
/// `backup_label`.
fn check_label(label: &str) -> Result<(), Error> {
    let what = if label.is_empty() {
        "is empty"
    } else if label.len() > LABEL_BYTES_MAX {
        "is longer than 1024 bytes"
    } else if label.chars().any(char::is_control) {
        "has control characters"
    } else {
        return Ok(());
    };
    Err(Error::Options { what: format!("the backup's label {what}") })
}

fn check_may_stop(ctx: &Ctx, session: &Session) -> Result<(), Error> {
    let statement = sql::may_stop(session.server_version());
    let rows = session.query(ctx, statement, vec![])?;
    if Columns::only(statement, &rows)?.value(0)? {
        return Ok(());
    }
    let message = ServerMessage {
        sqlstate: "42501".to_owned(),
        message: "the role may not end what it would begin".to_owned(),
        detail: None,
        hint: None,
        ends_session: false,
    };
    Err(Error::Denied { query: statement.name, message: Box::new(message) })
}

fn refuse_second(ctx: &Ctx, session: &Session) -> Result<(), Error> {
    let key = [Param::Int(BACKUP_LOCK.0), Param::Int(BACKUP_LOCK.1)];
    let rows = session.query(ctx, sql::TAKE_BACKUP_LOCK, key.to_vec())?;
    let taken: bool = Columns::only(sql::TAKE_BACKUP_LOCK, &rows)?.value(0)?;
    let found = if taken {
        let prefix = Param::Text(BACKUP_APPLICATION.to_owned());
        find_holder(ctx, session, sql::OTHER_BACKUPS, vec![prefix])?
    } else {
        // Between the two statements the holder may have gone: then nobody can be named, and it is
        // refused all the same.
        let holder = find_holder(ctx, session, sql::BACKUP_LOCK_HOLDER, key.to_vec())?;
        Some(holder.unwrap_or_else(|| BackupHolder {
            pid: 0,
            application_name: BACKUP_APPLICATION.to_owned(),
            database: None,
            user: None,
            since: None,
            client_address: None,
        }))
    };
    match found {
        Some(who) => Err(Error::BackupRunning { who: Box::new(who) }),
        None => Ok(()),
    }
}

fn find_holder(
    ctx: &Ctx,
    session: &Session,
    statement: Sql,
    params: Vec<Param>,
) -> Result<Option<BackupHolder>, Error> {
    let rows = session.query(ctx, statement, params)?;
    let Some(row) = Columns::each(statement, &rows).next() else {
        return Ok(None);
    };
    Ok(Some(BackupHolder {
        pid: row.value(0)?,
        application_name: row.optional(1)?.unwrap_or_default(),
        database: row.optional(2)?,
        user: row.optional(3)?,
        since: row.optional_time(4)?,
        client_address: row.optional(5)?,
    }))
}

/// `do_pg_backup_start` takes the start's timeline from the control file's checkpoint, which on a
/// primary it has just written. `backup_label` repeats it, and its reader compares.
fn checkpoint_timeline(ctx: &Ctx, session: &Session) -> Result<u32, Error> {
    let rows = session.query(ctx, sql::CONTROL, vec![])?;
    let timeline: i32 = Columns::only(sql::CONTROL, &rows)?.value(0)?;
    Ok(timeline.cast_unsigned())
}

/// On a primary the timeline that is written; on a standby that of the minimum recovery point, which
/// is what `do_pg_backup_stop` takes for the stop.
fn stop_timeline(statement: Sql, position: WalPosition) -> Result<u32, Error> {
    position.timeline.ok_or_else(|| Error::Unexpected {
        query: statement.name,
        expected: "a timeline",
        found: format!("{position:?}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_is_one_line() {
        for good in ["20261120-020000F", "nächtlich \"x\""] {
            check_label(good).unwrap();
        }
        let long = "x".repeat(LABEL_BYTES_MAX + 1);
        for bad in ["", "a\nSTART TIMELINE: 2", "a\0", long.as_str()] {
            assert!(matches!(check_label(bad), Err(Error::Options { .. })));
        }
    }
}
