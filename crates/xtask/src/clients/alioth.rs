//! alioth-cli, a VMM in Rust.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Result, bail};

use super::cache::Cache;
use super::case::{Case, Until};
use super::qemu::IMAGES;

/// The version that is installed.
pub const VERSION: &str = "0.12.0";
/// The crate.
pub const CRATE: &str = "alioth-cli";

/// Builds it once, and says where it is. What it does does not depend on how well it is compiled.
pub fn build(cache: &Cache) -> Result<PathBuf> {
    let built = cache.keep(&format!("{CRATE}-{VERSION}"), |dir| {
        println!("clients: building {CRATE}, which takes a minute");
        let target = dir.join("target");
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let output = Command::new(cargo)
            .args(["install", "--locked", CRATE, "--version", VERSION, "--root"])
            .arg(dir)
            .env("CARGO_TARGET_DIR", &target)
            .env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "0")
            .env("CARGO_PROFILE_RELEASE_LTO", "off")
            .env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "16")
            .env("CARGO_PROFILE_RELEASE_DEBUG", "0")
            .output()?;
        if !output.status.success() {
            bail!("{CRATE}: {}", String::from_utf8_lossy(&output.stderr));
        }
        Ok(std::fs::remove_dir_all(target)?)
    })?;
    Ok(built.join("bin/alioth"))
}

/// Its launch. It wants a terminal, which `script` gives it.
pub fn cases() -> Vec<Case> {
    let (package, firmware) = IMAGES[0];
    let alioth = format!("alioth boot --coco tdx,attr=0x10000000 -f {firmware} -m size=512M");
    vec![Case {
        name: format!("alioth, {package}, 1 vCPU, 512 MiB"),
        client: CRATE,
        command: ["script", "-qec", &alioth, "/dev/null"]
            .map(str::to_owned)
            .to_vec(),
        files: Vec::new(),
        firmware,
        memory: 512,
        vcpus: 1,
        tds: 1,
        script: "fatal 0 done\n",
        until: Until::GuestEnds,
        // It gives KVM_TDX_INIT_VCPU the address of the hand-off blocks' address.
        warnings: 1,
        options: Vec::new(),
        checks: Vec::new(),
        does: "",
    }]
}
