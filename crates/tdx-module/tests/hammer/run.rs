//! One thread, checked after every step.

use std::collections::BTreeMap;
use std::fmt;

use seamlock_sync::Name;
use seamlock_tdx_abi::addr::Hpa;
use seamlock_tdx_abi::leaf::Leaf;
use seamlock_tdx_abi::regs::Regs;
use seamlock_tdx_abi::status::TdxStatus;
use seamlock_tdx_module::audit::Fault;
use seamlock_tdx_module::{After, Module, locks};

use super::guest::{self, GuestAct};
use super::learn::{entered, learn};
use super::machine::{self, POOL, POOL_PAGES};
use super::plan::{Act, Planned, plan};
use super::step::Step;
use super::table::{may_be_busy, overwritten, unlisted, unlisted_by_guest};
use super::watch::{Holds, Wanted, Watch};
use super::world::World;

/// Logical processors of the machine.
pub const LPS: u32 = 4;
/// Steps between two looks at all the books.
const AUDIT_EVERY: u64 = 256;
/// Calls that are made after the module was shut down.
const AFTER_SHUTDOWN: u64 = 100;

/// What was done.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// SEAMCALLs.
    pub seamcalls: u64,
    /// TDCALLs and exits of guests.
    pub guest_acts: u64,
    /// Times that all books were looked at.
    pub audits: u64,
    /// Calls by leaf, and how many of them succeeded.
    pub leaves: BTreeMap<Leaf, (u64, u64)>,
    /// Statuses by leaf, details left out but for what was busy.
    pub statuses: BTreeMap<(Leaf, TdxStatus), u64>,
}

impl Tally {
    /// Counts a SEAMCALL.
    pub fn count(&mut self, leaf: Leaf, status: TdxStatus) {
        self.seamcalls += 1;
        let calls = self.leaves.entry(leaf).or_default();
        calls.0 += 1;
        calls.1 += u64::from(status.is_success_class());
        let busy = status.is(TdxStatus::OPERAND_BUSY);
        let key = if busy { status } else { status.code() };
        *self.statuses.entry((leaf, key)).or_default() += 1;
    }

    /// Adds what another has done.
    pub fn add(&mut self, other: &Tally) {
        self.seamcalls += other.seamcalls;
        self.guest_acts += other.guest_acts;
        self.audits += other.audits;
        for (leaf, (calls, ok)) in &other.leaves {
            let sum = self.leaves.entry(*leaf).or_default();
            (sum.0, sum.1) = (sum.0 + calls, sum.1 + ok);
        }
        for (key, count) in &other.statuses {
            *self.statuses.entry(*key).or_default() += count;
        }
    }
}

/// A promise that the module broke.
#[derive(Clone, Debug)]
pub enum Violation {
    /// Words are held that should not be, or are not held that should be.
    Held {
        /// What was done.
        what: String,
        /// Words, with who holds them and who should.
        words: Vec<(Name, Holds, Holds)>,
    },
    /// The books are wrong.
    Books {
        /// What was done last.
        what: String,
        /// What is wrong.
        faults: Vec<Fault>,
    },
    /// Host-priority marks that a host call did not take away.
    Marked {
        /// The words.
        words: Vec<Name>,
    },
    /// A call wanted a lock word that its leaf does not take.
    Unlisted {
        /// What was done.
        what: String,
        /// Class of the word.
        word: &'static str,
        /// Shared or exclusive.
        mode: &'static str,
    },
    /// A call changed a register that its leaf does not return.
    Overwritten {
        /// What was done.
        what: String,
        /// The register.
        register: &'static str,
    },
    /// A status that does not exist, or that this leaf can't give.
    Status {
        /// What was done.
        what: String,
        /// The status.
        status: TdxStatus,
    },
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Violation::Held { what, words } => {
                writeln!(f, "lock words after {what}:")?;
                for (name, is, should) in words {
                    writeln!(f, "  {name}: held {is:?}, should be {should:?}")?;
                }
                Ok(())
            }
            Violation::Books { what, faults } => {
                writeln!(f, "the books after {what}:")?;
                for fault in faults {
                    writeln!(f, "  {fault}")?;
                }
                Ok(())
            }
            Violation::Marked { words } => write!(f, "marks stay in {words:?}"),
            Violation::Unlisted { what, word, mode } => {
                write!(
                    f,
                    "{word} wanted {mode} by {what}, which is not in the table"
                )
            }
            Violation::Overwritten { what, register } => {
                write!(f, "{register} was changed by {what}")
            }
            Violation::Status { what, status } => write!(f, "{status} of {what}"),
        }
    }
}

