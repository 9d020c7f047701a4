//! KVM_GET_REGS and its kind: the registers of a vCPU. A TD's are protected, and refused in the kernel's
//! order of copy and check.
//!
//! Source: Linux v7.3.4 `arch/x86/kvm/regs.c`, `arch/x86/kvm/x86.c`.

use seamlock_tdx_abi::PAGE_SIZE;
use seamlock_tdx_abi::kvm::{Errno, KvmDebugregs, KvmGuestDebug, KvmRegs, KvmSregs, KvmSregs2};
use seamlock_tdx_abi::{Gfn, PAGE_SHIFT};
use zerocopy::{FromZeros, IntoBytes};

use super::refuse;
use crate::error::{Result, fail};
use crate::task::Task;
use crate::vcpu::registers::{Caps, RFLAGS_FIXED, Registers, pae_paging};
use crate::vcpu::{State, VcpuRef};
use crate::vm::Irqchip;

/// Where what is set is copied in, before any check.
pub(super) const COPY: &str = "virt/kvm/kvm_main.c:4464 kvm_vcpu_ioctl";
const INTERRUPTS: u32 = 256;
const PDPTRS_VALID: u64 = 1;

/// The vCPU's registers, with the rest of its state beside them.
///
/// # Errors
/// EINVAL for a TD.
pub(super) fn with<R>(
    vcpu: &VcpuRef,
    f: impl FnOnce(&mut State, &mut Registers) -> R,
) -> Result<R> {
    let result = vcpu.state.with(|state| {
        let mut registers = state.registers.take()?;
        let result = f(state, &mut registers);
        state.registers = Some(registers);
        Some(result)
    });
    result.map_or_else(refuse, Ok)
}

pub(super) fn lapic_in_kernel(vcpu: &VcpuRef) -> bool {
    vcpu.kvm().arch.with(|arch| arch.irqchip) != Irqchip::None
}

pub(in crate::ioctl) fn get_regs(task: &Task, vcpu: &VcpuRef, arg: u64) -> Result<i64> {
    let general = with(vcpu, |_, registers| registers.general)?;
    drop(vcpu.load(task));
    task.put(arg, &general, COPY).map(|()| 0)
}

pub(in crate::ioctl) fn set_regs(task: &Task, vcpu: &VcpuRef, arg: u64) -> Result<i64> {
    let new: KvmRegs = task.get(arg, COPY)?;
    apply_regs(vcpu, &new)?;
    drop(vcpu.load(task));
    Ok(0)
}

/// `__get_sregs_common`; CR8 is the local APIC's where that is in the kernel.
fn sregs(in_kernel: bool, state: &State, registers: &Registers) -> KvmSregs {
    let mut sregs = registers.sregs;
    if in_kernel {
        sregs.cr8 = registers.lapic.cr8();
    }
    sregs.apic_base = state.apic_base;
    sregs
}

pub(in crate::ioctl) fn get_sregs(task: &Task, vcpu: &VcpuRef, arg: u64) -> Result<i64> {
    let in_kernel = lapic_in_kernel(vcpu);
    let sregs = with(vcpu, |state, registers| {
        let mut sregs = sregs(in_kernel, state, registers);
        let events = &state.events;
        if events.interrupt_injected != 0 && events.interrupt_soft == 0 {
            let vector = usize::from(events.interrupt_nr);
            sregs.interrupt_bitmap[vector / 64] |= 1 << (vector % 64);
        }
        sregs
    })?;
    drop(vcpu.load(task));
    task.put(arg, &sregs, COPY).map(|()| 0)
}

pub(in crate::ioctl) fn set_sregs(task: &Task, vcpu: &VcpuRef, arg: u64) -> Result<i64> {
    let new: KvmSregs = task.get(arg, COPY)?;
    apply_sregs(task, vcpu, &new)?;
    drop(vcpu.load(task));
    Ok(0)
}

/// `__set_sregs`.
pub(crate) fn apply_sregs(task: &Task, vcpu: &VcpuRef, new: &KvmSregs) -> Result<()> {
    set_common(task, vcpu, new, true)?;
    let bit = |vector: &u32| new.interrupt_bitmap[*vector as usize / 64] >> (vector % 64) & 1 == 1;
    if let Some(vector) = (0..INTERRUPTS).find(bit) {
        vcpu.state.with(|state| {
            let events = &mut state.events;
            (events.interrupt_injected, events.interrupt_soft) = (1, 0);
            events.interrupt_nr = vector as u8;
        });
    }
    Ok(())
}

