//! The exact ABI of v7.3: each row is a call that is refused, the errno, and the check that refuses it.

mod vmm;

use seamlock_tdx_abi::kvm::*;
use vmm::{MEMORY, Td, Vmm, boot};
use zerocopy::{FromZeros, IntoBytes};

/// How far the VM was built before the call.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Stage {
    /// A VM that is no TD, with a vCPU.
    Plain,
    /// A TD before INIT_VM, with a split irqchip.
    Td,
    /// A TD before INIT_VM, without an irqchip.
    Bare,
    /// After INIT_VM, with memory.
    InitVm,
    /// With a vCPU that has CPUID.
    Vcpu,
    /// After INIT_VCPU.
    InitVcpu,
    /// One page loaded, and finalized.
    Finalized,
}

use Stage::*;

/// The descriptor of the call.
#[derive(Clone, Copy, Debug)]
enum On {
    Sys,
    Vm,
    Vcpu,
    Gmem,
}

/// The argument.
#[derive(Clone, Debug)]
enum Arg {
    /// As it is.
    Value(u64),
    /// An address where nothing is mapped.
    Unmapped,
    /// The address of these bytes.
    Bytes(Vec<u8>),
    /// The address of a `kvm_tdx_cmd` whose data is this.
    Cmd {
        id: TdxCmdId,
        flags: u32,
        hw_error: u64,
        data: Data,
    },
}

#[derive(Clone, Debug)]
enum Data {
    Value(u64),
    Unmapped,
    Bytes(Vec<u8>),
}

struct Row {
    stage: Stage,
    on: On,
    request: u32,
    arg: Arg,
    errno: Errno,
    /// Part of the site that the error names: kernel file and line at v7.3.4.
    site: &'static str,
}

const BAD: u64 = 0x10;

fn bytes(value: &(impl IntoBytes + zerocopy::Immutable)) -> Vec<u8> {
    value.as_bytes().to_vec()
}

fn cmd(id: TdxCmdId, data: Data) -> Arg {
    Arg::Cmd {
        id,
        flags: 0,
        hw_error: 0,
        data,
    }
}

fn row(stage: Stage, on: On, request: u32, arg: Arg, errno: Errno, site: &'static str) -> Row {
    Row {
        stage,
        on,
        request,
        arg,
        errno,
        site,
    }
}

fn op(stage: Stage, on: On, arg: Arg, errno: Errno, site: &'static str) -> Row {
    row(stage, on, KVM_MEMORY_ENCRYPT_OP, arg, errno, site)
}

/// `kvm_tdx_init_vm` with one entry of CPUID, edited.
fn init_vm(edit: impl FnOnce(&mut KvmTdxInitVm, &mut Vec<KvmCpuidEntry2>)) -> Data {
    let KvmTdxInitVmOneLeaf { mut init, entry } = KvmTdxInitVmOneLeaf::smallest();
    let mut cpuid = vec![entry];
    edit(&mut init, &mut cpuid);
    let mut all = bytes(&init);
    all.extend_from_slice(cpuid.as_bytes());
    Data::Bytes(all)
}

fn region(source_addr: u64, gpa: u64, nr_pages: u64) -> Data {
    Data::Bytes(bytes(&KvmTdxInitMemRegion {
        source_addr,
        gpa,
        nr_pages,
    }))
}

fn slot(edit: impl FnOnce(&mut KvmUserspaceMemoryRegion2)) -> Arg {
    let mut region = KvmUserspaceMemoryRegion2 {
        slot: 5,
        guest_phys_addr: 64 << 20,
        memory_size: 1 << 20,
        userspace_addr: 0x1000_0000,
        ..KvmUserspaceMemoryRegion2::default()
    };
    edit(&mut region);
    Arg::Bytes(bytes(&region))
}

fn attributes(address: u64, size: u64, attributes: u64, flags: u64) -> Arg {
    Arg::Bytes(bytes(&KvmMemoryAttributes {
        address,
        size,
        attributes,
        flags,
    }))
}

fn gmem(size: u64, flags: u64) -> Arg {
    Arg::Bytes(bytes(&KvmCreateGuestMemfd {
        size,
        flags,
        reserved: [0; 6],
    }))
}

fn enable(cap: u32, arg: u64, flags: u32) -> Arg {
    Arg::Bytes(bytes(&KvmEnableCap {
        cap,
        flags,
        args: [arg, 0, 0, 0],
        pad: [0; 64],
    }))
}

fn pre_fault(gpa: u64, size: u64, flags: u64) -> Arg {
    Arg::Bytes(bytes(&KvmPreFaultMemory {
        gpa,
        size,
        flags,
        padding: [0; 5],
    }))
}

