//! Bringing the TDX module up (`tdx_enable`), and what can go wrong.
//!
//! Source: Linux v7.3.4 `arch/x86/virt/vmx/tdx/tdx.c`: SYS.INIT once, SYS.LP.INIT on each CPU,
//! SYS.RD, SYS.CONFIG, SYS.KEY.CONFIG once per package, SYS.TDMR.INIT until each TDMR is done.

use std::fmt;

use seamlock_tdx_abi::regs::Regs;
use seamlock_tdx_abi::tdmr::{TDMR_INFO_ALIGN, TdmrInfo};
use seamlock_tdx_abi::{FieldId, Hkid, Hpa, Leaf, TdxStatus};
use seamlock_tdx_module::Module;
use zerocopy::IntoBytes;

use super::sysinfo::SysInfo;
use super::tdmr::{self, Layout};

/// Why the TDX module could not be brought up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BootError {
    /// The platform has no processor, or fewer than two HKIDs for TDX.
    Platform,
    /// A SEAMCALL failed.
    Seamcall {
        /// The leaf.
        leaf: Leaf,
        /// The LP it was made on.
        lp: u32,
        /// How it failed.
        status: TdxStatus,
    },
    /// A metadata field could not be read.
    Metadata {
        /// The field.
        field: FieldId,
        /// How SYS.RD failed.
        status: TdxStatus,
    },
    /// A TDMR has no memory that could hold its PAMT.
    NoRoomForPamt {
        /// The TDMR's base.
        tdmr: u64,
        /// Bytes of PAMT that it needs.
        bytes: u64,
    },
    /// A TDMR has more holes than it may have reserved areas.
    TooManyHoles {
        /// The TDMR's base.
        tdmr: u64,
    },
}

impl fmt::Display for BootError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BootError::Platform => f.write_str("the platform has no processor or no guest HKID"),
            BootError::Seamcall { leaf, lp, status } => write!(f, "{leaf} on LP {lp}: {status}"),
            BootError::Metadata { field, status } => write!(f, "TDH.SYS.RD {field:?}: {status}"),
            BootError::NoRoomForPamt { tdmr, bytes } => {
                write!(
                    f,
                    "no room for {bytes} bytes of PAMT in the TDMR at {tdmr:#x}"
                )
            }
            BootError::TooManyHoles { tdmr } => {
                write!(f, "too many holes in the TDMR at {tdmr:#x}")
            }
        }
    }
}

impl std::error::Error for BootError {}

/// One SEAMCALL of the bring-up; SYS.INIT and its kind know only success and failure.
fn call(module: &Module, lp: u32, mut regs: Regs) -> Result<Regs, BootError> {
    let leaf = regs.leaf();
    let _ = module.seamcall(lp, &mut regs);
    match regs.status() {
        TdxStatus::SUCCESS => Ok(regs),
        status => Err(BootError::Seamcall { leaf, lp, status }),
    }
}

/// Brings the module from loaded to ready. Returns its metadata and the memory layout.
pub(super) fn bring_up(module: &Module) -> Result<(SysInfo, Layout), BootError> {
    let platform = module.platform();
    if platform.lps == 0 || platform.packages == 0 || platform.private_hkid_count < 2 {
        return Err(BootError::Platform);
    }
    call(module, 0, Regs::call(Leaf::SYS_INIT))?;
    for lp in 0..platform.lps {
        call(module, lp, Regs::call(Leaf::SYS_LP_INIT))?;
    }
    let info = SysInfo::read(module)?;
    let mut layout = tdmr::construct(&info.cmrs, info.pamt_entry_size)?;
    config(module, &mut layout)?;
    config_global_key(module)?;
    for tdmr in &layout.tdmrs {
        init_tdmr(module, tdmr)?;
    }
    Ok((info, layout))
}

/// SYS.CONFIG: the structures go into the first usable pages and are free again afterwards.
fn config(module: &Module, layout: &mut Layout) -> Result<(), BootError> {
    let at = layout.usable.first().map_or(0, |r| r.base);
    let count = layout.tdmrs.len() as u64;
    let array: Vec<u64> = (1..=count).map(|i| at + i * TDMR_INFO_ALIGN).collect();
    for (pa, tdmr) in array.iter().zip(&layout.tdmrs) {
        write(module, *pa, tdmr.as_bytes());
    }
    write(module, at, array.as_bytes());
    let regs = Regs {
        rcx: at,
        rdx: count,
        r8: u64::from(global_keyid(module).0),
        ..Regs::call(Leaf::SYS_CONFIG)
    };
    call(module, 0, regs).map(drop)
}

fn write(module: &Module, pa: u64, bytes: &[u8]) {
    // The layout keeps within memory; beyond it nothing would be written, and SYS.CONFIG refuses.
    let _ = module.memory().write(Hpa(pa), bytes);
}

/// The HKID that protects the module's own memory: the first private one.
pub(super) fn global_keyid(module: &Module) -> Hkid {
    Hkid(module.platform().private_hkid_first)
}

fn config_global_key(module: &Module) -> Result<(), BootError> {
    let platform = module.platform();
    let mut done = 0u64;
    for lp in 0..platform.lps {
        let package = 1 << platform.package_of(lp);
        if done & package == 0 {
            call(module, lp, Regs::call(Leaf::SYS_KEY_CONFIG))?;
            done |= package;
        }
    }
    Ok(())
}

fn init_tdmr(module: &Module, tdmr: &TdmrInfo) -> Result<(), BootError> {
    let mut next = tdmr.base;
    while next < tdmr.base + tdmr.size {
        next = call(
            module,
            0,
            Regs {
                rcx: tdmr.base,
                ..Regs::call(Leaf::SYS_TDMR_INIT)
            },
        )?
        .rdx;
    }
    Ok(())
}
