//! A VM: `struct kvm`, `struct kvm_arch` and `struct kvm_tdx`.
//!
//! # Locking
//! | field | guarded by |
//! |---|---|
//! | `created_vcpus` | written under `kvm->lock`; INIT_VM reads it under the guard |
//! | `online_vcpus`, `vcpu_array` | written under `kvm->lock`; read without |
//! | `arch` | `kvm->lock` |
//! | `memslots`, `attributes`, `tdx.page_add_src` | `slots_lock`; memslots are read under SRCU too |
//! | `mirror` | `mmu_lock`: read to add, write to remove |
//! | `tdx.state`, `tdx.hkid`, `vm_dead` | nothing; written under the guard |
//!
//! Order: `lock` > every `vcpu->mutex` > `slots_lock` > `slots_arch_lock` > `mmu_lock`. A
//! [`Private`] stands where the kernel's lock is another object; it is never held across an operation
//! that a hook sees.

mod attributes;
mod create;
mod destroy;
mod dirty_bitmap;
pub mod eventfds;
mod memslots;
mod msr_filter;
mod notifier;
mod set_memory_region;
mod srcu;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use elsa::sync::FrozenVec;
use seamlock_sync::{Mutex, Name, Private, RwLock, Shared};
use seamlock_tdx_abi::kvm::{
    KVM_CAP_PMU_CAPABILITY, KVM_PMU_CAP_DISABLE, KVM_X86_QUIRK_IGNORE_GUEST_PAT, KVM_X86_TDX_VM,
};
use seamlock_tdx_abi::{Gfn, PAGE_SHIFT};

use crate::arch::VmArch;
use crate::bug::Bug;
use crate::discipline::Discipline;
use crate::host::{Host, Owner};
use crate::ioctl::XenVm;
use crate::locks::{self, cells};
use crate::mmu::Mirror;
use crate::sev::KvmSev;
use crate::stats::Stats;
use crate::task::Task;
use crate::tdx::KvmTdx;
use crate::tdx::seamcall::On;
use crate::vcpu::{REQ_VM_DEAD, Vcpu};

pub use attributes::Attributes;
pub(crate) use attributes::set_memory_attributes;
pub use create::create_vm;
pub use destroy::{Reclaimed, Teardown};
pub(crate) use dirty_bitmap::DirtyBitmap;
pub use eventfds::Eventfds;
pub use memslots::{Change, KVM_USER_MEM_SLOTS, Memslots, Slot};
pub use msr_filter::{MsrFilter, MsrFilterRange};
pub(crate) use set_memory_region::{set_internal_memslot, set_memory_region};
pub use srcu::{Srcu, SrcuReader};

/// `KVM_MAX_VCPUS` of a distribution's kernel.
pub const KVM_MAX_VCPUS: u32 = 1024;
/// `KVM_MAX_VCPU_IDS`.
pub const KVM_MAX_VCPU_IDS: u32 = KVM_MAX_VCPUS * 4;

/// Where interrupts are handled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Irqchip {
    /// User space.
    None,
    /// Local APICs in the kernel, the I/O APIC in user space.
    Split,
    /// All in the kernel.
    Kernel,
}

/// What `kvm->lock` guards in `struct kvm_arch`.
#[derive(Clone, Debug)]
pub struct Arch {
    /// Where interrupts are handled.
    pub irqchip: Irqchip,
    /// Most vCPUs.
    pub max_vcpus: u32,
    /// Bound of vCPU ids; 0 until it is set or a vCPU is created.
    pub max_vcpu_ids: u32,
    /// The id of the boot processor.
    pub bsp_vcpu_id: u32,
    /// TSC frequency of new vCPUs in kHz.
    pub default_tsc_khz: u32,
    /// Length of an APIC bus cycle in nanoseconds.
    pub apic_bus_cycle_ns: u64,
    /// Hypercalls that exit to user space.
    pub hypercall_exit_enabled: u64,
    /// Notify VM exit flags, and its window.
    pub notify_vmexit: u64,
    /// Bus locks exit to user space.
    pub bus_lock_detection: bool,
    /// Bytes of each vCPU's dirty ring (`kvm->dirty_ring_size`); 0 for none.
    pub dirty_ring_size: u32,
    /// Quirks that user space does not want.
    pub disabled_quirks: u64,
    /// Where the guest wants the time of its boot.
    pub wall_clock: u64,
    /// MSRs that KVM_X86_SET_MSR_FILTER keeps from the guest.
    pub msr_filter: Option<Arc<MsrFilter>>,
    /// Other capabilities that were enabled, with their first arguments.
    pub enabled: BTreeMap<u32, u64>,
}

