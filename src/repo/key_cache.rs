//! Keys that a passphrase opened, kept so that the next process does not pay for scrypt again.
//!
//! What is kept is a slot of its own, wrapped by a quick derivation of the same passphrase: without the
//! passphrase it opens nothing, but guessing costs nothing either. So it is made only where the
//! operator names a folder for it, best one in memory, and that folder must be the account's own. It
//! counts only while the repository's own slots are the same ones. Best effort: whatever is wrong with
//! it, the repository's slots are asked.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

use super::layout;
use crate::base::{Ctx, durable, hex};
use crate::crypt::{Keyring, RepositoryId, Slot, Unlock};
use crate::storage::ObjectMeta;

/// A folder of kept keys, one file a repository.
#[derive(Debug, Clone)]
pub struct KeyCache {
    folder: PathBuf,
}

impl KeyCache {
    /// The cache in a folder, which is made when it is needed.
    #[must_use]
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self { folder: folder.into() }
    }

    fn path(&self, repository: RepositoryId) -> PathBuf {
        self.folder.join(format!("{repository}.keys"))
    }

    /// The keyring, if it was kept while the repository had these slots.
    pub(super) fn load(
        &self,
        repository: RepositoryId,
        slots: &[ObjectMeta],
        unlock: &Unlock,
    ) -> Option<Keyring> {
        let quick = unlock.quick(repository)?;
        if !is_own(&self.folder) {
            return None;
        }
        let slot = Slot::decode(&std::fs::read(self.path(repository)).ok()?).ok()?;
        let keyring = slot.unwrap(repository, &quick).ok()?;
        // Unwrapped, the label is authentic.
        (slot.label == label(slots)).then_some(keyring)
    }

    /// Keeps a keyring.
    pub(super) fn store(
        &self,
        ctx: &Ctx,
        repository: RepositoryId,
        slots: &[ObjectMeta],
        unlock: &Unlock,
        keyring: &Keyring,
    ) {
        let Some(quick) = unlock.quick(repository) else { return };
        let created = layout::time_text(ctx.clock.now());
        let entropy = ctx.entropy.as_ref();
        let kept = || -> Result<(), String> {
            let slot = Slot::wrap(entropy, repository, created, &label(slots), &quick, 0, keyring)
                .map_err(|error| error.to_string())?;
            durable::create_dir_all(&self.folder, 0o700).map_err(|error| error.to_string())?;
            if !is_own(&self.folder) {
                return Err("it belongs to another account, or others can look into it".into());
            }
            durable::replace(&self.path(repository), &slot.encode(), 0o600)
                .map_err(|error| error.to_string())
        };
        if let Err(why) = kept() {
            let folder = self.folder.display();
            ctx.warn(format!("{folder}: the keys are not kept there: {why}"));
        }
    }
}

/// Names the slots that the repository had.
fn label(slots: &[ObjectMeta]) -> String {
    let mut hash = Sha256::new();
    for slot in slots {
        hash.update(slot.key.as_str());
        hash.update(b"\n");
    }
    let mut text = hex::encode(&hash.finalize());
    text.truncate(32);
    text
}

fn is_own(folder: &Path) -> bool {
    std::fs::metadata(folder).is_ok_and(|metadata| {
        metadata.uid() == rustix::process::geteuid().as_raw() && metadata.mode() & 0o077 == 0
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::base::{Secret, Timestamp};
    use crate::crypt::MasterKey;
    use crate::storage::ObjectKey;

    #[test]
    fn kept_keys_open_with_the_same_passphrase_and_slots_only() {
        let ctx = Ctx::fixed(Timestamp::UNIX_EPOCH, 3);
        let scratch = tempfile::tempdir().unwrap();
        let folder = scratch.path().join("keys");
        let cache = KeyCache::new(&folder);
        let repository = RepositoryId([7; 16]);
        let slot = |name: &str| ObjectMeta {
            key: ObjectKey::new(format!("key/{name}")).unwrap(),
            size: 1,
            stored: None,
            class: None,
        };
        let slots = [slot("0000000000000001")];
        let passphrase = |text: &str| Unlock::Passphrase(Secret::new(text.to_owned()));
        let right = passphrase("open");
        let keyring = Keyring::new(MasterKey::generate(ctx.entropy.as_ref(), 1));
        assert!(cache.load(repository, &slots, &right).is_none());
        cache.store(&ctx, repository, &slots, &right, &keyring);
        let kept = cache.load(repository, &slots, &right).unwrap();
        assert_eq!(kept.current().id, keyring.current().id);
        let file = folder.join(format!("{repository}.keys"));
        assert_eq!(std::fs::metadata(&file).unwrap().mode() & 0o777, 0o600);
        assert!(cache.load(repository, &slots, &passphrase("else")).is_none());
        assert!(cache.load(RepositoryId([8; 16]), &slots, &right).is_none());
        let rotated = [slot("0000000000000002")];
        assert!(cache.load(repository, &rotated, &right).is_none(), "slots have changed");
        std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o750)).unwrap();
        assert!(cache.load(repository, &slots, &right).is_none(), "others can look into it");
        std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o700)).unwrap();
        let mut bytes = std::fs::read(&file).unwrap();
        bytes[60] ^= 1;
        durable::replace(&file, &bytes, 0o600).unwrap();
        assert!(cache.load(repository, &slots, &right).is_none(), "changed");
    }
}
