//! Lower-case hexadecimal.

use std::fmt::Write as _;

/// `bytes` as lower-case hexadecimal.
#[must_use]
pub fn encode(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        write!(out, "{byte:02x}").expect("writing to a String does not fail");
    }
    out
}

/// The bytes that `text` spells, or `None` when it is not an even run of lower-case hex digits.
///
/// Upper case is refused so that one value has one spelling.
#[must_use]
pub fn decode(text: &str) -> Option<Vec<u8>> {
    let digits = text.as_bytes();
    if !digits.len().is_multiple_of(2) {
        return None;
    }
    digits.chunks_exact(2).map(|pair| Some(nibble(pair[0])? << 4 | nibble(pair[1])?)).collect()
}

/// As [`decode`], for a fixed length.
#[must_use]
pub fn decode_array<const N: usize>(text: &str) -> Option<[u8; N]> {
    decode(text)?.try_into().ok()
}

fn nibble(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_value_has_one_spelling() {
        assert_eq!(decode("00ff7a"), Some(vec![0, 255, 0x7a]));
        assert_eq!(encode(&[0, 255, 0x7a]), "00ff7a");
        for wrong in ["0", "0G", "FF", " 0", "é"] {
            assert_eq!(decode(wrong), None, "{wrong}");
        }
    }
}
