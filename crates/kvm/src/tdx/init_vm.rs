//! KVM_TDX_INIT_VM: an HKID, a TDR, keys, a TDCS, TD_PARAMS.
//!
//! # Locking
//! The VM-state guard; `cpus_read_lock` from the check of packages to the last KEY.CONFIG;
//! `tdx_lock` around TDH.MNG.CREATE alone.

use seamlock_sync::ReadGuard;
use seamlock_tdx_abi::kvm::{
    Errno, KVM_MAX_CPUID_ENTRIES, KvmCpuidEntry2, KvmTdxCmd, KvmTdxInitVm,
};
use seamlock_tdx_abi::td_params::{TdParams, shared_bit};
use seamlock_tdx_abi::{FieldId, Hpa, Leaf, PAGE_SHIFT, PAGE_SIZE, TdxStatus};
use zerocopy::{FromZeros, IntoBytes};

use super::guard::VmStateGuard;
use super::release;
use super::seamcall::{
    On, tdh_mng_addcx, tdh_mng_create, tdh_mng_init, tdh_mng_key_config, tdh_mng_rd,
};
use super::state::{TdConfig, TdState};
use super::td_params;
use crate::error::{Error, Result, fail};
use crate::task::Task;
use crate::vm::Kvm;

const SITE: &str = "tdx.c:2801 tdx_td_init";

/// `tdx_td_init`.
pub(super) fn tdx_td_init(
    task: &Task,
    kvm: &Kvm,
    cmd: &mut KvmTdxCmd,
    _guard: &VmStateGuard,
) -> Result<()> {
    if kvm.tdx.state() != TdState::Uninitialized {
        return fail(Errno::EINVAL, SITE, "the TD is initialized already");
    }
    if cmd.flags != 0 {
        return fail(Errno::EINVAL, SITE, "flags are not zero");
    }
    let (init, cpuid) = copy_in(task, kvm, cmd.data)?;
    let params = td_params::setup(kvm, &init, &cpuid)?;
    cmd.hw_error = 0;
    create_td(task, kvm, &params, &mut cmd.hw_error)?;
    let config = TdConfig {
        attributes: params.attributes,
        xfam: params.xfam,
        tsc_offset: read_exec(task, kvm, FieldId::TDCS_TSC_OFFSET),
        tsc_multiplier: read_exec(task, kvm, FieldId::TDCS_TSC_MULTIPLIER),
        gfn_direct_bits: 1 << (shared_bit(params.config_flags) - PAGE_SHIFT),
    };
    kvm.tdx.set_config(config);
    kvm.tdx.set_state(TdState::Initialized);
    Ok(())
}

/// Copies the structure and its CPUID entries; the count is read twice. Where it is not compared, the
/// first one counts: beyond its entries the kernel has no memory.
fn copy_in(task: &Task, kvm: &Kvm, data: u64) -> Result<(KvmTdxInitVm, Vec<KvmCpuidEntry2>)> {
    let nent_at = data.wrapping_add(std::mem::offset_of!(KvmTdxInitVm, cpuid) as u64);
    let nent: u32 = task.get(nent_at, SITE)?;
    if nent > KVM_MAX_CPUID_ENTRIES {
        return fail(
            Errno::E2BIG,
            SITE,
            "more than KVM_MAX_CPUID_ENTRIES entries",
        );
    }
    let mut cpuid = vec![KvmCpuidEntry2::new_zeroed(); nent as usize];
    let init: KvmTdxInitVm = task.get(data, SITE)?;
    let entries = data.wrapping_add(size_of::<KvmTdxInitVm>() as u64);
    task.get_bytes(entries, cpuid.as_mut_bytes(), SITE)?;
    if init.reserved != [0; 12] {
        return fail(Errno::EINVAL, SITE, "reserved fields are not zero");
    }
    let changed = kvm.discipline.nent_read_twice && init.cpuid.nent != nent;
    if init.cpuid.padding != 0 || changed {
        return fail(
            Errno::EINVAL,
            SITE,
            "cpuid.padding is not zero, or cpuid.nent changed",
        );
    }
    Ok((init, cpuid))
}

/// `td_tdcs_exec_read64`: an error is only logged, and reads as zero.
fn read_exec(task: &Task, kvm: &Kvm, field: FieldId) -> u64 {
    let Some(tdr) = kvm.tdx.tdr() else { return 0 };
    tdh_mng_rd(kvm.on(task), tdr, field).unwrap_or(0)
}

