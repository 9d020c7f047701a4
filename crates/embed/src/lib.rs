//! Puts the bytes of the preload library into the binary that is built with it, so that a binary that
//! was installed alone can still be worn.
//!
//! `seamlock run` needs `libseamlock_preload.so`. The command line depends on its crate, so cargo has
//! built the library when it compiles the binary; this macro finds the file and includes it. Where code
//! is only checked (`cargo check`, `cargo clippy`) there is no file, and nothing is included: a build
//! script, which runs before either, could not tell.

#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};

use proc_macro::TokenStream;

/// The library's file name.
const LIBRARY: &str = "libseamlock_preload.so";

/// The bytes of the library as a `&[u8]`; empty where it was not built.
///
/// The crate that uses it needs a build script, so that cargo tells where it builds (`OUT_DIR`).
#[proc_macro]
pub fn preload_library(_: TokenStream) -> TokenStream {
    let out = std::env::var_os("OUT_DIR").map(PathBuf::from);
    let library = out.as_deref().and_then(find);
    let text = match library.as_deref().and_then(Path::to_str) {
        Some(path) => format!("include_bytes!({path:?})"),
        None => "&[]".to_owned(),
    };
    text.parse().unwrap_or_default()
}

/// The library in the `deps` of one of the directories above.
fn find(out: &Path) -> Option<PathBuf> {
    out.ancestors()
        .map(|dir| dir.join("deps").join(LIBRARY))
        .find(|path| path.is_file())
}
