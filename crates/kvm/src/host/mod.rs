//! The machine's kernel: the TDX module it brought up, its memory, keys, CPUs and VMs.
//!
//! # Locking
//! | lock | guards |
//! |---|---|
//! | `kvm_usage_lock` | `kvm_usage_count` |
//! | `cpus_lock` | which CPUs are online |
//! | `kvm_lock` | `vm_list` |
//! | `tdx_lock` | the module's KOT, across TDH.MNG.CREATE, VPFLUSHDONE, CACHE.WB, KEY.FREEID |
//! | `tdx_guest_keyid_pool` | free HKIDs |
//!
//! Order: `kvm_usage_lock` > `cpus_lock` > `kvm_lock`; `cpus_lock` > `tdx_lock`.

mod boot;
mod cpu;
mod hotplug;
mod inject;
mod page_cache;
mod pages;
mod parameters;
mod sysinfo;
mod tdmr;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Weak};

use seamlock_sync::{Mutex, Name, Private, RwLock};
use seamlock_tdx_abi::regs::Regs;
use seamlock_tdx_abi::{Hkid, Hpa, TdxStatus};
use seamlock_tdx_module::{After, Memory, Module, Platform};

use crate::arch::{self, Arch};
use crate::discipline::{self, Discipline};
use crate::guest::{Guest, Halting};
use crate::lockdep::{self, Lockdep};
use crate::locks;
use crate::observer::{Counters, Observer, Seamcall};
use crate::vm::eventfds::PriorityWaiters;
use crate::vm::{Kvm, Teardown};

pub use boot::BootError;
pub use cpu::{Cpu, IrqsOff, ListCorruption, Listed};
pub use inject::{Fault, Inject, Upcoming};
pub use page_cache::CachedFile;
pub use pages::{Owner, Pages};
pub use parameters::{PARAMETERS, parameter};
pub use sysinfo::{CpuidConfig, SysInfo};

/// What may be chosen at boot.
#[derive(Clone, Debug)]
pub struct Options {
    /// How KVM locks.
    pub discipline: &'static Discipline,
    /// Who watches.
    pub observer: Option<Arc<dyn Observer>>,
    /// Who makes SEAMCALLs fail.
    pub inject: Option<Arc<dyn Inject>>,
    /// Who runs guests.
    pub guest: Arc<dyn Guest>,
    /// The architecture.
    pub arch: &'static dyn Arch,
    /// Who checks the order of the locks.
    pub lockdep: Option<Arc<Lockdep>>,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            discipline: &discipline::V7_3,
            observer: None,
            inject: None,
            guest: Arc::new(Halting),
            arch: &arch::INTEL,
            lockdep: Lockdep::of_build(),
        }
    }
}

/// The kernel of one machine.
#[derive(Debug)]
pub struct Host {
    module: Arc<Module>,
    sysinfo: SysInfo,
    global_keyid: Hkid,
    discipline: &'static Discipline,
    observer: Option<Arc<dyn Observer>>,
    /// The same, if it wants to be shown SEAMCALLs.
    seamcall_observer: Option<Arc<dyn Observer>>,
    inject: Option<Arc<dyn Inject>>,
    guest: Arc<dyn Guest>,
    arch: &'static dyn Arch,
    lockdep: Option<Arc<Lockdep>>,
    counters: Counters,
    pages: Pages,
    cpus: Vec<Cpu>,
    hkids: Mutex<BTreeSet<u16>>,
    /// How many are out, for who asks without the lock (`ida_is_empty`).
    hkids_in_use: AtomicU64,
    pub(crate) kvm_usage_lock: Mutex<u64>,
    pub(crate) cpus_lock: RwLock<BTreeSet<u32>>,
    pub(crate) kvm_lock: Mutex<BTreeMap<u64, Weak<Kvm>>>,
    pub(crate) tdx_lock: Mutex<()>,
    /// Which eventfds inject interrupts.
    pub(crate) irqfds: PriorityWaiters,
    next_vm: AtomicU64,
    /// Every VM, for who finds its number on a per-CPU list.
    registry: Private<BTreeMap<u64, Weak<Kvm>>>,
    teardowns: Private<Vec<Teardown>>,
}

