//! A machine with a TD on it, built by real ioctls up to where a scene starts.

mod sev;
mod start;
mod user;

use std::sync::Arc;

use seamlock_kvm::error::{Error, Result};
use seamlock_kvm::guest::script::{self, Script};
use seamlock_kvm::host::Owner;
use seamlock_kvm::lockdep::Lockdep;
use seamlock_kvm::observer::Observer;
use seamlock_kvm::{Control, Discipline, File, Host, Kvm, Options, Process, arch, close, ioctl_fd};
use seamlock_tdx_abi::kvm::*;
use seamlock_tdx_module::Platform;
use zerocopy::{Immutable, IntoBytes};

pub use start::{Closed, Extras, Start};

/// Bytes of a memslot: one 2 MiB region. Slot 0 is at guest address 0.
pub const SLOT_BYTES: u64 = 2 << 20;
/// The page that scenes add, punch or take away; those that follow it are added later.
pub const PAGE: u64 = 0x1000;
/// A page that is never added before the TD runs: a fault, a pre-fault or the guest brings it in.
pub const FRESH_PAGE: u64 = PAGE + 2 * 0x1000;
/// CPUs of the machine, unless there are more vCPUs.
const CPUS: u32 = 6;
/// The CPU that tasks are moved to, or that is offline.
pub const SPARE_CPU: u32 = CPUS - 1;
/// The CPU that a vCPU was loaded on last.
const fn home_cpu(vcpu: u32) -> u32 {
    if vcpu < SPARE_CPU { vcpu } else { vcpu + 1 }
}

/// Where the pages are that were added before a scene starts: around [`FRESH_PAGE`].
const fn page_at(nth: u64) -> u64 {
    let page = PAGE + nth * 0x1000;
    if page < FRESH_PAGE {
        page
    } else {
        page + 0x1000
    }
}

/// What the guests do when they run: a page is brought in, and user space is called, as often as any
/// scene lets them run.
const GUEST: &str = "\
accept 0x3000
out 0x80 1 1
out 0x80 1 1
out 0x80 1 1
vcpu 1: accept 0x3000
vcpu 1: out 0x80 1 1
vcpu 1: out 0x80 1 1
vcpu 1: out 0x80 1 1
";

/// A TD and its descriptors. A descriptor that is not there is -1.
#[derive(Debug)]
pub struct Td {
    /// The VM.
    pub kvm: Arc<Kvm>,
    /// Its descriptor.
    pub vm: i32,
    /// Its vCPUs' descriptors.
    pub vcpus: Vec<i32>,
    /// The guest_memfd of slot 0.
    pub gmem: i32,
}

/// The machine, a process on it, and what the process has open.
#[derive(Debug)]
pub struct Machine {
    /// The kernel.
    pub host: Arc<Host>,
    /// The VMM.
    pub process: Process,
    /// The TD that scenes are about.
    pub td: Td,
    /// The second TD of [`Extras`].
    pub second: Option<Td>,
    /// The fresh TD of [`Extras`].
    pub fresh: Option<Td>,
    /// The second guest_memfd of [`Extras`], bound or not; -1 without.
    pub other_gmem: i32,
    /// Bytes from [`PAGE`] on that are punched: every page that is added, and [`FRESH_PAGE`].
    pub punched_bytes: u64,
}

/// Who watches a machine.
#[derive(Clone, Debug, Default)]
pub struct Watchers {
    /// Bugs, SEAMCALLs.
    pub observer: Option<Arc<dyn Observer>>,
    /// The order of the locks.
    pub lockdep: Option<Arc<Lockdep>>,
}

impl Machine {
    /// Boots a machine and builds what a scene starts with.
    ///
    /// # Errors
    /// The first ioctl that fails, as under a discipline that can't build TDs.
    pub fn build(
        discipline: &'static Discipline,
        watchers: &Watchers,
        start: Start,
    ) -> Result<Machine> {
        let guest = Script::new(script::parse(GUEST).unwrap_or_default(), Box::new(|_| {}));
        let options = Options {
            discipline,
            observer: watchers.observer.clone(),
            lockdep: watchers.lockdep.clone(),
            guest: Arc::new(guest),
            arch: if start.sev { &arch::AMD } else { &arch::INTEL },
            ..Options::default()
        };
        let cpus = CPUS.max(home_cpu(start.vcpus()));
        let host = Host::boot_with(Platform::sapphire_rapids(1 << 30, cpus), options)
            .map_err(|why| Error::with(Errno::EIO, "boot", why.to_string()))?;
        let process = Process::with_fd_limit(1, start.fds).using_numbers_once();
        let system = process
            .install_kvm(&host)
            .map_err(|errno| Error::new(errno, "open", "no descriptor is free"))?;
        let vm_type = if start.sev {
            KVM_X86_SEV_ES_VM
        } else {
            KVM_X86_TDX_VM
        };
        let td = Td::create(&host, &process, system, vm_type)?;
        let mut machine = Machine {
            host,
            process,
            td,
            second: None,
            fresh: None,
            other_gmem: -1,
            punched_bytes: page_at(start.pages.max(2)) - PAGE,
        };
        if start.sev {
            machine.launch_sev(system)?;
        } else {
            machine.launch(start)?;
            machine.add_extras(system, start.extras)?;
        }
        machine.reserve();
        machine.close_some(start.closed);
        Ok(machine)
    }

