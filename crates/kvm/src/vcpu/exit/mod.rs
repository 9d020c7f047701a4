//! What KVM does about a TD exit (`tdx_handle_exit`), and what user space completes
//! (`complete_userspace_io`).
//!
//! # Locking
//! All of it runs under `vcpu->mutex`.
//!
//! Source: Linux v7.3.4 `arch/x86/kvm/vmx/tdx.c`.

mod cpuid;
mod fault;
mod hypercall;
mod io;
mod msr;
mod pv;
mod tdvmcall;

use seamlock_tdx_abi::TdxStatus;
use seamlock_tdx_abi::kvm::{
    EXIT_DATA_OFFSET, Errno, KVM_EXIT_EXCEPTION, KVM_EXIT_FAIL_ENTRY, KVM_EXIT_INTERNAL_ERROR,
    KVM_EXIT_NOTIFY, KVM_EXIT_SHUTDOWN, KVM_EXIT_X86_BUS_LOCK,
    KVM_INTERNAL_ERROR_UNEXPECTED_EXIT_REASON, KVM_RUN_X86_BUS_LOCK, KvmExitException,
    KvmExitFailEntry, KvmExitInternal, KvmExitNotify,
};
use seamlock_tdx_abi::regs::Regs;
use zerocopy::{Immutable, IntoBytes};

use super::Vcpu;
use crate::error::{Result, fail};
use crate::mmu::InTheWay;
use crate::task::Task;
use crate::tdx::sept;
use crate::vm::Kvm;

pub(crate) use fault::prepare_memory_fault;
pub(crate) use io::Transfer;

/// Byte offset of `exit_reason` in `struct kvm_run`.
const EXIT_REASON: usize = 8;
/// Byte offset of `flags`.
const FLAGS: usize = 14;

/// `TDX_SW_ERROR`: #UD, #GP or VMfailInvalid of the SEAMCALL instruction.
const TDX_SW_ERROR: u64 = 1 << 63 | 0xff << 40;

/// VMX exit reasons (SDM volume 3, appendix C).
mod reason {
    pub(super) const EXCEPTION_NMI: u16 = 0;
    pub(super) const EXTERNAL_INTERRUPT: u16 = 1;
    pub(super) const TRIPLE_FAULT: u16 = 2;
    pub(super) const OTHER_SMI: u16 = 6;
    pub(super) const CPUID: u64 = 10;
    pub(super) const HLT: u64 = 12;
    pub(super) const IO_INSTRUCTION: u64 = 30;
    pub(super) const MSR_READ: u64 = 31;
    pub(super) const MSR_WRITE: u64 = 32;
    pub(super) const EPT_VIOLATION: u16 = 48;
    pub(super) const EPT_MISCONFIG: u64 = 49;
    pub(super) const BUS_LOCK: u16 = 74;
    pub(super) const NOTIFY: u16 = 75;
    pub(super) const TDCALL: u16 = 77;
    /// A bus lock was detected besides.
    pub(super) const BUS_LOCK_DETECTED: u64 = 1 << 26;
    /// The entry itself failed.
    pub(super) const FAILED_VMENTRY: u64 = 1 << 31;
}

/// What becomes of the vCPU after an exit was handled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// It is entered again.
    Again,
    /// It is entered again when this is out of the way.
    Blocked(InTheWay),
    /// It waits for an event.
    Halted,
    /// User space gets it; `struct kvm_run` says why.
    ToUser,
}

/// What KVM does when user space calls KVM_RUN again (`vcpu->arch.complete_userspace_io`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Completion {
    /// `complete_hypercall_exit`.
    Hypercall,
    /// `tdx_complete_vmcall_map_gpa`; the rest of the range.
    MapGpa { next: u64, end: u64 },
    /// `tdx_complete_pio_out`.
    PioOut,
    /// `tdx_complete_pio_in`.
    PioIn(Transfer),
    /// `tdx_complete_mmio_read`.
    MmioRead(Transfer),
    /// `tdx_complete_get_td_vm_call_info`.
    TdVmCallInfo,
    /// `tdx_complete_simple`: user space's status goes to the guest.
    Simple,
    /// `complete_emulated_rdmsr`.
    Rdmsr,
    /// `complete_emulated_msr_access` of a write.
    Wrmsr,
}

