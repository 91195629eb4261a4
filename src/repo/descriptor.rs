//! The immutable descriptor `pgkeep.json` (FORMAT.md, section 5).

use serde::{Deserialize, Serialize};

use super::error::{Error, Result};
use super::header::Suite;
use super::layout;
use crate::base::hex;
use crate::crypt::key::{hmac, hmac_verify};
use crate::crypt::{Class, KeyId, Keyring, MasterKey, RepositoryId, Use};

const FORMAT: &str = "pgkeep";

/// How a repository encrypts; chosen once, at `init`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum CipherChoice {
    /// AES-256-CBC.
    #[serde(rename = "aes-256-cbc")]
    Aes256Cbc,
    /// Not at all; damage is found, tampering is not.
    #[serde(rename = "none")]
    None,
}

impl CipherChoice {
    /// The name in configuration and descriptor.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Aes256Cbc => "aes-256-cbc",
            Self::None => "none",
        }
    }

    pub(super) fn suite(self) -> Suite {
        match self {
            Self::Aes256Cbc => Suite::AesCbc,
            Self::None => Suite::Clear,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Text {
    format: String,
    version: u32,
    repository: String,
    created: String,
    cipher: CipherChoice,
    conditional_put: bool,
    key: String,
    mac: String,
}

impl Text {
    fn mac_input(&self) -> String {
        format!(
            "format={}\nversion={}\nrepository={}\ncreated={}\ncipher={}\nconditional_put={}\nkey={}\n",
            self.format,
            self.version,
            self.repository,
            self.created,
            self.cipher.name(),
            self.conditional_put,
            self.key,
        )
    }
}

/// What the descriptor says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Descriptor {
    /// The repository's identity.
    pub repository: RepositoryId,
    /// When it was made.
    pub created: String,
    /// How it encrypts.
    pub cipher: CipherChoice,
    /// Whether the store honours put-if-absent.
    pub conditional_put: bool,
    /// The first master key's id.
    pub key: KeyId,
}

impl Descriptor {
    fn text(&self) -> Text {
        Text {
            format: FORMAT.into(),
            version: 1,
            repository: self.repository.to_string(),
            created: self.created.clone(),
            cipher: self.cipher,
            conditional_put: self.conditional_put,
            key: self.key.to_string(),
            mac: String::new(),
        }
    }

    /// The stored bytes, with the MAC under `first`, the master key that the descriptor names.
    #[must_use]
    pub fn encode(&self, first: &MasterKey) -> Vec<u8> {
        let mut text = self.text();
        let key = first.root(self.repository, Class::Meta, Use::Descriptor);
        text.mac = hex::encode(&hmac(key.expose(), text.mac_input().as_bytes()));
        encode(&text)
    }

    /// Reads the stored bytes. What it returns is **not authenticated** until
    /// [`Descriptor::verify`] has seen the keyring.
    ///
    /// # Errors
    /// [`Error::Corrupt`], [`Error::Newer`].
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let object = layout::descriptor();
        let corrupt = |why: String| Error::corrupt(&object, "text", why);
        let version: Version =
            serde_json::from_slice(bytes).map_err(|error| corrupt(error.to_string()))?;
        if version.version > 1 && version.format == FORMAT {
            return Err(Error::Newer {
                object: object.to_string(),
                what: "format version",
                found: version.version.to_string(),
            });
        }
        let text: Text =
            serde_json::from_slice(bytes).map_err(|error| corrupt(error.to_string()))?;
        if encode(&text) != bytes || text.format != FORMAT || text.version != 1 {
            return Err(corrupt("it is not in canonical form".into()));
        }
        let repository = RepositoryId::from_hex(&text.repository);
        let key = KeyId::from_hex(&text.key);
        let (Some(repository), Some(key)) = (repository, key) else {
            return Err(corrupt("an id in it is not hexadecimal".into()));
        };
        let conditional_put = text.conditional_put;
        Ok(Self { repository, created: text.created, cipher: text.cipher, conditional_put, key })
    }

    /// Checks the MAC of the stored bytes.
    ///
    /// # Errors
    /// [`Error::Corrupt`] when somebody changed the descriptor, [`Error::UnknownKey`].
    pub fn verify(bytes: &[u8], keyring: &Keyring) -> Result<()> {
        let object = layout::descriptor();
        let this = Self::decode(bytes)?;
        let text: Text = serde_json::from_slice(bytes)
            .map_err(|error| Error::corrupt(&object, "text", error))?;
        let master = keyring.find(this.key).ok_or_else(|| Error::UnknownKey {
            object: object.to_string(),
            key: this.key.to_string(),
        })?;
        let key = master.root(this.repository, Class::Meta, Use::Descriptor);
        let mac = hex::decode(&text.mac).unwrap_or_default();
        hmac_verify(key.expose(), text.mac_input().as_bytes(), &mac)
            .map_err(|_| Error::corrupt(&object, "text", "its authentication code does not match"))
    }
}

/// The part that every version keeps.
#[derive(Deserialize)]
struct Version {
    format: String,
    version: u32,
}

fn encode(text: &Text) -> Vec<u8> {
    let mut bytes = serde_json::to_vec(text).expect("a descriptor is plain text and numbers");
    bytes.push(b'\n');
    bytes
}
