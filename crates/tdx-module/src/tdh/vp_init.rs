//! `TDH.VP.INIT` (leaf 22): makes a vCPU ready to be entered, and associates it with this LP.
//!
//! RCX = TDVPR, held alone; RDX = initial RCX and R8 of the guest; version 1: R8 = x2APIC id. The
//! owner TDR is held shared in version 0 and alone in version 1.

use seamlock_sync::Mode;
use seamlock_tdx_abi::leaf::Leaf;
use seamlock_tdx_abi::lifecycle::VcpuState;
use seamlock_tdx_abi::operand::OperandId;
use seamlock_tdx_abi::status::TdxStatus;

use crate::Module;
use crate::call::{Call, Done, invalid};
use crate::operand::{associate, check_tdvps_pages, hold_op_state};
use crate::td::Td;
use crate::vp_state::{VpState, gpr};

/// IA32_TSC_ADJUST.
pub(crate) const TSC_ADJUST_MSR: u32 = 0x3b;

pub(crate) fn run(call: &mut Call<'_, '_>) -> Done {
    let m = call.m;
    if call.version > 1 {
        return Err(invalid(OperandId::RAX));
    }
    let (vp, tdvpr) = m.hold_tdvpr(call.r.rcx, Mode::Exclusive, OperandId::RCX)?;
    let owner_mode = if call.version == 0 {
        Mode::Shared
    } else {
        Mode::Exclusive
    };
    let owner = m.hold_owner(tdvpr.entry().owner(), owner_mode)?;
    let td = owner.td;
    let _op_state = hold_op_state(td, Leaf::VP_INIT)?;
    check_tdvps_pages(td, vp)?;
    if vp.state() != VcpuState::UNINITIALIZED {
        return Err(TdxStatus::VCPU_STATE_INCORRECT);
    }
    let index = count(td)?;
    vp.index.store(index);
    let x2apic_id = if call.version == 0 {
        td.config
            .with(|config| config.topology_enum_configured = false);
        index
    } else {
        claim_x2apic_id(td, index, call.r.r8)?
    };
    let events = &m.platform.events;
    if !events.tsc_adjust_unchanged(call.lp) {
        return Err(TdxStatus::INCONSISTENT_MSR.with_details(TSC_ADJUST_MSR));
    }
    let tsc = events.tsc(call.lp);
    let state = VpState {
        x2apic_id,
        last_exit_tsc: tsc,
        ..initial_state(m, td, index, call.r.rdx)
    };
    vp.guest.with(|guest| *guest = state);
    vp.set_state(VcpuState::READY);
    associate(td, vp, call.lp).map(|_new| ())
}

/// Counts the vCPU; its index is what the count was before.
fn count(td: &Td) -> Result<u32, TdxStatus> {
    let index = td.num_vcpus.fetch_add(1);
    if index < td.max_vcpus.load() {
        return Ok(index);
    }
    td.num_vcpus.fetch_sub(1);
    Err(TdxStatus::MAX_VCPUS_EXCEEDED)
}

/// Notes the x2APIC id that version 1 gives. Module 1.5.06 takes the vCPU back out of the count
/// when the id is too wide, and forgets to when the id is taken. A vCPU that was counted without an
/// id (by version 0, or by a refused call) counts as having id 0 here.
fn claim_x2apic_id(td: &Td, index: u32, r8: u64) -> Result<u32, TdxStatus> {
    let Ok(id) = u32::try_from(r8) else {
        td.num_vcpus.fetch_sub(1);
        return Err(invalid(OperandId::R8));
    };
    let unique = td.config.with(|config| {
        let ids = &mut config.x2apic_ids;
        let index = index as usize;
        ids.resize(ids.len().max(index + 1), 0);
        let unique = !ids[..index].contains(&id);
        if unique {
            ids[index] = id;
        }
        unique
    });
    if unique {
        Ok(id)
    } else {
        Err(TdxStatus::X2APIC_ID_NOT_UNIQUE.with_details(id))
    }
}

fn initial_state(m: &Module, td: &Td, index: u32, start: u64) -> VpState {
    let width = if td.gpaw_52.load() { 52 } else { 48 };
    let mut state = VpState::default();
    state.gprs[gpr::RCX] = start;
    state.gprs[gpr::RDX] = u64::from(m.platform.cpuid(1, 0)[0]);
    state.gprs[gpr::RBX] = width;
    state.gprs[gpr::RSI] = u64::from(index);
    state.gprs[gpr::R8] = start;
    state
}
