//! Tests that need another process: one that is killed, one without rights, one with mounts.
//!
//! The other process is this test binary, told by an environment variable to run one part.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};

use super::*;

const PART: &str = "PGKEEP_TEST_PART";
const FOLDER: &str = "PGKEEP_TEST_FOLDER";

/// Does nothing in a normal run of the tests.
#[test]
#[allow(clippy::disallowed_methods, reason = "how a test speaks to its own child")]
fn child() {
    let (Some(part), Some(folder)) = (std::env::var_os(PART), std::env::var_os(FOLDER)) else {
        return;
    };
    let folder = PathBuf::from(folder);
    match part.to_str().unwrap() {
        "writes until killed" => write_until_killed(&folder),
        "reads without rights" => read_without_rights(&folder),
        "mounts" => {
            mount_over_the_root(&folder.join("over"));
            fill_a_small_disk(&folder.join("small"));
        }
        other => panic!("no such part: {other}"),
    }
    println!("child: part done");
}

/// Says past the capture of output what was not looked at here; fails where skips are not allowed.
#[allow(
    clippy::disallowed_methods,
    clippy::explicit_write,
    reason = "the environment says what must not be skipped; eprintln is captured in a passing test"
)]
fn skip(reason: &str) {
    let is_required = std::env::var_os("PGKEEP_REQUIRE_LIVE").is_some_and(|value| value == "1");
    assert!(!is_required, "{reason}, and PGKEEP_REQUIRE_LIVE=1");
    let thread = std::thread::current();
    let test = thread.name().unwrap_or("a test");
    writeln!(std::io::stderr(), "SKIPPED: {test}: {reason}").unwrap();
}

/// `/proc/self/exe` rather than the path, which another user may be unable to walk.
fn as_child(mut command: Command, part: &str, folder: &Path) -> Command {
    command
        .args(["--exact", "--nocapture", "storage::local::tests::process::child"])
        .env(PART, part)
        .env(FOLDER, folder)
        .stdin(Stdio::null());
    command
}

fn body(number: usize) -> Vec<u8> {
    vec![u8::try_from(number % 251).unwrap(); 50_000 + number]
}

fn write_until_killed(folder: &Path) {
    let store = LocalStore::open(folder).unwrap();
    let begin = names(&store).len();
    for number in begin..begin + 10_000 {
        let name = key(&format!("c/{}/{number}", number % 7));
        if number % 2 == 0 {
            store.put_if_absent(&name, &body(number)).unwrap();
        } else {
            let mut writer = store.put_stream(&name).unwrap();
            for piece in body(number).chunks(9000) {
                writer.write(piece).unwrap();
            }
            writer.finish().unwrap();
        }
        store.put(&key("same"), &body(number)).unwrap();
        println!("child: stored {number}");
    }
}

/// Everything acknowledged is there, and everything that is there is whole.
fn check_after_kill(store: &LocalStore, acknowledged: &[usize]) {
    for number in acknowledged {
        let name = key(&format!("c/{}/{number}", number % 7));
        assert_eq!(store.get(&name).unwrap(), body(*number));
    }
    for name in names(store).iter().filter(|name| *name != "same") {
        let number = name.rsplit('/').next().unwrap().parse().unwrap();
        assert_eq!(store.get(&key(name)).unwrap(), body(number), "{name}");
    }
    let same = store.get(&key("same")).unwrap();
    assert_eq!(same, body(same.len() - 50_000));
}

