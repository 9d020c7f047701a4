//! Xen's attributes of a VM, and its event channels.

use std::collections::BTreeMap;
use std::sync::Arc;

use seamlock_tdx_abi::kvm::{
    Errno, KVM_IRQ_ROUTING_XEN_EVTCHN_PRIO_2LEVEL, KVM_XEN_HVM_CONFIG_EVTCHN_SEND,
    KVM_XEN_HVM_CONFIG_INTERCEPT_HCALL, KVM_XEN_HVM_CONFIG_PVCLOCK_TSC_UNSTABLE,
    KVM_XEN_INVALID_GPA, KvmIrqRoutingXenEvtchn, KvmXenAttr, KvmXenHvmConfig,
};
use seamlock_tdx_abi::{PAGE_SHIFT, PAGE_SIZE};

use super::{Area, told_gpa, told_hva, upcall_vector};
use crate::error::{Result, fail};
use crate::ioctl::eventfd::eventfd;
use crate::task::Task;
use crate::vm::Kvm;
use crate::vm::eventfds::EventFd;

/// `KVM_XEN_ATTR_TYPE_*`.
mod attr {
    pub(super) const LONG_MODE: u16 = 0;
    pub(super) const SHARED_INFO: u16 = 1;
    pub(super) const UPCALL_VECTOR: u16 = 2;
    pub(super) const EVTCHN: u16 = 3;
    pub(super) const XEN_VERSION: u16 = 4;
    pub(super) const RUNSTATE_UPDATE_FLAG: u16 = 5;
    pub(super) const SHARED_INFO_HVA: u16 = 6;
}

/// `KVM_XEN_EVTCHN_*`.
const DEASSIGN: u32 = 1;
const UPDATE: u32 = 1 << 1;
const RESET: u32 = 1 << 2;
/// `EVTCHNSTAT_interdomain` and `EVTCHNSTAT_ipi`.
const INTERDOMAIN: u32 = 2;
const IPI: u32 = 5;
const SET: &str = "arch/x86/kvm/xen.c:771 kvm_xen_hvm_set_attr";

/// Where the events of a port go.
#[derive(Clone, Debug)]
struct Port {
    kind: u32,
    /// 0 for an eventfd.
    port: u32,
    vcpu: u32,
    _eventfd: Option<Arc<dyn EventFd>>,
}

/// `struct kvm_xen`.
#[derive(Clone, Debug, Default)]
pub(crate) struct XenVm {
    config: KvmXenHvmConfig,
    pub(super) long_mode: bool,
    shared_info: Option<Area>,
    upcall_vector: u8,
    version: u32,
    runstate_update_flag: bool,
    ports: BTreeMap<u32, Port>,
}

impl XenVm {
    /// `max_evtchn_port`.
    fn port_limit(&self) -> u32 {
        if self.long_mode { 4096 } else { 1024 }
    }
}

/// `kvm_xen_hvm_config`.
pub(in crate::ioctl) fn hvm_config(task: &Task, kvm: &Arc<Kvm>, arg: u64) -> Result<i64> {
    const SITE: &str = "arch/x86/kvm/xen.c:1405 kvm_xen_hvm_config";
    const PERMITTED: u32 = KVM_XEN_HVM_CONFIG_INTERCEPT_HCALL
        | KVM_XEN_HVM_CONFIG_EVTCHN_SEND
        | KVM_XEN_HVM_CONFIG_PVCLOCK_TSC_UNSTABLE;
    let new: KvmXenHvmConfig = task.get(arg, "arch/x86/kvm/x86.c:4615 kvm_arch_vm_ioctl")?;
    if new.flags & !PERMITTED != 0 {
        return fail(Errno::EINVAL, SITE, "a flag that can't be set");
    }
    let has_page = [new.blob_addr_32, new.blob_addr_64] != [0; 2]
        || [new.blob_size_32, new.blob_size_64] != [0; 2];
    if new.flags & KVM_XEN_HVM_CONFIG_INTERCEPT_HCALL != 0 && has_page {
        return fail(
            Errno::EINVAL,
            SITE,
            "a hypercall page, which the kernel makes itself",
        );
    }
    if new.msr != 0 && !(0x4000_0000..=0x4fff_ffff).contains(&new.msr) {
        return fail(Errno::EINVAL, SITE, "the MSR is none of a hypervisor");
    }
    kvm.xen.with(|xen| xen.config = new);
    Ok(0)
}

