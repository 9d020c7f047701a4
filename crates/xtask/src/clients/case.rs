//! One launch of one VMM.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::Signal;
use seamlock_tdvf::{Gpaw, LaunchPlan, MemoryLayout, Mrtd, Order, mrtd};
use seamlock_wear::{Crash, Summary, Vm, read_records};

use super::check::{Check, Seen};
use super::jail::{Jail, Running};
use super::root::Root;

/// `KVM_X86_TDX_VM`.
const TDX_VM: u64 = 5;
/// The exit code of `seamlock run` when SIGSEGV ended the VMM.
pub(super) const SEGMENTATION_FAULT: i32 = 128 + 11;
/// How long a VMM may take.
const LIMIT: Duration = Duration::from_secs(60);
/// How often a running VMM is looked at.
const PAUSE: Duration = Duration::from_millis(20);
/// What a summary has of a TD that is final, and nothing else does.
const SUMMARY: &str = "    MRTD ";
/// Lines of output that are shown of a VMM that failed.
const SHOWN_LINES: usize = 30;

/// A launch.
#[derive(Clone, Debug)]
pub struct Case {
    /// What it shows, in a few words.
    pub name: String,
    /// The Debian package or crate of the VMM.
    pub client: &'static str,
    /// The VMM and its arguments.
    pub command: Vec<String>,
    /// Files that it needs in its `/tmp`.
    pub files: Vec<(&'static str, String)>,
    /// The firmware, as a path in the root.
    pub firmware: &'static str,
    /// Memory of a TD in MiB.
    pub memory: u64,
    /// vCPUs of a TD.
    pub vcpus: usize,
    /// How many TDs are built one after the other.
    pub tds: usize,
    /// What the guest does.
    pub script: &'static str,
    /// When it is over.
    pub until: Until,
    /// How many warnings it is known to give.
    pub warnings: usize,
    /// Options of `seamlock run`.
    pub options: Vec<String>,
    /// What else has to be so.
    pub checks: Vec<Check>,
    /// What the VMM does about the exit that the launch is about; empty for others.
    pub does: &'static str,
}

/// When a launch is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Until {
    /// The VMM ends because its guest ended.
    GuestEnds,
    /// The VMM is ended when all vCPUs ran.
    AllRan,
    /// The VMM gives up before it lets a vCPU run.
    VmmGivesUp,
    /// The VMM stays, stopped, after it said this; then it is ended.
    Says(&'static str),
    /// When all vCPUs ran, `seamlock run` is asked for the summary (SIGUSR1). When it came, and the VMM
    /// still runs, the VMM is ended.
    Asked,
}

/// What became of it.
#[derive(Debug)]
pub struct Outcome {
    /// The launch.
    pub case: Case,
    /// What seamlock saw.
    pub summary: Summary,
    /// The MRTD that the firmware has to give.
    pub expected: Mrtd,
    /// What is wrong.
    pub faults: Vec<String>,
    /// The exit code of `seamlock run`.
    pub code: Option<i32>,
}

impl Outcome {
    /// The trust domains that were built to the end.
    pub fn tds(&self) -> impl Iterator<Item = &Vm> {
        let vms = self
            .summary
            .processes
            .iter()
            .flat_map(|process| &process.vms);
        vms.filter(|vm| vm.vm_type == TDX_VM && vm.mrtd.is_some())
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let how = if self.faults.is_empty() {
            "ok"
        } else {
            "FAILED"
        };
        write!(f, "{how:6} {}", self.case.name)?;
        if let Some(us) = self.tds().find_map(|td| td.first_run_us) {
            write!(f, ", KVM_RUN after {:.0} ms", us as f64 / 1000.0)?;
        }
        self.faults
            .iter()
            .try_for_each(|fault| write!(f, "\n       {fault}"))
    }
}

impl Case {
    /// Runs it.
    pub fn run(&self, root: &Root) -> Result<Outcome> {
        let jail = root.jail()?;
        for (name, text) in &self.files {
            fs::write(jail.tmp().join(name), text)?;
        }
        fs::write(jail.tmp().join("script"), self.script)?;
        fs::create_dir(jail.tmp().join("run"))?;
        let output = jail.tmp().join("output");
        let args = [
            "seamlock",
            "run",
            "--script",
            "/tmp/script",
            "--json",
            "/tmp/summary.json",
        ];
        let mut args = args.to_vec();
        args.extend(self.options.iter().map(String::as_str));
        args.push("--");
        args.extend(self.command.iter().map(String::as_str));
        let status = self.wait(&jail, &mut jail.start(&args, &output)?, &output)?;
        let summary = fs::read(jail.tmp().join("summary.json"))
            .ok()
            .and_then(|json| serde_json::from_slice(&json).ok());
        let mut outcome = Outcome {
            expected: self.expected(root)?,
            summary: summary.unwrap_or_default(),
            faults: Vec::new(),
            code: status.and_then(|status| status.code()),
            case: self.clone(),
        };
        outcome.faults = outcome.judge();
        let said = String::from_utf8_lossy(&fs::read(&output)?).into_owned();
        let seen = Seen {
            status,
            output: &said,
            tmp: jail.tmp(),
            summary: &outcome.summary,
        };
        let failed = self.checks.iter().filter_map(|check| check.fault(&seen));
        outcome.faults.extend(failed);
        if status.is_none() {
            let text = format!("did not end within {} s", LIMIT.as_secs());
            outcome.faults.push(text);
        }
        if !outcome.faults.is_empty() {
            outcome
                .faults
                .extend(status.map(|status| status.to_string()));
            outcome.faults.extend(last_lines(&output)?);
        }
        Ok(outcome)
    }

