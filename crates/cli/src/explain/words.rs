//! Lock words in sentences, and who is in whose way.

use std::collections::BTreeMap;

use seamlock_sync::Mode;
use seamlock_tdx_module::tables::{GUEST_LOCKS, LOCKS, LeafLocks, LockPath, LockUse, LockWord};

/// What a lock word is.
pub fn describe(word: LockWord) -> &'static str {
    match word {
        LockWord::Global => "the module's global lock",
        LockWord::Kot => "the key ownership table",
        LockWord::CacheWriteBack => "PHYMEM.CACHE.WB of the package",
        LockWord::Tdmr => "the initialisation of the TDMR",
        LockWord::Tdr => "the TDR's PAMT entry",
        LockWord::Tdvpr => "the TDVPR's PAMT entry",
        LockWord::Page => "the page's PAMT entry",
        LockWord::BigPage => "the PAMT entry of the 2 MiB or 1 GiB page",
        LockWord::OpState => "OP_STATE of the TD",
        LockWord::SeptTree => "the TD's secure-EPT tree",
        LockWord::SeptEntry => "the secure-EPT entry",
        LockWord::SeptTable => "each of the 512 entries below",
        LockWord::TdEpoch => "the TD's TLB epoch",
        LockWord::Rtmr => "the TD's RTMRs",
    }
}

/// How a word is wanted or held.
pub fn mode(mode: Mode) -> &'static str {
    match mode {
        Mode::Shared => "shared",
        Mode::Exclusive => "alone",
    }
}

/// How the module comes to a word.
pub fn path(path: LockPath) -> &'static str {
    match path {
        LockPath::Explicit => "explicit",
        LockPath::Implicit => "implicit",
        LockPath::Direct => "",
    }
}

/// A leaf with its version if there is more than one.
pub fn name(row: &LeafLocks) -> String {
    let versions = LOCKS.iter().filter(|other| other.leaf == row.leaf).count();
    if versions > 1 {
        format!("{} v{}", row.leaf, row.version)
    } else {
        row.leaf.to_string()
    }
}

/// Guest leaves that take a word in a mode.
pub fn guest_takers(word: LockWord, wanted: Mode) -> Vec<String> {
    let rows = GUEST_LOCKS
        .iter()
        .filter(|(_, listed, mode, _)| is_same(*listed, word) && *mode == wanted);
    rows.map(|(leaf, ..)| leaf.to_string()).collect()
}

/// Leaves that take a word in a mode; what they say about when and until when goes along.
pub fn takers(word: LockWord, wanted: Mode) -> Vec<String> {
    let mut found = Vec::new();
    for row in LOCKS {
        let locks = row.locks.iter().filter(|lock| is_same(lock.word, word));
        for lock in locks.filter(|lock| lock.mode == wanted) {
            found.push(format!("{}{}", name(row), conditions(lock)));
        }
    }
    let mut found = merge_versions(found);
    found.extend(guest_takers(word, wanted));
    found
}

fn conditions(lock: &LockUse) -> String {
    let when = lock.when.map(|when| format!("when {when}"));
    let until = lock.until.map(|until| format!("until {until}"));
    let both: Vec<String> = when.into_iter().chain(until).collect();
    if both.is_empty() {
        String::new()
    } else {
        format!(" ({})", both.join(", "))
    }
}

/// A table's entries are entries.
fn is_same(a: LockWord, b: LockWord) -> bool {
    let one = |word| {
        if word == LockWord::SeptTable {
            LockWord::SeptEntry
        } else {
            word
        }
    };
    one(a) == one(b)
}

/// `X v0`, `X v1` become `X`.
pub fn merge_versions(names: Vec<String>) -> Vec<String> {
    let mut count: BTreeMap<String, usize> = BTreeMap::new();
    for name in &names {
        *count
            .entry(name.replace(" v0", "").replace(" v1", ""))
            .or_default() += 1;
    }
    let mut merged: Vec<String> = Vec::new();
    for name in names {
        let short = name.replace(" v0", "").replace(" v1", "");
        let all = short != name && count.get(&short).is_some_and(|count| *count > 1);
        let name = if all { short } else { name };
        if !merged.contains(&name) {
            merged.push(name);
        }
    }
    merged
}
