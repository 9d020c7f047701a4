//! Pages of the guest that an MSR names: they have to be there, and some are written to at once.

use std::sync::Arc;

use seamlock_tdx_abi::{Gpa, PAGE_SIZE};
use zerocopy::{Immutable, IntoBytes};

use super::{hyperv, pv};
use crate::task::Task;
use crate::vcpu::Vcpu;
use crate::vm::{Kvm, Slot};

/// `gfn_to_memslot`, and the user address of a guest address.
fn slot_and_hva(kvm: &Kvm, gpa: u64) -> Option<(Arc<Slot>, u64)> {
    let gfn = Gpa(gpa).gfn();
    let slot = kvm.memslots.of_gfn(gfn).filter(|slot| !slot.invalid)?;
    let hva = slot.userspace_addr + (gfn.0 - slot.base_gfn) * PAGE_SIZE + gpa % PAGE_SIZE;
    Some((slot, hva))
}

/// `kvm_vcpu_write_guest`: whether the memory is there.
fn write_guest<T: IntoBytes + Immutable>(
    task: &Task,
    (kvm, vcpu): (&Kvm, &Vcpu),
    gpa: u64,
    value: &T,
) -> bool {
    const SITE: &str = "arch/x86/kvm/hyperv.c kvm_hv_set_msr";
    let Some((slot, hva)) = slot_and_hva(kvm, gpa) else {
        return false;
    };
    let written = task.put(hva, value, SITE).is_ok();
    if written {
        kvm.mark_page_dirty(vcpu, &slot, Gpa(gpa).gfn());
    }
    written
}

/// Whether the page that a value names is there, where it names one; Hyper-V's are written. The caller is
/// in an SRCU read section.
pub(super) fn reach(task: &Task, kvm: &Kvm, vcpu: &Vcpu, msr: u32, value: u64) -> bool {
    /// VMCALL and RET.
    const HYPERCALL_PAGE: [u8; 4] = [0x0f, 0x01, 0xc1, 0xc3];
    if kvm.is_td() {
        // A TD has none of these.
        return true;
    }
    let page = value & !(PAGE_SIZE - 1);
    let is_on = value & hyperv::ENABLE != 0;
    match msr {
        hyperv::HYPERCALL if is_on && kvm.hyperv.with(|msrs| hyperv::has_guest(msrs)) => {
            write_guest(task, (kvm, vcpu), page, &HYPERCALL_PAGE)
        }
        hyperv::VP_ASSIST_PAGE if is_on => write_guest(task, (kvm, vcpu), page, &0u32),
        _ => pv::address(msr, value).is_none_or(|gpa| slot_and_hva(kvm, gpa).is_some()),
    }
}
