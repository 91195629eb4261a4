//! What a power cut would leave of a restore, argued by the order of its system calls.

use std::fs;
use std::path::Path;

use crate::restore_crash::{MARK, Scene, scene};
use crate::support::Server;
use crate::support::run::run;
use crate::support::servers::skip;

/// A power cut, argued by the order of system calls: the mark is durable before anything else is
/// written; after the last write everything is synced; then comes the control file, synced before it has
/// its name and its name before the marks go.
#[test]
fn f064_everything_is_durable_before_the_control_file_has_its_name() {
    let Some(server) = Server::main() else { return };
    let (site, copies, scene) = scene(&server);
    let log = copies.join("calls");
    let mut command = site.cluster.command("strace");
    command.args(["-f", "-y", "-qq", "-s", "1", "-o"]).arg(&log);
    command.arg("-e").arg(
        "trace=write,pwrite64,writev,fallocate,ftruncate,mkdir,mkdirat,symlink,symlinkat,unlink,\
         unlinkat,syncfs,fsync,fdatasync,rename,renameat,renameat2",
    );
    let mapping = format!("{}={}", scene.old.display(), scene.new.display());
    command.arg(site.cluster.scratch().pgkeep_binary()).arg("--config").arg(&scene.config);
    command.args(["restore", "--yes", "--jobs", "2", "--tablespace"]).arg(mapping);
    command.arg("--to").arg(&scene.data);
    if !["/usr/bin/strace", "/usr/local/bin/strace"].iter().any(|path| Path::new(path).exists()) {
        return skip("strace is not installed").unwrap_or_default();
    }
    let ran = run(&mut command);
    if !ran.is_ok() && ran.stderr.contains("ptrace") {
        return skip("ptrace is not permitted here").unwrap_or_default();
    }
    drop(ran.assert_ok());
    let calls = Calls::read(&log, &scene);
    let mark = scene.data.join(MARK).display().to_string();
    let mark_durable = calls.first(|call| call.is("fsync", &mark));
    let first_other = calls.first(|call| call.writes() && !call.text.contains(MARK));
    assert!(mark_durable < first_other, "{mark_durable} {first_other}");
    let synced = calls.last(|call| call.name == "syncfs");
    let syncs = calls.0.iter().filter(|call| call.name == "syncfs").count();
    assert_eq!(syncs, 2, "the data directory's file system and the tablespace's");
    let is_control = |call: &&Call| call.text.contains("pg_control");
    let late = calls.0[synced..].iter().filter(|call| call.writes() && !is_control(call));
    let late: Vec<&String> = late.map(|call| &call.text).collect();
    assert_eq!(late, Vec::<&String>::new(), "written after the sync");
    let early = calls.0[..synced].iter().filter(|call| call.writes());
    assert!(early.clone().count() > 250 && !early.clone().any(|call| is_control(&call)));
    let global = scene.data.join("global").display().to_string();
    let tail = [
        calls.first(|call| call.writes() && is_control(&call)),
        calls.first(|call| call.name == "fsync" && is_control(&call)),
        calls.first(|call| call.name.starts_with("rename") && is_control(&call)),
        calls.first(|call| call.is("fsync", &global)),
        calls.first(|call| call.name.starts_with("unlink") && call.text.contains("tablespace")),
        calls.first(|call| call.name.starts_with("unlink") && call.text.contains(&mark)),
    ];
    assert!(synced < tail[0] && tail.is_sorted_by(|a, b| a < b), "{synced} {tail:?}");
}

/// System calls that name something in the scene's places, in order.
struct Calls(Vec<Call>);

struct Call {
    name: String,
    text: String,
}

impl Call {
    fn is(&self, name: &str, path: &str) -> bool {
        self.name == name && self.text.contains(&format!("<{path}>"))
    }

    fn writes(&self) -> bool {
        let writing = ["write", "pwrite64", "writev", "fallocate", "ftruncate", "mkdir", "symlink"];
        writing.contains(&self.name.trim_end_matches("at"))
    }
}

impl Calls {
    fn read(log: &Path, scene: &Scene) -> Self {
        let places = [&scene.data, &scene.new].map(|place| place.display().to_string());
        let text = fs::read_to_string(log).unwrap();
        let calls = text.lines().filter_map(|line| {
            let call = line.split_once(' ')?.1.trim_start();
            let (name, arguments) = call.split_once('(')?;
            let is_ours = places.iter().any(|place| arguments.contains(place));
            // Making the directories themselves comes first.
            let makes_place = places
                .iter()
                .any(|place| name == "mkdir" && arguments.starts_with(&format!("\"{place}\"")));
            (is_ours && !makes_place).then(|| Call { name: name.into(), text: call.into() })
        });
        Self(calls.collect())
    }

    #[track_caller]
    fn first(&self, wanted: impl Fn(&Call) -> bool) -> usize {
        self.0.iter().position(wanted).unwrap()
    }

    #[track_caller]
    fn last(&self, wanted: impl Fn(&Call) -> bool) -> usize {
        self.0.iter().rposition(wanted).unwrap()
    }
}
