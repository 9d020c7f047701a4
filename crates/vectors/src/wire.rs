//! The lines of a file as they are written; [`crate::sequence`] gives them their meaning.
//!
//! Fields that are only for the reader of the file (`leaf`, `status`, `calls`, …) are passed over.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use seamlock_tdx_abi::regs::REG_NAMES;
use serde::Deserialize;
use serde::de::{Deserializer, Error, MapAccess, Visitor};

use crate::hex::{Hex, InputHex};

#[derive(Deserialize)]
pub(crate) struct Header<'a> {
    #[serde(borrow)]
    pub format: Cow<'a, str>,
    #[serde(borrow)]
    pub corpus: Cow<'a, str>,
    #[serde(borrow)]
    pub platform: Platform<'a>,
    #[serde(borrow)]
    pub preambles: BTreeMap<String, Preamble<'a>>,
}

#[derive(Deserialize)]
pub(crate) struct Platform<'a> {
    pub ram_bytes: Hex,
    pub packages: u32,
    pub lps: u32,
    pub maxpa: u32,
    pub hkid_start_bit: u32,
    pub hkid_bits: u32,
    pub private_hkid_first: u16,
    pub private_hkid_count: u16,
    pub cmrs: Vec<Range>,
    pub seamrr: Range,
    pub native_tsc_hz: Hex,
    pub xcr0_supported: Hex,
    pub xss_supported: Hex,
    pub attributes_fixed0: Hex,
    pub attributes_fixed1: Hex,
    pub config_flags_fixed0: Hex,
    pub ept_5_level_supported: bool,
    pub cache_sub_blocks: u32,
    #[serde(borrow)]
    pub cpuid: Cow<'a, str>,
}

#[derive(Deserialize)]
pub(crate) struct Range {
    pub base: Hex,
    pub size: Hex,
}

#[derive(Deserialize)]
pub(crate) struct Preamble<'a> {
    #[serde(borrow)]
    pub steps: Vec<Step<'a>>,
}

/// What tells sequences apart, without the steps.
#[derive(Deserialize)]
pub(crate) struct Identity<'a> {
    #[serde(borrow)]
    pub id: Cow<'a, str>,
}

#[derive(Deserialize)]
pub(crate) struct Sequence<'a> {
    #[serde(borrow)]
    pub id: Cow<'a, str>,
    #[serde(borrow)]
    pub preamble: Cow<'a, str>,
    #[serde(borrow, default)]
    pub case: Option<Cow<'a, str>>,
    #[serde(borrow)]
    pub steps: Vec<Step<'a>>,
}

/// A step of any kind: what a kind does not have is absent.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(crate) struct Step<'a> {
    #[serde(borrow)]
    pub op: Cow<'a, str>,
    pub pa: Option<Hex>,
    pub tdr: Option<Hex>,
    pub gpa: Option<Hex>,
    pub level: Option<u8>,
    pub seed: Option<Hex>,
    #[serde(borrow)]
    pub hex: Option<Cow<'a, str>>,
    pub lp: Option<u32>,
    pub count: Option<u32>,
    #[serde(rename = "in")]
    pub input: Option<Input>,
    pub out: Option<Out>,
    pub reason: Option<Hex>,
    pub qual: Option<Hex>,
    #[serde(borrow)]
    pub kind: Option<Cow<'a, str>>,
    #[serde(borrow)]
    pub what: Option<Cow<'a, str>>,
    #[serde(borrow)]
    pub mode: Option<Cow<'a, str>>,
    #[serde(borrow)]
    pub result: Option<Cow<'a, str>>,
    pub word: Option<Word>,
}

#[derive(Clone, Copy, Deserialize)]
pub(crate) struct Word {
    pub exclusive: u8,
    pub host_priority: u8,
    pub readers: u16,
}

/// Some of the registers, in the order of [`REG_NAMES`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Registers {
    values: [u64; 15],
    present: u16,
}

