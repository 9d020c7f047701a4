//! What a guest's processor has: features that both its CPUID and KVM have (`guest_cpu_cap_has`).

use seamlock_tdx_abi::kvm::KvmCpuidEntry2;

use crate::host::Host;
use crate::ioctl::{supported, supported_xcr0, supported_xss};

/// Leaf, subleaf, register (0 for EAX) and bit of a feature.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Feature(u32, u32, usize, u32);

impl Feature {
    pub(crate) const PCID: Feature = Feature(1, 0, 2, 17);
    pub(crate) const VMX: Feature = Feature(1, 0, 2, 5);
    pub(crate) const X2APIC: Feature = Feature(1, 0, 2, 21);
    pub(crate) const XSAVE: Feature = Feature(1, 0, 2, 26);
    pub(crate) const FSGSBASE: Feature = Feature(7, 0, 1, 0);
    pub(crate) const SMEP: Feature = Feature(7, 0, 1, 7);
    pub(crate) const SMAP: Feature = Feature(7, 0, 1, 20);
    pub(crate) const UMIP: Feature = Feature(7, 0, 2, 2);
    pub(crate) const PKU: Feature = Feature(7, 0, 2, 3);
    pub(crate) const SHSTK: Feature = Feature(7, 0, 2, 7);
    pub(crate) const LA57: Feature = Feature(7, 0, 2, 16);
    pub(crate) const IBT: Feature = Feature(7, 0, 3, 20);
    pub(crate) const ARCH_CAPABILITIES: Feature = Feature(7, 0, 3, 29);
    pub(crate) const LAM: Feature = Feature(7, 1, 0, 26);
    pub(crate) const XSAVES: Feature = Feature(0xd, 1, 0, 3);
    pub(crate) const NX: Feature = Feature(0x8000_0001, 0, 3, 20);
    pub(crate) const LM: Feature = Feature(0x8000_0001, 0, 3, 29);

    fn is_in(self, entries: &[KvmCpuidEntry2]) -> bool {
        let Feature(function, index, register, bit) = self;
        let entry = entries
            .iter()
            .find(|e| e.function == function && e.index == index);
        entry.is_some_and(|e| [e.eax, e.ebx, e.ecx, e.edx][register] >> bit & 1 == 1)
    }
}

/// The features of one vCPU.
#[derive(Debug)]
pub(crate) struct Caps<'a> {
    guest: &'a [KvmCpuidEntry2],
    kvm: Vec<KvmCpuidEntry2>,
    xcr0: u64,
    xss: u64,
}

impl<'a> Caps<'a> {
    pub(crate) fn new(host: &Host, guest: &'a [KvmCpuidEntry2]) -> Caps<'a> {
        Caps {
            guest,
            kvm: supported(host.module().platform()),
            xcr0: supported_xcr0(host),
            xss: supported_xss(host),
        }
    }

    /// `guest_cpu_cap_has`.
    pub(crate) fn has(&self, feature: Feature) -> bool {
        feature.is_in(self.guest) && feature.is_in(&self.kvm)
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
