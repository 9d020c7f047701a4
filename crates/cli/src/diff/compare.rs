//! Finds the first divergence of two launches, and says of what kind it is.

use std::collections::BTreeSet;

use seamlock_wear::Op;
use serde::Serialize;

use super::launches::{Launch, RCX, Step};

/// What differs.
#[derive(Debug)]
pub(super) struct Comparison {
    /// Parameters that are not the same: name, and the value of each where it has one.
    pub(super) parameters: Vec<Parameter>,
    /// The first divergence, if there is one.
    pub(super) first: Option<Divergence>,
    /// The first one that MRTD sees, if that is another.
    pub(super) measured: Option<Divergence>,
    /// Pages in both launches whose contents differ.
    pub(super) contents: u64,
    /// Whether both have an MRTD, and it is the same.
    pub(super) mrtd: Mrtds,
    /// Run-time measurement registers that are not the same, where both launches tell of them.
    pub(super) rtmrs: Vec<Rtmr>,
}

/// A run-time measurement register that is not the same.
#[derive(Debug, Serialize)]
pub(super) struct Rtmr {
    pub(super) index: usize,
    pub(super) a: String,
    pub(super) b: String,
}

/// A parameter that is not the same.
#[derive(Debug, Serialize)]
pub(super) struct Parameter {
    pub(super) name: String,
    pub(super) a: Option<String>,
    pub(super) b: Option<String>,
}

/// The measurements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Mrtds {
    Same,
    Different,
    /// One launch or both were not finalised.
    Unknown,
}

/// What kind of divergence it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Kind {
    /// A section is in one launch only.
    Section,
    /// A page is in one launch only.
    Page,
    /// A page's contents are measured in one launch only.
    Measured,
    /// The same calls in another order.
    Order,
    /// A page's contents.
    Contents,
}

/// A divergence: what each launch does next. None is the end of a launch.
#[derive(Clone, Copy, Debug)]
pub(super) struct Divergence {
    pub(super) kind: Kind,
    /// Calls before it, which are the same.
    pub(super) after: u64,
    pub(super) a: Option<Step>,
    pub(super) b: Option<Step>,
    /// Whether MRTD differs for it.
    pub(super) is_measured: bool,
}

/// The pages that a launch added, and those that it measured.
struct Pages {
    added: BTreeSet<u64>,
    extended: BTreeSet<u64>,
}

impl Pages {
    fn of(launch: &Launch) -> Pages {
        let page = |op| {
            let steps = launch.steps().filter(move |step| step.op == op);
            steps.map(|step| step.gpa & !0xfff).collect()
        };
        Pages {
            added: page(Op::Add),
            extended: page(Op::Extend),
        }
    }

    fn has(&self, step: Step) -> bool {
        let pages = match step.op {
            Op::Add => &self.added,
            Op::Extend => &self.extended,
        };
        pages.contains(&(step.gpa & !0xfff))
    }

    /// Whether none of the pages of the step's section was added.
    fn lacks_section(&self, launch: &Launch, step: Step) -> bool {
        let region = &launch.parts[step.part].region;
        let end = region.gpa.saturating_add(region.pages.saturating_mul(4096));
        self.added.range(region.gpa..end).next().is_none()
    }
}

impl Comparison {
    /// Compares.
    pub(super) fn of(a: &Launch, b: &Launch) -> Comparison {
        let (first, measured) = divergences(a, b);
        Comparison {
            parameters: parameters(a, b),
            measured: measured.filter(|_| first.is_some_and(|first| !first.is_measured)),
            first,
            contents: contents(a, b),
            mrtd: match (&a.mrtd, &b.mrtd) {
                (Some(a), Some(b)) if a == b => Mrtds::Same,
                (Some(_), Some(_)) => Mrtds::Different,
                _ => Mrtds::Unknown,
            },
            rtmrs: rtmrs(a, b),
        }
    }

    /// Whether the launches are the same.
    pub(super) fn is_same(&self) -> bool {
        self.parameters.is_empty()
            && self.first.is_none()
            && self.mrtd != Mrtds::Different
            && self.rtmrs.is_empty()
    }

