//! KVM's own tests, from the kernel's source as Debian packages it.
//!
//! Most run code in a virtual machine that is no TD, which seamlock does not do; what is left are the tests
//! of the ioctls themselves.

use std::fmt;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::cache::Cache;
use super::jail::Jail;
use super::root::Root;

/// The source package.
pub const PACKAGE: &str = "linux-source-7.3";
/// Where the suite that has it is.
const SUITE: &str = "trixie-backports";
/// What building needs.
const TOOLS: &[&str] = &[
    "gcc",
    "make",
    "libc6-dev",
    "rsync",
    "libcap-dev",
    "uuid-dev",
    "xz-utils",
];
/// Parts of the source that the tests are built from.
const PARTS: &[&str] = &[
    "Kbuild",
    "Kconfig",
    "Makefile",
    "arch/x86",
    "drivers/dma/idxd",
    "drivers/dma/ioat",
    "drivers/net/ethernet/intel",
    "include",
    "scripts",
    "tools",
    "usr/include",
];
/// The tests in the source.
const TESTS: &str = "tools/testing/selftests/kvm";
/// How long one may take.
const LIMIT: Duration = Duration::from_secs(20);
/// The exit code of a test that skips itself.
const SKIPPED: i32 = 4;

/// How a test ended.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// It passed.
    Passed,
    /// It wants something that is not there.
    Skipped(String),
    /// It failed at this check.
    Failed(String),
}

/// The tests, and the version of their source.
#[derive(Debug)]
pub struct Selftests {
    /// The version of the package.
    pub version: String,
    /// By name.
    pub verdicts: Vec<(String, Verdict)>,
}

impl fmt::Display for Selftests {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let show = |(name, verdict): &(String, Verdict)| match verdict {
            Verdict::Passed => format!("pass {name}\n"),
            Verdict::Skipped(why) => format!("skip {name}: {why}\n"),
            Verdict::Failed(why) => format!("fail {name}: {why}\n"),
        };
        self.verdicts
            .iter()
            .try_for_each(|test| f.write_str(&show(test)))
    }
}

/// Builds the tests once, and runs them. None when the source can't be had.
pub fn run(cache: &Cache, root: &Root) -> Result<Option<Selftests>> {
    let built = match cache.keep(&format!("{PACKAGE}-kvm-1"), |dir| build(root, dir)) {
        Ok(built) => built,
        Err(error) if error.is::<Unreachable>() => {
            println!("skipped: KVM's selftests, {error:#}");
            return Ok(None);
        }
        Err(error) => return Err(error),
    };
    let version = fs::read_to_string(built.join("version"))?;
    let jail = root.jail()?;
    let mut verdicts = Vec::new();
    for name in tests_in(&built)? {
        let to = jail.tmp().join("test");
        // A file of its own for each: one that was killed may still be executed for a moment.
        let _ = fs::remove_file(&to);
        fs::copy(built.join("tests").join(&name), &to)?;
        verdicts.push((name.clone(), run_test(&jail).with_context(|| name.clone())?));
    }
    Ok(Some(Selftests { version, verdicts }))
}

/// The archive gave no source.
#[derive(Debug)]
struct Unreachable;

impl fmt::Display for Unreachable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PACKAGE} can't be had")
    }
}

impl std::error::Error for Unreachable {}

/// Builds the tests into `dir`: `tests/` and the version of the source.
fn build(root: &Root, dir: &Path) -> Result<()> {
    println!("clients: building KVM's selftests, which takes two minutes");
    let sources = fs::read_to_string(root.path("etc/apt/sources.list"))?;
    let backports = sources.replace(" sid ", &format!(" {SUITE} "));
    fs::write(root.path("etc/apt/sources.list.d/kernel.list"), backports)?;
    if let Err(error) = root.must(&["apt-get", "update", "--quiet"]) {
        return Err(error.context(Unreachable));
    }
    let mut install = vec!["apt-get", "install", "--quiet", "--yes"];
    install.extend(TOOLS);
    root.must(&install)?;
    let place = "/var/tmp/kernel";
    let parts: Vec<String> = PARTS
        .iter()
        .map(|part| format!("{PACKAGE}/{part}"))
        .collect();
    let script = format!(
        "set -e; rm -rf {place}; mkdir {place}; cd {place}; apt-get download --quiet {PACKAGE}
         dpkg-deb --field *.deb Version >version; dpkg-deb --extract *.deb package
         tar --extract --file package/usr/src/{PACKAGE}.tar.xz {}
         make --silent --directory={PACKAGE} headers
         make --silent --directory={PACKAGE}/{TESTS} --jobs=2",
        parts.join(" ")
    );
    root.must(&["sh", "-c", &script])?;
    fs::create_dir_all(dir.join("tests"))?;
    fs::copy(root.path(place).join("version"), dir.join("version"))?;
    collect(
        &root.path(place).join(PACKAGE).join(TESTS),
        "",
        &dir.join("tests"),
    )?;
    Ok(fs::remove_dir_all(root.path(place))?)
}

