//! Arguments of ioctls, in user memory.

use seamlock_kvm::task::UserMemory;
use seamlock_tdx_abi::kvm::*;
use zerocopy::IntoBytes;

use super::{Machine, SLOT_BYTES};

/// Entries that a GET_CPUID buffer has room for.
const CPUID_ROOM: u32 = 256;

impl Machine {
    /// A `struct kvm_tdx_cmd`.
    pub fn command(&self, id: TdxCmdId, flags: u32, data: u64) -> u64 {
        let cmd = KvmTdxCmd {
            id: id.0,
            flags,
            data,
            hw_error: 0,
        };
        self.process.map_copy(cmd.as_bytes())
    }

    /// KVM_TDX_INIT_VM of the smallest TD.
    pub fn init_vm_arg(&self) -> u64 {
        let data = KvmTdxInitVmOneLeaf::smallest();
        let at = self.process.map_copy(data.as_bytes());
        self.command(TdxCmdId::KVM_TDX_INIT_VM, 0, at)
    }

    /// KVM_TDX_CAPABILITIES with room for every entry, and the address of the answer.
    pub fn capabilities_arg(&self) -> (u64, u64) {
        let bytes = size_of::<KvmTdxCapabilities>() + 256 * size_of::<KvmCpuidEntry2>();
        let at = self.process.map(bytes as u64);
        let nent_at = at + (size_of::<KvmTdxCapabilities>() - size_of::<KvmCpuid2>()) as u64;
        let _ = self.process.write(nent_at, &CPUID_ROOM.to_le_bytes());
        let cmd = self.command(TdxCmdId::KVM_TDX_CAPABILITIES, 0, at);
        (cmd, nent_at)
    }

    /// KVM_TDX_INIT_MEM_REGION of one page, measured, and the address of its region.
    pub fn mem_region_arg(&self, gpa: u64) -> (u64, u64) {
        let region = KvmTdxInitMemRegion {
            source_addr: self.process.map(4096),
            gpa,
            nr_pages: 1,
        };
        let at = self.process.map_copy(region.as_bytes());
        let cmd = self.command(
            TdxCmdId::KVM_TDX_INIT_MEM_REGION,
            KVM_TDX_MEASURE_MEMORY_REGION,
            at,
        );
        (cmd, at)
    }

    /// Room for all of KVM_TDX_GET_CPUID.
    pub fn cpuid_buffer(&self) -> u64 {
        let header = KvmCpuid2 {
            nent: CPUID_ROOM,
            padding: 0,
        };
        let bytes = u64::from(CPUID_ROOM) * size_of::<KvmCpuidEntry2>() as u64;
        let at = self.process.map(size_of::<KvmCpuid2>() as u64 + bytes);
        // Just mapped.
        let _ = self.process.write(at, header.as_bytes());
        at
    }

    /// The CPUID of a vCPU: INIT_VCPU wants x2APIC.
    pub fn cpuid_arg(&self) -> u64 {
        let header = KvmCpuid2 {
            nent: 1,
            padding: 0,
        };
        let entry = KvmCpuidEntry2 {
            function: 1,
            ecx: 1 << 21,
            ..KvmCpuidEntry2::default()
        };
        let bytes = [header.as_bytes(), entry.as_bytes()].concat();
        self.process.map_copy(&bytes)
    }

    /// A guest_memfd as large as a memslot.
    pub fn gmem_arg(&self) -> u64 {
        let file = KvmCreateGuestMemfd {
            size: SLOT_BYTES,
            ..KvmCreateGuestMemfd::default()
        };
        self.process.map_copy(file.as_bytes())
    }

    /// A memslot with a guest_memfd, of `size` bytes; 0 deletes it.
    pub fn slot_arg(&self, slot: u32, base: u64, gmem: i32, size: u64) -> u64 {
        let region = KvmUserspaceMemoryRegion2 {
            slot,
            flags: KVM_MEM_GUEST_MEMFD,
            guest_phys_addr: base,
            memory_size: size,
            userspace_addr: 0x1000_0000,
            guest_memfd: gmem as u32,
            ..KvmUserspaceMemoryRegion2::default()
        };
        self.process.map_copy(region.as_bytes())
    }

    /// Memslot 2, which has no guest_memfd.
    pub fn plain_slot_arg(&self, base: u64, flags: u32) -> u64 {
        let region = KvmUserspaceMemoryRegion2 {
            slot: 2,
            flags,
            guest_phys_addr: base,
            memory_size: SLOT_BYTES,
            userspace_addr: 0x2000_0000,
            ..KvmUserspaceMemoryRegion2::default()
        };
        self.process.map_copy(region.as_bytes())
    }

    /// The attributes of a memslot's memory.
    pub fn attributes_arg(&self, base: u64, attributes: u64) -> u64 {
        let attributes = KvmMemoryAttributes {
            address: base,
            size: SLOT_BYTES,
            attributes,
            flags: 0,
        };
        self.process.map_copy(attributes.as_bytes())
    }

    /// KVM_PRE_FAULT_MEMORY of one page.
    pub fn pre_fault_arg(&self, gpa: u64) -> u64 {
        let range = KvmPreFaultMemory {
            gpa,
            size: 4096,
            ..KvmPreFaultMemory::default()
        };
        self.process.map_copy(range.as_bytes())
    }

    /// KVM_ENABLE_CAP(KVM_CAP_MAX_VCPUS).
    pub fn max_vcpus_arg(&self, count: u64) -> u64 {
        let cap = KvmEnableCap {
            cap: KVM_CAP_MAX_VCPUS,
            flags: 0,
            args: [count, 0, 0, 0],
            pad: [0; 64],
        };
        self.process.map_copy(cap.as_bytes())
    }

    /// A little-endian number in user memory.
    pub fn read_u32(&self, at: u64) -> u64 {
        let bytes = self.process.read_vec(at, 4).unwrap_or_default();
        let byte = |n, byte: &u8| n << 8 | u64::from(*byte);
        bytes.iter().rev().fold(0, byte)
    }
}
