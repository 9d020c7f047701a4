//! A guest that does what a script says, and what this VMM does about each of its exits.
//!
//! The vCPUs run one after the other, each until it halts, so that two launches make the same calls in the
//! same order. What needs a device finds none: ports and addresses read as ones. A quote can't be had, and
//! interrupts for it are not set up; a range is converted, as every VMM has to.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, bail};
use seamlock_kvm::file::Kind;
use seamlock_kvm::guest::script::{self, Script};
use seamlock_kvm::task::{Files, RunPage, Signals};
use seamlock_kvm::{Control, Task, VcpuRef};
use seamlock_tdvf::Memslot;
use seamlock_tdx_abi::kvm::*;
use seamlock_wear::Step;
use serde::Serialize;
use zerocopy::{FromZeros, IntoBytes};

use super::journal::Journal;
use super::vcpu::VcpuThread;
use super::vmm::Machine;
use crate::failure::BadInput;

/// KVM_RUN came back without an exit: the vCPU sleeps.
const HALTED: i64 = 1;
/// Exits of one vCPU that are answered; a guest that asks for more asks for the same over and over.
const MAX_EXITS: u64 = 1_000_000;
/// The reset control register of a PC, and the value that resets it.
const RESET: (u16, u8) = (0xcf9, 0xe);

/// A script that was read.
#[derive(Debug)]
pub struct Steps {
    steps: Vec<script::Step>,
}

/// How a vCPU's turn ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Ended {
    /// The vCPU.
    pub vcpu: u32,
    /// The exit, or what it does instead of one.
    pub by: String,
    /// Exits that were answered before.
    pub exits: u64,
}

impl Steps {
    /// Reads a script for a TD with this many vCPUs.
    ///
    /// # Errors
    /// One line that names the file, and the script's line where that is what is wrong.
    pub fn read(path: &Path, vcpus: u32) -> Result<Steps, BadInput> {
        let bad =
            |what: &dyn std::fmt::Display| BadInput(format!("--script {}: {what}", path.display()));
        let text = std::fs::read_to_string(path).map_err(|error| bad(&error))?;
        let steps = script::parse(&text).map_err(|error| bad(&error))?;
        match steps.iter().find(|step| step.vcpu >= vcpus) {
            Some(step) => Err(bad(&format!(
                "line {}: vCPU {}, and --vcpus is {vcpus}",
                step.line, step.vcpu
            ))),
            None => Ok(Steps { steps }),
        }
    }

    /// The vCPUs that do something.
    pub fn vcpus(&self) -> BTreeSet<u32> {
        self.steps.iter().map(|step| step.vcpu).collect()
    }

    /// The guest, which tells the journal of each step.
    pub fn guest(self, journal: &Arc<Journal>) -> Script {
        let journal = journal.clone();
        let listener = move |outcome: &script::Outcome| {
            let script::Outcome {
                line,
                vcpu,
                text,
                seen,
            } = outcome.clone();
            journal.step(Step {
                vcpu,
                line,
                text,
                seen,
            });
        };
        Script::new(self.steps, Box::new(listener))
    }
}

/// A TD whose guest is to run.
pub(super) struct Guest<'a> {
    pub(super) machine: &'a Machine,
    pub(super) vm: i32,
    pub(super) vcpus: &'a [i32],
    /// Memory, and the guest_memfd of each part.
    pub(super) slots: Vec<(Memslot, i32)>,
}

/// A signal comes as soon as the vCPU sleeps: nobody else would wake it.
struct WhileHalted<'a>(&'a VcpuRef);

impl Signals for WhileHalted<'_> {
    fn pending(&self) -> bool {
        self.0.mp_state() == KVM_MP_STATE_HALTED
    }
}

