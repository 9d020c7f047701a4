//! TD_PARAMS: what the host asks of a TD at `TDH.MNG.INIT`, and its bit fields.
//!
//! Source: TDX module 1.5.06 (offsets), ABI specification "TD_PARAMS"; Linux v7.3.4
//! `arch/x86/kvm/vmx/tdx_arch.h` agrees on every field it names.

use bitflags::bitflags;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::layout::assert_layout;

/// Number of CPUID configurations of module 1.5.06 (`NUM_CPUID_CONFIG`). It varies with the module
/// version, and the reserved area behind them moves along.
pub const NUM_CPUID_CONFIG: usize = 18;
/// Alignment in bytes of TD_PARAMS in memory.
pub const TD_PARAMS_ALIGN: u64 = 1024;
/// Most vCPUs of a TD (module 1.5.06, `MAX_VCPUS_PER_TD`).
pub const MAX_VCPUS_PER_TD: u16 = 576;
/// Most L2 VMs of a TD.
pub const MAX_L2_VMS: u8 = 3;
/// Hertz in one unit of `tsc_frequency`.
pub const TSC_FREQUENCY_UNIT_HZ: u64 = 25_000_000;
/// Least `tsc_frequency`: 100 MHz.
pub const TSC_FREQUENCY_MIN: u16 = 4;
/// Greatest `tsc_frequency`: 10 GHz.
pub const TSC_FREQUENCY_MAX: u16 = 400;

/// The four registers that CPUID returns, as TD_PARAMS and metadata hold them.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
#[allow(missing_docs)]
pub struct CpuidValue {
    pub eax: u32,
    pub ebx: u32,
    pub ecx: u32,
    pub edx: u32,
}

/// TD_PARAMS, 1024 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct TdParams {
    /// TD attributes ([`Attributes`]).
    pub attributes: u64,
    /// Extended features mask, in the format of XCR0 | IA32_XSS ([`Xfam`]).
    pub xfam: u64,
    /// Most vCPUs, 1 to [`MAX_VCPUS_PER_TD`].
    pub max_vcpus: u16,
    /// L2 VMs, 0 to [`MAX_L2_VMS`].
    pub num_l2_vms: u8,
    /// Bit 0: IA32_ARCH_CAPABILITIES is configured.
    pub msr_config_ctls: u8,
    /// Must be zero.
    pub reserved_0: [u8; 4],
    /// Secure EPT shape ([`EptpControls`]).
    pub eptp_controls: u64,
    /// [`ConfigFlags`].
    pub config_flags: u64,
    /// Virtual TSC frequency in units of 25 MHz.
    pub tsc_frequency: u16,
    /// Must be zero.
    pub reserved_1: [u8; 38],
    /// Software-defined id of the configuration; only reported.
    pub mrconfigid: [u8; 48],
    /// Software-defined id of the owner; only reported.
    pub mrowner: [u8; 48],
    /// Software-defined id of the owner's configuration; only reported.
    pub mrownerconfig: [u8; 48],
    /// Value of IA32_ARCH_CAPABILITIES, used when `msr_config_ctls` bit 0 is set.
    pub ia32_arch_capabilities_config: u64,
    /// Must be zero.
    pub reserved_2: [u8; 24],
    /// Values of the configurable CPUID leaves, in the order of the module's list.
    pub cpuid_config: [CpuidValue; NUM_CPUID_CONFIG],
    /// Must be zero.
    pub reserved_3: [u8; 480],
}

assert_layout!(CpuidValue, size 16, eax @ 0, ebx @ 4, ecx @ 8, edx @ 12);
assert_layout!(
    TdParams, size 1024, attributes @ 0, xfam @ 8, max_vcpus @ 16, num_l2_vms @ 18,
    msr_config_ctls @ 19, reserved_0 @ 20, eptp_controls @ 24, config_flags @ 32,
    tsc_frequency @ 40, reserved_1 @ 42, mrconfigid @ 80, mrowner @ 128, mrownerconfig @ 176,
    ia32_arch_capabilities_config @ 224, reserved_2 @ 232, cpuid_config @ 256, reserved_3 @ 544,
);

