//! The guest's address space as QEMU's q35 machine lays it out.

use crate::{PAGE_SIZE, TdvfError};

const GIB: u64 = 1 << 30;
const FOUR_GIB: u64 = 4 * GIB;
/// From this much memory on, q35 keeps only [`LOW_RAM_WHEN_SPLIT`] below 4 GiB.
const SPLIT_FROM: u64 = 0xb000_0000;
const LOW_RAM_WHEN_SPLIT: u64 = 2 * GIB;
/// Smallest image in which the GUIDed table's footer has a place.
const MIN_IMAGE_LEN: u64 = PAGE_SIZE;

/// Largest firmware image, in bytes. Firmware ends at 4 GiB and the decoded flash window is the
/// last 16 MiB below it; under the window are the local APIC, the TPM and the I/O APIC.
pub const MAX_IMAGE_LEN: u64 = 16 << 20;

/// Checks the length of an image, so that a huge file can be refused before it is read.
///
/// # Errors
/// Empty, smaller than a page, larger than [`MAX_IMAGE_LEN`], not a whole number of pages.
pub fn check_image_len(len: u64) -> Result<(), TdvfError> {
    match len {
        0 => Err(TdvfError::ImageEmpty),
        1..MIN_IMAGE_LEN => Err(TdvfError::ImageTooShort { len }),
        _ if len > MAX_IMAGE_LEN => Err(TdvfError::ImageTooLarge { len }),
        _ if !len.is_multiple_of(PAGE_SIZE) => Err(TdvfError::ImageNotPages { len }),
        _ => Ok(()),
    }
}

/// Width of guest physical addresses (TD_PARAMS.GPAW); the top bit of it is the shared bit.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Gpaw {
    /// 48 bits, shared bit 47.
    #[default]
    Bits48,
    /// 52 bits, shared bit 51; needs 5-level EPT.
    Bits52,
}

impl Gpaw {
    /// The width in bits.
    pub const fn bits(self) -> u32 {
        match self {
            Self::Bits48 => 48,
            Self::Bits52 => 52,
        }
    }

    /// The number of the shared bit.
    pub const fn shared_bit(self) -> u32 {
        self.bits() - 1
    }

    /// First address that isn't private.
    pub const fn private_end(self) -> u64 {
        1 << self.shared_bit()
    }

    /// First address that does not exist.
    pub const fn end(self) -> u64 {
        1 << self.bits()
    }
}

/// What a memslot holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SlotKind {
    /// RAM from 0.
    LowRam,
    /// RAM from 4 GiB.
    HighRam,
    /// The firmware image, ending at 4 GiB.
    Firmware,
}

/// One memslot, for `KVM_SET_USER_MEMORY_REGION2`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Memslot {
    /// Its number, counted from 0.
    pub slot: u32,
    /// What it holds.
    pub kind: SlotKind,
    /// First guest physical address.
    pub gpa: u64,
    /// Bytes.
    pub size: u64,
}

impl Memslot {
    /// First address behind it.
    pub const fn end(&self) -> u64 {
        self.gpa + self.size
    }

    /// Whether `gpa..end` lies in it as a whole.
    pub const fn contains(&self, gpa: u64, end: u64) -> bool {
        self.gpa <= gpa && end <= self.end()
    }
}

/// Where RAM and firmware are. Values exist only for layouts that are possible.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MemoryLayout {
    gpaw: Gpaw,
    memory: u64,
    low_ram: u64,
    firmware: u64,
}

impl MemoryLayout {
    /// QEMU's q35: below 0xb0000000 (2.75 GiB) all RAM is at 0; from that size on 2 GiB are at 0
    /// and the rest is at 4 GiB (`hw/i386/pc_q35.c`). Firmware ends at 4 GiB. Sizes in bytes.
    ///
    /// # Errors
    /// A firmware size that [`check_image_len`] refuses; memory that is 0, not a whole number of
    /// pages, or would reach the shared half of the address space.
    pub fn q35(memory: u64, firmware_len: u64, gpaw: Gpaw) -> Result<Self, TdvfError> {
        check_image_len(firmware_len)?;
        if memory == 0 || !memory.is_multiple_of(PAGE_SIZE) {
            return Err(TdvfError::MemoryNotPages { memory });
        }
        let low_ram = if memory >= SPLIT_FROM {
            LOW_RAM_WHEN_SPLIT
        } else {
            memory
        };
        let limit = gpaw.private_end() - FOUR_GIB + LOW_RAM_WHEN_SPLIT;
        if memory > limit {
            return Err(TdvfError::MemoryTooLarge {
                memory,
                limit,
                gpaw: gpaw.bits(),
            });
        }
        Ok(Self {
            gpaw,
            memory,
            low_ram,
            firmware: firmware_len,
        })
    }

    /// Width of guest physical addresses.
    pub const fn gpaw(&self) -> Gpaw {
        self.gpaw
    }

    /// Bytes of RAM.
    pub const fn memory(&self) -> u64 {
        self.memory
    }

    /// Bytes of the firmware image.
    pub const fn firmware_len(&self) -> u64 {
        self.firmware
    }

    /// The memslot of the firmware.
    pub fn firmware_slot(&self) -> Memslot {
        let slot = if self.low_ram < self.memory { 2 } else { 1 };
        let gpa = FOUR_GIB - self.firmware;
        Memslot {
            slot,
            kind: SlotKind::Firmware,
            gpa,
            size: self.firmware,
        }
    }

    /// The memslots of RAM, ascending.
    pub fn ram_slots(&self) -> Vec<Memslot> {
        let mut slots = vec![Memslot {
            slot: 0,
            kind: SlotKind::LowRam,
            gpa: 0,
            size: self.low_ram,
        }];
        if self.low_ram < self.memory {
            let size = self.memory - self.low_ram;
            slots.push(Memslot {
                slot: 1,
                kind: SlotKind::HighRam,
                gpa: FOUR_GIB,
                size,
            });
        }
        slots
    }

    /// All memslots in the order in which QEMU makes them: low RAM, high RAM, firmware.
    pub fn memslots(&self) -> Vec<Memslot> {
        let mut slots = self.ram_slots();
        slots.push(self.firmware_slot());
        slots
    }
}
