//! A daemon beside the server as in a pod: in a mount namespace of its own, where the server's directories
//! are somewhere else, or not at all. It gets them by the open folders that its clients pass.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use rustix::process::Signal;

use crate::daemon_live::Served;
use crate::standby_live::{append, find, ready};
use crate::support::other_account::other_command;
use crate::support::run::{DEADLINE, Running, run, start, wait_until};
use crate::support::site::{Site, started};
use crate::support::{ScratchDir, Server, TestCluster, TestDaemon};

/// Shows the first folder as the second one, hides the others, and becomes what is left of the arguments.
const SCRIPT: &str = r#"
set -e
if test -n "$2"; then mount --bind "$1" "$2"; fi
for folder in $3; do mount -t tmpfs none "$folder"; done
test ! -e "$1/PG_VERSION"
shift 3
exec "$@"
"#;

/// A command of the server's account in a mount namespace of its own.
fn namespaced(cluster: &TestCluster, arguments: &[&str]) -> std::process::Command {
    let mut command = cluster.command("unshare");
    command.args(["--user", "--map-root-user", "--mount", "sh", "-c", SCRIPT, "sh"]);
    command.args(arguments);
    command
}

fn said_skipped(why: &str) {
    #[allow(clippy::explicit_write, reason = "eprintln is captured in a test that passes")]
    writeln!(std::io::stderr(), "SKIPPED: {why}").unwrap();
}

struct Sidecar {
    site: Site,
    daemon: TestDaemon,
    running: Running,
    /// Where a restored directory is to be, hidden from the daemon too.
    restored: ScratchDir,
    /// Where the daemon sees the data directory.
    #[allow(dead_code, reason = "who removes it outside takes it away from the daemon")]
    elsewhere: ScratchDir,
}

impl Sidecar {
    /// With a daemon that sees the data directory at another path, or not at all. Nothing where namespaces
    /// are not allowed.
    fn start(server: &Server, sees_data: bool) -> Option<Self> {
        let site = Site::small(server);
        let (daemon, config) = TestDaemon::configure(site.config, "");
        let (restored, elsewhere) = (ScratchDir::new("restored"), ScratchDir::new("elsewhere"));
        let data = site.cluster.data_dir().to_owned();
        let shown = elsewhere.create_dir("data");
        let text = fs::read_to_string(config.path()).unwrap();
        let line = |path: &Path| format!("data_directory = \"{}\"", path.display());
        let own = if sees_data { line(&shown) } else { String::new() };
        let text = text.replace(&line(&data), &own);
        assert!(sees_data || !text.contains("data_directory"), "{text}");
        // Beside the one of the commands outside, which have the paths of outside.
        config.write("sidecar.toml", &text);
        let hidden =
            format!("{} {}", site.cluster.scratch().path().display(), restored.path().display());
        let shown = if sees_data { shown.display().to_string() } else { String::new() };
        let data = data.display().to_string();
        let places = [&data, &shown, &hidden].map(String::as_str);
        if !run(&mut namespaced(&site.cluster, &[&places[..], &["true"]].concat())).is_ok() {
            said_skipped("folders cannot be hidden here");
            return None;
        }
        let binary = site.cluster.scratch().pgkeep_binary().display().to_string();
        let file = config.path().with_file_name("sidecar.toml").display().to_string();
        let daemon_command = [binary.as_str(), "--config", &file, "daemon"];
        let running =
            start(&mut namespaced(&site.cluster, &[&places[..], &daemon_command].concat()));
        let is_ready = || running.stderr_so_far().contains("serves ");
        wait_until(DEADLINE, is_ready, || running.stderr_so_far());
        let site = Site { config, ..site };
        Some(Self { site, daemon, running, restored, elsewhere })
    }

    /// A command that needs no configuration.
    fn command(&self, what: &str) -> String {
        let binary = self.site.cluster.scratch().pgkeep_binary().display();
        let (word, rest) = what.split_once(' ').unwrap();
        format!("{binary} {word} --socket {} {rest}", self.daemon.socket().display())
    }
}

