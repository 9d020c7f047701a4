//! The exact ABI of v7.3 for nested virtualization and Hyper-V: state that user space gives and takes, and
//! how it is refused.

mod vmm;

use seamlock_tdx_abi::kvm::*;
use vmm::{Td, Vmm, boot};
use zerocopy::{FromBytes, FromZeros, IntoBytes};

const NOWHERE: u64 = u64::MAX;
/// The header and a VMCS.
const BYTES: usize = 128 + 4096;

fn plain(vmm: &Vmm) -> Td {
    let vm = vmm
        .ioctl(vmm.kvm, KVM_CREATE_VM, KVM_X86_DEFAULT_VM)
        .unwrap() as i32;
    let mut td = Td {
        vm,
        ..Td::default()
    };
    vmm.create_vcpu(&mut td, 0).unwrap();
    td
}

fn give_vmx(vmm: &Vmm, vcpu: i32) {
    let header = KvmCpuid2 {
        nent: 1,
        padding: 0,
    };
    let entry = KvmCpuidEntry2 {
        function: 1,
        ecx: 1 << 5,
        ..KvmCpuidEntry2::default()
    };
    let bytes = [header.as_bytes(), entry.as_bytes()].concat();
    let at = vmm.process.map_copy(&bytes);
    vmm.ioctl(vcpu, KVM_SET_CPUID2, at).unwrap();
}

fn state(edit: impl FnOnce(&mut KvmNestedState)) -> Vec<u8> {
    let mut state = KvmNestedState {
        size: BYTES as u32,
        vmxon_pa: 0x1000,
        vmcs12_pa: 0x2000,
        ..KvmNestedState::new_zeroed()
    };
    edit(&mut state);
    let mut bytes = state.as_bytes().to_vec();
    bytes.resize(BYTES, 0);
    bytes[128..132].copy_from_slice(&0x11e5_7ed0u32.to_le_bytes());
    bytes
}

fn set(vmm: &Vmm, vcpu: i32, bytes: &[u8]) -> Result<i64, Errno> {
    vmm.ioctl(vcpu, KVM_SET_NESTED_STATE, vmm.process.map_copy(bytes))
}

fn get(vmm: &Vmm, vcpu: i32, room: u32) -> (Result<i64, Errno>, KvmNestedState) {
    let at = vmm.process.map(BYTES as u64);
    vmm.process_write(at + 4, &room.to_le_bytes());
    let reply = vmm.ioctl(vcpu, KVM_GET_NESTED_STATE, at);
    let bytes = vmm.process.read_vec(at, 128).unwrap();
    (reply, KvmNestedState::read_from_bytes(&bytes).unwrap())
}

#[test]
fn a_guest_without_vmx_has_an_empty_nested_state_and_takes_no_other() {
    let vmm = boot();
    let vm = plain(&vmm);
    let vcpu = vm.vcpus[0];
    let (reply, empty) = get(&vmm, vcpu, 128);
    assert_eq!(reply, Ok(0));
    assert_eq!(
        (empty.vmxon_pa, empty.vmcs12_pa, empty.size),
        (NOWHERE, NOWHERE, 128)
    );
    let (reply, told) = get(&vmm, vcpu, 127);
    assert_eq!((reply, told.size), (Err(Errno::E2BIG), 128));
    assert_eq!(set(&vmm, vcpu, &state(|_| {})), Err(Errno::EINVAL));
    let nothing = state(|s| (s.vmxon_pa, s.vmcs12_pa) = (NOWHERE, NOWHERE));
    assert_eq!(set(&vmm, vcpu, &nothing), Ok(0));
    assert_eq!(
        vmm.ioctl(vcpu, KVM_GET_NESTED_STATE, 0x10),
        Err(Errno::EFAULT)
    );
    assert_eq!(
        vmm.ioctl(vcpu, KVM_SET_NESTED_STATE, 0x10),
        Err(Errno::EFAULT)
    );
}

