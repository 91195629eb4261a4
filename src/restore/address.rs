//! Where the restored server can be asked: the port and the socket directory of its own configuration.
//!
//! A psql without them asks whoever has the default socket, which may be the server that is restored
//! from. What the configuration leaves open is set on the command line that starts the server, and so is
//! another port where a server that runs has the configured one.

use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::{Pid, test_kill_process};

use super::configured::{Configured, ServerFiles};
use super::installed::Programs;
use crate::pg::config_file::split_list;

/// `DEF_PGPORT`, as PostgreSQL is usually built.
const DEFAULT_PORT: u16 = 5432;

/// Where sockets are made when nobody knows better (`DEFAULT_PGSOCKET_DIR`).
const DEFAULT_SOCKETS: &str = "/tmp";

/// How many ports are tried.
const PORTS_TRIED_MAX: u16 = 64;

/// Where the restored server listens, started by the printed command.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct Address {
    /// Its socket directory, or a name.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// Options that the printed command starts it with for that: name and value.
    pub options: Vec<(String, String)>,
    /// The port that its configuration has, where another server has it now.
    pub taken: Option<u16>,
}

impl Address {
    /// As the files have it. `to` is the data directory.
    pub(super) fn of(files: &ServerFiles, programs: &Programs, to: &Path) -> Self {
        let mut options = Vec::new();
        let host = host(files, programs, to, &mut options);
        let configured = match files.find("port") {
            Configured::Value(text) => text.trim().parse().ok(),
            Configured::Unset => Some(DEFAULT_PORT),
            Configured::Unknown => None,
        };
        let wanted = configured.unwrap_or(DEFAULT_PORT);
        let listens = !matches!(
            files.find("listen_addresses"),
            Configured::Value(text) if split_list(&text).is_empty()
        );
        let is_taken = |port| has_socket(&host, port, to) || (listens && answers(port));
        let mut ports = (wanted..u16::MAX).take(PORTS_TRIED_MAX.into());
        let port = ports.find(|port| !is_taken(*port)).unwrap_or(wanted);
        if configured != Some(port) {
            options.push(("port".into(), port.to_string()));
        }
        Self { host, port, options, taken: (port != wanted).then_some(wanted) }
    }

    /// What the operator must know.
    pub(super) fn warning(&self) -> Option<String> {
        self.taken.map(|taken| {
            format!(
                "another server here has port {taken}: the printed command starts the restored one on \
                 port {}",
                self.port
            )
        })
    }
}

fn host(
    files: &ServerFiles,
    programs: &Programs,
    to: &Path,
    options: &mut Vec<(String, String)>,
) -> String {
    const NAME: &str = "unix_socket_directories";
    let default = programs.socket_directory.clone();
    let directories = match files.find(NAME) {
        Configured::Value(text) => split_list(&text),
        Configured::Unset if default.is_some() => default.into_iter().collect(),
        Configured::Unset | Configured::Unknown => {
            let default = default.unwrap_or_else(|| DEFAULT_SOCKETS.into());
            options.push((NAME.into(), default.clone()));
            vec![default]
        }
    };
    match directories.first() {
        // The server's working directory is its data directory.
        Some(directory) if directory.starts_with('@') => directory.clone(),
        Some(directory) => to.join(directory).display().to_string(),
        None => name(files),
    }
}

/// Without a socket it listens on addresses only.
fn name(files: &ServerFiles) -> String {
    let listed = match files.find("listen_addresses") {
        Configured::Value(text) => split_list(&text),
        _ => Vec::new(),
    };
    let first = listed.into_iter().next().filter(|name| !["*", "0.0.0.0", "::"].contains(&&**name));
    first.unwrap_or_else(|| "localhost".into())
}

