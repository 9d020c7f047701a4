//! KVM_RUN as far as TDH.VP.ENTER.
//!
//! # Locking
//! `vcpu->mutex` is held by the dispatcher throughout. KVM_RUN is in an SRCU read section while it is
//! not blocked.

use seamlock_tdx_abi::PAGE_SHIFT;
use seamlock_tdx_abi::kvm::{
    Errno, KVM_EXIT_INTR, KVM_EXIT_IRQ_WINDOW_OPEN, KVM_EXIT_SHUTDOWN, KVM_MP_STATE_HALTED,
    KVM_MP_STATE_INIT_RECEIVED, KVM_MP_STATE_RUNNABLE, KVM_MP_STATE_UNINITIALIZED,
};
use seamlock_tdx_module::After;

use super::events::{inject_events, post_kvm_run_save};
use super::exit::{Exit, Handling};
use super::{Mode, Vcpu, VcpuRef, VcpuTdState, sync_regs};
use crate::error::{Result, fail};
use crate::guest::Entered;
use crate::locks::cells;
use crate::mmu::{self, InTheWay};
use crate::stats;
use crate::task::Task;
use crate::tdx::TdState;
use crate::tdx::seamcall::tdh_vp_enter;
use crate::vm::Kvm;

/// Why a KVM_RUN returned at once, as it was told to; its -EINTR is no refusal.
pub const IMMEDIATE_EXIT_IS_SET: &str = "immediate_exit is set";
/// Byte offset of `immediate_exit` in `struct kvm_run`.
const IMMEDIATE_EXIT: usize = 1;
/// Byte offset of `exit_reason`.
const EXIT_REASON: usize = 8;
/// Byte offset of `flags`.
const FLAGS: usize = 14;
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

/// An AP that was never initialized sleeps here until an event or a signal wakes it.
pub(crate) fn wait_for_init(task: &Task, vcpu: &VcpuRef, wants_to_run: bool) -> Result<i64> {
    const SITE: &str = "arch/x86/kvm/x86.c:8912 kvm_arch_vcpu_ioctl_run";
    if !wants_to_run {
        return fail(Errno::EINTR, SITE, IMMEDIATE_EXIT_IS_SET);
    }
    let woken = || vcpu.is_woken(vcpu.kvm()) || vcpu.is_vm_dead_requested();
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
    const SITE: &str = "arch/x86/kvm/x86.c:8644 vcpu_run";
    let kvm = vcpu.kvm();
    set_exit_reason(vcpu, KVM_EXIT_UNKNOWN);
    loop {
        if vcpu.is_vm_dead_requested() {
            return fail(Errno::EIO, SITE, "the VM is dead");
        }
        let exit = if vcpu.mp_state() == KVM_MP_STATE_RUNNABLE {
            vcpu_enter_guest(task, kvm, vcpu)?
        } else {
            vcpu_block(task, kvm, vcpu);
            Exit::Again
        };
        match exit {
            Exit::Again | Exit::Blocked(_) => {}
            Exit::Halted => kvm_emulate_halt(kvm, vcpu),
            Exit::ToUser => return Ok(0),
        }
        if vcpu.opens_irq_window(kvm) {
            vcpu.stats.add(stats::REQUEST_IRQ_EXITS, 1);
            set_exit_reason(vcpu, KVM_EXIT_IRQ_WINDOW_OPEN);
            return Ok(0);
        }
        if task.signal_pending() {
            vcpu.stats.add(stats::SIGNAL_EXITS, 1);
            set_exit_reason(vcpu, KVM_EXIT_INTR);
            return fail(Errno::EINTR, SITE, "a signal is pending");
        }
        if let Exit::Blocked(by) = exit {
            by.relax();
        }
    }
}

/// `kvm_emulate_halt_noskip`: an event that is there already keeps the vCPU running.
fn kvm_emulate_halt(kvm: &Kvm, vcpu: &Vcpu) {
    vcpu.stats.add(stats::HALT_EXITS, 1);
    if vcpu.is_unhalted() || vcpu.has_events(kvm) {
        vcpu.set_mp_state(KVM_MP_STATE_RUNNABLE);
    } else {
        vcpu.mp_state.store(KVM_MP_STATE_HALTED);
    }
}

/// `vcpu_block`: sleeps until an event makes the vCPU runnable, or a signal or a dead VM ends the wait.
fn vcpu_block(task: &Task, kvm: &Kvm, vcpu: &Vcpu) {
    let woken = || vcpu.is_woken(kvm) || vcpu.is_vm_dead_requested();
    // The caller looks for the signal itself.
    vcpu.stats.set(stats::BLOCKING, true);
    let _ = vcpu.wait.wait_until(woken, || task.signal_pending());
    vcpu.stats.set(stats::BLOCKING, false);
    if vcpu.is_woken(kvm) {
        vcpu.set_mp_state(KVM_MP_STATE_RUNNABLE);
    }
}

/// `vcpu_enter_guest`: what is requested of the vCPU and what is injected, then the guest.
fn vcpu_enter_guest(task: &Task, kvm: &Kvm, vcpu: &Vcpu) -> Result<Exit> {
    if vcpu.take_triple_fault() {
        set_exit_reason(vcpu, KVM_EXIT_SHUTDOWN);
        return Ok(Exit::ToUser);
    }
    let _srcu = kvm.srcu.read();
    let td = kvm.is_td();
    if td {
        inject_events(task, kvm, vcpu, vcpu.tdvpr().unwrap_or_default());
        mmu::kvm_mmu_reload(task, kvm, vcpu)?;
    }
    task.resched();
    // kvm_vcpu_exit_request
    if task.signal_pending() {
        return Ok(Exit::Again);
    }
    if !td {
        // No errno that KVM_RUN has, and no exit: what comes of it is no result of a guest.
        const SITE: &str = "seamlock: only TDs have guest code";
        return fail(Errno::ENOSYS, SITE, "VMs that are no TDs can't run");
    }
    tdx_vcpu_run(task, kvm, vcpu)
}

/// TDH.VP.ENTER, the guest's turn, and what KVM does about the exit.
fn tdx_vcpu_run(task: &Task, kvm: &Kvm, vcpu: &Vcpu) -> Result<Exit> {
    vcpu.clear_requests(super::REQ_OUTSIDE_GUEST_MODE);
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
