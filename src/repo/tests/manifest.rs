//! Manifests: whole round trips, commit against the store's list, commit against abandon.

use super::*;
use crate::pg::Lsn;
use crate::repo::file_table::IndexEntry;
use crate::repo::manifest::{
    Counts, Damage, Manifest, ServerRecord, Summary, TablespaceRecord, Totals,
};
use crate::repo::{BackupId, BackupType, Base, Error, HashScheme, Kind, ObjectRecord};
use crate::storage;

fn id() -> BackupId {
    "20261120-020000F".parse().unwrap()
}

pub(super) fn summary() -> Summary {
    Summary {
        id: id(),
        backup_type: BackupType::Full,
        parent: None,
        cluster: "main".into(),
        system: place().system(),
        epoch: 1,
        started: now(),
        finished: now() + chrono::TimeDelta::milliseconds(61_500),
        timeline: 1,
        timeline_stop: 2,
        start_lsn: Lsn(0x2000028),
        stop_lsn: Lsn(0xff_0000_0138),
        wal_first: "000000010000000000000002".into(),
        wal_last: "00000001000000FF00000000".into(),
        backup_label: "START WAL LOCATION: 0/2000028\n\"quoted\" \u{fc}\n".into(),
        server: ServerRecord {
            version_num: 150_018,
            catalog_version: 202_209_061,
            block_size: 8192,
            wal_block_size: 8192,
            wal_segment_size: 16 << 20,
            relation_segment_blocks: 131_072,
            checksums: true,
            standby: false,
            data_directory: "/var/lib/postgresql/15/main".into(),
            host: "db1".into(),
            preload_libraries: "timescaledb".into(),
            logical_slots: vec!["slot_a".into()],
            configuration: Default::default(),
        },
        hash: HashScheme { algorithm: "highway64".into(), key: [0xab; 32] },
        totals: Totals { files: u64::MAX, ..Totals::default() },
        attempts: vec![],
        counts: Counts::default(),
        tool: "pgkeep 0.1.0".into(),
    }
}

/// Stores the objects of a backup and returns a manifest that names them.
fn stored(repository: &Repository, ctx: &Ctx) -> Manifest {
    let mut objects = Vec::new();
    for (inner, kind) in [
        ("files", Kind::Files),
        ("data/000000", Kind::Pack),
        ("meta/000000", Kind::Meta),
        ("hash/000000", Kind::Hash),
        ("data/000001", Kind::Pack),
    ] {
        let key = place().of_backup(&id(), inner).unwrap();
        let mut writer = repository.buffer(ctx, kind, &key).unwrap();
        writer.content(inner.as_bytes(), true, true).unwrap();
        let (bytes, summary) = writer.into_parts();
        repository.put_if_absent(&key, &bytes).unwrap();
        objects.push(ObjectRecord::new(inner, &summary));
    }
    let index = [&b"base/1"[..], b"new\nline\\", b"\xff\xfe", &[b'x'; 4096]];
    let index = index.iter().zip(0u64..).map(|(path, i)| IndexEntry {
        path: path.to_vec(),
        continues: i % 2 == 1,
        frame: i,
        offset: u64::MAX - i,
        length: 65_608,
    });
    Manifest {
        summary: summary(),
        objects,
        bases: vec![Base {
            index: 0,
            id: "20261119-020000F".parse().unwrap(),
            salt: [7; 32],
            attempt: true,
            used: u64::MAX,
        }],
        reused: vec![],
        tablespaces: vec![TablespaceRecord { oid: 16_400, location: "/srv/t\u{fc}\n".into() }],
        damage: vec![Damage { path: "base/5/1".into(), block: 7, why: "checksum".into() }],
        index: index.collect(),
    }
}

/// Some backup that is complete.
pub(super) fn commit_any(repository: &Repository, ctx: &Ctx) {
    let mut manifest = stored(repository, ctx);
    repository.commit(ctx, &place(), &mut manifest).unwrap();
}

#[test]
fn a_manifest_comes_back_whole() {
    for cipher in [CipherChoice::Aes256Cbc, CipherChoice::None] {
        let ctx = ctx();
        let (repository, _) = fresh(&ctx, cipher);
        let mut manifest = stored(&repository, &ctx);
        // Enough lines that they fill several frames.
        manifest.damage = (0..5000)
            .map(|block| Damage { path: "base/5/1".into(), block, why: "checksum".into() })
            .collect();
        repository.commit(&ctx, &place(), &mut manifest).unwrap();
        assert_eq!(manifest.summary.counts.damage, 5000);
        assert_eq!(
            manifest.summary.totals.stored,
            manifest.objects.iter().map(|object| object.size).sum::<u64>()
        );
        assert_eq!(repository.manifest(&place(), &id()).unwrap(), manifest);
        assert_eq!(repository.summary(&place(), &id()).unwrap(), manifest.summary);
        assert_eq!(manifest.find_object("files").unwrap().name, "files");
        assert!(manifest.find_object("data/000002").is_none());
        let found = repository.backups(&ctx, &place()).unwrap();
        assert_eq!(found.complete, [manifest.summary]);
    }
}

