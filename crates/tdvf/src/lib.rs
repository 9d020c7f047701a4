//! TDX virtual firmware (TDVF) images: what they ask of a VMM, and what a launch of them measures.
//!
//! Bytes in, values out. Nothing here knows of KVM or of the TDX module, so that the MRTD computed
//! by [`mrtd`] is a second, independent answer to the one a real launch gives.
//!
//! ```
//! use seamlock_tdvf::{Gpaw, LaunchPlan, MemoryLayout, Order, builtin, mrtd};
//!
//! let image = builtin::image();
//! let memory = MemoryLayout::q35(256 << 20, image.len() as u64, Gpaw::Bits48)?;
//! let plan = LaunchPlan::new(&image, memory)?;
//! println!("MRTD {}", mrtd::predict(&plan, &image, Order::PerPage));
//! # Ok::<(), seamlock_tdvf::TdvfError>(())
//! ```
//!
//! Sources: EDK II's `OvmfPkg/ResetVector` (GUIDed table, metadata), the TD-shim specification
//! (sections and their rules), and what QEMU 11 accepts. The crate `td-shim-interface` has the
//! same two structures; it isn't used, because it reads them with `unsafe` casts, validates with
//! one string per rule and no section index, and brings scroll 0.10 and syn 1 along for 48 bytes
//! of layout.
#![forbid(unsafe_code)]

pub mod builder;
pub mod builtin;
mod bytes;
mod error;
pub mod hob;
mod machine;
pub mod metadata;
pub mod mrtd;
mod plan;
mod table;
mod validate;
pub mod variant;

pub use error::{SectionAt, SectionFault, TdvfError};
pub use machine::{Gpaw, MAX_IMAGE_LEN, MemoryLayout, Memslot, SlotKind, check_image_len};
pub use metadata::{Attributes, Location, Metadata, Section, SectionKind};
pub use mrtd::{Mrtd, Order};
pub use plan::{LaunchPlan, Region, Source, TdHob};
pub use validate::{problems, validate};

/// Bytes of a page, the unit of `TDH.MEM.PAGE.ADD`.
pub const PAGE_SIZE: u64 = 4096;
