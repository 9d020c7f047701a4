//! A TD with one page of each kind and one vCPU, to run guest calls in.

#![allow(dead_code)] // each test file uses a part

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};

use seamlock_tdx_abi::addr::{Gpa, Hkid, Hpa};
use seamlock_tdx_abi::guest_leaf::GuestLeaf;
use seamlock_tdx_abi::leaf::Leaf;
use seamlock_tdx_abi::operand::OperandId;
use seamlock_tdx_abi::regs::Regs;
use seamlock_tdx_abi::status::TdxStatus;
use seamlock_tdx_abi::td_params::TdParams;
use seamlock_tdx_module::guest::GuestAfter;
use seamlock_tdx_module::platform::{Events, KeyProgramming, PlatformFault, Quiet};
use seamlock_tdx_module::{After, LockAt, Module, Platform};
use zerocopy::{FromZeros, IntoBytes};

/// Pages from here on are given out one after the other.
const FIRST_PAGE: u64 = 1 << 30;
/// Where the host puts what it hands to the module.
const HOST_PAGE: Hpa = Hpa(0x100_0000 - 0x1000);
/// 2 MiB for one big page.
pub const BIG_PAGE: Hpa = Hpa((1 << 30) + (64 << 20));

/// 4 KiB, mapped and added before the TD was finalised.
pub const MAPPED: Gpa = Gpa(0);
/// 4 KiB, pending.
pub const PENDING: Gpa = Gpa(0x1000);
/// 4 KiB below an existing table, not mapped.
pub const ABSENT: Gpa = Gpa(0x2000);
/// 2 MiB, pending.
pub const PENDING_2M: Gpa = Gpa(0x20_0000);
/// 2 MiB, no table and no page.
pub const ABSENT_2M: Gpa = Gpa(0x40_0000);
/// A shared address.
pub const SHARED: Gpa = Gpa(1 << 47);

/// The host's registers at VP.ENTER, to tell what comes back.
pub const HOST_RBP: u64 = 0xb9b9;

/// A machine whose clock and interrupts the test controls.
#[derive(Debug, Default)]
pub struct Machine {
    quiet: Quiet,
    pub tsc: AtomicU64,
    pub interrupt: AtomicBool,
    pub tsc_adjusted: AtomicBool,
    pub limits_cpuid: AtomicBool,
}

impl Events for Machine {
    fn random(&self, lp: u32) -> Option<[u64; 4]> {
        self.quiet.random(lp)
    }
    fn program_key(&self, lp: u32, hkid: Hkid) -> KeyProgramming {
        self.quiet.program_key(lp, hkid)
    }
    fn interrupt_pending(&self, _lp: u32) -> bool {
        self.interrupt.load(SeqCst)
    }
    fn tsc(&self, _lp: u32) -> u64 {
        self.tsc.load(SeqCst)
    }
    fn tsc_adjust_unchanged(&self, _lp: u32) -> bool {
        !self.tsc_adjusted.load(SeqCst)
    }
    fn limits_cpuid(&self, _lp: u32) -> bool {
        self.limits_cpuid.load(SeqCst)
    }
    fn platform_check(&self, lp: u32) -> Result<(), PlatformFault> {
        self.quiet.platform_check(lp)
    }
}

/// A TD that can be entered.
pub struct Td {
    pub m: Module,
    pub machine: Arc<Machine>,
    pub tdr: Hpa,
    pub tdvpr: Hpa,
    /// A second vCPU, associated with no LP.
    pub second: Hpa,
    next: u64,
}

/// TD_PARAMS that the module accepts.
pub fn params() -> TdParams {
    TdParams {
        xfam: 3,
        max_vcpus: 4,
        // Write-back, four levels.
        eptp_controls: 6 | 3 << 3,
        tsc_frequency: 40,
        mrconfigid: [1; 48],
        mrowner: [2; 48],
        ..TdParams::new_zeroed()
    }
}

impl Td {
    /// The usual TD.
    pub fn new() -> Td {
        Td::with(&params())
    }

    /// The usual TD on LP 0, in its guest.
    pub fn entered() -> Td {
        let td = Td::new();
        td.enter();
        td
    }

    pub fn with(params: &TdParams) -> Td {
        let mut td = Td::unfinished(params);
        td.add_vcpu();
        if params.num_l2_vms == 0 {
            td.second = td.another_vcpu();
        }
        td.build_memory();
        td
    }

