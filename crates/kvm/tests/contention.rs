//! A lock word of the module that somebody else has: what KVM makes of TDX_OPERAND_BUSY, leaf by leaf.

mod vmm;

use seamlock_sync::Mode;
use seamlock_tdx_abi::kvm::*;
use seamlock_tdx_abi::{Hpa, Leaf, OperandId, TdxStatus};
use seamlock_tdx_module::LockAt;
use vmm::{Reply, Td, Vmm, boot};

fn tdr(vmm: &Vmm) -> Hpa {
    vmm.host.live_vms()[0].tdx().tdr().expect("a TD")
}

/// Runs `call` while another party has the TDR.
fn with_tdr_held(vmm: &Vmm, mode: Mode, call: impl FnOnce() -> Reply) -> Reply {
    let at = LockAt::Page(tdr(vmm));
    vmm.host.module().hold(at, mode).expect("the TDR is free");
    let reply = call();
    vmm.host.module().release(at, mode);
    reply
}

fn one_page(vmm: &Vmm) -> KvmTdxInitMemRegion {
    KvmTdxInitMemRegion {
        source_addr: vmm.process.map(4096),
        gpa: 0x10_0000,
        nr_pages: 1,
    }
}

fn bug(vmm: &Vmm) -> Option<(Leaf, TdxStatus)> {
    use seamlock_kvm::bug::What;
    match &vmm.host.live_vms()[0].bugs().first()?.what {
        What::Seamcall { leaf, status, .. } => Some((*leaf, *status)),
        What::Condition(_) => None,
    }
}

fn assert_dead(vmm: &Vmm, td: &Td) {
    assert_eq!(vmm.finalize(td), Err(Errno::EIO));
    assert_eq!(vmm.ioctl(td.vcpus[0], KVM_GET_MP_STATE, 0), Err(Errno::EIO));
    assert_eq!(vmm.ioctl(td.vm, KVM_CHECK_EXTENSION, 0), Err(Errno::EIO));
}

#[test]
fn a_busy_finalize_is_user_spaces_to_retry_and_tells_the_status() {
    let vmm = boot();
    let td = vmm.build(1);
    let mut status = TdxStatus::SUCCESS;
    let reply = with_tdr_held(&vmm, Mode::Shared, || {
        let (reply, cmd) = vmm.tdx(td.vm, TdxCmdId::KVM_TDX_FINALIZE_VM, 0, 0);
        status = TdxStatus(cmd.hw_error);
        reply
    });
    assert_eq!(reply, Err(Errno::EBUSY));
    assert_eq!(status, TdxStatus::OPERAND_BUSY.with(OperandId::RCX));
    assert_eq!(vmm.finalize(&td), Ok(0));
    assert_eq!(bug(&vmm), None);
}

#[test]
fn a_busy_page_add_is_tried_again_until_a_signal_comes() {
    let vmm = boot();
    let td = vmm.build(1);
    let mut region = one_page(&vmm);
    let reply = std::thread::scope(|scope| {
        with_tdr_held(&vmm, Mode::Shared, || {
            let loading = scope.spawn(|| vmm.load(td.vcpus[0], &mut region, true));
            while vmm
                .host
                .counters()
                .by_leaf()
                .iter()
                .all(|(leaf, _, failed)| {
                    // SEPT.ADD shares the TDR and succeeds; PAGE.ADD wants it alone.
                    *leaf != Leaf::MEM_PAGE_ADD || *failed < 3
                })
            {
                std::thread::yield_now();
            }
            vmm.control.signal(false);
            loading.join().expect("no panic")
        })
    });
    assert_eq!(reply, Err(Errno::EINTR));
    vmm.control.clear_signals();
    assert_eq!(vmm.load(td.vcpus[0], &mut region, true), Ok(0));
    assert_eq!(bug(&vmm), None);
}

#[test]
fn a_busy_vp_create_bugs_the_vm_and_gives_the_pages_back() {
    let vmm = boot();
    let mut td = vmm.build(1);
    let second = vmm.create_vcpu(&mut td, 1).unwrap() as i32;
    vmm.set_cpuid(second).unwrap();
    let before = vmm.host.pages().in_use();
    let reply = with_tdr_held(&vmm, Mode::Exclusive, || vmm.init_vcpu(second));
    assert_eq!(reply, Err(Errno::EIO));
    assert_eq!(
        bug(&vmm),
        Some((
            Leaf::VP_CREATE,
            TdxStatus::OPERAND_BUSY.with(OperandId::RDX)
        ))
    );
    assert_eq!(vmm.host.pages().in_use(), before);
    assert_dead(&vmm, &td);
    vmm.drop_td(&td);
    let teardown = &vmm.host.teardowns()[0];
    assert_eq!(
        (teardown.pages_leaked, teardown.hkid_returned, teardown.bugs),
        (0, true, 1)
    );
}

