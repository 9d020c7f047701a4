//! The rules that one acquisition has to keep, given what is held.

use seamlock_sync::Op;

use super::breach::{Breach, Rule};
use super::held::{Acquisition, Mode};
use crate::locks::{self, Kind, LockClass};

/// Every rule that taking `wanted` breaks.
pub(super) fn check(held: &[Acquisition], wanted: &Acquisition) -> Vec<Breach> {
    let mut breaches = Vec::new();
    let mut add = |rule: Rule, against: &Acquisition| {
        let declared = match rule {
            Rule::Inversion => locks::path(wanted.class.class, against.class.class),
            _ => None,
        };
        breaches.push(Breach {
            rule,
            acquired: *wanted,
            against: *against,
            held: held.to_vec(),
            declared: declared.unwrap_or_default(),
            circle: Vec::new(),
        });
    };
    if let Some(against) = may_sleep(wanted).then(|| atomic(held)).flatten() {
        add(Rule::Atomic, against);
    }
    if let Some(nest) = wanted.nest
        && !held.iter().any(|h| h.name == nest)
    {
        add(Rule::NestNotHeld, wanted);
    }
    if wanted.tried {
        return breaches;
    }
    for against in held {
        if let Some(rule) = between(held, against, wanted) {
            add(rule, against);
        }
    }
    breaches
}

/// Which rule `wanted` breaks against one lock that is held.
fn between(held: &[Acquisition], against: &Acquisition, wanted: &Acquisition) -> Option<Rule> {
    let (outer, inner) = (against.class, wanted.class);
    if outer.class == inner.class {
        return same_class(held, against, wanted);
    }
    if !outer.kind.is_ordered() || !inner.kind.is_ordered() {
        return None;
    }
    // Who enters a read side waits for nobody; its order matters for those who wait for it.
    if inner.kind == Kind::ReadSide && wanted.mode == Mode::Inside {
        return None;
    }
    if locks::is_outside(outer.class, inner.class) {
        return None;
    }
    let inverted = locks::is_outside(inner.class, outer.class);
    Some(if inverted {
        Rule::Inversion
    } else {
        Rule::Undeclared
    })
}

fn same_class(held: &[Acquisition], against: &Acquisition, wanted: &Acquisition) -> Option<Rule> {
    if wanted.mode == Mode::Wait {
        return (against.name == wanted.name).then_some(Rule::WaitInside);
    }
    if wanted.class.kind.may_nest() {
        return None;
    }
    if against.name != wanted.name {
        let nest = wanted
            .nest
            .is_some_and(|nest| held.iter().any(|h| h.name == nest));
        if nest || against.subclass != wanted.subclass {
            return None;
        }
    }
    Some(Rule::Recursion)
}

fn may_sleep(wanted: &Acquisition) -> bool {
    wanted.mode == Mode::Wait || (wanted.class.kind.may_sleep() && !wanted.tried)
}

/// The innermost lock whose holder must not sleep.
fn atomic(held: &[Acquisition]) -> Option<&Acquisition> {
    held.iter().rev().find(|held| held.class.kind.is_atomic())
}

/// A point where the thread may be preempted, which is one where it may sleep.
pub(super) fn check_sleep(held: &[Acquisition], op: &Op) -> Option<Breach> {
    static POINT: LockClass = LockClass {
        class: &locks::cells::RESCHED,
        kind: Kind::Mutex,
        kernel: "include/linux/sched.h",
        guards: "",
        nest: None,
    };
    let against = *atomic(held)?;
    let acquired = Acquisition {
        name: op.name,
        class: &POINT,
        mode: Mode::Exclusive,
        subclass: 0,
        nest: None,
        tried: false,
        site: op.site,
    };
    Some(Breach {
        rule: Rule::Atomic,
        acquired,
        against,
        held: held.to_vec(),
        declared: Vec::new(),
        circle: Vec::new(),
    })
}
