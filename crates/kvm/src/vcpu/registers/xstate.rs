//! The state that XSAVE saves, in its standard form.
//!
//! Source: Linux v7.3.4 `arch/x86/kernel/fpu/xstate.c` (`copy_uabi_to_xstate`,
//! `__copy_xstate_to_uabi_buf`), `arch/x86/kernel/fpu/core.c`.

use seamlock_tdx_abi::kvm::{KVM_XSAVE_BYTES, KvmFpu};
use seamlock_tdx_module::Platform;
use zerocopy::FromZeros;

/// Where MXCSR is.
const MXCSR: usize = 24;
/// Where the x87 registers are, and the SSE registers after them.
const ST_SPACE: usize = 32;
const XMM_SPACE: usize = 160;
/// The end of the SSE registers; what is left of the legacy area is software's.
const LEGACY_END: usize = 416;
const SOFTWARE: usize = 464;
/// XSTATE_BV, XCOMP_BV, and the rest of the header, which is zero.
const HEADER: usize = 512;
const HEADER_END: usize = 576;
/// MXCSR bits of Intel's processors.
const MXCSR_MASK: u32 = 0xffff;
const PKRU: u32 = 9;
const FP: u64 = 1;
const SSE: u64 = 1 << 1;
const YMM: u64 = 1 << 2;

/// One vCPU's.
#[derive(Clone, Debug)]
pub(crate) struct Xsave(Box<[u8; KVM_XSAVE_BYTES]>);

impl Default for Xsave {
    /// `fpstate_init_user`: the control words, and nothing in use.
    fn default() -> Xsave {
        let mut bytes = Box::new([0; KVM_XSAVE_BYTES]);
        bytes[..2].copy_from_slice(&0x37fu16.to_le_bytes());
        bytes[MXCSR..MXCSR + 4].copy_from_slice(&0x1f80u32.to_le_bytes());
        Xsave(bytes)
    }
}

fn word(bytes: &[u8; KVM_XSAVE_BYTES], at: usize) -> u64 {
    u64::from_le_bytes(std::array::from_fn(|i| bytes[at + i]))
}

impl Xsave {
    /// `fpu_copy_guest_fpstate_to_uabi`: components that are not in use read as after their initialization.
    pub(crate) fn to_user(&self, platform: &Platform, xcr0: u64) -> Box<[u8; KVM_XSAVE_BYTES]> {
        let mut out = Xsave::default().0;
        let in_use = word(&self.0, HEADER) & (xcr0 | FP | SSE);
        let mut copy = |from: usize, to: usize| out[from..to].copy_from_slice(&self.0[from..to]);
        if in_use & FP != 0 {
            copy(0, MXCSR);
            copy(ST_SPACE, XMM_SPACE);
        }
        if in_use & (SSE | YMM) != 0 {
            copy(MXCSR, ST_SPACE);
        }
        if in_use & SSE != 0 {
            copy(XMM_SPACE, LEGACY_END);
        }
        for i in (2..64).filter(|i| in_use >> i & 1 == 1 || (*i == PKRU && xcr0 >> i & 1 == 1)) {
            let [size, offset, ..] = platform.cpuid(0xd, i);
            let end = (offset + size) as usize;
            if end <= KVM_XSAVE_BYTES {
                copy(offset as usize, end);
            }
        }
        out[SOFTWARE..SOFTWARE + 8].copy_from_slice(&platform.xcr0_supported.to_le_bytes());
        out[HEADER..HEADER + 8].copy_from_slice(&in_use.to_le_bytes());
        out
    }

    /// `fpu_copy_uabi_to_guest_fpstate`: whether the state may be taken over, and was.
    pub(crate) fn take(&mut self, new: Box<[u8; KVM_XSAVE_BYTES]>, supported: u64) -> bool {
        let mxcsr = u32::from_le_bytes(std::array::from_fn(|i| new[MXCSR + i]));
        let header = &new[HEADER + 8..HEADER_END];
        if word(&new, HEADER) & !supported != 0
            || mxcsr & !MXCSR_MASK != 0
            || header.iter().any(|byte| *byte != 0)
        {
            return false;
        }
        self.0 = new;
        true
    }

    /// `kvm_arch_vcpu_ioctl_get_fpu`. MXCSR is not told.
    pub(crate) fn fpu(&self) -> KvmFpu {
        let bytes = &self.0;
        let half = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
        let block = |at: usize| std::array::from_fn(|i| bytes[at + i]);
        let mut fpu = KvmFpu::new_zeroed();
        fpu.fpr = std::array::from_fn(|i| block(ST_SPACE + 16 * i));
        (fpu.fcw, fpu.fsw, fpu.ftwx) = (half(0), half(2), bytes[4]);
        (fpu.last_opcode, fpu.last_ip, fpu.last_dp) = (half(6), word(bytes, 8), word(bytes, 16));
        fpu.xmm = std::array::from_fn(|i| block(XMM_SPACE + 16 * i));
        fpu
    }

    /// `kvm_arch_vcpu_ioctl_set_fpu`.
    pub(crate) fn set_fpu(&mut self, fpu: &KvmFpu) {
        let bytes = &mut self.0;
        let mut put = |at: usize, from: &[u8]| bytes[at..at + from.len()].copy_from_slice(from);
        put(0, &fpu.fcw.to_le_bytes());
        put(2, &fpu.fsw.to_le_bytes());
        put(4, &u16::from(fpu.ftwx).to_le_bytes());
        put(6, &fpu.last_opcode.to_le_bytes());
        put(8, &fpu.last_ip.to_le_bytes());
        put(16, &fpu.last_dp.to_le_bytes());
        put(ST_SPACE, fpu.fpr.as_flattened());
        put(XMM_SPACE, fpu.xmm.as_flattened());
    }
}
