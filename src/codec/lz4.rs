//! LZ4 by `lz4_flex`: its unchecked encoder works on our own data, its safe decoder on what came
//! from a repository.

use lz4_flex::block::{
    CompressTable, compress_into_with_table, decompress_into, get_maximum_output_size,
};

use super::Error;

/// How many bytes [`Compressor::compress`] may need for `raw` bytes of input.
#[must_use]
pub fn compressed_size_max(raw: usize) -> usize {
    get_maximum_output_size(raw)
}

/// An encoder that keeps its hash table between calls.
pub struct Compressor {
    table: CompressTable,
}

impl std::fmt::Debug for Compressor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Compressor")
    }
}

impl Default for Compressor {
    fn default() -> Self {
        Self { table: CompressTable::large() }
    }
}

impl Compressor {
    /// Compresses `raw` into the beginning of `out`, which holds at least
    /// [`compressed_size_max`] bytes, and returns the length; `None` when the result would not be
    /// shorter than `raw`, which then is to be stored as it is.
    pub fn compress(&mut self, raw: &[u8], out: &mut [u8]) -> Option<usize> {
        match compress_into_with_table(raw, out, &mut self.table) {
            Ok(length) if length < raw.len() => Some(length),
            _ => None,
        }
    }
}

/// Decompresses `block` into all of `out`.
///
/// # Errors
/// When `block` is not LZ4 or does not fill `out` exactly.
pub fn decompress_exact(block: &[u8], out: &mut [u8]) -> Result<(), Error> {
    let found = decompress_into(block, out).map_err(|error| Error::Corrupt(error.to_string()))?;
    if found == out.len() { Ok(()) } else { Err(Error::Size { expected: out.len(), found }) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn round_trip(raw: &[u8]) {
        let mut out = vec![0; compressed_size_max(raw.len())];
        if let Some(length) = Compressor::default().compress(raw, &mut out) {
            assert!(length < raw.len());
            let mut back = vec![0xaa; raw.len()];
            decompress_exact(&out[..length], &mut back).unwrap();
            assert_eq!(back, raw);
        }
    }

    #[test]
    fn sizes_around_the_limits_of_the_table() {
        for size in [0, 1, 12, 13, 65_534, 65_535, 65_536] {
            round_trip(&vec![7; size]);
            round_trip(
                &(0..size).map(|i| u8::try_from((i * i / 8) % 256).unwrap()).collect::<Vec<_>>(),
            );
        }
    }

    #[test]
    fn another_size_than_announced_is_found() {
        let mut out = vec![0; compressed_size_max(1000)];
        let length = Compressor::default().compress(&[1; 1000], &mut out).unwrap();
        assert!(decompress_exact(&out[..length], &mut [0; 999]).is_err());
        let longer = decompress_exact(&out[..length], &mut [0; 1001]);
        assert_eq!(longer, Err(Error::Size { expected: 1001, found: 1000 }));
    }

    proptest! {
        #[test]
        fn any_content_comes_back(raw in proptest::collection::vec(0u8..4, 0..5000)) {
            round_trip(&raw);
        }

        #[test]
        fn any_bytes_are_refused_without_panic(block in proptest::collection::vec(any::<u8>(), 0..300)) {
            decompress_exact(&block, &mut [0; 256]).ok();
        }
    }
}
