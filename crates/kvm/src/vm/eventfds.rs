//! Eventfds that a VM is wired to: irqfds, which inject interrupts, ioeventfds, which a guest's write
//! signals, and those of Hyper-V's connections.
//!
//! # Locking
//! The kernel has `irqfds.lock`, a spinlock, and `hv_lock`, a mutex, which nothing is nested in, and
//! `slots_lock` for ioeventfds, which the caller holds. Which eventfd has an irqfd, in whatever VM, is known
//! to the eventfd in the kernel (a priority waiter in its wait queue), here to the machine.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use seamlock_sync::{MutexGuard, Private};
use seamlock_tdx_abi::kvm::{
    Errno, KVM_IOEVENTFD_FLAG_DATAMATCH, KVM_IOEVENTFD_FLAG_PIO,
    KVM_IOEVENTFD_FLAG_VIRTIO_CCW_NOTIFY, KvmIoeventfd,
};

use crate::error::{Result, fail};

/// An eventfd of the process.
pub trait EventFd: Send + Sync + fmt::Debug {
    /// Tells one eventfd from another, whatever descriptors they have, and from those that were closed.
    fn id(&self) -> u64;
    /// `eventfd_signal`: adds 1 to its count.
    fn signal(&self);
}

#[derive(Clone, Debug)]
struct Irqfd {
    gsi: u32,
    eventfd: Arc<dyn EventFd>,
}

/// Which bus a write is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bus {
    /// Guest addresses.
    Mmio,
    /// Ports.
    Pio,
    /// Notifications of s390's virtio-ccw, which nothing on x86 makes.
    CcwNotify,
}

impl Bus {
    /// `ioeventfd_bus_from_flags`.
    pub fn of(flags: u32) -> Bus {
        if flags & KVM_IOEVENTFD_FLAG_PIO != 0 {
            Bus::Pio
        } else if flags & KVM_IOEVENTFD_FLAG_VIRTIO_CCW_NOTIFY != 0 {
            Bus::CcwNotify
        } else {
            Bus::Mmio
        }
    }
}

#[derive(Clone, Debug)]
struct Ioeventfd {
    bus: Bus,
    addr: u64,
    /// 0 for any.
    len: u32,
    /// The value that fires; None for any.
    datamatch: Option<u64>,
    eventfd: Arc<dyn EventFd>,
}

impl Ioeventfd {
    fn new(args: &KvmIoeventfd, eventfd: Arc<dyn EventFd>) -> Ioeventfd {
        let matches = args.flags & KVM_IOEVENTFD_FLAG_DATAMATCH != 0;
        let datamatch = matches.then_some(args.datamatch);
        Ioeventfd {
            bus: Bus::of(args.flags),
            addr: args.addr,
            len: args.len,
            datamatch,
            eventfd,
        }
    }

    /// `ioeventfd_check_collision`.
    fn collides(&self, other: &Ioeventfd) -> bool {
        let any_len = self.len == 0 || other.len == 0;
        let any_value = self.datamatch.is_none() || other.datamatch.is_none();
        self.bus == other.bus
            && self.addr == other.addr
            && (any_len
                || self.len == other.len && (any_value || self.datamatch == other.datamatch))
    }

    fn is(&self, other: &Ioeventfd) -> bool {
        (self.bus, self.addr, self.len, self.datamatch)
            == (other.bus, other.addr, other.len, other.datamatch)
            && self.eventfd.id() == other.eventfd.id()
    }

    /// `ioeventfd_in_range`: whether a write fires it.
    fn fires(&self, bus: Bus, addr: u64, bytes: &[u8]) -> bool {
        if self.bus != bus || self.addr != addr {
            return false;
        }
        if self.len == 0 {
            return true;
        }
        let mut value = [0; 8];
        let len = bytes.len().min(8);
        value[..len].copy_from_slice(&bytes[..len]);
        self.len as usize == bytes.len()
            && self
                .datamatch
                .is_none_or(|wanted| wanted == u64::from_le_bytes(value))
    }
}

/// The eventfds of a machine that inject an interrupt into some VM.
pub(crate) type PriorityWaiters = Private<BTreeSet<u64>>;

/// The eventfds of one VM.
#[derive(Debug, Default)]
pub struct Eventfds {
    irqfds: Private<Vec<Irqfd>>,
    ioeventfds: Private<Vec<Ioeventfd>>,
    hyperv: Private<BTreeMap<u32, Arc<dyn EventFd>>>,
}

