//! One step of a script: the registers it makes, and what the guest sees of it.

use seamlock_tdx_abi::addr::Gpa;
use seamlock_tdx_abi::guest_leaf::GuestLeaf;
use seamlock_tdx_abi::kvm::{
    TDVMCALL_GET_QUOTE, TDVMCALL_GET_TD_VM_CALL_INFO, TDVMCALL_MAP_GPA,
    TDVMCALL_REPORT_FATAL_ERROR, TDVMCALL_SETUP_EVENT_NOTIFY_INTERRUPT,
};
use seamlock_tdx_abi::regs::Regs;
use seamlock_tdx_module::guest::{EptViolation, GuestAfter, VmExitReport};
use seamlock_tdx_module::{TdExit, TdExitKind};

use crate::guest::{EXIT_REASON_EXTERNAL_INTERRUPT, Entered};

/// R10 to R15, which every call passes.
const PASS_R10_TO_R15: u64 = 0xfc00;
/// RDX, RBX, RSI, RDI, R8, R9, which a fatal error passes too.
const PASS_TEXT: u64 = 0x03cc;
/// Numbers of the calls that are named after a VMX exit reason.
mod call {
    pub(super) const CPUID: u64 = 10;
    pub(super) const HLT: u64 = 12;
    pub(super) const IO: u64 = 30;
    pub(super) const RDMSR: u64 = 31;
    pub(super) const WRMSR: u64 = 32;
    pub(super) const MMIO: u64 = 48;
}
const TRIPLE_FAULT: u32 = 2;
/// Bytes of text that a fatal error carries.
const TEXT_BYTES: usize = 64;

/// How a guest touches memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Memory {
    /// Reads.
    Read,
    /// Writes.
    Write,
    /// Fetches an instruction.
    Fetch,
}

/// What a step does.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // the operands are named as in the language
pub enum Verb {
    /// TDG.VP.VMCALL, by its registers R10 to R15.
    Vmcall([u64; 6]),
    In {
        port: u64,
        size: u64,
    },
    Out {
        port: u64,
        size: u64,
        value: u64,
    },
    MmioRead {
        gpa: u64,
        size: u64,
    },
    MmioWrite {
        gpa: u64,
        size: u64,
        value: u64,
    },
    MapGpa {
        gpa: u64,
        bytes: u64,
        private: bool,
    },
    GetQuote {
        gpa: u64,
        bytes: u64,
    },
    GetTdVmCallInfo {
        leaf: u64,
    },
    SetupEventNotifyInterrupt {
        vector: u64,
    },
    ReportFatalError {
        code: u64,
        message: String,
    },
    Cpuid {
        leaf: u64,
        subleaf: u64,
    },
    Rdmsr {
        msr: u64,
    },
    Wrmsr {
        msr: u64,
        value: u64,
    },
    Halt,
    /// A triple fault.
    Shutdown,
    /// An access that the EPT refuses.
    Touch {
        gpa: u64,
        how: Memory,
        shared: bool,
    },
    /// TDG.MEM.PAGE.ACCEPT.
    Accept {
        gpa: u64,
        level: u64,
    },
    /// A store of 48 bytes to private memory, and TDG.MR.RTMR.EXTEND with them.
    Extend {
        index: u64,
        gpa: u64,
        data: [u8; 48],
    },
    /// A full reset by a PC's reset control register, and no step until the TD is gone.
    Reset,
    /// Any exit of the processor.
    Exit {
        reason: u32,
        qual: u64,
        interruption: u32,
    },
    /// TDH.VP.ENTER returns RAX, RCX, RDX, R8 and R9, whether the module would ever say so or not.
    Return([u64; 5]),
}

/// One line of a script.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// Its number, from 1.
    pub line: usize,
    /// The vCPU that does it.
    pub vcpu: u32,
    /// As it was written.
    pub text: String,
    /// What it does.
    pub verb: Verb,
}

impl Step {
    /// A step outside of any script.
    pub fn alone(vcpu: u32, verb: Verb) -> Step {
        Step {
            line: 0,
            vcpu,
            text: String::new(),
            verb,
        }
    }

    /// Does the step on the vCPU that was entered: the registers of the TD exit that came of it, or
    /// None when the guest just goes on.
    pub fn run(&self, entered: &Entered) -> Option<Regs> {
        match take(self, entered) {
            Taken::Exit(regs) => Some(regs),
            Taken::Settled(_) => None,
        }
    }

    /// Whether a TD exit is a fault of the step's instruction, which is executed again afterwards.
    pub(super) fn is_executed_again(&self) -> bool {
        matches!(self.verb, Verb::Accept { .. } | Verb::Extend { .. })
    }

