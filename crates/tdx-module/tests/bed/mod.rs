//! A module brought up through SEAMCALLs, and TDs on it.
//!
//! Host structures lie below the convertible memory, PAMTs in its first 496 MiB; one TDMR begins at 1
//! GiB, and its pages are given out one after the other.

#![allow(dead_code)] // each user takes a part

use std::cell::{Cell, RefCell};

use seamlock_tdx_abi::addr::Hpa;
use seamlock_tdx_abi::leaf::Leaf;
use seamlock_tdx_abi::regs::Regs;
use seamlock_tdx_abi::status::TdxStatus;
use seamlock_tdx_abi::td_params::{EptpControls, TdParams, XFAM_FIXED1};
use seamlock_tdx_abi::tdmr::{TdmrInfo, pamt_bytes};
use seamlock_tdx_module::{After, Module, Platform, TdExit, TdExitKind};
use zerocopy::{FromZeros, IntoBytes};

pub const GIB: u64 = 1 << 30;
pub const MIB2: u64 = 1 << 21;
pub const PAGE: u64 = 4096;
/// The TDMR.
pub const TDMR: u64 = GIB;
/// The module's HKID; those after it are for TDs.
const MODULE_HKID: u64 = 32;
/// Host structures.
const ARRAY: u64 = 0x10_0000;
const INFO: u64 = 0x10_1000;
const PARAMS: u64 = 0x10_2000;
/// A page of the host, for PAGE.ADD to copy.
pub const SOURCE: u64 = 0x20_0000;
const PAMT: u64 = 16 << 20;
const LPS: u32 = 2;

/// A module, and what the host knows of it.
pub struct Bed {
    pub m: Module,
    gib: u64,
    next_page: Cell<u64>,
    next_hkid: Cell<u64>,
    last_vcpu: Cell<u64>,
    /// TDCS pages, with their TDR.
    control: RefCell<Vec<(u64, u64)>>,
}

/// How far a module is brought up.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// Loaded.
    Raw,
    /// SYS.INIT done.
    Init,
    /// SYS.LP.INIT done everywhere.
    Lps,
    /// SYS.CONFIG done.
    Config,
    /// SYS.KEY.CONFIG done.
    Keys,
    /// The TDMR is initialised.
    Ready,
}

/// A step of the bring-up, and the stage that it reaches.
type Step = (Stage, fn(&Bed));

/// What MNG.INIT is asked for.
#[derive(Clone, Copy)]
pub struct Ask {
    pub attributes: u64,
    pub l2_vms: u8,
}

impl Ask {
    pub const PLAIN: Ask = Ask {
        attributes: 0,
        l2_vms: 0,
    };
    pub const DEBUG: Ask = Ask {
        attributes: 1,
        l2_vms: 0,
    };
}

impl Bed {
    /// A module that is ready, on a machine with 4 GiB.
    pub fn new() -> Bed {
        Bed::of(4, Stage::Ready)
    }

    /// A module brought up so far, on a machine with `gib` GiB.
    pub fn of(gib: u64, stage: Stage) -> Bed {
        let bed = Bed {
            m: Module::new(Platform::sapphire_rapids(gib * GIB, LPS)),
            gib,
            next_page: Cell::new(TDMR),
            next_hkid: Cell::new(MODULE_HKID + 1),
            last_vcpu: Cell::new(0),
            control: RefCell::default(),
        };
        let steps: [Step; 5] = [
            (Stage::Init, |bed| {
                bed.ok(Leaf::SYS_INIT, &[]);
            }),
            (Stage::Lps, Bed::init_lps),
            (Stage::Config, |bed| {
                bed.ok(Leaf::SYS_CONFIG, &bed.config());
            }),
            (Stage::Keys, |bed| {
                bed.ok(Leaf::SYS_KEY_CONFIG, &[]);
            }),
            (Stage::Ready, |bed| {
                let end = TDMR + bed.tdmr_size();
                while bed.ok(Leaf::SYS_TDMR_INIT, &[TDMR]).rdx < end {}
            }),
        ];
        for (_, step) in steps.iter().filter(|(reached, _)| *reached <= stage) {
            step(&bed);
        }
        bed
    }

    fn init_lps(&self) {
        for lp in 0..LPS {
            let mut regs = Regs::call(Leaf::SYS_LP_INIT);
            assert_eq!(self.m.seamcall(lp, &mut regs), After::Host);
            assert_eq!(regs.status(), TdxStatus::SUCCESS);
        }
    }

    fn tdmr_size(&self) -> u64 {
        (self.gib - 2) * GIB
    }

