//! A call that would succeed, for every leaf, and the words around it.

use seamlock_tdx_abi::addr::{Gpa, Hpa};
use seamlock_tdx_abi::leaf::Leaf;
use seamlock_tdx_abi::operand::OperandId;
use seamlock_tdx_abi::regs::Regs;
use seamlock_tdx_abi::status::TdxStatus;
use seamlock_tdx_module::tables::{LockUse, LockWord};
use seamlock_tdx_module::{After, LockAt};

use crate::bed::{Ask, Bed, PAGE, SOURCE, Stage, TDMR};

/// A module in which a leaf would succeed, and where its words are.
pub struct Scene {
    pub bed: Bed,
    leaf: Leaf,
    version: u8,
    operands: Vec<u64>,
    /// The words of the leaf, and others next to them.
    pub words: Vec<(LockWord, OperandId, LockAt)>,
}

/// An operand id for words that have only one.
const ANY: OperandId = OperandId::RAX;

impl Scene {
    fn new(bed: Bed, leaf: Leaf, operands: &[u64]) -> Scene {
        let words = [
            (LockWord::Global, ANY, LockAt::Global),
            (LockWord::Kot, ANY, LockAt::Kot),
            (LockWord::CacheWriteBack, ANY, LockAt::Wbt(0)),
            (LockWord::Tdmr, ANY, LockAt::Tdmr(Hpa(TDMR))),
        ];
        let words = words
            .into_iter()
            .filter(|(_, _, at)| bed.m.peek(*at).is_some())
            .collect();
        Scene {
            bed,
            leaf,
            version: 0,
            operands: operands.to_vec(),
            words,
        }
    }

    /// The words of a TD.
    fn td(mut self, tdr: u64) -> Scene {
        let at = Hpa(tdr);
        self.words.extend([
            (LockWord::Tdr, ANY, LockAt::Page(at)),
            (LockWord::OpState, ANY, LockAt::OpState(at)),
            (LockWord::SeptTree, ANY, LockAt::SeptTree(at)),
            (LockWord::TdEpoch, ANY, LockAt::Epoch(at)),
        ]);
        self
    }

    fn word(mut self, word: LockWord, operand: OperandId, at: LockAt) -> Scene {
        self.words.push((word, operand, at));
        self
    }

    fn page(self, operand: OperandId, page: u64) -> Scene {
        self.word(LockWord::Page, operand, LockAt::Page(Hpa(page)))
    }

    fn vcpu(self, tdvpr: u64) -> Scene {
        self.word(LockWord::Tdvpr, ANY, LockAt::Page(Hpa(tdvpr)))
    }

    fn entry(self, tdr: u64, gpa: u64, level: u8) -> Scene {
        let at = LockAt::Entry {
            tdr: Hpa(tdr),
            gpa: Gpa(gpa),
            level,
        };
        self.word(LockWord::SeptEntry, ANY, at)
    }

    fn version(mut self, version: u8) -> Scene {
        self.version = version;
        self
    }

    /// The call: its status, or SUCCESS when the guest runs.
    pub fn call(&self) -> TdxStatus {
        let mut regs = Regs::call_version(self.leaf, self.version);
        let slots = [
            &mut regs.rcx,
            &mut regs.rdx,
            &mut regs.r8,
            &mut regs.r9,
            &mut regs.r10,
            &mut regs.r11,
        ];
        for (slot, operand) in slots.into_iter().zip(&self.operands) {
            *slot = *operand;
        }
        match self.bed.m.seamcall(0, &mut regs) {
            After::Guest => TdxStatus::SUCCESS,
            After::Host => regs.status(),
        }
    }

    /// The word that a row of the table means.
    pub fn place(&self, lock: &LockUse) -> Option<LockAt> {
        let operand = lock.busy.operand().unwrap_or(ANY);
        let mut words = self.words.iter();
        words
            .find(|(word, of, _)| *word == lock.word && (*of == ANY || *of == operand))
            .map(|(_, _, at)| *at)
    }
}

/// A module in which the leaf succeeds.
pub fn scene(leaf: Leaf, version: u8) -> Scene {
    let scene = match leaf {
        Leaf::SYS_INIT | Leaf::SYS_LP_INIT | Leaf::SYS_CONFIG | Leaf::SYS_KEY_CONFIG => {
            bring_up_scene(leaf)
        }
        Leaf::SYS_TDMR_INIT => Scene::new(Bed::of(4, Stage::Keys), leaf, &[TDMR]),
        Leaf::SYS_SHUTDOWN => Scene::new(Bed::new(), leaf, &[0]),
        Leaf::SYS_UPDATE => Scene::new(Bed::of(4, Stage::Lps), leaf, &[]),
        Leaf::PHYMEM_PAGE_RECLAIM
        | Leaf::PHYMEM_PAGE_RDMD
        | Leaf::PHYMEM_PAGE_WBINVD
        | Leaf::PHYMEM_CACHE_WB => physical_scene(leaf),
        _ => match leaf.name() {
            Some(name) if name.starts_with("MNG") => td_scene(leaf),
            Some(name) if name.starts_with("VP") => vcpu_scene(leaf),
            Some("MEM.PAGE.PROMOTE") => promote_scene(leaf),
            Some("MEM.PAGE.DEMOTE") => demote_scene(leaf),
            _ => memory_scene(leaf, version),
        },
    };
    scene.version(version)
}

