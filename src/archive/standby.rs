//! A standby that asks the archive.
//!
//! A standby asks for WAL and histories all its life, also when it follows its primary by streaming,
//! and dies of any answer above 125. "Not there" never ends its recovery: only a promotion does, and
//! then what the archive has and the standby has not would be lost. So in doubt it is told "not there",
//! unless it is being promoted.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::base::{Ctx, Timestamp};
use crate::pgconn::{ConnectOptions, Promotion, Session};

/// How long the server gets to answer the question whether it is being promoted.
const ASK_TIMEOUT: Duration = Duration::from_secs(3);

/// A data directory that changed so lately, and not by the start of its server, may have lost the file
/// that asked for a promotion.
const FRESH: Duration = Duration::from_secs(60);

/// How much later than its lock file a start may still change the directory.
const START: Duration = Duration::from_secs(5);

/// `SQLSTATE 57P03`: the server is starting up, and has not been asked to do anything else yet.
const CANNOT_CONNECT_NOW: &str = "57P03";

/// Whether the server of this data directory was started as a standby.
#[must_use]
pub fn is_standby(data_directory: &Path) -> bool {
    data_directory.join("standby.signal").exists()
}

/// Why a promotion of the standby in `data_directory` may be pending; `None` when none is. The server
/// asked for WAL at `begun`, and has waited since.
///
/// Three witnesses: the files that ask for a promotion; the server itself; where neither can say, the
/// directory, which changes when the startup process removes such a file. It does so before it asks for
/// WAL or after it was answered, never meanwhile: so the server is asked first, which takes a while, and
/// the files are looked for last.
#[must_use]
pub fn promotion(
    ctx: &Ctx,
    data_directory: &Path,
    server: &ConnectOptions,
    begun: Timestamp,
) -> Option<String> {
    const ASKED: &str = "a promotion was asked for";
    let signal = data_directory.join("promote");
    if signal.exists() {
        return Some(ASKED.into());
    }
    let answer = ask(ctx, data_directory, server);
    let trigger = answer.as_ref().ok().and_then(|answer| answer.trigger_file.as_ref());
    if signal.exists() || trigger.is_some_and(|file| file.exists()) {
        return Some(ASKED.into());
    }
    let why = match answer.map(|answer| answer.promotion) {
        Ok(Promotion::NotPending) => return None,
        Ok(Promotion::Pending) => return Some("the standby is being promoted".into()),
        Ok(Promotion::NotAStandby) => "the server that answers is no standby".into(),
        Err(why) => why,
    };
    was_touched(begun, data_directory).then(|| {
        format!("the data directory has just changed, and the server does not tell why ({why})")
    })
}

/// What the server says.
struct Answer {
    promotion: Promotion,
    /// `promote_trigger_file`, up to 15.
    trigger_file: Option<PathBuf>,
}

fn ask(ctx: &Ctx, data_directory: &Path, server: &ConnectOptions) -> Result<Answer, String> {
    let mut options = server.clone();
    (options.connect_timeout, options.statement_timeout) = (ASK_TIMEOUT, ASK_TIMEOUT);
    let session = match Session::connect(ctx, &options) {
        Err(error) if error.sqlstate() == Some(CANNOT_CONNECT_NOW) => {
            return Err("it is starting up".into());
        }
        other => other.map_err(|error| error.to_string())?,
    };
    let lock = std::fs::read_to_string(data_directory.join("postmaster.pid"));
    if !is_started_at(&lock.unwrap_or_default(), session.postmaster_start()) {
        return Err("another server answers".into());
    }
    let trigger_file = session.promote_trigger_file(ctx).map_err(|error| error.to_string())?;
    let promotion = session.promotion(ctx).map_err(|error| error.to_string())?;
    let trigger_file = trigger_file.map(|path| data_directory.join(path));
    Ok(Answer { promotion, trigger_file })
}

/// Whether the third line of `postmaster.pid`, the postmaster's start in seconds, is about `start`
/// (`CreateLockFile`, src/backend/utils/init/miscinit.c; the two are read one after the other).
fn is_started_at(lock: &str, start: Timestamp) -> bool {
    let line = lock.lines().nth(2).and_then(|line| line.trim().parse::<i64>().ok());
    line.is_some_and(|seconds| seconds.abs_diff(start.timestamp()) <= 2)
}

