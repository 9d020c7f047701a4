//! `TDH.VP.ENTER` (leaf 0): runs a vCPU on this LP until its TD exits.
//!
//! RCX = TDVPR (51:12) with flags: bit 52 host-recoverability hint, bit 53 resume L1. TDVPR and
//! owner TDR are held shared **until the TD exit**; OP_STATE shared until just before the guest
//! runs; the TLB epoch shared for a moment; the secure-EPT tree alone when the zero-step filter has
//! suspects.

use seamlock_sync::Mode;
use seamlock_tdx_abi::addr::Gpa;
use seamlock_tdx_abi::leaf::Leaf;
use seamlock_tdx_abi::lifecycle::{LastTdExit, VcpuState};
use seamlock_tdx_abi::operand::OperandId;
use seamlock_tdx_abi::sept::SeptEntry;
use seamlock_tdx_abi::status::TdxStatus;

use crate::call::{Call, Done, invalid};
use crate::guest::VeInfo;
use crate::locks::{SEPT_TREE, SharexGuard, TD_EPOCH};
use crate::operand::{check_and_associate, check_tdvps_pages, hold_op_state};
use crate::sept::Ordered;
use crate::sys::Running;
use crate::td::Td;
use crate::td_exit::{EPT_VIOLATION, async_registers, config_no_rbp_mod};
use crate::tdh::vp_init::TSC_ADJUST_MSR;
use crate::vp::Vp;
use crate::vp_state::{VpState, gpr};
use crate::{After, Module};

const HINT: u64 = 1 << 52;
const RESUME_L1: u64 = 1 << 53;
const RESERVED: u64 = !(SeptEntry::HPA_MASK | HINT | RESUME_L1);
/// NOTIFY_ENABLES: tell the guest of suspected zero-step attacks.
const NOTIFY_FAULTS: u64 = 1;
/// The host-recoverability hint in a status.
const STATUS_HINT: u64 = 1 << 60;

pub(crate) fn run(call: &mut Call<'_, '_>) -> Done {
    let (m, lp, rcx) = (call.m, call.lp, call.r.rcx);
    if m.sys.lps[lp as usize]
        .running
        .with(|running| running.is_some())
    {
        // An LP in a guest makes no call; a caller that says so is refused before it takes a word.
        return Err(TdxStatus::OPERAND_BUSY.with(OperandId::RCX));
    }
    if m.platform.events.limits_cpuid(lp) {
        return Err(TdxStatus::LIMIT_CPUID_MAXVAL_SET);
    }
    if rcx & RESERVED != 0 {
        return Err(invalid(OperandId::RCX));
    }
    let tdvpr_pa = rcx & SeptEntry::HPA_MASK;
    let (vp, tdvpr) = m.hold_tdvpr(tdvpr_pa, Mode::Shared, OperandId::RCX)?;
    let owner = m.hold_owner(tdvpr.entry().owner(), Mode::Shared)?;
    let td = owner.td;
    let op_state = hold_op_state(td, Leaf::VP_ENTER)?;
    check_tdvps_pages(td, vp)?;
    check_and_associate(td, vp, lp, false)?;
    check_vcpu(m, vp, lp, rcx)?;
    hold_epoch(td, vp)?;
    let tree = filter(call, td, vp)?;
    drop(op_state);
    drop(tree);
    vp.guest.with(|guest| prepare(guest, call, rcx));
    vp.set_state(VcpuState::ACTIVE);
    let running = Running {
        tdvpr: tdvpr.pa(),
        tdr: td.tdr,
        rbp: call.r.rbp,
        rip: vp.guest.with(|guest| guest.cpu.rip),
    };
    m.sys.lps[lp as usize]
        .running
        .with(|slot| *slot = Some(running));
    owner.guard.keep();
    let _ = tdvpr.keep();
    call.after = After::Guest;
    Ok(())
}

/// What the host asks for must fit the last exit, and time must not run backwards.
fn check_vcpu(m: &Module, vp: &Vp, lp: u32, rcx: u64) -> Done {
    let (last_td_exit, last_exit_tsc) = vp
        .guest
        .with(|guest| (guest.last_td_exit, guest.last_exit_tsc));
    if rcx & HINT != 0 && last_td_exit != LastTdExit::ASYNC_TRAP {
        return Err(invalid(OperandId::RCX));
    }
    if rcx & RESUME_L1 != 0 {
        // The vCPU is never in an L2 VM.
        return Err(invalid(OperandId::RCX));
    }
    let events = &m.platform.events;
    if !events.tsc_adjust_unchanged(lp) {
        return Err(TdxStatus::INCONSISTENT_MSR.with_details(TSC_ADJUST_MSR));
    }
    if (events.tsc(lp).wrapping_sub(last_exit_tsc) as i64) < 0 {
        return Err(TdxStatus::TSC_ROLLBACK);
    }
    Ok(())
}

