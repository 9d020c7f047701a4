//! An operation with its arguments in user memory, and its execution.

use seamlock_kvm::error::Result;
use seamlock_kvm::file::Kind;
use seamlock_kvm::task::{Files, Task};
use seamlock_kvm::{Control, close, fallocate, ioctl_fd};
use seamlock_tdx_abi::kvm::*;

use crate::act::{Act, Answer};
use crate::machine::{FRESH_PAGE, Machine, PAGE, SLOT_BYTES, SPARE_CPU};

/// An operation with its arguments in user memory.
#[derive(Clone, Copy, Debug)]
pub struct Ready {
    act: Act,
    fd: i32,
    request: u32,
    arg: u64,
    /// Where the kernel writes what counts of its answer; 0 for nowhere.
    answer_at: u64,
}

/// Offset of `nr_pages` in `struct kvm_tdx_init_mem_region`.
const NR_PAGES: u64 = 16;
/// Offset of `size` in `struct kvm_pre_fault_memory`.
const SIZE: u64 = 8;

impl Act {
    /// Puts the arguments into user memory.
    pub fn prepare(self, machine: &Machine) -> Ready {
        let td = &machine.td;
        let vcpu = |at: usize| td.vcpus.get(at).copied().unwrap_or(-1);
        let (fd, request, arg, answer_at) = match self {
            Act::CreateVcpu(id) => (td.vm, KVM_CREATE_VCPU, id, 0),
            Act::MoveSev => (td.vm, KVM_ENABLE_CAP, machine.move_from_arg(), 0),
            Act::OtherCreateVcpu(id) => {
                let source = machine.second.as_ref();
                (source.map_or(-1, |vm| vm.vm), KVM_CREATE_VCPU, id, 0)
            }
            Act::MaxVcpus(n) => (td.vm, KVM_ENABLE_CAP, machine.max_vcpus_arg(n), 0),
            Act::CreateGmem => (td.vm, KVM_CREATE_GUEST_MEMFD, machine.gmem_arg(), 0),
            Act::SetCpuid(at) => (vcpu(at), KVM_SET_CPUID2, machine.cpuid_arg(), 0),
            Act::Load(at) => (vcpu(at), KVM_GET_TSC_KHZ, 0, 0),
            Act::PreFault(at) => {
                let arg = machine.pre_fault_arg(FRESH_PAGE);
                (vcpu(at), KVM_PRE_FAULT_MEMORY, arg, arg + SIZE)
            }
            Act::Run(at) => (vcpu(at), KVM_RUN, 0, 0),
            Act::CloseVcpu(at) => (vcpu(at), 0, 0, 0),
            Act::CloseVm => (td.vm, 0, 0, 0),
            Act::CloseGmem | Act::PunchHole | Act::Allocate | Act::MemoryFailure(_) => {
                (td.gmem, 0, 0, 0)
            }
            Act::PunchOther | Act::FailOther => (machine.other_gmem, 0, 0, 0),
            Act::Migrate | Act::Kill | Act::Offline(_) | Act::Online | Act::OtherClose => {
                (-1, 0, 0, 0)
            }
            Act::CreateSlot | Act::DeleteSlot | Act::MoveSlot | Act::SlotFlags => {
                let arg = self.slot_change(machine);
                (td.vm, KVM_SET_USER_MEMORY_REGION2, arg, 0)
            }
            Act::Share => (
                td.vm,
                KVM_SET_MEMORY_ATTRIBUTES,
                machine.attributes_arg(0, 0),
                0,
            ),
            Act::MakePrivate => {
                let arg = machine.attributes_arg(0, KVM_MEMORY_ATTRIBUTE_PRIVATE);
                (td.vm, KVM_SET_MEMORY_ATTRIBUTES, arg, 0)
            }
            _ => {
                let (fd, arg, answer_at) = self.command(machine);
                (fd, KVM_MEMORY_ENCRYPT_OP, arg, answer_at)
            }
        };
        Ready {
            act: self,
            fd,
            request,
            arg,
            answer_at,
        }
    }

    fn slot_change(self, machine: &Machine) -> u64 {
        match self {
            Act::CreateSlot => machine.slot_arg(1, SLOT_BYTES, machine.other_gmem, SLOT_BYTES),
            Act::MoveSlot => machine.plain_slot_arg(6 * SLOT_BYTES, 0),
            Act::SlotFlags => machine.plain_slot_arg(4 * SLOT_BYTES, KVM_MEM_LOG_DIRTY_PAGES),
            _ => machine.slot_arg(0, 0, machine.td.gmem, 0),
        }
    }