#[test]
fn a_backup_without_a_manifest_does_not_exist() {
    let ctx = ctx();
    let (repository, _) = fresh(&ctx, CipherChoice::Aes256Cbc);
    stored(&repository, &ctx);
    assert!(matches!(repository.summary(&place(), &id()), Err(Error::NoBackup { .. })));
    assert!(matches!(repository.manifest(&place(), &id()), Err(Error::NoBackup { .. })));
    assert_eq!(repository.backups(&ctx, &place()).unwrap().complete, []);
}

/// Each change of the store between writing and commit stops the commit, and the object is named.
#[test]
fn commit_compares_with_what_the_store_holds() {
    type Change = fn(&MemoryStore, &ObjectKey);
    let missing: Change = |store, key| store.delete(key).unwrap();
    let short: Change = |store, key| {
        let bytes = store.get(key).unwrap();
        replace(store, key, &bytes[..bytes.len() - 1]);
    };
    let long: Change = |store, key| {
        let bytes = store.get(key).unwrap();
        replace(store, key, &[&bytes[..], b"x"].concat());
    };
    for inner in ["files", "data/000000", "meta/000000", "hash/000000", "data/000001"] {
        for change in [missing, short, long] {
            let ctx = ctx();
            let (repository, store) = fresh(&ctx, CipherChoice::Aes256Cbc);
            let mut manifest = stored(&repository, &ctx);
            let key = place().of_backup(&id(), inner).unwrap();
            change(&store, &key);
            let error = repository.commit(&ctx, &place(), &mut manifest).unwrap_err();
            assert!(error.to_string().contains(key.as_str()), "{error}");
            assert!(matches!(repository.summary(&place(), &id()), Err(Error::NoBackup { .. })));
        }
    }
    for superfluous in ["data/000002", "meta/000001", "hash/999999", "data/1000000"] {
        let ctx = ctx();
        let (repository, store) = fresh(&ctx, CipherChoice::Aes256Cbc);
        let mut manifest = stored(&repository, &ctx);
        let key = place().of_backup(&id(), superfluous).unwrap();
        replace(&store, &key, b"of another attempt");
        let error = repository.commit(&ctx, &place(), &mut manifest).unwrap_err();
        assert!(error.to_string().contains(key.as_str()), "{error}");
        store.delete(&key).unwrap();
        repository.commit(&ctx, &place(), &mut manifest).unwrap();
    }
}

#[test]
fn objects_of_other_backups_are_no_business_of_a_commit() {
    let ctx = ctx();
    let (repository, store) = fresh(&ctx, CipherChoice::Aes256Cbc);
    let mut manifest = stored(&repository, &ctx);
    // Its own differential has a name that begins with its own.
    let child: BackupId = "20261120-020000F_20261120-083000D".parse().unwrap();
    replace(&store, &place().pack(&child, 0), b"x");
    replace(&store, &place().files(&child), b"x");
    repository.commit(&ctx, &place(), &mut manifest).unwrap();
}

#[test]
fn a_manifest_cannot_name_objects_outside_its_backup() {
    let ctx = ctx();
    let (repository, _) = fresh(&ctx, CipherChoice::Aes256Cbc);
    for name in ["data/../../x", "wal/000000", "files/1", "data/1", "data/00000a", ""] {
        let mut manifest = stored(&fresh(&ctx, CipherChoice::Aes256Cbc).0, &ctx);
        manifest.objects[0].name = name.into();
        let refused = repository.commit(&ctx, &place(), &mut manifest);
        assert!(matches!(refused, Err(Error::Limit(_))), "{name:?}");
    }
}

