//! Descriptors, vCPUs, VMs, HKIDs and processors: who keeps whom alive, and what runs out.

mod vmm;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use seamlock_kvm::{Host, Process};
use seamlock_tdx_abi::Hkid;
use seamlock_tdx_abi::kvm::*;
use seamlock_tdx_module::platform::{Events, KeyProgramming, PlatformFault};
use vmm::{Td, Vmm, boot, platform};

#[test]
fn a_vm_lives_until_its_last_descriptor_is_closed_whatever_the_order() {
    for order in [
        [0, 1, 2],
        [0, 2, 1],
        [1, 0, 2],
        [1, 2, 0],
        [2, 0, 1],
        [2, 1, 0],
    ] {
        let vmm = boot();
        let td = vmm.build(1);
        let fds = [td.vm, td.vcpus[0], td.gmem];
        for (i, which) in order.iter().enumerate() {
            assert_eq!(vmm.host.teardowns().len(), 0, "{order:?}, step {i}");
            vmm.close(fds[*which]);
        }
        let teardowns = vmm.host.teardowns();
        assert_eq!(teardowns.len(), 1, "{order:?}");
        assert_eq!(
            (teardowns[0].pages_leaked, teardowns[0].hkid_returned),
            (0, true),
            "{order:?}"
        );
    }
}

#[test]
fn a_closed_descriptor_is_closed() {
    let vmm = boot();
    let td = vmm.create_td();
    vmm.close(td.vm);
    assert_eq!(vmm.ioctl(td.vm, KVM_CHECK_EXTENSION, 0), Err(Errno::EBADF));
    let task = vmm.process.task(&vmm.control);
    let again = seamlock_kvm::close(&task, td.vm);
    assert_eq!(again.map_err(|error| error.errno), Err(Errno::EBADF));
}

#[test]
fn another_address_space_may_not_use_a_vm() {
    use seamlock_kvm::task::Files;
    let vmm = boot();
    let td = vmm.build(1);
    let other = Vmm::on(vmm.host.clone(), Process::new(2));
    for fd in [td.vm, td.vcpus[0]] {
        let inherited = other
            .process
            .install(&vmm.process.file(fd).unwrap())
            .unwrap();
        assert_eq!(other.ioctl(inherited, KVM_GET_TSC_KHZ, 0), Err(Errno::EIO));
    }
}

#[test]
fn hkids_run_out_and_come_back() {
    let vmm = boot();
    let hkids = vmm.host.free_hkids();
    let tds: Vec<Td> = (0..hkids).map(|_| vmm.build(1)).collect();
    let one_more = vmm.create_td();
    assert_eq!(vmm.init_vm(&one_more), Err(Errno::ENOSPC));
    vmm.drop_td(&tds[3]);
    assert_eq!(vmm.init_vm(&one_more), Ok(0));
    for td in tds
        .iter()
        .enumerate()
        .filter(|(i, _)| *i != 3)
        .map(|(_, td)| td)
    {
        vmm.drop_td(td);
    }
    vmm.drop_td(&one_more);
    assert_eq!(
        (vmm.host.free_hkids(), vmm.host.pages().in_use()),
        (hkids, 0)
    );
}

#[test]
fn a_vcpu_without_a_descriptor_leaves_no_trace() {
    let host = Host::boot(platform()).unwrap();
    // /dev/kvm, a VM, a guest_memfd and one vCPU.
    let vmm = Vmm::on(host, Process::with_fd_limit(1, 4));
    let mut td = vmm.build(1);
    assert_eq!(vmm.create_vcpu(&mut td, 1), Err(Errno::EMFILE));
    assert!(
        vmm.host
            .cpus()
            .iter()
            .all(|cpu| cpu.associated().len() <= 1)
    );
    assert_eq!(vmm.finalize(&td), Ok(0));
    vmm.drop_td(&td);
    assert!(
        vmm.host
            .cpus()
            .iter()
            .all(|cpu| cpu.associated().is_empty())
    );
    assert_eq!(vmm.host.teardowns()[0].bugs, 0);
}

#[test]
fn a_td_has_no_more_vcpus_than_the_machine_has_processors() {
    let vmm = boot();
    let mut td = vmm.build(4);
    assert_eq!(vmm.create_vcpu(&mut td, 4), Err(Errno::EINVAL));
    assert_eq!(
        vmm.ioctl(td.vm, KVM_CHECK_EXTENSION, KVM_CAP_MAX_VCPUS.into()),
        Ok(4)
    );
}

