//! The model-specific registers that a guest can reach.
//!
//! Source: TDX module 1.5.01 (facts of its generated table); base specification "MSR
//! Virtualization". The capability registers of VMX have values of their own there for guests that
//! run L2 VMs; such guests can't be run here, and reads give #VE.

use self::MsrAccess::{Gp, Module, Native, NativeIf, Ve, VeIf};

/// What an access to a register does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MsrAccess {
    /// As on the processor.
    Native,
    /// #VE.
    Ve,
    /// #GP(0).
    Gp,
    /// As on the processor when the TD has the feature, else #GP(0).
    NativeIf(Feature),
    /// #VE when the TD has the feature, else #GP(0).
    VeIf(Feature),
    /// The module gives the value, or checks it.
    Module,
}

/// What a TD may have or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // named as in the manuals
pub enum Feature {
    Cet,
    Dca,
    Lbr,
    Perfmon,
    Pks,
    ProcessorTrace,
    Tme,
    TscDeadline,
    Tsx,
    Umwait,
    UserInterrupts,
    Xfd,
}

/// What accesses to a range of registers do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MsrRule {
    /// First register.
    pub first: u32,
    /// Last register.
    pub last: u32,
    /// RDMSR.
    pub read: MsrAccess,
    /// WRMSR.
    pub write: MsrAccess,
}

const fn both(first: u32, last: u32, access: MsrAccess) -> MsrRule {
    MsrRule {
        first,
        last,
        read: access,
        write: access,
    }
}

const fn one(index: u32, read: MsrAccess, write: MsrAccess) -> MsrRule {
    MsrRule {
        first: index,
        last: index,
        read,
        write,
    }
}

