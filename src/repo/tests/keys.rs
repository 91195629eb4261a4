//! Descriptor, slots and rotation: what opens what, and what no operator can lose by accident.

use std::sync::Arc;

use super::*;
use crate::base::entropy;
use crate::crypt::{Keyring, MasterKey, RepositoryId, Slot, SlotKind};
use crate::repo::layout::{self, Kind};
use crate::repo::{Descriptor, Error, KeyCache};
use crate::storage::{self, FaultyStore, MeteredStore, ObjectStore, faulty::Effect};

fn open(store: &MemoryStore, unlock: &Unlock) -> crate::repo::Result<Repository> {
    Repository::open(Arc::new(store.clone()), unlock)
}

fn slot_names(store: &MemoryStore) -> Vec<String> {
    let slots = storage::list_all(store, layout::SLOT_PREFIX).unwrap();
    slots.iter().map(|meta| meta.key.last_component().to_owned()).collect()
}

fn put(repository: &Repository, ctx: &Ctx, name: &str, content: &[u8]) -> ObjectKey {
    let key = ObjectKey::new(name).unwrap();
    let mut writer = repository.buffer(ctx, Kind::History, &key).unwrap();
    writer.content(content, true, true).unwrap();
    repository.put_if_absent(&key, &writer.into_parts().0).unwrap();
    key
}

fn get(repository: &Repository, key: &ObjectKey) -> crate::repo::Result<Vec<u8>> {
    let mut content = Vec::new();
    repository.read(Kind::History, key)?.rest(1 << 20, &mut content)?;
    Ok(content)
}

#[test]
fn a_wrong_secret_is_told_which_slots_exist() {
    let ctx = ctx();
    let (repository, store) = fresh(&ctx, CipherChoice::Aes256Cbc);
    repository.add_slot(&ctx, &passphrase("right"), "the safe", 14).unwrap();
    for wrong in [key_file(2), passphrase("wrong"), Unlock::Clear] {
        let Err(Error::WrongKey { given, slots }) = open(&store, &wrong) else {
            panic!("{:?} opened it", wrong.kind());
        };
        assert_eq!(given, wrong.kind());
        let mut shown: Vec<_> = slots.iter().map(|slot| (slot.label.as_str(), slot.kind)).collect();
        shown.sort_by_key(|(label, _)| *label);
        assert_eq!(shown, [("first", SlotKind::KeyFile), ("the safe", SlotKind::Passphrase)]);
        assert_eq!(slots.iter().filter(|slot| slot.opened == Some(true)).count(), 0);
        let tried = slots.iter().filter(|slot| slot.opened == Some(false)).count();
        assert_eq!(tried, usize::from(wrong.kind() != SlotKind::Clear));
    }
    for right in [key_file(1), passphrase("right")] {
        assert_eq!(open(&store, &right).unwrap().keyring(), repository.keyring());
    }
}

#[test]
fn without_a_descriptor_there_is_no_repository() {
    let ctx = ctx();
    let (_, store) = fresh(&ctx, CipherChoice::Aes256Cbc);
    store.delete(&layout::descriptor()).unwrap();
    assert!(matches!(open(&store, &key_file(1)), Err(Error::NoRepository { .. })));
}

#[test]
fn a_cipher_never_stores_its_keys_in_the_clear() {
    let ctx = ctx();
    let store = MemoryStore::new();
    let options = InitOptions {
        cipher: CipherChoice::Aes256Cbc,
        unlock: &Unlock::Clear,
        label: "",
        cost: 14,
    };
    let init = Repository::init(&ctx, Arc::new(store.clone()), &options);
    assert!(matches!(init, Err(Error::Keys(_))));
    assert_eq!(storage::list_all(&store, "").unwrap(), []);
    let (repository, store) = fresh(&ctx, CipherChoice::Aes256Cbc);
    assert!(matches!(repository.add_slot(&ctx, &Unlock::Clear, "", 14), Err(Error::Keys(_))));
    assert_eq!(slot_names(&store).len(), 1);
}

#[test]
fn a_clear_slot_opens_nothing_where_there_is_a_cipher() {
    // Somebody who has the keys may be tricked into storing them; that slot is not even tried.
    let ctx = ctx();
    let (repository, store) = fresh(&ctx, CipherChoice::Aes256Cbc);
    let id = repository.descriptor().repository;
    let created = "2026-11-20T02:00:00Z".to_owned();
    let ring = repository.keyring();
    let slot = Slot::wrap(&*ctx.entropy, id, created, "", &Unlock::Clear, 0, ring).unwrap();
    store.put(&layout::slot(&slot.slot).unwrap(), &slot.encode()).unwrap();
    assert!(matches!(open(&store, &Unlock::Clear), Err(Error::WrongKey { .. })));
}

