//! What the threads of a scene do: one operation that is open to user space or the host.

use seamlock_kvm::error::Result;
use seamlock_kvm::file::Kind;
use seamlock_kvm::task::Files;
use seamlock_kvm::{Control, close, fallocate, ioctl_fd};
use seamlock_tdx_abi::kvm::*;

use crate::machine::{Machine, PAGE};

/// FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE.
const PUNCH_HOLE: i32 = 3;

/// One operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    /// KVM_TDX_INIT_MEM_REGION of one measured page, on vCPU 0.
    InitMemRegion,
    /// KVM_TDX_INIT_VCPU on this vCPU.
    InitVcpu(usize),
    /// KVM_TDX_GET_CPUID on this vCPU.
    GetCpuid(usize),
    /// Any ioctl that loads this vCPU: KVM_GET_TSC_KHZ.
    Load(usize),
    /// KVM_TDX_FINALIZE_VM.
    Finalize,
    /// KVM_CREATE_VCPU with this id.
    CreateVcpu(u64),
    /// fallocate(PUNCH_HOLE) of the page.
    PunchHole,
    /// A memory error in the page.
    MemoryFailure,
    /// The memslot is deleted.
    DeleteSlot,
    /// The slot's memory becomes shared.
    Share,
    /// The guest_memfd is closed.
    CloseGmem,
}

/// What an operation answered: the errno or the value, and what GET_CPUID wrote.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Answer {
    /// The value, or the errno.
    pub result: Result<i64, i32>,
    /// Entries that GET_CPUID found.
    pub entries: u64,
}

/// An operation with its arguments in user memory.
#[derive(Clone, Copy, Debug)]
pub struct Ready {
    act: Act,
    fd: i32,
    request: u32,
    arg: u64,
    buffer: u64,
}

impl Act {
    /// The kernel's name of the operation.
    pub fn name(self) -> &'static str {
        match self {
            Act::InitMemRegion => "KVM_TDX_INIT_MEM_REGION",
            Act::InitVcpu(_) => "KVM_TDX_INIT_VCPU",
            Act::GetCpuid(_) => "KVM_TDX_GET_CPUID",
            Act::Load(_) => "KVM_GET_TSC_KHZ",
            Act::Finalize => "KVM_TDX_FINALIZE_VM",
            Act::CreateVcpu(_) => "KVM_CREATE_VCPU",
            Act::PunchHole => "fallocate(PUNCH_HOLE)",
            Act::MemoryFailure => "memory failure",
            Act::DeleteSlot => "KVM_SET_USER_MEMORY_REGION2(delete)",
            Act::Share => "KVM_SET_MEMORY_ATTRIBUTES",
            Act::CloseGmem => "close(guest_memfd)",
        }
    }

    /// Whether the answer is a documented "try again", so that no serial order need give it.
    pub fn is_try_again(self, answer: &Answer) -> bool {
        self == Act::Finalize && answer.result == Err(Errno::EBUSY.0)
    }

    /// Puts the arguments into user memory.
    pub fn prepare(self, machine: &Machine) -> Ready {
        let encrypt_op = KVM_MEMORY_ENCRYPT_OP;
        let mut buffer = 0;
        let (fd, request, arg) = match self {
            Act::InitMemRegion => {
                let (fd, arg) = machine.mem_region();
                (fd, encrypt_op, arg)
            }
            Act::InitVcpu(vcpu) => {
                let arg = machine.command(TdxCmdId::KVM_TDX_INIT_VCPU, 0, 0);
                (machine.vcpus[vcpu], encrypt_op, arg)
            }
            Act::GetCpuid(vcpu) => {
                buffer = machine.cpuid_buffer();
                let arg = machine.command(TdxCmdId::KVM_TDX_GET_CPUID, 0, buffer);
                (machine.vcpus[vcpu], encrypt_op, arg)
            }
            Act::Load(vcpu) => (machine.vcpus[vcpu], KVM_GET_TSC_KHZ, 0),
            Act::Finalize => {
                let arg = machine.command(TdxCmdId::KVM_TDX_FINALIZE_VM, 0, 0);
                (machine.vm, encrypt_op, arg)
            }
            Act::CreateVcpu(id) => (machine.vm, KVM_CREATE_VCPU, id),
            Act::DeleteSlot => {
                let arg = machine.slot_arg(machine.gmem, 0);
                (machine.vm, KVM_SET_USER_MEMORY_REGION2, arg)
            }
            Act::Share => (
                machine.vm,
                KVM_SET_MEMORY_ATTRIBUTES,
                machine.attributes_arg(0),
            ),
            Act::PunchHole | Act::MemoryFailure | Act::CloseGmem => (machine.gmem, 0, 0),
        };
        Ready {
            act: self,
            fd,
            request,
            arg,
            buffer,
        }
    }
}

impl Ready {
    /// Which operation.
    pub fn act(&self) -> Act {
        self.act
    }

    /// Does it, as a thread that runs on `cpu`.
    pub fn run(&self, machine: &Machine, cpu: u32) -> Answer {
        let control = Control::on(cpu);
        let task = machine.process.task(&control);
        let done: Result<i64> = match self.act {
            Act::PunchHole => fallocate(&task, self.fd, PUNCH_HOLE, PAGE, 0x1000).map(|()| 0),
            Act::CloseGmem => close(&task, self.fd).map(|()| 0),
            Act::MemoryFailure => {
                if let Some(file) = machine.process.file(self.fd)
                    && let Kind::Gmem(gmem) = file.kind()
                {
                    gmem.memory_failure(&task, PAGE);
                }
                Ok(0)
            }
            _ => ioctl_fd(&task, self.fd, self.request, self.arg),
        };
        let entries = match self.act {
            Act::GetCpuid(_) => machine.cpuid_entries(self.buffer),
            _ => 0,
        };
        Answer {
            result: done.map_err(|error| error.errno.0),
            entries,
        }
    }
}
