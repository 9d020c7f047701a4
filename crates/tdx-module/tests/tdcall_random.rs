//! Random guests against a random host: nothing panics, every lock word is free afterwards, and
//! every page is in its place.

mod a_td;

use std::sync::atomic::Ordering::SeqCst;

use a_td::{ABSENT, ABSENT_2M, MAPPED, PENDING, PENDING_2M, SHARED, Td, params};
use seamlock_tdx_abi::guest_leaf::GuestLeaf;
use seamlock_tdx_abi::leaf::Leaf;
use seamlock_tdx_abi::regs::Regs;
use seamlock_tdx_abi::td_params::TdParams;
use seamlock_tdx_module::guest::{EptViolation, GuestAfter, VmExitReport};
use seamlock_tdx_module::{After, TdExit, TdExitKind};

const STEPS: u32 = 400;

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    /// An operand that some leaf may like.
    fn operand(&mut self) -> u64 {
        let gpas = [MAPPED, PENDING, ABSENT, PENDING_2M, ABSENT_2M, SHARED];
        let gpa = gpas[self.below(6) as usize].0;
        match self.below(8) {
            0 => self.next(),
            1 => u64::MAX,
            2 => self.below(5),
            3 => gpa | self.below(3),
            4 => gpa + 0x400 * self.below(8),
            5 => 1 << self.below(64),
            6 => self.below(4) << 16 | self.below(0x10000),
            _ => gpa,
        }
    }

    fn regs(&mut self) -> Regs {
        let mut values = [0; 15];
        for value in &mut values {
            if self.one_in(2) {
                *value = self.operand();
            }
        }
        Regs::from_array(values)
    }
}

/// A guest on LP 0 and a host on LP 1, until vCPU or TD are no more.
fn life(seed: u64) -> (u32, u32) {
    let mut random = Random(seed);
    let l2_vms = u8::from(seed.is_multiple_of(3));
    let td = Td::with(&TdParams {
        num_l2_vms: l2_vms,
        ..params()
    });
    let (mut calls, mut exits) = (0, 0);
    let mut running = false;
    for step in 0..STEPS {
        td.machine.interrupt.store(random.one_in(4), SeqCst);
        td.machine.tsc.fetch_add(random.below(1 << 30), SeqCst);
        host_step(&td, &mut random);
        if !running {
            let host = random.regs();
            let flags = if random.one_in(8) { host.rcx } else { 0 };
            let entered = td.try_enter(Regs { rcx: flags, ..host });
            running = entered.0 == After::Guest;
            continue;
        }
        if let Some(state) = td.m.guest_state(0) {
            assert!(td.m.store_guest_state(0, &state));
        }
        calls += 1;
        if guest_step(&td, &mut random) {
            exits += 1;
            running = false;
        }
        if step % 16 == 0 {
            td.audit();
        }
    }
    if running {
        let _ = td.m.td_exit(0, INTERRUPT);
    }
    assert_eq!(td.m.audit().unwrap().guests, 0);
    (calls, exits)
}

const INTERRUPT: TdExit = TdExit {
    reason: 1,
    qual: 0,
    gpa: 0,
    kind: TdExitKind::Async,
};

/// One thing that the guest does. True when the TD exits.
fn guest_step(td: &Td, random: &mut Random) -> bool {
    let after = match random.below(10) {
        0 => {
            let violation = EptViolation {
                gpa: random.operand(),
                qual: random.below(1 << 14),
                convertible: random.one_in(3),
                ..EptViolation::default()
            };
            td.m.ept_violation(0, &violation)
        }
        1 => {
            // Reasons that end the vCPU are rare, or the guest would not live.
            let reasons = if random.one_in(20) { 70 } else { 2 };
            let reason = random.below(reasons) as u32 + 11;
            let gpa = random.operand();
            let report = VmExitReport {
                reason,
                gpa,
                ..VmExitReport::default()
            };
            td.m.vm_exit(0, &report)
        }
        2 => {
            let _ =
                td.m.guest_cpuid(0, random.operand() as u32, random.below(8) as u32);
            let _ = td.m.guest_rdmsr(0, random.operand() as u32);
            let _ =
                td.m.guest_wrmsr(0, random.operand() as u32, random.operand());
            let _ = td.m.guest_write_cr4(0, random.operand(), 0);
            GuestAfter::Continue
        }
        3 => {
            let _ = td.m.td_exit(0, INTERRUPT);
            return true;
        }
        _ => {
            let leaf = GuestLeaf(random.below(30) as u16);
            let mut regs = random.regs();
            regs.rax = if random.one_in(10) { regs.rax } else { 0 };
            td.tdcall(leaf, regs).0
        }
    };
    matches!(after, GuestAfter::TdExit(_))
}

/// One thing that the host does to the TD meanwhile.
fn host_step(td: &Td, random: &mut Random) {
    let leaves = [
        Leaf::MEM_RANGE_BLOCK,
        Leaf::MEM_RANGE_UNBLOCK,
        Leaf::MEM_TRACK,
        Leaf::MEM_PAGE_REMOVE,
        Leaf::MEM_PAGE_AUG,
        Leaf::MNG_RD,
        Leaf::VP_RD,
        Leaf::MEM_SEPT_RD,
    ];
    if !random.one_in(3) {
        return;
    }
    let leaf = leaves[random.below(8) as usize];
    let by_tdr = matches!(leaf, Leaf::MEM_TRACK | Leaf::MNG_RD);
    let rcx = match leaf {
        Leaf::VP_RD => td.tdvpr.0,
        _ if by_tdr => td.tdr.0,
        _ => random.operand(),
    };
    let regs = Regs {
        rcx,
        rdx: if by_tdr { random.next() } else { td.tdr.0 },
        r8: (1 << 30) + (32 << 20) + (random.below(64) << 12),
        ..Regs::call(leaf)
    };
    let _ = td.host_on(1, regs);
}

#[test]
fn random_guests_leave_every_lock_word_free_and_every_page_in_its_place() {
    let (mut calls, mut exits) = (0, 0);
    for seed in 0..200 {
        let (c, e) = life(seed);
        calls += c;
        exits += e;
    }
    assert!(calls > 10_000, "{calls}");
    assert!(exits > 1_000, "{exits}");
}
