//! Hosts and guests that misbehave: what the property test, the fuzz target and the stress run share.
//!
//! A [`Step`] is eight bytes. What it does depends on the [`World`], a host's notes about the TDs that
//! it built: mostly the next call of a TD's life, else a call with operands that look right, with one
//! register that does not, or with registers out of nowhere. So a list of steps builds TDs, runs their
//! guests and tears them down, and can be shortened by leaving steps out.

#![allow(dead_code)] // each user uses a part

pub mod dice;
pub mod guest;
pub mod learn;
pub mod machine;
pub mod operands;
pub mod plan;
pub mod run;
pub mod step;
pub mod sway;
pub mod table;
pub mod td;
pub mod threads;
pub mod watch;
pub mod world;
