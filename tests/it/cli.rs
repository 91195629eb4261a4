//! The command line without a server: usage, exit codes, key files, key slots.
//!
//! Everything that archive-get can meet must end with 200 (a restore_command that exits with 1 to 125
//! makes PostgreSQL promote with WAL missing); archive-push must end with 1.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::account;
use crate::support::run::{Ran, run};
use crate::support::scratch::ScratchDir;

const SEGMENT: &str = "000000010000000000000001";

/// A folder with a configuration whose server cannot be reached.
struct Desk {
    scratch: ScratchDir,
}

impl Desk {
    fn new() -> Self {
        let desk = Self { scratch: ScratchDir::new("cli") };
        desk.configure("cipher = \"aes-256-cbc\"\nkey_file = \"repository.key\"");
        desk
    }

    fn configure(&self, encryption: &str) {
        let store = self.store();
        let text = format!(
            "[cluster.main]\narchive_get_wait = \"0s\"\nconnection = \"host={} port=1 connect_timeout=2\"\n\n\
             [repository.local]\nurl = \"file://{}\"\n[repository.local.encryption]\n{encryption}\n",
            self.scratch.path().display(),
            store.display()
        );
        self.scratch.write("pgkeep.toml", text);
    }

    fn store(&self) -> PathBuf {
        self.scratch.join("store")
    }

    fn key(&self) -> PathBuf {
        self.scratch.join("repository.key")
    }

    fn raw<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Command {
        let binary = self.scratch.pgkeep_binary();
        let mut command = account::unprivileged().command(binary, self.scratch.path());
        command.args(args);
        command
    }

    fn run(&self, line: &str) -> Ran {
        let words = ["--config", "pgkeep.toml"].into_iter().chain(line.split_whitespace());
        run(&mut self.raw(words))
    }

    /// `init` without a server makes the repository and says what is left to do.
    fn init(&self) -> Ran {
        self.run("init").assert_code(1)
    }

    fn shell(&self, script: &str) -> Ran {
        let mut command = account::unprivileged().command("sh", self.scratch.path());
        command.args(["-c", script, "sh"]).arg(self.scratch.pgkeep_binary());
        run(&mut command)
    }
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().mode() & 0o7777
}

#[test]
fn wrong_usage_is_2_and_help_is_0() {
    let desk = Desk::new();
    for line in [
        "",
        "nonsense",
        "backup --type half",
        "backup --max-rate 0",
        "key add",
        "--nonsense",
        "wal",
        "wal holes",
        "wal backfill",
    ] {
        run(&mut desk.raw(line.split_whitespace())).assert_code(2);
    }
    for line in ["--help", "--version", "help backup", "backup --help", "wal backfill --help"] {
        let ran = run(&mut desk.raw(line.split_whitespace())).assert_code(0);
        assert!(!ran.stdout.is_empty() && ran.stderr.is_empty(), "{ran}");
    }
    run(&mut desk.raw(["--help"])).assert_ok().assert_says("archive-get: 0 delivered");
    desk.run("--repository nowhere info").assert_code(2).assert_says("nowhere");
}

#[test]
fn f018_archive_get_says_200_whatever_goes_wrong() {
    let desk = Desk::new();
    let get = format!("archive-get {SEGMENT} out");
    let unknown = |line: &str| desk.run(line).assert_code(200);
    unknown(&get).assert_says("there is no pgkeep repository");
    for line in [
        "archive-get",
        "archive-get --nonsense a b",
        "archive-get a b c",
        "archive-get --help",
        "--nonsense archive-get a b",
        "--config",
        "--log-level loud archive-get a b",
    ] {
        // A --config without a value swallows the next word.
        let line = if line == "--config" { "--config archive-get" } else { line };
        unknown(line);
    }
    run(&mut desk.raw(["--config", "none.toml", "archive-get", SEGMENT, "out"])).assert_code(200);
    run(&mut desk.raw(["archive_get", SEGMENT, "out"])).assert_code(200);
    desk.init();
    unknown(&get).assert_says("not registered");
    unknown("archive-get nonsense out");
    let key = fs::read(desk.key()).unwrap();
    desk.scratch.write("repository.key", b"pgkeep-key-1 nonsense\n");
    unknown(&get).assert_says("key file");
    let other = format!("pgkeep-key-1 {}\n", "ab".repeat(32));
    desk.scratch.write("repository.key", other);
    unknown(&get).assert_says("opens no key slot");
    fs::remove_file(desk.key()).unwrap();
    unknown(&get).assert_says("fingerprint");
    desk.scratch.write("repository.key", key);
    fs::set_permissions(desk.store(), fs::Permissions::from_mode(0o000)).unwrap();
    unknown(&get);
    fs::set_permissions(desk.store(), fs::Permissions::from_mode(0o700)).unwrap();
    let descriptor = desk.store().join("pgkeep.json");
    let changed = fs::read_to_string(&descriptor).unwrap().replace("aes-256-cbc", "none");
    fs::write(&descriptor, changed).unwrap();
    unknown(&get);
    desk.scratch.write("pgkeep.toml", "[cluster.main\n");
    unknown(&get).assert_says("not TOML");
    assert!(!desk.scratch.join("out").exists());
}