    /// Whether nothing comes after it in this TD: a VMM lets a vCPU run on until the reset is carried out.
    pub(super) fn is_last_of_td(&self) -> bool {
        self.verb == Verb::Reset
    }
}

/// I/O port of a PC's reset control register.
const RESET_CONTROL: u64 = 0xcf9;
/// What makes it reset everything.
const FULL_RESET: u64 = 0xe;

/// What came of a step within the guest's turn.
pub(super) enum Taken {
    /// The TD exited.
    Exit(Regs),
    /// It is over, and the guest saw this.
    Settled(String),
}

/// Where the guest finds the shared bit of its addresses.
fn shared(entered: &Entered, gpa: u64) -> u64 {
    gpa | entered.shared_bit
}

fn vmcall(number: u64, operands: [u64; 4]) -> Regs {
    let [r12, r13, r14, r15] = operands;
    Regs {
        rcx: PASS_R10_TO_R15,
        r11: number,
        r12,
        r13,
        r14,
        r15,
        ..Regs::default()
    }
}

/// ReportFatalError: the text is in R14, R15, RBX, RDI, RSI, R8, R9, RDX.
fn fatal(code: u64, message: &str) -> Regs {
    let mut text = [0; TEXT_BYTES];
    let len = message.len().min(TEXT_BYTES);
    text[..len].copy_from_slice(&message.as_bytes()[..len]);
    let (words, _) = text.as_chunks::<8>();
    let [r14, r15, rbx, rdi, rsi, r8, r9, rdx] =
        std::array::from_fn(|i| words.get(i).map_or(0, |word| u64::from_le_bytes(*word)));
    Regs {
        rcx: PASS_R10_TO_R15 | PASS_TEXT,
        r11: TDVMCALL_REPORT_FATAL_ERROR,
        r12: code,
        r14,
        r15,
        rbx,
        rdi,
        rsi,
        r8,
        r9,
        rdx,
        ..Regs::default()
    }
}

/// The registers of a step that is a TDG.VP.VMCALL.
fn call(verb: &Verb, entered: &Entered) -> Option<Regs> {
    let private = |gpa: u64, private: bool| if private { gpa } else { shared(entered, gpa) };
    Some(match *verb {
        Verb::Vmcall([r10, r11, r12, r13, r14, r15]) => Regs {
            r10,
            ..vmcall(r11, [r12, r13, r14, r15])
        },
        Verb::In { port, size } => vmcall(call::IO, [size, 0, port, 0]),
        Verb::Out { port, size, value } => vmcall(call::IO, [size, 1, port, value]),
        Verb::Reset => vmcall(call::IO, [1, 1, RESET_CONTROL, FULL_RESET]),
        Verb::MmioRead { gpa, size } => vmcall(call::MMIO, [size, 0, shared(entered, gpa), 0]),
        Verb::MmioWrite { gpa, size, value } => {
            vmcall(call::MMIO, [size, 1, shared(entered, gpa), value])
        }
        Verb::MapGpa {
            gpa,
            bytes,
            private: p,
        } => vmcall(TDVMCALL_MAP_GPA, [private(gpa, p), bytes, 0, 0]),
        Verb::GetQuote { gpa, bytes } => {
            vmcall(TDVMCALL_GET_QUOTE, [shared(entered, gpa), bytes, 0, 0])
        }
        Verb::GetTdVmCallInfo { leaf } => vmcall(TDVMCALL_GET_TD_VM_CALL_INFO, [leaf, 0, 0, 0]),
        Verb::SetupEventNotifyInterrupt { vector } => {
            vmcall(TDVMCALL_SETUP_EVENT_NOTIFY_INTERRUPT, [vector, 0, 0, 0])
        }
        Verb::ReportFatalError { code, ref message } => fatal(code, message),
        Verb::Cpuid { leaf, subleaf } => vmcall(call::CPUID, [leaf, subleaf, 0, 0]),
        Verb::Rdmsr { msr } => vmcall(call::RDMSR, [msr, 0, 0, 0]),
        Verb::Wrmsr { msr, value } => vmcall(call::WRMSR, [msr, value, 0, 0]),
        Verb::Halt => vmcall(call::HLT, [0; 4]),
        _ => return None,
    })
}

