//! `seamlock locks`: the declared order of KVM's locks, and what each call takes, observed.

mod dot;
mod json;
mod markdown;
mod text;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::Args;
use seamlock_kvm::discipline::{self, Discipline};
use seamlock_kvm::lockdep::survey::{Call, Survey};

use crate::failure::BadInput;
use crate::output::{self, out, outln};

/// Show the order of KVM's locks, and which locks each call takes, as seen on a machine.
#[derive(Debug, Args)]
pub struct Locks {
    /// How KVM locks; `seamlock disciplines` lists them.
    #[arg(long, value_name = "NAME", default_value = discipline::V7_3.name)]
    discipline: String,
    /// Only this call, such as KVM_TDX_INIT_MEM_REGION, with everything that it takes and calls.
    #[arg(long = "for", value_name = "IOCTL", conflicts_with_all = ["dot", "render", "check"])]
    call: Option<String>,
    /// The order as a graph for Graphviz, with what breaks it in red.
    #[arg(long, conflicts_with = "json")]
    dot: bool,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
    /// Write the document of all disciplines to this file.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["dot", "json", "discipline"])]
    render: Option<PathBuf>,
    /// Compare the document with this file: exit code 1 when it is stale.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["dot", "json", "render", "discipline"])]
    check: Option<PathBuf>,
}

impl Locks {
    /// Runs the command: exit code 1 when a whole listing has a breach, or the document is stale.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        if let Some(path) = &self.render {
            let document = markdown::document()?;
            output::write(path, document)?;
            return Ok(ExitCode::SUCCESS);
        }
        if let Some(path) = &self.check {
            return check(path);
        }
        let survey = Survey::of(self.discipline()?).context("booting the machine")?;
        let call = self
            .call
            .as_deref()
            .map(|name| find(&survey, name))
            .transpose()?;
        match (call, self.json) {
            (Some(call), true) => outln!("{}", json::call(&survey, call)?),
            (Some(call), false) => out!("{}", text::call(&survey, call)),
            (None, true) => outln!("{}", json::all(&survey)?),
            (None, false) if self.dot => out!("{}", dot::graph(&survey)),
            (None, false) => {
                out!("{}", text::all(&survey));
                if !survey.breaches().is_empty() {
                    return Ok(ExitCode::FAILURE);
                }
            }
        }
        Ok(ExitCode::SUCCESS)
    }

    fn discipline(&self) -> anyhow::Result<&'static Discipline> {
        let given = &self.discipline;
        discipline::by_name(given).ok_or_else(|| {
            let names: Vec<_> = discipline::DISCIPLINES.iter().map(|d| d.name).collect();
            let there_are = names.join(", ");
            BadInput(format!(
                "--discipline {given}: there is none; there are {there_are}"
            ))
            .into()
        })
    }
}

fn find<'a>(survey: &'a Survey, name: &str) -> anyhow::Result<&'a Call> {
    survey.call(name).ok_or_else(|| {
        let names = survey.calls.iter().map(|call| &*call.name);
        let similar: Vec<&str> = names.filter(|n| similar(n, name)).collect();
        let hint = match similar.is_empty() {
            true => "`seamlock locks` lists them".to_owned(),
            false => format!("there is {}", similar.join(", ")),
        };
        BadInput(format!("--for {name}: there is no such call; {hint}")).into()
    })
}

fn similar(known: &str, given: &str) -> bool {
    let (known, given) = (known.to_lowercase(), given.to_lowercase());
    known.contains(&given) || strsim::jaro_winkler(&known, &given) > 0.93
}

fn check(path: &std::path::Path) -> anyhow::Result<ExitCode> {
    let written = output::read(path)?;
    let document = markdown::document()?;
    if written == document {
        return Ok(ExitCode::SUCCESS);
    }
    let line = written
        .lines()
        .zip(document.lines())
        .take_while(|(a, b)| a == b)
        .count()
        + 1;
    let path = path.display();
    anstream::eprintln!("{path} is stale from line {line}; run `seamlock locks --render {path}`");
    Ok(ExitCode::FAILURE)
}

