//! KVM_TDX_INIT_VM reads `cpuid.nent` twice; another thread may change it in between.

mod vmm;

use std::cell::Cell;

use seamlock_kvm::discipline::{Discipline, V6_16, V7_3};
use seamlock_kvm::task::{Fault, Task, UserMemory};
use seamlock_kvm::{Control, Options, Process, ioctl_fd};
use seamlock_tdx_abi::kvm::*;
use vmm::boot_with;
use zerocopy::IntoBytes;

/// User memory in which `nent`, at this address, becomes 0 as soon as it was read by itself.
struct Changing<'a> {
    process: &'a Process,
    nent: u64,
    changed: Cell<bool>,
}

impl UserMemory for Changing<'_> {
    fn read(&self, addr: u64, out: &mut [u8]) -> Result<(), Fault> {
        self.process.read(addr, out)?;
        if addr == self.nent && out.len() == 4 {
            self.process.write(addr, &0u32.to_le_bytes())?;
            self.changed.set(true);
        }
        Ok(())
    }

    fn write(&self, addr: u64, bytes: &[u8]) -> Result<(), Fault> {
        self.process.write(addr, bytes)
    }
}

fn init_vm_whose_nent_changes(discipline: &'static Discipline) -> Result<i64, Errno> {
    let vmm = boot_with(Options {
        discipline,
        ..Options::default()
    });
    let td = vmm.create_td();
    let smallest = KvmTdxInitVmOneLeaf::smallest();
    let data = vmm.process.map_copy(smallest.as_bytes());
    let command = KvmTdxCmd {
        id: TdxCmdId::KVM_TDX_INIT_VM.0,
        data,
        ..KvmTdxCmd::default()
    };
    let arg = vmm.process.map_copy(command.as_bytes());
    let memory = Changing {
        process: &vmm.process,
        nent: data + std::mem::offset_of!(KvmTdxInitVm, cpuid) as u64,
        changed: Cell::new(false),
    };
    let control = Control::on(0);
    let reply = {
        let task = Task::new(&control, 1, &memory, &vmm.process);
        ioctl_fd(&task, td.vm, KVM_MEMORY_ENCRYPT_OP, arg).map_err(|error| error.errno)
    };
    assert!(memory.changed.get(), "nent is read by itself first");
    vmm.drop_td(&td);
    reply
}

#[test]
fn a_count_that_changes_between_its_two_reads_is_refused_by_v7_3() {
    assert_eq!(init_vm_whose_nent_changes(&V7_3), Err(Errno::EINVAL));
}

#[test]
fn before_the_two_reads_were_compared_the_first_counts() {
    assert_eq!(init_vm_whose_nent_changes(&V6_16), Ok(0));
}
