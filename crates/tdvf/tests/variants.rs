//! The search finds the recipe behind an MRTD that another launch of the same image gave.

use seamlock_tdvf::variant::{
    Contents, Deviation, Fill, GceMachine, Outcome, Rule, Search, Sequence, Treatment, Variant,
};
use seamlock_tdvf::{
    Attributes, Gpaw, LaunchPlan, Location, MemoryLayout, Metadata, Mrtd, Order, Section,
    SectionAt, SectionKind, builder::ImageBuilder, builtin, mrtd,
};

const BUDGET: u64 = 1 << 30;

fn layout(image: &[u8]) -> MemoryLayout {
    MemoryLayout::q35(256 << 20, image.len() as u64, Gpaw::Bits48).unwrap()
}

fn plan(image: &[u8]) -> LaunchPlan {
    LaunchPlan::new(image, layout(image)).unwrap()
}

/// The MRTD of a launch of `image` by other metadata than its own.
fn edited(image: &[u8], order: Order, edit: impl FnOnce(&mut Vec<Section>)) -> Mrtd {
    let mut metadata = Metadata::parse(image).unwrap();
    edit(&mut metadata.sections);
    let plan = LaunchPlan::of(metadata, image.len() as u64, layout(image)).unwrap();
    mrtd::predict(&plan, image, order)
}

fn search(image: &[u8], wanted: Mrtd, budget: u64) -> Outcome {
    let (plan, order) = (plan(image), Order::PerPage);
    let search = Search {
        image,
        plan: &plan,
        order,
        wanted,
        budget,
    };
    search.run(|_| {})
}

/// What sets the found recipe apart.
fn found(image: &[u8], wanted: Mrtd) -> Vec<Deviation> {
    let usual = Variant::usual(plan(image).metadata.location, Order::PerPage);
    let outcome = search(image, wanted, BUDGET);
    outcome.found.expect("a recipe fits").deviations(&usual)
}

fn at(index: usize, kind: SectionKind) -> SectionAt {
    SectionAt { index, kind }
}

const MEASURED: Treatment = Treatment::Measured(Contents::Usual);

#[test]
fn the_usual_launch_deviates_in_nothing() {
    let image = builtin::image();
    let wanted = mrtd::predict(&plan(&image), &image, Order::PerPage);
    assert_eq!(found(&image, wanted), []);
}

#[test]
fn every_order_is_told_from_the_others() {
    let image = builtin::image();
    for order in [Order::PerSection, Order::WholeImage] {
        let wanted = mrtd::predict(&plan(&image), &image, order);
        assert_eq!(found(&image, wanted), [Deviation::Order(order)]);
    }
}

#[test]
fn sections_that_were_measured_or_left_out_against_their_attributes_are_named() {
    let image = builtin::image();
    let cfv = edited(&image, Order::PerPage, |s| {
        s[1].attributes = Attributes::MR_EXTEND
    });
    let measured = Deviation::Section(at(1, SectionKind::CFV), MEASURED);
    assert_eq!(found(&image, cfv), std::slice::from_ref(&measured));
    let mailbox = edited(&image, Order::PerSection, |s| {
        s[1].attributes = Attributes::MR_EXTEND;
        s.remove(3);
    });
    let left_out = Deviation::Section(at(3, SectionKind::TEMP_MEM), Treatment::LeftOut);
    assert_eq!(
        found(&image, mailbox),
        [Deviation::Order(Order::PerSection), measured, left_out]
    );
}

#[test]
fn rules_about_all_sections_count_as_one_deviation() {
    let image = builtin::image();
    let only = edited(&image, Order::PerPage, |s| {
        s.retain(|s| s.attributes.mr_extend())
    });
    assert_eq!(found(&image, only), [Deviation::Rule(Rule::AddMeasured)]);
    let none = edited(&image, Order::PerPage, |s| {
        s.iter_mut()
            .for_each(|s| s.attributes = Attributes::default());
    });
    // One measured section that is not would be as few, but says less.
    assert_eq!(found(&image, none), [Deviation::Rule(Rule::MeasureNone)]);
    let all = edited(&image, Order::PerPage, |s| {
        s.iter_mut()
            .for_each(|s| s.attributes = Attributes::MR_EXTEND);
    });
    assert_eq!(found(&image, all), [Deviation::Rule(Rule::MeasureAll)]);
}

#[test]
fn the_order_of_sections_is_found() {
    let image = builtin::image();
    let by_address = edited(&image, Order::PerPage, |s| s.sort_by_key(|s| s.gpa));
    assert_eq!(
        found(&image, by_address),
        [Deviation::Sequence(Sequence::ByAddress)]
    );
    let by_kind = edited(&image, Order::PerPage, |s| s.sort_by_key(|s| s.kind));
    assert_eq!(
        found(&image, by_kind),
        [Deviation::Sequence(Sequence::ByKind)]
    );
}

