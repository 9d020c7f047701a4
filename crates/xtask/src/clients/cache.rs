//! Where the VMMs are kept from one run to the next.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// The cache. What is in it is complete: it is made beside its place, and renamed when it is done.
#[derive(Debug)]
pub struct Cache {
    dir: PathBuf,
}

impl Cache {
    /// Opens the cache in a directory, or in the user's.
    pub fn open(dir: Option<&Path>) -> Result<Cache> {
        let dir = match dir {
            Some(dir) => dir.to_path_buf(),
            None => users()?.join("seamlock/clients"),
        };
        fs::create_dir_all(&dir).with_context(|| format!("creating {}", dir.display()))?;
        let dir = dir.canonicalize()?;
        Ok(Cache { dir })
    }

    /// Where something is kept, whether it is there or not.
    pub fn place(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Makes something, unless it is there already. `make` gets a directory that does not exist yet.
    pub fn keep(&self, name: &str, make: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
        let place = self.place(name);
        if place.exists() {
            return Ok(place);
        }
        let partial = self.place(&format!("{name}.{}", std::process::id()));
        let made = make(&partial).and_then(|()| Ok(fs::rename(&partial, &place)?));
        if made.is_err() {
            // Somebody else may have made the same; otherwise the error says what went wrong.
            let _ = fs::remove_dir_all(&partial);
        }
        match made {
            Err(error) if !place.exists() => Err(error),
            _ => Ok(place),
        }
    }
}

/// The user's cache directory.
fn users() -> Result<PathBuf> {
    if let Some(dir) = std::env::var_os("XDG_CACHE_HOME").filter(|dir| !dir.is_empty()) {
        return Ok(dir.into());
    }
    let home = std::env::var_os("HOME").context("neither XDG_CACHE_HOME nor HOME is set")?;
    Ok(Path::new(&home).join(".cache"))
}
