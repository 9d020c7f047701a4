//! Building a TD: the commands of KVM_MEMORY_ENCRYPT_OP, and KVM_CREATE_VCPU.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use seamlock_kvm::Result;
use seamlock_kvm::discipline::CreateVcpu;
use seamlock_tdx_abi::kvm::*;
use zerocopy::{FromZeros, IntoBytes};

use crate::stress::client::{SOURCES, gpa_bits, opened};
use crate::stress::finding::{Blame, Finding};
use crate::stress::worker::Worker;
use crate::stress::world::{GUEST_PAGES, Open, Vm, WINDOW_PAGES, gpa_of};

type Done = Option<Result<i64>>;

/// Pages of one INIT_MEM_REGION at the most.
const REGION_PAGES: u64 = 4;

/// A valid argument of INIT_VM, with an identity of its own.
fn init_data(rng: &mut fastrand::Rng) -> Vec<u8> {
    let mut init = KvmTdxInitVm::new_zeroed();
    init.attributes = u64::from(rng.bool()) << 28;
    init.xfam = 3;
    init.mrconfigid[0] = rng.u64(..);
    init.cpuid.nent = 1;
    let entry = KvmCpuidEntry2 {
        function: 0x8000_0008,
        eax: [48, 48, 48, 52][rng.usize(..4)] << 16,
        ..KvmCpuidEntry2::default()
    };
    if rng.u32(..16) == 0 {
        init.reserved[0] = 1;
    }
    let mut bytes = init.as_bytes().to_vec();
    bytes.extend_from_slice(entry.as_bytes());
    bytes
}

pub(super) fn init_vm(worker: &mut Worker, vm: &Arc<Vm>) -> Done {
    let data = init_data(&mut worker.rng);
    let arg = worker.client.init_vm(&data);
    Some(worker.encrypt_op(vm, &vm.open.file, arg))
}

pub(super) fn capabilities(worker: &mut Worker, vm: &Arc<Vm>) -> Done {
    let mut caps = KvmTdxCapabilities::new_zeroed();
    caps.cpuid.nent = worker.rng.u32(..64);
    let data = worker.client.store_data(caps.as_bytes());
    let id = TdxCmdId::KVM_TDX_CAPABILITIES;
    Some(worker.timed(|client| client.tdx(&vm.open.file, id, 0, data)))
}

pub(super) fn create_vcpu(worker: &mut Worker, vm: &Arc<Vm>) -> Done {
    let ids = match worker.world.amd {
        // An SEV-ES guest moves only to a VM with as many vCPUs.
        true => 2,
        false => vm.temper.vcpus,
    };
    let id = worker.rng.u32(..ids);
    let is_taken = vm.kvm.vcpus().any(|vcpu| vcpu.id == id);
    if is_taken && worker.rng.u32(..8) != 0 {
        return None;
    }
    let id = u64::from(id);
    let result = worker.timed(|client| client.ioctl(&vm.open.file, KVM_CREATE_VCPU, id));
    if let Ok(fd) = &result {
        adopt(worker, vm, *fd);
    }
    Some(result)
}

/// Keeps a vCPU's descriptor; closes it when the VM's others have been closed meanwhile.
pub(super) fn adopt(worker: &mut Worker, vm: &Arc<Vm>, fd: i64) {
    vm.created.fetch_add(1, Relaxed);
    let Some(file) = opened(&worker.world.files, fd) else {
        return;
    };
    let open = Open {
        fd: fd as i32,
        file,
    };
    if worker.is_current(vm) {
        vm.vcpus.with(|vcpus| vcpus.push(open));
    } else {
        worker.close(&open);
    }
}

pub(super) fn set_cpuid(worker: &mut Worker, vm: &Arc<Vm>) -> Done {
    let file = worker.vcpu(vm, false)?;
    let x2apic = worker.rng.u32(..16) != 0;
    let bits = match worker.rng.u32(..2048) {
        // Another one bugs the VM (F7).
        0 => 100 - gpa_bits(&vm.kvm),
        _ => gpa_bits(&vm.kvm),
    };
    Some(worker.timed(|client| client.set_cpuid(&file, x2apic, bits)))
}

pub(super) fn init_vcpu(worker: &mut Worker, vm: &Arc<Vm>) -> Done {
    let file = worker.vcpu(vm, false)?;
    let (id, rcx) = (TdxCmdId::KVM_TDX_INIT_VCPU, worker.rng.u64(..));
    Some(worker.timed(|client| client.tdx(&file, id, 0, rcx)))
}

/// A leaf that could not be read is left out, and the ioctl succeeds: all answers of a TD must have as
/// many.
pub(super) fn get_cpuid(worker: &mut Worker, vm: &Arc<Vm>) -> Done {
    let file = worker.vcpu(vm, true)?;
    let mut entries = 0;
    let result = worker.timed(|client| {
        let (result, nent) = client.cpuid(&file);
        entries = nent;
        result
    });
    if result.is_ok() {
        let first = vm
            .cpuid_entries
            .compare_exchange(0, entries, Relaxed, Relaxed);
        if let Err(known) = first
            && known != entries
        {
            let number = vm.kvm.number;
            let what = format!("one KVM_TDX_GET_CPUID gave {known} entries, another {entries}");
            let finding = worker
                .world
                .watch
                .finding("GET_CPUID is whole", number, what);
            worker.world.watch.findings.add(Finding {
                race: Some("R1b"),
                blame: Blame::Discipline,
                site: "tdx.c:3105 tdx_vcpu_get_cpuid".to_owned(),
                ..finding
            });
        }
    }
    Some(result)
}

pub(super) fn load(worker: &mut Worker, vm: &Arc<Vm>) -> Done {
    let file = worker.vcpu(vm, true)?;
    let first = worker.rng.u64(..GUEST_PAGES);
    let room = WINDOW_PAGES - first % WINDOW_PAGES;
    let pages = worker.rng.u64(1..=REGION_PAGES.min(room));
    let source = worker.rng.u64(..SOURCES - REGION_PAGES);
    let measured = worker.rng.u32(..4) != 0;
    let arg = worker.client.load(gpa_of(first), source, pages, measured);
    let result = worker.encrypt_op(vm, &file, arg);
    if result.is_ok() {
        vm.latest_page.store(first, Relaxed);
    }
    Some(result)
}

pub(super) fn finalize(worker: &mut Worker, vm: &Arc<Vm>) -> Done {
    if vm.age.load(Relaxed) < vm.temper.youth && worker.rng.u32(..8) != 0 {
        return None;
    }
    let id = TdxCmdId::KVM_TDX_FINALIZE_VM;
    Some(worker.timed(|client| client.tdx(&vm.open.file, id, 0, 0)))
}

/// `WARN_ON_ONCE` of `kvm_lock_all_vcpus`: with KVM_CREATE_VCPU under `kvm->lock` no creation is ever in
/// flight there.
pub fn is_impossible_ebusy(worker: &Worker, error: &seamlock_kvm::Error) -> bool {
    let discipline = worker.world.host.discipline();
    discipline.create_vcpu == CreateVcpu::UnderKvmLock
        && error.is(Errno::EBUSY)
        && error.site.ends_with("kvm_lock_all_vcpus")
}
