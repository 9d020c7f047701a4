//! The guest's registers, between the module and whoever runs guest code.

use seamlock_tdx_abi::addr::Gpa;

use crate::Module;
use crate::guest::{GuestState, Reach};

impl Module {
    /// The state in which the guest on `lp` goes on; None when no guest runs there. After
    /// TDG.VP.VMCALL it holds what the host returned. An exception in it is handed out once.
    pub fn guest_state(&self, lp: u32) -> Option<GuestState> {
        let inside = self.inside(lp)?;
        Some(inside.vp.guest.with(|guest| GuestState {
            gprs: guest.gprs,
            cpu: guest.cpu,
            inject: guest.inject.take(),
        }))
    }

    /// Takes the state of the guest on `lp` before something of it is reported: RIP is that of the
    /// instruction that the guest stands at. An exception in it was not delivered yet and comes
    /// back with the next [`guest_state`](Module::guest_state). False when no guest runs there.
    pub fn store_guest_state(&self, lp: u32, state: &GuestState) -> bool {
        let Some(inside) = self.inside(lp) else {
            return false;
        };
        inside.vp.guest.with(|guest| {
            guest.gprs = state.gprs;
            guest.cpu = state.cpu;
            guest.inject = state.inject;
        });
        true
    }

    /// A store of the guest on `lp` to its private memory, within a page. False when the secure EPT does
    /// not allow it, and nothing was stored: an EPT violation is to be reported
    /// ([`ept_violation`](Module::ept_violation)).
    pub fn guest_store(&self, lp: u32, gpa: Gpa, bytes: &[u8]) -> bool {
        let Some(at) = self.inside(lp) else {
            return false;
        };
        let pa = at.allowed(gpa, Reach::WritePrivate);
        pa.is_some_and(|pa| {
            at.write(pa, bytes);
            true
        })
    }

    /// The interrupt window for NMIs of the guest on `lp` is open: whether it takes one now,
    /// because the host asked for it (VP.WR of PEND_NMI) and no #VE is unread. Told once.
    pub fn take_nmi(&self, lp: u32) -> bool {
        let Some(at) = self.inside(lp) else {
            return false;
        };
        at.vp.guest.with(|guest| {
            let take = guest.pend_nmi != 0 && !guest.ve_info.valid;
            if take {
                guest.pend_nmi = 0;
            }
            take
        })
    }
}
