//! What a run built, for people.

use std::fmt;

use seamlock_wear::{Count, Process, Refusal, Refused, Region, Step, Summary, Vm};

use crate::style::{BAD, DIM, GOOD, HEAD};

/// A summary as it is printed.
pub struct Shown<'a>(pub &'a Summary);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let processes = &self.0.processes;
        if processes.is_empty() {
            return writeln!(f, "{DIM}seamlock: nobody opened /dev/kvm{DIM:#}");
        }
        processes
            .iter()
            .try_for_each(|process| show_process(f, process))
    }
}

fn show_process(f: &mut fmt::Formatter<'_>, process: &Process) -> fmt::Result {
    let ms = process.boot_us as f64 / 1000.0;
    let (program, pid) = (&process.program, process.pid);
    writeln!(
        f,
        "{HEAD}seamlock: {program} (process {pid}){HEAD:#}, machine up in {ms:.1} ms"
    )?;
    process.vms.iter().try_for_each(|vm| show_vm(f, vm))?;
    counts(f, "ioctls", &process.ioctls)?;
    counts(f, "SEAMCALLs", &process.seamcalls)?;
    counts(f, "exits", &process.exits)?;
    for Step {
        vcpu,
        line,
        text,
        seen,
    } in &process.steps
    {
        writeln!(
            f,
            "  script {line}, vCPU {vcpu}: {text} {DIM}→{DIM:#} {seen}"
        )?;
    }
    for Refused { times, refusal } in &process.refusals {
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
    for text in &process.warnings {
        writeln!(f, "  {BAD}warning{BAD:#}: {text}")?;
    }
    for text in &process.bugs {
        writeln!(f, "  {BAD}bug{BAD:#}: {text}")?;
    }
    if let Some(crash) = &process.crash {
        writeln!(f, "  {BAD}crashed{BAD:#}: {crash}")?;
    }
    Ok(())
}

fn show_vm(f: &mut fmt::Formatter<'_>, vm: &Vm) -> fmt::Result {
    let what = if vm.vm_type == TDX_VM {
        "TD".to_owned()
    } else {
        format!("type {}", vm.vm_type)
    };
    write!(f, "  VM {}: {what}", vm.number)?;
    if let Some(p) = &vm.parameters {
        write!(
            f,
            ", ATTRIBUTES {:#x}, XFAM {:#x}, {} vCPUs",
            p.attributes,
            p.xfam,
            vm.vcpus.len()
        )?;
    }
    writeln!(f)?;
    for region in &vm.regions {
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
    if let Some(mrtd) = &vm.mrtd {
        writeln!(f, "    MRTD {GOOD}{mrtd}{GOOD:#}")?;
    }
    show_rtmrs(f, &vm.rtmrs)?;
    if let Some(us) = vm.first_run_us {
        writeln!(
            f,
            "    first KVM_RUN {:.1} ms after /dev/kvm was opened",
            us as f64 / 1000.0
        )?;
    }
    if !vm.left.is_empty() {
        writeln!(f, "    {BAD}left behind{BAD:#}: {}", vm.left)?;
    }
    Ok(())
}

/// Most guests leave some of them zero, and without a processor for it a guest leaves all.
fn show_rtmrs(f: &mut fmt::Formatter<'_>, rtmrs: &[String]) -> fmt::Result {
    let is_zero = |rtmr: &String| rtmr.bytes().all(|digit| digit == b'0');
    if !rtmrs.is_empty() && rtmrs.iter().all(is_zero) {
        return writeln!(f, "    RTMRs 0, none was extended");
    }
    for (i, rtmr) in rtmrs.iter().enumerate() {
        let shown = if is_zero(rtmr) { "0" } else { rtmr };
        writeln!(f, "    RTMR{i} {shown}")?;
    }
    Ok(())
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
