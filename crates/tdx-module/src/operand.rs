//! The checks that most leaves share, in the module's order.
//!
//! Source: TDX module 1.5, `helpers.c`; the order is described in the specification's operand tables.

use seamlock_sync::Mode;
use seamlock_tdx_abi::addr::{Gpa, Hpa, PAGE_SIZE};
use seamlock_tdx_abi::leaf::Leaf;
use seamlock_tdx_abi::lifecycle::{LifecycleState, VcpuState};
use seamlock_tdx_abi::operand::OperandId;
use seamlock_tdx_abi::pamt::PageType;
use seamlock_tdx_abi::sept::GpaMapping;
use seamlock_tdx_abi::status::TdxStatus;

use crate::Module;
use crate::locks::{HpGuard, OP_STATE};
use crate::pamt::{Chain, PageGuard, PageSize};
use crate::platform::MAX_PA_BITS;
use crate::tables::op_state_allows;
use crate::td::{MIN_TDCS_PAGES, Td};
use crate::vp::{MIN_TDVPS_PAGES, NO_LP, TDVPS_PAGES_PER_L2_VM, Vp};

/// A TD named by the address of its TDR, held.
#[derive(Debug)]
pub(crate) struct TdrGuard<'m> {
    pub(crate) td: &'m Td,
    _guard: PageGuard<'m>,
}

/// A TD found through a page that it owns, held.
#[derive(Debug)]
pub(crate) struct OwnerGuard<'m> {
    pub(crate) td: &'m Td,
    pub(crate) guard: HpGuard<'m>,
}

