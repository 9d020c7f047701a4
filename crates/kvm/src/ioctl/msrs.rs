//! MSRs as user space reads and writes them: KVM_GET_MSRS, KVM_SET_MSRS, KVM_GET_ONE_REG and
//! KVM_SET_ONE_REG of a vCPU, and the filter of a VM.
//!
//! Source: Linux v7.3.4 `arch/x86/kvm/msrs.c`.

use std::sync::Arc;

use seamlock_tdx_abi::kvm::{
    Errno, KVM_MSR_FILTER_DEFAULT_DENY, KVM_MSR_FILTER_MAX_BITMAP_SIZE, KVM_MSR_FILTER_READ,
    KVM_MSR_FILTER_WRITE, KvmMsrEntry, KvmMsrFilter, KvmMsrs, KvmOneReg,
};
use zerocopy::{FromZeros, IntoBytes};

use super::supported_cpuid::supported;
use crate::error::{Result, fail};
use crate::task::Task;
use crate::vcpu::VcpuRef;
use crate::vm::{Kvm, MsrFilter, MsrFilterRange};

const SITE: &str = "arch/x86/kvm/msrs.c:2264 msr_io";
/// `MAX_IO_MSRS`.
const MAX_IO_MSRS: u32 = 256;

/// Returns how many were read; the first that can't be ends it. All entries are written back.
pub(super) fn get_msrs(task: &Task, vcpu: &VcpuRef, arg: u64) -> Result<i64> {
    let _srcu = vcpu.kvm().srcu.read();
    msr_io(task, arg, true, |entry| {
        match vcpu.msr(vcpu.kvm(), entry.index) {
            Some(value) => {
                entry.data = value;
                true
            }
            None => {
                entry.data = 0;
                false
            }
        }
    })
}

/// Returns how many were accepted; the first that is read-only or unknown ends it.
pub(super) fn set_msrs(task: &Task, vcpu: &VcpuRef, arg: u64) -> Result<i64> {
    let _srcu = vcpu.kvm().srcu.read();
    msr_io(task, arg, false, |entry| {
        vcpu.set_msr(task, vcpu.kvm(), entry.index, entry.data)
    })
}

/// `msr_io`: the array is copied in whole, and whole again back.
pub(super) fn msr_io(
    task: &Task,
    arg: u64,
    write_back: bool,
    each: impl FnMut(&mut KvmMsrEntry) -> bool,
) -> Result<i64> {
    let header: KvmMsrs = task.get(arg, SITE)?;
    if header.nmsrs >= MAX_IO_MSRS {
        return fail(Errno::E2BIG, SITE, "256 MSRs or more");
    }
    let at = arg.wrapping_add(size_of::<KvmMsrs>() as u64);
    let mut entries = vec![KvmMsrEntry::new_zeroed(); header.nmsrs as usize];
    task.get_bytes(at, entries.as_mut_bytes(), SITE)?;
    let done = entries.iter_mut().map(each).take_while(|ok| *ok).count();
    if write_back {
        task.put(at, &entries[..], SITE)?;
    }
    Ok(done as i64)
}

/// What a register id names, if it is an MSR of 8 bytes.
fn one_msr(id: u64) -> Result<u32> {
    const SITE: &str = "arch/x86/kvm/msrs.c:2376 kvm_get_set_one_reg";
    const X86: u64 = 0x20;
    const MSR: u64 = 2;
    const EIGHT_BYTES: u64 = 3;
    let (arch, size) = (id >> 56, id >> 52 & 0xf);
    let (reserved, kind) = (id >> 40 & 0xfff, id >> 32 & 0xff);
    if arch != X86 || reserved != 0 || kind != MSR || size != EIGHT_BYTES {
        // KVM's own register, the shadow stack pointer, is an MSR that no TD emulates.
        return fail(Errno::EINVAL, SITE, "the register is no MSR of 8 bytes");
    }
    Ok(id as u32)
}

pub(super) fn get_one_reg(task: &Task, vcpu: &VcpuRef, arg: u64) -> Result<i64> {
    const SITE: &str = "arch/x86/kvm/msrs.c:2318 kvm_get_one_msr";
    let reg: KvmOneReg = task.get(arg, SITE)?;
    let msr = one_msr(reg.id)?;
    let _srcu = vcpu.kvm().srcu.read();
    let Some(value) = vcpu.msr(vcpu.kvm(), msr) else {
        return fail(Errno::EINVAL, SITE, "the MSR can't be read");
    };
    task.put(reg.addr, &value, SITE)?;
    Ok(0)
}