/// `__tdx_td_init`, with its unwinding.
fn create_td(task: &Task, kvm: &Kvm, params: &TdParams, hw_error: &mut u64) -> Result<()> {
    const SITE: &str = "tdx.c:2493 __tdx_td_init";
    let Some(hkid) = kvm.host.alloc_hkid() else {
        return fail(Errno::ENOSPC, SITE, "no HKID is free");
    };
    kvm.tdx.set_hkid(Some(hkid));
    let Some(pages) = alloc_pages(kvm) else {
        release::free_hkid(kvm);
        return fail(Errno::ENOMEM, SITE, "memory is exhausted");
    };
    let Pages {
        tdr,
        tdcs,
        td_params,
    } = pages;
    if let Err(error) = assign_key(task, kvm, tdr) {
        return Err(match error {
            KeyError::NotCreated(error) => {
                free_all(kvm, &tdcs);
                kvm.host.free_page(kvm.owner(), tdr);
                kvm.tdx.set_tdr(None);
                kvm.host.free_page(kvm.owner(), td_params);
                release::free_hkid(kvm);
                error
            }
            KeyError::Created(error) => {
                kvm.host.free_page(kvm.owner(), td_params);
                teardown(task, kvm, &tdcs, 0);
                error
            }
        });
    }
    kvm.tdx
        .tdcs_pages
        .with(|pages| *pages = tdcs.iter().copied().map(Some).collect());
    let result = add_and_init(task, kvm, tdr, &tdcs, (params, td_params), hw_error);
    kvm.host.free_page(kvm.owner(), td_params);
    result.map_err(|(error, added)| {
        teardown(task, kvm, &tdcs, added);
        error
    })
}

struct Pages {
    tdr: Hpa,
    tdcs: Vec<Hpa>,
    /// A page for TD_PARAMS, which the kernel has in its heap.
    td_params: Hpa,
}

fn alloc_pages(kvm: &Kvm) -> Option<Pages> {
    let owner = kvm.owner();
    let count = kvm.host.sysinfo().tdcs_base_size / PAGE_SIZE + 2;
    let mut pages = Vec::new();
    for _ in 0..count {
        let Some(page) = kvm.host.alloc_page(owner) else {
            free_all(kvm, &pages);
            return None;
        };
        pages.push(page);
    }
    let td_params = pages.pop()?;
    let tdr = pages.remove(0);
    Some(Pages {
        tdr,
        tdcs: pages,
        td_params,
    })
}

fn free_all(kvm: &Kvm, pages: &[Hpa]) {
    for page in pages {
        kvm.host.free_page(kvm.owner(), *page);
    }
}

enum KeyError {
    /// The TD does not exist in the module.
    NotCreated(Error),
    /// It does, and has to be torn down.
    Created(Error),
}

/// TDH.MNG.CREATE, and TDH.MNG.KEY.CONFIG in every package.
fn assign_key(task: &Task, kvm: &Kvm, tdr: Hpa) -> Result<(), KeyError> {
    const SITE: &str = "tdx.c:2523 __tdx_td_init";
    let online = kvm.host.cpus_lock.read();
    let Some(packages) = first_cpu_of_packages(kvm, &online) else {
        let reason = "a package has no online CPU";
        return Err(KeyError::NotCreated(Error::new(Errno::EIO, SITE, reason)));
    };
    create(task, kvm, tdr).map_err(KeyError::NotCreated)?;
    for cpu in packages {
        let status = tdh_mng_key_config(
            On {
                host: &kvm.host,
                cpu,
            },
            tdr,
        );
        if kvm.tdx_bug_on(
            status,
            Leaf::MNG_KEY_CONFIG,
            "tdx.c:612 tdx_do_tdh_mng_key_config",
            [0; 3],
        ) {
            let reason = "TDH.MNG.KEY.CONFIG failed";
            return Err(KeyError::Created(Error::new(Errno::EIO, SITE, reason)));
        }
    }
    Ok(())
}

/// The first online CPU of each package; None when a package has none.
fn first_cpu_of_packages(
    kvm: &Kvm,
    online: &ReadGuard<std::collections::BTreeSet<u32>>,
) -> Option<Vec<u32>> {
    let packages = kvm.host.module().platform().packages;
    let cpus = kvm.host.cpus();
    let first = |package| {
        cpus.iter()
            .find(|c| c.package == package && online.contains(&c.id))
            .map(|c| c.id)
    };
    (0..packages).map(first).collect()
}

