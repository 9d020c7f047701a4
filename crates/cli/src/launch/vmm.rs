//! A VMM's side of KVM: raw request numbers, structures in user memory, descriptors.

use std::collections::BTreeSet;
use std::sync::{Arc, OnceLock};

use anyhow::{Context, anyhow};
use seamlock_kvm::host::CachedFile;
use seamlock_kvm::lockdep::Lockdep;
use seamlock_kvm::task::{Files, UserMemory};
use seamlock_kvm::{File, Host, Options, Process, Task, ioctl_fd};
use seamlock_tdx_abi::kvm::*;
use seamlock_tdx_module::Platform;
use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::Request;
use super::guest::Steps;
use super::journal::Journal;

/// Memory of the machine beside the guest's: the module, PAMTs, control pages.
const MACHINE_OVERHEAD: u64 = 4 << 30;
/// CPUs of the machine, if the guest does not need more.
const MIN_CPUS: u32 = 8;
/// The number of the VMM's address space.
const VMM_MM: u64 = 1;
/// CPUID entries that we make room for.
const CPUID_ROOM: u32 = 256;

/// A machine with a kernel, and a VMM's process on it.
#[derive(Debug)]
pub struct Machine {
    /// The machine's kernel.
    pub host: Arc<Host>,
    /// The VMM.
    pub process: Process,
    /// What happened.
    pub journal: Arc<Journal>,
    /// The VMM's descriptor of `/dev/kvm`.
    pub kvm: i32,
    /// The vCPUs that do something, as a script says.
    pub scripted: BTreeSet<u32>,
    /// The first image that was mapped, and the file that it is.
    image: OnceLock<Image>,
}

/// A firmware image, and the file that it is in the machine's page cache if there is room.
#[derive(Debug)]
struct Image {
    bytes: Arc<[u8]>,
    file: Option<Arc<CachedFile>>,
}

impl Machine {
    /// Boots a machine large enough for the guest.
    ///
    /// # Errors
    /// When the TDX module does not come up.
    pub fn boot(request: &Request) -> anyhow::Result<Machine> {
        Machine::boot_with(request, None)
    }

    /// As [`boot`](Machine::boot), with a guest that does what a script says.
    ///
    /// # Errors
    /// When the TDX module does not come up.
    pub fn boot_with(request: &Request, script: Option<Steps>) -> anyhow::Result<Machine> {
        let journal = Arc::new(Journal::new(request.record));
        let cpus = request.vcpus.max(MIN_CPUS);
        let platform = Platform::sapphire_rapids(request.memory + MACHINE_OVERHEAD, cpus);
        let scripted = script.as_ref().map(Steps::vcpus).unwrap_or_default();
        let mut options = Options {
            discipline: request.discipline,
            observer: Some(journal.clone()),
            lockdep: request
                .lockdep
                .then(Lockdep::new)
                .or_else(Lockdep::of_build),
            ..Options::default()
        };
        if let Some(script) = script {
            options.guest = Arc::new(script.guest(&journal));
        }
        let host = Host::boot_with(platform, options).context("booting the machine")?;
        let process = Process::new(VMM_MM);
        let kvm = process
            .install(&File::open_kvm(&host))
            .map_err(|errno| anyhow!("opening /dev/kvm: {errno}"))?;
        Ok(Machine {
            host,
            process,
            journal,
            kvm,
            scripted,
            image: OnceLock::new(),
        })
    }

    /// Maps a firmware image, which is in the page cache from the first time on.
    pub fn map_image(&self, image: &Arc<[u8]>) -> u64 {
        let cached = self.image.get_or_init(|| Image {
            bytes: image.clone(),
            file: CachedFile::load(&self.host, image).map(Arc::new),
        });
        match &cached.file {
            Some(file) if Arc::ptr_eq(&cached.bytes, image) => self.process.map_file(file.clone()),
            _ => self.process.map_bytes(image.clone()),
        }
    }

    /// `ioctl(2)` with a plain argument.
    ///
    /// # Errors
    /// What was refused, and which check of the kernel refused it.
    pub fn ioctl(&self, task: &Task, fd: i32, request: u32, arg: u64) -> anyhow::Result<i64> {
        ioctl_fd(task, fd, request, arg).map_err(|error| {
            let name = ioctl_info(request).map_or("ioctl", |info| info.name);
            anyhow!("{name}: {error}")
        })
    }