/// Dispatch and KVM_MEMORY_ENCRYPT_OP before any command.
fn dispatch_rows() -> Vec<Row> {
    use TdxCmdId as Id;
    let unknown = || cmd(Id(99), Data::Value(0));
    let dirty = |id| Arg::Cmd {
        id,
        flags: 0,
        hw_error: 1,
        data: Data::Value(0),
    };
    vec![
        row(
            Plain,
            On::Sys,
            0xae99,
            Arg::Value(0),
            Errno::EINVAL,
            "kvm_arch_dev_ioctl",
        ),
        row(
            Plain,
            On::Vm,
            0xae99,
            Arg::Value(0),
            Errno::ENOTTY,
            "kvm_arch_vm_ioctl",
        ),
        row(
            Plain,
            On::Vcpu,
            0xae99,
            Arg::Value(0),
            Errno::EINVAL,
            "x86.c:3890",
        ),
        row(
            Plain,
            On::Vcpu,
            0x1234,
            Arg::Value(0),
            Errno::EINVAL,
            "kvm_main.c:4476",
        ),
        row(
            InitVm,
            On::Gmem,
            KVM_RUN,
            Arg::Value(0),
            Errno::ENOTTY,
            "vfs_ioctl",
        ),
        row(
            Plain,
            On::Sys,
            KVM_GET_API_VERSION,
            Arg::Value(1),
            Errno::EINVAL,
            "kvm_main.c:5581",
        ),
        row(
            Plain,
            On::Sys,
            KVM_GET_VCPU_MMAP_SIZE,
            Arg::Value(1),
            Errno::EINVAL,
            "kvm_main.c:5599",
        ),
        row(
            Plain,
            On::Sys,
            KVM_CREATE_VM,
            Arg::Value(4),
            Errno::EINVAL,
            "x86.c:9873",
        ),
        row(
            Plain,
            On::Sys,
            KVM_CREATE_VM,
            Arg::Value(1 << 40),
            Errno::EINVAL,
            "x86.c:9873",
        ),
        op(Plain, On::Vm, Arg::Unmapped, Errno::ENOTTY, "main.c:855"),
        op(Plain, On::Vcpu, Arg::Unmapped, Errno::EINVAL, "main.c:871"),
        op(Td, On::Vm, Arg::Unmapped, Errno::EFAULT, "tdx.c:2934"),
        op(
            Td,
            On::Vm,
            dirty(Id::KVM_TDX_CAPABILITIES),
            Errno::EINVAL,
            "tdx.c:2941",
        ),
        op(Td, On::Vm, dirty(Id(99)), Errno::EINVAL, "tdx.c:2941"),
        op(Td, On::Vm, unknown(), Errno::EINVAL, "tdx.c:2971"),
        op(
            Td,
            On::Vm,
            cmd(Id::KVM_TDX_INIT_VCPU, Data::Value(0)),
            Errno::EINVAL,
            "tdx.c:2971",
        ),
        op(Vcpu, On::Vcpu, Arg::Unmapped, Errno::EFAULT, "tdx.c:2934"),
        op(
            Vcpu,
            On::Vcpu,
            dirty(Id::KVM_TDX_INIT_VCPU),
            Errno::EINVAL,
            "tdx.c:2941",
        ),
        op(Vcpu, On::Vcpu, unknown(), Errno::EINVAL, "tdx.c:3387"),
        op(Finalized, On::Vcpu, unknown(), Errno::EINVAL, "tdx.c:3345"),
        // The pointer is looked at before the state.
        op(
            Finalized,
            On::Vcpu,
            Arg::Unmapped,
            Errno::EFAULT,
            "tdx.c:2934",
        ),
        row(
            Td,
            On::Vm,
            KVM_MEMORY_ENCRYPT_REG_REGION,
            Arg::Unmapped,
            Errno::EFAULT,
            "x86.c:4698",
        ),
        row(
            Td,
            On::Vm,
            KVM_MEMORY_ENCRYPT_REG_REGION,
            Arg::Bytes(vec![0; 16]),
            Errno::ENOTTY,
            "x86.c:4698",
        ),
    ]
}

