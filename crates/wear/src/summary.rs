//! What a run built, from the records of its processes.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::crash::Crash;
use crate::event::{Count, Event, Parameters, Refusal, Region};
use crate::record::Record;

/// All processes of a run that opened `/dev/kvm`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    /// In the order of their records' names; one that executed another program is there twice.
    pub processes: Vec<Process>,
}

/// One process.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// Its number.
    pub pid: u32,
    /// Its program.
    pub program: String,
    /// Microseconds that the machine's boot took.
    pub boot_us: u64,
    /// The VMs it created, in that order.
    pub vms: Vec<Vm>,
    /// ioctls by name.
    pub ioctls: Vec<Count>,
    /// SEAMCALLs by leaf.
    pub seamcalls: Vec<Count>,
    /// Exits to user space by reason.
    pub exits: Vec<Count>,
    /// Steps of the guest's script that are over.
    pub steps: Vec<Step>,
    /// Calls that were refused.
    pub refusals: Vec<Refused>,
    /// What hardware or the kernel would not do, or what is legal but unusual.
    pub warnings: Vec<String>,
    /// Where KVM found itself or the TDX module broken.
    pub bugs: Vec<String>,
    /// Where it crashed, if it did.
    #[serde(default)]
    pub crash: Option<Crash>,
}

/// One VM.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vm {
    /// Its number in the process, from 1.
    pub number: u64,
    /// `KVM_X86_*_VM`.
    pub vm_type: u64,
    /// What a TD was created with.
    pub parameters: Option<Parameters>,
    /// Its vCPUs by id, as they were created.
    pub vcpus: Vec<u32>,
    /// RCX and R8 of each vCPU when it first runs.
    pub rcx: BTreeMap<u32, u64>,
    /// Its initial memory.
    pub regions: Vec<Region>,
    /// MRTD in hexadecimal, once the TD is final.
    pub mrtd: Option<String>,
    /// The run-time measurement registers in hexadecimal, as its guest left them.
    #[serde(default)]
    pub rtmrs: Vec<String>,
    /// Microseconds from the first open of `/dev/kvm` to the first KVM_RUN.
    pub first_run_us: Option<u64>,
    /// The vCPUs that ran.
    pub ran: Vec<u32>,
    /// Whether it is gone.
    pub ended: bool,
    /// What it left behind, if anything.
    pub left: String,
}

/// A step of the guest's script.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// The vCPU.
    pub vcpu: u32,
    /// The line of the script.
    pub line: usize,
    /// The step.
    pub text: String,
    /// What the guest saw.
    pub seen: String,
}

/// The same refusal, and how often it happened.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refused {
    /// How often.
    pub times: u64,
    /// What.
    #[serde(flatten)]
    pub refusal: Refusal,
}

impl Summary {
    /// Sums records up.
    pub fn of(records: &[Record]) -> Summary {
        let mut processes = Vec::new();
        for record in records {
            let mut process = Process::default();
            for event in &record.events {
                // A process that executed another program has begun anew.
                if matches!(event, Event::Boot { .. }) && process != Process::default() {
                    processes.push(std::mem::take(&mut process));
                }
                process.add(event);
            }
            processes.push(process);
        }
        Summary { processes }
    }
}

impl Process {
    fn add(&mut self, event: &Event) {
        match event {
            Event::Boot {
                pid,
                program,
                took_us,
            } => {
                (self.pid, self.program, self.boot_us) = (*pid, program.clone(), *took_us);
            }
            Event::Vm { vm, vm_type } => {
                self.vms.push(Vm {
                    number: *vm,
                    vm_type: *vm_type,
                    ..Vm::default()
                });
            }
            Event::Init { vm, parameters } => {
                self.vm(*vm, |vm| vm.parameters = Some(parameters.clone()));
            }
            Event::Vcpu { vm, id } => self.vm(*vm, |vm| vm.vcpus.push(*id)),
            Event::Region(region) => self.vm(region.vm, |vm| vm.regions.push(region.clone())),
            Event::VcpuInit { vm, id, rcx } => self.vm(*vm, |vm| {
                vm.rcx.insert(*id, *rcx);
            }),
            Event::Finalized { vm, mrtd } => {
                self.vm(*vm, |vm| vm.mrtd = Some(mrtd.clone()));
                self.warn_of_lost_hobs(*vm);
            }
            Event::Rtmrs { vm, rtmrs } => self.vm(*vm, |vm| vm.rtmrs.clone_from(rtmrs)),
            Event::Run {
                vm,
                vcpu,
                since_open_us,
            } => self.vm(*vm, |vm| {
                vm.first_run_us = vm.first_run_us.or(Some(*since_open_us));
                vm.ran.push(*vcpu);
            }),
            Event::Step {
                vcpu,
                line,
                text,
                seen,
            } => {
                let (text, seen) = (text.clone(), seen.clone());
                self.steps.push(Step {
                    vcpu: *vcpu,
                    line: *line,
                    text,
                    seen,
                });
            }
            Event::Refused(refusal) => self.refused(refusal),
            Event::Warning { text } => self.warnings.push(text.clone()),
            Event::Bug { text } => self.bugs.push(text.clone()),
            Event::Crash(crash) => self.crash = Some(crash.clone()),
            Event::Ended { vm, left } => {
                self.vm(*vm, |vm| (vm.ended, vm.left) = (true, left.clone()));
            }
            Event::Counts {
                ioctls,
                seamcalls,
                exits,
            } => {
                (self.ioctls, self.seamcalls, self.exits) =
                    (ioctls.clone(), seamcalls.clone(), exits.clone());
            }
        }
    }

    /// Firmware looks for its hand-off blocks where RCX points to.
    fn warn_of_lost_hobs(&mut self, number: u64) {
        let mut warnings = Vec::new();
        self.vm(number, |vm| {
            let lost = |rcx: u64| rcx != 0 && !vm.regions.iter().any(|region| region.contains(rcx));
            if vm.rcx.values().any(|rcx| lost(*rcx)) {
                warnings.push(format!(
                    "VM {number}: RCX of a vCPU points to no initial memory of the TD; the data of \
                     KVM_TDX_INIT_VCPU is the value itself, not the address of one"
                ));
            }
        });
        self.warnings.append(&mut warnings);
    }

    fn vm(&mut self, number: u64, change: impl FnOnce(&mut Vm)) {
        if let Some(vm) = self.vms.iter_mut().find(|vm| vm.number == number) {
            change(vm);
        }
    }

    fn refused(&mut self, refusal: &Refusal) {
        match self
            .refusals
            .iter_mut()
            .find(|known| known.refusal == *refusal)
        {
            Some(known) => known.times += 1,
            None => self.refusals.push(Refused {
                times: 1,
                refusal: refusal.clone(),
            }),
        }
    }
}