impl Module {
    /// The PAMT entries of a page that lies in an initialised part of a TDMR.
    #[inline(always)]
    pub(crate) fn chain(&self, pa: Hpa) -> Option<Chain<'_>> {
        // A block that is usable stays so: what was touched once needs no look at the TDMR.
        let known = self.pamt.known(pa);
        if known.is_none() && self.touch(pa) {
            return self.pamt.known(pa);
        }
        known
    }

    // Says only whether, because a chain that is returned goes through memory.
    #[cold]
    fn touch(&self, pa: Hpa) -> bool {
        let tdmr = self.sys.tdmr(pa).filter(|tdmr| tdmr.is_usable(pa));
        tdmr.is_some_and(|tdmr| self.pamt.touch(pa, &|page| tdmr.is_reserved(page)))
    }

    /// A private page that the host names: aligned, no HKID bits, below the end of the address space.
    #[inline(always)]
    fn check_private_hpa(&self, pa: u64, align: u64, operand: OperandId) -> Result<Hpa, TdxStatus> {
        let aligned = pa & (align - 1) == 0;
        if !aligned || !self.platform.is_plain_address(pa) {
            return Err(TdxStatus::OPERAND_INVALID.with(operand));
        }
        Ok(Hpa(pa))
    }

    /// The PAMT entries of a private page that the host names.
    #[inline(always)]
    fn private_chain(
        &self,
        pa: u64,
        align: u64,
        operand: OperandId,
    ) -> Result<Chain<'_>, TdxStatus> {
        let pa = self.check_private_hpa(pa, align, operand)?;
        self.chain(pa)
            .ok_or(TdxStatus::OPERAND_ADDR_RANGE_ERROR.with(operand))
    }

    /// A private page that the host names, whatever its size and type: checked, walked to and held.
    #[inline(always)]
    pub(crate) fn hold_any_page(
        &self,
        pa: u64,
        align: u64,
        target: PageSize,
        mode: Mode,
        operand: OperandId,
    ) -> Result<PageGuard<'_>, TdxStatus> {
        let chain = self.private_chain(pa, align, operand)?;
        chain
            .walk(target, mode)
            .ok_or(TdxStatus::OPERAND_BUSY.with(operand))
    }

    /// A private 4 KiB page of a type, named by the host. The type is tested after the lock, so a busy
    /// page of a wrong type is busy.
    #[inline(always)]
    pub(crate) fn hold_page(
        &self,
        pa: u64,
        mode: Mode,
        expected: PageType,
        operand: OperandId,
    ) -> Result<PageGuard<'_>, TdxStatus> {
        self.hold_page_of(pa, PageSize::K4, mode, expected, operand)
    }

    /// Like [`hold_page`](Module::hold_page), for a page of the given size.
    #[inline(always)]
    pub(crate) fn hold_page_of(
        &self,
        pa: u64,
        size: PageSize,
        mode: Mode,
        expected: PageType,
        operand: OperandId,
    ) -> Result<PageGuard<'_>, TdxStatus> {
        let chain = self.private_chain(pa, size.bytes(), operand)?;
        match chain.walk_to(size, mode, expected) {
            Ok(held) => Ok(chain.guard(held)),
            Err(status) => Err(status.with(operand)),
        }
    }

    /// A TDR that the host names.
    #[inline(always)]
    pub(crate) fn hold_tdr(
        &self,
        pa: u64,
        mode: Mode,
        operand: OperandId,
    ) -> Result<TdrGuard<'_>, TdxStatus> {
        let chain = self.private_chain(pa, PAGE_SIZE, operand)?;
        let incorrect = TdxStatus::PAGE_METADATA_INCORRECT.with(operand);
        let held = match chain.walk_to(PageSize::K4, mode, PageType::TDR) {
            Ok(held) => held,
            Err(status) => return Err(status.with(operand)),
        };
        // The guard is built where it stays: moved about, it would be what this costs.
        let Some(td) = chain.page.td() else {
            drop(chain.guard(held));
            return Err(incorrect);
        };
        let _guard = chain.guard(held);
        Ok(TdrGuard { td, _guard })
    }

    /// A TDVPR that the host names.
    #[inline]
    pub(crate) fn hold_tdvpr(
        &self,
        pa: u64,
        mode: Mode,
        operand: OperandId,
    ) -> Result<(&Vp, PageGuard<'_>), TdxStatus> {
        let guard = self.hold_page(pa, mode, PageType::TDVPR, operand)?;
        let vp = guard
            .page()
            .vp()
            .ok_or(TdxStatus::PAGE_METADATA_INCORRECT.with(operand))?;
        Ok((vp, guard))
    }

    /// The TDR that owns a page: its own entry only, and reported as `TDR`, not as a register.
    #[inline]
    pub(crate) fn hold_owner(&self, tdr: Hpa, mode: Mode) -> Result<OwnerGuard<'_>, TdxStatus> {
        let busy = TdxStatus::OPERAND_BUSY.with(OperandId::TDR);
        let chain = self.chain(tdr).ok_or(busy)?;
        let guard = chain.hold(PageSize::K4, mode).ok_or(busy)?;
        let td = chain.page.td().ok_or(busy)?;
        Ok(OwnerGuard { td, guard })
    }

    /// A page of the host: aligned, outside of the module's own range, and of a shared HKID.
    #[inline]
    pub(crate) fn check_shared_hpa(
        &self,
        pa: u64,
        size: u64,
        operand: OperandId,
    ) -> Result<Hpa, TdxStatus> {
        let platform = &self.platform;
        let plain = platform.without_hkid(pa);
        let seamrr = &platform.seamrr;
        let overlaps = plain.0 < seamrr.end() && seamrr.base < plain.0.saturating_add(size);
        let private = platform.hkid_of(pa).0 >= platform.private_hkid_first;
        if pa & (size - 1) != 0 || pa >> MAX_PA_BITS != 0 || overlaps || private {
            return Err(TdxStatus::OPERAND_INVALID.with(operand));
        }
        Ok(plain)
    }
}

/// The state that a TD must have before its TDCS is looked at.
#[inline]
pub(crate) fn check_td_built(td: &Td) -> Result<(), TdxStatus> {
    if td.fatal.load() {
        return Err(TdxStatus::TD_FATAL);
    }
    if td.lifecycle() != LifecycleState::KEYS_CONFIGURED {
        return Err(TdxStatus::TD_KEYS_NOT_CONFIGURED);
    }
    if td.num_tdcx.load() < MIN_TDCS_PAGES {
        return Err(TdxStatus::TDCS_NOT_ALLOCATED);
    }
    Ok(())
}

