//! Vector clocks over the threads of a scenario.

/// The most threads that a scenario may have.
pub const MAX_THREADS: usize = 15;

const LANES: usize = MAX_THREADS + 1;

/// For every thread, how many of its operations happen before this point.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Clock([u16; LANES]);

impl Clock {
    /// The operations of `thread` that are known here.
    #[inline]
    pub(crate) fn at(&self, thread: u8) -> u16 {
        self.0[usize::from(thread) % LANES]
    }

    /// Counts one more operation of `thread` and returns its number, the first being 1.
    #[inline]
    pub(crate) fn tick(&mut self, thread: u8) -> u16 {
        let lane = &mut self.0[usize::from(thread) % LANES];
        *lane += 1;
        *lane
    }

    /// Learns all that `other` knows.
    #[inline]
    pub(crate) fn join(&mut self, other: &Clock) {
        for (mine, theirs) in self.0.iter_mut().zip(&other.0) {
            *mine = (*mine).max(*theirs);
        }
    }

    /// A number that differs for different clocks, for trace hashes.
    #[inline]
    pub(crate) fn digest(&self, seed: u64) -> u64 {
        let mut hash = seed;
        for four in self.0.chunks_exact(4) {
            let word = four
                .iter()
                .fold(0, |word, lane| word << 16 | u64::from(*lane));
            hash = mix(hash ^ word);
        }
        hash
    }
}

/// Spreads the bits of a word (the finaliser of splitmix64).
#[inline]
pub(crate) fn mix(word: u64) -> u64 {
    let a = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let b = (a ^ (a >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    b ^ (b >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_join_knows_what_either_side_knew() {
        let (mut a, mut b) = (Clock::default(), Clock::default());
        assert_eq!(a.tick(0), 1);
        assert_eq!(a.tick(0), 2);
        assert_eq!(b.tick(3), 1);
        a.join(&b);
        assert_eq!((a.at(0), a.at(3), a.at(1)), (2, 1, 0));
        assert_ne!(a.digest(0), b.digest(0));
    }
}
