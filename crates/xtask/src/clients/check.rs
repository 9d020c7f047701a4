//! What a launch has to show besides its measurement.

use std::fs;
use std::path::Path;
use std::process::ExitStatus;

use seamlock_wear::Summary;

/// Something that has to be so at the end of a launch.
#[derive(Clone, Debug)]
pub enum Check {
    /// The exit code of `seamlock run`, which is the VMM's, or 128 and the signal that ended it.
    Code(i32),
    /// Somebody says this.
    Says(&'static str),
    /// The VMM wrote these bytes into this file of its `/tmp`.
    Wrote(&'static str, &'static str),
    /// The guest saw this of this line of the script.
    Saw(&'static str, &'static str),
    /// KVM_RUN gave this exit so often.
    Exits(&'static str, u64),
    /// The VMM made this ioctl so often.
    Called(&'static str, u64),
    /// This call was refused with this errno, so often.
    Refused(&'static str, &'static str, u64),
    /// This RTMR of the first TD begins with this, in hexadecimal.
    Rtmr(usize, &'static str),
}

/// What there is to be looked at.
#[derive(Debug)]
pub struct Seen<'a> {
    /// How the VMM ended; None when it was killed.
    pub status: Option<ExitStatus>,
    /// All that was said.
    pub output: &'a str,
    /// The VMM's `/tmp`.
    pub tmp: &'a Path,
    /// What seamlock saw.
    pub summary: &'a Summary,
}

impl Check {
    /// What is wrong.
    pub fn fault(&self, seen: &Seen<'_>) -> Option<String> {
        let (is_so, found) = self.look(seen);
        (!is_so).then(|| format!("{self:?} is not so: {found}"))
    }

    /// Whether it is so, and what there is instead.
    fn look(&self, seen: &Seen<'_>) -> (bool, String) {
        let processes = || seen.summary.processes.iter();
        let number = |wanted: u64, found: u64| (wanted == found, found.to_string());
        match self {
            Check::Code(code) => {
                let found = seen.status.and_then(|status| status.code());
                (found == Some(*code), format!("{found:?}"))
            }
            Check::Says(text) => (seen.output.contains(text), String::new()),
            Check::Wrote(name, text) => {
                let found = fs::read(seen.tmp.join(name)).unwrap_or_default();
                (found == text.as_bytes(), format!("{found:?}"))
            }
            Check::Saw(step, text) => {
                let steps = processes().flat_map(|process| &process.steps);
                let of_step = steps.filter(|found| found.text == *step);
                let found: Vec<&str> = of_step.map(|found| found.seen.as_str()).collect();
                (found.contains(text), format!("{found:?}"))
            }
            Check::Exits(name, times) => {
                let exits = processes().flat_map(|process| &process.exits);
                let of_name = exits.filter(|exit| exit.name == *name);
                number(*times, of_name.map(|exit| exit.made).sum())
            }
            Check::Called(name, times) => {
                let calls = processes().flat_map(|process| &process.ioctls);
                let of_name = calls.filter(|call| call.name == *name);
                number(*times, of_name.map(|call| call.made).sum())
            }
            Check::Refused(call, errno, times) => {
                let refusals = processes().flat_map(|process| &process.refusals);
                let of_call = refusals
                    .filter(|found| found.refusal.call == *call && found.refusal.errno == *errno);
                number(*times, of_call.map(|found| found.times).sum())
            }
            Check::Rtmr(index, begin) => {
                let tds = processes().flat_map(|process| &process.vms);
                let rtmr = tds.filter_map(|vm| vm.rtmrs.get(*index)).next();
                let rtmr = rtmr.map_or("", String::as_str);
                (rtmr.starts_with(begin), rtmr.to_owned())
            }
        }
    }
}
