//! Known races of KVM's TDX control plane, as scenes that run the real code of `seamlock-kvm` and
//! `seamlock-tdx-module` under `seamlock-check`.
//!
//! A [`Race`] has one or more [`Scene`]s. A scene is data: what is there when it starts, and two or
//! three threads that each do one [`Act`]. To add one, add a row to [`RACES`]; a new kind of operation
//! is a variant of [`Act`], a new judge a function of [`oracle`].
//!
//! The TD is built by real ioctls and unseen by the checker; only the threads are explored.

#![forbid(unsafe_code)]

pub mod act;
pub mod catalogue;
pub mod checked;
pub mod machine;
pub mod oracle;
pub mod scene;
pub mod words;

pub use act::Act;
pub use catalogue::{COLUMNS, RACES, Race, race};
pub use checked::{Checked, Finding, check_race};
pub use scene::{Scene, Staged};
