//! Lock words: taken, given back and looked at as the recording does.

use seamlock_sync::{Mode, WordView};
use seamlock_tdx_module::LockAt;

use super::Runner;
use crate::mismatch::{Difference, WordAfter};
use crate::sequence::{What, WordResult};

impl Runner<'_> {
    pub(super) fn attempt(
        &mut self,
        op: &'static str,
        what: What,
        mode: Mode,
        result: WordResult,
        word: WordView,
    ) {
        let before = self.subject.peek(what.at);
        let got = match op {
            "hold" => self.subject.hold(what.at, mode),
            _ => self.subject.guest_try(what.at, mode),
        };
        let got = WordResult::from(got);
        let after = self.subject.peek(what.at);
        self.word(
            op,
            what,
            Some(mode),
            before,
            (Some(result), Some(word)),
            (Some(got), after),
        );
        match (got, result) {
            (WordResult::Ok, WordResult::Ok) => self.held.push((what.at, mode)),
            // The recording goes on without this holder.
            (WordResult::Ok, _) => self.subject.release(what.at, mode),
            _ => {}
        }
    }

    pub(super) fn release(&mut self, what: What, mode: Mode, word: WordView) {
        let before = self.subject.peek(what.at);
        if let Some(i) = self.held.iter().position(|held| *held == (what.at, mode)) {
            self.held.swap_remove(i);
            self.subject.release(what.at, mode);
        }
        let after = self.subject.peek(what.at);
        self.word(
            "release",
            what,
            Some(mode),
            before,
            (None, Some(word)),
            (None, after),
        );
    }

    pub(super) fn word(
        &mut self,
        op: &'static str,
        what: What,
        mode: Option<Mode>,
        before: Option<WordView>,
        expected: (Option<WordResult>, Option<WordView>),
        got: (Option<WordResult>, Option<WordView>),
    ) {
        self.ran.words.count(expected == got);
        match self.seen.iter_mut().find(|(at, _)| *at == what.at) {
            Some(seen) => seen.1 = got.1,
            None => self.seen.push((what.at, got.1)),
        }
        if expected != got {
            let after = |(result, word)| WordAfter { result, word };
            let (expected, got) = (after(expected), after(got));
            self.differs(Difference::Word {
                op,
                what,
                mode,
                before,
                expected,
                got,
            });
        }
    }

    pub(super) fn last_seen(&self, at: LockAt) -> Option<WordView> {
        let seen = self.seen.iter().find(|(seen, _)| *seen == at);
        seen.and_then(|(_, word)| *word)
    }
}
