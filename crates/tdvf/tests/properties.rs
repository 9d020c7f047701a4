//! Arbitrary and mutated images never panic, and what is accepted keeps what a plan promises.

use proptest::collection::vec;
use proptest::prelude::*;
use seamlock_tdvf::{
    Attributes, Gpaw, LaunchPlan, Location, MemoryLayout, Metadata, Order, PAGE_SIZE, Section,
    SectionKind, Source, TdvfError, builder::ImageBuilder, builtin, mrtd, problems,
};

/// Numbers around which bounds lie, and any number.
fn number() -> impl Strategy<Value = u64> {
    let edge = prop::sample::select(vec![
        0u64,
        0x1000,
        0x80_9000,
        0x81_0000,
        0x7fff_f000,
        0xfffe_0000,
        0xffff_f000,
        1 << 32,
        1 << 47,
        1 << 48,
        !0xfff,
    ]);
    prop_oneof![
        4 => edge,
        2 => (0..0x40u64).prop_map(|page| page * PAGE_SIZE),
        1 => any::<u64>(),
        1 => (0..64u32).prop_map(|bit| 1 << bit),
    ]
}

fn any_section() -> impl Strategy<Value = Section> {
    (0..10u32, number(), number(), number(), number(), 0..6u32).prop_map(
        |(kind, offset, raw, gpa, mem_size, attributes)| Section {
            kind: SectionKind(kind),
            data_offset: offset as u32,
            raw_size: raw as u32,
            gpa,
            mem_size,
            attributes: Attributes(attributes),
        },
    )
}

fn layout() -> impl Strategy<Value = MemoryLayout> {
    let memory = prop::sample::select(vec![0x1000u64, 16 << 20, 256 << 20, 2 << 30, 64 << 30]);
    let gpaw = prop::sample::select(vec![Gpaw::Bits48, Gpaw::Bits52]);
    (memory, gpaw).prop_map(|(memory, gpaw)| {
        MemoryLayout::q35(memory, builtin::LEN as u64, gpaw).expect("possible")
    })
}

/// What every accepted plan promises; what every refusal looks like.
fn judge(image: &[u8], memory: MemoryLayout) -> Result<(), TestCaseError> {
    let plan = match LaunchPlan::new(image, memory) {
        Ok(plan) => plan,
        Err(error) => return judge_refusal(&error),
    };
    let slots = memory.memslots();
    let mut ranges = Vec::new();
    for region in &plan.regions {
        prop_assert!(region.pages > 0 && region.gpa % PAGE_SIZE == 0);
        prop_assert!(
            slots
                .iter()
                .any(|slot| slot.contains(region.gpa, region.end()))
        );
        prop_assert!(region.end() <= memory.gpaw().private_end());
        if let Source::File(range) = &region.source {
            prop_assert!(range.end <= image.len() && range.len() as u64 <= region.size());
        }
        ranges.push((region.gpa, region.end()));
    }
    ranges.sort_unstable();
    prop_assert!(ranges.windows(2).all(|pair| pair[0].1 <= pair[1].0));
    prop_assert!(plan.regions.iter().any(|r| r.kind == SectionKind::BFV));
    prop_assert!(plan.regions.is_sorted_by_key(|r| r.section));
    if let Some(hob) = &plan.td_hob {
        let place = plan
            .regions
            .iter()
            .find(|r| r.gpa == hob.gpa)
            .expect("a region");
        prop_assert!(hob.bytes.len() as u64 <= place.size());
    }
    if plan.pages_added() < 1000 {
        let mut bytes = 0;
        mrtd::hashed(&plan, image, Order::PerSection, |piece| {
            bytes += piece.len() as u64
        });
        prop_assert_eq!(bytes, plan.pages_added() * 128 + plan.extends() * 384);
    }
    Ok(())
}

fn judge_refusal(error: &TdvfError) -> Result<(), TestCaseError> {
    let text = error.to_string();
    prop_assert!(!text.contains('\n') && !text.is_empty(), "{}", text);
    if let Some(at) = error.section() {
        prop_assert!(
            text.starts_with(&format!("section {} (", at.index)),
            "{}",
            text
        );
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn arbitrary_bytes_are_answered(bytes in vec(any::<u8>(), 0..9000)) {
        prop_assert!(Metadata::parse(&bytes).is_err());
    }

    #[test]
    fn arbitrary_tables_are_answered(
        entries in vec((any::<[u8; 16]>(), vec(any::<u8>(), 0..40)), 0..5),
        lengths in vec((18..200usize, 0..260u16), 0..3),
        pointer in number(),
        old in any::<bool>(),
        memory in layout(),
    ) {
        let location = if old { Location::FixedPointer } else { Location::GuidTable };
        let base = builtin::builder().location(Some(location));
        let base = if pointer % 3 == 0 { base.pointer(pointer as u32) } else { base };
        let builder = entries.into_iter().fold(base, |b, (guid, data)| b.entry(guid, data));
        let builder = lengths.into_iter().fold(builder, |b, (from_end, len)| {
            b.patch(builtin::LEN - 32 - from_end, len.to_le_bytes())
        });
        judge(&builder.build(), memory)?;
    }

    #[test]
    fn arbitrary_sections_are_answered(
        sections in vec(any_section(), 0..6),
        keep in any::<bool>(),
        old in any::<bool>(),
        memory in layout(),
    ) {
        let base = if keep { builtin::builder() } else { ImageBuilder::new(builtin::LEN) };
        let location = if old { Location::FixedPointer } else { Location::GuidTable };
        let base = base.location(Some(location));
        let builder = sections.into_iter().fold(base, ImageBuilder::section);
        let image = builder.build();
        judge(&image, memory)?;
        if let Ok(metadata) = Metadata::parse(&image) {
            let found = problems(&metadata, image.len() as u64, &memory);
            let first = LaunchPlan::new(&image, memory).err();
            prop_assert!(found.is_empty() || found.first() == first.as_ref());
        }
    }

    #[test]
    fn one_changed_field_is_answered(
        index in 0..5usize,
        field in 0..6,
        value in number(),
        memory in layout(),
    ) {
        let builder = builtin::builder().edit(index, |section| match field {
            0 => section.kind = SectionKind(value as u32),
            1 => section.data_offset = value as u32,
            2 => section.raw_size = value as u32,
            3 => section.gpa = value,
            4 => section.mem_size = value,
            _ => section.attributes = Attributes(value as u32),
        });
        judge(&builder.build(), memory)?;
    }

    #[test]
    fn changed_bytes_at_the_end_are_answered(
        changes in vec((1..0x410usize, any::<u8>()), 1..8),
        memory in layout(),
    ) {
        let builder = changes.into_iter().fold(builtin::builder(), |builder, (from_end, byte)| {
            builder.patch(builtin::LEN - from_end, [byte])
        });
        judge(&builder.build(), memory)?;
    }

    #[test]
    fn changed_bytes_of_table_and_descriptor_are_answered(
        changes in vec((prop_oneof![builtin::LEN - 90..builtin::LEN - 30,
            builtin::LEN - 0x400..builtin::LEN - 0x400 + 176], any::<u8>()), 1..4),
        memory in layout(),
    ) {
        let builder = changes
            .into_iter()
            .fold(builtin::builder(), |builder, (at, byte)| builder.patch(at, [byte]));
        judge(&builder.build(), memory)?;
    }

    #[test]
    fn truncated_images_are_refused(len in 0..builtin::LEN) {
        prop_assert!(Metadata::parse(&builtin::image()[..len]).is_err());
    }
}
