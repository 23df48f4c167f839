//! Randomness as a value: the host seeds it, every decision replays from the seed.

use sha2::{Digest, Sha256};

/// A generator of two strengths: [`Random::secret`] for bytes that a client must not be able to
/// guess, [`Random::below`] for chances.
pub struct Random {
    key: [u8; 32],
    counter: u64,
    state: u64,
}

impl Random {
    /// Returns a generator. In production the seed must come from the operating system.
    pub fn new(seed: [u8; 32]) -> Self {
        let mut state = [0u8; 8];
        state.copy_from_slice(&seed[..8]);
        Random { key: seed, counter: 0, state: u64::from_le_bytes(state) }
    }

    /// Returns 16 bytes that can't be guessed from other results: SHA-256 of the seed and a
    /// counter.
    pub fn secret(&mut self) -> [u8; 16] {
        self.counter += 1;
        let hash = Sha256::new().chain_update(self.key).chain_update(self.counter.to_le_bytes()).finalize();
        let mut out = [0u8; 16];
        out.copy_from_slice(&hash[..16]);
        out
    }

    /// Returns a number in `0..n`, for chances (SplitMix64; the bias for n ≤ 10⁶ is below 10⁻¹³).
    pub fn below(&mut self, n: u32) -> u32 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^= z >> 31;
        ((u128::from(z) * u128::from(n)) >> 64) as u32
    }

    /// Returns true with a chance of `per_million` in a million. A certain result draws no number.
    pub fn chance(&mut self, per_million: u32) -> bool {
        match per_million {
            0 => false,
            1_000_000.. => true,
            p => self.below(1_000_000) < p,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn odds_and_secrets() {
        let mut random = Random::new([7; 32]);
        let hits = (0..100_000).filter(|_| random.chance(250_000)).count();
        assert!((24_000..26_000).contains(&hits), "{hits}");
        assert!((0..1000).all(|_| random.below(3) < 3));
        assert_ne!(random.secret(), random.secret());
        assert_eq!(Random::new([1; 32]).secret(), Random::new([1; 32]).secret());
        assert!(random.chance(1_000_000) && !random.chance(0));
    }
}
