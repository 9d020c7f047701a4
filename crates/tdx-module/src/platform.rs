//! The machine that the module runs on: what it finds there, and what may happen to it.

mod sapphire_rapids;
mod scripted;
mod xsave;

use std::fmt;
use std::sync::Arc;

use seamlock_tdx_abi::addr::{Hkid, Hpa};

pub use scripted::{Script, Scripted};
pub use xsave::XsaveLayout;

/// Bits of a physical address that the module looks at, whatever width the processor reports: an
/// address above the memory but below this is out of range, not malformed (TDX module 1.5,
/// `x86_defs.h`).
pub const MAX_PA_BITS: u32 = 52;

/// A range of physical addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// First byte.
    pub base: u64,
    /// Bytes.
    pub size: u64,
}

impl Range {
    /// The first byte after the range.
    pub const fn end(&self) -> u64 {
        self.base + self.size
    }

    /// Whether `pa` lies in the range.
    pub const fn contains(&self, pa: u64) -> bool {
        pa >= self.base && pa - self.base < self.size
    }

    /// Whether the whole of `other` lies in the range.
    pub const fn covers(&self, other: &Range) -> bool {
        other.base >= self.base && other.end() <= self.end()
    }
}

/// One CPUID result of the processor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CpuidEntry {
    /// EAX on input.
    pub leaf: u32,
    /// ECX on input; None when the leaf has no subleaves.
    pub subleaf: Option<u32>,
    /// EAX, EBX, ECX, EDX.
    pub regs: [u32; 4],
}

/// The machine: processors, memory, keys. Fixed while the module lives.
#[derive(Clone, Debug)]
pub struct Platform {
    /// Bytes of physical memory, from address 0.
    pub ram_bytes: u64,
    /// Processor packages, 1 to 8.
    pub packages: u32,
    /// Logical processors, numbered from 0, the same number in every package.
    pub lps: u32,
    /// Width of a physical address in bits, HKID bits included (CPUID 0x80000008 EAX 7:0).
    pub maxpa: u32,
    /// Lowest bit of the HKID in a physical address.
    pub hkid_start_bit: u32,
    /// Bits of the HKID in a physical address.
    pub hkid_bits: u32,
    /// First HKID that TDX may use.
    pub private_hkid_first: u16,
    /// Number of HKIDs that TDX may use, the module's own among them.
    pub private_hkid_count: u16,
    /// Convertible memory ranges, ascending: what TDMRs and PAMTs may use.
    pub cmrs: Vec<Range>,
    /// The range that the module itself occupies.
    pub seamrr: Range,
    /// Frequency of the time-stamp counter.
    pub native_tsc_hz: u64,
    /// Bits of XCR0 that the processor supports.
    pub xcr0_supported: u64,
    /// Bits of IA32_XSS that the processor supports.
    pub xss_supported: u64,
    /// ATTRIBUTES bits that may be 1.
    pub attributes_fixed0: u64,
    /// ATTRIBUTES bits that must be 1.
    pub attributes_fixed1: u64,
    /// CONFIG_FLAGS bits that may be 1.
    pub config_flags_fixed0: u64,
    /// Whether the processor walks 5-level EPTs.
    pub ept_5_level: bool,
    /// Steps that PHYMEM.CACHE.WB takes per package; it may be interrupted between them.
    pub cache_sub_blocks: u32,
    /// IA32_ARCH_CAPABILITIES.
    pub ia32_arch_capabilities: u64,
    /// The processor's CPUID; what is not listed reads as zero.
    pub cpuid: Vec<CpuidEntry>,
    /// What may happen while the module runs.
    pub events: Arc<dyn Events>,
}

impl Platform {
    /// Mask of the HKID bits in a physical address.
    pub fn hkid_mask(&self) -> u64 {
        ((1 << self.hkid_bits) - 1) << self.hkid_start_bit
    }

    /// The HKID that a physical address carries.
    pub fn hkid_of(&self, pa: u64) -> Hkid {
        Hkid(((pa & self.hkid_mask()) >> self.hkid_start_bit) as u16)
    }

    /// The address without its HKID.
    pub fn without_hkid(&self, pa: u64) -> Hpa {
        Hpa(pa & !self.hkid_mask())
    }

