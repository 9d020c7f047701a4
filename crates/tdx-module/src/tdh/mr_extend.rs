//! `TDH.MR.EXTEND` (leaf 16): measures 256 bytes of a TD that is being built.
//!
//! RCX = GPA, a multiple of 256; RDX = TDR. Holds the TDR alone.

use seamlock_sync::Mode;
use seamlock_tdx_abi::addr::{Gpa, PAGE_SIZE};
use seamlock_tdx_abi::leaf::Leaf;
use seamlock_tdx_abi::operand::OperandId;
use seamlock_tdx_abi::sept::SeptEntry;
use seamlock_tdx_abi::status::TdxStatus;

use crate::call::{Call, Done, invalid};
use crate::operand::{check_private_gpa, check_td};
use crate::sept::leaf_to_hpa;
use crate::tables::sept_state_allows;

/// Bytes measured by one call.
const CHUNK: u64 = 256;

pub(crate) fn run(call: &mut Call<'_, '_>) -> Done {
    let (m, gpa, tdr) = (call.m, Gpa(call.r.rcx), call.r.rdx);
    (call.r.rcx, call.r.rdx) = (0, 0);
    let tdr = m.hold_tdr(tdr, Mode::Exclusive, OperandId::RDX)?;
    let td = tdr.td;
    check_td(td, Leaf::MR_EXTEND)?;
    if !gpa.0.is_multiple_of(CHUNK) {
        return Err(invalid(OperandId::RCX));
    }
    check_private_gpa(td, gpa, OperandId::RCX)?;
    let not_present = TdxStatus::EPT_ENTRY_NOT_PRESENT;
    let slot = m
        .walk_alone(td, gpa)
        .ok_or(not_present.with(OperandId::RCX))?;
    let entry = slot.load();
    if !entry.contains(SeptEntry::LEAF) || !entry.intersects(SeptEntry::RWX) {
        slot.report(call.r);
        return Err(not_present.with(OperandId::RCX));
    }
    if !sept_state_allows(Leaf::MR_EXTEND, entry.state()) {
        return Err(not_present);
    }
    let page = leaf_to_hpa(entry, gpa, slot.level);
    let frame = m.memory.frame(page);
    let offset = (page.0 % PAGE_SIZE) as usize;
    td.launch.with(|launch| {
        launch.extend(gpa, |chunk| match frame {
            Some(frame) => frame.read_words(offset, chunk),
            None => chunk.fill(0),
        });
    });
    Ok(())
}