    /// The divergence that is to blame for another MRTD.
    pub(super) fn blamed(&self) -> Option<Divergence> {
        self.measured
            .or(self.first.filter(|first| first.is_measured))
    }
}

fn rtmrs(a: &Launch, b: &Launch) -> Vec<Rtmr> {
    let pairs = a.rtmrs.iter().cloned().zip(b.rtmrs.iter().cloned());
    let all = pairs
        .enumerate()
        .map(|(index, (a, b))| Rtmr { index, a, b });
    all.filter(|rtmr| rtmr.a != rtmr.b).collect()
}

fn parameters(a: &Launch, b: &Launch) -> Vec<Parameter> {
    // A file without any says nothing about them.
    if a.parameters.is_empty() || b.parameters.is_empty() {
        return Vec::new();
    }
    let of = |launch: &Launch, name: &str| {
        let found = launch.parameters.iter().find(|(n, _)| n == name);
        found.map(|(_, value)| value.clone())
    };
    let names = a.parameters.iter().map(|(name, _)| name);
    let only_b = b.parameters.iter().map(|(name, _)| name);
    let only_b = only_b.filter(|name| of(a, name).is_none());
    let all = names.chain(only_b).map(|name| Parameter {
        name: name.clone(),
        a: of(a, name),
        b: of(b, name),
    });
    // What only one kind of file tells is no difference.
    let of_one_kind = |name: &str| name == "guest memory" || name.starts_with(RCX);
    let told = |p: &Parameter| !of_one_kind(&p.name) || (p.a.is_some() && p.b.is_some());
    all.filter(|p| p.a != p.b && told(p)).collect()
}

/// The first divergence, and the first one that MRTD sees.
fn divergences(a: &Launch, b: &Launch) -> (Option<Divergence>, Option<Divergence>) {
    let (mut steps_a, mut steps_b) = (a.steps(), b.steps());
    let mut first = None;
    for after in 0.. {
        let (x, y) = (steps_a.next(), steps_b.next());
        if x.is_none() && y.is_none() {
            break;
        }
        let call = |step: Step| (step.op, step.gpa);
        if x.map(call) != y.map(call) {
            let found = Divergence {
                kind: kind((a, x), (b, y)),
                after,
                a: x,
                b: y,
                is_measured: true,
            };
            return (first.or(Some(found)), Some(found));
        }
        let digests = (x.and_then(|x| x.digest), y.and_then(|y| y.digest));
        let (Some(one), Some(other)) = digests else {
            continue;
        };
        if one != other {
            let is_measured = x.is_some_and(|x| x.op == Op::Extend);
            let found = Divergence {
                kind: Kind::Contents,
                after,
                a: x,
                b: y,
                is_measured,
            };
            if is_measured {
                return (first.or(Some(found)), Some(found));
            }
            first = first.or(Some(found));
        }
    }
    (first, None)
}

/// The kind of a divergence in the calls.
fn kind((a, x): (&Launch, Option<Step>), (b, y): (&Launch, Option<Step>)) -> Kind {
    let (pages_a, pages_b) = (Pages::of(a), Pages::of(b));
    let only_a = x.filter(|x| !pages_b.has(*x)).map(|x| (x, a, &pages_b));
    let only_b = y.filter(|y| !pages_a.has(*y)).map(|y| (y, b, &pages_a));
    match only_a.or(only_b) {
        Some((step, ..)) if step.op == Op::Extend => Kind::Measured,
        Some((step, launch, other)) if other.lacks_section(launch, step) => Kind::Section,
        Some(_) => Kind::Page,
        None => Kind::Order,
    }
}

/// Pages that both added, with other contents.
fn contents(a: &Launch, b: &Launch) -> u64 {
    let digests = |launch: &Launch| {
        let steps = launch.steps().filter(|step| step.op == Op::Add);
        steps
            .map(|step| (step.gpa, step.digest))
            .collect::<std::collections::BTreeMap<_, _>>()
    };
    let (a, b) = (digests(a), digests(b));
    let differs = |(gpa, digest): &(&u64, &Option<u64>)| {
        let other = b.get(*gpa).copied().flatten();
        other.is_some() && digest.is_some() && other != **digest
    };
    a.iter().filter(differs).count() as u64
}