    /// The address with an HKID.
    pub fn with_hkid(&self, pa: Hpa, hkid: Hkid) -> u64 {
        pa.0 & !self.hkid_mask() | u64::from(hkid.0) << self.hkid_start_bit & self.hkid_mask()
    }

    /// Whether a physical address is below [`MAX_PA_BITS`] and carries no HKID.
    pub fn is_plain_address(&self, pa: u64) -> bool {
        pa >> MAX_PA_BITS == 0 && pa & self.hkid_mask() == 0
    }

    /// Whether TDX may use this HKID.
    pub fn is_private(&self, hkid: Hkid) -> bool {
        let first = self.private_hkid_first;
        hkid.0 >= first && hkid.0 - first < self.private_hkid_count
    }

    /// The package that a logical processor belongs to.
    pub fn package_of(&self, lp: u32) -> u32 {
        lp / (self.lps / self.packages).max(1)
    }

    /// The processor's CPUID answer; zeros for a leaf that is not listed.
    pub fn cpuid(&self, leaf: u32, subleaf: u32) -> [u32; 4] {
        let matches = |e: &&CpuidEntry| e.leaf == leaf && e.subleaf.is_none_or(|s| s == subleaf);
        self.cpuid.iter().find(matches).map_or([0; 4], |e| e.regs)
    }
}

/// How the programming of a key ended (PCONFIG).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyProgramming {
    /// The key is programmed.
    Done,
    /// Another processor is programming a key.
    Busy,
    /// There was not enough entropy for a key.
    NoEntropy,
}

/// What hardware may do to the module. Every answer has to be a function of what was asked before,
/// so that a run can be repeated.
pub trait Events: Send + Sync + fmt::Debug {
    /// Random bytes (RDSEED), or None when there is no entropy now.
    fn random(&self, lp: u32) -> Option<[u64; 4]>;
    /// Programs a key for `hkid` in the package of `lp`.
    fn program_key(&self, lp: u32, hkid: Hkid) -> KeyProgramming;
    /// Whether an interrupt waits for `lp`, asked between the steps of an interruptible leaf.
    fn interrupt_pending(&self, lp: u32) -> bool;
    /// The time-stamp counter of `lp`.
    fn tsc(&self, lp: u32) -> u64;
    /// Whether IA32_TSC_ADJUST of `lp` is still what it was at SYS.LP.INIT.
    fn tsc_adjust_unchanged(&self, lp: u32) -> bool;
    /// Whether IA32_MISC_ENABLE of `lp` limits CPUID to the leaves of an old processor.
    fn limits_cpuid(&self, lp: u32) -> bool {
        let _ = lp;
        false
    }
    /// Whether the CPUID and MSR checks of SYS.INIT and SYS.LP.INIT find `lp` as they should.
    fn platform_check(&self, lp: u32) -> Result<(), PlatformFault>;
}

/// What SYS.INIT or SYS.LP.INIT may find wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PlatformFault {
    /// A CPUID leaf has a value that the module does not support.
    Cpuid {
        /// The leaf.
        leaf: u32,
        /// The subleaf.
        subleaf: u32,
    },
    /// An MSR differs between logical processors.
    Msr {
        /// The MSR.
        index: u32,
    },
}

/// A machine on which nothing goes wrong.
#[derive(Debug, Default)]
pub struct Quiet {
    draws: std::sync::atomic::AtomicU64,
}

impl Events for Quiet {
    fn random(&self, _lp: u32) -> Option<[u64; 4]> {
        let draw = self
            .draws
            .fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        Some([1, 2, 3, 4].map(|i| (draw * 4 + i).wrapping_mul(0x9e37_79b9_7f4a_7c15)))
    }

    fn program_key(&self, _lp: u32, _hkid: Hkid) -> KeyProgramming {
        KeyProgramming::Done
    }

    fn interrupt_pending(&self, _lp: u32) -> bool {
        false
    }

    fn tsc(&self, _lp: u32) -> u64 {
        0
    }

    fn tsc_adjust_unchanged(&self, _lp: u32) -> bool {
        true
    }

    fn platform_check(&self, _lp: u32) -> Result<(), PlatformFault> {
        Ok(())
    }
}
