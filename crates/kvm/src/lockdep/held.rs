//! What a thread holds, and how.

use std::fmt;
use std::panic::Location;

use seamlock_sync::{Action, Class, Name, Op};

use crate::locks::{self, Kind, LockClass};

/// How a lock is held or wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mode {
    /// Alone: a mutex, or a reader-writer lock for writing.
    Exclusive,
    /// Together with other readers.
    Shared,
    /// Inside of a section that has no lock of its own.
    Inside,
    /// Waiting for everybody who is inside to leave (`synchronize_srcu`); held for no time.
    Wait,
}

impl Mode {
    /// What is written behind the lock's name; nothing where there is only one way to hold it.
    pub fn suffix(self, kind: Kind) -> &'static str {
        match (self, kind) {
            (Mode::Exclusive, Kind::Rwsem | Kind::Spin) => " (write)",
            (Mode::Shared, _) => " (read)",
            (Mode::Wait, _) => " (synchronize)",
            _ => "",
        }
    }

    /// Whether who already reads may come in again without waiting, so that two readers never wait
    /// for each other.
    pub(super) fn is_recursive_read(self) -> bool {
        self == Mode::Inside
    }

    pub(super) fn is_read(self) -> bool {
        matches!(self, Mode::Shared | Mode::Inside)
    }
}

/// One lock, as it is taken at one place.
#[derive(Clone, Copy, Debug)]
pub struct Acquisition {
    /// Which lock.
    pub name: Name,
    /// What is declared of its class.
    pub class: &'static LockClass,
    /// How.
    pub mode: Mode,
    /// Apart from which class, at which depth (`SINGLE_DEPTH_NESTING` is 1).
    pub subclass: u8,
    /// The lock that makes several of this class safe to hold, if the place names one.
    pub nest: Option<Name>,
    /// Whether it was tried and not waited for.
    pub tried: bool,
    /// Where in the source.
    pub site: &'static Location<'static>,
}

impl Acquisition {
    /// The acquisition that an operation is; None when it takes none of KVM's locks.
    pub fn of(op: &Op) -> Option<Acquisition> {
        let mode = match op.action {
            Action::Lock | Action::LockKillable | Action::TryLock => Mode::Exclusive,
            Action::LockShared => Mode::Shared,
            Action::Enter => Mode::Inside,
            _ => return None,
        };
        Acquisition::new(op, mode)
    }

    pub(super) fn new(op: &Op, mode: Mode) -> Option<Acquisition> {
        let subclass = if mode == Mode::Exclusive {
            op.arg as u8
        } else {
            0
        };
        Some(Acquisition {
            name: op.name,
            class: locks::class_of(op.name.class)?,
            mode,
            subclass,
            nest: op.nest,
            tried: op.action == Action::TryLock,
            site: op.site,
        })
    }

    /// The class as a node of the observed graph.
    pub(super) fn node(&self) -> Node {
        Node {
            class: self.class.class,
            subclass: self.subclass,
        }
    }

    /// The lock's class, how it is taken, and its depth if that is not 0.
    pub fn title(&self) -> String {
        format!("{}{}", self.node(), self.mode.suffix(self.class.kind))
    }

    /// File and line.
    pub fn place(&self) -> String {
        format!("{}:{}", self.site.file(), self.site.line())
    }
}

impl fmt::Display for Acquisition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let instance = self.name.to_string();
        let instance = instance
            .strip_prefix(self.name.class.name())
            .unwrap_or_default();
        write!(f, "{}{instance}", self.node())?;
        write!(
            f,
            "{} at {}",
            self.mode.suffix(self.class.kind),
            self.place()
        )
    }
}

/// A class at a depth: what the observed order is among.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Node {
    /// The class.
    pub class: &'static Class,
    /// The depth.
    pub subclass: u8,
}

impl Ord for Node {
    fn cmp(&self, other: &Node) -> std::cmp::Ordering {
        (self.class.name(), self.subclass).cmp(&(other.class.name(), other.subclass))
    }
}

impl PartialOrd for Node {
    fn partial_cmp(&self, other: &Node) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Display for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.class.name())?;
        if self.subclass != 0 {
            write!(f, "/{}", self.subclass)?;
        }
        Ok(())
    }
}

/// The locks of one thread, outermost first.
#[derive(Clone, Debug, Default)]
pub struct Held(Vec<Acquisition>);

impl Held {
    /// What is held, outermost first.
    pub fn stack(&self) -> &[Acquisition] {
        &self.0
    }

    pub(super) fn push(&mut self, taken: Acquisition) {
        self.0.push(taken);
    }

    /// Takes the latest hold of this lock away; locks need not be given back in reverse.
    pub(super) fn remove(&mut self, name: Name) -> Option<Acquisition> {
        let at = self.0.iter().rposition(|held| held.name == name)?;
        Some(self.0.remove(at))
    }

    pub(super) fn clear(&mut self) -> Vec<Acquisition> {
        std::mem::take(&mut self.0)
    }
}
