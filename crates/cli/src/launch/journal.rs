//! What happened: the ioctls in order, and where KVM found itself broken.

use std::fmt;

use seamlock_kvm::observer::{IoctlCall, Observer, Seamcall};
use seamlock_kvm::{Bug, Teardown};
use seamlock_sync::Private;
use seamlock_tdx_abi::Leaf;
use seamlock_wear::{Calls, Op, Step};
use serde::Serialize;

/// An ioctl, or several of the same name and result in a row.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Line {
    /// The kernel's name, with the TDX command where there is one.
    pub name: String,
    /// What it returned, or the errno.
    pub result: String,
    /// How often in a row.
    pub times: u64,
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} = {}", self.name, self.result)?;
        if self.times > 1 {
            write!(f, "  x {}", self.times)?;
        }
        Ok(())
    }
}

#[derive(Debug, Default)]
struct Pages {
    ioctls: Vec<Line>,
    bugs: Vec<Bug>,
    teardowns: Vec<Teardown>,
    calls: Calls,
    steps: Vec<Step>,
}

/// Writes down what KVM does.
#[derive(Debug, Default)]
pub struct Journal {
    pages: Private<Pages>,
    /// Whether the calls that go into MRTD are written down too.
    calls: bool,
}

impl Journal {
    /// An empty journal; with `calls`, also of the calls that go into MRTD.
    pub fn new(calls: bool) -> Journal {
        Journal {
            calls,
            ..Journal::default()
        }
    }

    /// The calls that went into MRTD since this was asked last.
    pub fn take_calls(&self) -> Calls {
        self.pages.with(|pages| std::mem::take(&mut pages.calls))
    }

    /// The ioctls so far, in order.
    pub fn ioctls(&self) -> Vec<Line> {
        self.pages.with(|pages| pages.ioctls.clone())
    }

    /// A step of the guest's script is over.
    pub fn step(&self, step: Step) {
        self.pages.with(|pages| pages.steps.push(step));
    }

    /// The steps of the guest's script that are over.
    pub fn steps(&self) -> Vec<Step> {
        self.pages.with(|pages| pages.steps.clone())
    }

    /// The assertions of KVM's that failed.
    pub fn bugs(&self) -> Vec<Bug> {
        self.pages.with(|pages| pages.bugs.clone())
    }

    /// The VMs that are gone.
    pub fn teardowns(&self) -> Vec<Teardown> {
        self.pages.with(|pages| pages.teardowns.clone())
    }
}

impl Observer for Journal {
    fn watches_seamcalls(&self) -> bool {
        self.calls
    }

    fn seamcall(&self, call: &Seamcall) {
        let op = match call.leaf() {
            Leaf::MEM_PAGE_ADD => Op::Add,
            Leaf::MR_EXTEND => Op::Extend,
            _ => return,
        };
        if !call.status().is_error() {
            self.pages
                .with(|pages| pages.calls.push(op, call.input.rcx));
        }
    }

    fn ioctl(&self, call: &IoctlCall) {
        let result = match call.result {
            // A descriptor's number says nothing to anybody.
            Ok(_) if call.name.starts_with("KVM_CREATE") => "fd".to_owned(),
            Ok(value) => value.to_string(),
            Err(error) => error.errno.to_string(),
        };
        self.pages.with(|pages| match pages.ioctls.last_mut() {
            Some(last) if last.name == call.name && last.result == result => last.times += 1,
            _ => pages.ioctls.push(Line {
                name: call.name.to_owned(),
                result,
                times: 1,
            }),
        });
    }

    fn bug(&self, bug: &Bug) {
        self.pages.with(|pages| pages.bugs.push(bug.clone()));
    }

    fn teardown(&self, teardown: &Teardown) {
        self.pages
            .with(|pages| pages.teardowns.push(teardown.clone()));
    }
}
