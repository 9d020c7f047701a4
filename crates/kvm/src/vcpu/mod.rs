//! A vCPU: `struct kvm_vcpu`, `struct kvm_vcpu_arch` and `struct vcpu_tdx`.
//!
//! # Locking
//! | field | guarded by |
//! |---|---|
//! | all of `State` | `vcpu->mutex`, or the VM-state guard, which holds it |
//! | `cpu` | changed with preemption off by the CPU that has the vCPU; read by others |
//! | `td_state` | `vcpu->mutex`; read in IPI context |
//! | `mp_state`, `pv_unhalted`, `requests`, `mode` | nothing |

mod apic;
mod create;
mod dirty_ring;
mod events;
mod exit;
mod load;
mod prefault;
pub(crate) mod registers;
mod run;
mod sync_regs;

use std::collections::BTreeMap;
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering::SeqCst};

use seamlock_sync::{Mutex, Private, Shared, WaitQueue, Word};
use seamlock_tdx_abi::Hpa;
use seamlock_tdx_abi::kvm::{KVM_MP_STATE_RUNNABLE, KvmCpuidEntry2, KvmVcpuEvents};
use seamlock_tdx_abi::regs::Regs;

use crate::arch::VcpuArch;
use crate::ioctl::{NestedVmx, XenVcpu};
use crate::locks::{self, cells};
use crate::stats::{self, Stats};
use crate::task::{RunPage, Task};
use crate::vm::Kvm;

pub(crate) use create::kvm_vm_ioctl_create_vcpu;
use dirty_ring::DirtyRing;
pub use load::Loaded;
pub(crate) use prefault::{kvm_tdp_page_prefault, kvm_vcpu_pre_fault_memory};
pub(crate) use registers::{HypervVcpu, Registers};
pub use run::IMMEDIATE_EXIT_IS_SET;
pub(crate) use run::{kvm_arch_vcpu_ioctl_run, wait_for_init};

/// `KVM_REQ_VM_DEAD`.
pub const REQ_VM_DEAD: u64 = 1;
/// `KVM_REQ_OUTSIDE_GUEST_MODE`.
pub const REQ_OUTSIDE_GUEST_MODE: u64 = 1 << 1;

/// `KVM_MAX_MCE_BANKS`.
const KVM_MAX_MCE_BANKS: u64 = 32;

/// `enum vcpu_tdx_state`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VcpuTdState {
    /// Created; KVM_TDX_INIT_VCPU has not succeeded.
    Uninitialized,
    /// The module knows it.
    Initialized,
}

impl Word for VcpuTdState {
    fn to_word(self) -> u64 {
        self as u64
    }
    fn from_word(word: u64) -> VcpuTdState {
        if word == 0 {
            VcpuTdState::Uninitialized
        } else {
            VcpuTdState::Initialized
        }
    }
}

/// `vcpu->mode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// `OUTSIDE_GUEST_MODE`.
    Outside,
    /// `IN_GUEST_MODE`.
    InGuest,
    /// `EXITING_GUEST_MODE`.
    Exiting,
}

impl Word for Mode {
    fn to_word(self) -> u64 {
        self as u64
    }
    fn from_word(word: u64) -> Mode {
        match word {
            0 => Mode::Outside,
            1 => Mode::InGuest,
            _ => Mode::Exiting,
        }
    }
}

/// The pages of a vCPU that the module keeps.
#[derive(Clone, Debug, Default)]
pub(crate) struct TdPages {
    pub(crate) tdvpr: Option<Hpa>,
    /// Pages that were added.
    pub(crate) tdcx: Vec<Hpa>,
}

/// What `vcpu->mutex` guards.
#[derive(Debug, Default)]
pub(crate) struct State {
    pub(crate) pages: TdPages,
    pub(crate) cpuid: Vec<KvmCpuidEntry2>,
    /// The vCPU has page-table roots.
    pub(crate) has_roots: bool,
    pub(crate) apic_base: u64,
    pub(crate) tsc_khz: u32,
    pub(crate) has_run: bool,
    /// `vcpu->arch.mcg_cap`.
    pub(crate) mcg_cap: u64,
    /// Signals that are blocked during KVM_RUN (`vcpu->sigset`).
    pub(crate) signal_mask: Option<u64>,
    /// What the next KVM_RUN does first.
    pub(crate) complete: Option<exit::Completion>,
    /// Events that user space or the guest may still see.
    pub(crate) events: KvmVcpuEvents,
    /// Registers for the next TDH.VP.ENTER (`vp_enter_args`).
    pub(crate) vp_enter: Regs,
    /// The last TD exit was a halt, and the guest said that interrupts can't wake it.
    pub(crate) halted_with_interrupts_blocked: bool,
    /// MSRs that KVM emulates, where the guest wrote them.
    pub(crate) msrs: BTreeMap<u32, u64>,
    /// The VM's feature MSRs are user space's to set up: they start as zero.
    pub(crate) unstuffed: bool,
    /// `vcpu->arch.pv_cpuid.enforce`.
    pub(crate) enforce_pv_features: bool,
    pub(crate) hyperv: HypervVcpu,
    /// `vmx->nested`.
    pub(crate) nested: NestedVmx,
    pub(crate) xen: XenVcpu,
    /// Registers; None for a TD, which keeps them to itself.
    pub(crate) registers: Option<Box<Registers>>,
}

