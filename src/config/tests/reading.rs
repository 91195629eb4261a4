//! What is read, what is refused while reading, and where values come from.

use super::*;
use crate::storage::{LockMode, StorageClass};
use crate::tiering::Way;

/// DESIGN.md, section 10, word for word.
const DESIGN: &str = r#"
[cluster.main]
connection     = "host=/var/run/postgresql user=postgres dbname=postgres"
data_directory = "/var/lib/postgresql/15/main"
rpo            = "5m"

[repository.local]
url = "file:///var/lib/pgkeep"

[repository.offsite]
url        = "s3://bucket/prefix"       # endpoint, region, path_style, credentials by the usual AWS chain
[repository.offsite.encryption]
cipher     = "aes-256-cbc"              # or "none", written out
key_file   = "/etc/pgkeep/offsite.key"  # or passphrase_file, passphrase_command
[repository.offsite.retention]
daily = 7
weekly = 4
monthly = 12
window = "14d"
[repository.offsite.tiering]
after = "35d"
storage_class = "GLACIER"

[schedule]
timezone = "UTC"
full   = "0 0 2 * * *"
diff   = "0 30 */6 * * *"
verify = "0 0 4 * * SUN"
expire = "0 30 3 * * *"

[daemon]
socket = "/run/pgkeep/pgkeep.sock"
listen = "127.0.0.1:9187"
"#;

fn days(days: u64) -> Duration {
    Duration::from_secs(days * 86_400)
}

#[test]
fn the_example_of_the_design_is_read() {
    let settings = parse(DESIGN).unwrap();
    assert_eq!(settings.warnings(), []);
    let (name, main) = settings.cluster(None).unwrap();
    assert_eq!((name, main.rpo, main.max_rate), ("main", Duration::from_secs(300), None));
    assert_eq!(main.data_directory.as_deref(), Some(Path::new("/var/lib/postgresql/15/main")));
    let diff = settings.schedule().diff.as_ref();
    assert_eq!(diff.map(ToString::to_string).as_deref(), Some("0 30 */6 * * *"));
    assert_eq!(settings.schedule().timezone, chrono_tz::UTC);
    assert_eq!(settings.daemon().listen.port(), 9187);

    let wrong = settings.resolve(None, Some("local")).unwrap_err().to_string();
    assert_eq!(
        wrong,
        "/etc/pgkeep/pgkeep.toml: repository.local.encryption.cipher is missing; write a section \
         [repository.local.encryption] with cipher = \"aes-256-cbc\" and a key_file, or with cipher \
         = \"none\" if backups and WAL may lie there in the clear"
    );
    let variable = ("PGKEEP_REPOSITORY__LOCAL__ENCRYPTION__CIPHER", "none");
    let settings = parse_with(DESIGN, &[variable], &[]).unwrap();
    let resolved = settings.resolve(None, Some("offsite")).unwrap();
    assert_eq!(resolved.repositories[0].url, Location::File("/var/lib/pgkeep".into()));
    assert!(resolved.repositories[0].s3.is_none());
    let offsite = resolved.repository().unwrap();
    assert_eq!(offsite.cipher, CipherChoice::Aes256Cbc);
    assert_eq!(offsite.retention.window, days(14));
    let tiering = Tiering {
        after: days(35),
        storage_class: StorageClass::Glacier,
        monthly_class: None,
        yearly_class: None,
        way: Way::Copy,
    };
    assert_eq!(offsite.tiering, Some(tiering));
    let (options, _) = offsite.s3.as_ref().unwrap().options().unwrap();
    assert_eq!((options.bucket.as_str(), options.prefix.as_str()), ("bucket", "prefix"));
}

