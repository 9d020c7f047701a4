//! All recorded corpora, where they are at hand: `../shared` next to the project.

use std::path::Path;

use seamlock_vectors::{Options, replay};

#[test]
fn every_recorded_call_is_answered_as_it_was() {
    let all = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/vectors/seamcall");
    if !all.is_dir() {
        println!("skipped: ../shared/vectors/seamcall is not there");
        return;
    }
    let report = replay(&[all], &Options::default(), &mut ());
    assert!(report.passed(), "\n{report}");
}
