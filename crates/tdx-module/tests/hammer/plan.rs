//! What a step does in a world.

use seamlock_sync::Mode;
use seamlock_tdx_abi::addr::{Gpa, Hpa};
use seamlock_tdx_abi::leaf::Leaf;
use seamlock_tdx_abi::regs::Regs;
use seamlock_tdx_module::LockAt;
use seamlock_tdx_module::tables::VERSIONED;
use seamlock_tdx_module::tdh::LEAVES;

use super::dice::Dice;
use super::guest::{self, GuestAct};
use super::machine::{BIG, BIG_PAGES, POOL, POOL_PAGES, SOURCE, SOURCE_PAGES};
use super::operands::{What, draw, host_page, plausible};
use super::step::Step;
use super::td::{Stage, Td, Vcpu, start};
use super::world::{GPAS, TDS, World};

/// What is done, and on which logical processor.
#[derive(Clone, Copy, Debug)]
pub struct Planned {
    /// The logical processor.
    pub lp: u32,
    /// What it does.
    pub act: Act,
}

/// What a logical processor does.
#[derive(Clone, Copy, Debug)]
pub enum Act {
    /// A SEAMCALL.
    Seam(Regs),
    /// A SEAMCALL while somebody else holds a lock word.
    While(LockAt, Mode, Regs),
    /// Something of the guest that runs here.
    Guest(GuestAct),
    /// The host writes a word of its memory.
    Write(u64, u64),
    /// The host writes TD_PARAMS as they should be, for MNG.INIT.
    Init(Regs),
}

/// What `step` does. `lps` are the logical processors that the caller may use, not none.
pub fn plan(world: &mut World, step: Step, lps: &[u32]) -> Planned {
    let mut dice = Dice::new(u64::from(step.seed) << 16 | u64::from(step.other));
    let lp = lps[usize::from(step.pick) % lps.len()];
    if let Some((tdr, _)) = world.running.get(&lp).copied() {
        let act = guest::act(world, tdr, &mut dice);
        return Planned {
            lp,
            act: Act::Guest(act),
        };
    }
    let mut host = Host {
        world,
        lps,
        lp,
        dice,
    };
    let act = match step.kind {
        0..150 => match host.life(step.other) {
            regs if regs.leaf() == Leaf::MNG_INIT => Act::Init(regs),
            regs => Act::Seam(regs),
        },
        150..200 => Act::Seam(host.plausible()),
        200..220 => Act::Seam(host.mutated(step.other)),
        220..232 => Act::Seam(host.wild()),
        232..240 => Act::Write(
            host_page(&mut host.dice) + host.word_offset(),
            host.content(),
        ),
        _ => {
            let regs = host.mutated(step.other);
            let (at, mode) = host.word(regs.leaf());
            Act::While(at, mode, regs)
        }
    };
    let act = match act {
        Act::Seam(regs) => Act::Seam(keeps_integrity(regs)),
        Act::While(at, mode, regs) => Act::While(at, mode, keeps_integrity(regs)),
        act => act,
    };
    Planned { lp: host.lp, act }
}

/// A host that has the module write its answers over a TD's pages destroys what it likes, on hardware,
/// too; then the books say nothing. (That the module survives it is the business of
/// [`corrupting`](super::run::Runner::corrupting).)
fn keeps_integrity(regs: Regs) -> Regs {
    let low = |pa: u64| pa & 0x3fff_ffff;
    match regs.leaf() {
        Leaf::SYS_RDALL => Regs {
            rdx: low(regs.rdx),
            ..regs
        },
        Leaf::SYS_INFO => Regs {
            rcx: low(regs.rcx),
            r8: low(regs.r8),
            ..regs
        },
        _ => regs,
    }
}

/// Leaves that may be called while an entry is held. Others may take its table away, which whoever
/// holds an entry in earnest keeps them from by holding the tree and the TDR.
const KEEP_TABLES: &[Leaf] = &[
    Leaf::MEM_SEPT_ADD,
    Leaf::MEM_PAGE_AUG,
    Leaf::MEM_PAGE_REMOVE,
    Leaf::MEM_PAGE_RELOCATE,
    Leaf::MEM_RANGE_BLOCK,
    Leaf::MEM_RANGE_UNBLOCK,
    Leaf::MEM_SEPT_RD,
    Leaf::MEM_RD,
    Leaf::MEM_WR,
];