    /// The operands of SYS.CONFIG, with what they point to in memory.
    pub fn config(&self) -> [u64; 3] {
        let size = self.tdmr_size();
        let [g1, m2, k4] = pamt_bytes(size).map(|bytes| bytes.next_multiple_of(PAGE));
        let info = TdmrInfo {
            base: TDMR,
            size,
            pamt_4k_base: PAMT,
            pamt_4k_size: k4,
            pamt_2m_base: PAMT + k4,
            pamt_2m_size: m2,
            pamt_1g_base: PAMT + k4 + m2,
            pamt_1g_size: g1,
            ..TdmrInfo::default()
        };
        self.write(INFO, info.as_bytes());
        self.write(ARRAY, &INFO.to_le_bytes());
        [ARRAY, 1, MODULE_HKID]
    }

    pub fn write(&self, pa: u64, bytes: &[u8]) {
        self.m.memory().write(Hpa(pa), bytes).unwrap();
    }

    /// Calls a leaf on LP 0 with RCX, RDX, R8, R9, … .
    pub fn call(&self, leaf: Leaf, operands: &[u64]) -> Regs {
        self.call_version(leaf, 0, operands)
    }

    pub fn call_version(&self, leaf: Leaf, version: u8, operands: &[u64]) -> Regs {
        let mut regs = Regs::call_version(leaf, version);
        let slots = [
            &mut regs.rcx,
            &mut regs.rdx,
            &mut regs.r8,
            &mut regs.r9,
            &mut regs.r10,
            &mut regs.r11,
        ];
        for (slot, operand) in slots.into_iter().zip(operands) {
            *slot = *operand;
        }
        let _ = self.m.seamcall(0, &mut regs);
        regs
    }

    /// The status of a call.
    pub fn status(&self, leaf: Leaf, operands: &[u64]) -> TdxStatus {
        self.call(leaf, operands).status()
    }

    /// A call that succeeds.
    pub fn ok(&self, leaf: Leaf, operands: &[u64]) -> Regs {
        self.ok_version(leaf, 0, operands)
    }

    pub fn ok_version(&self, leaf: Leaf, version: u8, operands: &[u64]) -> Regs {
        let regs = self.call_version(leaf, version, operands);
        let status = regs.status();
        assert_eq!(status, TdxStatus::SUCCESS, "{leaf} {operands:x?} {regs:?}");
        regs
    }

    /// A page of the TDMR that nobody has.
    pub fn page(&self) -> u64 {
        let page = self.next_page.get();
        self.next_page.set(page + PAGE);
        page
    }

    /// A 2 MiB page of the TDMR that nobody has.
    pub fn page_2m(&self) -> u64 {
        let page = self.next_page.get().next_multiple_of(MIB2);
        self.next_page.set(page + MIB2);
        page
    }

    /// A page in a 2 MiB range where nothing else is.
    pub fn lone_page(&self) -> u64 {
        self.page_2m()
    }

    /// A TD with an HKID and TDCS pages, not initialised. Its TDR is alone in its 2 MiB range.
    pub fn bare_td(&self, l2_vms: u8) -> u64 {
        let tdr = self.lone_page();
        self.page_2m();
        self.create_td(tdr, l2_vms);
        tdr
    }

    fn create_td(&self, tdr: u64, l2_vms: u8) {
        self.ok(Leaf::MNG_CREATE, &[tdr, self.hkid()]);
        self.ok(Leaf::MNG_KEY_CONFIG, &[tdr]);
        for _ in 0..6 + l2_vms {
            let page = self.page();
            self.ok(Leaf::MNG_ADDCX, &[page, tdr]);
            self.control.borrow_mut().push((tdr, page));
        }
    }

    /// A TD that is being built, on this TDR.
    pub fn build_td(&self, tdr: u64, ask: Ask) {
        self.create_td(tdr, ask.l2_vms);
        self.ok(Leaf::MNG_INIT, &[tdr, self.params(ask)]);
    }

    /// Frees a TD that has neither vCPUs nor memory.
    pub fn tear_down(&self, tdr: u64) {
        self.ok(Leaf::MNG_VPFLUSHDONE, &[tdr]);
        self.ok(Leaf::PHYMEM_CACHE_WB, &[0]);
        self.ok(Leaf::MNG_KEY_FREEID, &[tdr]);
        let pages = self.control.take();
        for (_, page) in pages.iter().filter(|(of, _)| *of == tdr) {
            self.ok(Leaf::PHYMEM_PAGE_RECLAIM, &[*page]);
        }
        self.control
            .replace(pages.into_iter().filter(|(of, _)| *of != tdr).collect());
        self.ok(Leaf::PHYMEM_PAGE_RECLAIM, &[tdr]);
    }

