//! Every rule, and names that only look like one elsewhere.

use super::*;
use EntryKind::{Directory, File, Symlink};
use proptest::prelude::*;

fn layout() -> Layout {
    Layout::new(MajorVersion::V15, 202_209_061)
}

fn check(kind: EntryKind, rule: Rule, paths: &[&str]) {
    for path in paths {
        assert_eq!(layout().classify(path.as_bytes(), kind), rule, "{path}");
    }
}

#[test]
fn what_is_copied() {
    check(
        File,
        Rule::Copy,
        &[
            "PG_VERSION",
            "postgresql.auto.conf",
            "current_logfiles",
            "base/5/1259",
            "base/5/16384_init",
            "base/5/pg_filenode.map",
            "global/1262",
            "global/pg_filenode.map",
            "log/postgresql.log",
            "pg_xact/0000",
            "pg_stat/pgstat.stat",
            "pg_logical/replorigin_checkpoint",
            "pg_twophase/000002E5",
            "pg_tblspc/16400/PG_15_202209061/5/16401",
        ],
    );
    check(Directory, Rule::Copy, &["base", "base/5", "log", "pg_tblspc", "pg_tblspc/16400"]);
    check(File, Rule::CopyLast, &["global/pg_control"]);
}

#[test]
fn f057_names_matter_only_in_their_place() {
    check(
        File,
        Rule::Copy,
        &[
            "base/5/postmaster.pid",
            "backup/backup_label",
            "log/recovery.signal",
            "log/pgsql_tmp1",
            "log/pg_internal.init",
            "log/t3_16390",
            "extra/pg_wal/000000010000000000000001",
            "extra/global/pg_control",
            "pg_internal.initial",
            "global/pg_internal.initial",
            "pg_tblspc/16400/PG_15_202209061/log/pg_wal",
        ],
    );
    check(Directory, Rule::Copy, &["extra/pg_replslot", "base/5/pg_wal", "pg_wal2"]);
}

#[test]
fn directories_that_stay_empty() {
    for kind in [Directory, Symlink] {
        check(
            kind,
            Rule::DirectoryEmpty(Reason::RebuiltAtStart),
            &[
                "pg_stat_tmp",
                "pg_dynshmem",
                "pg_notify",
                "pg_serial",
                "pg_snapshots",
                "pg_subtrans",
            ],
        );
        check(kind, Rule::DirectoryEmpty(Reason::ReplicationSlot), &["pg_replslot"]);
        check(kind, Rule::DirectoryEmpty(Reason::Wal), &["pg_wal", "pg_wal/archive_status"]);
    }
    check(
        File,
        Rule::Skip(Reason::Wal),
        &["pg_wal/000000010000000000000001", "pg_wal/archive_status/x.ready"],
    );
    check(Directory, Rule::Skip(Reason::ReplicationSlot), &["pg_replslot/slot"]);
    assert_eq!(layout().wal_directories(), ["pg_wal/archive_status"]);
    let later = Layout::new(MajorVersion::V17, 202_406_281);
    assert_eq!(later.wal_directories(), ["pg_wal/archive_status", "pg_wal/summaries"]);
}

#[test]
fn files_left_out() {
    check(
        File,
        Rule::Skip(Reason::DecidesRecovery),
        &[
            "backup_label",
            "backup_label.old",
            "tablespace_map",
            "tablespace_map.old",
            "recovery.signal",
            "standby.signal",
        ],
    );
    check(
        File,
        Rule::Skip(Reason::OfThisDirectory),
        &["postmaster.pid", "postmaster.opts", "backup_manifest"],
    );
    check(
        File,
        Rule::Skip(Reason::Temporary),
        &[
            "postgresql.auto.conf.tmp",
            "current_logfiles.tmp",
            "base/pgsql_tmp/pgsql_tmp12.0",
            "pg_tblspc/16400/PG_15_202209061/pgsql_tmp/pgsql_tmp12.0",
        ],
    );
    check(Directory, Rule::Skip(Reason::Temporary), &["base/pgsql_tmp"]);
    check(
        File,
        Rule::Skip(Reason::TemporaryRelation),
        &["base/5/t3_16390", "base/5/t3_16390_fsm.1", "pg_tblspc/16400/PG_15_202209061/5/t3_16390"],
    );
    check(
        File,
        Rule::Skip(Reason::RebuiltAtStart),
        &[
            "base/5/pg_internal.init",
            "global/pg_internal.init.1234",
            "pg_tblspc/16400/PG_15_202209061/5/pg_internal.init",
        ],
    );
    check(EntryKind::Other, Rule::Skip(Reason::SpecialFile), &["socket"]);
}

#[test]
fn tablespaces() {
    check(Symlink, Rule::Tablespace { oid: 16400 }, &["pg_tblspc/16400"]);
    check(Symlink, Rule::Skip(Reason::NotATablespace), &["pg_tblspc/x", "pg_tblspc/0"]);
    check(File, Rule::Skip(Reason::NotATablespace), &["pg_tblspc/16400", "pg_tblspc/16400/x"]);
    check(Directory, Rule::Skip(Reason::OtherVersion), &["pg_tblspc/16400/PG_14_202107181"]);
    check(Directory, Rule::Copy, &["pg_tblspc/16400/PG_15_202209061"]);
    check(Symlink, Rule::StrayLink, &["log", "base/5", "postgresql.conf"]);
    let mut layout = layout();
    layout.add_tablespace_inside(b"spaces/one");
    let inside = Rule::DirectoryEmpty(Reason::TablespaceInside);
    assert_eq!(layout.classify(b"spaces/one", Directory), inside);
    assert_eq!(layout.classify(b"spaces/one2", Directory), Rule::Copy);
}

#[test]
fn only_the_init_fork_of_an_unlogged_relation_is_data() {
    let init_forks = HashSet::from([16384]);
    for (path, is_unlogged) in [
        ("base/5/16384", true),
        ("base/5/16384.1", true),
        ("base/5/16384_fsm", true),
        ("base/5/16384_vm", true),
        ("base/5/16384_init", false),
        ("base/5/163840", false),
        ("global/16384", false),
    ] {
        let file = RelationFile::parse(path.as_bytes()).unwrap();
        assert_eq!(is_unlogged_data(&file, &init_forks), is_unlogged, "{path}");
    }
}

proptest! {
    #[test]
    fn any_bytes_are_taken(path: Vec<u8>) {
        let rule = layout().classify(&path, File);
        prop_assert_eq!(rule == Rule::CopyLast, path == b"global/pg_control");
    }
}
