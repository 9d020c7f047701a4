//! Where generations answer differently for other reasons than a page: order of checks, what is copied
//! back, which failure kills the VM, vCPUs that fail to be created, and who is locked out meanwhile.

mod vmm;

use std::sync::{Arc, OnceLock, Weak};

use seamlock_kvm::bug::What;
use seamlock_kvm::discipline::{self, DISCIPLINES, Discipline};
use seamlock_kvm::host::{Fault, Inject, Upcoming};
use seamlock_kvm::{Host, Kvm, Options, Process};
use seamlock_sync::{Mode, Private};
use seamlock_tdx_abi::kvm::*;
use seamlock_tdx_abi::{Leaf, OperandId, TdxStatus};
use seamlock_tdx_module::LockAt;
use vmm::{Reply, Td, Vmm, boot_with, platform};
use zerocopy::IntoBytes;

fn under(discipline: &'static Discipline) -> Vmm {
    boot_with(Options {
        discipline,
        ..Options::default()
    })
}

/// All but the one that can't build a TD.
fn working() -> impl Iterator<Item = &'static Discipline> {
    DISCIPLINES.iter().copied().filter(|d| d.name != "seed")
}

/// Disciplines before the merged guard.
const BEFORE: [&str; 7] = [
    "v6.16",
    "seed",
    "seed-24",
    "retry",
    "slots",
    "slots-retest",
    "guardslots",
];

/// KVM_MEMORY_ENCRYPT_OP whose command lies in memory that can't be written.
fn read_only_command(vmm: &Vmm, fd: i32, id: u32, data: u64) -> Reply {
    let (flags, hw_error) = (0, 0);
    let cmd = KvmTdxCmd {
        id,
        flags,
        data,
        hw_error,
    };
    let at = vmm.process.map_bytes(Arc::from(cmd.as_bytes()));
    vmm.ioctl(fd, KVM_MEMORY_ENCRYPT_OP, at)
}

/// An address at which nothing is mapped.
const NOWHERE: u64 = 8;

#[test]
fn a_finalized_td_tests_its_state_before_the_pointer_where_vcpu_commands_are_not_unlocked() {
    for discipline in working() {
        let vmm = under(discipline);
        let td = vmm.build(1);
        assert_eq!(vmm.finalize(&td), Ok(0));
        let reply = vmm.ioctl(td.vcpus[0], KVM_MEMORY_ENCRYPT_OP, NOWHERE);
        let copies_first = !matches!(
            discipline.name,
            "v6.16" | "retry" | "slots" | "slots-retest"
        );
        let expected = if copies_first {
            Errno::EFAULT
        } else {
            Errno::EINVAL
        };
        assert_eq!(reply, Err(expected), "{}", discipline.name);
        // VM commands always copied first.
        let reply = vmm.ioctl(td.vm, KVM_MEMORY_ENCRYPT_OP, NOWHERE);
        assert_eq!(reply, Err(Errno::EFAULT), "{}", discipline.name);
    }
}

#[test]
fn capabilities_is_copied_back_until_the_merged_guard_and_an_unknown_command_never() {
    for discipline in working() {
        let vmm = under(discipline);
        let td = vmm.create_td();
        let room = vmm.process.map(2056 + 256 * 40);
        let nent = KvmCpuid2 {
            nent: 256,
            padding: 0,
        };
        use seamlock_kvm::task::UserMemory;
        vmm.process.write(room + 2048, nent.as_bytes()).unwrap();
        let reply = read_only_command(&vmm, td.vm, TdxCmdId::KVM_TDX_CAPABILITIES.0, room);
        let expected = if BEFORE.contains(&discipline.name) {
            Err(Errno::EFAULT)
        } else {
            Ok(0)
        };
        assert_eq!(reply, expected, "{}", discipline.name);
        let reply = read_only_command(&vmm, td.vm, 99, 0);
        assert_eq!(reply, Err(Errno::EINVAL), "{}", discipline.name);
        let vcpu_command = TdxCmdId::KVM_TDX_INIT_VCPU.0;
        let reply = read_only_command(&vmm, td.vm, vcpu_command, 0);
        assert_eq!(reply, Err(Errno::EINVAL), "{}", discipline.name);
    }
}

