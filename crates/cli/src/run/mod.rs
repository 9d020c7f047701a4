//! `seamlock run`: a VMM that wears the library.

mod dress;
mod summary;
mod wearable;

use std::ffi::OsString;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::ops::RangeInclusive;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, ExitStatus};

use anyhow::{Context, Result};
use seamlock_kvm::discipline;
use seamlock_kvm::guest::script;
use seamlock_wear::{
    Injection, Line, Settings, Summary, read_records, read_traces, write_perfetto,
};
use serde::Serialize;
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1};
use signal_hook::iterator::Signals;

use crate::failure::BadInput;
use crate::output;
pub use dress::Dress;
use summary::Shown;

/// More than any machine has.
const LPS: RangeInclusive<u32> = 1..=4096;
/// GiB: what 46 bits of a physical address reach, of 52 the ones that are no HKID's.
const MEMORY: RangeInclusive<u64> = 1..=1 << 16;

/// Run a VMM on a machine with TDX.
///
/// The command, and every program that it starts, sees a /dev/kvm that can make trust domains, whether
/// this machine has one or not. Nothing reaches a real /dev/kvm. When the command ends, or on SIGUSR1,
/// a summary tells what it built.
#[derive(Debug, clap::Args)]
pub struct Run {
    /// How KVM locks (see `seamlock locks`)
    #[arg(long, value_name = "NAME")]
    discipline: Option<String>,
    /// Logical processors of the machine; a TD has at most as many vCPUs
    #[arg(long, value_name = "N", default_value_t = 64)]
    lps: u32,
    /// Memory of the machine in GiB
    #[arg(long, value_name = "GIB", default_value_t = 64)]
    machine_memory: u64,
    /// What the guest does, line by line (see docs/script.md); without one it halts
    #[arg(long, value_name = "FILE")]
    script: Option<PathBuf>,
    /// Make calls fail, as `TDH.MEM.PAGE.ADD@5=TDX_OPERAND_BUSY(TDR)` or `KVM_RUN@2x3=EINTR`; which:
    /// NTH, NTHxCOUNT, NTH+ for all from there on, N% of all
    #[arg(long, value_name = "NAME[@WHICH]=RESULT")]
    inject: Vec<String>,
    /// Check the order of KVM's locks, and record their use if there is a trace
    #[arg(long)]
    lockdep: bool,
    /// Write every ioctl and SEAMCALL to this file, as JSON lines, and to FILE.perfetto.json
    #[arg(long, value_name = "FILE")]
    trace: Option<PathBuf>,
    /// Write the summary to this file too, as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Say on standard error what KVM refuses, and why, as it happens
    #[arg(short, long)]
    verbose: bool,
    /// Print no summary
    #[arg(short, long)]
    quiet: bool,
    /// The VMM and its arguments
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<OsString>,
}

impl Run {
    /// Runs the command; its exit code is ours.
    pub fn run(&self) -> Result<ExitCode> {
        self.check_command()?;
        let outputs = [&self.json, &self.trace];
        outputs
            .into_iter()
            .flatten()
            .try_for_each(|path| output::probe(path))?;
        let dress = Dress::new(&self.settings()?)?;
        let status = self.wear(&dress)?;
        let summary = Summary::of(&read_records(dress.dir())?);
        if !self.quiet {
            anstream::eprint!("{}", Shown(&summary));
        }
        if let Some(signal) = status.signal().filter(|_| !self.quiet) {
            anstream::eprintln!("seamlock: the command was ended by signal {signal}");
        }
        if let Some(path) = &self.trace {
            write_trace(&dress, &summary, path)
                .map_err(|error| format!("can't write {}: {error:#}", path.display()))
                .map_err(BadInput)?;
        }
        if let Some(path) = &self.json {
            let json = serde_json::to_vec_pretty(&summary)?;
            output::write(path, json)?;
        }
        Ok(exit_code(status))
    }

    fn settings(&self) -> Result<Settings> {
        if !LPS.contains(&self.lps) || !MEMORY.contains(&self.machine_memory) {
            let (lps, memory) = (LPS.end(), MEMORY.end());
            let text = format!("--lps must be 1 to {lps}, --machine-memory 1 to {memory}");
            return Err(BadInput(text).into());
        }
        for spec in &self.inject {
            Injection::parse(spec).map_err(BadInput)?;
        }
        let discipline = self.discipline.clone().unwrap_or_default();
        if !discipline.is_empty() && discipline::by_name(&discipline).is_none() {
            let text =
                format!("no discipline is called `{discipline}`; see `seamlock disciplines`");
            return Err(BadInput(text).into());
        }
        Ok(Settings {
            discipline,
            lps: self.lps,
            memory: self.machine_memory << 30,
            script: self.script.as_deref().map(checked_script).transpose()?,
            inject: self.inject.clone(),
            trace: self.trace.is_some(),
            lockdep: self.lockdep,
            verbose: self.verbose,
            ..Settings::default()
        })
    }