fn vm_command_rows() -> Vec<Row> {
    use TdxCmdId as Id;
    let caps = |data| cmd(Id::KVM_TDX_CAPABILITIES, data);
    let init = |data| cmd(Id::KVM_TDX_INIT_VM, data);
    let fin = || cmd(Id::KVM_TDX_FINALIZE_VM, Data::Value(0));
    let flagged = |id| Arg::Cmd {
        id,
        flags: 1,
        hw_error: 0,
        data: Data::Unmapped,
    };
    let e2big = init_vm(|init, _| init.cpuid.nent = 257);
    let too_many = init_vm(|init, cpuid| {
        init.cpuid.nent = 2;
        cpuid.push(KvmCpuidEntry2 {
            function: 0x1234,
            ..KvmCpuidEntry2::default()
        });
    });
    let tsx = init_vm(|init, cpuid| {
        init.cpuid.nent = 2;
        cpuid.push(KvmCpuidEntry2 {
            function: 7,
            ebx: 1 << 4,
            ..KvmCpuidEntry2::default()
        });
    });
    vec![
        op(
            Td,
            On::Vm,
            flagged(Id::KVM_TDX_CAPABILITIES),
            Errno::EINVAL,
            "tdx.c:2304",
        ),
        op(
            Td,
            On::Vm,
            caps(Data::Unmapped),
            Errno::EFAULT,
            "tdx.c:2304",
        ),
        op(
            Td,
            On::Vm,
            caps(Data::Bytes(vec![0; 4096])),
            Errno::E2BIG,
            "tdx.c:2304",
        ),
        op(
            InitVm,
            On::Vm,
            init(init_vm(|_, _| {})),
            Errno::EINVAL,
            "tdx.c:2801",
        ),
        op(
            Finalized,
            On::Vm,
            flagged(Id::KVM_TDX_INIT_VM),
            Errno::EINVAL,
            "tdx.c:2801",
        ),
        op(
            Td,
            On::Vm,
            flagged(Id::KVM_TDX_INIT_VM),
            Errno::EINVAL,
            "tdx.c:2801",
        ),
        op(
            Td,
            On::Vm,
            init(Data::Unmapped),
            Errno::EFAULT,
            "tdx.c:2801",
        ),
        op(Td, On::Vm, init(e2big), Errno::E2BIG, "tdx.c:2801"),
        op(
            Td,
            On::Vm,
            init(init_vm(|i, _| i.reserved[3] = 1)),
            Errno::EINVAL,
            "tdx.c:2801",
        ),
        op(
            Td,
            On::Vm,
            init(init_vm(|i, _| i.cpuid.padding = 1)),
            Errno::EINVAL,
            "tdx.c:2801",
        ),
        op(
            Td,
            On::Vm,
            init(init_vm(|i, _| i.attributes = 1)),
            Errno::EINVAL,
            "tdx.c:2443",
        ),
        op(
            Td,
            On::Vm,
            init(init_vm(|i, _| i.xfam = 1 << 40)),
            Errno::EINVAL,
            "tdx.c:2443",
        ),
        op(
            Td,
            On::Vm,
            init(init_vm(|i, _| i.cpuid.nent = 0)),
            Errno::EINVAL,
            "tdx.c:2352",
        ),
        op(
            Td,
            On::Vm,
            init(init_vm(|_, c| c[0].eax = 46 << 16)),
            Errno::EINVAL,
            "tdx.c:2352",
        ),
        op(Td, On::Vm, init(tsx), Errno::EINVAL, "tdx.c:2385"),
        op(Td, On::Vm, init(too_many), Errno::EINVAL, "tdx.c:2430"),
        // The module refuses it: CPUID 0x80000008 has no such configurable bit.
        op(
            Td,
            On::Vm,
            init(init_vm(|_, c| c[0].edx = 1 << 5)),
            Errno::EINVAL,
            "tdx.c:2606",
        ),
        op(Td, On::Vm, fin(), Errno::EINVAL, "tdx.c:2912"),
        op(Finalized, On::Vm, fin(), Errno::EINVAL, "tdx.c:2912"),
    ]
}

