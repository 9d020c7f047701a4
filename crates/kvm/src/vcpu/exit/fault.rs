//! EPT violations: a page is mapped, or user space is told that memory has the other kind.

use seamlock_tdx_abi::kvm::{EXIT_DATA_OFFSET, Errno, KVM_EXIT_MEMORY_FAULT, KvmExitMemoryFault};
use seamlock_tdx_abi::{Gpa, PAGE_SIZE};
use zerocopy::IntoBytes;

use super::{EXIT_REASON, Exit, Handling};
use crate::error::{Result, fail};
use crate::locks::cells;
use crate::mmu::{self, InTheWay, Mapped};
use crate::stats;
use crate::vcpu::Vcpu;
use crate::vcpu::prefault::kvm_mmu_do_page_fault;

/// Extended exit qualification, type: the page is mapped and was not accepted.
const PENDING_EPT_VIOLATION: u64 = 6;
/// Exit qualification: the access was an instruction fetch.
const FETCH: u64 = 1 << 2;
/// Exit qualification: what the entry allows.
const PROTECTION: u64 = 7 << 3;

impl Handling<'_> {
    /// `tdx_handle_ept_violation`.
    pub(super) fn ept_violation(&mut self) -> Result<Exit> {
        const SITE: &str = "tdx.c:1936 tdx_handle_ept_violation";
        let (qual, ext_qual, gpa) = (self.regs.rcx, self.regs.rdx, self.regs.r8);
        if !self.kvm.tdx.is_private_gpa(gpa) {
            let fetch = qual & FETCH != 0;
            if self
                .kvm
                .bug_on(fetch, SITE, "an instruction was fetched from shared memory")
            {
                return fail(
                    Errno::EIO,
                    SITE,
                    "an instruction was fetched from shared memory",
                );
            }
            return self.fault_shared(gpa);
        }
        if ext_qual & 0xf == PENDING_EPT_VIOLATION && qual & PROTECTION == 0 {
            self.kvm.kill();
            return fail(
                Errno::EIO,
                SITE,
                "the guest used a page that it has not accepted",
            );
        }
        self.fault_private(gpa)
    }

    /// A fault in private memory. Retried here rather than by entering the guest again, which would
    /// set off the module's zero-step mitigation.
    fn fault_private(&self, gpa: u64) -> Result<Exit> {
        const SITE: &str = "tdx.c:2009 tdx_handle_ept_violation";
        loop {
            match self.page_fault(gpa, true) {
                // The guest is entered again outside of the read section that the slot's deletion waits
                // for.
                Err(error) if error.is(Errno::EAGAIN) => {
                    let memslots = cells::MEMSLOTS.at(self.kvm.number);
                    return Ok(Exit::Blocked(InTheWay::Cell(memslots)));
                }
                Err(error) => return Err(error),
                Ok(Mapped::NoMemory) => return Err(mmu::no_memory()),
                Ok(Mapped::Fixed | Mapped::Spurious | Mapped::Emulate) => return Ok(Exit::Again),
                Ok(Mapped::Retry(busy)) => {
                    if self.vcpu.has_events(self.kvm) || self.task.signal_pending() {
                        return Ok(Exit::Again);
                    }
                    if self.vcpu.is_vm_dead_requested() {
                        return fail(Errno::EIO, SITE, "the VM is dead");
                    }
                    busy.relax();
                    self.task.resched();
                }
            }
        }
    }

    /// A fault in shared memory. Where there is no memslot, the guest takes #VE when it tries again.
    fn fault_shared(&self, gpa: u64) -> Result<Exit> {
        match self.page_fault(self.without_shared_bit(gpa), false) {
            Err(error) if error.is(Errno::EAGAIN) => Ok(Exit::Again),
            Err(error) => Err(error),
            Ok(_) => Ok(Exit::Again),
        }
    }

    /// `kvm_mmu_page_fault`, with its statistics.
    fn page_fault(&self, gpa: u64, private: bool) -> Result<Mapped> {
        let stats = self.vcpu.stats();
        stats.add(stats::PF_TAKEN, 1);
        let mapped = kvm_mmu_do_page_fault(self.task, self.kvm, self.vcpu, Gpa(gpa), private)?;
        match mapped {
            Mapped::Fixed => stats.add(stats::PF_FIXED, 1),
            Mapped::Spurious => stats.add(stats::PF_SPURIOUS, 1),
            Mapped::Emulate => stats.add(stats::PF_EMULATE, 1),
            Mapped::Retry(_) | Mapped::NoMemory => {}
        }
        Ok(mapped)
    }
}

/// `kvm_mmu_prepare_memory_fault_exit`: tells user space of a page that can't be had.
pub(crate) fn prepare_memory_fault(vcpu: &Vcpu, gpa: u64, flags: u64) {
    let fault = KvmExitMemoryFault {
        flags,
        gpa: gpa & !(PAGE_SIZE - 1),
        size: PAGE_SIZE,
    };
    let run = vcpu.run_page();
    run.write(EXIT_REASON, &KVM_EXIT_MEMORY_FAULT.to_le_bytes());
    run.write(EXIT_DATA_OFFSET, fault.as_bytes());
}
