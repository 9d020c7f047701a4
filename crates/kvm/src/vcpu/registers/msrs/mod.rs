//! MSRs of a vCPU, as user space and the guest of a TD read and write them: what was written, else what
//! is there after a reset.
//!
//! # Locking
//! `vcpu->mutex`. Memory of the guest is touched before the state is looked at.
//!
//! Source: Linux v7.3.4 `arch/x86/kvm/msrs.c`, `vmx_get_msr` and `vmx_set_msr`
//! (`arch/x86/kvm/vmx/vmx.c`), `tdx_get_msr` and `tdx_set_msr` (`arch/x86/kvm/vmx/tdx.c`).

mod common;
mod guest_page;
mod hyperv;
mod lists;
mod machine;
mod pmu;
mod pv;
mod td;
mod vmx;

use seamlock_tdx_abi::kvm::KVM_X86_QUIRK_STUFF_FEATURE_MSRS;

use super::{Caps, Registers};
use crate::ioctl::is_valid_apic_base;
use crate::task::Task;
use crate::vcpu::{State, Vcpu};
use crate::vm::{Irqchip, Kvm};

pub(crate) use hyperv::HypervVcpu;
pub(crate) use lists::{features, saved};
pub(crate) use pmu::SUPPORTED_PERF_CAP;
pub(crate) use pv::guest_pv_has;
pub(crate) use vmx::VmxMsrs;

const APICBASE: u32 = 0x1b;
const EFER: u32 = 0xc000_0080;
const FS_BASE: u32 = 0xc000_0100;
const GS_BASE: u32 = 0xc000_0101;
pub(crate) const TSX_CTRL: u32 = 0x122;

/// Why an MSR is not read or written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum No {
    /// It is there, and does not take this.
    Refused,
    /// The vCPU has none (`KVM_MSR_RET_UNSUPPORTED`).
    Unsupported,
}

/// What is kept of a value under the MSR's own number; None where it is kept elsewhere, or not at all.
type Kept = Result<Option<u64>, No>;

/// What an access is made with.
struct Cx<'a> {
    kvm: &'a Kvm,
    caps: &'a Caps<'a>,
    /// Bits of the guest's physical addresses.
    width: u32,
    /// `host_initiated`: by user space.
    host: bool,
    lapic_in_kernel: bool,
    /// `vcpu->vcpu_idx`.
    index: u64,
}

impl Cx<'_> {
    /// What a feature MSR holds after creation: what KVM supports, or nothing where user space wants to
    /// say so itself.
    fn stuffed(&self, state: &State, value: u64) -> u64 {
        if state.unstuffed { 0 } else { value }
    }
}

/// What is kept of an MSR.
fn kept(state: &State, msr: u32, after_reset: u64) -> u64 {
    state.msrs.get(&msr).copied().unwrap_or(after_reset)
}

/// 57 bits, which every processor with 5-level paging lets user space write.
fn is_canonical(address: u64) -> bool {
    canonical(address) == address
}

/// The address with the upper bits as bit 56.
fn canonical(address: u64) -> u64 {
    ((address << 7) as i64 >> 7) as u64
}

impl Vcpu {
    fn with_msrs<R>(&self, kvm: &Kvm, host: bool, f: impl FnOnce(&Cx, &mut State) -> R) -> R {
        let lapic_in_kernel = kvm.arch.with(|arch| arch.irqchip) != Irqchip::None;
        self.state.with(|state| {
            let cpuid = std::mem::take(&mut state.cpuid);
            let caps = Caps::new(&kvm.host, &cpuid);
            let cx = Cx {
                kvm,
                caps: &caps,
                width: crate::vcpu::maxphyaddr(&cpuid),
                host,
                lapic_in_kernel,
                index: self.idx() as u64,
            };
            let result = f(&cx, state);
            state.cpuid = cpuid;
            result
        })
    }

    /// `__kvm_get_msr`.
    fn read_msr(&self, cx: &Cx, state: &State, msr: u32) -> Result<u64, No> {
        match &state.registers {
            None => td::read(cx, state, self.id, msr),
            Some(registers) => read_own(cx, state, registers, msr),
        }
    }

    /// User space reads an MSR. None where it can't: one that KVM tells about is zero where the vCPU has
    /// none.
    pub(crate) fn msr(&self, kvm: &Kvm, msr: u32) -> Option<u64> {
        self.with_msrs(kvm, true, |cx, state| {
            let value = self.read_msr(cx, state, msr);
            let advertised = || lists::is_advertised(cx.caps.platform(), msr);
            match value {
                Err(No::Unsupported) if advertised() => Some(0),
                value => value.ok(),
            }
        })
    }