#[test]
fn a_second_init_is_refused_and_leaves_nothing() {
    let ctx = ctx();
    let (_, store) = fresh(&ctx, CipherChoice::Aes256Cbc);
    let before = storage::list_all(&store, "").unwrap();
    let unlock = key_file(2);
    let options =
        InitOptions { cipher: CipherChoice::Aes256Cbc, unlock: &unlock, label: "", cost: 14 };
    let again = Repository::init(&ctx, Arc::new(store.clone()), &options);
    assert!(matches!(again, Err(Error::Storage(error)) if error.is_already_exists()));
    assert_eq!(storage::list_all(&store, "").unwrap(), before);
}

/// Where a repository's descriptor was lost, `init` made a new one with a new key under its name, and what lay
/// there could not be read any more.
#[test]
fn d2026_11_28_init_makes_no_descriptor_over_the_data_of_one_that_was_lost() {
    let ctx = ctx();
    let (repository, store) = fresh(&ctx, CipherChoice::Aes256Cbc);
    let object = put(&repository, &ctx, "c/main/1-1/history/00000002", b"history");
    let descriptor = store.get(&layout::descriptor()).unwrap();
    store.delete(&layout::descriptor()).unwrap();
    let before = storage::list_all(&store, "").unwrap();
    let unlock = key_file(1);
    let options =
        InitOptions { cipher: CipherChoice::Aes256Cbc, unlock: &unlock, label: "", cost: 14 };
    let init = || Repository::init(&ctx, Arc::new(store.clone()), &options);
    match init() {
        Err(Error::NoDescriptor { object: told }) => assert_eq!(told, object),
        result => panic!("{result:?}"),
    }
    assert_eq!(storage::list_all(&store, "").unwrap(), before);
    store.put(&layout::descriptor(), &descriptor).unwrap();
    assert_eq!(get(&open(&store, &unlock).unwrap(), &object).unwrap(), b"history");
    // What an init leaves that was killed stands in nobody's way.
    for key in [layout::descriptor(), object] {
        store.delete(&key).unwrap();
    }
    assert_eq!(slot_names(&store).len(), 1);
    init().unwrap();
}

/// An `init` that died between slot and descriptor left a slot; the next `init` made the repository
/// with one slot of its own. The leftover once counted as a second slot, so that the only slot that
/// opens anything could be removed.
#[test]
fn a_slot_of_another_repository_does_not_count_as_one_that_is_left() {
    let ctx = ctx();
    let (repository, store) = fresh(&ctx, CipherChoice::Aes256Cbc);
    let own = slot_names(&store).remove(0);
    let other = RepositoryId(entropy::random(&*ctx.entropy));
    let ring = Keyring::new(MasterKey::generate(&*ctx.entropy, 1));
    let created = "2026-11-20T02:00:00Z".to_owned();
    let junk = Slot::wrap(&*ctx.entropy, other, created, "", &key_file(1), 0, &ring).unwrap();
    store.put(&layout::slot(&junk.slot).unwrap(), &junk.encode()).unwrap();
    let refused = repository.remove_slot(&own).unwrap_err().to_string();
    assert!(refused.contains("last key slot"), "{refused}");
    assert_eq!(open(&store, &key_file(1)).unwrap().keyring(), repository.keyring());
    repository.remove_slot(&junk.slot).unwrap();
    assert_eq!(slot_names(&store), [own]);
}

#[test]
fn the_last_slot_stays() {
    let ctx = ctx();
    for cipher in [CipherChoice::Aes256Cbc, CipherChoice::None] {
        let (repository, store) = fresh(&ctx, cipher);
        let last = slot_names(&store).remove(0);
        assert!(matches!(repository.remove_slot(&last), Err(Error::Keys(_))));
        assert!(matches!(repository.remove_slot("0123456789abcdef"), Err(Error::Keys(_))));
        assert_eq!(slot_names(&store), [last]);
    }
    let (repository, store) = fresh(&ctx, CipherChoice::Aes256Cbc);
    let first = slot_names(&store).remove(0);
    let second = repository.add_slot(&ctx, &key_file(2), "second", 14).unwrap();
    repository.remove_slot(&first).unwrap();
    assert!(matches!(open(&store, &key_file(1)), Err(Error::WrongKey { .. })));
    assert_eq!(open(&store, &key_file(2)).unwrap().keyring(), repository.keyring());
    assert!(repository.remove_slot(&second).is_err());
}