#[test]
fn f018_a_lost_stderr_changes_no_exit_code() {
    let desk = Desk::new();
    for away in ["2>&-", "2>/dev/full", ">&- 2>&-", ">/dev/full 2>/dev/full"] {
        for (words, code) in [
            (format!("archive-get {SEGMENT} out"), 200),
            ("archive-get --nonsense".to_owned(), 200),
            ("archive-get --help".to_owned(), 200),
            (format!("--log-level trace archive-get {SEGMENT} out"), 200),
            (format!("archive-push pg_wal/{SEGMENT}"), 1),
            ("archive-push".to_owned(), 1),
            ("info".to_owned(), 10),
            ("nonsense".to_owned(), 2),
        ] {
            desk.shell(&format!("\"$1\" --config pgkeep.toml {words} {away}")).assert_code(code);
        }
    }
    desk.shell("\"$1\" --version >/dev/full").assert_code(0);
}

#[test]
fn archive_push_says_1_whatever_goes_wrong() {
    let desk = Desk::new();
    let failed = |line: &str| desk.run(line).assert_code(1);
    let push = format!("archive-push pg_wal/{SEGMENT}");
    failed(&push).assert_says("data_directory");
    for line in
        ["archive-push", "archive-push --nonsense", "archive-push --help", "-x archive-push"]
    {
        failed(line);
    }
    run(&mut desk.raw(["--config", "none.toml", "archive-push", SEGMENT])).assert_code(1);
}

#[test]
fn init_makes_a_key_once_and_never_replaces_it() {
    let desk = Desk::new();
    let made = desk.init();
    for words in ["made in file://", "fingerprint", "loses the backups", "Store a copy elsewhere"] {
        assert!(made.stdout.contains(words), "{words}\n{made}");
    }
    assert!(made.stderr.contains("cannot connect") && made.stderr.contains("repeat"), "{made}");
    assert_eq!(mode(&desk.key()), 0o600);
    let key = fs::read(desk.key()).unwrap();
    let again = desk.init();
    assert!(again.stdout.contains("exists in file://"), "{again}");
    assert_eq!(fs::read(desk.key()).unwrap(), key);
    // Without the key file, a new one would open nothing: it is not made.
    fs::remove_file(desk.key()).unwrap();
    let refused = desk.run("init").assert_code(12);
    let fingerprint = made.stdout.split("fingerprint ").nth(1).unwrap().trim_end();
    let fingerprint = fingerprint.lines().next().unwrap();
    assert!(refused.stderr.contains(fingerprint), "{refused}");
    assert!(!desk.key().exists());
}

#[test]
fn init_refuses_a_folder_that_holds_other_things() {
    let desk = Desk::new();
    desk.scratch.create_dir("store");
    desk.scratch.write("store/holiday.jpg", "");
    desk.run("init").assert_code(1).assert_says("holiday.jpg");
    assert!(!desk.key().exists());
}

#[test]
fn d2026_11_28_init_keeps_its_hands_off_a_repository_without_its_descriptor() {
    let desk = Desk::new();
    desk.init();
    for folder in ["store/c", "store/c/main", "store/c/main/1-1"] {
        desk.scratch.create_dir(folder);
    }
    desk.scratch.write("store/c/main/1-1/cluster", "of a cluster");
    fs::remove_file(desk.store().join("pgkeep.json")).unwrap();
    fs::remove_file(desk.key()).unwrap();
    let refused = desk.run("init").assert_code(1).assert_says("pgkeep.json is missing");
    assert!(refused.stderr.contains("Put pgkeep.json back"), "{refused}");
    assert!(!desk.store().join("pgkeep.json").exists());
    assert!(!desk.key().exists(), "no key was made that opens nothing");
}

#[test]
fn init_makes_the_folder_of_the_key() {
    let desk = Desk::new();
    desk.configure("cipher = \"aes-256-cbc\"\nkey_file = \"secrets/deep/a.key\"");
    desk.init();
    assert_eq!(mode(&desk.scratch.join("secrets")), 0o700);
    assert_eq!(mode(&desk.scratch.join("secrets/deep/a.key")), 0o600);
}