/// A module, what its host knows, and who watches.
#[derive(Debug)]
pub struct Runner {
    m: Module,
    world: World,
    watch: Option<Watch>,
    corrupting: bool,
    steps: u64,
    refused: u64,
    last: Option<Planned>,
    /// What was done so far.
    pub tally: Tally,
}

impl Runner {
    /// A module that is ready or, once in a while, was only loaded. `watched` follows each lock word.
    pub fn new(seed: u64, watched: bool) -> Runner {
        let (m, _) = if seed % 16 == 15 {
            machine::loaded(LPS, seed)
        } else {
            machine::ready(LPS, seed)
        };
        Runner {
            m,
            world: World {
                lps: LPS,
                ..World::default()
            },
            watch: watched.then(Watch::install),
            corrupting: false,
            steps: 0,
            refused: 0,
            last: None,
            tally: Tally::default(),
        }
    }

    /// From now on the host also writes over the pages of TDs, which real memory would detect. The module
    /// must survive that and give its words back; nothing is said of pages.
    pub fn corrupting(mut self) -> Runner {
        self.corrupting = true;
        self
    }

    /// Does a list of steps, and closes.
    pub fn run(mut self, steps: impl Iterator<Item = Step>) -> Result<Tally, Violation> {
        for step in steps {
            self.step(step)?;
            if self.refused > AFTER_SHUTDOWN {
                break;
            }
        }
        self.close()
    }

    /// Does a step.
    pub fn step(&mut self, step: Step) -> Result<(), Violation> {
        let lps: Vec<u32> = (0..LPS).collect();
        let planned = plan(&mut self.world, step, &lps);
        self.last = Some(planned);
        match planned.act {
            Act::Seam(regs) => self.seamcall(planned.lp, regs)?,
            Act::Init(regs) => {
                machine::write_params(&self.m);
                self.seamcall(planned.lp, regs)?;
            }
            Act::While(at, mode, regs) => {
                let held = self.m.hold(at, mode).is_ok();
                let done = self.seamcall(planned.lp, regs);
                if held {
                    self.m.release(at, mode);
                }
                done?;
            }
            Act::Guest(act) => {
                self.tally.guest_acts += 1;
                drop(self.watch.as_ref().map(Watch::take_wanted));
                if guest::perform(&self.m, planned.lp, act) {
                    self.world.running.remove(&planned.lp);
                }
                let wanted = self.watch.as_ref().map(Watch::take_wanted);
                let tdcall = match &act {
                    GuestAct::Tdcall(regs) => Some(regs),
                    _ => None,
                };
                self.listed(unlisted_by_guest(tdcall, wanted.unwrap_or_default()))?;
            }
            Act::Write(pa, word) => {
                let over_tds = self.corrupting && word & 8 != 0;
                let pa = if over_tds {
                    (POOL + pa * 13 % (POOL_PAGES << 12)) & !7
                } else {
                    pa
                };
                self.m.memory().write_u64(Hpa(pa), word);
            }
        }
        self.check_held()?;
        self.steps += 1;
        if self.steps.is_multiple_of(AUDIT_EVERY) {
            self.audit()?;
        }
        Ok(())
    }

    /// All guests leave; the books are looked at.
    pub fn close(mut self) -> Result<Tally, Violation> {
        self.audit()?;
        while let Some((lp, _)) = self.world.running.pop_first() {
            let _ = self.m.td_exit(lp, guest::INTERRUPT);
        }
        self.check_held()?;
        self.audit()?;
        Ok(self.tally)
    }

