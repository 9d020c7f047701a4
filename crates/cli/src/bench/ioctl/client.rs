//! A client of `/dev/kvm`, whichever it is: an ordinary VM with one vCPU.

use anyhow::bail;
use kvm_ioctls::{Cap, Kvm};

use super::super::seamcall::Samples;
use super::{CALLS, GETPPID, Nanoseconds, best};

/// Every call that is measured, with what it shows.
pub(super) const NAMES: &[&str] = &[
    // Nothing but the way there and back.
    "KVM_GET_API_VERSION",
    "KVM_CHECK_EXTENSION",
    // A VM's state.
    "KVM_CHECK_EXTENSION(vm)",
    // A vCPU's mutex, and a structure copied out.
    "KVM_GET_MP_STATE",
    "KVM_GET_TSC_KHZ",
    // Into KVM_RUN and out of it.
    "KVM_RUN(immediate_exit)",
];

/// Measures every call.
pub(super) fn measure(rounds: usize) -> anyhow::Result<Nanoseconds> {
    let kvm = Kvm::new()?;
    let vm = kvm.create_vm()?;
    let mut vcpu = vm.create_vcpu(0)?;
    vcpu.set_kvm_immediate_exit(1);
    let mut samples = Samples::default();
    for _ in 0..rounds {
        let mut time = |name: &str, call: &mut dyn FnMut() -> anyhow::Result<()>| {
            samples.time(name, CALLS, |_| call())
        };
        time(GETPPID, &mut || {
            std::hint::black_box(rustix::process::getppid());
            Ok(())
        })?;
        time(NAMES[0], &mut || match kvm.get_api_version() {
            12 => Ok(()),
            other => bail!("KVM_GET_API_VERSION is {other}"),
        })?;
        time(NAMES[1], &mut || {
            std::hint::black_box(kvm.check_extension_int(Cap::UserMemory));
            Ok(())
        })?;
        time(NAMES[2], &mut || {
            std::hint::black_box(vm.check_extension_int(Cap::UserMemory));
            Ok(())
        })?;
        time(NAMES[3], &mut || {
            std::hint::black_box(vcpu.get_mp_state()?);
            Ok(())
        })?;
        time(NAMES[4], &mut || {
            std::hint::black_box(vcpu.get_tsc_khz()?);
            Ok(())
        })?;
        time(NAMES[5], &mut || match vcpu.run() {
            Err(error) if error.errno() == rustix::io::Errno::INTR.raw_os_error() => Ok(()),
            other => bail!("KVM_RUN with immediate_exit gave {other:?}"),
        })?;
    }
    Ok(best(&samples, &[NAMES, &[GETPPID]].concat()))
}