#[test]
fn a_killed_writer_leaves_whole_objects_only() {
    let (_dir, store) = new_store();
    let mut acknowledged = Vec::new();
    for stored_min in [1, 5, 12, 3, 8] {
        let command = Command::new("/proc/self/exe");
        let mut child = as_child(command, "writes until killed", store.root.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut stored = lines.filter_map(|line| {
            let line = line.unwrap();
            let (_, number) = line.split_once("child: stored ")?;
            number.parse::<usize>().ok()
        });
        acknowledged.extend(stored.by_ref().take(stored_min));
        child.kill().unwrap();
        child.wait().unwrap();
        acknowledged.extend(stored);
        check_after_kill(&store, &acknowledged);
    }
    assert!(acknowledged.len() >= 29);
    sweep_unfinished(&store, far_future()).unwrap();
    assert_eq!(temporary_files(&store), 0);
    check_after_kill(&store, &acknowledged);
}

fn read_without_rights(folder: &Path) {
    let store = LocalStore::open(folder).unwrap();
    for name in ["closed/a", "closed/absent", "closed/deep/absent"] {
        let outcomes = [
            store.get(&key(name)).map(drop),
            store.head(&key(name)).map(drop),
            store.read_up_to(&key(name), 0, 1).map(drop),
            store.put(&key(name), b"x"),
            store.put_if_absent(&key(name), b"x"),
            store.delete(&key(name)),
            store.list(name, None, 10).map(drop),
            store.list("", None, 10).map(drop),
        ];
        for (index, outcome) in outcomes.into_iter().enumerate() {
            assert!(matches!(outcome, Err(Error::Denied { .. })), "{name} {index}: {outcome:?}");
        }
    }
    let error = LocalStore::open(&folder.join("closed")).unwrap_err();
    assert!(matches!(error, Error::Denied { .. }), "{error}");
    assert_eq!(store.get(&key("open/a")).unwrap(), b"1");
    assert!(store.get(&key("open/b")).unwrap_err().is_not_found());
}

#[test]
fn a_closed_folder_is_denied_and_not_absent() {
    let (dir, store) = new_store();
    store.put(&key("closed/a"), b"1").unwrap();
    store.put(&key("open/a"), b"1").unwrap();
    let root = dir.path().join("root");
    let chmod = |path: &str, mode| {
        fs::set_permissions(root.join(path), fs::Permissions::from_mode(mode)).unwrap();
    };
    let mut command = Command::new("/proc/self/exe");
    if rustix::process::geteuid().is_root() {
        // Permission bits mean nothing to root: become nobody.
        command.uid(65_534).gid(65_534);
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        chmod("open/a", 0o644);
        chmod(".tmp", 0o777);
        chmod("", 0o777);
        chmod("open", 0o755);
    }
    chmod("closed", 0o000);
    let output = as_child(command, "reads without rights", &root).output();
    chmod("closed", 0o700);
    match output {
        Ok(output) => assert_done(&output),
        Err(error) => skip(&format!("cannot run as another user: {error}")),
    }
}

fn assert_done(output: &std::process::Output) {
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{stdout}{stderr}");
    assert!(stdout.contains("child: part done"), "{stdout}{stderr}");
}

fn mount(arguments: &[&str], target: &Path) {
    let mut command = Command::new(arguments[0]);
    let status = command.args(&arguments[1..]).arg(target).status().unwrap();
    assert!(status.success(), "{arguments:?}");
}

fn mount_over_the_root(root: &Path) {
    let store = LocalStore::create(root).unwrap();
    store.put(&key("c/a"), b"1").unwrap();
    mount(&["mount", "-t", "tmpfs", "-o", "size=1m", "none"], root);
    assert_lost(&store);
    let mounted = LocalStore::open(root).unwrap();
    assert!(mounted.get(&key("c/a")).unwrap_err().is_not_found());
    // A daemon that still holds the mount's root after a lazy unmount.
    mount(&["umount", "-l"], root);
    assert_lost(&mounted);
    assert_eq!(names(&store), ["c/a"]);
    assert!(store.get(&key("c/absent")).unwrap_err().is_not_found());
}

/// Sizes around what fits: an object is whole or not there, and the disk is as free as before.
fn fill_a_small_disk(root: &Path) {
    fs::create_dir_all(root).unwrap();
    mount(&["mount", "-t", "tmpfs", "-o", "size=1m", "none"], root);
    let store = LocalStore::open(root).unwrap();
    let mut full = 0;
    for size in (800_000..1_300_000).step_by(4099) {
        let body = vec![1; size];
        let streamed = store.put_stream(&key("c/b")).and_then(|mut writer| {
            let written = body.chunks(10_007).try_for_each(|piece| writer.write(piece));
            // A caller that overlooks the error still gets no half object.
            let finished = writer.finish().map(drop);
            written.and(finished)
        });
        check_outcome(&store, "c/b", &body, streamed, &mut full);
        let whole = store.put_if_absent(&key("c/a"), &body);
        check_outcome(&store, "c/a", &body, whole, &mut full);
        assert_eq!(temporary_files(&store), 0);
    }
    assert!(full > 20, "the disk was too large for this test");
    store.put(&key("c/a"), &[2; 500_000]).unwrap();
    // Full, but what is archived is archived.
    let error = store.put(&key("c/b"), &[2; 700_000]).unwrap_err();
    assert!(matches!(error, Error::Io { .. }), "{error}");
    let error = store.put_if_absent(&key("c/a"), &[2; 700_000]).unwrap_err();
    assert!(error.is_already_exists(), "{error}");
}

fn check_outcome(
    store: &LocalStore,
    name: &str,
    body: &[u8],
    outcome: Result<()>,
    full: &mut usize,
) {
    match outcome {
        Ok(()) => assert_eq!(store.get(&key(name)).unwrap(), body),
        Err(Error::Io { source, .. }) => {
            assert_eq!(source.kind(), io::ErrorKind::StorageFull);
            assert!(store.get(&key(name)).unwrap_err().is_not_found());
            *full += 1;
        }
        Err(other) => panic!("{other}"),
    }
    store.delete(&key(name)).unwrap();
    assert!(names(store).is_empty());
}

#[test]
fn mounts_and_full_disks_show() {
    let dir = tempfile::tempdir().unwrap();
    let unshare: &[&str] = if rustix::process::geteuid().is_root() {
        &["--mount"]
    } else {
        &["--user", "--map-root-user", "--mount"]
    };
    let may_mount = Command::new("unshare").args(unshare).arg("true").status();
    if !may_mount.is_ok_and(|status| status.success()) {
        return skip("no private mounts here, so no mount over a root and no full disk");
    }
    let mut command = Command::new("unshare");
    command.args(unshare).arg(std::env::current_exe().unwrap());
    assert_done(&as_child(command, "mounts", dir.path()).output().unwrap());
}
