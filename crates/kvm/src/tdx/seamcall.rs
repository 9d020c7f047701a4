//! One function for each SEAMCALL that KVM makes, named as in the kernel (`tdh_*`).
//!
//! They put operands into registers and nothing else; what a status leads to is decided where they
//! are called. All but TDH.VP.ENTER go through `sc_retry`: up to ten tries while the module lacks
//! entropy (`arch/x86/virt/vmx/tdx/seamcall_internal.h`).

use seamlock_tdx_abi::regs::Regs;
use seamlock_tdx_abi::{FieldId, Gpa, Hkid, Hpa, Leaf, TdxStatus};
use seamlock_tdx_module::After;

use crate::host::Host;

/// `RDRAND_RETRY_LOOPS`.
const RETRIES: u32 = 10;

/// Where a SEAMCALL is made: on which machine and CPU.
#[derive(Clone, Copy, Debug)]
pub struct On<'a> {
    /// The machine.
    pub host: &'a Host,
    /// The CPU.
    pub cpu: u32,
}

/// The result of a SEAMCALL that returns S-EPT information with an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extended {
    /// How it ended.
    pub status: TdxStatus,
    /// RCX: the S-EPT entry.
    pub entry: u64,
    /// RDX: the entry's level and state.
    pub level_state: u64,
}

impl Extended {
    /// The operands of a bug report.
    pub fn operands(&self) -> [u64; 3] {
        [self.entry, self.level_state, 0]
    }
}

/// `sc_retry`. The registers are made anew for each try, because a leaf may have changed them.
#[inline]
fn call(on: On, regs: impl Fn() -> Regs) -> Regs {
    let mut tries = RETRIES;
    loop {
        let mut out = regs();
        let (status, _) = on.host.seamcall(on.cpu, &mut out);
        tries -= 1;
        if status != TdxStatus::RND_NO_ENTROPY || tries == 0 {
            return out;
        }
    }
}

#[inline]
fn status(on: On, regs: impl Fn() -> Regs) -> TdxStatus {
    call(on, regs).status()
}

#[inline]
fn extended(on: On, regs: impl Fn() -> Regs) -> Extended {
    let out = call(on, regs);
    Extended {
        status: out.status(),
        entry: out.rcx,
        level_state: out.rdx,
    }
}

/// TDH.MNG.CREATE.
pub fn tdh_mng_create(on: On, tdr: Hpa, hkid: Hkid) -> TdxStatus {
    status(on, || Regs {
        rcx: tdr.0,
        rdx: u64::from(hkid.0),
        ..Regs::call(Leaf::MNG_CREATE)
    })
}

/// TDH.MNG.KEY.CONFIG.
pub fn tdh_mng_key_config(on: On, tdr: Hpa) -> TdxStatus {
    status(on, || Regs {
        rcx: tdr.0,
        ..Regs::call(Leaf::MNG_KEY_CONFIG)
    })
}

/// TDH.MNG.ADDCX.
pub fn tdh_mng_addcx(on: On, tdr: Hpa, page: Hpa) -> TdxStatus {
    status(on, || Regs {
        rcx: page.0,
        rdx: tdr.0,
        ..Regs::call(Leaf::MNG_ADDCX)
    })
}

/// TDH.MNG.INIT. Returns RCX too, which names a CPUID leaf that is not accepted.
pub fn tdh_mng_init(on: On, tdr: Hpa, td_params: Hpa) -> (TdxStatus, u64) {
    let out = call(on, || Regs {
        rcx: tdr.0,
        rdx: td_params.0,
        ..Regs::call(Leaf::MNG_INIT)
    });
    (out.status(), out.rcx)
}

/// TDH.MNG.RD.
pub fn tdh_mng_rd(on: On, tdr: Hpa, field: FieldId) -> Result<u64, TdxStatus> {
    let out = call(on, || Regs {
        rcx: tdr.0,
        rdx: field.0,
        ..Regs::call(Leaf::MNG_RD)
    });
    if out.status() == TdxStatus::SUCCESS {
        Ok(out.r8)
    } else {
        Err(out.status())
    }
}

/// TDH.MNG.VPFLUSHDONE.
pub fn tdh_mng_vpflushdone(on: On, tdr: Hpa) -> TdxStatus {
    status(on, || Regs {
        rcx: tdr.0,
        ..Regs::call(Leaf::MNG_VPFLUSHDONE)
    })
}

/// TDH.MNG.KEY.FREEID.
pub fn tdh_mng_key_freeid(on: On, tdr: Hpa) -> TdxStatus {
    status(on, || Regs {
        rcx: tdr.0,
        ..Regs::call(Leaf::MNG_KEY_FREEID)
    })
}

/// TDH.VP.CREATE.
pub fn tdh_vp_create(on: On, tdr: Hpa, tdvpr: Hpa) -> TdxStatus {
    status(on, || Regs {
        rcx: tdvpr.0,
        rdx: tdr.0,
        ..Regs::call(Leaf::VP_CREATE)
    })
}

/// TDH.VP.ADDCX.
pub fn tdh_vp_addcx(on: On, tdvpr: Hpa, page: Hpa) -> TdxStatus {
    status(on, || Regs {
        rcx: page.0,
        rdx: tdvpr.0,
        ..Regs::call(Leaf::VP_ADDCX)
    })
}

/// TDH.VP.INIT version 1, which takes the x2APIC id and has the TDR to itself.
pub fn tdh_vp_init(on: On, tdvpr: Hpa, initial_rcx: u64, x2apic_id: u32) -> TdxStatus {
    let regs = Regs {
        rcx: tdvpr.0,
        rdx: initial_rcx,
        r8: u64::from(x2apic_id),
        ..Regs::call_version(Leaf::VP_INIT, 1)
    };
    status(on, || regs)
}

