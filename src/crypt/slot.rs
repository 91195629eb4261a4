//! Key slots: a keyring wrapped by a passphrase or a key file (section 5).
//!
//! A slot's JSON is canonical: a reader refuses any other spelling of the same values, so that no
//! byte of it is without meaning.

use aes::Aes256;
use aes::cipher::KeyInit as _;
use hkdf::Hkdf;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::Error;
use super::cbc::{self, Chain, padded_size};
use super::key::{KeyId, Keyring, MasterKey, RepositoryId, hmac, hmac_verify};
use crate::base::{Entropy, Secret, entropy, hex};

/// The cost of scrypt for new slots, as log2 of N: 128 MiB of memory, about a third of a second.
pub const COST_DEFAULT: u8 = 17;
const COST_MIN: u8 = 14;
/// 1 GiB of memory: a slot that asks for more is refused, whoever wrote it.
const COST_MAX: u8 = 20;

const FORMAT: &str = "pgkeep key slot";
const VERSION: u32 = 1;
const KEY_FILE_PREFIX: &str = "pgkeep-key-1 ";

/// What opens a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum SlotKind {
    /// A passphrase, by scrypt.
    #[serde(rename = "scrypt")]
    Passphrase,
    /// The 32 random bytes of a key file.
    #[serde(rename = "key-file")]
    KeyFile,
    /// Nothing: for repositories with cipher "none".
    #[serde(rename = "clear")]
    Clear,
}

impl std::fmt::Display for SlotKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Passphrase => "passphrase",
            Self::KeyFile => "key file",
            Self::Clear => "clear",
        })
    }
}

/// A secret that may open slots.
#[derive(Debug, Clone)]
pub enum Unlock {
    /// A passphrase.
    Passphrase(Secret<String>),
    /// The content of a key file.
    KeyFile(Secret<[u8; 32]>),
    /// Nothing.
    Clear,
}

impl Unlock {
    /// The kind of slot that this opens.
    #[must_use]
    pub fn kind(&self) -> SlotKind {
        match self {
            Self::Passphrase(_) => SlotKind::Passphrase,
            Self::KeyFile(_) => SlotKind::KeyFile,
            Self::Clear => SlotKind::Clear,
        }
    }

    /// A new random key file and its text.
    #[must_use]
    pub fn generate_key_file(entropy: &dyn Entropy) -> (Self, Secret<String>) {
        let key: [u8; 32] = entropy::random(entropy);
        let text = format!("{KEY_FILE_PREFIX}{}\n", hex::encode(&key));
        (Self::KeyFile(Secret::new(key)), Secret::new(text))
    }

    /// Reads the text of a key file.
    ///
    /// # Errors
    /// [`Error::KeyFile`].
    pub fn from_key_file(text: &str) -> Result<Self, Error> {
        let line = text.strip_suffix('\n').unwrap_or(text);
        let digits = line.strip_prefix(KEY_FILE_PREFIX).ok_or(Error::KeyFile)?;
        hex::decode_array(digits).map(|key| Self::KeyFile(Secret::new(key))).ok_or(Error::KeyFile)
    }

    /// What identifies a key file without revealing it; empty for other kinds.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        let Self::KeyFile(key) = self else {
            return String::new();
        };
        let mut hash = Sha256::new();
        hash.update(b"pgkeep/1 fingerprint");
        hash.update(key.expose());
        let mut text = hex::encode(&hash.finalize());
        text.truncate(16);
        text
    }

    /// For a passphrase, a secret that is derived from it without scrypt, for keys that are kept on
    /// the host which knows the passphrase anyway; others need none.
    #[must_use]
    pub fn quick(&self, repository: RepositoryId) -> Option<Self> {
        let Self::Passphrase(passphrase) = self else { return None };
        let mut key = [0; 32];
        Hkdf::<Sha256>::new(Some(&repository.0), passphrase.expose().as_bytes())
            .expand(b"pgkeep/1 kept keys", &mut key)
            .expect("32 bytes are within HKDF's limit");
        Some(Self::KeyFile(Secret::new(key)))
    }

    /// The 64 bytes that wrap a keyring: 32 to encrypt, 32 for the MAC.
    fn wrapping_keys(&self, salt: &[u8; 32], cost: u8) -> Result<Secret<[u8; 64]>, Error> {
        let mut keys = [0; 64];
        let key = match self {
            Self::Passphrase(passphrase) => {
                let wrong = |_| Error::Slot { member: "cost", why: "is not allowed".into() };
                let params = scrypt::Params::new(cost, 8, 1).map_err(wrong)?;
                scrypt::scrypt(passphrase.expose().as_bytes(), salt, &params, &mut keys)
                    .map_err(|_| Error::Slot { member: "cost", why: "is not allowed".into() })?;
                return Ok(Secret::new(keys));
            }
            Self::KeyFile(key) => key.clone(),
            Self::Clear => Secret::new([0; 32]),
        };
        Hkdf::<Sha256>::new(Some(salt), key.expose())
            .expand(b"pgkeep/1 slot", &mut keys)
            .expect("64 bytes are within HKDF's limit");
        Ok(Secret::new(keys))
    }
}

