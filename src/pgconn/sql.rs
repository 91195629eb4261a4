//! Every SQL text that this program sends, each with the reason why it is as it is.
//!
//! Rules: constants only, values as parameters; everything qualified, although the session's
//! `search_path` is `pg_catalog` alone; times as microseconds since 1970 in UTC (`extract(epoch)` is
//! numeric and exact from 14 on) and positions as text, so that neither depends on a setting.

/// A statement and the name under which errors speak of it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sql {
    /// For people: the function or view that matters in it.
    pub name: &'static str,
    /// What the server gets.
    pub text: &'static str,
}

/// The prefix of `application_name` by which backups of one cluster see each other.
pub(super) const BACKUP_APPLICATION: &str = "pgkeep backup";

/// The advisory lock of a running backup, two-key form: "pgke" in ASCII, and 1 for "backup".
/// Advisory locks are per database (`SET_LOCKTAG_ADVISORY` puts `MyDatabaseId` into the tag), so the
/// lock settles races within one database and [`OTHER_BACKUPS`] looks across all of them.
pub(super) const BACKUP_LOCK: (i32, i32) = (0x7067_6b65, 1);

/// First of all: nothing that a role or a database put into `search_path` may stand in for a function
/// or operator of ours (the class of CVE-2018-1058).
pub(super) const SEARCH_PATH: Sql = Sql {
    name: "set search_path",
    text: "SELECT pg_catalog.set_config('search_path', 'pg_catalog', false)",
};

/// Settings of the role or database that would cut a session that waits for hours, or make a
/// statement wait (a deferrable serializable transaction waits for a snapshot). Which of them exist
/// depends on the major (`transaction_timeout`: 17): joining `pg_settings` sets those that do.
/// The keepalives make the server notice that we died without a word, and end the backup.
pub(super) const SETTLE: Sql = Sql {
    name: "set session settings",
    text: "SELECT pg_catalog.count(pg_catalog.set_config(s.name, v.value, false)) \
           FROM pg_catalog.pg_settings s \
           JOIN (VALUES ('statement_timeout', '0'), ('lock_timeout', '0'), \
                        ('idle_session_timeout', '0'), ('transaction_timeout', '0'), \
                        ('idle_in_transaction_session_timeout', '0'), \
                        ('default_transaction_isolation', 'read committed'), \
                        ('default_transaction_deferrable', 'off'), \
                        ('tcp_keepalives_idle', '60'), ('tcp_keepalives_interval', '10'), \
                        ('tcp_keepalives_count', '6')) v(name, value) ON s.name = v.name",
};

/// A mark of our own in the server session: a session that lacks it is another one.
pub(super) const SET_MARK: Sql = Sql {
    name: "mark the session",
    text: "SELECT pg_catalog.set_config('pgkeep.session', $1, false)",
};

/// Which server process answers, which mark it carries, which server it belongs to, and whether it is
/// a standby: what must not change while a session is held. `pg_postmaster_start_time` stays the same
/// when the server restarts itself after a crash, but then every session ends.
pub(super) const PULSE: Sql = Sql {
    name: "look after the session",
    text: "SELECT pg_catalog.pg_backend_pid(), \
                  pg_catalog.current_setting('pgkeep.session', true), \
                  (EXTRACT(epoch FROM pg_catalog.pg_postmaster_start_time()) * 1000000)::int8, \
                  pg_catalog.pg_is_in_recovery(), \
                  (EXTRACT(epoch FROM pg_catalog.clock_timestamp()) * 1000000)::int8, \
                  pg_catalog.current_setting('server_version_num')::int4",
};

/// The system identifier is 64 bits unsigned in the control file and comes as a signed `int8`.
pub(super) const SYSTEM_IDENTIFIER: Sql = Sql {
    name: "pg_control_system()",
    text: "SELECT system_identifier FROM pg_catalog.pg_control_system()",
};