/// TDH.VP.WR of the bits of `mask`.
pub fn tdh_vp_wr(on: On, tdvpr: Hpa, field: FieldId, value: u64, mask: u64) -> TdxStatus {
    let regs = Regs {
        rcx: tdvpr.0,
        rdx: field.0,
        r8: value,
        r9: mask,
        ..Regs::call(Leaf::VP_WR)
    };
    status(on, || regs)
}

/// TDH.VP.RD.
pub fn tdh_vp_rd(on: On, tdvpr: Hpa, field: FieldId) -> Result<u64, TdxStatus> {
    let out = call(on, || Regs {
        rcx: tdvpr.0,
        rdx: field.0,
        ..Regs::call(Leaf::VP_RD)
    });
    if out.status() == TdxStatus::SUCCESS {
        Ok(out.r8)
    } else {
        Err(out.status())
    }
}

/// TDH.VP.FLUSH.
pub fn tdh_vp_flush(on: On, tdvpr: Hpa) -> TdxStatus {
    status(on, || Regs {
        rcx: tdvpr.0,
        ..Regs::call(Leaf::VP_FLUSH)
    })
}

/// TDH.VP.ENTER, once; the registers carry the guest's both ways.
pub fn tdh_vp_enter(on: On, tdvpr: Hpa, guest: &mut Regs) -> (TdxStatus, After) {
    guest.rax = Regs::call(Leaf::VP_ENTER).rax;
    guest.rcx = tdvpr.0;
    on.host.seamcall(on.cpu, guest)
}

/// TDH.MEM.SEPT.ADD of the table that the entry of `level` (1 for 2 MiB) will point to.
pub fn tdh_mem_sept_add(on: On, tdr: Hpa, gpa: Gpa, level: u8, page: Hpa) -> Extended {
    let rcx = gpa.0 | u64::from(level);
    extended(on, || Regs {
        rcx,
        rdx: tdr.0,
        r8: page.0,
        ..Regs::call(Leaf::MEM_SEPT_ADD)
    })
}

/// TDH.MEM.PAGE.ADD.
#[inline]
pub fn tdh_mem_page_add(on: On, tdr: Hpa, gpa: Gpa, page: Hpa, source: Hpa) -> Extended {
    extended(on, || Regs {
        rcx: gpa.0,
        rdx: tdr.0,
        r8: page.0,
        r9: source.0,
        ..Regs::call(Leaf::MEM_PAGE_ADD)
    })
}

/// TDH.MEM.PAGE.AUG of a 4 KiB page.
pub fn tdh_mem_page_aug(on: On, tdr: Hpa, gpa: Gpa, page: Hpa) -> Extended {
    extended(on, || Regs {
        rcx: gpa.0,
        rdx: tdr.0,
        r8: page.0,
        ..Regs::call(Leaf::MEM_PAGE_AUG)
    })
}

/// TDH.MEM.RANGE.BLOCK of a 4 KiB page.
pub fn tdh_mem_range_block(on: On, tdr: Hpa, gpa: Gpa) -> Extended {
    extended(on, || Regs {
        rcx: gpa.0,
        rdx: tdr.0,
        ..Regs::call(Leaf::MEM_RANGE_BLOCK)
    })
}

/// TDH.MEM.TRACK.
pub fn tdh_mem_track(on: On, tdr: Hpa) -> Extended {
    extended(on, || Regs {
        rcx: tdr.0,
        ..Regs::call(Leaf::MEM_TRACK)
    })
}

/// TDH.MEM.PAGE.REMOVE of a 4 KiB page.
pub fn tdh_mem_page_remove(on: On, tdr: Hpa, gpa: Gpa) -> Extended {
    extended(on, || Regs {
        rcx: gpa.0,
        rdx: tdr.0,
        ..Regs::call(Leaf::MEM_PAGE_REMOVE)
    })
}

/// TDH.MR.EXTEND of the 256 bytes at `gpa`.
#[inline]
pub fn tdh_mr_extend(on: On, tdr: Hpa, gpa: Gpa) -> Extended {
    extended(on, || Regs {
        rcx: gpa.0,
        rdx: tdr.0,
        ..Regs::call(Leaf::MR_EXTEND)
    })
}

/// TDH.MR.FINALIZE.
pub fn tdh_mr_finalize(on: On, tdr: Hpa) -> TdxStatus {
    status(on, || Regs {
        rcx: tdr.0,
        ..Regs::call(Leaf::MR_FINALIZE)
    })
}

/// TDH.PHYMEM.PAGE.RECLAIM. Returns the page's type, owner and level too.
pub fn tdh_phymem_page_reclaim(on: On, page: Hpa) -> (TdxStatus, [u64; 3]) {
    let out = call(on, || Regs {
        rcx: page.0,
        ..Regs::call(Leaf::PHYMEM_PAGE_RECLAIM)
    });
    (out.status(), [out.rcx, out.rdx, out.r8])
}

/// TDH.PHYMEM.PAGE.WBINVD of the page as seen with `hkid`.
pub fn tdh_phymem_page_wbinvd(on: On, page: Hpa, hkid: Hkid) -> TdxStatus {
    let shift = on.host.module().platform().hkid_start_bit;
    let rcx = page.0 | u64::from(hkid.0) << shift;
    status(on, || Regs {
        rcx,
        ..Regs::call(Leaf::PHYMEM_PAGE_WBINVD)
    })
}

/// TDH.PHYMEM.CACHE.WB: starts, or goes on after an interrupt.
pub fn tdh_phymem_cache_wb(on: On, resume: bool) -> TdxStatus {
    status(on, || Regs {
        rcx: u64::from(resume),
        ..Regs::call(Leaf::PHYMEM_CACHE_WB)
    })
}