#[test]
fn unknown_keys_name_line_path_and_the_nearest_known_one() {
    let at = |line: u32, rest: &str| format!("{FILE} line {line}: unknown key {rest}");
    for (text, expected) in [
        (
            "[cluster.main]\n\nconection = \"\"",
            at(3, "cluster.main.conection; did you mean connection?"),
        ),
        ("[clusters.main]", at(1, "clusters; did you mean cluster?")),
        ("x = 1", at(1, "x; the sections are cluster, repository, schedule, daemon")),
        (
            "[repository.a.encrypton]\ncipher = \"none\"",
            at(1, "repository.a.encrypton; did you mean encryption?"),
        ),
        (
            "[repository.a]\nkey_file = \"\"",
            at(2, "repository.a.key_file; did you mean encryption.key_file?"),
        ),
        (
            "[repository.a.retention]\nhourly = 1",
            at(
                2,
                "repository.a.retention.hourly; known here are retention.daily, retention.weekly, \
                 retention.monthly, retention.yearly, retention.last, retention.min_full, \
                 retention.window, retention.guard, retention.after_backup",
            ),
        ),
        (
            "[repository.a]\n\"encryption.cipher\" = \"none\"",
            at(2, "repository.a.encryption.cipher; did you mean encryption.cipher?"),
        ),
    ] {
        assert_eq!(message(text), expected, "{text}");
    }
}

#[test]
fn values_of_the_wrong_form_are_refused() {
    let at = |line: u32, rest: &str| format!("{FILE} line {line}: {rest}");
    for (text, expected) in [
        (
            "[cluster.main]\nrpo = 5",
            at(
                2,
                "cluster.main.rpo: expects a duration with its unit, in quotes, such as \"90s\" or \
                 \"5m\"; this is a bare number",
            ),
        ),
        ("[cluster.main]\nrpo = \"5\"", at(2, "cluster.main.rpo: \"5\" has no unit: write 5s, ")),
        ("[cluster.main]\nwal_wait = \"0s\"", at(2, "cluster.main.wal_wait: must be longer than")),
        (
            "[cluster.main]\njobs = \"4\"",
            at(2, "cluster.main.jobs: expects a whole number without"),
        ),
        (
            "[cluster.main]\njobs = 0",
            at(2, "cluster.main.jobs: \"0\" is not a whole number from 1"),
        ),
        ("[cluster.main]\nmax_rate = \"fast\"", at(2, "cluster.main.max_rate: \"fast\" is not a ")),
        (
            "[cluster.main]\ndata_directory = \"pg\"",
            at(2, "cluster.main.data_directory: \"pg\" is "),
        ),
        ("[cluster]\nrpo = \"5m\"", at(2, "cluster.rpo: each cluster has a name: write [cluster.")),
        ("cluster = 1", at(1, "cluster: this is a section: write [cluster.main]")),
        ("[cluster.\"a/b\"]", at(1, "cluster.a/b: \"a/b\" is not an allowed name")),
        (
            "[repository.a]\nencryption = \"none\"",
            at(2, "repository.a.encryption: this is a section"),
        ),
        ("[repository.a]\nurl = \"/x\"", at(2, "repository.a.url: it must begin with file:///")),
        ("[repository.a]\ndefault = \"yes\"", at(2, "repository.a.default: expects true or false")),
        (
            "[repository.a.encryption]\ncipher = \"aes\"",
            at(2, "repository.a.encryption.cipher: \"aes\" "),
        ),
        (
            "[repository.a.retention]\ndaily = -1",
            at(2, "repository.a.retention.daily: \"-1\" is not"),
        ),
        (
            "[repository.a]\nurl = \"file:///x\"\nregion = \"eu\"",
            at(3, "repository.a.region: counts for"),
        ),
        (
            "[schedule]\ntimezone = \"CEST\"",
            at(2, "schedule.timezone: \"CEST\" is not a time zone"),
        ),
        (
            "[schedule]\nfull = \"0 2 * * *\"",
            at(2, "schedule.full: \"0 2 * * *\" is not a schedule: it has 5 fields; write"),
        ),
        (
            "[schedule]\nexpire = \"0 0 25 * * *\"",
            at(2, "schedule.expire: \"0 0 25 * * *\" is not a schedule: its hour is \"25\"; write"),
        ),
        (
            "[daemon]\nlisten.port = 1",
            at(2, "daemon.listen: expects text in quotes; this is a section"),
        ),
        ("[daemon]\nlisten = \"9187\"", at(2, "daemon.listen: \"9187\" is not an address")),
        (
            "[daemon]\nlisten = 1979-05-27",
            at(2, "daemon.listen: expects text in quotes; this is a date"),
        ),
    ] {
        let wrong = message(text);
        assert!(wrong.starts_with(&expected), "{text}: {wrong}");
    }
    let wrong = message("[repository.a.tiering]\nafter = \"35d\"");
    assert!(wrong.contains("repository.a.tiering.storage_class is missing"), "{wrong}");
    let wrong = message("[repository.a.tiering]\nyearly_class = \"DEEP_ARCHIVE\"");
    assert!(wrong.contains("repository.a.tiering.after is missing"), "{wrong}");
    let wrong = repository_message(
        "url = \"file:///x\"\nencryption.cipher = \"none\"\n\
         tiering.after = \"35d\"\ntiering.storage_class = \"GLACIER\"",
    );
    assert!(wrong.contains("a folder has no storage classes"), "{wrong}");
}

