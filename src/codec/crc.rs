//! CRC-32C of a whole from those of its parts, without their bytes.
//!
//! The checksum of `a ‖ b` is that of `a`, shifted by the length of `b`, plus that of `b`. Shifting is a
//! multiplication by a power of x; powers for 2^k bytes are made once, so that joining takes about as long
//! as the checksum of a kilobyte. (`crc32c_combine` of the crate takes as long as that of 100 kB.)

use std::sync::OnceLock;

/// The polynomial of CRC-32C, bits reflected (RFC 3720, section 12.1).
const POLYNOMIAL: u32 = 0x82F6_3B78;

/// `x^(8 * 2^k)` for each k.
fn powers() -> &'static [u32; 64] {
    static POWERS: OnceLock<[u32; 64]> = OnceLock::new();
    POWERS.get_or_init(|| {
        // x^8: reflected, x^n is bit 31 - n.
        let mut power = 1 << 23;
        std::array::from_fn(|_| {
            let this = power;
            power = multiply(power, power);
            this
        })
    })
}

/// The product of two polynomials, modulo the polynomial.
fn multiply(a: u32, mut b: u32) -> u32 {
    let mut product = 0;
    for bit in (0..32).rev() {
        // No branches: the bits are random.
        product ^= b & 0u32.wrapping_sub(a >> bit & 1);
        b = (b >> 1) ^ (POLYNOMIAL & 0u32.wrapping_sub(b & 1));
    }
    product
}

/// The CRC-32C of two pieces joined, from those of each and the length of the second.
#[must_use]
pub fn crc32c_join(first: u32, second: u32, second_length: u64) -> u32 {
    let mut shifted = first;
    let mut length = second_length;
    for power in powers() {
        if length == 0 {
            break;
        }
        if length & 1 == 1 {
            shifted = multiply(*power, shifted);
        }
        length >>= 1;
    }
    shifted ^ second
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn joined_checksums_are_those_of_the_whole(
            bytes in proptest::collection::vec(any::<u8>(), 0..5000),
            cut in any::<prop::sample::Index>(),
        ) {
            let (first, second) = bytes.split_at(cut.index(bytes.len() + 1));
            let (a, b) = (crc32c::crc32c(first), crc32c::crc32c(second));
            let joined = crc32c_join(a, b, second.len() as u64);
            prop_assert_eq!(joined, crc32c::crc32c(&bytes));
            prop_assert_eq!(joined, crc32c::crc32c_combine(a, b, second.len()));
        }

        #[test]
        fn long_pieces_join_as_the_crate_joins_them(a: u32, b: u32, length in 0usize..1 << 40) {
            prop_assert_eq!(
                crc32c_join(a, b, length as u64),
                crc32c::crc32c_combine(a, b, length)
            );
        }
    }
}
