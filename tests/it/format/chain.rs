//! Chains in the format: read by block, by row and in order, whatever backup holds it; by the script too; and with
//! something changed below they are refused.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::sync::Arc;

use pgkeep::repo::{Error, Kind, OpenedBackup, Repository, RowKind};
use pgkeep::storage::{FaultyStore, LocalStore, ObjectStore as _, ReadOnlyStore};

use super::golden::{self, CHAINS, folder};
use super::unpack::{Script, os, programs, secrets};
use crate::support::ScratchDir;
use crate::support::sample_chain::{self, Chain};

/// Each backup holds its state, and nothing else.
fn check(repository: &Repository, chain: &Chain) {
    for (id, files) in &chain.states {
        let opened = repository.open_backup(&chain.sample.place, id).unwrap();
        let mut rows = opened.rows().unwrap();
        let mut met = 0;
        while let Some(row) = rows.next_row().unwrap() {
            if row.kind != RowKind::File {
                continue;
            }
            let content = &files[&row.path];
            assert!(row.is_covered(8192), "{row:?}");
            assert_eq!(row.crc, Some(crc32c::crc32c(content)));
            assert_eq!(opened.find_row(&row.path).unwrap().as_ref(), Some(&row));
            for (block, bytes) in (0u32..).zip(content.chunks(8192)) {
                let found = opened.block(&row.path, block).unwrap();
                assert!(found.as_deref() == Some(bytes), "{id}: {row:?} block {block}");
            }
            met += 1;
        }
        assert_eq!(met, files.len(), "{id}");
        let (full, _) = &chain.states[0];
        let whole = repository.open_backup(&chain.sample.place, full).unwrap();
        let gone = whole.find_row(b"base/1/2620").unwrap().is_some();
        assert!(gone, "what a child does not have any more its parent has");
    }
}

#[test]
fn golden_chains_are_read() {
    for (name, cipher) in CHAINS {
        let chain = sample_chain::make(cipher);
        let store = ReadOnlyStore::new(LocalStore::open(&folder(name)).unwrap());
        let unlock = crate::support::sample::unlock(cipher);
        check(&Repository::open(Arc::new(store), &unlock).unwrap(), &chain);
        let files = chain.sample.files.len();
        let (id, state) = &chain.states[1];
        let opened = chain.sample.repository.open_backup(&chain.sample.place, id).unwrap();
        assert_eq!((state.len(), opened.find_row(b"base/1/2620").unwrap()), (files, None));
        let bases = chain.sample.repository.bases(&chain.sample.place, id).unwrap();
        assert_eq!(bases, opened.manifest().bases);
        assert_eq!(opened.manifest().summary.attempts, std::slice::from_ref(&chain.attempt));
    }
}

#[test]
fn golden_chains_are_written_again_byte_for_byte() {
    for (name, cipher) in CHAINS {
        golden::compare(name, &sample_chain::make(cipher).sample);
    }
}

#[test]
fn a_block_of_a_chain_takes_two_reads() {
    let chain = sample_chain::make(pgkeep::repo::CipherChoice::None);
    let faulty = FaultyStore::new(chain.sample.store.clone());
    let unlock = crate::support::sample::unlock(pgkeep::repo::CipherChoice::None);
    let repository = Repository::open(Arc::new(faulty.clone()), &unlock).unwrap();
    let (id, files) = chain.states.last().unwrap();
    for path in files.keys() {
        let opened = repository.open_backup(&chain.sample.place, id).unwrap();
        let row = opened.find_row(path).unwrap().unwrap();
        let blocks = u32::try_from(row.size.div_ceil(8192)).unwrap();
        for block in [0, blocks / 2, blocks.saturating_sub(1)].into_iter().filter(|b| *b < blocks) {
            let before = faulty.operations();
            opened.read_block(&row, block).unwrap();
            assert!(faulty.operations() - before <= 2, "{row:?} {block}");
        }
    }
}

