//! AES-256-CBC with PKCS#7, many independent chains side by side.
//!
//! One CBC chain is serial: each block waits for the one before it, at about 0.9 GB/s. Frames are
//! chains of their own, so [`encrypt_lanes`] steps eight of them together through the processor's
//! AES pipeline. The output is plain CBC: equal bit for bit to the `cbc` crate's (tested).

use aes::Aes256;
use aes::cipher::consts::U16;
use aes::cipher::{
    Array, Block, BlockCipherEncBackend, BlockCipherEncClosure, BlockCipherEncrypt as _,
    BlockModeDecrypt as _, BlockSizeUser, InnerIvInit as _,
};

use super::Error;

/// Bytes of an initialisation vector, and of a cipher block.
pub const IV_SIZE: usize = 16;

/// How many chains advance together. Eight fill the pipeline of AES-NI; more lanes cost registers.
const LANES: usize = 8;

/// The length of `payload` bytes after PKCS#7 padding: the next multiple of 16, always longer.
#[must_use]
pub const fn padded_size(payload: usize) -> usize {
    (payload / IV_SIZE + 1) * IV_SIZE
}

/// Writes PKCS#7 padding behind the first `payload` bytes of `buffer`, whose length is
/// [`padded_size`] of it.
pub fn pad(buffer: &mut [u8], payload: usize) {
    let count = buffer.len().saturating_sub(payload);
    if let (Some(tail), Ok(value)) = (buffer.get_mut(payload..), u8::try_from(count)) {
        tail.fill(value);
    }
}

/// The payload's length inside a decrypted, padded buffer.
///
/// # Errors
/// [`Error::Padding`].
pub fn unpadded_size(buffer: &[u8]) -> Result<usize, Error> {
    let count = usize::from(*buffer.last().ok_or(Error::Padding)?);
    if count == 0 || count > IV_SIZE || count > buffer.len() {
        return Err(Error::Padding);
    }
    let payload = buffer.len() - count;
    let tail = buffer.get(payload..).ok_or(Error::Padding)?;
    if tail.iter().all(|&byte| usize::from(byte) == count) {
        Ok(payload)
    } else {
        Err(Error::Padding)
    }
}

/// One chain to encrypt in place: its IV and its padded buffer, a multiple of 16 bytes.
#[derive(Debug)]
pub struct Chain<'a> {
    /// The initialisation vector.
    pub iv: [u8; IV_SIZE],
    /// Padded plaintext in, ciphertext out.
    pub buffer: &'a mut [u8],
}

/// Encrypts every chain in place. Lanes are refilled as chains end, the longest first, so that
/// chains of different lengths keep the pipeline full.
pub fn encrypt_lanes(cipher: &Aes256, mut chains: Vec<Chain<'_>>) {
    chains.sort_unstable_by_key(|chain| chain.buffer.len());
    // One closure for all chains: each way into the cipher lays its round keys out anew, which took as
    // long as the encryption itself when every step was a call.
    cipher.encrypt_with_backend(Lanes { chains });
}

/// The chains that are left, shortest first.
struct Lanes<'a> {
    chains: Vec<Chain<'a>>,
}

/// A chain under way: the last block that was encrypted, and what is left.
struct Lane<'a> {
    state: Block<Aes256>,
    rest: std::slice::IterMut<'a, [u8; IV_SIZE]>,
}

impl<'a> Lane<'a> {
    fn new(chain: Chain<'a>) -> Self {
        let (blocks, _) = chain.buffer.as_chunks_mut::<IV_SIZE>();
        Self { state: Array(chain.iv), rest: blocks.iter_mut() }
    }
}

impl BlockSizeUser for Lanes<'_> {
    type BlockSize = U16;
}

