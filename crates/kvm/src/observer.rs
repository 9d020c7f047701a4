//! Who watches: every SEAMCALL, every ioctl, every bug and every VM that ends.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use seamlock_tdx_abi::regs::Regs;
use seamlock_tdx_abi::{Leaf, TdxStatus};

use crate::bug::Bug;
use crate::error::Result;
use crate::lockdep::Breach;
use crate::vm::Teardown;

/// One SEAMCALL that came back.
#[derive(Clone, Copy, Debug)]
pub struct Seamcall<'a> {
    /// The CPU it was made on.
    pub cpu: u32,
    /// The registers before.
    pub input: &'a Regs,
    /// The registers after.
    pub output: &'a Regs,
    /// Whether the CPU is in the guest now (TDH.VP.ENTER): its guest runs next.
    pub entered: bool,
}

impl Seamcall<'_> {
    /// The leaf.
    pub fn leaf(&self) -> Leaf {
        self.input.leaf()
    }

    /// How it ended.
    pub fn status(&self) -> TdxStatus {
        self.output.status()
    }
}

/// One ioctl that came back.
#[derive(Clone, Copy, Debug)]
pub struct IoctlCall<'a> {
    /// The kernel's name of the request, with the sub-command where there is one.
    pub name: &'a str,
    /// Its row in the dispatcher's table, which the name is of; None for a TDX command, and for what no
    /// row is for.
    pub row: Option<u16>,
    /// The request number.
    pub request: u32,
    /// What it returned.
    pub result: &'a Result<i64>,
}

/// Somebody who watches. Called on the thread that does it, with whatever locks it holds, so an
/// observer may neither wait nor call KVM. All methods default to nothing.
pub trait Observer: Send + Sync + fmt::Debug {
    /// Whether it wants to be shown SEAMCALLs, of which there are seventeen for each measured page.
    /// Asked once, when the machine boots.
    fn watches_seamcalls(&self) -> bool {
        true
    }
    /// A SEAMCALL is about to be made, with these registers.
    fn seamcall_begins(&self, input: &Regs) {
        let _ = input;
    }
    /// A SEAMCALL came back.
    fn seamcall(&self, call: &Seamcall) {
        let _ = call;
    }
    /// An ioctl came back.
    fn ioctl(&self, call: &IoctlCall) {
        let _ = call;
    }
    /// KVM found itself or the TDX module broken.
    fn bug(&self, bug: &Bug) {
        let _ = bug;
    }
    /// The order of the locks, or another of lockdep's rules, was broken. Each breach is told once.
    fn lockdep(&self, breach: &Breach) {
        let _ = breach;
    }
    /// A VM is gone.
    fn teardown(&self, teardown: &Teardown) {
        let _ = teardown;
    }
}

const LEAVES: usize = 128;

/// SEAMCALLs by leaf since boot.
#[derive(Debug)]
pub struct Counters {
    made: [AtomicU64; LEAVES],
    failed: [AtomicU64; LEAVES],
}

impl Default for Counters {
    fn default() -> Counters {
        Counters {
            made: [const { AtomicU64::new(0) }; LEAVES],
            failed: [const { AtomicU64::new(0) }; LEAVES],
        }
    }
}

impl Counters {
    #[inline]
    pub(crate) fn count(&self, leaf: Leaf, status: TdxStatus) {
        let slot = usize::from(leaf.0) % LEAVES;
        self.made[slot].fetch_add(1, Relaxed);
        if status.is_error() {
            self.failed[slot].fetch_add(1, Relaxed);
        }
    }

    /// How often a leaf was called.
    pub fn made(&self, leaf: Leaf) -> u64 {
        self.made[usize::from(leaf.0) % LEAVES].load(Relaxed)
    }

    /// Leaves that were called, by number: the leaf, how often, how often it failed.
    pub fn by_leaf(&self) -> Vec<(Leaf, u64, u64)> {
        let row = |i: usize| {
            let made = self.made[i].load(Relaxed);
            (made > 0).then(|| (Leaf(i as u16), made, self.failed[i].load(Relaxed)))
        };
        (0..LEAVES).filter_map(row).collect()
    }
}
