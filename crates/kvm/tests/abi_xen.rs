//! The exact ABI of v7.3 for Xen's guests: what is kept, and what is refused by which check.

mod vmm;

use seamlock_tdx_abi::kvm::*;
use vmm::{Td, Vmm, boot};
use zerocopy::{FromBytes, IntoBytes};

const NOWHERE: u64 = KVM_XEN_INVALID_GPA;
const TWO_LEVEL: u64 = 0xffff_ffff;

fn with(vmm: &Vmm, fd: i32, request: u32, r#type: u16, u: &[u64]) -> Result<KvmXenAttr, Errno> {
    let mut attr = KvmXenAttr {
        r#type,
        ..Default::default()
    };
    attr.u[..u.len()].copy_from_slice(u);
    let at = vmm.process.map_copy(attr.as_bytes());
    vmm.ioctl(fd, request, at)?;
    let back = vmm.process.read_vec(at, 72).expect("mapped");
    Ok(KvmXenAttr::read_from_bytes(&back).expect("72 bytes"))
}

/// A TD with shared memory of two pages at 64 MiB; Xen's attributes are the same of every VM.
fn build(vmm: &Vmm) -> Td {
    let td = vmm.build(1);
    let mut slot = KvmUserspaceMemoryRegion {
        slot: 1,
        guest_phys_addr: 64 << 20,
        memory_size: 2 * 4096,
        userspace_addr: vmm.process.map(2 * 4096),
        flags: 0,
    };
    vmm.ioctl_with(td.vm, KVM_SET_USER_MEMORY_REGION, &mut slot)
        .expect("a slot");
    td
}

