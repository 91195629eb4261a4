//! `archive-push` and `archive-get`, a process for each segment as PostgreSQL calls them, against
//! pgBackRest's (synchronous).
//!
//! `cargo bench --bench archive`; `PGKEEP_BENCH_DIR` as for `base_backup`, whose cluster it uses.
//! The segments are pgbench's. All sides take the same segment in turn. A push syncs the object and its
//! folder on both sides; neither syncs what it fetches. `cp` with a sync is the floor of a push.
#![allow(clippy::unwrap_used, clippy::print_stdout)]
#![allow(missing_docs, reason = "a program")]

mod live;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use live::cluster::Cluster;
use live::cost::{Cost, measure_short};
use live::folder::Folder;
use live::sides::{PgBackRest, Pgkeep};
use live::{median, rounds, tool};

const SEGMENTS: usize = 64;

/// A command for each segment.
struct Side<'a> {
    name: String,
    push: Box<dyn Fn(&str) -> Command + 'a>,
    get: Box<dyn Fn(&str) -> Command + 'a>,
    pushed: Vec<Cost>,
    got: Vec<Cost>,
}

fn main() {
    if !tool("pgbench").is_file() {
        println!("skipped: PostgreSQL 15 with its client tools is not installed");
        return;
    }
    let folder = Folder::open();
    let cluster = Cluster::start(&folder);
    cluster.archive_with("/bin/true");
    let names = cluster.write_wal(SEGMENTS);
    let primary = frozen(&folder, &cluster, &names);
    let standby = folder.make_empty("standby");
    folder.make_empty("standby/pg_wal");
    folder.make_empty("standby/global");
    copy(&folder, &primary.join("global/pg_control"), "standby/global/pg_control");
    folder.write("passphrase", "correct horse battery staple\n");
    let passphrase = format!("passphrase_file = \"{}\"", folder.join("passphrase").display());
    let by_key = Pgkeep::new(&cluster, &folder, "wal-keep", "");
    let by_phrase = Pgkeep::new(&cluster, &folder, "wal-phrase", &passphrase);
    let kept = folder.join("kept");
    let kept = format!("{passphrase}\ncache_directory = \"{}\"", kept.display());
    let by_kept = Pgkeep::new(&cluster, &folder, "wal-kept", &kept);
    let rest = PgBackRest::find(&cluster, &folder);
    let mut sides = vec![
        pgkeep_side("pgkeep, key file", &by_key, &primary, &standby),
        pgkeep_side("pgkeep, passphrase", &by_phrase, &primary, &standby),
        pgkeep_side("pgkeep, kept keys", &by_kept, &primary, &standby),
    ];
    match &rest {
        Some(rest) => sides.push(rest_side(rest, &primary, &standby)),
        None => println!("pgBackRest is not installed: left out"),
    }
    sides.push(copy_side(&folder));
    for round in 0..=rounds(3) {
        by_key.make_repository();
        by_phrase.make_repository();
        by_kept.make_repository();
        rest.iter().for_each(PgBackRest::make_repository);
        folder.make_empty("copied");
        folder.settle();
        for name in &names {
            for side in &mut sides {
                let cost = measure_short(&mut (side.push)(name));
                if round > 0 {
                    side.pushed.push(cost);
                }
            }
        }
        folder.settle();
        for name in &names {
            for side in &mut sides {
                // As the server does before it asks.
                fs::remove_file(standby.join("pg_wal/RECOVERYXLOG")).ok();
                let cost = measure_short(&mut (side.get)(name));
                if round > 0 {
                    side.got.push(cost);
                }
            }
        }
        check(&primary, &standby, names.last().unwrap());
    }
    print_table("archive-push", &sides, |side| &side.pushed);
    print_table("archive-get", &sides, |side| &side.got);
}

