//! Operands that look right: what a register of each leaf is about.

use seamlock_tdx_abi::field::FieldId;
use seamlock_tdx_abi::leaf::Leaf;
use seamlock_tdx_abi::regs::Regs;

use super::dice::Dice;
use super::machine::{KINDS, PARAMS, POOL, SCRATCH, SOURCE, SOURCE_PAGES};
use super::world::{GPAS, World};

/// What a register is about.
#[derive(Clone, Copy, Debug)]
pub enum What {
    /// Nothing: anything will do.
    Free,
    /// A page to give away.
    New,
    /// Any page.
    Page,
    /// Any page, with HKID bits.
    PageWithHkid,
    /// A TDR.
    Tdr,
    /// A TDR with a flag in bit 0.
    TdrFlag,
    /// A TDVPR.
    Tdvpr,
    /// A guest page and its level.
    Mapping,
    /// A guest address, a multiple of this.
    Gpa(u64),
    /// An HKID.
    Hkid,
    /// A page of the host.
    Source,
    /// TD_PARAMS.
    Params,
    /// A metadata field of a TD.
    TdField,
    /// A metadata field of a vCPU.
    VpField,
    /// A metadata field of the module.
    SysField,
    /// A small number.
    Small,
    /// A number of bytes or entries.
    Bytes,
    /// The base of a TDMR.
    Tdmr,
}

use What::*;

/// RCX, RDX, R8, R9 of each leaf. Leaves that are not listed get anything.
const OPERANDS: &[(Leaf, [What; 4])] = &[
    (Leaf::VP_ENTER, [Tdvpr, Free, Free, Free]),
    (Leaf::MNG_ADDCX, [New, Tdr, Free, Free]),
    (Leaf::MEM_PAGE_ADD, [Mapping, Tdr, New, Source]),
    (Leaf::MEM_SEPT_ADD, [Mapping, TdrFlag, New, New]),
    (Leaf::VP_ADDCX, [New, Tdvpr, Free, Free]),
    (Leaf::MEM_PAGE_RELOCATE, [Mapping, Tdr, New, Free]),
    (Leaf::MEM_PAGE_AUG, [Mapping, Tdr, New, Free]),
    (Leaf::MEM_RANGE_BLOCK, [Mapping, Tdr, Free, Free]),
    (Leaf::MNG_KEY_CONFIG, [Tdr, Free, Free, Free]),
    (Leaf::MNG_CREATE, [New, Hkid, Free, Free]),
    (Leaf::VP_CREATE, [New, Tdr, Free, Free]),
    (Leaf::MNG_RD, [Tdr, TdField, Free, Free]),
    (Leaf::MEM_RD, [Gpa(8), Tdr, Free, Free]),
    (Leaf::MNG_WR, [Tdr, TdField, Small, Free]),
    (Leaf::MEM_WR, [Gpa(8), Tdr, Free, Free]),
    (Leaf::MEM_PAGE_DEMOTE, [Mapping, TdrFlag, New, New]),
    (Leaf::MR_EXTEND, [Gpa(256), Tdr, Free, Free]),
    (Leaf::MR_FINALIZE, [Tdr, Free, Free, Free]),
    (Leaf::VP_FLUSH, [Tdvpr, Free, Free, Free]),
    (Leaf::MNG_VPFLUSHDONE, [Tdr, Free, Free, Free]),
    (Leaf::MNG_KEY_FREEID, [Tdr, Free, Free, Free]),
    (Leaf::MNG_INIT, [Tdr, Params, Free, Free]),
    (Leaf::VP_INIT, [Tdvpr, Free, Small, Free]),
    (Leaf::MEM_PAGE_PROMOTE, [Mapping, Tdr, Free, Free]),
    (Leaf::PHYMEM_PAGE_RDMD, [Page, Free, Free, Free]),
    (Leaf::MEM_SEPT_RD, [Mapping, TdrFlag, Free, Free]),
    (Leaf::VP_RD, [Tdvpr, VpField, Free, Free]),
    (Leaf::PHYMEM_PAGE_RECLAIM, [Page, Free, Free, Free]),
    (Leaf::MEM_PAGE_REMOVE, [Mapping, Tdr, Free, Free]),
    (Leaf::MEM_SEPT_REMOVE, [Mapping, Tdr, Free, Free]),
    (Leaf::SYS_RD, [Free, SysField, Free, Free]),
    (Leaf::SYS_TDMR_INIT, [Tdmr, Free, Free, Free]),
    (Leaf::MEM_TRACK, [Tdr, Free, Free, Free]),
    (Leaf::MEM_RANGE_UNBLOCK, [Mapping, Tdr, Free, Free]),
    (Leaf::PHYMEM_CACHE_WB, [Small, Free, Free, Free]),
    (Leaf::PHYMEM_PAGE_WBINVD, [PageWithHkid, Free, Free, Free]),
    (Leaf::VP_WR, [Tdvpr, VpField, Free, Free]),
    (Leaf::SYS_CONFIG, [Source, Small, Hkid, Free]),
    (Leaf::SYS_RDALL, [Free, Source, SysField, Free]),
    (Leaf::SYS_INFO, [Source, Bytes, Source, Bytes]),
];

