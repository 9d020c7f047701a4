//! Pages of the guest that an MSR names: they have to be there, and some are written to at once.

use seamlock_tdx_abi::{Gpa, PAGE_SIZE};

use super::{hyperv, pv};
use crate::task::Task;
use crate::vm::Kvm;

/// `kvm_vcpu_gfn_to_hva`.
fn hva(kvm: &Kvm, gpa: u64) -> Option<u64> {
    let gfn = Gpa(gpa).gfn();
    let slot = kvm.memslots.of_gfn(gfn).filter(|slot| !slot.invalid)?;
    Some(slot.userspace_addr + (gfn.0 - slot.base_gfn) * PAGE_SIZE + gpa % PAGE_SIZE)
}

/// Whether the page that a value names is there, where it names one; Hyper-V's are written. The caller is
/// in an SRCU read section.
pub(super) fn reach(task: &Task, kvm: &Kvm, msr: u32, value: u64) -> bool {
    const SITE: &str = "arch/x86/kvm/hyperv.c kvm_hv_set_msr";
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
            let put = |at| task.put(at, &HYPERCALL_PAGE, SITE);
            hva(kvm, page).is_some_and(|at| put(at).is_ok())
        }
        hyperv::VP_ASSIST_PAGE if is_on => {
            hva(kvm, page).is_some_and(|at| task.put(at, &0u32, SITE).is_ok())
        }
        _ => pv::address(msr, value).is_none_or(|gpa| hva(kvm, gpa).is_some()),
    }
}
