//! Every byte of every object flipped, every object cut at every length: reading it is an error
//! that names the object, and never content.

use std::sync::Arc;

use pgkeep::crypt::Slot;
use pgkeep::repo::{BackupId, CipherChoice, Error, Kind, Place, Repository, Result};
use pgkeep::storage::{self, MemoryStore, ObjectKey, ObjectStore as _};

use crate::support::sample::{self, Sample};

const MASKS: [u8; 3] = [0x01, 0x80, 0xff];

/// The kind that belongs to a name, as FORMAT.md lists them.
fn kind_of(name: &str) -> Option<Kind> {
    let inner = name.strip_prefix(&sample::place().prefix())?;
    Some(match inner.split('/').next()? {
        "cluster" => Kind::Cluster,
        "begin" => Kind::Begin,
        "backup" => Kind::Manifest,
        "files" => Kind::Files,
        "data" => Kind::Pack,
        "meta" => Kind::Meta,
        "hash" => Kind::Hash,
        "wal" => Kind::Wal,
        "history" => Kind::History,
        "label" => Kind::Label,
        "partial" => Kind::Partial,
        _ => return None,
    })
}

fn id_in(name: &str) -> BackupId {
    name.rsplit('/').next().unwrap().parse().unwrap()
}

/// Reads an object through the call that its readers use; what comes out is put into words.
fn read(repository: &Repository, place: &Place, kind: Kind, key: &ObjectKey) -> Result<String> {
    let shown = |value: &dyn std::fmt::Debug| format!("{value:?}");
    Ok(match kind {
        Kind::Cluster => shown(&repository.registration(place)?),
        Kind::Begin => shown(&repository.get_begin(place, &id_in(key.as_str()))?),
        Kind::Manifest => shown(&repository.manifest(place, &id_in(key.as_str()))?),
        Kind::Files => {
            let mut rows = repository.open_backup(place, &id_in(key.as_str()))?.rows()?;
            let mut all = Vec::new();
            while let Some(row) = rows.next_row()? {
                all.push(row);
            }
            shown(&all)
        }
        Kind::Pack
        | Kind::Meta
        | Kind::Hash
        | Kind::Summary
        | Kind::Lease
        | Kind::Pin
        | Kind::Keep => {
            let mut content = Vec::new();
            repository.read(kind, key)?.rest(1 << 30, &mut content)?;
            format!("{} bytes, {:08x}", content.len(), crc32c::crc32c(&content))
        }
        Kind::Wal | Kind::Partial | Kind::History | Kind::Label => {
            let (facts, content) = repository.get_wal(kind, key)?;
            format!("{facts:?}, {} bytes, {:08x}", content.len(), crc32c::crc32c(&content))
        }
    })
}

/// Damage is an error of its own sort, and names the object.
fn assert_named(error: &Error, key: &ObjectKey, what: &str) {
    let damage =
        matches!(error, Error::Corrupt { .. } | Error::Newer { .. } | Error::UnknownKey { .. });
    assert!(damage && error.to_string().contains(key.as_str()), "{key}: {what}: {error}");
}

/// Calls `check` with every damaged version of the bytes.
fn damaged(bytes: &[u8], masks: &[u8], mut check: impl FnMut(&[u8], &str)) {
    let mut changed = bytes.to_vec();
    for at in 0..bytes.len() {
        for mask in masks {
            changed[at] ^= mask;
            check(&changed, &format!("byte {at} xor {mask:#x}"));
            changed[at] = bytes[at];
        }
        check(&bytes[..at], &format!("cut at {at}"));
    }
    changed.push(0);
    check(&changed, "a byte more");
}

/// A store of its own for each thread, so that damage of one object does not meet another's.
fn copy(store: &MemoryStore) -> MemoryStore {
    let copy = MemoryStore::new();
    for meta in storage::list_all(store, "").unwrap() {
        copy.put(&meta.key, &store.get(&meta.key).unwrap()).unwrap();
    }
    copy
}

fn damage_sealed(sample: &Sample, cipher: CipherChoice, kind: Kind, key: &ObjectKey) {
    let store = copy(&sample.store);
    let repository = Repository::open(Arc::new(store.clone()), &sample::unlock(cipher)).unwrap();
    let bytes = store.get(key).unwrap();
    match read(&repository, &sample.place, kind, key) {
        Err(Error::Abandoned { id, .. }) => assert_eq!(id, sample.abandoned.as_str()),
        intact => assert!(!intact.unwrap().is_empty()),
    }
    damaged(&bytes, &MASKS, |changed, what| {
        store.put(key, changed).unwrap();
        match read(&repository, &sample.place, kind, key) {
            Err(error) => assert_named(&error, key, what),
            Ok(content) => panic!("{key}: {what}: {content}"),
        }
    });
}

