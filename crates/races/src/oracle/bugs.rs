//! KVM found itself or the module broken: `KVM_BUG_ON`, and a SEAMCALL that failed and can't.

use seamlock_check::{Reporter, Violation};
use seamlock_kvm::bug::{Bug, What};
use seamlock_kvm::observer::{Observer, Seamcall};
use seamlock_tdx_abi::TdxStatus;
use seamlock_tdx_abi::regs::Regs;

use crate::scene::Counts;
use crate::words::Words;

/// The oracle's name where the module refuses for its TLB epochs.
pub const TLB_EPOCH: &str = "TLB epoch";

/// Reports bugs where they happen, with the site of the assertion.
#[derive(Debug)]
pub struct Bugs {
    reporter: Reporter,
    counts: Counts,
    words: Words,
}

impl Bugs {
    /// Reports the bugs that count, and tells `words` what pages become.
    pub fn new(reporter: Reporter, counts: Counts, words: Words) -> Bugs {
        Bugs {
            reporter,
            counts,
            words,
        }
    }
}

impl Observer for Bugs {
    fn watches_seamcalls(&self) -> bool {
        self.reporter.is_shown()
    }

    fn seamcall_begins(&self, input: &Regs) {
        self.words.see(input);
        self.reporter.begin(input.leaf().to_string());
    }

    fn seamcall(&self, call: &Seamcall) {
        let status = call.status();
        self.reporter.end(match status {
            TdxStatus::SUCCESS => String::new(),
            status => status.to_string(),
        });
    }

    fn bug(&self, bug: &Bug) {
        if !self.counts.counts(bug) {
            return;
        }
        let violation = match &bug.what {
            What::Seamcall { leaf, status, .. } => {
                let oracle = if breaks_the_tlb_rule(*status) {
                    TLB_EPOCH
                } else {
                    "no-fail SEAMCALL"
                };
                Violation::new(oracle, format!("{leaf} failed with {status}"))
            }
            What::Condition(what) => Violation::new("KVM_BUG_ON", what.clone().into_owned()),
        };
        self.reporter.report(violation.with_detail(bug.site));
    }
}

/// A page may leave the TD only when no vCPU can have a translation of it left: after BLOCK the epoch
/// must have advanced, and every vCPU of the epoch before must have left the guest. The module counts.
fn breaks_the_tlb_rule(status: TdxStatus) -> bool {
    status.is(TdxStatus::TLB_TRACKING_NOT_DONE) || status.is(TdxStatus::PREVIOUS_TLB_EPOCH_BUSY)
}