bitflags! {
    /// ATTRIBUTES: properties of a TD that its report shows.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
    pub struct Attributes: u64 {
        /// The host may debug the TD.
        const DEBUG = 1;
        /// The TD does not get single-step defence (ICSSD).
        const ICSSD = 1 << 16;
        /// Linear address space separation.
        const LASS = 1 << 27;
        /// Private EPT violations do not raise #VE.
        const SEPT_VE_DISABLE = 1 << 28;
        /// The TD can be migrated.
        const MIGRATABLE = 1 << 29;
        /// Supervisor protection keys.
        const PKS = 1 << 30;
        /// Key locker.
        const KL = 1 << 31;
        /// The TD may use the performance monitors.
        const PERFMON = 1 << 63;
        const _ = !0;
    }

    /// CONFIG_FLAGS: non-measured options of a TD.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
    pub struct ConfigFlags: u64 {
        /// GPA width is 52 (shared bit 51); else 48 (shared bit 47).
        const GPAW = 1;
        /// The guest may choose whether pending pages raise #VE.
        const FLEXIBLE_PENDING_VE = 1 << 1;
        /// TDH.VP.ENTER and TDG.VP.VMCALL keep RBP.
        const NO_RBP_MOD = 1 << 2;
        /// The guest's physical address width is virtualised.
        const MAXPA_VIRT = 1 << 3;
        const _ = !0;
    }

    /// XFAM bits, numbered as in XCR0 and IA32_XSS.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
    pub struct Xfam: u64 {
        /// x87 state.
        const FP = 1;
        /// SSE state.
        const SSE = 1 << 1;
        /// AVX state.
        const AVX = 1 << 2;
        /// MPX state, both bits.
        const MPX = 3 << 3;
        /// AVX-512 state, all three bits.
        const AVX512 = 7 << 5;
        /// Processor trace.
        const PT = 1 << 8;
        /// User protection keys.
        const PK = 1 << 9;
        /// ENQCMD (PASID).
        const ENQCMD = 1 << 10;
        /// Control-flow enforcement, user state.
        const CET_U = 1 << 11;
        /// Control-flow enforcement, supervisor state.
        const CET_S = 1 << 12;
        /// Hardware duty cycling.
        const HDC = 1 << 13;
        /// User interrupts.
        const ULI = 1 << 14;
        /// Last branch records.
        const LBR = 1 << 15;
        /// Hardware P-states.
        const HWP = 1 << 16;
        /// AMX tiles, both bits.
        const AMX = 3 << 17;
        const _ = !0;
    }
}

/// XFAM bits that module 1.5.06 lets a TD set, CPU permitting.
pub const XFAM_FIXED0: u64 = 0x6_dbe7;
/// XFAM bits that every TD must set.
pub const XFAM_FIXED1: u64 = 0x3;
/// ATTRIBUTES bits that module 1.5.06 lets a TD set, CPU permitting.
pub const ATTRIBUTES_FIXED0: u64 = 0x8000_0000_7801_0001;
/// ATTRIBUTES bits that every TD must set.
pub const ATTRIBUTES_FIXED1: u64 = 0;

/// EPTP_CONTROLS: memory type in 2:0, levels minus one in 5:3, the rest zero.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(transparent)]
pub struct EptpControls(pub u64);

impl EptpControls {
    /// Write-back, four levels.
    pub const WB_PWL4: Self = Self::new(Self::MEMORY_TYPE_WB, 4);
    /// Write-back, five levels.
    pub const WB_PWL5: Self = Self::new(Self::MEMORY_TYPE_WB, 5);
    /// The write-back memory type.
    pub const MEMORY_TYPE_WB: u8 = 6;

    /// Puts a value together from memory type and number of levels (1 to 8).
    pub const fn new(memory_type: u8, levels: u8) -> Self {
        Self(memory_type as u64 & 7 | ((levels as u64).wrapping_sub(1) & 7) << 3)
    }

    /// Memory type, bits 2:0.
    pub const fn memory_type(self) -> u8 {
        self.0 as u8 & 7
    }

    /// Number of EPT levels, bits 5:3 plus one.
    pub const fn levels(self) -> u8 {
        (self.0 >> 3) as u8 % 8 + 1
    }

    /// Bits 63:6.
    pub const fn reserved(self) -> u64 {
        self.0 >> 6
    }
}

/// Position of the shared bit in a GPA: 51 with [`ConfigFlags::GPAW`], else 47.
pub const fn shared_bit(config_flags: u64) -> u32 {
    if config_flags & ConfigFlags::GPAW.bits() != 0 {
        51
    } else {
        47
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use zerocopy::FromZeros;

    #[test]
    fn eptp_controls_of_kvm_are_write_back_with_four_or_five_levels() {
        assert_eq!(
            (EptpControls::WB_PWL4.0, EptpControls::WB_PWL5.0),
            (0x1e, 0x26)
        );
        let five = EptpControls(0x26 | 1 << 6);
        assert_eq!(
            (five.memory_type(), five.levels(), five.reserved()),
            (6, 5, 1)
        );
    }

    #[test]
    fn fixed_masks_name_the_known_bits() {
        assert_eq!(XFAM_FIXED0 & Xfam::AVX512.bits(), Xfam::AVX512.bits());
        assert_eq!(XFAM_FIXED0 & Xfam::HDC.bits(), 0);
        assert_eq!(ATTRIBUTES_FIXED0 & Attributes::KL.bits(), 0);
        assert_ne!(ATTRIBUTES_FIXED0 & Attributes::SEPT_VE_DISABLE.bits(), 0);
        assert_eq!(
            (shared_bit(0), shared_bit(ConfigFlags::GPAW.bits())),
            (47, 51)
        );
    }

    #[test]
    fn bytes_round_trip() {
        let mut params = TdParams::new_zeroed();
        params.max_vcpus = 4;
        params.cpuid_config[17].edx = 0x1234;
        let bytes = params.as_bytes();
        assert_eq!((bytes[16], bytes[540], bytes[541]), (4, 0x34, 0x12));
        assert_eq!(TdParams::read_from_bytes(bytes), Ok(params));
        assert!(TdParams::read_from_bytes(&bytes[1..]).is_err());
    }
}