impl Host {
    /// Boots a machine: loads the TDX module and brings it up.
    ///
    /// # Errors
    /// When the platform can't run TDX, or the module refuses.
    pub fn boot(platform: Platform) -> Result<Arc<Host>, BootError> {
        Host::boot_with(platform, Options::default())
    }

    /// Boots a machine with a discipline and an observer of one's choice.
    ///
    /// # Errors
    /// As [`boot`](Host::boot).
    pub fn boot_with(platform: Platform, options: Options) -> Result<Arc<Host>, BootError> {
        let module = Arc::new(Module::new(platform));
        let (sysinfo, layout) = boot::bring_up(&module)?;
        let platform = module.platform();
        let cpus = (0..platform.lps)
            .map(|id| Cpu::new(id, platform.package_of(id)))
            .collect();
        let first = platform.private_hkid_first;
        let hkids = (first + 1..first + platform.private_hkid_count).collect();
        let online = (0..platform.lps).collect();
        if options.lockdep.is_some() {
            Lockdep::listen();
        }
        Ok(Arc::new(Host {
            sysinfo,
            global_keyid: boot::global_keyid(&module),
            discipline: options.discipline,
            seamcall_observer: options
                .observer
                .clone()
                .filter(|observer| observer.watches_seamcalls()),
            observer: options.observer,
            inject: options.inject,
            guest: options.guest,
            arch: options.arch,
            lockdep: options.lockdep,
            counters: Counters::default(),
            pages: Pages::over(&layout.usable),
            cpus,
            hkids: Mutex::new(locks::HKID_POOL.only(), hkids),
            hkids_in_use: AtomicU64::new(0),
            kvm_usage_lock: Mutex::new(locks::KVM_USAGE_LOCK.only(), 0),
            cpus_lock: RwLock::new(locks::CPUS_LOCK.only(), online),
            kvm_lock: Mutex::new(locks::KVM_LOCK.only(), BTreeMap::new()),
            tdx_lock: Mutex::new(locks::TDX_LOCK.only(), ()),
            irqfds: PriorityWaiters::default(),
            next_vm: AtomicU64::new(1),
            registry: Private::default(),
            teardowns: Private::default(),
            module,
        }))
    }

    /// The TDX module.
    pub fn module(&self) -> &Arc<Module> {
        &self.module
    }

    /// Physical memory.
    pub fn memory(&self) -> &Memory {
        self.module.memory()
    }

    /// The module's metadata.
    pub fn sysinfo(&self) -> &SysInfo {
        &self.sysinfo
    }

    /// The page allocator.
    pub fn pages(&self) -> &Pages {
        &self.pages
    }

    /// The logical processors.
    pub fn cpus(&self) -> &[Cpu] {
        &self.cpus
    }

