//! A root directory with Debian sid and the VMMs in it.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use anyhow::{Context, Result, bail};

use super::cache::Cache;
use super::jail::Jail;

/// What is installed. QEMU 11 and libvirt 12 know TDX; the image of the firmware with secure boot is in
/// a package of its own.
const PACKAGES: &[&str] = &[
    "qemu-system-x86",
    "ovmf",
    "ovmf-inteltdx",
    "libvirt-daemon-driver-qemu",
    "systemd-container",
    "dbus-daemon",
    "openssh-client",
    // seamlock's own.
    "libssl3t64",
];

/// The name in the cache. Another list of packages needs another name.
const NAME: &str = "sid-1";

/// A root that can be used.
#[derive(Debug)]
pub struct Root {
    path: PathBuf,
}

/// What became of it.
#[derive(Debug)]
pub enum Prepared {
    /// It is there.
    Ready(Root),
    /// It can't be had here, for this reason.
    Skipped(String),
}

impl Root {
    /// Finds the root in the cache, or makes it.
    pub fn prepare(cache: &Cache) -> Result<Prepared> {
        if !cache.place(NAME).exists() {
            println!("clients: making a Debian root, which takes two minutes");
        }
        let mut unreachable = false;
        let made = cache.keep(NAME, |dir| {
            let base = bootstrap(dir)?;
            unreachable = base.is_none();
            base.context("Debian's archive can't be reached")?;
            install(&Root { path: dir.into() })
        });
        match made {
            Ok(path) => Ok(Prepared::Ready(Root { path })),
            Err(error) if unreachable => Ok(Prepared::Skipped(error.to_string())),
            Err(error) => Err(error),
        }
    }

    /// A path in it, from outside.
    pub fn path(&self, inside: &str) -> PathBuf {
        self.path.join(inside.trim_start_matches('/'))
    }

    /// A jail in it.
    pub fn jail(&self) -> Result<Jail> {
        Jail::new(&self.path)
    }

    /// Puts a program into it.
    pub fn put(&self, program: &Path, inside: &str) -> Result<()> {
        let to = self.path(inside);
        let beside = to.with_extension("new");
        fs::copy(program, &beside).with_context(|| format!("copying {}", program.display()))?;
        Ok(fs::rename(beside, to)?)
    }

    /// Runs a command in it that has to succeed.
    pub fn must(&self, args: &[&str]) -> Result<String> {
        let output = self.jail()?.command(args).output()?;
        if !output.status.success() {
            bail!("{}: {}\n{}", args.join(" "), output.status, said(&output));
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// The version of a package.
    pub fn version(&self, package: &str) -> Result<String> {
        let version = self.must(&["dpkg-query", "--show", "--showformat=${Version}", package])?;
        Ok(version.trim().to_owned())
    }
}

/// Why no root can be used on this machine, as far as that shows without trying.
pub fn hindrance(cache: &Cache) -> Option<String> {
    if !cache.place(NAME).exists() && !has("debootstrap", "--version") {
        return Some("debootstrap is not installed".to_owned());
    }
    if fs::metadata("/proc/self").map_or(true, |own| own.uid() != 0) {
        return Some("a Debian root needs root".to_owned());
    }
    let namespaces = [
        "--mount",
        "--propagation",
        "private",
        "--pid",
        "--fork",
        "true",
    ];
    let output = Command::new("unshare").args(namespaces).output();
    match output {
        Ok(output) if output.status.success() => None,
        Ok(output) => Some(format!("no namespaces: {}", said(&output).trim())),
        Err(error) => Some(format!("unshare: {error}")),
    }
}

/// Whether a program is installed.
fn has(program: &str, probe: &str) -> bool {
    Command::new(program)
        .arg(probe)
        .output()
        .is_ok_and(|output| output.status.success())
}

/// Installs the base system. None when the archive can't be reached.
fn bootstrap(dir: &Path) -> Result<Option<()>> {
    let output = Command::new("debootstrap")
        .args(["--variant=minbase", "sid"])
        .arg(dir)
        .output()?;
    match said(&output) {
        _ if output.status.success() => Ok(Some(())),
        text if text.contains("Failed getting release file") => Ok(None),
        text => bail!("debootstrap: {}\n{text}", output.status),
    }
}

/// Installs the VMMs.
fn install(root: &Root) -> Result<()> {
    // A mirror may be a snapshot of a day long gone.
    let settings = "Acquire::Check-Valid-Until \"false\";\nAPT::Install-Recommends \"false\";\n";
    fs::write(root.path("etc/apt/apt.conf.d/90seamlock"), settings)?;
    // A root that is cut off by a power failure is made again.
    fs::write(
        root.path("etc/dpkg/dpkg.cfg.d/seamlock"),
        "force-unsafe-io\n",
    )?;
    root.must(&["apt-get", "update", "--quiet"])?;
    let mut install = vec!["apt-get", "install", "--quiet", "--yes"];
    install.extend(PACKAGES);
    root.must(&install)?;
    root.must(&["apt-get", "clean"])?;
    Ok(())
}

/// All that a program said.
fn said(output: &Output) -> String {
    let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.push_str(&String::from_utf8_lossy(&output.stderr));
    text
}
