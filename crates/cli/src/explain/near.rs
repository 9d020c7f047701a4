//! Names that are like one that does not exist.

use seamlock_tdx_abi::guest_leaf::GuestLeaf;
use seamlock_tdx_abi::leaf::Leaf;
use seamlock_tdx_abi::lifecycle::OpState;
use seamlock_tdx_abi::operand::OperandId;
use seamlock_tdx_abi::sept::SEPT_STATES;
use seamlock_tdx_abi::status::TdxStatus;

/// Names to offer at the most.
const OFFERED: usize = 4;
/// A name less alike than this is not offered.
const ALIKE: f64 = 0.8;

/// One line about something that does not exist.
pub fn nothing(what: &str) -> String {
    let near = near(&what.trim().to_ascii_uppercase());
    let kinds = "no leaf, status, operand id, OP_STATE or secure-EPT state";
    if near.is_empty() {
        format!(
            "`{what}` is {kinds}; MEM.PAGE.ADD, OPERAND_BUSY and 0x8000020000000080 are examples"
        )
    } else {
        format!("`{what}` is {kinds}; did you mean {}?", near.join(", "))
    }
}

fn near(what: &str) -> Vec<&'static str> {
    let mut alike: Vec<(f64, &str)> = names()
        .map(|name| (likeness(what, name), name))
        .filter(|(likeness, _)| *likeness >= ALIKE)
        .collect();
    alike.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(b.1)));
    alike.dedup_by(|a, b| a.1 == b.1);
    alike
        .into_iter()
        .map(|(_, name)| name)
        .take(OFFERED)
        .collect()
}

/// A name is tried with and without its prefix, and dots are as good as underscores.
fn likeness(what: &str, name: &str) -> f64 {
    let plain = |text: &str| text.replace('_', ".");
    let short = ["TDH.", "TDG.", "TDX_"]
        .iter()
        .find_map(|prefix| name.strip_prefix(prefix));
    let whole = strsim::jaro_winkler(&plain(what), &plain(name));
    let short = short.map_or(0.0, |short| {
        strsim::jaro_winkler(&plain(what), &plain(short))
    });
    whole.max(short)
}

fn names() -> impl Iterator<Item = &'static str> {
    let leaves = Leaf::ALL.iter().filter_map(|leaf| leaf.spec_name());
    let guest = GuestLeaf::ALL.iter().filter_map(|leaf| leaf.spec_name());
    let statuses = TdxStatus::ALL.iter().map(|(_, name)| *name);
    let operands = OperandId::ALL.iter().map(|(_, name)| *name);
    let op_states = OpState::ALL.iter().map(|(_, name)| *name);
    let sept = SEPT_STATES.iter().map(|info| info.name);
    leaves
        .chain(guest)
        .chain(statuses)
        .chain(operands)
        .chain(op_states)
        .chain(sept)
}
