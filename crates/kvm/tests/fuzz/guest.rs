//! A guest that does something else each time it is entered.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use seamlock_kvm::guest::script::{Script, parse};
use seamlock_kvm::guest::{Entered, Guest, Halting, Turn};

use super::dice::Dice;

/// What it does; `?` is any number. Left out is what KVM asserts that no guest does: fetching from
/// shared memory, and a lost VM window (`exit 75 1`), which makes the TD fatal, so that v7.3.4 can't
/// remove its pages any more when a memslot goes.
const LINES: &[&str] = &[
    "in ? 1",
    "out ? 4 ?",
    "in ? ?",
    "write ? 8 ?",
    "read ? ?",
    "map ? ? shared",
    "map 0x5000 4K private",
    "map ? 4M private",
    "quote ? ?",
    "info ?",
    "notify ?",
    "cpuid ? ?",
    "rdmsr ?",
    "wrmsr ? ?",
    "hypercall ? ? ? ? ?",
    "vmcall ? ? ? ? ?",
    "touch 0x5000 write",
    "touch ? read",
    "touch 0x7000 read shared",
    "accept 0x5000",
    "accept 0x6000",
    "accept 2M 2M",
    "halt",
    "exit 1",
    "exit 74",
    "exit 75",
    "fatal ? enough",
    "shutdown",
];

/// The guest of a machine.
#[derive(Debug)]
pub struct Wild {
    seed: AtomicU64,
}

impl Wild {
    pub fn new(seed: u64) -> Wild {
        Wild {
            seed: AtomicU64::new(seed),
        }
    }
}

impl Guest for Wild {
    fn run(&self, entered: &Entered) -> Turn {
        let mut dice = Dice(self.seed.fetch_add(0x1234_5678_9abc_def1, Relaxed));
        // A triple fault ends a vCPU: not too often.
        let lines = LINES.len() - usize::from(dice.below(4) != 0);
        let line = LINES[dice.below(lines)];
        let mut text = String::new();
        for piece in line.split_inclusive('?') {
            match piece.strip_suffix('?') {
                Some(head) => text += &format!("{head}{:#x}", dice.wild() & (u64::MAX >> 1)),
                None => text += piece,
            }
        }
        let line = format!("vcpu {}: {text}", entered.vcpu);
        let turn = match parse(&line) {
            Ok(steps) => Script::new(steps, Box::new(|_| {})).run(entered),
            Err(_) => Halting.run(entered),
        };
        // Who sleeps does nothing.
        let halted = turn.halted && dice.below(32) == 0;
        Turn { halted, ..turn }
    }
}