fn vcpu_command_rows() -> Vec<Row> {
    use TdxCmdId as Id;
    let vcpu = |flags| Arg::Cmd {
        id: Id::KVM_TDX_INIT_VCPU,
        flags,
        hw_error: 0,
        data: Data::Value(0),
    };
    let load = |data| cmd(Id::KVM_TDX_INIT_MEM_REGION, data);
    let bad_flag = Arg::Cmd {
        id: Id::KVM_TDX_INIT_MEM_REGION,
        flags: 2,
        hw_error: 0,
        data: region(0x1000, 0, 1),
    };
    let cpuid = |data| cmd(Id::KVM_TDX_GET_CPUID, data);
    let shared = 1 << 47;
    vec![
        op(Vcpu, On::Vcpu, vcpu(1), Errno::EINVAL, "tdx.c:3166"),
        op(InitVcpu, On::Vcpu, vcpu(0), Errno::EINVAL, "tdx.c:3166"),
        op(Finalized, On::Vcpu, vcpu(0), Errno::EINVAL, "tdx.c:3345"),
        op(
            Vcpu,
            On::Vcpu,
            load(region(0x1000, 0, 1)),
            Errno::EINVAL,
            "tdx.c:3264",
        ),
        op(
            Finalized,
            On::Vcpu,
            load(region(0x1000, 0, 1)),
            Errno::EINVAL,
            "tdx.c:3345",
        ),
        op(InitVcpu, On::Vcpu, bad_flag, Errno::EINVAL, "tdx.c:3264"),
        op(
            InitVcpu,
            On::Vcpu,
            load(Data::Unmapped),
            Errno::EFAULT,
            "tdx.c:3264",
        ),
        op(
            InitVcpu,
            On::Vcpu,
            load(region(0x1001, 0, 1)),
            Errno::EINVAL,
            "tdx.c:3287",
        ),
        op(
            InitVcpu,
            On::Vcpu,
            load(region(0, 0, 1)),
            Errno::EINVAL,
            "tdx.c:3287",
        ),
        op(
            InitVcpu,
            On::Vcpu,
            load(region(0x1000, 8, 1)),
            Errno::EINVAL,
            "tdx.c:3287",
        ),
        op(
            InitVcpu,
            On::Vcpu,
            load(region(0x1000, 0, 0)),
            Errno::EINVAL,
            "tdx.c:3287",
        ),
        op(
            InitVcpu,
            On::Vcpu,
            load(region(0x1000, !0xfff, 1)),
            Errno::EINVAL,
            "tdx.c:3287",
        ),
        op(
            InitVcpu,
            On::Vcpu,
            load(region(0x1000, shared, 1)),
            Errno::EINVAL,
            "tdx.c:3287",
        ),
        op(
            InitVcpu,
            On::Vcpu,
            load(region(0x1000, shared - 4096, 2)),
            Errno::EINVAL,
            "tdx.c:3287",
        ),
        // Nothing is mapped at the source.
        op(
            InitVcpu,
            On::Vcpu,
            load(region(0x1000, 0, 1)),
            Errno::EFAULT,
            "guest_memfd.c:903",
        ),
        // No memslot.
        op(
            InitVcpu,
            On::Vcpu,
            load(region(0x1000, MEMORY, 1)),
            Errno::EINVAL,
            "guest_memfd.c:875",
        ),
        op(
            Vcpu,
            On::Vcpu,
            cpuid(Data::Unmapped),
            Errno::EFAULT,
            "tdx.c:3105",
        ),
        op(
            Vcpu,
            On::Vcpu,
            cpuid(Data::Bytes(vec![0; 8])),
            Errno::E2BIG,
            "tdx.c:3105",
        ),
        op(
            Finalized,
            On::Vcpu,
            cpuid(Data::Unmapped),
            Errno::EINVAL,
            "tdx.c:3345",
        ),
    ]
}

fn vcpu_rows() -> Vec<Row> {
    let run = |stage, arg, errno, site| row(stage, On::Vcpu, KVM_RUN, Arg::Value(arg), errno, site);
    let fault =
        |stage, arg, errno, site| row(stage, On::Vcpu, KVM_PRE_FAULT_MEMORY, arg, errno, site);
    let create =
        |stage, id, errno, site| row(stage, On::Vm, KVM_CREATE_VCPU, Arg::Value(id), errno, site);
    let refused = |request| {
        row(
            InitVcpu,
            On::Vcpu,
            request,
            Arg::Unmapped,
            Errno::EINVAL,
            "regs.c",
        )
    };
    vec![
        create(Td, 0, Errno::EIO, "tdx.c:673"),
        create(Bare, 4096, Errno::EINVAL, "kvm_main.c:4214"),
        create(InitVm, 4096, Errno::EINVAL, "kvm_main.c:4214"),
        create(Vcpu, 0, Errno::EEXIST, "kvm_main.c:4214"),
        create(Finalized, 1, Errno::EIO, "tdx.c:673"),
        run(InitVcpu, 1, Errno::EINVAL, "kvm_main.c:4501"),
        run(Vcpu, 0, Errno::EINVAL, "tdx.c:900"),
        run(InitVcpu, 0, Errno::EINVAL, "tdx.c:900"),
        fault(InitVcpu, Arg::Unmapped, Errno::EFAULT, "kvm_main.c:4692"),
        fault(
            InitVcpu,
            pre_fault(0, 4096, 1),
            Errno::EINVAL,
            "kvm_main.c:4392",
        ),
        fault(
            InitVcpu,
            pre_fault(8, 4096, 0),
            Errno::EINVAL,
            "kvm_main.c:4392",
        ),
        fault(
            InitVcpu,
            pre_fault(0, 0, 0),
            Errno::EINVAL,
            "kvm_main.c:4392",
        ),
        fault(
            InitVcpu,
            pre_fault(0, 4096, 0),
            Errno::EOPNOTSUPP,
            "mmu.c:5104",
        ),
        fault(
            Finalized,
            pre_fault(1 << 47, 4096, 0),
            Errno::EINVAL,
            "mmu.c:5104",
        ),
        fault(
            Finalized,
            pre_fault(MEMORY, 4096, 0),
            Errno::ENOENT,
            "mmu.c:5051",
        ),
        refused(KVM_GET_REGS),
        refused(KVM_SET_SREGS2),
        refused(KVM_GET_XSAVE2),
        row(
            InitVcpu,
            On::Vcpu,
            KVM_GET_LAPIC,
            Arg::Unmapped,
            Errno::EINVAL,
            "x86.c:2704",
        ),
        row(
            Vcpu,
            On::Vcpu,
            KVM_SET_TSC_KHZ,
            Arg::Value(1),
            Errno::EINVAL,
            "x86.c:3724",
        ),
        row(
            Vcpu,
            On::Vcpu,
            KVM_SET_CPUID2,
            Arg::Unmapped,
            Errno::EFAULT,
            "cpuid.c:635",
        ),
        row(
            Vcpu,
            On::Vcpu,
            KVM_SET_CPUID2,
            Arg::Bytes(bytes(&KvmCpuid2 {
                nent: 257,
                padding: 0,
            })),
            Errno::E2BIG,
            "cpuid.c:635",
        ),
    ]
}

