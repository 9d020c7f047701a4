//! Programs in the Debian root.
//!
//! Each runs in mount and process namespaces of its own, so that nothing stays mounted and nothing keeps
//! running, however it ends. Its `/dev` has no `kvm`.

use std::fmt::Display;
use std::fs::{self, File, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, kill_process};

/// Mounts what a program needs into the root (`$1`), with `$2` as its `/tmp`, and runs the rest. The shell
/// stays: as process 1 it has to reap whatever a daemon leaves behind.
const ENTER: &str = r#"
set -e
root=$1 work=$2
shift 2
mount -t proc proc "$root/proc"
mount --rbind /sys "$root/sys"
mount -t tmpfs -o mode=755 tmpfs "$root/dev"
for name in null zero full random urandom tty; do
  : >"$root/dev/$name"
  mount --bind "/dev/$name" "$root/dev/$name"
done
mkdir "$root/dev/pts" "$root/dev/shm"
mount -t devpts -o newinstance,ptmxmode=0666,mode=0620 devpts "$root/dev/pts"
mount -t tmpfs tmpfs "$root/dev/shm"
ln -s pts/ptmx "$root/dev/ptmx"
ln -s /proc/self/fd "$root/dev/fd"
mount --bind "$work" "$root/tmp"
chroot "$root" "$@" || exit $?
"#;

/// A root and the directory that is its `/tmp`.
#[derive(Debug)]
pub struct Jail {
    root: PathBuf,
    work: PathBuf,
}

/// Something that runs.
#[derive(Debug)]
pub struct Running {
    child: Child,
    since: Instant,
}

impl Jail {
    /// A jail in `root` with an empty `/tmp`, which is gone with it.
    pub fn new(root: &Path) -> Result<Jail> {
        let work = std::env::temp_dir().join(format!("seamlock-clients-{}", std::process::id()));
        let _ = fs::remove_dir_all(&work);
        fs::create_dir_all(&work)?;
        // As any /tmp: apt, for one, does its work as a user of its own.
        fs::set_permissions(&work, Permissions::from_mode(0o1777))?;
        Ok(Jail {
            root: root.to_path_buf(),
            work,
        })
    }

    /// Its `/tmp`, seen from outside.
    pub fn tmp(&self) -> &Path {
        &self.work
    }

    /// A command in it, with nothing of our environment.
    pub fn command(&self, args: &[&str]) -> Command {
        // Whatever happens to us, nothing stays.
        let mut command = Command::new("setpriv");
        command
            .args(["--pdeathsig", "KILL", "unshare"])
            .args(["--mount", "--propagation", "private"])
            .args(["--pid", "--fork", "--kill-child", "sh", "-c", ENTER, "sh"])
            .args([&self.root, &self.work])
            .args(args)
            .env_clear()
            .env(
                "PATH",
                "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            )
            .env("HOME", "/root")
            .env("LC_ALL", "C.UTF-8")
            .env("TERM", "dumb")
            .env("DEBIAN_FRONTEND", "noninteractive")
            .stdin(Stdio::null());
        command
    }

    /// Starts a command, whose output goes to a file.
    pub fn start(&self, args: &[&str], output: &Path) -> Result<Running> {
        let file = File::create(output)?;
        let child = self
            .command(args)
            .stdout(file.try_clone()?)
            .stderr(file)
            .spawn()
            .context("starting setpriv")?;
        Ok(Running {
            child,
            since: Instant::now(),
        })
    }
}

impl Drop for Jail {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.work);
    }
}

impl Running {
    /// The exit status, once it ended.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// How long it runs by now.
    pub fn age(&self) -> Duration {
        self.since.elapsed()
    }

    /// Sends the program a signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        // The child is unshare, its child the shell, and that one's the program.
        for shell in children(self.child.id())? {
            for pid in children(shell)?.into_iter().filter_map(Pid::from_raw) {
                // It may have ended meanwhile.
                let _ = kill_process(pid, signal);
            }
        }
        Ok(())
    }

    /// Ends everything in it at once.
    pub fn kill(&mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }
}

/// The processes whose parent is `parent`.
fn children(parent: impl Display) -> Result<Vec<i32>> {
    let parent = parent.to_string();
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let Ok(pid) = entry?.file_name().to_string_lossy().parse::<i32>() else {
            continue;
        };
        // Processes end while we look.
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        // `pid (name) state ppid …`, and a name may hold anything.
        let ppid = stat
            .rsplit(')')
            .next()
            .and_then(|rest| rest.split_whitespace().nth(1));
        if ppid.is_some_and(|ppid| ppid == parent) {
            found.push(pid);
        }
    }
    Ok(found)
}