/// Does a step.
pub(super) fn take(step: &Step, entered: &Entered) -> Taken {
    let module = entered.module;
    let lp = entered.lp;
    // The guest has come on since the last step, or the module would suspect it of zero-stepping.
    if let Some(mut state) = module.guest_state(lp) {
        state.cpu.rip = state.cpu.rip.wrapping_add(4);
        module.store_guest_state(lp, &state);
    }
    let after = if let Some(mut regs) = call(&step.verb, entered) {
        module.tdcall(lp, &mut regs)
    } else {
        match step.verb {
            Verb::Accept { gpa, level } => return accept(entered, gpa, level),
            Verb::Extend { index, gpa, data } => return extend(entered, index, gpa, &data),
            Verb::Touch {
                gpa,
                how,
                shared: is_shared,
            } => {
                let gpa = if is_shared { shared(entered, gpa) } else { gpa };
                module.ept_violation(lp, &violation(gpa, how))
            }
            Verb::Return(registers) => return Taken::Exit(returned(entered, registers)),
            Verb::Exit {
                reason,
                qual,
                interruption,
            } => module.vm_exit(
                lp,
                &VmExitReport {
                    reason,
                    qual,
                    interruption,
                    ..VmExitReport::default()
                },
            ),
            _ => {
                let reason = TRIPLE_FAULT;
                module.vm_exit(
                    lp,
                    &VmExitReport {
                        reason,
                        ..VmExitReport::default()
                    },
                )
            }
        }
    };
    taken(after)
}

fn taken(after: GuestAfter) -> Taken {
    match after {
        GuestAfter::TdExit(regs) => Taken::Exit(regs),
        GuestAfter::Continue => Taken::Settled("done".to_owned()),
        GuestAfter::Again => Taken::Settled("interrupted".to_owned()),
        GuestAfter::Inject(exception) => Taken::Settled(format!("{exception:?}")),
    }
}

/// The TD exits as for an interrupt, and KVM is told something else.
fn returned(entered: &Entered, [rax, rcx, rdx, r8, r9]: [u64; 5]) -> Regs {
    let exit = TdExit {
        reason: EXIT_REASON_EXTERNAL_INTERRUPT,
        qual: 0,
        gpa: 0,
        kind: TdExitKind::Async,
    };
    Regs {
        rax,
        rcx,
        rdx,
        r8,
        r9,
        ..entered.module.td_exit(entered.lp, exit)
    }
}

fn violation(gpa: u64, how: Memory) -> EptViolation {
    let qual = match how {
        Memory::Read => 1,
        Memory::Write => 2,
        Memory::Fetch => 4,
    };
    EptViolation {
        gpa,
        qual,
        ..EptViolation::default()
    }
}

fn accept(entered: &Entered, gpa: u64, level: u64) -> Taken {
    tdcall(entered, GuestLeaf::MEM_PAGE_ACCEPT, gpa | level, 0)
}

fn extend(entered: &Entered, index: u64, gpa: u64, data: &[u8]) -> Taken {
    if !entered.module.guest_store(entered.lp, Gpa(gpa), data) {
        let violation = violation(gpa, Memory::Write);
        return taken(entered.module.ept_violation(entered.lp, &violation));
    }
    tdcall(entered, GuestLeaf::MR_RTMR_EXTEND, gpa, index)
}

/// A TDCALL that the module answers by itself, unless it faults.
fn tdcall(entered: &Entered, leaf: GuestLeaf, rcx: u64, rdx: u64) -> Taken {
    let mut regs = Regs {
        rax: leaf.0.into(),
        rcx,
        rdx,
        ..Regs::default()
    };
    match entered.module.tdcall(entered.lp, &mut regs) {
        GuestAfter::Continue => Taken::Settled(regs.status().to_string()),
        after => taken(after),
    }
}

/// What the guest sees of a step when it goes on after the exit.
pub(super) fn answer(step: &Step, entered: &Entered) -> Option<String> {
    if call(&step.verb, entered).is_none() {
        return Some("entered again".to_owned());
    }
    let state = entered.module.guest_state(entered.lp)?;
    let [r10, r11, r12, r13, r14, r15] = std::array::from_fn(|i| state.gprs[10 + i]);
    if r10 != 0 {
        let next = matches!(step.verb, Verb::MapGpa { .. }).then(|| format!(", next {r11:#x}"));
        return Some(format!("status {r10:#x}{}", next.unwrap_or_default()));
    }
    Some(match step.verb {
        Verb::In { .. } | Verb::MmioRead { .. } | Verb::Rdmsr { .. } => format!("ok, {r11:#x}"),
        Verb::Cpuid { .. } => format!("ok, {r12:#x} {r13:#x} {r14:#x} {r15:#x}"),
        Verb::GetTdVmCallInfo { .. } => format!("ok, {r11:#x} {r12:#x} {r13:#x} {r14:#x}"),
        Verb::Vmcall(_) => format!("ok, {r11:#x} {r12:#x} {r13:#x} {r14:#x} {r15:#x}"),
        _ => "ok".to_owned(),
    })
}
