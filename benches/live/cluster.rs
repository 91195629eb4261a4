//! A cluster of more than 2 GiB in more than 10,000 files, made once: pgbench's tables, a time series
//! with jsonb, random bytea, and thousands of small tables in several databases. PostgreSQL 15, unless another
//! major is chosen, with checksums, WAL summaries where it has them, and Debian's settings otherwise.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::folder::Folder;
use super::tool;

const PGBENCH_SCALE: &str = "120";
const SMALL_DATABASES: usize = 3;

/// A running server of the bench's own; stopped when dropped.
pub struct Cluster<'a> {
    folder: &'a Folder,
    data: PathBuf,
}

impl<'a> Cluster<'a> {
    /// Starts the folder's cluster, made first if it is not there yet.
    pub fn start(folder: &'a Folder) -> Self {
        let cluster = Self { folder, data: folder.join("data") };
        let made = folder.join("cluster-is-made");
        if !made.exists() {
            println!("making a cluster in {} ...", cluster.data.display());
            cluster.make();
            fs::write(&made, "").unwrap();
        }
        cluster.pg_ctl("start", "");
        let (files, bytes) = folder.count(&cluster.data.join("base"));
        println!("cluster: {:.2} GiB in {files} files below base", bytes as f64 / (1 << 30) as f64);
        cluster
    }

    pub fn data(&self) -> &Path {
        &self.data
    }

    /// As `PG_VERSION` says it.
    pub fn major(&self) -> u32 {
        fs::read_to_string(self.data.join("PG_VERSION")).unwrap().trim().parse().unwrap()
    }

    pub fn conninfo(&self) -> String {
        format!("host={} user=postgres dbname=postgres", self.folder.join("").display())
    }

    pub fn postmaster(&self) -> u32 {
        let text = fs::read_to_string(self.data.join("postmaster.pid")).unwrap();
        text.lines().next().unwrap().trim().parse().unwrap()
    }

    /// Runs SQL and returns the rows as psql's unaligned text.
    pub fn psql(&self, sql: &str) -> String {
        self.psql_in("postgres", sql)
    }

    fn psql_in(&self, database: &str, sql: &str) -> String {
        let mut command = self.folder.command(tool("psql"));
        command.args(["-XAtq", "-v", "ON_ERROR_STOP=1", "-U", "postgres", "-h"]);
        command.arg(self.folder.join("")).args(["-d", database, "-c", sql]);
        said(&mut command)
    }

    /// Sets the archive command and waits until it has archived a segment.
    pub fn archive_with(&self, archive_command: &str) {
        self.psql("alter system set archive_mode = on");
        let quoted = archive_command.replace('\'', "''");
        self.psql(&format!("alter system set archive_command = '{quoted}'"));
        self.psql("select pg_reload_conf()");
        let begin = Instant::now();
        loop {
            let segment = self.psql(
                "select pg_walfile_name(pg_current_wal_lsn() - 1) from pg_logical_emit_message(true, 'bench', 'x')",
            );
            self.psql("select pg_switch_wal()");
            let archived = || {
                let last = self.psql("select last_archived_wal from pg_stat_archiver");
                last.get(8..).is_some_and(|last| Some(last) >= segment.get(8..))
            };
            while !archived() {
                assert!(
                    begin.elapsed() < Duration::from_secs(60),
                    "{archive_command} does nothing"
                );
                std::thread::sleep(Duration::from_millis(20));
            }
            if self.psql("show archive_command") == archive_command {
                return;
            }
        }
    }

    /// Writes WAL by pgbench until there are `count` whole segments that were not there before, and
    /// returns their names.
    pub fn write_wal(&self, count: usize) -> Vec<String> {
        let number = |sql: &str| self.psql(sql).parse::<u64>().unwrap();
        let at = "select (pg_current_wal_lsn() - '0/0') :: bigint / 16777216";
        self.psql("alter system set wal_keep_size = '4GB'");
        self.psql("select pg_reload_conf()");
        self.psql("checkpoint");
        let first = number(at) + 1;
        while number(at) < first + count as u64 {
            let mut command = self.folder.command(tool("pgbench"));
            command.args(["-n", "-c", "4", "-j", "2", "-T", "5", "-U", "postgres", "-h"]);
            said(command.arg(self.folder.join("")).arg("postgres"));
        }
        let names = (first..first + count as u64)
            .map(|number| format!("00000001{:08X}{:08X}", number >> 8, number & 0xFF));
        names.collect()
    }