#[test]
fn vmx_operation_is_set_and_read_back_with_its_vmcs() {
    let vmm = boot();
    let vm = plain(&vmm);
    let vcpu = vm.vcpus[0];
    give_vmx(&vmm, vcpu);
    assert_eq!(set(&vmm, vcpu, &state(|_| {})), Ok(0));
    assert_eq!(get(&vmm, vcpu, 128).0, Err(Errno::E2BIG));
    let (reply, there) = get(&vmm, vcpu, BYTES as u32);
    assert_eq!(reply, Ok(0));
    assert_eq!((there.vmxon_pa, there.vmcs12_pa), (0x1000, 0x2000));
    assert_eq!(there.size as usize, BYTES);
    // Without a VMCS the header is all there is.
    let no_vmcs = state(|s| (s.vmcs12_pa, s.size) = (NOWHERE, 128));
    assert_eq!(set(&vmm, vcpu, &no_vmcs), Ok(0));
    let (reply, there) = get(&vmm, vcpu, 128);
    assert_eq!(
        (reply, there.vmxon_pa, there.vmcs12_pa),
        (Ok(0), 0x1000, NOWHERE)
    );
}

#[test]
fn nested_state_that_can_not_be_is_refused() {
    type Edit = fn(&mut KvmNestedState);
    let edits: &[(&str, Edit)] = &[
        ("x86.c:3796", |s| s.size = 127),
        ("x86.c:3796", |s| s.flags = 1 << 4),
        ("x86.c:3796", |s| s.flags = KVM_STATE_NESTED_RUN_PENDING),
        ("nested.c:6921", |s| s.format = 1),
        ("nested.c:6921", |s| s.vmxon_pa = NOWHERE),
        ("nested.c:6921", |s| s.vmxon_pa = 1),
        ("nested.c:6921", |s| s.vmxon_pa = 1 << 52),
        ("nested.c:6921", |s| s.vmx_flags = 2),
        ("nested.c:6921", |s| s.smm_flags = 4),
        ("nested.c:6921", |s| {
            s.smm_flags = KVM_STATE_NESTED_SMM_VMXON
        }),
        ("nested.c:6921", |s| s.flags = KVM_STATE_NESTED_EVMCS),
        ("nested.c:6992", |s| s.size = 128),
        ("nested.c:6992", |s| s.vmcs12_pa = s.vmxon_pa),
        ("nested.c:6992", |s| s.vmcs12_pa = NOWHERE),
        ("only TDs have guest code", |s| {
            s.flags = KVM_STATE_NESTED_GUEST_MODE
        }),
    ];
    let vmm = boot();
    let vm = plain(&vmm);
    give_vmx(&vmm, vm.vcpus[0]);
    for (i, (site, edit)) in edits.iter().enumerate() {
        let at = vmm.process.map_copy(&state(edit));
        let error = vmm
            .try_ioctl(vm.vcpus[0], KVM_SET_NESTED_STATE, at)
            .unwrap_err();
        assert_eq!(error.errno, Errno::EINVAL, "row {i}: {error}");
        assert!(error.site.contains(site), "row {i}: {error}, not {site}");
    }
    let mut other = state(|_| {});
    other[128] ^= 1;
    assert_eq!(set(&vmm, vm.vcpus[0], &other), Err(Errno::EINVAL));
}

#[test]
fn a_td_has_no_nested_state() {
    let vmm = boot();
    let td = vmm.build(1);
    assert_eq!(get(&vmm, td.vcpus[0], 128).0, Err(Errno::EINVAL));
    assert_eq!(
        vmm.ioctl(td.vcpus[0], KVM_GET_NESTED_STATE, 0x10),
        Err(Errno::EFAULT)
    );
    let nothing = state(|s| (s.vmxon_pa, s.vmcs12_pa) = (NOWHERE, NOWHERE));
    assert_eq!(set(&vmm, td.vcpus[0], &nothing), Ok(0));
    assert_eq!(set(&vmm, td.vcpus[0], &state(|_| {})), Err(Errno::EINVAL));
    vmm.drop_td(&td);
}

fn hv_cpuid(vmm: &Vmm, fd: i32, nent: u32) -> Result<Vec<KvmCpuidEntry2>, Errno> {
    let at = vmm.process.map(4096);
    vmm.process_write(at, &nent.to_le_bytes());
    vmm.ioctl(fd, KVM_GET_SUPPORTED_HV_CPUID, at)?;
    let there = vmm.process.read_vec(at, 8 + 40 * 16).unwrap();
    let n = u32::from_le_bytes(there[..4].try_into().unwrap()) as usize;
    let entries = there[8..].chunks(40).take(n);
    Ok(entries
        .map(|e| KvmCpuidEntry2::read_from_bytes(e).unwrap())
        .collect())
}

