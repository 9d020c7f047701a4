//! What the user may mean.

use std::fmt;

use seamlock_tdx_abi::guest_leaf::GuestLeaf;
use seamlock_tdx_abi::leaf::{Leaf, RaxIn};
use seamlock_tdx_abi::lifecycle::OpState;
use seamlock_tdx_abi::operand::OperandId;
use seamlock_tdx_abi::sept::{SEPT_STATES, SeptState};
use seamlock_tdx_abi::status::TdxStatus;

/// Something that can be explained.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Topic {
    /// A leaf of the host, and a version if one was given.
    Leaf(Leaf, Option<u8>),
    /// A leaf of the guest.
    GuestLeaf(GuestLeaf),
    /// A status, details included.
    Status(TdxStatus),
    /// An operand id.
    Operand(OperandId),
    /// OP_STATE.
    OpState(OpState),
    /// State of an L1 secure-EPT entry.
    SeptState(SeptState),
}

impl fmt::Display for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Topic::Leaf(leaf, _) => write!(f, "the leaf {leaf}"),
            Topic::GuestLeaf(leaf) => write!(f, "the guest's leaf {leaf}"),
            Topic::Status(status) => write!(f, "the status {status}"),
            Topic::Operand(id) => write!(f, "the operand id {id}"),
            Topic::OpState(state) => write!(f, "the OP_STATE {state}"),
            Topic::SeptState(state) => write!(f, "the secure-EPT state {state}"),
        }
    }
}

/// Everything that `what` may mean, the likeliest first.
pub fn parse(what: &str) -> Vec<Topic> {
    let what = what.trim();
    match number(what) {
        Some(value) => of_number(value),
        None => of_name(&what.to_ascii_uppercase()),
    }
}

/// Decimal, or hexadecimal with 0x; underscores may separate digits.
fn number(text: &str) -> Option<u64> {
    let digits = text.replace('_', "");
    match digits.strip_prefix("0x").or(digits.strip_prefix("0X")) {
        Some(hex) => u64::from_str_radix(hex, 16).ok(),
        None => digits.parse().ok(),
    }
}

fn of_number(value: u64) -> Vec<Topic> {
    let mut topics = Vec::new();
    let status = TdxStatus(value);
    // Bits 63:32 alone are how headers write statuses.
    let short = TdxStatus(value << 32);
    if value >> 32 != 0 && status.name().is_some() {
        topics.push(Topic::Status(status));
    } else if value >> 32 == 0 && value > 0xffff && short.name().is_some() {
        topics.push(Topic::Status(short));
    }
    let rax = RaxIn::from_rax(value);
    if rax.reserved == 0 && rax.leaf.name().is_some() {
        let version = (rax.version > 0).then_some(rax.version);
        topics.push(Topic::Leaf(rax.leaf, version));
    }
    if let Ok(id) = u16::try_from(value) {
        topics.extend(
            Some(GuestLeaf(id))
                .filter(|l| l.name().is_some())
                .map(Topic::GuestLeaf),
        );
    }
    if let Ok(id) = u8::try_from(value) {
        topics.extend(
            Some(OperandId(id))
                .filter(|o| o.name().is_some())
                .map(Topic::Operand),
        );
        let state = OpState(id.into());
        topics.extend(
            Some(state)
                .filter(|s| s.name().is_some())
                .map(Topic::OpState),
        );
        let reported = SEPT_STATES.iter().filter(|info| info.rdx_state == id);
        topics.extend(reported.map(|info| Topic::SeptState(info.state)));
    }
    if value == 0 {
        topics.push(Topic::Status(TdxStatus::SUCCESS));
    }
    topics
}

fn of_name(name: &str) -> Vec<Topic> {
    let mut topics = Vec::new();
    let dotted = name.replace('_', ".");
    if let Some(leaf) = Leaf::from_name(&dotted) {
        topics.push(Topic::Leaf(leaf, None));
    }
    topics.extend(GuestLeaf::from_name(&dotted).map(Topic::GuestLeaf));
    topics.extend(status_with_details(name).map(Topic::Status));
    let named =
        |list: &[(OperandId, &str)]| list.iter().find(|(_, n)| *n == name).map(|(id, _)| *id);
    topics.extend(named(OperandId::ALL).map(Topic::Operand));
    let state = OpState::ALL.iter().find(|(_, n)| *n == name);
    topics.extend(state.map(|(state, _)| Topic::OpState(*state)));
    let state = SEPT_STATES.iter().find(|info| info.name == name);
    topics.extend(state.map(|info| Topic::SeptState(info.state)));
    topics
}

/// A status by name, alone or with what it is about: `OPERAND_BUSY TDR`, `OPERAND_BUSY(TDR)`,
/// `OPERAND_BUSY|0x80`.
fn status_with_details(text: &str) -> Option<TdxStatus> {
    let mut parts = text
        .split([' ', '(', ')', '|', ':'])
        .filter(|part| !part.is_empty());
    let status = TdxStatus::from_name(parts.next()?)?;
    let Some(details) = parts.next() else {
        return Some(status);
    };
    let named = OperandId::ALL.iter().find(|(_, name)| *name == details);
    let details = match named {
        Some((id, _)) => id.0.into(),
        None => u32::try_from(number(details)?).ok()?,
    };
    parts.next().is_none().then(|| status.with_details(details))
}