impl Registers {
    /// Whether RAX is among them.
    pub fn has_rax(&self) -> bool {
        self.present & 1 != 0
    }

    /// `before` with these registers replaced.
    pub fn over(&self, mut before: [u64; 15]) -> [u64; 15] {
        for (i, value) in before.iter_mut().enumerate() {
            if self.present >> i & 1 != 0 {
                *value = self.values[i];
            }
        }
        before
    }
}

/// The registers that a call is given.
#[derive(Clone, Copy)]
pub(crate) struct Input(pub Registers);

/// What a call gives.
#[derive(Clone, Copy)]
pub(crate) enum Out {
    Guest,
    Host(Registers),
}

struct Name;

impl Visitor<'_> for Name {
    type Value = usize;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the name of a register")
    }

    fn visit_str<E: Error>(self, name: &str) -> Result<usize, E> {
        let found = REG_NAMES.iter().position(|known| *known == name);
        found.ok_or_else(|| E::unknown_field(name, &REG_NAMES))
    }
}

struct NameSeed;

impl<'de> serde::de::DeserializeSeed<'de> for NameSeed {
    type Value = usize;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<usize, D::Error> {
        from.deserialize_identifier(Name)
    }
}

/// Reads registers, each value by `value`.
fn registers<'de, A: MapAccess<'de>>(
    mut map: A,
    value: fn(&mut A) -> Result<u64, A::Error>,
) -> Result<Registers, A::Error> {
    let mut found = Registers::default();
    while let Some(i) = map.next_key_seed(NameSeed)? {
        if found.present >> i & 1 != 0 {
            return Err(A::Error::duplicate_field(REG_NAMES[i]));
        }
        found.values[i] = value(&mut map)?;
        found.present |= 1 << i;
    }
    Ok(found)
}

struct OutVisitor;

impl<'de> Visitor<'de> for OutVisitor {
    type Value = Out;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("registers by name, or \"guest\"")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Out, E> {
        match text {
            "guest" => Ok(Out::Guest),
            other => Err(E::unknown_variant(other, &["guest"])),
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Out, A::Error> {
        registers(map, |map| map.next_value::<Hex>().map(|hex| hex.0)).map(Out::Host)
    }
}

impl<'de> Deserialize<'de> for Out {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Out, D::Error> {
        from.deserialize_any(OutVisitor)
    }
}

struct InputVisitor;

impl<'de> Visitor<'de> for InputVisitor {
    type Value = Input;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("registers by name")
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Input, A::Error> {
        registers(map, |map| map.next_value::<InputHex>().map(|hex| hex.0)).map(Input)
    }
}

impl<'de> Deserialize<'de> for Input {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Input, D::Error> {
        from.deserialize_map(InputVisitor)
    }
}

/// What is wrong with a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Complaint {
    /// The field as a path, `steps[3].in.rcx`; empty when it is the line as a whole.
    pub field: String,
    /// What is wrong.
    pub message: String,
}

/// Reads one line.
///
/// # Errors
/// The field that is wrong, as a path (`steps[3].in.rcx`).
pub(crate) fn read<'a, T: Deserialize<'a>>(line: &'a [u8]) -> Result<T, Complaint> {
    if let Ok(value) = serde_json::from_slice(line) {
        return Ok(value);
    }
    // Keeping track of the path costs time: only for a line that is wrong.
    let mut json = serde_json::Deserializer::from_slice(line);
    let complaint = |field: String, error: serde_json::Error| {
        let field = if field == "." { String::new() } else { field };
        Complaint {
            field,
            message: error.to_string(),
        }
    };
    match serde_path_to_error::deserialize(&mut json) {
        Err(error) => Err(complaint(error.path().to_string(), error.into_inner())),
        Ok(value) => json
            .end()
            .map(|()| value)
            .map_err(|error| complaint(String::new(), error)),
    }
}
