//! What a VMM wears: a directory with the library and its settings, gone after the run.

use std::ffi::OsString;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use seamlock_wear::{SETTINGS_FILE, Settings};

/// The library, as it was built with this binary.
const LIBRARY: &[u8] = seamlock_embed::preload_library!();
/// Its file name.
const LIBRARY_FILE: &str = "libseamlock_preload.so";

/// The directory of a run. The library finds its settings beside itself, so whoever keeps LD_PRELOAD
/// needs to keep nothing else; a VMM may run as another user, and writes its record here.
#[derive(Debug)]
pub struct Dress {
    dir: PathBuf,
}

impl Dress {
    /// Lays everything out.
    pub fn new(settings: &Settings) -> Result<Dress> {
        let dress = Dress { dir: fresh_dir()? };
        if LIBRARY.is_empty() {
            bail!("this binary was built without {LIBRARY_FILE}; build it with `cargo build`");
        }
        let library = dress.dir.join(LIBRARY_FILE);
        fs::write(&library, LIBRARY).with_context(|| format!("writing {}", library.display()))?;
        fs::set_permissions(&library, Permissions::from_mode(0o755))?;
        fs::write(
            dress.dir.join(SETTINGS_FILE),
            serde_json::to_vec_pretty(settings)?,
        )?;
        // As /tmp: everybody may write, nobody may remove what is another's.
        fs::set_permissions(&dress.dir, Permissions::from_mode(0o1777))?;
        Ok(dress)
    }

    /// Where the records are.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The value of LD_PRELOAD: ours, before what was there.
    pub fn preload(&self) -> OsString {
        let mut value = self.dir.join(LIBRARY_FILE).into_os_string();
        if let Some(others) = std::env::var_os("LD_PRELOAD").filter(|others| !others.is_empty()) {
            value.push(":");
            value.push(others);
        }
        value
    }
}

impl Drop for Dress {
    fn drop(&mut self) {
        // What can't be removed is in the temporary directory, where it does no harm.
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// A directory of our own, that nobody made before us.
fn fresh_dir() -> Result<PathBuf> {
    let base = std::env::temp_dir();
    for attempt in 0..1000 {
        let dir = base.join(format!("seamlock-{}-{attempt}", std::process::id()));
        match fs::create_dir(&dir) {
            Ok(()) => return Ok(dir),
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error).with_context(|| format!("creating {}", dir.display())),
        }
    }
    bail!("no free name for a directory in {}", base.display())
}
