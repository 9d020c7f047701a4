//! Port I/O and MMIO: to an ioeventfd, or to user space.

use seamlock_tdx_abi::kvm::{
    EXIT_DATA_OFFSET, KVM_EXIT_IO, KVM_EXIT_IO_IN, KVM_EXIT_IO_OUT, KVM_EXIT_MMIO,
    KVM_PIO_PAGE_OFFSET, KvmExitIo, KvmExitMmio, TDVMCALL_STATUS_INVALID_OPERAND,
};

use super::{Completion, Exit, Handling};
use crate::stats;
use crate::vm::eventfds::Bus;

/// Where port data is, from the start of `struct kvm_run`.
const PIO_DATA: usize = KVM_PIO_PAGE_OFFSET * 4096;
/// Offset of `mmio.data` in the union.
const MMIO_DATA: usize = std::mem::offset_of!(KvmExitMmio, data);

/// One access that user space completes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Transfer {
    /// Bytes: 1, 2, 4, or 8 for MMIO.
    pub(crate) size: usize,
}

impl Handling<'_> {
    /// `tdx_emulate_io`: bytes in R12, direction in R13, port in R14, data in R15.
    pub(super) fn emulate_io(&mut self) -> Exit {
        self.vcpu.stats().add(stats::IO_EXITS, 1);
        let (size, write, port) = (self.regs.r12, self.regs.r13, self.regs.r14 as u16);
        if !matches!(size, 1 | 2 | 4) || write > 1 {
            return self.return_code(TDVMCALL_STATUS_INVALID_OPERAND);
        }
        let bytes = self.regs.r15.to_le_bytes();
        let data = &bytes[..size as usize];
        let mut io = KvmExitIo {
            direction: KVM_EXIT_IO_IN,
            size: size as u8,
            port,
            count: 1,
            data_offset: PIO_DATA as u64,
        };
        if write == 0 {
            // What user space does not write reads as zero.
            self.vcpu.run_page().write(PIO_DATA, &[0; 4][..data.len()]);
            let then = Completion::PioIn(Transfer { size: data.len() });
            return self.ask_user(KVM_EXIT_IO, &io, then);
        }
        if self.kvm.eventfds.write(Bus::Pio, port.into(), data) {
            return Exit::Again;
        }
        io.direction = KVM_EXIT_IO_OUT;
        self.vcpu.run_page().write(PIO_DATA, data);
        self.ask_user(KVM_EXIT_IO, &io, Completion::PioOut)
    }

    pub(super) fn complete_pio_in(&mut self, transfer: Transfer) -> Exit {
        let value = self.shared_value(PIO_DATA, transfer);
        self.return_value(value)
    }

    /// `tdx_emulate_mmio`: bytes in R12, direction in R13, shared address in R14, data in R15.
    pub(super) fn emulate_mmio(&mut self) -> Exit {
        // KVM has size and direction as int.
        let (size, write) = (u64::from(self.regs.r12 as u32), self.regs.r13 as u32);
        let gpa = self.regs.r14;
        let tdx = &self.kvm.tdx;
        let last = gpa.wrapping_add(size).wrapping_sub(1);
        let wrong = !matches!(size, 1 | 2 | 4 | 8) || write > 1;
        if wrong || tdx.is_private_gpa(gpa) || tdx.is_private_gpa(last) {
            return self.return_code(TDVMCALL_STATUS_INVALID_OPERAND);
        }
        let phys_addr = self.without_shared_bit(gpa);
        // Bytes that are not written stay what they were in the last exit.
        let mut mmio: KvmExitMmio = self.answer();
        let bytes = self.regs.r15.to_le_bytes();
        let written = &bytes[..size as usize];
        if write == 1 {
            if self.kvm.eventfds.write(Bus::Mmio, phys_addr, written) {
                return Exit::Again;
            }
            mmio.data[..written.len()].copy_from_slice(written);
        }
        let mmio = KvmExitMmio {
            phys_addr,
            data: mmio.data,
            len: size as u32,
            is_write: write as u8,
            padding: [0; 3],
        };
        if write == 1 {
            return self.to_user(KVM_EXIT_MMIO, &mmio);
        }
        let then = Completion::MmioRead(Transfer {
            size: size as usize,
        });
        self.ask_user(KVM_EXIT_MMIO, &mmio, then)
    }

    pub(super) fn complete_mmio_read(&mut self, transfer: Transfer) -> Exit {
        let value = self.shared_value(EXIT_DATA_OFFSET + MMIO_DATA, transfer);
        self.return_value(value)
    }

    fn shared_value(&self, offset: usize, transfer: Transfer) -> u64 {
        let mut bytes = [0; 8];
        self.vcpu
            .run_page()
            .read(offset, &mut bytes[..transfer.size]);
        u64::from_le_bytes(bytes)
    }
}
