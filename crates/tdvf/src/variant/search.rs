//! Tries recipes until one gives the wanted MRTD.
//!
//! Recipes are tried by their number of deviations. A *frame* is all of a recipe but its exceptions;
//! these are walked section by section, so that recipes with the same beginning share its hash.

use sha2::{Digest, Sha384};

use super::recipe::{Act, Recipe};
use super::{Contents, Fill, GceMachine, Rule, Sequence, Treatment, Variant};
use crate::{LaunchPlan, Location, Metadata, Mrtd, Order, Section, SectionAt, SectionKind};

/// A search for the recipe behind an MRTD.
#[derive(Clone, Copy, Debug)]
pub struct Search<'a> {
    /// The image.
    pub image: &'a [u8],
    /// The plan of its usual launch.
    pub plan: &'a LaunchPlan,
    /// The usual order of adding and measuring.
    pub order: Order,
    /// What is looked for.
    pub wanted: Mrtd,
    /// Bytes that may be hashed.
    pub budget: u64,
}

/// What a search came to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Outcome {
    /// The first recipe that fits.
    pub found: Option<Variant>,
    /// Recipes that were tried.
    pub tried: u64,
    /// All recipes with up to this many deviations were tried.
    pub deviations: u32,
}

/// What recipes with different exceptions share.
struct Frame<'a> {
    plan: &'a LaunchPlan,
    variant: Variant,
    deviations: u32,
    treatments: Vec<Treatment>,
    /// Sections in the order of the launch.
    steps: Vec<(usize, Act)>,
}

impl Search<'_> {
    /// Searches. `progress` hears of the bytes hashed so far.
    pub fn run(&self, progress: impl FnMut(u64)) -> Outcome {
        let other = self.other_plan();
        let frames = self.frames(other.as_ref());
        let most = frames.iter().map(|f| f.deviations + f.steps.len() as u32);
        let most = most.max().unwrap_or(0);
        let mut walk = Walk {
            wanted: self.wanted,
            left: self.budget,
            budget: self.budget,
            tried: 0,
            found: None,
            progress,
        };
        for deviations in 0..=most {
            let near = frames.iter().filter(|f| f.deviations <= deviations);
            for frame in near {
                let exceptions = (deviations - frame.deviations) as usize;
                let recipe = Recipe {
                    image: self.image,
                    plan: frame.plan,
                    fill: frame.variant.fill,
                    descending: frame.variant.descending,
                };
                let mut chosen = Vec::new();
                let done = walk.from(frame, recipe, 0, exceptions, &mut chosen, &Sha384::new());
                if done.is_err() {
                    return Outcome {
                        found: walk.found,
                        tried: walk.tried,
                        deviations: deviations.saturating_sub(1),
                    };
                }
            }
        }
        Outcome {
            found: None,
            tried: walk.tried,
            deviations: most,
        }
    }

    /// The plan by the metadata that the usual launch does not look for, if there is a sound one.
    fn other_plan(&self) -> Option<LaunchPlan> {
        let location = match self.plan.metadata.location {
            Location::GuidTable => Location::FixedPointer,
            Location::FixedPointer => Location::GuidTable,
        };
        let metadata = Metadata::parse_by(self.image, location).ok()?;
        if metadata.sections == self.plan.metadata.sections {
            return None;
        }
        LaunchPlan::of(metadata, self.image.len() as u64, self.plan.memory).ok()
    }

    fn frames<'b>(&'b self, other: Option<&'b LaunchPlan>) -> Vec<Frame<'b>> {
        let usual = Variant::usual(self.plan.metadata.location, self.order);
        let mut frames = Vec::new();
        for plan in std::iter::once(self.plan).chain(other) {
            for variant in variants(plan, self.order) {
                frames.push(Frame {
                    plan,
                    deviations: variant.deviations(&usual).len() as u32,
                    treatments: treatments(plan, variant.rule),
                    steps: steps(plan, &variant),
                    variant,
                });
            }
        }
        // What is said of the whole image comes before what is said of single sections.
        frames.sort_by_key(|frame| std::cmp::Reverse(frame.deviations));
        frames
    }
}

