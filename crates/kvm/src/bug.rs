//! What KVM asserts can't fail: `KVM_BUG_ON`, `TDX_BUG_ON`.
//!
//! A bug marks the VM bugged and dead, so that every later ioctl of it answers -EIO, and is recorded.
//! It never ends the process.

use std::borrow::Cow;
use std::fmt;

use seamlock_tdx_abi::{Leaf, TdxStatus};

use crate::host::Listed;
use crate::vm::Kvm;

/// One assertion of KVM's that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bug {
    /// The VM's number; 0 when no VM is to blame.
    pub vm: u64,
    /// The function that asserts, with the kernel's file.
    pub site: &'static str,
    /// What was found.
    pub what: What,
    /// Whether the VM is dead of it. PAGE.RECLAIM only warns and loses the page; a per-CPU list is the
    /// host's.
    pub fatal: bool,
}

/// What an assertion found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// A SEAMCALL failed that must not (`TDX_BUG_ON`).
    Seamcall {
        /// The leaf.
        leaf: Leaf,
        /// How it failed; its details name the operand.
        status: TdxStatus,
        /// Registers that the leaf returns with an error.
        operands: [u64; 3],
    },
    /// A condition of KVM's own (`KVM_BUG_ON`).
    Condition(Cow<'static, str>),
}

impl fmt::Display for Bug {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "VM {} bugged in {}: ", self.vm, self.site)?;
        match &self.what {
            What::Seamcall { leaf, status, .. } => write!(f, "{leaf} failed with {status}"),
            What::Condition(what) => f.write_str(what),
        }
    }
}

impl Kvm {
    /// `KVM_BUG_ON(condition, kvm)`: returns the condition.
    #[inline]
    pub(crate) fn bug_on(&self, condition: bool, site: &'static str, what: &'static str) -> bool {
        if condition {
            self.bugged(site, What::Condition(what.into()), true);
        }
        condition
    }

    /// `TDX_BUG_ON_3(err, leaf, …, kvm)`: whether the SEAMCALL failed.
    #[inline]
    pub(crate) fn tdx_bug_on(
        &self,
        status: TdxStatus,
        leaf: Leaf,
        site: &'static str,
        operands: [u64; 3],
    ) -> bool {
        let failed = status != TdxStatus::SUCCESS;
        if failed {
            self.bugged(
                site,
                What::Seamcall {
                    leaf,
                    status,
                    operands,
                },
                true,
            );
        }
        failed
    }

    /// `TDX_BUG_ON(err, leaf, NULL)`: warns without a VM to mark. Whether the SEAMCALL failed.
    pub(crate) fn tdx_warn_on(
        &self,
        status: TdxStatus,
        leaf: Leaf,
        site: &'static str,
        operands: [u64; 3],
    ) -> bool {
        let failed = status != TdxStatus::SUCCESS;
        if failed {
            self.bugged(
                site,
                What::Seamcall {
                    leaf,
                    status,
                    operands,
                },
                false,
            );
        }
        failed
    }

    /// A per-CPU list that is corrupt (`CHECK_DATA_CORRUPTION`). The list is the host's and the VM that
    /// meets it not to blame, so it is not marked.
    pub(crate) fn corrupt_list(&self, freed: Listed, site: &'static str) {
        let what = format!(
            "list corruption: vCPU {} of VM {} was freed while on the list",
            freed.index, freed.vm
        );
        self.bugged(site, What::Condition(what.into()), false);
    }

    #[cold]
    fn bugged(&self, site: &'static str, what: What, fatal: bool) {
        let bug = Bug {
            vm: self.number,
            site,
            what,
            fatal,
        };
        if let Some(observer) = self.host.observer() {
            observer.bug(&bug);
        }
        self.bugs.with(|bugs| bugs.push(bug));
        if fatal {
            self.vm_bugged();
        }
    }

    /// The assertions that failed in this VM, in order.
    pub fn bugs(&self) -> Vec<Bug> {
        self.bugs.with(|bugs| bugs.clone())
    }
}
