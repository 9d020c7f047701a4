//! The runner on a subject that is told what to answer: does it see every kind of difference, and does
//! it say so in words that help?

use std::cell::RefCell;

use seamlock_sync::Busy;

use super::*;

const HEADER: &str = include_str!("header_for_tests.json");

/// Answers each call by a function; has one lock word.
struct Scripted<F> {
    answer: F,
    word: RefCell<WordView>,
    written: RefCell<Vec<(u64, Vec<u8>)>>,
}

impl<F: Fn(u32, &mut Regs) -> After> Scripted<F> {
    fn new(answer: F) -> Scripted<F> {
        Scripted {
            answer,
            word: RefCell::default(),
            written: RefCell::default(),
        }
    }
}

impl<F: Fn(u32, &mut Regs) -> After> Subject for Scripted<F> {
    fn seamcall(&self, lp: u32, regs: &mut Regs) -> After {
        (self.answer)(lp, regs)
    }

    fn guest_exit(&self, _lp: u32, exit: &TdExit) -> Regs {
        Regs {
            rax: u64::from(exit.reason),
            ..Regs::default()
        }
    }

    fn hold(&self, _at: LockAt, _mode: Mode) -> Result<(), Busy> {
        let mut word = self.word.borrow_mut();
        if word.exclusive {
            return Err(Busy::Held);
        }
        word.exclusive = true;
        Ok(())
    }

    fn release(&self, _at: LockAt, _mode: Mode) {
        let mut word = self.word.borrow_mut();
        assert!(word.exclusive, "released without being held");
        word.exclusive = false;
    }

    fn peek(&self, at: LockAt) -> Option<WordView> {
        (at == LockAt::Kot).then(|| *self.word.borrow())
    }

    fn guest_try(&self, _at: LockAt, _mode: Mode) -> Result<(), Busy> {
        Err(Busy::HostPriority)
    }

    fn write(&self, pa: Hpa, bytes: &[u8]) -> bool {
        self.written.borrow_mut().push((pa.0, bytes.to_vec()));
        pa.0 < 0x8000_0000
    }
}

/// Every call succeeds and changes nothing else; VP.ENTER enters.
fn all_well(_lp: u32, regs: &mut Regs) -> After {
    if regs.leaf() == Leaf::VP_ENTER {
        return After::Guest;
    }
    regs.rax = 0;
    After::Host
}