/// One VM.
#[derive(Debug)]
pub struct Kvm {
    /// The machine.
    pub host: Arc<Host>,
    /// The VM's number on its machine, from 1.
    pub number: u64,
    /// `KVM_X86_*_VM`.
    pub vm_type: u64,
    /// The address space of the process that created it.
    pub mm: u64,
    /// How it locks.
    pub discipline: &'static Discipline,
    pub(crate) lock: Mutex<()>,
    pub(crate) slots_lock: Mutex<()>,
    pub(crate) slots_arch_lock: Mutex<()>,
    pub(crate) mmu_lock: RwLock<()>,
    pub(crate) apic_map_lock: Mutex<()>,
    pub(crate) srcu: Srcu,
    pub(crate) created_vcpus: Shared<u32>,
    pub(crate) online_vcpus: Shared<u32>,
    pub(crate) vm_dead: Shared<bool>,
    pub(crate) vm_bugged: Shared<bool>,
    pub(crate) pre_fault_allowed: Shared<bool>,
    pub(crate) users_count: Shared<u64>,
    /// Every vCPU that was ever created, those whose creation failed included.
    pub(crate) born: FrozenVec<Arc<Vcpu>>,
    /// Held while a vCPU is put into `born`, so that it knows its place.
    pub(crate) birth: Private<()>,
    /// Indices into `born`, by `vcpu_idx`.
    pub(crate) vcpu_array: Private<Vec<usize>>,
    pub(crate) arch: Private<Arch>,
    pub(crate) memslots: Memslots,
    /// irqfds and ioeventfds.
    pub eventfds: Eventfds,
    pub(crate) attributes: Attributes,
    pub(crate) mirror: Mirror,
    pub(crate) tdx: KvmTdx,
    pub(crate) sev: KvmSev,
    pub(crate) arch_vm: VmArch,
    pub(crate) next_gmem: AtomicU64,
    pub(crate) bugs: Private<Vec<Bug>>,
    pub(crate) reclaimed: Reclaimed,
    pub(crate) stats: Stats,
    pub(crate) xen: Private<XenVm>,
    /// Hyper-V's MSRs of the whole VM, where they were written.
    pub(crate) hyperv: Private<BTreeMap<u32, u64>>,
}

impl Kvm {
    fn new(host: &Arc<Host>, number: u64, vm_type: u64, mm: u64) -> Kvm {
        let n = number;
        Kvm {
            host: host.clone(),
            number,
            vm_type,
            mm,
            discipline: host.discipline(),
            lock: Mutex::new(locks::VM_LOCK.at(n), ()),
            slots_lock: Mutex::new(locks::SLOTS_LOCK.at(n), ()),
            slots_arch_lock: Mutex::new(locks::SLOTS_ARCH_LOCK.at(n), ()),
            mmu_lock: RwLock::new(locks::MMU_LOCK.at(n), ()),
            apic_map_lock: Mutex::new(locks::APIC_MAP_LOCK.at(n), ()),
            srcu: Srcu::new(n),
            created_vcpus: Shared::new(cells::CREATED_VCPUS.at(n), 0),
            online_vcpus: Shared::new(cells::ONLINE_VCPUS.at(n), 0),
            vm_dead: Shared::new(cells::VM_DEAD.at(n), false),
            vm_bugged: Shared::new(cells::VM_BUGGED.at(n), false),
            // For a TD only FINALIZE_VM allows it.
            pre_fault_allowed: Shared::new(
                cells::PRE_FAULT_ALLOWED.at(n),
                vm_type != KVM_X86_TDX_VM,
            ),
            users_count: Shared::new(cells::USERS_COUNT.at(n), 1),
            born: FrozenVec::new(),
            birth: Private::default(),
            vcpu_array: Private::default(),
            arch: Private::new(Arch::new(host, vm_type)),
            memslots: Memslots::new(n),
            eventfds: Eventfds::default(),
            attributes: Attributes::new(n),
            mirror: Mirror::new(n),
            tdx: KvmTdx::new(n),
            sev: KvmSev::new(n, vm_type),
            arch_vm: VmArch::new(n),
            next_gmem: AtomicU64::new(0),
            bugs: Private::default(),
            reclaimed: Reclaimed::default(),
            stats: Stats::vm(mm),
            xen: Private::default(),
            hyperv: Private::default(),
        }
    }

