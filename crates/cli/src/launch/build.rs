//! The launch itself, step by step, as a VMM does it.

use std::cell::Cell;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use seamlock_kvm::{Control, Task, close};
use seamlock_tdvf::{Memslot, Region, SlotKind, Source};
use seamlock_tdx_abi::kvm::*;
use zerocopy::{FromZeros, IntoBytes};

use super::firmware::Firmware;
use super::guest::{Ended, Guest, vcpu_of};
use super::launched::{Launched, mrtd, tdr};
use super::record::{self, Record};
use super::vcpu::VcpuThread;
use super::vmm::Machine;
use super::{Request, cpuid};
use crate::progress;

/// Offset of `immediate_exit` in `struct kvm_run`.
const IMMEDIATE_EXIT: usize = 1;
/// Pages of one KVM_TDX_INIT_MEM_REGION: enough to be no cost, few enough to show progress.
const PAGES_PER_CALL: u64 = 4096;

/// A TD under construction.
struct Td {
    vm: i32,
    vcpus: Vec<i32>,
    gmems: Vec<i32>,
}

/// Launches the firmware on a machine that has booted, and tears the TD down.
///
/// # Errors
/// The ioctl that was refused, with the kernel's check.
pub fn launch_on(
    machine: &Machine,
    firmware: &Firmware,
    request: Request,
) -> anyhow::Result<Launched> {
    let control = Control::on(0);
    let task = machine.process.task(&control);
    let before = machine.host.counters().by_leaf();
    let measured_part = Cell::new(Duration::ZERO);
    let record = Record::default();
    let ran = Cell::new(Ran::default());
    let mrtd = thread::scope(|scope| {
        let cpus = machine.host.cpus().len() as u32;
        let start = |i| VcpuThread::start(scope, machine, i % cpus);
        let threads: Vec<_> = (0..request.vcpus).map(start).collect();
        let flash = machine.map_image(&firmware.image);
        let (measured_part, record, ran) = (&measured_part, &record, &ran);
        let done = Builder {
            machine,
            firmware,
            task: &task,
            threads: &threads,
            request,
            flash,
            measured_part,
            record,
            ran,
        }
        .run();
        machine.process.unmap(flash);
        done
    })?;
    let after = machine.host.counters().by_leaf();
    let launched = Launched::new(&machine.journal, request, mrtd, &before, &after)?;
    let Ran { ended, rtmrs } = ran.into_inner();
    Ok(Launched {
        ended,
        rtmrs,
        measured_part: measured_part.get(),
        recorded: record.into_inner(),
        ..launched
    })
}

struct Builder<'a, 's, 'm> {
    machine: &'m Machine,
    firmware: &'m Firmware,
    task: &'a Task<'a>,
    threads: &'a [VcpuThread<'s, 'm>],
    request: Request,
    /// Where the VMM has mapped the image.
    flash: u64,
    measured_part: &'a Cell<Duration>,
    record: &'a Record,
    ran: &'a Cell<Ran>,
}

/// What became of a guest.
#[derive(Default)]
struct Ran {
    ended: Vec<Ended>,
    rtmrs: Vec<String>,
}

impl<'s, 'm: 's> Builder<'_, 's, 'm> {
    fn run(&self) -> anyhow::Result<String> {
        let mut td = Td {
            vm: self.create_vm()?,
            vcpus: Vec::new(),
            gmems: Vec::new(),
        };
        // Whatever was made is taken down again, also when a step is refused.
        let built = self.build(&mut td);
        self.destroy(&td)?;
        built
    }

    fn build(&self, td: &mut Td) -> anyhow::Result<String> {
        let cpuid = self.init_vm(td.vm)?;
        for index in 0..self.threads.len() {
            let fd = self.create_vcpu(td.vm, index, &cpuid)?;
            td.vcpus.push(fd);
        }
        for slot in self.firmware.plan.memory.memslots() {
            let gmem = self.add_slot(td.vm, &slot)?;
            td.gmems.push(gmem);
        }
        let hob = self.firmware.plan.td_hob.as_ref().map_or(0, |hob| hob.gpa);
        self.record.borrow_mut().rcx = (0..self.request.vcpus).map(|id| (id, hob)).collect();
        for (thread, &fd) in self.threads.iter().zip(&td.vcpus) {
            let machine = self.machine;
            thread.run(move |task| machine.tdx(task, fd, TdxCmdId::KVM_TDX_INIT_VCPU, 0, hob))?;
        }
        let start = Instant::now();
        self.load_regions(td.vcpus[0])?;
        self.machine
            .tdx(self.task, td.vm, TdxCmdId::KVM_TDX_FINALIZE_VM, 0, 0)?;
        self.measured_part.set(start.elapsed());
        self.enter_once(td)?;
        if !self.machine.scripted.is_empty() {
            self.run_guest(td)?;
        }
        mrtd(self.machine)
    }

