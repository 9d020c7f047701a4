//! An MRTD as people have it: hexadecimal, base64, in a quote or in a TD report.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use openssl::base64;
use seamlock_tdvf::Mrtd;

use crate::failure::BadInput;

const LEN: usize = 48;
/// `tee_type` of a quote, and `type` of a report: TDX.
const TDX: u8 = 0x81;
/// MRTD in a quote of version 4: header of 48 bytes, then a TD report body.
const IN_QUOTE_V4: usize = 48 + 136;
/// MRTD in a quote of version 5, which has u16 type and u32 size in front of the body.
const IN_QUOTE_V5: usize = IN_QUOTE_V4 + 6;
/// MRTD in TDREPORT_STRUCT: REPORTMACSTRUCT, TEE_TCB_INFO and 17 bytes, then 16 bytes of TDINFO.
const IN_REPORT: usize = 512 + 16;
const REPORT_LEN: usize = 1024;
/// The largest file that is looked at: a quote with its certificates has some 5 KiB.
const MAX_FILE: u64 = 1 << 20;

/// The value, and where it was found.
#[derive(Debug)]
pub(super) struct Expected {
    /// The value.
    pub(super) mrtd: Mrtd,
    /// What it was taken from, if not from the command line.
    pub(super) from: Option<String>,
}

impl Expected {
    /// Reads a value, or a file with one.
    ///
    /// # Errors
    /// One line that says what the text is instead, as far as its length tells.
    pub(super) fn read(text: &str) -> Result<Expected, BadInput> {
        let bad = |what: String| BadInput(format!("--expect {}: {what}", shortened(text)));
        let path = Path::new(text);
        match value(text) {
            Ok(mrtd) => Ok(Expected { mrtd, from: None }),
            Err(_) if path.is_file() => {
                let bytes = contents(path).map_err(|error| bad(error.to_string()))?;
                let (mrtd, kind) = in_file(&bytes).map_err(bad)?;
                let from = Some(format!("{kind} in {}", path.display()));
                Ok(Expected { mrtd, from })
            }
            Err(what) => Err(bad(what)),
        }
    }
}

