//! What the library tells: one event a line.

use seamlock_tdx_abi::kvm::{KvmCpuidEntry2, KvmTdxInitVm};
use serde::{Deserialize, Serialize};

use crate::crash::Crash;

/// Something that happened in one VMM process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// `/dev/kvm` was opened for the first time; the machine was booted.
    Boot {
        /// The process.
        pid: u32,
        /// Its program.
        program: String,
        /// Microseconds that the boot took.
        took_us: u64,
    },
    /// A VM was created.
    Vm {
        /// Its number in the process, from 1.
        vm: u64,
        /// `KVM_X86_*_VM`.
        vm_type: u64,
    },
    /// KVM_TDX_INIT_VM succeeded.
    Init {
        /// The VM.
        vm: u64,
        /// What the TD was created with.
        parameters: Parameters,
    },
    /// A vCPU was created.
    Vcpu {
        /// The VM.
        vm: u64,
        /// The vCPU's id.
        id: u32,
    },
    /// KVM_TDX_INIT_VCPU succeeded.
    VcpuInit {
        /// The VM.
        vm: u64,
        /// The vCPU's id.
        id: u32,
        /// What RCX and R8 are when it first runs.
        rcx: u64,
    },
    /// KVM_TDX_INIT_MEM_REGION succeeded.
    Region(Region),
    /// KVM_TDX_FINALIZE_VM succeeded.
    Finalized {
        /// The VM.
        vm: u64,
        /// Its MRTD, in hexadecimal.
        mrtd: String,
    },
    /// The run-time measurement registers of a TD, when it became final and after each change.
    Rtmrs {
        /// The VM.
        vm: u64,
        /// All four, in hexadecimal.
        rtmrs: Vec<String>,
    },
    /// The first KVM_RUN of a vCPU.
    Run {
        /// The VM.
        vm: u64,
        /// The vCPU's id.
        vcpu: u32,
        /// Microseconds since `/dev/kvm` was first opened.
        since_open_us: u64,
    },
    /// A step of the guest's script is over.
    Step {
        /// The VM's vCPU.
        vcpu: u32,
        /// The line of the script.
        line: usize,
        /// The step.
        text: String,
        /// What the guest saw.
        seen: String,
    },
    /// A call was refused.
    Refused(Refusal),
    /// Something that hardware or the kernel would not do, or that is legal but unusual.
    Warning {
        /// What.
        text: String,
    },
    /// KVM found itself or the TDX module broken.
    Bug {
        /// What.
        text: String,
    },
    /// The process crashed.
    Crash(Crash),
    /// A VM ended.
    Ended {
        /// The VM.
        vm: u64,
        /// What it left behind, if anything.
        left: String,
    },
    /// Counts since the start of the process; a later one replaces it.
    Counts {
        /// ioctls by name.
        ioctls: Vec<Count>,
        /// SEAMCALLs by leaf.
        seamcalls: Vec<Count>,
        /// Exits to user space by reason.
        exits: Vec<Count>,
    },
}

/// What a TD was created with.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Parameters {
    /// ATTRIBUTES.
    pub attributes: u64,
    /// XFAM.
    pub xfam: u64,
    /// MRCONFIGID, in hexadecimal.
    pub mrconfigid: String,
    /// MROWNER, in hexadecimal.
    pub mrowner: String,
    /// MROWNERCONFIG, in hexadecimal.
    pub mrownerconfig: String,
    /// CPUID entries given.
    pub cpuid_entries: u32,
    /// The entries: leaf, subleaf, EAX, EBX, ECX and EDX of each, in hexadecimal.
    #[serde(default)]
    pub cpuid: Vec<String>,
}

impl Parameters {
    /// The parameters that KVM_TDX_INIT_VM's structure holds, with the CPUID entries behind it.
    pub fn of(init: &KvmTdxInitVm, entries: &[KvmCpuidEntry2]) -> Parameters {
        let id = |words: [u64; 6]| {
            let bytes = words.into_iter().flat_map(u64::to_le_bytes);
            bytes.map(|byte| format!("{byte:02x}")).collect()
        };
        Parameters {
            attributes: init.attributes,
            xfam: init.xfam,
            mrconfigid: id(init.mrconfigid),
            mrowner: id(init.mrowner),
            mrownerconfig: id(init.mrownerconfig),
            cpuid_entries: init.cpuid.nent,
            cpuid: entries.iter().map(entry_text).collect(),
        }
    }
}

/// Leaf, subleaf and registers of a CPUID entry.
fn entry_text(entry: &KvmCpuidEntry2) -> String {
    let KvmCpuidEntry2 {
        function,
        index,
        eax,
        ebx,
        ecx,
        edx,
        ..
    } = *entry;
    format!("{function:08x}.{index:x} {eax:08x} {ebx:08x} {ecx:08x} {edx:08x}")
}

/// One range of initial memory.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Region {
    /// The VM.
    pub vm: u64,
    /// First guest address.
    pub gpa: u64,
    /// Pages of 4096 bytes.
    pub pages: u64,
    /// Whether the contents went into MRTD, and not only the addresses.
    pub measured: bool,
    /// SHA-384 of the contents, in hexadecimal.
    pub contents: String,
    /// The pages' own digests, as [`Digests`](crate::Digests) writes them.
    #[serde(default)]
    pub page_contents: String,
    /// The SEAMCALLs that added and measured them, as [`Calls`](crate::Calls) writes them.
    #[serde(default)]
    pub calls: String,
}

impl Region {
    /// Whether a guest address lies in it.
    pub fn contains(&self, gpa: u64) -> bool {
        gpa.checked_sub(self.gpa)
            .is_some_and(|offset| offset / 4096 < self.pages)
    }
}

/// A call that was refused.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// The call.
    pub call: String,
    /// The errno's name.
    pub errno: String,
    /// The function of the kernel that refuses.
    pub site: String,
    /// Why.
    pub reason: String,
}

/// How often something was called.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Count {
    /// What.
    pub name: String,
    /// How often.
    pub made: u64,
    /// How often it failed.
    pub failed: u64,
}
