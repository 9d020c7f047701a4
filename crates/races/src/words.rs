//! The words that executions are shown in: what a page is to the TDX module, whose a lock is, what an
//! operation on a cell means, and which function of the kernel a place in the source stands for.

use std::collections::BTreeMap;
use std::panic::Location;
use std::sync::Arc;

use seamlock_check::{Legend, Telling, Told};
use seamlock_kvm::gmem::FOLIO_LOCK;
use seamlock_kvm::kernel_function;
use seamlock_kvm::locks::{IRQS_OFF, cells};
use seamlock_sync::{Action, Name, Outcome, Private};
use seamlock_tdx_abi::Leaf;
use seamlock_tdx_abi::regs::Regs;
use seamlock_tdx_module::locks::{PAMT_2M, PAMT_4K, SEPT_ENTRY};

/// Bits of a host physical address in a register that may carry more.
const PAGE_BITS: u64 = 0x000f_ffff_ffff_f000;

/// Bits of the second number of a folio's lock that are its index.
const FOLIO: u64 = (1 << 40) - 1;

/// From here on the numbers of files are those of guest_memfds.
const GMEM: u64 = 0x10_0000;

/// What is known of the pages of a machine. Clones know the same.
#[derive(Clone, Debug, Default)]
pub struct Words {
    pages: Arc<Private<BTreeMap<u64, &'static str>>>,
    // Their names, and CPUs where that counts. Number 1 is the first.
    threads: Arc<[(&'static str, Option<u32>)]>,
}

impl Words {
    /// The words of an execution with these threads, each with the CPU that it starts on if that counts.
    pub fn of(threads: impl IntoIterator<Item = (&'static str, Option<u32>)>) -> Words {
        Words {
            pages: Arc::default(),
            threads: threads.into_iter().collect(),
        }
    }

    /// The thread of this number.
    fn thread_number(&self, number: u64) -> &'static str {
        let at = (number as usize).checked_sub(1);
        let found = at.and_then(|at| self.threads.get(at));
        found.map_or("the thread", |thread| thread.0)
    }

    /// A SEAMCALL is about to be made, which may make a page something.
    pub fn see(&self, input: &Regs) {
        let (page, what) = match input.leaf() {
            Leaf::MNG_CREATE => (input.rcx, "TDR"),
            Leaf::MNG_ADDCX => (input.rcx, "TDCX"),
            Leaf::VP_CREATE => (input.rcx, "TDVPR"),
            Leaf::VP_ADDCX => (input.rcx, "TDCX of a vCPU"),
            Leaf::MEM_SEPT_ADD => (input.r8, "secure EPT page"),
            Leaf::MEM_PAGE_ADD => (input.r8, "page"),
            _ => return,
        };
        self.pages
            .with(|pages| pages.insert(page & PAGE_BITS, what));
    }

    /// What a page is. The only one of its kind needs no address.
    fn page(&self, page: u64) -> Option<String> {
        self.pages.with(|pages| {
            let what = *pages.get(&page)?;
            let alike = pages.values().filter(|other| **other == what).count();
            Some(match alike {
                1 => what.to_owned(),
                _ => format!("{what} {page:#x}"),
            })
        })
    }

    fn tds(&self) -> usize {
        self.pages
            .with(|pages| pages.values().filter(|what| **what == "TDR").count())
    }
}

impl Legend for Words {
    fn object(&self, name: &Name) -> Option<String> {
        let class = name.class.name();
        if *name.class == PAMT_4K {
            return self.page(name.a);
        }
        if *name.class == PAMT_2M {
            return Some(format!("PAMT.2M of {:#x}", name.a));
        }
        if *name.class == FOLIO_LOCK {
            return Some(format!("folio {:#x}", name.b & FOLIO));
        }
        if *name.class == IRQS_OFF {
            return Some(format!("irqs off on CPU {}", name.a));
        }
        if self.tds() > 1 {
            return None;
        }
        if *name.class == cells::MIRROR_SPTE {
            let (gpa, level) = (name.b & PAGE_BITS, name.b & 0xfff);
            return Some(format!("mirror SPTE of {gpa:#x}, level {level}"));
        }
        if *name.class == SEPT_ENTRY {
            let (gpa, level) = (name.b & PAGE_BITS, name.b & 0xfff);
            return Some(format!("secure EPT entry of {gpa:#x}, level {level}"));
        }
        if *name.class == cells::F_COUNT {
            return Some(match name.b {
                1 => "the VM file's f_count".to_owned(),
                GMEM.. => "a guest_memfd file's f_count".to_owned(),
                vcpu => format!("f_count of vcpu{}'s file", vcpu & 0xfff),
            });
        }
        if *name.class == cells::VCPU_STATE {
            return Some(format!("to_tdx(vcpu{})->state", name.b));
        }
        if let Some(field) = class.strip_prefix("vcpu") {
            return Some(format!("vcpu{}{field}", name.b));
        }
        let of_the_td = [
            "kvm",
            "TDCS.",
            "TDR.",
            "filemap",
            "mmap_lock",
            "mmu_notifier",
        ];
        let only = of_the_td.iter().any(|prefix| class.starts_with(prefix)) && name.b == 0;
        only.then(|| class.to_owned())
    }

    fn operation(&self, told: Told<'_>) -> Option<String> {
        let is = |class| told.name.class == class;
        let value = match told.outcome {
            Some(Outcome::Value(value)) => value,
            _ => 0,
        };
        let words = match (told.action, told.outcome) {
            (Action::Store, _) if is(&cells::RESCHED) => {
                let thread = self.thread_number(told.name.a);
                format!("{thread} is wanted on CPU {}", told.arg)
            }
            (Action::Point, _) if is(&cells::RESCHED) => {
                format!("preempted: goes on on CPU {}", told.arg)
            }
            (Action::Notify, _) if is(&cells::SIGNALS) => {
                format!("SIGKILL to {}", self.thread_number(told.name.a))
            }
            (Action::Update, _) if is(&cells::SRCU_PHASE) => "synchronize_srcu begins".into(),
            (Action::Add, _) if is(&cells::SRCU_READERS) => match told.arg {
                1 => "srcu_read_lock(&kvm->srcu)".into(),
                _ => "srcu_read_unlock(&kvm->srcu)".into(),
            },
            (Action::Load, _) if is(&cells::SRCU_READERS) => {
                format!("kvm->srcu readers of before: {value}")
            }
            (_, None) if is(&cells::SRCU_GRACE) => {
                "synchronize_srcu, until its readers have left".into()
            }
            (_, None) if is(&cells::MEMSLOTS) => {
                "the fault is tried again until the memslots change".into()
            }
            (Action::Update, _) if is(&cells::MEMSLOTS) => "new kvm->memslots".into(),
            (Action::Load, _) if is(&cells::MEMSLOTS) => "read kvm->memslots".into(),
            (Action::Load, _) => format!(
                "{} is {}",
                self.object(told.name)?,
                state(told.name, value)?
            ),
            (Action::Store, _) => {
                format!(
                    "{} = {}",
                    self.object(told.name)?,
                    state(told.name, told.arg)?
                )
            }
            _ => return None,
        };
        Some(words)
    }

    fn telling(&self, action: Action, name: &Name) -> Telling {
        let is = |class| name.class == class;
        match action {
            // What a TD or a vCPU is decides what is done to it.
            Action::Load if is(&cells::TD_STATE) || is(&cells::VCPU_STATE) => Telling::Always,
            Action::Load if is(&cells::SRCU_PHASE) => Telling::Never,
            _ => Telling::Usual,
        }
    }

    fn thread(&self, name: &str) -> Option<String> {
        let known = self.threads.iter().find(|thread| thread.0 == name);
        known.and_then(|(_, cpu)| Some(format!("on CPU {}", (*cpu)?)))
    }

    fn function(&self, site: &'static Location<'static>) -> Option<String> {
        kernel_function(site).map(str::to_owned)
    }
}

/// The kernel's word for the state of a TD or of a vCPU.
fn state(name: &Name, value: u64) -> Option<&'static str> {
    let of_td = *name.class == cells::TD_STATE;
    match value {
        0 if of_td => Some("TD_STATE_UNINITIALIZED"),
        1 if of_td => Some("TD_STATE_INITIALIZED"),
        2 if of_td => Some("TD_STATE_RUNNABLE"),
        0 if *name.class == cells::VCPU_STATE => Some("VCPU_TD_STATE_UNINITIALIZED"),
        1 if *name.class == cells::VCPU_STATE => Some("VCPU_TD_STATE_INITIALIZED"),
        _ => None,
    }
}
