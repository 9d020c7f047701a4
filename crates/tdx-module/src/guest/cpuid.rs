//! CPUID in a guest: the values that MNG.INIT computed, with what is only known now, or #VE.
//!
//! Source: TDX module 1.5, `td_cpuid.c`; ABI specification "CPUID Virtualization".

use crate::Module;
use crate::cpuid::{ENTRIES, Value, lookup};
use crate::guest::{CpuState, Exception, VeInfo};
use crate::platform::Platform;
use crate::td_exit::Inside;

/// VMX exit reason of CPUID.
const CPUID: u32 = 10;
/// Bytes of a CPUID instruction.
const CPUID_LENGTH: u32 = 2;
/// Leaves of hypervisors: never clamped, and never known.
const HYPERVISOR_LEAVES: std::ops::RangeInclusive<u32> = 0x4000_0000..=0x4fff_ffff;
const FIRST_EXTENDED_LEAF: u32 = 0x8000_0000;
/// TD_CTLS: the guest wants leaves 0xB and 0x1F.
const ENUM_TOPOLOGY: u64 = 1 << 1;
/// TD_CTLS: the guest wants leaf 2.
const VIRT_CPUID2: u64 = 1 << 2;
/// CPUID_CONTROL of a leaf.
const SUPERVISOR_VE: u8 = 1;
const USER_VE: u8 = 2;
/// Leaf 1 ECX: CR4.OSXSAVE.
const OSXSAVE: u32 = 1 << 27;
/// Leaf 7 ECX: CR4.PKE.
const OSPKE: u32 = 1 << 4;
/// Leaf 0x80000001 EDX: SYSCALL works.
const SYSCALL: u32 = 1 << 11;

impl Module {
    /// CPUID of the guest on `lp`: EAX, EBX, ECX and EDX for a leaf and a subleaf. The processor
    /// has stored its state before.
    ///
    /// # Errors
    /// The exception that the guest takes instead: #VE for leaves that the module does not know or
    /// the guest does not want, #DF when the last #VE is unread; #GP when no guest runs on `lp`.
    pub fn guest_cpuid(&self, lp: u32, leaf: u32, subleaf: u32) -> Result<Value, Exception> {
        let at = self.inside(lp).ok_or(Exception::GeneralProtection)?;
        at.cpuid(leaf, subleaf).ok_or_else(|| {
            let info = VeInfo {
                reason: CPUID,
                instruction_length: CPUID_LENGTH,
                ..VeInfo::default()
            };
            at.vp.guest.with(|guest| guest.raise_ve(info))
        })
    }
}

impl Inside<'_> {
    /// None: #VE.
    fn cpuid(&self, leaf: u32, subleaf: u32) -> Option<Value> {
        let (leaf, index, value, td_ctls) = self.td.config.with(|config| {
            let value = |leaf, subleaf| {
                let index = lookup(leaf, subleaf)?;
                Some((index, *config.cpuid.get(index)?))
            };
            let last = |leaf| value(leaf, 0).map_or(leaf, |(_, value)| value[0]);
            let leaf = clamped(leaf, last(0), last(FIRST_EXTENDED_LEAF));
            let (index, value) = value(leaf, subleaf)?;
            Some((leaf, index, value, config.td_ctls))
        })?;
        let wanted = match leaf {
            0x2 => td_ctls & VIRT_CPUID2 != 0,
            0xb | 0x1f => td_ctls & ENUM_TOPOLOGY != 0,
            _ => true,
        };
        let (cpu, x2apic_id, ve) = self.vp.guest.with(|guest| {
            let user = guest.cpu.cpl() > 0;
            let control = guest.cpuid_control[index];
            let ve = if user {
                guest.cpuid_user_ve || control & USER_VE != 0
            } else {
                guest.cpuid_supervisor_ve || control & SUPERVISOR_VE != 0
            };
            (guest.cpu, guest.x2apic_id, ve)
        });
        if ENTRIES[index].faulting || !wanted || ve {
            return None;
        }
        let platform = &self.m.platform;
        Some(dynamic(platform, (leaf, subleaf), value, &cpu, x2apic_id))
    }
}

/// A leaf above the last of its range is treated as the last basic one.
fn clamped(leaf: u32, last_basic: u32, last_extended: u32) -> u32 {
    let between = leaf > last_basic && leaf < FIRST_EXTENDED_LEAF;
    if !HYPERVISOR_LEAVES.contains(&leaf) && (between || leaf > last_extended) {
        last_basic
    } else {
        leaf
    }
}

/// Fills in what depends on the vCPU and on its registers.
fn dynamic(
    platform: &Platform,
    (leaf, subleaf): (u32, u32),
    mut value: Value,
    cpu: &CpuState,
    x2apic_id: u32,
) -> Value {
    let set = |word: &mut u32, bit: u32, on: bool| {
        *word = if on { *word | bit } else { *word & !bit };
    };
    match (leaf, subleaf) {
        (0x1, _) => {
            value[1] = value[1] & 0x00ff_ffff | x2apic_id << 24;
            set(&mut value[2], OSXSAVE, cpu.cr4 >> 18 & 1 != 0);
        }
        (0x7, 0) => set(&mut value[2], OSPKE, cpu.cr4 >> 22 & 1 != 0),
        (0xb | 0x1f, _) => value[3] = x2apic_id,
        (0xd, 0) => value[1] = platform.xsave_size(cpu.xcr0),
        (0xd, 1) => value[1] = platform.xsave_layout(cpu.xcr0 | cpu.xss).size,
        (0x8000_0001, _) => set(&mut value[3], SYSCALL, cpu.is_64_bit()),
        _ => {}
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leaves_beyond_a_range_become_the_last_basic_one_but_not_those_of_hypervisors() {
        let clamp = |leaf| clamped(leaf, 0x23, 0x8000_0008);
        assert_eq!((clamp(0x24), clamp(0x3fff_ffff)), (0x23, 0x23));
        assert_eq!((clamp(0x8000_0009), clamp(0xffff_ffff)), (0x23, 0x23));
        for kept in [0, 0x23, 0x4000_0000, 0x4fff_ffff, 0x8000_0000, 0x8000_0008] {
            assert_eq!(clamp(kept), kept);
        }
        assert_eq!(clamp(0x5000_0000), 0x23);
    }
}
