//! The guest leaves: one file each, named as the leaf is. A guest calls them with TDCALL.
//!
//! # Locking
//! A TDCALL runs under what TDH.VP.ENTER holds: the TDVPR and the TDR, both shared. Words that it
//! takes besides (a secure-EPT entry, the RTMRs) it takes by the guest's rules: where a host call
//! was refused before, the guest yields. That shows to the guest as OPERAND_BUSY, and when it lasts
//! for HP_LOCK_TIMEOUT the TD exits. Source: TDX module 1.5, `tdx_td_dispatcher.c`.

use seamlock_sync::Busy;
use seamlock_tdx_abi::guest_leaf::GuestLeaf;
use seamlock_tdx_abi::leaf::RaxIn;
use seamlock_tdx_abi::operand::OperandId;
use seamlock_tdx_abi::regs::Regs;
use seamlock_tdx_abi::status::TdxStatus;

use crate::Module;
use crate::call::invalid;
use crate::guest::{Exception, GuestAfter};
use crate::metadata::{Accessor, VpAccess};
use crate::td_exit::{AsyncExit, Inside};

mod attributes;
mod mem_page_accept;
mod mem_page_attr_rd;
mod mem_page_attr_wr;
mod mr_report;
mod mr_rtmr_extend;
mod mr_verifyreport;
mod sys_rd;
mod sys_rdall;
mod violation;
mod vm_rd;
mod vm_wr;
mod vp_cpuidve_set;
mod vp_info;
mod vp_rd;
mod vp_veinfo_get;
mod vp_vmcall;
mod vp_wr;

/// A TDCALL under way.
#[derive(Debug)]
pub(crate) struct GuestCall<'m, 'r> {
    /// The vCPU.
    pub(crate) at: Inside<'m>,
    /// Version of the leaf.
    pub(crate) version: u8,
    /// The guest's registers: operands on the way in, results on the way out.
    pub(crate) r: &'r mut Regs,
}

impl<'m> GuestCall<'m, '_> {
    /// The vCPU's metadata, as the guest accesses it.
    pub(crate) fn vp_access(&self) -> VpAccess<'m> {
        VpAccess {
            m: self.at.m,
            td: self.at.td,
            vp: self.at.vp,
            accessor: Accessor::Guest,
        }
    }
}

/// Why a guest call does not simply succeed.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Stop {
    /// The status for RAX.
    Status(TdxStatus),
    /// An interrupt waits: the guest executes the instruction again.
    Interrupted,
    /// The guest takes an exception.
    Inject(Exception),
    /// The TD exits.
    Exit(AsyncExit),
    /// The TD exits with the registers that the guest selected.
    Vmcall,
}

impl From<TdxStatus> for Stop {
    fn from(status: TdxStatus) -> Stop {
        Stop::Status(status)
    }
}

/// What a guest leaf says.
pub(crate) type Done = Result<(), Stop>;

type Run = fn(&mut GuestCall<'_, '_>) -> Done;

macro_rules! leaves {
    ($($leaf:ident => $run:path,)*) => {
        /// Every guest leaf that the module has.
        pub const GUEST_LEAVES: &[GuestLeaf] = &[$(GuestLeaf::$leaf),*];

        fn entry(leaf: GuestLeaf) -> Option<Run> {
            match leaf {
                $(GuestLeaf::$leaf => Some($run),)*
                _ => None,
            }
        }
    };
}

leaves! {
    MEM_PAGE_ACCEPT => mem_page_accept::run,
    MEM_PAGE_ATTR_RD => mem_page_attr_rd::run,
    MEM_PAGE_ATTR_WR => mem_page_attr_wr::run,
    MR_REPORT => mr_report::run,
    MR_RTMR_EXTEND => mr_rtmr_extend::run,
    MR_VERIFYREPORT => mr_verifyreport::run,
    SYS_RD => sys_rd::run,
    SYS_RDALL => sys_rdall::run,
    VM_RD => vm_rd::run,
    VM_WR => vm_wr::run,
    VP_CPUIDVE_SET => vp_cpuidve_set::run,
    VP_INFO => vp_info::run,
    VP_RD => vp_rd::run,
    VP_VEINFO_GET => vp_veinfo_get::run,
    VP_VMCALL => vp_vmcall::run,
    VP_WR => vp_wr::run,
}

