//! Binary statistics of a VM and of a vCPU, as KVM_GET_STATS_FD's files show them.
//!
//! Values are words that nothing decides by; what is not counted here stays zero, and so does all time:
//! no clock is read.
//!
//! # Locking
//! None, as in the kernel: each word is an atomic.
//!
//! Source: Linux v7.3.4 `virt/kvm/binary_stats.c`, `kvm_vm_stats_desc` and `kvm_vcpu_stats_desc` in
//! `arch/x86/kvm/x86.c`, `struct kvm_vm_stat` and `struct kvm_vcpu_stat`.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use seamlock_tdx_abi::kvm::{
    KVM_STATS_BASE_POW10, KVM_STATS_NAME_SIZE, KVM_STATS_TYPE_CUMULATIVE, KVM_STATS_TYPE_INSTANT,
    KVM_STATS_TYPE_LOG_HIST, KVM_STATS_TYPE_PEAK, KVM_STATS_UNIT_BOOLEAN, KVM_STATS_UNIT_NONE,
    KVM_STATS_UNIT_SECONDS, KvmStatsDesc, KvmStatsHeader,
};
use zerocopy::IntoBytes;

/// `HALT_POLL_HIST_COUNT`.
const HALT_POLL_HIST_COUNT: u16 = 32;
const HEADER_BYTES: u32 = size_of::<KvmStatsHeader>() as u32;

/// One statistic: its name, what it is, and where its first word is.
#[derive(Clone, Copy, Debug)]
struct Stat {
    name: &'static str,
    flags: u32,
    exponent: i16,
    words: u16,
    at: u32,
}

const fn stat(name: &'static str, flags: u32, exponent: i16, words: u16) -> Stat {
    Stat {
        name,
        flags: flags | KVM_STATS_BASE_POW10,
        exponent,
        words,
        at: 0,
    }
}

/// `STATS_DESC_COUNTER`.
const fn counter(name: &'static str) -> Stat {
    stat(name, KVM_STATS_TYPE_CUMULATIVE | KVM_STATS_UNIT_NONE, 0, 1)
}

/// `STATS_DESC_ICOUNTER`.
const fn instant(name: &'static str) -> Stat {
    stat(name, KVM_STATS_TYPE_INSTANT | KVM_STATS_UNIT_NONE, 0, 1)
}

/// `STATS_DESC_PCOUNTER`.
const fn peak(name: &'static str) -> Stat {
    stat(name, KVM_STATS_TYPE_PEAK | KVM_STATS_UNIT_NONE, 0, 1)
}

/// `STATS_DESC_IBOOLEAN`.
const fn boolean(name: &'static str) -> Stat {
    stat(name, KVM_STATS_TYPE_INSTANT | KVM_STATS_UNIT_BOOLEAN, 0, 1)
}

/// `STATS_DESC_TIME_NSEC`.
const fn nanoseconds(name: &'static str) -> Stat {
    stat(
        name,
        KVM_STATS_TYPE_CUMULATIVE | KVM_STATS_UNIT_SECONDS,
        -9,
        1,
    )
}

/// `STATS_DESC_LOGHIST_TIME_NSEC`.
const fn histogram(name: &'static str) -> Stat {
    stat(
        name,
        KVM_STATS_TYPE_LOG_HIST | KVM_STATS_UNIT_SECONDS,
        -9,
        HALT_POLL_HIST_COUNT,
    )
}

/// Gives each statistic its place, one after the other.
const fn place<const N: usize>(mut stats: [Stat; N]) -> [Stat; N] {
    let (mut i, mut at) = (0, 0);
    while i < N {
        stats[i].at = at;
        at += stats[i].words as u32;
        i += 1;
    }
    stats
}

/// The descriptors' order; in the structure the last two are the other way round.
const VM: &[Stat] = &{
    let mut stats = place([
        counter("remote_tlb_flush"),
        counter("remote_tlb_flush_requests"),
        counter("mmu_shadow_zapped"),
        counter("mmu_pte_write"),
        counter("mmu_pde_zapped"),
        counter("mmu_flooded"),
        counter("mmu_recycled"),
        counter("mmu_cache_miss"),
        instant("mmu_unsync"),
        instant("mmu_shadow_pages"),
        instant("pages_4k"),
        instant("pages_2m"),
        instant("pages_1g"),
        instant("nx_lpage_splits"),
        peak("max_mmu_rmap_size"),
        peak("max_mmu_page_hash_collisions"),
    ]);
    (stats[14].at, stats[15].at) = (stats[15].at, stats[14].at);
    stats
};

