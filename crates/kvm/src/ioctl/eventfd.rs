//! KVM_IRQFD and KVM_IOEVENTFD.
//!
//! Source: Linux v7.3.4 `virt/kvm/eventfd.c`.

use std::sync::Arc;

use seamlock_tdx_abi::kvm::{
    Errno, KVM_IOEVENTFD_FLAG_DATAMATCH, KVM_IOEVENTFD_FLAG_DEASSIGN, KVM_IOEVENTFD_FLAG_PIO,
    KVM_IOEVENTFD_FLAG_VIRTIO_CCW_NOTIFY, KVM_IRQFD_FLAG_DEASSIGN, KVM_IRQFD_FLAG_RESAMPLE,
    KvmIoeventfd, KvmIrqfd,
};

use crate::error::{Error, Result, fail};
use crate::task::Task;
use crate::vm::eventfds::EventFd;
use crate::vm::{Irqchip, Kvm};

/// Every flag that KVM_IOEVENTFD knows.
const IOEVENTFD_FLAGS: u32 = KVM_IOEVENTFD_FLAG_DATAMATCH
    | KVM_IOEVENTFD_FLAG_PIO
    | KVM_IOEVENTFD_FLAG_DEASSIGN
    | KVM_IOEVENTFD_FLAG_VIRTIO_CCW_NOTIFY;

/// `eventfd_ctx_fdget`.
pub(super) fn eventfd(task: &Task, fd: u32) -> Result<Arc<dyn EventFd>> {
    task.files().eventfd(fd as i32).map_err(|errno| {
        let reason = match errno {
            Errno::EBADF => "the descriptor is not open",
            _ => "the descriptor is no eventfd",
        };
        Error::new(errno, "fs/eventfd.c eventfd_ctx_fdget", reason)
    })
}

pub(super) fn irqfd(task: &Task, kvm: &Arc<Kvm>, arg: u64) -> Result<i64> {
    const SITE: &str = "virt/kvm/eventfd.c kvm_irqfd";
    let args: KvmIrqfd = task.get(arg, "virt/kvm/kvm_main.c:5307 kvm_vm_ioctl")?;
    if args.flags & !(KVM_IRQFD_FLAG_DEASSIGN | KVM_IRQFD_FLAG_RESAMPLE) != 0 {
        return fail(Errno::EINVAL, SITE, "an unknown flag is set");
    }
    if args.flags & KVM_IRQFD_FLAG_DEASSIGN != 0 {
        let eventfd = eventfd(task, args.fd)?;
        kvm.eventfds
            .deassign_irqfd(&kvm.host.irqfds, args.gsi, &*eventfd);
        return Ok(0);
    }
    let irqchip = kvm.arch.with(|arch| arch.irqchip);
    let resample = args.flags & KVM_IRQFD_FLAG_RESAMPLE != 0;
    if irqchip == Irqchip::None {
        return fail(Errno::EINVAL, SITE, "there is no irqchip in the kernel");
    }
    if resample && irqchip != Irqchip::Kernel {
        return fail(
            Errno::EINVAL,
            SITE,
            "RESAMPLE needs the whole irqchip in the kernel",
        );
    }
    let trigger = eventfd(task, args.fd)?;
    if resample {
        eventfd(task, args.resamplefd)?;
    }
    kvm.eventfds
        .assign_irqfd(&kvm.host.irqfds, args.gsi, trigger)?;
    Ok(0)
}

pub(super) fn ioeventfd(task: &Task, kvm: &Arc<Kvm>, arg: u64) -> Result<i64> {
    const SITE: &str = "virt/kvm/eventfd.c:953 kvm_assign_ioeventfd";
    let args: KvmIoeventfd = task.get(arg, "virt/kvm/kvm_main.c:5316 kvm_vm_ioctl")?;
    if args.flags & KVM_IOEVENTFD_FLAG_DEASSIGN != 0 {
        let eventfd = eventfd(task, args.fd as u32)?;
        let slots_lock = kvm.slots_lock.lock();
        kvm.eventfds
            .deassign_ioeventfd(&args, eventfd, &slots_lock)?;
        return Ok(0);
    }
    if !matches!(args.len, 0 | 1 | 2 | 4 | 8) {
        return fail(Errno::EINVAL, SITE, "len is not 0, 1, 2, 4 or 8");
    }
    if args.addr.checked_add(u64::from(args.len)).is_none() {
        return fail(Errno::EINVAL, SITE, "the range wraps");
    }
    if args.flags & !IOEVENTFD_FLAGS != 0 {
        return fail(Errno::EINVAL, SITE, "an unknown flag is set");
    }
    if args.len == 0 && args.flags & KVM_IOEVENTFD_FLAG_DATAMATCH != 0 {
        return fail(Errno::EINVAL, SITE, "DATAMATCH without a length");
    }
    let eventfd = eventfd(task, args.fd as u32)?;
    let slots_lock = kvm.slots_lock.lock();
    kvm.eventfds.assign_ioeventfd(&args, eventfd, &slots_lock)?;
    Ok(0)
}
