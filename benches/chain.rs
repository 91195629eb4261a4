//! Differential backups and restores of chains, against what users have today.
//!
//! `cargo bench --bench chain`; `PGKEEP_BENCH_DIR=/some/folder` keeps the cluster for the next run,
//! `PGKEEP_BENCH_ROUNDS=n` runs each side n times. With `PGKEEP_BENCH_BIN` naming the programs of PostgreSQL 17 or
//! later, `pg_basebackup --incremental` runs beside. The cluster of about 3 GiB is changed step by step; after each
//! step both sides take the same differential against their full, again and again. What is stored is compared with
//! the changed blocks alone, as LZ4 packs them 64 KiB at a time: what nobody can store less than.
#![allow(clippy::unwrap_used, clippy::print_stdout)]
#![allow(
    clippy::disallowed_methods,
    reason = "a program of its own: it asks for time and environment"
)]
#![allow(missing_docs, reason = "a program")]

mod live;

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::process::Command;
use std::time::Duration;

use live::cluster::{Cluster, said};
use live::folder::Folder;
use live::paired::{Side, print_table, run};
use live::sides::{PgBackRest, Pgkeep};
use live::{rounds, tool};

const BLOCK: usize = 8192;

/// Where each restores what is restored again.
const OWN: &str = "restored";
const OTHER: &str = "restored-by-other";

/// Where the server's own incremental goes.
const INCREMENTAL: &str = "incremental";

/// Files that changed a moment ago are read again: a minute makes them old.
const OLD: Duration = Duration::from_secs(62);

fn main() {
    if !tool("pg_basebackup").is_file() {
        println!("skipped: PostgreSQL 15 with its client tools is not installed");
        return;
    }
    let folder = Folder::open();
    let cluster = Cluster::start(&folder);
    let pgkeep = Pgkeep::new(&cluster, &folder, "keep", "");
    let rest = PgBackRest::find(&cluster, &folder);
    if rest.is_none() {
        println!("pgBackRest is not installed: left out");
    }
    let bench = Bench { folder: &folder, cluster: &cluster, pgkeep: &pgkeep, rest: rest.as_ref() };
    bench.fulls();
    bench.differentials("nothing changed", &[]);
    let changed = bench.change_blocks();
    bench.differentials("1 % of the blocks of a table changed at random", &changed);
    bench.restores();
    bench.deltas();
    let appended = bench.append();
    bench.differentials("and 100 MB appended", &[changed, appended].concat());
}

struct Bench<'a> {
    folder: &'a Folder,
    cluster: &'a Cluster<'a>,
    pgkeep: &'a Pgkeep<'a>,
    rest: Option<&'a PgBackRest<'a>>,
}

/// A block of a file: path relative to the data directory, and number.
type Block = (String, u64);

