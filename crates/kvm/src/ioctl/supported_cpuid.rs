//! KVM_GET_SUPPORTED_CPUID: the processor's CPUID, less what KVM does not virtualize, plus what it
//! emulates.
//!
//! Source: Linux v7.3.4 `arch/x86/kvm/cpuid.c` (`kvm_initialize_cpu_caps`, `__do_cpuid_func`) and
//! `arch/x86/kvm/vmx/vmx.c` (`vmx_set_cpu_caps`), on an Intel host with nested virtualization, and without
//! SGX. A process never has the permission for AMX (ARCH_REQ_XCOMP_GUEST_PERM): it would ask its own
//! kernel for it, not us.

use seamlock_tdx_abi::kvm::{KVM_CPUID_FLAG_SIGNIFCANT_INDEX, KvmCpuidEntry2};
use seamlock_tdx_module::Platform;

/// Highest leaf that KVM implements.
const MAX_LEAF: u32 = 0x24;
const EXTENDED: u32 = 0x8000_0000;
const KVM_SIGNATURE: u32 = 0x4000_0000;
const KVM_FEATURES: u32 = 0x4000_0001;
/// CLOCKSOURCE to ASYNC_PF_INT, with STEAL_TIME, and without the two that need a promise of user space.
const KVM_FEATURE_BITS: u32 = 0x0100_7efb;
/// XCR0 bits that KVM virtualizes: x87 to AVX-512, PKRU, AMX.
pub(super) const KVM_SUPPORTED_XCR0: u64 = 0x6_02ff;
/// AMX's state, which a process must be permitted to use.
const XTILE: u64 = 3 << 17;
/// XSS bits that KVM virtualizes: CET.
pub(super) const KVM_SUPPORTED_XSS: u64 = 3 << 11;
/// The legacy area and the header of XSAVE.
const XSAVE_MIN_BYTES: u32 = 512 + 64;
const XSAVES_OR_XSAVEC: u32 = 1 << 3 | 1 << 1;
const XFD: u32 = 1 << 4;

/// What KVM does with the bits of one register.
#[derive(Clone, Copy)]
struct Mask {
    /// Virtualized where the processor has them.
    virtualized: u32,
    /// There whatever the processor has.
    emulated: u32,
}

const fn mask(virtualized: u32, emulated: u32) -> Mask {
    Mask {
        virtualized,
        emulated,
    }
}

impl Mask {
    fn of(self, raw: u32) -> u32 {
        raw & self.virtualized | self.emulated
    }
}

/// Emulated: x2APIC, TSC deadline timer, hypervisor. VMX is there by nesting, DTES64 by PEBS.
const LEAF_1_ECX: Mask = mask(0x76da_b227, 0x8120_0000);
const LEAF_1_EDX: Mask = mask(0x0fab_fbff, 0);
/// Emulated: TSC_ADJUST. Not: SGX, MPX, processor trace.
const LEAF_7_EBX: Mask = mask(0xfdbf_2ff9, 2);
/// UMIP is emulated. Not: SGX launch control, OSPKE.
const LEAF_7_ECX: Mask = mask(0x1b41_5fee, 4);
/// Emulated: ARCH_CAPABILITIES.
const LEAF_7_EDX: Mask = mask(0x9fd1_451c, 0x2000_0000);
const LEAF_7_1_EAX: Mask = mask(0x84ac_1cb7, 0);
const LEAF_7_1_ECX: Mask = mask(0x20, 0);
const LEAF_7_1_EDX: Mask = mask(0x0008_4530, 0);
const LEAF_7_2_EDX: Mask = mask(0x3f, 0);
const LEAF_D_1_EAX: Mask = mask(0x1f, 0);
const LEAF_1E_1_EAX: Mask = mask(0x1df, 0);
const EXTENDED_1_ECX: Mask = mask(0x0061_0bf3, 0);
const EXTENDED_1_EDX: Mask = mask(0xefd3_fbff, 0);
const EXTENDED_7_EDX: Mask = mask(0x100, 0);
/// AMD's bits for what Intel has too: IBPB, IBRS, STIBP, SSBD, IBPB_RET.
const EXTENDED_8_EBX: Mask = mask(0x171a_d205, 0x4100_d000);

/// Leaves whose answer depends on ECX.
fn has_index(leaf: u32) -> bool {
    matches!(
        leaf,
        4 | 7 | 0xb | 0xd | 0xf | 0x10 | 0x12 | 0x14 | 0x17 | 0x18 | 0x1d | 0x1e | 0x1f | 0x24
    )
}

/// Everything that KVM_GET_SUPPORTED_CPUID answers, in its order.
pub(crate) fn supported(platform: &Platform) -> Vec<KvmCpuidEntry2> {
    let mut table = Table {
        platform,
        entries: Vec::new(),
    };
    for first in [0, EXTENDED, KVM_SIGNATURE] {
        table.leaf(first);
        let last = table.entries.last().map_or(first, |entry| entry.eax);
        (first + 1..=last).for_each(|leaf| table.leaf(leaf));
    }
    table.entries
}

