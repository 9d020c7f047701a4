//! The ioctl ABI: one table keyed by request number, and the checks before any handler.
//!
//! # Locking
//! VM ioctls start without a lock. vCPU ioctls try the architecture's unlocked hook, then take
//! `vcpu->mutex` (killable), then load the vCPU where the table says so.

mod caps;
mod cpuid;
mod dirty_log;
mod eventfd;
mod hyperv;
mod irqchip;
mod msrs;
mod nested;
mod regs;
mod stats;
mod supported_cpuid;
mod system;
mod table;
mod vcpu;
mod vm;
mod xen;

use std::borrow::Cow;
use std::sync::Arc;

use seamlock_tdx_abi::kvm::{Errno, KVM_MEMORY_ENCRYPT_OP, KVMIO, TdxCmdId};

use crate::arch::{self, Handled};
use crate::error::{Result, fail};
use crate::file::{File, Kind};
use crate::host::Host;
use crate::observer::IoctlCall;
use crate::task::Task;
use crate::tdx;
use crate::vcpu::VcpuRef;
use crate::vm::Kvm;

pub use caps::{OFF as OFF_CAPS, X86 as X86_CAPS};
pub(crate) use nested::NestedVmx;
pub(crate) use regs::{
    apply_events, apply_regs, apply_sregs, events, is_valid_apic_base, sync_regs,
};
pub(crate) use supported_cpuid::supported;
pub(crate) use system::{ARCH_CAPABILITIES, supported_xcr0, supported_xss};
pub use table::{ABSENT, Entry, Handler, TABLE};
pub(crate) use xen::{XenVcpu, XenVm};

/// `ioctl(2)` on a descriptor.
///
/// # Errors
/// EBADF when it is not open, and those of the handler.
pub fn ioctl_fd(task: &Task, fd: i32, request: u32, arg: u64) -> Result<i64> {
    let Some(file) = File::of(task, fd) else {
        return fail(
            Errno::EBADF,
            "fs/ioctl.c ioctl",
            "the descriptor is not open",
        );
    };
    let result = ioctl(task, &file, request, arg);
    file.put(task);
    result
}

/// `ioctl(2)` on one of KVM's files. The caller has a reference to it.
///
/// # Errors
/// The errno that the kernel would return, with the check that it comes from.
pub fn ioctl(task: &Task, file: &Arc<File>, request: u32, arg: u64) -> Result<i64> {
    let _entered = file.host().enter();
    let request = file.host().arch().encoding().to_generic(request);
    let result = match file.kind() {
        Kind::System(host) => system_ioctl(task, host, request, arg),
        Kind::Vm(kvm) => vm_ioctl(task, kvm, request, arg),
        Kind::Vcpu(vcpu) => vcpu_ioctl(task, vcpu, request, arg),
        Kind::Gmem(_) | Kind::Stats(_) => fail(
            Errno::ENOTTY,
            "fs/ioctl.c vfs_ioctl",
            "the file has no ioctls",
        ),
    };
    task.run_work();
    if let Some(observer) = file.host().observer() {
        let row = table::find(file.kind(), request);
        let command = tdx_command(task, request, arg);
        observer.ioctl(&IoctlCall {
            name: &name_of(row.map(|(_, entry)| entry), request, command),
            row: row.map(|(row, _)| row).filter(|_| command.is_none()),
            request,
            result: &result,
        });
    }
    result
}

/// The name of the TDX command that a request gives, where it is one.
fn tdx_command(task: &Task, request: u32, arg: u64) -> Option<&'static str> {
    if request != KVM_MEMORY_ENCRYPT_OP {
        return None;
    }
    TdxCmdId(task.get::<u32>(arg, "").ok()?).name()
}

/// The kernel's name of a request, with the TDX command where there is one.
fn name_of(entry: Option<&Entry>, request: u32, command: Option<&str>) -> Cow<'static, str> {
    match (entry, command) {
        (Some(entry), Some(command)) => format!("{}({command})", entry.name).into(),
        (Some(entry), None) => entry.name.into(),
        (None, _) => match seamlock_tdx_abi::kvm::ioctl_info(request) {
            Some(info) => info.name.into(),
            None => format!("ioctl {request:#x}").into(),
        },
    }
}

fn system_ioctl(task: &Task, host: &Arc<Host>, request: u32, arg: u64) -> Result<i64> {
    match table::system(request).filter(|_| arch::has_request(host.arch(), request)) {
        Some(handler) => handler(task, host, arg),
        None => {
            const SITE: &str = "arch/x86/kvm/x86.c kvm_arch_dev_ioctl";
            fail(Errno::EINVAL, SITE, "no such ioctl of /dev/kvm")
        }
    }
}

