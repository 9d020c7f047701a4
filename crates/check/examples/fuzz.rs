//! Compares the checker with plain search: `fuzz COUNT [SEED] [locks|words] [LIMIT]`.

use seamlock_check::Faults;
use seamlock_check::fuzz::{Mix, compare_many};

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let numbers: Vec<u64> = args.iter().filter_map(|arg| arg.parse().ok()).collect();
    let number = |at: usize, default| numbers.get(at).copied().unwrap_or(default);
    let has = |word: &str| args.iter().any(|arg| arg == word);
    let mix = match () {
        () if has("locks") => Mix::Locks,
        () if has("words") => Mix::Words,
        () => Mix::Everything,
    };
    let summary = compare_many(
        number(1, 1),
        number(0, 2000),
        mix,
        number(2, 50_000),
        Faults::default(),
    );
    for mismatch in summary.mismatches.iter().take(5) {
        println!("{mismatch}");
    }
    println!("{mix:?}: {summary}");
    std::process::exit(i32::from(!summary.mismatches.is_empty()));
}
