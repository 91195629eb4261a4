//! What the rest of the program decides by: one reading of a server's version, identity, settings,
//! positions, archiver and tablespaces.
//!
//! What a role may not see is [`Known::Withheld`] with the reason, never a guess and never a failure
//! of the whole: `check` tells the operator, a backup refuses where it cannot do without.

use std::collections::HashMap;

use super::driver::Param;
use super::error::Error;
use super::row::Columns;
use super::session::Session;
use super::sql;
use crate::base::{Ctx, Timestamp};

/// Something that the role may or may not see.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Known<T> {
    /// It may.
    Yes(T),
    /// It may not, and why.
    Withheld {
        /// For the operator: which permission is missing.
        reason: String,
    },
}

impl<T> Known<T> {
    /// The value, if it is known.
    pub fn value(&self) -> Option<&T> {
        match self {
            Self::Yes(value) => Some(value),
            Self::Withheld { .. } => None,
        }
    }

    /// Turns a refusal into a reason and lets every other error pass.
    fn unless_denied(result: Result<T, Error>) -> Result<Self, Error> {
        match result {
            Ok(value) => Ok(Self::Yes(value)),
            Err(error @ Error::Denied { .. }) => Ok(Self::Withheld { reason: error.to_string() }),
            Err(error) => Err(error),
        }
    }
}

/// One reading of a server.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ServerFacts {
    /// `server_version_num`, such as 150020.
    pub server_version: i32,
    /// The identity of the cluster.
    pub system_identifier: u64,
    /// The timeline of the control file's last checkpoint (on a standby: restartpoint).
    pub checkpoint_timeline: u32,
    /// Where that checkpoint's record is.
    pub checkpoint_lsn: u64,
    /// Where replay from it begins.
    pub redo_lsn: u64,
    /// When it was taken.
    pub checkpoint_time: Timestamp,
    /// When the server was started.
    pub postmaster_start: Timestamp,
    /// The server's clock during the reading.
    pub server_clock: Timestamp,
    /// Whether this is a standby (or a recovery that is not over).
    pub in_recovery: bool,
    /// Where WAL is written or replayed now.
    pub wal: WalPosition,
    /// Whether data pages have checksums.
    pub data_checksums: bool,
    /// Bytes per data page.
    pub block_size: u32,
    /// Bytes per WAL page.
    pub wal_block_size: u32,
    /// Bytes per WAL segment.
    pub wal_segment_size: u32,
    /// Pages per file of a relation: 131072 unless PostgreSQL was built otherwise.
    pub blocks_per_segment: u32,
    /// `off`, `on` or `always`.
    pub archive_mode: String,
    /// `(disabled)` when `archive_mode` is off.
    pub archive_command: String,
    /// From 15 on; when it is not empty, `archive_command` is dead.
    pub archive_library: Option<String>,
    /// Seconds; 0 is never.
    pub archive_timeout: u32,
    /// `minimal`, `replica` or `logical`.
    pub wal_level: String,
    /// Full page images after checkpoints; during a backup they are written anyway.
    pub full_page_writes: bool,
    /// What a recovery of this cluster needs at least (and so on for others: read when needed).
    pub max_worker_processes: u32,
    /// Settings that wait for a restart, of those that are read here.
    pub pending_restart: Vec<String>,
    /// Where the cluster is, as the server sees it.
    pub data_directory: Known<String>,
    /// `postgresql.conf`, often outside the data directory.
    pub config_file: Known<String>,
    /// `pg_hba.conf`.
    pub hba_file: Known<String>,
    /// `pg_ident.conf`.
    pub ident_file: Known<String>,
    /// Libraries without which a copy does not start.
    pub shared_preload_libraries: Known<String>,
    /// `postmaster.pid` as the server reads it.
    pub postmaster_pid: Known<Vec<u8>>,
    /// The archiver's account.
    pub archiver: Archiver,
    /// Tablespaces other than `pg_default` and `pg_global`.
    pub tablespaces: Vec<Tablespace>,
    /// Logical replication slots, which no backup contains.
    pub logical_slots: Vec<String>,
}

/// Where WAL is written (primary) or replayed (standby).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WalPosition {
    /// Whether the positions are a standby's.
    pub in_recovery: bool,
    /// Primary: the end of what is inserted. Standby: the end of what is replayed; `None` before.
    pub lsn: Option<u64>,
    /// Primary: the end of what is flushed. Standby: of what was received by streaming; `None` if
    /// nothing was.
    pub durable_lsn: Option<u64>,
    /// Primary: the timeline that is written. Standby: that of its minimum recovery point, `None`
    /// while it has none.
    pub timeline: Option<u32>,
}

