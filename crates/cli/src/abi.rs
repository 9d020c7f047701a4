//! `seamlock abi`: every ioctl and capability of x86 KVM, and what becomes of it here.
//!
//! The state comes of the ioctl table that the dispatcher uses; what a TD answers is asked of one.

use std::fmt::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use seamlock_kvm::ioctl::{ABSENT, OFF_CAPS, TABLE, X86_CAPS};
use seamlock_kvm::task::Files;
use seamlock_kvm::{Control, File, Host, Process, ioctl_fd};
use seamlock_tdx_abi::kvm::*;
use seamlock_tdx_module::Platform;
use zerocopy::{FromZeros, IntoBytes};

use crate::output::{self, out};

const SCOPES: &[(Scope, &str)] = &[
    (Scope::SYSTEM, "/dev/kvm"),
    (Scope::VM, "VM"),
    (Scope::VCPU, "vCPU"),
];

/// List every ioctl and capability of x86 KVM: done, refused as the kernel refuses it, or missing.
#[derive(Debug, Args)]
pub struct Abi {
    /// Write the document to this file.
    #[arg(long, value_name = "FILE", conflicts_with = "check")]
    render: Option<PathBuf>,
    /// Compare the document with this file: exit code 1 when it is stale.
    #[arg(long, value_name = "FILE")]
    check: Option<PathBuf>,
}

impl Abi {
    /// Runs the command.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let document = Td::build()?.document()?;
        if let Some(path) = &self.render {
            output::write(path, document)?;
            return Ok(ExitCode::SUCCESS);
        }
        let Some(path) = &self.check else {
            out!("{document}");
            return Ok(ExitCode::SUCCESS);
        };
        let written = output::read(path)?;
        if written == document {
            return Ok(ExitCode::SUCCESS);
        }
        let path = path.display();
        anstream::eprintln!("{path} is stale; run `seamlock abi --render {path}`");
        Ok(ExitCode::FAILURE)
    }
}

/// A TD after INIT_VM with a vCPU, and the process that has it.
struct Td {
    process: Process,
    control: Control,
    kvm: i32,
    /// A VM that is no TD.
    plain: i32,
    vm: i32,
    vcpu: i32,
    zeros: u64,
}

impl Td {
    fn build() -> anyhow::Result<Td> {
        let host = Host::boot(Platform::sapphire_rapids(4 << 30, 4))?;
        let process = Process::new(1);
        let kvm = process
            .install(&File::open_kvm(&host))
            .map_err(|errno| anyhow::anyhow!("{errno}"))?;
        let zeros = process.map(4 * 4096);
        let mut td = Td {
            process,
            control: Control::on(0),
            kvm,
            plain: -1,
            vm: -1,
            vcpu: -1,
            zeros,
        };
        td.plain = td.call(kvm, KVM_CREATE_VM, KVM_X86_DEFAULT_VM)? as i32;
        td.vm = td.call(kvm, KVM_CREATE_VM, KVM_X86_TDX_VM)? as i32;
        let cap = KvmEnableCap {
            cap: KVM_CAP_SPLIT_IRQCHIP,
            args: [24, 0, 0, 0],
            ..KvmEnableCap::new_zeroed()
        };
        td.with(td.vm, KVM_ENABLE_CAP, cap.as_bytes())?;
        let init = KvmTdxInitVmOneLeaf::smallest();
        let cmd = KvmTdxCmd {
            id: TdxCmdId::KVM_TDX_INIT_VM.0,
            data: td.process.map_copy(init.as_bytes()),
            ..KvmTdxCmd::default()
        };
        td.with(td.vm, KVM_MEMORY_ENCRYPT_OP, cmd.as_bytes())?;
        td.vcpu = td.call(td.vm, KVM_CREATE_VCPU, 0)? as i32;
        Ok(td)
    }

    fn call(&self, fd: i32, request: u32, arg: u64) -> seamlock_kvm::Result<i64> {
        ioctl_fd(&self.process.task(&self.control), fd, request, arg)
    }

