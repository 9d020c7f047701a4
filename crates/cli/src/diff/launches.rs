//! A launch, from any of the files that hold one.

use std::collections::BTreeMap;
use std::path::Path;

use seamlock_wear::{Calls, Digests, Op, Parameters, Region, Run};
use serde::Deserialize;
use serde_json::Value;

use crate::failure::BadInput;
use crate::output;

/// How the parameter is called that KVM_TDX_INIT_VCPU gives a vCPU: where firmware looks for its hand-off blocks.
pub(super) const RCX: &str = "RCX of vCPU";

/// A launch.
#[derive(Debug)]
pub(super) struct Launch {
    /// The file, and which TD of it.
    pub(super) name: String,
    /// Parameters by name.
    pub(super) parameters: Vec<(String, String)>,
    /// What was added, in order.
    pub(super) parts: Vec<Part>,
    /// The measurement, of a TD that was finalised.
    pub(super) mrtd: Option<String>,
    /// The run-time measurement registers, of a TD that could run.
    pub(super) rtmrs: Vec<String>,
}

/// A region, with its calls and digests.
#[derive(Debug)]
pub(super) struct Part {
    /// The section that it is, where the file knows.
    pub(super) section: Option<String>,
    pub(super) region: Region,
    pub(super) calls: Calls,
    /// The digest of each page, by its index; empty when the pages could not be read.
    pub(super) digests: Vec<u64>,
}

/// One step of a launch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Step {
    /// Index of the part.
    pub(super) part: usize,
    pub(super) op: Op,
    pub(super) gpa: u64,
    /// The digest of the page.
    pub(super) digest: Option<u64>,
}

impl Launch {
    /// Reads the `td`th TD of a file, counted from 1.
    ///
    /// # Errors
    /// One line that says what the file is not.
    pub(super) fn read(path: &Path, td: usize) -> Result<Launch, BadInput> {
        let file = path.display();
        let bad = |what: String| BadInput(format!("{file}: {what}"));
        let text = output::read(path)?;
        let value: Value = serde_json::from_str(&text).map_err(|error| bad(error.to_string()))?;
        let mut launches = of_run(&value)
            .or_else(|| of_launch(&value))
            .ok_or_else(|| {
                bad(
                    "no file of `seamlock run --json`, `launch --json` or `measure --json`"
                        .to_owned(),
                )
            })?;
        let there = launches.len();
        if there < td {
            let what = match (there, td) {
                (0, _) => format!("no TD was made in it{}", refusals(&value)),
                (1, _) => format!("TD {td} is asked for, and there is one"),
                _ => format!("TD {td} is asked for, and there are {there}"),
            };
            return Err(bad(what));
        }
        let Raw { found, parameters } = launches.swap_remove(td - 1);
        let name = if there == 1 {
            file.to_string()
        } else {
            format!("{file}, TD {td} of {there}")
        };
        let parts = found
            .regions
            .into_iter()
            .map(|region| part(region, &found.sections));
        Ok(Launch {
            name,
            parameters,
            parts: parts.collect::<Result<_, _>>().map_err(bad)?,
            mrtd: found.mrtd.filter(|mrtd| !mrtd.is_empty()),
            rtmrs: found.rtmrs,
        })
    }

    /// Every call that went into MRTD, in order.
    pub(super) fn steps(&self) -> impl Iterator<Item = Step> {
        let parts = self.parts.iter().enumerate();
        parts.flat_map(|(index, part)| {
            let calls = part.calls.runs().iter().copied().flat_map(Run::calls);
            calls.map(move |(op, gpa)| Step {
                part: index,
                op,
                gpa,
                digest: part.digest(gpa),
            })
        })
    }
}

impl Part {
    fn digest(&self, gpa: u64) -> Option<u64> {
        let page = gpa.checked_sub(self.region.gpa)? / 4096;
        self.digests.get(usize::try_from(page).ok()?).copied()
    }
}

/// What a TD has in every kind of file.
#[derive(Debug, Deserialize)]
struct Found {
    regions: Vec<Region>,
    mrtd: Option<String>,
    /// A run's.
    #[serde(default)]
    rtmrs: Vec<String>,
    parameters: Option<Parameters>,
    /// A launch's sections.
    #[serde(default)]
    sections: Vec<Section>,
    /// A launch's number of vCPUs, or the ids of a run's.
    vcpus: Option<Value>,
    memory_bytes: Option<u64>,
    /// Of each vCPU.
    #[serde(default)]
    rcx: BTreeMap<u32, u64>,
}

