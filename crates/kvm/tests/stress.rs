//! Threads that build, load and zap at the same time: nothing is bugged, nothing is lost.

mod vmm;

use seamlock_kvm::Control;
use seamlock_kvm::gmem::{FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE};
use seamlock_tdx_abi::kvm::*;
use vmm::{Td, Vmm, boot};
use zerocopy::IntoBytes;

fn op(vmm: &Vmm, control: &Control, fd: i32, cmd: KvmTdxCmd) -> Result<i64, Errno> {
    let at = vmm.process.map_copy(cmd.as_bytes());
    let task = vmm.process.task(control);
    let reply = seamlock_kvm::ioctl_fd(&task, fd, KVM_MEMORY_ENCRYPT_OP, at);
    vmm.process.unmap(at);
    reply.map_err(|error| error.errno)
}

/// Loads a page of its own, over and over, from changing CPUs.
fn loader(vmm: &Vmm, vcpu: i32, lane: u64) {
    let control = Control::on(lane as u32 % 4);
    let source_addr = vmm.process.map(4096);
    for round in 0..40 {
        control.migrate((lane as u32 + round) % 4);
        let gpa = (lane << 20) + u64::from(round) * 4096;
        let region = KvmTdxInitMemRegion {
            source_addr,
            gpa,
            nr_pages: 1,
        };
        let data = vmm.process.map_copy(region.as_bytes());
        let cmd = KvmTdxCmd {
            id: 3,
            flags: 1,
            data,
            hw_error: 0,
        };
        assert_eq!(op(vmm, &control, vcpu, cmd), Ok(0));
    }
}

/// Reads CPUID and punches holes where nothing is loaded, meanwhile.
fn disturber(vmm: &Vmm, td: &Td, vcpu: i32) {
    let control = Control::on(3);
    let data = vmm.process.map(8 + 256 * 40);
    for round in 0..60u64 {
        control.migrate(round as u32 % 4);
        let cmd = KvmTdxCmd {
            id: 5,
            data,
            ..KvmTdxCmd::default()
        };
        // The first call tells how many entries there are, the others read them.
        let expected = if round == 0 { Err(Errno::E2BIG) } else { Ok(0) };
        assert_eq!(op(vmm, &control, vcpu, cmd), expected);
        let task = vmm.process.task(&control);
        let mode = FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE;
        seamlock_kvm::fallocate(&task, td.gmem, mode, 8 << 20, 1 << 20).unwrap();
    }
}

#[test]
fn commands_of_many_threads_never_bug_the_vm() {
    let vmm = boot();
    let mut td = vmm.build(3);
    let late = vmm.create_vcpu(&mut td, 3).unwrap() as i32;
    vmm.set_cpuid(late).unwrap();
    std::thread::scope(|scope| {
        for lane in 0..3 {
            let (vmm, vcpu) = (&vmm, td.vcpus[lane as usize]);
            scope.spawn(move || loader(vmm, vcpu, lane));
        }
        scope.spawn(|| disturber(&vmm, &td, td.vcpus[1]));
        scope.spawn(|| vmm.init_vcpu(late).unwrap());
    });
    assert!(vmm.host.live_vms()[0].bugs().is_empty());
    assert_eq!(vmm.host.live_vms()[0].mirror().leaves().len(), 120);
    assert_eq!(vmm.finalize(&td), Ok(0));
    vmm.drop_td(&td);
    let teardown = &vmm.host.teardowns()[0];
    assert_eq!(
        (teardown.pages_leaked, teardown.hkid_returned, teardown.bugs),
        (0, true, 0)
    );
    assert_eq!(teardown.private_pages, 120);
}

#[test]
fn tds_are_built_and_destroyed_side_by_side() {
    let vmm = boot();
    std::thread::scope(|scope| {
        for lane in 0..4u64 {
            let vmm = &vmm;
            scope.spawn(move || {
                for _ in 0..8 {
                    let other = Vmm::on(vmm.host.clone(), seamlock_kvm::Process::new(10 + lane));
                    other.control.migrate(lane as u32);
                    let td = other.build(2);
                    loader(&other, td.vcpus[0], 1);
                    assert_eq!(other.finalize(&td), Ok(0));
                    other.drop_td(&td);
                }
            });
        }
    });
    let teardowns = vmm.host.teardowns();
    assert_eq!(teardowns.len(), 32);
    let clean = |t: &seamlock_kvm::Teardown| t.pages_leaked == 0 && t.hkid_returned && t.bugs == 0;
    assert!(teardowns.iter().all(clean), "{teardowns:?}");
    assert_eq!(vmm.host.pages().in_use(), 0);
}