fn replay(subject: &dyn Subject, steps: &str) -> Ran {
    let header = Header::parse(HEADER.as_bytes()).unwrap();
    let line = format!(r#"{{"id":"x","preamble":"boot0","steps":[{steps}]}}"#);
    let sequence = Sequence::parse(line.as_bytes(), header.lps()).unwrap();
    let keep = Keep {
        full: 10,
        leaf: None,
    };
    run(
        subject,
        &header,
        &header.preambles["boot0"],
        &sequence,
        keep,
    )
}

fn shown(ran: &Ran) -> String {
    ran.mismatches.iter().map(ToString::to_string).collect()
}

const OK_CALL: &str =
    r#"{"op":"call","lp":0,"in":{"rax":"0x9","rcx":"0x1000"},"out":{"rax":"0x0"}}"#;
const ENTER: &str = r#"{"op":"call","lp":1,"in":{"rax":"0x0"},"out":"guest"}"#;
const EXIT: &str = r#"{"op":"guest_exit","lp":1,"reason":"0x1","out":{"rax":"0x1"}}"#;

fn word(op: &str, rest: &str, exclusive: u8) -> String {
    let word = format!(r#""word":{{"exclusive":{exclusive},"host_priority":0,"readers":0}}"#);
    format!(r#"{{"op":"{op}","what":"kot",{rest}{word}}}"#)
}

#[test]
fn the_module_is_booted_on_every_lp_and_the_preamble_comes_first() {
    let calls = RefCell::new(Vec::new());
    let subject = Scripted::new(|lp, regs: &mut Regs| {
        calls.borrow_mut().push((lp, regs.leaf()));
        all_well(lp, regs)
    });
    let ran = replay(&subject, OK_CALL);
    let lp_init = Leaf::SYS_LP_INIT;
    let boot = [
        (0, Leaf::SYS_INIT),
        (0, lp_init),
        (1, lp_init),
        (2, lp_init),
    ];
    assert_eq!(calls.borrow()[..4], boot);
    assert_eq!(calls.borrow()[4..], [(0, Leaf::MNG_CREATE)]);
    assert_eq!(
        (ran.mismatched, ran.calls.passed, ran.calls.failed),
        (0, 1, 0)
    );
    let written = subject.written.borrow();
    let (pa, page) = &written[0];
    assert_eq!(
        (*pa, page.len(), page[0], page[1], page[255]),
        (0x1000, 4096, 3, 10, 252)
    );
}

#[test]
fn a_register_that_changed_though_it_should_not_is_a_mismatch() {
    let subject = Scripted::new(|lp, regs: &mut Regs| {
        if regs.leaf() == Leaf::MNG_CREATE {
            regs.r15 = 5;
        }
        all_well(lp, regs)
    });
    let ran = replay(&subject, OK_CALL);
    assert_eq!((ran.mismatched, ran.calls.failed), (1, 1));
    let expected = "\
steps[0]: TDH.MNG.CREATE on LP 0
    in   rax=0x9 rcx=0x1000
    r15  expected 0x0000000000000000
         got      0x0000000000000005
";
    assert_eq!(shown(&ran), expected);
    let key = ran.groups.keys().next().unwrap();
    assert_eq!(key.2, "same status, other r15");
}

#[test]
fn another_status_is_shown_decoded_and_grouped_by_leaf_and_statuses() {
    let subject = Scripted::new(|lp, regs: &mut Regs| {
        let after = all_well(lp, regs);
        if regs.rcx == 0x1000 {
            regs.rax = 0x8000_0200_0000_0080;
        }
        after
    });
    let ran = replay(&subject, &format!("{OK_CALL},{OK_CALL}"));
    assert!(shown(&ran).contains("rax  expected 0x0000000000000000  TDX_SUCCESS\n"));
    assert!(shown(&ran).contains("got      0x8000020000000080  TDX_OPERAND_BUSY(TDR)\n"));
    let key = ("TDH.MNG.CREATE", "TDX_SUCCESS", "TDX_OPERAND_BUSY(TDR)");
    let key = (key.0.to_owned(), key.1.to_owned(), key.2.to_owned());
    assert_eq!(ran.groups, BTreeMap::from([(key.clone(), 2)]));
    assert_eq!(ran.first, Some(key));
}

#[test]
fn of_a_repeated_call_each_repetition_is_compared() {
    let seen = RefCell::new(0);
    let subject = Scripted::new(|lp, regs: &mut Regs| {
        let after = all_well(lp, regs);
        if regs.rcx == 0x1000 {
            *seen.borrow_mut() += 1;
            regs.rdx = u64::from(*seen.borrow() == 3);
        }
        after
    });
    let ran = replay(
        &subject,
        &OK_CALL.replace(r#""lp":0"#, r#""lp":0,"count":5"#),
    );
    assert_eq!((ran.calls.passed, ran.calls.failed), (4, 1));
    assert_eq!(ran.mismatches[0].place.repeat, 2);
}

#[test]
fn a_guest_runs_until_its_exit() {
    let ran = replay(&Scripted::new(all_well), &format!("{ENTER},{EXIT}"));
    assert_eq!(
        (ran.mismatched, ran.exits.passed, ran.calls.passed),
        (0, 1, 1)
    );
    let wrong = EXIT.replace(r#"out":{"rax":"0x1""#, r#"out":{"rax":"0x1","rcx":"0x2""#);
    let ran = replay(&Scripted::new(all_well), &format!("{ENTER},{wrong}"));
    assert_eq!((ran.mismatched, ran.exits.failed), (1, 1));
    assert!(shown(&ran).starts_with("steps[1]: guest_exit on LP 1\n    rcx  expected"));
}

#[test]
fn an_entry_that_fails_or_succeeds_unexpectedly_does_not_derail_the_rest() {
    let refuse = |_, regs: &mut Regs| {
        regs.rax = if regs.leaf() == Leaf::VP_ENTER {
            0xc000_0608_0000_0000
        } else {
            0
        };
        After::Host
    };
    let ran = replay(&Scripted::new(refuse), &format!("{ENTER},{EXIT},{OK_CALL}"));
    assert_eq!((ran.mismatched, ran.calls.passed), (2, 1));
    assert!(shown(&ran).contains("expected in guest\n         got      TDX_OP_STATE_INCORRECT\n"));
    assert!(shown(&ran).contains("guest_exit on LP 1, which runs no guest"));

    let to_host = ENTER.replace(r#""guest""#, r#"{"rax":"0xc000060800000000"}"#);
    let ran = replay(&Scripted::new(all_well), &format!("{to_host},{to_host}"));
    assert_eq!((ran.mismatched, ran.calls.failed), (2, 2));
}

#[test]
fn lock_words_are_compared_with_what_they_were_before() {
    let held = r#""mode":"exclusive","#;
    let got = r#""mode":"exclusive","result":"ok","#;
    let well = [
        word("hold", got, 1),
        word("peek", "", 1),
        word("release", held, 0),
    ];
    let ran = replay(&Scripted::new(all_well), &well.join(","));
    assert_eq!((ran.mismatched, ran.words.passed), (0, 3));

    let ran = replay(
        &Scripted::new(all_well),
        &format!("{OK_CALL},{}", word("hold", got, 0)),
    );
    let expected = "\
steps[1]: after TDH.MNG.CREATE, hold kot exclusive
         before   exclusive=0 host_priority=0 readers=0
         expected ok exclusive=0 host_priority=0 readers=0
         got      ok exclusive=1 host_priority=0 readers=0
";
    assert_eq!(shown(&ran), expected);
}

#[test]
fn what_was_not_taken_is_not_released() {
    let held = r#""mode":"exclusive","#;
    let ok = r#""mode":"exclusive","result":"ok","#;
    let busy = r#""mode":"exclusive","result":"busy","#;
    let steps = [
        word("guest_try", ok, 1),
        word("release", held, 0),
        word("hold", busy, 0),
    ];
    let ran = replay(&Scripted::new(all_well), &steps.join(","));
    // The attempt should have succeeded; the hold should not have, and was given back at once.
    assert_eq!((ran.words.failed, ran.words.passed), (2, 1));
    assert!(shown(&ran).contains("got      busy_host_priority exclusive=0"));
    assert!(shown(&ran).contains("got      ok exclusive=1"));
}

#[test]
fn a_word_that_does_not_exist_is_a_mismatch() {
    let step = word("peek", "", 0).replace("kot", "global");
    let ran = replay(&Scripted::new(all_well), &step);
    assert_eq!(ran.words.failed, 1);
    assert!(shown(&ran).contains("got      no such word"));
}

#[test]
fn the_measurement_is_read_field_by_field() {
    let subject = Scripted::new(|lp, regs: &mut Regs| {
        if regs.leaf() == Leaf::MNG_RD {
            regs.r8 = 0x0101_0101_0101_0101 * (regs.rdx & 0xf);
        }
        all_well(lp, regs)
    });
    let hex: String = (0..6).map(|i| format!("0{i}").repeat(8)).collect();
    let step = |hex: &str| format!(r#"{{"op":"expect_mrtd","tdr":"0x2000","hex":"{hex}"}}"#);
    let ran = replay(&subject, &step(&hex));
    assert_eq!((ran.mismatched, ran.mrtds.passed), (0, 1));
    let ran = replay(&subject, &step(&"00".repeat(48)));
    assert_eq!((ran.mismatched, ran.mrtds.failed), (1, 1));
    assert!(shown(&ran).contains(&format!("got      {hex}")));
}

#[test]
fn a_panic_of_the_module_is_a_mismatch_of_its_sequence() {
    let subject = Scripted::new(|lp, regs: &mut Regs| {
        assert!(regs.rcx != 0x1000, "no page at 0x1000");
        all_well(lp, regs)
    });
    let ran = replay(&subject, &format!("{OK_CALL},{OK_CALL}"));
    assert_eq!((ran.mismatched, ran.calls.failed), (1, 2));
    assert_eq!(
        shown(&ran),
        "steps[0]: TDH.MNG.CREATE panicked: no page at 0x1000\n"
    );
}

#[test]
fn a_write_outside_of_memory_is_told() {
    let ran = replay(
        &Scripted::new(all_well),
        r#"{"op":"fill","pa":"0x80000000","seed":0}"#,
    );
    assert_eq!(ran.mismatched, 1);
    assert!(shown(&ran).contains("4096 bytes at 0x80000000, where no memory is"));
}

#[test]
fn only_mismatches_about_the_leaf_asked_for_are_kept() {
    let refuse = |_, regs: &mut Regs| {
        regs.rax |= 1 << 63;
        After::Host
    };
    let header = Header::parse(HEADER.as_bytes()).unwrap();
    let line = format!(r#"{{"id":"x","preamble":"boot0","steps":[{OK_CALL}]}}"#);
    let sequence = Sequence::parse(line.as_bytes(), header.lps()).unwrap();
    let keep = Keep {
        full: 10,
        leaf: Some(Leaf::MNG_CREATE),
    };
    let ran = run(&Scripted::new(refuse), &header, &[], &sequence, keep);
    assert_eq!(
        (ran.mismatched, ran.mismatches.len(), ran.groups.len()),
        (5, 1, 1)
    );
}
