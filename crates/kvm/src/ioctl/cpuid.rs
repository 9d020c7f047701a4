//! CPUID tables: what KVM supports, and what a vCPU was given.

use std::sync::Arc;

use seamlock_tdx_abi::kvm::{
    Errno, KVM_CPUID_FLAG_SIGNIFCANT_INDEX, KVM_MAX_CPUID_ENTRIES, KvmCpuid2, KvmCpuidEntry2,
};
use zerocopy::{FromBytes, FromZeros, IntoBytes};

use super::supported_cpuid::{supported, xstate_required_size};
use crate::error::{Result, fail};
use crate::host::Host;
use crate::task::Task;
use crate::vcpu::VcpuRef;

const SITE: &str = "arch/x86/kvm/cpuid.c kvm_dev_ioctl_get_cpuid";

/// Bytes before the entries.
const HEADER: u64 = size_of::<KvmCpuid2>() as u64;

pub(super) fn get_supported_cpuid(task: &Task, host: &Arc<Host>, arg: u64) -> Result<i64> {
    copy_out(task, arg, &supported(host.module().platform()))
}

/// Instructions that KVM emulates though no leaf of KVM_GET_SUPPORTED_CPUID says so: MOVBE, RDPID. Room
/// for one entry more than there are is asked for, and padding that is zero.
pub(super) fn get_emulated_cpuid(task: &Task, _host: &Arc<Host>, arg: u64) -> Result<i64> {
    let mut header: KvmCpuid2 = task.get(arg, SITE)?;
    if header.nent == 0 {
        return fail(Errno::E2BIG, SITE, "room for no entry");
    }
    header.nent = header.nent.min(KVM_MAX_CPUID_ENTRIES);
    let entries = arg.wrapping_add(HEADER);
    let mut there = vec![KvmCpuidEntry2::default(); header.nent as usize];
    let read = task.get_bytes(entries, there.as_mut_bytes(), SITE);
    if read.is_err() || there.iter().any(|entry| entry.padding != [0; 3]) {
        const SITE: &str = "arch/x86/kvm/cpuid.c sanity_check_entries";
        return fail(Errno::EINVAL, SITE, "padding is not zero, or not readable");
    }
    let entry = |function, flags, eax, ecx| KvmCpuidEntry2 {
        function,
        flags,
        eax,
        ecx,
        ..KvmCpuidEntry2::default()
    };
    let emulated = [
        entry(0, 0, 7, 0),
        entry(1, 0, 0, 1 << 22),
        entry(7, KVM_CPUID_FLAG_SIGNIFCANT_INDEX, 0, 1 << 22),
    ];
    if header.nent as usize <= emulated.len() {
        return fail(Errno::E2BIG, SITE, "room for too few entries");
    }
    header.nent = emulated.len() as u32;
    task.put(entries, &emulated[..], SITE)?;
    task.put(arg, &header, SITE)?;
    Ok(0)
}

/// Nothing is written back when there is no room.
fn copy_out(task: &Task, arg: u64, entries: &[KvmCpuidEntry2]) -> Result<i64> {
    let mut header: KvmCpuid2 = task.get(arg, SITE)?;
    if (header.nent as usize) < entries.len() || header.nent == 0 {
        return fail(Errno::E2BIG, SITE, "room for fewer entries than there are");
    }
    task.put(arg.wrapping_add(HEADER), entries, SITE)?;
    header.nent = entries.len() as u32;
    task.put(arg, &header, SITE)?;
    Ok(0)
}

/// `struct kvm_cpuid_entry`: function, EAX to EDX, padding.
type OldEntry = [u32; 6];

/// `kvm_vcpu_ioctl_set_cpuid`, with entries that know no subleaves.
pub(super) fn set_cpuid(task: &Task, vcpu: &VcpuRef, arg: u64) -> Result<i64> {
    const SITE: &str = "arch/x86/kvm/cpuid.c:590 kvm_vcpu_ioctl_set_cpuid";
    let old: Vec<OldEntry> = copy_in(task, arg, OldEntry::new_zeroed(), SITE)?;
    let entry = |&[function, eax, ebx, ecx, edx, _]: &OldEntry| KvmCpuidEntry2 {
        function,
        eax,
        ebx,
        ecx,
        edx,
        ..KvmCpuidEntry2::default()
    };
    set(vcpu, old.iter().map(entry).collect())
}

/// `kvm_vcpu_ioctl_set_cpuid2`.
pub(super) fn set_cpuid2(task: &Task, vcpu: &VcpuRef, arg: u64) -> Result<i64> {
    const SITE: &str = "arch/x86/kvm/cpuid.c:635 kvm_vcpu_ioctl_set_cpuid2";
    set(vcpu, copy_in(task, arg, KvmCpuidEntry2::default(), SITE)?)
}

fn copy_in<T: FromBytes + IntoBytes + Copy>(
    task: &Task,
    arg: u64,
    zero: T,
    site: &'static str,
) -> Result<Vec<T>> {
    let header: KvmCpuid2 = task.get(arg, site)?;
    if header.nent > KVM_MAX_CPUID_ENTRIES {
        return fail(
            Errno::E2BIG,
            site,
            "more than KVM_MAX_CPUID_ENTRIES entries",
        );
    }
    let mut entries = vec![zero; header.nent as usize];
    task.get_bytes(arg.wrapping_add(HEADER), entries.as_mut_bytes(), site)?;
    Ok(entries)
}

