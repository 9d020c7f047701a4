//! The argument of an ioctl in words, for the trace: names instead of numbers, and what a pointer points to.

use seamlock_kvm::task::UserMemory;
use seamlock_tdx_abi::TdxStatus;
use seamlock_tdx_abi::kvm::*;
use zerocopy::{FromBytes, IntoBytes};

use super::td::Command;
use crate::memory::Own;

/// MSRs of a list that are shown.
const SHOWN_MSRS: u32 = 8;

/// What lies at an address; None when nothing is mapped there.
pub(super) fn read<T: FromBytes + IntoBytes>(addr: u64) -> Option<T> {
    let mut value = T::new_zeroed();
    Own.read(addr, value.as_mut_bytes()).ok()?;
    Some(value)
}

/// The argument of a request; empty for one that needs no words.
pub fn argument(request: u32, arg: u64, command: Option<&Command>) -> String {
    let words = match request {
        KVM_CREATE_VM => Some(vm_type(arg).to_owned()),
        KVM_CHECK_EXTENSION => Some(cap(arg as u32)),
        KVM_CREATE_VCPU => Some(format!("vCPU {arg}")),
        KVM_ENABLE_CAP => read(arg).map(enable_cap),
        KVM_MEMORY_ENCRYPT_OP => command.map(Command::words),
        KVM_IRQFD | KVM_IOEVENTFD | KVM_SIGNAL_MSI | KVM_IRQ_LINE | KVM_IRQ_LINE_STATUS
        | KVM_SET_GSI_ROUTING => interrupt(request, arg),
        KVM_SET_USER_MEMORY_REGION
        | KVM_SET_USER_MEMORY_REGION2
        | KVM_SET_MEMORY_ATTRIBUTES
        | KVM_CREATE_GUEST_MEMFD
        | KVM_PRE_FAULT_MEMORY
        | KVM_REGISTER_COALESCED_MMIO
        | KVM_UNREGISTER_COALESCED_MMIO => memory(request, arg),
        KVM_GET_MSRS | KVM_SET_MSRS => msrs(arg, request == KVM_SET_MSRS),
        KVM_SET_CPUID2 | KVM_GET_CPUID2 | KVM_GET_SUPPORTED_CPUID => {
            read(arg).map(|cpuid: KvmCpuid2| format!("{} entries", cpuid.nent))
        }
        KVM_GET_DEVICE_ATTR | KVM_SET_DEVICE_ATTR | KVM_HAS_DEVICE_ATTR => {
            read(arg).map(|device: KvmDeviceAttr| {
                format!("group {}, attribute {:#x}", device.group, device.attr)
            })
        }
        _ => None,
    };
    words.unwrap_or_default()
}

/// What a request wrote, in words; empty where the argument and the result tell it all.
pub fn outcome(request: u32, arg: u64, command: Option<&Command>) -> String {
    let words = match request {
        KVM_MEMORY_ENCRYPT_OP => command.and_then(|command| command.outcome(arg)),
        KVM_GET_MSRS => msrs(arg, true),
        KVM_GET_SUPPORTED_CPUID => {
            read(arg).map(|cpuid: KvmCpuid2| format!("{} entries", cpuid.nent))
        }
        _ => None,
    };
    words.unwrap_or_default()
}

/// A type of VM.
fn vm_type(number: u64) -> &'static str {
    match number {
        KVM_X86_DEFAULT_VM => "an ordinary VM",
        KVM_X86_SW_PROTECTED_VM => "KVM_X86_SW_PROTECTED_VM",
        KVM_X86_SEV_VM => "KVM_X86_SEV_VM",
        KVM_X86_SEV_ES_VM => "KVM_X86_SEV_ES_VM",
        KVM_X86_SNP_VM => "KVM_X86_SNP_VM",
        KVM_X86_TDX_VM => "KVM_X86_TDX_VM",
        _ => "a type that there is not",
    }
}