/// The last moments of a server, read in the order of the fields.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LastMoment {
    /// The identity of the cluster.
    pub system_identifier: u64,
    /// The server's clock.
    pub clock: Timestamp,
    /// How many transactions with a number were running after that.
    pub running: u64,
    /// Where WAL was written after that.
    pub wal: WalPosition,
}

/// `pg_stat_archiver`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Archiver {
    /// Files that were archived since the counters began.
    pub archived_count: i64,
    /// The last of them.
    pub last_archived: Option<String>,
    /// When.
    pub last_archived_time: Option<Timestamp>,
    /// Attempts that failed.
    pub failed_count: i64,
    /// The file of the last failure.
    pub last_failed: Option<String>,
    /// When.
    pub last_failed_time: Option<Timestamp>,
    /// When the counters began.
    pub since: Option<Timestamp>,
}

/// A tablespace outside the data directory, or one in place (15 and later).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tablespace {
    /// Its number and the name of its link in `pg_tblspc`.
    pub oid: u32,
    /// Its name.
    pub name: String,
    /// Where it is; relative (`pg_tblspc/16384`) when it is in place.
    pub location: String,
}

/// What waits for the archiver.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadySegments {
    /// How many `.ready` files there are.
    pub count: u64,
    /// The first by name, without `.ready`.
    pub first: Option<String>,
    /// The time of the oldest.
    pub oldest: Option<Timestamp>,
}

/// What the server's archive status says about one segment. A hint: the repository is the truth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SegmentStatus {
    /// The archiver has it done.
    Done,
    /// It waits for the archiver.
    Ready,
    /// Neither: not complete yet, or so long done that it is forgotten.
    Unmarked,
}

impl ServerFacts {
    /// Reads a server.
    ///
    /// # Errors
    /// Those of statements; not for what the role may not see.
    pub fn read(ctx: &Ctx, session: &Session) -> Result<Self, Error> {
        let identity = session.identity(ctx)?;
        let settings = Settings::read(ctx, session)?;
        let rows = session.query(ctx, sql::CONTROL, vec![])?;
        let control = Columns::only(sql::CONTROL, &rows)?;
        let blocks: i32 = control.value(4)?;
        let timeline: i32 = control.value(0)?;
        Ok(Self {
            server_version: session.server_version(),
            system_identifier: identity.system_identifier,
            checkpoint_timeline: timeline.cast_unsigned(),
            checkpoint_lsn: control.lsn(1)?,
            redo_lsn: control.lsn(2)?,
            checkpoint_time: control.time(3)?,
            postmaster_start: identity.postmaster_start,
            server_clock: session.server_clock(ctx)?,
            in_recovery: identity.in_recovery,
            wal: session.wal_position(ctx)?,
            data_checksums: control.value::<i32>(5)? != 0,
            block_size: settings.number("block_size")?,
            wal_block_size: settings.number("wal_block_size")?,
            wal_segment_size: settings.number("wal_segment_size")?,
            blocks_per_segment: blocks.cast_unsigned(),
            archive_mode: settings.text("archive_mode")?,
            archive_command: settings.text("archive_command")?,
            archive_library: settings.values.get("archive_library").cloned(),
            archive_timeout: settings.number("archive_timeout")?,
            wal_level: settings.text("wal_level")?,
            full_page_writes: settings.text("full_page_writes")? == "on",
            max_worker_processes: settings.number("max_worker_processes")?,
            data_directory: settings.guarded("data_directory"),
            config_file: settings.guarded("config_file"),
            hba_file: settings.guarded("hba_file"),
            ident_file: settings.guarded("ident_file"),
            shared_preload_libraries: settings.guarded("shared_preload_libraries"),
            pending_restart: settings.pending_restart,
            postmaster_pid: Known::unless_denied(session.postmaster_pid(ctx))?,
            archiver: session.archiver(ctx)?,
            tablespaces: session.tablespaces(ctx)?,
            logical_slots: session.logical_slots(ctx)?,
        })
    }
}