fn memory_rows() -> Vec<Row> {
    let set =
        |stage, arg, errno, site| row(stage, On::Vm, KVM_SET_USER_MEMORY_REGION2, arg, errno, site);
    let attr = |arg, errno, site| row(InitVm, On::Vm, KVM_SET_MEMORY_ATTRIBUTES, arg, errno, site);
    let create = |arg, errno, site| row(InitVm, On::Vm, KVM_CREATE_GUEST_MEMFD, arg, errno, site);
    let v1 = KvmUserspaceMemoryRegion {
        flags: KVM_MEM_GUEST_MEMFD,
        ..Default::default()
    };
    let private = KVM_MEMORY_ATTRIBUTE_PRIVATE;
    let with_gmem = |fd: u32, offset: u64| {
        slot(move |s| {
            s.flags = KVM_MEM_GUEST_MEMFD;
            (s.guest_memfd, s.guest_memfd_offset) = (fd, offset);
        })
    };
    vec![
        row(
            InitVm,
            On::Vm,
            KVM_SET_USER_MEMORY_REGION,
            Arg::Bytes(bytes(&v1)),
            Errno::EINVAL,
            "kvm_main.c:5256",
        ),
        set(InitVm, Arg::Unmapped, Errno::EFAULT, "kvm_vm_ioctl"),
        set(
            InitVm,
            slot(|s| s.slot = 32764),
            Errno::EINVAL,
            "kvm_main.c:2179",
        ),
        set(
            InitVm,
            slot(|s| s.flags = 1 << 9),
            Errno::EINVAL,
            "kvm_main.c:1590",
        ),
        set(
            InitVm,
            slot(|s| s.flags = KVM_MEM_READONLY),
            Errno::EINVAL,
            "kvm_main.c:1590",
        ),
        set(
            InitVm,
            slot(|s| s.flags = 5),
            Errno::EINVAL,
            "kvm_main.c:1590",
        ),
        set(
            InitVm,
            slot(|s| s.memory_size = 100),
            Errno::EINVAL,
            "kvm_main.c:2042",
        ),
        set(
            InitVm,
            slot(|s| s.guest_phys_addr = 1),
            Errno::EINVAL,
            "kvm_main.c:2042",
        ),
        set(
            InitVm,
            slot(|s| s.userspace_addr = 1),
            Errno::EINVAL,
            "kvm_main.c:2042",
        ),
        set(
            InitVm,
            slot(|s| s.userspace_addr = 1 << 63),
            Errno::EINVAL,
            "kvm_main.c:2042",
        ),
        set(
            InitVm,
            slot(|s| s.slot = 1 << 16),
            Errno::EINVAL,
            "kvm_main.c:2042",
        ),
        set(
            InitVm,
            slot(|s| s.guest_phys_addr = !0xfff),
            Errno::EINVAL,
            "kvm_main.c:2042",
        ),
        set(
            InitVm,
            slot(|s| s.memory_size = 1 << 46),
            Errno::EINVAL,
            "kvm_main.c:2042",
        ),
        set(
            InitVm,
            slot(|s| s.memory_size = 0),
            Errno::EINVAL,
            "kvm_main.c:2080",
        ),
        set(
            InitVm,
            slot(|s| (s.slot, s.flags) = (0, 4)),
            Errno::EINVAL,
            "kvm_main.c:2104",
        ),
        set(
            InitVm,
            slot(|s| s.slot = 0),
            Errno::EINVAL,
            "kvm_main.c:2104",
        ),
        set(
            InitVm,
            slot(|s| s.guest_phys_addr = 0),
            Errno::EEXIST,
            "kvm_main.c:2119",
        ),
        set(InitVm, with_gmem(999, 0), Errno::EBADF, "guest_memfd.c:606"),
        set(InitVm, with_gmem(3, 0), Errno::EINVAL, "guest_memfd.c:606"),
        set(
            InitVm,
            slot(|s| s.guest_phys_addr = 1 << 47),
            Errno::EINVAL,
            "x86.c:10216",
        ),
        set(
            InitVm,
            slot(|s| s.guest_phys_addr = 1 << 52),
            Errno::EINVAL,
            "x86.c:10216",
        ),
        attr(
            attributes(0, 4096, private, 1),
            Errno::EINVAL,
            "kvm_main.c:2658",
        ),
        attr(attributes(0, 4096, 1, 0), Errno::EINVAL, "kvm_main.c:2658"),
        attr(
            attributes(0, 0, private, 0),
            Errno::EINVAL,
            "kvm_main.c:2658",
        ),
        attr(
            attributes(!0xfff, 0x2000, private, 0),
            Errno::EINVAL,
            "kvm_main.c:2658",
        ),
        attr(
            attributes(8, 4096, private, 0),
            Errno::EINVAL,
            "kvm_main.c:2658",
        ),
        create(gmem(4096, 2), Errno::EINVAL, "guest_memfd.c:592"),
        create(gmem(0, 0), Errno::EINVAL, "guest_memfd.c:592"),
        create(gmem(1 << 63, 0), Errno::EINVAL, "guest_memfd.c:592"),
        create(gmem(100, 0), Errno::EINVAL, "guest_memfd.c:592"),
    ]
}

