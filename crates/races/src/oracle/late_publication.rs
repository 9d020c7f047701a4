//! A vCPU is published in a TD that is no longer INITIALIZED, and can never be initialised.
//!
//! Both the publication and the change of state are made with `kvm->lock` held, in every discipline,
//! so that their order is the same in all executions of a trace.

use std::sync::Arc;

use seamlock_check::{Oracle, Step, View, Violation};
use seamlock_kvm::Kvm;
use seamlock_kvm::locks::cells;
use seamlock_kvm::tdx::TdState;
use seamlock_sync::{Action, Outcome};

/// Watches `online_vcpus` of one TD.
#[derive(Debug)]
pub struct LatePublication {
    kvm: Arc<Kvm>,
}

impl LatePublication {
    /// Watches one TD.
    pub fn new(kvm: Arc<Kvm>) -> LatePublication {
        LatePublication { kvm }
    }
}

impl Oracle for LatePublication {
    fn step(&mut self, _view: &View<'_>, step: &Step<'_>) -> Option<Violation> {
        let published = step.op.action == Action::Update
            && step.op.name == cells::ONLINE_VCPUS.at(self.kvm.number)
            && matches!(step.outcome, Outcome::Value(_));
        let late = published && self.kvm.tdx().state() != TdState::Initialized;
        let what = "a vCPU was published in a TD that is no longer being built";
        late.then(|| Violation::new("stale state", what))
    }
}
