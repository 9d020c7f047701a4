//! What a call costs that does nothing, here and on the host's own KVM.

use std::fmt;
use std::time::{Duration, Instant};

use kvm_ioctls::Cap;
use seamlock_kvm::task::Files;
use seamlock_kvm::{Control, File, Host, Options, Process, ioctl_fd};
use seamlock_tdx_abi::kvm::*;
use seamlock_tdx_module::Platform;
use serde::Serialize;

use crate::style::HEAD;

/// Calls of one measurement.
const CALLS: u32 = 2_000;
/// Measurements, of which the best counts.
const TRIES: u32 = 20;

/// One ioctl.
#[derive(Clone, Debug, Serialize)]
pub struct Cost {
    /// The ioctl and the kind of file.
    pub call: &'static str,
    /// Nanoseconds here.
    pub here_ns: f64,
    /// Nanoseconds of the host's KVM.
    pub host_ns: Option<f64>,
}

/// All of them.
#[derive(Clone, Debug, Serialize)]
pub struct Costs {
    /// The ioctls.
    pub rows: Vec<Cost>,
    /// Why the host's KVM was not measured.
    pub no_host: Option<String>,
}

/// Nanoseconds of a call: the best of many measurements.
fn best(mut call: impl FnMut()) -> f64 {
    let mut best = Duration::MAX;
    for _ in 0..TRIES {
        let start = Instant::now();
        for _ in 0..CALLS {
            call();
        }
        best = best.min(start.elapsed());
    }
    best.as_nanos() as f64 / f64::from(CALLS)
}

/// Measures.
///
/// # Errors
/// When the machine does not boot.
pub fn measure() -> anyhow::Result<Costs> {
    let mut rows = here()?;
    let no_host = match on_host() {
        Ok(host) => {
            for (row, ns) in rows.iter_mut().zip(host) {
                row.host_ns = Some(ns);
            }
            None
        }
        Err(why) => Some(why.to_string()),
    };
    Ok(Costs { rows, no_host })
}

fn here() -> anyhow::Result<Vec<Cost>> {
    let options = Options {
        lockdep: None,
        ..Options::default()
    };
    let host = Host::boot_with(Platform::sapphire_rapids(4 << 30, 4), options)?;
    let process = Process::new(1);
    let control = Control::on(0);
    let kvm = process
        .install(&File::open_kvm(&host))
        .map_err(|errno| anyhow::anyhow!("{errno}"))?;
    let buffer = process.map(4096);
    let make = |fd: i32, request: u32, arg: u64| {
        let made = ioctl_fd(&process.task(&control), fd, request, arg)?;
        anyhow::Ok(made as i32)
    };
    let vm = make(kvm, KVM_CREATE_VM, 0)?;
    make(vm, KVM_CREATE_IRQCHIP, 0)?;
    let vcpu = make(vm, KVM_CREATE_VCPU, 0)?;
    let cap = u64::from(KVM_CAP_USER_MEMORY);
    let calls: [(&'static str, i32, u32, u64); 5] = [
        ("KVM_GET_API_VERSION", kvm, KVM_GET_API_VERSION, 0),
        ("KVM_CHECK_EXTENSION", kvm, KVM_CHECK_EXTENSION, cap),
        ("KVM_GET_VCPU_MMAP_SIZE", kvm, KVM_GET_VCPU_MMAP_SIZE, 0),
        ("KVM_CHECK_EXTENSION (VM)", vm, KVM_CHECK_EXTENSION, cap),
        ("KVM_GET_MP_STATE (vCPU)", vcpu, KVM_GET_MP_STATE, buffer),
    ];
    let row = |(call, fd, request, arg)| Cost {
        call,
        here_ns: best(|| {
            let task = process.task(&control);
            let _ = std::hint::black_box(ioctl_fd(&task, fd, request, arg));
        }),
        host_ns: None,
    };
    Ok(calls.into_iter().map(row).collect())
}

/// The same calls, in the same order, of the kernel that this runs on.
fn on_host() -> Result<Vec<f64>, kvm_ioctls::Error> {
    use std::hint::black_box;
    let kvm = kvm_ioctls::Kvm::new()?;
    let vm = kvm.create_vm()?;
    vm.create_irq_chip()?;
    let vcpu = vm.create_vcpu(0)?;
    let mut ns = vec![
        best(|| {
            black_box(kvm.get_api_version());
        }),
        best(|| {
            black_box(kvm.check_extension_int(Cap::UserMemory));
        }),
        best(|| {
            let _ = black_box(kvm.get_vcpu_mmap_size());
        }),
        best(|| {
            black_box(vm.check_extension_int(Cap::UserMemory));
        }),
    ];
    ns.push(best(|| {
        let _ = black_box(vcpu.get_mp_state());
    }));
    Ok(ns)
}

impl fmt::Display for Costs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (head, reset) = (HEAD.render(), HEAD.render_reset());
        writeln!(
            f,
            "{head}{:<30} {:>10} {:>12} {:>8}{reset}",
            "call that does nothing", "here ns", "host's KVM", "ratio"
        )?;
        for row in &self.rows {
            let host = row.host_ns.map_or("-".to_owned(), |ns| format!("{ns:.0}"));
            let ratio = row
                .host_ns
                .map_or("-".to_owned(), |ns| format!("{:.2}", row.here_ns / ns));
            writeln!(
                f,
                "{:<30} {:>10.0} {host:>12} {ratio:>8}",
                row.call, row.here_ns
            )?;
        }
        if let Some(why) = &self.no_host {
            writeln!(f, "the host's KVM was not measured: /dev/kvm: {why}")?;
        }
        Ok(())
    }
}
