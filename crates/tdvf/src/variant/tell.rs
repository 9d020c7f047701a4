//! Deviations in words: what was done, and by whom it is known to be done.

use std::fmt;

use super::{Contents, Deviation, Fill, Rule, Sequence, Treatment};
use crate::{Location, Order};

impl fmt::Display for Deviation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Location(Location::FixedPointer) => f.write_str(
                "the metadata is found by the pointer 32 bytes before the end of the image (TD-shim, \
                 VMMs before the GUIDed table)",
            ),
            Self::Location(Location::GuidTable) => {
                f.write_str("the metadata is found by the GUIDed table (QEMU, OVMF)")
            }
            Self::Order(order) => f.write_str(order_text(*order)),
            Self::Sequence(sequence) => f.write_str(match sequence {
                Sequence::Metadata => "the sections are taken in the order of the metadata",
                Sequence::ByAddress => "the sections are taken by address",
                Sequence::ByKind => "the sections are taken by type",
            }),
            Self::Descending => f.write_str("the pages of a section are taken from last to first"),
            Self::Fill(fill) => f.write_str(match fill {
                Fill::Zeros => "what a section has no contents for is zero",
                Fill::Image => {
                    "what a section has no contents for is what follows in the image (QEMU, whose \
                     source is the mapped image)"
                }
                Fill::Ones => "what a section has no contents for is 0xff",
                Fill::Unmeasured => "pages that a section has no contents for are not measured",
            }),
            Self::Rule(rule) => f.write_str(rule_text(*rule)),
            Self::Section(at, treatment) => write!(f, "{at} {treatment}"),
        }
    }
}

const fn order_text(order: Order) -> &'static str {
    match order {
        Order::PerPage => {
            "order per page: each page is measured right after it was added (KVM since Linux 6.16)"
        }
        Order::PerSection => {
            "order per section: all pages of a section are added, then measured (kernels and QEMU \
             before the merge; \"two-pass\" of dstack)"
        }
        Order::WholeImage => {
            "order whole image: all pages of all sections are added, then those to be measured are"
        }
    }
}

const fn rule_text(rule: Rule) -> &'static str {
    match rule {
        Rule::Attributes => "the attributes say what is measured",
        Rule::MeasureAll => {
            "every section is measured, whatever its attributes say (Google's hypervisor before it \
             was corrected)"
        }
        Rule::MeasureNone => "no section is measured, only the addresses of its pages are",
        Rule::AddMeasured => "only measured sections are added",
        Rule::AddAug => "sections marked PAGE.AUG are added too",
    }
}

impl fmt::Display for Treatment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::LeftOut => f.write_str("is left out"),
            Self::Added => f.write_str("is added and not measured"),
            Self::Measured(Contents::Usual) => f.write_str("is measured"),
            Self::Measured(Contents::Zeros) => f.write_str("is measured while it is still zero"),
            Self::Measured(Contents::Gce(machine)) => {
                write!(f, "is measured with the hand-off blocks of {machine}")
            }
        }
    }
}
