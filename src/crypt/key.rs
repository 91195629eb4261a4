//! Master keys, the keyring that holds several of them, and the keys derived for each object
//! (section 3).

use aes::Aes256;
use aes::cipher::KeyInit as _;
use hkdf::Hkdf;
use hmac::{Hmac, Mac as _};
use sha2::Sha256;

use super::cbc::{self, Chain};
use super::{Error, MAC_SIZE};
use crate::base::{Entropy, Secret, entropy, hex};

type HmacSha256 = Hmac<Sha256>;

/// The random identity of a repository.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RepositoryId(pub [u8; 16]);

/// The random identity of a master key.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KeyId(pub [u8; 16]);

macro_rules! hex_text {
    ($name:ident) => {
        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(&hex::encode(&self.0))
            }
        }
        impl std::fmt::Debug for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self)
            }
        }
        impl $name {
            /// The id that `text` spells in hexadecimal.
            #[must_use]
            pub fn from_hex(text: &str) -> Option<Self> {
                hex::decode_array(text).map(Self)
            }
        }
    };
}
hex_text!(RepositoryId);
hex_text!(KeyId);

/// What a derived root may be used for: so that a later slot can hold fewer roots than all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Class {
    /// Manifests, tables, hashes: what listing, planning and expiry read.
    Meta,
    /// File content.
    Data,
    /// WAL, histories, labels.
    Wal,
}

/// The use of a root within its class.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Use {
    /// Encryption.
    Encrypt,
    /// Authentication.
    Mac,
    /// The descriptor's MAC (class meta).
    Descriptor,
    /// Digests of WAL content (class wal).
    Digest,
}

impl Class {
    const fn name(self) -> &'static str {
        match self {
            Self::Meta => "meta",
            Self::Data => "data",
            Self::Wal => "wal",
        }
    }
}

impl Use {
    const fn name(self) -> &'static str {
        match self {
            Self::Encrypt => "enc",
            Self::Mac => "mac",
            Self::Descriptor => "descriptor",
            Self::Digest => "digest",
        }
    }
}

/// One master key of a repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MasterKey {
    /// Its id, which objects name.
    pub id: KeyId,
    /// Counts rotations from 1.
    pub generation: u32,
    secret: Secret<[u8; 32]>,
}

impl MasterKey {
    /// A new random key.
    #[must_use]
    pub fn generate(entropy: &dyn Entropy, generation: u32) -> Self {
        Self::new(KeyId(entropy::random(entropy)), generation, entropy::random(entropy))
    }

    pub(super) fn new(id: KeyId, generation: u32, secret: [u8; 32]) -> Self {
        Self { id, generation, secret: Secret::new(secret) }
    }

    pub(super) fn expose(&self) -> &[u8; 32] {
        self.secret.expose()
    }

    /// `root(class, use)` of section 3.
    #[must_use]
    pub fn root(&self, repository: RepositoryId, class: Class, purpose: Use) -> Secret<[u8; 32]> {
        let hkdf = Hkdf::<Sha256>::new(Some(&repository.0), self.expose());
        let info = ["pgkeep/1 root ", class.name(), " ", purpose.name()].concat();
        let mut root = [0; 32];
        hkdf.expand(info.as_bytes(), &mut root).expect("32 bytes are within HKDF's limit");
        Secret::new(root)
    }
}

/// Every master key that the holder of a secret may use; never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Keyring {
    keys: Vec<MasterKey>,
}

impl Keyring {
    /// A ring with one key.
    #[must_use]
    pub fn new(first: MasterKey) -> Self {
        Self { keys: vec![first] }
    }

    pub(super) fn from_keys(mut keys: Vec<MasterKey>) -> Option<Self> {
        keys.sort_by_key(|key| (key.generation, key.id));
        keys.dedup_by_key(|key| (key.generation, key.id));
        if keys.is_empty() { None } else { Some(Self { keys }) }
    }

    /// The keys, oldest generation first.
    #[must_use]
    pub fn keys(&self) -> &[MasterKey] {
        &self.keys
    }

    /// The key with this id.
    #[must_use]
    pub fn find(&self, id: KeyId) -> Option<&MasterKey> {
        self.keys.iter().find(|key| key.id == id)
    }

    /// The key that seals new objects: the highest generation.
    #[must_use]
    pub fn current(&self) -> &MasterKey {
        self.keys.last().expect("a keyring is never empty")
    }

    /// The key of the first generation, under which digests are made so that rotation does not
    /// change them.
    #[must_use]
    pub fn first(&self) -> &MasterKey {
        self.keys.first().expect("a keyring is never empty")
    }

    /// Both rings' keys.
    #[must_use]
    pub fn union(mut self, other: Self) -> Self {
        self.keys.extend(other.keys);
        Self::from_keys(self.keys).expect("both rings held a key")
    }

    /// This ring and a new random key of the next generation.
    #[must_use]
    pub fn rotated(self, entropy: &dyn Entropy) -> Self {
        let next = MasterKey::generate(entropy, self.current().generation.saturating_add(1));
        self.union(Self::new(next))
    }
}

/// The keys of one object, ready for use.
#[derive(Clone)]
pub struct ObjectCipher {
    enc: Option<Aes256>,
    mac: HmacSha256,
}

impl std::fmt::Debug for ObjectCipher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ObjectCipher(***)")
    }
}

