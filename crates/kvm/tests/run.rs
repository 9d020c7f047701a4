//! KVM_RUN up to its gate and into the stand-in guest, and who waits for whom.

mod vmm;

use seamlock_kvm::Control;
use seamlock_tdx_abi::Leaf;
use seamlock_tdx_abi::kvm::*;
use vmm::{Reply, Td, Vmm, boot};

/// KVM_RUN of a thread of its own, which a signal ends when `until` holds.
fn run_until(vmm: &Vmm, fd: i32, until: impl Fn() -> bool + Sync, then: impl FnOnce()) -> Reply {
    let control = Control::on(1);
    std::thread::scope(|scope| {
        let running = scope.spawn(|| {
            let task = vmm.process.task(&control);
            seamlock_kvm::ioctl_fd(&task, fd, KVM_RUN, 0).map_err(|error| error.errno)
        });
        while !until() && !running.is_finished() {
            std::thread::yield_now();
        }
        then();
        control.signal(true);
        running.join().expect("no panic")
    })
}

fn vcpu_mutex_taken(vmm: &Vmm, idx: usize) -> bool {
    let kvm = &vmm.host.live_vms()[0];
    kvm.vcpus().nth(idx).is_some_and(|vcpu| vcpu.is_busy())
}

fn entered(vmm: &Vmm) -> u64 {
    let leaves = vmm.host.counters().by_leaf();
    leaves
        .iter()
        .find(|(leaf, ..)| *leaf == Leaf::VP_ENTER)
        .map_or(0, |(_, made, _)| *made)
}

fn finalized(vmm: &Vmm, vcpus: u64) -> Td {
    let td = vmm.build(vcpus);
    vmm.finalize(&td).unwrap();
    td
}

#[test]
fn a_halted_guest_sleeps_until_a_signal_comes() {
    let vmm = boot();
    let td = finalized(&vmm, 1);
    let reply = run_until(&vmm, td.vcpus[0], || entered(&vmm) > 0, || {});
    assert_eq!((reply, entered(&vmm)), (Err(Errno::EINTR), 1));
    vmm.drop_td(&td);
    let teardown = &vmm.host.teardowns()[0];
    assert_eq!(
        (teardown.pages_leaked, teardown.hkid_returned, teardown.bugs),
        (0, true, 0)
    );
}

#[test]
fn immediate_exit_comes_back_before_the_guest_runs() {
    let vmm = boot();
    let td = finalized(&vmm, 1);
    let kvm = vmm.host.live_vms().remove(0);
    let vcpu = kvm.vcpus().next().unwrap();
    vcpu.run_page().write(1, &[1]);
    assert_eq!(vmm.ioctl(td.vcpus[0], KVM_RUN, 0), Err(Errno::EINTR));
    assert_eq!(entered(&vmm), 0);
}

#[test]
fn an_ap_that_was_never_initialized_blocks_until_a_signal_and_holds_its_mutex() {
    let vmm = boot();
    let mut td = vmm.build(1);
    let ap = vmm.create_vcpu(&mut td, 1).unwrap() as i32;
    let reply = run_until(&vmm, ap, || vcpu_mutex_taken(&vmm, 1), || {});
    assert_eq!(reply, Err(Errno::EINTR));
    assert_eq!(entered(&vmm), 0);
}

#[test]
fn commands_wait_for_a_vcpu_in_kvm_run_and_only_a_fatal_signal_ends_the_wait() {
    let vmm = boot();
    let mut td = vmm.build(1);
    let ap = vmm.create_vcpu(&mut td, 1).unwrap() as i32;
    let waiter = Control::on(2);
    let reply = run_until(
        &vmm,
        ap,
        || vcpu_mutex_taken(&vmm, 1),
        || {
            std::thread::scope(|scope| {
                let finalize = scope.spawn(|| {
                    let cmd = KvmTdxCmd {
                        id: 4,
                        ..KvmTdxCmd::default()
                    };
                    let at = vmm.process.map_copy(zerocopy::IntoBytes::as_bytes(&cmd));
                    let task = vmm.process.task(&waiter);
                    seamlock_kvm::ioctl_fd(&task, td.vm, KVM_MEMORY_ENCRYPT_OP, at)
                });
                waiter.signal(false);
                std::thread::sleep(std::time::Duration::from_millis(20));
                assert!(!finalize.is_finished());
                // CAPABILITIES and unlocked reads go on meanwhile.
                assert!(vmm.ioctl(td.vm, KVM_CHECK_EXTENSION, 0).is_ok());
                waiter.signal(true);
                let error = finalize.join().expect("no panic").unwrap_err();
                assert_eq!(error.errno, Errno::EINTR, "{error}");
                assert!(error.site.contains("kvm_lock_all_vcpus"));
            });
        },
    );
    assert_eq!(reply, Err(Errno::EINTR));
    assert_eq!(vmm.finalize(&td), Ok(0));
}

#[test]
fn a_vcpu_in_the_guest_is_kicked_out_when_a_page_is_removed() {
    let vmm = boot();
    let td = vmm.build(1);
    let source_addr = vmm.process.map(4096);
    let mut region = KvmTdxInitMemRegion {
        source_addr,
        gpa: 0,
        nr_pages: 1,
    };
    vmm.load(td.vcpus[0], &mut region, true).unwrap();
    vmm.finalize(&td).unwrap();
    let reply = run_until(
        &vmm,
        td.vcpus[0],
        || entered(&vmm) > 0,
        || {
            assert_eq!(vmm.attributes(td.vm, 0, 4096, 0), Ok(0));
        },
    );
    assert_eq!(reply, Err(Errno::EINTR));
    assert!(vmm.host.live_vms()[0].bugs().is_empty());
}