#[test]
fn prices_are_read_by_class() {
    let text = "[cluster.main]\n[repository.a]\nurl = \"file:///x\"\nencryption.cipher = \"none\"\n\
                [repository.a.prices]\ncurrency = \"EUR\"\nstandard = \"0.02\"\ndeep_archive = \"0.001\"";
    let resolved = parse(text).unwrap().resolve(None, None).unwrap();
    let prices = &resolved.repository().unwrap().prices;
    assert_eq!((prices.currency.as_str(), prices.of_classes.len()), ("EUR", 2));
    let month = prices.monthly(&StorageClass::DeepArchive, 1 << 40).unwrap();
    assert_eq!(month.to_string(), "1.03", "1.024, rounded up");
    let wrong = message("[repository.a.prices]\nglacier = \"cheap\"");
    assert!(wrong.contains("repository.a.prices.glacier: \"cheap\" is not a price"), "{wrong}");
}

#[test]
fn syntax_errors_have_a_place_and_no_text() {
    let wrong = message("[cluster.main]\nconnection = \"password=hunter2\nrpo = \"5m\"\n");
    assert!(wrong.starts_with("/etc/pgkeep/pgkeep.toml line 2 column "), "{wrong}");
    assert!(!wrong.contains("hunter2"), "{wrong}");
    let twice = message("[daemon]\nsocket = \"/a\"\nsocket = \"/b\"\n");
    assert!(twice.contains("line 3"), "{twice}");
}

#[test]
fn later_sources_win_and_are_named() {
    let text = "[cluster.main]\nrpo = \"1m\"\njobs = 1\nmax_rate = \"1MiB\"\n";
    let variables =
        [("PGKEEP_CLUSTER__MAIN__JOBS", "2"), ("PGKEEP_CLUSTER__MAIN__MAX_RATE", "2MiB")];
    let (section, value) = (schema::Section::Cluster, "3MiB".to_owned());
    let flag = FlagValue { flag: "--max-rate", section, key: "max_rate", value };
    let settings = parse_with(text, &variables, &[flag]).unwrap();
    let (_, main) = settings.cluster(None).unwrap();
    assert_eq!(main.wal_wait, Duration::from_secs(600));
    assert_eq!(main.rpo, Duration::from_secs(60));
    assert_eq!(main.jobs, 2);
    assert_eq!(main.max_rate, Some(ByteSize(3 << 20)));
    let origins: Vec<String> = settings
        .layered()
        .iter()
        .filter(|(address, _)| address.section.name == "main")
        .map(|(address, setting)| {
            format!("{} {}: {}", address.key, setting.shown(), setting.origin)
        })
        .collect();
    assert_eq!(
        origins,
        [
            "archive_get_wait 10s: default",
            "auto_full false: default",
            "auto_full_below 70%: default",
            "connection ***: default",
            "jobs 2: environment variable PGKEEP_CLUSTER__MAIN__JOBS",
            "max_rate 3MiB: flag --max-rate",
            "rpo 1m: /etc/pgkeep/pgkeep.toml line 2",
            "wal_wait 10m: default",
        ]
    );
    let wrong = parse_with(text, &[("PGKEEP_CLUSTER__MAIN__JOBS", "many")], &[]).unwrap_err();
    assert!(
        wrong.to_string().starts_with(
            "environment variable PGKEEP_CLUSTER__MAIN__JOBS: cluster.main.jobs: \"many\" is not"
        ),
        "{wrong}"
    );
}

