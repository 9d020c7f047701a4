//! What is printed, word for word.

use expect_test::{Expect, expect};
use seamlock_tdx_abi::leaf::Leaf;
use seamlock_tdx_abi::status::TdxStatus;
use seamlock_tdx_module::tables::LOCKS;

use super::explain;

fn plain(what: &str) -> String {
    let text = explain(what).unwrap();
    anstream::adapter::strip_str(&text).to_string()
}

fn check(what: &str, expected: Expect) {
    expected.assert_eq(&plain(what));
}

#[test]
fn a_busy_tdr_is_told_with_who_can_hold_it_and_in_which_leaves() {
    check(
        "0x8000020000000080",
        expect![[r#"
            TDX_OPERAND_BUSY on the TDR  0x8000020000000080

            class         0x02 busy, and resources, number 0
            bits 63:60    error, recoverable: the same call may succeed later
            details 31:0  operand id 128 (0x80), TDR: The TDR found through an owner, not named by a register.

            when somebody holds the TDR's PAMT entry:
              wanted shared by  TDH.VP.ADDCX, TDH.VP.INIT v0, TDH.VP.RD, TDH.VP.WR, TDH.VP.FLUSH, TDH.VP.ENTER,
                                TDH.PHYMEM.PAGE.RECLAIM
              wanted alone by   TDH.VP.INIT v1
              held alone by     TDH.MNG.KEY.CONFIG, TDH.MNG.ADDCX, TDH.MNG.INIT, TDH.MNG.VPFLUSHDONE,
                                TDH.MNG.KEY.FREEID, TDH.VP.INIT v1, TDH.MEM.PAGE.ADD, TDH.MR.EXTEND,
                                TDH.MR.FINALIZE
              held shared, in the way of who wants it alone:
                                TDH.MNG.RD, TDH.MNG.WR, TDH.VP.CREATE, TDH.VP.ADDCX, TDH.VP.INIT v0, TDH.VP.RD,
                                TDH.VP.WR, TDH.VP.FLUSH, TDH.VP.ENTER (until the TD exit), TDH.MEM.SEPT.ADD,
                                TDH.MEM.PAGE.AUG, TDH.MEM.RANGE.BLOCK, TDH.MEM.RANGE.UNBLOCK, TDH.MEM.TRACK,
                                TDH.MEM.PAGE.REMOVE, TDH.MEM.SEPT.REMOVE, TDH.MEM.SEPT.RD, TDH.MEM.PAGE.PROMOTE,
                                TDH.MEM.PAGE.DEMOTE, TDH.MEM.PAGE.RELOCATE, TDH.MEM.RD, TDH.MEM.WR,
                                TDH.PHYMEM.PAGE.RECLAIM (when the page is not a TDR itself)
              or held by        any leaf whose page operand names this page, whatever it takes it for: the type
                                is tested after the lock (TDH.PHYMEM.PAGE.RECLAIM alone, TDH.PHYMEM.PAGE.RDMD
                                and TDH.PHYMEM.PAGE.WBINVD shared)
        "#]],
    );
}

#[test]
fn a_leaf_is_told_by_name_and_by_number() {
    check(
        "MEM.PAGE.ADD",
        expect![[r#"
        TDH.MEM.PAGE.ADD  leaf 2, version 0
        Copies a page into a TD that is being built and measures its address.

        in
          RCX         GPA in 51:12, level in 2:0
          RDX         TDR
          R8          new page
          R9          source page of the host

        out
          RCX         on an error of the secure EPT: the entry
          RDX         on an error of the secure EPT: its level and state

        module state  READY
        OP_STATE      INITIALIZED
        S-EPT entry   FREE

        lock words, in this order, held until it returns
          the TDR's PAMT entry                      alone   explicit  TDX_OPERAND_BUSY(RDX)
          the page's PAMT entry                     alone   explicit  TDX_OPERAND_BUSY(R8)
    "#]],
    );
    assert!(plain("2").starts_with(&plain("TDH.MEM.PAGE.ADD")));
    assert_eq!(plain("tdh_mem_page_add"), plain("MEM.PAGE.ADD"));
}

#[test]
fn versions_with_different_locks_are_told_apart() {
    check(
        "VP.INIT",
        expect![[r#"
        TDH.VP.INIT  leaf 22, versions 0 and 1
        Initialises a vCPU.

        in, version 0
          RCX         TDVPR
          RDX         RCX and R8 of the guest

        in, version 1
          RCX         TDVPR
          RDX         RCX and R8 of the guest
          R8          x2APIC id

        module state  READY
        OP_STATE      INITIALIZED
        S-EPT entry   not looked at

        lock words, version 0, in this order, held until it returns
          the TDVPR's PAMT entry                    alone   explicit  TDX_OPERAND_BUSY(RCX)
          the TDR's PAMT entry                      shared  implicit  TDX_OPERAND_BUSY(TDR)
          OP_STATE of the TD                        shared            TDX_OPERAND_BUSY(OP_STATE)

        lock words, version 1, in this order, held until it returns
          the TDVPR's PAMT entry                    alone   explicit  TDX_OPERAND_BUSY(RCX)
          the TDR's PAMT entry                      alone   implicit  TDX_OPERAND_BUSY(TDR)
          OP_STATE of the TD                        shared            TDX_OPERAND_BUSY(OP_STATE)
    "#]],
    );
    assert!(!plain("0x10016").contains("version 0,"));
}

#[test]
fn a_leaf_that_holds_on_after_it_returns_says_until_when() {
    check(
        "VP.ENTER",
        expect![[r#"
        TDH.VP.ENTER  leaf 0, version 0
        Enters the guest on a vCPU until its next TD exit.

        in
          RCX         TDVPR in 51:12, bit 52 host-recoverability hint, bit 53 resume L1
          RBX..R15    what TDG.VP.VMCALL returns to the guest, if it was the last exit

        out
          RCX         exit qualification; after TDG.VP.VMCALL the registers it passes
          RDX         extended exit qualification
          R8          GPA
          R9          VM-exit interruption information
          RBX..R15    what TDG.VP.VMCALL passes, else 0

        module state  READY
        OP_STATE      RUNNABLE, LIVE_EXPORT, LIVE_IMPORT
        S-EPT entry   not looked at

        lock words, in this order, held until it returns
          the TDVPR's PAMT entry                    shared  explicit  TDX_OPERAND_BUSY(RCX)
            until the TD exit
          the TDR's PAMT entry                      shared  implicit  TDX_OPERAND_BUSY(TDR)
            until the TD exit
          OP_STATE of the TD                        shared            TDX_OPERAND_BUSY(OP_STATE)
            until just before the guest runs
          the TD's TLB epoch                        shared            TDX_OPERAND_BUSY(TD_EPOCH)
            until the vCPU is counted
          the TD's secure-EPT tree                  alone             TDX_OPERAND_BUSY(SEPT_TREE)
            only when the zero-step filter has suspects
            until just before the guest runs

        VP.ENTER is also the guest's leaf TDG.VP.ENTER
    "#]],
    );
}

#[test]
fn a_status_that_is_not_busy_tells_its_bits_and_details() {
    check(
        "TDX_OPERAND_INVALID(XFAM)",
        expect![[r#"
            TDX_OPERAND_INVALID on XFAM  0xc000010000000041

            class         0x01 operands, number 0
            bits 63:60    error, not recoverable: the same call fails again
            details 31:0  operand id 65 (0x41), XFAM: TD_PARAMS.XFAM.
        "#]],
    );
    check(
        "0xE0000604",
        expect![[r#"
        TDX_TD_FATAL  0xe000060400000000

        class         0x06 state of the TD, number 4
        bits 63:60    error, fatal: the TD is lost
        details 31:0  none
    "#]],
    );
    check(
        "KEY_CONFIGURED",
        expect![[r#"
            TDX_KEY_CONFIGURED  0x0000081500000000

            class         0x08 keys, number 21
            bits 63:60    success, maybe with information
            details 31:0  none
        "#]],
    );
}

#[test]
fn the_same_status_has_many_spellings() {
    let text = plain("0x8000020000000080");
    for other in [
        "OPERAND_BUSY TDR",
        "tdx_operand_busy(tdr)",
        "OPERAND_BUSY|0x80",
        "OPERAND_BUSY:128",
    ] {
        assert_eq!(plain(other), text, "{other}");
    }
}

#[test]
fn an_operand_and_states_are_told() {
    check(
        "SEPT_TREE",
        expect![[r#"
            SEPT_TREE  operand id 146 (0x92): bits 7:0 of a status
            The secure EPT tree of a TD.

            TDX_OPERAND_BUSY(SEPT_TREE)  0x8000020000000092

            when somebody holds the TD's secure-EPT tree:
              wanted shared by  TDH.MEM.SEPT.ADD, TDH.MEM.PAGE.AUG, TDH.MEM.PAGE.REMOVE, TDH.MEM.SEPT.RD,
                                TDH.MEM.PAGE.PROMOTE, TDH.MEM.PAGE.DEMOTE, TDH.MEM.PAGE.RELOCATE, TDH.MEM.RD,
                                TDH.MEM.WR
              wanted alone by   TDH.VP.ENTER, TDH.MEM.RANGE.BLOCK, TDH.MEM.RANGE.UNBLOCK, TDH.MEM.SEPT.REMOVE
              held alone by     TDH.VP.ENTER (when the zero-step filter has suspects, until just before the
                                guest runs), TDH.MEM.RANGE.BLOCK, TDH.MEM.RANGE.UNBLOCK, TDH.MEM.SEPT.REMOVE
              held shared, in the way of who wants it alone:
                                TDH.MEM.SEPT.ADD, TDH.MEM.PAGE.AUG, TDH.MEM.PAGE.REMOVE, TDH.MEM.SEPT.RD,
                                TDH.MEM.PAGE.PROMOTE, TDH.MEM.PAGE.DEMOTE, TDH.MEM.PAGE.RELOCATE, TDH.MEM.RD,
                                TDH.MEM.WR
        "#]],
    );
    check(
        "RUNNABLE",
        expect![[r#"
        RUNNABLE  OP_STATE 2
        After `TDH.MR.FINALIZE`.

        allows        TDH.VP.ENTER, TDH.MEM.PAGE.AUG, TDH.MEM.SEPT.ADD, TDH.MEM.RANGE.BLOCK,
                      TDH.MEM.RANGE.UNBLOCK, TDH.MEM.PAGE.PROMOTE, TDH.MEM.PAGE.DEMOTE,
                      TDH.MEM.PAGE.RELOCATE, TDH.MEM.PAGE.REMOVE, TDH.MEM.TRACK, TDH.MNG.RD, TDH.VP.RD,
                      TDH.MEM.SEPT.RD, TDH.MEM.SEPT.REMOVE, TDH.MEM.RD, TDH.MNG.WR, TDH.VP.WR, TDH.MEM.WR
                      any other leaf that looks at OP_STATE: TDX_OP_STATE_INCORRECT
        TLB tracking  required before a mapping is removed or changed
    "#]],
    );
    check(
        "pending_blocked",
        expect![[r#"
        PENDING_BLOCKED  state of a secure-EPT entry, 3 in RDX 15:8
        Pending, blocked.

        bits          0x01800000000000c0 of the entry
        is            blocked, pending, in use by vCPUs until tracked
        allows        TDH.MEM.RANGE.UNBLOCK, TDH.MEM.PAGE.REMOVE, TDH.MEM.PAGE.DEMOTE, TDH.MEM.PAGE.RELOCATE
    "#]],
    );
}

#[test]
fn a_leaf_of_the_guest_tells_which_word_it_takes() {
    check(
        "TDG.MEM.PAGE.ACCEPT",
        expect![[r#"
        TDG.MEM.PAGE.ACCEPT  leaf 6 of the guest (TDCALL)
        Accepts a pending page.

        S-EPT entry   PENDING, PENDING_EXPORTED_DIRTY
                      in any other state the TD exits

        lock word, by the guest's rules: where a host call was refused, it yields
          the secure-EPT entry                      alone             TDX_OPERAND_BUSY(RCX)

        It runs under what TDH.VP.ENTER holds: TDVPR and TDR, both shared, until the TD exit.
    "#]],
    );
    check(
        "RTMR",
        expect![[r#"
        RTMR  operand id 168 (0xa8): bits 7:0 of a status
        The TD's run-time measurement registers.

        TDX_OPERAND_BUSY(RTMR)  0x80000200000000a8

        when somebody holds the TD's RTMRs:
          wanted shared by  TDG.MR.REPORT
          wanted alone by   TDG.MR.RTMR.EXTEND
          held alone by     TDG.MR.RTMR.EXTEND
          held shared, in the way of who wants it alone:
                            TDG.MR.REPORT
    "#]],
    );
}

#[test]
fn what_does_not_exist_is_refused_in_one_line_with_names_that_are_near() {
    let refused = |what| explain(what).unwrap_err();
    expect!["`MEM.PAGE.AD` is no leaf, status, operand id, OP_STATE or secure-EPT state; did you mean TDH.MEM.PAGE.ADD, TDH.MEM.PAGE.AUG, TDG.MEM.PAGE.ATTR.RD, TDG.MEM.PAGE.ACCEPT?"].assert_eq(&refused("MEM.PAGE.AD"));
    expect!["`operand_bussy` is no leaf, status, operand id, OP_STATE or secure-EPT state; did you mean TDX_OPERAND_BUSY, TDX_OPERAND_BUSY_HOST_PRIORITY, TDX_OPERAND_INVALID?"].assert_eq(&refused("operand_bussy"));
    expect!["`0x123456789abcdef0` is no leaf, status, operand id, OP_STATE or secure-EPT state; MEM.PAGE.ADD, OPERAND_BUSY and 0x8000020000000080 are examples"].assert_eq(&refused("0x123456789abcdef0"));
    assert_eq!(refused("xyzzy").lines().count(), 1);
}

#[test]
fn every_leaf_and_every_status_can_be_explained() {
    for leaf in Leaf::ALL {
        let text = plain(&leaf.to_string());
        assert!(
            text.lines().all(|line| line.chars().count() <= 100),
            "{text}"
        );
    }
    for (status, name) in TdxStatus::ALL {
        assert!(plain(name).contains(name), "{name}");
        let _ = plain(&format!("{status:#x}"));
    }
}

#[test]
fn who_answers_busy_is_among_those_who_are_told() {
    for row in LOCKS {
        for lock in row.locks {
            let text = plain(&format!("{:#x}", lock.busy));
            assert!(
                text.contains(&row.leaf.to_string()),
                "{} {}",
                row.leaf,
                lock.busy
            );
        }
    }
}
