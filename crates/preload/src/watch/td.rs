//! KVM_MEMORY_ENCRYPT_OP of a TD, read along: what the VMM asked for, and what became of it.

use std::cell::RefCell;

use seamlock_kvm::file::Kind;
use seamlock_kvm::observer::Seamcall;
use seamlock_kvm::task::UserMemory;
use seamlock_tdx_abi::kvm::{
    KVM_MEMORY_ENCRYPT_OP, KVM_TDX_MEASURE_MEMORY_REGION, KvmCpuidEntry2, KvmTdxCmd,
    KvmTdxInitMemRegion, KvmTdxInitVm, TdxCmdId,
};
use seamlock_tdx_abi::{Leaf, PAGE_SIZE};
use seamlock_wear::{Calls, Contents, Event, Op, Parameters, Region};

use super::hex;
use super::words::read;
use crate::log::record;
use crate::memory::Own;

thread_local! {
    /// What KVM_TDX_INIT_MEM_REGION, which the thread is in, has added and measured.
    static CALLS: RefCell<Calls> = RefCell::default();
}

/// Takes note of a SEAMCALL that went into MRTD.
pub fn measured(call: &Seamcall) {
    let op = match call.leaf() {
        Leaf::MEM_PAGE_ADD => Op::Add,
        Leaf::MR_EXTEND => Op::Extend,
        _ => return,
    };
    if call.status().is_error() {
        return;
    }
    // The level is in the low bits, and always 0 here. A thread that ends has nothing to tell.
    let gpa = call.input.rcx;
    let _ = CALLS.try_with(|calls| calls.borrow_mut().push(op, gpa));
}

/// A command as the VMM gave it.
#[derive(Debug)]
pub struct Command {
    pub(super) cmd: KvmTdxCmd,
    pub(super) region: KvmTdxInitMemRegion,
}

impl Command {
    /// Reads a command ahead of KVM. None for anything else; what can't be read is KVM's to refuse.
    pub fn before(request: u32, arg: u64) -> Option<Command> {
        if request != KVM_MEMORY_ENCRYPT_OP {
            return None;
        }
        let cmd: KvmTdxCmd = read(arg)?;
        let mut command = Command {
            cmd,
            region: KvmTdxInitMemRegion::default(),
        };
        if TdxCmdId(cmd.id) == TdxCmdId::KVM_TDX_INIT_MEM_REGION {
            command.region = read(cmd.data)?;
            let _ = CALLS.try_with(RefCell::take);
        }
        Some(command)
    }

    /// The command's name.
    pub fn name(&self) -> Option<&'static str> {
        TdxCmdId(self.cmd.id).name()
    }

    /// Where the VMM's KVM_TDX_INIT_VM structure is, if this is that command.
    pub fn init_vm(&self) -> Option<u64> {
        (TdxCmdId(self.cmd.id) == TdxCmdId::KVM_TDX_INIT_VM).then_some(self.cmd.data)
    }

    /// Records what became of it.
    pub fn after(&self, kind: &Kind, succeeded: bool) {
        let vm = match kind {
            Kind::Vm(kvm) => kvm,
            Kind::Vcpu(vcpu) => vcpu.kvm(),
            _ => return,
        };
        match TdxCmdId(self.cmd.id) {
            TdxCmdId::KVM_TDX_INIT_VM if succeeded => self.initialized(vm.number),
            TdxCmdId::KVM_TDX_INIT_VCPU if succeeded => {
                if let Kind::Vcpu(vcpu) = kind {
                    record(&Event::VcpuInit {
                        vm: vm.number,
                        id: vcpu.id(),
                        rcx: self.cmd.data,
                    });
                }
            }
            // It may have failed after some pages.
            TdxCmdId::KVM_TDX_INIT_MEM_REGION => self.added(vm.number),
            TdxCmdId::KVM_TDX_FINALIZE_VM if succeeded => {
                let tdr = vm.tdx().tdr();
                let info = tdr.and_then(|tdr| vm.host.module().td_info(tdr));
                record(&Event::Finalized {
                    vm: vm.number,
                    mrtd: info.map(|info| hex(&info.mrtd)).unwrap_or_default(),
                });
            }
            _ => {}
        }
    }

    fn initialized(&self, vm: u64) {
        let Some(init) = read::<KvmTdxInitVm>(self.cmd.data) else {
            return;
        };
        let parameters = Parameters::of(&init, &self.cpuid(init.cpuid.nent));
        record(&Event::Init { vm, parameters });
    }

    /// KVM advances the structure by what it did.
    fn added(&self, vm: u64) {
        let Some(left) = read::<KvmTdxInitMemRegion>(self.cmd.data) else {
            return;
        };
        let pages = self.region.nr_pages.saturating_sub(left.nr_pages);
        if pages == 0 {
            return;
        }
        let (contents, page_contents) = contents(self.region.source_addr, pages);
        let calls = CALLS.try_with(RefCell::take).unwrap_or_default();
        record(&Event::Region(Region {
            vm,
            gpa: self.region.gpa,
            pages,
            measured: self.cmd.flags & KVM_TDX_MEASURE_MEMORY_REGION != 0,
            contents,
            page_contents,
            calls: calls.text(self.region.gpa),
        }));
    }

    /// The CPUID entries behind KVM_TDX_INIT_VM's structure.
    fn cpuid(&self, entries: u32) -> Vec<KvmCpuidEntry2> {
        let first = self.cmd.data.wrapping_add(size_of::<KvmTdxInitVm>() as u64);
        let entry = |i: u64| {
            let at = first.wrapping_add(i * size_of::<KvmCpuidEntry2>() as u64);
            read(at)
        };
        (0..u64::from(entries)).map_while(entry).collect()
    }
}

/// SHA-384 of pages of the VMM's memory, of all and of each. Nothing when they can't be read any more.
fn contents(addr: u64, pages: u64) -> (String, String) {
    let mut contents = Contents::default();
    let mut page = [0; PAGE_SIZE as usize];
    for i in 0..pages {
        if Own
            .read(addr.wrapping_add(i * PAGE_SIZE), &mut page)
            .is_err()
        {
            return <(String, String)>::default();
        }
        contents.page(&page);
    }
    let (whole, digests) = contents.finish();
    (whole, digests.to_string())
}
