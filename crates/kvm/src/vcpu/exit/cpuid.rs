//! CPUID, as the vCPU's KVM_SET_CPUID2 says (`kvm_cpuid`).

use seamlock_tdx_abi::kvm::{KVM_CPUID_FLAG_SIGNIFCANT_INDEX, KvmCpuidEntry2};

use super::{Exit, Handling};

const EXTENDED: u32 = 0x8000_0000;
const HYPERVISOR: u32 = 0x4000_0000;
const CENTAUR: u32 = 0xc000_0000;

impl Handling<'_> {
    /// `tdx_emulate_cpuid`: leaf in R12, subleaf in R13; the answer in R12 to R15.
    pub(super) fn emulate_cpuid(&mut self) -> Exit {
        let (leaf, subleaf) = (self.regs.r12 as u32, self.regs.r13 as u32);
        let [a, b, c, d] = self
            .vcpu
            .state
            .with(|state| cpuid(&state.cpuid, leaf, subleaf));
        let r = &mut self.regs;
        (r.r12, r.r13, r.r14, r.r15) = (a.into(), b.into(), c.into(), d.into());
        Exit::Again
    }
}

fn find(table: &[KvmCpuidEntry2], leaf: u32, subleaf: u32) -> Option<&KvmCpuidEntry2> {
    table.iter().find(|e| {
        let significant = e.flags & KVM_CPUID_FLAG_SIGNIFCANT_INDEX != 0;
        e.function == leaf && (!significant || e.index == subleaf)
    })
}

/// `kvm_cpuid`. A leaf beyond the last one of its class reads as the last basic one, as on Intel's
/// processors; a missing subleaf of a topology leaf tells the subleaf and the x2APIC id.
fn cpuid(table: &[KvmCpuidEntry2], leaf: u32, subleaf: u32) -> [u32; 4] {
    let leaf = if find(table, leaf, subleaf).is_none() && is_out_of_range(table, leaf) {
        find(table, 0, 0).map_or(leaf, |basic| basic.eax)
    } else {
        leaf
    };
    if let Some(e) = find(table, leaf, subleaf) {
        return [e.eax, e.ebx, e.ecx, e.edx];
    }
    match find(table, leaf, 1) {
        Some(entry) if matches!(leaf, 0xb | 0x1f) => [0, 0, subleaf & 0xff, entry.edx],
        _ => [0; 4],
    }
}

/// Whether `get_out_of_range_cpuid_entry` looks elsewhere. AMD's and Hygon's processors answer zeros.
fn is_out_of_range(table: &[KvmCpuidEntry2], leaf: u32) -> bool {
    let Some(basic) = find(table, 0, 0) else {
        return false;
    };
    if [*b"Auth", *b"Hygo"].contains(&basic.ebx.to_le_bytes()) {
        return false;
    }
    let class = match leaf {
        HYPERVISOR..=0x4fff_ffff => leaf & 0xffff_ff00,
        CENTAUR.. => CENTAUR,
        _ => leaf & EXTENDED,
    };
    find(table, class, 0).is_none_or(|class| leaf > class.eax)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(function: u32, index: Option<u32>, regs: [u32; 4]) -> KvmCpuidEntry2 {
        let flags = index.map_or(0, |_| KVM_CPUID_FLAG_SIGNIFCANT_INDEX);
        let [eax, ebx, ecx, edx] = regs;
        let index = index.unwrap_or(0);
        KvmCpuidEntry2 {
            function,
            index,
            flags,
            eax,
            ebx,
            ecx,
            edx,
            padding: [0; 3],
        }
    }

    #[test]
    fn leaves_beyond_the_last_read_as_the_last_one_on_intel() {
        let genu = u32::from_le_bytes(*b"Genu");
        let table = [
            entry(0, None, [0x1f, genu, 0, 0]),
            entry(0x1f, Some(0), [1, 2, 0x100, 9]),
            entry(0x1f, Some(1), [4, 8, 0x201, 9]),
            entry(0x8000_0000, None, [0x8000_0008, 0, 0, 0]),
        ];
        assert_eq!(cpuid(&table, 0x20, 1), [4, 8, 0x201, 9]);
        assert_eq!(cpuid(&table, 0x1f, 1), [4, 8, 0x201, 9]);
        assert_eq!(cpuid(&table, 0x1f, 7), [0, 0, 7, 9]);
        assert_eq!(cpuid(&table, 7, 0), [0; 4]);
        assert_eq!(cpuid(&table, 0x8000_0001, 0), [0; 4]);
        assert_eq!(cpuid(&table, 0x8000_0009, 0), [1, 2, 0x100, 9]);
        assert_eq!(cpuid(&[], 0, 0), [0; 4]);
    }
}
