//! Which request has which handler, for each kind of file.

use std::sync::{Arc, LazyLock};

use seamlock_tdx_abi::kvm::*;

use super::{
    cpuid, dirty_log, eventfd, hyperv, irqchip, msrs, nested, regs, stats, system, vcpu, vm, xen,
};
use crate::arch::interrupt;
use crate::error::Result;
use crate::file::Kind;
use crate::host::Host;
use crate::task::Task;
use crate::vcpu::VcpuRef;
use crate::vm::Kvm;

/// Handles an ioctl of `/dev/kvm`.
pub type SystemHandler = fn(&Task, &Arc<Host>, u64) -> Result<i64>;
/// Handles an ioctl of a VM.
pub type VmHandler = fn(&Task, &Arc<Kvm>, u64) -> Result<i64>;
/// Handles an ioctl of a vCPU.
pub type VcpuHandler = fn(&Task, &VcpuRef, u64) -> Result<i64>;

/// Who handles a request, and under what.
#[derive(Clone, Copy, Debug)]
pub enum Handler {
    /// On `/dev/kvm`, without a lock.
    System(SystemHandler),
    /// On a VM, without a lock.
    Vm(VmHandler),
    /// On a vCPU under `vcpu->mutex`; the handler loads the vCPU itself, or need not.
    Vcpu(VcpuHandler),
    /// On a vCPU under `vcpu->mutex`, with the vCPU loaded.
    LoadedVcpu(VcpuHandler),
}

/// One row: a request on one kind of file.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    /// The request number.
    pub request: u32,
    /// The kernel's name.
    pub name: &'static str,
    /// Who handles it.
    pub handler: Handler,
    /// The handler's name.
    pub function: &'static str,
}

/// Handlers that answer every request of a TD that is well formed with the same error, as the kernel does:
/// protected registers, SEV's encrypted regions, devices that there are none of.
const REFUSALS: &[&str] = &[
    "regs::get_regs",
    "regs::set_regs",
    "regs::get_sregs",
    "regs::set_sregs",
    "regs::get_sregs2",
    "regs::set_sregs2",
    "regs::get_fpu",
    "regs::set_fpu",
    "regs::get_xsave",
    "regs::set_xsave",
    "regs::get_xcrs",
    "regs::set_xcrs",
    "regs::get_debugregs",
    "regs::set_debugregs",
    "regs::set_guest_debug",
    "regs::get_lapic",
    "regs::set_lapic",
    "vcpu::kvmclock_ctrl",
    "vm::memory_encrypt_region",
    "vm::create_device",
];

impl Entry {
    /// Whether the request is there to be refused, of a TD.
    pub fn is_refused(&self) -> bool {
        REFUSALS.contains(&self.function)
    }

    /// The kind of file that it is for.
    pub fn scope(&self) -> Scope {
        match self.handler {
            Handler::System(_) => Scope::SYSTEM,
            Handler::Vm(_) => Scope::VM,
            Handler::Vcpu(_) | Handler::LoadedVcpu(_) => Scope::VCPU,
        }
    }
}

macro_rules! rows {
    ($($kind:ident $name:ident => $handler:expr;)*) => {
        &[$(Entry {
            request: $name,
            name: stringify!($name),
            handler: Handler::$kind($handler),
            function: stringify!($handler),
        },)*]
    };
}

