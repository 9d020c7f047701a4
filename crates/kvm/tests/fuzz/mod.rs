//! Arbitrary ioctls: random and half-valid requests and arguments, pointers to memory that is not mapped,
//! or not as a whole, threads that meet on the same files, and files that are closed under way.
//!
//! What must hold: nothing panics; a structure that can't be read or written makes a call fail; KVM finds
//! no bug of its own; and when all descriptors are closed, nothing is left.

#![allow(dead_code)]

pub mod dice;
pub mod guest;
pub mod step;

use std::collections::BTreeMap;
use std::sync::Arc;

use seamlock_kvm::host::Host;
use seamlock_kvm::lockdep::Lockdep;
use seamlock_kvm::observer::Observer;
use seamlock_kvm::{Bug, Control, Options, Process, close};
use seamlock_sync::Private;
use seamlock_tdx_abi::kvm::Errno;
use seamlock_tdx_module::Platform;

use dice::Dice;
use guest::Wild;
use step::Thread;

/// Descriptors of the process: few, so that threads meet, and that EMFILE is seen.
const MAX_FDS: usize = 48;

/// What a run did.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// ioctls.
    pub calls: u64,
    /// Those that succeeded.
    pub done: u64,
    /// Refusals by errno.
    pub refused: BTreeMap<i32, u64>,
    /// Ways in which KVM_RUN ended with an exit.
    pub exits: BTreeMap<u32, u64>,
    /// Promises that were broken.
    pub wrong: Vec<String>,
}

impl Tally {
    fn add(&mut self, other: Tally) {
        self.calls += other.calls;
        self.done += other.done;
        for (errno, times) in other.refused {
            *self.refused.entry(errno).or_default() += times;
        }
        for (reason, times) in other.exits {
            *self.exits.entry(reason).or_default() += times;
        }
        self.wrong.extend(other.wrong);
    }

    pub(super) fn count(&mut self, result: &Result<i64, Errno>) {
        self.calls += 1;
        match result {
            Ok(_) => self.done += 1,
            Err(errno) => *self.refused.entry(errno.0).or_default() += 1,
        }
    }
}

/// What any user can make v7.3.4 assert: it does not count vCPUs before it finalises a TD, takes the
/// width of its EPT from the vCPU's CPUID, injects an NMI into a vCPU that the module has disabled
/// after an exit that can't be recovered from, and pre-faults on a vCPU that was never initialised.
const KNOWN: [&str; 4] = [
    "tdx_inject_nmi: tdh_vp_wr_failed: TDH.VP.WR failed with TDX_VCPU_STATE_INCORRECT",
    "tdx_td_finalize: TDH.MR.FINALIZE failed with TDX_NO_VCPUS",
    "tdx_load_mmu_pgd: the vCPU's CPUID has another GPA width than the TD",
    "tdx_load_mmu_pgd: tdh_vp_wr_failed: TDH.VP.WR failed with TDX_PAGE_METADATA_INCORRECT(RCX)",
];

/// Hears of KVM's own bugs.
#[derive(Debug, Default)]
struct Bugs(Private<Vec<String>>);

impl Observer for Bugs {
    fn watches_seamcalls(&self) -> bool {
        false
    }
    fn bug(&self, bug: &Bug) {
        let text = bug.to_string();
        if !KNOWN.iter().any(|known| text.ends_with(known)) {
            self.0.with(|bugs| bugs.push(text));
        }
    }
}

/// Runs `threads` threads with `calls` ioctls each on a machine of their own, and audits what is left.
pub fn run(seed: u64, threads: u32, calls: u64, lockdep: bool) -> Tally {
    let bugs = Arc::new(Bugs::default());
    let options = Options {
        observer: Some(bugs.clone()),
        guest: Arc::new(Wild::new(seed)),
        lockdep: lockdep.then(Lockdep::new),
        ..Options::default()
    };
    let platform = Platform::sapphire_rapids(4 << 30, threads.max(2));
    let host = Host::boot_with(platform, options).expect("the module comes up");
    let hkids = host.free_hkids();
    let process = Process::with_fd_limit(1, MAX_FDS);
    let mut tally = Tally::default();
    std::thread::scope(|scope| {
        let one = |cpu| {
            let (host, process) = (&host, &process);
            let dice = Dice(seed.wrapping_mul(31).wrapping_add(u64::from(cpu) << 32));
            move || Thread::new(host, process, cpu, dice).run(calls)
        };
        // One thread runs on ours, so that a run of one needs no scheduling.
        let others: Vec<_> = (1..threads).map(|cpu| scope.spawn(one(cpu))).collect();
        tally.add(one(0)());
        for other in others {
            match other.join() {
                Ok(done) => tally.add(done),
                Err(_) => tally.wrong.push("a thread panicked".to_owned()),
            }
        }
    });
    let control = Control::on(0);
    for fd in process.open_fds() {
        let _ = close(&process.task(&control), fd);
    }
    audit(&host, hkids, &mut tally.wrong);
    bugs.0.with(|bugs| tally.wrong.append(bugs));
    tally
}

/// What must be so when nobody has a descriptor any more.
fn audit(host: &Host, hkids: usize, wrong: &mut Vec<String>) {
    let live = host.live_vms().len();
    if live != 0 {
        wrong.push(format!("{live} VMs live without a descriptor"));
    }
    for teardown in host.teardowns() {
        if teardown.pages_leaked != 0 || !teardown.hkid_returned {
            wrong.push(format!("left behind: {teardown:?}"));
        }
    }
    if host.free_hkids() != hkids {
        wrong.push(format!("{} HKIDs of {hkids} came back", host.free_hkids()));
    }
    match host.module().audit() {
        Ok(books)
            if books.tds + books.control_pages + books.sept_pages + books.private_pages == 0 => {}
        Ok(books) => wrong.push(format!("the module still has {books:?}")),
        Err(faults) => wrong.extend(faults.iter().map(|fault| format!("{fault:?}"))),
    }
    let breaches = host.lockdep().map(|lockdep| lockdep.breaches());
    wrong.extend(breaches.unwrap_or_default().iter().map(ToString::to_string));
}
