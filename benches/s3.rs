//! Backups, restores and WAL in a bucket: against the same in a folder, and against pgBackRest's driver.
//!
//! `cargo bench --bench s3`; `PGKEEP_BENCH_DIR` and `PGKEEP_BENCH_ROUNDS` as for `base_backup`, whose cluster it
//! uses. The server of the tests stands in this process and keeps objects in memory, so that its processor
//! time is this process's own. Whoever is measured has half the processors alone, the folder's side too, and
//! the server, the proxy and PostgreSQL have the others: the server is the bottleneck only where its share
//! comes near their number. `PGKEEP_BENCH_LATENCY_MS` makes each request wait, as in a bucket that is away.
//! pgBackRest speaks TLS only, so a proxy (stunnel, where it is installed) stands before the server, and
//! pgkeep goes through it once more for the comparison.
#![allow(clippy::unwrap_used, clippy::print_stdout)]
#![allow(missing_docs, reason = "a program")]

mod live;
#[path = "../tests/it/support/s3/mod.rs"]
mod s3;

use std::process::Command;

use live::cluster::Cluster;
use live::cores::Cores;
use live::cost::{Cost, measure, own_cpu};
use live::folder::Folder;
use live::proxy::Proxy;
use live::sides::{PgBackRest, Pgkeep};
use live::{latency, median, rounds, tool};
use s3::TestS3;

const SEGMENTS: usize = 24;

struct Side<'a> {
    name: String,
    make: Box<dyn Fn() + 'a>,
    archive_command: String,
    backup: Box<dyn Fn() -> Command + 'a>,
    restore: Box<dyn Fn() -> Command + 'a>,
    push: Box<dyn Fn(&str) -> Command + 'a>,
    figures: Figures,
}

/// One a round, in the order of the rounds.
#[derive(Default)]
struct Figures {
    backups: Vec<(Cost, f64)>,
    restores: Vec<(Cost, f64)>,
    pushes: Vec<(Cost, f64)>,
    requests: Vec<f64>,
}

fn main() {
    if !tool("pgbench").is_file() {
        println!("skipped: PostgreSQL 15 with its client tools is not installed");
        return;
    }
    let cores = Cores::apart();
    match cores.measured_count {
        Some(count) => {
            println!("{count} processor(s) for whom is measured, the others for the servers")
        }
        None => println!("one processor for all: the server takes its time from whom it serves"),
    }
    let folder = Folder::open();
    let cluster = Cluster::start(&folder);
    let away = latency();
    println!("requests wait {} ms", away.as_millis());
    let s3 = TestS3::builder().latency(away).start();
    let proxy = Proxy::start(&folder, &s3.endpoint());
    let keys =
        [folder.write("access_key", s3.access_key()), folder.write("secret_key", s3.secret_key())];
    let bucket = |endpoint: &str, ca: &str| {
        format!(
            "url = \"s3://{}/keep\"\nendpoint = \"{endpoint}\"\nregion = \"{}\"\npath_style = true\n\
             access_key_file = \"{}\"\nsecret_key_file = \"{}\"\n{ca}",
            s3.bucket(),
            s3.region(),
            keys[0].display(),
            keys[1].display()
        )
    };
    let local = Pgkeep::new(&cluster, &folder, "keep", "");
    let plain = Pgkeep::at(&cluster, &folder, "keep-s3", &bucket(&s3.endpoint(), ""), "");
    let tls = proxy.as_ref().map(|proxy| {
        let ca = format!("ca_file = \"{}\"\n", proxy.certificate.display());
        Pgkeep::at(&cluster, &folder, "keep-tls", &bucket(&proxy.endpoint(), &ca), "")
    });
    let rest = proxy.as_ref().and_then(|proxy| {
        let options = format!(
            "repo1-type=s3\nrepo1-s3-endpoint=localhost\nrepo1-s3-bucket={}\nrepo1-s3-region={}\n\
             repo1-s3-key={}\nrepo1-s3-key-secret={}\nrepo1-s3-uri-style=path\n\
             repo1-storage-host=127.0.0.1\nrepo1-storage-port={}\nrepo1-storage-verify-tls=n\n",
            s3.bucket(),
            s3.region(),
            s3.access_key(),
            s3.secret_key(),
            proxy.port
        );
        PgBackRest::with(&cluster, &folder, &options)
    });
    let mut sides = vec![pgkeep_side("pgkeep, folder", &folder, &local, None)];
    sides.push(pgkeep_side("pgkeep, bucket over http", &folder, &plain, Some(&s3)));
    match &tls {
        Some(tls) => sides.push(pgkeep_side("pgkeep, bucket over https", &folder, tls, Some(&s3))),
        None => println!("stunnel is not installed: https and pgBackRest are left out"),
    }
    if let Some(rest) = &rest {
        sides.push(rest_side(&folder, rest, &s3));
    }
    let names = {
        cluster.archive_with("/bin/true");
        cluster.write_wal(SEGMENTS)
    };
    for round in 0..=rounds(3) {
        for side in &mut sides {
            run(
                &Bench { folder: &folder, cluster: &cluster, s3: &s3, cores: &cores },
                side,
                &names,
                round,
            );
        }
    }
    print("backup", &sides, |figures| &figures.backups);
    print("restore", &sides, |figures| &figures.restores);
    print("push of a segment", &sides, |figures| &figures.pushes);
    for side in &sides {
        println!("requests a push: {:4.1}   {}", median(side.figures.requests.clone()), side.name);
    }
}

