//! One thread and its calls.

use std::cell::Cell;
use std::sync::Arc;

use seamlock_kvm::file::Kind;
use seamlock_kvm::host::Host;
use seamlock_kvm::task::{Files, Signals, UserMemory};
use seamlock_kvm::{Control, File, Process, close, fallocate, ioctl_fd};
use seamlock_tdx_abi::PAGE_SIZE;
use seamlock_tdx_abi::kvm::*;
use zerocopy::IntoBytes;

use super::Tally;
use super::dice::Dice;

/// Pages that a thread has for arguments.
const ARENA: u64 = 8;
/// `FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE`.
const PUNCH_HOLE: i32 = 3;
/// Guest memory of a half-valid slot.
const MEMORY: u64 = 4 << 20;

/// A signal that comes after KVM has looked for one so many times: no call lasts for ever.
struct Soon(Cell<u32>);

impl Signals for Soon {
    fn pending(&self) -> bool {
        let left = self.0.get();
        self.0.set(left.saturating_sub(1));
        left == 0
    }
}

/// Where an argument points to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Target {
    Mapped,
    /// Its first bytes are mapped, and its last are not.
    Half,
    ReadOnly,
    Nowhere,
    /// No pointer at all.
    Number,
}

pub struct Thread<'a> {
    host: &'a Arc<Host>,
    process: &'a Process,
    control: Control,
    dice: Dice,
    arena: u64,
    read_only: u64,
    tally: Tally,
}

