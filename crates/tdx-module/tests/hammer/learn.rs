//! What a host notes when a call succeeded.

use seamlock_tdx_abi::addr::NULL_PA;
use seamlock_tdx_abi::leaf::Leaf;
use seamlock_tdx_abi::pamt::PageType;
use seamlock_tdx_abi::regs::Regs;
use seamlock_tdx_abi::status::TdxStatus;

use super::td::{Mapped, Stage, Td, Vcpu};
use super::world::{Given, World};

const TDR_MASK: u64 = 0x000f_ffff_ffff_f000;

/// Notes what a SEAMCALL on `lp` with `before` has done, when `after` says that it went well.
pub fn learn(world: &mut World, lp: u32, before: &Regs, after: &Regs) {
    let leaf = before.leaf();
    let status = after.status();
    if leaf == Leaf::PHYMEM_CACHE_WB {
        world.resume_wb = status.is(TdxStatus::INTERRUPTED_RESUMABLE);
    }
    let interrupted = leaf == Leaf::MEM_SEPT_ADD && status.is(TdxStatus::INTERRUPTED_RESUMABLE);
    if !status.is(TdxStatus::SUCCESS) && !interrupted {
        return failed(world, lp, before, status);
    }
    let (rcx, rdx) = (before.rcx, before.rdx);
    for tdr in [rcx, rdx & TDR_MASK] {
        if let Some(td) = world.td(tdr) {
            td.refusals = 0;
        }
    }
    match leaf {
        Leaf::MNG_CREATE => {
            world.tds.push(Td::new(rcx, rdx));
            world.give(rcx, rcx);
        }
        Leaf::PHYMEM_PAGE_RECLAIM => world.take(rcx),
        Leaf::PHYMEM_PAGE_RDMD => world.found(rcx, after),
        Leaf::VP_CREATE => {
            world.give(rcx, rdx);
            if let Some(td) = world.td(rdx) {
                td.vcpus.push(Vcpu {
                    tdvpr: rcx,
                    pages: 1,
                    ready: false,
                    lp: None,
                });
            }
        }
        Leaf::VP_ADDCX | Leaf::VP_INIT | Leaf::VP_RD | Leaf::VP_WR | Leaf::VP_FLUSH => {
            vcpu(world, lp, leaf, before);
        }
        Leaf::MNG_KEY_CONFIG
        | Leaf::MNG_INIT
        | Leaf::MR_FINALIZE
        | Leaf::MNG_VPFLUSHDONE
        | Leaf::MNG_KEY_FREEID => {
            if let Some(td) = world.td(rcx) {
                td.stage = match leaf {
                    Leaf::MNG_KEY_CONFIG => Stage::Keyed,
                    Leaf::MNG_INIT => Stage::Building,
                    Leaf::MR_FINALIZE => Stage::Runnable,
                    Leaf::MNG_VPFLUSHDONE => Stage::Flushed,
                    _ => Stage::Torn,
                };
            }
        }
        Leaf::MNG_ADDCX => {
            world.give(rcx, rdx);
            if let Some(td) = world.td(rdx) {
                td.tdcx += 1;
            }
        }
        _ => memory(world, leaf, before, after),
    }
}

/// A vCPU is associated with the processor that entered its guest.
pub fn entered(world: &mut World, lp: u32, before: &Regs) {
    let tdvpr = before.rcx & TDR_MASK;
    let mut tdr = 0;
    if let Some((owner, vcpu)) = world.vcpu(tdvpr) {
        vcpu.lp = Some(lp);
        tdr = owner;
    }
    world.running.insert(lp, (tdr, tdvpr));
}

