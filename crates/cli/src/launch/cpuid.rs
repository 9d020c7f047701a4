//! The CPUID that a TD and its vCPUs are given.

use seamlock_tdx_abi::kvm::{KVM_CPUID_FLAG_SIGNIFCANT_INDEX, KvmCpuidEntry2};

/// CPUID leaf with the address widths; its EAX bits 23:16 choose GPAW.
const ADDRESS_LEAF: u32 = 0x8000_0008;
/// Guest physical address width asked for.
const GPA_BITS: u32 = 48;
/// CPUID leaf 1 ECX: x2APIC, which KVM_TDX_INIT_VCPU needs.
const X2APIC: u32 = 1 << 21;

/// A configurable CPUID leaf, with what KVM supports of it; GPAW is ours to choose.
pub(super) fn configure(entry: &KvmCpuidEntry2, supported: &[KvmCpuidEntry2]) -> KvmCpuidEntry2 {
    let same = |s: &&KvmCpuidEntry2| s.function == entry.function && s.index == entry.index;
    let have = supported.iter().find(same).copied().unwrap_or_default();
    let mut chosen = *entry;
    // Without the flag KVM takes the entry for any subleaf of its leaf.
    chosen.flags = KVM_CPUID_FLAG_SIGNIFCANT_INDEX;
    chosen.eax &= have.eax;
    chosen.ebx &= have.ebx;
    chosen.ecx &= have.ecx;
    chosen.edx &= have.edx;
    if entry.function == ADDRESS_LEAF {
        chosen.eax = with_gpa_bits(chosen.eax);
    }
    chosen
}

/// The address leaf's EAX with our width of guest addresses.
fn with_gpa_bits(eax: u32) -> u32 {
    eax & !(0xff << 16) | GPA_BITS << 16
}

/// The CPUID of a vCPU: all that KVM supports, with the x2APIC and the APIC's id.
pub(super) fn of_vcpu(supported: &[KvmCpuidEntry2], index: u32) -> Vec<KvmCpuidEntry2> {
    let mut cpuid = supported.to_vec();
    for entry in &mut cpuid {
        match entry.function {
            1 => {
                entry.ecx |= X2APIC;
                entry.ebx = entry.ebx & 0x00ff_ffff | index << 24;
            }
            // KVM takes the width of the TD's EPT from here; another one than GPAW's bugs the VM.
            ADDRESS_LEAF => entry.eax = with_gpa_bits(entry.eax),
            _ => {}
        }
    }
    cpuid
}
