//! Abstract lock programs: small scenarios whose number of traces is known in closed form, to measure
//! the checker by and to compare it with others.

pub mod api;
pub mod guard;
pub mod sections;
