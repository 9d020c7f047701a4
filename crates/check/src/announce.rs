//! What a thread has come to: the operation and its object, and whether it can be done now.

use seamlock_sync::{Action, Op, Outcome, Verdict};

use crate::access::{Access, Accesses, Class, NOTHING};
use crate::engine::Engine;
use crate::object::{NONE, same};
use crate::shadow::{SETUP, blocking};
use crate::thread::Pending;

impl Engine {
    /// A thread has come to an operation.
    #[inline]
    pub(crate) fn announce(&mut self, op: &Op) {
        let slot = usize::from(self.running);
        let thread = &mut self.threads[slot];
        let at = thread.announced;
        let guess = thread.guesses.get(at).copied().unwrap_or(NONE);
        let object = match op.action {
            // The word that refused the thread is known here, and not always to who waits for it.
            Action::AwaitRelease if thread.refused.0 != NOTHING => thread.refused.0,
            _ => self.objects.number(&op.name, guess),
        };
        if at < thread.guesses.len() {
            thread.guesses[at] = object;
        } else {
            thread.guesses.push(object);
        }
        thread.announced = at + 1;
        let may_wait = blocking(op.action);
        let interruptible = may_wait
            && matches!(
                op.action,
                Action::LockKillable | Action::Wait | Action::AwaitChange
            );
        let signal = if interruptible {
            thread.signal
        } else {
            NOTHING
        };
        let first = Access {
            object,
            class: Class::of(op),
        };
        let arg = match op.action {
            Action::AwaitRelease => thread.refused_at(object),
            Action::Wait | Action::WaitUninterruptible | Action::AwaitChange => self
                .objects
                .at(object)
                .looked_at(&self.log, object, slot as u8),
            _ => op.arg,
        };
        let accesses = Accesses { first, signal };
        thread.pending = Some(Pending {
            action: op.action,
            accesses,
            arg,
            site: op.site,
        });
        if may_wait {
            for access in accesses.list() {
                self.objects.at_mut(access.object).waiters |= 1 << slot;
            }
            self.look_again(slot);
        } else {
            self.open |= 1 << slot;
        }
    }

    /// Does at once what the running thread has come to, if that is what it did next in the execution
    /// before and no choice is to be made; returns whether it was. All else, a difference included, is
    /// left to [`announce`](Engine::announce) and [`choose`](Engine::choose).
    #[inline]
    pub(crate) fn repeats(&mut self, op: &Op) -> bool {
        let Some(expected) = self.log.expected() else {
            return false;
        };
        let Accesses { first, signal } = expected.accesses;
        let again = expected.thread == self.running
            && expected.action == op.action
            && expected.arg == op.arg
            && signal == NOTHING
            && same(&self.objects.at(first.object).name, &op.name);
        // What may have to wait is looked at in full, but for a lock, which was free the last time.
        if !again || blocking(op.action) && op.action != Action::Lock || self.end.is_some() {
            return false;
        }
        self.objects.fresh(first.object);
        let thread = &mut self.threads[usize::from(self.running)];
        thread.announced += 1;
        thread.own = self.log.len() as u32;
        self.log.advance();
        self.verdict = Verdict::Go;
        self.reporter.move_to(self.log.len(), self.running);
        true
    }

    /// The set-up is about to do an operation.
    pub(crate) fn setup_before(&mut self, op: &Op) {
        let number = self.objects.number(&op.name, NONE);
        let free = self.objects.at(number).shadow.lets(op.action, op.arg);
        assert!(
            free,
            "the set-up would wait for ever: {:?} {} at {}",
            op.action, op.name, op.site
        );
    }

    /// The set-up has done an operation.
    pub(crate) fn setup_after(&mut self, op: &Op, outcome: Outcome) {
        let number = self.objects.number(&op.name, NONE);
        self.objects
            .at_mut(number)
            .shadow
            .apply(SETUP, op.action, outcome);
    }
}
