//! A server of the first generation with TDX that Linux supports: 4th generation Xeon.
//!
//! The values are those of public CPUID dumps of such processors, in the default setting of the
//! firmware for TDX. What differs from one product to the next (caches, counts) is one choice.

use std::sync::Arc;

use seamlock_tdx_abi::td_params::{ATTRIBUTES_FIXED0, ATTRIBUTES_FIXED1};

use super::{CpuidEntry, Platform, Quiet, Range};

/// Family 6, model 0x8f, stepping 8.
const FAMILY: u32 = 0x0008_06f8;
const BRAND: &[u8; 48] = b"Intel(R) Xeon(R) Processor (SapphireRapids)\0\0\0\0\0";
/// 2 GHz, from a crystal of 25 MHz.
const TSC_HZ: u64 = 2_000_000_000;
const CRYSTAL_HZ: u32 = 25_000_000;
/// x87, SSE, AVX, AVX-512, PKRU, AMX.
const XCR0: u64 = 0x6_02e7;
/// PT, PASID, CET, UINTR, LBR, HWP.
const XSS: u64 = 0x1_dd00;
/// RDCL_NO, IBRS_ALL, SKIP_L1DFL_VMENTRY, SSB_NO off, MDS_NO, IF_PSCHANGE_MC_NO, TSX_CTRL, TAA_NO,
/// MISC_PACKAGE_CTLS, DOITM, SBDR_SSDP_NO, FBSDP_NO, PSDP_NO, XAPIC_DISABLE_STATUS.
const ARCH_CAPABILITIES: u64 = 0x20_f5eb;

const MIB: u64 = 1 << 20;

impl Platform {
    /// A machine with one 4th generation Xeon, `ram_bytes` of memory and `lps` logical processors
    /// (two to a core when the number is even).
    ///
    /// All memory from 16 MiB on is convertible, but for the last 32 MiB, which the module
    /// occupies: `ram_bytes` should be at least a few GiB. It has 32 private HKIDs, one of them the
    /// module's. Memory costs nothing until it is used.
    pub fn sapphire_rapids(ram_bytes: u64, lps: u32) -> Platform {
        let seamrr = Range {
            base: ram_bytes.saturating_sub(32 * MIB) & !(32 * MIB - 1),
            size: 32 * MIB,
        };
        Platform {
            ram_bytes,
            packages: 1,
            lps,
            maxpa: 52,
            hkid_start_bit: 46,
            hkid_bits: 6,
            private_hkid_first: 32,
            private_hkid_count: 32,
            cmrs: vec![Range {
                base: 16 * MIB,
                size: seamrr.base.saturating_sub(16 * MIB),
            }],
            seamrr,
            native_tsc_hz: TSC_HZ,
            xcr0_supported: XCR0,
            xss_supported: XSS,
            attributes_fixed0: ATTRIBUTES_FIXED0,
            attributes_fixed1: ATTRIBUTES_FIXED1,
            config_flags_fixed0: 0xf,
            ept_5_level: true,
            cache_sub_blocks: 4,
            ia32_arch_capabilities: ARCH_CAPABILITIES,
            cpuid: cpuid(lps),
            events: Arc::new(Quiet::default()),
        }
    }
}

/// Leaves without subleaves.
const WHOLE: &[(u32, [u32; 4])] = &[
    (0x0, [0x20, 0x756e_6547, 0x6c65_746e, 0x4965_6e69]),
    (0x2, [0x00fe_ff01, 0xf0, 0, 0]),
    (0x5, [0x40, 0x40, 0x3, 0x2020]),
    (0x6, [0x0057_cff7, 0x2, 0x1, 0]),
    (0xa, [0x0730_0805, 0, 0xf, 0x8604]),
    (
        0x15,
        [2, (TSC_HZ / CRYSTAL_HZ as u64) as u32 * 2, CRYSTAL_HZ, 0],
    ),
    (0x16, [2000, 3800, 100, 0]),
    (0x1c, [0x4000_000b, 0x7, 0x7, 0]),
    (0x1e, [0, 0x4010, 0, 0]),
    (0x8000_0000, [0x8000_0008, 0, 0, 0]),
    (0x8000_0001, [0, 0, 0x121, 0x2c10_0800]),
    (0x8000_0006, [0, 0, 0x0800_7040, 0]),
    (0x8000_0007, [0, 0, 0, 0x100]),
    (0x8000_0008, [0x3934, 0x200, 0, 0]),
];

