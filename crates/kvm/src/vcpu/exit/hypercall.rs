//! KVM's own hypercalls, and MapGPA, which user space sees as one.

use seamlock_tdx_abi::kvm::{
    EXIT_DATA_OFFSET, Errno, KVM_EXIT_HYPERCALL, KVM_EXIT_HYPERCALL_LONG_MODE,
    KVM_HC_MAP_GPA_RANGE, KVM_MAP_GPA_RANGE_ENCRYPTED, KvmExitHypercall,
    TDVMCALL_STATUS_ALIGN_ERROR, TDVMCALL_STATUS_INVALID_OPERAND, TDVMCALL_STATUS_RETRY,
    TDVMCALL_STATUS_SUBFUNC_UNSUPPORTED,
};
use seamlock_tdx_abi::{PAGE_SHIFT, PAGE_SIZE};

use super::{Completion, Exit, Handling};
use crate::error::{Result, fail};

/// `KVM_HC_VAPIC_POLL_IRQ`.
const VAPIC_POLL_IRQ: u64 = 1;
/// `KVM_HC_KICK_CPU`.
const KICK_CPU: u64 = 5;
/// `KVM_HC_CLOCK_PAIRING`.
const CLOCK_PAIRING: u64 = 9;
/// `KVM_HC_SEND_IPI`.
const SEND_IPI: u64 = 10;
/// `KVM_HC_SCHED_YIELD`.
const SCHED_YIELD: u64 = 11;
/// `-KVM_ENOSYS`.
pub(super) const ENOSYS: u64 = 1000u64.wrapping_neg();
/// `-KVM_EINVAL`.
pub(super) const EINVAL: u64 = 22u64.wrapping_neg();
/// `-KVM_EOPNOTSUPP`.
const EOPNOTSUPP: u64 = 95u64.wrapping_neg();
/// `TDX_MAP_GPA_MAX_LEN`: MapGPA goes to user space in pieces of 2 MiB, so that interrupts get in
/// between.
const MAP_GPA_MAX_LEN: u64 = 2 << 20;

