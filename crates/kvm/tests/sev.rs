//! SEV intra-host migration: the order of its checks, and a vCPU that is being created meanwhile.

mod vmm;

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;

use seamlock_kvm::discipline::{CreateVcpu, SevInFlight, V7_3};
use seamlock_kvm::sev::*;
use seamlock_kvm::vm::Kvm;
use seamlock_kvm::{Control, Discipline, Options, arch};
use seamlock_sync::{Action, Hook, Op, Outcome, Verdict, install};
use seamlock_tdx_abi::kvm::*;
use vmm::{Reply, Vmm, boot_with};
use zerocopy::{FromZeros, IntoBytes};

const SEV: u64 = KVM_X86_SEV_VM;
const SEV_ES: u64 = KVM_X86_SEV_ES_VM;

fn boot(discipline: &'static Discipline) -> Vmm {
    boot_with(Options {
        discipline,
        arch: &arch::AMD,
        ..Options::default()
    })
}

/// v7.3 with another way to create vCPUs and to look at creations in flight.
fn discipline(create_vcpu: CreateVcpu, sev_in_flight: SevInFlight) -> &'static Discipline {
    Box::leak(Box::new(Discipline {
        name: "v7.3 with the vCPU creation of before",
        create_vcpu,
        sev_in_flight,
        ..V7_3
    }))
}

fn create(vmm: &Vmm, vm_type: u64) -> i32 {
    vmm.ioctl(vmm.kvm, KVM_CREATE_VM, vm_type).expect("a VM") as i32
}

fn sev(vmm: &Vmm, vm: i32, id: u32, data: u64) -> (Reply, u32) {
    let mut cmd = SevCmd {
        id,
        data,
        ..SevCmd::default()
    };
    let reply = vmm.ioctl_with(vm, KVM_MEMORY_ENCRYPT_OP, &mut cmd);
    (reply, cmd.error)
}

fn init2(vmm: &Vmm, vm: i32, edit: impl FnOnce(&mut SevInit)) -> Reply {
    let mut init = SevInit::new_zeroed();
    edit(&mut init);
    sev(
        vmm,
        vm,
        KVM_SEV_INIT2,
        vmm.process.map_copy(init.as_bytes()),
    )
    .0
}

/// A guest of SEV's with launched vCPUs.
fn guest(vmm: &Vmm, vm_type: u64, vcpus: u64) -> i32 {
    let vm = create(vmm, vm_type);
    init2(vmm, vm, |_| {}).expect("KVM_SEV_INIT2");
    for id in 0..vcpus {
        vmm.ioctl(vm, KVM_CREATE_VCPU, id).expect("a vCPU");
    }
    sev(vmm, vm, KVM_SEV_LAUNCH_START, 0)
        .0
        .expect("LAUNCH_START");
    if vm_type == SEV_ES {
        sev(vmm, vm, KVM_SEV_LAUNCH_UPDATE_VMSA, 0)
            .0
            .expect("LAUNCH_UPDATE_VMSA");
    }
    vm
}

fn migrate(vmm: &Vmm, dst: i32, src: i32) -> Reply {
    vmm.enable_cap(dst, KVM_CAP_VM_MOVE_ENC_CONTEXT_FROM, src as u64)
}

fn vms(vmm: &Vmm) -> Vec<Arc<Kvm>> {
    vmm.host.live_vms()
}

#[test]
fn sev_types_are_offered_on_amd_only() {
    let amd = boot(&V7_3);
    for vm_type in [SEV, SEV_ES] {
        assert!(amd.ioctl(amd.kvm, KVM_CREATE_VM, vm_type).is_ok());
    }
    assert_eq!(
        amd.ioctl(amd.kvm, KVM_CREATE_VM, KVM_X86_TDX_VM),
        Err(Errno::EINVAL)
    );
    assert_eq!(
        amd.ioctl(amd.kvm, KVM_CHECK_EXTENSION, KVM_CAP_VM_TYPES.into()),
        Ok(0b1111)
    );
    let intel = vmm::boot();
    for vm_type in [SEV, SEV_ES] {
        assert_eq!(
            intel.ioctl(intel.kvm, KVM_CREATE_VM, vm_type),
            Err(Errno::EINVAL)
        );
    }
    let vm = create(&intel, KVM_X86_DEFAULT_VM);
    assert_eq!(
        migrate(&intel, vm, vm),
        Err(Errno::EINVAL),
        "Intel has no such operation"
    );
}