impl Eventfds {
    /// The end of `kvm_irqfd_assign`.
    ///
    /// # Errors
    /// EBUSY when the eventfd injects an interrupt already, into this VM or another.
    pub(crate) fn assign_irqfd(
        &self,
        waiters: &PriorityWaiters,
        gsi: u32,
        eventfd: Arc<dyn EventFd>,
    ) -> Result<()> {
        const SITE: &str = "virt/kvm/eventfd.c:319 kvm_irqfd_register";
        if !waiters.with(|all| all.insert(eventfd.id())) {
            return fail(Errno::EBUSY, SITE, "the eventfd has an irqfd already");
        }
        self.irqfds
            .with(|irqfds| irqfds.push(Irqfd { gsi, eventfd }));
        Ok(())
    }

    /// `kvm_irqfd_deassign`; nothing to take away is no error.
    pub(crate) fn deassign_irqfd(
        &self,
        waiters: &PriorityWaiters,
        gsi: u32,
        eventfd: &dyn EventFd,
    ) {
        self.deactivate(waiters, |i| i.gsi == gsi && i.eventfd.id() == eventfd.id());
    }

    /// `kvm_irqfd_release`: the VM's descriptor is closed.
    pub(crate) fn release_irqfds(&self, waiters: &PriorityWaiters) {
        self.deactivate(waiters, |_| true);
    }

    /// `irqfd_deactivate` of some. The eventfd is free for another irqfd last.
    fn deactivate(&self, waiters: &PriorityWaiters, which: impl Fn(&Irqfd) -> bool) {
        let gone: Vec<Irqfd> = self
            .irqfds
            .with(|irqfds| irqfds.extract_if(.., |irqfd| which(irqfd)).collect());
        for irqfd in gone {
            waiters.with(|all| all.remove(&irqfd.eventfd.id()));
        }
    }

    /// `kvm_assign_ioeventfd_idx`.
    ///
    /// # Errors
    /// EEXIST. Only descriptors limit their number.
    pub(crate) fn assign_ioeventfd(
        &self,
        args: &KvmIoeventfd,
        eventfd: Arc<dyn EventFd>,
        _slots_lock: &MutexGuard<()>,
    ) -> Result<()> {
        const SITE: &str = "virt/kvm/eventfd.c:870 kvm_assign_ioeventfd_idx";
        let new = Ioeventfd::new(args, eventfd);
        self.ioeventfds.with(|all| {
            if all.iter().any(|known| known.collides(&new)) {
                return fail(Errno::EEXIST, SITE, "an ioeventfd matches the same writes");
            }
            all.push(new);
            Ok(())
        })
    }

    /// `kvm_deassign_ioeventfd_idx`.
    ///
    /// # Errors
    /// ENOENT.
    pub(crate) fn deassign_ioeventfd(
        &self,
        args: &KvmIoeventfd,
        eventfd: Arc<dyn EventFd>,
        _slots_lock: &MutexGuard<()>,
    ) -> Result<()> {
        const SITE: &str = "virt/kvm/eventfd.c:911 kvm_deassign_ioeventfd_idx";
        let wanted = Ioeventfd::new(args, eventfd);
        self.ioeventfds
            .with(|all| match all.iter().position(|known| known.is(&wanted)) {
                Some(at) => {
                    all.remove(at);
                    Ok(())
                }
                None => fail(Errno::ENOENT, SITE, "there is no such ioeventfd"),
            })
    }

    /// The end of `kvm_hv_eventfd_assign`.
    ///
    /// # Errors
    /// EEXIST.
    pub(crate) fn assign_hyperv(&self, conn_id: u32, eventfd: Arc<dyn EventFd>) -> Result<()> {
        const SITE: &str = "arch/x86/kvm/hyperv.c:2757 kvm_hv_eventfd_assign";
        self.hyperv.with(|all| {
            if all.contains_key(&conn_id) {
                return fail(Errno::EEXIST, SITE, "the connection has an eventfd already");
            }
            all.insert(conn_id, eventfd);
            Ok(())
        })
    }

    /// `kvm_hv_eventfd_deassign`, before it waits for readers.
    ///
    /// # Errors
    /// ENOENT.
    pub(crate) fn deassign_hyperv(&self, conn_id: u32) -> Result<()> {
        const SITE: &str = "arch/x86/kvm/hyperv.c:2772 kvm_hv_eventfd_deassign";
        match self.hyperv.with(|all| all.remove(&conn_id)) {
            Some(_) => Ok(()),
            None => fail(Errno::ENOENT, SITE, "the connection has no eventfd"),
        }
    }

    /// `kvm_io_bus_write` as far as ioeventfds: signals the one that the write fires. Whether there is
    /// one; then user space does not see the write.
    pub fn write(&self, bus: Bus, addr: u64, bytes: &[u8]) -> bool {
        let fired = self.ioeventfds.with(|all| {
            all.iter()
                .find(|e| e.fires(bus, addr, bytes))
                .map(|e| e.eventfd.clone())
        });
        if let Some(eventfd) = &fired {
            eventfd.signal();
        }
        fired.is_some()
    }
}
