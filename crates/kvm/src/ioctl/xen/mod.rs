//! KVM_XEN_*: what a VMM sets up for guests that were made for Xen. It is kept and given back; the guest
//! memory that it names has to be there, and nothing is written to it.
//!
//! # Locking
//! The kernel's `xen_lock` is a mutex inside `vcpu->mutex` in which nothing but the SRCU is entered.
//!
//! Source: Linux v7.3.4 `arch/x86/kvm/xen.c`, `virt/kvm/pfncache.c`.

mod vcpu;
mod vm;

use seamlock_tdx_abi::kvm::{Errno, KVM_XEN_INVALID_GPA};
use seamlock_tdx_abi::{Gpa, PAGE_SIZE};

use crate::error::{Result, fail};
use crate::task::Task;
use crate::vm::Kvm;

pub(crate) use vcpu::XenVcpu;
pub(super) use vcpu::{vcpu_get_attr, vcpu_set_attr};
pub(crate) use vm::XenVm;
pub(super) use vm::{hvm_config, hvm_evtchn_send, hvm_get_attr, hvm_set_attr};

/// What KVM_CAP_XEN_HVM answers: HYPERCALL_MSR to SHARED_INFO_HVA.
pub(super) const FEATURES: i64 = 0x1ff;
/// Interrupt vectors below are the processor's.
const FIRST_VECTOR: u8 = 0x10;

/// Memory of the guest that KVM keeps at hand (`struct gfn_to_pfn_cache`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Area {
    /// By guest address.
    Gpa(u64),
    /// By user address.
    Hva(u64),
}

impl Area {
    /// `kvm_gpc_activate`, `kvm_gpc_activate_hva`: `len` bytes in one page that is there.
    fn activate(self, task: &Task, kvm: &Kvm, len: u64) -> Result<Option<Area>> {
        const SITE: &str = "virt/kvm/pfncache.c:395 __kvm_gpc_activate";
        /// The end of user space (`TASK_SIZE_MAX`).
        const USER_END: u64 = (1 << 47) - PAGE_SIZE;
        let (Area::Gpa(addr) | Area::Hva(addr)) = self;
        let outside = matches!(self, Area::Hva(_)) && addr.saturating_add(len) > USER_END;
        if addr % PAGE_SIZE + len > PAGE_SIZE || outside {
            return fail(Errno::EINVAL, SITE, "not in one page, or not of user space");
        }
        let user = match self {
            Area::Hva(addr) => addr,
            Area::Gpa(addr) => {
                let gfn = Gpa(addr).gfn();
                let Some(slot) = kvm.memslots.of_gfn(gfn) else {
                    return fail(Errno::EFAULT, SITE, "no memslot is at the address");
                };
                slot.userspace_addr + (gfn.0 - slot.base_gfn) * PAGE_SIZE + addr % PAGE_SIZE
            }
        };
        task.get::<u8>(user, SITE).map(|_| Some(self))
    }
}

/// The address of an area that is named as a guest address, as it is told.
fn told_gpa(area: Option<Area>) -> u64 {
    match area {
        Some(Area::Gpa(addr)) => addr,
        _ => KVM_XEN_INVALID_GPA,
    }
}

/// As [`told_gpa`], by user address.
fn told_hva(area: Option<Area>) -> u64 {
    match area {
        Some(Area::Hva(addr)) => addr,
        _ => 0,
    }
}

/// A vector that interrupts the guest when an event comes, or none.
fn upcall_vector(value: u64, site: &'static str) -> Result<u8> {
    let vector = value as u8;
    if vector != 0 && vector < FIRST_VECTOR {
        return fail(Errno::EINVAL, site, "a vector of the processor's own");
    }
    Ok(vector)
}
