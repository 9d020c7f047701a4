//! What was measured, against what it is compared with.

use seamlock_tdx_abi::leaf::Leaf;
use serde::Serialize;

use super::bare::{self, Words};
use super::sequences::Replay;
use super::{Measure, Samples};
use crate::output::outln;
use crate::style::{BAD, DIM, GOOD, HEAD};

/// PAGE.ADD and MR.EXTEND cost at most this much of their hash and copy.
const TARGET_HASH: f64 = 1.15;
/// VP.RD and MNG.RD cost at most this much of their bare lock operations.
const TARGET_LOCKS: f64 = 4.0;

/// What is measured: its name among the samples, the leaves whose words it takes, the bare work.
struct Item {
    name: &'static str,
    leaves: &'static [Leaf],
    bare: Option<&'static str>,
    target: Option<f64>,
}

const fn item(name: &'static str, leaves: &'static [Leaf]) -> Item {
    Item {
        name,
        leaves,
        bare: None,
        target: None,
    }
}

const fn read(name: &'static str, leaves: &'static [Leaf]) -> Item {
    Item {
        target: Some(TARGET_LOCKS),
        ..item(name, leaves)
    }
}

const fn hashed(name: &'static str, leaves: &'static [Leaf], bare: &'static str) -> Item {
    Item {
        bare: Some(bare),
        target: Some(TARGET_HASH),
        ..item(name, leaves)
    }
}

const ITEMS: &[Item] = &[
    hashed("TDH.MEM.PAGE.ADD", &[Leaf::MEM_PAGE_ADD], bare::PAGE_ADD),
    hashed("TDH.MR.EXTEND", &[Leaf::MR_EXTEND], bare::EXTEND),
    read("TDH.MNG.RD", &[Leaf::MNG_RD]),
    read("TDH.VP.RD", &[Leaf::VP_RD]),
    item("TDH.VP.WR", &[Leaf::VP_WR]),
    item("TDH.VP.FLUSH, TDH.VP.RD", &[Leaf::VP_FLUSH, Leaf::VP_RD]),
    item("TDH.VP.ENTER, TD exit", &[Leaf::VP_ENTER]),
    item("TDH.MEM.SEPT.ADD", &[Leaf::MEM_SEPT_ADD]),
    item("TDH.MEM.SEPT.REMOVE", &[Leaf::MEM_SEPT_REMOVE]),
    item("TDH.MEM.PAGE.AUG", &[Leaf::MEM_PAGE_AUG]),
    item("TDG.MEM.PAGE.ACCEPT", &[]),
    item("TDH.MEM.RANGE.BLOCK", &[Leaf::MEM_RANGE_BLOCK]),
    item("TDH.MEM.TRACK", &[Leaf::MEM_TRACK]),
    item("TDH.MEM.RANGE.UNBLOCK", &[Leaf::MEM_RANGE_UNBLOCK]),
    item("TDH.MEM.PAGE.REMOVE", &[Leaf::MEM_PAGE_REMOVE]),
    item("TDH.PHYMEM.PAGE.RECLAIM", &[Leaf::PHYMEM_PAGE_RECLAIM]),
    item("TDH.PHYMEM.PAGE.WBINVD", &[Leaf::PHYMEM_PAGE_WBINVD]),
    item("a TD built: TDR, TDCS, tables, vCPU", &[]),
    item("a TD ended: VP.FLUSH to KEY.FREEID", &[]),
];

/// One line. Times are medians in nanoseconds.
#[derive(Debug, Serialize)]
pub struct Line {
    name: &'static str,
    ns: f64,
    /// The hash and the copy by themselves.
    #[serde(skip_serializing_if = "Option::is_none")]
    bare_ns: Option<f64>,
    /// The bare work.
    #[serde(skip_serializing_if = "Option::is_none")]
    bare: Option<&'static str>,
    /// The lock words by themselves, taken and given back.
    #[serde(skip_serializing_if = "Option::is_none")]
    locks_ns: Option<f64>,
    /// Locked read-modify-writes in that.
    #[serde(skip_serializing_if = "Option::is_none")]
    locked_rmw: Option<u64>,
    /// What is left: dispatch, checks, the walk, the work.
    rest_ns: f64,
    /// Against the hash and copy where there is one, else against the locks.
    #[serde(skip_serializing_if = "Option::is_none")]
    ratio: Option<f64>,
    /// What the ratio would be if the leaf did nothing but hash, copy and lock.
    #[serde(skip_serializing_if = "Option::is_none")]
    floor: Option<f64>,
    /// The ratio is to be at most this.
    #[serde(skip_serializing_if = "Option::is_none")]
    target: Option<f64>,
}

/// Everything.
#[derive(Debug, Serialize)]
pub struct Figures {
    rounds: usize,
    /// Built without optimisation: the figures mean nothing.
    debug_build: bool,
    lines: Vec<Line>,
    replays: Vec<Replay>,
    /// No target is missed.
    pub met: bool,
}

