//! Where to connect and as whom: a connection string of libpq, in either of its forms, and what is
//! added to it.
//!
//! Read by `tokio_postgres::Config`, with libpq's TLS parameters taken out first (see `tls`).
//! Differences from libpq, all on purpose: no environment variables, service or password files (the
//! configuration hands the password in), `dbname` defaults to `postgres` instead of the role's name,
//! and keepalives are on with short times. An empty value means the default, as in libpq.

use std::time::Duration;

use tokio_postgres::Config;
use tokio_postgres::config::Host;

use super::error::{Error, innermost};
use super::tls::{self, Tls};
use crate::base::Secret;

/// Where a server listens that was built by a Linux distribution; PostgreSQL's own default is `/tmp`,
/// where anybody could listen.
const DEFAULT_HOST: &str = "/var/run/postgresql";
const DEFAULT_DBNAME: &str = "postgres";

/// A silent network is noticed after 30 s + 3 x 10 s, and unacknowledged data after 60 s.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(30);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_RETRIES: u32 = 3;
const TCP_USER_TIMEOUT: Duration = Duration::from_secs(60);
/// What `Config` has when the string does not say `keepalives_idle`.
const KEEPALIVE_IDLE_UNSET: Duration = Duration::from_secs(2 * 60 * 60);

/// How to reach a server, and how long to wait for it.
#[derive(Debug, Clone)]
pub struct ConnectOptions {
    /// `key=value` pairs or a `postgresql://` URI. A secret because it can hold a password.
    pub connection: Secret<String>,
    /// Used when the connection string has no password.
    pub password: Option<Secret<String>>,
    /// What `pg_stat_activity` shows; one in the connection string gives way to it.
    pub application_name: String,
    /// For each address until the session is ready, unless the connection string says
    /// `connect_timeout`.
    pub connect_timeout: Duration,
    /// For each statement that the server answers from memory.
    pub statement_timeout: Duration,
}

impl ConnectOptions {
    /// Options with 15 s to connect and 60 s for a statement.
    #[must_use]
    pub fn new(connection: impl Into<String>, application_name: impl Into<String>) -> Self {
        Self {
            connection: Secret::new(connection.into()),
            password: None,
            application_name: application_name.into(),
            connect_timeout: Duration::from_secs(15),
            statement_timeout: Duration::from_secs(60),
        }
    }

    /// The role that the connection string names.
    #[must_use]
    pub fn user(&self) -> Option<String> {
        self.resolve().ok()?.config.get_user().map(str::to_owned)
    }

    /// Reads the connection string and completes it.
    pub(super) fn resolve(&self) -> Result<Target, Error> {
        let (rest, tls_parameters) = take_tls_parameters(self.connection.expose())?;
        let mut config: Config = rest.parse().map_err(|error| Error::Options {
            what: format!("connection string: {}", innermost(&error)),
        })?;
        config.application_name(&self.application_name);
        if let (None, Some(password)) = (config.get_password(), &self.password) {
            config.password(password.expose());
        }
        if config.get_dbname().is_none() {
            config.dbname(DEFAULT_DBNAME);
        }
        complete_hosts(&mut config);
        complete_timeouts(&mut config, self.connect_timeout);
        let all_local = config.get_hosts().iter().all(|host| matches!(host, Host::Unix(_)));
        let tls = if all_local && config.get_hostaddrs().is_empty() {
            // PostgreSQL has no TLS over Unix sockets, and libpq ignores sslmode there.
            Tls::off()
        } else {
            tls::build(&tls_parameters)?
        };
        config.ssl_mode(tls.mode);
        Ok(Target {
            description: describe(&config),
            timeout: overall_timeout(&config, self.connect_timeout),
            config,
            tls,
        })
    }
}

/// A connection string, understood.
#[derive(Debug)]
pub(super) struct Target {
    pub config: Config,
    pub tls: Tls,
    /// For messages; without the password.
    pub description: String,
    /// For everything until the session is ready.
    pub timeout: Duration,
}

fn complete_hosts(config: &mut Config) {
    if config.get_hosts().is_empty() && config.get_hostaddrs().is_empty() {
        config.host(DEFAULT_HOST);
    } else if config.get_hosts().is_empty() {
        // The library does no TLS without a name; libpq takes the address for the name.
        for address in config.get_hostaddrs().to_vec() {
            config.host(address.to_string());
        }
    }
}

fn complete_timeouts(config: &mut Config, connect_timeout: Duration) {
    if config.get_connect_timeout().is_none() {
        config.connect_timeout(connect_timeout);
    }
    if config.get_keepalives_idle() == KEEPALIVE_IDLE_UNSET {
        config.keepalives_idle(KEEPALIVE_IDLE);
    }
    if config.get_keepalives_interval().is_none() {
        config.keepalives_interval(KEEPALIVE_INTERVAL);
    }
    if config.get_keepalives_retries().is_none() {
        config.keepalives_retries(KEEPALIVE_RETRIES);
    }
    if config.get_tcp_user_timeout().is_none() {
        config.tcp_user_timeout(TCP_USER_TIMEOUT);
    }
}

