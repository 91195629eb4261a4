//! A cluster whose restores are planned: what plans say, what refusals offer, and what a copy holds.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::run::{DEADLINE, Ran, run, wait_until};
use super::site::{Site, json, started};
use super::{ScratchDir, Server, Stop};

/// A site, and a folder for its copies.
pub struct Planned {
    pub server: Server,
    pub site: Site,
    pub copies: ScratchDir,
}

impl Planned {
    pub fn new(server: &Server) -> Self {
        Self::from_site(server, Site::small(server))
    }

    pub fn from_site(server: &Server, site: Site) -> Self {
        site.cluster.psql("create table t (n int)");
        Self { server: server.clone(), site, copies: ScratchDir::new("copies") }
    }

    pub fn insert(&self, n: u32) {
        self.site.cluster.psql(&format!("insert into t values ({n})"));
    }

    pub fn now(&self) -> String {
        self.site.cluster.psql("select clock_timestamp()")
    }

    pub fn lsn(&self) -> String {
        self.site.cluster.psql("select pg_current_wal_insert_lsn()")
    }

    pub fn ask(&self, args: &[&str]) -> Ran {
        let mut command = self.site.config.pgkeep(["restore", "--json", "--dry-run", "--to"]);
        run(command.arg(self.copies.join("asked")).args(args))
    }

    /// The plan as JSON.
    #[track_caller]
    pub fn plan(&self, args: &[&str]) -> Value {
        json(&self.ask(args).assert_ok().stdout)["plan"].take()
    }

    /// The plan once there is one: the server writes its last records to disk a little later.
    #[track_caller]
    pub fn plan_soon(&self, args: &[&str]) -> Value {
        let mut asked = self.ask(args);
        let is_planned = || {
            asked = self.ask(args);
            asked.is_ok()
        };
        wait_until(DEADLINE, is_planned, || format!("{args:?}"));
        json(&asked.stdout)["plan"].take()
    }

    /// The error as JSON, of a target that is refused.
    #[track_caller]
    pub fn refused(&self, args: &[&str]) -> Value {
        let refused = self.ask(args).assert_code(13);
        let told = json(&refused.stdout);
        assert_eq!(told["format_version"], 1);
        let error = told["error"].clone();
        assert_eq!(error["exit_code"], 13);
        assert!(refused.stderr.contains(error["message"].as_str().unwrap()), "{refused}");
        error
    }

    /// Restores, starts, waits until it writes: what is in the table.
    #[track_caller]
    pub fn rows(&self, name: &str, args: &[&str]) -> String {
        let to = self.copies.join(name);
        self.site.restore(&to, args);
        let copy = started(&self.server, &to);
        let rows = copy.psql("select coalesce(string_agg(n::text, ',' order by n), '') from t");
        copy.stop(Stop::Immediate);
        rows
    }

    /// The file of an object in the repository, by the end of its name.
    #[track_caller]
    pub fn object(&self, name: &str) -> PathBuf {
        let mut found = objects(self.site.repo.path()).into_iter();
        found.find(|path| path.ends_with(name)).unwrap()
    }

    pub fn remove_object(&self, name: &str) {
        fs::remove_file(self.object(name)).unwrap();
    }
}

pub fn objects(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().flatten();
    let each = entries.map(|entry| match entry.file_type().unwrap().is_dir() {
        true => objects(&entry.path()),
        false => vec![entry.path()],
    });
    each.flatten().collect()
}

/// A moment as `--target-time` takes it, so many microseconds later.
pub fn later(time: &Value, micros: i64) -> String {
    let time = chrono::DateTime::parse_from_rfc3339(time.as_str().unwrap()).unwrap();
    let time = time + chrono::TimeDelta::microseconds(micros);
    time.format("%Y-%m-%d %H:%M:%S%.6f%:z").to_string()
}
