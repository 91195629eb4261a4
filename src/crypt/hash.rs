//! Keyed hashes that are not MACs: of blocks, to see what changed; of WAL, to see that two contents
//! are the same.

use highway::{HighwayHash as _, HighwayHasher, Key};

/// Hashes blocks to 64 bits: HighwayHash-64 under a key that only the repository knows, so that
/// nobody can make two blocks collide on purpose.
#[derive(Debug, Clone)]
pub struct BlockHasher {
    key: Key,
}

impl BlockHasher {
    /// The name of the algorithm in manifests.
    pub const ALGORITHM: &str = "highway64";

    /// A hasher under `key`, read as four little-endian words.
    #[must_use]
    pub fn new(key: &[u8; 32]) -> Self {
        Self { key: words(key) }
    }

    /// The hash of one block; at the end of a file, of its true length.
    #[must_use]
    pub fn hash(&self, block: &[u8]) -> u64 {
        HighwayHasher::new(self.key).hash64(block)
    }
}

/// The digest by which two contents of one WAL name are told apart: `hh256:` and 64 hexadecimal
/// digits (section 6).
#[must_use]
pub fn content_digest(key: &[u8; 32], content: &[u8]) -> String {
    let hash = HighwayHasher::new(words(key)).hash256(content);
    let mut text = String::from("hh256:");
    for word in hash {
        text.push_str(&crate::base::hex::encode(&word.to_le_bytes()));
    }
    text
}

fn words(key: &[u8; 32]) -> Key {
    let (chunks, _) = key.as_chunks::<8>();
    let mut words = [0; 4];
    for (word, chunk) in words.iter_mut().zip(chunks) {
        *word = u64::from_le_bytes(*chunk);
    }
    Key(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_algorithm_is_the_published_one() {
        // Test vectors of the HighwayHash authors: key bytes 0..32, data bytes 0..n.
        let key: [u8; 32] = std::array::from_fn(|i| u8::try_from(i).unwrap());
        let data: Vec<u8> = (0..64).collect();
        let hasher = BlockHasher::new(&key);
        assert_eq!(hasher.hash(&data[..0]), 0x907A_56DE_22C2_6E53);
        assert_eq!(hasher.hash(&data[..1]), 0x7EAB_43AA_C7CD_DD78);
        assert_eq!(hasher.hash(&data[..2]), 0xB8D0_569A_B0B5_3D62);
    }

    #[test]
    fn digests_differ_by_key_and_content() {
        let one = content_digest(&[1; 32], b"segment");
        assert_eq!(one.len(), 6 + 64);
        assert_eq!(one, content_digest(&[1; 32], b"segment"));
        assert_ne!(one, content_digest(&[2; 32], b"segment"));
        assert_ne!(one, content_digest(&[1; 32], b"segmenu"));
    }
}
