//! The machine under stress, and the VMs that the threads share.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64};

use seamlock_kvm::lockdep::Lockdep;
use seamlock_kvm::task::Files;
use seamlock_kvm::tdx::TdState;
use seamlock_kvm::vcpu::Vcpu;
use seamlock_kvm::{BootError, Control, Discipline, File, Host, Kvm, Options, Process, arch};
use seamlock_sync::Private;
use seamlock_tdx_abi::{Gpa, PAGE_SIZE};
use seamlock_tdx_module::Platform;

use super::client::{MM, source_pages, vm_of};
use super::replay::Journal;
use super::temper::Temper;
use super::watch::Watch;

/// Ranges of guest memory, each in a memslot of its own and at another GiB.
pub const WINDOWS: u64 = 2;
/// Pages in each.
pub const WINDOW_PAGES: u64 = 24;
/// Pages of a guest.
pub const GUEST_PAGES: u64 = WINDOWS * WINDOW_PAGES;
/// Descriptors of the process: few enough that they run out at times.
const DESCRIPTORS: usize = 64;

/// Address of a guest page.
pub fn gpa_of(page: u64) -> Gpa {
    Gpa((page / WINDOW_PAGES) << 30 | (page % WINDOW_PAGES) << 12)
}

/// The guest page at an address.
pub fn page_of(gpa: u64) -> Option<u64> {
    let (window, offset) = (gpa >> 30, gpa & ((1 << 30) - 1));
    let page = offset / PAGE_SIZE;
    (window < WINDOWS && page < WINDOW_PAGES).then_some(window * WINDOW_PAGES + page)
}

/// How large a world is.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Threads.
    pub threads: usize,
    /// VMs at a time.
    pub vms: usize,
    /// vCPUs of each.
    pub vcpus: u32,
}

impl Shape {
    /// Logical processors: a TD has no more vCPUs than there are.
    pub fn lps(&self) -> u32 {
        self.vcpus.max(4)
    }
}

/// The CPUs that tasks may be put on. Who moves a task holds it meanwhile; a `Private` would not do,
/// as a move is an operation that hooks see.
#[derive(Debug)]
#[allow(clippy::disallowed_types)]
pub struct Cpus(std::sync::Mutex<Vec<u32>>);

#[allow(clippy::disallowed_types)]
impl Cpus {
    fn of(lps: u32) -> Cpus {
        Cpus(std::sync::Mutex::new((0..lps).collect()))
    }

    /// Runs `f` on the list, alone.
    pub fn with<R>(&self, f: impl FnOnce(&mut Vec<u32>) -> R) -> R {
        let mut cpus = self.0.lock().unwrap_or_else(|held| held.into_inner());
        f(&mut cpus)
    }
}

/// A descriptor with its file.
#[derive(Clone, Debug)]
pub struct Open {
    pub fd: i32,
    pub file: Arc<File>,
}

/// Where a VM is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    Empty,
    Building,
    Running,
    Dead,
    /// No TD: there are none on a machine with an AMD processor.
    Amd,
}

/// One VM, as the threads know it.
#[derive(Debug)]
pub struct Vm {
    pub open: Open,
    pub kvm: Arc<Kvm>,
    pub vcpus: Private<Vec<Open>>,
    pub gmems: Private<Vec<Open>>,
    /// vCPUs that KVM_CREATE_VCPU gave.
    pub created: AtomicU32,
    /// Entries that KVM_TDX_GET_CPUID gave first; 0 before.
    pub cpuid_entries: AtomicU32,
    /// Calls so far.
    pub age: AtomicU64,
    pub journal: Private<Journal>,
    /// The guest page that was added last.
    pub latest_page: AtomicU64,
    /// What is done to it.
    pub temper: Temper,
}