/// Everything that is read from `pg_settings`, in one statement.
const SETTINGS: [&str; 15] = [
    "archive_command",
    "archive_library",
    "archive_mode",
    "archive_timeout",
    "block_size",
    "config_file",
    "data_directory",
    "full_page_writes",
    "hba_file",
    "ident_file",
    "max_worker_processes",
    "shared_preload_libraries",
    "wal_block_size",
    "wal_level",
    "wal_segment_size",
];

struct Settings {
    values: HashMap<String, String>,
    pending_restart: Vec<String>,
}

impl Settings {
    fn read(ctx: &Ctx, session: &Session) -> Result<Self, Error> {
        let names = SETTINGS.map(str::to_owned).to_vec();
        let rows = session.query(ctx, sql::SETTINGS, vec![Param::Texts(names)])?;
        let mut values = HashMap::new();
        let mut pending_restart = Vec::new();
        for row in Columns::each(sql::SETTINGS, &rows) {
            let name: String = row.value(0)?;
            if row.value(2)? {
                pending_restart.push(name.clone());
            }
            values.insert(name, row.optional(1)?.unwrap_or_default());
        }
        pending_restart.sort();
        Ok(Self { values, pending_restart })
    }

    /// A setting that every role sees.
    fn text(&self, name: &'static str) -> Result<String, Error> {
        self.values.get(name).cloned().ok_or_else(|| unexpected(name, "a row", "none"))
    }

    fn number(&self, name: &'static str) -> Result<u32, Error> {
        let text = self.text(name)?;
        text.parse().map_err(|_| unexpected(name, "a number", &text))
    }

    /// A setting that only superusers and members of `pg_read_all_settings` see
    /// (`GUC_SUPERUSER_ONLY` in `guc_tables.c`).
    fn guarded(&self, name: &str) -> Known<String> {
        match self.values.get(name) {
            Some(value) => Known::Yes(value.clone()),
            None => Known::Withheld {
                reason: format!("{name}: the role is not a member of pg_read_all_settings"),
            },
        }
    }
}

fn unexpected(name: &str, expected: &'static str, found: &str) -> Error {
    Error::Unexpected {
        query: sql::SETTINGS.name,
        expected,
        found: format!("{found:?} for {name}"),
    }
}

impl Session {
    /// How far a server has come. The order counts: what was committed by the time of the clock is
    /// behind the position, unless its transaction was running.
    ///
    /// # Errors
    /// Those of statements.
    pub fn last_moment(&self, ctx: &Ctx) -> Result<LastMoment, Error> {
        let system_identifier = self.identity(ctx)?.system_identifier;
        let clock = self.server_clock(ctx)?;
        let rows = self.query(ctx, sql::RUNNING, vec![])?;
        let running: i64 = Columns::only(sql::RUNNING, &rows)?.value(0)?;
        let wal = self.wal_position(ctx)?;
        Ok(LastMoment { system_identifier, clock, running: running.cast_unsigned(), wal })
    }

    /// Where WAL is written or replayed now.
    ///
    /// # Errors
    /// Those of statements.
    pub fn wal_position(&self, ctx: &Ctx) -> Result<WalPosition, Error> {
        let rows = self.query(ctx, sql::WAL_POSITION, vec![])?;
        let row = Columns::only(sql::WAL_POSITION, &rows)?;
        let written = match row.optional::<&str>(3)? {
            Some(hex) => Some(
                u32::from_str_radix(hex, 16)
                    .map_err(|_| row.unexpected("a timeline in hexadecimal", 3, hex))?,
            ),
            None => None,
        };
        let replayed = row.optional::<i32>(4)?.map(i32::cast_unsigned);
        Ok(WalPosition {
            in_recovery: row.value(0)?,
            lsn: row.optional_lsn(1)?,
            durable_lsn: row.optional_lsn(2)?,
            // 0 stands for "no minimum recovery point": timelines begin at 1.
            timeline: written.or(replayed).filter(|timeline| *timeline != 0),
        })
    }

    /// The end of the WAL that a primary has inserted.
    ///
    /// # Errors
    /// [`Error::Unexpected`] on a standby, and those of statements.
    pub fn current_wal_insert_lsn(&self, ctx: &Ctx) -> Result<u64, Error> {
        match self.wal_position(ctx)? {
            WalPosition { in_recovery: false, lsn: Some(lsn), .. } => Ok(lsn),
            other => Err(Error::Unexpected {
                query: sql::WAL_POSITION.name,
                expected: "a primary",
                found: format!("{other:?}"),
            }),
        }
    }