    /// A TD reads an MSR.
    ///
    /// # Errors
    /// Why it can't.
    pub(crate) fn guest_msr(&self, kvm: &Kvm, msr: u32) -> Result<u64, No> {
        self.with_msrs(kvm, false, |cx, state| self.read_msr(cx, state, msr))
    }

    /// `do_set_msr`: user space writes an MSR. Whether it may.
    pub(crate) fn set_msr(&self, task: &Task, kvm: &Kvm, msr: u32, value: u64) -> bool {
        let reaches = guest_page::reach(task, kvm, self, msr, value);
        self.with_msrs(kvm, true, |cx, state| {
            let changes = || self.read_msr(cx, state, msr) != Ok(value);
            if state.has_run && lists::is_immutable(msr) && changes() {
                return false;
            }
            let advertised = || value == 0 && lists::is_advertised(cx.caps.platform(), msr);
            match write(cx, state, msr, value, reaches) {
                Err(No::Unsupported) => advertised(),
                result => result.is_ok(),
            }
        })
    }

    /// A TD writes an MSR; it has none that names a page.
    ///
    /// # Errors
    /// Why it can't.
    pub(crate) fn set_guest_msr(&self, kvm: &Kvm, msr: u32, value: u64) -> Result<(), No> {
        self.with_msrs(kvm, false, |cx, state| write(cx, state, msr, value, true))
    }

    /// `kvm_vcpu_after_set_cpuid` and `kvm_pmu_refresh`, as far as MSRs.
    pub(crate) fn msrs_follow_cpuid(&self, kvm: &Kvm) {
        let stuffed = !kvm.has_quirk_disabled(KVM_X86_QUIRK_STUFF_FEATURE_MSRS);
        self.with_msrs(kvm, true, |cx, state| {
            pmu::reset(state);
            state.msrs.remove(&TSX_CTRL);
            if let Some(registers) = &mut state.registers {
                registers.vmx.follow_cpuid(cx.caps, stuffed);
            }
        });
    }
}

/// `__kvm_set_msr`.
fn write(cx: &Cx, state: &mut State, msr: u32, value: u64, reaches: bool) -> Result<(), No> {
    let kept = match state.registers.take() {
        None => td::write(cx, state, msr, value, reaches),
        Some(mut registers) => {
            let kept = write_own(cx, state, &mut registers, (msr, value), reaches);
            state.registers = Some(registers);
            kept
        }
    };
    if let Some(value) = kept? {
        state.msrs.insert(msr, value);
    }
    Ok(())
}

/// `vmx_get_msr`.
fn read_own(cx: &Cx, state: &State, registers: &Registers, msr: u32) -> Result<u64, No> {
    match msr {
        APICBASE => Ok(state.apic_base),
        EFER => Ok(registers.sregs.efer),
        FS_BASE => Ok(registers.sregs.fs.base),
        GS_BASE => Ok(registers.sregs.gs.base),
        _ if vmx::MSRS.contains(&msr) => match cx.caps.has(super::Feature::VMX) {
            true => registers.vmx.get(msr).ok_or(No::Refused),
            false => Err(No::Refused),
        },
        _ => machine::read(cx, state, msr),
    }
}

/// `vmx_set_msr`.
fn write_own(
    cx: &Cx,
    state: &mut State,
    registers: &mut Registers,
    (msr, value): (u32, u64),
    reaches: bool,
) -> Kept {
    let unless = |refused: bool| if refused { Err(No::Refused) } else { Ok(None) };
    match msr {
        APICBASE => {
            let taken = is_valid_apic_base(state.apic_base, value, cx.caps, cx.width);
            if taken {
                state.apic_base = value;
            }
            unless(!taken)
        }
        EFER => {
            let allowed = value & !super::sregs::EFER_SUPPORTED == 0;
            if allowed {
                // LMA follows from the mode.
                registers.sregs.efer = value & !(1 << 10) | registers.sregs.efer & (1 << 10);
            }
            unless(!allowed)
        }
        FS_BASE | GS_BASE if !is_canonical(value) => Err(No::Refused),
        FS_BASE => {
            registers.sregs.fs.base = value;
            Ok(None)
        }
        GS_BASE => {
            registers.sregs.gs.base = value;
            Ok(None)
        }
        _ if vmx::MSRS.contains(&msr) => {
            let supported = VmxMsrs::supported(cx.caps.platform());
            let there = cx.caps.has(super::Feature::VMX) && !state.nested.is_in_vmx_operation();
            unless(!there || !registers.vmx.set(&supported, msr, value))
        }
        _ => machine::write(cx, state, registers, (msr, value), reaches),
    }
}