impl BlockCipherEncClosure for Lanes<'_> {
    #[inline(always)]
    fn call<B: BlockCipherEncBackend<BlockSize = U16>>(mut self, backend: &B) {
        let mut lanes: Vec<Lane<'_>> = Vec::with_capacity(LANES);
        loop {
            lanes.retain(|lane| lane.rest.len() > 0);
            while lanes.len() < LANES
                && let Some(chain) = self.chains.pop()
            {
                lanes.push(Lane::new(chain));
            }
            let Some(steps) = lanes.iter().map(|lane| lane.rest.len()).min() else { return };
            // Of a known number of lanes the compiler makes one run of instructions.
            if let Ok(all) = <&mut [Lane<'_>; LANES]>::try_from(lanes.as_mut_slice()) {
                (0..steps).for_each(|_| all.iter_mut().for_each(|lane| step(backend, lane)));
            } else {
                (0..steps).for_each(|_| lanes.iter_mut().for_each(|lane| step(backend, lane)));
            }
        }
    }
}

/// One block of one chain. The steps of several lanes do not wait for each other: the processor runs
/// them side by side.
#[inline(always)]
fn step<B: BlockCipherEncBackend<BlockSize = U16>>(backend: &B, lane: &mut Lane<'_>) {
    if let Some(block) = lane.rest.next() {
        xor(&mut lane.state.0, block);
        backend.encrypt_block((&mut lane.state).into());
        *block = lane.state.0;
    }
}

#[inline(always)]
fn xor(state: &mut [u8; IV_SIZE], block: &[u8; IV_SIZE]) {
    *state = (u128::from_ne_bytes(*state) ^ u128::from_ne_bytes(*block)).to_ne_bytes();
}

/// Decrypts one chain in place; the length is a multiple of 16. Decryption is not serial.
pub fn decrypt(cipher: &Aes256, iv: &[u8; IV_SIZE], buffer: &mut [u8]) {
    let mut chain = cbc::Decryptor::inner_iv_init(cipher.clone(), &Array(*iv));
    let (blocks, _) = Array::slice_as_chunks_mut(buffer);
    chain.decrypt_blocks(blocks);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::{Entropy as _, SeededEntropy};
    use aes::cipher::{BlockModeEncrypt as _, KeyInit as _, KeyIvInit as _, block_padding::Pkcs7};

    #[test]
    fn lanes_equal_the_cbc_crate_for_any_mixture_of_lengths() {
        let entropy = SeededEntropy::new(7);
        let key: [u8; 32] = crate::base::entropy::random(&entropy);
        let cipher = Aes256::new(&key.into());
        for count in [0usize, 1, 2, 7, 8, 9, 16, 33] {
            let payloads: Vec<Vec<u8>> = (0..count)
                .map(|i| {
                    let mut payload = vec![0; i * 37 % 800 + (i % 3) * 4096];
                    entropy.fill(&mut payload);
                    payload
                })
                .collect();
            let ivs: Vec<[u8; 16]> =
                payloads.iter().map(|_| crate::base::entropy::random(&entropy)).collect();
            let mut buffers: Vec<Vec<u8>> = payloads
                .iter()
                .map(|payload| {
                    let mut buffer = payload.clone();
                    buffer.resize(padded_size(payload.len()), 0);
                    pad(&mut buffer, payload.len());
                    buffer
                })
                .collect();
            let chains = buffers.iter_mut().zip(&ivs).map(|(buffer, iv)| Chain { iv: *iv, buffer });
            encrypt_lanes(&cipher, chains.collect());
            for ((payload, iv), buffer) in payloads.iter().zip(&ivs).zip(&mut buffers) {
                let expected = cbc::Encryptor::<Aes256>::new(&key.into(), &(*iv).into())
                    .encrypt_padded_vec::<Pkcs7>(payload);
                assert_eq!(*buffer, expected, "{} bytes among {count} chains", payload.len());
                decrypt(&cipher, iv, buffer);
                assert_eq!(unpadded_size(buffer), Ok(payload.len()));
                assert_eq!(&buffer[..payload.len()], &payload[..]);
            }
        }
    }

    #[test]
    fn wrong_padding_is_found() {
        for buffer in [&[][..], &[0; 16], &[17; 32], &[1, 2, 3, 3], &[4, 4, 3]] {
            let found = unpadded_size(buffer);
            assert_eq!(found, Err(Error::Padding), "{buffer:?}");
        }
        assert_eq!(unpadded_size(&[9, 2, 2]), Ok(1));
    }
}
