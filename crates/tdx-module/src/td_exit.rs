//! TD exit: the other half of TDH.VP.ENTER, after the guest has run.
//!
//! Source: TDX module 1.5, `td_exit.c`; ABI specification "TDH.VP.ENTER", output operands.

use seamlock_sync::Mode;
use seamlock_tdx_abi::addr::Gpa;
use seamlock_tdx_abi::lifecycle::{LastTdExit, VcpuState};
use seamlock_tdx_abi::regs::Regs;
use seamlock_tdx_abi::status::TdxStatus;

use crate::Module;
use crate::pamt::{Chain, PageSize};
use crate::sys::Running;
use crate::td::Td;
use crate::tdh::vp_enter::leave_epoch;
use crate::vp::Vp;
use crate::vp_state::{VmExit, gpr};

/// VMX exit reason of an EPT violation.
pub(crate) const EPT_VIOLATION: u32 = 48;
/// VMX exit reason of an EPT misconfiguration.
pub(crate) const EPT_MISCONFIGURATION: u32 = 49;
/// VMX exit reason of TDCALL.
pub(crate) const TDCALL: u32 = 77;
/// Bits of an EPT violation's qualification that the host does not see: they tell about linear
/// addresses.
const HIDDEN_QUALIFICATION: u64 = 0x1f80;
/// CONFIG_FLAGS: TD exits leave RBP alone.
const NO_RBP_MOD: u64 = 1 << 2;
/// Bytes of a TDCALL instruction.
const TDCALL_LENGTH: u64 = 4;

/// What becomes of the vCPU and its TD at an exit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TdExitKind {
    /// The vCPU can be entered again.
    Async,
    /// The vCPU is disabled (a triple fault).
    NonRecoverableVcpu,
    /// The TD is fatal.
    NonRecoverableTd,
}

/// A VM exit that the guest does not handle: its TD exits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TdExit {
    /// VMX exit reason.
    pub reason: u32,
    /// Exit qualification.
    pub qual: u64,
    /// Guest physical address; 0 where the reason has none.
    pub gpa: u64,
    /// What becomes of vCPU and TD.
    pub kind: TdExitKind,
}

/// A TD exit, as the host sees it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AsyncExit {
    /// Status without the exit reason.
    pub(crate) status: TdxStatus,
    pub(crate) reason: u32,
    pub(crate) qual: u64,
    /// Extended exit qualification.
    pub(crate) ext_qual: u64,
    pub(crate) gpa: u64,
    /// VM-exit interruption information.
    pub(crate) interruption: u32,
}

impl AsyncExit {
    /// An exit that leaves the vCPU ready.
    pub(crate) const fn plain(reason: u32, qual: u64) -> AsyncExit {
        AsyncExit {
            status: TdxStatus::SUCCESS,
            reason,
            qual,
            ext_qual: 0,
            gpa: 0,
            interruption: 0,
        }
    }

    /// An EPT violation at `gpa`.
    pub(crate) const fn ept_violation(gpa: Gpa, qual: u64, ext_qual: u64) -> AsyncExit {
        AsyncExit {
            ext_qual,
            gpa: gpa.0 & !0xfff,
            ..AsyncExit::plain(EPT_VIOLATION, qual & !HIDDEN_QUALIFICATION)
        }
    }
}

/// A vCPU in its guest, with what it holds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Inside<'m> {
    pub(crate) m: &'m Module,
    pub(crate) lp: u32,
    pub(crate) running: Running,
    pub(crate) td: &'m Td,
    pub(crate) vp: &'m Vp,
    tdr: Chain<'m>,
    tdvpr: Chain<'m>,
}

impl Module {
    /// The guest on `lp` exits to the host. Returns the registers as TDH.VP.ENTER finally returns
    /// them, and gives back what it held: the TDR and the TDVPR.
    ///
    /// The processor has stored the guest's state before, with
    /// [`store_guest_state`](Module::store_guest_state). When no guest runs on `lp`, RAX is
    /// VCPU_STATE_INCORRECT and nothing happens.
    pub fn td_exit(&self, lp: u32, exit: TdExit) -> Regs {
        let Some(inside) = self.inside(lp) else {
            return Regs {
                rax: TdxStatus::VCPU_STATE_INCORRECT.0,
                ..Regs::default()
            };
        };
        if let Some(dead) = inside.dead(exit.reason, exit.qual) {
            return inside.leave(dead);
        }
        inside.check_progress();
        let mut out = AsyncExit::plain(exit.reason, exit.qual);
        out.gpa = exit.gpa;
        if exit.reason == EPT_VIOLATION {
            inside.note_fault(Gpa(exit.gpa));
            out = AsyncExit::ept_violation(Gpa(exit.gpa), exit.qual, 0);
        }
        out.status = match exit.kind {
            TdExitKind::Async => TdxStatus::SUCCESS,
            TdExitKind::NonRecoverableVcpu => TdxStatus::NON_RECOVERABLE_VCPU,
            TdExitKind::NonRecoverableTd => TdxStatus::NON_RECOVERABLE_TD,
        };
        inside.note_exit(exit.reason, exit.qual, exit.gpa);
        inside.leave(out)
    }

    /// The vCPU whose guest runs on `lp`.
    pub(crate) fn inside(&self, lp: u32) -> Option<Inside<'_>> {
        let slot = self.sys.lps.get(lp as usize)?;
        let running = slot.running.with(|running| *running)?;
        let (tdr, tdvpr) = (self.chain(running.tdr)?, self.chain(running.tdvpr)?);
        Some(Inside {
            m: self,
            lp,
            running,
            td: tdr.page.td()?,
            vp: tdvpr.page.vp()?,
            tdr,
            tdvpr,
        })
    }
}

