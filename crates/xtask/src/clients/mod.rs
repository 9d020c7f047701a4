//! `cargo xtask clients`: unmodified VMMs as clients of seamlock.

mod alioth;
mod cache;
mod case;
mod check;
mod crash;
mod exits;
mod jail;
mod libvirt;
mod qemu;
mod render;
mod root;
mod selftests;
mod vmspawn;

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, anyhow, bail};

use cache::Cache;
use case::{Case, Outcome};
use render::Settle;
use root::{Prepared, Root};

/// Run unmodified VMMs under `seamlock run`, and compare each TD's MRTD with the firmware's.
///
/// Needs root and, the first time, a network and debootstrap: the VMMs are Debian sid's, in a root
/// directory that is kept in the cache. Where that can't be had, the chore says so and does nothing.
#[derive(Debug, clap::Args)]
pub struct Clients {
    /// Where the VMMs are kept [default: seamlock/clients in the user's cache]
    #[arg(long, value_name = "DIR")]
    cache: Option<PathBuf>,
    /// Run the cases whose name contains this, and leave docs/clients.md alone
    #[arg(long, value_name = "TEXT")]
    only: Option<String>,
    /// Run KVM's selftests only, and leave docs/clients.md alone
    #[arg(long, conflicts_with_all = ["only", "write", "check"])]
    selftests: bool,
    /// Write docs/clients.md anew
    #[arg(long)]
    write: bool,
    /// Fail when docs/clients.md is not what this run gives, unless the versions differ
    #[arg(long, conflicts_with = "write")]
    check: bool,
}

impl Clients {
    /// Runs all clients.
    pub fn run(&self) -> Result<()> {
        let cache = Cache::open(self.cache.as_deref())?;
        if let Some(why) = root::hindrance(&cache) {
            println!("skipped: clients, {why}");
            return Ok(());
        }
        // One waits for the network, the other for the processor.
        let (prepared, alioth) = std::thread::scope(|scope| {
            let alioth = scope.spawn(|| alioth::build(&cache));
            (Root::prepare(&cache), alioth.join())
        });
        let root = match prepared? {
            Prepared::Ready(root) => root,
            Prepared::Skipped(why) => {
                println!("skipped: clients, {why}");
                return Ok(());
            }
        };
        let alioth = alioth.map_err(|_| anyhow!("building {} panicked", alioth::CRATE))??;
        root.put(&alioth, "usr/local/bin/alioth")?;
        root.put(&built_seamlock()?, "usr/local/bin/seamlock")?;
        if self.selftests {
            let tests = selftests::run(&cache, &root)?;
            tests.iter().for_each(|tests| print!("{tests}"));
            return Ok(());
        }
        let outcomes = self.run_cases(&root)?;
        let failed = outcomes.iter().filter(|o| !o.faults.is_empty()).count();
        println!(
            "clients: {} passed, {failed} failed",
            outcomes.len() - failed
        );
        if self.only.is_none() && failed == 0 {
            let selftests = selftests::run(&cache, &root)?;
            render::settle(&root, &outcomes, selftests.as_ref(), self.settle())?;
        }
        if failed > 0 {
            bail!("{failed} clients failed");
        }
        Ok(())
    }

    fn settle(&self) -> Settle {
        match (self.write, self.check) {
            (true, _) => Settle::Write,
            (_, true) => Settle::Check,
            _ => Settle::Tell,
        }
    }

    fn run_cases(&self, root: &Root) -> Result<Vec<Outcome>> {
        let mut outcomes = Vec::new();
        for case in all_cases() {
            let wanted = self
                .only
                .as_ref()
                .is_none_or(|only| case.name.contains(only));
            if !wanted {
                continue;
            }
            let run = || case.run(root).with_context(|| case.name.clone());
            let mut outcome = run()?;
            for _ in 0..AGAIN {
                if !outcome.is_kicked_while_rebuilt() {
                    break;
                }
                for crash in outcome.crashes() {
                    println!(
                        "again  {}, QEMU was kicked while it rebuilt the VM: {crash}",
                        case.name
                    );
                }
                outcome = run()?;
            }
            println!("{outcome}");
            outcomes.push(outcome);
        }
        Ok(outcomes)
    }
}

/// How often a launch is tried again that hit a known race of its VMM.
const AGAIN: usize = 4;

fn all_cases() -> Vec<Case> {
    let mut cases = qemu::cases();
    cases.extend(exits::cases());
    cases.extend(alioth::cases());
    cases.extend(libvirt::cases());
    cases.extend(vmspawn::cases());
    cases
}

/// The binary of this checkout, built as a user would.
fn built_seamlock() -> Result<PathBuf> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = Command::new(cargo)
        .args(["build", "--release", "--quiet", "--package", "seamlock"])
        .current_dir(checkout())
        .status()?;
    if !status.success() {
        bail!("seamlock does not build");
    }
    // This program lies in a directory of the target directory, too.
    let me = std::env::current_exe()?;
    let target = me.ancestors().nth(2).context("a target directory")?;
    Ok(target.join("release/seamlock"))
}

/// The top of the checkout.
fn checkout() -> &'static Path {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).unwrap_or(here)
}
