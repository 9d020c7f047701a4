//! KVM_RUN as far as TDH.VP.ENTER, and KVM_PRE_FAULT_MEMORY.
//!
//! # Locking
//! `vcpu->mutex` is held by the dispatcher throughout. KVM_RUN is in an SRCU read section while it is
//! not blocked.

use seamlock_tdx_abi::kvm::{
    Errno, KVM_EXIT_INTR, KVM_MEMORY_EXIT_FLAG_PRIVATE, KVM_MP_STATE_HALTED,
    KVM_MP_STATE_INIT_RECEIVED, KVM_MP_STATE_RUNNABLE, KVM_MP_STATE_UNINITIALIZED,
    KvmPreFaultMemory,
};
use seamlock_tdx_abi::{FieldId, Gfn, Gpa, Hpa, TdxStatus};
use seamlock_tdx_abi::{PAGE_SHIFT, PAGE_SIZE};
use seamlock_tdx_module::After;

use super::exit::{Exit, Handling, prepare_memory_fault};
use super::{Mode, Vcpu, VcpuRef, VcpuTdState, sync_regs};
use crate::discipline::InvalidSlot;
use crate::error::{Result, fail};
use crate::gmem;
use crate::guest::Entered;
use crate::locks::cells;
use crate::mmu::{self, InTheWay, Leaf, Mapped};
use crate::stats;
use crate::task::Task;
use crate::tdx::TdState;
use crate::tdx::seamcall::{tdh_vp_enter, tdh_vp_wr};
use crate::vm::{Kvm, Slot};

/// Why a KVM_RUN returned at once, as it was told to; its -EINTR is no refusal.
pub const IMMEDIATE_EXIT_IS_SET: &str = "immediate_exit is set";
/// Byte offset of `immediate_exit` in `struct kvm_run`.
const IMMEDIATE_EXIT: usize = 1;
/// Byte offset of `exit_reason`.
const EXIT_REASON: usize = 8;
/// Byte offset of `if_flag`.
const IF_FLAG: usize = 13;
/// Byte offset of `flags`.
const FLAGS: usize = 14;
/// Byte offset of `apic_base`.
const APIC_BASE: usize = 24;
/// `KVM_EXIT_UNKNOWN`.
const KVM_EXIT_UNKNOWN: u32 = 0;

/// `kvm_arch_vcpu_ioctl_run`.
pub(crate) fn kvm_arch_vcpu_ioctl_run(task: &Task, vcpu: &VcpuRef) -> Result<i64> {
    let mut immediate = [0];
    vcpu.run_page().read(IMMEDIATE_EXIT, &mut immediate);
    let wants_to_run = immediate[0] == 0;
    let _loaded = vcpu.load(task);
    vcpu.run_page().write(FLAGS, &0u16.to_le_bytes());
    let result = run(task, vcpu, wants_to_run);
    sync_regs::to_user(vcpu);
    post_kvm_run_save(vcpu);
    result
}

fn run(task: &Task, vcpu: &VcpuRef, wants_to_run: bool) -> Result<i64> {
    const SITE: &str = "arch/x86/kvm/x86.c:8910 kvm_arch_vcpu_ioctl_run";
    if vcpu.mp_state() == KVM_MP_STATE_UNINITIALIZED {
        return wait_for_init(task, vcpu, wants_to_run);
    }
    sync_regs::from_user(task, vcpu)?;
    if let Some(completion) = vcpu.state.with(|state| state.complete.take()) {
        let mut handling = Handling::new(task, vcpu.kvm(), vcpu, vcpu.state.with(|s| s.vp_enter));
        let exit = handling.complete(completion);
        vcpu.state.with(|state| state.vp_enter = handling.regs);
        if exit? == Exit::ToUser {
            return Ok(0);
        }
    }
    if !wants_to_run {
        return fail(Errno::EINTR, SITE, IMMEDIATE_EXIT_IS_SET);
    }
    pre_run(vcpu.kvm(), vcpu)?;
    vcpu_run(task, vcpu)
}

/// `post_kvm_run_save`: what every KVM_RUN tells. Interrupts of a TD are not KVM's to see.
fn post_kvm_run_save(vcpu: &Vcpu) {
    const IF: u64 = 1 << 9;
    let (apic_base, interrupts) = vcpu.state.with(|state| {
        let rflags = state.registers.as_ref().map_or(0, |r| r.general.rflags);
        (state.apic_base, rflags & IF != 0)
    });
    let run = vcpu.run_page();
    run.write(IF_FLAG, &[interrupts.into()]);
    run.write(APIC_BASE, &apic_base.to_le_bytes());
}

