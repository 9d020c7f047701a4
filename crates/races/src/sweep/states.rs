//! The states of a VM that the sweep starts from.

use crate::machine::{Closed, Start};

/// A state.
#[derive(Clone, Copy, Debug)]
pub struct State {
    /// Its name.
    pub name: &'static str,
    /// What it is.
    pub what: &'static str,
    /// What is there.
    pub start: Start,
}

const BUILT: Start = Start {
    pages: 2,
    ..Start::with(2, 0)
};

/// In the order of a VM's life.
pub static STATES: &[State] = &[
    State {
        name: "before-init",
        what: "before KVM_TDX_INIT_VM",
        start: Start {
            init: false,
            ..Start::with(0, 0)
        },
    },
    State {
        name: "initialized",
        what: "initialised, without vCPUs",
        start: Start::with(0, 0),
    },
    State {
        name: "vcpus-partly",
        what: "one vCPU initialised, one not",
        start: Start::with(1, 1),
    },
    State {
        name: "memory-partly",
        what: "one page of two added",
        start: Start {
            pages: 1,
            ..Start::with(2, 0)
        },
    },
    State {
        name: "before-finalize",
        what: "all is there but KVM_TDX_FINALIZE_VM",
        start: BUILT,
    },
    State {
        name: "runnable",
        what: "finalized",
        start: Start {
            finalized: true,
            ..BUILT
        },
    },
    State {
        name: "closing",
        what: "finalized; only vCPU 0 and the guest_memfd are open",
        start: Start {
            finalized: true,
            closed: Closed::Vm,
            ..BUILT
        },
    },
    State {
        name: "destroying",
        what: "finalized; only vCPU 0 is open, and its close destroys the VM",
        start: Start {
            finalized: true,
            closed: Closed::AllButOne,
            ..BUILT
        },
    },
];

/// The state of this name.
pub fn state(name: &str) -> Option<&'static State> {
    STATES.iter().find(|state| state.name == name)
}