/// After a rotation there may be two slots of which only one holds the new key. Counting slots
/// allowed to remove that one, and with it everything stored since.
#[test]
fn the_only_slot_with_the_newest_key_stays() {
    let ctx = ctx();
    let (mut repository, store) = fresh(&ctx, CipherChoice::Aes256Cbc);
    let other = repository.add_slot(&ctx, &key_file(2), "other", 14).unwrap();
    let (newest, _) = repository.rotate(&ctx, &key_file(1), None, 14).unwrap();
    let refused = repository.remove_slot(&newest).unwrap_err().to_string();
    assert!(refused.contains(&repository.keyring().current().id.to_string()), "{refused}");
    repository.remove_slot(&other).unwrap();
    assert_eq!(slot_names(&store), [newest]);
}

#[test]
fn rotation_seals_new_objects_with_a_new_key_and_reads_old_ones() {
    let ctx = ctx();
    let (mut repository, store) = fresh(&ctx, CipherChoice::Aes256Cbc);
    repository.add_slot(&ctx, &key_file(2), "the other", 14).unwrap();
    let old = put(&repository, &ctx, "old", b"before");
    let digest = repository.content_digest(b"x");
    let (name, others) = repository.rotate(&ctx, &key_file(1), None, 14).unwrap();
    assert_eq!(others.iter().map(|slot| slot.label.as_str()).collect::<Vec<_>>(), ["the other"]);
    assert_eq!(slot_names(&store).len(), 2, "the new slot and the other's");
    let summaries = repository.slots(Some(&key_file(1))).unwrap();
    let own = summaries.readable.iter().find(|slot| slot.slot == name).unwrap();
    assert_eq!((own.label.as_str(), own.opened), ("first", Some(true)));
    let new = put(&repository, &ctx, "new", b"after");
    assert_eq!(repository.content_digest(b"x"), digest, "digests outlive rotation");

    let holder = open(&store, &key_file(1)).unwrap();
    assert_eq!(holder.keyring(), repository.keyring());
    assert_eq!(holder.keyring().keys().len(), 2);
    assert_eq!(get(&holder, &old).unwrap(), b"before");
    assert_eq!(get(&holder, &new).unwrap(), b"after");

    let other = open(&store, &key_file(2)).unwrap();
    assert_eq!(get(&other, &old).unwrap(), b"before");
    match get(&other, &new) {
        Err(Error::UnknownKey { object, key }) => {
            assert_eq!(object, "new");
            assert_eq!(key, repository.keyring().current().id.to_string());
        }
        result => panic!("{result:?}"),
    }
}

/// Rotation dies at every operation in turn: whatever was stored before or after can be read with
/// the same secret, and the next try succeeds.
#[test]
fn a_rotation_that_dies_loses_nothing() {
    for (at, effect) in (1..).flat_map(|at| [(at, Effect::None), (at, Effect::Full)]) {
        let ctx = ctx();
        let (repository, store) = fresh(&ctx, CipherChoice::Aes256Cbc);
        let old = put(&repository, &ctx, "old", b"before");
        let faulty = FaultyStore::new(store.clone());
        faulty.die_at(at, effect);
        let died = match Repository::open(Arc::new(faulty), &key_file(1)) {
            Err(_) => true,
            Ok(mut rotating) => rotating.rotate(&ctx, &key_file(1), None, 14).is_err(),
        };
        let mut holder = open(&store, &key_file(1)).unwrap();
        assert_eq!(get(&holder, &old).unwrap(), b"before");
        let new = put(&holder, &ctx, "new", b"after");
        holder.rotate(&ctx, &key_file(1), None, 14).unwrap();
        assert_eq!(slot_names(&store).len(), 1, "the next rotation removes what the first left");
        let after = open(&store, &key_file(1)).unwrap();
        assert_eq!(get(&after, &old).unwrap(), b"before");
        assert_eq!(get(&after, &new).unwrap(), b"after");
        if !died {
            assert!(at > 5, "rotation takes more operations than {at}");
            return;
        }
    }
}

