//! The first line of a file: the machine, and the ways to the starting states.

use std::collections::BTreeMap;
use std::sync::Arc;

use seamlock_tdx_module::platform::{Platform, Quiet, Range};

use crate::cpuid_words;
use crate::sequence::{Step, steps};
use crate::wire::{self, Complaint};

const FORMAT: &str = "seamcall-sequences/1";
/// More than any machine has, and few enough to initialise for every sequence.
const MAX_LPS: u32 = 4096;
/// Physical memory is at most what 52 address bits reach.
const MAX_BITS: u32 = 52;

/// What all sequences of a file have in common.
#[derive(Debug)]
pub struct Header {
    /// Name of the corpus.
    pub corpus: String,
    /// Steps from "SYS.LP.INIT done on every LP" to a starting state, by name.
    pub preambles: BTreeMap<String, Vec<Step>>,
    platform: Platform,
}

impl Header {
    /// The machine, with nothing that happened on it yet.
    pub fn platform(&self) -> Platform {
        Platform {
            events: Arc::new(Quiet::default()),
            ..self.platform.clone()
        }
    }

    /// Logical processors of the machine.
    pub fn lps(&self) -> u32 {
        self.platform.lps
    }

    /// Reads the first line of a file.
    ///
    /// # Errors
    /// The field that is missing, malformed, or what no machine can have.
    pub fn parse(line: &[u8]) -> Result<Header, Complaint> {
        let raw: wire::Header<'_> = wire::read(line)?;
        if raw.format != FORMAT {
            let message = format!("`{}` is not {FORMAT}", raw.format);
            return Err(Complaint {
                field: "format".into(),
                message,
            });
        }
        let platform = platform(&raw.platform)?;
        let mut preambles = BTreeMap::new();
        for (name, preamble) in &raw.preambles {
            let place = format!("preambles.{name}.steps");
            preambles.insert(name.clone(), steps(&preamble.steps, platform.lps, &place)?);
        }
        Ok(Header {
            corpus: raw.corpus.into_owned(),
            preambles,
            platform,
        })
    }
}

fn platform(raw: &wire::Platform<'_>) -> Result<Platform, Complaint> {
    check(raw)?;
    let cpuid = cpuid_words::parse(&raw.cpuid).map_err(|message| wrong("cpuid", message))?;
    let range = |r: &wire::Range| Range {
        base: r.base.0,
        size: r.size.0,
    };
    Ok(Platform {
        ram_bytes: raw.ram_bytes.0,
        packages: raw.packages,
        lps: raw.lps,
        maxpa: raw.maxpa,
        hkid_start_bit: raw.hkid_start_bit,
        hkid_bits: raw.hkid_bits,
        private_hkid_first: raw.private_hkid_first,
        private_hkid_count: raw.private_hkid_count,
        cmrs: raw.cmrs.iter().map(range).collect(),
        seamrr: range(&raw.seamrr),
        native_tsc_hz: raw.native_tsc_hz.0,
        xcr0_supported: raw.xcr0_supported.0,
        xss_supported: raw.xss_supported.0,
        attributes_fixed0: raw.attributes_fixed0.0,
        attributes_fixed1: raw.attributes_fixed1.0,
        config_flags_fixed0: raw.config_flags_fixed0.0,
        ept_5_level: raw.ept_5_level_supported,
        cache_sub_blocks: raw.cache_sub_blocks,
        ia32_arch_capabilities: 0,
        cpuid,
        events: Arc::new(Quiet::default()),
    })
}

fn wrong(field: &str, message: impl Into<String>) -> Complaint {
    Complaint {
        field: format!("platform.{field}"),
        message: message.into(),
    }
}