/// `__set_sregs_common`.
fn set_common(task: &Task, vcpu: &VcpuRef, new: &KvmSregs, update_pdptrs: bool) -> Result<()> {
    const SITE: &str = "arch/x86/kvm/regs.c:591 __set_sregs_common";
    let kvm = vcpu.kvm();
    let in_kernel = lapic_in_kernel(vcpu);
    let taken = with(vcpu, |state, registers| {
        let caps = Caps::new(&kvm.host, &state.cpuid);
        let width = state.maxphyaddr();
        if !caps.is_valid_sregs(new, width) {
            return Err("a control register, EFER or the code segment is not the guest's");
        }
        if !is_valid_apic_base(state.apic_base, new.apic_base, &caps, width) {
            return Err("the APIC base has a reserved bit, or the mode is invalid");
        }
        state.apic_base = new.apic_base;
        registers.take_sregs(new);
        if in_kernel {
            registers.lapic.set_cr8(new.cr8);
        } else if new.cr8 & !15 == 0 {
            registers.sregs.cr8 = new.cr8;
        }
        Ok(registers.is_at_reset_vector())
    })?;
    let at_reset = match taken {
        Ok(at_reset) => at_reset,
        Err(why) => return fail(Errno::EINVAL, SITE, why),
    };
    if update_pdptrs && pae_paging(new) {
        load_pdptrs(task, vcpu, new.cr3)?;
    }
    if at_reset && vcpu.id() == kvm.arch.with(|arch| arch.bsp_vcpu_id) {
        vcpu.set_mp_state(seamlock_tdx_abi::kvm::KVM_MP_STATE_RUNNABLE);
    }
    Ok(())
}

/// `kvm_apic_set_base` by user space, as far as its checks.
pub(crate) fn is_valid_apic_base(old: u64, new: u64, caps: &Caps, width: u32) -> bool {
    const X2APIC_ENABLE: u64 = 1 << 10;
    const ENABLE: u64 = 1 << 11;
    let x2apic = caps.has(crate::vcpu::registers::Feature::X2APIC);
    let reserved = new.checked_shr(width).unwrap_or(0) != 0
        || new & 0x2ff != 0
        || (new & X2APIC_ENABLE != 0 && !x2apic);
    // x2APIC mode without the APIC enabled is none.
    let invalid = new & (X2APIC_ENABLE | ENABLE) == X2APIC_ENABLE;
    old == new || !(reserved || invalid)
}

/// `load_pdptrs`: from guest memory, where it is there; else they stay.
fn load_pdptrs(task: &Task, vcpu: &VcpuRef, cr3: u64) -> Result<()> {
    const SITE: &str = "arch/x86/kvm/regs.c:156 load_pdptrs";
    let kvm = vcpu.kvm();
    let _srcu = kvm.srcu.read();
    let gfn = Gfn(cr3 >> PAGE_SHIFT);
    let Some(slot) = kvm.memslots.of_gfn(gfn) else {
        return Ok(());
    };
    let page = slot.userspace_addr + (gfn.0 - slot.base_gfn) * PAGE_SIZE;
    let at = page.wrapping_add(cr3 & 0xfe0);
    if let Ok(pdptrs) = task.get::<[u64; 4]>(at, SITE) {
        with(vcpu, |_, registers| registers.pdptrs = pdptrs)?;
    }
    Ok(())
}

pub(in crate::ioctl) fn get_sregs2(task: &Task, vcpu: &VcpuRef, arg: u64) -> Result<i64> {
    let in_kernel = lapic_in_kernel(vcpu);
    let sregs = with(vcpu, |state, registers| {
        let common = sregs(in_kernel, state, registers);
        let mut sregs = KvmSregs2::new_zeroed();
        let shared = std::mem::offset_of!(KvmSregs, interrupt_bitmap);
        sregs.as_mut_bytes()[..shared].copy_from_slice(&common.as_bytes()[..shared]);
        if pae_paging(&common) {
            (sregs.flags, sregs.pdptrs) = (PDPTRS_VALID, registers.pdptrs);
        }
        sregs
    })?;
    task.put(arg, &sregs, "arch/x86/kvm/x86.c:3846 kvm_arch_vcpu_ioctl")
        .map(|()| 0)
}

