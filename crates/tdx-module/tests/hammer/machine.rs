//! The machine that the module runs on, and its weather.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use seamlock_tdx_abi::addr::{Hkid, Hpa};
use seamlock_tdx_abi::td_params::{Attributes, ConfigFlags, EptpControls, TdParams};
use seamlock_tdx_module::platform::{Events, KeyProgramming, PlatformFault};
use seamlock_tdx_module::{Module, Platform};
use zerocopy::{FromZeros, IntoBytes};

use super::dice::Dice;

/// First 4 KiB page that TDs are made of.
pub const POOL: u64 = 0x4000_0000;
/// Number of these pages; few, so that calls meet.
pub const POOL_PAGES: u64 = 160;
/// First 2 MiB page for TDs.
pub const BIG: u64 = 0x4020_0000;
/// Number of 2 MiB pages.
pub const BIG_PAGES: u64 = 2;
/// Pages of the host with content for TDs.
pub const SOURCE: u64 = 0x1000;
/// Number of these pages.
pub const SOURCE_PAGES: u64 = 8;
/// TD_PARAMS of each kind of TD, 1024 bytes apart.
pub const PARAMS: u64 = 0xa000;
/// A page that the host uses for anything.
pub const SCRATCH: u64 = 0xc000;
const RAM: u64 = 3 << 30;

/// What a TD is asked to be.
#[derive(Clone, Copy, Debug)]
pub struct Kind {
    /// ATTRIBUTES.
    pub attributes: Attributes,
    /// CONFIG_FLAGS.
    pub flags: ConfigFlags,
    /// Levels of its secure EPT.
    pub levels: u8,
    /// L2 VMs.
    pub l2_vms: u8,
}

/// The kinds of TDs that hosts build here.
pub const KINDS: [Kind; 5] = [
    Kind {
        attributes: Attributes::empty(),
        flags: ConfigFlags::NO_RBP_MOD,
        levels: 4,
        l2_vms: 0,
    },
    Kind {
        attributes: Attributes::DEBUG,
        flags: ConfigFlags::empty(),
        levels: 4,
        l2_vms: 0,
    },
    Kind {
        attributes: Attributes::SEPT_VE_DISABLE,
        flags: ConfigFlags::GPAW,
        levels: 5,
        l2_vms: 0,
    },
    Kind {
        attributes: Attributes::DEBUG,
        flags: ConfigFlags::empty(),
        levels: 4,
        l2_vms: 1,
    },
    Kind {
        attributes: Attributes::empty(),
        flags: ConfigFlags::FLEXIBLE_PENDING_VE,
        levels: 5,
        l2_vms: 2,
    },
];

/// A module that is ready, on a machine with `lps` logical processors, and its weather.
pub fn ready(lps: u32, seed: u64) -> (Module, Arc<Weather>) {
    let (platform, weather) = platform(lps, seed);
    let m = Module::ready(platform).expect("the machine is as the module needs it");
    write_params(&m);
    weather.stormy.store(true, Relaxed);
    (m, weather)
}

/// A module that was only loaded.
pub fn loaded(lps: u32, seed: u64) -> (Module, Arc<Weather>) {
    let (platform, weather) = platform(lps, seed);
    let m = Module::new(platform);
    write_params(&m);
    weather.stormy.store(true, Relaxed);
    (m, weather)
}

fn platform(lps: u32, seed: u64) -> (Platform, Arc<Weather>) {
    let weather = Arc::new(Weather {
        seed,
        ..Weather::default()
    });
    let platform = Platform {
        events: weather.clone(),
        ..Platform::sapphire_rapids(RAM, lps)
    };
    (platform, weather)
}

/// Writes TD_PARAMS of each kind of TD.
pub fn write_params(m: &Module) {
    for (i, kind) in (0..).zip(KINDS) {
        let mut params = TdParams::new_zeroed();
        params.attributes = kind.attributes.bits();
        params.xfam = 3;
        params.max_vcpus = 3;
        params.num_l2_vms = kind.l2_vms;
        params.config_flags = kind.flags.bits();
        params.eptp_controls = EptpControls::new(EptpControls::MEMORY_TYPE_WB, kind.levels).0;
        params.tsc_frequency = 80;
        let written = m.memory().write(Hpa(PARAMS + i * 1024), params.as_bytes());
        written.expect("the machine has memory there");
    }
}

/// What hardware does to the module: now and then, and the same for the same seed and order of calls.
#[derive(Debug, Default)]
pub struct Weather {
    seed: u64,
    asked: AtomicU64,
    /// Something may go wrong.
    pub stormy: AtomicBool,
}

impl Weather {
    fn strikes(&self, one_in: usize) -> bool {
        let asked = self.asked.fetch_add(1, Relaxed);
        self.stormy.load(Relaxed) && Dice::new(self.seed ^ asked).one_in(one_in)
    }
}

impl Events for Weather {
    fn random(&self, lp: u32) -> Option<[u64; 4]> {
        let asked = self.asked.fetch_add(1, Relaxed) ^ u64::from(lp) << 32;
        (!self.strikes(16)).then_some([1, 2, 3, 4].map(|i| asked.wrapping_mul(4).wrapping_add(i)))
    }

    fn program_key(&self, _lp: u32, _hkid: Hkid) -> KeyProgramming {
        if self.strikes(12) {
            KeyProgramming::Busy
        } else if self.strikes(12) {
            KeyProgramming::NoEntropy
        } else {
            KeyProgramming::Done
        }
    }

    fn interrupt_pending(&self, _lp: u32) -> bool {
        self.strikes(6)
    }

    fn tsc(&self, _lp: u32) -> u64 {
        let asked = self.asked.fetch_add(1, Relaxed);
        if self.strikes(50) {
            asked.wrapping_mul(u64::MAX / 3)
        } else {
            asked << 12
        }
    }

    fn tsc_adjust_unchanged(&self, _lp: u32) -> bool {
        !self.strikes(40)
    }

    fn limits_cpuid(&self, _lp: u32) -> bool {
        self.strikes(40)
    }

    fn platform_check(&self, _lp: u32) -> Result<(), PlatformFault> {
        if self.strikes(4) {
            Err(PlatformFault::Msr { index: 0x3b })
        } else if self.strikes(4) {
            Err(PlatformFault::Cpuid {
                leaf: 0x21,
                subleaf: 1,
            })
        } else {
            Ok(())
        }
    }
}