/// Whatever of the backups below is missing, replaced or damaged: an error that names them, and no other content.
#[test]
fn f050_what_a_chain_stands_on_is_missed() {
    let cipher = pgkeep::repo::CipherChoice::Aes256Cbc;
    let read = |backup: &OpenedBackup| {
        let mut rows = backup.rows()?;
        while let Some(row) = rows.next_row()? {
            if row.kind == RowKind::File {
                backup.read_whole(&row, 1 << 30)?;
            }
        }
        Ok::<_, Error>(())
    };
    let chain = sample_chain::make(cipher);
    let (place, store) = (&chain.sample.place, &chain.sample.store);
    let (full, differential) = (&chain.states[0].0, &chain.states[1].0);
    let (top, _) = chain.states.last().unwrap();
    let open = || chain.sample.repository.open_backup(place, top).and_then(|opened| read(&opened));
    open().unwrap();
    for (key, names) in [
        (place.manifest(full), full),
        (place.manifest(differential), differential),
        (place.files(full), full),
        (place.files(differential), differential),
        (place.pack(full, 0), full),
        (place.meta(full, 0), full),
        (place.pack(differential, 0), differential),
        (place.pack(&chain.attempt, 0), &chain.attempt),
        (place.meta(&chain.attempt, 0), &chain.attempt),
    ] {
        let whole = store.get(&key).unwrap();
        store.delete(&key).unwrap();
        let missing = open().unwrap_err().to_string();
        assert!(missing.contains(names.as_str()), "{key}: {missing}");
        let mut damaged = whole.clone();
        damaged[whole.len() / 2] ^= 1;
        store.put(&key, &damaged).unwrap();
        let wrong = open().unwrap_err().to_string();
        assert!(wrong.contains(names.as_str()), "{key}: {wrong}");
        store.delete(&key).unwrap();
        store.put(&key, &whole).unwrap();
        open().unwrap();
    }
    // A manifest of the same words, sealed again: it is not the one that was built on.
    let key = place.manifest(full);
    let mut reader = chain.sample.repository.read(Kind::Manifest, &key).unwrap();
    let mut frames = Vec::new();
    let mut frame = Vec::new();
    while reader.next_frame(&mut frame).unwrap() {
        frames.push(std::mem::take(&mut frame));
    }
    let ctx = pgkeep::base::Ctx::fixed(crate::support::sample::now(), 99);
    let mut writer = chain.sample.repository.buffer(&ctx, Kind::Manifest, &key).unwrap();
    let count = frames.len();
    for (i, frame) in frames.iter().enumerate() {
        writer.content(frame, true, i + 1 == count).unwrap();
    }
    store.delete(&key).unwrap();
    store.put(&key, &writer.into_parts().0).unwrap();
    let other = open().unwrap_err().to_string();
    assert!(other.contains("not the manifest that was built on"), "{other}");
}

#[test]
fn the_script_unpacks_chains() {
    let Some(()) = programs() else { return };
    for (name, cipher) in CHAINS {
        let scratch = ScratchDir::new("unpack-chain");
        let chain = sample_chain::make(cipher);
        let out = scratch.join("out");
        let secret = secrets(&scratch, cipher).remove(0);
        let script = Script { repository: folder(name), secret };
        for (id, files) in &chain.states[1..] {
            let listed = script.ok(&[os("list"), os(id.as_str())]);
            assert_eq!(listed.lines().filter(|line| line.starts_with("f ")).count(), files.len());
            for (path, content) in files {
                let path = OsStr::from_bytes(path);
                script.ok(&[os("file"), os(id.as_str()), path, os("-o"), out.as_os_str()]);
                assert!(fs::read(&out).unwrap() == *content, "{id}: {path:?}");
                fs::remove_file(&out).unwrap();
            }
        }
        let (id, _) = &chain.states[1];
        let gone = [os("file"), os(id.as_str()), os("base/1/2620"), os("-o"), out.as_os_str()];
        assert!(script.refused(&gone).contains("has no file base/1/2620"));
    }
}
