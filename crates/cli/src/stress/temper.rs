//! What the threads like to do to a VM, each VM in its own way.
//!
//! Calls that are drawn alike for all VMs make all lives alike: every vCPU is there long before the TD is
//! finalized, and what a call meets is what is common. So each VM has some calls more often and some
//! hardly ever (swarm testing: Groce and others, ISSTA 2012), and a life of its own length.

use super::ops::OPS;
use super::world::Stage;

/// How often a call is made, in quarters of what is usual.
const QUARTERS: [u32; 6] = [0, 1, 4, 4, 16, 64];
/// As often as usual.
const USUAL: u32 = 4;

/// The ways of one VM.
#[derive(Debug)]
pub struct Temper {
    /// For each operation, in quarters of its weight.
    often: Vec<u32>,
    /// Calls that it sees before it is finalized on purpose.
    pub youth: u64,
    /// Calls that it sees before it is closed on purpose.
    pub life: u64,
    /// Ids that its vCPUs may have.
    pub vcpus: u32,
}

impl Temper {
    /// Any, of a machine that gives each VM so many vCPUs. Every other VM is treated as usual, so that
    /// enough of them come far.
    pub fn draw(rng: &mut fastrand::Rng, vcpus: u32) -> Temper {
        let odd = rng.bool();
        let mut factor = || match odd {
            true => QUARTERS[rng.usize(..QUARTERS.len())],
            false => USUAL,
        };
        Temper {
            often: OPS.iter().map(|_| factor()).collect(),
            youth: 1 << rng.u32(..9),
            life: 1 << rng.u32(7..11),
            vcpus: rng.u32(1..=vcpus),
        }
    }

    /// Draws an operation for a VM in this stage.
    pub fn choose(&self, rng: &mut fastrand::Rng, stage: Stage) -> usize {
        let weight = |i: usize| OPS[i].weight(stage) * self.often[i].max(OPS[i].least(stage));
        let total: u32 = (0..OPS.len()).map(weight).sum();
        let mut left = rng.u32(..total);
        for i in 0..OPS.len() {
            match left.checked_sub(weight(i)) {
                Some(rest) => left = rest,
                None => return i,
            }
        }
        0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drawn(temper: &Temper, stage: Stage) -> usize {
        let mut rng = fastrand::Rng::with_seed(1);
        let all = (0..10_000).map(|_| temper.choose(&mut rng, stage));
        all.collect::<std::collections::BTreeSet<_>>().len()
    }

    #[test]
    fn every_other_vm_leaves_calls_out_and_none_gets_stuck() {
        let mut rng = fastrand::Rng::with_seed(1);
        let tempers: Vec<_> = (0..64).map(|_| Temper::draw(&mut rng, 4)).collect();
        let kinds: Vec<_> = tempers.iter().map(|t| drawn(t, Stage::Building)).collect();
        let most = kinds.iter().max().expect("some");
        let odd = kinds.iter().filter(|kinds| *kinds < most).count();
        assert!((16..=48).contains(&odd), "{odd} of 64");
        let first = |temper: &Temper| {
            let mut rng = fastrand::Rng::with_seed(1);
            (0..10_000)
                .any(|_| OPS[temper.choose(&mut rng, Stage::Empty)].name == "KVM_TDX_INIT_VM")
        };
        assert!(tempers.iter().all(first), "every TD is initialised");
    }
}
