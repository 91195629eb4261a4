//! A position in the WAL.
//!
//! Arithmetic is checked: an LSN read from a damaged file can be anything.

use std::fmt;
use std::str::FromStr;

use super::{Error, Result};

/// A byte position in the WAL (`XLogRecPtr`), written `16/B374D848`.
///
/// Positions of different timelines share one numbering: two LSNs compare meaningfully only when both
/// belong to one [`History`](super::History).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Lsn(pub u64);

impl Lsn {
    /// PostgreSQL's "no position" (`InvalidXLogRecPtr`, `src/include/access/xlogdefs.h`).
    pub const INVALID: Self = Self(0);

    /// Whether this is a position at all.
    #[must_use]
    pub const fn is_valid(self) -> bool {
        self.0 != 0
    }

    /// The position `bytes` later.
    #[must_use]
    pub fn checked_add(self, bytes: u64) -> Option<Self> {
        self.0.checked_add(bytes).map(Self)
    }

    /// The position `bytes` earlier.
    #[must_use]
    pub fn checked_sub(self, bytes: u64) -> Option<Self> {
        self.0.checked_sub(bytes).map(Self)
    }

    /// How many bytes lie between `earlier` and this, or `None` when it is not earlier.
    #[must_use]
    pub fn bytes_since(self, earlier: Self) -> Option<u64> {
        self.0.checked_sub(earlier.0)
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xFFFF_FFFF)
    }
}

impl fmt::Debug for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Lsn({self})")
    }
}

impl FromStr for Lsn {
    type Err = Error;

    /// Two hexadecimal numbers of one to eight digits with a slash between
    /// (`src/backend/utils/adt/pg_lsn.c`, `pg_lsn_in_internal`).
    fn from_str(text: &str) -> Result<Self> {
        parse(text.as_bytes()).ok_or_else(|| Error::malformed("an LSN", text.as_bytes()))
    }
}

/// As [`Lsn::from_str`], from bytes.
pub(crate) fn parse(text: &[u8]) -> Option<Lsn> {
    let slash = text.iter().position(|byte| *byte == b'/')?;
    let high = half(text.get(..slash)?)?;
    let low = half(text.get(slash + 1..)?)?;
    Some(Lsn(u64::from(high) << 32 | u64::from(low)))
}

fn half(digits: &[u8]) -> Option<u32> {
    let well_formed = (1..=8).contains(&digits.len()) && digits.iter().all(u8::is_ascii_hexdigit);
    if !well_formed {
        return None;
    }
    u32::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

impl serde::Serialize for Lsn {
    fn serialize<S: serde::Serializer>(
        &self,
        serializer: S,
    ) -> std::result::Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for Lsn {
    fn deserialize<D: serde::Deserializer<'de>>(
        deserializer: D,
    ) -> std::result::Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn text_form() {
        for (text, value) in [
            ("16/B374D848", 0x16_B374_D848),
            ("0/0", 0),
            ("0/00002000", 0x2000),
            ("ffffffff/FFFFFFFF", u64::MAX),
        ] {
            assert_eq!(text.parse(), Ok(Lsn(value)), "{text}");
        }
        assert_eq!(Lsn(0x16_0000_D848).to_string(), "16/D848");
        for text in
            ["", "/", "0", "0/", "/0", "0/0/0", "0x1/2", "+1/2", "1/2 ", "100000000/0", "g/0"]
        {
            assert!(text.parse::<Lsn>().is_err(), "{text}");
        }
    }

    #[test]
    fn arithmetic_does_not_wrap() {
        assert_eq!(Lsn(u64::MAX).checked_add(1), None);
        assert_eq!(Lsn(1).checked_sub(2), None);
        assert_eq!(Lsn(5).bytes_since(Lsn(2)), Some(3));
        assert_eq!(Lsn(2).bytes_since(Lsn(5)), None);
        assert!(Lsn(0x1_0000_0000) > Lsn(0xFFFF_FFFF));
    }

    proptest! {
        #[test]
        fn round_trip(value: u64) {
            let lsn = Lsn(value);
            prop_assert_eq!(lsn.to_string().parse(), Ok(lsn));
            let json = serde_json::to_string(&lsn).unwrap();
            prop_assert_eq!(serde_json::from_str::<Lsn>(&json).unwrap(), lsn);
        }

        #[test]
        fn any_text_is_taken(text: String) {
            text.parse::<Lsn>().ok();
        }
    }
}