fn serves_both_ways(sees_data: bool) {
    let Some(server) = Server::main() else { return };
    let Some(sidecar) = Sidecar::start(&server, sees_data) else { return };
    let (cluster, config) = (&sidecar.site.cluster, &sidecar.site.config);
    cluster.set_archive_command(&sidecar.command("archive-push \"%p\""));
    cluster.psql("create table t (n int); insert into t values (1)");
    config.run(["backup"]).assert_ok();
    cluster.set_archive_command("false");
    let mut names = Vec::new();
    for n in 2..=9 {
        cluster.psql(&format!("insert into t values ({n})"));
        names.push(cluster.switch_wal());
    }
    cluster.set_archive_command(&sidecar.command("archive-push \"%p\""));
    wait_until(DEADLINE, || ready(cluster).is_empty(), || sidecar.running.stderr_so_far());
    for name in &names {
        assert!(find(&sidecar.site.repo, name).is_some(), "{name}");
    }
    // What waits is counted in the folders of whoever has asked.
    cluster.set_archive_command("false");
    cluster.psql("insert into t values (10)");
    let name = cluster.switch_wal();
    let drained = config.run(["drain", "--timeout", "0s"]).assert_code(1);
    assert!(drained.stderr.contains("1 files are ready"), "{drained}");
    cluster.set_archive_command(&sidecar.command("archive-push \"%p\""));
    cluster.wait_until(&format!("(select last_archived_wal from pg_stat_archiver) = '{name}'"));
    config.run(["drain", "--timeout", "60s"]).assert_ok();

    // Paths are told as the client calls them.
    let missing = cluster.data_dir().join("pg_wal/0000000100000000000000FF");
    let push = sidecar.command(&format!("archive-push {}", missing.display()));
    let told = run(cluster.command("sh").args(["-c", &push])).assert_code(1);
    assert!(told.stderr.contains(missing.to_str().unwrap()), "{told}");
    assert!(!told.stderr.contains("/proc/"), "{told}");

    // And back.
    let to = sidecar.restored.join("data");
    sidecar.site.restore(&to, &[]);
    let get = sidecar.command("archive-get %f \"%p\"");
    let settings = to.join("postgresql.auto.conf");
    append(&settings, &[format!("restore_command = '{get}'")]);
    let restored = started(&server, &to);
    assert_eq!(restored.psql("select count(*), max(n) from t"), "10|10");
    assert!(restored.log().contains("restored log file"), "{}", restored.log());
    assert!(!cluster.log().contains("done without it"), "{}", cluster.log());
    sidecar.running.signal(Signal::TERM);
    sidecar.running.wait().assert_ok();
}

#[test]
fn d20261128_a_sidecar_that_sees_the_data_directory_elsewhere_serves_both_ways() {
    serves_both_ways(true);
}

#[test]
fn d20261128_a_sidecar_that_does_not_see_the_data_directory_serves_both_ways() {
    serves_both_ways(false);
}

/// Folder and socket let everybody in here, and still the daemon serves nobody else, and nobody else's
/// client believes it.
#[test]
fn another_account_is_neither_served_nor_believes() {
    let Some(server) = Server::main() else { return };
    let site = Served::new(&server, "");
    let (first, second) = (site.cluster.archive_now(), site.cluster.archive_now());
    let socket = site.daemon.socket();
    let folder = socket.parent().unwrap();
    let open =
        |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    open(folder, 0o711);
    open(&socket, 0o666);
    let binary = site.cluster.scratch().pgkeep_binary().to_owned();
    let Some(mut push) = other_command(&binary, Path::new("/")) else { return };
    // A copy that everybody may read: only the account is in the way.
    let data = ScratchDir::new("readable");
    for name in ["PG_VERSION", "global/pg_control", &format!("pg_wal/{first}")] {
        fs::create_dir_all(data.join(name).parent().unwrap()).unwrap();
        fs::write(data.join(name), fs::read(site.cluster.data_dir().join(name)).unwrap()).unwrap();
    }
    let path = data.join("pg_wal").join(&first);
    let refused = run(push.arg("archive-push").arg("--socket").arg(&socket).arg(&path));
    refused.assert_code(1).assert_says("the other side is account");
    let is_told =
        || site.daemon.log().contains("a connection is refused: the other side is account");
    wait_until(DEADLINE, is_told, || site.daemon.log());
    site.push(&second).assert_ok();
}