    /// Waits for the end. None when it had to be killed.
    fn wait(
        &self,
        jail: &Jail,
        running: &mut Running,
        output: &Path,
    ) -> Result<Option<ExitStatus>> {
        let (mut asked, mut told) = (false, false);
        let said = |text: &str| -> Result<bool> {
            Ok(String::from_utf8_lossy(&fs::read(output)?).contains(text))
        };
        loop {
            let status = running.ended()?;
            if status.is_some() {
                return Ok(status);
            }
            if running.age() > LIMIT {
                running.kill()?;
                return Ok(None);
            }
            if self.until == Until::Asked && !asked && self.all_ran(jail)? {
                running.signal(Signal::USR1)?;
                asked = true;
            }
            let is_over = match self.until {
                Until::AllRan => self.all_ran(jail)?,
                Until::Says(text) => said(text)?,
                Until::Asked => asked && said(SUMMARY)?,
                Until::GuestEnds | Until::VmmGivesUp => false,
            };
            if is_over && !told {
                running.signal(Signal::TERM)?;
                told = true;
            }
            std::thread::sleep(PAUSE);
        }
    }

    /// Whether every vCPU of a TD ran, by the records that the VMM has written so far.
    fn all_ran(&self, jail: &Jail) -> Result<bool> {
        let Some(records) = records(jail.tmp())? else {
            return Ok(false);
        };
        let summary = Summary::of(&read_records(&records)?);
        let mut vms = summary.processes.iter().flat_map(|process| &process.vms);
        Ok(vms.any(|vm| vm.vm_type == TDX_VM && vm.ran.len() == self.vcpus))
    }

    /// The MRTD that the firmware has to give, from its file alone.
    fn expected(&self, root: &Root) -> Result<Mrtd> {
        let image = fs::read(root.path(self.firmware)).context(self.firmware)?;
        let layout = MemoryLayout::q35(self.memory << 20, image.len() as u64, Gpaw::Bits48)?;
        let plan = LaunchPlan::new(&image, layout)?;
        Ok(mrtd::predict(&plan, &image, Order::PerPage))
    }
}

impl Outcome {
    /// What hardware or the kernel would not do, or what is legal but unusual.
    pub fn warnings(&self) -> Vec<&String> {
        let processes = self.summary.processes.iter();
        processes.flat_map(|process| &process.warnings).collect()
    }

    /// What is wrong with what seamlock saw.
    pub(super) fn judge(&self) -> Vec<String> {
        let case = &self.case;
        let mut faults = Vec::new();
        let tds: Vec<&Vm> = self.tds().collect();
        if tds.len() != case.tds {
            faults.push(format!("{} TDs, not {}", tds.len(), case.tds));
        }
        let expected = self.expected.to_string();
        for td in tds {
            let mrtd = td.mrtd.as_deref().unwrap_or("none");
            if mrtd != expected {
                faults.push(format!("MRTD {mrtd}, not {expected}"));
            }
            if td.rtmrs.len() != 4 {
                faults.push(format!("{} RTMRs, not 4", td.rtmrs.len()));
            }
            if td.vcpus.len() != case.vcpus {
                faults.push(format!("{} vCPUs, not {}", td.vcpus.len(), case.vcpus));
            }
            let runs = case.until != Until::VmmGivesUp;
            if td.first_run_us.is_none() && runs {
                faults.push("no vCPU ran".to_owned());
            }
            if !td.left.is_empty() {
                faults.push(format!("left behind: {}", td.left));
            }
        }
        let warnings = self.warnings();
        if warnings.len() != case.warnings {
            let text = format!("{} warnings, not {}", warnings.len(), case.warnings);
            faults.push(text);
            faults.extend(warnings.into_iter().cloned());
        }
        let crashes: Vec<String> = self.crashes().map(Crash::to_string).collect();
        if self.code == Some(SEGMENTATION_FAULT) && crashes.is_empty() {
            faults.push("a segmentation fault that nobody saw".to_owned());
        }
        faults.extend(crashes.iter().map(|crash| format!("crashed: {crash}")));
        // Where errors are made up, ours may be among them.
        for process in self
            .summary
            .processes
            .iter()
            .filter(|_| case.options.is_empty())
        {
            faults.extend(process.bugs.iter().map(|text| format!("bug: {text}")));
        }
        faults
    }
}

/// The directory of `seamlock run`, once it is there.
fn records(tmp: &Path) -> Result<Option<PathBuf>> {
    for entry in fs::read_dir(tmp)? {
        let path = entry?.path();
        if path.join(seamlock_wear::SETTINGS_FILE).exists() {
            return Ok(Some(path));
        }
    }
    Ok(None)
}

fn last_lines(output: &Path) -> Result<Vec<String>> {
    let text = fs::read(output)?;
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    if lines.is_empty() {
        bail!("{} says nothing", output.display());
    }
    let from = lines.len().saturating_sub(SHOWN_LINES);
    Ok(lines[from..]
        .iter()
        .map(|line| format!("| {line}"))
        .collect())
}