/// Whether this server has a session with that process id: a second connection that reached the
/// server of the first sees it. Process ids are visible to every role.
pub(super) const SEES_SESSION: Sql = Sql {
    name: "pg_stat_activity",
    text: "SELECT pg_catalog.count(*) FROM pg_catalog.pg_stat_activity a WHERE a.pid = $1",
};

/// Checkpoint and geometry from the control file as the server holds it in memory.
pub(super) const CONTROL: Sql = Sql {
    name: "pg_control_checkpoint()",
    text: "SELECT c.timeline_id, c.checkpoint_lsn::text, c.redo_lsn::text, \
                  (EXTRACT(epoch FROM c.checkpoint_time) * 1000000)::int8, \
                  i.blocks_per_segment, i.data_page_checksum_version \
           FROM pg_catalog.pg_control_checkpoint() c, pg_catalog.pg_control_init() i",
};

/// Settings by name. The view leaves out what the role may not see, where `current_setting` would
/// fail; `setting` is in the base unit (bytes for wal_segment_size and block_size, seconds for
/// archive_timeout).
pub(super) const SETTINGS: Sql = Sql {
    name: "pg_settings",
    text: "SELECT s.name, s.setting, s.pending_restart FROM pg_catalog.pg_settings s \
           WHERE s.name = ANY ($1)",
};

/// Positions. Functions of a primary fail on a standby and the other way round, hence CASE. The name
/// of the segment is asked for its first eight digits only, the timeline that is written now: what
/// the name says about a position on a boundary differs by major.
pub(super) const WAL_POSITION: Sql = Sql {
    name: "current WAL position",
    text: "SELECT r.standby, \
                  CASE WHEN r.standby THEN pg_catalog.pg_last_wal_replay_lsn() \
                       ELSE pg_catalog.pg_current_wal_insert_lsn() END::text, \
                  CASE WHEN r.standby THEN pg_catalog.pg_last_wal_receive_lsn() \
                       ELSE pg_catalog.pg_current_wal_flush_lsn() END::text, \
                  CASE WHEN r.standby THEN NULL ELSE pg_catalog.left( \
                       pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_insert_lsn()), 8) END, \
                  CASE WHEN r.standby THEN (SELECT min_recovery_end_timeline \
                       FROM pg_catalog.pg_control_recovery()) END \
           FROM (SELECT pg_catalog.pg_is_in_recovery()) r(standby)",
};

/// Whether somebody has asked replay to pause, or it has (`pg_get_wal_replay_pause_state`: 14).
pub(super) const REPLAY_PAUSED: Sql = Sql {
    name: "pg_get_wal_replay_pause_state()",
    text: "SELECT pg_catalog.pg_get_wal_replay_pause_state() <> 'not paused'",
};

/// The setting went away with 16.
pub(super) const PROMOTE_TRIGGER_FILE: Sql = Sql {
    name: "promote_trigger_file",
    text: "SELECT NULLIF(pg_catalog.current_setting('promote_trigger_file', true), '')",
};

/// Without a pause it changes nothing, and fails while a promotion is going on.
pub(super) const RESUME_REPLAY: Sql = Sql {
    name: "pg_wal_replay_resume()",
    text: "SELECT pg_catalog.pg_wal_replay_resume() IS NULL",
};

/// The newest LSN that a data page can have. A page that replay has written may be of the record that
/// is being replayed, which the replayed position does not count yet; but before such a page is
/// written, the minimum recovery point is (`UpdateMinRecoveryPoint`).
pub(super) const NEWEST_LSN: Sql = Sql {
    name: "newest WAL position",
    text: "SELECT CASE WHEN pg_catalog.pg_is_in_recovery() \
                  THEN GREATEST(pg_catalog.pg_last_wal_replay_lsn(), \
                                pg_catalog.pg_last_wal_receive_lsn(), \
                                (SELECT min_recovery_end_lsn \
                                 FROM pg_catalog.pg_control_recovery())) \
                  ELSE pg_catalog.pg_current_wal_insert_lsn() END::text",
};