    fn with(&self, fd: i32, request: u32, bytes: &[u8]) -> seamlock_kvm::Result<i64> {
        self.call(fd, request, self.process.map_copy(bytes))
    }

    /// What a fresh TD answers to the request with zeros for an argument.
    fn answer(info: &IoctlInfo, scope: Scope) -> anyhow::Result<String> {
        let td = Td::build()?;
        let fd = match scope {
            Scope::SYSTEM => td.kvm,
            Scope::VM => td.vm,
            _ => td.vcpu,
        };
        // KVM_RUN would wait for an event; all others take a number or an address.
        if info.request == KVM_RUN {
            td.control.signal(false);
        }
        let arg = if info.size == 0 { 0 } else { td.zeros };
        Ok(match td.call(fd, info.request, arg) {
            Ok(_) => "ok".to_owned(),
            Err(error) => error.errno.to_string(),
        })
    }

    fn document(&self) -> anyhow::Result<String> {
        let mut rows = String::new();
        let mut counts = [0; 4];
        for info in IOCTLS {
            for (scope, on) in SCOPES
                .iter()
                .filter(|(scope, _)| info.scope.contains(*scope))
            {
                let entry = TABLE
                    .iter()
                    .find(|entry| entry.request == info.request && entry.scope() == *scope);
                let (at, state) = match entry {
                    Some(entry) if entry.is_refused() => (1, "refused"),
                    Some(_) => (0, "done"),
                    None if ABSENT.contains(&(info.request, *scope)) => (2, "not x86's"),
                    None => (3, "missing"),
                };
                counts[at] += 1;
                let answer = Td::answer(info, *scope)?;
                let (name, request) = (info.name, info.request);
                writeln!(
                    rows,
                    "| {name} | {request:#010x} | {on} | {state} | {answer} |"
                )?;
            }
        }
        let [done, refused, absent, missing] = counts;
        let mut text = format!(
            "# KVM's ABI, piece by piece\n\nGenerated by `seamlock abi --render docs/abi-coverage.md`; CI \
             checks it. The state is that of the\nioctl table that the dispatcher uses; the last column is \
             what a fresh TD (after INIT_VM, one vCPU)\nanswers to the request with zeros for an argument.\n\n\
             ## ioctls\n\n{done} done, {refused} refused as the kernel refuses them for a TD, {absent} that \
             v7.3.4 does not know on\nthat file of x86, {missing} missing, which are answered in the same way.\n\n\
             | ioctl | number | on | state | zeros |\n|---|---|---|---|---|\n{rows}"
        );
        self.capabilities(&mut text)?;
        Ok(text)
    }

    fn capabilities(&self, text: &mut String) -> anyhow::Result<()> {
        let mut rows = String::new();
        let mut counts = [0; 4];
        for &(cap, name) in CAPS {
            let arg = u64::from(cap);
            let [system, plain, td] = [
                self.call(self.kvm, KVM_CHECK_EXTENSION, arg)?,
                self.call(self.plain, KVM_CHECK_EXTENSION, arg)?,
                self.call(self.vm, KVM_CHECK_EXTENSION, arg)?,
            ];
            let off = OFF_CAPS.iter().find(|(known, _)| *known == cap);
            let (at, state) = match (X86_CAPS.contains(&cap), off) {
                (false, _) => (1, "not x86's: 0, as in the kernel"),
                (true, Some((_, why))) => (2, *why),
                (true, None) if system == 0 && plain == 0 && td == 0 => (3, "missing"),
                (true, None) => (0, "done"),
            };
            counts[at] += 1;
            writeln!(
                rows,
                "| {name} | {cap} | {state} | {system} | {plain} | {td} |"
            )?;
        }
        let [done, others, off, missing] = counts;
        write!(
            text,
            "\n## Capabilities\n\n{done} done, {others} not x86's, {off} off on this machine as in the \
             kernel, {missing} missing. VM: one that is\nno TD.\n\n\
             | capability | number | state | /dev/kvm | VM | TD |\n|---|---|---|---|---|---|\n{rows}"
        )?;
        Ok(())
    }
}
