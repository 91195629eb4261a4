//! Key slots as they lie in the store: read, and tried with a secret.

use super::descriptor::{CipherChoice, Descriptor};
use super::error::{Error, Result, SlotSummary};
use super::layout;
use crate::crypt::{self, Keyring, Slot, SlotKind, Unlock};
use crate::storage::{self, ObjectKey, ObjectStore};

/// How often slots are listed while they go away: nobody rotates that often.
const LISTS_MAX: u32 = 4;

/// With a cipher, the keys are never stored in the clear.
pub(super) fn require_secret(cipher: CipherChoice, unlock: &Unlock) -> Result<()> {
    if cipher == CipherChoice::Aes256Cbc && unlock.kind() == SlotKind::Clear {
        return Err(Error::Keys("a cipher wants a passphrase or a key file".into()));
    }
    Ok(())
}

pub(super) fn slot_key(name: &str) -> Result<ObjectKey> {
    layout::slot(name).ok_or_else(|| Error::Keys(format!("{name:?} is not a slot's name")))
}

pub(super) fn summary(slot: &Slot, opened: Option<bool>) -> SlotSummary {
    SlotSummary {
        slot: slot.slot.clone(),
        kind: slot.kind,
        label: slot.label.clone(),
        fingerprint: slot.fingerprint.clone(),
        created: slot.created.clone(),
        opened,
    }
}

type ReadSlots = (Vec<(ObjectKey, Slot)>, Vec<(ObjectKey, Error)>);

/// Every slot, and those that cannot be read: one of them must not stand in the way of the others.
pub(super) fn read_slots(store: &dyn ObjectStore) -> Result<ReadSlots> {
    let (mut slots, mut damaged) = (Vec::new(), Vec::new());
    for meta in storage::list_all(store, layout::SLOT_PREFIX)? {
        match read_slot(store, &meta.key) {
            Ok(slot) => slots.push((meta.key, slot)),
            Err(error) if error.is_not_found() => {}
            Err(error) => damaged.push((meta.key, error)),
        }
    }
    slots.sort_by(|(_, a), (_, b)| (&a.created, &a.slot).cmp(&(&b.created, &b.slot)));
    Ok((slots, damaged))
}

fn read_slot(store: &dyn ObjectStore, key: &ObjectKey) -> Result<Slot> {
    let slot = Slot::decode(&store.get(key)?).map_err(|error| match error {
        crypt::Error::NewerSlot { version } => Error::Newer {
            object: key.to_string(),
            what: "format version",
            found: version.to_string(),
        },
        other => Error::corrupt(key, "text", other),
    })?;
    if key.last_component() == slot.slot {
        Ok(slot)
    } else {
        Err(Error::corrupt(key, "text", format!("it names itself {}", slot.slot)))
    }
}

/// Opens what is listed. Slots that are gone by now were replaced by others, of a rotation: where the rest
/// does not open, they are listed anew.
pub(super) fn open_slots(
    store: &dyn ObjectStore,
    listed: &mut Vec<storage::ObjectMeta>,
    descriptor: &Descriptor,
    unlock: &Unlock,
) -> Result<(Option<Keyring>, Vec<SlotSummary>)> {
    let mut lists = 1;
    loop {
        let tried = try_slots(store, listed, descriptor, unlock)?;
        if tried.keyring.is_none() && tried.is_gone && lists < LISTS_MAX {
            *listed = storage::list_all(store, layout::SLOT_PREFIX)?;
            lists += 1;
            continue;
        }
        return match (tried.keyring, tried.damaged) {
            (None, Some(error)) => Err(error),
            (keyring, _) => Ok((keyring, tried.summaries)),
        };
    }
}

/// What became of the slots of a list.
struct Tried {
    keyring: Option<Keyring>,
    summaries: Vec<SlotSummary>,
    damaged: Option<Error>,
    /// One was removed since it was listed.
    is_gone: bool,
}

/// Tries every slot of the right kind; what opens is joined, so that a rotation that stopped half
/// way costs nothing. A slot that is damaged, or newer, counts only when no other opens.
fn try_slots(
    store: &dyn ObjectStore,
    listed: &[storage::ObjectMeta],
    descriptor: &Descriptor,
    unlock: &Unlock,
) -> Result<Tried> {
    let mut keyring: Option<Keyring> = None;
    let mut summaries = Vec::new();
    let mut damaged = None;
    let mut is_gone = false;
    for meta in listed {
        let slot = match read_slot(store, &meta.key) {
            Ok(slot) => slot,
            Err(error @ (Error::Corrupt { .. } | Error::Newer { .. })) => {
                damaged = Some(error);
                continue;
            }
            Err(error) if error.is_not_found() => {
                is_gone = true;
                continue;
            }
            Err(error) => return Err(error),
        };
        let mut opened = None;
        let tried = slot.kind == unlock.kind()
            && (slot.kind != SlotKind::Clear || descriptor.cipher == CipherChoice::None);
        if tried {
            match slot.unwrap(descriptor.repository, unlock) {
                Ok(ring) => {
                    keyring = Some(match keyring.take() {
                        Some(before) => before.union(ring),
                        None => ring,
                    });
                    opened = Some(true);
                }
                // A key file's own slot that does not open was changed.
                Err(crypt::Error::Mac)
                    if slot.kind == SlotKind::KeyFile
                        && slot.fingerprint == unlock.fingerprint() =>
                {
                    damaged = Some(Error::corrupt(&meta.key, "text", "it was changed"));
                    opened = Some(false);
                }
                Err(crypt::Error::Mac | crypt::Error::OtherRepository) => opened = Some(false),
                Err(error) => {
                    damaged = Some(Error::corrupt(&meta.key, "text", error));
                    opened = Some(false);
                }
            }
        }
        summaries.push(summary(&slot, opened));
    }
    Ok(Tried { keyring, summaries, damaged, is_gone })
}
