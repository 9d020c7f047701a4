//! A scene with its numbers: how many vCPUs, pages and operations there are.
//!
//! As text a [`Size`] stands behind a scene's name: `R1a/mem-init:ready=3,pages=4,mem=2` is that scene
//! with three vCPUs initialised and four pages added before it starts, and with two operations of the
//! thread `mem`. vCPUs that a scene gets beside its own come behind those; an operation on one that was
//! taken away goes to the last one that is left.

use std::fmt;

use crate::act::Act;
use crate::machine::{Extras, Start};
use crate::scene::{Actor, Counts, Scene};

/// The most vCPUs of a setting.
const VCPUS: u32 = 16;
/// The most pages that are added before it starts.
const PAGES: u64 = 64;
/// The most operations of one thread.
const TIMES: u32 = 8;

/// The most serial orders that what threads answer is compared with.
pub(crate) const MOST_ORDERS: u64 = 5_040;

/// In how many orders operations can come that keep those of each thread in theirs.
fn orders(times: &[u32]) -> u64 {
    let (mut orders, mut all) = (1_u64, 0_u64);
    for nth in times.iter().flat_map(|times| 1..=u64::from(*times)) {
        all += 1;
        // A binomial coefficient at each step, so that it divides.
        orders = orders.saturating_mul(all) / nth;
    }
    orders
}

/// A scene whose numbers can be changed.
#[derive(Clone, Debug)]
pub struct Setting {
    /// What is there.
    pub start: Start,
    /// Who does what.
    pub actors: Vec<Actor>,
    /// What counts.
    pub counts: Counts,
}

/// The numbers of a setting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Size {
    /// vCPUs that are initialised before it starts.
    pub ready: u32,
    /// Other vCPUs.
    pub raw: u32,
    /// Pages that are added before it starts.
    pub pages: u64,
    /// How many operations each thread does; without any it is not there.
    pub times: Vec<u32>,
}

impl From<Scene> for Setting {
    fn from(scene: Scene) -> Setting {
        Setting {
            start: scene.start,
            actors: scene.actors.to_vec(),
            counts: scene.counts,
        }
    }
}

impl Setting {
    /// Its numbers.
    pub fn size(&self) -> Size {
        Size {
            ready: self.start.ready + self.start.more,
            raw: self.start.raw,
            pages: self.start.pages,
            times: self.actors.iter().map(|actor| actor.times).collect(),
        }
    }

    /// The same with other numbers.
    pub fn sized(&self, size: &Size) -> Setting {
        let (own, ready) = (self.start, self.start.ready.min(size.ready));
        let start = Start {
            ready,
            raw: size.raw,
            more: size.ready - ready,
            pages: size.pages,
            ..own
        };
        let vcpu = |at: usize| {
            let gone = (own.ready - ready) as usize;
            let moved = match at < own.ready as usize {
                true => at.min((ready as usize).saturating_sub(1)),
                false => at - gone,
            };
            moved.min((start.vcpus() as usize).saturating_sub(1))
        };
        let timed = self.actors.iter().zip(&size.times);
        let actor = |(actor, &times): (&Actor, &u32)| Actor {
            act: actor.act.on_vcpu(vcpu),
            times,
            ..*actor
        };
        Setting {
            start,
            actors: timed.map(actor).collect(),
            counts: self.counts,
        }
    }

    /// The same with the numbers that `text` gives, as in `ready=3,pages=4,mem=2`. No text is no change.
    ///
    /// # Errors
    /// What is wrong with the text.
    pub fn with_size(&self, text: &str) -> Result<Setting, String> {
        let mut size = self.size();
        for part in text.split(',').filter(|part| !part.is_empty()) {
            let (key, number) = part
                .split_once('=')
                .ok_or_else(|| format!("{part:?} of a size is not NAME=NUMBER"))?;
            let number: u32 = number
                .parse()
                .map_err(|_| format!("{part:?} of a size does not end with a number"))?;
            self.set(&mut size, key, number)?;
        }
        self.fits(&size)?;
        Ok(self.sized(&size))
    }

    fn set(&self, size: &mut Size, key: &str, number: u32) -> Result<(), String> {
        match key {
            "ready" => size.ready = number,
            "raw" => size.raw = number,
            "pages" => size.pages = u64::from(number),
            _ => {
                let mine = self.actors.iter().position(|actor| actor.name == key);
                let threads = self.actors.iter().map(|actor| actor.name);
                let at = mine.ok_or_else(|| {
                    let known: Vec<&str> = ["ready", "raw", "pages"]
                        .into_iter()
                        .chain(threads)
                        .collect();
                    format!("{key:?} has no size here; these have: {}", known.join(", "))
                })?;
                size.times[at] = number;
            }
        }
        Ok(())
    }

