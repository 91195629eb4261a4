//! A model of everything that changes files, in an order that dice decide, and chains of backups across it.
//!
//! Each backup has a twin: pg_basebackup's copy of the same moment. Both recover to one restore point and stop
//! there, and then every relation file is the same but for hints ([`crate::support::twins`]); opened for
//! writing, both dump what the source dumps, and PostgreSQL's own checks find nothing.
//!
//! `PGKEEP_SEED=n` repeats a run, which a failure names; `PGKEEP_MODEL_ROUNDS` makes it longer.

use std::fs;
use std::path::PathBuf;

use pgkeep::repo::BackupType;

use crate::support::run::{DEADLINE, run, wait_until};
use crate::support::site::Site;
use crate::support::{Dice, Launch, ScratchDir, Server, Stop, TestCluster, account, tools, twins};

/// Backups in a run, which take a minute or two; more where not every kind of step has come by then.
const ROUNDS: u64 = 12;
/// Steps between two backups at most.
const STEPS_MAX: u64 = 9;

const SPACES: [&str; 3] = ["one", "two", "pg_default"];

/// What every database of the model has.
const TABLES: [&str; 3] = ["small", "wide", "flip"];
const SCHEMA: &str = "
    create table small (n int primary key, t text);
    create table wide (n int primary key, t text, filler text) with (fillfactor = 70);
    create unlogged table flip (n int primary key, t text);
    create table held (n int);
    create sequence counter;
    create extension pg_visibility;
    insert into small select n, md5(n::text) from generate_series(1, 500) n;
    insert into wide select n, md5(n::text), repeat('x', n % 300) from generate_series(1, 3000) n;
    insert into flip select n, md5(n::text) from generate_series(1, 300) n;";

/// What dice may do to a table `{t}` with the numbers `{a}` to `{b}`.
const ON_TABLES: [&str; 16] = [
    "insert into {t} (n, t) select n, md5(n::text) from generate_series({a}, {b}) n on conflict do nothing",
    "update {t} set t = t || 'x' where n between {a} and {b}",
    "update {t} set n = -n where n between {a} and {b}; update {t} set n = -n where n < 0",
    "delete from {t} where n between {a} and {b}",
    "begin; delete from {t} where n > {a}; update {t} set t = 'lost'; rollback",
    "delete from {t} where n > {a}; vacuum {t}",
    "truncate {t}; insert into {t} (n, t) select n, 'again' from generate_series({a}, {b}) n",
    "begin; truncate {t}; copy {t} (n, t) from program 'seq -f %.0f:bulk {a} {b}' with (delimiter ':'); commit",
    "vacuum (freeze) {t}",
    "vacuum full {t}",
    "vacuum {t}; insert into {t} (n, t) select n, 'filled' from generate_series({a}, {b}) n on conflict do nothing",
    "cluster {t} using {t}_pkey",
    "reindex table {t}",
    "drop index if exists {t}_t; create index {t}_t on {t} using hash (t)",
    "drop index if exists {t}_b; create index {t}_b on {t} using brin (n)",
    "select count(*), max(t) from {t}",
];

/// What dice may do to a database.
const ON_DATABASES: [&str; 12] = [
    "alter table flip set logged",
    "alter table flip set unlogged",
    "select nextval('counter') from generate_series(1, {a})",
    "select lo_from_bytea(0, decode(repeat('ab', {b}), 'hex'))",
    "select lo_unlink(oid) from pg_largeobject_metadata order by oid limit 1",
    "select lo_put(oid, {a}, '\\x00ff00ff') from pg_largeobject_metadata order by oid limit 1",
    "vacuum full pg_class; vacuum full pg_attribute",
    "vacuum pg_class; vacuum pg_attribute; vacuum pg_depend",
    "drop table if exists extra; create table extra as select n, md5(n::text) t from generate_series(1, {b}) n; \
     create index on extra using gin (string_to_array(t, 'a'))",
    "drop table if exists extra",
    "checkpoint",
    "reindex system {d}",
];