#[test]
fn memory_that_runs_out_is_enomem_and_nothing_is_lost() {
    let vmm = boot();
    let td = vmm.build(1);
    // Somebody else takes all but a few pages.
    let hog = seamlock_kvm::host::Owner::vm(0);
    while vmm.host.pages().alloc(hog).is_some() {}
    let source_addr = vmm.process.map(4096 * 256);
    let mut region = KvmTdxInitMemRegion {
        source_addr,
        gpa: 0,
        nr_pages: 256,
    };
    assert_eq!(vmm.load(td.vcpus[0], &mut region, true), Err(Errno::ENOMEM));
    assert!(region.nr_pages > 0);
    let other = vmm.create_td();
    let hkids = vmm.host.free_hkids();
    assert_eq!(vmm.init_vm(&other), Err(Errno::ENOMEM));
    assert_eq!(vmm.host.free_hkids(), hkids);
    vmm.drop_td(&td);
    assert_eq!(vmm.host.teardowns()[0].pages_leaked, 0);
}

/// Entropy that fails from a given draw on, for a number of draws.
#[derive(Debug)]
struct Dry {
    draws: AtomicU64,
    from: AtomicU64,
    count: u64,
}

impl Events for Dry {
    fn random(&self, _lp: u32) -> Option<[u64; 4]> {
        let draw = self.draws.fetch_add(1, Relaxed);
        let from = self.from.load(Relaxed);
        (draw < from || draw - from >= self.count).then_some([draw; 4])
    }
    fn program_key(&self, _lp: u32, _hkid: Hkid) -> KeyProgramming {
        KeyProgramming::Done
    }
    fn interrupt_pending(&self, _lp: u32) -> bool {
        self.draws.fetch_add(1, Relaxed).is_multiple_of(2)
    }
    fn tsc(&self, _lp: u32) -> u64 {
        0
    }
    fn tsc_adjust_unchanged(&self, _lp: u32) -> bool {
        true
    }
    fn platform_check(&self, _lp: u32) -> Result<(), PlatformFault> {
        Ok(())
    }
}

fn dry(count: u64) -> (Vmm, Arc<Dry>) {
    let events = Arc::new(Dry {
        draws: AtomicU64::new(0),
        from: AtomicU64::new(u64::MAX),
        count,
    });
    let platform = seamlock_tdx_module::Platform {
        events: events.clone(),
        ..platform()
    };
    (
        Vmm::on(Host::boot(platform).unwrap(), Process::new(1)),
        events,
    )
}

#[test]
fn lasting_lack_of_entropy_is_eagain_and_init_vm_can_be_tried_again() {
    let (vmm, events) = dry(10);
    let td = vmm.create_td();
    events.from.store(events.draws.load(Relaxed), Relaxed);
    assert_eq!(vmm.init_vm(&td), Err(Errno::EAGAIN));
    assert_eq!(vmm.host.pages().in_use(), 0);
    assert_eq!(vmm.init_vm(&td), Ok(0));
    vmm.drop_td(&td);
    assert_eq!(vmm.host.teardowns()[0].bugs, 0);
}

#[test]
fn a_short_lack_of_entropy_and_interrupts_of_the_cache_write_back_go_unseen() {
    let (vmm, events) = dry(9);
    let td = vmm.create_td();
    events.from.store(events.draws.load(Relaxed), Relaxed);
    assert_eq!(vmm.init_vm(&td), Ok(0));
    vmm.drop_td(&td);
    let teardown = &vmm.host.teardowns()[0];
    assert_eq!(
        (teardown.hkid_returned, teardown.pages_leaked, teardown.bugs),
        (true, 0, 0)
    );
}

#[test]
fn a_cpu_that_goes_offline_flushes_its_vcpus_and_a_package_needs_one_online() {
    let vmm = boot();
    let td = vmm.build(2);
    vmm.control.migrate(1);
    vmm.ioctl(td.vcpus[1], KVM_GET_TSC_KHZ, 0).unwrap();
    assert_eq!(vmm.host.cpus()[0].associated().len(), 1);
    assert!(vmm.host.offline_cpu(0) && !vmm.host.offline_cpu(0));
    assert!(vmm.host.cpus()[0].associated().is_empty());
    assert_eq!(vmm.host.cpus()[1].associated().len(), 1);
    // The vCPU is loaded again elsewhere without another flush.
    vmm.ioctl(td.vcpus[0], KVM_GET_TSC_KHZ, 0).unwrap();
    assert_eq!(vmm.host.cpus()[1].associated().len(), 2);
    // A package with an HKID in use keeps its last CPU (tdx_offline_cpu).
    assert!(vmm.host.offline_cpu(1) && vmm.host.offline_cpu(2) && !vmm.host.offline_cpu(3));
    vmm.drop_td(&td);
    assert!(vmm.host.offline_cpu(3));
    let other = vmm.create_td();
    assert_eq!(vmm.init_vm(&other), Err(Errno::EIO));
    assert!(vmm.host.online_cpu(2) && !vmm.host.online_cpu(2) && !vmm.host.online_cpu(9));
    assert_eq!(vmm.init_vm(&other), Ok(0));
    vmm.drop_td(&other);
    for teardown in vmm.host.teardowns() {
        assert_eq!((teardown.pages_leaked, teardown.hkid_returned), (0, true));
        assert_eq!(teardown.bugs, 0);
    }
}
