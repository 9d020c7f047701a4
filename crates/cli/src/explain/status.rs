//! A status: its bits, its class, what its details are about, and who can be the cause.

use std::fmt::Write;

use seamlock_sync::Mode;
use seamlock_tdx_abi::operand::OperandId;
use seamlock_tdx_abi::status::TdxStatus;
use seamlock_tdx_module::tables::{GUEST_LOCKS, LOCKS, LockPath, LockUse, LockWord};

use super::{filled, words, wrapped};
use crate::style::HEAD;

/// A status with its details.
pub fn explain(status: TdxStatus) -> String {
    let mut text = String::new();
    let (on, off) = (HEAD.render(), HEAD.render_reset());
    let name = status.name().unwrap_or("unknown");
    let about = operand(status).map_or(String::new(), |id| format!(" on {}", subject(status, id)));
    let _ = writeln!(text, "{on}{name}{about}{off}  {:#018x}\n", status.0);
    let _ = writeln!(
        text,
        "class         {:#04x} {}, number {}",
        status.class(),
        class(status.class()),
        status.number()
    );
    let _ = writeln!(text, "bits 63:60    {}", bits(status));
    details(&mut text, status);
    if status.is(TdxStatus::OPERAND_BUSY_HOST_PRIORITY) {
        text.push_str(&filled(
            "\n",
            "A guest call yields: a host call found the word busy before and goes first. The guest \
             sees TDX_OPERAND_BUSY; when it lasts for HP_LOCK_TIMEOUT, the TD exits.",
            0,
        ));
    }
    if status.is(TdxStatus::OPERAND_BUSY) || status.is(TdxStatus::SYS_BUSY) {
        if operand(status).is_none() && status.is(TdxStatus::OPERAND_BUSY) {
            every_busy(&mut text);
        } else {
            busy(&mut text, status);
        }
    }
    text
}

/// The operand that the details name; RAX only where it can be meant.
fn operand(status: TdxStatus) -> Option<OperandId> {
    let zero_means_rax = status.is(TdxStatus::OPERAND_INVALID);
    status
        .operand()
        .filter(|_| status.details_are_operand())
        .filter(|_| zero_means_rax || status.details() != 0)
}

/// `the TDR`, or what a register names.
fn subject(status: TdxStatus, id: OperandId) -> String {
    match id.0 {
        0..=15 if status.is(TdxStatus::OPERAND_BUSY) => format!("what {id} names"),
        0..=127 => id.to_string(),
        _ => format!("the {id}"),
    }
}

fn class(class: u8) -> &'static str {
    match class {
        0x00 => "general",
        0x01 => "operands",
        0x02 => "busy, and resources",
        0x03 => "pages",
        0x04 => "pages of a TD",
        0x05 => "life cycle of the module",
        0x06 => "state of the TD",
        0x07 => "state of the vCPU",
        0x08 => "keys",
        0x09 => "checks of the platform",
        0x0a => "TDMRs",
        0x0b => "secure EPT",
        0x0c => "metadata",
        0x0d => "service TDs",
        0x0e => "migration",
        0x10 => "reports",
        0x11 => "L2 VMs",
        _ => "unknown",
    }
}

fn bits(status: TdxStatus) -> String {
    let mut said = Vec::new();
    if status.is_success_class() {
        return "success, maybe with information".to_owned();
    }
    if status.is_error() {
        said.push("error");
    }
    said.push(match (status.is_fatal(), status.is_non_recoverable()) {
        (true, _) => "fatal: the TD is lost",
        (false, true) => "not recoverable: the same call fails again",
        (false, false) if status.is_error() => "recoverable: the same call may succeed later",
        (false, false) => "nothing to recover from",
    });
    if status.has_host_recoverability_hint() {
        said.push("the host may be able to recover");
    }
    said.join(", ")
}

fn details(text: &mut String, status: TdxStatus) {
    let details = status.details();
    let meaning = match (operand(status), status.class()) {
        (Some(id), _) => {
            let meaning = id.meaning().unwrap_or_default();
            format!("operand id {details} ({details:#x}), {id}: {meaning}")
        }
        (None, _) if status.details_are_operand() => "the operand id that it is about".to_owned(),
        (None, 0x0a) => "TDMR in 7:0, its PAMT's level or its reserved area in 15:8, the other \
                         TDMR in 23:16"
            .to_owned(),
        (None, 0x00) if !status.is_error() => "VMX exit reason of a TD exit".to_owned(),
        (None, 0x0b) => "level, and the L2 VM in 31:16 where it is about one".to_owned(),
        (None, _) if status.is(TdxStatus::X2APIC_ID_NOT_UNIQUE) => "the x2APIC id".to_owned(),
        (None, _) if status.is(TdxStatus::INCONSISTENT_MSR) => "the MSR".to_owned(),
        (None, _) => "none".to_owned(),
    };
    let _ = writeln!(text, "details 31:0  {meaning}");
}