impl Handling<'_> {
    fn exits_on_map_gpa(&self) -> bool {
        self.kvm
            .arch
            .with(|arch| arch.hypercall_exit_enabled >> KVM_HC_MAP_GPA_RANGE & 1 != 0)
    }

    /// `tdx_emulate_vmcall`: number in R10, arguments in R11 to R14.
    pub(super) fn emulate_vmcall(&mut self) -> Exit {
        self.vcpu.stats().add(crate::stats::HYPERCALLS, 1);
        let (nr, a0, a1) = (self.regs.r10, self.regs.r11, self.regs.r12);
        let (a2, a3) = (self.regs.r13, self.regs.r14);
        let ret = match nr {
            VAPIC_POLL_IRQ => 0,
            KICK_CPU => self.kick_cpu(a1),
            // As where the host's clock does not come from the TSC: no clock is read.
            CLOCK_PAIRING => EOPNOTSUPP,
            SEND_IPI => self.send_ipi([a0, a1], a2 as u32, a3),
            SCHED_YIELD => self.sched_yield(),
            KVM_HC_MAP_GPA_RANGE if self.exits_on_map_gpa() => {
                let gfn = a0 >> PAGE_SHIFT;
                if a0.is_multiple_of(PAGE_SIZE) && gfn.wrapping_add(a1) > gfn {
                    let exit = map_gpa_range(a0, a1, a2);
                    return self.ask_user(KVM_EXIT_HYPERCALL, &exit, Completion::Hypercall);
                }
                EINVAL
            }
            _ => ENOSYS,
        };
        // What KVM answers itself passes through struct kvm_run as well.
        let at = EXIT_DATA_OFFSET + std::mem::offset_of!(KvmExitHypercall, ret);
        self.vcpu.run_page().write(at, &ret.to_le_bytes());
        self.return_code(ret)
    }

    /// `complete_hypercall_exit`.
    pub(super) fn complete_hypercall(&mut self) -> Exit {
        let answer: KvmExitHypercall = self.answer();
        self.return_code(answer.ret)
    }

    /// `tdx_map_gpa`: address in R12, bytes in R13; the shared bit says what the range becomes.
    pub(super) fn map_gpa(&mut self) -> Exit {
        let (gpa, size) = (self.regs.r12, self.regs.r13);
        if !self.exits_on_map_gpa() {
            return self.map_gpa_error(TDVMCALL_STATUS_SUBFUNC_UNSUPPORTED, gpa);
        }
        let end = gpa.wrapping_add(size);
        let last = end.wrapping_sub(1);
        let is_private = |gpa| self.kvm.tdx.is_private_gpa(gpa);
        if end <= gpa
            || !self.is_legal_gpa(gpa)
            || !self.is_legal_gpa(last)
            || is_private(gpa) != is_private(last)
        {
            return self.map_gpa_error(TDVMCALL_STATUS_INVALID_OPERAND, gpa);
        }
        if !gpa.is_multiple_of(PAGE_SIZE) || !size.is_multiple_of(PAGE_SIZE) {
            return self.map_gpa_error(TDVMCALL_STATUS_ALIGN_ERROR, gpa);
        }
        self.map_gpa_piece(gpa, end)
    }

    fn map_gpa_error(&mut self, code: u64, next: u64) -> Exit {
        self.regs.r11 = next;
        self.return_code(code)
    }

    /// `__tdx_map_gpa`.
    fn map_gpa_piece(&self, next: u64, end: u64) -> Exit {
        let size = (end - next).min(MAP_GPA_MAX_LEN);
        let private = self.kvm.tdx.is_private_gpa(next);
        let attributes = if private {
            KVM_MAP_GPA_RANGE_ENCRYPTED
        } else {
            0
        };
        let exit = map_gpa_range(self.without_shared_bit(next), size / PAGE_SIZE, attributes);
        self.ask_user(KVM_EXIT_HYPERCALL, &exit, Completion::MapGpa { next, end })
    }

    /// `tdx_complete_vmcall_map_gpa`.
    pub(super) fn complete_map_gpa(&mut self, next: u64, end: u64) -> Result<Exit> {
        const SITE: &str = "tdx.c:1198 tdx_complete_vmcall_map_gpa";
        const OK: u64 = 0;
        const AGAIN: u64 = Errno::EAGAIN.0 as u64;
        const INVALID: u64 = Errno::EINVAL.0 as u64;
        let answer: KvmExitHypercall = self.answer();
        match answer.ret {
            OK => {}
            AGAIN => return Ok(self.map_gpa_error(TDVMCALL_STATUS_RETRY, next)),
            INVALID => return Ok(self.map_gpa_error(TDVMCALL_STATUS_INVALID_OPERAND, next)),
            _ => {
                return fail(
                    Errno::EINVAL,
                    SITE,
                    "hypercall.ret is not 0, EAGAIN or EINVAL",
                );
            }
        }
        match next.checked_add(MAP_GPA_MAX_LEN) {
            // The guest has to take the event, and comes back for the rest.
            Some(next) if next < end && self.vcpu.has_events(self.kvm) => {
                Ok(self.map_gpa_error(TDVMCALL_STATUS_RETRY, next))
            }
            Some(next) if next < end => Ok(self.map_gpa_piece(next, end)),
            _ => Ok(Exit::Again),
        }
    }

    /// `kvm_vcpu_is_legal_gpa`: by the MAXPHYADDR in the vCPU's CPUID.
    fn is_legal_gpa(&self, gpa: u64) -> bool {
        let bits = self.vcpu.state.with(|state| state.maxphyaddr());
        gpa.checked_shr(bits).unwrap_or(0) == 0
    }
}

fn map_gpa_range(gpa: u64, npages: u64, attributes: u64) -> KvmExitHypercall {
    // `ret` is zero already when user space gets it: QEMU up to 9.2 did not write it.
    KvmExitHypercall {
        nr: KVM_HC_MAP_GPA_RANGE,
        args: [gpa, npages, attributes, 0, 0, 0],
        ret: 0,
        flags: KVM_EXIT_HYPERCALL_LONG_MODE,
    }
}