/// Every request that is handled.
pub static TABLE: &[Entry] = rows! {
    System KVM_GET_API_VERSION => system::get_api_version;
    System KVM_CREATE_VM => system::create_vm;
    System KVM_CHECK_EXTENSION => system::check_extension;
    System KVM_GET_VCPU_MMAP_SIZE => system::get_vcpu_mmap_size;
    System KVM_GET_SUPPORTED_CPUID => cpuid::get_supported_cpuid;
    System KVM_GET_EMULATED_CPUID => cpuid::get_emulated_cpuid;
    System KVM_GET_MSR_INDEX_LIST => system::get_msr_index_list;
    System KVM_GET_MSR_FEATURE_INDEX_LIST => system::get_msr_feature_index_list;
    System KVM_GET_MSRS => system::get_msrs;
    System KVM_X86_GET_MCE_CAP_SUPPORTED => system::get_mce_cap_supported;
    System KVM_GET_SUPPORTED_HV_CPUID => hyperv::get_cpuid;
    System KVM_GET_DEVICE_ATTR => system::get_device_attr;
    System KVM_HAS_DEVICE_ATTR => system::has_device_attr;
    Vm KVM_CHECK_EXTENSION => vm::check_extension;
    Vm KVM_ENABLE_CAP => vm::enable_cap;
    Vm KVM_CREATE_VCPU => vm::create_vcpu;
    Vm KVM_SET_USER_MEMORY_REGION => vm::set_user_memory_region;
    Vm KVM_SET_USER_MEMORY_REGION2 => vm::set_user_memory_region2;
    Vm KVM_SET_MEMORY_ATTRIBUTES => vm::set_memory_attributes;
    Vm KVM_CREATE_GUEST_MEMFD => vm::create_guest_memfd;
    Vm KVM_MEMORY_ENCRYPT_OP => vm::memory_encrypt_op;
    Vm KVM_MEMORY_ENCRYPT_REG_REGION => vm::memory_encrypt_region;
    Vm KVM_MEMORY_ENCRYPT_UNREG_REGION => vm::memory_encrypt_region;
    Vm KVM_SET_TSC_KHZ => vm::set_tsc_khz;
    Vm KVM_GET_TSC_KHZ => vm::get_tsc_khz;
    Vm KVM_CREATE_IRQCHIP => irqchip::create_irqchip;
    Vm KVM_GET_IRQCHIP => irqchip::irqchip_state;
    Vm KVM_SET_IRQCHIP => irqchip::irqchip_state;
    Vm KVM_CREATE_PIT => irqchip::create_pit;
    Vm KVM_CREATE_PIT2 => irqchip::create_pit2;
    Vm KVM_GET_PIT => irqchip::pit;
    Vm KVM_SET_PIT => irqchip::pit;
    Vm KVM_GET_PIT2 => irqchip::get_pit2;
    Vm KVM_SET_PIT2 => irqchip::set_pit2;
    Vm KVM_REINJECT_CONTROL => irqchip::reinject_control;
    Vm KVM_SET_GSI_ROUTING => irqchip::set_gsi_routing;
    Vm KVM_GET_DIRTY_LOG => dirty_log::get_dirty_log;
    Vm KVM_CLEAR_DIRTY_LOG => dirty_log::clear_dirty_log;
    Vm KVM_RESET_DIRTY_RINGS => dirty_log::reset_dirty_rings;
    Vm KVM_SET_NR_MMU_PAGES => vm::set_nr_mmu_pages;
    Vm KVM_SET_PMU_EVENT_FILTER => vm::set_pmu_event_filter;
    Vm KVM_SET_TSS_ADDR => vm::set_tss_addr;
    Vm KVM_SET_IDENTITY_MAP_ADDR => vm::set_identity_map_addr;
    Vm KVM_X86_SET_MSR_FILTER => msrs::set_msr_filter;
    Vm KVM_GET_CLOCK => vm::get_clock;
    Vm KVM_SET_CLOCK => vm::set_clock;
    Vm KVM_SET_BOOT_CPU_ID => vm::set_boot_cpu_id;
    Vm KVM_REGISTER_COALESCED_MMIO => vm::coalesced_mmio;
    Vm KVM_UNREGISTER_COALESCED_MMIO => vm::coalesced_mmio;
    Vm KVM_IRQ_LINE => irqchip::irq_line;
    Vm KVM_IRQ_LINE_STATUS => irqchip::irq_line_status;
    Vm KVM_SIGNAL_MSI => irqchip::signal_msi;
    Vm KVM_IRQFD => eventfd::irqfd;
    Vm KVM_IOEVENTFD => eventfd::ioeventfd;
    Vm KVM_CREATE_DEVICE => vm::create_device;
    Vm KVM_XEN_HVM_CONFIG => xen::hvm_config;
    Vm KVM_XEN_HVM_GET_ATTR => xen::hvm_get_attr;
    Vm KVM_XEN_HVM_SET_ATTR => xen::hvm_set_attr;
    Vm KVM_XEN_HVM_EVTCHN_SEND => xen::hvm_evtchn_send;
    Vm KVM_HYPERV_EVENTFD => hyperv::hv_eventfd;
    Vm KVM_GET_STATS_FD => stats::of_vm;
    Vcpu KVM_RUN => vcpu::run;
    Vcpu KVM_SET_SIGNAL_MASK => vcpu::set_signal_mask;
    Vcpu KVM_GET_STATS_FD => stats::of_vcpu;
    Vcpu KVM_GET_MP_STATE => vcpu::get_mp_state;
    Vcpu KVM_SET_MP_STATE => vcpu::set_mp_state;
    Vcpu KVM_PRE_FAULT_MEMORY => vcpu::pre_fault_memory;
    Vcpu KVM_GET_REGS => regs::get_regs;
    Vcpu KVM_SET_REGS => regs::set_regs;
    Vcpu KVM_GET_SREGS => regs::get_sregs;
    Vcpu KVM_SET_SREGS => regs::set_sregs;
    Vcpu KVM_GET_FPU => regs::get_fpu;
    Vcpu KVM_SET_FPU => regs::set_fpu;
    Vcpu KVM_SET_GUEST_DEBUG => regs::set_guest_debug;
    Vcpu KVM_TRANSLATE => regs::translate;
    LoadedVcpu KVM_MEMORY_ENCRYPT_OP => vcpu::memory_encrypt_op;
    LoadedVcpu KVM_SET_CPUID2 => cpuid::set_cpuid2;
    LoadedVcpu KVM_SET_CPUID => cpuid::set_cpuid;
    LoadedVcpu KVM_GET_CPUID2 => cpuid::get_cpuid2;
    LoadedVcpu KVM_SET_TSC_KHZ => vcpu::set_tsc_khz;
    LoadedVcpu KVM_GET_TSC_KHZ => vcpu::get_tsc_khz;
    LoadedVcpu KVM_GET_MSRS => msrs::get_msrs;
    LoadedVcpu KVM_SET_MSRS => msrs::set_msrs;
    LoadedVcpu KVM_X86_SETUP_MCE => vcpu::setup_mce;
    LoadedVcpu KVM_TPR_ACCESS_REPORTING => vcpu::tpr_access_reporting;
    LoadedVcpu KVM_SET_VAPIC_ADDR => vcpu::set_vapic_addr;
    LoadedVcpu KVM_KVMCLOCK_CTRL => vcpu::kvmclock_ctrl;
    LoadedVcpu KVM_ENABLE_CAP => vcpu::enable_cap;
    LoadedVcpu KVM_GET_SREGS2 => regs::get_sregs2;
    LoadedVcpu KVM_SET_SREGS2 => regs::set_sregs2;
    LoadedVcpu KVM_GET_XSAVE => regs::get_xsave;
    LoadedVcpu KVM_SET_XSAVE => regs::set_xsave;
    LoadedVcpu KVM_GET_XSAVE2 => regs::get_xsave;
    LoadedVcpu KVM_GET_XCRS => regs::get_xcrs;
    LoadedVcpu KVM_SET_XCRS => regs::set_xcrs;
    LoadedVcpu KVM_GET_DEBUGREGS => regs::get_debugregs;
    LoadedVcpu KVM_SET_DEBUGREGS => regs::set_debugregs;
    LoadedVcpu KVM_GET_LAPIC => regs::get_lapic;
    LoadedVcpu KVM_SET_LAPIC => regs::set_lapic;
    LoadedVcpu KVM_INTERRUPT => interrupt::interrupt;
    LoadedVcpu KVM_NMI => regs::nmi;
    LoadedVcpu KVM_SMI => regs::smi;
    LoadedVcpu KVM_X86_SET_MCE => regs::set_mce;
    LoadedVcpu KVM_GET_VCPU_EVENTS => regs::get_vcpu_events;
    LoadedVcpu KVM_SET_VCPU_EVENTS => regs::set_vcpu_events;
    LoadedVcpu KVM_GET_ONE_REG => msrs::get_one_reg;
    LoadedVcpu KVM_SET_ONE_REG => msrs::set_one_reg;
    LoadedVcpu KVM_GET_REG_LIST => msrs::get_reg_list;
    LoadedVcpu KVM_GET_SUPPORTED_HV_CPUID => hyperv::get_vcpu_cpuid;
    LoadedVcpu KVM_XEN_VCPU_GET_ATTR => xen::vcpu_get_attr;
    LoadedVcpu KVM_XEN_VCPU_SET_ATTR => xen::vcpu_set_attr;
    LoadedVcpu KVM_GET_NESTED_STATE => nested::get_nested_state;
    LoadedVcpu KVM_SET_NESTED_STATE => nested::set_nested_state;
    LoadedVcpu KVM_HAS_DEVICE_ATTR => regs::has_device_attr;
    LoadedVcpu KVM_GET_DEVICE_ATTR => regs::get_device_attr;
    LoadedVcpu KVM_SET_DEVICE_ATTR => regs::set_device_attr;
};