/// CPUID 0x80000008 EAX, where 0x80000000 says that it is there.
fn address_sizes(cpuid: &[KvmCpuidEntry2]) -> Option<u32> {
    let leaf = |leaf| cpuid.iter().find(move |e| e.function == leaf);
    let extended = leaf(0x8000_0000).filter(|e| e.eax >= 0x8000_0008);
    extended.and_then(|_| leaf(0x8000_0008)).map(|e| e.eax)
}

/// `cpuid_query_maxphyaddr`: bits of a physical address.
fn maxphyaddr(cpuid: &[KvmCpuidEntry2]) -> u32 {
    address_sizes(cpuid).map_or(36, |eax| eax & 0xff)
}

impl State {
    /// Bits of a physical address of the guest.
    pub(crate) fn maxphyaddr(&self) -> u32 {
        maxphyaddr(&self.cpuid)
    }

    /// `cpuid_query_maxguestphyaddr`: bits of a guest's physical address; 0 when CPUID does not say.
    pub(crate) fn maxguestphyaddr(&self) -> u32 {
        address_sizes(&self.cpuid).map_or(0, |eax| eax >> 16 & 0xff)
    }
}

/// One vCPU.
#[derive(Debug)]
pub struct Vcpu {
    /// The id that user space chose; also the x2APIC id.
    pub id: u32,
    /// The VM's number.
    pub vm: u64,
    born_at: usize,
    idx: AtomicI64,
    pub(crate) mutex: Mutex<()>,
    cpu: Shared<i64>,
    td_state: Shared<VcpuTdState>,
    mp_state: Shared<u32>,
    /// `vcpu->arch.pv.pv_unhalted`: another vCPU's hypercall ended this one's halt.
    pv_unhalted: Shared<bool>,
    requests: Shared<u64>,
    mode: Shared<Mode>,
    exits: Shared<u64>,
    wait: WaitQueue,
    pub(crate) state: Private<State>,
    pub(crate) arch: VcpuArch,
    stats: Stats,
    run: Arc<dyn RunPage>,
    dirty_ring: DirtyRing,
}

impl Vcpu {
    /// A vCPU that shares `run` with user space, with the VM's dirty ring of `ring_bytes` in it.
    fn new(kvm: &Kvm, born_at: usize, id: u32, (run, ring_bytes): (Arc<dyn RunPage>, u32)) -> Vcpu {
        let (vm, n) = (kvm.number, born_at as u64);
        Vcpu {
            id,
            vm,
            born_at,
            idx: AtomicI64::new(-1),
            mutex: Mutex::new(locks::VCPU_MUTEX.of(vm, n), ()),
            cpu: Shared::new(cells::VCPU_CPU.of(vm, n), -1),
            td_state: Shared::new(cells::VCPU_STATE.of(vm, n), VcpuTdState::Uninitialized),
            mp_state: Shared::new(cells::MP_STATE.of(vm, n), 0),
            pv_unhalted: Shared::new(cells::PV_UNHALTED.of(vm, n), false),
            requests: Shared::new(cells::REQUESTS.of(vm, n), 0),
            mode: Shared::new(cells::VCPU_MODE.of(vm, n), Mode::Outside),
            exits: Shared::new(cells::VCPU_EXITS.of(vm, n), 0),
            wait: WaitQueue::new(cells::VCPU_WAIT.of(vm, n)),
            state: Private::default(),
            arch: VcpuArch::new(vm, n),
            stats: Stats::vcpu(kvm.mm, id),
            run,
            dirty_ring: DirtyRing::new(ring_bytes),
        }
    }

    /// The vCPU's place in the order of creation, those that failed counted.
    pub fn born_at(&self) -> usize {
        self.born_at
    }

    /// `vcpu->vcpu_idx`; -1 before it is reachable.
    pub fn idx(&self) -> i64 {
        self.idx.load(SeqCst)
    }

    /// `tdx->state`.
    pub fn td_state(&self) -> VcpuTdState {
        self.td_state.load()
    }

    pub(crate) fn set_td_state(&self, state: VcpuTdState) {
        self.td_state.store(state);
    }

