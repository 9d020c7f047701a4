//! Every way in which an image can be broken has its own error, which names section and field.

use seamlock_tdvf::{
    Attributes, Gpaw, LaunchPlan, Location, MAX_IMAGE_LEN, MemoryLayout, Metadata, Section,
    SectionFault, SectionKind, TdvfError, builder::ImageBuilder, builtin, check_image_len,
    problems,
};

const BFV: usize = 0;
const CFV: usize = 1;
const TEMP_MEM: usize = 2;
const TD_HOB: usize = 4;
/// Where `builtin` and `ImageBuilder::new` put the footer's length and the entry's.
const FOOTER_LENGTH: usize = builtin::LEN - 32 - 18;
const ENTRY_LENGTH: usize = FOOTER_LENGTH - 18;

fn layout(memory: u64) -> MemoryLayout {
    MemoryLayout::q35(memory, builtin::LEN as u64, Gpaw::Bits48).unwrap()
}

fn plan(builder: ImageBuilder) -> Result<LaunchPlan, TdvfError> {
    LaunchPlan::new(&builder.build(), layout(256 << 20))
}

fn error(builder: ImageBuilder) -> TdvfError {
    plan(builder).expect_err("must be refused")
}

/// Applies `change` to a section of the built-in image; gives the fault, having checked that the
/// error is about that section and that its text is one line that names it.
fn fault(index: usize, change: impl FnOnce(&mut Section)) -> SectionFault {
    let error = error(builtin::builder().edit(index, change));
    let TdvfError::Section { at, fault } = &error else {
        panic!("{error}")
    };
    assert_eq!(at.index, index, "{error}");
    let text = error.to_string();
    assert!(
        text.starts_with(&format!("section {index} ({})", at.kind)),
        "{text}"
    );
    assert!(!text.contains('\n') && !text.contains("  "), "{text}");
    fault.clone()
}

#[test]
fn lengths_that_no_firmware_has_are_refused_before_reading() {
    assert_eq!(Metadata::parse(&[]), Err(TdvfError::ImageEmpty));
    assert_eq!(
        Metadata::parse(&[0; 4095]),
        Err(TdvfError::ImageTooShort { len: 4095 })
    );
    assert_eq!(
        check_image_len(1 << 30),
        Err(TdvfError::ImageTooLarge { len: 1 << 30 })
    );
    assert_eq!(check_image_len(MAX_IMAGE_LEN), Ok(()));
    assert_eq!(
        check_image_len(MAX_IMAGE_LEN - 1),
        Err(TdvfError::ImageNotPages { len: 0xff_ffff })
    );
    assert!(check_image_len(u64::MAX).is_err());
}

#[test]
fn memory_must_be_whole_pages_and_private() {
    let q35 = |memory| MemoryLayout::q35(memory, builtin::LEN as u64, Gpaw::Bits48);
    assert_eq!(q35(0), Err(TdvfError::MemoryNotPages { memory: 0 }));
    assert_eq!(q35(4097), Err(TdvfError::MemoryNotPages { memory: 4097 }));
    let limit = (1 << 47) - (2 << 30);
    assert!(q35(limit).is_ok());
    let memory = limit + 4096;
    assert_eq!(
        q35(memory),
        Err(TdvfError::MemoryTooLarge {
            memory,
            limit,
            gpaw: 48
        })
    );
    assert!(MemoryLayout::q35(memory, builtin::LEN as u64, Gpaw::Bits52).is_ok());
}

#[test]
fn an_image_without_metadata_says_which_part_is_missing() {
    assert_eq!(
        error(builtin::builder().location(None)),
        TdvfError::NoGuidTable
    );
    let other_entry = builtin::builder().patch(ENTRY_LENGTH + 2, [0; 16]);
    assert_eq!(error(other_entry), TdvfError::NoTdxEntry);
    let empty_table = builtin::builder().patch(FOOTER_LENGTH, [18, 0]);
    assert_eq!(error(empty_table), TdvfError::NoTdxEntry);
    let short_entry = builtin::builder().patch(ENTRY_LENGTH, [18, 0]);
    assert_eq!(error(short_entry), TdvfError::TdxEntryShort { len: 0 });
}