struct Table<'a> {
    platform: &'a Platform,
    entries: Vec<KvmCpuidEntry2>,
}

impl Table<'_> {
    fn leaf(&mut self, leaf: u32) {
        let raw = self.platform.cpuid(leaf, 0);
        let [a, b, c, d] = raw;
        match leaf {
            0 => self.add(leaf, 0, [a.min(MAX_LEAF), b, c, d]),
            1 => self.add(leaf, 0, [a, b, LEAF_1_ECX.of(c), LEAF_1_EDX.of(d)]),
            2 | 0x15 | 0x16 => self.add(leaf, 0, if leaf == 2 { raw } else { [0; 4] }),
            4 => self.caches(),
            6 => self.add(leaf, 0, [4, 0, 0, 0]),
            7 => self.features(raw),
            0xa => self.add(leaf, 0, performance(raw)),
            0xb | 0x1f => self.add(leaf, 0, [0, 0, 0, d]),
            0xd => self.xstate(),
            0x1d => self.with_indices(leaf, raw, [!0; 4]),
            0x1e => self.with_indices(
                leaf,
                [a.min(1), b, c, d],
                [LEAF_1E_1_EAX.virtualized, 0, 0, 0],
            ),
            EXTENDED => self.add(leaf, 0, [a.min(0x8000_0022), b, c, d]),
            0x8000_0001 => {
                let (c, d) = (EXTENDED_1_ECX.of(c), EXTENDED_1_EDX.of(d));
                self.add(leaf, 0, [a, b & !0x0fff_0000, c, d]);
            }
            0x8000_0002..=0x8000_0005 => self.add(leaf, 0, raw),
            0x8000_0006 => self.add(leaf, 0, [a, b, c, d & !0x3_0000]),
            0x8000_0007 => self.add(leaf, 0, [0, 0, 0, EXTENDED_7_EDX.of(d)]),
            0x8000_0008 => {
                self.add(
                    leaf,
                    0,
                    [self.address_sizes(a), EXTENDED_8_EBX.of(b), c & 0xf0ff, 0],
                );
            }
            KVM_SIGNATURE => {
                let text = |bytes| u32::from_le_bytes(bytes);
                let name = [text(*b"KVMK"), text(*b"VMKV"), text(*b"M\0\0\0")];
                self.add(leaf, 0, [KVM_FEATURES, name[0], name[1], name[2]]);
            }
            KVM_FEATURES => self.add(leaf, 0, [KVM_FEATURE_BITS, 0, 0, 0]),
            _ => self.add(leaf, 0, [0; 4]),
        }
    }

    fn add(&mut self, function: u32, index: u32, [eax, ebx, ecx, edx]: [u32; 4]) {
        let flags = if has_index(function) {
            KVM_CPUID_FLAG_SIGNIFCANT_INDEX
        } else {
            0
        };
        let padding = [0; 3];
        self.entries.push(KvmCpuidEntry2 {
            function,
            index,
            flags,
            eax,
            ebx,
            ecx,
            edx,
            padding,
        });
    }

    /// Caches, and the entry without a type that ends them.
    fn caches(&mut self) {
        for index in 0.. {
            let raw = self.platform.cpuid(4, index);
            self.add(4, index, raw);
            if raw[0] & 0x1f == 0 {
                return;
            }
        }
    }

    fn features(&mut self, [a, b, c, d]: [u32; 4]) {
        let last = a.min(2);
        self.add(
            7,
            0,
            [last, LEAF_7_EBX.of(b), LEAF_7_ECX.of(c), LEAF_7_EDX.of(d)],
        );
        if last >= 1 {
            let [a, _, c, d] = self.platform.cpuid(7, 1);
            self.add(
                7,
                1,
                [
                    LEAF_7_1_EAX.of(a),
                    0,
                    LEAF_7_1_ECX.of(c),
                    LEAF_7_1_EDX.of(d),
                ],
            );
        }
        if last >= 2 {
            self.add(
                7,
                2,
                [0, 0, 0, LEAF_7_2_EDX.of(self.platform.cpuid(7, 2)[3])],
            );
        }
    }

    /// A leaf whose EAX is its last index.
    fn with_indices(&mut self, leaf: u32, first: [u32; 4], masks: [u32; 4]) {
        self.add(leaf, 0, first);
        for index in 1..=first[0] {
            let raw = self.platform.cpuid(leaf, index);
            self.add(leaf, index, std::array::from_fn(|r| raw[r] & masks[r]));
        }
    }

    fn xstate(&mut self) {
        let xcr0 = permitted_xcr0(self.platform);
        let xss = self.platform.xss_supported & KVM_SUPPORTED_XSS;
        let [a, _, _, d] = self.platform.cpuid(0xd, 0);
        let bytes = xstate_required_size(self.platform, xcr0, false);
        self.add(
            0xd,
            0,
            [a & xcr0 as u32, bytes, bytes, d & (xcr0 >> 32) as u32],
        );
        let [a, _, c, d] = self.platform.cpuid(0xd, 1);
        let features = LEAF_D_1_EAX.of(a);
        let compacts = features & XSAVES_OR_XSAVEC != 0;
        let bytes = if compacts {
            xstate_required_size(self.platform, xcr0 | xss, true)
        } else {
            0
        };
        self.add(
            0xd,
            1,
            [features, bytes, c & xss as u32, d & (xss >> 32) as u32],
        );
        for index in (2..64).filter(|i| (xcr0 | xss) >> i & 1 == 1) {
            let [a, b, c, _] = self.platform.cpuid(0xd, index);
            let c = if features & XFD == 0 {
                c & !(1 << 2)
            } else {
                c
            };
            self.add(0xd, index, [a, b, c, 0]);
        }
    }

    /// How wide addresses are: physical as the processor's, and in EAX 23:16 what EPT can map.
    fn address_sizes(&self, eax: u32) -> u32 {
        let (physical, linear) = (eax & 0xff, (eax >> 8 & 0xff).max(48));
        let mapped = if self.platform.ept_5_level {
            physical
        } else {
            physical.min(48)
        };
        physical | linear << 8 | mapped << 16
    }
}