    /// Whether there can be so much.
    ///
    /// # Errors
    /// What there cannot be.
    pub fn fits(&self, size: &Size) -> Result<(), String> {
        if size.ready + size.raw > VCPUS || size.pages > PAGES {
            return Err(format!(
                "there can be {VCPUS} vCPUs and {PAGES} pages at most"
            ));
        }
        if size.times.iter().any(|times| *times > TIMES) {
            return Err(format!("a thread can do {TIMES} operations at most"));
        }
        if size.pages > 0 && size.ready == 0 {
            return Err("without an initialised vCPU no page can be added".to_owned());
        }
        if self.counts.compares() && orders(&size.times) > MOST_ORDERS {
            return Err(format!(
                "its operations can come in {} orders, one after the other, and {MOST_ORDERS} are \
                 compared with at most",
                orders(&size.times)
            ));
        }
        let setting = self.sized(size);
        let threads = size.times.iter().filter(|times| **times > 0).count();
        if threads < 2 && setting.acts().any(|(_, act)| act.is_about_threads()) {
            return Err("there is no other thread for it".to_owned());
        }
        let mut acts = setting.acts();
        match acts.find(|(_, act)| !act.applies(&setting.start)) {
            Some((_, act)) => Err(format!("there is nothing to do {} to", act.name())),
            None => Ok(()),
        }
    }

    /// Every operation, thread by thread, with the number of its thread.
    pub fn acts(&self) -> impl Iterator<Item = (usize, Act)> + '_ {
        let numbered = self.actors.iter().enumerate();
        numbered.flat_map(|(at, actor)| (0..actor.times).map(move |nth| (at, actor.act.again(nth))))
    }

    /// What is there with all that the operations need.
    pub(crate) fn whole_start(&self) -> Start {
        let needs = |extras: Extras, (_, act): (usize, Act)| extras.and(act.extras());
        Start {
            extras: self.acts().fold(self.start.extras, needs),
            ..self.start
        }
    }

    /// A size as text, as far as it is not this setting's own.
    pub fn text_of(&self, size: &Size) -> String {
        let own = self.size();
        let named = self.actors.iter().map(|actor| actor.name);
        let times = named.zip(own.times.iter().zip(&size.times));
        let times = times.map(|(name, (a, b))| (name, u64::from(*a), u64::from(*b)));
        let numbers = [
            ("ready", own.ready.into(), size.ready.into()),
            ("raw", own.raw.into(), size.raw.into()),
            ("pages", own.pages, size.pages),
        ];
        let differ = numbers.into_iter().chain(times).filter(|(_, a, b)| a != b);
        let parts: Vec<String> = differ.map(|(name, _, b)| format!("{name}={b}")).collect();
        parts.join(",")
    }
}

impl Size {
    /// Everything together, to tell which of two is smaller.
    pub fn total(&self) -> u64 {
        u64::from(self.ready + self.raw) + self.pages + u64::from(self.operations())
    }

    /// The operations of all threads.
    pub fn operations(&self) -> u32 {
        self.times.iter().sum()
    }

    /// Sizes of which one number is smaller, those that leave most away first.
    pub fn smaller(&self) -> Vec<Size> {
        let mut all = Vec::new();
        for at in 0..self.times.len() {
            for times in less(u64::from(self.times[at])) {
                let mut size = self.clone();
                size.times[at] = times as u32;
                all.push(size);
            }
        }
        let of = |n: u32| less(n.into()).map(|n| n as u32);
        let same = || self.clone();
        all.extend(of(self.raw).map(|raw| Size { raw, ..same() }));
        all.extend(of(self.ready).map(|ready| Size { ready, ..same() }));
        all.extend(less(self.pages).map(|pages| Size { pages, ..same() }));
        all
    }
}

/// Nothing, a half, and one less.
fn less(number: u64) -> impl Iterator<Item = u64> {
    let tries = [0, number / 2, number.saturating_sub(1)];
    (0..3)
        .map(move |at| (tries[at], tries[..at].contains(&tries[at])))
        .filter(move |(less, seen)| *less < number && !seen)
        .map(|(less, _)| less)
}

/// In words: `2 vCPUs, 4 pages, 3 operations in 2 threads`.
impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = |n: u64, what: &str| match n {
            1 => format!("1 {what}"),
            _ => format!("{n} {what}s"),
        };
        let vcpus = count((self.ready + self.raw).into(), "vCPU");
        let operations = count(self.operations().into(), "operation");
        write!(f, "{vcpus}, {}, {operations}", count(self.pages, "page"))?;
        let threads = self.times.iter().filter(|times| **times > 0).count();
        if self.operations() as usize > threads {
            write!(f, " in {}", count(threads as u64, "thread"))?;
        }
        Ok(())
    }
}
