//! What is compared: pgkeep and pgBackRest, each with a repository of its own in a folder, LZ4,
//! aes-256-cbc and two workers.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use super::cluster::{Cluster, said};
use super::folder::Folder;
use super::installed;

/// pgkeep with one repository.
pub struct Pgkeep<'a> {
    folder: &'a Folder,
    name: &'static str,
    config: PathBuf,
}

impl<'a> Pgkeep<'a> {
    /// With `secret` as the line that names it: a key file unless there is one.
    pub fn new(
        cluster: &Cluster<'_>,
        folder: &'a Folder,
        name: &'static str,
        secret: &str,
    ) -> Self {
        let place = format!("url = \"file://{}\"", folder.join(name).display());
        Self::at(cluster, folder, name, &place, secret)
    }

    /// With the lines of `place` as where the repository is.
    pub fn at(
        cluster: &Cluster<'_>,
        folder: &'a Folder,
        name: &'static str,
        place: &str,
        secret: &str,
    ) -> Self {
        let key = format!("key_file = \"{}\"", folder.join(&format!("{name}.key")).display());
        let secret = if secret.is_empty() { &key } else { secret };
        let text = format!(
            "[cluster.main]\nconnection = \"{}\"\ndata_directory = \"{}\"\njobs = 2\n\n\
             [repository.local]\n{place}\n\n\
             [repository.local.encryption]\ncipher = \"aes-256-cbc\"\n{secret}\n",
            cluster.conninfo(),
            cluster.data().display(),
        );
        Self { folder, name, config: folder.write(&format!("{name}.toml"), &text) }
    }

    /// An empty repository.
    pub fn make_repository(&self) {
        self.folder.make_empty(self.name);
        fs::remove_file(self.folder.join(&format!("{}.key", self.name))).ok();
        said(self.command().arg("init"));
    }

    pub fn repository(&self) -> PathBuf {
        self.folder.join(self.name)
    }

    pub fn command(&self) -> Command {
        let mut command = self.folder.command(self.folder.join("pgkeep"));
        command.arg("--config").arg(&self.config);
        command
    }

    pub fn archive_command(&self) -> String {
        self.line("archive-push \"%p\"")
    }

    /// A line for the shell.
    pub fn line(&self, arguments: &str) -> String {
        let binary = self.folder.join("pgkeep");
        format!("{} --config {} {arguments}", binary.display(), self.config.display())
    }
}

/// Debian's pgBackRest, with bundles, and blocks where the version has them.
pub struct PgBackRest<'a> {
    folder: &'a Folder,
    binary: PathBuf,
    config: PathBuf,
    /// What `pgbackrest version` says.
    pub version: String,
}

impl<'a> PgBackRest<'a> {
    /// `None` when it is not installed.
    pub fn find(cluster: &Cluster<'_>, folder: &'a Folder) -> Option<Self> {
        let place = format!("repo1-path={}\n", folder.join("rest").display());
        Self::with(cluster, folder, &place)
    }

    /// With the lines of `place` as where the repository is.
    pub fn with(cluster: &Cluster<'_>, folder: &'a Folder, place: &str) -> Option<Self> {
        let binary = installed("pgbackrest")?;
        let version = said(folder.command(&binary).arg("version"));
        let minor: u32 =
            version.rsplit("2.").next()?.split('.').next()?.parse().unwrap_or_default();
        let blocks = if minor >= 46 { "repo1-block=y\n" } else { "" };
        let text = format!(
            "[global]\n{place}repo1-cipher-type=aes-256-cbc\nrepo1-cipher-pass={}\n\
             repo1-bundle=y\n{blocks}repo1-retention-full=9\nprocess-max=2\ncompress-type=lz4\n\
             start-fast=y\nlog-level-console=warn\nlog-level-file=off\nlock-path={}\nspool-path={}\n\n\
             [main]\npg1-path={}\npg1-socket-path={}\npg1-user=postgres\n",
            "0123456789abcdef".repeat(4),
            folder.join("rest-lock").display(),
            folder.join("rest-spool").display(),
            cluster.data().display(),
            folder.join("").display(),
        );
        let config = folder.write("pgbackrest.conf", &text);
        Some(Self { folder, binary, config, version })
    }

    /// An empty repository.
    pub fn make_repository(&self) {
        for name in ["rest", "rest-lock", "rest-spool"] {
            self.folder.make_empty(name);
        }
        said(self.command().arg("stanza-create"));
    }

    pub fn repository(&self) -> PathBuf {
        self.folder.join("rest")
    }

    pub fn command(&self) -> Command {
        let mut command = self.folder.command(&self.binary);
        command.arg(format!("--config={}", self.config.display())).arg("--stanza=main");
        command
    }

    pub fn archive_command(&self) -> String {
        self.line("archive-push %p")
    }

    /// A line for the shell.
    pub fn line(&self, arguments: &str) -> String {
        let config = self.config.display();
        format!("{} --config={config} --stanza=main {arguments}", self.binary.display())
    }

    /// Where its asynchronous commands leave what they did.
    pub fn spool(&self) -> PathBuf {
        self.folder.join("rest-spool")
    }
}
