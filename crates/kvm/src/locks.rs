//! Every lock of the kernel that KVM's TDX control plane takes: class, what it guards, its order.
//!
//! Each lock is an object of `seamlock-sync` whose class is declared here and nowhere else. [`ORDER`]
//! is the order that the kernel documents or is observed to follow; a discipline that takes locks in
//! another order is not stopped by it, because a wrong discipline has to be runnable. Whoever watches
//! the locks compares what happens with the table and reports the difference.
//!
//! The TDX module's lock words are not in it: they are try-only and fail instead of waiting.
//!
//! # Locking
//! `kvm_usage_lock` > `cpus_read_lock` > `kvm_lock`; `kvm->lock` > `vcpu->mutex` > `slots_lock` >
//! `filemap_invalidate_lock` > `mmu_lock`; the guard > `cpus_read_lock` > `tdx_lock`.

use seamlock_sync::Class;

/// One class of locks, for people and for lockdep.
#[derive(Clone, Copy, Debug)]
pub struct LockClass {
    /// The class, as the lock objects carry it.
    pub class: &'static Class,
    /// What the lock is in the kernel's source, and where.
    pub kernel: &'static str,
    /// What holding it keeps still.
    pub guards: &'static str,
    /// The class that makes several locks of this class safe to hold, when it is held.
    pub nest: Option<&'static Class>,
}

