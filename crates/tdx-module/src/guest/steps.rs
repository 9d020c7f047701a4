//! The zero-step filter: a host that makes the guest fault at one instruction again and again, to
//! watch it, is made to resolve the faults first.
//!
//! Source: TDX module 1.5, `td_exit_stepping.c`. The single-step half of that file, which slows the
//! host down with the monitor trap flag, needs a processor and is not here.

/// Faults at one instruction before their addresses are noted (STEPPING_EPF_THRESHOLD).
pub(crate) const FAULT_THRESHOLD: u8 = 6;
/// Addresses noted at the most (EPF_GPA_LIST_SIZE).
pub(crate) const FAULT_LIST_SIZE: usize = 32;

/// Secure-EPT violations at the instruction that the guest does not get past.
#[derive(Clone, Debug, Default)]
pub(crate) struct StepFilter {
    faults: u8,
    gpas: Vec<u64>,
}

impl StepFilter {
    /// The guest got past the instruction.
    pub(crate) fn progress(&mut self) {
        self.faults = 0;
        self.gpas.clear();
    }

    /// A TD exit because of an access to the private address `gpa`.
    pub(crate) fn fault(&mut self, gpa: u64) {
        if self.faults < FAULT_THRESHOLD {
            self.faults += 1;
        } else if self.gpas.len() < FAULT_LIST_SIZE && !self.gpas.contains(&gpa) {
            self.gpas.push(gpa);
        }
    }

    /// Addresses that must not fault any more before the vCPU is entered.
    pub(crate) fn suspects(&self) -> &[u64] {
        &self.gpas
    }

    /// Faults counted before addresses are noted.
    pub(crate) fn faults(&self) -> u8 {
        self.faults
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_seventh_fault_at_an_instruction_is_noted_and_each_address_once() {
        let mut steps = StepFilter::default();
        for gpa in 0..6 {
            steps.fault(gpa << 12);
        }
        assert_eq!((steps.suspects().len(), steps.faults()), (0, 6));
        steps.fault(0x7000);
        steps.fault(0x7000);
        steps.fault(0x8000);
        assert_eq!(steps.suspects(), [0x7000, 0x8000]);
        for gpa in 100..200 {
            steps.fault(gpa << 12);
        }
        assert_eq!(steps.suspects().len(), FAULT_LIST_SIZE);
        steps.progress();
        steps.fault(0x7000);
        assert!(steps.suspects().is_empty());
    }
}
