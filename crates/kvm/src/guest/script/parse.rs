//! The language of guest scripts.

use std::fmt;

use super::step::{Memory, Step, Verb};

/// A line that can't be understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParseError {
    /// Its number, from 1.
    pub line: usize,
    /// What is wrong with it.
    pub what: String,
}

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.line, self.what)
    }
}

impl std::error::Error for ParseError {}

/// Every verb with its operands, as error messages and the help print them.
pub const VERBS: &[(&str, &str)] = &[
    ("in", "PORT SIZE"),
    ("out", "PORT SIZE VALUE"),
    ("read", "GPA SIZE"),
    ("write", "GPA SIZE VALUE"),
    ("map", "GPA BYTES private|shared"),
    ("quote", "GPA BYTES"),
    ("info", "LEAF"),
    ("notify", "VECTOR"),
    ("fatal", "CODE [TEXT…]"),
    ("cpuid", "LEAF [SUBLEAF]"),
    ("rdmsr", "MSR"),
    ("wrmsr", "MSR VALUE"),
    ("hypercall", "NUMBER [ARGUMENT…]"),
    ("vmcall", "NUMBER [R12 [R13 [R14 [R15]]]]"),
    ("touch", "GPA read|write|fetch [shared]"),
    ("accept", "GPA [4K|2M]"),
    ("extend", "RTMR GPA DIGEST|TEXT…"),
    ("halt", ""),
    ("shutdown", ""),
    ("reset", ""),
    ("exit", "REASON [QUALIFICATION [INTERRUPTION]]"),
    ("return", "STATUS [RCX [RDX [R8 [R9]]]]"),
];

/// Parses a script.
///
/// A line is `[vcpu N:] VERB OPERANDS`; without a vCPU it is the boot processor's. `#` starts a comment.
/// Numbers are decimal or hexadecimal, with K, M or G behind them for 2^10, 2^20, 2^30. Addresses are
/// given without the shared bit; the step sets it where it needs one.
///
/// # Errors
/// The first line that can't be understood.
pub fn parse(script: &str) -> Result<Vec<Step>, ParseError> {
    let mut steps = Vec::new();
    for (i, line) in script.lines().enumerate() {
        let text = line.split('#').next().unwrap_or_default().trim();
        if text.is_empty() {
            continue;
        }
        let at = |what: String| ParseError { line: i + 1, what };
        let (vcpu, rest) = vcpu(text).map_err(at)?;
        let verb = verb(rest).map_err(at)?;
        steps.push(Step {
            line: i + 1,
            vcpu,
            text: rest.to_owned(),
            verb,
        });
    }
    Ok(steps)
}

fn vcpu(text: &str) -> Result<(u32, &str), String> {
    let Some((head, rest)) = text.split_once(':') else {
        return Ok((0, text));
    };
    match head.trim().strip_prefix("vcpu") {
        Some(id) => {
            let id = number(id.trim())?;
            let id = u32::try_from(id).map_err(|_| format!("vCPU {id} is too large"))?;
            Ok((id, rest.trim()))
        }
        None => Ok((0, text)),
    }
}

fn number(word: &str) -> Result<u64, String> {
    let (digits, shift) = match word.char_indices().next_back() {
        Some((at, 'K')) => (&word[..at], 10),
        Some((at, 'M')) => (&word[..at], 20),
        Some((at, 'G')) => (&word[..at], 30),
        _ => (word, 0),
    };
    let value = match digits.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16),
        None => digits.parse(),
    };
    let value = value.map_err(|_| format!("`{word}` is not a number"))?;
    value
        .checked_mul(1 << shift)
        .ok_or_else(|| format!("`{word}` does not fit 64 bits"))
}

/// The operands of a verb, one after the other.
struct Operands<'a> {
    verb: &'a str,
    words: std::str::SplitWhitespace<'a>,
}

impl<'a> Operands<'a> {
    fn usage(&self) -> String {
        let known = VERBS.iter().find(|(verb, _)| *verb == self.verb);
        known.map_or_else(String::new, |(verb, operands)| {
            format!("`{verb} {operands}`")
        })
    }