/// Whether another server has the socket: by its lock file, which names the process and the data directory
/// (`CreateLockFile`, src/backend/utils/init/miscinit.c).
fn has_socket(host: &str, port: u16, to: &Path) -> bool {
    let lock = PathBuf::from(host).join(format!(".s.PGSQL.{port}.lock"));
    let text = std::fs::read_to_string(lock).unwrap_or_default();
    let mut lines = text.lines();
    let process = lines.next().and_then(|line| line.trim().parse().ok()).and_then(Pid::from_raw);
    let lives = process.is_some_and(|process| {
        matches!(test_kill_process(process), Ok(()) | Err(rustix::io::Errno::PERM))
    });
    lives && lines.next() != to.to_str()
}

/// Whether somebody listens on the port. Asked by connecting: to bind it, be it for a moment, could keep a
/// server that starts just then from its own port.
fn answers(port: u16) -> bool {
    const PATIENCE: Duration = Duration::from_millis(200);
    let local = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    TcpStream::connect_timeout(&local, PATIENCE).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(main: Option<&str>, default: Option<&str>) -> Address {
        let socket_directory = default.map(str::to_owned);
        let programs = Programs { socket_directory, ..Programs::default() };
        Address::of(&ServerFiles::parsed(main), &programs, Path::new("/data"))
    }

    fn options(address: &Address) -> Vec<(&str, &str)> {
        address.options.iter().map(|(name, value)| (&**name, &**value)).collect()
    }

    #[test]
    fn what_the_configuration_leaves_open_is_set() {
        let own = address(Some("port = 6001\nunix_socket_directories = '/run/a, /run/b'"), None);
        assert_eq!((own.host.as_str(), own.port, options(&own)), ("/run/a", 6001, vec![]));
        let default = address(Some("port = 6001"), Some("/run/built-in"));
        assert_eq!((default.host.as_str(), options(&default)), ("/run/built-in", vec![]));
        let guessed = address(Some("port = 6001"), None);
        assert_eq!(options(&guessed), [("unix_socket_directories", "/tmp")]);
        let relative = address(Some("port = 6001\nunix_socket_directories = 'run'"), None);
        assert_eq!(relative.host, "/data/run");
        for (addresses, expected) in [("*", "localhost"), ("10.0.0.1, b", "10.0.0.1")] {
            let text = format!(
                "port = 6001\nunix_socket_directories = ''\nlisten_addresses = '{addresses}'"
            );
            assert_eq!(address(Some(&text), None).host, expected);
        }
        let unknown = address(None, Some("/run/a"));
        assert_eq!(options(&unknown)[0], ("unix_socket_directories", "/run/a"));
        assert_eq!(options(&unknown)[1].0, "port");
    }

    #[test]
    fn another_server_keeps_its_port() {
        let scratch = tempfile::tempdir().unwrap();
        let sockets = scratch.path().display().to_string();
        let lock = |directory: &str| {
            let text = format!("{}\n{directory}\n0\n6011\n", std::process::id());
            let path = scratch.path().join(".s.PGSQL.6011.lock");
            let mut options = std::fs::OpenOptions::new();
            let mut file = options.create(true).write(true).truncate(true).open(path).unwrap();
            std::io::Write::write_all(&mut file, text.as_bytes()).unwrap();
        };
        let text = format!("port = 6011\nunix_socket_directories = '{sockets}'");
        lock("/production");
        let beside = address(Some(&text), None);
        assert_eq!((beside.port, beside.taken), (6012, Some(6011)));
        assert_eq!(options(&beside), [("port", "6012")]);
        assert!(beside.warning().unwrap().contains("port 6011"));
        lock("/data");
        assert_eq!(address(Some(&text), None).port, 6011, "its own");
        // Over the network, where it listens there.
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let text = |addresses: &str| {
            format!(
                "port = {port}\nunix_socket_directories = '/none'\n\
                 listen_addresses = '{addresses}'"
            )
        };
        assert_eq!(address(Some(&text("*")), None).taken, Some(port));
        assert_eq!(address(Some(&text("")), None).taken, None);
    }
}
