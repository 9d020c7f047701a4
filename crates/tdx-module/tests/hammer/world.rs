//! What a host notes about the machine: which pages it gave away, which TDs it built.
//!
//! The notes need not be right: a call that goes wrong by accident or by a race is only one more thing
//! that may happen to the module. They are right often enough for TDs to come to life.

use std::collections::BTreeMap;

use super::dice::Dice;
use super::machine::{BIG, BIG_PAGES, POOL, POOL_PAGES};
use super::td::{Td, Vcpu};

/// TDs at a time.
pub const TDS: usize = 4;
/// Guest addresses that hosts map: two neighbours, others of the same and of other tables.
pub const GPAS: [u64; 7] = [
    0,
    0x1000,
    0x2000,
    0x20_0000,
    0x40_0000,
    0x4000_0000,
    0x80_0000_0000,
];

/// A page that was given away.
#[derive(Clone, Copy, Debug)]
pub struct Given {
    /// To which TD; its own address for a TDR.
    pub tdr: u64,
}

/// A host's notes.
#[derive(Clone, Debug, Default)]
pub struct World {
    /// TDs that exist.
    pub tds: Vec<Td>,
    /// Pages that are in use, by address.
    pub given: BTreeMap<u64, Given>,
    /// TDs whose guests run, by logical processor, with the TDVPR.
    pub running: BTreeMap<u32, (u64, u64)>,
    /// Logical processors of the machine.
    pub lps: u32,
    /// The next page to look at when a TD has pages that are not in the notes.
    pub cursor: u64,
    /// A cache write-back was interrupted.
    pub resume_wb: bool,
}

impl World {
    /// The TD with this TDR.
    pub fn td(&mut self, tdr: u64) -> Option<&mut Td> {
        self.tds.iter_mut().find(|td| td.tdr == tdr)
    }

    /// The TD and the vCPU with this TDVPR.
    pub fn vcpu(&mut self, tdvpr: u64) -> Option<(u64, &mut Vcpu)> {
        self.tds.iter_mut().find_map(|td| {
            let tdr = td.tdr;
            Some((tdr, td.vcpu(tdvpr)?))
        })
    }

    /// A 4 KiB page that nobody has, or any when all are given away.
    pub fn free_page(&self, dice: &mut Dice) -> u64 {
        let first = dice.below(POOL_PAGES as usize) as u64;
        let pages = (0..POOL_PAGES).map(|i| POOL + (first + i) % POOL_PAGES * 4096);
        let mut free = pages.filter(|pa| !self.given.contains_key(pa));
        free.next().unwrap_or(POOL + first * 4096)
    }

    /// A 2 MiB page that nobody has, or any.
    pub fn free_big_page(&self, dice: &mut Dice) -> u64 {
        let first = dice.below(BIG_PAGES as usize) as u64;
        let pages = (0..BIG_PAGES).map(|i| BIG + (first + i) % BIG_PAGES * (2 << 20));
        let mut free = pages.filter(|pa| {
            let inside = self.given.range(*pa..*pa + (2 << 20));
            inside.count() == 0
        });
        free.next().unwrap_or(BIG)
    }

    /// Any page that may be of interest.
    pub fn any_page(&self, dice: &mut Dice) -> u64 {
        match dice.below(8) {
            0 => BIG + dice.below((BIG_PAGES * 512) as usize) as u64 * 4096,
            1 => self.free_page(dice),
            2 => self.some_vcpu(dice).map_or(POOL, |(_, vcpu)| vcpu.tdvpr),
            _ => POOL + dice.below(POOL_PAGES as usize) as u64 * 4096,
        }
    }

    /// Some TD.
    pub fn some_td(&self, dice: &mut Dice) -> Option<&Td> {
        dice.of(&self.tds)
    }

    /// Some vCPU and its TD.
    pub fn some_vcpu(&self, dice: &mut Dice) -> Option<(&Td, Vcpu)> {
        let td = self.some_td(dice)?;
        Some((td, *dice.of(&td.vcpus)?))
    }

    /// Forgets a TD and all that it has.
    pub fn forget(&mut self, tdr: u64) {
        self.tds.retain(|td| td.tdr != tdr);
        self.given.retain(|_, given| given.tdr != tdr);
    }
}
