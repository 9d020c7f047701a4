//! Writes down which kernel function each function of this crate stands for, as its documentation says,
//! so that a place in the source can be shown to people by the kernel's name of it.

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

fn main() -> io::Result<()> {
    println!("cargo::rerun-if-changed=src");
    let mut files = Vec::new();
    collect(Path::new("src"), &mut files)?;
    // As text, which is how they are looked for.
    files.sort_by_key(|file| name_of(file));
    let mut table = String::from("&[\n");
    for file in files {
        let rows = functions(&fs::read_to_string(&file)?);
        if !rows.is_empty() {
            let _ = writeln!(table, "    ({:?}, &{rows:?}),", name_of(&file));
        }
    }
    table.push(']');
    let out = std::env::var_os("OUT_DIR").ok_or(io::ErrorKind::NotFound)?;
    fs::write(Path::new(&out).join("kernel_functions.rs"), table)
}

fn name_of(file: &Path) -> String {
    file.to_string_lossy().replace('\\', "/")
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, files)?;
        } else if path.extension().is_some_and(|ext| ext == "rs") {
            files.push(path);
        }
    }
    Ok(())
}

/// The line of each function, and the kernel's name of it if its documentation begins with one.
fn functions(source: &str) -> Vec<(u32, String)> {
    let mut rows = Vec::new();
    let mut docs = String::new();
    for (number, line) in (1..).zip(source.lines()) {
        let line = line.trim_start();
        if let Some(doc) = line.strip_prefix("///") {
            docs += doc;
            continue;
        }
        if declares_function(line) {
            rows.push((number, kernel_name(&docs).unwrap_or_default()));
        }
        if !line.starts_with("#[") {
            docs.clear();
        }
    }
    // Of several functions in a row that stand for none, the first is enough.
    rows.dedup_by(|next, before| next.1.is_empty() && before.1.is_empty());
    rows
}

fn declares_function(line: &str) -> bool {
    let before = line.split("fn ").next().unwrap_or_default();
    line.contains("fn ")
        && before.split_whitespace().all(|word| {
            word.starts_with("pub") || ["const", "async", "super)", "crate)"].contains(&word)
        })
}

/// `/// ``tdx_vcpu_load``: …`
fn kernel_name(docs: &str) -> Option<String> {
    let (name, _) = docs.trim_start().strip_prefix('`')?.split_once('`')?;
    let name = name.trim_end_matches("()");
    let known = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    (name.contains('_') && name.chars().all(known)).then(|| name.to_owned())
}