#[test]
fn the_entry_is_found_behind_others_and_not_in_their_data() {
    let plain = plan(builtin::builder()).unwrap();
    // The footer's own GUID and the bytes of an entry are only data here.
    let entry = builtin::builder().build()[ENTRY_LENGTH - 4..ENTRY_LENGTH + 18].to_vec();
    let others = builtin::builder()
        .entry([7; 16], entry)
        .entry([8; 16], [])
        .entry([9; 16], [0; 99]);
    assert_eq!(plan(others).unwrap().metadata, plain.metadata);
}

#[test]
fn lengths_in_the_table_must_fit() {
    for len in [0u16, 17] {
        let broken = builtin::builder().patch(FOOTER_LENGTH, len.to_le_bytes());
        assert!(
            matches!(error(broken), TdvfError::TableLength { .. }),
            "{len}"
        );
        let broken = builtin::builder().patch(ENTRY_LENGTH, len.to_le_bytes());
        assert!(
            matches!(error(broken), TdvfError::TableEntryLength { room: 22, .. }),
            "{len}"
        );
    }
    let broken = builtin::builder().patch(ENTRY_LENGTH, 23u16.to_le_bytes());
    assert!(matches!(
        error(broken),
        TdvfError::TableEntryLength {
            len: 23,
            room: 22,
            ..
        }
    ));
    let small = ImageBuilder::new(4096)
        .patch(4096 - 50, u16::MAX.to_le_bytes())
        .build();
    let refused = TdvfError::TableLength {
        len: 0xffff,
        room: 4096 - 32,
    };
    assert_eq!(Metadata::parse(&small), Err(refused));
}

#[test]
fn the_descriptor_must_lie_in_the_image() {
    let image_len = builtin::LEN as u64;
    for from_end in [0, 15, builtin::LEN as u32 + 1, u32::MAX] {
        let refused = TdvfError::DescriptorOffset {
            from_end,
            image_len,
        };
        assert_eq!(error(builtin::builder().pointer(from_end)), refused);
    }
    let at_the_end = builtin::builder().descriptor_at(builtin::LEN - 160).build();
    assert!(Metadata::parse(&at_the_end).is_err());
}

#[test]
fn header_fields_are_checked_one_by_one() {
    let offset = builtin::LEN - 0x400;
    let signature = builtin::builder().signature(*b"TDVX");
    assert_eq!(
        error(signature),
        TdvfError::Signature {
            offset,
            found: *b"TDVX"
        }
    );
    assert_eq!(
        error(builtin::builder().version(2)),
        TdvfError::Version { version: 2 }
    );
    assert_eq!(
        error(builtin::builder().count(0)),
        TdvfError::Count { count: 0 }
    );
    assert_eq!(
        error(builtin::builder().count(u32::MAX)),
        TdvfError::Count { count: u32::MAX }
    );
    let refused = TdvfError::Length {
        length: 15,
        count: 5,
        expected: 176,
    };
    assert_eq!(error(builtin::builder().length(15)), refused);
    let refused = TdvfError::Length {
        length: 176,
        count: 6,
        expected: 208,
    };
    assert_eq!(error(builtin::builder().count(6)), refused);
    let beyond = builtin::builder().count(40).length(16 + 40 * 32);
    assert!(matches!(
        error(beyond),
        TdvfError::DescriptorTruncated { room: 0x400, .. }
    ));
}

#[test]
fn an_image_for_another_layout_is_refused() {
    let layout = MemoryLayout::q35(1 << 30, 4096, Gpaw::Bits48).unwrap();
    let refused = TdvfError::ImageNotSlot {
        len: builtin::LEN as u64,
        slot: 4096,
    };
    assert_eq!(LaunchPlan::new(&builtin::image(), layout), Err(refused));
}

