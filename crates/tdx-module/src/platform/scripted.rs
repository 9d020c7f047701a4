//! A machine on which goes wrong what a script says, and nothing else.

use std::collections::VecDeque;

use seamlock_sync::Private;
use seamlock_tdx_abi::addr::Hkid;

use super::{Events, KeyProgramming, PlatformFault, Quiet};

/// Answers in the order in which they are asked for. When they are used up, nothing goes wrong.
#[derive(Debug)]
pub struct Script<T>(Private<VecDeque<T>>);

impl<T> Default for Script<T> {
    fn default() -> Script<T> {
        Script(Private::new(VecDeque::new()))
    }
}

impl<T> Script<T> {
    /// Adds answers after those that are there.
    pub fn then(&self, answers: impl IntoIterator<Item = T>) {
        self.0.with(|script| script.extend(answers));
    }

    /// Answers that were not asked for yet.
    pub fn left(&self) -> usize {
        self.0.with(|script| script.len())
    }

    fn next(&self) -> Option<T> {
        self.0.with(VecDeque::pop_front)
    }
}

/// A machine whose mishaps are written down beforehand, to see what the module makes of them.
///
/// ```
/// # use std::sync::Arc;
/// # use seamlock_tdx_module::platform::{Platform, Scripted};
/// let script = Arc::new(Scripted::default());
/// // The second random number that the module asks for is not there.
/// script.entropy.then([true, false]);
/// let platform = Platform {
///     events: Arc::<Scripted>::clone(&script),
///     ..Platform::sapphire_rapids(4 << 30, 1)
/// };
/// ```
#[derive(Debug, Default)]
pub struct Scripted {
    quiet: Quiet,
    /// Whether there is entropy for a random number.
    pub entropy: Script<bool>,
    /// How the programming of a key ends.
    pub keys: Script<KeyProgramming>,
    /// Whether an interrupt waits.
    pub interrupts: Script<bool>,
    /// What the time-stamp counter reads.
    pub tsc: Script<u64>,
    /// Whether IA32_TSC_ADJUST was changed.
    pub tsc_adjusted: Script<bool>,
    /// Whether CPUID is limited.
    pub limited_cpuid: Script<bool>,
    /// What the checks of SYS.INIT and SYS.LP.INIT find.
    pub checks: Script<Result<(), PlatformFault>>,
}

impl Events for Scripted {
    fn random(&self, lp: u32) -> Option<[u64; 4]> {
        let there = self.entropy.next().unwrap_or(true);
        there.then(|| self.quiet.random(lp)).flatten()
    }

    fn program_key(&self, lp: u32, hkid: Hkid) -> KeyProgramming {
        let scripted = self.keys.next();
        scripted.unwrap_or_else(|| self.quiet.program_key(lp, hkid))
    }

    fn interrupt_pending(&self, lp: u32) -> bool {
        let scripted = self.interrupts.next();
        scripted.unwrap_or_else(|| self.quiet.interrupt_pending(lp))
    }

    fn tsc(&self, lp: u32) -> u64 {
        self.tsc.next().unwrap_or_else(|| self.quiet.tsc(lp))
    }

    fn tsc_adjust_unchanged(&self, _lp: u32) -> bool {
        !self.tsc_adjusted.next().unwrap_or(false)
    }

    fn limits_cpuid(&self, _lp: u32) -> bool {
        self.limited_cpuid.next().unwrap_or(false)
    }

    fn platform_check(&self, lp: u32) -> Result<(), PlatformFault> {
        let scripted = self.checks.next();
        scripted.unwrap_or_else(|| self.quiet.platform_check(lp))
    }
}