/// An AP that was never initialized sleeps here until INIT_VCPU or a signal wakes it.
pub(crate) fn wait_for_init(task: &Task, vcpu: &Vcpu, wants_to_run: bool) -> Result<i64> {
    const SITE: &str = "arch/x86/kvm/x86.c:8912 kvm_arch_vcpu_ioctl_run";
    if !wants_to_run {
        return fail(Errno::EINTR, SITE, IMMEDIATE_EXIT_IS_SET);
    }
    let woken = || vcpu.mp_state() != KVM_MP_STATE_UNINITIALIZED || vcpu.is_vm_dead_requested();
    // An interrupted wait is told from a wake-up by the pending signal, as in the kernel.
    let _ = vcpu.wait.wait_until(woken, || task.signal_pending());
    if task.signal_pending() {
        vcpu.stats.add(stats::SIGNAL_EXITS, 1);
        set_exit_reason(vcpu, KVM_EXIT_INTR);
        return fail(Errno::EINTR, SITE, "a signal is pending");
    }
    fail(
        Errno::EAGAIN,
        SITE,
        "the vCPU was not initialized when it was to run",
    )
}

/// `kvm_x86_vcpu_pre_run`.
fn pre_run(kvm: &Kvm, vcpu: &Vcpu) -> Result<()> {
    const SITE: &str = "tdx.c:900 tdx_vcpu_needs_initialization";
    if kvm.is_td()
        && (vcpu.td_state() != VcpuTdState::Initialized || kvm.tdx.state() != TdState::Runnable)
    {
        return fail(
            Errno::EINVAL,
            SITE,
            "the vCPU is not initialized or the TD not finalized",
        );
    }
    if kvm.is_td() && vcpu.mp_state() == KVM_MP_STATE_INIT_RECEIVED {
        const SITE: &str = "arch/x86/kvm/x86.c:8878 kvm_x86_vcpu_pre_run";
        return fail(Errno::EINVAL, SITE, "a TD's vCPU waits for no SIPI");
    }
    Ok(())
}

/// `vcpu_run`: enters the guest until something has to go to user space.
fn vcpu_run(task: &Task, vcpu: &VcpuRef) -> Result<i64> {
    const SITE: &str = "arch/x86/kvm/x86.c vcpu_run";
    let kvm = vcpu.kvm();
    set_exit_reason(vcpu, KVM_EXIT_UNKNOWN);
    loop {
        if vcpu.is_vm_dead_requested() {
            return fail(Errno::EIO, SITE, "the VM is dead");
        }
        if task.signal_pending() {
            vcpu.stats.add(stats::SIGNAL_EXITS, 1);
            set_exit_reason(vcpu, KVM_EXIT_INTR);
            return fail(Errno::EINTR, SITE, "a signal is pending");
        }
        if vcpu.mp_state() == KVM_MP_STATE_HALTED {
            kvm_vcpu_halt(task, vcpu);
            continue;
        }
        if !kvm.is_td() {
            // No errno that KVM_RUN has, and no exit: what comes of it is no result of a guest.
            const SITE: &str = "seamlock: only TDs have guest code";
            return fail(Errno::ENOSYS, SITE, "VMs that are no TDs can't run");
        }
        let srcu = kvm.srcu.read();
        mmu::kvm_mmu_reload(task, kvm, vcpu)?;
        task.resched();
        let exit = vcpu_enter_guest(task, kvm, vcpu);
        drop(srcu);
        match exit? {
            Exit::Again => {}
            Exit::Blocked(by) => by.relax(),
            Exit::Halted => {
                vcpu.stats.add(stats::HALT_EXITS, 1);
                vcpu.mp_state.store(KVM_MP_STATE_HALTED);
            }
            Exit::ToUser => return Ok(0),
        }
    }
}

/// Sleeps until an event makes the vCPU runnable, or a signal or a dead VM ends the wait.
fn kvm_vcpu_halt(task: &Task, vcpu: &Vcpu) {
    let has_events = || vcpu.state.with(|state| state.events.nmi_pending != 0);
    let runnable = || vcpu.mp_state() == KVM_MP_STATE_RUNNABLE || has_events();
    let woken = || runnable() || vcpu.is_vm_dead_requested();
    // The caller looks for the signal itself.
    vcpu.stats.set(stats::BLOCKING, true);
    let _ = vcpu.wait.wait_until(woken, || task.signal_pending());
    vcpu.stats.set(stats::BLOCKING, false);
    if runnable() {
        vcpu.mp_state.store(KVM_MP_STATE_RUNNABLE);
    }
}

