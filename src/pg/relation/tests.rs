//! Paths of relations, and paths that only look like them.

use super::*;
use proptest::prelude::*;

#[test]
fn paths_of_relations() {
    for (path, tablespace, database, number, fork, segment, temporary) in [
        ("base/5/1259", 1663, 5, 1259, Fork::Main, 0, None),
        ("base/5/1259_fsm", 1663, 5, 1259, Fork::FreeSpaceMap, 0, None),
        ("base/5/16384.12", 1663, 5, 16384, Fork::Main, 12, None),
        ("base/5/16384_vm.1", 1663, 5, 16384, Fork::VisibilityMap, 1, None),
        ("base/5/16384_init", 1663, 5, 16384, Fork::Init, 0, None),
        ("base/5/t3_16390_fsm.2", 1663, 5, 16390, Fork::FreeSpaceMap, 2, Some(3)),
        ("base/5/t0_16390", 1663, 5, 16390, Fork::Main, 0, Some(0)),
        ("global/1262", 1664, 0, 1262, Fork::Main, 0, None),
        ("pg_tblspc/16400/PG_15_202209061/5/16401.1", 16400, 5, 16401, Fork::Main, 1, None),
    ] {
        let expected = RelationFile { tablespace, database, number, fork, segment, temporary };
        assert_eq!(RelationFile::parse(path.as_bytes()), Some(expected), "{path}");
        assert!(path.ends_with(&format!("/{expected}")), "{path}");
    }
}

#[test]
fn anything_else_is_not_a_relation() {
    for path in [
        "",
        "1259",
        "base/1259",
        "base/5/",
        "base/5/PG_VERSION",
        "base/5/pg_filenode.map",
        "base/5/pg_internal.init.123",
        "base/5/0",
        "base/5/01259",
        "base/5/99999999999",
        "base/5/1259_main",
        "base/5/1259_fsm_vm",
        "base/5/1259.0",
        "base/5/1259.01",
        "base/5/1259.1.2",
        "base/5/1259.",
        "base/5/t_1259",
        "base/5/t3_",
        "base/5/x/1259",
        "base/x/1259",
        "global/t3_1262",
        "global/5/1262",
        "base/pgsql_tmp/123",
        "log/5/1259",
        "backup/base/5/1259",
        "pg_tblspc/16400/5/16401",
        "pg_tblspc/16400/PG_15/5/16401",
        "pg_tblspc/x/PG_15_202209061/5/16401",
        "pg_tblspc/1/2/PG_15_202209061/5/16401",
    ] {
        assert_eq!(RelationFile::parse(path.as_bytes()), None, "{path}");
    }
}

#[test]
fn blocks_count_across_files() {
    let file = RelationFile::parse(b"base/5/16384.2").unwrap();
    assert_eq!(file.first_block(131_072), Some(262_144));
    let absurd = RelationFile::parse(b"base/5/16384.40000").unwrap();
    assert_eq!(absurd.first_block(131_072), None);
}

proptest! {
    #[test]
    fn any_bytes_are_taken(path: Vec<u8>) {
        if let Some(file) = RelationFile::parse(&path) {
            prop_assert!(path.ends_with(file.to_string().as_bytes()));
        }
    }

    #[test]
    fn names_have_one_spelling(name in "(t[0-9]{1,2}_)?[0-9]{1,11}(_(fsm|vm|init))?(\\.[0-9]{1,3})?") {
        if let Some(file) = RelationFile::parse(format!("base/1/{name}").as_bytes()) {
            prop_assert_eq!(file.to_string(), name);
        }
    }
}
