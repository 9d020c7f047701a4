//! Memslots, attributes and guest_memfd: what becomes of pages that are in a TD.

mod vmm;

use seamlock_kvm::file::Kind;
use seamlock_kvm::gmem::{FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE};
use seamlock_kvm::task::Files;
use seamlock_tdx_abi::Leaf;
use seamlock_tdx_abi::kvm::*;
use vmm::{MEMORY, Reply, Td, Vmm, boot};

const GPA: u64 = 0x10_0000;

fn load(vmm: &Vmm, td: &Td, gpa: u64, nr_pages: u64) -> Reply {
    let source_addr = vmm.process.map(nr_pages * 4096);
    let mut region = KvmTdxInitMemRegion {
        source_addr,
        gpa,
        nr_pages,
    };
    vmm.load(td.vcpus[0], &mut region, true)
}

fn fallocate(vmm: &Vmm, fd: i32, mode: i32, offset: u64, len: u64) -> Reply {
    let task = vmm.process.task(&vmm.control);
    let done = seamlock_kvm::fallocate(&task, fd, mode, offset, len);
    done.map(|()| 0).map_err(|error| error.errno)
}

fn leaves(vmm: &Vmm) -> Vec<u64> {
    vmm.host.live_vms()[0]
        .mirror()
        .leaves()
        .iter()
        .map(|(gfn, _)| gfn << 12)
        .collect()
}

fn made(vmm: &Vmm, leaf: Leaf) -> u64 {
    let leaves = vmm.host.counters().by_leaf();
    leaves
        .iter()
        .find(|(l, ..)| *l == leaf)
        .map_or(0, |(_, made, failed)| made - failed)
}

fn assert_clean_end(vmm: &Vmm, td: &Td) {
    vmm.drop_td(td);
    let teardown = vmm.host.teardowns().pop().expect("the VM is gone");
    assert_eq!(
        (teardown.pages_leaked, teardown.hkid_returned, teardown.bugs),
        (0, true, 0)
    );
}

#[test]
fn punching_a_hole_takes_the_page_out_and_it_can_be_loaded_again() {
    let vmm = boot();
    let td = vmm.build(1);
    load(&vmm, &td, GPA, 3).unwrap();
    let punch = FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE;
    assert_eq!(fallocate(&vmm, td.gmem, punch, GPA + 4096, 4096), Ok(0));
    assert_eq!(leaves(&vmm), [GPA, GPA + 8192]);
    // Before the TD is finalized there are no TLBs to track.
    assert_eq!(
        (
            made(&vmm, Leaf::MEM_PAGE_REMOVE),
            made(&vmm, Leaf::MEM_TRACK)
        ),
        (1, 0)
    );
    assert_eq!(load(&vmm, &td, GPA + 4096, 1), Ok(0));
    assert_clean_end(&vmm, &td);
}

#[test]
fn a_slot_that_goes_takes_its_pages_and_no_others_along() {
    let vmm = boot();
    let mut td = vmm.create_td();
    vmm.init_vm(&td).unwrap();
    td.gmem = vmm.gmem(td.vm, MEMORY).unwrap() as i32;
    let half = MEMORY / 2;
    for (slot, gpa) in [(0, 0), (1, half)] {
        let mut region = KvmUserspaceMemoryRegion2 {
            slot,
            flags: KVM_MEM_GUEST_MEMFD,
            guest_phys_addr: gpa,
            memory_size: half,
            guest_memfd: td.gmem as u32,
            guest_memfd_offset: gpa,
            ..KvmUserspaceMemoryRegion2::default()
        };
        assert_eq!(
            vmm.ioctl_with(td.vm, KVM_SET_USER_MEMORY_REGION2, &mut region),
            Ok(0)
        );
    }
    vmm.attributes(td.vm, 0, MEMORY, KVM_MEMORY_ATTRIBUTE_PRIVATE)
        .unwrap();
    let vcpu = vmm.create_vcpu(&mut td, 0).unwrap() as i32;
    vmm.set_cpuid(vcpu).unwrap();
    vmm.init_vcpu(vcpu).unwrap();
    load(&vmm, &td, half - 4096, 2).unwrap();
    assert_eq!(vmm.slot(&td, 1, half, 0), Ok(0));
    assert_eq!(leaves(&vmm), [half - 4096]);
    assert_eq!(load(&vmm, &td, half, 1), Err(Errno::EINVAL));
    assert_clean_end(&vmm, &td);
}