    fn seamcall(&mut self, lp: u32, before: Regs) -> Result<(), Violation> {
        let mut regs = before;
        drop(self.watch.as_ref().map(Watch::take_wanted));
        let after = self.m.seamcall(lp, &mut regs);
        self.check_wanted(&before)?;
        if after == After::Guest {
            entered(&mut self.world, lp, &before);
            self.tally.count(before.leaf(), TdxStatus::SUCCESS);
            return Ok(());
        }
        let status = regs.status();
        self.tally.count(before.leaf(), status);
        self.refused += u64::from(status.is(TdxStatus::SYS_SHUTDOWN));
        learn(&mut self.world, lp, &before, &regs);
        if let Some(watch) = &self.watch
            && before.leaf() == Leaf::MEM_PAGE_PROMOTE
            && status.is(TdxStatus::SUCCESS)
        {
            let (level, gpa) = ((before.rcx & 7) as u8, before.rcx & !7);
            let bytes = 1 << (12 + 9 * u32::from(level));
            watch.forget_entries(before.rdx, gpa, bytes, level - 1);
        }
        if let Some(register) = overwritten(&before, &regs) {
            return Err(Violation::Overwritten {
                what: self.what(),
                register,
            });
        }
        if status.name().is_none() || !may_be_busy(&before, status) {
            return Err(Violation::Status {
                what: self.what(),
                status,
            });
        }
        Ok(())
    }

    /// The call took no word that the table of locks does not list for its leaf.
    fn check_wanted(&self, before: &Regs) -> Result<(), Violation> {
        let wanted = self.watch.as_ref().map(Watch::take_wanted);
        self.listed(unlisted(before, wanted.unwrap_or_default()))
    }

    fn listed(&self, unlisted: Option<Wanted>) -> Result<(), Violation> {
        match unlisted {
            None => Ok(()),
            Some((word, mode, _)) => Err(Violation::Unlisted {
                what: self.what(),
                word,
                mode,
            }),
        }
    }

    /// Nothing is held but what VP.ENTER leaves held for guests that run.
    fn check_held(&self) -> Result<(), Violation> {
        let Some(watch) = &self.watch else {
            return Ok(());
        };
        let held = watch.held();
        let mut should: BTreeMap<Name, Holds> = BTreeMap::new();
        for (tdr, tdvpr) in self.world.running.values() {
            let base = |bits: u32| tdvpr >> bits << bits;
            let names = [
                locks::PAMT_4K.at(*tdr),
                locks::PAMT_4K.at(*tdvpr),
                locks::PAMT_2M.at(base(21)),
                locks::PAMT_1G.at(base(30)),
            ];
            for name in names {
                should.entry(name).or_default().shared += 1;
            }
        }
        if held == should {
            return Ok(());
        }
        let names = held
            .keys()
            .chain(should.keys().filter(|name| !held.contains_key(name)));
        let of = |map: &BTreeMap<Name, Holds>, name| map.get(name).copied().unwrap_or_default();
        let words = names.map(|name| (*name, of(&held, name), of(&should, name)));
        Err(Violation::Held {
            what: self.what(),
            words: words.filter(|(_, is, should)| is != should).collect(),
        })
    }

    fn audit(&mut self) -> Result<(), Violation> {
        self.tally.audits += 1;
        if self.corrupting {
            return Ok(());
        }
        match self.m.audit() {
            Ok(_) => Ok(()),
            Err(faults) => Err(Violation::Books {
                what: self.what(),
                faults,
            }),
        }
    }

    fn what(&self) -> String {
        match self.last {
            Some(Planned { lp, act }) => match act {
                Act::Seam(regs) => format!("{} on LP {lp}, {regs:x?}", regs.leaf()),
                other => format!("{other:x?} on LP {lp}"),
            },
            None => "nothing".to_owned(),
        }
    }
}
