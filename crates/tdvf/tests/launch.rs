//! What a plan of a sound image says: regions, memslots, hand-off blocks, measurement.

use seamlock_tdvf::{
    Attributes, Gpaw, LaunchPlan, MemoryLayout, Order, Section, SectionKind, SlotKind, Source,
    builder::ImageBuilder, builtin, hob, mrtd,
};

fn plan(image: &[u8], memory: u64) -> LaunchPlan {
    let layout = MemoryLayout::q35(memory, image.len() as u64, Gpaw::Bits48).unwrap();
    LaunchPlan::new(image, layout).unwrap()
}

fn section(kind: SectionKind, gpa: u64, mem_size: u64, attributes: u32) -> Section {
    let attributes = Attributes(attributes);
    Section {
        kind,
        data_offset: 0,
        raw_size: 0,
        gpa,
        mem_size,
        attributes,
    }
}

#[test]
fn the_built_in_image_is_planned_in_metadata_order() {
    let image = builtin::image();
    let plan = plan(&image, 256 << 20);
    let regions: Vec<_> = plan
        .regions
        .iter()
        .map(|r| (r.kind, r.gpa, r.pages, r.measured))
        .collect();
    let expected = [
        (SectionKind::BFV, 0xfffe_4000, 28, true),
        (SectionKind::CFV, 0xfffe_0000, 4, false),
        (SectionKind::TEMP_MEM, 0x81_0000, 16, false),
        (SectionKind::TEMP_MEM, 0x80_b000, 2, false),
        (SectionKind::TD_HOB, 0x80_9000, 2, false),
    ];
    assert_eq!(regions, expected);
    assert_eq!((plan.pages_added(), plan.extends()), (52, 28 * 16));
    assert_eq!(image[image.len() - 16..][..4], builtin::RESET_VECTOR);
    assert!(
        image[0x4000..].starts_with(b"seamlock built-in TDVF, boot firmware volume, page 00\n")
    );
}

#[test]
fn mrtd_of_the_built_in_image_is_a_constant() {
    let image = builtin::image();
    for memory in [16 << 20, 256 << 20, 64 << 30] {
        let plan = plan(&image, memory);
        let text = |order| mrtd::predict(&plan, &image, order).to_string();
        assert_eq!(text(Order::PerPage), PER_PAGE);
        assert_eq!(text(Order::PerSection), PER_SECTION);
    }
}

/// Both were also computed by a Python script that walks the bytes of the image by itself.
const PER_PAGE: &str = "553eddae6cb0946117f5f4ff5d14bc9132010c11534b052ac83b8ee6d4d7efea\
    40f25cce666821aa98bc7f539037b75e";
const PER_SECTION: &str = "2b66aa66386af69053dc70a0d7b4088ae8c21660c270e632cee90cbe7f0d72fd\
    cf3205b98727b2a992ca28d9f7f6dacf";

#[test]
fn every_measured_bit_changes_mrtd_and_no_other_does() {
    let mut image = builtin::image();
    let plan = plan(&image, 256 << 20);
    let before = mrtd::predict(&plan, &image, Order::PerPage);
    for at in [0x4000, 0x4fff, 0x1_2345, builtin::LEN - 1] {
        image[at] ^= 0x80;
        assert_ne!(
            mrtd::predict(&plan, &image, Order::PerPage),
            before,
            "{at:#x}"
        );
        image[at] ^= 0x80;
    }
    image[0x3fff] ^= 1;
    assert_eq!(mrtd::predict(&plan, &image, Order::PerPage), before);
}

#[test]
fn a_single_page_gives_what_intels_module_gave() {
    // Recorded from Intel's TDX module 1.5.06: one page at GPA 0x1000, byte i = 7 * i mod 256.
    let page: Vec<u8> = (0..4096u32).map(|i| (i * 7) as u8).collect();
    let image = ImageBuilder::new(0x2000).contents(0, page).build();
    let mut plan = plan(&builtin::image(), 1 << 30);
    plan.regions.truncate(1);
    plan.regions[0].gpa = 0x1000;
    plan.regions[0].pages = 1;
    plan.regions[0].source = Source::File(0..4096);
    let expected = "dde1b037e4cc42fec27e85d07ce13e6f3ac882e383dc8820b500454ca7b46f3e\
                    89f2cea74c510de6f5d15854a885419f";
    assert_eq!(
        mrtd::predict(&plan, &image, Order::PerPage).to_string(),
        expected
    );
}