#[test]
fn pages_of_a_file_are_bound_to_one_slot_only() {
    let vmm = boot();
    let mut td = vmm.create_td();
    vmm.init_vm(&td).unwrap();
    vmm.add_memory(&mut td);
    assert_eq!(vmm.slot(&td, 1, MEMORY, MEMORY), Err(Errno::EEXIST));
    assert_eq!(vmm.slot(&td, 0, 0, 0), Ok(0));
    assert_eq!(vmm.slot(&td, 1, MEMORY, MEMORY), Ok(0));
    assert_clean_end(&vmm, &td);
}

#[test]
fn frames_made_shared_leave_the_td() {
    let vmm = boot();
    let td = vmm.build(1);
    load(&vmm, &td, GPA, 4).unwrap();
    assert_eq!(vmm.attributes(td.vm, GPA + 4096, 8192, 0), Ok(0));
    assert_eq!(leaves(&vmm), [GPA, GPA + 3 * 4096]);
    // Already so: nothing is zapped. Back to private: nothing private was mapped.
    assert_eq!(vmm.attributes(td.vm, GPA + 4096, 4096, 0), Ok(0));
    assert_eq!(
        vmm.attributes(td.vm, GPA, 0x4000, KVM_MEMORY_ATTRIBUTE_PRIVATE),
        Ok(0)
    );
    assert_eq!(made(&vmm, Leaf::MEM_PAGE_REMOVE), 2);
    assert_eq!(load(&vmm, &td, GPA + 4096, 2), Ok(0));
    assert_clean_end(&vmm, &td);
}

#[test]
fn closing_the_file_takes_its_pages_out_and_leaves_the_slot_without_memory() {
    let vmm = boot();
    let mut td = vmm.build(1);
    load(&vmm, &td, GPA, 2).unwrap();
    vmm.close(td.gmem);
    td.gmem = 0;
    assert_eq!(leaves(&vmm), [0u64; 0]);
    assert_eq!(load(&vmm, &td, GPA, 1), Err(Errno::EFAULT));
    assert_clean_end(&vmm, &td);
}

#[test]
fn a_page_with_a_memory_error_leaves_the_td_until_a_hole_is_punched() {
    let vmm = boot();
    let td = vmm.build(1);
    load(&vmm, &td, GPA, 1).unwrap();
    let file = vmm.process.file(td.gmem).unwrap();
    if let Kind::Gmem(gmem) = file.kind() {
        gmem.memory_failure(&vmm.process.task(&vmm.control), GPA);
    }
    assert_eq!(leaves(&vmm), [0u64; 0]);
    assert_eq!(load(&vmm, &td, GPA, 1), Err(Errno::EHWPOISON));
    assert_eq!(load(&vmm, &td, GPA + 4096, 1), Ok(0));
    // Another page takes its place when the hole is punched.
    let punch = FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE;
    assert_eq!(fallocate(&vmm, td.gmem, punch, GPA, 4096), Ok(0));
    assert_eq!(load(&vmm, &td, GPA, 1), Ok(0));
    drop(file);
    assert_clean_end(&vmm, &td);
}

