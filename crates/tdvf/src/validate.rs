//! Whether a VMM and KVM could launch the sections of an image.
//!
//! The rules are those of the TD-shim specification (section table), of QEMU 11's loader and of
//! `KVM_TDX_INIT_MEM_REGION` (page aligned, private, backed by a memslot).

use crate::{
    Attributes, MemoryLayout, Metadata, PAGE_SIZE, Section, SectionAt, SectionFault, SectionKind,
    TdvfError,
};

/// Checks all sections; gives the first problem.
///
/// # Errors
/// The first of [`problems`].
pub fn validate(
    metadata: &Metadata,
    image_len: u64,
    memory: &MemoryLayout,
) -> Result<(), TdvfError> {
    problems(metadata, image_len, memory)
        .into_iter()
        .next()
        .map_or(Ok(()), Err)
}

/// All problems: at most one for each section by itself, in order, then those of the whole.
pub fn problems(metadata: &Metadata, image_len: u64, memory: &MemoryLayout) -> Vec<TdvfError> {
    let mut found = Vec::new();
    if image_len != memory.firmware_len() {
        found.push(TdvfError::ImageNotSlot {
            len: image_len,
            slot: memory.firmware_len(),
        });
    }
    let mut sound = Vec::new();
    for (index, section) in metadata.sections.iter().enumerate() {
        let at = SectionAt {
            index,
            kind: section.kind,
        };
        match check_section(section, image_len, memory) {
            Ok(()) => sound.push((at, *section)),
            Err(fault) => found.push(TdvfError::Section { at, fault }),
        }
    }
    found.extend(second_hobs(metadata));
    found.extend(overlaps(sound));
    if !metadata.sections.iter().any(|s| s.kind == SectionKind::BFV) {
        found.push(TdvfError::NoBfv);
    }
    found
}

/// The ranges of guest memory, for messages.
fn ram_text(memory: &MemoryLayout) -> String {
    let slots = memory.ram_slots();
    let ranges: Vec<_> = slots
        .iter()
        .map(|s| format!("{:#x} to {:#x}", s.gpa, s.end()))
        .collect();
    ranges.join(" and ")
}

fn check_section(
    section: &Section,
    image_len: u64,
    memory: &MemoryLayout,
) -> Result<(), SectionFault> {
    if section.kind.name().is_none() {
        return Err(SectionFault::UnknownKind(section.kind.0));
    }
    check_contents(section, image_len)?;
    check_attributes(section)?;
    if section.kind.is_informational() {
        return match section.mem_size {
            0 => Ok(()),
            size => Err(SectionFault::InformationWithMemory(size)),
        };
    }
    check_range(section, memory)
}

fn check_contents(section: &Section, image_len: u64) -> Result<(), SectionFault> {
    let Section {
        kind,
        data_offset: offset,
        raw_size,
        mem_size,
        ..
    } = *section;
    let wants_none = matches!(
        kind,
        SectionKind::TD_HOB | SectionKind::TEMP_MEM | SectionKind::PERM_MEM
    );
    if wants_none && raw_size != 0 {
        return Err(SectionFault::RawNotWanted(raw_size));
    }
    // A payload without contents is one that the VMM brings along; a launch of firmware has none.
    let needs_some = kind.is_flash() || kind == SectionKind::PAYLOAD;
    if needs_some && raw_size == 0 {
        return Err(SectionFault::RawMissing);
    }
    if u64::from(offset) + u64::from(raw_size) > image_len {
        return Err(SectionFault::DataOutOfImage {
            offset,
            raw_size,
            image_len,
        });
    }
    if mem_size == 0 && !kind.is_informational() {
        return Err(SectionFault::MemSizeZero);
    }
    if u64::from(raw_size) > mem_size && !kind.is_informational() {
        return Err(SectionFault::RawLargerThanMemory { raw_size, mem_size });
    }
    Ok(())
}

