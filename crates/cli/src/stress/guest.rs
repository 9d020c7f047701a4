//! A guest that does something else each time it is entered.

use seamlock_kvm::guest::script::{Memory, Step, Verb};
use seamlock_kvm::guest::{Entered, Guest, Halting, Turn};
use seamlock_sync::Private;

use super::world::{GUEST_PAGES, gpa_of};

/// Steps that a guest does at the most before it is taken out.
const TURN: u32 = 8;

/// The processor of every vCPU.
#[derive(Debug)]
pub struct Restless {
    rng: Private<fastrand::Rng>,
}

impl Restless {
    /// A guest whose choices come of a seed.
    pub fn new(seed: u64) -> Restless {
        Restless {
            rng: Private::new(fastrand::Rng::with_seed(seed)),
        }
    }

    fn verb(&self) -> Option<Verb> {
        self.rng.with(choose)
    }
}

/// What a guest does next; None to wait for an event.
fn choose(rng: &mut fastrand::Rng) -> Option<Verb> {
    let gpa = gpa_of(rng.u64(..GUEST_PAGES)).0;
    let port = rng.u64(..0x400);
    Some(match rng.u32(..64) {
        0..32 => Verb::Accept { gpa, level: 0 },
        32..36 => Verb::MapGpa {
            gpa,
            bytes: 4096 * rng.u64(1..4),
            private: rng.bool(),
        },
        36..39 => Verb::In { port, size: 4 },
        39..42 => Verb::Out {
            port,
            size: 1,
            value: 0,
        },
        42..45 => Verb::Cpuid {
            leaf: rng.u64(..32),
            subleaf: 0,
        },
        45..47 => Verb::Rdmsr { msr: 0x10 },
        47..49 => Verb::Wrmsr {
            msr: 0x6e0,
            value: 1,
        },
        49 => Verb::GetQuote { gpa, bytes: 4096 },
        50 => Verb::GetTdVmCallInfo { leaf: 1 },
        51 => Verb::SetupEventNotifyInterrupt { vector: 64 },
        52 => Verb::MmioRead {
            gpa: 0xfee0_0000,
            size: 4,
        },
        53 => Verb::Vmcall([rng.u64(..20), 0, gpa, 1, 0, 0]),
        54 => Verb::Exit {
            reason: 1,
            qual: 0,
            interruption: 0,
        },
        // A page that is there and not accepted: KVM ends the VM.
        55 if rng.u32(..8) == 0 => Verb::Touch {
            gpa,
            how: Memory::Write,
            shared: false,
        },
        56 => return None,
        // A triple fault: the module disables the vCPU.
        57 if rng.u32(..16) == 0 => Verb::Exit {
            reason: 2,
            qual: 0,
            interruption: 0,
        },
        _ => Verb::Accept { gpa, level: 0 },
    })
}

impl Guest for Restless {
    fn run(&self, entered: &Entered) -> Turn {
        for _ in 0..TURN {
            if (entered.kicked)() {
                break;
            }
            let Some(verb) = self.verb() else {
                return Halting.run(entered);
            };
            if let Some(regs) = Step::alone(entered.vcpu, verb).run(entered) {
                return Turn {
                    regs,
                    halted: false,
                };
            }
        }
        Turn {
            halted: false,
            ..Halting.run(entered)
        }
    }
}