fn contents(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(MAX_FILE).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The beginning of a text that may be anything.
fn shortened(text: &str) -> String {
    const SHOWN: usize = 40;
    if text.chars().count() <= SHOWN {
        return text.to_owned();
    }
    text.chars().take(SHOWN).chain("…".chars()).collect()
}

/// Finds MRTD in a file.
fn in_file(bytes: &[u8]) -> Result<(Mrtd, &'static str), String> {
    let word = |at: usize| {
        bytes
            .get(at..at + 2)
            .map(|b| u16::from_le_bytes([b[0], b[1]]))
    };
    let is_tdx_quote = bytes.get(4..8) == Some(&[TDX, 0, 0, 0]);
    if is_tdx_quote && word(0) == Some(4) {
        return at(bytes, IN_QUOTE_V4).map(|mrtd| (mrtd, "a quote of version 4"));
    }
    if is_tdx_quote && word(0) == Some(5) {
        return at(bytes, IN_QUOTE_V5).map(|mrtd| (mrtd, "a quote of version 5"));
    }
    if bytes.len() == REPORT_LEN && bytes[0] == TDX {
        return at(bytes, IN_REPORT).map(|mrtd| (mrtd, "a TD report"));
    }
    if bytes.len() == LEN {
        return at(bytes, 0).map(|mrtd| (mrtd, "48 bytes"));
    }
    let text = std::str::from_utf8(bytes).map_err(|_| {
        "neither a TDX quote of version 4 or 5, nor a TD report, nor a text".to_owned()
    })?;
    value(text).map(|mrtd| (mrtd, "a text"))
}

fn at(bytes: &[u8], offset: usize) -> Result<Mrtd, String> {
    let found = bytes
        .get(offset..offset + LEN)
        .and_then(|b| b.try_into().ok());
    found
        .map(Mrtd)
        .ok_or_else(|| format!("{} bytes, cut off before its MRTD", bytes.len()))
}

/// Parses a value: hexadecimal, with or without `0x`, `sha384:`, colons and blanks; or base64, of both
/// alphabets.
fn value(text: &str) -> Result<Mrtd, String> {
    let text = text.trim().trim_matches(['"', '\'']);
    let text = ["sha384:", "sha384-", "SHA384:", "0x", "0X"]
        .iter()
        .fold(text, |text, prefix| {
            text.strip_prefix(prefix).unwrap_or(text)
        });
    let dense: String = text
        .chars()
        .filter(|c| !c.is_whitespace() && *c != ':')
        .collect();
    if dense.is_empty() {
        return Err("empty; an MRTD is 96 hexadecimal digits, or base64 of 48 bytes".to_owned());
    }
    let bytes = if dense.chars().all(|c| c.is_ascii_hexdigit()) {
        hexadecimal(&dense)?
    } else {
        let standard = dense.replace('-', "+").replace('_', "/");
        let padding = "=".repeat((4 - standard.len() % 4) % 4);
        let bytes = base64::decode_block(&(standard + &padding))
            .map_err(|_| "neither hexadecimal digits nor base64, nor a file".to_owned())?;
        let len = bytes.len();
        return bytes.try_into().map(Mrtd).map_err(|_| {
            let as_base64 = wrong_length(len);
            format!("no hexadecimal digits, nor a file; as base64 it is {as_base64}")
        });
    };
    let len = bytes.len();
    bytes.try_into().map(Mrtd).map_err(|_| wrong_length(len))
}

fn hexadecimal(digits: &str) -> Result<Vec<u8>, String> {
    if !digits.len().is_multiple_of(2) {
        let len = digits.len();
        return Err(format!("{len} hexadecimal digits; an MRTD has 96"));
    }
    let byte = |at: usize| u8::from_str_radix(&digits[at..at + 2], 16);
    let bytes = (0..digits.len()).step_by(2).map(byte);
    bytes
        .collect::<Result<_, _>>()
        .map_err(|error| error.to_string())
}

fn wrong_length(len: usize) -> String {
    let what = match len {
        20 => ", as a SHA-1",
        32 => ", as a SHA-256 or an MRENCLAVE of SGX",
        64 => ", as a SHA-512 or REPORTDATA",
        _ => "",
    };
    let bytes = if len == 1 { "byte" } else { "bytes" };
    format!("{len} {bytes}{what}; an MRTD is a SHA-384 and has 48")
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEX: &str = "4c7206f0f483c524f12c366c711e9049030a8d47c471ee5aa9c4999a08de4057\
                       fb887fed0744d5631a212967fb231c47";

    #[test]
    fn hexadecimal_and_base64_are_read_however_they_are_written() {
        let mrtd = value(HEX).expect("hexadecimal");
        assert_eq!(mrtd.to_string(), HEX);
        let base64 = base64::encode_block(&mrtd.0);
        let spaced: Vec<String> = mrtd.0.iter().map(|byte| format!("{byte:02X}")).collect();
        for text in [
            format!("0x{HEX}\n"),
            format!("sha384:{HEX}"),
            HEX.to_uppercase(),
            spaced.join(":"),
            spaced.join(" "),
            base64.clone(),
            format!("sha384-{base64}"),
            format!("\"{}\"", base64.replace('+', "-").replace('/', "_")),
        ] {
            assert_eq!(value(&text), Ok(mrtd), "{text}");
        }
    }

    #[test]
    fn what_is_no_mrtd_is_refused_with_what_it_may_be() {
        let why = |text: &str| value(text).unwrap_err();
        assert!(why("").starts_with("empty"));
        assert!(why("abc").starts_with("3 hexadecimal digits"));
        assert!(why(&HEX[..64]).contains("32 bytes, as a SHA-256"));
        assert!(why(&"ab".repeat(64)).contains("64 bytes, as a SHA-512"));
        assert!(
            why("zz").starts_with("no hexadecimal digits, nor a file; as base64 it is 1 byte;")
        );
        assert!(why("not an MRTD!").starts_with("neither"));
    }

    #[test]
    fn quotes_and_reports_are_told_by_their_headers() {
        let mrtd = value(HEX).expect("hexadecimal");
        let file = |head: &[u8], at: usize, len: usize| {
            let mut bytes = vec![0; len];
            bytes[..head.len()].copy_from_slice(head);
            bytes[at..at + LEN].copy_from_slice(&mrtd.0);
            in_file(&bytes)
        };
        let found = |kind| Ok((mrtd, kind));
        let quote = |version| [version, 0, 2, 0, TDX, 0, 0, 0];
        assert_eq!(file(&quote(4), 184, 5000), found("a quote of version 4"));
        assert_eq!(file(&quote(5), 190, 5000), found("a quote of version 5"));
        assert_eq!(file(&[TDX], 528, 1024), found("a TD report"));
        assert_eq!(in_file(&mrtd.0), found("48 bytes"));
        assert_eq!(in_file(format!("{HEX}\n").as_bytes()), found("a text"));
        assert!(in_file(&quote(4)).unwrap_err().contains("cut off"));
        assert!(in_file(&[0xff; 100]).is_err());
    }
}
