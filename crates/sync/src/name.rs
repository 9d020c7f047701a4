//! Names of locks and cells.
//!
//! A checker has to know the same object again in another run of the same program, so an object is
//! named by what it is (`TDR` at a host physical address, `vcpu->mutex` of vCPU 3), never by a counter
//! or an address of the process.

use std::fmt;
use std::hash::{Hash, Hasher};

/// What a lock or a cell is, apart from which one it is: `kvm->lock`, `TDR`, `slots_lock`.
///
/// Classes are declared as statics by the crate that has the lock. Two classes are the same when
/// their names are.
#[derive(Debug)]
pub struct Class {
    name: &'static str,
    hash: u64,
}

impl Class {
    /// Declares a class. The name is the one the field uses.
    pub const fn new(name: &'static str) -> Class {
        let bytes = name.as_bytes();
        let mut hash = 0xcbf2_9ce4_8422_2325_u64;
        let mut i = 0;
        while i < bytes.len() {
            hash = (hash ^ bytes[i] as u64).wrapping_mul(0x0100_0000_01b3);
            i += 1;
        }
        Class { name, hash }
    }

    /// The class's name.
    pub const fn name(&self) -> &'static str {
        self.name
    }

    /// The only instance of a class that has one.
    pub const fn only(&'static self) -> Name {
        Name {
            class: self,
            a: 0,
            b: 0,
        }
    }

    /// The instance that `a` tells apart, for example by host physical address.
    pub const fn at(&'static self, a: u64) -> Name {
        Name {
            class: self,
            a,
            b: 0,
        }
    }

    /// The instance that two numbers tell apart, for example a VM and a vCPU id.
    pub const fn of(&'static self, a: u64, b: u64) -> Name {
        Name { class: self, a, b }
    }
}

impl PartialEq for Class {
    fn eq(&self, other: &Class) -> bool {
        self.hash == other.hash && self.name == other.name
    }
}

impl Eq for Class {}

/// Which lock or cell: a class and the numbers that tell its instances apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Name {
    /// What it is.
    pub class: &'static Class,
    /// First number: a host physical address, or the number of a VM.
    pub a: u64,
    /// Second number: a guest physical address with its level, or the number of a vCPU.
    pub b: u64,
}

impl Name {
    /// A number that is the same for the same name in every run.
    pub fn fingerprint(&self) -> u64 {
        let mut h = self.class.hash;
        for part in [self.a, self.b] {
            h = (h ^ part).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            h ^= h >> 29;
        }
        h
    }
}

impl Hash for Name {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.fingerprint());
    }
}

impl PartialOrd for Name {
    fn partial_cmp(&self, other: &Name) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Name {
    fn cmp(&self, other: &Name) -> std::cmp::Ordering {
        (self.class.name, self.a, self.b).cmp(&(other.class.name, other.a, other.b))
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.class.name)?;
        if self.a != 0 || self.b != 0 {
            write!(f, "[{:#x}", self.a)?;
            if self.b != 0 {
                write!(f, ",{:#x}", self.b)?;
            }
            f.write_str("]")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    static TDR: Class = Class::new("TDR");
    static TDR_AGAIN: Class = Class::new("TDR");
    static KOT: Class = Class::new("KOT");

    #[test]
    fn a_name_is_what_it_names_and_not_where_its_class_was_declared() {
        assert_eq!(TDR.at(0x1000), TDR_AGAIN.at(0x1000));
        assert_eq!(
            TDR.at(0x1000).fingerprint(),
            TDR_AGAIN.at(0x1000).fingerprint()
        );
        assert_ne!(TDR.at(0x1000), TDR.at(0x2000));
        assert_ne!(TDR.only(), KOT.only());
        assert_ne!(TDR.of(1, 2).fingerprint(), TDR.of(2, 1).fingerprint());
    }

    #[test]
    fn names_print_as_class_and_instance() {
        assert_eq!(KOT.only().to_string(), "KOT");
        assert_eq!(TDR.at(0x4020_0000).to_string(), "TDR[0x40200000]");
        assert_eq!(TDR.of(1, 3).to_string(), "TDR[0x1,0x3]");
    }
}