/// A word that the guest side found taken.
pub(crate) fn busy(why: Busy, operand: OperandId) -> TdxStatus {
    match why {
        Busy::Held => TdxStatus::OPERAND_BUSY.with(operand),
        Busy::HostPriority => TdxStatus::OPERAND_BUSY_HOST_PRIORITY.with(operand),
    }
}

impl Module {
    /// One TDCALL of the guest on `lp`, in 64-bit mode at CPL 0 (elsewhere the processor raises
    /// #GP(0)). RAX has the leaf in 15:0 and the version in 23:16. On [`GuestAfter::Continue`]
    /// `regs` hold the result and RAX the status; after anything else they are as they were.
    ///
    /// The processor has stored its state before, with
    /// [`store_guest_state`](Module::store_guest_state); its general-purpose registers but RSP are
    /// taken from `regs`. A call when no guest runs on `lp` is our caller's bug and answered with
    /// #GP.
    pub fn tdcall(&self, lp: u32, regs: &mut Regs) -> GuestAfter {
        let Some(at) = self.inside(lp) else {
            return GuestAfter::Inject(Exception::GeneralProtection);
        };
        if let Some(exit) = at.dead(crate::td_exit::TDCALL, 0) {
            return GuestAfter::TdExit(at.leave(exit));
        }
        at.check_progress();
        let mut out = *regs;
        let stop = dispatch(at, &mut out).err();
        let status = match stop {
            None => TdxStatus::SUCCESS,
            Some(Stop::Status(status)) => status,
            Some(Stop::Interrupted) => {
                at.note_progress_of_call();
                return GuestAfter::Again;
            }
            Some(Stop::Inject(exception)) => return GuestAfter::Inject(exception),
            Some(Stop::Exit(exit)) => {
                at.store_gprs(regs);
                return GuestAfter::TdExit(at.leave(exit));
            }
            Some(Stop::Vmcall) => {
                at.store_gprs(regs);
                return GuestAfter::TdExit(at.leave_for_vmcall(regs.rcx));
            }
        };
        if !status.is(TdxStatus::OPERAND_BUSY_HOST_PRIORITY) {
            at.note_progress_of_call();
            out.rax = status.0;
            *regs = out;
            return GuestAfter::Continue;
        }
        // Guests of older modules know the plain status only.
        out.rax = TdxStatus::OPERAND_BUSY.with_details(status.0 as u32).0;
        if at.yields_too_long() {
            at.store_gprs(&out);
            let exit = AsyncExit {
                status: TdxStatus::HOST_PRIORITY_BUSY_TIMEOUT,
                ..AsyncExit::plain(0, 0)
            };
            return GuestAfter::TdExit(at.leave(exit));
        }
        *regs = out;
        GuestAfter::Continue
    }
}

fn dispatch(at: Inside<'_>, r: &mut Regs) -> Done {
    let rax = RaxIn::from_rax(r.rax);
    let leaf = GuestLeaf(rax.leaf.0);
    let versioned = leaf == GuestLeaf::VM_RD;
    if rax.reserved != 0 || (rax.version > 0 && !versioned) {
        return Err(invalid(OperandId::RAX).into());
    }
    let run = entry(leaf).ok_or(invalid(OperandId::RAX))?;
    run(&mut GuestCall {
        at,
        version: rax.version,
        r,
    })
}

impl Inside<'_> {
    /// A guest call ended in another way than by yielding to the host.
    fn note_progress_of_call(&self) {
        self.vp.guest.with(|guest| guest.hp_busy_since = None);
    }

    /// Notes that a guest call yielded to the host. True when that has gone on for HP_LOCK_TIMEOUT;
    /// the next time counts from the start again.
    fn yields_too_long(&self) -> bool {
        let now = self.m.platform.events.tsc(self.lp);
        let timeout = self.td.config.with(|config| config.hp_lock_timeout);
        self.vp.guest.with(|guest| match guest.hp_busy_since {
            None => {
                guest.hp_busy_since = Some(now);
                false
            }
            Some(since) if now.wrapping_sub(since) >= timeout => {
                guest.hp_busy_since = None;
                true
            }
            Some(_) => false,
        })
    }
}
