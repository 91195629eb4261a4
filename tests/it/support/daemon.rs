//! A daemon of the test's own, on a socket in a scratch folder.

use std::path::PathBuf;

use rustix::process::Signal;
use serde_json::Value;

use super::run::{DEADLINE, Ran, Running, start, wait_until};
use super::{ScratchDir, TestConfig};

/// A configuration with a socket, and the daemon that listens there, if it runs.
pub struct TestDaemon {
    scratch: ScratchDir,
    running: Option<Running>,
}

impl TestDaemon {
    /// Adds `[daemon]` with a socket of its own and these lines to a configuration. Starts nothing.
    pub fn configure(config: TestConfig, lines: &str) -> (Self, TestConfig) {
        let scratch = ScratchDir::new("daemon");
        let socket = scratch.join("run/pgkeep.sock");
        let config = config.toml(&format!("[daemon]\nsocket = \"{}\"\n{lines}", socket.display()));
        (Self { scratch, running: None }, config)
    }

    pub fn socket(&self) -> PathBuf {
        self.scratch.join("run/pgkeep.sock")
    }

    /// Starts it and waits until it listens.
    #[track_caller]
    pub fn start(&mut self, config: &TestConfig) {
        let running = start(&mut config.pgkeep(["daemon"]));
        let is_ready = || running.stderr_so_far().contains("serves ");
        wait_until(DEADLINE, is_ready, || running.stderr_so_far());
        self.running = Some(running);
    }

    #[track_caller]
    pub fn signal(&self, signal: Signal) {
        self.running.as_ref().expect("it runs").signal(signal);
    }

    /// What it has said.
    #[track_caller]
    pub fn log(&self) -> String {
        self.running.as_ref().expect("it runs").stderr_so_far()
    }

    /// Sends a signal and waits for the end.
    #[track_caller]
    pub fn stop(&mut self, signal: Signal) -> Ran {
        self.signal(signal);
        self.running.take().expect("it runs").wait()
    }

    /// What `pgkeep drain` asks for, as the daemon answers it.
    #[track_caller]
    pub fn status(&self, config: &TestConfig) -> Value {
        let shown = config.run(["drain", "--timeout", "0s", "--json"]);
        serde_json::from_str(&shown.stdout).unwrap_or_else(|why| panic!("{why}\n{shown}"))
    }
}
