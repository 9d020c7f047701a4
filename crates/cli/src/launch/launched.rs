//! A launch that is over: what it did, and what it measured.

use std::time::Duration;

use anyhow::{Context, bail};
use seamlock_kvm::Teardown;
use seamlock_tdx_abi::regs::Regs;
use seamlock_tdx_abi::{FieldId, Hpa, Leaf};
use seamlock_wear::Step;

use super::Request;
use super::guest::Ended;
use super::journal::{Journal, Line};
use super::record::Recorded;
use super::vmm::Machine;

/// A launch that is over.
#[derive(Debug)]
pub struct Launched {
    /// What was asked for.
    pub request: Request,
    /// The TD's measurement.
    pub mrtd: String,
    /// The ioctls, in order.
    pub ioctls: Vec<Line>,
    /// SEAMCALLs by leaf: how many, and how many of them failed.
    pub seamcalls: Vec<(Leaf, u64, u64)>,
    /// What teardown gave back.
    pub teardown: Teardown,
    /// Assertions of KVM's that failed.
    pub bugs: Vec<String>,
    /// Steps of the guest's script.
    pub steps: Vec<Step>,
    /// How each vCPU of the script ended.
    pub ended: Vec<Ended>,
    /// The run-time measurement registers, of a TD that ran.
    pub rtmrs: Vec<String>,
    /// How long the pages took, from the first KVM_TDX_INIT_MEM_REGION to KVM_TDX_FINALIZE_VM. For
    /// benchmarks; no report shows it.
    pub measured_part: Duration,
    /// What it was given, and what was added.
    pub recorded: Recorded,
}

impl Launched {
    /// A launch that the journal tells of, between two states of the counters.
    ///
    /// # Errors
    /// When the VM is still there.
    pub(super) fn new(
        journal: &Journal,
        request: Request,
        mrtd: String,
        before: &[(Leaf, u64, u64)],
        after: &[(Leaf, u64, u64)],
    ) -> anyhow::Result<Launched> {
        let earlier = |leaf| {
            let row = before.iter().find(|(l, ..)| *l == leaf);
            row.map_or((0, 0), |(_, made, failed)| (*made, *failed))
        };
        let during = after.iter().map(|&(leaf, made, failed)| {
            let (made_before, failed_before) = earlier(leaf);
            (leaf, made - made_before, failed - failed_before)
        });
        let teardown = journal
            .teardowns()
            .pop()
            .context("the VM outlived its last descriptor")?;
        Ok(Launched {
            request,
            mrtd,
            ioctls: journal.ioctls(),
            seamcalls: during.filter(|(_, made, _)| *made > 0).collect(),
            teardown,
            bugs: journal.bugs().iter().map(ToString::to_string).collect(),
            steps: journal.steps(),
            ended: Vec::new(),
            rtmrs: Vec::new(),
            measured_part: Duration::ZERO,
            recorded: Recorded::default(),
        })
    }

    /// How often a leaf was called with success.
    pub fn succeeded(&self, leaf: Leaf) -> u64 {
        let row = self.seamcalls.iter().find(|(l, ..)| *l == leaf);
        row.map_or(0, |(_, made, failed)| made - failed)
    }

    /// Whether everything came back and nothing was found broken.
    pub fn is_clean(&self) -> bool {
        self.teardown.pages_leaked == 0 && self.teardown.hkid_returned && self.bugs.is_empty()
    }
}

/// The measurement of the machine's only TD, as the module tells the host. No part of a launch: a VMM
/// never sees it.
pub(super) fn mrtd(machine: &Machine) -> anyhow::Result<String> {
    let tdr = tdr(machine)?;
    let mut hex = String::new();
    for element in 0..6 {
        let field = FieldId::TDCS_MRTD.0 + element;
        let mut regs = Regs {
            rcx: tdr.0,
            rdx: field,
            ..Regs::call(Leaf::MNG_RD)
        };
        let _ = machine.host.module().seamcall(0, &mut regs);
        if regs.rax != 0 {
            bail!("reading MRTD: {}", regs.status());
        }
        regs.r8
            .to_le_bytes()
            .iter()
            .for_each(|byte| hex.push_str(&format!("{byte:02x}")));
    }
    Ok(hex)
}

/// The machine's only TD.
pub(super) fn tdr(machine: &Machine) -> anyhow::Result<Hpa> {
    let vms = machine.host.live_vms();
    let tdr = vms.iter().find_map(|vm| vm.tdx().tdr());
    tdr.context("there is no TD")
}
