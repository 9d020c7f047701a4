//! A section of the firmware, as reports show it.

use seamlock_tdvf::LaunchPlan;
use serde::Serialize;

/// One row of a report. Fields are only ever added.
#[derive(Debug, Serialize)]
pub struct SectionRow {
    pub r#type: String,
    pub gpa: String,
    pub bytes: u64,
    pub pages: u64,
    pub file_offset: u32,
    pub file_bytes: u32,
    pub added: bool,
    pub measured: bool,
}

impl SectionRow {
    /// Every section of the firmware, in its order.
    pub fn all(plan: &LaunchPlan) -> impl Iterator<Item = SectionRow> {
        let sections = plan.metadata.sections.iter().enumerate();
        sections.map(|(index, section)| {
            let region = plan.regions.iter().find(|region| region.section == index);
            SectionRow {
                r#type: section.kind.to_string(),
                gpa: format!("{:#x}", section.gpa),
                bytes: section.mem_size,
                pages: section.mem_size / 4096,
                file_offset: section.data_offset,
                file_bytes: section.raw_size,
                added: region.is_some(),
                measured: region.is_some_and(|region| region.measured),
            }
        })
    }

    /// What becomes of its contents.
    pub fn contents(&self) -> &'static str {
        match (self.added, self.measured) {
            (false, _) => "not added at launch",
            (true, true) => "measured",
            (true, false) => "not measured",
        }
    }
}
