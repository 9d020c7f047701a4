//! docs/locking.md. It names files and no lines, which would make it stale with every edit.

use std::fmt::Write;

use anyhow::Context;
use seamlock_kvm::discipline::{DISCIPLINES, V7_3};
use seamlock_kvm::lockdep::Breach;
use seamlock_kvm::lockdep::survey::{Call, Survey};
use seamlock_kvm::locks::{CLASSES, ORDER};

use super::{list, text};

const HEAD: &str = "# Locking

Rendered by `seamlock locks --render docs/locking.md` from a run: one thread makes every call once, and
what it takes is written down. CI compares. The locks are the kernel's; their names are its names.

The TDX module's lock words are not here: they are tried once, and a call that finds one busy fails with
TDX_OPERAND_BUSY and an operand id.
";

/// The whole document.
///
/// # Errors
/// When a machine does not boot.
pub(super) fn document() -> anyhow::Result<String> {
    let surveys: Vec<Survey> = DISCIPLINES
        .iter()
        .map(|discipline| Survey::of(discipline).context("booting the machine"))
        .collect::<anyhow::Result<_>>()?;
    let default = surveys
        .iter()
        .find(|survey| survey.discipline.name == V7_3.name)
        .context("the default discipline")?;
    let mut out = HEAD.to_owned();
    classes(&mut out);
    order(&mut out);
    calls(&mut out, default);
    in_full(&mut out, default, "KVM_TDX_INIT_VCPU");
    in_full(&mut out, default, "KVM_TDX_INIT_MEM_REGION");
    by_discipline(&mut out, &surveys);
    found(&mut out, &surveys);
    Ok(out)
}

/// `>` of a kernel name ends nothing in a code span, but `|` would end a cell; there is none.
fn code(text: &str) -> String {
    format!("`{text}`")
}

fn classes(out: &mut String) {
    out.push_str("\n## Classes\n\n| lock | kind | in the kernel | guards |\n|---|---|---|---|\n");
    for class in CLASSES {
        let name = code(class.class.name());
        let kind = class.kind.name();
        let _ = writeln!(
            out,
            "| {name} | {kind} | {} | {} |",
            class.kernel, class.guards
        );
    }
    out.push_str(
        "\nSeveral `vcpu->mutex`es may be held under the `kvm->lock` of their VM, which the place that \
         takes\nthem names (`nest_lock`). A second `kvm->lock` is taken one level deeper \
         (`SINGLE_DEPTH_NESTING`). Nothing\nthat may sleep is taken where interrupts or preemption are \
         off, or a spinlock is held.\n",
    );
}

fn order(out: &mut String) {
    out.push_str(
        "\n## Declared order\n\nThe order is transitive. `locking.rst` is the kernel's \
         Documentation/virt/kvm/locking.rst; the other\nsources are places that show it.\n\n\
         | outer | inner | source |\n|---|---|---|\n",
    );
    for edge in ORDER {
        let (outer, inner) = (code(edge.outer.name()), code(edge.inner.name()));
        let _ = writeln!(out, "| {outer} | {inner} | {} |", edge.source);
    }
}

fn calls(out: &mut String, survey: &Survey) {
    let name = survey.discipline.name;
    let _ = write!(out, "\n## Calls under {name}\n\n");
    out.push_str("In the order in which each is first taken.\n\n| call | takes |\n|---|---|\n");
    for call in text::own_rows(survey) {
        let _ = writeln!(out, "| {} | {} |", call.name, code(&list(&call.tree.order)));
    }
    out.push_str("\nThe others:\n\n");
    for (takes, names) in text::others(survey) {
        let _ = writeln!(out, "* {}: {}", code(&takes), names.join(", "));
    }
}

fn in_full(out: &mut String, survey: &Survey, name: &str) {
    let Some(call) = survey.call(name) else {
        return;
    };
    let discipline = survey.discipline.name;
    let _ = write!(out, "\n### {name} under {discipline}\n\n");
    out.push_str(
        "What is held when what is taken, and the SEAMCALLs made there; two vCPUs, two pages.\n",
    );
    let _ = write!(out, "\n```\n{}```\n", text::tree(&call.tree, false));
}

fn by_discipline(out: &mut String, surveys: &[Survey]) {
    for name in [
        "KVM_TDX_INIT_MEM_REGION",
        "KVM_TDX_INIT_VCPU",
        "KVM_TDX_GET_CPUID",
    ] {
        let _ = write!(
            out,
            "\n## {name} by discipline\n\n| discipline | takes |\n|---|---|\n"
        );
        for survey in surveys {
            let takes = survey.call(name).map(|call: &Call| list(&call.tree.order));
            let takes = code(&takes.unwrap_or_default());
            let _ = writeln!(out, "| {} | {takes} |", survey.discipline.name);
        }
    }
}

fn found(out: &mut String, surveys: &[Survey]) {
    out.push_str(
        "\n## What lockdep finds\n\nOn one thread, with the first KVM_RUN of an AMD and of an arm64 \
         vCPU, which take `kvm->slots_lock`\ninside of `vcpu->mutex`, under the same lockdep.\n\n\
         All up to v6.19 pin the source page inside of `filemap_invalidate_lock`, against the order of \
         page\nfaults; 2a62345b3052 turns it round. No fault of a guest_memfd takes that lock, so it is \
         an order\nand not a deadlock.\n\n\
         | discipline | rule | taking | at | holding | at |\n|---|---|---|---|---|---|\n",
    );
    for survey in surveys {
        let breaches = survey.breaches();
        if breaches.is_empty() {
            let _ = writeln!(out, "| {} | nothing | | | | |", survey.discipline.name);
        }
        for breach in &breaches {
            row(out, survey.discipline.name, breach);
        }
    }
}

fn row(out: &mut String, discipline: &str, breach: &Breach) {
    let file = |acquisition: &seamlock_kvm::lockdep::Acquisition| {
        let file = acquisition.site.file();
        file.rsplit_once("src/")
            .map_or(file, |(_, rest)| rest)
            .to_owned()
    };
    let (taking, holding) = (&breach.acquired, &breach.against);
    let _ = writeln!(
        out,
        "| {discipline} | {} | {} | {} | {} | {} |",
        breach.rule.title(),
        code(&taking.title()),
        file(taking),
        code(&holding.title()),
        file(holding),
    );
}
