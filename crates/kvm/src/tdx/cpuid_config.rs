//! The CPUID leaves that TD_PARAMS configures, as KVM shows them.

use seamlock_tdx_abi::kvm::KvmCpuidEntry2;

use crate::host::{CpuidConfig, Host};

/// The subleaf of a leaf that has none, as the module reports it.
const NO_SUBLEAF: u32 = u32::MAX;
/// CPUID 7.0 EBX: HLE and RTM.
const TSX: u32 = 1 << 4 | 1 << 11;
/// CPUID 7.0 ECX: WAITPKG.
const WAITPKG: u32 = 1 << 5;
/// CPUID 0x80000008 EAX 23:16: guest physical address bits.
const GUEST_PHYS_BITS: u32 = 0xff << 16;
/// The leaf of physical address widths.
pub(super) const ADDRESS_SIZES: u32 = 0x8000_0008;

/// CPUID 0x80000008 EAX with the guest's address width set.
pub(super) fn set_guest_phys_addr_bits(eax: u32, bits: u32) -> u32 {
    eax & !GUEST_PHYS_BITS | (bits & 0xff) << 16
}

/// The guest's address width in CPUID 0x80000008 EAX.
pub(super) fn guest_phys_addr_bits(eax: u32) -> u32 {
    (eax & GUEST_PHYS_BITS) >> 16
}

/// Whether an entry has a feature that KVM does not support in TDs (`tdx_unsupported_cpuid`).
pub(super) fn is_unsupported(entry: &KvmCpuidEntry2) -> bool {
    entry.function == 7 && entry.index == 0 && (entry.ebx & TSX != 0 || entry.ecx & WAITPKG != 0)
}

/// `td_init_cpuid_entry2`: the configurable bits of one leaf.
pub(super) fn entry(config: &CpuidConfig) -> KvmCpuidEntry2 {
    let mut entry = KvmCpuidEntry2 {
        function: config.leaf as u32,
        index: (config.leaf >> 32) as u32,
        eax: config.values[0] as u32,
        ebx: (config.values[0] >> 32) as u32,
        ecx: config.values[1] as u32,
        edx: (config.values[1] >> 32) as u32,
        ..KvmCpuidEntry2::default()
    };
    if entry.index == NO_SUBLEAF {
        entry.index = 0;
    }
    if entry.function == ADDRESS_SIZES {
        // Not the module's to configure, but how user space chooses the GPA width.
        entry.eax = set_guest_phys_addr_bits(entry.eax, 0xff);
    }
    if entry.function == 7 && entry.index == 0 {
        entry.ebx &= !TSX;
        entry.ecx &= !WAITPKG;
    }
    entry
}

/// All of them, in the module's order.
pub(super) fn entries(host: &Host) -> Vec<KvmCpuidEntry2> {
    host.sysinfo().cpuid_config.iter().map(entry).collect()
}