/// What a data directory has that archiving needs, at rest: control file and segments.
fn frozen(folder: &Folder, cluster: &Cluster<'_>, names: &[String]) -> PathBuf {
    let primary = folder.make_empty("primary");
    folder.make_empty("primary/pg_wal");
    folder.make_empty("primary/global");
    copy(folder, &cluster.data().join("global/pg_control"), "primary/global/pg_control");
    copy(folder, &cluster.data().join("PG_VERSION"), "primary/PG_VERSION");
    for name in names {
        let path = format!("pg_wal/{name}");
        copy(folder, &cluster.data().join(&path), &format!("primary/{path}"));
    }
    primary
}

fn copy(folder: &Folder, from: &Path, to: &str) {
    folder.write(to, "");
    fs::copy(from, folder.join(to)).unwrap();
}

fn pgkeep_side<'a>(
    name: &str,
    pgkeep: &'a Pgkeep<'a>,
    primary: &'a Path,
    standby: &'a Path,
) -> Side<'a> {
    let push = move |segment: &str| {
        let mut command = pgkeep.command();
        command.args(["archive-push", &format!("pg_wal/{segment}")]).current_dir(primary);
        command
    };
    let get = move |segment: &str| {
        let mut command = pgkeep.command();
        command.args(["archive-get", segment, "pg_wal/RECOVERYXLOG"]).current_dir(standby);
        command
    };
    side(name, Box::new(push), Box::new(get))
}

fn rest_side<'a>(rest: &'a PgBackRest<'a>, primary: &'a Path, standby: &'a Path) -> Side<'a> {
    let push = move |segment: &str| {
        let mut command = rest.command();
        command.arg(format!("--pg1-path={}", primary.display()));
        command.args(["archive-push", &format!("pg_wal/{segment}")]).current_dir(primary);
        command
    };
    let get = move |segment: &str| {
        let mut command = rest.command();
        command.arg(format!("--pg1-path={}", standby.display()));
        command.args(["archive-get", segment, "pg_wal/RECOVERYXLOG"]).current_dir(standby);
        command
    };
    side(&rest.version, Box::new(push), Box::new(get))
}

fn copy_side(folder: &Folder) -> Side<'_> {
    let push = move |segment: &str| {
        folder.shell(&format!(
            "cp primary/pg_wal/{segment} copied/{segment} && sync copied/{segment}"
        ))
    };
    let get = move |segment: &str| {
        folder.shell(&format!("cp copied/{segment} standby/pg_wal/RECOVERYXLOG"))
    };
    side("cp, with a sync of the file when it pushes", Box::new(push), Box::new(get))
}

fn side<'a>(
    name: &str,
    push: Box<dyn Fn(&str) -> Command + 'a>,
    get: Box<dyn Fn(&str) -> Command + 'a>,
) -> Side<'a> {
    Side { name: name.to_owned(), push, get, pushed: Vec::new(), got: Vec::new() }
}

/// The last segment that was got is the one that was pushed.
fn check(primary: &Path, standby: &Path, name: &str) {
    let pushed = fs::read(primary.join("pg_wal").join(name)).unwrap();
    let got = fs::read(standby.join("pg_wal/RECOVERYXLOG")).unwrap();
    assert!(pushed == got, "{name} came back with other content");
}

/// Wall time as median over the calls; processor time is counted in ticks of 10 ms, so only its mean
/// over many calls says something.
fn print_table(
    what: &str,
    sides: &[Side<'_>],
    of: impl for<'a, 'b> Fn(&'a Side<'b>) -> &'a [Cost],
) {
    println!("\n{what}: per segment; in brackets the first side / this side");
    println!("    wall ms (median)   cpu ms (mean)");
    let own = of(&sides[0]);
    let mean = |costs: &[Cost]| costs.iter().map(|cost| cost.cpu).sum::<f64>() / costs.len() as f64;
    for side in sides {
        let costs = of(side);
        let walls = costs.iter().map(|cost| cost.wall).collect();
        let pairs = own.iter().zip(costs).map(|(own, other)| own.wall / other.wall).collect();
        println!(
            "    {:6.1} ({:4.2})      {:6.1} ({:4.2})   {}",
            1e3 * median(walls),
            median(pairs),
            1e3 * mean(costs),
            mean(own) / mean(costs),
            side.name
        );
    }
}