#[test]
fn types_and_attributes_without_a_meaning_are_refused() {
    assert_eq!(
        fault(TEMP_MEM, |s| s.kind = SectionKind(9)),
        SectionFault::UnknownKind(9)
    );
    let unknown = fault(BFV, |s| s.attributes = Attributes(0x8000_0005));
    assert_eq!(unknown, SectionFault::UnknownAttributes(0x8000_0004));
}

#[test]
fn pages_given_at_run_time_have_no_contents_and_no_measurement() {
    let aug = |index, bits| fault(index, |s| s.attributes = Attributes(bits));
    assert!(matches!(
        aug(BFV, 2),
        SectionFault::AugWithContents("raw_size is not 0")
    ));
    assert!(matches!(
        aug(TEMP_MEM, 3),
        SectionFault::AugWithContents("MR.EXTEND is set too")
    ));
    assert!(matches!(aug(TD_HOB, 2), SectionFault::AugWithContents(_)));
}

#[test]
fn contents_must_lie_in_the_image_and_fit_the_memory() {
    let out = fault(BFV, |s| s.data_offset = 0x4001);
    assert!(matches!(
        out,
        SectionFault::DataOutOfImage { offset: 0x4001, .. }
    ));
    let out = fault(CFV, |s| (s.data_offset, s.raw_size) = (u32::MAX, u32::MAX));
    assert!(matches!(out, SectionFault::DataOutOfImage { .. }));
    let larger = fault(CFV, |s| s.raw_size += 1);
    assert_eq!(
        larger,
        SectionFault::RawLargerThanMemory {
            raw_size: 0x4001,
            mem_size: 0x4000
        }
    );
    assert_eq!(fault(CFV, |s| s.raw_size = 0), SectionFault::RawMissing);
    assert_eq!(
        fault(TD_HOB, |s| s.raw_size = 1),
        SectionFault::RawNotWanted(1)
    );
    assert_eq!(
        fault(TEMP_MEM, |s| s.raw_size = 4096),
        SectionFault::RawNotWanted(4096)
    );
    assert_eq!(
        fault(TEMP_MEM, |s| s.kind = SectionKind::PAYLOAD),
        SectionFault::RawMissing
    );
}

#[test]
fn memory_of_a_section_is_whole_pages() {
    assert_eq!(
        fault(TEMP_MEM, |s| s.mem_size = 0),
        SectionFault::MemSizeZero
    );
    assert_eq!(
        fault(TEMP_MEM, |s| s.mem_size = 4097),
        SectionFault::MemSizeUnaligned(4097)
    );
    assert_eq!(
        fault(BFV, |s| s.gpa += 1),
        SectionFault::GpaUnaligned(0xfffe_4001)
    );
    let informs = fault(TEMP_MEM, |s| s.kind = SectionKind::TD_INFO);
    assert_eq!(informs, SectionFault::InformationWithMemory(0x1_0000));
}

#[test]
fn addresses_are_private_and_exist() {
    for index in [BFV, TEMP_MEM, TD_HOB] {
        let shared = fault(index, |s| s.gpa |= 1 << 47);
        assert!(
            matches!(shared, SectionFault::SharedBit { bit: 47, .. }),
            "{shared}"
        );
        let above = fault(index, |s| s.gpa |= 1 << 48);
        assert!(
            matches!(above, SectionFault::AboveGpaw { bits: 48, .. }),
            "{above}"
        );
        let overflow = fault(index, |s| s.gpa = u64::MAX - 4095);
        assert!(
            matches!(overflow, SectionFault::GpaOverflow { .. }),
            "{overflow}"
        );
    }
    let wide = MemoryLayout::q35(1 << 30, builtin::LEN as u64, Gpaw::Bits52).unwrap();
    let image = builtin::builder()
        .edit(TEMP_MEM, |s| s.gpa |= 1 << 51)
        .build();
    let text = LaunchPlan::new(&image, wide).unwrap_err().to_string();
    assert!(text.contains("shared bit (51)"), "{text}");
}

