//! Exits that a guest can cause, driven by scripts: what user space gets, and what the guest gets back.

mod scripted;
mod vmm;

use scripted::Scripted;
use seamlock_kvm::Bug;
use seamlock_kvm::bug::What;
use seamlock_kvm::discipline::{SEALED, V7_3};
use seamlock_tdx_abi::kvm::*;
use seamlock_tdx_abi::{Leaf, TdxStatus};
use sha2::{Digest, Sha384};
use zerocopy::IntoBytes;

#[test]
fn ports_go_to_user_space_and_its_data_comes_back() {
    let td = Scripted::new("out 0x3f8 1 0x141\nin 0x60 2\nin 0x60 3\nshutdown");
    let io: KvmExitIo = td.exit(KVM_EXIT_IO);
    let at = io.data_offset as usize;
    assert_eq!(
        (io.direction, io.size, io.port, io.count),
        (KVM_EXIT_IO_OUT, 1, 0x3f8, 1)
    );
    let mut data = [0; 4];
    td.read(at, &mut data);
    assert_eq!(data, [0x41, 0, 0, 0]);
    let io: KvmExitIo = td.exit(KVM_EXIT_IO);
    assert_eq!((io.direction, io.size, io.port), (KVM_EXIT_IO_IN, 2, 0x60));
    td.write(at, &[0xcd, 0xab, 0xff, 0xff]);
    let _: [u8; 0] = td.exit(KVM_EXIT_SHUTDOWN);
    assert_eq!(td.seen(), ["ok", "ok, 0xabcd", "status 0x8000000000000000"]);
}

#[test]
fn mmio_has_no_shared_bit_and_reads_what_user_space_gives() {
    let td =
        Scripted::new("write 0xfec00000 4 0x1122334455\nread 0xfed00000 8\nread 0 5\nshutdown");
    let mmio: KvmExitMmio = td.exit(KVM_EXIT_MMIO);
    assert_eq!(
        (mmio.phys_addr, mmio.len, mmio.is_write),
        (0xfec0_0000, 4, 1)
    );
    assert_eq!(mmio.data, 0x2233_4455u64.to_le_bytes());
    let mmio: KvmExitMmio = td.exit(KVM_EXIT_MMIO);
    assert_eq!(
        (mmio.phys_addr, mmio.len, mmio.is_write),
        (0xfed0_0000, 8, 0)
    );
    td.write(EXIT_DATA_OFFSET + 8, &0xdead_beefu64.to_le_bytes());
    let _: [u8; 0] = td.exit(KVM_EXIT_SHUTDOWN);
    assert_eq!(
        td.seen(),
        ["ok", "ok, 0xdeadbeef", "status 0x8000000000000000"]
    );
}

#[test]
fn map_gpa_is_cut_into_pieces_of_2_mib_and_resumes_where_user_space_stopped() {
    let td = Scripted::new("map 2M 5M shared\nmap 0 2M private\nmap 1 4K shared\nshutdown");
    let cap = KVM_CAP_EXIT_HYPERCALL;
    assert_eq!(
        td.vmm.enable_cap(td.td.vm, cap, 1 << KVM_HC_MAP_GPA_RANGE),
        Ok(0)
    );
    for (gpa, pages) in [(0x20_0000, 512), (0x40_0000, 512), (0x60_0000, 256)] {
        let call: KvmExitHypercall = td.exit(KVM_EXIT_HYPERCALL);
        assert_eq!((call.nr, call.ret), (KVM_HC_MAP_GPA_RANGE, 0));
        assert_eq!(call.args[..3], [gpa, pages, 0]);
    }
    let call: KvmExitHypercall = td.exit(KVM_EXIT_HYPERCALL);
    assert_eq!(call.args[..3], [0, 512, KVM_MAP_GPA_RANGE_ENCRYPTED]);
    td.write(
        EXIT_DATA_OFFSET + 56,
        &(Errno::EAGAIN.0 as u64).to_le_bytes(),
    );
    let _: [u8; 0] = td.exit(KVM_EXIT_SHUTDOWN);
    let misaligned = format!("status 0x8000000000000002, next {:#x}", 1 | 1u64 << 47);
    assert_eq!(td.seen(), ["ok", "status 0x1, next 0x0", &misaligned]);
}

