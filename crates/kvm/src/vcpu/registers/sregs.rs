//! Control registers, EFER, XCR0 and segments: what a guest may have in them.
//!
//! Source: Linux v7.3.4 `arch/x86/kvm/regs.c`, `arch/x86/kvm/regs.h`, `vmx_get_segment`.

use seamlock_tdx_abi::kvm::{KvmSegment, KvmSregs};

use super::{Caps, Feature, Registers};

const CR0_PE: u64 = 1;
const CR0_NW: u64 = 1 << 29;
const CR0_CD: u64 = 1 << 30;
const CR0_PG: u64 = 1 << 31;
const CR4_PAE: u64 = 1 << 5;
const CR4_OSXSAVE: u64 = 1 << 18;
const CR4_PKE: u64 = 1 << 22;
const EFER_LME: u64 = 1 << 8;
const EFER_LMA: u64 = 1 << 10;
const EFER_NX: u64 = 1 << 11;
/// SCE, LME, LMA and NX: `kvm_caps.supported_efer_bits` on Intel.
pub(super) const EFER_SUPPORTED: u64 = 0xd01;

/// VME, PVI, TSD, DE, PSE, PAE, MCE, PGE, PCE, OSFXSR and OSXMMEXCPT need no feature.
const CR4_ALWAYS: u64 = 0x7ff;
/// Bits of CR4 that need one of these features.
const CR4_BITS: &[(u64, &[Feature])] = &[
    (1 << 11, &[Feature::UMIP]),
    (1 << 12, &[Feature::LA57]),
    (1 << 13, &[Feature::VMX]),
    (1 << 16, &[Feature::FSGSBASE]),
    (1 << 17, &[Feature::PCID]),
    (CR4_OSXSAVE, &[Feature::XSAVE]),
    (1 << 20, &[Feature::SMEP]),
    (1 << 21, &[Feature::SMAP]),
    (CR4_PKE, &[Feature::PKU]),
    (1 << 23, &[Feature::SHSTK, Feature::IBT]),
    (1 << 28, &[Feature::LAM]),
];

const XCR0_FP: u64 = 1;
const XCR0_SSE: u64 = 1 << 1;
const XCR0_YMM: u64 = 1 << 2;
const XCR0_AVX512: u64 = 7 << 5;
const XCR0_BNDREGS: u64 = 1 << 3;
const XCR0_BNDCSR: u64 = 1 << 4;
const XCR0_XTILE: u64 = 3 << 17;

/// `is_pae_paging`, from CR0, CR4 and EFER.
pub(crate) fn pae_paging(sregs: &KvmSregs) -> bool {
    sregs.cr0 & CR0_PG != 0 && sregs.cr4 & CR4_PAE != 0 && sregs.efer & EFER_LMA == 0
}

fn is_valid_cr0(cr0: u64) -> bool {
    cr0 >> 32 == 0
        && (cr0 & CR0_NW == 0 || cr0 & CR0_CD != 0)
        && (cr0 & CR0_PG == 0 || cr0 & CR0_PE != 0)
}

/// A segment as VMX gives it back: what is not present is unusable, and the other way round. With
/// unrestricted guests all but LDTR are marked accessed.
fn segment_as_read(mut segment: KvmSegment, accessed: bool) -> KvmSegment {
    let unusable = segment.unusable != 0 || segment.present == 0;
    (segment.unusable, segment.present) = (unusable.into(), u8::from(!unusable));
    segment.r#type = segment.r#type & 15 | u8::from(accessed);
    segment.dpl &= 3;
    for bit in [
        &mut segment.s,
        &mut segment.avl,
        &mut segment.l,
        &mut segment.db,
        &mut segment.g,
    ] {
        *bit &= 1;
    }
    segment.padding = 0;
    segment
}