    /// Whether this is a TD.
    pub fn is_td(&self) -> bool {
        self.vm_type == KVM_X86_TDX_VM
    }

    /// The TDX half.
    pub fn tdx(&self) -> &KvmTdx {
        &self.tdx
    }

    /// The SEV half.
    pub fn sev(&self) -> &KvmSev {
        &self.sev
    }

    /// The mirror page tables.
    pub fn mirror(&self) -> &Mirror {
        &self.mirror
    }

    /// The memslots.
    pub fn memslots(&self) -> &Memslots {
        &self.memslots
    }

    /// Whether a guest frame is private by its attributes (`kvm_mem_is_private`).
    pub fn is_private(&self, gfn: Gfn) -> bool {
        self.attributes.is_private(gfn)
    }

    /// Whether the VM type has private memory (`kvm_arch_has_private_mem`).
    pub fn has_private_mem(&self) -> bool {
        matches!(self.vm_type, 1 | 4 | 5)
    }

    /// Bytes of each vCPU's dirty ring; 0 for none.
    pub fn dirty_ring_size(&self) -> u32 {
        self.arch.with(|arch| arch.dirty_ring_size)
    }

    /// Whether user space does not want a quirk (the opposite of `kvm_check_has_quirk`).
    pub(crate) fn has_quirk_disabled(&self, quirk: u64) -> bool {
        self.arch.with(|arch| arch.disabled_quirks & quirk != 0)
    }

    /// `kvm->arch.enable_pmu`: a TD's PMU is the module's.
    pub(crate) fn has_pmu(&self) -> bool {
        let disabled = self.arch.with(|arch| arch.enabled(KVM_CAP_PMU_CAPABILITY));
        !self.is_td() && disabled.unwrap_or(0) & KVM_PMU_CAP_DISABLE == 0
    }

    /// Whose the VM's own pages are.
    pub(crate) fn owner(&self) -> Owner {
        Owner::vm(self.number)
    }

