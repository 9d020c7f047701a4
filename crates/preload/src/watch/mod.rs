//! What happened, for the record: each call counted, each refusal explained, each TD described.
//!
//! # Locking
//! Counts and what was told already are behind a [`Private`] each.

mod exits;
mod td;
mod trace;
mod words;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use seamlock_kvm::bug::Bug;
use seamlock_kvm::file::Kind;
use seamlock_kvm::ioctl::TABLE;
use seamlock_kvm::lockdep::Breach;
use seamlock_kvm::observer::{IoctlCall, Observer, Seamcall};
use seamlock_kvm::tdx::TdState;
use seamlock_kvm::vcpu::IMMEDIATE_EXIT_IS_SET;
use seamlock_kvm::{Error, File, Host, Kvm, Teardown};
use seamlock_sync::Private;
use seamlock_tdx_abi::kvm::{
    Errno, KVM_CREATE_VCPU, KVM_CREATE_VM, KVM_MEMORY_ENCRYPT_OP, KVM_RUN, exit_name,
};
use seamlock_tdx_abi::regs::Regs;
use seamlock_tdx_abi::report::{NUM_RTMRS, Sha384};
use seamlock_wear::{Count, Event, Refusal};

use crate::log::{is_recording, record, say};
use crate::process::process;

pub use td::Command;
pub use trace::{Locks, Trace};

#[derive(Debug, Default)]
struct Counts {
    /// Calls that no row counts, by name.
    ioctls: BTreeMap<String, (u64, u64)>,
    exits: BTreeMap<u32, u64>,
    /// vCPUs that ran: VM and id.
    ran: BTreeSet<(u64, u32)>,
}

/// What was recorded last.
#[derive(Debug, Default)]
struct Told {
    at: Option<Instant>,
    counts: Option<Event>,
    /// Of each VM.
    rtmrs: BTreeMap<u64, [Sha384; NUM_RTMRS]>,
}

/// How long counts may be old.
pub const TELL_EVERY: Duration = Duration::from_millis(100);

/// The watcher of one machine.
#[derive(Debug, Default)]
pub struct Watch {
    verbose: bool,
    /// The trace, if one is kept.
    pub trace: Option<Arc<Trace>>,
    /// Calls made and failed, by row of the dispatcher's table.
    rows: Box<[[AtomicU64; 2]]>,
    counts: Private<Counts>,
    told: Private<Told>,
}

impl Watch {
    /// A watcher that also says on stderr what fails, if it is verbose.
    pub fn new(verbose: bool, trace: Option<Arc<Trace>>) -> Watch {
        Watch {
            verbose,
            trace,
            rows: TABLE.iter().map(|_| Default::default()).collect(),
            ..Watch::default()
        }
    }

    /// Records a refusal.
    pub fn refused(&self, call: &str, error: &Error) {
        if self.verbose {
            say(&format!("{call}: {error}"));
        }
        if !is_recording() {
            return;
        }
        record(&Event::Refused(Refusal {
            call: call.to_owned(),
            errno: error.errno.to_string(),
            site: error.site.to_owned(),
            reason: error.reason.to_string(),
        }));
    }

    /// Counts a call.
    fn count(&self, call: &IoctlCall) {
        let failed = u64::from(call.result.is_err());
        if let Some([all, bad]) = call.row.and_then(|row| self.rows.get(usize::from(row))) {
            all.fetch_add(1, Relaxed);
            if failed != 0 {
                bad.fetch_add(failed, Relaxed);
            }
            return;
        }
        self.counts.with(|counts| {
            let count = counts.ioctls.entry(call.name.to_owned()).or_default();
            count.0 += 1;
            count.1 += failed;
        });
    }

    /// Calls so far by name, with those that failed.
    fn by_name(&self) -> BTreeMap<String, (u64, u64)> {
        let mut all = self.counts.with(|counts| counts.ioctls.clone());
        for (entry, [made, failed]) in TABLE.iter().zip(&self.rows) {
            let (made, failed) = (made.load(Relaxed), failed.load(Relaxed));
            if made != 0 {
                let count = all.entry(entry.name.to_owned()).or_default();
                count.0 += made;
                count.1 += failed;
            }
        }
        all
    }

    /// An ioctl is over.
    pub fn done(&self, file: &File, request: u32, arg: u64, result: &Result<i64, Error>) {
        let mut is_news = false;
        match (file.kind(), request, result) {
            (Kind::System(_), KVM_CREATE_VM, Ok(fd)) => vm_created(*fd, arg),
            (Kind::Vm(kvm), KVM_CREATE_VCPU, Ok(_)) => {
                record(&Event::Vcpu {
                    vm: kvm.number,
                    id: arg as u32,
                });
            }
            (Kind::Vcpu(vcpu), KVM_RUN, Ok(_)) => {
                let mut reason = [0; 4];
                vcpu.run_page().read(8, &mut reason);
                let reason = u32::from_le_bytes(reason);
                is_news = self.counts.with(|counts| {
                    let count = counts.exits.entry(reason).or_default();
                    *count += 1;
                    *count == 1
                });
            }
            _ => {}
        }
        match file.kind() {
            Kind::Vm(kvm) if request == KVM_MEMORY_ENCRYPT_OP => self.tell(kvm, is_news),
            Kind::Vcpu(vcpu) if matches!(request, KVM_RUN | KVM_MEMORY_ENCRYPT_OP) => {
                self.tell(vcpu.kvm(), is_news);
            }
            _ => {}
        }
    }