#[test]
fn firmware_lies_in_its_slot_and_memory_in_ram() {
    let below = fault(CFV, |s| s.gpa -= 4096);
    assert!(matches!(
        below,
        SectionFault::OutsideFlash {
            low: 0xfffe_0000,
            ..
        }
    ));
    let behind = fault(BFV, |s| s.gpa += 4096);
    assert!(matches!(behind, SectionFault::OutsideFlash { .. }));
    for gpa in [0x1000_0000, 0x0fff_1000, 0xfffe_0000, 0x1_0000_0000] {
        let above = fault(TEMP_MEM, |s| s.gpa = gpa);
        assert!(matches!(above, SectionFault::OutsideRam { .. }), "{gpa:#x}");
    }
}

#[test]
fn with_much_memory_ram_continues_at_4_gib_and_not_before() {
    let at = |gpa| builtin::builder().edit(TEMP_MEM, |s| s.gpa = gpa).build();
    let plan = |gpa| LaunchPlan::new(&at(gpa), layout(4 << 30));
    assert!(plan(0x7fff_0000).is_ok());
    assert!(plan(0x7fff_1000).is_err());
    assert!(plan(0x8000_0000).is_err());
    assert!(plan(0x1_0000_0000).is_ok());
    assert!(plan(0x1_8000_0000).is_err());
}

#[test]
fn sections_do_not_share_pages() {
    let overlap = fault(3, |s| s.gpa = 0x81_f000);
    let SectionFault::Overlap { other, .. } = overlap else {
        panic!("{overlap}")
    };
    assert_eq!(other.index, TEMP_MEM);
    // One inside of another that begins before a third: found although they aren't neighbours.
    let nested = builtin::builder()
        .edit(2, |s| (s.gpa, s.mem_size) = (0x10_0000, 0x10_0000))
        .edit(3, |s| s.gpa = 0x11_0000)
        .edit(4, |s| s.gpa = 0x18_0000)
        .build();
    let metadata = Metadata::parse(&nested).unwrap();
    let found = problems(&metadata, nested.len() as u64, &layout(256 << 20));
    let sections: Vec<_> = found
        .iter()
        .filter_map(TdvfError::section)
        .map(|at| at.index)
        .collect();
    assert_eq!(sections, [3, 4]);
}

#[test]
fn there_is_code_and_at_most_one_td_hob() {
    let no_bfv = builtin::builder().retain(|s| s.kind != SectionKind::BFV);
    assert_eq!(error(no_bfv), TdvfError::NoBfv);
    let second = error(builtin::builder().edit(TEMP_MEM, |s| s.kind = SectionKind::TD_HOB));
    assert_eq!(second.section().map(|at| at.index), Some(TD_HOB));
    assert!(
        second
            .to_string()
            .contains("there is one already, section 2"),
        "{second}"
    );
}

#[test]
fn hand_off_blocks_must_fit_their_section() {
    let many = (0..90u64).fold(builtin::builder(), |builder, i| {
        builder.section(Section {
            kind: SectionKind::TEMP_MEM,
            data_offset: 0,
            raw_size: 0,
            gpa: 0x100_0000 + i * 0x2000,
            mem_size: 0x1000,
            attributes: Attributes::default(),
        })
    });
    let many = many
        .descriptor_at(0x5000)
        .edit(TD_HOB, |s| s.mem_size = 0x1000);
    let text = error(many).to_string();
    assert!(
        text.starts_with("section 4 (TD_HOB): mem_size 0x1000: too small"),
        "{text}"
    );
}

#[test]
fn an_image_of_the_time_before_the_table_is_found_by_its_pointer() {
    let old = builtin::builder().location(Some(Location::FixedPointer));
    let plan = plan(old.clone()).unwrap();
    assert_eq!(plan.metadata.location, Location::FixedPointer);
    for pointer in [0, 1, builtin::LEN as u32 - 15, u32::MAX] {
        assert_eq!(error(old.clone().pointer(pointer)), TdvfError::NoGuidTable);
    }
}
