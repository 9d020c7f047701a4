//! Why `KVM_RUN` returned: exit reasons and the numbers that come with them.
//!
//! Source: Linux v7.3.4 `include/uapi/linux/kvm.h`.

macro_rules! exit_reasons {
    ($($name:ident = $value:literal;)*) => {
        $(
            #[doc = concat!("Exit reason ", stringify!($value), ".")]
            pub const $name: u32 = $value;
        )*

        /// Every exit reason with its name, by number.
        pub const EXIT_REASONS: &[(u32, &str)] = &[$(($name, stringify!($name)),)*];

        /// The name of an exit reason.
        pub const fn exit_name(reason: u32) -> Option<&'static str> {
            match reason {
                $($value => Some(stringify!($name)),)*
                _ => None,
            }
        }
    };
}

exit_reasons! {
    KVM_EXIT_UNKNOWN = 0;
    KVM_EXIT_EXCEPTION = 1;
    KVM_EXIT_IO = 2;
    KVM_EXIT_HYPERCALL = 3;
    KVM_EXIT_DEBUG = 4;
    KVM_EXIT_HLT = 5;
    KVM_EXIT_MMIO = 6;
    KVM_EXIT_IRQ_WINDOW_OPEN = 7;
    KVM_EXIT_SHUTDOWN = 8;
    KVM_EXIT_FAIL_ENTRY = 9;
    KVM_EXIT_INTR = 10;
    KVM_EXIT_SET_TPR = 11;
    KVM_EXIT_TPR_ACCESS = 12;
    KVM_EXIT_S390_SIEIC = 13;
    KVM_EXIT_S390_RESET = 14;
    KVM_EXIT_DCR = 15;
    KVM_EXIT_NMI = 16;
    KVM_EXIT_INTERNAL_ERROR = 17;
    KVM_EXIT_OSI = 18;
    KVM_EXIT_PAPR_HCALL = 19;
    KVM_EXIT_S390_UCONTROL = 20;
    KVM_EXIT_WATCHDOG = 21;
    KVM_EXIT_S390_TSCH = 22;
    KVM_EXIT_EPR = 23;
    KVM_EXIT_SYSTEM_EVENT = 24;
    KVM_EXIT_S390_STSI = 25;
    KVM_EXIT_IOAPIC_EOI = 26;
    KVM_EXIT_HYPERV = 27;
    KVM_EXIT_ARM_NISV = 28;
    KVM_EXIT_X86_RDMSR = 29;
    KVM_EXIT_X86_WRMSR = 30;
    KVM_EXIT_DIRTY_RING_FULL = 31;
    KVM_EXIT_AP_RESET_HOLD = 32;
    KVM_EXIT_X86_BUS_LOCK = 33;
    KVM_EXIT_XEN = 34;
    KVM_EXIT_RISCV_SBI = 35;
    KVM_EXIT_RISCV_CSR = 36;
    KVM_EXIT_NOTIFY = 37;
    KVM_EXIT_LOONGARCH_IOCSR = 38;
    KVM_EXIT_MEMORY_FAULT = 39;
    KVM_EXIT_TDX = 40;
    KVM_EXIT_ARM_SEA = 41;
    KVM_EXIT_ARM_LDST64B = 42;
    KVM_EXIT_SNP_REQ_CERTS = 43;
}

