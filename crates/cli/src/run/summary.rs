//! What a run built, from the records of its processes.

use std::fmt;

use seamlock_wear::{Count, Event, Parameters, Record, Refusal, Region};
use serde::Serialize;

use crate::style::{BAD, DIM, GOOD, HEAD};

/// All processes of a run that opened `/dev/kvm`.
#[derive(Debug, Serialize)]
pub struct Summary {
    processes: Vec<Process>,
}

#[derive(Debug, Default, Serialize)]
struct Process {
    pid: u32,
    program: String,
    boot_us: u64,
    vms: Vec<Vm>,
    ioctls: Vec<Count>,
    seamcalls: Vec<Count>,
    exits: Vec<Count>,
    steps: Vec<Step>,
    refusals: Vec<Refused>,
    warnings: Vec<String>,
    bugs: Vec<String>,
}

#[derive(Debug, Default, Serialize)]
struct Vm {
    number: u64,
    vm_type: u64,
    parameters: Option<Parameters>,
    vcpus: Vec<u32>,
    regions: Vec<Region>,
    mrtd: Option<String>,
    first_run_us: Option<u64>,
    ended: bool,
    left: String,
}

/// A step of the guest's script.
#[derive(Debug, Serialize)]
struct Step {
    vcpu: u32,
    line: usize,
    text: String,
    seen: String,
}

/// The same refusal, and how often it happened.
#[derive(Debug, Serialize)]
struct Refused {
    times: u64,
    #[serde(flatten)]
    refusal: Refusal,
}

impl Summary {
    /// Sums records up.
    pub fn of(records: &[Record]) -> Summary {
        let mut processes = Vec::new();
        for record in records {
            let mut process = Process::default();
            record.events.iter().for_each(|event| process.add(event));
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
            Event::Finalized { vm, mrtd } => self.vm(*vm, |vm| vm.mrtd = Some(mrtd.clone())),
            Event::Run {
                vm, since_open_us, ..
            } => {
                self.vm(*vm, |vm| {
                    vm.first_run_us = vm.first_run_us.or(Some(*since_open_us))
                });
            }
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

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.processes.is_empty() {
            return writeln!(f, "{DIM}seamlock: nobody opened /dev/kvm{DIM:#}");
        }
        self.processes
            .iter()
            .try_for_each(|process| write!(f, "{process}"))
    }
}

impl fmt::Display for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = self.boot_us as f64 / 1000.0;
        let (program, pid) = (&self.program, self.pid);
        writeln!(
            f,
            "{HEAD}seamlock: {program} (process {pid}){HEAD:#}, machine up in {ms:.1} ms"
        )?;
        self.vms.iter().try_for_each(|vm| write!(f, "{vm}"))?;
        counts(f, "ioctls", &self.ioctls)?;
        counts(f, "SEAMCALLs", &self.seamcalls)?;
        counts(f, "exits", &self.exits)?;
        for Step {
            vcpu,
            line,
            text,
            seen,
        } in &self.steps
        {
            writeln!(
                f,
                "  script {line}, vCPU {vcpu}: {text} {DIM}→{DIM:#} {seen}"
            )?;
        }
        for Refused { times, refusal } in &self.refusals {
            let Refusal {
                call,
                errno,
                site,
                reason,
            } = refusal;
            writeln!(
                f,
                "  {call}: {errno} {times}x, {reason} {DIM}({site}){DIM:#}"
            )?;
        }
        for text in &self.warnings {
            writeln!(f, "  {BAD}warning{BAD:#}: {text}")?;
        }
        for text in &self.bugs {
            writeln!(f, "  {BAD}bug{BAD:#}: {text}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Vm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = if self.vm_type == TDX_VM {
            "TD".to_owned()
        } else {
            format!("type {}", self.vm_type)
        };
        write!(f, "  VM {}: {what}", self.number)?;
        if let Some(p) = &self.parameters {
            write!(
                f,
                ", ATTRIBUTES {:#x}, XFAM {:#x}, {} vCPUs",
                p.attributes,
                p.xfam,
                self.vcpus.len()
            )?;
        }
        writeln!(f)?;
        for region in &self.regions {
            let Region {
                gpa,
                pages,
                measured,
                ..
            } = region;
            let end = gpa + pages * 4096;
            let how = if *measured {
                "contents measured"
            } else {
                "addresses measured"
            };
            writeln!(f, "    {gpa:#011x}..{end:#011x} {pages:5} pages, {how}")?;
        }
        if let Some(mrtd) = &self.mrtd {
            writeln!(f, "    MRTD {GOOD}{mrtd}{GOOD:#}")?;
        }
        if let Some(us) = self.first_run_us {
            writeln!(
                f,
                "    first KVM_RUN {:.1} ms after /dev/kvm was opened",
                us as f64 / 1000.0
            )?;
        }
        if !self.left.is_empty() {
            writeln!(f, "    {BAD}left behind{BAD:#}: {}", self.left)?;
        }
        Ok(())
    }
}

/// `KVM_X86_TDX_VM`.
const TDX_VM: u64 = seamlock_tdx_abi::kvm::KVM_X86_TDX_VM;

fn counts(f: &mut fmt::Formatter<'_>, what: &str, counts: &[Count]) -> fmt::Result {
    if counts.is_empty() {
        return Ok(());
    }
    let made: u64 = counts.iter().map(|c| c.made).sum();
    write!(f, "  {made} {what}:")?;
    let mut by_number: Vec<&Count> = counts.iter().collect();
    by_number.sort_by(|a, b| b.made.cmp(&a.made).then(a.name.cmp(&b.name)));
    for Count { name, made, failed } in by_number {
        write!(f, " {name} {made}")?;
        if *failed > 0 {
            write!(f, " ({failed} failed)")?;
        }
    }
    writeln!(f)
}
