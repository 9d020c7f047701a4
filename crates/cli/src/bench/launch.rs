//! `seamlock bench launch`: a launch against the bare hash of what it measures.

mod floor;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Args;
use openssl::sha::Sha384;
use seamlock_kvm::discipline;
use seamlock_tdvf::builder::ImageBuilder;
use seamlock_tdvf::mrtd::hashed;
use seamlock_tdvf::{Attributes, Order, Section, SectionKind};
use serde::Serialize;

use self::floor::{Floor, Ground};
use super::seamcall::Samples;
use crate::launch::{Firmware, Machine, Request, launch_on};
use crate::output::outln;
use crate::style::{BAD, GOOD, HEAD};

/// Guest memory of the launch; it does not matter to the time.
const MEMORY: u64 = 512 << 20;
/// The measured part of a launch reaches this much of the bare hash's speed.
const TARGET_MEASURED: f64 = 0.90;
/// The whole launch with its teardown does.
const TARGET_WHOLE: f64 = 0.80;

/// A launch, against a bare SHA-384 over the very bytes that MRTD hashes.
#[derive(Debug, Args)]
pub struct BenchLaunch {
    /// A firmware image; without one, a 4 MiB image laid out as OVMF's.
    firmware: Option<PathBuf>,
    /// Repetitions; the fastest counts, on either side.
    #[arg(long, value_name = "N", default_value_t = 31)]
    rounds: usize,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

/// The fastest of all rounds, in nanoseconds.
#[derive(Debug, Serialize)]
struct Figures {
    firmware: String,
    rounds: usize,
    hashed_bytes: usize,
    bare_hash_ns: u64,
    measured_part_ns: u64,
    whole_launch_ns: u64,
    boot_ns: u64,
    measured_ratio: f64,
    whole_ratio: f64,
    floor: Floor,
    met: bool,
}

impl BenchLaunch {
    /// Runs the benchmark.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let firmware = match &self.firmware {
            Some(path) => Firmware::load(Some(path), MEMORY)?,
            None => Firmware::plan("a 4 MiB image".into(), four_mib_image(), MEMORY)?,
        };
        let figures = measure(&firmware, self.rounds.max(1))?;
        if self.json {
            outln!("{}", serde_json::to_string_pretty(&figures)?);
        } else {
            print(&figures);
        }
        Ok(if figures.met {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        })
    }
}

/// As OVMF of 4 MiB: 528 KiB of variables that are not measured, the rest is.
fn four_mib_image() -> Vec<u8> {
    const LEN: u32 = 4 << 20;
    const VARIABLES: u32 = 0x8_4000;
    let base = (4u64 << 30) - u64::from(LEN);
    let flash = |kind, from: u32, to: u32, attributes| Section {
        kind,
        data_offset: from,
        raw_size: to - from,
        gpa: base + u64::from(from),
        mem_size: u64::from(to - from),
        attributes,
    };
    let ram = |kind, gpa, mem_size| Section {
        kind,
        data_offset: 0,
        raw_size: 0,
        gpa,
        mem_size,
        attributes: Attributes::default(),
    };
    // No two chunks alike, though SHA-384 does not care.
    let code: Vec<u8> = (VARIABLES..LEN - 0x400)
        .map(|i| (i.wrapping_mul(0x9e37_79b1) >> 24) as u8)
        .collect();
    ImageBuilder::new(LEN as usize)
        .contents(VARIABLES as usize, code)
        .section(flash(
            SectionKind::BFV,
            VARIABLES,
            LEN,
            Attributes::MR_EXTEND,
        ))
        .section(flash(SectionKind::CFV, 0, VARIABLES, Attributes::default()))
        .section(ram(SectionKind::TEMP_MEM, 0x81_0000, 0x1_0000))
        .section(ram(SectionKind::TEMP_MEM, 0x80_b000, 0x2000))
        .section(ram(SectionKind::TD_HOB, 0x80_9000, 0x2000))
        .section(ram(SectionKind::TEMP_MEM, 0x80_0000, 0x6000))
        .build()
}