/// How many transactions with a number run: one of them may have taken the time of its commit and not
/// written it yet. A session's own never has a number here.
pub(super) const RUNNING: Sql = Sql {
    name: "pg_current_snapshot()",
    text: "SELECT pg_catalog.count(*) \
           FROM pg_catalog.pg_snapshot_xip(pg_catalog.pg_current_snapshot())",
};

/// The archiver's own account; one row always.
pub(super) const ARCHIVER: Sql = Sql {
    name: "pg_stat_archiver",
    text: "SELECT archived_count, last_archived_wal, \
                  (EXTRACT(epoch FROM last_archived_time) * 1000000)::int8, \
                  failed_count, last_failed_wal, \
                  (EXTRACT(epoch FROM last_failed_time) * 1000000)::int8, \
                  (EXTRACT(epoch FROM stats_reset) * 1000000)::int8 \
           FROM pg_catalog.pg_stat_archiver",
};

/// Every tablespace but the two that live in the data directory. 1663 and 1664 are pg_default and
/// pg_global by `pg_tablespace.dat`; their names can be changed, their numbers cannot.
pub(super) const TABLESPACES: Sql = Sql {
    name: "pg_tablespace",
    text: "SELECT t.oid, t.spcname::text, pg_catalog.pg_tablespace_location(t.oid) \
           FROM pg_catalog.pg_tablespace t WHERE t.oid NOT IN (1663, 1664) ORDER BY t.oid",
};

/// Slots are not in a backup; those of logical subscribers have to be made again by hand.
pub(super) const LOGICAL_SLOTS: Sql = Sql {
    name: "pg_replication_slots",
    text: "SELECT slot_name::text FROM pg_catalog.pg_replication_slots \
           WHERE slot_type = 'logical' ORDER BY 1",
};

/// The lock file of the running server, read by the server itself.
pub(super) const POSTMASTER_PID: Sql = Sql {
    name: "pg_read_file('postmaster.pid')",
    text: "SELECT pg_catalog.pg_read_file('postmaster.pid')",
};

/// What waits for the archiver. `pg_monitor` may call it.
pub(super) const READY_SEGMENTS: Sql = Sql {
    name: "pg_ls_archive_statusdir()",
    text: "SELECT pg_catalog.count(*), pg_catalog.min(name), \
                  (EXTRACT(epoch FROM pg_catalog.min(modification)) * 1000000)::int8 \
           FROM pg_catalog.pg_ls_archive_statusdir() \
           WHERE pg_catalog.right(name, 6) = '.ready'",
};

/// What the archiver knows about one segment: `.done` sorts before `.ready`, and wins.
pub(super) const SEGMENT_STATUS: Sql = Sql {
    name: "pg_ls_archive_statusdir()",
    text: "SELECT pg_catalog.min(name) FROM pg_catalog.pg_ls_archive_statusdir() \
           WHERE name IN ($1 || '.ready', $1 || '.done')",
};

/// From now on other backups see this session as one.
pub(super) const SET_APPLICATION: Sql = Sql {
    name: "set application_name",
    text: "SELECT pg_catalog.set_config('application_name', $1, false)",
};

/// At session level: it lasts as long as the connection.
pub(super) const TAKE_BACKUP_LOCK: Sql =
    Sql { name: "pg_try_advisory_lock()", text: "SELECT pg_catalog.pg_try_advisory_lock($1, $2)" };

/// The backup is over: the next one need not wait until the server has noticed that this session has
/// ended. Unlocking what is not locked is a warning.
pub(super) const RELEASE: Sql = Sql {
    name: "pg_advisory_unlock()",
    text: "SELECT pg_catalog.pg_advisory_unlock($1, $2), \
                  pg_catalog.set_config('application_name', 'pgkeep', false)",
};

