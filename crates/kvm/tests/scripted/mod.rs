//! A TD whose guest follows a script.

#![allow(dead_code)]

use std::sync::Arc;

use seamlock_kvm::discipline::{Discipline, V7_3};
use seamlock_kvm::guest::script::{Script, parse};
use seamlock_kvm::{Kvm, Options};
use seamlock_sync::Private;
use seamlock_tdx_abi::kvm::*;
use zerocopy::{FromBytes, IntoBytes};

use crate::vmm::{Reply, Td, Vmm, boot_with};

/// A machine whose guest follows a script, and what it said of its steps.
pub struct Scripted {
    pub vmm: Vmm,
    pub td: Td,
    pub kvm: Arc<Kvm>,
    seen: Arc<Private<Vec<String>>>,
}

impl Scripted {
    pub fn new(script: &str) -> Scripted {
        Scripted::under(&V7_3, script)
    }

    pub fn under(discipline: &'static Discipline, script: &str) -> Scripted {
        let seen = Arc::new(Private::new(Vec::new()));
        let listener = {
            let seen = seen.clone();
            Box::new(move |outcome: &seamlock_kvm::guest::script::Outcome| {
                seen.with(|seen| seen.push(outcome.seen.clone()));
            })
        };
        let steps = parse(script).expect("a script");
        let guest = Arc::new(Script::new(steps, listener));
        let vmm = boot_with(Options {
            guest,
            discipline,
            ..Options::default()
        });
        let td = vmm.build(1);
        // MapGPA looks at the guest's MAXPHYADDR.
        let entry = |function, eax, ecx| KvmCpuidEntry2 {
            function,
            eax,
            ecx,
            ..KvmCpuidEntry2::default()
        };
        let mut cpuid = KvmCpuid2 {
            nent: 3,
            padding: 0,
        }
        .as_bytes()
        .to_vec();
        cpuid.extend_from_slice(entry(1, 0, 1 << 21).as_bytes());
        cpuid.extend_from_slice(entry(0x8000_0000, 0x8000_0008, 0).as_bytes());
        cpuid.extend_from_slice(entry(0x8000_0008, 52, 0).as_bytes());
        let cpuid = vmm.process.map_copy(&cpuid);
        assert_eq!(vmm.ioctl(td.vcpus[0], KVM_SET_CPUID2, cpuid), Ok(0));
        vmm.finalize(&td).expect("finalized");
        let kvm = vmm.host.live_vms().remove(0);
        Scripted { vmm, td, kvm, seen }
    }

    pub fn run(&self) -> Reply {
        self.vmm.ioctl(self.td.vcpus[0], KVM_RUN, 0)
    }

    /// KVM_RUN that gives this exit, with its data.
    pub fn exit<T: FromBytes + IntoBytes>(&self, reason: u32) -> T {
        assert_eq!(self.run(), Ok(0));
        self.data(reason)
    }

    pub fn data<T: FromBytes + IntoBytes>(&self, reason: u32) -> T {
        let mut found = [0; 4];
        self.read(8, &mut found);
        assert_eq!(u32::from_le_bytes(found), reason);
        let mut data = T::new_zeroed();
        self.read(EXIT_DATA_OFFSET, data.as_mut_bytes());
        data
    }

    pub fn read(&self, offset: usize, out: &mut [u8]) {
        let vcpu = self.kvm.vcpus().next().expect("a vCPU");
        vcpu.run_page().read(offset, out);
    }

    pub fn write(&self, offset: usize, bytes: &[u8]) {
        let vcpu = self.kvm.vcpus().next().expect("a vCPU");
        vcpu.run_page().write(offset, bytes);
    }

    /// What the guest saw of its steps so far.
    pub fn seen(&self) -> Vec<String> {
        self.seen.with(|seen| seen.clone())
    }
}