/// A list of locks on one line.
fn list(takes: &[seamlock_kvm::locks::Take]) -> String {
    if takes.is_empty() {
        return "no lock".to_owned();
    }
    let names: Vec<String> = takes.iter().map(ToString::to_string).collect();
    names.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::expect;

    fn survey(name: &str) -> Survey {
        Survey::of(discipline::by_name(name).expect("a discipline")).expect("the machine boots")
    }

    fn plain(text: &str) -> String {
        anstream::adapter::strip_str(text).to_string()
    }

    /// Without the source lines, which change with every edit.
    fn tree(discipline: &str, call: &str) -> String {
        let survey = survey(discipline);
        let call = find(&survey, call).expect("a call");
        assert!(plain(&text::call(&survey, call)).contains("observed  the same"));
        format!("{}\n{}", call.name, text::tree(&call.tree, false))
    }

    #[test]
    fn v7_3_takes_slots_lock_inside_of_the_vcpu_mutexes() {
        expect![[r#"
            KVM_TDX_INIT_MEM_REGION
              kvm->lock
                vcpu->mutex × 2
                  kvm->slots_lock
                    preempt off
                      irqs off, 2 times                       TDH.VP.FLUSH
                    mmap_lock, 2 times
                    filemap_invalidate_lock (write), 2 times  TDH.VP.WR, TDH.MR.EXTEND × 32
                      kvm->mmu_lock (read), 3 times           TDH.MEM.SEPT.ADD × 3, TDH.MEM.PAGE.ADD × 2
        "#]].assert_eq(&tree("v7.3", "KVM_TDX_INIT_MEM_REGION"));
    }

    #[test]
    fn the_seed_takes_slots_lock_outside_of_the_vcpu_mutexes() {
        expect![[r#"
            KVM_TDX_INIT_MEM_REGION
              kvm->lock
                kvm->slots_lock
                  vcpu->mutex × 2
                    preempt off
                      irqs off, 2 times                       TDH.VP.FLUSH
                    filemap_invalidate_lock (write), 2 times  TDH.VP.WR, TDH.MR.EXTEND × 32
                      mmap_lock, 2 times
                      kvm->mmu_lock (read), 3 times           TDH.MEM.SEPT.ADD × 3, TDH.MEM.PAGE.ADD × 2
        "#]].assert_eq(&tree("seed", "KVM_TDX_INIT_MEM_REGION"));
    }

    #[test]
    fn v6_16_takes_no_more_than_its_own_mutex_and_slots_lock() {
        expect![[r#"
            KVM_TDX_INIT_MEM_REGION
              vcpu->mutex
                preempt off
                  irqs off, 2 times                         TDH.VP.FLUSH
                kvm->slots_lock                             TDH.VP.WR
                  kvm->mmu_lock (read)
                  filemap_invalidate_lock (write), 2 times  TDH.MEM.PAGE.ADD × 2, TDH.MR.EXTEND × 32
                    mmap_lock, 2 times
                    kvm->mmu_lock (read), 2 times           TDH.MEM.SEPT.ADD × 3
        "#]]
        .assert_eq(&tree("v6.16", "KVM_TDX_INIT_MEM_REGION"));
    }

    #[test]
    fn the_default_discipline_breaks_no_rule_and_the_seed_does() {
        assert!(plain(&text::all(&survey("v7.3"))).contains("lockdep: nothing found"));
        let seed = plain(&text::all(&survey("seed")));
        assert!(seed.contains("lock order inversion against the declared order"));
        assert!(seed.contains("possible circular locking dependency"));
        assert!(seed.contains("arch/x86/avic.rs"));
    }

    #[test]
    fn json_says_what_the_text_says() {
        let survey = survey("seed");
        let all: serde_json::Value =
            serde_json::from_str(&json::all(&survey).expect("json")).expect("json");
        let calls = all["calls"].as_array().expect("calls");
        let row = calls
            .iter()
            .find(|call| call["call"] == "KVM_TDX_INIT_MEM_REGION");
        let observed = &row.expect("a row")["observed"];
        assert_eq!(observed[0], "kvm->lock");
        assert_eq!(observed[1], "kvm->slots_lock");
        assert_eq!(observed[2], "vcpu->mutex");
        let breaches = all["breaches"].as_array().expect("breaches");
        let inversion = breaches.iter().find(|b| b["holding"] == "kvm->slots_lock");
        let inversion = inversion.expect("an inversion");
        assert_eq!(
            inversion["rule"],
            "lock order inversion against the declared order"
        );
        assert_eq!(inversion["taking"], "vcpu->mutex");
        assert_eq!(inversion["declared"][0]["source"], "locking.rst");
    }

    #[test]
    fn the_graph_has_the_declared_order_and_in_red_what_breaks_it() {
        let v7_3 = dot::graph(&survey("v7.3"));
        assert!(v7_3.contains("\"kvm->lock\" -> \"vcpu->mutex\""));
        assert!(!v7_3.contains("color = red"));
        let seed = dot::graph(&survey("seed"));
        let red = "\"kvm->slots_lock\" -> \"vcpu->mutex\" [color = red";
        assert!(seed.contains(red), "{seed}");
    }

    #[test]
    fn a_call_that_does_not_exist_is_refused_with_what_there_is() {
        let survey = survey("v7.3");
        let error = find(&survey, "INIT_MEM_REGION")
            .expect_err("not a whole name")
            .to_string();
        assert!(
            error.ends_with("there is KVM_TDX_INIT_MEM_REGION"),
            "{error}"
        );
        assert!(find(&survey, "kvm_run").is_ok());
    }
}
