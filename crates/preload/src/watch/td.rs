//! KVM_MEMORY_ENCRYPT_OP of a TD, read along: what the VMM asked for, and what became of it.

use openssl::sha::Sha384;
use seamlock_kvm::Host;
use seamlock_kvm::file::Kind;
use seamlock_kvm::task::UserMemory;
use seamlock_tdx_abi::kvm::{
    KVM_MEMORY_ENCRYPT_OP, KVM_TDX_MEASURE_MEMORY_REGION, KvmTdxCmd, KvmTdxInitMemRegion,
    KvmTdxInitVm, TdxCmdId,
};
use seamlock_tdx_abi::regs::Regs;
use seamlock_tdx_abi::{FieldId, Hpa, Leaf, PAGE_SIZE, TdxStatus};
use seamlock_wear::{Event, Parameters, Region};
use zerocopy::{FromBytes, IntoBytes};

use super::hex;
use crate::log::record;
use crate::memory::Own;

/// A command as the VMM gave it.
#[derive(Debug)]
pub struct Command {
    cmd: KvmTdxCmd,
    region: KvmTdxInitMemRegion,
}

fn read<T: FromBytes + IntoBytes>(addr: u64) -> Option<T> {
    let mut value = T::new_zeroed();
    Own.read(addr, value.as_mut_bytes()).ok()?;
    Some(value)
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
            // It may have failed after some pages.
            TdxCmdId::KVM_TDX_INIT_MEM_REGION => self.added(vm.number),
            TdxCmdId::KVM_TDX_FINALIZE_VM if succeeded => {
                let mrtd = vm.tdx().tdr().and_then(|tdr| mrtd(&vm.host, tdr));
                record(&Event::Finalized {
                    vm: vm.number,
                    mrtd: mrtd.unwrap_or_default(),
                });
            }
            _ => {}
        }
    }

    fn initialized(&self, vm: u64) {
        let Some(init) = read::<KvmTdxInitVm>(self.cmd.data) else {
            return;
        };
        let parameters = Parameters {
            attributes: init.attributes,
            xfam: init.xfam,
            mrconfigid: hex(init.mrconfigid.as_bytes()),
            mrowner: hex(init.mrowner.as_bytes()),
            mrownerconfig: hex(init.mrownerconfig.as_bytes()),
            cpuid_entries: init.cpuid.nent,
        };
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
        record(&Event::Region(Region {
            vm,
            gpa: self.region.gpa,
            pages,
            measured: self.cmd.flags & KVM_TDX_MEASURE_MEMORY_REGION != 0,
            contents: contents(self.region.source_addr, pages).unwrap_or_default(),
        }));
    }
}

/// SHA-384 of pages of the VMM's memory.
fn contents(addr: u64, pages: u64) -> Option<String> {
    let mut hash = Sha384::new();
    let mut page = [0; PAGE_SIZE as usize];
    for i in 0..pages {
        Own.read(addr.wrapping_add(i * PAGE_SIZE), &mut page).ok()?;
        hash.update(&page);
    }
    Some(hex(&hash.finish()))
}

/// MRTD as the module tells the host, past KVM's counters.
fn mrtd(host: &Host, tdr: Hpa) -> Option<String> {
    let mut mrtd = Vec::new();
    for element in 0..6 {
        let field = FieldId(FieldId::TDCS_MRTD.0 + element);
        let mut regs = Regs {
            rcx: tdr.0,
            rdx: field.0,
            ..Regs::call(Leaf::MNG_RD)
        };
        let _ = host.module().seamcall(0, &mut regs);
        if regs.status() != TdxStatus::SUCCESS {
            return None;
        }
        mrtd.extend_from_slice(&regs.r8.to_le_bytes());
    }
    Some(hex(&mrtd))
}