/// The TD's state for a leaf that holds the TDR alone and so needs no OP_STATE lock.
#[inline]
pub(crate) fn check_td(td: &Td, leaf: Leaf) -> Result<(), TdxStatus> {
    check_td_built(td)?;
    if !op_state_allows(leaf, td.op_state()) {
        return Err(TdxStatus::OP_STATE_INCORRECT);
    }
    Ok(())
}

/// The TD's state for a leaf that shares the TDR: OP_STATE is held shared from here on.
#[inline]
pub(crate) fn hold_op_state(td: &Td, leaf: Leaf) -> Result<HpGuard<'_>, TdxStatus> {
    check_td_built(td)?;
    let name = OP_STATE.at(td.tdr.0);
    let guard = HpGuard::try_host(&td.op_state_lock, Mode::Shared, name)
        .ok_or(TdxStatus::OPERAND_BUSY.with(OperandId::OP_STATE))?;
    if !op_state_allows(leaf, td.op_state()) {
        return Err(TdxStatus::OP_STATE_INCORRECT);
    }
    Ok(guard)
}

/// The module compares a page's address with its level in 40 bits only, so that bits 47:40 may be set in
/// the address of a level-4 entry.
const ALIGNMENT_BITS: u64 = (1 << 40) - 1;

/// A guest page operand: reserved bits, level and alignment.
#[inline]
pub(crate) fn check_mapping(
    rcx: u64,
    levels: std::ops::RangeInclusive<u8>,
) -> Result<(Gpa, u8), TdxStatus> {
    let mapping = GpaMapping(rcx);
    let level = mapping.level();
    let invalid = TdxStatus::OPERAND_INVALID.with(OperandId::RCX);
    if mapping.reserved() != 0 || !levels.contains(&level) {
        return Err(invalid);
    }
    let bytes = PAGE_SIZE << (9 * u32::from(level));
    if mapping.gpa().0 & ALIGNMENT_BITS & (bytes - 1) != 0 {
        return Err(invalid);
    }
    Ok((mapping.gpa(), level))
}

/// A guest address that must be private and inside the TD's width.
#[inline]
pub(crate) fn check_private_gpa(td: &Td, gpa: Gpa, operand: OperandId) -> Result<(), TdxStatus> {
    if td.is_private_gpa(gpa) {
        Ok(())
    } else {
        Err(TdxStatus::OPERAND_INVALID.with(operand))
    }
}

/// The vCPU has the pages that its TD's number of L2 VMs asks for.
pub(crate) fn check_tdvps_pages(td: &Td, vp: &Vp) -> Result<(), TdxStatus> {
    let needed = MIN_TDVPS_PAGES + TDVPS_PAGES_PER_L2_VM * td.num_l2_vms.load();
    if vp.pages.load() < needed {
        return Err(TdxStatus::TDCX_NUM_INCORRECT);
    }
    Ok(())
}

/// Claims the vCPU for a logical processor. True when it had none before.
pub(crate) fn associate(td: &Td, vp: &Vp, lp: u32) -> Result<bool, TdxStatus> {
    match vp.assoc_lpid.compare_exchange(NO_LP, lp) {
        Ok(_) => {
            td.num_assoc.fetch_add(1);
            Ok(true)
        }
        Err(held) if held == lp => Ok(false),
        Err(_) => Err(TdxStatus::VCPU_ASSOCIATED),
    }
}

/// Checks that the vCPU can be used, then claims it.
pub(crate) fn check_and_associate(
    td: &Td,
    vp: &Vp,
    lp: u32,
    allow_disabled: bool,
) -> Result<bool, TdxStatus> {
    let state = vp.state();
    if state != VcpuState::READY && !(allow_disabled && state == VcpuState::DISABLED) {
        return Err(TdxStatus::VCPU_STATE_INCORRECT);
    }
    associate(td, vp, lp)
}
