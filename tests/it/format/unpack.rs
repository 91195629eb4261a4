//! `docs/unpack.py` against what pgkeep wrote: an engineer without pgkeep gets the same bytes, and
//! nothing that was changed.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use pgkeep::repo::{CipherChoice, RowKind, Source};
use pgkeep::storage::{self, ObjectStore as _};

use super::golden::{GOLDEN, SEGMENT_SIZE, folder};
use crate::support::ScratchDir;
use crate::support::sample;
use crate::support::servers::skip;

/// The script, on one repository with one secret.
pub(super) struct Script {
    pub(super) repository: PathBuf,
    pub(super) secret: Vec<OsString>,
}

impl Script {
    fn run(&self, arguments: &[&OsStr]) -> Output {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/unpack.py");
        let mut command = Command::new("python3");
        command.arg("-B").arg(script).arg(&self.repository).args(&self.secret).args(arguments);
        command.output().unwrap()
    }

    #[track_caller]
    pub(super) fn ok(&self, arguments: &[&OsStr]) -> String {
        let ran = self.run(arguments);
        assert!(ran.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&ran.stderr));
        String::from_utf8(ran.stdout).unwrap()
    }

    /// What it says on stderr when it refuses.
    #[track_caller]
    pub(super) fn refused(&self, arguments: &[&OsStr]) -> String {
        let ran = self.run(arguments);
        assert_eq!(ran.status.code(), Some(1), "{arguments:?}");
        String::from_utf8(ran.stderr).unwrap()
    }
}

pub(super) fn os(text: &str) -> &OsStr {
    OsStr::new(text)
}

/// Whether the two programs are here; a skip that shows where not.
pub(super) fn programs() -> Option<()> {
    for (program, argument) in [("python3", "--version"), ("openssl", "version")] {
        let mut command = Command::new(program);
        let ran = command.arg(argument).stdout(Stdio::null()).stderr(Stdio::null()).status();
        if !ran.is_ok_and(|status| status.success()) {
            return skip(&format!("{program} is not installed"));
        }
    }
    Some(())
}

/// The ways to open a sample's repository.
pub(super) fn secrets(scratch: &ScratchDir, cipher: CipherChoice) -> Vec<Vec<OsString>> {
    if cipher == CipherChoice::None {
        return vec![vec![]];
    }
    let key = scratch.write("key", sample::key_file().1);
    let passphrase = scratch.write("passphrase", format!("{}\n", sample::PASSPHRASE));
    vec![vec!["--key-file".into(), key.into()], vec!["--passphrase-file".into(), passphrase.into()]]
}

#[test]
fn the_script_unpacks_the_golden_repositories() {
    let Some(()) = programs() else { return };
    for (name, cipher) in GOLDEN {
        let scratch = ScratchDir::new("unpack");
        let expected = sample::make(cipher, SEGMENT_SIZE);
        let out = scratch.join("out");
        for secret in secrets(&scratch, cipher) {
            let script = Script { repository: folder(name), secret };
            let backups = script.ok(&[os("list-backups")]);
            assert_eq!(backups.lines().count(), 2);
            assert!(backups.contains("20261119-020000F  given up: the host was restarted"));
            assert!(backups.contains("20261120-020000F  full  finished 2026-11-20T02:01:01"));
            let listed = script.ok(&[os("list"), os(expected.id.as_str())]);
            assert_eq!(listed.lines().count(), expected.rows.len());
            assert!(listed.contains("new\\nline\\\\\n") && listed.contains("utf-8 \\xff\\xfe\n"));
            assert!(listed.contains("pg_tblspc/16400 -> /srv/space"));
            for row in &expected.rows {
                let path = OsStr::from_bytes(&row.path);
                let arguments =
                    [os("file"), os(expected.id.as_str()), path, os("-o"), out.as_os_str()];
                if row.kind == RowKind::File {
                    script.ok(&arguments);
                    assert!(fs::read(&out).unwrap() == expected.files[&row.path], "{path:?}");
                    fs::remove_file(&out).unwrap();
                } else {
                    script.refused(&arguments);
                }
            }
            for (file, content) in [
                (sample::SEGMENT, &expected.segment[..]),
                ("00000002.history", sample::HISTORY),
                (sample::LABEL, sample::BACKUP_LABEL.as_bytes()),
            ] {
                script.ok(&[os("wal"), os(file), os("-o"), out.as_os_str()]);
                assert!(fs::read(&out).unwrap() == content, "{file}");
                fs::remove_file(&out).unwrap();
            }
            let absent = [os("wal"), os("0000000100000000000000FF"), os("-o"), out.as_os_str()];
            assert!(script.refused(&absent).contains("0000000100000000000000FF"));
            assert!(!out.exists());
        }
    }
}

