//! Events of a TD's vCPU, as far as KVM has them: NMIs, interrupts of user space's PIC, unhalts, what
//! wakes a vCPU and what a VMM reads of it after KVM_RUN.

mod scripted;
mod vmm;

use scripted::Scripted;
use seamlock_tdx_abi::Leaf;
use seamlock_tdx_abi::kvm::*;
use zerocopy::{FromZeros, IntoBytes};

const NOT_THERE: &str = "status 0xfffffffffffffc18";

fn u8_at(td: &Scripted, offset: usize) -> u8 {
    let mut byte = [0];
    td.read(offset, &mut byte);
    byte[0]
}

fn events(td: &Scripted) -> KvmVcpuEvents {
    let mut events = KvmVcpuEvents::new_zeroed();
    let fd = td.td.vcpus[0];
    td.vmm
        .ioctl_with(fd, KVM_GET_VCPU_EVENTS, &mut events)
        .expect("events");
    events
}

fn interrupt(td: &Scripted, vector: u32) -> Result<i64, Errno> {
    let mut vector = vector;
    let fd = td.td.vcpus[0];
    td.vmm.ioctl_with(fd, KVM_INTERRUPT, &mut vector)
}

fn made(td: &Scripted, leaf: Leaf) -> u64 {
    let leaves = td.vmm.host.counters().by_leaf();
    let row = leaves.iter().find(|(row, ..)| *row == leaf);
    row.map_or(0, |(_, made, _)| *made)
}

#[test]
fn map_gpa_gives_way_to_an_event_between_its_pieces() {
    // tdx.c:1219 tdx_complete_vmcall_map_gpa.
    let td = Scripted::new("map 0x200000 4M shared\nshutdown");
    let cap = KVM_CAP_EXIT_HYPERCALL;
    td.vmm.enable_cap(td.td.vm, cap, 1 << 12).expect("exits");
    let call: KvmExitHypercall = td.exit(KVM_EXIT_HYPERCALL);
    assert_eq!(call.args[..2], [0x20_0000, 512]);
    assert_eq!(td.vmm.ioctl(td.td.vcpus[0], KVM_NMI, 0), Ok(0));
    let _: [u8; 0] = td.exit(KVM_EXIT_SHUTDOWN);
    let next = 0x40_0000 | 1u64 << 47;
    assert_eq!(td.seen(), [format!("status 0x1, next {next:#x}")]);
}

#[test]
fn an_nmi_after_the_last_piece_of_map_gpa_changes_nothing() {
    let td = Scripted::new("map 0x200000 2M shared\nshutdown");
    let cap = KVM_CAP_EXIT_HYPERCALL;
    td.vmm.enable_cap(td.td.vm, cap, 1 << 12).expect("exits");
    let _: KvmExitHypercall = td.exit(KVM_EXIT_HYPERCALL);
    assert_eq!(td.vmm.ioctl(td.td.vcpus[0], KVM_NMI, 0), Ok(0));
    let _: [u8; 0] = td.exit(KVM_EXIT_SHUTDOWN);
    assert_eq!(td.seen(), ["ok"]);
}

#[test]
fn a_triple_fault_of_user_space_shuts_the_vcpu_down_before_it_is_entered() {
    // x86.c:8131 vcpu_enter_guest.
    let td = Scripted::new("shutdown");
    let cap = KVM_CAP_X86_TRIPLE_FAULT_EVENT;
    td.vmm.enable_cap(td.td.vm, cap, 1).expect("the capability");
    let mut events = KvmVcpuEvents {
        flags: 1 << 5,
        triple_fault_pending: 1,
        ..KvmVcpuEvents::new_zeroed()
    };
    let fd = td.td.vcpus[0];
    let set = td.vmm.ioctl_with(fd, KVM_SET_VCPU_EVENTS, &mut events);
    assert_eq!(set, Ok(0));
    let _: [u8; 0] = td.exit(KVM_EXIT_SHUTDOWN);
    assert_eq!(made(&td, Leaf::VP_ENTER), 0);
    assert_eq!(self::events(&td).triple_fault_pending, 0);
}

