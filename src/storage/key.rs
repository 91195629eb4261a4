//! Names of objects: relative, portable, and unable to leave the root of a store.

use std::fmt;
use std::str::FromStr;

/// A name such as `c/main/7312-1/wal/00000001/00000000/000000010000000000000001`.
///
/// One or more components joined by `/`; each is 1 to 255 bytes of `A-Z a-z 0-9 . _ - %` and does
/// not begin with a dot. So no name is absolute, goes up, is hidden, or differs between stores.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectKey(String);

/// The text is not a name that a store may hold.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not an object name: {why}")]
pub struct InvalidKey {
    /// What was given.
    pub text: String,
    /// What is wrong with it.
    pub why: &'static str,
}

/// A name's greatest length in bytes, below the 1024 that S3 allows so that a prefix fits.
pub const LENGTH_MAX: usize = 700;

impl ObjectKey {
    /// Checks and takes a name.
    ///
    /// # Errors
    /// [`InvalidKey`] says what is wrong.
    pub fn new(text: impl Into<String>) -> Result<Self, InvalidKey> {
        let text = text.into();
        match fault(&text) {
            None => Ok(Self(text)),
            Some(why) => Err(InvalidKey { text, why }),
        }
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The part after the last slash.
    #[must_use]
    pub fn last_component(&self) -> &str {
        self.0.rsplit('/').next().unwrap_or(&self.0)
    }
}

fn fault(text: &str) -> Option<&'static str> {
    if text.is_empty() {
        return Some("it is empty");
    }
    if text.len() > LENGTH_MAX {
        return Some("it is longer than 700 bytes");
    }
    text.split('/').find_map(|component| match component.as_bytes() {
        [] => Some("a component is empty"),
        [b'.', ..] => Some("a component begins with a dot"),
        bytes if bytes.len() > 255 => Some("a component is longer than 255 bytes"),
        bytes if !bytes.iter().all(|&byte| is_allowed(byte)) => {
            Some("it holds a character other than A-Z a-z 0-9 . _ - %")
        }
        _ => None,
    })
}

fn is_allowed(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-' | b'%')
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for ObjectKey {
    type Err = InvalidKey;

    fn from_str(text: &str) -> Result<Self, InvalidKey> {
        Self::new(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_escape_the_root() {
        for good in ["pgkeep.json", "c/main/1-1/backup/20261120-020000F", "a%20b/c"] {
            assert!(ObjectKey::new(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "/etc/passwd",
            "a//b",
            "a/",
            "..",
            "a/../b",
            "./a",
            ".hidden",
            "a/.b",
            "a b",
            "a\0b",
            "ä",
            "a\\b",
        ] {
            assert!(ObjectKey::new(bad).is_err(), "{bad:?}");
        }
        assert!(ObjectKey::new("a".repeat(256)).is_err());
        assert!(ObjectKey::new("a/".repeat(400) + "a").is_err());
    }
}
