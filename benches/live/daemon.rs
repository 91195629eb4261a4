//! pgkeep's daemon as a process of the bench.

use std::fs::File;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::cost::process_cpu;
use super::folder::Folder;
use super::sides::Pgkeep;

const READY_WITHIN: Duration = Duration::from_secs(20);

/// A running daemon; told to stop when dropped, and waited for.
pub struct Daemon {
    child: Child,
}

impl Daemon {
    /// The lines of the configuration by which it is found.
    pub fn settings(folder: &Folder) -> String {
        let socket = folder.join("daemon/pgkeep.sock");
        format!("[daemon]\nsocket = \"{}\"\nfallback = \"fail\"\n", socket.display())
    }

    /// Starts it, as the account of the servers, and waits until it serves.
    pub fn start(folder: &Folder, pgkeep: &Pgkeep<'_>) -> Self {
        folder.make("daemon");
        let log = folder.write("daemon.log", "");
        let mut command = pgkeep.command();
        command.arg("daemon").stdout(Stdio::null());
        command.stderr(File::options().append(true).open(&log).unwrap());
        let daemon = Self { child: command.spawn().unwrap() };
        let begin = Instant::now();
        let said = || std::fs::read_to_string(&log).unwrap();
        while !said().contains("serves") {
            assert!(begin.elapsed() < READY_WITHIN, "the daemon does not serve:\n{}", said());
            std::thread::sleep(Duration::from_millis(5));
        }
        daemon
    }

    /// What it has spent so far.
    pub fn cpu(&self) -> f64 {
        process_cpu(self.child.id())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).unwrap()).unwrap();
        kill_process(pid, Signal::TERM).ok();
        self.child.wait().ok();
    }
}