/// What a refusal tells.
fn failed(world: &mut World, lp: u32, before: &Regs, status: TdxStatus) {
    let leaf = before.leaf();
    let (rcx, rdx) = (before.rcx, before.rdx);
    match leaf {
        // Its page was free.
        Leaf::PHYMEM_PAGE_RECLAIM if status.is(TdxStatus::PAGE_METADATA_INCORRECT) => {
            world.take(rcx);
        }
        // Some pages of it are not in the notes.
        Leaf::PHYMEM_PAGE_RECLAIM if status.is(TdxStatus::TD_ASSOCIATED_PAGES_EXIST) => {
            if let Some(td) = world.td(rcx) {
                td.lost_pages = true;
            }
        }
        // A vCPU may be associated although the call failed later.
        Leaf::VP_ENTER | Leaf::VP_RD | Leaf::VP_WR => {
            if let Some((_, vcpu)) = world.vcpu(rcx & TDR_MASK) {
                vcpu.lp = vcpu.lp.or(Some(lp));
            }
        }
        // The notes were wrong: try the next processor.
        Leaf::VP_FLUSH if status.is(TdxStatus::VCPU_NOT_ASSOCIATED) => {
            let lps = world.lps.max(1);
            if let Some((_, vcpu)) = world.vcpu(rcx)
                && vcpu.lp == Some(lp)
            {
                vcpu.lp = Some((lp + 1) % lps);
            }
        }
        Leaf::MNG_VPFLUSHDONE if status.is(TdxStatus::FLUSHVP_NOT_DONE) => {
            let vcpus = world.td(rcx).map(|td| td.vcpus.iter_mut());
            for vcpu in vcpus.into_iter().flatten() {
                vcpu.lp = vcpu.lp.or(Some(lp));
            }
        }
        _ => {}
    }
    for tdr in [rcx, rdx & TDR_MASK] {
        if let Some(td) = world.td(tdr) {
            td.refusals += 1;
            td.doomed |= td.refusals > 60 || status.is(TdxStatus::TD_FATAL);
        }
    }
}

fn vcpu(world: &mut World, lp: u32, leaf: Leaf, before: &Regs) {
    let adds = leaf == Leaf::VP_ADDCX;
    let tdvpr = if adds { before.rdx } else { before.rcx };
    let Some((tdr, vcpu)) = world.vcpu(tdvpr) else {
        return;
    };
    match leaf {
        Leaf::VP_ADDCX => vcpu.pages += 1,
        Leaf::VP_FLUSH => vcpu.lp = None,
        _ => {
            vcpu.ready = true;
            vcpu.lp = Some(lp);
        }
    }
    if adds {
        world.give(before.rcx, tdr);
    }
}

fn memory(world: &mut World, leaf: Leaf, before: &Regs, after: &Regs) {
    let tdr = before.rdx & TDR_MASK;
    let (level, gpa) = ((before.rcx & 7) as u8, before.rcx & !7);
    let mapped = |pa, table| Mapped {
        pa,
        table,
        blocked: false,
    };
    let at = (level, gpa);
    let freed = after.rcx;
    match leaf {
        Leaf::MEM_SEPT_ADD => {
            let versioned = before.rax >> 16 & 0xff == 1;
            let (pages, left) = (four(before), four(after));
            for (page, left) in pages
                .into_iter()
                .zip(left)
                .take(if versioned { 4 } else { 1 })
            {
                if !versioned || left == NULL_PA && page != NULL_PA {
                    world.give(page & TDR_MASK, tdr);
                }
            }
            world.map(tdr, at, mapped(before.r8 & TDR_MASK, true));
        }
        Leaf::MEM_PAGE_ADD | Leaf::MEM_PAGE_AUG => {
            world.give(before.r8, tdr);
            world.map(tdr, at, mapped(before.r8, false));
        }
        Leaf::MEM_RANGE_BLOCK | Leaf::MEM_RANGE_UNBLOCK => {
            let blocked = leaf == Leaf::MEM_RANGE_BLOCK;
            let entry = world.td(tdr).and_then(|td| td.sept.get_mut(&at));
            if let Some(entry) = entry {
                entry.blocked = blocked;
            }
        }
        Leaf::MEM_PAGE_REMOVE => {
            world.take(freed);
            world.unmap(tdr, at);
        }
        Leaf::MEM_SEPT_REMOVE => {
            world.take(freed);
            l2_pages(before, after).for_each(|pa| world.take(pa));
            world.unmap(tdr, at);
        }
        Leaf::MEM_PAGE_RELOCATE => {
            world.take(freed);
            world.give(before.r8, tdr);
            world.map(tdr, at, mapped(before.r8, false));
        }
        Leaf::MEM_PAGE_DEMOTE => {
            world.give(before.r8, tdr);
            let l2_vms = world.td(tdr).map_or(0, |td| td.kind().l2_vms);
            let pages = [after.r9, after.r10, after.r11]
                .into_iter()
                .take(l2_vms.into());
            for page in pages.filter(|page| page >> 63 == 0) {
                world.give(page, tdr);
            }
            world.split(tdr, at, before.r8);
        }
        Leaf::MEM_PAGE_PROMOTE => {
            world.take(freed);
            l2_pages(before, after).for_each(|pa| world.take(pa));
            world.join(tdr, at);
        }
        _ => {}
    }
}