pub(super) fn set_one_reg(task: &Task, vcpu: &VcpuRef, arg: u64) -> Result<i64> {
    const SITE: &str = "arch/x86/kvm/msrs.c:2331 kvm_set_one_msr";
    let reg: KvmOneReg = task.get(arg, SITE)?;
    let msr = one_msr(reg.id)?;
    let _srcu = vcpu.kvm().srcu.read();
    let value: u64 = task.get(reg.addr, SITE)?;
    if !vcpu.set_msr(task, vcpu.kvm(), msr, value) {
        return fail(Errno::EINVAL, SITE, "the MSR can't be written");
    }
    Ok(0)
}

/// `kvm_get_reg_list`: the shadow stack pointer, where the guest's CPUID has shadow stacks.
pub(super) fn get_reg_list(task: &Task, vcpu: &VcpuRef, arg: u64) -> Result<i64> {
    const SITE: &str = "arch/x86/kvm/msrs.c:2424 kvm_get_reg_list";
    /// KVM_X86_REG_KVM(KVM_REG_GUEST_SSP).
    const GUEST_SSP: u64 = 0x2030_0003_0000_0000;
    const SHSTK: u32 = 1 << 7;
    let platform = vcpu.kvm().host.module().platform();
    let has = |entries: &[seamlock_tdx_abi::kvm::KvmCpuidEntry2]| {
        let mut leaf = entries.iter().filter(|e| e.function == 7 && e.index == 0);
        leaf.next().is_some_and(|e| e.ecx & SHSTK != 0)
    };
    let guest = vcpu.state.with(|state| has(&state.cpuid));
    let list: &[u64] = if guest && has(&supported(platform)) {
        &[GUEST_SSP]
    } else {
        &[]
    };
    let room: u64 = task.get(arg, SITE)?;
    task.put(arg, &(list.len() as u64), SITE)?;
    if room < list.len() as u64 {
        return fail(
            Errno::E2BIG,
            SITE,
            "room for fewer registers than there are",
        );
    }
    task.put(arg.wrapping_add(8), list, SITE)?;
    Ok(0)
}

/// `kvm_vm_ioctl_set_msr_filter`.
pub(super) fn set_msr_filter(task: &Task, kvm: &Arc<Kvm>, arg: u64) -> Result<i64> {
    const SITE: &str = "arch/x86/kvm/msrs.c:2505 kvm_vm_ioctl_set_msr_filter";
    let filter: KvmMsrFilter = task.get(arg, SITE)?;
    if filter.flags & !KVM_MSR_FILTER_DEFAULT_DENY != 0 {
        return fail(Errno::EINVAL, SITE, "an unknown flag is set");
    }
    let default_allow = filter.flags & KVM_MSR_FILTER_DEFAULT_DENY == 0;
    if filter.ranges.iter().all(|range| range.nmsrs == 0) && !default_allow {
        return fail(Errno::EINVAL, SITE, "all MSRs denied and no range");
    }
    let mut ranges = Vec::new();
    for range in filter.ranges.iter().filter(|range| range.nmsrs != 0) {
        const SITE: &str = "arch/x86/kvm/msrs.c:2471 kvm_add_msr_filter";
        let flags = range.flags;
        if flags & !(KVM_MSR_FILTER_READ | KVM_MSR_FILTER_WRITE) != 0 || flags == 0 {
            return fail(
                Errno::EINVAL,
                SITE,
                "a range filters neither reads nor writes",
            );
        }
        let bytes = u64::from(range.nmsrs).div_ceil(64) * 8;
        if bytes > u64::from(KVM_MSR_FILTER_MAX_BITMAP_SIZE) {
            return fail(Errno::EINVAL, SITE, "a bitmap is too large");
        }
        let mut bitmap = vec![0; bytes as usize];
        task.get_bytes(range.bitmap, &mut bitmap, SITE)?;
        ranges.push(MsrFilterRange {
            flags,
            base: range.base,
            nmsrs: range.nmsrs,
            bitmap,
        });
    }
    let filter = MsrFilter {
        default_allow,
        ranges,
    };
    {
        let _lock = kvm.lock.lock();
        kvm.arch.with(|arch| arch.msr_filter = Some(filter.into()));
    }
    kvm.srcu.synchronize();
    Ok(0)
}