#[test]
fn a_busy_vp_init_bugs_the_vm_because_it_wants_the_tdr_alone() {
    let vmm = boot();
    let mut td = vmm.build(1);
    let second = vmm.create_vcpu(&mut td, 1).unwrap() as i32;
    vmm.set_cpuid(second).unwrap();
    let reply = with_tdr_held(&vmm, Mode::Shared, || vmm.init_vcpu(second));
    assert_eq!(reply, Err(Errno::EIO));
    assert_eq!(
        bug(&vmm),
        Some((Leaf::VP_INIT, TdxStatus::OPERAND_BUSY.with(OperandId::TDR)))
    );
    vmm.drop_td(&td);
    let teardown = &vmm.host.teardowns()[0];
    assert_eq!((teardown.pages_leaked, teardown.hkid_returned), (0, true));
    // The TDVPR and its pages had been added.
    assert_eq!(teardown.vcpu_pages, 12);
}

#[test]
fn a_busy_removal_is_tried_twice_and_then_a_bug() {
    let vmm = boot();
    let td = vmm.build(1);
    let mut region = one_page(&vmm);
    vmm.load(td.vcpus[0], &mut region, true).unwrap();
    let reply = with_tdr_held(&vmm, Mode::Exclusive, || {
        let (task, mode) = (vmm.process.task(&vmm.control), 3);
        let punched = seamlock_kvm::fallocate(&task, td.gmem, mode, 0x10_0000, 4096);
        punched.map(|()| 0).map_err(|error| error.errno)
    });
    // fallocate does not fail; the VM does.
    assert_eq!(reply, Ok(0));
    assert_eq!(
        bug(&vmm),
        Some((
            Leaf::MEM_RANGE_BLOCK,
            TdxStatus::OPERAND_BUSY.with(OperandId::RDX)
        ))
    );
    let leaves = vmm.host.counters().by_leaf();
    assert!(
        leaves.contains(&(Leaf::MEM_RANGE_BLOCK, 2, 2)),
        "{leaves:?}"
    );
    assert_dead(&vmm, &td);
}

#[test]
fn a_busy_flush_on_another_cpu_bugs_the_vm() {
    let vmm = boot();
    let td = vmm.build(1);
    vmm.control.migrate(1);
    let reply = with_tdr_held(&vmm, Mode::Exclusive, || {
        vmm.ioctl(td.vcpus[0], KVM_GET_TSC_KHZ, 0)
    });
    // The ioctl itself has nothing to do with it.
    assert!(reply.is_ok());
    assert_eq!(
        bug(&vmm),
        Some((Leaf::VP_FLUSH, TdxStatus::OPERAND_BUSY.with(OperandId::TDR)))
    );
    vmm.drop_td(&td);
    let teardown = &vmm.host.teardowns()[0];
    // The module still counts the vCPU as associated, so the HKID can't be freed.
    assert!(!teardown.hkid_returned);
    assert!(teardown.pages_leaked > 0);
}

#[test]
fn a_busy_mng_rd_makes_a_leaf_look_absent() {
    let vmm = boot();
    let td = vmm.build(1);
    let at = vmm.process.map(8 + 256 * 40);
    let reply = with_tdr_held(&vmm, Mode::Exclusive, || {
        vmm.tdx(td.vcpus[0], TdxCmdId::KVM_TDX_GET_CPUID, 0, at).0
    });
    assert_eq!((reply, bug(&vmm)), (Err(Errno::EIO), None));
}

#[test]
fn a_busy_key_ownership_table_bugs_init_vm_which_unwinds_whole() {
    let vmm = boot();
    let td = vmm.create_td();
    let hkids = vmm.host.free_hkids();
    vmm.host
        .module()
        .hold(LockAt::Kot, Mode::Exclusive)
        .unwrap();
    assert_eq!(vmm.init_vm(&td), Err(Errno::EIO));
    vmm.host.module().release(LockAt::Kot, Mode::Exclusive);
    assert_eq!(
        bug(&vmm),
        Some((
            Leaf::MNG_CREATE,
            TdxStatus::OPERAND_BUSY.with(OperandId::KOT)
        ))
    );
    assert_eq!(
        (vmm.host.free_hkids(), vmm.host.pages().in_use()),
        (hkids, 0)
    );
    vmm.drop_td(&td);
}