    /// A TD with a vCPU that is not initialised, and without memory.
    pub fn unfinished(params: &TdParams) -> Td {
        let machine = Arc::new(Machine::default());
        let platform = Platform {
            events: Arc::<Machine>::clone(&machine),
            ..Platform::sapphire_rapids(4 << 30, 4)
        };
        let m = Module::ready(platform).unwrap();
        let mut td = Td {
            m,
            machine,
            tdr: Hpa(FIRST_PAGE),
            tdvpr: Hpa(0),
            second: Hpa(0),
            next: FIRST_PAGE + 0x1000,
        };
        td.build(params);
        td
    }

    fn build(&mut self, params: &TdParams) {
        let tdr = self.tdr.0;
        self.ok(Regs {
            rcx: tdr,
            rdx: 33,
            ..Regs::call(Leaf::MNG_CREATE)
        });
        self.ok(Regs {
            rcx: tdr,
            ..Regs::call(Leaf::MNG_KEY_CONFIG)
        });
        for _ in 0..6 + params.num_l2_vms {
            let rcx = self.page().0;
            self.ok(Regs {
                rcx,
                rdx: tdr,
                ..Regs::call(Leaf::MNG_ADDCX)
            });
        }
        self.m.memory().write(HOST_PAGE, params.as_bytes()).unwrap();
        self.ok(Regs {
            rcx: tdr,
            rdx: HOST_PAGE.0,
            ..Regs::call(Leaf::MNG_INIT)
        });
        self.tdvpr = self.blank_vcpu(5 + 3 * params.num_l2_vms);
    }

    /// Creates a vCPU and gives it so many more pages.
    pub fn blank_vcpu(&mut self, pages: u8) -> Hpa {
        let (rdx, tdvpr) = (self.tdr.0, self.page());
        self.ok(Regs {
            rcx: tdvpr.0,
            rdx,
            ..Regs::call(Leaf::VP_CREATE)
        });
        for _ in 0..pages {
            let rcx = self.page().0;
            self.ok(Regs {
                rcx,
                rdx: tdvpr.0,
                ..Regs::call(Leaf::VP_ADDCX)
            });
        }
        tdvpr
    }

    /// Adds a vCPU and returns its TDVPR.
    fn another_vcpu(&mut self) -> Hpa {
        let tdvpr = self.blank_vcpu(5);
        self.ok(Regs {
            rcx: tdvpr.0,
            r8: 8,
            ..Regs::call_version(Leaf::VP_INIT, 1)
        });
        let flush = Regs {
            rcx: tdvpr.0,
            ..Regs::call(Leaf::VP_FLUSH)
        };
        self.ok(flush);
        tdvpr
    }

    fn add_vcpu(&mut self) {
        let rcx = self.tdvpr.0;
        self.ok(Regs {
            rcx,
            rdx: 0x1234,
            r8: 7,
            ..Regs::call_version(Leaf::VP_INIT, 1)
        });
    }

    fn build_memory(&mut self) {
        let tdr = self.tdr.0;
        for level in [3, 2, 1] {
            let r8 = self.page().0;
            self.ok(Regs {
                rcx: level,
                rdx: tdr,
                r8,
                ..Regs::call(Leaf::MEM_SEPT_ADD)
            });
        }
        let r8 = self.page().0;
        let source = HOST_PAGE.0;
        self.ok(Regs {
            rcx: MAPPED.0,
            rdx: tdr,
            r8,
            r9: source,
            ..Regs::call(Leaf::MEM_PAGE_ADD)
        });
        self.ok(Regs {
            rcx: tdr,
            ..Regs::call(Leaf::MR_FINALIZE)
        });
        self.aug(PENDING);
        let r8 = BIG_PAGE.0;
        self.ok(Regs {
            rcx: PENDING_2M.0 | 1,
            rdx: tdr,
            r8,
            ..Regs::call(Leaf::MEM_PAGE_AUG)
        });
    }

    /// Adds a pending page.
    pub fn aug(&mut self, gpa: Gpa) {
        let (rdx, r8) = (self.tdr.0, self.page().0);
        self.ok(Regs {
            rcx: gpa.0,
            rdx,
            r8,
            ..Regs::call(Leaf::MEM_PAGE_AUG)
        });
    }

    /// The next page that nobody uses.
    pub fn page(&mut self) -> Hpa {
        self.next += 0x1000;
        Hpa(self.next - 0x1000)
    }

    /// A host call on LP 0, whatever comes of it.
    pub fn host(&self, regs: Regs) -> Regs {
        self.host_on(0, regs)
    }

    pub fn host_on(&self, lp: u32, mut regs: Regs) -> Regs {
        let _ = self.m.seamcall(lp, &mut regs);
        regs
    }

    /// A host call that succeeds.
    pub fn ok(&self, regs: Regs) -> Regs {
        self.ok_on(0, regs)
    }