/// Puts what is in the second folder on a disk below the first one, which shows as the second and has 3 MiB
/// left until the third path is there; and becomes what is left of the arguments.
const SMALL_DISK: &str = r#"
set -e
mount -t tmpfs -o size=64M none "$1"
mkdir "$1/repository"
cp -a "$2/." "$1/repository/"
mount --bind "$1/repository" "$2"
head -c 61M /dev/zero >"$1/filler"
filler=$1/filler more=$3
shift 3
{
    tries=1200
    until test -e "$more" || test $tries = 0; do sleep 0.1; tries=$((tries - 1)); done
    rm "$filler"
} >/dev/null 2>&1 &
exec "$@"
"#;

#[test]
fn f006_a_full_disk_takes_no_part_of_a_segment_and_archiving_goes_on_when_there_is_room() {
    let Some(server) = Server::main() else { return };
    let Site { cluster, config, repo } = Site::small(&server);
    let (daemon, config) = TestDaemon::configure(config, "fallback = \"fail\"");
    let scratch = ScratchDir::new("disk");
    let (room, more) = (scratch.create_dir("room"), scratch.join("more"));
    let places = [room.as_path(), repo.path(), &more].map(|path| path.to_str().unwrap());
    let on_small_disk = |program: &[&str]| {
        let mut command = cluster.command("unshare");
        command.args(["--user", "--map-root-user", "--mount", "sh", "-c", SMALL_DISK, "sh"]);
        command.args([&places[..], program].concat());
        command
    };
    if !run(&mut on_small_disk(&["true"])).is_ok() {
        return said_skipped("disks cannot be mounted here");
    }
    let binary = cluster.scratch().pgkeep_binary().display().to_string();
    let file = config.path().display().to_string();
    let running = start(&mut on_small_disk(&[&binary, "--config", &file, "daemon"]));
    let is_ready = || running.stderr_so_far().contains("serves ");
    wait_until(DEADLINE, is_ready, || running.stderr_so_far());
    cluster.set_archive_command(&config.archive_command());
    cluster.psql("create table r (t text)");
    let rows = "insert into r select md5(random()::text) || md5(random()::text) \
                from generate_series(1, 8000)";
    let mut names = Vec::new();
    for _ in 0..8 {
        cluster.psql(rows);
        names.push(cluster.switch_wal());
    }
    cluster.wait_until("select failed_count > 0 from pg_stat_archiver");
    assert!(cluster.log().contains("No space left on device"), "{}", cluster.log());
    let check = config.run(["check"]).assert_code(14);
    assert!(check.stdout.contains("FAIL  archiver"), "{check}");
    assert!(ready(&cluster).contains(names.last().unwrap()));

    fs::write(&more, "").unwrap();
    wait_until(DEADLINE, || ready(&cluster).is_empty(), || cluster.log());
    let out = cluster.data_dir().join("pg_wal/RECOVERYXLOG");
    for name in &names {
        // Outside is another disk.
        assert!(find(&repo, name).is_none(), "{name}");
        config.run(["archive-get", name, out.to_str().unwrap()]).assert_ok();
        let kept = fs::read(cluster.data_dir().join("pg_wal").join(name)).unwrap();
        assert!(fs::read(&out).unwrap() == kept, "{name}");
    }
    running.signal(Signal::TERM);
    running.wait().assert_ok();
    drop(daemon);
}