#[test]
fn of_commit_and_abandon_whoever_comes_first_wins() {
    let ctx = ctx();
    let (repository, _) = fresh(&ctx, CipherChoice::Aes256Cbc);
    let mut manifest = stored(&repository, &ctx);
    repository.abandon(&ctx, &place(), &id(), "the host is gone").unwrap();
    match repository.commit(&ctx, &place(), &mut manifest) {
        Err(Error::Abandoned { why, .. }) => assert_eq!(why, "the host is gone"),
        result => panic!("{result:?}"),
    }
    for read in
        [repository.summary(&place(), &id()).err(), repository.open_backup(&place(), &id()).err()]
    {
        assert!(matches!(read, Some(Error::Abandoned { .. })), "{read:?}");
    }
    let found = repository.backups(&ctx, &place()).unwrap();
    assert_eq!((found.complete.len(), found.abandoned), (0, vec![id()]));

    let (repository, _) = fresh(&ctx, CipherChoice::Aes256Cbc);
    let mut manifest = stored(&repository, &ctx);
    repository.commit(&ctx, &place(), &mut manifest).unwrap();
    for refused in [
        repository.abandon(&ctx, &place(), &id(), "late"),
        repository.commit(&ctx, &place(), &mut manifest),
    ] {
        assert!(matches!(refused, Err(Error::Storage(error)) if error.is_already_exists()));
    }
    assert_eq!(repository.manifest(&place(), &id()).unwrap(), manifest);
}

/// A manifest of these lines, the first frame apart, sealed as if somebody with the key had.
fn forge(repository: &Repository, ctx: &Ctx, store: &MemoryStore, first: &[u8], rest: &[u8]) {
    let key = place().manifest(&id());
    let mut writer = repository.buffer(ctx, Kind::Manifest, &key).unwrap();
    writer.content(first, true, false).unwrap();
    writer.content(rest, true, true).unwrap();
    replace(store, &key, &writer.into_parts().0);
}

#[test]
fn lines_missing_doubled_unknown_or_out_of_order_are_refused() {
    let ctx = ctx();
    let (repository, store) = fresh(&ctx, CipherChoice::Aes256Cbc);
    let mut manifest = stored(&repository, &ctx);
    repository.commit(&ctx, &place(), &mut manifest).unwrap();
    let mut reader = repository.read(Kind::Manifest, &place().manifest(&id())).unwrap();
    let (mut first, mut rest) = (Vec::new(), Vec::new());
    reader.next_frame(&mut first).unwrap();
    reader.rest(1 << 20, &mut rest).unwrap();
    let lines: Vec<&[u8]> = rest.split_inclusive(|&byte| byte == b'\n').collect();
    let read = || repository.manifest(&place(), &id());
    forge(&repository, &ctx, &store, &first, &rest);
    assert_eq!(read().unwrap(), manifest);
    for i in 0..lines.len() {
        let (before, after) = lines.split_at(i);
        forge(&repository, &ctx, &store, &first, &[before, &after[1..]].concat().concat());
        assert!(matches!(read(), Err(Error::Corrupt { .. })), "line {i} missing");
        let doubled = [before, &after[..1], after].concat().concat();
        forge(&repository, &ctx, &store, &first, &doubled);
        assert!(matches!(read(), Err(Error::Corrupt { .. })), "line {i} doubled");
    }
    let swapped = [&lines[..1], &lines[2..3], &lines[1..2], &lines[3..]].concat().concat();
    forge(&repository, &ctx, &store, &first, &swapped);
    assert!(matches!(read(), Err(Error::Corrupt { place, .. }) if place == "objects"));
    let unknown = [&rest[..], b"{\"later\":{}}\n"].concat();
    forge(&repository, &ctx, &store, &first, &unknown);
    assert!(matches!(read(), Err(Error::Corrupt { .. })));

    let text = String::from_utf8(first.clone()).unwrap();
    for (what, changed) in [
        ("another's", text.replace("20261120-020000F", "20261120-020001F")),
        ("another state", text.replace("\"complete\"", "\"half\"")),
        ("two lines", format!("{text}{text}")),
    ] {
        assert_ne!(changed, text);
        forge(&repository, &ctx, &store, changed.as_bytes(), &rest);
        assert!(matches!(read(), Err(Error::Corrupt { .. })), "{what}");
    }
    let more = text.replace("\"tool\"", "\"later\":{\"x\":[1]},\"tool\"");
    forge(&repository, &ctx, &store, more.as_bytes(), &rest);
    assert_eq!(read().unwrap(), manifest, "unknown members are ignored");
}

#[test]
fn a_damaged_manifest_is_listed_as_such() {
    let ctx = ctx();
    let (repository, store) = fresh(&ctx, CipherChoice::Aes256Cbc);
    let mut manifest = stored(&repository, &ctx);
    repository.commit(&ctx, &place(), &mut manifest).unwrap();
    let key = place().manifest(&id());
    let mut bytes = store.get(&key).unwrap();
    bytes[100] ^= 1;
    replace(&store, &key, &bytes);
    let found = repository.backups(&ctx, &place()).unwrap();
    assert_eq!(found.complete, []);
    assert_eq!(found.unreadable.len(), 1);
    assert_eq!(found.unreadable[0].0, id().as_str());
    let listed = storage::list_all(&store, &place().manifests_prefix()).unwrap();
    assert_eq!(listed.len(), 1, "reading removes nothing");
}