/// One exit being handled: the vCPU, and the registers that the guest passed and will get back
/// (`vp_enter_args`).
pub(crate) struct Handling<'a> {
    pub(crate) task: &'a Task<'a>,
    pub(crate) kvm: &'a Kvm,
    pub(crate) vcpu: &'a Vcpu,
    pub(crate) regs: Regs,
}

impl<'a> Handling<'a> {
    pub(crate) fn new(task: &'a Task<'a>, kvm: &'a Kvm, vcpu: &'a Vcpu, regs: Regs) -> Self {
        Handling {
            task,
            kvm,
            vcpu,
            regs,
        }
    }

    /// `tdvmcall_set_return_code`.
    fn return_code(&mut self, code: u64) -> Exit {
        self.regs.r10 = code;
        Exit::Again
    }

    /// `tdvmcall_set_return_val`.
    fn return_value(&mut self, value: u64) -> Exit {
        self.regs.r11 = value;
        Exit::Again
    }

    /// Fills in `struct kvm_run` for user space.
    fn to_user<T: IntoBytes + Immutable>(&self, reason: u32, data: &T) -> Exit {
        let run = self.vcpu.run_page();
        run.write(EXIT_REASON, &reason.to_le_bytes());
        run.write(EXIT_DATA_OFFSET, data.as_bytes());
        Exit::ToUser
    }

    /// As [`to_user`](Handling::to_user), with something to do when user space is done.
    fn ask_user<T: IntoBytes + Immutable>(&self, reason: u32, data: &T, then: Completion) -> Exit {
        self.vcpu.state.with(|state| state.complete = Some(then));
        self.to_user(reason, data)
    }

    /// The union of `struct kvm_run` as user space left it.
    fn answer<T: zerocopy::FromBytes + IntoBytes>(&self) -> T {
        let mut data = T::new_zeroed();
        self.vcpu
            .run_page()
            .read(EXIT_DATA_OFFSET, data.as_mut_bytes());
        data
    }

    /// `tdx_handle_exit`.
    ///
    /// # Errors
    /// What KVM_RUN returns beside an exit: EFAULT with KVM_EXIT_MEMORY_FAULT, EIO.
    pub(crate) fn handle(&mut self, halted: bool) -> Result<Exit> {
        let status = self.regs.status();
        if sept::tdx_operand_busy(status) {
            let word = sept::busy_word(self.kvm, status);
            return Ok(Exit::Blocked(InTheWay::Word(word)));
        }
        let blocked = self.halts_with_interrupts_blocked();
        self.vcpu
            .state
            .with(|state| state.halted_with_interrupts_blocked = blocked);
        let exit = self.dispatch(halted);
        if has_exit_reason(status) && status.0 & reason::BUS_LOCK_DETECTED != 0 {
            return self.bus_lock(exit);
        }
        exit
    }

    /// The flag is set whatever became of the exit; user space gets it where the guest would go on.
    fn bus_lock(&self, exit: Result<Exit>) -> Result<Exit> {
        let run = self.vcpu.run_page();
        let mut flags = [0; 2];
        run.read(FLAGS, &mut flags);
        let flags = u16::from_le_bytes(flags) | KVM_RUN_X86_BUS_LOCK;
        run.write(FLAGS, &flags.to_le_bytes());
        if exit? != Exit::ToUser {
            run.write(EXIT_REASON, &KVM_EXIT_X86_BUS_LOCK.to_le_bytes());
        }
        Ok(Exit::ToUser)
    }

    fn dispatch(&mut self, halted: bool) -> Result<Exit> {
        const SITE: &str = "tdx.c:2053 __tdx_handle_exit";
        let status = self.regs.status();
        if status.0 == reason::EPT_MISCONFIG {
            const WHAT: &str = "an EPT misconfiguration";
            self.kvm.bug_on(true, SITE, WHAT);
            return fail(Errno::EIO, SITE, WHAT);
        }
        let software = status.0 & TDX_SW_ERROR == TDX_SW_ERROR;
        self.kvm
            .bug_on(software, SITE, "TDH.VP.ENTER itself failed");
        if software || !has_exit_reason(status) {
            return Ok(self.unexpected());
        }
        let basic = status.0 as u16;
        if status.0 & reason::FAILED_VMENTRY != 0 {
            return Ok(self.failed_entry());
        }
        if status.is_error() && basic != reason::TRIPLE_FAULT {
            return Ok(self.unexpected());
        }
        Ok(match basic {
            reason::TRIPLE_FAULT => self.to_user(KVM_EXIT_SHUTDOWN, &[0u8; 0]),
            reason::EXCEPTION_NMI => self.exception(),
            reason::EXTERNAL_INTERRUPT => {
                self.vcpu.stats().add(crate::stats::IRQ_EXITS, 1);
                if halted { Exit::Halted } else { Exit::Again }
            }
            reason::OTHER_SMI => Exit::Again,
            reason::TDCALL => self.tdvmcall()?,
            reason::EPT_VIOLATION => self.ept_violation()?,
            reason::NOTIFY => self.notify(),
            reason::BUS_LOCK => self.bus_lock(Ok(Exit::Again))?,
            _ => self.unexpected(),
        })
    }