fn pgkeep_side<'a>(
    name: &str,
    folder: &'a Folder,
    keep: &'a Pgkeep<'a>,
    s3: Option<&'a TestS3>,
) -> Side<'a> {
    let with = move |arguments: &[&str]| {
        let mut command = keep.command();
        command.args(arguments);
        command
    };
    Side {
        name: name.into(),
        make: Box::new(move || {
            s3.into_iter().for_each(empty);
            keep.make_repository();
        }),
        archive_command: keep.archive_command(),
        backup: Box::new(move || with(&["backup"])),
        restore: Box::new(move || {
            let mut command = with(&["restore", "--yes", "--to"]);
            command.arg(folder.join("restored"));
            command
        }),
        push: Box::new(move |name| with(&["archive-push", &format!("data/pg_wal/{name}")])),
        figures: Figures::default(),
    }
}

fn rest_side<'a>(folder: &'a Folder, rest: &'a PgBackRest<'a>, s3: &'a TestS3) -> Side<'a> {
    Side {
        name: format!("{}, bucket over https", rest.version),
        make: Box::new(move || {
            empty(s3);
            rest.make_repository();
        }),
        archive_command: rest.archive_command(),
        backup: Box::new(move || {
            let mut command = rest.command();
            command.args(["backup", "--type=full"]);
            command
        }),
        restore: Box::new(move || {
            folder.make("restored");
            let mut command = rest.command();
            command.arg("restore").arg(format!("--pg1-path={}", folder.join("restored").display()));
            command
        }),
        push: Box::new(move |name| {
            let mut command = rest.command();
            command.arg("archive-push").arg(folder.join("data/pg_wal").join(name));
            command
        }),
        figures: Figures::default(),
    }
}

fn empty(s3: &TestS3) {
    s3.keys().iter().for_each(|key| assert!(s3.lose(key)));
}

struct Bench<'a> {
    folder: &'a Folder,
    cluster: &'a Cluster<'a>,
    s3: &'a TestS3,
    cores: &'a Cores,
}

fn run(bench: &Bench<'_>, side: &mut Side<'_>, names: &[String], round: usize) {
    let Bench { folder, cluster, s3, cores } = bench;
    let timed = |command: &mut Command| {
        let before = own_cpu();
        let cost = cores.measured(|| measure(command, None));
        (cost, own_cpu() - before)
    };
    (side.make)();
    cluster.archive_with(&side.archive_command);
    folder.warm(&cluster.data().join("base"));
    folder.settle();
    let backup = timed(&mut (side.backup)());
    cluster.archive_with("/bin/true");
    folder.retire("restored");
    folder.settle();
    let restore = timed(&mut (side.restore)());
    let mut pushes = Vec::new();
    s3.reset_counts();
    for name in names {
        pushes.push(timed(&mut (side.push)(name)));
    }
    let requests = s3.all_requests().values().sum::<usize>() as f64 / names.len() as f64;
    println!(
        "round {round}: backup {:.2} s, restore {:.2} s, push {:.1} ms: {}",
        backup.0.wall,
        restore.0.wall,
        median(pushes.iter().map(|push| push.0.wall * 1e3).collect()),
        side.name
    );
    if round > 0 {
        side.figures.backups.push(backup);
        side.figures.restores.push(restore);
        side.figures.pushes.extend(pushes);
        side.figures.requests.push(requests);
    }
}

fn print(what: &str, sides: &[Side<'_>], of: fn(&Figures) -> &Vec<(Cost, f64)>) {
    println!("\n{what}: medians; in brackets this side / pgkeep in a folder, median of the rounds");
    println!(
        "    wall ms           cpu ms            server's cpu ms (share of wall)   memory MiB"
    );
    let own = of(&sides[0].figures);
    for side in sides {
        let costs = of(&side.figures);
        let middle =
            |figure: &dyn Fn(&(Cost, f64)) -> f64| median(costs.iter().map(figure).collect());
        let ratio = |figure: fn(&Cost) -> f64| {
            median(
                costs.iter().zip(own).map(|(side, own)| figure(&side.0) / figure(&own.0)).collect(),
            )
        };
        println!(
            "    {:8.1} ({:5.2})  {:8.1} ({:5.2})  {:8.1} ({:4.2})                  {:6.0}   {}",
            middle(&|cost| cost.0.wall * 1e3),
            ratio(|cost| cost.wall),
            middle(&|cost| cost.0.cpu * 1e3),
            ratio(|cost| cost.cpu),
            middle(&|cost| cost.1 * 1e3),
            middle(&|cost| cost.1 / cost.0.wall),
            middle(&|cost| cost.0.memory_mib),
            side.name
        );
    }
}