fn bring_up_scene(leaf: Leaf) -> Scene {
    let stage = match leaf {
        Leaf::SYS_INIT => Stage::Raw,
        Leaf::SYS_LP_INIT => Stage::Init,
        Leaf::SYS_CONFIG => Stage::Lps,
        _ => Stage::Config,
    };
    let bed = Bed::of(4, stage);
    let operands = if leaf == Leaf::SYS_CONFIG {
        bed.config().to_vec()
    } else {
        Vec::new()
    };
    Scene::new(bed, leaf, &operands)
}

/// HKID free again, but for its last step.
fn flushed(bed: &Bed, tdr: u64) {
    bed.ok(Leaf::MNG_VPFLUSHDONE, &[tdr]);
    bed.ok(Leaf::PHYMEM_CACHE_WB, &[0]);
}

fn td_scene(leaf: Leaf) -> Scene {
    const ATTRIBUTES: u64 = 0x1110_0003_0000_0000;
    const HP_LOCK_TIMEOUT: u64 = 0x9110_0003_0000_0011;
    let bed = Bed::new();
    match leaf {
        Leaf::MNG_CREATE => {
            let (page, hkid) = (bed.lone_page(), bed.hkid());
            return Scene::new(bed, leaf, &[page, hkid]).page(OperandId::RCX, page);
        }
        Leaf::MNG_KEY_CONFIG => {
            let tdr = bed.lone_page();
            bed.ok(Leaf::MNG_CREATE, &[tdr, bed.hkid()]);
            return Scene::new(bed, leaf, &[tdr]).td(tdr);
        }
        Leaf::MNG_INIT | Leaf::MNG_ADDCX => {
            let tdr = bed.bare_td(0);
            let (page, params) = (bed.lone_page(), bed.params(Ask::PLAIN));
            if leaf == Leaf::MNG_INIT {
                return Scene::new(bed, leaf, &[tdr, params]).td(tdr);
            }
            let scene = Scene::new(bed, leaf, &[page, tdr]).td(tdr);
            return scene.page(OperandId::RCX, page);
        }
        _ => {}
    }
    let tdr = bed.td(Ask::PLAIN);
    let operands = match leaf {
        Leaf::MNG_RD => vec![tdr, ATTRIBUTES],
        Leaf::MNG_WR => vec![tdr, HP_LOCK_TIMEOUT, 2_000_000, u64::MAX],
        _ => vec![tdr],
    };
    if leaf == Leaf::MNG_KEY_FREEID {
        flushed(&bed, tdr);
    }
    Scene::new(bed, leaf, &operands).td(tdr)
}

fn vcpu_scene(leaf: Leaf) -> Scene {
    const PEND_NMI: u64 = 0x2020_0000_0000_000b;
    let bed = Bed::new();
    let tdr = bed.td(Ask::PLAIN);
    let page = bed.lone_page();
    bed.page_2m();
    match leaf {
        Leaf::VP_CREATE => {
            let scene = Scene::new(bed, leaf, &[page, tdr]).td(tdr);
            return scene.page(OperandId::RCX, page);
        }
        Leaf::VP_ADDCX | Leaf::VP_INIT => {
            let tdvpr = bed.bare_vcpu(tdr);
            let operands = if leaf == Leaf::VP_ADDCX {
                [page, tdvpr]
            } else {
                [tdvpr, 0]
            };
            let scene = Scene::new(bed, leaf, &operands).td(tdr).vcpu(tdvpr);
            return scene.page(OperandId::RCX, page);
        }
        _ => {}
    }
    let tdvpr = bed.finalize(tdr);
    let operands = match leaf {
        Leaf::VP_RD => vec![tdvpr, PEND_NMI],
        Leaf::VP_WR => vec![tdvpr, PEND_NMI, 1, 1],
        _ => vec![tdvpr],
    };
    Scene::new(bed, leaf, &operands).td(tdr).vcpu(tdvpr)
}