#[test]
fn two_rotations_at_once_lose_nothing() {
    let ctx = ctx();
    let (mut one, store) = fresh(&ctx, CipherChoice::Aes256Cbc);
    one.add_slot(&ctx, &key_file(2), "second", 14).unwrap();
    let mut two = open(&store, &key_file(2)).unwrap();
    one.rotate(&ctx, &key_file(1), None, 14).unwrap();
    two.rotate(&ctx, &key_file(2), None, 14).unwrap();
    let by_one = put(&one, &ctx, "one", b"1");
    let by_two = put(&two, &ctx, "two", b"2");
    assert_eq!(get(&open(&store, &key_file(1)).unwrap(), &by_one).unwrap(), b"1");
    assert_eq!(get(&open(&store, &key_file(2)).unwrap(), &by_two).unwrap(), b"2");
    for name in slot_names(&store) {
        assert!(one.remove_slot(&name).is_err(), "{name} is the only one with some key");
    }
}

#[test]
fn every_byte_of_the_descriptor_counts() {
    let ctx = ctx();
    for (cipher, unlock) in
        [(CipherChoice::Aes256Cbc, key_file(1)), (CipherChoice::None, Unlock::Clear)]
    {
        let (_, store) = fresh(&ctx, cipher);
        let key = layout::descriptor();
        let bytes = store.get(&key).unwrap();
        open(&store, &unlock).unwrap();
        for at in 0..bytes.len() {
            for mask in [0x01, 0x20, 0x80] {
                let mut changed = bytes.clone();
                changed[at] ^= mask;
                replace(&store, &key, &changed);
                expect_descriptor_refused(open(&store, &unlock), &format!("{at} xor {mask:#x}"));
            }
            replace(&store, &key, &bytes[..at]);
            expect_descriptor_refused(open(&store, &unlock), &format!("cut at {at}"));
        }
        replace(&store, &key, &[&bytes[..], b"\n"].concat());
        expect_descriptor_refused(open(&store, &unlock), "a byte more");
    }
}

fn expect_descriptor_refused(result: crate::repo::Result<Repository>, what: &str) {
    match result {
        // A changed id of the repository makes every slot one of another repository.
        Err(Error::WrongKey { .. }) => {}
        Err(error) => assert!(error.to_string().contains("pgkeep.json"), "{what}: {error}"),
        Ok(_) => panic!("{what} was not noticed"),
    }
}

#[test]
fn another_cipher_in_the_descriptor_is_found() {
    let ctx = ctx();
    let (_, store) = fresh(&ctx, CipherChoice::Aes256Cbc);
    let key = layout::descriptor();
    let text = String::from_utf8(store.get(&key).unwrap()).unwrap();
    let changed = text.replace("\"aes-256-cbc\"", "\"none\"");
    assert_ne!(text, changed);
    replace(&store, &key, changed.as_bytes());
    assert_eq!(Descriptor::decode(changed.as_bytes()).unwrap().cipher, CipherChoice::None);
    let error = open(&store, &key_file(1)).unwrap_err();
    assert!(matches!(&error, Error::Corrupt { object, .. } if object == "pgkeep.json"), "{error}");
    let (repository, _) = fresh(&ctx, CipherChoice::None);
    assert!(matches!(
        repository.require_cipher(CipherChoice::Aes256Cbc),
        Err(Error::Cipher { stored, configured }) if stored == "none" && configured == "aes-256-cbc"
    ));
}

#[test]
fn a_newer_descriptor_or_slot_says_so() {
    let ctx = ctx();
    let (_, store) = fresh(&ctx, CipherChoice::Aes256Cbc);
    for key in [layout::descriptor(), layout::slot(&slot_names(&store)[0]).unwrap()] {
        let bytes = store.get(&key).unwrap();
        let text = String::from_utf8(bytes.clone()).unwrap();
        replace(&store, &key, text.replace("\"version\":1", "\"version\":2").as_bytes());
        match open(&store, &key_file(1)) {
            Err(Error::Newer { object, .. }) => assert_eq!(object, key.as_str()),
            result => panic!("{key}: {result:?}"),
        }
        replace(&store, &key, &bytes);
    }
    // A newer slot beside one that opens does not stand in the way.
    let newer = br#"{"format":"pgkeep key slot","version":2}"#;
    store.put(&layout::slot("00112233445566ff").unwrap(), newer).unwrap();
    open(&store, &key_file(1)).unwrap();
}