#[test]
fn page_aug_sections_that_were_added_are_found() {
    let image = builtin::builder()
        .section(Section {
            kind: SectionKind::PERM_MEM,
            data_offset: 0,
            raw_size: 0,
            gpa: 0x100_0000,
            mem_size: 0x4000,
            attributes: Attributes::PAGE_AUG,
        })
        .build();
    let added = edited(&image, Order::PerPage, |s| {
        s[5].attributes = Attributes::default()
    });
    assert_eq!(found(&image, added), [Deviation::Rule(Rule::AddAug)]);
}

#[test]
fn what_is_behind_the_contents_of_a_section_is_found() {
    // The first 16 KiB are given 32 KiB, so that what follows them in the image would fit.
    let mut sections = vec![(SectionKind::BFV, 0, 0x4000, 0x8000)];
    sections.push((SectionKind::CFV, 0x8000, 0x8000, 0x8000));
    let image = (0..0x1_0000).map(|i| (i / 7) as u8 | 1).collect::<Vec<_>>();
    let image = sections
        .iter()
        .fold(
            ImageBuilder::new(0x1_0000).contents(0, image),
            |builder, s| {
                builder.section(Section {
                    kind: s.0,
                    data_offset: s.1,
                    raw_size: s.2,
                    gpa: (4 << 30) - 0x1_0000 + u64::from(s.1),
                    mem_size: s.3,
                    attributes: Attributes(u32::from(s.0 == SectionKind::BFV)),
                })
            },
        )
        .build();
    let raw = |raw: u32| edited(&image, Order::PerPage, |s| s[0].raw_size = raw);
    assert_eq!(found(&image, raw(0x4000)), []);
    assert_eq!(found(&image, raw(0x8000)), [Deviation::Fill(Fill::Image)]);
    let mut erased = image.clone();
    erased[0x4000..0x8000].fill(0xff);
    let wanted = edited(&erased, Order::PerPage, |s| s[0].raw_size = 0x8000);
    assert_eq!(found(&image, wanted), [Deviation::Fill(Fill::Ones)]);
}

#[test]
fn the_pointer_of_old_images_is_followed_where_a_table_is_too() {
    let builder = builtin::builder();
    let old = builder
        .clone()
        .edit(1, |s| s.attributes = Attributes::MR_EXTEND);
    let at = 0x1000;
    let descriptor = old.location(None).descriptor_at(at).build()[at..at + 16 + 5 * 32].to_vec();
    let len = builtin::LEN;
    let image = builder
        .patch(at, descriptor)
        .patch(len - 32, (at as u32).to_le_bytes())
        .build();
    let metadata = Metadata::parse_by(&image, Location::FixedPointer).unwrap();
    assert_eq!(plan(&image).metadata.location, Location::GuidTable);
    let other = LaunchPlan::of(metadata, len as u64, layout(&image)).unwrap();
    let wanted = mrtd::predict(&other, &image, Order::PerPage);
    // A measured CFV would explain it as well; what is true of the whole image comes first.
    assert_eq!(
        found(&image, wanted),
        [Deviation::Location(Location::FixedPointer)]
    );
}

#[test]
fn googles_launches_before_the_correction_are_found_by_machine_type() {
    let image = builtin::image();
    let plan = plan(&image);
    for machine in GceMachine::all() {
        let hob = machine.hob(0x80_9000, &plan.metadata.sections);
        // The hand-off blocks as if they stood in the image.
        let mut image_with_hob = image.clone();
        image_with_hob.extend_from_slice(&hob);
        let mut with_hob = plan.clone();
        with_hob.td_hob.as_mut().unwrap().bytes = hob;
        with_hob.regions.iter_mut().for_each(|r| r.measured = true);
        let wanted = mrtd::predict(&with_hob, &image, Order::PerPage);
        let treatment = Treatment::Measured(Contents::Gce(machine));
        assert_eq!(
            found(&image, wanted),
            [
                Deviation::Rule(Rule::MeasureAll),
                Deviation::Section(at(4, SectionKind::TD_HOB), treatment)
            ]
        );
    }
}

#[test]
fn a_search_without_result_says_how_far_it_came() {
    let image = builtin::image();
    let far = search(&image, Mrtd([7; 48]), 1 << 26);
    assert!(far.found.is_none() && far.deviations >= 1, "{far:?}");
    let none = search(&image, Mrtd([7; 48]), 0);
    assert_eq!((none.found, none.tried, none.deviations), (None, 0, 0));
    let further = search(&image, Mrtd([7; 48]), 1 << 28);
    assert!(further.tried > far.tried);
}