fn capability_rows() -> Vec<Row> {
    let cap = |stage, arg, errno, site| row(stage, On::Vm, KVM_ENABLE_CAP, arg, errno, site);
    let site = "x86.c:3951";
    vec![
        cap(Td, Arg::Unmapped, Errno::EFAULT, "kvm_vm_ioctl"),
        cap(
            Td,
            enable(KVM_CAP_SPLIT_IRQCHIP, 24, 1),
            Errno::EINVAL,
            site,
        ),
        cap(
            Td,
            enable(KVM_CAP_SPLIT_IRQCHIP, 24, 0),
            Errno::EEXIST,
            site,
        ),
        cap(
            Bare,
            enable(KVM_CAP_SPLIT_IRQCHIP, 4097, 0),
            Errno::EINVAL,
            site,
        ),
        cap(
            Td,
            enable(KVM_CAP_MAX_VCPU_ID, 5000, 0),
            Errno::EINVAL,
            site,
        ),
        cap(
            Td,
            enable(KVM_CAP_X86_APIC_BUS_CYCLES_NS, 0, 0),
            Errno::EINVAL,
            site,
        ),
        cap(
            Bare,
            enable(KVM_CAP_X86_APIC_BUS_CYCLES_NS, 40, 0),
            Errno::ENXIO,
            site,
        ),
        cap(
            Vcpu,
            enable(KVM_CAP_X86_APIC_BUS_CYCLES_NS, 40, 0),
            Errno::EINVAL,
            site,
        ),
        cap(
            Td,
            enable(KVM_CAP_EXIT_HYPERCALL, 1, 0),
            Errno::EINVAL,
            site,
        ),
        cap(
            Td,
            enable(KVM_CAP_X86_BUS_LOCK_EXIT, 3, 0),
            Errno::EINVAL,
            site,
        ),
        cap(
            Td,
            enable(KVM_CAP_PMU_CAPABILITY, 0, 0),
            Errno::EINVAL,
            site,
        ),
        cap(
            Td,
            enable(KVM_CAP_VM_MOVE_ENC_CONTEXT_FROM, 3, 0),
            Errno::EINVAL,
            site,
        ),
        cap(Td, enable(9999, 0, 0), Errno::EINVAL, site),
        row(
            Td,
            On::Vm,
            KVM_CREATE_IRQCHIP,
            Arg::Value(0),
            Errno::EEXIST,
            "x86.c:4426",
        ),
        row(
            Bare,
            On::Vm,
            KVM_CREATE_IRQCHIP,
            Arg::Value(0),
            Errno::ENOTTY,
            "x86.c:4426",
        ),
        row(
            Vcpu,
            On::Vm,
            KVM_SET_TSC_KHZ,
            Arg::Value(0),
            Errno::EINVAL,
            "x86.c:4659",
        ),
    ]
}