#[test]
fn the_seed_reads_8_bytes_of_a_command_and_copies_16_that_are_not_the_users_back() {
    let vmm = under(&discipline::SEED);
    let td = vmm.create_td();
    let data = vmm.init_vm_data(|_, _| {});
    for id in [TdxCmdId::KVM_TDX_CAPABILITIES, TdxCmdId::KVM_TDX_INIT_VM] {
        // data reads as 0, and that is where the structure is looked for.
        let (reply, cmd) = vmm.tdx(td.vm, id, 0, data);
        assert_eq!(reply, Err(Errno::EFAULT));
        let expected = KvmTdxCmd {
            id: id.0,
            flags: 0,
            data: 0,
            hw_error: 0,
        };
        assert_eq!(cmd, expected);
    }
    // hw_error is not seen: whether it is refused is up to the stack.
    let mut cmd = KvmTdxCmd {
        id: 99,
        flags: 7,
        data: 8,
        hw_error: 9,
    };
    let error = |fd, cmd: &mut KvmTdxCmd| {
        let at = vmm.process.map_copy(cmd.as_bytes());
        vmm.try_ioctl(fd, KVM_MEMORY_ENCRYPT_OP, at)
            .expect_err("there is no such command")
    };
    assert!(error(td.vm, &mut cmd).reason.contains("no such command"));
    let fixed = under(&discipline::SEED_24);
    let td = fixed.create_td();
    let reply = fixed.ioctl_with(td.vm, KVM_MEMORY_ENCRYPT_OP, &mut cmd);
    assert_eq!((reply, cmd.data), (Err(Errno::EINVAL), 8));
}

#[test]
fn a_source_address_of_zero_is_einval_today_and_efault_before() {
    for discipline in working() {
        let vmm = under(discipline);
        let td = vmm.build(1);
        let mut region = KvmTdxInitMemRegion {
            source_addr: 0,
            gpa: 0x1000,
            nr_pages: 1,
        };
        let expected = if discipline.source_zero_refused {
            Errno::EINVAL
        } else {
            Errno::EFAULT
        };
        let reply = vmm.load(td.vcpus[0], &mut region, true);
        assert_eq!(reply, Err(expected), "{}", discipline.name);
        assert_eq!(vmm.finalize(&td), Ok(0), "{}", discipline.name);
    }
}

#[test]
fn a_duplicate_id_is_found_first_today_and_last_before() {
    for discipline in working() {
        let vmm = under(discipline);
        let mut td = vmm.build(1);
        assert_eq!(vmm.create_vcpu(&mut td, 0), Err(Errno::EEXIST));
        assert_eq!(vmm.finalize(&td), Ok(0));
        let expected = match discipline.create_vcpu {
            discipline::CreateVcpu::UnderKvmLock => Errno::EEXIST,
            // tdx_vcpu_create has refused before.
            discipline::CreateVcpu::UnlockedMiddle => Errno::EIO,
        };
        let name = discipline.name;
        assert_eq!(vmm.create_vcpu(&mut td, 0), Err(expected), "{name}");
    }
}

#[test]
fn a_failed_mng_leaf_kills_the_vm_only_from_the_series_on() {
    let busy = TdxStatus::OPERAND_BUSY.with(OperandId::RCX);
    for discipline in [&discipline::V6_16, &discipline::SEED_24, &discipline::V7_3] {
        for leaf in [Leaf::MNG_CREATE, Leaf::MNG_ADDCX, Leaf::MNG_INIT] {
            let fault = Fault {
                leaf,
                nth: 1,
                status: busy,
            };
            let vmm = boot_with(Options {
                discipline,
                inject: Some(Arc::new(vec![fault])),
                ..Options::default()
            });
            let hkids = vmm.host.free_hkids();
            let td = vmm.create_td();
            assert_eq!(vmm.init_vm(&td), Err(Errno::EIO));
            assert_eq!(vmm.host.free_hkids(), hkids);
            let bugs = vmm.host.live_vms()[0].bugs();
            let alive = discipline.name == "v6.16";
            assert_eq!((bugs.len(), bugs[0].fatal), (1, !alive), "{leaf}");
            let again = if alive { Ok(0) } else { Err(Errno::EIO) };
            assert_eq!(vmm.init_vm(&td), again, "{} {leaf}", discipline.name);
            vmm.drop_td(&td);
            assert_eq!(vmm.host.teardowns()[0].pages_leaked, 0);
        }
    }
}

/// Assertions about per-CPU lists in any of the VMs.
fn corruptions(vmm: &Vmm) -> usize {
    let is = |what: &What| matches!(what, What::Condition(c) if c.starts_with("list corruption"));
    let vms = vmm.host.live_vms();
    vms.iter()
        .map(|kvm| kvm.bugs().iter().filter(|bug| is(&bug.what)).count())
        .sum()
}