    fn launch(&mut self, start: Start) -> Result<()> {
        if start.slot {
            self.td.gmem = self.bound_gmem(self.td.vm, 0, 0)?;
        }
        if start.init {
            self.init_vm(self.td.vm)?;
        }
        let raw = start.ready..start.ready + start.raw;
        for id in 0..start.vcpus() {
            let fd = self.add_vcpu(self.td.vm, id, home_cpu(id), !raw.contains(&id))?;
            self.td.vcpus.push(fd);
        }
        for page in 0..start.pages {
            self.add_page(page_at(page))?;
        }
        if start.extras.second_slot {
            self.other_gmem = self.bound_gmem(self.td.vm, 1, SLOT_BYTES)?;
            if start.ready > 0 {
                self.add_page(SLOT_BYTES + PAGE)?;
            }
        }
        if start.finalized {
            let arg = self.command(TdxCmdId::KVM_TDX_FINALIZE_VM, 0, 0);
            self.on(0).ioctl(self.td.vm, KVM_MEMORY_ENCRYPT_OP, arg)?;
        }
        Ok(())
    }

    fn add_page(&self, gpa: u64) -> Result<()> {
        let (arg, _) = self.mem_region_arg(gpa);
        let vcpu = self.td.vcpus.first().copied().unwrap_or(-1);
        self.on(0).ioctl(vcpu, KVM_MEMORY_ENCRYPT_OP, arg)?;
        Ok(())
    }

    fn add_extras(&mut self, system: i32, extras: Extras) -> Result<()> {
        if extras.spare_gmem {
            self.other_gmem = self.gmem(self.td.vm)?;
        }
        if extras.plain_slot {
            let arg = self.plain_slot_arg(4 * SLOT_BYTES, 0);
            self.on(0)
                .ioctl(self.td.vm, KVM_SET_USER_MEMORY_REGION2, arg)?;
        }
        if extras.second_td {
            let mut td = Td::create(&self.host, &self.process, system, KVM_X86_TDX_VM)?;
            td.gmem = self.bound_gmem(td.vm, 0, 0)?;
            self.init_vm(td.vm)?;
            for id in 0..2 {
                // Beside the first TD's vCPUs.
                let fd = self.add_vcpu(td.vm, id, 1 - id, id == 0)?;
                td.vcpus.push(fd);
            }
            self.second = Some(td);
        }
        if extras.fresh_td {
            self.fresh = Some(Td::create(
                &self.host,
                &self.process,
                system,
                KVM_X86_TDX_VM,
            )?);
        }
        if extras.offline_cpu {
            self.host.offline_cpu(SPARE_CPU);
        }
        Ok(())
    }

    /// Gives whoever may take pages while the threads run a chunk of memory now, so that no address
    /// depends on who was first.
    fn reserve(&self) {
        let pages = self.host.pages();
        for kvm in self.host.live_vms() {
            let vm = kvm.number;
            let vcpus = kvm.vcpus().count() as u64;
            let parts = (0..6.max(vcpus + 3)).map(|at| Owner::vcpu(vm, at));
            let files = (0..4).map(|at| Owner::gmem(vm, at));
            for owner in [Owner::vm(vm)].into_iter().chain(parts).chain(files) {
                if let Some(page) = pages.alloc(owner) {
                    pages.free(owner, page);
                }
            }
        }
    }

    fn close_some(&mut self, closed: Closed) {
        let (td, control) = (&mut self.td, Control::on(0));
        let others = td.vcpus.iter_mut().skip(1);
        let gone: Vec<&mut i32> = match closed {
            Closed::Nothing => Vec::new(),
            Closed::Gmem => vec![&mut td.gmem],
            Closed::Vm => others.chain([&mut td.vm]).collect(),
            Closed::AllButOne => others.chain([&mut td.gmem, &mut td.vm]).collect(),
        };
        for fd in gone {
            // It is open.
            let _ = close(&self.process.task(&control), *fd);
            *fd = -1;
        }
    }