#[test]
fn initialization_refuses_in_the_kernels_order() {
    let vmm = boot(&V7_3);
    let vm = create(&vmm, SEV);
    assert_eq!(vmm.ioctl(vm, KVM_MEMORY_ENCRYPT_OP, 0), Ok(0));
    assert_eq!(vmm.ioctl(vm, KVM_MEMORY_ENCRYPT_OP, 8), Err(Errno::EFAULT));
    assert_eq!(sev(&vmm, vm, 0x1234, 0).0, Err(Errno::EINVAL));
    assert_eq!(
        sev(&vmm, vm, KVM_SEV_INIT, 0).0,
        Err(Errno::EINVAL),
        "for DEFAULT VMs"
    );
    assert_eq!(sev(&vmm, vm, KVM_SEV_INIT2, 8).0, Err(Errno::EFAULT));
    assert_eq!(sev(&vmm, vm, KVM_SEV_LAUNCH_START, 0).0, Err(Errno::ENOTTY));
    assert_eq!(init2(&vmm, vm, |i| i.flags = 1), Err(Errno::EINVAL));
    assert_eq!(init2(&vmm, vm, |i| i.vmsa_features = 1), Err(Errno::EINVAL));
    assert_eq!(
        init2(&vmm, vm, |i| i.ghcb_version = 1),
        Err(Errno::EINVAL),
        "ES only"
    );
    assert_eq!(init2(&vmm, vm, |_| {}), Ok(0));
    assert_eq!(init2(&vmm, vm, |_| {}), Err(Errno::EINVAL));
    assert_eq!(
        sev(&vmm, vm, KVM_SEV_LAUNCH_UPDATE_VMSA, 0).0,
        Err(Errno::ENOTTY)
    );

    let es = create(&vmm, SEV_ES);
    assert_eq!(init2(&vmm, es, |i| i.ghcb_version = 3), Err(Errno::EINVAL));
    vmm.ioctl(es, KVM_CREATE_VCPU, 0).expect("a vCPU");
    assert_eq!(init2(&vmm, es, |_| {}), Err(Errno::EINVAL), "it has vCPUs");

    let late = create(&vmm, SEV_ES);
    assert_eq!(init2(&vmm, late, |i| i.ghcb_version = 2), Ok(0));
    vmm.ioctl(late, KVM_CREATE_VCPU, 0).expect("a vCPU");
    // The firmware does not know the guest before LAUNCH_START.
    let (reply, error) = sev(&vmm, late, KVM_SEV_LAUNCH_UPDATE_VMSA, 0);
    assert_eq!((reply, error), (Err(Errno::EIO), 16));

    let legacy = create(&vmm, KVM_X86_DEFAULT_VM);
    assert_eq!(
        init2(&vmm, legacy, |_| {}),
        Err(Errno::EINVAL),
        "not a type of SEV's"
    );
    assert_eq!(sev(&vmm, legacy, KVM_SEV_ES_INIT, 0).0, Ok(0));
    assert_eq!(
        sev(&vmm, legacy, KVM_SEV_INIT, 0).0,
        Err(Errno::EINVAL),
        "active already"
    );
}

#[test]
fn migration_refuses_in_the_kernels_order() {
    let vmm = boot(&V7_3);
    let (src, other_type) = (guest(&vmm, SEV_ES, 1), create(&vmm, SEV));
    let vcpu = vmm.ioctl(other_type, KVM_CREATE_VCPU, 0).expect("a vCPU") as i32;
    let dst = create(&vmm, SEV_ES);
    assert_eq!(migrate(&vmm, dst, 999), Err(Errno::EBADF));
    assert_eq!(migrate(&vmm, dst, vcpu), Err(Errno::EBADF), "not a VM");
    assert_eq!(migrate(&vmm, dst, dst), Err(Errno::EINVAL), "itself");
    assert_eq!(
        migrate(&vmm, other_type, src),
        Err(Errno::EINVAL),
        "of another type"
    );
    assert_eq!(
        migrate(&vmm, src, dst),
        Err(Errno::EINVAL),
        "the destination is active"
    );
    let idle = create(&vmm, SEV_ES);
    assert_eq!(
        migrate(&vmm, dst, idle),
        Err(Errno::EINVAL),
        "the source is not"
    );
    assert_eq!(
        migrate(&vmm, dst, src),
        Err(Errno::EINVAL),
        "no vCPU here, one there"
    );
    vmm.ioctl(dst, KVM_CREATE_VCPU, 0).expect("a vCPU");
    let unprotected = create(&vmm, SEV_ES);
    init2(&vmm, unprotected, |_| {}).expect("KVM_SEV_INIT2");
    vmm.ioctl(unprotected, KVM_CREATE_VCPU, 0).expect("a vCPU");
    assert_eq!(
        migrate(&vmm, dst, unprotected),
        Err(Errno::EINVAL),
        "not protected yet"
    );
    // Flags are looked at first.
    let mut cap = KvmEnableCap::new_zeroed();
    (cap.cap, cap.flags) = (KVM_CAP_VM_MOVE_ENC_CONTEXT_FROM, 1);
    assert_eq!(
        vmm.ioctl_with(dst, KVM_ENABLE_CAP, &mut cap),
        Err(Errno::EINVAL)
    );
    assert_eq!(migrate(&vmm, dst, src), Ok(0));
}

