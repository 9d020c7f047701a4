//! Real threads on one module: locks keep its promises.

mod hammer;

use std::time::Duration;

use hammer::threads::Stress;

#[test]
fn threads_that_meet_inside_leave_locks_and_pages_in_order() {
    let stress = Stress {
        threads: 4,
        time: Duration::from_secs(2),
        seed: 1,
    };
    match stress.run() {
        Ok(report) => {
            let tally = report.tally;
            println!("{} SEAMCALLs, {} audits", tally.seamcalls, tally.audits);
            let met = tally
                .statuses
                .iter()
                .filter(|((_, status), _)| status.class() == 2);
            assert_ne!(met.count(), 0, "threads never met inside the module");
        }
        Err(violation) => panic!("{violation}"),
    }
}