    /// A thread of the process on this CPU.
    pub fn on(&self, cpu: u32) -> Boot<'_> {
        Boot {
            process: &self.process,
            control: Control::on(cpu),
        }
    }

    fn init_vm(&self, vm: i32) -> Result<()> {
        self.on(0)
            .ioctl(vm, KVM_MEMORY_ENCRYPT_OP, self.init_vm_arg())?;
        Ok(())
    }

    fn gmem(&self, vm: i32) -> Result<i32> {
        let arg = self.gmem_arg();
        Ok(self.on(0).ioctl(vm, KVM_CREATE_GUEST_MEMFD, arg)? as i32)
    }

    /// A guest_memfd in a memslot at `base`, all private.
    fn bound_gmem(&self, vm: i32, slot: u32, base: u64) -> Result<i32> {
        let gmem = self.gmem(vm)?;
        let boot = self.on(0);
        let arg = self.slot_arg(slot, base, gmem, SLOT_BYTES);
        boot.ioctl(vm, KVM_SET_USER_MEMORY_REGION2, arg)?;
        let private = self.attributes_arg(base, KVM_MEMORY_ATTRIBUTE_PRIVATE);
        boot.ioctl(vm, KVM_SET_MEMORY_ATTRIBUTES, private)?;
        Ok(gmem)
    }

    fn add_vcpu(&self, vm: i32, id: u32, cpu: u32, init: bool) -> Result<i32> {
        let boot = self.on(cpu);
        let fd = boot.ioctl(vm, KVM_CREATE_VCPU, u64::from(id))? as i32;
        boot.ioctl(fd, KVM_SET_CPUID2, self.cpuid_arg())?;
        if init {
            let at = self.command(TdxCmdId::KVM_TDX_INIT_VCPU, 0, 0);
            boot.ioctl(fd, KVM_MEMORY_ENCRYPT_OP, at)?;
        }
        Ok(fd)
    }

    /// Closes every descriptor, the VMs' own last.
    pub fn close_all(&self) {
        let control = Control::on(0);
        let mut fds = self.process.open_fds();
        let others = [&self.second, &self.fresh];
        let vms: Vec<i32> = others.into_iter().flatten().map(|td| td.vm).collect();
        fds.sort_by_key(|fd| (*fd == self.td.vm || vms.contains(fd), *fd));
        for fd in fds {
            let _ = close(&self.process.task(&control), fd);
        }
    }
}

impl Td {
    fn create(host: &Arc<Host>, process: &Process, system: i32, vm_type: u64) -> Result<Td> {
        let boot = Boot {
            process,
            control: Control::on(0),
        };
        let vm = boot.ioctl(system, KVM_CREATE_VM, vm_type)? as i32;
        if vm_type == KVM_X86_TDX_VM {
            let cap = KvmEnableCap {
                cap: KVM_CAP_SPLIT_IRQCHIP,
                flags: 0,
                args: [24, 0, 0, 0],
                pad: [0; 64],
            };
            boot.with(vm, KVM_ENABLE_CAP, &cap)?;
        }
        let mut vms = host.live_vms();
        match vms.pop() {
            Some(kvm) => Ok(Td {
                kvm,
                vm,
                vcpus: Vec::new(),
                gmem: -1,
            }),
            None => Err(Error::new(
                Errno::EIO,
                "boot",
                "the VM that was made is gone",
            )),
        }
    }
}

/// A thread of the process.
#[derive(Debug)]
pub struct Boot<'a> {
    process: &'a Process,
    control: Control,
}

impl Boot<'_> {
    /// `ioctl(2)`.
    ///
    /// # Errors
    /// As the ioctl.
    pub fn ioctl(&self, fd: i32, request: u32, arg: u64) -> Result<i64> {
        ioctl_fd(&self.process.task(&self.control), fd, request, arg)
    }

    fn with<T: IntoBytes + Immutable>(&self, fd: i32, request: u32, value: &T) -> Result<i64> {
        self.ioctl(fd, request, self.process.map_copy(value.as_bytes()))
    }
}

/// Opening `/dev/kvm`.
trait InstallKvm {
    fn install_kvm(&self, host: &Arc<Host>) -> std::result::Result<i32, Errno>;
}

impl InstallKvm for Process {
    fn install_kvm(&self, host: &Arc<Host>) -> std::result::Result<i32, Errno> {
        seamlock_kvm::task::Files::install(self, &File::open_kvm(host))
    }
}