#[test]
fn the_boot_processor_is_ready_for_extint_and_opens_the_window_when_asked() {
    // x86.c:2751 kvm_vcpu_ready_for_interrupt_injection, x86.c:8676 vcpu_run.
    let td = Scripted::new("info 1\ncpuid 0\nshutdown");
    let _: KvmExitTdxGetTdvmcallInfo = td.exit(KVM_EXIT_TDX);
    assert_eq!((u8_at(&td, 12), u8_at(&td, 13)), (1, 0), "ready, IF");
    td.write(0, &[1]);
    let _: [u8; 0] = td.exit(KVM_EXIT_IRQ_WINDOW_OPEN);
    td.write(0, &[0]);
    assert_eq!(interrupt(&td, 0x30), Ok(0));
    assert_eq!(interrupt(&td, 0x31), Err(Errno::EEXIST));
    let _: [u8; 0] = td.exit(KVM_EXIT_SHUTDOWN);
    // irq.c kvm_cpu_get_extint: taken when the vCPU was entered, and a TD exit never says delivered.
    let events = events(&td);
    assert_eq!((events.interrupt_injected, events.interrupt_nr), (1, 0x30));
    assert_eq!(u8_at(&td, 12), 0, "no longer ready");
    assert_eq!(interrupt(&td, 0x31), Ok(0));
}

#[test]
fn paravirtual_hypercalls_are_there_unless_cpuid_has_to_name_them() {
    // x86.c:7376 ____kvm_emulate_hypercall, cpuid.h:233 guest_pv_has.
    let script = "hypercall 5 0 0\nhypercall 9 0 0\nhypercall 10 1 0 0 0x20\nhypercall 10 1 0 0 0x800\n\
                  hypercall 10 1 0 0 0x400\nhypercall 11 0\nshutdown";
    let td = Scripted::new(script);
    let _: [u8; 0] = td.exit(KVM_EXIT_SHUTDOWN);
    let seen = td.seen();
    let statuses: Vec<&str> = seen
        .iter()
        .map(|s| s.split(',').next().unwrap_or(""))
        .collect();
    let (opnotsupp, einval) = ("status 0xffffffffffffffa1", "status 0xffffffffffffffea");
    // The local APIC is off until the guest sets SPIV, so that it takes no fixed interrupt; an NMI it does.
    assert_eq!(
        statuses,
        ["ok", opnotsupp, "ok", einval, "status 0x1", "ok"]
    );

    let td = Scripted::new("hypercall 5 0 0\nhypercall 10 1 0 0 0x400\nhypercall 11 0\nshutdown");
    let cap = KVM_CAP_ENFORCE_PV_FEATURE_CPUID;
    td.vmm.enable_cap(td.td.vcpus[0], cap, 1).expect("enforced");
    let _: [u8; 0] = td.exit(KVM_EXIT_SHUTDOWN);
    assert_eq!(td.seen(), [NOT_THERE; 3]);
}

#[test]
fn a_kick_ends_the_halt_that_it_comes_before() {
    // The vCPU unhalts itself: the halt after it does not sleep, the next one would.
    let td = Scripted::new("hypercall 5 0 0\nhalt\nshutdown");
    let _: [u8; 0] = td.exit(KVM_EXIT_SHUTDOWN);
    let mut state = KvmMpState::default();
    let fd = td.td.vcpus[0];
    assert_eq!(td.vmm.ioctl_with(fd, KVM_GET_MP_STATE, &mut state), Ok(0));
    assert_eq!(state.mp_state, KVM_MP_STATE_RUNNABLE);
}

#[test]
fn a_vcpu_held_in_reset_sleeps_until_an_event() {
    let td = Scripted::new("shutdown");
    let fd = td.td.vcpus[0];
    let mut state = KvmMpState {
        mp_state: KVM_MP_STATE_AP_RESET_HOLD,
    };
    assert_eq!(td.vmm.ioctl_with(fd, KVM_SET_MP_STATE, &mut state), Ok(0));
    td.vmm.control.signal(false);
    assert_eq!(td.run(), Err(Errno::EINTR));
    td.vmm.control.clear_signals();
    assert_eq!(made(&td, Leaf::VP_ENTER), 0);
    assert_eq!(td.vmm.ioctl(fd, KVM_NMI, 0), Ok(0));
    let _: [u8; 0] = td.exit(KVM_EXIT_SHUTDOWN);
}

#[test]
fn msrs_of_machine_checks_and_of_kvm_are_there_as_far_as_the_vcpu_has_them() {
    // tdx.c:2267 tdx_get_msr, msrs.c get_msr_mce, kvm_set_msr_common.
    let script = "rdmsr 0x4d0\nwrmsr 0x4d0 0\nrdmsr 0x17b\nrdmsr 0x47f\nrdmsr 0x280\nrdmsr 0x10a\n\
                  wrmsr 0x8b 5\nrdmsr 0x8b\nwrmsr 0x4b564d05 2\nwrmsr 0x4b564d05 0\nwrmsr 0x802 1\n\
                  rdmsr 0x80f\nshutdown";
    let td = Scripted::new(script);
    let _: [u8; 0] = td.exit(KVM_EXIT_SHUTDOWN);
    let (bad, ok) = ("status 0x8000000000000000", "ok");
    assert_eq!(
        td.seen(),
        [
            bad,
            bad,
            bad,
            "ok, 0x0",
            bad,
            bad,
            ok,
            "ok, 0x100000000",
            bad,
            ok,
            bad,
            "ok, 0xff"
        ]
    );
}

