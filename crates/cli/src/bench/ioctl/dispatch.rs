//! The same calls on KVM's dispatcher, without a library in between.

use anyhow::{anyhow, bail};
use seamlock_kvm::file::Kind;
use seamlock_kvm::task::Files;
use seamlock_kvm::{Control, File, Host, Options, Process, Task, ioctl_fd};
use seamlock_tdx_abi::kvm::*;
use seamlock_tdx_module::Platform;

use super::super::seamcall::Samples;
use super::client::NAMES;
use super::{CALLS, GETPPID, Nanoseconds, best};

/// Byte offset of `immediate_exit` in `struct kvm_run`.
const IMMEDIATE_EXIT: usize = 1;

/// Measures every call.
pub(super) fn measure(rounds: usize) -> anyhow::Result<Nanoseconds> {
    let host = Host::boot_with(Platform::sapphire_rapids(1 << 30, 2), Options::default())?;
    let process = Process::new(1);
    let control = Control::on(0);
    let task = process.task(&control);
    let kvm = process
        .install(&File::open_kvm(&host))
        .map_err(|errno| anyhow!("opening /dev/kvm: {errno}"))?;
    let vm = ioctl_fd(&task, kvm, KVM_CREATE_VM, 0)? as i32;
    let vcpu = ioctl_fd(&task, vm, KVM_CREATE_VCPU, 0)? as i32;
    if let Some(Kind::Vcpu(vcpu)) = process.file(vcpu).as_ref().map(|file| file.kind()) {
        vcpu.vcpu().run_page().write(IMMEDIATE_EXIT, &[1]);
    }
    let at = process.map(4096);
    let user_memory = u64::from(KVM_CAP_USER_MEMORY);
    let calls = [
        (NAMES[0], kvm, KVM_GET_API_VERSION, 0),
        (NAMES[1], kvm, KVM_CHECK_EXTENSION, user_memory),
        (NAMES[2], vm, KVM_CHECK_EXTENSION, user_memory),
        (NAMES[3], vcpu, KVM_GET_MP_STATE, at),
        (NAMES[4], vcpu, KVM_GET_TSC_KHZ, 0),
        (NAMES[5], vcpu, KVM_RUN, 0),
    ];
    let mut samples = Samples::default();
    for _ in 0..rounds {
        samples.time(GETPPID, CALLS, |_| {
            std::hint::black_box(rustix::process::getppid());
            Ok(())
        })?;
        for (name, fd, request, arg) in calls {
            samples.time(name, CALLS, |_| call(&task, fd, request, arg))?;
        }
    }
    Ok(best(&samples, &[NAMES, &[GETPPID]].concat()))
}

fn call(task: &Task, fd: i32, request: u32, arg: u64) -> anyhow::Result<()> {
    match ioctl_fd(task, fd, request, arg) {
        Ok(value) => {
            std::hint::black_box(value);
            Ok(())
        }
        Err(error) if request == KVM_RUN && error.is(Errno::EINTR) => Ok(()),
        Err(error) => bail!("request {request:#x}: {error}"),
    }
}
