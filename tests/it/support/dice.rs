//! Small numbers that follow from a seed, which a failed test shows: `PGKEEP_SEED=n` runs it again.

/// xorshift64*.
#[derive(Debug)]
pub struct Dice(u64);

impl Dice {
    /// By the seed that the environment names, or else one that nobody knows before.
    pub fn new() -> Self {
        let chosen = std::env::var("PGKEEP_SEED").ok();
        let chosen = chosen.map(|text| text.parse().expect("PGKEEP_SEED is a number"));
        let time = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        let seed = chosen.unwrap_or(u64::from(time.subsec_nanos()) % 1_000_000);
        eprintln!("PGKEEP_SEED={seed}");
        Self::of(seed)
    }

    /// By this seed.
    pub fn of(seed: u64) -> Self {
        // Small seeds would begin with numbers that are all alike.
        Self(seed.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15))
    }

    /// A number from 0 to `end`, which is not among them.
    pub fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) % end
    }

    /// One of these.
    pub fn one_of<'a, T>(&mut self, choices: &'a [T]) -> &'a T {
        let at = self.below(choices.len() as u64);
        &choices[usize::try_from(at).unwrap()]
    }
}
