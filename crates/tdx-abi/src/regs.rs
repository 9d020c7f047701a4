//! The general-purpose registers that a SEAMCALL passes in and out.

use core::fmt;

use crate::{Leaf, RaxIn, TdxStatus};

/// Names of the registers in the order of [`Regs::to_array`].
pub const REG_NAMES: [&str; 15] = [
    "rax", "rcx", "rdx", "rbx", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13", "r14",
    "r15",
];

/// The register file of one SEAMCALL, both ways. RSP is not part of the convention.
///
/// On input RAX holds the leaf ([`RaxIn`]), on output the status ([`TdxStatus`]).
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
#[allow(missing_docs)] // fifteen registers, named as in the manuals
pub struct Regs {
    pub rax: u64,
    pub rcx: u64,
    pub rdx: u64,
    pub rbx: u64,
    pub rbp: u64,
    pub rsi: u64,
    pub rdi: u64,
    pub r8: u64,
    pub r9: u64,
    pub r10: u64,
    pub r11: u64,
    pub r12: u64,
    pub r13: u64,
    pub r14: u64,
    pub r15: u64,
}

impl Regs {
    /// Input registers for version 0 of `leaf`, every operand zero.
    pub fn call(leaf: Leaf) -> Self {
        Self::call_version(leaf, 0)
    }

    /// Input registers for a given version of `leaf`, every operand zero.
    pub fn call_version(leaf: Leaf, version: u8) -> Self {
        Self {
            rax: RaxIn {
                leaf,
                version,
                reserved: 0,
            }
            .to_rax(),
            ..Self::default()
        }
    }

    /// The leaf in RAX bits 15:0 (input registers).
    pub fn leaf(&self) -> Leaf {
        RaxIn::from_rax(self.rax).leaf
    }

    /// The status in RAX (output registers).
    pub fn status(&self) -> TdxStatus {
        TdxStatus(self.rax)
    }

    /// The registers in the order of [`REG_NAMES`].
    pub fn to_array(self) -> [u64; 15] {
        [
            self.rax, self.rcx, self.rdx, self.rbx, self.rbp, self.rsi, self.rdi, self.r8, self.r9,
            self.r10, self.r11, self.r12, self.r13, self.r14, self.r15,
        ]
    }

    /// Inverse of [`Regs::to_array`].
    pub fn from_array(values: [u64; 15]) -> Self {
        let [
            rax,
            rcx,
            rdx,
            rbx,
            rbp,
            rsi,
            rdi,
            r8,
            r9,
            r10,
            r11,
            r12,
            r13,
            r14,
            r15,
        ] = values;
        Self {
            rax,
            rcx,
            rdx,
            rbx,
            rbp,
            rsi,
            rdi,
            r8,
            r9,
            r10,
            r11,
            r12,
            r13,
            r14,
            r15,
        }
    }
}

impl From<[u64; 15]> for Regs {
    fn from(values: [u64; 15]) -> Self {
        Self::from_array(values)
    }
}

impl From<Regs> for [u64; 15] {
    fn from(regs: Regs) -> Self {
        regs.to_array()
    }
}

/// Prints RAX and every other register that is not zero, in hex.
impl fmt::Debug for Regs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = f.debug_struct("Regs");
        for (name, value) in REG_NAMES.iter().zip(self.to_array()) {
            if value != 0 || *name == "rax" {
                out.field(name, &format_args!("{value:#x}"));
            }
        }
        out.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::format;

    #[test]
    fn array_view_keeps_the_order_of_the_names() {
        let values: [u64; 15] = core::array::from_fn(|i| i as u64 + 1);
        let regs = Regs::from_array(values);
        assert_eq!(regs.to_array(), values);
        assert_eq!((regs.rax, regs.rbx, regs.r8, regs.r15), (1, 4, 8, 15));
        assert_eq!(
            (REG_NAMES[3], REG_NAMES[7], REG_NAMES[14]),
            ("rbx", "r8", "r15")
        );
    }

    #[test]
    fn debug_shows_only_what_is_set() {
        let regs = Regs {
            rdx: 0x40,
            ..Regs::call_version(Leaf::VP_INIT, 1)
        };
        assert_eq!(format!("{regs:?}"), "Regs { rax: 0x10016, rdx: 0x40 }");
        assert_eq!(regs.leaf(), Leaf::VP_INIT);
    }
}
