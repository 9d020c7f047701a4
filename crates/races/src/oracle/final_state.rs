//! The state that is left when all threads have ended, in words that can be compared, and what user
//! space can still make of it.

use seamlock_kvm::Kvm;
use seamlock_kvm::file::Kind;
use seamlock_kvm::task::Files;
use seamlock_kvm::tdx::TdState;
use seamlock_kvm::vcpu::VcpuTdState;
use seamlock_tdx_abi::kvm::KVM_MEMORY_ENCRYPT_OP;
use seamlock_tdx_abi::kvm::TdxCmdId as Id;
use seamlock_tdx_abi::regs::Regs;
use seamlock_tdx_abi::{FieldId, Gfn, Leaf};

use crate::machine::{Machine, PAGE, SLOT_BYTES, Td};

/// Whether user space can finish the launch.
pub const FINISH: &str = "FINALIZE_VM then";

/// Everything that the order of the threads may not change, one fact a line.
pub fn final_state(machine: &Machine) -> Vec<String> {
    let mut facts = vec![format!("free HKIDs {}", machine.host.free_hkids())];
    let online: Vec<bool> = (0..machine.host.cpus().len() as u32)
        .map(|cpu| machine.host.is_online(cpu))
        .collect();
    facts.push(format!("CPUs online {online:?}"));
    for kvm in machine.host.live_vms() {
        vm(&kvm, &mut facts);
    }
    for td in [Some(&machine.td), machine.second.as_ref()]
        .into_iter()
        .flatten()
    {
        finish(machine, td, &mut facts);
    }
    facts
}

fn vm(kvm: &Kvm, facts: &mut Vec<String>) {
    let n = kvm.number;
    let tdx = kvm.tdx();
    facts.push(format!(
        "VM {n} {:?}, HKID {}, dead {}",
        tdx.state(),
        tdx.hkid().is_some(),
        kvm.is_dead()
    ));
    for vcpu in kvm.vcpus() {
        let state = vcpu.td_state();
        facts.push(format!(
            "VM {n} vCPU {} {state:?} mp_state {}",
            vcpu.id,
            vcpu.mp_state()
        ));
    }
    for slot in kvm.memslots().all() {
        facts.push(format!(
            "VM {n} slot {} at {:#x}, {} pages, flags {}, invalid {}",
            slot.id, slot.base_gfn, slot.npages, slot.flags, slot.invalid
        ));
    }
    let private: Vec<u64> = [0, SLOT_BYTES / 4096]
        .into_iter()
        .filter(|gfn| kvm.is_private(Gfn(*gfn)))
        .collect();
    facts.push(format!("VM {n} private from {private:x?}"));
    let frames: Vec<u64> = kvm.mirror().leaves().iter().map(|leaf| leaf.0).collect();
    facts.push(format!("VM {n} maps {frames:x?}"));
}

/// Goes on with the launch as user space would: every vCPU, one page, FINALIZE_VM, and the MRTD.
fn finish(machine: &Machine, td: &Td, facts: &mut Vec<String>) {
    let building = td.kvm.tdx().state() == TdState::Initialized && !td.kvm.is_dead();
    // The descriptor may be closed, and its number another file's by now.
    let file = machine.process.file(td.vm);
    let open = file.is_some_and(|file| matches!(file.kind(), Kind::Vm(_)));
    if !building || !open {
        return;
    }
    let n = td.kvm.number;
    let call = |fd: i32, arg: u64| {
        let done = machine.on(0).ioctl(fd, KVM_MEMORY_ENCRYPT_OP, arg);
        match done {
            Ok(_) => "succeeds".to_owned(),
            Err(error) => error.errno.to_string(),
        }
    };
    let raw = |at: usize| {
        let vcpu = td.kvm.vcpus().nth(at);
        vcpu.is_some_and(|vcpu| vcpu.td_state() == VcpuTdState::Uninitialized)
    };
    for (at, fd) in td.vcpus.iter().enumerate().filter(|(at, _)| raw(*at)) {
        let arg = machine.command(Id::KVM_TDX_INIT_VCPU, 0, 0);
        facts.push(format!("VM {n} INIT_VCPU {at} then {}", call(*fd, arg)));
    }
    if let Some(fd) = td.vcpus.first() {
        let (arg, _) = machine.mem_region_arg(PAGE);
        facts.push(format!("VM {n} INIT_MEM_REGION then {}", call(*fd, arg)));
    }
    let mut vcpus = td.kvm.vcpus();
    if !vcpus.any(|vcpu| vcpu.td_state() == VcpuTdState::Initialized) {
        return;
    }
    let arg = machine.command(Id::KVM_TDX_FINALIZE_VM, 0, 0);
    facts.push(format!("VM {n} {FINISH} {}", call(td.vm, arg)));
    facts.push(format!("VM {n} MRTD {}", mrtd(machine, &td.kvm)));
}

/// MRTD as the module tells the host.
fn mrtd(machine: &Machine, kvm: &Kvm) -> String {
    let tdr = kvm.tdx().tdr().unwrap_or_default();
    let element = |element| {
        let mut regs = Regs {
            rcx: tdr.0,
            rdx: FieldId::TDCS_MRTD.0 + element,
            ..Regs::call(Leaf::MNG_RD)
        };
        let _ = machine.host.module().seamcall(0, &mut regs);
        // MRTD is bytes, and its elements are little-endian words of them.
        format!("{:016x}", regs.r8.swap_bytes())
    };
    (0..6).map(element).collect()
}
