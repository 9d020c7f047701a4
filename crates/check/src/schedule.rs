//! Schedules as values: who went on when, and what was done there.
//!
//! As text: `mem*5:3fa09 vcpu1*1:c #0123456789abcdef`. Each part is a thread, how many operations it
//! does in a row, and one hexadecimal digit per operation that is made from what the operation was;
//! the last part is made from all of them. A replay compares every digit, so it says where the code
//! no longer does what it did.

use std::fmt;
use std::str::FromStr;

use seamlock_sync::{Action, Name};

use crate::clock::mix;
use crate::verdict::CheckError;

/// Who went on when.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Schedule {
    threads: Vec<String>,
    steps: Vec<Planned>,
    digest: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Planned {
    /// Index into the schedule's own list of threads.
    thread: u8,
    /// Four bits of the operation's digest.
    check: u8,
}

/// A number for an operation that is the same in every run and every process.
pub(crate) fn digest_of(thread: &str, action: Action, name: &Name, arg: u64) -> u64 {
    let who = thread
        .bytes()
        .fold(0, |hash, byte| mix(hash ^ u64::from(byte)));
    mix(who ^ mix(name.fingerprint() ^ mix(arg ^ (action as u64) << 56)))
}

impl Schedule {
    /// Adds a step.
    pub(crate) fn push(&mut self, thread: &str, digest: u64) {
        let name = clean(thread);
        let found = self.threads.iter().position(|known| *known == name);
        let thread = found.unwrap_or_else(|| {
            self.threads.push(name);
            self.threads.len() - 1
        });
        self.steps.push(Planned {
            thread: thread as u8,
            check: (digest & 15) as u8,
        });
        self.digest = mix(self.digest ^ digest);
    }

    /// How many operations it has.
    pub fn len(&self) -> usize {
        self.steps.len()
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }

    /// How often another thread goes on than did before.
    pub fn switches(&self) -> usize {
        self.steps
            .windows(2)
            .filter(|pair| pair[0].thread != pair[1].thread)
            .count()
    }

    /// The name of the thread of a step.
    pub fn thread(&self, step: usize) -> Option<&str> {
        let thread = self.steps.get(step)?.thread;
        self.threads.get(usize::from(thread)).map(String::as_str)
    }

    /// Who goes on for how many operations, run by run.
    pub(crate) fn runs(&self) -> Vec<(&str, usize)> {
        let runs = self.steps.chunk_by(|a, b| a.thread == b.thread);
        runs.map(|run| (self.threads[usize::from(run[0].thread)].as_str(), run.len()))
            .collect()
    }

    /// A schedule that only says who goes on.
    pub(crate) fn of_runs(runs: &[(&str, usize)]) -> Schedule {
        let mut schedule = Schedule::default();
        for &(thread, count) in runs {
            (0..count).for_each(|_| schedule.push(thread, 0));
        }
        schedule
    }

    /// Whether an operation may be that of a step.
    pub(crate) fn fits(&self, step: usize, digest: u64) -> bool {
        self.steps
            .get(step)
            .is_none_or(|planned| u64::from(planned.check) == digest & 15)
    }

    /// The digest of all steps.
    pub(crate) fn digest(&self) -> u64 {
        self.digest
    }
}

/// A thread's name as it stands in a schedule.
pub(crate) fn clean(name: &str) -> String {
    let odd = |c: char| c.is_whitespace() || matches!(c, '*' | ':' | '#');
    name.chars().map(|c| if odd(c) { '_' } else { c }).collect()
}

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for run in self.steps.chunk_by(|a, b| a.thread == b.thread) {
            let name = &self.threads[usize::from(run[0].thread)];
            write!(f, "{name}*{}:", run.len())?;
            for planned in run {
                write!(f, "{:x}", planned.check)?;
            }
            f.write_str(" ")?;
        }
        write!(f, "#{:016x}", self.digest)
    }
}

impl FromStr for Schedule {
    type Err = CheckError;

    fn from_str(text: &str) -> Result<Schedule, CheckError> {
        let mut schedule = Schedule::default();
        let mut ended = false;
        for part in text.split_whitespace() {
            if ended {
                return Err(wrong(part, "comes after the end"));
            }
            match part.strip_prefix('#') {
                Some(digest) => {
                    let digest = u64::from_str_radix(digest, 16);
                    schedule.digest = digest.map_err(|_| wrong(part, "is not a hash"))?;
                    ended = true;
                }
                None => schedule.add_run(part)?,
            }
        }
        if ended {
            Ok(schedule)
        } else {
            Err(CheckError::Schedule(
                "there is no #hash at the end: a part is missing".to_owned(),
            ))
        }
    }
}

impl Schedule {
    fn add_run(&mut self, part: &str) -> Result<(), CheckError> {
        let (name, rest) = part
            .split_once('*')
            .ok_or_else(|| wrong(part, "has no *"))?;
        let (count, checks) = rest
            .split_once(':')
            .ok_or_else(|| wrong(part, "has no :"))?;
        let count: usize = count
            .parse()
            .map_err(|_| wrong(part, "has no number after *"))?;
        if name.is_empty() || checks.len() != count {
            return Err(wrong(
                part,
                "does not have one digit for each operation: a part is missing or was changed",
            ));
        }
        for digit in checks.chars() {
            let check = digit
                .to_digit(16)
                .ok_or_else(|| wrong(part, "has a digit that is none"))?;
            self.push(name, u64::from(check));
        }
        if self.threads.len() > crate::MAX_THREADS {
            return Err(wrong(part, "is one thread too many"));
        }
        Ok(())
    }
}

fn wrong(part: &str, what: &str) -> CheckError {
    CheckError::Schedule(format!("`{part}` {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_schedule_is_read_as_it_was_written() {
        let mut schedule = Schedule::default();
        for (thread, digest) in [("mem", 0x13), ("mem", 0x2f), ("v cpu:1", 0x30), ("mem", 7)] {
            schedule.push(thread, digest);
        }
        let text = schedule.to_string();
        assert!(text.starts_with("mem*2:3f v_cpu_1*1:0 mem*1:7 #"), "{text}");
        let read: Schedule = text.parse().unwrap();
        assert_eq!(read, schedule);
        assert_eq!(
            (read.len(), read.switches(), read.thread(2)),
            (4, 2, Some("v_cpu_1"))
        );
    }

    #[test]
    fn what_is_no_schedule_is_refused_with_the_part_that_is_wrong() {
        for text in [
            "",
            "mem",
            "mem*2",
            "mem*2:1 #0",
            "mem*x:1 #0",
            "mem*1:g #0",
            "#0 mem*1:1",
            "#x",
        ] {
            let error = text.parse::<Schedule>().unwrap_err();
            assert!(matches!(error, CheckError::Schedule(_)), "{text}: {error}");
        }
    }
}
