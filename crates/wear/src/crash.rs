//! A process that was ended by a fault of its own.

use std::fmt;
use std::io::{self, Write};

use serde::{Deserialize, Serialize};

/// Addresses that nobody maps: what lies there was reached through a null pointer.
const FIRST_PAGE: u64 = 4096;

/// Where a process crashed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Crash<S = String> {
    /// The signal's name.
    pub signal: S,
    /// The address that could not be reached; None where the processor does not tell.
    pub address: Option<u64>,
    /// The file that the instruction is in; empty when it is in none.
    pub module: S,
    /// How far behind the module's first address the instruction is.
    pub offset: u64,
    /// Whether the thread was in seamlock, in its code or in what that called.
    pub inside: bool,
    /// The thread.
    pub thread: u64,
}

/// As [`Event`](crate::Event) has it, of a crash that owns nothing.
#[derive(Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
enum Event<'a> {
    Crash(&'a Crash<&'a str>),
}

impl Crash<&str> {
    /// Writes it as a line of a record, without allocating.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn write_event(&self, mut out: impl Write) -> io::Result<()> {
        serde_json::to_writer(&mut out, &Event::Crash(self))?;
        out.write_all(b"\n")
    }
}

impl<S: AsRef<str>> Crash<S> {
    /// Whether a program went through a null pointer itself, outside of seamlock.
    pub fn is_null_pointer_of(&self, program: &str) -> bool {
        let file = self.module.as_ref().rsplit('/').next();
        !self.inside
            && self.signal.as_ref() == "SIGSEGV"
            && self.address.is_some_and(|address| address < FIRST_PAGE)
            && file == Some(program)
    }
}

impl<S: AsRef<str>> fmt::Display for Crash<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.signal.as_ref())?;
        if let Some(address) = self.address {
            write!(f, " at address {address:#x}")?;
        }
        match self.module.as_ref() {
            "" => f.write_str(", in no file")?,
            module => write!(f, ", in {module} at {:#x}", self.offset)?,
        }
        let whose = if self.inside {
            "a bug of seamlock"
        } else {
            "not in seamlock"
        };
        write!(f, " (thread {}, {whose})", self.thread)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_null_pointer_of_the_program_itself_is_one() {
        let crash = Crash {
            signal: "SIGSEGV",
            address: Some(1),
            module: "/usr/bin/vmm",
            offset: 0x5c3,
            inside: false,
            thread: 7,
        };
        assert!(crash.is_null_pointer_of("vmm"));
        assert_eq!(
            crash.to_string(),
            "SIGSEGV at address 0x1, in /usr/bin/vmm at 0x5c3 (thread 7, not in seamlock)"
        );
        let others = [
            ("another program", crash.clone(), "vm"),
            (
                "seamlock",
                Crash {
                    inside: true,
                    ..crash.clone()
                },
                "vmm",
            ),
            (
                "no address",
                Crash {
                    address: None,
                    ..crash.clone()
                },
                "vmm",
            ),
            (
                "far away",
                Crash {
                    address: Some(4096),
                    ..crash.clone()
                },
                "vmm",
            ),
            (
                "another signal",
                Crash {
                    signal: "SIGBUS",
                    ..crash.clone()
                },
                "vmm",
            ),
            (
                "a library",
                Crash {
                    module: "/lib/libc.so.6",
                    ..crash.clone()
                },
                "vmm",
            ),
            (
                "no file",
                Crash {
                    module: "",
                    ..crash
                },
                "vmm",
            ),
        ];
        for (what, crash, program) in others {
            assert!(!crash.is_null_pointer_of(program), "{what}");
        }
    }
}
