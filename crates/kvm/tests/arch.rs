//! Every architecture: an interrupt is queued while another thread sits in KVM_RUN with
//! `vcpu->mutex` held. Where the ioctl is a locked one it waits for that thread.
//!
//! Whether a call waits is told by a fatal signal that is pending: it ends a wait for `vcpu->mutex`
//! with EINTR and touches nothing else.

mod vmm;

use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use seamlock_kvm::arch::{self, Arch};
use seamlock_kvm::{Control, Options};
use seamlock_tdx_abi::kvm::*;
use vmm::{Reply, Vmm, boot_with};

/// A VM of type 0 with vCPUs.
struct Machine {
    vmm: Vmm,
    vm: i32,
    vcpus: Vec<i32>,
}

fn machine(arch: &'static dyn Arch, vcpus: u64) -> Machine {
    let vmm = boot_with(Options {
        arch,
        ..Options::default()
    });
    let mut machine = Machine {
        vmm,
        vm: 0,
        vcpus: Vec::new(),
    };
    let kvm = machine.vmm.kvm;
    machine.vm = machine.call(kvm, KVM_CREATE_VM, 0).expect("a VM") as i32;
    if arch.name() == "x86" {
        // So that vCPU 1 waits for INIT in KVM_RUN: nothing but TDs has guest code on Intel.
        machine
            .vmm
            .enable_cap(machine.vm, KVM_CAP_SPLIT_IRQCHIP, 24)
            .expect("a split irqchip");
    }
    for id in 0..vcpus {
        let fd = machine
            .call(machine.vm, KVM_CREATE_VCPU, id)
            .expect("a vCPU");
        machine.vcpus.push(fd as i32);
    }
    machine
}

impl Machine {
    fn call(&self, fd: i32, request: u32, arg: u64) -> Reply {
        let encoding = self.vmm.host.arch().encoding();
        self.vmm.ioctl(fd, encoding.of_generic(request), arg)
    }

    /// A call by another thread of the process.
    fn call_as(&self, control: &Control, fd: i32, request: u32, arg: u64) -> Reply {
        let request = self.vmm.host.arch().encoding().of_generic(request);
        let task = self.vmm.process.task(control);
        seamlock_kvm::ioctl_fd(&task, fd, request, arg).map_err(|error| error.errno)
    }

    /// A call that gives up where it would wait for `vcpu->mutex`.
    fn call_unless_locked(&self, fd: i32, request: u32, arg: u64) -> Reply {
        let control = Control::on(1);
        control.signal(true);
        self.call_as(&control, fd, request, arg)
    }

    fn words<const N: usize>(&self, words: [u32; N]) -> u64 {
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        self.vmm.process.map_copy(&bytes)
    }

    fn taken(&self, vcpu: usize) -> Vec<u32> {
        let kvm = self.vmm.host.live_vms().pop().expect("a VM");
        kvm.vcpus()
            .nth(vcpu)
            .expect("a vCPU")
            .arch()
            .interrupts_taken()
    }

    /// While another thread is in KVM_RUN of this vCPU.
    fn while_running(&self, vcpu: usize, f: impl FnOnce(&Control)) {
        let control = Control::on(2);
        std::thread::scope(|scope| {
            let run = scope.spawn(|| self.call_as(&control, self.vcpus[vcpu], KVM_RUN, 0));
            let kvm = self.vmm.host.live_vms().pop().expect("a VM");
            while !kvm.vcpus().nth(vcpu).expect("a vCPU").is_locked() {
                std::thread::yield_now();
            }
            f(&control);
            control.signal(false);
            assert_eq!(run.join().expect("no panic"), Err(Errno::EINTR));
        });
    }

    fn wait_until_taken(&self, vcpu: usize, irqs: &[u32]) {
        while self.taken(vcpu) != irqs {
            std::thread::yield_now();
        }
    }
}

/// Queues an interrupt while the vCPU runs, which must not wait, and sees the guest take it.
fn is_queued_while_running(arch: &'static dyn Arch, request: u32, arg: &[u32], irq: u32) {
    let machine = machine(arch, 1);
    let bytes: Vec<u8> = arg.iter().flat_map(|word| word.to_le_bytes()).collect();
    let arg = machine.vmm.process.map_copy(&bytes);
    machine.while_running(0, |_| {
        let reply = machine.call_unless_locked(machine.vcpus[0], request, arg);
        assert_eq!(reply, Ok(0), "{}", arch.name());
        machine.wait_until_taken(0, &[irq]);
    });
}

