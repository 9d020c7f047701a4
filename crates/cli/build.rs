//! There for `OUT_DIR`: by it, `seamlock_embed` finds the library that was built along.
fn main() {
    println!("cargo::rerun-if-changed=build.rs");
}
