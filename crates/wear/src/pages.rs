//! What was added to a TD, page by page, in few words: digests of the pages, and the calls in order.

use std::fmt;

use openssl::sha::{Sha384, sha384};

/// Bytes of a page.
const PAGE: u64 = 4096;
/// Bytes that one TDH.MR.EXTEND measures.
const CHUNK: u64 = 256;

/// The digests of pages in a row: for each the first 8 bytes of its SHA-384, in hexadecimal, with `*N`
/// behind it when N pages in a row have it, and blanks in between.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Digests(Vec<(u64, u64)>);

impl Digests {
    /// One more page, with the beginning of its digest.
    pub fn push(&mut self, digest: [u8; 8]) {
        let digest = u64::from_be_bytes(digest);
        match self.0.last_mut() {
            Some((last, times)) if *last == digest => *times += 1,
            _ => self.0.push((digest, 1)),
        }
    }

    /// Reads what [`Display`](fmt::Display) wrote. None for anything else.
    pub fn parse(text: &str) -> Option<Digests> {
        let entry = |word: &str| {
            let (digest, times) = word.split_once('*').unwrap_or((word, "1"));
            Some((u64::from_str_radix(digest, 16).ok()?, times.parse().ok()?))
        };
        let entries = text.split_whitespace().map(entry);
        entries.collect::<Option<_>>().map(Digests)
    }

    /// Number of pages.
    pub fn len(&self) -> u64 {
        let times = self.0.iter().map(|(_, times)| *times);
        times.fold(0, u64::saturating_add)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The digest of each page.
    pub fn iter(&self) -> impl Iterator<Item = u64> {
        let entries = self.0.iter();
        entries.flat_map(|(digest, times)| (0..*times).map(|_| *digest))
    }
}

impl fmt::Display for Digests {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, (digest, times)) in self.0.iter().enumerate() {
            let blank = if i > 0 { " " } else { "" };
            write!(f, "{blank}{digest:016x}")?;
            if *times > 1 {
                write!(f, "*{times}")?;
            }
        }
        Ok(())
    }
}

/// The contents of a region, hashed page by page.
#[derive(Default)]
pub struct Contents {
    whole: Sha384,
    digests: Digests,
}

impl Contents {
    /// One more page.
    pub fn page(&mut self, page: &[u8]) {
        self.whole.update(page);
        let [a, b, c, d, e, f, g, h, ..] = sha384(page);
        self.digests.push([a, b, c, d, e, f, g, h]);
    }

    /// The SHA-384 of all pages in hexadecimal, and the pages' own digests.
    pub fn finish(self) -> (String, Digests) {
        let whole = self.whole.finish();
        let hex = whole.iter().map(|byte| format!("{byte:02x}")).collect();
        (hex, self.digests)
    }
}

/// A SEAMCALL that goes into MRTD.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// TDH.MEM.PAGE.ADD.
    Add,
    /// TDH.MR.EXTEND.
    Extend,
}

impl Op {
    const fn step(self) -> u64 {
        match self {
            Self::Add => PAGE,
            Self::Extend => CHUNK,
        }
    }

    const fn letter(self) -> char {
        match self {
            Self::Add => 'A',
            Self::Extend => 'E',
        }
    }
}

/// The same call over addresses in a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// The call.
    pub op: Op,
    /// The first address.
    pub gpa: u64,
    /// How many of them, at least 1.
    pub times: u64,
}

impl Run {
    /// The addresses.
    pub fn calls(self) -> impl Iterator<Item = (Op, u64)> {
        let step = self.op.step();
        (0..self.times).map(move |i| (self.op, self.gpa.wrapping_add(i * step)))
    }

    const fn end(self) -> u64 {
        self.gpa
            .wrapping_add(self.times.wrapping_mul(self.op.step()))
    }
}

/// The calls that added and measured the pages of a region, in order.
///
/// In text `A` is TDH.MEM.PAGE.ADD of the next page and `E` TDH.MR.EXTEND of the next 256 bytes, each
/// from the region's first address on unless `@ADDRESS` stands behind it; `N*` is in front of what is
/// repeated. KVM's own order is `N*(A 16*E)`, and `N*A` for a region that is not measured.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Calls(Vec<Run>);

/// A run as text shows it: without its address where that is the next one.
type Word = (Op, u64, Option<u64>);

impl Calls {
    /// One more call.
    pub fn push(&mut self, op: Op, gpa: u64) {
        match self.0.last_mut() {
            Some(last) if last.op == op && last.end() == gpa => last.times += 1,
            _ => self.0.push(Run { op, gpa, times: 1 }),
        }
    }

    /// The runs, in order.
    pub fn runs(&self) -> &[Run] {
        &self.0
    }

    /// As text, for a region that begins at `gpa`.
    pub fn text(&self, gpa: u64) -> String {
        let mut next = [gpa; 2];
        let word = |run: &Run| {
            let next = &mut next[run.op as usize];
            let moved = (*next != run.gpa).then_some(run.gpa);
            *next = run.end();
            (run.op, run.times, moved)
        };
        let words: Vec<Word> = self.0.iter().map(word).collect();
        let mut texts = Vec::new();
        let mut at = 0;
        while at < words.len() {
            let times = pairs(&words[at..]);
            if times > 1 {
                let (first, second) = (word_text(words[at]), word_text(words[at + 1]));
                texts.push(format!("{times}*({first} {second})"));
                at += 2 * times;
            } else {
                texts.push(word_text(words[at]));
                at += 1;
            }
        }
        texts.join(" ")
    }

