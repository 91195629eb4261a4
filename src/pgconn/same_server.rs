//! Proof that the server that answers is the one that is meant: the one that runs on the directory
//! that is read, and the same for every connection of one backup.
//!
//! A moved address, a list of hosts, a pooler or a stale directory lead to another server with the
//! same system identifier (a standby, say), and then label and files do not belong together. The lock
//! file `postmaster.pid` is unlike any other's: process, start time and shared memory key are in it.
//! What this cannot see is a copy of the directory with its lock file (a snapshot): for that, the
//! reader of the directory looks whether `pg_control` there has reached the start of the backup.

use super::driver::Param;
use super::error::Error;
use super::row::{Columns, RawText};
use super::session::Session;
use super::sql;
use crate::base::{Ctx, Timestamp};

/// What the lines of `postmaster.pid` are (`src/include/utils/pidfile.h`, the same from 10 to 18).
/// The eighth, the status, changes while the server runs and is not compared.
const LINES: [&str; 7] = [
    "process id",
    "data directory",
    "start time",
    "port",
    "socket directory",
    "listen address",
    "shared memory key",
];

/// Up to the port the file is written when the lock is taken; the rest while the server starts, and
/// on Unix the last of them is the shared memory key.
const LINES_NEEDED: usize = 7;

/// By what further connections of one backup know its server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerIdentity {
    /// `system_identifier` of the control file.
    pub system_identifier: u64,
    /// `pg_postmaster_start_time()`, in microseconds: no two servers share it by chance.
    pub postmaster_start: Timestamp,
    /// Primary or standby.
    pub in_recovery: bool,
    /// The held session, which every other session of that server sees.
    pub backend_pid: i32,
}

impl Session {
    /// By what another connection can prove that it reached this session's server.
    ///
    /// # Errors
    /// Those of statements.
    pub fn identity(&self, ctx: &Ctx) -> Result<ServerIdentity, Error> {
        let rows = self.query(ctx, sql::SYSTEM_IDENTIFIER, vec![])?;
        let row = Columns::only(sql::SYSTEM_IDENTIFIER, &rows)?;
        let pulse = self.pulse(ctx)?;
        Ok(ServerIdentity {
            system_identifier: row.value::<i64>(0)?.cast_unsigned(),
            postmaster_start: pulse.postmaster_start,
            in_recovery: pulse.in_recovery,
            backend_pid: pulse.backend_pid,
        })
    }

    /// Proves that this connection reached the server of `held`'s session, while that is open.
    ///
    /// # Errors
    /// [`Error::OtherServer`], and those of statements.
    pub fn prove_same_server(&self, ctx: &Ctx, held: &ServerIdentity) -> Result<(), Error> {
        let own = self.identity(ctx)?;
        let mut differences = Vec::new();
        let mut compare = |what: &str, held: String, own: String| {
            if held != own {
                differences.push(format!("{what} is {own}, not {held}"));
            }
        };
        compare(
            "system identifier",
            held.system_identifier.to_string(),
            own.system_identifier.to_string(),
        );
        compare(
            "start of the server",
            held.postmaster_start.to_rfc3339(),
            own.postmaster_start.to_rfc3339(),
        );
        compare("recovery", held.in_recovery.to_string(), own.in_recovery.to_string());
        let rows = self.query(ctx, sql::SEES_SESSION, vec![Param::Int(held.backend_pid)])?;
        let seen: i64 = Columns::only(sql::SEES_SESSION, &rows)?.value(0)?;
        if seen == 0 {
            differences.push(format!(
                "the backup's session, server process {}, is not one of this server's",
                held.backend_pid
            ));
        }
        to_result(differences)
    }

    /// Proves that the server runs on the directory whose `postmaster.pid` has the content `local`.
    ///
    /// To be called before the backup starts and again before it stops. The role needs EXECUTE on
    /// `pg_read_file(text)`.
    ///
    /// # Errors
    /// [`Error::OtherServer`] with every line that differs, [`Error::Denied`], and those of
    /// statements.
    pub fn prove_directory(&self, ctx: &Ctx, local: &[u8]) -> Result<(), Error> {
        let remote = self.postmaster_pid(ctx)?;
        to_result(differing_lines(local, &remote))
    }