    /// Where a SEAMCALL of `task` is made; the task may be moved to another CPU right before.
    #[inline]
    #[track_caller]
    pub(crate) fn on<'a>(&'a self, task: &Task) -> On<'a> {
        task.resched();
        self.on_this_cpu(task)
    }

    /// Where a SEAMCALL of `task` is made while it can't be preempted (`mmu_lock` is a spinlock).
    #[inline]
    pub(crate) fn on_this_cpu<'a>(&'a self, task: &Task) -> On<'a> {
        On {
            host: &self.host,
            cpu: task.cpu(),
        }
    }

    /// `kvm_for_each_vcpu`: the vCPUs that are online, by index.
    pub fn vcpus(&self) -> impl Iterator<Item = &Vcpu> {
        let online = self.online_vcpus.load() as usize;
        (0..online).map_while(|idx| self.vcpu(idx))
    }

    /// `kvm_get_vcpu`: the vCPU of an index, online or about to be.
    pub(crate) fn vcpu(&self, idx: usize) -> Option<&Vcpu> {
        let at = self.vcpu_array.with(|array| array.get(idx).copied())?;
        self.born.get(at)
    }

    /// `kvm_get_vcpu_by_id`.
    pub(crate) fn vcpu_by_id(&self, id: u32) -> Option<&Vcpu> {
        self.vcpus().find(|vcpu| vcpu.id == id)
    }

    /// `kvm_vm_bugged`: marks the VM bugged and dead, and tells its vCPUs.
    pub(crate) fn vm_bugged(&self) {
        self.vm_bugged.store(true);
        self.kill();
    }

    /// `kvm_vm_dead`.
    pub(crate) fn kill(&self) {
        self.vm_dead.store(true);
        self.make_all_cpus_request(REQ_VM_DEAD);
    }

    /// The VM's locks that somebody holds now, those of its vCPUs included. For reports and tests.
    pub fn held_locks(&self) -> Vec<Name> {
        let locks = [
            &self.lock,
            &self.slots_lock,
            &self.slots_arch_lock,
            &self.apic_map_lock,
        ];
        let vcpus = (0..self.born.len()).filter_map(|at| self.born.get(at).map(|v| &v.mutex));
        let held = locks.into_iter().chain(vcpus).filter(|l| l.is_locked());
        let mut names: Vec<Name> = held.map(|lock| lock.name()).collect();
        if self.mmu_lock.is_locked() {
            names.push(self.mmu_lock.name());
        }
        names
    }

    /// vCPUs that were created, those that are being created included, and vCPUs that are online.
    pub fn vcpu_counts(&self) -> (u32, u32) {
        (self.created_vcpus.load(), self.online_vcpus.load())
    }

    /// Whether every ioctl answers -EIO.
    pub fn is_dead(&self) -> bool {
        self.vm_dead.load()
    }

    /// `kvm_make_all_cpus_request` without KVM_REQUEST_WAIT.
    pub(crate) fn make_all_cpus_request(&self, request: u64) {
        for vcpu in self.vcpus() {
            vcpu.make_request(request);
        }
    }

    /// `kvm_get_kvm`.
    pub(crate) fn get(&self) {
        self.users_count.fetch_add(1);
    }

    /// `kvm_put_kvm`: the last reference destroys the VM, on the task's thread and CPU.
    pub(crate) fn put(self: &Arc<Kvm>, task: &Task) {
        if self.users_count.fetch_sub(1) == 1 {
            destroy::kvm_destroy_vm(self, task);
        }
    }

    /// Highest guest frame that EPT can map (`kvm_mmu_max_gfn`): by the host's MAXPHYADDR.
    pub(crate) fn max_gfn(&self) -> u64 {
        (1 << (self.host.module().platform().maxpa - PAGE_SHIFT)) - 1
    }
}

impl Arch {
    fn new(host: &Host, vm_type: u64) -> Arch {
        // A TD is limited to the CPUs that are present (tdx.c:661 tdx_vm_init).
        let present = host.cpus().len() as u32;
        let td = vm_type == KVM_X86_TDX_VM;
        Arch {
            irqchip: Irqchip::None,
            max_vcpus: if td {
                KVM_MAX_VCPUS.min(present)
            } else {
                KVM_MAX_VCPUS
            },
            max_vcpu_ids: 0,
            bsp_vcpu_id: 0,
            default_tsc_khz: (host.module().platform().native_tsc_hz / 1000) as u32,
            apic_bus_cycle_ns: 1,
            hypercall_exit_enabled: 0,
            notify_vmexit: 0,
            bus_lock_detection: false,
            disabled_quirks: if td {
                KVM_X86_QUIRK_IGNORE_GUEST_PAT
            } else {
                0
            },
            dirty_ring_size: 0,
            wall_clock: 0,
            msr_filter: None,
            enabled: BTreeMap::new(),
        }
    }

    /// The argument that a capability was enabled with.
    pub fn enabled(&self, cap: u32) -> Option<u64> {
        self.enabled.get(&cap).copied()
    }
}