    fn word(&mut self) -> Result<&'a str, String> {
        self.words
            .next()
            .ok_or_else(|| format!("an operand is missing: {}", self.usage()))
    }

    fn number(&mut self) -> Result<u64, String> {
        number(self.word()?)
    }

    fn or(&mut self, default: u64) -> Result<u64, String> {
        self.words.next().map_or(Ok(default), number)
    }

    /// Whether the last word is there.
    fn flag(&mut self, name: &str) -> Result<bool, String> {
        match self.words.next() {
            None => Ok(false),
            Some(word) if word == name => Ok(true),
            Some(word) => Err(format!("`{word}`: {}", self.usage())),
        }
    }

    fn one_of<T: Copy>(&mut self, choices: &[(&str, T)]) -> Result<T, String> {
        let word = self.word()?;
        let found = choices.iter().find(|(name, _)| *name == word);
        found
            .map(|(_, value)| *value)
            .ok_or_else(|| format!("`{word}`: {}", self.usage()))
    }

    /// The rest of the line as 48 bytes: as many in hexadecimal, or a text with zeros behind it.
    fn digest(&mut self) -> Result<[u8; 48], String> {
        let first = self.word()?;
        let text = self
            .words
            .by_ref()
            .fold(first.to_owned(), |text, word| text + " " + word);
        let hex = |i: usize| u8::from_str_radix(text.get(2 * i..2 * i + 2)?, 16).ok();
        let digest: Option<Vec<u8>> = (0..48).map(hex).collect();
        let mut data = [0; 48];
        match digest.filter(|_| text.len() == 96) {
            Some(digest) => data.copy_from_slice(&digest),
            None if text.len() <= 48 => data[..text.len()].copy_from_slice(text.as_bytes()),
            None => return Err(format!("a text has at most 48 bytes: {}", self.usage())),
        }
        Ok(data)
    }

    fn end(mut self, verb: Verb) -> Result<Verb, String> {
        match self.words.next() {
            None => Ok(verb),
            Some(word) => Err(format!("`{word}` is too much: {}", self.usage())),
        }
    }
}