    fn create_vm(&self) -> anyhow::Result<i32> {
        let (m, task) = (self.machine, self.task);
        let version = m.ioctl(task, m.kvm, KVM_GET_API_VERSION, 0)?;
        if version != 12 {
            bail!("KVM_GET_API_VERSION is {version}, not 12");
        }
        let types = m.ioctl(
            task,
            m.kvm,
            KVM_CHECK_EXTENSION,
            u64::from(KVM_CAP_VM_TYPES),
        )?;
        if types >> KVM_X86_TDX_VM & 1 == 0 {
            bail!("KVM offers no VM of type TDX");
        }
        let vm = m.ioctl(task, m.kvm, KVM_CREATE_VM, KVM_X86_TDX_VM)? as i32;
        let hypercalls = 1u64 << KVM_HC_MAP_GPA_RANGE;
        m.enable_cap(task, vm, KVM_CAP_EXIT_HYPERCALL, hypercalls)?;
        m.enable_cap(task, vm, KVM_CAP_SPLIT_IRQCHIP, 24)?;
        Ok(vm)
    }

    /// KVM_TDX_INIT_VM with everything that KVM offers, and the CPUID that the vCPUs will get.
    fn init_vm(&self, vm: i32) -> anyhow::Result<Vec<KvmCpuidEntry2>> {
        let (m, task) = (self.machine, self.task);
        let capabilities = size_of::<KvmTdxCapabilities>() - size_of::<KvmCpuid2>();
        let (head, configurable) = m.cpuid_at(capabilities, |at| {
            m.tdx(task, vm, TdxCmdId::KVM_TDX_CAPABILITIES, 0, at)
        })?;
        let word = |at: usize| {
            head.get(at..at + 8)
                .and_then(|b| b.try_into().ok())
                .map_or(0, u64::from_le_bytes)
        };
        let (attributes, xfam) = (word(0), word(8));
        let (_, supported) =
            m.cpuid_at(0, |at| m.ioctl(task, m.kvm, KVM_GET_SUPPORTED_CPUID, at))?;
        let mut init = KvmTdxInitVm::new_zeroed();
        // Without SEPT_VE_DISABLE a guest could be made to take #VE anywhere.
        init.attributes = attributes & 1 << 28;
        init.xfam = xfam;
        let entries: Vec<_> = configurable
            .iter()
            .map(|entry| cpuid::configure(entry, &supported))
            .collect();
        let fixed = size_of::<KvmTdxInitVm>() - size_of::<KvmCpuid2>();
        let at = m.map_cpuid(&init.as_bytes()[..fixed], &entries);
        m.tdx(task, vm, TdxCmdId::KVM_TDX_INIT_VM, 0, at)?;
        m.process.unmap(at);
        init.cpuid.nent = entries.len() as u32;
        record::parameters(self.record, &init, &entries);
        Ok(supported)
    }

    fn create_vcpu(
        &self,
        vm: i32,
        index: usize,
        supported: &[KvmCpuidEntry2],
    ) -> anyhow::Result<i32> {
        let m = self.machine;
        let cpuid = cpuid::of_vcpu(supported, index as u32);
        let fd = self.threads[index].run(move |task| {
            let fd = m.ioctl(task, vm, KVM_CREATE_VCPU, index as u64)?;
            let id = TdxCmdId::KVM_TDX_GET_CPUID;
            m.cpuid_at(0, |at| m.tdx(task, fd as i32, id, 0, at))?;
            let at = m.map_cpuid(&[], &cpuid);
            let done = m.ioctl(task, fd as i32, KVM_SET_CPUID2, at);
            m.process.unmap(at);
            done.map(|_| fd)
        })?;
        Ok(fd as i32)
    }

    /// A memslot on a guest_memfd of its own, private as a whole.
    fn add_slot(&self, vm: i32, slot: &Memslot) -> anyhow::Result<i32> {
        let (m, task) = (self.machine, self.task);
        let mut create = KvmCreateGuestMemfd {
            size: slot.size,
            ..KvmCreateGuestMemfd::default()
        };
        let gmem = m.ioctl_with(task, vm, KVM_CREATE_GUEST_MEMFD, &mut create)? as i32;
        let backing = match slot.kind {
            SlotKind::Firmware => self.flash,
            SlotKind::LowRam | SlotKind::HighRam => m.process.map(slot.size),
        };
        let mut region = KvmUserspaceMemoryRegion2 {
            slot: slot.slot,
            flags: KVM_MEM_GUEST_MEMFD,
            guest_phys_addr: slot.gpa,
            memory_size: slot.size,
            userspace_addr: backing,
            guest_memfd: gmem as u32,
            ..KvmUserspaceMemoryRegion2::default()
        };
        m.ioctl_with(task, vm, KVM_SET_USER_MEMORY_REGION2, &mut region)?;
        let mut attributes = KvmMemoryAttributes {
            address: slot.gpa,
            size: slot.size,
            attributes: KVM_MEMORY_ATTRIBUTE_PRIVATE,
            flags: 0,
        };
        m.ioctl_with(task, vm, KVM_SET_MEMORY_ATTRIBUTES, &mut attributes)?;
        Ok(gmem)
    }

