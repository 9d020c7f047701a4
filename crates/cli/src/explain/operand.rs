//! An operand id: what it is, and which leaves are busy because of it.

use std::fmt::Write;

use seamlock_tdx_abi::operand::OperandId;
use seamlock_tdx_abi::status::TdxStatus;
use seamlock_tdx_module::tables::{GUEST_LOCKS, LOCKS};

use super::status::busy;
use crate::style::HEAD;

/// An operand id.
pub fn explain(id: OperandId) -> String {
    let mut text = String::new();
    let (on, off) = (HEAD.render(), HEAD.render_reset());
    let _ = writeln!(
        text,
        "{on}{id}{off}  operand id {} ({:#x}): bits 7:0 of a status",
        id.0, id.0
    );
    if let Some(meaning) = id.meaning() {
        let _ = writeln!(text, "{meaning}");
    }
    let status = TdxStatus::OPERAND_BUSY.with(id);
    let mut locks = LOCKS.iter().flat_map(|row| row.locks);
    let by_guest = GUEST_LOCKS.iter().any(|(.., operand)| *operand == id);
    if by_guest || locks.any(|lock| lock.busy == status) {
        let _ = writeln!(text, "\n{on}{status}{off}  {:#018x}", status.0);
        busy(&mut text, status);
    } else {
        text.push_str("\nNo leaf reports it as busy.\n");
    }
    text
}