#[test]
fn fallocate_refuses_in_the_kernels_order() {
    let vmm = boot();
    let td = vmm.build(1);
    let keep = FALLOC_FL_KEEP_SIZE;
    assert_eq!(fallocate(&vmm, td.gmem, 0, 0, 4096), Err(Errno::EOPNOTSUPP));
    assert_eq!(fallocate(&vmm, td.gmem, 2, 0, 4096), Err(Errno::EOPNOTSUPP));
    assert_eq!(
        fallocate(&vmm, td.gmem, 16 | keep, 0, 4096),
        Err(Errno::EOPNOTSUPP)
    );
    assert_eq!(fallocate(&vmm, td.gmem, keep, 1, 4096), Err(Errno::EINVAL));
    assert_eq!(fallocate(&vmm, td.gmem, keep, 0, 0), Err(Errno::EINVAL));
    assert_eq!(
        fallocate(&vmm, td.gmem, keep, 0, MEMORY + 4096),
        Err(Errno::EINVAL)
    );
    assert_eq!(
        fallocate(&vmm, td.gmem, keep, 1 << 62, 1 << 62),
        Err(Errno::EFBIG)
    );
    assert_eq!(fallocate(&vmm, td.vm, keep, 0, 4096), Err(Errno::ENODEV));
    assert_eq!(fallocate(&vmm, 999, keep, 0, 4096), Err(Errno::EBADF));
    assert_eq!(fallocate(&vmm, td.gmem, keep, 4096, 8192), Ok(0));
    vmm.control.signal(false);
    assert_eq!(fallocate(&vmm, td.gmem, keep, 0, 4096), Err(Errno::EINTR));
    vmm.control.clear_signals();
    assert_clean_end(&vmm, &td);
}

#[test]
fn a_huge_file_costs_only_what_is_populated() {
    let vmm = boot();
    let mut td = vmm.create_td();
    vmm.init_vm(&td).unwrap();
    td.gmem = vmm.gmem(td.vm, 1 << 46).unwrap() as i32;
    vmm.slot(&td, 0, 0, 1 << 42).unwrap();
    vmm.attributes(td.vm, 0, 1 << 42, KVM_MEMORY_ATTRIBUTE_PRIVATE)
        .unwrap();
    let vcpu = vmm.create_vcpu(&mut td, 0).unwrap() as i32;
    vmm.set_cpuid(vcpu).unwrap();
    vmm.init_vcpu(vcpu).unwrap();
    load(&vmm, &td, (1 << 42) - 4096, 1).unwrap();
    load(&vmm, &td, 1 << 40, 1).unwrap();
    assert!(vmm.host.pages().in_use() < 40);
    assert_eq!(vmm.attributes(td.vm, 0, 1 << 42, 0), Ok(0));
    assert_eq!(leaves(&vmm), [0u64; 0]);
    assert_clean_end(&vmm, &td);
}

#[test]
fn prefault_augments_a_finalized_td_and_zapping_it_tracks_tlbs() {
    let vmm = boot();
    let td = vmm.build(1);
    load(&vmm, &td, GPA, 1).unwrap();
    vmm.finalize(&td).unwrap();
    let mut range = KvmPreFaultMemory {
        gpa: GPA,
        size: 3 * 4096,
        ..Default::default()
    };
    assert_eq!(
        vmm.ioctl_with(td.vcpus[0], KVM_PRE_FAULT_MEMORY, &mut range),
        Ok(0)
    );
    assert_eq!((range.gpa, range.size), (GPA + 3 * 4096, 0));
    assert_eq!(made(&vmm, Leaf::MEM_PAGE_AUG), 2);
    // Partial progress counts as success; the rest of the range is given back.
    let mut range = KvmPreFaultMemory {
        gpa: MEMORY - 4096,
        size: 8192,
        ..Default::default()
    };
    assert_eq!(
        vmm.ioctl_with(td.vcpus[0], KVM_PRE_FAULT_MEMORY, &mut range),
        Ok(0)
    );
    assert_eq!((range.gpa, range.size), (MEMORY, 4096));
    assert_eq!(vmm.attributes(td.vm, GPA, 4096, 0), Ok(0));
    assert_eq!(
        (
            made(&vmm, Leaf::MEM_TRACK),
            made(&vmm, Leaf::MEM_PAGE_REMOVE)
        ),
        (1, 1)
    );
    assert_clean_end(&vmm, &td);
}

#[test]
fn a_slot_without_guest_memfd_can_move_and_change_flags() {
    let vmm = boot();
    let td = vmm.create_td();
    let set = |gpa: u64, flags: u32| {
        let mut region = KvmUserspaceMemoryRegion {
            slot: 3,
            flags,
            guest_phys_addr: gpa,
            memory_size: 8192,
            userspace_addr: 0x10_0000,
        };
        vmm.ioctl_with(td.vm, KVM_SET_USER_MEMORY_REGION, &mut region)
    };
    assert_eq!(set(0, 0), Ok(0));
    assert_eq!(set(4096, 0), Ok(0));
    assert_eq!(set(4096, KVM_MEM_LOG_DIRTY_PAGES), Ok(0));
    assert_eq!(set(4096, KVM_MEM_LOG_DIRTY_PAGES), Ok(0));
    // A TD has no read-only memory.
    assert_eq!(set(4096, KVM_MEM_READONLY), Err(Errno::EINVAL));
    assert_clean_end(&vmm, &td);
}