#[test]
fn the_guest_moves_with_its_vmsas_and_the_source_is_dead() {
    for vm_type in [SEV, SEV_ES] {
        let vmm = boot(&V7_3);
        let (src, dst) = (guest(&vmm, vm_type, 2), create(&vmm, vm_type));
        // Only SEV-ES asks for as many vCPUs.
        for id in 0..if vm_type == SEV_ES { 2 } else { 1 } {
            vmm.ioctl(dst, KVM_CREATE_VCPU, id).expect("a vCPU");
        }
        assert_eq!(migrate(&vmm, dst, src), Ok(0));
        let [from, to] = &vms(&vmm)[..] else {
            panic!("two VMs")
        };
        assert_eq!((from.sev().is_active(), from.sev().is_es()), (false, false));
        assert_eq!(
            (to.sev().is_active(), to.sev().is_es()),
            (true, vm_type == SEV_ES)
        );
        assert!(from.stale_sev_vcpus().is_empty() && to.stale_sev_vcpus().is_empty());
        assert_eq!(vmm.ioctl(src, KVM_CHECK_EXTENSION, 0), Err(Errno::EIO));
        assert_eq!(vmm.ioctl(dst, KVM_CHECK_EXTENSION, 0), Ok(1));
    }
}

#[test]
fn everything_comes_back_after_a_migration() {
    let vmm = boot(&V7_3);
    let (src, dst) = (guest(&vmm, SEV_ES, 2), create(&vmm, SEV_ES));
    for id in 0..2 {
        vmm.ioctl(dst, KVM_CREATE_VCPU, id).expect("a vCPU");
    }
    assert_eq!(migrate(&vmm, dst, src), Ok(0));
    close_all(&vmm);
    assert_eq!(vmm.host.pages().in_use(), 0);
    assert!(
        vmm.host
            .teardowns()
            .iter()
            .all(|t| t.bugs == 0 && t.pages_leaked == 0)
    );
}

fn close_all(vmm: &Vmm) {
    for fd in vmm.process.open_fds() {
        if fd != vmm.kvm {
            vmm.close(fd);
        }
    }
}

/// Does something once, when `sev_vcpu_create` has just read `es_active`.
struct AfterTheRead<F: FnOnce()>(Cell<Option<F>>);

impl<F: FnOnce()> Hook for AfterTheRead<F> {
    fn before(&self, _: &Op) -> Verdict {
        Verdict::Go
    }

    fn after(&self, op: &Op, _: Outcome) {
        if op.action == Action::Load
            && op.name.class.name() == "sev->es_active"
            && let Some(f) = self.0.take()
        {
            f();
        }
    }
}

/// Two guests of one vCPU each; while a second vCPU is created on one, its creator has read that the
/// VM is (not) an SEV-ES one, and another thread migrates. What the migration answered; it gives up
/// where it would have to wait.
fn migrate_while_creating(discipline: &'static Discipline, on_dst: bool) -> (Rc<Vmm>, Reply) {
    let vmm = Rc::new(boot(discipline));
    let (src, dst) = (guest(&vmm, SEV_ES, 1), create(&vmm, SEV_ES));
    vmm.ioctl(dst, KVM_CREATE_VCPU, 0).expect("a vCPU");
    let reply = Rc::new(Cell::new(Err(Errno::EIO)));
    let (seen, machine) = (reply.clone(), vmm.clone());
    let hook = AfterTheRead(Cell::new(Some(move || {
        let process = &machine.process;
        let mut cap = KvmEnableCap::new_zeroed();
        (cap.cap, cap.args[0]) = (KVM_CAP_VM_MOVE_ENC_CONTEXT_FROM, src as u64);
        let arg = process.map_copy(cap.as_bytes());
        let other = std::thread::scope(|scope| {
            let migrate = || {
                let control = Control::on(1);
                control.signal(true);
                let task = process.task(&control);
                seamlock_kvm::ioctl_fd(&task, dst, KVM_ENABLE_CAP, arg)
            };
            scope.spawn(migrate).join().expect("no panic")
        });
        seen.set(other.map_err(|error| error.errno));
    })));
    let before = install(Some(Rc::new(hook)));
    let created = vmm.ioctl(if on_dst { dst } else { src }, KVM_CREATE_VCPU, 1);
    install(before);
    assert!(created.is_ok());
    (vmm, reply.get())
}

