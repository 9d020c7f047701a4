//! Steps, and where they come from.

/// One thing that a host or a guest does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// Which kind of thing.
    pub kind: u8,
    /// Which logical processor, TD or leaf, as the kind has it.
    pub pick: u8,
    /// A second choice.
    pub other: u16,
    /// Where operands are drawn from.
    pub seed: u32,
}

impl Step {
    /// Bytes of a step.
    pub const BYTES: usize = 8;

    /// All bytes mean something.
    pub fn from_bytes(b: [u8; 8]) -> Step {
        Step {
            kind: b[0],
            pick: b[1],
            other: u16::from_le_bytes([b[2], b[3]]),
            seed: u32::from_le_bytes([b[4], b[5], b[6], b[7]]),
        }
    }

    /// The steps that bytes stand for; what is left of them at the end is dropped.
    pub fn all_from_bytes(bytes: &[u8]) -> impl Iterator<Item = Step> {
        bytes
            .as_chunks::<8>()
            .0
            .iter()
            .copied()
            .map(Step::from_bytes)
    }

    /// The next step of a random sequence.
    pub fn random(rng: &mut fastrand::Rng) -> Step {
        Step::from_bytes(rng.u64(..).to_le_bytes())
    }
}