    /// Everything through the first vCPU, but on the VMM's own thread, as QEMU does
    /// (`target/i386/kvm/tdx.c`, `tdx_finalize_vm`).
    fn load_regions(&self, vcpu: i32) -> anyhow::Result<()> {
        let plan = &self.firmware.plan;
        let bar = progress::count("measuring", plan.pages_added());
        for region in &plan.regions {
            self.load_region(vcpu, region, &bar)
                .with_context(|| format!("section {} ({})", region.section, region.kind))?;
            if self.request.record {
                let calls = self.machine.journal.take_calls();
                let region = record::region(plan, &self.firmware.image, region, &calls);
                self.record.borrow_mut().regions.push(region);
            }
        }
        bar.finish_and_clear();
        Ok(())
    }

    fn load_region(
        &self,
        vcpu: i32,
        region: &Region,
        bar: &indicatif::ProgressBar,
    ) -> anyhow::Result<()> {
        let m = self.machine;
        let source = self.map_source(region);
        let mut done = 0;
        while done < region.pages {
            let pages = PAGES_PER_CALL.min(region.pages - done);
            let mut call = KvmTdxInitMemRegion {
                source_addr: source + done * 4096,
                gpa: region.gpa + done * 4096,
                nr_pages: pages,
            };
            let flags = u32::from(region.measured) * KVM_TDX_MEASURE_MEMORY_REGION;
            let at = m.process.map_copy(call.as_mut_bytes());
            let id = TdxCmdId::KVM_TDX_INIT_MEM_REGION;
            let loaded = m.tdx(self.task, vcpu, id, flags, at);
            m.process.unmap(at);
            loaded?;
            done += pages;
            bar.inc(pages);
        }
        if self.in_flash(region).is_none() {
            m.process.unmap(source);
        }
        Ok(())
    }

    /// User memory that holds what the region is filled with.
    fn map_source(&self, region: &Region) -> u64 {
        let (plan, image) = (&self.firmware.plan, &self.firmware.image);
        match (self.in_flash(region), &region.source) {
            (Some(address), _) => address,
            (None, Source::Zeros) => self.machine.process.map(region.size()),
            (None, _) => self
                .machine
                .process
                .map_bytes(plan.contents(image, region).into()),
        }
    }

    /// Where the image itself has the region's pages, whole and aligned.
    fn in_flash(&self, region: &Region) -> Option<u64> {
        match &region.source {
            Source::File(range)
                if range.start.is_multiple_of(4096) && range.len() as u64 == region.size() =>
            {
                Some(self.flash + range.start as u64)
            }
            _ => None,
        }
    }

    /// KVM_RUN with `immediate_exit`, as a VMM does first: KVM completes its own side and comes back.
    fn enter_once(&self, td: &Td) -> anyhow::Result<()> {
        let m = self.machine;
        for (thread, &fd) in self.threads.iter().zip(&td.vcpus) {
            let vcpu = vcpu_of(m, fd)?;
            vcpu.vcpu().run_page().write(IMMEDIATE_EXIT, &[1]);
            thread.run(
                move |task| match seamlock_kvm::ioctl_fd(task, fd, KVM_RUN, 0) {
                    Err(error) if error.is(Errno::EINTR) => Ok(0),
                    Err(error) => Err(error.into()),
                    Ok(_) => bail!("KVM_RUN with immediate_exit set came back without EINTR"),
                },
            )?;
        }
        Ok(())
    }

    /// Runs the guest's script.
    fn run_guest(&self, td: &Td) -> anyhow::Result<()> {
        let slots = self.firmware.plan.memory.memslots().into_iter();
        let guest = Guest {
            machine: self.machine,
            vm: td.vm,
            vcpus: &td.vcpus,
            slots: slots.zip(td.gmems.iter().copied()).collect(),
        };
        let ended = guest.run(self.machine, self.threads, &self.machine.scripted)?;
        let info = self.machine.host.module().td_info(tdr(self.machine)?);
        let hex = |rtmr: &[u8]| rtmr.iter().map(|byte| format!("{byte:02x}")).collect();
        let rtmrs = info
            .iter()
            .flat_map(|info| &info.rtmr)
            .map(|rtmr| hex(rtmr));
        let rtmrs = rtmrs.collect();
        self.ran.set(Ran { ended, rtmrs });
        Ok(())
    }

    fn destroy(&self, td: &Td) -> anyhow::Result<()> {
        for &fd in td.vcpus.iter().chain(&td.gmems).chain([&td.vm]) {
            close(self.task, fd).context("closing a descriptor")?;
        }
        Ok(())
    }
}
