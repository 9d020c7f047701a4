//! Numbers on the command line, and what is said of those that make no sense.

/// The most OS threads.
const MOST_JOBS: u64 = 1024;

/// Any number.
pub fn any(text: &str) -> Result<u64, String> {
    within(text, 0, u64::MAX)
}

/// A number of executions.
pub fn at_least_one(text: &str) -> Result<u64, String> {
    within(text, 1, u64::MAX)
}

/// A number of OS threads.
pub fn jobs(text: &str) -> Result<usize, String> {
    within(text, 1, MOST_JOBS).map(|jobs| jobs as usize)
}

fn within(text: &str, least: u64, most: u64) -> Result<u64, String> {
    match text.parse() {
        Ok(number) if (least..=most).contains(&number) => Ok(number),
        _ => Err(format!("a whole number from {least} to {most} is wanted")),
    }
}