/// `KVM_EXIT_IO`: the guest reads a port.
pub const KVM_EXIT_IO_IN: u8 = 0;
/// `KVM_EXIT_IO`: the guest writes a port.
pub const KVM_EXIT_IO_OUT: u8 = 1;
/// `KVM_EXIT_HYPERCALL` flag: the guest was in 64-bit mode.
pub const KVM_EXIT_HYPERCALL_LONG_MODE: u64 = 1;
/// `KVM_EXIT_MEMORY_FAULT` flag: the guest wanted the page private.
pub const KVM_MEMORY_EXIT_FLAG_PRIVATE: u64 = 1 << 3;
/// `KVM_EXIT_NOTIFY` flag: the vCPU's context is corrupt.
pub const KVM_NOTIFY_CONTEXT_INVALID: u32 = 1;
/// `KVM_EXIT_INTERNAL_ERROR`: instruction emulation failed.
pub const KVM_INTERNAL_ERROR_EMULATION: u32 = 1;
/// `KVM_EXIT_INTERNAL_ERROR`: two exceptions at once.
pub const KVM_INTERNAL_ERROR_SIMUL_EX: u32 = 2;
/// `KVM_EXIT_INTERNAL_ERROR`: an exit while an event was delivered.
pub const KVM_INTERNAL_ERROR_DELIVERY_EV: u32 = 3;
/// `KVM_EXIT_INTERNAL_ERROR`: an exit reason that KVM does not know.
pub const KVM_INTERNAL_ERROR_UNEXPECTED_EXIT_REASON: u32 = 4;
/// `KVM_EXIT_SYSTEM_EVENT`: shut down.
pub const KVM_SYSTEM_EVENT_SHUTDOWN: u32 = 1;
/// `KVM_EXIT_SYSTEM_EVENT`: reset.
pub const KVM_SYSTEM_EVENT_RESET: u32 = 2;
/// `KVM_EXIT_SYSTEM_EVENT`: crash.
pub const KVM_SYSTEM_EVENT_CRASH: u32 = 3;
/// `KVM_EXIT_SYSTEM_EVENT`: wake up.
pub const KVM_SYSTEM_EVENT_WAKEUP: u32 = 4;
/// `KVM_EXIT_SYSTEM_EVENT`: suspend.
pub const KVM_SYSTEM_EVENT_SUSPEND: u32 = 5;
/// `KVM_EXIT_SYSTEM_EVENT`: an SEV guest asks to be terminated.
pub const KVM_SYSTEM_EVENT_SEV_TERM: u32 = 6;
/// `KVM_EXIT_SYSTEM_EVENT`: a TD reports a fatal error; data holds its 16 registers.
pub const KVM_SYSTEM_EVENT_TDX_FATAL: u32 = 7;
/// `KVM_EXIT_X86_RDMSR`/`WRMSR`: access raised #GP.
pub const KVM_MSR_EXIT_REASON_INVAL: u32 = 1;
/// `KVM_EXIT_X86_RDMSR`/`WRMSR`: KVM does not know the MSR.
pub const KVM_MSR_EXIT_REASON_UNKNOWN: u32 = 1 << 1;
/// `KVM_EXIT_X86_RDMSR`/`WRMSR`: refused by the filter.
pub const KVM_MSR_EXIT_REASON_FILTER: u32 = 1 << 2;
/// `KVM_EXIT_HYPERCALL` number: convert a GPA range between shared and private.
pub const KVM_HC_MAP_GPA_RANGE: u64 = 12;
/// `KVM_HC_MAP_GPA_RANGE` attributes: the range becomes private.
pub const KVM_MAP_GPA_RANGE_ENCRYPTED: u64 = 1 << 4;
/// `KVM_EXIT_TDX` number: `GetTdVmCallInfo`.
pub const TDVMCALL_GET_TD_VM_CALL_INFO: u64 = 0x10000;
/// TDVMCALL number: `MapGPA`; user space sees it as [`KVM_HC_MAP_GPA_RANGE`].
pub const TDVMCALL_MAP_GPA: u64 = 0x10001;
/// `KVM_EXIT_TDX` number: `GetQuote`.
pub const TDVMCALL_GET_QUOTE: u64 = 0x10002;
/// TDVMCALL number: `ReportFatalError`; user space sees it as [`KVM_SYSTEM_EVENT_TDX_FATAL`].
pub const TDVMCALL_REPORT_FATAL_ERROR: u64 = 0x10003;
/// `KVM_EXIT_TDX` number: `SetupEventNotifyInterrupt`.
pub const TDVMCALL_SETUP_EVENT_NOTIFY_INTERRUPT: u64 = 0x10004;
/// TDVMCALL status: success.
pub const TDVMCALL_STATUS_SUCCESS: u64 = 0;
/// TDVMCALL status: call again for the rest.
pub const TDVMCALL_STATUS_RETRY: u64 = 1;
/// TDVMCALL status: an operand is invalid.
pub const TDVMCALL_STATUS_INVALID_OPERAND: u64 = 0x8000_0000_0000_0000;
/// TDVMCALL status: an operand is misaligned.
pub const TDVMCALL_STATUS_ALIGN_ERROR: u64 = 0x8000_0000_0000_0002;
/// TDVMCALL status: the function is not supported.
pub const TDVMCALL_STATUS_SUBFUNC_UNSUPPORTED: u64 = 0x8000_0000_0000_0003;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_dense_and_named() {
        for (index, (reason, name)) in EXIT_REASONS.iter().enumerate() {
            assert_eq!((*reason as usize, exit_name(*reason)), (index, Some(*name)));
        }
        assert_eq!(
            (KVM_EXIT_TDX, KVM_EXIT_MEMORY_FAULT, KVM_EXIT_SYSTEM_EVENT),
            (40, 39, 24)
        );
        assert_eq!(exit_name(44), None);
    }
}
