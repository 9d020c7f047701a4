//! Xen's attributes of a vCPU.

use seamlock_tdx_abi::PAGE_SIZE;
use seamlock_tdx_abi::kvm::{
    Errno, KVM_IRQ_ROUTING_XEN_EVTCHN_PRIO_2LEVEL, KVM_XEN_INVALID_GPA, KvmXenAttr,
};

use super::{Area, told_gpa, told_hva, upcall_vector};
use crate::error::{Result, fail};
use crate::task::Task;
use crate::vcpu::VcpuRef;
use crate::vm::KVM_MAX_VCPUS;

/// `KVM_XEN_VCPU_ATTR_TYPE_*`.
mod attr {
    pub(super) const VCPU_INFO: u16 = 0;
    pub(super) const VCPU_TIME_INFO: u16 = 1;
    pub(super) const RUNSTATE_ADDR: u16 = 2;
    pub(super) const RUNSTATE_CURRENT: u16 = 3;
    pub(super) const RUNSTATE_DATA: u16 = 4;
    pub(super) const RUNSTATE_ADJUST: u16 = 5;
    pub(super) const VCPU_ID: u16 = 6;
    pub(super) const TIMER: u16 = 7;
    pub(super) const UPCALL_VECTOR: u16 = 8;
    pub(super) const VCPU_INFO_HVA: u16 = 9;
}

/// `RUNSTATE_offline`, the highest.
const OFFLINE: u64 = 3;
/// Bytes of `struct vcpu_info` and of `struct pvclock_vcpu_time_info`.
const VCPU_INFO_BYTES: u64 = 64;
const TIME_INFO_BYTES: u64 = 32;
/// Bytes of `struct vcpu_runstate_info`, and as 32-bit guests have it.
const RUNSTATE_BYTES: u64 = 48;
const COMPAT_RUNSTATE_BYTES: u64 = 44;
const SET: &str = "arch/x86/kvm/xen.c:931 kvm_xen_vcpu_set_attr";

/// `struct kvm_vcpu_xen`.
#[derive(Clone, Debug, Default)]
pub(crate) struct XenVcpu {
    vcpu_info: Option<Area>,
    time_info: Option<Area>,
    runstate_addr: Option<Area>,
    /// State, when it was entered, and how long each state lasted.
    runstate: [u64; 6],
    /// None for the vCPU's own index.
    vcpu_id: Option<u32>,
    timer: (u32, u64),
    upcall_vector: u8,
}

/// Whether the times of the states add up to when the state was entered. kvmclock stands still at 0.
fn adds_up(runstate: &[u64; 6]) -> bool {
    let sum = runstate[2..]
        .iter()
        .fold(0u64, |sum, t| sum.wrapping_add(*t));
    runstate[1] == sum && sum == 0
}

fn area(task: &Task, vcpu: &VcpuRef, new: &KvmXenAttr) -> Result<Option<Area>> {
    let (kvm, addr) = (vcpu.kvm(), new.u[0]);
    let by_hva = new.r#type == attr::VCPU_INFO_HVA;
    if (by_hva && addr == 0) || (!by_hva && addr == KVM_XEN_INVALID_GPA) {
        return Ok(None);
    }
    let area = if by_hva {
        Area::Hva(addr)
    } else {
        Area::Gpa(addr)
    };
    match new.r#type {
        attr::VCPU_TIME_INFO => area.activate(task, kvm, TIME_INFO_BYTES),
        attr::RUNSTATE_ADDR => {
            let long_mode = kvm.xen.with(|xen| xen.long_mode);
            let bytes = if long_mode {
                RUNSTATE_BYTES
            } else {
                COMPAT_RUNSTATE_BYTES
            };
            // It may lie in two pages, each of which is there.
            let first = PAGE_SIZE - addr % PAGE_SIZE;
            if first < bytes {
                Area::Gpa(addr + first).activate(task, kvm, bytes - first)?;
            }
            area.activate(task, kvm, first)
        }
        _ if addr % 4 != 0 => fail(Errno::ENXIO, SET, "the address is not that of a word"),
        _ => area.activate(task, kvm, VCPU_INFO_BYTES),
    }
}

