//! The mirror EPT says what the secure EPT says, when no one is at work on either.

use seamlock_check::Violation;
use seamlock_kvm::Kvm;
use seamlock_tdx_abi::regs::Regs;
use seamlock_tdx_abi::sept::SeptEntry;
use seamlock_tdx_abi::{Gfn, Leaf, TdxStatus};

use crate::machine::Machine;

/// Reads the secure EPT of every TD wherever its mirror has a page, and counts the pages of both.
pub fn mirror_disagrees(machine: &Machine) -> Option<Violation> {
    let disagree = |what: &str, detail| {
        let violation = Violation::new("S-EPT", what);
        Some(violation.with_detail(detail))
    };
    let mut mapped = 0;
    for kvm in machine.host.live_vms() {
        for (gfn, page) in kvm.mirror().leaves() {
            mapped += 1;
            let entry = entry(machine, &kvm, gfn);
            if entry != Some(page) && kvm.tdx().nr_premapped() == 0 {
                let detail = format!("frame {gfn:#x}: mirror {page:#x}, secure EPT {entry:x?}");
                return disagree(
                    "the mirror maps a page that the secure EPT does not",
                    detail,
                );
            }
        }
        mapped -= kvm.tdx().nr_premapped();
    }
    let books = machine.host.module().audit().ok()?;
    if books.private_pages != mapped {
        let detail = format!(
            "{} in the secure EPTs, {mapped} in mirrors",
            books.private_pages
        );
        return disagree("the secure EPT maps a page that no mirror has", detail);
    }
    None
}

/// The page that the secure EPT maps at a frame.
fn entry(machine: &Machine, kvm: &Kvm, gfn: u64) -> Option<u64> {
    let tdr = kvm.tdx().tdr()?;
    let mut regs = Regs {
        rcx: Gfn(gfn).gpa().0,
        rdx: tdr.0,
        ..Regs::call(Leaf::MEM_SEPT_RD)
    };
    let _ = machine.host.module().seamcall(0, &mut regs);
    let entry = SeptEntry::from_bits_retain(regs.rcx);
    let leaf = regs.status() == TdxStatus::SUCCESS && entry.contains(SeptEntry::LEAF);
    leaf.then(|| entry.hpa().0)
}
