//! What a run makes fail on purpose.

use std::fmt;

use seamlock_tdx_abi::kvm::{Errno, IOCTLS, TdxCmdId};
use seamlock_tdx_abi::operand::OperandId;
use seamlock_tdx_abi::{Leaf, TdxStatus};

/// What fails.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// A SEAMCALL, with this status.
    Seamcall(Leaf, TdxStatus),
    /// An ioctl or a TDX command by its name, before KVM sees it, with this errno.
    Ioctl(String, Errno),
}

/// Calls that fail: `count` of them from the `nth` on, which counts from 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Injection {
    /// What fails, and how.
    pub target: Target,
    /// The first that fails.
    pub nth: u64,
    /// How many fail.
    pub count: u64,
}

impl Injection {
    /// Parses `NAME[@NTH][xCOUNT]=RESULT`: `TDH.MEM.PAGE.ADD@5=TDX_OPERAND_BUSY(TDR)`,
    /// `KVM_TDX_INIT_VM=EAGAIN`, `KVM_RUN@2x3=EINTR`. Without NTH the first call fails, without COUNT one.
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
        let (nth, count) = times.map_or(Ok((1, 1)), parse_times)?;
        let target = match Leaf::from_name(name) {
            Some(leaf) if name.contains('.') => Target::Seamcall(leaf, status(result)?),
            _ => Target::Ioctl(ioctl(name)?, errno(result)?),
        };
        Ok(Injection { target, nth, count })
    }

    /// Whether the `n`th call is one that fails.
    pub fn hits(&self, n: u64) -> bool {
        n >= self.nth && n - self.nth < self.count
    }
}

impl fmt::Display for Injection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Injection { target, nth, count } = self;
        match target {
            Target::Seamcall(leaf, status) => write!(f, "{leaf}@{nth}x{count}={status}"),
            Target::Ioctl(name, errno) => write!(f, "{name}@{nth}x{count}={errno}"),
        }
    }
}

fn parse_times(times: &str) -> Result<(u64, u64), String> {
    let wrong = || format!("`@{times}` is not `@NTH` or `@NTHxCOUNT`");
    let (nth, count) = times.split_once('x').unwrap_or((times, "1"));
    match (nth.parse(), count.parse()) {
        (Ok(nth), Ok(count)) if nth > 0 && count > 0 => Ok((nth, count)),
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
    let is_command = TdxCmdId::ALL.iter().any(|(_, known)| *known == name);
    if is_command || IOCTLS.iter().any(|info| info.name == name) {
        return Ok(name.to_owned());
    }
    Err(format!(
        "`{name}` is neither a SEAMCALL, an ioctl of KVM nor a TDX command"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_named_counted_and_given_a_result() {
        let parsed = Injection::parse("TDH.MEM.PAGE.ADD@5=TDX_OPERAND_BUSY(TDR)").expect("a spec");
        let busy = TdxStatus::OPERAND_BUSY.with(OperandId::TDR);
        assert_eq!(parsed.target, Target::Seamcall(Leaf::MEM_PAGE_ADD, busy));
        assert_eq!((parsed.nth, parsed.count), (5, 1));
        let parsed = Injection::parse("KVM_RUN@2x3=EINTR").expect("a spec");
        assert_eq!(
            parsed.target,
            Target::Ioctl("KVM_RUN".to_owned(), Errno::EINTR)
        );
        let hits: Vec<u64> = (1..8).filter(|n| parsed.hits(*n)).collect();
        assert_eq!(hits, [2, 3, 4]);
        assert!(Injection::parse("KVM_TDX_INIT_VM=EAGAIN").is_ok_and(|i| i.hits(1) && !i.hits(2)));
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
            ("KVM_RUN@0=EIO", "`@0` is not `@NTH` or `@NTHxCOUNT`"),
        ] {
            assert_eq!(Injection::parse(spec), Err(what.to_owned()));
        }
    }
}