impl Inside<'_> {
    /// Forgets suspected zero-step faults when the guest is no longer where it was entered.
    pub(crate) fn check_progress(&self) {
        let entered_at = self.running.rip;
        self.vp.guest.with(|guest| {
            if guest.cpu.rip != entered_at {
                guest.steps.progress();
            }
        });
    }

    /// Counts a TD exit for an access to a private address.
    pub(crate) fn note_fault(&self, gpa: Gpa) {
        if self.td.is_private_gpa(gpa) {
            self.vp.guest.with(|guest| guest.steps.fault(gpa.0));
        }
    }

    /// Keeps what the processor reported.
    pub(crate) fn note_exit(&self, reason: u32, qual: u64, gpa: u64) {
        let exit = VmExit { reason, qual, gpa };
        self.vp.guest.with(|guest| guest.last_exit = exit);
    }

    /// The exit of a vCPU whose TD another vCPU has made fatal; None for a TD that is well.
    pub(crate) fn dead(&self, reason: u32, qual: u64) -> Option<AsyncExit> {
        self.td.fatal.load().then_some(AsyncExit {
            status: TdxStatus::NON_RECOVERABLE_TD_NON_ACCESSIBLE,
            ..AsyncExit::plain(reason, qual)
        })
    }

    /// Keeps the general-purpose registers of a guest that leaves in a TDCALL.
    pub(crate) fn store_gprs(&self, r: &Regs) {
        self.vp.guest.with(|guest| {
            let rsp = guest.gprs[gpr::RSP];
            guest.gprs = [
                r.rax, r.rcx, r.rdx, r.rbx, rsp, r.rbp, r.rsi, r.rdi, r.r8, r.r9, r.r10, r.r11,
                r.r12, r.r13, r.r14, r.r15,
            ];
        });
    }

    /// An asynchronous TD exit.
    pub(crate) fn leave(self, exit: AsyncExit) -> Regs {
        let Inside { td, vp, .. } = self;
        let mut status = exit.status;
        let (state, last) = match status {
            TdxStatus::NON_RECOVERABLE_VCPU => (VcpuState::DISABLED, None),
            TdxStatus::HOST_PRIORITY_BUSY_TIMEOUT => {
                (VcpuState::READY, Some(LastTdExit::ASYNC_TRAP))
            }
            TdxStatus::SUCCESS => (VcpuState::READY, Some(LastTdExit::ASYNC_FAULT)),
            _ => {
                td.fatal.store(true);
                status = TdxStatus(status.0 | 1 << 61);
                (vp.state(), None)
            }
        };
        let trap = last == Some(LastTdExit::ASYNC_TRAP);
        let mut regs = async_registers(exit.qual, exit.ext_qual, exit.gpa, exit.interruption);
        regs.rax = status.with_details(exit.reason).0;
        self.finish(state, last, trap, regs)
    }

    /// The exit of TDG.VP.VMCALL: the registers that `control` selects go to the host.
    pub(crate) fn leave_for_vmcall(self, control: u64) -> Regs {
        let gprs = self.vp.guest.with(|guest| guest.gprs);
        let selected = |i: usize| if control >> i & 1 != 0 { gprs[i] } else { 0 };
        let regs = Regs {
            rax: TDCALL.into(),
            rcx: control & 0xffff_ffff,
            rdx: selected(gpr::RDX),
            rbx: selected(gpr::RBX),
            rbp: selected(gpr::RBP),
            rsi: selected(gpr::RSI),
            rdi: selected(7),
            r8: selected(gpr::R8),
            r9: selected(9),
            r10: selected(10),
            r11: selected(11),
            r12: selected(12),
            r13: selected(13),
            r14: selected(14),
            r15: selected(15),
        };
        self.finish(VcpuState::READY, Some(LastTdExit::TDVMCALL), true, regs)
    }

    /// Writes back the vCPU's state, leaves the TLB epoch, and gives back TDR and TDVPR, in this
    /// order.
    fn finish(
        self,
        state: VcpuState,
        last: Option<LastTdExit>,
        trap: bool,
        mut regs: Regs,
    ) -> Regs {
        let tsc = self.m.platform.events.tsc(self.lp);
        self.vp.guest.with(|guest| {
            guest.last_exit_tsc = tsc;
            guest.last_td_exit = last.unwrap_or(guest.last_td_exit);
            if trap {
                guest.cpu.rip = guest.cpu.rip.wrapping_add(TDCALL_LENGTH);
            }
        });
        self.vp.set_state(state);
        if config_no_rbp_mod(self.td) {
            regs.rbp = self.running.rbp;
        }
        leave_epoch(self.td, self.vp);
        let lp = &self.m.sys.lps[self.lp as usize];
        lp.running.with(|running| *running = None);
        lp.busy.store(false);
        let tdr = self.tdr;
        let word = tdr.entry(PageSize::K4).lock();
        word.release(Mode::Shared, tdr.name(PageSize::K4));
        self.tdvpr.release_kept(Mode::Shared);
        regs
    }
}

/// Registers of an asynchronous exit, but RAX: everything that is not listed is zero.
pub(crate) fn async_registers(qual: u64, ext_qual: u64, gpa: u64, interruption: u32) -> Regs {
    Regs {
        rcx: qual,
        rdx: ext_qual,
        r8: gpa,
        r9: interruption.into(),
        ..Regs::default()
    }
}

/// Whether TD exits leave RBP alone (CONFIG_FLAGS.NO_RBP_MOD).
pub(crate) fn config_no_rbp_mod(td: &Td) -> bool {
    td.config_flags.load() & NO_RBP_MOD != 0
}