fn check_attributes(section: &Section) -> Result<(), SectionFault> {
    let Section {
        kind,
        attributes,
        raw_size,
        ..
    } = *section;
    let unknown = Attributes::unknown(attributes);
    if unknown != 0 {
        return Err(SectionFault::UnknownAttributes(unknown));
    }
    if !attributes.page_aug() {
        return Ok(());
    }
    let why = if raw_size != 0 {
        "raw_size is not 0"
    } else if attributes.mr_extend() {
        "MR.EXTEND is set too"
    } else if kind == SectionKind::TD_HOB {
        "the VMM fills a TD_HOB before the TD runs"
    } else {
        return Ok(());
    };
    Err(SectionFault::AugWithContents(why))
}

fn check_range(section: &Section, memory: &MemoryLayout) -> Result<(), SectionFault> {
    let Section {
        kind,
        gpa,
        mem_size,
        ..
    } = *section;
    let gpaw = memory.gpaw();
    if !mem_size.is_multiple_of(PAGE_SIZE) {
        return Err(SectionFault::MemSizeUnaligned(mem_size));
    }
    if !gpa.is_multiple_of(PAGE_SIZE) {
        return Err(SectionFault::GpaUnaligned(gpa));
    }
    let Some(end) = gpa.checked_add(mem_size) else {
        return Err(SectionFault::GpaOverflow {
            gpa,
            mem_size,
            end: gpaw.private_end(),
        });
    };
    if end > gpaw.end() {
        return Err(SectionFault::AboveGpaw {
            gpa,
            end,
            bits: gpaw.bits(),
        });
    }
    if end > gpaw.private_end() {
        return Err(SectionFault::SharedBit {
            gpa,
            end,
            bit: gpaw.shared_bit(),
        });
    }
    if kind.is_flash() {
        let slot = memory.firmware_slot();
        if !slot.contains(gpa, end) {
            return Err(SectionFault::OutsideFlash {
                gpa,
                end,
                low: slot.gpa,
            });
        }
    } else if !memory
        .ram_slots()
        .iter()
        .any(|slot| slot.contains(gpa, end))
    {
        return Err(SectionFault::OutsideRam {
            gpa,
            end,
            ram: ram_text(memory),
        });
    }
    Ok(())
}

fn second_hobs(metadata: &Metadata) -> Vec<TdvfError> {
    let mut hobs = metadata
        .sections
        .iter()
        .enumerate()
        .filter(|(_, s)| s.kind == SectionKind::TD_HOB);
    let Some((first, _)) = hobs.next() else {
        return Vec::new();
    };
    hobs.map(|(index, section)| TdvfError::Section {
        at: SectionAt {
            index,
            kind: section.kind,
        },
        fault: SectionFault::SecondTdHob(first),
    })
    .collect()
}

/// Neighbours in address order that share a page. The sections are sound each by itself, so no
/// sum overflows.
fn overlaps(mut sections: Vec<(SectionAt, Section)>) -> Vec<TdvfError> {
    sections.retain(|(_, s)| s.mem_size != 0);
    sections.sort_by_key(|(at, s)| (s.gpa, at.index));
    let mut found = Vec::new();
    let Some((mut reach, rest)) = sections.split_first().map(|(first, rest)| (*first, rest)) else {
        return found;
    };
    for &next in rest {
        if next.1.gpa < reach.1.gpa + reach.1.mem_size {
            let (other, this) = if reach.0.index < next.0.index {
                (reach, next)
            } else {
                (next, reach)
            };
            found.push(TdvfError::Section {
                at: this.0,
                fault: SectionFault::Overlap {
                    gpa: this.1.gpa,
                    end: this.1.gpa + this.1.mem_size,
                    other: other.0,
                    other_gpa: other.1.gpa,
                    other_end: other.1.gpa + other.1.mem_size,
                },
            });
        }
        if next.1.gpa + next.1.mem_size > reach.1.gpa + reach.1.mem_size {
            reach = next;
        }
    }
    found
}
