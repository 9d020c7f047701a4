//! A small VMM for tests: raw request numbers and user memory, nothing else.

#![allow(dead_code)]

use std::sync::Arc;

use seamlock_kvm::error::Error;
use seamlock_kvm::{Control, File, Host, Options, Process, close, ioctl_fd};
use seamlock_tdx_abi::kvm::*;
use seamlock_tdx_module::Platform;
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// Bytes of guest memory that a [`Vmm`] backs by default.
pub const MEMORY: u64 = 16 << 20;

/// A machine, a process on it, and a thread of that process.
pub struct Vmm {
    pub host: Arc<Host>,
    pub process: Process,
    pub control: Control,
    pub kvm: i32,
    pub breaches_expected: bool,
}

/// A TD as far as it was built.
#[derive(Clone, Debug, Default)]
pub struct Td {
    pub vm: i32,
    pub vcpus: Vec<i32>,
    pub gmem: i32,
}

pub fn platform() -> Platform {
    Platform::sapphire_rapids(4 << 30, 4)
}

pub fn boot() -> Vmm {
    boot_with(Options::default())
}

pub fn boot_with(options: Options) -> Vmm {
    let host = Host::boot_with(platform(), options).expect("the module comes up");
    Vmm::on(host, Process::new(1))
}

pub type Reply = Result<i64, Errno>;

/// No test of the default discipline breaks a rule of lockdep, unless that is what it is about.
impl Drop for Vmm {
    fn drop(&mut self) {
        let lockdep = self
            .host
            .lockdep()
            .filter(|_| self.host.discipline().name == "v7.3");
        if std::thread::panicking() || self.breaches_expected {
            return;
        }
        let breaches = lockdep
            .map(|lockdep| lockdep.breaches())
            .unwrap_or_default();
        let text: String = breaches.iter().map(ToString::to_string).collect();
        assert!(breaches.is_empty(), "{text}");
    }
}

impl Vmm {
    pub fn on(host: Arc<Host>, process: Process) -> Vmm {
        use seamlock_kvm::task::Files;
        let kvm = process
            .install(&File::open_kvm(&host))
            .expect("a free descriptor");
        Vmm {
            host,
            process,
            control: Control::on(0),
            kvm,
            breaches_expected: false,
        }
    }

    /// `ioctl(2)`, with the full error.
    pub fn try_ioctl(&self, fd: i32, request: u32, arg: u64) -> Result<i64, Error> {
        ioctl_fd(&self.process.task(&self.control), fd, request, arg)
    }

    /// `ioctl(2)`.
    pub fn ioctl(&self, fd: i32, request: u32, arg: u64) -> Reply {
        self.try_ioctl(fd, request, arg)
            .map_err(|error| error.errno)
    }

    /// `ioctl(2)` whose argument is a structure in user memory; it is read back.
    pub fn ioctl_with<T: IntoBytes + FromBytes + Immutable>(
        &self,
        fd: i32,
        request: u32,
        value: &mut T,
    ) -> Reply {
        let at = self.process.map_copy(value.as_bytes());
        let reply = self.ioctl(fd, request, at);
        let back = self
            .process
            .read_vec(at, size_of::<T>())
            .expect("mapped above");
        *value = T::read_from_bytes(&back).expect("as long as it was");
        self.process.unmap(at);
        reply
    }

    /// KVM_MEMORY_ENCRYPT_OP; the command is read back.
    pub fn tdx(&self, fd: i32, id: TdxCmdId, flags: u32, data: u64) -> (Reply, KvmTdxCmd) {
        let mut cmd = KvmTdxCmd {
            id: id.0,
            flags,
            data,
            hw_error: 0,
        };
        let reply = self.ioctl_with(fd, KVM_MEMORY_ENCRYPT_OP, &mut cmd);
        (reply, cmd)
    }

    pub fn enable_cap(&self, fd: i32, cap: u32, arg: u64) -> Reply {
        let mut cap = KvmEnableCap {
            cap,
            flags: 0,
            args: [arg, 0, 0, 0],
            pad: [0; 64],
        };
        self.ioctl_with(fd, KVM_ENABLE_CAP, &mut cap)
    }

    /// Writes user memory that is mapped.
    pub fn process_write(&self, at: u64, bytes: &[u8]) {
        use seamlock_kvm::task::UserMemory;
        self.process.write(at, bytes).expect("mapped and writable");
    }

    pub fn close(&self, fd: i32) {
        close(&self.process.task(&self.control), fd).expect("the descriptor is open");
    }

    /// A VM of type TDX with a split irqchip.
    pub fn create_td(&self) -> Td {
        let vm = self
            .ioctl(self.kvm, KVM_CREATE_VM, KVM_X86_TDX_VM)
            .expect("a VM") as i32;
        self.enable_cap(vm, KVM_CAP_SPLIT_IRQCHIP, 24)
            .expect("a split irqchip");
        Td {
            vm,
            ..Td::default()
        }
    }

