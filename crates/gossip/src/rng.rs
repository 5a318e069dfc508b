//! The only randomness: a stream derived from the seed that the program gives once.

/// SplitMix64 (Steele, Lea, Flood 2014). Not for secrets; keys and sealing do not use it.
#[derive(Debug, Clone)]
pub(crate) struct Rng(u64);

impl Rng {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn next_u32(&mut self) -> u32 {
        (self.next_u64() >> 32) as u32
    }

    /// A number below `bound`; 0 when `bound` is 0.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        ((u128::from(self.next_u64()) * bound as u128) >> 64) as usize
    }

    /// `base` stretched or shortened by up to a tenth, so that members do not march in step.
    pub(crate) fn jitter(&mut self, base: std::time::Duration) -> std::time::Duration {
        let tenth = base.as_nanos() as u64 / 10;
        let offset = self.below(2 * tenth as usize + 1) as u64;
        base + std::time::Duration::from_nanos(offset) - std::time::Duration::from_nanos(tenth)
    }
}
