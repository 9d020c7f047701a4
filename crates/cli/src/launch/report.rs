//! What a launch prints.

use std::collections::BTreeMap;
use std::io::Write;

use anstream::stdout;
use seamlock_tdx_abi::Leaf;
use seamlock_wear::{Parameters, Region, Step};
use serde::Serialize;

use super::firmware::Firmware;
use super::guest::Ended;
use super::journal::Line;
use super::launched::Launched;
use super::section::SectionRow;
use crate::style::{BAD, DIM, GOOD, HEAD};

/// The JSON object. Fields are only ever added.
#[derive(Debug, Serialize)]
struct Report<'a> {
    firmware: &'a str,
    firmware_bytes: usize,
    discipline: &'a str,
    vcpus: u32,
    memory_bytes: u64,
    sections: Vec<SectionRow>,
    ioctls: &'a [Line],
    seamcalls: BTreeMap<&'a str, u64>,
    seamcalls_failed: BTreeMap<&'a str, u64>,
    mrtd: &'a str,
    pages_added: u64,
    pages_extended: u64,
    extends: u64,
    pages_reclaimed: u64,
    pages_leaked: u64,
    hkid_returned: bool,
    bugs: &'a [String],
    parameters: &'a Parameters,
    rcx: &'a BTreeMap<u32, u64>,
    regions: &'a [Region],
    #[serde(skip_serializing_if = "<[Step]>::is_empty")]
    steps: &'a [Step],
    #[serde(skip_serializing_if = "<[Ended]>::is_empty")]
    ended: &'a [Ended],
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    rtmrs: &'a [String],
}

fn report<'a>(firmware: &'a Firmware, launched: &'a Launched) -> Report<'a> {
    let calls = |of: fn(&(Leaf, u64, u64)) -> u64| {
        let rows = launched.seamcalls.iter();
        let named = rows.filter_map(move |row| Some((row.0.spec_name()?, of(row))));
        named.filter(|(_, count)| *count > 0).collect()
    };
    let extends = launched.succeeded(Leaf::MR_EXTEND);
    let teardown = &launched.teardown;
    Report {
        firmware: &firmware.name,
        firmware_bytes: firmware.image.len(),
        discipline: launched.request.discipline.name,
        vcpus: launched.request.vcpus,
        memory_bytes: launched.request.memory,
        sections: SectionRow::all(&firmware.plan).collect(),
        ioctls: &launched.ioctls,
        seamcalls: calls(|row| row.1),
        seamcalls_failed: calls(|row| row.2),
        mrtd: &launched.mrtd,
        pages_added: launched.succeeded(Leaf::MEM_PAGE_ADD),
        pages_extended: extends / 16,
        extends,
        pages_reclaimed: teardown.pages_reclaimed(),
        pages_leaked: teardown.pages_leaked,
        hkid_returned: teardown.hkid_returned,
        bugs: &launched.bugs,
        parameters: &launched.recorded.parameters,
        rcx: &launched.recorded.rcx,
        regions: &launched.recorded.regions,
        steps: &launched.steps,
        ended: &launched.ended,
        rtmrs: &launched.rtmrs,
    }
}

/// Prints one JSON object.
pub fn json(firmware: &Firmware, launched: &Launched) -> anyhow::Result<()> {
    let text = serde_json::to_string_pretty(&report(firmware, launched))?;
    writeln!(stdout(), "{text}")?;
    Ok(())
}

/// Prints the launch for people.
pub fn text(firmware: &Firmware, launched: &Launched) -> anyhow::Result<()> {
    let report = report(firmware, launched);
    let out = &mut stdout();
    head(out, &report)?;
    sections(out, &report.sections)?;
    ioctls(out, report.ioctls)?;
    seamcalls(out, &report)?;
    if !report.ended.is_empty() {
        guest(out, &report)?;
    }
    result(out, &report)
}

fn head(out: &mut impl Write, report: &Report) -> anyhow::Result<()> {
    let Report {
        firmware,
        discipline,
        vcpus,
        ..
    } = report;
    let (image, memory) = (
        size(report.firmware_bytes as u64),
        size(report.memory_bytes),
    );
    let vcpus = if *vcpus == 1 {
        "1 vCPU".to_owned()
    } else {
        format!("{vcpus} vCPUs")
    };
    writeln!(
        out,
        "{firmware} ({image}), {vcpus}, {memory}, discipline {discipline}"
    )?;
    Ok(())
}