/// A vCPU whose creation fails late, and then one of another TD on the same CPU.
fn create_after_a_late_failure(discipline: &'static Discipline, fd_limit: bool) -> usize {
    let host = Host::boot_with(
        platform(),
        Options {
            discipline,
            ..Options::default()
        },
    );
    let limit = if fd_limit { 4 } else { 64 };
    let vmm = Vmm::on(
        host.expect("the module comes up"),
        Process::with_fd_limit(1, limit),
    );
    let mut td = vmm.build(1);
    let (id, errno) = if fd_limit {
        (1, Errno::EMFILE)
    } else {
        (0, Errno::EEXIST)
    };
    assert_eq!(vmm.create_vcpu(&mut td, id), Err(errno));
    assert_eq!(corruptions(&vmm), 0);
    let other = Vmm::on(vmm.host.clone(), Process::new(2));
    let bystander = other.build(1);
    let found = corruptions(&vmm);
    // The VM that met it is not to blame, and lives.
    assert_eq!(other.finalize(&bystander), Ok(0));
    found
}

#[test]
fn a_vcpu_freed_while_on_a_cpus_list_is_met_by_the_next_td_on_that_cpu_until_v6_19() {
    for discipline in working() {
        // v7.3 finds a duplicate before it builds anything, so only the descriptors can run out.
        for fd_limit in [false, true] {
            let found = create_after_a_late_failure(discipline, fd_limit);
            let expected = !discipline.vcpu_free_disassociates;
            assert_eq!(found > 0, expected, "{} {fd_limit}", discipline.name);
        }
    }
}

#[test]
fn a_freed_vcpu_on_a_list_is_met_when_the_cpu_goes_offline_too() {
    let vmm = under(&discipline::V6_16);
    let mut td = vmm.build(1);
    assert_eq!(vmm.create_vcpu(&mut td, 0), Err(Errno::EEXIST));
    assert!(vmm.host.offline_cpu(0));
    assert!(corruptions(&vmm) > 0);
}

/// A pre-fault of one page and the deletion of its slot: whether the deletion ends before a signal
/// comes to the pre-fault, and what that answers.
fn delete_under_a_prefault(discipline: &'static Discipline, stuck: bool) -> (bool, Reply) {
    let vmm = under(discipline);
    let td = vmm.build(1);
    assert_eq!(vmm.finalize(&td), Ok(0));
    let kvm = vmm.host.live_vms().pop().expect("a TD");
    let tdr = kvm.tdx().tdr().expect("it was initialized");
    let mut range = KvmPreFaultMemory {
        gpa: 0x1000,
        size: 4096,
        ..Default::default()
    };
    // Roots first: VP.WR is not to meet the word that is held below.
    assert_eq!(
        vmm.ioctl_with(td.vcpus[0], KVM_PRE_FAULT_MEMORY, &mut range),
        Ok(0)
    );
    (range.gpa, range.size) = (0x2000, 4096);
    let at = LockAt::Page(tdr);
    let made = || vmm.host.counters().made(Leaf::MEM_PAGE_AUG);
    let before = made();
    vmm.host.module().hold(at, Mode::Exclusive).expect("free");
    let prefaulter = Vmm::on(vmm.host.clone(), Process::new(1));
    let file = seamlock_kvm::task::Files::file(&vmm.process, td.vcpus[0]).expect("open");
    let fd = seamlock_kvm::task::Files::install(&prefaulter.process, &file).expect("room");
    std::thread::scope(|scope| {
        let prefault = scope.spawn(|| prefaulter.ioctl_with(fd, KVM_PRE_FAULT_MEMORY, &mut range));
        // It is in its SRCU section once PAGE.AUG was busy.
        while made() == before {
            std::thread::yield_now();
        }
        let deletion = scope.spawn(|| vmm.slot(&td, 0, 0, 0));
        while kvm.memslots().of_id(0, 0).is_some_and(|slot| !slot.invalid) {
            std::thread::yield_now();
        }
        vmm.host.module().release(at, Mode::Exclusive);
        // Only one that never ends by itself is sent a signal, so that no scheduling matters.
        for _ in 0..2000 {
            std::thread::yield_now();
        }
        let live = prefault.is_finished();
        if stuck {
            prefaulter.control.signal(false);
        }
        let reply = prefault.join().expect("no panic");
        assert_eq!(deletion.join().expect("no panic"), Ok(0));
        (live, reply)
    })
}

#[test]
fn a_prefault_keeps_a_slot_from_being_deleted_until_a_signal_comes_before_v6_18() {
    let stuck = (false, Err(Errno::EINTR));
    assert_eq!(delete_under_a_prefault(&discipline::V6_16, true), stuck);
    let (_, reply) = delete_under_a_prefault(&discipline::V6_19, false);
    assert_eq!(reply, Err(Errno::EAGAIN));
}