/// Leaves with subleaves.
const SUB: &[(u32, u32, [u32; 4])] = &[
    (0x7, 0, [0x2, 0xf3bf_bffb, 0xfb41_7ffe, 0xffdd_4432]),
    (0x7, 1, [0x1c30, 0, 0, 0]),
    (0x7, 2, [0, 0, 0, 0x17]),
    (0xd, 0, [XCR0 as u32, 0x2b00, 0x2b00, 0]),
    (0xd, 1, [0x1f, 0x2dc0, XSS as u32, 0]),
    (0xd, 2, [0x100, 0x240, 0, 0]),
    (0xd, 5, [0x40, 0x440, 0, 0]),
    (0xd, 6, [0x200, 0x480, 0, 0]),
    (0xd, 7, [0x400, 0x680, 0, 0]),
    (0xd, 8, [0x80, 0, 1, 0]),
    (0xd, 9, [0x8, 0xa80, 0, 0]),
    (0xd, 10, [0x8, 0, 1, 0]),
    (0xd, 11, [0x10, 0, 1, 0]),
    (0xd, 12, [0x18, 0, 1, 0]),
    (0xd, 14, [0x30, 0, 1, 0]),
    (0xd, 15, [0x328, 0, 1, 0]),
    (0xd, 16, [0x8, 0, 1, 0]),
    (0xd, 17, [0x40, 0xac0, 2, 0]),
    (0xd, 18, [0x2000, 0xb00, 6, 0]),
    (0x14, 0, [1, 0x5f, 0x8000_0007, 0]),
    (0x14, 1, [0x0249_0002, 0x003f_003f, 0, 0]),
    (0x1d, 0, [1, 0, 0, 0]),
    (0x1d, 1, [0x0400_2000, 0x0008_0040, 0x10, 0]),
    (0x20, 0, [0, 1, 0, 0]),
];

fn cpuid(lps: u32) -> Vec<CpuidEntry> {
    let whole = |leaf, regs| CpuidEntry {
        leaf,
        subleaf: None,
        regs,
    };
    let sub = |leaf, subleaf, regs| CpuidEntry {
        leaf,
        subleaf: Some(subleaf),
        regs,
    };
    let topology = Topology::new(lps);
    let apic_ids = (1u32 << topology.package_shift).min(0xff);
    let mut entries: Vec<_> = WHOLE
        .iter()
        .map(|(leaf, regs)| whole(*leaf, *regs))
        .collect();
    let family = [FAMILY, 0x800 | apic_ids << 16, 0x7ffe_fbff, 0xbfeb_fbff];
    entries.push(whole(1, family));
    entries.extend(SUB.iter().map(|(leaf, n, regs)| sub(*leaf, *n, *regs)));
    entries.extend(topology.caches().map(|(n, regs)| sub(4, n, regs)));
    for leaf in [0xb, 0x1f] {
        entries.extend((0..6).map(|n| sub(leaf, n, topology.level(n))));
    }
    for (i, text) in BRAND.as_chunks::<16>().0.iter().enumerate() {
        let word = |r: usize| {
            text[4 * r..]
                .first_chunk()
                .map_or(0, |b| u32::from_le_bytes(*b))
        };
        entries.push(whole(0x8000_0002 + i as u32, std::array::from_fn(word)));
    }
    entries.sort_by_key(|e| (e.leaf, e.subleaf));
    entries
}

/// How logical processors are numbered.
struct Topology {
    lps: u32,
    threads: u32,
    thread_shift: u32,
    package_shift: u32,
}

impl Topology {
    fn new(lps: u32) -> Topology {
        let lps = lps.clamp(1, 1 << 16);
        let threads = if lps.is_multiple_of(2) { 2 } else { 1 };
        Topology {
            lps,
            threads,
            thread_shift: threads.ilog2(),
            package_shift: lps.next_power_of_two().ilog2(),
        }
    }

    /// Leaves 0xB and 0x1F: threads, cores, and an empty level after them.
    fn level(&self, n: u32) -> [u32; 4] {
        match n {
            0 => [self.thread_shift, self.threads, 0x100, 0],
            1 => [self.package_shift, self.lps, 0x201, 0],
            _ => [0, 0, n, 0],
        }
    }

