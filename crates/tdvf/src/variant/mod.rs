//! The ways in which VMMs have launched one and the same image, and which of them gives a known MRTD.
//!
//! A [`Variant`] is a whole recipe. What sets it apart from the launch that KVM and QEMU do today is
//! its list of [`Deviation`]s; [`Search`] tries recipes with few of them first.

mod gce;
mod recipe;
mod search;
mod tell;

use crate::{Location, Order, SectionAt};

pub use gce::GceMachine;
pub use search::{Outcome, Search};

/// In which order the sections are taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Sequence {
    /// As they stand in the metadata.
    #[default]
    Metadata,
    /// From low to high addresses.
    ByAddress,
    /// By number of their type: BFV, CFV, TD_HOB, TempMem and so on.
    ByKind,
}

/// What a section's memory holds behind its contents, where it is larger than these.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Fill {
    /// Zero.
    #[default]
    Zeros,
    /// What follows in the image: a VMM that maps the image and passes its own pages, as QEMU does.
    Image,
    /// 0xff, as erased flash.
    Ones,
    /// Zero, and pages of nothing else are not measured.
    Unmeasured,
}

/// How the sections are treated unless one is treated differently.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Rule {
    /// As their attributes say.
    #[default]
    Attributes,
    /// Every section is added and measured.
    MeasureAll,
    /// Every section is added and none is measured.
    MeasureNone,
    /// Sections that are not measured are not added.
    AddMeasured,
    /// Sections with PAGE.AUG are added too.
    AddAug,
}

/// What becomes of one section.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Treatment {
    /// It is not added.
    LeftOut,
    /// Its pages are added.
    Added,
    /// Its pages are added and measured.
    Measured(Contents),
}

/// What is measured of a section.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Contents {
    /// What a VMM puts there: bytes of the image, the hand-off blocks as QEMU makes them, zeros.
    Usual,
    /// A TD_HOB that was not written yet.
    Zeros,
    /// A TD_HOB as Google's hypervisor writes it.
    Gce(GceMachine),
}

/// A recipe for a launch.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Variant {
    /// How the metadata is found.
    pub location: Location,
    /// The order of adding and measuring.
    pub order: Order,
    /// The order of the sections.
    pub sequence: Sequence,
    /// From the last page of a section to its first.
    pub descending: bool,
    /// What is behind the contents of a section.
    pub fill: Fill,
    /// How sections are treated.
    pub rule: Rule,
    /// Sections that are treated differently.
    pub exceptions: Vec<(SectionAt, Treatment)>,
}

/// One thing in which a launch differs from another.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Deviation {
    /// The metadata was found in another way.
    Location(Location),
    /// The order of adding and measuring.
    Order(Order),
    /// The order of the sections.
    Sequence(Sequence),
    /// Pages from last to first.
    Descending,
    /// What is behind the contents of a section.
    Fill(Fill),
    /// How sections are treated.
    Rule(Rule),
    /// One section is treated differently.
    Section(SectionAt, Treatment),
}

impl Variant {
    /// The launch as KVM and QEMU do it, with an order of adding and measuring.
    pub const fn usual(location: Location, order: Order) -> Variant {
        Variant {
            location,
            order,
            sequence: Sequence::Metadata,
            descending: false,
            fill: Fill::Zeros,
            rule: Rule::Attributes,
            exceptions: Vec::new(),
        }
    }

    /// What sets it apart from another recipe, the most general first.
    pub fn deviations(&self, from: &Variant) -> Vec<Deviation> {
        let mut found = Vec::new();
        let mut differs = |is: bool, deviation| {
            if is {
                found.push(deviation);
            }
        };
        differs(
            self.location != from.location,
            Deviation::Location(self.location),
        );
        differs(self.order != from.order, Deviation::Order(self.order));
        differs(
            self.sequence != from.sequence,
            Deviation::Sequence(self.sequence),
        );
        differs(self.descending != from.descending, Deviation::Descending);
        differs(self.fill != from.fill, Deviation::Fill(self.fill));
        differs(self.rule != from.rule, Deviation::Rule(self.rule));
        let exceptions = self.exceptions.iter();
        found.extend(exceptions.map(|(at, treatment)| Deviation::Section(*at, *treatment)));
        found
    }
}