    /// How new VMs lock.
    pub fn discipline(&self) -> &'static Discipline {
        self.discipline
    }

    /// Who watches.
    pub fn observer(&self) -> Option<&Arc<dyn Observer>> {
        self.observer.as_ref()
    }

    /// Who runs guests.
    pub fn guest(&self) -> &dyn Guest {
        &*self.guest
    }

    /// The architecture.
    pub fn arch(&self) -> &'static dyn Arch {
        self.arch
    }

    /// Who checks the order of the locks.
    pub fn lockdep(&self) -> Option<&Arc<Lockdep>> {
        self.lockdep.as_ref()
    }

    /// This thread enters the kernel, until the value is dropped.
    #[inline]
    pub fn enter(&self) -> Entered<'_> {
        Entered {
            host: self,
            inside: self.lockdep.as_ref().map(Lockdep::enter),
        }
    }

    /// SEAMCALLs since boot, those of the bring-up not counted.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// The HKID of the module's own memory.
    pub fn global_keyid(&self) -> Hkid {
        self.global_keyid
    }

    /// HKIDs that no TD has.
    pub fn free_hkids(&self) -> usize {
        self.hkids.lock().len()
    }

    /// The machine's locks that somebody holds now. For reports and tests.
    pub fn held_locks(&self) -> Vec<Name> {
        let mut names: Vec<Name> = self.cpus.iter().filter_map(Cpu::held_lock).collect();
        let mut note = |held: bool, name: Name| {
            if held {
                names.push(name);
            }
        };
        note(self.kvm_usage_lock.is_locked(), self.kvm_usage_lock.name());
        note(self.cpus_lock.is_locked(), self.cpus_lock.name());
        note(self.kvm_lock.is_locked(), self.kvm_lock.name());
        note(self.tdx_lock.is_locked(), self.tdx_lock.name());
        note(self.hkids.is_locked(), self.hkids.name());
        names
    }

    /// The VMs that have not ended, by number (`vm_list`).
    pub fn live_vms(&self) -> Vec<Arc<Kvm>> {
        self.kvm_lock
            .lock()
            .values()
            .filter_map(Weak::upgrade)
            .collect()
    }

    /// What each VM that ended gave back, in the order of their ends.
    pub fn teardowns(&self) -> Vec<Teardown> {
        self.teardowns.with(|all| all.clone())
    }

    /// `tdx_guest_keyid_alloc`: the lowest free HKID.
    pub(crate) fn alloc_hkid(&self) -> Option<Hkid> {
        let hkid = self.hkids.lock().pop_first()?;
        self.hkids_in_use.fetch_add(1, Relaxed);
        Some(Hkid(hkid))
    }

    /// `tdx_guest_keyid_free`.
    pub(crate) fn free_hkid(&self, hkid: Hkid) {
        self.hkids.lock().insert(hkid.0);
        self.hkids_in_use.fetch_sub(1, Relaxed);
    }

    pub(crate) fn new_vm_number(&self) -> u64 {
        self.next_vm.fetch_add(1, Relaxed)
    }

    /// Notes a VM that was just made.
    pub(crate) fn register(&self, kvm: &Arc<Kvm>) {
        let (number, kvm) = (kvm.number, Arc::downgrade(kvm));
        self.registry.with(|vms| vms.insert(number, kvm));
    }

    pub(crate) fn record_teardown(&self, teardown: Teardown) {
        self.registry.with(|vms| vms.remove(&teardown.vm));
        if let Some(observer) = &self.observer {
            observer.teardown(&teardown);
        }
        self.teardowns.with(|all| all.push(teardown));
    }

    /// One SEAMCALL on `cpu`, counted and shown to the observer.
    #[inline]
    pub(crate) fn seamcall(&self, cpu: u32, regs: &mut Regs) -> (TdxStatus, After) {
        let leaf = regs.leaf();
        let after = match (&self.seamcall_observer, &self.inject) {
            (None, None) => self.module.seamcall(cpu, regs),
            (observer, _) => self.watched_seamcall(observer.as_deref(), cpu, regs),
        };
        let status = regs.status();
        self.counters.count(leaf, status);
        (status, after)
    }

    fn watched_seamcall(
        &self,
        observer: Option<&dyn Observer>,
        cpu: u32,
        regs: &mut Regs,
    ) -> After {
        let input = *regs;
        if let Some(observer) = observer {
            observer.seamcall_begins(&input);
        }
        let nth = self.counters.made(regs.leaf()) + 1;
        let upcoming = Upcoming {
            cpu,
            regs: &input,
            nth,
        };
        let after = match self.inject.as_ref().and_then(|i| i.status(&upcoming)) {
            None => self.module.seamcall(cpu, regs),
            Some(status) => {
                regs.rax = status.0;
                After::Host
            }
        };
        if let Some(observer) = observer {
            observer.seamcall(&Seamcall {
                cpu,
                input: &input,
                output: regs,
                entered: after == After::Guest,
            });
        }
        after
    }

    /// A page for `owner`; what it holds is left over.
    pub(crate) fn alloc_page(&self, owner: Owner) -> Option<Hpa> {
        self.pages.alloc(owner)
    }

    pub(crate) fn free_page(&self, owner: Owner, page: Hpa) {
        self.pages.free(owner, page);
    }
}

/// A thread that is in the machine's kernel.
#[derive(Debug)]
pub struct Entered<'a> {
    host: &'a Host,
    inside: Option<lockdep::Inside>,
}

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        let Some(inside) = self.inside.take() else {
            return;
        };
        drop(inside);
        let (Some(lockdep), Some(observer)) = (&self.host.lockdep, &self.host.observer) else {
            return;
        };
        for breach in lockdep.unreported() {
            observer.lockdep(&breach);
        }
    }
}