/// Each host may need its whole time; a name can stand for several addresses, which share one.
fn overall_timeout(config: &Config, default: Duration) -> Duration {
    let each = config.get_connect_timeout().copied().unwrap_or(default);
    let hosts = u32::try_from(config.get_hosts().len()).unwrap_or(u32::MAX);
    each.saturating_mul(hosts.max(1))
}

fn describe(config: &Config) -> String {
    let hosts: Vec<String> = config
        .get_hosts()
        .iter()
        .map(|host| match host {
            Host::Tcp(name) => name.clone(),
            Host::Unix(path) => path.display().to_string(),
        })
        .collect();
    let ports: Vec<String> = config.get_ports().iter().map(u16::to_string).collect();
    let ports = match ports.is_empty() {
        true => "5432".to_owned(),
        false => ports.join(","),
    };
    format!(
        "host={} port={ports} dbname={} user={}",
        hosts.join(","),
        config.get_dbname().unwrap_or(DEFAULT_DBNAME),
        config.get_user().unwrap_or("(the operating system's)"),
    )
}

/// The parameters of libpq that `tokio_postgres` does not know and `tls` does.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct TlsParameters {
    pub sslmode: Option<String>,
    pub sslrootcert: Option<String>,
    pub sslcert: Option<String>,
    pub sslkey: Option<String>,
}

impl TlsParameters {
    /// Takes the parameter if it is one of these.
    fn take(&mut self, key: &str, value: &str) -> bool {
        let place = match key {
            "sslmode" => &mut self.sslmode,
            "sslrootcert" => &mut self.sslrootcert,
            "sslcert" => &mut self.sslcert,
            "sslkey" => &mut self.sslkey,
            _ => return false,
        };
        *place = Some(value.to_owned());
        true
    }
}

/// The connection string without its TLS parameters, and those.
fn take_tls_parameters(text: &str) -> Result<(String, TlsParameters), Error> {
    let text = text.trim();
    if text.starts_with("postgres://") || text.starts_with("postgresql://") {
        from_uri(text)
    } else {
        from_pairs(text)
    }
}

fn from_uri(text: &str) -> Result<(String, TlsParameters), Error> {
    let mut tls = TlsParameters::default();
    let Some((base, query)) = text.split_once('?') else {
        return Ok((text.to_owned(), tls));
    };
    let mut rest = Vec::new();
    for parameter in query.split('&').filter(|parameter| !parameter.is_empty()) {
        let (key, value) = parameter.split_once('=').unwrap_or((parameter, ""));
        if value.is_empty() {
            continue;
        }
        let decoded = percent_decode(value).ok_or_else(|| Error::Options {
            what: format!("connection string: {key} is not percent-encoded UTF-8"),
        })?;
        if !tls.take(key, &decoded) {
            rest.push(parameter);
        }
    }
    let rest = match rest.is_empty() {
        true => base.to_owned(),
        false => format!("{base}?{}", rest.join("&")),
    };
    Ok((rest, tls))
}

fn percent_decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let high = char::from(rest.next()?).to_digit(16)?;
        let low = char::from(rest.next()?).to_digit(16)?;
        bytes.push(u8::try_from(high * 16 + low).ok()?);
    }
    String::from_utf8(bytes).ok()
}

fn from_pairs(text: &str) -> Result<(String, TlsParameters), Error> {
    let mut tls = TlsParameters::default();
    let mut rest = Vec::new();
    for (key, value) in pairs(text)? {
        if value.is_empty() || tls.take(&key, &value) {
            continue;
        }
        let escaped = value.replace('\\', "\\\\").replace('\'', "\\'");
        rest.push(format!("{key}='{escaped}'"));
    }
    Ok((rest.join(" "), tls))
}

/// The grammar of `conninfo_parse` in `src/interfaces/libpq/fe-connect.c`: blanks around `=`, quoted
/// values, a backslash takes the next character as it is.
fn pairs(text: &str) -> Result<Vec<(String, String)>, Error> {
    // The text can hold a password: a message says where, never what.
    let wrong = |what: &str, left: &str| Error::Options {
        what: format!(
            "connection string: {what} at character {}",
            text.chars().count() - left.chars().count() + 1
        ),
    };
    let mut pairs = Vec::new();
    let mut left = text.trim_start();
    while !left.is_empty() {
        let end = left.find(|c: char| c == '=' || c.is_whitespace()).unwrap_or(left.len());
        let (key, after) = left.split_at(end);
        let Some(after) = after.trim_start().strip_prefix('=') else {
            return Err(wrong("\"=\" is missing after the key", left));
        };
        if key.is_empty() {
            return Err(wrong("a key is missing", left));
        }
        let (value, after) = value(after.trim_start())
            .ok_or_else(|| wrong("the value has no closing quote", after))?;
        pairs.push((key.to_owned(), value));
        left = after.trim_start();
    }
    Ok(pairs)
}

