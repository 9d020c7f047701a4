//! vCPUs that the TDX module has associated with a processor and KVM did not flush: on another one the
//! module refuses them, and at the end TDH.MNG.VPFLUSHDONE, so that the HKID is lost. Why, as far as can
//! be told.

use std::cell::Cell;
use std::collections::BTreeMap;

use seamlock_kvm::locks::cells::{VCPU_CPU, VCPU_STATE};
use seamlock_kvm::observer::Seamcall;
use seamlock_sync::{Op, Private};
use seamlock_tdx_abi::{Leaf, TdxStatus};

thread_local! {
    /// Why the thread met a vCPU that was not flushed.
    static WHY: Cell<Option<&'static str>> = const { Cell::new(None) };
    /// The vCPU that the thread has initialised in the module, and not yet in KVM's eyes.
    static INITIALISING: Cell<Option<u64>> = const { Cell::new(None) };
}

/// One vCPU that was initialised.
#[derive(Clone, Copy, Debug)]
struct Vp {
    tdr: u64,
    /// The module has it associated since TDH.VP.INIT.
    since_init: bool,
    /// Its thread was moved before `vcpu_tdx->state` said that it is initialised.
    moved: bool,
    /// TDH.VP.FLUSH failed on a CPU that went offline, and nobody looked.
    lost: bool,
}

/// The vCPUs of a machine, by TDVPR page.
#[derive(Debug, Default)]
pub struct Flushes {
    vps: Private<BTreeMap<u64, Vp>>,
}

impl Flushes {
    /// Notes a SEAMCALL that came back; whether to the hand that takes CPUs offline.
    pub fn note(&self, call: &Seamcall, offline: bool) {
        let (rcx, status) = (call.input.rcx, call.status());
        let done = status == TdxStatus::SUCCESS;
        match call.leaf() {
            Leaf::VP_CREATE if done => {
                let vp = Vp {
                    tdr: call.input.rdx,
                    since_init: false,
                    moved: false,
                    lost: false,
                };
                INITIALISING.set(None);
                self.vps.with(|vps| vps.insert(rcx, vp));
            }
            Leaf::VP_INIT if done => {
                INITIALISING.set(Some(rcx));
                self.update(rcx, |vp| vp.since_init = true);
            }
            Leaf::VP_FLUSH if done => self.update(rcx, |vp| {
                (vp.since_init, vp.moved, vp.lost) = (false, false, false);
            }),
            Leaf::VP_FLUSH if offline && status.is(TdxStatus::OPERAND_BUSY) => {
                self.update(rcx, |vp| vp.lost = true);
            }
            Leaf::MNG_VPFLUSHDONE if done => WHY.set(None),
            Leaf::MNG_VPFLUSHDONE if status.is(TdxStatus::FLUSHVP_NOT_DONE) => {
                WHY.set(self.why(|_, vp| vp.tdr == rcx));
            }
            _ if status.is(TdxStatus::VCPU_ASSOCIATED) => {
                WHY.set(self.why(|tdvpr, _| tdvpr == rcx));
            }
            _ => {}
        }
    }

    /// Notes what the thread has written: its vCPU is on another CPU, or counts as initialised.
    pub fn note_store(&self, op: &Op) {
        let Some(tdvpr) = INITIALISING.get() else {
            return;
        };
        if *op.name.class == VCPU_STATE {
            INITIALISING.set(None);
        } else if *op.name.class == VCPU_CPU {
            self.update(tdvpr, |vp| vp.moved = true);
        }
    }

    fn update(&self, tdvpr: u64, f: impl FnOnce(&mut Vp)) {
        self.vps.with(|vps| vps.get_mut(&tdvpr).map(f));
    }

    /// Why one of these vCPUs is still associated.
    fn why(&self, of: impl Fn(u64, &Vp) -> bool) -> Option<&'static str> {
        self.vps.with(|vps| {
            let all = || vps.iter().filter(|(tdvpr, vp)| of(**tdvpr, vp));
            let lost = all().any(|(_, vp)| vp.lost);
            let moved = all().any(|(_, vp)| vp.since_init && vp.moved);
            let r11 = moved.then_some("R11");
            if lost { Some("R12") } else { r11 }
        })
    }

    /// Why the module refused the calling thread's last SEAMCALL that a flush would have let pass: R12 when a CPU
    /// went offline without it, R11 when the vCPU was never flushed since it was initialised, and its
    /// thread was moved before `vcpu_tdx->state` said that it was.
    pub fn why_refused() -> Option<&'static str> {
        WHY.get()
    }
}
