//! A pgkeep configuration for a scratch cluster, and repositories in scratch folders and buckets.

use std::cell::{Cell, RefCell};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::account;
use super::cluster::TestCluster;
use super::run::{DEADLINE, Ran, Running, run, start, wait_until};
use super::s3::TestS3;
use super::scratch::ScratchDir;

thread_local! {
    static IN_BUCKETS: Cell<bool> = const { Cell::new(false) };
    static BY_DAEMON: Cell<bool> = const { Cell::new(false) };
    static DAEMONS: Cell<u32> = const { Cell::new(0) };
}

/// Runs a test with a daemon for each of its configurations, and nobody to fall back to: of tests that
/// archive and fetch by the command line.
pub fn by_daemon(test: fn()) {
    BY_DAEMON.set(true);
    DAEMONS.set(0);
    test();
    BY_DAEMON.set(false);
    assert!(DAEMONS.get() > 0 || std::env::var("PGKEEP_SKIP_LIVE").is_ok(), "no daemon was asked");
}

/// Runs a test with each of its repositories in a bucket instead of a folder: of tests that only use the
/// command line.
pub fn in_buckets(test: fn()) {
    IN_BUCKETS.set(true);
    test();
    IN_BUCKETS.set(false);
}

/// A folder for one repository, empty until `pgkeep init`; or a bucket ([`in_buckets`]).
pub struct TestRepo {
    scratch: ScratchDir,
    folder: PathBuf,
    s3: Option<TestS3>,
}

/// How a repository keeps its objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cipher {
    /// AES-256-CBC under a key file that `pgkeep init` makes.
    Aes,
    /// `cipher = "none"`, written out.
    None,
}

/// A configuration file with one cluster, `main`.
#[derive(Debug)]
pub struct TestConfig {
    scratch: ScratchDir,
    text: String,
    /// Begins with the first archive command ([`by_daemon`]).
    daemon: RefCell<Option<Running>>,
}

impl TestRepo {
    /// A new, empty folder of the unprivileged account.
    pub fn new() -> Self {
        let scratch = ScratchDir::new("repo");
        let folder = scratch.create_dir("store");
        let s3 = IN_BUCKETS.get().then(TestS3::start);
        Self { scratch, folder, s3 }
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.folder
    }

    /// Its address in a configuration.
    pub fn url(&self) -> String {
        format!("file://{}", self.folder.display())
    }

    /// Where its key file is, once `pgkeep init` has made one: beside the folder.
    pub fn key_file(&self) -> PathBuf {
        self.scratch.join("repository.key")
    }
}

impl TestConfig {
    /// Names the cluster; a repository is still to be added.
    pub fn new(cluster: &TestCluster) -> Self {
        // Most tests that ask in vain mean the answer, not the waiting for it.
        let mut text = String::from("[cluster.main]\narchive_get_wait = \"0s\"\n");
        writeln!(text, "connection = {}", quoted(&cluster.conninfo())).unwrap();
        writeln!(text, "data_directory = {}", quoted(&cluster.data_dir().display().to_string()))
            .unwrap();
        let scratch = ScratchDir::new("config");
        if BY_DAEMON.get() {
            let socket = scratch.join("run/pgkeep.sock");
            let socket = quoted(&socket.display().to_string());
            writeln!(text, "[daemon]\nsocket = {socket}\nfallback = \"fail\"").unwrap();
        }
        Self { scratch, text, daemon: RefCell::default() }.written()
    }

    /// Lets archive-get try again for a while, instead of answering at once.
    pub fn archive_get_wait(mut self, wait: &str) -> Self {
        self.text = self.text.replacen(
            "archive_get_wait = \"0s\"",
            &format!("archive_get_wait = \"{wait}\""),
            1,
        );
        self.written()
    }

    /// Adds a repository.
    pub fn repository(mut self, name: &str, repo: &TestRepo, cipher: Cipher) -> Self {
        if let Some(s3) = &repo.s3 {
            return self.in_bucket(name, s3, "pgkeep", &repo.key_file(), cipher);
        }
        let url = quoted(&repo.url());
        write!(self.text, "\n[repository.{name}]\nurl = {url}\n").unwrap();
        let key_file = repo.key_file();
        self.encrypted(name, &key_file, cipher)
    }

    /// Adds a repository in a bucket, below the prefix `pgkeep`, by the keys of its owner.
    pub fn bucket(self, name: &str, s3: &TestS3, cipher: Cipher) -> Self {
        self.bucket_below(name, s3, "pgkeep", cipher)
    }

    /// Below any prefix. A dead peer is given up after two seconds, and all attempts after ten.
    pub fn bucket_below(self, name: &str, s3: &TestS3, prefix: &str, cipher: Cipher) -> Self {
        let key_file = self.scratch.join(&format!("{name}.key"));
        self.in_bucket(name, s3, prefix, &key_file, cipher)
    }

