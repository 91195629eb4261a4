//! `pgconn` against real servers: facts, backups, and every way in which a held session ends.
//!
//! [`Scratch`] is a stop-gap: `support` replaces it when it is here.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::print_stderr,
    clippy::cast_possible_truncation,
    reason = "a test: a panic is how it reports, and the environment says what must not be skipped"
)]

use std::fs::Permissions;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use pgkeep::base::{Cancel, Ctx, Silent};
use pgkeep::pgconn::{
    BackupSession, ConnectOptions, Error, Known, SegmentStatus, ServerFacts, Session, StartOptions,
};

use crate::support::Server;

/// A server of its own, stopped and removed when dropped.
struct Scratch {
    dir: tempfile::TempDir,
    bin: PathBuf,
}

/// The folder of a major's programs; a missing one shows.
fn bin(major: u32) -> Option<PathBuf> {
    Server::major(major).map(|server| server.bin().to_path_buf())
}

fn as_postgres(program: &Path, dir: &Path) -> Command {
    let mut command = Command::new(program);
    command.env_clear().env("LC_ALL", "C").current_dir(dir);
    if rustix::process::geteuid().is_root() {
        let (uid, gid) = postgres_ids();
        command.uid(uid).gid(gid);
    }
    command
}

fn postgres_ids() -> (u32, u32) {
    let passwd = std::fs::read_to_string("/etc/passwd").unwrap();
    let line = passwd.lines().find(|l| l.starts_with("postgres:")).unwrap();
    let fields: Vec<&str> = line.split(':').collect();
    (fields[2].parse().unwrap(), fields[3].parse().unwrap())
}