#[test]
fn hyper_v_is_offered_with_direct_timers_only_where_the_local_apic_is_in_the_kernel() {
    let vmm = boot();
    assert_eq!(hv_cpuid(&vmm, vmm.kvm, 9), Err(Errno::E2BIG));
    let all = hv_cpuid(&vmm, vmm.kvm, 16).unwrap();
    assert_eq!(all.len(), 10);
    assert_eq!(
        (all[0].eax, all[0].ebx),
        (0x4000_0082, u32::from_le_bytes(*b"Linu"))
    );
    let of = |all: &[KvmCpuidEntry2], leaf| *all.iter().find(|e| e.function == leaf).unwrap();
    let (direct, cluster) = (1 << 19, 1 << 10);
    assert_ne!(of(&all, 0x4000_0003).edx & direct, 0);
    assert_ne!(of(&all, 0x4000_0004).eax & cluster, 0);
    let vm = plain(&vmm);
    let own = hv_cpuid(&vmm, vm.vcpus[0], 10).unwrap();
    assert_eq!(of(&own, 0x4000_0003).edx & direct, 0);
    assert_eq!(of(&own, 0x4000_0004).eax & cluster, 0);
    // The enlightened VMCS shows when it was enabled.
    assert_eq!(of(&own, 0x4000_000a).eax & 0xffff, 0);
    let version = vmm.process.map(8);
    let cap = KVM_CAP_HYPERV_ENLIGHTENED_VMCS;
    assert_eq!(vmm.enable_cap(vm.vcpus[0], cap, version), Ok(0));
    assert_eq!(vmm.process.read_vec(version, 2), Ok(vec![1, 1]));
    let own = hv_cpuid(&vmm, vm.vcpus[0], 10).unwrap();
    assert_eq!(of(&own, 0x4000_000a).eax & 0xffff, 0x101);
}

#[test]
fn what_of_hyper_v_a_vcpu_enables_is_checked_in_the_kernels_order() {
    let vmm = boot();
    let vm = plain(&vmm);
    let td = vmm.build(1);
    let without_apic = vm.vcpus[0];
    let rows = [
        (without_apic, KVM_CAP_HYPERV_SYNIC, 0, Err(Errno::EINVAL)),
        (td.vcpus[0], KVM_CAP_HYPERV_SYNIC, 0, Ok(0)),
        (td.vcpus[0], KVM_CAP_HYPERV_SYNIC2, 1, Err(Errno::EINVAL)),
        (td.vcpus[0], KVM_CAP_HYPERV_SYNIC2, 0, Ok(0)),
        (
            td.vcpus[0],
            KVM_CAP_HYPERV_ENLIGHTENED_VMCS,
            0x10,
            Err(Errno::EFAULT),
        ),
        (
            td.vcpus[0],
            KVM_CAP_HYPERV_DIRECT_TLBFLUSH,
            0,
            Err(Errno::ENOTTY),
        ),
        (td.vcpus[0], KVM_CAP_HYPERV_ENFORCE_CPUID, 1, Ok(0)),
        (td.vcpus[0], KVM_CAP_HYPERV, 0, Err(Errno::EINVAL)),
    ];
    for (vcpu, cap, arg, answer) in rows {
        assert_eq!(vmm.enable_cap(vcpu, cap, arg), answer, "{cap}");
    }
    let event = |conn_id, flags| {
        let event = KvmHypervEventfd {
            conn_id,
            fd: -1,
            flags,
            ..Default::default()
        };
        vmm.ioctl(
            td.vm,
            KVM_HYPERV_EVENTFD,
            vmm.process.map_copy(event.as_bytes()),
        )
    };
    assert_eq!(event(1, 2), Err(Errno::EINVAL));
    assert_eq!(event(1 << 24, 0), Err(Errno::EINVAL));
    assert_eq!(event(1, KVM_HYPERV_EVENTFD_DEASSIGN), Err(Errno::ENOENT));
    assert_eq!(event(1, 0), Err(Errno::EBADF));
    vmm.drop_td(&td);
}