    /// Refuses what can't wear the library, and would see a real /dev/kvm.
    fn check_command(&self) -> Result<()> {
        let program = self.command.first().context("clap wants a command")?;
        let Some(why) = wearable::hindrance(program) else {
            return Ok(());
        };
        let program = program.to_string_lossy();
        let text = format!(
            "{program} {why}, so it can't see seamlock's /dev/kvm; if it only starts others, put `env` \
             in front of it"
        );
        Err(BadInput(text).into())
    }

    /// Starts the command and waits for it.
    fn wear(&self, dress: &Dress) -> Result<ExitStatus> {
        // Whoever signals the whole group, as a terminal does, means the VMM; who signals us alone
        // has it passed on.
        let mut signals = Signals::new([SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1])?;
        let handle = signals.handle();
        let mut child = self.start(dress)?;
        let pid = child.id();
        let status = std::thread::scope(|scope| {
            scope.spawn(|| {
                for signal in signals.forever() {
                    match signal {
                        SIGUSR1 => show(dress),
                        SIGHUP | SIGTERM => pass_on(pid, signal),
                        _ => {}
                    }
                }
            });
            let status = child.wait();
            handle.close();
            status
        });
        Ok(status?)
    }

    fn start(&self, dress: &Dress) -> Result<Child> {
        let (program, args) = self.command.split_first().context("clap wants a command")?;
        Command::new(program)
            .args(args)
            .env("LD_PRELOAD", dress.preload())
            .spawn()
            .map_err(|e| BadInput(format!("{}: {e}", program.to_string_lossy())).into())
    }
}

/// A script that can be understood; its path from wherever the VMM may go.
fn checked_script(path: &Path) -> Result<PathBuf> {
    let fail = |error: &dyn std::fmt::Display| BadInput(format!("{}: {error}", path.display()));
    let text = output::read(path)?;
    script::parse(&text).map_err(|error| fail(&error))?;
    Ok(path.canonicalize()?)
}

/// Gathers the traces of all processes, in the order of time.
fn write_trace(dress: &Dress, summary: &Summary, path: &Path) -> Result<()> {
    let mut lines = read_traces(dress.dir())?;
    // What is written at its end comes by its beginning here, and what it is in before it.
    lines.sort_by_key(|(_, line)| (line.at_ns, std::cmp::Reverse(line.took_ns)));
    let start = lines.first().map_or(0, |(_, line)| line.at_ns);
    lines.iter_mut().for_each(|(_, line)| line.at_ns -= start);
    let mut out = BufWriter::new(File::create(path)?);
    for (process, line) in &lines {
        let process = *process;
        serde_json::to_writer(&mut out, &Traced { process, line })?;
        out.write_all(b"\n")?;
    }
    out.flush()?;
    let mut name = path.as_os_str().to_owned();
    name.push(".perfetto.json");
    let mut out = BufWriter::new(File::create(name)?);
    write_perfetto(&lines, summary, &mut out)?;
    Ok(out.flush()?)
}

/// A line of a trace, and whose it is.
#[derive(Serialize)]
struct Traced<'a> {
    process: u32,
    #[serde(flatten)]
    line: &'a Line,
}

/// The summary so far, of a VMM that still runs.
fn show(dress: &Dress) {
    match read_records(dress.dir()) {
        Ok(records) => anstream::eprint!("{}", Shown(&Summary::of(&records))),
        Err(error) => anstream::eprintln!("no summary: {error}"),
    }
}

/// Sends the VMM a signal that was meant for it.
fn pass_on(pid: u32, signal: i32) {
    let pid = i32::try_from(pid)
        .ok()
        .and_then(rustix::process::Pid::from_raw);
    if let (Some(pid), Some(signal)) = (pid, rustix::process::Signal::from_named_raw(signal)) {
        // It may have ended already.
        let _ = rustix::process::kill_process(pid, signal);
    }
}

/// As a shell would tell it: the command's own code, or 128 and the signal that ended it.
fn exit_code(status: ExitStatus) -> ExitCode {
    let code = status
        .code()
        .unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
    ExitCode::from(code as u8)
}
