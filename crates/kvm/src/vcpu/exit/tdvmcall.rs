//! TDG.VP.VMCALL: which call it is, and those that are TDX's own.

use seamlock_tdx_abi::kvm::{
    KVM_EXIT_SYSTEM_EVENT, KVM_EXIT_TDX, KVM_SYSTEM_EVENT_TDX_FATAL, KvmExitSystemEvent,
    KvmExitTdx, KvmExitTdxGetQuote, KvmExitTdxGetTdvmcallInfo, KvmExitTdxSetupEventNotify,
    TDVMCALL_GET_QUOTE, TDVMCALL_GET_TD_VM_CALL_INFO, TDVMCALL_MAP_GPA,
    TDVMCALL_REPORT_FATAL_ERROR, TDVMCALL_SETUP_EVENT_NOTIFY_INTERRUPT,
    TDVMCALL_STATUS_INVALID_OPERAND, TDVMCALL_STATUS_SUBFUNC_UNSUPPORTED, TDVMCALL_STATUS_SUCCESS,
};

use super::{Completion, Exit, Handling, has_exit_reason, reason};
use crate::error::Result;

/// EPT_VIOLATION as the number of a call: `#VE` handlers ask for MMIO by it.
const MMIO: u64 = 48;

impl Handling<'_> {
    /// Whether the exit is a halt of which the guest says that interrupts are blocked.
    pub(super) fn halts_with_interrupts_blocked(&self) -> bool {
        let r = &self.regs;
        let call = has_exit_reason(r.status()) && r.status().0 as u16 == reason::TDCALL;
        call && r.r10 == 0 && r.r11 == reason::HLT && r.r12 != 0
    }

    /// A TDCALL exit: R10 says whether R11 is a call of the GHCI or R10 itself KVM's hypercall.
    pub(super) fn tdvmcall(&mut self) -> Result<Exit> {
        if self.regs.r10 != 0 {
            return Ok(self.emulate_vmcall());
        }
        Ok(match self.regs.r11 {
            reason::CPUID => self.emulate_cpuid(),
            reason::HLT => Exit::Halted,
            reason::IO_INSTRUCTION => self.emulate_io(),
            reason::MSR_READ => self.emulate_rdmsr(),
            reason::MSR_WRITE => self.emulate_wrmsr(),
            MMIO => self.emulate_mmio(),
            TDVMCALL_MAP_GPA => self.map_gpa(),
            TDVMCALL_REPORT_FATAL_ERROR => self.report_fatal_error(),
            TDVMCALL_GET_TD_VM_CALL_INFO => self.td_vm_call_info(),
            TDVMCALL_GET_QUOTE => self.get_quote(),
            TDVMCALL_SETUP_EVENT_NOTIFY_INTERRUPT => self.setup_event_notify_interrupt(),
            _ => self.return_code(TDVMCALL_STATUS_SUBFUNC_UNSUPPORTED),
        })
    }

    /// `tdx_report_fatal_error`: the registers in the order of their numbers; RSP and RBP are not known.
    fn report_fatal_error(&self) -> Exit {
        let r = &self.regs;
        let data = [
            r.rax, r.rcx, r.rdx, r.rbx, 0, 0, r.rsi, r.rdi, r.r8, r.r9, r.r10, r.r11, r.r12, r.r13,
            r.r14, r.r15,
        ];
        let event = KvmExitSystemEvent {
            r#type: KVM_SYSTEM_EVENT_TDX_FATAL,
            ndata: 16,
            data,
        };
        self.to_user(KVM_EXIT_SYSTEM_EVENT, &event)
    }

    /// `tdx_get_td_vm_call_info`.
    fn td_vm_call_info(&mut self) -> Exit {
        match self.regs.r12 {
            0 => {
                let r = &mut self.regs;
                (r.r11, r.r12, r.r13, r.r14) = (0, 0, 0, 0);
                self.return_code(TDVMCALL_STATUS_SUCCESS)
            }
            1 => {
                let info = KvmExitTdxGetTdvmcallInfo {
                    nr: TDVMCALL_GET_TD_VM_CALL_INFO,
                    ret: TDVMCALL_STATUS_SUCCESS,
                    leaf: 1,
                    ..KvmExitTdxGetTdvmcallInfo::default()
                };
                self.ask_user(KVM_EXIT_TDX, &info, Completion::TdVmCallInfo)
            }
            _ => self.return_code(TDVMCALL_STATUS_INVALID_OPERAND),
        }
    }

    pub(super) fn complete_td_vm_call_info(&mut self) -> Exit {
        let info: KvmExitTdxGetTdvmcallInfo = self.answer();
        let r = &mut self.regs;
        (r.r11, r.r12, r.r13, r.r14) = (info.r11, info.r12, info.r13, info.r14);
        self.return_code(info.ret)
    }

    /// `tdx_get_quote`: the buffer must be shared.
    fn get_quote(&mut self) -> Exit {
        let (gpa, size) = (self.regs.r12, self.regs.r13);
        if self.kvm.tdx.is_private_gpa(gpa) {
            return self.return_code(TDVMCALL_STATUS_INVALID_OPERAND);
        }
        let quote = KvmExitTdxGetQuote {
            flags: 0,
            nr: TDVMCALL_GET_QUOTE,
            ret: TDVMCALL_STATUS_SUBFUNC_UNSUPPORTED,
            gpa: self.without_shared_bit(gpa),
            size,
        };
        self.ask_user(KVM_EXIT_TDX, &quote, Completion::Simple)
    }

    /// `tdx_setup_event_notify_interrupt`.
    fn setup_event_notify_interrupt(&mut self) -> Exit {
        let vector = self.regs.r12;
        if !(32..=255).contains(&vector) {
            return self.return_code(TDVMCALL_STATUS_INVALID_OPERAND);
        }
        let notify = KvmExitTdxSetupEventNotify {
            flags: 0,
            nr: TDVMCALL_SETUP_EVENT_NOTIFY_INTERRUPT,
            ret: TDVMCALL_STATUS_SUBFUNC_UNSUPPORTED,
            vector,
        };
        self.ask_user(KVM_EXIT_TDX, &notify, Completion::Simple)
    }

    pub(super) fn complete_simple(&mut self) -> Exit {
        let answer: KvmExitTdx = self.answer();
        self.return_code(answer.ret)
    }

    /// The address as user space knows it.
    pub(super) fn without_shared_bit(&self, gpa: u64) -> u64 {
        gpa & !(self.kvm.tdx.gfn_direct_bits() << seamlock_tdx_abi::PAGE_SHIFT)
    }
}
