//! What each TD's measurement is made of, as the TDX module was told: the other half of the
//! [`Journal`](super::replay::Journal), which has what user space was told.

use std::collections::BTreeMap;
use std::fmt;

use seamlock_kvm::observer::Seamcall;
use seamlock_sync::Private;
use seamlock_tdx_abi::measure::EXTEND_CHUNK_BYTES;
use seamlock_tdx_abi::{Gpa, Hpa, Leaf, PAGE_SIZE, TdxStatus};

use super::replay::{Journal, Page};
use super::world::gpa_of;

/// Chunks that TDH.MR.EXTEND measures of a page.
const CHUNKS: u64 = PAGE_SIZE / EXTEND_CHUNK_BYTES;
/// Rows of a comparison before and after the first difference.
const AROUND: usize = 3;

/// TDH.MEM.PAGE.ADD of a page with the TDH.MR.EXTENDs that followed it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    gpa: Gpa,
    /// Without it these are chunks that came apart from their page.
    added: bool,
    chunks: u64,
    /// The operation of the thread that made the first of these SEAMCALLs.
    by: &'static str,
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Entry {
            gpa, chunks, by, ..
        } = self;
        let added = if self.added { "ADD, " } else { "" };
        write!(f, "{gpa} {added}{chunks} EXTENDs, by {by}")
    }
}

/// The TDs of a machine, by TDR page.
#[derive(Debug, Default)]
pub struct Ledger {
    tds: Private<BTreeMap<u64, Vec<Entry>>>,
}

impl Ledger {
    /// Notes a SEAMCALL that came back to a thread which is at this operation.
    pub fn note(&self, call: &Seamcall, by: impl Fn() -> &'static str) {
        if call.status() != TdxStatus::SUCCESS {
            return;
        }
        let (gpa, tdr) = (call.input.rcx, call.input.rdx);
        let page = Gpa(gpa & !(PAGE_SIZE - 1));
        let entry = |added, chunks| Entry {
            gpa: page,
            added,
            chunks,
            by: by(),
        };
        match call.leaf() {
            Leaf::MNG_INIT => self.tds.with(|tds| {
                tds.insert(call.input.rcx, Vec::new());
            }),
            Leaf::MEM_PAGE_ADD => self.with(tdr, |td| td.push(entry(true, 0))),
            Leaf::MR_EXTEND => self.with(tdr, |td| match td.last_mut() {
                Some(last) if last.gpa == page && last.chunks < CHUNKS => last.chunks += 1,
                _ => td.push(entry(false, 1)),
            }),
            _ => {}
        }
    }

    fn with(&self, tdr: u64, f: impl FnOnce(&mut Vec<Entry>)) {
        self.tds.with(|tds| f(tds.entry(tdr).or_default()));
    }

    /// What entered the TD, in order.
    pub fn of(&self, tdr: Hpa) -> Vec<Entry> {
        self.tds
            .with(|tds| tds.get(&tdr.0).cloned().unwrap_or_default())
    }
}

/// Whether user space was told what the module was.
fn agrees(told: Option<&Page>, made: Option<&Entry>) -> bool {
    let (Some(told), Some(made)) = (told, made) else {
        return false;
    };
    let chunks = if told.measured { CHUNKS } else { 0 };
    made.added && made.gpa == gpa_of(told.page) && made.chunks == chunks
}

/// User space's pages beside the module's, around the first that differs.
pub fn compare(journal: &Journal, made: &[Entry]) -> Vec<String> {
    let mut told = journal.pages.clone();
    told.sort_unstable();
    let rows = told.len().max(made.len());
    let differs = (0..rows).find(|&i| !agrees(told.get(i), made.get(i)));
    let Some(first) = differs else {
        let what = "the pages and their order are the same; contents or TD_PARAMS differ";
        return vec![what.to_owned()];
    };
    let row = |i: usize| {
        let told = match told.get(i) {
            Some(page) => format!(
                "{} of source {}, {}",
                gpa_of(page.page),
                page.source,
                if page.measured {
                    "measured"
                } else {
                    "not measured"
                }
            ),
            None => "nothing".to_owned(),
        };
        let made = made.get(i).map_or("nothing".to_owned(), Entry::to_string);
        let mark = if i == first { ">" } else { " " };
        format!("{mark} {i:>3}  user space: {told}; module: {made}")
    };
    let shown = first.saturating_sub(AROUND)..rows.min(first + AROUND + 1);
    shown.map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(stamp: u64, page: u64, measured: bool) -> Page {
        Page {
            stamp,
            page,
            source: 0,
            measured,
        }
    }

    fn entry(page: u64, chunks: u64) -> Entry {
        Entry {
            gpa: gpa_of(page),
            added: true,
            chunks,
            by: "KVM_TDX_INIT_MEM_REGION",
        }
    }

    #[test]
    fn the_first_page_that_user_space_was_not_told_of_is_marked() {
        let journal = Journal {
            pages: vec![page(7, 2, true), page(1, 0, false)],
            ..Journal::default()
        };
        let made = [entry(0, 0), entry(1, 16), entry(2, 16)];
        let rows = compare(&journal, &made);
        assert_eq!(rows.len(), 3);
        assert!(rows[1].starts_with(">   1"), "{}", rows[1]);
        assert!(rows[2].contains("user space: nothing"), "{}", rows[2]);
    }

    #[test]
    fn pages_that_agree_leave_the_contents_to_differ() {
        let journal = Journal {
            pages: vec![page(1, 3, true)],
            ..Journal::default()
        };
        assert_eq!(compare(&journal, &[entry(3, 16)]).len(), 1);
        assert!(compare(&journal, &[entry(3, 15)])[0].starts_with('>'));
    }
}