#[test]
fn chains_move_to_another_repository_by_name() {
    let text = |to: &str, rest: &str| {
        format!(
            "[cluster.main]\n[repository.local]\nurl = \"file:///a\"\n{CLEAR}retention.window = \"14d\"\n\
             tiering.after = \"14d\"\ntiering.to = \"{to}\"\n{rest}\n[repository.offsite]\nurl = \
             \"file:///b\"\njurisdiction = \"EU\"\n{CLEAR}"
        )
    };
    let settings = parse(&text("offsite", "")).unwrap();
    let resolved = settings.resolve(None, Some("local")).unwrap();
    let local = resolved.repository().unwrap();
    let moves = Moves { after: days(14), to: "offsite".into() };
    assert_eq!((&local.moves, &local.tiering), (&Some(moves), &None));
    assert_eq!(resolved.repositories[1].jurisdiction.as_deref(), Some("EU"));
    for (text, words) in [
        (text("nowhere", ""), "tiering.to names repository nowhere, and there is none"),
        (text("local", ""), "tiering.to leads back to repository local"),
        (text("offsite", "tiering.storage_class = \"GLACIER\""), "take one of them out"),
        (text("offsite", "").replace("tiering.after = \"14d\"\n", ""), "at which age chains move"),
        (
            text("offsite", "").replace("retention.window = \"14d\"\n", ""),
            "write which moments stay restorable from here",
        ),
    ] {
        let told = message(&text);
        assert!(told.contains(words), "{words}: {told}");
    }
}

#[test]
fn f088_locks_are_for_buckets_and_are_written_with_their_days() {
    let section = |url: &str, keys: &str| {
        parse(&format!(
            "[cluster.main]\n[repository.r]\nurl = \"{url}\"\n{keys}\n\
             [repository.r.encryption]\ncipher = \"none\"\n"
        ))
    };
    let lock = |keys: &str| {
        let resolved = section("s3://bucket/prefix", keys)?.resolve(None, None)?;
        Ok::<_, Error>(resolved.repository()?.s3.as_ref().and_then(S3Settings::lock))
    };
    assert!(lock("").unwrap().is_none());
    let day = Duration::from_hours(24);
    let rule = lock("lock_days = 30").unwrap().unwrap();
    assert_eq!((rule.mode, rule.duration), (LockMode::Governance, 30 * day));
    assert_eq!((rule.of_name)("pgkeep.json", rule.duration), 30 * day);
    assert_eq!((rule.of_name)("lease/expire/main/00.000000", rule.duration), day);
    let rule = lock("lock_days = 1\nlock_mode = \"compliance\"").unwrap().unwrap();
    assert_eq!((rule.mode, rule.duration), (LockMode::Compliance, day));
    for (keys, words) in [
        ("lock_days = 0", "from 1 to 36500"),
        ("lock_days = 30\nlock_mode = \"legal\"", "neither governance nor compliance"),
        ("lock_mode = \"compliance\"", "with lock_days only"),
    ] {
        let error = lock(keys).unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
    }
    let error = section("file:///somewhere", "lock_days = 30").unwrap_err().to_string();
    assert!(error.contains("counts for s3:// urls only"), "{error}");
}
