//! Whether calls keep to the table of locks.

use seamlock_sync::Mode;
use seamlock_tdx_abi::guest_leaf::GuestLeaf;
use seamlock_tdx_abi::leaf::{Leaf, RaxIn};
use seamlock_tdx_abi::operand::OperandId;
use seamlock_tdx_abi::regs::{REG_NAMES, Regs};
use seamlock_tdx_abi::status::TdxStatus;
use seamlock_tdx_module::locks;
use seamlock_tdx_module::tables::{
    GUEST_LOCKS, LockPath, LockUse, LockWord, locks_of, operands_of,
};

use super::watch::{Wanted, mode_name};

/// Whether a leaf may answer that something is busy: the table says so, or it is no lock word.
pub fn may_be_busy(before: &Regs, status: TdxStatus) -> bool {
    let rax = RaxIn::from_rax(before.rax);
    if status == TdxStatus::OPERAND_BUSY.with(OperandId::KET) {
        return rax.leaf == Leaf::MNG_KEY_CONFIG;
    }
    let is_busy = status.is(TdxStatus::OPERAND_BUSY) || status.is(TdxStatus::SYS_BUSY);
    !is_busy
        || locks_of(rax.leaf, rax.version)
            .iter()
            .any(|lock| lock.busy == status)
}

/// A word that a call wanted although the table does not list it.
pub fn unlisted(before: &Regs, wanted: impl IntoIterator<Item = Wanted>) -> Option<Wanted> {
    let rax = RaxIn::from_rax(before.rax);
    let listed = locks_of(rax.leaf, rax.version);
    let mut wanted = wanted.into_iter();
    wanted.find(|word| word.2 || !listed.iter().any(|lock| covers(lock, word)))
}

/// A word that a TDCALL, or another thing of the guest (None), wanted although the table of the guest's
/// locks does not list it.
pub fn unlisted_by_guest(
    tdcall: Option<&Regs>,
    wanted: impl IntoIterator<Item = Wanted>,
) -> Option<Wanted> {
    let leaf = tdcall.map(|regs| GuestLeaf(regs.rax as u16));
    let row = GUEST_LOCKS
        .iter()
        .find(|(listed, ..)| Some(*listed) == leaf);
    let listed = row.map(|(_, word, mode, _)| {
        let class = match word {
            LockWord::Rtmr => &locks::RTMR,
            _ => &locks::SEPT_ENTRY,
        };
        (class.name(), mode_name(*mode))
    });
    let is_listed = |word: &Wanted| word.2 && listed == Some((word.0, word.1));
    // What VP.ENTER took goes back with a TD exit, so only attempts are looked at.
    wanted.into_iter().find(|word| !is_listed(word))
}

/// A register that a call changed although its leaf does not return it.
pub fn overwritten(before: &Regs, after: &Regs) -> Option<&'static str> {
    let rax = RaxIn::from_rax(before.rax);
    // VP.ENTER that is refused by its zero-step filter returns the registers of a TD exit.
    if rax.leaf == Leaf::VP_ENTER {
        return None;
    }
    let output = operands_of(rax.leaf, rax.version).map_or(&[][..], |row| row.output);
    // Versions that there are not may also clear what the leaf returns in others.
    let others = operands_of(rax.leaf, 1).filter(|_| rax.version > 1);
    let others = others.map_or(&[][..], |row| row.output);
    let values = before.to_array().into_iter().zip(after.to_array());
    let mut changed = REG_NAMES
        .iter()
        .zip(values)
        .skip(1)
        .filter(|(_, (b, a))| b != a);
    let returned = |name: &str| {
        output
            .iter()
            .chain(others)
            .any(|(register, _)| *register == name)
    };
    changed
        .find(|(name, _)| !returned(name))
        .map(|(name, _)| *name)
}

fn covers(lock: &LockUse, (class, mode, _): &Wanted) -> bool {
    let own = *mode == mode_name(lock.mode);
    let alone = lock.mode == Mode::Exclusive;
    let is = |wanted: &'static seamlock_sync::Class| *class == wanted.name();
    let above = is(&locks::PAMT_2M) || is(&locks::PAMT_1G);
    match lock.word {
        LockWord::Global => is(&locks::GLOBAL) && own,
        LockWord::Kot => is(&locks::KOT) && own,
        LockWord::CacheWriteBack => is(&locks::WBT),
        LockWord::Tdmr => is(&locks::TDMR),
        LockWord::OpState => is(&locks::OP_STATE) && own,
        LockWord::SeptTree => is(&locks::SEPT_TREE) && own,
        LockWord::TdEpoch => is(&locks::TD_EPOCH) && own,
        LockWord::Rtmr => false,
        LockWord::SeptEntry | LockWord::SeptTable => is(&locks::SEPT_ENTRY),
        LockWord::BigPage => above && own,
        LockWord::Tdr | LockWord::Tdvpr | LockWord::Page => {
            let explicit = lock.path == LockPath::Explicit;
            let parents = explicit && above && *mode == mode_name(Mode::Shared);
            // A page may be a big one: then its own entry is one of those above, shared and promoted.
            let big = above && alone && *mode == mode_name(Mode::Exclusive);
            is(&locks::PAMT_4K) && own || parents || big
        }
    }
}