/// Copies the programs below a directory; `x86/a` becomes `x86 a`.
fn collect(from: &Path, prefix: &str, to: &Path) -> Result<()> {
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
        let data = entry.metadata()?;
        if data.is_dir() {
            collect(&entry.path(), &format!("{name} "), to)?;
        } else if data.permissions().mode() & 0o100 != 0 && is_program(&entry.path())? {
            fs::copy(entry.path(), to.join(name))?;
        }
    }
    Ok(())
}

fn is_program(path: &Path) -> Result<bool> {
    Ok(fs::read(path)?.starts_with(b"\x7fELF"))
}

fn tests_in(built: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(built.join("tests"))? {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}

fn run_test(jail: &Jail) -> Result<Verdict> {
    let output = jail.tmp().join("output");
    let args = ["seamlock", "run", "--quiet", "--", "/tmp/test"];
    let mut running = jail.start(&args, &output)?;
    let status = loop {
        if let Some(status) = running.ended()? {
            break status;
        }
        if running.age() > LIMIT {
            running.kill()?;
            return Ok(Verdict::Failed(format!(
                "runs for more than {} s",
                LIMIT.as_secs()
            )));
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    let text = fs::read(&output)?;
    let text = String::from_utf8_lossy(&text);
    Ok(match status.code() {
        Some(0) => Verdict::Passed,
        Some(SKIPPED) => Verdict::Skipped(why_skipped(&text)),
        Some(_) => Verdict::Failed(why_failed(&text)),
        None => bail!("{status}"),
    })
}

fn why_skipped(text: &str) -> String {
    let line = text.lines().find(|line| line.contains("SKIP"));
    let why = line.and_then(|line| line.split("SKIP").nth(1));
    let why = why.unwrap_or(text.lines().last().unwrap_or_default());
    let why = why.trim_start_matches([' ', '-']);
    why.trim_start_matches("Requirement not met: ").to_owned()
}

/// The message of the assertion that failed: after its place, its processes and its stack.
fn why_failed(text: &str) -> String {
    let mut lines = text
        .lines()
        .skip_while(|line| !line.contains("Test Assertion Failure"));
    let Some(_) = lines.next() else {
        return text.lines().last().unwrap_or_default().trim().to_owned();
    };
    let place = lines.next().unwrap_or_default().trim();
    let is_message = |line: &&str| {
        let line = line.trim_start();
        !line.starts_with("pid=") && !line.starts_with(|c: char| c.is_ascii_digit())
    };
    let mut errno = None;
    let mut seen = lines.inspect(|line| {
        let told = line.trim_start().strip_prefix("pid=");
        errno = errno.or_else(|| told?.split(" - ").nth(1));
    });
    let message = seen.find(is_message).unwrap_or_default().trim();
    match message
        .strip_prefix("(stack trace empty)")
        .unwrap_or(message)
    {
        "" => match errno {
            Some(errno) => format!("{place}, {errno}"),
            None => place.to_owned(),
        },
        message => message.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reason_is_found_in_what_a_test_prints() {
        let failed = "Random seed: 0x1\n==== Test Assertion Failure ====\n  include/kvm_util.h:791: !ret\n  \
                      pid=1 tid=1 errno=22 - Invalid argument\n     1\t0x401 at a.c:3\n     2\t0x402: b\n  \
                      KVM_GET_SREGS failed, rc: -1 errno: 22 (Invalid argument)\n";
        let why = "KVM_GET_SREGS failed, rc: -1 errno: 22 (Invalid argument)";
        assert_eq!(why_failed(failed), why);
        assert_eq!(why_failed("a\nlast words\n"), "last words");
        let silent = "==== Test Assertion Failure ====\n  a.c:7: !ret\n  pid=1 tid=2 errno=38 - No function\n";
        assert_eq!(why_failed(silent), "a.c:7: !ret, No function");
        let skipped = "1..0 # SKIP - Requirement not met: kvm_has_cap(KVM_CAP_X)\n";
        assert_eq!(why_skipped(skipped), "kvm_has_cap(KVM_CAP_X)");
        assert_eq!(
            why_skipped("1..0 # SKIP - No file.  Is it on?\n"),
            "No file.  Is it on?"
        );
    }
}
