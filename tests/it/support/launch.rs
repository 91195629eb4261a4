//! How a scratch server comes to run: a new cluster, or a directory that exists (a restored one).
//!
//! Port, socket directory and addresses are given on the server's command line, where they win over
//! whatever a restored `postgresql.conf` says; everything else of a new cluster is in its
//! `postgresql.conf`, so that a restore brings it along. fsync is off unless a test is about
//! durability: a killed server loses nothing by it, a killed machine would.

use std::fmt::Write as _;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process;
use std::sync::atomic::{AtomicU16, Ordering};

use super::account;
use super::cluster::TestCluster;
use super::run::{Ran, run};
use super::scratch::ScratchDir;
use super::servers::Server;

/// A server about to be started. Made by [`TestCluster::create`] and [`TestCluster::adopt`].
#[derive(Debug)]
pub struct Launch {
    server: Server,
    scratch: ScratchDir,
    origin: Origin,
    command_line: Vec<(String, String)>,
    is_tcp: bool,
}

#[derive(Debug)]
enum Origin {
    New { initdb: Vec<String>, conf: String, is_checksummed: bool },
    Existing(PathBuf),
}

impl Launch {
    /// A new cluster of `server`: locale C, UTF-8, user `postgres`, no passwords, no checksums.
    pub fn create(server: &Server) -> Self {
        let conf = "\
            shared_buffers = '16MB'\n\
            max_connections = 30\n\
            fsync = off\n\
            log_line_prefix = '%m [%p] %b '\n\
            log_min_messages = info\n"
            .to_owned();
        let origin = Origin::New { initdb: Vec::new(), conf, is_checksummed: false };
        Self::from_origin(server, origin)
    }

    /// The cluster in `data`, which must be of `server`'s major; its files stay where they are.
    pub fn adopt(server: &Server, data: &Path) -> Self {
        Self::from_origin(server, Origin::Existing(data.to_owned()))
    }

    fn from_origin(server: &Server, origin: Origin) -> Self {
        Self {
            server: server.clone(),
            scratch: ScratchDir::new("cluster"),
            origin,
            command_line: Vec::new(),
            is_tcp: false,
        }
    }

    /// With data checksums.
    pub fn checksums(mut self) -> Self {
        match &mut self.origin {
            Origin::New { is_checksummed, .. } => *is_checksummed = true,
            Origin::Existing(_) => panic!("an adopted directory is as it is"),
        }
        self
    }

    /// With WAL segments of this many MiB.
    pub fn wal_segment_mib(self, mib: u32) -> Self {
        self.initdb_arg(&format!("--wal-segsize={mib}"))
    }

    /// One more argument of initdb.
    pub fn initdb_arg(mut self, arg: &str) -> Self {
        match &mut self.origin {
            Origin::New { initdb, .. } => initdb.push(arg.to_owned()),
            Origin::Existing(_) => panic!("initdb does not run on an adopted directory"),
        }
        self
    }

    /// One setting: in `postgresql.conf` of a new cluster, on the command line of an adopted one
    /// (where it also wins over `postgresql.auto.conf`).
    pub fn setting(mut self, name: &str, value: &str) -> Self {
        match &mut self.origin {
            Origin::New { conf, .. } => {
                writeln!(conf, "{name} = '{}'", value.replace('\'', "''")).unwrap();
            }
            Origin::Existing(_) => self.command_line.push((name.to_owned(), value.to_owned())),
        }
        self
    }

    /// With archiving on and no command yet: WAL stays until
    /// [`TestCluster::set_archive_command`] names one.
    pub fn archiving(self) -> Self {
        self.setting("archive_mode", "on")
    }

    /// With archiving on and this command.
    pub fn archive_command(self, command: &str) -> Self {
        self.archiving().setting("archive_command", command)
    }

    /// With fsync on, for tests about durability.
    pub fn fsync(self) -> Self {
        self.setting("fsync", "on")
    }

    /// Listening on 127.0.0.1 too, not only on the Unix socket.
    pub fn tcp(mut self) -> Self {
        self.is_tcp = true;
        self
    }

    /// Starts it and waits until it takes connections (a hot standby: read-only ones).
    #[track_caller]
    pub fn start(self) -> TestCluster {
        let cluster = self.prepare();
        cluster.start();
        cluster
    }

    /// Starts it, expecting that it does not come up or ends by itself; returns the server's log.
    #[track_caller]
    pub fn start_expecting_failure(self) -> String {
        let cluster = self.prepare();
        let ran = cluster.try_start();
        assert!(!ran.is_ok(), "the server started\n{ran}\n{}", cluster.log());
        cluster.log()
    }

    /// Everything but the start: the directory exists, the server does not run.
    #[track_caller]
    pub fn prepare(self) -> TestCluster {
        let port = if self.is_tcp { free_port() } else { 5432 };
        let data = match &self.origin {
            Origin::Existing(data) => data.clone(),
            Origin::New { .. } => self.initdb(),
        };
        let listen = if self.is_tcp { "127.0.0.1" } else { "" };
        let mut command_line = vec![
            ("listen_addresses".to_owned(), listen.to_owned()),
            ("port".to_owned(), port.to_string()),
            ("unix_socket_directories".to_owned(), self.scratch.path().display().to_string()),
        ];
        command_line.extend(self.command_line);
        let options = server_options(&command_line);
        TestCluster::from_parts(self.server, self.scratch, data, port, options)
    }

    fn initdb(&self) -> PathBuf {
        let Origin::New { initdb, conf, is_checksummed } = &self.origin else {
            panic!("only a new cluster is made");
        };
        let data = self.scratch.create_dir("data");
        let ran = run_initdb(&self.server, &self.scratch, &data, *is_checksummed, initdb);
        ran.assert_ok();
        let file = OpenOptions::new().append(true).open(data.join("postgresql.conf"));
        file.unwrap().write_all(conf.as_bytes()).unwrap();
        data
    }
}

fn run_initdb(
    server: &Server,
    scratch: &ScratchDir,
    data: &Path,
    is_checksummed: bool,
    args: &[String],
) -> Ran {
    let program = server.program("initdb");
    let mut command = account::unprivileged().command(program, scratch.path());
    command.arg("-D").arg(data);
    command.args(["-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync"]);
    match (is_checksummed, server.version()) {
        (true, _) => _ = command.arg("--data-checksums"),
        // 18 has them on unless told otherwise.
        (false, 18..) => _ = command.arg("--no-data-checksums"),
        (false, _) => {}
    }
    run(command.args(args))
}

/// Settings as pg_ctl's `-o` wants them: it hands the text to a shell.
fn server_options(settings: &[(String, String)]) -> String {
    let quoted = settings.iter().map(|(name, value)| {
        let setting = format!("{name}={value}").replace('\'', r"'\''");
        format!("-c '{setting}'")
    });
    quoted.collect::<Vec<_>>().join(" ")
}

/// A port below the range from which the kernel picks for others, tried in an order that differs
/// from process to process.
fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let begin = process::id() % 1000 * 20;
    let begin = u16::try_from(begin).expect("a remainder below 20,000 fits");
    for _ in 0..20_000 {
        let offset = (begin + NEXT.fetch_add(1, Ordering::Relaxed) % 20_000) % 20_000;
        let port = 10_240 + offset;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
    panic!("no free port");
}
