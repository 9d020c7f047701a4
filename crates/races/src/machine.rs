//! A machine with one TD on it, built by real ioctls up to where a scene starts.

use std::sync::Arc;

use seamlock_kvm::error::{Error, Result};
use seamlock_kvm::observer::Observer;
use seamlock_kvm::task::Files;
use seamlock_kvm::{Control, Discipline, File, Host, Kvm, Options, Process, close, ioctl_fd};
use seamlock_tdx_abi::kvm::*;
use seamlock_tdx_module::Platform;
use zerocopy::{FromZeros, Immutable, IntoBytes};

/// Bytes of the only memslot: one 2 MiB region, at guest address 0.
pub const SLOT_BYTES: u64 = 2 << 20;
/// The page that scenes add, punch or take away.
pub const PAGE: u64 = 0x1000;
/// Entries that a GET_CPUID buffer has room for.
const CPUID_ROOM: u32 = 256;
/// CPUs of the machine.
const CPUS: u32 = 3;

/// What is there when a scene starts.
#[derive(Clone, Copy, Debug)]
pub struct Start {
    /// Initialised vCPUs; vCPU `i` was loaded on CPU `i` last.
    pub ready: u32,
    /// Further vCPUs that are created and have their CPUID, but are not initialised.
    pub raw: u32,
    /// Whether there is a memslot with a guest_memfd.
    pub slot: bool,
    /// Whether the page at [`PAGE`] has been added.
    pub page: bool,
    /// Most descriptors that the process may have.
    pub fds: usize,
}

impl Start {
    /// `ready` initialised and `raw` other vCPUs, and a memslot without pages.
    pub const fn with(ready: u32, raw: u32) -> Start {
        Start {
            ready,
            raw,
            slot: true,
            page: false,
            fds: 64,
        }
    }
}

/// The machine, a process on it, and the TD's descriptors.
#[derive(Debug)]
pub struct Machine {
    /// The kernel.
    pub host: Arc<Host>,
    /// The VMM.
    pub process: Process,
    /// The TD.
    pub kvm: Arc<Kvm>,
    /// Its descriptor.
    pub vm: i32,
    /// Its vCPUs' descriptors.
    pub vcpus: Vec<i32>,
    /// The guest_memfd; -1 without one.
    pub gmem: i32,
}

impl Machine {
    /// Boots a machine and builds a TD.
    ///
    /// # Errors
    /// The first ioctl that fails, as under a discipline that can't build TDs.
    pub fn build(
        discipline: &'static Discipline,
        observer: Option<Arc<dyn Observer>>,
        start: Start,
    ) -> Result<Machine> {
        let options = Options {
            discipline,
            observer,
            lockdep: None,
            ..Options::default()
        };
        let host = Host::boot_with(Platform::sapphire_rapids(1 << 30, CPUS), options)
            .map_err(|why| Error::with(Errno::EIO, "boot", why.to_string()))?;
        let process = Process::with_fd_limit(1, start.fds);
        let kvm_fd = process
            .install(&File::open_kvm(&host))
            .map_err(|errno| Error::new(errno, "open", "no descriptor is free"))?;
        let boot = Boot {
            process: &process,
            control: Control::on(0),
        };
        let vm = boot.ioctl(kvm_fd, KVM_CREATE_VM, KVM_X86_TDX_VM)? as i32;
        let mut machine = Machine {
            kvm: host.live_vms().remove(0),
            host,
            vm,
            vcpus: Vec::new(),
            gmem: -1,
            process,
        };
        machine.init_vm()?;
        if start.slot {
            machine.add_slot()?;
        }
        for id in 0..start.ready + start.raw {
            machine.add_vcpu(id, id < start.ready)?;
        }
        if start.page {
            let (fd, arg) = machine.mem_region();
            machine.on(0).ioctl(fd, KVM_MEMORY_ENCRYPT_OP, arg)?;
        }
        Ok(machine)
    }