/// One key slot, as it is stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Slot {
    format: String,
    version: u32,
    repository: String,
    /// Its name in the repository: 16 hexadecimal digits.
    pub slot: String,
    /// When it was made.
    pub created: String,
    /// What opens it.
    pub kind: SlotKind,
    /// What the operator called it.
    pub label: String,
    /// Of a key file, what identifies it.
    pub fingerprint: String,
    /// Of a passphrase, log2 of scrypt's N.
    pub cost: u8,
    /// Ids of the master keys inside, oldest first, one space between: so that nobody removes the
    /// only slot that holds a key.
    keys: String,
    salt: String,
    iv: String,
    wrapped: String,
    mac: String,
}

impl Slot {
    /// Wraps a keyring. `cost` counts for passphrases only.
    ///
    /// # Errors
    /// [`Error::Slot`] when cost or label are not allowed.
    pub fn wrap(
        entropy: &dyn Entropy,
        repository: RepositoryId,
        created: String,
        label: &str,
        unlock: &Unlock,
        cost: u8,
        keyring: &Keyring,
    ) -> Result<Self, Error> {
        let salt: [u8; 32] = entropy::random(entropy);
        let iv: [u8; 16] = entropy::random(entropy);
        let kind = unlock.kind();
        let mut slot = Self {
            format: FORMAT.into(),
            version: VERSION,
            repository: repository.to_string(),
            slot: hex::encode(&entropy::random::<8>(entropy)),
            created,
            kind,
            label: label.into(),
            fingerprint: unlock.fingerprint(),
            cost: if kind == SlotKind::Passphrase { cost } else { 0 },
            keys: key_ids(keyring),
            salt: hex::encode(&salt),
            iv: hex::encode(&iv),
            wrapped: String::new(),
            mac: String::new(),
        };
        slot.check()?;
        let keys = unlock.wrapping_keys(&salt, slot.cost)?;
        let (enc, mac) = keys.expose().split_at(32);
        let mut buffer = encode_keyring(repository, keyring);
        let payload = buffer.len();
        buffer.resize(padded_size(payload), 0);
        cbc::pad(&mut buffer, payload);
        let cipher = Aes256::new_from_slice(enc).expect("the key has 32 bytes");
        cbc::encrypt_lanes(&cipher, vec![Chain { iv, buffer: &mut buffer }]);
        slot.wrapped = hex::encode(&buffer);
        slot.mac = hex::encode(&hmac(mac, slot.mac_input().as_bytes()));
        Ok(slot)
    }

    /// The keyring inside.
    ///
    /// # Errors
    /// [`Error::OtherKind`]; [`Error::Mac`] for a wrong secret or a changed slot;
    /// [`Error::OtherRepository`].
    pub fn unwrap(&self, repository: RepositoryId, unlock: &Unlock) -> Result<Keyring, Error> {
        if unlock.kind() != self.kind {
            return Err(Error::OtherKind);
        }
        let salt = decode(&self.salt, "salt")?;
        let iv = decode(&self.iv, "iv")?;
        let mut buffer = hex::decode(&self.wrapped).ok_or_else(|| not_hex("wrapped"))?;
        let expected = hex::decode(&self.mac).ok_or_else(|| not_hex("mac"))?;
        let keys = unlock.wrapping_keys(&salt, self.cost)?;
        let (enc, mac) = keys.expose().split_at(32);
        hmac_verify(mac, self.mac_input().as_bytes(), &expected)?;
        if buffer.is_empty() || !buffer.len().is_multiple_of(16) {
            return Err(Error::Padding);
        }
        let cipher = Aes256::new_from_slice(enc).expect("the key has 32 bytes");
        cbc::decrypt(&cipher, &iv, &mut buffer);
        let payload = cbc::unpadded_size(&buffer)?;
        let keyring = decode_keyring(repository, buffer.get(..payload).unwrap_or_default())?;
        if key_ids(&keyring) == self.keys {
            Ok(keyring)
        } else {
            Err(Error::Slot { member: "keys", why: "names other keys than it holds".into() })
        }
    }

    /// Whether it says that it belongs to this repository. Authentic only once it was unwrapped.
    #[must_use]
    pub fn is_of(&self, repository: RepositoryId) -> bool {
        self.repository == repository.to_string()
    }

