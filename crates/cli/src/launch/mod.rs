//! `seamlock launch`: acts as the VMM and builds a trust domain from firmware.

mod build;
mod cpuid;
mod firmware;
mod guest;
mod journal;
mod launched;
mod record;
mod report;
mod section;
mod vcpu;
mod vmm;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use seamlock_kvm::discipline::{self, Discipline};

pub use build::launch_on;
pub use firmware::Firmware;
pub use record::region as recorded_region;
pub use report::size;
pub use section::SectionRow;
pub use vmm::Machine;

use crate::failure::BadInput;

/// vCPUs that a TD can have (TDX module 1.5.06, MAX_VCPUS_PER_TD).
const MAX_VCPUS: u32 = 576;
/// The largest guest that is simulated.
const MAX_MEMORY: u64 = 1 << 42;
const MIB: u64 = 1 << 20;

/// Build a trust domain from firmware, measure it, finalise it and tear it down.
#[derive(Debug, Args)]
pub struct Launch {
    /// A firmware image with TDX metadata, such as OVMF.fd. Without one, a small image that comes with
    /// seamlock is used.
    firmware: Option<PathBuf>,
    /// Number of vCPUs, 1 to 576.
    #[arg(long, value_name = "N", default_value_t = 1)]
    vcpus: u32,
    /// Guest memory: 256M, 4G, 64G; a plain number is in MiB.
    #[arg(long, value_name = "SIZE", default_value = "512M")]
    memory: String,
    /// How KVM locks; `seamlock disciplines` lists them.
    #[arg(long, value_name = "NAME", default_value = discipline::V7_3.name)]
    discipline: String,
    /// What the guest does, line by line (see docs/script.md); without one no vCPU runs. Ports and addresses
    /// of devices read as ones, and there are no quotes.
    #[arg(long, value_name = "FILE")]
    script: Option<PathBuf>,
    /// Check the order of KVM's locks; exit code 1 when it is broken.
    #[arg(long)]
    lockdep: bool,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

/// What to launch, checked.
#[derive(Clone, Copy, Debug)]
pub struct Request {
    /// Number of vCPUs.
    pub vcpus: u32,
    /// Bytes of guest memory.
    pub memory: u64,
    /// How KVM locks.
    pub discipline: &'static Discipline,
    /// Whether the order of the locks is checked. In debug builds it always is.
    pub lockdep: bool,
    /// Whether it is written down what is added, page by page. The module is no slower for it, but
    /// what watches it takes time.
    pub record: bool,
}

impl Launch {
    /// Runs the command.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let request = self.request()?;
        let firmware = Firmware::load(self.firmware.as_deref(), request.memory)?;
        let script = self.script.as_deref();
        let script = script.map(|path| guest::Steps::read(path, request.vcpus));
        let machine = Machine::boot_with(&request, script.transpose()?)?;
        let launched = launch_on(&machine, &firmware, request)?;
        if self.json {
            report::json(&firmware, &launched)?;
        } else {
            report::text(&firmware, &launched)?;
        }
        let lockdep = machine.host.lockdep().filter(|_| self.lockdep);
        let breaches = lockdep
            .map(|lockdep| lockdep.breaches())
            .unwrap_or_default();
        for breach in &breaches {
            anstream::eprintln!("lockdep: {breach}");
        }
        Ok(if launched.is_clean() && breaches.is_empty() {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        })
    }

    fn request(&self) -> Result<Request, BadInput> {
        if self.vcpus == 0 || self.vcpus > MAX_VCPUS {
            let given = self.vcpus;
            return Err(BadInput(format!(
                "--vcpus {given}: a TD has 1 to {MAX_VCPUS} vCPUs"
            )));
        }
        let discipline = discipline::by_name(&self.discipline).ok_or_else(|| {
            let names: Vec<_> = discipline::DISCIPLINES.iter().map(|d| d.name).collect();
            let given = &self.discipline;
            BadInput(format!(
                "--discipline {given}: there is none; there are {}",
                names.join(", ")
            ))
        })?;
        Ok(Request {
            vcpus: self.vcpus,
            memory: parse_memory(&self.memory)?,
            discipline,
            lockdep: self.lockdep,
            record: self.json,
        })
    }
}

/// Parses a size of guest memory into bytes.
pub fn parse_memory(text: &str) -> Result<u64, BadInput> {
    let bad = |why: &str| BadInput(format!("--memory {text}: {why}"));
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match text[digits.len()..]
        .to_ascii_uppercase()
        .trim_end_matches("IB")
    {
        "K" => 1 << 10,
        "" | "M" => MIB,
        "G" => 1 << 30,
        "T" => 1 << 40,
        _ => return Err(bad("the unit is K, M, G or T")),
    };
    let number: u64 = digits
        .parse()
        .map_err(|_| bad("not a size such as 512M or 64G"))?;
    let bytes = number.checked_mul(unit).ok_or_else(|| bad("too large"))?;
    if bytes == 0 || !bytes.is_multiple_of(MIB) {
        return Err(bad("guest memory is a multiple of 1 MiB, and not zero"));
    }
    if bytes > MAX_MEMORY {
        return Err(bad("guests of up to 4 TiB are simulated"));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_sizes_are_read_as_qemu_reads_them() {
        let bytes = |text| parse_memory(text).ok();
        assert_eq!(bytes("512"), Some(512 << 20));
        assert_eq!(bytes("256M"), Some(256 << 20));
        assert_eq!(bytes("64G"), Some(64 << 30));
        assert_eq!(bytes("2GiB"), Some(2 << 30));
        assert_eq!(bytes("2048k"), Some(2 << 20));
    }

    #[test]
    fn memory_sizes_that_make_no_sense_are_refused_with_the_reason() {
        let why = |text| parse_memory(text).map_err(|e| e.0).unwrap_err();
        assert!(why("0").contains("not zero"));
        assert!(why("3k").contains("multiple of 1 MiB"));
        assert!(why("lots").contains("unit"));
        assert!(why("99999999999999999999G").contains("not a size"));
        assert!(why("18446744073709551615T").contains("too large"));
        assert!(why("8T").contains("4 TiB"));
    }
}
