//! Every lock of the kernel that KVM's control plane takes: class, what it guards, its order.
//!
//! Each lock is an object of `seamlock-sync` whose class is declared here and nowhere else. [`ORDER`]
//! is the order that the kernel documents or is observed to follow; a discipline that takes locks in
//! another order is not stopped by it, because a wrong discipline has to be runnable. What watches the
//! locks, [`lockdep`](crate::lockdep), compares what happens with the table and reports the difference.
//!
//! The TDX module's lock words are not in it: they are try-only and fail instead of waiting.
//!
//! # Locking
//! `kvm_usage_lock` > `cpus_read_lock` > `kvm_lock`; `kvm->lock` > `vcpu->mutex` > `slots_lock` >
//! `filemap_invalidate_lock` > `mmu_lock`; the guard > `cpus_read_lock` > `tdx_lock`.

pub mod cells;
mod order;
mod paths;

use seamlock_sync::Class;

pub use order::{Edge, ORDER, is_outside, path};
pub use paths::{PATHS, Path, Take, declared};

/// How a lock, or a section without a lock of its own, behaves while it is waited for and held.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// `struct mutex`: the waiter sleeps.
    Mutex,
    /// `struct rw_semaphore` and alike: the waiter sleeps.
    Rwsem,
    /// `spinlock_t`, `rwlock_t`: the waiter spins, the holder must not sleep.
    Spin,
    /// The read side of a sleepable RCU: never waited for, the holder may sleep. Who waits for its
    /// grace period waits for the holder.
    ReadSide,
    /// Code that somebody else waits for, such as an MMU notifier; it may sleep.
    Callback,
    /// Interrupts off: the holder must not sleep, and an IPI waits for it.
    IrqsOff,
    /// Preemption off: the holder must not sleep. Nobody waits for it, so it has no place in the order.
    PreemptOff,
}

impl Kind {
    /// Whether waiting for it may sleep, so that it must not be taken where sleeping is forbidden.
    pub const fn may_sleep(self) -> bool {
        matches!(self, Kind::Mutex | Kind::Rwsem)
    }

    /// Whether its holder must not sleep.
    pub const fn is_atomic(self) -> bool {
        matches!(self, Kind::Spin | Kind::IrqsOff | Kind::PreemptOff)
    }

    /// Whether somebody can wait for its holder, so that its order against others matters.
    pub const fn is_ordered(self) -> bool {
        !matches!(self, Kind::PreemptOff)
    }

    /// Whether it may be entered again by who is inside already.
    pub const fn may_nest(self) -> bool {
        matches!(self, Kind::ReadSide | Kind::PreemptOff | Kind::Callback)
    }

    /// What it is called in a table.
    pub const fn name(self) -> &'static str {
        match self {
            Kind::Mutex => "mutex",
            Kind::Rwsem => "rw_semaphore",
            Kind::Spin => "spinning",
            Kind::ReadSide => "SRCU read side",
            Kind::Callback => "callback",
            Kind::IrqsOff => "interrupts off",
            Kind::PreemptOff => "preemption off",
        }
    }
}

/// One class of locks, for people and for lockdep.
#[derive(Clone, Copy, Debug)]
pub struct LockClass {
    /// The class, as the lock objects carry it.
    pub class: &'static Class,
    /// How it behaves.
    pub kind: Kind,
    /// What the lock is in the kernel's source, and where.
    pub kernel: &'static str,
    /// What holding it keeps still.
    pub guards: &'static str,
    /// The class that makes several locks of this class safe to hold, when it is held.
    pub nest: Option<&'static Class>,
}