/// XCR0 as a VM of this process may have it.
fn permitted_xcr0(platform: &Platform) -> u64 {
    platform.xcr0_supported & KVM_SUPPORTED_XCR0 & !XTILE
}

/// Architectural performance monitoring, as KVM's own PMU has it: version 2, eight counters.
fn performance([a, b, _, d]: [u32; 4]) -> [u32; 4] {
    let version = (a & 0xff).min(2);
    let counters = (a >> 8 & 0xff).min(8);
    let fixed = (d & 0x1f).min(3);
    [
        a & 0xffff_0000 | counters << 8 | version,
        b,
        0,
        d & 0x1fe0 | fixed | 1 << 15,
    ]
}

/// Bytes of an XSAVE area with these components.
pub(super) fn xstate_required_size(platform: &Platform, components: u64, compacted: bool) -> u32 {
    let mut bytes = XSAVE_MIN_BYTES;
    for i in (2..64).filter(|i| components >> i & 1 == 1) {
        let [size, standard, flags, _] = platform.cpuid(0xd, i);
        let offset = match (compacted, flags & 2 != 0) {
            (true, true) => bytes.next_multiple_of(64),
            (true, false) => bytes,
            (false, _) => standard,
        };
        bytes = bytes.max(offset + size);
    }
    bytes
}

/// Bytes of `struct kvm_xsave` (KVM_CAP_XSAVE2): never less than its fixed part.
pub(super) fn xsave2_bytes(platform: &Platform) -> u32 {
    xstate_required_size(platform, permitted_xcr0(platform), false).max(4096)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(leaf: u32, index: u32) -> [u32; 4] {
        let all = supported(&Platform::sapphire_rapids(64 << 30, 8));
        let found = all.iter().find(|e| e.function == leaf && e.index == index);
        found
            .map(|e| [e.eax, e.ebx, e.ecx, e.edx])
            .expect("the leaf is there")
    }

    #[test]
    fn leaves_are_in_kvms_order_and_there_once() {
        let all = supported(&Platform::sapphire_rapids(64 << 30, 8));
        let mut seen = std::collections::BTreeSet::new();
        assert!(all.iter().all(|e| seen.insert((e.function, e.index))));
        let ends = [0, EXTENDED, KVM_SIGNATURE].map(|f| all.iter().position(|e| e.function == f));
        assert!(ends.is_sorted(), "{ends:?}");
    }

    #[test]
    fn emulated_features_are_there_and_unsupported_ones_are_not() {
        assert_eq!(find(1, 0)[2] & 1 << 31, 1 << 31, "hypervisor");
        assert_eq!(find(1, 0)[2] & 1 << 3, 0, "MONITOR");
        assert_eq!(find(7, 0)[1] & 1 << 25, 0, "processor trace");
        assert_eq!(find(0x14, 0), [0; 4], "processor trace");
        assert_eq!(find(7, 0)[3] & 1 << 29, 1 << 29, "ARCH_CAPABILITIES");
    }

    #[test]
    fn the_xsave_area_holds_what_may_be_used_and_amx_needs_a_permission() {
        let [eax, ebx, ecx, _] = find(0xd, 0);
        assert_eq!((eax, ebx, ecx), (0x2e7, 0xa88, 0xa88));
        // Compacted, with both parts of CET.
        assert_eq!(
            find(0xd, 1)[1],
            0x240 + 0x100 + 0x40 + 0x200 + 0x400 + 8 + 0x10 + 0x18
        );
        assert_eq!(xsave2_bytes(&Platform::sapphire_rapids(64 << 30, 8)), 4096);
    }

    #[test]
    fn guest_addresses_end_where_ept_does() {
        assert_eq!(find(0x8000_0008, 0)[0], 0x34_3934);
        let mut platform = Platform::sapphire_rapids(64 << 30, 8);
        platform.ept_5_level = false;
        let entries = supported(&platform);
        let sizes = entries
            .iter()
            .find(|e| e.function == 0x8000_0008)
            .map(|e| e.eax);
        assert_eq!(sizes, Some(0x30_3934));
    }
}