/// `tdx_inject_nmi`: the module is told once, however many are pending.
fn inject_nmi(task: &Task, kvm: &Kvm, vcpu: &Vcpu, tdvpr: Hpa) {
    const SITE: &str = "tdx.c:1132 tdx_inject_nmi: tdh_vp_wr_failed";
    let pending = vcpu
        .state
        .with(|state| std::mem::take(&mut state.events.nmi_pending));
    if pending != 0 {
        vcpu.stats.add(stats::NMI_INJECTIONS, 1);
        let on = kvm.on_this_cpu(task);
        let status = tdh_vp_wr(on, tdvpr, FieldId::VP_PEND_NMI, 1, 0xff);
        if kvm.discipline.seal.late_nmi_is_dropped && status.is(TdxStatus::VCPU_STATE_INCORRECT) {
            return;
        }
        kvm.tdx_bug_on(status, seamlock_tdx_abi::Leaf::VP_WR, SITE, [0; 3]);
    }
}

/// `vcpu_enter_guest`: TDH.VP.ENTER, the guest's turn, and what KVM does about the exit.
fn vcpu_enter_guest(task: &Task, kvm: &Kvm, vcpu: &Vcpu) -> Result<Exit> {
    vcpu.clear_requests(super::REQ_OUTSIDE_GUEST_MODE);
    inject_nmi(task, kvm, vcpu, vcpu.tdvpr().unwrap_or_default());
    vcpu.mode.store(Mode::InGuest);
    // Whoever wants all vCPUs out sets the flag first and then looks at the mode.
    if kvm.tdx.wait_for_sept_zap.load() {
        outside(vcpu);
        let flag = cells::WAIT_FOR_SEPT_ZAP.at(kvm.number);
        return Ok(Exit::Blocked(InTheWay::Cell(flag)));
    }
    if vcpu.requests.load() != 0 {
        outside(vcpu);
        return Ok(Exit::Again);
    }
    let tdvpr = vcpu.tdvpr().unwrap_or_default();
    let mut regs = vcpu.state.with(|state| {
        state.has_run = true;
        state.vp_enter
    });
    let (_, after) = tdh_vp_enter(kvm.on_this_cpu(task), tdvpr, &mut regs);
    vcpu.stats.add(stats::EXITS, 1);
    let mut halted = false;
    if after == After::Guest {
        let kicked = || vcpu.mode.load() != Mode::InGuest || task.signal_pending();
        let turn = kvm.host.guest().run(&Entered {
            module: kvm.host.module(),
            lp: task.cpu(),
            vm: kvm.number,
            vcpu: vcpu.id,
            shared_bit: kvm.tdx.gfn_direct_bits() << PAGE_SHIFT,
            kicked: &kicked,
        });
        (regs, halted) = (turn.regs, turn.halted);
    }
    outside(vcpu);
    let mut handling = Handling::new(task, kvm, vcpu, regs);
    let exit = handling.handle(halted);
    vcpu.state.with(|state| state.vp_enter = handling.regs);
    exit
}

fn outside(vcpu: &Vcpu) {
    vcpu.exits.fetch_add(1);
    vcpu.mode.store(Mode::Outside);
    vcpu.wait.notify();
}

fn set_exit_reason(vcpu: &Vcpu, reason: u32) {
    vcpu.run_page().write(EXIT_REASON, &reason.to_le_bytes());
}

/// KVM_PRE_FAULT_MEMORY: maps the range, page by page. The rest of the range is given back; success
/// when at least one page was mapped.
pub(crate) fn kvm_vcpu_pre_fault_memory(
    task: &Task,
    vcpu: &VcpuRef,
    range: &mut KvmPreFaultMemory,
) -> Result<()> {
    const SITE: &str = "virt/kvm/kvm_main.c:4392 kvm_vcpu_pre_fault_memory";
    if range.flags != 0 {
        return fail(Errno::EINVAL, SITE, "flags are not zero");
    }
    let aligned = range.gpa.is_multiple_of(PAGE_SIZE) && range.size.is_multiple_of(PAGE_SIZE);
    if !aligned || range.gpa.wrapping_add(range.size) <= range.gpa {
        return fail(
            Errno::EINVAL,
            SITE,
            "the range is not page aligned, empty or wraps",
        );
    }
    let _loaded = vcpu.load(task);
    let _srcu = vcpu.kvm().srcu.read();
    let full = range.size;
    let mut result = Ok(());
    while range.size != 0 {
        result = if task.signal_pending() {
            fail(Errno::EINTR, SITE, "a signal is pending")
        } else {
            pre_fault_page(task, vcpu.kvm(), vcpu, range.gpa)
        };
        if result.is_err() {
            break;
        }
        range.gpa += PAGE_SIZE;
        range.size -= PAGE_SIZE;
        task.resched();
    }
    if range.size == full { result } else { Ok(()) }
}