#[derive(Debug, Deserialize)]
struct Section {
    r#type: String,
    gpa: String,
}

struct Raw {
    found: Found,
    parameters: Vec<(String, String)>,
}

/// What a run that made no TD was refused last, if anything.
fn refusals(value: &Value) -> String {
    let processes = value["processes"].as_array().into_iter().flatten();
    let all = processes.filter_map(|process| process["refusals"].as_array());
    let text = |refusal: &Value, name: &str| refusal[name].as_str().unwrap_or("?").to_owned();
    let last = all.flatten().last();
    last.map_or_else(
        || ": the VMM gave up before KVM_TDX_INIT_VM, see its own output".to_owned(),
        |refusal| {
            let parts = ["call", "errno", "reason"].map(|name| text(refusal, name));
            format!("; refused at last: {} {}, {}", parts[0], parts[1], parts[2])
        },
    )
}

/// The TDs of a run, in the order in which they were made.
fn of_run(value: &Value) -> Option<Vec<Raw>> {
    let processes = value.get("processes")?.as_array()?;
    let vms = processes
        .iter()
        .filter_map(|process| process.get("vms")?.as_array());
    let is_td = |vm: &&Value| vm.get("parameters").is_some_and(|p| !p.is_null());
    vms.flatten().filter(is_td).map(raw).collect()
}

fn of_launch(value: &Value) -> Option<Vec<Raw>> {
    value.get("mrtd")?;
    Some(vec![raw(value)?])
}

fn raw(value: &Value) -> Option<Raw> {
    let found: Found = serde_json::from_value(value.clone()).ok()?;
    let parameters = parameters(&found);
    Some(Raw { found, parameters })
}

fn parameters(found: &Found) -> Vec<(String, String)> {
    let mut all = Vec::new();
    let mut add = |name: &str, value: String| all.push((name.to_owned(), value));
    if let Some(p) = &found.parameters {
        add("ATTRIBUTES", format!("{:#x}", p.attributes));
        add("XFAM", format!("{:#x}", p.xfam));
        add("MRCONFIGID", p.mrconfigid.clone());
        add("MROWNER", p.mrowner.clone());
        add("MROWNERCONFIG", p.mrownerconfig.clone());
        for entry in &p.cpuid {
            let (leaf, registers) = entry.split_once(' ').unwrap_or((entry, ""));
            add(&format!("CPUID {leaf}"), registers.to_owned());
        }
    }
    let vcpus = found.vcpus.as_ref();
    let count = vcpus.and_then(|v| v.as_u64().or_else(|| Some(v.as_array()?.len() as u64)));
    if let Some(count) = count {
        add("vCPUs", count.to_string());
    }
    for (vcpu, rcx) in &found.rcx {
        add(&format!("{RCX} {vcpu}"), format!("{rcx:#x}"));
    }
    // What measure says of memory is not a launch's.
    if let Some(bytes) = found.memory_bytes.filter(|_| found.parameters.is_some()) {
        add("guest memory", format!("{bytes} bytes"));
    }
    all
}

/// Pages of a region that are read: 64 GiB, where firmware has some MiB.
const MAX_PAGES: u64 = 1 << 24;

fn part(region: Region, sections: &[Section]) -> Result<Part, String> {
    let Region { gpa, pages, .. } = region;
    let at = format!("region at {gpa:#x}");
    if pages > MAX_PAGES {
        return Err(format!(
            "{at}: {pages} pages; {MAX_PAGES} are read at the most"
        ));
    }
    if region.calls.is_empty() && pages > 0 {
        return Err(format!(
            "{at}: without its calls; written by an older seamlock, which did not keep them"
        ));
    }
    let calls = Calls::parse(&region.calls, gpa, pages)
        .ok_or_else(|| format!("{at}: its calls can't be read"))?;
    let digests = Digests::parse(&region.page_contents)
        .filter(|digests| digests.len() <= pages)
        .ok_or_else(|| format!("{at}: its pages' digests can't be read"))?;
    let section = sections.iter().find(|s| s.gpa == format!("{gpa:#x}"));
    Ok(Part {
        section: section.map(|s| s.r#type.clone()),
        digests: digests.iter().collect(),
        calls,
        region,
    })
}
