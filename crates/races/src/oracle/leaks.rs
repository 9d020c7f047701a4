//! What a TD had comes back when it ends: pages, HKID, lock words.

use seamlock_check::Violation;
use seamlock_kvm::Teardown;

use crate::machine::Machine;

/// Ends all TDs, and sees whether everything comes back. What a bugged TD loses is that bug's doing.
pub fn leaks(machine: &Machine) -> Option<Violation> {
    machine.close_all();
    if !machine.host.live_vms().is_empty() {
        return Some(Violation::new("leak", "a VM outlives its descriptors"));
    }
    let lost = |end: &&Teardown| end.pages_leaked != 0 || !end.hkid_returned || end.bugs != 0;
    let teardowns = machine.host.teardowns();
    if let Some(end) = teardowns.iter().find(lost) {
        let what = "a TD does not give everything back";
        return Some(Violation::new("leak", what).with_detail(in_words(end)));
    }
    let faults = machine.host.module().audit().err()?;
    let what = "the module's audit finds faults";
    Some(Violation::new("leak", what).with_detail(format!("{faults:?}")))
}

fn in_words(end: &Teardown) -> String {
    let hkid = match end.hkid_returned {
        true => "",
        false => " and its HKID",
    };
    let pages = end.pages_leaked;
    let bugs = match end.bugs {
        0 => String::new(),
        1 => "; KVM_BUG_ON once".to_owned(),
        many => format!("; KVM_BUG_ON {many} times"),
    };
    format!(
        "when VM {} is closed it loses {pages} pages{hkid} until reboot{bugs}",
        end.vm
    )
}