fn cap(number: u32) -> String {
    cap_name(number).map_or_else(|| format!("capability {number}"), str::to_owned)
}

fn enable_cap(enable: KvmEnableCap) -> String {
    let args = enable.args.iter().rposition(|arg| *arg != 0);
    let args = &enable.args[..args.map_or(0, |last| last + 1)];
    let args = args.iter().map(|arg| format!(" {arg:#x}"));
    format!("{}{}", cap(enable.cap), args.collect::<String>())
}

fn range(from: u64, bytes: u64) -> String {
    format!("{from:#x}..{:#x}", from.wrapping_add(bytes))
}

fn memory(request: u32, arg: u64) -> Option<String> {
    Some(match request {
        KVM_SET_USER_MEMORY_REGION => slot(&region_1(read(arg)?)),
        KVM_SET_USER_MEMORY_REGION2 => slot(&read(arg)?),
        KVM_SET_MEMORY_ATTRIBUTES => {
            let set: KvmMemoryAttributes = read(arg)?;
            let how = match set.attributes {
                0 => "shared".to_owned(),
                KVM_MEMORY_ATTRIBUTE_PRIVATE => "private".to_owned(),
                other => format!("attributes {other:#x}"),
            };
            format!("{} {how}", range(set.address, set.size))
        }
        KVM_CREATE_GUEST_MEMFD => {
            let create: KvmCreateGuestMemfd = read(arg)?;
            format!("{:#x} bytes, flags {:#x}", create.size, create.flags)
        }
        KVM_PRE_FAULT_MEMORY => {
            let fault: KvmPreFaultMemory = read(arg)?;
            range(fault.gpa, fault.size)
        }
        _ => {
            let zone: KvmCoalescedMmioZone = read(arg)?;
            let what = if zone.pio == 0 { "" } else { "port " };
            format!("{what}{}", range(zone.addr, zone.size.into()))
        }
    })
}

fn region_1(region: KvmUserspaceMemoryRegion) -> KvmUserspaceMemoryRegion2 {
    KvmUserspaceMemoryRegion2 {
        slot: region.slot,
        flags: region.flags,
        guest_phys_addr: region.guest_phys_addr,
        memory_size: region.memory_size,
        userspace_addr: region.userspace_addr,
        ..KvmUserspaceMemoryRegion2::default()
    }
}

fn slot(region: &KvmUserspaceMemoryRegion2) -> String {
    if region.memory_size == 0 {
        return format!("slot {:#x} is removed", region.slot);
    }
    let KvmUserspaceMemoryRegion2 {
        slot,
        flags,
        guest_phys_addr,
        memory_size,
        userspace_addr,
        ..
    } = *region;
    let at = range(guest_phys_addr, memory_size);
    let mut words = format!("slot {slot:#x}: {at} from {userspace_addr:#x}, flags {flags:#x}");
    if flags & KVM_MEM_GUEST_MEMFD != 0 {
        let (fd, offset) = (region.guest_memfd, region.guest_memfd_offset);
        words.push_str(&format!(", guest_memfd {fd} from {offset:#x}"));
    }
    words
}

fn interrupt(request: u32, arg: u64) -> Option<String> {
    Some(match request {
        KVM_IRQFD => {
            let irqfd: KvmIrqfd = read(arg)?;
            format!(
                "descriptor {}, GSI {}, flags {:#x}",
                irqfd.fd, irqfd.gsi, irqfd.flags
            )
        }
        KVM_IOEVENTFD => {
            let event: KvmIoeventfd = read(arg)?;
            let (fd, flags) = (event.fd, event.flags);
            format!(
                "descriptor {fd}, {}, flags {flags:#x}",
                range(event.addr, event.len.into())
            )
        }
        KVM_SIGNAL_MSI => {
            let msi: KvmMsi = read(arg)?;
            let address = u64::from(msi.address_hi) << 32 | u64::from(msi.address_lo);
            format!("address {address:#x}, data {:#x}", msi.data)
        }
        KVM_SET_GSI_ROUTING => format!("{} entries", read::<KvmIrqRouting>(arg)?.nr),
        _ => {
            let line: KvmIrqLevel = read(arg)?;
            format!("GSI {}, level {}", line.irq, line.level)
        }
    })
}

