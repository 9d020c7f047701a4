//! The CPUID image of a header, which is given in words:
//! `all zero except leaf 0x1f: subleaf 0 = (1,2,0x100,0), subleaves 2..5 = (0,0,n,0)`.
//!
//! A value may be `n`, the number of the subleaf (architecturally, ECX 7:0 of leaf 0x1F is that).

use seamlock_tdx_module::platform::CpuidEntry;

const ONLY_ZERO: &str = "all zero";

/// Reads the words.
///
/// # Errors
/// The part that could not be understood.
pub(crate) fn parse(words: &str) -> Result<Vec<CpuidEntry>, String> {
    let words = words.trim();
    let Some(rest) = words.strip_prefix(ONLY_ZERO) else {
        return Err(format!("`{words}` does not start with `{ONLY_ZERO}`"));
    };
    let rest = rest.trim().strip_prefix("except").unwrap_or(rest).trim();
    let mut entries = Vec::new();
    let mut leaf = None;
    let mut rest = rest;
    while !rest.is_empty() {
        rest =
            clause(rest, &mut leaf, &mut entries).ok_or(format!("`{rest}` is not understood"))?;
        rest = rest.trim_start_matches([',', ';', ' ']);
        rest = rest.strip_prefix("and ").unwrap_or(rest);
    }
    Ok(entries)
}

/// One `leaf L: …`, `leaf L = (…)`, `subleaf S = (…)` or `subleaves S..T = (…)`; gives what follows.
fn clause<'a>(
    text: &'a str,
    leaf: &mut Option<u32>,
    entries: &mut Vec<CpuidEntry>,
) -> Option<&'a str> {
    if let Some(after) = text.strip_prefix("leaf ") {
        let (number, after) = take_number(after)?;
        *leaf = Some(number);
        let after = after.trim_start();
        if let Some(after) = after.strip_prefix(':') {
            return Some(after.trim_start());
        }
        let (values, after) = quadruple(after)?;
        entries.push(CpuidEntry {
            leaf: number,
            subleaf: None,
            regs: values(0),
        });
        return Some(after);
    }
    let leaf = (*leaf)?;
    let (first, last, after) = subleaves(text)?;
    let (values, after) = quadruple(after)?;
    for subleaf in first..=last {
        entries.push(CpuidEntry {
            leaf,
            subleaf: Some(subleaf),
            regs: values(subleaf),
        });
    }
    Some(after)
}

/// CPUID subleaves are bytes in every leaf there is; this keeps a wrong range from filling memory.
const MAX_SUBLEAF: u32 = 255;

fn subleaves(text: &str) -> Option<(u32, u32, &str)> {
    if let Some(after) = text.strip_prefix("subleaf ") {
        let (number, after) = take_number(after)?;
        return Some((number, number, after));
    }
    let (first, after) = take_number(text.strip_prefix("subleaves ")?)?;
    let (last, after) = take_number(after.strip_prefix("..")?)?;
    (first <= last && last <= MAX_SUBLEAF).then_some((first, last, after))
}

/// ` = (a,b,c,d)`; the values as a function of the subleaf.
fn quadruple(text: &str) -> Option<(impl Fn(u32) -> [u32; 4], &str)> {
    let text = text
        .trim_start()
        .strip_prefix('=')?
        .trim_start()
        .strip_prefix('(')?;
    let (inside, after) = text.split_once(')')?;
    let mut values = [None; 4];
    let mut parts = inside.split(',').map(str::trim);
    for value in &mut values {
        *value = match parts.next()? {
            "n" => None,
            part => Some(take_number(part).filter(|(_, rest)| rest.is_empty())?.0),
        };
    }
    let complete = parts.next().is_none();
    complete.then_some((move |n| values.map(|value| value.unwrap_or(n)), after))
}

/// A number at the start, decimal or `0x…`, and what follows it.
fn take_number(text: &str) -> Option<(u32, &str)> {
    let text = text.trim_start();
    let (radix, digits) = match text.strip_prefix("0x") {
        Some(digits) => (16, digits),
        None => (10, text),
    };
    let end = digits
        .find(|c: char| !c.is_digit(radix))
        .unwrap_or(digits.len());
    let number = u32::from_str_radix(&digits[..end], radix).ok()?;
    Some((number, &digits[end..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(leaf: u32, subleaf: Option<u32>, regs: [u32; 4]) -> CpuidEntry {
        CpuidEntry {
            leaf,
            subleaf,
            regs,
        }
    }

    #[test]
    fn the_recorded_wording_gives_six_subleaves() {
        let words = "all zero except leaf 0x1f: subleaf 0 = (1,2,0x100,0), subleaf 1 = \
                     (8,0x100,0x201,0), subleaves 2..5 = (0,0,n,0)";
        let expected = [
            entry(0x1f, Some(0), [1, 2, 0x100, 0]),
            entry(0x1f, Some(1), [8, 0x100, 0x201, 0]),
            entry(0x1f, Some(2), [0, 0, 2, 0]),
            entry(0x1f, Some(3), [0, 0, 3, 0]),
            entry(0x1f, Some(4), [0, 0, 4, 0]),
            entry(0x1f, Some(5), [0, 0, 5, 0]),
        ];
        assert_eq!(parse(words).unwrap(), expected);
    }

    #[test]
    fn several_leaves_and_leaves_without_subleaves_are_understood() {
        let words = "all zero except leaf 1 = (0x806f8, 0, 0, 1); leaf 0x4: subleaf 0 = (1,1,1,1)";
        let expected = [
            entry(1, None, [0x806f8, 0, 0, 1]),
            entry(4, Some(0), [1, 1, 1, 1]),
        ];
        assert_eq!(parse(words).unwrap(), expected);
        assert_eq!(parse("all zero").unwrap(), []);
    }

    #[test]
    fn other_words_are_refused_with_the_part_that_is_not_understood() {
        for (words, part) in [
            ("as on the host", "as on the host"),
            (
                "all zero except subleaf 0 = (1,2,3,4)",
                "subleaf 0 = (1,2,3,4)",
            ),
            ("all zero except leaf 1 = (1,2,3)", "leaf 1 = (1,2,3)"),
            ("all zero except leaf 1 = (1,2,3,4,5)", "leaf 1"),
            (
                "all zero except leaf 1: subleaves 0..4294967295 = (0,0,0,0)",
                "subleaves",
            ),
            (
                "all zero except leaf 0x1ffffffff = (0,0,0,0)",
                "leaf 0x1ffffffff",
            ),
            ("all zero except leaf 1 = (0,0,0,0), é", "é"),
        ] {
            let complaint = parse(words).unwrap_err();
            assert!(complaint.contains(part), "{complaint}");
        }
    }
}