    /// User memory with a valid `kvm_tdx_init_vm` of one CPUID entry.
    pub fn init_vm_data(&self, edit: impl FnOnce(&mut KvmTdxInitVm, &mut KvmCpuidEntry2)) -> u64 {
        let mut data = KvmTdxInitVmOneLeaf::smallest();
        edit(&mut data.init, &mut data.entry);
        self.process.map_copy(data.as_bytes())
    }

    pub fn init_vm(&self, td: &Td) -> Reply {
        let data = self.init_vm_data(|_, _| {});
        self.tdx(td.vm, TdxCmdId::KVM_TDX_INIT_VM, 0, data).0
    }

    pub fn create_vcpu(&self, td: &mut Td, id: u64) -> Reply {
        let fd = self.ioctl(td.vm, KVM_CREATE_VCPU, id)?;
        td.vcpus.push(fd as i32);
        Ok(fd)
    }

    /// CPUID with x2APIC, which KVM_TDX_INIT_VCPU needs.
    pub fn set_cpuid(&self, vcpu: i32) -> Reply {
        let header = KvmCpuid2 {
            nent: 1,
            padding: 0,
        };
        let entry = KvmCpuidEntry2 {
            function: 1,
            ecx: 1 << 21,
            ..KvmCpuidEntry2::default()
        };
        let mut bytes = header.as_bytes().to_vec();
        bytes.extend_from_slice(entry.as_bytes());
        let at = self.process.map_copy(&bytes);
        self.ioctl(vcpu, KVM_SET_CPUID2, at)
    }

    pub fn init_vcpu(&self, vcpu: i32) -> Reply {
        self.tdx(vcpu, TdxCmdId::KVM_TDX_INIT_VCPU, 0, 0x1234).0
    }

    pub fn gmem(&self, vm: i32, size: u64) -> Reply {
        let mut args = KvmCreateGuestMemfd {
            size,
            ..KvmCreateGuestMemfd::default()
        };
        self.ioctl_with(vm, KVM_CREATE_GUEST_MEMFD, &mut args)
    }

    /// Slot 0: [`MEMORY`] bytes from guest address 0, private.
    pub fn add_memory(&self, td: &mut Td) {
        td.gmem = self.gmem(td.vm, MEMORY).expect("a guest_memfd") as i32;
        self.slot(td, 0, 0, MEMORY).expect("a slot");
        self.attributes(td.vm, 0, MEMORY, KVM_MEMORY_ATTRIBUTE_PRIVATE)
            .expect("private");
    }

    pub fn slot(&self, td: &Td, slot: u32, gpa: u64, size: u64) -> Reply {
        let mut region = KvmUserspaceMemoryRegion2 {
            slot,
            flags: KVM_MEM_GUEST_MEMFD,
            guest_phys_addr: gpa,
            memory_size: size,
            userspace_addr: 0x1000_0000,
            guest_memfd: td.gmem as u32,
            ..KvmUserspaceMemoryRegion2::default()
        };
        self.ioctl_with(td.vm, KVM_SET_USER_MEMORY_REGION2, &mut region)
    }

    pub fn attributes(&self, vm: i32, address: u64, size: u64, attributes: u64) -> Reply {
        let mut attrs = KvmMemoryAttributes {
            address,
            size,
            attributes,
            flags: 0,
        };
        self.ioctl_with(vm, KVM_SET_MEMORY_ATTRIBUTES, &mut attrs)
    }

    /// KVM_TDX_INIT_MEM_REGION; the region is read back.
    pub fn load(&self, vcpu: i32, region: &mut KvmTdxInitMemRegion, measure: bool) -> Reply {
        let at = self.process.map_copy(region.as_bytes());
        let (reply, _) = self.tdx(
            vcpu,
            TdxCmdId::KVM_TDX_INIT_MEM_REGION,
            u32::from(measure),
            at,
        );
        let back = self.process.read_vec(at, 24).expect("mapped above");
        *region = KvmTdxInitMemRegion::read_from_bytes(&back).expect("24 bytes");
        self.process.unmap(at);
        reply
    }

    pub fn finalize(&self, td: &Td) -> Reply {
        self.tdx(td.vm, TdxCmdId::KVM_TDX_FINALIZE_VM, 0, 0).0
    }

    /// A TD with memory and `vcpus` initialised vCPUs, ready for INIT_MEM_REGION.
    pub fn build(&self, vcpus: u64) -> Td {
        let mut td = self.create_td();
        self.init_vm(&td).expect("INIT_VM");
        self.add_memory(&mut td);
        for id in 0..vcpus {
            let fd = self.create_vcpu(&mut td, id).expect("a vCPU") as i32;
            self.set_cpuid(fd).expect("CPUID");
            self.init_vcpu(fd).expect("INIT_VCPU");
        }
        td
    }

    /// Closes all of a TD's descriptors.
    pub fn drop_td(&self, td: &Td) {
        for fd in td
            .vcpus
            .iter()
            .chain([&td.gmem, &td.vm])
            .filter(|fd| **fd != 0)
        {
            self.close(*fd);
        }
    }
}