    /// Reads what [`text`](Calls::text) wrote for a region that begins at `gpa` and has no more than
    /// `pages` pages. None for anything else.
    pub fn parse(text: &str, gpa: u64, pages: u64) -> Option<Calls> {
        let mut calls = Calls::default();
        let mut next = [gpa; 2];
        let mut rest = text.trim_start();
        while !rest.is_empty() {
            let (times, group, behind) = match rest.split_once("*(") {
                Some((times, group)) if times.bytes().all(|b| b.is_ascii_digit()) => {
                    let (group, behind) = group.split_once(')')?;
                    (times.parse().ok()?, group, behind)
                }
                _ => {
                    let (word, behind) = rest.split_once(' ').unwrap_or((rest, ""));
                    (1, word, behind)
                }
            };
            let words: Option<Vec<Word>> = group.split_whitespace().map(parse_word).collect();
            let most = pages.saturating_mul(16);
            let fits = |words: &Vec<Word>| words.iter().all(|(_, times, _)| *times <= most);
            let words = words.filter(fits).filter(|_| times <= pages)?;
            for (op, times, moved) in (0..times).flat_map(|_| &words).copied() {
                let next = &mut next[op as usize];
                let gpa = moved.unwrap_or(*next);
                let run = Run { op, gpa, times };
                *next = run.end();
                calls.0.push(run);
            }
            rest = behind.trim_start();
        }
        Some(calls)
    }
}

/// How often the first two words are repeated, if they need no address.
fn pairs(words: &[Word]) -> usize {
    let Some((pair, _)) = words.split_at_checked(2) else {
        return 0;
    };
    if pair.iter().any(|(.., moved)| moved.is_some()) {
        return 0;
    }
    words.chunks(2).take_while(|next| *next == pair).count()
}

fn word_text((op, times, moved): Word) -> String {
    let times = if times > 1 {
        format!("{times}*")
    } else {
        String::new()
    };
    let moved = moved.map_or_else(String::new, |gpa| format!("@{gpa:#x}"));
    format!("{times}{}{moved}", op.letter())
}

fn parse_word(word: &str) -> Option<Word> {
    let (times, rest) = word.split_once('*').unwrap_or(("1", word));
    let (letter, moved) = match rest.split_once("@0x") {
        Some((letter, gpa)) => (letter, Some(u64::from_str_radix(gpa, 16).ok()?)),
        None => (rest, None),
    };
    let op = match letter {
        "A" => Op::Add,
        "E" => Op::Extend,
        _ => return None,
    };
    let times = times.parse().ok().filter(|times| *times > 0)?;
    Some((op, times, moved))
}

#[cfg(test)]
mod tests {
    use super::*;

    const GPA: u64 = 0xfff8_4000;

    fn text(calls: &[(Op, u64)]) -> String {
        let mut all = Calls::default();
        calls.iter().for_each(|(op, gpa)| all.push(*op, *gpa));
        let text = all.text(GPA);
        let flat = |calls: &Calls| {
            let runs = calls.runs().iter().copied();
            runs.flat_map(Run::calls).collect::<Vec<_>>()
        };
        let read = Calls::parse(&text, GPA, 1000).expect("what was written");
        assert_eq!(flat(&read), calls, "{text}");
        text
    }

    fn add(page: u64) -> (Op, u64) {
        (Op::Add, GPA + page * PAGE)
    }

    fn extend(page: u64) -> impl Iterator<Item = (Op, u64)> {
        (0..16).map(move |i| (Op::Extend, GPA + page * PAGE + i * CHUNK))
    }

    #[test]
    fn orders_are_written_in_few_words_and_read_again() {
        let per_page: Vec<_> = (0..9)
            .flat_map(|p| [add(p)].into_iter().chain(extend(p)))
            .collect();
        assert_eq!(text(&per_page), "9*(A 16*E)");
        let per_region: Vec<_> = (0..9).map(add).chain((0..9).flat_map(extend)).collect();
        assert_eq!(text(&per_region), "9*A 144*E");
        assert_eq!(text(&(0..7).map(add).collect::<Vec<_>>()), "7*A");
        assert_eq!(
            text(&[add(0), add(2), add(1)]),
            "A A@0xfff86000 A@0xfff85000"
        );
        assert_eq!(text(&per_page[..1]), "A");
        assert_eq!(text(&[]), "");
        let cut: Vec<_> = per_page[..per_page.len() - 3].to_vec();
        assert_eq!(text(&cut), "8*(A 16*E) A 13*E");
    }

    #[test]
    fn calls_that_nobody_wrote_are_refused() {
        for text in [
            "B",
            "2*",
            "0*A",
            "A@12",
            "9*(A",
            "99999*(A E)",
            "x*(A)",
            "A*2",
        ] {
            assert_eq!(Calls::parse(text, GPA, 1000), None, "{text}");
        }
    }

    #[test]
    fn digests_are_found_by_page() {
        let mut digests = Digests::default();
        for digest in [[1; 8], [0; 8], [0; 8], [2; 8]] {
            digests.push(digest);
        }
        let text = digests.to_string();
        assert_eq!(text, "0101010101010101 0000000000000000*2 0202020202020202");
        assert_eq!(Digests::parse(&text), Some(digests.clone()));
        let [one, two] = [0x0101_0101_0101_0101, 0x0202_0202_0202_0202];
        assert_eq!(digests.iter().collect::<Vec<_>>(), [one, 0, 0, two]);
        assert_eq!(Digests::parse("zz"), None);
    }
}