/// What a step is.
#[derive(Debug, Clone, Copy)]
enum Kind {
    Table(&'static str),
    Database(&'static str),
    /// A table goes to another tablespace.
    MoveTable,
    Prepare,
    /// What is prepared is committed, or rolled back.
    End(&'static str),
    /// A database is made, by that strategy.
    Create(&'static str),
    Drop,
    MoveDatabase,
}

impl Kind {
    /// Each kind; what is rare among them more than once.
    fn all() -> Vec<Self> {
        let tables = ON_TABLES.map(Self::Table);
        let databases = ON_DATABASES.map(Self::Database);
        let others = [
            Self::MoveTable,
            Self::MoveTable,
            Self::Prepare,
            Self::Prepare,
            Self::End("commit"),
            Self::End("rollback"),
            Self::Create("wal_log"),
            Self::Create("file_copy"),
            Self::Create("file_copy"),
            Self::Drop,
            Self::Drop,
            Self::MoveDatabase,
        ];
        [&tables[..], &databases, &others].concat()
    }
}

/// Everything that dice decide.
struct Model<'a> {
    server: &'a Server,
    site: Site,
    dice: Dice,
    /// Where tablespaces lie.
    spaces: ScratchDir,
    /// What was done since the last backup, for a failure.
    steps: Vec<String>,
    /// The kinds of steps that are left until all begin again, so that each comes, whatever the dice say.
    deck: Vec<Kind>,
    /// How often that was so.
    dealt: u64,
    prepared: u64,
    created: u64,
}

impl<'a> Model<'a> {
    fn new(server: &'a Server, launch: Launch) -> Self {
        let launch = launch
            .wal_segment_mib(1)
            .setting("max_prepared_transactions", "10")
            .setting("lock_timeout", "30s")
            .setting("track_activities", "on");
        let site = Site::start(launch);
        let spaces = ScratchDir::new("spaces");
        for name in ["one", "two"] {
            let place = spaces.create_dir(name);
            site.cluster.psql(&format!("create tablespace {name} location '{}'", place.display()));
        }
        site.cluster.psql(SCHEMA);
        site.cluster.psql("create database d0 template postgres");
        let (dice, steps) = (Dice::new(), Vec::new());
        let deck = Kind::all();
        Self { server, site, dice, spaces, steps, deck, dealt: 0, prepared: 0, created: 0 }
    }

    fn databases(&self) -> Vec<String> {
        let names = self
            .site
            .cluster
            .psql("select datname from pg_database where datname like 'd%' order by datname");
        names.lines().map(str::to_owned).collect()
    }

    fn sql(&mut self, database: &str, sql: &str) {
        self.steps.push(format!("{database}: {sql}"));
        self.site.cluster.psql_in(database, sql);
    }

    /// One step.
    fn step(&mut self) {
        let a = self.dice.below(4_000) + 1;
        let b = a + self.dice.below(3_000);
        let databases = self.databases();
        let in_postgres = self.dice.below(2) == 0 || databases.is_empty();
        let database = match in_postgres {
            true => "postgres".to_owned(),
            false => self.dice.one_of(&databases).clone(),
        };
        match self.deal() {
            Kind::Table(sql) => {
                let table = *self.dice.one_of(&TABLES);
                self.sql(&database, &numbered(&sql.replace("{t}", table), a, b));
            }
            Kind::Database(sql) => {
                self.sql(&database, &numbered(&sql.replace("{d}", &database), a, b));
            }
            Kind::MoveTable => {
                let space = *self.dice.one_of(&SPACES);
                let table = *self.dice.one_of(&TABLES);
                self.sql("postgres", &format!("alter table {table} set tablespace {space}"));
            }
            Kind::Prepare => self.prepare(),
            Kind::End(how) => self.end(how),
            Kind::Create(strategy) => self.create(strategy),
            Kind::Drop => self.drop_database(),
            Kind::MoveDatabase => {
                // There is one always.
                let name = self.dice.one_of(&databases);
                let space = *self.dice.one_of(&SPACES);
                let sql = format!("alter database {name} set tablespace {space}");
                self.sql("postgres", &sql);
            }
        }
    }

    /// The next kind of step.
    fn deal(&mut self) -> Kind {
        let at = self.dice.below(self.deck.len() as u64);
        let kind = self.deck.swap_remove(usize::try_from(at).unwrap());
        if self.deck.is_empty() {
            self.deck = Kind::all();
            self.dealt += 1;
        }
        kind
    }

    /// By file copy nothing of the new files is in the WAL, and their pages' LSNs are old ones. An oid may come
    /// again.
    fn create(&mut self, strategy: &str) {
        if self.databases().len() >= 4 {
            self.drop_database();
        }
        let template = self.dice.one_of(&self.databases()).clone();
        let taken = self.site.cluster.psql("select oid from pg_database");
        let is_free = |oid: &u64| !taken.lines().any(|line| line == oid.to_string());
        let free: Vec<u64> = (50_000..50_005).filter(is_free).collect();
        let oid = *self.dice.one_of(&free);
        self.created += 1;
        let name = format!("d{}", self.created);
        let made =
            format!("create database {name} template {template} strategy {strategy} oid {oid}");
        self.sql("postgres", &made);
    }

    /// One is always left.
    fn drop_database(&mut self) {
        let databases = self.databases();
        if databases.len() < 2 {
            return self.create("wal_log");
        }
        let name = self.dice.one_of(&databases).clone();
        self.sql("postgres", &format!("drop database {name}"));
    }

    fn open_transactions(&self) -> Vec<String> {
        let open = self.site.cluster.psql("select gid from pg_prepared_xacts order by gid");
        open.lines().map(str::to_owned).collect()
    }

    /// Prepared transactions stay open over backups; some of them.
    fn prepare(&mut self) {
        if self.open_transactions().len() > 4 {
            return self.end("commit");
        }
        self.prepared += 1;
        let number = self.prepared;
        let sql = format!(
            "begin; insert into held select {number} from generate_series(1, 50); \
             prepare transaction 'held{number}'"
        );
        self.sql("postgres", &sql);
    }

    fn end(&mut self, how: &str) {
        if self.open_transactions().is_empty() {
            self.prepare();
        }
        let open = self.open_transactions();
        self.sql("postgres", &format!("{how} prepared '{}'", open[0]));
        if open.len() == 1 {
            self.prepared = 0;
            // The names are free again, and `held` says who it was.
            self.sql("postgres", "truncate held");
        }
    }

    /// A backup and its twin, of the same moment, and whether they hold the same.
    fn round(&mut self, number: u64) {
        self.steps.clear();
        for _ in 0..=self.dice.below(STEPS_MAX) {
            self.step();
        }
        let backup_type = match self.dice.below(8) {
            _ if number == 0 => BackupType::Full,
            0 => BackupType::Full,
            1..4 => BackupType::Differential,
            _ => BackupType::Incremental,
        };
        let (jobs, skips) = (1 + self.dice.below(3), self.dice.below(4) > 0);
        let taken = self.site.backup_ahead(backup_type, |options| {
            options.jobs = usize::try_from(jobs).unwrap();
            options.skips = skips;
        });
        let taken = taken.unwrap().summary;
        assert_eq!(taken.totals.invalid_pages, 0);
        let twin = Twin::copy(&self.site, &self.spaces);
        // Something for recovery to do, in half of the rounds.
        if self.dice.below(2) == 0 {
            self.step();
        }
        let point = format!("round{number}");
        // Without a checkpoint in the WAL, recovery that stops leaves what it did in memory.
        let mark = format!("checkpoint; select pg_create_restore_point('{point}')");
        self.site.cluster.psql(&mark);
        let dumped = dump(&self.site.cluster);
        self.site.cluster.archive_now();
        let id = taken.id.as_str();
        let context = format!(
            "round {number}, {id}, {} of {} files unread, after {:#?}",
            taken.totals.unread_files, taken.totals.files, self.steps
        );
        eprintln!("{context}");
        let ours = Twin::restore(&self.site, &self.spaces, id, &point);
        twin.aim(&self.site, &point);
        ours.recover(self.server);
        twin.recover(self.server);
        twins::assert_same(&ours.data, &twin.data, &context);

        let (ours, theirs) = (ours.promote(self.server), twin.promote(self.server));
        let restored = dump(&ours);
        // Recovery takes a sequence to where its WAL says, up to 32 numbers ahead of the source: there the
        // twin is the measure.
        assert_text(&restored, &dump(&theirs), &context);
        let without_sequences = |text: &str| {
            let lines = text.lines().filter(|line| !line.contains("pg_catalog.setval("));
            lines.collect::<Vec<_>>().join("\n")
        };
        assert_text(&without_sequences(&restored), &without_sequences(&dumped), &context);
        drop(theirs);
        assert_sound(&ours, &context);
        ours.stop(Stop::Fast);
        if taken.server.checksums {
            tools::assert_checksums(&ours);
        }
    }
}

fn numbered(sql: &str, a: u64, b: u64) -> String {
    sql.replace("{a}", &a.to_string()).replace("{b}", &b.to_string())
}

/// A copy of the source that recovers to a restore point.
struct Twin {
    scratch: ScratchDir,
    data: PathBuf,
}

impl Twin {
    fn new(name: &str) -> Self {
        let scratch = ScratchDir::new(name);
        let data = scratch.join("data");
        Self { scratch, data }
    }

    /// By pg_basebackup.
    fn copy(site: &Site, spaces: &ScratchDir) -> Self {
        let twin = Self::new("theirs");
        let mut copying = site.cluster.command("pg_basebackup");
        copying.arg("-D").arg(&twin.data).args(["-c", "fast", "-X", "none", "--no-sync"]);
        for mapping in twin.mappings(spaces) {
            copying.arg("-T").arg(mapping);
        }
        run(copying.args(["-d", &site.cluster.conninfo()])).assert_ok();
        twin
    }

    /// By pgkeep.
    fn restore(site: &Site, spaces: &ScratchDir, id: &str, point: &str) -> Self {
        let twin = Self::new("ours");
        let mut restoring = site.config.pgkeep(["restore", "--yes", "--target-action", "shutdown"]);
        restoring.args(["--backup", id, "--target-name", point, "--to"]).arg(&twin.data);
        for mapping in twin.mappings(spaces) {
            restoring.arg("--tablespace").arg(mapping);
        }
        run(&mut restoring).assert_ok();
        twin
    }

    fn mappings(&self, spaces: &ScratchDir) -> [String; 2] {
        ["one", "two"].map(|name| {
            format!("{}={}", spaces.join(name).display(), self.scratch.join(name).display())
        })
    }

    /// What pgkeep's restore writes, for the other one.
    fn aim(&self, site: &Site, point: &str) {
        let restore_command = site.config.restore_command();
        let file = self.data.join("postgresql.auto.conf");
        let text = fs::read_to_string(&file).unwrap();
        let text = format!(
            "{text}\nrestore_command = '{restore_command}'\nrecovery_target_name = '{point}'\n\
             recovery_target_action = 'shutdown'\n"
        );
        fs::write(&file, text).unwrap();
        let signal = self.data.join("recovery.signal");
        fs::write(&signal, "").unwrap();
        account::unprivileged().own(&signal);
    }

    /// Recovers to the point and stops there.
    fn recover(&self, server: &Server) {
        let launch = TestCluster::adopt(server, &self.data);
        let cluster = launch.setting("archive_mode", "off").setting("hot_standby", "off").prepare();
        // The server ends by itself, whatever pg_ctl makes of that.
        drop(cluster.try_start());
        wait_until(DEADLINE, || !cluster.is_running(), || cluster.log());
        let log = cluster.log();
        assert!(log.contains("shutdown at recovery target"), "{log}");
    }

    /// Goes on from there and writes.
    fn promote(&self, server: &Server) -> TestCluster {
        let launch = TestCluster::adopt(server, &self.data)
            .setting("archive_mode", "off")
            .setting("recovery_target_action", "promote");
        let cluster = launch.start();
        cluster.wait_for_promotion();
        cluster
    }
}

/// Everything, as SQL, but for what a copy has of its own: places of tablespaces, what is unlogged, and a word
/// that pg_dump makes up each time.
fn dump(cluster: &TestCluster) -> String {
    let mut command = cluster.command("pg_dumpall");
    command.args(["--no-unlogged-table-data", "-d", &cluster.conninfo()]);
    let dumped = run(&mut command).assert_ok().stdout;
    let open = cluster.psql("select gid, database from pg_prepared_xacts order by gid");
    let own = ["CREATE TABLESPACE", "\\restrict", "\\unrestrict"];
    let lines = dumped.lines().filter(|line| own.iter().all(|own| !line.starts_with(own)));
    lines.chain(open.lines()).collect::<Vec<_>>().join("\n")
}

#[track_caller]
fn assert_text(ours: &str, theirs: &str, context: &str) {
    let differs = ours.lines().zip(theirs.lines()).find(|(ours, theirs)| ours != theirs);
    assert!(ours == theirs, "{context}: the first lines that differ: {differs:?}");
}

/// PostgreSQL's own checks: tables against indexes, maps against pages, index-only counts against others.
fn assert_sound(cluster: &TestCluster, context: &str) {
    // pg_check_visible judges by its own snapshot, which a transaction of any database holds back, where VACUUM
    // goes by those of its own database: while one is open, it complains of good pages (contrib/pg_visibility,
    // collect_corrupt_items, up to 16).
    let open = cluster.psql("select gid from pg_prepared_xacts");
    for name in open.lines() {
        cluster.psql(&format!("commit prepared '{name}'"));
    }
    tools::assert_amcheck(cluster);
    let databases = cluster
        .psql("select datname from pg_database where datname = 'postgres' or datname like 'd%'");
    for database in databases.lines() {
        let wrong = cluster.psql_in(
            database,
            "select c.oid::regclass, v, f from pg_class c,
                lateral (select count(*) from pg_check_visible(c.oid)) as visible (v),
                lateral (select count(*) from pg_check_frozen(c.oid)) as frozen (f)
             where relkind in ('r', 'm', 't') and (v > 0 or f > 0)",
        );
        assert_eq!(wrong, "", "{context}: {database}");
        for table in ["small", "wide"] {
            let count = |forbidden: &[&str]| {
                let off = forbidden.iter().map(|name| format!("set enable_{name} = off;"));
                let sql = format!("select count(n), sum(n) from {table} where n > -1000000");
                cluster.psql_in(database, &format!("{} {sql}", off.collect::<String>()))
            };
            let by_index = count(&["seqscan", "bitmapscan", "indexscan"]);
            let by_table = count(&["indexonlyscan", "bitmapscan", "indexscan"]);
            assert_eq!(by_index, by_table, "{context}: {table} of {database}");
        }
    }
}

fn play(launch: fn(&Server) -> Launch) {
    let Some(server) = Server::main() else { return };
    let chosen = std::env::var("PGKEEP_MODEL_ROUNDS").ok();
    let rounds = chosen.map_or(ROUNDS, |text| text.parse().unwrap());
    let mut model = Model::new(&server, launch(&server));
    let mut number = 0;
    while number < rounds || model.dealt == 0 {
        model.round(number);
        number += 1;
    }
}

#[test]
fn f032_f041_chains_hold_what_pg_basebackup_holds_with_checksums() {
    play(|server| TestCluster::create(server).checksums());
}

/// Where nothing tells of hints: neither checksums nor `wal_log_hints`, so that pages change and their LSNs do
/// not, and the maps' pages with them.
#[test]
fn f035_f036_f038_f039_chains_hold_what_pg_basebackup_holds_without_checksums() {
    play(|server| TestCluster::create(server).setting("wal_log_hints", "off"));
}

/// The comparison itself: of two copies of one page, only hints may differ.
#[test]
fn twins_differ_in_all_but_hints() {
    let folder = ScratchDir::new("pages");
    let place = |twin: &str, fork: &str| {
        let directory = folder.join(twin).join("base/5");
        fs::create_dir_all(&directory).unwrap();
        directory.join(format!("16384{fork}"))
    };
    // A page of a table with one tuple of 40 bytes, at 8152.
    let mut page = vec![0; 8192];
    for (at, word) in
        [(0, 1u16), (12, 28), (14, 8152), (16, 8192), (18, 8196), (24, 0x9FD8), (26, 80)]
    {
        page[at..at + 2].copy_from_slice(&word.to_le_bytes());
    }
    for (at, fork, is_told) in [
        // LSN, flags (a hint, and all-visible), prunable transaction, the free part.
        (1, "", true),
        (10, "", false),
        (20, "", false),
        (500, "", false),
        // A tuple's transaction, its hints, its value.
        (8152, "", true),
        (8152 + 21, "", false),
        (8190, "", true),
        // Maps have their content where tables have free space.
        (500, "_fsm", true),
        (500, "_vm", true),
    ] {
        fs::write(place("ours", fork), &page).unwrap();
        fs::write(place("theirs", fork), &page).unwrap();
        let compared = || twins::differences(&folder.join("ours"), &folder.join("theirs"));
        assert!(compared().is_empty());
        let mut other = page.clone();
        other[at] ^= 1;
        fs::write(place("theirs", fork), &other).unwrap();
        assert_eq!(!compared().is_empty(), is_told, "byte {at} of 16384{fork}");
        fs::write(place("theirs", fork), &page[..0]).unwrap();
        assert_eq!(compared().len(), 1, "a file that is empty");
        fs::write(place("theirs", fork), &page).unwrap();
    }
}
