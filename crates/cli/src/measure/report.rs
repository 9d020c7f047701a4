//! What `seamlock measure` prints.

use std::io::Write;

use anstream::stdout;
use seamlock_tdvf::{Mrtd, Order, PAGE_SIZE, Region, mrtd};
use seamlock_wear::{Calls, Op};
use serde::Serialize;

use super::Comparison;
use crate::launch::{Firmware, SectionRow, recorded_region, size};
use crate::style::{BAD, DIM, GOOD, HEAD};

/// The JSON object. Fields are only ever added.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    firmware: String,
    firmware_bytes: usize,
    memory_bytes: u64,
    order: String,
    sections: Vec<Row>,
    pages_added: u64,
    pages_extended: u64,
    extends: u64,
    mrtd: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    expected: Option<ExpectedRow>,
    /// What is added, page by page, for `seamlock diff`.
    regions: Vec<seamlock_wear::Region>,
}

#[derive(Debug, Serialize)]
struct Row {
    #[serde(flatten)]
    section: SectionRow,
    /// SHA-384 of the contents, of a measured section.
    contents: Option<String>,
    /// MRTD of a TD that has the sections up to this one.
    mrtd_so_far: Option<String>,
}

#[derive(Debug, Serialize)]
struct ExpectedRow {
    mrtd: String,
    from: Option<String>,
    matches: bool,
    /// What the value is, if it is no launch's.
    note: Option<&'static str>,
    /// What was different in the launch that gives it; null when none was found.
    deviations: Option<Vec<String>>,
    /// Launches that were tried.
    tried: u64,
    /// All launches with at most so many deviations were tried.
    tried_deviations: u32,
}

impl Report {
    pub(super) fn new(
        firmware: &Firmware,
        memory: u64,
        order: Order,
        mrtd: Mrtd,
        comparison: Option<&Comparison>,
    ) -> Report {
        let plan = &firmware.plan;
        Report {
            firmware: firmware.name.clone(),
            firmware_bytes: firmware.image.len(),
            memory_bytes: memory,
            order: order.to_string().replace(' ', "-"),
            sections: rows(firmware, order),
            pages_added: plan.pages_added(),
            pages_extended: plan.extends() / 16,
            extends: plan.extends(),
            mrtd: mrtd.to_string(),
            expected: comparison.map(expected),
            regions: regions(firmware, order),
        }
    }

    pub(super) fn json(&self) -> anyhow::Result<()> {
        writeln!(stdout(), "{}", serde_json::to_string_pretty(self)?)?;
        Ok(())
    }

    pub(super) fn text(&self) -> anyhow::Result<()> {
        let out = &mut stdout();
        let Report {
            firmware, order, ..
        } = self;
        let (image, memory) = (size(self.firmware_bytes as u64), size(self.memory_bytes));
        writeln!(out, "{firmware} ({image}), {memory}, order {order}")?;
        writeln!(out, "\n{HEAD}sections{HEAD:#}")?;
        writeln!(
            out,
            "  {DIM}#  type      first page   bytes       pages  file offset  contents{DIM:#}"
        )?;
        for (i, row) in self.sections.iter().enumerate() {
            section(out, i, &row.section)?;
        }
        writeln!(out, "\n{HEAD}MRTD{HEAD:#} {GOOD}{}{GOOD:#}", self.mrtd)?;
        writeln!(
            out,
            "  {} pages added, {} of them extended ({} MR.EXTEND)",
            self.pages_added, self.pages_extended, self.extends
        )?;
        if let Some(expected) = &self.expected {
            compared(out, expected)?;
        }
        Ok(())
    }
}

fn section(out: &mut impl Write, i: usize, row: &SectionRow) -> anyhow::Result<()> {
    let contents = row.contents();
    let from = if row.file_bytes == 0 {
        "-".to_owned()
    } else {
        format!("{:#x}", row.file_offset)
    };
    let SectionRow {
        r#type,
        gpa,
        bytes,
        pages,
        ..
    } = row;
    writeln!(
        out,
        "  {i:<2} {type:<9} {gpa:<12} {bytes:<#11x} {pages:<6} {from:<12} {contents}"
    )?;
    Ok(())
}

