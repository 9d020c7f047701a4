//! A guest that stays in its TD until it is kicked: who waits for it, and who gets it out.

mod vmm;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

use seamlock_kvm::guest::{Entered, Guest, Halting, Turn};
use seamlock_kvm::{Control, Options};
use seamlock_tdx_abi::kvm::*;
use vmm::{Vmm, boot_with};

/// Spins in the guest until it is kicked, and then wants to go on.
#[derive(Debug, Default)]
struct Spinning {
    inside: AtomicU64,
    exits: AtomicU64,
}

impl Guest for Spinning {
    fn run(&self, entered: &Entered) -> Turn {
        self.inside.fetch_add(1, SeqCst);
        while !(entered.kicked)() {
            std::thread::yield_now();
        }
        self.inside.fetch_sub(1, SeqCst);
        self.exits.fetch_add(1, SeqCst);
        Turn {
            halted: false,
            ..Halting.run(entered)
        }
    }
}

fn page(vmm: &Vmm, gpa: u64) -> KvmTdxInitMemRegion {
    KvmTdxInitMemRegion {
        source_addr: vmm.process.map(4096),
        gpa,
        nr_pages: 1,
    }
}

#[test]
fn removing_a_page_gets_running_vcpus_out_of_the_guest_and_lets_them_back_in() {
    let guest = Arc::new(Spinning::default());
    let vmm = boot_with(Options {
        guest: guest.clone(),
        ..Options::default()
    });
    let td = vmm.build(2);
    for gpa in [0, 4096] {
        vmm.load(td.vcpus[0], &mut page(&vmm, gpa), true).unwrap();
    }
    vmm.finalize(&td).unwrap();
    let controls = [Control::on(1), Control::on(2)];
    std::thread::scope(|scope| {
        let runs: Vec<_> = controls
            .iter()
            .zip(&td.vcpus)
            .map(|(control, fd)| {
                let vmm = &vmm;
                scope.spawn(move || {
                    let task = vmm.process.task(control);
                    seamlock_kvm::ioctl_fd(&task, *fd, KVM_RUN, 0).map_err(|e| e.errno)
                })
            })
            .collect();
        let both_inside = || {
            while guest.inside.load(SeqCst) < 2 {
                std::thread::yield_now();
            }
        };
        both_inside();
        for gpa in [0, 4096] {
            let before = guest.exits.load(SeqCst);
            assert_eq!(vmm.attributes(td.vm, gpa, 4096, 0), Ok(0));
            assert!(guest.exits.load(SeqCst) >= before + 2);
            both_inside();
        }
        for control in &controls {
            control.signal(false);
        }
        for run in runs {
            assert_eq!(run.join().expect("no panic"), Err(Errno::EINTR));
        }
    });
    assert!(vmm.host.live_vms()[0].bugs().is_empty());
    vmm.drop_td(&td);
    let teardown = &vmm.host.teardowns()[0];
    assert_eq!((teardown.pages_leaked, teardown.bugs), (0, 0));
    assert!(teardown.hkid_returned);
}

#[test]
fn a_dead_vm_gets_its_vcpus_out_of_the_guest() {
    use seamlock_sync::Mode;
    use seamlock_tdx_module::LockAt;
    let guest = Arc::new(Spinning::default());
    let vmm = boot_with(Options {
        guest: guest.clone(),
        ..Options::default()
    });
    let td = vmm.build(1);
    vmm.load(td.vcpus[0], &mut page(&vmm, 0), true).unwrap();
    vmm.finalize(&td).unwrap();
    let control = Control::on(1);
    let reply = std::thread::scope(|scope| {
        let run = scope.spawn(|| {
            let task = vmm.process.task(&control);
            seamlock_kvm::ioctl_fd(&task, td.vcpus[0], KVM_RUN, 0).map_err(|e| e.errno)
        });
        while guest.inside.load(SeqCst) == 0 {
            std::thread::yield_now();
        }
        // Somebody keeps the secure-EPT tree: removing a page fails even with all vCPUs out.
        let tdr = vmm.host.live_vms()[0].tdx().tdr().expect("a TD");
        let tree = LockAt::SeptTree(tdr);
        vmm.host.module().hold(tree, Mode::Shared).unwrap();
        assert_eq!(vmm.attributes(td.vm, 0, 4096, 0), Ok(0));
        vmm.host.module().release(tree, Mode::Shared);
        run.join().expect("no panic")
    });
    assert_eq!(reply, Err(Errno::EIO));
    assert_eq!(vmm.finalize(&td), Err(Errno::EIO));
}