    /// A KVM_MEMORY_ENCRYPT_OP: descriptor, argument, and where the answer is.
    fn command(self, machine: &Machine) -> (i32, u64, u64) {
        use TdxCmdId as Id;
        let td = match self {
            Act::OtherInitVm => machine.fresh.as_ref(),
            Act::OtherInitVcpu | Act::OtherInitMemRegion | Act::OtherFinalize => {
                machine.second.as_ref()
            }
            _ => Some(&machine.td),
        };
        let vm = td.map_or(-1, |td| td.vm);
        let vcpu = |at: usize| td.and_then(|td| td.vcpus.get(at).copied()).unwrap_or(-1);
        let plain = |id| machine.command(id, 0, 0);
        match self {
            Act::InitVm | Act::OtherInitVm => (vm, machine.init_vm_arg(), 0),
            Act::Capabilities => {
                let (arg, answer_at) = machine.capabilities_arg();
                (vm, arg, answer_at)
            }
            Act::InitVcpu(at) => (vcpu(at), plain(Id::KVM_TDX_INIT_VCPU), 0),
            Act::OtherInitVcpu => (vcpu(1), plain(Id::KVM_TDX_INIT_VCPU), 0),
            Act::GetCpuid(at) => {
                let buffer = machine.cpuid_buffer();
                let arg = machine.command(Id::KVM_TDX_GET_CPUID, 0, buffer);
                (vcpu(at), arg, buffer)
            }
            Act::InitMemRegion(_) | Act::OtherInitMemRegion => {
                let gpa = match self {
                    Act::InitMemRegion(gpa) => gpa,
                    _ => PAGE,
                };
                let (arg, region) = machine.mem_region_arg(gpa);
                (vcpu(0), arg, region + NR_PAGES)
            }
            Act::Finalize | Act::OtherFinalize => (vm, plain(Id::KVM_TDX_FINALIZE_VM), 0),
            // Not a command: on no descriptor, so that it is noticed.
            _ => (-1, 0, 0),
        }
    }
}

impl Ready {
    /// Does it as thread `me` of those that these are the controls of.
    pub fn run(&self, machine: &Machine, threads: &[Control], me: usize) -> Answer {
        let task = machine.process.task(&threads[me]);
        let others = || {
            let numbered = threads.iter().enumerate();
            numbered
                .filter(|(at, _)| *at != me)
                .map(|(_, control)| control)
        };
        let done = match self.act {
            Act::Migrate => {
                others()
                    .take(1)
                    .for_each(|control| control.migrate(SPARE_CPU));
                Ok(0)
            }
            Act::Kill => {
                others().for_each(|control| control.signal(true));
                Ok(0)
            }
            Act::Offline(cpu) => Ok(i64::from(machine.host.offline_cpu(cpu))),
            Act::Online => Ok(i64::from(machine.host.online_cpu(SPARE_CPU))),
            _ => self.call(machine, &task),
        };
        let returns_fd = matches!(
            self.act,
            Act::CreateVcpu(_) | Act::OtherCreateVcpu(_) | Act::CreateGmem
        );
        Answer {
            result: done
                .map(|value| if returns_fd { 0 } else { value })
                .map_err(|error| error.errno.0),
            wrote: self.wrote(machine),
        }
    }

    fn call(&self, machine: &Machine, task: &Task<'_>) -> Result<i64> {
        let punch =
            seamlock_kvm::gmem::FALLOC_FL_KEEP_SIZE | seamlock_kvm::gmem::FALLOC_FL_PUNCH_HOLE;
        let nothing = |()| 0;
        match self.act {
            Act::PunchHole | Act::PunchOther => {
                fallocate(task, self.fd, punch, PAGE, machine.punched_bytes).map(nothing)
            }
            Act::Allocate => {
                let mode = seamlock_kvm::gmem::FALLOC_FL_KEEP_SIZE;
                fallocate(task, self.fd, mode, FRESH_PAGE, 0x1000).map(nothing)
            }
            Act::CloseVm | Act::CloseVcpu(_) | Act::CloseGmem => close(task, self.fd).map(nothing),
            Act::OtherClose => {
                let td = machine.second.as_ref();
                let files = td.map(|td| [td.vcpus[0], td.vcpus[1], td.gmem, td.vm]);
                let mut files = files.into_iter().flatten();
                files.try_for_each(|fd| close(task, fd)).map(nothing)
            }
            Act::MemoryFailure(gpa) => Ok(fail_memory(machine, task, self.fd, gpa)),
            Act::FailOther => Ok(fail_memory(machine, task, self.fd, PAGE)),
            _ => ioctl_fd(task, self.fd, self.request, self.arg),
        }
    }

    fn wrote(&self, machine: &Machine) -> u64 {
        match self.answer_at {
            0 => 0,
            at => machine.read_u32(at),
        }
    }
}

/// `memory_failure` of the page at an offset of the file.
fn fail_memory(machine: &Machine, task: &Task<'_>, fd: i32, offset: u64) -> i64 {
    if let Some(file) = machine.process.file(fd)
        && let Kind::Gmem(gmem) = file.kind()
    {
        gmem.memory_failure(task, offset);
    }
    0
}