fn compared(out: &mut impl Write, expected: &ExpectedRow) -> anyhow::Result<()> {
    let style = if expected.matches { GOOD } else { BAD };
    let from = expected.from.as_deref().map(|from| format!(", {from}"));
    let from = from.unwrap_or_default();
    let verdict = if expected.matches {
        "the same"
    } else {
        "different"
    };
    writeln!(
        out,
        "{HEAD}expected{HEAD:#} {}{from}: {style}{verdict}{style:#}",
        expected.mrtd
    )?;
    if expected.matches {
        return Ok(());
    }
    if let Some(note) = expected.note {
        writeln!(out, "  {note}")?;
        return Ok(());
    }
    let (tried, deviations) = (expected.tried, expected.tried_deviations);
    match &expected.deviations {
        Some(found) => {
            writeln!(out, "  a launch of this firmware gives it, in which")?;
            for deviation in found {
                writeln!(out, "  - {deviation}")?;
            }
        }
        None => writeln!(
            out,
            "  no launch of this firmware that was tried gives it: {tried} ways, among them all \
             with {deviations} deviations at the most. Another firmware?"
        )?,
    }
    Ok(())
}

fn expected(comparison: &Comparison) -> ExpectedRow {
    let search = comparison.search.as_ref();
    let texts = |found: &Vec<_>| found.iter().map(ToString::to_string).collect();
    ExpectedRow {
        mrtd: comparison.expected.mrtd.to_string(),
        from: comparison.expected.from.clone(),
        matches: comparison.same,
        note: comparison.note,
        deviations: comparison.deviations.as_ref().map(texts),
        tried: search.map_or(0, |search| search.tried),
        tried_deviations: search.map_or(0, |search| search.deviations),
    }
}

/// The regions, with the calls that this order makes of each.
fn regions(firmware: &Firmware, order: Order) -> Vec<seamlock_wear::Region> {
    let Firmware { plan, image, .. } = firmware;
    let calls = |region: &Region| {
        let mut calls = Calls::default();
        let add = |page: u64| (Op::Add, region.gpa + page * PAGE_SIZE);
        let extend = |page: u64| {
            let chunks = if region.measured { 16 } else { 0 };
            (0..chunks).map(move |i| (Op::Extend, region.gpa + page * PAGE_SIZE + i * 256))
        };
        let mut push = |(op, gpa)| calls.push(op, gpa);
        match order {
            Order::PerPage => (0..region.pages).for_each(|page| {
                push(add(page));
                extend(page).for_each(&mut push);
            }),
            Order::PerSection | Order::WholeImage => {
                (0..region.pages).map(add).for_each(&mut push);
                (0..region.pages).flat_map(extend).for_each(&mut push);
            }
        }
        calls
    };
    let regions = plan.regions.iter();
    regions
        .map(|region| recorded_region(plan, image, region, &calls(region)))
        .collect()
}

fn rows(firmware: &Firmware, order: Order) -> Vec<Row> {
    let (plan, image) = (&firmware.plan, &firmware.image);
    let mut so_far = openssl::sha::Sha384::new();
    let sections = SectionRow::all(plan).enumerate();
    sections
        .map(|(index, section)| {
            let region = plan.regions.iter().find(|r| r.section == index);
            let mrtd_so_far = region.map(|region| {
                mrtd::hashed_region(plan, image, region, order, &mut |bytes| {
                    so_far.update(bytes);
                });
                Mrtd(so_far.clone().finish()).to_string()
            });
            let measured = region.filter(|region| region.measured);
            let contents = measured.map(|region| {
                Mrtd(openssl::sha::sha384(&plan.contents(image, region))).to_string()
            });
            Row {
                section,
                contents,
                mrtd_so_far,
            }
        })
        .collect()
}
