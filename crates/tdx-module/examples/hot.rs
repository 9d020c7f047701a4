//! What the leaves that build a TD cost, next to the hash, the copy and the locks that they need anyway.
//!
//! `cargo run --release -p seamlock-tdx-module --example hot`
//!
//! Leaf and bare work take turns, a 2 MiB region each, so that a slower moment of the machine meets
//! both; of all turns the fastest tenth counts.

#![allow(clippy::disallowed_methods, clippy::unwrap_used)] // it measures time

#[path = "../tests/bed/mod.rs"]
mod bed;

use std::collections::BTreeMap;
use std::hint::black_box;
use std::sync::atomic::AtomicU64;
use std::time::Instant;

use bed::{Ask, Bed, GIB, MIB2, PAGE, Stage};
use openssl::sha::Sha384;
use seamlock_sync::{Class, EntryLock, Mode, Sharex, SharexHp};
use seamlock_tdx_abi::addr::Hpa;
use seamlock_tdx_abi::leaf::Leaf;
use seamlock_tdx_abi::regs::Regs;
use seamlock_tdx_abi::status::TdxStatus;

/// Regions of 512 pages in one TD, and TDs.
const REGIONS: u64 = 16;
const TDS: usize = 12;
/// Where the host keeps what it adds, each region once for the leaf and once for the bare copy.
const IMAGE: u64 = 2 * GIB;
/// Where the bare copy goes to.
const BARE: u64 = 12 * GIB;

static WORD: Class = Class::new("word");

/// Nanoseconds for one, of every turn.
type Turns = BTreeMap<&'static str, Vec<f64>>;

fn main() {
    let mut turns = Turns::new();
    for _ in 0..TDS {
        launch(&mut turns);
        words(&mut turns);
    }
    let ns: BTreeMap<_, _> = turns
        .iter()
        .map(|(name, turns)| (*name, fast(turns)))
        .collect();
    for (name, ns) in &ns {
        println!("{name:<42} {ns:>8.1} ns");
    }
    let locks = |shared: f64, alone: f64| {
        shared * ns["word shared, there and back"] + alone * ns["word alone, there and back"]
    };
    let over = |leaf: &str, bare: &str, locks: f64| {
        let plain = (ns[leaf] / ns[bare] - 1.0) * 100.0;
        let with = (ns[leaf] / (ns[bare] + locks) - 1.0) * 100.0;
        println!("{leaf:<24} {plain:+6.1} % over {bare}, {with:+6.1} % with its locks");
    };
    over(
        "PAGE.ADD, new pages",
        "hash and copy to new pages",
        locks(4.0, 2.0),
    );
    over(
        "PAGE.ADD, used pages",
        "hash and copy to used pages",
        locks(4.0, 2.0),
    );
    over("MR.EXTEND", "hash of block and chunk", locks(2.0, 1.0));
}

fn fast(turns: &[f64]) -> f64 {
    let mut sorted = turns.to_vec();
    sorted.sort_by(f64::total_cmp);
    let tenth = sorted.len().div_ceil(10);
    sorted[..tenth].iter().sum::<f64>() / tenth as f64
}

fn time(turns: &mut Turns, name: &'static str, n: u64, mut each: impl FnMut(u64)) {
    let start = Instant::now();
    for i in 0..n {
        each(i);
    }
    let ns = start.elapsed().as_nanos() as f64 / n as f64;
    turns.entry(name).or_default().push(ns);
}

fn call(bed: &Bed, leaf: Leaf, [rcx, rdx, r8, r9]: [u64; 4]) {
    let mut regs = Regs {
        rcx,
        rdx,
        r8,
        r9,
        ..Regs::call(leaf)
    };
    let _ = bed.m.seamcall(0, &mut regs);
    assert_eq!(regs.status(), TdxStatus::SUCCESS, "{leaf}");
}

/// Builds a TD of pages that nobody used before, and one of pages that the host used.
fn launch(turns: &mut Turns) {
    let bed = Bed::of(16, Stage::Ready);
    for page in 0..2 * REGIONS * 512 {
        bed.write(IMAGE + page * PAGE, &[page as u8; PAGE as usize]);
    }
    let new = take(&bed);
    build(
        &bed,
        turns,
        new,
        ["PAGE.ADD, new pages", "hash and copy to new pages"],
    );
    let used = take(&bed);
    for i in 0..REGIONS * 512 {
        bed.write(used + i * PAGE, &[1]);
    }
    build(
        &bed,
        turns,
        used,
        ["PAGE.ADD, used pages", "hash and copy to used pages"],
    );
}

/// Pages for a TD, side by side.
fn take(bed: &Bed) -> u64 {
    let first = bed.page_2m();
    (1..REGIONS).for_each(|_| {
        bed.page_2m();
    });
    first
}

fn build(bed: &Bed, turns: &mut Turns, pages: u64, [add, copy]: [&'static str; 2]) {
    let memory = bed.m.memory();
    let tdr = bed.td(Ask::PLAIN);
    for at in [3, 2] {
        bed.ok(Leaf::MEM_SEPT_ADD, &[at, tdr, bed.page()]);
    }
    let tables = bed.page_2m();
    time(turns, "SEPT.ADD", REGIONS, |i| {
        let operands = [(i * MIB2) | 1, tdr, tables + i * PAGE, 0];
        call(bed, Leaf::MEM_SEPT_ADD, operands);
    });
    let mut sha = Sha384::new();
    let mut blocks = [1u8; 384];
    for region in 0..REGIONS {
        let (gpa, image) = (region * MIB2, IMAGE + 2 * region * MIB2);
        time(turns, add, 512, |i| {
            let at = gpa + i * PAGE;
            call(
                bed,
                Leaf::MEM_PAGE_ADD,
                [at, tdr, pages + at, image + i * PAGE],
            );
        });
        time(turns, copy, 512, |i| {
            sha.update(black_box(&blocks[..128]));
            let source = memory.frame(Hpa(image + MIB2 + i * PAGE)).unwrap();
            memory.put_page(Hpa(BARE + gpa + i * PAGE), source);
        });
        time(turns, "MR.EXTEND", 512 * 16, |i| {
            call(bed, Leaf::MR_EXTEND, [gpa + i * 256, tdr, 0, 0]);
        });
        time(turns, "hash of block and chunk", 512 * 16, |i| {
            let frame = memory.frame(Hpa(pages + gpa + i * 256)).unwrap();
            frame.read_words(i as usize % 16 * 256, &mut blocks[128..]);
            sha.update(black_box(&blocks));
        });
        time(
            turns,
            "hash of block and chunk, both in place",
            512 * 16,
            |_| {
                sha.update(black_box(&blocks));
            },
        );
    }
    black_box(sha.finish());
}

/// The lock words by themselves.
fn words(turns: &mut Turns) {
    let (hp, tree, entry) = (SharexHp::new(), Sharex::new(), AtomicU64::new(0));
    let (n, name) = (1 << 14, WORD.only());
    time(turns, "word shared, there and back", n, |_| {
        black_box(hp.try_acquire(Mode::Shared, name));
        hp.release(Mode::Shared, name);
    });
    time(turns, "word alone, there and back", n, |_| {
        black_box(hp.try_acquire(Mode::Exclusive, name));
        hp.release(Mode::Exclusive, name);
    });
    time(turns, "tree shared, there and back", n, |_| {
        black_box(tree.try_acquire(Mode::Shared, name));
        tree.release(Mode::Shared, name);
    });
    time(turns, "entry, there and back", n, |_| {
        black_box(EntryLock::try_host(&entry, name));
        EntryLock::release(&entry, name);
    });
}