#[test]
fn msrs_that_cpuid_does_not_name_are_unknown_to_user_space() {
    let td = Scripted::new("rdmsr 0x10a\nwrmsr 0x179 1\nrdmsr 0x4d0\nshutdown");
    let all = u64::from(KVM_MSR_EXIT_REASON_UNKNOWN | KVM_MSR_EXIT_REASON_INVAL);
    let cap = KVM_CAP_X86_USER_SPACE_MSR;
    td.vmm.enable_cap(td.td.vm, cap, all).expect("exits");
    let exits = [
        (KVM_EXIT_X86_RDMSR, KVM_MSR_EXIT_REASON_UNKNOWN),
        (KVM_EXIT_X86_WRMSR, KVM_MSR_EXIT_REASON_UNKNOWN),
        (KVM_EXIT_X86_RDMSR, KVM_MSR_EXIT_REASON_INVAL),
    ];
    for (exit, reason) in exits {
        let msr: KvmExitMsr = td.exit(exit);
        assert_eq!(msr.reason, reason, "{:#x}", msr.index);
    }
    let _: [u8; 0] = td.exit(KVM_EXIT_SHUTDOWN);
}

#[test]
fn x2apic_msrs_are_there_once_the_vcpu_is_initialised() {
    // lapic.c kvm_x2apic_msr_read: not before the local APIC is an x2APIC.
    let vmm = vmm::boot();
    let mut td = vmm.create_td();
    vmm.init_vm(&td).expect("INIT_VM");
    let fd = vmm.create_vcpu(&mut td, 0).expect("a vCPU") as i32;
    vmm.set_cpuid(fd).expect("CPUID");
    let read = || {
        let mut bytes = KvmMsrs { nmsrs: 1, pad: 0 }.as_bytes().to_vec();
        let entry = KvmMsrEntry {
            index: 0x80f,
            ..KvmMsrEntry::new_zeroed()
        };
        bytes.extend_from_slice(entry.as_bytes());
        vmm.ioctl(fd, KVM_GET_MSRS, vmm.process.map_copy(&bytes))
    };
    assert_eq!(read(), Ok(0));
    vmm.init_vcpu(fd).expect("INIT_VCPU");
    assert_eq!(read(), Ok(1));
}

#[test]
fn port_data_that_user_space_does_not_write_reads_as_zero() {
    // x86.c:5391 emulator_pio_in_out.
    let td = Scripted::new("out 0x3f8 4 0xffffffff\nin 0x60 4\nshutdown");
    let _: KvmExitIo = td.exit(KVM_EXIT_IO);
    let _: KvmExitIo = td.exit(KVM_EXIT_IO);
    let _: [u8; 0] = td.exit(KVM_EXIT_SHUTDOWN);
    assert_eq!(td.seen(), ["ok", "ok, 0x0"]);
}

#[test]
fn a_signal_that_waits_already_lets_the_roots_be_loaded_and_keeps_the_guest_out() {
    // x86.c:8258 kvm_vcpu_exit_request comes after kvm_mmu_reload.
    let td = Scripted::new("shutdown");
    let before = made(&td, Leaf::VP_WR);
    td.vmm.control.signal(false);
    assert_eq!(td.run(), Err(Errno::EINTR));
    td.vmm.control.clear_signals();
    let counts = (made(&td, Leaf::VP_WR) - before, made(&td, Leaf::VP_ENTER));
    assert_eq!(counts, (1, 0));
}

#[test]
fn a_bus_lock_is_flagged_beside_a_memory_fault() {
    // tdx.c:2156 tdx_handle_exit.
    const BUS_LOCK_DETECTED: u64 = 1 << 26;
    const EPT_VIOLATION: u64 = 48;
    let status = BUS_LOCK_DETECTED | EPT_VIOLATION;
    let td = Scripted::new(&format!("return {status} 0 0 0x5000"));
    assert_eq!(td.vmm.attributes(td.td.vm, 0x5000, 4096, 0), Ok(0));
    assert_eq!(td.run(), Err(Errno::EFAULT));
    let _: KvmExitMemoryFault = td.data(KVM_EXIT_MEMORY_FAULT);
    let mut flags = [0; 2];
    td.read(14, &mut flags);
    assert_eq!(u16::from_le_bytes(flags), KVM_RUN_X86_BUS_LOCK);
}