impl Caps<'_> {
    fn is_valid_cr4(&self, cr4: u64) -> bool {
        let has = |features: &&[Feature]| features.iter().any(|feature| self.has(*feature));
        let known = CR4_BITS.iter().filter(|(_, features)| has(features));
        let allowed = known.fold(CR4_ALWAYS, |all, (bit, _)| all | bit);
        cr4 & !allowed == 0
    }

    /// `kvm_valid_efer`.
    fn is_valid_efer(&self, efer: u64) -> bool {
        efer & !EFER_SUPPORTED == 0
            && (efer & (EFER_LME | EFER_LMA) == 0 || self.has(Feature::LM))
            && (efer & EFER_NX == 0 || self.has(Feature::NX))
    }

    /// `kvm_is_valid_sregs`, of a guest whose physical addresses have this many bits.
    pub(crate) fn is_valid_sregs(&self, sregs: &KvmSregs, maxphyaddr: u32) -> bool {
        // LAM takes two bits above the address.
        let lam = if self.has(Feature::LAM) { 3 << 61 } else { 0 };
        let cr3 = sregs.cr3 & !lam;
        let long_mode = if sregs.efer & EFER_LME != 0 && sregs.cr0 & CR0_PG != 0 {
            sregs.cr4 & CR4_PAE != 0
                && sregs.efer & EFER_LMA != 0
                && cr3.checked_shr(maxphyaddr).unwrap_or(0) == 0
        } else {
            sregs.efer & EFER_LMA == 0 && sregs.cs.l == 0
        };
        long_mode
            && self.is_valid_cr4(sregs.cr4)
            && is_valid_cr0(sregs.cr0)
            && self.is_valid_efer(sregs.efer)
    }

    /// `__kvm_set_xcr` of XCR0, as far as its checks.
    pub(crate) fn is_valid_xcr0(&self, xcr0: u64) -> bool {
        let all_or_none = |mask| xcr0 & mask == 0 || xcr0 & mask == mask;
        xcr0 & XCR0_FP != 0
            && (xcr0 & XCR0_YMM == 0 || xcr0 & XCR0_SSE != 0)
            && xcr0 & !(self.xcr0() | XCR0_FP) == 0
            && all_or_none(XCR0_BNDREGS | XCR0_BNDCSR)
            && (xcr0 & XCR0_AVX512 == 0 || xcr0 & XCR0_YMM != 0)
            && all_or_none(XCR0_AVX512)
            && all_or_none(XCR0_XTILE)
    }
}

impl Registers {
    /// Whether the guest's XSAVE is on, and its protection keys, which its CPUID shows.
    pub(crate) fn os_features(&self) -> (bool, bool) {
        let cr4 = self.sregs.cr4;
        (cr4 & CR4_OSXSAVE != 0, cr4 & CR4_PKE != 0)
    }

    /// Whether addresses go through page tables.
    pub(crate) fn is_paging(&self) -> bool {
        self.sregs.cr0 & CR0_PG != 0
    }

    /// Whether it is as after a reset, in real mode: a VMM that resets a vCPU so wants it to run.
    pub(crate) fn is_at_reset_vector(&self) -> bool {
        let cs = &self.sregs.cs;
        let (selector, base) = (cs.selector, cs.base);
        let real_mode = self.sregs.cr0 & CR0_PE == 0;
        self.general.rip == 0xfff0 && selector == 0xf000 && base == 0xffff_0000 && real_mode
    }

    /// Takes over what `__set_sregs_common` takes over.
    pub(crate) fn take_sregs(&mut self, new: &KvmSregs) {
        let sregs = &mut self.sregs;
        let old_cr8 = sregs.cr8;
        *sregs = *new;
        (sregs.cr8, sregs.apic_base, sregs.interrupt_bitmap) = (old_cr8, 0, [0; 4]);
        (sregs.gdt.padding, sregs.idt.padding) = ([0; 3], [0; 3]);
        for segment in [
            &mut sregs.cs,
            &mut sregs.ds,
            &mut sregs.es,
            &mut sregs.fs,
            &mut sregs.gs,
            &mut sregs.ss,
            &mut sregs.tr,
        ] {
            *segment = segment_as_read(*segment, true);
        }
        sregs.ldt = segment_as_read(sregs.ldt, false);
    }
}
