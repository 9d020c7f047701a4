//! EPT violations: a page is mapped, or user space is told that memory has the other kind.

use seamlock_tdx_abi::kvm::{
    EXIT_DATA_OFFSET, Errno, KVM_EXIT_MEMORY_FAULT, KVM_MEMORY_EXIT_FLAG_PRIVATE,
    KvmExitMemoryFault,
};
use seamlock_tdx_abi::{Gpa, PAGE_SIZE};
use zerocopy::IntoBytes;

use super::{EXIT_REASON, Exit, Handling};
use crate::discipline::InvalidSlot;
use crate::error::{Result, fail};
use crate::locks::cells;
use crate::mmu::{InTheWay, Mapped};
use crate::stats;
use crate::vcpu::Vcpu;
use crate::vcpu::run::{fault_in_user_page, simulate_fault};

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
        const SITE: &str = "arch/x86/kvm/mmu/mmu.c:4725 kvm_mmu_faultin_pfn";
        loop {
            let gfn = Gpa(gpa).gfn();
            let slot = self.kvm.memslots.of_gfn(gfn);
            if slot.is_none() || !self.kvm.attributes.is_private(gfn) {
                return self.memory_fault(gpa, KVM_MEMORY_EXIT_FLAG_PRIVATE, SITE);
            }
            let gives_up = self.kvm.discipline.invalid_slot == InvalidSlot::GivesUp;
            if gives_up && slot.is_some_and(|slot| slot.invalid) {
                return Ok(self.slot_is_going());
            }
            self.vcpu.stats().add(stats::PF_TAKEN, 1);
            let result = simulate_fault(self.task, self.kvm, self.vcpu, Gpa(gpa));
            match &result {
                Ok(Mapped::Fixed) => self.vcpu.stats().add(stats::PF_FIXED, 1),
                Ok(Mapped::Spurious) => self.vcpu.stats().add(stats::PF_SPURIOUS, 1),
                _ => {}
            }
            match result {
                Err(error) if error.is(Errno::EAGAIN) => return Ok(self.slot_is_going()),
                Err(error) => return Err(self.with_memory_fault(gpa, error)),
                Ok(Mapped::Fixed | Mapped::Spurious) => return Ok(Exit::Again),
                Ok(Mapped::Retry(busy)) => {
                    if self.task.signal_pending() {
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

    /// The guest is entered again outside of the read section that the slot's deletion waits for.
    fn slot_is_going(&self) -> Exit {
        Exit::Blocked(InTheWay::Cell(cells::MEMSLOTS.at(self.kvm.number)))
    }

    /// A fault in shared memory. The shared EPT is the host's own and not modelled, so a page that is
    /// there needs nothing; where there is none, the guest takes #VE when it tries again.
    fn fault_shared(&self, gpa: u64) -> Result<Exit> {
        const SITE: &str = "arch/x86/kvm/mmu/mmu.c:4718 kvm_mmu_faultin_pfn";
        let gpa = self.without_shared_bit(gpa);
        let gfn = Gpa(gpa).gfn();
        if self.kvm.attributes.is_private(gfn) {
            return self.memory_fault(gpa, 0, SITE);
        }
        match self.kvm.memslots.of_gfn(gfn) {
            Some(slot) if !slot.invalid => fault_in_user_page(self.task, &slot, gfn)?,
            _ => return Ok(Exit::Again),
        };
        Ok(Exit::Again)
    }

    /// EFAULT, and what user space has to change.
    fn memory_fault(&self, gpa: u64, flags: u64, site: &'static str) -> Result<Exit> {
        prepare_memory_fault(self.vcpu, gpa, flags);
        let reason = match flags {
            0 => "the guest uses private memory as shared",
            _ => "the guest uses memory as private that is not",
        };
        fail(Errno::EFAULT, site, reason)
    }

    fn with_memory_fault(&self, gpa: u64, error: crate::Error) -> crate::Error {
        prepare_memory_fault(self.vcpu, gpa, KVM_MEMORY_EXIT_FLAG_PRIVATE);
        error
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
