//! AES-256-CBC with PKCS#7, many independent chains side by side.
//!
//! One CBC chain is serial: each block waits for the one before it, at about 0.9 GB/s. Frames are
//! chains of their own, so [`encrypt_lanes`] steps eight of them together through the processor's
//! AES pipeline. The output is plain CBC: equal bit for bit to the `cbc` crate's (tested).

use aes::Aes256;
use aes::cipher::{Array, Block, BlockCipherEncrypt as _, BlockModeDecrypt as _, InnerIvInit as _};

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

/// A chain under way in a lane: what is left of it.
struct Lane<'a> {
    rest: std::slice::IterMut<'a, [u8; IV_SIZE]>,
}

/// Encrypts every chain in place. Lanes are refilled as chains end, the longest first, so that
/// chains of different lengths keep the pipeline full.
pub fn encrypt_lanes(cipher: &Aes256, mut chains: Vec<Chain<'_>>) {
    chains.sort_unstable_by_key(|chain| chain.buffer.len());
    let mut state: [Block<Aes256>; LANES] = [Array([0; IV_SIZE]); LANES];
    let mut lanes: [Option<Lane<'_>>; LANES] = [const { None }; LANES];
    loop {
        // Every empty lane takes the longest chain that is left.
        for (lane, state) in lanes.iter_mut().zip(&mut state) {
            if lane.is_none()
                && let Some(chain) = chains.pop()
            {
                *state = Array(chain.iv);
                let (blocks, _) = chain.buffer.as_chunks_mut::<IV_SIZE>();
                *lane = Some(Lane { rest: blocks.iter_mut() });
            }
        }
        let steps = lanes.iter().flatten().map(|lane| lane.rest.len()).min();
        let Some(steps) = steps else { return };
        if let [Some(a), Some(b), Some(c), Some(d), Some(e), Some(f), Some(g), Some(h)] = &mut lanes
        {
            step_all(cipher, &mut state, [a, b, c, d, e, f, g, h], steps);
        } else {
            step_some(cipher, &mut state, &mut lanes, steps);
        }
        for lane in &mut lanes {
            if lane.as_ref().is_some_and(|lane| lane.rest.len() == 0) {
                *lane = None;
            }
        }
    }
}

fn step_all(
    cipher: &Aes256,
    state: &mut [Block<Aes256>; LANES],
    mut lanes: [&mut Lane<'_>; LANES],
    steps: usize,
) {
    for _ in 0..steps {
        let mut targets: [Option<&mut [u8; IV_SIZE]>; LANES] = [const { None }; LANES];
        for ((target, lane), state) in targets.iter_mut().zip(&mut lanes).zip(state.iter_mut()) {
            if let Some(block) = lane.rest.next() {
                xor(&mut state.0, block);
                *target = Some(block);
            }
        }
        cipher.encrypt_blocks(state);
        for (target, state) in targets.into_iter().zip(state.iter()) {
            if let Some(block) = target {
                *block = state.0;
            }
        }
    }
}

fn step_some(
    cipher: &Aes256,
    state: &mut [Block<Aes256>; LANES],
    lanes: &mut [Option<Lane<'_>>; LANES],
    steps: usize,
) {
    for _ in 0..steps {
        for (lane, state) in lanes.iter_mut().zip(state.iter_mut()) {
            if let Some(block) = lane.as_mut().and_then(|lane| lane.rest.next()) {
                xor(&mut state.0, block);
                cipher.encrypt_block(state);
                *block = state.0;
            }
        }
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