fn build(vmm: &Vmm, stage: Stage) -> Td {
    if stage == Plain {
        let vm = vmm
            .ioctl(vmm.kvm, KVM_CREATE_VM, KVM_X86_DEFAULT_VM)
            .unwrap() as i32;
        let mut td = Td {
            vm,
            ..Td::default()
        };
        vmm.create_vcpu(&mut td, 0).unwrap();
        return td;
    }
    if stage == Bare {
        let vm = vmm.ioctl(vmm.kvm, KVM_CREATE_VM, KVM_X86_TDX_VM).unwrap() as i32;
        return Td {
            vm,
            ..Td::default()
        };
    }
    let mut td = vmm.create_td();
    if stage == Stage::Td {
        return td;
    }
    vmm.init_vm(&td).unwrap();
    vmm.add_memory(&mut td);
    if stage == InitVm {
        return td;
    }
    let vcpu = vmm.create_vcpu(&mut td, 0).unwrap() as i32;
    vmm.set_cpuid(vcpu).unwrap();
    if stage == Vcpu {
        return td;
    }
    vmm.init_vcpu(vcpu).unwrap();
    if stage == Finalized {
        let source_addr = vmm.process.map(4096);
        let mut region = KvmTdxInitMemRegion {
            source_addr,
            gpa: 0x10_0000,
            nr_pages: 1,
        };
        vmm.load(vcpu, &mut region, false).unwrap();
        vmm.finalize(&td).unwrap();
    }
    td
}

fn argument(vmm: &Vmm, arg: &Arg) -> u64 {
    match arg {
        Arg::Value(value) => *value,
        Arg::Unmapped => BAD,
        Arg::Bytes(bytes) => vmm.process.map_copy(bytes),
        Arg::Cmd {
            id,
            flags,
            hw_error,
            data,
        } => {
            let data = match data {
                Data::Value(value) => *value,
                Data::Unmapped => BAD,
                Data::Bytes(bytes) => vmm.process.map_copy(bytes),
            };
            let cmd = KvmTdxCmd {
                id: id.0,
                flags: *flags,
                data,
                hw_error: *hw_error,
            };
            vmm.process.map_copy(cmd.as_bytes())
        }
    }
}

fn check(rows: &[Row]) {
    let vmm = boot();
    for (i, row) in rows.iter().enumerate() {
        let td = build(&vmm, row.stage);
        let fd = match row.on {
            On::Sys => vmm.kvm,
            On::Vm => td.vm,
            On::Vcpu => td.vcpus[0],
            On::Gmem => td.gmem,
        };
        let arg = argument(&vmm, &row.arg);
        let what = format!("row {i}: {:?} {:?} {:?}", row.stage, row.on, row.arg);
        match vmm.try_ioctl(fd, row.request, arg) {
            Ok(value) => panic!("{what}: returned {value} instead of {}", row.errno),
            Err(error) => {
                assert_eq!(error.errno, row.errno, "{what}: {error}");
                assert!(
                    error.site.contains(row.site),
                    "{what}: {error}, not {}",
                    row.site
                );
            }
        }
        vmm.drop_td(&td);
    }
    for teardown in vmm.host.teardowns() {
        assert_eq!(
            (teardown.pages_leaked, teardown.hkid_returned, teardown.bugs),
            (0, true, 0)
        );
    }
}

#[test]
fn dispatch_refuses_in_the_kernels_order() {
    check(&dispatch_rows());
}

#[test]
fn vm_commands_refuse_in_the_kernels_order() {
    check(&vm_command_rows());
}

#[test]
fn vcpu_commands_refuse_in_the_kernels_order() {
    check(&vcpu_command_rows());
}

#[test]
fn vcpu_ioctls_refuse_in_the_kernels_order() {
    check(&vcpu_rows());
}

#[test]
fn memory_ioctls_refuse_in_the_kernels_order() {
    check(&memory_rows());
}

#[test]
fn capabilities_refuse_in_the_kernels_order() {
    check(&capability_rows());
}

#[test]
fn a_vm_command_is_written_back_even_when_it_failed_and_tells_the_modules_status() {
    let vmm = boot();
    let td = vmm.create_td();
    let data = vmm.init_vm_data(|_, entry| entry.edx = 1 << 5);
    let (reply, cmd) = vmm.tdx(td.vm, TdxCmdId::KVM_TDX_INIT_VM, 0, data);
    assert_eq!(reply, Err(Errno::EINVAL));
    let status = seamlock_tdx_abi::TdxStatus(cmd.hw_error);
    assert!(
        status.is(seamlock_tdx_abi::TdxStatus::OPERAND_INVALID),
        "{status}"
    );
    // The TD was taken apart again, so another try can succeed.
    assert_eq!(vmm.init_vm(&td), Ok(0));
    vmm.drop_td(&td);
    assert_eq!(vmm.host.teardowns()[0].pages_leaked, 0);
}