    fn in_bucket(
        mut self,
        name: &str,
        s3: &TestS3,
        prefix: &str,
        key_file: &Path,
        cipher: Cipher,
    ) -> Self {
        let url = quoted(&format!("s3://{}/{prefix}", s3.bucket()));
        let (endpoint, region) = (quoted(&s3.endpoint()), quoted(s3.region()));
        let access = self.scratch.write(&format!("{name}.access"), s3.access_key());
        let secret = self.scratch.write(&format!("{name}.secret"), s3.secret_key());
        let (access, secret) = (access.display(), secret.display());
        writeln!(
            self.text,
            "\n[repository.{name}]\nurl = {url}\nendpoint = {endpoint}\nregion = {region}\n\
             path_style = true\naccess_key_file = \"{access}\"\nsecret_key_file = \"{secret}\"\n\
             idle_timeout = \"2s\"\nretry_for = \"10s\""
        )
        .unwrap();
        if let Some(certificate) = s3.certificate() {
            let ca = self.scratch.write(&format!("{name}.pem"), certificate);
            writeln!(self.text, "ca_file = \"{}\"", ca.display()).unwrap();
        }
        self.encrypted(name, key_file, cipher)
    }

    /// Tries each request to a bucket once.
    pub fn impatient(mut self) -> Self {
        self.text = self.text.replace("retry_for = \"10s\"", "retry_for = \"0s\"");
        self.written()
    }

    /// Locks what is put into buckets for so many days.
    pub fn locking(mut self, days: u32) -> Self {
        let retry = "retry_for = \"10s\"";
        self.text = self.text.replace(retry, &format!("{retry}\nlock_days = {days}"));
        self.written()
    }

    fn encrypted(mut self, name: &str, key_file: &Path, cipher: Cipher) -> Self {
        writeln!(self.text, "\n[repository.{name}.encryption]").unwrap();
        match cipher {
            Cipher::Aes => {
                let key_file = quoted(&key_file.display().to_string());
                writeln!(self.text, "cipher = \"aes-256-cbc\"\nkey_file = {key_file}").unwrap();
            }
            Cipher::None => writeln!(self.text, "cipher = \"none\"").unwrap(),
        }
        self.written()
    }

    /// Adds any other lines.
    pub fn toml(mut self, lines: &str) -> Self {
        write!(self.text, "\n{lines}\n").unwrap();
        self.written()
    }

    /// With another text altogether.
    pub fn replaced(self, text: &str) -> Self {
        Self { text: text.to_owned(), ..self }.written()
    }

    fn written(self) -> Self {
        self.scratch.write("pgkeep.toml", &self.text);
        // It is started again with what is written now.
        self.daemon.take();
        self
    }

    /// Sees to it that a daemon listens, where the test is run by one.
    fn need_daemon(&self) {
        let is_configured = self.text.contains("fallback = \"fail\"");
        if !BY_DAEMON.get() || !is_configured || self.daemon.borrow().is_some() {
            return;
        }
        let mut command = self.command();
        let running = start(command.arg("daemon"));
        let is_ready = || running.stderr_so_far().contains("serves ");
        wait_until(DEADLINE, is_ready, || running.stderr_so_far());
        DAEMONS.set(DAEMONS.get() + 1);
        self.daemon.replace(Some(running));
    }

    fn command(&self) -> Command {
        let binary = self.scratch.pgkeep_binary();
        let mut command = account::unprivileged().command(binary, self.scratch.path());
        command.arg("--config").arg(self.path());
        command
    }

    /// The file.
    pub fn path(&self) -> PathBuf {
        self.scratch.join("pgkeep.toml")
    }

    /// Replaces a file beside it, such as `bucket.secret`.
    pub fn write(&self, name: &str, content: &str) {
        self.scratch.write(name, content);
    }

    /// The binary under test with this configuration and these arguments, as the server's account.
    pub fn pgkeep<const N: usize>(&self, args: [&str; N]) -> Command {
        if args.iter().any(|word| word.starts_with("archive-")) {
            self.need_daemon();
        }
        let mut command = self.command();
        command.args(args);
        command
    }

    /// Runs it to its end.
    #[must_use]
    pub fn run<const N: usize>(&self, args: [&str; N]) -> Ran {
        run(&mut self.pgkeep(args))
    }

    /// What `archive_command` is to be set to.
    pub fn archive_command(&self) -> String {
        format!("{} archive-push \"%p\"", self.shell_prefix())
    }

    /// What `restore_command` is to be set to.
    pub fn restore_command(&self) -> String {
        format!("{} archive-get %f \"%p\"", self.shell_prefix())
    }

    /// Scratch paths have no character that a shell or PostgreSQL would take for its own.
    fn shell_prefix(&self) -> String {
        self.need_daemon();
        format!("{} --config {}", self.scratch.pgkeep_binary().display(), self.path().display())
    }
}

/// A TOML basic string.
fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', r"\\").replace('"', "\\\""))
}
