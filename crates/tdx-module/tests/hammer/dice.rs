//! Choices made of a step's seed.

/// A small generator: the same seed makes the same choices.
#[derive(Clone, Debug)]
pub struct Dice(u64);

impl Dice {
    /// Starts from a seed.
    pub fn new(seed: u64) -> Dice {
        Dice(seed)
    }

    /// Any 64 bits (splitmix64).
    pub fn word(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    /// Less than `n`; 0 when `n` is 0.
    pub fn below(&mut self, n: usize) -> usize {
        (self.word() >> 11) as usize % n.max(1)
    }

    /// True once in `n`.
    pub fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    /// One of them.
    pub fn of<'a, T>(&mut self, all: &'a [T]) -> Option<&'a T> {
        all.get(self.below(all.len()))
    }

    /// A value that is likely to be on an edge.
    pub fn wild(&mut self) -> u64 {
        let bit = self.below(64);
        match self.below(8) {
            0 => 0,
            1 => u64::MAX,
            2 => 1 << bit,
            3 => (1 << bit) - 1,
            4 => !(1u64 << bit),
            5 => self.word() & 0xffff,
            6 => self.word() & 0x000f_ffff_ffff_f007,
            _ => self.word(),
        }
    }
}
