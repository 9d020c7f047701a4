//! What an architecture keeps of a VM and of a vCPU: `struct kvm_arch`, `struct kvm_vcpu_arch`, as far
//! as the architectures here need it.
//!
//! # Locking
//! | field | guarded by |
//! |---|---|
//! | `pending` | nothing: bits are set and cleared in one step; on s390 `local_int` |
//! | `external_vector` | `vcpu->mutex` |
//! | `protected`, `vmsa` | `vcpu->mutex`, or `kvm->lock` with all vCPU mutexes; set up when created |
//! | `apic_access_*` | `slots_lock`; `apic_access_enabled` is read without |
//! | `vgic`, `vgic_ready` | `kvm->lock`; `slots_lock` and `config_lock` |

use seamlock_sync::{Class, Mutex, Private, Shared};
use seamlock_tdx_abi::Hpa;

use crate::locks;

static IRQS_PENDING: Class = Class::new("vcpu->arch.irqs_pending");
static EXTERNAL_VECTOR: Class = Class::new("vcpu->arch.pending_external_vector");
static PROTECTED: Class = Class::new("vcpu->arch.guest_state_protected");
static APIC_ACCESS: Class = Class::new("kvm->arch.apic_access_memslot_enabled");
static VGIC: Class = Class::new("kvm->arch.vgic.in_kernel");
static VGIC_READY: Class = Class::new("kvm->arch.vgic.ready");

/// No external vector.
pub(super) const NO_VECTOR: i64 = -1;

/// An architecture's part of a vCPU.
#[derive(Debug)]
pub struct VcpuArch {
    /// Interrupts that are queued, one bit each.
    pub(super) pending: Shared<u64>,
    /// The interrupts that the guest took, in order.
    pub(super) taken: Private<Vec<u32>>,
    /// x86: the vector that KVM_INTERRUPT queued; -1 for none.
    pub(super) external_vector: Shared<i64>,
    /// s390: `vcpu->arch.local_int.lock`.
    pub(super) local_int: Mutex<()>,
    /// SEV-ES: the guest's registers are out of the host's reach.
    pub(crate) protected: Shared<bool>,
    /// SEV-ES: the page of the guest's registers.
    pub(crate) vmsa: Private<Option<Hpa>>,
}

impl VcpuArch {
    pub(crate) fn new(vm: u64, vcpu: u64) -> VcpuArch {
        VcpuArch {
            pending: Shared::new(IRQS_PENDING.of(vm, vcpu), 0),
            taken: Private::default(),
            external_vector: Shared::new(EXTERNAL_VECTOR.of(vm, vcpu), NO_VECTOR),
            local_int: Mutex::new(locks::LOCAL_INT.of(vm, vcpu), ()),
            protected: Shared::new(PROTECTED.of(vm, vcpu), false),
            vmsa: Private::default(),
        }
    }

    /// The interrupts that the stand-in guest took so far, in order.
    pub fn interrupts_taken(&self) -> Vec<u32> {
        self.taken.with(|taken| taken.clone())
    }

    /// Whether an interrupt is queued.
    pub fn is_interrupt_pending(&self) -> bool {
        self.pending.load() != 0 || self.external_vector.load() != NO_VECTOR
    }

    /// `set_bit` on the queue.
    pub(super) fn queue(&self, irq: u32) {
        self.change(|held| held | 1 << (irq % 64));
    }

    /// `clear_bit`.
    pub(super) fn dequeue(&self, irq: u32) {
        self.change(|held| held & !(1 << (irq % 64)));
    }

    fn change(&self, new: impl Fn(u64) -> u64) {
        let mut held = self.pending.load();
        while let Err(now) = self.pending.compare_exchange(held, new(held)) {
            held = now;
        }
    }

    /// Takes the lowest interrupt out of the queue.
    pub(super) fn take(&self) -> Option<u32> {
        let held = self.pending.load();
        let irq = (held != 0).then(|| held.trailing_zeros())?;
        self.dequeue(irq);
        Some(irq)
    }
}

/// An architecture's part of a VM.
#[derive(Debug)]
pub struct VmArch {
    /// x86: the memslot of the APIC access page exists.
    pub(super) apic_access_enabled: Shared<bool>,
    /// x86: it must not be made again.
    pub(super) apic_access_inhibited: Private<bool>,
    /// arm64: KVM_CREATE_IRQCHIP made a vGIC.
    pub(super) vgic: Shared<bool>,
    /// arm64: its registers are mapped.
    pub(super) vgic_ready: Shared<bool>,
    /// arm64: `kvm->arch.config_lock`.
    pub(super) config_lock: Mutex<()>,
}

impl VmArch {
    pub(crate) fn new(vm: u64) -> VmArch {
        VmArch {
            apic_access_enabled: Shared::new(APIC_ACCESS.at(vm), false),
            apic_access_inhibited: Private::default(),
            vgic: Shared::new(VGIC.at(vm), false),
            vgic_ready: Shared::new(VGIC_READY.at(vm), false),
            config_lock: Mutex::new(locks::CONFIG_LOCK.at(vm), ()),
        }
    }
}
