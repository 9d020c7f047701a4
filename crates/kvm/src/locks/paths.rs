//! What each call is declared to take, in order: the table that observed runs are compared with.
//!
//! Where disciplines differ the row says which of the discipline's lists stands there, so that the
//! table holds for all of them.

use std::fmt;

use seamlock_sync::Class;
use seamlock_tdx_abi::kvm::TdxCmdId;

use super::*;
use crate::discipline::{Commands, Discipline, GmemPopulate, Population, Step, Unlocked};
use crate::lockdep::{Acquisition, Mode};

/// A class and how it is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Take {
    /// The class.
    pub class: &'static Class,
    /// How.
    pub mode: Mode,
    /// At which depth.
    pub subclass: u8,
}

impl Take {
    const fn new(class: &'static Class, mode: Mode) -> Take {
        Take {
            class,
            mode,
            subclass: 0,
        }
    }

    /// What an acquisition takes.
    pub fn of(acquisition: &Acquisition) -> Take {
        let Acquisition {
            class,
            mode,
            subclass,
            ..
        } = *acquisition;
        Take {
            class: class.class,
            mode,
            subclass,
        }
    }
}

impl fmt::Display for Take {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = class_of(self.class).map_or(Kind::Mutex, |known| known.kind);
        f.write_str(self.class.name())?;
        if self.subclass != 0 {
            write!(f, "/{}", self.subclass)?;
        }
        f.write_str(self.mode.suffix(kind))
    }
}

