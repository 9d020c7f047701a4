//! `TDH.MEM.SEPT.REMOVE` (leaf 30): removes a table that maps nothing from the secure EPT.
//!
//! RCX = GPA and level of the entry that points to the table, RDX = TDR. Out: RCX = the page. Version
//! 1: R9 to R11 = the pages of the same tables of the L2 VMs 1 to 3, all ones where there was none.
//! Holds the secure-EPT tree alone.

use std::sync::atomic::Ordering::SeqCst;

use seamlock_sync::Mode;
use seamlock_tdx_abi::addr::{Hpa, NULL_PA};
use seamlock_tdx_abi::operand::OperandId;
use seamlock_tdx_abi::pamt::PageType;
use seamlock_tdx_abi::sept::{SeptEntry, SeptState};
use seamlock_tdx_abi::status::TdxStatus;

use crate::Module;
use crate::call::{Call, Done, invalid};
use crate::pamt::{ImplicitPage, PageSize};
use crate::sept::l2::{self, MAX_L2_VMS};
use crate::sept::{Named, Target, Walk};
use crate::td::Td;

/// A table of an L2 VM that goes: its page, and the entry that points to it.
type L2Table<'m> = Option<(ImplicitPage<'m>, Walk<'m>)>;

pub(crate) fn run(call: &mut Call<'_, '_>) -> Done {
    let (m, operands) = (call.m, *call.r);
    (call.r.rcx, call.r.rdx) = (0, 0);
    if call.version > 0 {
        (call.r.r9, call.r.r10, call.r.r11) = (NULL_PA, NULL_PA, NULL_PA);
    }
    if call.version > 1 {
        return Err(invalid(OperandId::RAX));
    }
    let mut target = Target::hold(call, Named::of(&operands), 1..=4, Mode::Exclusive)?;
    target.check_state(call)?;
    let (td, entry) = (target.td(), target.entry.value());
    let page = m.hold_implicit(entry.hpa(), PageSize::K4)?;
    target.check_tracked(call, page.entry)?;
    if !is_free(m, entry.hpa()) {
        return Err(target.fail(call, TdxStatus::EPT_PAGE_NOT_FREE));
    }
    let mut tables: [L2Table<'_>; MAX_L2_VMS as usize] = [const { None }; 3];
    for (vm, walk) in m.l2_entries(td, entry, target.gpa, target.level) {
        let page = m.hold_implicit(walk.entry.hpa(), PageSize::K4)?;
        tables[usize::from(vm) - 1] = Some((page, walk));
    }
    let out = [&mut call.r.r9, &mut call.r.r10, &mut call.r.r11];
    for (table, out) in tables.iter().zip(out).rev() {
        let Some((page, walk)) = table else { continue };
        walk.store_watched(l2::FREE);
        free_table(td, page);
        if call.version > 0 {
            *out = walk.entry.hpa().0;
        }
    }
    target.store(SeptEntry::FREE);
    free_table(td, &page);
    call.r.rcx = entry.hpa().0;
    Ok(())
}

/// Whether the table maps nothing. Nobody walks in it: the caller holds the tree alone.
fn is_free(m: &Module, table: Hpa) -> bool {
    let free = |bits| SeptEntry::from_bits_retain(bits).state() == SeptState::FREE;
    m.memory
        .frame(table)
        .is_some_and(|frame| frame.words().iter().all(|word| free(word.load(SeqCst))))
}

fn free_table(td: &Td, page: &ImplicitPage<'_>) {
    td.chldcnt.fetch_sub(1);
    page.entry.set_type(PageType::NDA);
}
