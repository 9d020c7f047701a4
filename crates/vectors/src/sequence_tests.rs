use super::*;

fn parse(steps: &str) -> Result<Vec<Step>, Complaint> {
    let line = format!(r#"{{"id":"x","preamble":"boot0","seed":7,"steps":[{steps}]}}"#);
    Sequence::parse(line.as_bytes(), 4).map(|sequence| sequence.steps)
}

#[test]
fn registers_absent_in_the_output_keep_their_input() {
    let steps = parse(
        r#"{"op":"call","leaf":"MNG.RD","lp":3,"in":{"rax":"0xb","rcx":"0x1000","r8":"0x5"},
            "out":{"rax":"0x0","r8":"0x9"},"status":"SUCCESS"}"#,
    );
    let input = Regs {
        rax: 0xb,
        rcx: 0x1000,
        r8: 5,
        ..Regs::default()
    };
    let expected = Outcome::Host(Regs {
        rax: 0,
        r8: 9,
        ..input
    });
    assert_eq!(
        steps.unwrap(),
        [Step::Call {
            lp: 3,
            input,
            expected,
            count: 1
        }]
    );
}

#[test]
fn registers_absent_after_an_exit_are_zero() {
    let steps = parse(r#"{"op":"guest_exit","lp":1,"reason":"0x34","out":{"rax":"0x34"}}"#);
    let exit = TdExit {
        reason: 52,
        qual: 0,
        gpa: 0,
        kind: TdExitKind::Async,
    };
    let expected = Regs {
        rax: 0x34,
        ..Regs::default()
    };
    assert_eq!(
        steps.unwrap(),
        [Step::GuestExit {
            lp: 1,
            exit,
            expected
        }]
    );
}

#[test]
fn every_lock_word_has_its_address() {
    let tdr = Hpa(0x2000);
    let entry = LockAt::Entry {
        tdr,
        gpa: Gpa(0x80_0000),
        level: 1,
    };
    for (name, address, at) in [
        ("tdr", r#""pa":"0x2000""#, LockAt::Page(tdr)),
        ("tdvpr", r#""pa":"0x2000""#, LockAt::Page(tdr)),
        ("page", r#""pa":"0x2000""#, LockAt::Page(tdr)),
        (
            "pamt2m",
            r#""pa":"0x602000""#,
            LockAt::Pamt2m(Hpa(0x60_0000)),
        ),
        (
            "pamt1g",
            r#""pa":"0x40602000""#,
            LockAt::Pamt1g(Hpa(1 << 30)),
        ),
        ("op_state", r#""tdr":"0x2000""#, LockAt::OpState(tdr)),
        ("sept_tree", r#""tdr":"0x2000""#, LockAt::SeptTree(tdr)),
        ("epoch", r#""tdr":"0x2000""#, LockAt::Epoch(tdr)),
        ("kot", r#""x":0"#, LockAt::Kot),
        ("global", r#""x":0"#, LockAt::Global),
        ("wbt", r#""x":0"#, LockAt::Wbt(0)),
        ("tdmr", r#""pa":"0x2000""#, LockAt::Tdmr(tdr)),
        (
            "entry",
            r#""tdr":"0x2000","gpa":"0x803000","level":1"#,
            entry,
        ),
    ] {
        let word = r#""word":{"exclusive":1,"host_priority":0,"readers":2}"#;
        let steps = parse(&format!(
            r#"{{"op":"peek","what":"{name}",{address},{word}}}"#
        ));
        let word = WordView {
            exclusive: true,
            host_priority: false,
            readers: 2,
        };
        assert_eq!(
            steps.unwrap(),
            [Step::Peek {
                what: What { name, at },
                word
            }]
        );
    }
}

#[test]
fn memory_steps_carry_their_bytes() {
    let steps = parse(
        r#"{"op":"fill","pa":"0x8000","seed":255},{"op":"write","pa":"0x4001","hex":"00fF"}"#,
    );
    let write = Step::Write {
        pa: Hpa(0x4001),
        bytes: vec![0, 0xff],
    };
    assert_eq!(
        steps.unwrap(),
        [
            Step::Fill {
                pa: Hpa(0x8000),
                seed: 255
            },
            write
        ]
    );
}

#[test]
fn a_wrong_step_is_refused_with_the_path_of_the_field() {
    let call = |fields: &str| format!(r#"{{"op":"call",{fields}}}"#);
    let free = r#""word":{"exclusive":0,"host_priority":0,"readers":0}"#;
    for (step, field) in [
        (r#"{"op":"jump"}"#.into(), "op"),
        (r#"{"pa":"0x0"}"#.into(), "op"),
        (r#"{"op":"fill","pa":"0x0","seed":256}"#.into(), "seed"),
        (r#"{"op":"fill","seed":2}"#.into(), "pa"),
        (r#"{"op":"write","pa":"12","hex":""}"#.into(), "pa"),
        (r#"{"op":"write","pa":"0x0","hex":"0"}"#.into(), "hex"),
        (r#"{"op":"write","pa":"0x0","hex":5}"#.into(), "hex"),
        (
            r#"{"op":"expect_mrtd","tdr":"0x0","hex":"00"}"#.into(),
            "hex",
        ),
        (call(r#""lp":4,"in":{"rax":"0x0"},"out":"guest""#), "lp"),
        (call(r#""lp":-1,"in":{"rax":"0x0"},"out":"guest""#), "lp"),
        (call(r#""lp":0,"in":{"rcx":"0x0"},"out":"guest""#), "in"),
        (call(r#""lp":0,"out":"guest""#), "in"),
        (call(r#""lp":0,"in":{"rax":"0x0"}"#), "out"),
        (call(r#""lp":0,"in":{"rax":"0x0"},"out":{}"#), "out"),
        (call(r#""lp":0,"in":{"rax":"0x0"},"out":"host""#), "out"),
        (
            call(r#""lp":0,"in":{"rax":"zero"},"out":"guest""#),
            "in.rax",
        ),
        (call(r#""lp":0,"in":{"rsp":"0x0"},"out":"guest""#), "in.rsp"),
        (
            call(r#""lp":0,"in":{"rax":"0x0","rax":"0x1"},"out":"guest""#),
            "in",
        ),
        (
            call(r#""lp":0,"in":{"rax":"0x0"},"out":{"rax":"0x10000000000000000"}"#),
            "out.rax",
        ),
        (
            call(r#""lp":0,"count":0,"in":{"rax":"0x0"},"out":"guest""#),
            "count",
        ),
        (
            call(r#""lp":0,"count":4294967295,"in":{"rax":"0x0"},"out":"guest""#),
            "count",
        ),
        (
            r#"{"op":"guest_exit","lp":0,"reason":"0x100000000","out":{}}"#.into(),
            "reason",
        ),
        (
            r#"{"op":"guest_exit","lp":0,"reason":"0x1","kind":"odd","out":{}}"#.into(),
            "kind",
        ),
        (
            r#"{"op":"guest_exit","lp":0,"reason":"0x1","out":"guest"}"#.into(),
            "out",
        ),
        (r#"{"op":"peek","what":"kot"}"#.into(), "word"),
        (format!(r#"{{"op":"peek","what":"lock",{free}}}"#), "what"),
        (format!(r#"{{"op":"peek","what":"tdr",{free}}}"#), "pa"),
        (
            format!(r#"{{"op":"peek","what":"entry","tdr":"0x0","gpa":"0x0",{free}}}"#),
            "level",
        ),
        (
            format!(r#"{{"op":"peek","what":"entry","tdr":"0x0","gpa":"0x0","level":5,{free}}}"#),
            "level",
        ),
        (
            format!(r#"{{"op":"hold","what":"kot","mode":"shared",{free}}}"#),
            "result",
        ),
        (
            format!(r#"{{"op":"hold","what":"kot","mode":"both","result":"ok",{free}}}"#),
            "mode",
        ),
    ] {
        let complaint = parse(&format!(r#"{{"op":"fill","pa":"0x0","seed":0}},{step}"#));
        let complaint = complaint.unwrap_err();
        let path = complaint
            .field
            .strip_prefix("steps[1]")
            .unwrap_or(&complaint.field);
        // A value of the wrong shape is reported at the field or at the map that holds it.
        let at = path.trim_start_matches('.');
        assert!(
            at == field || at.starts_with(field),
            "{step}: {complaint:?}"
        );
    }
}

#[test]
fn a_line_that_is_no_sequence_is_refused() {
    for line in [
        "",
        "null",
        "[]",
        "{",
        r#"{"id":"x"}"#,
        "\u{0}",
        r#"{"id":1,"preamble":"b"}"#,
    ] {
        assert!(Sequence::parse(line.as_bytes(), 4).is_err(), "{line}");
    }
    assert!(Sequence::parse(&[0xff, 0xfe, b'{'], 4).is_err());
    let two = r#"{"id":"x","preamble":"b","steps":[]} {}"#;
    assert!(Sequence::parse(two.as_bytes(), 4).is_err());
    let deep = "[".repeat(100_000);
    assert!(Sequence::parse(deep.as_bytes(), 4).is_err());
}