/// Whether the directory changed shortly before `begun`, or since.
fn was_touched(begun: Timestamp, data_directory: &Path) -> bool {
    let modified = |path: &Path| -> Option<Timestamp> {
        Some(std::fs::metadata(path).ok()?.modified().ok()?.into())
    };
    let Some(directory) = modified(data_directory) else { return true };
    let Some(lock) = modified(&data_directory.join("postmaster.pid")) else { return true };
    let age = |from: Timestamp, to: Timestamp| (to - from).to_std().unwrap_or_default();
    age(directory, begun) < FRESH && age(lock, directory) > START
}

#[cfg(test)]
mod tests {
    use std::fs::{File, FileTimes};
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn the_lock_file_names_the_server_s_start() {
        let start = Timestamp::from_timestamp(1_700_000_000, 900_000_000).unwrap();
        assert!(is_started_at("12\n/data\n1700000000\n5432\n", start));
        assert!(is_started_at("12\n/data\n1700000001\n", start));
        for other in ["", "12\n/data", "12\n/data\n\n", "12\n/data\n1700000009\n", "x\ny\nz\n"] {
            assert!(!is_started_at(other, start), "{other:?}");
        }
    }

    #[test]
    fn a_directory_that_changed_long_after_the_start_is_suspicious() {
        let dir = tempfile::tempdir().unwrap();
        let now = Timestamp::from_timestamp(1_700_000_000, 0).unwrap();
        let set = |path: &Path, before: u64| {
            let time = std::time::SystemTime::from(now) - Duration::from_secs(before);
            File::open(path).unwrap().set_times(FileTimes::new().set_modified(time)).unwrap();
        };
        assert!(was_touched(now, dir.path()), "no lock file: nothing is known");
        let lock = dir.path().join("postmaster.pid");
        File::create(&lock).unwrap();
        for (directory, started, expected) in [
            (1, 2, false),
            (1, 100, true),
            (59, 100, true),
            (61, 100, false),
            (1, 0, false),
            (100, 1, false),
        ] {
            set(&lock, started);
            set(dir.path(), directory);
            assert_eq!(was_touched(now, dir.path()), expected, "{directory} {started}");
        }
    }

    #[test]
    fn a_file_that_asks_for_a_promotion_is_enough() {
        let dir = tempfile::tempdir().unwrap();
        let ctx = Ctx::fixed(Timestamp::UNIX_EPOCH, 1);
        let server = ConnectOptions::new("host=/nowhere", "test");
        assert!(!is_standby(dir.path()));
        File::create(dir.path().join("standby.signal")).unwrap();
        assert!(is_standby(dir.path()));
        File::create(dir.path().join("promote")).unwrap();
        assert_eq!(
            promotion(&ctx, dir.path(), &server, Timestamp::UNIX_EPOCH),
            Some("a promotion was asked for".to_owned())
        );
    }

    /// Asking the server can take seconds, in which the file may come: nobody looked for it again.
    #[test]
    fn d20261124_a_promotion_that_is_asked_for_meanwhile_is_seen() {
        let dir = tempfile::tempdir().unwrap();
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = ConnectOptions::new(format!("host=127.0.0.1 port={port} user=x"), "test");
        let ctx = Ctx::fixed(Timestamp::UNIX_EPOCH, 1);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let asking = listener.accept().unwrap();
                File::create(dir.path().join("promote")).unwrap();
                drop(asking);
            });
            let pending = promotion(&ctx, dir.path(), &server, Timestamp::UNIX_EPOCH);
            assert_eq!(pending, Some("a promotion was asked for".to_owned()));
        });
    }

    /// The directory's age counted from the end of `archive_get_wait`: a promotion that the server
    /// cannot tell of was forgotten while archive-get waited.
    #[test]
    fn d20261124_waiting_does_not_make_a_change_old() {
        let dir = tempfile::tempdir().unwrap();
        let begun = Timestamp::from_timestamp(1_700_000_000, 0).unwrap();
        let set = |path: &Path, before: u64| {
            let time = std::time::SystemTime::from(begun) - Duration::from_secs(before);
            File::open(path).unwrap().set_times(FileTimes::new().set_modified(time)).unwrap();
        };
        let lock = dir.path().join("postmaster.pid");
        File::create(&lock).unwrap();
        set(&lock, 3600);
        set(dir.path(), 5);
        let ctx = Ctx::fixed(begun + Duration::from_secs(120), 1);
        let server = ConnectOptions::new("host=/nowhere", "test");
        let pending = promotion(&ctx, dir.path(), &server, begun).unwrap();
        assert!(pending.contains("the data directory has just changed"), "{pending}");
        set(dir.path(), 90);
        assert_eq!(promotion(&ctx, dir.path(), &server, begun), None);
    }
}
