//! What guests do.

use seamlock_tdx_abi::guest_leaf::GuestLeaf;
use seamlock_tdx_abi::regs::Regs;
use seamlock_tdx_module::guest::{EXITS, EptViolation, GuestAfter, VmExitReport};
use seamlock_tdx_module::tdg::GUEST_LEAVES;
use seamlock_tdx_module::{Module, TdExit, TdExitKind};

use super::dice::Dice;
use super::operands::{What, draw};
use super::world::World;

/// Something that a guest does, or that happens to it.
#[derive(Clone, Copy, Debug)]
pub enum GuestAct {
    /// TDCALL.
    Tdcall(Regs),
    /// An access that the EPT does not allow.
    Violation(EptViolation),
    /// Another VM exit.
    VmExit(VmExitReport),
    /// A TD exit that the processor decides about.
    Exit(TdExit),
    /// It runs on, to another instruction.
    Move(u64),
    /// An instruction that the module looks at: CPUID, RDMSR, WRMSR, XSETBV, a write to CR0 or CR4, or
    /// an NMI that waits; with its operands.
    Instruction(u8, u32, u64),
}

/// RCX, RDX, R8 of the guest leaves.
const OPERANDS: &[(GuestLeaf, [What; 3])] = &[
    (GuestLeaf::VP_VMCALL, [What::Small, What::Free, What::Free]),
    (
        GuestLeaf::MR_RTMR_EXTEND,
        [What::Gpa(64), What::Small, What::Free],
    ),
    (
        GuestLeaf::MR_REPORT,
        [What::Gpa(1024), What::Gpa(64), What::Small],
    ),
    (
        GuestLeaf::VP_CPUIDVE_SET,
        [What::Small, What::Free, What::Free],
    ),
    (
        GuestLeaf::MEM_PAGE_ACCEPT,
        [What::Mapping, What::Free, What::Free],
    ),
    (GuestLeaf::VM_RD, [What::Small, What::TdField, What::Free]),
    (GuestLeaf::VM_WR, [What::Small, What::TdField, What::Small]),
    (GuestLeaf::VP_RD, [What::Small, What::VpField, What::Free]),
    (GuestLeaf::VP_WR, [What::Small, What::VpField, What::Small]),
    (GuestLeaf::SYS_RD, [What::Small, What::SysField, What::Free]),
    (
        GuestLeaf::MEM_PAGE_ATTR_RD,
        [What::Mapping, What::Free, What::Free],
    ),
    (
        GuestLeaf::MEM_PAGE_ATTR_WR,
        [What::Mapping, What::Free, What::Free],
    ),
];

/// The guest writes its report to shared memory, which the host may have put over a TD's pages.
fn keeps_integrity(act: GuestAct) -> GuestAct {
    match act {
        GuestAct::Tdcall(regs) if regs.rax as u16 == GuestLeaf::MR_REPORT.0 => {
            let private = (1 << 47) - 1;
            GuestAct::Tdcall(Regs {
                rcx: regs.rcx & private,
                ..regs
            })
        }
        act => act,
    }
}

/// What the guest of the TD does.
pub fn act(world: &World, tdr: u64, dice: &mut Dice) -> GuestAct {
    keeps_integrity(any_act(world, tdr, dice))
}

fn any_act(world: &World, tdr: u64, dice: &mut Dice) -> GuestAct {
    let doomed = world.tds.iter().any(|td| td.tdr == tdr && td.doomed);
    let choice = if doomed { 13 } else { dice.below(16) };
    match choice {
        0..8 => GuestAct::Tdcall(tdcall(world, dice)),
        8 => GuestAct::Tdcall(Regs::from_array([0; 15].map(|_: u64| dice.wild()))),
        9..11 => GuestAct::Violation(EptViolation {
            gpa: draw(world, What::Gpa(8), dice),
            gla: dice.wild(),
            qual: dice.wild(),
            convertible: dice.one_in(4),
            instruction_length: 4,
            instruction_info: 0,
        }),
        11 => GuestAct::VmExit(vm_exit(world, dice)),
        12..14 => GuestAct::Exit(td_exit(world, dice)),
        14 => {
            let index = match dice.below(4) {
                0 => dice.wild() as u32,
                1 => 0xc000_0080 + dice.below(8) as u32,
                _ => dice.below(0x800) as u32,
            };
            GuestAct::Instruction(dice.below(7) as u8, index, dice.wild())
        }
        _ => GuestAct::Move(dice.wild()),
    }
}

