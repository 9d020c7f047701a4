//! States of a TD, of a vCPU, of a key and of the module.
//!
//! Source: TDX module 1.5.06, section "TD life cycle" of the base specification.

use crate::layout::open_number;

/// `TDR.LIFECYCLE_STATE`: how far the key of a TD has come.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct LifecycleState(pub u32);

open_number!(LifecycleState(u32) {
    /// The TD has an HKID (after `TDH.MNG.CREATE`).
    HKID_ASSIGNED = 0;
    /// The key is programmed on every package.
    KEYS_CONFIGURED = 1;
    /// No vCPU is associated any more and the HKID is blocked.
    BLOCKED = 2;
    /// The HKID is free; pages can be reclaimed.
    TEARDOWN = 3;
});

/// `TDCS.OP_STATE`: what may be done to a TD whose keys are configured.
///
/// "UNALLOCATED" of the specifications means fewer than six TDCS pages; it is not a value.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct OpState(pub u32);

open_number!(OpState(u32) {
    /// Before `TDH.MNG.INIT`.
    UNINITIALIZED = 0;
    /// The TD is being built.
    INITIALIZED = 1;
    /// After `TDH.MR.FINALIZE`.
    RUNNABLE = 2;
    /// Exported while it runs.
    LIVE_EXPORT = 3;
    /// Exported, paused.
    PAUSED_EXPORT = 4;
    /// Export is complete.
    POST_EXPORT = 5;
    /// Memory is being imported.
    MEMORY_IMPORT = 6;
    /// State is being imported.
    STATE_IMPORT = 7;
    /// Import is complete, not committed.
    POST_IMPORT = 8;
    /// Runs while memory is still being imported.
    LIVE_IMPORT = 9;
    /// Import failed.
    FAILED_IMPORT = 10;
});

impl OpState {
    /// Number of defined states.
    pub const COUNT: usize = Self::ALL.len();
}

/// `TDVPS.VCPU_STATE`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct VcpuState(pub u8);

open_number!(VcpuState(u8) {
    /// Before `TDH.VP.INIT`.
    UNINITIALIZED = 0;
    /// Can be entered.
    READY = 2;
    /// In the guest.
    ACTIVE = 4;
    /// After a triple fault; can't be entered again.
    DISABLED = 8;
    /// Being imported.
    IMPORT = 0x10;
});

/// `TDVPS.LAST_TD_EXIT`: how the vCPU left the guest last.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct LastTdExit(pub u8);

open_number!(LastTdExit(u8) {
    /// Asynchronous and fault-like; also the state after `TDH.VP.INIT`.
    ASYNC_FAULT = 0;
    /// Asynchronous and trap-like.
    ASYNC_TRAP = 1;
    /// Through `TDG.VP.VMCALL`.
    TDVMCALL = 2;
});

/// State of the module as a whole.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct SysState(pub u8);

open_number!(SysState(u8) {
    /// Before `TDH.SYS.INIT`.
    SYSINIT_PENDING = 0;
    /// Initialised; LPs are initialised in this state.
    SYSINIT_DONE = 1;
    /// TDMRs are configured; keys are programmed in this state.
    SYSCONFIG_DONE = 2;
    /// Ready for TDs.
    READY = 3;
    /// After `TDH.SYS.SHUTDOWN`.
    SHUTDOWN = 4;
});

/// State of an entry of the key ownership table (KOT).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct KotState(pub u8);

open_number!(KotState(u8) {
    /// The HKID can be given to a TD.
    HKID_FREE = 0;
    /// The HKID belongs to a TD.
    HKID_ASSIGNED = 1;
    /// The TD is blocked; caches are to be written back.
    HKID_FLUSHED = 2;
    /// The HKID is the module's own.
    HKID_RESERVED = 3;
});

#[cfg(test)]
mod tests {
    use super::*;
    use std::format;

    #[test]
    fn states_have_the_numbers_of_the_module() {
        assert_eq!(
            (LifecycleState::TEARDOWN.0, OpState::FAILED_IMPORT.0),
            (3, 10)
        );
        assert_eq!((VcpuState::READY.0, VcpuState::DISABLED.0), (2, 8));
        assert_eq!((OpState::COUNT, SysState::READY.0), (11, 3));
        assert_eq!(
            format!("{} {}", OpState::RUNNABLE, OpState(11)),
            "RUNNABLE OpState(0xb)"
        );
    }
}