fn vm_ioctl(task: &Task, kvm: &Arc<Kvm>, request: u32, arg: u64) -> Result<i64> {
    const SITE: &str = "virt/kvm/kvm_main.c:5213 kvm_vm_ioctl";
    check_alive(task, kvm, SITE)?;
    let arch = kvm.host.arch();
    if let Handled::Yes(result) = arch.kvm_arch_vm_ioctl(task, kvm, request, arg) {
        return result;
    }
    match table::vm(request).filter(|_| arch::has_request(arch, request)) {
        Some(handler) => handler(task, kvm, arg),
        None => {
            const SITE: &str = "arch/x86/kvm/x86.c kvm_arch_vm_ioctl";
            fail(Errno::ENOTTY, SITE, "no such ioctl of a VM")
        }
    }
}

fn check_alive(task: &Task, kvm: &Kvm, site: &'static str) -> Result<()> {
    if kvm.mm != task.mm() {
        return fail(Errno::EIO, site, "the VM belongs to another address space");
    }
    if kvm.is_dead() {
        return fail(Errno::EIO, site, "the VM is dead");
    }
    Ok(())
}

/// `kvm_vcpu_ioctl`.
fn vcpu_ioctl(task: &Task, vcpu: &VcpuRef, request: u32, arg: u64) -> Result<i64> {
    check_alive(task, vcpu.kvm(), "virt/kvm/kvm_main.c:4473 kvm_vcpu_ioctl")?;
    if (request >> 8) as u8 != KVMIO {
        const SITE: &str = "virt/kvm/kvm_main.c:4476 kvm_vcpu_ioctl";
        return fail(Errno::EINVAL, SITE, "the request is not of KVM's type");
    }
    wait_for_online(task, vcpu)?;
    let arch = vcpu.kvm().host.arch();
    if let Handled::Yes(result) = arch.kvm_arch_vcpu_unlocked_ioctl(task, vcpu, request, arg) {
        return result;
    }
    let Ok(_mutex) = vcpu.mutex.lock_killable(None, || task.killed()) else {
        const SITE: &str = "virt/kvm/kvm_main.c:4496 kvm_vcpu_ioctl";
        return fail(
            Errno::EINTR,
            SITE,
            "a fatal signal ended the wait for vcpu->mutex",
        );
    };
    match table::vcpu(request).filter(|_| arch::has_request(arch, request)) {
        Some((handler, false)) => handler(task, vcpu, arg),
        Some((handler, true)) => {
            let _loaded = vcpu.load(task);
            handler(task, vcpu, arg)
        }
        None => {
            let _loaded = vcpu.load(task);
            const SITE: &str = "arch/x86/kvm/x86.c:3890 kvm_arch_vcpu_ioctl";
            fail(Errno::EINVAL, SITE, "no such ioctl of a vCPU")
        }
    }
}

/// `kvm_wait_for_vcpu_online`: whoever creates the vCPU holds its mutex until it is online.
fn wait_for_online(task: &Task, vcpu: &VcpuRef) -> Result<()> {
    const SITE: &str = "virt/kvm/kvm_main.c:4437 kvm_wait_for_vcpu_online";
    let kvm = vcpu.kvm();
    if vcpu.idx() < i64::from(kvm.online_vcpus.load()) {
        return Ok(());
    }
    if vcpu.mutex.lock_killable(None, || task.killed()).is_err() {
        return fail(
            Errno::EINTR,
            SITE,
            "a fatal signal ended the wait for vcpu->mutex",
        );
    }
    if vcpu.idx() < i64::from(kvm.online_vcpus.load()) {
        return Ok(());
    }
    fail(Errno::EIO, SITE, "the vCPU never came online")
}

/// `vt_vcpu_mem_enc_unlocked_ioctl`.
pub(crate) fn vt_vcpu_mem_enc_unlocked_ioctl(task: &Task, vcpu: &VcpuRef, arg: u64) -> Handled {
    if !vcpu.kvm().is_td() {
        const SITE: &str = "arch/x86/kvm/vmx/main.c:871 vt_vcpu_mem_enc_unlocked_ioctl";
        return Handled::Yes(fail(Errno::EINVAL, SITE, "the VM is no TD"));
    }
    tdx::tdx_vcpu_unlocked_ioctl(task, vcpu, arg)
}