#[test]
fn slots_that_were_swapped_or_damaged_are_named() {
    let ctx = ctx();
    let (repository, store) = fresh(&ctx, CipherChoice::Aes256Cbc);
    let first = slot_names(&store).remove(0);
    let second = repository.add_slot(&ctx, &key_file(2), "second", 14).unwrap();
    let [first_key, second_key] = [&first, &second].map(|name| layout::slot(name).unwrap());
    let bytes = store.get(&first_key).unwrap();
    replace(&store, &first_key, &store.get(&second_key).unwrap());
    let error = open(&store, &key_file(1)).unwrap_err().to_string();
    assert!(error.contains(&first), "{error}");
    // Damage counts only for those whom no other slot serves.
    open(&store, &key_file(2)).unwrap();
    let text = String::from_utf8(bytes.clone()).unwrap();
    replace(&store, &first_key, text.replace("\"first\"", "\"forst\"").as_bytes());
    let error = open(&store, &key_file(1)).unwrap_err().to_string();
    assert!(error.contains(&first) && error.contains("changed"), "{error}");
    replace(&store, &first_key, &bytes);
    open(&store, &key_file(1)).unwrap();
}

/// One slot that could not be read stood in the way of listing the others, of every removal, its own too,
/// and of a rotation.
#[test]
fn d20261124_a_damaged_slot_stands_in_nobody_s_way() {
    let ctx = ctx();
    let (mut repository, store) = fresh(&ctx, CipherChoice::Aes256Cbc);
    let second = repository.add_slot(&ctx, &key_file(2), "second", 14).unwrap();
    let third = repository.add_slot(&ctx, &key_file(3), "third", 14).unwrap();
    let key = layout::slot(&second).unwrap();
    let bytes = store.get(&key).unwrap();
    replace(&store, &key, &bytes[..bytes.len() / 2]);
    let slots = repository.slots(Some(&key_file(1))).unwrap();
    let labels: Vec<_> = slots.readable.iter().map(|slot| slot.label.as_str()).collect();
    assert_eq!((labels.len(), labels.contains(&"third")), (2, true), "{labels:?}");
    assert_eq!(slots.damaged.iter().map(|slot| &slot.slot).collect::<Vec<_>>(), [&second]);
    repository.remove_slot(&third).unwrap();
    let (first, _) = repository.rotate(&ctx, &key_file(1), None, 14).unwrap();
    let last = repository.remove_slot(&first).unwrap_err().to_string();
    assert!(last.contains("last key slot"), "the damaged one holds nothing: {last}");
    repository.remove_slot(&second).unwrap();
    assert_eq!(slot_names(&store), [first]);
    // One of a newer version may be somebody's way in.
    let newer = layout::slot("00112233445566ff").unwrap();
    store.put(&newer, br#"{"format":"pgkeep key slot","version":2}"#).unwrap();
    repository.remove_slot("00112233445566ff").unwrap_err();
    assert_eq!(repository.slots(None).unwrap().damaged.len(), 1);
}

/// With kept keys a repository opens without reading a slot, until its slots change.
#[test]
fn kept_keys_spare_the_slots_until_these_change() {
    let ctx = ctx();
    let (repository, store) = fresh(&ctx, CipherChoice::Aes256Cbc);
    let unlock = passphrase("right");
    repository.add_slot(&ctx, &unlock, "the safe", 14).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let cache = KeyCache::new(folder.path().join("keys"));
    let metered = Arc::new(MeteredStore::new(store.clone()));
    let opened = || {
        metered.reset();
        let opened = Repository::open_with(metered.clone(), &unlock, Some((&ctx, &cache))).unwrap();
        (opened, metered.reset().reads())
    };
    let (_, reads) = opened();
    assert!(reads > 2, "descriptor, list and slots: {reads}");
    let (kept, reads) = opened();
    assert_eq!(reads, 2, "descriptor and list");
    assert_eq!(kept.keyring(), repository.keyring());
    let mut rotating = open(&store, &unlock).unwrap();
    rotating.rotate(&ctx, &unlock, None, 14).unwrap();
    let (fresh, reads) = opened();
    assert!(reads > 2, "the slots have changed: {reads}");
    assert_eq!(fresh.keyring().current().id, rotating.keyring().current().id);
    assert_eq!(opened().1, 2);
}