fn verb(text: &str) -> Result<Verb, String> {
    let (name, rest) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
    let mut o = Operands {
        verb: name,
        words: rest.split_whitespace(),
    };
    let verb = match name {
        "in" => Verb::In {
            port: o.number()?,
            size: o.number()?,
        },
        "out" => Verb::Out {
            port: o.number()?,
            size: o.number()?,
            value: o.number()?,
        },
        "read" => Verb::MmioRead {
            gpa: o.number()?,
            size: o.number()?,
        },
        "write" => Verb::MmioWrite {
            gpa: o.number()?,
            size: o.number()?,
            value: o.number()?,
        },
        "map" => Verb::MapGpa {
            gpa: o.number()?,
            bytes: o.number()?,
            private: o.one_of(&[("private", true), ("shared", false)])?,
        },
        "quote" => Verb::GetQuote {
            gpa: o.number()?,
            bytes: o.number()?,
        },
        "info" => Verb::GetTdVmCallInfo { leaf: o.number()? },
        "notify" => Verb::SetupEventNotifyInterrupt {
            vector: o.number()?,
        },
        "fatal" => {
            let code = o.number()?;
            let message = o.words.by_ref().collect::<Vec<_>>().join(" ");
            Verb::ReportFatalError { code, message }
        }
        "cpuid" => Verb::Cpuid {
            leaf: o.number()?,
            subleaf: o.or(0)?,
        },
        "rdmsr" => Verb::Rdmsr { msr: o.number()? },
        "wrmsr" => Verb::Wrmsr {
            msr: o.number()?,
            value: o.number()?,
        },
        "hypercall" => Verb::Vmcall([o.number()?, o.or(0)?, o.or(0)?, o.or(0)?, o.or(0)?, 0]),
        "vmcall" => Verb::Vmcall([0, o.number()?, o.or(0)?, o.or(0)?, o.or(0)?, o.or(0)?]),
        "touch" => {
            let gpa = o.number()?;
            let kinds = [
                ("read", Memory::Read),
                ("write", Memory::Write),
                ("fetch", Memory::Fetch),
            ];
            Verb::Touch {
                gpa,
                how: o.one_of(&kinds)?,
                shared: o.flag("shared")?,
            }
        }
        "accept" => {
            let gpa = o.number()?;
            let level = match o.or(4096)? {
                4096 => 0,
                0x20_0000 => 1,
                _ => return Err(format!("a page is 4K or 2M: {}", o.usage())),
            };
            Verb::Accept { gpa, level }
        }
        "extend" => Verb::Extend {
            index: o.number()?,
            gpa: o.number()?,
            data: o.digest()?,
        },
        "halt" => Verb::Halt,
        "shutdown" => Verb::Shutdown,
        "reset" => Verb::Reset,
        "exit" => {
            let reason = o.number()?;
            let reason = u32::try_from(reason).map_err(|_| "no such exit reason".to_owned())?;
            Verb::Exit {
                reason,
                qual: o.or(0)?,
                interruption: o.or(0)? as u32,
            }
        }
        "return" => Verb::Return([o.number()?, o.or(0)?, o.or(0)?, o.or(0)?, o.or(0)?]),
        _ => return Err(format!("`{name}` is no verb")),
    };
    o.end(verb)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_steps_of_the_vcpu_that_they_name() {
        let script =
            "# nothing\n\nout 0x3f8 1 65 # A\nvcpu 3: map 2M 4K shared\nfatal 7 it is over";
        let steps = parse(script).expect("a script");
        let brief: Vec<_> = steps
            .iter()
            .map(|s| (s.line, s.vcpu, s.verb.clone()))
            .collect();
        assert_eq!(
            brief,
            [
                (
                    3,
                    0,
                    Verb::Out {
                        port: 0x3f8,
                        size: 1,
                        value: 65
                    }
                ),
                (
                    4,
                    3,
                    Verb::MapGpa {
                        gpa: 0x20_0000,
                        bytes: 4096,
                        private: false
                    }
                ),
                (
                    5,
                    0,
                    Verb::ReportFatalError {
                        code: 7,
                        message: "it is over".to_owned()
                    }
                ),
            ]
        );
        assert_eq!(steps[1].text, "map 2M 4K shared");
    }

    #[test]
    fn what_is_wrong_is_said_with_its_line() {
        for (script, line, what) in [
            (
                "halt\nout 1 2",
                2,
                "an operand is missing: `out PORT SIZE VALUE`",
            ),
            ("in 0x3f8 1 2", 1, "`2` is too much: `in PORT SIZE`"),
            ("in port 1", 1, "`port` is not a number"),
            ("jump 1", 1, "`jump` is no verb"),
            ("map 0 4K both", 1, "`both`: `map GPA BYTES private|shared`"),
            (
                "touch 0 read private",
                1,
                "`private`: `touch GPA read|write|fetch [shared]`",
            ),
            (
                "read 0xffffffffffffffffG 1",
                1,
                "`0xffffffffffffffffG` does not fit 64 bits",
            ),
            ("vcpu x: halt", 1, "`x` is not a number"),
            (
                "extend 0 0 a text that is longer than the forty-eight bytes of a digest",
                1,
                "a text has at most 48 bytes: `extend RTMR GPA DIGEST|TEXT…`",
            ),
        ] {
            let error = ParseError {
                line,
                what: what.to_owned(),
            };
            assert_eq!(parse(script), Err(error));
        }
    }

    #[test]
    fn every_verb_of_the_list_is_parsed() {
        for (verb, operands) in VERBS {
            let words: Vec<&str> = operands.split_whitespace().collect();
            let example = words.iter().map(|word| match *word {
                "private|shared" => "private",
                "read|write|fetch" => "read",
                word if word.starts_with('[') => "",
                _ if word.ends_with(']') => "",
                _ => "1",
            });
            let line = std::iter::once(*verb)
                .chain(example)
                .collect::<Vec<_>>()
                .join(" ");
            assert!(parse(&line).is_ok(), "{line}: {:?}", parse(&line));
        }
    }

    #[test]
    fn every_verb_is_documented() {
        let docs = include_str!("../../../../../docs/script.md");
        for (verb, operands) in VERBS {
            let operands = operands.split([' ', '[']).next().unwrap_or_default();
            let line = format!("| `{verb} {operands}");
            assert!(docs.contains(line.trim_end()), "{line}");
        }
    }
}
