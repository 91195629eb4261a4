//! A pgkeep configuration for a scratch cluster, and repositories in scratch folders.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::account;
use super::cluster::TestCluster;
use super::run::{Ran, run};
use super::scratch::ScratchDir;

/// A folder for one repository, empty until `pgkeep init`.
#[derive(Debug)]
pub struct TestRepo {
    scratch: ScratchDir,
    folder: PathBuf,
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
}

impl TestRepo {
    /// A new, empty folder of the unprivileged account.
    pub fn new() -> Self {
        let scratch = ScratchDir::new("repo");
        let folder = scratch.create_dir("store");
        Self { scratch, folder }
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
        Self { scratch: ScratchDir::new("config"), text }.written()
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
        let url = quoted(&repo.url());
        write!(self.text, "\n[repository.{name}]\nurl = {url}\n").unwrap();
        writeln!(self.text, "\n[repository.{name}.encryption]").unwrap();
        match cipher {
            Cipher::Aes => {
                let key_file = quoted(&repo.key_file().display().to_string());
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
        self
    }

    /// The file.
    pub fn path(&self) -> PathBuf {
        self.scratch.join("pgkeep.toml")
    }

    /// The binary under test with this configuration and these arguments, as the server's account.
    pub fn pgkeep<const N: usize>(&self, args: [&str; N]) -> Command {
        let binary = self.scratch.pgkeep_binary();
        let mut command = account::unprivileged().command(binary, self.scratch.path());
        command.arg("--config").arg(self.path()).args(args);
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
        format!("{} --config {}", self.scratch.pgkeep_binary().display(), self.path().display())
    }
}

/// A TOML basic string.
fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', r"\\").replace('"', "\\\""))
}
