//! A host that makes calls and says what came back.

#![allow(dead_code)] // each test file uses a part

use std::sync::Arc;

use seamlock_tdx_abi::addr::Hpa;
use seamlock_tdx_abi::field::FieldId;
use seamlock_tdx_abi::leaf::Leaf;
use seamlock_tdx_abi::regs::Regs;
use seamlock_tdx_abi::status::TdxStatus;
use seamlock_tdx_abi::td_params::{EptpControls, TdParams};
use seamlock_tdx_module::platform::Scripted;
use seamlock_tdx_module::{Module, Platform};
use zerocopy::{FromZeros, IntoBytes};

pub const GIB: u64 = 1 << 30;
/// Memory of the host that no TDMR has.
pub const SHARED_PAGE: u64 = 0x80_0000;
/// The TDR of the only TD; pages that follow are given out one by one.
pub const TDR: u64 = GIB;
/// The HKID that the TD gets; the one before it is the module's.
pub const HKID: u64 = 33;

pub struct Host {
    pub m: Module,
    pub script: Arc<Scripted>,
    next_page: u64,
}

fn platform(script: &Arc<Scripted>) -> Platform {
    Platform {
        events: Arc::<Scripted>::clone(script),
        ..Platform::sapphire_rapids(4 * GIB, 4)
    }
}

impl Host {
    /// A host on a machine with four LPs in so many packages, whose module was just loaded.
    pub fn loaded(packages: u32) -> Host {
        let script = Arc::new(Scripted::default());
        let platform = Platform {
            packages,
            ..platform(&script)
        };
        Host {
            m: Module::new(platform),
            script,
            next_page: TDR,
        }
    }

    /// A host whose module is ready.
    pub fn ready(packages: u32) -> Host {
        let script = Arc::new(Scripted::default());
        let platform = Platform {
            packages,
            ..platform(&script)
        };
        Host {
            m: Module::ready(platform).unwrap(),
            script,
            next_page: TDR,
        }
    }

    /// A host with a TD whose keys are configured.
    pub fn with_keys() -> Host {
        let mut host = Host::ready(1);
        let tdr = host.page();
        assert_eq!(tdr, TDR);
        host.ok(0, create(tdr));
        host.ok(0, on(Leaf::MNG_KEY_CONFIG, tdr));
        host
    }

    /// A host with a TD that has all its TDCS pages.
    pub fn with_tdcs() -> Host {
        let mut host = Host::with_keys();
        for _ in 0..6 {
            let page = host.page();
            host.ok(0, add_tdcx(page));
        }
        host
    }

    /// A host with a TD that was initialised with `params`.
    pub fn with_td(params: &TdParams) -> Host {
        let host = Host::with_tdcs();
        assert_eq!(host.init(params), TdxStatus::SUCCESS);
        host
    }

    /// Adds an initialised vCPU and returns its TDVPR.
    pub fn vcpu(&mut self) -> u64 {
        let tdvpr = self.page();
        self.ok(
            0,
            Regs {
                rcx: tdvpr,
                rdx: TDR,
                ..Regs::call(Leaf::VP_CREATE)
            },
        );
        for _ in 0..5 {
            let page = self.page();
            self.ok(
                0,
                Regs {
                    rcx: page,
                    rdx: tdvpr,
                    ..Regs::call(Leaf::VP_ADDCX)
                },
            );
        }
        self.ok(
            0,
            Regs {
                rcx: tdvpr,
                r8: 7,
                ..Regs::call_version(Leaf::VP_INIT, 1)
            },
        );
        tdvpr
    }

    /// A page that was not given out yet.
    pub fn page(&mut self) -> u64 {
        self.next_page += 4096;
        self.next_page - 4096
    }

    /// Makes a call.
    pub fn call(&self, lp: u32, regs: Regs) -> Regs {
        let mut regs = regs;
        let _ = self.m.seamcall(lp, &mut regs);
        regs
    }

    /// Makes a call and returns its status.
    pub fn status(&self, lp: u32, regs: Regs) -> TdxStatus {
        self.call(lp, regs).status()
    }

    /// Makes a call that succeeds.
    pub fn ok(&self, lp: u32, regs: Regs) -> Regs {
        let out = self.call(lp, regs);
        assert_eq!(out.status(), TdxStatus::SUCCESS, "{regs:?}");
        out
    }

    /// MNG.INIT with these parameters.
    pub fn init(&self, params: &TdParams) -> TdxStatus {
        self.init_regs(params).status()
    }

    /// MNG.INIT with these parameters, with all it returns.
    pub fn init_regs(&self, params: &TdParams) -> Regs {
        self.m
            .memory()
            .write(Hpa(SHARED_PAGE), params.as_bytes())
            .unwrap();
        self.call(
            0,
            Regs {
                rcx: TDR,
                rdx: SHARED_PAGE,
                ..Regs::call(Leaf::MNG_INIT)
            },
        )
    }

    /// A field of the TD.
    pub fn td_field(&self, id: FieldId) -> Result<u64, TdxStatus> {
        value(self.call(
            0,
            Regs {
                rdx: id.0,
                ..on(Leaf::MNG_RD, TDR)
            },
        ))
    }

    /// A field of a vCPU.
    pub fn vp_field(&self, tdvpr: u64, id: FieldId) -> Result<u64, TdxStatus> {
        value(self.call(
            0,
            Regs {
                rdx: id.0,
                ..on(Leaf::VP_RD, tdvpr)
            },
        ))
    }

    /// Writes bits of a field of a vCPU.
    pub fn write_vp_field(
        &self,
        tdvpr: u64,
        id: FieldId,
        r8: u64,
        r9: u64,
    ) -> Result<u64, TdxStatus> {
        let regs = Regs {
            rdx: id.0,
            r8,
            r9,
            ..on(Leaf::VP_WR, tdvpr)
        };
        value(self.call(0, regs))
    }

    /// A field of the module.
    pub fn sys_field(&self, id: FieldId) -> Result<u64, TdxStatus> {
        value(self.call(
            0,
            Regs {
                rdx: id.0,
                ..Regs::call(Leaf::SYS_RD)
            },
        ))
    }
}

fn value(regs: Regs) -> Result<u64, TdxStatus> {
    match regs.status() {
        TdxStatus::SUCCESS => Ok(regs.r8),
        status => Err(status),
    }
}

/// A call whose only operand is a page in RCX.
pub fn on(leaf: Leaf, rcx: u64) -> Regs {
    Regs {
        rcx,
        ..Regs::call(leaf)
    }
}

pub fn create(tdr: u64) -> Regs {
    Regs {
        rdx: HKID,
        ..on(Leaf::MNG_CREATE, tdr)
    }
}

pub fn add_tdcx(page: u64) -> Regs {
    Regs {
        rdx: TDR,
        ..on(Leaf::MNG_ADDCX, page)
    }
}

/// TD_PARAMS that the module accepts.
pub fn params() -> TdParams {
    TdParams {
        xfam: 3,
        max_vcpus: 4,
        eptp_controls: EptpControls::WB_PWL4.0,
        tsc_frequency: 40,
        ..TdParams::new_zeroed()
    }
}
