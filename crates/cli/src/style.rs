//! Colours. `anstream` drops them when the output is not a terminal or `NO_COLOR` is set.

use anstyle::{AnsiColor, Style};

/// Something failed.
pub const BAD: Style = AnsiColor::Red.on_default().bold();
/// Something is as it should be.
pub const GOOD: Style = AnsiColor::Green.on_default().bold();
/// A heading.
pub const HEAD: Style = Style::new().bold();
/// What matters less.
pub const DIM: Style = Style::new().dimmed();