#[test]
fn map_gpa_without_the_capability_is_unsupported_and_never_leaves_kvm() {
    let td = Scripted::new("map 0 4K shared\nshutdown");
    let _: [u8; 0] = td.exit(KVM_EXIT_SHUTDOWN);
    assert_eq!(
        td.seen(),
        [format!("status 0x8000000000000003, next {:#x}", 1u64 << 47)]
    );
}

#[test]
fn calls_of_tdx_reach_user_space_and_its_status_reaches_the_guest() {
    let td = Scripted::new("info 0\ninfo 1\nquote 0x1000 8K\nnotify 31\nnotify 0x40\nshutdown");
    let info: KvmExitTdxGetTdvmcallInfo = td.exit(KVM_EXIT_TDX);
    assert_eq!(
        (info.nr, info.leaf, info.ret),
        (TDVMCALL_GET_TD_VM_CALL_INFO, 1, 0)
    );
    td.write(EXIT_DATA_OFFSET + 32, [2u64, 0, 0, 0].as_bytes());
    let quote: KvmExitTdxGetQuote = td.exit(KVM_EXIT_TDX);
    assert_eq!(
        (quote.nr, quote.gpa, quote.size),
        (TDVMCALL_GET_QUOTE, 0x1000, 8192)
    );
    assert_eq!(quote.ret, TDVMCALL_STATUS_SUBFUNC_UNSUPPORTED);
    let notify: KvmExitTdxSetupEventNotify = td.exit(KVM_EXIT_TDX);
    assert_eq!(
        (notify.nr, notify.vector),
        (TDVMCALL_SETUP_EVENT_NOTIFY_INTERRUPT, 0x40)
    );
    td.write(EXIT_DATA_OFFSET + 16, &0u64.to_le_bytes());
    let _: [u8; 0] = td.exit(KVM_EXIT_SHUTDOWN);
    assert_eq!(
        td.seen(),
        [
            "ok, 0x0 0x0 0x0 0x0",
            "ok, 0x2 0x0 0x0 0x0",
            "status 0x8000000000000003",
            "status 0x8000000000000000",
            "ok",
        ]
    );
}