    /// Ids of the master keys that it says it holds. Authentic only once it was unwrapped.
    pub fn key_ids(&self) -> impl Iterator<Item = &str> {
        self.keys.split(' ')
    }

    /// The bytes that are stored.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = serde_json::to_vec(self).expect("a slot is plain text and numbers");
        bytes.push(b'\n');
        bytes
    }

    /// Reads stored bytes; anything but the canonical spelling is refused.
    ///
    /// # Errors
    /// [`Error::Slot`] names the member that is wrong; [`Error::NewerSlot`].
    pub fn decode(bytes: &[u8]) -> Result<Self, Error> {
        let text =
            |error: serde_json::Error| Error::Slot { member: "text", why: error.to_string() };
        let Version { format, version } = serde_json::from_slice(bytes).map_err(text)?;
        if format == FORMAT && version > VERSION {
            return Err(Error::NewerSlot { version });
        }
        let slot: Self = serde_json::from_slice(bytes).map_err(text)?;
        slot.check()?;
        if slot.encode() != bytes {
            return Err(Error::Slot { member: "text", why: "is not in canonical form".into() });
        }
        Ok(slot)
    }

    fn check(&self) -> Result<(), Error> {
        let wrong = |member, why: &str| Err(Error::Slot { member, why: why.into() });
        if self.format != FORMAT {
            return wrong("format", "is not a pgkeep key slot's");
        }
        if self.version != VERSION {
            return wrong("version", "is not 1");
        }
        let allowed = match self.kind {
            SlotKind::Passphrase => COST_MIN..=COST_MAX,
            SlotKind::KeyFile | SlotKind::Clear => 0..=0,
        };
        if !allowed.contains(&self.cost) {
            return wrong("cost", "is outside the allowed range of 14 to 20");
        }
        if self.label.len() > 200 || self.label.chars().any(char::is_control) {
            return wrong("label", "has more than 200 bytes or control characters");
        }
        Ok(())
    }

    fn mac_input(&self) -> String {
        // The label as it stands in the JSON, so that quoting has one meaning for every reader.
        let quoted = serde_json::to_string(&self.label).expect("text is always JSON");
        let label = quoted.trim_start_matches('"');
        let label = label.strip_suffix('"').unwrap_or(label);
        let kind = serde_json::to_string(&self.kind).expect("a name is always JSON");
        format!(
            "format={}\nversion={}\nrepository={}\nslot={}\ncreated={}\nkind={}\nlabel={label}\n\
             fingerprint={}\ncost={}\nkeys={}\nsalt={}\niv={}\nwrapped={}\n",
            self.format,
            self.version,
            self.repository,
            self.slot,
            self.created,
            kind.trim_matches('"'),
            self.fingerprint,
            self.cost,
            self.keys,
            self.salt,
            self.iv,
            self.wrapped,
        )
    }
}

/// The part that every version keeps.
#[derive(Deserialize)]
struct Version {
    format: String,
    version: u32,
}

fn key_ids(keyring: &Keyring) -> String {
    let ids: Vec<String> = keyring.keys().iter().map(|key| key.id.to_string()).collect();
    ids.join(" ")
}

fn not_hex(member: &'static str) -> Error {
    Error::Slot { member, why: "is not hexadecimal of the right length".into() }
}

fn decode<const N: usize>(text: &str, member: &'static str) -> Result<[u8; N], Error> {
    hex::decode_array(text).ok_or_else(|| not_hex(member))
}

fn encode_keyring(repository: RepositoryId, keyring: &Keyring) -> Vec<u8> {
    // 255 rotations are the format's limit; a ring beyond keeps its newest keys' count honest by
    // refusing to be built (rotation checks), so this never cuts.
    let count = u8::try_from(keyring.keys().len()).expect("rotation refuses the 256th key");
    let mut bytes = repository.0.to_vec();
    bytes.push(count);
    for key in keyring.keys() {
        bytes.extend(key.id.0);
        bytes.extend(key.generation.to_le_bytes());
        bytes.extend(key.expose());
    }
    bytes
}