#[test]
fn what_the_image_leaves_of_a_section_is_zero() {
    let image = builtin::builder().edit(0, |s| s.raw_size = 0x1234).build();
    let plan = plan(&image, 256 << 20);
    let bfv = &plan.regions[0];
    assert_eq!(bfv.source, Source::File(0x4000..0x5234));
    let contents = plan.contents(&image, bfv);
    assert_eq!(contents.len(), 28 * 4096);
    assert_eq!(contents[..0x1234], image[0x4000..0x5234]);
    assert!(contents[0x1234..].iter().all(|byte| *byte == 0));
    let mut part = [0xaa; 16];
    plan.fill(&image, bfv, 0x1230, &mut part);
    assert_eq!(part[..4], image[0x5230..0x5234]);
    assert_eq!(part[4..], [0; 12]);
    plan.fill(&image, bfv, u64::MAX, &mut part);
    assert_eq!(part, [0; 16]);
}

#[test]
fn pages_given_at_run_time_and_information_are_not_added() {
    let image = builtin::builder()
        .section(section(SectionKind::PERM_MEM, 0x100_0000, 0x10_0000, 2))
        .section(section(SectionKind::TD_INFO, 0, 0, 0))
        .section(section(SectionKind::PERM_MEM, 0x200_0000, 0x1000, 0))
        .build();
    let plan = plan(&image, 256 << 20);
    assert_eq!(
        plan.regions.iter().map(|r| r.section).collect::<Vec<_>>(),
        [0, 1, 2, 3, 4, 7]
    );
    assert_eq!(plan.pages_added(), 53);
}

#[test]
fn an_image_may_have_no_td_hob() {
    let image = builtin::builder()
        .retain(|s| s.kind != SectionKind::TD_HOB)
        .build();
    assert_eq!(plan(&image, 256 << 20).td_hob, None);
}

#[test]
fn memslots_are_those_of_q35() {
    let slots = |memory| {
        let layout = MemoryLayout::q35(memory, 4 << 20, Gpaw::Bits48).unwrap();
        let slots = layout.memslots();
        slots
            .iter()
            .map(|s| (s.slot, s.kind, s.gpa, s.size))
            .collect::<Vec<_>>()
    };
    let firmware = |slot| (slot, SlotKind::Firmware, 0xffc0_0000, 4 << 20);
    for memory in [512 << 20, 2 << 30, 0xafff_f000] {
        assert_eq!(
            slots(memory),
            [(0, SlotKind::LowRam, 0, memory), firmware(1)]
        );
    }
    let split = [
        (0, SlotKind::LowRam, 0, 2 << 30),
        (1, SlotKind::HighRam, 4 << 30, 0x3000_0000),
        firmware(2),
    ];
    assert_eq!(slots(0xb000_0000), split);
}

#[test]
fn hand_off_blocks_describe_all_memory() {
    let image = builtin::image();
    let plan = plan(&image, 4 << 30);
    let hob = plan.td_hob.as_ref().unwrap();
    let u16_at = |at: usize| u16::from_le_bytes(hob.bytes[at..at + 2].try_into().unwrap());
    let u32_at = |at: usize| u32::from_le_bytes(hob.bytes[at..at + 4].try_into().unwrap());
    let u64_at = |at: usize| u64::from_le_bytes(hob.bytes[at..at + 8].try_into().unwrap());
    assert_eq!(
        (u16_at(0), u16_at(2), u32_at(8)),
        (hob::TYPE_HANDOFF, 56, 9)
    );
    assert_eq!(u64_at(48), hob.gpa + hob.bytes.len() as u64);
    let (mut at, mut ranges) = (56, Vec::new());
    while u16_at(at) == hob::TYPE_RESOURCE_DESCRIPTOR {
        assert_eq!((u16_at(at + 2), u32_at(at + 28)), (48, hob::ATTRIBUTES_RAM));
        ranges.push((u32_at(at + 24), u64_at(at + 32), u64_at(at + 40)));
        at += 48;
    }
    assert_eq!((u16_at(at), u16_at(at + 2)), (hob::TYPE_END_OF_LIST, 8));
    assert_eq!(at + 8, hob.bytes.len());
    let expected = [
        (7, 0, 0x80_9000),
        (0, 0x80_9000, 0x2000),
        (0, 0x80_b000, 0x2000),
        (7, 0x80_d000, 0x3000),
        (0, 0x81_0000, 0x1_0000),
        (7, 0x82_0000, 0x8000_0000 - 0x82_0000),
        (7, 0x1_0000_0000, 2 << 30),
    ];
    assert_eq!(ranges, expected);
    let contents = plan.contents(&image, &plan.regions[4]);
    assert_eq!(contents.len(), 0x2000);
    assert!(contents.starts_with(&hob.bytes));
}