impl<'a> Thread<'a> {
    pub fn new(host: &'a Arc<Host>, process: &'a Process, cpu: u32, dice: Dice) -> Thread<'a> {
        Thread {
            host,
            process,
            control: Control::on(cpu).numbered(cpu.into()),
            dice,
            arena: process.map(ARENA * PAGE_SIZE),
            read_only: process.map_bytes(vec![1; 2 * PAGE_SIZE as usize].into()),
            tally: Tally::default(),
        }
    }

    /// Does so many ioctls.
    pub fn run(mut self, calls: u64) -> Tally {
        while self.tally.calls < calls {
            match self.dice.below(100) {
                0..3 => self.open(),
                3..5 => self.close(),
                5 => self.punch(),
                6..50 => self.next_of_a_launch(),
                _ => self.wild(),
            }
        }
        self.tally
    }

    fn open(&mut self) {
        // EMFILE is as good.
        let _ = self.process.install(&File::open_kvm(self.host));
    }

    fn close(&mut self) {
        let fd = self.any_fd();
        let _ = close(&self.process.task(&self.control), fd);
    }

    fn punch(&mut self) {
        let (fd, offset, len) = (self.any_fd(), self.dice.wild(), self.dice.wild());
        let _ = fallocate(
            &self.process.task(&self.control),
            fd,
            PUNCH_HOLE,
            offset,
            len,
        );
    }

    fn any_fd(&mut self) -> i32 {
        let open = self.process.open_fds();
        match self.dice.below(50) {
            0 => self.dice.wild() as i32,
            _ if open.is_empty() => 3,
            _ => self.dice.of(&open),
        }
    }

    /// A descriptor of this kind, if there is one.
    fn fd_of(&mut self, wanted: fn(&Kind) -> bool) -> Option<i32> {
        let open = self.process.open_fds();
        let is = |fd: &i32| {
            self.process
                .file(*fd)
                .is_some_and(|file| wanted(file.kind()))
        };
        let fitting: Vec<_> = open.into_iter().filter(is).collect();
        (!fitting.is_empty()).then(|| self.dice.of(&fitting))
    }

    fn call(&mut self, fd: i32, request: u32, arg: u64) -> Result<i64, Errno> {
        let looks = self.dice.below(2) as u32;
        self.call_until(fd, request, arg, looks)
    }

    /// An ioctl that a signal interrupts after so many looks; who sleeps looks every 2 ms.
    fn call_until(&mut self, fd: i32, request: u32, arg: u64, looks: u32) -> Result<i64, Errno> {
        let soon = Soon(Cell::new(looks));
        let result = {
            let task = self.process.task(&self.control).with_signals(&soon);
            ioctl_fd(&task, fd, request, arg).map_err(|error| error.errno)
        };
        self.tally.count(&result);
        if request == KVM_RUN && result.is_ok() {
            self.note_exit(fd);
        }
        result
    }

    fn note_exit(&mut self, fd: i32) {
        let file = self.process.file(fd);
        if let Some(Kind::Vcpu(vcpu)) = file.as_ref().map(|file| file.kind()) {
            let mut reason = [0; 4];
            vcpu.vcpu().run_page().read(8, &mut reason);
            let reason = u32::from_le_bytes(reason);
            *self.tally.exits.entry(reason).or_default() += 1;
        }
    }

    fn put(&mut self, offset: u64, bytes: &[u8]) -> u64 {
        let at = self.arena + offset;
        // Our own memory, and there is room.
        let _ = self.process.write(at, bytes);
        at
    }

    /// A call as a VMM makes it at some point of a launch, in whatever state its file is.
    fn next_of_a_launch(&mut self) {
        let system = self.fd_of(|kind| matches!(kind, Kind::System(_)));
        let vm = self.fd_of(|kind| matches!(kind, Kind::Vm(_)));
        let vcpu = self.fd_of(|kind| matches!(kind, Kind::Vcpu(_)));
        let gmem = self.fd_of(|kind| matches!(kind, Kind::Gmem(_)));
        let Some(system) = system else {
            return self.open();
        };
        let _ = match (self.dice.below(14), vm, vcpu) {
            (0, None, _) => self.call(system, KVM_CREATE_VM, KVM_X86_TDX_VM),
            (0, ..) => self.call(system, KVM_CREATE_VM, self.dice.clone().wild() % 7),
            (1, Some(vm), _) => self.enable_split_irqchip(vm),
            (2, Some(vm), _) => self.init_vm(vm),
            (3, Some(vm), _) => {
                let id = self.dice.below(4) as u64;
                self.call(vm, KVM_CREATE_VCPU, id)
            }
            (4, _, Some(vcpu)) => self.set_cpuid(vcpu),
            (5, _, Some(vcpu)) => self.tdx(vcpu, TdxCmdId::KVM_TDX_INIT_VCPU, 0, 0x809000),
            (6, Some(vm), _) => self.create_gmem(vm),
            (7, Some(vm), _) => self.slot(vm, gmem.unwrap_or(0)),
            (8, Some(vm), _) => self.attributes(vm),
            (9, _, Some(vcpu)) => self.add_pages(vcpu),
            (10, Some(vm), _) => self.tdx(vm, TdxCmdId::KVM_TDX_FINALIZE_VM, 0, 0),
            (11 | 12, _, Some(vcpu)) => self.run_vcpu(vcpu),
            (_, _, Some(vcpu)) => self.pre_fault(vcpu),
            _ => self.call(system, KVM_CREATE_VM, KVM_X86_TDX_VM),
        };
    }

    fn enable_split_irqchip(&mut self, vm: i32) -> Result<i64, Errno> {
        let cap = KvmEnableCap {
            cap: self
                .dice
                .of(&[KVM_CAP_SPLIT_IRQCHIP, KVM_CAP_EXIT_HYPERCALL]),
            flags: 0,
            args: [24, 0, 0, 0],
            pad: [0; 64],
        };
        let at = self.put(0, cap.as_bytes());
        self.call(vm, KVM_ENABLE_CAP, at)
    }

    fn init_vm(&mut self, vm: i32) -> Result<i64, Errno> {
        let at = self.put(512, KvmTdxInitVmOneLeaf::smallest().as_bytes());
        self.tdx(vm, TdxCmdId::KVM_TDX_INIT_VM, 0, at)
    }

    fn set_cpuid(&mut self, vcpu: i32) -> Result<i64, Errno> {
        let head = KvmCpuid2 {
            nent: 1,
            padding: 0,
        };
        let entry = KvmCpuidEntry2 {
            function: 1,
            ecx: 1 << 21,
            ..KvmCpuidEntry2::default()
        };
        let at = self.put(0, &[head.as_bytes(), entry.as_bytes()].concat());
        self.call(vcpu, KVM_SET_CPUID2, at)
    }

    fn create_gmem(&mut self, vm: i32) -> Result<i64, Errno> {
        let args = KvmCreateGuestMemfd {
            size: MEMORY,
            ..KvmCreateGuestMemfd::default()
        };
        let at = self.put(0, args.as_bytes());
        self.call(vm, KVM_CREATE_GUEST_MEMFD, at)
    }

    fn slot(&mut self, vm: i32, gmem: i32) -> Result<i64, Errno> {
        let region = KvmUserspaceMemoryRegion2 {
            slot: self.dice.below(3) as u32,
            flags: KVM_MEM_GUEST_MEMFD,
            guest_phys_addr: self.dice.of(&[0, 0, MEMORY, 1 << 32]),
            memory_size: self.dice.of(&[MEMORY, MEMORY, MEMORY, 0x4000, 0]),
            userspace_addr: 0x1000_0000,
            guest_memfd: gmem as u32,
            ..KvmUserspaceMemoryRegion2::default()
        };
        let at = self.put(0, region.as_bytes());
        self.call(vm, KVM_SET_USER_MEMORY_REGION2, at)
    }

    fn attributes(&mut self, vm: i32) -> Result<i64, Errno> {
        let attributes = KvmMemoryAttributes {
            address: self.dice.of(&[0, 0, 0x5000, 2 << 20]),
            size: self.dice.of(&[MEMORY, MEMORY, 0x1000]),
            attributes: self.dice.of(&[8, 8, 8, 0]),
            flags: 0,
        };
        let at = self.put(0, attributes.as_bytes());
        self.call(vm, KVM_SET_MEMORY_ATTRIBUTES, at)
    }

    fn add_pages(&mut self, vcpu: i32) -> Result<i64, Errno> {
        let gpa = (self.dice.below(16) as u64) << 12;
        // The last pages of the source may be missing.
        let region = KvmTdxInitMemRegion {
            source_addr: self.arena + PAGE_SIZE * self.dice.below(ARENA as usize) as u64,
            gpa,
            nr_pages: 1 + self.dice.below(3) as u64,
        };
        let (flags, at) = (self.dice.below(2) as u32, self.put(256, region.as_bytes()));
        self.tdx(vcpu, TdxCmdId::KVM_TDX_INIT_MEM_REGION, flags, at)
    }

    fn run_vcpu(&mut self, vcpu: i32) -> Result<i64, Errno> {
        let file = self.process.file(vcpu);
        if let Some(Kind::Vcpu(vcpu)) = file.as_ref().map(|file| file.kind()) {
            let immediate = u8::from(self.dice.below(8) == 0);
            vcpu.vcpu().run_page().write(1, &[immediate]);
        }
        // One that was not initialized only sleeps: mostly not for long.
        let mut state = [0; 4];
        let at = self.arena;
        let asleep = self.call(vcpu, KVM_GET_MP_STATE, at).is_ok()
            && self.process.read(at, &mut state).is_ok()
            && u32::from_le_bytes(state) == KVM_MP_STATE_UNINITIALIZED;
        let looks = self.dice.below(6) as u32;
        let looks = if asleep { looks / 5 } else { looks };
        self.call_until(vcpu, KVM_RUN, 0, looks)
    }

    fn pre_fault(&mut self, vcpu: i32) -> Result<i64, Errno> {
        let range = KvmPreFaultMemory {
            gpa: (self.dice.below(32) as u64) << 12,
            size: (1 + self.dice.below(4) as u64) << 12,
            ..KvmPreFaultMemory::default()
        };
        let at = self.put(0, range.as_bytes());
        self.call(vcpu, KVM_PRE_FAULT_MEMORY, at)
    }

    fn tdx(&mut self, fd: i32, id: TdxCmdId, flags: u32, data: u64) -> Result<i64, Errno> {
        let cmd = KvmTdxCmd {
            id: id.0,
            flags,
            data,
            hw_error: 0,
        };
        let at = self.put(0, cmd.as_bytes());
        self.call(fd, KVM_MEMORY_ENCRYPT_OP, at)
    }

    /// Any request with any argument.
    fn wild(&mut self) {
        let (fd, known) = (self.any_fd(), self.dice.below(IOCTLS.len()));
        let request = match self.dice.below(10) {
            0 => self.dice.word() as u32,
            // Another number, size or direction.
            1 => IOCTLS[known].request ^ 1 << self.dice.below(32),
            _ => IOCTLS[known].request,
        };
        let target = self.dice.of(&[
            Target::Mapped,
            Target::Mapped,
            Target::Half,
            Target::ReadOnly,
            Target::Nowhere,
            Target::Number,
        ]);
        let size = u64::from(request >> 16 & 0x3fff);
        let arg = self.argument(target, size);
        let result = self.call(fd, request, arg);
        let pointed = ioctl_info(request).is_some() && size > 0;
        if pointed && target == Target::Nowhere && result.is_ok() && !NO_POINTER.contains(&request)
        {
            let name = ioctl_info(request).map_or("", |info| info.name);
            self.tally.wrong.push(format!(
                "{name} succeeded with a pointer to nothing: {result:?}"
            ));
        }
    }

    fn argument(&mut self, target: Target, size: u64) -> u64 {
        let words: Vec<u8> = (0..64)
            .flat_map(|_| self.dice.wild().to_le_bytes())
            .collect();
        let end = self.arena + ARENA * PAGE_SIZE;
        match target {
            Target::Mapped => {
                let at = self.put(8 * self.dice.clone().below(64) as u64, &words);
                if self.dice.below(3) == 0 {
                    // The beginning of a list or of a command, and a pointer to more.
                    let data = self.arena + 1024;
                    let head = [self.dice.below(8) as u64, data, 0];
                    self.put(at - self.arena, head.as_bytes());
                }
                at
            }
            Target::Half => {
                let inside = 1 + self.dice.below(size.max(2) as usize - 1) as u64;
                self.put(
                    ARENA * PAGE_SIZE - inside,
                    &words[..inside.min(512) as usize],
                );
                end - inside
            }
            Target::ReadOnly => self.read_only + self.dice.below(4096) as u64,
            Target::Nowhere => self.dice.of(&[0, end, end + 8, 1 << 63, u64::MAX, 0xfff]),
            Target::Number => self.dice.wild(),
        }
    }
}

/// Requests that take a null pointer for "none".
const NO_POINTER: &[u32] = &[KVM_SET_SIGNAL_MASK];