fn decode_keyring(repository: RepositoryId, bytes: &[u8]) -> Result<Keyring, Error> {
    let short = || Error::Slot { member: "wrapped", why: "does not hold a keyring".into() };
    let (id, rest) = bytes.split_first_chunk::<16>().ok_or_else(short)?;
    if *id != repository.0 {
        return Err(Error::OtherRepository);
    }
    let (&count, mut rest) = rest.split_first().ok_or_else(short)?;
    let mut keys = Vec::new();
    for _ in 0..count {
        let (key_id, tail) = rest.split_first_chunk::<16>().ok_or_else(short)?;
        let (generation, tail) = tail.split_first_chunk::<4>().ok_or_else(short)?;
        let (secret, tail) = tail.split_first_chunk::<32>().ok_or_else(short)?;
        keys.push(MasterKey::new(KeyId(*key_id), u32::from_le_bytes(*generation), *secret));
        rest = tail;
    }
    if !rest.is_empty() {
        return Err(short());
    }
    Keyring::from_keys(keys).ok_or_else(short)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::SeededEntropy;

    const REPOSITORY: RepositoryId = RepositoryId([9; 16]);

    fn wrap(unlock: &Unlock) -> (Slot, Keyring) {
        let entropy = SeededEntropy::new(3);
        let ring = Keyring::new(MasterKey::generate(&entropy, 1)).rotated(&entropy);
        let created = "2026-11-20T02:00:00Z".to_owned();
        let slot =
            Slot::wrap(&entropy, REPOSITORY, created, "the \"vault\"", unlock, 14, &ring).unwrap();
        (slot, ring)
    }

    fn passphrase(text: &str) -> Unlock {
        Unlock::Passphrase(Secret::new(text.to_owned()))
    }

    #[test]
    fn each_kind_opens_what_it_wrapped_and_nothing_else() {
        let (key_file, text) = Unlock::generate_key_file(&SeededEntropy::new(5));
        let same = Unlock::from_key_file(text.expose()).unwrap();
        assert_eq!(same.fingerprint(), key_file.fingerprint());
        let (other, _) = Unlock::generate_key_file(&SeededEntropy::new(6));
        for (unlock, wrong) in
            [(passphrase("correct horse"), passphrase("correct horsf")), (same, other)]
        {
            let (slot, ring) = wrap(&unlock);
            assert_eq!(slot.unwrap(REPOSITORY, &unlock), Ok(ring));
            assert_eq!(slot.unwrap(REPOSITORY, &wrong), Err(Error::Mac));
            assert_eq!(slot.unwrap(REPOSITORY, &Unlock::Clear), Err(Error::OtherKind));
            let foreign = slot.unwrap(RepositoryId([8; 16]), &unlock);
            assert_eq!(foreign, Err(Error::OtherRepository));
        }
    }

    #[test]
    fn every_byte_of_a_slot_counts() {
        let (unlock, _) = Unlock::generate_key_file(&SeededEntropy::new(5));
        let (slot, ring) = wrap(&unlock);
        let bytes = slot.encode();
        assert_eq!(Slot::decode(&bytes).unwrap().unwrap(REPOSITORY, &unlock), Ok(ring));
        for at in 0..bytes.len() {
            for flip in [1, 0x20, 0x80] {
                let mut changed = bytes.clone();
                changed[at] ^= flip;
                let opened = Slot::decode(&changed).and_then(|s| s.unwrap(REPOSITORY, &unlock));
                assert!(opened.is_err(), "byte {at} xor {flip:#x}");
            }
            assert!(Slot::decode(&bytes[..at]).is_err(), "cut at {at}");
        }
    }

    #[test]
    fn an_extreme_cost_is_refused_before_any_work() {
        let (slot, _) = wrap(&passphrase("x"));
        for cost in [0, 13, 21, 63] {
            let text = String::from_utf8(slot.encode()).unwrap();
            let changed = text.replace("\"cost\":14", &format!("\"cost\":{cost}"));
            let wrong = Slot::decode(changed.as_bytes()).unwrap_err();
            assert!(matches!(wrong, Error::Slot { member: "cost", .. }), "{wrong}");
        }
    }

    #[test]
    fn a_newer_slot_says_so_whatever_else_it_holds() {
        let newer = br#"{"format":"pgkeep key slot","version":2,"kind":"tpm","handle":7}"#;
        assert_eq!(Slot::decode(newer), Err(Error::NewerSlot { version: 2 }));
        let foreign = br#"{"format":"other","version":2}"#;
        assert!(matches!(Slot::decode(foreign), Err(Error::Slot { member: "text", .. })));
    }

    #[test]
    fn a_slot_names_the_keys_that_it_holds() {
        let (slot, ring) = wrap(&Unlock::Clear);
        let ids: Vec<String> = ring.keys().iter().map(|key| key.id.to_string()).collect();
        assert_eq!(slot.key_ids().collect::<Vec<_>>(), ids);
        assert!(slot.is_of(REPOSITORY) && !slot.is_of(RepositoryId([8; 16])));
    }

    #[test]
    fn key_files_have_one_spelling() {
        for text in ["", "pgkeep-key-1 ", "pgkeep-key-1 00", &"0".repeat(64)] {
            assert!(Unlock::from_key_file(text).is_err(), "{text:?}");
        }
        let upper = format!("pgkeep-key-1 {}", "A".repeat(64));
        assert!(Unlock::from_key_file(&upper).is_err());
    }
}
