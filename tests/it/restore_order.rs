//! What a power cut would leave of a restore, argued by the order of its system calls.

use std::fs;
use std::path::Path;

use crate::restore_crash::{MARK, Scene, scene};
use crate::support::Server;
use crate::support::run::run;
use crate::support::servers::skip;
use crate::support::site::Site;

/// A power cut, argued by the order of system calls: the mark is durable before anything else is
/// written; after the last write everything is synced; then comes the control file, synced before it has
/// its name and its name before the marks go.
#[test]
fn f064_everything_is_durable_before_the_control_file_has_its_name() {
    let Some(server) = Server::main() else { return };
    let (site, copies, scene) = scene(&server);
    let Some(calls) = traced(&site, &copies.join("calls"), &scene, &[]) else { return };
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

/// The same of a restore that goes over what is there: nothing is written over, and nothing goes, before the old
/// control file is gone for good.
#[test]
fn f064_f067_the_old_control_file_is_gone_for_good_before_anything_is_written_over() {
    let Some(server) = Server::main() else { return };
    let (site, copies, scene) = scene(&server);
    let Some(_) = traced(&site, &copies.join("first"), &scene, &[]) else { return };
    let at = |path: &str| scene.data.join(path);
    fs::write(at("stray"), "x").unwrap();
    fs::write(at("base/stray"), "x").unwrap();
    let damaged = fs::canonicalize(at(&site.path_of("t"))).unwrap();
    let mut content = fs::read(&damaged).unwrap();
    content[5000] ^= 1;
    fs::write(&damaged, content).unwrap();
    let Some(calls) = traced(&site, &copies.join("calls"), &scene, &["--delta"]) else { return };
    let is_control = |call: &&Call| call.text.contains("pg_control");
    let marks = |call: &Call| call.text.contains(MARK);
    let goes = |call: &Call| call.name.starts_with("unlink") || call.name.starts_with("rename");
    let global = scene.data.join("global").display().to_string();
    let unlinked = calls.first(|call| call.name.starts_with("unlink") && is_control(&call));
    let after = &calls.0[unlinked..];
    let all = || calls.0.iter().map(|call| &call.text).collect::<Vec<_>>();
    let gone = after.iter().position(|call| call.is("fsync", &global));
    let gone = unlinked + gone.unwrap_or_else(|| panic!("{unlinked}: {:#?}", all()));
    // Written beside, and renamed.
    let data = scene.data.display().to_string();
    let marked = calls.first(|call| call.name == "fsync" && marks(call));
    let marked =
        marked + calls.0[marked..].iter().position(|call| call.is("fsync", &data)).unwrap();
    assert!(marked < unlinked, "{:#?}", all());
    let early = calls.0[..gone].iter().filter(|call| call.writes() || goes(call));
    let early = early.filter(|call| !marks(call) && !is_control(call));
    assert_eq!(early.map(|call| &call.text).collect::<Vec<_>>(), Vec::<&String>::new());
    let written = calls.first(|call| call.is("pwrite64", &damaged.display().to_string()));
    let stray = calls.first(|call| call.name.starts_with("unlink") && call.text.contains("stray"));
    let synced = calls.last(|call| call.name == "syncfs");
    let named = calls.last(|call| call.name.starts_with("rename") && is_control(&call));
    assert!(gone < written && gone < stray && written < synced && stray < synced);
    assert!(synced < named);
}

/// The system calls of a restore of that scene by the binary; none where nobody may look.
fn traced(site: &Site, log: &Path, scene: &Scene, arguments: &[&str]) -> Option<Calls> {
    let mut command = site.cluster.command("strace");
    command.args(["-f", "-y", "-qq", "-s", "1", "-o"]).arg(log);
    command.arg("-e").arg(
        "trace=write,pwrite64,writev,fallocate,ftruncate,mkdir,mkdirat,symlink,symlinkat,unlink,\
         unlinkat,syncfs,fsync,fdatasync,rename,renameat,renameat2",
    );
    let mapping = format!("{}={}", scene.old.display(), scene.new.display());
    command.arg(site.cluster.scratch().pgkeep_binary()).arg("--config").arg(&scene.config);
    command.args(["restore", "--yes", "--jobs", "2", "--tablespace"]).arg(mapping);
    command.arg("--to").arg(&scene.data).args(arguments);
    if !["/usr/bin/strace", "/usr/local/bin/strace"].iter().any(|path| Path::new(path).exists()) {
        return skip("strace is not installed");
    }
    let ran = run(&mut command);
    if !ran.is_ok() && ran.stderr.contains("ptrace") {
        return skip("ptrace is not permitted here");
    }
    drop(ran.assert_ok());
    Some(Calls::read(log, scene))
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
