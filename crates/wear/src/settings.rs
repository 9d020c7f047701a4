//! What a run was asked for.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// The settings' file name, in the directory of the library.
pub const SETTINGS_FILE: &str = "seamlock.json";
/// The environment variable that names a settings file elsewhere.
pub const SETTINGS_VARIABLE: &str = "SEAMLOCK_SETTINGS";

/// What a run was asked for. Everything has a default, so an empty object is a settings file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// The locking discipline of KVM, by name; empty for the default one.
    pub discipline: String,
    /// Logical processors of the machine.
    pub lps: u32,
    /// Bytes of the machine's memory.
    pub memory: u64,
    /// Where the records go; the settings file's directory when absent.
    pub records: Option<PathBuf>,
    /// The guest's script, see `docs/script.md`.
    pub script: Option<PathBuf>,
    /// What is made to fail, see `docs/run.md`.
    pub inject: Vec<String>,
    /// Record every ioctl and SEAMCALL.
    pub trace: bool,
    /// Record every lock too, and findings against their order.
    pub lockdep: bool,
    /// Say on stderr what fails and why, as it happens.
    pub verbose: bool,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            discipline: String::new(),
            lps: 64,
            memory: 64 << 30,
            records: None,
            script: None,
            inject: Vec::new(),
            trace: false,
            lockdep: false,
            verbose: false,
        }
    }
}

impl Settings {
    /// Reads a settings file. Records go to its directory unless it says otherwise.
    ///
    /// # Errors
    /// What is wrong with the file, as a sentence.
    pub fn read(path: &Path) -> Result<Settings, String> {
        let fail = |what: &dyn std::fmt::Display| format!("{}: {what}", path.display());
        let text = std::fs::read_to_string(path).map_err(|e| fail(&e))?;
        let mut settings: Settings = serde_json::from_str(&text).map_err(|e| fail(&e))?;
        if settings.records.is_none() {
            settings.records = path.parent().map(Path::to_path_buf);
        }
        Ok(settings)
    }

    /// Finds the settings: in the file that the variable names, else beside the library.
    ///
    /// # Errors
    /// As [`read`](Settings::read), when there is a file. Without one these are the defaults.
    pub fn find(variable: Option<&Path>, library: Option<&Path>) -> Result<Settings, String> {
        let beside = library
            .and_then(Path::parent)
            .map(|dir| dir.join(SETTINGS_FILE));
        match (variable, beside) {
            (Some(path), _) => Settings::read(path),
            (None, Some(path)) if path.exists() => Settings::read(&path),
            _ => Ok(Settings::default()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_variable_wins_over_the_library_and_both_over_the_defaults() {
        let dir = std::env::temp_dir().join(format!("seamlock-settings-{}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("a directory for the test");
        let named = dir.join("named.json");
        std::fs::write(&named, r#"{"lps": 2}"#).expect("writable");
        let library = dir.join("library.so");
        assert_eq!(
            Settings::find(None, Some(&library)),
            Ok(Settings::default())
        );
        std::fs::write(dir.join(SETTINGS_FILE), r#"{"lps": 3}"#).expect("writable");
        let of = |variable: Option<&Path>| {
            Settings::find(variable, Some(&library)).map(|s| (s.lps, s.records))
        };
        assert_eq!(of(None), Ok((3, Some(dir.clone()))));
        assert_eq!(of(Some(&named)), Ok((2, Some(dir.clone()))));
        assert!(of(Some(&dir.join("absent.json"))).is_err());
        std::fs::write(&named, r#"{"lsp": 2}"#).expect("writable");
        assert!(of(Some(&named)).is_err(), "an unknown setting is an error");
        std::fs::remove_dir_all(&dir).expect("removable");
    }
}
