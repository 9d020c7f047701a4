//! Statistics files: what they hold, how they are read, and how long they keep the VM.

mod vmm;

use seamlock_kvm::Process;
use seamlock_kvm::task::Files;
use seamlock_tdx_abi::kvm::*;
use vmm::{Vmm, boot};
use zerocopy::FromBytes;

const HEADER: usize = size_of::<KvmStatsHeader>();

fn fd(vmm: &Vmm, of: i32) -> i32 {
    vmm.ioctl(of, KVM_GET_STATS_FD, 0).expect("a descriptor") as i32
}

fn read(vmm: &Vmm, fd: i32, len: usize, at: Option<u64>) -> Result<Vec<u8>, Errno> {
    let to = vmm.process.map(len as u64 + 1);
    let file = vmm.process.file(fd).expect("open");
    let task = vmm.process.task(&vmm.control);
    let read = file.read(&task, to, len, at).map_err(|error| error.errno)?;
    Ok(vmm.process.read_vec(to, read as usize).expect("mapped"))
}

/// The value of a statistic, found as user space finds it.
fn value(vmm: &Vmm, fd: i32, name: &str) -> u64 {
    let header = read(vmm, fd, HEADER, Some(0)).expect("a header");
    let header = KvmStatsHeader::read_from_bytes(&header).expect("24 bytes");
    let each = size_of::<KvmStatsDesc>();
    let bytes = each * header.num_desc as usize;
    let all = read(vmm, fd, bytes, Some(header.desc_offset.into())).expect("descriptors");
    let desc = all
        .chunks(each)
        .map(|one| KvmStatsDesc::read_from_bytes(one).expect("64 bytes"))
        .find(|desc| desc.name.split(|b| *b == 0).next() == Some(name.as_bytes()))
        .expect("a statistic of this name");
    let at = u64::from(header.data_offset + desc.offset);
    let word = read(vmm, fd, 8, Some(at)).expect("a value");
    u64::from_le_bytes(word.try_into().expect("8 bytes"))
}

#[test]
fn a_read_goes_on_where_the_last_one_ended_and_a_read_with_an_offset_moves_nothing() {
    let vmm = boot();
    let td = vmm.build(1);
    let stats = fd(&vmm, td.vm);
    let whole = read(&vmm, stats, 1 << 20, Some(0)).unwrap();
    let head = read(&vmm, stats, HEADER, None).unwrap();
    let id = read(&vmm, stats, 48, None).unwrap();
    assert_eq!([&head[..], &id].concat(), whole[..HEADER + 48]);
    assert_eq!(&id[..6], b"kvm-1\0");
    let rest = read(&vmm, stats, 1 << 20, None).unwrap();
    assert_eq!(rest, whole[HEADER + 48..]);
    assert_eq!(read(&vmm, stats, 8, None), Ok(Vec::new()));
    let end = whole.len() as u64;
    assert_eq!(read(&vmm, stats, 8, Some(end)), Ok(Vec::new()));
    assert_eq!(read(&vmm, stats, 8, Some(u64::MAX)), Err(Errno::EINVAL));
    let file = vmm.process.file(stats).unwrap();
    assert_eq!(file.position(), end);
    let task = vmm.process.task(&vmm.control);
    let error = file.read(&task, 0x10, 8, Some(0)).unwrap_err();
    assert_eq!(error.errno, Errno::EFAULT);
    vmm.close(stats);
    vmm.drop_td(&td);
}

#[test]
fn other_files_of_kvm_are_not_read_and_statistics_have_no_ioctls() {
    let vmm = boot();
    let td = vmm.build(1);
    for fd in [vmm.kvm, td.vm, td.vcpus[0], td.gmem] {
        assert_eq!(read(&vmm, fd, 8, None), Err(Errno::EINVAL));
    }
    let stats = fd(&vmm, td.vcpus[0]);
    assert_eq!(vmm.ioctl(stats, KVM_GET_STATS_FD, 0), Err(Errno::ENOTTY));
    vmm.close(stats);
    vmm.drop_td(&td);
}

#[test]
fn a_tds_pages_and_a_vcpus_exits_are_counted() {
    let vmm = boot();
    let td = vmm.build(1);
    let (of_vm, of_vcpu) = (fd(&vmm, td.vm), fd(&vmm, td.vcpus[0]));
    assert_eq!(value(&vmm, of_vm, "pages_4k"), 0);
    let mut region = KvmTdxInitMemRegion {
        source_addr: vmm.process.map(3 * 4096),
        gpa: 0x10_0000,
        nr_pages: 3,
    };
    vmm.load(td.vcpus[0], &mut region, true).unwrap();
    assert_eq!(value(&vmm, of_vm, "pages_4k"), 3);
    vmm.finalize(&td).unwrap();
    assert_eq!(value(&vmm, of_vcpu, "signal_exits"), 0);
    vmm.control.signal(false);
    assert_eq!(vmm.ioctl(td.vcpus[0], KVM_RUN, 0), Err(Errno::EINTR));
    assert_eq!(value(&vmm, of_vcpu, "signal_exits"), 1);
    assert_eq!(value(&vmm, of_vcpu, "blocking"), 0);
    vmm.control.clear_signals();
    vmm.attributes(td.vm, 0x10_0000, 4096, 0).unwrap();
    assert_eq!(value(&vmm, of_vm, "pages_4k"), 2);
    vmm.close(of_vm);
    vmm.close(of_vcpu);
    vmm.drop_td(&td);
}

#[test]
fn statistics_keep_the_vm_and_are_read_after_every_other_descriptor_is_closed() {
    let vmm = boot();
    let td = vmm.build(1);
    let of_vcpu = fd(&vmm, td.vcpus[0]);
    vmm.drop_td(&td);
    assert!(vmm.host.teardowns().is_empty());
    let id = read(&vmm, of_vcpu, 14, Some(HEADER as u64)).unwrap();
    assert_eq!(&id, b"kvm-1/vcpu-0\0\0");
    vmm.close(of_vcpu);
    let teardowns = vmm.host.teardowns();
    assert_eq!((teardowns.len(), teardowns[0].pages_leaked), (1, 0));
}

#[test]
fn without_a_free_descriptor_nothing_keeps_the_vm() {
    let vmm = boot();
    let few = Vmm::on(vmm.host.clone(), Process::with_fd_limit(2, 2));
    let vm = few
        .ioctl(few.kvm, KVM_CREATE_VM, KVM_X86_DEFAULT_VM)
        .unwrap() as i32;
    assert_eq!(few.ioctl(vm, KVM_GET_STATS_FD, 0), Err(Errno::EMFILE));
    let live = |vmm: &Vmm| vmm.host.live_vms().len();
    assert_eq!(live(&vmm), 1);
    few.close(vm);
    assert_eq!(live(&vmm), 0);
}
