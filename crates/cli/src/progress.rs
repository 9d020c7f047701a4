//! Progress bars: on standard error, when it is a terminal, and only for work that takes a while.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// How often a bar is drawn at the most.
const PER_SECOND: u8 = 10;

/// A bar over bytes.
pub fn bytes(what: &'static str) -> ProgressBar {
    bar(what, "{prefix} [{bar:30}] {bytes}/{total_bytes} {msg}")
}

/// A bar over things that are counted.
pub fn count(what: &'static str, total: u64) -> ProgressBar {
    let bar = bar(what, "{prefix} [{bar:30}] {pos}/{len} {msg}");
    bar.set_length(total);
    bar
}

fn bar(what: &'static str, template: &str) -> ProgressBar {
    // A bar that is hidden on anything but a terminal, by indicatif itself.
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr_with_hz(PER_SECOND));
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style.progress_chars("=> "));
    }
    bar.set_prefix(what);
    bar.enable_steady_tick(Duration::from_millis(500));
    bar
}
