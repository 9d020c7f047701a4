//! A VM that is no TD, with one vCPU.

#![allow(dead_code)]

use seamlock_kvm::file::Kind;
use seamlock_kvm::task::Files;
use seamlock_tdx_abi::kvm::*;
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes};

use crate::vmm::{Vmm, boot};

pub struct Plain {
    pub vmm: Vmm,
    pub vm: i32,
    pub vcpu: i32,
}

/// A VM with one vCPU, and the irqchip where it is told.
pub fn plain(irqchip: bool) -> Plain {
    with(irqchip, 0)
}

/// A VM that does without some quirks.
pub fn plain_without(quirks: u64) -> Plain {
    with(false, quirks)
}

fn with(irqchip: bool, without_quirks: u64) -> Plain {
    let vmm = boot();
    let vm = vmm
        .ioctl(vmm.kvm, KVM_CREATE_VM, KVM_X86_DEFAULT_VM)
        .unwrap() as i32;
    if irqchip {
        vmm.ioctl(vm, KVM_CREATE_IRQCHIP, 0).unwrap();
    }
    vmm.enable_cap(vm, KVM_CAP_DISABLE_QUIRKS2, without_quirks)
        .unwrap();
    let vcpu = vmm.ioctl(vm, KVM_CREATE_VCPU, 0).unwrap() as i32;
    Plain { vmm, vm, vcpu }
}

/// What an ioctl of /dev/kvm lists.
pub fn msr_list(vmm: &Vmm, request: u32) -> Vec<u32> {
    let at = vmm.process.map(4096);
    vmm.process_write(at, &1000u32.to_le_bytes());
    vmm.ioctl(vmm.kvm, request, at).unwrap();
    let bytes = vmm.process.read_vec(at, 4096).unwrap();
    let words = bytes
        .as_chunks::<4>()
        .0
        .iter()
        .map(|w| u32::from_le_bytes(*w));
    let n = u32::from_le_bytes(bytes[..4].try_into().unwrap()) as usize;
    words.skip(1).take(n).collect()
}

/// What /dev/kvm says of an MSR.
pub fn feature_msr(vmm: &Vmm, index: u32) -> Option<u64> {
    read_msr(vmm, vmm.kvm, index)
}

fn read_msr(vmm: &Vmm, fd: i32, index: u32) -> Option<u64> {
    let mut entry = KvmMsrEntry {
        index,
        ..Default::default()
    };
    let header = KvmMsrs { nmsrs: 1, pad: 0 };
    let bytes = [header.as_bytes(), entry.as_bytes()].concat();
    let at = vmm.process.map_copy(&bytes);
    let read = vmm.ioctl(fd, KVM_GET_MSRS, at).unwrap();
    let back = vmm.process.read_vec(at + 8, 16).unwrap();
    entry.as_mut_bytes().copy_from_slice(&back);
    (read == 1).then_some(entry.data)
}

impl Plain {
    pub fn get<T: FromZeros + FromBytes + IntoBytes + Immutable>(&self, request: u32) -> T {
        let mut value = T::new_zeroed();
        self.vmm
            .ioctl_with(self.vcpu, request, &mut value)
            .expect("it is given");
        value
    }

    pub fn set<T: IntoBytes + Immutable>(&self, request: u32, value: &T) -> Result<i64, Errno> {
        let at = self.vmm.process.map_copy(value.as_bytes());
        self.vmm.ioctl(self.vcpu, request, at)
    }

    /// CPUID with everything that KVM supports.
    pub fn give_cpuid(&self) {
        self.give_cpuid_without(u32::MAX);
    }

    /// The same, with zeros in a leaf.
    pub fn give_cpuid_without(&self, leaf: u32) {
        let at = self.vmm.process.map(8 + 256 * 40);
        self.vmm.process_write(at, &256u32.to_le_bytes());
        self.vmm
            .ioctl(self.vmm.kvm, KVM_GET_SUPPORTED_CPUID, at)
            .unwrap();
        for n in 0..256 {
            let entry = at + 8 + n * 40;
            let function = self.vmm.process.read_vec(entry, 4).unwrap();
            if function == leaf.to_le_bytes() {
                self.vmm.process_write(entry + 12, &[0; 16]);
            }
        }
        self.vmm.ioctl(self.vcpu, KVM_SET_CPUID2, at).unwrap();
    }

    pub fn leaf(&self, function: u32, index: u32) -> KvmCpuidEntry2 {
        let at = self.vmm.process.map(8 + 256 * 40);
        self.vmm.process_write(at, &256u32.to_le_bytes());
        self.vmm.ioctl(self.vcpu, KVM_GET_CPUID2, at).unwrap();
        let all = self.vmm.process.read_vec(at + 8, 256 * 40).unwrap();
        let mut entries = all
            .chunks(40)
            .map(|e| KvmCpuidEntry2::read_from_bytes(e).unwrap());
        entries
            .find(|e| e.function == function && e.index == index)
            .expect("the leaf is there")
    }

    pub fn msr(&self, index: u32) -> Option<u64> {
        read_msr(&self.vmm, self.vcpu, index)
    }

    /// KVM_ENABLE_CAP of the vCPU.
    pub fn enable_vcpu_cap(&self, cap: u32, arg: u64) -> Result<i64, Errno> {
        self.vmm.enable_cap(self.vcpu, cap, arg)
    }

    /// Guest memory at `gpa`; where it is in the process.
    pub fn map_slot(&self, gpa: u64, size: u64) -> u64 {
        let at = self.vmm.process.map(size);
        let mut region = KvmUserspaceMemoryRegion {
            guest_phys_addr: gpa,
            memory_size: size,
            userspace_addr: at,
            ..Default::default()
        };
        let request = KVM_SET_USER_MEMORY_REGION;
        self.vmm.ioctl_with(self.vm, request, &mut region).unwrap();
        at
    }

    /// Whether user space may write it.
    pub fn set_msr(&self, index: u32, data: u64) -> bool {
        let entry = KvmMsrEntry {
            index,
            reserved: 0,
            data,
        };
        let header = KvmMsrs { nmsrs: 1, pad: 0 };
        let bytes = [header.as_bytes(), entry.as_bytes()].concat();
        let at = self.vmm.process.map_copy(&bytes);
        self.vmm.ioctl(self.vcpu, KVM_SET_MSRS, at) == Ok(1)
    }

    pub fn run_page(&self, offset: usize, bytes: &[u8]) {
        let file = self.vmm.process.file(self.vcpu).expect("open");
        let Kind::Vcpu(vcpu) = file.kind() else {
            panic!("a vCPU")
        };
        vcpu.run_page().write(offset, bytes);
    }

    pub fn read_run_page(&self, offset: usize, out: &mut [u8]) {
        let file = self.vmm.process.file(self.vcpu).expect("open");
        let Kind::Vcpu(vcpu) = file.kind() else {
            panic!("a vCPU")
        };
        vcpu.run_page().read(offset, out);
    }
}