impl Vm {
    /// A VM that was made a moment ago.
    pub fn new(open: Open, temper: Temper) -> Option<Vm> {
        Some(Vm {
            temper,
            kvm: vm_of(&open.file)?.clone(),
            open,
            vcpus: Private::default(),
            gmems: Private::default(),
            created: AtomicU32::new(0),
            cpuid_entries: AtomicU32::new(0),
            age: AtomicU64::new(0),
            journal: Private::default(),
            latest_page: AtomicU64::new(0),
        })
    }

    /// Where it is in its life.
    pub fn stage(&self) -> Stage {
        if self.kvm.is_dead() {
            return Stage::Dead;
        }
        if !self.kvm.is_td() {
            return Stage::Amd;
        }
        match self.kvm.tdx().state() {
            TdState::Uninitialized => Stage::Empty,
            TdState::Initialized => Stage::Building,
            TdState::Runnable => Stage::Running,
        }
    }

    /// Its descriptors, with its own last.
    pub fn take_descriptors(&self) -> Vec<Open> {
        let mut all = self.vcpus.with(std::mem::take);
        all.extend(self.gmems.with(std::mem::take));
        all.push(self.open.clone());
        all
    }
}

/// A machine, a process on it with its threads, and its VMs.
#[derive(Debug)]
pub struct World {
    pub host: Arc<Host>,
    pub files: Process,
    pub kvm: Open,
    pub sources: Arc<[u8]>,
    pub slots: Vec<Private<Option<Arc<Vm>>>>,
    pub controls: Vec<Control>,
    /// CPUs that tasks may be put on.
    pub cpus: Cpus,
    pub watch: Arc<Watch>,
    pub shape: Shape,
    /// The processor is AMD's, with SEV in the place of TDX.
    pub amd: bool,
    /// HKIDs that are free when there is no TD.
    pub hkids: usize,
}

impl World {
    /// Boots a machine.
    ///
    /// # Errors
    /// When the TDX module does not come up.
    pub fn boot(
        shape: Shape,
        discipline: &'static Discipline,
        lockdep: Option<Arc<Lockdep>>,
        watch: Arc<Watch>,
        amd: bool,
    ) -> Result<World, BootError> {
        let options = Options {
            discipline,
            observer: Some(watch.clone()),
            inject: Some(watch.clone()),
            guest: watch.clone(),
            lockdep,
            arch: if amd { &arch::AMD } else { &arch::INTEL },
        };
        let host = Host::boot_with(platform(shape), options)?;
        let files = Process::with_fd_limit(MM, DESCRIPTORS.max(shape.vms * 20));
        let file = File::open_kvm(&host);
        // The table is empty, so there is a free descriptor.
        let fd = files.install(&file).unwrap_or(-1);
        Ok(World {
            hkids: host.free_hkids(),
            kvm: Open { fd, file },
            sources: source_pages(),
            slots: (0..shape.vms).map(|_| Private::default()).collect(),
            controls: (0..shape.threads)
                .map(|i| Control::on(i as u32 % shape.lps()))
                .collect(),
            cpus: Cpus::of(shape.lps()),
            watch,
            shape,
            amd,
            files,
            host,
        })
    }

    /// The VM of a slot.
    pub fn vm(&self, slot: usize) -> Option<Arc<Vm>> {
        self.slots[slot].with(|vm| vm.clone())
    }

    /// Signals a thread. One that sleeps in KVM_RUN wakes up.
    pub fn signal(&self, seat: usize, fatal: bool) {
        self.controls[seat].signal(fatal);
        for vm in (0..self.slots.len()).filter_map(|slot| self.vm(slot)) {
            vm.kvm.vcpus().for_each(Vcpu::kick);
        }
    }

    /// Moves a thread to a CPU where tasks may be.
    pub fn migrate(&self, seat: usize, choice: usize) {
        self.cpus
            .with(|cpus| self.controls[seat].migrate(cpus[choice % cpus.len()]));
    }
}

/// A machine with two packages, and so few HKIDs that they run out.
pub fn platform(shape: Shape) -> Platform {
    Platform {
        packages: 2,
        private_hkid_count: shape.vms as u16 + 3,
        ..Platform::sapphire_rapids(4 << 30, shape.lps())
    }
}