fn sections(out: &mut impl Write, rows: &[SectionRow]) -> anyhow::Result<()> {
    writeln!(out, "\n{HEAD}sections{HEAD:#}")?;
    writeln!(
        out,
        "  {DIM}#  type      first page   bytes       pages  contents{DIM:#}"
    )?;
    for (i, row) in rows.iter().enumerate() {
        let contents = row.contents();
        let SectionRow {
            r#type,
            gpa,
            bytes,
            pages,
            ..
        } = row;
        writeln!(
            out,
            "  {i:<2} {type:<9} {gpa:<12} {bytes:<#11x} {pages:<6} {contents}"
        )?;
    }
    Ok(())
}

fn ioctls(out: &mut impl Write, lines: &[Line]) -> anyhow::Result<()> {
    writeln!(out, "\n{HEAD}ioctls{HEAD:#}")?;
    for line in lines {
        writeln!(out, "  {line}")?;
    }
    Ok(())
}

fn seamcalls(out: &mut impl Write, report: &Report) -> anyhow::Result<()> {
    writeln!(out, "\n{HEAD}SEAMCALLs{HEAD:#}")?;
    for (name, count) in &report.seamcalls {
        let failed = report.seamcalls_failed.get(name).copied().unwrap_or(0);
        let failed = if failed > 0 {
            format!("  {failed} failed")
        } else {
            String::new()
        };
        writeln!(out, "  {count:>7} {name}{failed}")?;
    }
    Ok(())
}

fn guest(out: &mut impl Write, report: &Report) -> anyhow::Result<()> {
    writeln!(out, "\n{HEAD}guest{HEAD:#}")?;
    for step in report.steps {
        let Step {
            vcpu,
            line,
            text,
            seen,
        } = step;
        writeln!(
            out,
            "  line {line}, vCPU {vcpu}: {text} {DIM}→{DIM:#} {seen}"
        )?;
    }
    for Ended { vcpu, by, exits } in report.ended {
        writeln!(out, "  vCPU {vcpu}: {exits} exits answered, then {by}")?;
    }
    for (i, rtmr) in report.rtmrs.iter().enumerate() {
        if rtmr.bytes().any(|digit| digit != b'0') {
            writeln!(out, "  RTMR{i} {GOOD}{rtmr}{GOOD:#}")?;
        }
    }
    Ok(())
}

fn result(out: &mut impl Write, report: &Report) -> anyhow::Result<()> {
    let Report {
        mrtd,
        pages_added,
        pages_extended,
        extends,
        ..
    } = report;
    writeln!(out, "\n{HEAD}MRTD{HEAD:#} {GOOD}{mrtd}{GOOD:#}")?;
    writeln!(
        out,
        "  {pages_added} pages added, {pages_extended} of them extended ({extends} MR.EXTEND)"
    )?;
    let Report {
        pages_reclaimed,
        pages_leaked,
        hkid_returned,
        ..
    } = report;
    let style = if *pages_leaked == 0 && *hkid_returned {
        GOOD
    } else {
        BAD
    };
    let hkid = if *hkid_returned { "returned" } else { "leaked" };
    writeln!(
        out,
        "{HEAD}teardown{HEAD:#} {style}{pages_reclaimed} pages reclaimed, {pages_leaked} leaked, \
         HKID {hkid}{style:#}"
    )?;
    for bug in report.bugs {
        writeln!(out, "{BAD}{bug}{BAD:#}")?;
    }
    Ok(())
}

/// A size for people, exact.
pub fn size(bytes: u64) -> String {
    let units = [
        (1 << 40, "TiB"),
        (1 << 30, "GiB"),
        (1 << 20, "MiB"),
        (1 << 10, "KiB"),
    ];
    let fits = units
        .iter()
        .find(|(unit, _)| bytes >= *unit && bytes.is_multiple_of(*unit));
    fits.map_or_else(
        || format!("{bytes} bytes"),
        |(unit, name)| format!("{} {name}", bytes / unit),
    )
}