/// What a TD's vCPU has is looked at before the copy.
pub(in crate::ioctl) fn set_sregs2(task: &Task, vcpu: &VcpuRef, arg: u64) -> Result<i64> {
    const SITE: &str = "arch/x86/kvm/regs.c:688 kvm_vcpu_ioctl_x86_set_sregs2";
    with(vcpu, |_, _| ())?;
    let new: KvmSregs2 = task.get(arg, "arch/x86/kvm/x86.c:3863 kvm_arch_vcpu_ioctl")?;
    let mut common = KvmSregs::new_zeroed();
    let shared = std::mem::offset_of!(KvmSregs, interrupt_bitmap);
    common.as_mut_bytes()[..shared].copy_from_slice(&new.as_bytes()[..shared]);
    let with_pdptrs = new.flags & PDPTRS_VALID != 0;
    if new.flags & !PDPTRS_VALID != 0 || (with_pdptrs && !pae_paging(&common)) {
        return fail(
            Errno::EINVAL,
            SITE,
            "an unknown flag is set, or there are PDPTRs without PAE paging",
        );
    }
    set_common(task, vcpu, &common, !with_pdptrs)?;
    if with_pdptrs {
        with(vcpu, |_, registers| registers.pdptrs = new.pdptrs)?;
    }
    Ok(0)
}

pub(in crate::ioctl) fn get_debugregs(task: &Task, vcpu: &VcpuRef, arg: u64) -> Result<i64> {
    let debugregs = with(vcpu, |_, registers| KvmDebugregs {
        db: registers.db,
        dr6: registers.dr6,
        dr7: registers.dr7,
        ..KvmDebugregs::new_zeroed()
    })?;
    task.put(
        arg,
        &debugregs,
        "arch/x86/kvm/x86.c:3614 kvm_arch_vcpu_ioctl",
    )
    .map(|()| 0)
}

pub(in crate::ioctl) fn set_debugregs(task: &Task, vcpu: &VcpuRef, arg: u64) -> Result<i64> {
    const SITE: &str = "arch/x86/kvm/regs.c:850 kvm_vcpu_ioctl_x86_set_debugregs";
    let new: KvmDebugregs = task.get(arg, COPY)?;
    with(vcpu, |_, _| ())?;
    if new.flags != 0 || new.dr6 >> 32 != 0 || new.dr7 >> 32 != 0 {
        return fail(Errno::EINVAL, SITE, "flags, or DR6 or DR7 beyond 32 bits");
    }
    with(vcpu, |_, registers| {
        (registers.db, registers.dr6, registers.dr7) = (new.db, new.dr6, new.dr7);
    })?;
    Ok(0)
}

/// `kvm_arch_vcpu_ioctl_set_guest_debug`. What it sets shows only in a guest that runs.
pub(in crate::ioctl) fn set_guest_debug(task: &Task, vcpu: &VcpuRef, arg: u64) -> Result<i64> {
    const SITE: &str = "arch/x86/kvm/x86.c:9180 kvm_arch_vcpu_ioctl_set_guest_debug";
    const ENABLE: u32 = 1;
    const INJECT_DB: u32 = 1 << 18;
    const INJECT_BP: u32 = 1 << 19;
    let new: KvmGuestDebug = task.get(arg, COPY)?;
    let done = with(vcpu, |state, registers| {
        let events = &mut state.events;
        if new.control & (INJECT_DB | INJECT_BP) != 0 {
            if events.exception_pending != 0 || events.exception_injected != 0 {
                return false;
            }
            let debug = new.control & INJECT_DB != 0;
            (events.exception_pending, events.exception_nr) = (1, if debug { 1 } else { 3 });
        }
        let on = new.control & ENABLE != 0;
        registers.guest_debug = if on { new.control } else { 0 };
        true
    })?;
    drop(vcpu.load(task));
    if !done {
        return fail(Errno::EBUSY, SITE, "an exception is on its way already");
    }
    Ok(0)
}

/// A copy of what `struct kvm_sync_regs` holds of the vCPU (`store_regs`).
pub(crate) fn sync_regs(vcpu: &VcpuRef) -> Result<(KvmRegs, KvmSregs)> {
    let in_kernel = lapic_in_kernel(vcpu);
    with(vcpu, |state, registers| {
        (registers.general, sregs(in_kernel, state, registers))
    })
}

/// `__set_regs`.
pub(crate) fn apply_regs(vcpu: &VcpuRef, new: &KvmRegs) -> Result<()> {
    with(vcpu, |state, registers| {
        registers.general = *new;
        registers.general.rflags |= RFLAGS_FIXED;
        state.events.exception_pending = 0;
    })
}
