//! Whether a standby is about to become a primary.
//!
//! A promotion is asked for by a file (`pg_ctl promote`, `pg_promote()`); the startup process removes
//! it as soon as it sees it, and goes on reading what archive and `pg_wal` still have. From then on
//! only shared memory knows. `pg_wal_replay_resume()` tells: it fails with "standby promotion is
//! ongoing" (src/backend/access/transam/xlogfuncs.c), and without a pause to end it does nothing. A
//! promotion ends every pause (`SetPromoteIsTriggered`, xlogrecovery.c; xlog.c up to 14), so where
//! replay is paused, none is going on, and the function is not called.

use std::path::PathBuf;

use super::error::Error;
use super::row::Columns;
use super::session::Session;
use super::sql;
use crate::base::Ctx;

/// What a server says about its own promotion.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Promotion {
    /// It is a standby, and nobody asked it to be more.
    NotPending,
    /// It is ending its recovery.
    Pending,
    /// It is no standby, or no longer.
    NotAStandby,
}

/// `ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE`.
const NOT_IN_THAT_STATE: &str = "55000";

impl Session {
    /// The file that asks for a promotion beside `promote`, where one is set (up to 15); relative to the
    /// data directory.
    ///
    /// # Errors
    /// Those of statements.
    pub fn promote_trigger_file(&self, ctx: &Ctx) -> Result<Option<PathBuf>, Error> {
        let rows = self.query(ctx, sql::PROMOTE_TRIGGER_FILE, vec![])?;
        let path = Columns::only(sql::PROMOTE_TRIGGER_FILE, &rows)?.optional::<String>(0)?;
        Ok(path.map(PathBuf::from))
    }

    /// Asks whether a promotion is going on. A pause that somebody asks for in the very moment of the
    /// question may be undone.
    ///
    /// # Errors
    /// [`Error::Denied`] for a role without the right to call `pg_wal_replay_resume()`, and those of
    /// statements.
    pub fn promotion(&self, ctx: &Ctx) -> Result<Promotion, Error> {
        let refused = |error: &Error| error.sqlstate() == Some(NOT_IN_THAT_STATE);
        if !self.pulse(ctx)?.in_recovery {
            return Ok(Promotion::NotAStandby);
        }
        let paused = match self.query(ctx, sql::REPLAY_PAUSED, vec![]) {
            // Recovery ended between the two questions.
            Err(error) if refused(&error) => return Ok(Promotion::NotAStandby),
            rows => Columns::only(sql::REPLAY_PAUSED, &rows?)?.value::<bool>(0)?,
        };
        if paused {
            return Ok(Promotion::NotPending);
        }
        match self.query(ctx, sql::RESUME_REPLAY, vec![]) {
            Ok(_) => Ok(Promotion::NotPending),
            Err(error) if refused(&error) => Ok(match self.pulse(ctx)?.in_recovery {
                true => Promotion::Pending,
                false => Promotion::NotAStandby,
            }),
            Err(error) => Err(error),
        }
    }
}
