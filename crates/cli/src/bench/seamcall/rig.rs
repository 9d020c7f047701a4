//! A module with a TD that is being built and a TD that runs.

use anyhow::{Context, bail};
use seamlock_tdx_abi::addr::Hpa;
use seamlock_tdx_abi::leaf::Leaf;
use seamlock_tdx_abi::regs::Regs;
use seamlock_tdx_abi::status::TdxStatus;
use seamlock_tdx_abi::td_params::{EptpControls, TdParams};
use seamlock_tdx_module::{After, Module, Platform};
use zerocopy::{FromZeros, IntoBytes};

/// Pages that a TD gets in a round.
pub const PAGES: u64 = 512;
/// Tables that it gets.
pub const TABLES: u64 = 64;
/// Where the host keeps what it adds.
pub const SOURCE: u64 = 0x20_0000;
/// Pages for TDs, 2 MiB and more apart.
const GROUND: u64 = 1 << 30;
/// The same for the bare work.
pub const BARE_SOURCE: u64 = SOURCE + (4 << 20);
/// Pages that are added to TDs.
pub const NEW: u64 = GROUND + (64 << 21);
/// The same for the bare work.
pub const BARE_NEW: u64 = GROUND + (72 << 21);
/// Pages for tables.
pub const NEW_TABLES: u64 = GROUND + (80 << 21);
const PARAMS: u64 = 0x10_0000;

/// The module and its TDs.
#[derive(Debug)]
pub struct Rig {
    /// The module.
    pub m: Module,
    /// TDR of the TD that is being built. It has tables for its first 2 MiB and, above level 1, for its
    /// first GiB.
    pub building: u64,
    /// TDR of the TD that runs, with the same tables.
    pub running: u64,
    /// Its TDVPR.
    pub tdvpr: u64,
}

impl Rig {
    /// Builds it.
    pub fn new() -> anyhow::Result<Rig> {
        let m = Module::ready(Platform::sapphire_rapids(4 << 30, 2))
            .map_err(|(leaf, status)| anyhow::anyhow!("{leaf}: {status}"))?;
        let page = |i: u64| [i as u8 | 1; 4096];
        for first in [SOURCE, BARE_SOURCE, NEW, BARE_NEW] {
            for i in 0..PAGES {
                m.memory()
                    .write(Hpa(first + i * 4096), &page(i))
                    .context("pages")?;
            }
        }
        let mut rig = Rig {
            m,
            building: GROUND,
            running: GROUND + (16 << 21),
            tdvpr: 0,
        };
        let (building, running) = (rig.building, rig.running);
        rig.td(building, 40)?;
        rig.tables(building)?;
        rig.td(running, 41)?;
        rig.tables(running)?;
        rig.tdvpr = rig.vcpu(running)?;
        rig.ok(Leaf::MR_FINALIZE, [running, 0, 0, 0])?;
        Ok(rig)
    }

    /// A call on LP 0 that must succeed.
    pub fn ok(&self, leaf: Leaf, [rcx, rdx, r8, r9]: [u64; 4]) -> anyhow::Result<()> {
        let mut regs = Regs {
            rcx,
            rdx,
            r8,
            r9,
            ..Regs::call(leaf)
        };
        let after = self.m.seamcall(0, &mut regs);
        if after == After::Host && regs.rax != TdxStatus::SUCCESS.0 {
            bail!("{leaf}: {}", regs.status());
        }
        Ok(())
    }

    /// A TD that is being built; its pages follow the TDR.
    pub fn td(&self, tdr: u64, hkid: u64) -> anyhow::Result<()> {
        self.ok(Leaf::MNG_CREATE, [tdr, hkid, 0, 0])?;
        self.ok(Leaf::MNG_KEY_CONFIG, [tdr, 0, 0, 0])?;
        for i in 1..=6 {
            self.ok(Leaf::MNG_ADDCX, [tdr + i * 4096, tdr, 0, 0])?;
        }
        let mut params = TdParams::new_zeroed();
        (params.xfam, params.max_vcpus, params.tsc_frequency) = (3, 1, 80);
        params.eptp_controls = EptpControls::WB_PWL4.0;
        self.m.memory().write(Hpa(PARAMS), params.as_bytes())?;
        self.ok(Leaf::MNG_INIT, [tdr, PARAMS, 0, 0])
    }

    /// Tables for the TD's first 2 MiB.
    pub fn tables(&self, tdr: u64) -> anyhow::Result<()> {
        for level in (1..=3).rev() {
            let page = tdr + (1 << 21) + level * 4096;
            self.ok(Leaf::MEM_SEPT_ADD, [level, tdr, page, 0])?;
        }
        Ok(())
    }

    /// A vCPU of the TD. Returns its TDVPR.
    pub fn vcpu(&self, tdr: u64) -> anyhow::Result<u64> {
        let tdvpr = tdr + (2 << 21);
        self.ok(Leaf::VP_CREATE, [tdvpr, tdr, 0, 0])?;
        for i in 1..6 {
            self.ok(Leaf::VP_ADDCX, [tdvpr + i * 4096, tdvpr, 0, 0])?;
        }
        self.ok(Leaf::VP_INIT, [tdvpr, 0, 0, 0])?;
        Ok(tdvpr)
    }
}

/// Where a TD of one round has its TDR.
pub const SHORT_LIVED: u64 = GROUND + (32 << 21);