impl Bench<'_> {
    /// A full of each.
    fn fulls(&self) {
        self.cluster.psql("checkpoint");
        println!("waiting until nothing in the cluster is younger than a minute ...");
        std::thread::sleep(OLD);
        self.pgkeep.make_repository();
        self.cluster.archive_with(&self.pgkeep.archive_command());
        said(self.pgkeep.command().arg("backup"));
        if let Some(rest) = self.rest {
            rest.make_repository();
            self.cluster.archive_with(&rest.archive_command());
            said(rest.command().args(["backup", "--type=full"]));
        }
        self.cluster.archive_with("/bin/true");
        if self.has_incremental() {
            said(&mut self.base_backup("base"));
        }
    }

    fn has_incremental(&self) -> bool {
        self.cluster.major() >= 17
    }

    /// Of the server alone, packed by the client.
    fn base_backup(&self, to: &str) -> Command {
        self.folder.remove(to);
        let mut command = self.folder.command(tool("pg_basebackup"));
        command.args(["-d", &self.cluster.conninfo(), "-X", "none", "-c", "fast", "-Ft", "-D"]);
        command.arg(self.folder.join(to)).arg("--compress=client-lz4");
        command
    }

    /// Differentials of both, round by round, and what each stored.
    fn differentials(&self, what: &str, changed: &[Block]) {
        self.cluster.psql("checkpoint");
        let least = self.least(changed);
        let silent = || self.cluster.archive_with("/bin/true");
        let side = |name: String, archive: String| Side {
            name,
            prepare: Box::new(move || self.cluster.archive_with(&archive)),
            command: Box::new(|| self.pgkeep.command()),
            finish: Box::new(silent),
            on_server: true,
            costs: Vec::new(),
        };
        let mut sides = vec![Side {
            command: Box::new(|| {
                let mut command = self.pgkeep.command();
                command.args(["backup", "--type", "diff"]);
                command
            }),
            ..side("pgkeep (lz4, aes-256-cbc, 2 workers)".into(), self.pgkeep.archive_command())
        }];
        if let Some(rest) = self.rest {
            let name = format!("{} (lz4, aes-256-cbc, 2 processes, bundles)", rest.version);
            sides.push(Side {
                command: Box::new(|| {
                    let mut command = rest.command();
                    command.args(["backup", "--type=diff"]);
                    command
                }),
                ..side(name, rest.archive_command())
            });
        }
        if self.has_incremental() {
            sides.push(Side {
                name: "pg_basebackup --incremental (tar, client-lz4)".into(),
                prepare: Box::new(|| {}),
                command: Box::new(|| {
                    let mut command = self.base_backup(INCREMENTAL);
                    command.arg("-i").arg(self.folder.join("base/backup_manifest"));
                    command
                }),
                finish: Box::new(|| {}),
                on_server: true,
                costs: Vec::new(),
            });
        }
        let before = self.stored();
        let count = rounds(3);
        run(self.folder, self.cluster, &mut sides, count);
        print_table(&format!("differential: {what}"), &sides);
        let each = |(after, before): (u64, u64)| (after - before) / (count as u64 + 1);
        let after = self.stored();
        let own = each((after.0, before.0));
        println!("stored by each: pgkeep {:.2} MB", own as f64 / 1e6);
        if self.rest.is_some() {
            let other = each((after.1, before.1));
            let ratio = own as f64 / other as f64;
            println!(
                "                pgBackRest {:.2} MB (pgkeep / this: {ratio:.2})",
                other as f64 / 1e6
            );
        }
        if self.has_incremental() {
            let (_, other) = self.folder.count(&self.folder.join(INCREMENTAL));
            let ratio = own as f64 / other as f64;
            println!(
                "                pg_basebackup {:.2} MB (pgkeep / this: {ratio:.2})",
                other as f64 / 1e6
            );
        }
        if least > 0 {
            let ratio = own as f64 / least as f64;
            let blocks = changed.len();
            println!(
                "                {blocks} changed blocks alone {:.2} MB (pgkeep / this: {ratio:.2})",
                least as f64 / 1e6
            );
        }
    }

    /// Bytes of pgkeep's repository but for the WAL, and below `backup` of pgBackRest's.
    fn stored(&self) -> (u64, u64) {
        let own = said(
            self.folder
                .command("/usr/bin/du")
                .args(["-sb", "--exclude=wal"])
                .arg(self.pgkeep.repository()),
        );
        let other = self.rest.map(|rest| {
            said(
                self.folder.command("/usr/bin/du").arg("-sb").arg(rest.repository().join("backup")),
            )
        });
        let bytes = |text: &str| text.split_whitespace().next().unwrap().parse::<u64>().unwrap();
        (bytes(&own), other.map_or(0, |text| bytes(&text)))
    }

    /// What LZ4 makes of these blocks alone, 64 KiB at a time.
    fn least(&self, changed: &[Block]) -> u64 {
        let mut content = Vec::new();
        for (path, number) in changed {
            let file = File::open(self.cluster.data().join(path)).unwrap();
            let mut block = vec![0; BLOCK];
            file.read_exact_at(&mut block, number * BLOCK as u64).unwrap();
            content.extend(block);
        }
        let frames = content.chunks(8 * BLOCK);
        frames.map(|frame| lz4_flex::block::compress(frame).len() as u64).sum()
    }

    /// One row goes from each of 1 % of a table's blocks.
    fn change_blocks(&self) -> Vec<Block> {
        let numbers = self.cluster.psql(
            "select setseed(0.5); create temp table chosen as select n from generate_series(0, \
             pg_relation_size('pgbench_accounts') / 8192 - 2) n where random() < 0.01; \
             delete from pgbench_accounts a using (select format('(%s,1)', n)::tid t from chosen) c \
             where a.ctid = c.t; select n from chosen order by n",
        );
        let path = self.cluster.psql("select pg_relation_filepath('pgbench_accounts')");
        let numbers = numbers.lines().filter_map(|line| line.trim().parse::<u64>().ok());
        numbers.map(|number| place(&path, number)).collect()
    }

    /// 100 MB of a new table.
    fn append(&self) -> Vec<Block> {
        self.cluster.psql(
            "create table appended as select i, md5(i::text) || repeat(md5((i / 7)::text), 3) t \
             from generate_series(1, 640000) i",
        );
        self.cluster.psql("checkpoint");
        let path = self.cluster.psql("select pg_relation_filepath('appended')");
        let count = self.cluster.psql("select pg_relation_size('appended') / 8192");
        (0..count.parse::<u64>().unwrap()).map(|number| place(&path, number)).collect()
    }

    /// The newest backup of this type.
    fn newest(&self, wanted: &str) -> String {
        let info = said(self.pgkeep.command().args(["info", "--json"]));
        let info: serde_json::Value = serde_json::from_str(&info).unwrap();
        let backups = info["repositories"][0]["backups"].as_array().unwrap();
        let found = backups.iter().rev().find(|backup| backup["type"] == wanted).unwrap();
        found["id"].as_str().unwrap().to_owned()
    }

    /// The full alone, and with the newest differential.
    fn restores(&self) {
        const TO: &str = "restored";
        let of = |wanted: &str| self.newest(wanted);
        let folder = self.folder;
        let side = |name: &str, id: String| Side {
            name: name.into(),
            prepare: Box::new(move || folder.retire(TO)),
            command: Box::new(move || {
                let mut command = self.pgkeep.command();
                command.args(["restore", "--yes", "--target-immediate", "--backup", &id, "--to"]);
                command.arg(folder.join(TO));
                command
            }),
            finish: Box::new(|| {}),
            on_server: false,
            costs: Vec::new(),
        };
        folder.warm(&self.pgkeep.repository());
        let mut sides =
            vec![side("full and differential", of("diff")), side("full alone", of("full"))];
        run(folder, self.cluster, &mut sides, rounds(3));
        print_table("restore", &sides);
    }

    /// Over what was restored a moment ago, against reading it: from the page cache, and from the disk.
    fn deltas(&self) {
        self.folder.retire(OWN);
        self.folder.retire(OTHER);
        let diff = self.newest("diff");
        let restore = |arguments: &[&str]| {
            let mut command = self.pgkeep.command();
            command.args(["restore", "--yes", "--target-immediate", "--backup", &diff]);
            command.arg("--to").arg(self.folder.join(OWN)).args(arguments);
            command
        };
        said(&mut restore(&[]));
        let rest_restore = |rest: &PgBackRest<'_>| {
            let mut command = rest.command();
            let to = format!("--pg1-path={}", self.folder.join(OTHER).display());
            command.args(["restore", "--delta", "--type=immediate", &to]);
            command
        };
        if let Some(rest) = self.rest {
            self.folder.make(OTHER);
            said(&mut rest_restore(rest));
        }
        for (what, cold) in [("page cache", false), ("disk", true)] {
            let read = || {
                self.folder
                    .shell("find restored -type f -print0 | xargs -0 -n 64 -P 2 cat > /dev/null")
            };
            let mut sides = vec![
                self.over_restored(
                    "pgkeep restore --delta",
                    Box::new(|| restore(&["--delta"])),
                    cold,
                ),
                self.over_restored("reading the files (2 cat)", Box::new(read), cold),
            ];
            if let Some(rest) = self.rest {
                let name = format!("{} restore --delta", rest.version);
                sides.push(self.over_restored(&name, Box::new(|| rest_restore(rest)), cold));
            }
            run(self.folder, self.cluster, &mut sides, rounds(3));
            print_table(&format!("nothing to restore, read from the {what}"), &sides);
        }
    }

    /// Something done over what was restored, which is in the page cache unless it is `cold`.
    fn over_restored<'b>(
        &'b self,
        name: &str,
        command: Box<dyn Fn() -> Command + 'b>,
        cold: bool,
    ) -> Side<'b> {
        Side {
            name: name.into(),
            prepare: Box::new(move || self.in_cache(&[OWN, OTHER], !cold)),
            command,
            finish: Box::new(|| {}),
            on_server: false,
            costs: Vec::new(),
        }
    }

    /// Has these folders in the page cache, or nothing in it.
    fn in_cache(&self, names: &[&str], are_in: bool) {
        for name in names.iter().filter(|_| are_in) {
            self.folder.warm(&self.folder.join(name));
        }
        if !are_in {
            self.folder.settle();
            std::fs::write("/proc/sys/vm/drop_caches", "3")
                .expect("only root empties the page cache");
        }
    }
}

/// Where a relation's block lies: files end after 1 GiB.
fn place(path: &str, number: u64) -> Block {
    const FILE: u64 = 131_072;
    match number / FILE {
        0 => (path.to_owned(), number),
        file => (format!("{path}.{file}"), number % FILE),
    }
}