    /// TD_PARAMS in memory.
    pub fn params(&self, ask: Ask) -> u64 {
        let mut params = TdParams::new_zeroed();
        params.attributes = ask.attributes;
        params.xfam = XFAM_FIXED1;
        params.max_vcpus = 8;
        params.num_l2_vms = ask.l2_vms;
        params.eptp_controls = EptpControls::WB_PWL4.0;
        params.tsc_frequency = 80;
        self.write(PARAMS, params.as_bytes());
        PARAMS
    }

    /// The next HKID that no TD has.
    pub fn hkid(&self) -> u64 {
        let hkid = self.next_hkid.get();
        self.next_hkid.set(hkid + 1);
        hkid
    }

    /// A TD that is being built.
    pub fn td(&self, ask: Ask) -> u64 {
        let tdr = self.lone_page();
        self.page_2m();
        self.build_td(tdr, ask);
        tdr
    }

    /// A vCPU with its pages, not initialised. Its TDVPR is alone in its 2 MiB range.
    pub fn bare_vcpu(&self, tdr: u64) -> u64 {
        self.bare_vcpu_of(tdr, 0)
    }

    /// A vCPU with its pages, of a TD with L2 VMs.
    pub fn bare_vcpu_of(&self, tdr: u64, l2_vms: u8) -> u64 {
        let tdvpr = self.lone_page();
        self.page_2m();
        self.ok(Leaf::VP_CREATE, &[tdvpr, tdr]);
        for _ in 0..5 + 3 * l2_vms {
            self.ok(Leaf::VP_ADDCX, &[self.page(), tdvpr]);
        }
        tdvpr
    }

    pub fn vcpu(&self, tdr: u64) -> u64 {
        let tdvpr = self.bare_vcpu(tdr);
        self.ok(Leaf::VP_INIT, &[tdvpr]);
        tdvpr
    }

    /// Tables down to the entry that maps `gpa` at `level`, those that exist already left.
    pub fn tables(&self, tdr: u64, gpa: u64, level: u64) {
        for at in (level + 1..=3).rev() {
            let base = gpa >> (12 + 9 * at) << (12 + 9 * at);
            self.ok(Leaf::MEM_SEPT_ADD, &[base | at, tdr | 1, self.page()]);
        }
    }

    /// PAGE.ADD of the host's source page.
    pub fn add(&self, tdr: u64, gpa: u64) -> u64 {
        let page = self.page();
        self.ok(Leaf::MEM_PAGE_ADD, &[gpa, tdr, page, SOURCE]);
        page
    }

    /// Ends the building of a TD, which gets a vCPU for it.
    pub fn finalize(&self, tdr: u64) -> u64 {
        let tdvpr = self.vcpu(tdr);
        self.ok(Leaf::MR_FINALIZE, &[tdr]);
        self.last_vcpu.set(tdvpr);
        tdvpr
    }

    /// The guest on LP 0 exits for an external interrupt.
    pub fn leave_guest(&self) {
        let exit = TdExit {
            reason: 1,
            qual: 0,
            gpa: 0,
            kind: TdExitKind::Async,
        };
        assert_eq!(self.m.td_exit(0, exit).rax, 1);
    }

    /// The vCPU of the TD that was finished last.
    pub fn last_vcpu(&self) -> u64 {
        self.last_vcpu.get()
    }

    /// A 2 MiB page that the guest has not accepted, at `gpa`.
    pub fn aug_2m(&self, tdr: u64, gpa: u64) -> u64 {
        self.tables(tdr, gpa, 1);
        let page = self.page_2m();
        self.ok(Leaf::MEM_PAGE_AUG, &[gpa | 1, tdr, page]);
        page
    }

    /// 512 pages added one by one that lie side by side, from `gpa` on, a multiple of 2 MiB.
    pub fn add_512(&self, tdr: u64, gpa: u64) -> u64 {
        self.tables(tdr, gpa, 0);
        let page = self.page_2m();
        for i in 0..512 {
            let operands = [gpa + i * PAGE, tdr, page + i * PAGE, SOURCE];
            self.ok(Leaf::MEM_PAGE_ADD, &operands);
        }
        page
    }

    /// What MEM.SEPT.RD says of an entry: RCX and the state in RDX.
    pub fn entry(&self, tdr: u64, gpa: u64, level: u64) -> (u64, u8) {
        let regs = self.ok(Leaf::MEM_SEPT_RD, &[gpa | level, tdr]);
        (regs.rcx, (regs.rdx >> 8) as u8)
    }

    /// Type, owner and size that PHYMEM.PAGE.RDMD says of a page.
    pub fn metadata(&self, page: u64) -> (u64, u64, u64) {
        let regs = self.ok(Leaf::PHYMEM_PAGE_RDMD, &[page]);
        (regs.rcx, regs.rdx, regs.r8)
    }
}
