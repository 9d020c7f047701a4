//! States of a TD and of secure-EPT entries, and what they allow.

use std::fmt::Write;

use seamlock_tdx_abi::lifecycle::OpState;
use seamlock_tdx_abi::sept::{SEPT_STATES, SeptState};
use seamlock_tdx_module::tables::{
    GUEST_SEPT_STATES_ALLOWED, OP_STATES, SEPT_STATES_ALLOWED, SEPT_TRAITS, SeptTrait,
    tracking_required,
};

use super::wrapped;
use crate::style::HEAD;

/// An OP_STATE.
pub fn op_state(state: OpState) -> String {
    let mut text = String::new();
    let (on, off) = (HEAD.render(), HEAD.render_reset());
    let _ = writeln!(text, "{on}{state}{off}  OP_STATE {}", state.0);
    let _ = writeln!(text, "{}\n", state.meaning().unwrap_or_default());
    let leaves = OP_STATES
        .iter()
        .filter(|(_, states)| states.contains(&state.0));
    let leaves: Vec<String> = leaves.map(|(leaf, _)| leaf.to_string()).collect();
    text.push_str(&wrapped("allows        ", &leaves, 14));
    text.push_str("              any other leaf that looks at OP_STATE: TDX_OP_STATE_INCORRECT\n");
    let tracking = if tracking_required(state) {
        "required"
    } else {
        "not required"
    };
    let _ = writeln!(
        text,
        "TLB tracking  {tracking} before a mapping is removed or changed"
    );
    text
}

/// The state of an L1 secure-EPT entry.
pub fn sept_state(state: SeptState) -> String {
    let mut text = String::new();
    let (on, off) = (HEAD.render(), HEAD.render_reset());
    let info = SEPT_STATES.iter().find(|info| info.state == state);
    let reported = info.map_or(0, |info| info.rdx_state);
    let _ = writeln!(
        text,
        "{on}{state}{off}  state of a secure-EPT entry, {reported} in RDX 15:8"
    );
    let _ = writeln!(text, "{}\n", state.meaning().unwrap_or_default());
    let _ = writeln!(text, "bits          {:#018x} of the entry", state.to_bits());
    let traits = SEPT_TRAITS
        .iter()
        .filter(|(_, states)| states.contains(&state));
    let traits: Vec<String> = traits
        .map(|(which, _)| describe(*which).to_owned())
        .collect();
    if !traits.is_empty() {
        text.push_str(&wrapped("is            ", &traits, 14));
    }
    let leaves = SEPT_STATES_ALLOWED
        .iter()
        .filter(|(_, states)| states.contains(&state));
    let guest = GUEST_SEPT_STATES_ALLOWED
        .iter()
        .filter(|(_, states)| states.contains(&state));
    let leaves = leaves.map(|(leaf, _)| leaf.to_string());
    let leaves: Vec<String> = leaves
        .chain(guest.map(|(leaf, _)| leaf.to_string()))
        .collect();
    let leaves = if leaves.is_empty() {
        vec!["no leaf that asks".to_owned()]
    } else {
        leaves
    };
    text.push_str(&wrapped("allows        ", &leaves, 14));
    text
}

fn describe(which: SeptTrait) -> &'static str {
    match which {
        SeptTrait::Blocked => "blocked",
        SeptTrait::BlockedForWriting => "blocked for writing",
        SeptTrait::Pending => "pending",
        SeptTrait::Acceptable => "acceptable by the guest",
        SeptTrait::Tracked => "in use by vCPUs until tracked",
        SeptTrait::MappedOrPending => "mapped or pending",
    }
}
