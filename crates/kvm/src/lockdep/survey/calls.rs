//! The calls, in an order in which each can succeed.

use std::sync::Arc;

use seamlock_tdx_abi::PAGE_SIZE;
use seamlock_tdx_abi::kvm::*;
use seamlock_tdx_module::Platform;
use zerocopy::{FromZeros, IntoBytes};

use super::client::Client;
use super::{Call, Lockdep};
use crate::arch::Arch;
use crate::discipline::Discipline;
use crate::file::{self, Kind};
use crate::gmem::{FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE, fallocate};
use crate::guest::{Entered, Guest, Halting, Turn};
use crate::host::{BootError, Host, Options};
use crate::ioctl::{Handler, TABLE};
use crate::lockdep::Mode;
use crate::lockdep::trace::Recorder;
use crate::locks::{IRQS_OFF, PREEMPT_OFF, Take, VCPU_MUTEX};
use crate::task::Control;

/// Guest memory, all private.
const MEMORY: u64 = 16 << 20;
/// The shared half of the guest's memory, in the process.
const SLOT_USER_MEMORY: u64 = 0x1000_0000;
/// Where pages are loaded, and where others are faulted in.
const LOADED: u64 = 0x10_0000;
const FAULTED: u64 = 0x20_0000;

/// A guest that is interrupted by a signal at once.
#[derive(Debug)]
struct Signalled(Arc<Control>);

impl Guest for Signalled {
    fn run(&self, entered: &Entered) -> Turn {
        self.0.signal(false);
        Halting.run(entered)
    }
}

fn boot(
    arch: &'static dyn Arch,
    discipline: &'static Discipline,
    lockdep: &Arc<Lockdep>,
) -> Result<Client, BootError> {
    let recorder = Recorder::default();
    let control = Arc::new(Control::on(0));
    let options = Options {
        discipline,
        observer: Some(Arc::new(recorder.clone())),
        guest: Arc::new(Signalled(control.clone())),
        arch,
        lockdep: Some(lockdep.clone()),
        ..Options::default()
    };
    let host = Host::boot_with(Platform::sapphire_rapids(1 << 30, 4), options)?;
    Ok(Client::on(host, control, recorder))
}

/// The first KVM_RUN of an architecture's vCPU, which takes `slots_lock` there.
pub(super) fn first_run(
    arch: &'static dyn Arch,
    discipline: &'static Discipline,
    lockdep: &Arc<Lockdep>,
) -> Result<Call, BootError> {
    let mut client = boot(arch, discipline, lockdep)?;
    let vm = client.ioctl("", client.kvm, KVM_CREATE_VM, 0) as i32;
    if arch.has_x86_tables() {
        client.ioctl_with("", vm, KVM_ENABLE_CAP, &split_irqchip());
    } else {
        client.ioctl("", vm, KVM_CREATE_IRQCHIP, 0);
    }
    let vcpu = client.ioctl("", vm, KVM_CREATE_VCPU, 0) as i32;
    client.control.signal(false);
    client.ioctl(&format!("KVM_RUN ({})", arch.name()), vcpu, KVM_RUN, 0);
    let mut call = client.calls.swap_remove(client.calls.len() - 1);
    call.declared = call.tree.order.clone();
    Ok(call)
}

fn split_irqchip() -> KvmEnableCap {
    KvmEnableCap {
        cap: KVM_CAP_SPLIT_IRQCHIP,
        args: [24, 0, 0, 0],
        ..KvmEnableCap::new_zeroed()
    }
}

/// A TD's life.
pub(super) fn of_td(
    discipline: &'static Discipline,
    lockdep: &Arc<Lockdep>,
) -> Result<Vec<Call>, BootError> {
    let mut client = boot(&crate::arch::INTEL, discipline, lockdep)?;
    let td = build(&mut client);
    others(&mut client, &td);
    load(&mut client, &td);
    run(&mut client, &td);
    take_apart(&mut client, &td);
    Ok(client.calls)
}

struct Td {
    vm: i32,
    gmem: i32,
    vcpus: [i32; 2],
}

