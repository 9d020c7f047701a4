//! Arbitrary ioctls, for a short while: see `examples/ioctl_fuzz.rs` for longer runs.

#![allow(clippy::disallowed_methods)] // threads that meet

mod fuzz;

#[test]
fn arbitrary_ioctls_of_one_thread_break_nothing() {
    for seed in 1..=2 {
        let tally = fuzz::run(seed, 1, 10_000, true);
        assert_eq!(tally.wrong, Vec::<String>::new(), "seed {seed}");
        assert!(tally.done > 500 && tally.refused.len() > 8, "{tally:?}");
    }
}

#[test]
fn the_same_seed_does_the_same() {
    let run = || format!("{:?}", fuzz::run(7, 1, 5_000, false));
    assert_eq!(run(), run());
}

#[test]
fn arbitrary_ioctls_of_threads_that_share_descriptors_break_nothing() {
    let tally = fuzz::run(5, 4, 4_000, true);
    assert_eq!(tally.wrong, Vec::<String>::new());
    assert!(tally.done > 500 && tally.refused.len() > 8, "{tally:?}");
}
