//! What the TDX and KVM documents define, as layout and numbers only.
//!
//! Two vocabularies live here side by side and never mix: [`TdxStatus`] is what the TDX module
//! answers in RAX, [`kvm::Errno`] is what KVM answers to an ioctl. There is no conversion between
//! them; KVM decides for each call site.
//!
//! Numbers that come from outside (leaves, statuses, page types, states, ioctls) are *open*
//! newtypes: every value of the underlying integer is representable, the known ones are associated
//! constants, and `name()` tells them apart. Every structure asserts its size and the offset of its
//! fields at compile time.
//!
//! # Sources
//! Intel TDX module 1.5.06 and its base and ABI specifications; Linux v7.3.4
//! (`include/uapi/linux/kvm.h`, `arch/x86/include/uapi/asm/kvm.h`, `arch/x86/kvm/vmx/tdx_arch.h`).
#![no_std]
#![forbid(unsafe_code)]

#[cfg(test)]
extern crate std;

mod layout;

pub mod addr;
pub mod field;
pub mod guest_leaf;
pub mod kvm;
pub mod leaf;
pub mod lifecycle;
pub mod measure;
pub mod operand;
pub mod pamt;
pub mod regs;
pub mod report;
pub mod sept;
pub mod status;
pub mod td_params;
pub mod tdmr;

pub use addr::{Gfn, Gpa, Hkid, Hpa, NULL_PA, PAGE_SHIFT, PAGE_SIZE};
pub use field::FieldId;
pub use guest_leaf::GuestLeaf;
pub use leaf::{Leaf, RaxIn};
pub use lifecycle::{LifecycleState, OpState, VcpuState};
pub use operand::OperandId;
pub use regs::Regs;
pub use status::TdxStatus;

// The layouts are read and written as native integers.
const _: () = assert!(
    cfg!(target_endian = "little"),
    "TDX exists on little-endian hosts only"
);