/// `kvm_arch_vcpu_pre_fault_memory` of one page.
fn pre_fault_page(task: &Task, kvm: &Kvm, vcpu: &Vcpu, gpa: u64) -> Result<()> {
    const SITE: &str = "arch/x86/kvm/mmu/mmu.c:5104 kvm_arch_vcpu_pre_fault_memory";
    if !kvm.pre_fault_allowed.load() {
        return fail(Errno::EOPNOTSUPP, SITE, "the TD is not finalized");
    }
    if !kvm.tdx.is_private_gpa(gpa) {
        return fail(Errno::EINVAL, SITE, "the address has the shared bit");
    }
    let seal = kvm.discipline.seal;
    if seal.prefault_wants_init && kvm.is_td() && vcpu.td_state() != VcpuTdState::Initialized {
        const SITE: &str = "seamlock: docs/findings.md F10";
        return fail(Errno::EINVAL, SITE, "the module does not know the vCPU");
    }
    mmu::kvm_mmu_reload(task, kvm, vcpu)?;
    let result = kvm_tdp_map_page(task, kvm, vcpu, Gpa(gpa));
    let private = kvm.is_td() && kvm.attributes.is_private(Gpa(gpa).gfn());
    let told = [Errno::EFAULT, Errno::EIO, Errno::ENOMEM, Errno::EHWPOISON];
    if private && matches!(&result, Err(error) if told.contains(&error.errno)) {
        prepare_memory_fault(vcpu, gpa, KVM_MEMORY_EXIT_FLAG_PRIVATE);
    }
    result
}

/// `kvm_tdp_page_prefault`, to v6.16 `kvm_tdp_map_page`: simulated faults until one is not to be
/// retried.
pub(crate) fn kvm_tdp_map_page(task: &Task, kvm: &Kvm, vcpu: &Vcpu, gpa: Gpa) -> Result<()> {
    const SITE: &str = "arch/x86/kvm/mmu/mmu.c kvm_tdp_page_prefault";
    loop {
        if task.signal_pending() {
            return fail(Errno::EINTR, SITE, "a signal is pending");
        }
        if vcpu.is_vm_dead_requested() {
            return fail(Errno::EIO, SITE, "the VM is dead");
        }
        task.resched();
        match simulate_fault(task, kvm, vcpu, gpa)? {
            Mapped::Retry(busy) => busy.relax(),
            Mapped::Fixed | Mapped::Spurious => return Ok(()),
        }
    }
}

/// One simulated fault. A shared page needs nothing here: the shared EPT is the
/// host's own and not modelled.
pub(super) fn simulate_fault(task: &Task, kvm: &Kvm, vcpu: &Vcpu, gpa: Gpa) -> Result<Mapped> {
    const SITE: &str = "arch/x86/kvm/mmu/mmu.c:4734 kvm_mmu_faultin_pfn";
    let gfn = gpa.gfn();
    let seq = kvm.mirror.seq();
    let private = kvm.is_td() && kvm.attributes.is_private(gfn);
    let slot = match kvm.memslots.of_gfn(gfn) {
        Some(slot) => slot,
        // kvm_handle_noslot_fault
        None if private => return fail(Errno::EFAULT, SITE, "no memslot is at a private address"),
        None => return fail(Errno::ENOENT, SITE, "no memslot is at this address"),
    };
    if slot.invalid {
        return match kvm.discipline.invalid_slot {
            InvalidSlot::Retries => {
                let memslots = cells::MEMSLOTS.at(kvm.number);
                Ok(Mapped::Retry(InTheWay::Cell(memslots)))
            }
            InvalidSlot::GivesUp => {
                const WHY: &str = "the memslot is being deleted or moved";
                fail(Errno::EAGAIN, SITE, WHY)
            }
        };
    }
    if !private {
        return fault_in_user_page(task, &slot, gfn);
    }
    let page = gmem::kvm_gmem_get_pfn(task, kvm, &slot, gfn)?;
    let mmu = kvm.mmu_lock.read();
    if kvm.mirror.is_stale(seq) {
        return Ok(Mapped::Retry(kvm.mirror.invalidation()));
    }
    Ok(mmu::kvm_tdp_mmu_map(
        task,
        kvm,
        vcpu,
        Leaf { gfn: gfn.0, page },
        &mmu,
    ))
}

/// `__kvm_faultin_pfn` of shared memory. What is there needs nothing: the shared EPT is the host's own
/// and not modelled.
pub(super) fn fault_in_user_page(task: &Task, slot: &Slot, gfn: Gfn) -> Result<Mapped> {
    const SITE: &str = "arch/x86/kvm/mmu/mmu.c kvm_handle_error_pfn";
    if slot.gmem_only {
        return Ok(Mapped::Fixed);
    }
    let hva = slot.userspace_addr + (gfn.0 - slot.base_gfn) * PAGE_SIZE;
    task.get::<u8>(hva, SITE).map(|_| Mapped::Fixed)
}