    fn make(&self) {
        self.folder.make_empty("data");
        let mut initdb = self.folder.command(tool("initdb"));
        initdb.args(["-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "-k", "-D"]);
        said(initdb.arg(&self.data));
        let path = self.data.join("postgresql.conf");
        let conf = fs::read_to_string(&path).unwrap();
        let socket = self.folder.join("");
        let socket = socket.display();
        let summaries = if self.major() >= 17 { "summarize_wal = on\n" } else { "" };
        let settings = format!(
            "{summaries}listen_addresses = ''\nunix_socket_directories = '{socket}'\narchive_mode = on\n\
             archive_command = '/bin/true'\nmax_wal_size = '4GB'\nautovacuum = off\n"
        );
        fs::write(&path, conf + &settings).unwrap();
        self.pg_ctl("start", "-c fsync=off -c synchronous_commit=off");
        let mut pgbench = self.folder.command(tool("pgbench"));
        pgbench.args(["-i", "-q", "-s", PGBENCH_SCALE, "-U", "postgres", "-h"]);
        said(pgbench.arg(self.folder.join("")).arg("postgres"));
        self.psql(TIME_SERIES);
        self.psql(RANDOM);
        for number in 0..SMALL_DATABASES {
            self.psql(&format!("create database small{number}"));
            self.psql_in(&format!("small{number}"), SMALL_TABLES);
            self.psql_in(&format!("small{number}"), "vacuum analyze");
        }
        self.psql("vacuum analyze");
        self.psql("checkpoint");
        self.pg_ctl("stop", "");
        self.folder.settle();
    }

    fn pg_ctl(&self, what: &str, options: &str) {
        let mut command = self.folder.command(tool("pg_ctl"));
        command.arg(what).args(["-w", "-s", "-D"]).arg(&self.data).arg("-l");
        command.arg(self.folder.join("server.log"));
        if what == "start" {
            command.args(["-o", options]);
        }
        let status = command.stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap();
        let log = fs::read_to_string(self.folder.join("server.log")).unwrap_or_default();
        assert!(status.success(), "pg_ctl {what}: {status}\n{log}");
    }
}

impl Drop for Cluster<'_> {
    fn drop(&mut self) {
        self.pg_ctl("stop", "");
    }
}

/// What a command says on stdout; it must end well.
pub fn said(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|why| panic!("{command:?}: {why}"));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {}\n{stderr}", output.status);
    String::from_utf8_lossy(&output.stdout).trim_end().to_owned()
}

const TIME_SERIES: &str = "
    create table readings (at timestamptz, device int, payload jsonb);
    insert into readings
        select '2026-01-01'::timestamptz + i * interval '1 second', i % 500,
            jsonb_build_object('temperature', round((20 + 5 * sin(i / 900.0) + random())::numeric, 2),
                'status', (array['ok', 'ok', 'ok', 'warn'])[1 + i % 4], 'sequence', i,
                'firmware', '2.1.' || i % 7, 'battery', round(random()::numeric, 3))
        from generate_series(1, 1500000) i;
    create index on readings (at, device);";

const RANDOM: &str = "
    create table noise (id int, bytes bytea);
    alter table noise alter column bytes set storage external;
    insert into noise
        select i, decode(string_agg(md5(random()::text || j), ''), 'hex')
        from generate_series(1, 20000) i, generate_series(1, 500) j group by i;";

/// A heap, its TOAST table, an index of each: four files a table, and more with the maps.
const SMALL_TABLES: &str = "
    do $$
    begin
        for t in 1..900 loop
            execute format('create table t%s (id int primary key, at timestamptz, note text)', t);
            execute format('insert into t%s select i, now(), md5(i::text) from generate_series(1, %s) i',
                t, 20 + t % 300);
        end loop;
    end $$;";
