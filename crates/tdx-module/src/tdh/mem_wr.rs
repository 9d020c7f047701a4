//! `TDH.MEM.WR` (leaf 14): writes 8 bytes of a debug TD.
//!
//! RCX = GPA, a multiple of 8; RDX = TDR, R8 = what to write. Out: R8 = what was there.

use crate::call::{Call, Done};

pub(crate) fn run(call: &mut Call<'_, '_>) -> Done {
    let data = call.r.r8;
    super::mem_rd::access(call, |call, pa| call.m.memory.write_u64(pa, data))
}