/// Who holds the lock in this database. `objsubid` 2 is the two-key form (`lockfuncs.c`).
pub(super) const BACKUP_LOCK_HOLDER: Sql = Sql {
    name: "pg_locks",
    text: "SELECT l.pid, a.application_name, a.datname::text, a.usename::text, \
                  (EXTRACT(epoch FROM a.backend_start) * 1000000)::int8, \
                  pg_catalog.host(a.client_addr) \
           FROM pg_catalog.pg_locks l \
           LEFT JOIN pg_catalog.pg_stat_activity a ON a.pid = l.pid \
           WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 2 \
             AND l.classid::int8 = $1::int8 AND l.objid::int8 = $2::int8 \
             AND l.database = (SELECT oid FROM pg_catalog.pg_database \
                               WHERE datname = pg_catalog.current_database())",
};

/// Backups by sessions of *other* databases: the lock has settled this one. Without the condition two
/// that begin together would each refuse because of the other.
pub(super) const OTHER_BACKUPS: Sql = Sql {
    name: "pg_stat_activity",
    text: "SELECT a.pid, a.application_name, a.datname::text, a.usename::text, \
                  (EXTRACT(epoch FROM a.backend_start) * 1000000)::int8, \
                  pg_catalog.host(a.client_addr) \
           FROM pg_catalog.pg_stat_activity a \
           WHERE pg_catalog.starts_with(a.application_name, $1) \
             AND a.pid <> pg_catalog.pg_backend_pid() \
             AND a.datname IS DISTINCT FROM pg_catalog.current_database() \
           ORDER BY a.backend_start NULLS LAST, a.pid LIMIT 1",
};

/// The non-exclusive backup, by the names of 14 and of 15 on (exclusive backups went away then).
pub(super) fn backup_start(server_version: i32) -> Sql {
    if server_version < 150_000 {
        Sql {
            name: "pg_start_backup()",
            text: "SELECT pg_catalog.pg_start_backup($1, $2, false)::text",
        }
    } else {
        Sql { name: "pg_backup_start()", text: "SELECT pg_catalog.pg_backup_start($1, $2)::text" }
    }
}

/// Whether the role may end what it begins: a backup that is refused its end after hours of copying
/// would be lost.
pub(super) fn may_stop(server_version: i32) -> Sql {
    if server_version < 150_000 {
        Sql {
            name: "pg_stop_backup()",
            text: "SELECT pg_catalog.has_function_privilege( \
                   'pg_catalog.pg_stop_backup(boolean, boolean)', 'EXECUTE')",
        }
    } else {
        Sql {
            name: "pg_backup_stop()",
            text: "SELECT pg_catalog.has_function_privilege( \
                   'pg_catalog.pg_backup_stop(boolean)', 'EXECUTE')",
        }
    }
}

/// Never waits for the archive: the server's own wait has no deadline, looks at its own archive
/// status only, and on a standby does not wait at all unless `archive_mode` is `always`.
pub(super) fn backup_stop(server_version: i32) -> Sql {
    if server_version < 150_000 {
        Sql {
            name: "pg_stop_backup()",
            text: "SELECT s.lsn::text, s.labelfile, s.spcmapfile \
                   FROM pg_catalog.pg_stop_backup(false, false) s",
        }
    } else {
        Sql {
            name: "pg_backup_stop()",
            text: "SELECT s.lsn::text, s.labelfile, s.spcmapfile \
                   FROM pg_catalog.pg_backup_stop(wait_for_archive => false) s",
        }
    }
}

/// Ends the current segment; returns the end of its last record, or the start of the current segment
/// when nothing was written since the last switch.
pub(super) const SWITCH_WAL: Sql =
    Sql { name: "pg_switch_wal()", text: "SELECT pg_catalog.pg_switch_wal()::text" };

/// A name in the WAL that `recovery_target_name` finds again.
pub(super) const CREATE_RESTORE_POINT: Sql = Sql {
    name: "pg_create_restore_point()",
    text: "SELECT pg_catalog.pg_create_restore_point($1)::text",
};