impl ObjectCipher {
    /// Derives an object's keys: `info` is its header and key block, then its name.
    #[must_use]
    pub fn derive(
        master: &MasterKey,
        repository: RepositoryId,
        class: Class,
        encrypts: bool,
        salt: &[u8; 32],
        info: &[&[u8]],
    ) -> Self {
        let derive = |purpose| {
            let root = master.root(repository, class, purpose);
            let hkdf = Hkdf::<Sha256>::new(Some(salt), root.expose());
            let mut key = Secret::new([0; 32]);
            let mut parts: Vec<&[u8]> = vec![b"pgkeep/1 object"];
            parts.extend(info);
            let mut bytes = *key.expose();
            hkdf.expand_multi_info(&parts, &mut bytes).expect("32 bytes are within HKDF's limit");
            key = Secret::new(bytes);
            key
        };
        let mac = derive(Use::Mac);
        Self {
            enc: encrypts.then(|| Aes256::new(derive(Use::Encrypt).expose().into())),
            mac: HmacSha256::new_from_slice(mac.expose()).expect("HMAC takes any key length"),
        }
    }

    /// Whether payloads are encrypted (suite 1).
    #[must_use]
    pub fn encrypts(&self) -> bool {
        self.enc.is_some()
    }

    /// Encrypts padded chains in place; does nothing without a cipher.
    pub fn encrypt(&self, chains: Vec<Chain<'_>>) {
        if let Some(enc) = &self.enc {
            cbc::encrypt_lanes(enc, chains);
        }
    }

    /// Decrypts in place and returns the payload's length.
    ///
    /// # Errors
    /// [`Error::Padding`].
    pub fn decrypt(&self, iv: &[u8; 16], buffer: &mut [u8]) -> Result<usize, Error> {
        match &self.enc {
            None => Ok(buffer.len()),
            Some(_) if !buffer.len().is_multiple_of(16) => Err(Error::Padding),
            Some(enc) => {
                cbc::decrypt(enc, iv, buffer);
                cbc::unpadded_size(buffer)
            }
        }
    }

    /// The MAC over `parts` joined.
    #[must_use]
    pub fn mac(&self, parts: &[&[u8]]) -> [u8; MAC_SIZE] {
        let mut mac = self.mac.clone();
        parts.iter().for_each(|part| mac.update(part));
        mac.finalize().into_bytes().into()
    }

    /// Compares the MAC over `parts` in constant time.
    ///
    /// # Errors
    /// [`Error::Mac`].
    pub fn verify(&self, parts: &[&[u8]], expected: &[u8]) -> Result<(), Error> {
        let mut mac = self.mac.clone();
        parts.iter().for_each(|part| mac.update(part));
        mac.verify_slice(expected).map_err(|_| Error::Mac)
    }
}

/// HMAC-SHA-256 under a key that is not an object's.
#[must_use]
pub fn hmac(key: &[u8], message: &[u8]) -> [u8; MAC_SIZE] {
    let mut mac = HmacSha256::new_from_slice(key).expect("HMAC takes any key length");
    mac.update(message);
    mac.finalize().into_bytes().into()
}

/// Checks [`hmac`] in constant time.
///
/// # Errors
/// [`Error::Mac`].
pub fn hmac_verify(key: &[u8], message: &[u8], expected: &[u8]) -> Result<(), Error> {
    let mut mac = HmacSha256::new_from_slice(key).expect("HMAC takes any key length");
    mac.update(message);
    mac.verify_slice(expected).map_err(|_| Error::Mac)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::SeededEntropy;

    #[test]
    fn the_highest_generation_seals_and_the_first_digests() {
        let entropy = SeededEntropy::new(1);
        let ring = Keyring::new(MasterKey::generate(&entropy, 1));
        let first = ring.current().id;
        let twice = ring.clone().rotated(&entropy).rotated(&entropy);
        assert_eq!(twice.keys().len(), 3);
        assert_eq!(twice.current().generation, 3);
        assert_eq!(twice.first().id, first);
        // Two rotations of one ring at once: nothing is lost.
        let other = ring.rotated(&entropy);
        assert_eq!(twice.union(other).keys().len(), 4);
    }

    #[test]
    fn every_part_of_an_object_s_identity_changes_its_keys() {
        let entropy = SeededEntropy::new(2);
        let master = MasterKey::generate(&entropy, 1);
        let mac = |repository, class, salt: u8, info: &[&[u8]]| {
            ObjectCipher::derive(
                &master,
                RepositoryId([repository; 16]),
                class,
                true,
                &[salt; 32],
                info,
            )
            .mac(&[b"content"])
        };
        let base = mac(1, Class::Meta, 1, &[b"header", b"name"]);
        assert_eq!(base, mac(1, Class::Meta, 1, &[b"headername"]));
        for other in [
            mac(2, Class::Meta, 1, &[b"header", b"name"]),
            mac(1, Class::Data, 1, &[b"header", b"name"]),
            mac(1, Class::Meta, 2, &[b"header", b"name"]),
            mac(1, Class::Meta, 1, &[b"headex", b"name"]),
            mac(1, Class::Meta, 1, &[b"header", b"namf"]),
        ] {
            assert_ne!(base, other);
        }
    }

    #[test]
    fn secrets_are_not_printed() {
        let master = MasterKey::new(KeyId([1; 16]), 1, [0x5a; 32]);
        let shown = format!("{master:?} {:?}", Keyring::new(master.clone()));
        assert!(!shown.contains("5a") && !shown.contains("90, 90"), "{shown}");
    }
}