const VCPU: &[Stat] = &place([
    counter("halt_successful_poll"),
    counter("halt_attempted_poll"),
    counter("halt_poll_invalid"),
    counter("halt_wakeup"),
    nanoseconds("halt_poll_success_ns"),
    nanoseconds("halt_poll_fail_ns"),
    nanoseconds("halt_wait_ns"),
    histogram("halt_poll_success_hist"),
    histogram("halt_poll_fail_hist"),
    histogram("halt_wait_hist"),
    boolean("blocking"),
    counter("pf_taken"),
    counter("pf_fixed"),
    counter("pf_emulate"),
    counter("pf_spurious"),
    counter("pf_fast"),
    counter("pf_mmio_spte_created"),
    counter("pf_guest"),
    counter("tlb_flush"),
    counter("invlpg"),
    counter("exits"),
    counter("io_exits"),
    counter("mmio_exits"),
    counter("signal_exits"),
    counter("irq_window_exits"),
    counter("nmi_window_exits"),
    counter("l1d_flush"),
    counter("halt_exits"),
    counter("request_irq_exits"),
    counter("irq_exits"),
    counter("host_state_reload"),
    counter("fpu_reload"),
    counter("insn_emulation"),
    counter("insn_emulation_fail"),
    counter("hypercalls"),
    counter("irq_injections"),
    counter("nmi_injections"),
    counter("req_event"),
    counter("nested_run"),
    counter("directed_yield_attempted"),
    counter("directed_yield_successful"),
    counter("preemption_reported"),
    counter("preemption_other"),
    boolean("guest_mode"),
    counter("notify_window_exits"),
]);

/// The word of a statistic, found when the program is built: a name that is not there does not compile.
const fn word(stats: &[Stat], name: &str) -> usize {
    let mut i = 0;
    while i < stats.len() {
        let (a, b) = (stats[i].name.as_bytes(), name.as_bytes());
        let mut same = a.len() == b.len();
        let mut at = 0;
        while same && at < a.len() {
            same = a[at] == b[at];
            at += 1;
        }
        if same {
            return stats[i].at as usize;
        }
        i += 1;
    }
    panic!("no statistic has this name")
}

const fn words(stats: &[Stat]) -> usize {
    let (mut i, mut words) = (0, 0);
    while i < stats.len() {
        words += stats[i].words as usize;
        i += 1;
    }
    words
}

pub(crate) const PAGES_4K: usize = word(VM, "pages_4k");
pub(crate) const BLOCKING: usize = word(VCPU, "blocking");
pub(crate) const PF_TAKEN: usize = word(VCPU, "pf_taken");
pub(crate) const PF_FIXED: usize = word(VCPU, "pf_fixed");
pub(crate) const PF_EMULATE: usize = word(VCPU, "pf_emulate");
pub(crate) const PF_SPURIOUS: usize = word(VCPU, "pf_spurious");
pub(crate) const EXITS: usize = word(VCPU, "exits");
pub(crate) const IO_EXITS: usize = word(VCPU, "io_exits");
pub(crate) const SIGNAL_EXITS: usize = word(VCPU, "signal_exits");
pub(crate) const HALT_EXITS: usize = word(VCPU, "halt_exits");
pub(crate) const HYPERCALLS: usize = word(VCPU, "hypercalls");
pub(crate) const IRQ_EXITS: usize = word(VCPU, "irq_exits");
pub(crate) const REQUEST_IRQ_EXITS: usize = word(VCPU, "request_irq_exits");
pub(crate) const DIRECTED_YIELDS: usize = word(VCPU, "directed_yield_attempted");
pub(crate) const NMI_INJECTIONS: usize = word(VCPU, "nmi_injections");
pub(crate) const NOTIFY_EXITS: usize = word(VCPU, "notify_window_exits");

/// The statistics of one VM or vCPU.
#[derive(Debug)]
pub struct Stats {
    table: &'static [Stat],
    id: String,
    values: Box<[AtomicU64]>,
}

