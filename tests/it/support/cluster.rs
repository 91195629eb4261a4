//! A real PostgreSQL cluster in a scratch directory: asked over its socket, stopped, killed and
//! started again. Dropping it stops the server at once and removes the directory.
//!
//! A step that fails ends the test with the server's log.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use super::account;
use super::launch::Launch;
use super::run::{DEADLINE, Ran, run, run_with_input, wait_until};
use super::scratch::ScratchDir;
use super::servers::{Server, tool};

/// How many lines of the server's log a failure shows.
const LOG_LINES: usize = 80;

/// A cluster of this test's own.
#[derive(Debug)]
pub struct TestCluster {
    server: Server,
    scratch: ScratchDir,
    data: PathBuf,
    port: u16,
    options: String,
}

/// How to stop a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// Waits for clients.
    Smart,
    /// Disconnects clients and writes a shutdown checkpoint.
    Fast,
    /// As a crash, but orderly: the next start recovers.
    Immediate,
}

impl TestCluster {
    /// A new cluster, to be configured and started.
    pub fn create(server: &Server) -> Launch {
        Launch::create(server)
    }

    /// The cluster in a directory that exists, say a restored one, to be configured and started.
    pub fn adopt(server: &Server, data: &Path) -> Launch {
        Launch::adopt(server, data)
    }

    pub(super) fn from_parts(
        server: Server,
        scratch: ScratchDir,
        data: PathBuf,
        port: u16,
        options: String,
    ) -> Self {
        Self { server, scratch, data, port, options }
    }

    /// Its programs.
    pub fn server(&self) -> &Server {
        &self.server
    }

    /// Its data directory.
    pub fn data_dir(&self) -> &Path {
        &self.data
    }

    /// Its scratch directory: log, socket, and whatever the test puts there.
    pub fn scratch(&self) -> &ScratchDir {
        &self.scratch
    }

    /// Its port; without [`Launch::tcp`] only a part of the socket's name.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// How to connect to its database `postgres` over the socket.
    pub fn conninfo(&self) -> String {
        self.conninfo_of("postgres")
    }

    /// How to connect to one of its databases over the socket.
    pub fn conninfo_of(&self, database: &str) -> String {
        let socket = self.scratch.path().display();
        format!("host={socket} port={} user=postgres dbname={database}", self.port)
    }

