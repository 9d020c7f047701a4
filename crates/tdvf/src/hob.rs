//! The TD HOB: the list of hand-off blocks that tells the firmware which memory it has.
//!
//! ```text
//! every block            hand-off info table (56)    resource descriptor (48)
//! 0 u16 type             8  u32 version = 9          8  u8[16] owner GUID = 0
//! 2 u16 length           12 u32 boot mode = 0        24 u32 resource type
//! 4 u32 reserved = 0     16 u64 memory top = 0       28 u32 resource attributes
//!                        24 u64 memory bottom = 0    32 u64 first address
//! end of list (8):       32 u64 free top = 0         40 u64 bytes
//! the header alone       40 u64 free bottom = 0
//!                        48 u64 end of the list
//! ```
//!
//! The hand-off info table is first, resource descriptors follow by ascending address, the end of
//! the list is last; the table's last field is the guest address behind it. Added pages are system
//! memory, all other RAM is unaccepted memory (type 7): the firmware has to accept it before use.
//! Source: UEFI PI 1.8 volume 3 chapter 5; TD-shim specification "TD HOB" (which fields are 0).
//! OVMF's section isn't measured into MRTD: the firmware measures the list itself, into RTMR 0.

use crate::{MemoryLayout, Region};

/// `EFI_HOB_TYPE_HANDOFF`.
pub const TYPE_HANDOFF: u16 = 1;
/// `EFI_HOB_TYPE_RESOURCE_DESCRIPTOR`.
pub const TYPE_RESOURCE_DESCRIPTOR: u16 = 3;
/// `EFI_HOB_TYPE_END_OF_HOB_LIST`.
pub const TYPE_END_OF_LIST: u16 = 0xffff;
/// `EFI_HOB_HANDOFF_TABLE_VERSION`.
pub const HANDOFF_VERSION: u32 = 9;
/// `EFI_RESOURCE_ATTRIBUTE_PRESENT | INITIALIZED | TESTED`.
pub const ATTRIBUTES_RAM: u32 = 7;

const HANDOFF_LEN: u16 = 56;
const RESOURCE_LEN: u16 = 48;
const END_LEN: u16 = 8;

/// What a range of RAM is when the firmware begins to run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RamState {
    /// Added before the launch: `EFI_RESOURCE_SYSTEM_MEMORY`.
    Added,
    /// To be accepted by the guest: `EFI_RESOURCE_MEMORY_UNACCEPTED`.
    Unaccepted,
}

impl RamState {
    /// The resource type of its descriptor.
    pub const fn resource_type(self) -> u32 {
        match self {
            Self::Added => 0,
            Self::Unaccepted => 7,
        }
    }
}

/// A range of RAM.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RamRange {
    /// First guest physical address.
    pub gpa: u64,
    /// Bytes, more than 0.
    pub size: u64,
    /// What it is.
    pub state: RamState,
}

/// All RAM, ascending and without gaps inside of a memslot: added regions as such, the rest
/// unaccepted. The regions are disjoint and each lies in one memslot (a plan's do).
pub fn memory_map(memory: &MemoryLayout, regions: &[Region]) -> Vec<RamRange> {
    let mut added: Vec<_> = regions.iter().map(|r| (r.gpa, r.end())).collect();
    added.sort_unstable();
    let mut map = Vec::new();
    for slot in memory.ram_slots() {
        let mut at = slot.gpa;
        for &(gpa, end) in added.iter().filter(|(gpa, end)| slot.contains(*gpa, *end)) {
            push(&mut map, at, gpa, RamState::Unaccepted);
            push(&mut map, gpa, end, RamState::Added);
            at = end;
        }
        push(&mut map, at, slot.end(), RamState::Unaccepted);
    }
    map
}

fn push(map: &mut Vec<RamRange>, gpa: u64, end: u64, state: RamState) {
    if gpa < end {
        map.push(RamRange {
            gpa,
            size: end - gpa,
            state,
        });
    }
}

/// One resource descriptor: type, attributes, first address, bytes.
pub(crate) type Resource = (u32, u32, u64, u64);

/// The list for a hand-off area at `gpa`.
pub fn list(gpa: u64, map: &[RamRange]) -> Vec<u8> {
    let resource = |range: &RamRange| {
        let kind = range.state.resource_type();
        (kind, ATTRIBUTES_RAM, range.gpa, range.size)
    };
    encode(gpa, &map.iter().map(resource).collect::<Vec<_>>())
}

/// The list of these resources, for a hand-off area at `gpa`.
pub(crate) fn encode(gpa: u64, resources: &[Resource]) -> Vec<u8> {
    let descriptors = resources.len() * usize::from(RESOURCE_LEN);
    let len = usize::from(HANDOFF_LEN) + descriptors + usize::from(END_LEN);
    let mut out = Vec::with_capacity(len);
    header(&mut out, TYPE_HANDOFF, HANDOFF_LEN);
    out.extend_from_slice(&HANDOFF_VERSION.to_le_bytes());
    out.extend_from_slice(&[0; 4 + 4 * 8]);
    out.extend_from_slice(&(gpa + len as u64).to_le_bytes());
    for (kind, attributes, first, size) in resources {
        header(&mut out, TYPE_RESOURCE_DESCRIPTOR, RESOURCE_LEN);
        out.extend_from_slice(&[0; 16]);
        out.extend_from_slice(&kind.to_le_bytes());
        out.extend_from_slice(&attributes.to_le_bytes());
        out.extend_from_slice(&first.to_le_bytes());
        out.extend_from_slice(&size.to_le_bytes());
    }
    header(&mut out, TYPE_END_OF_LIST, END_LEN);
    out
}

fn header(out: &mut Vec<u8>, kind: u16, len: u16) {
    out.extend_from_slice(&kind.to_le_bytes());
    out.extend_from_slice(&len.to_le_bytes());
    out.extend_from_slice(&[0; 4]);
}
