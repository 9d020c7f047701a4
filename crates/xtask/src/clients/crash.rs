//! VMMs that crash: by a bug that is known to be theirs, or by one that may be ours.

use seamlock_wear::Crash;

use super::case::{Outcome, SEGMENTATION_FAULT};

impl Outcome {
    /// Whether QEMU 11.1.3 was hit by a race of its own: a kick that reaches a vCPU's thread while its VM is
    /// built anew finds no `struct kvm_run` to write `immediate_exit` into (`kvm_ipi_signal`). Only a fault at
    /// that byte behind a null pointer, of an instruction of QEMU's own, is taken for it.
    pub fn is_kicked_while_rebuilt(&self) -> bool {
        /// Where `immediate_exit` is in `struct kvm_run`.
        const IMMEDIATE_EXIT: u64 = 1;
        let is_qemu = |crash: &&Crash| {
            crash.is_null_pointer_of("qemu-system-x86_64") && crash.address == Some(IMMEDIATE_EXIT)
        };
        self.case.tds > 1
            && self.code == Some(SEGMENTATION_FAULT)
            && self.crashes().next().is_some()
            && self.crashes().all(|crash| is_qemu(&crash))
    }

    /// Where processes crashed, as the library saw it.
    pub fn crashes(&self) -> impl Iterator<Item = &Crash> {
        let processes = self.summary.processes.iter();
        processes.filter_map(|process| process.crash.as_ref())
    }
}

#[cfg(test)]
mod tests {
    use seamlock_tdvf::Mrtd;
    use seamlock_wear::{Process, Summary};

    use super::*;
    use crate::clients::case::Case;
    use crate::clients::qemu;

    /// A launch that ended with a segmentation fault.
    fn ended(tds: usize, crash: Option<Crash>) -> Outcome {
        let case = qemu::cases().remove(0);
        let process = Process {
            crash,
            ..Process::default()
        };
        Outcome {
            case: Case { tds, ..case },
            summary: Summary {
                processes: vec![process],
            },
            expected: Mrtd([0; 48]),
            faults: Vec::new(),
            code: Some(SEGMENTATION_FAULT),
        }
    }

    #[test]
    fn only_a_kick_of_qemu_during_a_rebuild_is_tried_again() {
        let kick = Crash {
            signal: "SIGSEGV".to_owned(),
            address: Some(1),
            module: "/usr/bin/qemu-system-x86_64".to_owned(),
            offset: 0x9b_1428,
            inside: false,
            thread: 7,
        };
        assert!(ended(2, Some(kick.clone())).is_kicked_while_rebuilt());
        let ours = Crash {
            inside: true,
            ..kick.clone()
        };
        let elsewhere = Crash {
            address: Some(0x10),
            ..kick.clone()
        };
        for (tds, crash) in [
            (1, Some(kick)),
            (2, Some(ours)),
            (2, Some(elsewhere)),
            (2, None),
        ] {
            let outcome = ended(tds, crash);
            assert!(!outcome.is_kicked_while_rebuilt(), "{outcome:?}");
            let faults = outcome.judge().join("\n");
            assert!(
                faults.contains("crashed: SIGSEGV at address")
                    || faults.contains("a segmentation fault that nobody saw"),
                "{faults}"
            );
        }
    }
}
