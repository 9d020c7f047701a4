//! Bytes as steps of hosts and guests that misbehave: SEAMCALLs, TDCALLs and exits in whatever state the
//! steps before have led to. The first two bytes say how the machine behaves; the rest are steps of eight
//! bytes each. The body is that of the property test, `crates/tdx-module/tests/robust.rs`.

#![no_main]

#[path = "../../crates/tdx-module/tests/hammer/mod.rs"]
mod hammer;

use hammer::run::Runner;
use hammer::step::Step;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Some(([low, high], steps)) = bytes.split_first_chunk() else {
        return;
    };
    let seed = u64::from(*low);
    let mut runner = Runner::new(seed, true);
    if high & 1 != 0 {
        runner = runner.corrupting();
    }
    if let Err(violation) = runner.run(Step::all_from_bytes(steps)) {
        panic!("{violation}");
    }
});
