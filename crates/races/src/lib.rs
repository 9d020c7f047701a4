//! Known races of KVM's TDX control plane, and a sweep for unknown ones, as scenes that run the real
//! code of `seamlock-kvm` and `seamlock-tdx-module` under `seamlock-check`.
//!
//! A scene is data: what is there when it starts, and a few threads that each do one [`Act`]. A
//! [`Race`] of the catalogue has one or more [`Scene`]s; the [`sweep`] makes scenes of every state and
//! every pair or triple of operations. `docs/sweep.md` says how to add a race, an operation or an
//! oracle.
//!
//! The TD is built by real ioctls and unseen by the checker; only the threads are explored.

#![forbid(unsafe_code)]

pub mod act;
pub mod catalogue;
pub mod checked;
pub mod faults;
pub mod machine;
pub mod oracle;
pub mod ready;
pub mod scene;
pub mod setting;
pub mod shrink;
pub mod staged;
pub mod sweep;
pub mod words;

pub use act::Act;
pub use catalogue::{COLUMNS, RACES, Race, race};
pub use checked::{Checked, Finding, Wanted, check_race, shrink_scene};
pub use faults::{FAULTS, Fault};
pub use scene::{Actor, Counts, Scene};
pub use setting::{Setting, Size};
pub use shrink::{Shrunk, shrink};
pub use staged::Staged;
