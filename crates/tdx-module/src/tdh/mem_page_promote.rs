//! `TDH.MEM.PAGE.PROMOTE` (leaf 23): maps 512 pages that lie side by side as one bigger page.
//!
//! RCX = GPA and level (2 MiB or 1 GiB) of the entry that points to the table of the small pages, RDX =
//! TDR. Out: RCX = the table's page, which is free now. Version 1: R9 to R11 = the pages of the same
//! tables of the L2 VMs 1 to 3, all ones where there was none.

use seamlock_sync::Mode;
use seamlock_tdx_abi::addr::{Gpa, NULL_PA};
use seamlock_tdx_abi::operand::OperandId;
use seamlock_tdx_abi::pamt::PageType;
use seamlock_tdx_abi::regs::Regs;
use seamlock_tdx_abi::sept::SeptEntry;
use seamlock_tdx_abi::status::TdxStatus;

use crate::call::{Call, Done, invalid};
use crate::pamt::{ImplicitPage, PageSize};
use crate::sept::l2::MAX_L2_VMS;
use crate::sept::{LockedTable, Named, Target, Walk, l2, leaf_to_hpa};
use crate::td::Td;

const VMS: usize = MAX_L2_VMS as usize;

/// A table of an L2 VM that goes: its page, the entry that points to it, and that entry's new value.
type L2Table<'m> = Option<(ImplicitPage<'m>, Walk<'m>, SeptEntry)>;

pub(crate) fn run(call: &mut Call<'_, '_>) -> Done {
    let (m, operands) = (call.m, *call.r);
    (call.r.rcx, call.r.rdx) = (0, 0);
    if call.version > 0 {
        (call.r.r9, call.r.r10, call.r.r11) = (NULL_PA, NULL_PA, NULL_PA);
    }
    if call.version > 1 {
        return Err(invalid(OperandId::RAX));
    }
    let mut target = Target::hold(call, Named::of(&operands), 1..=2, Mode::Shared)?;
    target.check_state(call)?;
    let (td, entry) = (target.td(), target.entry.value());
    let page = m.hold_implicit(entry.hpa(), PageSize::K4)?;
    target.check_tracked(call, page.entry)?;
    let size = PageSize::of_level(target.level);
    let small = LockedTable::lock(m, &target, entry.hpa());
    let small = small.map_err(|status| target.fail(call, status))?;
    let tables = l2_tables(call, &target, &operands)?;
    interrupted(call, &operands)?;
    let first = small.first();
    let pa = leaf_to_hpa(first, Gpa(0), target.level - 1);
    let busy = TdxStatus::OPERAND_BUSY.with(OperandId::RCX);
    m.chain(pa).and_then(|c| c.join(size)).ok_or(busy)?;
    small.leave_locked();
    target.store(first);
    free_table(td, &page);
    let out = [&mut call.r.r9, &mut call.r.r10, &mut call.r.r11];
    for (table, out) in tables.iter().zip(out) {
        let Some((page, walk, entry)) = table else {
            continue;
        };
        walk.store_watched(*entry);
        free_table(td, page);
        if call.version > 0 {
            *out = walk.entry.hpa().0;
        }
    }
    call.r.rcx = entry.hpa().0;
    Ok(())
}

/// Holds the tables of L2 VMs for the range and checks that each can be merged.
fn l2_tables<'m>(
    call: &mut Call<'m, '_>,
    target: &Target<'m>,
    operands: &Regs,
) -> Result<[L2Table<'m>; VMS], TdxStatus> {
    let m = call.m;
    let mut tables = [const { None }; VMS];
    let entry = target.entry.value();
    for (vm, walk) in m.l2_entries(target.td(), entry, target.gpa, target.level) {
        interrupted(call, operands)?;
        let table = walk.entry.hpa();
        let page = m.hold_implicit(table, PageSize::K4)?;
        let merged = l2::merged(m, table, target.level)
            .ok_or_else(|| target.fail(call, TdxStatus::EPT_INVALID_PROMOTE_CONDITIONS))?;
        tables[usize::from(vm) - 1] = Some((page, walk, merged));
    }
    Ok(tables)
}

/// Ends the call when an interrupt waits; nothing has changed yet, so the host calls again as before.
pub(super) fn interrupted(call: &mut Call<'_, '_>, operands: &Regs) -> Done {
    if !call.m.platform.events.interrupt_pending(call.lp) {
        return Ok(());
    }
    (call.r.rcx, call.r.rdx) = (operands.rcx, operands.rdx);
    Err(TdxStatus::INTERRUPTED_RESTARTABLE)
}

fn free_table(td: &Td, page: &ImplicitPage<'_>) {
    td.chldcnt.fetch_sub(1);
    page.entry.set_type(PageType::NDA);
}