fn build(client: &mut Client) -> Td {
    let vm = client.ioctl("KVM_CREATE_VM", client.kvm, KVM_CREATE_VM, KVM_X86_TDX_VM) as i32;
    let name = "KVM_ENABLE_CAP(KVM_CAP_SPLIT_IRQCHIP)";
    client.ioctl_with(name, vm, KVM_ENABLE_CAP, &split_irqchip());
    let rings = KvmEnableCap {
        cap: KVM_CAP_DIRTY_LOG_RING,
        args: [4096, 0, 0, 0],
        ..KvmEnableCap::new_zeroed()
    };
    let name = "KVM_ENABLE_CAP(KVM_CAP_DIRTY_LOG_RING)";
    client.ioctl_with(name, vm, KVM_ENABLE_CAP, &rings);
    client.tdx(vm, TdxCmdId::KVM_TDX_CAPABILITIES, &capabilities());
    client.tdx(vm, TdxCmdId::KVM_TDX_INIT_VM, &init_vm());
    let args = KvmCreateGuestMemfd {
        size: MEMORY,
        ..Default::default()
    };
    let name = "KVM_CREATE_GUEST_MEMFD";
    let gmem = client.ioctl_with(name, vm, KVM_CREATE_GUEST_MEMFD, &args) as i32;
    let name = "KVM_SET_USER_MEMORY_REGION2(create)";
    client.ioctl_with(name, vm, KVM_SET_USER_MEMORY_REGION2, &slot(gmem, MEMORY));
    client.ioctl_with(
        "KVM_SET_MEMORY_ATTRIBUTES",
        vm,
        KVM_SET_MEMORY_ATTRIBUTES,
        &private(8),
    );
    client
        .calls
        .iter_mut()
        .for_each(|call| call.before_vcpus = true);
    let mut vcpus = [-1; 2];
    for (id, vcpu) in vcpus.iter_mut().enumerate() {
        *vcpu = client.ioctl("KVM_CREATE_VCPU", vm, KVM_CREATE_VCPU, id as u64) as i32;
    }
    Td { vm, gmem, vcpus }
}

fn capabilities() -> Vec<u8> {
    let mut caps = KvmTdxCapabilities::new_zeroed();
    caps.cpuid.nent = KVM_MAX_CPUID_ENTRIES;
    let mut bytes = caps.as_bytes().to_vec();
    bytes.resize(bytes.len() + 40 * KVM_MAX_CPUID_ENTRIES as usize, 0);
    bytes
}

fn init_vm() -> Vec<u8> {
    KvmTdxInitVmOneLeaf::smallest().as_bytes().to_vec()
}

fn slot(gmem: i32, size: u64) -> KvmUserspaceMemoryRegion2 {
    KvmUserspaceMemoryRegion2 {
        flags: if size == 0 { 0 } else { KVM_MEM_GUEST_MEMFD },
        memory_size: size,
        userspace_addr: SLOT_USER_MEMORY,
        guest_memfd: gmem as u32,
        ..Default::default()
    }
}

fn private(attributes: u64) -> KvmMemoryAttributes {
    KvmMemoryAttributes {
        address: 0,
        size: MEMORY,
        attributes,
        flags: 0,
    }
}

/// Everything else that the tables have, with an argument of zeros; each on another CPU than before.
fn others(client: &mut Client, td: &Td) {
    let done = [
        KVM_CREATE_VM,
        KVM_CREATE_VCPU,
        KVM_MEMORY_ENCRYPT_OP,
        KVM_SET_USER_MEMORY_REGION2,
        KVM_SET_MEMORY_ATTRIBUTES,
        KVM_CREATE_GUEST_MEMFD,
        KVM_SET_CPUID2,
        KVM_RUN,
        KVM_PRE_FAULT_MEMORY,
    ];
    let shared = KvmUserspaceMemoryRegion {
        slot: 1,
        guest_phys_addr: MEMORY,
        memory_size: PAGE_SIZE,
        userspace_addr: 0x2000_0000,
        ..KvmUserspaceMemoryRegion::new_zeroed()
    };
    let name = "KVM_SET_USER_MEMORY_REGION";
    client.ioctl_with(name, td.vm, KVM_SET_USER_MEMORY_REGION, &shared);
    for entry in TABLE.iter().filter(|entry| !done.contains(&entry.request)) {
        if entry.request == KVM_SET_USER_MEMORY_REGION {
            continue;
        }
        let twice = TABLE
            .iter()
            .filter(|other| other.request == entry.request)
            .count()
            > 1;
        let (fd, scope, declared) = match entry.handler {
            Handler::System(_) => (client.kvm, "/dev/kvm", Vec::new()),
            Handler::Vm(_) => (td.vm, "VM", Vec::new()),
            Handler::Vcpu(_) => (td.vcpus[1], "vCPU", vcpu(false)),
            Handler::LoadedVcpu(_) => (td.vcpus[1], "vCPU", vcpu(true)),
        };
        let name = match twice {
            true => format!("{}({scope})", entry.name),
            false => entry.name.to_owned(),
        };
        // The vCPU was loaded elsewhere, so that all of vcpu_load is seen.
        client.move_to((client.cpu_of(td.vcpus[1]) + 1) % 3);
        // Of its own: what one call writes is not what the next reads.
        let zeros = client.zeros();
        let result = client.ioctl(&name, fd, entry.request, zeros);
        if entry.request == KVM_GET_STATS_FD {
            client.close(result as i32);
        }
        if let Some(call) = client.calls.last_mut() {
            call.declared = declared;
            call.source = "kvm_main.c kvm_vcpu_ioctl";
        }
    }
}

fn vcpu(loaded: bool) -> Vec<Take> {
    let take = |class, mode| Take {
        class,
        mode,
        subclass: 0,
    };
    let mut takes = vec![take(&VCPU_MUTEX, Mode::Exclusive)];
    if loaded {
        takes.extend([
            take(&PREEMPT_OFF, Mode::Inside),
            take(&IRQS_OFF, Mode::Exclusive),
        ]);
    }
    takes
}