    /// Leaf 4: 48 KiB and 32 KiB of L1, 2 MiB of L2 for a core, 105 MiB of L3 for all.
    fn caches(&self) -> impl Iterator<Item = (u32, [u32; 4])> {
        let cores = (1 << (self.package_shift - self.thread_shift)) - 1;
        let core = cores.min(0x3f) << 26 | (self.threads - 1) << 14;
        let all = cores.min(0x3f) << 26 | ((1 << self.package_shift) - 1).min(0xfff) << 14;
        let caches = [
            [core | 0x121, 0x02c0_003f, 0x3f, 0],
            [core | 0x122, 0x01c0_003f, 0x3f, 0],
            [core | 0x143, 0x03c0_003f, 0x7ff, 0],
            [all | 0x163, 0x0380_003f, 0x1_bfff, 0x4],
        ];
        (0..).zip(caches)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What Intel's module insists on at SYS.INIT: leaf, subleaf, bits that matter, their values.
    #[rustfmt::skip]
    const REQUIRED: &[(u32, u32, [u32; 4], [u32; 4])] = &[
        (0x0, 0, [0, !0, !0, !0], [0, 0x756e_6547, 0x6c65_746e, 0x4965_6e69]),
        (0x1, 0, [0, 0xff00, 0x47fa_a217, 0x1fa9_fbff], [0, 0x800, 0x47fa_a217, 0x1fa9_fbff]),
        (0x4, 0, [0, 0xfff, 0, 0], [0, 0x3f, 0, 0]),
        (0x4, 1, [0, 0xfff, 0, 0], [0, 0x3f, 0, 0]),
        (0x4, 2, [0, 0xfff, 0, 0], [0, 0x3f, 0, 0]),
        (0x4, 3, [0xe0, 0xfff, 0, 1], [0x60, 0x3f, 0, 0]),
        (0x4, 4, [0x1f, 0, 0, 0], [0; 4]),
        (0x6, 0, [0x0080_0000, 0, 0, 0], [0; 4]),
        (0x7, 0, [!0, 0x2194_24c3, 0x9900_0000, 0xfc08_2600],
            [2, 0x2194_24c3, 0x9900_0000, 0xfc08_0400]),
        (0x7, 2, [0, 0, 0, 0x17], [0, 0, 0, 0x17]),
        (0xa, 0, [0xff00, 0, 0xffff_fff0, 0x8000], [0x800, 0, 0, 0x8000]),
        (0xd, 0, [3, 0, 0, 0], [3, 0, 0, 0]),
        (0xd, 1, [0xf, 0, 0x1800, 0], [0xf, 0, 0x1800, 0]),
        (0x14, 0, [!0, 0, 0, 0], [1, 0, 0, 0]),
        (0x1f, 5, [0, 0, 0xff00, 0], [0; 4]),
        (0x8000_0001, 0, [0, 0, 0x121, 0x2c10_0800], [0, 0, 0x121, 0x2c10_0800]),
        (0x8000_0006, 0, [0, 0, 0xff, 0], [0, 0, 0x40, 0]),
        (0x8000_0007, 0, [0, 0, 0, 0x100], [0, 0, 0, 0x100]),
        (0x8000_0008, 0, [0, 0x200, 0, 0], [0, 0x200, 0, 0]),
    ];

    #[test]
    fn the_machine_has_what_the_module_requires() {
        for lps in [1, 2, 3, 8, 224] {
            let platform = Platform::sapphire_rapids(64 << 30, lps);
            for (leaf, subleaf, mask, value) in REQUIRED {
                let found = platform.cpuid(*leaf, *subleaf);
                let found: [u32; 4] = std::array::from_fn(|r| found[r] & mask[r]);
                assert_eq!(found, *value, "{leaf:#x}.{subleaf}");
            }
        }
    }

    #[test]
    fn the_brand_string_reads_as_text() {
        let platform = Platform::sapphire_rapids(4 << 30, 4);
        let leaves = 0x8000_0002..=0x8000_0004;
        let bytes: Vec<u8> = leaves
            .flat_map(|leaf| platform.cpuid(leaf, 0))
            .flat_map(u32::to_le_bytes)
            .collect();
        assert_eq!(bytes, BRAND);
    }

    #[test]
    fn every_thread_and_core_has_a_number_of_its_own() {
        let level = |lps, n| Platform::sapphire_rapids(4 << 30, lps).cpuid(0x1f, n);
        assert_eq!(level(8, 0), [1, 2, 0x100, 0]);
        assert_eq!(level(8, 1), [3, 8, 0x201, 0]);
        assert_eq!(level(3, 0), [0, 1, 0x100, 0]);
        assert_eq!(level(3, 1), [2, 3, 0x201, 0]);
        assert_eq!(level(8, 4), [0, 0, 4, 0]);
    }
}
