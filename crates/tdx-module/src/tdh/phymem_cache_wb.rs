//! `TDH.PHYMEM.CACHE.WB` (leaf 40): writes back the caches of this LP's package for every HKID whose
//! TD was flushed.
//!
//! RCX = 0 to start, 1 to go on after an interrupt. Holds the package's mutex, and the key ownership
//! table shared; both are given back when an interrupt ends the call early.

use seamlock_sync::Mode;
use seamlock_tdx_abi::operand::OperandId;
use seamlock_tdx_abi::status::TdxStatus;

use crate::Module;
use crate::call::{Call, Done, invalid};
use crate::locks::{KOT, MutexWordGuard, SharexGuard, WBT};
use crate::sys::{KotState, SavedWriteBack};

pub(crate) fn run(call: &mut Call<'_, '_>) -> Done {
    let m = call.m;
    if call.r.rcx > 1 {
        return Err(invalid(OperandId::RCX));
    }
    let resume = call.r.rcx == 1;
    let package = m.platform.package_of(call.lp);
    let wbt = &m.sys.wbt[package as usize];
    let _wbt = MutexWordGuard::try_take(&wbt.lock, WBT.at(u64::from(package)))
        .ok_or(TdxStatus::OPERAND_BUSY.with(OperandId::WBCACHE))?;
    let _kot = SharexGuard::try_take(&m.sys.kot_lock, Mode::Shared, KOT.only())
        .ok_or(TdxStatus::OPERAND_BUSY.with(OperandId::KOT))?;
    let mut work = if resume {
        wbt.saved
            .with(|saved| saved.take())
            .ok_or(TdxStatus::WBCACHE_RESUME_ERROR)?
    } else {
        start(m, package)?
    };
    while work.next_sub_block < m.platform.cache_sub_blocks {
        work.next_sub_block += 1;
        let more = work.next_sub_block < m.platform.cache_sub_blocks;
        if more && m.platform.events.interrupt_pending(call.lp) {
            wbt.saved.with(|saved| *saved = Some(work));
            return Err(TdxStatus::INTERRUPTED_RESUMABLE);
        }
    }
    for hkid in &work.hkids {
        m.sys.kot(*hkid).wbinvd_bitmap.fetch_and(!(1 << package));
    }
    Ok(())
}

fn start(m: &Module, package: u32) -> Result<SavedWriteBack, TdxStatus> {
    m.sys.wbt[package as usize]
        .saved
        .with(|saved| *saved = None);
    let flushed = m
        .sys
        .kot_entries()
        .filter(|(_, e)| e.state.load() == KotState::Flushed);
    let hkids: Vec<_> = flushed.map(|(hkid, _)| hkid).collect();
    if hkids.is_empty() {
        return Err(TdxStatus::NO_HKID_READY_TO_WBCACHE);
    }
    Ok(SavedWriteBack {
        next_sub_block: 0,
        hkids,
    })
}