fn measure(firmware: &Firmware, rounds: usize) -> anyhow::Result<Figures> {
    let mut bytes = Vec::new();
    hashed(&firmware.plan, &firmware.image, Order::PerPage, |part| {
        bytes.extend_from_slice(part)
    });
    let request = Request {
        vcpus: 1,
        memory: MEMORY,
        discipline: &discipline::V7_3,
        lockdep: false,
        record: false,
    };
    let start = Instant::now();
    let machine = Machine::boot(&request)?;
    let boot = start.elapsed().as_nanos() as u64;
    // One launch first: the machine's memory is there from then on, as real memory is.
    let first = launch_on(&machine, firmware, request)?;
    let ground = Ground::new(&first.seamcalls)?;
    let mut samples = Samples::default();
    let (mut bare, mut measured, mut whole) = (vec![], vec![], vec![]);
    // Interleaved, so that a slow moment of the machine meets both sides.
    for _ in 0..rounds {
        let start = Instant::now();
        let mut hash = Sha384::new();
        hash.update(std::hint::black_box(&bytes));
        std::hint::black_box(hash.finish());
        bare.push(start.elapsed());
        let start = Instant::now();
        let launched = launch_on(&machine, firmware, request)?;
        whole.push(start.elapsed());
        measured.push(launched.measured_part);
        ground.round(&mut samples)?;
    }
    let [bare, measured, whole] = [bare, measured, whole].map(best);
    let ratio = |time: u64| bare as f64 / time as f64;
    let (measured_ratio, whole_ratio) = (ratio(measured), ratio(whole));
    Ok(Figures {
        firmware: firmware.name.clone(),
        rounds,
        floor: Floor::new(&samples, &first.seamcalls),
        hashed_bytes: bytes.len(),
        bare_hash_ns: bare,
        measured_part_ns: measured,
        whole_launch_ns: whole,
        boot_ns: boot,
        measured_ratio,
        whole_ratio,
        met: measured_ratio >= TARGET_MEASURED && whole_ratio >= TARGET_WHOLE,
    })
}

fn best(times: Vec<Duration>) -> u64 {
    times.iter().min().map_or(0, |time| time.as_nanos() as u64)
}

fn print(figures: &Figures) {
    let Figures {
        firmware,
        hashed_bytes,
        bare_hash_ns: bare,
        floor,
        rounds,
        ..
    } = figures;
    let speed = *hashed_bytes as f64 / *bare as f64 * 1e3;
    outln!(
        "{HEAD}{firmware}{HEAD:#}, {hashed_bytes} bytes hashed into MRTD; the best of {rounds} rounds"
    );
    row("bare SHA-384", *bare, &format!("{speed:.0} MB/s"));
    row(
        "the same in pieces, and copies",
        floor.pieces_ns,
        "as PAGE.ADD and MR.EXTEND do",
    );
    let words = format!("{} locked read-modify-writes", floor.words);
    row("+ lock words", floor.words_ns, &words);
    let of_bare = |ns: u64| *bare as f64 / ns as f64;
    let part = of_bare(floor.measured_part_ns);
    row(
        "= floor of the measured part",
        floor.measured_part_ns,
        &format!("{part:.3}"),
    );
    row(
        "measured part of the launch",
        figures.measured_part_ns,
        &verdict(figures.measured_ratio, TARGET_MEASURED),
    );
    let words = format!("{} locked read-modify-writes", floor.other_words);
    row("+ lock words of the rest", floor.other_words_ns, &words);
    let whole = of_bare(floor.whole_launch_ns);
    row(
        "= floor of the whole launch",
        floor.whole_launch_ns,
        &format!("{whole:.3}"),
    );
    row(
        "whole launch with teardown",
        figures.whole_launch_ns,
        &verdict(figures.whole_ratio, TARGET_WHOLE),
    );
    row("boot of the machine, before it", figures.boot_ns, "");
}

fn row(what: &str, ns: u64, note: &str) {
    outln!("  {what:<30} {:>8.3} ms   {note}", ns as f64 / 1e6);
}

fn verdict(ratio: f64, target: f64) -> String {
    let style = if ratio >= target { GOOD } else { BAD };
    format!("{style}{ratio:.3}{style:#} of the bare hash (target {target:.2})")
}