#[test]
fn a_region_is_written_back_up_to_the_page_that_failed() {
    let vmm = boot();
    let td = vmm.build(1);
    // Two pages are mapped, the third is not.
    let source_addr = vmm.process.map(2 * 4096);
    let mut region = KvmTdxInitMemRegion {
        source_addr,
        gpa: 0x10_0000,
        nr_pages: 5,
    };
    assert_eq!(vmm.load(td.vcpus[0], &mut region, true), Err(Errno::EFAULT));
    let stopped = KvmTdxInitMemRegion {
        source_addr: source_addr + 2 * 4096,
        gpa: 0x10_2000,
        nr_pages: 3,
    };
    assert_eq!(region, stopped);
    // The same pages again: mapped already, without harm to the VM.
    let mut again = KvmTdxInitMemRegion {
        source_addr,
        gpa: 0x10_0000,
        nr_pages: 1,
    };
    assert_eq!(vmm.load(td.vcpus[0], &mut again, true), Err(Errno::EIO));
    assert_eq!(vmm.finalize(&td), Ok(0));
    vmm.drop_td(&td);
}

#[test]
fn a_signal_ends_loading_before_the_next_page() {
    let vmm = boot();
    let td = vmm.build(1);
    let source_addr = vmm.process.map(4096);
    let mut region = KvmTdxInitMemRegion {
        source_addr,
        gpa: 0,
        nr_pages: 1,
    };
    vmm.control.signal(false);
    assert_eq!(vmm.load(td.vcpus[0], &mut region, true), Err(Errno::EINTR));
    assert_eq!((region.gpa, region.nr_pages), (0, 1));
    vmm.control.clear_signals();
    assert_eq!(vmm.load(td.vcpus[0], &mut region, true), Ok(0));
}

#[test]
fn frames_that_are_not_private_are_refused_after_the_source_was_found() {
    let vmm = boot();
    let td = vmm.build(1);
    assert_eq!(vmm.attributes(td.vm, 0, MEMORY, 0), Ok(0));
    let source_addr = vmm.process.map(4096);
    let mut region = KvmTdxInitMemRegion {
        source_addr,
        gpa: 0,
        nr_pages: 1,
    };
    assert_eq!(vmm.load(td.vcpus[0], &mut region, true), Err(Errno::EINVAL));
}

#[test]
fn capabilities_report_what_the_module_can_configure() {
    let vmm = boot();
    let td = vmm.create_td();
    let n = vmm.host.sysinfo().cpuid_config.len();
    let mut caps = KvmTdxCapabilities::new_zeroed();
    caps.cpuid.nent = 100;
    let mut all = caps.as_bytes().to_vec();
    all.resize(2056 + 100 * 40, 0);
    let at = vmm.process.map_copy(&all);
    let (reply, cmd) = vmm.tdx(td.vm, TdxCmdId::KVM_TDX_CAPABILITIES, 0, at);
    assert_eq!((reply, cmd.hw_error), (Ok(0), 0));
    let back = vmm.process.read_vec(at, 2056 + n * 40).unwrap();
    let word = |i: usize| u64::from_le_bytes(back[i..i + 8].try_into().unwrap());
    assert_eq!(word(0), 1 << 28);
    assert_eq!(word(8) & 3, 3);
    assert_eq!((word(16), word(24), word(32), word(40)), (0, 2, 0, 0));
    assert_eq!(word(2048), n as u64);
    let entry = |i: usize| &back[2056 + i * 40..][..40];
    let sizes = (0..n)
        .find(|i| entry(*i)[..4] == 0x8000_0008u32.to_le_bytes())
        .unwrap();
    assert_eq!(entry(sizes)[14], 0xff);
}

#[test]
fn get_cpuid_tells_how_many_entries_there_are() {
    let vmm = boot();
    let mut td = vmm.create_td();
    vmm.init_vm(&td).unwrap();
    let vcpu = vmm.create_vcpu(&mut td, 0).unwrap() as i32;
    let at = vmm.process.map(8 + 256 * 40);
    assert_eq!(
        vmm.tdx(vcpu, TdxCmdId::KVM_TDX_GET_CPUID, 0, at).0,
        Err(Errno::E2BIG)
    );
    let nent = u32::from_le_bytes(vmm.process.read_vec(at, 4).unwrap().try_into().unwrap());
    assert!(nent > 10, "{nent}");
    assert_eq!(vmm.tdx(vcpu, TdxCmdId::KVM_TDX_GET_CPUID, 0, at).0, Ok(0));
    let bytes = vmm.process.read_vec(at + 8, nent as usize * 40).unwrap();
    let leaf = |i: usize| u32::from_le_bytes(bytes[i * 40..][..4].try_into().unwrap());
    let sizes = (0..nent as usize)
        .find(|i| leaf(*i) == 0x8000_0008)
        .unwrap();
    // The guest's address width is that of INIT_VM.
    assert_eq!(bytes[sizes * 40 + 14], 48);
}