impl Guest<'_> {
    /// Runs the vCPUs that have steps, each on its thread, until one ends the TD.
    ///
    /// # Errors
    /// An ioctl that was refused, with the kernel's check.
    pub(super) fn run<'s, 'm: 's>(
        &self,
        machine: &'m Machine,
        threads: &[VcpuThread<'s, 'm>],
        vcpus: &BTreeSet<u32>,
    ) -> anyhow::Result<Vec<Ended>> {
        let mut all = Vec::new();
        for &index in vcpus {
            let (thread, fd) = (&threads[index as usize], self.vcpus[index as usize]);
            let vcpu = vcpu_of(machine, fd)?;
            let mut exits = 0;
            let (by, ends_td) = loop {
                let came = thread.run(move |task| enter(machine, task, fd))?;
                if came == HALTED {
                    break ("halts".to_owned(), false);
                }
                let run = vcpu.run_page();
                if let Some(by) = self.answer(&**run)? {
                    break (by, true);
                }
                exits += 1;
                if exits == MAX_EXITS {
                    bail!("vCPU {index}: {exits} exits, and no end");
                }
            };
            all.push(Ended {
                vcpu: index,
                by,
                exits,
            });
            if ends_td {
                break;
            }
        }
        Ok(all)
    }

    /// Answers an exit. Some when it ends the TD, with its name.
    fn answer(&self, run: &dyn RunPage) -> anyhow::Result<Option<String>> {
        let header: KvmRunHeader = read(run, 0);
        let name = || {
            exit_name(header.exit_reason)
                .unwrap_or("an unknown exit")
                .to_owned()
        };
        match header.exit_reason {
            KVM_EXIT_IO => {
                let io: KvmExitIo = read(run, EXIT_DATA_OFFSET);
                let at = io.data_offset as usize;
                if io.direction == KVM_EXIT_IO_IN {
                    let bytes = usize::from(io.size) * io.count as usize;
                    run.write(at, &vec![0xff; bytes.min(PAGE_BYTES)]);
                } else if (io.port, read::<u8>(run, at)) == RESET {
                    return Ok(Some("a reset".to_owned()));
                }
            }
            KVM_EXIT_MMIO => {
                let mmio: KvmExitMmio = read(run, EXIT_DATA_OFFSET);
                if mmio.is_write == 0 {
                    let at = EXIT_DATA_OFFSET + std::mem::offset_of!(KvmExitMmio, data);
                    run.write(at, &[0xff; 8]);
                }
            }
            KVM_EXIT_HYPERCALL => {
                let call: KvmExitHypercall = read(run, EXIT_DATA_OFFSET);
                let [gpa, pages, attributes, ..] = call.args;
                let private = attributes & KVM_MAP_GPA_RANGE_ENCRYPTED != 0;
                self.convert(gpa, pages.saturating_mul(PAGE_BYTES as u64), private)?;
            }
            KVM_EXIT_MEMORY_FAULT => {
                let fault: KvmExitMemoryFault = read(run, EXIT_DATA_OFFSET);
                let private = fault.flags & KVM_MEMORY_EXIT_FLAG_PRIVATE != 0;
                self.convert(fault.gpa, fault.size, private)?;
            }
            // What is preset says that it can't be had, or that there is nothing.
            KVM_EXIT_TDX | KVM_EXIT_NOTIFY | KVM_EXIT_X86_BUS_LOCK => {}
            _ => return Ok(Some(name())),
        }
        Ok(None)
    }

    /// Makes a range private or shared. What is shared has no private pages any more.
    fn convert(&self, gpa: u64, bytes: u64, private: bool) -> anyhow::Result<()> {
        let (machine, control) = (self.machine, Control::on(0));
        let task = machine.process.task(&control);
        let mut set = KvmMemoryAttributes {
            address: gpa,
            size: bytes,
            attributes: u64::from(private) * KVM_MEMORY_ATTRIBUTE_PRIVATE,
            flags: 0,
        };
        machine.ioctl_with(&task, self.vm, KVM_SET_MEMORY_ATTRIBUTES, &mut set)?;
        let end = gpa.saturating_add(bytes);
        for (slot, gmem) in self.slots.iter().filter(|_| !private) {
            let from = gpa.max(slot.gpa);
            let to = end.min(slot.gpa + slot.size);
            if from < to {
                let (offset, len) = (from - slot.gpa, to - from);
                seamlock_kvm::fallocate(&task, *gmem, PUNCH_HOLE, offset, len)
                    .context("fallocate")?;
            }
        }
        Ok(())
    }
}

const PAGE_BYTES: usize = 4096;
/// FALLOC_FL_KEEP_SIZE and FALLOC_FL_PUNCH_HOLE.
const PUNCH_HOLE: i32 = 3;

fn read<T: FromZeros + IntoBytes + zerocopy::FromBytes>(run: &dyn RunPage, at: usize) -> T {
    let mut value = T::new_zeroed();
    run.read(at, value.as_mut_bytes());
    value
}

/// The vCPU of a descriptor.
pub(super) fn vcpu_of(machine: &Machine, fd: i32) -> anyhow::Result<VcpuRef> {
    match Files::file(&machine.process, fd).map(|file| file.kind().clone()) {
        Some(Kind::Vcpu(vcpu)) => Ok(vcpu),
        _ => bail!("the vCPU's descriptor is not a vCPU"),
    }
}

/// KVM_RUN once: 0 when there is an exit, also one that comes with EFAULT.
fn enter(machine: &Machine, task: &Task, fd: i32) -> anyhow::Result<i64> {
    let vcpu = vcpu_of(machine, fd)?;
    let signals = WhileHalted(&vcpu);
    let control = Control::on(task.cpu());
    let task = machine.process.task(&control).with_signals(&signals);
    vcpu.run_page().write(IMMEDIATE_EXIT, &[0]);
    match seamlock_kvm::ioctl_fd(&task, fd, KVM_RUN, 0) {
        Ok(_) => Ok(0),
        Err(error) if error.is(Errno::EINTR) => Ok(HALTED),
        Err(error) if error.is(Errno::EFAULT) => Ok(0),
        Err(error) => Err(anyhow::Error::from(error).context("KVM_RUN")),
    }
}

/// Offset of `immediate_exit` in `struct kvm_run`.
const IMMEDIATE_EXIT: usize = 1;