/// `kvm_xen_vcpu_set_attr`.
pub(in crate::ioctl) fn vcpu_set_attr(task: &Task, vcpu: &VcpuRef, arg: u64) -> Result<i64> {
    let new: KvmXenAttr = task.get(arg, "arch/x86/kvm/x86.c:3836 kvm_arch_vcpu_ioctl")?;
    let _srcu = vcpu.kvm().srcu.read();
    let memory = match new.r#type {
        attr::VCPU_INFO | attr::VCPU_INFO_HVA | attr::VCPU_TIME_INFO => area(task, vcpu, &new)?,
        attr::RUNSTATE_ADDR => match area(task, vcpu, &new) {
            Ok(area) => area,
            Err(error) => {
                vcpu.state.with(|state| state.xen.runstate_addr = None);
                return Err(error);
            }
        },
        _ => None,
    };
    let runstate: [u64; 6] = std::array::from_fn(|i| new.u[i]);
    vcpu.state.with(|state| {
        let xen = &mut state.xen;
        match new.r#type {
            attr::VCPU_INFO | attr::VCPU_INFO_HVA => xen.vcpu_info = memory,
            attr::VCPU_TIME_INFO => xen.time_info = memory,
            attr::RUNSTATE_ADDR => xen.runstate_addr = memory,
            attr::RUNSTATE_CURRENT if runstate[0] <= OFFLINE => xen.runstate[0] = runstate[0],
            attr::RUNSTATE_DATA if runstate[0] <= OFFLINE && adds_up(&runstate) => {
                xen.runstate = runstate;
            }
            attr::RUNSTATE_ADJUST
                if (runstate[0] <= OFFLINE || runstate[0] == u64::MAX) && adds_up(&runstate) =>
            {
                if runstate[0] <= OFFLINE {
                    xen.runstate[0] = runstate[0];
                }
            }
            attr::RUNSTATE_CURRENT | attr::RUNSTATE_DATA | attr::RUNSTATE_ADJUST => {
                return fail(Errno::EINVAL, SET, "no such state, or times that can't be");
            }
            attr::VCPU_ID if new.u[0] as u32 >= KVM_MAX_VCPUS => {
                return fail(Errno::EINVAL, SET, "the id is not below KVM_MAX_VCPUS");
            }
            attr::VCPU_ID => xen.vcpu_id = Some(new.u[0] as u32),
            attr::TIMER => {
                let (port, priority) = (new.u[0] as u32, (new.u[0] >> 32) as u32);
                if port != 0 && priority != KVM_IRQ_ROUTING_XEN_EVTCHN_PRIO_2LEVEL {
                    return fail(Errno::EINVAL, SET, "the channel has not two levels");
                }
                // No clock comes to the end of it.
                xen.timer = (port, if port == 0 { 0 } else { new.u[1] });
            }
            attr::UPCALL_VECTOR => xen.upcall_vector = upcall_vector(new.u[0], SET)?,
            _ => return fail(Errno::ENOENT, SET, "no such attribute"),
        }
        Ok(0)
    })
}

/// `kvm_xen_vcpu_get_attr`.
pub(in crate::ioctl) fn vcpu_get_attr(task: &Task, vcpu: &VcpuRef, arg: u64) -> Result<i64> {
    const SITE: &str = "arch/x86/kvm/xen.c:1185 kvm_xen_vcpu_get_attr";
    const COPY: &str = "arch/x86/kvm/x86.c:3825 kvm_arch_vcpu_ioctl";
    let mut told: KvmXenAttr = task.get(arg, COPY)?;
    let xen = vcpu.state.with(|state| state.xen.clone());
    let old = told.u[0];
    match told.r#type {
        attr::VCPU_INFO => told.u[0] = told_gpa(xen.vcpu_info),
        attr::VCPU_INFO_HVA => told.u[0] = told_hva(xen.vcpu_info),
        attr::VCPU_TIME_INFO => told.u[0] = told_gpa(xen.time_info),
        attr::RUNSTATE_ADDR if xen.runstate_addr.is_some() => {
            told.u[0] = told_gpa(xen.runstate_addr);
        }
        attr::RUNSTATE_CURRENT => told.u[0] = xen.runstate[0],
        attr::RUNSTATE_DATA => told.u[..6].copy_from_slice(&xen.runstate),
        attr::RUNSTATE_ADJUST => return fail(Errno::EINVAL, SITE, "it can only be set"),
        attr::VCPU_ID => {
            let id = xen.vcpu_id.unwrap_or(vcpu.idx() as u32);
            told.u[0] = old & !0xffff_ffff | u64::from(id);
        }
        attr::TIMER => {
            let (port, expires) = xen.timer;
            let priority = u64::from(KVM_IRQ_ROUTING_XEN_EVTCHN_PRIO_2LEVEL);
            (told.u[0], told.u[1]) = (u64::from(port) | priority << 32, expires);
        }
        attr::UPCALL_VECTOR => told.u[0] = old & !0xff | u64::from(xen.upcall_vector),
        _ => return fail(Errno::ENOENT, SITE, "no such attribute, or it was not set"),
    }
    task.put(arg, &told, COPY).map(|()| 0)
}