    /// `ioctl(2)` whose argument is a structure, which is read back.
    ///
    /// # Errors
    /// As [`ioctl`](Machine::ioctl).
    pub fn ioctl_with<T: IntoBytes + FromBytes + Immutable>(
        &self,
        task: &Task,
        fd: i32,
        request: u32,
        value: &mut T,
    ) -> anyhow::Result<i64> {
        let at = self.process.map_copy(value.as_bytes());
        let done = self.ioctl(task, fd, request, at);
        self.process
            .read(at, value.as_mut_bytes())
            .map_err(|_| anyhow!("our own memory"))?;
        self.process.unmap(at);
        done
    }

    /// KVM_MEMORY_ENCRYPT_OP with a TDX command.
    ///
    /// # Errors
    /// As [`ioctl`](Machine::ioctl), and the TDX status where the command gives one.
    pub fn tdx(
        &self,
        task: &Task,
        fd: i32,
        id: TdxCmdId,
        flags: u32,
        data: u64,
    ) -> anyhow::Result<i64> {
        let mut cmd = KvmTdxCmd {
            id: id.0,
            flags,
            data,
            hw_error: 0,
        };
        let done = self.ioctl_with(task, fd, KVM_MEMORY_ENCRYPT_OP, &mut cmd);
        done.with_context(|| match cmd.hw_error {
            0 => id.to_string(),
            status => format!("{id} ({})", seamlock_tdx_abi::TdxStatus(status)),
        })
    }

    /// KVM_ENABLE_CAP.
    ///
    /// # Errors
    /// As [`ioctl`](Machine::ioctl).
    pub fn enable_cap(&self, task: &Task, fd: i32, cap: u32, arg: u64) -> anyhow::Result<i64> {
        let mut cap = KvmEnableCap {
            cap,
            flags: 0,
            args: [arg, 0, 0, 0],
            pad: [0; 64],
        };
        self.ioctl_with(task, fd, KVM_ENABLE_CAP, &mut cap)
    }

    /// A request that fills a `kvm_cpuid2` at `at + offset`: gives it room and returns the entries.
    ///
    /// # Errors
    /// As [`ioctl`](Machine::ioctl).
    pub fn cpuid_at(
        &self,
        offset: usize,
        call: impl FnOnce(u64) -> anyhow::Result<i64>,
    ) -> anyhow::Result<(Vec<u8>, Vec<KvmCpuidEntry2>)> {
        let header = size_of::<KvmCpuid2>();
        let room = CPUID_ROOM as usize * size_of::<KvmCpuidEntry2>();
        let at = self.process.map((offset + header + room) as u64);
        let unmapped = |_| anyhow!("our own memory");
        self.process
            .write(at + offset as u64, &CPUID_ROOM.to_le_bytes())
            .map_err(unmapped)?;
        call(at)?;
        let bytes = self
            .process
            .read_vec(at, offset + header + room)
            .map_err(unmapped)?;
        self.process.unmap(at);
        let (head, list) = bytes.split_at(offset);
        let count = KvmCpuid2::read_from_prefix(list).map_or(0, |(cpuid, _)| cpuid.nent) as usize;
        let entries = list[header..]
            .chunks_exact(size_of::<KvmCpuidEntry2>())
            .take(count);
        let entries = entries
            .filter_map(|e| KvmCpuidEntry2::read_from_bytes(e).ok())
            .collect();
        Ok((head.to_vec(), entries))
    }

    /// Maps a `kvm_cpuid2` of these entries behind `head`.
    pub fn map_cpuid(&self, head: &[u8], entries: &[KvmCpuidEntry2]) -> u64 {
        let header = KvmCpuid2 {
            nent: entries.len() as u32,
            padding: 0,
        };
        let mut bytes = head.to_vec();
        bytes.extend_from_slice(header.as_bytes());
        bytes.extend_from_slice(entries.as_bytes());
        self.process.map_copy(&bytes)
    }
}