    fn on(&self, cpu: u32) -> Boot<'_> {
        Boot {
            process: &self.process,
            control: Control::on(cpu),
        }
    }

    fn init_vm(&self) -> Result<()> {
        let cap = KvmEnableCap {
            cap: KVM_CAP_SPLIT_IRQCHIP,
            flags: 0,
            args: [24, 0, 0, 0],
            pad: [0; 64],
        };
        self.on(0).with(self.vm, KVM_ENABLE_CAP, &cap)?;
        let mut init = KvmTdxInitVm::new_zeroed();
        // SEPT_VE_DISABLE; x87 and SSE.
        init.attributes = 1 << 28;
        init.xfam = 3;
        init.cpuid.nent = 1;
        let entry = KvmCpuidEntry2 {
            function: 0x8000_0008,
            eax: 48 << 16,
            ..KvmCpuidEntry2::default()
        };
        let data = [init.as_bytes(), entry.as_bytes()].concat();
        let at = self.command(TdxCmdId::KVM_TDX_INIT_VM, 0, self.process.map_copy(&data));
        self.on(0).ioctl(self.vm, KVM_MEMORY_ENCRYPT_OP, at)?;
        Ok(())
    }

    fn add_slot(&mut self) -> Result<()> {
        let file = KvmCreateGuestMemfd {
            size: SLOT_BYTES,
            ..KvmCreateGuestMemfd::default()
        };
        let boot = self.on(0);
        let gmem = boot.with(self.vm, KVM_CREATE_GUEST_MEMFD, &file)? as i32;
        boot.ioctl(
            self.vm,
            KVM_SET_USER_MEMORY_REGION2,
            self.slot_arg(gmem, SLOT_BYTES),
        )?;
        let private = self.attributes_arg(KVM_MEMORY_ATTRIBUTE_PRIVATE);
        boot.ioctl(self.vm, KVM_SET_MEMORY_ATTRIBUTES, private)?;
        self.gmem = gmem;
        Ok(())
    }

    fn add_vcpu(&mut self, id: u32, init: bool) -> Result<()> {
        let boot = self.on(id);
        let fd = boot.ioctl(self.vm, KVM_CREATE_VCPU, u64::from(id))? as i32;
        let header = KvmCpuid2 {
            nent: 1,
            padding: 0,
        };
        // INIT_VCPU wants x2APIC.
        let entry = KvmCpuidEntry2 {
            function: 1,
            ecx: 1 << 21,
            ..KvmCpuidEntry2::default()
        };
        let bytes = [header.as_bytes(), entry.as_bytes()].concat();
        boot.ioctl(fd, KVM_SET_CPUID2, self.process.map_copy(&bytes))?;
        if init {
            let at = self.command(TdxCmdId::KVM_TDX_INIT_VCPU, 0, 0);
            boot.ioctl(fd, KVM_MEMORY_ENCRYPT_OP, at)?;
        }
        self.vcpus.push(fd);
        Ok(())
    }

    /// User memory with a `struct kvm_tdx_cmd`.
    pub fn command(&self, id: TdxCmdId, flags: u32, data: u64) -> u64 {
        let cmd = KvmTdxCmd {
            id: id.0,
            flags,
            data,
            hw_error: 0,
        };
        self.process.map_copy(cmd.as_bytes())
    }

    /// KVM_TDX_INIT_MEM_REGION of the page at [`PAGE`], measured, on vCPU 0: descriptor and argument.
    pub fn mem_region(&self) -> (i32, u64) {
        let region = KvmTdxInitMemRegion {
            source_addr: self.process.map(4096),
            gpa: PAGE,
            nr_pages: 1,
        };
        let at = self.process.map_copy(region.as_bytes());
        let cmd = self.command(
            TdxCmdId::KVM_TDX_INIT_MEM_REGION,
            KVM_TDX_MEASURE_MEMORY_REGION,
            at,
        );
        (self.vcpus[0], cmd)
    }

    /// User memory with room for all of KVM_TDX_GET_CPUID.
    pub fn cpuid_buffer(&self) -> u64 {
        let header = KvmCpuid2 {
            nent: CPUID_ROOM,
            padding: 0,
        };
        let bytes = u64::from(CPUID_ROOM) * size_of::<KvmCpuidEntry2>() as u64;
        let at = self.process.map(size_of::<KvmCpuid2>() as u64 + bytes);
        // Just mapped.
        let _ = seamlock_kvm::task::UserMemory::write(&self.process, at, header.as_bytes());
        at
    }

    /// The number of entries that a GET_CPUID buffer holds.
    pub fn cpuid_entries(&self, buffer: u64) -> u64 {
        let bytes = self.process.read_vec(buffer, 4).unwrap_or_default();
        bytes
            .iter()
            .rev()
            .fold(0, |n, byte| n << 8 | u64::from(*byte))
    }

    /// User memory with slot 0 of `size` bytes; 0 deletes it.
    pub fn slot_arg(&self, gmem: i32, size: u64) -> u64 {
        let region = KvmUserspaceMemoryRegion2 {
            slot: 0,
            flags: KVM_MEM_GUEST_MEMFD,
            memory_size: size,
            userspace_addr: 0x1000_0000,
            guest_memfd: gmem as u32,
            ..KvmUserspaceMemoryRegion2::default()
        };
        self.process.map_copy(region.as_bytes())
    }

    /// User memory with the attributes of all of slot 0.
    pub fn attributes_arg(&self, attributes: u64) -> u64 {
        let attributes = KvmMemoryAttributes {
            address: 0,
            size: SLOT_BYTES,
            attributes,
            flags: 0,
        };
        self.process.map_copy(attributes.as_bytes())
    }

    /// Closes every descriptor, the TD's own last.
    pub fn close_all(&self) {
        let control = Control::on(0);
        let mut fds = self.process.open_fds();
        fds.sort_by_key(|fd| (*fd == self.vm, *fd));
        for fd in fds {
            let _ = close(&self.process.task(&control), fd);
        }
    }
}

/// A thread of the set-up.
struct Boot<'a> {
    process: &'a Process,
    control: Control,
}

impl Boot<'_> {
    fn ioctl(&self, fd: i32, request: u32, arg: u64) -> Result<i64> {
        ioctl_fd(&self.process.task(&self.control), fd, request, arg)
    }

    fn with<T: IntoBytes + Immutable>(&self, fd: i32, request: u32, value: &T) -> Result<i64> {
        self.ioctl(fd, request, self.process.map_copy(value.as_bytes()))
    }
}