/// One value and what follows it; `None` when a quote is not closed.
fn value(text: &str) -> Option<(String, &str)> {
    let quoted = text.starts_with('\'');
    let mut value = String::new();
    let mut characters = text.char_indices().skip(usize::from(quoted));
    while let Some((at, c)) = characters.next() {
        match c {
            '\\' => value.extend(characters.next().map(|(_, escaped)| escaped)),
            '\'' if quoted => return Some((value, &text[at + 1..])),
            c if !quoted && c.is_whitespace() => return Some((value, &text[at..])),
            c => value.push(c),
        }
    }
    (!quoted).then_some((value, ""))
}

#[cfg(test)]
mod tests {
    use tokio_postgres::config::SslMode;

    use super::*;

    fn resolve(connection: &str) -> Result<Target, Error> {
        ConnectOptions::new(connection, "pgkeep test").resolve()
    }

    #[test]
    fn an_empty_string_means_the_local_server() {
        let target = resolve("").unwrap();
        assert_eq!(
            target.description,
            "host=/var/run/postgresql port=5432 dbname=postgres user=(the operating system's)"
        );
        assert_eq!(target.config.get_application_name(), Some("pgkeep test"));
        assert_eq!(target.config.get_keepalives_idle(), KEEPALIVE_IDLE);
    }

    #[test]
    fn pairs_are_read_as_libpq_reads_them() {
        let target = resolve(
            r"host = db1,db2  port=5433 user='o\'brien' password='a \\b' sslmode=disable dbname=''",
        )
        .unwrap();
        assert_eq!(target.description, "host=db1,db2 port=5433 dbname=postgres user=o'brien");
        assert_eq!(target.config.get_password(), Some(&br"a \b"[..]));
        assert_eq!(target.config.get_ssl_mode(), SslMode::Disable);
        assert_eq!(target.timeout, Duration::from_secs(30), "15 s for each host");
    }

    #[test]
    fn uris_are_read() {
        let target = resolve(
            "postgresql://u:p%20w@db:6543/app?sslmode=disable&sslrootcert=%2Fca&connect_timeout=3",
        )
        .unwrap();
        assert_eq!(target.description, "host=db port=6543 dbname=app user=u");
        assert_eq!(target.config.get_password(), Some(&b"p w"[..]));
        assert_eq!(target.timeout, Duration::from_secs(3));
        let (rest, tls) = take_tls_parameters("postgres:///x?host=/run&sslrootcert=%2Fca").unwrap();
        assert_eq!(rest, "postgres:///x?host=/run");
        assert_eq!(tls.sslrootcert.as_deref(), Some("/ca"));
    }

    #[test]
    fn a_password_handed_in_is_second_to_one_that_is_written_out() {
        let mut options = ConnectOptions::new("password=first", "pgkeep test");
        options.password = Some(Secret::new("second".to_owned()));
        let written = options.resolve().unwrap();
        assert_eq!(written.config.get_password(), Some(&b"first"[..]));
        options.connection = Secret::new(String::new());
        let handed_in = options.resolve().unwrap();
        assert_eq!(handed_in.config.get_password(), Some(&b"second"[..]));
    }

    #[test]
    fn mistakes_are_told_without_the_secret() {
        for (text, part) in [
            ("host=a password=hunter2 sesame", "character 25"),
            ("password='hunter2", "closing quote"),
            ("password=hunter2 =x", "a key is missing"),
            ("password=hunter2 nonsense=1", "nonsense"),
            ("host=a password=hunter2 sslmode=maybe", "sslmode"),
            ("postgresql://u:hunter2@h/?sslmode=%zz", "percent"),
        ] {
            let error = resolve(text).unwrap_err();
            let shown = format!("{error} {error:?}");
            assert!(shown.contains(part), "{text}: {shown}");
            assert!(!shown.contains("hunter2"), "{shown}");
            assert!(!shown.contains("sesame"), "{shown}");
        }
        let options = ConnectOptions::new("password=hunter2", "x");
        assert!(!format!("{options:?}").contains("hunter2"));
        assert!(!format!("{:?}", options.resolve()).contains("hunter2"));
    }

    #[test]
    fn tls_does_not_apply_to_unix_sockets() {
        let target = resolve("host=/tmp sslmode=verify-full").unwrap();
        assert_eq!(target.config.get_ssl_mode(), SslMode::Disable);
        let target = resolve("hostaddr=127.0.0.1").unwrap();
        assert_eq!(target.config.get_ssl_mode(), SslMode::Prefer);
        assert_eq!(target.config.get_hosts().len(), 1);
    }
}
