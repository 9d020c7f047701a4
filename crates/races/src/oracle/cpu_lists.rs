//! A vCPU that was freed is still on a CPU's `associated_tdvcpus`: the next vCPU of any TD that is
//! loaded there writes into freed memory.

use seamlock_check::Violation;

use crate::machine::Machine;

/// Looks through the lists of all CPUs.
pub fn freed_on_a_list(machine: &Machine) -> Option<Violation> {
    let vms = machine.host.live_vms();
    for cpu in machine.host.cpus() {
        for listed in cpu.associated() {
            let kvm = vms.iter().find(|kvm| kvm.number == listed.vm);
            let mut alive = kvm.into_iter().flat_map(|kvm| kvm.vcpus());
            if !alive.any(|vcpu| vcpu.born_at() == listed.index) {
                let what = "a freed vCPU is on a CPU's associated_tdvcpus";
                let at = format!(
                    "vCPU {} of VM {} on CPU {}",
                    listed.index, listed.vm, cpu.id
                );
                return Some(Violation::new("list corruption", what).with_detail(at));
            }
        }
    }
    None
}