fn shared_info(task: &Task, kvm: &Kvm, new: &KvmXenAttr) -> Result<i64> {
    let _srcu = kvm.srcu.read();
    let value = new.u[0];
    let area = match new.r#type {
        attr::SHARED_INFO if value == KVM_XEN_INVALID_GPA => None,
        attr::SHARED_INFO => Some(Area::Gpa(value << PAGE_SHIFT)),
        _ if !value.is_multiple_of(PAGE_SIZE) => {
            return fail(Errno::EINVAL, SET, "the address is not that of a page");
        }
        _ => (value != 0).then_some(Area::Hva(value)),
    };
    let area = match area {
        Some(area) => area.activate(task, kvm, PAGE_SIZE)?,
        None => None,
    };
    kvm.xen.with(|xen| xen.shared_info = area);
    Ok(0)
}

/// `kvm_xen_hvm_set_attr`.
pub(in crate::ioctl) fn hvm_set_attr(task: &Task, kvm: &Arc<Kvm>, arg: u64) -> Result<i64> {
    let new: KvmXenAttr = task.get(arg, "arch/x86/kvm/x86.c:4634 kvm_arch_vm_ioctl")?;
    let value = new.u[0];
    match new.r#type {
        attr::LONG_MODE => kvm.xen.with(|xen| xen.long_mode = value as u8 != 0),
        attr::SHARED_INFO | attr::SHARED_INFO_HVA => return shared_info(task, kvm, &new),
        attr::UPCALL_VECTOR => {
            let vector = upcall_vector(value, SET)?;
            kvm.xen.with(|xen| xen.upcall_vector = vector);
        }
        attr::EVTCHN => return set_port(task, kvm, &new),
        attr::XEN_VERSION => kvm.xen.with(|xen| xen.version = value as u32),
        attr::RUNSTATE_UPDATE_FLAG => {
            kvm.xen
                .with(|xen| xen.runstate_update_flag = value as u8 != 0);
        }
        _ => return fail(Errno::ENOENT, SET, "no such attribute"),
    }
    Ok(0)
}

/// `kvm_xen_hvm_get_attr`.
pub(in crate::ioctl) fn hvm_get_attr(task: &Task, kvm: &Arc<Kvm>, arg: u64) -> Result<i64> {
    const SITE: &str = "arch/x86/kvm/xen.c:876 kvm_xen_hvm_get_attr";
    const COPY: &str = "arch/x86/kvm/x86.c:4623 kvm_arch_vm_ioctl";
    let mut told: KvmXenAttr = task.get(arg, COPY)?;
    let xen = kvm.xen.with(|xen| xen.clone());
    // What is written is as wide as the attribute.
    let byte = |old: u64, new: u8| old & !0xff | u64::from(new);
    let old = told.u[0];
    told.u[0] = match told.r#type {
        attr::LONG_MODE => byte(old, xen.long_mode.into()),
        attr::SHARED_INFO => match told_gpa(xen.shared_info) {
            KVM_XEN_INVALID_GPA => KVM_XEN_INVALID_GPA,
            gpa => gpa >> PAGE_SHIFT,
        },
        attr::SHARED_INFO_HVA => told_hva(xen.shared_info),
        attr::UPCALL_VECTOR => byte(old, xen.upcall_vector),
        attr::XEN_VERSION => old & !0xffff_ffff | u64::from(xen.version),
        attr::RUNSTATE_UPDATE_FLAG => byte(old, xen.runstate_update_flag.into()),
        _ => {
            return fail(
                Errno::ENOENT,
                SITE,
                "no such attribute, or one that is not given",
            );
        }
    };
    task.put(arg, &told, COPY).map(|()| 0)
}