#[test]
fn a_machine_out_of_memory_refuses_a_page_that_needs_a_table_and_takes_it_later() {
    // mmu.c mmu_topup_memory_caches: -ENOMEM.
    use seamlock_kvm::{Host, Options, Process};
    let platform = seamlock_tdx_module::Platform::sapphire_rapids(1 << 30, 4);
    let host = Host::boot_with(platform, Options::default()).expect("the module comes up");
    let vmm = Vmm::on(host, Process::new(1));
    let mut td = vmm.create_td();
    vmm.init_vm(&td).unwrap();
    td.gmem = vmm.gmem(td.vm, 1 << 30).unwrap() as i32;
    vmm.slot(&td, 0, 0, 1 << 30).unwrap();
    vmm.attributes(td.vm, 0, 1 << 30, KVM_MEMORY_ATTRIBUTE_PRIVATE)
        .unwrap();
    let vcpu = vmm.create_vcpu(&mut td, 0).unwrap() as i32;
    vmm.set_cpuid(vcpu).unwrap();
    vmm.init_vcpu(vcpu).unwrap();
    load(&vmm, &td, 0, 1).unwrap();
    let hog = vmm.gmem(td.vm, 1 << 31).expect("a guest_memfd") as i32;
    let all = fallocate(&vmm, hog, FALLOC_FL_KEEP_SIZE, 0, 1 << 31);
    assert_eq!(all, Err(Errno::ENOMEM));
    // Each page needs a table of its own.
    let far = |i: u64| i << 21;
    let refused = (1..512).find(|i| load(&vmm, &td, far(*i), 1).is_err());
    let refused = far(refused.expect("memory ends"));
    assert_eq!(load(&vmm, &td, refused, 1), Err(Errno::ENOMEM));
    vmm.close(hog);
    assert_eq!(load(&vmm, &td, refused, 1), Ok(0));
    assert_clean_end(&vmm, &td);
}

#[test]
fn shared_memory_in_a_guest_memfd_is_faulted_in_from_there() {
    // mmu.c:4654 __kvm_mmu_faultin_pfn: a slot whose file can be mapped has its shared memory there.
    let vmm = boot();
    let mut td = vmm.create_td();
    vmm.init_vm(&td).unwrap();
    let mut args = KvmCreateGuestMemfd {
        size: MEMORY,
        flags: GUEST_MEMFD_FLAG_MMAP,
        ..KvmCreateGuestMemfd::default()
    };
    td.gmem = vmm
        .ioctl_with(td.vm, KVM_CREATE_GUEST_MEMFD, &mut args)
        .unwrap() as i32;
    vmm.slot(&td, 0, 0, MEMORY).unwrap();
    let vcpu = vmm.create_vcpu(&mut td, 0).unwrap() as i32;
    vmm.set_cpuid(vcpu).unwrap();
    vmm.init_vcpu(vcpu).unwrap();
    vmm.finalize(&td).unwrap();
    let prefault = || {
        let mut range = KvmPreFaultMemory {
            gpa: GPA,
            size: 4096,
            ..Default::default()
        };
        vmm.ioctl_with(vcpu, KVM_PRE_FAULT_MEMORY, &mut range)
    };
    assert_eq!(prefault(), Ok(0));
    let file = vmm.process.file(td.gmem).unwrap();
    let Kind::Gmem(gmem) = file.kind() else {
        panic!("no guest_memfd")
    };
    assert!(gmem.page(GPA / 4096).is_some());
    gmem.memory_failure(&vmm.process.task(&vmm.control), GPA);
    assert_eq!(prefault(), Err(Errno::EHWPOISON));
    drop(file);
    assert_clean_end(&vmm, &td);
}
