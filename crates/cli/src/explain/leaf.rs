//! A leaf: what the tables say about it.

use std::fmt::Write;

use seamlock_tdx_abi::guest_leaf::GuestLeaf;
use seamlock_tdx_abi::leaf::Leaf;
use seamlock_tdx_abi::lifecycle::OpState;
use seamlock_tdx_abi::sept::SeptState;
use seamlock_tdx_abi::status::TdxStatus;
use seamlock_tdx_module::tables::{
    BEFORE_READY, GUEST_LOCKS, GUEST_SEPT_STATES_ALLOWED, LOCKS, LockUse, OP_STATES, Operand,
    SEPT_STATES_ALLOWED, VERSIONED, operands_of,
};
use seamlock_tdx_module::tdg::GUEST_LEAVES;
use seamlock_tdx_module::tdh::LEAVES;

use super::{words, wrapped};
use crate::style::{DIM, HEAD};

/// A leaf of the host.
pub fn host(leaf: Leaf, version: Option<u8>) -> String {
    let mut text = String::new();
    let versions = if VERSIONED.contains(&leaf) {
        "versions 0 and 1"
    } else {
        "version 0"
    };
    heading(
        &mut text,
        leaf.spec_name(),
        &format!("leaf {}, {versions}", leaf.0),
    );
    sentence(&mut text, leaf.summary());
    if !LEAVES.contains(&leaf) {
        text.push_str("\nThe module does not have it: TDX_OPERAND_INVALID(RAX).\n");
        return text;
    }
    operands(&mut text, leaf, version);
    text.push('\n');
    let ready = if BEFORE_READY.contains(&leaf) {
        "any but SHUTDOWN; the leaf looks at it itself".to_owned()
    } else if leaf == Leaf::SYS_LP_SHUTDOWN {
        "any".to_owned()
    } else {
        "READY".to_owned()
    };
    text.push_str(&wrapped("module state  ", &[ready], 14));
    text.push_str(&wrapped("OP_STATE      ", &op_states(leaf), 14));
    text.push_str(&wrapped("S-EPT entry   ", &sept_states(leaf), 14));
    locks(&mut text, leaf, version);
    text
}

/// A leaf of the guest.
pub fn guest(leaf: GuestLeaf) -> String {
    let mut text = String::new();
    heading(
        &mut text,
        leaf.spec_name(),
        &format!("leaf {} of the guest (TDCALL)", leaf.0),
    );
    sentence(&mut text, leaf.summary());
    if !GUEST_LEAVES.contains(&leaf) {
        text.push_str("\nThe module does not have it: TDX_OPERAND_INVALID(RAX).\n");
        return text;
    }
    let listed = GUEST_SEPT_STATES_ALLOWED.iter().find(|(l, _)| *l == leaf);
    if let Some((_, states)) = listed {
        text.push('\n');
        text.push_str(&wrapped("S-EPT entry   ", &names(states), 14));
        text.push_str("              in any other state the TD exits\n");
    }
    let lock = GUEST_LOCKS.iter().find(|(l, ..)| *l == leaf);
    if let Some((_, word, mode, id)) = lock {
        let (word, mode) = (words::describe(*word), words::mode(*mode));
        let busy = TdxStatus::OPERAND_BUSY.with(*id);
        text.push_str(
            "\nlock word, by the guest's rules: where a host call was refused, it yields\n",
        );
        let _ = writeln!(text, "  {word:<42}{mode:<18}{busy}");
    }
    text.push_str(
        "\nIt runs under what TDH.VP.ENTER holds: TDVPR and TDR, both shared, until the TD exit.\n",
    );
    text
}

fn heading(text: &mut String, name: Option<&str>, what: &str) {
    let (on, off) = (HEAD.render(), HEAD.render_reset());
    let _ = writeln!(text, "{on}{}{off}  {what}", name.unwrap_or("?"));
}

fn sentence(text: &mut String, summary: Option<&str>) {
    if let Some(summary) = summary {
        let _ = writeln!(text, "{summary}");
    }
}

fn operands(text: &mut String, leaf: Leaf, version: Option<u8>) {
    for row in (0..=1).filter_map(|v| operands_of(leaf, v)) {
        if version.is_some_and(|version| version != row.version) {
            continue;
        }
        let title = if VERSIONED.contains(&leaf) {
            format!(", version {}", row.version)
        } else {
            String::new()
        };
        registers(text, &format!("in{title}"), row.input);
        registers(text, &format!("out{title}"), row.output);
    }
}

fn registers(text: &mut String, title: &str, operands: &[Operand]) {
    if operands.is_empty() {
        return;
    }
    let _ = writeln!(text, "\n{title}");
    for (register, what) in operands {
        let _ = writeln!(text, "  {:<10}  {what}", register.to_ascii_uppercase());
    }
}

fn op_states(leaf: Leaf) -> Vec<String> {
    let listed = OP_STATES.iter().find(|(l, _)| *l == leaf);
    listed.map_or(vec!["not looked at".to_owned()], |(_, states)| {
        states
            .iter()
            .map(|state| OpState(*state).to_string())
            .collect()
    })
}

fn sept_states(leaf: Leaf) -> Vec<String> {
    let listed = SEPT_STATES_ALLOWED.iter().find(|(l, _)| *l == leaf);
    listed.map_or(vec!["not looked at".to_owned()], |(_, states)| {
        names(states)
    })
}

fn names(states: &[SeptState]) -> Vec<String> {
    states.iter().map(SeptState::to_string).collect()
}

fn locks(text: &mut String, leaf: Leaf, version: Option<u8>) {
    let rows = LOCKS.iter().filter(|row| row.leaf == leaf);
    let rows: Vec<_> = rows
        .filter(|row| version.is_none_or(|v| v == row.version))
        .collect();
    if rows.is_empty() {
        text.push_str("\ntakes no lock word\n");
    }
    let alike = rows.windows(2).all(|pair| pair[0].locks == pair[1].locks);
    for row in rows.iter().take(if alike { 1 } else { rows.len() }) {
        let title = if alike {
            String::new()
        } else {
            format!(", version {}", row.version)
        };
        let _ = writeln!(
            text,
            "\nlock words{title}, in this order, held until it returns"
        );
        for lock in row.locks {
            one_lock(text, lock);
        }
    }
}

fn one_lock(text: &mut String, lock: &LockUse) {
    let word = words::describe(lock.word);
    let (mode, path) = (words::mode(lock.mode), words::path(lock.path));
    let _ = write!(text, "  {word:<42}{mode:<8}{path:<10}{}", lock.busy);
    let (on, off) = (DIM.render(), DIM.render_reset());
    if let Some(when) = lock.when {
        let _ = write!(text, "\n    {on}only when {when}{off}");
    }
    if let Some(until) = lock.until {
        let _ = write!(text, "\n    {on}until {until}{off}");
    }
    text.push('\n');
}