    /// The content of `postmaster.pid` as the server reads it from its own data directory.
    pub(super) fn postmaster_pid(&self, ctx: &Ctx) -> Result<Vec<u8>, Error> {
        let rows = self.query(ctx, sql::POSTMASTER_PID, vec![])?;
        let RawText(content) = Columns::only(sql::POSTMASTER_PID, &rows)?.value(0)?;
        Ok(content)
    }
}

fn to_result(differences: Vec<String>) -> Result<(), Error> {
    match differences.is_empty() {
        true => Ok(()),
        false => Err(Error::OtherServer { differences }),
    }
}

/// What differs between two contents of `postmaster.pid`, in words; nothing when they belong to the
/// same start of the same server.
fn differing_lines(local: &[u8], remote: &[u8]) -> Vec<String> {
    let local = lines(local);
    let remote = lines(remote);
    let mut differences = Vec::new();
    for (whose, found) in [("the local", &local), ("the server's", &remote)] {
        if found.len() < LINES_NEEDED {
            differences.push(format!(
                "{whose} postmaster.pid has {} lines of {LINES_NEEDED} (is a server just starting \
                 or stopping?)",
                found.len()
            ));
        }
    }
    for (what, (local, remote)) in LINES.iter().zip(local.iter().zip(&remote)) {
        if local != remote {
            differences.push(format!(
                "{what} in postmaster.pid is {local:?} in the local directory and {remote:?} in the \
                 server's"
            ));
        }
    }
    differences
}

/// Lines without the blanks that the server pads them with.
fn lines(content: &[u8]) -> Vec<String> {
    let content = content.strip_suffix(b"\n").unwrap_or(content);
    if content.is_empty() {
        return Vec::new();
    }
    // Each byte that is not ASCII is written out, so that unlike bytes never look alike.
    content
        .split(|byte| *byte == b'\n')
        .map(|line| line.trim_ascii().escape_ascii().to_string())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const RUNNING: &[u8] = b"4711\n/var/lib/postgresql/15/main\n1763638000\n5432\n\
        /var/run/postgresql\nlocalhost\n  5432001     65538\nready   \n";

    fn with_line(number: usize, line: &str) -> Vec<u8> {
        let text = String::from_utf8(RUNNING.to_vec()).unwrap();
        let mut lines: Vec<&str> = text.lines().collect();
        lines[number - 1] = line;
        (lines.join("\n") + "\n").into_bytes()
    }

    #[test]
    fn the_same_start_of_the_same_server_is_the_same() {
        assert_eq!(differing_lines(RUNNING, RUNNING), Vec::<String>::new());
        // The status line, and the padding, change while the server runs.
        for changed in [with_line(8, "standby "), with_line(7, "5432001     65538")] {
            assert_eq!(differing_lines(RUNNING, &changed), Vec::<String>::new());
        }
        // No TCP: an empty line, not a missing one.
        let no_tcp = with_line(6, "");
        assert_eq!(differing_lines(&no_tcp, &no_tcp), Vec::<String>::new());
    }

    #[test]
    fn every_other_line_tells_servers_apart() {
        for number in 1..=7 {
            let differences = differing_lines(RUNNING, &with_line(number, "1"));
            assert_eq!(differences.len(), 1, "line {number}: {differences:?}");
            assert!(differences[0].starts_with(LINES[number - 1]));
        }
    }

    #[test]
    fn an_unfinished_file_proves_nothing() {
        let head = b"4711\n/var/lib/postgresql/15/main\n1763638000\n5432\n";
        assert_eq!(differing_lines(head, head).len(), 2);
        assert_eq!(differing_lines(b"", b"").len(), 2);
        assert_eq!(differing_lines(b"", RUNNING).len(), 1);
    }

    #[test]
    fn bytes_that_are_not_text_are_compared_as_bytes() {
        let mut one = RUNNING.to_vec();
        let mut other = RUNNING.to_vec();
        one[6] = 0xff;
        other[6] = 0xfe;
        assert_eq!(differing_lines(&one, &one), Vec::<String>::new());
        assert_eq!(differing_lines(&one, &other).len(), 1);
    }
}
