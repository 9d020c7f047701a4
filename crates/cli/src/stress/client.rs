//! A thread of the VMM under stress: raw request numbers and user memory.

use std::sync::Arc;

use seamlock_kvm::file::Kind;
use seamlock_kvm::task::{Files, UserMemory};
use seamlock_kvm::{Control, Error, File, Kvm, Process, Result, Task, ioctl};
use seamlock_tdx_abi::kvm::*;
use seamlock_tdx_abi::{Gpa, PAGE_SIZE};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes};

/// The address space that the VMs belong to, and one that they don't.
pub const MM: u64 = 1;
pub const OTHER_MM: u64 = 2;
/// Pages of contents that INIT_MEM_REGION may copy from, each different.
pub const SOURCES: u64 = 64;
/// Pages for arguments.
const ARGUMENT_PAGES: u64 = 16;
/// Bits of a physical address.
const MAXPHYADDR: u32 = 52;
/// Entries that KVM_TDX_GET_CPUID has room for.
pub const CPUID_ROOM: u32 = 256;

/// What a process can do to KVM's files. It makes the same calls in a run and in its replay.
#[derive(Debug)]
pub struct Client<'a> {
    /// The descriptors, which the threads share.
    pub files: &'a Process,
    /// The memory, which is the thread's own.
    pub memory: Process,
    /// The thread.
    pub control: &'a Control,
    args: u64,
    data: u64,
    sources: u64,
}

/// The contents of source page `n`.
fn source_page(n: u64) -> impl Iterator<Item = u8> {
    let mut rng = fastrand::Rng::with_seed(n);
    (0..PAGE_SIZE).map(move |_| rng.u8(..))
}

/// The source pages of every client.
pub fn source_pages() -> Arc<[u8]> {
    (0..SOURCES).flat_map(source_page).collect()
}

/// A file that was installed a moment ago.
pub fn opened(files: &Process, fd: i64) -> Option<Arc<File>> {
    files.file(i32::try_from(fd).ok()?)
}

/// The VM of a VM's file.
pub fn vm_of(file: &File) -> Option<&Arc<Kvm>> {
    match file.kind() {
        Kind::Vm(kvm) => Some(kvm),
        _ => None,
    }
}

/// The width of guest addresses that a TD has (GPAW), and its vCPUs' CPUID must have.
pub fn gpa_bits(kvm: &Kvm) -> u32 {
    if kvm.tdx().ept_levels() == 5 { 52 } else { 48 }
}