impl Stats {
    fn new(table: &'static [Stat], id: String) -> Stats {
        let values = (0..words(table)).map(|_| AtomicU64::new(0)).collect();
        Stats { table, id, values }
    }

    /// Of a VM. The id names the creator's process.
    pub(crate) fn vm(process: u64) -> Stats {
        Stats::new(VM, format!("kvm-{process}"))
    }

    /// Of a vCPU.
    pub(crate) fn vcpu(process: u64, id: u32) -> Stats {
        Stats::new(VCPU, format!("kvm-{process}/vcpu-{id}"))
    }

    /// Counts one more, or what `by` says.
    pub(crate) fn add(&self, word: usize, by: i64) {
        self.values[word].fetch_add(by as u64, Relaxed);
    }

    pub(crate) fn set(&self, word: usize, value: bool) {
        self.values[word].store(value.into(), Relaxed);
    }

    /// What the file holds from `offset` on, `len` bytes at most (`kvm_stats_read`): header, id,
    /// descriptors, values.
    pub fn read(&self, offset: u64, len: usize) -> Vec<u8> {
        let image = self.image();
        let from = usize::try_from(offset).map_or(image.len(), |from| from.min(image.len()));
        image[from..from.saturating_add(len).min(image.len())].to_vec()
    }

    fn image(&self) -> Vec<u8> {
        let desc_offset = HEADER_BYTES + KVM_STATS_NAME_SIZE as u32;
        let desc_bytes = size_of::<KvmStatsDesc>() as u32 * self.table.len() as u32;
        let header = KvmStatsHeader {
            flags: 0,
            name_size: KVM_STATS_NAME_SIZE as u32,
            num_desc: self.table.len() as u32,
            id_offset: HEADER_BYTES,
            desc_offset,
            data_offset: desc_offset + desc_bytes,
        };
        let mut image = header.as_bytes().to_vec();
        image.extend_from_slice(&name(&self.id));
        for stat in self.table {
            image.extend_from_slice(stat.descriptor().as_bytes());
        }
        for value in &self.values {
            image.extend_from_slice(&value.load(Relaxed).to_le_bytes());
        }
        image
    }
}

impl Stat {
    fn descriptor(&self) -> KvmStatsDesc {
        KvmStatsDesc {
            flags: self.flags,
            exponent: self.exponent,
            size: self.words,
            offset: self.at * 8,
            bucket_size: 0,
            name: name(self.name),
        }
    }
}

/// A name in its place, cut off as `snprintf` does.
fn name(text: &str) -> [u8; KVM_STATS_NAME_SIZE] {
    let mut name = [0; KVM_STATS_NAME_SIZE];
    let len = text.len().min(KVM_STATS_NAME_SIZE - 1);
    name[..len].copy_from_slice(&text.as_bytes()[..len]);
    name
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn descriptors_cover_the_values_once_and_are_as_many_as_v7_3_has() {
        for (table, descriptors, bytes) in [(VM, 16, 16 * 8), (VCPU, 45, (42 + 3 * 32) * 8)] {
            assert_eq!(table.len(), descriptors);
            assert_eq!(words(table) * 8, bytes);
            let mut covered = BTreeSet::new();
            for stat in table {
                for word in stat.at..stat.at + u32::from(stat.words) {
                    assert!(covered.insert(word), "{} overlaps", stat.name);
                }
            }
            assert_eq!(covered.len() * 8, bytes);
        }
    }

    #[test]
    fn a_file_is_read_in_any_pieces_and_ends_where_the_values_end() {
        let stats = Stats::vcpu(7, 3);
        stats.add(EXITS, 5);
        let whole = stats.read(0, usize::MAX);
        assert_eq!(whole.len(), 24 + 48 + 45 * 64 + (42 + 3 * 32) * 8);
        assert_eq!(&whole[24..37], b"kvm-7/vcpu-3\0");
        let pieces: Vec<u8> = (0..whole.len() as u64)
            .flat_map(|at| stats.read(at, 1))
            .collect();
        assert_eq!(pieces, whole);
        assert!(stats.read(whole.len() as u64, 8).is_empty());
        assert!(stats.read(u64::MAX, 8).is_empty());
        let exits = 24 + 48 + 45 * 64 + EXITS * 8;
        assert_eq!(&whole[exits..exits + 8], &5u64.to_le_bytes());
    }
}
