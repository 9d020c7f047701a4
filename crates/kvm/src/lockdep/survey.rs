//! A machine on which every call is made once, by one thread, to see which locks it takes.
//!
//! A launch, a run and a teardown, with a move between CPUs before each vCPU call so that `vcpu_load` is
//! seen whole; then every other ioctl with an argument of zeros. Nothing here is asserted: a discipline
//! may refuse what another allows, and what was taken until then is shown.

mod calls;
mod client;

use std::sync::Arc;

use super::trace::{Recorder, Tree};
use super::{Breach, Lockdep};
use crate::arch;
use crate::discipline::Discipline;
use crate::error::Result;
use crate::host::BootError;
use crate::locks::{self, Take};

/// One call and what it took.
#[derive(Clone, Debug)]
pub struct Call {
    /// The call, as in [`locks::PATHS`] where it is there.
    pub name: String,
    /// What it answered.
    pub result: Result<i64>,
    /// What it took and called.
    pub tree: Tree,
    /// What it is declared to take.
    pub declared: Vec<Take>,
    /// Where that is.
    pub source: &'static str,
    /// The VM had no vCPU yet, so that there was no mutex of one to take.
    pub before_vcpus: bool,
}

impl Call {
    /// Whether it took what is declared, in that order.
    pub fn is_as_declared(&self) -> bool {
        self.tree.order == self.declared
    }
}

/// All calls of a machine with one discipline.
#[derive(Clone, Debug)]
pub struct Survey {
    /// The discipline.
    pub discipline: &'static Discipline,
    /// The calls, in the order in which they were made.
    pub calls: Vec<Call>,
    /// Calls of machines of other architectures that take locks of the same classes.
    pub elsewhere: Vec<Call>,
    /// What lockdep saw of all of them.
    pub lockdep: Arc<Lockdep>,
}

impl Survey {
    /// Makes every call.
    ///
    /// # Errors
    /// When the machine does not boot.
    pub fn of(discipline: &'static Discipline) -> Result<Survey, BootError> {
        let lockdep = Lockdep::new();
        let mut calls = calls::of_td(discipline, &lockdep)?;
        for call in &mut calls {
            declare(call, discipline);
        }
        let mut elsewhere = Vec::new();
        for arch in [&arch::AMD as &dyn arch::Arch, &arch::ARM64] {
            elsewhere.push(calls::first_run(arch, discipline, &lockdep)?);
        }
        Ok(Survey {
            discipline,
            calls,
            elsewhere,
            lockdep,
        })
    }

    /// What lockdep found, on one thread.
    pub fn breaches(&self) -> Vec<Breach> {
        self.lockdep.breaches()
    }

    /// The call of a name.
    pub fn call(&self, name: &str) -> Option<&Call> {
        self.calls
            .iter()
            .find(|call| call.name.eq_ignore_ascii_case(name))
    }
}

fn declare(call: &mut Call, discipline: &Discipline) {
    if let Some(path) = locks::PATHS.iter().find(|path| path.call == call.name) {
        call.declared = locks::declared(path, discipline);
        call.source = path.source;
        if call.before_vcpus {
            call.declared
                .retain(|take| take.class != &locks::VCPU_MUTEX);
        }
    }
}

fn record(recorder: &Recorder, name: impl Into<String>, f: impl FnOnce() -> Result<i64>) -> Call {
    let (result, tree) = recorder.record(f);
    Call {
        name: name.into(),
        result,
        tree,
        declared: Vec::new(),
        source: "",
        before_vcpus: false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::discipline::{DISCIPLINES, V7_3};
    use crate::ioctl::TABLE;
    use crate::lockdep::Rule;

    fn survey(discipline: &'static Discipline) -> Survey {
        Survey::of(discipline).expect("the machine boots")
    }

    #[test]
    fn every_call_of_every_discipline_takes_what_is_declared() {
        let mut wrong = Vec::new();
        for discipline in DISCIPLINES {
            for call in survey(discipline).calls {
                let text = |takes: &[Take]| -> Vec<String> {
                    takes.iter().map(ToString::to_string).collect()
                };
                let (seen, declared) = (text(&call.tree.order), text(&call.declared));
                if seen != declared {
                    let (call, under) = (call.name, discipline.name);
                    wrong.push(format!("{call} under {under}: {seen:?}, not {declared:?}"));
                }
            }
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    }

    #[test]
    fn every_row_of_both_tables_is_called() {
        let survey = survey(&V7_3);
        for path in locks::PATHS {
            assert!(survey.call(path.call).is_some(), "{}", path.call);
        }
        for entry in TABLE {
            let called = survey
                .calls
                .iter()
                .any(|call| call.name.starts_with(entry.name));
            assert!(
                called || entry.name == "KVM_MEMORY_ENCRYPT_OP",
                "{}",
                entry.name
            );
        }
    }

    #[test]
    fn what_a_launch_consists_of_succeeds_under_every_discipline() {
        for discipline in DISCIPLINES {
            let survey = survey(discipline);
            for name in [
                "KVM_TDX_INIT_VM",
                "KVM_TDX_INIT_VCPU",
                "KVM_TDX_INIT_MEM_REGION",
                "KVM_TDX_FINALIZE_VM",
                "KVM_PRE_FAULT_MEMORY",
                "close(VM)",
            ] {
                let call = survey.call(name).expect("a row");
                assert!(
                    call.result.is_ok(),
                    "{name} under {}: {:?}",
                    discipline.name,
                    call.result
                );
            }
        }
    }

    #[test]
    fn slots_lock_outside_of_the_vcpu_mutexes_is_found_where_it_is_taken_so_and_nowhere_else() {
        for discipline in DISCIPLINES {
            let breaches = survey(discipline).breaches();
            let (slots, vcpu) = (&locks::SLOTS_LOCK, &locks::VCPU_MUTEX);
            let of = |rule, outer: &_, inner: &_| {
                breaches.iter().find(|breach| {
                    let (against, acquired) = (breach.against.class, breach.acquired.class);
                    breach.rule == rule && against.class == outer && acquired.class == inner
                })
            };
            let inversion = of(Rule::Inversion, slots, vcpu);
            let mails_guard = ["seed", "seed-24", "guardslots"].contains(&discipline.name);
            assert_eq!(inversion.is_some(), mails_guard, "{}", discipline.name);
            // Either side may be the one that closes the circle.
            let circle = of(Rule::Cycle, vcpu, slots).or(of(Rule::Cycle, slots, vcpu));
            assert_eq!(circle.is_some(), mails_guard, "{}", discipline.name);
        }
    }

    #[test]
    fn the_mails_guard_and_avic_form_a_circle_that_one_thread_shows() {
        let seed = crate::discipline::by_name("seed").expect("a discipline");
        let breaches = survey(seed).breaches();
        let circle = breaches
            .iter()
            .find(|b| b.rule == Rule::Cycle)
            .expect("a circle");
        assert!(circle.acquired.site.file().ends_with("arch/x86/avic.rs"));
        assert!(circle.circle[0].inner.site.file().ends_with("tdx/guard.rs"));
    }

    #[test]
    fn the_default_discipline_breaks_no_rule() {
        let breaches = survey(&V7_3).breaches();
        let text: String = breaches.iter().map(ToString::to_string).collect();
        assert!(text.is_empty(), "{text}");
    }

    #[test]
    fn a_survey_is_the_same_every_time() {
        let text = || format!("{:?}", survey(&V7_3).calls);
        assert_eq!(text(), text());
    }
}