#[test]
fn a_fatal_error_carries_its_text_in_the_registers() {
    let td = Scripted::new("fatal 3 out of everything");
    let event: KvmExitSystemEvent = td.exit(KVM_EXIT_SYSTEM_EVENT);
    assert_eq!(
        (event.r#type, event.ndata),
        (KVM_SYSTEM_EVENT_TDX_FATAL, 16)
    );
    assert_eq!(event.data[12], 3);
    // R14, R15, RBX, in the order of register numbers.
    let text: Vec<u8> = [14, 15, 3]
        .iter()
        .flat_map(|r| event.data[*r].to_le_bytes())
        .collect();
    assert_eq!(
        String::from_utf8_lossy(&text).trim_end_matches('\0'),
        "out of everything"
    );
}

#[test]
fn touching_memory_of_the_other_kind_is_a_memory_fault_for_user_space() {
    let td = Scripted::new("touch 0x5000 write\naccept 0x5000\naccept 0x5000\nshutdown");
    assert_eq!(td.vmm.attributes(td.td.vm, 0x5000, 0x1000, 0), Ok(0));
    assert_eq!(td.run(), Err(Errno::EFAULT));
    let fault: KvmExitMemoryFault = td.data(KVM_EXIT_MEMORY_FAULT);
    assert_eq!(
        (fault.flags, fault.gpa, fault.size),
        (KVM_MEMORY_EXIT_FLAG_PRIVATE, 0x5000, 4096)
    );
    assert_eq!(td.vmm.attributes(td.td.vm, 0x5000, 0x1000, 8), Ok(0));
    let _: [u8; 0] = td.exit(KVM_EXIT_SHUTDOWN);
    let seen = td.seen();
    assert_eq!(seen[0], "entered again");
    assert!(
        seen.iter().any(|s| s.starts_with("TDX_SUCCESS")),
        "{seen:?}"
    );
    assert!(
        seen.iter()
            .any(|s| s.starts_with("TDX_PAGE_ALREADY_ACCEPTED")),
        "{seen:?}"
    );
}

#[test]
fn registers_are_extended_once_the_page_is_there_and_accepted() {
    let digest = "5a".repeat(48);
    let script = format!(
        "accept 0x5000\nextend 2 0x5040 hello there\nextend 2 0x5040 {digest}\nextend 4 0x5040 x\nshutdown"
    );
    let td = Scripted::new(&script);
    assert_eq!(td.vmm.attributes(td.td.vm, 0x5000, 0x1000, 8), Ok(0));
    let _: [u8; 0] = td.exit(KVM_EXIT_SHUTDOWN);
    let seen = td.seen();
    assert_eq!(seen[..3], ["TDX_SUCCESS"; 3]);
    assert_eq!(seen[3], "TDX_OPERAND_INVALID(RDX)");
    let mut text = [0; 48];
    text[..11].copy_from_slice(b"hello there");
    let once = Sha384::digest([[0; 48], text].concat());
    let twice = Sha384::digest([&once[..], &[0x5a; 48]].concat());
    let tdr = td.kvm.tdx().tdr().expect("a TD");
    let info = td.kvm.host.module().td_info(tdr).expect("a TD");
    assert_eq!(info.rtmr[2][..], twice[..]);
    assert_eq!([info.rtmr[0], info.rtmr[1], info.rtmr[3]], [[0; 48]; 3]);
}

#[test]
fn a_store_to_a_page_that_is_not_accepted_is_no_extension() {
    // SEPT_VE_DISABLE is set by default, so the violation exits and KVM gives the TD up.
    let td = Scripted::new("touch 0x5000 read\nextend 0 0x5000 x");
    assert_eq!(td.vmm.attributes(td.td.vm, 0x5000, 0x1000, 8), Ok(0));
    assert_eq!(td.run(), Err(Errno::EIO));
}

#[test]
fn what_kvm_emulates_itself_never_leaves_it() {
    let td = Scripted::new(
        "cpuid 0\nrdmsr 0x1b\nrdmsr 0x12345\nwrmsr 0x277 1\nrdmsr 0x277\nwrmsr 0x1b 0\nhypercall 1\n\
         hypercall 99\nvmcall 0x99999\nexit 1\nshutdown",
    );
    let _: [u8; 0] = td.exit(KVM_EXIT_SHUTDOWN);
    let seen = td.seen();
    assert!(seen[1].starts_with("ok, 0xfee00d00"), "{seen:?}");
    assert_eq!(seen[2], "status 0x8000000000000000");
    assert_eq!(seen[3..5], ["ok", "ok, 0x1"]);
    assert_eq!(seen[5], "status 0x8000000000000000");
    assert!(seen[6].starts_with("ok"));
    assert!(
        seen[7].starts_with("status 0xfffffffffffffc18"),
        "-KVM_ENOSYS: {seen:?}"
    );
    assert!(seen[8].starts_with("status 0x8000000000000003"), "{seen:?}");
}

#[test]
fn msrs_that_a_td_lacks_go_to_user_space_as_invalid() {
    let td = Scripted::new("rdmsr 0x12345\nwrmsr 0x12345 7\nshutdown");
    let cap = KVM_CAP_X86_USER_SPACE_MSR;
    // tdx.c tdx_get_msr answers 1, which msrs.c kvm_msr_reason makes INVAL.
    let invalid = u64::from(KVM_MSR_EXIT_REASON_INVAL);
    assert_eq!(td.vmm.enable_cap(td.td.vm, cap, invalid), Ok(0));
    let msr: KvmExitMsr = td.exit(KVM_EXIT_X86_RDMSR);
    assert_eq!(
        (msr.index, msr.reason),
        (0x12345, KVM_MSR_EXIT_REASON_INVAL)
    );
    td.write(EXIT_DATA_OFFSET + 16, &9u64.to_le_bytes());
    let msr: KvmExitMsr = td.exit(KVM_EXIT_X86_WRMSR);
    assert_eq!((msr.index, msr.data), (0x12345, 7));
    td.write(EXIT_DATA_OFFSET, &[1]);
    let _: [u8; 0] = td.exit(KVM_EXIT_SHUTDOWN);
    assert_eq!(td.seen(), ["ok, 0x9", "status 0x8000000000000000"]);
}

#[test]
fn a_page_that_is_used_before_it_is_accepted_kills_a_td_that_exits_for_it() {
    // SEPT_VE_DISABLE is set by default, so the violation exits and KVM gives the TD up.
    let td = Scripted::new("touch 0x5000 read\ntouch 0x5000 read\nshutdown");
    assert_eq!(td.run(), Err(Errno::EIO));
    assert!(td.kvm.is_dead());
}

#[test]
fn nothing_comes_after_a_reset_until_the_td_is_gone() {
    let td = Scripted::new("reset\nfatal 0 done");
    let io: KvmExitIo = td.exit(KVM_EXIT_IO);
    assert_eq!((io.direction, io.port), (KVM_EXIT_IO_OUT, 0xcf9));
    let control = seamlock_kvm::Control::on(0);
    control.signal(true);
    let task = td.vmm.process.task(&control);
    let again = seamlock_kvm::ioctl_fd(&task, td.td.vcpus[0], KVM_RUN, 0);
    assert_eq!(again.map_err(|error| error.errno), Err(Errno::EINTR));
}

/// An exit that no TD can have: the module makes the TD fatal, as after a machine check in the guest.
const MAKES_FATAL: u32 = 16;

#[test]
fn a_page_of_a_fatal_td_is_not_removed_and_its_tdr_is_lost_though_its_hkid_comes_back() {
    let td = Scripted::new(&format!("accept 0\nexit {MAKES_FATAL}"));
    let _: [u8; 0] = td.exit(KVM_EXIT_INTERNAL_ERROR);
    assert!(!td.kvm.is_dead());
    // tdx.c:1820 tdx_sept_remove_leaf_spte: nobody keeps the page, and the ioctl does not hear of it.
    assert_eq!(td.vmm.slot(&td.td, 0, 0, 0), Ok(0));
    let bugs = td.kvm.bugs();
    assert!(
        matches!(&bugs[..], [Bug { what: What::Seamcall { leaf: Leaf::MEM_RANGE_BLOCK, status, .. }, fatal: true, .. }] if status.is(TdxStatus::TD_FATAL)),
        "{bugs:?}"
    );
    let Scripted { vmm, td, kvm, .. } = td;
    drop(kvm);
    vmm.drop_td(&td);
    let end = &vmm.host.teardowns()[0];
    assert_eq!((end.hkid_returned, end.private_pages), (true, 0));
    // TDCS pages come back. TDH.PHYMEM.PAGE.RECLAIM refuses the TDR while the module counts a page of the
    // TD (tdx.c:578 tdx_reclaim_td_control_pages).
    assert_eq!((end.td_pages, end.pages_leaked), (6, 1));
}

#[test]
fn an_nmi_for_a_vcpu_that_has_shut_down_bugs_the_vm_unless_sealed() {
    for (discipline, bugged) in [(&V7_3, true), (&SEALED, false)] {
        let td = Scripted::under(discipline, "exit 2");
        let _: [u8; 0] = td.exit(KVM_EXIT_SHUTDOWN);
        assert_eq!(td.vmm.ioctl(td.td.vcpus[0], KVM_NMI, 0), Ok(0));
        // tdx.c:1132 tdx_inject_nmi writes PEND_NMI of a vCPU that the module has disabled.
        let _ = td.run();
        assert_eq!(td.kvm.is_dead(), bugged);
    }
}