    /// `KVM_MP_STATE_*`.
    pub fn mp_state(&self) -> u32 {
        self.mp_state.load()
    }

    /// `kvm_set_mp_state`.
    pub(crate) fn set_mp_state(&self, state: u32) {
        self.mp_state.store(state);
        if state == KVM_MP_STATE_RUNNABLE && self.is_unhalted() {
            self.pv_unhalted.store(false);
        }
        self.wait.notify();
    }

    /// The CPU that the vCPU is or was loaded on; -1 for none.
    pub fn cpu(&self) -> i64 {
        self.cpu.load()
    }

    /// Whether somebody holds `vcpu->mutex` now. For reports and tests.
    pub fn is_busy(&self) -> bool {
        self.mutex.is_locked()
    }

    /// Signals that KVM_RUN blocks instead of those that its thread does, signal 1 in bit 0.
    pub fn signal_mask(&self) -> Option<u64> {
        self.state.with(|state| state.signal_mask)
    }

    /// The page that it shares with user space.
    pub fn run_page(&self) -> &Arc<dyn RunPage> {
        &self.run
    }

    /// What the architecture keeps of it.
    pub fn arch(&self) -> &VcpuArch {
        &self.arch
    }

    /// Whether somebody has the vCPU's mutex now. For tests and reports only.
    pub fn is_locked(&self) -> bool {
        self.mutex.is_locked()
    }

    /// What KVM_GET_STATS_FD shows.
    pub fn stats(&self) -> &Stats {
        &self.stats
    }

    /// `kvm_vcpu_kick`: wakes the vCPU if it sleeps, to look at its interrupts, or its thread's signals
    /// sooner than it would by itself.
    pub fn kick(&self) {
        self.wait.notify();
    }

    /// `kvm_vcpu_block`: sleeps until `ready`, a signal or the VM's death.
    pub(crate) fn block(&self, task: &Task, ready: impl Fn() -> bool) {
        let woken = || ready() || self.is_vm_dead_requested();
        self.stats.set(stats::BLOCKING, true);
        // The caller looks for the signal itself.
        let _ = self.wait.wait_until(woken, || task.signal_pending());
        self.stats.set(stats::BLOCKING, false);
    }

    /// The TDVPR page, if the module knows the vCPU.
    pub fn tdvpr(&self) -> Option<Hpa> {
        self.state.with(|state| state.pages.tdvpr)
    }

    pub(crate) fn set_td_pages(&self, pages: TdPages) {
        self.state.with(|state| state.pages = pages);
    }

    pub(crate) fn add_tdcx(&self, page: Hpa) {
        self.state.with(|state| state.pages.tdcx.push(page));
    }

    pub(crate) fn has_roots(&self) -> bool {
        self.state.with(|state| state.has_roots)
    }

    pub(crate) fn set_roots(&self) {
        self.state.with(|state| state.has_roots = true);
    }

    /// `kvm_make_request`, and a kick out of sleep or of the guest.
    pub(crate) fn make_request(&self, request: u64) {
        let mut held = self.requests.load();
        while let Err(now) = self.requests.compare_exchange(held, held | request) {
            held = now;
        }
        // kvm_vcpu_exiting_guest_mode; fails when the vCPU is outside, and then needs no kick.
        let _ = self.mode.compare_exchange(Mode::InGuest, Mode::Exiting);
        self.wait.notify();
    }

    /// `kvm_clear_request`.
    fn clear_requests(&self, requests: u64) {
        let mut held = self.requests.load();
        while held & requests != 0
            && let Err(now) = self.requests.compare_exchange(held, held & !requests)
        {
            held = now;
        }
    }

    /// `kvm_test_request(KVM_REQ_VM_DEAD)`.
    #[inline]
    pub(crate) fn is_vm_dead_requested(&self) -> bool {
        self.requests.load() & REQ_VM_DEAD != 0
    }
}

/// A vCPU and the VM it belongs to, kept alive.
#[derive(Clone, Debug)]
pub struct VcpuRef {
    kvm: Arc<Kvm>,
    vcpu: Arc<Vcpu>,
}

impl VcpuRef {
    fn new(kvm: Arc<Kvm>, vcpu: Arc<Vcpu>) -> VcpuRef {
        VcpuRef { kvm, vcpu }
    }

    /// The VM.
    pub fn kvm(&self) -> &Arc<Kvm> {
        &self.kvm
    }

    /// The id that user space chose.
    pub fn id(&self) -> u32 {
        self.vcpu().id
    }

    /// The vCPU.
    #[inline]
    pub fn vcpu(&self) -> &Vcpu {
        &self.vcpu
    }
}

impl Deref for VcpuRef {
    type Target = Vcpu;

    fn deref(&self) -> &Vcpu {
        self.vcpu()
    }
}
