//! Who may open a repository: slots listed, added, removed, and replaced by a rotation.

use super::descriptor::CipherChoice;
use super::error::{DamagedSlot, Error, Result, SlotSummary, Slots};
use super::layout;
use super::repository::Repository;
use super::slots::{read_slots, require_secret, slot_key, summary};
use crate::base::Ctx;
use crate::crypt::{Keyring, Slot, Unlock};

impl Repository {
    /// The slots, and which of them the secret opens (without trying any when there is none).
    ///
    /// # Errors
    /// As the store's list.
    pub fn slots(&self, unlock: Option<&Unlock>) -> Result<Slots> {
        let (slots, damaged) = read_slots(self.store.as_ref())?;
        let mut summaries = Vec::new();
        for (_, slot) in slots {
            let opened = unlock
                .filter(|unlock| unlock.kind() == slot.kind)
                .map(|unlock| slot.unwrap(self.descriptor.repository, unlock).is_ok());
            summaries.push(summary(&slot, opened));
        }
        let damaged = damaged.iter().map(|(key, error)| DamagedSlot {
            slot: key.last_component().into(),
            why: error.to_string(),
        });
        Ok(Slots { readable: summaries, damaged: damaged.collect() })
    }

    /// Adds a slot that holds every key this repository was opened with.
    ///
    /// # Errors
    /// [`Error::Keys`] for a repository without a cipher.
    pub fn add_slot(&self, ctx: &Ctx, unlock: &Unlock, label: &str, cost: u8) -> Result<String> {
        self.put_slot(ctx, unlock, label, cost, &self.keyring)
    }

    fn put_slot(
        &self,
        ctx: &Ctx,
        unlock: &Unlock,
        label: &str,
        cost: u8,
        keyring: &Keyring,
    ) -> Result<String> {
        if self.descriptor.cipher == CipherChoice::None {
            return Err(Error::Keys("a repository with cipher none has no secrets".into()));
        }
        require_secret(self.descriptor.cipher, unlock)?;
        if keyring.keys().len() > 255 {
            return Err(Error::Limit("a slot holds at most 255 master keys".into()));
        }
        let created = layout::time_text(ctx.clock.now());
        let repository = self.descriptor.repository;
        let entropy = ctx.entropy.as_ref();
        let slot = Slot::wrap(entropy, repository, created, label, unlock, cost, keyring)?;
        self.put_if_absent(&slot_key(&slot.slot)?, &slot.encode())?;
        Ok(slot.slot)
    }

    /// Removes a slot, never the last one that holds some master key. Slots of other repositories
    /// (left by an `init` that died) and damaged ones do not count, and can be removed.
    ///
    /// # Errors
    /// [`Error::Keys`] when there is no such slot, or no other that holds all its keys, or when it may
    /// still open the repository for somebody.
    pub fn remove_slot(&self, name: &str) -> Result<()> {
        let (slots, damaged) = read_slots(self.store.as_ref())?;
        match damaged.iter().find(|(key, _)| key.last_component() == name) {
            Some((key, Error::Corrupt { .. })) => return Ok(self.store.delete(key)?),
            Some((_, error)) => {
                let why = format!("what the slot holds cannot be told: {error}");
                return Err(Error::Keys(why));
            }
            None => {}
        }
        let Some((key, slot)) = slots.iter().find(|(_, slot)| slot.slot == name) else {
            return Err(Error::Keys(format!("there is no key slot {name}")));
        };
        let ours = |slot: &Slot| slot.is_of(self.descriptor.repository);
        if ours(slot) {
            let others = slots.iter().map(|(_, other)| other);
            let others: Vec<_> = others.filter(|other| ours(other) && other.slot != name).collect();
            if others.is_empty() {
                return Err(Error::Keys(format!(
                    "{name} is the last key slot: without it nobody can open the backups"
                )));
            }
            let held = |id: &str| others.iter().any(|other| other.key_ids().any(|held| held == id));
            if let Some(lost) = slot.key_ids().find(|id| !held(id)) {
                return Err(Error::Keys(format!(
                    "{name} is the last key slot that holds master key {lost}: without it nobody \
                     can open what was stored under that key"
                )));
            }
        }
        Ok(self.store.delete(key)?)
    }

    /// Makes a new master key for new objects, in a new slot for `unlock`; the slots that `unlock`
    /// opened until now are removed after the new one is durable. Returns the new slot's name and
    /// the slots of other secrets, whose holders can read old objects only.
    ///
    /// # Errors
    /// [`Error::Keys`], or as the store's.
    pub fn rotate(
        &mut self,
        ctx: &Ctx,
        unlock: &Unlock,
        label: Option<&str>,
        cost: u8,
    ) -> Result<(String, Vec<SlotSummary>)> {
        let (slots, _) = read_slots(self.store.as_ref())?;
        let opens = |slot: &Slot| {
            slot.kind == unlock.kind() && slot.unwrap(self.descriptor.repository, unlock).is_ok()
        };
        let (own, others): (Vec<_>, Vec<_>) = slots.into_iter().partition(|(_, slot)| opens(slot));
        let label = label.or(own.last().map(|(_, slot)| slot.label.as_str())).unwrap_or_default();
        let rotated = self.keyring.clone().rotated(ctx.entropy.as_ref());
        let name = self.put_slot(ctx, unlock, label, cost, &rotated)?;
        for (key, _) in &own {
            self.store.delete(key)?;
        }
        self.keyring = rotated;
        Ok((name, others.iter().map(|(_, slot)| summary(slot, Some(false))).collect()))
    }
}
