//! What may be wrong with the books.

use std::fmt;

use seamlock_sync::{Name, WordView};
use seamlock_tdx_abi::addr::Hpa;
use seamlock_tdx_abi::pamt::PageType;

/// Something that [`Module::audit`](crate::Module::audit) found wrong: always a bug of this module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// A lock word is held otherwise than the guests that run account for.
    Held {
        /// The word.
        word: Name,
        /// What it holds.
        view: WordView,
        /// Shared holders that there should be.
        readers: u16,
    },
    /// A page is in use although a bigger page that covers it is, too.
    Covered {
        /// The smaller page.
        page: Hpa,
    },
    /// A page in use belongs to no TD.
    Orphan {
        /// The page.
        page: Hpa,
        /// What it is used for.
        page_type: PageType,
        /// The TDR that it names.
        owner: Hpa,
    },
    /// A TD refers to a page that is not what the TD takes it for.
    NotItsPage {
        /// The TD.
        tdr: Hpa,
        /// The page.
        page: Hpa,
        /// What the TD uses it for.
        expected: PageType,
    },
    /// A TD refers to a page twice.
    Twice {
        /// The TD.
        tdr: Hpa,
        /// The page.
        page: Hpa,
    },
    /// A page belongs to a TD that does not refer to it.
    Lost {
        /// The TD.
        tdr: Hpa,
        /// The page.
        page: Hpa,
        /// What it is used for.
        page_type: PageType,
    },
    /// A secure-EPT entry has a state that there is not, or maps at a level that has no pages.
    BadEntry {
        /// The TD.
        tdr: Hpa,
        /// Its bits.
        entry: u64,
        /// Its level.
        level: u8,
    },
    /// A TD's number of something is not the number that there is.
    Miscounted {
        /// The TD.
        tdr: Hpa,
        /// What is counted.
        what: &'static str,
        /// What the TD says.
        says: u64,
        /// What there is.
        is: u64,
    },
    /// The key ownership table does not agree with a TD about its HKID.
    Key {
        /// The TD.
        tdr: Hpa,
        /// The HKID.
        hkid: u16,
    },
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::Held {
                word,
                view,
                readers,
            } => {
                let held = if view.exclusive { "alone" } else { "shared" };
                let WordView { readers: by, .. } = view;
                write!(
                    f,
                    "{word} is held {held}, readers {by}, should be {readers}"
                )
            }
            Fault::Covered { page } => {
                write!(f, "{page} is in use and so is a bigger page that covers it")
            }
            Fault::Orphan {
                page,
                page_type,
                owner,
            } => write!(f, "{page_type} {page} belongs to {owner}, which is no TD"),
            Fault::NotItsPage {
                tdr,
                page,
                expected,
            } => write!(
                f,
                "TD {tdr} takes {page} for its {expected}, which it is not"
            ),
            Fault::Twice { tdr, page } => write!(f, "TD {tdr} refers to {page} twice"),
            Fault::Lost {
                tdr,
                page,
                page_type,
            } => write!(
                f,
                "{page_type} {page} of TD {tdr} is not reached from the TD"
            ),
            Fault::BadEntry { tdr, entry, level } => {
                write!(
                    f,
                    "TD {tdr} has a secure-EPT entry {entry:#x} at level {level}"
                )
            }
            Fault::Miscounted {
                tdr,
                what,
                says,
                is,
            } => {
                write!(f, "TD {tdr} counts {says} {what}, there are {is}")
            }
            Fault::Key { tdr, hkid } => {
                write!(f, "TD {tdr} has HKID {hkid:#x}, which is not so assigned")
            }
        }
    }
}