    /// Records what is new of a VM: its registers at once, counts if they are news or were not told for
    /// a while, so that who asks in between, or after the VMM was killed, hears the truth or nearly so.
    pub fn tell(&self, kvm: &Kvm, is_news: bool) {
        self.tell_rtmrs(kvm);
        let is_due = || {
            self.told
                .with(|told| told.at)
                .is_none_or(|at| at.elapsed() >= TELL_EVERY)
        };
        if is_news || is_due() {
            self.tell_counts(&kvm.host);
        }
    }

    /// Only a guest changes them, so it is enough to look when KVM_RUN returns or sleeps.
    fn tell_rtmrs(&self, kvm: &Kvm) {
        let is_final = kvm.tdx().state() == TdState::Runnable;
        let tdr = kvm.tdx().tdr().filter(|_| is_final);
        let Some(info) = tdr.and_then(|tdr| kvm.host.module().td_info(tdr)) else {
            return;
        };
        let before = self
            .told
            .with(|told| told.rtmrs.insert(kvm.number, info.rtmr));
        if before != Some(info.rtmr) {
            record(&Event::Rtmrs {
                vm: kvm.number,
                rtmrs: info.rtmr.iter().map(|rtmr| hex(rtmr)).collect(),
            });
        }
    }

    /// A vCPU is about to run; noted once.
    pub fn runs(&self, host: &Host, vm: u64, vcpu: u32, since_open_us: impl FnOnce() -> u64) {
        if self.counts.with(|counts| counts.ran.insert((vm, vcpu))) {
            record(&Event::Run {
                vm,
                vcpu,
                since_open_us: since_open_us(),
            });
            self.tell_counts(host);
        }
    }

    /// Records the counts so far, unless they were told already.
    // The time decides when the record is written, and nothing else.
    #[allow(clippy::disallowed_methods)]
    pub fn tell_counts(&self, host: &Host) {
        if let Some(trace) = &self.trace {
            trace.flush();
        }
        let count = |name: String, made, failed| Count { name, made, failed };
        let ioctls = self.by_name().into_iter();
        let ioctls = ioctls
            .map(|(name, (made, failed))| count(name, made, failed))
            .collect();
        let exits = self.counts.with(|counts| {
            let exits = counts.exits.iter();
            exits
                .map(|(reason, made)| count(exit_text(*reason), *made, 0))
                .collect()
        });
        let leaves = host.counters().by_leaf();
        let seamcalls = leaves
            .iter()
            .map(|(leaf, made, failed)| count(leaf.to_string(), *made, *failed));
        let event = Event::Counts {
            ioctls,
            seamcalls: seamcalls.collect(),
            exits,
        };
        let is_new = self.told.with(|told| {
            told.at = Some(Instant::now());
            let is_new = told.counts.as_ref() != Some(&event);
            told.counts = Some(event.clone());
            is_new
        });
        if is_new {
            record(&event);
        }
    }
}

/// A VM was created, and has this descriptor unless another thread has closed it already.
fn vm_created(fd: i64, vm_type: u64) {
    let file = i32::try_from(fd).ok().and_then(|fd| process().file(fd));
    if let Some(Kind::Vm(kvm)) = file.as_deref().map(File::kind) {
        record(&Event::Vm {
            vm: kvm.number,
            vm_type,
        });
    }
}

/// The name of an exit.
pub fn exit_text(reason: u32) -> String {
    exit_name(reason).map_or_else(|| format!("exit {reason}"), str::to_owned)
}

/// Whether an error is no refusal: how KVM tells the size of a list, which every VMM asks for, or that
/// KVM_RUN did not enter the guest, as it was told.
fn is_ordinary(error: &Error) -> bool {
    error.errno == Errno::E2BIG || error.reason == IMMEDIATE_EXIT_IS_SET
}

/// The observer that a machine is booted with.
#[derive(Debug)]
pub struct Observing(pub Arc<Watch>);

impl Observer for Observing {
    fn seamcall_begins(&self, _: &Regs) {
        if let Some(trace) = &self.0.trace {
            trace.seamcall_begins();
        }
    }

    fn seamcall(&self, call: &Seamcall) {
        td::measured(call);
        if let Some(trace) = &self.0.trace {
            trace.seamcall(call);
        }
    }

    fn lockdep(&self, breach: &Breach) {
        let text = breach.to_string();
        say(&text);
        record(&Event::Warning { text });
    }

    fn ioctl(&self, call: &IoctlCall) {
        self.0.count(call);
        if let Err(error) = call.result
            && !is_ordinary(error)
        {
            self.0.refused(call.name, error);
        }
    }

    fn bug(&self, bug: &Bug) {
        say(&format!("bug: {bug}"));
        record(&Event::Bug {
            text: bug.to_string(),
        });
    }

    fn teardown(&self, teardown: &Teardown) {
        let mut left = Vec::new();
        if teardown.pages_leaked != 0 {
            left.push(format!("{} pages", teardown.pages_leaked));
        }
        if !teardown.hkid_returned {
            left.push("its HKID".to_owned());
        }
        record(&Event::Ended {
            vm: teardown.vm,
            left: left.join(", "),
        });
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
