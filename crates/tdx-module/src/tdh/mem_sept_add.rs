//! `TDH.MEM.SEPT.ADD` (leaf 3): adds a table to the secure EPT.
//!
//! RCX = GPA and level of the entry that is to point to the table, RDX = TDR with bit 0 "a table that
//! exists already is no error", R8 = new page.

use seamlock_sync::Mode;
use seamlock_tdx_abi::addr::NULL_PA;
use seamlock_tdx_abi::operand::OperandId;
use seamlock_tdx_abi::pamt::PageType;
use seamlock_tdx_abi::sept::{SeptEntry, SeptState, TdrAndFlags};
use seamlock_tdx_abi::status::TdxStatus;

use crate::call::{Call, Done, invalid};
use crate::sept::{Named, Target, table_entry};

/// The host may mark a page that was not used with this bit and pass it again.
const UNUSED: u64 = 1 << 63;

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
    let mut target = Target::hold(call, named, 1..=4, Mode::Shared)?;
    target.check_state(call)?;
    if operands.r8 == NULL_PA {
        return Err(invalid(OperandId::R8));
    }
    if target.entry.value().state() != SeptState::FREE {
        if handle.flag() {
            return Ok(());
        }
        return Err(target.fail(call, TdxStatus::EPT_ENTRY_STATE_INCORRECT));
    }
    let pa = operands.r8 & !UNUSED;
    let page = m.hold_page(pa, Mode::Exclusive, PageType::NDA, OperandId::R8)?;
    m.memory.fill_page(page.pa(), SeptEntry::FREE.bits());
    page.entry().assign(PageType::EPT, target.td().tdr);
    target.td().chldcnt.fetch_add(1);
    target.entry.store(table_entry(page.pa()));
    Ok(())
}