impl<'a> Client<'a> {
    /// A thread with memory of its own.
    pub fn new(files: &'a Process, control: &'a Control, sources: &Arc<[u8]>) -> Client<'a> {
        let memory = Process::new(MM);
        let args = memory.map(ARGUMENT_PAGES * PAGE_SIZE);
        let data = memory.map(ARGUMENT_PAGES * PAGE_SIZE);
        let sources = memory.map_bytes(sources.clone());
        Client {
            files,
            memory,
            control,
            args,
            data,
            sources,
        }
    }

    /// The thread in the kernel, on behalf of an address space.
    pub fn task(&self, mm: u64) -> Task<'_> {
        Task::new(self.control, mm, &self.memory, self.files)
    }

    /// A page of arguments, and one that it may point to.
    pub fn pages(&self) -> (u64, u64) {
        (self.args, self.data)
    }

    /// User address of a source page.
    pub fn source(&self, n: u64) -> u64 {
        self.sources + n * PAGE_SIZE
    }

    /// An ioctl on a file that may be closed meanwhile.
    pub fn ioctl(&self, file: &Arc<File>, request: u32, arg: u64) -> Result<i64> {
        self.ioctl_as(MM, file, request, arg)
    }

    /// As [`ioctl`](Client::ioctl), from this address space.
    pub fn ioctl_as(&self, mm: u64, file: &Arc<File>, request: u32, arg: u64) -> Result<i64> {
        if !file.get() {
            const SITE: &str = "fs/file.c fget";
            return Err(Error::new(Errno::EBADF, SITE, "the file was closed"));
        }
        let task = self.task(mm);
        let result = ioctl(&task, file, request, arg);
        file.put(&task);
        result
    }

    /// Bytes at the start of the argument page, or of the other one.
    fn store(&self, at: u64, bytes: &[u8]) -> u64 {
        // Mapped above; what is longer is the caller's fault, and cut.
        let room = (ARGUMENT_PAGES * PAGE_SIZE) as usize;
        let _ = self.memory.write(at, &bytes[..bytes.len().min(room)]);
        at
    }

    /// Bytes where `data` of a command may point.
    pub fn store_data(&self, bytes: &[u8]) -> u64 {
        self.store(self.data, bytes)
    }

    /// A structure as it lies at the other page now.
    pub fn data<T: FromBytes + IntoBytes>(&self) -> T {
        let mut value = T::new_zeroed();
        let _ = self.memory.read(self.data, value.as_mut_bytes());
        value
    }

    /// An ioctl whose argument is a structure.
    pub fn with<T: IntoBytes + Immutable + ?Sized>(
        &self,
        file: &Arc<File>,
        request: u32,
        value: &T,
    ) -> Result<i64> {
        let arg = self.store(self.args, value.as_bytes());
        self.ioctl(file, request, arg)
    }

    /// A command of KVM_MEMORY_ENCRYPT_OP, as it lies in memory.
    pub fn command(&self, id: TdxCmdId, flags: u32, data: u64) -> u64 {
        let cmd = KvmTdxCmd {
            id: id.0,
            flags,
            data,
            hw_error: 0,
        };
        self.store(self.args, cmd.as_bytes())
    }

    /// KVM_MEMORY_ENCRYPT_OP.
    pub fn tdx(&self, file: &Arc<File>, id: TdxCmdId, flags: u32, data: u64) -> Result<i64> {
        self.ioctl(file, KVM_MEMORY_ENCRYPT_OP, self.command(id, flags, data))
    }

    /// A VM of a type, with a split irqchip if it is a TD.
    pub fn create_vm(&self, kvm: &Arc<File>, vm_type: u64) -> Result<(i32, Arc<File>)> {
        let fd = self.ioctl(kvm, KVM_CREATE_VM, vm_type)?;
        let file = opened(self.files, fd).ok_or(CLOSED)?;
        let cap = KvmEnableCap {
            cap: KVM_CAP_SPLIT_IRQCHIP,
            args: [24, 0, 0, 0],
            ..KvmEnableCap::new_zeroed()
        };
        self.with(&file, KVM_ENABLE_CAP, &cap)?;
        Ok((fd as i32, file))
    }

    /// The command KVM_TDX_INIT_VM with these bytes.
    pub fn init_vm(&self, bytes: &[u8]) -> u64 {
        let data = self.store_data(bytes);
        self.command(TdxCmdId::KVM_TDX_INIT_VM, 0, data)
    }

    /// KVM_SET_CPUID2 with an x2APIC, or without, and so many bits of guest addresses.
    pub fn set_cpuid(&self, vcpu: &Arc<File>, x2apic: bool, gpa_bits: u32) -> Result<i64> {
        let entry = |function, eax, ecx| KvmCpuidEntry2 {
            function,
            eax,
            ecx,
            ..KvmCpuidEntry2::default()
        };
        let entries = [
            entry(1, 0, u32::from(x2apic) << 21),
            entry(0x8000_0000, 0x8000_0008, 0),
            entry(0x8000_0008, gpa_bits << 16 | MAXPHYADDR, 0),
        ];
        let header = KvmCpuid2 {
            nent: entries.len() as u32,
            padding: 0,
        };
        let mut bytes = header.as_bytes().to_vec();
        bytes.extend_from_slice(entries.as_bytes());
        self.with(vcpu, KVM_SET_CPUID2, &bytes[..])
    }

    /// The command KVM_TDX_INIT_MEM_REGION.
    pub fn load(&self, gpa: Gpa, source: u64, pages: u64, measure: bool) -> u64 {
        let region = KvmTdxInitMemRegion {
            source_addr: self.source(source),
            gpa: gpa.0,
            nr_pages: pages,
        };
        let data = self.store_data(region.as_bytes());
        let id = TdxCmdId::KVM_TDX_INIT_MEM_REGION;
        self.command(id, u32::from(measure), data)
    }

    /// KVM_TDX_GET_CPUID; the result, and how many entries there are.
    pub fn cpuid(&self, vcpu: &Arc<File>) -> (Result<i64>, u32) {
        let header = KvmCpuid2 {
            nent: CPUID_ROOM,
            padding: 0,
        };
        let data = self.store_data(header.as_bytes());
        let result = self.tdx(vcpu, TdxCmdId::KVM_TDX_GET_CPUID, 0, data);
        (result, self.data::<KvmCpuid2>().nent)
    }

    /// KVM_CREATE_GUEST_MEMFD.
    pub fn gmem(&self, vm: &Arc<File>, size: u64) -> Result<(i32, Arc<File>)> {
        let args = KvmCreateGuestMemfd {
            size,
            ..KvmCreateGuestMemfd::default()
        };
        let fd = self.with(vm, KVM_CREATE_GUEST_MEMFD, &args)?;
        Ok((fd as i32, opened(self.files, fd).ok_or(CLOSED)?))
    }

    /// KVM_SET_MEMORY_ATTRIBUTES.
    pub fn attributes(&self, vm: &Arc<File>, gpa: u64, size: u64, private: bool) -> Result<i64> {
        let attributes = KvmMemoryAttributes {
            address: gpa,
            size,
            attributes: u64::from(private) * KVM_MEMORY_ATTRIBUTE_PRIVATE,
            flags: 0,
        };
        self.with(vm, KVM_SET_MEMORY_ATTRIBUTES, &attributes)
    }
}

/// Another thread has closed what was just opened.
const CLOSED: Error = Error::new(
    Errno::EBADF,
    "seamlock stress",
    "closed by another thread at once",
);
