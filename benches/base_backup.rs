//! Full backups and restores of a real cluster, against what users have today.
//!
//! `cargo bench --bench base_backup`; `PGKEEP_BENCH_DIR=/some/folder` keeps the cluster for the next
//! run, `PGKEEP_BENCH_ROUNDS=n` runs each side n times. The sides take turns and each ratio is one of
//! the same round; medians are printed. What each side makes durable stands beside it.
#![allow(clippy::unwrap_used, clippy::print_stdout)]
#![allow(missing_docs, reason = "a program")]

mod live;

use std::process::Command;

use live::cluster::Cluster;
use live::folder::Folder;
use live::paired::{Side, print_table, run};
use live::sides::{PgBackRest, Pgkeep};
use live::{installed, rounds, tool};

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
    let rounds = rounds(5);
    let mut backups = backup_sides(&folder, &cluster, &pgkeep, rest.as_ref());
    run(&folder, &cluster, &mut backups, rounds);
    print_table("backup", &backups);
    let size = |path: std::path::PathBuf| folder.count(&path).1 as f64 / 1e6;
    println!("stored: pgkeep {:.0} MB", size(pgkeep.repository()));
    if let Some(rest) = &rest {
        println!("stored: pgBackRest {:.0} MB", size(rest.repository()));
    }
    let mut restores = restore_sides(&folder, &pgkeep, rest.as_ref());
    run(&folder, &cluster, &mut restores, rounds);
    print_table("restore", &restores);
}

fn backup_sides<'a>(
    folder: &'a Folder,
    cluster: &'a Cluster<'a>,
    pgkeep: &'a Pgkeep<'a>,
    rest: Option<&'a PgBackRest<'a>>,
) -> Vec<Side<'a>> {
    let silent = || cluster.archive_with("/bin/true");
    let base_backup = move |to: &'static str, arguments: &'static [&'static str]| {
        move || {
            let mut command = folder.command(tool("pg_basebackup"));
            command.args(["-d", &cluster.conninfo(), "-X", "none", "-c", "fast", "-D"]);
            command.arg(folder.join(to)).args(arguments);
            command
        }
    };
    let mut sides = vec![Side {
        name: "pgkeep (lz4, aes-256-cbc, 2 workers; syncs packs, records, folders)".into(),
        prepare: Box::new(move || {
            pgkeep.make_repository();
            cluster.archive_with(&pgkeep.archive_command());
        }),
        command: Box::new(move || {
            let mut command = pgkeep.command();
            command.arg("backup");
            command
        }),
        finish: Box::new(silent),
        on_server: true,
        costs: Vec::new(),
    }];
    if let Some(rest) = rest {
        sides.push(Side {
            name: format!(
                "{} (lz4, aes-256-cbc, 2 processes, bundles; syncs files, folders)",
                rest.version
            ),
            prepare: Box::new(move || {
                rest.make_repository();
                cluster.archive_with(&rest.archive_command());
            }),
            command: Box::new(move || {
                let mut command = rest.command();
                command.args(["backup", "--type=full"]);
                command
            }),
            finish: Box::new(silent),
            on_server: true,
            costs: Vec::new(),
        });
    }
    for (name, to, arguments) in [
        ("pg_basebackup, plain (syncs each file)", "plain", &["-Fp"][..]),
        (
            "pg_basebackup, tar, server-lz4 (syncs the tar)",
            "tar",
            &["-Ft", "--compress=server-lz4"],
        ),
    ] {
        sides.push(Side {
            name: name.into(),
            prepare: Box::new(move || folder.retire(to)),
            command: Box::new(base_backup(to, arguments)),
            finish: Box::new(|| {}),
            on_server: true,
            costs: Vec::new(),
        });
    }
    sides
}

fn restore_sides<'a>(
    folder: &'a Folder,
    pgkeep: &'a Pgkeep<'a>,
    rest: Option<&'a PgBackRest<'a>>,
) -> Vec<Side<'a>> {
    const TO: &str = "restored";
    let side = |name: String, command: Box<dyn Fn() -> Command + 'a>, is_made: bool| Side {
        name,
        prepare: Box::new(move || {
            folder.retire(TO);
            if is_made {
                folder.make(TO);
            }
        }),
        command,
        finish: Box::new(|| {}),
        on_server: false,
        costs: Vec::new(),
    };
    folder.warm(&pgkeep.repository());
    let restore = move || {
        let mut command = pgkeep.command();
        command.args(["restore", "--yes", "--to"]).arg(folder.join(TO));
        command
    };
    let mut sides = vec![side(
        "pgkeep (syncs the file system, then pg_control)".into(),
        Box::new(restore),
        false,
    )];
    if let Some(rest) = rest {
        folder.warm(&rest.repository());
        let restore = move || {
            let mut command = rest.command();
            command.arg("restore").arg(format!("--pg1-path={}", folder.join(TO).display()));
            command
        };
        let name = format!("{} (syncs each file)", rest.version);
        sides.push(side(name, Box::new(restore), true));
    }
    let copy = move || folder.shell("cp -r plain restored && sync -f restored");
    sides.push(side("cp -r of the plain backup, sync -f".into(), Box::new(copy), false));
    if installed("lz4").is_some() {
        let unpack = move || {
            folder.shell("lz4 -dc tar/base.tar.lz4 | tar -x -C restored && sync -f restored")
        };
        sides.push(side("lz4 -d | tar -x, sync -f".into(), Box::new(unpack), true));
    } else {
        println!("lz4 is not installed: tar extraction is left out");
    }
    sides
}
