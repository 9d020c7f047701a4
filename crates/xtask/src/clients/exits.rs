//! Each exit that KVM can give a TD's user space, and each error that it may have to live with: what QEMU
//! does about it.

use super::case::{Case, Until};
use super::check::Check::{self, Called, Code, Exits, Refused, Rtmr, Saw, Says, Wrote};
use super::qemu::{IMAGES, command, launch};

const ATTRIBUTES: &str = "KVM_SET_MEMORY_ATTRIBUTES";
/// Ends QEMU with an exit code of the guest's: 2 * the value + 1.
const DEBUG_EXIT: &[&str] = &["-device", "isa-debug-exit,iobase=0xf4,iosize=4"];
/// Ends QEMU when the guest shuts down or resets.
const NO_REBOOT: &[&str] = &["-no-reboot"];

/// One of the cases.
struct Row {
    name: &'static str,
    /// Options of QEMU.
    qemu: &'static [&'static str],
    script: &'static str,
    /// What `--inject` gets.
    inject: &'static [&'static str],
    until: Until,
    tds: usize,
    checks: Vec<Check>,
    does: &'static str,
}

impl Row {
    /// A guest that does this, until QEMU ends.
    fn new(name: &'static str, qemu: &'static [&'static str], script: &'static str) -> Row {
        Row {
            name,
            qemu,
            script,
            inject: &[],
            until: Until::GuestEnds,
            tds: 1,
            checks: Vec::new(),
            does: "",
        }
    }

    fn does(self, does: &'static str, checks: &[Check]) -> Row {
        Row {
            does,
            checks: checks.to_vec(),
            ..self
        }
    }

    fn until(self, until: Until) -> Row {
        Row { until, ..self }
    }

    fn tds(self, tds: usize) -> Row {
        Row { tds, ..self }
    }

    fn case(self) -> Case {
        let (package, firmware) = IMAGES[0];
        let mut command = command(firmware, 512, 1);
        command.extend(self.qemu.iter().map(|&word| word.to_owned()));
        let inject = self.inject.iter().map(|spec| format!("--inject={spec}"));
        Case {
            name: format!("QEMU, {}", self.name),
            command,
            script: self.script,
            until: self.until,
            tds: self.tds,
            options: inject.collect(),
            checks: self.checks,
            does: self.does,
            ..launch(package, firmware, 512, 1)
        }
    }
}

/// All of them.
pub fn cases() -> Vec<Case> {
    let groups = [devices(), memory(), calls(), ends(), broken(), errors()];
    groups.into_iter().flatten().map(Row::case).collect()
}

fn devices() -> Vec<Row> {
    const SERIAL: &[&str] = &[
        "-serial",
        "file:/tmp/serial",
        "-device",
        "isa-debug-exit,iobase=0xf4,iosize=4",
    ];
    vec![
        Row::new("an output", SERIAL, "out 0x3f8 1 0x41\nout 0xf4 1 0x10").does(
            "the serial port has the byte; the debug-exit device ends QEMU with 2 * 0x10 + 1",
            &[Exits("KVM_EXIT_IO", 2), Wrote("serial", "A"), Code(33)],
        ),
        Row::new(
            "an input",
            NO_REBOOT,
            "out 0xcf8 4 0x80000000\nin 0xcfc 4\nshutdown",
        )
        .does(
            "the PCI host bridge tells its vendor and device",
            &[
                Exits("KVM_EXIT_IO", 2),
                Saw("in 0xcfc 4", "ok, 0x29c08086"),
                Code(0),
            ],
        ),
        Row::new(
            "MMIO",
            NO_REBOOT,
            "write 0xfec00000 4 1\nread 0xfec00010 4\nread 0xfed00000 8\nshutdown",
        )
        .does(
            "its I/O APIC tells its version, its HPET its period",
            &[
                Exits("KVM_EXIT_MMIO", 3),
                Saw("read 0xfec00010 4", "ok, 0x170020"),
                Saw("read 0xfed00000 8", "ok, 0x9896808086a201"),
                Code(0),
            ],
        ),
    ]
}

fn memory() -> Vec<Row> {
    vec![
        Row::new(
            "MapGPA",
            NO_REBOOT,
            "map 0x200000 4M shared\nmap 0x200000 4M private\nmap 0x300000 8K shared\nshutdown",
        )
        .does(
            "sets the attributes of each range of 2 MiB at the most, and the guest goes on",
            &[
                Exits("KVM_EXIT_HYPERCALL", 5),
                Called(ATTRIBUTES, 7),
                Saw("map 0x200000 4M private", "ok"),
                Code(0),
            ],
        ),
        Row::new(
            "KVM_HC_MAP_GPA_RANGE",
            NO_REBOOT,
            "hypercall 12 0x100000 1 0\nshutdown",
        )
        .does(
            "as MapGPA",
            &[Exits("KVM_EXIT_HYPERCALL", 1), Called(ATTRIBUTES, 3), Code(0)],
        ),
        Row::new(
            "page faults",
            NO_REBOOT,
            "touch 0x100000 write shared\ntouch 0x100000 read\ntouch 0x200000 read\nshutdown",
        )
        .does(
            "changes the attributes to what the guest wants, and enters it again; of private memory that \
             is not there yet it hears nothing",
            &[
                Refused("KVM_RUN", "-EFAULT", 2),
                Called(ATTRIBUTES, 4),
                Code(0),
            ],
        ),
        Row::new("a page that is accepted", NO_REBOOT, "accept 0x1000000\nshutdown").does(
            "hears nothing: KVM adds the page",
            &[
                Saw("accept 0x1000000", "TDX_SUCCESS"),
                Refused("KVM_RUN", "-EFAULT", 0),
                Code(0),
            ],
        ),
        Row::new(
            "RTMRs",
            NO_REBOOT,
            "extend 0 0x810000 event one\nextend 2 0x810000 event two\nshutdown",
        )
        .does(
            "hears nothing; the summary has the registers",
            &[Rtmr(0, "f685f74b"), Rtmr(1, "00000000"), Rtmr(2, "b045d1b2")],
        ),
    ]
}

fn calls() -> Vec<Row> {
    const REFUSED: &str = "status 0x8000000000000000";
    vec![
        Row::new(
            "GetQuote",
            NO_REBOOT,
            "map 0x100000 8K shared\nquote 0x100000 8K\nshutdown",
        )
        .does(
            "reads the buffer's header, which is empty here, and says that the operand is invalid",
            &[
                Exits("KVM_EXIT_TDX", 1),
                Saw("quote 0x100000 8K", REFUSED),
                Code(0),
            ],
        ),
        Row::new("GetTdVmCallInfo", NO_REBOOT, "info 0\ninfo 1\nshutdown").does(
            "says of leaf 1 that it has SetupEventNotifyInterrupt; leaf 0 is KVM's",
            &[
                Exits("KVM_EXIT_TDX", 1),
                Saw("info 0", "ok, 0x0 0x0 0x0 0x0"),
                Saw("info 1", "ok, 0x2 0x0 0x0 0x0"),
                Code(0),
            ],
        ),
        Row::new(
            "SetupEventNotifyInterrupt",
            NO_REBOOT,
            "notify 0x40\nnotify 1\nshutdown",
        )
        .does(
            "keeps the vector; KVM refuses one below 32 by itself",
            &[
                Exits("KVM_EXIT_TDX", 1),
                Saw("notify 0x40", "ok"),
                Saw("notify 1", REFUSED),
                Code(0),
            ],
        ),
        Row::new(
            "an MSR that KVM does not have",
            NO_REBOOT,
            "rdmsr 0x12345\nwrmsr 0x12345 7\nshutdown",
        )
        .does(
            "hears nothing: it wants no exit for it, and KVM says that the operand is invalid",
            &[
                Saw("rdmsr 0x12345", REFUSED),
                Saw("wrmsr 0x12345 7", REFUSED),
            ],
        ),
    ]
}

fn ends() -> Vec<Row> {
    const REBUILT: &str = "virtual machine state has been rebuilt with new guest file handle";
    vec![
        Row::new(
            "ReportFatalError",
            &["-action", "panic=exit-failure"],
            "fatal 0 out of luck",
        )
        .does(
            "the guest has panicked; `-action` decides that QEMU fails",
            &[Exits("KVM_EXIT_SYSTEM_EVENT", 1), Code(1)],
        ),
        Row::new(
            "ReportFatalError with an error code",
            NO_REBOOT,
            "fatal 3 out of luck",
        )
        .until(Until::Says("REPORT_FATAL_ERROR: invalid error code: 0x3"))
        .does(
            "takes codes of the lower half for invalid, says so and stops the machine; it waits to be ended",
            &[Exits("KVM_EXIT_SYSTEM_EVENT", 1), Says("terminating on signal 15")],
        ),
        Row::new("a triple fault", DEBUG_EXIT, "shutdown\nshutdown\nout 0xf4 1 0x10")
            .tds(3)
            .does(
                "closes the VM and builds it anew, each time with the same MRTD. On a busy machine a rebuild now and then \
                 kills it: a kick that comes meanwhile is written to a `struct kvm_run` that is not there",
                &[Exits("KVM_EXIT_SHUTDOWN", 2), Says(REBUILT), Code(33)],
            ),
        Row::new("a triple fault with -no-reboot", NO_REBOOT, "shutdown").does(
            "ends",
            &[Exits("KVM_EXIT_SHUTDOWN", 1), Code(0)],
        ),
        Row::new("a reset", DEBUG_EXIT, "reset\nout 0xf4 1 0x10").tds(2).does(
            "its reset control register has the VM closed and built anew",
            &[Says(REBUILT), Code(33)],
        ),
        Row::new("nothing", &[], "halt").until(Until::AllRan).does(
            "the vCPU sleeps in KVM_RUN; SIGTERM ends QEMU",
            &[Says("terminating on signal 15"), Code(0)],
        ),
        Row::new("SIGUSR1", &[], "out 0x80 1 1\nhalt").until(Until::Asked).does(
            "goes on while `seamlock run` prints the summary so far",
            &[
                Says("1 exits: KVM_EXIT_IO 1"),
                Says("terminating on signal 15"),
                Code(0),
            ],
        ),
    ]
}

fn broken() -> Vec<Row> {
    let stopped = |name, script, says| {
        Row::new(name, NO_REBOOT, script)
            .until(Until::Says(says))
            .does(
                "prints the exit and registers, which are not the TD's, and stops the machine",
                &[Says("terminating on signal 15")],
            )
    };
    vec![
        stopped(
            "an exit that KVM does not know",
            "exit 3",
            "KVM internal error. Suberror: 4",
        ),
        stopped(
            "an entry that failed",
            "return 0x80000021",
            "KVM: entry failed, hardware error 0x80000021",
        ),
        stopped(
            "an exception",
            "return 0 0 0 0 0x80000b0e",
            "KVM: exception 14 exit (error code 0x0)",
        ),
        Row::new("a VM window without events", NO_REBOOT, "exit 75\nshutdown").does(
            "warns, and enters the guest again",
            &[
                Exits("KVM_EXIT_NOTIFY", 1),
                Says("Encountered a notify exit with valid context in guest"),
                Code(0),
            ],
        ),
        Row::new("a bus lock", NO_REBOOT, "exit 74\nshutdown").does(
            "aborts: it has set up its lock for the rate of bus locks only where it was told a rate. KVM gives \
             this exit where KVM_CAP_X86_BUS_LOCK_EXIT is enabled, which QEMU does not without one",
            &[
                Exits("KVM_EXIT_X86_BUS_LOCK", 1),
                Says("Assertion `mutex->initialized' failed"),
                Code(134),
            ],
        ),
    ]
}

/// Errors that are made up with `--inject`.
fn errors() -> Vec<Row> {
    let with = |name, inject: &'static [&'static str]| Row {
        inject,
        ..Row::new(name, NO_REBOOT, "shutdown")
    };
    const ADD: &str = "KVM_MEMORY_ENCRYPT_OP(KVM_TDX_INIT_MEM_REGION)";
    vec![
        with(
            "TDH.MNG.KEY.CONFIG without entropy",
            &["TDH.MNG.KEY.CONFIG@1x3=TDX_RND_NO_ENTROPY"],
        )
        .does("hears of nothing: KVM asks again", &[Code(0)]),
        with(
            "KVM_TDX_INIT_MEM_REGION that is interrupted",
            &["KVM_TDX_INIT_MEM_REGION@2x3=EINTR"],
        )
        .does(
            "asks again with what is left of the region; the measurement is the same",
            &[Refused(ADD, "-EINTR", 3), Code(0)],
        ),
        with(
            "KVM_TDX_INIT_VM that is busy",
            &["KVM_TDX_INIT_VM@1x5=EAGAIN"],
        )
        .does(
            "asks again, up to 10000 times",
            &[
                Refused("KVM_MEMORY_ENCRYPT_OP(KVM_TDX_INIT_VM)", "-EAGAIN", 5),
                Code(0),
            ],
        ),
        with("KVM_RUN that fails", &["KVM_RUN@2=EIO"])
            .until(Until::Says("error: kvm run failed Input/output error"))
            .does(
                "prints the error and registers, which are not the TD's, and stops the machine",
                &[Says("terminating on signal 15")],
            ),
        with("no key for another TD", &["KVM_TDX_INIT_VM=ENOSPC"])
            .tds(0)
            .does(
                "says so and fails",
                &[Says("KVM_TDX_INIT_VM failed"), Code(1)],
            ),
        with(
            "KVM_TDX_FINALIZE_VM that fails",
            &["KVM_TDX_FINALIZE_VM=EIO"],
        )
        .tds(0)
        .does(
            "says so and fails",
            &[Says("KVM_TDX_FINALIZE_VM failed"), Code(1)],
        ),
        with("a bug of seamlock", &["KVM_GET_STATS_FD=panic"]).does(
            "gets EIO for the call, and goes on",
            &[Says("seamlock: bug: ioctl panicked"), Code(0)],
        ),
    ]
}