#[test]
fn attributes_of_a_vm_are_kept_and_checked() {
    let vmm = boot();
    let td = build(&vmm);
    let set = |r#type, value| with(&vmm, td.vm, KVM_XEN_HVM_SET_ATTR, r#type, &[value]).map(|_| ());
    let get = |r#type| with(&vmm, td.vm, KVM_XEN_HVM_GET_ATTR, r#type, &[0]).map(|a| a.u[0]);
    let shared = 64 << 20 >> 12;
    let user = vmm.process.map(4096);
    for (r#type, good, bad) in [
        (0, 1, None),
        (1, shared, Some((shared + 2, Errno::EFAULT))),
        (2, 0x40, Some((0xf, Errno::EINVAL))),
        (4, 0x4000d, None),
        (5, 1, None),
        (6, user, Some((user + 1, Errno::EINVAL))),
        (6, 0, Some((4096, Errno::EFAULT))),
        (6, 0, Some((1 << 47, Errno::EINVAL))),
    ] {
        assert_eq!(set(r#type, good), Ok(()), "type {type}");
        if let Some((bad, errno)) = bad {
            assert_eq!(set(r#type, bad), Err(errno), "type {type}");
        }
        assert_eq!(get(r#type), Ok(good), "type {type}");
    }
    assert_eq!(set(1, NOWHERE), Ok(()));
    assert_eq!(get(1), Ok(NOWHERE));
    assert_eq!(
        (set(7, 0), get(7), get(3)),
        (Err(Errno::ENOENT), Err(Errno::ENOENT), Err(Errno::ENOENT))
    );
    let config = |edit: fn(&mut KvmXenHvmConfig)| {
        let mut config = KvmXenHvmConfig {
            flags: KVM_XEN_HVM_CONFIG_INTERCEPT_HCALL,
            msr: 0x4000_0000,
            ..Default::default()
        };
        edit(&mut config);
        let at = vmm.process.map_copy(config.as_bytes());
        vmm.ioctl(td.vm, KVM_XEN_HVM_CONFIG, at)
    };
    assert_eq!(config(|_| {}), Ok(0));
    assert_eq!(config(|c| c.flags = 1), Err(Errno::EINVAL));
    assert_eq!(config(|c| c.blob_size_64 = 1), Err(Errno::EINVAL));
    assert_eq!(config(|c| c.msr = 0x10), Err(Errno::EINVAL));
    vmm.drop_td(&td);
}

#[test]
fn event_channels_are_assigned_once_changed_in_their_vcpu_alone_and_taken_away() {
    let vmm = boot();
    let td = build(&vmm);
    // Port and kind; flags and where to; vCPU and priority.
    let port = |send, kind: u64, flags: u64, port: u64, vcpu: u64, priority: u64| {
        let u = [send | kind << 32, flags | port << 32, vcpu | priority << 32];
        with(&vmm, td.vm, KVM_XEN_HVM_SET_ATTR, 3, &u).map(|_| ())
    };
    assert_eq!(port(0, 5, 0, 0, 0, TWO_LEVEL), Err(Errno::EINVAL));
    assert_eq!(port(1024, 5, 0, 1024, 0, TWO_LEVEL), Err(Errno::EINVAL));
    assert_eq!(port(7, 5, 0, 8, 0, TWO_LEVEL), Err(Errno::EINVAL));
    assert_eq!(port(7, 4, 0, 7, 0, TWO_LEVEL), Err(Errno::EINVAL));
    assert_eq!(port(7, 5, 0, 7, 0, 0), Err(Errno::EINVAL));
    assert_eq!(port(7, 2, 0, 0, 1000, 0), Err(Errno::EBADF));
    assert_eq!(port(7, 5, 0, 7, 0, TWO_LEVEL), Ok(()));
    assert_eq!(port(7, 5, 0, 7, 0, TWO_LEVEL), Err(Errno::EEXIST));
    assert_eq!(port(7, 5, 2, 7, 3, TWO_LEVEL), Ok(()));
    assert_eq!(port(7, 2, 2, 7, 3, TWO_LEVEL), Err(Errno::EINVAL));
    assert_eq!(port(8, 5, 2, 8, 3, TWO_LEVEL), Err(Errno::ENOENT));
    assert_eq!(port(7, 5, 3, 7, 3, TWO_LEVEL), Err(Errno::EINVAL));
    assert_eq!(port(7, 5, 1, 0, 0, 0), Ok(()));
    assert_eq!(port(7, 5, 1, 0, 0, 0), Err(Errno::ENOENT));
    assert_eq!(port(7, 5, 0, 7, 0, TWO_LEVEL), Ok(()));
    assert_eq!(port(0, 0, 4, 0, 0, 0), Ok(()));
    assert_eq!(port(7, 5, 1, 0, 0, 0), Err(Errno::ENOENT));
    let send = |port, vcpu, priority| {
        let event = KvmIrqRoutingXenEvtchn {
            port,
            vcpu,
            priority,
        };
        let at = vmm.process.map_copy(event.as_bytes());
        vmm.ioctl(td.vm, KVM_XEN_HVM_EVTCHN_SEND, at)
    };
    assert_eq!(send(7, 0, u32::MAX), Err(Errno::EINVAL));
    let page = 64 << 20 >> 12;
    with(&vmm, td.vm, KVM_XEN_HVM_SET_ATTR, 1, &[page]).expect("the shared page");
    assert_eq!(send(7, 0, u32::MAX), Ok(0));
    assert_eq!(send(7, 9, u32::MAX), Err(Errno::EINVAL));
    assert_eq!(send(7, 0, 0), Err(Errno::EINVAL));
    vmm.drop_td(&td);
}

#[test]
fn attributes_of_a_vcpu_are_kept_and_checked() {
    let vmm = boot();
    let td = build(&vmm);
    let vcpu = td.vcpus[0];
    let set = |r#type, u: &[u64]| with(&vmm, vcpu, KVM_XEN_VCPU_SET_ATTR, r#type, u).map(|_| ());
    let get = |r#type| with(&vmm, vcpu, KVM_XEN_VCPU_GET_ATTR, r#type, &[0]).map(|a| a.u[0]);
    let there = 64 << 20;
    assert_eq!((get(0), get(9), get(1)), (Ok(NOWHERE), Ok(0), Ok(NOWHERE)));
    assert_eq!((get(2), get(5)), (Err(Errno::ENOENT), Err(Errno::EINVAL)));
    for (r#type, good, bad, errno) in [
        (0, there + 64, there + 2, Errno::ENXIO),
        (0, there, there + 4096 - 32, Errno::EINVAL),
        (1, there + 32, there + 8192, Errno::EFAULT),
        (6, 5, 1024, Errno::EINVAL),
        (8, 0x30, 1, Errno::EINVAL),
        (3, 2, 4, Errno::EINVAL),
        (4, 1, 4, Errno::EINVAL),
        (7, 3 | TWO_LEVEL << 32, 3, Errno::EINVAL),
    ] {
        assert_eq!(set(r#type, &[good]), Ok(()), "type {type}");
        assert_eq!(set(r#type, &[bad]), Err(errno), "type {type}");
        assert_eq!(get(r#type), Ok(good), "type {type}");
    }
    // Over the end of a page, where the next one is there and where it is not.
    assert_eq!(set(2, &[there + 4096 - 8]), Ok(()));
    assert_eq!(get(2), Ok(there + 4096 - 8));
    assert_eq!(set(2, &[there + 8192 - 8]), Err(Errno::EFAULT));
    assert_eq!(get(2), Err(Errno::ENOENT));
    assert_eq!(set(0, &[NOWHERE]), Ok(()));
    assert_eq!(get(0), Ok(NOWHERE));
    // Times of states that do not add up.
    assert_eq!(set(4, &[0, 5, 1, 1, 1, 1]), Err(Errno::EINVAL));
    assert_eq!(set(5, &[u64::MAX]), Ok(()));
    assert_eq!(set(10, &[0]), Err(Errno::ENOENT));
    vmm.drop_td(&td);
}
