//! An exit of KVM_RUN in words, as `struct kvm_run` has it.

use seamlock_kvm::task::RunPage;
use seamlock_tdx_abi::kvm::*;
use zerocopy::{FromBytes, IntoBytes};

use super::exit_text;

/// Bytes of a port's or a device's data that are shown.
const SHOWN: usize = 8;

/// The exit's name, and what it is about.
pub fn words(run: &dyn RunPage) -> String {
    tell(run, false)
}

/// With what user space has read, if it has answered.
fn tell(run: &dyn RunPage, is_answered: bool) -> String {
    let header: KvmRunHeader = at(run, 0);
    let about = match header.exit_reason {
        KVM_EXIT_IO => io(run, is_answered),
        KVM_EXIT_MMIO => mmio(&union(run), is_answered),
        KVM_EXIT_HYPERCALL => hypercall(&union(run)),
        KVM_EXIT_TDX => tdx(&union(run)),
        KVM_EXIT_MEMORY_FAULT => memory_fault(&union(run)),
        KVM_EXIT_X86_RDMSR | KVM_EXIT_X86_WRMSR => msr(&union(run)),
        KVM_EXIT_SYSTEM_EVENT => system_event(&union(run)),
        KVM_EXIT_INTERNAL_ERROR => {
            let error: KvmExitInternal = union(run);
            let data = numbers(&error.data, error.ndata);
            format!("suberror {}, {data}", error.suberror)
        }
        KVM_EXIT_FAIL_ENTRY => {
            let fail: KvmExitFailEntry = union(run);
            format!("reason {:#x}", fail.hardware_entry_failure_reason)
        }
        KVM_EXIT_EXCEPTION => {
            let exception: KvmExitException = union(run);
            format!(
                "{}, error code {:#x}",
                exception.exception, exception.error_code
            )
        }
        KVM_EXIT_NOTIFY => format!("flags {:#x}", union::<KvmExitNotify>(run).flags),
        _ => String::new(),
    };
    let name = exit_text(header.exit_reason);
    match about.as_str() {
        "" => name,
        about => format!("{name} {about}"),
    }
}

/// What user space did before it calls KVM_RUN: its answer to an exit that waits for one, and
/// `immediate_exit`.
pub fn answer(run: &dyn RunPage) -> String {
    let header: KvmRunHeader = at(run, 0);
    let waits = match header.exit_reason {
        KVM_EXIT_IO => union::<KvmExitIo>(run).direction == KVM_EXIT_IO_IN,
        KVM_EXIT_MMIO => union::<KvmExitMmio>(run).is_write == 0,
        KVM_EXIT_HYPERCALL | KVM_EXIT_TDX | KVM_EXIT_X86_RDMSR | KVM_EXIT_X86_WRMSR => true,
        _ => false,
    };
    let mut all = Vec::new();
    if waits {
        all.push(format!("after {}", tell(run, true)));
    }
    if header.immediate_exit != 0 {
        all.push("immediate_exit".to_owned());
    }
    all.join(", ")
}

fn at<T: FromBytes + IntoBytes>(run: &dyn RunPage, offset: usize) -> T {
    let mut value = T::new_zeroed();
    run.read(offset, value.as_mut_bytes());
    value
}

fn union<T: FromBytes + IntoBytes>(run: &dyn RunPage) -> T {
    at(run, EXIT_DATA_OFFSET)
}

/// A little-endian number of some bytes.
fn number(bytes: &[u8]) -> u64 {
    let bytes = bytes.iter().rev();
    bytes.fold(0, |number, byte| number << 8 | u64::from(*byte))
}

fn numbers(all: &[u64], count: u32) -> String {
    let shown = all.iter().take(count as usize);
    let texts: Vec<String> = shown.map(|number| format!("{number:#x}")).collect();
    texts.join(" ")
}

fn io(run: &dyn RunPage, is_answered: bool) -> String {
    let io: KvmExitIo = union(run);
    let mut data = [0; SHOWN];
    let size = usize::from(io.size).min(SHOWN);
    let from = usize::try_from(io.data_offset).unwrap_or(usize::MAX);
    run.read(from, &mut data[..size]);
    let way = if io.direction == KVM_EXIT_IO_IN {
        "in"
    } else {
        "out"
    };
    let times = if io.count == 1 {
        String::new()
    } else {
        format!(", {} times", io.count)
    };
    let value = number(&data[..size]);
    let is_known = is_answered || io.direction != KVM_EXIT_IO_IN;
    let value = if is_known {
        format!(" {value:#x}")
    } else {
        String::new()
    };
    format!("{way} {:#x} {}{value}{times}", io.port, io.size)
}

fn mmio(mmio: &KvmExitMmio, is_answered: bool) -> String {
    let way = if mmio.is_write == 0 { "read" } else { "write" };
    let size = (mmio.len as usize).min(mmio.data.len());
    let value = number(&mmio.data[..size]);
    let is_known = is_answered || mmio.is_write != 0;
    let value = if is_known {
        format!(" {value:#x}")
    } else {
        String::new()
    };
    format!("{way} {:#x} {}{value}", mmio.phys_addr, mmio.len)
}

fn hypercall(call: &KvmExitHypercall) -> String {
    let KvmExitHypercall { nr, args, ret, .. } = call;
    if *nr == KVM_HC_MAP_GPA_RANGE {
        let private = args[2] & KVM_MAP_GPA_RANGE_ENCRYPTED != 0;
        let how = if private { "private" } else { "shared" };
        return format!("map {:#x}, {} pages, {how}, ret {ret:#x}", args[0], args[1]);
    }
    format!("{nr}: {}, ret {ret:#x}", numbers(args, 6))
}

fn tdx(tdx: &KvmExitTdx) -> String {
    let name = match tdx.nr {
        TDVMCALL_GET_TD_VM_CALL_INFO => "GetTdVmCallInfo leaf",
        TDVMCALL_GET_QUOTE => "GetQuote",
        TDVMCALL_SETUP_EVENT_NOTIFY_INTERRUPT => "SetupEventNotifyInterrupt",
        _ => "TDG.VP.VMCALL",
    };
    let used = match tdx.nr {
        TDVMCALL_GET_QUOTE => 2,
        TDVMCALL_SETUP_EVENT_NOTIFY_INTERRUPT => 1,
        _ => 5,
    };
    format!("{name} {}, ret {:#x}", numbers(&tdx.data, used), tdx.ret)
}

fn memory_fault(fault: &KvmExitMemoryFault) -> String {
    let private = fault.flags & KVM_MEMORY_EXIT_FLAG_PRIVATE != 0;
    let how = if private { "private" } else { "shared" };
    let end = fault.gpa.wrapping_add(fault.size);
    format!("{:#x}..{end:#x} wanted {how}", fault.gpa)
}

fn msr(msr: &KvmExitMsr) -> String {
    format!("{:#x} data {:#x}, error {}", msr.index, msr.data, msr.error)
}

fn system_event(event: &KvmExitSystemEvent) -> String {
    format!(
        "type {}: {}",
        event.r#type,
        numbers(&event.data, event.ndata)
    )
}
