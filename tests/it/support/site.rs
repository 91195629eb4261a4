//! A live cluster that archives into a repository, all of it by the command line: for tests that take
//! backups and restore them.

use std::path::Path;

use serde_json::Value;

use super::run::{Ran, run};
use super::{Cipher, Launch, Server, TestCluster, TestConfig, TestRepo};

/// A cluster and the repository that it archives into.
pub struct Site {
    pub cluster: TestCluster,
    pub config: TestConfig,
    pub repo: TestRepo,
}

impl Site {
    /// Starts a cluster that archives into a repository.
    pub fn start(launch: Launch) -> Self {
        let cluster = launch.archiving().setting("autovacuum", "off").start();
        let repo = TestRepo::new();
        let config = TestConfig::new(&cluster).repository("local", &repo, Cipher::Aes);
        config.run(["init"]).assert_ok();
        cluster.set_archive_command(&config.archive_command());
        Self { cluster, config, repo }
    }

    /// A small one: checksums, segments of 1 MiB.
    pub fn small(server: &Server) -> Self {
        Self::start(TestCluster::create(server).checksums().wal_segment_mib(1))
    }

    /// Takes a full backup and returns its id.
    #[track_caller]
    pub fn backup(&self) -> String {
        self.backup_of("full")["id"].as_str().unwrap().to_owned()
    }

    /// Takes a backup of that type; what it says of itself.
    #[track_caller]
    pub fn backup_of(&self, backup_type: &str) -> Value {
        let ran = self.config.run(["backup", "--json", "--type", backup_type]);
        json(&ran.assert_ok().stdout)
    }

    /// Restores into `to`.
    #[track_caller]
    pub fn restore(&self, to: &Path, arguments: &[&str]) -> Ran {
        let mut command = self.config.pgkeep(["restore", "--yes", "--target-action", "promote"]);
        run(command.arg("--to").arg(to).args(arguments)).assert_ok()
    }

    /// Where a relation's first file is, relative to the data directory.
    pub fn path_of(&self, relation: &str) -> String {
        self.cluster.psql(&format!("select pg_relation_filepath('{relation}')"))
    }
}

/// Reads JSON, or fails with the text.
#[track_caller]
pub fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|why| panic!("{why}\n{text}"))
}

/// Starts what was restored, and waits until it writes.
#[track_caller]
pub fn started(server: &Server, data: &Path) -> TestCluster {
    let copy = TestCluster::adopt(server, data).start();
    copy.wait_for_promotion();
    copy
}