const SET: u32 = -1i32 as u32;
const UNSET: u32 = -2i32 as u32;

#[test]
fn loongarch_mips_powerpc_and_riscv_queue_kvm_interrupt_without_the_mutex() {
    is_queued_while_running(&arch::LOONGARCH, KVM_INTERRUPT, &[7], 7);
    is_queued_while_running(&arch::MIPS, KVM_INTERRUPT, &[SET, 3], 3);
    is_queued_while_running(&arch::POWERPC, KVM_INTERRUPT, &[SET], 15);
    is_queued_while_running(&arch::RISCV, KVM_INTERRUPT, &[SET], 10);
}

#[test]
fn s390_queues_both_of_its_ioctls_without_the_mutex() {
    let emergency = 0xffff_1201;
    let mut irq = [0; 18];
    irq[0] = emergency;
    is_queued_while_running(&arch::S390, arch::KVM_S390_IRQ, &irq, 2);
    is_queued_while_running(
        &arch::S390,
        arch::KVM_S390_INTERRUPT,
        &[emergency, 0, 0, 0],
        2,
    );
}

#[test]
fn arm64_has_no_unlocked_ioctl_and_queues_through_the_vm() {
    let machine = machine(&arch::ARM64, 2);
    let (irq, line) = (machine.words([1]), machine.words([1 << 16, 1]));
    machine.while_running(1, |_| {
        let reply = machine.call_unless_locked(machine.vcpus[1], KVM_INTERRUPT, irq);
        assert_eq!(reply, Err(Errno::EINTR), "it waited for the mutex");
        assert_eq!(
            machine.call_unless_locked(machine.vm, KVM_IRQ_LINE, line),
            Ok(0)
        );
        machine.wait_until_taken(1, &[0]);
    });
    assert_eq!(
        machine.call(machine.vcpus[1], KVM_INTERRUPT, irq),
        Err(Errno::EINVAL)
    );
}

#[test]
fn x86_waits_for_the_mutex_with_kvm_interrupt_until_the_run_has_returned() {
    for arch in [&arch::INTEL, &arch::AMD] {
        let machine = machine(arch, 2);
        let (vcpu, irq) = (machine.vcpus[1], machine.words([0x41]));
        let signalled = AtomicBool::new(false);
        std::thread::scope(|scope| {
            machine.while_running(1, |_| {
                let reply = machine.call_unless_locked(vcpu, KVM_INTERRUPT, irq);
                assert_eq!(reply, Err(Errno::EINTR), "it waited for the mutex");
                let (signalled, machine) = (&signalled, &machine);
                scope.spawn(move || {
                    let reply = machine.call_as(&Control::on(3), vcpu, KVM_INTERRUPT, irq);
                    assert_eq!(reply, Ok(0));
                    assert!(
                        signalled.load(SeqCst),
                        "it did not wait for KVM_RUN to return"
                    );
                });
                for _ in 0..1000 {
                    std::thread::yield_now();
                }
                signalled.store(true, SeqCst);
            });
        });
        let kvm = machine.vmm.host.live_vms().pop().expect("a VM");
        assert!(
            kvm.vcpus()
                .nth(1)
                .expect("a vCPU")
                .arch()
                .is_interrupt_pending()
        );
    }
}

#[test]
fn amd_has_no_encryption_ioctl_on_a_vcpu_and_does_not_look_at_it_unlocked() {
    let machine = machine(&arch::AMD, 1);
    machine.while_running(0, |_| {
        let reply = machine.call_unless_locked(machine.vcpus[0], KVM_MEMORY_ENCRYPT_OP, 0);
        assert_eq!(reply, Err(Errno::EINTR), "it waited for the mutex");
    });
    let reply = machine.call(machine.vcpus[0], KVM_MEMORY_ENCRYPT_OP, 0);
    assert_eq!(reply, Err(Errno::ENOTTY));
}

