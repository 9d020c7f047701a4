//! TD_PARAMS from what user space asks for (`setup_tdparams`).

use seamlock_tdx_abi::kvm::{Errno, KvmCpuidEntry2, KvmTdxInitVm};
use seamlock_tdx_abi::td_params::{ConfigFlags, CpuidValue, EptpControls, TdParams};
use zerocopy::{FromZeros, IntoBytes};

use super::capabilities::{supported_attrs, supported_xfam};
use super::cpuid_config::{self, ADDRESS_SIZES};
use crate::error::{Result, fail};
use crate::vm::Kvm;

/// `setup_tdparams`.
///
/// # Errors
/// EBUSY when a vCPU exists; EINVAL for attributes, XFAM or CPUID that can't be had.
pub(super) fn setup(kvm: &Kvm, init: &KvmTdxInitVm, cpuid: &[KvmCpuidEntry2]) -> Result<TdParams> {
    const SITE: &str = "tdx.c:2443 setup_tdparams";
    if kvm.created_vcpus.load() != 0 {
        return fail(Errno::EBUSY, SITE, "the VM has vCPUs already");
    }
    if init.attributes & !supported_attrs(&kvm.host) != 0 {
        return fail(Errno::EINVAL, SITE, "an attribute is not supported");
    }
    if init.xfam & !supported_xfam(&kvm.host) != 0 {
        return fail(Errno::EINVAL, SITE, "an XFAM bit is not supported");
    }
    let info = kvm.host.sysinfo();
    let (max_vcpus, tsc_khz) = kvm.arch.with(|a| (a.max_vcpus, a.default_tsc_khz));
    let mut params = TdParams::new_zeroed();
    params.attributes = init.attributes | info.attributes_fixed1;
    params.xfam = init.xfam | info.xfam_fixed1;
    params.max_vcpus = max_vcpus as u16;
    params.config_flags = ConfigFlags::NO_RBP_MOD.bits();
    params.tsc_frequency = (tsc_khz / 25_000) as u16;
    set_eptp_controls(kvm, cpuid, &mut params)?;
    set_cpuid(kvm, cpuid, &mut params)?;
    params
        .mrconfigid
        .copy_from_slice(init.mrconfigid.as_bytes());
    params.mrowner.copy_from_slice(init.mrowner.as_bytes());
    params
        .mrownerconfig
        .copy_from_slice(init.mrownerconfig.as_bytes());
    Ok(params)
}

/// `kvm_find_cpuid_entry2`.
fn find(cpuid: &[KvmCpuidEntry2], function: u32, index: u32) -> Option<&KvmCpuidEntry2> {
    let significant = seamlock_tdx_abi::kvm::KVM_CPUID_FLAG_SIGNIFCANT_INDEX;
    cpuid
        .iter()
        .find(|e| e.function == function && (e.flags & significant == 0 || e.index == index))
}

/// The GPA width comes in CPUID 0x80000008 EAX 23:16: 48 or, with a 5-level EPT, 52.
fn set_eptp_controls(kvm: &Kvm, cpuid: &[KvmCpuidEntry2], params: &mut TdParams) -> Result<()> {
    const SITE: &str = "tdx.c:2352 setup_tdparams_eptp_controls";
    let Some(entry) = find(cpuid, ADDRESS_SIZES, 0) else {
        return fail(Errno::EINVAL, SITE, "CPUID 0x80000008 is missing");
    };
    match cpuid_config::guest_phys_addr_bits(entry.eax) {
        48 => params.eptp_controls = EptpControls::WB_PWL4.0,
        52 if kvm.host.module().platform().ept_5_level => {
            params.eptp_controls = EptpControls::WB_PWL5.0;
            params.config_flags |= ConfigFlags::GPAW.bits();
        }
        52 => return fail(Errno::EINVAL, SITE, "the platform lacks 5-level EPT"),
        _ => {
            return fail(
                Errno::EINVAL,
                SITE,
                "guest physical address bits are not 48 or 52",
            );
        }
    }
    Ok(())
}

/// Every entry of user space must have a place in the module's list.
fn set_cpuid(kvm: &Kvm, cpuid: &[KvmCpuidEntry2], params: &mut TdParams) -> Result<()> {
    const SITE: &str = "tdx.c:2385 setup_tdparams_cpuids";
    let mut copied = 0;
    for (i, config) in kvm.host.sysinfo().cpuid_config.iter().enumerate() {
        let wanted = cpuid_config::entry(config);
        let Some(entry) = find(cpuid, wanted.function, wanted.index) else {
            continue;
        };
        if cpuid_config::is_unsupported(entry) {
            return fail(Errno::EINVAL, SITE, "TSX and WAITPKG are not supported");
        }
        copied += 1;
        let Some(value) = params.cpuid_config.get_mut(i) else {
            continue;
        };
        let (mut eax, ebx, ecx, edx) = (entry.eax, entry.ebx, entry.ecx, entry.edx);
        if wanted.function == ADDRESS_SIZES {
            eax = cpuid_config::set_guest_phys_addr_bits(eax, 0);
        }
        *value = CpuidValue { eax, ebx, ecx, edx };
    }
    if copied != cpuid.len() {
        return fail(
            Errno::EINVAL,
            "tdx.c:2430",
            "a CPUID entry is not configurable",
        );
    }
    Ok(())
}
