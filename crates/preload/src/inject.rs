//! Calls that fail because the run was asked to make them.

use seamlock_kvm::error::Error;
use seamlock_kvm::host::{Inject, Upcoming};
use seamlock_sync::Private;
use seamlock_tdx_abi::TdxStatus;
use seamlock_wear::{Injection, Target};

/// The injections of a run, and how often each ioctl was called.
#[derive(Debug, Default)]
pub struct Injections {
    all: Vec<Injection>,
    calls: Private<Vec<u64>>,
}

impl Injections {
    /// Reads specifications. Those that can't be understood are returned beside.
    pub fn parse(specs: &[String]) -> (Injections, Vec<String>) {
        let mut wrong = Vec::new();
        let mut all = Vec::new();
        for spec in specs {
            match Injection::parse(spec) {
                Ok(injection) => all.push(injection),
                Err(text) => wrong.push(text),
            }
        }
        let calls = Private::new(vec![0; all.len()]);
        (Injections { all, calls }, wrong)
    }

    /// Whether any ioctl is to fail. If not, none needs to be counted.
    pub fn has_ioctls(&self) -> bool {
        self.all
            .iter()
            .any(|i| matches!(i.target, Target::Ioctl(..)))
    }

    /// Counts a call of an ioctl or of a TDX command, by its names; the error it fails with, if it is to.
    pub fn ioctl(&self, names: [Option<&str>; 2]) -> Option<Error> {
        let mut fails = None;
        for (i, injection) in self.all.iter().enumerate() {
            let Target::Ioctl(name, errno) = &injection.target else {
                continue;
            };
            if !names.contains(&Some(name.as_str())) {
                continue;
            }
            let n = self.calls.with(|calls| {
                calls[i] += 1;
                calls[i]
            });
            if injection.hits(n) {
                let Some(errno) = *errno else {
                    panic!("the run was asked to make {name} panic");
                };
                let reason = "the run was asked to make it fail";
                fails = Some(Error::new(errno, "--inject", reason));
            }
        }
        fails
    }
}

/// The SEAMCALLs among them.
#[derive(Debug)]
pub struct Seamcalls(pub Vec<Injection>);

impl Inject for Seamcalls {
    fn status(&self, call: &Upcoming) -> Option<TdxStatus> {
        self.0.iter().find_map(|injection| match injection.target {
            Target::Seamcall(leaf, status) => {
                (leaf == call.regs.leaf() && injection.hits(call.nth)).then_some(status)
            }
            Target::Ioctl(..) => None,
        })
    }
}

impl Injections {
    /// Those that concern SEAMCALLs.
    pub fn seamcalls(&self) -> Option<Seamcalls> {
        let is_seamcall = |i: &&Injection| matches!(i.target, Target::Seamcall(..));
        let all: Vec<Injection> = self.all.iter().filter(is_seamcall).cloned().collect();
        (!all.is_empty()).then_some(Seamcalls(all))
    }
}
