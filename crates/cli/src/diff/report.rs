//! What `seamlock diff` prints.

use std::io::Write;

use anstream::stdout;
use seamlock_wear::Op;
use serde::Serialize;

use super::compare::{Comparison, Divergence, Kind, Mrtds, Parameter, Rtmr};
use super::launches::{Launch, Step};
use crate::style::{BAD, DIM, GOOD, HEAD};

/// The JSON object. Fields are only ever added.
#[derive(Debug, Serialize)]
pub(super) struct Report<'a> {
    same: bool,
    a: &'a str,
    b: &'a str,
    parameters: &'a [Parameter],
    first_divergence: Option<Told>,
    /// The first divergence that MRTD sees, if that is another.
    first_measured_divergence: Option<Told>,
    /// Pages of both launches whose contents differ.
    pages_with_other_contents: u64,
    mrtd: Mrtds,
    mrtd_a: Option<&'a str>,
    mrtd_b: Option<&'a str>,
    effect: String,
    /// Run-time measurement registers that differ.
    rtmrs: &'a [Rtmr],
}

/// A divergence in words.
#[derive(Debug, Serialize)]
struct Told {
    kind: Kind,
    /// Calls that went into MRTD before it, the same in both.
    after_calls: u64,
    what: String,
    a: String,
    b: String,
    measured: bool,
}

impl<'a> Report<'a> {
    pub(super) fn new(a: &'a Launch, b: &'a Launch, found: &'a Comparison) -> Report<'a> {
        let told = |divergence: &Divergence| told(a, b, divergence);
        Report {
            same: found.is_same(),
            a: &a.name,
            b: &b.name,
            parameters: &found.parameters,
            first_divergence: found.first.as_ref().map(told),
            first_measured_divergence: found.measured.as_ref().map(told),
            pages_with_other_contents: found.contents,
            mrtd: found.mrtd,
            mrtd_a: a.mrtd.as_deref(),
            mrtd_b: b.mrtd.as_deref(),
            effect: effect(found),
            rtmrs: &found.rtmrs,
        }
    }

    pub(super) fn json(&self) -> anyhow::Result<()> {
        writeln!(stdout(), "{}", serde_json::to_string_pretty(self)?)?;
        Ok(())
    }

    pub(super) fn text(&self) -> anyhow::Result<()> {
        let out = &mut stdout();
        writeln!(out, "{DIM}A{DIM:#} {}", self.a)?;
        writeln!(out, "{DIM}B{DIM:#} {}", self.b)?;
        if !self.parameters.is_empty() {
            writeln!(out, "\n{HEAD}parameters{HEAD:#}")?;
        }
        for Parameter { name, a, b } in self.parameters {
            let shown = |value: &Option<String>| value.clone().unwrap_or_else(|| "-".to_owned());
            writeln!(out, "  {name}\n    A {}\n    B {}", shown(a), shown(b))?;
        }
        divergence(out, "first divergence", self.first_divergence.as_ref())?;
        let measured = self.first_measured_divergence.as_ref();
        divergence(out, "first divergence that MRTD sees", measured)?;
        if self.pages_with_other_contents > 1 {
            let pages = self.pages_with_other_contents;
            writeln!(out, "  {pages} pages have other contents")?;
        }
        writeln!(out, "\n{HEAD}MRTD{HEAD:#}")?;
        for (name, mrtd) in [("A", self.mrtd_a), ("B", self.mrtd_b)] {
            writeln!(
                out,
                "  {name} {}",
                mrtd.unwrap_or("none: the TD was not finalised")
            )?;
        }
        let style = if self.same { GOOD } else { BAD };
        writeln!(out, "  {style}{}{style:#}", self.effect)?;
        if !self.rtmrs.is_empty() {
            writeln!(
                out,
                "\n{HEAD}RTMRs{HEAD:#}, which the guest extended otherwise"
            )?;
        }
        for Rtmr { index, a, b } in self.rtmrs {
            writeln!(out, "  RTMR{index}\n    A {a}\n    B {b}")?;
        }
        Ok(())
    }
}

fn divergence(out: &mut impl Write, title: &str, told: Option<&Told>) -> anyhow::Result<()> {
    let Some(told) = told else {
        return Ok(());
    };
    let (what, calls) = (&told.what, told.after_calls);
    let unit = if calls == 1 { "call" } else { "calls" };
    writeln!(out, "\n{HEAD}{title}{HEAD:#}: {what}, after {calls} {unit}")?;
    writeln!(out, "  A {}\n  B {}", told.a, told.b)?;
    Ok(())
}

fn told(a: &Launch, b: &Launch, divergence: &Divergence) -> Told {
    let Divergence {
        kind,
        after,
        is_measured,
        ..
    } = *divergence;
    let what = match kind {
        Kind::Section => "a section is in one launch only",
        Kind::Page => "a page is in one launch only",
        Kind::Measured => "contents are measured in one launch only",
        Kind::Order => "the order",
        Kind::Contents if is_measured => "contents of a page",
        Kind::Contents => "contents of a page, not measured",
    };
    Told {
        kind,
        after_calls: after,
        what: what.to_owned(),
        a: step((a, b), kind, divergence.a),
        b: step((b, a), kind, divergence.b),
        measured: is_measured,
    }
}

/// What a launch does next, and where.
fn step((launch, other): (&Launch, &Launch), kind: Kind, step: Option<Step>) -> String {
    let Some(step) = step else {
        return "ends here".to_owned();
    };
    let part = &launch.parts[step.part];
    let region = &part.region;
    let same = |section: &&super::launches::Part| section.region.gpa == region.gpa;
    let named = part
        .section
        .clone()
        .or_else(|| other.parts.iter().find(same)?.section.clone());
    let name = named.map_or_else(String::new, |name| format!(" ({name})"));
    let page = step.gpa.wrapping_sub(region.gpa) / 4096;
    let call = match step.op {
        Op::Add => "TDH.MEM.PAGE.ADD",
        Op::Extend => "TDH.MR.EXTEND",
    };
    let more = match (kind, step.digest) {
        (Kind::Order, _) => format!(": {}", region.calls),
        (Kind::Contents, Some(digest)) => format!(": SHA-384 {digest:016x}…"),
        _ => String::new(),
    };
    let (gpa, pages) = (step.gpa, region.pages);
    format!(
        "{call} {gpa:#x}, page {page} of {pages} in region {}{name}{more}",
        step.part
    )
}

fn effect(found: &Comparison) -> String {
    let text = match (found.mrtd, found.blamed().is_some(), found.is_same()) {
        (Mrtds::Same, false, true) => "the launches are the same",
        (Mrtds::Same, false, false) => "the same: MRTD sees nothing of what differs",
        (Mrtds::Same, true, _) => {
            "the same, although what is measured differs: one of the files is not of its launch"
        }
        (Mrtds::Different, true, _) => "different from this divergence on",
        (Mrtds::Different, false, _) => {
            "different, although everything that is measured is the same: one of the files is not of \
             its launch, or pages were changed while they were added"
        }
        (Mrtds::Unknown, true, _) => "would be different from this divergence on",
        (Mrtds::Unknown, false, _) => "would be the same",
    };
    text.to_owned()
}
