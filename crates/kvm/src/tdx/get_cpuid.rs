//! KVM_TDX_GET_CPUID: the CPUID that the module will show the guest.
//!
//! # Locking
//! `vcpu->mutex` only. A busy TDR makes a leaf look absent.

use seamlock_tdx_abi::FieldId;
use seamlock_tdx_abi::kvm::{
    Errno, KVM_CPUID_FLAG_SIGNIFCANT_INDEX, KVM_MAX_CPUID_ENTRIES, KvmCpuid2, KvmCpuidEntry2,
    KvmTdxCmd,
};
use zerocopy::IntoBytes;

use super::cpuid_config::{ADDRESS_SIZES, set_guest_phys_addr_bits};
use super::seamcall::tdh_mng_rd;
use crate::error::{Result, fail};
use crate::task::Task;
use crate::vcpu::VcpuRef;
use crate::vm::Kvm;

/// Extended leaves start here.
const EXTENDED: u32 = 0x8000_0000;

/// `tdx_vcpu_get_cpuid`.
pub(super) fn tdx_vcpu_get_cpuid(task: &Task, vcpu: &VcpuRef, cmd: &KvmTdxCmd) -> Result<()> {
    const SITE: &str = "tdx.c:3105 tdx_vcpu_get_cpuid";
    let mut header: KvmCpuid2 = task.get(cmd.data, SITE)?;
    let mut found = Found {
        task,
        kvm: vcpu.kvm(),
        entries: Vec::new(),
    };
    found.range(0, "leaf 0 is not readable")?;
    found.range(EXTENDED, "leaf 0x80000000 is not readable")?;
    let room = header.nent as usize;
    header.nent = found.entries.len() as u32;
    task.put(cmd.data, &header, SITE)?;
    if room < found.entries.len() {
        return fail(Errno::E2BIG, SITE, "room for fewer entries than the TD has");
    }
    let entries = cmd.data.wrapping_add(size_of::<KvmCpuid2>() as u64);
    task.put(entries, found.entries.as_bytes(), SITE)
}

/// How reading one leaf ended.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Read {
    Found,
    /// -EIO: the module has no such field.
    Absent,
    /// -EINVAL: the number does not fit, or there is no room.
    Invalid,
}

struct Found<'a> {
    task: &'a Task<'a>,
    kvm: &'a Kvm,
    entries: Vec<KvmCpuidEntry2>,
}

impl Found<'_> {
    /// The leaves from `first` to the highest that it names.
    fn range(&mut self, first: u32, absent: &'static str) -> Result<()> {
        const SITE: &str = "tdx.c:3123 tdx_vcpu_get_cpuid";
        if !self.leaf(first) {
            return fail(Errno::EIO, SITE, absent);
        }
        let last = self.entries.last().map_or(first, |entry| entry.eax);
        // A leaf beyond the basic range of numbers can't be read, so the loop need not go on.
        let reach = last.min(first + 0x7f);
        for leaf in first + 1..=reach {
            self.leaf(leaf);
        }
        Ok(())
    }

    /// `tdx_vcpu_get_cpuid_leaf`: without a subleaf, else all subleaves. Whether anything was found.
    fn leaf(&mut self, leaf: u32) -> bool {
        match self.read(leaf, None) {
            Read::Found => return true,
            Read::Invalid => return false,
            Read::Absent => {}
        }
        let mut subleaf = 0;
        while self.read(leaf, Some(subleaf)) == Read::Found {
            subleaf += 1;
        }
        subleaf > 0
    }

    /// `tdx_read_cpuid`.
    fn read(&mut self, leaf: u32, subleaf: Option<u32>) -> Read {
        let index = subleaf.unwrap_or(0);
        let full = self.entries.len() >= KVM_MAX_CPUID_ENTRIES as usize;
        if index > 0x7f || full || leaf & 0x7fff_ff80 != 0 {
            return Read::Invalid;
        }
        let tdr = self.kvm.tdx.tdr().unwrap_or_default();
        let field = |element| FieldId::cpuid_values(leaf, subleaf, element);
        let rd = |element| tdh_mng_rd(self.kvm.on(self.task), tdr, field(element));
        let Ok(ebx_eax) = rd(0) else {
            return Read::Absent;
        };
        let Ok(edx_ecx) = rd(1) else {
            return Read::Absent;
        };
        let mut entry = KvmCpuidEntry2 {
            function: leaf,
            index,
            flags: if subleaf.is_some() {
                KVM_CPUID_FLAG_SIGNIFCANT_INDEX
            } else {
                0
            },
            eax: ebx_eax as u32,
            ebx: (ebx_eax >> 32) as u32,
            ecx: edx_ecx as u32,
            edx: (edx_ecx >> 32) as u32,
            padding: [0; 3],
        };
        if leaf == ADDRESS_SIZES {
            // The shared bit is the highest one, so the guest's width is its position plus one.
            let bits = self.kvm.tdx.gfn_direct_bits().trailing_zeros() + 12 + 1;
            entry.eax = set_guest_phys_addr_bits(entry.eax, bits);
        }
        self.entries.push(entry);
        Read::Found
    }
}
