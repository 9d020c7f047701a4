//! Exceptions that the module injects.

use crate::vp_state::VpState;

/// An exception that the guest takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exception {
    /// #UD, vector 6.
    UndefinedInstruction,
    /// #DF with error code 0, vector 8.
    DoubleFault,
    /// #GP with error code 0, vector 13.
    GeneralProtection,
    /// #PF, vector 14.
    PageFault {
        /// The error code that the handler finds on its stack.
        error_code: u32,
        /// CR2: the linear address.
        address: u64,
    },
    /// #VE, vector 20. TDG.VP.VEINFO.GET tells what it is about.
    Virtualization,
}

impl Exception {
    /// The interrupt vector.
    pub const fn vector(self) -> u8 {
        match self {
            Exception::UndefinedInstruction => 6,
            Exception::DoubleFault => 8,
            Exception::GeneralProtection => 13,
            Exception::PageFault { .. } => 14,
            Exception::Virtualization => 20,
        }
    }

    /// The error code that is pushed; None when the vector has none.
    pub const fn error_code(self) -> Option<u32> {
        match self {
            Exception::DoubleFault | Exception::GeneralProtection => Some(0),
            Exception::PageFault { error_code, .. } => Some(error_code),
            Exception::UndefinedInstruction | Exception::Virtualization => None,
        }
    }
}

/// VE_INFO: what the last #VE is about, until the guest reads it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VeInfo {
    /// Not read yet. While it is set no other #VE can be delivered.
    pub valid: bool,
    /// VMX exit reason.
    pub reason: u32,
    /// Exit qualification.
    pub qual: u64,
    /// Guest linear address.
    pub gla: u64,
    /// Guest physical address.
    pub gpa: u64,
    /// Bytes of the instruction.
    pub instruction_length: u32,
    /// VM-exit instruction information.
    pub instruction_info: u32,
}

impl VpState {
    /// Delivers #VE with this information, or #DF when the last one is unread. The code of 1.5
    /// raises
    /// #DF there, although a comment in it says #GP.
    pub(crate) fn raise_ve(&mut self, info: VeInfo) -> Exception {
        if self.ve_info.valid {
            return Exception::DoubleFault;
        }
        self.ve_info = VeInfo {
            valid: true,
            ..info
        };
        Exception::Virtualization
    }
}
