//! `TDH.MNG.ADDCX` (leaf 1): adds a page to the TDCS.
//!
//! RCX = new page, RDX = TDR, both held alone. Six pages are needed for MNG.INIT, one more for each L2
//! VM; only the pages beyond six look at OP_STATE.

use seamlock_sync::Mode;
use seamlock_tdx_abi::leaf::Leaf;
use seamlock_tdx_abi::lifecycle::LifecycleState;
use seamlock_tdx_abi::operand::OperandId;
use seamlock_tdx_abi::pamt::PageType;
use seamlock_tdx_abi::sept::SeptEntry;
use seamlock_tdx_abi::status::TdxStatus;

use crate::call::{Call, Done};
use crate::tables::op_state_allows;
use crate::td::{MAX_TDCS_PAGES, MIN_TDCS_PAGES, SEPT_ROOT_PAGE};

/// Index of the TDCS page that holds the MSR bitmaps.
const MSR_BITMAPS_PAGE: usize = 2;

pub(crate) fn run(call: &mut Call<'_, '_>) -> Done {
    let m = call.m;
    let tdr = m.hold_tdr(call.r.rdx, Mode::Exclusive, OperandId::RDX)?;
    let td = tdr.td;
    if td.fatal.load() {
        return Err(TdxStatus::TD_FATAL);
    }
    if td.lifecycle() != LifecycleState::KEYS_CONFIGURED {
        return Err(TdxStatus::TD_KEYS_NOT_CONFIGURED);
    }
    let count = td.num_tdcx.load();
    if count >= MAX_TDCS_PAGES {
        return Err(TdxStatus::TDCX_NUM_INCORRECT);
    }
    let page = m.hold_page(call.r.rcx, Mode::Exclusive, PageType::NDA, OperandId::RCX)?;
    let content = match count as usize {
        MSR_BITMAPS_PAGE => u64::MAX,
        SEPT_ROOT_PAGE => SeptEntry::FREE.bits(),
        _ => 0,
    };
    m.memory.fill_page(page.pa(), content);
    if count >= MIN_TDCS_PAGES && !op_state_allows(Leaf::MNG_ADDCX, td.op_state()) {
        return Err(TdxStatus::OP_STATE_INCORRECT);
    }
    if count + 1 == MIN_TDCS_PAGES {
        m.platform
            .events
            .random(call.lp)
            .ok_or(TdxStatus::RND_NO_ENTROPY)?;
    }
    td.set_tdcx(count as usize, page.pa());
    td.num_tdcx.store(count + 1);
    td.chldcnt.fetch_add(1);
    page.entry().assign(PageType::TDCX, td.tdr);
    Ok(())
}