/// Part of a row.
#[derive(Clone, Copy, Debug)]
pub enum Part {
    /// These, always.
    Takes(&'static [Take]),
    /// A list of the discipline's.
    Steps(fn(&Commands) -> &'static [Step]),
    /// A vCPU command of KVM_MEMORY_ENCRYPT_OP up to its work: unlocked, under `vcpu->mutex`, or one
    /// after the other; where the vCPU is loaded; and the command's own lists.
    VcpuCommand(TdxCmdId, fn(&Commands) -> [&'static [Step]; 2]),
    /// One page on its way into a TD.
    Populate,
    /// The guard, unless CAPABILITIES is answered before.
    CapabilitiesGuard,
    /// `mmu_lock` around TDH.VP.INIT, where it is taken.
    VpInit,
    /// `mmu_lock` around TDH.MR.FINALIZE, where the discipline takes it.
    MrFinalize,
}

/// One row: a call, and what it takes.
#[derive(Clone, Copy, Debug)]
pub struct Path {
    /// The call, by the kernel's name, with the command in brackets.
    pub call: &'static str,
    /// What it takes, in order.
    pub parts: &'static [Part],
    /// Where.
    pub source: &'static str,
}

const fn lock(class: &'static Class) -> Take {
    Take::new(class, Mode::Exclusive)
}

const fn read(class: &'static Class) -> Take {
    Take::new(class, Mode::Shared)
}

const fn inside(class: &'static Class) -> Take {
    Take::new(class, Mode::Inside)
}

const GRACE: Take = Take::new(&SRCU, Mode::Wait);
/// `vcpu_load` of a vCPU that was on another CPU.
const LOAD: Part = Part::Takes(&[inside(&PREEMPT_OFF), lock(&IRQS_OFF)]);
const VCPU: Part = Part::Takes(&[lock(&VCPU_MUTEX)]);
const VM: Part = Part::Takes(&[lock(&VM_LOCK)]);

macro_rules! paths {
    ($($call:literal => $source:literal, [$($part:expr),*];)*) => {
        /// Every call that takes a lock of KVM's.
        pub static PATHS: &[Path] = &[
            $(Path { call: $call, source: $source, parts: &[$($part),*] },)*
        ];
    };
}

paths! {
    "KVM_CREATE_VM" => "kvm_main.c kvm_create_vm", [
        Part::Takes(&[lock(&KVM_USAGE_LOCK), read(&CPUS_LOCK), lock(&KVM_LOCK)])];
    "KVM_ENABLE_CAP(KVM_CAP_SPLIT_IRQCHIP)" => "x86.c kvm_vm_ioctl_enable_cap", [VM];
    "KVM_ENABLE_CAP(KVM_CAP_DIRTY_LOG_RING)" => "kvm_main.c kvm_vm_ioctl_enable_dirty_log_ring", [VM];
    "KVM_CREATE_IRQCHIP" => "x86.c kvm_arch_vm_ioctl", [VM];
    "KVM_CREATE_PIT" => "x86.c kvm_arch_vm_ioctl", [VM];
    "KVM_CREATE_PIT2" => "x86.c kvm_arch_vm_ioctl", [VM];
    "KVM_SET_PMU_EVENT_FILTER" => "pmu.c kvm_vm_ioctl_set_pmu_event_filter", [VM];
    "KVM_X86_SET_MSR_FILTER" => "msrs.c kvm_vm_ioctl_set_msr_filter", [VM, Part::Takes(&[GRACE])];
    "KVM_GET_DIRTY_LOG" => "kvm_main.c kvm_vm_ioctl_get_dirty_log", [
        Part::Takes(&[lock(&SLOTS_LOCK)])];
    "KVM_CLEAR_DIRTY_LOG" => "kvm_main.c kvm_vm_ioctl_clear_dirty_log", [
        Part::Takes(&[lock(&SLOTS_LOCK)])];
    "KVM_RESET_DIRTY_RINGS" => "kvm_main.c kvm_vm_ioctl_reset_dirty_pages", [
        Part::Takes(&[lock(&SLOTS_LOCK)])];
    "KVM_SET_NR_MMU_PAGES" => "x86.c kvm_vm_ioctl_set_nr_mmu_pages", [
        Part::Takes(&[lock(&SLOTS_LOCK)])];
    "KVM_TRANSLATE" => "x86.c kvm_arch_vcpu_ioctl_translate", [
        VCPU, LOAD, Part::Takes(&[inside(&SRCU)])];
    "KVM_GET_MSRS(vCPU)" => "msrs.c kvm_get_msrs", [VCPU, LOAD, Part::Takes(&[inside(&SRCU)])];
    "KVM_SET_MSRS" => "msrs.c kvm_set_msrs", [VCPU, LOAD, Part::Takes(&[inside(&SRCU)])];
    "KVM_XEN_VCPU_SET_ATTR" => "xen.c kvm_xen_vcpu_set_attr", [
        VCPU, LOAD, Part::Takes(&[inside(&SRCU)])];
    "KVM_SET_VAPIC_ADDR" => "x86.c kvm_arch_vcpu_ioctl", [
        VCPU, LOAD, Part::Takes(&[inside(&SRCU)])];
    "KVM_SET_BOOT_CPU_ID" => "x86.c kvm_arch_vm_ioctl", [VM];
    "KVM_SET_IDENTITY_MAP_ADDR" => "x86.c kvm_arch_vm_ioctl", [VM];
    "KVM_SET_TSC_KHZ(VM)" => "x86.c kvm_arch_vm_ioctl", [VM];
    "KVM_TDX_CAPABILITIES" => "tdx.c tdx_vm_ioctl", [Part::CapabilitiesGuard];
    "KVM_TDX_INIT_VM" => "tdx.c tdx_vm_ioctl, __tdx_td_init", [
        Part::Steps(|c| c.vm), Part::Steps(|c| c.init_vm),
        Part::Takes(&[lock(&HKID_POOL), read(&CPUS_LOCK), lock(&TDX_LOCK)])];
    "KVM_CREATE_VCPU" => "kvm_main.c kvm_vm_ioctl_create_vcpu", [
        VM, LOAD, VCPU];
    "KVM_SET_CPUID2" => "kvm_main.c kvm_vcpu_ioctl", [VCPU, LOAD];
    "KVM_TDX_INIT_VCPU" => "tdx.c tdx_vcpu_init", [
        Part::VcpuCommand(TdxCmdId::KVM_TDX_INIT_VCPU, |c| [c.init_vcpu, &[]]),
        Part::Takes(&[lock(&APIC_MAP_LOCK)]), Part::VpInit];
    "KVM_TDX_GET_CPUID" => "tdx.c tdx_vcpu_get_cpuid", [
        Part::VcpuCommand(TdxCmdId::KVM_TDX_GET_CPUID, |c| [c.get_cpuid, &[]])];
    "KVM_TDX_INIT_MEM_REGION" => "tdx.c tdx_vcpu_init_mem_region", [
        Part::VcpuCommand(TdxCmdId::KVM_TDX_INIT_MEM_REGION,
            |c| [c.init_mem_region, c.init_mem_region_tested]),
        Part::Populate];
    "KVM_TDX_FINALIZE_VM" => "tdx.c tdx_td_finalize", [
        Part::Steps(|c| c.vm), Part::Steps(|c| c.finalize_vm), Part::MrFinalize];
    "KVM_RUN" => "x86.c kvm_arch_vcpu_ioctl_run", [VCPU, LOAD, Part::Takes(&[inside(&SRCU)])];
    "KVM_GET_MP_STATE" => "x86.c kvm_arch_vcpu_ioctl_get_mpstate", [
        VCPU, LOAD, Part::Takes(&[inside(&SRCU)])];
    "KVM_SET_VCPU_EVENTS" => "x86.c kvm_arch_vcpu_ioctl", [
        VCPU, LOAD, Part::Takes(&[inside(&SRCU)])];
    "KVM_SET_MP_STATE" => "kvm_main.c kvm_vcpu_ioctl", [VCPU, LOAD];
    "KVM_PRE_FAULT_MEMORY" => "kvm_main.c kvm_vcpu_pre_fault_memory", [
        VCPU, LOAD, Part::Takes(&[inside(&SRCU), read(&MMU_LOCK)])];
    "KVM_SET_USER_MEMORY_REGION" => "kvm_main.c kvm_set_memory_region", [
        Part::Takes(&[lock(&SLOTS_LOCK), lock(&SLOTS_ARCH_LOCK), GRACE])];
    "KVM_SET_USER_MEMORY_REGION2(create)" => "kvm_main.c kvm_set_memory_region", [
        Part::Takes(&[lock(&SLOTS_LOCK), lock(&SLOTS_ARCH_LOCK), lock(&FILEMAP_LOCK), GRACE])];
    "KVM_SET_USER_MEMORY_REGION2(delete)" => "kvm_main.c kvm_set_memory_region", [
        Part::Takes(&[lock(&SLOTS_LOCK), lock(&SLOTS_ARCH_LOCK), GRACE, lock(&MMU_LOCK),
            lock(&FILEMAP_LOCK)])];
    "KVM_SET_MEMORY_ATTRIBUTES" => "kvm_main.c kvm_vm_set_mem_attributes", [
        Part::Takes(&[lock(&SLOTS_LOCK), lock(&MMU_LOCK)])];
    "fallocate" => "guest_memfd.c kvm_gmem_allocate", [Part::Takes(&[read(&FILEMAP_LOCK)])];
    "fallocate(PUNCH_HOLE)" => "guest_memfd.c kvm_gmem_punch_hole", [
        Part::Takes(&[lock(&FILEMAP_LOCK), lock(&MMU_LOCK)])];
    "memory failure" => "guest_memfd.c kvm_gmem_error_folio", [
        Part::Takes(&[read(&FILEMAP_LOCK), lock(&MMU_LOCK)])];
    "close(guest_memfd)" => "guest_memfd.c kvm_gmem_release", [
        Part::Takes(&[lock(&SLOTS_LOCK), lock(&FILEMAP_LOCK), lock(&MMU_LOCK)])];
    "munmap" => "kvm_main.c kvm_mmu_notifier_invalidate_range_start", [
        Part::Takes(&[inside(&MMAP_LOCK), inside(&MMU_NOTIFIER), inside(&SRCU), lock(&MMU_LOCK)])];
    "CPU offline" => "tdx.c tdx_disable_virtualization_cpu", [
        Part::Takes(&[lock(&CPUS_LOCK), lock(&IRQS_OFF)])];
    "CPU online" => "kernel/cpu.c", [Part::Takes(&[lock(&CPUS_LOCK)])];
    "close(VM)" => "kvm_main.c kvm_destroy_vm", [
        Part::Takes(&[lock(&KVM_LOCK), read(&CPUS_LOCK), lock(&IRQS_OFF), lock(&TDX_LOCK),
            lock(&HKID_POOL), lock(&MMU_LOCK), lock(&KVM_USAGE_LOCK)])];
}

/// What a call is declared to take under a discipline, each class once per way of taking it.
pub fn declared(path: &Path, discipline: &Discipline) -> Vec<Take> {
    let mut takes: Vec<Take> = Vec::new();
    let mut add = |more: &[Take]| {
        for take in more {
            if !takes.contains(take) {
                takes.push(*take);
            }
        }
    };
    for part in path.parts {
        add(&expand(part, discipline));
    }
    takes
}

fn expand(part: &Part, discipline: &Discipline) -> Vec<Take> {
    let commands = &discipline.commands;
    match part {
        Part::Takes(takes) => takes.to_vec(),
        Part::Steps(list) => steps(list(commands)),
        Part::VcpuCommand(id, own) => vcpu_command(*id, own(commands), commands),
        Part::Populate => populate(discipline),
        Part::CapabilitiesGuard if commands.capabilities_first => Vec::new(),
        Part::CapabilitiesGuard => steps(commands.vm),
        Part::VpInit if discipline.seal.cpus_stay_online => {
            vec![read(&CPUS_LOCK), lock(&MMU_LOCK)]
        }
        Part::VpInit if discipline.vp_init_under_mmu_lock => vec![lock(&MMU_LOCK)],
        Part::MrFinalize if discipline.finalize_under_mmu_lock => {
            let cpus = discipline.seal.cpus_stay_online.then_some(read(&CPUS_LOCK));
            cpus.into_iter().chain([lock(&MMU_LOCK)]).collect()
        }
        Part::VpInit | Part::MrFinalize => Vec::new(),
    }
}

fn steps(steps: &[Step]) -> Vec<Take> {
    let take = |step: &Step| match step {
        Step::KvmLock => Some(lock(&VM_LOCK)),
        Step::AllVcpuMutexes => Some(lock(&VCPU_MUTEX)),
        Step::SlotsLock => Some(lock(&SLOTS_LOCK)),
        Step::RefuseCreationInFlight => None,
    };
    steps.iter().filter_map(take).collect()
}

fn vcpu_command(id: TdxCmdId, own: [&[Step]; 2], commands: &Commands) -> Vec<Take> {
    let own = own.concat();
    let load = [inside(&PREEMPT_OFF), lock(&IRQS_OFF)];
    let (before, mutex) = (steps(commands.vcpu_unlocked), vec![lock(&VCPU_MUTEX)]);
    let parts = match commands.unlocked {
        // The command loads the vCPU itself, when it has its locks.
        Unlocked::Only(ids) if ids.contains(&id) => vec![before, steps(&own), load.to_vec()],
        Unlocked::AfterLocks(ids) if ids.contains(&id) => vec![before, load.to_vec(), steps(&own)],
        Unlocked::AfterLocks(_) => vec![before, load.to_vec(), mutex, steps(&own)],
        Unlocked::Only(_) | Unlocked::Nothing => vec![mutex, load.to_vec(), steps(&own)],
    };
    parts.concat()
}

fn populate(discipline: &Discipline) -> Vec<Take> {
    let (mmap, filemap, mmu) = (inside(&MMAP_LOCK), lock(&FILEMAP_LOCK), read(&MMU_LOCK));
    match (discipline.population, discipline.gmem) {
        // The roots are loaded once and first.
        (Population::Premap, _) => vec![mmu, filemap, mmap],
        (_, GmemPopulate::PinsFirst) if discipline.seal.cpus_stay_online => {
            vec![mmap, filemap, read(&CPUS_LOCK), mmu]
        }
        (_, GmemPopulate::PinsFirst) => vec![mmap, filemap, mmu],
        (_, GmemPopulate::TracksPreparation) => vec![filemap, mmap, mmu],
    }
}
