//! One round: every leaf, with the bare work next to it.

use std::time::Instant;

use anyhow::bail;
use seamlock_tdx_abi::field::FieldId;
use seamlock_tdx_abi::guest_leaf::GuestLeaf;
use seamlock_tdx_abi::leaf::Leaf;
use seamlock_tdx_abi::regs::Regs;
use seamlock_tdx_abi::status::TdxStatus;
use seamlock_tdx_module::guest::GuestAfter;
use seamlock_tdx_module::{TdExit, TdExitKind};

use super::Samples;
use super::bare::{self, Bare};
use super::rig::{NEW, NEW_TABLES, PAGES, Rig, SHORT_LIVED, SOURCE, TABLES};

/// Calls of a leaf that changes nothing.
const MANY: u64 = 1 << 12;
/// Chunks of a page that a round measures.
const CHUNKS: u64 = 4;
/// Calls until the bare work has its turn.
const TURN: u64 = 64;
const PAGE: u64 = 4096;
const MIB2: u64 = 1 << 21;

/// An external interrupt.
const INTERRUPT: TdExit = TdExit {
    reason: 1,
    qual: 0,
    gpa: 0,
    kind: TdExitKind::Async,
};

/// Everything once; the module is as before.
pub fn round(rig: &Rig, samples: &mut Samples) -> anyhow::Result<()> {
    bare::words(samples)?;
    build(rig, samples)?;
    read_and_write(rig, samples)?;
    run(rig, samples)?;
    remove(rig, samples)?;
    life(rig, samples)
}

/// A leaf by the name in [`super::figures`].
fn name(leaf: Leaf) -> &'static str {
    leaf.spec_name().unwrap_or("?")
}

fn build(rig: &Rig, samples: &mut Samples) -> anyhow::Result<()> {
    let tdr = rig.building;
    let table = |i: u64| ((i + 1) * MIB2) | 1;
    samples.time(name(Leaf::MEM_SEPT_ADD), TABLES, |i| {
        rig.ok(
            Leaf::MEM_SEPT_ADD,
            [table(i), tdr, NEW_TABLES + i * PAGE, 0],
        )
    })?;
    samples.time(name(Leaf::MEM_SEPT_REMOVE), TABLES, |i| {
        rig.ok(Leaf::MEM_SEPT_REMOVE, [table(i), tdr, 0, 0])
    })?;
    let mut bare = Bare::new(rig.m.memory());
    // Turns, so that both find the caches alike.
    for turn in (0..PAGES).step_by(TURN as usize) {
        samples.time(name(Leaf::MEM_PAGE_ADD), TURN, |i| {
            let at = (turn + i) * PAGE;
            rig.ok(Leaf::MEM_PAGE_ADD, [at, tdr, NEW + at, SOURCE + at])
        })?;
        samples.time(bare::PAGE_ADD, TURN, |i| bare.page_add(turn + i))?;
    }
    for turn in (0..PAGES * CHUNKS).step_by(TURN as usize) {
        samples.time(name(Leaf::MR_EXTEND), TURN, |i| {
            rig.ok(Leaf::MR_EXTEND, [(turn + i) * 256, tdr, 0, 0])
        })?;
        samples.time(bare::EXTEND, TURN, |i| bare.extend(turn + i))?;
    }
    for i in 0..PAGES {
        rig.ok(Leaf::MEM_PAGE_REMOVE, [i * PAGE, tdr, 0, 0])?;
    }
    Ok(())
}

fn read_and_write(rig: &Rig, samples: &mut Samples) -> anyhow::Result<()> {
    let (tdr, tdvpr) = (rig.running, rig.tdvpr);
    let attributes = FieldId::TDCS_ATTRIBUTES.0;
    samples.time(name(Leaf::MNG_RD), MANY, |_| {
        rig.ok(Leaf::MNG_RD, [tdr, attributes, 0, 0])
    })?;
    let details = FieldId::VP_VCPU_STATE_DETAILS.0;
    samples.time(name(Leaf::VP_RD), MANY, |_| {
        rig.ok(Leaf::VP_RD, [tdvpr, details, 0, 0])
    })?;
    let eptp = FieldId::VP_VMCS_SHARED_EPT_POINTER.0;
    samples.time(name(Leaf::VP_WR), MANY, |i| {
        rig.ok(Leaf::VP_WR, [tdvpr, eptp, i * PAGE, 0x000f_ffff_ffff_f000])
    })?;
    samples.time("TDH.VP.FLUSH, TDH.VP.RD", MANY, |_| {
        rig.ok(Leaf::VP_FLUSH, [tdvpr, 0, 0, 0])?;
        rig.ok(Leaf::VP_RD, [tdvpr, details, 0, 0])
    })?;
    samples.time(name(Leaf::MEM_TRACK), MANY, |_| {
        rig.ok(Leaf::MEM_TRACK, [tdr, 0, 0, 0])
    })?;
    samples.time("TDH.VP.ENTER, TD exit", MANY, |_| {
        rig.ok(Leaf::VP_ENTER, [tdvpr, 0, 0, 0])?;
        let _ = rig.m.td_exit(0, INTERRUPT);
        Ok(())
    })
}