#[test]
fn every_flip_and_every_cut_of_every_object_is_found() {
    for cipher in [CipherChoice::Aes256Cbc, CipherChoice::None] {
        let sample = sample::make(cipher, 100_000);
        let names = storage::list_all(&sample.store, "c/").unwrap();
        let objects: Vec<(Kind, ObjectKey)> = names
            .into_iter()
            .map(|meta| (kind_of(meta.key.as_str()).expect("a kind of its own"), meta.key))
            .collect();
        for kind in 1..=11 {
            assert!(objects.iter().any(|(known, _)| *known as u8 == kind), "kind {kind}");
        }
        let next = std::sync::atomic::AtomicUsize::new(0);
        std::thread::scope(|scope| {
            let work = || {
                loop {
                    let i = next.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                    let Some((kind, key)) = objects.get(i) else { return };
                    damage_sealed(&sample, cipher, *kind, key);
                }
            };
            scope.spawn(work);
            work();
        });
    }
}

/// Random access never looks at headers (they are known from the manifest), so a flip there may
/// go unnoticed: then what comes out is the content, whole and authentic.
#[test]
fn a_damaged_pack_or_its_lengths_never_give_other_content() {
    for cipher in [CipherChoice::Aes256Cbc, CipherChoice::None] {
        let sample = sample::make(cipher, 1000);
        let row = sample.rows.iter().find(|row| row.path == b"base/1/2840").unwrap();
        let content = &sample.files[&row.path];
        for family in ["data", "meta"] {
            for number in 0..2 {
                let key = sample.place.of_backup(&sample.id, &format!("{family}/{number:06}"));
                let key = key.unwrap();
                let bytes = sample.store.get(&key).unwrap();
                let mut noticed = 0;
                damaged(&bytes, &[0x10], |changed, what| {
                    sample.store.put(&key, changed).unwrap();
                    let opened = sample.repository.open_backup(&sample.place, &sample.id).unwrap();
                    match opened.read_block(row, 9) {
                        Ok(block) => assert_eq!(block, content[9 * 8192..]),
                        Err(error) => {
                            noticed += 1;
                            assert_named(&error, &key, what);
                        }
                    }
                });
                sample.store.put(&key, &bytes).unwrap();
                let holds_it = row.layers.iter().any(|layer| {
                    matches!(layer.source, pgkeep::repo::Source::Pack { pack, .. } if pack == number)
                });
                assert_eq!(noticed > bytes.len() / 2, holds_it, "{key}: {noticed}");
            }
        }
    }
}

#[test]
fn every_flip_and_every_cut_of_descriptor_and_key_file_slot_is_found() {
    for cipher in [CipherChoice::Aes256Cbc, CipherChoice::None] {
        let sample = sample::make(cipher, 1000);
        let store = &sample.store;
        let unlock = sample::unlock(cipher);
        for meta in storage::list_all(store, "").unwrap() {
            let bytes = store.get(&meta.key).unwrap();
            let text = String::from_utf8_lossy(&bytes).into_owned();
            let opens = text.contains("\"key-file\"") || text.contains("\"clear\"");
            if meta.key.as_str() != "pgkeep.json"
                && !(meta.key.as_str().starts_with("key/") && opens)
            {
                continue;
            }
            damaged(&bytes, &MASKS, |changed, what| {
                store.put(&meta.key, changed).unwrap();
                match Repository::open(Arc::new(store.clone()), &unlock) {
                    Ok(_) => panic!("{}: {what}", meta.key),
                    Err(Error::WrongKey { slots, .. }) => assert!(!slots.is_empty(), "{what}"),
                    Err(error) => assert_named(&error, &meta.key, what),
                }
            });
            store.put(&meta.key, &bytes).unwrap();
        }
    }
}

/// scrypt takes too long for every flip: what still reads as a slot differs from the true one, so
/// its MAC is over another text; every so often that is tried to the end.
#[test]
fn every_flip_and_every_cut_of_a_passphrase_slot_is_found() {
    let sample = sample::make(CipherChoice::Aes256Cbc, 1000);
    let store = &sample.store;
    let slots = storage::list_all(store, "key/").unwrap();
    let is_scrypt =
        |key: &ObjectKey| String::from_utf8_lossy(&store.get(key).unwrap()).contains("scrypt");
    let key = slots.iter().map(|meta| &meta.key).find(|key| is_scrypt(key)).unwrap();
    let bytes = store.get(key).unwrap();
    let intact = Slot::decode(&bytes).unwrap();
    Repository::open(Arc::new(store.clone()), &sample::passphrase()).unwrap();
    let (mut readable, mut tried) = (0, 0);
    damaged(&bytes, &MASKS, |changed, what| {
        let Ok(slot) = Slot::decode(changed) else { return };
        assert_ne!(slot, intact, "{what}");
        readable += 1;
        if readable % 37 != 0 {
            return;
        }
        tried += 1;
        store.put(key, changed).unwrap();
        match Repository::open(Arc::new(store.clone()), &sample::passphrase()) {
            Ok(_) => panic!("{what}"),
            Err(Error::WrongKey { slots, .. }) => assert_eq!(slots.len(), 2, "{what}"),
            Err(error) => assert_named(&error, key, what),
        }
    });
    assert!(tried > 10, "{tried} of {readable}");
}