macro_rules! classes {
    ($(
        $(#[$doc:meta])* $name:ident = $class:literal, $kind:ident, $kernel:literal,
        $guards:literal $(, nest $nest:ident)?;
    )*) => {
        $($(#[$doc])* pub static $name: Class = Class::new($class);)*

        /// Every class of KVM's locks and sections, outer ones first.
        pub static CLASSES: &[LockClass] = &[$(LockClass {
            class: &$name,
            kind: Kind::$kind,
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
    KVM_USAGE_LOCK = "kvm_usage_lock", Mutex, "mutex, virt/kvm/kvm_main.c", "kvm_usage_count";
    /// VM-wide operations.
    VM_LOCK = "kvm->lock", Mutex, "mutex in struct kvm",
        "created_vcpus, irqchip mode, capabilities; VM-wide ioctls";
    /// One vCPU's ioctls.
    VCPU_MUTEX = "vcpu->mutex", Mutex, "mutex in struct kvm_vcpu", "the vCPU's state", nest VM_LOCK;
    /// Memslots and memory attributes.
    SLOTS_LOCK = "kvm->slots_lock", Mutex, "mutex in struct kvm",
        "memslots, mem_attr_array, bindings of guest_memfd, page_add_src";
    /// Read side of the SRCU that memslots are read under.
    SRCU = "kvm->srcu", ReadSide, "srcu_struct in struct kvm", "memslots stay allocated";
    /// Arch data of memslots.
    SLOTS_ARCH_LOCK = "kvm->slots_arch_lock", Mutex, "mutex in struct kvm",
        "the inactive set of memslots; dropped before synchronize_srcu";
    /// arm64: configuration of a VM.
    CONFIG_LOCK = "kvm->arch.config_lock", Mutex, "mutex in arm64's struct kvm_arch", "the vGIC";
    /// A process's memory map.
    MMAP_LOCK = "mmap_lock", Rwsem, "rwsem in struct mm_struct", "the process's mappings";
    /// An MMU notifier between its start and its end.
    MMU_NOTIFIER = "mmu_notifier", Callback, "mn_active_invalidate_count in struct kvm",
        "the user mapping that is being changed; a change of memslots waits for it";
    /// The page cache of one guest_memfd.
    FILEMAP_LOCK = "filemap_invalidate_lock", Rwsem, "rwsem in the inode's address_space",
        "pages and bindings of a guest_memfd";
    /// CPU hotplug: `cpus_read_lock`, `cpus_write_lock`.
    CPUS_LOCK = "cpu_hotplug_lock", Rwsem, "percpu rwsem, kernel/cpu.c: cpus_read_lock",
        "the set of online CPUs";
    /// The list of VMs.
    KVM_LOCK = "kvm_lock", Mutex, "mutex, virt/kvm/kvm_main.c", "vm_list";
    /// SEAMCALLs that take something of the whole module.
    TDX_LOCK = "tdx_lock", Mutex, "mutex, arch/x86/kvm/vmx/tdx.c", "the module's KOT";
    /// The allocator of HKIDs.
    HKID_POOL = "tdx_guest_keyid_pool", Spin, "ida, arch/x86/virt/vmx/tdx/tdx.c",
        "free guest HKIDs";
    /// The map of APIC ids.
    APIC_MAP_LOCK = "kvm->arch.apic_map_lock", Mutex, "mutex in struct kvm_arch", "apic_map";
    /// The page tables of a VM.
    MMU_LOCK = "kvm->mmu_lock", Spin, "rwlock in struct kvm",
        "read: add to the mirror EPT; write: remove, and TDH.VP.INIT";
    /// s390: a vCPU's local interrupts.
    LOCAL_INT = "vcpu->arch.local_int.lock", Spin, "spinlock in s390's struct kvm_vcpu_arch",
        "pending local interrupts";
    /// A stretch without preemption.
    PREEMPT_OFF = "preempt off", PreemptOff, "preempt_disable", "the current CPU stays the same";
    /// Interrupts off on a CPU; an IPI waits for it.
    IRQS_OFF = "irqs off", IrqsOff, "local_irq_disable", "the CPU's associated_tdvcpus";
}

/// What is declared about a class; None for a class that is no lock of KVM's.
pub fn class_of(class: &Class) -> Option<&'static LockClass> {
    CLASSES.iter().find(|known| known.class == class)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_class_has_a_name_of_its_own() {
        let names: BTreeSet<&str> = CLASSES.iter().map(|c| c.class.name()).collect();
        assert_eq!(names.len(), CLASSES.len());
        for e in ORDER {
            assert!(names.contains(e.outer.name()) && names.contains(e.inner.name()));
        }
    }

    #[test]
    fn classes_are_listed_outer_ones_first() {
        let place = |class: &Class| CLASSES.iter().position(|c| c.class == class);
        for edge in ORDER {
            assert!(
                place(edge.outer) < place(edge.inner),
                "{}",
                edge.inner.name()
            );
        }
    }

    #[test]
    fn a_nest_lock_is_outside_of_what_it_makes_safe() {
        for class in CLASSES {
            assert!(class.nest.is_none_or(|nest| is_outside(nest, class.class)));
        }
    }
}