/// Every register that does not simply raise #VE, ascending.
#[rustfmt::skip]
pub const MSRS: &[MsrRule] = &[
    one(0x10, Native, Ve), // IA32_TIME_STAMP_COUNTER
    both(0x48, 0x49, Native), // IA32_SPEC_CTRL to IA32_PRED_CMD
    both(0x87, 0x87, VeIf(Feature::Tme)), // IA32_MKTME_PARTITIONING
    both(0x8c, 0x8f, Gp), // IA32_SGXLEPUBKEYHASHx
    both(0x98, 0x9b, Gp), // MSR_WBINVDP to IA32_SMM_MONITOR_CTL
    both(0x9e, 0x9e, Gp), // IA32_SMBASE
    one(0xbc, Native, Ve), // IA32_MISC_PACKAGE_CTLS
    one(0xbd, Module, Native), // IA32_XAPIC_DISABLE_STATUS
    both(0xc1, 0xc8, NativeIf(Feature::Perfmon)), // IA32_PMCx
    both(0xe1, 0xe1, NativeIf(Feature::Umwait)), // IA32_UMWAIT_CONTROL
    one(0x10a, Module, Native), // IA32_ARCH_CAPABILITIES
    both(0x10b, 0x10b, Native), // IA32_FLUSH_CMD
    both(0x122, 0x122, NativeIf(Feature::Tsx)), // IA32_TSX_CTRL
    both(0x174, 0x176, Native), // IA32_SYSENTER_CS to IA32_SYSENTER_EIP
    both(0x186, 0x18d, NativeIf(Feature::Perfmon)), // IA32_PERFEVTSELx
    both(0x195, 0x195, Gp), // IA32_OVERCLOCKING_STATUS
    one(0x1a0, Module, Ve), // IA32_MISC_ENABLE
    both(0x1a6, 0x1a7, NativeIf(Feature::Perfmon)), // MSR_OFFCORE_RSPx
    both(0x1c4, 0x1c5, NativeIf(Feature::Xfd)), // IA32_XFD to IA32_XFD_ERR
    both(0x1d9, 0x1d9, Module), // IA32_DEBUGCTL
    both(0x1f8, 0x1fa, VeIf(Feature::Dca)), // IA32_PLATFORM_DCA_CAP to IA32_DCA_0_CAP
    both(0x276, 0x276, Gp), // MSR_SLAM_ENABLE
    both(0x277, 0x277, Native), // IA32_PAT
    both(0x309, 0x310, NativeIf(Feature::Perfmon)), // IA32_FIXED_CTRx
    both(0x329, 0x329, NativeIf(Feature::Perfmon)), // IA32_PERF_METRICS
    one(0x345, Module, NativeIf(Feature::Perfmon)), // IA32_PERF_CAPABILITIES
    both(0x38d, 0x392, NativeIf(Feature::Perfmon)), // IA32_FIXED_CTR_CTRL to IA32_PERF_GLOBAL_INUSE
    both(0x3f1, 0x3f2, NativeIf(Feature::Perfmon)), // IA32_PEBS_ENABLE to MSR_PEBS_MATRIX_VECT
    both(0x3f6, 0x3f7, NativeIf(Feature::Perfmon)), // MSR_PEBS_LD_LATENCY to MSR_PEBS_FRONTEND
    MsrRule { first: 0x480, last: 0x492, read: Ve, write: Gp }, // IA32_VMX_*
    both(0x4c1, 0x4c8, NativeIf(Feature::Perfmon)), // IA32_A_PMCx
    both(0x500, 0x500, Gp), // IA32_SGX_SVN_STATUS
    both(0x560, 0x561, NativeIf(Feature::ProcessorTrace)), // IA32_RTIT_OUTPUT_*
    both(0x570, 0x572, NativeIf(Feature::ProcessorTrace)), // IA32_RTIT_CTL to IA32_RTIT_CR3_MATCH
    both(0x580, 0x587, NativeIf(Feature::ProcessorTrace)), // IA32_RTIT_ADDR0_A to IA32_RTIT_ADDR3_B
    both(0x600, 0x600, Native), // IA32_DS_AREA
    both(0x6a0, 0x6a0, NativeIf(Feature::Cet)), // IA32_U_CET
    both(0x6a2, 0x6a2, NativeIf(Feature::Cet)), // IA32_S_CET
    both(0x6a4, 0x6a8, NativeIf(Feature::Cet)), // IA32_PL0_SSP to IA32_INTERRUPT_SSP_TABLE_ADDR
    both(0x6e0, 0x6e0, VeIf(Feature::TscDeadline)), // IA32_TSC_DEADLINE
    both(0x6e1, 0x6e1, NativeIf(Feature::Pks)), // IA32_PKRS
    both(0x800, 0x801, Gp), // reserved
    both(0x804, 0x807, Gp), // reserved
    both(0x808, 0x80c, Native), // IA32_X2APIC_TPR to IA32_X2APIC_EOI
    both(0x80e, 0x80e, Native), // reserved
    both(0x810, 0x827, Native), // IA32_X2APIC_ISRx to IA32_X2APIC_IRRx
    both(0x829, 0x82e, Gp), // reserved
    both(0x831, 0x831, Gp), // reserved
    both(0x83f, 0x83f, Native), // IA32_X2APIC_SELF_IPI
    both(0x840, 0x8ff, Gp), // reserved
    both(0x981, 0x984, VeIf(Feature::Tme)), // IA32_TME_CAPABILITY to IA32_TME_EXCLUDE_BASE
    both(0x985, 0x98a, NativeIf(Feature::UserInterrupts)), // IA32_UINTR_RR to IA32_UINTR_TT
    one(0xc80, Native, Ve), // IA32_DEBUG_INTERFACE
    both(0xd90, 0xd90, Gp), // IA32_BNDCFGS
    both(0xd93, 0xd93, Gp), // IA32_PASID
    one(0xda0, Native, Module), // IA32_XSS
    both(0x1200, 0x12ff, NativeIf(Feature::Lbr)), // IA32_LBR_INFO
    both(0x14ce, 0x14cf, NativeIf(Feature::Lbr)), // IA32_LBR_CTL to IA32_LBR_DEPTH
    both(0x1500, 0x16ff, NativeIf(Feature::Lbr)), // IA32_LBR_x_FROM_IP to IA32_LBR_x_TO_IP
    both(0x1b01, 0x1b01, Native), // IA32_UARCH_MISC_CTL
    one(0xc000_0080, Native, Module), // IA32_EFER
    both(0xc000_0081, 0xc000_0082, Native), // IA32_STAR to IA32_LSTAR
    both(0xc000_0084, 0xc000_0084, Native), // IA32_FMASK
    both(0xc000_0100, 0xc000_0103, Native), // IA32_FSBASE to IA32_TSC_AUX
];

/// The rule for a register; None when every access raises #VE.
pub fn msr_rule(index: u32) -> Option<&'static MsrRule> {
    let after = MSRS.partition_point(|rule| rule.first <= index);
    MSRS[..after].last().filter(|rule| index <= rule.last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_ascend_and_do_not_overlap() {
        assert!(MSRS.windows(2).all(|pair| pair[0].last < pair[1].first));
        assert!(MSRS.iter().all(|rule| rule.first <= rule.last));
    }

    #[test]
    fn a_register_has_the_rule_of_its_range_or_none() {
        let access = |index| msr_rule(index).map(|rule| (rule.read, rule.write));
        assert_eq!(access(0x10), Some((Native, Ve)));
        assert_eq!(access(0xc000_0082), Some((Native, Native)));
        assert_eq!(access(0x1b), None);
        assert_eq!(
            access(0xc1 + 7),
            Some((NativeIf(Feature::Perfmon), NativeIf(Feature::Perfmon)))
        );
        assert_eq!(access(u32::MAX), None);
    }
}
