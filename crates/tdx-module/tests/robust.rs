//! Arbitrary and half-valid calls in arbitrary states: the module answers all of them.

mod hammer;

use hammer::run::{Runner, Tally};
use hammer::step::Step;
use proptest::prelude::*;
use seamlock_tdx_abi::leaf::Leaf;
use seamlock_tdx_module::tdh::LEAVES;

/// Lists of steps; leaving steps out leaves a list that means something.
fn lists(most: usize) -> impl Strategy<Value = Vec<Step>> {
    let step = any::<[u8; Step::BYTES]>().prop_map(Step::from_bytes);
    proptest::collection::vec(step, 0..most)
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 192,
        max_shrink_iters: 20_000,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn every_call_is_answered_and_leaves_locks_and_pages_in_order(
        seed in 0..1024u64,
        steps in lists(600),
    ) {
        let done = Runner::new(seed, true).run(steps.into_iter());
        prop_assert!(done.is_ok(), "{}", done.unwrap_err());
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 96,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn a_host_that_writes_over_the_pages_of_tds_breaks_no_lock(
        seed in 0..1024u64,
        steps in lists(600),
    ) {
        let done = Runner::new(seed, true).corrupting().run(steps.into_iter());
        prop_assert!(done.is_ok(), "{}", done.unwrap_err());
    }
}

/// Leaves that only refuse in a module that is ready, or that it does not have in full.
const ONLY_REFUSE: &[Leaf] = &[
    Leaf::SYS_INIT,
    Leaf::SYS_LP_INIT,
    Leaf::SYS_CONFIG,
    Leaf::SYS_KEY_CONFIG,
    Leaf::SYS_UPDATE,
];

#[test]
fn random_hosts_reach_every_leaf_of_a_tds_life() {
    let mut all = Tally::default();
    for seed in 0..14 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let steps = (0..4_000).map(|_| Step::random(&mut rng));
        match Runner::new(seed, true).run(steps) {
            Ok(tally) => all.add(&tally),
            Err(violation) => panic!("seed {seed}: {violation}"),
        }
    }
    for leaf in LEAVES.iter().filter(|leaf| !ONLY_REFUSE.contains(leaf)) {
        let succeeded = all.leaves.get(leaf).map_or(0, |(_, succeeded)| *succeeded);
        assert_ne!(
            succeeded, 0,
            "{leaf} never succeeds: the test does not get there"
        );
    }
    assert!(all.guest_acts > 1_000, "{} guest acts", all.guest_acts);
    println!("{} SEAMCALLs, {} guest acts", all.seamcalls, all.guest_acts);
}