/// Pages of L2 tables that version 1 says it has freed.
fn l2_pages(before: &Regs, after: &Regs) -> impl Iterator<Item = u64> {
    let versioned = before.rax >> 16 & 0xff == 1;
    let pages = [after.r9, after.r10, after.r11].into_iter();
    pages.filter(move |pa| versioned && *pa != NULL_PA)
}

fn four(regs: &Regs) -> [u64; 4] {
    [regs.r8, regs.r9, regs.r10, regs.r11]
}

impl World {
    fn give(&mut self, pa: u64, tdr: u64) {
        self.given.insert(pa, Given { tdr });
    }

    fn take(&mut self, pa: u64) {
        self.given.remove(&pa);
        for td in &mut self.tds {
            td.vcpus.retain(|vcpu| vcpu.tdvpr != pa);
        }
        if self.tds.iter().any(|td| td.tdr == pa) {
            self.forget(pa);
        }
    }

    fn map(&mut self, tdr: u64, at: (u8, u64), mapped: Mapped) {
        if let Some(td) = self.td(tdr) {
            td.sept.insert(at, mapped);
        }
    }

    fn unmap(&mut self, tdr: u64, at: (u8, u64)) {
        if let Some(td) = self.td(tdr) {
            td.sept.remove(&at);
        }
    }

    /// The parts that are noted are the first two: enough to play with.
    fn split(&mut self, tdr: u64, (level, gpa): (u8, u64), table: u64) {
        let Some(td) = self.td(tdr) else { return };
        let whole = td.sept.get(&(level, gpa)).map_or(0, |mapped| mapped.pa);
        let mapped = |pa, table| Mapped {
            pa,
            table,
            blocked: false,
        };
        td.sept.insert((level, gpa), mapped(table, true));
        let size = 1 << (12 + 9 * u32::from(level.max(1) - 1));
        for i in 0..2 {
            let part = (level.max(1) - 1, gpa + i * size);
            td.sept.insert(part, mapped(whole + i * size, false));
        }
    }

    fn join(&mut self, tdr: u64, (level, gpa): (u8, u64)) {
        let Some(td) = self.td(tdr) else { return };
        let part = td.sept.get(&(level.max(1) - 1, gpa)).copied();
        let end = gpa + (1u64 << (12 + 9 * u32::from(level)));
        td.sept
            .retain(|(l, g), _| *l >= level || !(gpa..end).contains(g));
        if let Some(first) = part {
            td.sept.insert((level, gpa), first);
        }
    }

    /// PAGE.RDMD tells what a page is, which puts wrong notes right.
    fn found(&mut self, pa: u64, after: &Regs) {
        let page_type = PageType(after.rcx as u8);
        let known = self.tds.iter().any(|td| td.tdr == pa);
        match page_type {
            PageType::NDA => self.take(pa),
            PageType::TDR if !known => {
                let mut td = Td::new(pa, 0);
                (td.doomed, td.stage) = (true, Stage::Runnable);
                self.tds.push(td);
                self.give(pa, pa);
            }
            PageType::TDR => {}
            _ if after.r8 == 0 => self.give(pa, after.rdx),
            _ => {}
        }
    }
}
