//! Numbers and bytes as the vectors write them.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, Visitor};
use serde::ser::{Serialize, Serializer};

/// A 64-bit number, written `"0x…"`. A plain JSON number is understood too.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Hex(pub u64);

/// Reads `0x…`; `None` when it is anything else or does not fit in 64 bits.
pub(crate) fn parse_u64(text: &str) -> Option<u64> {
    let digits = text.strip_prefix("0x")?;
    // from_str_radix would accept a sign.
    if !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    u64::from_str_radix(digits, 16).ok()
}

/// Reads `0x…` as the recorder read its own inputs: what does not fit in 64 bits is all ones, which is
/// what C's `strtoull` makes of it. Two inputs of the recorded corpora have 65 bits, and their outputs
/// show what the module was really given.
pub(crate) fn parse_input(text: &str) -> Option<u64> {
    let digits = text.strip_prefix("0x")?;
    let number = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_hexdigit());
    number.then(|| u64::from_str_radix(digits, 16).unwrap_or(u64::MAX))
}

/// Reads pairs of hex digits; `None` when a character is no digit or one is left over.
pub(crate) fn parse_bytes(text: &str) -> Option<Vec<u8>> {
    let digit = |b: u8| (b as char).to_digit(16).map(|d| d as u8);
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    if !rest.is_empty() {
        return None;
    }
    let byte = |pair: &[u8; 2]| Some(digit(pair[0])? << 4 | digit(pair[1])?);
    pairs.iter().map(byte).collect()
}

/// Bytes as pairs of hex digits.
pub(crate) fn show_bytes(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// A register before a call: a [`Hex`] that is all ones when it does not fit.
pub(crate) struct InputHex(pub u64);

/// Reads a number by the given rule.
struct HexVisitor(fn(&str) -> Option<u64>);

impl Visitor<'_> for HexVisitor {
    type Value = Hex;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a 64-bit number as \"0x…\"")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Hex, E> {
        let bad = || E::invalid_value(serde::de::Unexpected::Str(text), &self);
        (self.0)(text).map(Hex).ok_or_else(bad)
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Hex, E> {
        Ok(Hex(value))
    }
}

impl<'de> Deserialize<'de> for Hex {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Hex, D::Error> {
        from.deserialize_any(HexVisitor(parse_u64))
    }
}

impl<'de> Deserialize<'de> for InputHex {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<InputHex, D::Error> {
        from.deserialize_any(HexVisitor(parse_input))
            .map(|hex| InputHex(hex.0))
    }
}

impl Serialize for Hex {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(&format_args!("{:#x}", self.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_unsigned_number_with_its_prefix_is_hex() {
        assert_eq!(parse_u64("0x40200000"), Some(0x4020_0000));
        assert_eq!(parse_u64("0xffffffffffffffff"), Some(u64::MAX));
        for bad in [
            "",
            "0x",
            "40",
            "0x+4",
            "0x-4",
            "0x10000000000000000",
            "0xg",
            "0x 1",
        ] {
            assert_eq!(parse_u64(bad), None, "{bad}");
        }
    }

    #[test]
    fn an_input_that_is_too_wide_is_all_ones() {
        assert_eq!(parse_input("0x18000000000000000"), Some(u64::MAX));
        assert_eq!(
            parse_input("0x1800000000000000"),
            Some(0x1800_0000_0000_0000)
        );
        for bad in ["", "0x", "0x+1", "1800"] {
            assert_eq!(parse_input(bad), None, "{bad}");
        }
    }

    #[test]
    fn bytes_come_in_pairs_of_digits() {
        assert_eq!(parse_bytes("00ffA5"), Some(vec![0, 0xff, 0xa5]));
        assert_eq!(parse_bytes(""), Some(vec![]));
        for bad in ["0", "0g", "é0", "00 "] {
            assert_eq!(parse_bytes(bad), None, "{bad}");
        }
        assert_eq!(show_bytes(&[0, 0xff, 0xa5]), "00ffa5");
    }
}