/// What TDH.MNG.CREATE leads to: no entropy is -EAGAIN, any other error a bug.
fn create(task: &Task, kvm: &Kvm, tdr: Hpa) -> Result<()> {
    const SITE: &str = "tdx.c:2559 __tdx_td_init";
    let status = {
        let _tdx = kvm.host.tdx_lock.lock();
        kvm.tdx.set_tdr(Some(tdr));
        let hkid = kvm.tdx.hkid().unwrap_or_default();
        tdh_mng_create(kvm.on(task), tdr, hkid)
    };
    mng_outcome(kvm, status, Leaf::MNG_CREATE, SITE, 0)
}

fn mng_outcome(
    kvm: &Kvm,
    status: TdxStatus,
    leaf: Leaf,
    site: &'static str,
    rcx: u64,
) -> Result<()> {
    if status == TdxStatus::SUCCESS {
        return Ok(());
    }
    if status == TdxStatus::RND_NO_ENTROPY {
        return fail(Errno::EAGAIN, site, "the module has no entropy");
    }
    if kvm.discipline.outcomes.mng_bugs {
        kvm.tdx_bug_on(status, leaf, site, [rcx, 0, 0]);
    } else {
        kvm.tdx_warn_on(status, leaf, site, [rcx, 0, 0]);
    }
    Err(Error::with(
        Errno::EIO,
        site,
        format!("{leaf} failed with {status}"),
    ))
}

/// TDH.MNG.ADDCX for each page, and TDH.MNG.INIT. An error says how many pages were added.
fn add_and_init(
    task: &Task,
    kvm: &Kvm,
    tdr: Hpa,
    tdcs: &[Hpa],
    (params, params_page): (&TdParams, Hpa),
    hw_error: &mut u64,
) -> Result<(), (Error, usize)> {
    for (i, page) in tdcs.iter().enumerate() {
        const SITE: &str = "tdx.c:2600 __tdx_td_init";
        let status = tdh_mng_addcx(kvm.on(task), tdr, *page);
        mng_outcome(kvm, status, Leaf::MNG_ADDCX, SITE, 0).map_err(|error| (error, i))?;
    }
    // The page was just allocated, so it is in memory.
    let _ = kvm.host.memory().write(params_page, params.as_bytes());
    let (status, rcx) = tdh_mng_init(kvm.on(task), tdr, params_page);
    init_outcome(kvm, status, rcx, hw_error).map_err(|error| (error, tdcs.len()))
}

/// What TDH.MNG.INIT leads to: user space gave the operands, so a bad one is its error and no bug.
fn init_outcome(kvm: &Kvm, status: TdxStatus, rcx: u64, hw_error: &mut u64) -> Result<()> {
    const SITE: &str = "tdx.c:2606 __tdx_td_init";
    if status.is(TdxStatus::OPERAND_INVALID) {
        *hw_error = status.0;
        let reason = format!("TDH.MNG.INIT: {status}, RCX {rcx:#x}");
        return Err(Error::with(Errno::EINVAL, SITE, reason));
    }
    match mng_outcome(kvm, status, Leaf::MNG_INIT, "tdx.c:2617 __tdx_td_init", rcx) {
        Err(error) if error.is(Errno::EAGAIN) => {
            // Elsewhere -EAGAIN, but TDH.MNG.INIT draws no random number.
            if kvm.discipline.outcomes.mng_bugs {
                kvm.tdx_bug_on(status, Leaf::MNG_INIT, SITE, [rcx, 0, 0]);
            } else {
                kvm.tdx_warn_on(status, Leaf::MNG_INIT, SITE, [rcx, 0, 0]);
            }
            fail(Errno::EIO, SITE, "TDH.MNG.INIT has no entropy")
        }
        other => other,
    }
}

/// The full teardown of a TD that was created in part; pages from `added` on were not added.
fn teardown(task: &Task, kvm: &Kvm, tdcs: &[Hpa], added: usize) {
    free_all(kvm, &tdcs[added..]);
    kvm.tdx.tdcs_pages.with(|pages| {
        for page in pages.iter_mut().skip(added) {
            *page = None;
        }
    });
    release::tdx_mmu_release_hkid(task, kvm);
    release::tdx_reclaim_td_control_pages(task, kvm);
}