impl Figures {
    /// Medians and ratios.
    pub fn new(samples: &Samples, replays: Vec<Replay>, rounds: usize) -> Figures {
        let lines: Vec<Line> = ITEMS
            .iter()
            .filter_map(|item| Line::new(samples, item))
            .collect();
        Figures {
            rounds,
            debug_build: cfg!(debug_assertions),
            met: lines.iter().all(Line::is_met),
            lines,
            replays,
        }
    }

    /// Prints a table.
    pub fn print(&self) {
        let rounds = self.rounds;
        outln!("{HEAD}ns per call{HEAD:#}, medians of {rounds} interleaved rounds");
        if self.debug_build {
            outln!("{BAD}a debug build: the figures mean nothing{BAD:#}");
        }
        outln!(
            "{DIM}{:<36}{:>9}{:>11}{:>8}{:>8}{:>8}{DIM:#}",
            "",
            "ns",
            "hash+copy",
            "locks",
            "rest",
            "ratio"
        );
        self.lines.iter().for_each(Line::print);
        outln!(
            "\nhash+copy: OpenSSL over the same bytes, and a copy between pages of the module's memory \
             that lie as the\nleaf's do. locks: the words that the leaf takes, by themselves. The ratio \
             is to hash and copy where there\nare any, else to the locks.\n"
        );
        self.lines.iter().for_each(Line::explain);
        for replay in &self.replays {
            outln!(
                "{} recorded sequences ({}) with {} calls: {:.0} sequences/s, {:.0} calls/s",
                replay.sequences,
                replay.what,
                replay.calls,
                replay.sequences_per_second,
                replay.calls_per_second
            );
        }
    }
}

impl Line {
    fn new(samples: &Samples, item: &Item) -> Option<Line> {
        let ns = samples.median(item.name)?;
        let words =
            (!item.leaves.is_empty()).then(|| Words::of(samples, Measure::Median, item.leaves));
        let locks_ns = words.map(|words| words.ns);
        let bare_ns = item.bare.and_then(|bare| samples.median(bare));
        let both = |(bare, locks): (f64, f64)| (bare + locks) / bare;
        Some(Line {
            name: item.name,
            ns,
            bare_ns,
            bare: item.bare,
            locks_ns,
            locked_rmw: words.map(|words| words.rmw),
            rest_ns: ns - bare_ns.unwrap_or(0.0) - locks_ns.unwrap_or(0.0),
            ratio: bare_ns.or(locks_ns).map(|bare| ns / bare),
            floor: bare_ns.zip(locks_ns).map(both),
            target: item.target,
        })
    }

    fn is_met(&self) -> bool {
        self.target.is_none() || self.ratio <= self.target
    }

    fn print(&self) {
        let number = |value: Option<f64>| value.map_or(String::new(), |ns| format!("{ns:.1}"));
        let ratio = self
            .ratio
            .map_or(String::new(), |ratio| format!("{ratio:.2}"));
        let (name, bare, locks) = (self.name, number(self.bare_ns), number(self.locks_ns));
        let rest = number(self.locks_ns.map(|_| self.rest_ns));
        let verdict = self.target.map_or(String::new(), |target| {
            let style = if self.is_met() { GOOD } else { BAD };
            format!("   {style}target {target:.2}{style:#}")
        });
        let ns = self.ns;
        outln!("{name:<36}{ns:>9.1}{bare:>11}{locks:>8}{rest:>8}{ratio:>8}{verdict}");
    }

    /// What a missed target is made of.
    fn explain(&self) {
        let (Some(target), Some(locks), Some(rmw)) = (self.target, self.locks_ns, self.locked_rmw)
        else {
            return;
        };
        if self.is_met() {
            return;
        }
        let (name, ns, rest) = (self.name, self.ns, self.rest_ns);
        let bare = self.bare_ns.unwrap_or(0.0);
        outln!(
            "{name}: {ns:.0} ns = {bare:.0} hash and copy + {locks:.0} lock words ({rmw} locked \
             read-modify-writes) + {rest:.0} the rest."
        );
        if let Some(floor) = self.floor {
            let verdict = if floor > target { "above" } else { "within" };
            outln!(
                "  Hash, copy and its own lock words alone are {floor:.2}, which is {verdict} the \
                 target.\n"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_round_measures_every_line() {
        let rig = crate::bench::seamcall::rig::Rig::new().unwrap();
        let sample = crate::bench::seamcall::sequences::Sample::load().unwrap();
        let mut samples = Samples::default();
        crate::bench::seamcall::rounds::round(&rig, &mut samples).unwrap();
        sample.replay(&mut samples).unwrap();
        let figures = Figures::new(&samples, vec![sample.figures(&samples)], 1);
        assert_eq!(figures.lines.len(), ITEMS.len());
        for line in &figures.lines {
            assert!(
                line.ns > 0.0 && line.ratio.is_none_or(f64::is_finite),
                "{line:?}"
            );
            assert!(line.target.is_none() || line.ratio.is_some(), "{line:?}");
        }
        let replay = &figures.replays[0];
        assert!(replay.calls_per_second > 0.0 && replay.calls > 10_000);
    }
}