#[test]
fn the_script_wants_the_right_secret() {
    let Some(()) = programs() else { return };
    let scratch = ScratchDir::new("unpack-secret");
    let key = format!("pgkeep-key-1 {}\n", "ab".repeat(32));
    for (secret, says) in [
        (vec![], "--key-file or --passphrase-file is needed"),
        (vec![os("--key-file").into(), scratch.write("a", key).into()], "'sample key file'"),
        (vec![os("--key-file").into(), scratch.write("b", "x").into()], "not a pgkeep key file"),
        (
            vec![os("--passphrase-file").into(), scratch.write("c", "no").into()],
            "opens no key slot",
        ),
    ] {
        let script = Script { repository: folder("aes"), secret };
        let said = script.refused(&[os("list-backups")]);
        assert!(said.contains(says), "{said}");
    }
}

/// A flip every so often, and some cuts, in everything that the script reads: it names the object
/// and leaves no file, or the byte is one that it did not have to read.
#[test]
fn the_script_refuses_what_was_changed() {
    let Some(()) = programs() else { return };
    for (name, cipher) in GOLDEN {
        let scratch = ScratchDir::new("unpack-damage");
        let expected = sample::make(cipher, 1000);
        let root = scratch.join("repository");
        let mut objects = Vec::new();
        for meta in storage::list_all(&expected.store, "").unwrap() {
            let path = root.join(meta.key.as_str());
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, expected.store.get(&meta.key).unwrap()).unwrap();
            objects.push((meta.key.to_string(), path));
        }
        let secret = secrets(&scratch, cipher).remove(0);
        let script = Script { repository: root, secret };
        let out = scratch.join("out");
        let file = ["file", "20261120-020000F", "base/1/2840", "-o"].map(os);
        let file = [&file[..], &[out.as_os_str()]].concat();
        let wal = [os("wal"), os(sample::SEGMENT), os("-o"), out.as_os_str()];
        let row = expected.rows.iter().find(|row| row.path == b"base/1/2840").unwrap();
        let Source::Pack { pack, .. } = row.layers[0].source else { panic!("{row:?}") };
        let companions =
            ["data", "meta"].map(|family| format!("/{family}/20261120-020000F/{pack:06}"));
        let read = ["pgkeep.json", "/backup/20261120", "/files/", "/wal/"];
        let mut refused = 0;
        for (object, path) in &objects {
            let arguments = if object.contains("/wal/") { &wal[..] } else { &file[..] };
            let is_read = read.iter().any(|part| object.contains(part))
                || companions.iter().any(|part| object.contains(part));
            if !is_read {
                continue;
            }
            let bytes = fs::read(path).unwrap();
            for step in 0..4 {
                let at = bytes.len() * (2 * step + 1) / 8;
                let mut changed = bytes.clone();
                changed[at] ^= 0x04;
                let versions = [changed, bytes[..at].to_vec()];
                for version in versions {
                    fs::write(path, version).unwrap();
                    let ran = script.run(arguments);
                    if ran.status.success() {
                        assert!(object.contains("/data/"), "{name}: {object}: byte {at}");
                        assert_eq!(fs::read(&out).unwrap(), expected.files[&b"base/1/2840"[..]]);
                        fs::remove_file(&out).unwrap();
                        continue;
                    }
                    refused += 1;
                    let said = String::from_utf8(ran.stderr).unwrap();
                    assert_eq!(ran.status.code(), Some(1), "{said}");
                    let named = said.contains(object) || said.contains("opens no key slot");
                    assert!(named && !said.contains("Traceback"), "{object}: byte {at}: {said}");
                    assert!(!out.exists());
                }
            }
            fs::write(path, &bytes).unwrap();
        }
        assert!(refused > 30, "{refused}");
        script.ok(&file);
    }
}

#[test]
fn the_worked_example_is_true() {
    let Some(()) = programs() else { return };
    let mut command = Command::new("python3");
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    command.args(["-B", "-m", "doctest", "docs/format.md"]).current_dir(root);
    let ran = command.env("PYTHONPATH", "docs").output().unwrap();
    let said = String::from_utf8_lossy(&ran.stdout);
    assert!(ran.status.success(), "{said}{}", String::from_utf8_lossy(&ran.stderr));
    let page = fs::read_to_string(root.join("docs/format.md")).unwrap();
    assert!(page.matches(">>> ").count() > 8, "the example is still there");
}
