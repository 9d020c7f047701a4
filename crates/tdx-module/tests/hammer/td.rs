//! What a host notes about one TD.

use std::collections::BTreeMap;

use super::machine::{KINDS, Kind};

/// How far a TD is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// It has an HKID.
    Created,
    /// Its key is programmed.
    Keyed,
    /// It has its parameters.
    Building,
    /// Its measurement is final.
    Runnable,
    /// Its HKID is blocked.
    Flushed,
    /// Its HKID is free again.
    Torn,
}

/// A vCPU.
#[derive(Clone, Copy, Debug)]
pub struct Vcpu {
    /// TDVPR.
    pub tdvpr: u64,
    /// Pages, the TDVPR counted.
    pub pages: u32,
    /// VP.INIT was done.
    pub ready: bool,
    /// The logical processor that it is associated with.
    pub lp: Option<u32>,
}

/// A page or table in the secure EPT.
#[derive(Clone, Copy, Debug)]
pub struct Mapped {
    /// Its host address.
    pub pa: u64,
    /// It is a table.
    pub table: bool,
    /// It is blocked.
    pub blocked: bool,
}

/// A TD.
#[derive(Clone, Debug)]
pub struct Td {
    /// TDR.
    pub tdr: u64,
    /// HKID.
    pub hkid: u64,
    /// Index of its kind.
    pub kind: usize,
    /// How far it is.
    pub stage: Stage,
    /// The host has decided to tear it down.
    pub doomed: bool,
    /// Calls about it that were refused since the last that was not.
    pub refusals: u32,
    /// It has pages that are not in the notes.
    pub lost_pages: bool,
    /// TDCS pages.
    pub tdcx: u32,
    /// vCPUs.
    pub vcpus: Vec<Vcpu>,
    /// Its secure EPT, by level and guest address: tables are noted at the level of the entry that
    /// points to them.
    pub sept: BTreeMap<(u8, u64), Mapped>,
}

impl Td {
    /// A TD just created.
    pub fn new(tdr: u64, hkid: u64) -> Td {
        Td {
            tdr,
            hkid,
            kind: (tdr >> 12) as usize % KINDS.len(),
            stage: Stage::Created,
            doomed: false,
            refusals: 0,
            lost_pages: false,
            tdcx: 0,
            vcpus: Vec::new(),
            sept: BTreeMap::new(),
        }
    }

    /// What it is asked to be.
    pub fn kind(&self) -> Kind {
        KINDS[self.kind]
    }

    /// TDCS pages that it needs.
    pub fn tdcx_needed(&self) -> u32 {
        6 + u32::from(self.kind().l2_vms)
    }

    /// TDVPS pages that each vCPU needs.
    pub fn tdvps_needed(&self) -> u32 {
        6 + 3 * u32::from(self.kind().l2_vms)
    }

    /// The vCPU with this TDVPR.
    pub fn vcpu(&mut self, tdvpr: u64) -> Option<&mut Vcpu> {
        self.vcpus.iter_mut().find(|vcpu| vcpu.tdvpr == tdvpr)
    }

    /// The highest level whose table is missing for `gpa`; None when level `down_to` can be mapped.
    pub fn missing_table(&self, gpa: u64, down_to: u8) -> Option<u8> {
        let levels = (down_to + 1..self.kind().levels).rev();
        let mut missing = levels.filter(|level| {
            let at = self.sept.get(&(*level, start(gpa, *level)));
            !at.is_some_and(|mapped| mapped.table)
        });
        missing.next()
    }
}

impl Td {
    /// A blocked table on the way to what maps `gpa` at `level`.
    pub fn blocked_table(&self, gpa: u64, level: u8) -> Option<u8> {
        (level + 1..self.kind().levels).find(|level| {
            let at = self.sept.get(&(*level, start(gpa, *level)));
            at.is_some_and(|mapped| mapped.table && mapped.blocked)
        })
    }
}

/// The first address of the range that an entry of `level` maps.
pub fn start(gpa: u64, level: u8) -> u64 {
    gpa & !((1 << (12 + 9 * u32::from(level))) - 1)
}