/// The uses of locks that answer with this status.
fn meant(status: TdxStatus) -> impl Iterator<Item = &'static LockUse> {
    let uses = LOCKS.iter().flat_map(|row| row.locks);
    uses.filter(move |lock| lock.busy == status)
}

/// Who answers with this busy status, and who can hold the word then.
pub fn busy(text: &mut String, status: TdxStatus) {
    let guest = GUEST_LOCKS
        .iter()
        .filter(|(.., id)| TdxStatus::OPERAND_BUSY.with(*id) == status);
    let mut found: Vec<LockWord> = meant(status).map(|lock| lock.word).collect();
    found.extend(guest.map(|(_, word, ..)| *word));
    found.sort();
    found.dedup();
    if found.is_empty() {
        let hardware = status.operand() == Some(OperandId::KET);
        text.push_str(if hardware {
            "\nNo lock word: another processor is programming a key (PCONFIG).\n"
        } else {
            "\nNo leaf of the module answers so.\n"
        });
    }
    for word in found {
        one_word(text, status, word);
    }
}

fn one_word(text: &mut String, status: TdxStatus, word: LockWord) {
    let _ = writeln!(text, "\nwhen somebody holds {}:", words::describe(word));
    let wanted = |mode| {
        let rows = LOCKS.iter().filter(move |row| {
            let mut locks = row.locks.iter();
            locks.any(|lock| lock.busy == status && lock.word == word && lock.mode == mode)
        });
        let mut names = words::merge_versions(rows.map(words::name).collect());
        let guest = GUEST_LOCKS.iter().any(|(_, listed, _, id)| {
            *listed == word && TdxStatus::OPERAND_BUSY.with(*id) == status
        });
        names.extend(
            guest
                .then(|| words::guest_takers(word, mode))
                .into_iter()
                .flatten(),
        );
        names
    };
    let (shared, alone) = (wanted(Mode::Shared), wanted(Mode::Exclusive));
    if !shared.is_empty() {
        text.push_str(&wrapped("  wanted shared by  ", &shared, 20));
    }
    if !alone.is_empty() {
        text.push_str(&wrapped("  wanted alone by   ", &alone, 20));
    }
    let holders = words::takers(word, Mode::Exclusive);
    if !holders.is_empty() {
        text.push_str(&wrapped("  held alone by     ", &holders, 20));
    }
    let holders = words::takers(word, Mode::Shared);
    if !alone.is_empty() && !holders.is_empty() {
        let against = if shared.is_empty() {
            ""
        } else {
            ", in the way of who wants it alone:"
        };
        let _ = writeln!(text, "  held shared{against}");
        text.push_str(&wrapped("                    ", &holders, 20));
    }
    pages(text, status, word);
}

/// PAMT entries can be held by leaves that take the page for something else.
fn pages(text: &mut String, status: TdxStatus, word: LockWord) {
    if !matches!(word, LockWord::Tdr | LockWord::Tdvpr | LockWord::Page) {
        return;
    }
    if word != LockWord::Page {
        let any = "any leaf whose page operand names this page, whatever it takes it for: the type \
                   is tested after the lock (TDH.PHYMEM.PAGE.RECLAIM alone, TDH.PHYMEM.PAGE.RDMD \
                   and TDH.PHYMEM.PAGE.WBINVD shared)";
        text.push_str(&filled("  or held by        ", any, 20));
    }
    let explicit = |lock: &LockUse| lock.word == word && lock.path == LockPath::Explicit;
    if meant(status).any(explicit) {
        let above = "the 2 MiB or 1 GiB entry above it held alone: by TDH.MEM.PAGE.PROMOTE or \
                     TDH.MEM.PAGE.DEMOTE, or by TDH.MEM.PAGE.AUG, TDH.MEM.PAGE.REMOVE or \
                     TDH.PHYMEM.PAGE.RECLAIM of the whole range";
        text.push_str(&filled("  or                ", above, 20));
    }
}

/// All operands that can be busy.
fn every_busy(text: &mut String) {
    text.push_str("\nit names one of these; ask for `OPERAND_BUSY NAME` to see who can hold it\n");
    let mut ids: Vec<u8> = LOCKS
        .iter()
        .flat_map(|row| row.locks)
        .filter_map(|lock| {
            lock.busy
                .operand()
                .filter(|_| lock.busy.is(TdxStatus::OPERAND_BUSY))
        })
        .chain(GUEST_LOCKS.iter().map(|(.., id)| *id))
        .chain([OperandId::KET])
        .map(|id| id.0)
        .collect();
    ids.sort_unstable();
    ids.dedup();
    for id in ids.into_iter().map(OperandId) {
        let _ = writeln!(
            text,
            "  {:<12}{}",
            id.to_string(),
            id.meaning().unwrap_or_default()
        );
    }
}
