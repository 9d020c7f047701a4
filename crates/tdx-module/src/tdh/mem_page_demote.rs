//! `TDH.MEM.PAGE.DEMOTE` (leaf 15): maps a big page as 512 pages of the next smaller size.
//!
//! RCX = GPA and level (2 MiB or 1 GiB), RDX = TDR with bit 0 "tables for L2 VMs only where one is
//! needed", R8 = page for the new table, R9 to R11 = pages for the tables of the L2 VMs 1 to 3. Out: R9
//! to R11 with bit 63 set when the page was not used. In a TD that runs, the page must be blocked and
//! its block tracked; the small pages are not blocked.

use seamlock_sync::Mode;
use seamlock_tdx_abi::addr::{Hpa, NULL_PA};
use seamlock_tdx_abi::operand::OperandId;
use seamlock_tdx_abi::pamt::PageType;
use seamlock_tdx_abi::regs::Regs;
use seamlock_tdx_abi::sept::{SeptEntry, TdrAndFlags};
use seamlock_tdx_abi::status::TdxStatus;

use super::mem_page_promote::interrupted;
use super::mem_sept_add::{UNUSED, operand_of};
use crate::call::{Call, Done, invalid};
use crate::pamt::{PageGuard, PageSize};
use crate::sept::l2::{self, MAX_L2_VMS};
use crate::sept::{
    Named, Target, Walk, is_aliased, leaf_to_hpa, table_entry, unblocked, with_alias,
    without_accept_counter, write_parts,
};
use crate::tables::{SeptTrait, sept_is};

const VMS: usize = MAX_L2_VMS as usize;

/// The page that is split.
#[derive(Clone, Copy)]
struct Whole {
    /// The entry that maps it, as its parts will be mapped.
    entry: SeptEntry,
    pa: Hpa,
    level: u8,
}

pub(crate) fn run(call: &mut Call<'_, '_>) -> Done {
    let (m, operands) = (call.m, *call.r);
    (call.r.rcx, call.r.rdx) = (0, 0);
    let handle = TdrAndFlags(operands.rdx);
    if handle.reserved() != 0 {
        return Err(invalid(OperandId::RDX));
    }
    let named = Named {
        mapping: operands.rcx,
        tdr: handle.tdr().0,
    };
    let mut target = Target::hold(call, named, 1..=2, Mode::Shared)?;
    target.check_state(call)?;
    let (td, level, size) = (target.td(), target.level, PageSize::of_level(target.level));
    let entry = without_accept_counter(target.entry.value(), level);
    let pa = leaf_to_hpa(entry, target.gpa, level);
    let busy = TdxStatus::OPERAND_BUSY.with(OperandId::RCX);
    let chain = m.chain(pa).ok_or(busy)?;
    target.check_tracked(call, chain.entry(size))?;
    let (alone, free) = (Mode::Exclusive, PageType::NDA);
    let page = m.hold_page(operands.r8, alone, free, OperandId::R8)?;
    let mut offered = [operands.r9, operands.r10, operands.r11];
    let pages = l2_pages(call, &target, handle.flag(), &mut offered)?;
    let entry = unblocked(entry);
    let whole = Whole { entry, pa, level };
    write_parts(m, page.pa(), entry, pa, level);
    let walks = write_l2_parts(call, &target, whole, &pages, &operands)?;
    interrupted(call, &operands)?;
    chain.split(size).ok_or(busy)?;
    target.store(table_entry(page.pa()));
    page.entry().assign_again(PageType::EPT, td.tdr);
    td.chldcnt.fetch_add(1);
    for ((vm, page), walk) in (1..).zip(&pages).zip(walks) {
        let (Some(page), Some(walk)) = (page, walk) else {
            continue;
        };
        walk.store_watched(l2::table_entry(page.pa()));
        target.store(with_alias(target.entry.value(), vm));
        page.entry().assign_again(PageType::EPT, td.tdr);
        td.chldcnt.fetch_add(1);
    }
    [call.r.r9, call.r.r10, call.r.r11] = offered;
    Ok(())
}

/// The pages for the tables of L2 VMs, held; None for a VM that gets none.
fn l2_pages<'m>(
    call: &Call<'m, '_>,
    target: &Target<'m>,
    only_where_needed: bool,
    offered: &mut [u64; VMS],
) -> Result<[Option<PageGuard<'m>>; VMS], TdxStatus> {
    let entry = target.entry.value();
    let mut pages = [const { None }; VMS];
    for (vm, pa) in (1..=target.td().l2_vms()).zip(offered) {
        let aliased = is_aliased(entry, vm);
        if *pa == NULL_PA {
            if aliased {
                return Err(TdxStatus::L2_SEPT_PAGE_NOT_PROVIDED.with(operand_of(vm)));
            }
        } else if only_where_needed && !aliased {
            *pa |= UNUSED;
        } else {
            let (alone, free) = (Mode::Exclusive, PageType::NDA);
            let page = call
                .m
                .hold_page(*pa & !UNUSED, alone, free, operand_of(vm))?;
            pages[usize::from(vm) - 1] = Some(page);
        }
    }
    Ok(pages)
}

/// Fills the new tables of L2 VMs and finds the entries that are to point to them.
fn write_l2_parts<'m>(
    call: &mut Call<'m, '_>,
    target: &Target<'m>,
    whole: Whole,
    pages: &[Option<PageGuard<'m>>; VMS],
    operands: &Regs,
) -> Result<[Option<Walk<'m>>; VMS], TdxStatus> {
    let (m, td) = (call.m, target.td());
    let mut walks = [None; VMS];
    for (vm, page) in (1..).zip(pages) {
        let Some(page) = page else { continue };
        interrupted(call, operands)?;
        let failed = TdxStatus::L2_SEPT_WALK_FAILED;
        let walk = m
            .l2_walk(td, vm, target.gpa, whole.level)
            .ok_or(l2::status(failed, vm, whole.level))?;
        if walk.level != whole.level {
            l2::report(&walk, vm, td.is_debug(), call.r);
            return Err(l2::status(failed, vm, walk.level));
        }
        if is_aliased(whole.entry, vm) {
            // A page that is not accepted has a blocked L2 entry, whether it is blocked itself or not.
            let entry = if sept_is(whole.entry.state(), SeptTrait::Pending) {
                walk.entry
            } else {
                l2::unblocked(walk.entry)
            };
            write_parts(m, page.pa(), entry, whole.pa, whole.level);
        } else {
            m.memory.fill_page(page.pa(), l2::FREE.bits());
        }
        walks[usize::from(vm) - 1] = Some(walk);
    }
    Ok(walks)
}
