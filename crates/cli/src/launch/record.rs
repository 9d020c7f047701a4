//! What a launch added, page by page, for `seamlock diff`.

use std::cell::RefCell;
use std::collections::BTreeMap;

use seamlock_tdvf::{LaunchPlan, PAGE_SIZE};
use seamlock_tdx_abi::kvm::{KvmCpuidEntry2, KvmTdxInitVm};
use seamlock_wear::{Calls, Contents, Parameters, Region};

/// The parameters and the regions of a launch.
#[derive(Clone, Debug, Default)]
pub struct Recorded {
    /// What KVM_TDX_INIT_VM was given.
    pub parameters: Parameters,
    /// RCX of each vCPU, as KVM_TDX_INIT_VCPU was given it.
    pub rcx: BTreeMap<u32, u64>,
    /// What was added, in order; empty unless it was asked for.
    pub regions: Vec<Region>,
}

/// A record that grows while the TD is built.
pub type Record = RefCell<Recorded>;

/// Takes note of the parameters.
pub fn parameters(record: &Record, init: &KvmTdxInitVm, entries: &[KvmCpuidEntry2]) {
    record.borrow_mut().parameters = Parameters::of(init, entries);
}

/// A region of the plan, with the calls that made it. The only TD of a launch is VM 1.
pub fn region(
    plan: &LaunchPlan,
    image: &[u8],
    region: &seamlock_tdvf::Region,
    calls: &Calls,
) -> Region {
    let mut contents = Contents::default();
    let mut page = [0; PAGE_SIZE as usize];
    for i in 0..region.pages {
        plan.fill(image, region, i * PAGE_SIZE, &mut page);
        contents.page(&page);
    }
    let (contents, digests) = contents.finish();
    Region {
        vm: 1,
        gpa: region.gpa,
        pages: region.pages,
        measured: region.measured,
        contents,
        page_contents: digests.to_string(),
        calls: calls.text(region.gpa),
    }
}
