//! A vCPU: the contents of its TDVPR and TDCX pages.
//!
//! # Locking
//! Everything is guarded by the TDVPR's PAMT entry, exclusive to write and shared to read, but
//! `ASSOC_LPID`: calls that hold the TDVPR shared claim it with one compare-and-exchange. While the
//! guest runs, the LP that runs it holds the TDVPR shared and is the only one to touch the rest.

use seamlock_sync::{Class, Plain, Private, Shared};
use seamlock_tdx_abi::addr::{Hpa, NULL_PA};
use seamlock_tdx_abi::lifecycle::VcpuState;

use crate::vp_state::VpState;

/// TDVPS pages that VP.INIT needs without L2 VMs (TDVPS_BASE_SIZE / 4096).
pub(crate) const MIN_TDVPS_PAGES: u32 = 6;
/// TDVPS pages more for each L2 VM.
pub(crate) const TDVPS_PAGES_PER_L2_VM: u32 = 3;
/// TDVPS pages that VP.ADDCX accepts.
pub(crate) const MAX_TDVPS_PAGES: u32 = 15;
/// ASSOC_LPID of a vCPU that no LP has.
pub(crate) const NO_LP: u32 = u32::MAX;

static ASSOC_LPID: Class = Class::new("TDVPS.ASSOC_LPID");

/// A vCPU.
#[derive(Debug)]
pub(crate) struct Vp {
    /// The TDVPR page.
    pub(crate) tdvpr: Hpa,
    /// TDVPS pages, the TDVPR counted.
    pub(crate) pages: Plain<u32>,
    tdvps: [Plain<u64>; MAX_TDVPS_PAGES as usize],
    state: Plain<u8>,
    pub(crate) index: Plain<u32>,
    pub(crate) assoc_lpid: Shared<u32>,
    /// The TLB epoch at the last entry.
    pub(crate) epoch: Plain<u64>,
    /// Registers, VMCS fields, #VE information.
    pub(crate) guest: Private<VpState>,
}

impl Vp {
    pub(crate) fn new(tdvpr: Hpa) -> Vp {
        Vp {
            tdvpr,
            pages: Plain::new(0),
            tdvps: [const { Hpa(NULL_PA) }; MAX_TDVPS_PAGES as usize].map(|pa| Plain::new(pa.0)),
            state: Plain::new(VcpuState::UNINITIALIZED.0),
            index: Plain::new(0),
            assoc_lpid: Shared::new(ASSOC_LPID.at(tdvpr.0), NO_LP),
            epoch: Plain::new(0),
            guest: Private::new(VpState::default()),
        }
    }

    /// Empties the TDVPR, as VP.CREATE does; the caller holds the page alone.
    pub(crate) fn create(&self) {
        self.pages.store(1);
        self.set_tdvps(0, self.tdvpr);
        self.set_state(VcpuState::UNINITIALIZED);
        self.index.store(0);
        self.assoc_lpid.poke(NO_LP);
        self.epoch.store(0);
        self.guest.with(|guest| *guest = VpState::default());
    }

    #[inline]
    pub(crate) fn state(&self) -> VcpuState {
        VcpuState(self.state.load())
    }

    pub(crate) fn set_state(&self, state: VcpuState) {
        self.state.store(state.0);
    }

    /// The TDVPS page of this index.
    pub(crate) fn tdvps(&self, index: usize) -> Hpa {
        Hpa(self.tdvps[index].load())
    }

    pub(crate) fn set_tdvps(&self, index: usize, pa: Hpa) {
        self.tdvps[index].store(pa.0);
    }
}