struct Host<'w> {
    world: &'w mut World,
    lps: &'w [u32],
    lp: u32,
    dice: Dice,
}

/// A call with these operands.
fn call(leaf: Leaf, rcx: u64, rdx: u64) -> Regs {
    Regs {
        rcx,
        rdx,
        ..Regs::call(leaf)
    }
}

impl Host<'_> {
    fn wild(&mut self) -> Regs {
        let mut regs = [0; 15].map(|_: u64| self.dice.wild());
        if !self.dice.one_in(4) {
            regs[0] = self.dice.below(0x60) as u64;
        }
        Regs::from_array(regs)
    }

    /// A leaf of the module. Those that bring it up or down are rare: they would end most of it.
    fn plausible(&mut self) -> Regs {
        let mut leaf = self.dice.of(LEAVES).copied().unwrap_or(Leaf::MNG_RD);
        if leaf == Leaf::SYS_SHUTDOWN && !self.dice.one_in(40) {
            leaf = Leaf::PHYMEM_PAGE_RDMD;
        }
        let version = u8::from(VERSIONED.contains(&leaf) && self.dice.one_in(2));
        plausible(self.world, leaf, version, &mut self.dice)
    }

    /// A call that would do, but for one register.
    fn mutated(&mut self, other: u16) -> Regs {
        let regs = if self.dice.one_in(2) {
            self.life(other)
        } else {
            self.plausible()
        };
        let mut array = regs.to_array();
        let at = self.dice.below(array.len());
        array[at] = match self.dice.below(3) {
            0 => array[at] ^ 1 << self.dice.below(64),
            1 => self.dice.wild(),
            _ => draw(self.world, What::Page, &mut self.dice),
        };
        Regs::from_array(array)
    }

    fn word_offset(&mut self) -> u64 {
        self.dice.below(512) as u64 * 8
    }

    fn content(&mut self) -> u64 {
        if self.dice.one_in(2) {
            self.dice.wild()
        } else {
            draw(self.world, What::Page, &mut self.dice)
        }
    }

    /// A lock word, and how somebody holds it.
    fn word(&mut self, leaf: Leaf) -> (LockAt, Mode) {
        let alive = |td: &&Td| matches!(td.stage, Stage::Building | Stage::Runnable);
        let alive: Vec<u64> = self
            .world
            .tds
            .iter()
            .filter(alive)
            .map(|td| td.tdr)
            .collect();
        let dice = &mut self.dice;
        let page = Hpa(self.world.any_page(dice));
        let tdr = Hpa(self.world.some_td(dice).map_or(POOL, |td| td.tdr));
        let at = match dice.below(12) {
            0 => LockAt::Pamt2m(page),
            1 => LockAt::Pamt1g(page),
            2 => LockAt::OpState(tdr),
            3 => LockAt::SeptTree(tdr),
            4 => LockAt::Epoch(tdr),
            5 if KEEP_TABLES.contains(&leaf) && !alive.is_empty() => LockAt::Entry {
                tdr: Hpa(dice.of(&alive).copied().unwrap_or(0)),
                gpa: Gpa(dice.of(&GPAS).copied().unwrap_or(0)),
                level: dice.below(4) as u8,
            },
            6 => LockAt::Kot,
            7 => LockAt::Wbt(0),
            8 => LockAt::Global,
            9 => LockAt::Page(tdr),
            _ => LockAt::Page(page),
        };
        let mode = if dice.one_in(2) {
            Mode::Shared
        } else {
            Mode::Exclusive
        };
        (at, mode)
    }

    /// The next call of a TD's life.
    fn life(&mut self, other: u16) -> Regs {
        let slot = usize::from(other) % TDS;
        let Some(td) = self.world.tds.get(slot) else {
            let hkid = (33..64).find(|hkid| self.world.tds.iter().all(|td| td.hkid != *hkid));
            let tdr = self.world.free_page(&mut self.dice);
            return call(Leaf::MNG_CREATE, tdr, hkid.unwrap_or(33));
        };
        let td = td.clone();
        if !td.doomed && td.stage == Stage::Runnable && self.dice.one_in(300) {
            self.world.tds[slot].doomed = true;
        }
        let new = self.world.free_page(&mut self.dice);
        match td.stage {
            _ if td.doomed => self.death(&td),
            Stage::Flushed | Stage::Torn => self.death(&td),
            Stage::Created => call(Leaf::MNG_KEY_CONFIG, td.tdr, 0),
            Stage::Keyed if td.tdcx < td.tdcx_needed() => call(Leaf::MNG_ADDCX, new, td.tdr),
            Stage::Keyed => {
                let params = super::machine::PARAMS + td.kind as u64 * 1024;
                call(Leaf::MNG_INIT, td.tdr, params)
            }
            Stage::Building => self.build(&td),
            Stage::Runnable => self.run(&td),
        }
    }

    fn build(&mut self, td: &Td) -> Regs {
        let ready = td.vcpus.iter().any(|vcpu| vcpu.ready);
        match self.dice.below(16) {
            0..7 => self.add_memory(td),
            7..13 => self.add_vcpu(td),
            13 if ready && td.sept.len() > 5 => call(Leaf::MR_FINALIZE, td.tdr, 0),
            14 => self.change_memory(td),
            _ => self.plausible(),
        }
    }

    fn add_memory(&mut self, td: &Td) -> Regs {
        let gpa = self.dice.of(&GPAS).copied().unwrap_or(0);
        if let Some(level) = td.missing_table(gpa, 0) {
            return self.add_table(td, gpa, level);
        }
        if td.sept.contains_key(&(0, gpa)) {
            let chunk = self.dice.below(16) as u64 * 256;
            return call(Leaf::MR_EXTEND, gpa | chunk, td.tdr);
        }
        Regs {
            r8: self.world.free_page(&mut self.dice),
            r9: SOURCE + self.dice.below(SOURCE_PAGES as usize) as u64 * 4096,
            ..call(Leaf::MEM_PAGE_ADD, gpa, td.tdr)
        }
    }

    /// SEPT.ADD, with tables for the L2 VMs if there are any.
    fn add_table(&mut self, td: &Td, gpa: u64, level: u8) -> Regs {
        let l2_vms = usize::from(td.kind().l2_vms);
        let mut pages = [u64::MAX; 4];
        for page in &mut pages[..=l2_vms] {
            *page = self.world.free_page(&mut self.dice);
        }
        let [r8, r9, r10, r11] = pages;
        let version = u8::from(l2_vms > 0);
        Regs {
            rax: Regs::call_version(Leaf::MEM_SEPT_ADD, version).rax,
            r8,
            r9,
            r10,
            r11,
            ..call(
                Leaf::MEM_SEPT_ADD,
                start(gpa, level) | u64::from(level),
                td.tdr,
            )
        }
    }

    fn add_vcpu(&mut self, td: &Td) -> Regs {
        let new = self.world.free_page(&mut self.dice);
        let Some(vcpu) = td.vcpus.iter().find(|vcpu| !vcpu.ready) else {
            if td.vcpus.len() < 2 {
                return call(Leaf::VP_CREATE, new, td.tdr);
            }
            return self.add_memory(td);
        };
        if vcpu.pages < td.tdvps_needed() {
            return call(Leaf::VP_ADDCX, new, vcpu.tdvpr);
        }
        let version = u8::from(!self.dice.one_in(4));
        Regs {
            rax: Regs::call_version(Leaf::VP_INIT, version).rax,
            r8: vcpu.tdvpr >> 12 & 0xff,
            ..call(Leaf::VP_INIT, vcpu.tdvpr, 0)
        }
    }

    fn run(&mut self, td: &Td) -> Regs {
        let ready: Vec<_> = td.vcpus.iter().filter(|vcpu| vcpu.ready).copied().collect();
        let Some(vcpu) = self.dice.of(&ready).copied() else {
            return self.plausible();
        };
        match self.dice.below(16) {
            0..5 => {
                self.go_to(vcpu.lp);
                call(Leaf::VP_ENTER, vcpu.tdvpr, 0)
            }
            5..8 => self.aug(td),
            8..12 => self.change_memory(td),
            12 => call(Leaf::MEM_TRACK, td.tdr, 0),
            13 => {
                self.go_to(vcpu.lp);
                call(Leaf::VP_FLUSH, vcpu.tdvpr, 0)
            }
            14 => {
                self.go_to(vcpu.lp);
                let leaf = if self.dice.one_in(2) {
                    Leaf::VP_RD
                } else {
                    Leaf::VP_WR
                };
                let regs = plausible(self.world, leaf, 0, &mut self.dice);
                Regs {
                    rcx: vcpu.tdvpr,
                    ..regs
                }
            }
            _ => self.plausible(),
        }
    }

    /// Makes the call on this processor, if it is ours and no guest runs there.
    fn go_to(&mut self, lp: Option<u32>) {
        let ours = lp.filter(|lp| self.lps.contains(lp) && !self.world.running.contains_key(lp));
        self.lp = ours.unwrap_or(self.lp);
    }

    fn aug(&mut self, td: &Td) -> Regs {
        let gpa = self.dice.of(&GPAS).copied().unwrap_or(0);
        let level = u8::from(self.dice.one_in(3));
        let gpa = start(gpa, level);
        if let Some(missing) = td.missing_table(gpa, level) {
            return self.add_table(td, gpa, missing);
        }
        if let Some(blocked) = td.blocked_table(gpa, level) {
            let mapping = start(gpa, blocked) | u64::from(blocked);
            return call(Leaf::MEM_RANGE_UNBLOCK, mapping, td.tdr);
        }
        let r8 = if level == 1 {
            self.world.free_big_page(&mut self.dice)
        } else {
            self.world.free_page(&mut self.dice)
        };
        Regs {
            r8,
            ..call(Leaf::MEM_PAGE_AUG, gpa | u64::from(level), td.tdr)
        }
    }

    /// Splits a big page, or joins what was one.
    fn split_or_join(&mut self, td: &Td) -> Option<Regs> {
        let can = td.sept.iter().find_map(|((level, gpa), mapped)| {
            let below = level.checked_sub(1)?;
            let whole = if mapped.table {
                let first = td.sept.get(&(below, *gpa))?;
                !first.table && first.pa.is_multiple_of(1 << (12 + 9 * u32::from(*level)))
            } else {
                true
            };
            whole.then_some((*level, *gpa, *mapped))
        });
        let (level, gpa, mapped) = can?;
        let leaf = match (mapped.blocked, mapped.table) {
            _ if td.stage == Stage::Runnable && self.dice.one_in(3) => {
                return Some(call(Leaf::MEM_TRACK, td.tdr, 0));
            }
            (false, _) if td.stage == Stage::Runnable => Leaf::MEM_RANGE_BLOCK,
            (_, true) => Leaf::MEM_PAGE_PROMOTE,
            (_, false) => Leaf::MEM_PAGE_DEMOTE,
        };
        let mut pages = [u64::MAX; 4];
        for page in &mut pages[..=usize::from(td.kind().l2_vms)] {
            *page = self.world.free_page(&mut self.dice);
        }
        let [r8, r9, r10, r11] = pages;
        Some(Regs {
            r8,
            r9,
            r10,
            r11,
            ..call(leaf, gpa | u64::from(level), td.tdr)
        })
    }

    /// Blocks, tracks, and does something with what is blocked.
    fn change_memory(&mut self, td: &Td) -> Regs {
        if self.dice.one_in(2)
            && let Some(regs) = self.split_or_join(td)
        {
            return regs;
        }
        let tables = self.dice.one_in(6);
        let all = td.sept.iter().filter(|(_, mapped)| tables || !mapped.table);
        let all: Vec<_> = all.collect();
        let Some(((level, gpa), mapped)) = self.dice.of(&all).copied() else {
            return self.aug(td);
        };
        if let Some(blocked) = td.blocked_table(*gpa, *level) {
            let mapping = start(*gpa, blocked) | u64::from(blocked);
            return call(Leaf::MEM_RANGE_UNBLOCK, mapping, td.tdr);
        }
        let mapping = gpa | u64::from(*level);
        let running = td.stage == Stage::Runnable;
        if running && !mapped.blocked && !self.dice.one_in(5) {
            return call(Leaf::MEM_RANGE_BLOCK, mapping, td.tdr);
        }
        if running && self.dice.one_in(4) {
            return call(Leaf::MEM_TRACK, td.tdr, 0);
        }
        let leaf = match (mapped.table, *level, self.dice.below(4)) {
            (_, _, 0) => Leaf::MEM_RANGE_UNBLOCK,
            (true, _, 1) => Leaf::MEM_SEPT_REMOVE,
            (true, 1..=2, _) => Leaf::MEM_PAGE_PROMOTE,
            (true, ..) => Leaf::MEM_SEPT_REMOVE,
            (false, 1..=2, 1 | 2) => Leaf::MEM_PAGE_DEMOTE,
            (false, 0, 1) => Leaf::MEM_PAGE_RELOCATE,
            (false, ..) => Leaf::MEM_PAGE_REMOVE,
        };
        let [r8, r9, r10, r11] = [0; 4].map(|_| self.world.free_page(&mut self.dice));
        Regs {
            r8,
            r9,
            r10,
            r11,
            ..call(leaf, mapping, td.tdr)
        }
    }

    /// The next call of a TD's end.
    fn death(&mut self, td: &Td) -> Regs {
        if self.dice.one_in(12) {
            let leaves = [
                Leaf::MNG_VPFLUSHDONE,
                Leaf::MNG_KEY_FREEID,
                Leaf::PHYMEM_PAGE_RDMD,
            ];
            let leaf = self.dice.of(&leaves).copied();
            return call(leaf.unwrap_or(Leaf::PHYMEM_PAGE_RDMD), td.tdr, 0);
        }
        let mut associated = td.vcpus.iter().filter(|vcpu| vcpu.lp.is_some());
        let ours = |vcpu: &&Vcpu| vcpu.lp.is_some_and(|lp| self.lps.contains(&lp));
        let associated = associated.clone().find(ours).or(associated.next()).copied();
        match (td.stage, associated) {
            (Stage::Flushed, _) => match self.dice.below(3) {
                0 => call(Leaf::MNG_KEY_FREEID, td.tdr, 0),
                _ => call(Leaf::PHYMEM_CACHE_WB, self.world.resume_wb.into(), 0),
            },
            (Stage::Torn, _) if td.lost_pages && !self.dice.one_in(8) => {
                self.world.cursor = (self.world.cursor + 1) % (POOL_PAGES + BIG_PAGES * 512);
                let page = match self.world.cursor {
                    page @ 0..POOL_PAGES => POOL + page * 4096,
                    page => BIG + (page - POOL_PAGES) * 4096,
                };
                call(Leaf::PHYMEM_PAGE_RECLAIM, page, 0)
            }
            (Stage::Torn, _) => {
                let pages = self.world.given.iter();
                let mut of_td = pages.filter(|(pa, given)| given.tdr == td.tdr && **pa != td.tdr);
                let page = of_td.next().map_or(td.tdr, |(pa, _)| *pa);
                call(Leaf::PHYMEM_PAGE_RECLAIM, page, 0)
            }
            (_, Some(vcpu)) if !vcpu.lp.is_some_and(|lp| self.lps.contains(&lp)) => {
                self.plausible()
            }
            (_, Some(vcpu)) if !self.dice.one_in(6) => {
                self.go_to(vcpu.lp);
                call(Leaf::VP_FLUSH, vcpu.tdvpr, 0)
            }
            _ => call(Leaf::MNG_VPFLUSHDONE, td.tdr, 0),
        }
    }
}
