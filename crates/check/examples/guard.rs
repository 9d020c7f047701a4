//! Runs the guard scenario: `guard POLICY VCPUS [full] [finalize] [create] [flush] [walks]`.

use std::time::Instant;

use seamlock_check::programs::guard::{Guard, Policy};
use seamlock_check::{Options, Setup, Verdict, check};

#[expect(clippy::disallowed_methods, reason = "a measurement")]
fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let has = |word: &str| args.iter().any(|arg| arg == word);
    let policies = [
        Policy::Before,
        Policy::Slots,
        Policy::Guard,
        Policy::NoCheck,
        Policy::NoVcpus,
        Policy::GuardSlots,
    ];
    let policy = policies.into_iter().find(|policy| has(&policy.to_string()));
    let policy = policy.unwrap_or(Policy::Guard);
    let vcpus = args.iter().find_map(|arg| arg.parse().ok()).unwrap_or(4);
    let size = if has("full") {
        Guard::full
    } else {
        Guard::small
    };
    let model = Guard {
        finalize: has("finalize"),
        create: has("create"),
        flush: has("flush"),
        ..size(policy, vcpus)
    };
    let mut options = Options::default();
    if !has("walks") {
        options.walks.clear();
    }
    options.random = !has("stay");
    let started = Instant::now();
    let report = check(&|setup: &mut Setup| model.build(setup), &options);
    let seconds = started.elapsed().as_secs_f64();
    match report {
        Ok(report) => {
            let effort = report.effort;
            let runs = effort.executions + effort.walks;
            println!("{}", report.verdict);
            if let Verdict::Refuted(example) = &report.verdict {
                print!("{example}");
            }
            println!(
                "{policy} vcpus={vcpus}: {runs} executions in {:.1} ms, {:.0} per second, {:.1} M \
                 events per second, longest {}, closed form {:?}",
                seconds * 1e3,
                runs as f64 / seconds,
                effort.events as f64 / seconds / 1e6,
                effort.longest,
                model.traces(),
            );
        }
        Err(error) => println!("{error}"),
    }
}
