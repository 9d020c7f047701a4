//! The words that executions are shown in: what a page is to the TDX module, whose a lock is, and which
//! function of the kernel a place in the source stands for.

use std::collections::BTreeMap;
use std::panic::Location;
use std::sync::Arc;

use seamlock_check::Legend;
use seamlock_kvm::kernel_function;
use seamlock_kvm::locks::IRQS_OFF;
use seamlock_kvm::locks::cells::MIRROR_SPTE;
use seamlock_sync::{Name, Private};
use seamlock_tdx_abi::Leaf;
use seamlock_tdx_abi::regs::Regs;
use seamlock_tdx_module::locks::PAMT_4K;

/// Bits of a host physical address in a register that may carry more.
const PAGE_BITS: u64 = 0x000f_ffff_ffff_f000;

/// What is known of the pages of a machine. Clones know the same.
#[derive(Clone, Debug, Default)]
pub struct Words {
    pages: Arc<Private<BTreeMap<u64, &'static str>>>,
}

impl Words {
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
        if *name.class == IRQS_OFF {
            return Some(format!("irqs off on CPU {}", name.a));
        }
        if self.tds() > 1 {
            return None;
        }
        if *name.class == MIRROR_SPTE {
            let (gpa, level) = (name.b & PAGE_BITS, name.b & 0xfff);
            return Some(format!("mirror SPTE of {gpa:#x}, level {level}"));
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

    fn function(&self, site: &'static Location<'static>) -> Option<String> {
        kernel_function(site).map(str::to_owned)
    }
}
