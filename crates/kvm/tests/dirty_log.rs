//! Dirty logs and dirty rings, without a guest: what may be enabled when, what the ring and the log hold of
//! what KVM writes itself, and what clears it. Source: Linux v7.3.4 `virt/kvm/kvm_main.c`, `dirty_ring.c`.

mod plain;
mod vmm;

use plain::{Plain, plain};
use seamlock_kvm::file::Kind;
use seamlock_kvm::task::Files;
use seamlock_tdx_abi::kvm::*;
use vmm::{Vmm, boot};
use zerocopy::{FromBytes, FromZeros, IntoBytes};

const RING: usize = KVM_DIRTY_LOG_PAGE_OFFSET * 4096;
const GUEST_OS_ID: u32 = 0x4000_0000;
const HYPERCALL: u32 = 0x4000_0001;

fn new_vm(vmm: &Vmm, vm_type: u64) -> i32 {
    vmm.ioctl(vmm.kvm, KVM_CREATE_VM, vm_type).expect("a VM") as i32
}

#[test]
fn a_ring_is_a_power_of_two_of_bytes_and_enabled_once_before_vcpus() {
    let vmm = boot();
    let ring = KVM_CAP_DIRTY_LOG_RING;
    assert_eq!(
        vmm.ioctl(vmm.kvm, KVM_CHECK_EXTENSION, ring.into()),
        Ok(1 << 20)
    );
    // kvm_main.c:5007, 5012, 5017; 64 entries and those of PML have to fit, which a TD has not.
    for (vm_type, least) in [(KVM_X86_DEFAULT_VM, 16384), (KVM_X86_TDX_VM, 4096)] {
        let vm = new_vm(&vmm, vm_type);
        for (bytes, errno) in [
            (0, Errno::EINVAL),
            (least * 3, Errno::EINVAL),
            (least / 2, Errno::EINVAL),
            (1 << 21, Errno::E2BIG),
        ] {
            assert_eq!(vmm.enable_cap(vm, ring, bytes), Err(errno), "{bytes}");
        }
        assert_eq!(vmm.ioctl(vm, KVM_RESET_DIRTY_RINGS, 0), Err(Errno::EINVAL));
        // The size is an int, and flags are not looked at.
        let mut cap = KvmEnableCap {
            cap: KVM_CAP_DIRTY_LOG_RING_ACQ_REL,
            flags: 1,
            ..KvmEnableCap::new_zeroed()
        };
        cap.args[0] = 1 << 32 | least;
        assert_eq!(vmm.ioctl_with(vm, KVM_ENABLE_CAP, &mut cap), Ok(0));
        assert_eq!(vmm.enable_cap(vm, ring, least), Err(Errno::EINVAL));
        assert_eq!(vmm.ioctl(vm, KVM_RESET_DIRTY_RINGS, 0), Ok(0));
    }
    let vm = new_vm(&vmm, KVM_X86_DEFAULT_VM);
    vmm.ioctl(vm, KVM_CREATE_VCPU, 0).expect("a vCPU");
    assert_eq!(vmm.enable_cap(vm, ring, 16384), Err(Errno::EINVAL));
    let bitmap = KVM_CAP_DIRTY_LOG_RING_WITH_BITMAP;
    assert_eq!(vmm.enable_cap(vm, bitmap, 0), Err(Errno::EINVAL));
}

/// Memory at 0 that is logged; a vCPU whose guest is Windows, as far as KVM knows.
fn logged(vmm: Vmm, vm: i32) -> Plain {
    vmm.ioctl(vm, KVM_CREATE_IRQCHIP, 0).expect("an irqchip");
    let vcpu = vmm.ioctl(vm, KVM_CREATE_VCPU, 0).expect("a vCPU") as i32;
    let mut region = KvmUserspaceMemoryRegion {
        slot: 2,
        flags: KVM_MEM_LOG_DIRTY_PAGES,
        memory_size: 70 * 4096,
        userspace_addr: vmm.process.map(70 * 4096),
        ..Default::default()
    };
    vmm.ioctl_with(vm, KVM_SET_USER_MEMORY_REGION, &mut region)
        .expect("a slot");
    let vm = Plain { vmm, vm, vcpu };
    assert!(vm.set_msr(GUEST_OS_ID, 1));
    vm
}

/// Has KVM write the hypercall page.
fn dirty(vm: &Plain, page: u64) {
    assert!(vm.set_msr(HYPERCALL, page << 12 | 1));
}

fn entry(vm: &Plain, at: usize) -> KvmDirtyGfn {
    let mut bytes = [0; 16];
    vm.read_run_page(RING + 16 * at, &mut bytes);
    KvmDirtyGfn::read_from_bytes(&bytes).expect("16 bytes")
}