fn load(client: &mut Client, td: &Td) {
    // One vCPU is initialised by the way, so that the other's locks are seen with two.
    for (vcpu, cpu) in [(td.vcpus[1], 3), (td.vcpus[0], 1)] {
        client.move_to(cpu);
        client.ioctl_with("KVM_SET_CPUID2", vcpu, KVM_SET_CPUID2, &cpuid()[..]);
        client.move_to(2);
        client.tdx(vcpu, TdxCmdId::KVM_TDX_INIT_VCPU, &[0; 8]);
    }
    client.move_to(3);
    client.tdx(td.vcpus[0], TdxCmdId::KVM_TDX_GET_CPUID, &cpuid_room());
    client.move_to(1);
    let region = KvmTdxInitMemRegion {
        source_addr: client.process.map(2 * PAGE_SIZE),
        gpa: LOADED,
        nr_pages: 2,
    };
    client.tdx(
        td.vcpus[0],
        TdxCmdId::KVM_TDX_INIT_MEM_REGION,
        region.as_bytes(),
    );
    client.tdx(td.vm, TdxCmdId::KVM_TDX_FINALIZE_VM, &[0; 8]);
    // The second call of a name adds nothing.
    let mut seen = std::collections::BTreeSet::new();
    client.calls.reverse();
    client.calls.retain(|call| seen.insert(call.name.clone()));
    client.calls.reverse();
}

fn cpuid() -> Vec<u8> {
    let header = KvmCpuid2 {
        nent: 1,
        padding: 0,
    };
    // x2APIC, which INIT_VCPU asks for.
    let entry = KvmCpuidEntry2 {
        function: 1,
        ecx: 1 << 21,
        ..Default::default()
    };
    [header.as_bytes(), entry.as_bytes()].concat()
}

fn cpuid_room() -> Vec<u8> {
    let header = KvmCpuid2 {
        nent: KVM_MAX_CPUID_ENTRIES,
        padding: 0,
    };
    let mut bytes = header.as_bytes().to_vec();
    bytes.resize(bytes.len() + 40 * KVM_MAX_CPUID_ENTRIES as usize, 0);
    bytes
}

fn run(client: &mut Client, td: &Td) {
    client.move_to(2);
    let range = KvmPreFaultMemory {
        gpa: FAULTED,
        size: PAGE_SIZE,
        ..Default::default()
    };
    client.ioctl_with(
        "KVM_PRE_FAULT_MEMORY",
        td.vcpus[0],
        KVM_PRE_FAULT_MEMORY,
        &range,
    );
    client.move_to(1);
    client.ioctl("KVM_RUN", td.vcpus[0], KVM_RUN, 0);
    client.control.clear_signals();
    // So that a vCPU is on the CPU that goes offline.
    client.move_to(3);
    client.ioctl("", td.vcpus[1], KVM_GET_MP_STATE, client.zeros());
    client.calls.pop();
}

fn take_apart(client: &mut Client, td: &Td) {
    client.move_to(0);
    let host = client.host.clone();
    client.call("CPU offline", |_| Ok(i64::from(host.offline_cpu(3))));
    client.call("CPU online", |_| Ok(i64::from(host.online_cpu(3))));
    let keep = FALLOC_FL_KEEP_SIZE;
    let (gmem, punch) = (td.gmem, keep | FALLOC_FL_PUNCH_HOLE);
    client.call("fallocate", |task| {
        fallocate(task, gmem, keep, FAULTED, PAGE_SIZE).map(|()| 0)
    });
    client.call("memory failure", |task| {
        if let Some(Kind::Gmem(gmem)) = task.files().file(gmem).as_deref().map(|f| f.kind()) {
            gmem.memory_failure(task, FAULTED);
        }
        Ok(0)
    });
    client.call("fallocate(PUNCH_HOLE)", |task| {
        fallocate(task, gmem, punch, LOADED, PAGE_SIZE).map(|()| 0)
    });
    let kvm = host.live_vms().pop();
    client.call("munmap", |_| {
        let page = SLOT_USER_MEMORY..SLOT_USER_MEMORY + PAGE_SIZE;
        kvm.iter()
            .for_each(|kvm| kvm.mmu_notifier_invalidate(page.start, page.end));
        Ok(0)
    });
    drop(kvm);
    let name = "KVM_SET_USER_MEMORY_REGION2(delete)";
    client.ioctl_with(name, td.vm, KVM_SET_USER_MEMORY_REGION2, &slot(gmem, 0));
    // Bound again, so that the file is closed with a slot.
    let arg = client.process.map_copy(slot(gmem, MEMORY).as_bytes());
    client.ioctl("", td.vm, KVM_SET_USER_MEMORY_REGION2, arg);
    client.calls.pop();
    client.call("close(guest_memfd)", |task| {
        file::close(task, gmem).map(|()| 0)
    });
    for vcpu in td.vcpus {
        client.call("close(vCPU)", |task| file::close(task, vcpu).map(|()| 0));
    }
    client.calls.pop();
    client.call("close(VM)", |task| file::close(task, td.vm).map(|()| 0));
}