fn msrs(arg: u64, with_values: bool) -> Option<String> {
    let list: KvmMsrs = read(arg)?;
    let entries = arg.wrapping_add(size_of::<KvmMsrs>() as u64);
    let mut words = Vec::new();
    for i in 0..list.nmsrs.min(SHOWN_MSRS) {
        let size = size_of::<KvmMsrEntry>() as u64;
        let entry: KvmMsrEntry = read(entries.wrapping_add(u64::from(i) * size))?;
        words.push(if with_values {
            format!("{:#x}={:#x}", entry.index, entry.data)
        } else {
            format!("{:#x}", entry.index)
        });
    }
    if list.nmsrs > SHOWN_MSRS {
        words.push(format!("… of {}", list.nmsrs));
    }
    Some(words.join(" "))
}

impl Command {
    /// The command's flags and data in words.
    fn words(&self) -> String {
        let KvmTdxCmd { flags, data, .. } = self.cmd;
        let words = match TdxCmdId(self.cmd.id) {
            TdxCmdId::KVM_TDX_INIT_VM => self.init_words(),
            TdxCmdId::KVM_TDX_INIT_VCPU => Some(format!("RCX {data:#x}")),
            TdxCmdId::KVM_TDX_INIT_MEM_REGION => {
                let KvmTdxInitMemRegion {
                    source_addr,
                    gpa,
                    nr_pages,
                } = self.region;
                let at = range(gpa, nr_pages.wrapping_mul(4096));
                let measured = flags & KVM_TDX_MEASURE_MEMORY_REGION != 0;
                let how = if measured { ", measured" } else { "" };
                Some(format!(
                    "{at} ({nr_pages} pages) from {source_addr:#x}{how}"
                ))
            }
            TdxCmdId::KVM_TDX_CAPABILITIES => {
                let at = std::mem::offset_of!(KvmTdxCapabilities, cpuid) as u64;
                let room = read(data.wrapping_add(at));
                room.map(|room: KvmCpuid2| format!("room for {} CPUID entries", room.nent))
            }
            TdxCmdId::KVM_TDX_GET_CPUID => {
                read(data).map(|room: KvmCpuid2| format!("room for {} CPUID entries", room.nent))
            }
            TdxCmdId::KVM_TDX_FINALIZE_VM => Some(String::new()),
            _ => Some(format!("command {}, data {data:#x}", self.cmd.id)),
        };
        words.unwrap_or_else(|| format!("data {data:#x}, which can't be read"))
    }

    fn init_words(&self) -> Option<String> {
        let init: KvmTdxInitVm = read(self.cmd.data)?;
        let KvmTdxInitVm {
            attributes,
            xfam,
            cpuid,
            ..
        } = init;
        let nent = cpuid.nent;
        Some(format!(
            "ATTRIBUTES {attributes:#x}, XFAM {xfam:#x}, {nent} CPUID entries"
        ))
    }

    /// What the command left behind: a TDX status, and how far it came.
    fn outcome(&self, arg: u64) -> Option<String> {
        let after: KvmTdxCmd = read(arg)?;
        let mut words = Vec::new();
        if after.hw_error != 0 {
            words.push(format!("hw_error {}", TdxStatus(after.hw_error)));
        }
        if TdxCmdId(self.cmd.id) == TdxCmdId::KVM_TDX_INIT_MEM_REGION {
            let left: KvmTdxInitMemRegion = read(self.cmd.data)?;
            let done = self.region.nr_pages.saturating_sub(left.nr_pages);
            if left.nr_pages != 0 {
                words.push(format!("{done} of {} pages are done", self.region.nr_pages));
            }
        }
        Some(words.join(", "))
    }
}
