//! What a guest's processor has: features that both its CPUID and KVM have (`guest_cpu_cap_has`).

use std::cell::OnceCell;

use seamlock_tdx_abi::kvm::KvmCpuidEntry2;
use seamlock_tdx_module::Platform;

use crate::host::Host;
use crate::ioctl::{supported, supported_xcr0, supported_xss};

/// Leaf, subleaf, register (0 for EAX) and bit of a feature.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Feature(u32, u32, usize, u32);

impl Feature {
    pub(crate) const XMM3: Feature = Feature(1, 0, 2, 0);
    pub(crate) const DTES64: Feature = Feature(1, 0, 2, 2);
    pub(crate) const VMX: Feature = Feature(1, 0, 2, 5);
    pub(crate) const SMX: Feature = Feature(1, 0, 2, 6);
    pub(crate) const PDCM: Feature = Feature(1, 0, 2, 15);
    pub(crate) const PCID: Feature = Feature(1, 0, 2, 17);
    pub(crate) const X2APIC: Feature = Feature(1, 0, 2, 21);
    pub(crate) const XSAVE: Feature = Feature(1, 0, 2, 26);
    pub(crate) const RDRAND: Feature = Feature(1, 0, 2, 30);
    pub(crate) const VME: Feature = Feature(1, 0, 3, 1);
    pub(crate) const DE: Feature = Feature(1, 0, 3, 2);
    pub(crate) const PSE: Feature = Feature(1, 0, 3, 3);
    pub(crate) const TSC: Feature = Feature(1, 0, 3, 4);
    pub(crate) const PAE: Feature = Feature(1, 0, 3, 6);
    pub(crate) const MCE: Feature = Feature(1, 0, 3, 7);
    pub(crate) const PGE: Feature = Feature(1, 0, 3, 13);
    pub(crate) const DS: Feature = Feature(1, 0, 3, 21);
    pub(crate) const FXSR: Feature = Feature(1, 0, 3, 24);
    pub(crate) const XMM: Feature = Feature(1, 0, 3, 25);
    pub(crate) const FSGSBASE: Feature = Feature(7, 0, 1, 0);
    pub(crate) const TSC_ADJUST: Feature = Feature(7, 0, 1, 1);
    pub(crate) const SMEP: Feature = Feature(7, 0, 1, 7);
    pub(crate) const INVPCID: Feature = Feature(7, 0, 1, 10);
    pub(crate) const RTM: Feature = Feature(7, 0, 1, 11);
    pub(crate) const RDSEED: Feature = Feature(7, 0, 1, 18);
    pub(crate) const SMAP: Feature = Feature(7, 0, 1, 20);
    pub(crate) const UMIP: Feature = Feature(7, 0, 2, 2);
    pub(crate) const PKU: Feature = Feature(7, 0, 2, 3);
    pub(crate) const WAITPKG: Feature = Feature(7, 0, 2, 5);
    pub(crate) const SHSTK: Feature = Feature(7, 0, 2, 7);
    pub(crate) const LA57: Feature = Feature(7, 0, 2, 16);
    pub(crate) const RDPID: Feature = Feature(7, 0, 2, 22);
    pub(crate) const BUS_LOCK: Feature = Feature(7, 0, 2, 24);
    pub(crate) const PKS: Feature = Feature(7, 0, 2, 31);
    pub(crate) const UINTR: Feature = Feature(7, 0, 3, 5);
    pub(crate) const IBT: Feature = Feature(7, 0, 3, 20);
    pub(crate) const ARCH_CAPABILITIES: Feature = Feature(7, 0, 3, 29);
    pub(crate) const LAM: Feature = Feature(7, 1, 0, 26);
    pub(crate) const XSAVES: Feature = Feature(0xd, 1, 0, 3);
    pub(crate) const XFD: Feature = Feature(0xd, 1, 0, 4);
    pub(crate) const NX: Feature = Feature(0x8000_0001, 0, 3, 20);
    pub(crate) const RDTSCP: Feature = Feature(0x8000_0001, 0, 3, 27);
    pub(crate) const LM: Feature = Feature(0x8000_0001, 0, 3, 29);
}

/// Whether CPUID has a feature.
pub(crate) fn is_in(cpuid: &[KvmCpuidEntry2], feature: Feature) -> bool {
    let Feature(function, index, register, bit) = feature;
    let entry = cpuid
        .iter()
        .find(|e| e.function == function && e.index == index);
    entry.is_some_and(|e| [e.eax, e.ebx, e.ecx, e.edx][register] >> bit & 1 == 1)
}

/// The features of one vCPU.
#[derive(Debug)]
pub(crate) struct Caps<'a> {
    guest: &'a [KvmCpuidEntry2],
    platform: &'a Platform,
    /// What KVM supports, once it is asked for.
    kvm: OnceCell<Vec<KvmCpuidEntry2>>,
    xcr0: u64,
    xss: u64,
}

impl<'a> Caps<'a> {
    pub(crate) fn new(host: &'a Host, guest: &'a [KvmCpuidEntry2]) -> Caps<'a> {
        Caps {
            guest,
            platform: host.module().platform(),
            kvm: OnceCell::new(),
            xcr0: supported_xcr0(host),
            xss: supported_xss(host),
        }
    }

    /// `guest_cpu_cap_has`.
    pub(crate) fn has(&self, feature: Feature) -> bool {
        let kvm = || self.kvm.get_or_init(|| supported(self.platform));
        is_in(self.guest, feature) && is_in(kvm(), feature)
    }

    /// The guest's CPUID.
    pub(crate) fn guest(&self) -> &[KvmCpuidEntry2] {
        self.guest
    }

    /// The machine's processor.
    pub(crate) fn platform(&self) -> &Platform {
        self.platform
    }

    fn xstate(&self, index: u32, low: fn(&KvmCpuidEntry2) -> u32) -> u64 {
        let entry = self
            .guest
            .iter()
            .find(|e| e.function == 0xd && e.index == index);
        entry.map_or(0, |e| u64::from(low(e)) | u64::from(e.edx) << 32)
    }

    /// `cpuid_get_supported_xcr0`.
    pub(crate) fn xcr0(&self) -> u64 {
        self.xstate(0, |e| e.eax) & self.xcr0
    }

    /// `cpuid_get_supported_xss`.
    pub(crate) fn xss(&self) -> u64 {
        self.xstate(1, |e| e.ecx) & self.xss
    }
}