    /// `kvm_prepare_unexpected_reason_exit`.
    fn unexpected(&self) -> Exit {
        let mut internal = KvmExitInternal {
            suberror: KVM_INTERNAL_ERROR_UNEXPECTED_EXIT_REASON,
            ndata: 2,
            ..KvmExitInternal::default()
        };
        internal.data[0] = self.regs.rax;
        internal.data[1] = self.vcpu.cpu() as u64;
        self.to_user(KVM_EXIT_INTERNAL_ERROR, &internal)
    }

    fn failed_entry(&self) -> Exit {
        let failed = KvmExitFailEntry {
            hardware_entry_failure_reason: u64::from(self.regs.rax as u32),
            cpu: self.vcpu.cpu() as u32,
            padding: 0,
        };
        self.to_user(KVM_EXIT_FAIL_ENTRY, &failed)
    }

    /// `tdx_handle_exception_nmi`.
    fn exception(&self) -> Exit {
        const VALID: u32 = 1 << 31;
        const TYPE: u32 = 7 << 8;
        const NMI: u32 = 2 << 8;
        const HARDWARE: u32 = 3 << 8;
        const MACHINE_CHECK: u32 = 18;
        let info = self.regs.r9 as u32;
        let kind = info & (VALID | TYPE);
        let machine_check = kind == VALID | HARDWARE && info & 0xff == MACHINE_CHECK;
        if kind == VALID | NMI || machine_check {
            return Exit::Again;
        }
        let exception = KvmExitException {
            exception: info & 0xff,
            error_code: 0,
        };
        self.to_user(KVM_EXIT_EXCEPTION, &exception)
    }

    /// `__vt_handle_notify`.
    fn notify(&self) -> Exit {
        self.vcpu.stats().add(crate::stats::NOTIFY_EXITS, 1);
        const CONTEXT_INVALID: u64 = 1;
        const USER: u64 = 1 << 1;
        let invalid = self.regs.rcx & CONTEXT_INVALID != 0;
        let to_user = self.kvm.arch.with(|arch| arch.notify_vmexit & USER != 0);
        if !to_user && !invalid {
            return Exit::Again;
        }
        self.to_user(
            KVM_EXIT_NOTIFY,
            &KvmExitNotify {
                flags: invalid.into(),
            },
        )
    }

    /// `complete_userspace_io`: takes in what user space answered. Whether the guest goes on.
    ///
    /// # Errors
    /// EINVAL for an answer that no hypercall can have.
    pub(crate) fn complete(&mut self, completion: Completion) -> Result<Exit> {
        Ok(match completion {
            Completion::Hypercall => self.complete_hypercall(),
            Completion::MapGpa { next, end } => self.complete_map_gpa(next, end)?,
            Completion::PioOut => Exit::Again,
            Completion::PioIn(transfer) => self.complete_pio_in(transfer),
            Completion::MmioRead(transfer) => self.complete_mmio_read(transfer),
            Completion::TdVmCallInfo => self.complete_td_vm_call_info(),
            Completion::Simple => self.complete_simple(),
            Completion::Rdmsr => self.complete_rdmsr(),
            Completion::Wrmsr => self.complete_wrmsr(),
        })
    }
}

/// `tdx_is_exit_reason_valid`: whether the vCPU ran at all, so that 31:0 of the status is an exit reason.
fn has_exit_reason(status: TdxStatus) -> bool {
    [
        TdxStatus::SUCCESS,
        TdxStatus::NON_RECOVERABLE_VCPU,
        TdxStatus::NON_RECOVERABLE_TD,
        TdxStatus::NON_RECOVERABLE_TD_NON_ACCESSIBLE,
        TdxStatus::NON_RECOVERABLE_TD_WRONG_APIC_MODE,
    ]
    .contains(&status.code())
}