/// Pages come and the guest accepts them.
fn run(rig: &Rig, samples: &mut Samples) -> anyhow::Result<()> {
    let tdr = rig.running;
    samples.time(name(Leaf::MEM_PAGE_AUG), PAGES, |i| {
        rig.ok(Leaf::MEM_PAGE_AUG, [i * PAGE, tdr, NEW + i * PAGE, 0])
    })?;
    rig.ok(Leaf::VP_ENTER, [rig.tdvpr, 0, 0, 0])?;
    samples.time("TDG.MEM.PAGE.ACCEPT", PAGES, |i| {
        let mut regs = Regs {
            rax: GuestLeaf::MEM_PAGE_ACCEPT.0.into(),
            rcx: i * PAGE,
            ..Regs::default()
        };
        match rig.m.tdcall(0, &mut regs) {
            GuestAfter::Continue if regs.rax == TdxStatus::SUCCESS.0 => Ok(()),
            other => bail!("TDG.MEM.PAGE.ACCEPT: {other:?}, {}", regs.status()),
        }
    })?;
    let _ = rig.m.td_exit(0, INTERRUPT);
    Ok(())
}

/// Pages are blocked, unblocked, blocked again and taken away.
fn remove(rig: &Rig, samples: &mut Samples) -> anyhow::Result<()> {
    let tdr = rig.running;
    let each = |leaf: Leaf| move |i: u64| rig.ok(leaf, [i * PAGE, tdr, 0, 0]);
    samples.time(
        name(Leaf::MEM_RANGE_BLOCK),
        PAGES,
        each(Leaf::MEM_RANGE_BLOCK),
    )?;
    rig.ok(Leaf::MEM_TRACK, [tdr, 0, 0, 0])?;
    samples.time(
        name(Leaf::MEM_RANGE_UNBLOCK),
        PAGES,
        each(Leaf::MEM_RANGE_UNBLOCK),
    )?;
    for i in 0..PAGES {
        each(Leaf::MEM_RANGE_BLOCK)(i)?;
    }
    rig.ok(Leaf::MEM_TRACK, [tdr, 0, 0, 0])?;
    samples.time(
        name(Leaf::MEM_PAGE_REMOVE),
        PAGES,
        each(Leaf::MEM_PAGE_REMOVE),
    )
}

/// A TD from its beginning to its end.
fn life(rig: &Rig, samples: &mut Samples) -> anyhow::Result<()> {
    let tdr = SHORT_LIVED;
    let start = Instant::now();
    rig.td(tdr, 42)?;
    rig.tables(tdr)?;
    let tdvpr = rig.vcpu(tdr)?;
    rig.ok(Leaf::MR_FINALIZE, [tdr, 0, 0, 0])?;
    let built = start.elapsed();
    for i in 0..PAGES {
        rig.ok(Leaf::MEM_PAGE_AUG, [i * PAGE, tdr, NEW + i * PAGE, 0])?;
    }
    let start = Instant::now();
    rig.ok(Leaf::VP_FLUSH, [tdvpr, 0, 0, 0])?;
    rig.ok(Leaf::MNG_VPFLUSHDONE, [tdr, 0, 0, 0])?;
    rig.ok(Leaf::PHYMEM_CACHE_WB, [0; 4])?;
    rig.ok(Leaf::MNG_KEY_FREEID, [tdr, 0, 0, 0])?;
    let ended = start.elapsed();
    samples.time(name(Leaf::PHYMEM_PAGE_RECLAIM), PAGES, |i| {
        rig.ok(Leaf::PHYMEM_PAGE_RECLAIM, [NEW + i * PAGE, 0, 0, 0])
    })?;
    samples.time(name(Leaf::PHYMEM_PAGE_WBINVD), PAGES, |i| {
        rig.ok(Leaf::PHYMEM_PAGE_WBINVD, [NEW + i * PAGE, 0, 0, 0])
    })?;
    samples.note("a TD built: TDR, TDCS, tables, vCPU", built);
    samples.note("a TD ended: VP.FLUSH to KEY.FREEID", ended);
    let control = (1..=6).map(|i| tdr + i * PAGE);
    let tables = (1..=3).map(|i| tdr + MIB2 + i * PAGE);
    let vcpu = (0..6).map(|i| tdvpr + i * PAGE);
    for page in control.chain(tables).chain(vcpu).chain([tdr]) {
        rig.ok(Leaf::PHYMEM_PAGE_RECLAIM, [page, 0, 0, 0])?;
    }
    Ok(())
}
