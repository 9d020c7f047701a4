//! Choices made of a seed.

/// A small generator (splitmix64): the same seed makes the same choices.
#[derive(Clone, Debug)]
pub struct Dice(pub u64);

impl Dice {
    /// Any 64 bits.
    pub fn word(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    /// Less than `n`, which is not 0.
    pub fn below(&mut self, n: usize) -> usize {
        (self.word() >> 11) as usize % n
    }

    /// One of them.
    pub fn of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len())]
    }

    /// A number as arguments have it: small, on an edge, of a page, or any.
    pub fn wild(&mut self) -> u64 {
        let bit = self.below(64);
        match self.below(9) {
            0 => 0,
            1 => u64::MAX,
            2 => 1 << bit,
            3 => (1 << bit) - 1,
            4 => self.word() & 7,
            5 => self.word() & 0xff,
            6 => (self.word() & 0xfff) << 12,
            7 => (self.word() & 0x3f) << 12,
            _ => self.word(),
        }
    }
}