    pub fn ok_on(&self, lp: u32, regs: Regs) -> Regs {
        let out = self.host_on(lp, regs);
        assert_eq!(out.status(), TdxStatus::SUCCESS, "{:?}", regs.leaf());
        out
    }

    /// Enters the guest on LP 0 with these registers of the host.
    pub fn try_enter(&self, host: Regs) -> (After, Regs) {
        let mut regs = Regs {
            rax: 0,
            rcx: host.rcx | self.tdvpr.0,
            ..host
        };
        let after = self.m.seamcall(0, &mut regs);
        (after, regs)
    }

    pub fn enter(&self) {
        let (after, regs) = self.try_enter(Regs {
            rbp: HOST_RBP,
            ..Regs::default()
        });
        assert_eq!(after, After::Guest, "{regs:?}");
    }

    /// A guest call that does not leave the guest. RAX is the status.
    pub fn guest(&self, leaf: GuestLeaf, regs: Regs) -> Regs {
        let (after, regs) = self.tdcall(leaf, regs);
        assert_eq!(after, GuestAfter::Continue);
        regs
    }

    pub fn tdcall(&self, leaf: GuestLeaf, regs: Regs) -> (GuestAfter, Regs) {
        let mut regs = Regs {
            rax: regs.rax | u64::from(leaf.0),
            ..regs
        };
        let after = self.m.tdcall(0, &mut regs);
        (after, regs)
    }

    /// A guest call that makes the TD exit.
    pub fn exit(&self, leaf: GuestLeaf, regs: Regs) -> Regs {
        match self.tdcall(leaf, regs).0 {
            GuestAfter::TdExit(regs) => regs,
            other => panic!("{other:?}"),
        }
    }

    /// Where the page is that maps `gpa`, as the host knows it.
    pub fn hpa(&self, gpa: Gpa, level: u8) -> Hpa {
        let regs = Regs {
            rcx: gpa.0 | u64::from(level),
            rdx: self.tdr.0,
            ..Regs::call(Leaf::MEM_SEPT_RD)
        };
        let out = self.host_on(1, regs);
        assert_eq!(out.status(), TdxStatus::SUCCESS);
        Hpa(out.rcx & 0x000f_ffff_ffff_f000)
    }

    /// State of the S-EPT entry that maps `gpa`, as MEM.SEPT.RD numbers it.
    pub fn sept_state(&self, gpa: Gpa, level: u8) -> u64 {
        let regs = Regs {
            rcx: gpa.0 | u64::from(level),
            rdx: self.tdr.0,
            ..Regs::call(Leaf::MEM_SEPT_RD)
        };
        self.host_on(1, regs).rdx >> 8 & 0xff
    }

    /// The lock word of the S-EPT entry that maps `gpa`.
    pub fn entry(&self, gpa: Gpa, level: u8) -> LockAt {
        LockAt::Entry {
            tdr: self.tdr,
            gpa,
            level,
        }
    }

    /// Every lock word is as it should be and every page in its place.
    pub fn audit(&self) {
        self.m.audit().unwrap();
    }
}

/// RAX of a status with details.
pub fn status(code: TdxStatus, details: u32) -> u64 {
    code.with_details(details).0
}

/// Exit reason of an EPT violation.
pub const EPT_VIOLATION: u64 = 48;
/// States of entries, as leaves report them.
pub const STATE_FREE: u64 = 0;
pub const STATE_PENDING: u64 = 2;
pub const STATE_MAPPED: u64 = 4;

/// TDX_OPERAND_INVALID with this operand.
pub fn invalid(operand: OperandId) -> u64 {
    TdxStatus::OPERAND_INVALID.with(operand).0
}

/// TDG.MEM.PAGE.ACCEPT of a mapping: the status.
pub fn accept(td: &Td, mapping: u64) -> u64 {
    td.guest(
        GuestLeaf::MEM_PAGE_ACCEPT,
        Regs {
            rcx: mapping,
            ..Regs::default()
        },
    )
    .rax
}

/// A TD with the pending 4 KiB page accepted.
pub fn with_a_page() -> (Td, Hpa) {
    let td = Td::entered();
    assert_eq!(accept(&td, PENDING.0), 0);
    let hpa = td.hpa(PENDING, 0);
    (td, hpa)
}

/// EPT violation exit of a leaf that needs another mapping: requested and found level, state, leaf.
pub fn exit_of(kind: u64, gpa: Gpa, info: [u64; 4], rights: u64) -> Regs {
    let [level, found, state, leaf] = info;
    let info = level | found << 3 | state << 6 | leaf << 14;
    Regs {
        rax: EPT_VIOLATION,
        rcx: 2 | rights << 3,
        rdx: kind | info << 32,
        r8: gpa.0,
        ..Regs::default()
    }
}
