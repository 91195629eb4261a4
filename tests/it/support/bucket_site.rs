//! A live cluster with its repository in a bucket: small, and what it archives is pushed by the test
//! until the archiver is told to.

use std::fs;
use std::path::PathBuf;

use super::run::{Ran, Running, run, start};
use super::s3::TestS3;
use super::site::{json, started};
use super::{Cipher, Launch, ScratchDir, Server, TestCluster, TestConfig, tools};

/// A cluster, a server of S3, and the repository `bucket` below the prefix `pgkeep` in it.
pub struct BucketSite {
    pub server: Server,
    pub cluster: TestCluster,
    pub config: TestConfig,
    /// What `init` said.
    pub made: Ran,
    /// Of copies and of files that were fetched.
    pub scratch: ScratchDir,
    pub s3: TestS3,
}

impl BucketSite {
    /// With checksums, segments of 1 MiB, which all stay in `pg_wal`, and an empty table `t`.
    pub fn new(server: &Server, s3: TestS3, cipher: Cipher) -> Self {
        let launch = TestCluster::create(server).checksums().wal_segment_mib(1);
        Self::from_launch(server, launch, s3, cipher)
    }

    /// As [`BucketSite::new`]; what is put is locked for so many days.
    pub fn locking(server: &Server, s3: TestS3, days: u32) -> Self {
        let launch = TestCluster::create(server).checksums().wal_segment_mib(1);
        Self::configured(server, launch, s3, Cipher::Aes, |config| config.locking(days))
    }

    pub fn from_launch(server: &Server, launch: Launch, s3: TestS3, cipher: Cipher) -> Self {
        Self::configured(server, launch, s3, cipher, |config| config)
    }

    fn configured(
        server: &Server,
        launch: Launch,
        s3: TestS3,
        cipher: Cipher,
        configure: impl FnOnce(TestConfig) -> TestConfig,
    ) -> Self {
        let launch = launch.archiving().setting("autovacuum", "off");
        let launch = launch.setting("archive_timeout", "60").setting("wal_keep_size", "1GB");
        let cluster = launch.start();
        let config = configure(TestConfig::new(&cluster).bucket("bucket", &s3, cipher));
        let made = config.run(["init"]).assert_ok();
        cluster.psql("create table t (n int)");
        let scratch = ScratchDir::new("files");
        Self { server: server.clone(), cluster, config, made, scratch, s3 }
    }

    /// Lets the server archive.
    pub fn archiving(self) -> Self {
        self.cluster.set_archive_command(&self.config.archive_command());
        self
    }

    /// Tries each request once.
    pub fn impatient(self) -> Self {
        Self { config: self.config.impatient(), ..self }
    }

    pub fn wal(&self, name: &str) -> PathBuf {
        self.cluster.data_dir().join("pg_wal").join(name)
    }

    pub fn content(&self, name: &str) -> Vec<u8> {
        fs::read(self.wal(name)).unwrap()
    }

    /// A complete segment with one more row of `t`.
    pub fn segment(&self) -> String {
        self.cluster.psql("insert into t values (1)");
        self.cluster.switch_wal()
    }

    /// A segment that could be this one, and is not.
    pub fn other_content(&self, name: &str) -> Vec<u8> {
        let mut other = self.content(name);
        *other.last_mut().unwrap() ^= 1;
        other
    }

    pub fn push(&self, name: &str) -> Ran {
        self.config.run(["archive-push", self.wal(name).to_str().unwrap()])
    }

    /// Pushes bytes under a name, from a folder of their own.
    pub fn push_bytes(&self, name: &str, content: &[u8]) -> Ran {
        let folder = ScratchDir::new("bytes");
        self.config.run(["archive-push", folder.write(name, content).to_str().unwrap()])
    }

    pub fn pushing(&self, path: &std::path::Path) -> Running {
        start(&mut self.config.pgkeep(["archive-push", path.to_str().unwrap()]))
    }

    /// Runs archive-get: its end, and what is at the destination.
    pub fn get(&self, name: &str) -> (Ran, Option<Vec<u8>>) {
        let out = self.scratch.join("fetched");
        fs::remove_file(&out).ok();
        let ran = self.config.run(["archive-get", name, out.to_str().unwrap()]);
        (ran, fs::read(&out).ok())
    }

    #[track_caller]
    pub fn assert_gives(&self, name: &str, content: &[u8]) {
        let (ran, got) = self.get(name);
        ran.assert_code(0);
        assert!(got.unwrap() == content, "{name}: byte for byte");
    }

    #[track_caller]
    pub fn assert_gives_nothing(&self, name: &str, code: i32) -> Ran {
        let (ran, got) = self.get(name);
        assert!(got.is_none(), "{name}: something is at the destination");
        ran.assert_code(code)
    }

    /// The key of an archived file in the bucket.
    pub fn object(&self, name: &str) -> Option<String> {
        self.s3.keys().into_iter().find(|key| key.ends_with(&format!("/{name}")))
    }

    /// Takes a backup and returns its id.
    #[track_caller]
    pub fn backup(&self) -> String {
        let taken = json(&self.config.run(["backup", "--json"]).assert_ok().stdout);
        taken["id"].as_str().unwrap().to_owned()
    }

    /// The backups that `info` shows, all of which it must call ok.
    #[track_caller]
    pub fn backups(&self) -> Vec<String> {
        let shown = json(&self.config.run(["info", "--json"]).assert_ok().stdout);
        let backups = shown["repositories"][0]["backups"].as_array().unwrap().clone();
        let id = |backup: &serde_json::Value| {
            assert_eq!(backup["state"], "ok", "{backup}");
            backup["id"].as_str().unwrap().to_owned()
        };
        backups.iter().map(id).collect()
    }

    /// Restores into a folder of that name.
    pub fn restore(&self, name: &str, arguments: &[&str]) -> Ran {
        let mut command = self.config.pgkeep(["restore", "--yes", "--target-action", "promote"]);
        run(command.arg("--to").arg(self.scratch.join(name)).args(arguments))
    }

    /// Restores, compares with the backup's manifest, starts, and waits until it writes.
    #[track_caller]
    pub fn restored(&self, name: &str, arguments: &[&str]) -> TestCluster {
        self.restore(name, arguments).assert_ok();
        let to = self.scratch.join(name);
        tools::assert_verifybackup(&self.cluster, &to);
        started(&self.server, &to)
    }
}
