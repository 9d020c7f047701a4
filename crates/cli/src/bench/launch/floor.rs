//! What a launch can't do without: the hash, the copies, and the lock words of its SEAMCALLs.
//!
//! Measured in the run that it is compared with. Counts come from the launch itself, the words of each
//! leaf from the module's table of locks.

use std::hint::black_box;

use anyhow::Context;
use openssl::sha::Sha384;
use seamlock_sync::{Mode, SharexHp};
use seamlock_tdx_abi::addr::Hpa;
use seamlock_tdx_abi::leaf::Leaf;
use seamlock_tdx_abi::measure::{BLOCK_BYTES, EXTEND_CHUNK_BYTES};
use seamlock_tdx_module::locks::{PAMT_1G, PAMT_2M, PAMT_4K};
use seamlock_tdx_module::memory::{Frame, Memory};
use serde::Serialize;

use crate::bench::seamcall::bare::{self, Words};
use crate::bench::seamcall::{Measure, Samples};

/// The SEAMCALLs of the part of a launch that is measured, but for a few.
const MEASURED: [Leaf; 2] = [Leaf::MEM_PAGE_ADD, Leaf::MR_EXTEND];
const PAGE: u64 = 4096;
const PIECES: &str = "hash by pieces, with copies";
const LOCKED: &str = "hash by pieces, with copies and lock words";

/// Memory to copy from and to, as much as the launch does.
pub struct Ground {
    memory: Memory,
    added: u64,
    measured: u64,
    /// The lock words of the TDR, and of a page to add, with those above them.
    tdr: [SharexHp; 3],
    page: [SharexHp; 3],
}

impl Ground {
    /// For a launch with these calls (leaf, made, failed): two times the pages it adds, all written.
    pub fn new(calls: &[(Leaf, u64, u64)]) -> anyhow::Result<Ground> {
        let added = made(calls, Leaf::MEM_PAGE_ADD);
        let memory = Memory::new(2 * added * PAGE);
        for i in 0..2 * added {
            memory.write(Hpa(i * PAGE), &[i as u8 | 1; PAGE as usize])?;
        }
        Ok(Ground {
            memory,
            added,
            measured: made(calls, Leaf::MR_EXTEND) * EXTEND_CHUNK_BYTES / PAGE,
            tdr: Default::default(),
            page: Default::default(),
        })
    }

    fn frame(&self, page: u64) -> anyhow::Result<&Frame> {
        let frame = self.memory.frame(Hpa(page * PAGE));
        frame.context("a page of the bench is missing")
    }

    /// Times the hash and the copies as they come, page by page, without and with the lock words around
    /// them, and each kind of lock word by itself, once more.
    pub fn round(&self, samples: &mut Samples) -> anyhow::Result<()> {
        bare::words(samples)?;
        samples.time(PIECES, 1, |_| self.all(|_, run| run()))?;
        samples.time(LOCKED, 1, |_| self.all(hold))
    }

    /// Every page once. `held` runs something that holds these words.
    fn all(&self, held: impl Fn(&[SharexHp; 3], &mut dyn FnMut())) -> anyhow::Result<()> {
        let mut hash = Sha384::new();
        let mut piece = [0; BLOCK_BYTES + EXTEND_CHUNK_BYTES as usize];
        for i in 0..self.added {
            let (page, source) = (self.frame(self.added + i)?, self.frame(i)?);
            held(&self.tdr, &mut || {
                held(&self.page, &mut || {
                    page.copy_from(source);
                    hash.update(black_box(&piece[..BLOCK_BYTES]));
                });
            });
            let chunks = if i < self.measured { PAGE } else { 0 };
            for chunk in (0..chunks).step_by(EXTEND_CHUNK_BYTES as usize) {
                held(&self.tdr, &mut || {
                    page.read_words(chunk as usize, &mut piece[BLOCK_BYTES..]);
                    hash.update(black_box(&piece));
                });
            }
        }
        black_box(hash.finish());
        Ok(())
    }
}

/// Runs something that holds an explicit page operand alone.
fn hold([page, m2, g1]: &[SharexHp; 3], run: &mut dyn FnMut()) {
    let words = [
        (g1, Mode::Shared, PAMT_1G.at(0)),
        (m2, Mode::Shared, PAMT_2M.at(0)),
        (page, Mode::Exclusive, PAMT_4K.at(0)),
    ];
    for (word, mode, name) in words {
        black_box(word.try_acquire(mode, name));
    }
    run();
    for (word, mode, name) in words.into_iter().rev() {
        word.release(mode, name);
    }
}

fn made(calls: &[(Leaf, u64, u64)], leaf: Leaf) -> u64 {
    let row = calls.iter().find(|(other, ..)| *other == leaf);
    row.map_or(0, |(_, made, _)| *made)
}

/// The least that a launch can take.
#[derive(Debug, Serialize)]
pub struct Floor {
    /// Nanoseconds of the hash as it is updated, by 128 and 384 bytes, and of the copies: each page when
    /// it is added, each chunk when it is measured.
    pub pieces_ns: u64,
    /// Nanoseconds more with the lock words of the measured part around each piece.
    pub words_ns: u64,
    /// Locked read-modify-writes in that.
    pub words: u64,
    /// Nanoseconds of the lock words in the rest of the launch, its teardown included.
    pub other_words_ns: u64,
    /// Locked read-modify-writes in that.
    pub other_words: u64,
    /// Hash, copies and lock words of the measured part.
    pub measured_part_ns: u64,
    /// The same of the whole launch.
    pub whole_launch_ns: u64,
}

impl Floor {
    /// For a launch with these calls.
    pub fn new(samples: &Samples, calls: &[(Leaf, u64, u64)]) -> Floor {
        let words = |measured: bool| {
            let part = calls.iter();
            let part = part.filter(|(leaf, ..)| MEASURED.contains(leaf) == measured);
            part.fold((0.0, 0), |(ns, rmw), (leaf, made, _)| {
                let one = Words::of(samples, Measure::Best, &[*leaf]);
                (ns + *made as f64 * one.ns, rmw + made * one.rmw)
            })
        };
        let best = |name| Measure::Best.of(samples, name).unwrap_or(f64::NAN) as u64;
        let (pieces, measured) = (best(PIECES), best(LOCKED));
        let ((_, rmw), (other_ns, other_rmw)) = (words(true), words(false));
        Floor {
            pieces_ns: pieces,
            words_ns: measured.saturating_sub(pieces),
            words: rmw,
            other_words_ns: other_ns as u64,
            other_words: other_rmw,
            measured_part_ns: measured,
            whole_launch_ns: measured + other_ns as u64,
        }
    }
}