/// Counts the vCPU into the current TLB epoch, which MEM.TRACK cannot change meanwhile.
fn hold_epoch(td: &Td, vp: &Vp) -> Done {
    let name = TD_EPOCH.at(td.tdr.0);
    let _epoch = SharexGuard::try_take(&td.epoch_lock, Mode::Shared, name)
        .ok_or(TdxStatus::OPERAND_BUSY.with(OperandId::TD_EPOCH))?;
    let epoch = td.td_epoch.load();
    td.refcount[(epoch & 1) as usize].fetch_add(1);
    vp.epoch.store(epoch);
    Ok(())
}

/// Takes the vCPU out of the epoch again.
pub(crate) fn leave_epoch(td: &Td, vp: &Vp) {
    td.refcount[(vp.epoch.load() & 1) as usize].fetch_sub(1);
}

/// The zero-step filter: while a page that the guest kept faulting on would fault again, the entry
/// ends as an EPT violation without the guest having run.
fn filter<'m>(
    call: &mut Call<'m, '_>,
    td: &'m Td,
    vp: &Vp,
) -> Result<Option<SharexGuard<'m>>, TdxStatus> {
    let suspects = vp.guest.with(|guest| guest.steps.suspects().to_vec());
    if suspects.is_empty() {
        return Ok(None);
    }
    let name = SEPT_TREE.at(td.tdr.0);
    let Some(tree) = SharexGuard::try_take(&td.sept_lock, Mode::Exclusive, name) else {
        leave_epoch(td, vp);
        return Err(TdxStatus::OPERAND_BUSY.with(OperandId::SEPT_TREE));
    };
    let faults = |gpa: &&u64| call.m.would_fault(td, Gpa(**gpa));
    if let Some(gpa) = suspects.iter().find(faults) {
        drop(tree);
        leave_epoch(td, vp);
        vp.guest
            .with(|guest| guest.last_td_exit = LastTdExit::ASYNC_FAULT);
        // Qualification: a write.
        let rbp = call.r.rbp;
        *call.r = async_registers(2, 0, gpa & SeptEntry::HPA_MASK, 0);
        if config_no_rbp_mod(td) {
            call.r.rbp = rbp;
        }
        return Err(TdxStatus(EPT_VIOLATION.into()));
    }
    let notify = td.config.with(|config| config.notify_enables) & NOTIFY_FAULTS != 0;
    if notify {
        vp.guest.with(|guest| notify_guest(guest, td));
    }
    Ok(Some(tree))
}

/// Tells the guest of the suspicion by #VE, when its last exit was a private EPT violation.
fn notify_guest(guest: &mut VpState, td: &Td) {
    let exit = guest.last_exit;
    let private = td.is_private_gpa(Gpa(exit.gpa));
    if exit.reason == EPT_VIOLATION && private && !guest.ve_info.valid {
        let info = VeInfo {
            reason: exit.reason,
            qual: exit.qual,
            gpa: exit.gpa,
            ..VeInfo::default()
        };
        guest.inject = Some(guest.raise_ve(info));
    }
}

/// Gives the guest what the host returns for its last exit.
fn prepare(guest: &mut VpState, call: &Call<'_, '_>, rcx: u64) {
    if guest.last_td_exit == LastTdExit::TDVMCALL {
        let control = guest.gprs[gpr::RCX];
        let host = host_gprs(call);
        for (i, value) in host.into_iter().enumerate().skip(gpr::RDX) {
            if control >> i & 1 != 0 {
                guest.gprs[i] = value;
            }
        }
        guest.gprs[gpr::RAX] = TdxStatus::SUCCESS.0;
    } else if guest.last_td_exit == LastTdExit::ASYNC_TRAP {
        let hint = if rcx & HINT != 0 { STATUS_HINT } else { 0 };
        guest.gprs[gpr::RAX] = guest.gprs[gpr::RAX] & !STATUS_HINT | hint;
    }
}

fn host_gprs(call: &Call<'_, '_>) -> [u64; 16] {
    let r = &*call.r;
    [
        r.rax, r.rcx, r.rdx, r.rbx, 0, r.rbp, r.rsi, r.rdi, r.r8, r.r9, r.r10, r.r11, r.r12, r.r13,
        r.r14, r.r15,
    ]
}

impl Module {
    /// Whether an access to a private address would exit to the host again: its entry maps nothing
    /// that the guest may use, and would not be turned into #VE.
    fn would_fault(&self, td: &Td, gpa: Gpa) -> bool {
        let Some(walk) = self.walk(td, gpa, 0, Ordered::No) else {
            return true;
        };
        let mapped = walk.entry.intersects(SeptEntry::RWX) && walk.entry.contains(SeptEntry::LEAF);
        !mapped && walk.entry.contains(SeptEntry::SUPPRESS_VE)
    }
}