/// Requests that the kernel's header defines and v7.3.4 on x86 does not answer on this kind of file, as
/// one that it does not know.
pub static ABSENT: &[(u32, Scope)] = &[
    (KVM_GET_NR_MMU_PAGES, Scope::VM),
    (KVM_SET_DEVICE_ATTR, Scope::SYSTEM),
    (KVM_SET_DEVICE_ATTR, Scope::VM),
    (KVM_GET_DEVICE_ATTR, Scope::VM),
    (KVM_HAS_DEVICE_ATTR, Scope::VM),
];

/// Places in the table, by the low byte of a request: a handful share one.
static BY_NUMBER: LazyLock<[Vec<u16>; 256]> = LazyLock::new(|| {
    let mut places = [const { Vec::new() }; 256];
    for (place, entry) in TABLE.iter().enumerate() {
        places[(entry.request & 0xff) as usize].push(place as u16);
    }
    places
});

/// The row that `pick` takes, of those of a request.
fn row<T>(request: u32, pick: impl Fn(&'static Entry) -> Option<T>) -> Option<(u16, T)> {
    let places = &BY_NUMBER[(request & 0xff) as usize];
    places.iter().find_map(|place| {
        let entry = &TABLE[*place as usize];
        let picked = (entry.request == request).then(|| pick(entry))?;
        Some((*place, picked?))
    })
}

/// The row of a request on a kind of file, and its place in the table.
pub(super) fn find(kind: &Kind, request: u32) -> Option<(u16, &'static Entry)> {
    row(request, |entry| {
        let fits = matches!(
            (kind, &entry.handler),
            (Kind::System(_), Handler::System(_))
                | (Kind::Vm(_), Handler::Vm(_))
                | (Kind::Vcpu(_), Handler::Vcpu(_) | Handler::LoadedVcpu(_))
        );
        fits.then_some(entry)
    })
}

pub(super) fn system(request: u32) -> Option<SystemHandler> {
    let found = row(request, |entry| match entry.handler {
        Handler::System(f) => Some(f),
        _ => None,
    });
    found.map(|(_, handler)| handler)
}

pub(super) fn vm(request: u32) -> Option<VmHandler> {
    let found = row(request, |entry| match entry.handler {
        Handler::Vm(f) => Some(f),
        _ => None,
    });
    found.map(|(_, handler)| handler)
}

/// The handler, and whether it wants the vCPU loaded.
pub(super) fn vcpu(request: u32) -> Option<(VcpuHandler, bool)> {
    let found = row(request, |entry| match entry.handler {
        Handler::Vcpu(f) => Some((f, false)),
        Handler::LoadedVcpu(f) => Some((f, true)),
        _ => None,
    });
    found.map(|(_, handler)| handler)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_handler_that_refuses_is_in_the_table() {
        for function in REFUSALS {
            assert!(
                TABLE.iter().any(|entry| entry.function == *function),
                "{function}"
            );
        }
    }

    #[test]
    fn every_row_is_a_known_ioctl_of_that_scope_and_there_once() {
        let mut seen = BTreeSet::new();
        for entry in TABLE {
            let scope = entry.scope();
            assert!(
                seen.insert((entry.request, scope.bits())),
                "{} twice",
                entry.name
            );
            let of_scope = |i: &&IoctlInfo| i.request == entry.request && i.scope.contains(scope);
            let known = IOCTLS.iter().find(of_scope);
            assert_eq!(known.map(|i| i.name), Some(entry.name));
        }
    }
}
