//! The order of the locks, as a graph: what is taken outside of what.

use std::collections::VecDeque;

use seamlock_sync::Class;

use super::*;

/// `outer` is taken outside of `inner`.
#[derive(Clone, Copy, Debug)]
pub struct Edge {
    /// Taken first.
    pub outer: &'static Class,
    /// Taken while `outer` is held.
    pub inner: &'static Class,
    /// Where that is documented or seen.
    pub source: &'static str,
}

const fn edge(outer: &'static Class, inner: &'static Class, source: &'static str) -> Edge {
    Edge {
        outer,
        inner,
        source,
    }
}

/// The order of Linux v7.3.4, as documented and, beyond the document, as observed in the code. It
/// is transitive; what follows from other edges is listed only where the code shows it too.
///
/// Two edges are no kernel's but those of the discipline `sealed`. No code of v7.3.4 that was found holds
/// `cpu_hotplug_lock` and takes a guest_memfd's `filemap_invalidate_lock`, directly or over other locks;
/// docs/findings.md says what was searched, and what comes close: cpusets take `mmap_lock` under
/// `cpu_hotplug_lock`. That edge is not declared, for `mmap_lock` > `filemap_invalidate_lock` is that of
/// other file systems, whose locks are of other classes, and here both are one.
///
/// `locking.rst` is Documentation/virt/kvm/locking.rst.
pub static ORDER: &[Edge] = &[
    edge(&KVM_USAGE_LOCK, &CPUS_LOCK, "locking.rst"),
    edge(&CPUS_LOCK, &KVM_LOCK, "locking.rst"),
    edge(
        &CPUS_LOCK,
        &TDX_LOCK,
        "tdx.c __tdx_td_init, tdx_mmu_release_hkid",
    ),
    edge(&TDX_LOCK, &HKID_POOL, "tdx.c tdx_mmu_release_hkid"),
    edge(
        &CPUS_LOCK,
        &IRQS_OFF,
        "tdx.c tdx_mmu_release_hkid: tdx_flush_vp_on_cpu",
    ),
    edge(&VM_LOCK, &VCPU_MUTEX, "locking.rst"),
    edge(&VCPU_MUTEX, &SLOTS_LOCK, "locking.rst"),
    edge(
        &SLOTS_LOCK,
        &CPUS_LOCK,
        "tdx.c __tdx_td_init under the guard",
    ),
    edge(
        &FILEMAP_LOCK,
        &CPUS_LOCK,
        "seamlock: discipline sealed, a page is added and measured",
    ),
    edge(
        &CPUS_LOCK,
        &MMU_LOCK,
        "seamlock: discipline sealed, VP.INIT, PAGE.ADD, MR.EXTEND, MR.FINALIZE",
    ),
    edge(
        &SLOTS_LOCK,
        &MMU_NOTIFIER,
        "locking.rst: a change of memslots waits for notifiers",
    ),
    edge(&SLOTS_ARCH_LOCK, &MMU_NOTIFIER, "locking.rst"),
    edge(
        &SLOTS_LOCK,
        &SRCU,
        "locking.rst: synchronize_srcu is called under it",
    ),
    edge(&SRCU, &SLOTS_ARCH_LOCK, "locking.rst"),
    edge(
        &SLOTS_LOCK,
        &MMAP_LOCK,
        "guest_memfd.c kvm_gmem_populate: GUP",
    ),
    edge(&SRCU, &MMAP_LOCK, "kvm_main.c hva_to_pfn: GUP in a fault"),
    edge(&MMAP_LOCK, &FILEMAP_LOCK, "mm/filemap.c: filemap_fault"),
    edge(
        &SLOTS_ARCH_LOCK,
        &FILEMAP_LOCK,
        "guest_memfd.c kvm_gmem_commit_memory_region",
    ),
    edge(
        &SLOTS_LOCK,
        &APIC_MAP_LOCK,
        "lapic.c kvm_apic_set_base under the guard",
    ),
    edge(
        &SLOTS_LOCK,
        &CONFIG_LOCK,
        "arm64 vgic-init.c kvm_vgic_map_resources",
    ),
    edge(
        &VCPU_MUTEX,
        &LOCAL_INT,
        "s390 interrupt.c kvm_s390_deliver_pending_interrupts",
    ),
    edge(
        &SRCU,
        &LOCAL_INT,
        "s390.c kvm_arch_vcpu_unlocked_ioctl: kvm_s390_inject_vcpu",
    ),
    edge(
        &FILEMAP_LOCK,
        &MMU_LOCK,
        "guest_memfd.c kvm_gmem_punch_hole",
    ),
    edge(
        &MMU_NOTIFIER,
        &MMU_LOCK,
        "kvm_main.c kvm_mmu_notifier_invalidate_range_start",
    ),
    edge(
        &MMAP_LOCK,
        &MMU_NOTIFIER,
        "mm/rmap.c: notifiers run with the mappings locked",
    ),
    edge(
        &SLOTS_LOCK,
        &MMU_LOCK,
        "kvm_main.c kvm_vm_set_mem_attributes",
    ),
    edge(
        &MMU_LOCK,
        &IRQS_OFF,
        "tdp_mmu.c: kvm_make_all_cpus_request under mmu_lock",
    ),
];