fn tdcall(world: &World, dice: &mut Dice) -> Regs {
    let leaf = dice.of(GUEST_LEAVES).copied().unwrap_or(GuestLeaf::VP_INFO);
    let found = OPERANDS.iter().find(|(l, _)| *l == leaf);
    let operands = found.map_or([What::Free; 3], |(_, operands)| *operands);
    let mut regs = operands.map(|what| draw(world, what, dice));
    if leaf == GuestLeaf::VP_VMCALL {
        regs[0] = dice.word() & 0xffff_ffcc;
    }
    if leaf == GuestLeaf::MEM_PAGE_ATTR_WR {
        // Rights of the L2 VMs 1 and 2.
        let rights = dice.word() & 0x0000_800f_800f_0000;
        (regs[1], regs[2]) = (rights, rights | 0x0000_000f_000f_0000 & dice.word());
    }
    if dice.one_in(5) {
        regs[dice.below(3)] = dice.wild();
    }
    Regs {
        rax: u64::from(leaf.0) | (dice.below(8) as u64 / 7) << 16,
        rcx: regs[0],
        rdx: regs[1],
        r8: regs[2],
        ..Regs::default()
    }
}

fn vm_exit(world: &World, dice: &mut Dice) -> VmExitReport {
    let listed = dice.of(EXITS).map_or(0, |(reason, ..)| *reason);
    VmExitReport {
        reason: if dice.one_in(8) {
            dice.wild() as u32
        } else {
            listed
        },
        qual: dice.wild(),
        gpa: draw(world, What::Gpa(8), dice),
        interruption: dice.wild() as u32,
        instruction_length: dice.below(16) as u32,
        instruction_info: dice.wild() as u32,
    }
}

fn td_exit(world: &World, dice: &mut Dice) -> TdExit {
    let kind = match dice.below(60) {
        0 => TdExitKind::NonRecoverableTd,
        1 | 2 => TdExitKind::NonRecoverableVcpu,
        _ => TdExitKind::Async,
    };
    let reason = if dice.one_in(3) { 48 } else { 1 };
    TdExit {
        reason,
        qual: dice.wild(),
        gpa: draw(world, What::Gpa(8), dice),
        kind,
    }
}

/// An external interrupt.
pub const INTERRUPT: TdExit = TdExit {
    reason: 1,
    qual: 0,
    gpa: 0,
    kind: TdExitKind::Async,
};

fn instruction(m: &Module, lp: u32, which: u8, index: u32, value: u64) {
    match which {
        0 => drop(m.guest_cpuid(lp, index, value as u32)),
        1 => drop(m.guest_rdmsr(lp, index)),
        2 => drop(m.guest_wrmsr(lp, index, value)),
        3 => drop(m.guest_xsetbv(lp, index & 1, value)),
        4 => drop(m.guest_write_cr0(lp, value, index as u8)),
        5 => drop(m.guest_write_cr4(lp, value, index as u8)),
        _ => drop(m.take_nmi(lp)),
    }
}

/// Does it on `lp`. True when the TD has exited.
pub fn perform(m: &Module, lp: u32, act: GuestAct) -> bool {
    let after = match act {
        GuestAct::Tdcall(mut regs) => m.tdcall(lp, &mut regs),
        GuestAct::Violation(violation) => m.ept_violation(lp, &violation),
        GuestAct::VmExit(exit) => m.vm_exit(lp, &exit),
        GuestAct::Exit(exit) => GuestAfter::TdExit(m.td_exit(lp, exit)),
        GuestAct::Move(rip) => {
            if let Some(mut state) = m.guest_state(lp) {
                state.cpu.rip = rip;
                m.store_guest_state(lp, &state);
            }
            GuestAfter::Continue
        }
        GuestAct::Instruction(which, index, value) => {
            instruction(m, lp, which, index, value);
            GuestAfter::Continue
        }
    };
    matches!(after, GuestAfter::TdExit(_))
}