/// Every recipe without exceptions that differs from the others for these sections.
fn variants(plan: &LaunchPlan, usual: Order) -> Vec<Variant> {
    let sections = &plan.metadata.sections;
    let first = Variant::usual(plan.metadata.location, usual);
    let mut all = vec![first];
    let mut vary = |change: &dyn Fn(&Variant) -> Vec<Variant>| {
        let more: Vec<_> = all.iter().flat_map(change).collect();
        all.extend(more);
    };
    let orders = [Order::PerPage, Order::PerSection, Order::WholeImage];
    vary(&|v| {
        let others = orders.into_iter().filter(|order| *order != usual);
        others.map(|order| Variant { order, ..v.clone() }).collect()
    });
    let metadata = in_sequence(sections, Sequence::Metadata);
    let sequences = [Sequence::ByAddress, Sequence::ByKind];
    vary(&|v| {
        let others = sequences.into_iter();
        let others = others.filter(|s| in_sequence(sections, *s) != metadata);
        others
            .map(|sequence| Variant {
                sequence,
                ..v.clone()
            })
            .collect()
    });
    vary(&|v| {
        vec![Variant {
            descending: true,
            ..v.clone()
        }]
    });
    let partly = |s: &Section| s.raw_size != 0 && u64::from(s.raw_size) < s.mem_size;
    let fills = [Fill::Image, Fill::Ones, Fill::Unmeasured];
    let fills = if sections.iter().any(partly) {
        &fills[..]
    } else {
        &[]
    };
    vary(&|v| {
        fills
            .iter()
            .map(|fill| Variant {
                fill: *fill,
                ..v.clone()
            })
            .collect()
    });
    let usual_treatments = treatments(plan, Rule::Attributes);
    let rules = [
        Rule::MeasureAll,
        Rule::MeasureNone,
        Rule::AddMeasured,
        Rule::AddAug,
    ];
    vary(&|v| {
        let others = rules
            .into_iter()
            .filter(|rule| treatments(plan, *rule) != usual_treatments);
        others.map(|rule| Variant { rule, ..v.clone() }).collect()
    });
    all
}

/// Indices of the sections that have memory.
fn in_sequence(sections: &[Section], sequence: Sequence) -> Vec<usize> {
    let mut order: Vec<_> = (0..sections.len())
        .filter(|i| sections[*i].mem_size != 0)
        .collect();
    match sequence {
        Sequence::Metadata => {}
        Sequence::ByAddress => order.sort_by_key(|i| sections[*i].gpa),
        Sequence::ByKind => order.sort_by_key(|i| sections[*i].kind),
    }
    order
}

fn treatments(plan: &LaunchPlan, rule: Rule) -> Vec<Treatment> {
    let treatment = |s: &Section| {
        let aug = s.attributes.page_aug();
        let measured = s.attributes.mr_extend();
        match rule {
            Rule::AddAug if aug => Treatment::Added,
            _ if aug || s.kind.is_informational() => Treatment::LeftOut,
            Rule::MeasureAll => Treatment::Measured(Contents::Usual),
            Rule::MeasureNone => Treatment::Added,
            Rule::AddMeasured if !measured => Treatment::LeftOut,
            _ if measured => Treatment::Measured(Contents::Usual),
            _ => Treatment::Added,
        }
    };
    plan.metadata.sections.iter().map(treatment).collect()
}

fn steps(plan: &LaunchPlan, variant: &Variant) -> Vec<(usize, Act)> {
    let order = in_sequence(&plan.metadata.sections, variant.sequence);
    let with = |act| order.iter().map(move |i| (*i, act));
    match variant.order {
        Order::PerPage => with(Act::PageByPage).collect(),
        Order::PerSection => with(Act::AllThenAll).collect(),
        Order::WholeImage => with(Act::Add).chain(with(Act::Measure)).collect(),
    }
}