fn memory_scene(leaf: Leaf, version: u8) -> Scene {
    let bed = Bed::new();
    let ask = Ask {
        attributes: u64::from(leaf == Leaf::MEM_RD || leaf == Leaf::MEM_WR),
        l2_vms: 0,
    };
    if leaf == Leaf::MEM_SEPT_ADD && version == 1 {
        return l2_scene(bed, leaf);
    }
    let tdr = bed.td(ask);
    let level = u64::from(matches!(leaf, Leaf::MEM_SEPT_ADD | Leaf::MEM_SEPT_REMOVE));
    bed.tables(tdr, 0, level);
    let (gpa, new) = (level, bed.lone_page());
    bed.page_2m();
    let mut mapped = None;
    match leaf {
        Leaf::MEM_SEPT_ADD | Leaf::MEM_PAGE_ADD | Leaf::MEM_PAGE_AUG | Leaf::MEM_TRACK => {}
        Leaf::MEM_SEPT_REMOVE => {
            let table = bed.lone_page();
            bed.ok(Leaf::MEM_SEPT_ADD, &[gpa, tdr, table]);
            mapped = Some(table);
        }
        _ => {
            let page = bed.lone_page();
            bed.ok(Leaf::MEM_PAGE_ADD, &[gpa, tdr, page, SOURCE]);
            mapped = Some(page);
        }
    }
    if leaf == Leaf::MEM_RANGE_UNBLOCK {
        bed.ok(Leaf::MEM_RANGE_BLOCK, &[gpa, tdr]);
    }
    if leaf == Leaf::MR_FINALIZE {
        bed.vcpu(tdr);
    }
    let operands = match leaf {
        Leaf::MEM_TRACK | Leaf::MR_FINALIZE => vec![tdr],
        Leaf::MEM_WR => vec![gpa, tdr, 7],
        _ => vec![gpa, tdr, new, SOURCE],
    };
    let mut scene = Scene::new(bed, leaf, &operands)
        .td(tdr)
        .page(OperandId::R8, new);
    if let Some(page) = mapped {
        scene = scene.page(OperandId::RCX, page);
    }
    // An entry that is locked while the TDR is held alone can't be: Intel's module halts.
    if leaf == Leaf::MEM_PAGE_ADD {
        return scene;
    }
    scene.entry(tdr, 0, level as u8)
}

/// SEPT.ADD for a TD with three L2 VMs, all tables new.
fn l2_scene(bed: Bed, leaf: Leaf) -> Scene {
    let tdr = bed.td(Ask {
        attributes: 0,
        l2_vms: 3,
    });
    let pages = [(); 4].map(|()| bed.lone_page());
    let operands = [[3, tdr].as_slice(), &pages].concat();
    let mut scene = Scene::new(bed, leaf, &operands).td(tdr).entry(tdr, 0, 3);
    for (id, page) in (8..).zip(pages) {
        scene = scene.page(OperandId(id), page);
    }
    scene
}

fn promote_scene(leaf: Leaf) -> Scene {
    let bed = Bed::new();
    let tdr = bed.td(Ask::PLAIN);
    let new = bed.lone_page();
    bed.page_2m();
    bed.tables(tdr, 0, 1);
    let table = bed.lone_page();
    bed.ok(Leaf::MEM_SEPT_ADD, &[1, tdr, table]);
    let big = bed.add_512(tdr, 0);
    let below = LockAt::Entry {
        tdr: Hpa(tdr),
        gpa: Gpa(5 * PAGE),
        level: 0,
    };
    Scene::new(bed, leaf, &[1, tdr])
        .td(tdr)
        .entry(tdr, 0, 1)
        .page(OperandId::R8, new)
        .word(LockWord::BigPage, ANY, LockAt::Pamt2m(Hpa(big)))
        .page(OperandId::RCX, table)
        .word(LockWord::SeptTable, ANY, below)
}

/// DEMOTE for a TD with three L2 VMs, which all get a table.
fn demote_scene(leaf: Leaf) -> Scene {
    let bed = Bed::new();
    let tdr = bed.td(Ask {
        attributes: 0,
        l2_vms: 3,
    });
    for level in [3, 2] {
        let pages = [(); 4].map(|()| bed.page());
        let operands = [[level, tdr].as_slice(), &pages].concat();
        bed.ok_version(Leaf::MEM_SEPT_ADD, 1, &operands);
    }
    let big = bed.page_2m();
    bed.ok(Leaf::MEM_PAGE_AUG, &[1, tdr, big]);
    let pages = [(); 4].map(|()| bed.lone_page());
    let operands = [[1, tdr].as_slice(), &pages].concat();
    let mut scene = Scene::new(bed, leaf, &operands)
        .td(tdr)
        .entry(tdr, 0, 1)
        .word(LockWord::BigPage, ANY, LockAt::Pamt2m(Hpa(big)));
    for (id, page) in (8..).zip(pages) {
        scene = scene.page(OperandId(id), page);
    }
    scene
}

fn physical_scene(leaf: Leaf) -> Scene {
    let bed = Bed::new();
    let tdr = bed.td(Ask::PLAIN);
    let page = bed.lone_page();
    match leaf {
        Leaf::PHYMEM_CACHE_WB => {
            bed.ok(Leaf::MNG_VPFLUSHDONE, &[tdr]);
            return Scene::new(bed, leaf, &[0]).td(tdr);
        }
        Leaf::PHYMEM_PAGE_RECLAIM => {
            bed.ok(Leaf::MEM_SEPT_ADD, &[3, tdr, page]);
            flushed(&bed, tdr);
            bed.ok(Leaf::MNG_KEY_FREEID, &[tdr]);
        }
        _ => {}
    }
    Scene::new(bed, leaf, &[page])
        .td(tdr)
        .page(OperandId::RCX, page)
}
