//! What `seamlock run` and the library inside the VMM tell each other.
//!
//! One way goes [`Settings`], a file that the library finds beside itself: a VMM's parent may drop the
//! environment (libvirt does), but whoever keeps LD_PRELOAD keeps the library's path. The other way go
//! [`Event`]s, one JSON line each, in a file per process; they are there however the VMM ends.

#![forbid(unsafe_code)]

mod crash;
mod event;
mod inject;
mod line;
mod pages;
mod record;
mod settings;
mod summary;

pub use crash::Crash;
pub use event::{Count, Event, Parameters, Refusal, Region};
pub use inject::{Injection, Target, Which};
pub use line::{Line, Span, write_perfetto};
pub use pages::{Calls, Contents, Digests, Op, Run};
pub use record::{Record, read_records, read_traces};
pub use settings::{SETTINGS_FILE, SETTINGS_VARIABLE, Settings};
pub use summary::{Process, Refused, Step, Summary, Vm};
