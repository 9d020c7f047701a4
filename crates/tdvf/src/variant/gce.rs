//! What Google's hypervisor measured before it was corrected: every section, the TD_HOB with a list
//! that depends on the machine type.
//!
//! Source: google/gce-tcb-verifier, `tdx/mrtd_from_ovmf.go` and `ovmf/tdx_data.go` ("TDHOB bug"). The
//! list differs from QEMU's: added ranges come first, in metadata order; what the firmware has to
//! accept itself has an attribute of its own.

use std::fmt;

use crate::hob::{self, RamState, Resource};
use crate::{Section, hob::ATTRIBUTES_RAM};

const GIB: u64 = 1 << 30;
const FOUR_GIB: u64 = 4 * GIB;
/// RAM below the hole for devices.
const LOW_RAM: u64 = 3 * GIB;
/// The bank of the firmware below 4 GiB.
const FIRMWARE_BANK: u64 = 2 << 20;
/// The largest NUMA node.
const NODE: u64 = 176 * GIB;
/// `EFI_RESOURCE_ATTRIBUTE_NEEDS_EARLY_ACCEPT`, Google's.
const NEEDS_EARLY_ACCEPT: u32 = 0x1000_0000;

/// A machine type, and whether its firmware was told to accept all memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct GceMachine {
    /// vCPUs, as in its name: c3-standard-4.
    pub vcpus: u32,
    /// The firmware accepts all memory before the guest runs.
    pub early_accept: bool,
}

impl fmt::Display for GceMachine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let accepts = if self.early_accept {
            ", all memory accepted early"
        } else {
            ""
        };
        write!(f, "c3-standard-{}{accepts}", self.vcpus)
    }
}

impl GceMachine {
    /// All that existed.
    pub fn all() -> impl Iterator<Item = GceMachine> {
        let sizes = [4, 8, 22, 44, 88, 176];
        sizes.into_iter().flat_map(|vcpus| {
            [false, true].map(|early_accept| GceMachine {
                vcpus,
                early_accept,
            })
        })
    }

    /// Its RAM, 4 GiB for each vCPU: first address and end of each bank, ascending.
    fn banks(self) -> Vec<(u64, u64)> {
        let mut banks = vec![(0, LOW_RAM), (FOUR_GIB - FIRMWARE_BANK, FOUR_GIB)];
        let mut left = u64::from(self.vcpus) * 4 * GIB - LOW_RAM;
        let (mut at, mut room) = (FOUR_GIB, NODE - LOW_RAM);
        while left > 0 {
            let size = left.min(room);
            banks.push((at, at + size));
            (at, left, room) = (at + size, left - size, NODE);
        }
        banks
    }

    /// The list of hand-off blocks for an image with these sections. The sections are sound.
    pub fn hob(self, gpa: u64, sections: &[Section]) -> Vec<u8> {
        let kind = RamState::Added.resource_type();
        let added = sections
            .iter()
            .map(|s| (kind, ATTRIBUTES_RAM, s.gpa, s.mem_size));
        let mut resources: Vec<Resource> = added.collect();
        let mut taken: Vec<_> = sections
            .iter()
            .map(|s| (s.gpa, s.gpa + s.mem_size))
            .collect();
        taken.sort_unstable();
        for bank in self.banks() {
            for (from, end) in gaps(bank, &taken) {
                let early = end <= FOUR_GIB || self.early_accept;
                let attributes = ATTRIBUTES_RAM | if early { NEEDS_EARLY_ACCEPT } else { 0 };
                let kind = RamState::Unaccepted.resource_type();
                resources.push((kind, attributes, from, end - from));
            }
        }
        hob::encode(gpa, &resources)
    }
}

/// What `taken`, ascending and disjoint, leaves of a range.
fn gaps((mut at, end): (u64, u64), taken: &[(u64, u64)]) -> Vec<(u64, u64)> {
    let mut gaps = Vec::new();
    for &(from, to) in taken {
        if to <= at || from >= end {
            continue;
        }
        if from > at {
            gaps.push((at, from));
        }
        at = at.max(to);
    }
    if at < end {
        gaps.push((at, end));
    }
    gaps
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn banks_hold_what_the_machine_type_has() {
        for machine in GceMachine::all() {
            let banks = machine.banks();
            let bytes: u64 = banks.iter().map(|(from, to)| to - from).sum();
            let ram = u64::from(machine.vcpus) * 4 * GIB;
            assert_eq!(bytes, ram + FIRMWARE_BANK, "{machine}");
            assert!(banks.is_sorted());
        }
        let banks = |vcpus| {
            GceMachine {
                vcpus,
                early_accept: false,
            }
            .banks()
            .len()
        };
        assert_eq!((banks(4), banks(88), banks(176)), (3, 4, 6));
    }

    #[test]
    fn gaps_are_what_is_left_also_where_a_range_reaches_out() {
        assert_eq!(gaps((10, 20), &[]), [(10, 20)]);
        assert_eq!(
            gaps((10, 20), &[(0, 12), (14, 15), (18, 30)]),
            [(12, 14), (15, 18)]
        );
        assert_eq!(gaps((10, 20), &[(10, 20), (30, 40)]), []);
    }
}
