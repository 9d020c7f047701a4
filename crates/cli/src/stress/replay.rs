//! The calls that succeeded, made again by one thread: what MRTD must be.

use std::sync::Arc;

use anyhow::{Context, anyhow};
use seamlock_kvm::task::Files;
use seamlock_kvm::{Control, Discipline, File, Host, Options, Process, fallocate};
use seamlock_tdx_abi::regs::Regs;
use seamlock_tdx_abi::{FieldId, Leaf, PAGE_SIZE, TdxStatus};

use super::client::{Client, MM, gpa_bits, opened, source_pages, vm_of};
use super::world::{Open, Shape, WINDOW_PAGES, WINDOWS, gpa_of, platform};
use seamlock_kvm::gmem::{FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE};
use seamlock_tdx_abi::kvm::*;

/// MRTD.
pub type Mrtd = [u64; 6];

/// One page that INIT_MEM_REGION says it has added.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Page {
    /// When, among all pages of the machine.
    pub stamp: u64,
    /// Which guest page.
    pub page: u64,
    /// From which source page.
    pub source: u64,
    /// Whether it was measured.
    pub measured: bool,
}

/// What went into a TD, as user space knows it from the calls that succeeded.
#[derive(Clone, Debug, Default)]
pub struct Journal {
    /// The argument of INIT_VM.
    pub init: Vec<u8>,
    /// The pages, in any order.
    pub pages: Vec<Page>,
    /// A page came from memory that other calls write to, so that MRTD can't be told.
    pub unknown: bool,
}

/// A machine of its own for replays.
#[derive(Debug)]
pub struct Replayer {
    host: Arc<Host>,
    sources: Arc<[u8]>,
}

impl Replayer {
    /// Boots it, with the locking of the run; one thread meets nobody.
    pub fn boot(shape: Shape, discipline: &'static Discipline) -> anyhow::Result<Replayer> {
        let options = Options {
            discipline,
            lockdep: None,
            ..Options::default()
        };
        Ok(Replayer {
            host: Host::boot_with(platform(shape), options)?,
            sources: source_pages(),
        })
    }

    /// Builds the TD again and finalizes it.
    ///
    /// # Errors
    /// When a call fails that succeeded before.
    pub fn mrtd(&self, journal: &Journal) -> anyhow::Result<Mrtd> {
        let files = Process::new(MM);
        let control = Control::on(0);
        let client = Client::new(&files, &control, &self.sources);
        let file = File::open_kvm(&self.host);
        let fd = files.install(&file).map_err(|e| anyhow!("{e}"))?;
        let built = self.build(&client, &Open { fd, file }, journal);
        for fd in files.open_fds() {
            let _ = seamlock_kvm::close(&client.task(MM), fd);
        }
        built
    }

    fn build(&self, client: &Client, kvm: &Open, journal: &Journal) -> anyhow::Result<Mrtd> {
        let (_, vm) = client.create_vm(&kvm.file, KVM_X86_TDX_VM)?;
        client
            .ioctl(&vm, KVM_MEMORY_ENCRYPT_OP, client.init_vm(&journal.init))
            .context("INIT_VM")?;
        let vcpu = client.ioctl(&vm, KVM_CREATE_VCPU, 0)?;
        let vcpu = opened(client.files, vcpu).context("a vCPU")?;
        let bits = vm_of(&vm).map_or(48, |kvm| gpa_bits(kvm));
        client.set_cpuid(&vcpu, true, bits)?;
        client.tdx(&vcpu, TdxCmdId::KVM_TDX_INIT_VCPU, 0, 0)?;
        let window = WINDOW_PAGES * PAGE_SIZE;
        let (gmem, _) = client.gmem(&vm, WINDOWS * window)?;
        for w in 0..WINDOWS {
            let slot = slot(w, gmem, w);
            client.with(&vm, KVM_SET_USER_MEMORY_REGION2, &slot)?;
            client.attributes(&vm, gpa_of(w * WINDOW_PAGES).0, window, true)?;
        }
        load(client, &vcpu, gmem, &journal.pages)?;
        client.tdx(&vm, TdxCmdId::KVM_TDX_FINALIZE_VM, 0, 0)?;
        mrtd(&self.host, &vm)
    }
}

/// Adds the pages in the order of their stamps. One that was added before has been removed since, which
/// no measurement tells of; a hole does the same here.
fn load(client: &Client, vcpu: &Arc<File>, gmem: i32, pages: &[Page]) -> anyhow::Result<()> {
    let mut pages = pages.to_vec();
    pages.sort_unstable();
    let mut there = [false; (WINDOWS * WINDOW_PAGES) as usize];
    for page in pages {
        let seen = std::mem::replace(&mut there[page.page as usize], true);
        if seen {
            let mode = FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE;
            let at = page.page * PAGE_SIZE;
            fallocate(&client.task(MM), gmem, mode, at, PAGE_SIZE)?;
        }
        let region = client.load(gpa_of(page.page), page.source, 1, page.measured);
        client
            .ioctl(vcpu, KVM_MEMORY_ENCRYPT_OP, region)
            .with_context(|| format!("page {} again", page.page))?;
    }
    Ok(())
}

/// A memslot over a window, backed by a window of a guest_memfd.
pub fn slot(window: u64, gmem: i32, gmem_window: u64) -> KvmUserspaceMemoryRegion2 {
    KvmUserspaceMemoryRegion2 {
        slot: window as u32,
        flags: KVM_MEM_GUEST_MEMFD,
        guest_phys_addr: gpa_of(window * WINDOW_PAGES).0,
        memory_size: WINDOW_PAGES * PAGE_SIZE,
        userspace_addr: 0x1000_0000 + window * (1 << 24),
        guest_memfd: gmem as u32,
        guest_memfd_offset: gmem_window * WINDOW_PAGES * PAGE_SIZE,
        ..KvmUserspaceMemoryRegion2::default()
    }
}

/// MRTD of a finalized TD, as the module tells the host. Nobody else may be at the TD.
///
/// # Errors
/// When there is no such TD.
pub fn mrtd(host: &Host, vm: &File) -> anyhow::Result<Mrtd> {
    let tdr = vm_of(vm).and_then(|kvm| kvm.tdx().tdr()).context("a TD")?;
    let mut words = Mrtd::default();
    for (i, word) in words.iter_mut().enumerate() {
        let mut regs = Regs {
            rcx: tdr.0,
            rdx: FieldId::TDCS_MRTD.0 + i as u64,
            ..Regs::call(Leaf::MNG_RD)
        };
        let _ = host.module().seamcall(0, &mut regs);
        let status = regs.status();
        anyhow::ensure!(status == TdxStatus::SUCCESS, "TDH.MNG.RD(MRTD): {status}");
        *word = regs.r8;
    }
    Ok(words)
}