    /// A command that runs as the account of the server, in the scratch directory. The client tools
    /// of PostgreSQL 15 are found by name.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let name = program.as_ref();
        let installed = name.to_str().map(tool).filter(|path| path.is_file());
        let program = installed.unwrap_or_else(|| PathBuf::from(name));
        account::unprivileged().command(program, self.scratch.path())
    }

    /// The binary under test, as [`TestCluster::command`] would run it.
    pub fn pgkeep(&self) -> Command {
        self.command(self.scratch.pgkeep_binary())
    }

    /// Runs SQL, each statement in a transaction of its own, and returns the rows as psql's
    /// unaligned text: columns by `|`, rows by newline.
    #[track_caller]
    pub fn psql(&self, sql: &str) -> String {
        self.psql_in("postgres", sql)
    }

    /// [`TestCluster::psql`] in another database.
    #[track_caller]
    pub fn psql_in(&self, database: &str, sql: &str) -> String {
        let ran = self.try_psql_in(database, sql);
        assert!(ran.is_ok(), "{sql}\n{ran}\n{}", self.log_tail());
        ran.stdout.trim_end_matches('\n').to_owned()
    }

    /// Runs SQL that may fail.
    #[must_use]
    pub fn try_psql(&self, sql: &str) -> Ran {
        self.try_psql_in("postgres", sql)
    }

    fn try_psql_in(&self, database: &str, sql: &str) -> Ran {
        let mut command = self.command("psql");
        command.args(["-XAtq", "-v", "ON_ERROR_STOP=1", "-d", &self.conninfo_of(database)]);
        run_with_input(&mut command, sql)
    }

    /// Polls until the query answers true; an error counts as not yet.
    #[track_caller]
    pub fn wait_until(&self, sql: &str) {
        self.wait_until_within(DEADLINE, sql);
    }

    /// [`TestCluster::wait_until`] with another deadline.
    #[track_caller]
    pub fn wait_until_within(&self, deadline: Duration, sql: &str) {
        let query = format!("select ({sql})::boolean");
        wait_until(
            deadline,
            || {
                let ran = self.try_psql(&query);
                ran.is_ok() && ran.stdout.trim() == "t"
            },
            || format!("{sql}\n{}\n{}", self.try_psql(&query), self.log_tail()),
        );
    }

    /// Waits until recovery has ended and the server writes.
    #[track_caller]
    pub fn wait_for_promotion(&self) {
        self.wait_until("not pg_is_in_recovery()");
    }

    /// Waits until recovery has paused, as it does at a target with the action `pause`.
    #[track_caller]
    pub fn wait_for_pause(&self) {
        self.wait_until("pg_get_wal_replay_pause_state() = 'paused'");
    }

    /// Starts the server and waits until it takes connections.
    #[track_caller]
    pub fn start(&self) {
        let ran = self.try_start();
        assert!(ran.is_ok(), "{ran}\n{}", self.log_tail());
    }

    /// Starts the server, which may fail.
    #[must_use]
    pub fn try_start(&self) -> Ran {
        let log = self.log_path().display().to_string();
        self.pg_ctl(&["start", "-l", &log, "-o", &self.options, "-t", "110"])
    }

    /// Stops the server and waits for its end.
    #[track_caller]
    pub fn stop(&self, how: Stop) {
        let ran = self.pg_ctl(&["stop", "-m", how.name(), "-t", "110"]);
        assert!(ran.is_ok(), "{ran}\n{}", self.log_tail());
    }

    /// Stops (fast) and starts.
    #[track_caller]
    pub fn restart(&self) {
        self.stop(Stop::Fast);
        self.start();
    }

    /// Makes a standby a primary and waits until it is one.
    #[track_caller]
    pub fn promote(&self) {
        let ran = self.pg_ctl(&["promote", "-t", "110"]);
        assert!(ran.is_ok(), "{ran}\n{}", self.log_tail());
    }

    /// Kills every process of the server with SIGKILL, as the kernel would when memory runs out,
    /// and waits until all are gone. The next start recovers.
    #[track_caller]
    pub fn kill9(&self) {
        let postmaster = self.postmaster().expect("the server runs");
        let mut processes = vec![postmaster];
        processes.extend(children(postmaster));
        // The postmaster first: it would take the end of a child for a crash and start recovery.
        for process in &processes {
            kill_process(*process, Signal::KILL).ok();
        }
        wait_until(
            DEADLINE,
            || !processes.iter().any(|process| is_alive(*process)),
            || format!("a process of {processes:?} survives SIGKILL"),
        );
        if has_entry(postmaster) {
            // Dead, but nobody has collected it (an init that is slow to, or does not, as in some
            // containers). The next postmaster would take it for a live one.
            fs::remove_file(self.data.join("postmaster.pid")).unwrap();
            let socket_lock = format!(".s.PGSQL.{}.lock", self.port);
            fs::remove_file(self.scratch.join(&socket_lock)).unwrap();
        }
    }

    /// Changes a setting that needs no restart, and waits until the server has read it.
    #[track_caller]
    pub fn set(&self, name: &str, value: &str) {
        let value = value.replace('\'', "''");
        let before = self.psql("select pg_conf_load_time()");
        self.psql(&format!("alter system set {name} = '{value}'; select pg_reload_conf()"));
        // Each question is a new backend, and knows what the postmaster knew when it was made.
        self.wait_until(&format!("pg_conf_load_time() > '{before}'"));
    }

    /// Names the archive_command of a cluster made with [`Launch::archiving`].
    #[track_caller]
    pub fn set_archive_command(&self, command: &str) {
        self.set("archive_command", command);
    }

    /// Ends the current WAL segment, even an empty one, and returns its name.
    #[track_caller]
    pub fn switch_wal(&self) -> String {
        self.psql(
            "select pg_logical_emit_message(false, 'pgkeep', 'switch') is null;
             select pg_walfile_name(pg_switch_wal())",
        )
        .lines()
        .last()
        .unwrap()
        .to_owned()
    }

    /// Ends the current WAL segment, waits until archive_command has succeeded for it, and returns
    /// its name.
    #[track_caller]
    pub fn archive_now(&self) -> String {
        let segment = self.switch_wal();
        self.wait_until(&format!(
            "select last_archived_wal collate \"C\" >= '{segment}' from pg_stat_archiver"
        ));
        segment
    }

    /// Whether its postmaster lives.
    pub fn is_running(&self) -> bool {
        self.postmaster().is_some_and(is_alive)
    }

    /// Everything the server has logged since the cluster was made.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.log_path()).unwrap_or_default()).into_owned()
    }

    fn log_tail(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        let tail = &lines[lines.len().saturating_sub(LOG_LINES)..];
        format!("--- server log, last lines\n{}", tail.join("\n"))
    }

    fn log_path(&self) -> PathBuf {
        self.scratch.join("server.log")
    }

    fn pg_ctl(&self, args: &[&str]) -> Ran {
        let mut command = self.pg_ctl_command();
        run(command.args(args))
    }

    fn pg_ctl_command(&self) -> Command {
        let mut command = self.command(self.server.program("pg_ctl"));
        command.arg("-w").arg("-D").arg(&self.data);
        command
    }

    /// The postmaster's process, as its lock file names it.
    fn postmaster(&self) -> Option<Pid> {
        let text = fs::read_to_string(self.data.join("postmaster.pid")).ok()?;
        Pid::from_raw(text.lines().next()?.trim().parse().ok()?)
    }
}

impl Drop for TestCluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.log_tail());
        }
        if self.is_running() {
            // A panic here would end the whole test process; a server that stays is noticed by the
            // next start on the same directory, and ends when the directory goes.
            self.pg_ctl_command().args(["stop", "-m", "immediate", "-t", "30"]).output().ok();
        }
    }
}

impl Stop {
    fn name(self) -> &'static str {
        match self {
            Self::Smart => "smart",
            Self::Fast => "fast",
            Self::Immediate => "immediate",
        }
    }
}

/// The processes whose parent is `parent`.
fn children(parent: Pid) -> Vec<Pid> {
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let ids = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    ids.filter_map(Pid::from_raw)
        .filter(|process| stat(*process).is_some_and(|(_, its_parent)| its_parent == parent))
        .collect()
}

/// Whether the process exists and is not a zombie.
fn is_alive(process: Pid) -> bool {
    stat(process).is_some_and(|(state, _)| state != "Z" && state != "X")
}

fn has_entry(process: Pid) -> bool {
    stat(process).is_some()
}

/// State and parent of a process. They follow its name, which is in parentheses and may hold some.
fn stat(process: Pid) -> Option<(String, Pid)> {
    let path = format!("/proc/{}/stat", process.as_raw_nonzero());
    let text = fs::read_to_string(path).ok()?;
    let (_, rest) = text.rsplit_once(')')?;
    let mut fields = rest.split_whitespace();
    let state = fields.next()?.to_owned();
    Some((state, Pid::from_raw(fields.next()?.parse().ok()?)?))
}