/// Every other treatment that a section can get.
fn alternatives(section: &Section, usual: Treatment) -> Vec<Treatment> {
    let mut all = vec![
        Treatment::Measured(Contents::Usual),
        Treatment::Added,
        Treatment::LeftOut,
    ];
    if section.kind == SectionKind::TD_HOB {
        all.push(Treatment::Measured(Contents::Zeros));
        let machines = GceMachine::all().map(|m| Treatment::Measured(Contents::Gce(m)));
        all.extend(machines);
    }
    all.retain(|treatment| *treatment != usual);
    all
}

/// The search is over: found, or out of budget.
struct Stop;

struct Walk<P> {
    wanted: Mrtd,
    left: u64,
    budget: u64,
    tried: u64,
    found: Option<Variant>,
    progress: P,
}

impl<P: FnMut(u64)> Walk<P> {
    /// Goes on with every choice for the step `at`, with exactly `exceptions` to be made still.
    fn from(
        &mut self,
        frame: &Frame,
        recipe: Recipe,
        at: usize,
        exceptions: usize,
        chosen: &mut Vec<(usize, Treatment)>,
        hash: &Sha384,
    ) -> Result<(), Stop> {
        let Some(&(section, act)) = frame.steps.get(at) else {
            return self.end(frame, chosen, hash);
        };
        let usual = frame.treatments[section];
        if act == Act::Measure {
            // Chosen when it was added.
            let made = chosen.iter().find(|(index, _)| *index == section);
            let treatment = made.map_or(usual, |(_, treatment)| *treatment);
            let hash = self.hash(recipe, (section, act), treatment, hash)?;
            return self.from(frame, recipe, at + 1, exceptions, chosen, &hash);
        }
        let rest = frame.steps[at + 1..].iter();
        let choices = rest.filter(|(_, act)| *act != Act::Measure).count();
        if exceptions <= choices {
            let hash = self.hash(recipe, (section, act), usual, hash)?;
            self.from(frame, recipe, at + 1, exceptions, chosen, &hash)?;
        }
        if exceptions > 0 {
            for other in alternatives(&frame.plan.metadata.sections[section], usual) {
                let hash = self.hash(recipe, (section, act), other, hash)?;
                chosen.push((section, other));
                self.from(frame, recipe, at + 1, exceptions - 1, chosen, &hash)?;
                chosen.pop();
            }
        }
        Ok(())
    }

    fn hash(
        &mut self,
        recipe: Recipe,
        (section, act): (usize, Act),
        treatment: Treatment,
        hash: &Sha384,
    ) -> Result<Sha384, Stop> {
        let cost = recipe.cost(section, act, treatment);
        self.left = self.left.checked_sub(cost).ok_or(Stop)?;
        let mut hash = hash.clone();
        recipe.hash(section, act, treatment, &mut hash);
        (self.progress)(self.budget - self.left);
        Ok(hash)
    }

    fn end(
        &mut self,
        frame: &Frame,
        chosen: &[(usize, Treatment)],
        hash: &Sha384,
    ) -> Result<(), Stop> {
        self.tried += 1;
        if hash.clone().finalize().as_slice() != self.wanted.0 {
            return Ok(());
        }
        let sections = &frame.plan.metadata.sections;
        let exception = |(index, treatment): &(usize, Treatment)| {
            let kind = sections[*index].kind;
            (
                SectionAt {
                    index: *index,
                    kind,
                },
                *treatment,
            )
        };
        let mut exceptions: Vec<_> = chosen.iter().map(exception).collect();
        exceptions.sort_by_key(|(at, _)| at.index);
        self.found = Some(Variant {
            exceptions,
            ..frame.variant.clone()
        });
        Err(Stop)
    }
}