/// `kvm_xen_setattr_evtchn`: assigns, changes or takes away where a port's events go.
fn set_port(task: &Task, kvm: &Kvm, new: &KvmXenAttr) -> Result<i64> {
    const SITE: &str = "arch/x86/kvm/xen.c:2283 kvm_xen_setattr_evtchn";
    let half = |i: usize| (new.u[i / 2] >> (32 * (i % 2))) as u32;
    let [send_port, kind, flags, port, vcpu, priority] = std::array::from_fn(half);
    if flags == RESET {
        kvm.xen.with(|xen| xen.ports.clear());
        kvm.srcu.synchronize();
        return Ok(0);
    }
    let limit = kvm.xen.with(|xen| xen.port_limit());
    if send_port == 0 || send_port >= limit {
        return fail(Errno::EINVAL, SITE, "no port has this number");
    }
    let two_level = priority == KVM_IRQ_ROUTING_XEN_EVTCHN_PRIO_2LEVEL;
    match flags {
        DEASSIGN => {
            if kvm.xen.with(|xen| xen.ports.remove(&send_port)).is_none() {
                return fail(Errno::ENOENT, SITE, "the port is not assigned");
            }
            kvm.srcu.synchronize();
            Ok(0)
        }
        UPDATE => kvm.xen.with(|xen| match xen.ports.get_mut(&send_port) {
            None => fail(Errno::ENOENT, SITE, "the port is not assigned"),
            Some(old) if old.kind != kind || old.port == 0 || old.port != port || !two_level => {
                fail(Errno::EINVAL, SITE, "more than the vCPU changes")
            }
            Some(old) => {
                old.vcpu = vcpu;
                Ok(0)
            }
        }),
        0 => {
            let right = match kind {
                IPI => port == send_port,
                INTERDOMAIN => port < limit,
                _ => false,
            };
            let by_eventfd = kind == INTERDOMAIN && port == 0;
            if !right {
                return fail(
                    Errno::EINVAL,
                    SITE,
                    "a kind or a port that can't be sent to",
                );
            }
            let eventfd = match by_eventfd {
                true => Some(eventfd(task, vcpu)?),
                false if two_level => None,
                false => return fail(Errno::EINVAL, SITE, "the channel has not two levels"),
            };
            let port = Port {
                kind,
                port,
                vcpu,
                _eventfd: eventfd,
            };
            kvm.xen.with(|xen| {
                if xen.ports.contains_key(&send_port) {
                    return fail(Errno::EEXIST, SITE, "the port is assigned already");
                }
                xen.ports.insert(send_port, port);
                Ok(0)
            })
        }
        _ => fail(Errno::EINVAL, SITE, "flags that do not go together"),
    }
}

/// `kvm_xen_hvm_evtchn_send`. The event is dropped: no guest waits for it.
pub(in crate::ioctl) fn hvm_evtchn_send(task: &Task, kvm: &Arc<Kvm>, arg: u64) -> Result<i64> {
    const SITE: &str = "arch/x86/kvm/xen.c:2063 kvm_xen_hvm_evtchn_send";
    const SEND: &str = "arch/x86/kvm/xen.c:1834 kvm_xen_set_evtchn_fast";
    let event: KvmIrqRoutingXenEvtchn =
        task.get(arg, "arch/x86/kvm/x86.c:4643 kvm_arch_vm_ioctl")?;
    let (limit, shared_info) = kvm.xen.with(|xen| (xen.port_limit(), xen.shared_info));
    let two_level = event.priority == KVM_IRQ_ROUTING_XEN_EVTCHN_PRIO_2LEVEL;
    if event.port == 0 || event.port >= limit || !two_level {
        return fail(Errno::EINVAL, SITE, "no such port, or not of two levels");
    }
    if kvm.vcpu_by_id(event.vcpu).is_none() || shared_info.is_none() {
        return fail(Errno::EINVAL, SEND, "no such vCPU, or no shared page");
    }
    Ok(0)
}