fn inner_of(class: &Class) -> impl Iterator<Item = &'static Edge> {
    ORDER.iter().filter(move |edge| edge.outer == class)
}

/// The declared edges that lead from `outer` to `inner`, the fewest there are; None when `outer` is
/// not declared outside of `inner`.
pub fn path(outer: &Class, inner: &Class) -> Option<Vec<&'static Edge>> {
    let mut queue: VecDeque<Vec<&'static Edge>> = inner_of(outer).map(|edge| vec![edge]).collect();
    let mut seen: Vec<&'static Class> = Vec::new();
    while let Some(way) = queue.pop_front() {
        let last = way[way.len() - 1].inner;
        if last == inner {
            return Some(way);
        }
        if seen.contains(&last) {
            continue;
        }
        seen.push(last);
        queue.extend(inner_of(last).map(|edge| [&way[..], &[edge]].concat()));
    }
    None
}

/// Whether `outer` is declared to be taken outside of `inner`, directly or by what lies between.
pub fn is_outside(outer: &Class, inner: &Class) -> bool {
    path(outer, inner).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn the_declared_order_has_no_cycle() {
        // Repeatedly take away a class that nothing is left to be taken outside of.
        let mut edges: Vec<&Edge> = ORDER.iter().collect();
        while !edges.is_empty() {
            let inner: BTreeSet<&str> = edges.iter().map(|e| e.inner.name()).collect();
            let before = edges.len();
            edges.retain(|e| inner.contains(e.outer.name()));
            assert!(edges.len() < before, "cycle among {edges:?}");
        }
    }

    #[test]
    fn the_order_is_transitive_and_says_why() {
        let way = path(&VM_LOCK, &FILEMAP_LOCK).unwrap();
        let names: Vec<&str> = way.iter().map(|edge| edge.inner.name()).collect();
        assert_eq!(
            names,
            [
                "vcpu->mutex",
                "kvm->slots_lock",
                "mmap_lock",
                "filemap_invalidate_lock"
            ]
        );
        assert!(!is_outside(&FILEMAP_LOCK, &VM_LOCK));
        assert!(!is_outside(&KVM_LOCK, &TDX_LOCK) && !is_outside(&TDX_LOCK, &KVM_LOCK));
    }

    #[test]
    fn no_mutex_is_declared_inside_of_what_must_not_sleep() {
        for edge in ORDER {
            let kind = |class: &Class| super::super::class_of(class).unwrap().kind;
            assert!(
                !(kind(edge.outer).is_atomic() && kind(edge.inner).may_sleep()),
                "{edge:?}"
            );
        }
    }
}