/// `kvm_set_cpuid`. Padding is not looked at.
fn set(vcpu: &VcpuRef, mut entries: Vec<KvmCpuidEntry2>) -> Result<i64> {
    entries.iter_mut().for_each(|entry| entry.padding = [0; 3]);
    update_runtime(&mut entries, &Runtime::of(vcpu));
    let same = vcpu
        .state
        .with(|state| state.has_run.then(|| state.cpuid == entries));
    match same {
        Some(true) => return Ok(0),
        Some(false) => {
            const SITE: &str = "arch/x86/kvm/cpuid.c:555 kvm_set_cpuid";
            return fail(Errno::EINVAL, SITE, "CPUID changes after the vCPU has run");
        }
        None => check(&entries)?,
    }
    vcpu.state.with(|state| {
        state.cpuid = entries;
        // kvm_mmu_after_set_cpuid: the next use loads the roots anew.
        state.has_roots = false;
    });
    vcpu.msrs_follow_cpuid(vcpu.kvm());
    Ok(0)
}

/// `kvm_find_cpuid_entry_index`.
fn first(entries: &mut [KvmCpuidEntry2], function: u32, index: u32) -> Option<&mut KvmCpuidEntry2> {
    entries.iter_mut().find(|e| {
        let significant = e.flags & KVM_CPUID_FLAG_SIGNIFCANT_INDEX != 0;
        e.function == function && (!significant || e.index == index)
    })
}

/// What of a vCPU's state its CPUID shows. That of a TD is kept to itself, and reads as after reset: CR4
/// zero, XCR0 x87 alone, the local APIC on.
struct Runtime {
    osxsave: bool,
    ospke: bool,
    apic: bool,
    /// Bytes of an XSAVE area with what is on, standard and compacted.
    xsave: [u32; 2],
}

impl Runtime {
    fn of(vcpu: &VcpuRef) -> Runtime {
        const APIC_ENABLE: u64 = 1 << 11;
        const XSS: u32 = 0xda0;
        let platform = vcpu.kvm().host.module().platform();
        let own = vcpu.state.with(|state| {
            let registers = state.registers.as_ref()?;
            let xss = state.msrs.get(&XSS).copied().unwrap_or(0);
            let apic = state.apic_base & APIC_ENABLE != 0;
            Some((registers.os_features(), apic, registers.xcr0, xss))
        });
        let ((osxsave, ospke), apic, xcr0, xss) = own.unwrap_or(((false, false), true, 1, 0));
        Runtime {
            osxsave,
            ospke,
            apic,
            xsave: [
                xstate_required_size(platform, xcr0, false),
                xstate_required_size(platform, xcr0 | xss, true),
            ],
        }
    }
}

fn set_bit(register: &mut u32, bit: u32, value: bool) {
    *register = *register & !(1 << bit) | u32::from(value) << bit;
}

/// `kvm_update_cpuid_runtime`.
fn update_runtime(entries: &mut [KvmCpuidEntry2], runtime: &Runtime) {
    const XSAVES_OR_XSAVEC: u32 = 1 << 3 | 1 << 1;
    if let Some(features) = first(entries, 1, 0) {
        set_bit(&mut features.ecx, 27, runtime.osxsave);
        set_bit(&mut features.edx, 9, runtime.apic);
    }
    if let Some(features) = first(entries, 7, 0) {
        set_bit(&mut features.ecx, 4, runtime.ospke);
    }
    let [standard, compacted] = runtime.xsave;
    if let Some(xstate) = first(entries, 0xd, 0) {
        xstate.ebx = standard;
    }
    if let Some(xstate) = first(entries, 0xd, 1).filter(|e| e.eax & XSAVES_OR_XSAVEC != 0) {
        xstate.ebx = compacted;
    }
}

/// `kvm_check_cpuid`: linear addresses have 48 or 57 bits, or the leaf says nothing.
fn check(entries: &[KvmCpuidEntry2]) -> Result<()> {
    const SITE: &str = "arch/x86/kvm/cpuid.c:149 kvm_check_cpuid";
    let leaf = entries.iter().find(|e| e.function == 0x8000_0008);
    match leaf.map_or(0, |e| e.eax >> 8 & 0xff) {
        0 | 48 | 57 => Ok(()),
        _ => fail(
            Errno::EINVAL,
            SITE,
            "linear addresses have neither 48 nor 57 bits",
        ),
    }
}

/// `kvm_vcpu_ioctl_get_cpuid2`.
pub(super) fn get_cpuid2(task: &Task, vcpu: &VcpuRef, arg: u64) -> Result<i64> {
    const SITE: &str = "arch/x86/kvm/cpuid.c:658 kvm_vcpu_ioctl_get_cpuid2";
    let mut header: KvmCpuid2 = task.get(arg, SITE)?;
    let mut entries = vcpu.state.with(|state| state.cpuid.clone());
    if (header.nent as usize) < entries.len() {
        return fail(
            Errno::E2BIG,
            SITE,
            "room for fewer entries than the vCPU has",
        );
    }
    update_runtime(&mut entries, &Runtime::of(vcpu));
    task.put(arg.wrapping_add(HEADER), &entries[..], SITE)?;
    header.nent = entries.len() as u32;
    task.put(arg, &header, SITE)?;
    Ok(0)
}