/// Whom a SEAMCALL locks out: looks at the second vCPU's mutex as each is made.
#[derive(Debug, Default)]
struct LockedOut {
    kvm: OnceLock<Weak<Kvm>>,
    seen: Private<Vec<(Leaf, bool)>>,
}

impl Inject for LockedOut {
    fn status(&self, call: &Upcoming) -> Option<TdxStatus> {
        let kvm = self.kvm.get()?.upgrade()?;
        let busy = kvm.vcpus().nth(1)?.is_busy();
        let leaf = call.regs.leaf();
        self.seen.with(|seen| seen.push((leaf, busy)));
        None
    }
}

/// While the first vCPU is initialised, a page loaded and the TD finalized: for each of these leaves,
/// whether the second vCPU's mutex was held.
fn locked_out(discipline: &'static Discipline) -> [bool; 4] {
    let watcher = Arc::new(LockedOut::default());
    let vmm = boot_with(Options {
        discipline,
        inject: Some(watcher.clone()),
        ..Options::default()
    });
    let mut td = vmm.create_td();
    assert_eq!(vmm.init_vm(&td), Ok(0));
    vmm.add_memory(&mut td);
    for id in 0..2 {
        let fd = vmm.create_vcpu(&mut td, id).expect("a vCPU") as i32;
        assert_eq!(vmm.set_cpuid(fd), Ok(0));
    }
    let kvm = Arc::downgrade(&vmm.host.live_vms()[0]);
    watcher.kvm.set(kvm).expect("set once");
    assert_eq!(vmm.init_vcpu(td.vcpus[0]), Ok(0));
    let mut region = KvmTdxInitMemRegion {
        source_addr: vmm.process.map(4096),
        gpa: 0x1000,
        nr_pages: 1,
    };
    assert_eq!(vmm.load(td.vcpus[0], &mut region, true), Ok(0));
    assert_eq!(vmm.finalize(&td), Ok(0));
    let seen = watcher.seen.with(std::mem::take);
    let of = |leaf| {
        let all: Vec<_> = seen.iter().filter(|(l, _)| *l == leaf).collect();
        assert!(!all.is_empty() && all.iter().all(|one| one.1 == all[0].1));
        all[0].1
    };
    [
        of(Leaf::VP_INIT),
        of(Leaf::MEM_PAGE_ADD),
        of(Leaf::MR_EXTEND),
        of(Leaf::MR_FINALIZE),
    ]
}

#[test]
fn which_leaves_run_with_the_other_vcpu_locked_out() {
    let rows = [
        ("v6.16", [false; 4]),
        ("retry", [false; 4]),
        ("slots", [false; 4]),
        // R10: measured on hardware with the mail's patches applied.
        ("seed-24", [false, true, true, true]),
        ("guardslots", [false, true, true, true]),
        ("v6.19", [true; 4]),
        ("v7.3", [true; 4]),
        ("no-vcpu-mutexes", [false; 4]),
        ("init-vcpu-unguarded", [false, true, true, true]),
        ("finalize-unguarded", [true, true, true, false]),
        ("no-kvm-lock", [true; 4]),
    ];
    for (name, expected) in rows {
        let discipline = discipline::by_name(name).expect("it is listed");
        assert_eq!(locked_out(discipline), expected, "{name}");
    }
}

/// The first assertion that failed.
fn first_bug(vmm: &Vmm) -> Option<(Leaf, TdxStatus)> {
    match &vmm.host.live_vms()[0].bugs().first()?.what {
        What::Seamcall { leaf, status, .. } => Some((*leaf, *status)),
        What::Condition(_) => None,
    }
}

#[test]
fn vp_init_that_meets_another_vcpus_seamcall_bugs_the_vm_with_the_status_that_was_measured() {
    for discipline in working() {
        let vmm = under(discipline);
        let mut td: Td = vmm.build(1);
        let second = vmm.create_vcpu(&mut td, 1).expect("a vCPU") as i32;
        assert_eq!(vmm.set_cpuid(second), Ok(0));
        // As MNG.RD of GET_CPUID, VP.CREATE of INIT_VCPU or VP.FLUSH of a vcpu_load have it.
        let tdr = vmm.host.live_vms()[0].tdx().tdr().expect("a TD");
        let (at, mode) = (LockAt::Page(tdr), Mode::Shared);
        vmm.host.module().hold(at, mode).expect("free");
        assert_eq!(vmm.init_vcpu(second), Err(Errno::EIO));
        vmm.host.module().release(at, mode);
        let busy = (Leaf::VP_INIT, TdxStatus(0x8000_0200_0000_0080));
        assert_eq!(first_bug(&vmm), Some(busy), "{}", discipline.name);
        assert_eq!(vmm.finalize(&td), Err(Errno::EIO));
    }
}