/// A call of `leaf` with operands that look right.
pub fn plausible(world: &World, leaf: Leaf, version: u8, dice: &mut Dice) -> Regs {
    let found = OPERANDS.iter().find(|(l, _)| *l == leaf);
    let operands = found.map_or([Free; 4], |(_, operands)| *operands);
    let [rcx, rdx, r8, r9] = operands.map(|what| draw(world, what, dice));
    let [r10, r11] = [New, New].map(|what| draw(world, what, dice));
    Regs {
        rcx,
        rdx,
        r8,
        r9,
        r10,
        r11,
        ..Regs::call_version(leaf, version)
    }
}

/// A value for a register that is about `what`.
pub fn draw(world: &World, what: What, dice: &mut Dice) -> u64 {
    let tdr = |dice: &mut Dice| world.some_td(dice).map_or(POOL, |td| td.tdr);
    match what {
        Free => dice.wild(),
        New if dice.one_in(6) => u64::MAX,
        New if dice.one_in(6) => world.free_big_page(dice),
        New => world.free_page(dice),
        Page => world.any_page(dice),
        PageWithHkid => world.any_page(dice) | (dice.below(64) as u64) << 46,
        Tdr => tdr(dice),
        TdrFlag => tdr(dice) | dice.below(2) as u64,
        Tdvpr => world.some_vcpu(dice).map_or(POOL, |(_, vcpu)| vcpu.tdvpr),
        Mapping => mapping(world, dice),
        Gpa(align) => {
            let inside = dice.word() & 0xfff & !(align - 1);
            mapping(world, dice) & !0xfff | inside
        }
        Hkid => 31 + dice.below(8) as u64,
        Source => SOURCE + dice.below(SOURCE_PAGES as usize) as u64 * 4096,
        Params => PARAMS + dice.below(KINDS.len()) as u64 * 1024,
        TdField => field(FieldId::TD, dice),
        VpField => field(FieldId::VP, dice),
        SysField => field(FieldId::SYS, dice),
        Bytes => 1 << dice.below(14),
        Small => dice.below(6) as u64,
        Tdmr => 1 << 30,
    }
}

/// A guest page and its level: often one that is mapped.
fn mapping(world: &World, dice: &mut Dice) -> u64 {
    let td = world.some_td(dice);
    let mapped: Vec<_> = td.map_or(Vec::new(), |td| td.sept.keys().copied().collect());
    match dice.of(&mapped) {
        Some((level, gpa)) if !dice.one_in(3) => gpa | u64::from(*level),
        _ => {
            let level = dice.below(6) as u64;
            let gpa = dice.of(&GPAS).copied().unwrap_or(0);
            if dice.one_in(8) {
                dice.wild() & !7 | level
            } else {
                super::td::start(gpa, level as u8) | level
            }
        }
    }
}

fn field(known: &[(FieldId, &str)], dice: &mut Dice) -> u64 {
    let id = dice.of(known).map_or(0, |(id, _)| id.0);
    match dice.below(6) {
        0 => dice.wild(),
        1 => id ^ 1 << dice.below(64),
        2 => u64::MAX,
        3 => id + dice.below(8) as u64,
        _ => id,
    }
}

/// A place for anything that the host writes.
pub fn host_page(dice: &mut Dice) -> u64 {
    match dice.below(4) {
        0 => SCRATCH,
        1 => PARAMS,
        _ => SOURCE + dice.below(SOURCE_PAGES as usize) as u64 * 4096,
    }
}
