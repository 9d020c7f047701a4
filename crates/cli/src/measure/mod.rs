//! `seamlock measure`: the MRTD of a launch, from the firmware alone.
//!
//! Neither KVM nor the TDX module takes part: the records of TDH.MEM.PAGE.ADD and TDH.MR.EXTEND are
//! hashed as the specification lays them out. `seamlock launch` is the other way to the same value.

mod expected;
mod report;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, ValueEnum};
use openssl::sha::sha384;
use seamlock_tdvf::variant::{Deviation, Outcome, Search, Variant};
use seamlock_tdvf::{Mrtd, Order, mrtd};

use crate::launch::{Firmware, parse_memory};
use crate::progress;
use expected::Expected;

/// Bytes hashed in search of the recipe behind an MRTD: some ten seconds.
const SEARCH_BUDGET: u64 = 6 << 30;

/// Predict the MRTD of firmware, and explain one that differs.
///
/// Exit code 0 when MRTD is as expected, 1 when it is not, 2 when the firmware or the expected value
/// can't be used.
#[derive(Debug, Args)]
pub struct Measure {
    /// A firmware image with TDX metadata, such as OVMF.fd. Without one, a small image that comes with
    /// seamlock is used.
    firmware: Option<PathBuf>,
    /// The order of adding and measuring. KVM since Linux 6.16 does it per page; kernels before the
    /// merge did it per section, which dstack calls two-pass.
    #[arg(long, value_enum, default_value_t = ByOrder::PerPage)]
    order: ByOrder,
    /// The MRTD that it should be: 96 hexadecimal digits, or base64; or a file with a quote, a TD
    /// report, or one of these texts. When it differs, other ways to launch the firmware are tried.
    #[arg(long, value_name = "MRTD|FILE")]
    expect: Option<String>,
    /// Guest memory: 256M, 4G, 64G; a plain number is in MiB. It has to hold the sections; it changes
    /// MRTD only where a TD_HOB is measured.
    #[arg(long, value_name = "SIZE", default_value = "512M")]
    memory: String,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

/// Orders of adding and measuring, as options.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum ByOrder {
    PerPage,
    PerSection,
}

impl ByOrder {
    const fn order(self) -> Order {
        match self {
            Self::PerPage => Order::PerPage,
            Self::PerSection => Order::PerSection,
        }
    }
}

/// How an expected value compares.
#[derive(Debug)]
struct Comparison {
    expected: Expected,
    same: bool,
    /// What the value is if it is no MRTD of a launch at all.
    note: Option<&'static str>,
    /// What was tried, when it differs.
    search: Option<Outcome>,
    /// What sets the recipe that fits apart.
    deviations: Option<Vec<Deviation>>,
}

impl Measure {
    /// Runs the command.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let order = self.order.order();
        let memory = parse_memory(&self.memory)?;
        let expected = self.expect.as_deref().map(Expected::read).transpose()?;
        let firmware = Firmware::load(self.firmware.as_deref(), memory)?;
        let mrtd = mrtd::predict(&firmware.plan, &firmware.image, order);
        let comparison = expected.map(|expected| compare(&firmware, order, mrtd, expected));
        let report = report::Report::new(&firmware, memory, order, mrtd, comparison.as_ref());
        if self.json {
            report.json()?;
        } else {
            report.text()?;
        }
        let differs = comparison.is_some_and(|comparison| !comparison.same);
        Ok(if differs {
            ExitCode::FAILURE
        } else {
            ExitCode::SUCCESS
        })
    }
}

fn compare(firmware: &Firmware, order: Order, mrtd: Mrtd, expected: Expected) -> Comparison {
    let wanted = expected.mrtd;
    let mut comparison = Comparison {
        same: wanted == mrtd,
        note: None,
        search: None,
        deviations: None,
        expected,
    };
    if comparison.same {
        return comparison;
    }
    comparison.note = note(firmware, mrtd, wanted);
    if comparison.note.is_some() {
        return comparison;
    }
    let bar = progress::bytes("searching");
    bar.set_length(SEARCH_BUDGET);
    let search = Search {
        image: &firmware.image,
        plan: &firmware.plan,
        order,
        wanted,
        budget: SEARCH_BUDGET,
    };
    let outcome = search.run(|hashed| bar.set_position(hashed));
    bar.finish_and_clear();
    let usual = Variant::usual(firmware.plan.metadata.location, order);
    comparison.deviations = outcome.found.as_ref().map(|v| v.deviations(&usual));
    comparison.search = Some(outcome);
    comparison
}

/// What a value is that no launch gives, as far as it is one of those that people come with.
fn note(firmware: &Firmware, mrtd: Mrtd, wanted: Mrtd) -> Option<&'static str> {
    let by_words = |change: fn(&mut [u8])| {
        let mut bytes = wanted.0;
        bytes.chunks_exact_mut(8).for_each(change);
        bytes == mrtd.0
    };
    let mut reversed = wanted.0;
    reversed.reverse();
    if wanted.0 == [0; 48] {
        Some("all zero: the MRTD of a TD that was not finalised, or of a report nobody filled in")
    } else if wanted.0 == [0xff; 48] {
        Some("all ones: not a measurement")
    } else if wanted.0 == sha384(&[]) {
        Some("the SHA-384 of nothing: the MRTD of a TD without any initial page")
    } else if wanted.0 == sha384(&firmware.image) {
        Some("the SHA-384 of the firmware file; MRTD hashes addresses and pages, not the file")
    } else if reversed == mrtd.0 {
        Some("the predicted MRTD with its bytes from last to first")
    } else if by_words(<[u8]>::reverse) {
        Some("the predicted MRTD, printed as six numbers of 64 bits instead of as bytes")
    } else {
        None
    }
}