#[test]
fn key_slots_come_and_go() {
    let desk = Desk::new();
    desk.init();
    desk.scratch.write("phrase", "correct horse\n");
    desk.run("key add --passphrase-file phrase --label safe").assert_ok().assert_says("key slot");
    desk.run("key add --key-file spare.key --label spare").assert_ok().assert_says("fingerprint");
    assert_eq!(mode(&desk.scratch.join("spare.key")), 0o600);
    let listed = desk.run("key list").assert_ok();
    assert_eq!(listed.stdout.lines().count(), 4, "{listed}");
    let slots = slots(&desk);
    let named = |label: &str| {
        let slot = slots.iter().find(|slot| slot["label"] == label).unwrap();
        slot["slot"].as_str().unwrap().to_owned()
    };
    let opened: Vec<_> = slots.iter().map(|slot| slot["opened"].as_bool()).collect();
    assert_eq!(opened.iter().filter(|opened| **opened == Some(true)).count(), 1, "{listed}");

    desk.run(&format!("key remove {}", named("init"))).assert_code(1).assert_says("configured");
    desk.run("key remove 0011223344556677").assert_code(1).assert_says("there is no key slot");
    desk.run(&format!("key remove {}", named("spare"))).assert_ok().assert_says("rotate");
    let rotated = desk.run("key rotate").assert_ok().assert_says("new master key");
    assert!(rotated.stdout.contains("only what was stored before"), "{rotated}");
    let labels: Vec<_> = self::slots(&desk).iter().map(|slot| slot["label"].clone()).collect();
    assert_eq!(labels, ["safe", "init"]);

    // The passphrase opens it too.
    desk.configure("cipher = \"aes-256-cbc\"\npassphrase_file = \"phrase\"");
    desk.run("key list").assert_ok().assert_says("opens it");
    desk.scratch.write("phrase", "wrong horse\n");
    let wrong = desk.run("key list").assert_code(12);
    assert!(wrong.stderr.contains("\"safe\"") && wrong.stderr.contains("hint: "), "{wrong}");
    desk.configure("cipher = \"aes-256-cbc\"\npassphrase_command = \"echo correct horse\"");
    desk.run("key list").assert_ok();
}

fn slots(desk: &Desk) -> Vec<serde_json::Value> {
    let ran = desk.run("key list --json").assert_ok();
    let value: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(value["format_version"], 1);
    value["slots"].as_array().unwrap().clone()
}

#[test]
fn a_repository_without_cipher_says_so() {
    let desk = Desk::new();
    desk.configure("cipher = \"none\"");
    desk.init().assert_says("in the clear");
    desk.run("key add --key-file spare.key").assert_code(1).assert_says("no secrets");
    assert!(!desk.scratch.join("spare.key").exists());
    desk.run("key rotate").assert_code(1);
    desk.configure("cipher = \"aes-256-cbc\"\nkey_file = \"spare.key\"");
    desk.scratch.write("spare.key", format!("pgkeep-key-1 {}\n", "ab".repeat(32)));
    desk.run("key list").assert_code(12);
}

#[test]
fn errors_are_lines_for_people_or_an_object_for_machines() {
    let desk = Desk::new();
    let told = desk.run("info").assert_code(10);
    assert!(told.stderr.starts_with("error: repository local: there is no pgkeep repository in"));
    assert!(told.stderr.contains("\nhint: ") && told.stdout.is_empty(), "{told}");
    let told = desk.run("--log-format json info").assert_code(10);
    let object: serde_json::Value = serde_json::from_str(&told.stderr).unwrap();
    assert_eq!((&object["exit_code"], &object["kind"]), (&10.into(), &"not-found".into()));
}

#[test]
fn check_says_what_to_do_when_nothing_works() {
    let desk = Desk::new();
    let ran = desk.run("check").assert_code(14);
    assert!(ran.stdout.contains("FAIL  server: cannot connect"), "{ran}");
    assert!(ran.stdout.contains("FAIL  local: repository: "), "{ran}");
    assert!(ran.stdout.contains("-> "), "{ran}");
    let ran = desk.run("check --json").assert_code(14);
    let value: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!((&value["format_version"], &value["result"]), (&1.into(), &"fail".into()));
    desk.scratch.write("pgkeep.toml", "[cluster.main\n");
    desk.run("check").assert_code(14).assert_says("not TOML");
}

#[test]
fn restore_refuses_what_could_be_meant_in_two_ways() {
    let desk = Desk::new();
    let refused = |words: &[&str]| {
        let words = ["--config", "pgkeep.toml", "restore", "--to", "copy"].iter().chain(words);
        run(&mut desk.raw(words)).assert_code(2)
    };
    let told = refused(&["--target-time", "2026-11-20 03:15:00"]);
    assert!(told.stderr.contains("2026-11-20 03:15:00+00:00") && told.stderr.contains("own zone"));
    refused(&["--target-time", "yesterday"]);
    refused(&["--target-lsn", "0/1", "--target-immediate"]);
    refused(&["--target-timeline", "newest"]);
    refused(&["--tablespace", "old"]);
    refused(&["--backup", "latest"]);
    refused(&["--delta", "--rename-old"]);
    desk.run("restore --to copy").assert_code(10);
    desk.run("restore").assert_code(10);
}
