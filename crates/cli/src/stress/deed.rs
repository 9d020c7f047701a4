//! What a KVM_MEMORY_ENCRYPT_OP did to a TD's measurement, as far as user space can tell: by its own
//! memory before and after the call, whoever put there what it says.

use std::sync::Arc;

use seamlock_kvm::task::UserMemory;
use seamlock_kvm::{File, Result};
use seamlock_tdx_abi::PAGE_SIZE;
use seamlock_tdx_abi::kvm::*;
use zerocopy::{FromBytes, IntoBytes};

use super::client::{Client, SOURCES};
use super::finding::{Blame, Finding};
use super::replay::Page;
use super::watch::take_added;
use super::worker::Worker;
use super::world::{Vm, page_of};

/// A command that a measurement depends on.
enum Command {
    /// KVM_TDX_INIT_VM with its argument.
    Init(Vec<u8>),
    /// KVM_TDX_INIT_MEM_REGION: where its argument lies, what that says, and whether to measure.
    Load {
        at: u64,
        region: KvmTdxInitMemRegion,
        measured: bool,
    },
}

fn read<T: FromBytes + IntoBytes>(client: &Client, at: u64) -> Option<T> {
    let mut value = T::new_zeroed();
    client.memory.read(at, value.as_mut_bytes()).ok()?;
    Some(value)
}

impl Command {
    /// What lies at `arg`. None for every other command, and where nothing can be read.
    fn at(client: &Client, arg: u64) -> Option<Command> {
        let cmd: KvmTdxCmd = read(client, arg)?;
        match TdxCmdId(cmd.id) {
            TdxCmdId::KVM_TDX_INIT_VM => {
                let init: KvmTdxInitVm = read(client, cmd.data)?;
                let entries = init.cpuid.nent as usize * size_of::<KvmCpuidEntry2>();
                // KVM refuses more than fit a page or two.
                let len = size_of::<KvmTdxInitVm>() + entries.min(2 * PAGE_SIZE as usize);
                Some(Command::Init(client.memory.read_vec(cmd.data, len).ok()?))
            }
            TdxCmdId::KVM_TDX_INIT_MEM_REGION => Some(Command::Load {
                at: cmd.data,
                region: read(client, cmd.data)?,
                measured: cmd.flags & KVM_TDX_MEASURE_MEMORY_REGION != 0,
            }),
            _ => None,
        }
    }
}

impl Worker<'_> {
    /// KVM_MEMORY_ENCRYPT_OP with what lies at `arg`, noted in the VM's journal.
    pub fn encrypt_op(&mut self, vm: &Vm, file: &Arc<File>, arg: u64) -> Result<i64> {
        let command = Command::at(&self.client, arg);
        take_added();
        let result = self.timed(|client| client.ioctl(file, KVM_MEMORY_ENCRYPT_OP, arg));
        match command {
            Some(Command::Init(bytes)) if result.is_ok() => {
                vm.journal.with(|journal| journal.init = bytes);
            }
            Some(Command::Load {
                at,
                region,
                measured,
            }) => self.note_pages(vm, at, &region, measured, result.is_ok()),
            _ => {}
        }
        result
    }

    /// The pages that the region has fewer of than before the call, in order.
    fn note_pages(
        &self,
        vm: &Vm,
        at: u64,
        asked: &KvmTdxInitMemRegion,
        measured: bool,
        whole: bool,
    ) {
        let added = take_added();
        let left = read::<KvmTdxInitMemRegion>(&self.client, at).map_or(0, |now| now.nr_pages);
        let done = asked.nr_pages.saturating_sub(left);
        if whole && added.len() as u64 != done {
            let made = added.len();
            let what = format!("INIT_MEM_REGION gave {done} pages, TDH.MEM.PAGE.ADD {made}");
            let watch = &self.world.watch;
            let blame = match vm.kvm.discipline.outcomes.spurious_is_success {
                true => Blame::Discipline,
                false => Blame::Seamlock,
            };
            watch.findings.add(Finding {
                blame,
                ..watch.finding("pages added", vm.kvm.number, what)
            });
        }
        let first = self.client.source(0);
        let page = |(stamp, i): (u64, u64)| {
            let source = asked.source_addr.checked_sub(first)? / PAGE_SIZE + i;
            Some(Page {
                stamp,
                page: page_of(asked.gpa + i * PAGE_SIZE)?,
                source: Some(source).filter(|source| *source < SOURCES)?,
                measured,
            })
        };
        vm.journal.with(|journal| {
            for added in added.into_iter().zip(0..done) {
                match page(added) {
                    Some(page) => journal.pages.push(page),
                    // From memory that other calls use: nobody knows what it was.
                    None => journal.unknown = true,
                }
            }
        });
    }
}
