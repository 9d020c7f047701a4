//! `TDH.SYS.CONFIG` (leaf 45): tells the module its TDMRs and its own HKID.
//!
//! RCX = array of addresses of TDMR_INFO structures, a multiple of 512; RDX = their number; R8 =
//! HKID. Holds the global lock alone. The HKID stays taken even when a TDMR is refused.

use seamlock_sync::Mode;
use seamlock_tdx_abi::addr::{Hkid, Hpa};
use seamlock_tdx_abi::operand::OperandId;
use seamlock_tdx_abi::status::TdxStatus;
use seamlock_tdx_abi::tdmr::{MAX_TDMRS, TDMR_INFO_ALIGN, TdmrInfo};
use zerocopy::{FromZeros, IntoBytes};

use crate::Module;
use crate::call::{Call, Done, invalid};
use crate::locks::{GLOBAL, SharexGuard};
use crate::sys::{KotState, SysState, Tdmr};
use crate::tdmr::check_next;

pub(crate) fn run(call: &mut Call<'_, '_>) -> Done {
    let m = call.m;
    let _global = SharexGuard::try_take(&m.sys.global, Mode::Exclusive, GLOBAL.only())
        .ok_or(TdxStatus::SYS_BUSY)?;
    let all_lps = m.sys.lps_initialized.load() >= m.platform.lps;
    if m.sys.state.load() != SysState::InitDone || !all_lps {
        return Err(TdxStatus::SYS_CONFIG_NOT_PENDING);
    }
    let array = m.check_shared_hpa(call.r.rcx, TDMR_INFO_ALIGN, OperandId::RCX)?;
    let count = call.r.rdx;
    if count == 0 || count > MAX_TDMRS as u64 {
        return Err(invalid(OperandId::RDX));
    }
    let hkid = Hkid(call.r.r8 as u16);
    if call.r.r8 >> 16 != 0 || !m.platform.is_private(hkid) {
        return Err(invalid(OperandId::R8));
    }
    m.sys.kot(hkid).state.store(KotState::Reserved);
    m.sys.hkid.store(hkid.0);

    let mut tdmrs: Vec<TdmrInfo> = Vec::with_capacity(count as usize);
    for i in 0..count {
        let pa = m.memory.read_u64(Hpa(array.0 + 8 * i));
        let pa = m.check_shared_hpa(pa, TDMR_INFO_ALIGN, OperandId::RCX)?;
        tdmrs.push(read_tdmr_info(m, pa));
        check_next(&m.platform, &tdmrs)?;
    }
    // Nobody else can have set them: the state under the global lock says so.
    let _ = m.sys.tdmrs.set(tdmrs.iter().map(Tdmr::new).collect());
    m.sys.pkg_config.store(0);
    m.sys.state.store(SysState::ConfigDone);
    Ok(())
}

fn read_tdmr_info(m: &Module, pa: Hpa) -> TdmrInfo {
    let mut info = TdmrInfo::new_zeroed();
    // Where there is no memory the structure reads as zeros, as every read of a hole does.
    let _ = m.memory.read(pa, info.as_mut_bytes());
    info
}
