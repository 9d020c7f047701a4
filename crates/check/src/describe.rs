//! What can be asked of an execution, and how it says what went wrong.

use seamlock_sync::Name;

use crate::clock::MAX_THREADS;
use crate::engine::{End, Engine};
use crate::log::Event;
use crate::scenario::Holder;
use crate::schedule::{Schedule, digest_of};
use crate::shadow::Shadow;
use crate::thread::Pending;
use crate::verdict::CheckError;
use crate::wakeup::Item;

impl Engine {
    pub(crate) fn diverged(&mut self, slot: u8, expected: &str) -> Option<u8> {
        let found = match self
            .threads
            .get(usize::from(slot))
            .and_then(|t| t.pending.as_ref())
        {
            Some(p) => format!("{:?} {} has to wait", p.action, self.name_of(p)),
            None => "the thread has ended".to_owned(),
        };
        self.fail(slot, expected.to_owned(), found);
        None
    }

    pub(crate) fn nondeterministic(&mut self, slot: u8, expected: &Event) {
        let name = self.objects.at(expected.accesses.first.object).name;
        let wanted = format!("{:?} {name} ({})", expected.action, expected.arg);
        let found = self.announced(slot);
        self.fail(slot, wanted, found);
    }

    /// What was planned is not what the thread comes to, or cannot be done. All that the operation
    /// depends on was done, so either the thread has seen something that no operation announces, or the
    /// checker takes two operations to commute that do not.
    pub(crate) fn unplanned(&mut self, item: &Item) {
        let name = self.objects.at(item.accesses.first.object).name;
        let wanted = format!("{:?} of {name}", item.accesses.first.class);
        let found = self.announced(item.thread);
        let pending = self.threads[usize::from(item.thread)].pending.as_ref();
        if pending.is_some_and(|pending| pending.accesses == item.accesses) {
            let what = format!("a planned operation has to wait: {found}");
            self.end = Some(End::Failed);
            self.error.get_or_insert(CheckError::Engine(what));
        } else {
            self.fail(item.thread, wanted, found);
        }
    }

    /// The operation that a thread has come to.
    fn announced(&self, slot: u8) -> String {
        let Some(p) = &self.threads[usize::from(slot)].pending else {
            return "nothing".to_owned();
        };
        let name = self.name_of(p);
        format!("{:?} {name} ({}) at {}", p.action, p.arg, p.site)
    }

    fn fail(&mut self, slot: u8, expected: String, found: String) {
        let thread = self
            .threads
            .get(usize::from(slot))
            .map_or_else(String::new, |t| t.name.clone());
        let step = self.log.len();
        self.end = Some(End::Failed);
        self.error.get_or_insert(CheckError::Nondeterministic {
            step,
            thread,
            expected,
            found,
        });
    }

    /// The order of what was done, by names of threads.
    pub(crate) fn schedule(&self) -> Schedule {
        let mut schedule = Schedule::default();
        for event in self.log.done() {
            schedule.push(&self.threads[usize::from(event.thread)].name, 0);
        }
        schedule
    }

    /// The digest of the operation that a thread has announced last.
    pub(crate) fn digest(&self, slot: usize) -> u64 {
        let thread = &self.threads[slot];
        let digest = |p: &Pending| digest_of(&thread.name, p.action, &self.name_of(p), p.arg);
        thread.pending.as_ref().map_or(0, digest)
    }

    /// The name of the object that an operation is on.
    pub(crate) fn name_of(&self, pending: &Pending) -> Name {
        self.objects.at(pending.accesses.first.object).name
    }

    /// Who holds the object of this name.
    pub(crate) fn holders(&self, name: &Name) -> Vec<Holder> {
        let shadow = self
            .objects
            .find(name)
            .map_or(Shadow::FREE, |object| object.shadow);
        shadow
            .holders()
            .map(|(thread, alone)| Holder {
                thread: (usize::from(thread) < MAX_THREADS).then_some(usize::from(thread)),
                alone,
            })
            .collect()
    }

    /// The objects that a thread holds.
    pub(crate) fn held_by(&self, thread: usize) -> Vec<Name> {
        let mine = |shadow: &Shadow| shadow.holders().any(|(t, _)| usize::from(t) == thread);
        self.objects
            .held()
            .into_iter()
            .filter(|o| mine(&o.shadow))
            .map(|o| o.name)
            .collect()
    }
}
