//! What PostgreSQL's archiver and its recovery do, without PostgreSQL: data directories at rest, a command
//! for each file, one after the other, by the shell as the server runs it.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use super::cluster::Cluster;
use super::folder::Folder;

/// How many segments are made at a time: fewer than `wal_keep_size`.
const BATCH: usize = 64;

/// A primary whose segments are all ready to be archived, and a standby that recovers.
pub struct Servers<'a> {
    folder: &'a Folder,
    pub primary: PathBuf,
    pub standby: PathBuf,
    pub names: Vec<String>,
}

impl<'a> Servers<'a> {
    /// With this many segments of pgbench's; those of an earlier run where the folder is kept.
    pub fn freeze(folder: &'a Folder, cluster: &Cluster<'_>, count: usize) -> Self {
        let made = folder.join("segments");
        let names = || -> Vec<String> {
            let text = fs::read_to_string(&made).unwrap_or_default();
            text.lines().map(str::to_owned).collect()
        };
        if names().len() < count {
            fs::remove_file(&made).ok();
            fs::write(&made, make(folder, cluster, count).join("\n")).unwrap();
        }
        let mut names = names();
        names.truncate(count);
        let standby = folder.make_empty("standby");
        folder.make_empty("standby/pg_wal");
        folder.make_empty("standby/global");
        folder.write("standby/standby.signal", "");
        copy(folder, &cluster.data().join("PG_VERSION"), "standby/PG_VERSION");
        copy(folder, &cluster.data().join("global/pg_control"), "standby/global/pg_control");
        let primary = folder.join("primary");
        folder.warm(&primary.join("pg_wal"));
        Self { folder, primary, standby, names }
    }

    /// Marks every segment as ready, as the server does when it has written it.
    pub fn make_ready(&self) {
        self.folder.make_empty("primary/pg_wal/archive_status");
        for name in &self.names {
            self.folder.write(&format!("primary/pg_wal/archive_status/{name}.ready"), "");
        }
    }

    /// Runs the command for the oldest file that is ready and marks that file as done, until none is left.
    /// How long each call took.
    pub fn archive(&self, line: &str) -> Vec<f64> {
        let status = self.primary.join("pg_wal/archive_status");
        let mut shell = Shell::start(self.folder, &self.primary);
        let calls = self.names.iter().map(|name| {
            let wall = shell.call(&line.replace("%p", &format!("pg_wal/{name}")));
            let (ready, done) = (format!("{name}.ready"), format!("{name}.done"));
            fs::rename(status.join(ready), status.join(done)).unwrap();
            wall
        });
        let calls = calls.collect();
        shell.end();
        calls
    }

    /// Asks for one segment after the other. With a time that each takes to be replayed, its content is
    /// compared meanwhile; the last one is compared in any case. How long each call took.
    pub fn recover(&self, line: &str, count: usize, replay: Duration) -> Vec<f64> {
        let target = self.standby.join("pg_wal/RECOVERYXLOG");
        let mut shell = Shell::start(self.folder, &self.standby);
        let names = self.names.get(..count).unwrap_or(&self.names);
        let mut calls = Vec::new();
        for name in names {
            fs::remove_file(&target).ok();
            let line = line.replace("%f", name).replace("%p", "pg_wal/RECOVERYXLOG");
            calls.push(shell.call(&line));
            let begin = Instant::now();
            if !replay.is_zero() {
                self.compare(name);
                std::thread::sleep(replay.saturating_sub(begin.elapsed()));
            }
        }
        shell.end();
        names.last().into_iter().for_each(|name| self.compare(name));
        calls
    }

    /// What was got is what was pushed.
    fn compare(&self, name: &str) {
        let pushed = fs::read(self.primary.join("pg_wal").join(name)).unwrap();
        let got = fs::read(self.standby.join("pg_wal/RECOVERYXLOG")).unwrap();
        assert!(pushed == got, "{name} came back with other content");
    }
}

/// The server's process, which forks a shell for each command. The bench is not the one to fork: it holds the
/// objects of a bucket, and takes many milliseconds to copy the tables of their pages.
struct Shell {
    child: Child,
    lines: ChildStdin,
    statuses: BufReader<ChildStdout>,
    log: File,
}

impl Shell {
    fn start(folder: &Folder, directory: &Path) -> Self {
        let log = tempfile::tempfile().unwrap();
        let mut command = folder.command("sh");
        let each = "while IFS= read -r line; do sh -c \"$line\" >&2; echo $?; done";
        command.args(["-c", each]).current_dir(directory);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(log.try_clone().unwrap());
        let mut child = command.spawn().unwrap();
        let (lines, statuses) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        Self { child, lines, statuses: BufReader::new(statuses), log }
    }

    /// Runs a command to its good end: how long it took.
    fn call(&mut self, line: &str) -> f64 {
        let (begin, mut status) = (Instant::now(), String::new());
        writeln!(self.lines, "{line}").unwrap();
        self.statuses.read_line(&mut status).unwrap();
        let wall = begin.elapsed().as_secs_f64();
        assert_eq!(status.trim(), "0", "{line}\n{}", text_of(&self.log));
        wall
    }

    /// What it has spent is the bench's children's from now on.
    fn end(self) {
        let Self { mut child, lines, .. } = self;
        drop(lines);
        assert!(child.wait().unwrap().success());
    }
}

fn text_of(log: &File) -> String {
    let (mut log, mut text) = (log, String::new());
    log.seek(SeekFrom::Start(0)).unwrap();
    log.read_to_string(&mut text).ok();
    text
}

/// Runs a command to its good end: how long it took.
pub fn timed(command: &mut Command, log: &File) -> f64 {
    let to_log = || Stdio::from(log.try_clone().unwrap());
    command.stdout(to_log()).stderr(to_log());
    let begin = Instant::now();
    let status = command.spawn().unwrap().wait().unwrap();
    let wall = begin.elapsed().as_secs_f64();
    assert!(status.success(), "{command:?}: {status}\n{}", text_of(log));
    wall
}

fn make(folder: &Folder, cluster: &Cluster<'_>, count: usize) -> Vec<String> {
    println!("making {count} segments ...");
    folder.make_empty("primary");
    folder.make_empty("primary/pg_wal");
    folder.make_empty("primary/global");
    let mut names = Vec::new();
    cluster.archive_with("/bin/true");
    // So that making the WAL does not take longer than the bench.
    cluster.psql("alter system set synchronous_commit = off");
    while names.len() < count {
        for name in cluster.write_wal(BATCH.min(count - names.len())) {
            let path = format!("pg_wal/{name}");
            copy(folder, &cluster.data().join(&path), &format!("primary/{path}"));
            names.push(name);
        }
    }
    copy(folder, &cluster.data().join("PG_VERSION"), "primary/PG_VERSION");
    copy(folder, &cluster.data().join("global/pg_control"), "primary/global/pg_control");
    // The daemon lets go of a server that has stopped.
    copy(folder, &cluster.data().join("postmaster.pid"), "primary/postmaster.pid");
    names
}

fn copy(folder: &Folder, from: &Path, to: &str) {
    folder.write(to, "");
    fs::copy(from, folder.join(to)).unwrap();
}
