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

/// The digest by which two contents of one WAL name are told apart (section 6), of content that comes
/// in pieces.
pub struct ContentDigest {
    hasher: HighwayHasher,
}

impl std::fmt::Debug for ContentDigest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ContentDigest(***)")
    }
}

impl ContentDigest {
    /// A digest of nothing yet under `key`.
    #[must_use]
    pub fn new(key: &[u8; 32]) -> Self {
        Self { hasher: HighwayHasher::new(words(key)) }
    }

    /// Takes the next bytes of the content.
    pub fn add(&mut self, bytes: &[u8]) {
        self.hasher.append(bytes);
    }

    /// `hh256:` and 64 hexadecimal digits.
    #[must_use]
    pub fn finish(self) -> String {
        let mut text = String::from("hh256:");
        for word in self.hasher.finalize256() {
            text.push_str(&crate::base::hex::encode(&word.to_le_bytes()));
        }
        text
    }
}

/// [`ContentDigest`] of a content in memory.
#[must_use]
pub fn content_digest(key: &[u8; 32], content: &[u8]) -> String {
    let mut digest = ContentDigest::new(key);
    digest.add(content);
    digest.finish()
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
        let mut pieces = ContentDigest::new(&[1; 32]);
        [&b"s"[..], b"", b"egmen", b"t"].iter().for_each(|piece| pieces.add(piece));
        assert_eq!(one, pieces.finish(), "however it is cut");
    }
}
