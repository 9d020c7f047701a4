//! The module's books: whether every lock word is free and every page is where it should be.
//!
//! For tests, stress runs and fault injection. [`Module::audit`] looks at everything, so that nobody may
//! be inside the module meanwhile; guests may run, and what they hold is expected.

mod fault;
mod pages;
#[cfg(test)]
mod tests;
mod words;

pub use fault::Fault;

use seamlock_sync::Name;

use crate::Module;

/// What the module has given out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Accounting {
    /// TDs.
    pub tds: u64,
    /// vCPUs.
    pub vcpus: u64,
    /// Guests that run.
    pub guests: u64,
    /// Pages of 4 KiB that are a TDR, TDCS, TDVPR or TDVPS page.
    pub control_pages: u64,
    /// Pages of 4 KiB that are secure-EPT tables.
    pub sept_pages: u64,
    /// Pages that map memory for guests, in units of 4 KiB.
    pub private_pages: u64,
    /// Lock words that nobody holds and in which a host call that was refused has left its
    /// host-priority mark. The next host call that has the word takes the mark away.
    pub marks: Vec<Name>,
}

impl Module {
    /// Checks every lock word and every page that was ever touched.
    ///
    /// A lock word must be free, but for the host-priority mark and for what VP.ENTER holds for a guest
    /// that runs. Each page is in one place: a page in use belongs to a TD, which counts it, and is
    /// reached exactly once from the TD's control structures or its secure EPT. The secure EPT of a TD
    /// that is torn down is not looked at: its pages go in any order.
    ///
    /// # Errors
    /// All that is wrong, in the order of addresses.
    pub fn audit(&self) -> Result<Accounting, Vec<Fault>> {
        let mut books = Accounting::default();
        let mut faults = Vec::new();
        words::check(self, &mut books, &mut faults);
        pages::check(self, &mut books, &mut faults);
        if faults.is_empty() {
            Ok(books)
        } else {
            Err(faults)
        }
    }
}