fn run(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(
        output.status.success(),
        "{command:?}: {}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

impl Scratch {
    fn empty(bin: PathBuf) -> Self {
        let dir = tempfile::Builder::new().prefix("pgconn-").tempdir_in("/tmp").unwrap();
        std::fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).unwrap();
        if rustix::process::geteuid().is_root() {
            let (uid, gid) = postgres_ids();
            std::os::unix::fs::chown(dir.path(), Some(uid), Some(gid)).unwrap();
        }
        Self { dir, bin }
    }

    fn start(bin: PathBuf, settings: &str) -> Self {
        let scratch = Self::empty(bin);
        let mut initdb = as_postgres(&scratch.bin.join("initdb"), scratch.dir.path());
        run(initdb
            .args(["-N", "-k", "-U", "postgres", "-A", "trust", "-E", "UTF8", "-D"])
            .arg(scratch.data()));
        scratch.configure(&format!(
            "listen_addresses = ''\nunix_socket_directories = '{}'\nfsync = off\n\
             shared_buffers = 16MB\n{settings}\n",
            scratch.dir.path().display()
        ));
        scratch.pg_ctl(&["start"]);
        scratch
    }

    fn configure(&self, settings: &str) {
        use std::io::Write as _;
        let conf = self.data().join("postgresql.conf");
        let mut conf = std::fs::File::options().append(true).open(conf).unwrap();
        conf.write_all(settings.as_bytes()).unwrap();
    }

    fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    fn pg_ctl(&self, args: &[&str]) {
        let log = self.dir.path().join("log");
        let mut command = as_postgres(&self.bin.join("pg_ctl"), self.dir.path());
        // Its output goes to a file: a server keeps what pg_ctl inherits.
        run(command
            .args(["-s", "-w", "-t", "60", "-D"])
            .arg(self.data())
            .arg("-l")
            .arg(log)
            .args(args));
    }

    fn sql(&self, sql: &str) {
        let psql = Path::new("/usr/lib/postgresql/15/bin/psql");
        let mut command = as_postgres(psql, self.dir.path());
        run(command
            .args(["-qX", "-v", "ON_ERROR_STOP=1", "-U", "postgres", "-h"])
            .arg(self.dir.path())
            .args(["-c", sql]));
    }

    fn options(&self, more: &str) -> ConnectOptions {
        let host = self.dir.path().display();
        ConnectOptions::new(format!("host={host} user=postgres {more}"), "pgkeep test")
    }

    fn connect(&self) -> Session {
        Session::connect(&ctx(), &self.options("")).unwrap()
    }

    fn postmaster_pid(&self) -> Vec<u8> {
        std::fs::read(self.data().join("postmaster.pid")).unwrap()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let mut command = as_postgres(&self.bin.join("pg_ctl"), self.dir.path());
        command.args(["-s", "-w", "-m", "immediate", "stop", "-D"]);
        command.arg(self.data()).output().ok();
    }
}

fn ctx() -> Ctx {
    Ctx::system(Arc::new(Silent))
}

fn start_options() -> StartOptions {
    let mut options = StartOptions::new("test label");
    options.pulse_every = Duration::ZERO;
    options
}

/// Starts a backup soon after one that was not ended: the lock goes with the session, which the server
/// clears away a moment after its client has gone.
fn start_after(ctx: &Ctx, server: &Scratch, options: StartOptions) -> BackupSession {
    let since = Instant::now();
    loop {
        match BackupSession::start(ctx, server.connect(), options.clone()) {
            Err(Error::BackupRunning { .. }) if since.elapsed() < Duration::from_secs(5) => {}
            other => return other.unwrap(),
        }
    }
}

/// Waits until the session itself has noticed, without asking the server.
fn wait_until_lost(session: &Session) -> String {
    let since = Instant::now();
    loop {
        if let Some(reason) = session.lost() {
            return reason.to_owned();
        }
        assert!(since.elapsed() < Duration::from_secs(5), "nobody noticed");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn every_major_tells_its_facts_and_takes_a_backup() {
    for major in 14..=18 {
        let Some(bin) = bin(major) else { continue };
        let server = Scratch::start(
            bin,
            "archive_mode = on\narchive_command = '/bin/true'\nwal_level = logical",
        );
        let space = server.dir.path().join("ts");
        run(as_postgres(Path::new("/bin/mkdir"), server.dir.path()).arg(&space));
        server.sql(&format!("CREATE TABLESPACE ts LOCATION '{}'", space.display()));
        server.sql("SELECT pg_create_logical_replication_slot('sub', 'pgoutput')");
        server.sql("CREATE ROLE plain LOGIN");
        check_facts(&server, major);
        check_unprivileged_facts(&server);
        check_wal_functions(&server);
        check_backup(&server);
    }
}

fn check_facts(server: &Scratch, major: u32) {
    let ctx = ctx();
    let session = server.connect();
    let facts = ServerFacts::read(&ctx, &session).unwrap();
    assert_eq!(facts.server_version / 10_000, i32::try_from(major).unwrap());
    assert_eq!(facts.checkpoint_timeline, 1);
    assert_eq!(facts.wal.timeline, Some(1));
    assert!(facts.wal.lsn.unwrap() >= facts.checkpoint_lsn);
    assert!(facts.checkpoint_lsn >= facts.redo_lsn && facts.redo_lsn > 0);
    assert!(!facts.in_recovery && facts.data_checksums && facts.full_page_writes);
    assert_eq!((facts.block_size, facts.wal_block_size), (8192, 8192));
    assert_eq!(facts.wal_segment_size, 16 << 20);
    assert_eq!(facts.blocks_per_segment, 131_072);
    assert_eq!(facts.archive_mode, "on");
    assert_eq!(facts.archive_command, "/bin/true");
    assert_eq!(facts.archive_library.is_some(), major >= 15);
    assert_eq!((facts.archive_timeout, facts.wal_level.as_str()), (0, "logical"));
    let data = server.data().display().to_string();
    assert_eq!(facts.data_directory, Known::Yes(data.clone()));
    assert_eq!(facts.hba_file, Known::Yes(data + "/pg_hba.conf"));
    assert_eq!(facts.postmaster_pid, Known::Yes(server.postmaster_pid()));
    assert_eq!(facts.logical_slots, ["sub"]);
    assert_eq!(facts.tablespaces.len(), 1);
    assert_eq!(facts.tablespaces[0].name, "ts");
    assert!(facts.tablespaces[0].location.ends_with("/ts"));
    let drift = facts.server_clock - ctx.clock.now();
    assert!(drift.abs() < chrono::TimeDelta::seconds(5), "{drift}");
    assert!(facts.postmaster_start < facts.server_clock);
    assert_eq!(facts.max_worker_processes, 8);
    let control = Command::new("/usr/lib/postgresql/15/bin/pg_controldata")
        .env("LC_ALL", "C")
        .arg(server.data())
        .output()
        .unwrap();
    if major == 15 {
        let control = String::from_utf8(control.stdout).unwrap();
        let shown = format!("identifier:           {}\n", facts.system_identifier);
        assert!(control.contains(&shown), "{control}");
    }
}

fn check_unprivileged_facts(server: &Scratch) {
    let ctx = ctx();
    let mut options = server.options("");
    let host = server.dir.path().display();
    options.connection = pgkeep::base::Secret::new(format!("host={host} user=plain"));
    let session = Session::connect(&ctx, &options).unwrap();
    let facts = ServerFacts::read(&ctx, &session).unwrap();
    let Known::Withheld { reason } = &facts.data_directory else {
        panic!("{:?}", facts.data_directory)
    };
    assert!(reason.contains("pg_read_all_settings"), "{reason}");
    assert_eq!(facts.shared_preload_libraries.value(), None);
    assert_eq!(facts.postmaster_pid.value(), None);
    assert_eq!(session.ready_segments(&ctx).unwrap().value(), None);
    let denied = session.prove_directory(&ctx, b"").unwrap_err();
    assert!(matches!(denied, Error::Denied { .. }), "{denied:?}");
    let denied = BackupSession::start(&ctx, session, start_options()).unwrap_err();
    assert_eq!(denied.sqlstate(), Some("42501"), "{denied:?}");
}

fn check_wal_functions(server: &Scratch) {
    let ctx = ctx();
    let session = server.connect();
    let before = session.current_wal_insert_lsn(&ctx).unwrap();
    // A quote and a placeholder: a value is never SQL.
    let point = session.create_restore_point(&ctx, "it's $1").unwrap();
    let switched = session.switch_wal(&ctx).unwrap();
    assert!(before <= point && point <= switched);
    let segment = format!("{:08X}{:08X}{:08X}", 1, 0, point >> 24);
    let since = Instant::now();
    loop {
        let status = session.segment_status(&ctx, &segment).unwrap();
        if status == Known::Yes(SegmentStatus::Done) {
            break;
        }
        assert!(since.elapsed() < Duration::from_secs(30), "{status:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
    let unmarked = session.segment_status(&ctx, "0000000100000000000000FF");
    assert_eq!(unmarked.unwrap(), Known::Yes(SegmentStatus::Unmarked));
    let archiver = session.archiver(&ctx).unwrap();
    assert!(archiver.since.is_some() && archiver.failed_count == 0);
    assert!(matches!(session.ready_segments(&ctx).unwrap(), Known::Yes(r) if r.count == 0));
}

fn check_backup(server: &Scratch) {
    let ctx = ctx();
    let session = server.connect();
    session.prove_not_pooled(&ctx).unwrap();
    session.prove_directory(&ctx, &server.postmaster_pid()).unwrap();
    let version = session.server_version();
    let backup = BackupSession::start(&ctx, session, start_options()).unwrap();
    let reader = server.connect();
    let identity = backup.session().identity(&ctx).unwrap();
    reader.prove_same_server(&ctx, &identity).unwrap();
    backup.check_alive(&ctx).unwrap();
    let start_lsn = backup.start_lsn();
    let newest = backup.newest_lsn(&ctx).unwrap();
    assert!(newest > start_lsn);
    let stopped = backup.stop(&ctx).unwrap();
    backup.release();
    assert_eq!(stopped.start_lsn, start_lsn);
    assert!(stopped.stop_lsn > start_lsn);
    assert_eq!((stopped.start_timeline, stopped.stop_timeline), (1, 1));
    assert!(stopped.called_at < stopped.started_at);
    assert!(stopped.started_at < stopped.stopped_at);
    let label = String::from_utf8(stopped.backup_label).unwrap();
    let start = format!("START WAL LOCATION: {:X}/{:X}", start_lsn >> 32, start_lsn as u32);
    assert!(label.starts_with(&start) || version >= 190_000, "{label}");
    assert!(label.contains("LABEL: test label\n"), "{label}");
    assert!(label.contains("START TIMELINE: 1\n"), "{label}");
    let map = String::from_utf8(stopped.tablespace_map).unwrap();
    assert!(map.ends_with("/ts\n"), "{map}");
    // The held session goes, a moment after its client.
    let since = Instant::now();
    loop {
        match reader.prove_same_server(&ctx, &identity) {
            Ok(()) => assert!(since.elapsed() < Duration::from_secs(5)),
            Err(lost) => {
                assert!(lost.to_string().contains("backup's session"), "{lost}");
                break;
            }
        }
    }
}

#[test]
fn a_second_backup_is_refused_and_says_who_runs() {
    let Some(bin) = bin(15) else { return };
    let server = Scratch::start(bin, "");
    server.sql("CREATE DATABASE other");
    let ctx = ctx();
    let first = BackupSession::start(&ctx, server.connect(), start_options()).unwrap();
    for more in ["", "dbname=other"] {
        let session = Session::connect(&ctx, &server.options(more)).unwrap();
        let refused = BackupSession::start(&ctx, session, start_options()).unwrap_err();
        let Error::BackupRunning { who } = refused else { panic!("{refused:?}") };
        assert_eq!(who.pid, first.session().backend_pid());
        assert_eq!(who.application_name, "pgkeep backup test label");
        assert_eq!(who.user.as_deref(), Some("postgres"));
        assert!(who.since.is_some());
    }
    first.check_alive(&ctx).unwrap();
    first.abort().unwrap();
    // The lock goes with the session, which the server ends a moment after us.
    // At once: the lock is released before the session goes.
    let again = BackupSession::start(&ctx, server.connect(), start_options()).unwrap();
    again.stop(&ctx).unwrap();
    again.release();
}

#[test]
fn the_end_of_the_server_is_noticed_at_once() {
    let Some(bin) = bin(15) else { return };
    let server = Scratch::start(bin, "");
    let ctx = ctx();

    let backup = BackupSession::start(&ctx, server.connect(), start_options()).unwrap();
    let pid = backup.session().backend_pid();
    server.sql(&format!("SELECT pg_terminate_backend({pid})"));
    let reason = wait_until_lost(backup.session());
    assert!(reason.contains("57P01"), "{reason}");
    assert!(matches!(backup.check_alive(&ctx), Err(Error::Lost { .. })));
    assert!(matches!(backup.stop(&ctx), Err(Error::Lost { .. })));

    let backup = start_after(&ctx, &server, start_options());
    server.pg_ctl(&["restart", "-m", "fast"]);
    let reason = wait_until_lost(backup.session());
    assert!(reason.contains("57P01"), "{reason}");
    assert!(matches!(backup.abort(), Err(Error::Lost { .. })));

    let backup = start_after(&ctx, &server, start_options());
    let postmaster = String::from_utf8(server.postmaster_pid()).unwrap();
    let postmaster = postmaster.lines().next().unwrap();
    run(Command::new("/bin/kill").args(["-9", postmaster]));
    let since = Instant::now();
    wait_until_lost(backup.session());
    assert!(since.elapsed() < Duration::from_secs(2));
    assert!(matches!(backup.stop(&ctx), Err(Error::Lost { .. })));
    let refused = Session::connect(&ctx, &server.options("")).unwrap_err();
    assert!(matches!(refused, Error::Connect { .. }), "{refused:?}");
}

/// A spread checkpoint is the slowest thing that is ever waited for.
#[test]
fn a_slow_start_gives_way_to_its_deadline_and_to_ctrl_c() {
    let Some(bin) = bin(15) else { return };
    let server =
        Scratch::start(bin, "checkpoint_timeout = 10min\ncheckpoint_completion_target = 0.9");
    // None of these may reach the held session.
    server.sql(
        "ALTER ROLE postgres SET statement_timeout = '300ms'; \
         ALTER ROLE postgres SET idle_session_timeout = '300ms'",
    );
    let dirty = "DROP TABLE IF EXISTS t; CREATE TABLE t AS SELECT repeat('x', 900) \
                 FROM generate_series(1, 8000)";
    let slow = || StartOptions { fast: false, ..start_options() };

    server.sql(dirty);
    let ctx = ctx();
    let options = StartOptions { start_timeout: Duration::from_secs(1), ..slow() };
    let since = Instant::now();
    let late = BackupSession::start(&ctx, server.connect(), options).unwrap_err();
    let took = since.elapsed();
    assert!(matches!(late, Error::Timeout { .. }), "{late:?}");
    assert!(took >= Duration::from_secs(1) && took < Duration::from_secs(4), "{took:?}");

    let session = server.connect();
    let cancel = ctx.cancel.clone();
    let pressed = std::thread::scope(|scope| {
        let pressing = scope.spawn(|| {
            std::thread::sleep(Duration::from_millis(700));
            cancel.cancel();
            Instant::now()
        });
        let stopped = BackupSession::start(&ctx, session, slow()).unwrap_err();
        let reacted = Instant::now();
        assert!(matches!(stopped, Error::Cancelled), "{stopped:?}");
        reacted - pressing.join().unwrap()
    });
    assert!(pressed < Duration::from_secs(1), "{pressed:?}");
    let refused = Session::connect(&ctx, &server.options("")).unwrap_err();
    assert!(matches!(refused, Error::Cancelled), "{refused:?}");
}

#[test]
fn a_promotion_in_the_middle_ends_the_backup() {
    let Some(bin) = bin(15) else { return };
    let primary = Scratch::start(bin.clone(), "");
    let standby = Scratch::empty(bin);
    let mut copy = as_postgres(&standby.bin.join("pg_basebackup"), standby.dir.path());
    run(copy
        .args(["-R", "-c", "fast", "-U", "postgres", "-h"])
        .arg(primary.dir.path())
        .arg("-D")
        .arg(standby.data()));
    standby.configure(&format!("unix_socket_directories = '{}'\n", standby.dir.path().display()));
    standby.pg_ctl(&["start"]);
    let ctx = ctx();

    // Same cluster, other server: that is what the proofs are for.
    let session = standby.connect();
    let held = primary.connect().identity(&ctx).unwrap();
    let other = session.prove_same_server(&ctx, &held).unwrap_err();
    assert!(matches!(other, Error::OtherServer { .. }), "{other:?}");
    let other = session.prove_directory(&ctx, &primary.postmaster_pid()).unwrap_err();
    assert!(other.to_string().contains("data directory"), "{other}");
    session.prove_directory(&ctx, &standby.postmaster_pid()).unwrap();

    let whole = BackupSession::start(&ctx, session, start_options()).unwrap();
    assert!(whole.in_recovery());
    let replayed = whole.session().wal_position(&ctx).unwrap().lsn.unwrap();
    assert!(whole.newest_lsn(&ctx).unwrap() >= replayed);
    let stopped = whole.stop(&ctx).unwrap();
    let again = BackupSession::start(&ctx, standby.connect(), start_options()).unwrap_err();
    assert!(matches!(again, Error::BackupRunning { .. }), "until it is released: {again:?}");
    whole.release();
    let whole = stopped;
    assert!(whole.in_recovery && whole.stop_timeline == 1);
    assert!(whole.stop_lsn >= whole.start_lsn);

    let facts = ServerFacts::read(&ctx, &standby.connect()).unwrap();
    assert!(facts.in_recovery && facts.wal.lsn.is_some());

    let backup = BackupSession::start(&ctx, standby.connect(), start_options()).unwrap();
    backup.check_alive(&ctx).unwrap();
    standby.pg_ctl(&["promote"]);
    let promoted = backup.check_alive(&ctx).unwrap_err();
    assert!(matches!(promoted, Error::Promoted), "{promoted:?}");
    let promoted = backup.stop(&ctx).unwrap_err();
    assert!(matches!(promoted, Error::Promoted), "{promoted:?}");
}

#[test]
fn tls_checks_as_much_as_it_is_told_to() {
    let Some(bin) = bin(15) else { return };
    let port = {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap().port()
    };
    let server = Scratch::start(bin, "");
    for (name, signed_by) in [("stranger", None), ("ca", None), ("server", Some("ca"))] {
        let mut openssl = as_postgres(Path::new("/usr/bin/openssl"), server.dir.path());
        openssl
            .args(["req", "-x509", "-newkey", "ec"])
            .args(["-pkeyopt", "ec_paramgen_curve:P-256"])
            .args(["-nodes", "-days", "2", "-subj", &format!("/CN={name}")])
            .args(["-keyout", &format!("{name}.key")])
            .args(["-out", &format!("{name}.crt")]);
        if let Some(ca) = signed_by {
            openssl
                .args(["-CA", &format!("{ca}.crt"), "-CAkey", &format!("{ca}.key")])
                .args(["-addext", "basicConstraints=critical,CA:FALSE"])
                .args(["-addext", "subjectAltName=DNS:localhost"]);
        }
        run(&mut openssl);
    }
    let dir = server.dir.path().display().to_string();
    server.configure(&format!(
        "listen_addresses = '127.0.0.1'\nport = {port}\nssl = on\n\
         ssl_cert_file = '{dir}/server.crt'\nssl_key_file = '{dir}/server.key'\n"
    ));
    let hba = "local all all trust\nhostssl all all 127.0.0.1/32 trust\n";
    std::fs::write(server.data().join("pg_hba.conf"), hba).unwrap();
    server.pg_ctl(&["restart", "-m", "fast"]);
    let ctx = ctx();
    let attempt = |more: &str| {
        let text = format!("port={port} user=postgres {more}");
        Session::connect(&ctx, &ConnectOptions::new(text, "pgkeep test"))
            .map(|session| session.prove_not_pooled(&ctx).unwrap())
            .map_err(|error| error.to_string())
    };
    for good in [
        "hostaddr=127.0.0.1".to_owned(),
        "host=127.0.0.1 sslmode=require".to_owned(),
        format!("host=127.0.0.1 sslmode=require sslrootcert={dir}/ca.crt"),
        format!("host=127.0.0.1 sslmode=verify-ca sslrootcert={dir}/ca.crt"),
        format!("host=localhost hostaddr=127.0.0.1 sslmode=verify-full sslrootcert={dir}/ca.crt"),
        // The server's own certificate in place of an authority's.
        format!(
            "host=localhost hostaddr=127.0.0.1 sslmode=verify-full sslrootcert={dir}/server.crt"
        ),
    ] {
        attempt(&good).unwrap();
    }
    for (bad, why) in [
        ("host=127.0.0.1 sslmode=disable".to_owned(), "28000"),
        (format!("host=127.0.0.1 sslmode=require sslrootcert={dir}/stranger.crt"), "certificate"),
        (format!("host=127.0.0.1 sslmode=verify-full sslrootcert={dir}/ca.crt"), "certificate"),
        ("host=127.0.0.1 sslmode=verify-full sslrootcert=system".to_owned(), "certificate"),
    ] {
        let error = attempt(&bad).unwrap_err();
        assert!(error.contains(why), "{bad}: {error}");
    }
}

#[test]
fn connecting_gives_up_and_says_where() {
    // A listener that never answers.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut options = ConnectOptions::new(
        format!("host=127.0.0.1 port={port} user=nobody password=hunter2"),
        "pgkeep test",
    );
    options.connect_timeout = Duration::from_millis(300);
    let since = Instant::now();
    let error = Session::connect(&ctx(), &options).unwrap_err();
    assert!(since.elapsed() < Duration::from_secs(2));
    let shown = format!("{error} {error:?}");
    assert!(error.to_string().contains(&format!("port={port}")), "{shown}");
    assert!(shown.contains("no session within") && !shown.contains("hunter2"), "{shown}");

    let ctx = ctx();
    let cancel: Cancel = ctx.cancel.clone();
    options.connect_timeout = Duration::from_secs(60);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(Duration::from_millis(200));
            cancel.cancel();
        });
        let error = Session::connect(&ctx, &options).unwrap_err();
        assert!(matches!(error, Error::Cancelled), "{error:?}");
    });
}