#[test]
fn what_kvm_writes_is_in_the_vcpus_ring_until_user_space_has_taken_note() {
    let vmm = boot();
    let vm = new_vm(&vmm, KVM_X86_DEFAULT_VM);
    vmm.enable_cap(vm, KVM_CAP_DIRTY_LOG_RING, 16384)
        .expect("rings");
    let vm = logged(vmm, vm);
    for page in [5, 69] {
        dirty(&vm, page);
    }
    let pages = [5, 69].map(|offset| KvmDirtyGfn {
        flags: KVM_DIRTY_GFN_F_DIRTY,
        slot: 2,
        offset,
    });
    assert_eq!([entry(&vm, 0), entry(&vm, 1)], pages);
    let reset = || vm.vmm.ioctl(vm.vm, KVM_RESET_DIRTY_RINGS, 0);
    assert_eq!(reset(), Ok(0));
    // In order only: what is behind an entry that was not harvested waits.
    let harvested = KVM_DIRTY_GFN_F_RESET.to_le_bytes();
    vm.run_page(RING + 16, &harvested);
    assert_eq!(reset(), Ok(0));
    vm.run_page(RING, &harvested);
    vm.vmm.control.signal(false);
    assert_eq!(reset(), Ok(0));
    vm.vmm.control.clear_signals();
    assert_eq!(reset(), Ok(2));
    assert_eq!((entry(&vm, 0).flags, entry(&vm, 1).flags), (0, 0));
    dirty(&vm, 7);
    assert_eq!(entry(&vm, 2).offset, 7);
    // kvm_main.c:2268 and 2380, before anything about the slot.
    let log = KvmDirtyLog {
        slot: 9,
        padding1: 0,
        dirty_bitmap: 0,
    };
    let at = vm.vmm.process.map_copy(log.as_bytes());
    let refused = Err(Errno::ENXIO);
    assert_eq!(vm.vmm.ioctl(vm.vm, KVM_GET_DIRTY_LOG, at), refused);
    let clear = vm.vmm.process.map(24);
    assert_eq!(vm.vmm.ioctl(vm.vm, KVM_CLEAR_DIRTY_LOG, clear), refused);
}

fn get_log(vm: &Plain) -> [u64; 2] {
    let dirty_bitmap = vm.vmm.process.map(16);
    let log = KvmDirtyLog {
        slot: 2,
        padding1: 0,
        dirty_bitmap,
    };
    let at = vm.vmm.process.map_copy(log.as_bytes());
    assert_eq!(vm.vmm.ioctl(vm.vm, KVM_GET_DIRTY_LOG, at), Ok(0));
    let bytes = vm.vmm.process.read_vec(dirty_bitmap, 16).expect("mapped");
    <[u64; 2]>::read_from_bytes(&bytes).expect("16 bytes")
}

fn clear_log(vm: &Plain, first_page: u64, words: &[u64]) {
    let log = KvmClearDirtyLog {
        slot: 2,
        num_pages: (70 - first_page) as u32,
        first_page,
        dirty_bitmap: vm.vmm.process.map_copy(words.as_bytes()),
    };
    let at = vm.vmm.process.map_copy(log.as_bytes());
    assert_eq!(vm.vmm.ioctl(vm.vm, KVM_CLEAR_DIRTY_LOG, at), Ok(0));
}

#[test]
fn reading_a_log_clears_it_unless_user_space_clears_by_hand() {
    let vmm = boot();
    let vm = new_vm(&vmm, KVM_X86_DEFAULT_VM);
    let vm = logged(vmm, vm);
    dirty(&vm, 5);
    dirty(&vm, 69);
    assert_eq!((get_log(&vm), get_log(&vm)), ([1 << 5, 1 << 5], [0, 0]));
    let manual = KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2;
    assert_eq!(vm.vmm.enable_cap(vm.vm, manual, 1), Ok(0));
    dirty(&vm, 5);
    dirty(&vm, 69);
    assert_eq!(
        (get_log(&vm), get_log(&vm)),
        ([1 << 5, 1 << 5], [1 << 5, 1 << 5])
    );
    clear_log(&vm, 64, &[u64::MAX]);
    assert_eq!(get_log(&vm), [1 << 5, 0]);
    clear_log(&vm, 0, &[1 << 6, 0]);
    assert_eq!(get_log(&vm), [1 << 5, 0]);
}

#[test]
fn a_log_that_is_set_at_first_has_the_slots_pages_and_no_more() {
    let vmm = boot();
    let vm = new_vm(&vmm, KVM_X86_DEFAULT_VM);
    let manual = KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2;
    assert_eq!(vmm.enable_cap(vm, manual, 3), Ok(0));
    let vm = logged(vmm, vm);
    assert_eq!(get_log(&vm), [u64::MAX, 0x3f]);
    clear_log(&vm, 0, &[!1, u64::MAX]);
    assert_eq!(get_log(&vm), [1, 0]);
    dirty(&vm, 66);
    assert_eq!(get_log(&vm), [1, 4]);
}

#[test]
fn memory_that_is_not_logged_is_in_no_log() {
    let vm = plain(true);
    vm.map_slot(0, 0x4000);
    assert!(vm.set_msr(GUEST_OS_ID, 1));
    dirty(&vm, 1);
    let file = vm.vmm.process.file(vm.vm).expect("open");
    let Kind::Vm(kvm) = file.kind() else {
        panic!("a VM")
    };
    assert_eq!(kvm.dirty_ring_size(), 0);
}