macro_rules! classes {
    ($($(#[$doc:meta])* $name:ident = $class:literal, $kernel:literal, $guards:literal $(, nest $nest:ident)?;)*) => {
        $($(#[$doc])* pub static $name: Class = Class::new($class);)*

        /// Every class of KVM's locks and sections.
        pub static CLASSES: &[LockClass] = &[$(LockClass {
            class: &$name,
            kernel: $kernel,
            guards: $guards,
            nest: classes!(@nest $($nest)?),
        },)*];
    };
    (@nest) => { None };
    (@nest $nest:ident) => { Some(&$nest) };
}

classes! {
    /// Use count of virtualization.
    KVM_USAGE_LOCK = "kvm_usage_lock", "mutex, virt/kvm/kvm_main.c", "kvm_usage_count";
    /// CPU hotplug, read side: no CPU goes offline.
    CPUS_LOCK = "cpus_read_lock", "percpu rwsem, kernel/cpu.c", "the set of online CPUs";
    /// The list of VMs.
    KVM_LOCK = "kvm_lock", "mutex, virt/kvm/kvm_main.c", "vm_list";
    /// SEAMCALLs that take something of the whole module.
    TDX_LOCK = "tdx_lock", "mutex, arch/x86/kvm/vmx/tdx.c", "the module's KOT";
    /// The allocator of HKIDs.
    HKID_POOL = "tdx_guest_keyid_pool", "ida, arch/x86/virt/vmx/tdx/tdx.c", "free guest HKIDs";
    /// VM-wide operations.
    VM_LOCK = "kvm->lock", "mutex in struct kvm",
        "created_vcpus, irqchip mode, capabilities; VM-wide ioctls";
    /// One vCPU's ioctls.
    VCPU_MUTEX = "vcpu->mutex", "mutex in struct kvm_vcpu", "the vCPU's state", nest VM_LOCK;
    /// Memslots and memory attributes.
    SLOTS_LOCK = "kvm->slots_lock", "mutex in struct kvm",
        "memslots, mem_attr_array, bindings of guest_memfd, page_add_src";
    /// Arch data of memslots.
    SLOTS_ARCH_LOCK = "kvm->slots_arch_lock", "mutex in struct kvm",
        "the inactive set of memslots; dropped before synchronize_srcu";
    /// The page cache of one guest_memfd inode.
    FILEMAP_LOCK = "filemap_invalidate_lock", "rwsem in the inode's address_space",
        "pages and bindings of a guest_memfd";
    /// The page tables of a VM.
    MMU_LOCK = "kvm->mmu_lock", "rwlock in struct kvm",
        "read: add to the mirror EPT; write: remove, and TDH.VP.INIT";
    /// The map of APIC ids.
    APIC_MAP_LOCK = "kvm->arch.apic_map_lock", "mutex in struct kvm_arch", "apic_map";
    /// Interrupts off on a CPU; an IPI waits for it.
    IRQS_OFF = "irqs off", "local_irq_disable", "the CPU's associated_tdvcpus";
    /// Read side of the SRCU that memslots are read under.
    SRCU = "kvm->srcu", "srcu_struct in struct kvm", "memslots stay allocated";
    /// A stretch without preemption.
    PREEMPT_OFF = "preempt off", "preempt_disable", "the current CPU stays the same";
}

/// Cells that KVM reads or writes without a lock.
pub mod cells {
    use seamlock_sync::Class;

    /// `kvm_tdx->state`.
    pub static TD_STATE: Class = Class::new("kvm_tdx->state");
    /// `kvm_tdx->hkid`; 0 stands for none.
    pub static HKID: Class = Class::new("kvm_tdx->hkid");
    /// `kvm_tdx->wait_for_sept_zap`.
    pub static WAIT_FOR_SEPT_ZAP: Class = Class::new("kvm_tdx->wait_for_sept_zap");
    /// `kvm->created_vcpus`.
    pub static CREATED_VCPUS: Class = Class::new("kvm->created_vcpus");
    /// `kvm->online_vcpus`.
    pub static ONLINE_VCPUS: Class = Class::new("kvm->online_vcpus");
    /// `kvm->vm_dead`.
    pub static VM_DEAD: Class = Class::new("kvm->vm_dead");
    /// `kvm->vm_bugged`.
    pub static VM_BUGGED: Class = Class::new("kvm->vm_bugged");
    /// `kvm->users_count`.
    pub static USERS_COUNT: Class = Class::new("kvm->users_count");
    /// `kvm->arch.pre_fault_allowed`.
    pub static PRE_FAULT_ALLOWED: Class = Class::new("kvm->arch.pre_fault_allowed");
    /// `kvm->memslots`: the generation of the active set.
    pub static MEMSLOTS: Class = Class::new("kvm->memslots");
    /// `kvm->mmu_invalidate_in_progress`.
    pub static INVALIDATE_IN_PROGRESS: Class = Class::new("kvm->mmu_invalidate_in_progress");
    /// `kvm->mmu_invalidate_seq`.
    pub static INVALIDATE_SEQ: Class = Class::new("kvm->mmu_invalidate_seq");
    /// Reader count of one of the two phases of `kvm->srcu`.
    pub static SRCU_READERS: Class = Class::new("kvm->srcu readers");
    /// Which phase of `kvm->srcu` new readers join.
    pub static SRCU_PHASE: Class = Class::new("kvm->srcu phase");
    /// Sleepers in `synchronize_srcu`.
    pub static SRCU_GRACE: Class = Class::new("kvm->srcu grace period");
    /// `vcpu->cpu`; -1 when the vCPU is on no CPU.
    pub static VCPU_CPU: Class = Class::new("vcpu->cpu");
    /// `tdx->state` of a vCPU.
    pub static VCPU_STATE: Class = Class::new("vcpu_tdx->state");
    /// `vcpu->arch.mp_state`.
    pub static MP_STATE: Class = Class::new("vcpu->arch.mp_state");
    /// `vcpu->requests`.
    pub static REQUESTS: Class = Class::new("vcpu->requests");
    /// `vcpu->mode`.
    pub static VCPU_MODE: Class = Class::new("vcpu->mode");
    /// How often a vCPU left the guest: what an acknowledged IPI proves.
    pub static VCPU_EXITS: Class = Class::new("vcpu exits");
    /// Sleepers on `vcpu->wait`, and whoever waits for a vCPU to leave the guest.
    pub static VCPU_WAIT: Class = Class::new("vcpu->wait");
    /// An entry of the mirror EPT: VM, and GPA with its level.
    pub static MIRROR_SPTE: Class = Class::new("mirror SPTE");
    /// `file->f_count`.
    pub static F_COUNT: Class = Class::new("file->f_count");
    /// A point where the task may be preempted and moved.
    pub static RESCHED: Class = Class::new("cond_resched");
}

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

/// The order of Linux v7.3.4, as documented and, beyond the document, as observed in the code.
pub static ORDER: &[Edge] = &[
    edge(&KVM_USAGE_LOCK, &CPUS_LOCK, "locking.rst"),
    edge(&CPUS_LOCK, &KVM_LOCK, "locking.rst"),
    edge(
        &CPUS_LOCK,
        &TDX_LOCK,
        "tdx.c __tdx_td_init, tdx_mmu_release_hkid",
    ),
    edge(&VM_LOCK, &VCPU_MUTEX, "locking.rst"),
    edge(&VM_LOCK, &SLOTS_LOCK, "locking.rst"),
    edge(&VM_LOCK, &CPUS_LOCK, "tdx.c __tdx_td_init"),
    edge(&VCPU_MUTEX, &SLOTS_LOCK, "locking.rst"),
    edge(&VCPU_MUTEX, &SLOTS_ARCH_LOCK, "locking.rst"),
    edge(&VCPU_MUTEX, &SRCU, "kvm_main.c kvm_vcpu_pre_fault_memory"),
    edge(&VCPU_MUTEX, &IRQS_OFF, "tdx.c tdx_vcpu_load"),
    edge(&SLOTS_LOCK, &SLOTS_ARCH_LOCK, "kvm_main.c kvm_set_memslot"),
    edge(&SRCU, &SLOTS_ARCH_LOCK, "locking.rst"),
    edge(
        &SLOTS_LOCK,
        &CPUS_LOCK,
        "tdx.c __tdx_td_init under the guard",
    ),
    edge(&SLOTS_LOCK, &FILEMAP_LOCK, "guest_memfd.c kvm_gmem_release"),
    edge(
        &SLOTS_LOCK,
        &APIC_MAP_LOCK,
        "lapic.c kvm_apic_set_base under the guard",
    ),
    edge(
        &SLOTS_ARCH_LOCK,
        &FILEMAP_LOCK,
        "guest_memfd.c kvm_gmem_commit_memory_region",
    ),
    edge(
        &FILEMAP_LOCK,
        &MMU_LOCK,
        "guest_memfd.c kvm_gmem_punch_hole",
    ),
    edge(
        &SLOTS_LOCK,
        &MMU_LOCK,
        "kvm_main.c kvm_vm_set_mem_attributes",
    ),
    edge(&SRCU, &MMU_LOCK, "mmu.c kvm_tdp_page_fault"),
];

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
    fn every_class_has_a_name_of_its_own() {
        let names: BTreeSet<&str> = CLASSES.iter().map(|c| c.class.name()).collect();
        assert_eq!(names.len(), CLASSES.len());
        for e in ORDER {
            assert!(names.contains(e.outer.name()) && names.contains(e.inner.name()));
        }
    }
}