#[test]
fn interrupts_are_taken_back_and_refused_as_each_architecture_does() {
    let refused = |arch: &'static dyn Arch, request, words: &[u32], errno| {
        let machine = machine(arch, 1);
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        let arg = machine.vmm.process.map_copy(&bytes);
        assert_eq!(
            machine.call(machine.vcpus[0], request, arg),
            Err(errno),
            "{}",
            arch.name()
        );
        assert_eq!(
            machine.call(machine.vcpus[0], request, 8),
            Err(Errno::EFAULT)
        );
    };
    refused(&arch::LOONGARCH, KVM_INTERRUPT, &[0], Errno::EINVAL);
    // EXCCODE_INT_NUM is 15, and the last is that of message interrupts.
    refused(&arch::LOONGARCH, KVM_INTERRUPT, &[15], Errno::EINVAL);
    refused(&arch::LOONGARCH, KVM_INTERRUPT, &[14], Errno::EINVAL);
    refused(&arch::MIPS, KVM_INTERRUPT, &[SET, 5], Errno::EINVAL);
    refused(&arch::MIPS, KVM_INTERRUPT, &[9, 2], Errno::EINVAL);
    refused(
        &arch::S390,
        arch::KVM_S390_INTERRUPT,
        &[0xffff_2603, 0, 0, 0],
        Errno::EINVAL,
    );
    refused(&arch::INTEL, KVM_INTERRUPT, &[256], Errno::EINVAL);

    let taken_back = |arch: &'static dyn Arch, set: &[u32], unset: &[u32]| {
        let machine = machine(arch, 1);
        let pending = || {
            let kvm = machine.vmm.host.live_vms().pop().expect("a VM");
            kvm.vcpus()
                .next()
                .expect("a vCPU")
                .arch()
                .is_interrupt_pending()
        };
        for (words, expected) in [(set, true), (unset, false)] {
            let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
            let arg = machine.vmm.process.map_copy(&bytes);
            assert_eq!(machine.call(machine.vcpus[0], KVM_INTERRUPT, arg), Ok(0));
            assert_eq!(pending(), expected, "{}", arch.name());
        }
    };
    taken_back(&arch::LOONGARCH, &[7], &[-7i32 as u32]);
    taken_back(&arch::MIPS, &[0, 4], &[SET, -4i32 as u32]);
    taken_back(&arch::POWERPC, &[SET], &[UNSET]);
    taken_back(&arch::RISCV, &[SET], &[UNSET]);
}

#[test]
fn s390_takes_one_external_call_at_a_time() {
    let machine = machine(&arch::S390, 1);
    let call = machine.words([0xffff_1202, 0, 0, 0]);
    let inject = || machine.call(machine.vcpus[0], arch::KVM_S390_INTERRUPT, call);
    assert_eq!((inject(), inject()), (Ok(0), Err(Errno::EBUSY)));
}

#[test]
fn s390_looks_at_the_sender_the_flags_and_whether_the_vcpu_is_stopped() {
    const EXTERNAL_CALL: u32 = 0xffff_1202;
    const STOP: u32 = 0xfffe_0000;
    const SET_PREFIX: u32 = 0xfffe_0002;
    let machine = machine(&arch::S390, 1);
    let inject = |kind: u32, parm: u32| {
        let at = machine.words([kind, parm, 0, 0]);
        machine.call_unless_locked(machine.vcpus[0], arch::KVM_S390_INTERRUPT, at)
    };
    // interrupt.c s390int_to_s390irq, __inject_extcall, __inject_sigp_stop, __inject_set_prefix.
    assert_eq!(inject(EXTERNAL_CALL, 1 << 16), Err(Errno::EINVAL));
    assert_eq!(inject(EXTERNAL_CALL, 7), Err(Errno::EINVAL));
    assert_eq!(inject(STOP, 2), Err(Errno::EINVAL));
    assert_eq!(inject(STOP, 0), Ok(0));
    machine.while_running(0, |_| {
        while inject(SET_PREFIX, 0) != Err(Errno::EBUSY) {
            std::thread::yield_now();
        }
    });
}

#[test]
fn what_is_x86s_is_not_offered_elsewhere() {
    for arch in arch::ARCHES.iter().filter(|arch| !arch.has_x86_tables()) {
        let machine = machine(*arch, 1);
        let kvm = machine.vmm.kvm;
        assert_eq!(
            machine.call(kvm, KVM_CREATE_VM, KVM_X86_TDX_VM),
            Err(Errno::EINVAL)
        );
        assert_eq!(
            machine.call(kvm, KVM_CHECK_EXTENSION, u64::from(KVM_CAP_VM_TYPES)),
            Ok(0)
        );
        assert_eq!(
            machine.call(kvm, KVM_CHECK_EXTENSION, u64::from(KVM_CAP_USER_MEMORY)),
            Ok(1)
        );
        assert_eq!(
            machine.call(machine.vm, KVM_MEMORY_ENCRYPT_OP, 0),
            Err(Errno::ENOTTY)
        );
        let reply = machine.call(machine.vcpus[0], KVM_MEMORY_ENCRYPT_OP, 0);
        assert_eq!(reply, Err(Errno::EINVAL), "{}", arch.name());
    }
}
