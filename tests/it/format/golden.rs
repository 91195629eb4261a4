//! Repositories of every released version are read for ever: `tests/golden/`.
//!
//! `PGKEEP_WRITE_GOLDEN=1` writes those that are missing; an existing one is never written again.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use pgkeep::repo::{CipherChoice, Error, Kind, Repository, Row};
use pgkeep::storage::{self, LocalStore, MemoryStore, ObjectStore as _, ReadOnlyStore};

use crate::support::sample::{self, Sample};

/// The size of the golden segments.
pub const SEGMENT_SIZE: usize = 1 << 20;

pub const GOLDEN: [(&str, CipherChoice); 2] =
    [("aes", CipherChoice::Aes256Cbc), ("none", CipherChoice::None)];

/// With a differential and an incremental on them, as they are written since there are those.
pub const CHAINS: [(&str, CipherChoice); 2] =
    [("aes-chain", CipherChoice::Aes256Cbc), ("none-chain", CipherChoice::None)];

/// With pins, records of expiry and leases beside the first ones.
pub const RECORDS: [(&str, CipherChoice); 2] =
    [("aes-records", CipherChoice::Aes256Cbc), ("none-records", CipherChoice::None)];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

pub fn folder(name: &str) -> PathBuf {
    root().join("format-v1").join(name)
}

fn objects(store: &MemoryStore) -> BTreeMap<String, Vec<u8>> {
    let metas = storage::list_all(store, "").unwrap();
    metas.iter().map(|meta| (meta.key.to_string(), store.get(&meta.key).unwrap())).collect()
}

fn committed(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut pending = vec![folder.to_owned()];
    while let Some(next) = pending.pop() {
        for entry in fs::read_dir(&next).unwrap_or_else(|error| panic!("{next:?}: {error}")) {
            let path = entry.unwrap().path();
            if path.is_dir() {
                pending.push(path);
            } else {
                let name = path.strip_prefix(folder).unwrap().to_str().unwrap().to_owned();
                found.insert(name, fs::read(&path).unwrap());
            }
        }
    }
    found
}

fn write(folder: &Path, sample: &Sample) {
    for (name, bytes) in objects(&sample.store) {
        let path = folder.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
}

/// Compares what is written now with what is committed; written first where it is missing and that is wanted.
///
/// A change of any byte is a change of the format (or of the compressor): it needs a decision, and a golden
/// repository of its own beside this one.
pub fn compare(name: &str, sample: &Sample) {
    let folder = folder(name);
    if std::env::var_os("PGKEEP_WRITE_GOLDEN").is_some() && !folder.exists() {
        write(&folder, sample);
    }
    let (made, kept) = (objects(&sample.store), committed(&folder));
    assert_eq!(made.keys().collect::<Vec<_>>(), kept.keys().collect::<Vec<_>>(), "{name}");
    for (object, bytes) in &made {
        assert!(*bytes == kept[object], "{name}: {object} is written otherwise than it was");
    }
    let total: usize = kept.values().map(Vec::len).sum();
    assert!(total < 120_000, "{total} bytes are not tiny");
}

/// What a later version may write otherwise is where blocks lie; the rest of a row stays.
fn without_layers(row: &Row) -> Row {
    Row { layers: vec![], ..row.clone() }
}

fn check(name: &str, repository: &Repository, expected: &Sample) {
    let place = &expected.place;
    let registration = repository.registration(place).unwrap();
    assert_eq!((registration.system, registration.major), (place.system(), 15), "{name}");
    assert_eq!(repository.find_cluster("main", place.system()).unwrap().0, *place);
    let backups = repository.backups(&pgkeep::base::Ctx::fixed(sample::now(), 1), place).unwrap();
    assert!(backups.unreadable.is_empty() && backups.unfinished.is_empty());
    assert_eq!(backups.abandoned, std::slice::from_ref(&expected.abandoned));
    let [summary] = &backups.complete[..] else { panic!("{name}: {backups:?}") };
    assert_eq!(summary.id, expected.id);
    assert_eq!(summary.backup_label, sample::BACKUP_LABEL);
    assert_eq!((summary.totals.files, summary.totals.others), (10, 6));
    assert_eq!(repository.get_begin(place, &expected.id).unwrap().hash, summary.hash);
    let opened = repository.open_backup(place, &expected.id).unwrap();
    let manifest = opened.manifest();
    assert_eq!(manifest.tablespaces[0].location, "/srv/space");
    assert_eq!((manifest.damage.len(), manifest.damage[0].block), (1, 1));
    let mut rows = opened.rows().unwrap();
    for expected_row in &expected.rows {
        let row = rows.next_row().unwrap().expect("a row more");
        assert_eq!(without_layers(&row), without_layers(expected_row), "{name}");
        assert!(row.is_covered(8192));
        assert_eq!(opened.find_row(&row.path).unwrap().as_ref(), Some(&row));
        let Some(content) = expected.files.get(&row.path) else { continue };
        for (block, bytes) in (0u32..).zip(content.chunks(8192)) {
            assert!(opened.read_block(&row, block).unwrap() == bytes, "{name}: {row:?} {block}");
        }
    }
    assert_eq!(rows.next_row().unwrap(), None);
    check_wal(repository, expected);
}

fn check_wal(repository: &Repository, expected: &Sample) {
    let place = &expected.place;
    let segment = place.wal(sample::SEGMENT).unwrap();
    let (facts, content) = repository.get_wal(Kind::Wal, &segment).unwrap();
    assert!(content == expected.segment);
    assert_eq!(facts.digest, repository.content_digest(&content));
    assert_eq!((facts.name.as_str(), facts.timeline), (sample::SEGMENT, Some(1)));
    let found = facts.found.unwrap();
    assert_eq!((found.commits, found.aborts, found.xid_max), (3, 1, Some(733)));
    assert_eq!(found.restore_points[0].name, "before \u{fc}");
    assert_eq!(found.cut.unwrap().xid, Some(734));
    let partial = place.partial(sample::PARTIAL_SEGMENT, sample::partial_end()).unwrap();
    assert!(repository.get_wal(Kind::Partial, &partial).unwrap().1 == expected.partial);
    assert_eq!(repository.histories(place).unwrap()[&2], sample::HISTORY);
    let label = repository.get_wal(Kind::Label, &place.label(sample::LABEL).unwrap()).unwrap();
    assert_eq!(label.1, sample::BACKUP_LABEL.as_bytes());
}

#[test]
fn golden_repositories_are_read() {
    for (name, cipher) in GOLDEN {
        let expected = sample::make(cipher, SEGMENT_SIZE);
        let folder = folder(name);
        let unlocks = match cipher {
            CipherChoice::None => vec![pgkeep::crypt::Unlock::Clear],
            CipherChoice::Aes256Cbc => vec![sample::unlock(cipher), sample::passphrase()],
        };
        for unlock in unlocks {
            let store = ReadOnlyStore::new(LocalStore::open(&folder).unwrap());
            let repository = Repository::open(Arc::new(store), &unlock).unwrap();
            check(name, &repository, &expected);
        }
        let store = Arc::new(LocalStore::open(&folder).unwrap());
        let (wrong, _) =
            pgkeep::crypt::Unlock::generate_key_file(&pgkeep::base::SeededEntropy::new(12));
        assert!(matches!(Repository::open(store, &wrong), Err(Error::WrongKey { .. })));
    }
}

#[test]
fn the_readme_tells_the_secrets() {
    let text = fs::read_to_string(root().join("README.md")).unwrap();
    assert!(text.contains(sample::key_file().1.trim()) && text.contains(sample::PASSPHRASE));
}
