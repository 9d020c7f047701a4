//! What a run makes fail on purpose.

use seamlock_tdx_abi::kvm::{Errno, IOCTLS, TdxCmdId};
use seamlock_tdx_abi::operand::OperandId;
use seamlock_tdx_abi::{Leaf, TdxStatus};

/// What fails.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// A SEAMCALL, with this status.
    Seamcall(Leaf, TdxStatus),
    /// An ioctl or a TDX command by its name, before KVM sees it, with this errno; without one seamlock
    /// itself panics, as a bug of its own would.
    Ioctl(String, Option<Errno>),
}

/// Which calls fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// `count` of them from the `nth` on, which counts from 1.
    Some {
        /// The first that fails.
        nth: u64,
        /// How many fail.
        count: u64,
    },
    /// This many of a hundred, spread as if by chance, and the same in every run.
    Percent(u8),
}

impl Which {
    /// Whether the `n`th call is one that fails.
    pub fn hits(self, n: u64) -> bool {
        match self {
            Which::Some { nth, count } => n >= nth && n - nth < count,
            Which::Percent(percent) => scatter(n) % 100 < u64::from(percent),
        }
    }
}

/// SplitMix64's output function.
fn scatter(n: u64) -> u64 {
    let n = n.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let n = (n ^ (n >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let n = (n ^ (n >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    n ^ (n >> 31)
}

/// Calls that fail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Injection {
    /// What fails, and how.
    pub target: Target,
    /// Which of the calls.
    pub which: Which,
}

impl Injection {
    /// Parses `NAME[@WHICH]=RESULT`: `TDH.MEM.PAGE.ADD@5=TDX_OPERAND_BUSY(TDR)`, `KVM_TDX_INIT_VM=EAGAIN`,
    /// `KVM_RUN@2x3=EINTR`, `TDH.MR.EXTEND@10%=TDX_OPERAND_BUSY(TDR)`. Which: `NTH`, `NTHxCOUNT`, `NTH+`
    /// for all from there on, or `N%`; without it the first call fails. A RESULT of `panic` is ours.
    ///
    /// # Errors
    /// What is wrong, as a sentence.
    pub fn parse(spec: &str) -> Result<Injection, String> {
        let (call, result) = spec
            .split_once('=')
            .ok_or_else(|| format!("`{spec}`: no `=` and result"))?;
        let (name, times) = match call.split_once('@') {
            Some((name, times)) => (name, Some(times)),
            None => (call, None),
        };
        let which = times.map_or(Ok(Which::Some { nth: 1, count: 1 }), parse_which)?;
        let target = match Leaf::from_name(name) {
            Some(leaf) if name.contains('.') => Target::Seamcall(leaf, status(result)?),
            _ if result == "panic" => Target::Ioctl(ioctl(name)?, None),
            _ => Target::Ioctl(ioctl(name)?, Some(errno(result)?)),
        };
        Ok(Injection { target, which })
    }

    /// Whether the `n`th call is one that fails.
    pub fn hits(&self, n: u64) -> bool {
        self.which.hits(n)
    }
}

fn parse_which(which: &str) -> Result<Which, String> {
    let wrong = || format!("`@{which}` is none of `@NTH`, `@NTHxCOUNT`, `@NTH+` and `@N%`");
    if let Some(percent) = which.strip_suffix('%') {
        let percent = percent
            .parse()
            .ok()
            .filter(|percent| (1..=100).contains(percent));
        return percent.map(Which::Percent).ok_or_else(wrong);
    }
    let (nth, count) = match which.strip_suffix('+') {
        Some(nth) => (nth, Ok(u64::MAX)),
        None => {
            let (nth, count) = which.split_once('x').unwrap_or((which, "1"));
            (nth, count.parse())
        }
    };
    match (nth.parse(), count) {
        (Ok(nth), Ok(count)) if nth > 0 && count > 0 => Ok(Which::Some { nth, count }),
        _ => Err(wrong()),
    }
}

fn status(text: &str) -> Result<TdxStatus, String> {
    let (name, operand) = match text.strip_suffix(')').and_then(|t| t.split_once('(')) {
        Some((name, operand)) => (name, Some(operand)),
        None => (text, None),
    };
    let code =
        TdxStatus::from_name(name).ok_or_else(|| format!("`{name}` is no status of the module"))?;
    let Some(operand) = operand else {
        return Ok(code);
    };
    let found = OperandId::ALL.iter().find(|(_, known)| *known == operand);
    let (id, _) = found.ok_or_else(|| format!("`{operand}` is no operand"))?;
    Ok(code.with(*id))
}

fn errno(text: &str) -> Result<Errno, String> {
    Errno::from_name(text).ok_or_else(|| format!("`{text}` is no errno"))
}

fn ioctl(name: &str) -> Result<String, String> {
    let commands = || TdxCmdId::ALL.iter().map(|(_, known)| *known);
    let ioctls = || IOCTLS.iter().map(|info| info.name);
    if commands().chain(ioctls()).any(|known| known == name) {
        return Ok(name.to_owned());
    }
    let leaves = (0..=u16::from(u8::MAX)).filter_map(|leaf| Leaf(leaf).spec_name());
    let all = leaves.chain(commands()).chain(ioctls());
    let near = all.filter(|known| is_near(name, known)).take(SUGGESTIONS);
    let near: Vec<String> = near.map(|known| format!("`{known}`")).collect();
    let hint = match near.join(", ") {
        near if near.is_empty() => String::new(),
        near => format!("; perhaps {near}"),
    };
    Err(format!(
        "`{name}` is neither a SEAMCALL, an ioctl of KVM nor a TDX command{hint}"
    ))
}

/// Names that an error proposes at the most.
const SUGGESTIONS: usize = 4;

/// Whether somebody who wrote `name` may have meant `known`: one has the letters of the other in a row.
fn is_near(name: &str, known: &str) -> bool {
    let letters = |text: &str| {
        let letters = text.chars().filter(char::is_ascii_alphanumeric);
        letters.collect::<String>().to_ascii_uppercase()
    };
    let name = letters(name);
    name.len() > 2 && letters(known).contains(&name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_named_counted_and_given_a_result() {
        let parsed = Injection::parse("TDH.MEM.PAGE.ADD@5=TDX_OPERAND_BUSY(TDR)").expect("a spec");
        let busy = TdxStatus::OPERAND_BUSY.with(OperandId::TDR);
        assert_eq!(parsed.target, Target::Seamcall(Leaf::MEM_PAGE_ADD, busy));
        assert_eq!(parsed.which, Which::Some { nth: 5, count: 1 });
        let parsed = Injection::parse("KVM_RUN@2x3=EINTR").expect("a spec");
        assert_eq!(
            parsed.target,
            Target::Ioctl("KVM_RUN".to_owned(), Some(Errno::EINTR))
        );
        let hits: Vec<u64> = (1..8).filter(|n| parsed.hits(*n)).collect();
        assert_eq!(hits, [2, 3, 4]);
        assert!(Injection::parse("KVM_TDX_INIT_VM=EAGAIN").is_ok_and(|i| i.hits(1) && !i.hits(2)));
        let parsed = Injection::parse("KVM_RUN@3+=panic").expect("a spec");
        assert_eq!(parsed.target, Target::Ioctl("KVM_RUN".to_owned(), None));
        assert!(!parsed.hits(2) && parsed.hits(3) && parsed.hits(u64::MAX));
    }

    #[test]
    fn a_share_of_the_calls_is_spread_over_all_of_them() {
        for percent in [1, 10, 50, 100] {
            let spec = format!("KVM_RUN@{percent}%=EINTR");
            let injection = Injection::parse(&spec).expect("a spec");
            let hits =
                |calls: std::ops::Range<u64>| calls.filter(|n| injection.hits(*n)).count() as u64;
            for part in 0..4 {
                let found = hits(1 + part * 10_000..1 + (part + 1) * 10_000);
                assert!(found.abs_diff(percent * 100) <= 150, "{percent} %: {found}");
            }
        }
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (spec, what) in [
            ("KVM_RUN", "`KVM_RUN`: no `=` and result"),
            (
                "KVM_JUMP=EIO",
                "`KVM_JUMP` is neither a SEAMCALL, an ioctl of KVM nor a TDX command",
            ),
            ("KVM_RUN=EJUMP", "`EJUMP` is no errno"),
            ("TDH.VP.ENTER=EIO", "`EIO` is no status of the module"),
            ("TDH.VP.ENTER=OPERAND_BUSY(X)", "`X` is no operand"),
            (
                "KVM_RUN@0=EIO",
                "`@0` is none of `@NTH`, `@NTHxCOUNT`, `@NTH+` and `@N%`",
            ),
            (
                "KVM_RUN@101%=EIO",
                "`@101%` is none of `@NTH`, `@NTHxCOUNT`, `@NTH+` and `@N%`",
            ),
            (
                "init_vcpu=EIO",
                "`init_vcpu` is neither a SEAMCALL, an ioctl of KVM nor a TDX command; perhaps \
                 `KVM_TDX_INIT_VCPU`",
            ),
        ] {
            assert_eq!(Injection::parse(spec), Err(what.to_owned()));
        }
    }
}
