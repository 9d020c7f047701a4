//! `TDH.MEM.SEPT.ADD` (leaf 3): adds a table to the secure EPT.
//!
//! RCX = GPA and level of the entry that is to point to the table, RDX = TDR with bit 0 "a table that
//! exists already is no error", R8 = new page. Version 1: R9 to R11 = new pages for the trees of the
//! L2 VMs 1 to 3, and R8 to R11 say on return what became of them: all ones when the page is used,
//! bit 63 when the table existed. It may end early for an interrupt, between two pages.

use seamlock_sync::Mode;
use seamlock_tdx_abi::addr::NULL_PA;
use seamlock_tdx_abi::operand::OperandId;
use seamlock_tdx_abi::pamt::PageType;
use seamlock_tdx_abi::regs::Regs;
use seamlock_tdx_abi::sept::{SeptEntry, SeptState, TdrAndFlags};
use seamlock_tdx_abi::status::TdxStatus;

use crate::call::{Call, Done, invalid};
use crate::pamt::PageGuard;
use crate::sept::l2::{self, MAX_L2_VMS};
use crate::sept::{Named, Target, Walk, table_entry, with_alias};

/// Marks a page that was not used; ignored on input.
pub(super) const UNUSED: u64 = 1 << 63;

const VMS: usize = MAX_L2_VMS as usize + 1;

/// The new pages: for the TD itself and for its L2 VMs.
type Offered = [u64; VMS];

/// A new table of an L2 VM: its page, and the entry that is to point to it.
type L2Table<'m> = (PageGuard<'m>, Walk<'m>);

pub(crate) fn run(call: &mut Call<'_, '_>) -> Done {
    let operands = *call.r;
    (call.r.rcx, call.r.rdx) = (0, 0);
    if call.version > 1 {
        return Err(invalid(OperandId::RAX));
    }
    let mut offered = offered(&operands, call.version);
    let done = add(call, &operands, &mut offered);
    if call.version > 0 {
        [call.r.r8, call.r.r9, call.r.r10, call.r.r11] = offered;
    }
    done
}

fn offered(operands: &Regs, version: u8) -> Offered {
    let pages = if version > 0 {
        [operands.r8, operands.r9, operands.r10, operands.r11]
    } else {
        [operands.r8, NULL_PA, NULL_PA, NULL_PA]
    };
    pages.map(|pa| if pa == NULL_PA { pa } else { pa & !UNUSED })
}

/// The operand that names the page of a VM.
pub(super) fn operand_of(vm: u8) -> OperandId {
    OperandId(OperandId::R8.0 + vm)
}

fn add(call: &mut Call<'_, '_>, operands: &Regs, offered: &mut Offered) -> Done {
    let m = call.m;
    let handle = TdrAndFlags(operands.rdx);
    if handle.reserved() != 0 {
        return Err(invalid(OperandId::RDX));
    }
    let named = Named {
        mapping: operands.rcx,
        tdr: handle.tdr().0,
    };
    let mut target = Target::hold(call, named, 1..=4, Mode::Shared)?;
    target.check_state(call)?;
    let allow_existing = handle.flag();
    let page = l1_page(call, &target, allow_existing, &mut offered[0])?;
    let tables = if call.version > 0 {
        l2_tables(call, &target, allow_existing, offered)?
    } else {
        [const { None }; VMS]
    };
    let mut added = false;
    if let Some(page) = page {
        fill_table(call, &target, &page, SeptEntry::FREE);
        target.store(table_entry(page.pa()));
        offered[0] = NULL_PA;
        added = true;
    }
    for (vm, table) in (0..).zip(tables) {
        let Some((page, walk)) = table else { continue };
        if added && m.platform.events.interrupt_pending(call.lp) {
            (call.r.rcx, call.r.rdx) = (operands.rcx, operands.rdx);
            return Err(TdxStatus::INTERRUPTED_RESUMABLE);
        }
        fill_table(call, &target, &page, l2::FREE);
        target.store(with_alias(target.entry.value(), vm));
        walk.store_watched(l2::table_entry(page.pa()));
        offered[usize::from(vm)] = NULL_PA;
        added = true;
    }
    Ok(())
}

/// The page for the TD's own tree, held; None when the table is there already.
fn l1_page<'m>(
    call: &mut Call<'m, '_>,
    target: &Target<'m>,
    allow_existing: bool,
    offered: &mut u64,
) -> Result<Option<PageGuard<'m>>, TdxStatus> {
    let state = target.entry.value().state();
    if *offered == NULL_PA {
        // Only to add tables for L2 VMs next to one of the TD's that is there.
        if call.version == 0 {
            return Err(invalid(OperandId::R8));
        }
        if state != SeptState::NL_MAPPED {
            return Err(target.fail(call, TdxStatus::EPT_ENTRY_STATE_INCORRECT));
        }
        return Ok(None);
    }
    if state == SeptState::FREE {
        let page = call
            .m
            .hold_page(*offered, Mode::Exclusive, PageType::NDA, OperandId::R8)?;
        return Ok(Some(page));
    }
    if !allow_existing {
        return Err(target.fail(call, TdxStatus::EPT_ENTRY_STATE_INCORRECT));
    }
    *offered |= UNUSED;
    Ok(None)
}

/// The pages for the trees of L2 VMs, held; None for a VM that needs none.
fn l2_tables<'m>(
    call: &mut Call<'m, '_>,
    target: &Target<'m>,
    allow_existing: bool,
    offered: &mut Offered,
) -> Result<[Option<L2Table<'m>>; VMS], TdxStatus> {
    let (m, td) = (call.m, target.td());
    let mut tables = [const { None }; VMS];
    for vm in 1..=MAX_L2_VMS {
        let pa = &mut offered[usize::from(vm)];
        if *pa == NULL_PA {
            continue;
        }
        if vm > td.l2_vms() {
            return Err(invalid(operand_of(vm)));
        }
        let failed = TdxStatus::L2_SEPT_WALK_FAILED;
        let walk = m
            .l2_walk(td, vm, target.gpa, target.level)
            .ok_or(l2::status(failed, vm, target.level))?;
        if walk.level != target.level {
            l2::report(&walk, vm, td.is_debug(), call.r);
            return Err(l2::status(failed, vm, walk.level));
        }
        if l2::is_free(walk.entry) {
            let page = m.hold_page(*pa, Mode::Exclusive, PageType::NDA, operand_of(vm))?;
            tables[usize::from(vm)] = Some((page, walk));
        } else if allow_existing {
            *pa |= UNUSED;
        } else {
            l2::report(&walk, vm, td.is_debug(), call.r);
            return Err(l2::status(
                TdxStatus::L2_SEPT_ENTRY_NOT_FREE,
                vm,
                walk.level,
            ));
        }
    }
    Ok(tables)
}

fn fill_table(call: &Call<'_, '_>, target: &Target<'_>, page: &PageGuard<'_>, with: SeptEntry) {
    call.m.memory.fill_page(page.pa(), with.bits());
    page.entry().assign(PageType::EPT, target.td().tdr);
    target.td().chldcnt.fetch_add(1);
}