    /// Ends the current WAL segment, so that it can be archived. Does nothing when nothing was
    /// written since the last switch. Returns the position after the last record.
    ///
    /// # Errors
    /// Those of statements; a standby refuses.
    pub fn switch_wal(&self, ctx: &Ctx) -> Result<u64, Error> {
        let rows = self.query(ctx, sql::SWITCH_WAL, vec![])?;
        Columns::only(sql::SWITCH_WAL, &rows)?.lsn(0)
    }

    /// Writes a name into the WAL that a restore can go to, and returns its position.
    ///
    /// # Errors
    /// Those of statements; a standby refuses, and so does every server a name over 63 bytes.
    pub fn create_restore_point(&self, ctx: &Ctx, name: &str) -> Result<u64, Error> {
        let params = vec![Param::Text(name.to_owned())];
        let rows = self.query(ctx, sql::CREATE_RESTORE_POINT, params)?;
        Columns::only(sql::CREATE_RESTORE_POINT, &rows)?.lsn(0)
    }

    /// The archiver's account.
    ///
    /// # Errors
    /// Those of statements.
    pub fn archiver(&self, ctx: &Ctx) -> Result<Archiver, Error> {
        let rows = self.query(ctx, sql::ARCHIVER, vec![])?;
        let row = Columns::only(sql::ARCHIVER, &rows)?;
        Ok(Archiver {
            archived_count: row.value(0)?,
            last_archived: row.optional(1)?,
            last_archived_time: row.optional_time(2)?,
            failed_count: row.value(3)?,
            last_failed: row.optional(4)?,
            last_failed_time: row.optional_time(5)?,
            since: row.optional_time(6)?,
        })
    }

    /// What waits for the archiver, for members of `pg_monitor`.
    ///
    /// # Errors
    /// Those of statements.
    pub fn ready_segments(&self, ctx: &Ctx) -> Result<Known<ReadySegments>, Error> {
        let rows = match Known::unless_denied(self.query(ctx, sql::READY_SEGMENTS, vec![]))? {
            Known::Yes(rows) => rows,
            Known::Withheld { reason } => return Ok(Known::Withheld { reason }),
        };
        let row = Columns::only(sql::READY_SEGMENTS, &rows)?;
        let first: Option<&str> = row.optional(1)?;
        Ok(Known::Yes(ReadySegments {
            count: row.value::<i64>(0)?.cast_unsigned(),
            first: first.map(|name| name.trim_end_matches(".ready").to_owned()),
            oldest: row.optional_time(2)?,
        }))
    }

    /// What the archiver knows about one WAL file, for members of `pg_monitor`.
    ///
    /// # Errors
    /// Those of statements.
    pub fn segment_status(&self, ctx: &Ctx, name: &str) -> Result<Known<SegmentStatus>, Error> {
        let params = vec![Param::Text(name.to_owned())];
        let rows = match Known::unless_denied(self.query(ctx, sql::SEGMENT_STATUS, params))? {
            Known::Yes(rows) => rows,
            Known::Withheld { reason } => return Ok(Known::Withheld { reason }),
        };
        let found: Option<&str> = Columns::only(sql::SEGMENT_STATUS, &rows)?.optional(0)?;
        Ok(Known::Yes(match found {
            Some(file) if file.ends_with(".done") => SegmentStatus::Done,
            Some(_) => SegmentStatus::Ready,
            None => SegmentStatus::Unmarked,
        }))
    }

    /// Tablespaces other than `pg_default` and `pg_global`, by number.
    ///
    /// # Errors
    /// Those of statements; also when a tablespace is dropped at this very moment.
    pub fn tablespaces(&self, ctx: &Ctx) -> Result<Vec<Tablespace>, Error> {
        let rows = self.query(ctx, sql::TABLESPACES, vec![])?;
        Columns::each(sql::TABLESPACES, &rows)
            .map(|row| {
                Ok(Tablespace { oid: row.value(0)?, name: row.value(1)?, location: row.value(2)? })
            })
            .collect()
    }

    fn logical_slots(&self, ctx: &Ctx) -> Result<Vec<String>, Error> {
        let rows = self.query(ctx, sql::LOGICAL_SLOTS, vec![])?;
        Columns::each(sql::LOGICAL_SLOTS, &rows).map(|row| row.value(0)).collect()
    }
}