/// Refuses what no machine can be, so that the module may rely on it.
fn check(raw: &wire::Platform<'_>) -> Result<(), Complaint> {
    let hkids_end = u32::from(raw.private_hkid_first) + u32::from(raw.private_hkid_count);
    let hkid_field_end = raw.hkid_start_bit.saturating_add(raw.hkid_bits);
    let fits = |r: &wire::Range| {
        r.base
            .0
            .checked_add(r.size.0)
            .is_some_and(|end| end >> 52 == 0)
    };
    let rules = [
        (
            (1..=MAX_LPS).contains(&raw.lps),
            "lps",
            "not between 1 and 4096",
        ),
        (
            (1..=8).contains(&raw.packages),
            "packages",
            "not between 1 and 8",
        ),
        (
            raw.packages <= raw.lps,
            "packages",
            "more than logical processors",
        ),
        (
            raw.ram_bytes.0 >> MAX_BITS == 0,
            "ram_bytes",
            "beyond 52 address bits",
        ),
        (
            (12..=MAX_BITS).contains(&raw.maxpa),
            "maxpa",
            "not between 12 and 52",
        ),
        (raw.hkid_bits <= 15, "hkid_bits", "more than 15"),
        (
            hkid_field_end <= raw.maxpa,
            "hkid_start_bit",
            "the field does not end below maxpa",
        ),
        (
            hkids_end <= 1 << raw.hkid_bits.min(15),
            "private_hkid_count",
            "not in the HKID field",
        ),
        (fits(&raw.seamrr), "seamrr", "beyond 52 address bits"),
        (raw.cmrs.iter().all(fits), "cmrs", "beyond 52 address bits"),
    ];
    match rules.iter().find(|(holds, ..)| !holds) {
        Some((_, field, message)) => Err(wrong(field, *message)),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: &str = include_str!("header_for_tests.json");

    fn with(change: &str, to: &str) -> Result<Header, Complaint> {
        assert!(HEADER.contains(change), "{change}");
        Header::parse(HEADER.replace(change, to).as_bytes())
    }

    #[test]
    fn every_number_of_the_platform_comes_from_the_header() {
        let header = Header::parse(HEADER.as_bytes()).unwrap();
        let platform = header.platform();
        assert_eq!((header.corpus.as_str(), header.lps()), ("small", 3));
        assert_eq!(
            (platform.ram_bytes, platform.packages, platform.maxpa),
            (0x8000_0000, 1, 46)
        );
        assert_eq!((platform.hkid_start_bit, platform.hkid_bits), (40, 6));
        assert_eq!(
            (platform.private_hkid_first, platform.private_hkid_count),
            (16, 8)
        );
        assert_eq!(
            platform.cmrs,
            [Range {
                base: 0x10_0000,
                size: 0x7ff0_0000
            }]
        );
        assert_eq!(
            platform.seamrr,
            Range {
                base: 0x9000_0000,
                size: 0x200_0000
            }
        );
        assert_eq!(
            (platform.native_tsc_hz, platform.cache_sub_blocks),
            (1_900_000_000, 2)
        );
        assert_eq!(
            (platform.xcr0_supported, platform.xss_supported),
            (0xe7, 0x800)
        );
        assert_eq!(
            (platform.attributes_fixed0, platform.attributes_fixed1),
            (0x11, 0x10)
        );
        assert_eq!(
            (platform.config_flags_fixed0, platform.ept_5_level),
            (3, false)
        );
        assert_eq!(platform.cpuid(0x1f, 1), [0, 0, 1, 0]);
        assert_eq!(header.preambles["boot0"].len(), 1);
    }

    #[test]
    fn a_header_that_is_wrong_names_the_field() {
        for (change, to, field) in [
            ("seamcall-sequences/1", "seamcall-sequences/2", "format"),
            ("\"lps\":3", "\"lps\":0", "platform.lps"),
            ("\"lps\":3", "\"lps\":100000", "platform.lps"),
            ("\"lps\":3", "\"lps\":-3", "platform.lps"),
            ("\"packages\":1", "\"packages\":4", "platform.packages"),
            ("\"hkid_bits\":6", "\"hkid_bits\":63", "platform.hkid_bits"),
            (
                "\"hkid_start_bit\":40",
                "\"hkid_start_bit\":4294967295",
                "platform.hkid_start_bit",
            ),
            (
                "\"0x80000000\"",
                "\"0x8000000000000000\"",
                "platform.ram_bytes",
            ),
            ("\"0x80000000\"", "\"2G\"", "platform.ram_bytes"),
            (
                "\"0x90000000\"",
                "\"0xfffffffffffff000\"",
                "platform.seamrr",
            ),
            ("all zero", "as on the host", "platform.cpuid"),
            (
                "\"op\":\"fill\"",
                "\"op\":\"jump\"",
                "preambles.boot0.steps[0].op",
            ),
        ] {
            let complaint = with(change, to).unwrap_err();
            assert_eq!(complaint.field, field, "{}", complaint.message);
        }
    }
}