#[test]
fn before_ecf371f8b02d_a_vcpu_of_the_destination_ends_without_a_vmsa() {
    let open = discipline(CreateVcpu::UnlockedMiddle, SevInFlight::Ignored);
    let (vmm, reply) = migrate_while_creating(open, true);
    assert_eq!(reply, Ok(0));
    let dst = vms(&vmm).pop().expect("the destination");
    assert_eq!((dst.sev().is_es(), dst.stale_sev_vcpus()), (true, vec![1]));
    drop(dst);
    close_all(&vmm);
    // The crash of the syzkaller report: a NULL VMSA is freed.
    let bugs: Vec<usize> = vmm.host.teardowns().iter().map(|t| t.bugs).collect();
    assert_eq!(bugs.iter().sum::<usize>(), 1);
}

#[test]
fn before_ecf371f8b02d_a_vcpu_of_the_source_keeps_a_vmsa_that_nobody_frees() {
    let open = discipline(CreateVcpu::UnlockedMiddle, SevInFlight::Ignored);
    let (vmm, reply) = migrate_while_creating(open, false);
    assert_eq!(reply, Ok(0));
    assert_eq!(vms(&vmm)[0].stale_sev_vcpus(), vec![1]);
    close_all(&vmm);
    assert_eq!(vmm.host.pages().in_use(), 1);
}

#[test]
fn with_ecf371f8b02d_a_creation_in_flight_on_either_vm_is_ebusy() {
    let tested = discipline(CreateVcpu::UnlockedMiddle, SevInFlight::Tested);
    for on_dst in [true, false] {
        let (vmm, reply) = migrate_while_creating(tested, on_dst);
        assert_eq!(reply, Err(Errno::EBUSY));
        assert!(vms(&vmm).iter().all(|kvm| kvm.stale_sev_vcpus().is_empty()));
        close_all(&vmm);
        assert_eq!(vmm.host.pages().in_use(), 0);
    }
}

#[test]
fn in_v7_3_the_migration_waits_for_the_creation() {
    for on_dst in [true, false] {
        let (vmm, reply) = migrate_while_creating(&V7_3, on_dst);
        assert_eq!(reply, Err(Errno::EINTR), "it waited for kvm->lock");
        assert!(vms(&vmm).iter().all(|kvm| kvm.stale_sev_vcpus().is_empty()));
        close_all(&vmm);
        assert_eq!(vmm.host.pages().in_use(), 0);
    }
}

#[test]
fn kvm_lock_all_vcpus_refuses_where_a_creation_can_be_in_flight() {
    let both = discipline(CreateVcpu::UnlockedMiddle, SevInFlight::ByLockAllVcpus);
    let (_, reply) = migrate_while_creating(both, true);
    assert_eq!(reply, Err(Errno::EBUSY));
}

#[test]
fn migrations_in_opposite_directions_do_not_deadlock() {
    let vmm = boot(&V7_3);
    let (one, other) = (guest(&vmm, SEV, 1), guest(&vmm, SEV, 1));
    let (process, kvm) = (&vmm.process, &vmm);
    let arg = |fd: i32| {
        let mut cap = KvmEnableCap::new_zeroed();
        (cap.cap, cap.args[0]) = (KVM_CAP_VM_MOVE_ENC_CONTEXT_FROM, fd as u64);
        kvm.process.map_copy(cap.as_bytes())
    };
    let ways = [(one, arg(other)), (other, arg(one))];
    std::thread::scope(|scope| {
        for (dst, arg) in ways {
            scope.spawn(move || {
                let control = Control::on(1);
                let task = process.task(&control);
                for _ in 0..200 {
                    let reply = seamlock_kvm::ioctl_fd(&task, dst, KVM_ENABLE_CAP, arg);
                    let errno = reply.expect_err("both are active").errno;
                    assert!(matches!(errno, Errno::EBUSY | Errno::EINVAL));
                }
            });
        }
    });
}
